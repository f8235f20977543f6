"""The forwarding of one session: what the peer asks of us, and what we have asked of it.

Every incoming channel and request of forwarding comes here and is judged by the policy, or belongs
to a port that we have asked the peer to listen on. Requests to listen are handled in their order;
a connection is accepted only after the reply to its request was given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from logging import Logger, getLogger
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, Listener

from ..constants import ChannelOpenFailureReason
from ..errors import ChannelOpenError, LocalProtocolError, SSHError, WireError
from ..messages import DirectTcpip, TcpipForwardSuccess
from ..session.channel import Channel
from ..session.opening import ChannelOpening
from ..session.requests import IncomingRequest
from ..session.services import ServiceActivation, SessionService
from ..trace import TraceId, TraceLevel
from ..wire import displayable
from . import payloads
from .acceptor import Acceptor, originator_of
from .carried import CarriedRelay, describe
from .connecting import AddressRefused, connect_tcp, connect_tcp_nowait, connect_unix
from .endpoints import Endpoint, TcpEndpoint
from .listening import bound_port, close_listener, listen
from .payloads import Opening, Way
from .policy import Connecting, ForwardingAction, ForwardingPolicy, ForwardingRequest
from .ports import ForwardedConnection, ForwardedPort, Ports
from .relay import Leftovers, Relay, SocketRelay, reset
from .sockets import ConnectedSocket
from .watching import make_watcher

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = ["PortForwarding", "PeerListener"]

logger: Logger = getLogger("anyssh")

NOT_ALLOWED: Final = ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED
FAILED: Final = ChannelOpenFailureReason.CONNECT_FAILED


class PeerListener(Protocol):
    """Something that we have asked the peer to listen on."""

    @property
    def asked(self) -> Endpoint:
        """What we asked for."""

    @property
    def announced(self) -> Endpoint | None:
        """What the peer made of it; None until it is known."""

    async def take(self, opening: ChannelOpening, arrival: Opening) -> None:
        """See to a connection that arrived there."""


class _Granted:
    """Something that the peer has asked us to listen on.

    :ivar key: the endpoint as the peer names it
    :ivar acceptor: listens, unless connections only come from the application
    """

    def __init__(self, key: Endpoint, port: ForwardedPort) -> None:
        self.key = key
        self.port = port
        self.acceptor: Acceptor | None = None


class PortForwarding(SessionService):
    """What a session forwards, in both directions; :attr:`Session.forwarding` is it."""

    activations: ClassVar[tuple[ServiceActivation, ...]] = (
        *(ServiceActivation(channel_type=name) for name in payloads.CHANNEL_TYPES),
        *(ServiceActivation(session_request=name) for name in payloads.SESSION_REQUESTS),
    )

    def __init__(self, session: Session, config: Any = None) -> None:
        super().__init__(session, config)
        self._policy: ForwardingPolicy = config if config is not None else ForwardingPolicy()
        self._local = Ports(self.tell)
        self._remote = Ports(self.tell)
        self._granted: dict[Endpoint, _Granted] = {}
        self._asked: dict[PeerListener, None] = {}
        self._asked_changed = anyio.Event()
        self.watcher = make_watcher(self.start_soon, session.together)
        self._leftovers = Leftovers()

    @property
    def policy(self) -> ForwardingPolicy:
        """What the peer may ask of us."""
        return self._policy

    @property
    def local_ports(self) -> tuple[ForwardedPort, ...]:
        """The ports that the peer listens on because we asked it to."""
        return self._local.snapshot

    @property
    def remote_ports(self) -> tuple[ForwardedPort, ...]:
        """The ports that we listen on because the peer asked us to."""
        return self._remote.snapshot

    # What we have asked the peer to listen on

    def expect(self, listener: PeerListener) -> None:
        """Take connections for a listener of ours at the peer, which is about to be asked.

        :raises LocalProtocolError: there is one for this endpoint
        """
        if self._match(listener.asked) is not None:
            raise LocalProtocolError(f"{listener.asked} is forwarded from the peer already")
        self._asked[listener] = None

    def granted(self, listener: PeerListener, port: ForwardedPort) -> None:
        """Note that the peer listens, and where."""
        self._local.add(port)
        self._notify_asked()

    def note_channel(self, port: ForwardedPort, channel: Channel) -> None:
        """Count a channel that the application took among those of a port, until it is closed."""

        async def watch() -> None:
            try:
                await channel.wait_closed()
            finally:
                self._local.remove_channel(port, channel)

        self._local.add_channel(port, channel)
        self.start_soon(watch)

    def forget(self, listener: PeerListener, port: ForwardedPort | None) -> None:
        """Take no more connections for a listener of ours."""
        self._asked.pop(listener, None)
        if port is not None:
            self._local.remove(port)
        self._notify_asked()

    def _notify_asked(self) -> None:
        self._asked_changed.set()
        self._asked_changed = anyio.Event()

    def _match(self, endpoint: Endpoint) -> PeerListener | None:
        """Return who asked for an endpoint.

        Peers report the address that was bound in their own words, so the port decides; the address
        only tells several of one port apart.
        """
        same_port = None
        for listener in self._asked:
            known = listener.announced or listener.asked
            if isinstance(known, TcpEndpoint) and isinstance(endpoint, TcpEndpoint):
                if known.port == endpoint.port != 0:
                    if known.host == endpoint.host:
                        return listener
                    same_port = listener
            elif known == endpoint:
                return listener
        return same_port

    async def _expected(self, endpoint: Endpoint) -> PeerListener | None:
        """Return who asked for an endpoint.

        A connection may be faster than whoever waits for the reply that tells the port.
        """
        while (listener := self._match(endpoint)) is None and self._awaits_a_port:
            await self._asked_changed.wait()
        return listener

    @property
    def _awaits_a_port(self) -> bool:
        """Whether the peer is choosing a port for us."""
        return any(
            isinstance(listener.asked, TcpEndpoint)
            and listener.asked.port == 0
            and listener.announced is None
            for listener in self._asked
        )

    def ports_of(self, port: ForwardedPort) -> Ports:
        """Return the ports that one belongs to.

        :param port: one that is or was forwarded
        """
        return self._remote if port.is_remote else self._local

    # Channels of the peer

    def on_channel_opening_nowait(self, opening: ChannelOpening) -> bool:
        """Connect to this machine at once, if nobody need be asked and nothing be waited for.

        :param opening: to be accepted or rejected, unless there is something to wait for
        """
        if opening.channel_type != DirectTcpip.channel_type or not self._policy.decides_at_once:
            return False
        try:
            arrival = payloads.read_opening(opening.channel_type, opening.payload)
        except WireError:
            return False
        endpoint = arrival.endpoint
        if not (isinstance(endpoint, TcpEndpoint) and self._policy.may_connect(endpoint)):
            return False
        may_use = self._policy.may_use_address
        try:
            stream = connect_tcp_nowait(endpoint, lambda address: may_use(endpoint, address))
        except OSError as error:
            self._not_connected(opening, arrival, error)
            return True
        if stream is None:
            return False
        relay = CarriedRelay(
            self,
            self.watcher,
            self._leftovers,
            stream,
            endpoint,
            arrival.originator,
            is_incoming=True,
        )
        try:
            channel = opening.accept_nowait()
            relay.opened(channel)
            relay.begin(channel)
        except BaseException:
            relay.abort()
            raise
        return True

    async def on_channel_opening(self, opening: ChannelOpening) -> None:
        """Connect to where a channel is to go, if the policy allows it or we have asked for it."""
        try:
            arrival = payloads.read_opening(opening.channel_type, opening.payload)
        except WireError as error:
            await opening.reject(FAILED, displayable(str(error)))
            self._trace_failure(TraceId.PORT_FORWARD_CHANNEL_INVALID, str(error))
            return
        try:
            if arrival.way is Way.DIRECT:
                await self._open_direct(opening, arrival)
            else:
                await self._open_forwarded(opening, arrival)
        except BaseException:
            await _refuse(opening)
            raise

    async def _open_forwarded(self, opening: ChannelOpening, arrival: Opening) -> None:
        listener = await self._expected(arrival.endpoint)
        if listener is None:
            self._trace_failure(
                TraceId.PORT_FORWARD_CHANNEL_INVALID, f"{arrival.endpoint} was not asked for"
            )
            await opening.reject(FAILED, "Forwarding channel was not requested.")
        else:
            await listener.take(opening, arrival)

    async def _open_direct(self, opening: ChannelOpening, arrival: Opening) -> None:
        endpoint = arrival.endpoint
        request = ForwardingRequest(
            self.session,
            ForwardingAction.CONNECT,
            endpoint,
            arrival.originator,
            arrival.extra,
        )
        if not (self._policy.may_connect(endpoint) and await self._decide(request)):
            self._trace_failure(
                TraceId.PORT_FORWARD_CHANNEL_OPEN_FAILED, f"{endpoint}: not allowed"
            )
            await opening.reject(NOT_ALLOWED, "connecting there is not allowed")
            return
        await self.carry_incoming(
            opening,
            arrival,
            lambda seconds: self._connect(endpoint, seconds),
            connecting=self._policy.connecting,
        )

    async def _decide(self, request: ForwardingRequest) -> bool:
        """Ask the application; an exception or too much time means no."""
        decide = self._policy.decide
        if decide is None:
            return True
        try:
            with anyio.fail_after(self.session.config.limits.handler_time):
                return await decide(request) is True
        except Exception as error:
            self._trace_failure(
                TraceId.PORT_FORWARD_REQUEST_INVALID, "deciding about forwarding failed", error
            )
            return False

    async def _connect(self, endpoint: Endpoint, seconds: float) -> ByteStream:
        """Connect for the peer, to addresses that it may connect to."""
        if self._policy.connector is not None:
            with anyio.fail_after(seconds):
                return await self._policy.connector(endpoint)
        if isinstance(endpoint, TcpEndpoint):
            may_use = self._policy.may_use_address
            return await connect_tcp(endpoint, seconds, lambda address: may_use(endpoint, address))
        return await connect_unix(endpoint, seconds)

    # Carrying connections

    async def carry_incoming(
        self,
        opening: ChannelOpening,
        arrival: Opening,
        connect: Callable[[float], Awaitable[ByteStream]],
        *,
        connecting: Connecting | None = None,
        port: ForwardedPort | None = None,
    ) -> None:
        """Connect to somewhere for a channel of the peer, accept the channel, relay.

        The channel is refused if the connection does not come about.

        :param connect: connects within so many seconds
        """
        try:
            stream = await connect(self._policy.connect_time)
        except (OSError, ValueError, anyio.BrokenResourceError, SSHError) as error:
            self._not_connected(opening, arrival, error)
            return
        except BaseException:
            await _refuse(opening)
            raise

        async def accept() -> Channel:
            return opening.accept_nowait()

        try:
            await self.carry(
                stream,
                accept,
                ForwardedConnection(
                    self.session, stream, arrival.endpoint, arrival.originator, True
                ),
                connecting=connecting,
                port=port,
            )
        except BaseException:
            await _refuse(opening)
            raise

    def _not_connected(self, opening: ChannelOpening, arrival: Opening, error: Exception) -> None:
        """Refuse a channel whose connection did not come about."""
        self._trace_failure(
            TraceId.PORT_FORWARD_CONNECTION_FAILED, f"{arrival.endpoint}: {error}", error
        )
        reason = NOT_ALLOWED if isinstance(error, AddressRefused) else FAILED
        opening.reject_nowait(reason, _told(error))

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
        """Begin to relay an accepted connection without a task; return whether that is possible.

        :param acceptor: what has accepted it
        :param stream: the connection
        :param way: of the channel to be opened
        :param endpoint: what the channel is opened for
        :param connecting: asked before the channel is opened, which takes a task
        :param port: what it came through
        """
        if connecting is not None or self._policy.idle_time != inf:
            return False
        origin = originator_of(stream)
        relay = CarriedRelay(
            self,
            self.watcher,
            self._leftovers,
            stream,
            endpoint,
            origin,
            port=port,
            owner=acceptor,
        )
        try:
            channel_type, payload = payloads.channel_opening(way, endpoint, origin)
            relay.open(self.session, channel_type, payload)
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
        early: bytes = b"",
    ) -> None:
        """Join a stream to a channel that is yet to be opened, until both have ended.

        :param about: what the connection is; its stream is replaced
        :raises SSHError: the channel did not come about; the stream was reset
        """
        opened: list[Channel] = []

        async def establish() -> tuple[Channel, ByteStream]:
            channel = await open_channel()
            opened.append(channel)
            if about.is_incoming or port is not None:
                describe(channel, local=about.endpoint, remote=about.originator)
            else:
                describe(channel, local=None, remote=about.endpoint)
            if port is not None:
                self.ports_of(port).add_channel(port, channel)
            if self.is_traced:
                self._trace_opened(channel, about)
            return channel, await self._prepared(channel, about, connecting)

        idle_time = self._policy.idle_time
        try:
            if connecting is None and isinstance(stream, ConnectedSocket) and idle_time == inf:
                await self._carry_socket(stream, establish, early)
            else:
                await Relay(stream, early=early, idle_time=idle_time).run(establish)
        finally:
            for channel in opened:
                if port is not None:
                    self.ports_of(port).remove_channel(port, channel)
                if self.is_traced:
                    self.trace(
                        TraceId.PORT_FORWARD_CHANNEL_CLOSED,
                        TraceLevel.INFO,
                        f"{about.endpoint}: ended",
                    )

    async def _carry_socket(
        self,
        stream: ConnectedSocket,
        establish: Callable[[], Awaitable[tuple[Channel, ByteStream]]],
        early: bytes,
    ) -> None:
        try:
            channel, _ = await establish()
        except BaseException:
            stream.close(resets=True)
            raise
        await SocketRelay(stream, self.watcher, self._leftovers).run(channel, early)

    async def _prepared(
        self, channel: Channel, about: ForwardedConnection, connecting: Connecting | None
    ) -> ByteStream:
        """Let the application put something around a channel, or refuse it."""
        if connecting is None:
            return channel
        try:
            stream = await connecting(
                ForwardedConnection(
                    about.session, channel, about.endpoint, about.originator, about.is_incoming
                )
            )
        except BaseException as error:
            await reset(channel)
            if isinstance(error, Exception):
                self._trace_failure(
                    TraceId.PORT_FORWARD_CONNECTION_FAILED, "a connecting hook failed", error
                )
            raise
        if stream is None:
            await reset(channel)
            raise LocalProtocolError("the application refused a forwarded connection")
        return stream

    def _trace_opened(self, channel: Channel, about: ForwardedConnection) -> None:
        origin = f" from {about.originator}" if about.originator else ""
        self.trace(
            TraceId.PORT_FORWARD_CHANNEL_OPENED, TraceLevel.INFO, f"{about.endpoint}{origin}"
        )

    def _trace_failure(
        self, trace_id: TraceId, message: str, error: BaseException | None = None
    ) -> None:
        self.trace(trace_id, TraceLevel.WARNING, displayable(message), error)

    # Requests of the peer to listen

    async def on_session_request(self, request: IncomingRequest) -> None:
        """Listen for the peer, or listen no more."""
        try:
            endpoint, extra = payloads.read_request(request.name, request.payload)
        except WireError as error:
            self._trace_failure(TraceId.PORT_FORWARD_REQUEST_INVALID, str(error))
            await request.reject()
            return
        if payloads.is_cancel_request(request.name):
            await self._cancel(endpoint, request)
        else:
            await self._grant(endpoint, extra, request)

    async def _cancel(self, endpoint: Endpoint, request: IncomingRequest) -> None:
        granted = self._granted_for(endpoint)
        if granted is None:
            await request.reject()
            return
        await self._revoke(granted)
        await request.accept()

    def _granted_for(self, endpoint: Endpoint) -> _Granted | None:
        """Return what the peer means; some peers name the address otherwise when they cancel."""
        if endpoint in self._granted or not isinstance(endpoint, TcpEndpoint):
            return self._granted.get(endpoint)
        same = [
            granted
            for granted in self._granted.values()
            if isinstance(granted.key, TcpEndpoint) and granted.key.port == endpoint.port
        ]
        return same[0] if len(same) == 1 else None

    async def _revoke(self, granted: _Granted) -> None:
        if granted.acceptor is not None:
            await granted.acceptor.stop_listening()
        self._granted.pop(granted.key, None)
        self._remote.remove(granted.port)

    async def _grant(self, asked: Endpoint, extra: bytes, request: IncomingRequest) -> None:
        if not await self._may_listen(asked, extra):
            self._trace_failure(
                TraceId.PORT_FORWARD_REQUEST_INVALID, f"{asked}: listening is not allowed"
            )
            await request.reject()
            return
        listener: Listener[ByteStream] | None = None
        if self._policy.accept_local_connections:
            try:
                listener = await self._listen(asked)
            except (OSError, ValueError) as error:
                self._trace_failure(TraceId.PORT_FORWARD_LISTEN_FAILED, f"{asked}: {error}", error)
                await request.reject()
                return
        granted = self._name(asked, listener)
        if granted is None:
            if listener is not None:
                await close_listener(listener)
            await request.reject()
            return
        await self._begin(granted, listener, request)

    async def _may_listen(self, asked: Endpoint, extra: bytes) -> bool:
        if asked in self._granted or len(self._granted) >= self._policy.listeners:
            return False
        allowed = self._policy.may_listen(asked) or self._policy.may_listen(_narrowed(asked))
        request = ForwardingRequest(
            self.session, ForwardingAction.LISTEN, asked, originator=None, extra=extra
        )
        return allowed and await self._decide(request)

    async def _listen(self, asked: Endpoint) -> Listener[ByteStream]:
        if not self._policy.may_listen(asked):
            asked = _narrowed(asked)
        factory = self._policy.listener or listen
        return await factory(asked)

    def _name(self, asked: Endpoint, listener: Listener[ByteStream] | None) -> _Granted | None:
        """Return what is granted, under the name that both sides use from now on.

        A port that was asked for keeps its number, even if a factory has bound another one.
        """
        bound = bound_port(listener) if listener is not None else None
        local: Endpoint | None = None if listener is None else asked
        key = asked
        if isinstance(asked, TcpEndpoint):
            key = TcpEndpoint(asked.host, asked.port or bound or 0)
            if key.port == 0 or key in self._granted:
                return None
            local = None if bound is None else TcpEndpoint(asked.host, bound)
        return _Granted(key, ForwardedPort(local, key, is_remote=True))

    async def _begin(
        self, granted: _Granted, listener: Listener[ByteStream] | None, request: IncomingRequest
    ) -> None:
        """Reply, then make it known, then accept connections."""
        key = granted.key
        payload = TcpipForwardSuccess(key.port).encode() if isinstance(key, TcpEndpoint) else b""
        try:
            await request.accept(payload)
            if listener is not None:
                acceptor = granted.acceptor = Acceptor(
                    listener,
                    lambda stream: self._carry_granted(granted, acceptor, stream),
                    self._policy.pending_connections,
                    lambda stream: self.carry_nowait(
                        acceptor,
                        stream,
                        Way.FORWARDED,
                        key,
                        connecting=self._policy.connecting,
                        port=granted.port,
                    ),
                    self.watcher,
                    self.session.together,
                )
                self.start_soon(acceptor.run)
        except BaseException:
            if listener is not None:
                await close_listener(listener)
            raise
        self._granted[key] = granted
        self._remote.add(granted.port)
        self.trace(TraceId.PORT_FORWARD_LISTENING, TraceLevel.INFO, f"listening on {key}")

    async def _carry_granted(
        self, granted: _Granted, acceptor: Acceptor, stream: ByteStream
    ) -> None:
        origin = originator_of(stream)

        async def open_channel() -> Channel:
            acceptor.waiting += 1
            try:
                return await self.open(Way.FORWARDED, granted.key, origin)
            finally:
                acceptor.waiting -= 1

        await self.carry(
            stream,
            open_channel,
            ForwardedConnection(self.session, stream, granted.key, origin, False),
            connecting=self._policy.connecting,
            port=granted.port,
        )

    async def wait_for_port(self, port: int) -> ForwardedPort:
        """Wait until the peer has asked us to listen on a port.

        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        found = await self._remote.wait_for(port)
        if found is None:
            raise (await self.session.wait_closed()).error.fresh()
        return found

    async def connect_to_port(self, port: int) -> Channel:
        """Open a channel to a port that the peer has asked us to listen on, without a socket.

        :raises LocalProtocolError: it has not
        :raises ChannelOpenError: the peer refused
        """
        forwarded = self._remote.find(port)
        if forwarded is None or forwarded.remote is None:
            raise LocalProtocolError(f"Port {port} is not being forwarded.")
        channel = await self.open(Way.FORWARDED, forwarded.remote, None)
        describe(channel, local=forwarded.remote, remote=None)
        return channel

    # Opening channels

    async def open(self, way: Way, endpoint: Endpoint, originator: TcpEndpoint | None) -> Channel:
        """Open a forwarding channel.

        :raises ChannelOpenError: the peer refused, or could not connect
        :raises SSHError: the session has ended
        """
        channel_type, payload = payloads.channel_opening(way, endpoint, originator)
        try:
            return await self.session.open_channel(channel_type, payload=payload)
        except ChannelOpenError as error:
            # For whoever has connected to a forwarded port, the connection just ends.
            self._trace_failure(
                TraceId.PORT_FORWARD_CHANNEL_OPEN_FAILED, f"{endpoint}: {error}", error
            )
            raise

    async def connect(self, remote: Endpoint) -> Channel:
        """Have the peer connect to somewhere; see :meth:`Session.stream_to_remote_port`."""
        channel = await self.open(Way.DIRECT, remote, None)
        describe(channel, local=None, remote=remote)
        return channel

    async def aclose(self) -> None:
        """Forget everything: the session has ended."""
        for granted in tuple(self._granted.values()):
            del self._granted[granted.key]
            self._remote.remove(granted.port)
        self._remote.end()


async def _refuse(opening: ChannelOpening) -> None:
    """Refuse a channel, unless it was answered before or the session has ended."""
    with anyio.CancelScope(shield=True), suppress(SSHError):
        await opening.reject(FAILED, "not connected")


def _told(error: Exception) -> str:
    """Return what a peer may know of a connection that failed: what, not where."""
    if isinstance(error, TimeoutError):
        return "connection timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "connection failed"


def _narrowed(asked: Endpoint) -> Endpoint:
    """Return loopback for a peer that leaves the address to us, anything else as it is."""
    if isinstance(asked, TcpEndpoint) and asked.host == "":
        return TcpEndpoint("localhost", asked.port)
    return asked


def connect_for_us(endpoint: Endpoint, seconds: float) -> Awaitable[ByteStream]:
    """Connect to somewhere that the application has named, with no questions asked."""
    if isinstance(endpoint, TcpEndpoint):
        return connect_tcp(endpoint, seconds)
    return connect_unix(endpoint, seconds)
