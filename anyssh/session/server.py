"""A server: one session per connection of its listeners, within :class:`ServerLimits`.

Each connection has a task of its own in :meth:`Server.serve`. That call also ends the connections
when the server shuts down: :meth:`Server.shutdown` only sets the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from logging import Logger, getLogger
from secrets import SystemRandom
from typing import Any, Final, TypeVar

import anyio
import anyio.lowlevel
from anyio import TASK_STATUS_IGNORED
from anyio.abc import AnyByteStream, Listener, TaskGroup, TaskStatus

from ..config import ServerLimits, SessionConfig
from ..constants import DisconnectReason
from ..errors import SessionMoved
from ..forwarding.policy import ForwardingPolicy
from ..keys import CertificateType, Key
from ..trace import TraceHandler
from ._arguments import check_type
from ._waiting import Latch, Notice
from .accepting import accept_connections
from .admission import Admission, Refusal, Stage, Visit
from .attributes import remote_address
from .authorities import UserAuthorities
from .connecting import close_at_once
from .credentials import CertifiedKey, KeyPair, as_signer, require_type
from .errors import handle_failure, is_end_of_peer
from .life import ProgressHandler
from .metrics import ServerStatistics
from .reconnectable import ReconnectableSessions
from .server_session import Authenticate, AuthorizeReconnect, MayUseKey, ServerSession
from .services import SessionService
from .signing import HostKeys, public_key_of, signer_of

__all__ = ["Server"]

logger: Logger = getLogger("anyssh")

HANDLER_GRACE: Final = 1.0
"""Seconds for a handler to notice that its session has ended, before it is cancelled."""

REFUSALS_AT_ONCE: Final = 100
"""Connections that may be told at the same time why they are refused; more are just closed."""

SessionHandler = Callable[[ServerSession], Awaitable[object]]
StreamT = TypeVar("StreamT", bound=AnyByteStream)

_random: Final = SystemRandom()


class _Served:
    """A connection that was admitted.

    :ivar is_leaving: whether the server is ending it
    """

    __slots__ = ("is_gone", "is_leaving", "session", "visit")

    def __init__(self, session: ServerSession, visit: Visit) -> None:
        self.session = session
        self.visit = visit
        self.is_leaving = False
        self.is_gone = Latch()

    async def leave(self) -> None:
        """End the session; cancel its handler if that does not notice in time."""
        await self.session.disconnect(
            DisconnectReason.BY_APPLICATION, "the server is shutting down"
        )
        with anyio.move_on_after(HANDLER_GRACE):
            await self.is_gone.wait()
        self.session._cancel()


class Server:
    """The common configuration of the sessions that a server accepts.

    :param host_keys: key pairs, signers, or private keys of the cryptography package, at least one;
        if several match, the first is used. A :class:`CertifiedKey` presents its certificate to
        clients that ask for certificates, and its key to others
    :param authenticate: called with each attempt of a client to authenticate; signatures have been
        verified by then. Returns the principal (any true value) to accept it, None to refuse it,
        or, for a :class:`KeyboardInteractiveAttempt`, a :class:`Challenge` to prompt the user
    :param may_use_key: called when a client asks whether a key is acceptable before it signs; by
        default every key is. Certificates are judged by ``user_authorities`` instead
    :param user_authorities: the certificate authorities trusted to certify users; without them,
        user certificates are refused, whatever ``authenticate`` says about the key
    :param authorize_reconnect: called before a session is resumed over another stream, with the
        session and the client's new address, if known; only True permits it. What was
        judged at login, a certificate's validity and source address as well as what
        ``authenticate`` has seen, is not judged again: that is for this callable
    :param reconnectable_sessions: where clients find their sessions again; pass one to share it
        with other servers
    :param config: algorithms, limits and timers of each session
    :param limits: bounds on all connections of :meth:`serve` together
    :param forwarding: what clients may have us connect to or listen on; nothing if None
    :param services: service classes to register, each with its configuration or None
    :param trace: called with the trace events of every session, for diagnosis
    :param on_progress: called with each stage of every session's set-up
    :raises ValueError: there is no usable host key, or a certificate is not a host certificate
    :raises TypeError: ``authenticate`` is missing, or an argument has the wrong type
    """

    def __init__(
        self,
        *,
        host_keys: Iterable[KeyPair | CertifiedKey] = (),
        authenticate: Authenticate | None = None,
        may_use_key: MayUseKey | None = None,
        user_authorities: UserAuthorities | None = None,
        authorize_reconnect: AuthorizeReconnect | None = None,
        reconnectable_sessions: ReconnectableSessions | None = None,
        config: SessionConfig | None = None,
        limits: ServerLimits | None = None,
        forwarding: ForwardingPolicy | None = None,
        services: Mapping[type[SessionService], Any] | None = None,
        trace: TraceHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> None:
        check_type("config", config, SessionConfig)
        check_type("limits", limits, ServerLimits)
        check_type("forwarding", forwarding, ForwardingPolicy)
        self._config = config if config is not None else SessionConfig()
        self._host_keys = tuple(
            key if isinstance(key, CertifiedKey) else as_signer(key) for key in host_keys
        )
        self._host_key_parts = HostKeys.of(self._host_keys)
        self._authenticate = authenticate
        self._may_use_key = may_use_key
        self._user_authorities = user_authorities
        self._authorize_reconnect = authorize_reconnect
        self._reconnectable_sessions = (
            ReconnectableSessions() if reconnectable_sessions is None else reconnectable_sessions
        )
        self._forwarding = forwarding
        self._services = services
        self._trace = trace
        self._on_progress = on_progress
        self._changed = Notice()
        self._admission = Admission(limits or ServerLimits(), self._changed.notify)
        self._handler_failures = 0
        self._refusing = 0
        self._accepting: set[anyio.CancelScope] = set()
        self._sessions: dict[_Served, None] = {}
        self._stop_time: float | None = None
        self._clock_offset = 0.0
        if self._config.is_secure:
            self._check()

    def _check(self) -> None:
        if not callable(self._authenticate):
            raise TypeError("authenticate is needed: an async callable that judges each client")
        held = set()
        for key in self._host_keys:
            signer = signer_of(key)
            if isinstance(key, CertifiedKey):
                require_type(key.certificate, CertificateType.HOST)
            if isinstance(signer, Key) and not signer.has_private:
                raise ValueError(f"the host key {signer.fingerprint} has no private half")
            held |= set(public_key_of(key).signature_algorithms)
        if not held & set(self._config.host_key_algorithms):
            raise ValueError(
                "no usable host key: the configuration names "
                f"{', '.join(self._config.host_key_algorithms)}, the keys support "
                f"{', '.join(sorted(held)) or 'nothing'}"
            )

    @property
    def config(self) -> SessionConfig:
        """The configuration of every session."""
        return self._config

    @property
    def reconnectable_sessions(self) -> ReconnectableSessions:
        """The sessions that can be resumed over another stream, including connected ones."""
        return self._reconnectable_sessions

    @property
    def statistics(self) -> ServerStatistics:
        """A snapshot of the connections that :meth:`serve` has accepted.

        May be read from any thread, such as that of a monitoring system.
        """
        return self._admission.statistics(self._now(), self._handler_failures)

    def _now(self) -> float:
        """Return the time of the event loop, even from another thread."""
        try:
            return anyio.current_time()
        except RuntimeError:
            return time.monotonic() + self._clock_offset

    def accept(self, stream: AnyByteStream) -> ServerSession:
        """Return a session; entering it with ``async with`` authenticates the client.

        The session owns the stream from then on, and closes it on every path. It belongs to the
        caller: :class:`ServerLimits`, :attr:`statistics` and :meth:`shutdown` do not apply to it.

        Entering raises:

        * :exc:`NegotiationError` if the two sides have no algorithm of some kind in common,
        * :exc:`RemoteProtocolError`, :exc:`Disconnected` or :exc:`ConnectionLost` if the peer does
          not speak SSH, fails to authenticate, or goes away,
        * :exc:`SessionMoved` if the client resumed a disconnected session over this stream.

        :param stream: a byte stream from a client, from which nothing has been read
        """
        return self._session(stream, Visit(), remote_address(stream))

    def _session(
        self, stream: AnyByteStream, visit: Visit, address: tuple[str, int] | None
    ) -> ServerSession:
        return ServerSession(
            stream,
            self._config,
            host_keys=self._host_key_parts,
            authenticate=self._authenticate,
            may_use_key=self._may_use_key,
            user_authorities=self._user_authorities,
            authorize_reconnect=self._authorize_reconnect,
            reconnectable_sessions=self._reconnectable_sessions,
            visit=visit,
            address=address,
            forwarding=self._forwarding,
            services=self._services,
            trace=self._trace,
            on_progress=self._on_progress,
        )

    async def serve(
        self,
        listener: Listener[StreamT],
        handler: SessionHandler,
        *,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> None:
        """Accept the connections of a listener, and run ``handler`` for each session.

        The handler is called once the client is authenticated; the session ends when it returns. An
        exception in one connection or handler ends that connection and is logged, without affecting
        the others or the listener. Temporary failures to accept are logged and retried as well.

        Returns when the last session has ended after :meth:`shutdown`, or after the listener was
        closed or lost the session that it belongs to. Cancelling it ends all sessions at once. It
        may run for several listeners at the same time.

        :param listener: any AnyIO listener; closed by :meth:`shutdown`
        :param handler: called with each authenticated session
        :param task_status: started once connections are accepted
        """
        sessions: dict[_Served, None] = {}
        self._clock_offset = anyio.current_time() - time.monotonic()
        handle = partial(self._serve_one, handler, sessions)
        failure: Exception | None = None

        async with anyio.create_task_group() as watching:
            try:
                async with anyio.create_task_group() as connections:
                    watching.start_soon(self._end_when_shut_down, sessions, connections)
                    task_status.started()
                    await self._accept_until_stopped(listener, handle, connections)
            except Exception as error:
                # Raised below, outside of the task group, which would wrap it once more.
                failure = error
            watching.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _accept_until_stopped(
        self,
        listener: Listener[StreamT],
        handle: Callable[[StreamT], Awaitable[None]],
        connections: TaskGroup,
    ) -> None:
        with anyio.CancelScope() as accepting:
            self._accepting.add(accepting)
            if self._stop_time is not None:
                accepting.cancel()
            try:
                await accept_connections(listener, handle, connections)
            finally:
                try:
                    if self._stop_time is not None:
                        with anyio.CancelScope(shield=True):
                            await listener.aclose()
                finally:
                    self._accepting.discard(accepting)
                    self._changed.notify()

    async def shutdown(self, *, grace: float = 30.0) -> None:
        """Stop serving for good; return when every session of :meth:`serve` has ended.

        Listeners are closed at once, and so are connections whose clients have not authenticated
        and sessions without a stream. All others may end by themselves for ``grace`` seconds. The
        remaining sessions are then disconnected with :attr:`DisconnectReason.BY_APPLICATION`, and
        handlers that do not notice are cancelled. :meth:`serve` does all of this and returns; a
        later :meth:`serve` returns at once. Of several calls, the earliest deadline counts.

        Cancelling the call only ends its waiting. Do not await it in a handler, which would wait
        for itself.

        :param grace: seconds; 0 ends all sessions now, infinity leaves that to the clients
        :raises ValueError: ``grace`` is negative
        """
        if not grace >= 0:
            raise ValueError(f"grace must be at least 0 seconds, not {grace!r}")
        now = anyio.current_time()
        self._stop_time = min(now + grace, math.inf if self._stop_time is None else self._stop_time)
        for accepting in self._accepting:
            accepting.cancel()
        self._changed.notify()
        await anyio.lowlevel.checkpoint()
        while self._sessions or self._accepting:
            await self._changed.wait()

    async def _end_when_shut_down(
        self, sessions: Mapping[_Served, None], connections: TaskGroup
    ) -> None:
        """Wait for the shutdown and its grace period, and end all connections still there.

        A connection may become a session long after the last one was accepted: that of a listener
        with a handshake of its own.
        """
        while self._stop_time is None:
            await self._changed.wait()
        while sessions:
            is_over = anyio.current_time() >= self._stop_time
            for served in sessions:
                is_idle = served.visit.stage is not Stage.AUTHENTICATED
                if (is_over or is_idle) and not served.is_leaving:
                    served.is_leaving = True
                    connections.start_soon(served.leave)
            with anyio.CancelScope(deadline=math.inf if is_over else self._stop_time):
                await self._changed.wait()
        connections.cancel_scope.cancel()  # whoever has not been admitted yet never will be

    async def _serve_one(
        self, handler: SessionHandler, sessions: dict[_Served, None], stream: AnyByteStream
    ) -> None:
        if self._stop_time is not None:
            await close_at_once(stream)
            return
        address = remote_address(stream)
        host = None if address is None else address[0]
        admitted = self._admission.admit(host, anyio.current_time(), _random.random())
        if isinstance(admitted, Refusal):
            logger.debug("a connection from %s is refused: %s", host, admitted.value)
            await self._refuse(stream, admitted)
            return
        served = _Served(self._session(stream, admitted, address), admitted)
        self._sessions[served] = sessions[served] = None
        try:
            async with served.session as session:
                await handler(session)
        except SessionMoved as error:
            logger.debug("%s", error)
        except BaseException as error:
            if not handle_failure(error, partial(self._session_failed, served)):
                raise
        finally:
            del self._sessions[served], sessions[served]
            served.is_gone.set()
            admitted.move(Stage.OVER)

    def _session_failed(self, served: _Served, error: Exception) -> None:
        name = served.session._peer_name()
        if is_end_of_peer(error):
            logger.info("%s: the connection ended: %s", name, str(error) or repr(error))
        else:
            self._handler_failures += 1
            logger.error("%s: the handler of the connection failed", name, exc_info=error)

    async def _refuse(self, stream: AnyByteStream, refusal: Refusal) -> None:
        """Close a connection, with a line that says why if that costs next to nothing."""
        self._refusing += 1
        try:
            if self._refusing <= REFUSALS_AT_ONCE:
                with anyio.move_on_after(self._config.limits.disconnect_time):
                    await stream.send(f"{refusal.value}\r\n".encode())
                    await stream.aclose()
        except BaseException as error:
            told = "a connection could not be told that it is refused: %r"
            if not handle_failure(error, partial(logger.debug, told)):
                raise
        finally:
            self._refusing -= 1
            await close_at_once(stream)
