"""A token bucket, which permits bursts and bounds the rate."""

from __future__ import annotations

__all__ = ["Bucket"]


class Bucket:
    """Holds up to ``capacity`` tokens, replenished at ``rate`` tokens per second."""

    __slots__ = ("_capacity", "_rate", "_time", "_tokens")

    def __init__(self, capacity: float, rate: float) -> None:
        self._capacity = capacity
        self._rate = rate
        self._tokens = float(capacity)
        self._time: float | None = None

    def take(self, amount: float, now: float) -> bool:
        """Take tokens; return whether there were enough. ``now`` is in monotonic seconds."""
        if self._time is not None:
            won = max(0.0, now - self._time) * self._rate
            self._tokens = min(self._capacity, self._tokens + won)
        self._time = now
        self._tokens -= amount
        return self._tokens >= 0
