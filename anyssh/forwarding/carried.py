"""The connections that a session carries, from the moment that both of their ends are known.

Connections that need no waiting have no task: their relays are watched together. Each connection
adds its addresses to its channel's attributes, is counted with its port and with the acceptor that
accepted it, and is traced.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from logging import Logger, getLogger
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute

from ..constants import ChannelOpenFailureReason
from ..errors import ChannelOpenError, LocalProtocolError, SSHError
from ..session.channel import Channel
from ..session.opening import ChannelOpening
from ..trace import TraceId, TraceLevel
from ..wire import displayable
from . import payloads
from .acceptor import Acceptor, Carry, CarryNowait, originator_of
from .connecting import AddressRefused
from .endpoints import Endpoint, TcpEndpoint
from .payloads import ForwardingOpen, Way
from .policy import Connecting
from .ports import ForwardedConnection, ForwardedPort
from .relay import Relay, Relays, SocketRelay, reset
from .sockets import ConnectedSocket
from .watching import make_watcher

if TYPE_CHECKING:
    from .service import PortForwarding

__all__ = ["FAILED", "NOT_ALLOWED", "Carried", "Owner", "describe", "refuse"]

logger: Logger = getLogger("anyssh")

NOT_ALLOWED: Final = ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED
FAILED: Final = ChannelOpenFailureReason.CONNECT_FAILED


class Owner(Protocol):
    """Owns the connections that it has accepted, and aborts them when it ends."""

    def relay_began(self, relay: SocketRelay) -> None:
        """Own a relay, which is waiting for its channel."""

    def relay_served(self) -> None:
        """Note that a relay waits for its channel no more: it is open, or never will be."""

    def relay_ended(self, relay: SocketRelay) -> None:
        """Stop owning a relay that has ended."""


class _CarriedRelay(SocketRelay):
    """The relay of one connection.

    :param endpoint: where the connection goes to, or where it arrived
    :param originator: where it comes from, as far as known
    :param is_incoming: whether the peer opened the channel
    :param port: the forwarded port that it belongs to, if any
    :param owner: what accepted it
    """

    __slots__ = (
        "_carried",
        "_endpoint",
        "_has_opened",
        "_is_incoming",
        "_originator",
        "_owner",
        "_port",
    )

    def __init__(
        self,
        carried: Carried,
        stream: ConnectedSocket,
        endpoint: Endpoint,
        originator: TcpEndpoint | None,
        *,
        is_incoming: bool = False,
        port: ForwardedPort | None = None,
        owner: Owner | None = None,
    ) -> None:
        super().__init__(stream, carried.relays)
        self._carried = carried
        self._endpoint = endpoint
        self._originator = originator
        self._is_incoming = is_incoming
        self._port = port
        self._owner = owner
        self._has_opened = False
        if owner is not None:
            owner.relay_began(self)

    def opened(self, channel: Channel) -> None:
        """Report the connection."""
        self._has_opened = True
        if self._owner is not None:
            self._owner.relay_served()
        self._carried.make_known(
            channel, self._endpoint, self._originator, self._is_incoming, self._port
        )

    def channel_refused(self, error: ChannelOpenError) -> None:
        """Abort; the client only sees its connection reset."""
        what = TraceId.PORT_FORWARD_CHANNEL_OPEN_FAILED
        self._carried.trace(what, TraceLevel.WARNING, f"{self._endpoint}: {error}", error)
        super().channel_refused(error)

    def ended(self) -> None:
        """Forget the connection."""
        if self._has_opened and self._channel is not None:
            self._carried.forget(self._channel, self._endpoint, self._port)
        if self._owner is not None:
            if not self._has_opened:
                self._owner.relay_served()
            self._owner.relay_ended(self)


class Carried:
    """The forwarded connections of one session.

    :ivar relays: what their relays share
    """

    def __init__(self, service: PortForwarding) -> None:
        self._service = service
        session = service.session
        watcher = make_watcher(service.start_soon, session.together)
        self.relays: Relays = Relays(watcher, session.config.window_size)

    def make_acceptor(
        self, listener: Listener[ByteStream], carry: Carry, carry_nowait: CarryNowait
    ) -> Acceptor:
        """Return an acceptor for the connections of a listener; see :class:`Acceptor`."""
        limit = self._service.policy.pending_connections
        return Acceptor(listener, carry, limit, carry_nowait, self.relays.watcher)

    def accept_nowait(
        self, opening: ChannelOpening, arrival: ForwardingOpen, stream: ConnectedSocket
    ) -> None:
        """Accept a channel whose connection is established, and start relaying without a task."""
        relay = _CarriedRelay(self, stream, arrival.endpoint, arrival.originator, is_incoming=True)
        try:
            channel = opening.accept_nowait()
            relay.opened(channel)
            relay.begin(channel)
        except BaseException:
            relay.abort()
            raise

    async def carry_incoming(
        self,
        opening: ChannelOpening,
        arrival: ForwardingOpen,
        connect: Callable[[], Awaitable[ByteStream]],
        *,
        connecting: Connecting | None = None,
        port: ForwardedPort | None = None,
    ) -> None:
        """Connect for a channel of the peer, accept the channel, relay.

        If the connection fails, the channel is refused.

        :param connect: connects, or raises :exc:`ChannelOpenError` with what to refuse it with
        """
        try:
            stream = await connect()
        except ChannelOpenError as refusal:
            opening.reject_nowait(refusal.reason, refusal.description)
            return
        except BaseException:
            await refuse(opening)
            raise

        async def accept() -> Channel:
            return opening.accept_nowait()

        try:
            await self.carry(
                stream,
                accept,
                ForwardedConnection(
                    self._service.session, stream, arrival.endpoint, arrival.originator, True
                ),
                connecting=connecting,
                port=port,
            )
        except BaseException:
            await refuse(opening)
            raise

    async def connect(
        self, endpoint: Endpoint, connect: Callable[[float], Awaitable[ByteStream]]
    ) -> ByteStream:
        """Connect to an endpoint.

        :param connect: connects within the given number of seconds
        :raises ChannelOpenError: the connection failed; holds what the peer may know about it
        """
        try:
            return await connect(self._service.policy.connect_time)
        except (OSError, ValueError, anyio.BrokenResourceError, SSHError) as error:
            raise self.failure(endpoint, error) from error

    def failure(self, endpoint: Endpoint, error: Exception) -> ChannelOpenError:
        """Trace that a connection failed; return what the peer may know about it."""
        self._service.trace_failure(
            TraceId.PORT_FORWARD_CONNECTION_FAILED, f"{endpoint}: {error}", error
        )
        reason = NOT_ALLOWED if isinstance(error, AddressRefused) else FAILED
        return ChannelOpenError(reason, _told(error))

    def carry_nowait(
        self,
        acceptor: Acceptor,
        stream: ConnectedSocket,
        way: Way,
        endpoint: Endpoint,
        *,
        connecting: Connecting | None = None,
        port: ForwardedPort | None = None,
    ) -> bool:
        """Start to relay an accepted connection without a task; return whether that is possible.

        :param acceptor: what accepted the connection
        :param stream: the connection
        :param way: the direction of the channel to open
        :param endpoint: the endpoint to name in the channel open
        :param connecting: called before the channel is opened, which takes a task
        :param port: the forwarded port that the connection came through
        """
        if connecting is not None or self._service.policy.idle_time != inf:
            return False
        origin = originator_of(stream)
        relay = _CarriedRelay(self, stream, endpoint, origin, port=port, owner=acceptor)
        try:
            channel_type, payload = payloads.channel_opening(way, endpoint, origin)
            relay.open(self._service.session, channel_type, payload)
        except anyio.WouldBlock:
            relay.leave()
            return False
        except SSHError as error:
            logger.debug("a forwarded connection failed: %r", error)
            relay.abort()
        except Exception:
            logger.exception("a forwarded connection failed")
            relay.abort()
        return True

    async def carry(
        self,
        stream: ByteStream,
        open_channel: Callable[[], Awaitable[Channel]],
        about: ForwardedConnection,
        *,
        connecting: Connecting | None = None,
        port: ForwardedPort | None = None,
    ) -> None:
        """Join a stream and a channel yet to be opened, until both directions have ended.

        :param about: a description of the connection, whose stream is replaced
        :raises SSHError: the channel could not be opened; the stream was reset
        """
        opened: list[Channel] = []

        async def establish() -> tuple[Channel, ByteStream]:
            channel = await open_channel()
            opened.append(channel)
            self.make_known(channel, about.endpoint, about.originator, about.is_incoming, port)
            return channel, await self._prepared(channel, about, connecting)

        idle_time = self._service.policy.idle_time
        try:
            if connecting is None and isinstance(stream, ConnectedSocket) and idle_time == inf:
                await self._carry_socket(stream, establish)
            else:
                is_target = about.is_incoming
                relay = Relay(stream, self.relays, is_target=is_target, idle_time=idle_time)
                await relay.run(establish)
        finally:
            for channel in opened:
                self.forget(channel, about.endpoint, port)

    async def _carry_socket(
        self,
        stream: ConnectedSocket,
        establish: Callable[[], Awaitable[tuple[Channel, ByteStream]]],
    ) -> None:
        try:
            channel, _ = await establish()
        except BaseException:
            stream.close(resets=True)
            raise
        await SocketRelay(stream, self.relays).run(channel)

    async def _prepared(
        self, channel: Channel, about: ForwardedConnection, connecting: Connecting | None
    ) -> ByteStream:
        """Let the application wrap or refuse a channel."""
        if connecting is None:
            return channel
        try:
            stream = await connecting(replace(about, stream=channel))
        except BaseException as error:
            await reset(channel)
            if isinstance(error, Exception):
                self._service.trace_failure(
                    TraceId.PORT_FORWARD_CONNECTION_FAILED, "a connecting hook failed", error
                )
            raise
        if stream is None:
            await reset(channel)
            raise LocalProtocolError("the application refused a forwarded connection")
        return stream

    def make_known(
        self,
        channel: Channel,
        endpoint: Endpoint,
        originator: TcpEndpoint | None,
        is_incoming: bool,
        port: ForwardedPort | None,
    ) -> None:
        """Report a new connection to its channel's attributes, its port and the trace."""
        if is_incoming or port is not None:
            describe(channel, local=endpoint, remote=originator)
        else:
            describe(channel, local=None, remote=endpoint)
        if port is not None:
            self._service.ports_of(port).add_channel(port, channel)
        if self._service.is_traced:
            origin = f" from {originator}" if originator else ""
            what = TraceId.PORT_FORWARD_CHANNEL_OPENED
            self.trace(what, TraceLevel.INFO, f"{endpoint}{origin}")

    def forget(self, channel: Channel, endpoint: Endpoint, port: ForwardedPort | None) -> None:
        """Report to its port and the trace that a connection has ended."""
        if port is not None:
            self._service.ports_of(port).remove_channel(port, channel)
        if self._service.is_traced:
            self.trace(TraceId.PORT_FORWARD_CHANNEL_CLOSED, TraceLevel.INFO, f"{endpoint}: ended")

    def trace(
        self, trace_id: TraceId, level: TraceLevel, text: str, error: Exception | None = None
    ) -> None:
        """Trace an event of a connection."""
        self._service.trace(trace_id, level, displayable(text), error)

    def note_channel(self, port: ForwardedPort, channel: Channel) -> None:
        """Count a channel that the application accepted with its port, until it is closed."""
        ports = self._service.ports_of(port)

        async def watch() -> None:
            try:
                await channel.wait_closed()
            finally:
                ports.remove_channel(port, channel)

        ports.add_channel(port, channel)
        self._service.start_soon(watch)


def describe(channel: Channel, *, local: Endpoint | None, remote: Endpoint | None) -> None:
    """Give a channel the address attributes of a socket."""
    if isinstance(local, TcpEndpoint):
        near = (local.host, local.port)
        channel.add_attributes(
            {
                SocketAttribute.local_address: lambda: near,
                SocketAttribute.local_port: lambda: near[1],
            }
        )
    if isinstance(remote, TcpEndpoint):
        far = (remote.host, remote.port)
        channel.add_attributes(
            {
                SocketAttribute.remote_address: lambda: far,
                SocketAttribute.remote_port: lambda: far[1],
            }
        )


async def refuse(opening: ChannelOpening) -> None:
    """Refuse a channel, unless it is already answered or the session has ended."""
    with anyio.CancelScope(shield=True), suppress(SSHError):
        await opening.reject(FAILED, "not connected")


def _told(error: Exception) -> str:
    """Return what to tell the peer about a failed connection: what happened, not where."""
    if isinstance(error, TimeoutError):
        return "connection timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "connection failed"
