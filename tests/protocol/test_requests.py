"""Requests in the core: of channels, global ones, keep-alive, services.

Replies carry no number. A request takes a place in a queue and keeps it until its reply has
arrived, cancelled or not; answers are sent in the order of the requests.
"""

from __future__ import annotations

import itertools
import random

import pytest

from anyssh.constants import Extension, MessageNumber, Service
from anyssh.errors import LocalProtocolError
from anyssh.messages import (
    ChannelFailure,
    ChannelRequest,
    ChannelSuccess,
    Debug,
    ExitSignal,
    ExitStatus,
    GlobalRequest,
    RequestFailure,
    RequestSuccess,
    ServiceAccept,
    ServiceRequest,
    Unimplemented,
)
from anyssh.protocol import Phase, Role
from anyssh.protocol.channel import PendingRequest, ReplySlot
from anyssh.protocol.events import (
    ChannelClosed,
    ChannelRequestReceived,
    DebugReceived,
    GlobalRequestReceived,
    KeepAliveAnswered,
    KeepAliveMissed,
    ReplyReceived,
    ServiceAccepted,
)
from anyssh.protocol.keep_alive import KeepAlive
from anyssh.trace import TraceEvent, TraceId

from .core_pair import (
    CLIENT,
    SERVER,
    Answers,
    CorePair,
    assert_terminated,
    fast_config,
    running_pair,
)

BOTH = pytest.mark.parametrize("asker", [CLIENT, SERVER], ids=["client", "server"])


def held_back(channels: int = 1) -> CorePair:
    """Return a running pair in which requests wait for the test's answer."""
    return running_pair(channels=channels, answers=Answers(grant_requests=None))


class Asker:
    """Asks one kind of request over and over, whichever kind that is."""

    def __init__(self, pair: CorePair, role: Role, of_channel: bool) -> None:
        self.pair = pair
        self.role = role
        self.of_channel = of_channel
        self.channel = pair.channels[0][0 if role is CLIENT else 1]

    def ask(self, name: str, *, want_reply: bool = True, payload: bytes = b"") -> ReplySlot:
        """Send a request."""
        connection = self.pair.connections[self.role]
        if self.of_channel:
            return connection.request_channel(self.channel, name, payload, want_reply=want_reply)
        return connection.request_global(name, payload, want_reply=want_reply)

    @property
    def received(self) -> list[PendingRequest]:
        """What the other side was asked so far."""
        role = self.role.other
        if self.of_channel:
            return [event.request for event in self.pair.of_type(role, ChannelRequestReceived)]
        return [event.request for event in self.pair.of_type(role, GlobalRequestReceived)]

    def answer(self, request: PendingRequest, is_success: bool, payload: bytes = b"") -> None:
        """Decide a request on the other side."""
        self.pair.connections[self.role.other].answer(request, is_success, payload)

    @property
    def replies(self) -> list[tuple[ReplySlot, bool, bytes]]:
        """What was answered so far."""
        events = self.pair.of_type(self.role, ReplyReceived)
        return [(event.slot, event.is_success, event.payload) for event in events]


@pytest.fixture(params=list(itertools.product(Role, (True, False))), ids=str)
def asker(request: pytest.FixtureRequest) -> Asker:
    """A side that asks, and whether of a channel or of the session."""
    role, of_channel = request.param
    return Asker(held_back(), role, of_channel)


def test_a_request_is_granted_or_refused(asker: Asker) -> None:
    """REQ-01, REQ-12: not before it is decided"""
    first, second = asker.ask("one", payload=b"\x00\x01"), asker.ask("two")
    asker.pair.pump()
    assert [(r.name, r.payload, r.want_reply) for r in asker.received] == [
        ("one", b"\x00\x01", True),
        ("two", b"", True),
    ]
    assert asker.replies == []
    asker.answer(asker.received[0], True)
    asker.pair.pump()
    assert asker.replies == [(first, True, b"")]
    asker.answer(asker.received[1], False)
    asker.pair.pump()
    assert asker.replies == [(first, True, b""), (second, False, b"")]


def test_requests_look_as_the_standard_says() -> None:
    pair = held_back()
    client, server = pair.channels[0]
    for is_success in (True, False):
        pair.connections[CLIENT].request_channel(client, "exec", b"\x01", want_reply=True)
        pair.connections[CLIENT].request_global("hello", b"\x02", want_reply=True)
        assert ChannelRequest.decode(pair.sent(CLIENT)[-2]) == ChannelRequest(
            server.local_id, "exec", True, b"\x01"
        )
        assert GlobalRequest.decode(pair.sent(CLIENT)[-1]) == GlobalRequest("hello", True, b"\x02")
        pair.pump()
        for_channel = pair.of_type(SERVER, ChannelRequestReceived)[-1]
        for_session = pair.of_type(SERVER, GlobalRequestReceived)[-1]
        for event in (for_channel, for_session):
            pair.connections[SERVER].answer(event.request, is_success, b"port")
    assert pair.sent(SERVER)[-4:] == [
        ChannelSuccess(client.local_id).encode(),
        RequestSuccess(b"port").encode(),
        ChannelFailure(client.local_id).encode(),
        RequestFailure(b"").encode(),
    ]


def test_a_request_without_reply_takes_no_place(asker: Asker) -> None:
    """REQ-02: it reaches the other side, and nothing comes back"""
    asker.ask("quiet", want_reply=False)
    loud = asker.ask("loud")
    asker.pair.pump()
    for request, decision in zip(asker.received, (False, True), strict=True):
        asker.answer(request, decision)
    asker.pair.pump()
    assert asker.replies == [(loud, True, b"")]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_replies_leave_in_the_order_of_the_requests(order: tuple[int, ...]) -> None:
    """HR-57, REQ-07: however the answers are ordered; channels and session by themselves"""
    for of_channel in (True, False):
        asker = Asker(held_back(), CLIENT, of_channel)
        slots = [asker.ask(str(number)) for number in range(4)]
        asker.pair.pump()
        decided: set[int] = set()
        for number in order:
            asker.answer(asker.received[number], number % 2 == 1, b"%d" % number)
            decided.add(number)
            asker.pair.pump()
            ready = next((n for n in range(4) if n not in decided), 4)
            assert [slot for slot, _, _ in asker.replies] == slots[:ready]
        assert [success for _, success, _ in asker.replies] == [False, True, False, True]
        payloads = [payload for _, _, payload in asker.replies]
        assert payloads == ([b""] * 4 if of_channel else [b"", b"1", b"", b"3"])


def test_channels_and_session_have_queues_of_their_own() -> None:
    """REQ-09: a request that waits holds up no other queue"""
    pair = held_back(channels=2)
    (slow, _), (quick, _) = pair.channels
    connection = pair.connections[CLIENT]
    first = connection.request_channel(slow, "slow", b"", want_reply=True)
    second = connection.request_channel(quick, "quick", b"", want_reply=True)
    third = connection.request_global("whole", b"", want_reply=True)
    pair.pump()
    by_name = {
        event.request.name: event.request
        for event in pair.events[SERVER]
        if isinstance(event, ChannelRequestReceived | GlobalRequestReceived)
    }
    for name, slot in (("whole", third), ("quick", second), ("slow", first)):
        pair.connections[SERVER].answer(by_name[name], True)
        pair.pump()
        assert pair.of_type(CLIENT, ReplyReceived)[-1].slot is slot


def test_a_request_can_be_asked_back_while_one_waits() -> None:
    """REQ-11"""
    pair = held_back()
    client, server = pair.channels[0]
    there = pair.connections[CLIENT].request_channel(client, "there", b"", want_reply=True)
    pair.pump()
    back = pair.connections[SERVER].request_channel(server, "back", b"", want_reply=True)
    pair.pump()
    (asked_back,) = pair.of_type(CLIENT, ChannelRequestReceived)
    pair.connections[CLIENT].answer(asked_back.request, True)
    pair.pump()
    assert [event.slot for event in pair.of_type(SERVER, ReplyReceived)] == [back]
    (asked,) = pair.of_type(SERVER, ChannelRequestReceived)
    pair.connections[SERVER].answer(asked.request, True)
    pair.pump()
    assert [event.slot for event in pair.of_type(CLIENT, ReplyReceived)] == [there]


def test_a_request_is_answered_once(asker: Asker) -> None:
    asker.ask("once")
    asker.pair.pump()
    (request,) = asker.received
    asker.answer(request, True)
    sent = asker.pair.sent(asker.role.other).copy()
    with pytest.raises(LocalProtocolError, match="already answered"):
        asker.answer(request, False)
    assert asker.pair.sent(asker.role.other) == sent


def test_a_request_that_cannot_be_encoded_takes_no_place(asker: Asker) -> None:
    with pytest.raises(LocalProtocolError):
        asker.ask("lone surrogate \udc80")
    good = asker.ask("good")
    asker.pair.pump()
    asker.answer(asker.received[0], True)
    asker.pair.pump()
    assert asker.replies == [(good, True, b"")]


def test_a_connection_is_at_rest_once_all_that_was_asked_is_answered() -> None:
    """Then nothing but the goodbye can be lost when the stream is closed at once."""
    pair = running_pair()
    connection = pair.connections[CLIENT]
    assert connection.is_at_rest
    pair.open_channel()
    assert not connection.is_at_rest
    connection.close(pair.channels[0][0])
    assert not connection.is_at_rest
    pair.pump()
    assert connection.is_at_rest
    connection.request_global("x", b"", want_reply=True)
    assert not connection.is_at_rest
    pair.pump()
    assert connection.is_at_rest
    pair.client.request_service(Service.CONNECTION)
    assert not connection.is_at_rest
    pair.pump()
    assert connection.is_at_rest
    pair.client.start_rekey(pair.now)
    connection.send_service_message(b"\xc8")
    assert not connection.is_at_rest
    pair.pump()
    assert connection.is_at_rest
    connection.request_global("x", b"", want_reply=False)
    pair.pump()
    assert not connection.is_at_rest


# How many


@pytest.mark.parametrize("want_reply", [True, False], ids=["reply", "no reply"])
def test_sixteen_requests_wait_and_more_are_refused(asker: Asker, want_reply: bool) -> None:
    """HR-57, REQ-13: the refusals of the others still wait for their turn"""
    slots = [asker.ask(str(number), want_reply=want_reply) for number in range(20)]
    asker.pair.pump()
    assert [request.name for request in asker.received] == [str(n) for n in range(16)]
    assert asker.replies == []
    for request in asker.received:
        asker.answer(request, True)
    asker.pair.pump()
    if want_reply:
        expected = [(slot, number < 16, b"") for number, slot in enumerate(slots)]
        assert asker.replies == expected
    else:
        assert asker.replies == []

    again = asker.ask("again")
    asker.pair.pump()
    asker.answer(asker.received[-1], True)
    asker.pair.pump()
    assert asker.replies[-1] == (again, True, b"")


def test_each_queue_has_sixteen_places() -> None:
    """HR-57: one channel's requests take nobody else's place"""
    pair = held_back(channels=3)
    for client, _ in pair.channels:
        for _ in range(20):
            pair.connections[CLIENT].request_channel(client, "x", b"", want_reply=True)
    for _ in range(20):
        pair.connections[CLIENT].request_global("x", b"", want_reply=True)
    pair.pump()
    assert len(pair.of_type(SERVER, ChannelRequestReceived)) == 48
    assert len(pair.of_type(SERVER, GlobalRequestReceived)) == 16
    assert not pair.of_type(CLIENT, ReplyReceived)


# Channels that close


@BOTH
@pytest.mark.parametrize("closer", [CLIENT, SERVER], ids=["client closes", "server closes"])
def test_a_closed_channel_refuses_what_waits(asker: Role, closer: Role) -> None:
    """REQ-06: false, not an exception; nothing is sent after CLOSE, whatever is answered later"""
    pair = held_back(channels=2)
    side = Asker(pair, asker, True)
    slots = [side.ask("one"), side.ask("two")]
    pair.pump()
    pair.connections[closer].close(pair.channels[0][0 if closer is CLIENT else 1])
    pair.pump()
    assert side.replies == [(slot, False, b"") for slot in slots]
    assert isinstance(pair.of_type(asker, ChannelClosed)[0], ChannelClosed)
    for request in side.received:
        side.answer(request, True)
    pair.pump()
    assert pair.sent_numbers(asker.other)[-1] == MessageNumber.CHANNEL_CLOSE
    pair.channels.pop(0)
    pair.assert_usable()


def test_an_answer_behind_our_close_stays_unsent() -> None:
    """wire-connection 1.9: neither 99 nor 100 after CLOSE"""
    pair = held_back()
    client, server = pair.channels[0]
    slot = pair.connections[CLIENT].request_channel(client, "exec", b"", want_reply=True)
    pair.pump()
    (event,) = pair.of_type(SERVER, ChannelRequestReceived)
    pair.connections[SERVER].close(server, exit_status=3)
    pair.connections[SERVER].answer(event.request, True)
    pair.pump()
    assert [(e.slot, e.is_success) for e in pair.of_type(CLIENT, ReplyReceived)] == [(slot, False)]
    assert pair.sent_numbers(SERVER)[-2:] == [
        MessageNumber.CHANNEL_REQUEST,
        MessageNumber.CHANNEL_CLOSE,
    ]


def test_how_a_program_ended_is_no_request() -> None:
    """EXD-07: never offered, never answered, even if an answer is wanted; the last one counts"""
    pair = held_back()
    client, server = pair.channels[0]
    connection = pair.connections[CLIENT]
    for name, payload in (
        ("exit-status", ExitStatus(1).encode()),
        ("exit-status", ExitStatus(7).encode()),
        ("exit-signal", ExitSignal("SEGV", True, "core\tdumped", "en").encode()),
    ):
        connection.request_channel(client, name, payload, want_reply=False)
        pair.inject(CLIENT, ChannelRequest(server.local_id, name, True, payload).encode())
    assert not pair.of_type(SERVER, ChannelRequestReceived)
    assert pair.sent_numbers(SERVER)[-1] == MessageNumber.CHANNEL_OPEN_CONFIRMATION
    assert (server.exit_status, server.exit_signal, server.core_dumped) == (7, "SEGV", True)
    assert server.exit_message == "core\\tdumped"
    pair.assert_usable()


def test_a_signal_is_a_request() -> None:
    """EXD-06"""
    pair = held_back()
    client, _ = pair.channels[0]
    for name in ("TERM", "HUP"):
        pair.connections[CLIENT].request_channel(client, "signal", name.encode(), want_reply=False)
    pair.pump()
    requests = [event.request for event in pair.of_type(SERVER, ChannelRequestReceived)]
    assert [(r.name, r.payload) for r in requests] == [("signal", b"TERM"), ("signal", b"HUP")]


# Tombstones


def test_every_interleaving_of_cancellations_and_answers_pairs_right() -> None:
    """HR-58, T-35, REQ-05: a place whose owner has gone stays until its reply came"""
    chooser = random.Random(58)
    for _ in range(200):
        asker = Asker(held_back(), chooser.choice(list(Role)), chooser.random() < 0.5)
        slots: list[ReplySlot] = []
        waiting: list[tuple[int, PendingRequest]] = []
        cancelled: set[int] = set()
        for _ in range(30):
            match chooser.randrange(4):
                case 0 if len(slots) - len(asker.replies) < 16:
                    slots.append(asker.ask(str(len(slots))))
                    slots[-1].owner = len(slots) - 1
                case 1:
                    asker.pair.pump()
                    seen = asker.received
                    known = {request.name for _, request in waiting}
                    waiting += [
                        (int(request.name), request)
                        for request in seen
                        if request.answer is None and request.name not in known
                    ]
                case 2 if waiting:
                    number, request = waiting.pop(chooser.randrange(len(waiting)))
                    asker.answer(request, number % 3 == 0)
                case 3 if slots:
                    number = chooser.randrange(len(slots))
                    cancelled.add(number)
                    slots[number].owner = None
        asker.pair.pump()
        for request in asker.received:
            if request.answer is None:
                asker.answer(request, int(request.name) % 3 == 0)
        asker.pair.pump()
        assert [slot for slot, _, _ in asker.replies] == slots
        for number, (slot, is_success, _) in enumerate(asker.replies):
            assert slot.owner == (None if number in cancelled else number)
            assert is_success == (number % 3 == 0)


# Signs of life


def test_a_silent_second_brings_a_question_and_an_answer() -> None:
    """KAL-01, KAL-04: the server says no, which is sign enough, and asks nobody"""
    pair = running_pair(fast_config(keep_alive_interval=1.0), fast_config())
    pair.advance(0.99)
    assert not pair.of_type(CLIENT, KeepAliveAnswered)
    pair.advance(0.02)
    assert GlobalRequest.decode(pair.sent(CLIENT)[-1]) == GlobalRequest(
        Extension.KEEP_ALIVE_REQUEST, True
    )
    assert pair.sent_numbers(SERVER)[-1] == MessageNumber.REQUEST_FAILURE
    assert not pair.of_type(SERVER, GlobalRequestReceived)
    pair.advance(5)
    counts = [event.count for event in pair.of_type(CLIENT, KeepAliveAnswered)]
    assert counts == list(range(1, len(counts) + 1))
    assert len(counts) >= 5
    assert not pair.of_type(CLIENT, KeepAliveMissed)
    assert not pair.of_type(SERVER, KeepAliveAnswered)


def test_traffic_is_sign_enough() -> None:
    """KAL-02: while the peer sends anything, it is not asked"""
    pair = running_pair(fast_config(keep_alive_interval=1.0), fast_config(), channels=1)
    _, server = pair.channels[0]
    for _ in range(20):
        pair.advance(0.9)
        pair.send(SERVER, server, b"tick")
    assert MessageNumber.GLOBAL_REQUEST not in pair.sent_numbers(CLIENT)
    assert not pair.of_type(CLIENT, KeepAliveMissed)


def test_the_time_decides_when_a_sign_of_life_is_asked_for() -> None:
    """Not the call: one may come too early, for another reason, and most come a little late."""
    pair = running_pair(fast_config(keep_alive_interval=1.0), fast_config())
    assert pair.client.handle_timeout(pair.now + 0.9) == ()
    (event,) = pair.client.handle_timeout(pair.now + 1.1)
    assert isinstance(event, KeepAliveAnswered)
    assert pair.client.next_deadline() == pair.now + 2.1


def test_silence_is_counted() -> None:
    """KAL-03, KAL-05: the first time counts as answered; then 1, 2, 3; then all is well again"""
    traces: list[TraceEvent] = []
    config = fast_config(keep_alive_interval=1.0)
    pair = running_pair(config, fast_config(), channels=1, trace=traces.append)
    kept: list[bytes] = []

    def swallow(sender: Role, index: int, packet: bytes) -> list[bytes]:
        kept.append(packet)
        return []

    pair.middle = swallow
    pair.advance(4.5)
    assert [event.count for event in pair.of_type(CLIENT, KeepAliveAnswered)] == [1]
    assert [event.count for event in pair.of_type(CLIENT, KeepAliveMissed)] == [1, 2, 3]
    told = [trace.message for trace in traces if trace.id is TraceId.KEEP_ALIVE_FAILED]
    assert told == [f"no answer to keep-alive, {count}" for count in (1, 2, 3)]

    pair.middle = None
    assert len(kept) == 4
    pair.feed(SERVER, b"".join(kept))
    pair.pump()
    pair.advance(1.1)
    assert [event.count for event in pair.of_type(CLIENT, KeepAliveAnswered)] == [1, 1]
    pair.assert_usable()


def test_what_is_counted_begins_anew_with_each_change() -> None:
    clock = KeepAlive(1.0)
    clock.start(0.0)
    told = [clock.judge(1.0), clock.judge(2.0), clock.judge(3.0)]
    clock.received(3.5)
    assert clock.deadline == 4.5
    told += [clock.judge(4.5), clock.judge(5.5)]
    assert told == [
        KeepAliveAnswered(1),
        KeepAliveMissed(1),
        KeepAliveMissed(2),
        KeepAliveAnswered(1),
        KeepAliveMissed(1),
    ]


def test_replies_to_signs_of_life_reach_no_other_caller() -> None:
    """HR-58, T-35: they stand in the same queue as other requests"""
    pair = running_pair(
        fast_config(keep_alive_interval=1.0), fast_config(), answers=Answers(grant_requests=None)
    )
    connection = pair.connections[CLIENT]
    slots = []
    for _ in range(5):
        slots.append(connection.request_global("mine", b"", want_reply=True))
        pair.advance(1.5)
    requests = [event.request for event in pair.of_type(SERVER, GlobalRequestReceived)]
    for request in requests[::-1]:
        pair.connections[SERVER].answer(request, True, b"yours")
    pair.pump()
    replies = pair.of_type(CLIENT, ReplyReceived)
    asked = pair.sent_numbers(CLIENT).count(MessageNumber.GLOBAL_REQUEST)
    assert len(replies) == asked > 5
    mine = [event for event in replies if event.slot in slots]
    assert [event.slot for event in mine] == slots
    assert [(event.is_success, event.payload) for event in mine] == [(True, b"yours")] * 5
    others = [event for event in replies if event.slot not in slots]
    assert not any(event.is_success for event in others)


def test_no_sign_of_life_is_asked_for_unless_wanted() -> None:
    """HR-59"""
    pair = running_pair()
    sent = [len(pair.sent(role)) for role in Role]
    pair.advance(3000)
    assert [len(pair.sent(role)) for role in Role] == sent


def test_the_clock_stops_with_the_connection() -> None:
    """KAL-06"""
    pair = running_pair(fast_config(keep_alive_interval=1.0))
    assert pair.client.next_deadline() == pair.now + 1
    pair.client.disconnect(11, "done")
    pair.pump()
    assert [core.next_deadline() for core in pair.cores.values()] == [None, None]
    sent = len(pair.sent(CLIENT))
    assert not pair.client.handle_timeout(pair.now + 100)
    assert len(pair.sent(CLIENT)) == sent


# Services and unknown messages


def test_a_client_may_ask_for_the_connection_service_again() -> None:
    """Harmless, and some clients do"""
    pair = running_pair()
    pair.client.request_service(Service.CONNECTION)
    with pytest.raises(LocalProtocolError, match="in progress"):
        pair.client.request_service(Service.CONNECTION)
    pair.pump()
    assert pair.sent(SERVER)[-1] == ServiceAccept(Service.CONNECTION).encode()
    accepted = pair.of_type(CLIENT, ServiceAccepted)
    assert [event.name for event in accepted] == [Service.USERAUTH, Service.CONNECTION]
    pair.client.request_service(Service.CONNECTION)
    pair.pump()
    pair.assert_usable()


@pytest.mark.parametrize("name", ["", "ssh-userauth", "made-up", "two\nlines"])
def test_an_unknown_service_ends_the_session(name: str) -> None:
    """RFC 4253 section 10: DISCONNECT 7"""
    pair = running_pair()
    pair.client.request_service(name)
    pair.pump()
    error = assert_terminated(pair, SERVER, 7, "not available")
    assert "\n" not in str(error)


def test_a_server_asks_for_no_service() -> None:
    pair = running_pair()
    with pytest.raises(LocalProtocolError, match="client"):
        pair.server.request_service(Service.CONNECTION)
    pair.inject(SERVER, ServiceRequest(Service.CONNECTION).encode())
    assert_terminated(pair, CLIENT, 2, "SERVICE_REQUEST")


@pytest.mark.parametrize("name", ["made-up", Service.USERAUTH])
def test_a_service_that_nobody_asked_for_ends_the_session(name: str) -> None:
    pair = running_pair()
    pair.inject(SERVER, ServiceAccept(name).encode())
    assert_terminated(pair, CLIENT, 2)


@BOTH
def test_unknown_messages_are_answered_with_their_number(asker: Role) -> None:
    """SES-12, RFC 4253 section 11.4: UNIMPLEMENTED carries the number of that very packet"""
    pair = running_pair(channels=1)
    unknown = [8, 19, 22, 29, 49, 79, 83, 89, 101, 127, 199, 200, 254, 255]
    for turn, number in enumerate(unknown):
        pair.send(asker, pair.channels[0][0 if asker is CLIENT else 1], b"between")
        sequence = pair.transport(asker).send_sequence
        pair.inject(asker, bytes([number]) + b"body" * turn)
        assert pair.sent(asker.other)[-1] == Unimplemented(sequence).encode()
    if asker is CLIENT:  # numbers begin anew with the keys, for both sides alike
        pair.client.start_rekey(pair.now)
        pair.pump()
        sequence = pair.transport(asker).send_sequence
        assert sequence < 5
        pair.inject(asker, b"\xc8")
        assert pair.sent(asker.other)[-1] == Unimplemented(sequence).encode()
    assert pair.cores[asker].phase is Phase.RUNNING
    pair.assert_usable()


@BOTH
def test_debug_messages_are_told_and_safe_to_show(asker: Role) -> None:
    """SES-13, HR-06"""
    pair = running_pair()
    sent = len(pair.sent(asker.other))
    pair.inject(
        asker,
        Debug(True, "plain", "").encode(),
        Debug(False, "two\nlines \x1b[2J \u202e", "en").encode(),
        b"\x04\x00\x00\x00\x00\x01\xff\x00\x00\x00\x00",
        Debug(False, "x" * 5000, "").encode(),
    )
    told = [(e.message, e.always_display) for e in pair.of_type(asker.other, DebugReceived)]
    assert told[0] == ("plain", True)
    assert told[1] == ("two\\nlines \\x1b[2J \\u202e", False)
    assert told[2] == ("\ufffd", False)
    assert told[3] == ("x" * 256, False)
    assert len(pair.sent(asker.other)) == sent
    pair.assert_usable()
