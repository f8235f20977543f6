"""Sessions as a server, one by one or for every connection of a listener."""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from logging import Logger, getLogger
from typing import Any, Final, TypeVar

import anyio
from anyio import TASK_STATUS_IGNORED
from anyio.abc import AnyByteStream, Listener, TaskStatus

from ..config import SessionConfig
from ..constants import ReconnectFailureReason
from ..errors import CertificateError, LocalProtocolError, ReconnectError, SessionMoved, SSHError
from ..forwarding.policy import ForwardingPolicy
from ..keys import Certificate, CertificateType, Key
from ..protocol import Core, Role
from ..protocol.authentication import (
    AuthAttempt,
    CertificateAttempt,
    Challenge,
    KeyboardInteractiveAttempt,
)
from ..protocol.events import (
    AttemptMade,
    Authenticated,
    ConnectionTerminated,
    Event,
    KeyQueried,
    ReconnectRequested,
)
from ..trace import Progress, TraceHandler, TraceId, TraceLevel
from .attributes import SSHAttribute
from .authorities import UserAuthorities
from .credentials import CertifiedKey, KeyPair, as_signer, require_type
from .errors import ConnectionLost
from .life import ProgressHandler
from .links import SessionState
from .reconnectable import ReconnectableSessions
from .services import SessionService
from .session import Session
from .signing import public_key_of, signer_of

__all__ = ["Server", "ServerSession"]

logger: Logger = getLogger("anyssh")

_loss_numbers = itertools.count(1)

TAKE_OVER_TIME: Final = 5.0
"""Seconds for a stream to end that its client has left."""

Authenticate = Callable[[AuthAttempt], Awaitable[object | None]]
AuthorizeReconnect = Callable[["ServerSession", tuple[str, int] | None], Awaitable[bool]]
MayUseKey = Callable[[str, Key], Awaitable[bool]]
SessionHandler = Callable[["ServerSession"], Awaitable[object]]


class ServerSession(Session):
    """The server's end of a session; made by :meth:`Server.accept`."""

    _role = Role.SERVER

    def __init__(
        self,
        stream: AnyByteStream,
        config: SessionConfig,
        *,
        host_keys: Iterable[KeyPair | CertifiedKey],
        authenticate: Authenticate | None,
        may_use_key: MayUseKey | None,
        user_authorities: UserAuthorities | None,
        authorize_reconnect: AuthorizeReconnect | None,
        reconnectable_sessions: ReconnectableSessions,
        forwarding: ForwardingPolicy | None = None,
        services: Mapping[type[SessionService], Any] | None = None,
        trace: TraceHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> None:
        super().__init__(
            stream,
            config,
            host_keys=host_keys,
            forwarding=forwarding,
            services=services,
            trace=trace,
            on_progress=on_progress,
        )
        self._authorize_reconnect = authorize_reconnect
        self._reconnectable = reconnectable_sessions
        self._loss_number = 0
        self._is_claimed = False
        self._authenticate = authenticate
        self._may_use_key = may_use_key
        self._user_authorities = user_authorities
        self._principal: object | None = None
        self._username: str | None = None

    @property
    def principal(self) -> object | None:
        """Who the client is: what ``authenticate`` returned. None without authentication."""
        return self._principal

    @property
    def username(self) -> str | None:
        """The name that the client was let in with."""
        return self._username

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the stream, then those of :class:`SSHAttribute`."""
        own = {SSHAttribute.principal: lambda: self.principal}
        return {**super().extra_attributes, **own}

    @property
    def _takes_certificates(self) -> bool:
        return self._user_authorities is not None

    async def _set_up(self) -> None:
        await self._wait_until(lambda: self._core.is_running)

    # Events of the core

    def _handle(self, event: Event) -> None:
        match event:
            case AttemptMade():
                self._start_callback(self._judge, event)
                # The grant of the service and a quick verdict then share a segment.
                self._links.current.hold()
            case KeyQueried():
                self._start_callback(self._judge_query, event)
                self._links.current.hold()
            case Authenticated(principal):
                self._principal = principal
                self._changed.notify()
                self._trace(TraceId.SESSION_AUTHENTICATED, TraceLevel.INFO, "authenticated")
                if self._connection.continuity is not None:
                    self._reconnectable._add(self)
            case ReconnectRequested():
                self._start_callback(self._find_session, event)

    # Going on over another stream

    @property
    def _secret_id(self) -> bytes:
        continuity = self._connection.continuity
        return b"" if continuity is None else continuity.session_id

    @property
    def _kept_bytes(self) -> int:
        continuity = self._connection.continuity
        if continuity is None or self._state is not SessionState.DISCONNECTED:
            return 0
        return continuity.journal.size

    def _may_outlive_its_stream(self) -> bool:
        return self in self._reconnectable

    def _disconnected(self, event: ConnectionTerminated) -> None:
        super()._disconnected(event)
        self._loss_number = next(_loss_numbers)
        self._reconnectable._check_bytes()

    def _advance(self) -> None:
        super()._advance()
        if self._state is SessionState.DISCONNECTED:
            self._reconnectable._check_bytes()

    def _closed(self, event: ConnectionTerminated) -> None:
        self._reconnectable._discard(self)
        super()._closed(event)

    async def _find_session(self, event: ReconnectRequested) -> None:
        """Hand our stream over to the session that the client wants to go on with."""
        session = self._reconnectable._find(event.proves)
        if session is None:
            self._refuse_reconnect(event, ReconnectFailureReason.SESSION_NOT_FOUND, "not found")
            return
        if session._is_claimed or event.is_overtaken(session._connection):
            # A client that has given the other stream up may ask again.
            reason = ReconnectFailureReason.UNKNOWN_SERVER_FAILURE
            self._refuse_reconnect(event, reason, "the session goes on over another stream")
            return
        session._is_claimed = True
        try:
            await session._go_on_here(self, event)
        finally:
            session._is_claimed = False

    def _refuse_reconnect(
        self, event: ReconnectRequested, reason: ReconnectFailureReason, text: str
    ) -> None:
        self._trace(TraceId.SERVER_SESSION_RECONNECT_FAILED, TraceLevel.WARNING, text)
        event.reject(ReconnectError(reason, text), anyio.current_time())
        self._advance()

    async def _go_on_here(self, other: ServerSession, event: ReconnectRequested) -> None:
        """Go on over the stream of ``other``, whose client has proved to be ours."""
        self._trace(TraceId.SERVER_SESSION_RECONNECTING, TraceLevel.INFO, "the client is back")
        try:
            with anyio.fail_after(TAKE_OVER_TIME):
                await self._give_up_stream()
            is_allowed = await self._ask_whether_it_may_reconnect(other)
        except TimeoutError:
            is_allowed = False
        if not is_allowed or self._state is not SessionState.DISCONNECTED:
            reason = ReconnectFailureReason.UNKNOWN_SERVER_FAILURE
            other._refuse_reconnect(event, reason, "the session cannot go on")
            return
        stream, core = await other._hand_over()
        try:
            attempt = self._links.try_stream(stream, core)
        except LocalProtocolError:
            await anyio.aclose_forcefully(stream)
            return
        event.accept(self._connection, anyio.current_time())
        attempt.link.advance(core.poll_events())

    async def _give_up_stream(self) -> None:
        """Lose the stream that we still believe in, and all that comes over it from now on."""
        link = self._links.current
        if self._state is SessionState.CONNECTED:
            error = ConnectionLost("the client came back over another stream")
            link.core.lose(error, anyio.current_time())
            self._advance()
        await link.wait_finished()

    async def _ask_whether_it_may_reconnect(self, other: ServerSession) -> bool:
        if self._authorize_reconnect is None:
            return True
        return await self._ask(self._authorize_reconnect, self, other._remote_address()) is True

    async def _hand_over(self) -> tuple[AnyByteStream, Core]:
        """End without touching the stream, which belongs to another session from now on."""
        error = SessionMoved("the client went on with another session over this stream")
        self._end_now(error)
        return await self._links.hand_over()

    async def _judge(self, event: AttemptMade) -> None:
        attempt = event.attempt
        self._progress(Progress.STARTING_AUTHENTICATION)
        self._trace(
            TraceId.SESSION_AUTHENTICATING,
            TraceLevel.INFO,
            f"{attempt.method} for {attempt.username!r}",
        )
        verdict = await self._ask(self._verdict, attempt)
        self._progress(Progress.COMPLETED_AUTHENTICATION)
        now = anyio.current_time()
        if isinstance(verdict, Challenge):
            event.challenge(verdict, now)
        elif verdict is not None:
            self._username = attempt.username
            event.accept(verdict, now)
        else:
            self._trace(
                TraceId.CLIENT_AUTHENTICATION_FAILED,
                TraceLevel.WARNING,
                f"{attempt.method} for {attempt.username!r} refused",
            )
            logger.info(
                "%s: %s for %r refused", self._peer_name(), attempt.method, attempt.username
            )
            event.reject(now)
        self._advance()

    def _peer_name(self) -> str:
        """Return where the client is, for logs."""
        address = self._remote_address()
        return "a client" if address is None else f"{address[0]}:{address[1]}"

    async def _verdict(self, attempt: AuthAttempt) -> object | None:
        """Return the principal or a challenge, None to refuse; a likely mistake lets nobody in."""
        if self._authenticate is None:
            return None
        if isinstance(attempt, CertificateAttempt) and not await self._is_certified(
            attempt.username, attempt.certificate
        ):
            return None
        verdict = await self._authenticate(attempt)
        if isinstance(verdict, Challenge):
            return verdict if isinstance(attempt, KeyboardInteractiveAttempt) else None
        if isinstance(verdict, Awaitable) or verdict is NotImplemented:
            raise TypeError(f"authenticate returned {type(verdict)}; did it forget to await?")
        return verdict or None

    async def _judge_query(self, event: KeyQueried) -> None:
        is_worthwhile: object = True
        if isinstance(event.identity, Certificate):
            is_worthwhile = await self._ask(self._is_certified, event.username, event.identity)
        elif self._may_use_key is not None:
            is_worthwhile = await self._ask(self._may_use_key, event.username, event.identity)
        event.answer(is_worthwhile is True, anyio.current_time())
        self._advance()

    async def _is_certified(self, username: str, certificate: Certificate) -> bool:
        """Tell whether a certificate lets a user in, as far as the authorities go."""
        if self._user_authorities is None:
            return False
        address = self._remote_address()
        try:
            await self._user_authorities.check(
                certificate, username, None if address is None else address[0]
            )
        except CertificateError as error:
            text = f"{error}, shown for {username!r}"
            self._trace(TraceId.CLIENT_AUTHENTICATION_FAILED, TraceLevel.WARNING, text, error)
            logger.info("%s: %s", self._peer_name(), text)
            return False
        return True

    async def _ask(self, callback: Callable[..., Awaitable[Any]], *question: Any) -> Any:
        """Ask the application; an exception or too much time means no."""
        try:
            with anyio.fail_after(self._config.limits.handler_time):
                return await callback(*question)
        except anyio.get_cancelled_exc_class() as error:
            if anyio.current_effective_deadline() == -math.inf:
                raise
            # Nobody cancels us: the callback awaited something that was cancelled.
            self._callback_failed(error)
        except Exception as error:
            self._callback_failed(error)
        return None

    def _callback_failed(self, error: BaseException) -> None:
        logger.error("an authentication callback failed; the attempt is refused", exc_info=error)
        self._trace(TraceId.AUTHENTICATION_ERROR, TraceLevel.ERROR, "the callback failed", error)


StreamT = TypeVar("StreamT", bound=AnyByteStream)


class Server:
    """What the sessions of one service have in common.

    :param host_keys: pairs, signers or private keys of the cryptography package, at least one; of
        several that fit, the first is used. Of a :class:`CertifiedKey`, clients that ask for
        certificates get the certificate, others the key
    :param authenticate: given each proof that a client offers, after it was verified; returns
        the principal to accept (anything true), None to refuse, or a :class:`Challenge` to ask
        the user (for :class:`KeyboardInteractiveAttempt`)
    :param may_use_key: asked when a client wants to know whether a key is worth signing with;
        yes to every key if not given. Certificates are judged by ``user_authorities`` instead
    :param user_authorities: whose word about users is believed; without it certificates of users
        are refused, whatever key they are for
    :param authorize_reconnect: asked before a session goes on over another stream, with the
        session and the new address of its client, if known; only True lets it
    :param reconnectable_sessions: where clients find their sessions again, if it is to be shared
        with other servers
    :param config: algorithms, limits and timers
    :param forwarding: what clients may have us connect to or listen on; nothing if None
    :param services: classes of services, with a configuration or None for each
    :param trace: called with what happens in every session, for developers
    :param on_progress: called with the stages of every session's set-up
    :raises ValueError: there is no usable host key, or a certificate is not for a host
    :raises TypeError: there is no ``authenticate``
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
        forwarding: ForwardingPolicy | None = None,
        services: Mapping[type[SessionService], Any] | None = None,
        trace: TraceHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> None:
        self._config = config if config is not None else SessionConfig()
        self._host_keys = tuple(
            key if isinstance(key, CertifiedKey) else as_signer(key) for key in host_keys
        )
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
                "no host key fits: the configuration names "
                f"{', '.join(self._config.host_key_algorithms)}, the keys are good for "
                f"{', '.join(sorted(held)) or 'nothing'}"
            )

    @property
    def config(self) -> SessionConfig:
        """The configuration of every session."""
        return self._config

    @property
    def reconnectable_sessions(self) -> ReconnectableSessions:
        """The sessions that can go on over another stream, those that have one included."""
        return self._reconnectable_sessions

    def accept(self, stream: AnyByteStream) -> ServerSession:
        """Return a session to be entered with ``async with``, which authenticates the client.

        The session owns the stream from then on and closes it on every path.

        Entering raises:

        * :exc:`NegotiationError` when there is an algorithm that the two sides do not share,
        * :exc:`RemoteProtocolError`, :exc:`Disconnected` or :exc:`ConnectionLost` when the peer
          does not speak SSH, fails to authenticate, or goes away,
        * :exc:`SessionMoved` when the client went on with a session that had lost its stream, and
          that works over this one now.
        """
        return ServerSession(
            stream,
            self._config,
            host_keys=self._host_keys,
            authenticate=self._authenticate,
            may_use_key=self._may_use_key,
            user_authorities=self._user_authorities,
            authorize_reconnect=self._authorize_reconnect,
            reconnectable_sessions=self._reconnectable_sessions,
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
        """Accept every connection of a listener and run ``handler`` for each, until cancelled.

        A handler runs once its client is authenticated; the session ends when it returns. An
        exception of one connection or handler ends that connection and is logged; the others and
        the listener go on.

        :param task_status: told when connections are accepted
        """

        async def handle(stream: StreamT) -> None:
            await self._serve_one(stream, handler)

        async with anyio.create_task_group() as connections:
            task_status.started()
            await listener.serve(handle, connections)

    async def _serve_one(self, stream: AnyByteStream, handler: SessionHandler) -> None:
        session = self.accept(stream)
        try:
            async with session:
                await handler(session)
        except SessionMoved as error:
            logger.debug("%s", error)
        except SSHError as error:
            logger.info("%s: the connection ended: %s", session._peer_name(), error)
        except Exception:
            logger.exception("%s: the handler of the connection failed", session._peer_name())
