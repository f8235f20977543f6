"""Asks a silent peer for a sign of life (``keepalive@openssh.com``).

The clock starts anew with whatever the peer sends. When it runs out, the time since it last ran
out is judged: silence counts as missed, anything else as answered; then the peer is asked again.
So the first time counts as answered: the peer has just authenticated.
"""

from __future__ import annotations

from .events import KeepAliveAnswered, KeepAliveMissed

__all__ = ["KeepAlive"]


class KeepAlive:
    """The clock and the counters; an ``interval`` of 0 seconds turns it off."""

    __slots__ = ("_answered", "_interval", "_missed", "_received", "_started")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._started: float | None = None
        self._received = True
        self._answered = 0
        self._missed = 0

    def start(self, now: float) -> None:
        """Run from now on."""
        if self._interval > 0:
            self._started = now

    def received(self, now: float) -> None:
        """Note that something came from the peer."""
        self._received = True
        if self._started is not None:
            self._started = now

    @property
    def deadline(self) -> float | None:
        """When the clock runs out."""
        return None if self._started is None else self._started + self._interval

    def judge(self, now: float) -> KeepAliveAnswered | KeepAliveMissed:
        """Start the clock again and tell how the peer did; the caller asks it anew."""
        self._started = now
        if self._received:
            self._received = False
            self._missed = 0
            self._answered += 1
            return KeepAliveAnswered(self._answered)
        self._answered = 0
        self._missed += 1
        return KeepAliveMissed(self._missed)
