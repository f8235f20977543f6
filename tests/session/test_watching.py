"""Observing a session: trace, progress, events, metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

import anyssh
from anyssh import Progress, TraceId, TraceLevel
from anyssh.testing import Direction, FaultStream, session_pair
from tests.session.ends import (
    ALICE,
    Call,
    at_once,
    channel_pair,
    connected,
    make_server,
    pinned,
    receive_exactly,
    serving,
    settle,
)

HALF_AN_HOUR = 1800
CONNECTING = [
    Progress.OPENING_SESSION_CONNECTION,
    Progress.STARTING_VERSION_EXCHANGE,
    Progress.COMPLETED_VERSION_EXCHANGE,
    Progress.STARTING_KEY_EXCHANGE,
    Progress.COMPLETED_KEY_EXCHANGE,
    Progress.OPENED_SESSION_CONNECTION,
]
AUTHENTICATING = [Progress.STARTING_AUTHENTICATION, Progress.COMPLETED_AUTHENTICATION]


class Trace(list[anyssh.TraceEvent]):
    """Keeps what is traced."""

    def ids(self) -> set[TraceId]:
        return {event.id for event in self}

    def text(self) -> str:
        return "\n".join(f"{event.message} {event.error!r}" for event in self)

    def of(self, trace_id: TraceId) -> list[anyssh.TraceEvent]:
        return [event for event in self if event.id is trace_id]


# Trace


async def traced_session() -> tuple[Trace, Trace]:
    """Run a session with a channel from its beginning to its end; return both ends' traces."""
    client_trace, server_trace = Trace(), Trace()
    server = make_server(trace=server_trace.append)
    async with connected(server, trace=client_trace.append) as (client, session):
        near, far = await channel_pair(client, session)
        await near.send(b"CHANNEL CONTENTS")
        await receive_exactly(far, 16)
        await near.request("exec", b"REQUEST CONTENTS", want_reply=False)
        await near.aclose()
        await far.wait_closed()
        await settle()
    return client_trace, server_trace


async def test_both_ends_trace_every_stage() -> None:
    expected = {
        TraceId.SESSION_CONNECTING,
        TraceId.PROTOCOL_VERSION,
        TraceId.ALGORITHM_NEGOTIATION,
        TraceId.SESSION_ENCRYPTED,
        TraceId.SESSION_AUTHENTICATING,
        TraceId.SESSION_AUTHENTICATED,
        TraceId.CHANNEL_OPENED,
        TraceId.CHANNEL_CLOSED,
        TraceId.SESSION_CLOSING,
        TraceId.SENDING_MESSAGE,
        TraceId.RECEIVING_MESSAGE,
    }
    for trace in await traced_session():
        assert expected <= trace.ids()
        stages = [event.id for event in trace if event.level < TraceLevel.VERBOSE]
        firsts = [stages.index(trace_id) for trace_id in STAGES]
        assert firsts == sorted(firsts)
        assert len(trace.of(TraceId.CHANNEL_OPENED)) == 1
        assert len(trace.of(TraceId.CHANNEL_CLOSED)) == 1
        assert len(trace.of(TraceId.SESSION_AUTHENTICATED)) == 1
        (negotiation,) = trace.of(TraceId.ALGORITHM_NEGOTIATION)
        assert "kex=" in negotiation.message
        (version,) = trace.of(TraceId.PROTOCOL_VERSION)
        assert f"anyssh_{anyssh.__version__}" in version.message


STAGES = [
    TraceId.SESSION_CONNECTING,
    TraceId.PROTOCOL_VERSION,
    TraceId.ALGORITHM_NEGOTIATION,
    TraceId.SESSION_ENCRYPTED,
    TraceId.SESSION_AUTHENTICATING,
    TraceId.SESSION_AUTHENTICATED,
    TraceId.CHANNEL_OPENED,
    TraceId.CHANNEL_CLOSED,
    TraceId.SESSION_CLOSING,
]


async def test_every_message_is_traced_at_both_ends() -> None:
    client_trace, server_trace = await traced_session()
    for sender, receiver in ((client_trace, server_trace), (server_trace, client_trace)):
        sent = [e.message.removeprefix("Sending ") for e in sender.of(TraceId.SENDING_MESSAGE)]
        received = [
            e.message.removeprefix("Receiving ") for e in receiver.of(TraceId.RECEIVING_MESSAGE)
        ]
        # Who has ended does not listen any more.
        assert sent[: len(received)] == received
        assert len(received) >= len(sent) - 1
        assert any("CHANNEL_WINDOW" not in message for message in sent)
        assert "KEXINIT" in sent[0]


async def test_levels_tell_how_much_an_event_matters() -> None:
    for trace in await traced_session():
        for event in trace:
            is_message = event.id in (TraceId.SENDING_MESSAGE, TraceId.RECEIVING_MESSAGE)
            assert (event.level is TraceLevel.VERBOSE) == is_message, event
            assert event.level >= TraceLevel.INFO, event
            assert "\n" not in event.message


async def test_a_trace_holds_no_secret() -> None:
    for trace in await traced_session():
        for secret in ("wonderland", "CHANNEL CONTENTS", "REQUEST CONTENTS"):
            assert secret not in trace.text()
            assert secret.encode().hex() not in trace.text().lower()


async def test_the_bytes_of_channels_are_traced_on_demand() -> None:
    """TRC-03, TRC-04: at the end that asks for it, line by line comparable with the other end."""
    client_trace, server_trace = Trace(), Trace()
    shows = anyssh.SessionConfig(trace_channel_data=True)
    server = make_server(trace=server_trace.append, config=shows)
    options = {"trace": client_trace.append, "config": shows}
    async with connected(server, **options) as (client, session):
        near, far = await channel_pair(client, session)
        await near.send(bytes([1, 2, 3]))
        await receive_exactly(far, 3)
        await far.send_stderr(bytes(range(0xE8, 0x100)))
        await receive_exactly(near.stderr, 24)
    for sender, receiver, expected in (
        (
            client_trace,
            server_trace,
            "CHANNEL_DATA, channel 0, 3 bytes, CRC-32 55BC801D, 0000: 01 02 03",
        ),
        (
            server_trace,
            client_trace,
            "CHANNEL_EXTENDED_DATA, channel 0, 24 bytes, CRC-32 65172BDE, "
            "0000: e8 e9 ea eb ec ed ee ef f0 f1 f2 f3 f4 f5 f6 f7, "
            "0010: f8 f9 fa fb fc fd fe ff",
        ),
    ):
        (sent,) = sender.of(TraceId.SENDING_CHANNEL_DATA)
        (received,) = receiver.of(TraceId.RECEIVING_CHANNEL_DATA)
        assert sent.message.endswith(expected)
        assert sent.message.startswith("Sending #")
        assert received.message == sent.message.replace("Sending", "Receiving")
        assert sent.level is received.level is TraceLevel.VERBOSE


async def test_a_refused_client_is_traced_without_its_password() -> None:
    client_trace, server_trace = Trace(), Trace()
    server = make_server(trace=server_trace.append)
    async with connected(server, credentials=None, trace=client_trace.append) as (client, _):
        with pytest.raises(anyssh.AuthenticationError):
            await client.authenticate(anyssh.ClientCredentials("alice", password="SECRET"))
        await client.authenticate(ALICE)
    (refusal,) = server_trace.of(TraceId.CLIENT_AUTHENTICATION_FAILED)
    assert refusal.level is TraceLevel.WARNING
    assert "'alice'" in refusal.message
    for trace in (client_trace, server_trace):
        assert len(trace.of(TraceId.SESSION_AUTHENTICATED)) == 1
        assert "SECRET" not in trace.text()


async def test_a_refused_host_key_is_traced() -> None:
    trace = Trace()
    other = anyssh.pin(anyssh.generate_key("ssh-ed25519").fingerprint)
    async with serving(make_server()) as (stream, _):
        with pytest.raises(anyssh.HostKeyError):
            async with anyssh.ClientSession.connect(
                stream, credentials=ALICE, verify_host=other, trace=trace.append
            ):
                pytest.fail("the host key was refused")
    (event,) = trace.of(TraceId.SERVER_AUTHENTICATION_FAILED)
    assert event.level is TraceLevel.WARNING
    assert isinstance(event.error, anyssh.HostKeyError)


async def test_a_failing_judge_and_a_refused_channel_are_traced() -> None:
    async def authenticate(attempt: anyssh.AuthAttempt) -> object:
        raise KeyError("a mistake of the application")

    trace = Trace()
    server = make_server(authenticate=authenticate, trace=trace.append)
    async with connected(server, credentials=None) as (client, _):
        with pytest.raises(anyssh.AuthenticationError):
            await client.authenticate(ALICE)
    (failure,) = trace.of(TraceId.AUTHENTICATION_ERROR)
    assert failure.level is TraceLevel.ERROR
    assert isinstance(failure.error, KeyError)

    client_trace = Trace()
    async with connected(trace=client_trace.append) as (client, session):

        async def refuse() -> None:
            await (await anext(session.incoming_channels())).reject(2, "no such weather")

        async def open_channel() -> None:
            with pytest.raises(anyssh.ChannelOpenError):
                await client.open_channel()

        await at_once(open_channel(), refuse())
    (event,) = client_trace.of(TraceId.CHANNEL_OPEN_FAILED)
    assert "no such weather" in event.message


async def test_a_forwarded_connection_that_does_not_come_about_is_traced() -> None:
    trace = Trace()
    async with (
        connected(trace=trace.append) as (client, _),
        client.forward_to_remote_port("127.0.0.1", 0, "db.internal", 5432) as forward,
        await anyio.connect_tcp("127.0.0.1", forward.local_port or 0) as stream,
    ):
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
    (event,) = trace.of(TraceId.PORT_FORWARD_CHANNEL_OPEN_FAILED)
    assert event.level is TraceLevel.WARNING
    assert event.message.startswith("db.internal:5432: channel not opened: ")
    assert isinstance(event.error, anyssh.ChannelOpenError)


async def test_a_lost_connection_is_traced_with_its_error() -> None:
    trace = Trace()
    async with (
        serving(make_server()) as (stream, _),
        anyssh.ClientSession.connect(
            stream, credentials=ALICE, verify_host=pinned(), trace=trace.append
        ) as client,
    ):
        stream.abort()  # type: ignore[attr-defined]
        await client.wait_closed()
    closing = trace.of(TraceId.SESSION_CLOSING)
    assert any(isinstance(event.error, anyssh.ConnectionLost) for event in closing)


async def test_a_session_without_protection_is_traced_too() -> None:
    trace = Trace()
    insecure = anyssh.InsecureSessionConfig()
    async with connected(
        anyssh.Server(config=insecure),
        config=insecure,
        verify_host=None,
        credentials=None,
        trace=trace.append,
    ) as (client, server):
        await channel_pair(client, server)
    assert {TraceId.SESSION_CONNECTING, TraceId.CHANNEL_OPENED, TraceId.SESSION_CLOSING} <= (
        trace.ids()
    )
    assert TraceId.SESSION_AUTHENTICATED not in trace.ids()


async def test_a_trace_of_one_session_knows_nothing_of_another() -> None:
    first, second = Trace(), Trace()
    async with connected(trace=first.append), connected(trace=second.append) as (client, server):
        before = len(first)
        await channel_pair(client, server)
        await settle()
        assert len(first) == before
        assert second.of(TraceId.CHANNEL_OPENED)


def test_identifiers_are_distinct_and_those_of_the_dev_tunnels_libraries() -> None:
    values = [trace_id.value for trace_id in TraceId.__members__.values()]
    assert len(set(values)) == len(TraceId.__members__)
    for name, trace_id in TraceId.__members__.items():
        is_error = name.endswith(("_ERROR", "_FAILED")) and name != "CHANNEL_OPEN_FAILED"
        assert not is_error or 9000 <= trace_id < 9100
        assert 9000 <= trace_id < 9300
    levels = [TraceLevel.ERROR, TraceLevel.WARNING, TraceLevel.INFO, TraceLevel.VERBOSE]
    assert sorted(TraceLevel) == levels
    assert len({progress.value for progress in Progress}) == len(Progress.__members__) == 8


# Callbacks that fail


def fail(event: object) -> None:
    raise KeyError("a mistake of the application")


@pytest.mark.parametrize("end", ["client", "server"])
@pytest.mark.parametrize("callback", ["trace", "on_progress"])
async def test_a_callback_that_fails_harms_nothing(
    end: str, callback: str, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {callback: fail}
    server = make_server(**options if end == "server" else {})
    with caplog.at_level(logging.ERROR, "anyssh"):
        async with connected(server, **options if end == "client" else {}) as (client, session):
            near, far = await channel_pair(client, session)
            await near.send(b"as usual")
            assert await far.receive() == b"as usual"
    assert "a mistake of the application" in caplog.text


# Progress


class ProgressLog(list[anyssh.ProgressEvent]):
    """Keeps the stages of sessions."""

    def stages(self, number: int | None = None) -> list[Progress]:
        return [e.progress for e in self if number is None or e.session_number == number]

    def numbers(self) -> list[int]:
        return list(dict.fromkeys(event.session_number for event in self))


async def test_progress_comes_in_its_order_at_both_ends() -> None:
    client_log, server_log = ProgressLog(), ProgressLog()
    server = make_server(on_progress=server_log.append)
    async with connected(server, on_progress=client_log.append):
        assert client_log.stages() == server_log.stages() == CONNECTING + AUTHENTICATING
    # Nothing more comes when the session ends.
    assert client_log.stages() == server_log.stages() == CONNECTING + AUTHENTICATING


async def test_progress_without_credentials_waits_for_them() -> None:
    log, server_log = ProgressLog(), ProgressLog()
    server = make_server(on_progress=server_log.append)
    async with connected(server, credentials=None, on_progress=log.append) as (client, _):
        await settle()
        assert log.stages() == server_log.stages() == CONNECTING
        with pytest.raises(anyssh.AuthenticationError):
            await client.authenticate(anyssh.ClientCredentials("alice", password="wrong"))
        assert log.stages() == CONNECTING + AUTHENTICATING
        await client.authenticate(ALICE)
        assert log.stages() == server_log.stages() == CONNECTING + AUTHENTICATING * 2


async def test_a_rekey_is_no_progress() -> None:
    log = ProgressLog()
    async with connected(on_progress=log.append) as (client, _):
        await client.rekey()
        assert log.stages() == CONNECTING + AUTHENTICATING


async def test_progress_without_protection_ends_with_the_connection() -> None:
    client_log, server_log = ProgressLog(), ProgressLog()
    insecure = anyssh.InsecureSessionConfig()
    async with connected(
        anyssh.Server(config=insecure, on_progress=server_log.append),
        config=insecure,
        verify_host=None,
        credentials=None,
        on_progress=client_log.append,
    ) as (client, server):
        await channel_pair(client, server)
    for log in (client_log, server_log):
        assert log.stages()[0] is Progress.OPENING_SESSION_CONNECTION
        assert log.stages()[-1] is Progress.OPENED_SESSION_CONNECTION
        assert Progress.STARTING_AUTHENTICATION not in log.stages()


async def test_progress_stops_where_the_connection_fails() -> None:
    log = ProgressLog()
    other = anyssh.pin(anyssh.generate_key("ssh-ed25519").fingerprint)
    async with serving(make_server()) as (stream, _):
        with pytest.raises(anyssh.HostKeyError):
            async with anyssh.ClientSession.connect(
                stream, credentials=ALICE, verify_host=other, on_progress=log.append
            ):
                pytest.fail("the host key was refused")
    # The keys may be there before the verdict on the host key is; authentication never starts.
    assert log.stages() == CONNECTING[: len(log)]
    assert Progress.STARTING_KEY_EXCHANGE in log.stages()


async def test_sessions_are_numbered_in_the_order_of_their_making() -> None:
    log = ProgressLog()
    server = make_server(on_progress=log.append)
    for _ in range(2):
        async with connected(server, on_progress=log.append):
            pass
    numbers = log.numbers()
    assert len(numbers) == 4
    assert len(set(numbers)) == 4
    for number in numbers:
        assert log.stages(number) == CONNECTING + AUTHENTICATING
    first, second = sorted(numbers[:2]), sorted(numbers[2:])
    assert first[-1] < second[0]
    async with connected(on_progress=log.append) as (client, _):
        assert log[-1].session_number > max(numbers)
        assert repr(client) == f"<ClientSession {log[-1].session_number} connected>"


# Numbers


async def test_both_ends_count_the_same() -> None:
    async with session_pair() as (client, server):
        for _ in range(3):
            near, far = await channel_pair(client, server)
            await near.send(bytes(100_000))
            await receive_exactly(far, 100_000)
            await far.send(bytes(7))
            await near.aclose()
            await client.rekey()
            await settle()
            here, there = client.metrics, server.metrics
            assert here.bytes_sent == there.bytes_received
            assert here.bytes_received == there.bytes_sent
            assert here.messages_sent == there.messages_received
            assert here.messages_received == there.messages_sent
            assert here.bytes_sent > 100_000 > here.bytes_received


async def test_numbers_count_every_byte_on_the_stream() -> None:
    streams: list[FaultStream] = []

    def watch(inner: anyio.abc.ByteStream) -> FaultStream:
        streams.append(FaultStream(inner))
        return streams[-1]

    async with session_pair(client_stream=watch) as (client, server):
        near, far = await channel_pair(client, server)
        await near.send(bytes(50_000))
        await receive_exactly(far, 50_000)
        await settle()
        assert client.metrics.bytes_sent == streams[0].bytes_sent
        assert client.metrics.bytes_received == streams[0].bytes_received


async def test_numbers_are_snapshots_and_stay_after_the_end() -> None:
    async with session_pair() as (client, server):
        before = client.metrics
        await channel_pair(client, server)
        assert client.metrics.messages_sent == before.messages_sent + 1
        assert client.metrics != before
    assert client.metrics.messages_sent > before.messages_sent
    with pytest.raises(AttributeError):
        client.metrics.bytes_sent = 0  # type: ignore[misc]


# Facts


def keeping_alive(interval: float, **options: Any) -> anyssh.SessionConfig:
    return anyssh.SessionConfig(keep_alive_interval=interval, **options)


async def test_signs_of_life_are_told_and_counted() -> None:
    async with session_pair(client_config=keeping_alive(0.02)) as (client, server):
        events = client.events()
        seen = [await anext(events) for _ in range(4)]
        assert seen == [anyssh.KeepAliveSucceeded(count) for count in (1, 2, 3, 4)]
        near, far = await channel_pair(client, server)
        await near.send(b"as usual")
        assert await far.receive() == b"as usual"


async def test_a_server_asks_its_client_too() -> None:
    async with session_pair(server_config=keeping_alive(0.02)) as (_, server):
        events = server.events()
        assert [await anext(events) for _ in range(2)] == [
            anyssh.KeepAliveSucceeded(1),
            anyssh.KeepAliveSucceeded(2),
        ]


async def test_missing_signs_of_life_are_counted_and_end_the_session() -> None:
    faults: list[FaultStream] = []

    def stallable(inner: anyio.abc.ByteStream) -> FaultStream:
        faults.append(FaultStream(inner))
        return faults[-1]

    limits = anyssh.Limits(close_time=0.05)
    config = keeping_alive(0.05, keep_alive_count=3, limits=limits)
    async with session_pair(client_config=config, client_stream=stallable) as (client, _):
        events = client.events()
        assert await anext(events) == anyssh.KeepAliveSucceeded(1)
        faults[0].stall(Direction.RECEIVE)
        failures = [event async for event in events if isinstance(event, anyssh.KeepAliveFailed)]
        assert failures == [anyssh.KeepAliveFailed(count) for count in (1, 2, 3)]
        closed = await client.wait_closed()
        assert isinstance(closed.error, anyssh.ConnectionLost)
        with pytest.raises(anyio.BrokenResourceError):
            await client.open_channel()


@pytest.mark.trio
async def test_a_silent_session_asks_nothing_by_default(autojump_clock: object) -> None:
    async with session_pair() as (client, server), anyio.create_task_group() as group:
        waiting = Call(group, partial(anext, client.events()))  # type: ignore[arg-type]
        before = server.metrics
        with anyio.move_on_after(HALF_AN_HOUR):
            await waiting.done.wait()
        assert not waiting.is_done
        assert server.metrics == before
        waiting.scope.cancel()


async def test_facts_that_nobody_reads_are_bounded_and_the_latest_stay() -> None:
    signs: list[str] = []
    enough = anyio.Event()

    def count(event: anyssh.TraceEvent) -> None:
        if event.id is TraceId.SENDING_MESSAGE and "GLOBAL_REQUEST" in event.message:
            signs.append(event.message)
            if len(signs) == 6:
                enough.set()

    config = keeping_alive(0.01, limits=anyssh.Limits(events=3))
    async with connected(trace=count, config=config) as (client, _):
        await enough.wait()
        await client.aclose()
        kept = [event async for event in client.events()]
    counts = [event.count for event in kept if isinstance(event, anyssh.KeepAliveSucceeded)]
    assert len(counts) == len(kept) == 3
    assert counts == list(range(counts[0], counts[0] + 3))
    assert counts[-1] >= 6


@pytest.mark.parametrize("who", ["client", "server"])
async def test_the_facts_end_with_the_session(who: str) -> None:
    async with session_pair() as (client, server), anyio.create_task_group() as group:

        async def collect(session: anyssh.Session) -> list[anyssh.SessionEvent]:
            return [event async for event in session.events()]

        collecting = [Call(group, partial(collect, session)) for session in (client, server)]
        await settle()
        assert not any(call.is_done for call in collecting)
        await (client if who == "client" else server).aclose()
        for call in collecting:
            assert await call.result() == []
        with pytest.raises(StopAsyncIteration):
            await anext(client.events())


async def test_waiting_for_a_fact_can_be_cancelled_and_loses_none() -> None:
    async with session_pair(client_config=keeping_alive(0.02)) as (client, _):
        events = client.events()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(events)
        assert scope.cancelled_caught
        assert await anext(events) == anyssh.KeepAliveSucceeded(1)


@pytest.mark.parametrize("make", [anyssh.KeepAliveFailed, anyssh.KeepAliveSucceeded])
def test_facts_are_values(make: Callable[[int], anyssh.SessionEvent]) -> None:
    assert make(1) == make(1) != make(2)
    assert isinstance(make(1), anyssh.SessionEvent)
