"""How a session begins, lives through its streams, and ends.

The session uses one link at a time. The link's reader passes the core's events to
:meth:`SessionLife._dispatch`, which handles them synchronously. Callbacks of the application run as
tasks of the session's service group. That group outlives the body of ``async with``, so that
DISCONNECT can still be sent after the body has ended.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from logging import Logger, getLogger
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

import anyio
import anyio.lowlevel
from anyio import TypedAttributeProvider
from anyio.abc import (
    AnyByteStream,
    AsyncBackend,
    AsyncResource,
    ByteStream,
    ByteStreamConnectable,
    ObjectStream,
    TaskGroup,
)

from .._version import __version__
from ..config import SessionConfig
from ..constants import DisconnectReason
from ..contour import SessionContour
from ..errors import (
    Disconnected,
    HostKeyError,
    LocalProtocolError,
    ReconnectError,
    SSHError,
)
from ..identification import PeerVersion, local_identification
from ..keys import Identity
from ..protocol import Connection, Core, Phase, Role
from ..protocol.events import (
    ConnectionTerminated,
    DebugReceived,
    Event,
    KeepAliveAnswered,
    KeepAliveMissed,
    KeyExchangeCompleted,
    LatencyMeasured,
    SessionResumed,
    VersionReceived,
)
from ..protocol.latency import LatencyStatistics
from ..protocol.negotiation import Algorithms
from ..trace import Progress, ProgressEvent, TraceEvent, TraceHandler, TraceId, TraceLevel
from ._backend import running_loop
from ._waiting import Notice
from .attributes import SSHAttribute
from .connecting import close_at_once, open_stream
from .errors import ConnectionLost, without_frames
from .events import Disconnected as DisconnectedEvent
from .events import EventQueue, KeepAliveFailed, KeepAliveSucceeded, Reconnected, SessionEvent
from .links import NEXT_STATES, Links, SessionState
from .metrics import SessionMetrics

__all__ = [
    "ProgressHandler",
    "SessionClosed",
    "SessionLife",
    "StreamSource",
]

logger: Logger = getLogger("anyssh")

StreamSource = AnyByteStream | ByteStreamConnectable
"""What a session can use: a byte stream, or a connectable that returns one."""

ProgressHandler = Callable[[ProgressEvent], None]

_session_numbers = itertools.count(1)
_process_secret: Final = os.urandom(32)


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """How a session ended.

    :ivar reason: a :class:`~anyssh.DisconnectReason`, or the number that the peer sent
    :ivar description: the description sent with it
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
    """Return the disconnect reason of an error; ReconnectError has reasons of another kind."""
    if isinstance(error, ReconnectError):
        return DisconnectReason.CONNECTION_LOST
    return getattr(error, "reason", DisconnectReason.CONNECTION_LOST)


def _contained(callback: Callable[[E], None] | None) -> Callable[[E], None] | None:
    """Wrap a callback of the application so that its exceptions cannot harm the session."""
    if callback is None:
        return None

    def call(event: E) -> None:
        try:
            callback(event)
        except Exception:
            logger.exception("a trace or progress callback failed")

    return call


class SessionLife(TypedAttributeProvider):
    """The lifecycle of one end of a session, whatever the session is used for.

    Enter it once, with ``async with``, and leave it in the same task.

    :param connection: the state that lives as long as the session
    :param service_names: the services that authenticated clients may request
    """

    __slots__ = (
        "_backend",
        "_callbacks_running",
        "_changed",
        "_clock",
        "_config",
        "_connection",
        "_contour",
        "_end",
        "_ended",
        "_events",
        "_latency",
        "_links",
        "_lost",
        "_number",
        "_on_progress",
        "_reconnections",
        "_service_names",
        "_services",
        "_state",
        "_trace_handler",
        "_transport",
        "_waiting_scopes",
    )

    _role: Role
    _handlers: ClassVar[Mapping[type[Event], Callable[[Any, Any], None]]]

    def __init__(
        self,
        transport: StreamSource,
        config: SessionConfig,
        connection: Connection,
        *,
        service_names: Collection[str],
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
        self._connection = connection
        self._service_names = service_names
        self._trace_handler = _contained(trace)
        self._on_progress = _contained(on_progress)
        self._number = next(_session_numbers)
        self._state = SessionState.NEW
        self._links: Links
        self._backend: type[AsyncBackend]
        self._clock: Callable[[], float]
        self._latency = LatencyStatistics()
        self._contour: SessionContour
        self._reconnections = 0
        self._lost: SSHError | None = None
        self._services: TaskGroup
        self._end: SessionClosed | None = None
        self._changed = Notice()
        self._ended = Notice()
        self._callbacks_running = 0
        self._waiting_scopes: dict[anyio.CancelScope, None] = {}
        self._events = EventQueue(config.limits.events)

    @property
    def _core(self) -> Core:
        if self._state is SessionState.NEW:
            raise self._not_started()
        return self._links.current.core

    def _not_started(self) -> LocalProtocolError:
        return LocalProtocolError("the session has not started: enter it with 'async with'")

    # Properties

    @property
    def state(self) -> SessionState:
        """The state of the session."""
        return self._state

    @property
    def id(self) -> str:
        """An identifier for the session, the same on both sides and across all of its streams.

        It is derived from the session id of RFC 4253, which must stay secret as long as it can be
        used to reconnect.

        :raises LocalProtocolError: the first key exchange is not complete
        """
        session_id = self._core.exchanger.session_id
        if not session_id:
            raise LocalProtocolError("the first key exchange is not complete yet")
        return hashlib.sha256(b"anyssh-id" + session_id).hexdigest()

    @property
    def config(self) -> SessionConfig:
        """The configuration of the session."""
        return self._config

    @property
    def peer_version(self) -> PeerVersion:
        """The peer's protocol version and software.

        :raises LocalProtocolError: the peer has not identified itself yet
        """
        version = self._core.transport.peer_version
        if version is None:
            raise LocalProtocolError("the peer has not identified itself yet")
        return version

    @property
    def algorithms(self) -> Algorithms:
        """The algorithms negotiated by the last key exchange.

        :raises LocalProtocolError: the first key exchange is not complete
        """
        algorithms = self._core.exchanger.algorithms
        if algorithms is None:
            raise LocalProtocolError("the first key exchange is not complete yet")
        return algorithms

    @property
    def metrics(self) -> SessionMetrics:
        """A snapshot of what the session has sent and received so far.

        :raises LocalProtocolError: the session has not been entered
        """
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
        """The session's throughput and latency over its whole life."""
        return SessionContour() if self._state is SessionState.NEW else self._contour

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the stream, and those of :class:`SSHAttribute`."""
        stream = self._stream
        inherited = {} if stream is None else stream.extra_attributes
        own = {
            SSHAttribute.peer_version: lambda: self.peer_version,
            SSHAttribute.algorithms: lambda: self.algorithms,
        }
        return {**inherited, **own}

    # Entering and leaving

    async def __aenter__(self) -> Self:
        if self._state is not SessionState.NEW:
            raise RuntimeError("a session can be entered only once")
        self._progress(Progress.OPENING_SESSION_CONNECTION)
        stream = await self._open_stream()
        try:
            self._prepare(stream)
        except BaseException:
            await close_at_once(stream)
            raise
        self._services = self._backend.create_task_group()
        await self._services.__aenter__()
        try:
            try:
                # Only now, as what these call may use the session.
                self._trace(TraceId.SESSION_CONNECTING, TraceLevel.INFO, "connecting")
                self._progress(Progress.STARTING_VERSION_EXCHANGE)
                self._links.begin()
            finally:
                self._services.create_task(self._links.run())
            await self._set_up()
            self._ready()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        failure: BaseException | None = None
        try:
            await (self._leave() if exc_value is None else self._leave_at_once())
        except BaseException as error:
            failure = error
        try:
            return await self._end_services(failure or exc_value, is_ours=failure is not None)
        finally:
            del failure

    async def _end_services(self, error: BaseException | None, *, is_ours: bool) -> bool | None:
        """Wait for all tasks that still run; then raise ``error``, if that is up to us."""
        services = self._services
        if self._callbacks_running:
            services.cancel_scope.cancel()
        try:
            if error and isinstance(error, anyio.get_cancelled_exc_class()):
                return await self._pass_through(services, error, is_ours=is_ours)
            try:
                await services.__aexit__(None, None, None)  # it would wrap any other
            except anyio.get_cancelled_exc_class():
                if error is None:
                    raise  # what has failed takes precedence
            if error is not None and is_ours:
                raise error
            return None
        finally:
            del error

    async def _pass_through(
        self, services: TaskGroup, error: BaseException, *, is_ours: bool
    ) -> bool | None:
        """Exit the service group with a cancellation; return whether it was meant for the group.

        One that was passed to us is left to our caller to raise. If we raised it, an exit stack
        might make it its own context, in which AnyIO would search for its origin without end.
        """
        try:
            return await services.__aexit__(type(error), error, error.__traceback__)
        except BaseException as raised:
            if is_ours or raised is not error:
                raise
            return None
        finally:
            del error

    async def _open_stream(self) -> AnyByteStream:
        transport = self._transport
        if not isinstance(transport, ByteStreamConnectable):
            return transport
        with anyio.CancelScope() as scope:
            self._waiting_scopes[scope] = None
            try:
                stream = await open_stream(transport)
            finally:
                del self._waiting_scopes[scope]
            if not scope.cancel_called:
                return stream
            await close_at_once(stream)
        raise Disconnected(DisconnectReason.BY_APPLICATION, "", by_peer=False)

    def _prepare(self, stream: AnyByteStream) -> None:
        loop = running_loop()
        self._backend, self._clock = loop
        self._contour = SessionContour(start=self._clock())
        self._links = Links(
            stream,
            self._config.limits,
            self._contour,
            self._make_core,
            self._dispatch,
            self._connectable,
            self._start_task,
            loop,
        )
        self._set_state(SessionState.CONNECTING)

    def _start_task(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._services.create_task(task())

    @property
    def _connectable(self) -> ByteStreamConnectable | None:
        transport = self._transport
        return transport if isinstance(transport, ByteStreamConnectable) else None

    def _make_core(self, stream: AnyByteStream) -> Core:
        """Create the core of a stream, the first or a later one."""
        return Core(
            self._role,
            self._config,
            now=self._clock(),
            random=os.urandom,
            identification=local_identification(__version__),
            connection=self._connection,
            host_keys=self._shown_host_keys,
            takes_certificates=self._takes_certificates,
            guesses_key_exchange=self._guesses_key_exchange(stream),
            delay_secret=_process_secret,
            clock=self._clock,
            services=self._service_names,
            trace=self._trace_handler,
        )

    def _ready(self) -> None:
        """Note that the session is ready for the body of ``async with``."""
        if self._state is SessionState.CONNECTING:
            self._set_state(SessionState.CONNECTED)
            self._links.current.end_handshake()

    @property
    def _shown_host_keys(self) -> Sequence[Identity]:
        """The host keys and certificates that a server authenticates with."""
        return ()

    @property
    def _takes_certificates(self) -> bool:
        """Whether the peer may authenticate with a certificate."""
        raise NotImplementedError

    def _guesses_key_exchange(self, stream: AnyByteStream) -> bool:
        """Whether to send the first key exchange message at once."""
        return False

    async def _set_up(self) -> None:
        """Wait until the session is ready for the body of ``async with``."""
        raise NotImplementedError

    # Ending

    async def _leave(self) -> None:
        try:
            if not self._links.is_finished:
                waits = await self._begin_end(DisconnectReason.BY_APPLICATION, "")
                if waits:
                    await self._links.wait_finished()
        except BaseException:
            await self._leave_at_once()
            raise

    async def _leave_at_once(self) -> None:
        """Send DISCONNECT as far as the stream accepts it at once, and wait for the link to end."""
        if self._links.is_finished:
            return
        self._send_disconnect(DisconnectReason.BY_APPLICATION, "the session was left")
        self._links.hurry()
        with anyio.CancelScope(shield=True):
            await self._links.wait_finished()

    def _cancel(self) -> None:
        """Cancel everything that runs in the session, including the body of ``async with``."""
        self._services.cancel_scope.cancel()

    def _send_disconnect(self, reason: int, description: str, *, waits: bool = True) -> None:
        """Send DISCONNECT.

        :param waits: whether the stream stays open until the peer has closed its side
        """
        has_stream = self._state not in (SessionState.DISCONNECTED, SessionState.CLOSED)
        if has_stream:
            self._core.disconnect(reason, description)
        elif (
            self._state is SessionState.DISCONNECTED and reason != DisconnectReason.CONNECTION_LOST
        ):
            self._end_now(Disconnected(reason, description, by_peer=False))
        if not waits:
            self._links.hurry()
        if has_stream:
            self._advance()

    async def aclose(self) -> None:
        """End the session: send DISCONNECT and close the stream.

        Takes at most :attr:`Limits.disconnect_time` and :attr:`Limits.close_time`. Further calls do
        nothing. A session that was never entered closes its stream; one that is waiting for its
        connectable stops waiting.
        """
        await self.disconnect(DisconnectReason.BY_APPLICATION, "")

    async def disconnect(self, reason: int, description: str = "") -> None:
        """End the session like :meth:`aclose`, with a given reason (RFC 4253 section 11.1).

        One reason is special in a session that can reconnect: after
        :attr:`DisconnectReason.CONNECTION_LOST` both sides consider the stream lost, and the
        session can be resumed over another.

        :param reason: a :class:`~anyssh.DisconnectReason`, or any number below 2**32
        :param description: a text for the peer, which is sent its first 1,024 characters
        """
        if self._state is SessionState.NEW:
            for scope in self._waiting_scopes:
                scope.cancel()
            if isinstance(self._transport, AsyncResource):
                await self._transport.aclose()
            else:
                await anyio.lowlevel.checkpoint()
            return
        try:
            await self._begin_end(reason, description)
        except BaseException:  # cancelled before DISCONNECT was sent
            self._send_disconnect(reason, description, waits=False)
            raise
        is_closed = self._state is SessionState.CLOSED
        if self._links.is_finished or not is_closed:
            await anyio.lowlevel.checkpoint()
        if is_closed:
            await self._links.wait_finished()

    async def _begin_end(self, reason: int, description: str) -> bool:
        """Send DISCONNECT; return whether the stream stays open until the peer has closed it."""
        if self._trace_handler is not None:
            text = f"closing: {reason} {description}"
            self._trace(TraceId.SESSION_CLOSING, TraceLevel.INFO, text)
        await self._send_what_waits()
        waits = self._waits_for_peer_to_close()
        self._send_disconnect(reason, description, waits=waits)
        return waits

    def _waits_for_peer_to_close(self) -> bool:
        """Whether the stream stays open, after our DISCONNECT, until the peer has closed its side.

        A system may discard what we sent if something arrives for a closed socket.
        """
        return True

    async def _send_what_waits(self) -> None:
        """Send what waits for new keys, such as the end of a channel, before DISCONNECT."""
        self._connection.send_gathered()
        if self._connection.held_size:
            with anyio.move_on_after(self._config.limits.disconnect_time):
                while self._connection.held_size:
                    await self._changed.wait()

    async def wait_closed(self) -> SessionClosed:
        """Wait until the session has ended; return how it ended.

        Refuses the peer's global requests, unless :meth:`requests` was called before.

        :raises LocalProtocolError: the session has not been entered
        """
        self._disregard_requests()
        await anyio.lowlevel.checkpoint()
        if self._state is SessionState.NEW:
            raise self._not_started()
        while self._end is None:
            await self._ended.wait()
        return self._end

    async def wait_disconnected(self) -> SSHError:
        """Wait until the session has lost its stream and can reconnect; return why it was lost.

        :raises SSHError: the session has ended instead
        """
        await anyio.lowlevel.checkpoint()
        while self._lost is None:
            self._require_alive()
            await self._changed.wait()
        return self._lost

    def events(self) -> AsyncIterator[SessionEvent]:
        """Iterate over the session's events, such as keep-alive; ends with the session.

        Up to :attr:`Limits.events` unread events are kept; older ones are dropped. Each event is
        delivered once: of several iterating tasks, one gets it.
        """
        return self._events

    # State

    def _require_alive(self) -> None:
        if self._end is not None:
            raise self._failure()
        if self._state is SessionState.NEW:
            raise self._not_started()

    def _failure(self) -> SSHError:
        """Return a fresh exception that says why the session has ended."""
        if self._end is None:
            return LocalProtocolError("the session has not ended")
        return self._end.error.fresh()

    async def _until_end(
        self, wait: Callable[..., Awaitable[T]], *arguments: Any, seconds: float = math.inf
    ) -> T:
        """Await something, but no longer than the session lasts, and no longer than ``seconds``.

        :raises TimeoutError: it took longer
        """
        self._require_alive()
        deadline = self._clock() + seconds
        with self._backend.create_cancel_scope(deadline=deadline) as scope:
            self._waiting_scopes[scope] = None
            try:
                return await wait(*arguments)
            finally:
                del self._waiting_scopes[scope]
        self._require_alive()
        raise TimeoutError

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while True:
            self._require_alive()
            if condition():
                return
            await self._changed.wait(self._backend)

    def _advance(self, *, is_urgent: bool = True) -> None:
        """Process what a call to the core or the connection has caused.

        :param is_urgent: whether the output must not wait for an iteration of the event loop
        """
        self._links.current.advance(is_urgent=is_urgent)

    # Callbacks of the application

    def _start_callback(self, callback: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Run code that calls the application as a task of the session."""
        self._callbacks_running += 1
        self._services.create_task(self._run_callback(callback, arguments))

    async def _run_callback(
        self, callback: Callable[..., Awaitable[None]], arguments: tuple[Any, ...]
    ) -> None:
        try:
            await callback(*arguments)
        finally:
            self._callbacks_running -= 1

    # Events of the core

    def _dispatch(self, events: Iterable[Event]) -> None:
        for event in events:
            handler = self._handlers.get(type(event))
            if handler is not None:
                handler(self, event)

    def _version_received(self, event: VersionReceived) -> None:
        if self._trace_handler is not None:
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

    def _debug_received(self, event: DebugReceived) -> None:
        level = TraceLevel.INFO if event.always_display else TraceLevel.VERBOSE
        self._trace(TraceId.DEBUG_MESSAGE, level, event.message)

    def _keep_alive_answered(self, event: KeepAliveAnswered) -> None:
        self._events.put(KeepAliveSucceeded(event.count))

    def _keep_alive_missed(self, event: KeepAliveMissed) -> None:
        self._events.put(KeepAliveFailed(event.count))
        if event.count >= self._config.keep_alive_count:
            error = ConnectionLost(
                f"the peer did not answer keep-alive, {event.count} times in a row"
            )
            self._core.lose(error, anyio.current_time())

    def _latency_measured(self, event: LatencyMeasured) -> None:
        if self._latency.measured(event.milliseconds):
            self._contour.record_latency(anyio.current_time(), event.milliseconds)

    # Streams lost and resumed

    def _terminated(self, event: ConnectionTerminated) -> None:
        if event.is_survivable and self._may_outlive_its_stream():
            self._disconnected(event)
        elif self._state is not SessionState.CLOSED:
            self._closed(event)

    def _set_state(self, state: SessionState) -> None:
        if state not in NEXT_STATES[self._state]:
            raise LocalProtocolError(f"{state} cannot follow {self._state}")
        self._state = state

    def _may_outlive_its_stream(self) -> bool:
        """Whether the session waits for another stream when it loses its own."""
        return True

    def _disconnected(self, event: ConnectionTerminated) -> None:
        """Wait for another stream; channels and requests do not notice."""
        error = self._error_of(event)
        self._set_state(SessionState.DISCONNECTED)
        self._lost = error
        self._latency.disconnected()
        self._links.lost()
        self._trace(TraceId.SESSION_DISCONNECTED, TraceLevel.WARNING, f"lost: {error}", error)
        self._events.put(DisconnectedEvent(error))
        self._changed.notify()

    def _resumed(self, event: SessionResumed) -> None:
        self._set_state(SessionState.CONNECTED)
        self._lost = None
        self._reconnections += 1
        self._events.put(Reconnected(self._reconnections))
        self._changed.notify()

    def _end_now(self, error: SSHError) -> None:
        """End the session without sending anything to the peer."""
        self._dispatch([ConnectionTerminated(error, Phase.TERMINATED)])

    def _closed(self, event: ConnectionTerminated) -> None:
        """End the session for good; waiting tasks raise a fresh exception."""
        error = self._error_of(event)
        self._set_state(SessionState.CLOSED)
        self._lost = None
        self._connection.detach()
        self._latency.disconnected()
        self._links.end()
        description = getattr(error, "description", str(error))
        self._end = SessionClosed(_disconnect_reason(error), description, error)
        if self._trace_handler is not None:
            self._trace(TraceId.SESSION_CLOSING, TraceLevel.INFO, f"closed: {error}", error)
        for scope in self._waiting_scopes:
            scope.cancel()
        self._end_work(error)
        self._events.end()
        self._changed.notify()
        self._ended.notify()

    def _end_work(self, error: SSHError) -> None:
        """Wake the tasks that wait for the session."""
        raise NotImplementedError

    def _error_of(self, event: ConnectionTerminated) -> SSHError:
        """Return the error of a connection that has ended, with its cause and circumstances."""
        error = event.error or self._links.current.loss()
        if error.__cause__ is None:
            without_frames(error).__cause__ = self._links.current.error
        where = _SET_UP.get(event.phase)
        if isinstance(error, HostKeyError):
            where = "the verification of the host key"
        if where is not None:
            error.add_note(f"during {where}")
        return error

    # Observation

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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._number} {self._state.name.lower()}>"

    def _disregard_requests(self) -> None:
        """Note that the application does not handle global requests."""
        raise NotImplementedError


LIFE_HANDLERS: Final[dict[type[Event], Callable[[Any, Any], None]]] = {
    VersionReceived: SessionLife._version_received,
    KeyExchangeCompleted: SessionLife._key_exchange_completed,
    DebugReceived: SessionLife._debug_received,
    KeepAliveAnswered: SessionLife._keep_alive_answered,
    KeepAliveMissed: SessionLife._keep_alive_missed,
    LatencyMeasured: SessionLife._latency_measured,
    ConnectionTerminated: SessionLife._terminated,
    SessionResumed: SessionLife._resumed,
}
