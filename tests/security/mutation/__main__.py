"""``python -m tests.security.mutation``: runs what is left to run, and says what survived.

Results are kept in ``--folder``, so it may be stopped, and goes on where it was. ``--again`` tries
the survivors once more, with more effort if told so. The exit status is 1 if fewer than 90 % of
the changes of a group are noticed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from .runner import GROUPS, Options, Plugin, all_mutants

WANTED: Final = 0.9
TESTS: Final = (
    "tests/protocol",
    "tests/unit/test_packet_protection.py",
    "tests/unit/test_derivation.py",
    "tests/security/test_fuzz_corpus.py",
)
ARGUMENTS: Final = (
    *("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist"),
    *("-p", "tests.security.mutation.profile", "--hypothesis-profile=mutation"),
    *("-o", "timeout=0", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
)


def report(options: Options) -> int:
    """Print how many changes of each group were noticed; return the exit status."""
    path = options.folder / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    status = 0
    print("\n| modules | changes | tried | noticed | survived | % |\n|---|---|---|---|---|---|")
    for group in GROUPS:
        mutants = all_mutants([group])
        outcomes = Counter(results.get(mutant.name, "not tried") for mutant in mutants)
        noticed = outcomes["killed"] + outcomes["timeout"]
        tried = noticed + outcomes["survived"]
        share = noticed / tried if tried else 0.0
        numbers = (len(mutants) - outcomes["left out"], tried, noticed, outcomes["survived"])
        print(f"| {group} | " + " | ".join(map(str, numbers)) + f" | {100 * share:.1f} |")
        if group in options.groups and share < WANTED:
            status = 1
    return status


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.security.mutation", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--folder", type=Path, default=Path("build/mutation"))
    parser.add_argument("--budget", type=float, default=1e9, help="seconds for all")
    parser.add_argument("--effort", type=float, default=30.0, help="seconds of tests for each")
    parser.add_argument("--sample", type=int, default=0, help="so many changes only, by chance")
    parser.add_argument("--seed", type=int, default=1, help="of that chance")
    parser.add_argument("--only", default="", help="changes whose name has this in it")
    parser.add_argument("--again", action="store_true", help="try survivors again")
    options = Options(**vars(parser.parse_args()))
    options.groups = options.groups or list(GROUPS)
    if options.budget > 0:
        code = pytest.main([*ARGUMENTS, *TESTS], plugins=[Plugin(options)])
        if code not in (0, 5):
            return int(code)
    return report(options)


if __name__ == "__main__":
    sys.exit(main())
