"""Reconnecting, between two cores without a stream: what is kept, sent again, and refused."""

from __future__ import annotations

import pytest

from anyssh.config import RECONNECT_EXTENSIONS, SessionConfig
from anyssh.constants import DisconnectReason, Extension
from anyssh.errors import Disconnected, ReconnectError
from anyssh.protocol import Phase, Role
from anyssh.protocol.events import ConnectionTerminated, LatencyMeasured, SessionResumed

from .core_pair import CLIENT, FAST, SERVER, CorePair, running_pair

LINKED = RECONNECT_EXTENSIONS
UNLINKED = tuple(name for name in LINKED if name != Extension.SESSION_LINK)


def reconnecting_config(**changes: object) -> SessionConfig:
    """Return a configuration that announces reconnect, with a cheap handshake."""
    return SessionConfig.with_reconnect().replace(**FAST | changes)


def reconnecting_pair(channels: int = 1) -> CorePair:
    """Return a running pair that can lose its stream."""
    return running_pair(reconnecting_config(), channels=channels)


def ending(pair: CorePair, role: Role) -> ConnectionTerminated:
    return pair.of_type(role, ConnectionTerminated)[-1]


def test_both_sides_give_receipts_once_they_have_announced_them() -> None:
    pair = reconnecting_pair()
    for role in Role:
        transport = pair.transport(role)
        assert transport.gives_receipts
        assert transport.gets_receipts


def test_the_session_survives_the_end_of_its_stream() -> None:
    pair = reconnecting_pair()
    pair.end_stream()
    for role in Role:
        assert ending(pair, role).is_survivable
    pair.reconnect()
    for role in Role:
        assert pair.of_type(role, SessionResumed)
        assert pair.cores[role].phase is Phase.RUNNING
    pair.assert_usable()


@pytest.mark.parametrize("sender", Role)
def test_what_was_lost_on_its_way_is_sent_again_once(sender: Role) -> None:
    pair = reconnecting_pair()
    ours, theirs = pair.channels[0] if sender is CLIENT else pair.channels[0][::-1]
    pair.send(sender, ours, b"first ")
    pair.connections[sender].send_data(ours, memoryview(b"second "))
    pair.lose()
    pair.connections[sender].send_data(ours, memoryview(b"third "))
    pair.reconnect()
    pair.send(sender, ours, b"fourth")
    received = pair.received[sender.other, theirs.local_id]
    assert received == b"first second third fourth"


def test_losing_the_stream_again_before_the_answer_came_loses_nothing() -> None:
    pair = reconnecting_pair()
    client, server = pair.channels[0]
    pair.connections[SERVER].send_data(server, memoryview(b"one "))
    pair.connections[CLIENT].send_data(client, memoryview(b"eins "))
    pair.lose()
    for _ in range(3):
        pair.reconnect(pump=False)
        while not pair.of_type(SERVER, SessionResumed):
            pair.cross(CLIENT)
            if not pair.of_type(SERVER, SessionResumed):
                pair.cross(SERVER)
        pair.events[SERVER].clear()
        pair.connections[SERVER].send_data(server, memoryview(b"more "))
        pair.lose()
    pair.reconnect()
    assert pair.received[CLIENT, client.local_id] == b"one more more more "
    assert pair.received[SERVER, server.local_id] == b"eins "


@pytest.mark.parametrize("extensions", [LINKED, UNLINKED], ids=["linked", "unlinked"])
def test_losing_the_stream_right_after_the_answer_came_loses_nothing(
    extensions: tuple[str, ...],
) -> None:
    pair = running_pair(reconnecting_config(extensions=extensions), channels=1)
    client, server = pair.channels[0]
    pair.connections[SERVER].send_data(server, memoryview(b"one "))
    pair.lose()
    for _ in range(3):
        pair.reconnect(pump=False)
        pair.events[CLIENT].clear()
        while not pair.of_type(CLIENT, SessionResumed):
            pair.cross(CLIENT)
            pair.cross(SERVER)
        pair.connections[CLIENT].send_data(client, memoryview(b"eins "))
        pair.lose()
    pair.reconnect()
    assert pair.received[CLIENT, client.local_id] == b"one "
    assert pair.received[SERVER, server.local_id] == b"eins eins eins "


def test_a_number_that_cannot_be_changes_nothing() -> None:
    pair = reconnecting_pair()
    pair.lose()
    pair.reconnect(pump=False)
    while not pair.of_type(SERVER, SessionResumed):
        pair.cross(CLIENT)
        if not pair.of_type(SERVER, SessionResumed):
            pair.cross(SERVER)
    continuity = pair.connections[SERVER].continuity
    assert continuity is not None
    journal = continuity.journal
    previous = journal.previous
    assert previous is not None
    for link_id in (b"", previous.link_id, journal.link_id):
        with pytest.raises(ReconnectError):
            continuity.follow(link_id, 10_000)
        assert continuity.journal is journal


@pytest.mark.parametrize("reason", range(21))
def test_only_a_lost_connection_survives_a_goodbye(reason: int) -> None:
    pair = reconnecting_pair()
    pair.client.disconnect(reason, "")
    pair.pump()
    for role in Role:
        assert ending(pair, role).is_survivable is (reason == DisconnectReason.CONNECTION_LOST)
        assert isinstance(ending(pair, role).error, Disconnected)


def test_latency_is_measured_from_receipts() -> None:
    pair = reconnecting_pair()
    client, _ = pair.channels[0]
    pair.connections[CLIENT].send_data(client, memoryview(b"hello"))
    pair.now += 0.050
    pair.pump()
    pair.advance(1.5)
    assert any(
        event.milliseconds == pytest.approx(50) for event in pair.of_type(CLIENT, LatencyMeasured)
    )
