"""Metrics for Prometheus and OpenTelemetry, read by their own libraries."""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import prometheus_client
import pytest
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import anyssh
from anyssh.integrations.opentelemetry import SSHInstruments
from anyssh.integrations.prometheus import SSHCollector
from anyssh.testing import memory_stream_pair, session_pair
from tests.session.ends import (
    ALICE,
    channel_pair,
    host_key,
    make_server,
    receive_exactly,
)

RECONNECT = anyssh.SessionConfig.with_reconnect()
SENT = {"role": "client", "direction": "sent"}
RECEIVED = {"role": "client", "direction": "received"}
CLIENT = {"role": "client"}


async def move(client: anyssh.Session, server: anyssh.Session, size: int) -> None:
    """Move bytes; where the clock is fine enough for it, a latency is measured."""
    near, far = await channel_pair(client, server)
    async with near, far:
        for _ in range(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(near.send, bytes(size))
                await receive_exactly(far, size)
            if client.metrics.latency.current:
                return


def latency_of(session: anyssh.Session) -> Any:
    """Return what is to be told: nothing if nothing was measured, as uvloop counts milliseconds."""
    current = session.metrics.latency.current
    return pytest.approx(current / 1000) if current else None


async def test_prometheus_counts_sessions() -> None:
    registry = prometheus_client.CollectorRegistry()
    collector = SSHCollector(["role"])
    registry.register(collector)

    def value(name: str, labels: dict[str, str]) -> float | None:
        found: float | None = registry.get_sample_value(f"anyssh_{name}", labels)
        return found

    async with session_pair(client_config=RECONNECT, server_config=RECONNECT) as (client, server):
        with collector.watching(client, CLIENT):
            await move(client, server, 100_000)
            assert value("session_bytes_total", SENT) == client.metrics.bytes_sent > 100_000
            assert value("session_bytes_total", RECEIVED) == client.metrics.bytes_received
            assert value("session_messages_total", SENT) == client.metrics.messages_sent
            assert value("session_reconnections_total", CLIENT) == 0
            assert value("sessions", CLIENT) == value("sessions_connected", CLIENT) == 1
            assert value("session_latency_seconds", CLIENT) == latency_of(client)
            before = value("session_bytes_total", SENT)
        assert value("sessions", CLIENT) == 0
        assert value("session_latency_seconds", CLIENT) is None
    assert value("session_bytes_total", SENT) == before
    async with session_pair() as (client, server):
        with collector.watching(client, CLIENT):
            total = value("session_bytes_total", SENT)
            assert total is not None
            assert before is not None
            assert total == before + client.metrics.bytes_sent
            assert value("sessions", CLIENT) == 1


async def test_no_session_is_counted_twice() -> None:
    collector = SSHCollector()
    async with session_pair() as (client, _):
        with (
            collector.watching(client),
            pytest.raises(ValueError, match="is being watched already"),
            collector.watching(client),
        ):
            pytest.fail("it is watched")


async def test_prometheus_wants_the_labels_that_it_was_promised() -> None:
    collector = SSHCollector(["role"])
    async with session_pair() as (client, _):
        with pytest.raises(ValueError, match="the labels are"):
            collector.watching(client, {"rule": "client"})


@asynccontextmanager
async def one_login(server: anyssh.Server) -> AsyncIterator[None]:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        await tasks.start(server.serve, listener, anyssh.ServerSession.wait_closed)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyssh.ClientSession.connect(
            await anyio.connect_tcp("127.0.0.1", port),
            credentials=ALICE,
            verify_host=anyssh.pin(host_key().fingerprint),
        ):
            yield
        tasks.cancel_scope.cancel()


async def test_prometheus_asks_a_server_from_a_thread_of_its_own() -> None:
    registry = prometheus_client.CollectorRegistry()
    collector = SSHCollector()
    server = make_server()
    collector.add_server(server, "main")
    collector.add_server(server, "main")
    with pytest.raises(ValueError, match="already"):
        collector.add_server(make_server(), "main")
    registry.register(collector)
    web, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    try:
        async with one_login(server):
            url = f"http://127.0.0.1:{web.server_port}/metrics"
            page = await anyio.to_thread.run_sync(lambda: urllib.request.urlopen(url).read())
        lines = page.decode().splitlines()
        assert 'anyssh_server_connections{server="main"} 1.0' in lines
        assert 'anyssh_server_logins_total{server="main"} 1.0' in lines
        assert 'anyssh_server_penalised_sources{server="main"} 0.0' in lines
    finally:
        await anyio.to_thread.run_sync(web.shutdown)
        web.server_close()
        await anyio.to_thread.run_sync(thread.join)


class Reader:
    """Reads what OpenTelemetry has collected."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = sdk.MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False)

    def value(self, name: str, **attributes: str) -> Any:
        data = self._reader.get_metrics_data()
        points = [
            point.value
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"anyssh.{name}"
            for point in metric.data.data_points
            if dict(point.attributes)
            == {key.replace("direction", "network.io.direction"): each
                for key, each in attributes.items()}
        ]  # fmt: skip
        return points[0] if points else None


async def test_opentelemetry_counts_sessions() -> None:
    reader = Reader()
    instruments = SSHInstruments(reader.provider)
    async with session_pair(client_config=RECONNECT, server_config=RECONNECT) as (client, server):
        with instruments.watching(client, CLIENT):
            await move(client, server, 100_000)
            metrics = client.metrics
            sent = reader.value("session.io", role="client", direction="transmit")
            assert sent == metrics.bytes_sent > 100_000
            received = reader.value("session.messages", role="client", direction="receive")
            assert received == metrics.messages_received
            assert reader.value("session.reconnections", role="client") == 0
            assert reader.value("sessions", role="client") == 1
            assert reader.value("sessions.connected", role="client") == 1
            latency = reader.value("session.latency", role="client")
            assert latency == latency_of(client)
        assert reader.value("sessions", role="client") == 0
        assert reader.value("session.io", role="client", direction="transmit") == sent
    reader.provider.shutdown()


async def test_opentelemetry_asks_a_server() -> None:
    reader = Reader()
    instruments = SSHInstruments(reader.provider)
    server = make_server()
    instruments.add_server(server, "main")
    with pytest.raises(ValueError, match="already"):
        instruments.add_server(make_server(), "main")

    def from_a_thread(name: str) -> Any:
        return reader.value(name, server="main")

    async with one_login(server):
        run = anyio.to_thread.run_sync
        assert await run(from_a_thread, "server.connections") == 1
        assert await run(from_a_thread, "server.logins") == 1
        assert await run(from_a_thread, "server.penalised_sources") == 0
    reader.provider.shutdown()


async def test_a_session_without_a_stream_is_not_connected() -> None:
    collector = SSHCollector()
    registry = prometheus_client.CollectorRegistry()
    registry.register(collector)
    near, far = memory_stream_pair()
    server = make_server(config=RECONNECT)
    async with anyio.create_task_group() as tasks:

        async def serve() -> None:
            async with server.accept(far) as session:
                await session.wait_closed()

        tasks.start_soon(serve)
        async with anyssh.ClientSession.connect(
            near,
            credentials=ALICE,
            verify_host=anyssh.pin(host_key().fingerprint),
            config=RECONNECT,
        ) as client:
            with collector.watching(client):
                assert registry.get_sample_value("anyssh_sessions_connected") == 1
                await client.disconnect(anyssh.DisconnectReason.CONNECTION_LOST)
                assert registry.get_sample_value("anyssh_sessions") == 1
                assert registry.get_sample_value("anyssh_sessions_connected") == 0
        tasks.cancel_scope.cancel()
