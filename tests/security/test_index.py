"""Every requirement against hostile peers has a test that names it; their table is up to date."""

from __future__ import annotations

import pytest

from .index import PAGE, index, labels, named, page, wanted

WANTED = {**wanted()["requirements"], **wanted()["tests"]}


@pytest.mark.parametrize("label", WANTED)
def test_something_shows_it(label: str) -> None:
    assert label in index(), f"no test names {label}: {WANTED[label]}"


def test_nothing_else_is_shown() -> None:
    assert sorted(set(index()) - set(WANTED)) == []


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.security.index"


def test_labels_are_found_in_every_spelling() -> None:
    first, second = "HR-", "T-"
    assert labels(f"{first}65/66/70, {second}50 to {second}52") == {
        *(f"{first}{number}" for number in (65, 66, 70)),
        *(f"{second}{number}" for number in (50, 51, 52)),
    }
    assert labels(f"{second}20..{second}21; CFG{first}1, X{second}33") == {
        f"{second}20",
        f"{second}21",
    }


def test_a_label_belongs_to_whoever_names_it() -> None:
    label = "HR-" + "01"
    source = f'"""{label}"""\nclass TestIt:\n    def test_this(self):\n        """{label}."""\n'
    assert list(named(source)) == [(label, ""), (label, "TestIt::test_this")]
    assert list(named(f'def test_that():\n    text = "{label}"\n')) == []
