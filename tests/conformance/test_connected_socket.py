"""The sockets of forwarded connections, as byte streams."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream, SocketAttribute

from anyssh import TcpEndpoint
from anyssh.forwarding.listening import Accepting, bound_port, close_listener, listen
from anyssh.forwarding.sockets import ConnectedSocket, listening_socket
from anyssh.forwarding.turns import Turns
from anyssh.forwarding.watching import make_watcher
from anyssh.testing import check_byte_stream


@asynccontextmanager
async def accepted_pair() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = ConnectedSocket(socket.create_connection(server.getsockname()))
        far = ConnectedSocket(server.accept()[0])
        async with near, far:
            yield near, far


@pytest.mark.blocking_allowed
async def test_a_byte_stream() -> None:
    await check_byte_stream(accepted_pair, buffer_limit=32 * 1024 * 1024)


async def test_nothing_is_read_that_is_not_asked_for() -> None:
    """However long nobody receives, what is under way is bounded by the system."""
    async with accepted_pair() as (near, far):
        sent = 0
        with anyio.move_on_after(1) as waiting:
            while sent < 256 << 20:
                await near.send(bytes(1 << 16))
                sent += 1 << 16
                waiting.deadline = anyio.current_time() + 0.3
        assert 0 < sent < 32 << 20
        assert far.extra(SocketAttribute.remote_address) == near.extra(
            SocketAttribute.local_address
        )


async def test_a_cancelled_acceptor_loses_nobody() -> None:
    """Whoever was accepted is handled, wherever accepting is cancelled."""
    handled: list[ByteStream] = []

    async def handle(stream: ByteStream) -> None:
        handled.append(stream)

    listener = await listen(TcpEndpoint("127.0.0.1", 0))
    (raw, _) = [listening_socket(each) for each in listener.listeners]  # type: ignore[attr-defined]
    assert raw is not None
    with raw.dup() as watched:
        watched.setblocking(False)
        for turns in range(8):
            near = await anyio.connect_tcp("127.0.0.1", bound_port(listener) or 0)
            async with anyio.create_task_group() as tasks, anyio.create_task_group() as accepting:
                watcher = make_watcher(accepting.start_soon, nullcontext)
                accepting.start_soon(Accepting(raw, handle, tasks, list, Turns(8)).run, watcher)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                accepting.cancel_scope.cancel()
            with suppress(BlockingIOError):
                handled.append(ConnectedSocket(watched.accept()[0]))
            assert len(handled) == turns + 1
            await near.aclose()
    for stream in handled:
        await stream.aclose()
    await close_listener(listener)
