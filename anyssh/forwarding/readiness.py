"""Being called whenever a descriptor can be read, without a task that wakes each time.

AnyIO waits for a descriptor once: each wait has an asyncio event loop begin to watch it and end
again, which takes half a dozen system calls there, and wakes a task. What is watched all the time
stays watched here, and the event loop calls what there is to do. Other event loops, and those that
cannot watch descriptors, have a task wait again and again.
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
    """A socket, or anything else with a descriptor."""

    def fileno(self) -> int:
        """Return the number that the system knows it by."""


async def call_when_readable(what: HasNumber, call: Callable[[], None]) -> NoReturn:
    """Have a function called whenever something can be read, until it raises an exception.

    What it raises is raised here. Cancelling ends it; whoever closes the descriptor does so first.

    :param what: the descriptor; nobody else watches it for reading
    :param call: reads what is possible now; does not wait
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
    """A descriptor that an asyncio event loop watches.

    :ivar failure: of the function that it calls
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._number = -1
        self._stop: Callable[[int], object]
        self.failure: Failure = Failure()

    def begin(self, number: int) -> bool:
        """Have the event loop that runs watch a descriptor; return whether it can."""
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
        """Have it watched no longer."""
        self._stop(self._number)

    def _ready(self) -> None:
        try:
            self._call()
        except Exception as error:
            self.end()
            self.failure.set(error)
