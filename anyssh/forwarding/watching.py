"""Watching many sockets with one task, which tells each relay what its socket is ready for.

A task per connection, with a wait for each of its steps, would cost more than the bytes of a short
connection. So the sockets of a session are watched together by one epoll object, which has a file
descriptor itself, and a task waits for that. Without epoll, each watched direction of each socket
has a task.

The callbacks never wait: they read or write what is possible now, and return.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from logging import Logger, getLogger
from typing import Final, Protocol

import anyio

from .readiness import call_when_readable

__all__ = ["NOTHING", "READING", "WRITING", "Watchable", "Watched", "Watcher", "make_watcher"]

logger: Logger = getLogger("anyssh")

NOTHING: Final = 0
READING: Final = 1
WRITING: Final = 4
"""What a socket is watched for, as epoll event masks."""
ALL: Final = READING | WRITING

StartSoon = Callable[..., None]
Together = Callable[[], AbstractContextManager[None]]


class Watchable(Protocol):
    """A socket that can be watched."""

    def fileno(self) -> int:
        """Return the file descriptor."""

    async def wait_readable(self) -> None:
        """Wait until there is something to read, or a connection to accept."""

    async def wait_writable(self) -> None:
        """Wait until something can be sent."""


class Watched(Protocol):
    """The owner of a watched socket: a relay, or an acceptor of connections."""

    def socket_ready(self, ready: int) -> None:
        """Read and write what is possible now.

        :param ready: what the socket is ready for; everything if it is broken
        """

    def abort(self) -> None:
        """Abort, as the socket is no longer watched."""


class Watcher(Protocol):
    """Watches sockets."""

    def watch(self, source: Watchable, watched: Watched, before: int, wanted: int) -> None:
        """Change what a socket is watched for.

        :param before: what it was watched for
        :param wanted: what to watch it for from now on
        """


def make_watcher(start_soon: StartSoon, together: Together) -> Watcher:
    """Return a watcher for the sockets of a session.

    :param start_soon: starts a task that ends with the session
    :param together: returns a context manager that sends all output from inside in one write
    """
    if hasattr(select, "epoll"):
        return _EpollWatcher(start_soon, together)
    return _TaskWatcher(start_soon, together)


class _EpollWatcher:
    """Watches all sockets with one task, from the first socket to the end of the session."""

    def __init__(self, start_soon: StartSoon, together: Together) -> None:
        self._start_soon = start_soon
        self._together = together
        self._watched: dict[int, Watched] = {}
        self._epoll: select.epoll | None = None

    def watch(self, source: Watchable, watched: Watched, before: int, wanted: int) -> None:
        epoll = self._epoll
        if epoll is None:
            if wanted == NOTHING:
                return
            epoll = self._begin()
        number = source.fileno()
        if before == NOTHING:
            epoll.register(number, wanted)
            self._watched[number] = watched
        elif number < 0:
            # It was closed elsewhere: epoll has dropped it, and its descriptor may already be
            # reused.
            for known in [known for known, who in self._watched.items() if who is watched]:
                del self._watched[known]
        elif wanted == NOTHING:
            # Even without events to watch for, epoll would keep reporting that the socket broke.
            epoll.unregister(number)
            del self._watched[number]
        else:
            epoll.modify(number, wanted)

    def _begin(self) -> select.epoll:
        epoll = select.epoll()
        try:
            self._start_soon(self._run, epoll)
        except BaseException:
            epoll.close()
            raise
        self._epoll = epoll
        return epoll

    async def _run(self, epoll: select.epoll) -> None:
        try:
            await call_when_readable(epoll, partial(self._tell_ready, epoll))
        finally:
            for who in tuple(self._watched.values()):
                who.abort()
            self._watched.clear()
            self._epoll = None
            epoll.close()

    def _tell_ready(self, epoll: select.epoll) -> None:
        watched = self._watched
        ready = epoll.poll(0)
        with self._together():
            for number, events in ready:
                who = watched.get(number)
                if who is not None:
                    _tell(who, events if not events & ~ALL else ALL)


class _TaskWatcher:
    """Watches each direction of each socket with a task of its own."""

    def __init__(self, start_soon: StartSoon, together: Together) -> None:
        self._start_soon = start_soon
        self._together = together
        self._wanted: dict[Watched, int] = {}
        self._running: set[tuple[Watched, int]] = set()

    def watch(self, source: Watchable, watched: Watched, before: int, wanted: int) -> None:
        if wanted == NOTHING:
            self._wanted.pop(watched, None)
        else:
            self._wanted[watched] = wanted
        for what in (READING, WRITING):
            if wanted & what and (watched, what) not in self._running:
                self._start_soon(self._run, source, watched, what)
                self._running.add((watched, what))

    async def _run(self, source: Watchable, watched: Watched, what: int) -> None:
        wait = source.wait_readable if what == READING else source.wait_writable
        try:
            while self._wanted.get(watched, NOTHING) & what:
                await wait()
                if self._wanted.get(watched, NOTHING) & what:
                    with self._together():
                        _tell(watched, what)
        except anyio.ClosedResourceError:
            return
        except BaseException:
            watched.abort()
            raise
        finally:
            self._running.discard((watched, what))


def _tell(watched: Watched, ready: int) -> None:
    """Call back a relay, whose failure must not affect others."""
    try:
        watched.socket_ready(ready)
    except Exception:
        logger.exception("a forwarded connection failed")
        watched.abort()
