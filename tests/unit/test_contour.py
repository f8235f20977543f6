"""Session contours: merging, the text format to the byte, hostile texts, drawings."""

from __future__ import annotations

import base64
import math
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

import anyssh
from anyssh import ContourFormatError, SessionContour

SENT, RECEIVED, LATENCY = "sent", "received", "latency"
Update = tuple[int, str, float]

FIRST: list[Update] = [
    (2000, RECEIVED, 2),
    (3000, LATENCY, 16),
    (3500, LATENCY, 32),
    (3800, SENT, 1),
    (3900, RECEIVED, 3),
]
SECOND: list[Update] = [*FIRST, (4000, SENT, 1), (4500, LATENCY, 32), (4600, LATENCY, 16)]
THIRD: list[Update] = [
    *SECOND,
    (8000, SENT, 1),
    (8100, LATENCY, 32),
    (12000, SENT, 2),
    (12500, LATENCY, 64),
]
FOURTH: list[Update] = [*THIRD, (16000, SENT, 10)]
EXPORTED: list[Update] = [
    (0, RECEIVED, 2000),
    (2000, LATENCY, 16),
    (3000, LATENCY, 32),
    (3600, SENT, 1000),
    (3800, RECEIVED, 3000),
    (4800, SENT, 1),
    (5000, LATENCY, 32),
    (5200, LATENCY, 16),
]
TEXT = "AQUBAAAAAgQBAgMLDAAAAAB9ECAY+rwQIBgAAA=="


def contour_of(updates: list[Update], max_intervals: int = 4, start: float = 0) -> SessionContour:
    contour = SessionContour(max_intervals, start=start)
    record = {
        SENT: contour.record_sent,
        RECEIVED: contour.record_received,
        LATENCY: contour.record_latency,
    }
    for milliseconds, what, amount in updates:
        record[what](start + milliseconds / 1000, amount)
    return contour


def rows(contour: SessionContour) -> list[list[float]]:
    return [
        [interval.latency_minimum for interval in contour.intervals],
        [interval.latency_maximum for interval in contour.intervals],
        [interval.latency_average for interval in contour.intervals],
        [interval.bytes_sent for interval in contour.intervals],
        [interval.bytes_received for interval in contour.intervals],
    ]


def text_of(*content: int) -> str:
    return base64.b64encode(bytes(content)).decode()


@pytest.mark.parametrize("start", [0, 12345.678])
@pytest.mark.parametrize(
    "updates,interval,expected",
    [
        (FIRST, 1, [[0, 0, 0, 16], [0, 0, 0, 32], [0, 0, 0, 24], [0, 0, 0, 1], [0, 0, 2, 3]]),
        (SECOND, 2, [[0, 16, 16], [0, 32, 32], [0, 24, 24], [0, 1, 1], [0, 5, 0]]),
        (
            THIRD,
            4,
            [[16, 16, 32, 64], [32, 32, 32, 64], [24, 24, 32, 64], [1, 1, 1, 2], [5, 0, 0, 0]],
        ),
        (FOURTH, 8, [[16, 32, 0], [32, 64, 0], [24, 48, 0], [2, 3, 10], [5, 0, 0]]),
    ],
    ids=["no merge", "one merge", "two merges", "three merges"],
)
def test_intervals_merge_in_pairs(
    start: float, updates: list[Update], interval: int, expected: list[list[float]]
) -> None:
    """CTR-01."""
    contour = contour_of(updates, start=start)
    assert contour.interval == interval
    assert rows(contour) == expected


@pytest.mark.parametrize("last", [4000, 4800])
def test_export_is_exact(last: int) -> None:
    """CTR-02."""
    updates = [(last if time == 4800 else time, what, amount) for time, what, amount in EXPORTED]
    assert contour_of(updates).export() == TEXT


def test_import_gives_what_the_scales_left() -> None:
    """CTR-03."""
    contour = SessionContour.import_(TEXT)
    assert contour.interval == 2
    assert rows(contour) == [[0, 16, 16], [0, 32, 32], [0, 24, 24], [0, 1000, 0], [2000, 3008, 0]]
    assert contour.max_intervals == 4
    assert contour.export() == TEXT


def test_a_short_contour() -> None:
    """CTR-05: an empty export is a header, which nobody imports; one interval is a contour."""
    empty = SessionContour()
    assert empty.intervals == ()
    assert empty.export() == text_of(1, 5, 0, 0, 0, 0, 0, 0, 1, 2, 3, 11, 12)
    with pytest.raises(ContourFormatError, match="empty"):
        SessionContour.import_(empty.export())
    single = SessionContour()
    single.record_sent(0, 7)
    again = SessionContour.import_(single.export())
    assert (again.max_intervals, again.intervals) == (2, single.intervals)


def test_a_long_silence() -> None:
    contour = SessionContour(4)
    contour.record_sent(0.5, 1)
    contour.record_sent(1e9, 2)
    assert contour.interval == 2**28
    assert [interval.bytes_sent for interval in contour.intervals] == [1, 0, 0, 2]


def test_a_time_before_the_start_counts_as_the_start() -> None:
    contour = SessionContour(4, start=100)
    contour.record_sent(99, 1)
    assert [interval.bytes_sent for interval in contour.intervals] == [1]


@pytest.mark.parametrize("milliseconds", [0, -1, math.nan])
def test_what_is_no_latency_leaves_no_trace(milliseconds: float) -> None:
    contour = SessionContour()
    contour.record_latency(1, milliseconds)
    assert contour.intervals == ()


@pytest.mark.parametrize("count", [-4, 0, 1, 3, 255, 65_537, 131_072])
def test_the_number_of_intervals_is_a_power_of_two(count: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        SessionContour(count)


UPDATES = st.lists(
    st.tuples(
        st.integers(0, 10**7),
        st.sampled_from([SENT, RECEIVED, LATENCY]),
        st.integers(0, 10**6),
    ),
    min_size=1,
)


@given(UPDATES, st.sampled_from([2, 4, 16, 256]))
def test_nothing_is_lost_in_any_order(updates: list[Update], max_intervals: int) -> None:
    contour = contour_of(updates, max_intervals)
    intervals = contour.intervals
    latencies = [amount for _, what, amount in updates if what == LATENCY and amount]
    assert len(intervals) <= max_intervals
    for name, what in (("bytes_sent", SENT), ("bytes_received", RECEIVED)):
        total = sum(amount for _, kind, amount in updates if kind == what)
        assert sum(getattr(interval, name) for interval in intervals) == total
    if latencies:
        measured = [interval for interval in intervals if interval.latency_minimum]
        assert min(interval.latency_minimum for interval in measured) == min(latencies)
        assert max(interval.latency_maximum for interval in measured) == max(latencies)


@given(UPDATES, st.sampled_from([2, 4, 16, 256]))
def test_import_of_an_export_is_stable(updates: list[Update], max_intervals: int) -> None:
    contour = contour_of(updates, max_intervals)
    if not contour.intervals:
        return
    once = SessionContour.import_(contour.export())
    twice = SessionContour.import_(once.export())
    assert once.interval == contour.interval
    assert len(once.intervals) == len(contour.intervals)
    assert twice.intervals == once.intervals
    for column, exact in zip(rows(once), rows(contour), strict=True):
        step = max(1, max(exact) / 127)
        assert all(abs(a - b) <= step / 2 for a, b in zip(column, exact, strict=True))


@pytest.mark.parametrize(
    "text,words",
    [
        ("", "header"),
        ("AQ==", "header"),
        ("AQUBAAAAAgQBAgMLDA==", "empty"),
        (TEXT[:-4], "incomplete"),
        ("@" + TEXT, "base64"),
        (TEXT[:-1], "base64"),
        ("ä" + TEXT, "base64"),
        (text_of(2, 5, 0), "version 2"),
        (text_of(1, 0, 0), "0 values"),
        (text_of(1, 255, 0, 0, 0), "255 values"),
        (text_of(1, 1, 64, 0, 1, 7), "scale"),
        (text_of(1, 1, 0, 255, 11, 7), "scale"),
        (text_of(1, 1, 0, 0, 11, *bytes(65_537)), "65536"),
        ("A" * (1024 * 1024 + 4), "at most"),
    ],
)
def test_hostile_texts(text: str, words: str) -> None:
    with pytest.raises(ContourFormatError, match=words) as caught:
        SessionContour.import_(text)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, anyssh.SSHError)


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda rest: b"\x01\x05\x01" + rest))
def test_any_bytes_are_a_contour_or_an_error(content: bytes) -> None:
    try:
        contour = SessionContour.import_(base64.b64encode(content).decode())
    except ContourFormatError:
        return
    contour.draw()
    contour.record_sent(1e6, 5)
    SessionContour.import_(contour.export())


def test_columns_are_found_by_their_ids() -> None:
    contour = SessionContour.import_(text_of(1, 3, 0, 9, 1, 0, 77, 12, 11, 200, 5, 6, 200, 7, 8))
    assert rows(contour)[3:] == [[6, 8], [10, 14]]
    assert rows(contour)[:3] == [[0, 0]] * 3


def test_recording_goes_on_after_an_import() -> None:
    contour = SessionContour.import_(TEXT)
    contour.record_sent(7, 5)
    contour.record_sent(8, 1)
    assert contour.interval == 4
    assert [interval.bytes_sent for interval in contour.intervals] == [1000, 5, 1]


@pytest.mark.parametrize("columns", [(1,), (12,), (1, 2, 3, 11, 12)], ids=str)
def test_a_long_contour_takes_little_for_each_character(columns: tuple[int, ...]) -> None:
    """Few of its numbers are different ones, and it is written column by column."""
    width = len(columns)
    header = bytes([1, width, 0, *[40] * width, *columns])
    rows = random.Random(1).randbytes(65_536 * width)
    text = base64.b64encode(header + rows).decode()
    allowed = 512 * 1024 + 64 * len(text)
    tracemalloc.start()
    try:
        contour = SessionContour.import_(text)
        held, peak = tracemalloc.get_traced_memory()
        assert peak < allowed
        contour.export()
        assert tracemalloc.get_traced_memory()[1] - held < allowed / 2
    finally:
        tracemalloc.stop()


def test_drawing() -> None:
    assert contour_of(EXPORTED).draw(40).splitlines() == [
        "sent         500 B/s   █▁",
        "received    1.5 kB/s  ▆█",
        "latency        24 ms   ██",
        "                      3 × 2 s",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("count", [0, 1, 2, 61, 256])
def test_a_drawing_has_room(width: int, count: int) -> None:
    contour = SessionContour(256)
    for second in range(count):
        contour.record_sent(second, second)
        contour.record_latency(second, 1 + second * 100)
    lines = contour.draw(width).splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= width


def test_a_drawing_may_not_be_too_narrow() -> None:
    with pytest.raises(ValueError, match="40"):
        SessionContour().draw(39)
