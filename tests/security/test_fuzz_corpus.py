"""T-70: every input that fuzzing has kept, and every seed, without atheris."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.security.fuzz import TARGETS
from tests.security.fuzz.oracle import CORPUS, Finding, Target, judge, load_corpus
from tests.security.fuzz.scripts import Kind, Script, Step, mutate

SLACK = 8
"""Machines that test are not alone, and slower ones exist."""
MAX_CORPUS_BYTES = 1024 * 1024


@pytest.mark.parametrize("name", TARGETS)
def test_replay(name: str) -> None:
    inputs = load_corpus(name)
    assert inputs, "python -m tests.security.fuzz --keep makes a corpus"
    for data in inputs:
        try:
            judge(TARGETS[name], data, slack=SLACK)
        except Exception as error:
            error.add_note(f"{name}: {data!r}")
            raise


def test_corpora_belong_to_targets_and_are_small() -> None:
    files = list(CORPUS.iterdir())
    assert {path.name for path in files} == {f"{name}.txt" for name in TARGETS}
    assert sum(path.stat().st_size for path in files) < MAX_CORPUS_BYTES


# The oracle itself


def target(run: Callable[[], object], **options: object) -> Target:
    def prepare(data: bytes) -> Callable[[], None]:
        return lambda: run() and None

    return Target("sample", prepare, list, **options)  # type: ignore[arg-type]


def spin() -> None:
    for _ in range(10**6):
        pass


def test_an_input_that_takes_long_is_found() -> None:
    with pytest.raises(Finding, match="processor time"):
        judge(target(spin), b"", slack=0.01)


def test_only_the_quickest_of_some_tries_counts() -> None:
    waits: Iterator[Callable[[], None]] = iter([spin, spin])
    judge(target(lambda: next(waits, lambda: None)()), b"", slack=0.05, measure_memory=False)


def test_an_input_that_takes_much_memory_is_found() -> None:
    with pytest.raises(Finding, match="allocate"):
        judge(target(lambda: bytearray(2**20)), b"")
    judge(target(lambda: bytearray(2**20)), bytes(2**14))


def test_other_errors_are_not_caught() -> None:
    def fail() -> None:
        raise KeyError("no error of ours")

    with pytest.raises(KeyError):
        judge(target(fail), b"")


# Scripts


def test_every_byte_string_is_a_script() -> None:
    script = Script(513, (Step(Kind.PAYLOAD, b"\x5edata"), Step(Kind.TIME), Step(Kind.RAW, b"x")))
    encoded = script.encode()
    assert Script.decode(encoded) == script
    for end in range(len(encoded)):
        cut = Script.decode(encoded[:end])
        assert cut.steps[:-1] == script.steps[: max(len(cut.steps) - 1, 0)]


def test_mutations_stay_small_and_depend_on_the_seed_alone() -> None:
    stock = [Step(Kind.NAMED, bytes([number])) for number in range(8)]
    data = Script(0, (Step(Kind.PAYLOAD, bytes(100)),) * 20).encode()
    for seed in range(200):
        made = [mutate(data, 1500, seed, stock, lambda body, size: body[::-1]) for _ in range(2)]
        assert made[0] == made[1]
        assert len(made[0]) <= 1500
        Script.decode(made[0])
    assert mutate(b"", 100, 1, stock, lambda body, size: body)


# The figures


@pytest.mark.skipif(sys.platform == "win32", reason="runs are measured by the module resource")
def test_figures_of_several_runs_add_up(tmp_path: Path) -> None:
    from tests.security.fuzz.__main__ import Result, add, report

    file = tmp_path / "figures.json"
    assert add(file, {"old": {"socks": Result(60, 1000, 9, 5, 1), "agent": Result(5, 10, 2, 1)}})
    assert add(file, {"old": {"socks": Result(40, 2000, 8, 7, 0)}})
    figures = add(file, {"new": {"socks": Result(20, 500, 7, 9, 0)}})
    assert figures["old"]["socks"] == Result(100, 3000, 9, 7, 1)
    table = report(figures)
    assert "| socks | 120 | 3,500 | 7 |" in table, "code is counted as the newest revision has it"
    assert "| **all** | 125 | 3,510 | | | | 1 |" in table
    assert table.endswith("| old | 105 | 3,010 | 1 |\n| new | 20 | 500 | 0 |\n")
