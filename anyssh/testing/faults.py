"""The faults of a byte stream: the elements of a plan for :class:`~.FaultStream`.

A plan is a list of frozen values, each of which is one fault in one direction. Faults that change
bytes (:class:`FlipBit`, :class:`Insert`, :class:`Delete`, :class:`Duplicate`, :class:`Swap`) form a
pipeline in the order of the plan: each counts its offsets in the output of the one before. All
others count the bytes that leave this pipeline. The effect of a plan is therefore independent of
the sizes of the pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

__all__ = [
    "Coalesce",
    "Cut",
    "CutInSend",
    "Delay",
    "Delete",
    "Direction",
    "Duplicate",
    "Ending",
    "Fault",
    "FlipBit",
    "HalfClose",
    "Insert",
    "Report",
    "Slice",
    "Stall",
    "Swap",
    "Throttle",
]


class Direction(Enum):
    """A direction, as seen by the owner of the faulty end."""

    SEND = "send"
    RECEIVE = "receive"


class Ending(Enum):
    """How a connection ends."""

    RESET = "reset"
    """Both sides get :exc:`~anyio.BrokenResourceError`."""
    EOF = "eof"
    """Both sides get :exc:`~anyio.EndOfStream` from ``receive``, as after an orderly close."""


class Report(Enum):
    """The outcome of a ``send`` whose last bytes are cut off."""

    ERROR = "error"
    """It raises :exc:`~anyio.BrokenResourceError`."""
    SUCCESS = "success"
    """It returns, as if the bytes were lost in a buffer of the operating system."""


def _not_negative(fault: object, *names: str) -> None:
    for name in names:
        if getattr(fault, name) < 0:
            raise ValueError(f"{fault!r}: {name} must not be negative")


def _positive(fault: object, *names: str) -> None:
    for name in names:
        if not getattr(fault, name) > 0:
            raise ValueError(f"{fault!r}: {name} must be positive")


@dataclass(frozen=True, slots=True)
class Cut:
    """End the connection, in both directions, once ``after`` bytes have passed in one.

    :ivar direction: the direction whose bytes count
    :ivar after: bytes; 0 ends it in the first call
    :ivar end: how it ends
    :ivar report: the outcome of a send that extends beyond the cut; one that ends at it succeeds
    """

    direction: Direction
    after: int
    end: Ending = Ending.RESET
    report: Report = Report.ERROR

    def __post_init__(self) -> None:
        _not_negative(self, "after")


@dataclass(frozen=True, slots=True)
class CutInSend:
    """End the connection within one call of ``send``.

    :ivar number: which call, counting from 0
    :ivar after: bytes of that call that still pass; all of them if it has fewer
    :ivar end: how it ends
    :ivar report: the outcome of that call
    """

    direction: ClassVar[Direction] = Direction.SEND

    number: int
    after: int
    end: Ending = Ending.RESET
    report: Report = Report.ERROR

    def __post_init__(self) -> None:
        _not_negative(self, "number", "after")


@dataclass(frozen=True, slots=True)
class HalfClose:
    """End one direction once ``after`` bytes have passed in it; the other continues.

    The receiver gets :exc:`~anyio.EndOfStream`. If it is our sending direction, ``send`` raises
    :exc:`~anyio.BrokenResourceError` from then on.

    :ivar direction: the direction whose bytes count
    :ivar after: bytes
    """

    direction: Direction
    after: int

    def __post_init__(self) -> None:
        _not_negative(self, "after")


@dataclass(frozen=True, slots=True)
class Stall:
    """Let nothing pass after ``after`` bytes: no bytes, no end, no error; calls just wait.

    To simulate a connection that died silently, stall the *receiving* direction of both ends: sends
    then succeed until the buffers in between are full. Stalling *sending* makes ``send`` itself
    wait.

    :ivar direction: the direction to stall
    :ivar after: bytes
    :ivar seconds: how long; None means until :meth:`FaultStream.release`
    """

    direction: Direction
    after: int
    seconds: float | None = None

    def __post_init__(self) -> None:
        _not_negative(self, "after")
        if self.seconds is not None:
            _not_negative(self, "seconds")


@dataclass(frozen=True, slots=True)
class Delay:
    """Delay each piece, as it is sent or arrives, preserving their order.

    :ivar direction: the direction to delay
    :ivar seconds: the delay of each piece
    :ivar jitter: up to so many seconds more, uniformly distributed
    """

    direction: Direction
    seconds: float
    jitter: float = 0.0

    def __post_init__(self) -> None:
        _not_negative(self, "seconds", "jitter")


@dataclass(frozen=True, slots=True)
class Throttle:
    """Limit the rate: ``n`` bytes are followed by ``n / bytes_per_second`` seconds of silence.

    :ivar direction: the direction to throttle
    :ivar bytes_per_second: the maximum rate
    """

    direction: Direction
    bytes_per_second: float

    def __post_init__(self) -> None:
        _positive(self, "bytes_per_second")


@dataclass(frozen=True, slots=True)
class Slice:
    """Split what passes into pieces.

    :ivar direction: the direction to slice
    :ivar size: bytes per piece
    :ivar smallest: if given, sizes are random, between this and ``size``
    """

    direction: Direction
    size: int
    smallest: int | None = None

    def __post_init__(self) -> None:
        _positive(self, "size")
        if self.smallest is not None and not 0 < self.smallest <= self.size:
            raise ValueError(f"{self!r}: smallest must lie between 1 and size")


@dataclass(frozen=True, slots=True)
class Coalesce:
    """Join incoming bytes until there are ``size``, the stream ends, or the time is up.

    :ivar size: bytes
    :ivar within: seconds from the arrival of the first byte
    """

    direction: ClassVar[Direction] = Direction.RECEIVE

    size: int
    within: float = 0.01

    def __post_init__(self) -> None:
        _positive(self, "size", "within")


@dataclass(frozen=True, slots=True)
class FlipBit:
    """Flip one bit.

    :ivar direction: the direction to corrupt
    :ivar offset: the offset of the byte
    :ivar bit: 0 for the lowest, 7 for the highest
    """

    direction: Direction
    offset: int
    bit: int = 0

    def __post_init__(self) -> None:
        _not_negative(self, "offset")
        if not 0 <= self.bit <= 7:
            raise ValueError(f"{self!r}: bit must lie between 0 and 7")

    def editor(self) -> Editor:
        """Return the editor that carries this out."""
        return _BitFlipper(self.offset, self.offset + 1, self.bit)


@dataclass(frozen=True, slots=True)
class Insert:
    """Insert ``data`` once ``offset`` bytes have passed.

    :ivar direction: the direction to corrupt
    :ivar offset: bytes
    :ivar data: the bytes to insert
    """

    direction: Direction
    offset: int
    data: bytes

    def __post_init__(self) -> None:
        _not_negative(self, "offset")

    def editor(self) -> Editor:
        """Return the editor that carries this out."""
        return _Inserter(self.offset, self.offset, self.data)


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete ``count`` bytes, from ``offset`` on.

    :ivar direction: the direction to corrupt
    :ivar offset: bytes
    :ivar count: bytes
    """

    direction: Direction
    offset: int
    count: int = 1

    def __post_init__(self) -> None:
        _not_negative(self, "offset")
        _positive(self, "count")

    def editor(self) -> Editor:
        """Return the editor that carries this out."""
        return _Deleter(self.offset, self.offset + self.count)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Pass ``count`` bytes, from ``offset`` on, twice in a row.

    :ivar direction: the direction to corrupt
    :ivar offset: bytes
    :ivar count: bytes
    """

    direction: Direction
    offset: int
    count: int = 1

    def __post_init__(self) -> None:
        _not_negative(self, "offset")
        _positive(self, "count")

    def editor(self) -> Editor:
        """Return the editor that carries this out."""
        return _Duplicator(self.offset, self.offset + self.count)


@dataclass(frozen=True, slots=True)
class Swap:
    """Swap two neighbours: ``count`` bytes from ``offset`` on, and the next ``count`` bytes.

    The first are held until the last of the second has arrived, or the stream ends.

    :ivar direction: the direction to corrupt
    :ivar offset: bytes
    :ivar count: bytes
    """

    direction: Direction
    offset: int
    count: int = 1

    def __post_init__(self) -> None:
        _not_negative(self, "offset")
        _positive(self, "count")

    def editor(self) -> Editor:
        """Return the editor that carries this out."""
        return _Swapper(self.offset, self.offset + self.count)


Fault = (
    Cut
    | CutInSend
    | HalfClose
    | Stall
    | Delay
    | Throttle
    | Slice
    | Coalesce
    | FlipBit
    | Insert
    | Delete
    | Duplicate
    | Swap
)
"""Any fault."""


class Editor:
    """Changes the bytes of one direction as they pass; the base class changes nothing.

    :param start: the offset of the first byte concerned
    :param stop: the offset after the last one
    """

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.position: int = 0

    def feed(self, data: bytes) -> bytes:
        """Return what passes after the arrival of ``data``."""
        first = min(max(self.start - self.position, 0), len(data))
        last = min(max(self.stop - self.position, 0), len(data))
        self.position += len(data)
        before, touched, after = data[:first], data[first:last], data[last:]
        return before + self.edit(touched, self.position >= self.stop) + self.follow(after)

    def edit(self, touched: bytes, is_last: bool) -> bytes:
        """Return what passes in place of ``touched``.

        :param is_last: whether all bytes up to ``stop`` have arrived; remains true afterwards, when
            nothing is touched any more
        """
        return touched

    def follow(self, after: bytes) -> bytes:
        """Return what passes in place of bytes after ``stop``."""
        return after

    def finish(self) -> bytes:
        """Return what is still held when the stream ends."""
        return b""


class _BitFlipper(Editor):
    def __init__(self, start: int, stop: int, bit: int) -> None:
        super().__init__(start, stop)
        self.bit = bit

    def edit(self, touched: bytes, is_last: bool) -> bytes:
        return bytes(value ^ (1 << self.bit) for value in touched)


class _Deleter(Editor):
    def edit(self, touched: bytes, is_last: bool) -> bytes:
        return b""


class _Inserter(Editor):
    def __init__(self, start: int, stop: int, data: bytes) -> None:
        super().__init__(start, stop)
        self.data = data

    def edit(self, touched: bytes, is_last: bool) -> bytes:
        if not is_last:
            return touched
        data, self.data = self.data, b""
        return touched + data


class _Duplicator(Editor):
    def __init__(self, start: int, stop: int) -> None:
        super().__init__(start, stop)
        self.copy = b""

    def edit(self, touched: bytes, is_last: bool) -> bytes:
        self.copy += touched
        if not is_last:
            return touched
        copy, self.copy = self.copy, b""
        return touched + copy


class _Swapper(Editor):
    def __init__(self, start: int, stop: int) -> None:
        super().__init__(start, stop)
        self.held = b""
        self.missing = stop - start

    def edit(self, touched: bytes, is_last: bool) -> bytes:
        self.held += touched
        return b""

    def follow(self, after: bytes) -> bytes:
        second, rest = after[: self.missing], after[self.missing :]
        self.missing -= len(second)
        return second + (rest if self.missing else self.finish() + rest)

    def finish(self) -> bytes:
        held, self.held = self.held, b""
        return held
