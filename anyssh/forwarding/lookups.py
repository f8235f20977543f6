"""Looking up the names that a peer asks to connect to, a few at a time.

Event loops look up names in threads, which are few, shared by all sessions, and cannot be
interrupted. A peer with a name server that never answers could occupy them all. So a lookup keeps
its place until its thread has ended, even if nobody waits for it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio

from .connecting import addresses_of

__all__ = ["Lookups"]

MOST_LOOKUPS: Final = 2
"""Lookups of one session at the same time; some event loops have just four threads for them."""


class Lookups:
    """The lookups of one session.

    :param start_soon: starts a task that ends with the session
    """

    def __init__(self, start_soon: Callable[..., Any]) -> None:
        self._start_soon = start_soon
        self._places = anyio.Semaphore(MOST_LOOKUPS)

    async def addresses_of(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host, as :func:`.connecting.addresses_of` does."""
        await self._places.acquire()
        lookup = _Lookup()
        try:
            self._start_soon(self._run, lookup, host, port)
        except BaseException:
            self._places.release()
            raise
        return await lookup.wait()

    async def _run(self, lookup: _Lookup, host: str, port: int) -> None:
        try:
            lookup.found = await addresses_of(host, port)
        except Exception as error:  # for whoever waits
            lookup.error = error
        finally:
            self._places.release()
            lookup.done.set()


class _Lookup:
    """The outcome of one lookup."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.found: Sequence[str] = ()
        self.error: Exception | None = None

    async def wait(self) -> Sequence[str]:
        await self.done.wait()
        if self.error is not None:
            raise self.error
        return self.found
