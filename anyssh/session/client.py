"""A session as a client: verify the server, then prove who we are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Self

import anyio
import anyio.lowlevel
from anyio import ResourceGuard
from anyio.abc import AnyByteStream, ByteStream, ObjectStream, SocketStream

from ..config import SessionConfig
from ..constants import Service
from ..errors import HostKeyError, LocalProtocolError
from ..forwarding.policy import ForwardingPolicy
from ..keys import Key, with_certificates
from ..protocol import Role
from ..protocol.events import (
    Authenticated,
    AuthenticationFailed,
    BannerReceived,
    ChallengeReceived,
    Event,
    HostKeyPresented,
    KeyAccepted,
    PasswordExpired,
)
from ..trace import Progress, TraceHandler, TraceId, TraceLevel
from ._arguments import check_type
from .attributes import SSHAttribute, remote_address
from .client_authentication import Authenticator
from .commands import OUTPUT_BYTES, CompletedCommand, run_command
from .connecting import close_at_once
from .credentials import ClientCredentials
from .errors import handle_failure
from .guesses import Guess, Guesses
from .host_keys import HostKeyVerifier, PresentedHostKey
from .known_hosts import KnownHostVerifier
from .life import ProgressHandler, Transport
from .links import SessionState
from .services import SessionService
from .session import Session

__all__ = ["ClientSession"]

_guesses: Final = Guesses()


class ClientSession(Session):
    """The client's end of a session; made by :meth:`connect`."""

    __slots__ = (
        "_address",
        "_authenticating",
        "_authenticator",
        "_banner",
        "_credentials",
        "_guess",
        "_is_authenticated",
        "_presented",
        "_verify_host",
    )

    _role = Role.CLIENT

    def __init__(
        self,
        transport: Transport,
        *,
        verify_host: HostKeyVerifier | None,
        credentials: ClientCredentials | None = None,
        config: SessionConfig | None = None,
        forwarding: ForwardingPolicy | None = None,
        services: Mapping[type[SessionService], Any] | None = None,
        trace: TraceHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> None:
        check_type("credentials", credentials, ClientCredentials)
        check_type("config", config, SessionConfig)
        config = config if config is not None else SessionConfig()
        if config.is_secure and not callable(verify_host):
            raise TypeError(
                "verify_host is needed: known_hosts.for_host('name'), pin('SHA256:…'), another "
                "async callable, or InsecureAcceptAnyHostKey() if anybody may pose as the server"
            )
        if config.is_secure and isinstance(verify_host, KnownHostVerifier):
            preferred = verify_host.preferred(config.host_key_algorithms)
            config = config.replace(host_key_algorithms=preferred)
        super().__init__(
            transport,
            config,
            forwarding=forwarding,
            services=services,
            trace=trace,
            on_progress=on_progress,
        )
        self._verify_host = verify_host
        self._credentials = credentials
        self._authenticator: Authenticator | None = None
        self._is_authenticated = not config.is_secure
        self._presented: HostKeyPresented | None = None
        self._address: tuple[str, int] | None = None
        self._guess: Guess | None = None
        self._authenticating = ResourceGuard("authenticating with")
        self._banner = ""

    @classmethod
    def connect(
        cls,
        transport: Transport,
        *,
        verify_host: HostKeyVerifier | None,
        credentials: ClientCredentials | None = None,
        config: SessionConfig | None = None,
        forwarding: ForwardingPolicy | None = None,
        services: Mapping[type[SessionService], Any] | None = None,
        trace: TraceHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> Self:
        """Return a session to be entered with ``async with``, which connects it.

        The session owns the stream from then on and closes it on every path. Without
        ``credentials`` it stops after the key exchange; :meth:`authenticate` goes on.

        Entering raises:

        * :exc:`HostKeyError` when the host key was refused,
        * :exc:`NegotiationError` when there is an algorithm that the two sides do not share,
        * :exc:`AuthenticationError` when the server took none of the credentials,
        * :exc:`RemoteProtocolError`, :exc:`Disconnected` or :exc:`ConnectionLost` when the peer
          does not speak SSH, refuses to, or goes away,
        * whatever the connectable raises when it cannot connect.

        :param transport: a byte stream, or a connectable that gives one
        :param verify_host: decides whether the server is the right one; may be None only when
            the configuration is an :class:`InsecureSessionConfig`. Host certificates are asked for
            if it is a :class:`HostCertificateVerifier`, such as :class:`HostAuthorities`
        :param credentials: who we are
        :param config: algorithms, limits and timers
        :param forwarding: what the server may have us connect to or listen on; nothing if None
        :param services: classes of services, with a configuration or None for each
        :param trace: called with what happens, for developers
        :param on_progress: called with the stages of the set-up
        :raises TypeError: there is no ``verify_host``, or something is of a wrong type; the stream
            is still the caller's then
        """
        return cls(
            transport,
            verify_host=verify_host,
            credentials=credentials,
            config=config,
            forwarding=forwarding,
            services=services,
            trace=trace,
            on_progress=on_progress,
        )

    @property
    def host_key(self) -> Key:
        """The server's host key."""
        key = self._core.exchanger.host_key
        if key is None:
            raise LocalProtocolError("the server has not shown its host key")
        return key

    @property
    def is_authenticated(self) -> bool:
        """Whether the server has let us in."""
        return self._is_authenticated and self._end is None

    @property
    def banner(self) -> str:
        """The text that the server sent for its users before it let us in, safe to show."""
        return self._banner

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the stream, then those of :class:`SSHAttribute`."""
        own = {SSHAttribute.host_key: lambda: self.host_key}
        return {**super().extra_attributes, **own}

    # Setting up

    @property
    def _takes_certificates(self) -> bool:
        # A HostCertificateVerifier; asking for the whole protocol takes much longer.
        return getattr(self._verify_host, "takes_certificates", False) is True

    def _guesses_key_exchange(self, stream: AnyByteStream) -> bool:
        config = self._config
        if self._state is not SessionState.NEW:
            return False  # of a server that we come back to we do not know enough
        self._address = remote_address(stream)
        if not config.is_secure or config.guess_key_exchange is False:
            return False
        # Other streams tell the address of what they lead through, such as another SSH server.
        if self._address is None or not isinstance(stream, SocketStream):
            return False
        host_keys = config.host_key_algorithms
        if self._takes_certificates:
            host_keys = with_certificates(host_keys)
        self._guess = Guess(self._address, config.key_exchanges[0], host_keys[0])
        return self._guess in _guesses

    def _learn_guess(self) -> None:
        """Note whether the guess was right, or would have been."""
        if self._guess is not None:
            core = self._core
            version = core.transport.peer_version
            # Not all others agree with the standard on what makes a guess right.
            is_ours = version is not None and version.is_anyssh
            is_right = self._presented is not None and core.exchanger.guess_is_right
            _guesses.learn(self._guess, is_right=is_ours and is_right)

    async def _set_up(self) -> None:
        exchanger = self._core.exchanger
        if not self._config.is_secure:
            await self._wait_until(lambda: exchanger.completed_count > 0)
            return
        try:
            await self._wait_until(lambda: self._presented is not None)
        finally:
            self._learn_guess()
        await self._judge_host_key()
        await self._wait_until(lambda: exchanger.completed_count > 0)
        if self._credentials is not None:
            await self._authenticate(self._credentials)

    async def authenticate(self, credentials: ClientCredentials) -> None:
        """Prove who we are, with one credential after the other until the server is satisfied.

        :param credentials: who we are, and what proves it
        :raises AuthenticationError: the server took none of them; others may be tried
        :raises ~anyio.BusyResourceError: an authentication is under way
        :raises LocalProtocolError: the session is authenticated already
        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        check_type("credentials", credentials, ClientCredentials)
        await self._authenticate(credentials)

    async def _authenticate(self, credentials: ClientCredentials) -> None:
        self._progress(Progress.STARTING_AUTHENTICATION)
        self._trace(TraceId.SESSION_AUTHENTICATING, TraceLevel.INFO, f"as {credentials.username!r}")
        try:
            with self._authenticating:
                await self._until_end(self._begin_authenticating().run, credentials)
        finally:
            self._progress(Progress.COMPLETED_AUTHENTICATION)
        self._trace(TraceId.SESSION_AUTHENTICATED, TraceLevel.INFO, "authenticated")

    async def reconnect(self, stream: AnyByteStream) -> None:
        """Go on over another stream to the same server, after the session has lost its own.

        The session owns the stream from then on. When the call fails or is cancelled, the stream is
        closed and the session still waits for another one, unless it has ended. A session that was
        given a connectable does this by itself; this call then saves it the waiting.

        :param stream: to the same server; owned by the session from now on
        :raises ReconnectError: the server does not go on with the session, or is another one; its
            ``reason`` tells whether trying again can help
        :raises ConnectionLost: this stream was lost, too
        :raises SSHError: the handshake failed otherwise, or the session has ended
        :raises LocalProtocolError: the session has a stream, or is trying another one
        :raises TypeError: it is no stream, but a connectable for example
        """
        if not isinstance(stream, ObjectStream | ByteStream):
            raise TypeError(
                f"expected a byte stream, got {type(stream).__name__}; "
                "connect() of a connectable gives one"
            )
        try:
            await anyio.lowlevel.checkpoint()
            self._require_alive()
            if self._state is not SessionState.DISCONNECTED:
                raise LocalProtocolError(
                    f"only a disconnected session takes another stream; this one is "
                    f"{self._state.name.lower()}"
                )
            attempt = self._links.try_stream(stream)
        except BaseException:
            await close_at_once(stream)
            raise
        self._trace(TraceId.CLIENT_SESSION_RECONNECTING, TraceLevel.INFO, "reconnecting")
        await attempt.wait()

    async def query_public_key(self, username: str, key: Key) -> bool:
        """Ask whether the server would accept a key, without proving that we hold it.

        :param username: who would log in with it
        :param key: the key, or the certificate; its private half is not used
        :raises ~anyio.BusyResourceError: an authentication is under way
        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        with self._authenticating:
            return await self._until_end(self._begin_authenticating().query, username, key)

    def _waits_for_peer_to_close(self) -> bool:
        # With nothing open, nothing that we have said but the goodbye can be lost.
        return not self._connection.is_at_rest

    def _begin_authenticating(self) -> Authenticator:
        if self._authenticator is None:
            self._authenticator = Authenticator(
                self._core, self._config, self._advance, self._backend
            )
        return self._authenticator

    async def request_service(self, name: str = Service.CONNECTION) -> None:
        """Ask the server for a service (RFC 4253 section 10).

        :param name: what is asked for (RFC 4253 section 10)
        :raises Disconnected: the server does not have it
        :raises LocalProtocolError: another request is under way
        """
        await anyio.lowlevel.checkpoint()
        self._require_alive()
        self._core.request_service(name)
        self._granted_service = None
        self._advance()
        await self._wait_until(lambda: self._granted_service is not None)

    async def run_command(
        self,
        command: str,
        *,
        input: bytes = b"",
        check: bool = True,
        max_output: int = OUTPUT_BYTES,
    ) -> CompletedCommand:
        """Run a command at the server and wait for its end (RFC 4254 section 6.5).

        It gets a channel of its own, so any number may run side by side. Who wants to follow what
        a command writes, or to send it more than fits into memory, opens that channel himself. When
        cancelled, the channel is closed; it is for the server to end the command.

        :param command: what the server's shell is given; quote words with :func:`shlex.join`
        :param input: all of what the command reads from its standard input
        :param check: whether any end but exit status 0 is an error
        :param max_output: bytes that the command may write to both outputs together
        :raises CommandFailed: it did not end with exit status 0, or has written more
        :raises RequestDenied: the server runs no commands
        :raises ChannelOpenError: the server gives no channel for it
        :raises SSHError: the session has ended
        :raises TypeError: ``command`` is no text, or ``input`` no bytes
        """
        if not isinstance(command, str):
            kind = type(command).__name__
            raise TypeError(f"command must be of str, not {kind}; shlex.join() makes one of words")
        check_type("input", input, bytes)
        return await run_command(self, command, input, check=check, max_output=max_output)

    # Events of the core

    def _handle(self, event: Event) -> None:
        match event:
            case HostKeyPresented():
                self._presented = event
                self._changed.notify()
                # Our new keys and the first request of authentication then share a segment.
                self._links.current.hold()
            case (
                AuthenticationFailed()
                | KeyAccepted()
                | PasswordExpired()
                | ChallengeReceived()
                | Authenticated()
            ):
                self._is_authenticated |= isinstance(event, Authenticated)
                if self._authenticator is not None:
                    self._authenticator.reply_received(event)
                if self._is_authenticated:
                    self._authenticator = None  # it belongs to the first stream
            case BannerReceived(message):
                # Each text is made of lines, the last of which has lost its end.
                self._banner += f"{message}\n"

    async def _judge_host_key(self) -> None:
        event = self._presented
        if event is None:
            return
        presented = PresentedHostKey(event.key, self.peer_version, self._address, event.certificate)
        try:
            seconds = self._config.limits.handler_time
            verdict = await self._until_end(self._ask_verifier, presented, seconds=seconds)
        except BaseException as error:
            if not handle_failure(error, partial(self._verifier_failed, event)):
                raise
        else:
            if verdict is True:
                event.accept(self._clock())
            else:
                self._reject_host_key(event, None)
        self._require_alive()

    async def _ask_verifier(self, presented: PresentedHostKey) -> bool:
        if self._verify_host is None:
            return False
        return await self._verify_host(presented)

    def _verifier_failed(self, event: HostKeyPresented, error: Exception) -> None:
        self._require_alive()
        self._reject_host_key(event, error)

    def _reject_host_key(self, event: HostKeyPresented, error: Exception | None) -> None:
        if not isinstance(error, HostKeyError):
            key = event.key
            why = "" if error is None else f": verify_host failed with {error!r}"
            refusal = HostKeyError(
                f"the {key.algorithm} host key {key.fingerprint} was not accepted{why}",
                key.fingerprint,
                key.algorithm,
            )
            refusal.__cause__ = error
            error = refusal
        self._trace(TraceId.SERVER_AUTHENTICATION_FAILED, TraceLevel.WARNING, str(error), error)
        event.reject(error, anyio.current_time())
        self._advance()
