"""``anyssh serve``: a server for one's own machine, which permits only what its options allow."""

from __future__ import annotations

import logging
import math
import os
import signal
import stat
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute
from anyio.streams.stapled import MultiListener

import anyssh
from anyssh import TcpEndpoint, to_thread
from anyssh.integrations.logging import LogTrace

from .authorized import AuthorizedKeys
from .commands import Commands
from .failures import Failure, reason_of
from .logs import log_fields
from .places import expanded
from .running import Signals

__all__ = ["ServeOptions", "default_host_key", "serve"]

logger: Final = logging.getLogger("anyssh.cli")

KEEP_ALIVE: Final = 30.0
FAILURES: Final = (
    anyssh.TraceId.PORT_FORWARD_CHANNEL_OPEN_FAILED,
    anyssh.TraceId.PORT_FORWARD_CONNECTION_FAILED,
    anyssh.TraceId.PORT_FORWARD_LISTEN_FAILED,
)
BY_APPLICATION: Final = anyssh.DisconnectReason.BY_APPLICATION


def default_host_key() -> Path:
    """Return the default path of the host key."""
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return expanded(folder, "anyssh", "host_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The options of a server.

    :ivar users: the names that may log in
    :ivar patience: seconds that a session waits for a client that has lost the network
    """

    listen: Sequence[TcpEndpoint]
    host_keys: Sequence[Path]
    authorized_keys: Path
    users: Sequence[str]
    forwarding: anyssh.ForwardingPolicy
    commands: Commands
    patience: float


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated client; equal for all sessions with the same key."""

    user: str
    fingerprint: str


async def serve(options: ServeOptions, signals: Signals) -> int:
    """Serve until told to end."""
    authorized = AuthorizedKeys(options.authorized_keys)
    known = await authorized.read()
    host_keys = [await _host_key(path) for path in options.host_keys]
    server = _server(options, authorized, host_keys)
    async with AsyncExitStack() as stack:
        listeners = [
            await stack.enter_async_context(await _listen(where)) for where in options.listen
        ]
        for listener in listeners:
            _tell_addresses(listener, host_keys)
        logger.info(
            "%s may log in with %s of %s",
            " or ".join(options.users), "1 key" if len(known) == 1 else f"{len(known)} keys",
            options.authorized_keys,
        )  # fmt: skip
        _tell_what_is_allowed(options)
        async with anyio.create_task_group() as tasks:
            signals.handle = partial(_shut_down, server, tasks)
            async with anyio.create_task_group() as serving:
                for listener in listeners:
                    serving.start_soon(server.serve, listener, partial(_handle, options.commands))
            tasks.cancel_scope.cancel()
    logger.info("the server has ended", extra=log_fields("ended"))
    return 0


async def _shut_down(
    server: anyssh.Server, tasks: anyio.abc.TaskGroup, number: signal.Signals
) -> bool:
    if number not in (signal.SIGINT, signal.SIGTERM):
        return False
    logger.info("told by %s to end", number.name, extra=log_fields("ending", signal=number.name))
    tasks.start_soon(partial(server.shutdown, grace=0))
    return True


def _server(
    options: ServeOptions, authorized: AuthorizedKeys, host_keys: Sequence[anyssh.Key]
) -> anyssh.Server:
    async def authenticate(attempt: anyssh.AuthAttempt) -> Principal | None:
        match attempt:
            case anyssh.PublicKeyAttempt(username=user, public_key=key):
                if user in options.users and await authorized.holds(key):
                    return Principal(user, key.fingerprint)
        return None

    async def may_use_key(user: str, key: anyssh.Key) -> bool:
        return user in options.users and await authorized.holds(key)

    limits = anyssh.Limits(disconnected_time=options.patience)
    return anyssh.Server(
        host_keys=host_keys,
        authenticate=authenticate,
        may_use_key=may_use_key,
        config=anyssh.SessionConfig.with_reconnect(
            authentication_methods=[anyssh.AuthenticationMethod.PUBLIC_KEY],
            keep_alive_interval=KEEP_ALIVE,
            limits=limits,
        ),
        forwarding=options.forwarding,
        trace=_tell_trace,
    )


_log_trace: Final = LogTrace()


def _tell_trace(event: anyssh.TraceEvent) -> None:
    """Log what clients may not or cannot reach, and everything if verbose."""
    _log_trace(event)
    if event.id in FAILURES:
        extra = log_fields("forward-failed", reason=event.message)
        logger.info("a forward failed: %s", event.message, extra=extra)


async def _handle(commands: Commands, session: anyssh.ServerSession) -> None:
    guest, address = session.principal, session.extra(SocketAttribute.remote_address, None)
    place = TcpEndpoint(*address[:2]) if isinstance(address, tuple) else "somewhere"
    facts = {"user": session.username, "address": str(place), "session": session.id[:12]}
    if isinstance(guest, Principal):
        facts["key"] = guest.fingerprint
    logger.info(
        "%s has logged in from %s with %s, %s",
        session.username, place, facts.get("key"), session.peer_version,
        extra=log_fields("login", peer=str(session.peer_version), **facts),
    )  # fmt: skip
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_tell_losses, session, facts)
        await commands.serve(session)
        tasks.cancel_scope.cancel()
    closed = await session.wait_closed()
    reason = "" if closed.reason == BY_APPLICATION else f": {closed.error}"
    extra = log_fields("logout", reason=str(closed.error), **facts)
    logger.info("%s from %s has disconnected%s", session.username, place, reason, extra=extra)


async def _tell_losses(session: anyssh.ServerSession, facts: dict[str, str | None]) -> None:
    async for event in session.events():
        match event:
            case anyssh.events.Disconnected(error):
                extra = log_fields("lost", reason=str(error), **facts)
                logger.info("%s has lost the network: %s", session.username, error, extra=extra)
            case anyssh.events.Reconnected(count):
                extra = log_fields("reconnected", count=count, **facts)
                logger.info("%s is back, reconnection %d", session.username, count, extra=extra)


# Listening, and startup messages


async def _listen(where: TcpEndpoint) -> Listener[ByteStream]:
    try:
        return await anyssh.listen(where)
    except OSError as error:
        remedy = "choose another address with --listen"
        if 0 < where.port < 1024:
            remedy = "ports below 1024 are for root; choose another one with --listen"
        raise Failure(f"cannot listen on {where}: {reason_of(error)}; {remedy}") from error


def _tell_addresses(listener: Listener[ByteStream], host_keys: Sequence[anyssh.Key]) -> None:
    parts = listener.listeners if isinstance(listener, MultiListener) else [listener]
    addresses = [each.extra(SocketAttribute.local_address) for each in parts]
    for address, key in product(addresses, host_keys):
        where = TcpEndpoint(str(address[0]), int(address[1]))
        extra = log_fields("listening", host=where.host, port=where.port, host_key=key.fingerprint)
        logger.info("listening on %s, host key %s", where, key.fingerprint, extra=extra)


def _tell_what_is_allowed(options: ServeOptions) -> None:
    policy, commands = options.forwarding, options.commands
    allowed = []
    if commands.may_exec:
        allowed.append("run commands")
    if commands.may_echo:
        allowed.append("use the echo")
    if policy.connect_to:
        allowed.append(f"connect to {', '.join(policy.connect_to)}")
    if policy.listen_on:
        allowed.append(f"listen on {', '.join(policy.listen_on)}")
    told_so = "; ".join(allowed) or (
        "nothing yet: see --exec, --echo, --allow-connect and --allow-listen"
    )
    logger.info("clients may %s", told_so)


async def _host_key(path: Path) -> anyssh.Key:
    """Read a host key; generate it if it does not exist."""
    try:
        mode = (await anyio.Path(path).stat()).st_mode
        key = await to_thread.import_key_file(path)
    except FileNotFoundError:
        return await _new_host_key(path)
    except anyssh.PassphraseRequired as error:
        raise Failure(
            f"the host key {path} is encrypted; a server needs one that is not"
        ) from error
    except (OSError, anyssh.KeyFormatError) as error:
        raise Failure(f"the host key {path} cannot be read: {reason_of(error)}") from error
    if not key.has_private:
        raise Failure(f"{path} is a public key; a server needs the private one")
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise Failure(f"others may read the host key {path}; run: chmod 600 {path}")
    return key


async def _new_host_key(path: Path) -> anyssh.Key:
    key = await to_thread.generate_key("ssh-ed25519", comment="anyssh host key")
    try:
        await anyio.Path(path.parent).mkdir(mode=0o700, parents=True, exist_ok=True)
        await to_thread.export_private_key_file(key, path, "openssh")
        public = Path(f"{path}.pub")
        if not await anyio.Path(public).exists():
            await to_thread.export_public_key_file(key, public)
    except OSError as error:
        raise Failure(f"cannot write the host key {path}: {reason_of(error)}") from error
    logger.info(
        "generated the host key %s", path, extra=log_fields("host-key-made", path=str(path))
    )
    return key


def checked_patience(seconds: float) -> float:
    """Return a valid duration.

    :raises Failure: it is not one
    """
    if not 0 < seconds < math.inf:
        raise Failure(f"--patience is a number of seconds, not {seconds!r}")
    return seconds
