"""Shows where the time goes: ``python -m benchmarks.profile``.

Runs workloads as the benchmarks do, and samples the client and the server with two tools that must
be installed. ``perf`` (on Debian: ``linux-perf``) shows which compiled code runs:

* *system*: the kernel, for all system calls
* *cipher*: OpenSSL and the cryptography package
* *memory*: the C library, which copies and clears
* *uvloop*: the event loop, if it is compiled
* *Python*: the interpreter, which is the rest

``py-spy`` shows which Python code the interpreter runs, as shares of *Python*:

* *core*: the protocol, its messages, the journal, the wrapping of ciphers
* *session*: links, channels
* *loop*: AnyIO, the event loop, the standard library
* *program*: the benchmark's own

*busy* is the share of a processor. Both tools may need permission to inspect other processes.

    python -m benchmarks.profile -w sessions upload-32 --peers anyssh/uvloop anyssh/trio
    python -m benchmarks.profile -w ping-pong --lines 20         # and the costliest lines
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .catalogue import Workload, workloads
from .harness import Program, make_keys
from .implementations import Implementation, implementations
from .peers.workloads import FORWARDS

_PATIENCE: Final = 60.0
_MARGIN: Final = 1.0
"""Seconds of work before and behind those that are sampled."""
_RATE: Final = 250
"""Samples a second."""
_MIB: Final = 1024 * 1024
_LIBRARIES: Final = {
    "system": ("[kernel", "[vdso]"),
    "cipher": ("libcrypto", "_rust"),
    "memory": ("libc.", "libc-"),
    "uvloop": ("loop.",),
}
"""By the beginnings of their file names; what fits none is the interpreter's."""
_PYTHON: Final = "Python"
_PARTS: Final = {
    "core": ("anyssh/algorithms/", "anyssh/protocol/", "anyssh/messages/", "anyssh/wire.py"),
    "session": ("anyssh/",),
    "program": ("benchmarks/",),
}
"""By the beginnings of file names; the first that fits counts, and the loop if none does."""
_LOOP: Final = "loop"


@dataclass(frozen=True, slots=True)
class Profile:
    """What one process did.

    :ivar busy: the share of the time in which it did anything
    :ivar libraries: samples of compiled code, by :data:`_LIBRARIES`
    :ivar parts: samples of Python code, by :data:`_PARTS`
    :ivar lines: the same by the lines that were at work
    """

    busy: float
    libraries: Counter[str]
    parts: Counter[str]
    lines: Counter[str]


def _first(name: str, beginnings: Mapping[str, tuple[str, ...]], otherwise: str) -> str:
    return next((part for part, those in beginnings.items() if name.startswith(those)), otherwise)


class _Sampler:
    """Samples one process, from now on.

    :param folder: for what the tools write
    """

    def __init__(self, program: Program, folder: Path, seconds: int) -> None:
        (process,) = program.processes()
        self._seconds = seconds
        self._perf, self._stacks = folder / f"{process}.perf", folder / f"{process}.stacks"
        commands = (
            [
                *("perf", "record", "--event", "cpu-clock", "--freq", str(_RATE), "--pid"),
                *(str(process), "--output", str(self._perf), "--", "sleep", str(seconds)),
            ],
            [
                *("py-spy", "record", "--pid", str(process), "--duration", str(seconds), "--gil"),
                *("--rate", str(_RATE), "--nonblocking", "--format", "raw"),
                *("--output", str(self._stacks)),
            ],
        )
        self._tools = [
            subprocess.Popen(each, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for each in commands
        ]

    def result(self) -> Profile:
        """Wait for the end, and return what was seen."""
        for tool in self._tools:
            tool.wait()
        libraries = self._read_perf()
        lines = self._read_stacks()
        parts: Counter[str] = Counter()
        for line, number in lines.items():
            parts[_first(line.rpartition("(")[2], _PARTS, _LOOP)] += number
        return Profile(libraries.total() / (self._seconds * _RATE), libraries, parts, lines)

    def _read_perf(self) -> Counter[str]:
        """Read lines with a number of samples and a file."""
        command = ["perf", "report", "--input", str(self._perf), "--no-children", "--stdio"]
        command += ["--sort", "dso", "--fields", "sample,dso"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        libraries: Counter[str] = Counter()
        for line in printed.splitlines():
            number, _, name = line.strip().partition(" ")
            if number.isdigit():
                libraries[_first(name.strip(), _LIBRARIES, _PYTHON)] += int(number)
        return libraries

    def _read_stacks(self) -> Counter[str]:
        """Read frames, from the outermost to the innermost, and a number of samples."""
        lines: Counter[str] = Counter()
        for stack in self._stacks.read_text().splitlines():
            frames, _, number = stack.rpartition(" ")
            lines[frames.rpartition(";")[2]] += int(number)
        return lines


def profile(workload: Workload, each: Implementation, seconds: int) -> dict[str, Profile]:
    """Run a workload and return what the two processes did meanwhile.

    :raises PeerFailed: a program did not do what it should
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anyssh-profile-")))
        make_keys(folder)
        common = ["--loop", each.loop, "--keys", str(folder)]
        server = stack.enter_context(each.commands.start("server", common))
        port = str(server.read_line(_PATIENCE)["port"])
        # Faster than anything goes; what is left of it is not waited for.
        total = int((seconds + 2 * _MARGIN) * 2 * each.mib * _MIB)
        options = [
            *("--port", port, "--workload", workload.told, "--total", str(total)),
            *("--write-size", str(workload.write_kib * 1024), "--width", str(workload.width)),
            *("--seconds", str(seconds + 2 * _MARGIN)),
        ]
        client = stack.enter_context(each.commands.start("client", [*common, *options]))
        client.expect("start", _PATIENCE)
        samplers = {
            "client": _Sampler(client, folder, seconds),
            "server": _Sampler(server, folder, seconds),
        }
        return {side: sampler.result() for side, sampler in samplers.items()}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    known = [each.name for each in workloads() if each.told not in FORWARDS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-w", "--workloads", nargs="+", choices=known, required=True)
    parser.add_argument("--peers", nargs="+", default=["anyssh/uvloop"], metavar="NAME/LOOP")
    parser.add_argument("--seconds", type=int, default=4, help="to be sampled")
    parser.add_argument("--lines", type=int, default=0, metavar="N", help="show the costliest")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample and print; return the exit status."""
    options = _parse(arguments)
    for tool in ("perf", "py-spy"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not installed")
    heads = [*_LIBRARIES, _PYTHON, *_PARTS, _LOOP]
    print(f"| workload | | busy | {' | '.join(heads)} |\n|---|---|{'---:|' * (len(heads) + 1)}")
    for workload in (each for each in workloads() if each.name in options.workloads):
        for each in (each for each in implementations() if each.name in options.peers):
            for side, seen in profile(workload, each, options.seconds).items():
                shares = [
                    f"{counted[name] / max(counted.total(), 1):.0%}"
                    for counted, names in (
                        (seen.libraries, [*_LIBRARIES, _PYTHON]),
                        (seen.parts, [*_PARTS, _LOOP]),
                    )
                    for name in names
                ]
                row = [workload.name, f"{each.name}, {side}", f"{seen.busy:.0%}", *shares]
                print(f"| {' | '.join(row)} |", flush=True)
                for line, number in seen.lines.most_common(options.lines):
                    print(f"    {number / seen.lines.total():6.1%}  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
