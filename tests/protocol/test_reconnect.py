"""Reconnecting between two cores, sans-IO: what is kept, retransmitted, and refused."""

from __future__ import annotations

import hmac

import pytest

from anyssh.config import RECONNECT_EXTENSIONS, SessionConfig
from anyssh.constants import (
    DisconnectReason,
    Extension,
    Mac,
    MessageNumber,
    ReconnectFailureReason,
)
from anyssh.errors import Disconnected, ReconnectError
from anyssh.messages import GlobalRequest, RequestSuccess, SessionReconnectResponse
from anyssh.protocol import Phase, Role
from anyssh.protocol.events import (
    ChannelRequestReceived,
    ConnectionTerminated,
    KeyExchangeCompleted,
    LatencyMeasured,
    SessionResumed,
)
from anyssh.protocol.key_exchange import ExchangeKeys
from anyssh.wire import mpint

from .core_pair import CLIENT, FAST, SERVER, START, CorePair, running_pair
from .scripted_peer import ScriptedPeer
from .test_acceptance import lost_session

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


def test_it_is_turned_on_once_and_nobody_answers() -> None:
    """HR-70: of our own accord, too."""
    pair = reconnecting_pair()
    enable = GlobalRequest(Extension.ENABLE_SESSION_RECONNECT_REQUEST, False).encode()
    for role in Role:
        named = [
            payload
            for payload in pair.sent(role)
            if payload[0] == MessageNumber.GLOBAL_REQUEST
            and GlobalRequest.decode(payload).request_name
            == Extension.ENABLE_SESSION_RECONNECT_REQUEST
        ]
        assert named == [enable]


def test_it_stays_off_without_a_common_mac() -> None:
    """HR-60, decision 4: the cipher authenticates, but there is no key to make tokens with."""
    pair = CorePair(
        reconnecting_config(macs=[Mac.HMAC_SHA2_256]), reconnecting_config(macs=[Mac.HMAC_SHA2_512])
    )
    pair.pump()
    pair.authenticate()
    for role in Role:
        assert pair.connections[role].continuity is None
        assert not pair.transport(role).gives_receipts
    pair.end_stream()
    for role in Role:
        assert not ending(pair, role).is_survivable


def test_an_unlinked_client_remembers_which_packet_asked() -> None:
    """A server that answered it may have gone on, over a stream whose numbers say nothing."""
    pair = running_pair(reconnecting_config(extensions=UNLINKED), channels=1)
    continuity = pair.connections[CLIENT].continuity
    assert continuity is not None
    assert continuity.journal.unanswered == -1
    pair.lose()
    last = []
    for _ in range(2):
        pair.reconnect(pump=False)
        while not any(map(is_request, pair.sent(CLIENT))):
            pair.cross(CLIENT)
            pair.cross(SERVER)
        assert is_request(pair.sent(CLIENT)[-1])
        last.append(pair.transport(CLIENT).messages_sent - 1)
        assert continuity.journal.unanswered == max(last)
        pair.lose()


@pytest.mark.parametrize("more, words", [(0, "resumed over a stream"), (1, "expected one from")])
def test_a_number_that_may_be_of_a_stream_without_an_answer_is_no_good(
    more: int, words: str
) -> None:
    pair = running_pair(reconnecting_config(extensions=UNLINKED), channels=1)
    for _ in range(2):
        pair.lose()
        pair.reconnect(pump=False)
        while not any(map(is_request, pair.sent(CLIENT))):
            pair.cross(CLIENT)
            pair.cross(SERVER)
    continuity = pair.connections[CLIENT].continuity
    assert continuity is not None
    reconnector = pair.client._reconnector
    token = reconnector._tokens(to_server=False)(continuity.session_id)
    response = SessionReconnectResponse(token, reconnector._unanswered + more)
    with pytest.raises(ReconnectError, match=words) as caught:
        reconnector.receive_success(RequestSuccess(response.encode()).encode())
    assert caught.value.reason == ReconnectFailureReason.CLIENT_DROPPED_MESSAGES


def is_request(payload: bytes) -> bool:
    """Whether a payload asks for a lost session."""
    return (
        payload[0] == MessageNumber.GLOBAL_REQUEST
        and GlobalRequest.decode(payload).request_name == Extension.SESSION_RECONNECT_REQUEST
    )


def test_a_client_that_is_refused_forgets_that_it_asked() -> None:
    pair = running_pair(reconnecting_config(extensions=UNLINKED), channels=1)
    continuity = pair.connections[CLIENT].continuity
    assert continuity is not None
    pair.lose()
    pair.connections[SERVER].continuity, kept = None, pair.connections[SERVER].continuity
    pair.reconnect()
    assert isinstance(pair.termination_of(CLIENT), ReconnectError)
    assert kept is not None
    assert continuity.journal.unanswered == -1


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


def test_a_known_token() -> None:
    """From an independent implementation that came back to other programs' sessions with it.

    It takes the keys of the MAC that was agreed on, though AES-GCM has no use for them.
    """
    pair = CorePair(reconnecting_config(macs=["hmac-sha2-512"]))
    pair.pump()
    exchanger = pair.client.exchanger
    first = exchanger._first
    assert first is not None
    secret, exchange_hash = mpint(int("f1" + "23" * 47, 16)), bytes(range(48))
    first.keys = ExchangeKeys("sha384", secret, exchange_hash, exchange_hash)
    exchanger.session_id = bytes(range(0x30, 0x60))
    token = pair.client._reconnector._tokens(to_server=True)(bytes(range(48)))
    assert token.hex() == (
        "4acfbbbcb92f8e4dd4a616a585d847643131852434cc949ee8fe805533f21465"
        "c5061995d75d74225d6f46f66063dba1c5cc9d7d8bdf69bb9a29a74d2e376527"
    )


@pytest.mark.parametrize("starter", Role)
def test_new_keys_by_bytes_after_the_stream_was_lost(starter: Role) -> None:
    """ROT-06: the new stream counts from nothing, and its keys last no longer than others."""
    configs = {
        starter: reconnecting_config(rekey_bytes=100_000),
        starter.other: reconnecting_config(),
    }
    pair = running_pair(configs[CLIENT], configs[SERVER], channels=1)
    ours, theirs = pair.channels[0]
    pair.send(CLIENT, ours, bytes(90_000))
    sent = 90_000
    for _ in range(2):
        pair.lose()
        pair.events[CLIENT].clear()
        pair.reconnect()
        for size, expected in ((90_000, 1), (15_000, 2), (90_000, 2), (15_000, 3)):
            pair.send(CLIENT, ours, bytes(size))
            sent += size
            assert len(pair.of_type(CLIENT, KeyExchangeCompleted)) == expected
    assert len(pair.received[SERVER, theirs.local_id]) == sent
    pair.assert_usable()


@pytest.mark.parametrize("starter", Role)
@pytest.mark.parametrize("steps", range(5))
def test_the_stream_is_lost_in_the_middle_of_a_rekey(steps: int, starter: Role) -> None:
    """ROT-07: after each step of the exchange; what waited for the new keys is sent."""
    pair = running_pair(reconnecting_config(), channels=1)
    channels = dict(zip((CLIENT, SERVER), pair.channels[0], strict=True))
    pair.cores[starter].start_rekey(pair.now)
    role = starter
    for _ in range(steps):
        pair.cross(role)
        role = role.other
    for role, channel in channels.items():
        pair.connections[role].request_channel(channel, "later", b"", want_reply=True)
    pair.lose()
    pair.reconnect()
    for role, channel in channels.items():
        pair.send(role, channel, b"as usual")
    for role, channel in channels.items():
        assert pair.received[role, channel.local_id] == b"as usual"
        names = [event.request.name for event in pair.of_type(role, ChannelRequestReceived)]
        assert names == ["later"]
    pair.rekey(starter)
    pair.assert_usable()


@pytest.mark.parametrize("reason", range(21))
def test_only_a_lost_connection_survives_a_goodbye(reason: int) -> None:
    pair = reconnecting_pair()
    pair.client.disconnect(reason, "")
    pair.pump()
    for role in Role:
        assert ending(pair, role).is_survivable is (reason == DisconnectReason.CONNECTION_LOST)
        assert isinstance(ending(pair, role).error, Disconnected)


@pytest.mark.parametrize("role", Role)
def test_silence_in_an_exchange_of_keys_costs_the_stream_only(role: Role) -> None:
    """It is no fault of the peer, who may not be there any more; nobody is told goodbye."""
    pair = reconnecting_pair()
    core = pair.cores[role]
    core.start_rekey(pair.now)
    assert core.data_to_send(pair.now)
    pair.handle(role, core.handle_timeout(pair.now + core.config.limits.key_exchange_time))
    assert ending(pair, role).is_survivable
    assert "too long for new keys" in str(ending(pair, role).error)
    assert core.data_to_send(pair.now) == b""


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


# Peers that leave something out


def asked_for(role: Role, *more: str) -> ScriptedPeer:
    """Return a core whose peer knows the extension, in a running session."""
    peer = ScriptedPeer(
        role,
        extensions=RECONNECT_EXTENSIONS,
        authenticate=lambda client: client.request_password("alice", "wonderland"),
    )
    peer.greet()
    names = {
        SERVER: ("KEXDH_INIT", "SERVICE_REQUEST", "USERAUTH_REQUEST"),
        CLIENT: ("KEXDH_REPLY", "SERVICE_ACCEPT", "USERAUTH_SUCCESS"),
    }[role]
    for name in ("KEXINIT", names[0], "NEWKEYS", "EXT_INFO reconnect", *more, *names[1:]):
        peer.send(name)
    assert peer.core.phase is Phase.RUNNING
    return peer


@pytest.mark.parametrize("role", Role)
def test_a_peer_that_turns_nothing_on_is_not_waited_for(role: Role) -> None:
    """It knows the extension, but may not have understood that it could be used."""
    (end,) = asked_for(role).core.receive_eof(START)
    assert isinstance(end, ConnectionTerminated)
    assert not end.is_survivable
    (end,) = asked_for(role, "GLOBAL_REQUEST enable").core.receive_eof(START)
    assert isinstance(end, ConnectionTerminated)
    assert end.is_survivable


def test_a_server_that_goes_on_has_turned_it_on() -> None:
    """Whether or not it has said so on the new stream, too."""
    peer = ScriptedPeer(CLIENT, extensions=RECONNECT_EXTENSIONS, continuity=lost_session())
    peer.greet()
    for name in ("KEXINIT", "KEXDH_REPLY", "NEWKEYS", "EXT_INFO reconnect"):
        peer.send(name)
    continuity = peer.connection.continuity
    assert continuity is not None
    digest, key = peer.core.exchanger.mac_key(to_server=False)
    token = hmac.digest(key, continuity.session_id + peer.core.exchanger.session_id, digest)
    number = continuity.journal.last_sent
    response = SessionReconnectResponse(token, number).encode()
    peer.send_payload(RequestSuccess(response).encode())
    assert peer.core.phase is Phase.RUNNING
    (end,) = peer.core.receive_eof(START)
    assert isinstance(end, ConnectionTerminated)
    assert end.is_survivable
