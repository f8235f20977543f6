"""The memory stream, checked by our conformance suite, by Trio's, and where both are silent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
import trio.testing
from anyio.abc import ByteStream

from anyssh.testing import MemoryStream, check_byte_stream, memory_stream_pair
from tests.conformance.trio_adapter import TrioStream
from tests.conformance.waiting import waits


@asynccontextmanager
async def memory_pair(capacity: int = 65536) -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    left, right = memory_stream_pair(capacity=capacity)
    yield left, right
    left.close()
    right.close()


@pytest.mark.parametrize("capacity", [100, 65536])
async def test_keeps_every_rule(capacity: int) -> None:
    await check_byte_stream(partial(memory_pair, capacity), buffer_limit=capacity + 65536)


@pytest.mark.trio
async def test_trio_finds_no_fault() -> None:
    async def stream_maker() -> tuple[TrioStream, TrioStream]:
        left, right = memory_stream_pair()
        return TrioStream(left), TrioStream(right)

    await trio.testing.check_half_closeable_stream(stream_maker, None)


async def test_holds_exactly_its_capacity() -> None:
    left, right = memory_stream_pair(capacity=10)
    await left.send(b"0123456789")
    assert await waits(partial(left.send, b"x"))
    assert await right.receive() == b"0123456789"


async def test_a_send_larger_than_the_buffer_arrives_whole() -> None:
    left, right = memory_stream_pair(capacity=7)
    message = bytes(range(256))
    received = b""
    async with anyio.create_task_group() as group:
        group.start_soon(left.send, message)
        while len(received) < len(message):
            received += await right.receive(5)
    assert received == message


async def test_a_cancelled_send_leaves_a_prefix() -> None:
    left, right = memory_stream_pair(capacity=4)
    assert await waits(partial(left.send, b"abcdefgh"))
    assert await right.receive() == b"abcd"
    await left.send(b"XY")
    assert await right.receive() == b"XY"


async def test_bytes_that_are_changed_after_send_arrive_unchanged() -> None:
    left, right = memory_stream_pair()
    mutable = bytearray(b"before")
    await left.send(mutable)  # type: ignore[arg-type]
    mutable[:] = b"after!"
    await left.send(memoryview(mutable)[2:4])  # type: ignore[arg-type]
    assert await right.receive() == b"beforete"


async def test_several_sends_arrive_in_one_piece_and_a_large_one_in_several() -> None:
    left, right = memory_stream_pair()
    for part in (b"ab", b"cde", b"f"):
        await left.send(part)
    assert await right.receive(4) == b"abcd"
    assert await right.receive(1) == b"e"
    assert await right.receive(1) == b"f"


async def test_abort_breaks_the_peer_after_what_was_sent() -> None:
    left, right = memory_stream_pair()
    await left.send(b"the last")
    left.abort()
    assert await right.receive() == b"the last"
    for _ in range(2):
        with pytest.raises(anyio.BrokenResourceError):
            await right.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await right.send(b"x")
    with pytest.raises(anyio.ClosedResourceError):
        await left.receive()


@pytest.mark.parametrize(
    "end, expected",
    [("abort", anyio.BrokenResourceError), ("close", anyio.EndOfStream)],
)
async def test_the_end_wakes_a_peer_that_receives(end: str, expected: type[Exception]) -> None:
    left, right = memory_stream_pair()
    seen: list[Exception] = []
    await _start_and_end(right.receive, getattr(left, end), seen)
    assert [type(error) for error in seen] == [expected]


@pytest.mark.parametrize("end", ["abort", "close"])
async def test_the_end_wakes_a_peer_that_sends(end: str) -> None:
    left, right = memory_stream_pair(capacity=1)
    seen: list[Exception] = []
    await _start_and_end(partial(right.send, b"too much"), getattr(left, end), seen)
    assert [type(error) for error in seen] == [anyio.BrokenResourceError]


async def _start_and_end(call: object, end: object, seen: list[Exception]) -> None:
    assert callable(call)
    assert callable(end)

    async def run() -> None:
        try:
            await call()
        except Exception as error:
            seen.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        end()


async def test_abort_after_close_changes_nothing() -> None:
    left, right = memory_stream_pair()
    left.close()
    left.abort()
    with pytest.raises(anyio.EndOfStream):
        await right.receive()


async def test_a_closed_stream_keeps_no_bytes() -> None:
    left, right = memory_stream_pair()
    await left.send(bytes(1000))
    right.close()
    assert right._incoming.size == 0
    assert not right._incoming.chunks


def test_capacity_must_be_positive() -> None:
    with pytest.raises(ValueError, match="capacity"):
        memory_stream_pair(capacity=0)


def test_is_a_byte_stream() -> None:
    left, right = memory_stream_pair()
    assert isinstance(left, MemoryStream)
    assert isinstance(right, ByteStream)
