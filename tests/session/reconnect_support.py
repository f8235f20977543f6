"""What the tests of reconnecting share: a network in memory with planned faults.

A :class:`Network` is a listener for :meth:`anyssh.Server.serve`, and a connectable for clients.
Each end of each connection is a :class:`~anyssh.testing.FaultStream`, so a test can cut, stall and
release anything, at once or at a given byte. :class:`World` is one server on such a network with
one client, which reconnects by hand as soon as it is cut off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import ByteStream, ByteStreamConnectable, Listener, TaskGroup
from anyio.lowlevel import checkpoint

import anyssh
from anyssh.testing import Fault, FaultStream, memory_stream_pair

from .life_support import ALICE, accept_password, host_key

__all__ = ["LIMIT", "Connection", "Network", "World", "reconnecting", "world"]

LIMIT = 20.0
"""Seconds after which a test no longer believes that something will happen."""

FINAL = {2, 4, 102, 103, 104}
"""Reasons of a :class:`~anyssh.ReconnectError` after which it makes no sense to try again."""

Plan = Iterable[Fault]


def reconnecting(**changes: Any) -> anyssh.SessionConfig:
    """Return a configuration that reconnects and whose handshake costs least."""
    cheap: dict[str, Any] = {
        "key_exchanges": [anyssh.KeyExchange.CURVE25519_SHA256],
        "host_key_algorithms": [anyssh.HostKeyAlgorithm.ED25519],
        "encryptions": [anyssh.Encryption.AES128_GCM],
    }
    return anyssh.SessionConfig.with_reconnect().replace(**cheap | changes)


@dataclass
class Connection:
    """One connection: the client's end and the server's."""

    near: FaultStream
    far: FaultStream

    def cut(self) -> None:
        """End it for both sides."""
        self.near.cut()

    def freeze(self) -> None:
        """Cut the client off while the server learns nothing of it."""
        self.far.stall()
        self.near.cut()


class Network(Listener[ByteStream], ByteStreamConnectable):
    """Connections in memory; the first ones have the plans given, all others are perfect.

    :param plans: for the client's end of the first connection, the second, …
    """

    def __init__(self, plans: Iterable[Plan] = (), *, capacity: int = 65536) -> None:
        self.connections: list[Connection] = []
        self._plans = list(plans)
        self._capacity = capacity
        self._arrivals: deque[ByteStream] = deque()
        self._arrived = anyio.Event()

    async def connect(self) -> ByteStream:
        """Return the client's end of a new connection."""
        await checkpoint()
        return self.new_connection().near

    def new_connection(self) -> Connection:
        """Make a connection and let the listener have its other end."""
        number = len(self.connections)
        plan = self._plans[number] if number < len(self._plans) else ()
        near, far = memory_stream_pair(capacity=self._capacity)
        connection = Connection(FaultStream(near, plan), FaultStream(far))
        self.connections.append(connection)
        self._arrivals.append(connection.far)
        self._arrived.set()
        return connection

    @property
    def last(self) -> Connection:
        """The newest connection."""
        return self.connections[-1]

    async def serve(
        self, handler: Callable[[ByteStream], Any], task_group: TaskGroup | None = None
    ) -> None:
        """Hand each arriving end to the handler."""
        async with anyio.create_task_group() as own:
            while True:
                await self._arrived.wait()
                self._arrived = anyio.Event()
                while self._arrivals:
                    (task_group or own).start_soon(handler, self._arrivals.popleft())

    async def aclose(self) -> None:
        """Do nothing: serving ends when it is cancelled."""
        await checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """None."""
        return {}


class World:
    """A server with an application, a client, and the network between them.

    :ivar server_sessions: those that were authenticated, in order
    :ivar busy: those of them that the server's application is busy with
    :ivar failures: what the server's application raised, by session
    """

    def __init__(
        self,
        network: Network,
        serve: Callable[[anyssh.ServerSession], Awaitable[object]],
        *,
        config: anyssh.SessionConfig | None = None,
        **server_options: Any,
    ) -> None:
        self.network = network
        self.config = config or reconnecting()
        self.server_sessions: list[anyssh.ServerSession] = []
        self.failures: dict[anyssh.ServerSession, Exception] = {}
        self.busy: set[anyssh.ServerSession] = set()
        self._serve = serve
        options: dict[str, Any] = {
            "host_keys": [host_key()],
            "authenticate": accept_password,
            "config": self.config,
        }
        self.server = anyssh.Server(**options | server_options)

    def client(self, transport: Any, **changes: Any) -> anyssh.ClientSession:
        """Return a client's session over a transport."""
        arguments: dict[str, Any] = {
            "verify_host": anyssh.pin(host_key().fingerprint),
            "credentials": ALICE,
            "config": self.config,
        }
        return anyssh.ClientSession.connect(transport, **arguments | changes)

    async def handle(self, session: anyssh.ServerSession) -> None:
        """Run the server's application for a session and keep what it raises."""
        self.server_sessions.append(session)
        self.busy.add(session)
        try:
            await self._serve(session)
        except Exception as error:
            self.failures[session] = error
        finally:
            self.busy.discard(session)

    async def keep_connected(self, session: anyssh.ClientSession) -> None:
        """Reconnect by hand whenever the session is cut off, until cancelled."""
        while True:
            await session.wait_disconnected()
            try:
                await session.reconnect(await self.network.connect())
            except anyssh.ReconnectError as error:
                if error.reason in FINAL:
                    raise
            except anyssh.SSHError:
                continue


@asynccontextmanager
async def world(
    serve: Callable[[anyssh.ServerSession], Awaitable[object]],
    plans: Iterable[Plan] = (),
    **options: Any,
) -> AsyncIterator[World]:
    """Run a server until the body is over. An exception in the body leaves it bare."""
    made = World(Network(plans), serve, **options)
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        await group.start(made.server.serve, made.network, made.handle)
        try:
            yield made
        except Exception as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        for error in made.failures.values():
            failure.add_note(f"the server's application: {error!r}")
        raise failure
