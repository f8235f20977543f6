"""A client and a server connected in memory, for tests of what runs over them.

The server's end runs in a task of its own, as a session is entered and left in the same task, and
both ends have to be entered at the same time.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from anyio import Event, create_task_group, get_cancelled_exc_class, move_on_after
from anyio.abc import ByteStream

import anyssh

from .memory import memory_stream_pair

__all__ = ["StreamWrapper", "session_pair"]

StreamWrapper = Callable[[ByteStream], ByteStream]
"""Wraps one end, for example ``lambda inner: FaultStream(inner, plan)``."""

Authenticate = Callable[["anyssh.AuthAttempt"], Awaitable[object | None]]

_USERNAME = "test"
_PASSWORD = secrets.token_hex()
_GRACE = 1.0


@asynccontextmanager
async def session_pair(
    *,
    client_config: anyssh.SessionConfig | None = None,
    server_config: anyssh.SessionConfig | None = None,
    client_stream: StreamWrapper | None = None,
    server_stream: StreamWrapper | None = None,
    authenticate: Authenticate | None = None,
    credentials: anyssh.ClientCredentials | None = None,
    host_key: anyssh.Key | None = None,
    client_forwarding: anyssh.ForwardingPolicy | None = None,
    server_forwarding: anyssh.ForwardingPolicy | None = None,
    client_services: Mapping[type[anyssh.SessionService], Any] | None = None,
    server_services: Mapping[type[anyssh.SessionService], Any] | None = None,
    capacity: int = 65536,
) -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.ServerSession]]:
    """Yield a client session and a server session, connected and authenticated.

    Use it with ``async with``. An exception in the body is raised as it is, not in a group.

    :param client_config: the defaults if None
    :param server_config: the defaults if None
    :param client_stream: wraps the client's end of the stream
    :param server_stream: wraps the server's end of the stream
    :param authenticate: as for :class:`~anyssh.Server`; by default accepts a built-in password
    :param credentials: as for :class:`~anyssh.ClientSession`; by default the built-in password
    :param host_key: the server's host key; by default an Ed25519 key shared within the process
    :param client_forwarding: what the server may have the client connect to or listen on
    :param server_forwarding: what the client may have the server connect to or listen on
    :param client_services: the services of the client
    :param server_services: the services of the server
    :param capacity: bytes that each direction of the stream buffers
    :raises ~anyssh.SSHError: the session could not be established
    """
    host_key = host_key or _host_key()
    near, far = memory_stream_pair(capacity=capacity)
    server = _ServerEnd(
        anyssh.Server(
            host_keys=[host_key],
            authenticate=authenticate or _accept_own_password,
            config=server_config,
            forwarding=server_forwarding,
            services=server_services,
        ),
        server_stream(far) if server_stream else far,
    )
    connecting = anyssh.ClientSession.connect(
        client_stream(near) if client_stream else near,
        credentials=credentials or anyssh.ClientCredentials(_USERNAME, password=_PASSWORD),
        verify_host=anyssh.pin(host_key.fingerprint),
        config=client_config,
        forwarding=client_forwarding,
        services=client_services,
    )
    failure: BaseException | None = None
    async with create_task_group() as group:
        group.start_soon(server.run)
        try:
            async with connecting as client:
                yield client, await server.session()
        except (get_cancelled_exc_class(), GeneratorExit):
            raise
        except BaseException as error:
            # Raised below, outside of the task group, which would wrap it.
            failure = error
        await server.leave()
        group.cancel_scope.cancel()
    if failure is not None:
        if server.failure not in (None, failure):
            failure.add_note(f"the server's end: {server.failure!r}")
        raise failure
    # An SSHError may well be how the server's connection ends; anything else is a bug.
    if server.failure is not None and not isinstance(server.failure, anyssh.SSHError):
        raise server.failure


class _ServerEnd:
    """The server's session, held open by a task until it may leave."""

    def __init__(self, server: anyssh.Server, stream: ByteStream) -> None:
        self.failure: Exception | None = None
        self._server = server
        self._stream = stream
        self._session: anyssh.ServerSession | None = None
        self._started = Event()
        self._may_leave = Event()
        self._left = Event()

    async def run(self) -> None:
        """Enter the session, wait, leave it."""
        try:
            async with self._server.accept(self._stream) as self._session:
                self._started.set()
                await self._may_leave.wait()
        except Exception as error:
            self.failure = error
        finally:
            self._started.set()
            self._left.set()

    async def session(self) -> anyssh.ServerSession:
        """Wait for the session; raise the reason if there is none."""
        await self._started.wait()
        if self._session is None:
            raise self.failure or RuntimeError("the server's end was cancelled")
        return self._session

    async def leave(self) -> None:
        """Let the server close the session, for at most a second.

        With a stalled stream, it would otherwise take until the session's own limits end it.
        """
        self._may_leave.set()
        with move_on_after(_GRACE):
            await self._left.wait()


async def _accept_own_password(attempt: anyssh.AuthAttempt) -> object | None:
    match attempt:
        case anyssh.PasswordAttempt(username=name, password=password):
            return name if (name, password) == (_USERNAME, _PASSWORD) else None
    return None


@cache
def _host_key() -> anyssh.Key:
    return anyssh.generate_key("ssh-ed25519")
