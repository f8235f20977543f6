"""Latency statistics of a session, as in the extension ``session-latency@microsoft.com``.

A measurement is the time from sending a packet to receiving the first packet that acknowledges it,
less the time that the peer took. It always concerns a single stream, never the gap between two.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Latency", "LatencyStatistics"]


@dataclass(frozen=True, slots=True)
class Latency:
    """The round-trip time to the peer, in milliseconds.

    :ivar current: the last measurement; 0 while disconnected, or before the first
    :ivar minimum: over the session's whole life; 0 before the first measurement
    :ivar average: over the session's whole life; 0 before the first measurement
    :ivar maximum: over the session's whole life; 0 before the first measurement
    """

    current: float = 0.0
    minimum: float = 0.0
    average: float = 0.0
    maximum: float = 0.0


class LatencyStatistics:
    """Collects measurements; all but the current one survive the loss of a stream."""

    __slots__ = ("_count", "_current", "_maximum", "_minimum", "_sum")

    def __init__(self) -> None:
        self._current = 0.0
        self._minimum = 0.0
        self._maximum = 0.0
        self._sum = 0.0
        self._count = 0

    def measured(self, milliseconds: float) -> bool:
        """Add a measurement; return whether it counts.

        A negative one means that a clock is wrong, and is ignored; zero means disconnected.
        """
        if milliseconds < 0:
            return False
        self._current = milliseconds
        if milliseconds == 0:
            return False
        if not 0 < self._minimum <= milliseconds:
            self._minimum = milliseconds
        self._maximum = max(self._maximum, milliseconds)
        self._sum += milliseconds
        self._count += 1
        return True

    def disconnected(self) -> None:
        """Reset the current latency: there is no stream."""
        self._current = 0.0

    def snapshot(self) -> Latency:
        """Return the present numbers."""
        average = self._sum / self._count if self._count else 0.0
        return Latency(self._current, self._minimum, average, self._maximum)
