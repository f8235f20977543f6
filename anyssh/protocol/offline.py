"""Takes the place of a lost stream until there is another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..config import Limits
from ..errors import SSHError
from ..wire import Buffer
from .acceptance import Phase
from .events import ConnectionTerminated, Event
from .journal import Journal

__all__ = ["Offline", "overflow"]

RESERVE: Final = 1024 * 1024
"""Bytes for messages that cannot wait, such as answers and the ends of channels."""


class Offline:
    """Takes the place of a lost stream; a :class:`~anyssh.protocol.connection.PacketSink`."""

    __slots__ = ("_clock", "_emit", "_journal", "_limits", "_size")

    can_send: Final = True

    def __init__(
        self,
        journal: Journal,
        limits: Limits,
        emit: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._limits = limits
        self._emit = emit
        self._clock = clock
        self._size = journal.size

    @property
    def room(self) -> int:
        """Bytes that may wait for another stream before senders do."""
        size = self._journal.size
        return min(
            self._limits.pending_output - (size - self._size),
            self._limits.unacknowledged_bytes - size,
        )

    def send(self, head: bytes, body: Buffer = b"") -> None:
        """Enter a payload into the journal, to be sent over another stream."""
        self._journal.enter_unsent(self._clock(), head, body)
        error = overflow(self._journal, self._limits)
        if error is not None:
            self.emit(ConnectionTerminated(error, Phase.TERMINATED))

    def emit(self, event: Event) -> None:
        """Queue an event for the session."""
        self._emit(event)

    def count_noise(self, size: int) -> None:
        """Do nothing: nothing arrives from a lost stream."""


def overflow(journal: Journal, limits: Limits) -> SSHError | None:
    """Return the error of a session with too much unacknowledged, or None."""
    limit = limits.unacknowledged_bytes + RESERVE
    if journal.size <= limit:
        return None
    return SSHError(f"more than {limit} bytes wait for the peer to acknowledge them")
