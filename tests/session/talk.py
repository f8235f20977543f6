"""Both ends of a channel, which do what they are told, and check what arrives.

Whatever is sent is a piece of the same noise, which continues where the last piece ended. So each
piece that arrives is checked at once, even while the other end is still sending it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from random import Random

import anyio
from anyio.lowlevel import checkpoint

import anyssh
from anyssh.wire import Buffer

__all__ = ["GONE", "Bytes", "End", "Line", "Order", "patience"]

KIB, MIB = 1024, 1024 * 1024
PERIOD = 65521
NOISE = Random(0).randbytes(PERIOD) * (MIB // PERIOD + 3)
"""What is sent, from some byte on."""
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)


class Bytes:
    """One direction of bytes.

    :ivar sent: how many were accepted for sending
    :ivar received: how many have come
    :ivar is_ended: whether all were sent, and the end; noted by those who check it
    """

    def __init__(self, chance: Random) -> None:
        self._start = chance.randrange(PERIOD)
        self.sent = 0
        self.received = 0
        self.is_ended = False

    def next(self, size: int) -> bytes:
        """Return what is to be sent next."""
        return self._piece(self.sent, size)

    def take(self, data: Buffer) -> None:
        """Note what has come, which must go on where the last ended."""
        assert bytes(data) == self._piece(self.received, len(data)), "these bytes were not sent"
        self.received += len(data)

    def _piece(self, place: int, size: int) -> bytes:
        place = (self._start + place) % PERIOD
        return NOISE[place : place + size]


@dataclass
class Order:
    """What an end is told to do.

    :ivar patience: seconds after which it is cancelled
    """

    what: str
    size: int = 0
    patience: float | None = None


@dataclass
class End:
    """One end of a channel, and what it does and sees.

    :ivar is_closed: whether it has closed the channel, so that not all need have come
    :ivar saw_eof: whether it has read to the end
    :ivar status: what it has closed the channel with
    :ivar was_told: what the other end has closed the channel with
    :ivar has_begun: whether its channel is open
    :ivar has_ended: whether it has said that it sends no more
    :ivar sent_all: set when nothing more is sent
    :ivar read_all: set when nothing more is read
    :ivar over: set when it has left the channel
    """

    chance: Random
    output: Bytes
    errors: Bytes
    input: Bytes
    input_errors: Bytes
    is_closed: bool = False
    saw_eof: bool = False
    was_told: int | None = None
    status: int | None = None
    orders: deque[Order] = field(default_factory=deque)
    ordered: anyio.Event = field(default_factory=anyio.Event)
    has_begun: bool = False
    has_ended: bool = False
    sent_all: anyio.Event = field(default_factory=anyio.Event)
    read_all: anyio.Event = field(default_factory=anyio.Event)
    over: anyio.Event = field(default_factory=anyio.Event)

    def tell(self, order: Order) -> None:
        """Have something done, after everything that was ordered before."""
        self.orders.append(order)
        self.ordered.set()

    async def live(self, channel: anyssh.Channel) -> None:
        """Do what is ordered, read, and answer requests, until the channel is over."""
        self.has_begun = True
        try:
            async with channel, anyio.create_task_group() as tasks:
                tasks.start_soon(self._answer, channel.requests())
                tasks.start_soon(self._obey, channel)
                tasks.start_soon(self._read_everything, channel)
                await self.read_all.wait()
                await self.sent_all.wait()
                if not self.is_closed and channel.closed is not None:
                    self.was_told = channel.closed.exit_status
                tasks.cancel_scope.cancel()
        finally:
            # Whoever was cancelled, or leaves before the end, has closed the channel.
            self.is_closed = self.is_closed or not self.saw_eof or not self.sent_all.is_set()
            self.over.set()

    async def _obey(self, channel: anyssh.Channel) -> None:
        async with anyio.create_task_group() as askers:
            while not self.has_ended:
                while not self.orders:
                    self.ordered = anyio.Event()
                    await self.ordered.wait()
                order = self.orders.popleft()
                if order.what == "ask":
                    askers.start_soon(self._ask, order, channel)
                    continue
                try:
                    await self._do(order, channel)
                except GONE:
                    break
        self.sent_all.set()

    async def _do(self, order: Order, channel: anyssh.Channel) -> None:
        with patience(order.patience):
            match order.what:
                case "send":
                    await self._send(channel, self.output, channel.send, order.size)
                case "errors":
                    await self._send(channel, self.errors, channel.send_stderr, order.size)
                case "burst":
                    await self._send_burst(channel, order.size)
                case "eof":
                    await channel.send_eof()
                    self.has_ended = True
                case "close":
                    self.is_closed, self.status = True, order.size
                    self.has_ended = True
                    await channel.aclose(exit_status=order.size)

    async def _send(
        self,
        channel: anyssh.Channel,
        what: Bytes,
        send: Callable[[bytes], Awaitable[None]],
        size: int,
    ) -> None:
        before = channel.metrics.bytes_sent
        try:
            await send(what.next(size))
        finally:
            what.sent += channel.metrics.bytes_sent - before

    async def _send_burst(self, channel: anyssh.Channel, size: int) -> None:
        for _ in range(self.chance.randrange(1, 40)):
            piece = self.output.next(self.chance.randint(1, max(1, size // 20)))
            self.output.sent += channel.send_nowait(piece, is_urgent=self.chance.random() < 0.2)
            if self.chance.random() < 0.2:
                await checkpoint()

    async def _ask(self, order: Order, channel: anyssh.Channel) -> None:
        with suppress(*GONE), patience(order.patience):
            reply = await channel.request("are you even?", bytes(order.size))
            assert channel.closed or bool(reply) == (order.size % 2 == 0)

    async def _answer(self, requests: AsyncIterator[anyssh.IncomingRequest]) -> None:
        async for request in requests:
            with suppress(anyssh.SSHError):
                await self._reply(request)

    async def _reply(self, request: anyssh.IncomingRequest) -> None:
        await anyio.sleep(self.chance.choice((0, 0, 0.005)))
        if len(request.payload) % 2 == 0:
            await request.accept()
        else:
            await request.reject()

    # Reading

    async def _read_everything(self, channel: anyssh.Channel) -> None:
        match self.chance.randrange(4):
            case 0:
                await self._iterate(channel)
            case 1:
                channel.deliver_to(Taker(self))  # what it does not take is received below
                await self._read(channel)
            case _:
                await self._read(channel)
        self.read_all.set()

    async def _read(self, channel: anyssh.Channel) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._receive_all, channel.stderr, self.input_errors)
            self.saw_eof = await self._receive_all(channel, self.input)

    async def _iterate(self, channel: anyssh.Channel) -> None:
        """Read all that comes as one sequence."""
        async for arrival in channel.arrivals():
            match arrival:
                case anyssh.ReceivedData(data, is_stderr):
                    (self.input_errors if is_stderr else self.input).take(data)
                case anyssh.ReceivedEof():
                    self.saw_eof = True
                    self.read_all.set()
                case _:
                    with suppress(anyssh.SSHError):
                        await self._reply(arrival)
        closed = channel.closed
        self.saw_eof |= not self.is_closed and closed is not None and closed.error is None

    async def _receive_all(self, stream: anyssh.Channel | anyssh.StderrStream, what: Bytes) -> bool:
        """Receive in its own rhythm, with changes of mind; return whether the end was seen."""
        sizes = self.chance.choice(((1, 100, 5000), (1000, MIB), (65536,)))
        pauses = self.chance.choice(((0,), (0, 0, 0, 0.002, 0.02)))
        while True:
            with anyio.move_on_after(self.chance.choice((0, 0.002, math.inf))):
                try:
                    what.take(await stream.receive(self.chance.choice(sizes)))
                except anyio.EndOfStream:
                    return True
                except GONE:
                    return False
            pause = self.chance.choice(pauses)
            if pause:
                await anyio.sleep(pause)


class Taker:
    """Takes some of what comes at once."""

    def __init__(self, end: End) -> None:
        self._end = end

    def deliver(self, data: Buffer) -> int:
        size = self._end.chance.choice((0, 1, len(data), len(data)))
        size = min(size, len(data))
        self._end.input.take(data[:size])
        return size

    def deliver_eof(self) -> None:
        pass

    def channel_closed(self, by_peer: bool) -> None:
        pass


@contextmanager
def patience(seconds: float | None) -> Iterator[None]:
    """Cancel what takes longer than so many seconds; for none of them, before it begins."""
    with anyio.CancelScope() as scope:
        if seconds == 0:
            scope.cancel()
        elif seconds is not None:
            scope.deadline = anyio.current_time() + seconds
        yield


class Line:
    """A channel: the end of the client and that of the server.

    :ivar is_ours: whether the client opens it
    :ivar patience: seconds after which opening it is cancelled
    """

    def __init__(self, number: int, chance: Random) -> None:
        self.number = number
        self.is_ours = chance.random() < 0.7
        self.is_open = False
        self.patience = chance.choice((None, None, None, 0, 0.01))
        there, there_errors, back, back_errors = (Bytes(chance) for _ in range(4))
        self.client = End(Random(chance.random()), there, there_errors, back, back_errors)
        self.server = End(Random(chance.random()), back, back_errors, there, there_errors)
        self.ends = self.client, self.server

    def check(self) -> None:
        """Check that everything has come, where nobody has closed."""
        for sender, receiver in (self.ends, self.ends[::-1]):
            if receiver.is_closed:
                continue
            for what in (sender.output, sender.errors):
                assert what.sent == what.received, f"{what.sent - what.received} bytes are lost"
            if sender.status is not None:
                assert receiver.was_told == sender.status
