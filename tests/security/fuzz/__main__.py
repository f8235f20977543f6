"""``python -m tests.security.fuzz``: runs the targets under atheris, one after the other.

The inputs that reach something new go to ``--folder``, with what libFuzzer said; with ``--keep``
those of them that the corpus lacks are added to it. What breaks a rule is a *finding*: its input is
left there, its name begins with ``finding-``, and the exit status is 1. The figures of all runs in
one folder add up; ``--report`` writes them to a file, as the table that the documentation shows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from . import TARGETS
from .coverage import reduce
from .oracle import Target, load_corpus, save_corpus

ENGINE: Final = Path(__file__).with_name("engine.py")
MAX_SIZE: Final = 4096
MEMORY_MIB: Final = 1024
GRACE: Final = 120
"""Seconds that a run may last beyond its time, to load and to finish."""


class Result(NamedTuple):
    """What came of the runs of one target."""

    seconds: int = 0
    executions: int = 0
    coverage: int = 0
    inputs: int = 0
    findings: int = 0

    def plus(self, other: Result) -> Result:
        """Add another run's figures; what was reached stays reached."""
        return Result(
            self.seconds + other.seconds,
            self.executions + other.executions,
            max(self.coverage, other.coverage),
            max(self.inputs, other.inputs),
            self.findings + other.findings,
        )


def run(target: Target, folder: Path, seconds: int) -> Result:
    """Fuzz a target for some time, starting from its seeds and its corpus."""
    inputs = folder / target.name
    inputs.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate((*target.seeds(), *load_corpus(target.name))):
        (inputs / f"seed-{number}").write_bytes(data)
    before = len(list(folder.glob(f"finding-{target.name}-*")))
    prefix = f"{folder}/finding-{target.name}-"
    command = [
        *(sys.executable, str(ENGINE), target.name, str(inputs)),
        *(f"-max_total_time={seconds}", f"-max_len={MAX_SIZE}", f"-rss_limit_mb={MEMORY_MIB}"),
        *(f"-artifact_prefix={prefix}", "-timeout=20", "-detect_leaks=0", "-print_final_stats=1"),
    ]
    log = folder / f"{target.name}.log"
    with log.open("wb") as output:
        subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, timeout=seconds + GRACE, check=False
        )
    text = log.read_text(errors="replace")
    return Result(
        seconds,
        _last(r"stat::number_of_executed_units:\s*(\d+)", text),
        _last(r"cov: (\d+)", text),
        len(list(inputs.iterdir())),
        len(list(folder.glob(f"finding-{target.name}-*"))) - before,
    )


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def keep(target: Target, folder: Path) -> int:
    """Keep what it takes to reach all that was reached; return how many bytes that is."""
    found = [path.read_bytes() for path in sorted((folder / target.name).glob("*"))]
    kept = reduce(target, [*target.seeds(), *load_corpus(target.name), *found])
    save_corpus(target.name, kept)
    return sum(map(len, kept))


def load(folder: Path) -> dict[str, Result]:
    """Return the figures of all runs in a folder."""
    path = folder / "results.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    return {name: Result(*numbers) for name, numbers in figures.items()}


def record(folder: Path, name: str, result: Result) -> None:
    """Add the figures of a run."""
    results = load(folder)
    results[name] = results.get(name, Result()).plus(result)
    (folder / "results.json").write_text(json.dumps(results, indent=1))


def report(folder: Path) -> str:
    """Return the table of all runs in a folder."""
    results = load(folder)
    total = Result()
    rows = [
        "| target | seconds | inputs tried | code reached | kept | bytes | findings |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (name for name in TARGETS if name in results):
        result, corpus = results[name], load_corpus(name)
        total = total.plus(result)
        kept = f"{len(corpus)} | {sum(map(len, corpus)):,}"
        figures = f"{result.seconds:,} | {result.executions:,} | {result.coverage:,}"
        rows.append(f"| {name} | {figures} | {kept} | {result.findings} |")
    rows.append(f"| **all** | {total.seconds:,} | {total.executions:,} | | | | {total.findings} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--keep", action="store_true", help="add to the corpus what is new")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    os.environ.setdefault("PYTHONHASHSEED", "0")
    findings = 0
    for name in options.targets or TARGETS:
        if options.seconds:
            result = run(TARGETS[name], options.folder, options.seconds)
            record(options.folder, name, result)
            findings += result.findings
            print(name, result, flush=True)
        if options.keep:
            size = keep(TARGETS[name], options.folder)
            print(f"{name}: {len(load_corpus(name))} inputs, {size:,} bytes", flush=True)
    if options.report:
        options.report.write_text(report(options.folder))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
