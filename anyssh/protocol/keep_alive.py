"""Sends keep-alive requests to a silent peer (``keepalive@openssh.com``).

Anything received from the peer restarts the timer. When it expires, the period since it last
expired is judged: silence counts as missed, anything else as answered; then another request is
sent. The first period therefore counts as answered, as the peer has just authenticated.
"""

from __future__ import annotations

from .events import KeepAliveAnswered, KeepAliveMissed

__all__ = ["KeepAlive"]


class KeepAlive:
    """The timer and counters; an ``interval`` of 0 seconds disables it."""

    __slots__ = ("_answered", "_interval", "_missed", "_received", "_started")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._started: float | None = None
        self._received = True
        self._answered = 0
        self._missed = 0

    def start(self, now: float) -> None:
        """Start the timer."""
        if self._interval > 0:
            self._started = now

    def received(self, now: float) -> None:
        """Note that something was received from the peer."""
        self._received = True
        if self._started is not None:
            self._started = now

    @property
    def deadline(self) -> float | None:
        """When the timer expires."""
        return None if self._started is None else self._started + self._interval

    def judge(self, now: float) -> KeepAliveAnswered | KeepAliveMissed:
        """Judge the last period and restart the timer; the caller sends the next request."""
        self._started = now
        if self._received:
            self._received = False
            self._missed = 0
            self._answered += 1
            return KeepAliveAnswered(self._answered)
        self._answered = 0
        self._missed += 1
        return KeepAliveMissed(self._missed)
