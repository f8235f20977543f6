"""Connections with random faults: over sockets, through a proxy, and in memory."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import anyio
from anyio.abc import ByteStream, Listener, SocketStream, TaskGroup
from anyio.lowlevel import checkpoint

from anyssh.testing import (
    Cut,
    Delay,
    Direction,
    Ending,
    Fault,
    FaultStream,
    FlipBit,
    Slice,
    Stall,
)

from .network import Network

__all__ = ["BROKEN", "Faulty", "FaultyNetwork", "Proxy", "TcpListener", "listen", "listening"]

BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError, RuntimeError)
"""What sockets of all event loops raise that are broken."""
HANDSHAKE = 4000
"""Bytes each way after which a client is surely authenticated."""
MOST_PLANS = 6
"""Connections after which nothing is planned any more."""


class Faulty:
    """Where all connections of a life pass: each goes wrong by a plan, and when it is told to."""

    def __init__(self, chance: Random, *, spared: bool) -> None:
        self._chance = chance
        self._spared = spared
        self.streams: list[FaultStream] = []

    def around(self, stream: ByteStream) -> FaultStream:
        """Return a stream that goes wrong."""
        made = FaultStream(stream, self._plan(), seed=self._chance.randrange(1000))
        self.streams.append(made)
        return made

    def _plan(self) -> list[Fault]:
        chance, number = self._chance, len(self.streams)
        if self._spared or number >= MOST_PLANS:
            return []
        direction = chance.choice(list(Direction))
        least = 0 if number and chance.random() < 0.3 else HANDSHAKE
        place = least + int(10 ** chance.uniform(1, 6))
        end = chance.choice(list(Ending))
        kinds: list[list[Fault]] = [
            [],
            [],
            [Cut(direction, place, end)],
            [Slice(direction, 900, 1), Cut(direction, place, end)],
            [Slice(Direction.SEND, 3000, 1), Slice(Direction.RECEIVE, 3000, 1)],
            [Stall(direction, place, chance.uniform(0, 0.3))],
            [Delay(direction, 0.001, 0.003)],
            [FlipBit(direction, max(place, HANDSHAKE), chance.randrange(8))],
        ]
        return chance.choice(kinds)

    def disturb(self) -> None:
        """Have the newest connection go wrong."""
        if self._spared or not self.streams:
            return
        stream, chance = self.streams[-1], self._chance
        match chance.randrange(4):
            case 0 | 1:
                stream.cut(chance.choice(list(Ending)))
            case 2:
                stream.stall(chance.choice(list(Direction)))
            case 3:
                stream.release()

    def calm(self) -> None:
        """Have nothing go wrong any more."""
        self._spared = True
        for stream in self.streams:
            stream.release()


class Proxy:
    """Passes bytes on between whoever connects and a port."""

    def __init__(self, faulty: Faulty, target: int) -> None:
        self._faulty = faulty
        self._target = target

    async def handle(self, client: ByteStream) -> None:
        """Carry one connection until either side has broken, or both have ended."""
        async with _forgotten(self._faulty.around(client)) as near:
            try:
                connected = await anyio.connect_tcp("127.0.0.1", self._target)
            except OSError:
                return
            async with _forgotten(connected) as far, anyio.create_task_group() as group:
                group.start_soon(self._carry, near, far, group)
                group.start_soon(self._carry, far, near, group)

    async def _carry(self, source: ByteStream, sink: ByteStream, group: TaskGroup) -> None:
        try:
            async for chunk in source:
                await sink.send(chunk)
            await sink.send_eof()
        except BROKEN:
            group.cancel_scope.cancel()


@asynccontextmanager
async def _forgotten(stream: ByteStream) -> AsyncIterator[ByteStream]:
    """Close a stream in the end, whatever state it is in."""
    try:
        yield stream
    finally:
        with anyio.CancelScope(shield=True), suppress(*BROKEN):
            await anyio.aclose_forcefully(stream)


class FaultyNetwork(Network):
    """Connections in memory that go wrong."""

    def __init__(self, faulty: Faulty) -> None:
        super().__init__()
        self._faulty = faulty

    async def connect(self) -> Any:
        return self._faulty.around(await super().connect())


class TcpListener(Listener[SocketStream]):
    """Listens on loopback, and loses no connection when it is cancelled.

    What asyncio accepts just then is given to nobody, which its event loop complains of.

    :param raw: listens
    """

    def __init__(self, raw: socket.socket) -> None:
        self._socket = raw
        self.port: int = raw.getsockname()[1]

    async def serve(
        self, handler: Callable[[Any], Any], task_group: TaskGroup | None = None
    ) -> None:
        """Have each connection handled, as one of the tasks."""
        async with anyio.create_task_group() as own:
            while True:
                await anyio.wait_readable(self._socket)
                with suppress(BlockingIOError, ConnectionAbortedError):
                    connection, _ = self._socket.accept()
                    (task_group or own).start_soon(self._handle, connection, handler)

    async def _handle(self, connection: socket.socket, handler: Callable[[Any], Any]) -> None:
        try:
            stream = await SocketStream.from_socket(connection)
        except BaseException as error:
            connection.close()
            if not isinstance(error, (OSError, ValueError)):  # it was reset meanwhile
                raise
        else:
            await handler(stream)

    async def aclose(self) -> None:
        """Close the socket, which nobody waits for any more."""
        self._socket.close()
        await checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """None."""
        return {}


def listen(buffers: int | None = None) -> TcpListener:
    """Return a listener on a port that was free.

    :param buffers: bytes that the system keeps of what is sent and received, the usual if None
    """
    raw = socket.create_server(("127.0.0.1", 0))
    raw.setblocking(False)
    if buffers is not None:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            raw.setsockopt(socket.SOL_SOCKET, option, buffers)
    return TcpListener(raw)


@asynccontextmanager
async def listening(
    handle: Callable[[Any], Awaitable[object]], buffers: int | None = None
) -> AsyncIterator[int]:
    """Have whoever connects to a port handled; give the port."""
    async with listen(buffers) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        try:
            yield listener.port
        finally:
            tasks.cancel_scope.cancel()
