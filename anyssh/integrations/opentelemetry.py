"""Metrics of sessions and servers for OpenTelemetry, with the extra ``otel``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Final

try:
    from opentelemetry.metrics import (
        CallbackOptions,
        MeterProvider,
        Observation,
        get_meter_provider,
    )
except ImportError as _missing:
    raise ImportError(
        "anyssh.integrations.opentelemetry needs opentelemetry-api: pip install 'anyssh[otel]'"
    ) from _missing

from anyssh import Server, ServerStatistics, Session, __version__

from ._totals import SessionTotals, Totals

__all__ = ["SSHInstruments"]

Observe = Callable[[CallbackOptions], Iterable[Observation]]

_SERVER_GAUGES: Final[dict[str, tuple[str, Callable[[ServerStatistics], int]]]] = {
    "connections": ("{connection}", lambda numbers: numbers.connections),
    "unauthenticated": ("{connection}", lambda numbers: numbers.unauthenticated),
    "without_stream": ("{session}", lambda numbers: numbers.without_stream),
    "penalised_sources": ("{source}", lambda numbers: numbers.penalised_sources),
}
_SERVER_COUNTERS: Final[dict[str, tuple[str, Callable[[ServerStatistics], int]]]] = {
    "accepted_connections": ("{connection}", lambda numbers: numbers.total_connections),
    "logins": ("{login}", lambda numbers: numbers.total_logins),
    "refused_by_limit": ("{connection}", lambda numbers: numbers.refused_by_limit),
    "refused_by_penalty": ("{connection}", lambda numbers: numbers.refused_by_penalty),
    "handler_failures": ("{failure}", lambda numbers: numbers.handler_failures),
}


class SSHInstruments:
    """Observes the metrics of sessions and servers. Create one per meter provider.

    Sessions are summed up by their attributes. Use attributes with few values, such as the role or
    the service, and none that differ for each session.

    :param meter_provider: the global one if not given
    """

    def __init__(self, meter_provider: MeterProvider | None = None) -> None:
        self._sessions = SessionTotals()
        self._servers: dict[str, Server] = {}
        provider = meter_provider if meter_provider is not None else get_meter_provider()
        self._meter = provider.get_meter("anyssh", __version__)
        self._observe_sessions()
        self._observe_servers()

    def watching(
        self, session: Session, attributes: Mapping[str, str] | None = None
    ) -> AbstractContextManager[None]:
        """Return a context manager that watches a session.

        Enter it after the session. The session's metrics stay included after leaving it.

        :param session: a client or server session
        :param attributes: attributes of the observations
        :raises ValueError: the session is being watched already
        """
        return self._sessions.watching(session, attributes or {})

    def add_server(self, server: Server, name: str = "default") -> None:
        """Observe the statistics of a server.

        :param server: the server
        :param name: the value of the attribute ``server``
        :raises ValueError: another server has this name
        """
        if self._servers.setdefault(name, server) is not server:
            raise ValueError(f"there is already a server with the name {name!r}")

    def _observe_sessions(self) -> None:
        meter = self._meter
        meter.create_observable_counter(
            "anyssh.session.io",
            [self._directed(lambda totals: (totals.bytes_sent, totals.bytes_received))],
            unit="By",
            description="Bytes on streams, including framing and encryption.",
        )
        meter.create_observable_counter(
            "anyssh.session.messages",
            [self._directed(lambda totals: (totals.messages_sent, totals.messages_received))],
            unit="{message}",
            description="Packets, including those of the transport protocol.",
        )
        meter.create_observable_counter(
            "anyssh.session.reconnections",
            [self._summed(lambda totals: totals.reconnections)],
            unit="{reconnection}",
            description="How often sessions were resumed over another stream.",
        )
        meter.create_observable_up_down_counter(
            "anyssh.sessions",
            [self._summed(lambda totals: totals.sessions)],
            unit="{session}",
            description="Sessions at present.",
        )
        meter.create_observable_up_down_counter(
            "anyssh.sessions.connected",
            [self._summed(lambda totals: totals.connected)],
            unit="{session}",
            description="Sessions with a stream at present.",
        )
        meter.create_observable_gauge(
            "anyssh.session.latency",
            [self._summed(lambda totals: totals.latency)],
            unit="s",
            description="Round-trip time to the peer, averaged over sessions that measure it.",
        )

    def _summed(self, value: Callable[[Totals], float | None]) -> Observe:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for labels, totals in self._sessions.read().items():
                amount = value(totals)
                if amount is not None:
                    yield Observation(amount, dict(labels))

        return observe

    def _directed(self, values: Callable[[Totals], tuple[int, int]]) -> Observe:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for labels, totals in self._sessions.read().items():
                sent, received = values(totals)
                yield Observation(sent, {**dict(labels), "network.io.direction": "transmit"})
                yield Observation(received, {**dict(labels), "network.io.direction": "receive"})

        return observe

    def _observe_servers(self) -> None:
        for name, (unit, value) in _SERVER_GAUGES.items():
            self._meter.create_observable_up_down_counter(
                f"anyssh.server.{name}", [self._of_servers(value)], unit=unit
            )
        for name, (unit, value) in _SERVER_COUNTERS.items():
            self._meter.create_observable_counter(
                f"anyssh.server.{name}", [self._of_servers(value)], unit=unit
            )

    def _of_servers(self, value: Callable[[ServerStatistics], int]) -> Observe:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for name, server in self._servers.items():
                yield Observation(value(server.statistics), {"server": name})

        return observe
