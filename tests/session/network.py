"""A listener and a connectable for it, all in memory, whose streams can be cut at any time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import ByteStreamConnectable, Listener, TaskGroup

import anyssh
from anyssh.testing import memory_stream_pair
from anyssh.testing.memory import MemoryStream

from .ends import ALICE, make_server, pinned

RECONNECTING = anyssh.SessionConfig.with_reconnect()


class Network(Listener[MemoryStream], ByteStreamConnectable):
    """What a server listens on and clients connect to."""

    def __init__(self) -> None:
        self.streams: list[tuple[MemoryStream, MemoryStream]] = []
        self.is_up = True
        self._handler: Callable[[MemoryStream], Awaitable[object]] | None = None
        self._group: TaskGroup | None = None
        self._serving = anyio.Event()

    async def serve(self, handler: Callable[[MemoryStream], Any], task_group: Any = None) -> None:
        self._handler, self._group = handler, task_group
        self._serving.set()
        await anyio.sleep_forever()

    async def aclose(self) -> None:
        pass

    async def connect(self) -> MemoryStream:
        await self._serving.wait()
        if not self.is_up or self._group is None or self._handler is None:
            raise ConnectionRefusedError("the network is down")
        near, far = memory_stream_pair()
        self.streams.append((near, far))
        self._group.start_soon(self._handler, far)
        return near

    def cut(self) -> None:
        """Cut the last stream at both ends; what is on its way is lost."""
        for stream in self.streams[-1]:
            stream.close()


@asynccontextmanager
async def network_pair(
    server: anyssh.Server | None = None, *, by_itself: bool = True, **options: Any
) -> AsyncIterator[tuple[Network, anyssh.ClientSession, anyssh.ServerSession]]:
    """Give both ends of a session that can reconnect, and what lies between them.

    :param by_itself: whether the client reconnects without being told
    """
    network = Network()
    sessions: list[anyssh.ServerSession] = []
    accepted = anyio.Event()

    async def handle(session: anyssh.ServerSession) -> None:
        sessions.append(session)
        accepted.set()
        await session.wait_closed()

    server = server or make_server(config=RECONNECTING)
    options = {
        "credentials": ALICE,
        "verify_host": pinned(),
        "config": RECONNECTING,
        **options,
    }
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, network, handle)
        try:
            transport = network if by_itself else await network.connect()
            async with anyssh.ClientSession.connect(transport, **options) as client:
                await accepted.wait()
                yield network, client, sessions[0]
        except Exception as error:
            # Raised below, where the task group does not make a group of it.
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def open_channel_pair(
    client: anyssh.ClientSession, server: anyssh.ServerSession
) -> tuple[anyssh.Channel, anyssh.Channel]:
    """Open a channel; return both ends of it."""
    theirs: list[anyssh.Channel] = []

    async def accept() -> None:
        theirs.append(await server.accept_channel())

    async with anyio.create_task_group() as group:
        group.start_soon(accept)
        ours = await client.open_channel()
    return ours, theirs[0]
