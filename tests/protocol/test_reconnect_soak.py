"""Very many streams of one session: nothing accumulates (T-72)."""

from __future__ import annotations

import gc
import os
import time

import pytest

from anyssh.config import SessionConfig
from anyssh.protocol import Role

from .core_pair import CLIENT, FAST, SERVER, CorePair, running_pair

WARM_UP = 1_000
MAX_GROWTH = 100
"""Bytes for each reconnect."""
MAX_SECONDS = 0.015
"""CPU time of a reconnect of both sides, on top of the key exchange."""


def resident_bytes() -> int:
    """Return what the process occupies, 0 where that cannot be known."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def object_count() -> int:
    gc.collect()
    return len(gc.get_objects())


def forget_the_past(pair: CorePair) -> None:
    """Drop what the pair recorded."""
    pair.log.clear()
    pair.received.clear()
    for events in pair.events.values():
        events.clear()


def reconnect_with_traffic(pair: CorePair, count: int) -> None:
    """Lose a few bytes each way and the stream with them, again and again."""
    for number in range(count):
        word = b"%08d" % number
        for role, channel in zip(Role, pair.channels[0], strict=True):
            assert pair.connections[role].send_data(channel, memoryview(word)) == len(word)
        if number % 3:
            pair.lose()
        else:
            pair.end_stream()
        pair.reconnect()
        for role, channel in zip(Role, pair.channels[0], strict=True):
            assert pair.received[role, channel.local_id] == word
        forget_the_past(pair)


def key_exchange_seconds(count: int = 50) -> float:
    """Return the CPU time of a key exchange of both sides."""
    config = SessionConfig.with_reconnect(**FAST)
    before = time.process_time()
    for _ in range(count):
        CorePair(config).pump()
    return (time.process_time() - before) / count


def check_that_nothing_adds_up(count: int) -> tuple[float, float]:
    """Reconnect very often; return bytes and CPU seconds for each time."""
    pair = running_pair(SessionConfig.with_reconnect(**FAST), channels=1)
    reconnect_with_traffic(pair, min(WARM_UP, count))
    objects, resident = object_count(), resident_bytes()
    started = time.process_time()
    reconnect_with_traffic(pair, count)
    seconds = (time.process_time() - started) / count
    # A rare object of the interpreter's own may come or go.
    assert abs(object_count() - objects) < 50
    pair.assert_usable()
    for role in (CLIENT, SERVER):
        continuity = pair.connections[role].continuity
        assert continuity is not None
        assert continuity.journal.size < 10_000
    return (resident_bytes() - resident) / count, seconds - key_exchange_seconds()


def test_nothing_adds_up_over_many_streams() -> None:
    check_that_nothing_adds_up(100)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_nothing_adds_up_over_very_many_streams() -> None:
    growth, seconds = check_that_nothing_adds_up(10_000)
    assert growth < MAX_GROWTH
    assert seconds < MAX_SECONDS
