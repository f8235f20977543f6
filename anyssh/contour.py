"""Session contours: a compact record of a session's throughput and latency over its whole life.

A contour is a sequence of intervals of equal length, initially one second. When all places are
taken, neighbours are merged in pairs, and every interval is twice as long from then on, so the size
of a contour is bounded, whatever the length of the session. :meth:`SessionContour.export` returns
it as the base64 text that the Dev Tunnels tools read, a few hundred characters long; exporting
keeps one byte per number, and loses precision accordingly.

Time is an argument: seconds of a monotonic clock.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from .errors import ContourFormatError

__all__ = ["ContourInterval", "SessionContour"]

DEFAULT_INTERVALS: Final = 256
MAX_INTERVALS: Final = 65_536
MAX_TEXT: Final = 1024 * 1024
MAX_SCALE: Final = 63
VERSION: Final = 1
HEADER_BYTES: Final = 3


@dataclass(frozen=True, slots=True)
class ContourInterval:
    """What a session transferred in one interval.

    :ivar bytes_sent: bytes sent on the stream
    :ivar bytes_received: bytes received on the stream
    :ivar latency_minimum: in milliseconds, 0 if none was measured
    :ivar latency_average: in milliseconds, 0 if none was measured
    :ivar latency_maximum: in milliseconds, 0 if none was measured
    """

    bytes_sent: int
    bytes_received: int
    latency_minimum: float
    latency_average: float
    latency_maximum: float


class _Slot:
    """The sums of one interval."""

    __slots__ = (
        "latency_count",
        "latency_maximum",
        "latency_minimum",
        "latency_sum",
        "received",
        "sent",
    )

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.latency_minimum = 0.0
        self.latency_maximum = 0.0
        self.latency_sum = 0.0
        self.latency_count = 0

    def take_latency(self, minimum: float, maximum: float, total: float, count: int) -> None:
        """Add measurements; a minimum of 0 means that there are none."""
        if minimum and not 0 < self.latency_minimum <= minimum:
            self.latency_minimum = minimum
        self.latency_maximum = max(self.latency_maximum, maximum)
        self.latency_sum += total
        self.latency_count += count

    def take(self, other: _Slot) -> None:
        """Add another interval."""
        self.sent += other.sent
        self.received += other.received
        self.take_latency(
            other.latency_minimum, other.latency_maximum, other.latency_sum, other.latency_count
        )

    @property
    def latency_average(self) -> float:
        return self.latency_sum / self.latency_count if self.latency_count else 0.0

    def snapshot(self) -> ContourInterval:
        return ContourInterval(
            self.sent,
            self.received,
            self.latency_minimum,
            self.latency_average,
            self.latency_maximum,
        )


_COLUMNS: Final[dict[int, Callable[[_Slot], float]]] = {
    1: lambda slot: slot.latency_minimum,
    2: lambda slot: slot.latency_maximum,
    3: lambda slot: slot.latency_average,
    11: lambda slot: slot.sent,
    12: lambda slot: slot.received,
}
"""The columns of an export by their numbers, in order."""
_BYTE_COLUMNS: Final = (11, 12)


class SessionContour:
    """The throughput and latency of a session over time.

    ``session.contour`` is updated by its session.

    :param max_intervals: the resolution: a power of two from 2 to 65,536
    :param start: when the first interval starts, in seconds of a monotonic clock
    :raises ValueError: ``max_intervals`` is not such a number
    """

    __slots__ = (
        "_current",
        "_current_end",
        "_current_start",
        "_max_intervals",
        "_scale",
        "_slots",
        "_start",
    )

    def __init__(self, max_intervals: int = DEFAULT_INTERVALS, *, start: float = 0.0) -> None:
        if not 2 <= max_intervals <= MAX_INTERVALS or max_intervals.bit_count() != 1:
            raise ValueError(
                f"max_intervals is {max_intervals}; it must be a power of two "
                f"from 2 to {MAX_INTERVALS}"
            )
        self._max_intervals = max_intervals
        self._start = start
        self._scale = 0
        self._slots: list[_Slot] = []
        self._forget_current()

    # Reading

    @property
    def max_intervals(self) -> int:
        """The most intervals that there can be; one more doubles the length of each."""
        return self._max_intervals

    @property
    def interval(self) -> int:
        """The length of each interval in seconds, a power of two."""
        return 1 << self._scale

    @property
    def intervals(self) -> tuple[ContourInterval, ...]:
        """The intervals so far, oldest first."""
        return tuple(slot.snapshot() for slot in self._slots)

    # Recording

    def record_sent(self, now: float, size: int) -> None:
        """Add sent bytes; one call may represent many messages.

        :param now: the time, in monotonic seconds
        :param size: the number of bytes
        """
        if not self._current_start <= now < self._current_end:
            self._move_to(now)
        self._current.sent += size

    def record_received(self, now: float, size: int) -> None:
        """Add received bytes; one call may represent many messages.

        :param now: the time, in monotonic seconds
        :param size: the number of bytes
        """
        if not self._current_start <= now < self._current_end:
            self._move_to(now)
        self._current.received += size

    def record_latency(self, now: float, milliseconds: float) -> None:
        """Add one measurement of latency; values that are not positive are ignored.

        :param now: the time, in monotonic seconds
        :param milliseconds: the round-trip time
        """
        if milliseconds > 0:
            if not self._current_start <= now < self._current_end:
                self._move_to(now)
            self._current.take_latency(milliseconds, milliseconds, milliseconds, 1)

    def _move_to(self, now: float) -> None:
        """Make the interval at ``now`` the current one; times before the start count as it."""
        elapsed = max(0.0, now - self._start)
        while (index := int(elapsed / self.interval)) >= self._max_intervals:
            self._merge_pairs()
        while len(self._slots) <= index:
            self._slots.append(_Slot())
        self._current = self._slots[index]
        self._current_start = self._start + index * self.interval
        self._current_end = self._current_start + self.interval

    def _merge_pairs(self) -> None:
        self._forget_current()
        for left, right in zip(self._slots[::2], self._slots[1::2], strict=False):
            left.take(right)
        self._slots = self._slots[::2]
        self._scale += 1

    def _forget_current(self) -> None:
        self._current = _Slot()
        self._current_start = math.inf
        self._current_end = -math.inf

    # Export and import

    def export(self) -> str:
        """Return the contour as text, in the format of the Dev Tunnels libraries.

        It is the base64 encoding of: the version, the number of columns, the binary logarithm of
        :attr:`interval`; the scale of each column; the id of each column; and for each interval one
        byte per column, in multiples of two to the power of the column's scale. A contour without
        any interval yields a text that :meth:`import_` rejects.
        """
        width = len(_COLUMNS)
        scales: list[int] = []
        rows = bytearray(width * len(self._slots))
        for place, value in enumerate(_COLUMNS.values()):
            scale = _scale_of(max(map(value, self._slots), default=0))
            scales.append(scale)
            scaled = (math.floor(value(slot) / (1 << scale) + 0.5) for slot in self._slots)
            rows[place::width] = bytes(scaled)
        content = bytes([VERSION, width, self._scale, *scales, *_COLUMNS]) + rows
        return base64.b64encode(content).decode("ascii")

    @classmethod
    def import_(cls, text: str) -> Self:
        """Return the contour from a text made by :meth:`export` or by a Dev Tunnels tool.

        Unknown columns are ignored, and missing ones are 0.

        :param text: the exported text
        :raises ContourFormatError: the text is not a contour, or is empty, or has an absurd scale
        """
        content = _decoded(text)
        width, time_scale = content[1], content[2]
        scales = content[HEADER_BYTES : HEADER_BYTES + width]
        ids = content[HEADER_BYTES + width : HEADER_BYTES + 2 * width]
        rows = content[HEADER_BYTES + 2 * width :]
        count = len(rows) // width
        contour = cls(max(2, 1 << (count - 1).bit_length()))
        contour._scale = _checked_scale(time_scale)
        columns = {
            column: (ids.index(column), _numbers(column, scales[ids.index(column)]))
            for column in _COLUMNS
            if column in ids
        }
        for start in range(0, len(rows), width):
            contour._slots.append(
                _imported(
                    {
                        column: numbers[rows[start + place]]
                        for column, (place, numbers) in columns.items()
                    }
                )
            )
        return contour

    # Drawing

    def draw(self, width: int = 80) -> str:
        """Return a drawing for the terminal: bytes sent, bytes received and latency over time.

        Each line states its highest value, and is at most ``width`` characters long. An interval
        without a measurement leaves a gap.

        :param width: at least 40
        :raises ValueError: ``width`` is less than 40
        """
        if width < MIN_WIDTH:
            raise ValueError(f"a drawing needs a width of at least {MIN_WIDTH}, not {width}")
        return "\n".join(_drawing(self._slots, self.interval, width))


def _scale_of(highest: float) -> int:
    """Return how often numbers up to ``highest`` must be halved to fit into a byte."""
    return math.ceil(math.log2(highest / 255)) if highest > 255 else 0


def _decoded(text: str) -> bytes:
    """Return the bytes of an export, after checking their length."""
    if len(text) > MAX_TEXT:
        raise ContourFormatError(
            f"the text of a contour has at most {MAX_TEXT} characters, not {len(text)}"
        )
    try:
        content = base64.b64decode(text.strip(), validate=True)
    except ValueError as error:
        raise ContourFormatError("a contour is base64 text; this is not") from error
    if len(content) < HEADER_BYTES:
        raise ContourFormatError(f"the contour ends after {len(content)} bytes, in its header")
    if content[0] != VERSION:
        raise ContourFormatError(
            f"the contour has version {content[0]}; only version {VERSION} is known"
        )
    width = content[1]
    count, rest = divmod(len(content) - HEADER_BYTES - 2 * width, width) if width else (0, 0)
    if rest or not 1 <= count <= MAX_INTERVALS:
        raise ContourFormatError(
            f"{len(content)} bytes hold no whole number from 1 to {MAX_INTERVALS} of intervals "
            f"with {width} values each; the contour is empty or incomplete"
        )
    return content


def _checked_scale(scale: int) -> int:
    if scale > MAX_SCALE:
        raise ContourFormatError(
            f"the contour has a scale of 2 to the power of {scale}; "
            f"{MAX_SCALE} is the highest that makes sense"
        )
    return scale


def _numbers(column: int, scale: int) -> Sequence[float]:
    """Return the value of each byte of a column; intervals share these objects.

    :raises ContourFormatError: the scale is absurd
    """
    factor = 1 << _checked_scale(scale)
    numbers = [byte * factor for byte in range(256)]
    return numbers if column in _BYTE_COLUMNS else [float(number) for number in numbers]


def _imported(values: dict[int, float]) -> _Slot:
    slot = _Slot()
    slot.latency_minimum = values.get(1, 0.0)
    slot.latency_maximum = values.get(2, 0.0)
    slot.latency_sum = values.get(3, 0.0)
    slot.latency_count = 1 if slot.latency_sum else 0
    slot.sent = int(values.get(11, 0))
    slot.received = int(values.get(12, 0))
    return slot


MIN_WIDTH: Final = 40
BARS: Final = " ▁▂▃▄▅▆▇█"
LABEL_WIDTH: Final = 22
UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def _drawing(slots: Sequence[_Slot], interval: int, width: int) -> Iterable[str]:
    room = width - LABEL_WIDTH
    group = max(1, -(-len(slots) // room))
    merged = [_merged(slots[start : start + group]) for start in range(0, len(slots), group)]
    seconds = interval * group
    rows = [
        ("sent", [slot.sent / seconds for slot in merged], _rate),
        ("received", [slot.received / seconds for slot in merged], _rate),
        ("latency", [slot.latency_average for slot in merged], _milliseconds),
    ]
    for label, values, words in rows:
        highest = max(values, default=0.0)
        yield f"{label:<9}{words(highest):>11}  {_bars(values, highest)}".rstrip()
    yield f"{'':<{LABEL_WIDTH}}{len(merged)} × {_duration(seconds)}"


def _merged(slots: Iterable[_Slot]) -> _Slot:
    total = _Slot()
    for slot in slots:
        total.take(slot)
    return total


def _bars(values: Iterable[float], highest: float) -> str:
    steps = len(BARS) - 1
    return "".join(BARS[math.ceil(value / highest * steps)] if value else " " for value in values)


def _rate(amount: float) -> str:
    power = 0
    while amount >= 999.5 and power < len(UNITS) - 1:
        amount /= 1000
        power += 1
    return f"{amount:.3g} {UNITS[power]}/s"


def _milliseconds(amount: float) -> str:
    return f"{amount:.3g} ms" if amount < 999.5 else f"{amount / 1000:.3g} s"


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, left = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min"), (left, "s")]
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount)
