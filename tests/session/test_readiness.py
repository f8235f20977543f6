"""Calling a function whenever a descriptor is readable."""

from __future__ import annotations

import asyncio.selector_events
import socket
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
import uvloop

from anyssh.forwarding.readiness import call_when_readable


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        yield near, far


class Reader:
    """Reads a byte for each call, and raises an exception at the end."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self.came = b""
        self.changed = anyio.Event()

    def read(self) -> None:
        byte = self._source.recv(1)
        if not byte:
            raise EOFError("the end has come")
        self.came += byte
        self.changed.set()
        self.changed = anyio.Event()

    async def wait_for(self, count: int) -> None:
        while len(self.came) < count:
            await self.changed.wait()


async def test_it_is_called_as_long_as_something_is_left(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    reader = Reader(near)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_when_readable, near, reader.read)
        far.send(b"abc")
        await reader.wait_for(3)
        far.send(b"d")
        await reader.wait_for(4)
        tasks.cancel_scope.cancel()
    far.send(b"e")
    await anyio.wait_readable(near)
    assert near.recv(9) == b"e"
    assert reader.came == b"abcd"


async def test_what_it_raises_ends_the_watch(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    reader = Reader(near)
    far.send(b"x")
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError, match="the end has come"):
        await call_when_readable(near, reader.read)
    assert reader.came == b"x"
    await anyio.wait_readable(near)


async def test_an_event_loop_that_watches_nothing(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def add_reader(self: Any, *arguments: Any) -> None:
        raise NotImplementedError

    loops = asyncio.selector_events.BaseSelectorEventLoop
    near, far = ends
    reader = Reader(near)
    async with anyio.create_task_group() as tasks:
        with monkeypatch.context() as patch:
            patch.setattr(loops, "add_reader", add_reader)
            tasks.start_soon(call_when_readable, near, reader.read)
            far.send(b"ab")
            await reader.wait_for(2)
        tasks.cancel_scope.cancel()
    assert reader.came == b"ab"


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_who_is_called_may_use_anyio(
    ends: tuple[socket.socket, socket.socket], run: Callable[[Any], object]
) -> None:
    """Also on a loop that AnyIO has not begun, where it only knows tasks as its own."""
    near, far = ends
    done: list[str] = []

    async def main() -> None:
        async def be_started() -> None:
            done.append("started")
            tasks.cancel_scope.cancel()

        def read() -> None:
            near.recv(1)
            done.append("called")
            anyio.current_time()
            tasks.start_soon(be_started)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_when_readable, near, read)
            far.send(b"x")

    run(main())
    assert done == ["called", "started"]
