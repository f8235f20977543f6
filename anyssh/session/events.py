"""Facts that a session tells an application that cares to listen."""

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
    """The base of all facts."""


@dataclass(frozen=True, slots=True)
class KeepAliveSucceeded(SessionEvent):
    """The peer gave a sign of life.

    :ivar count: for so many intervals in a row
    """

    count: int


@dataclass(frozen=True, slots=True)
class KeepAliveFailed(SessionEvent):
    """The peer gave no sign of life.

    :ivar count: for so many intervals in a row
    """

    count: int


@dataclass(frozen=True, slots=True)
class Disconnected(SessionEvent):
    """The session has lost its stream, and can go on over another.

    :ivar error: what became of it
    """

    error: SSHError


@dataclass(frozen=True, slots=True)
class Reconnected(SessionEvent):
    """The session goes on over another stream.

    :ivar count: for the so many-th time
    """

    count: int


@dataclass(frozen=True, slots=True)
class ServiceActivated(SessionEvent):
    """A service was needed for the first time.

    :ivar service: the session's one instance of it
    """

    service: SessionService


class EventQueue:
    """Iterates over facts; keeps the latest up to a bound; ends with the session."""

    __slots__ = ("_ended", "_events", "_notice", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._events: list[SessionEvent] = []
        self._notice = Notice()
        self._ended = False

    def put(self, event: SessionEvent) -> None:
        """Keep a fact; forget the oldest when there are too many."""
        self._events.append(event)
        if len(self._events) > self._size:
            del self._events[0]
        self._notice.notify()

    def end(self) -> None:
        """Nothing more happens."""
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
