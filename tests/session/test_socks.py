"""SOCKS proxies at both sides of a session, with real sockets or without any."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, Listener, SocketAttribute, TaskGroup

import anyssh
from anyssh import ForwardingPolicy, TcpEndpoint
from anyssh.forwarding import proxying
from anyssh.testing import memory_stream_pair, session_pair

from .ends import make_server
from .life_support import LIMIT, Wrapper, fast, nothing_left_behind, wait_for
from .network import RECONNECTING, network_pair
from .test_forwarding import ALL, ask, assert_reset, pair, service

SIDES = ("here", "at the peer")
LOCAL = ForwardingPolicy(connect_to=["localhost:*"])
NO_SOCKETS = ForwardingPolicy(listen_on=["localhost:*"], accept_local_connections=False)
GREETING, GREETED = b"\x05\x01\x00", b"\x05\x00"
GRANTED = b"\x05\x00\x00\x01" + bytes(6)
NOT_ALLOWED = b"\x05\x02\x00\x01" + bytes(6)
UNREACHABLE = b"\x05\x04\x00\x01" + bytes(6)


def request(host: str, port: int) -> bytes:
    name = host.encode()
    return bytes([5, 1, 0, 3, len(name)]) + name + port.to_bytes(2, "big")


@asynccontextmanager
async def proxy(side: str, policy: ForwardingPolicy | None) -> AsyncIterator[int]:
    """Give the port of a SOCKS proxy; the other side of the session connects by the policy."""
    if side == "here":
        async with pair(policy) as (client, _), client.forward_socks() as near:
            assert near.local_port
            yield near.local_port
    else:
        async with (
            pair(ALL, policy) as (client, _),
            client.forward_socks_from_remote_port() as far,
        ):
            assert far.remote_port
            yield far.remote_port


@asynccontextmanager
async def without_sockets(
    policy: ForwardingPolicy,
) -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.Channel]]:
    """Give a client with a proxy at its server, and a connection to that proxy."""
    async with (
        pair(NO_SOCKETS, policy) as (client, server),
        client.forward_socks_from_remote_port("localhost", 1080),
    ):
        await server.wait_for_forwarded_port(1080)
        async with await server.connect_to_forwarded_port(1080) as stream:
            yield client, stream


async def expect(stream: ByteStream, answer: bytes) -> None:
    received = b""
    while len(received) < len(answer):
        received += await stream.receive(len(answer) - len(received))
    assert received == answer


async def everything_from(stream: ByteStream) -> bytes:
    with suppress(anyio.BrokenResourceError):
        return b"".join([chunk async for chunk in stream])
    return b""


# At both sides


@pytest.mark.parametrize("side", SIDES)
async def test_socks(side: str) -> None:
    """What comes right behind the request belongs to the target."""
    async with service() as port, proxy(side, LOCAL) as at:
        for host in ("localhost", "127.0.0.1"):
            stream = await anyio.connect_tcp("127.0.0.1", at)
            await stream.send(GREETING)
            await expect(stream, GREETED)
            await stream.send(request(host, port) + b"early, ")
            await expect(stream, GRANTED)
            assert await ask(stream, b"late") == b"EARLY, LATE!"


@pytest.mark.parametrize("side", SIDES)
async def test_all_at_once(side: str) -> None:
    async with service() as port, proxy(side, LOCAL) as at:
        stream = await anyio.connect_tcp("127.0.0.1", at)
        question = GREETING + request("localhost", port) + b"x" * 100_000
        assert await ask(stream, question) == GREETED + GRANTED + b"X" * 100_000 + b"!"


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "policy,host,answer",
    [
        (LOCAL, "localhost", UNREACHABLE),
        (LOCAL, "example.com", NOT_ALLOWED),
        (ForwardingPolicy(connect_to=["*:*"]), "127.0.0.1", NOT_ALLOWED),
        (ForwardingPolicy(connect_to=["*:*"]), "localhost", NOT_ALLOWED),
        (ForwardingPolicy(connect_to=["localhost:1"]), "localhost", NOT_ALLOWED),
    ],
    ids=["not there", "another host", "loopback", "localhost", "another port"],
)
async def test_what_fails_is_told(
    side: str, policy: ForwardingPolicy, host: str, answer: bytes
) -> None:
    """HR-75, T-40."""
    async with service() as port:
        pass
    async with proxy(side, policy) as at:
        stream = await anyio.connect_tcp("127.0.0.1", at)
        assert await ask(stream, GREETING + request(host, port)) == GREETED + answer


@pytest.mark.parametrize("side", SIDES)
async def test_what_is_no_socks_ends(side: str) -> None:
    async with proxy(side, LOCAL) as at:
        stream = await anyio.connect_tcp("127.0.0.1", at)
        await stream.send(b"GET / HTTP/1.1\r\n\r\n")
        assert await everything_from(stream) == b""
        await stream.aclose()


class Generous(Wrapper):
    """Gives more than it is asked for, which no stream may."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await super().receive()


class Once(Listener[ByteStream]):
    """Has one connection."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def serve(self, handler: Any, task_group: TaskGroup | None = None) -> None:
        assert task_group is not None
        task_group.start_soon(handler, self._stream)
        await anyio.sleep_forever()

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


async def test_a_stream_that_gives_too_much_is_broken_off() -> None:
    """Rather than to lose what the target should have had."""
    near, far = memory_stream_pair()

    async def listen(endpoint: anyssh.Endpoint) -> Listener[ByteStream]:
        return Once(Generous(far))

    async with pair() as (client, _), client.forward_socks(listener=listen):
        await near.send(GREETING + request("localhost", 1) + b"early")
        assert await everything_from(near) == b""
        assert client.channels == ()


# At the peer: it chooses where we connect to


async def test_nobody_is_let_connect_by_default() -> None:
    """HR-75: such a proxy would refuse everybody."""
    for policy in (
        None,
        ForwardingPolicy(listen_on=["localhost:*"]),
        ForwardingPolicy(connect_to=[]),
    ):
        async with pair(ALL, policy) as (client, server):
            with pytest.raises(anyssh.LocalProtocolError, match="connect_to"):
                client.forward_socks_from_remote_port()
            assert server.forwarding.remote_ports == ()


async def test_a_server_can_have_one_at_its_client() -> None:
    async with (
        service() as port,
        pair(LOCAL, ALL) as (_, server),
        server.forward_socks_from_remote_port() as far,
    ):
        stream = await anyio.connect_tcp("127.0.0.1", far.remote_port or 0)
        question = GREETING + request("localhost", port) + b"hello"
        assert await ask(stream, question) == GREETED + GRANTED + b"HELLO!"


async def test_a_peer_that_may_not_listen() -> None:
    async with pair(None, LOCAL) as (client, _):
        with pytest.raises(anyssh.RequestDenied):
            async with client.forward_socks_from_remote_port():
                pytest.fail("the peer listens")


@pytest.mark.parametrize("allows", [True, False])
async def test_the_application_decides_about_each_target(allows: bool) -> None:
    """It is told who asks, as far as the peer tells, and for what."""
    asked: list[anyssh.ForwardingRequest] = []

    async def decide(request: anyssh.ForwardingRequest) -> bool:
        asked.append(request)
        return allows

    policy = ForwardingPolicy(connect_to=["localhost:*"], decide=decide)
    async with service() as port, proxy("at the peer", policy) as at:
        stream = await anyio.connect_tcp("127.0.0.1", at)
        here = TcpEndpoint(*stream.extra(SocketAttribute.local_address))
        answer = await ask(stream, GREETING + request("localhost", port))
        assert answer == GREETED + (GRANTED + b"!" if allows else NOT_ALLOWED)
        (about,) = asked
    assert about.action is anyssh.ForwardingAction.CONNECT
    assert (about.endpoint, about.originator) == (TcpEndpoint("localhost", port), here)


@pytest.mark.parametrize("allows", [True, False])
async def test_the_policys_hook_is_asked_about_each_connection(allows: bool) -> None:
    seen: list[anyssh.ForwardedConnection] = []

    async def connecting(connection: anyssh.ForwardedConnection) -> ByteStream | None:
        seen.append(connection)
        return connection.stream if allows else None

    policy = ForwardingPolicy(connect_to=["localhost:*"], connecting=connecting)
    async with service() as port, without_sockets(policy) as (client, stream):
        await stream.send(GREETING + request("localhost", port))
        await expect(stream, GREETED + GRANTED)
        if allows:
            assert await ask(stream) == b"HELLO!"
        else:
            assert (await stream.wait_closed()).exit_signal == "ABRT"
        (connection,) = seen
        assert (connection.endpoint, connection.is_incoming) == (
            TcpEndpoint("localhost", port),
            True,
        )
        await wait_for(lambda: client.channels == ())


async def test_connections_belong_to_the_port() -> None:
    async with service() as port, without_sockets(LOCAL) as (client, stream):
        (forwarded,) = client.forwarding.local_ports
        assert (forwarded.local, forwarded.remote_port, forwarded.channels) == (None, 1080, ())
        await stream.send(GREETING + request("localhost", port) + b"x")
        await expect(stream, GREETED + GRANTED)
        await wait_for(lambda: forwarded.channels == client.channels)
        assert await ask(stream) == b"XHELLO!"
        await wait_for(lambda: forwarded.channels == client.channels == ())


async def test_leaving_breaks_off_who_is_connected_and_who_still_asks() -> None:
    async with (
        nothing_left_behind(),
        service() as port,
        pair(ALL, LOCAL) as (client, server),
    ):
        async with client.forward_socks_from_remote_port() as far:
            asking = await anyio.connect_tcp("127.0.0.1", far.remote_port or 0)
            await asking.send(GREETING)
            await expect(asking, GREETED)
            connected = await anyio.connect_tcp("127.0.0.1", far.remote_port or 0)
            await connected.send(GREETING + request("localhost", port))
            await expect(connected, GREETED + GRANTED)
        await assert_reset(asking)
        await assert_reset(connected)
        await wait_for(lambda: client.channels == server.channels == ())


async def test_connecting_for_channels_that_are_closed_is_bounded() -> None:
    """HR-50: a peer names a target that does not answer, and closes the channel."""
    connecting = 0

    async def connect(endpoint: anyssh.Endpoint) -> ByteStream:
        nonlocal connecting
        connecting += 1
        await anyio.sleep_forever()
        raise AssertionError

    policy = ForwardingPolicy(connect_to=["*:*"], connector=connect)
    limits = anyssh.Limits(channels=4)
    async with (
        session_pair(
            client_config=fast(limits), server_forwarding=NO_SOCKETS, client_forwarding=policy
        ) as (client, server),
        client.forward_socks_from_remote_port("localhost", 1080),
    ):
        await server.wait_for_forwarded_port(1080)
        for _ in range(8):
            async with await server.connect_to_forwarded_port(1080) as stream:
                await stream.send(GREETING + request("example.com", 80))
                await expect(stream, GREETED)
        with pytest.raises(anyssh.ChannelOpenError) as refused:
            await server.connect_to_forwarded_port(1080)
        assert refused.value.reason == anyssh.ChannelOpenFailureReason.RESOURCE_SHORTAGE
        await wait_for(lambda: connecting == 8)


async def test_who_is_connected_may_go_on_when_no_more_are_taken() -> None:
    async with (
        service() as port,
        pair(ALL, LOCAL) as (client, server),
        client.forward_socks_from_remote_port() as far,
    ):
        stream = await anyio.connect_tcp("127.0.0.1", far.remote_port or 0)
        await stream.send(GREETING + request("localhost", port))
        await expect(stream, GREETED + GRANTED)
        await far.stop_listening()
        await wait_for(lambda: not server.forwarding.remote_ports)
        assert await ask(stream) == b"HELLO!"


@pytest.mark.parametrize("side", SIDES)
async def test_those_who_only_connect_lock_nobody_out(
    side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HR-78: the oldest are given up, so there are never many."""
    monkeypatch.setattr(proxying, "MAX_HANDSHAKES", 3)
    async with service() as target, proxy(side, LOCAL) as port:
        silent = []
        for _ in range(5):
            silent.append(await anyio.connect_tcp("127.0.0.1", port))
            await silent[-1].send(GREETING)
            await expect(silent[-1], GREETED)
        for stream in silent[:2]:
            await assert_reset(stream)
        stream = await anyio.connect_tcp("127.0.0.1", port)
        await stream.send(GREETING + request("localhost", target))
        await expect(stream, GREETED + GRANTED)
        assert await ask(stream) == b"HELLO!"
        await assert_reset(silent[2])
        for stream in silent[3:]:
            await stream.aclose()


@pytest.mark.trio
async def test_who_does_not_say_where_to_is_not_waited_for(autojump_clock: object) -> None:
    """HR-78: not by him who sends a byte now and then, either."""
    policy = ForwardingPolicy(connect_to=["*:*"], connect_time=3)
    async with without_sockets(policy) as (client, stream):
        began = anyio.current_time()
        await stream.send(b"\x04\x01\x00\x50\x01\x02\x03\x04")
        async with anyio.create_task_group() as tasks:

            async def dribble() -> None:
                while True:
                    await anyio.sleep(1)
                    await stream.send(b"x")

            tasks.start_soon(dribble)
            closed = await stream.wait_closed()
            tasks.cancel_scope.cancel()
        assert closed.exit_signal == "ABRT"
        assert anyio.current_time() - began == pytest.approx(3, abs=0.4)
        assert client.channels == ()


async def test_a_proxy_outlives_the_stream() -> None:
    server = make_server(config=RECONNECTING, forwarding=ALL)
    with anyio.fail_after(3 * LIMIT):
        async with (
            service() as port,
            network_pair(server, forwarding=LOCAL) as (network, client, _),
            client.forward_socks_from_remote_port() as far,
        ):
            stream = await anyio.connect_tcp("127.0.0.1", far.remote_port or 0)
            await stream.send(GREETING)
            await expect(stream, GREETED)
            network.cut()
            await stream.send(request("localhost", port))
            await expect(stream, GRANTED)
            network.cut()
            assert await ask(stream) == b"HELLO!"
            assert client.metrics.reconnections > 0
