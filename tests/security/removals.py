"""``python -m tests.security.removals``: breaks each requirement; does a test notice?

A label in a docstring claims that a test shows a requirement. Here that claim is tested:
``removals.toml`` has, for each requirement, a change that removes it, mostly by disabling one
condition. Each change is made in a copy of the package, and the tests that name the requirement are
run until one fails. The exit status is 1 if none did for some change. ``test_removals.py`` checks
that every requirement has a change, and that each can still be applied.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from .index import TESTS, index

ROOT: Final = TESTS.parent
PACKAGE: Final = ROOT / "anyssh"
FILE: Final = Path(__file__).with_name("removals.toml")
LAYERS: Final = ("unit", "protocol", "session", "security")
"""Directories of tests, the quickest first; those that need other programs take no part."""
SECONDS: Final = 1800
FAILED: Final = 1
"""What pytest exits with when it ran, and a test failed."""


class Removal(NamedTuple):
    """One way to do without a requirement.

    :ivar file: of the package
    :ivar was: what stands there, once
    :ivar now: what is put in its place
    """

    requirement: str
    file: str
    was: str
    now: str

    def applied_to(self, source: str) -> str:
        """Return the source of the file with the change."""
        return source.replace(self.was, self.now)


def removals() -> list[Removal]:
    """Return all of them, in the order of the file."""
    found = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return [Removal(label, **each) for label, several in found.items() for each in several]


def named_for(requirement: str) -> list[str]:
    """Return what to run: the tests that name a requirement, the quickest kinds first."""
    places = {place for place in index()[requirement] if place.split("/")[0] in LAYERS}
    ordered = sorted(places, key=lambda place: (LAYERS.index(place.split("/")[0]), place))
    return [f"tests/{place}" for place in ordered]


def noticed_by(removal: Removal, folder: Path) -> str | None:
    """Run the tests over a copy with the change; return the first that failed, if any did."""
    package = folder / "anyssh"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(PACKAGE, package)
    file = package / removal.file
    file.write_text(removal.applied_to(file.read_text()))
    # The directory that this runs in has the package unchanged, so it must not come first.
    paths = os.pathsep.join((str(folder), str(ROOT)))
    command = [sys.executable, "-P", "-m", "pytest", "-o", "pythonpath=", "-x", "-q", "-n0"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--tb=line", *named_for(removal.requirement)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode == 0:
        return None
    if done.returncode != FAILED:
        raise SystemExit(f"{removal}: the tests could not run\n{done.stdout}{done.stderr}")
    found = re.search(r"^(?:FAILED|ERROR) (tests/.*)", done.stdout, re.MULTILINE)
    return found[1] if found else "a test that took too long"


def tried(chosen: list[Removal]) -> Iterator[tuple[Removal, str | None]]:
    """Yield each removal, and which test has noticed it."""
    with tempfile.TemporaryDirectory() as folder:
        for removal in chosen:
            yield removal, noticed_by(removal, Path(folder))


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.security.removals", description=__doc__)
    parser.add_argument("requirements", nargs="*", metavar="HR", help="all if none is given")
    wanted = parser.parse_args().requirements
    chosen = [each for each in removals() if not wanted or each.requirement in wanted]
    unnoticed = 0
    for removal, test in tried(chosen):
        shown = f"{removal.was.strip().splitlines()[0]} -> {removal.now.strip()!r}"
        print(f"{removal.requirement} {removal.file}: {shown}\n    {test}", flush=True)
        unnoticed += test is None
    print(f"{len(chosen)} removals, {unnoticed} of them unnoticed")
    return 1 if unnoticed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
