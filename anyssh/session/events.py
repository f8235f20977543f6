"""The events that a session reports to the application, through :meth:`Session.events`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import anyio
import anyio.lowlevel

from ..errors import SSHError
from ._waiting import Notice

if TYPE_CHECKING:
    from .services import SessionService

__all__ = [
    "Disconnected",
    "KeepAliveFailed",
    "KeepAliveSucceeded",
    "Reconnected",
    "ServiceActivated",
    "SessionEvent",
]


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """The base class of all session events."""


@dataclass(frozen=True, slots=True)
class KeepAliveSucceeded(SessionEvent):
    """Something arrived from the peer since the previous keep-alive interval ended.

    :ivar count: consecutive intervals in which something arrived
    """

    count: int


@dataclass(frozen=True, slots=True)
class KeepAliveFailed(SessionEvent):
    """Nothing arrived from the peer for a whole keep-alive interval.

    :ivar count: consecutive intervals of silence
    """

    count: int


@dataclass(frozen=True, slots=True)
class Disconnected(SessionEvent):
    """The session has lost its stream, and can be resumed over another.

    :ivar error: why the stream was lost
    """

    error: SSHError


@dataclass(frozen=True, slots=True)
class Reconnected(SessionEvent):
    """The session was resumed over another stream.

    :ivar count: how often that has happened, including this time
    """

    count: int


@dataclass(frozen=True, slots=True)
class ServiceActivated(SessionEvent):
    """A service was activated.

    :ivar service: the session's instance of it
    """

    service: SessionService


class EventQueue:
    """Iterates over events; keeps the latest ones up to a bound; ends with the session."""

    __slots__ = ("_ended", "_events", "_notice", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._events: list[SessionEvent] = []
        self._notice = Notice()
        self._ended = False

    def put(self, event: SessionEvent) -> None:
        """Add an event, dropping the oldest if there are too many."""
        self._events.append(event)
        if len(self._events) > self._size:
            del self._events[0]
        self._notice.notify()

    def end(self) -> None:
        """End the iteration after the queued events."""
        self._ended = True
        self._notice.notify()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionEvent:
        await anyio.lowlevel.checkpoint()
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            await self._notice.wait()
        return self._events.pop(0)
