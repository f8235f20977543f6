"""Waking tasks cheaply: an event that is only made while somebody waits, and a fair queue."""

from __future__ import annotations

from collections import deque

import anyio

__all__ = ["Notice", "Turnstile"]


class Notice:
    """Wakes every task that waits; costs nothing while none does."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    async def wait(self) -> None:
        """Wait for the next :meth:`notify`."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()

    def notify(self) -> None:
        """Wake all that wait now."""
        event = self._event
        if event is not None:
            self._event = None
            event.set()


class Turnstile:
    """Lets tasks go on one at a time, in the order in which they came."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[anyio.Event] = deque()

    async def wait(self) -> None:
        """Queue up for a :meth:`release`; one that comes while we are cancelled is passed on."""
        turn = anyio.Event()
        self._queue.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.release()
            else:
                self._queue.remove(turn)
            raise

    def release(self) -> None:
        """Let the first task of the queue go on."""
        if self._queue:
            self._queue.popleft().set()

    def release_all(self) -> None:
        """Let every task go on."""
        while self._queue:
            self._queue.popleft().set()
