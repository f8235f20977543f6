"""Calling a function whenever a descriptor is readable, without waking a task each time.

AnyIO waits for a descriptor once: on asyncio, each wait adds and removes a reader, which takes half
a dozen system calls, and wakes a task. Here the descriptor stays watched, and the event loop calls
the function. On other event loops, and those that cannot watch descriptors, a task waits
repeatedly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

import anyio
from anyio.lowlevel import current_token

from ..session._backend import callback_context
from ..session._waiting import Failure

__all__ = ["call_when_readable"]


class HasNumber(Protocol):
    """A socket, or anything else with a file descriptor."""

    def fileno(self) -> int:
        """Return the file descriptor."""


async def call_when_readable(what: HasNumber, call: Callable[[], None]) -> NoReturn:
    """Call a function whenever a descriptor is readable, until it raises; re-raise that.

    Cancelling ends it; cancel before the descriptor is closed.

    :param what: the descriptor, which nothing else may watch for reading
    :param call: reads what is available now, without waiting
    """
    watching = _Watching(call)
    if watching.begin(what.fileno()):
        try:
            await watching.failure.wait()
        finally:
            watching.end()
    while True:
        await anyio.wait_readable(what)
        call()


class _Watching:
    """A descriptor watched by an asyncio event loop.

    :ivar failure: what the function raised
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._number = -1
        self._stop: Callable[[int], object]
        self.failure: Failure = Failure()

    def begin(self, number: int) -> bool:
        """Watch a descriptor with the running event loop; return whether it can."""
        loop = current_token().native_token
        add_reader = getattr(loop, "add_reader", None)
        if add_reader is None:
            return False
        try:
            callback_context().run(add_reader, number, self._ready)
        except NotImplementedError:
            return False
        self._number = number
        self._stop = loop.remove_reader  # type: ignore[attr-defined]
        return True

    def end(self) -> None:
        """Stop watching."""
        self._stop(self._number)

    def _ready(self) -> None:
        try:
            self._call()
        except Exception as error:
            self.end()
            self.failure.set(error)
