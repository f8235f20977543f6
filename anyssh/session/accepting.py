"""Accepting connections in spite of what goes wrong with that.

A system that is out of descriptors, for one, cannot accept anybody for a while. AnyIO's listeners
raise then, and so does what their callers wait for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from logging import Logger, getLogger
from typing import Final, TypeVar

import anyio
from anyio.abc import AnyByteStream, Listener, TaskGroup
from anyio.streams.stapled import MultiListener

__all__ = ["accept_connections"]

logger: Logger = getLogger("anyssh")

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0

StreamT = TypeVar("StreamT", bound=AnyByteStream)


async def accept_connections(
    listener: Listener[StreamT],
    handler: Callable[[StreamT], Awaitable[None]],
    connections: TaskGroup,
) -> None:
    """Run ``handler`` for each connection, as one of ``connections``.

    Returns when the listener was closed, or has nothing more to accept.
    """
    if not isinstance(listener, MultiListener):
        await _Accepting(listener, handler).run(connections)
        return
    async with anyio.create_task_group() as loops:
        for each in listener.listeners:
            loops.start_soon(_Accepting(each, handler).run, connections)


class _Accepting:
    """Accepts the connections of one listener; waits before it tries again what has failed."""

    def __init__(
        self, listener: Listener[StreamT], handler: Callable[[StreamT], Awaitable[None]]
    ) -> None:
        self._listener: Listener[AnyByteStream] = listener
        self._handler: Callable[..., Awaitable[None]] = handler
        self._pause = FIRST_PAUSE

    async def run(self, connections: TaskGroup) -> None:
        while True:
            try:
                await self._listener.serve(self._handle, connections)
            except anyio.ClosedResourceError:
                return
            except (OSError, anyio.BrokenResourceError) as error:
                if self._pause == FIRST_PAUSE:
                    logger.warning("connections cannot be accepted for now: %s", error)
            else:
                return
            await anyio.sleep(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _handle(self, stream: AnyByteStream) -> Awaitable[None]:
        self._pause = FIRST_PAUSE
        return self._handler(stream)
