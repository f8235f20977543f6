"""Random lives of real sessions (T-71): channels at work while streams fail all the time.

Where :mod:`tests.protocol.test_reconnect_simulated` uses bare cores, here are whole sessions: tasks
that send and are cancelled, readers that are slow and are cancelled, requests, EOF, closes, new
keys, and connections that are cut, freeze, lose a bit, or arrive in slices. Time is virtual.

What each end has sent and received is recorded. At any time the latter is a prefix of the former,
and in the end they are equal, unless the receiver closed its channel first.

``ANYSSH_SESSION_LIVES=500`` runs that many, starting with ``ANYSSH_FIRST_LIFE``.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import anyio
import pytest

import anyssh
from anyssh.testing import Cut, CutInSend, Delay, Direction, Ending, Fault, FlipBit, Slice, Stall

from .reconnect_support import World, reconnecting, world

LIVES = int(os.environ.get("ANYSSH_SESSION_LIVES", "12"))
FIRST = int(os.environ.get("ANYSSH_FIRST_LIFE", "0"))
STEPS = 60
FAULTY = 8
"""Connections that fail by a plan; later ones fail only when they are told to."""
PATIENCE = 900.0
"""Seconds of a clock that jumps."""
CONFIG = reconnecting(window_size=4096, max_packet_size=1024, keep_alive_interval=2.0)
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)

pytestmark = [pytest.mark.trio, pytest.mark.timeout(max(120, LIVES * 20))]


@dataclass
class Order:
    """What an end is told to do.

    :ivar patience: seconds after which it is cancelled
    """

    what: str
    data: bytes = b""
    patience: float | None = None


@dataclass
class End:
    """One end of a channel, and what it did and saw."""

    name: str
    chance: Random
    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    has_closed: bool = False
    saw_eof: bool = False
    answers: int = 0
    orders: deque[Order] = field(default_factory=deque)
    ordered: anyio.Event = field(default_factory=anyio.Event)
    done: anyio.Event = field(default_factory=anyio.Event)
    over: anyio.Event = field(default_factory=anyio.Event)

    def tell(self, order: Order) -> None:
        """Have something done, after everything that was ordered before."""
        self.orders.append(order)
        self.ordered.set()

    async def live(self, channel: anyssh.Channel) -> None:
        """Do what is ordered, read, and answer requests, until the channel is over."""
        async with channel, anyio.create_task_group() as tasks:
            tasks.start_soon(self._answer, channel)
            tasks.start_soon(self._obey, channel)
            await self._read(channel)
            await self.done.wait()
            tasks.cancel_scope.cancel()
        self.over.set()

    async def _obey(self, channel: anyssh.Channel) -> None:
        order = Order("nothing")
        while order.what not in ("eof", "close"):
            while not self.orders:
                self.ordered = anyio.Event()
                await self.ordered.wait()
            order = self.orders.popleft()
            try:
                await self._do(order, channel)
            except GONE:
                break
        self.done.set()

    async def _do(self, order: Order, channel: anyssh.Channel) -> None:
        before = channel.metrics.bytes_sent
        with anyio.move_on_after(order.patience or PATIENCE) as scope:
            match order.what:
                case "send":
                    try:
                        await channel.send(order.data)
                    finally:
                        taken = channel.metrics.bytes_sent - before
                        self.sent += order.data[:taken]
                    assert taken == len(order.data)
                case "ask":
                    reply = await channel.request("are you even?", order.data)
                    is_even = len(order.data) % 2 == 0
                    assert reply.is_success == is_even or (is_even and channel.closed is not None)
                    self.answers += 1
                case "eof":
                    await channel.send_eof()
                case "close":
                    self.has_closed = True
                    await channel.aclose()
        assert order.patience or not scope.cancelled_caught, f"{self.name} hangs in {order.what}"

    async def _answer(self, channel: anyssh.Channel) -> None:
        async for request in channel.requests():
            await anyio.sleep(self.chance.choice((0, 0, 0.1)))
            if len(request.payload) % 2 == 0:
                await request.accept()
            else:
                await request.reject()

    async def _read(self, channel: anyssh.Channel) -> None:
        while True:
            with anyio.move_on_after(self.chance.choice((0, 0.1, PATIENCE))):
                try:
                    self.received += await channel.receive(self.chance.choice((1, 100, 5000)))
                except anyio.EndOfStream:
                    self.saw_eof = True
                    return
                except GONE:
                    return
            await anyio.sleep(self.chance.choice((0, 0, 0, 0.01, 0.3)))


class Life:
    """A session, 2 to 5 channels, and what happens to them."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        count = self.chance.randint(2, 5)
        self.lines = [
            (End(f"client {number}", self._some()), End(f"server {number}", self._some()))
            for number in range(count)
        ]
        self.reconnections = 0

    def _some(self) -> Random:
        return Random(self.chance.random())

    # What happens

    def plans(self) -> Iterator[list[Fault]]:
        """Yield how the first connections fail; not before the client can be authenticated."""
        for number in range(FAULTY):
            least = 4000 if number == 0 else 0
            direction = self.chance.choice(list(Direction))
            place = least + self.chance.randrange(6000)
            end = self.chance.choice(list(Ending))
            kinds: list[list[Fault]] = [
                [Cut(direction, place, end)],
                [CutInSend(least // 100 + self.chance.randrange(40), self.chance.randrange(300))],
                [Stall(way, place) for way in Direction],
                [Slice(direction, 50, 1), Cut(direction, place, end)],
                [Delay(direction, 0.05, 0.2), Cut(direction, place)],
            ]
            if number == 0:  # a key exchange that was tampered with ends the session, rightly
                kinds.append([FlipBit(direction, place, self.chance.randrange(8))])
            yield self.chance.choice(kinds)

    def order(self) -> tuple[End, Order]:
        """Draw what an end is told to do."""
        end = self.chance.choice(self.chance.choice(self.lines))
        patience = self.chance.choice((None, None, None, 0, 0.2, 3))
        match self.chance.randrange(10):
            case 0 | 1:
                return end, Order("ask", bytes(self.chance.randrange(6)), patience)
            case 2 if self.chance.random() < 0.2:
                return end, Order(self.chance.choice(("eof", "eof", "close")))
        size = self.chance.choice((1, 50, 3000, 20_000))
        return end, Order("send", self.chance.randbytes(self.chance.randint(1, size)), patience)

    async def happen(self, made: World, session: anyssh.ClientSession) -> None:
        """Let things happen, one after the other."""
        for _ in range(STEPS):
            match self.chance.randrange(20):
                case 0:
                    made.network.last.cut()
                case 1:
                    made.network.last.freeze()
                case 2:
                    made.network.last.near.stall()
                case 3:
                    await self._rekey(self.chance.choice([session, made.server_sessions[-1]]))
                case 4 | 5 | 6 | 7:
                    await anyio.sleep(self.chance.choice((0, 0.01, 0.5, 3)))
                case _:
                    end, order = self.order()
                    end.tell(order)
            self.check()

    async def _rekey(self, session: anyssh.Session) -> None:
        """Ask for new keys, and do not wait until they are there."""
        with anyio.move_on_after(self.chance.choice((0, 0.1, 5))):
            await session.rekey()

    # The promise

    def check(self) -> None:
        """Check that nothing was lost, doubled or brought out of order so far."""
        for line in self.lines:
            for sender, receiver in (line, line[::-1]):
                # What is being sent is noted when that is over.
                size = min(len(sender.sent), len(receiver.received))
                assert receiver.received[:size] == sender.sent[:size], sender.name

    def check_end(self) -> None:
        """Check that everything has come."""
        for line in self.lines:
            for sender, receiver in (line, line[::-1]):
                if receiver.has_closed:
                    assert sender.sent.startswith(receiver.received), sender.name
                else:
                    assert sender.sent == receiver.received, sender.name
                    assert receiver.saw_eof, receiver.name

    async def run(self) -> None:
        """Live from the beginning to the end."""
        with anyio.fail_after(PATIENCE):
            async with (
                world(self._serve, list(self.plans()), config=CONFIG) as made,
                made.client(made.network) as session,
            ):
                await self._live(made, session)
                self.reconnections = session.metrics.reconnections

    async def _live(self, made: World, session: anyssh.ClientSession) -> None:
        async with anyio.create_task_group() as tasks:
            for number, (ours, _) in enumerate(self.lines):
                channel = await session.open_channel("life", payload=bytes([number]))
                tasks.start_soon(ours.live, channel)
            await self.happen(made, session)
            for line in self.lines:
                for end in line:
                    end.tell(Order("eof"))
            for line in self.lines:
                for end in line:
                    await end.over.wait()
        self.check_end()

    async def _serve(self, session: anyssh.ServerSession) -> None:
        async with anyio.create_task_group() as tasks:
            async for opening in session.incoming_channels():
                end = self.lines[opening.payload[0]][1]
                tasks.start_soon(end.live, await opening.accept())


async def test_lives(autojump_clock: object) -> None:
    """T-71, for sessions: ends that are cancelled, streams that fail at any byte."""
    reconnections = 0
    for seed in range(FIRST, FIRST + LIVES):
        life = Life(seed)
        try:
            await life.run()
        except BaseException as error:
            error.add_note(f"this was life {seed}")
            raise
        reconnections += life.reconnections
    assert reconnections > 2 * LIVES
