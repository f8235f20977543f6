"""Counts the instructions of one repetition: ``python -m benchmarks.instructions``.

On a machine without hardware counters, or with other users, the clock cannot reveal a gain of two
percent. The number of instructions that a program executes is the same in every run to about one
part in a thousand. This tool counts them with valgrind, in a process that is the server, the client
or both: it runs a workload with few and with many repetitions, and divides the difference by that
of the repetitions, so that start-up, imports, warm-up and shutdown cancel out.

    python -m benchmarks.instructions                                  # all, anyssh on uvloop, both
    python -m benchmarks.instructions -w ping-pong --peers anyssh/trio asyncssh/uvloop
    python -m benchmarks.instructions -w set-up --side server --functions 20
    python -m benchmarks.instructions --json before.json ... --compare before.json

The counts cover user space only, not the kernel's work in system calls; and valgrind's processor
has AES and carry-less multiplication, but no SHA instructions and no AVX-512. So compare counts
with counts, never with times.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .harness import PeerFailed, Program, make_keys


@dataclass(frozen=True, slots=True)
class _Work:
    """What is repeated, and how often in the short and in the long run.

    :ivar action: what the client's program is told to do
    :ivar few: repetitions of the short run
    :ivar many: of the long one
    :ivar each: how much of what is counted one repetition is
    :ivar width: how many repeat at the same time
    """

    action: str
    few: int
    many: int
    each: int = 1
    width: int = 1


_WORKS: Final = {
    "set-up": _Work("set-up", 5, 25),
    "ping-pong": _Work("ping-pong", 100, 600),
    "messages": _Work("messages", 5, 25, each=100),
    "upload": _Work("upload", 16, 80),
    "download": _Work("download", 16, 80),
    "open-close": _Work("open-close", 20, 120),
    "open-close-50": _Work("open-close", 1, 5, each=50, width=50),
    "forward-connections": _Work("forward-connections", 20, 100),
    "import": _Work("import", 0, 1),
}
"""By their names; of bulk transfers, a repetition is a write of 256 KiB."""
_FORWARDS: Final = frozenset(("forward-connections",))
_HERE: Final = Path(__file__).parent.parent
_PATIENCE: Final = 600.0
_PEERS: Final = {
    "anyssh": ("anyssh_peer",),
    "anyssh-reconnect": ("anyssh_peer", "--reconnect"),
    "asyncssh": ("asyncssh_peer",),
}
_ENVIRONMENT: Final = {
    "PYTHONHASHSEED": "0",  # the order of sets, and how tables collide
    "UV_USE_IO_URING": "0",  # valgrind does not see into it
}

Functions = Counter[str]


@dataclass(frozen=True, slots=True)
class Count:
    """Instructions of one repetition.

    :ivar runs: what each pair of runs gave
    :ivar functions: those of each function of the compiled code, from the last pair
    """

    runs: Sequence[float]
    functions: Functions

    @property
    def mean(self) -> float:
        """The mean of the runs."""
        return sum(self.runs) / len(self.runs)

    @property
    def spread(self) -> float:
        """How far the runs lie apart, as a share of their mean."""
        return (max(self.runs) - min(self.runs)) / self.mean


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-w", "--workloads", nargs="+", choices=[*_WORKS], default=[*_WORKS], metavar="NAME",
        help=f"of {', '.join(_WORKS)}",
    )  # fmt: skip
    parser.add_argument(
        "--peers", nargs="+", default=["anyssh/uvloop"], metavar="NAME/LOOP",
        help=f"of {', '.join(_PEERS)}, on asyncio, uvloop or trio (default anyssh/uvloop)",
    )  # fmt: skip
    parser.add_argument("--side", choices=["both", "client", "server"], default="both")
    parser.add_argument("--runs", type=int, default=1, help="pairs of runs, to see the spread")
    parser.add_argument("--functions", type=int, default=0, metavar="N", help="show the costliest")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="with counts written before")
    options = parser.parse_args(arguments)
    for peer in options.peers:
        name, _, loop = peer.partition("/")
        if name not in _PEERS or loop not in ("asyncio", "uvloop", "trio"):
            parser.error(f"expected a peer such as anyssh/uvloop, got {peer!r}")
    if options.runs < 1:
        parser.error("--runs must be positive")
    return options


def _valgrind(out: Path) -> list[str]:
    # With the same layout of addresses in each run, tables keyed by them collide alike.
    fixed_addresses = ["setarch", "-R"] if shutil.which("setarch") else []
    return [
        *fixed_addresses,
        *("valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={out}"),
    ]


@dataclass(frozen=True, slots=True)
class _Run:
    """Starts the programs of one run, the measured one under valgrind."""

    peer: str
    side: str
    work: _Work
    count: int
    keys: Path
    out: Path

    def take(self) -> Functions:
        """Return the instructions of the measured process, by function."""
        with ExitStack() as programs:
            if self.work.action == "import":
                self._import()
            elif self.work.action in _FORWARDS:
                self._forward(programs)
            else:
                server = None if self.side == "both" else self._start(programs, "server")
                client = self._start(programs, "client", self._port(server))
                client.expect("start", _PATIENCE)
                client.expect("done", _PATIENCE)
        return _read(self.out)

    def _import(self) -> None:
        """Start the interpreter, with or without the import."""
        module = self.peer.partition("-")[0].partition("/")[0]
        code = f"import {module}" if self.count else "pass"
        # Once without looking, so that what is compiled is there.
        for prefix in ([], _valgrind(self.out)):
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
            command = [*prefix, sys.executable, "-c", code]
            subprocess.run(
                command, cwd=_HERE, env=environment, check=True, stderr=subprocess.DEVNULL
            )

    def _forward(self, programs: ExitStack) -> None:
        options = ["--workload", self.work.action, "--count", str(self.count)]
        command = [sys.executable, "-m", "benchmarks.traffic", *options]
        traffic = programs.enter_context(Program(command, _HERE, False))
        target = ["--target", str(traffic.read_line(_PATIENCE)["port"])]
        server = None if self.side == "both" else self._start(programs, "server")
        client = self._start(programs, "client", [*self._port(server), *target])
        traffic.tell(str(client.read_line(_PATIENCE)["port"]))
        traffic.expect("start", _PATIENCE)
        traffic.expect("done", _PATIENCE)

    def _start(self, programs: ExitStack, role: str, options: Sequence[str] = ()) -> Program:
        name, _, loop = self.peer.partition("/")
        module, *more = _PEERS[name]
        command = [sys.executable, "-m", f"benchmarks.peers.{module}", *more]
        if role == self.side:
            command = [*_valgrind(self.out), *command]
        elif self.side == "both":
            command, role = [*_valgrind(self.out), *command], "both"
        work = ["--workload", self.work.action, "--count", str(self.count)]
        work += ["--width", str(self.work.width)]
        command += [role, "--loop", loop, "--keys", str(self.keys), *work, *options]
        # Valgrind writes its file after the program has ended, which takes a while.
        return programs.enter_context(Program(command, _HERE, False, stop_seconds=_PATIENCE))

    @staticmethod
    def _port(server: Program | None) -> list[str]:
        return [] if server is None else ["--port", str(server.read_line(_PATIENCE)["port"])]


def _read(out: Path) -> Functions:
    """Return what cachegrind wrote: lines ``fn=NAME``, each followed by lines ``LINE COUNT``."""
    functions: Functions = Counter()
    name = ""
    with out.open() as lines:
        for line in lines:
            if line.startswith("fn="):
                name = line[3:].rstrip()
            elif line[0].isdigit():
                functions[name] += int(line.split()[1])
    out.unlink()
    return functions


@contextmanager
def _environment() -> Iterator[None]:
    before = os.environ.copy()
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def count(peer: str, side: str, workload: str, runs: int = 1) -> Count:
    """Count the instructions of one repetition.

    :param peer: name and loop, as ``anyssh/uvloop``
    :param side: ``client``, ``server``, or ``both`` in one process
    :param workload: what to repeat
    :param runs: pairs of runs
    :raises PeerFailed: a program did not do what it should
    """
    work = _WORKS[workload]
    difference_in_work = (work.many - work.few) * work.each
    figures = []
    difference: Functions = Counter()
    with tempfile.TemporaryDirectory(prefix="anyssh-instructions-") as name, _environment():
        make_keys(Path(name))
        for _ in range(runs):
            taken = [
                _Run(peer, side, work, number, Path(name), Path(name) / "out").take()
                for number in (work.few, work.many)
            ]
            taken[1].subtract(taken[0])
            difference = Counter({key: n // difference_in_work for key, n in taken[1].items()})
            figures.append(taken[1].total() / difference_in_work)
    return Count(figures, difference)


def _describe(count: Count, before: float | None) -> str:
    spread = f" ± {count.spread / 2:.2%}" if len(count.runs) > 1 else ""
    change = f"  {count.mean / before - 1:+.2%}" if before else ""
    return f"{count.mean:14,.0f}{spread}{change}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print; return the exit status."""
    options = _parse(arguments)
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed; on Debian: apt-get install valgrind")
    before: dict[str, float] = json.loads(options.compare.read_text()) if options.compare else {}
    results: dict[str, Any] = {}
    for workload in options.workloads:
        for peer in options.peers:
            name = f"{workload} {peer} {options.side}"
            try:
                counted = count(peer, options.side, workload, options.runs)
            except PeerFailed as error:
                print(f"{name}: failed: {error}", file=sys.stderr)
                return 1
            results[name] = counted.mean
            print(f"{name:42}{_describe(counted, before.get(name))}", flush=True)
            for function, number in counted.functions.most_common(options.functions):
                print(f"    {number:12,}  {number / counted.mean:6.1%}  {function}")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
