"""The driver: ``python -m benchmarks`` measures everything that can run here, and prints tables."""

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

from . import categories
from .catalogue import GROUPS, Figure, Workload, workloads
from .categories import Categories
from .harness import Measurement, PeerFailed, make_keys, measure, measure_forward, measure_import
from .implementations import Implementation, Kind, implementations
from .peers.common import ENCRYPTION, HOST_KEY_ALGORITHM, KEY_EXCHANGE
from .peers.workloads import FORWARDS
from .report import MIB, Row, add_ratios, number, summarise, summary, table, values

_RESULTS: Final = Path(__file__).parent / "results"
_PATIENCE: Final = 90.0
_PATIENCE_PER_GIB: Final = 60.0
_WARM_UP_SHARE: Final = 8
_MARK: Final = "<!-- benchmarks: {} -->"
_HEADS: Final = {
    "workloads": "All workloads, side by side",
    categories.NAME: "The categories of the Dev Tunnels SSH benchmark suite",
}
_SCENARIO_SHARE: Final = 6
"""A scenario of the categories takes this part of a workload's time; there are forty."""
_WARM_UP_SCENARIO: Final = 0.01
_QUICK_LOOPS: Final = ("uvloop", "none")
"""Where a quick run compares anyssh with itself, and looks at limits."""
_QUICK_WIDTH: Final = 200
_SPARE: Final = frozenset(("memory-upload", "memory-download", "slow-reader", "forward-memory"))
"""Left out of a quick run."""


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = [*(workload.name for workload in workloads()), categories.NAME]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="implementations, with or without their loop: anyssh asyncssh/uvloop",
    )
    parser.add_argument(
        "--workloads", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}"
    )
    parser.add_argument("--quick", action="store_true", help="one short run of each: no figures")
    parser.add_argument("--runs", type=int, help="counted runs of each (default 3)")
    parser.add_argument("--seconds", type=float, help="of what is repeated (default 0.6)")
    parser.add_argument("--size", type=float, help="of bulk transfers, 1 for a second (0.6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: results/ here")
    parser.add_argument("--tables", type=Path, metavar="FILE", help="default: results/ here")
    parser.add_argument(
        "--document", type=Path, metavar="FILE", help="put the tables between its marks, too"
    )
    parser.add_argument("--list", action="store_true", help="tell what can run here, and end")
    options = parser.parse_args(arguments)
    for name, usual, quick in (("runs", 3, 1), ("seconds", 0.6, 0.15), ("size", 0.6, 0.12)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
        if getattr(options, name) <= 0:
            parser.error(f"--{name} must be positive")
    if options.document is not None and not options.document.is_file():
        parser.error(f"there is no {options.document} to put the tables into")
    if options.workloads is None:
        options.workloads = [n for n in names if not (options.quick and n in _SPARE)]
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

    def run(self, group: Iterable[Workload], candidates: Sequence[Implementation]) -> None:
        """Measure the workloads of a group with everything that can do them; print their tables."""
        pairs = [
            (workload, each)
            for each in candidates
            for workload in group
            if self._takes_part(each, workload)
        ]
        if not pairs:
            return
        rows = self._alternate(pairs)
        add_ratios(rows)
        self.rows += rows
        for workload in group:
            alike = [row for row in rows if row.workload is workload]
            if alike:
                print(f"\n### {workload.text}\n\n{table(workload, alike)}\n", flush=True)

    def _takes_part(self, each: Implementation, workload: Workload) -> bool:
        if workload.told not in each.actions:
            return False
        if workload.figure is Figure.TIME and each.importing is None:
            return False
        if workload.through_gateway and "gateway" not in each.actions:
            return False
        if self._options.only is not None:
            return True
        if each.kind is Kind.LIMIT and each.family != workload.limit:
            return False
        if self._options.quick and each.loop not in _QUICK_LOOPS:
            beside_others = each.family == "anyssh" and not workload.ours
            if each.kind is not Kind.PEER and not beside_others:
                return False
        if each.family == "anyssh-reconnect":
            return workload.with_reconnect
        return not workload.ours or each.kind is not Kind.PEER

    def _alternate(self, pairs: list[tuple[Workload, Implementation]]) -> list[Row]:
        """Measure in rounds, everything once in each; a first, short round does not count."""
        runs: dict[tuple[Workload, Implementation], list[Measurement]] = {p: [] for p in pairs}
        for number_of_round in range(self._options.runs + 1):
            for pair in list(runs):
                workload, each = pair
                if not number_of_round and (workload.once or self._options.quick):
                    continue
                if workload.once and runs[pair]:
                    continue
                share = 1.0 if number_of_round else 1 / _WARM_UP_SHARE
                run = self._measure(each, workload, share)
                if run is None:
                    del runs[pair]
                    continue
                label = f"run {number_of_round}" if number_of_round else "warm-up"
                _progress(f"  {label} {workload.name} {each.name}: {_glimpse(workload, run)}")
                if number_of_round:
                    runs[pair].append(run)
        return [summarise(workload, each, taken) for (workload, each), taken in runs.items()]

    def _measure(
        self, each: Implementation, workload: Workload, share: float
    ) -> Measurement | None:
        try:
            return self._measure_or_fail(each, workload, share)
        except PeerFailed as error:
            self.failures.append(f"{each.name}, {workload.name}: {error}")
            _progress(f"  FAILED {self.failures[-1]}")
            return None

    def _measure_or_fail(
        self, each: Implementation, workload: Workload, share: float
    ) -> Measurement:
        if workload.figure is Figure.TIME:
            assert each.importing is not None
            return measure_import(each.importing, seconds=_PATIENCE)
        size = 1.0 if workload.once else self._options.size * share
        total = int((workload.mib or each.mib) * size * MIB)
        client_options = {
            "--workload": workload.told,
            "--total": total,
            "--write-size": workload.write_kib * 1024,
            "--seconds": self._options.seconds * share,
        }
        if workload.told not in FORWARDS:
            many = self._options.quick and workload.width > _QUICK_WIDTH
            client_options["--width"] = _QUICK_WIDTH if many else workload.width
        common = ["--loop", each.loop, "--keys", str(self._keys)]
        client = [str(word) for option in client_options.items() for word in option]
        patience = _PATIENCE + self._options.seconds + _PATIENCE_PER_GIB * total / 2**30
        if workload.told in FORWARDS:
            return measure_forward(each.commands, common, client, seconds=patience)
        return measure(
            each.commands,
            common,
            client,
            seconds=patience,
            sample_memory=workload.once,
            stalls=workload.name == "slow-reader",
            through_gateway=workload.through_gateway,
        )


def _glimpse(workload: Workload, run: Measurement) -> str:
    fields = values(run)
    name = workload.figure.field
    if name not in fields:
        return f"{number(fields['rate'])} a second"
    return f"{number(fields[name])} {workload.figure.unit}"


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
    }


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _put_into(document: Path, tables: dict[str, str], conditions: dict[str, Any]) -> None:
    """Replace what stands between the marks of a document; without marks, add it at the end."""
    text = document.read_text()
    for name, made in tables.items():
        if not made:
            continue
        begin, end = _MARK.format(name), _MARK.format(f"end of {name}")
        if begin not in text:
            text += f"\n## {_HEADS[name]}\n\n{begin}\n{end}\n"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n\n{_sentence(conditions)}\n\n{made}\n\n{end}{after}"
    document.write_text(text)


def _sentence(conditions: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{family} {version}"
        for family, version in conditions["versions"].items()
        if family not in ("tcp", "framing", "anyssh-reconnect")
    )
    return (
        f"{conditions['processor']}, {conditions['cores']} cores, "
        f"Python {conditions['python']}; {versions}. Medians of {conditions['runs']} runs; what "
        "the columns mean is told in `benchmarks/README.md`."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write them and the JSON file; return the exit status."""
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
        make_keys(Path(directory))
        driver = Driver(options, Path(directory))
        for group in GROUPS:
            driver.run([w for w in group if w.name in options.workloads], able)
    suite = Categories()
    if categories.NAME in options.workloads:
        suite.measure(
            able,
            runs=options.runs,
            seconds=options.seconds / _SCENARIO_SHARE,
            warm_up_seconds=0.0 if options.quick else _WARM_UP_SCENARIO,
            progress=_progress,
        )
    failures = [*driver.failures, *suite.failures]
    tables = {"workloads": summary(driver.rows), categories.NAME: suite.table()}
    print("\n\n".join(tables.values()))
    report = {
        "conditions": conditions,
        "left_out": reasons,
        "failures": failures,
        "results": [row.as_json() for row in driver.rows],
        "categories": suite.as_json(),
    }
    _write(options.json or _RESULTS / "results.json", json.dumps(report, indent=2) + "\n")
    _write(options.tables or _RESULTS / "tables.md", "\n\n".join(tables.values()) + "\n")
    if options.document is not None:
        _put_into(options.document, tables, conditions)
    for failure in failures:
        print(f"failed: {failure.splitlines()[0]}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
