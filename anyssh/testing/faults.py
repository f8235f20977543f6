"""What can go wrong with a byte stream: the parts of a plan for :class:`~.FaultStream`.

A plan is a list of frozen values, each of which stands for one fault in one direction. Faults that
change bytes (:class:`FlipBit`, :class:`Insert`, :class:`Delete`, :class:`Duplicate`,
:class:`Swap`) work one after the other, in the order of the plan, like programs joined by pipes:
each counts its offsets in what the one before it lets through. All others count the bytes that
come out of them. So a plan does the same whatever the sizes of the pieces are.
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
    """A direction as the owner of the faulty end sees it."""

    SEND = "send"
    RECEIVE = "receive"


class Ending(Enum):
    """How a connection ends."""

    RESET = "reset"
    """Both sides get :exc:`~anyio.BrokenResourceError`."""
    EOF = "eof"
    """Both sides get :exc:`~anyio.EndOfStream` from ``receive``, as after an orderly close."""


class Report(Enum):
    """What a ``send`` tells whose last bytes are cut off."""

    ERROR = "error"
    """It raises :exc:`~anyio.BrokenResourceError`."""
    SUCCESS = "success"
    """It returns, as when the bytes are lost in a buffer of the operating system."""


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
    """End the connection, both ways, as soon as ``after`` bytes have passed in one direction.

    :ivar direction: whose bytes are meant
    :ivar after: bytes; 0 ends it with the first call
    :ivar end: how
    :ivar report: what a send tells that goes on beyond the cut; one that ends at it succeeds
    """

    direction: Direction
    after: int
    end: Ending = Ending.RESET
    report: Report = Report.ERROR

    def __post_init__(self) -> None:
        _not_negative(self, "after")


@dataclass(frozen=True, slots=True)
class CutInSend:
    """End the connection inside one call of ``send``.

    :ivar number: which call, counted from 0
    :ivar after: bytes of that call that still pass; all of them if it has fewer
    :ivar end: how
    :ivar report: what that call tells
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
    """End one direction as soon as ``after`` bytes have passed in it; the other goes on.

    The receiver gets :exc:`~anyio.EndOfStream`. Sending, where it is our direction, raises
    :exc:`~anyio.BrokenResourceError` from then on.

    :ivar direction: whose bytes are meant
    """

    direction: Direction
    after: int

    def __post_init__(self) -> None:
        _not_negative(self, "after")


@dataclass(frozen=True, slots=True)
class Stall:
    """Let nothing pass once ``after`` bytes have: no bytes, no end, no error; calls just wait.

    For a connection that has silently died, stall the *receiving* direction of both ends: sends
    then succeed until the buffers between are full. To stall *sending* makes ``send`` itself wait.

    :ivar direction: whose bytes are meant
    :ivar after: bytes
    :ivar seconds: how long, or None: until :meth:`FaultStream.release`, for ever without it
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
    """Hold each piece, as it is sent or comes in, before it passes; the order stays.

    :ivar direction: whose bytes are meant
    :ivar seconds: for every piece
    :ivar jitter: at most so many seconds more, evenly spread by the seed
    """

    direction: Direction
    seconds: float
    jitter: float = 0.0

    def __post_init__(self) -> None:
        _not_negative(self, "seconds", "jitter")


@dataclass(frozen=True, slots=True)
class Throttle:
    """Limit the rate: ``n`` bytes are followed by ``n / bytes_per_second`` seconds of silence.

    :ivar direction: whose bytes are meant
    :ivar bytes_per_second: at most
    """

    direction: Direction
    bytes_per_second: float

    def __post_init__(self) -> None:
        _positive(self, "bytes_per_second")


@dataclass(frozen=True, slots=True)
class Slice:
    """Cut what passes into pieces.

    :ivar direction: whose bytes are meant
    :ivar size: bytes of a piece
    :ivar smallest: if given, sizes between this and ``size`` are drawn by the seed
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
    """Join what comes in until there are ``size`` bytes, the stream ends, or time is up.

    :ivar size: bytes
    :ivar within: seconds from the first byte that waits
    """

    direction: ClassVar[Direction] = Direction.RECEIVE

    size: int
    within: float = 0.01

    def __post_init__(self) -> None:
        _positive(self, "size", "within")


@dataclass(frozen=True, slots=True)
class FlipBit:
    """Turn one bit over.

    :ivar direction: whose bytes are meant
    :ivar offset: of the byte
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
        """Return what carries this out."""
        return _BitFlipper(self.offset, self.offset + 1, self.bit)


@dataclass(frozen=True, slots=True)
class Insert:
    """Put ``data`` in once ``offset`` bytes have passed.

    :ivar direction: whose bytes are meant
    """

    direction: Direction
    offset: int
    data: bytes

    def __post_init__(self) -> None:
        _not_negative(self, "offset")

    def editor(self) -> Editor:
        """Return what carries this out."""
        return _Inserter(self.offset, self.offset, self.data)


@dataclass(frozen=True, slots=True)
class Delete:
    """Take ``count`` bytes out from ``offset`` on.

    :ivar direction: whose bytes are meant
    """

    direction: Direction
    offset: int
    count: int = 1

    def __post_init__(self) -> None:
        _not_negative(self, "offset")
        _positive(self, "count")

    def editor(self) -> Editor:
        """Return what carries this out."""
        return _Deleter(self.offset, self.offset + self.count)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Let ``count`` bytes from ``offset`` on pass twice, one copy after the other.

    :ivar direction: whose bytes are meant
    """

    direction: Direction
    offset: int
    count: int = 1

    def __post_init__(self) -> None:
        _not_negative(self, "offset")
        _positive(self, "count")

    def editor(self) -> Editor:
        """Return what carries this out."""
        return _Duplicator(self.offset, self.offset + self.count)


@dataclass(frozen=True, slots=True)
class Swap:
    """Let two neighbours change places: ``count`` bytes from ``offset`` on, and the next ``count``.

    The first are held until the last of the second has come, or the end of the stream.

    :ivar direction: whose bytes are meant
    """

    direction: Direction
    offset: int
    count: int = 1

    def __post_init__(self) -> None:
        _not_negative(self, "offset")
        _positive(self, "count")

    def editor(self) -> Editor:
        """Return what carries this out."""
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
"""One thing that goes wrong."""


class Editor:
    """Changes the bytes of one direction as they come; the base changes nothing.

    :param start: the offset of the first byte that is touched
    :param stop: the offset behind the last one
    """

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self.position: int = 0

    def feed(self, data: bytes) -> bytes:
        """Return what passes now that ``data`` has come."""
        first = min(max(self.start - self.position, 0), len(data))
        last = min(max(self.stop - self.position, 0), len(data))
        self.position += len(data)
        before, touched, after = data[:first], data[first:last], data[last:]
        return before + self.edit(touched, self.position >= self.stop) + self.follow(after)

    def edit(self, touched: bytes, is_last: bool) -> bytes:
        """Return what passes instead of ``touched``.

        :param is_last: whether all bytes up to ``stop`` have come; stays true afterwards, with
            nothing touched any more
        """
        return touched

    def follow(self, after: bytes) -> bytes:
        """Return what passes instead of the bytes behind ``stop``."""
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
