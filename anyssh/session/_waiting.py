"""Waking tasks cheaply: an event that is only made while somebody waits."""

from __future__ import annotations

import anyio

__all__ = ["Notice"]


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
