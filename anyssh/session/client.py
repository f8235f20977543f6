"""The client side of a session: verify the server's host key, then authenticate."""

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
    HostKeyPresented,
    KeyAccepted,
    PasswordExpired,
)
from ..trace import Progress, TraceHandler, TraceId, TraceLevel
from ._arguments import check_type
from .attributes import SSHAttribute, remote_address
from .client_authentication import AuthenticationReply, Authenticator
from .commands import OUTPUT_BYTES, CompletedCommand, run_command
from .connecting import close_at_once
from .credentials import ClientCredentials
from .errors import handle_failure
from .guesses import Guess, Guesses
from .host_keys import HostKeyVerifier, PresentedHostKey
from .known_hosts import KnownHostVerifier
from .life import ProgressHandler, StreamSource
from .links import SessionState
from .services import SessionService
from .session import Session

__all__ = ["ClientSession"]

_guesses: Final = Guesses()


class ClientSession(Session):
    """The client side of a session, created by :meth:`connect`."""

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
        transport: StreamSource,
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
                "async callable, or InsecureAcceptAnyHostKey() to accept any server"
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
        transport: StreamSource,
        *,
        verify_host: HostKeyVerifier | None,
        credentials: ClientCredentials | None = None,
        config: SessionConfig | None = None,
        forwarding: ForwardingPolicy | None = None,
        services: Mapping[type[SessionService], Any] | None = None,
        trace: TraceHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> Self:
        """Return a session; entering it with ``async with`` connects and authenticates it.

        The session owns the stream from then on, and closes it on every path. Without
        ``credentials`` entering stops after the key exchange; :meth:`authenticate` continues from
        there.

        Entering raises:

        * :exc:`HostKeyError` if the host key was refused,
        * :exc:`NegotiationError` if the two sides have no algorithm of some kind in common,
        * :exc:`AuthenticationError` if the server accepted none of the credentials,
        * :exc:`RemoteProtocolError`, :exc:`Disconnected` or :exc:`ConnectionLost` if the peer does
          not speak SSH, ends the session, or goes away,
        * whatever the connectable raises if it cannot connect.

        :param transport: a byte stream, or a connectable that returns one
        :param verify_host: decides whether to trust the server's host key; may be None only with an
            :class:`InsecureSessionConfig`. A :class:`HostCertificateVerifier`, such as
            :class:`HostAuthorities`, also makes the client ask for host certificates
        :param credentials: the user name and what proves it
        :param config: algorithms, limits and timers
        :param forwarding: what the server may have us connect to or listen on; nothing if None
        :param services: service classes to register, each with its configuration or None
        :param trace: called with trace events, for diagnosis
        :param on_progress: called with each stage of the connection set-up
        :raises TypeError: ``verify_host`` is missing, or an argument has the wrong type; the stream
            then still belongs to the caller
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
        """The server's host key.

        :raises LocalProtocolError: the server has not presented one yet
        """
        key = self._core.exchanger.host_key
        if key is None:
            raise LocalProtocolError("the server has not presented its host key yet")
        return key

    @property
    def is_authenticated(self) -> bool:
        """Whether the server has accepted our credentials and the session has not ended."""
        return self._is_authenticated and self._end is None

    @property
    def banner(self) -> str:
        """The banner that the server sent before authentication succeeded, safe to display."""
        return self._banner

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the stream, and those of :class:`SSHAttribute`."""
        own = {SSHAttribute.host_key: lambda: self.host_key}
        return {**super().extra_attributes, **own}

    # Setting up

    @property
    def _takes_certificates(self) -> bool:
        # True of a HostCertificateVerifier; isinstance() with that protocol is much slower.
        return getattr(self._verify_host, "takes_certificates", False) is True

    def _guesses_key_exchange(self, stream: AnyByteStream) -> bool:
        config = self._config
        if self._state is not SessionState.NEW:
            return False  # too little is known about a server that we reconnect to
        self._address = remote_address(stream)
        if not config.is_secure or config.guess_key_exchange is False:
            return False
        # Other streams report the address of whatever carries them, such as another SSH server.
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
            # Not every implementation agrees with RFC 4253 on when a guess is right.
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
        """Authenticate: try one credential after another until the server is satisfied (RFC 4252).

        :param credentials: the user name and what proves it
        :raises AuthenticationError: the server accepted none of them; the call may be repeated with
            others
        :raises ~anyio.BusyResourceError: an authentication is already in progress
        :raises LocalProtocolError: the session is already authenticated
        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        if credentials is None:
            raise TypeError("credentials must be of type ClientCredentials, not NoneType")
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
        """Resume a disconnected session over another stream to the same server.

        The session owns the stream from then on. If the call fails or is cancelled, the stream is
        closed, and the session keeps waiting for another one unless it has ended. A session with a
        connectable reconnects by itself; this call then merely cuts its wait short.

        :param stream: a new byte stream to the same server
        :raises ReconnectError: the server does not resume the session, or is a different server;
            ``reason`` says whether trying again can help
        :raises ConnectionLost: this stream was lost as well
        :raises SSHError: the handshake failed for another reason, or the session has ended
        :raises LocalProtocolError: the session is connected, or is already reconnecting
        :raises TypeError: ``stream`` is not a byte stream, but for example a connectable
        """
        if not isinstance(stream, ObjectStream | ByteStream):
            raise TypeError(
                f"expected a byte stream, got {type(stream).__name__}; "
                "the connect() of a connectable returns one"
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
        """Ask whether the server would accept a public key, without proving possession of it.

        This is the query of RFC 4252 section 7.

        :param username: the user to log in as
        :param key: the key or certificate; its private half is not used
        :raises ~anyio.BusyResourceError: an authentication is already in progress
        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        with self._authenticating:
            return await self._until_end(self._begin_authenticating().query, username, key)

    def _waits_for_peer_to_close(self) -> bool:
        # With nothing open, only the DISCONNECT itself can be lost.
        return not self._connection.is_at_rest

    def _begin_authenticating(self) -> Authenticator:
        if self._authenticator is None:
            self._authenticator = Authenticator(
                self._core, self._config, self._advance, self._backend
            )
        return self._authenticator

    async def request_service(self, name: str = Service.CONNECTION) -> None:
        """Request a service from the server (RFC 4253 section 10).

        :param name: the service name
        :raises Disconnected: the server does not offer the service
        :raises LocalProtocolError: another service request is in progress
        :raises SSHError: the session has ended
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
        """Run a command on the server, and wait until it ends (RFC 4254 section 6.5).

        Each command has a channel of its own, so any number of them may run concurrently. To stream
        a command's input or output, open such a channel yourself. If the call is cancelled, the
        channel is closed; whether the command then ends is up to the server.

        :param command: the command line for the server's shell; quote words with :func:`shlex.join`
        :param input: everything that the command reads from its standard input
        :param check: whether to raise unless the exit status is 0
        :param max_output: the most bytes that the command may write to standard output and standard
            error together
        :raises CommandFailed: the exit status was not 0, or the command wrote more than
            ``max_output``
        :raises RequestDenied: the server does not run commands
        :raises ChannelOpenError: the server refused the channel
        :raises SSHError: the session has ended
        :raises TypeError: ``command`` is not a str, or ``input`` is not bytes
        """
        if not isinstance(command, str):
            kind = type(command).__name__
            raise TypeError(f"command must be a str, not {kind}; shlex.join() makes one from words")
        check_type("input", input, bytes)
        return await run_command(self, command, input, check=check, max_output=max_output)

    # Events of the core

    def _host_key_presented(self, event: HostKeyPresented) -> None:
        self._presented = event
        self._changed.notify()
        # Lets our NEWKEYS and the SERVICE_REQUEST share a segment.
        self._links.current.hold()

    def _authentication_replied(self, event: AuthenticationReply) -> None:
        if self._authenticator is not None:
            self._authenticator.reply_received(event)

    def _authenticated(self, event: Authenticated) -> None:
        self._is_authenticated = True
        self._authentication_replied(event)
        self._authenticator = None  # it belongs to the first stream

    def _banner_received(self, event: BannerReceived) -> None:
        # Banners consist of lines, and the last line ending has been stripped.
        self._banner += f"{event.message}\n"

    # The host key

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


ClientSession._handlers = {
    **Session._handlers,
    HostKeyPresented: ClientSession._host_key_presented,
    AuthenticationFailed: ClientSession._authentication_replied,
    KeyAccepted: ClientSession._authentication_replied,
    PasswordExpired: ClientSession._authentication_replied,
    ChallengeReceived: ClientSession._authentication_replied,
    Authenticated: ClientSession._authenticated,
    BannerReceived: ClientSession._banner_received,
}
