"""The rules of latency statistics (LAT, MET-05)."""

from __future__ import annotations

from anyssh import Latency
from anyssh.protocol.latency import LatencyStatistics


def test_nothing_was_measured() -> None:
    assert LatencyStatistics().snapshot() == Latency(0, 0, 0, 0)


def test_measurements() -> None:
    statistics = LatencyStatistics()
    assert [statistics.measured(value) for value in (4.0, 1.0, 7.0)] == [True, True, True]
    assert statistics.snapshot() == Latency(current=7, minimum=1, average=4, maximum=7)


def test_a_negative_one_changes_nothing() -> None:
    statistics = LatencyStatistics()
    statistics.measured(3)
    assert not statistics.measured(-1)
    assert statistics.snapshot() == Latency(3, 3, 3, 3)


def test_zero_means_disconnected() -> None:
    statistics = LatencyStatistics()
    statistics.measured(3)
    assert not statistics.measured(0)
    assert statistics.snapshot() == Latency(0, 3, 3, 3)


def test_the_rest_survives_a_disconnection() -> None:
    statistics = LatencyStatistics()
    statistics.measured(2)
    statistics.disconnected()
    assert statistics.snapshot() == Latency(0, 2, 2, 2)
    statistics.measured(4)
    assert statistics.snapshot() == Latency(4, 2, 3, 4)
