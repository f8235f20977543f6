"""What an authenticated peer can do to the connection protocol, and how little it achieves.

Abuse ends the connection with DISCONNECT 2; what might be an honest peer's late message is dropped,
up to a bound. Whatever arrives, and however much, costs bounded memory and never reaches the
application. The attacker's side is a core whose transport seals anything.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from anyssh.algorithms import clear_opener, clear_sealer
from anyssh.config import Limits
from anyssh.constants import ChannelOpenFailureReason, DisconnectReason, MessageNumber, Service
from anyssh.errors import Disconnected, LocalProtocolError, RemoteProtocolError
from anyssh.messages import (
    ChannelClose,
    ChannelData,
    ChannelEof,
    ChannelExtendedData,
    ChannelFailure,
    ChannelOpen,
    ChannelOpenConfirmation,
    ChannelOpenFailure,
    ChannelRequest,
    ChannelSuccess,
    ChannelWindowAdjust,
    Debug,
    Disconnect,
    ExitSignal,
    ExitStatus,
    GlobalRequest,
    Ignore,
    RequestFailure,
    RequestSuccess,
    ServiceRequest,
    Unimplemented,
)
from anyssh.protocol import Connection, Phase, Role
from anyssh.protocol.channel import ChannelPhase, ChannelState, PendingRequest
from anyssh.protocol.events import (
    ChannelClosed,
    ChannelDataReceived,
    ChannelOpenFailed,
    ChannelOpenReceived,
    ChannelRequestReceived,
    ConnectionTerminated,
    Event,
    GlobalRequestReceived,
)
from anyssh.wire import string, uint32

from .core_pair import (
    CLIENT,
    SERVER,
    Answers,
    CorePair,
    assert_terminated,
    fast_config,
    running_pair,
)

PACKET = 32_768
WINDOW = 2 * PACKET
FREE_NUMBER = 77
"""A channel number that nobody has given out."""

VICTIMS = pytest.mark.parametrize("victim", [CLIENT, SERVER], ids=["client", "server"])


@dataclass
class Scene:
    """A victim and an attacker, and the victim's channels in every state."""

    victim: Role
    pair: CorePair = field(init=False)

    def __post_init__(self) -> None:
        config = fast_config(window_size=WINDOW, max_packet_size=PACKET)
        answers = Answers(accept_channels=None, grant_requests=None, consume=False)
        self.pair = running_pair(config, answers=answers)
        connection = self.connection
        names = ("open", "ended", "closing", "closed", "abandoned", "opening")
        self.channels = {name: connection.open_channel(name) for name in names}
        self.pair.pump()
        for event in self.pair.of_type(self.victim.other, ChannelOpenReceived)[:4]:
            self.pair.connections[self.victim.other].accept_channel(event.channel)
        self.pair.pump()
        self.attack(ChannelEof(self.number("ended")).encode())
        connection.close(self.channels["closed"])
        self.pair.pump()
        connection.close(self.channels["closing"])
        connection.abandon_open(self.channels["abandoned"])
        self.attack(ChannelOpen("offer", 900, WINDOW, PACKET).encode())
        (offer,) = self.pair.of_type(self.victim, ChannelOpenReceived)
        self.channels["offered"] = offer.channel

    @property
    def connection(self) -> Connection:
        """The victim's connection."""
        return self.pair.connections[self.victim]

    def number(self, name: str) -> int:
        """Return the victim's number for one of its channels, or one of no channel."""
        return self.channels[name].local_id if name in self.channels else FREE_NUMBER

    def attack(self, *payloads: bytes) -> list[Event]:
        """Send payloads to the victim; return what it told its application."""
        before = len(self.pair.events[self.victim])
        self.pair.inject(self.victim.other, *payloads, pump=False)
        self.pair.cross(self.victim.other)
        return self.pair.events[self.victim][before:]

    def said_after(self, *payloads: bytes) -> list[bytes]:
        """Send payloads to the victim; return what it answered."""
        before = len(self.pair.sent(self.victim))
        self.attack(*payloads)
        return self.pair.sent(self.victim)[before:]

    def assert_alive(self) -> None:
        """Check that the victim still takes and gives data."""
        told = self.attack(ChannelData(self.number("open"), b"alive?").encode())
        assert [type(event) for event in told] == [ChannelDataReceived]
        assert self.connection.send_data(self.channels["open"], memoryview(b"yes")) == 3


EVERYTHING: dict[str, Callable[[int], bytes]] = {
    "confirmation": lambda n: ChannelOpenConfirmation(n, 901, WINDOW, PACKET).encode(),
    "failure": lambda n: ChannelOpenFailure(n, 1, "no", "en").encode(),
    "adjust": lambda n: ChannelWindowAdjust(n, 1).encode(),
    "data": lambda n: ChannelData(n, b"x").encode(),
    "extended data": lambda n: ChannelExtendedData(n, 1, b"x").encode(),
    "eof": lambda n: ChannelEof(n).encode(),
    "close": lambda n: ChannelClose(n).encode(),
    "request": lambda n: ChannelRequest(n, "exec", True, b"").encode(),
    "exit": lambda n: ChannelRequest(n, "exit-status", False, ExitStatus(1).encode()).encode(),
    "success": lambda n: ChannelSuccess(n).encode(),
    "refusal": lambda n: ChannelFailure(n).encode(),
}
ANSWERS_TO_OPEN = ("confirmation", "failure")


# Messages in the wrong state


@VICTIMS
@pytest.mark.parametrize("state", ["opening", "abandoned", "offered"])
def test_nothing_may_come_on_a_channel_that_is_not_open_yet(victim: Role, state: str) -> None:
    """T-30: only the answer to our own open"""
    for name, payload in EVERYTHING.items():
        scene = Scene(victim)
        sent = scene.said_after(payload(scene.number(state)))
        if state != "offered" and name in ANSWERS_TO_OPEN:
            scene.assert_alive()
            continue
        assert_terminated(scene.pair, victim, 2)
        assert [message[0] for message in sent] == [MessageNumber.DISCONNECT], name


@VICTIMS
@pytest.mark.parametrize("state", ["open", "ended", "closing", "closed", "offered", "unknown"])
def test_an_answer_to_no_open_ends_the_connection(victim: Role, state: str) -> None:
    """HR-55"""
    for name in ANSWERS_TO_OPEN:
        scene = Scene(victim)
        scene.attack(EVERYTHING[name](scene.number(state)))
        assert_terminated(scene.pair, victim, 2, "but none is outstanding")


@VICTIMS
def test_a_second_confirmation_ends_the_connection(victim: Role) -> None:
    """HR-55: also with the first one's number; a confirmation after the refusal likewise"""
    for first in ANSWERS_TO_OPEN:
        for second in ANSWERS_TO_OPEN:
            scene = Scene(victim)
            number = scene.number("opening")
            scene.attack(EVERYTHING[first](number))
            scene.assert_alive()
            scene.attack(EVERYTHING[second](number))
            assert_terminated(scene.pair, victim, 2)


@VICTIMS
def test_after_our_close_everything_is_dropped(victim: Role) -> None:
    """HR-56: what is wrong as well, because the peer may not know yet; only CLOSE counts"""
    scene = Scene(victim)
    number, channel = scene.number("closing"), scene.channels["closing"]
    adjust = ChannelWindowAdjust(number, 2**32 - 1).encode()
    too_much = ChannelData(number, bytes(PACKET + 1)).encode()
    eof = ChannelEof(number).encode()
    payloads = [make(number) for name, make in EVERYTHING.items() if name not in ANSWERS_TO_OPEN]
    close = payloads.pop([payload[0] for payload in payloads].index(MessageNumber.CHANNEL_CLOSE))
    before = len(scene.pair.sent(victim))
    assert scene.attack(*payloads, adjust, adjust, too_much, eof, eof, eof) == []
    assert channel.phase is ChannelPhase.CLOSING
    assert (channel.exit_status, channel.bytes_received) == (None, 0)
    (closed,) = scene.attack(close)
    assert isinstance(closed, ChannelClosed)
    assert len(scene.pair.sent(victim)) == before
    scene.assert_alive()


@VICTIMS
@pytest.mark.parametrize("state", ["closed", "unknown"])
def test_messages_to_no_channel_are_dropped_up_to_a_bound(victim: Role, state: str) -> None:
    """CHN-21, HR-54: 1,024 at once, and 128 more each second"""
    for name, make in EVERYTHING.items():
        if name in ANSWERS_TO_OPEN:
            continue
        scene = Scene(victim)
        payload = make(scene.number(state))
        assert scene.said_after(*[payload] * 1024) == []
        scene.pair.now += 1.0
        assert scene.attack(*[payload] * 128) == []
        scene.assert_alive()
        (told,) = scene.attack(payload)
        assert isinstance(told, ConnectionTerminated)
        assert_terminated(scene.pair, victim, 2, "without effect")


@VICTIMS
def test_large_messages_to_no_channel_are_dropped_up_to_fewer(victim: Role) -> None:
    """HR-29: 4 MiB at once"""
    scene = Scene(victim)
    payload = ChannelData(FREE_NUMBER, bytes(PACKET)).encode()
    scene.attack(*[payload] * 127)
    scene.assert_alive()
    scene.attack(*[payload] * 2)
    assert_terminated(scene.pair, victim, 2, "without effect")


@VICTIMS
def test_after_their_eof_no_data_may_come(victim: Role) -> None:
    """HR-56: not even empty data, nor a second EOF; requests, credit and CLOSE may"""
    number = Scene(victim).number("ended")
    for payload in (
        ChannelData(number, b"x"),
        ChannelData(number, b""),
        ChannelExtendedData(number, 1, b"x"),
        ChannelExtendedData(number, 1, b""),
        ChannelEof(number),
    ):
        scene = Scene(victim)
        scene.attack(payload.encode())
        assert_terminated(scene.pair, victim, 2, "EOF")
    scene = Scene(victim)
    told = scene.attack(*[EVERYTHING[name](number) for name in ("adjust", "request", "close")])
    assert [type(event) for event in told] == [ChannelRequestReceived, ChannelClosed]
    scene.assert_alive()


@VICTIMS
def test_a_number_is_used_by_one_channel_at_a_time(victim: Role) -> None:
    """HR-54: opened twice, confirmed with one in use, offered twice; free again when closed"""
    again = ChannelOpen("again", 900, WINDOW, PACKET).encode()
    scene = Scene(victim)
    in_use = scene.channels["open"].remote_id
    scene.attack(again)
    assert_terminated(scene.pair, victim, 2, "twice")

    scene = Scene(victim)
    scene.attack(ChannelOpen("again", in_use, WINDOW, PACKET).encode())
    assert_terminated(scene.pair, victim, 2, "twice")

    scene = Scene(victim)
    number = scene.number("opening")
    scene.attack(ChannelOpenConfirmation(number, in_use, WINDOW, PACKET).encode())
    assert_terminated(scene.pair, victim, 2, "twice")

    scene = Scene(victim)
    scene.attack(ChannelOpen("again", scene.channels["closing"].remote_id, 1, 1).encode())
    assert_terminated(scene.pair, victim, 2, "twice")

    scene = Scene(victim)
    scene.connection.reject_channel(scene.channels["offered"], 1, "no")
    scene.attack(again, ChannelOpen("third", scene.channels["closed"].remote_id, 1, 1).encode())
    opened = scene.pair.of_type(victim, ChannelOpenReceived)
    assert [event.channel.channel_type for event in opened] == ["offer", "again", "third"]
    scene.assert_alive()


# Sizes


def data(number: int, size: int) -> bytes:
    return ChannelData(number, bytes(size)).encode()


def extended_data(number: int, size: int) -> bytes:
    return ChannelExtendedData(number, 1, bytes(size)).encode()


SIZED = (data, extended_data)


@VICTIMS
def test_not_one_byte_more_than_the_window(victim: Role) -> None:
    """HR-52, T-30: data of both kinds share it; what is not consumed does not come back"""
    for first in SIZED:
        for last in SIZED:
            scene = Scene(victim)
            number, channel = scene.number("open"), scene.channels["open"]
            told = scene.attack(first(number, PACKET), first(number, PACKET - 1), last(number, 1))
            assert len(told) == 3
            assert channel.receive_window.remaining == 0
            (end,) = scene.attack(last(number, 1))
            assert isinstance(end, ConnectionTerminated)
            assert_terminated(scene.pair, victim, 2, "window has room for 0")
            assert channel.bytes_received == WINDOW


@VICTIMS
def test_consumed_bytes_below_the_step_are_no_room(victim: Role) -> None:
    """HR-52: room counts from the adjustment that we sent, not from what was consumed"""
    scene = Scene(victim)
    number, channel = scene.number("open"), scene.channels["open"]
    payload = ChannelData(number, bytes(PACKET)).encode()
    scene.attack(payload, payload)
    scene.connection.consume(channel, PACKET - 1)
    scene.attack(ChannelData(number, b"x").encode())
    assert_terminated(scene.pair, victim, 2, "window has room for 0")


@VICTIMS
def test_not_one_byte_more_than_a_packet(victim: Role) -> None:
    """HR-52, T-30"""
    for make in SIZED:
        scene = Scene(victim)
        number = scene.number("open")
        assert len(scene.attack(make(number, PACKET))) == 1
        (end,) = scene.attack(make(number, PACKET + 1))
        assert isinstance(end, ConnectionTerminated)
        assert_terminated(scene.pair, victim, 2, f"takes at most {PACKET}")


@VICTIMS
def test_room_beyond_the_last_byte_ends_the_connection(victim: Role) -> None:
    """HR-52, WIN-06: 2**32 - 1 in all; the counter stays as it was"""
    for extra in (1, 2**31, 2**32 - 1):
        scene = Scene(victim)
        number, channel = scene.number("open"), scene.channels["open"]
        room = 2**32 - 1 - channel.send_window
        assert scene.attack(ChannelWindowAdjust(number, room).encode()) == []
        assert channel.send_window == 2**32 - 1
        scene.attack(ChannelWindowAdjust(number, extra).encode())
        assert_terminated(scene.pair, victim, 2, "exceed")
        assert channel.send_window == 2**32 - 1


@VICTIMS
@pytest.mark.parametrize("initial", [0, 1, 2**32 - 1])
def test_any_initial_window_is_taken(victim: Role, initial: int) -> None:
    """T-31"""
    scene = Scene(victim)
    number, channel = scene.number("opening"), scene.channels["opening"]
    scene.attack(ChannelOpenConfirmation(number, 901, initial, PACKET).encode())
    sent = scene.connection.send_data(channel, memoryview(bytes(10)))
    assert sent == min(10, initial)
    scene.attack(ChannelWindowAdjust(number, sent).encode())
    assert channel.send_window == initial


@VICTIMS
def test_packets_of_no_bytes_open_no_channel(victim: Role) -> None:
    """HR-53: refused with reason 1; our own open fails, and the peer is told to close"""
    scene = Scene(victim)
    (refusal,) = scene.said_after(ChannelOpen("none", 902, WINDOW, 0).encode())
    assert ChannelOpenFailure.decode(refusal).recipient_channel == 902
    assert ChannelOpenFailure.decode(refusal).reason_code == (
        ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED
    )
    number, channel = scene.number("opening"), scene.channels["opening"]
    said = scene.said_after(ChannelOpenConfirmation(number, 901, WINDOW, 0).encode())
    assert said == [ChannelClose(901).encode()]
    (failed,) = scene.pair.of_type(victim, ChannelOpenFailed)
    assert failed.channel is channel
    with pytest.raises(LocalProtocolError):
        scene.connection.send_data(channel, memoryview(b"x"))
    scene.attack(ChannelClose(number).encode())
    assert channel.phase is ChannelPhase.CLOSED
    scene.assert_alive()


@VICTIMS
def test_a_channel_needs_a_type(victim: Role) -> None:
    """wire-connection 1.4, T-32: reason 3 for none, and for one that is far too long"""
    scene = Scene(victim)
    for channel_type in ("", "x" * 257, "x" * 100 * 1024):
        (refusal,) = scene.said_after(ChannelOpen(channel_type, 902, WINDOW, PACKET).encode())
        assert ChannelOpenFailure.decode(refusal).reason_code == (
            ChannelOpenFailureReason.UNKNOWN_CHANNEL_TYPE
        )
    (offer,) = scene.attack(ChannelOpen("x" * 256, 902, WINDOW, PACKET).encode())
    assert isinstance(offer, ChannelOpenReceived)
    assert offer.channel.channel_type == "x" * 256
    scene.assert_alive()


# Forms

MALFORMED = {
    "open: cut": ChannelOpen("x", 1, 1, 1).encode()[:-1],
    "open: a type that is not UTF-8": b"\x5a" + string(b"\xff") + bytes(12),
    "open: a type longer than the packet": b"\x5a" + uint32(2**32 - 1) + bytes(12),
    "confirmation: cut": ChannelOpenConfirmation(5, 901, 1, 1).encode()[:-1],
    "failure: cut": b"\x5c" + uint32(5) + b"\x00\x00\x00",
    "failure: more": ChannelOpenFailure(5, 1, "no", "en").encode() + b"x",
    "failure: a description longer than the packet": b"\x5c" + uint32(5) + uint32(1) + b"\xff" * 4,
    "adjust: cut": ChannelWindowAdjust(0, 1).encode()[:-1],
    "adjust: more": ChannelWindowAdjust(0, 1).encode() + b"x",
    "data: cut": ChannelData(0, b"abc").encode()[:-1],
    "data: more": ChannelData(0, b"abc").encode() + b"x",
    "data: longer than the packet": b"\x5e" + uint32(0) + b"\xff\xff\xff\xff" + b"abc",
    "data: no length": b"\x5e" + uint32(0),
    "extended data: cut": ChannelExtendedData(0, 1, b"abc").encode()[:-1],
    "extended data: more": ChannelExtendedData(0, 1, b"abc").encode() + b"x",
    "extended data: no type": b"\x5f" + uint32(0) + b"\x00",
    "eof: cut": ChannelEof(0).encode()[:-1],
    "eof: more": ChannelEof(0).encode() + b"x",
    "close: cut": ChannelClose(0).encode()[:-1],
    "close: more": ChannelClose(0).encode() + b"x",
    "success: cut": ChannelSuccess(0).encode()[:-1],
    "success: more": ChannelSuccess(0).encode() + b"x",
    "refusal: more": ChannelFailure(0).encode() + b"x",
    "request: no answer wanted or not": b"\x62" + uint32(0) + string("exec"),
    "request: a name that is not UTF-8": b"\x62" + uint32(0) + string(b"\xc3") + b"\x01",
    "request: a name far too long": ChannelRequest(0, "x" * 257, True, b"").encode(),
    "global request: a name far too long": GlobalRequest("x" * 257, True, b"").encode(),
    "global request: no name": b"\x50",
    "global request: a name that is not UTF-8": b"\x50" + string(b"\x80") + b"\x01",
    "global request: a name longer than the packet": b"\x50" + uint32(2**31) + b"\x01",
    "disconnect: no reason": b"\x01\x00",
    "disconnect: more": Disconnect(11, "", "").encode() + b"x",
    "debug: cut": Debug(True, "x", "").encode()[:-1],
    "unimplemented: more": b"\x03" + uint32(0) + b"x",
} | {
    f"{name}: {what}": ChannelRequest(0, name, False, payload).encode()
    for name, what, payload in (
        ("exit-status", "nothing", b""),
        ("exit-status", "cut", b"\x00\x00\x00"),
        ("exit-status", "more", b"\x00\x00\x00\x00\x00"),
        ("exit-signal", "nothing", b""),
        ("exit-signal", "cut", ExitSignal("TERM", False, "x", "en").encode()[:-1]),
        ("exit-signal", "more", ExitSignal("TERM", False, "x", "en").encode() + b"x"),
        ("exit-signal", "a name that is not UTF-8", string(b"\xff") + b"\x00" + bytes(8)),
        ("exit-signal", "a message longer than the packet", string("A") + b"\x00\x7f\xff\xff\xff"),
    )
}


@VICTIMS
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_ends_the_connection(victim: Role, name: str) -> None:
    """HR-03: D(2), and nothing of it reaches the application"""
    scene = Scene(victim)
    (end,) = scene.attack(MALFORMED[name])
    assert isinstance(end, ConnectionTerminated)
    assert_terminated(scene.pair, victim, 2)
    assert scene.channels["open"].exit_status is None


@VICTIMS
def test_disconnect_may_end_early(victim: Role) -> None:
    """SES-03, HR-06: without a language; what follows is not looked at"""
    for ending in (b"", string("en"), string(b"\xff\xfe")):
        scene = Scene(victim)
        message = b"\x01" + uint32(14) + string("bye\x07") + ending
        told = scene.attack(message, ChannelData(scene.number("open"), b"x").encode(), b"\xff")
        (end,) = told
        assert isinstance(end, ConnectionTerminated)
        assert isinstance(end.error, Disconnected)
        assert (end.error.reason, end.error.description) == (14, "bye\\x07")
        assert scene.attack(ChannelData(scene.number("open"), b"x").encode()) == []
        assert_terminated(scene.pair, victim)


@VICTIMS
@pytest.mark.parametrize("how", ["disconnect", "abuse", "peer", "end of stream"])
def test_nothing_leaves_after_the_end(victim: Role, how: str) -> None:
    """DISCONNECT is the last message (RFC 4253 section 11.1), whatever the application tries"""
    scene = Scene(victim)
    core, channel = scene.pair.cores[victim], scene.channels["open"]
    scene.attack(ChannelRequest(scene.number("open"), "exec", True, b"").encode())
    (event,) = scene.pair.of_type(victim, ChannelRequestReceived)
    match how:
        case "disconnect":
            core.disconnect(DisconnectReason.BY_APPLICATION, "bye")
        case "abuse":
            scene.attack(ChannelData(scene.number("open"), bytes(PACKET + 1)).encode())
        case "peer":
            scene.attack(Disconnect(11, "bye", "").encode())
        case _:
            core.receive_eof(scene.pair.now)
    assert core.phase is Phase.TERMINATED
    sent = scene.pair.sent(victim).copy()
    actions: list[Callable[[], object]] = [
        lambda: scene.connection.send_data(channel, memoryview(b"late")),
        lambda: scene.connection.answer(event.request, True),
        lambda: scene.connection.request_global("late", b"", want_reply=True),
        lambda: scene.connection.open_channel("late"),
        lambda: scene.connection.accept_channel(scene.channels["offered"]),
        lambda: scene.connection.send_eof(channel),
        lambda: scene.connection.close(channel),
        lambda: core.disconnect(2, "late"),
    ]
    for action in actions:
        with contextlib.suppress(LocalProtocolError):  # to refuse is as good as to keep silent
            action()
        assert [message[0] for message in scene.pair.sent(victim)[len(sent) :]] == []


def test_authentication_is_over_once_the_connection_is_used() -> None:
    """RFC 4252 section 5.1: late requests are dropped until then, and an offence from then on"""
    pair = running_pair()
    late = b"\x32" + string("bob") + string(Service.CONNECTION) + string("none")
    sent = len(pair.sent(SERVER))
    pair.inject(CLIENT, late, late)
    assert len(pair.sent(SERVER)) == sent
    pair.open_channel()
    pair.inject(CLIENT, late)
    assert_terminated(pair, SERVER, 2, "USERAUTH_REQUEST")


# Floods: a peer that says one thing 100,000 times

FLOOD = 100_000
KIB, MIB = 1024, 1024 * 1024

Policy = Callable[[Event], None]


class Flood:
    """A victim that is flooded, without protection, so that one packet can be sent many times.

    :ivar requests: what the application was asked and has not answered
    """

    def __init__(self, victim: Role = SERVER, **changes: object) -> None:
        answers = Answers(accept_channels=None, grant_requests=None, consume=False)
        self.pair = running_pair(fast_config(**changes), answers=answers)
        self.victim = victim
        self.core = self.pair.cores[victim]
        self.connection = self.pair.connections[victim]
        for core in self.pair.cores.values():
            core.transport.install_sealer(clear_sealer(bytes), reset_sequence=False)
            core.transport.install_opener(clear_opener(), reset_sequence=False)
        self.requests: list[PendingRequest] = []
        self.error: Exception | None = None
        self.decide: bool | None = True
        self.accept: bool | None = True
        self.reads = True
        self.offers: list[ChannelState] = []

    def open(self, number: int) -> ChannelState:
        """Open a channel of the attacker's and return what the victim holds."""
        self.deliver(ChannelOpen("session", number, 2**31, PACKET).encode())
        return self.offers[-1]

    def deliver(self, payload: bytes, count: int = 1, at_once: int = 16) -> None:
        """Say something so many times, or until the victim hangs up.

        :param at_once: how often in one piece; the application decides between pieces
        """
        sender = self.pair.cores[self.victim.other].transport
        sender.send(payload)
        packet = sender.take_output()
        self.forget()
        while count > 0 and self.core.phase is not Phase.TERMINATED:
            chunk = packet * min(at_once, count)
            count -= at_once
            self.handle(self.core.receive_data(chunk, self.pair.now))
            while self.core.has_backlog:
                self.handle(self.core.receive_data(b"", self.pair.now))
            if self.reads:
                self.core.data_to_send(self.pair.now)
                self.forget()

    def forget(self) -> None:
        """Let the harness keep no record, which would count as memory."""
        for role in Role:
            transport = self.pair.transport(role)
            transport.payloads.clear()
            transport.sizes.clear()

    def handle(self, events: Iterable[Event]) -> None:
        """Answer like an application that decides at once, or never."""
        for event in events:
            match event:
                case ChannelDataReceived():
                    self.connection.consume(event.channel, len(event.data))
                case ChannelRequestReceived() | GlobalRequestReceived():
                    if self.decide is None:
                        self.requests.append(event.request)
                    else:
                        self.connection.answer(event.request, self.decide)
                case ChannelOpenReceived():
                    self.offers.append(event.channel)
                    if self.accept:
                        self.connection.accept_channel(event.channel)
                    elif self.accept is False:
                        self.connection.reject_channel(event.channel, 1, "no")
                case ConnectionTerminated():
                    self.error = event.error

    def is_answered(self, channel: ChannelState) -> bool:
        """Whether an honest request on a channel is still answered."""
        self.decide = True
        self.reads = False
        self.core.data_to_send(self.pair.now)
        self.deliver(ChannelRequest(channel.local_id, "honest", True, b"").encode())
        said = self.pair.sent(self.victim)
        return said[-1:] == [ChannelSuccess(channel.remote_id).encode()]


FLOODS: dict[int, Callable[[int], bytes]] = {
    2: lambda n: Ignore(b"").encode(),
    3: lambda n: Unimplemented(0).encode(),
    4: lambda n: Debug(False, "flood").encode(),
    80: lambda n: GlobalRequest("flood", True, b"").encode(),
    81: lambda n: RequestSuccess(b"").encode(),
    82: lambda n: RequestFailure(b"").encode(),
    93: lambda n: ChannelWindowAdjust(n, 1).encode(),
    94: lambda n: ChannelData(n, b"").encode(),
    95: lambda n: ChannelExtendedData(n, 1, b"xy").encode(),
    98: lambda n: ChannelRequest(n, "flood", True, b"").encode(),
    99: lambda n: ChannelSuccess(n).encode(),
    100: lambda n: ChannelFailure(n).encode(),
    200: lambda n: b"\xc8",
}
ENDURED = {
    "idle": {80, 93, 95, 98},  # answered, or of use, or within the window
    "undecided": {93, 95},
    "offered": {80},
    "closing": {80, 93, 94, 95, 98, 99, 100},  # dropped: the peer may not know yet
}
"""The floods that do not end the connection, by the channel's state."""


def allocated() -> int:
    """Return how many objects are alive, about; cheap enough for 100,000 messages."""
    gc.collect()
    return sys.getallocatedblocks()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", FLOODS)
@pytest.mark.parametrize("state", ENDURED)
def test_a_flood_costs_nothing_or_ends_the_connection(state: str, number: int) -> None:
    """T-33, HR-05, HR-29"""
    flood = Flood()
    other = flood.open(1)
    flood.accept = None if state == "offered" else True
    target = flood.open(2)
    if state == "undecided":
        flood.decide = None
    if state == "closing":
        flood.connection.close(target)
    before = allocated()
    flood.deliver(FLOODS[number](target.local_id), FLOOD)
    assert allocated() - before < 5000
    assert len(flood.requests) <= 16
    if number in ENDURED[state]:
        assert flood.core.phase is Phase.RUNNING
        assert flood.is_answered(other)
    else:
        assert flood.core.phase is Phase.TERMINATED
        assert isinstance(flood.error, RemoteProtocolError)
        assert flood.error.reason == 2


@pytest.mark.parametrize("channels, messages", [(1, 504), (30, 272), (200, 64)])
def test_a_call_handles_fewer_messages_where_each_may_wake_a_task(
    channels: int, messages: int
) -> None:
    """T-33, HR-05: what the reader does before others have their turn takes about as long"""
    flood = Flood()
    targets = [flood.open(number) for number in range(channels)]
    sender = flood.pair.cores[flood.victim.other].transport
    for number in range(2000):
        sender.send(ChannelData(targets[number % channels].local_id, b"x").encode())
    events = list(flood.core.receive_data(sender.take_output(), flood.pair.now))
    calls = [len(events)]
    while flood.core.has_backlog:
        calls.append(len(flood.core.receive_data(b"", flood.pair.now)))
    assert calls[:2] == [64, messages]
    assert max(calls) == messages
    assert sum(calls) == 2000


@pytest.mark.parametrize("number", [2, 3, 4, 200])
def test_noise_is_endured_at_a_moderate_rate(number: int) -> None:
    """HR-29: 1,024 messages at once, then 128 each second; large ones count 4 MiB at once"""
    flood = Flood()
    payload = FLOODS[number](0)
    flood.deliver(payload, 1024)
    for _ in range(10):
        flood.pair.now += 1.0
        flood.deliver(payload, 128)
    assert flood.core.phase is Phase.RUNNING
    flood.deliver(payload)
    assert "messages without effect" in str(flood.error)
    flood = Flood()
    flood.deliver(Ignore(bytes(200 * KIB)).encode(), 20, at_once=1)
    assert flood.core.phase is Phase.RUNNING
    flood.deliver(Ignore(bytes(200 * KIB)).encode(), at_once=1)
    assert flood.core.phase is Phase.TERMINATED


def test_data_that_is_consumed_is_no_flood() -> None:
    """However many small messages there are: they are just data."""
    flood = Flood()
    channel = flood.open(1)
    flood.deliver(ChannelData(channel.local_id, b"xy").encode(), FLOOD, at_once=1000)
    assert channel.bytes_received == 2 * FLOOD
    assert flood.is_answered(channel)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("of_channel", [True, False], ids=["channel", "session"])
@pytest.mark.parametrize("want_reply", [True, False], ids=["reply", "no reply"])
def test_answers_behind_one_that_is_awaited_are_bounded(of_channel: bool, want_reply: bool) -> None:
    """HR-57: one request is never decided, all others at once; they may not pile up behind it"""
    flood = Flood()
    channel = flood.open(1)
    if of_channel:
        payload = ChannelRequest(channel.local_id, "flood", want_reply, bytes(100)).encode()
    else:
        payload = GlobalRequest("flood", want_reply, bytes(100)).encode()
    flood.decide = None
    flood.deliver(payload)
    flood.decide = False
    tracemalloc.start()
    try:
        flood.deliver(payload, FLOOD // 10, at_once=1)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 1 * MIB


@pytest.mark.timeout(60)
def test_signs_of_life_behind_a_request_that_is_awaited_are_bounded() -> None:
    """HR-57, HR-58: they take places in the same queue, and are no way around its bound"""
    flood = Flood()
    flood.decide = None
    flood.deliver(GlobalRequest("tcpip-forward", True, b"").encode())
    tracemalloc.start()
    try:
        flood.deliver(GlobalRequest("keepalive@openssh.com", True, b"").encode(), FLOOD // 4)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 1 * MIB


@pytest.mark.timeout(60)
def test_signs_of_life_behind_requests_of_many_channels_are_bounded() -> None:
    """HR-57: each channel has a queue of its own, but there is no multiple of the bound."""
    flood = Flood()
    flood.decide = None
    delivered = 0
    for number in range(1, 31):
        if flood.core.phase is Phase.TERMINATED:
            break
        channel = flood.open(number)
        flood.deliver(ChannelRequest(channel.local_id, "wait", True, b"").encode())
        alive = ChannelRequest(channel.local_id, "keepalive@openssh.com", True, b"").encode()
        flood.deliver(alive, 500)
        delivered += 500
    assert flood.core.phase is Phase.TERMINATED
    assert delivered <= 2 * flood.core.config.limits.noise_messages


def test_the_bound_on_answers_of_many_channels_is_exact() -> None:
    """HR-57: a burst of noise, and as many as may wait to be decided on each channel."""
    flood = Flood(limits=Limits(noise_messages=8, requests=2))
    flood.decide = None
    channels = [flood.open(number) for number in range(4)]
    for channel in channels:
        flood.deliver(ChannelRequest(channel.local_id, "wait", True, b"").encode())
    for number in range(8 + 2 * 4):
        channel = channels[number % 4]
        flood.deliver(ChannelRequest(channel.local_id, "keepalive@openssh.com", True).encode())
        assert flood.core.phase is Phase.RUNNING
    flood.deliver(ChannelRequest(channels[0].local_id, "keepalive@openssh.com", True).encode())
    assert flood.core.phase is Phase.TERMINATED
    assert "16 requests" in str(flood.error)


@pytest.mark.parametrize("we_close_first", [True, False])
def test_requests_of_channels_that_are_closed_count_no_longer(we_close_first: bool) -> None:
    """HR-57: neither as waiting nor, however the channel is closed, as less than none."""
    flood = Flood(limits=Limits(noise_messages=8, requests=2))
    flood.decide = None
    for number in range(20):
        channel = flood.open(number)
        for name in ("wait", "wait", "keepalive@openssh.com"):
            flood.deliver(ChannelRequest(channel.local_id, name, True, b"").encode())
        if we_close_first:
            flood.connection.close(channel)
        flood.deliver(ChannelClose(channel.local_id).encode())
    flood.open(20)
    flood.deliver(GlobalRequest("wait", True, b"").encode())
    for _ in range(7):
        flood.deliver(GlobalRequest("keepalive@openssh.com", True).encode())
    assert flood.core.phase is Phase.RUNNING
    flood.deliver(GlobalRequest("keepalive@openssh.com", True).encode())
    assert flood.core.phase is Phase.TERMINATED


PROVOCATIONS: dict[str, Callable[[Flood], bytes]] = {
    "sign of life": lambda flood: GlobalRequest("keepalive@openssh.com", True).encode(),
    "global request": lambda flood: GlobalRequest("please", True).encode(),
    "channel request": lambda flood: ChannelRequest(flood.open(1).local_id, "x", True).encode(),
    "open of no type": lambda flood: ChannelOpen("", 5, 1, 1).encode(),
    "open": lambda flood: ChannelOpen("x", 5, 1, 1).encode(),
    "service": lambda flood: ServiceRequest(Service.CONNECTION).encode(),
    "unknown message": lambda flood: b"\xc8",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", PROVOCATIONS)
@pytest.mark.parametrize("during_rekey", [False, True], ids=["", "during our rekey"])
def test_answers_that_the_peer_does_not_read_are_bounded(name: str, during_rekey: bool) -> None:
    """T-58, HR-05: it asks and asks and takes no bytes; what waits for the stream stays small"""
    limits = Limits(pending_output=64 * KIB, unread_answers=64 * KIB)
    flood = Flood(limits=limits)
    flood.accept = True
    payload = PROVOCATIONS[name](flood)
    flood.accept = False
    flood.reads = False
    if during_rekey:
        flood.core.start_rekey(flood.pair.now)
        assert flood.core.data_to_send(flood.pair.now)  # only answers wait
    flood.deliver(payload, FLOOD)
    waiting = flood.core.transport.pending + flood.connection.held_size
    assert waiting <= limits.pending_output + limits.unread_answers + 8 * KIB
    assert flood.core.phase is Phase.TERMINATED
    assert isinstance(flood.error, RemoteProtocolError)


@pytest.mark.timeout(60)
def test_channels_opened_and_closed_without_end_leave_nothing() -> None:
    """T-34: the peer opens, and closes as soon as it may; every table is as before"""
    flood = Flood()
    tracemalloc.start()
    try:
        for turn in range(3000):
            channel = flood.open(turn)
            flood.deliver(ChannelClose(channel.local_id).encode())
            flood.offers.clear()
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert flood.connection.channel_count == 0
    assert grown < 1 * MIB
    assert flood.core.phase is Phase.RUNNING


@VICTIMS
def test_opens_that_are_refused_are_bounded(victim: Role) -> None:
    """HR-29: whoever asks for ever more channels than there may be is cut off"""
    limits = Limits(unaccepted_channels=1, noise_messages=10)
    pair = running_pair(fast_config(limits=limits), answers=Answers(accept_channels=None))
    for number in range(12):
        assert pair.cores[victim].phase is Phase.RUNNING, number
        opening = ChannelOpen("one too many", 900 + number, WINDOW, PACKET)
        pair.inject(victim.other, opening.encode(), pump=False)
        pair.cross(victim.other)
    assert_terminated(pair, victim, DisconnectReason.PROTOCOL_ERROR, "without effect")
    assert len(pair.of_type(victim, ChannelOpenReceived)) == 1


@VICTIMS
def test_room_for_no_bytes_is_bounded(victim: Role) -> None:
    """HR-29: an adjustment by nothing is a message without effect"""
    pair = running_pair(fast_config(limits=Limits(noise_messages=10)), channels=1)
    channel = pair.channels[0][0 if victim is CLIENT else 1]
    for number in range(11):
        assert pair.cores[victim].phase is Phase.RUNNING, number
        pair.inject(victim.other, ChannelWindowAdjust(channel.local_id, 0).encode())
    assert_terminated(pair, victim, DisconnectReason.PROTOCOL_ERROR, "without effect")


# Payloads that wait for the application


@VICTIMS
def test_payloads_that_wait_are_bounded_in_bytes(victim: Role) -> None:
    """HR-50, HR-57: of opens and requests together; what was answered counts no more"""
    payload = bytes(30_000)
    limits = Limits(waiting_bytes=3 * len(payload))
    answers = Answers(accept_channels=None, grant_requests=None)
    pair = running_pair(fast_config(limits=limits), channels=0, answers=answers)
    connection = pair.connections[victim]
    offers: list[ChannelState] = []

    def is_kept(message: bytes, kind: type[Event]) -> bool:
        before = len(pair.events[victim])
        pair.inject(victim.other, message, pump=False)
        pair.cross(victim.other)
        told = [event for event in pair.events[victim][before:] if isinstance(event, kind)]
        offers.extend(event.channel for event in told if isinstance(event, ChannelOpenReceived))
        return bool(told)

    def is_open_kept() -> bool:
        number = 900 + len(offers)
        opening = ChannelOpen("large", number, WINDOW, PACKET, payload)
        return is_kept(opening.encode(), ChannelOpenReceived)

    def is_request_kept() -> bool:
        request = GlobalRequest("large", True, payload)
        return is_kept(request.encode(), GlobalRequestReceived)

    assert is_open_kept()
    assert is_open_kept()
    assert is_request_kept()
    assert not is_open_kept()
    assert not is_request_kept()
    refusal = ChannelOpenFailure.decode(
        next(sent for sent in pair.sent(victim) if sent[0] == MessageNumber.CHANNEL_OPEN_FAILURE)
    )
    assert refusal.reason_code == ChannelOpenFailureReason.RESOURCE_SHORTAGE
    connection.accept_channel(offers[0])
    assert is_request_kept()
    assert not is_request_kept()
    connection.reject_channel(offers[1], 1, "no")
    assert is_open_kept()
    assert not is_open_kept()
    for event in pair.of_type(victim, GlobalRequestReceived):
        connection.answer(event.request, True)
    assert is_request_kept()
    assert is_open_kept()
    assert not is_request_kept()
    assert pair.cores[victim].phase is Phase.RUNNING


@VICTIMS
@pytest.mark.parametrize("closer", [CLIENT, SERVER])
def test_payloads_of_open_channels_are_bounded_in_bytes(victim: Role, closer: Role) -> None:
    """HR-51: they are kept for the application until the channel is closed, by either side"""
    memory, size = 2 * 1024 * 1024, 250_000
    limits = Limits(receive_memory=memory, channels=16)
    pair = running_pair(fast_config(limits=limits), channels=0)
    peer = pair.connections[victim.other]
    opened = [peer.open_channel("large", bytes(size)) for _ in range(10)]
    pair.pump()
    accepted = [each for each in opened if each.phase is ChannelPhase.OPEN]
    assert len(accepted) == memory // size == 8
    closing = pair.of_type(victim, ChannelOpenReceived)[0].channel
    pair.connections[closer].close(closing if closer is victim else accepted[0])
    pair.pump()
    again = [peer.open_channel("large", bytes(size)) for _ in range(2)]
    pair.pump()
    assert [each.phase is ChannelPhase.OPEN for each in again] == [True, False]


@VICTIMS
def test_a_channel_that_closes_takes_its_payloads_along(victim: Role) -> None:
    """HR-50, HR-57: requests of a channel are forgotten with it, and make room for others"""
    payload = bytes(30_000)
    limits = Limits(waiting_bytes=len(payload))
    answers = Answers(grant_requests=None)
    pair = running_pair(fast_config(limits=limits), channels=2, answers=answers)
    for ours, theirs in pair.channels:
        mine, peers = (ours, theirs) if victim is CLIENT else (theirs, ours)
        pair.inject(
            victim.other,
            ChannelRequest(mine.local_id, "large", True, payload).encode(),
            ChannelRequest(mine.local_id, "large", True, payload).encode(),
        )
        kept = pair.of_type(victim, ChannelRequestReceived)
        assert kept[-1].request.channel is mine
        pair.connections[victim.other].close(peers)
        pair.pump()
    assert len(pair.of_type(victim, ChannelRequestReceived)) == 2
