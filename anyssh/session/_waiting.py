"""Waking tasks cheaply: an event that is only made while somebody waits."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NoReturn

import anyio
from anyio.abc import AsyncBackend

__all__ = ["Failure", "Latch", "Notice"]


class Notice:
    """Wakes every task that waits; costs nothing while none does."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def wait(self, backend: type[AsyncBackend] | None = None) -> Awaitable[None]:
        """Wait for the next :meth:`notify`.

        :param backend: what AnyIO calls on the event loop that runs, where that is known
        """
        event = self._event
        if event is None:
            event = self._event = anyio.Event() if backend is None else backend.create_event()
        return event.wait()

    def notify(self) -> None:
        """Wake all that wait now."""
        event = self._event
        if event is not None:
            self._event = None
            event.set()


class Latch:
    """Wakes every task that waits, and keeps none waiting from then on."""

    __slots__ = ("_is_set", "_notice")

    def __init__(self) -> None:
        self._notice = Notice()
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Wake all that wait, and will wait."""
        self._is_set = True
        self._notice.notify()

    async def wait(self, backend: type[AsyncBackend] | None = None) -> None:
        """Wait for :meth:`set`; does not yield if it has been called.

        :param backend: what AnyIO calls on the event loop that runs, where that is known
        """
        while not self._is_set:
            await self._notice.wait(backend)


class Failure:
    """What fails outside of the task that waits for it, and is raised there."""

    __slots__ = ("_error", "_notice")

    def __init__(self) -> None:
        self._notice = Notice()
        self._error: Exception | None = None

    def set(self, error: Exception) -> None:
        """Have an exception raised in the task that waits, or will wait."""
        self._error = error
        self._notice.notify()

    async def wait(self) -> NoReturn:
        """Wait for :meth:`set`, and raise the exception."""
        while self._error is None:
            await self._notice.wait()
        raise self._error
