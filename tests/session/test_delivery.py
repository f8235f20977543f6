"""Bytes delivered by a channel as they arrive, and what can be done without waiting."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

import anyssh
from anyssh.testing import session_pair
from anyssh.wire import Buffer
from tests.session.ends import Call, channel_pair, receive_all, settle

MIB = 1024 * 1024
LIMIT = 20.0


class Sink:
    """Takes what it is told to take, and notes what it was told."""

    def __init__(self, takes: Callable[[int], int] = lambda size: size) -> None:
        self.takes = takes
        self.data = bytearray()
        self.told: list[str] = []

    def deliver(self, data: Buffer) -> int:
        taken = self.takes(len(data))
        self.data += data[:taken]
        return taken

    def deliver_eof(self) -> None:
        self.told.append("eof")

    def channel_closed(self, by_peer: bool) -> None:
        self.told.append("closed by the peer" if by_peer else "closed here")


@asynccontextmanager
async def channels() -> AsyncIterator[tuple[anyssh.Channel, anyssh.Channel]]:
    async with session_pair() as (client, server):
        with anyio.fail_after(LIMIT):
            yield await channel_pair(client, server)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# Delivery


@pytest.mark.parametrize("when", ["deliver", "deliver_eof", "channel_closed"])
async def test_a_recipient_that_fails_costs_its_channel_only(
    when: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Sink):
        def fail(self, *what: object) -> int:
            raise RuntimeError("a mistake")

    broken = Broken()
    setattr(broken, when, broken.fail)
    async with session_pair() as (client, server):
        with anyio.fail_after(LIMIT):
            near, far = await channel_pair(client, server)
            far.deliver_to(broken)
            await near.send(b"bytes")
            await near.send_eof()
            if when == "channel_closed":
                await near.aclose()
            await far.wait_closed()
            assert "a mistake" in caplog.text
            other, theirs = await channel_pair(client, server)
            await other.send(b"still there")
            assert await theirs.receive() == b"still there"


async def test_bytes_are_delivered_as_they_come() -> None:
    """Far more than a window, so what was taken counts as received."""
    data, sink = noise(5 * MIB), Sink()
    async with channels() as (near, far):
        far.deliver_to(sink)
        await near.send(data)
        await near.send_eof()
        await settle()
    assert sink.data == data
    assert sink.told[0] == "eof"


@pytest.mark.parametrize("size", [10, 5000, 100_000])
async def test_what_was_not_taken_is_received_before_the_rest_is_delivered(size: int) -> None:
    """A recipient that takes some, and a task that receives the rest, see one sequence."""
    random_ = random.Random(size)
    data, seen = noise(min(2 * MIB, 400 * size)), bytearray()
    is_busy = False

    def take(offered: int) -> int:
        return 0 if is_busy else random_.choice([offered, 0, offered // 2])

    sink = Sink(take)
    sink.data = seen

    async def receive_the_rest(channel: anyssh.Channel) -> None:
        nonlocal is_busy
        async for chunk in channel:
            is_busy = True
            await checkpoint()
            seen.extend(chunk)
            is_busy = False

    async with channels() as (near, far), anyio.create_task_group() as group:
        far.deliver_to(sink)
        rest = Call(group, lambda: receive_the_rest(far))
        for start in range(0, len(data), size):
            await near.send(data[start : start + size])
        await near.send_eof()
        await rest.result()
    assert seen == data


async def test_what_came_before_is_delivered_first() -> None:
    async with channels() as (near, far):
        await near.send(b"early")
        await settle()
        sink = Sink()
        far.deliver_to(sink)
        assert sink.data == b"early"
        await near.send(b" and late")
        await settle()
        assert sink.data == b"early and late"
        assert sink.told == []


async def test_an_end_that_came_before_is_told() -> None:
    async with channels() as (near, far):
        await near.send(b"all")
        await near.send_eof()
        await near.aclose()
        await settle()
        sink = Sink()
        far.deliver_to(sink)
        assert sink.data == b"all"
        assert sink.told == ["eof", "closed by the peer"]


async def test_no_end_is_told_before_all_was_delivered() -> None:
    async with channels() as (near, far):
        sink = Sink(lambda size: 0)
        far.deliver_to(sink)
        await near.send(b"kept")
        await near.send_eof()
        await settle()
        assert sink.told == []
        assert await receive_all(far) == b"kept"


@pytest.mark.parametrize("who", ["far", "near"])
async def test_a_close_is_told_once(who: str) -> None:
    async with channels() as (near, far):
        sink = Sink()
        far.deliver_to(sink)
        await (far if who == "far" else near).aclose()
        await settle()
        await far.aclose()
        assert sink.told == ["closed here" if who == "far" else "closed by the peer"]


async def test_the_end_of_the_session_is_told() -> None:
    sink = Sink()
    async with channels() as (_, far):
        far.deliver_to(sink)
    assert sink.told[-1].startswith("closed")
    assert far.closed is not None
    assert far.closed.error is not None


async def test_a_recipient_may_close_the_channel() -> None:
    async with channels() as (near, far):

        def close(size: int) -> int:
            far.close(signal="ABRT")
            return 0

        far.deliver_to(Sink(close))
        await near.send(b"unwelcome")
        assert (await near.wait_closed()).exit_signal == "ABRT"
        with pytest.raises(anyio.ClosedResourceError):
            await far.receive()


# Without waiting


async def test_send_nowait_sends_what_the_window_takes() -> None:
    data = noise(3 * MIB)
    async with channels() as (near, far):
        sent = near.send_nowait(data)
        assert 0 < sent < len(data)
        received = bytearray()
        while sent < len(data) or len(received) < len(data):
            received += await far.receive()
            await settle()
            sent += near.send_nowait(data[sent:])
        assert received == data
        assert near.send_nowait(b"") == 0


async def test_small_pieces_of_one_turn_share_a_message() -> None:
    async with session_pair() as (client, server):
        near, far = await channel_pair(client, server)
        before = client.metrics.messages_sent
        for piece in (b"one, ", b"two, ", b"three"):
            assert near.send_nowait(piece) == len(piece)
        assert await far.receive() == b"one, two, three"
        assert client.metrics.messages_sent == before + 1


async def test_urgent_pieces_wait_for_nothing() -> None:
    async with session_pair() as (client, server):
        near, far = await channel_pair(client, server)
        before = client.metrics.messages_sent
        near.send_nowait(b"one, ")
        for piece in (b"two, ", b"three"):
            near.send_nowait(piece, is_urgent=True)
        assert client.metrics.messages_sent == before + 3
        await settle()
        assert await far.receive() == b"one, two, three"


async def test_small_pieces_without_end_reach_a_slow_reader() -> None:
    """Also while what was sent before waits for the stream."""
    data = noise(3 * MIB)
    async with channels() as (near, far), anyio.create_task_group() as group:

        async def send() -> None:
            for start in range(0, len(data), 100):
                piece = data[start : start + 100]
                sent = near.send_nowait(piece)
                if sent < len(piece):
                    await near.send(piece[sent:])
            await near.send_eof()

        group.start_soon(send)
        received = bytearray()
        async for chunk in far:
            received += chunk
        assert received == data
        assert near.metrics.bytes_sent == len(data)


async def test_send_nowait_leaves_a_sender_its_turn() -> None:
    async with channels() as (near, far), anyio.create_task_group() as group:
        sending = Call(group, lambda: near.send(bytes(3 * MIB)))
        await settle()
        assert near.send_nowait(b"in between") == 0
        received = 0
        while received < 3 * MIB:
            received += len(await far.receive())
        await sending.result()
        assert near.send_nowait(b"behind") == 6
        assert await far.receive() == b"behind"


async def test_send_nowait_hinders_no_other_channel() -> None:
    """Who could not send all of it does not keep a place in the queue of those who wait."""
    async with session_pair() as (client, server), anyio.create_task_group() as group:
        first, _ = await channel_pair(client, server)
        second, far = await channel_pair(client, server)
        assert first.send_nowait(bytes(3 * MIB)) < 3 * MIB
        sending = Call(group, lambda: second.send(bytes(2 * MIB)))
        received = 0
        with anyio.fail_after(LIMIT):
            while received < 2 * MIB:
                received += len(await far.receive())
            await sending.result()


async def test_nothing_is_sent_after_the_end() -> None:
    async with channels() as (near, far):
        near.send_eof_nowait()
        near.send_eof_nowait()
        with pytest.raises(anyio.ClosedResourceError):
            near.send_nowait(b"late")
        assert await receive_all(far) == b""
        far.close(exit_status=3)
        far.close(exit_status=4)
        with pytest.raises(anyio.ClosedResourceError):
            far.send_nowait(b"late")
        with pytest.raises(anyio.ClosedResourceError):
            far.send_eof_nowait()
        assert (await near.wait_closed()).exit_status == 3
        with pytest.raises(anyio.BrokenResourceError):
            near.send_nowait(b"later still")
        with pytest.raises(ValueError, match="not both"):
            near.close(exit_status=1, signal="TERM")
