"""``python -m tests.security.fuzz``: runs the targets under atheris, one after another.

Inputs that reach something new go to ``--folder``, with the output of libFuzzer; with ``--keep``
those that the corpus lacks are added to it. An input that breaks a rule is a *finding*: it is left
there, under a name that starts with ``finding-``, and the exit status is 1.

The figures of all runs in one folder add up, separately for each revision of the package.
``--report`` moves them to the file of figures in the repository, next to the table that the
documentation shows, and regenerates that table; so the runs of many folders and days add up, too.
Time is processor time, so other load on the machine does not matter.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from . import TARGETS
from .coverage import reduce
from .oracle import Target, load_corpus, save_corpus

ENGINE: Final = Path(__file__).with_name("engine.py")
MAX_SIZE: Final = 4096
MEMORY_MIB: Final = 1024
GRACE: Final = 120
"""Seconds of processor time that a run may take beyond its time, to load and to finish."""
WALL_SECONDS: Final = 24 * 3600
"""For one input; the engine itself limits its processor time."""
GIT: Final = ("git", "-C", str(ENGINE.parent))


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


Figures = dict[str, dict[str, Result]]
"""By the revision of the package, oldest first, then by target."""


def revision() -> str:
    """Return Git's name of the package's contents, with a + if they are not committed."""
    tree = _output(*GIT, "rev-parse", "--short=10", "HEAD:anyssh")
    return tree + "+" * bool(_output(*GIT, "status", "--porcelain", "--", ":/anyssh"))


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run(target: Target, folder: Path, seconds: int) -> Result:
    """Fuzz a target for some time, starting from its seeds and its corpus."""
    inputs = folder / target.name
    inputs.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate((*target.seeds(), *load_corpus(target.name))):
        (inputs / f"seed-{number}").write_bytes(data)
    before = len(list(folder.glob(f"finding-{target.name}-*")))
    prefix = f"{folder}/finding-{target.name}-"
    command = [
        *(sys.executable, str(ENGINE), target.name, str(seconds), str(inputs)),
        *(f"-max_len={MAX_SIZE}", f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={prefix}"),
        *(f"-timeout={WALL_SECONDS}", "-detect_leaks=0", "-print_final_stats=1"),
        f"-report_slow_units={WALL_SECONDS}",
    ]
    log = folder / f"{target.name}.log"
    spent = _processor_seconds()
    with log.open("wb") as output:
        process = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds + GRACE,) * 2),
        )
    text = log.read_text(errors="replace")
    findings = len(list(folder.glob(f"finding-{target.name}-*"))) - before
    if process.returncode and not findings:
        raise SystemExit(f"{log}: the engine ended with {process.returncode}\n{text[-2000:]}")
    return Result(
        min(seconds, int(_processor_seconds() - spent)),
        _last(r"stat::number_of_executed_units:\s*(\d+)", text),
        _last(r"cov: (\d+)", text),
        len(list(inputs.iterdir())),
        findings,
    )


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


def keep(target: Target, folder: Path) -> int:
    """Keep what it takes to reach all that was reached; return how many bytes that is."""
    found = [path.read_bytes() for path in sorted((folder / target.name).glob("*"))]
    kept = reduce(target, [*target.seeds(), *load_corpus(target.name), *found])
    save_corpus(target.name, kept)
    return sum(map(len, kept))


def load(path: Path) -> Figures:
    """Return the figures in a file."""
    figures = json.loads(path.read_text()) if path.exists() else {}
    return {
        tree: {name: Result(*numbers) for name, numbers in by_target.items()}
        for tree, by_target in figures.items()
    }


def add(path: Path, more: Figures) -> Figures:
    """Add figures to those in a file; return what is there now."""
    figures = load(path)
    for tree, by_target in more.items():
        mine = figures.setdefault(tree, {})
        for name, result in by_target.items():
            mine[name] = mine.get(name, Result()).plus(result)
    path.write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def report(figures: Figures) -> str:
    """Return the tables of all runs: by target, and by revision."""
    rows = [
        "| target | seconds | inputs tried | code reached | kept | bytes | findings |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in TARGETS:
        results = [by_target[name] for by_target in figures.values() if name in by_target]
        if results:
            total, corpus = _total(results), load_corpus(name)
            kept = f"{len(corpus)} | {sum(map(len, corpus)):,}"
            done = f"{total.seconds:,} | {total.executions:,} | {results[-1].coverage:,}"
            rows.append(f"| {name} | {done} | {kept} | {total.findings} |")
    everything = _total(each for by_target in figures.values() for each in by_target.values())
    total = f"{everything.seconds:,} | {everything.executions:,}"
    rows += [f"| **all** | {total} | | | | {everything.findings} |", ""]
    rows += ["| revision | seconds | inputs tried | findings |", "|---|---|---|---|"]
    for tree, by_target in figures.items():
        done = _total(by_target.values())
        rows.append(f"| {tree} | {done.seconds:,} | {done.executions:,} | {done.findings} |")
    return "\n".join(rows) + "\n"


def _total(results: Iterable[Result]) -> Result:
    total = Result()
    for result in results:
        total = total.plus(result)
    return total


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each, of processor time")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--keep", action="store_true", help="add to the corpus what is new")
    parser.add_argument("--report", type=Path, metavar="FILE", help="add up, write the tables")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    os.environ.setdefault("PYTHONHASHSEED", "0")
    findings, tree = 0, revision()
    here = options.folder / "results.json"
    for name in options.targets or TARGETS:
        if options.seconds:
            result = run(TARGETS[name], options.folder, options.seconds)
            add(here, {tree: {name: result}})
            findings += result.findings
            print(name, result, flush=True)
        if options.keep:
            size = keep(TARGETS[name], options.folder)
            print(f"{name}: {len(load_corpus(name))} inputs, {size:,} bytes", flush=True)
    if options.report:
        figures = add(options.report.with_suffix(".json"), load(here))
        here.unlink(missing_ok=True)  # they are there now
        options.report.write_text(report(figures))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
