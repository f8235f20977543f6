"""The journal of a session: entering, acknowledging, finding what is missing, taking back."""

from __future__ import annotations

from typing import Any

import pytest

from anyssh.config import Limits
from anyssh.constants import ReconnectFailureReason
from anyssh.errors import ReconnectError
from anyssh.protocol import Phase
from anyssh.protocol.events import ConnectionTerminated, Event, RoomMade
from anyssh.protocol.journal import (
    ENTRY_OVERHEAD,
    FAULT_INTERVAL,
    FAULTS,
    LARGEST_WHOLE,
    SMALL_BYTES,
    Continuity,
    Journal,
)
from anyssh.protocol.offline import RESERVE, Offline, overflow


def journal(*numbers: int, link_id: bytes = b"link") -> Journal:
    """Return a journal in which packets are entered, each at a time that equals its number."""
    made = Journal(link_id)
    for number in numbers:
        made.enter(number, float(number), b"\x5e", b"body of %d" % number)
    return made


def numbers(entries: list[Any]) -> list[int]:
    return [entry[0] for entry in entries]


def test_a_new_journal_is_of_a_stream_without_packets() -> None:
    made = Journal(b"link")
    assert made.link_id == b"link"
    assert len(made) == made.size == 0
    assert made.acknowledged == made.last_sent == made.last_received == made.unanswered == -1
    assert made.previous is None
    made.end(0, 0)
    assert made.fits(0)


def test_what_the_peer_has_is_dropped() -> None:
    made = journal(3, 5, 8)
    assert len(made) == 3
    assert made.acknowledge(4) is None  # it was no packet of the journal
    assert made.acknowledged == 4
    assert len(made) == 2
    assert made.acknowledge(5) == 5.0
    assert made.acknowledge(7) is None
    assert made.acknowledge(8) == 8.0
    assert len(made) == 0
    assert made.size == 0
    assert made.acknowledge(9) is None


def test_the_size_counts_both_pieces_and_the_entry() -> None:
    made = Journal(b"")
    made.enter(0, 0.0, b"head", b"body")
    made.enter(1, 0.0, b"h")
    assert made.size == 8 + 1 + 2 * ENTRY_OVERHEAD
    made.acknowledge(0)
    assert made.size == 1 + ENTRY_OVERHEAD


def test_what_is_missing_is_in_its_order() -> None:
    made = journal(3, 5, 8)
    made.end(9, 0)
    assert numbers(made.missing(3)) == [5, 8]
    assert made.missing(3)[0] == (5, 5.0, b"\x5e", b"body of 5")
    assert numbers(made.missing(8)) == []


def test_what_is_entered_without_a_stream_comes_after_everything() -> None:
    made = journal(3)
    made.end(9, 4)
    assert (made.last_sent, made.last_received) == (9, 4)
    made.enter_unsent(1.0, b"\x5e", b"a")
    made.enter_unsent(1.0, b"\x5e", b"b")
    assert numbers(made.missing(9)) == [10, 11]
    empty = Journal(b"")
    empty.end(4, 0)
    empty.enter_unsent(1.0, b"\x5e")
    assert numbers(empty.missing(4)) == [5]


@pytest.mark.parametrize("number, fits", [(3, False), (4, True), (9, True), (10, False)])
def test_what_the_peer_may_say(number: int, fits: bool) -> None:
    """HR-65."""
    made = journal(3, 5, 8)
    made.end(9, 0)
    made.acknowledge(4)
    assert made.fits(number) is fits


# Two journals


def continued(*, link: bytes = b"new") -> tuple[Journal, Journal]:
    """Return the journal of a lost stream and that of its successor, which repeats one entry."""
    old = journal(3, 5, link_id=b"old")
    old.end(6, 0)
    new = Journal(link)
    new.continues(old, repeated=1, confirmed_by=2)
    new.enter(3, 30.0, b"\x5e", b"body of 5")
    new.enter(4, 40.0, b"\x5e", b"later")
    return old, new


def test_the_one_before_is_kept_until_its_successor_is_confirmed() -> None:
    old, new = continued()
    new.acknowledge(1)
    assert new.previous is old
    new.acknowledge(2)
    assert new.previous is None


def test_only_one_is_kept() -> None:
    old, new = continued()
    third = Journal(b"third")
    third.continues(new, repeated=0, confirmed_by=0)
    assert third.previous is new
    assert new.previous is None
    assert old.previous is None


@pytest.mark.parametrize("number, confirmed", [(1, False), (2, True), (6, True), (7, False)])
def test_who_has_the_confirmation(number: int, confirmed: bool) -> None:
    _, new = continued()
    new.end(6, 0)
    assert new.was_confirmed(number) is confirmed


def test_what_was_said_since_is_taken_back() -> None:
    old, new = continued()
    old.take_back(new)
    assert old.missing(3) == [
        (5, 5.0, b"\x5e", b"body of 5"),
        (7, 40.0, b"\x5e", b"later"),
    ]


# Which one a client comes from


def continuity(made: Journal) -> Continuity:
    return Continuity(b"id", None, None, made)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "link_id, number, is_old",
    [
        (b"old", 5, True),
        (b"new", 1, False),
        (b"new", 4, False),
        (b"", 4, False),  # it has the confirmation, so it comes from the new one
        (b"", 1, True),  # it cannot have it
    ],
)
def test_a_client_is_followed(link_id: bytes, number: int, is_old: bool) -> None:
    old, new = continued()
    new.end(4, 0)
    old.acknowledge(0)
    lost = continuity(new)
    assert lost.follow(link_id, number) is (old if is_old else new)
    assert lost.journal is (old if is_old else new)
    assert len(old) == (3 if is_old else 2)


@pytest.mark.parametrize(
    "link_id, number", [(b"old", 7), (b"new", 5), (b"other", 4), (b"", 7), (b"ol", 5)]
)
def test_who_comes_from_nowhere_is_refused(link_id: bytes, number: int) -> None:
    """HR-65: and the session is none the worse."""
    old, new = continued()
    new.end(4, 0)
    lost = continuity(new)
    with pytest.raises(ReconnectError, match=f"packet {number} cannot") as caught:
        lost.follow(link_id, number)
    assert caught.value.reason == ReconnectFailureReason.SERVER_DROPPED_MESSAGES
    assert lost.journal is new
    assert new.previous is old
    assert len(old) == 2


def test_a_few_broken_packets_are_survived() -> None:
    """HR-69: five times a minute."""
    lost = continuity(Journal(b""))
    assert lost.attempts == 0
    assert [lost.survives_fault(0.0) for _ in range(FAULTS + 1)] == [True] * FAULTS + [False]
    again = continuity(Journal(b""))
    for number in range(3 * FAULTS):
        assert again.survives_fault(number * FAULT_INTERVAL)


# What is kept of a body


def test_views_are_kept_where_they_show_enough_of_what_they_hold() -> None:
    made = Journal(b"")
    size = SMALL_BYTES + 1
    data = bytes(LARGEST_WHOLE * size)
    changing = bytearray(size)
    kept = memoryview(data)[:size]
    for body in (
        kept,
        memoryview(data + b"x")[:size],  # it holds too much for what it shows
        memoryview(data)[: size - 1],  # so little is soon copied
        memoryview(changing),
        changing,
    ):
        made.enter(0, 0.0, b"\x5e", body)
    changing[:] = b"x" * size
    bodies = [entry[3] for entry in made._entries]
    assert bodies[0] is kept
    assert bodies[1:] == [bytes(size), bytes(size - 1), bytes(size), bytes(size)]
    assert all(type(body) is bytes for body in bodies[1:])


# Without a stream


def offline(**limits: int) -> tuple[Offline, Journal, list[Event]]:
    made = journal(3)
    made.end(3, 0)
    told: list[Event] = []
    return Offline(made, Limits(**limits), told.append, lambda: 7.0), made, told


def test_room_without_a_stream_is_that_of_both_bounds() -> None:
    """HR-67."""
    link, made, _ = offline(pending_output=1000, unacknowledged_bytes=1500)
    before = made.size
    assert link.can_send
    assert link.room == 1000
    link.send(b"\x5e", bytes(99))
    assert link.room == 1000 - 100 - ENTRY_OVERHEAD
    link, made, _ = offline(pending_output=1000, unacknowledged_bytes=500)
    assert link.room == 500 - before


def test_what_is_sent_without_a_stream_is_entered() -> None:
    link, made, told = offline()
    link.send(b"\x5e", b"body")
    assert made.missing(3) == [(4, 7.0, b"\x5e", b"body")]
    assert told == []
    link.count_noise(10**9)
    event = RoomMade()
    link.emit(event)
    assert told == [event]


def test_too_much_that_waits_ends_the_session() -> None:
    """HR-67."""
    limits = Limits(unacknowledged_bytes=1000)
    made = Journal(b"")
    made.enter(0, 0.0, b"", bytes(1000 + RESERVE - ENTRY_OVERHEAD))
    assert overflow(made, limits) is None
    made.enter(1, 0.0, b"")
    error = overflow(made, limits)
    assert error is not None
    assert f"more than {1000 + RESERVE} bytes" in str(error)
    told: list[Event] = []
    Offline(made, limits, told.append, lambda: 0.0).send(b"\x5e")
    (end,) = told
    assert isinstance(end, ConnectionTerminated)
    assert str(end.error) == str(error)
    assert end.phase is Phase.TERMINATED
    assert not end.is_survivable
