"""What the tests of sessions share: the two ends of a session, entered and left as needed.

``anyssh.testing.session_pair`` provides an established session. The tests of establishing one need
more: a server's end that reports how it ended, and a client that the test itself connects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, TypeVar

import anyio
import trio.testing
from anyio.abc import ByteStream

import anyssh
from anyssh.testing import memory_stream_pair

T = TypeVar("T")

ALICE = anyssh.ClientCredentials("alice", password="wonderland")


@cache
def host_key() -> anyssh.Key:
    return anyssh.generate_key("ssh-ed25519")


def pinned() -> anyssh.HostKeyVerifier:
    return anyssh.pin(host_key().fingerprint)


async def accept_alice(attempt: anyssh.AuthAttempt) -> object | None:
    match attempt:
        case anyssh.PasswordAttempt(username="alice", password="wonderland"):
            return "alice"
    return None


def make_server(**options: Any) -> anyssh.Server:
    return anyssh.Server(**{"host_keys": [host_key()], "authenticate": accept_alice, **options})


class ServerEnd:
    """A server's session in a task of its own; it stays until the session has ended."""

    def __init__(self, server: anyssh.Server, stream: ByteStream) -> None:
        self.session = server.accept(stream)
        self.entered = anyio.Event()
        self.left = anyio.Event()
        self.failure: Exception | None = None

    async def run(self) -> None:
        try:
            async with self.session as session:
                self.entered.set()
                await session.wait_closed()
        except Exception as error:
            self.failure = error
        finally:
            self.left.set()


@asynccontextmanager
async def serving(server: anyssh.Server) -> AsyncIterator[tuple[ByteStream, ServerEnd]]:
    """Give a stream to connect a client over, and the server's end of it."""
    near, far = memory_stream_pair()
    end = ServerEnd(server, far)
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(end.run)
        try:
            yield near, end
        except Exception as error:
            # Raised below, where the task group does not make a group of it.
            failure = error
        near.close()
        await end.left.wait()
    if failure is not None:
        raise failure


@asynccontextmanager
async def connected(
    server: anyssh.Server | None = None, **options: Any
) -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.ServerSession]]:
    """Give both ends of a session with the options of ``ClientSession.connect``.

    Without credentials the server's end is not entered yet.
    """
    options = {"credentials": ALICE, "verify_host": pinned(), **options}
    async with (
        serving(server or make_server()) as (stream, end),
        anyssh.ClientSession.connect(stream, **options) as client,
    ):
        if options["credentials"] is not None:
            await end.entered.wait()
        yield client, end.session


async def settle() -> None:
    """Wait until every other task waits; over streams in memory all that can happen has happened.

    Does what AnyIO's ``wait_all_tasks_blocked`` does, which on asyncio takes a tenth of a second.
    """
    if sniff_backend() == "trio":
        await trio.testing.wait_all_tasks_blocked()
        return
    quiet_turns = 0
    while quiet_turns < 5:
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        quiet_turns = quiet_turns + 1 if all(map(_is_waiting, others)) else 0


def sniff_backend() -> str:
    return "trio" if trio.lowlevel.in_trio_task() else "asyncio"


def _is_waiting(task: asyncio.Task[Any]) -> bool:
    waiter = getattr(task, "_fut_waiter", None)
    return waiter is not None and not waiter.done()


async def at_once(first: Awaitable[Any], second: Awaitable[T]) -> tuple[Any, T]:
    """Wait for two calls that need each other; return what they return."""
    results: dict[int, Any] = {}

    async def run(number: int, call: Awaitable[Any]) -> None:
        results[number] = await call

    async with anyio.create_task_group() as group:
        group.start_soon(run, 0, first)
        group.start_soon(run, 1, second)
    return results[0], results[1]


async def channel_pair(
    opener: anyssh.Session, acceptor: anyssh.Session, **options: Any
) -> tuple[anyssh.Channel, anyssh.Channel]:
    """Open a channel and accept it; return the opener's and the acceptor's end."""
    return await at_once(opener.open_channel(**options), acceptor.accept_channel())


async def receive_exactly(channel: anyssh.Channel | anyssh.StderrStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        data += await channel.receive(count - len(data))
    return bytes(data)


async def receive_all(channel: anyssh.Channel | anyssh.StderrStream) -> bytes:
    return b"".join([chunk async for chunk in channel])


class Call:
    """A call in a task of its own, and how it went."""

    def __init__(self, group: anyio.abc.TaskGroup, call: Callable[[], Coroutine[Any, Any, Any]]):
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.value: Any = None
        self.error: Exception | None = None
        group.start_soon(self._run, call)

    async def _run(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        with self.scope:
            try:
                self.value = await call()
            except Exception as error:
                self.error = error
        self.done.set()

    @property
    def is_done(self) -> bool:
        return self.done.is_set()

    async def result(self) -> Any:
        await self.done.wait()
        if self.error is not None:
            raise self.error
        return self.value
