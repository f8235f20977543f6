"""The driver: ``python -m benchmarks`` measures everything that can run here and prints tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from .harness import Measurement, PeerFailed, make_keys, measure, measure_forward
from .implementations import BULK, Implementation, Kind, implementations
from .peers.common import ENCRYPTION, HOST_KEY_ALGORITHM, KEY_EXCHANGE
from .peers.workloads import FORWARDS
from .report import (
    MIB,
    Row,
    add_ratios,
    figure,
    summarise,
    summarise_held,
    summarise_memory,
    summarise_slow_reader,
    table,
    unit,
)

_WORKLOADS: Final = (
    *BULK,
    "ping-pong",
    "set-up",
    "memory-upload",
    "memory-download",
    "slow-reader",
    *FORWARDS,
)
_MEMORY_WORKLOADS: Final = frozenset(
    ("memory-upload", "memory-download", "slow-reader", "forward-memory")
)
_FORWARD_MIB: Final = 128
_PATIENCE: Final = 60.0
_PATIENCE_PER_GIB: Final = 60.0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="implementations, with or without their loop: anyssh asyncssh/uvloop",
    )
    parser.add_argument("--workloads", nargs="+", choices=_WORKLOADS, default=list(_WORKLOADS))
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each (default 5)")
    parser.add_argument("--mib", type=int, help="to move in a bulk run (default: about a second)")
    parser.add_argument("--memory-mib", type=int, default=4096, help="to move, watching memory")
    parser.add_argument("--slow-reader-mib", type=int, default=64, help="offered to a slow reader")
    parser.add_argument("--write-kib", type=int, default=256, help="one write (default 256)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of ping-pong and set-up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--list", action="store_true", help="tell what can run here, and end")
    options = parser.parse_args(arguments)
    for name in ("runs", "mib", "memory_mib", "slow_reader_mib", "write_kib", "seconds"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    return options


def _choose(names: list[str] | None) -> tuple[list[Implementation], list[str]]:
    """Return what can run, and why the others cannot."""
    known = implementations()
    for name in names or ():
        if not any(name in (each.name, each.family) for each in known):
            raise SystemExit(
                f"unknown implementation {name!r}; known are {', '.join(i.name for i in known)}"
            )
    chosen = [each for each in known if not names or {each.name, each.family} & set(names)]
    missing = {each.name: each.missing() for each in chosen}
    reasons = [f"{name}: {reason}" for name, reason in missing.items() if reason]
    return [each for each in chosen if not missing[each.name]], reasons


class Driver:
    """Runs workloads and keeps their rows.

    :param options: of the command line
    :param keys: directory with the keys of both sides
    """

    def __init__(self, options: argparse.Namespace, keys: Path) -> None:
        self._options = options
        self._keys = keys
        self.rows: list[Row] = []
        self.failures: list[str] = []

    def run(self, workload: str, candidates: Iterable[Implementation]) -> None:
        """Measure one workload with everything that can do it, and print its table."""
        able = [each for each in candidates if workload in each.workloads]
        if workload in _MEMORY_WORKLOADS and self._options.only is None:
            able = [each for each in able if each.kind is Kind.SUBJECT]
        if not able:
            return
        _progress(f"{workload}:")
        rows = (
            self._run_once(workload, able)
            if workload in _MEMORY_WORKLOADS
            else self._alternate(workload, able)
        )
        self.rows += rows
        if rows:
            print(f"\n### {workload}\n\n{table(workload, rows)}\n", flush=True)

    def _alternate(self, workload: str, able: list[Implementation]) -> list[Row]:
        """Measure in rounds, each implementation once in each; the first round does not count."""
        runs: dict[str, list[Measurement]] = {each.name: [] for each in able}
        failed: set[str] = set()
        for number in range(self._options.runs + 1):
            for each in able:
                if each.name in failed:
                    continue
                run = self._measure(each, workload)
                if run is None:
                    failed.add(each.name)
                    continue
                label = f"run {number}" if number else "warm-up"
                _progress(f"  {label} {each.name}: {figure(run):,.0f} {unit(workload)}")
                if number:
                    runs[each.name].append(run)
        rows = [
            summarise(each, workload, runs[each.name]) for each in able if each.name not in failed
        ]
        add_ratios(rows)
        return rows

    def _run_once(self, workload: str, able: list[Implementation]) -> list[Row]:
        rows = []
        for each in able:
            run = self._measure(each, workload)
            if run is None:
                continue
            _progress(f"  {each.name}: {figure(run):,.0f} {unit(workload)}")
            if workload == "slow-reader":
                rows.append(summarise_slow_reader(each, run))
            elif workload == "forward-memory":
                rows.append(summarise_held(each, run))
            else:
                rows.append(summarise_memory(each, workload, run))
        return rows

    def _measure(self, each: Implementation, workload: str) -> Measurement | None:
        total = self._mebibytes(each, workload) * MIB
        client_options = {
            "--workload": workload.removeprefix("memory-"),
            "--total": total,
            "--write-size": self._options.write_kib * 1024,
            "--seconds": self._options.seconds,
        }
        common = ["--loop", each.loop, "--keys", str(self._keys)]
        client = [str(word) for option in client_options.items() for word in option]
        patience = _PATIENCE + self._options.seconds + _PATIENCE_PER_GIB * total / 2**30
        try:
            if workload in FORWARDS:
                return measure_forward(each.commands, common, client, seconds=patience)
            return measure(
                each.commands,
                common,
                client,
                seconds=patience,
                sample_memory=workload in _MEMORY_WORKLOADS,
                stalls=workload == "slow-reader",
            )
        except PeerFailed as error:
            self.failures.append(f"{each.name}, {workload}: {error}")
            _progress(f"  FAILED {self.failures[-1]}")
            return None

    def _mebibytes(self, each: Implementation, workload: str) -> int:
        chosen: int = {
            "slow-reader": self._options.slow_reader_mib,
            "memory-upload": self._options.memory_mib,
            "memory-download": self._options.memory_mib,
            "forward": self._options.mib or _FORWARD_MIB,
        }.get(workload, self._options.mib or each.mib)
        return chosen


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _conditions(able: list[Implementation], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "algorithms": [KEY_EXCHANGE, HOST_KEY_ALGORITHM, ENCRYPTION],
        "versions": {each.family: each.version() for each in able},
        "runs": options.runs,
        "write_bytes": options.write_kib * 1024,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON file; return the exit status."""
    options = _parse(arguments)
    if sys.platform != "linux":
        raise SystemExit("The benchmarks read /proc and per-process clocks; they need Linux.")
    able, reasons = _choose(options.only)
    for reason in reasons:
        _progress(f"left out: {reason}")
    if options.list:
        print("\n".join(f"{each.name} {each.version()}" for each in able))
        return 0
    conditions = _conditions(able, options)
    print("\n".join(f"{name}: {value}" for name, value in conditions.items()))
    with tempfile.TemporaryDirectory(prefix="anyssh-benchmarks-") as directory:
        keys = Path(directory)
        make_keys(keys)
        driver = Driver(options, keys)
        for workload in options.workloads:
            driver.run(workload, able)
    if options.json is not None:
        report = {
            "conditions": conditions,
            "left_out": reasons,
            "failures": driver.failures,
            "results": driver.rows,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    for failure in driver.failures:
        print(f"failed: {failure.splitlines()[0]}")
    return 1 if driver.failures else 0


if __name__ == "__main__":
    sys.exit(main())
