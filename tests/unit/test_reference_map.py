"""The reference map is complete, and everything it names exists; so is the API reference."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"\| `(?P<name>[^`]+)` \| (?P<state>\w+) \| (?P<text>.+) \|")
ANYSSH_NAME = re.compile(r"`(anyssh(?:\.\w+)+)(?:\((\w+)=\))?`")


class Row(NamedTuple):
    name: str
    state: str
    text: str


def rows() -> list[Row]:
    lines = (DOCS / "reference-map.md").read_text().splitlines()
    matches = [ROW.fullmatch(line) for line in lines if line.startswith("| `")]
    assert None not in matches, "a row does not have the form of a row"
    return [Row(*match.groups()) for match in matches if match]


def reference_names() -> list[str]:
    lines = (DOCS / "reference-names.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def existing_names() -> list[tuple[str, str]]:
    """Give every anyssh name with its parameter, ``""`` for none, of the rows that claim one."""
    claimed = "\n".join(row.text for row in rows() if row.state != "planned")
    return sorted(set(ANYSSH_NAME.findall(claimed)))


def look_up(name: str) -> Any:
    """Walk from the package to what a dotted name means.

    Only a last step may be an attribute that instances get, if the class declares it.

    :raises AttributeError: it is not there
    """
    first, *steps = name.split(".")
    found: Any = importlib.import_module(first)
    for number, step in enumerate(steps):
        if not hasattr(found, step) and inspect.ismodule(found):
            try:
                importlib.import_module(f"{found.__name__}.{step}")
            except ModuleNotFoundError:
                raise AttributeError(f"{found.__name__} has no {step}") from None
        if not hasattr(found, step) and number == len(steps) - 1 and declares(found, step):
            return None
        found = getattr(found, step)
    return found


def declares(owner: Any, attribute: str) -> bool:
    """Tell whether a class announces an attribute of its instances."""
    if not inspect.isclass(owner):
        return False
    fields = (
        {field.name for field in dataclasses.fields(owner)}
        if dataclasses.is_dataclass(owner)
        else set()
    )
    documented = f":ivar {attribute}:" in (inspect.getdoc(owner) or "")
    return attribute in fields or documented


def test_every_name_has_one_row_in_order() -> None:
    assert [row.name for row in rows()] == reference_names()


def test_states() -> None:
    assert {row.state for row in rows()} == {"here", "planned", "none"}


def test_a_row_that_claims_existence_names_something() -> None:
    silent = [row.name for row in rows() if row.state == "here" and "`" not in row.text]
    assert silent == []


@pytest.mark.parametrize("name,parameter", existing_names())
def test_named_equivalent_exists(name: str, parameter: str) -> None:
    found = look_up(name)
    if parameter:
        assert parameter in inspect.signature(found).parameters


@pytest.mark.parametrize(
    "name", ["anyssh.NoSuchName", "anyssh.wire.no_such_name", "anyssh.SSHError.no_such_name"]
)
def test_a_missing_name_is_noticed(name: str) -> None:
    with pytest.raises(AttributeError):
        look_up(name)
