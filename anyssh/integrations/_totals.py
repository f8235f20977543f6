"""The metrics of many sessions, summed up by their labels.

A counter must never decrease, so the metrics of a session stay included after it has ended. The
totals may be read from any thread, as they only consist of snapshots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from anyssh import Session, SessionMetrics, SessionState

__all__ = ["Labels", "SessionTotals", "Totals", "labelled"]

Labels = tuple[tuple[str, str], ...]


def labelled(labels: Mapping[str, str]) -> Labels:
    """Return labels in a form that does not depend on their order."""
    return tuple(sorted(labels.items()))


@dataclass(slots=True)
class Totals:
    """Sums over the sessions with the same labels.

    :ivar sessions: sessions being watched
    :ivar connected: of these, sessions with a stream
    :ivar latencies: the current latencies in seconds, of sessions that measure them
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    reconnections: int = 0
    sessions: int = 0
    connected: int = 0
    latencies: tuple[float, ...] = ()

    def add(self, metrics: SessionMetrics) -> None:
        """Add the metrics of a session."""
        self.bytes_sent += metrics.bytes_sent
        self.bytes_received += metrics.bytes_received
        self.messages_sent += metrics.messages_sent
        self.messages_received += metrics.messages_received
        self.reconnections += metrics.reconnections

    @property
    def latency(self) -> float | None:
        """The average of the current latencies in seconds, None if there are none."""
        return sum(self.latencies) / len(self.latencies) if self.latencies else None


class SessionTotals:
    """Sums up sessions being watched, and those that were."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._past: dict[Labels, Totals] = {}
        self._watched: dict[Session, Labels] = {}

    @contextmanager
    def watching(self, session: Session, labels: Mapping[str, str]) -> Iterator[None]:
        """Count a session as present; its metrics stay included afterwards.

        :raises ValueError: it is counted already
        """
        key = labelled(labels)
        with self._lock:
            if session in self._watched:
                raise ValueError(f"{session!r} is being watched already")
            self._past.setdefault(key, Totals())
            self._watched[session] = key
        try:
            yield
        finally:
            metrics = session.metrics
            with self._lock:
                del self._watched[session]
                self._past[key].add(metrics)

    def read(self) -> dict[Labels, Totals]:
        """Return the present sums."""
        with self._lock:
            found = {
                labels: Totals(
                    past.bytes_sent,
                    past.bytes_received,
                    past.messages_sent,
                    past.messages_received,
                    past.reconnections,
                )
                for labels, past in self._past.items()
            }
            for session, labels in self._watched.items():
                totals, metrics = found[labels], session.metrics
                totals.add(metrics)
                totals.sessions += 1
                totals.connected += session.state is SessionState.CONNECTED
                if metrics.latency.current:
                    totals.latencies += (metrics.latency.current / 1000,)
            return found
