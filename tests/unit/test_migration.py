"""The migration pages: every name of ours on them exists, and none has two rows.

Those of other packages are checked in ``tests/interop/test_facts.py``.
"""

from __future__ import annotations

import inspect
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.test_reference_map import ANYSSH_NAME, look_up

PAGES = Path(__file__).parents[2] / "docs" / "migration"
NAME = re.compile(r"`([^`]+)`")


class Row(NamedTuple):
    theirs: tuple[str, ...]
    ours: str


def rows(page: str) -> list[Row]:
    """Return the rows of a page's tables, without their heads."""
    found = []
    for line in (PAGES / f"{page}.md").read_text().splitlines():
        if line.startswith("| `"):
            _, theirs, ours, rest = line.split("|")
            assert rest == "", line
            names = tuple(NAME.findall(theirs))
            assert NAME.sub("", theirs).strip() == "", f"more than names in {theirs!r}"
            found.append(Row(names, ours))
    return found


def their_names(page: str) -> list[str]:
    return [name for row in rows(page) for name in row.theirs]


def without_row(names: list[str], page: str) -> list[str]:
    patterns = their_names(page)
    return [n for n in names if not any(fnmatchcase(n, pattern) for pattern in patterns)]


ALL_PAGES = sorted(path.stem for path in PAGES.glob("*.md"))


@pytest.mark.parametrize("page", ALL_PAGES)
def test_our_names_exist(page: str) -> None:
    text = (PAGES / f"{page}.md").read_text()
    claimed = sorted(set(ANYSSH_NAME.findall(text)))
    assert len(claimed) > 20
    for name, parameter in claimed:
        found = look_up(name)
        if parameter:
            assert parameter in inspect.signature(found).parameters, f"{name}({parameter}=)"


@pytest.mark.parametrize("page", ALL_PAGES)
def test_a_name_has_one_row(page: str) -> None:
    names = their_names(page)
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


@pytest.mark.parametrize("page", ALL_PAGES)
def test_a_row_says_something(page: str) -> None:
    assert [row.theirs for row in rows(page) if not row.ours.strip()] == []


def test_every_public_type_of_the_csharp_package_has_its_row() -> None:
    lines = (PAGES / "dev-tunnels-csharp-names.txt").read_text().splitlines()
    names = [line for line in lines if not line.startswith("#")]
    page = "dev-tunnels-csharp"
    assert without_row(names, page) == []
    types = {name.split(".")[0] for name in their_names(page)}
    assert sorted(types - set(names)) == []


def test_a_name_without_a_row_is_noticed() -> None:
    assert without_row(["connect", "NoSuchName"], "asyncssh") == ["NoSuchName"]
