"""Waking tasks cheaply: events that are only created while a task waits."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NoReturn

import anyio
from anyio.abc import AsyncBackend

__all__ = ["Failure", "Latch", "Notice"]


class Notice:
    """Wakes all waiting tasks; costs nothing while there are none."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def wait(self, backend: type[AsyncBackend] | None = None) -> Awaitable[None]:
        """Wait for the next :meth:`notify`.

        :param backend: the AnyIO backend of the running event loop, if known
        """
        event = self._event
        if event is None:
            event = self._event = anyio.Event() if backend is None else backend.create_event()
        return event.wait()

    def notify(self) -> None:
        """Wake all tasks that are waiting now."""
        event = self._event
        if event is not None:
            self._event = None
            event.set()


class Latch:
    """Wakes all waiting tasks once, and lets none wait from then on."""

    __slots__ = ("_is_set", "_notice")

    def __init__(self) -> None:
        self._notice = Notice()
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._is_set

    def set(self) -> None:
        """Wake all tasks that are waiting, or will wait."""
        self._is_set = True
        self._notice.notify()

    async def wait(self, backend: type[AsyncBackend] | None = None) -> None:
        """Wait for :meth:`set`; does not yield if it was already called.

        :param backend: the AnyIO backend of the running event loop, if known
        """
        while not self._is_set:
            await self._notice.wait(backend)


class Failure:
    """Transfers an exception to the task that waits for it."""

    __slots__ = ("_error", "_notice")

    def __init__(self) -> None:
        self._notice = Notice()
        self._error: Exception | None = None

    def set(self, error: Exception) -> None:
        """Make the task that waits, or will wait, raise an exception."""
        self._error = error
        self._notice.notify()

    async def wait(self) -> NoReturn:
        """Wait for :meth:`set`, and raise the exception."""
        while self._error is None:
            await self._notice.wait()
        raise self._error
