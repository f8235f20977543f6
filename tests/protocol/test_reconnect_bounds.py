"""The bounds on reconnecting, and that no conforming peer ever meets one (T-58)."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import pytest

from anyssh.config import Limits, SessionConfig
from anyssh.constants import DisconnectReason, MessageNumber
from anyssh.errors import SSHError
from anyssh.messages import ChannelWindowAdjust, Ignore
from anyssh.protocol import Phase, Role
from anyssh.protocol.channel import ChannelState
from anyssh.protocol.events import ChannelWritable, ConnectionTerminated, SessionResumed
from anyssh.protocol.journal import ENTRY_OVERHEAD, Journal
from anyssh.protocol.offline import RESERVE

from .core_pair import CLIENT, FAST, SERVER, Answers, CorePair, running_pair

KIB = 1024
MIB = 1024 * KIB


def reconnecting_config(**changes: Any) -> SessionConfig:
    return SessionConfig.with_reconnect(**FAST | changes)


def journal(pair: CorePair, role: Role) -> Journal:
    continuity = pair.connections[role].continuity
    assert continuity is not None
    return continuity.journal


def send_into_the_void(pair: CorePair, sender: Role, channel: ChannelState, data: bytes) -> bytes:
    """Send as much as is taken, while the stream takes everything and delivers nothing."""
    taken = 0
    view = memoryview(data)
    while count := pair.connections[sender].send_data(channel, view[taken:]):
        taken += count
        pair.cores[sender].data_to_send(pair.now)
    return data[:taken]


@pytest.mark.parametrize("sender", Role)
@pytest.mark.parametrize("chunk_size", [None, 256 * KIB])
def test_all_that_may_be_on_its_way_can_be_sent_again(sender: Role, chunk_size: int | None) -> None:
    """As many bytes as the journal holds come in one go, behind the answer or the request."""
    pair = running_pair(reconnecting_config(), channels=5)
    sent: list[bytes] = []
    for index, channel in enumerate(pair.channels):
        ours = channel[0] if sender is CLIENT else channel[1]
        sent.append(send_into_the_void(pair, sender, ours, bytes([index]) * 2 * MIB))
    assert sum(map(len, sent)) > 3 * MIB
    pair.lose()
    pair.chunk_size = chunk_size
    pair.reconnect()
    for data, channel in zip(sent, pair.channels, strict=True):
        theirs = channel[1] if sender is CLIENT else channel[0]
        assert pair.received[sender.other, theirs.local_id] == data
    pair.assert_usable()


def test_what_was_taken_belongs_to_the_session() -> None:
    """A sender may use its buffer again, whether or not its bytes must be sent again."""
    pair = running_pair(reconnecting_config(), channels=1)
    ours, theirs = pair.channels[0]
    buffer = bytearray(b"before")
    assert pair.connections[CLIENT].send_data(ours, memoryview(buffer)) == 6
    buffer[:] = b"after!"
    buffer += b" and longer"
    pair.lose()
    again = bytearray(b"offline")
    assert pair.connections[CLIENT].send_data(ours, memoryview(again)) == 7
    again[:] = b"changed"
    pair.reconnect()
    assert pair.received[SERVER, theirs.local_id] == b"beforeoffline"


def test_a_channel_whose_turn_comes_while_a_stream_is_tried_gets_it() -> None:
    """Nothing that the new stream brings about is told to the one that is lost."""
    pair = running_pair(reconnecting_config(), channels=3)
    ours = [channel[0] for channel in pair.channels]
    connection = pair.connections[CLIENT]
    pair.client.start_rekey(pair.now)
    for channel in ours:
        assert connection.send_data(channel, memoryview(b"x")) == 0
    pair.lose()
    pair.events[CLIENT].clear()
    pair.reconnect()
    for channel in ours:
        # Whoever was woken goes on, and so passes the turn to the next.
        woken = {event.channel for event in pair.of_type(CLIENT, ChannelWritable)}
        assert channel is ours[0] or channel in woken
        connection.send_data(channel, memoryview(b"x"))
        pair.pump()
    for _, theirs in pair.channels:
        assert pair.received[SERVER, theirs.local_id] == b"x"


@pytest.mark.parametrize("is_down", [False, True])
@pytest.mark.parametrize("size", [1, 100, 30_000])
def test_senders_wait_for_a_peer_that_acknowledges_nothing(is_down: bool, size: int) -> None:
    """HR-67: while the stream takes everything, and while there is none."""
    limits = Limits(unacknowledged_bytes=MIB)
    pair = running_pair(reconnecting_config(limits=limits), channels=40)
    if is_down:
        pair.end_stream()
    for channel, _ in pair.channels:
        for _ in range(3000):
            if not pair.connections[CLIENT].send_data(channel, memoryview(bytes(size))):
                break
            if not is_down:
                pair.client.data_to_send(pair.now)
    kept = journal(pair, CLIENT)
    assert MIB // 4 <= kept.size <= MIB + size + ENTRY_OVERHEAD + 20
    if not is_down:
        pair.lose()
    pair.reconnect()
    assert pair.client.phase is Phase.RUNNING
    pair.assert_usable()


@pytest.mark.parametrize("is_down", [False, True])
def test_the_end_of_the_reserve_ends_the_session(is_down: bool) -> None:
    """HR-67: what nobody can be made to wait with has a bound of its own."""
    limits = Limits(unacknowledged_bytes=MIB)
    pair = running_pair(reconnecting_config(limits=limits), channels=1)
    connection, core = pair.connections[CLIENT], pair.client
    channel = pair.channels[0][0]
    if is_down:
        pair.end_stream()
    pair.events[CLIENT].clear()
    largest = 0
    while not pair.of_type(CLIENT, ConnectionTerminated):
        largest = max(largest, journal(pair, CLIENT).size)
        assert largest <= MIB + RESERVE
        connection.request_channel(channel, "x@example.com", bytes(100), want_reply=False)
        core.data_to_send(pair.now)
        pair.handle(CLIENT, core.poll_events())
    (end,) = pair.of_type(CLIENT, ConnectionTerminated)
    assert isinstance(end.error, SSHError)
    assert not end.is_survivable
    assert "wait for the peer to acknowledge" in str(end.error)
    assert largest > MIB + RESERVE - 1000


def test_a_peer_that_acknowledges_nothing_is_asked_to() -> None:
    """HR-68: before senders have to wait, a silent peer has to say what it has."""
    limits = Limits(unacknowledged_bytes=64 * KIB)
    pair = running_pair(reconnecting_config(limits=limits), channels=1)
    ours, theirs = pair.channels[0]
    data = bytes(300 * KIB)
    pair.send(CLIENT, ours, data)
    assert pair.received[SERVER, theirs.local_id] == data


def test_it_is_asked_to_at_half_of_the_bound() -> None:
    for lacking in (1, 0):
        limits = Limits(unacknowledged_bytes=64 * KIB)
        pair = running_pair(reconnecting_config(limits=limits), channels=1)
        head = 9
        size = 32 * KIB - journal(pair, CLIENT).size - ENTRY_OVERHEAD - head - lacking
        data = memoryview(bytes(size))
        assert pair.connections[CLIENT].send_data(pair.channels[0][0], data) == size
        assert journal(pair, CLIENT).size == 32 * KIB - lacking
        before = pair.sent_numbers(CLIENT).count(MessageNumber.GLOBAL_REQUEST)
        pair.client.data_to_send(pair.now)
        asked = pair.sent_numbers(CLIENT).count(MessageNumber.GLOBAL_REQUEST) - before
        assert asked == (not lacking)


def test_it_is_asked_again_only_after_a_receipt_for_the_question() -> None:
    """HR-67: who acknowledges packets one by one, and answers nothing, costs no more each time."""
    limits = Limits(unacknowledged_bytes=256 * KIB)
    pair = running_pair(reconnecting_config(limits=limits), channels=1)
    theirs = pair.channels[0][1]
    acknowledged = pair.transport(SERVER).last_receipt
    pair.transport(CLIENT)._make_receipt = lambda: struct.pack(">QI", acknowledged, 0)
    waiting = pair.connections[SERVER]._replies

    def send(count: int) -> None:
        for _ in range(count):
            pair.connections[SERVER].send_data(theirs, memoryview(b"x"))
            pair.server.data_to_send(pair.now)

    def acknowledge(count: int) -> None:
        nonlocal acknowledged
        for _ in range(count):
            acknowledged += 1
            pair.client.transport.send(ChannelWindowAdjust(theirs.local_id, 1).encode())
            pair.server.receive_data(pair.client.transport.take_output(), pair.now)
            pair.server.data_to_send(pair.now)

    send(700)
    assert len(waiting) == 1
    acknowledge(100)
    assert 2 * journal(pair, SERVER).size > 256 * KIB
    assert len(waiting) == 1
    send(300)
    acknowledge(600)
    assert len(waiting) == 2, "a receipt for the question came, and much was sent since"
    assert pair.server.phase is Phase.RUNNING


def test_it_is_not_asked_while_new_keys_are_exchanged() -> None:
    """HR-67: the question would wait with us for a peer that never goes on with the exchange."""
    limits = Limits(unacknowledged_bytes=256 * KIB)
    pair = running_pair(reconnecting_config(limits=limits), channels=1)
    theirs = pair.channels[0][1]
    connection, server = pair.connections[SERVER], pair.server
    acknowledged = pair.transport(SERVER).last_receipt
    pair.transport(CLIENT)._make_receipt = lambda: struct.pack(">QI", acknowledged, 0)

    def send(count: int) -> None:
        for _ in range(count):
            assert connection.send_data(theirs, memoryview(b"x"))
            server.data_to_send(pair.now)

    def acknowledge(number: int) -> None:
        nonlocal acknowledged
        acknowledged = number
        pair.client.transport.send(ChannelWindowAdjust(theirs.local_id, 1).encode())
        server.receive_data(pair.client.transport.take_output(), pair.now)
        server.data_to_send(pair.now)

    send(700)
    acknowledge(acknowledged + 400)
    send(500)
    question = server._asked_with
    assert acknowledged < question
    server.start_rekey(pair.now)
    before = connection.held_size
    for number in range(question, question + 50):
        acknowledge(number)
        assert connection.held_size == before
    assert 2 * journal(pair, SERVER).size > 256 * KIB
    assert server.phase is Phase.RUNNING


def test_a_liar_that_repeats_its_receipt_is_cut_off() -> None:
    """HR-67: it reads, asks, and never admits that it has an answer."""
    pair = running_pair(
        reconnecting_config(limits=Limits(unacknowledged_bytes=256 * KIB, requests=64)),
        answers=Answers(grant_requests=False),
    )
    stuck = struct.pack(">QI", pair.transport(SERVER).last_receipt, 0)
    pair.transport(CLIENT)._make_receipt = lambda: stuck
    largest = 0
    while pair.server.phase is not Phase.TERMINATED:
        largest = max(largest, journal(pair, SERVER).size)
        for _ in range(20):
            pair.connections[CLIENT].request_global("x@example.com", b"", want_reply=True)
        pair.pump()
    assert "wait for the peer to acknowledge" in str(pair.termination(SERVER))
    assert largest <= 256 * KIB + RESERVE


def test_a_client_that_never_confirms_its_new_stream_costs_no_more_each_time() -> None:
    """The journal before is kept for it, but not the one before that."""
    pair = running_pair(reconnecting_config(), channels=1)
    server = pair.channels[0][1]
    for _ in range(50):
        send_into_the_void(pair, SERVER, server, bytes(10 * KIB))
        pair.lose()
        pair.events[SERVER].clear()
        pair.reconnect(pump=False)
        while not pair.of_type(SERVER, SessionResumed):
            pair.cross(CLIENT)
            if not pair.of_type(SERVER, SessionResumed):
                pair.cross(SERVER)
    chain = 0
    link: Journal | None = journal(pair, SERVER)
    while link is not None:
        assert link.size <= 50 * (10 * KIB + ENTRY_OVERHEAD + 20)
        link, chain = link.previous, chain + 1
    assert chain == 2
    pair.lose()
    pair.reconnect()
    client = pair.channels[0][0]
    assert len(pair.received[CLIENT, client.local_id]) == 50 * 10 * KIB


@pytest.mark.parametrize("reason", [DisconnectReason.BY_APPLICATION, DisconnectReason.MAC_ERROR])
def test_an_ended_session_keeps_nothing(reason: int) -> None:
    """Neither its messages nor its secret, whoever still holds it."""
    pair = running_pair(reconnecting_config(), channels=1)
    for role, channel in zip(Role, pair.channels[0], strict=True):
        send_into_the_void(pair, role, channel, bytes(100 * KIB))
    pair.client.disconnect(reason, "")
    pair.end_stream()
    for role in (CLIENT,):
        assert pair.connections[role].continuity is None


def test_silent_sides_stay_silent() -> None:
    """HR-68: a receipt is no reason for a receipt."""
    pair = running_pair(reconnecting_config(), channels=1)
    pair.advance(5)
    before = {role: len(pair.sent(role)) for role in Role}
    pair.advance(600)
    assert {role: len(pair.sent(role)) for role in Role} == before
    pair.inject(CLIENT, Ignore(b"").encode())
    pair.advance(600)
    assert len(pair.sent(SERVER)) == before[SERVER]


@pytest.mark.parametrize(
    "piece, whole",
    [(1, 1), (1, 512 * KIB), (600, 64 * KIB), (32 * KIB, 32 * KIB), (32 * KIB, MIB)],
)
def test_what_may_be_sent_again_costs_what_it_counts(piece: int, whole: int) -> None:
    """HR-67: however little a peer takes of what, and however small the messages are."""
    kept = Journal(b"")
    count = 2 * MIB // (piece + 256)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1000, 1000 + count):
            body = memoryview(bytes(whole))[:piece]
            kept.enter(number, float(number), struct.pack(">BII", 94, number, piece), body)
        del body
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 1.15 * kept.size
