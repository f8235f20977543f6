"""What clients and servers have in common: a link, channels, requests, facts, the end.

The session works over one link at a time. The link's reader hands the core's events to
:meth:`Session._dispatch`, which does its work at once and never waits. Whatever the application
must be asked runs as a task of the session's service group, which outlives the body of ``async
with``, so that a goodbye can still be said when the body has gone.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from logging import Logger, getLogger
from typing import Any, Final, Self, TypeVar

import anyio
import anyio.lowlevel
from anyio import TASK_STATUS_IGNORED, AsyncContextManagerMixin, TypedAttributeProvider
from anyio.abc import (
    AnyByteStream,
    AsyncResource,
    ByteStream,
    ByteStreamConnectable,
    ObjectStream,
    SocketAttribute,
    TaskGroup,
    TaskStatus,
)

from .._version import __version__
from ..config import SessionConfig
from ..constants import DisconnectReason
from ..contour import SessionContour
from ..errors import (
    Disconnected,
    HostKeyError,
    KeyExchangeFailed,
    LocalProtocolError,
    ReconnectError,
    SSHError,
)
from ..forwarding.methods import ForwardingMethods
from ..forwarding.policy import ForwardingPolicy
from ..forwarding.service import PortForwarding
from ..identification import PeerVersion, local_identification
from ..keys import Identity, Key
from ..protocol import Connection, Core, Phase, Role
from ..protocol.channel import ChannelState, PendingRequest, ReplySlot
from ..protocol.events import (
    ChannelClosed,
    ChannelDataReceived,
    ChannelEofReceived,
    ChannelExtendedDataReceived,
    ChannelOpened,
    ChannelOpenFailed,
    ChannelOpenReceived,
    ChannelRequestReceived,
    ChannelWritable,
    ConnectionTerminated,
    DebugReceived,
    Event,
    GlobalRequestReceived,
    KeepAliveAnswered,
    KeepAliveMissed,
    KeyExchangeCompleted,
    LatencyMeasured,
    ReplyReceived,
    RoomMade,
    ServiceAccepted,
    ServiceRequested,
    SessionResumed,
    SignatureRequested,
    VersionReceived,
)
from ..protocol.latency import LatencyStatistics
from ..protocol.negotiation import Algorithms
from ..trace import Progress, ProgressEvent, TraceEvent, TraceHandler, TraceId, TraceLevel
from ._waiting import Notice
from .attributes import SSHAttribute
from .channel import Channel, ChannelOpening
from .credentials import CertifiedKey, Signer
from .errors import ConnectionLost
from .events import Disconnected as DisconnectedEvent
from .events import EventQueue, KeepAliveFailed, KeepAliveSucceeded, Reconnected, SessionEvent
from .links import Links, SessionState
from .metrics import SessionMetrics
from .requests import (
    ChannelRequest,
    IncomingRequest,
    PendingReply,
    Reply,
    RequestIterator,
    RequestQueue,
)
from .services import ServiceHost, ServiceT, SessionService
from .signing import identity_of, public_key_of, signed, signer_of

__all__ = ["Session", "SessionClosed", "Transport"]

logger: Logger = getLogger("anyssh")

Transport = AnyByteStream | ByteStreamConnectable
"""What a session can run over: a stream, or a way to get one."""

ProgressHandler = Callable[[ProgressEvent], None]

_session_numbers = itertools.count(1)
_process_secret: Final = os.urandom(32)


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """How a session ended.

    :ivar reason: a :class:`~anyssh.DisconnectReason`, or the peer's own number
    :ivar description: the text that went with it
    :ivar error: what operations on the session raise from now on
    """

    reason: int
    description: str
    error: SSHError


E = TypeVar("E")
T = TypeVar("T")

_SET_UP: Final = {
    Phase.VERSION: "the version exchange",
    Phase.KEY_EXCHANGE: "the key exchange",
    Phase.ENCRYPTED: "authentication",
    Phase.AUTHENTICATION: "authentication",
}


def _disconnect_reason(error: SSHError) -> int:
    """Return the reason that an error stands for; that of a ReconnectError is of another kind."""
    if isinstance(error, ReconnectError):
        return DisconnectReason.CONNECTION_LOST
    return getattr(error, "reason", DisconnectReason.CONNECTION_LOST)


def _contained(callback: Callable[[E], None] | None) -> Callable[[E], None] | None:
    """Return a callback of the application that cannot harm the session by raising."""
    if callback is None:
        return None

    def call(event: E) -> None:
        try:
            callback(event)
        except Exception:
            logger.exception("a trace or progress callback failed")

    return call


def _split(
    keys: Iterable[Key | Signer | CertifiedKey],
) -> tuple[tuple[Identity, ...], dict[Key, Key | Signer]]:
    """Return what host keys show, certificates and plain keys, and who signs for each key."""
    shown: dict[Identity, None] = {}
    signers: dict[Key, Key | Signer] = {}
    for key in keys:
        shown[identity_of(key)] = None
        shown[public_key_of(key)] = None
        signers.setdefault(public_key_of(key), signer_of(key))
    return tuple(shown), signers


class ChannelOpenings:
    """Iterates over the channels that the peer wants to open; ends with the session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChannelOpening:
        opening = await self._session._next_opening(None)
        if opening is None:
            raise StopAsyncIteration
        return opening


class Session(ForwardingMethods, AsyncContextManagerMixin, TypedAttributeProvider):
    """One end of an SSH session. Made by :class:`ClientSession` and :class:`Server`.

    Entered once, with ``async with``, and left in the same task. Leaving says goodbye, closes the
    stream and ends every task of the session.
    """

    _role: Role

    def __init__(
        self,
        transport: Transport,
        config: SessionConfig,
        *,
        host_keys: Iterable[Key | Signer | CertifiedKey] = (),
        forwarding: ForwardingPolicy | None = None,
        services: Mapping[type[SessionService], Any] | None = None,
        trace: TraceHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> None:
        if not isinstance(transport, ByteStreamConnectable | ObjectStream | ByteStream):
            raise TypeError(
                f"expected a byte stream or a connectable, got {type(transport).__name__}; "
                "anyio.as_connectable((host, port)) makes a connectable of an address"
            )
        self._transport = transport
        self._config = config
        self._host_identities, self._host_keys = _split(host_keys)
        self._trace_handler = _contained(trace)
        self._on_progress = _contained(on_progress)
        self._number = next(_session_numbers)
        policy = forwarding if forwarding is not None else ForwardingPolicy()
        registered: dict[type[SessionService], Any] = {PortForwarding: policy, **(services or {})}
        if policy.passes_on:
            del registered[PortForwarding]
        self._service_host = ServiceHost(self, registered)
        self._connection = Connection(config, self._service_host.session_requests)
        self._state = SessionState.NEW
        self._links: Links
        self._latency = LatencyStatistics()
        self._contour = SessionContour()
        self._reconnections = 0
        self._lost: SSHError | None = None
        self._services: TaskGroup
        self._end: SessionClosed | None = None
        self._changed = Notice()
        self._ended = Notice()
        self._callbacks_running = 0
        self._waiting_scopes: set[anyio.CancelScope] = set()
        self._channels: dict[Channel, None] = {}
        self._openings: deque[ChannelOpening] = deque()
        self._opening_came = Notice()
        self._pending_replies: set[PendingReply] = set()
        self._granted_service: str | None = None
        self._requests = RequestQueue(self._refuse_request)
        self._events = EventQueue(config.limits.events)

    @property
    def _core(self) -> Core:
        if self._state is SessionState.NEW:
            raise self._not_started()
        return self._links.current.core

    def _not_started(self) -> LocalProtocolError:
        return LocalProtocolError("the session has not started: enter it with 'async with'")

    # What it is

    @property
    def state(self) -> SessionState:
        """How far the session has come."""
        return self._state

    @property
    def id(self) -> str:
        """A name for the session, the same at both ends and over all of its streams.

        It is derived from the session id of RFC 4253, which is a secret as long as it can be used
        to reconnect.
        """
        session_id = self._core.exchanger.session_id
        if not session_id:
            raise LocalProtocolError("the first key exchange is not complete yet")
        return hashlib.sha256(b"anyssh-id" + session_id).hexdigest()

    @property
    def config(self) -> SessionConfig:
        """The configuration that the session was made with."""
        return self._config

    @property
    def peer_version(self) -> PeerVersion:
        """What the peer said it is."""
        version = self._core.transport.peer_version
        if version is None:
            raise LocalProtocolError("the peer has not identified itself yet")
        return version

    @property
    def algorithms(self) -> Algorithms:
        """What the last key exchange agreed on."""
        algorithms = self._core.exchanger.algorithms
        if algorithms is None:
            raise LocalProtocolError("the first key exchange is not complete yet")
        return algorithms

    @property
    def metrics(self) -> SessionMetrics:
        """What the session has moved so far."""
        if self._state is SessionState.NEW:
            raise self._not_started()
        traffic = self._links.traffic
        return SessionMetrics(
            traffic.bytes_sent,
            traffic.bytes_received,
            traffic.messages_sent,
            traffic.messages_received,
            self._reconnections,
            self._latency.snapshot(),
        )

    @property
    def contour(self) -> SessionContour:
        """How much the session has moved, and how fast, over its whole life."""
        return self._contour

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels that are open now, in the order of their opening."""
        return tuple(channel for channel in self._channels if channel._is_open)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the stream, then those of :class:`SSHAttribute`."""
        stream = self._stream
        inherited = {} if stream is None else stream.extra_attributes
        own = {
            SSHAttribute.peer_version: lambda: self.peer_version,
            SSHAttribute.algorithms: lambda: self.algorithms,
        }
        return {**inherited, **own}

    # Life

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._state is not SessionState.NEW:
            raise RuntimeError("a session is entered once")
        body_error: BaseException | None = None
        self._progress(Progress.OPENING_SESSION_CONNECTION)
        stream = await self._open_stream()
        try:
            self._prepare(stream)
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise
        async with anyio.create_task_group() as services:
            self._services = services
            services.start_soon(self._links.run)
            try:
                await self._set_up()
                self._ready()
                yield self
                await self._leave()
            except anyio.get_cancelled_exc_class():
                await self._leave_at_once()
                raise
            except BaseException as error:
                body_error = error
                await self._leave_at_once()
            finally:
                if self._callbacks_running:
                    services.cancel_scope.cancel()
        if body_error is not None:
            # Outside the group, which would have wrapped it.
            try:
                raise body_error
            finally:
                del body_error

    async def _open_stream(self) -> AnyByteStream:
        transport = self._transport
        if isinstance(transport, ByteStreamConnectable):
            return await transport.connect()
        return transport

    def _prepare(self, stream: AnyByteStream) -> None:
        self._contour = SessionContour(start=anyio.current_time())
        self._links = Links(
            stream,
            self._config.limits,
            self._contour,
            self._make_core,
            self._dispatch,
            self._connectable,
        )
        self._state = SessionState.CONNECTING
        self._trace(TraceId.SESSION_CONNECTING, TraceLevel.INFO, "connecting")
        self._progress(Progress.STARTING_VERSION_EXCHANGE)

    @property
    def _connectable(self) -> ByteStreamConnectable | None:
        transport = self._transport
        return transport if isinstance(transport, ByteStreamConnectable) else None

    def _make_core(self) -> Core:
        """Make the core of a stream, the first or a later one."""
        return Core(
            self._role,
            self._config,
            now=anyio.current_time(),
            random=os.urandom,
            identification=local_identification(__version__),
            connection=self._connection,
            host_keys=self._host_identities,
            takes_certificates=self._takes_certificates,
            delay_secret=_process_secret,
            clock=anyio.current_time,
            services=self._service_host.service_requests,
            trace=self._trace_handler,
        )

    def _ready(self) -> None:
        """Note that the session is ready for the body of ``async with``."""
        if self._state is SessionState.CONNECTING:
            self._state = SessionState.CONNECTED

    @property
    def _takes_certificates(self) -> bool:
        """Whether the peer may prove itself with a certificate."""
        raise NotImplementedError

    async def _set_up(self) -> None:
        """Wait until the session is ready for the body of ``async with``."""
        raise NotImplementedError

    async def _leave(self) -> None:
        try:
            await self.aclose()
        finally:
            await self._leave_at_once()

    async def _leave_at_once(self) -> None:
        """Say goodbye as far as the stream takes it at once, and wait for the link to end."""
        self._say_goodbye(DisconnectReason.BY_APPLICATION, "the session was left")
        self._links.hurry()
        with anyio.CancelScope(shield=True):
            await self._links.wait_finished()

    def _say_goodbye(self, reason: int, description: str) -> None:
        if self._state is SessionState.DISCONNECTED:
            if reason != DisconnectReason.CONNECTION_LOST:
                self._end_now(Disconnected(reason, description, by_peer=False))
        elif self._state is not SessionState.CLOSED:
            self._core.disconnect(reason, description)
            self._advance()

    async def aclose(self) -> None:
        """End the session: say goodbye, let it leave, close the stream.

        Takes at most :attr:`Limits.disconnect_time` and :attr:`Limits.close_time`. Does nothing
        the second time. A session that was never entered closes the stream that it was given.
        """
        if self._state is SessionState.NEW:
            if isinstance(self._transport, AsyncResource):
                await self._transport.aclose()
            return
        await self.disconnect(DisconnectReason.BY_APPLICATION, "")

    async def disconnect(self, reason: int, description: str = "") -> None:
        """End the session like :meth:`aclose`, with a reason of one's own.

        One reason is special in a session that can reconnect: after
        :attr:`DisconnectReason.CONNECTION_LOST` both sides take the stream for lost, and the
        session can go on over another.

        :param reason: a :class:`~anyssh.DisconnectReason`, or any number below 2**32
        :param description: a text for the peer
        """
        self._trace(TraceId.SESSION_CLOSING, TraceLevel.INFO, f"closing: {reason} {description}")
        await self._send_what_waits()
        self._say_goodbye(reason, description)
        if self._state is SessionState.CLOSED:
            await self._links.wait_finished()

    async def _send_what_waits(self) -> None:
        """Let what waits for new keys, such as the end of a channel, leave before the goodbye."""
        if self._connection.held_size:
            with anyio.move_on_after(self._config.limits.disconnect_time):
                while self._connection.held_size:
                    await self._changed.wait()

    async def wait_closed(self) -> SessionClosed:
        """Wait until the session has ended; tell how. Refuses requests that nobody asks for."""
        self._requests.disregard()
        await anyio.lowlevel.checkpoint()
        if self._state is SessionState.NEW:
            raise self._not_started()
        while self._end is None:
            await self._ended.wait()
        return self._end

    async def wait_disconnected(self) -> SSHError:
        """Wait until the session has lost its stream and could go on over another; tell why.

        :raises SSHError: the session has ended instead
        """
        await anyio.lowlevel.checkpoint()
        while self._lost is None:
            self._require_alive()
            await self._changed.wait()
        return self._lost

    def events(self) -> AsyncIterator[SessionEvent]:
        """Iterate over facts: keep-alive, for one. Unread facts beyond a bound are dropped."""
        return self._events

    # Channels

    async def open_channel(
        self,
        channel_type: str = "session",
        *,
        request: ChannelRequest | None = None,
        payload: bytes = b"",
        window_size: int | None = None,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> Channel:
        """Open a channel.

        When cancelled, the channel is closed as soon as the peer confirms it.

        :param channel_type: what kind of channel it is
        :param request: sent right behind; the call then also waits for its reply
        :param payload: what belongs to the type, in wire form
        :param window_size: bytes that the peer may send ahead; the configured number if not given
        :param task_status: told once the peer was asked; it is asked in the order of the calls
        :raises ChannelOpenError: the peer refused the channel
        :raises RequestDenied: the peer refused the request; the channel is closed again
        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        await self._wait_for_room()
        self._require_alive()
        state = self._connection.open_channel(channel_type, payload, window_size=window_size)
        channel = Channel(self, state)
        self._channels[channel] = None
        self._advance()
        task_status.started()
        try:
            await channel._wait_opened()
            if request is not None:
                await channel._first_request(request)
        except BaseException:
            self._channels.pop(channel, None)
            self._connection.abandon_open(state)
            channel._close_now()
            raise
        return channel

    def incoming_channels(self) -> AsyncIterator[ChannelOpening]:
        """Iterate over the channels that the peer wants to open.

        They are held until asked for, up to 64, then refused. The iteration ends with the session.
        """
        self._requests.disregard()
        return ChannelOpenings(self)

    async def accept_channel(self, channel_type: str | None = None) -> Channel:
        """Wait for a channel that the peer opens, and accept it.

        :param channel_type: only take channels of this type
        :raises SSHError: the session has ended
        """
        self._requests.disregard()
        opening = await self._next_opening(channel_type)
        if opening is None:
            raise self._failure()
        return opening.accept_nowait()

    async def serve(self, handler: Callable[[Channel], Awaitable[object]]) -> None:
        """Accept every channel and run ``handler`` for each in a task of its own.

        Returns when the session has ended and every handler has returned. A channel is closed when
        its handler returns; an exception of a handler closes its channel and is logged.
        """
        async with anyio.create_task_group() as handlers:
            async for opening in self.incoming_channels():
                try:
                    channel = opening.accept_nowait()
                except SSHError:
                    continue
                handlers.start_soon(self._run_handler, handler, channel)

    async def _run_handler(
        self, handler: Callable[[Channel], Awaitable[object]], channel: Channel
    ) -> None:
        async with channel:
            try:
                await handler(channel)
            except (SSHError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                logger.debug("%r ended: %r", channel, error)
            except Exception:
                logger.exception("the handler of %r failed", channel)

    async def _next_opening(self, channel_type: str | None) -> ChannelOpening | None:
        await anyio.lowlevel.checkpoint()
        while True:
            for opening in self._openings:
                if channel_type is None or opening.channel_type == channel_type:
                    self._openings.remove(opening)
                    return opening
            if self._end is not None:
                return None
            await self._opening_came.wait()

    def _accept_opening(
        self, state: ChannelState, open_payload: bytes, payload: bytes, window_size: int | None
    ) -> Channel:
        self._require_alive()
        self._connection.accept_channel(state, payload, window_size=window_size)
        channel = Channel(self, state, open_payload)
        self._channels[channel] = None
        self._advance()
        self._trace(TraceId.CHANNEL_OPENED, TraceLevel.INFO, f"opened {channel!r}")
        return channel

    def _reject_opening(self, state: ChannelState, reason: int, description: str) -> None:
        self._connection.reject_channel(state, reason, description)
        self._advance()

    # Requests

    def requests(self) -> AsyncIterator[IncomingRequest]:
        """Iterate over the peer's requests of the session; the iteration ends with it.

        Until this is called, up to 16 requests are held. A session that takes channels without
        ever calling it refuses all requests. Keep-alive is answered without asking.
        """
        self._requests.handle()
        return RequestIterator(self, self._requests)

    async def request(
        self,
        name: str,
        payload: bytes = b"",
        *,
        want_reply: bool = True,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> Reply:
        """Ask something of the peer's session; return its reply, true when it was granted.

        A cancelled call does not disturb the replies of others. Without ``want_reply`` the call
        does not wait for it, and the reply is true. Requests leave in the order of asking.

        :param payload: what belongs to the request, in wire form
        :param task_status: told once the request has its place in that order
        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        await self._wait_for_room()
        self._require_alive()
        slot = self._connection.request_global(name, payload, want_reply=want_reply)
        return await self._reply(slot, want_reply, task_status)

    async def _wait_for_room(self) -> None:
        """Wait while the peer does not read: what we ask of it must not pile up."""
        while self._connection.wait_for_room():
            await self._changed.wait()

    async def _reply(
        self, slot: ReplySlot, is_wanted: bool, task_status: TaskStatus[None]
    ) -> Reply:
        """Let a request leave, and wait for its reply if there is to be one."""
        if not is_wanted:
            self._advance()
            task_status.started()
            return Reply(True)
        pending = PendingReply(slot)
        self._pending_replies.add(pending)
        self._advance()
        task_status.started()
        try:
            return await pending.wait()
        finally:
            self._pending_replies.discard(pending)
            pending.abandon()

    def _answer_request(self, request: PendingRequest, is_success: bool, payload: bytes) -> None:
        self._connection.answer(request, is_success, payload)
        self._advance()

    def _refuse_request(self, request: PendingRequest) -> None:
        self._answer_request(request, False, b"")

    # Services

    @property
    def services(self) -> tuple[SessionService, ...]:
        """The services that were needed so far."""
        return self._service_host.active

    def service(self, kind: type[ServiceT]) -> ServiceT:
        """Return the session's instance of a registered service, made when first needed.

        :raises LocalProtocolError: it is not registered, or the session has not started
        :raises SSHError: the session has ended
        """
        if self._state is SessionState.NEW:
            raise self._not_started()
        self._require_alive()
        return self._service_host.activate(kind, self._services)

    # Keys

    async def rekey(self) -> None:
        """Exchange new keys; return when they are in use.

        Joins an exchange that is under way.

        :raises LocalProtocolError: the session is not authenticated or has no keys
        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        self._require_alive()
        core = self._core
        before = core.exchanger.completed_count
        if self._state is not SessionState.DISCONNECTED:
            core.start_rekey(anyio.current_time())
            self._advance()
        # Another stream has new keys from the start.
        await self._wait_until(
            lambda: core is not self._core or core.exchanger.completed_count > before
        )

    # State

    def _require_alive(self) -> None:
        if self._end is not None:
            raise self._failure()

    def _failure(self) -> SSHError:
        """Return a fresh exception that tells why the session has ended."""
        if self._end is None:
            return LocalProtocolError("the session has not ended")
        return self._end.error.fresh()

    async def _until_end(self, wait: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Wait for something outside, but not beyond the end of the session."""
        self._require_alive()
        with anyio.CancelScope() as scope:
            self._waiting_scopes.add(scope)
            try:
                return await wait(*arguments)
            finally:
                self._waiting_scopes.discard(scope)
        raise self._failure()

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while True:
            self._require_alive()
            if condition():
                return
            await self._changed.wait()

    def _advance(self) -> None:
        """Go on with what a call on the core or the connection has brought about."""
        link = self._links.current
        link.advance(link.core.poll_events())

    # Events of the core

    def _dispatch(self, events: Iterable[Event]) -> None:
        for event in events:
            handler = _HANDLERS.get(type(event))
            if handler is not None:
                handler(self, event)
            else:
                self._handle(event)

    def _handle(self, event: Event) -> None:
        """Handle an event that only one role knows."""
        logger.debug("nobody handles %r", event)

    def _version_received(self, event: VersionReceived) -> None:
        self._trace(TraceId.PROTOCOL_VERSION, TraceLevel.INFO, f"peer is {event.version}")
        self._progress(Progress.COMPLETED_VERSION_EXCHANGE)
        self._progress(Progress.STARTING_KEY_EXCHANGE)

    def _key_exchange_completed(self, event: KeyExchangeCompleted) -> None:
        if self._trace_handler is not None:
            self._trace(TraceId.ALGORITHM_NEGOTIATION, TraceLevel.INFO, str(event.algorithms))
        if event.is_initial:
            self._trace(TraceId.SESSION_ENCRYPTED, TraceLevel.INFO, "encrypted")
            self._progress(Progress.COMPLETED_KEY_EXCHANGE)
            self._progress(Progress.OPENED_SESSION_CONNECTION)
        self._changed.notify()

    def _signature_requested(self, event: SignatureRequested) -> None:
        key = self._host_keys[event.key]
        if isinstance(key, Key):
            # Signing here takes less time than a task would.
            try:
                signature = key.sign(event.data, event.algorithm)
            except SSHError as error:
                self._signing_failed(event, error)
            else:
                event.supply(signature, anyio.current_time())
        else:
            self._start_callback(self._sign, event, key)

    def _start_callback(self, callback: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run something that asks the application as a service of the session."""
        self._callbacks_running += 1
        self._services.start_soon(self._run_callback, callback, arguments)

    async def _run_callback(
        self, callback: Callable[..., Awaitable[None]], arguments: tuple[Any, ...]
    ) -> None:
        try:
            await callback(*arguments)
        finally:
            self._callbacks_running -= 1

    async def _sign(self, event: SignatureRequested, signer: Signer) -> None:
        try:
            with anyio.fail_after(self._config.limits.handler_time):
                signature = await signed(signer, event.data, event.algorithm)
        except Exception as error:
            self._signing_failed(event, error)
        else:
            event.supply(signature, anyio.current_time())
        self._advance()

    def _signing_failed(self, event: SignatureRequested, error: Exception) -> None:
        logger.error("the host key %s could not sign", event.key.fingerprint, exc_info=error)
        failure = KeyExchangeFailed("the host key could not sign")
        failure.__cause__ = error
        event.fail(failure, anyio.current_time())

    def _debug_received(self, event: DebugReceived) -> None:
        level = TraceLevel.INFO if event.always_display else TraceLevel.VERBOSE
        self._trace(TraceId.DEBUG_MESSAGE, level, event.message)

    def _keep_alive_answered(self, event: KeepAliveAnswered) -> None:
        self._events.put(KeepAliveSucceeded(event.count))

    def _keep_alive_missed(self, event: KeepAliveMissed) -> None:
        self._events.put(KeepAliveFailed(event.count))
        if event.count >= self._config.keep_alive_count:
            error = ConnectionLost(f"no sign of life from the peer, {event.count} times in a row")
            self._core.lose(error, anyio.current_time())

    def _service_accepted(self, event: ServiceAccepted) -> None:
        self._granted_service = event.name
        self._changed.notify()

    def _service_requested(self, event: ServiceRequested) -> None:
        self._service_host.take_service_request(event.name, self._services)

    def _channel_open_received(self, event: ChannelOpenReceived) -> None:
        opening = ChannelOpening(self, event.channel, event.payload)
        if not self._service_host.take_opening(opening, self._services):
            self._openings.append(opening)
            self._opening_came.notify()

    def _channel_opened(self, event: ChannelOpened) -> None:
        channel: Channel = event.channel.owner
        channel._confirmed(event.payload)
        self._trace(TraceId.CHANNEL_OPENED, TraceLevel.INFO, f"opened {channel!r}")

    def _channel_open_failed(self, event: ChannelOpenFailed) -> None:
        channel: Channel = event.channel.owner
        channel._refused(event.reason, event.description)
        self._trace(
            TraceId.CHANNEL_OPEN_FAILED, TraceLevel.WARNING, f"{channel!r}: {event.description}"
        )

    def _channel_data_received(self, event: ChannelDataReceived) -> None:
        event.channel.owner._data_received(event.data)

    def _channel_extended_data_received(self, event: ChannelExtendedDataReceived) -> None:
        event.channel.owner._extended_data_received(event.data_type, event.data)

    def _channel_eof_received(self, event: ChannelEofReceived) -> None:
        event.channel.owner._eof_received()

    def _channel_closed(self, event: ChannelClosed) -> None:
        channel: Channel = event.channel.owner
        self._channels.pop(channel, None)
        channel._peer_closed()
        self._trace(TraceId.CHANNEL_CLOSED, TraceLevel.INFO, f"closed {channel!r}")

    def _channel_writable(self, event: ChannelWritable) -> None:
        event.channel.owner._became_writable()

    def _room_made(self, event: RoomMade) -> None:
        self._changed.notify()

    def _channel_request_received(self, event: ChannelRequestReceived) -> None:
        channel: Channel = event.channel.owner
        if not self._service_host.take_channel_request(channel, event.request, self._services):
            channel._request_received(event.request)

    def _global_request_received(self, event: GlobalRequestReceived) -> None:
        if not self._service_host.take_session_request(event.request, self._services):
            self._requests.put(event.request)

    def _reply_received(self, event: ReplyReceived) -> None:
        pending: PendingReply | None = event.slot.owner
        if pending is not None:
            pending.resolve(event.is_success, event.payload)

    def _latency_measured(self, event: LatencyMeasured) -> None:
        if self._latency.measured(event.milliseconds):
            self._contour.record_latency(anyio.current_time(), event.milliseconds)

    def _terminated(self, event: ConnectionTerminated) -> None:
        if event.is_survivable and self._may_outlive_its_stream():
            self._disconnected(event)
        elif self._state is not SessionState.CLOSED:
            self._closed(event)

    def _may_outlive_its_stream(self) -> bool:
        """Whether the session waits for another stream when it loses its own."""
        return True

    def _disconnected(self, event: ConnectionTerminated) -> None:
        """Wait for another stream; nobody else needs to know."""
        error = self._told(event)
        self._state = SessionState.DISCONNECTED
        self._lost = error
        self._latency.disconnected()
        self._links.lost()
        self._trace(TraceId.SESSION_DISCONNECTED, TraceLevel.WARNING, f"lost: {error}", error)
        self._events.put(DisconnectedEvent(error))
        self._changed.notify()

    def _resumed(self, event: SessionResumed) -> None:
        self._state = SessionState.CONNECTED
        self._lost = None
        self._reconnections += 1
        self._events.put(Reconnected(self._reconnections))
        self._changed.notify()

    def _end_now(self, error: SSHError) -> None:
        """End the session without a word to the peer."""
        self._dispatch([ConnectionTerminated(error, Phase.TERMINATED)])

    def _closed(self, event: ConnectionTerminated) -> None:
        """Wake everybody who waits; each raises a fresh exception."""
        error = self._told(event)
        self._state = SessionState.CLOSED
        self._lost = None
        self._connection.detach()
        self._latency.disconnected()
        self._links.end()
        description = getattr(error, "description", str(error))
        self._end = SessionClosed(_disconnect_reason(error), description, error)
        self._trace(TraceId.SESSION_CLOSING, TraceLevel.INFO, f"closed: {error}", error)
        for scope in self._waiting_scopes:
            scope.cancel()
        self._service_host.end()
        for channel in tuple(self._channels):
            channel._session_ended(error)
        self._channels.clear()
        self._openings.clear()
        self._opening_came.notify()
        for pending in self._pending_replies:
            pending.fail(self._failure)
        self._requests.end()
        self._events.end()
        self._changed.notify()
        self._ended.notify()

    def _told(self, event: ConnectionTerminated) -> SSHError:
        """Return the error of a connection that has ended, with what is known beside."""
        error = event.error or self._links.current.loss()
        if error.__cause__ is None:
            error.__cause__ = self._links.current.error
        where = _SET_UP.get(event.phase)
        if isinstance(error, HostKeyError):
            where = "the verification of the host key"
        if where is not None:
            error.add_note(f"during {where}")
        return error

    # Watching

    def _trace(
        self,
        trace_id: TraceId,
        level: TraceLevel,
        message: str,
        error: BaseException | None = None,
    ) -> None:
        if self._trace_handler is not None:
            self._trace_handler(TraceEvent(trace_id, level, message, error))

    def _progress(self, progress: Progress) -> None:
        if self._on_progress is not None:
            self._on_progress(ProgressEvent(progress, self._number))

    @property
    def _stream(self) -> AnyByteStream | None:
        return None if self._state is SessionState.NEW else self._links.stream

    def _remote_address(self) -> tuple[str, int] | None:
        stream = self._stream
        if stream is None:
            return None
        try:
            address = stream.extra(SocketAttribute.remote_address, None)
        except (OSError, AttributeError):  # what sockets raise that are closed already
            return None
        return (address[0], address[1]) if isinstance(address, tuple) else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._number} {self._state.name.lower()}>"


_HANDLERS: Final[dict[type[Event], Callable[[Session, Any], None]]] = {
    ChannelDataReceived: Session._channel_data_received,
    ChannelWritable: Session._channel_writable,
    RoomMade: Session._room_made,
    ChannelExtendedDataReceived: Session._channel_extended_data_received,
    ChannelEofReceived: Session._channel_eof_received,
    ChannelClosed: Session._channel_closed,
    ChannelOpenReceived: Session._channel_open_received,
    ChannelOpened: Session._channel_opened,
    ChannelOpenFailed: Session._channel_open_failed,
    ChannelRequestReceived: Session._channel_request_received,
    GlobalRequestReceived: Session._global_request_received,
    ReplyReceived: Session._reply_received,
    VersionReceived: Session._version_received,
    KeyExchangeCompleted: Session._key_exchange_completed,
    SignatureRequested: Session._signature_requested,
    ServiceAccepted: Session._service_accepted,
    ServiceRequested: Session._service_requested,
    DebugReceived: Session._debug_received,
    KeepAliveAnswered: Session._keep_alive_answered,
    KeepAliveMissed: Session._keep_alive_missed,
    ConnectionTerminated: Session._terminated,
    LatencyMeasured: Session._latency_measured,
    SessionResumed: Session._resumed,
}
