"""A proxy for a server on loopback, which can be cut, frozen and slowed down."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import Enum, auto

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskGroup

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: a socket that is closed forgets what waits and tells so."""


class Way(Enum):
    TO_SERVER = auto()
    TO_CLIENT = auto()


class Passage:
    """One connection through a proxy.

    :ivar passed: how many bytes have passed, by their way
    """

    def __init__(self, client: SocketStream, server: SocketStream, delay: float) -> None:
        self._client = client
        self._server = server
        self._delay = delay
        self._limits = dict.fromkeys(Way, math.inf)
        self._holds = dict.fromkeys(Way, math.inf)
        self._is_frozen = False
        self._group: TaskGroup | None = None
        self.passed = dict.fromkeys(Way, 0)
        self._over = anyio.Event()

    async def run(self) -> None:
        async with self._client, self._server:
            async with anyio.create_task_group() as group:
                self._group = group
                group.start_soon(self._carry, self._client, self._server, Way.TO_SERVER)
                group.start_soon(self._carry, self._server, self._client, Way.TO_CLIENT)
            for stream in (self._client, self._server):
                with anyio.CancelScope(shield=True):
                    await anyio.aclose_forcefully(stream)
            self._over.set()

    async def wait_over(self) -> None:
        """Wait until both sides are closed."""
        await self._over.wait()

    async def _carry(self, source: SocketStream, sink: SocketStream, way: Way) -> None:
        """Pass bytes on after the delay, until the source ends or somebody cuts."""
        sender, receiver = anyio.create_memory_object_stream[tuple[float, bytes]](math.inf)

        async def read() -> None:
            async with sender:
                async for chunk in source:
                    await sender.send((anyio.current_time() + self._delay, chunk))

        try:
            async with receiver, anyio.create_task_group() as group:
                group.start_soon(read)
                async for due, chunk in receiver:
                    await anyio.sleep_until(due)
                    await self._pass(sink, way, chunk)
                await self._while_frozen()
                await sink.send_eof()
        except* (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            await self._while_frozen()
            self.cut()

    async def _pass(self, sink: SocketStream, way: Way, chunk: bytes) -> None:
        await self._while_frozen()
        room = min(self._limits[way], self._holds[way]) - self.passed[way]
        if len(chunk) > room:
            chunk = chunk[: int(room)]
        await sink.send(chunk)
        self.passed[way] += len(chunk)
        if self.passed[way] >= self._limits[way]:
            self.cut()
        if self.passed[way] >= self._holds[way]:
            await anyio.sleep_forever()

    async def _while_frozen(self) -> None:
        if self._is_frozen:
            await anyio.sleep_forever()

    def cut(self, *, reset: bool = False) -> None:
        """Close both sides; what is on its way is lost.

        :param reset: as a machine does that has forgotten the connection
        """
        if reset:
            for stream in (self._client, self._server):
                sock = stream.extra(SocketAttribute.raw_socket)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if self._group is not None:
            self._group.cancel_scope.cancel()

    def cut_after(self, way: Way, count: int) -> None:
        """Cut once so many more bytes have passed on a way."""
        self._limits[way] = self.passed[way] + count
        if count == 0:
            self.cut()

    def hold_after(self, way: Way, count: int) -> None:
        """Let so many more bytes pass on a way, and then nothing."""
        self._holds[way] = self.passed[way] + count

    def freeze(self) -> None:
        """Let nothing pass any more, neither bytes nor the end of a side."""
        self._is_frozen = True

    async def cut_client(self) -> None:
        """Close the client's side; the server's hears nothing of it if it is frozen."""
        await anyio.aclose_forcefully(self._client)


class Proxy:
    """Connects whoever comes to its port to a server's port.

    :ivar target: the server's port; counts for connections to come
    :ivar delay: seconds that bytes take each way; counts for connections to come
    :ivar plans: told of connections to come, one each, before anything passes
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self.delay = 0.0
        self.plans: list[Callable[[Passage], None]] = []
        self.passages: list[Passage] = []

    @property
    def last(self) -> Passage:
        """The connection that came last."""
        return self.passages[-1]

    async def handle(self, client: SocketStream) -> None:
        try:
            server = await anyio.connect_tcp("127.0.0.1", self.target)
        except OSError:
            await client.aclose()
            return
        passage = Passage(client, server, self.delay)
        self.passages.append(passage)
        if self.plans:
            self.plans.pop(0)(passage)
        await passage.run()


@asynccontextmanager
async def proxy_to(target: int) -> AsyncIterator[Proxy]:
    """Run a proxy to a server's port."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        proxy = Proxy(listener.extra(SocketAttribute.local_port), target)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, proxy.handle)
            yield proxy
            group.cancel_scope.cancel()
