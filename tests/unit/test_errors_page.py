"""The page about errors says for each public error when it occurs and what to do."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import anyssh
import anyssh.websocket

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S))


def public_errors() -> set[str]:
    modules = [anyssh, anyssh.websocket]
    return {
        name
        for module in modules
        for name in module.__all__
        if inspect.isclass(error := getattr(module, name))
        and issubclass(error, anyssh.SSHError)
        and error is not anyssh.SSHError
    }


def test_every_error_has_its_section() -> None:
    assert set(SECTIONS) == public_errors()


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_tells_when_and_what_to_do(name: str) -> None:
    section = SECTIONS[name]
    assert re.search(r"^\*\*When:\*\* [\w`]", section, re.M)
    assert re.search(r"^\*\*What to do:\*\* [\w`]", section, re.M)


@pytest.mark.parametrize("name", SECTIONS)
def test_what_a_section_says_an_error_has_is_there(name: str) -> None:
    """Words in code that begin small are attributes of the error, or arguments and calls."""
    error = getattr(anyssh, name, None) or getattr(anyssh.websocket, name)
    text = "\n".join(base.__doc__ or "" for base in error.__mro__)
    named = set(re.findall(r"`(reason|kind|ours|theirs|code|fingerprint|algorithm|methods_left"
                           r"|description|by_peer)`", SECTIONS[name]))  # fmt: skip
    assert {word for word in named if f":ivar {word}:" not in text} == set()
