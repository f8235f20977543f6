"""Trying a client's credentials one after another (RFC 4252 section 5).

Each credential that the server may accept becomes a step. After a refusal, the methods that the
server still lists decide which of the remaining steps are worth taking. Some servers require
several methods, in an order of their own: after a partial success they list what they want next,
and steps that were skipped before get their turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from anyio.abc import AsyncBackend

from ..config import SessionConfig
from ..constants import AuthenticationMethod
from ..errors import AuthenticationError, SigningRefused
from ..keys import Identity, Key, signature_algorithm, with_certificates
from ..messages import HostBasedFields
from ..protocol import Core
from ..protocol.events import (
    Authenticated,
    AuthenticationFailed,
    ChallengeReceived,
    KeyAccepted,
    PasswordExpired,
)
from ._waiting import Notice
from .credentials import CertifiedKey, ClientCredentials, HostBasedCredentials, KeyPair
from .signing import identity_of, public_key_of, signed, signer_of

__all__ = ["Authenticator"]

AuthenticationReply = (
    AuthenticationFailed | KeyAccepted | PasswordExpired | ChallengeReceived | Authenticated
)
Step = tuple[str, Callable[[], Awaitable[AuthenticationReply | None]]]


@dataclass(slots=True)
class _Account:
    """The outcome of the steps, for the error if none succeeds."""

    accepted: dict[str, None] = field(default_factory=dict)
    refused: dict[str, None] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def note(self, method: str, reply: AuthenticationReply | None) -> None:
        """Record the last reply to a step."""
        if isinstance(reply, AuthenticationFailed) and reply.partial_success:
            self.accepted[method] = None
        elif isinstance(reply, AuthenticationFailed | PasswordExpired):
            self.refused[method] = None
        if isinstance(reply, PasswordExpired):
            self.remarks.append(f"it wants a new password first: {reply.prompt!r}")

    def error(self, username: str, methods_left: Sequence[str]) -> AuthenticationError:
        """Return the error that sums everything up."""
        accepted, refused = ", ".join(self.accepted), ", ".join(self.refused)
        parts = [
            f"the server did not authenticate {username!r}: "
            + (f"it accepted {accepted} and wants more, " if accepted else "")
            + (f"it refused {refused}, and nothing else" if refused else "nothing")
            + " could be tried",
            *([f"the server accepts: {', '.join(methods_left)}"] if methods_left else []),
            *self.remarks,
        ]
        return AuthenticationError("; ".join(parts), methods_left, tuple(self.accepted))


class Authenticator:
    """Makes the authentication attempts of one session, one at a time.

    :param flush: sends what the core has queued
    :param backend: the AnyIO backend of the running event loop
    """

    def __init__(
        self,
        core: Core,
        config: SessionConfig,
        flush: Callable[[], None],
        backend: type[AsyncBackend],
    ) -> None:
        self._core = core
        self._config = config
        self._flush = flush
        self._backend = backend
        self._reply: AuthenticationReply | None = None
        self._notice = Notice()
        self._is_owed_reply = False
        self._methods_left: tuple[str, ...] | None = None

    def reply_received(self, reply: AuthenticationReply) -> None:
        """Process the server's reply to the present request."""
        self._reply = reply
        self._notice.notify()

    async def run(self, credentials: ClientCredentials) -> None:
        """Take steps until one succeeds.

        :raises AuthenticationError: none did
        """
        await self._settle()
        self._methods_left = None
        account = _Account()
        steps = self._steps(credentials, await self._keys(credentials))
        unwanted: list[Step] = []
        while steps:
            method, step = steps.pop(0)
            if not self._is_wanted(method):
                unwanted.append((method, step))
                continue
            try:
                reply = await step()
            except SigningRefused as refusal:
                account.remarks.append(str(refusal))
                continue
            if isinstance(reply, Authenticated):
                return
            account.note(method, reply)
            if isinstance(reply, AuthenticationFailed):
                self._methods_left = reply.methods_left
                if reply.partial_success:
                    # Methods that were not listed before may be now.
                    steps, unwanted = unwanted + steps, []
                elif not self._is_wanted(method):
                    unwanted.append((method, step))
        raise account.error(credentials.username, self._methods_left or ())

    def _is_wanted(self, method: str) -> bool:
        """Tell whether the server accepts a method now, as far as it has said."""
        return self._methods_left is None or method in self._methods_left

    async def query(self, username: str, key: Key) -> bool:
        """Ask whether the server would accept a key."""
        await self._settle()
        return isinstance(await self._query(username, key), KeyAccepted)

    # Steps

    async def _keys(self, credentials: ClientCredentials) -> Sequence[KeyPair | CertifiedKey]:
        if not callable(credentials.keys):
            return credentials.keys
        if AuthenticationMethod.PUBLIC_KEY not in self._config.authentication_methods:
            return ()
        return await credentials.keys()

    def _steps(
        self, credentials: ClientCredentials, keys: Sequence[KeyPair | CertifiedKey]
    ) -> list[Step]:
        enabled = self._config.authentication_methods
        user = credentials.username
        steps: list[Step] = [
            (AuthenticationMethod.PUBLIC_KEY, partial(self._try_key, credentials, key))
            for key in keys
        ]
        if credentials.host_based is not None:
            host = credentials.host_based
            steps.append(
                (AuthenticationMethod.HOST_BASED, lambda: self._try_host_based(user, host))
            )
        if credentials.password is not None or credentials.password_provider is not None:
            steps.append((AuthenticationMethod.PASSWORD, lambda: self._try_password(credentials)))
        if credentials.respond is not None:
            steps.append(
                (
                    AuthenticationMethod.KEYBOARD_INTERACTIVE,
                    lambda: self._try_interactive(credentials),
                )
            )
        steps = [step for step in steps if step[0] in enabled]
        if not steps:
            steps = [(AuthenticationMethod.NONE, lambda: self._try_none(user))]
        return steps

    async def _try_none(self, username: str) -> AuthenticationReply:
        self._core.client_authentication.request_none(username)
        return await self._next_reply()

    async def _try_password(self, credentials: ClientCredentials) -> AuthenticationReply | None:
        password = credentials.password
        if credentials.password_provider is not None:
            password = await credentials.password_provider()
        if not password:
            return None
        self._core.client_authentication.request_password(credentials.username, password)
        return await self._next_reply()

    async def _try_key(
        self, credentials: ClientCredentials, key: KeyPair | CertifiedKey
    ) -> AuthenticationReply | None:
        user = credentials.username
        signer = signer_of(key)
        if isinstance(signer, Key) and signer.has_private:
            return await self._prove(user, key)
        # Signing may involve a user or a device, so ask first whether it is worthwhile.
        reply = await self._query(user, identity_of(key))
        if not isinstance(reply, KeyAccepted):
            return reply
        if isinstance(signer, Key):
            provider = credentials.key_provider
            found = None if provider is None else await provider(signer)
            if found is None:
                raise SigningRefused(f"the private half of {signer.fingerprint} was not found")
            key = CertifiedKey(found, key.certificate) if isinstance(key, CertifiedKey) else found
        return await self._prove(user, key)

    async def _query(self, username: str, identity: Identity) -> AuthenticationReply | None:
        algorithm = self._algorithm_for(identity)
        if algorithm is None:
            return None
        self._core.client_authentication.query_key(username, identity, algorithm)
        return await self._next_reply()

    async def _prove(
        self, username: str, key: KeyPair | CertifiedKey
    ) -> AuthenticationReply | None:
        identity = identity_of(key)
        algorithm = self._algorithm_for(identity)
        if algorithm is None:
            return None
        authentication = self._core.client_authentication
        data = authentication.public_key_data(username, identity, algorithm)
        signature = await signed(signer_of(key), data, signature_algorithm(algorithm))
        authentication.request_public_key(username, identity, algorithm, signature)
        return await self._next_reply()

    async def _try_host_based(
        self, username: str, host: HostBasedCredentials
    ) -> AuthenticationReply | None:
        host_key = public_key_of(host.host_key)
        algorithm = self._algorithm_for(host_key)
        if algorithm is None:
            return None
        fields = HostBasedFields(
            algorithm, host_key.public_blob, host.client_host_name, host.client_user_name, b""
        )
        authentication = self._core.client_authentication
        data = authentication.host_based_data(username, fields)
        signature = await signed(host.host_key, data, algorithm)
        authentication.request_host_based(username, fields, signature)
        return await self._next_reply()

    async def _try_interactive(self, credentials: ClientCredentials) -> AuthenticationReply | None:
        respond = credentials.respond
        if respond is None:
            return None
        self._core.client_authentication.request_interactive(credentials.username)
        reply = await self._next_reply()
        while isinstance(reply, ChallengeReceived):
            responses = await respond(reply.challenge)
            if responses is None:
                return None
            self._core.client_authentication.respond(tuple(responses))
            reply = await self._next_reply()
        return reply

    def _algorithm_for(self, identity: Identity) -> str | None:
        """Return the best algorithm that both sides support for this key or certificate.

        A key with a single algorithm is worth trying even if the server does not announce that
        algorithm: some servers announce less than they accept.
        """
        theirs = self._core.client_authentication.signature_algorithms
        known = identity.signature_algorithms
        ours = [
            name for name in with_certificates(self._config.host_key_algorithms) if name in known
        ]
        if theirs is None or len(known) == 1:
            return next(iter(ours), None)
        # Servers announce how they verify, which is the same for a key and its certificate.
        announced = (name for name in ours if name in theirs or signature_algorithm(name) in theirs)
        return next(announced, None)

    # Replies

    async def _next_reply(self) -> AuthenticationReply:
        self._flush()
        self._is_owed_reply = True
        while self._reply is None:
            await self._notice.wait(self._backend)
        self._is_owed_reply = False
        reply, self._reply = self._reply, None
        return reply

    async def _settle(self) -> None:
        """Wait for the reply to a request whose caller was cancelled, and drop it."""
        while self._is_owed_reply and self._reply is None:
            await self._notice.wait(self._backend)
        self._is_owed_reply = False
        self._reply = None
