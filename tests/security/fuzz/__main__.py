"""``python -m tests.security.fuzz``: runs the targets under atheris, one after the other.

The inputs that reach something new go to ``--folder``, with what libFuzzer said; with ``--keep``
those of them that the corpus lacks are added to it. What breaks a rule is a *finding*: its input is
left there, its name begins with ``finding-``, and the exit status is 1.
"""

from __future__ import annotations

import argparse
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
    """What came of one run."""

    executions: int
    coverage: int
    inputs: int
    findings: int


def run(target: Target, folder: Path, seconds: int) -> Result:
    """Fuzz a target for some time, starting from its seeds and its corpus."""
    inputs = folder / target.name
    inputs.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate((*target.seeds(), *load_corpus(target.name))):
        (inputs / f"seed-{number}").write_bytes(data)
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
        _last(r"stat::number_of_executed_units:\s*(\d+)", text),
        _last(r"cov: (\d+)", text),
        len(list(inputs.iterdir())),
        len(list(folder.glob(f"finding-{target.name}-*"))),
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


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--keep", action="store_true", help="add to the corpus what is new")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    os.environ.setdefault("PYTHONHASHSEED", "0")
    findings = 0
    print("| target | executions | coverage | inputs | findings |\n|---|---|---|---|---|")
    for name in options.targets or TARGETS:
        if options.seconds:
            result = run(TARGETS[name], options.folder, options.seconds)
            findings += result.findings
            row = (result.executions, result.coverage, result.inputs, result.findings)
            print(f"| {name} | " + " | ".join(f"{number:,}" for number in row) + " |", flush=True)
        if options.keep:
            size = keep(TARGETS[name], options.folder)
            print(f"{name}: {len(load_corpus(name))} inputs, {size:,} bytes", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
