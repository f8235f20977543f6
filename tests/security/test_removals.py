"""Each requirement has a change that breaks it, which the tests that name it are run against."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .index import wanted
from .removals import PACKAGE, Removal, named_for, noticed_by, removals


def test_every_requirement_can_be_broken() -> None:
    assert {each.requirement for each in removals()} == wanted()["requirements"].keys()


@pytest.mark.parametrize("removal", removals(), ids=lambda each: f"{each.requirement} {each.file}")
def test_a_removal_fits_the_source(removal: Removal) -> None:
    source = (PACKAGE / removal.file).read_text(encoding="utf-8")
    assert source.count(removal.was) == 1
    assert removal.now != removal.was
    ast.parse(removal.applied_to(source))
    assert named_for(removal.requirement)


@pytest.mark.timeout(300)
def test_tests_run_against_what_is_changed(tmp_path: Path) -> None:
    (compression, *_) = (each for each in removals() if each.requirement == "HR-28")
    assert "test_construction.py" in (noticed_by(compression, tmp_path) or "")
    harmless = compression._replace(now=compression.was + "  # as ever")
    assert noticed_by(harmless, tmp_path) is None
