"""A client and a server that talk to each other in memory, for tests of what runs over them.

The server's end lives in a task of its own, because a session is entered and left in one task
and both ends have to be entered at the same time.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from anyio import Event, create_task_group, move_on_after
from anyio.abc import ByteStream

import anyssh

from .memory import memory_stream_pair

__all__ = ["StreamWrapper", "session_pair"]

StreamWrapper = Callable[[ByteStream], ByteStream]
"""Puts something around one end, for example ``lambda inner: FaultStream(inner, plan)``."""

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
    """Give a client's and a server's session, connected and authenticated.

    Use it with ``async with``. An exception in the body leaves it bare.

    :param client_config: the defaults if None
    :param server_config: the defaults if None
    :param client_stream: put around the client's end of the stream
    :param server_stream: put around the server's end
    :param authenticate: as for :class:`~anyssh.Server`; to accept the test's own password if None
    :param credentials: as for :class:`~anyssh.ClientSession`; the test's own password if None
    :param host_key: the server's, one Ed25519 key for the whole process if None
    :param client_forwarding: what the server's end may have the client's connect to or listen on
    :param server_forwarding: the same the other way round
    :param client_services: of the client's end
    :param server_services: of the server's end
    :param capacity: bytes that each direction of the stream holds
    :raises ~anyssh.SSHError: the two ends do not come to terms
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
    failure: Exception | None = None
    async with create_task_group() as group:
        group.start_soon(server.run)
        try:
            async with connecting as client:
                yield client, await server.session()
        except Exception as error:
            # Raised below, where the task group does not make a group of it.
            failure = error
        await server.leave()
        group.cancel_scope.cancel()
    if failure is not None:
        if server.failure not in (None, failure):
            failure.add_note(f"the server's end: {server.failure!r}")
        raise failure
    # How a connection ends may well be an error of ours there; anything else is a bug.
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
        """Wait for the session, or raise why there is none."""
        await self._started.wait()
        if self._session is None:
            raise self.failure or RuntimeError("the server's end was cancelled")
        return self._session

    async def leave(self) -> None:
        """Have the session closed from the server's side, for a second at most.

        A stream that stalls would otherwise hold it until its own limits end it.
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
