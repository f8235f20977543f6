"""The server side of a session: sign with the host key, authenticate the client, reconnect."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from logging import Logger, getLogger
from typing import Any, Final

import anyio
from anyio.abc import AnyByteStream, SocketAttribute

from ..config import SessionConfig
from ..constants import DisconnectReason, ReconnectFailureReason
from ..errors import (
    CertificateError,
    Disconnected,
    KeyExchangeFailed,
    LocalProtocolError,
    NegotiationError,
    ReconnectError,
    RemoteProtocolError,
    SessionMoved,
    SSHError,
)
from ..forwarding.policy import ForwardingPolicy
from ..keys import Certificate, Identity, Key
from ..protocol import Core, Phase, Role
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
    KeyExchangeCompleted,
    KeyQueried,
    ReconnectRequested,
    SessionResumed,
    SignatureRequested,
)
from ..trace import Progress, TraceHandler, TraceId, TraceLevel
from ._waiting import Notice
from .admission import Offence, Stage, Visit
from .attributes import SSHAttribute, displayed_address
from .authorities import UserAuthorities
from .connecting import close_at_once
from .credentials import Signer
from .errors import ConnectionLost, handle_failure
from .life import ProgressHandler
from .links import SessionState
from .reconnectable import ReconnectableSessions
from .services import SessionService
from .session import Session
from .signing import HostKeys, signed, signs_quickly

__all__ = [
    "Authenticate",
    "AuthorizeReconnect",
    "MayUseKey",
    "ServerSession",
]

logger: Logger = getLogger("anyssh")

_loss_numbers = itertools.count(1)

TAKE_OVER_TIME: Final = 5.0
"""Seconds for the client's previous stream to end."""

Authenticate = Callable[[AuthAttempt], Awaitable[object | None]]
AuthorizeReconnect = Callable[["ServerSession", tuple[str, int] | None], Awaitable[bool]]
MayUseKey = Callable[[str, Key], Awaitable[bool]]


class ServerSession(Session):
    """The server side of a session, created by :meth:`Server.accept`."""

    __slots__ = (
        "_address",
        "_authenticate",
        "_authorize_reconnect",
        "_host_keys",
        "_is_claimed",
        "_is_excused",
        "_let_in",
        "_loss_number",
        "_may_use_key",
        "_principal",
        "_reconnectable",
        "_user_authorities",
        "_username",
        "_visit",
    )

    _role = Role.SERVER

    def __init__(
        self,
        stream: AnyByteStream,
        config: SessionConfig,
        *,
        host_keys: HostKeys,
        authenticate: Authenticate | None,
        may_use_key: MayUseKey | None,
        user_authorities: UserAuthorities | None,
        authorize_reconnect: AuthorizeReconnect | None,
        reconnectable_sessions: ReconnectableSessions,
        visit: Visit,
        address: tuple[str, int] | None,
        forwarding: ForwardingPolicy | None = None,
        services: Mapping[type[SessionService], Any] | None = None,
        trace: TraceHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> None:
        super().__init__(
            stream,
            config,
            forwarding=forwarding,
            services=services,
            trace=trace,
            on_progress=on_progress,
        )
        self._host_keys = host_keys
        self._authorize_reconnect = authorize_reconnect
        self._reconnectable = reconnectable_sessions
        self._visit = visit
        self._address = address
        self._is_excused = False
        self._loss_number = 0
        self._is_claimed = False
        self._authenticate = authenticate
        self._may_use_key = may_use_key
        self._user_authorities = user_authorities
        self._let_in = Notice()
        self._principal: object | None = None
        self._username: str | None = None

    @property
    def principal(self) -> object | None:
        """The client's identity: what ``authenticate`` returned; None without authentication."""
        return self._principal

    @property
    def username(self) -> str | None:
        """The user name that the client authenticated with, or None."""
        return self._username

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the stream, and those of :class:`SSHAttribute`.

        :attr:`SocketAttribute.remote_address <anyio.abc.SocketAttribute.remote_address>`, if the
        stream has it, remains available after the stream has gone.
        """
        own: dict[Any, Callable[[], Any]] = {SSHAttribute.principal: lambda: self.principal}
        if (address := self._address) is not None:  # a closed socket no longer reports its own
            own[SocketAttribute.remote_address] = lambda: address
        return {**super().extra_attributes, **own}

    @property
    def _shown_host_keys(self) -> Sequence[Identity]:
        return self._host_keys.shown

    @property
    def _takes_certificates(self) -> bool:
        return self._user_authorities is not None

    async def _set_up(self) -> None:
        self._require_alive()
        while not self._core.is_running:
            await self._let_in.wait(self._backend)
            self._require_alive()
        if self._visit.stage is Stage.UNAUTHENTICATED:  # without keys there is no authentication
            self._visit.move(Stage.AUTHENTICATED)

    # Events of the core

    def _keys_exchanged(self, event: KeyExchangeCompleted) -> None:
        self._key_exchange_completed(event)
        if self._core.is_running:  # always so when there is no authentication
            self._let_in.notify()

    def _attempt_made(self, event: AttemptMade) -> None:
        self._start_callback(self._judge, event)
        # Lets the SERVICE_ACCEPT and a quick verdict share a segment.
        self._links.current.hold()

    def _key_queried(self, event: KeyQueried) -> None:
        self._start_callback(self._judge_query, event)
        self._links.current.hold()

    def _authenticated(self, event: Authenticated) -> None:
        self._principal = event.principal
        self._visit.move(Stage.AUTHENTICATED)
        self._let_in.notify()
        self._trace(TraceId.SESSION_AUTHENTICATED, TraceLevel.INFO, "authenticated")
        if self._connection.continuity is not None:
            self._reconnectable._add(self)

    def _reconnect_requested(self, event: ReconnectRequested) -> None:
        self._start_callback(self._find_session, event)

    # The host key

    def _signature_requested(self, event: SignatureRequested) -> None:
        key = self._host_keys.signers[event.key]
        if isinstance(key, Key) and signs_quickly(key):
            # Signing here is faster than starting a task.
            try:
                signature = key.sign(event.data, event.algorithm)
            except SSHError as error:
                self._signing_failed(event, error)
            else:
                event.supply(signature, self._clock())
        else:
            self._start_callback(self._sign, event, key)

    async def _sign(self, event: SignatureRequested, signer: Key | Signer) -> None:
        try:
            with anyio.fail_after(self._config.limits.handler_time):
                signature = await signed(signer, event.data, event.algorithm)
        except BaseException as error:
            if not handle_failure(error, partial(self._signing_failed, event)):
                raise
        else:
            event.supply(signature, anyio.current_time())
        self._advance()

    def _signing_failed(self, event: SignatureRequested, error: Exception) -> None:
        logger.error("the host key %s could not sign", event.key.fingerprint, exc_info=error)
        failure = KeyExchangeFailed("the host key could not sign")
        failure.__cause__ = error
        event.fail(failure, anyio.current_time())

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
        self._visit.move(Stage.WITHOUT_STREAM)
        self._loss_number = next(_loss_numbers)
        self._reconnectable._check_bytes()

    def _advance(self, *, is_urgent: bool = True) -> None:
        super()._advance(is_urgent=is_urgent)
        if self._state is SessionState.DISCONNECTED:
            self._reconnectable._check_bytes()

    def _resumed(self, event: SessionResumed) -> None:
        super()._resumed(event)
        self._let_in.notify()  # the first stream may never have got this far
        self._visit.come_back(self._remote_host())

    def _closed(self, event: ConnectionTerminated) -> None:
        self._reconnectable._discard(self)
        if self._visit.stage is Stage.UNAUTHENTICATED and not self._is_excused:
            offence = _offence(event)
            if offence is not None:
                self._penalise(offence)
        if self._visit.stage is Stage.WITHOUT_STREAM:
            self._visit.move(Stage.AUTHENTICATED)  # no longer kept, but its handler still runs
        super()._closed(event)
        self._let_in.notify()

    def _penalise(self, offence: Offence) -> None:
        if self._visit.offend(offence, anyio.current_time()):
            logger.warning("connections from %s are refused for a while", self._remote_host())

    async def _find_session(self, event: ReconnectRequested) -> None:
        """Hand our stream over to the session that the client wants to resume."""
        session = self._reconnectable._find(event.proves)
        if session is None:
            self._refuse_reconnect(event, ReconnectFailureReason.SESSION_NOT_FOUND, "not found")
            return
        if session._is_claimed or event.is_overtaken(session._connection):
            # The client may ask again once it has given up the other stream.
            reason = ReconnectFailureReason.UNKNOWN_SERVER_FAILURE
            self._refuse_reconnect(event, reason, "the session was resumed over another stream")
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
        if reason is ReconnectFailureReason.SESSION_NOT_FOUND:
            self._penalise(Offence.FAILED_RECONNECT)
        event.reject(ReconnectError(reason, text), anyio.current_time())
        self._advance()

    async def _go_on_here(self, other: ServerSession, event: ReconnectRequested) -> None:
        """Resume over the stream of ``other``, whose client has proved to be ours."""
        self._trace(TraceId.SERVER_SESSION_RECONNECTING, TraceLevel.INFO, "the client is back")
        try:
            with anyio.fail_after(TAKE_OVER_TIME):
                await self._give_up_stream()
            is_allowed = await self._ask_whether_it_may_reconnect(other)
        except TimeoutError:
            is_allowed = False
        if not is_allowed or self._state is not SessionState.DISCONNECTED:
            reason = ReconnectFailureReason.UNKNOWN_SERVER_FAILURE
            other._refuse_reconnect(event, reason, "the session cannot be resumed")
            return
        stream, core = await other._hand_over()
        try:
            attempt = self._links.try_stream(stream, core)
        except LocalProtocolError:
            await close_at_once(stream)
            return
        self._address = other._address
        event.accept(self._connection, anyio.current_time())
        attempt.link.advance()

    async def _give_up_stream(self) -> None:
        """Give up the stream that we consider alive, and whatever arrives on it from now on."""
        link = self._links.current
        if self._state is SessionState.CONNECTED:
            error = ConnectionLost("the client came back over another stream")
            link.core.lose(error, anyio.current_time())
            self._advance()
        await link.wait_finished()

    async def _ask_whether_it_may_reconnect(self, other: ServerSession) -> bool:
        if self._authorize_reconnect is None:
            return True
        return await self._ask(self._authorize_reconnect, self, other._address) is True

    async def _hand_over(self) -> tuple[AnyByteStream, Core]:
        """End without touching the stream, which belongs to another session from now on."""
        error = SessionMoved("the client resumed another session over this stream")
        self._end_now(error)
        return await self._links.hand_over()

    # The client

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
        now = self._clock()
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
        """Return the client's address for log messages."""
        return "a client" if self._address is None else displayed_address(self._address)

    def _remote_host(self) -> str | None:
        """Return the client's host, if the stream has an address."""
        return None if self._address is None else self._address[0]

    async def _verdict(self, attempt: AuthAttempt) -> object | None:
        """Return the principal or a challenge, None to refuse; raise for what looks like a bug."""
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
        """Tell whether the authorities accept a certificate for a user."""
        if self._user_authorities is None:
            return False
        try:
            await self._user_authorities.check(certificate, username, self._remote_host())
        except CertificateError as error:
            text = f"{error}, shown for {username!r}"
            self._trace(TraceId.CLIENT_AUTHENTICATION_FAILED, TraceLevel.WARNING, text, error)
            logger.info("%s: %s", self._peer_name(), text)
            return False
        return True

    async def _ask(self, callback: Callable[..., Awaitable[Any]], *question: Any) -> Any:
        """Call an application callback; an exception or a timeout counts as no."""
        seconds = self._config.limits.handler_time
        try:
            deadline = self._clock() + seconds
            with self._backend.create_cancel_scope(deadline=deadline):
                return await callback(*question)
            raise TimeoutError(f"there was no answer within {seconds:g} seconds")
        except BaseException as error:
            if not handle_failure(error, self._callback_failed):
                raise
        return None

    def _callback_failed(self, error: Exception) -> None:
        self._is_excused = True
        logger.error("an authentication callback failed; the attempt is refused", exc_info=error)
        self._trace(TraceId.AUTHENTICATION_ERROR, TraceLevel.ERROR, "the callback failed", error)


ServerSession._handlers = {
    **Session._handlers,
    KeyExchangeCompleted: ServerSession._keys_exchanged,
    SessionResumed: ServerSession._resumed,
    SignatureRequested: ServerSession._signature_requested,
    AttemptMade: ServerSession._attempt_made,
    KeyQueried: ServerSession._key_queried,
    Authenticated: ServerSession._authenticated,
    ReconnectRequested: ServerSession._reconnect_requested,
}


def _offence(event: ConnectionTerminated) -> Offence | None:
    """Return what a client that never authenticated is penalised for; None if it was our doing."""
    error = event.error
    if isinstance(error, RemoteProtocolError):
        if error.reason == DisconnectReason.NO_MORE_AUTH_METHODS_AVAILABLE:
            return Offence.FAILED_LOGIN
        return Offence.PROTOCOL_ERROR
    if isinstance(error, Disconnected):
        is_theirs = error.by_peer
    else:
        is_theirs = error is None or isinstance(error, ConnectionLost | NegotiationError)
    if not is_theirs:
        return None
    return Offence.FAILED_LOGIN if event.phase is Phase.AUTHENTICATION else Offence.NO_LOGIN
