"""Port forwarding between the two ends of a session in memory, with real sockets on both sides."""

from __future__ import annotations

import socket
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

import anyssh
from anyssh import ForwardingPolicy
from anyssh.testing import memory_stream_pair, session_pair

from .ends import Call, at_once, make_server
from .life_support import (
    LIMIT,
    Wrapper,
    client_of,
    echo,
    echoes,
    fast,
    host_key,
    nothing_left_behind,
    run_end,
    server_of,
    settle,
    wait_for,
)
from .network import RECONNECTING, network_pair

ALL = ForwardingPolicy.allow_all()
Handler = Callable[[Any], Awaitable[object]]


async def shout(stream: ByteStream) -> None:
    """Answer the whole of what comes, once it has ended, in capitals."""
    async with stream:
        data = b"".join([chunk async for chunk in stream])
        await stream.send(data.upper() + b"!")
        await stream.send_eof()


@asynccontextmanager
async def service(host: str = "127.0.0.1", handler: Handler = shout) -> AsyncIterator[int]:
    """Give the port of a server that something is forwarded to, and that bears resets."""

    async def handle(stream: ByteStream) -> None:
        # On Trio, ending a direction of what was reset is an error of the system; uvloop has an
        # error of its own for that.
        with suppress(anyio.BrokenResourceError, OSError, RuntimeError):
            await handler(stream)

    async with (
        await anyio.create_tcp_listener(local_host=host, local_port=0) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def pair(
    server: ForwardingPolicy | None = ALL, client: ForwardingPolicy | None = None, **options: Any
) -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.ServerSession]]:
    async with session_pair(
        client_config=fast(),
        server_config=fast(),
        host_key=host_key(),
        server_forwarding=server,
        client_forwarding=client,
        **options,
    ) as ends:
        with anyio.fail_after(LIMIT * 2):
            yield ends


async def ask(stream: ByteStream, question: bytes = b"hello") -> bytes:
    """Send something and its end; return all that comes back."""
    async with stream:
        await stream.send(question)
        await stream.send_eof()
        return b"".join([chunk async for chunk in stream])


async def ask_port(port: int | None, host: str = "127.0.0.1", question: bytes = b"hello") -> bytes:
    assert port
    return await ask(await anyio.connect_tcp(host, port), question)


# Connections that leave at the peer


async def test_forward_to_remote_port() -> None:
    async with (
        service() as port,
        pair() as (client, _),
        client.forward_to_remote_port("127.0.0.1", 0, "127.0.0.1", port) as forward,
    ):
        assert forward.local_port
        assert await ask_port(forward.local_port) == b"HELLO!"
        assert await ask_port(forward.local_port, "::1") == b"HELLO!"


async def test_forward_from_remote_port() -> None:
    async with (
        service() as port,
        pair() as (client, _),
        client.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", port) as forward,
    ):
        assert forward.remote_port
        assert await ask_port(forward.remote_port) == b"HELLO!"


async def test_stream_to_remote_port() -> None:
    async with service() as port, pair() as (client, _):
        stream = await client.stream_to_remote_port("localhost", port)
        assert stream.extra(SocketAttribute.remote_address) == ("localhost", port)
        assert await ask(stream) == b"HELLO!"


async def test_stream_from_remote_port() -> None:
    async with (
        pair() as (client, _),
        client.stream_from_remote_port("localhost", 0) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, shout)
        assert await ask_port(listener.remote_port) == b"HELLO!"
        tasks.cancel_scope.cancel()


async def test_a_server_can_forward_too() -> None:
    async with (
        service() as port,
        pair(None, ALL) as (_, server),
        server.forward_to_remote_port("127.0.0.1", 0, "127.0.0.1", port) as there,
        server.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", port) as back,
    ):
        assert await ask_port(there.local_port) == b"HELLO!"
        assert await ask_port(back.remote_port) == b"HELLO!"


async def test_nothing_is_forwarded_by_default() -> None:
    """HR-75, HR-76, T-40."""
    async with pair(None) as (client, server):
        for session in (client, server):
            with pytest.raises(anyssh.ChannelOpenError) as refusal:
                await session.stream_to_remote_port("127.0.0.1", 9)
            assert refusal.value.reason == 1
            with pytest.raises(anyssh.RequestDenied):
                async with session.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", 9):
                    pytest.fail("the peer listens")


MATRIX = [
    ("0.0.0.0", "127.0.0.1", "localhost", "127.0.0.1"),
    ("127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1"),
    ("127.0.0.1", "127.0.0.1", "localhost", "127.0.0.1"),
    ("0.0.0.0", "::1", "::1", "::1"),
    ("127.0.0.1", "::1", "::1", "::1"),
    ("::", "::1", "::1", "::1"),
    ("::1", "::1", "::1", "::1"),
    ("", "127.0.0.1", "127.0.0.1", "127.0.0.1"),
    ("localhost", "::1", "127.0.0.1", "127.0.0.1"),
]
"""Where is listened, what is connected to, where it is to go, who is there (PFW-06)."""


@pytest.mark.parametrize("bind,connect,target,there", MATRIX)
async def test_addresses(bind: str, connect: str, target: str, there: str) -> None:
    async with service(there) as port, pair() as (client, _):
        async with client.forward_to_remote_port(bind, 0, target, port) as to_remote:
            assert await ask_port(to_remote.local_port, connect) == b"HELLO!"
        async with client.forward_from_remote_port(bind, 0, target, port) as from_remote:
            assert await ask_port(from_remote.remote_port, connect) == b"HELLO!"


async def test_a_chosen_port_is_kept() -> None:
    async with service() as port, pair() as (client, server):
        async with client.forward_to_remote_port("127.0.0.1", 0, "127.0.0.1", port) as forward:
            number = forward.local_port
        assert number
        for _ in range(3):
            async with client.forward_to_remote_port(
                "127.0.0.1", number, "127.0.0.1", port
            ) as forward:
                assert forward.local_port == number
                assert await ask_port(number) == b"HELLO!"
            async with client.forward_from_remote_port(
                "127.0.0.1", number, "127.0.0.1", port
            ) as back:
                assert back.remote_port == number
                assert await ask_port(number) == b"HELLO!"
            await wait_for(lambda: not server.forwarding.remote_ports)


async def test_a_busy_port() -> None:
    async with service() as port, pair() as (client, _):
        with pytest.raises(OSError, match="in use"):
            async with client.forward_to_remote_port("127.0.0.1", port, "127.0.0.1", port):
                pytest.fail("listens on a busy port")
        with pytest.raises(anyssh.RequestDenied):
            async with client.forward_from_remote_port("127.0.0.1", port, "127.0.0.1", port):
                pytest.fail("the peer listens on a busy port")
        assert await ask(await client.stream_to_remote_port("127.0.0.1", port)) == b"HELLO!"


# What belongs to a connection


async def test_half_close_goes_through_in_both_directions() -> None:
    """HR-78, T-42."""

    async def end_first(stream: ByteStream) -> None:
        async with stream:
            await stream.send(b"done")
            await stream.send_eof()
            got.append(b"".join([chunk async for chunk in stream]))
            all_came.set()

    got: list[bytes] = []
    all_came = anyio.Event()
    async with (
        service(handler=end_first) as port,
        pair() as (client, _),
        forwarding(client, "to", port) as number,
        await anyio.connect_tcp("127.0.0.1", number) as stream,
    ):
        assert b"".join([chunk async for chunk in stream]) == b"done"
        await stream.send(b"more")
        await stream.send_eof()
        await all_came.wait()
    assert got == [b"more"]


async def test_a_lot_of_bytes_both_ways() -> None:
    """T-42."""

    async def echo(stream: ByteStream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)
            await stream.send_eof()

    data = bytes(range(256)) * 32 * 1024
    received = bytearray()

    async def send(stream: ByteStream) -> None:
        await stream.send(data)
        await stream.send_eof()

    async with (
        service(handler=echo) as port,
        pair() as (client, _),
        forwarding(client, "from", port) as number,
        await anyio.connect_tcp("127.0.0.1", number) as stream,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(send, stream)
        async for chunk in stream:
            received += chunk
    assert bytes(received) == data


async def test_who_does_not_read_stops_who_sends() -> None:
    """T-42: what is under way is bounded by the channel's window and the sockets' buffers."""
    may_read = anyio.Event()
    read = 0

    async def slow(stream: ByteStream) -> None:
        nonlocal read
        async with stream:
            read = len(await stream.receive(1))  # only then asyncio begins to hold back
            await may_read.wait()
            async for chunk in stream:
                read += len(chunk)
            await stream.send_eof()

    async with service(handler=slow) as port, pair() as (client, _):
        stream = await client.stream_to_remote_port("127.0.0.1", port)
        sent = 0
        with anyio.move_on_after(1) as waiting:
            while sent < 200 << 20:
                await stream.send(bytes(1 << 16))
                sent += 1 << 16
                waiting.deadline = anyio.current_time() + 0.5
        assert sent < 64 << 20
        may_read.set()
        await stream.send_eof()
        assert [chunk async for chunk in stream] == []
        assert read == stream.metrics.bytes_sent


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", ""])
async def test_addresses_are_listened_on_where_the_system_would_not_look_them_up(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers, where loopback alone has an address of the second family."""

    async def fail(*what: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_FAMILY, "Address family for hostname not supported")

    async with service() as port, pair() as (client, _):
        with monkeypatch.context() as container:
            container.setattr("anyio._core._sockets.getaddrinfo", fail)
            forward = client.forward_to_remote_port(host, 0, "127.0.0.1", port)
            async with forward:
                number = forward.local_port
                assert await ask_port(number, "::1") == b"HELLO!"
                if host != "::1":
                    assert await ask_port(number, "127.0.0.1") == b"HELLO!"


async def fill(stream: ByteStream) -> None:
    """Send until nothing more is taken."""
    with anyio.move_on_after(1) as waiting:
        while True:
            await stream.send(bytes(1 << 16))
            waiting.deadline = anyio.current_time() + 0.3


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_a_reset_goes_through_while_nothing_more_is_taken(direction: str) -> None:
    is_full = anyio.Event()

    async def rude(stream: ByteStream) -> None:
        await stream.receive(1)  # only then asyncio begins to hold back
        await is_full.wait()
        reset_at_once(stream)
        await anyio.aclose_forcefully(stream)

    async with (
        service(handler=rude) as port,
        pair() as (client, _),
        forwarding(client, direction, port) as number,
    ):
        stream = await anyio.connect_tcp("127.0.0.1", number)
        await fill(stream)
        is_full.set()
        await assert_reset(stream)


@pytest.mark.parametrize("who", ["client", "server", "forward"])
async def test_nothing_stays_behind_of_who_takes_nothing_more(who: str) -> None:
    async def stuck(stream: ByteStream) -> None:
        async with stream:
            await stream.receive(1)
            await anyio.sleep_forever()

    async with nothing_left_behind(), service(handler=stuck) as port, pair() as (client, server):
        async with forwarding(client, "to", port) as number:
            stream = await anyio.connect_tcp("127.0.0.1", number)
            await fill(stream)
            if who != "forward":
                await (client if who == "client" else server).aclose()
        await assert_reset(stream)


@pytest.mark.parametrize("side", ["near", "far"])
async def test_a_channel_that_the_application_closes_resets_the_connection(side: str) -> None:
    async def hold(stream: ByteStream) -> None:
        async with stream:
            await stream.send(b"hello")
            async for _ in stream:
                pass

    async with (
        service(handler=hold) as port,
        pair() as (client, server),
        forwarding(client, "to", port) as number,
    ):
        stream = await anyio.connect_tcp("127.0.0.1", number)
        await stream.receive()
        if side == "near":
            await client.channels[0].aclose()
            await assert_reset(stream)
        else:
            await server.channels[0].aclose()
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            await stream.aclose()


def reset_at_once(stream: Any) -> None:
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def assert_reset(stream: ByteStream) -> None:
    async with stream:
        with pytest.raises(anyio.BrokenResourceError):
            await drain(stream)


async def drain(stream: ByteStream) -> None:
    while True:
        await stream.receive()


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_a_reset_goes_through_from_the_far_side(direction: str) -> None:
    """HR-78, T-42."""

    async def rude(stream: ByteStream) -> None:
        await stream.receive()
        reset_at_once(stream)
        await anyio.aclose_forcefully(stream)

    async with (
        service(handler=rude) as port,
        pair() as (client, _),
        forwarding(client, direction, port) as number,
    ):
        stream = await anyio.connect_tcp("127.0.0.1", number)
        await stream.send(b"go away")
        await assert_reset(stream)


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_a_reset_goes_through_from_the_near_side(direction: str) -> None:
    """HR-78, T-42."""
    was_reset = anyio.Event()

    async def watch(stream: ByteStream) -> None:
        await stream.send(b"hello")
        await assert_reset(stream)
        was_reset.set()

    async with (
        service(handler=watch) as port,
        pair() as (client, _),
        forwarding(client, direction, port) as number,
    ):
        stream = await anyio.connect_tcp("127.0.0.1", number)
        await stream.receive()
        reset_at_once(stream)
        await anyio.aclose_forcefully(stream)
        await was_reset.wait()


@asynccontextmanager
async def forwarding(
    session: anyssh.Session, direction: str, port: int, **options: Any
) -> AsyncIterator[int]:
    """Forward a port in one direction; give the number to connect to."""
    if direction == "to":
        async with session.forward_to_remote_port(
            "127.0.0.1", 0, "127.0.0.1", port, **options
        ) as there:
            assert there.local_port
            yield there.local_port
    else:
        async with session.forward_from_remote_port(
            "127.0.0.1", 0, "127.0.0.1", port, **options
        ) as back:
            assert back.remote_port
            yield back.remote_port


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_a_channel_that_ends_by_a_signal_resets_the_socket(direction: str) -> None:
    """PFW-08."""
    connected = anyio.Event()

    async def hold(stream: ByteStream) -> None:
        async with stream:
            await stream.send(b"hello")
            connected.set()
            await stream.receive()

    async with (
        service(handler=hold) as port,
        pair() as (client, server),
        forwarding(client, direction, port) as number,
    ):
        stream = await anyio.connect_tcp("127.0.0.1", number)
        await stream.receive()
        await connected.wait()
        far = server if direction == "to" else client
        await far.channels[0].aclose(signal="KILL")
        await assert_reset(stream)


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_a_target_that_is_not_there_resets_the_connection(direction: str) -> None:
    async with service() as port:
        pass
    async with pair() as (client, server), forwarding(client, direction, port) as number:
        for _ in range(3):
            await assert_reset(await anyio.connect_tcp("127.0.0.1", number))
        assert client.channels == server.channels == ()


async def test_what_the_peer_refuses_resets_the_connection() -> None:
    """PFW-14."""
    async with (
        service() as port,
        pair(None) as (client, _),
        forwarding(client, "to", port) as number,
    ):
        await assert_reset(await anyio.connect_tcp("127.0.0.1", number))
        assert client.channels == ()


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_many_connections_at_once(direction: str) -> None:
    async def one(number: int) -> None:
        question = b"%d" % number * 1000
        answers.append(await ask_port(port_to_use, question=question) == question + b"!")

    answers: list[bool] = []
    async with (
        service() as port,
        pair() as (client, _),
        forwarding(client, direction, port) as port_to_use,
        anyio.create_task_group() as tasks,
    ):
        for number in range(40):
            tasks.start_soon(one, number)
    assert answers == [True] * 40


# Hooks


class Reversing(Wrapper):
    """Turns each byte over, both ways."""

    TABLE = bytes(255 - byte for byte in range(256))

    async def send(self, item: bytes) -> None:
        await super().send(item.translate(self.TABLE))

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return (await super().receive(max_bytes)).translate(self.TABLE)


class Hook:
    """Wraps each connection after a round trip with the hook at the other side."""

    def __init__(self) -> None:
        self.connections: list[anyssh.ForwardedConnection] = []

    async def __call__(self, connection: anyssh.ForwardedConnection) -> ByteStream | None:
        self.connections.append(connection)
        await connection.stream.send(b"?")
        assert await connection.stream.receive(1) == b"?"
        return Reversing(connection.stream)


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_connecting_hooks_wrap_both_ends(direction: str) -> None:
    """PFW-22, PFW-23: even one that needs an answer of the other before bytes flow."""
    ours, theirs = Hook(), Hook()
    policy = ForwardingPolicy(connect_to=["localhost:*"], listen_on=["*:*"], connecting=theirs)
    async with (
        service() as port,
        pair(policy) as (client, server),
        forwarding(client, direction, port, connecting=ours) as number,
    ):
        question = bytes(range(256)) * 40
        assert await ask_port(number, question=question) == question.upper() + b"!"
    endpoint = ("127.0.0.1", port) if direction == "to" else ("localhost", number)
    for hook, session, is_incoming in (
        (ours, client, direction == "from"),
        (theirs, server, direction == "to"),
    ):
        (seen,) = hook.connections
        assert (seen.session, seen.is_incoming) == (session, is_incoming)
        assert seen.endpoint == anyssh.TcpEndpoint(*endpoint)
        assert seen.originator
        assert seen.originator.host == "127.0.0.1"


async def refuse(connection: anyssh.ForwardedConnection) -> ByteStream | None:
    return None


async def break_down(connection: anyssh.ForwardedConnection) -> ByteStream | None:
    raise ValueError("a bug")


@pytest.mark.parametrize("direction", ["to", "from"])
@pytest.mark.parametrize("hook", [refuse, break_down])
@pytest.mark.parametrize("side", ["ours", "theirs"])
async def test_connecting_hooks_can_refuse(direction: str, hook: Any, side: str) -> None:
    policy = ForwardingPolicy(
        connect_to=["localhost:*"],
        listen_on=["*:*"],
        connecting=hook if side == "theirs" else None,
    )
    options = {"connecting": hook} if side == "ours" else {}
    async with (
        service() as port,
        pair(policy) as (client, server),
        forwarding(client, direction, port, **options) as number,
    ):
        await assert_reset(await anyio.connect_tcp("127.0.0.1", number))
        await assert_reset(await anyio.connect_tcp("127.0.0.1", number))
        await wait_for(lambda: client.channels == server.channels == ())


async def test_a_factory_may_choose_another_port() -> None:
    """PFW-25: both sides keep the number that was asked for."""

    async def elsewhere(endpoint: Any) -> Any:
        return await anyio.create_tcp_listener(local_host=endpoint.host, local_port=0)

    policy = ForwardingPolicy(listen_on=["*:*"], listener=elsewhere)
    async with (
        service() as port,
        pair(policy) as (client, server),
        client.forward_from_remote_port("127.0.0.1", 4711, "127.0.0.1", port) as forward,
        client.forward_to_remote_port(
            "127.0.0.1", port, "127.0.0.1", port, listener=elsewhere
        ) as other,
    ):
        assert forward.remote_port == 4711
        (forwarded,) = server.forwarding.remote_ports
        assert forwarded.remote_port == 4711
        assert forwarded.local_port not in (None, 4711)
        assert await ask_port(forwarded.local_port) == b"HELLO!"
        assert other.local_port not in (None, port)


async def test_a_connector_replaces_sockets() -> None:
    async def connect(endpoint: Any) -> ByteStream:
        if endpoint == anyssh.TcpEndpoint("shout.example", 7):
            near, far = memory_stream_pair()
            tasks.start_soon(shout, far)
            return near
        raise OSError("not here")

    policy = ForwardingPolicy(connect_to=["*.example:*"], connector=connect)
    async with pair(policy) as (client, _), anyio.create_task_group() as tasks:
        assert await ask(await client.stream_to_remote_port("shout.example", 7)) == b"HELLO!"
        with pytest.raises(anyssh.ChannelOpenError) as refusal:
            await client.stream_to_remote_port("other.example", 7)
        assert refusal.value.reason == anyssh.ChannelOpenFailureReason.CONNECT_FAILED


async def test_nothing_is_listened_on_when_connections_come_from_the_application() -> None:
    """PFW-19, PFW-17."""
    policy = ForwardingPolicy(listen_on=["*:*"], accept_local_connections=False)
    async with service() as port, pair(policy) as (client, server):
        with pytest.raises(anyssh.RequestDenied):
            async with client.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", port):
                pytest.fail("no port could be chosen")
        for _ in range(2):
            async with client.forward_from_remote_port("localhost", port, "127.0.0.1", port):
                forwarded = await server.wait_for_forwarded_port(port)
                assert (forwarded.local, forwarded.remote_port) == (None, port)
                assert await ask(await server.connect_to_forwarded_port(port)) == b"HELLO!"
            await wait_for(lambda: not server.forwarding.remote_ports)
        with pytest.raises(anyssh.LocalProtocolError, match="not being forwarded"):
            await server.connect_to_forwarded_port(port)


async def test_waiting_for_a_port() -> None:
    async with pair() as (client, server), anyio.create_task_group() as tasks:
        waiting = Call(tasks, lambda: server.wait_for_forwarded_port(4712))
        async with client.stream_from_remote_port("localhost", 4712) as listener:
            forwarded = await waiting.result()
            assert forwarded.remote_port == 4712
            stream, accepted = await at_once(
                server.connect_to_forwarded_port(4712), listener.accept()
            )
            assert accepted.extra(SocketAttribute.local_port) == 4712
            await stream.send(b"x")
            assert await accepted.receive() == b"x"
            await accepted.aclose()
        other = Call(tasks, lambda: server.wait_for_forwarded_port(4713))
        await client.aclose()
        with pytest.raises(anyssh.SSHError):
            await other.result()


async def test_collections_and_facts() -> None:
    """PFW-24."""
    async with service() as port, pair() as (client, server):
        async with client.forward_from_remote_port("localhost", 0, "127.0.0.1", port) as forward:
            number = forward.remote_port
            stream = await anyio.connect_tcp("127.0.0.1", number or 0)
            await stream.send(b"x")
            (ours,), (theirs,) = client.forwarding.local_ports, server.forwarding.remote_ports
            assert client.forwarding.remote_ports == server.forwarding.local_ports == ()
            await wait_for(lambda: bool(ours.channels and theirs.channels))
            assert (str(ours), str(theirs)) == (f"{port}<-{number}", f"{number}->{number}")
            assert ours.channels[0] is client.channels[0]
            assert theirs.channels[0] is server.channels[0]
            channels = ours.channels[0], theirs.channels[0]
            assert await ask(stream) == b"XHELLO!"
            await wait_for(lambda: not (ours.channels or theirs.channels))
        assert client.forwarding.local_ports == ()
        await wait_for(lambda: not server.forwarding.remote_ports)
        for session, forwarded, channel in (
            (client, ours, channels[0]),
            (server, theirs, channels[1]),
        ):
            facts = []
            async for fact in session.events():
                facts.append(fact)
                if isinstance(fact, anyssh.ForwardedPortRemoved):
                    break
            assert facts[1:] == [
                anyssh.ForwardedPortAdded(forwarded),
                anyssh.ForwardedChannelAdded(forwarded, channel),
                anyssh.ForwardedChannelRemoved(forwarded, channel),
                anyssh.ForwardedPortRemoved(forwarded),
            ]


# Sockets in the file system


async def test_sockets(tmp_path: Path) -> None:
    near, far, back = (anyssh.UnixEndpoint(str(tmp_path / name)) for name in ("n", "f", "b"))
    async with (
        await anyio.create_unix_listener(far.path) as listener,
        anyio.create_task_group() as tasks,
        pair() as (client, _),
    ):
        tasks.start_soon(listener.serve, shout)
        async with (
            client.forward_to_remote(near, far),
            client.forward_from_remote(back, far) as forward,
            client.forward_to_remote(anyssh.TcpEndpoint("127.0.0.1", 0), far) as mixed,
        ):
            assert forward.remote_port is None
            for path in (near.path, back.path):
                assert stat.S_IMODE((await anyio.Path(path).stat()).st_mode) == 0o600
                assert await ask(await anyio.connect_unix(path)) == b"HELLO!"
            assert await ask_port(mixed.local_port) == b"HELLO!"
            assert await ask(await client.stream_to_remote(far)) == b"HELLO!"
            # What is there already stays whose it is.
            with pytest.raises(OSError, match="in use"):
                async with client.forward_to_remote(far, near):
                    pytest.fail("a socket was taken over")
            with pytest.raises(anyssh.RequestDenied):
                async with client.forward_from_remote(far, near):
                    pytest.fail("a socket was taken over")
        assert not await anyio.Path(near.path).exists()
        await wait_until_gone(back.path)
        tasks.cancel_scope.cancel()


async def wait_until_gone(path: str) -> None:
    with anyio.fail_after(LIMIT):
        while await anyio.Path(path).exists():  # noqa: ASYNC110
            await anyio.sleep(0.01)


# Ways through


async def test_a_session_inside_a_session() -> None:
    """ProxyJump in one line; PFW-30."""
    inner_server = server_of()
    async with (
        service(handler=partial(serve_one, inner_server)) as port,
        pair() as (client, _),
        client_of(client.connectable("127.0.0.1", port)) as inner,
    ):
        await echoes(inner)


async def serve_one(server: anyssh.Server, stream: ByteStream) -> None:
    async with server.accept(stream) as session:
        await session.serve(echo)


async def test_a_server_on_ports_of_the_peer() -> None:
    """A whole SSH server behind a port of the peer, without a socket of its own."""
    async with (
        pair() as (client, _),
        client.stream_from_remote_port("localhost", 0) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(server_of().serve, listener, lambda session: session.serve(echo))
        stream = await anyio.connect_tcp("127.0.0.1", listener.remote_port or 0)
        async with client_of(stream) as visitor:
            await echoes(visitor)
        tasks.cancel_scope.cancel()


async def test_a_connectable_that_cannot_connect() -> None:
    async with pair(None) as (client, _):
        with pytest.raises(anyio.ConnectionFailed) as failure:
            await client.connectable("127.0.0.1", 9).connect()
        assert isinstance(failure.value, anyssh.ConnectFailed)
        assert isinstance(failure.value.__cause__, anyssh.ChannelOpenError)


async def test_a_server_ends_with_the_session_that_it_listens_through() -> None:
    async with (
        pair() as (client, far),
        client.stream_from_remote_port("localhost", 0) as listener,
        anyio.create_task_group() as tasks,
    ):
        serving = Call(tasks, lambda: server_of().serve(listener, lambda each: each.serve(echo)))
        async with client_of(await anyio.connect_tcp("127.0.0.1", listener.remote_port)) as inner:
            await echoes(inner)
        await far.aclose()
        await serving.result()
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await listener.accept()
        assert isinstance(caught.value.__cause__, anyssh.Disconnected)


# Sessions that reconnect


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_ports_and_connections_outlive_the_stream(direction: str) -> None:
    server = make_server(config=RECONNECTING, forwarding=ALL)
    data = bytes(range(256)) * 4096

    async def send(stream: ByteStream) -> None:
        for start in range(0, len(data), 65536):
            await stream.send(data[start : start + 65536])
            if start % 262144 == 0:
                network.cut()
        await stream.send_eof()

    with anyio.fail_after(3 * LIMIT):
        async with (
            service() as port,
            network_pair(server) as (network, client, _),
            forwarding(client, direction, port) as number,
            await anyio.connect_tcp("127.0.0.1", number) as stream,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(send, stream)
            assert b"".join([chunk async for chunk in stream]) == data.upper() + b"!"
            network.cut()
            assert await ask_port(number) == b"HELLO!"
            assert client.metrics.reconnections > 0


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_a_forward_can_be_left_while_there_is_no_stream(direction: str) -> None:
    server = make_server(config=RECONNECTING, forwarding=ALL)
    with anyio.fail_after(3 * LIMIT):
        async with (
            service() as port,
            network_pair(server, by_itself=False) as (network, client, session),
        ):
            async with forwarding(client, direction, port) as number:
                network.cut()
                await client.wait_disconnected()
            await client.reconnect(await network.connect())
            await wait_for(lambda: not session.forwarding.remote_ports)
            async with client.forward_from_remote_port(
                "127.0.0.1", number, "127.0.0.1", port
            ) as again:
                assert await ask_port(again.remote_port) == b"HELLO!"


# What the peer says and does at once


async def test_all_that_came_with_the_close_is_delivered_to_who_sends_meanwhile() -> None:
    """A target may answer and close before it has read what it was sent."""
    answer = b"no"
    async with (
        pair(ForwardingPolicy(passes_on=True)) as (client, server),
        forwarding(client, "to", 7) as number,
    ):
        stream = await anyio.connect_tcp("127.0.0.1", number)
        await stream.send(b"a question that nobody reads")
        async for opening in server.incoming_channels():
            with server.together():
                channel = opening.accept_nowait()
                assert channel.send_nowait(answer) == 2
                channel.close()
            break
        async with stream:
            received = b""
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    received += await stream.receive()
        assert received == answer


async def test_a_forward_in_a_session_that_was_cancelled_leaves_no_listener() -> None:
    """The services of the session have ended; its body has not seen the cancellation yet."""
    near, far = memory_stream_pair()
    async with nothing_left_behind(), anyio.create_task_group() as tasks:
        tasks.start_soon(run_end, server_of().accept(far))
        with anyio.CancelScope() as scope:
            async with client_of(near) as client:
                client.forwarding.start_soon(anyio.sleep_forever)
                await settle()
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    await settle()
                    with pytest.raises(anyssh.LocalProtocolError, match="was cancelled"):
                        async with client.forward_to_remote_port("127.0.0.1", 0, "localhost", 1):
                            pass
        tasks.cancel_scope.cancel()
