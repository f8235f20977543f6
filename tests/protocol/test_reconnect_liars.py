"""Peers that lie about receipts, reconnecting and their identity (T-51, T-55).

Whatever they send, nothing of a session is disclosed to a peer that has not proved to be its other
end, and the session itself is unharmed: its true peer resumes it afterwards.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable
from typing import Any

import pytest

from anyssh.config import RECONNECT_EXTENSIONS, SessionConfig
from anyssh.constants import (
    DisconnectReason,
    Extension,
    Mac,
    MessageNumber,
    ReconnectFailureReason,
)
from anyssh.errors import HostKeyError, ReconnectError, RemoteProtocolError
from anyssh.messages import (
    Disconnect,
    GlobalRequest,
    Ignore,
    LinkedSessionReconnectRequest,
    RequestFailure,
    RequestSuccess,
    SessionReconnectFailure,
    SessionReconnectResponse,
)
from anyssh.protocol import Phase, Role
from anyssh.protocol.events import (
    ConnectionTerminated,
    ReconnectRequested,
    ReplyReceived,
    SessionResumed,
)

from .core_pair import (
    CLIENT,
    FAST,
    SERVER,
    Answers,
    CorePair,
    assert_terminated,
    host_key,
    not_strict,
    resume,
    running_pair,
)

ENABLE = GlobalRequest(Extension.ENABLE_SESSION_RECONNECT_REQUEST, False).encode()
CONNECTION_MESSAGES = range(90, 128)


def reconnecting_config(**changes: Any) -> SessionConfig:
    return SessionConfig.with_reconnect(**FAST | changes)


class Lost:
    """A session without a stream, each side of which has something that the other lacks."""

    def __init__(self, config: SessionConfig | None = None) -> None:
        self.pair = running_pair(config or reconnecting_config(), channels=1)
        client, server = self.pair.channels[0]
        self.pair.connections[CLIENT].send_data(client, memoryview(b"from the client"))
        self.pair.connections[SERVER].send_data(server, memoryview(b"from the server"))
        self.pair.lose()

    def session_id(self) -> bytes:
        continuity = self.pair.connections[SERVER].continuity
        assert continuity is not None
        return continuity.session_id

    def stranger(self) -> CorePair:
        """Return a client whose keys are exchanged, and a server that knows the session."""

        def answer(event: ReconnectRequested, connection: object, now: float) -> None:
            resume(event, self.pair.connections[SERVER], now)

        stranger = CorePair(reconnecting_config(), answers=Answers(reconnect=answer))
        stranger.pump()
        return stranger

    def last_received(self) -> int:
        return self.journal(CLIENT).last_received

    def journal(self, role: Role) -> Any:
        continuity = self.pair.connections[role].continuity
        assert continuity is not None
        return continuity.journal

    def assert_intact(self) -> None:
        """Go on with the session; what was lost must arrive, once."""
        pair = self.pair
        client, server = pair.channels[0]
        assert not pair.received[CLIENT, client.local_id]
        assert not pair.received[SERVER, server.local_id]
        pair.reconnect()
        assert pair.received[SERVER, server.local_id] == b"from the client"
        assert pair.received[CLIENT, client.local_id] == b"from the server"
        pair.assert_usable()


def token(pair: CorePair, session_id: bytes, *, to_server: bool) -> bytes:
    """Return the right token for a session on the pair's stream, as the standard text has it."""
    exchanger = pair.client.exchanger
    digest, key = exchanger.mac_key(to_server=to_server)
    return hmac.digest(key, session_id + exchanger.session_id, digest)


def reconnect_request(client_token: bytes, number: int, link_id: bytes) -> bytes:
    payload = LinkedSessionReconnectRequest(client_token, number, link_id, 1).encode()
    return GlobalRequest(Extension.SESSION_RECONNECT_REQUEST, True, payload).encode()


def nothing_of_the_session_left(pair: CorePair, role: Role) -> None:
    """Check that a side sent nothing that belongs to a session."""
    assert not [number for number in pair.sent_numbers(role) if number in CONNECTION_MESSAGES]


def refusal(pair: CorePair) -> int:
    """Return the reason of the server's refusal, which must be its last word."""
    assert pair.server.phase is Phase.TERMINATED
    last = pair.sent(SERVER)[-1]
    assert last[0] == MessageNumber.REQUEST_FAILURE
    return SessionReconnectFailure.decode(RequestFailure.decode(last).payload).reason


# Receipts


def forge_receipts(pair: CorePair, role: Role, receipt: bytes) -> None:
    """Let a side end its packets in something else than a receipt."""
    pair.transport(role)._make_receipt = lambda: receipt


FORGED = {
    "of a packet never sent": lambda last, sent: sent,
    "far beyond": lambda last, sent: 2**63,
    "minus one": lambda last, sent: 2**64 - 1,
    "of an earlier packet": lambda last, sent: last - 1,
    "of the first packet": lambda last, sent: 0,
}


@pytest.mark.parametrize("liar", Role)
@pytest.mark.parametrize("case", FORGED)
def test_a_false_receipt_ends_the_session(liar: Role, case: str) -> None:
    """HR-66: it tells of a packet that was not sent yet, or of less than the one before."""
    pair = running_pair(reconnecting_config(), channels=1)
    victim = pair.transport(liar.other)
    number = FORGED[case](victim.last_receipt, victim.messages_sent)
    forge_receipts(pair, liar, struct.pack(">QI", number, 0))
    pair.inject(liar, Ignore(b"").encode())
    assert_terminated(pair, liar.other, DisconnectReason.PROTOCOL_ERROR, "acknowledges packet")
    pair.end_stream()
    assert pair.connections[liar.other].continuity is None


@pytest.mark.parametrize("size", [0, 1, 8, 11])
def test_a_packet_without_room_for_a_receipt_ends_the_session(size: int) -> None:
    """HR-66: what is left without its receipt must be a message."""
    pair = running_pair(reconnecting_config(), channels=1)
    forge_receipts(pair, CLIENT, b"")
    pair.inject(CLIENT, b"\x02" + bytes(size))
    assert_terminated(pair, SERVER, DisconnectReason.PROTOCOL_ERROR, "without a receipt")


@pytest.mark.parametrize("has_delays", [True, False])
@pytest.mark.parametrize("is_strict", [True, False])
def test_receipts_count_over_the_reset_of_sequence_numbers(
    is_strict: bool, has_delays: bool
) -> None:
    """HR-13: strict key exchange numbers packets anew, receipts go on."""
    offers: dict[str, Any] = {} if is_strict else {"server_offer": not_strict}
    extensions = [
        name for name in RECONNECT_EXTENSIONS if has_delays or name != Extension.SESSION_LATENCY
    ]
    pair = running_pair(reconnecting_config().replace(extensions=extensions), channels=1, **offers)
    assert pair.client.exchanger.is_strict is is_strict
    for starter in (*Role, CLIENT):
        pair.rekey(starter)
        pair.assert_usable()
    pair.advance(2)
    for role in Role:
        transport = pair.transport(role)
        assert (transport.send_sequence < transport.messages_sent) is is_strict
        # All but the last packets, an IGNORE among them, are acknowledged.
        assert transport.messages_sent - transport.last_receipt <= 4
    pair.connections[CLIENT].send_data(pair.channels[0][0], memoryview(b"on its way"))
    pair.lose()
    pair.reconnect()
    server = pair.channels[0][1]
    assert pair.received[SERVER, server.local_id].endswith(b"on its way")


# Turning it on


@pytest.mark.parametrize("liar", Role)
def test_it_is_turned_on_once(liar: Role) -> None:
    """HR-70."""
    pair = running_pair(reconnecting_config())
    pair.inject(liar, ENABLE)
    assert_terminated(pair, liar.other, DisconnectReason.PROTOCOL_ERROR, "enabled twice")


@pytest.mark.parametrize("liar", Role)
def test_it_is_not_turned_on_unless_both_announced_it(liar: Role) -> None:
    """HR-60, HR-70: neither while running, nor before."""
    pair = running_pair()
    pair.inject(liar, ENABLE)
    assert_terminated(pair, liar.other, DisconnectReason.PROTOCOL_ERROR)
    early = CorePair()
    early.pump()
    early.inject(liar, ENABLE)
    assert_terminated(early, liar.other, DisconnectReason.PROTOCOL_ERROR)


# False clients


TOKENS: dict[str, Callable[[CorePair, bytes], bytes]] = {
    "wrong": lambda pair, secret: bytes(64),
    "empty": lambda pair, secret: b"",
    "short": lambda pair, secret: token(pair, secret, to_server=True)[:-1],
    "long": lambda pair, secret: token(pair, secret, to_server=True) + b"\0",
    "made with the server's key": lambda pair, secret: token(pair, secret, to_server=False),
    "of another session": lambda pair, secret: token(pair, b"x" * len(secret), to_server=True),
    "of no session": lambda pair, secret: token(pair, b"", to_server=True),
}


@pytest.mark.parametrize("case", TOKENS)
def test_a_false_token_gets_nothing(case: str) -> None:
    """T-51, HR-62: the server says that it knows no such session, and ends the connection."""
    lost = Lost()
    pair = lost.stranger()
    kept = list(lost.journal(SERVER)._entries)
    false = TOKENS[case](pair, lost.session_id())
    request = reconnect_request(false, lost.last_received(), lost.journal(CLIENT).link_id)
    pair.inject(CLIENT, request)
    assert refusal(pair) == ReconnectFailureReason.SESSION_NOT_FOUND
    nothing_of_the_session_left(pair, SERVER)
    assert not pair.of_type(SERVER, SessionResumed)
    assert list(lost.journal(SERVER)._entries) == kept
    lost.assert_intact()


def test_a_token_is_good_for_one_stream() -> None:
    """T-51: what was seen on one stream proves nothing on another."""
    lost = Lost()
    first, second = lost.stranger(), lost.stranger()
    seen = token(first, lost.session_id(), to_server=True)
    request = reconnect_request(seen, lost.last_received(), lost.journal(CLIENT).link_id)
    second.inject(CLIENT, request)
    assert refusal(second) == ReconnectFailureReason.SESSION_NOT_FOUND
    nothing_of_the_session_left(second, SERVER)
    lost.assert_intact()


def test_a_client_has_one_try() -> None:
    """HR-62: after a false token even a right one comes too late."""
    lost = Lost()
    pair = lost.stranger()
    link_id, number = lost.journal(CLIENT).link_id, lost.last_received()
    right = token(pair, lost.session_id(), to_server=True)
    for each in (bytes(64), right):
        pair.inject(CLIENT, reconnect_request(each, number, link_id), pump=False)
    pair.pump()
    assert refusal(pair) == ReconnectFailureReason.SESSION_NOT_FOUND
    assert pair.sent_numbers(SERVER).count(MessageNumber.REQUEST_FAILURE) == 1
    nothing_of_the_session_left(pair, SERVER)
    lost.assert_intact()


def test_nothing_is_received_while_it_is_decided_who_it_is() -> None:
    """HR-62: a second request, or anything else, waits behind the first and gains nothing."""
    lost = Lost()
    pair = lost.stranger()
    pair.answers.reconnect = None
    right = token(pair, lost.session_id(), to_server=True)
    request = reconnect_request(right, lost.last_received(), lost.journal(CLIENT).link_id)
    pair.inject(CLIENT, request, request, b"\x5a", Ignore(b"").encode())
    assert len(pair.of_type(SERVER, ReconnectRequested)) == 1
    assert pair.server.is_paused
    assert len(pair.of_type(SERVER, ReconnectRequested)) == 1


FALSE_NUMBERS = {
    "2^64-1": lambda lost: 2**64 - 1,
    "2^63": lambda lost: 2**63,
    "0": lambda lost: 0,
    "one too many": lambda lost: lost.journal(SERVER).last_sent + 1,
    "less than acknowledged": lambda lost: lost.journal(SERVER).acknowledged - 1,
}


@pytest.mark.parametrize("case", FALSE_NUMBERS)
def test_a_false_number_is_refused(case: str) -> None:
    """HR-65: even from the session's own client."""
    lost = Lost()
    pair = lost.stranger()
    right = token(pair, lost.session_id(), to_server=True)
    number = FALSE_NUMBERS[case](lost)
    pair.inject(CLIENT, reconnect_request(right, number, lost.journal(CLIENT).link_id))
    assert refusal(pair) == ReconnectFailureReason.SERVER_DROPPED_MESSAGES
    nothing_of_the_session_left(pair, SERVER)
    lost.assert_intact()


def test_a_number_of_a_stream_that_never_was_is_refused() -> None:
    lost = Lost()
    pair = lost.stranger()
    right = token(pair, lost.session_id(), to_server=True)
    pair.inject(CLIENT, reconnect_request(right, lost.last_received(), b"another stream"))
    assert refusal(pair) == ReconnectFailureReason.SERVER_DROPPED_MESSAGES
    nothing_of_the_session_left(pair, SERVER)
    lost.assert_intact()


def test_a_request_that_is_cut_short_is_refused() -> None:
    lost = Lost()
    pair = lost.stranger()
    right = token(pair, lost.session_id(), to_server=True)
    request = reconnect_request(right, lost.last_received(), lost.journal(CLIENT).link_id)
    pair.inject(CLIENT, request[:-1])
    assert_terminated(pair, SERVER, DisconnectReason.PROTOCOL_ERROR)
    nothing_of_the_session_left(pair, SERVER)
    lost.assert_intact()


# False servers


def answer_falsely(lost: Lost, make: Callable[[CorePair], bytes]) -> CorePair:
    """Let the client ask, and a false server answer."""
    pair = lost.pair
    usual, pair.answers.reconnect = pair.answers.reconnect, None
    pair.reconnect()
    assert pair.of_type(SERVER, ReconnectRequested)
    pair.inject(SERVER, make(pair))
    pair.answers.reconnect = usual
    return pair


def response(server_token: bytes, number: int) -> bytes:
    return RequestSuccess(SessionReconnectResponse(server_token, number).encode()).encode()


SERVER_TOKENS: dict[str, Callable[[CorePair, bytes], bytes]] = {
    **TOKENS,
    "short": lambda pair, secret: token(pair, secret, to_server=False)[:-1],
    "long": lambda pair, secret: token(pair, secret, to_server=False) + b"\0",
    "the client's own": lambda pair, secret: token(pair, secret, to_server=True),
    "of another session": lambda pair, secret: token(pair, b"x" * len(secret), to_server=False),
    "of no session": lambda pair, secret: token(pair, b"", to_server=False),
}
del SERVER_TOKENS["made with the server's key"]


@pytest.mark.parametrize("case", SERVER_TOKENS)
def test_a_server_that_does_not_prove_itself_gets_nothing(case: str) -> None:
    """HR-64, T-51."""
    lost = Lost()
    secret, number = lost.session_id(), lost.journal(SERVER).last_received
    pair = answer_falsely(lost, lambda pair: response(SERVER_TOKENS[case](pair, secret), number))
    error = pair.termination_of(CLIENT)
    assert isinstance(error, ReconnectError)
    assert error.reason == ReconnectFailureReason.INVALID_SERVER_TOKEN
    nothing_of_the_session_left(pair, CLIENT)
    pair.end_stream()
    lost.assert_intact()


@pytest.mark.parametrize("number", [0, 2**63, 2**64 - 1, "one too many"])
def test_a_server_that_claims_to_have_what_it_cannot_have_gets_nothing(number: Any) -> None:
    """HR-65."""
    lost = Lost()
    secret = lost.session_id()
    claimed = lost.journal(CLIENT).last_sent + 1 if number == "one too many" else number
    pair = answer_falsely(
        lost, lambda pair: response(token(pair, secret, to_server=False), claimed)
    )
    error = pair.termination_of(CLIENT)
    assert isinstance(error, ReconnectError)
    assert error.reason == ReconnectFailureReason.CLIENT_DROPPED_MESSAGES
    nothing_of_the_session_left(pair, CLIENT)
    pair.end_stream()
    lost.assert_intact()


@pytest.mark.parametrize(
    "payload, reason",
    [
        (RequestFailure(b"").encode(), ReconnectFailureReason.UNKNOWN_CLIENT_FAILURE),
        (
            RequestFailure(SessionReconnectFailure(2, "no\x1b[2J\n").encode()).encode(),
            ReconnectFailureReason.SESSION_NOT_FOUND,
        ),
        (RequestFailure(SessionReconnectFailure(77, "?").encode()).encode(), 77),
    ],
)
def test_a_refusal_is_told_with_its_reason(payload: bytes, reason: int) -> None:
    """HR-06: in words that are safe to show."""
    lost = Lost()
    pair = answer_falsely(lost, lambda pair: payload)
    error = pair.termination_of(CLIENT)
    assert isinstance(error, ReconnectError)
    assert error.reason == reason
    assert str(error).isprintable()
    pair.end_stream()
    lost.assert_intact()


@pytest.mark.parametrize("payload", [b"\x51", b"\x51\0\0\0\x01", b"\x51" + bytes(300)])
def test_an_answer_without_form_is_refused(payload: bytes) -> None:
    lost = Lost()
    pair = answer_falsely(lost, lambda pair: payload)
    assert_terminated_last(pair, CLIENT)
    nothing_of_the_session_left(pair, CLIENT)
    pair.end_stream()
    lost.assert_intact()


def assert_terminated_last(pair: CorePair, role: Role) -> None:
    assert pair.cores[role].phase is Phase.TERMINATED
    assert pair.sent_numbers(role)[-1] == MessageNumber.DISCONNECT


@pytest.mark.parametrize("payload", [b"\x51", b"\x52", b"\x5e" + bytes(8), b"\x34"])
def test_a_server_does_not_answer_what_was_never_asked(payload: bytes) -> None:
    """81 and 82 come to a client that asked for a session."""
    pair = CorePair(reconnecting_config())
    pair.pump()
    pair.inject(SERVER, payload)
    assert_terminated(pair, CLIENT, DisconnectReason.PROTOCOL_ERROR, "not allowed")


@pytest.mark.parametrize("payload", [b"\x5e" + bytes(8), b"\x34", b"\x07" + bytes(4), ENABLE])
def test_nothing_else_may_come_in_place_of_the_answer(payload: bytes) -> None:
    lost = Lost()
    pair = answer_falsely(lost, lambda pair: payload)
    assert_terminated_last(pair, CLIENT)
    nothing_of_the_session_left(pair, CLIENT)
    pair.end_stream()
    lost.assert_intact()


def test_nothing_is_asked_of_a_server_without_the_extension() -> None:
    """HR-60."""
    lost = Lost()
    pair = lost.pair
    pair.reconnect(server_config=SessionConfig(**FAST))
    error = pair.termination_of(CLIENT)
    assert isinstance(error, ReconnectError)
    assert MessageNumber.GLOBAL_REQUEST not in pair.sent_numbers(CLIENT)
    pair.end_stream()
    lost.assert_intact()


def test_another_host_key_gets_nothing() -> None:
    """T-51, HR-36, HR-64: not even the token."""
    lost = Lost()
    pair = lost.pair
    pair.reconnect(host_keys=[host_key(number=7)])
    assert isinstance(pair.termination_of(CLIENT), HostKeyError)
    assert MessageNumber.GLOBAL_REQUEST not in pair.sent_numbers(CLIENT)
    nothing_of_the_session_left(pair, CLIENT)
    pair.end_stream()
    lost.assert_intact()


def test_weaker_codes_get_nothing() -> None:
    """T-51, HR-64: a token with a shorter code than the session began with is not made."""
    strong = reconnecting_config(macs=(Mac.HMAC_SHA2_512_ETM, Mac.HMAC_SHA2_256))
    lost = Lost(strong)
    pair = lost.pair
    pair.reconnect(server_config=reconnecting_config(macs=(Mac.HMAC_SHA2_256,)))
    error = pair.termination_of(CLIENT)
    assert isinstance(error, ReconnectError)
    assert "weaker" in str(error)
    assert MessageNumber.GLOBAL_REQUEST not in pair.sent_numbers(CLIENT)
    pair.end_stream()
    lost.assert_intact()


# Requests that wait for their answers


@pytest.mark.parametrize("asker", Role)
def test_answers_find_their_requests_over_several_streams(asker: Role) -> None:
    """The answer to the reconnect request is no answer to those that wait, of either kind."""
    pair = running_pair(reconnecting_config(), channels=1, answers=Answers(grant_requests=None))
    mine = pair.channels[0][0 if asker is CLIENT else 1]
    ours = pair.connections[asker]
    slots = [
        ours.request_global("one@example.com", b"", want_reply=True),
        ours.request_channel(mine, "two", b"", want_reply=True),
        ours.request_global("three@example.com", b"", want_reply=True),
    ]
    pair.pump()
    pair.lose()
    slots.append(ours.request_global("four@example.com", b"", want_reply=True))
    pair.reconnect()
    assert not pair.of_type(asker, ReplyReceived)
    pair.lose()
    pair.reconnect()
    answered = pair.connections[asker.other]
    requests = [event.request for event in pair.events[asker.other] if hasattr(event, "request")]
    assert [request.name for request in requests] == [
        "one@example.com",
        "two",
        "three@example.com",
        "four@example.com",
    ]
    for request, verdict in zip(requests, (True, False, False, True), strict=True):
        answered.answer(request, verdict, b"")
        pair.lose()
        pair.reconnect()
    replies = {event.slot: event.is_success for event in pair.of_type(asker, ReplyReceived)}
    assert [replies[slot] for slot in slots] == [True, False, False, True]
    assert len(pair.of_type(asker, ReplyReceived)) == 4


# Goodbyes


def to_running(pair: CorePair) -> None:
    pair.pump()
    pair.authenticate()


def to_rekeying(pair: CorePair) -> None:
    """Stop behind both KEXINITs."""
    to_running(pair)
    pair.client.start_rekey(pair.now)
    pair.cross(CLIENT)
    pair.cross(SERVER)


PHASES: dict[str, tuple[Callable[[CorePair], object], set[Phase]]] = {
    "key exchange": (
        lambda pair: [pair.cross(role) for role in Role],
        {Phase.KEY_EXCHANGE},
    ),
    "encrypted": (CorePair.pump, {Phase.ENCRYPTED}),
    "running": (to_running, {Phase.RUNNING}),
    "rekeying": (to_rekeying, {Phase.REKEYING, Phase.RUNNING}),
}


@pytest.mark.parametrize("speaker", Role)
@pytest.mark.parametrize("phase", PHASES)
def test_a_goodbye_ends_the_session_on_both_sides(phase: str, speaker: Role) -> None:
    """T-52, HR-69: in each phase and for each reason but one, which tells of a lost connection."""
    reach, phases = PHASES[phase]
    for reason in range(21):
        pair = CorePair(reconnecting_config())
        reach(pair)
        assert {core.phase for core in pair.cores.values()} <= phases
        pair.cores[speaker].disconnect(reason, "so it goes")
        pair.pump()
        survives = reason == DisconnectReason.CONNECTION_LOST and Phase.RUNNING in phases
        for role in Role:
            assert pair.cores[role].phase is Phase.TERMINATED
            (end,) = pair.of_type(role, ConnectionTerminated)
            assert end.is_survivable is survives
            assert (pair.connections[role].continuity is not None) is survives
        if survives:
            pair.reconnect()
            pair.assert_usable()


def test_a_goodbye_on_a_stream_that_is_tried_does_not_end_the_session() -> None:
    """HR-69 is about the session's own streams: here speaks somebody who has proved nothing."""
    for reason in range(21):
        lost = Lost()
        pair = answer_falsely(lost, lambda pair, reason=reason: Disconnect(reason, "").encode())
        assert pair.client.phase is Phase.TERMINATED
        assert not pair.of_type(CLIENT, ConnectionTerminated)[-1].is_survivable
        pair.end_stream()
        lost.assert_intact()


# Broken packets


@pytest.mark.parametrize("victim", Role)
def test_a_broken_packet_costs_the_stream_but_not_for_ever(victim: Role) -> None:
    """HR-69: five times a minute; whoever can break more of them has to be kept out."""
    pair = running_pair(reconnecting_config(), channels=1)
    ours, theirs = pair.channels[0] if victim is SERVER else pair.channels[0][::-1]

    def break_a_packet() -> bool:
        """Return whether the session survives it."""
        pair.connections[victim.other].send_data(ours, memoryview(b"x"))
        data = b"".join(pair.take(victim.other))
        pair.feed(victim, data[:-1] + bytes([data[-1] ^ 1]))
        end = pair.of_type(victim, ConnectionTerminated)[-1]
        assert isinstance(end.error, RemoteProtocolError)
        assert end.error.reason == DisconnectReason.MAC_ERROR
        return end.is_survivable

    for _ in range(5):
        assert break_a_packet()
        assert MessageNumber.DISCONNECT not in pair.sent_numbers(victim)
        pair.end_stream()
        pair.reconnect()
    assert pair.received[victim, theirs.local_id] == b"x" * 5
    pair.now += 12
    assert break_a_packet()
    pair.end_stream()
    pair.reconnect()
    assert not break_a_packet()
    assert pair.sent_numbers(victim)[-1] == MessageNumber.DISCONNECT
    assert pair.connections[victim].continuity is None
