"""Sessions without a stream: how many are kept, for how long, and for whom (T-50 to T-52, T-54)."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStreamConnectable

import anyssh
from anyssh import DisconnectReason, ReconnectFailureReason, SessionState
from anyssh.protocol import Core, Phase, Role
from anyssh.protocol.connection import Connection
from anyssh.protocol.events import ConnectionTerminated, Event
from anyssh.session import links
from anyssh.testing.memory import MemoryStream

from .ends import Call, make_server, pinned, settle
from .network import Network, open_channel_pair

LIMIT = 20
KIB = 1024


def config(limits: anyssh.Limits | None = None, **changes: Any) -> anyssh.SessionConfig:
    """Return a configuration of sessions that reconnect, with a cheap handshake."""
    return anyssh.SessionConfig.with_reconnect(
        key_exchanges=[anyssh.KeyExchange.CURVE25519_SHA256],
        encryptions=[anyssh.Encryption.AES128_GCM],
        limits=limits or anyssh.Limits(close_time=0.1, disconnect_time=0.1),
        **changes,
    )


async def let_anybody_in(attempt: anyssh.AuthAttempt) -> object | None:
    match attempt:
        case anyssh.PasswordAttempt(username=name, password="wonderland"):
            return name
    return None


def server_with(**options: Any) -> anyssh.Server:
    store = {
        name: options.pop(name)
        for name in ("max_sessions", "max_per_principal", "max_bytes")
        if name in options
    }
    return make_server(
        **{
            "config": config(),
            "authenticate": let_anybody_in,
            "reconnectable_sessions": anyssh.ReconnectableSessions(**store),
            **options,
        }
    )


class House:
    """A server on a network in memory, and clients that come when they are told."""

    def __init__(self, server: anyssh.Server, group: anyio.abc.TaskGroup) -> None:
        self.server = server
        self.group = group
        self.network = Network()
        self.sessions: list[anyssh.ServerSession] = []
        self.serving = anyio.CancelScope()
        group.start_soon(self._serve)

    async def _serve(self) -> None:
        with self.serving:
            await self.server.serve(self.network, self._handle)

    async def _handle(self, session: anyssh.ServerSession) -> None:
        self.sessions.append(session)
        await session.wait_closed()

    @property
    def store(self) -> anyssh.ReconnectableSessions:
        return self.server.reconnectable_sessions

    async def connect(
        self, username: str = "alice", *, stream: Any = None, **options: Any
    ) -> tuple[anyssh.ClientSession, anyssh.ServerSession, Any]:
        """Return both ends of a session, which run until the house is left, and its stream."""
        stream = stream or await self.network.connect()
        credentials = anyssh.ClientCredentials(username, password="wonderland")
        session = anyssh.ClientSession.connect(
            stream,
            **{
                "credentials": credentials,
                "verify_host": pinned(),
                "config": config(),
                **options,
            },
        )
        entered = anyio.Event()

        async def run() -> None:
            async with session:
                entered.set()
                await session.wait_closed()

        count = len(self.sessions)
        self.group.start_soon(run)
        await entered.wait()
        while len(self.sessions) == count:
            await settle()
        near: Any = stream
        if isinstance(stream, ByteStreamConnectable) and self.network.streams:
            near = self.network.streams[-1][0]
        return session, self.sessions[-1], near


@asynccontextmanager
async def house(**options: Any) -> AsyncIterator[House]:
    server = options.pop("server", None) or server_with(**options)
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        try:
            with anyio.fail_after(LIMIT):
                yield House(server, group)
        except Exception as error:
            # Raised below, where the task group does not make a group of it.
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def lose(*sessions: anyssh.Session, stream: MemoryStream) -> None:
    """Let the stream of both ends of a session be lost."""
    stream.abort()
    for session in sessions:
        await session.wait_disconnected()


# What is kept


@pytest.mark.parametrize("password", [None, "wrong"])
async def test_nothing_is_kept_of_whom_nobody_knows(password: str | None) -> None:
    """HR-61: a stream that is lost before authentication."""
    async with house() as place:
        stream = await place.network.connect()
        session = anyssh.ClientSession.connect(stream, verify_host=pinned(), config=config())
        async with session:
            if password is not None:
                credentials = anyssh.ClientCredentials("alice", password=password)
                with pytest.raises(anyssh.AuthenticationError):
                    await session.authenticate(credentials)
            stream.abort()
            await session.wait_closed()
        await settle()
        assert len(place.store) == 0
        assert session.state is SessionState.CLOSED


async def test_a_session_is_listed_from_its_authentication_to_its_end() -> None:
    async with house() as place:
        client, server, stream = await place.connect()
        assert list(place.store) == [server]
        assert server in place.store
        await lose(client, server, stream=stream)
        assert list(place.store) == [server]
        await client.reconnect(await place.network.connect())
        assert list(place.store) == [server]
        await client.aclose()
        await server.wait_closed()
        assert len(place.store) == 0
        assert server not in place.store


async def test_all_sessions_are_looked_at_whichever_it_is() -> None:
    """HR-62: so that the time tells nothing."""
    async with house() as place:
        servers = [(await place.connect(name))[1] for name in "abc"]
        for wanted in (*servers, None):
            shown: list[bytes] = []

            def proves(secret: bytes, shown: list[bytes] = shown, wanted: object = wanted) -> bool:
                shown.append(secret)
                return wanted is servers[len(shown) - 1]

            assert place.store._find(proves) is wanted
            assert len(shown) == len(set(shown)) == len(servers)


async def test_the_oldest_without_a_stream_makes_room() -> None:
    """HR-61: it ends, and says why; those with a stream stay."""
    async with house(max_sessions=3) as place:
        stays, at_server, _ = await place.connect("a")
        first = await place.connect("b")
        second = await place.connect("c")
        await lose(*second[:2], stream=second[2])
        await lose(*first[:2], stream=first[2])
        newest = await place.connect("d")
        end = await second[1].wait_closed()
        assert end.reason == DisconnectReason.TOO_MANY_CONNECTIONS
        assert set(place.store) == {at_server, first[1], newest[1]}
        with pytest.raises(anyssh.ReconnectError) as refused:
            await second[0].reconnect(await place.network.connect())
        assert refused.value.reason == ReconnectFailureReason.SESSION_NOT_FOUND
        await first[0].reconnect(await place.network.connect())
        assert stays.state is at_server.state is SessionState.CONNECTED


async def test_without_room_a_new_session_ends_with_its_stream() -> None:
    """HR-61: it is served as ever until then, and none of the others suffers."""
    async with house(max_sessions=1) as place:
        old_client, old_server, old_stream = await place.connect("a")
        client, server, stream = await place.connect("b")
        assert list(place.store) == [old_server]
        channel, theirs = await open_channel_pair(client, server)
        await channel.send(b"hello")
        assert await theirs.receive() == b"hello"
        stream.abort()
        await server.wait_closed()
        await lose(old_client, old_server, stream=old_stream)
        await old_client.reconnect(await place.network.connect())


async def test_one_principal_does_not_take_the_room_of_others() -> None:
    """HR-61."""
    async with house(max_per_principal=2, max_sessions=4) as place:
        other_client, other_server, other_stream = await place.connect("bob")
        await lose(other_client, other_server, stream=other_stream)
        for _ in range(5):
            client, server, stream = await place.connect("mallory")
            await lose(client, server, stream=stream)
        assert other_server in place.store
        assert len(place.store) == 3
        await other_client.reconnect(await place.network.connect())


async def test_bytes_that_wait_for_lost_streams_are_bounded() -> None:
    """HR-61: also those that come to wait after the stream was lost."""
    async with house(max_bytes=600 * KIB) as place:
        lost = []
        for name in ("a", "b", "c"):
            client, server, stream = await place.connect(name)
            channel, theirs = await open_channel_pair(client, server)
            await lose(client, server, stream=stream)
            lost.append((server, theirs))
        for _, channel in lost[:2]:
            await channel.send(bytes(250 * KIB))
        assert len(place.store) == 3
        await lost[2][1].send(bytes(250 * KIB))
        end = await lost[0][0].wait_closed()
        assert end.reason == DisconnectReason.TOO_MANY_CONNECTIONS
        assert list(place.store) == [lost[1][0], lost[2][0]]


async def test_closed_sessions_are_gone() -> None:
    """HR-61: the store holds on to nothing."""
    server = server_with()
    kept: list[weakref.ref[Any]] = []
    async with house(server=server) as place:
        client, at_server, stream = await place.connect()
        kept += [weakref.ref(at_server), weakref.ref(at_server._connection)]
        await lose(client, at_server, stream=stream)
        await client.reconnect(await place.network.connect())
        await client.aclose()
        await at_server.wait_closed()
    del client, at_server, place, stream
    for _ in range(3):
        gc.collect()
    assert [reference() for reference in kept] == [None, None]
    assert len(server.reconnectable_sessions) == 0


# For how long


@pytest.mark.trio
async def test_a_session_waits_for_its_time_and_no_longer(autojump_clock: object) -> None:
    """HR-61: on both sides, and the client knows why."""
    async with house_without_limit(config=config(anyssh.Limits(disconnected_time=90))) as place:
        client, server, stream = await place.connect(
            config=config(anyssh.Limits(disconnected_time=60))
        )
        await lose(client, server, stream=stream)
        started = anyio.current_time()
        with anyio.fail_after(100):
            end = await client.wait_closed()
            assert 59 < anyio.current_time() - started < 61
            assert isinstance(end.error, anyssh.ConnectionLost)
            assert "60 seconds" in str(end.error)
            assert server in place.store
            await server.wait_closed()
        assert 89 < anyio.current_time() - started < 91
        assert len(place.store) == 0


@asynccontextmanager
async def house_without_limit(**options: Any) -> AsyncIterator[House]:
    """Give a house in virtual time, which has no use for a deadline."""
    async with anyio.create_task_group() as group:
        yield House(server_with(**options), group)
        group.cancel_scope.cancel()


class Longest:
    """Chance at its slowest; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def uniform(self, low: float, high: float) -> float:
        self.asked.append((low, high))
        return high


@pytest.mark.trio
async def test_a_client_looks_for_a_stream_ever_more_rarely(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HR-72: 0.5 s doubling to 30 s with full jitter, for the lifetime; then it tells why."""
    chance = Longest()
    monkeypatch.setattr(links, "_random", chance)
    limits = anyssh.Limits(disconnected_time=200)
    async with house_without_limit(config=config(limits)) as place:
        network = place.network
        client, server, _ = await place.connect(stream=network, config=config(limits))
        network.is_up = False
        started = anyio.current_time()
        network.cut()
        end = await client.wait_closed()
        assert 199 < anyio.current_time() - started < 201
        assert isinstance(end.error, anyssh.ConnectionLost)
        assert isinstance(end.error.__cause__, ConnectionRefusedError)
        assert end.reason == DisconnectReason.CONNECTION_LOST
        assert {low for low, _ in chance.asked} == {0}
        longest = [high for _, high in chance.asked]
        assert longest[:6] == [0.5, 1, 2, 4, 8, 16]
        assert longest[6:] == [30] * 6
        await server.wait_closed()


@pytest.mark.trio
async def test_a_connectable_that_hangs_does_not_keep_a_session_for_ever(
    autojump_clock: object,
) -> None:
    limits = anyssh.Limits(disconnected_time=50)
    async with house_without_limit() as place:
        network = place.network
        client, _, _ = await place.connect(stream=network, config=config(limits))
        network._serving = anyio.Event()
        started = anyio.current_time()
        network.cut()
        await client.wait_closed()
        assert 49 < anyio.current_time() - started < 51


@pytest.mark.trio
async def test_why_there_was_no_other_stream_does_not_keep_the_last_one(
    autojump_clock: object,
) -> None:
    """Nor its keys and buffers: an application may keep the error for long."""
    async with house_without_limit() as place:
        network = place.network
        client, _, _ = await place.connect(stream=network)
        core = weakref.ref(client._core)
        network.is_up = False
        network.cut()
        end = await client.wait_closed()
    del client, place
    gc.collect()
    assert isinstance(end.error.__cause__, OSError)
    assert core() is None


@pytest.mark.trio
async def test_each_loss_begins_with_short_waits(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = Longest()
    monkeypatch.setattr(links, "_random", chance)
    async with house_without_limit() as place:
        network = place.network
        client, _, _ = await place.connect(stream=network)
        facts = client.events()
        for count in range(1, 3):
            network.is_up = False
            network.cut()
            await client.wait_disconnected()
            await anyio.sleep(10)
            network.is_up = True
            while not isinstance(await anext(facts), anyssh.Reconnected):
                pass
            assert client.metrics.reconnections == count
        assert [high for _, high in chance.asked] == [0.5, 1, 2, 4, 8] * 2


# Ends


@pytest.mark.parametrize("is_client", [True, False])
async def test_every_goodbye_but_a_lost_connection_is_for_good(is_client: bool) -> None:
    """T-52, HR-69."""
    async with house(max_per_principal=30) as place:
        for reason in range(21):
            client, server, _ = await place.connect()
            await (client if is_client else server).disconnect(reason, "so it goes")
            if reason == DisconnectReason.CONNECTION_LOST:
                await client.wait_disconnected()
                await server.wait_disconnected()
                assert server in place.store
                await client.reconnect(await place.network.connect())
                await client.aclose()
            assert (await client.wait_closed()).reason in (reason, DisconnectReason.BY_APPLICATION)
            await server.wait_closed()
            assert server.state is client.state is SessionState.CLOSED
            assert len(place.store) == 0


async def test_a_lost_connection_cannot_be_lost_again() -> None:
    """Saying so without a stream changes nothing; any other goodbye ends the session."""
    async with house() as place:
        client, server, stream = await place.connect()
        await lose(client, server, stream=stream)
        for session in (client, server):
            await session.disconnect(DisconnectReason.CONNECTION_LOST)
            assert session.state is SessionState.DISCONNECTED
        await client.reconnect(await place.network.connect())
        await client.disconnect(DisconnectReason.CONNECTION_LOST)
        await client.disconnect(DisconnectReason.BY_APPLICATION)
        assert (await client.wait_closed()).reason == DisconnectReason.BY_APPLICATION


@pytest.mark.parametrize("by_itself", [True, False])
async def test_a_server_that_knows_nothing_is_asked_once(by_itself: bool) -> None:
    """HR-72, T-73: a server that was started anew; a client that looks by itself gives up."""
    async with house() as place:
        stream = place.network if by_itself else None
        client, server, near = await place.connect(stream=stream)
        place.store._discard(server)
        near.abort()
        await server.wait_closed()
        if by_itself:
            end = await client.wait_closed()
            error: BaseException = end.error
            assert end.reason == DisconnectReason.CONNECTION_LOST
        else:
            await client.wait_disconnected()
            with pytest.raises(anyssh.ReconnectError) as refused:
                await client.reconnect(await place.network.connect())
            error = refused.value
            assert client.state is SessionState.DISCONNECTED
        assert isinstance(error, anyssh.ReconnectError)
        assert error.reason == ReconnectFailureReason.SESSION_NOT_FOUND


async def test_another_host_is_not_asked_at_all() -> None:
    """HR-64, HR-72."""
    other_key = anyssh.generate_key("ssh-ed25519")
    async with house() as place, house(host_keys=[other_key]) as other:
        client, server, stream = await place.connect()
        await lose(client, server, stream=stream)
        with pytest.raises(anyssh.ReconnectError) as refused:
            await client.reconnect(await other.network.connect())
        assert refused.value.reason == ReconnectFailureReason.DIFFERENT_SERVER_HOST_KEY
        assert isinstance(refused.value.__cause__, anyssh.HostKeyError)
        await client.reconnect(await place.network.connect())


async def test_the_third_impossible_number_ends_the_session() -> None:
    """HR-65: at the server, and at a client that learns of it."""
    async with house() as place:
        client, server, stream = await place.connect()
        await lose(client, server, stream=stream)
        continuity = client._connection.continuity
        assert continuity is not None
        continuity.journal.last_received += 1000
        for count in range(3):
            assert server in place.store, count
            with pytest.raises(anyssh.ReconnectError) as refused:
                await client.reconnect(await place.network.connect())
            assert refused.value.reason == ReconnectFailureReason.SERVER_DROPPED_MESSAGES
        await server.wait_closed()
        assert len(place.store) == 0
        assert client.state is SessionState.CLOSED


async def test_who_is_refused_may_have_more_on_its_way() -> None:
    """A socket that was closed would answer that by a reset, and why it was refused be lost."""
    patient = config(anyssh.Limits(close_time=LIMIT))
    async with house(config=patient) as place:
        client, server, stream = await place.connect()
        await lose(client, server, stream=stream)
        near = await place.network.connect()
        continuity = client._connection.continuity
        assert continuity is not None
        continuity.journal.last_received += 1000
        error = await ask_as_twin(client, near)
        assert isinstance(error, anyssh.ReconnectError)
        assert error.reason == ReconnectFailureReason.SERVER_DROPPED_MESSAGES
        with pytest.raises(anyio.EndOfStream):
            await near.receive()
        await settle()
        await near.send(b"what was on its way")
        continuity.journal.last_received -= 1000
        with anyio.fail_after(LIMIT / 2):  # nor does the stream hold up the next one
            await client.reconnect(await place.network.connect())


# Several servers


async def test_a_session_stays_with_its_server_whichever_its_client_comes_back_to() -> None:
    """It is counted there, and ends there; the other one has only brought the stream."""
    async with house() as first, house(reconnectable_sessions=first.store) as second:
        client, server, stream = await first.connect()
        channel, theirs = await open_channel_pair(client, server)
        await lose(client, server, stream=stream)
        await client.reconnect(await second.network.connect())
        await settle()
        assert not second.sessions
        numbers = first.server.statistics
        assert (numbers.connections, numbers.without_stream) == (1, 0)
        assert second.server.statistics.connections == 0
        await second.server.shutdown(grace=0)
        await theirs.send(b"still here")
        assert await channel.receive() == b"still here"
        await first.server.shutdown(grace=0)
        end = await client.wait_closed()
        assert end.reason == DisconnectReason.BY_APPLICATION
        assert "shutting down" in end.description
        for place in (first, second):
            numbers = place.server.statistics
            assert (numbers.connections, numbers.without_stream) == (0, 0)
        assert len(first.store) == 0


# Who comes back


async def test_of_two_that_come_at_once_one_wins() -> None:
    """HR-63, T-54."""
    waits = anyio.Event()
    asked = anyio.Event()

    async def hesitate(session: anyssh.ServerSession, address: object) -> bool:
        asked.set()
        await waits.wait()
        return True

    async with house(authorize_reconnect=hesitate) as place:
        client, server, stream = await place.connect()
        channel, theirs = await open_channel_pair(client, server)
        await lose(client, server, stream=stream)
        first = Call(place.group, partial(client.reconnect, await place.network.connect()))
        await asked.wait()
        refusal = await ask_as_twin(client, await place.network.connect())
        assert isinstance(refusal, anyssh.ReconnectError)
        assert refusal.reason == ReconnectFailureReason.UNKNOWN_SERVER_FAILURE
        waits.set()
        await first.result()
        assert server.metrics.reconnections == 1
        await theirs.send(b"to the winner")
        assert await channel.receive() == b"to the winner"


def twin_of(client: anyssh.ClientSession, identification: str = "SSH-2.0-twin_1.0") -> Core:
    """Return the core of somebody who knows all secrets of a session and asks for it."""
    connection = Connection(client.config)
    connection.continuity = client._connection.continuity
    return Core(
        Role.CLIENT,
        client.config,
        now=anyio.current_time(),
        random=os.urandom,
        identification=identification,
        connection=connection,
    )


async def ask_as_twin(client: anyssh.ClientSession, stream: MemoryStream) -> Exception | None:
    """Ask for a session as its client's twin; return how that ended."""
    core = twin_of(client)
    events: list[Event] = []
    while core.phase is not Phase.TERMINATED:
        await stream.send(core.data_to_send(anyio.current_time()))
        events += core.receive_data(await stream.receive(), anyio.current_time())
    (end,) = [event for event in events if isinstance(event, ConnectionTerminated)]
    return end.error
