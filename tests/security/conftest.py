"""Figures reported by tests of faults, for ``docs/results/faults.md``.

With ``ANYSSH_FIGURES=docs/results/faults.md`` in the environment, the figures of the tests that ran
replace their former ones there. Run the tests in one process for that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = ["| test | what | figure |", "|---|---|---|"]
_told: dict[tuple[str, str], str] = {}


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Tell a figure: what it is, and how much."""

    def tell(what: str, value: str) -> None:
        _told[f"`{request.node.name}`", what] = value

    return tell


def pytest_sessionfinish() -> None:
    """Write what was told, if somebody wants it."""
    path = os.environ.get("ANYSSH_FIGURES")
    if path and _told:
        Path(path).write_text(_merged(Path(path)), encoding="utf-8")


def _merged(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()[len(HEAD) :] if path.exists() else []
    rows: dict[tuple[str, str], str] = {}
    for line in lines:
        test, what, value = (cell.strip() for cell in line.strip("|").split("|"))
        rows[test, what] = value
    rows |= _told
    told = [f"| {test} | {what} | {value} |" for (test, what), value in sorted(rows.items())]
    return "\n".join([*HEAD, *told]) + "\n"
