"""The sessions of a server that can be resumed over another stream.

A session is listed from its authentication to its end, with or without a stream. A client that
comes back claims it: if two come back at the same time, one succeeds, and the other may ask again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from ..constants import DisconnectReason
from ..errors import Disconnected
from .links import SessionState

if TYPE_CHECKING:
    from .server_session import ServerSession

__all__ = ["ReconnectableSessions"]

MAX_BYTES: Final = 256 * 1024 * 1024


class ReconnectableSessions:
    """The sessions that clients may reconnect to; iterable.

    Each :class:`Server` has its own by default. Pass the same one to several servers if clients may
    reconnect to any of them.

    When it is full, the session that has been without a stream for longest ends. If every session
    has a stream, a new session is not listed, and ends with its stream.

    :param max_sessions: the most sessions in total
    :param max_per_principal: the most sessions of one principal, compared with ``==``
    :param max_bytes: bytes kept for retransmission in sessions without a stream
    :raises ValueError: a limit is not positive
    """

    def __init__(
        self,
        *,
        max_sessions: int = 1000,
        max_per_principal: int = 10,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        least = min(max_sessions, max_per_principal, max_bytes)
        if least < 1:
            raise ValueError(f"the limits of reconnectable sessions must be positive, not {least}")
        self._max_sessions = max_sessions
        self._max_per_principal = max_per_principal
        self._max_bytes = max_bytes
        self._sessions: dict[ServerSession, None] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[ServerSession]:
        return iter(tuple(self._sessions))

    def __contains__(self, session: object) -> bool:
        return session in self._sessions

    def _add(self, session: ServerSession) -> None:
        """List a session, if there is room."""
        namesakes = [other for other in self._sessions if other.principal == session.principal]
        if len(namesakes) >= self._max_per_principal and not self._evict(namesakes):
            return
        if len(self._sessions) >= self._max_sessions and not self._evict(list(self._sessions)):
            return
        self._sessions[session] = None

    def _evict(self, sessions: list[ServerSession]) -> bool:
        """End the session without a stream for longest; return whether there was one."""
        lost = [
            session
            for session in sessions
            if session.state is SessionState.DISCONNECTED and not session._is_claimed
        ]
        if not lost:
            return False
        oldest = min(lost, key=lambda session: session._loss_number)
        self._discard(oldest)
        oldest._end_now(
            Disconnected(
                DisconnectReason.TOO_MANY_CONNECTIONS,
                "other sessions took the place of one without a stream",
                by_peer=False,
            )
        )
        return True

    def _discard(self, session: ServerSession) -> None:
        """Remove a session."""
        self._sessions.pop(session, None)

    def _check_bytes(self) -> None:
        """End sessions without a stream while they keep too many bytes."""
        while sum(other._kept_bytes for other in self._sessions) > self._max_bytes:
            if not self._evict(list(self._sessions)):
                return

    def _find(self, proves: Callable[[bytes], bool]) -> ServerSession | None:
        """Return the session that a client has proved to know.

        Compares all of them, so that the duration reveals nothing.
        """
        found = [session for session in self._sessions if proves(session._secret_id)]
        return found[0] if found else None
