"""Turns to wait for the peer: so many connections of a listener have one, the others are in line.

Each connection that waits for its channel costs memory at both ends, and who connects may be faster
than the peer answers. So while all turns are taken, sockets of our own accept nobody, and who
connects meanwhile waits in the system's queue. Other listeners accept without asking; what they
have accepted is in line here, up to a bound.
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

MOST_IN_LINE: Final = 512


class Turns:
    """The turns of one listener, given in the order of asking.

    :param count: how many there are
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._line: dict[anyio.Event, None] = {}
        self._interested: dict[Callable[[], None], None] = {}

    @property
    def free(self) -> int:
        """How many turns nobody has; while there are any, nobody is in line."""
        return self._free

    def tell_when_free(self, call: Callable[[], None]) -> None:
        """Have a function called once, as soon as a turn is free again."""
        self._interested[call] = None

    def forget(self, call: Callable[[], None]) -> None:
        """Call a function no more."""
        self._interested.pop(call, None)

    def take_nowait(self) -> None:
        """Take one of the turns that are free, until :meth:`give_back`."""
        self._free -= 1

    def give_back(self) -> None:
        """Give a turn to who is next in line, or let everybody know that it is free."""
        if self._line:
            first = next(iter(self._line))
            del self._line[first]
            first.set()
            return
        self._free += 1
        if self._interested:
            interested, self._interested = self._interested, {}
            for call in interested:
                call()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Have a turn inside ``async with``; wait in line for it.

        :raises LocalProtocolError: too many are in line
        """
        if self._free:
            self.take_nowait()
        else:
            await self._stand_in_line()
        try:
            yield
        finally:
            self.give_back()

    async def _stand_in_line(self) -> None:
        if len(self._line) >= MOST_IN_LINE:
            what = f"{MOST_IN_LINE} connections in line for the peer"
            logger.warning("a forwarded port has %s; one more is reset", what)
            raise LocalProtocolError(what)
        called = anyio.Event()
        self._line[called] = None
        try:
            await called.wait()
        except BaseException:
            if called.is_set():
                self.give_back()
            self._line.pop(called, None)
            raise
