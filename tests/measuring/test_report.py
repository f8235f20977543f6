"""Medians and ratios are those of the rounds; documents get their tables in the right places."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the benchmarks run on Linux", allow_module_level=True)

from benchmarks.__main__ import _put_into
from benchmarks.catalogue import Workload, workloads
from benchmarks.harness import Measurement, MemorySamples
from benchmarks.implementations import Implementation, implementations
from benchmarks.instructions import _read
from benchmarks.peers.common import Crew, Repetitions, Signal
from benchmarks.report import Row, add_ratios, summarise, summary, table

CONDITIONS = {"processor": "P", "cores": 2, "python": "3", "versions": {"anyssh": "1"}, "runs": 3}


def workload(name: str) -> Workload:
    return next(each for each in workloads() if each.name == name)


def implementation(name: str) -> Implementation:
    return next(each for each in implementations() if each.name == name)


def row(of: str, by: str, *rates: float, p99: float = 0.001) -> Row:
    runs = []
    for rate in rates:
        line = {"count": rate, "seconds": 1.0, "p50": p99 / 2, "p99": p99}
        if workload(of).figure.unit == "MB/s":
            line = {"bytes": rate * 1e6, "seconds": 1.0}
        runs.append(Measurement(line, 1.0, 2.0, 10, 20, "", MemorySamples()))
    return summarise(workload(of), implementation(by), runs)


def test_ratios_are_taken_within_rounds() -> None:
    # The machine grew slower and slower, for both alike: in each round one is twice as fast.
    ours = row("upload", "anyssh/uvloop", 800, 200, 100)
    theirs = row("upload", "asyncssh/uvloop", 400, 100, 50)
    other = row("upload", "paramiko", 60, 60, 60)
    limit = row("upload", "framing/uvloop", 1600, 800, 200)
    add_ratios([ours, theirs, other, limit])
    assert ours.median("rate") == 200
    assert ours.ratios["times_best_peer"]["rate"] == 2
    assert ours.facts["best_peers"]["rate"] == "asyncssh/uvloop"
    assert ours.ratios["of_limit"]["rate"] == 0.5


def test_less_is_better_where_it_is() -> None:
    ours = row("ping-pong", "anyssh/trio", 10, p99=0.001)
    quick = row("ping-pong", "ssh2", 5, p99=0.002)
    slow = row("ping-pong", "paramiko", 20, p99=0.004)
    add_ratios([ours, quick, slow])
    assert ours.facts["best_peers"]["p99_milliseconds"] == "ssh2"
    assert ours.ratios["times_best_peer"]["p99_milliseconds"] == 2
    assert ours.ratios["times_best_peer"]["rate"] == 0.5


def test_a_workload_is_compared_with_its_basis_and_reconnect_with_plain() -> None:
    one = row("channels-1", "anyssh/uvloop", 100, 10)
    many = row("channels-1000", "anyssh/uvloop", 80, 8)
    on_another_loop = row("channels-1", "anyssh/trio", 1, 1)
    plain = row("upload", "anyssh/uvloop", 100, 50)
    reconnecting = row("upload", "anyssh-reconnect/uvloop", 90, 45)
    rows = [on_another_loop, one, many, plain, reconnecting]
    add_ratios(rows)
    assert many.ratios["of_basis"]["rate"] == pytest.approx(0.8)
    assert reconnecting.ratios["of_plain"]["rate"] == pytest.approx(0.9)
    assert "of_basis" not in one.ratios
    assert "90%" in summary(rows)


def test_cpu_time_is_that_of_both_sides() -> None:
    shown = row("upload", "anyssh/uvloop", 2**30 / 1e6)
    assert shown.median("cpu_seconds_per_gib") == pytest.approx(3.0)
    assert "CPU s/GiB" in table(workload("upload"), [shown])


def test_a_document_gets_its_tables_between_its_marks(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("# Title\n\nBefore.\n")
    _put_into(document, {"workloads": "| one |", "categories": ""}, CONDITIONS)
    document.write_text(document.read_text() + "\nAfter.\n")
    _put_into(document, {"workloads": "| two |", "categories": ""}, CONDITIONS)
    text = document.read_text()
    assert text.startswith("# Title\n\nBefore.\n")
    assert text.endswith("\nAfter.\n")
    assert "| two |" in text
    assert "| one |" not in text
    assert text.count("<!-- benchmarks: workloads -->") == 1


def test_instructions_are_added_up_by_function(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text(
        "desc: I1 cache:\ncmd: x\nevents: Ir\nfl=a.c\nfn=one\n3 10\n4 5\nfn=two\n0 7\n"
        "fl=b.c\nfn=one\n9 1\nsummary: 23\n"
    )
    assert _read(out) == {"one": 16, "two": 7}
    assert not out.exists()


def test_repetitions_go_by_their_number() -> None:
    repetitions = Repetitions(0.0, 3)
    assert len(list(repetitions)) == 3
    assert repetitions.result()["count"] == 3


def test_a_crew_of_threads_is_waited_for() -> None:
    met: list[str] = []

    async def wait(signal: Any) -> None:
        await signal.wait()
        met.append("waited")

    async def work() -> None:
        signal = Signal("none")
        async with Crew("none") as crew:
            crew.start(wait, signal)
            signal.set()
        met.append("over")

    with pytest.raises(StopIteration):
        work().send(None)
    assert met == ["waited", "over"]
