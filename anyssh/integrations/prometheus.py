"""Metrics of sessions and servers for Prometheus, with the extra ``prometheus``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Final

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ImportError as _missing:
    raise ImportError(
        "anyssh.integrations.prometheus needs prometheus_client: pip install 'anyssh[prometheus]'"
    ) from _missing

from anyssh import Server, Session

from ._totals import SessionTotals, Totals

__all__ = ["SSHCollector"]

_SERVER_GAUGES: Final = {
    "connections": "Connections at present, not counting sessions without a stream.",
    "unauthenticated": "Connections whose clients have not authenticated yet.",
    "without_stream": "Sessions whose clients may still reconnect.",
    "penalised_sources": "Sources whose connections are refused at present.",
}
_SERVER_COUNTERS: Final = {
    "total_connections": ("accepted_connections", "Connections admitted."),
    "total_logins": ("logins", "Clients authenticated."),
    "refused_by_limit": ("refused_by_limit", "Connections refused because of a limit."),
    "refused_by_penalty": ("refused_by_penalty", "Connections refused because of a penalty."),
    "handler_failures": ("handler_failures", "Handlers that raised an unexpected exception."),
}


class SSHCollector(Collector):
    """Collects the metrics of sessions and servers. Register it with a Prometheus registry.

    Sessions are summed up by their labels. Use labels with few values, such as the role or the
    service, and none that differ for each session.

    :param labels: the names of the labels of sessions
    """

    def __init__(self, labels: Iterable[str] = ()) -> None:
        self._names = tuple(sorted(labels))
        self._sessions = SessionTotals()
        self._servers: dict[str, Server] = {}

    def watching(
        self, session: Session, labels: Mapping[str, str] | None = None
    ) -> AbstractContextManager[None]:
        """Return a context manager that watches a session.

        Enter it after the session. The session's metrics stay included after leaving it.

        :param session: a client or server session
        :param labels: a value for each of the collector's labels
        :raises ValueError: these are not the labels that the collector was created with, or the
            session is being watched already
        """
        values = dict(labels or {})
        if tuple(sorted(values)) != self._names:
            raise ValueError(f"the labels are {self._names}, not {tuple(sorted(values))}")
        return self._sessions.watching(session, values)

    def add_server(self, server: Server, name: str = "default") -> None:
        """Collect the statistics of a server, in its event loop as well as elsewhere.

        :param server: the server
        :param name: the value of the label ``server``
        :raises ValueError: another server has this name
        """
        if self._servers.setdefault(name, server) is not server:
            raise ValueError(f"there is already a server with the name {name!r}")

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering the collector does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics with their present values."""
        yield from self._collect_sessions()
        yield from self._collect_servers()

    def _collect_sessions(self) -> Iterator[Metric]:
        names = self._names
        transferred = CounterMetricFamily(
            "anyssh_session_bytes", "Bytes on streams, including framing and encryption.",
            labels=[*names, "direction"],
        )  # fmt: skip
        messages = CounterMetricFamily(
            "anyssh_session_messages", "Packets, including those of the transport protocol.",
            labels=[*names, "direction"],
        )  # fmt: skip
        reconnections = CounterMetricFamily(
            "anyssh_session_reconnections", "How often sessions were resumed over another stream.",
            labels=names,
        )  # fmt: skip
        sessions = GaugeMetricFamily("anyssh_sessions", "Sessions at present.", labels=names)
        connected = GaugeMetricFamily(
            "anyssh_sessions_connected", "Sessions with a stream at present.", labels=names
        )
        latency = GaugeMetricFamily(
            "anyssh_session_latency_seconds",
            "Round-trip time to the peer, averaged over the sessions that measure it.",
            labels=names,
        )
        for labels, totals in self._sessions.read().items():
            values = [value for _, value in labels]
            _add_directions(transferred, messages, values, totals)
            reconnections.add_metric(values, totals.reconnections)
            sessions.add_metric(values, totals.sessions)
            connected.add_metric(values, totals.connected)
            if totals.latency is not None:
                latency.add_metric(values, totals.latency)
        yield from (transferred, messages, reconnections, sessions, connected, latency)

    def _collect_servers(self) -> Iterator[Metric]:
        statistics = {name: asdict(server.statistics) for name, server in self._servers.items()}
        for field, text in _SERVER_GAUGES.items():
            gauge = GaugeMetricFamily(f"anyssh_server_{field}", text, labels=["server"])
            for name, numbers in statistics.items():
                gauge.add_metric([name], numbers[field])
            yield gauge
        for field, (metric, text) in _SERVER_COUNTERS.items():
            counter = CounterMetricFamily(f"anyssh_server_{metric}", text, labels=["server"])
            for name, numbers in statistics.items():
                counter.add_metric([name], numbers[field])
            yield counter


def _add_directions(
    transferred: CounterMetricFamily,
    messages: CounterMetricFamily,
    values: list[str],
    totals: Totals,
) -> None:
    transferred.add_metric([*values, "sent"], totals.bytes_sent)
    transferred.add_metric([*values, "received"], totals.bytes_received)
    messages.add_metric([*values, "sent"], totals.messages_sent)
    messages.add_metric([*values, "received"], totals.messages_received)
