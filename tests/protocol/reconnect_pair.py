"""A session's two connections over successive streams, each of which may be cut anywhere.

A :class:`Stream` is two cores and the bytes in flight between them. A :class:`ReconnectingPair` has
all streams of one session. Once a stream is cut, what its ends still write goes nowhere; each end
learns of it when the test says so. The client may then start a new one; as its bytes are moved, the
server's connection moves over to it, whether or not the server knew that the old stream was dead.

Every message of the connection protocol is recorded twice: by the side that sends it, before
anything can be lost, and by the side that handles it. So the promise of reconnecting is a single
statement: what was handled is a prefix of what was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from anyssh.config import SessionConfig
from anyssh.constants import MessageNumber
from anyssh.errors import ReconnectError, SSHError
from anyssh.protocol import Core, Phase, Role
from anyssh.protocol.connection import Connection, PacketSink
from anyssh.protocol.events import (
    ConnectionTerminated,
    Event,
    KeepAliveMissed,
    ReconnectRequested,
    SessionResumed,
)
from anyssh.wire import Buffer

from .core_pair import CLIENT, FAST, SERVER, Answers, CorePair

__all__ = ["ReconnectingPair", "Stream", "WatchedConnection", "reconnect_config"]


MAX_MISSED = 3


def reconnect_config(**changes: Any) -> SessionConfig:
    """Return a configuration that reconnects and has a cheap handshake."""
    return SessionConfig.with_reconnect(**FAST).replace(**changes)


class _Noting:
    """A sink that notes what is said over it."""

    def __init__(self, sink: PacketSink, said: list[bytes]) -> None:
        self._sink = sink
        self._said = said

    @property
    def can_send(self) -> bool:
        return self._sink.can_send

    @property
    def room(self) -> int:
        return self._sink.room

    def send(self, head: bytes, body: Buffer = b"") -> None:
        self._said.append(bytes(head) + bytes(body))
        self._sink.send(head, body)

    def emit(self, event: Event) -> None:
        self._sink.emit(event)

    def count_noise(self, size: int) -> None:
        self._sink.count_noise(size)


class WatchedConnection(Connection):
    """A connection that notes every message.

    :ivar said: what it has handed to its links, each message once, however often it is sent
    :ivar handled: what it was told
    """

    def __init__(self, config: SessionConfig) -> None:
        super().__init__(config)
        self.said: list[bytes] = []
        self.handled: list[bytes] = []
        self.handlers = {
            number: partial(self._note, self.handlers[number])
            for number in MessageNumber
            if number >= MessageNumber.GLOBAL_REQUEST
        }

    def _note(self, handler: Callable[[Buffer], None], payload: Buffer) -> None:
        self.handled.append(bytes(payload))
        handler(payload)

    def attach(self, sink: PacketSink) -> None:
        super().attach(_Noting(sink, self.said))


class Stream:
    """One byte stream.

    :ivar wire: bytes on their way, by who sent them
    :ivar is_cut: whether no more bytes can get on their way
    :ivar is_damaged: whether bytes were changed, so that it may come to a halt
    """

    def __init__(self, client: Core, server: Core) -> None:
        self.cores = {CLIENT: client, SERVER: server}
        self.wire = {CLIENT: bytearray(), SERVER: bytearray()}
        self.is_cut = False
        self.is_damaged = False

    def cut(self, kept: dict[Role, int]) -> None:
        """Let nothing more get through but so many bytes of what each side has sent."""
        self.is_cut = True
        for role, wire in self.wire.items():
            del wire[kept[role] :]

    def has_ended(self, role: Role) -> bool:
        """Whether a side knows that it is over."""
        return self.cores[role].phase is Phase.TERMINATED

    @property
    def is_over(self) -> bool:
        """Whether nothing can happen on it any more."""
        return all(self.has_ended(role) for role in Role)


class ReconnectingPair(CorePair):
    """A session and all of its streams; runs over the first one when it is made.

    :ivar streams: those on which something may still happen, the newest last
    :ivar attached: the stream that each side's connection works over, or worked last
    :ivar resumptions: how often each side has gone on over a new stream
    :ivar failures: why clients did not
    """

    def __init__(
        self, config: SessionConfig, *, answers: Answers | None = None, **arguments: Any
    ) -> None:
        answers = replace(answers or Answers(), reconnect=None)
        super().__init__(config, connection_type=WatchedConnection, answers=answers, **arguments)
        self.pump()
        self.authenticate()
        self.streams = [Stream(self.client, self.server)]
        self.attached = dict.fromkeys(Role, self.streams[0])
        self.resumptions = dict.fromkeys(Role, 0)
        self.failures: list[SSHError] = []
        self._checked = dict.fromkeys(Role, 0)

    @property
    def newest(self) -> Stream:
        """The stream that was begun last."""
        return self.streams[-1]

    def is_connected(self, role: Role) -> bool:
        """Whether a side's connection has a stream, as far as it knows."""
        return not self.attached[role].has_ended(role)

    @property
    def may_begin(self) -> bool:
        """Whether the client has no stream and is not trying to get one."""
        return not self.is_connected(CLIENT) and self.newest.has_ended(CLIENT)

    def begin(self) -> None:
        """Begin a new stream, over which the client asks for its session."""
        attached = self.cores
        self.reconnect(pump=False)
        self.streams.append(Stream(self.client, self.server))
        self.cores = attached

    # Moving bytes; each of these returns what the two sides were told

    def collect(self) -> list[tuple[Role, Event]]:
        """Take what everybody has to say; it is on its way from then on, or lost."""
        told = []
        for stream in tuple(self.streams):
            for role, core in stream.cores.items():
                data = core.data_to_send(self.now)
                if not stream.is_cut:
                    stream.wire[role] += data
                told += self.tell(stream, role, core.poll_events())
        return told

    def deliver(self, stream: Stream, sender: Role, size: int) -> list[tuple[Role, Event]]:
        """Let some bytes arrive."""
        chunk = bytes(stream.wire[sender][:size])
        del stream.wire[sender][:size]
        core = stream.cores[sender.other]
        told = []
        if chunk:
            told += self.tell(stream, sender.other, core.receive_data(chunk, self.now))
        while core.has_backlog:
            told += self.tell(stream, sender.other, core.receive_data(b"", self.now))
        return told

    def poll(self) -> list[tuple[Role, Event]]:
        """Move nothing; only ask."""
        told = []
        for stream in tuple(self.streams):
            for role, core in stream.cores.items():
                told += self.tell(stream, role, core.poll_events())
        return told

    def notice(self, stream: Stream, role: Role) -> list[tuple[Role, Event]]:
        """Let a side learn that the stream has ended."""
        return self.tell(stream, role, stream.cores[role].receive_eof(self.now))

    def let_time_pass(self, seconds: float) -> list[tuple[Role, Event]]:
        """Move the clock, and do what is due then."""
        self.now += seconds
        told = []
        for stream in tuple(self.streams):
            for role, core in stream.cores.items():
                deadline = core.next_deadline()
                if deadline is not None and deadline <= self.now:
                    told += self.tell(stream, role, core.handle_timeout(self.now))
        return told

    # What cores tell

    def handle(self, role: Role, events: Iterable[Event]) -> list[Event]:
        """Answer what the core of a side's connection asks; return what concerns the session."""
        if not hasattr(self, "streams"):
            return super().handle(role, events)
        return [event for _, event in self.tell(self.attached[role], role, list(events))]

    def tell(self, stream: Stream, role: Role, events: list[Event]) -> list[tuple[Role, Event]]:
        """Answer what a core asks; return what concerns the session."""
        core, told = stream.cores[role], []
        while events:
            for event in events:
                told += self._tell(stream, role, event)
            events = core.poll_events()
        kept = [self.newest, *self.attached.values()]
        self.streams = [other for other in self.streams if other in kept or not other.is_over]
        return told

    def _tell(self, stream: Stream, role: Role, event: Event) -> list[tuple[Role, Event]]:
        self._answer(role, event)
        match event:
            case ReconnectRequested():
                return self._reconnect_requested(event)
            case SessionResumed():
                self.attached[role] = stream
                self.cores[role] = stream.cores[role]
                self.resumptions[role] += 1
                return []
            case KeepAliveMissed() if event.count >= MAX_MISSED:
                stream.cores[role].lose(SSHError("no sign of life"), self.now)
            case ConnectionTerminated():
                stream.cut(dict.fromkeys(Role, 0) | {role: len(stream.wire[role])})
                if stream is self.attached[role]:
                    assert event.is_survivable, event
                elif event.error is not None:
                    self.failures.append(event.error)
                return []
        return [(role, event)] if stream is self.attached[role] else []

    def _reconnect_requested(self, event: ReconnectRequested) -> list[tuple[Role, Event]]:
        """Do what a server's session does: find itself, give up its stream, go on over the new."""
        connection = self.connections[SERVER]
        assert connection.continuity is not None
        assert event.proves(connection.continuity.session_id)
        assert not event.proves(b"?" * 32)
        old = self.attached[SERVER]
        told: list[tuple[Role, Event]] = []
        if event.is_overtaken(connection):
            event.reject(ReconnectError(1, "overtaken"), self.now)
            return told
        if not old.has_ended(SERVER):
            old.cores[SERVER].lose(SSHError("the client came back over another stream"), self.now)
            told = self.tell(old, SERVER, old.cores[SERVER].poll_events())
        event.accept(connection, self.now)
        return told

    # Recovering

    def recover(self) -> list[tuple[Role, Event]]:
        """Let everybody learn what has happened, and reconnect; nothing goes wrong any more."""
        told = [] if self.newest.is_cut else self._flow(self.newest)
        if not self._is_whole:
            self.newest.cut(dict.fromkeys(Role, 0))
            for stream in tuple(self.streams):
                told += self.notice(stream, CLIENT)
            self.begin()
            told += self._flow(self.newest)
        assert self._is_whole, self.failures
        return told

    @property
    def _is_whole(self) -> bool:
        newest = self.newest
        return not (newest.is_cut or newest.is_damaged) and all(
            self.attached[role] is newest and not newest.has_ended(role) for role in Role
        )

    def _flow(self, stream: Stream) -> list[tuple[Role, Event]]:
        told = self.collect()
        while any(stream.wire.values()):
            for role in Role:
                told += self.deliver(stream, role, len(stream.wire[role]))
            told += self.collect()
        return told

    def assert_promise(self) -> None:
        """Check that nothing was lost, doubled or brought out of order."""
        for role in Role:
            said = self.connections[role].said
            handled = self.connections[role.other].handled
            first = self._checked[role]
            assert handled[first:] == said[first : len(handled)]
            self._checked[role] = len(handled)
