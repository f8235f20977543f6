"""The sessions of a server that can go on over another stream, where their clients find them.

A session is listed from its authentication to its end, whether or not it has a stream now. A client
that comes back claims it, so of two that come at the same time, one wins; the other may ask again.
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
    """Sessions by which their clients may come back; iterates over them.

    Each :class:`Server` has one of its own. Give several servers the same one if their clients may
    come back to any of them.

    When there is no room, the session that has been without a stream for longest ends. If all have
    a stream, a new session is not listed: it ends with its stream.

    :param max_sessions: at most so many in all
    :param max_per_principal: at most so many of one principal, as told by ``==``
    :param max_bytes: kept for sessions without a stream, to be sent again
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
        """End the one that has been without a stream for longest; return whether there was one."""
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
        """List a session no longer."""
        self._sessions.pop(session, None)

    def _check_bytes(self) -> None:
        """See to it that sessions without a stream do not keep too much."""
        while sum(other._kept_bytes for other in self._sessions) > self._max_bytes:
            if not self._evict(list(self._sessions)):
                return

    def _find(self, proves: Callable[[bytes], bool]) -> ServerSession | None:
        """Return the session that a client has proved to know.

        All are looked at, so that the time tells nothing.
        """
        found = [session for session in self._sessions if proves(session._secret_id)]
        return found[0] if found else None
