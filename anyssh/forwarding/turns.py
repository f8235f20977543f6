"""A bound on the connections of a listener that wait for the peer at the same time.

Each connection that waits for its channel costs memory at both ends, and clients may connect faster
than the peer answers. While all turns are taken, our own sockets accept nothing, and new
connections stay in the system's backlog. Other listeners accept without asking; what they have
accepted queues here, up to a bound.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from logging import Logger, getLogger
from typing import Final

import anyio

from ..errors import LocalProtocolError

__all__ = ["Turns"]

logger: Logger = getLogger("anyssh")

MAX_QUEUED: Final = 512


class Turns:
    """The turns of one listener, granted in order.

    :param count: how many connections may have one at the same time
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._queue: dict[anyio.Event, None] = {}
        self._interested: dict[Callable[[], None], None] = {}

    @property
    def free(self) -> int:
        """How many turns are free; while there are any, nothing is queued."""
        return self._free

    def tell_when_free(self, call: Callable[[], None]) -> None:
        """Call a function once, as soon as a turn is free again."""
        self._interested[call] = None

    def forget(self, call: Callable[[], None]) -> None:
        """Cancel :meth:`tell_when_free`."""
        self._interested.pop(call, None)

    def take_nowait(self) -> None:
        """Take a free turn, until :meth:`give_back`."""
        self._free -= 1

    def give_back(self) -> None:
        """Pass a turn to the first in the queue, or report that it is free."""
        if self._queue:
            first = next(iter(self._queue))
            del self._queue[first]
            first.set()
            return
        self._free += 1
        if self._interested:
            interested, self._interested = self._interested, {}
            for call in interested:
                call()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Hold a turn inside ``async with``, waiting in the queue for it if necessary.

        :raises LocalProtocolError: the queue is full
        """
        if self._free:
            self.take_nowait()
        else:
            await self._wait_in_queue()
        try:
            yield
        finally:
            self.give_back()

    async def _wait_in_queue(self) -> None:
        if len(self._queue) >= MAX_QUEUED:
            what = f"{MAX_QUEUED} connections queued for the peer"
            logger.warning("a forwarded port has %s; one more is reset", what)
            raise LocalProtocolError(what)
        called = anyio.Event()
        self._queue[called] = None
        try:
            await called.wait()
        except BaseException:
            if called.is_set():
                self.give_back()
            self._queue.pop(called, None)
            raise
