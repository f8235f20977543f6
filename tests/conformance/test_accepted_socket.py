"""The sockets that forwarded connections come from, as byte streams."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from anyssh import TcpEndpoint
from anyssh.forwarding.listening import close_listener, listen
from anyssh.forwarding.sockets import AcceptedSocket, accept_from, listening_socket
from anyssh.testing import check_byte_stream
from tests.session.life_support import LIMIT


@asynccontextmanager
async def accepted_pair() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = AcceptedSocket(socket.create_connection(server.getsockname()))
        far = AcceptedSocket(server.accept()[0])
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


async def test_closing_a_listener_ends_accepting() -> None:
    async def never(stream: ByteStream) -> None:
        raise AssertionError(stream)

    listener = await listen(TcpEndpoint("127.0.0.2", 0))
    raw = listening_socket(listener.listeners[0])  # type: ignore[attr-defined]
    assert raw is not None
    ended = anyio.Event()

    async def accept() -> None:
        try:
            await accept_from(raw, never, tasks)
        except anyio.ClosedResourceError:
            ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(accept)
        await anyio.wait_all_tasks_blocked()
        await close_listener(listener)
        with anyio.fail_after(LIMIT):
            await ended.wait()
