"""Network faults that a session with reconnect has to survive.

A server that does not know that its client was cut off (T-54), streams of tiny messages in one
direction (T-57), cuts within one write (T-59), callers and reconnects that are cancelled anywhere
(HR-73).
"""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import anyio
import pytest
from anyio.lowlevel import checkpoint

import anyssh
from anyssh.testing import Cut, Direction, Ending, FaultStream, Report

from .ends import receive_exactly, settle
from .life_support import echo, wait_for
from .reconnect_support import LIMIT, World, reconnecting, world

WARM_UP = 100
"""Reconnects after which queues of facts are full."""
TINY_MESSAGES = int(os.environ.get("ANYSSH_TINY_MESSAGES", "20000"))
RECONNECTS = int(os.environ.get("ANYSSH_RECONNECTS", "200"))
CONFIG = reconnecting(window_size=4096, max_packet_size=1024)
THERE = Random(1).randbytes(20_000)
BACK = Random(2).randbytes(20_000)

pytestmark = pytest.mark.blocking_allowed


class Sink:
    """A server's application that keeps what comes on each channel, and sends what it is told.

    :ivar received: by channel, in the order of their opening
    """

    def __init__(self, answer: bytes = b"") -> None:
        self.received: list[bytearray] = []
        self.eofs = 0
        self._answer = answer

    async def serve(self, session: anyssh.ServerSession) -> None:
        await session.serve(self._handle)

    async def _handle(self, channel: anyssh.Channel) -> None:
        got = bytearray()
        self.received.append(got)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send, channel)
            async for chunk in channel:
                got += chunk
            self.eofs += 1

    async def _send(self, channel: anyssh.Channel) -> None:
        await send_in_pieces(channel, self._answer)
        if self._answer:
            await channel.send_eof()


async def send_in_pieces(channel: anyssh.Channel, data: bytes, size: int = 700) -> None:
    for start in range(0, len(data), size):
        await channel.send(data[start : start + size])


@asynccontextmanager
async def session_in(made: World) -> AsyncIterator[anyssh.ClientSession]:
    """Give a client's session that is not reconnected by anybody."""
    async with made.client(await made.network.connect()) as session:
        yield session


# T-54


@pytest.mark.parametrize("turns", [None, *range(0, 120, 6)])
async def test_the_server_still_sees_the_old_connection(turns: int | None) -> None:
    """T-54: both sides go on writing; the old connection wakes up afterwards, or meanwhile."""
    sink = Sink(BACK)
    got = bytearray()

    async def receive() -> None:
        async for chunk in channel:
            got.extend(chunk)

    with anyio.fail_after(LIMIT):
        async with world(sink.serve, config=CONFIG) as made, session_in(made) as session:
            channel = await session.open_channel()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                await send_in_pieces(channel, THERE[:6000])
                old = made.network.last
                old.freeze()
                tasks.start_soon(send_in_pieces, channel, THERE[6000:])
                await session.wait_disconnected()
                tasks.start_soon(wake_after, turns, old.far)
                await session.reconnect(await made.network.connect())
                old.far.release()
            await channel.send_eof()
            await wait_for(lambda: sink.eofs == 1)
            assert sink.received == [THERE]
            assert got == BACK
            assert session.metrics.reconnections == 1
            assert made.server_sessions[0].metrics.reconnections == 1
            assert len(made.server_sessions) == 1
            assert made.failures == {}


async def wake_after(turns: int | None, stream: FaultStream) -> None:
    if turns is not None:
        for _ in range(turns):
            await checkpoint()
        stream.release()


@pytest.mark.parametrize("by_itself", [False, True])
async def test_a_client_comes_back_again_while_it_is_being_taken_back(by_itself: bool) -> None:
    """T-54: the server is not done yet with the old connection; that must not be the end."""
    sink = Sink(bytes(200_000))
    came_back = anyio.Event()

    def trace(event: anyssh.TraceEvent) -> None:
        if event.id == anyssh.TraceId.SERVER_SESSION_RECONNECTING:
            came_back.set()

    async with world(sink.serve, trace=trace) as made:
        transport = made.network if by_itself else await made.network.connect()
        async with made.client(transport) as session, anyio.create_task_group() as tasks:
            channel = await session.open_channel()
            await wait_for(lambda: len(sink.received) == 1)
            made.network.last.freeze()
            if not by_itself:
                tasks.start_soon(made.keep_connected, session)
            await came_back.wait()
            made.network.last.cut()
            with anyio.fail_after(LIMIT):
                got = len(await channel.receive())
                while got < 200_000:
                    got += len(await channel.receive())
                await channel.send(b"still here")
                await channel.send_eof()
                await wait_for(lambda: sink.eofs == 1)
            assert sink.received == [b"still here"]
            tasks.cancel_scope.cancel()


@pytest.mark.trio
@pytest.mark.parametrize("direction", Direction)
async def test_a_stream_that_dies_silently_while_keys_are_exchanged(
    autojump_clock: object, direction: Direction
) -> None:
    """Silence costs the stream, as at any other time, and not the session."""
    sink = Sink()
    async with world(sink.serve) as made, made.client(made.network) as session:
        channel = await session.open_channel()
        await settle()
        made.network.last.near.stall(direction)
        await session.rekey()
        await channel.send(b"after")
        await channel.send_eof()
        await wait_for(lambda: sink.eofs == 1)
        assert sink.received == [b"after"]
        assert session.metrics.reconnections == 1


# T-57


@pytest.mark.timeout(max(90, TINY_MESSAGES // 1000))
async def test_tiny_messages_one_way() -> None:
    """T-57: each is a packet of its own, and the receiver has nothing to say."""
    sink = Sink()
    count, cuts = TINY_MESSAGES, 5
    data = bytes(number % 251 for number in range(count))
    async with world(sink.serve) as made, session_in(made) as session:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(made.keep_connected, session)
            channel = await session.open_channel()
            for number in range(count):
                if number % (count // cuts) == count // cuts // 2:
                    made.network.last.cut()
                await channel.send(data[number : number + 1])
            await channel.send_eof()
            await wait_for(lambda: sink.eofs == 1)
            tasks.cancel_scope.cancel()
        assert sink.received == [data]
        assert session.metrics.reconnections == cuts
        assert made.failures == {}


# T-59


MESSAGE = b"thirty-two bytes of one message."


@pytest.mark.parametrize("report", Report)
@pytest.mark.parametrize("end", Ending)
async def test_a_cut_inside_one_write(end: Ending, report: Report) -> None:
    """T-59: the send returns, the message comes exactly once, and the next one after it."""
    start, size = await _place_of_the_message()
    for after in range(size + 1):
        plan = [Cut(Direction.SEND, start + after, end, report)]
        sink = Sink()
        with anyio.fail_after(LIMIT):
            async with world(sink.serve, [plan]) as made, session_in(made) as session:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(made.keep_connected, session)
                    channel = await session.open_channel()
                    await settle()
                    await channel.send(MESSAGE)
                    await channel.send(b"next")
                    await channel.send_eof()
                    await wait_for(lambda sink=sink: sink.eofs == 1)
                    tasks.cancel_scope.cancel()
                assert made.network.connections[0].near.is_cut
                assert sink.received == [MESSAGE + b"next"], f"cut after {after} of {size} bytes"
                assert session.metrics.reconnections == 1


async def _place_of_the_message() -> tuple[int, int]:
    """Return where in a stream the message begins, and how long its packet is."""
    sink = Sink()
    async with world(sink.serve) as made, session_in(made) as session:
        channel = await session.open_channel()
        await settle()
        near = made.network.last.near
        before = near.bytes_sent
        await channel.send(MESSAGE)
        await wait_for(lambda: sink.received == [MESSAGE])
        return before, near.bytes_sent - before


@pytest.mark.parametrize("turns", range(6))
async def test_a_send_that_is_cancelled_around_a_cut(turns: int) -> None:
    """T-59: what a cancelled send has sent is a whole number of messages, as ever."""
    sink = Sink()
    with anyio.fail_after(LIMIT):
        async with world(sink.serve) as made, session_in(made) as session:
            channel = await session.open_channel()
            await channel.send(b"before ")
            await settle()
            made.network.last.near.stall(Direction.SEND)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(channel.send, MESSAGE)
                    for _ in range(turns):
                        await checkpoint()
                    scope.cancel()
            sent = channel.metrics.bytes_sent
            made.network.last.cut()
            await session.wait_disconnected()
            await session.reconnect(await made.network.connect())
            await channel.send(b" after")
            await channel.send_eof()
            await wait_for(lambda: sink.eofs == 1)
            assert sink.received in ([b"before  after"], [b"before " + MESSAGE + b" after"])
            assert sent == len(sink.received[0]) - len(b" after")


# HR-73


async def test_a_reconnect_that_is_cancelled_anywhere() -> None:
    """HR-73: the session can be reconnected afterwards, and nothing is lost."""
    sink = Sink(BACK)
    got = bytearray()

    async def receive() -> None:
        async for chunk in channel:
            got.extend(chunk)

    async def reconnect() -> bool:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def cancel() -> None:
                    for _ in range(turns):
                        await checkpoint()
                    scope.cancel()

                tasks.start_soon(cancel)
                await session.reconnect(await made.network.connect())
                tasks.cancel_scope.cancel()
        return not scope.cancel_called

    with anyio.fail_after(60):
        async with world(sink.serve, config=CONFIG) as made, session_in(made) as session:
            channel = await session.open_channel()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                tasks.start_soon(send_in_pieces, channel, THERE, 60)
                for turns in range(400):  # noqa: B007  # reconnect reads it
                    made.network.last.cut()
                    await session.wait_disconnected()
                    if await reconnect():
                        break
                else:
                    raise AssertionError("no reconnect is complete after 400 turns")
            await channel.send_eof()
            await wait_for(lambda: sink.eofs == 1)
            assert sink.received == [THERE]
            assert got == BACK
            assert made.failures == {}
            assert turns > 5


async def test_a_cancelled_body_leaves_a_disconnected_session_at_once() -> None:
    sink = Sink()
    with anyio.fail_after(2):
        async with world(sink.serve) as made, session_in(made) as session:
            await session.open_channel()
            made.network.last.cut()
            await session.wait_disconnected()


async def test_callers_wait_while_there_is_no_connection() -> None:
    """A cut is a slow call, nothing else: of whatever kind, begun before it or after."""
    sink = Sink()

    async def serve(session: anyssh.ServerSession) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sink.serve, session)
            async for request in session.requests():
                await request.accept(request.payload)

    with anyio.fail_after(LIMIT):
        async with world(serve) as made, session_in(made) as session:
            channel = await session.open_channel()
            old = made.network.last
            old.near.stall(Direction.RECEIVE)
            answers: dict[str, object] = {}

            async def ask(name: str) -> None:
                answers[name] = (await session.request(name, name.encode())).payload

            async def open_another() -> None:
                answers["channel"] = await session.open_channel()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, "before")
                await settle()
                old.cut()
                await session.wait_disconnected()
                tasks.start_soon(ask, "after")
                tasks.start_soon(open_another)
                tasks.start_soon(channel.send, b"sent meanwhile")
                await settle()
                assert answers == {}
                await session.reconnect(await made.network.connect())
            assert answers["before"] == b"before"
            assert answers["after"] == b"after"
            await wait_for(lambda: sink.received == [b"sent meanwhile", b""])


# T-72


def is_ours(found: object) -> bool:
    """Tell what Trio might not keep: it collects its own cancel scopes, once there are many."""
    return str(type(found).__module__).startswith("anyssh")


def is_of_contour(found: object) -> bool:
    return type(found).__module__ == "anyssh.contour"


@pytest.mark.timeout(max(90, RECONNECTS // 10))
async def test_reconnecting_leaves_nothing_behind() -> None:
    """T-72: tasks, files and objects stay as many as they were after the first reconnects."""

    async def serve(session: anyssh.ServerSession) -> None:
        await session.serve(echo)

    async def reconnect(times: int) -> tuple[int, int, int]:
        for number in range(times):
            word = b"word %d" % number
            made.network.last.cut()
            await channel.send(word)
            await session.wait_disconnected()
            await session.reconnect(await made.network.connect())
            assert await receive_exactly(channel, len(word)) == word
            made.network.connections[:-1] = []
        await settle()
        gc.collect()
        return (
            # The contour has one for each second, up to a bound.
            sum(is_ours(found) and not is_of_contour(found) for found in gc.get_objects()),
            len(anyio.get_running_tasks()),
            len(os.listdir("/proc/self/fd")),
        )

    async with world(serve) as made, session_in(made) as session:
        channel = await session.open_channel()
        await reconnect(WARM_UP)
        objects, *rest = await reconnect(RECONNECTS // 2)
        more_objects, *more_rest = await reconnect(RECONNECTS // 2)
        assert more_rest == rest
        assert more_objects - objects < 20
        assert session.metrics.reconnections == WARM_UP + RECONNECTS // 2 * 2
