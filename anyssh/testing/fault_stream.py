"""A byte stream with planned faults, reproducible to the byte.

:class:`FaultStream` wraps one end of a connection. Each direction has a :class:`_Lane`, which knows
the direction's faults and how many bytes have passed: bytes go through the lane's editors, are
split into pieces that never span a fault, wait until the lane lets them pass, and are counted.
There are no background tasks; everything happens in the calls of the owner, so the same calls
with the same plan and seed yield the same faults. All waiting uses AnyIO, so a test's clock
controls it.

Each call runs in a cancel scope of its lane. A cut or a close cancels the scope, and the call then
raises the reason.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from random import Random
from typing import Any, TypeVar

from anyio import (
    BrokenResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    Event,
    ResourceGuard,
    current_time,
    sleep_until,
)
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint

from .faults import (
    Coalesce,
    Cut,
    CutInSend,
    Delay,
    Delete,
    Direction,
    Duplicate,
    Editor,
    Ending,
    Fault,
    FlipBit,
    HalfClose,
    Insert,
    Report,
    Slice,
    Stall,
    Swap,
    Throttle,
)
from .memory import MemoryStream

__all__ = ["FaultStream"]

T = TypeVar("T")


class _State(Enum):
    """The state of the connection."""

    OPEN = auto()
    CUT = auto()
    CLOSED = auto()


class _Half(Enum):
    """The state of one direction."""

    OPEN = auto()
    ENDED_BY_OWNER = auto()
    ENDED_BY_PEER = auto()
    ENDED_BY_PLAN = auto()


class _Gate:
    """One stall: shut once ``after`` bytes have passed, until its time is up or it is released.

    Its time starts when the last of these bytes passes.
    """

    def __init__(self, after: int, seconds: float | None) -> None:
        self.after = after
        self.seconds = math.inf if seconds is None else seconds
        self.opens_at = math.nan
        self.released = False
        self._event: Event | None = None

    def shut(self) -> None:
        if math.isnan(self.opens_at):
            self.opens_at = current_time() + self.seconds

    async def wait(self) -> None:
        self.shut()
        while not self.released and current_time() < self.opens_at:
            self._event = Event()
            with CancelScope(deadline=self.opens_at):
                await self._event.wait()

    def release(self) -> None:
        self.released = True
        if self._event is not None:
            self._event.set()


class _Slicer:
    """The boundaries of one :class:`Slice`, computed on demand."""

    def __init__(self, fault: Slice, random: Random) -> None:
        self._fault = fault
        self._random = random
        self._boundary = 0

    def next_boundary(self, position: int) -> int:
        size = self._fault.size
        while self._boundary <= position:
            smallest = self._fault.smallest
            self._boundary += size if smallest is None else self._random.randint(smallest, size)
        return self._boundary


class _Lane:
    """One direction: its faults, and its position."""

    def __init__(self, direction: Direction, plan: Iterable[Fault], seed: int) -> None:
        self.position = 0
        self.half = _Half.OPEN
        self.scope: CancelScope | None = None
        self.not_before = -math.inf
        # One source for each use: drawing for one must not affect the others.
        self._jitter = _random(seed, direction, "jitter")
        self._editors: list[Editor] = []
        self._ends: list[Cut | HalfClose] = []
        self._gates: list[_Gate] = []
        self._slicers: list[_Slicer] = []
        self._delays: list[Delay] = []
        self._rate = math.inf
        self.cuts_in_send: dict[int, CutInSend] = {}
        self.coalesce: Coalesce | None = None
        for index, fault in enumerate(plan):
            if fault.direction is direction:
                self._add(fault, _random(seed, direction, index))
        self._ends.sort(key=lambda end: end.after)
        self._gates.sort(key=lambda gate: gate.after)

    def _add(self, fault: Fault, random: Random) -> None:
        match fault:
            case Cut() | HalfClose():
                self._ends.append(fault)
            case CutInSend():
                self.cuts_in_send[fault.number] = fault
            case Stall():
                self._gates.append(_Gate(fault.after, fault.seconds))
            case Delay():
                self._delays.append(fault)
            case Throttle():
                self._rate = min(self._rate, fault.bytes_per_second)
            case Slice():
                self._slicers.append(_Slicer(fault, random))
            case Coalesce():
                self.coalesce = fault
            case FlipBit() | Insert() | Delete() | Duplicate() | Swap():
                self._editors.append(fault.editor())

    def edit(self, data: bytes) -> bytes:
        """Return ``data`` as changed by the editors."""
        for editor in self._editors:
            data = editor.feed(data)
        return data

    def finish(self) -> bytes:
        """Return what the editors still hold at the end of the direction."""
        data = b""
        for editor in self._editors:
            data = editor.feed(data) + editor.finish()
        return data

    def delay(self) -> None:
        """Delay the piece that has arrived."""
        if self._delays:
            seconds = sum(
                delay.seconds + self._jitter.uniform(0, delay.jitter) for delay in self._delays
            )
            self.not_before = max(self.not_before, current_time() + seconds)

    def piece_size(self, available: int) -> int:
        """Return how many bytes may pass at once."""
        places = [end.after for end in self._ends] + [gate.after for gate in self._gates]
        places += [slicer.next_boundary(self.position) for slicer in self._slicers]
        ahead = [place - self.position for place in places if place > self.position]
        return min([available, *ahead])

    def passed(self, count: int) -> None:
        """Count bytes that have passed."""
        self.position += count
        if self._rate < math.inf:
            start = max(self.not_before, current_time())
            self.not_before = start + count / self._rate
        for gate in self._gates:
            if gate.after <= self.position:
                gate.shut()

    def due_end(self) -> Cut | HalfClose | None:
        """Remove and return the next end that is due, if any."""
        if self._ends and self._ends[0].after <= self.position:
            return self._ends.pop(0)
        return None

    async def wait_for_gates(self) -> None:
        """Wait while the direction is stalled."""
        while self._gates and self._gates[0].after <= self.position:
            gate = self._gates[0]
            await gate.wait()
            self._gates.remove(gate)

    @property
    def is_early(self) -> bool:
        """Whether the next bytes are still delayed."""
        return self.not_before > current_time()

    def stall(self) -> None:
        """Let nothing pass from here on."""
        self._gates.insert(0, _Gate(self.position, None))

    def release(self) -> None:
        """Open the gates that were reached."""
        for gate in self._gates:
            if gate.after <= self.position:
                gate.release()

    def interrupt(self) -> None:
        """Cancel the call in progress."""
        if self.scope is not None:
            self.scope.cancel()


def _random(*seed: object) -> Random:
    """Return a source that yields the same numbers in every run."""
    return Random(" ".join(map(str, seed)))  # noqa: S311


class FaultStream(ByteStream):
    """A wrapper of a byte stream that cuts, stalls, slices, delays and corrupts as planned.

    With an empty plan it changes nothing.

    :param inner: the stream to wrap, owned from now on
    :param plan: the faults; see :mod:`anyssh.testing`
    :param seed: for everything random
    """

    def __init__(self, inner: ByteStream, plan: Iterable[Fault] = (), *, seed: int = 0) -> None:
        plan = tuple(plan)
        self._inner = inner
        self._inner_is_closed = False
        self._state = _State.OPEN
        self._ending: Ending | None = None
        self._inner_error: BrokenResourceError | None = None
        self._outgoing = _Lane(Direction.SEND, plan, seed)
        self._incoming = _Lane(Direction.RECEIVE, plan, seed)
        self._sends = 0
        self._ready = bytearray()
        self._gather_until = -math.inf
        self._receive_guard = ResourceGuard("reading from")
        self._send_guard = ResourceGuard("writing to")

    @property
    def bytes_sent(self) -> int:
        """Bytes passed to the inner stream, after all changes."""
        return self._outgoing.position

    @property
    def bytes_received(self) -> int:
        """Bytes returned to our caller, after all changes."""
        return self._incoming.position

    @property
    def sends(self) -> int:
        """Calls of :meth:`send` so far, as counted by :class:`CutInSend`."""
        return self._sends

    @property
    def is_cut(self) -> bool:
        """Whether the connection was ended, by the plan or by :meth:`cut`."""
        return self._ending is not None

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the inner stream."""
        return self._inner.extra_attributes

    def cut(self, end: Ending = Ending.RESET) -> None:
        """End the connection now, and wake waiting calls.

        If the inner stream is a memory stream, it is ended at once. Any other is closed by a
        waiting call, or else by the next one.

        :param end: how the connection ends
        """
        self._end(end)

    def stall(self, *directions: Direction) -> None:
        """Let nothing pass from now on, until :meth:`release`.

        :param directions: both by default
        """
        for direction in directions or Direction:
            self._lane(direction).stall()

    def release(self, *directions: Direction) -> None:
        """End the present stalls; later stalls of the plan still occur.

        :param directions: both by default
        """
        for direction in directions or Direction:
            self._lane(direction).release()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive at least one and at most ``max_bytes`` bytes.

        :param max_bytes: the most bytes to return
        :raises ValueError: ``max_bytes`` is less than 1
        :raises ~anyio.EndOfStream: the peer or the plan ended this direction
        :raises ~anyio.ClosedResourceError: this end was closed
        :raises ~anyio.BrokenResourceError: the connection was reset
        :raises ~anyio.BusyResourceError: another task is receiving
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be a positive integer, not {max_bytes!r}")
        with self._receive_guard:
            await checkpoint()
            return await self._run(self._incoming, partial(self._receive, max_bytes))

    async def send(self, item: bytes) -> None:
        """Send ``item``, as far as the plan lets it pass.

        :param item: the bytes
        :raises ~anyio.ClosedResourceError: this end was closed, or :meth:`send_eof` was called
        :raises ~anyio.BrokenResourceError: the connection was cut or reset
        :raises ~anyio.BusyResourceError: another task is sending
        """
        with self._send_guard:
            await checkpoint()
            await self._run(self._outgoing, partial(self._send, bytes(item)))

    async def send_eof(self) -> None:
        """Send what is still held, and end our direction.

        :raises ~anyio.ClosedResourceError: this end was closed
        :raises ~anyio.BrokenResourceError: the connection was cut or reset
        :raises ~anyio.BusyResourceError: another task is sending
        """
        with self._send_guard:
            await checkpoint()
            await self._run(self._outgoing, self._send_eof)

    async def aclose(self) -> None:
        """Close both streams; bytes still held are lost."""
        self._state = _State.CLOSED
        self._ready.clear()
        self._outgoing.interrupt()
        self._incoming.interrupt()
        if self._inner_is_closed:
            await checkpoint()
        else:
            self._inner_is_closed = True
            await self._inner.aclose()

    def _lane(self, direction: Direction) -> _Lane:
        return self._outgoing if direction is Direction.SEND else self._incoming

    async def _run(self, lane: _Lane, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call that a cut or a close may end at any time."""
        with CancelScope() as lane.scope:
            try:
                return await call()
            except (BrokenResourceError, ClosedResourceError, EndOfStream):
                if self._state is _State.OPEN:
                    raise
            finally:
                lane.scope = None
        await self._close_inner()
        raise self._error(lane)

    def _error(self, lane: _Lane) -> Exception:
        if self._state is _State.CLOSED:
            return ClosedResourceError("this stream was closed")
        if self._ending is Ending.EOF and lane is self._incoming:
            return EndOfStream()
        return BrokenResourceError("the connection was cut by a fault")

    async def _receive(self, max_bytes: int) -> bytes:
        lane = self._incoming
        await self._perform_due_ends()
        while True:
            if self._state is not _State.OPEN:
                raise self._error(lane)
            if lane.half is _Half.ENDED_BY_PLAN:
                raise EndOfStream
            await lane.wait_for_gates()
            if self._is_gathering or not self._ready:
                await self._fill(max_bytes)
            elif lane.is_early:
                await sleep_until(lane.not_before)
            else:
                break
        count = lane.piece_size(min(len(self._ready), max_bytes))
        data = bytes(self._ready[:count])
        del self._ready[:count]
        lane.passed(count)
        # Nothing from here on can be cancelled, so the bytes taken are not lost.
        await self._perform_due_ends()
        return data

    @property
    def _is_gathering(self) -> bool:
        coalesce = self._incoming.coalesce
        return (
            coalesce is not None
            and len(self._ready) < coalesce.size
            and self._incoming.half is _Half.OPEN
            and current_time() < self._gather_until
        )

    async def _fill(self, max_bytes: int) -> None:
        """Receive from the inner stream; return without bytes when the time for joining is up."""
        lane = self._incoming
        if lane.half is _Half.ENDED_BY_PEER:
            if self._inner_error is None:
                raise EndOfStream
            raise BrokenResourceError("the inner stream broke") from self._inner_error
        deadline = self._gather_until if self._ready else math.inf
        data = b""
        with CancelScope(deadline=deadline):
            try:
                data = lane.edit(await self._inner.receive(max_bytes))
            except EndOfStream:
                data = lane.finish()
                lane.half = _Half.ENDED_BY_PEER
            except BrokenResourceError as error:
                # Raised once everything received before was delivered and nothing stalls.
                self._inner_error = error
                lane.half = _Half.ENDED_BY_PEER
        if data:
            lane.delay()
            if lane.coalesce is not None and not self._ready:
                self._gather_until = current_time() + lane.coalesce.within
            self._ready += data

    async def _send(self, data: bytes) -> None:
        lane = self._outgoing
        await self._perform_due_ends()
        self._check_send()
        cut = lane.cuts_in_send.get(self._sends)
        self._sends += 1
        data = lane.edit(data)
        lane.delay()
        if cut is None:
            await self._pass(data)
            return
        await self._pass(data[: cut.after])
        await self._perform(cut)
        if cut.report is Report.ERROR:
            raise self._error(lane)

    def _check_send(self) -> None:
        if self._state is not _State.OPEN:
            raise self._error(self._outgoing)
        if self._outgoing.half is _Half.ENDED_BY_OWNER:
            raise ClosedResourceError("send_eof() was called; nothing more can be sent")
        if self._outgoing.half is _Half.ENDED_BY_PLAN:
            raise BrokenResourceError("this direction was closed by a fault")

    async def _pass(self, data: bytes) -> None:
        """Send ``data`` in pieces, until all has passed or the plan ends the connection."""
        lane = self._outgoing
        start = 0
        while start < len(data):
            await lane.wait_for_gates()
            if lane.is_early:
                await sleep_until(lane.not_before)
                continue
            stop = start + lane.piece_size(len(data) - start)
            await self._inner.send(data[start:stop])
            lane.passed(stop - start)
            start = stop
            end = await self._perform_due_ends()
            if end is not None and start < len(data):
                if isinstance(end, Cut) and end.report is Report.SUCCESS:
                    return
                self._check_send()

    async def _send_eof(self) -> None:
        lane = self._outgoing
        await self._perform_due_ends()
        if self._state is not _State.OPEN:
            raise self._error(lane)
        if lane.half is _Half.OPEN:
            await self._pass(lane.finish())
            await lane.wait_for_gates()
            if lane.half is _Half.OPEN:
                await self._inner.send_eof()
                lane.half = _Half.ENDED_BY_OWNER

    async def _perform_due_ends(self) -> Cut | HalfClose | None:
        """Carry out the ends that are due; return the last one."""
        last = None
        for lane in (self._outgoing, self._incoming):
            while (end := lane.due_end()) is not None:
                await self._perform(end)
                last = end
        return last

    async def _perform(self, end: Cut | CutInSend | HalfClose) -> None:
        if self._state is not _State.OPEN:
            return
        if isinstance(end, HalfClose):
            lane = self._lane(end.direction)
            if end.direction is Direction.SEND and lane.half is _Half.OPEN:
                with CancelScope(shield=True):
                    await self._inner.send_eof()
            lane.half = _Half.ENDED_BY_PLAN
        else:
            self._end(end.end, cause=self._lane(end.direction))
            await self._close_inner()

    def _end(self, end: Ending, *, cause: _Lane | None = None) -> None:
        """End the connection, and wake waiting calls except for the one that caused it."""
        if self._state is not _State.OPEN:
            return
        self._state = _State.CUT
        self._ending = end
        self._ready.clear()
        if isinstance(self._inner, MemoryStream):
            self._inner_is_closed = True
            if end is Ending.RESET:
                self._inner.abort()
            else:
                self._inner.close()
        elif isinstance(self._inner, FaultStream):
            self._inner.cut(end)
        for lane in (self._outgoing, self._incoming):
            if lane is not cause:
                lane.interrupt()

    async def _close_inner(self) -> None:
        """Close the inner stream at once, whatever is being cancelled."""
        if self._inner_is_closed:
            return
        self._inner_is_closed = True
        if self._ending is Ending.RESET:
            _linger_not(self._inner)
        with CancelScope(shield=True) as scope:
            scope.cancel()
            await self._inner.aclose()


def _linger_not(stream: ByteStream) -> None:
    """Make a TCP socket reset its connection when closed, unless it is closed already."""
    with suppress(OSError, AttributeError):  # raised by closed sockets
        raw_socket = stream.extra(SocketAttribute.raw_socket, None)
        if raw_socket is not None and raw_socket.family in (socket.AF_INET, socket.AF_INET6):
            raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
