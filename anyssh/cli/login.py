"""Logging in as ``ssh`` does: identities, agent, known hosts, and prompts for the user.

A :class:`Login` creates as many sessions with one server as its command needs. The user's answers,
passphrases or a password, are kept for the next session, so that a tunnel is restored while nobody
is there.
"""

from __future__ import annotations

import logging
import math
import os
import stat
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Self

import anyio
from anyio.abc import ByteStream, ByteStreamConnectable
from cyclopts import Parameter

import anyssh
from anyssh import to_thread
from anyssh.integrations.logging import LogTrace

from .failures import Failure, reason_of, say
from .places import Destination, expanded
from .terminal import Terminal

__all__ = ["LOGIN", "CannotConnect", "Login", "LoginOptions"]

logger: Final = logging.getLogger("anyssh.cli")

DEFAULT_IDENTITIES: Final = ("id_ed25519", "id_ecdsa", "id_rsa")
CONNECT_TIME: Final = 15.0
ANSWER_TIME: Final = 600.0
"""Seconds that the user may take for an answer, and for all of them together."""
PATIENCE: Final = 3600.0
"""Seconds to keep trying to reconnect a session; the server may give it up earlier."""
TRIES: Final = 3
MOST_PROOFS: Final = 5
"""Methods that a server may require one after another."""
PUBLIC_KEY: Final = anyssh.AuthenticationMethod.PUBLIC_KEY
PASSWORD: Final = anyssh.AuthenticationMethod.PASSWORD
KEYBOARD_INTERACTIVE: Final = anyssh.AuthenticationMethod.KEYBOARD_INTERACTIVE


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class LoginOptions:
    """How to log in to a server."""

    port: Annotated[int | None, Parameter(name=("--port", "-p"))] = None
    """The server's port; 22 unless given here or with the destination."""
    identity: Annotated[
        tuple[Path, ...], Parameter(name=("--identity", "-i"), negative="", consume_multiple=False)
    ] = ()
    """A file with a private key; may be given several times. By default, ~/.ssh/id_ed25519,
    id_ecdsa and id_rsa are tried.
    """
    agent: bool = True
    """Use the keys of the agent at $SSH_AUTH_SOCK."""
    known_hosts: Path | None = None
    """The known hosts file, in place of ~/.ssh/known_hosts and, except on Windows,
    /etc/ssh/ssh_known_hosts."""
    accept_new: Annotated[bool, Parameter(negative="")] = False
    """Accept the key of an unknown host, and add it to the known hosts."""
    keep_alive: float = 5.0
    """Seconds of silence before the server is sent a keep-alive request; 0 for never. After three
    unanswered requests the connection counts as lost.
    """


LOGIN: Final = LoginOptions()


class CannotConnect(Failure):
    """The server cannot be reached at present."""


class Address(ByteStreamConnectable):
    """A connectable for a server, with plain error messages."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    async def connect(self) -> ByteStream:
        """Connect.

        :raises CannotConnect: it failed
        """
        where = f"{self._host}:{self._port}"
        try:
            with anyio.fail_after(CONNECT_TIME):
                return await anyio.connect_tcp(self._host, self._port)
        except OSError as error:
            remedy = "check the name and the port, and that a server runs there"
            raise CannotConnect(
                f"cannot connect to {where}: {reason_of(error)}; {remedy}"
            ) from error


@dataclass(frozen=True, slots=True)
class Identity:
    """A key to try.

    :ivar key: a key pair, a public key, or a signer
    :ivar path: the file with the private half, if it is yet to be decrypted
    """

    key: anyssh.Key | anyssh.Signer
    path: Path | None = None
    certificate: anyssh.Certificate | None = None

    @property
    def public(self) -> anyssh.Key:
        """The public key."""
        return self.key if isinstance(self.key, anyssh.Key) else self.key.key

    @property
    def signs(self) -> bool:
        """Whether the key can sign without asking for a passphrase."""
        return not isinstance(self.key, anyssh.Key) or self.key.has_private

    def joined(self, other: Identity) -> Identity:
        """Return the same key with what else was found of it."""
        key = other.key if other.signs and not self.signs else self.key
        return Identity(key, self.path or other.path, self.certificate or other.certificate)


class Login:
    """Logs in to one server. Use it with ``async with``.

    :raises Failure: an option is invalid
    """

    def __init__(self, destination: Destination, options: LoginOptions) -> None:
        if not 0 <= options.keep_alive < math.inf:
            raise Failure(f"--keep-alive is a number of seconds, not {options.keep_alive!r}")
        self.destination = destination
        self._options = options
        self._terminal = Terminal()
        self._identities: list[Identity] = []
        self._private: dict[anyssh.Key, anyssh.Key] = {}
        self._password: str | None = None
        self._hint = ""
        self._known_hosts: anyssh.KnownHosts
        self._refused_unasked = False
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._prepare()
        except BaseException:
            await self._resources.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._resources.aclose()

    async def _prepare(self) -> None:
        path = self._options.known_hosts
        paths = () if path is None else (expanded(path),)
        try:
            self._known_hosts = await anyssh.KnownHosts.load(*paths)
        except (OSError, anyssh.KeyFormatError) as error:
            raise Failure(f"cannot read the known hosts: {error}") from error
        given = [await self._read_given(path) for path in self._options.identity]
        held = await self._ask_agent() if self._options.agent else []
        usual = [] if given else await self._read_usual()
        identities: dict[anyssh.Key, Identity] = {}
        for identity in [*given, *held, *usual]:
            known = identities.setdefault(identity.public, identity)
            identities[identity.public] = known.joined(identity)
        self._identities = list(identities.values())

    # Identities

    async def _ask_agent(self) -> list[Identity]:
        try:
            agent = await self._resources.enter_async_context(anyssh.Agent())
            return [Identity(found) for found in await agent.identities()]
        except anyssh.AgentError as error:
            logger.debug("no agent: %s", error)
            return []

    async def _read_given(self, path: Path) -> Identity:
        path = expanded(path)
        try:
            return await self._read_identity(path)
        except OSError as error:
            raise Failure(f"cannot read the identity {path}: {reason_of(error)}") from error
        except anyssh.KeyFormatError as error:
            raise Failure(f"the identity {path} cannot be used: {error}") from error

    async def _read_usual(self) -> list[Identity]:
        found = []
        for name in DEFAULT_IDENTITIES:
            path = expanded("~/.ssh", name)
            try:
                found.append(await self._read_identity(path))
            except FileNotFoundError:
                continue
            except (OSError, anyssh.KeyFormatError, Failure) as error:
                say(f"the identity {path} is ignored: {error}")
        return found

    async def _read_identity(self, path: Path) -> Identity:
        mode = (await anyio.Path(path).stat()).st_mode
        certificate = await _certificate_beside(path)
        try:
            key = await to_thread.import_key_file(path)
        except anyssh.PassphraseRequired:
            _require_private(path, mode)
            return Identity(await self._public_half(path), path, certificate)
        if key.has_private:
            _require_private(path, mode)
        return Identity(key, None, certificate)

    async def _public_half(self, path: Path) -> anyssh.Key:
        """Return the public key of an encrypted key, which is only decrypted if necessary."""
        try:
            return await to_thread.import_key_file(f"{path}.pub")
        except (OSError, anyssh.KeyFormatError):
            key = await self._decrypt(path)
            if key is None:
                raise Failure(
                    f"{path} is encrypted, and there is no {path}.pub to identify it"
                ) from None
            self._private[key.public()] = key
            return key.public()

    async def _decrypt(self, path: Path) -> anyssh.Key | None:
        question = f"Enter the passphrase for {path}: "
        for _ in range(TRIES):
            passphrase = await self._terminal.ask(question, is_secret=True)
            if not passphrase:
                return None
            try:
                return await to_thread.import_key_file(path, passphrase)
            except anyssh.WrongPassphrase:
                question = f"Wrong passphrase. Enter the passphrase for {path}: "
        return None

    async def _find_private(self, public: anyssh.Key) -> anyssh.Key | None:
        """Find the private half of a key that the server would accept."""
        if public not in self._private:
            paths = [each.path for each in self._identities if each.public == public]
            key = await self._decrypt(paths[0]) if paths and paths[0] is not None else None
            if key is None:
                return None
            self._private[public] = key
        return self._private[public]

    def _with_keys(self) -> anyssh.ClientCredentials:
        keys: list[anyssh.Key | anyssh.Signer | anyssh.CertifiedKey] = []
        for identity in self._identities:
            key = self._private.get(identity.public, identity.key)
            if identity.certificate is not None:
                keys.append(anyssh.CertifiedKey(key, identity.certificate))
            keys.append(key)
        return anyssh.ClientCredentials(
            self.destination.user, keys=keys, key_provider=self._find_private
        )

    # Prompts

    async def _ask_password(self) -> str | None:
        if self._password is None:
            where = f"{self.destination.user}@{self.destination.host}"
            question = f"{self._hint}Enter the password of {where}: "
            self._password = await self._terminal.ask(question, is_secret=True)
        return self._password

    async def _respond(self, challenge: anyssh.Challenge) -> Sequence[str] | None:
        answers = []
        hint = self._hint.strip()
        introduction = "\n".join(filter(None, (challenge.name, challenge.instruction)))
        for prompt in challenge.prompts:
            question = f"{introduction}\n{prompt.text}" if introduction else prompt.text
            question = "\n".join(filter(None, (hint, self._as_the_servers(question))))
            introduction = hint = ""
            answer = await self._terminal.ask(question, is_secret=not prompt.echo)
            if answer is None:
                return None
            answers.append(answer)
        if introduction:
            say(introduction)
        return answers

    def _as_the_servers(self, text: str) -> str:
        """Mark each line as the server's, lest it be mistaken for a prompt of ours."""
        mark = f"({self.destination.user}@{self.destination.host})"
        return "\n".join(f"{mark} {line}" for line in text.split("\n"))

    async def _is_new_host_welcome(self, presented: anyssh.PresentedHostKey) -> bool:
        if self._options.accept_new:
            return True
        key = presented.key
        question = (
            f"The host {self.destination.host} is not known. Its {key.algorithm} key is\n"
            f"{key.fingerprint}\nIs that right (yes, no, or the fingerprint you expect)? "
        )
        while True:
            answer = await self._terminal.ask(question)
            if answer is None:
                self._refused_unasked = True
                return False
            if answer.strip() in ("yes", key.fingerprint):
                return True
            if answer.strip().lower() == "no" or answer.strip().startswith("SHA256:"):
                return False
            question = "Please say yes or no, or give the fingerprint: "

    # Sessions

    def _config(self) -> anyssh.SessionConfig:
        limits = anyssh.Limits(
            handler_time=ANSWER_TIME, authentication_time=ANSWER_TIME, disconnected_time=PATIENCE
        )
        return anyssh.SessionConfig.with_reconnect(
            keep_alive_interval=self._options.keep_alive, limits=limits
        )

    @asynccontextmanager
    async def session(
        self,
        on_trace: Callable[[anyssh.TraceEvent], None] | None = None,
        forwarding: anyssh.ForwardingPolicy | None = None,
    ) -> AsyncGenerator[anyssh.ClientSession]:
        """Connect and log in; the session reconnects by itself if the server supports it.

        :param on_trace: called with each trace event, in addition to the log
        :param forwarding: what the server may connect to
        :raises Failure: the server cannot be reached, or its key is unknown and nobody is there to
            ask
        :raises SSHError: as for :meth:`anyssh.ClientSession.connect`
        """
        host, port = self.destination.host, self.destination.port
        try:
            verifier = self._known_hosts.for_host(host, port, accept_new=self._is_new_host_welcome)
        except ValueError as error:
            raise Failure(str(error)) from error
        log = LogTrace()

        def trace(event: anyssh.TraceEvent) -> None:
            log(event)
            if on_trace is not None:
                on_trace(event)

        connecting = anyssh.ClientSession.connect(
            Address(host, port),
            verify_host=verifier,
            config=self._config(),
            forwarding=forwarding,
            trace=trace,
        )
        async with AsyncExitStack() as stack:
            try:
                session = await stack.enter_async_context(connecting)
            except anyssh.HostKeyError as error:
                if not self._refused_unasked:
                    raise
                raise Failure(f"{error}, or use --accept-new") from error
            await self._authenticate(session)
            yield session

    async def _authenticate(self, session: anyssh.ClientSession) -> None:
        """Authenticate by one method after another until the server wants no more of them.

        :raises AuthenticationError: nothing succeeded
        """
        refusal: anyssh.AuthenticationError | None = None
        for _ in range(MOST_PROOFS):
            before, refusal = refusal, await self._prove(session, refusal)
            if refusal is None or refusal is before or not refusal.methods_accepted:
                break
        if refusal is not None:
            raise refusal
        if session.banner:
            say(session.banner)
        logger.debug("logged in at %s, %s", self.destination, session.peer_version)

    async def _prove(
        self, session: anyssh.ClientSession, refusal: anyssh.AuthenticationError | None
    ) -> anyssh.AuthenticationError | None:
        """Try the keys, then prompt the user, as far as the server accepts the methods.

        :param refusal: the server's answer to the proof before
        :return: its answer to this one; None if it let us in
        """
        user = self.destination.user
        if refusal is None or PUBLIC_KEY in refusal.methods_left:
            refusal = await _refusal(session, self._with_keys())
        if refusal is not None and not refusal.methods_left:
            # Nothing was refused yet, so the server has not said what it accepts.
            refusal = await _refusal(session, anyssh.ClientCredentials(user))
        asking = (
            (KEYBOARD_INTERACTIVE, anyssh.ClientCredentials(user, respond=self._respond)),
            (PASSWORD, anyssh.ClientCredentials(user, password_provider=self._ask_password)),
        )
        for method, credentials in asking:
            self._hint = ""
            for _ in range(TRIES):
                if refusal is None or method not in refusal.methods_left:
                    break
                again = await _refusal(session, credentials)
                if again is None or again.methods_accepted:
                    return again
                if not again.methods_left:
                    # There was no answer, or the server does not look at an expired password.
                    refusal = refusal if self._password is None else again
                    break
                refusal, self._password, self._hint = again, None, "Not accepted. "
        return refusal


async def _refusal(
    session: anyssh.ClientSession, credentials: anyssh.ClientCredentials
) -> anyssh.AuthenticationError | None:
    """Try to log in; return the error if that fails, None if it succeeds."""
    try:
        await session.authenticate(credentials)
    except anyssh.AuthenticationError as error:
        return error
    return None


async def _certificate_beside(path: Path) -> anyssh.Certificate | None:
    try:
        found = await to_thread.import_certificate_file(f"{path}-cert.pub")
    except OSError:
        return None
    except anyssh.KeyFormatError as error:
        say(f"the certificate {path}-cert.pub is ignored: {error}")
        return None
    return found if found.type is anyssh.CertificateType.USER else None


def _require_private(path: Path, mode: int) -> None:
    """Refuse a private key that others can read."""
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise Failure(f"others may read {path}, so it is not used; run: chmod 600 {path}")
