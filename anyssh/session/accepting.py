"""Accepting connections, with retries.

A system that is out of descriptors, for example, temporarily cannot accept connections. AnyIO's
listeners then raise, and end the call that serves them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from logging import Logger, getLogger
from typing import Final, TypeVar

import anyio
from anyio.abc import AnyByteStream, Listener, TaskGroup
from anyio.streams.stapled import MultiListener

from ..errors import SSHError

__all__ = ["AcceptLoop", "accept_connections"]

logger: Logger = getLogger("anyssh")

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0

StreamT = TypeVar("StreamT", bound=AnyByteStream)

_EXPECTED: Final = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)


async def accept_connections(
    listener: Listener[StreamT],
    handler: Callable[[StreamT], Awaitable[None]],
    connections: TaskGroup,
) -> None:
    """Run ``handler`` in a task of ``connections`` for each connection.

    Returns when the listener was closed, or cannot accept any more, as after the end of its
    session.
    """
    if not isinstance(listener, MultiListener):
        await _accept_from(listener, handler, connections)
        return
    async with anyio.create_task_group() as loops:
        for each in listener.listeners:
            loops.start_soon(_accept_from, each, handler, connections)


async def _accept_from(
    listener: Listener[StreamT],
    handler: Callable[[StreamT], Awaitable[None]],
    connections: TaskGroup,
) -> None:
    loop = AcceptLoop("connections cannot be accepted for now")
    await loop.run(partial(listener.serve, loop.noting(handler), connections))


class AcceptLoop:
    """Accepts the connections of one listener; pauses before it retries after a failure.

    :param trouble: what to log when accepting first fails, and again after a success
    """

    def __init__(self, trouble: str) -> None:
        self._trouble = trouble
        self._pause = FIRST_PAUSE

    async def run(self, accept: Callable[[], Awaitable[None]]) -> None:
        """Accept until the listener is closed, or cannot accept any more."""
        while True:
            try:
                await accept()
            except Exception as error:
                if not all(isinstance(cause, _EXPECTED) for cause in _causes(error)):
                    raise
                if all(map(_is_final, _causes(error))):
                    return
                self._tell(error)
            else:
                return
            await anyio.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _tell(self, error: Exception) -> None:
        """Log a failure, if it is the first in a row."""
        if self._pause == FIRST_PAUSE:
            trouble = next(each for each in _causes(error) if not _is_final(each))
            logger.warning("%s: %s", self._trouble, trouble)

    def accepted(self) -> None:
        """Note that a connection was accepted: the next failure is a new one."""
        self._pause = FIRST_PAUSE

    def noting(
        self, handler: Callable[[StreamT], Awaitable[None]]
    ) -> Callable[[StreamT], Awaitable[None]]:
        """Return a handler that also notes each connection."""

        def handle(stream: StreamT) -> Awaitable[None]:
            self.accepted()
            return handler(stream)

        return handle


def _is_final(error: Exception) -> bool:
    """Tell whether a listener was closed, or belonged to a session that has ended."""
    return isinstance(error, anyio.ClosedResourceError) or isinstance(error.__cause__, SSHError)


def _causes(error: Exception) -> Sequence[Exception]:
    """Return what the parts of a compound listener raised, each in a task of its own."""
    if not isinstance(error, ExceptionGroup):
        return [error]
    return [cause for each in error.exceptions for cause in _causes(each)]
