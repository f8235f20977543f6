"""Each workload runs with anyssh, in tiny amounts. The figures are ignored."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the benchmarks run on Linux", allow_module_level=True)

from benchmarks.catalogue import workloads
from benchmarks.harness import Commands, Program, make_keys, measure, measure_forward
from benchmarks.implementations import LOOPS
from benchmarks.peers.workloads import FORWARDS, MEASURES

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "benchmarks.peers.anyssh_peer"]
TINY = [
    *("--count", "2", "--width", "2", "--total", "262144", "--write-size", "65536"),
    *("--seconds", "0.01"),
]
PATIENCE = 60.0


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    make_keys(directory)
    return directory


def each_on_a_loop(actions: Iterable[str]) -> list[tuple[str, str]]:
    here = [loop for loop in LOOPS if find_spec(loop)]  # uvloop is for CPython only
    return list(zip(actions, cycle(here), strict=False))


@pytest.mark.parametrize("action, loop", each_on_a_loop(MEASURES))
def test_a_workload_runs_in_one_process(action: str, loop: str, keys: Path) -> None:
    options = ["both", "--loop", loop, "--keys", str(keys), "--workload", action, *TINY]
    with Program([*COMMAND, *options], ROOT, False) as program:
        program.expect("start", PATIENCE)
        if action == "slow-reader":
            program.expect("resumed", PATIENCE)
        done = program.expect("done", PATIENCE)
    assert done.get("bytes", done.get("count")) > 0
    assert done["seconds"] > 0


@pytest.mark.parametrize("action, loop", each_on_a_loop(f for f in FORWARDS if "memory" not in f))
def test_a_forward_carries(action: str, loop: str, keys: Path) -> None:
    common = ["--loop", loop, "--keys", str(keys)]
    tiny = [*("--workload", action, "--total", "262144", "--count", "2")]
    measured = measure_forward(Commands(COMMAND, ROOT), common, tiny, seconds=PATIENCE)
    assert measured.line.get("bytes", measured.line.get("count")) > 0


def test_a_gateway_joins_sessions(keys: Path) -> None:
    common = ["--loop", "asyncio", "--keys", str(keys)]
    tiny = ["--workload", "beside-stuck", *TINY]
    measured = measure(
        Commands(COMMAND, ROOT), common, tiny, seconds=PATIENCE, through_gateway=True
    )
    assert measured.line["count"] == 2


def test_every_workload_of_the_catalogue_is_something_that_clients_can_do() -> None:
    known = {*MEASURES, *FORWARDS, "import"}
    assert [each.name for each in workloads() if each.told not in known] == []
    names = [each.name for each in workloads()]
    assert len(set(names)) == len(names)
    assert {each.basis for each in workloads()} <= {"", *names}
