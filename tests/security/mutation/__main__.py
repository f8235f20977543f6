"""``python -m tests.security.mutation``: runs what is left to run, and reports what survived.

Results are kept in ``--folder``, so it may be stopped and continued; those of a function are
dropped when it changes. ``--again`` tries only the survivors once more, with more effort if
requested. ``--report`` writes the table that the documentation shows; groups that were not run keep
their rows. The exit status is 1 if fewer than 90 % of the changes of a group are noticed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from .runner import GROUPS, Options, Plugin, all_mutants, key_of, load_results

WANTED: Final = 0.9
TESTS: Final = (
    "tests/protocol",
    "tests/unit/test_packet_protection.py",
    "tests/unit/test_derivation.py",
    "tests/unit/test_key_exchange.py",
)
SLOW: Final = {
    "tests/protocol/test_connection_abuse.py": "connection",
    "tests/protocol/test_reconnect_soak.py": "",
}
"""Tests that take long, and the group of modules that they are about, if any."""
ARGUMENTS: Final = (
    *("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist"),
    *("-p", "tests.security.mutation.profile", "--hypothesis-profile=mutation"),
    *("-o", "timeout=0", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
)


def report(options: Options, before: str = "") -> tuple[str, bool]:
    """Return the table of what was noticed, and whether it is enough.

    :param before: the table of earlier runs, for the rows of groups that are not asked for
    """
    results = load_results(options.folder)
    earlier = {row.split("|")[1].strip(): row for row in before.splitlines()[2:]}
    rows = [
        "| modules | changes | tried | noticed | survived | share |",
        "|---|---|---|---|---|---|",
    ]
    is_enough = True
    for group in GROUPS:
        if group not in options.groups:
            rows += [earlier[group]] if group in earlier else []
            continue
        names = [key_of(mutant) for mutant in all_mutants([group])]
        outcomes = Counter(results.get(name, "not tried") for name in names)
        noticed = outcomes["killed"] + outcomes["timeout"]
        tried = noticed + outcomes["survived"]
        share = noticed / tried if tried else 0.0
        figures = (len(names) - outcomes["left out"], tried, noticed, outcomes["survived"])
        cells = " | ".join(f"{figure:,}" for figure in figures)
        rows.append(f"| {group} | {cells} | {share:.1%} |")
        is_enough = is_enough and share >= WANTED
    return "\n".join(rows) + "\n", is_enough


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
    parser.add_argument("--again", action="store_true", help="try only survivors")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table")
    arguments = vars(parser.parse_args())
    file = arguments.pop("report")
    options = Options(**arguments)
    options.groups = groups = options.groups or list(GROUPS)
    if options.budget > 0:
        ignored = [f"--ignore={path}" for path, group in SLOW.items() if group not in groups]
        code = pytest.main([*ARGUMENTS, *ignored, *TESTS], plugins=[Plugin(options)])
        if code not in (0, 5):
            return int(code)
    table, is_enough = report(options, file.read_text() if file and file.exists() else "")
    print(f"\n{table}")
    if file:
        file.write_text(table)
    return 0 if is_enough else 1


if __name__ == "__main__":
    sys.exit(main())
