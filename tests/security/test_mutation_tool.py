"""The tool of ``nox -s mutation``: what it changes, and that the change takes effect."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.security.mutation import runner
from tests.security.mutation.__main__ import report
from tests.security.mutation.equivalent import EQUIVALENT
from tests.security.mutation.mutants import Mutant, mutants_of, mutated
from tests.security.mutation.patching import Unpatchable, patch_module, patched_modules
from tests.security.mutation.runner import (
    GROUPS,
    MODULES,
    Options,
    _users,
    all_mutants,
    key_of,
    path_of,
    source_of,
)

SOURCE = '''
"""A sample."""
Pair = tuple[int, str]
LIMIT = 3
DOUBLE = LIMIT * 2
__all__ = ["f"]

def table(size: int) -> tuple[int, ...]:
    """Return a table."""
    return tuple(range(size + 1))

def doubled() -> tuple[int, ...]:
    return table(LIMIT) * 2

class Thing:
    width = 5

    def __init__(self, start: int = 7) -> None:
        self.start = start

    @property
    def is_wide(self) -> bool:
        return self.width > 4 and not self.start == 0

    @staticmethod
    def refuse(number: int) -> None:
        if number < LIMIT:
            raise ValueError(f"{number} is less than " + "wanted")

    def nested(self) -> int:
        def inner() -> int:
            return self.start + 1
        return inner()

    def __repr__(self) -> str:
        return "a thing" + "!"
'''
NAME = "tests.security.sample_of_mutation"


@pytest.fixture
def sample(tmp_path: Path) -> Iterator[ModuleType]:
    path = tmp_path / "sample.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[NAME]


def change(what: str) -> Mutant:
    (found,) = [mutant for mutant in mutants_of(NAME, SOURCE) if mutant.what == what]
    return found


def patch(what: str) -> None:
    mutant = change(what)
    patch_module(mutant, mutated(SOURCE, mutant))


def test_what_is_changed() -> None:
    words = [mutant.what for mutant in mutants_of(NAME, SOURCE)]
    for expected in (
        "3 -> 4",
        "LIMIT * 2 -> LIMIT + 2",
        "size + 1 -> size - 1",
        "return tuple(range(size + 1)) -> return None",
        "without self.start = start",
        "7 -> 8",
        "self.width > 4 and (not self.start == 0) -> self.width > 4 or not self.start == 0",
        "self.width > 4 -> self.width >= 4",
        "number < LIMIT -> number <= LIMIT",
        "number < LIMIT -> not number < LIMIT",
        "not self.start == 0 -> self.start == 0",
        "self.start == 0 -> self.start != 0",
    ):
        assert expected in words, expected


def test_what_is_said_to_people_is_left_alone() -> None:
    words = " ".join(mutant.what for mutant in mutants_of(NAME, SOURCE))
    for text in ("A sample", "Return a table", "wantedX", "a thing", "fX", "without int"):
        assert text not in words


def test_each_change_is_one() -> None:
    original = ast.unparse(ast.parse(SOURCE))
    made = {ast.unparse(mutated(SOURCE, mutant)) for mutant in mutants_of(NAME, SOURCE)}
    assert original not in made
    assert len(made) == len(list(mutants_of(NAME, SOURCE)))


def test_a_function_is_changed_for_whoever_holds_it(sample: ModuleType) -> None:
    held = sample.Thing.refuse
    patch("number < LIMIT -> not number < LIMIT")
    held(1)
    with pytest.raises(ValueError, match="5 is less"):
        held(5)


def test_properties_nested_functions_and_defaults_are_changed(sample: ModuleType) -> None:
    thing = sample.Thing()
    patch("self.width > 4 -> self.width < 4")
    assert not thing.is_wide
    patch("self.start + 1 -> self.start - 1")
    assert thing.nested() == 6
    patch("7 -> 8")
    assert sample.Thing().start == 8


def test_constants_are_changed_with_what_was_made_of_them(sample: ModuleType) -> None:
    patch("3 -> 4")
    assert sample.LIMIT == 4
    assert sample.DOUBLE == 8
    with pytest.raises(ValueError, match="3 is less"):
        sample.Thing.refuse(3)


def test_the_table_is_compiled_again() -> None:
    from anyssh.constants import MessageNumber
    from anyssh.protocol import core
    from anyssh.protocol.acceptance import Phase, Role

    name = "anyssh.protocol.acceptance"
    source = path_of(name).read_text()
    what = "without Row((N.SERVICE_REQUEST,), _SERVER, _UNAUTHENTICATED) in a tuple"
    (mutant,) = [mutant for mutant in mutants_of(name, source) if mutant.what == what]
    before = [(module, vars(module).copy()) for module in patched_modules()]
    try:
        patch_module(mutant, mutated(source, mutant))
        rules = core._ACCEPTANCE[Role.SERVER][Phase.ENCRYPTED]
        assert rules[MessageNumber.SERVICE_REQUEST] is None
        assert rules[MessageNumber.DISCONNECT] is core.PLAIN
    finally:
        for module, values in before:
            vars(module).update(values)


def test_what_a_class_says_is_changed(sample: ModuleType) -> None:
    patch("5 -> 6")
    assert sample.Thing().width == 6


def test_a_change_that_cannot_be_put_in_is_told(sample: ModuleType) -> None:
    mutant = change("size + 1 -> size - 1")._replace(scope="Thing")
    with pytest.raises(Unpatchable):
        patch_module(mutant, mutated(SOURCE, mutant))


def test_changes_that_make_no_difference_exist() -> None:
    for module, known in EQUIVALENT.items():
        lines = source_of(module).splitlines()
        there = {(lines[m.line - 1].strip(), m.what) for m in mutants_of(module, source_of(module))}
        assert known.keys() <= there, known.keys() - there
        assert not known.keys() & {
            (lines[m.line - 1].strip(), m.what)
            for group in GROUPS
            for m in all_mutants([group])
            if m.module == module
        }


def test_every_module_that_counts_has_changes() -> None:
    for module in MODULES:
        assert path_of(module).exists()
    for group in GROUPS:
        names = [mutant.name for mutant in all_mutants([group])]
        assert len(names) == len(set(names)) > 100, group


def test_the_table_keeps_what_was_said_of_groups_that_are_not_asked_for(tmp_path: Path) -> None:
    options = Options(tmp_path, ["reconnect"], budget=0, effort=0, sample=0, seed=1)
    before = "| head |\n|---|\n| packets | 9 | 9 | 9 | 0 | 100.0% |\n| reconnect | 1 |\n"
    table, is_enough = report(options, before)
    _, _, packets, reconnect = table.splitlines()
    assert packets == "| packets | 9 | 9 | 9 | 0 | 100.0% |"
    assert reconnect.endswith("| 0 | 0 | 0 | 0.0% |")
    assert not is_enough


def test_tests_of_what_uses_a_constant_or_a_field_come_first() -> None:
    module = "anyssh.protocol.server_authentication"
    lines = source_of(module).splitlines()

    def users(start: str) -> frozenset[str]:
        (number,) = [n for n, line in enumerate(lines, 1) if line.strip().startswith(start)]
        return _users(module, number)

    assert users("MAX_ROUNDS: Final") == {"ServerAuthentication._ask"}
    rounds = {number for number, line in enumerate(lines, 1) if line.strip() == "self._rounds = 0"}
    assert any("ServerAuthentication._ask" in _users(module, number) for number in rounds)
    assert users("from .authentication import") == frozenset()


def test_results_of_a_function_that_has_changed_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = "anyssh.protocol.offline"
    source = source_of(module)

    def keys(text: str) -> dict[str, str]:
        monkeypatch.setattr(runner, "source_of", lambda module: text)
        runner._functions_of.cache_clear()
        return {key_of(mutant): mutant.scope for mutant in mutants_of(module, text)}

    before = keys(source)
    assert len(before) == len({mutant.name for mutant in mutants_of(module, source)})
    assert keys("# A line more.\n" + source) == before, "whole functions move"
    scope = next(scope for scope in before.values() if scope)
    (line,) = [
        number
        for name, function in runner._functions(ast.parse(source), "")
        if name == scope
        for number in (function.lineno,)
    ]
    lines = source.splitlines()
    lines[line - 1] += "  # changed"
    after = keys("\n".join(lines))
    assert {key for key in before if before[key] != scope} <= after.keys()
    assert not {key for key in before if before[key] == scope} & after.keys()
    runner._functions_of.cache_clear()
