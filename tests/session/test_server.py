"""A server and all of its connections: admission, statistics, shutdown."""

from __future__ import annotations

import errno
import gc
import math
import socket
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream, Listener, SocketAttribute, TaskGroup
from anyio.streams.stapled import MultiListener

import anyssh
from anyssh import DisconnectReason, KeyExchange, ReconnectFailureReason
from anyssh.session.accepting import AcceptLoop
from anyssh.session.handshakes import PER_ITERATION, Handshakes
from anyssh.testing import memory_stream_pair

from .life_support import (
    ALICE,
    LIMIT,
    Outcome,
    client_of,
    echo,
    echoes,
    fast,
    foreign_cancellation,
    host_key,
    nothing_left_behind,
    run_end,
    server_of,
    settle,
    wait_for,
)

HERE = "192.0.2.1"
THERE = "198.51.100.7"
MALLORY = anyssh.ClientCredentials("mallory", password="guess")
RECONNECTING: dict[str, Any] = {
    "extensions": anyssh.SessionConfig.with_reconnect().extensions,
}


class From(ByteStream):
    """A stream that says it comes from an address; counts how often it is closed."""

    def __init__(self, inner: Any, host: str) -> None:
        self._inner = inner
        self._host = host
        self.closes = 0

    async def send(self, item: bytes) -> None:
        await self._inner.send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data: bytes = await self._inner.receive(max_bytes)
        return data

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def aclose(self) -> None:
        self.closes += 1
        await self._inner.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        own = {SocketAttribute.remote_address: lambda: (self._host, 50000)}
        return {**self._inner.extra_attributes, **own}


class Street(Listener[From]):
    """What a server listens on: streams in memory, from any address."""

    def __init__(self) -> None:
        self.is_open = anyio.Event()
        self.is_closed = anyio.Event()
        self.streams: list[From] = []
        self._handler: Callable[[From], Awaitable[object]]
        self._group: TaskGroup

    async def serve(self, handler: Callable[[From], Any], task_group: Any = None) -> None:
        self._handler, self._group = handler, task_group
        self.is_open.set()
        await self.is_closed.wait()
        raise anyio.ClosedResourceError

    async def aclose(self) -> None:
        self.is_closed.set()
        await anyio.lowlevel.checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {}

    async def connect(self, host: str = HERE, **options: Any) -> ByteStream:
        await self.is_open.wait()
        assert not self.is_closed.is_set()
        near, far = memory_stream_pair(**options)
        self.streams.append(From(far, host))
        self._group.start_soon(self._handler, self.streams[-1])
        return near


class Served:
    """A server in a task of its own."""

    def __init__(self, server: anyssh.Server, group: TaskGroup) -> None:
        self.server = server
        self.group = group
        self.street = Street()
        self.returned = anyio.Event()
        self.sessions: list[anyssh.ServerSession] = []

    async def run(self, handler: Any, *, task_status: Any) -> None:
        await self.server.serve(self.street, handler, task_status=task_status)
        self.returned.set()

    async def echo(self, session: anyssh.ServerSession) -> None:
        self.sessions.append(session)
        await session.serve(echo)

    @property
    def statistics(self) -> anyssh.ServerStatistics:
        return self.server.statistics

    async def guest(self, host: str = HERE, **options: Any) -> Outcome:
        """Log in and stay."""
        outcome = Outcome()
        client = client_of(await self.street.connect(host), **options)
        self.group.start_soon(run_end, client, None, outcome)
        await outcome.entered.wait()
        return outcome

    async def fail(self, host: str = HERE, credentials: Any = MALLORY) -> None:
        """Try to log in with a wrong password, and leave."""
        client = client_of(await self.street.connect(host), credentials=credentials)
        with pytest.raises(anyssh.AuthenticationError):
            async with client:
                pass
        await self.quiet()

    async def quiet(self) -> None:
        """Wait until every connection was looked at, and none is on its way to log in."""

        def is_quiet() -> bool:
            numbers = self.statistics
            seen = numbers.total_connections + numbers.refused_by_limit + numbers.refused_by_penalty
            return seen == len(self.street.streams) and not numbers.unauthenticated

        await wait_for(is_quiet)

    async def answer(self, host: str = HERE) -> bytes:
        """Connect and tell what the server says first."""
        stream = await self.street.connect(host)
        async with stream:
            return await stream.receive()


@asynccontextmanager
async def served(handler: Any = None, **options: Any) -> AsyncIterator[Served]:
    async with anyio.create_task_group() as group:
        place = Served(server_of(**options), group)
        await group.start(place.run, handler or place.echo)
        yield place
        group.cancel_scope.cancel()


# Who is let in


class Elsewhere(Listener[From]):
    """A TCP listener whose connections say that they come from somewhere else."""

    def __init__(self, inner: Any, hosts: list[str]) -> None:
        self._inner = inner
        self._hosts = hosts

    async def serve(self, handler: Callable[[From], Any], task_group: Any = None) -> None:
        async def handle(stream: ByteStream) -> None:
            await handler(From(stream, self._hosts.pop(0)))

        await self._inner.serve(handle, task_group)

    async def aclose(self) -> None:
        await self._inner.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        attributes: Mapping[Any, Callable[[], Any]] = self._inner.extra_attributes
        return attributes


@pytest.mark.timeout(120)
async def test_an_established_session_echoes_while_one_source_connects_200_times() -> None:
    """HR-80, HR-83: over TCP; all at once, silent, each until it is refused or told to go."""
    answers: list[bytes] = []
    go = anyio.Event()
    server = server_of()

    async def attempt(port: int) -> None:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            try:
                answers.append(await stream.receive())
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                answers.append(b"")
            if answers[-1].startswith(b"SSH-2.0-"):
                await go.wait()

    async with (
        nothing_left_behind(),
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener,
        anyio.create_task_group() as group,
    ):
        street = Elsewhere(listener, [THERE] + [HERE] * 200 + [THERE])
        await group.start(server.serve, street, lambda session: session.serve(echo))
        port = listener.extra(SocketAttribute.local_port)
        async with client_of(await anyio.connect_tcp("127.0.0.1", port)) as client:
            async with anyio.create_task_group() as attempts:
                for _ in range(200):
                    attempts.start_soon(attempt, port)
                rounds = 0
                with anyio.fail_after(LIMIT * 4):
                    while len(answers) < 200:
                        await echoes(client)
                        rounds += 1
                assert rounds
                assert server.statistics.unauthenticated == 10
                go.set()
            await wait_for(lambda: not server.statistics.unauthenticated)
            await echoes(client)
            async with client_of(await anyio.connect_tcp("127.0.0.1", port)) as other:
                await echoes(other)
        numbers = server.statistics
        assert numbers.refused_by_limit == 190
        assert numbers.total_connections == 12
        assert sum(answer.startswith(b"SSH-2.0-") for answer in answers) == 10
        told = b"Too many unauthenticated connections from your address\r\n"
        assert set(answers) <= {told, b""} | {a for a in answers if a.startswith(b"SSH-2.0-")}
        group.cancel_scope.cancel()


class Signatures:
    """Those of RSA keys, each held up until it is let go, as if it took that long."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.are_let_go = threading.Event()
        self.under_way = 0
        self.most = 0
        self.threads: set[str] = set()
        self._sign = anyssh.Key.sign
        monkeypatch.setattr(anyssh.Key, "sign", lambda key, *what: self._held_up(key, *what))

    def _held_up(self, key: anyssh.Key, *what: Any) -> bytes:
        if key.algorithm == "ssh-rsa":
            self.threads.add(threading.current_thread().name)
            if threading.current_thread() is not threading.main_thread():
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                assert self.are_let_go.wait(LIMIT)
                self.under_way -= 1
        return self._sign(key, *what)


async def test_an_established_session_goes_on_while_others_wait_for_long_signatures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HR-83: at most four are made at a time, in threads; whoever is in is served meanwhile."""
    rsa = anyssh.generate_key("ssh-rsa", bits=2048)
    options: dict[str, Any] = {
        "config": fast(host_key_algorithms=["rsa-sha2-512"]),
        "verify_host": anyssh.pin(rsa.fingerprint),
    }
    signatures = Signatures(monkeypatch)
    crowd: list[Outcome] = []
    async with (
        served(host_keys=[host_key(), rsa]) as place,
        client_of(await place.street.connect()) as client,
        anyio.create_task_group() as group,
    ):
        try:
            for _ in range(9):
                stream = await place.street.connect()
                crowd.append(Outcome())
                group.start_soon(run_end, client_of(stream, **options), None, crowd[-1])
            await wait_for(lambda: signatures.under_way == 4)
            for _ in range(20):
                await echoes(client)
            assert place.statistics.unauthenticated == 9
            assert signatures.under_way == 4
        finally:
            signatures.are_let_go.set()
        for guest in crowd:
            await guest.entered.wait()
        group.cancel_scope.cancel()
    assert signatures.most == 4
    assert threading.main_thread().name not in signatures.threads


class _Begun:
    """Counts handshakes that have gone on to the peer's version, and how many did in each turn."""

    def __init__(self) -> None:
        self.number = 0
        self.turns: list[int] = []

    def count(self, event: anyssh.TraceEvent) -> None:
        self.number += event.id is anyssh.TraceId.PROTOCOL_VERSION

    async def count_turns(self) -> None:
        while True:
            before = self.number
            await anyio.lowlevel.checkpoint()
            self.turns.append(self.number - before)


@pytest.mark.parametrize(
    "methods, most",
    [([KeyExchange.CURVE25519_SHA256], 4), ([KeyExchange.DH_GROUP14_SHA256], 1)],
)
async def test_few_handshakes_go_on_in_one_turn_of_the_event_loop(
    methods: list[str], most: int
) -> None:
    """HR-83: although all clients speak at once, whoever is in has a turn after each few."""
    handshakes = _Begun()
    config = fast(key_exchanges=methods)
    limits = anyssh.ServerLimits(unauthenticated_per_source=100, early_drop_from=100)
    async with served(config=config, limits=limits, trace=handshakes.count) as place:
        strangers = [await place.street.connect() for _ in range(40)]
        await settle()  # all of them wait for the first word
        place.group.start_soon(handshakes.count_turns)
        async with anyio.create_task_group() as group:
            for stranger in strangers:
                group.start_soon(stranger.send, b"SSH-2.0-stranger\r\n")
        await wait_for(lambda: handshakes.number == len(strangers))
        for stranger in strangers:
            await stranger.aclose()
        await place.quiet()
        async with client_of(await place.street.connect(THERE), config=config) as client:
            await echoes(client)
            await wait_for(lambda: not Handshakes.here().count)
    # Trio runs the tasks of a turn in any order, so two turns may come together.
    assert 0 < max(handshakes.turns) <= 2 * most


@pytest.mark.blocking_allowed
async def test_few_handshakes_over_tcp_go_on_in_one_turn_of_the_event_loop() -> None:
    """HR-83: nor does an event loop that hands over what came for all at once go on with all."""
    handshakes = _Begun()
    limits = anyssh.ServerLimits(unauthenticated=100, early_drop_from=100)
    server = server_of(config=fast(), limits=limits, trace=handshakes.count)
    with ExitStack() as strangers:
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=100) as listener,
            anyio.create_task_group() as group,
        ):
            await group.start(server.serve, listener, echoes)
            place = ("127.0.0.1", listener.extra(SocketAttribute.local_port))
            sockets = [strangers.enter_context(socket.create_connection(place)) for _ in range(40)]
            await wait_for(lambda: server.statistics.unauthenticated == len(sockets))
            await settle()  # all of them wait for the first word
            group.start_soon(handshakes.count_turns)
            for stranger in sockets:
                stranger.send(b"SSH-2.0-stranger\r\n")
            await wait_for(lambda: handshakes.number == len(sockets))
            group.cancel_scope.cancel()
    assert 0 < max(handshakes.turns) <= 2 * PER_ITERATION


async def test_who_is_in_and_says_nothing_counts_among_no_handshakes() -> None:
    """So those who come later need not wait for a turn."""
    before = Handshakes.here().count
    async with served() as place:
        for _ in range(3):
            await place.guest()
        await wait_for(lambda: place.statistics.unauthenticated == 0)
        assert Handshakes.here().count == before


async def test_one_more_than_there_is_room_for_is_told_so() -> None:
    """HR-80, T-15."""
    limits = anyssh.ServerLimits(connections=3, connections_per_source=2)
    async with served(limits=limits) as place:
        first = await place.guest()
        await place.guest()
        assert await place.answer() == b"Too many connections from your address\r\n"
        await place.guest(THERE)
        assert await place.answer("203.0.113.9") == b"Too many connections\r\n"
        with pytest.raises(anyssh.ConnectionLost, match="Too many connections"):
            async with client_of(await place.street.connect()):
                pass
        assert place.statistics.connections == 3
        assert place.statistics.refused_by_limit == 3
        await place.sessions[0].aclose()
        await first.ended.wait()
        await wait_for(lambda: place.statistics.connections == 2)
        await place.guest()
    assert all(stream.closes >= 1 for stream in place.street.streams)
    assert place.statistics.connections == 0


@pytest.mark.trio
async def test_who_does_not_read_why_he_is_refused_is_closed_soon(autojump_clock: object) -> None:
    limits = anyssh.ServerLimits(connections=1)
    async with served(limits=limits) as place:
        await place.guest()
        started = anyio.current_time()
        strangers = [await place.street.connect(capacity=1) for _ in range(300)]
        await wait_for(lambda: all(stream.closes for stream in place.street.streams[1:]))
        assert anyio.current_time() - started < 1
        for stranger in strangers:
            await stranger.aclose()


@pytest.mark.trio
async def test_failed_logins_shut_a_source_out_for_a_while(autojump_clock: object) -> None:
    """HR-80, T-15: 5 s each; from 15 s on the source is refused until the time has passed."""
    async with served() as place:
        for _ in range(4):  # the first ones have lost a little by the time of the last
            assert place.statistics.penalised_sources == 0
            await place.fail()
        assert place.statistics.penalised_sources == 1
        assert await place.answer() == b"Not allowed at this time\r\n"
        await place.guest(THERE)
        await anyio.sleep(20)
        assert place.statistics.penalised_sources == 0
        await place.guest()
        assert place.statistics.refused_by_penalty == 1


async def test_a_thread_without_an_event_loop_may_ask_for_statistics() -> None:
    async with served() as place:
        for _ in range(4):
            await place.fail()
        numbers = await anyio.to_thread.run_sync(lambda: place.statistics)
        assert numbers.penalised_sources == 1
        assert numbers.total_connections == 4


async def test_failed_logins_from_loopback_have_no_consequence() -> None:
    async with served() as place:
        for _ in range(6):
            await place.fail("127.0.0.1")
        await place.guest("127.0.0.1")


async def test_a_mistake_before_the_right_password_has_no_consequence() -> None:
    async with served(limits=anyssh.ServerLimits(failed_login_penalty=20)) as place:
        client = client_of(await place.street.connect(), credentials=None)
        async with client:
            with pytest.raises(anyssh.AuthenticationError):
                await client.authenticate(anyssh.ClientCredentials("alice", password="wonder"))
            await client.authenticate(ALICE)
        await wait_for(lambda: not place.statistics.connections)
        assert place.statistics.penalised_sources == 0


async def test_nobody_is_penalised_for_a_mistake_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "anyssh")

    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        raise RuntimeError("the database is down")

    limits = anyssh.ServerLimits(failed_login_penalty=20, no_login_penalty=20)
    async with served(authenticate=authenticate, limits=limits) as place:
        await place.fail()
        assert place.statistics.penalised_sources == 0


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n" + b"\xff" * 40, b""])
async def test_whoever_does_not_speak_ssh_is_penalised(data: bytes) -> None:
    limits = anyssh.ServerLimits(protocol_error_penalty=20, no_login_penalty=0 if data else 20)
    async with served(limits=limits) as place:
        async with await place.street.connect() as stream:
            if data:
                await stream.send(data)
            await stream.send_eof()
            await place.quiet()
        assert place.statistics.penalised_sources == 1


@pytest.mark.trio
async def test_whoever_takes_too_long_is_penalised(autojump_clock: object) -> None:
    """HR-80."""
    limits = anyssh.ServerLimits(protocol_error_penalty=20)
    config = fast(anyssh.Limits(version_time=5))
    async with served(limits=limits, config=config) as place:
        async with await place.street.connect():
            await place.quiet()
        assert place.statistics.penalised_sources == 1


async def test_asking_for_sessions_that_are_not_there_is_penalised() -> None:
    """HR-62."""
    config = fast(**RECONNECTING)
    limits = anyssh.ServerLimits(failed_reconnect_penalty=20)
    async with served(config=config, limits=limits) as place:
        async with client_of(await place.street.connect(THERE), config=config) as client:
            await echoes(client)
            await place.sessions[0].disconnect(DisconnectReason.CONNECTION_LOST)
            await client.wait_disconnected()
            await wait_for(lambda: place.statistics.without_stream == 1)
            assert place.statistics.connections == 0
            place.server.reconnectable_sessions._discard(place.sessions[0])
            with pytest.raises(anyssh.ReconnectError):
                await client.reconnect(await place.street.connect())
        assert place.statistics.penalised_sources == 1
        assert await place.answer() == b"Not allowed at this time\r\n"


async def test_handlers_of_sessions_that_ended_without_a_stream_count_as_connections() -> None:
    """HR-80: such sessions are kept no more, so nothing else would limit slow handlers."""
    config = fast(**RECONNECTING)
    may_end = anyio.Event()
    sessions: list[anyssh.ServerSession] = []

    async def slow(session: anyssh.ServerSession) -> None:
        sessions.append(session)
        await may_end.wait()

    limits = anyssh.ServerLimits(connections=1)
    async with served(slow, config=config, limits=limits) as place:
        await place.guest(config=config)
        await wait_for(lambda: bool(sessions))
        await sessions[0].disconnect(DisconnectReason.CONNECTION_LOST)
        await wait_for(lambda: place.statistics.without_stream == 1)
        await sessions[0].aclose()
        numbers = place.statistics
        assert (numbers.connections, numbers.without_stream) == (1, 0)
        assert await place.answer() == b"Too many connections\r\n"
        may_end.set()
        await wait_for(lambda: place.statistics.connections == 0)
        await place.guest(config=config)


@pytest.mark.trio
async def test_the_last_number_of_an_attempt_costs_only_who_used_it(autojump_clock: object) -> None:
    """HR-61: no later one can have a higher number, so the session ends in time; others go on."""
    config = fast(anyssh.Limits(close_time=0.3, disconnected_time=60), **RECONNECTING)
    limits = anyssh.ServerLimits(failed_reconnect_penalty=20)
    async with (
        served(config=config, limits=limits) as place,
        client_of(await place.street.connect(), config=config) as client,
    ):
        await echoes(client)
        (session,) = place.sessions
        continuity = client._connection.continuity
        assert continuity is not None

        async def lose() -> None:
            await session.disconnect(DisconnectReason.CONNECTION_LOST)
            await client.wait_disconnected()

        await lose()
        continuity.attempts = 2**32 - 2
        await client.reconnect(await place.street.connect())
        await echoes(client)
        await lose()
        started = anyio.current_time()
        for number in (0, 2**31, 2**32 - 2):
            continuity.attempts = number
            with pytest.raises(anyssh.ReconnectError) as refused:
                await client.reconnect(await place.street.connect())
            assert refused.value.reason == ReconnectFailureReason.UNKNOWN_SERVER_FAILURE
        assert place.statistics.penalised_sources == 0
        await place.guest()
        assert list(place.server.reconnectable_sessions) == [session]
        await session.wait_closed()
        assert 59 < anyio.current_time() - started < 61
        await wait_for(lambda: place.statistics.without_stream == 0)
        assert len(place.server.reconnectable_sessions) == 0


async def test_a_session_counts_where_it_came_back_from() -> None:
    config = fast(**RECONNECTING)
    limits = anyssh.ServerLimits(connections_per_source=1)
    async with (
        served(config=config, limits=limits) as place,
        client_of(await place.street.connect(HERE), config=config) as client,
    ):
        await echoes(client)
        await place.sessions[0].disconnect(DisconnectReason.CONNECTION_LOST)
        await client.wait_disconnected()
        await client.reconnect(await place.street.connect(THERE))
        await echoes(client)
        numbers = place.statistics
        assert (numbers.connections, numbers.without_stream) == (1, 0)
        assert numbers.total_connections == 2
        assert await place.answer(THERE) == b"Too many connections from your address\r\n"
        await place.guest(HERE)


async def test_a_server_without_authentication_counts_sessions_as_well() -> None:
    server = anyssh.Server(config=anyssh.InsecureSessionConfig())
    street = Street()
    async with anyio.create_task_group() as group:
        await group.start(server.serve, street, lambda session: session.serve(echo))
        client = anyssh.ClientSession.connect(
            await street.connect(), verify_host=None, config=anyssh.InsecureSessionConfig()
        )
        async with client:
            await echoes(client)
            assert server.statistics.connections == 1
            assert server.statistics.unauthenticated == 0
        group.cancel_scope.cancel()


async def test_failing_handlers_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Those too that await something which was cancelled, which is no reason to stop serving."""
    caplog.set_level("CRITICAL", "anyssh")
    errors = [RuntimeError("a bug"), foreign_cancellation(), RuntimeError("a bug")]

    async def fail(session: anyssh.ServerSession) -> None:
        raise errors.pop()

    async with served(fail) as place:
        for count in (1, 2, 3):
            outcome = await place.guest()
            await outcome.ended.wait()
            await wait_for(lambda count=count: place.statistics.handler_failures == count)


async def test_a_handler_that_fails_while_its_server_is_cancelled_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On Trio, the failure comes in one group with the cancellation."""

    async def fail_at_the_end(session: anyssh.ServerSession) -> None:
        async def work() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise KeyError("a bug")

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await anyio.sleep_forever()

    caplog.set_level("CRITICAL", "anyssh")
    async with served(fail_at_the_end) as place:
        await place.guest()
        await settle()
    assert place.statistics.handler_failures == 1


@pytest.mark.parametrize("host, shown", [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_the_log_tells_where_a_client_was_that_has_gone(
    host: str, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Sockets that are closed do not tell the address of their peer any more."""
    caplog.set_level("INFO", "anyssh")
    told: list[tuple[str, int]] = []

    async def stay(session: anyssh.ServerSession) -> None:
        closed = await session.wait_closed()
        told.append(session.extra(SocketAttribute.remote_address))
        raise closed.error

    async with (
        await anyio.create_tcp_listener(local_host=host, local_port=0) as listener,
        anyio.create_task_group() as group,
    ):
        await group.start(server_of().serve, listener, stay)
        port = listener.extra(SocketAttribute.local_port)
        for client in (None, client_of):
            stream = await anyio.connect_tcp(host, port)
            place = f"{shown}:{stream.extra(SocketAttribute.local_port)}: the connection ended"
            address = (host, stream.extra(SocketAttribute.local_port))
            if client is None:
                await stream.aclose()
            else:
                await run_end(client(stream), lambda _: anyio.lowlevel.checkpoint())
            await wait_for(lambda place=place: place in caplog.text)
        assert told == [address]
        group.cancel_scope.cancel()


# How it ends


def check_told(outcome: Outcome) -> None:
    assert isinstance(outcome.error, anyssh.Disconnected)
    assert outcome.error.by_peer
    assert outcome.error.reason == DisconnectReason.BY_APPLICATION
    assert outcome.error.description == "the server is shutting down"


async def test_shutting_down_now_ends_every_session_with_a_word() -> None:
    async with nothing_left_behind(), served() as place:
        outcomes = [await place.guest() for _ in range(3)]
        stranger = await place.street.connect()
        with anyio.fail_after(LIMIT):
            await place.server.shutdown(grace=0)
            await place.returned.wait()
        assert place.street.is_closed.is_set()
        assert place.statistics.connections == 0
        for outcome in outcomes:
            await outcome.ended.wait()
            check_told(outcome)
        await stranger.aclose()
        assert place.statistics.penalised_sources == 0


@pytest.mark.trio
@pytest.mark.parametrize("stays", [False, True])
async def test_sessions_have_their_time_to_end(autojump_clock: object, stays: bool) -> None:
    async with served() as place:
        outcome = await place.guest()
        started = anyio.current_time()

        async def leave() -> None:
            await anyio.sleep(7)
            await place.sessions[0].aclose()

        if not stays:
            place.group.start_soon(leave)
        await place.server.shutdown(grace=30)
        await place.returned.wait()
        await outcome.ended.wait()
        time = anyio.current_time() - started
        assert (30 if stays else 7) <= time < (32 if stays else 9)
        if stays:
            check_told(outcome)


@pytest.mark.trio
async def test_grace_is_for_those_who_have_logged_in_and_have_a_stream(
    autojump_clock: object,
) -> None:
    config = fast(**RECONNECTING)
    async with served(config=config) as place:
        stranger = await place.street.connect()
        early = await place.guest(config=config)
        late = await place.guest(config=config)
        await place.sessions[0].disconnect(DisconnectReason.CONNECTION_LOST)
        await wait_for(lambda: place.statistics.without_stream == 1)
        started = anyio.current_time()
        place.group.start_soon(place.server.shutdown)
        await wait_for(lambda: place.statistics.connections == 1)
        assert place.statistics.without_stream == 0
        await place.sessions[1].disconnect(DisconnectReason.CONNECTION_LOST)
        await place.returned.wait()
        assert anyio.current_time() - started < 5
        assert not late.ended.is_set()
        assert not early.ended.is_set()
        await stranger.aclose()


@pytest.mark.trio
async def test_a_handler_that_does_not_notice_is_cancelled(autojump_clock: object) -> None:
    cancelled = False

    async def sleep(session: anyssh.ServerSession) -> None:
        nonlocal cancelled
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            cancelled = True
            raise

    async with served(sleep) as place:
        outcome = await place.guest()
        started = anyio.current_time()
        await place.server.shutdown(grace=5)
        assert cancelled
        assert anyio.current_time() - started < 8
        await outcome.ended.wait()
        check_told(outcome)


@pytest.mark.trio
async def test_a_handler_that_shuts_its_own_server_down_ends_too(autojump_clock: object) -> None:
    async def shut_down(session: anyssh.ServerSession) -> None:
        await place.server.shutdown(grace=0)

    async with served(shut_down) as place:
        outcome = await place.guest()
        await place.returned.wait()
        await outcome.ended.wait()
        check_told(outcome)


@pytest.mark.trio
async def test_the_earliest_end_counts_and_cancelling_only_ends_the_waiting(
    autojump_clock: object,
) -> None:
    async with served() as place:
        await place.guest()
        started = anyio.current_time()
        with anyio.move_on_after(1) as scope:
            await place.server.shutdown(grace=math.inf)
        assert scope.cancelled_caught
        assert place.street.is_closed.is_set()
        assert not place.returned.is_set()
        with anyio.move_on_after(1) as scope:
            await place.server.shutdown(grace=10)
        assert scope.cancelled_caught
        await place.server.shutdown(grace=100)
        assert 11 <= anyio.current_time() - started < 13
        await place.returned.wait()


async def test_a_server_that_was_shut_down_serves_no_more() -> None:
    server = server_of()
    await server.shutdown()
    street = Street()
    with anyio.fail_after(LIMIT):
        await server.serve(street, echoes)
    assert street.is_closed.is_set()
    await server.shutdown()
    with pytest.raises(ValueError, match="grace"):
        await server.shutdown(grace=-1)


async def test_shutting_down_ends_every_listener() -> None:
    server, streets = server_of(), [Street() for _ in range(3)]
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            for street in streets:
                await group.start(server.serve, street, echoes)
            await server.shutdown()
    assert all(street.is_closed.is_set() for street in streets)


async def test_shutting_down_does_not_wait_for_a_listener_that_cannot_be_closed() -> None:
    class Stuck(Street):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError("a broken system")

    async def serve_for_a_while() -> None:
        server = server_of()
        async with anyio.create_task_group() as group:
            await group.start(server.serve, Stuck(), echoes)
            with anyio.CancelScope(shield=True):
                await server.shutdown()

    with anyio.fail_after(LIMIT), pytest.raises(ExceptionGroup):
        await serve_for_a_while()


async def test_a_closed_listener_ends_serving_once_the_sessions_have_ended() -> None:
    async with served() as place:
        outcome = await place.guest()
        await place.street.aclose()
        await anyio.wait_all_tasks_blocked()
        assert not place.returned.is_set()
        await place.sessions[0].aclose()
        with anyio.fail_after(LIMIT):
            await place.returned.wait()
        await outcome.ended.wait()


async def test_shutting_down_ends_who_came_in_after_the_listener_was_closed() -> None:
    """A listener with a handshake of its own, such as TLS, passes connections on late."""
    near, far = memory_stream_pair()
    shaken = anyio.Event()
    async with served() as place:
        street = place.street

        async def shake_hands() -> None:
            await shaken.wait()
            await street._handler(From(far, HERE))

        street._group.start_soon(shake_hands)
        await street.aclose()
        await anyio.wait_all_tasks_blocked()
        shaken.set()
        outcome = Outcome()
        place.group.start_soon(run_end, client_of(near), None, outcome)
        await outcome.entered.wait()
        with anyio.fail_after(LIMIT):
            await place.server.shutdown(grace=0)
            await place.returned.wait()
        await outcome.ended.wait()
        check_told(outcome)


async def test_a_cancelled_server_ends_all_at_once() -> None:
    async with nothing_left_behind(), anyio.create_task_group() as group:
        place = Served(server_of(), group)
        serving = anyio.CancelScope()

        async def run(*, task_status: Any) -> None:
            with serving:
                await place.run(place.echo, task_status=task_status)
            place.returned.set()

        await group.start(run)
        outcomes = [await place.guest() for _ in range(3)]
        serving.cancel()
        with anyio.fail_after(LIMIT):
            await place.returned.wait()
            for outcome in outcomes:
                await outcome.ended.wait()
        assert place.statistics.connections == 0


@pytest.mark.timeout(120)
async def test_shutting_down_under_load_over_tcp() -> None:
    """Some echo all the time, some come and go; all end, and nothing is left."""
    server = server_of()
    echoed = 0
    refused = 0
    told: list[anyssh.SessionClosed] = []

    async def stay(port: int, *, task_status: Any) -> None:
        nonlocal echoed
        async with client_of(await anyio.connect_tcp("127.0.0.1", port)) as client:
            channel = await client.open_channel()
            task_status.started()
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyssh.SSHError):
                while True:
                    await channel.send(b"x" * 1000)
                    await channel.receive()
                    echoed += 1
            told.append(await client.wait_closed())

    async def come_and_go(port: int) -> None:
        nonlocal refused
        while True:
            try:
                async with client_of(await anyio.connect_tcp("127.0.0.1", port)) as client:
                    await echoes(client)
            except (anyssh.SSHError, anyio.BrokenResourceError):
                continue
            except OSError:
                refused += 1
                return

    async with nothing_left_behind():
        with anyio.fail_after(LIMIT * 4):
            async with anyio.create_task_group() as group:
                listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
                await group.start(server.serve, listener, lambda session: session.serve(echo))
                port = listener.extra(SocketAttribute.local_port)
                for _ in range(10):
                    await group.start(stay, port)
                for _ in range(5):
                    group.start_soon(come_and_go, port)
                await wait_for(lambda: server.statistics.total_logins >= 15)
                await server.shutdown(grace=0.2)
    assert echoed
    assert [closed.reason for closed in told] == [DisconnectReason.BY_APPLICATION] * 10
    assert refused == 5
    assert server.statistics.connections == 0


# Listeners


class Unwell(Street):
    """Cannot accept connections for a while, as when there are no descriptors left."""

    def __init__(self, failures: int, error: Exception) -> None:
        super().__init__()
        self.failures = failures
        self.error = error
        self.asked: list[float] = []

    async def serve(self, handler: Callable[[From], Any], task_group: Any = None) -> None:
        self.asked.append(anyio.current_time())
        await anyio.lowlevel.checkpoint()
        if len(self.asked) <= self.failures:
            raise self.error
        await super().serve(handler, task_group)


@pytest.mark.trio
@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), anyio.BrokenResourceError()]
)
async def test_a_listener_that_cannot_accept_is_asked_ever_more_rarely(
    autojump_clock: object, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """T-15, HR-81: 0.1 s doubling to 5 s, one line in the log; nobody else is bothered."""
    server, street, other = server_of(), Unwell(9, error), Street()
    async with anyio.create_task_group() as group:
        await group.start(server.serve, MultiListener([street, other]), lambda s: s.serve(echo))
        async with client_of(await other.connect()) as client:
            async with client_of(await street.connect()) as late:
                await echoes(late)
            await echoes(client)
        group.cancel_scope.cancel()
    pauses = [
        later - earlier for earlier, later in zip(street.asked, street.asked[1:], strict=False)
    ]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5])
    lines = [record for record in caplog.records if "cannot be accepted" in record.message]
    assert len(lines) == 1


@pytest.mark.trio
async def test_what_a_listener_raised_is_not_kept(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    """It leads to all that its frames know, and the next connection may be long in coming."""
    caplog.set_level("ERROR", "anyssh")  # what is logged keeps it

    class Passing(OSError):
        """One that can be referred to weakly."""

    kept: list[weakref.ref[Passing]] = []

    async def accept() -> None:
        if kept:
            await anyio.sleep_forever()
        error = Passing("for now")
        kept.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    gc.disable()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(AcceptLoop("trouble").run, accept)
            await anyio.sleep(1)
            assert kept[0]() is None
            group.cancel_scope.cancel()
    finally:
        gc.enable()


async def test_a_bug_of_a_listener_is_not_hidden() -> None:
    street = Unwell(1, RuntimeError("a bug"))
    with pytest.raises(ExceptionGroup) as caught:
        await server_of().serve(street, echoes)
    assert caught.value.exceptions == (street.error,)


# Clients over TCP


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
@pytest.mark.parametrize("is_connectable", [False, True])
async def test_a_client_needs_nothing_but_what_anyio_has(host: str, is_connectable: bool) -> None:
    """TCP-01, TCP-05: names, IPv6 without brackets, no delay; refused and cancelled connects."""
    local = None if host == "localhost" else host
    async with (
        await anyio.create_tcp_listener(local_host=local, local_port=0) as listener,
        anyio.create_task_group() as group,
    ):
        await group.start(server_of().serve, listener, lambda session: session.serve(echo))
        port = listener.extra(SocketAttribute.local_port)
        address = (host, port)
        way = anyio.as_connectable(address) if is_connectable else await anyio.connect_tcp(*address)
        async with client_of(way) as client:
            await echoes(client)
            raw = client.extra(SocketAttribute.raw_socket)
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        group.cancel_scope.cancel()
    if is_connectable:
        with pytest.raises(OSError, match="connect"):
            async with client_of(anyio.as_connectable(address)):
                pass


class Around(Listener[From]):
    """Passes on what another listener accepts, as those for TLS and WebSockets do."""

    def __init__(self, inner: Listener[From]) -> None:
        self._inner = inner

    async def serve(self, handler: Callable[[From], Any], task_group: Any = None) -> None:
        await self._inner.serve(handler, task_group)

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.trio
async def test_a_listener_around_several_is_asked_again_until_it_is_closed(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    """T-15, HR-81: those of several families fail, and end, as a group of errors."""
    street, other = Unwell(1, OSError(errno.EMFILE, "Too many open files")), Street()
    around = Around(MultiListener([Around(MultiListener([street])), other]))
    async with anyio.create_task_group() as group:
        ended = anyio.Event()

        async def serve() -> None:
            await server_of().serve(around, lambda session: session.serve(echo))
            ended.set()

        group.start_soon(serve)
        for each in (street, other):
            async with client_of(await each.connect()) as client:
                await echoes(client)
        assert len(street.asked) == 2
        await around.aclose()
        await ended.wait()
    assert "cannot be accepted for now: [Errno 24]" in caplog.text
