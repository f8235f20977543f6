"""Two protocol cores wired to each other: no stream, no tasks, and a clock that tests move.

A :class:`CorePair` moves bytes between a client's and a server's core, answers what they ask by
:class:`Answers`, and records every event and every payload of both sides in order.

=======================  =================================================================
``pump()``               move bytes and answer questions until nothing moves any more
``advance(seconds)``     move the clock, stopping at each deadline on the way, pumping after each
``inject(sender, ...)``  send raw payloads as ``sender``, properly sealed
``cross(sender)``        move what ``sender`` has to say now to the other side, once
``take(sender)``         take what ``sender`` has to say as packets, and deliver nothing
``feed(receiver, ...)``  give bytes to a side, and answer what comes of it
``middle``               a man in the middle: sees each packet, says what is delivered instead
``chunk_size``           deliver in pieces of so many bytes
=======================  =================================================================

A side can be made to offer something else than a :class:`Core` would: ``client_offer`` and
``server_offer`` rewrite a KEXINIT before it is sent, see :func:`not_strict`.
"""

from __future__ import annotations

import functools
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from unittest.mock import patch

from anyssh.config import SessionConfig
from anyssh.constants import (
    Encryption,
    HostKeyAlgorithm,
    KeyExchange,
    Marker,
    MessageNumber,
    ReconnectFailureReason,
)
from anyssh.errors import ReconnectError, RemoteProtocolError
from anyssh.keys import Identity, Key, generate_key
from anyssh.messages import Disconnect, KexInit
from anyssh.protocol import Core, Phase, Role
from anyssh.protocol import core as core_module
from anyssh.protocol.channel import ChannelState
from anyssh.protocol.connection import Connection
from anyssh.protocol.events import (
    AttemptMade,
    ChannelDataReceived,
    ChannelExtendedDataReceived,
    ChannelOpened,
    ChannelOpenReceived,
    ChannelRequestReceived,
    ConnectionTerminated,
    Event,
    GlobalRequestReceived,
    HostKeyPresented,
    KeyQueried,
    ReconnectRequested,
    SignatureRequested,
)
from anyssh.protocol.key_exchange import KeyExchanger
from anyssh.protocol.transport import Transport
from anyssh.wire import Buffer

__all__ = [
    "CLIENT",
    "FAST",
    "SERVER",
    "Answers",
    "CorePair",
    "Offer",
    "assert_terminated",
    "fast_config",
    "make_core",
    "not_strict",
    "running_pair",
    "host_key",
]

CLIENT, SERVER = Role.CLIENT, Role.SERVER
START = 1000.0
MAX_ROUNDS = 100_000

FAST: dict[str, Any] = {
    "key_exchanges": (KeyExchange.CURVE25519_SHA256,),
    "host_key_algorithms": (HostKeyAlgorithm.ED25519,),
    "encryptions": (Encryption.AES128_GCM,),
}
"""Arguments of a :class:`SessionConfig` whose handshake costs least."""

Offer = Callable[[KexInit, bool], KexInit]
"""Rewrites a side's KEXINIT; the second argument tells whether it is its connection's first."""

EventType = TypeVar("EventType", bound=Event)
Answer = Callable[[EventType, float], None]
"""Answers one kind of question, given the time."""


def fast_config(**changes: Any) -> SessionConfig:
    """Return a configuration with a cheap handshake."""
    return SessionConfig(**FAST | changes)


def host_key(algorithm: str = HostKeyAlgorithm.ED25519, number: int = 0) -> Key:
    """Return a key pair, the same for the same arguments in this process."""
    return _key_pair(algorithm, number)


@functools.cache
def _key_pair(algorithm: str, number: int) -> Key:
    is_rsa = algorithm.startswith("rsa")
    return generate_key(algorithm, bits=2048) if is_rsa else generate_key(algorithm)


def not_strict(kexinit: KexInit, is_initial: bool) -> KexInit:
    """Offer what a peer does that has never heard of strict key exchange."""
    markers = (Marker.STRICT_CLIENT, Marker.STRICT_SERVER)
    names = tuple(name for name in kexinit.kex_algorithms if name not in markers)
    return replace(kexinit, kex_algorithms=names)


class RecordingTransport(Transport):
    """A transport that keeps what it sends."""

    __slots__ = ("payloads", "sizes")

    def __init__(self, role: Role, *args: Any) -> None:
        super().__init__(role, *args)
        self.payloads: list[bytes] = []
        self.sizes = [self.bytes_sent]

    def send(self, head: bytes, body: Buffer = b"") -> None:
        before = self.bytes_sent
        super().send(head, body)
        self.payloads.append(bytes(head) + bytes(body))
        self.sizes.append(self.bytes_sent - before)


def make_core(
    role: Role, config: SessionConfig, *, offer: Offer | None = None, **arguments: Any
) -> Core:
    """Return a core whose transport records, and which may offer something of its own."""

    class Exchanger(KeyExchanger):
        def _our_kexinit(self, is_initial: bool) -> KexInit:
            kexinit = super()._our_kexinit(is_initial)
            return kexinit if offer is None else offer(kexinit, is_initial)

    with (
        patch.object(core_module, "KeyExchanger", Exchanger),
        patch.object(core_module, "Transport", RecordingTransport),
    ):
        return Core(role, config, **arguments)


def resume(event: ReconnectRequested, connection: Connection, now: float) -> None:
    """Go on with a server's session, if the client proves to know it."""
    continuity = connection.continuity
    if continuity is not None and event.proves(continuity.session_id):
        event.accept(connection, now)
    else:
        reason = ReconnectFailureReason.SESSION_NOT_FOUND
        event.reject(ReconnectError(reason, "no such session"), now)


@dataclass
class Answers:
    """What the applications of both sides say when a core asks; None leaves it unanswered."""

    host_key: Answer[HostKeyPresented] | None = HostKeyPresented.accept
    signature: Answer[SignatureRequested] | None = field(
        default=lambda event, now: event.supply(
            _private(event.key).sign(event.data, event.algorithm), now
        )
    )
    attempt: Answer[AttemptMade] | None = field(
        default=lambda event, now: event.accept(event.attempt.username, now)
    )
    query: Answer[KeyQueried] | None = field(default=lambda event, now: event.answer(True, now))
    reconnect: Callable[[ReconnectRequested, Connection, float], None] | None = resume
    accept_channels: bool | None = True
    """Accept, reject, or None to leave them to the test."""
    grant_requests: bool | None = True
    """Grant or refuse channel and global requests, or None to leave them to the test."""
    consume: bool = True
    """Give credit for data at once."""

    def answer(self, event: Event, connection: Connection, now: float) -> None:
        """Answer what one event asks."""
        match event:
            case HostKeyPresented() if self.host_key is not None:
                self.host_key(event, now)
            case ReconnectRequested() if self.reconnect is not None:
                self.reconnect(event, connection, now)
            case SignatureRequested() if self.signature is not None:
                self.signature(event, now)
            case AttemptMade() if self.attempt is not None:
                self.attempt(event, now)
            case KeyQueried() if self.query is not None:
                self.query(event, now)
            case ChannelOpenReceived() if self.accept_channels is not None:
                if self.accept_channels:
                    connection.accept_channel(event.channel)
                else:
                    connection.reject_channel(event.channel, 1, "no")
            case ChannelRequestReceived() | GlobalRequestReceived() if (
                self.grant_requests is not None
            ):
                connection.answer(event.request, self.grant_requests)


_KEYS: dict[Key, Key] = {}


def _private(key: Key) -> Key:
    return key if key.has_private else _KEYS[key]


class CorePair:
    """A client's and a server's core, and whatever lies between them.

    :ivar cores: by role; also ``client`` and ``server``
    :ivar connections: by role
    :ivar events: what each side told, in order
    :ivar log: the same of both sides together
    :ivar received: bytes of channel data by (side, its channel number)
    :ivar received_extended: bytes of extended data likewise
    """

    def __init__(
        self,
        client_config: SessionConfig | None = None,
        server_config: SessionConfig | None = None,
        *,
        host_keys: Sequence[Identity] | None = None,
        answers: Answers | None = None,
        client_identification: str = "SSH-2.0-client_1.0",
        server_identification: str = "SSH-2.0-server_1.0",
        client_offer: Offer | None = None,
        server_offer: Offer | None = None,
        seed: int | None = None,
        now: float = START,
        connection_type: type[Connection] = Connection,
        **arguments: Any,
    ) -> None:
        client_config = client_config or fast_config()
        server_config = server_config or client_config
        keys = [host_key()] if host_keys is None else list(host_keys)
        pairs = [key for key in keys if isinstance(key, Key) and key.has_private]
        _KEYS.update({key.public(): key for key in pairs})
        self.answers = answers or Answers()
        self.now = now
        self._entropy = os.urandom if seed is None else random.Random(seed).randbytes
        common: dict[str, Any] = {"now": now, "random": self._entropy, **arguments}
        self.connections = {
            CLIENT: connection_type(client_config),
            SERVER: connection_type(server_config),
        }
        self.client = make_core(
            CLIENT,
            client_config,
            offer=client_offer,
            identification=client_identification,
            connection=self.connections[CLIENT],
            **common,
        )
        self.server = make_core(
            SERVER,
            server_config,
            offer=server_offer,
            identification=server_identification,
            connection=self.connections[SERVER],
            host_keys=keys,
            delay_secret=b"d" * 32,
            **common,
        )
        self.cores = {CLIENT: self.client, SERVER: self.server}
        self.events: dict[Role, list[Event]] = {CLIENT: [], SERVER: []}
        self.log: list[tuple[Role, Event]] = []
        self.received: defaultdict[tuple[Role, int], bytearray] = defaultdict(bytearray)
        self.received_extended: defaultdict[tuple[Role, int], bytearray] = defaultdict(bytearray)
        self._make_arguments = (client_config, server_config, keys, common)
        self._identifications = (client_identification, server_identification)
        self.middle: Callable[[Role, int, bytes], Iterable[bytes]] | None = None
        self.chunk_size: int | None = None
        self.channels: list[tuple[ChannelState, ChannelState]] = []
        self._taken = {CLIENT: 0, SERVER: 0}

    # What was sent and told

    def transport(self, role: Role) -> RecordingTransport:
        """Return the transport of a side."""
        transport = self.cores[role].transport
        assert isinstance(transport, RecordingTransport)
        return transport

    def sent(self, role: Role) -> list[bytes]:
        """Return every payload that a side has sent, in order."""
        return self.transport(role).payloads

    def sent_numbers(self, role: Role) -> list[int]:
        """Return the message numbers that a side has sent, in order."""
        return [payload[0] for payload in self.sent(role)]

    def of_type(self, role: Role, kind: type[EventType]) -> list[EventType]:
        """Return the events of one kind that a side told."""
        return [event for event in self.events[role] if isinstance(event, kind)]

    def termination(self, role: Role) -> Exception | None:
        """Return the error that ended a side; it must have ended, and once."""
        (event,) = self.of_type(role, ConnectionTerminated)
        return event.error

    def termination_of(self, role: Role) -> Exception | None:
        """Return the error that ended a side's last stream."""
        assert self.cores[role].phase is Phase.TERMINATED
        return self.of_type(role, ConnectionTerminated)[-1].error

    # Reconnecting

    def reconnect(
        self,
        *,
        pump: bool = True,
        server_config: SessionConfig | None = None,
        host_keys: Sequence[Key] | None = None,
    ) -> None:
        """Let both sides have a new stream, and the client ask for the session there.

        The stream before must have ended. Another server may answer than the one before.
        """
        client_config, usual_config, usual_keys, common = self._make_arguments
        server_config = server_config or usual_config
        keys = list(host_keys or usual_keys)
        pairs = [key for key in keys if isinstance(key, Key) and key.has_private]
        _KEYS.update({key.public(): key for key in pairs})
        common = {**common, "now": self.now}
        client_line, server_line = self._identifications
        self.client = make_core(
            CLIENT,
            client_config,
            identification=client_line,
            connection=self.connections[CLIENT],
            **common,
        )
        self.server = make_core(
            SERVER,
            server_config,
            identification=server_line,
            connection=Connection(server_config),
            host_keys=keys,
            delay_secret=b"d" * 32,
            **common,
        )
        self.cores = {CLIENT: self.client, SERVER: self.server}
        self._taken = {CLIENT: 0, SERVER: 0}
        if pump:
            self.pump()

    def lose(self) -> None:
        """Lose the stream, and with it whatever was on its way."""
        for role in Role:
            self.cores[role].data_to_send(self.now)
        self.end_stream()

    # Moving bytes

    def take(self, sender: Role) -> list[bytes]:
        """Take what a side has to send: a list of packets, the first of all being its line."""
        data = self.cores[sender].data_to_send(self.now)
        sizes = self.transport(sender).sizes
        packets = []
        start = 0
        while start < len(data):
            size = sizes[self._taken[sender]]
            packets.append(data[start : start + size])
            start += size
            self._taken[sender] += 1
        assert start == len(data)
        return packets

    def cross(self, sender: Role) -> bool:
        """Move what a side has to send to the other side; return whether there was anything."""
        first = self._taken[sender]
        packets = self.take(sender)
        moved = bool(packets)
        if self.middle is not None:
            packets = [
                replacement
                for index, packet in enumerate(packets, first)
                for replacement in self.middle(sender, index, packet)
            ]
        self.feed(sender.other, b"".join(packets))
        return moved

    def feed(self, receiver: Role, data: bytes) -> list[Event]:
        """Give bytes to a side and answer what it asks; return what it told."""
        core = self.cores[receiver]
        size = self.chunk_size or len(data) or 1
        told = []
        for start in range(0, len(data), size):
            told += self.handle(receiver, core.receive_data(data[start : start + size], self.now))
            while core.has_backlog:
                told += self.handle(receiver, core.receive_data(b"", self.now))
        return told

    def pump(self) -> list[tuple[Role, Event]]:
        """Move bytes until nothing moves any more; return what both sides told."""
        first = len(self.log)
        for _ in range(MAX_ROUNDS):
            for role in Role:
                self.handle(role, self.cores[role].poll_events())
            moved = [self.cross(role) for role in Role]
            if not any(moved):
                return self.log[first:]
        raise AssertionError("the two sides never stop talking")

    def inject(self, sender: Role, *payloads: bytes, pump: bool = True) -> None:
        """Send payloads as a side, sealed with its present keys, whatever its state."""
        for payload in payloads:
            self.cores[sender].transport.send(payload)
        if pump:
            self.pump()

    def end_stream(self) -> None:
        """Let the stream end for both sides."""
        for role in Role:
            self.handle(role, self.cores[role].receive_eof(self.now))

    # Time

    def advance(self, seconds: float, *, pump: bool = True) -> None:
        """Move the clock forward, waking cores at their deadlines, and pump after each."""
        end = self.now + seconds
        while True:
            deadlines = {
                role: deadline
                for role, core in self.cores.items()
                if (deadline := core.next_deadline()) is not None and deadline <= end
            }
            if not deadlines:
                break
            role = min(deadlines, key=lambda role: deadlines[role])
            self.now = max(self.now, deadlines[role])
            self.handle(role, self.cores[role].handle_timeout(self.now))
            if pump:
                self.pump()
            assert self.cores[role].next_deadline() != deadlines[role], "a deadline that stays"
        self.now = end

    # Answering

    def handle(self, role: Role, events: Iterable[Event]) -> list[Event]:
        """Record and answer events, and those that come of the answers."""
        told: list[Event] = []
        waiting = list(events)
        while waiting:
            for event in waiting:
                told.append(event)
                self.events[role].append(event)
                self.log.append((role, event))
                self._answer(role, event)
            waiting = self.cores[role].poll_events()
        return told

    def _answer(self, role: Role, event: Event) -> None:
        connection = self.connections[role]
        self.answers.answer(event, connection, self.now)
        match event:
            case ChannelDataReceived():
                self.received[role, event.channel.local_id] += event.data
                if self.answers.consume:
                    connection.consume(event.channel, len(event.data))
            case ChannelExtendedDataReceived():
                self.received_extended[role, event.channel.local_id] += event.data
                if self.answers.consume:
                    connection.consume(event.channel, len(event.data))

    # A session's usual way

    def authenticate(self, username: str = "alice", password: str = "wonderland") -> None:
        """Authenticate the client with a password; both sides run afterwards."""
        self.client.client_authentication.request_password(username, password)
        self.pump()
        for core in self.cores.values():
            assert core.phase is Phase.RUNNING

    def rekey(self, starter: Role) -> None:
        """Exchange new keys, as a side's application may wish."""
        self.cores[starter].start_rekey(self.now)
        self.pump()

    def open_channel(
        self, opener: Role = CLIENT, channel_type: str = "session", **arguments: Any
    ) -> tuple[ChannelState, ChannelState]:
        """Open a channel; return the client's and the server's state of it."""
        ours = self.connections[opener].open_channel(channel_type, **arguments)
        log = self.pump()
        (theirs,) = [event.channel for _, event in log if isinstance(event, ChannelOpenReceived)]
        assert [event.channel for _, event in log if isinstance(event, ChannelOpened)] == [ours]
        pair = (ours, theirs) if opener is CLIENT else (theirs, ours)
        self.channels.append(pair)
        return pair

    def send(self, sender: Role, channel: ChannelState, data: bytes) -> None:
        """Send all of the data on a channel, pumping whenever no more is taken."""
        view = memoryview(data)
        while view:
            taken = self.connections[sender].send_data(channel, view)
            view = view[taken:]
            moved = self.pump()
            assert taken or moved, "the sender is stuck"

    def assert_usable(self) -> None:
        """Carry data both ways on a channel, the first or a new one."""
        client, server = self.channels[0] if self.channels else self.open_channel()
        for sender, ours, theirs in ((CLIENT, client, server), (SERVER, server, client)):
            before = len(self.received[sender.other, theirs.local_id])
            self.send(sender, ours, b"still here")
            assert self.received[sender.other, theirs.local_id][before:] == b"still here"


def running_pair(
    client_config: SessionConfig | None = None,
    server_config: SessionConfig | None = None,
    *,
    channels: int = 0,
    **arguments: Any,
) -> CorePair:
    """Return a pair that is authenticated and has some open channels."""
    pair = CorePair(client_config, server_config, **arguments)
    pair.pump()
    if pair.client.config.is_secure:
        pair.authenticate()
    for _ in range(channels):
        pair.open_channel()
    return pair


def assert_terminated(
    pair: CorePair, role: Role, reason: int | None = None, match: str = ""
) -> Exception | None:
    """Check that a side has ended, once and for good; return its error.

    :param reason: of the DISCONNECT that it must have sent as its last message; None for a side
        that has sent none
    :param match: must be part of the error's text
    """
    assert pair.cores[role].phase is Phase.TERMINATED
    assert not pair.cores[role].has_backlog
    error = pair.termination(role)
    assert isinstance(pair.events[role][-1], ConnectionTerminated)
    disconnects = [
        Disconnect.decode(payload).reason
        for payload in pair.sent(role)
        if payload[0] == MessageNumber.DISCONNECT
    ]
    assert disconnects == ([] if reason is None else [reason])
    if reason is not None:
        assert pair.sent(role)[-1][0] == MessageNumber.DISCONNECT
    if isinstance(error, RemoteProtocolError) and reason is not None:
        assert error.reason == reason
    assert match in str(error)
    return error
