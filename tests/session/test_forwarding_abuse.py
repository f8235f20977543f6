"""Forwarding with greedy peers, applications that leave early, and both at once."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, Listener, SocketAttribute

import anyssh
from anyssh import ForwardingPolicy, TcpEndpoint, messages
from anyssh.forwarding import listening, relay
from anyssh.forwarding.turns import Turns
from anyssh.protocol import Role
from anyssh.protocol.events import ChannelOpened, ChannelOpenFailed, GlobalRequestReceived
from anyssh.testing import Direction, FaultStream, memory_stream_pair, session_pair

from .ends import Call
from .life_support import (
    LIMIT,
    RawPeer,
    client_of,
    fast,
    host_key,
    nothing_left_behind,
    settle,
    until_nobody_listens,
    wait_for,
)
from .test_cancellation import cancelled_everywhere
from .test_forwarding import ALL, ask, ask_port, assert_reset, forwarding, pair, service

REFUSED = anyssh.ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED
FAILED = anyssh.ChannelOpenFailureReason.CONNECT_FAILED


# Policies


class Spy:
    """Stands for the world that forwarding reaches out to."""

    def __init__(self) -> None:
        self.connected: list[Any] = []
        self.listened: list[Any] = []

    async def connect(self, endpoint: Any) -> ByteStream:
        self.connected.append(endpoint)
        raise OSError("a spy")

    async def listen(self, endpoint: Any) -> Any:
        self.listened.append(endpoint)
        return await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)

    def policy(self, **options: Any) -> ForwardingPolicy:
        return ForwardingPolicy(connector=self.connect, listener=self.listen, **options)


@pytest.mark.parametrize("side", ["client", "server"])
async def test_what_is_not_allowed_reaches_nothing(side: str) -> None:
    """HR-75, T-40, T-41."""
    spy = Spy()
    policy = spy.policy(connect_to=["db.example:5432"], listen_on=["localhost:*"])
    policies = {side: policy, "server" if side == "client" else "client": None}
    async with pair(**policies) as (client, server):
        peer = server if side == "client" else client
        for host, port in [
            ("db.example", 5433),
            ("other.example", 5432),
            ("127.0.0.1", 5432),
            ("169.254.169.254", 80),
            ("", 5432),
        ]:
            with pytest.raises(anyssh.ChannelOpenError) as refusal:
                await peer.stream_to_remote_port(host, port)
            assert refusal.value.reason == REFUSED
        for host, port in [("0.0.0.0", 8080), ("localhost", 80), ("192.0.2.1", 8080), ("::", 0)]:
            # Not by the words that every family takes: those may be narrowed.
            reply = await peer.request("tcpip-forward", messages.TcpipForward(host, port).encode())
            assert not reply
        assert (spy.connected, spy.listened) == ([], [])
        with pytest.raises(anyssh.ChannelOpenError) as refusal:
            await peer.stream_to_remote_port("db.example", 5432)
        assert refusal.value.reason == FAILED
        assert spy.connected == [TcpEndpoint("db.example", 5432)]


OTHER_NAMES_OF_THIS_MACHINE = [
    "127.1",
    "2130706433",
    "0x7f000001",
    "0",
    "0177.0.0.1",
    "::1%1",
    "127.0.0.1%lo",
    "\uff11\uff12\uff17.0.0.1",  # digits of full width
    "\u24dbocalhost",  # a letter in a circle
]


async def test_a_name_does_not_lead_to_this_machine() -> None:
    """HR-75, T-40."""
    async with service() as port, pair(ForwardingPolicy(connect_to=["*:*"])) as (client, _):
        for name in OTHER_NAMES_OF_THIS_MACHINE:
            with pytest.raises(anyssh.ChannelOpenError) as refusal:
                await client.stream_to_remote_port(name, port)
            assert refusal.value.reason == REFUSED


async def test_a_peer_that_leaves_the_address_to_us_may_get_loopback() -> None:
    spy = Spy()
    policy = spy.policy(listen_on=["localhost:*"])
    async with pair(policy) as (client, server):
        async with client.stream_from_remote_port("", 8080) as listener:
            assert listener.remote_port == 8080
            (forwarded,) = server.forwarding.remote_ports
            assert forwarded.remote == TcpEndpoint("", 8080)
        assert spy.listened == [TcpEndpoint("localhost", 8080)]


async def test_the_application_decides() -> None:
    """HR-75: an exception is no, and so is all else that is not True."""
    asked: list[anyssh.ForwardingRequest] = []

    async def decide(request: anyssh.ForwardingRequest) -> bool:
        asked.append(request)
        match request.endpoint:
            case TcpEndpoint(port=number) if number == port:
                return True
            case TcpEndpoint(port=1):
                raise ValueError("a bug")
            case TcpEndpoint(port=2):
                return 1  # type: ignore[return-value]  # only True is yes
        return False

    async with service() as port, pair(ForwardingPolicy(decide=decide)) as (client, server):
        assert await ask(await client.stream_to_remote_port("127.0.0.1", port)) == b"HELLO!"
        for number in (1, 2, 3):
            with pytest.raises(anyssh.ChannelOpenError) as refusal:
                await client.stream_to_remote_port("127.0.0.1", number)
            assert refusal.value.reason == REFUSED
            with pytest.raises(anyssh.RequestDenied):
                async with client.stream_from_remote_port("127.0.0.1", number):
                    pytest.fail("the peer listens")
        actions = [request.action for request in asked]
        assert actions[:3] == [
            anyssh.ForwardingAction.CONNECT,
            anyssh.ForwardingAction.CONNECT,
            anyssh.ForwardingAction.LISTEN,
        ]
        assert asked[0].session is server
        assert asked[0].session.principal == "test"


async def test_what_an_application_puts_behind_is_shown_to_who_decides() -> None:
    """PFW-27: peers of the Dev Tunnels family append tokens, for example."""
    asked: list[bytes] = []

    async def decide(request: anyssh.ForwardingRequest) -> bool:
        asked.append(request.extra)
        assert b"token" not in repr(request).encode()
        return request.extra == b"token"

    async with service() as port, pair(ForwardingPolicy(decide=decide)) as (client, _):
        payload = messages.DirectTcpip("127.0.0.1", port, "", 0).encode()
        stream = await client.open_channel("direct-tcpip", payload=payload + b"token")
        assert await ask(stream) == b"HELLO!"
        assert await client.request(*listen("127.0.0.1", 0)[:1], listen("", 0)[1] + b"token")
        assert not await client.request(*listen("127.0.0.1", 0))
        assert asked == [b"token", b"token", b""]


async def test_a_decision_that_does_not_come_is_no() -> None:
    """HR-75."""

    async def decide(request: anyssh.ForwardingRequest) -> bool:
        await anyio.sleep_forever()
        return True

    limits = anyssh.Limits(close_time=0.3, handler_time=0.1)
    async with session_pair(
        client_config=fast(),
        server_config=fast(limits),
        host_key=host_key(),
        server_forwarding=ForwardingPolicy(decide=decide),
    ) as (client, _):
        with anyio.fail_after(LIMIT), pytest.raises(anyssh.ChannelOpenError):
            await client.stream_to_remote_port("127.0.0.1", 1)


async def test_a_target_that_does_not_answer() -> None:
    """HR-75."""

    async def connect(endpoint: Any) -> ByteStream:
        await anyio.sleep_forever()
        raise AssertionError

    policy = ForwardingPolicy(connect_to=["*:*"], connector=connect, connect_time=0.1)
    async with pair(policy) as (client, _):
        with pytest.raises(anyssh.ChannelOpenError, match="timed out"):
            await client.stream_to_remote_port("example.com", 1)


async def test_names_that_nobody_resolves_occupy_few_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HR-75: the threads are shared with other sessions, and a lookup cannot be interrupted."""
    lookups = 0
    may_end = anyio.Event()

    async def look_up(host: str, port: int) -> Any:
        nonlocal lookups
        lookups += 1
        await may_end.wait()
        raise OSError("no such host")

    monkeypatch.setattr(anyio, "getaddrinfo", look_up)
    async with pair(ForwardingPolicy(connect_to=["*:*"], connect_time=0.05)) as (client, _):

        async def ask(host: str, words: str) -> None:
            with anyio.fail_after(LIMIT), pytest.raises(anyssh.ChannelOpenError, match=words):
                await client.stream_to_remote_port(host, 1)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(ask, f"{number}.example.com", "timed out")
        assert lookups == 2, "nobody waits for them any more, but they go on"
        may_end.set()
        await ask("another.example.com", "connection failed")
        assert lookups == 3


async def test_how_many_listeners_a_session_may_have() -> None:
    """HR-76, T-41."""
    spy = Spy()
    policy = spy.policy(listen_on=["localhost:*"], listeners=32)
    async with pair(policy) as (client, server):
        for port in range(5000, 5032):
            assert await client.request(*listen("localhost", port))
        assert not await client.request(*listen("localhost", 5032))
        assert await client.request(*cancel("localhost", 5000))
        assert await client.request(*listen("localhost", 5032))
        assert len(server.forwarding.remote_ports) == 32


def listen(host: str, port: int) -> tuple[str, bytes]:
    return "tcpip-forward", messages.TcpipForward(host, port).encode()


def cancel(host: str, port: int) -> tuple[str, bytes]:
    return "cancel-tcpip-forward", messages.TcpipForward(host, port).encode()


async def test_raw_requests_to_listen() -> None:
    """HR-76, PFW-09, PFW-12: duplicates are refused, cancelling counts once and is exact."""
    async with pair() as (client, server):
        reply = await client.request(*listen("127.0.0.1", 0))
        port = int.from_bytes(reply.payload, "big")
        assert port
        assert not await client.request(*listen("127.0.0.1", port))
        assert not await client.request(*listen("", port))
        # The same port of another address is another port.
        assert await client.request(*listen("127.0.0.2", port))
        assert len(server.forwarding.remote_ports) == 2
        assert await client.request(*cancel("127.0.0.2", port))
        assert not await client.request(*cancel("127.0.0.1", port + 1))
        # Some peers name the address otherwise when they cancel.
        assert await client.request(*cancel("localhost", port))
        assert not await client.request(*cancel("127.0.0.1", port))
        assert server.forwarding.remote_ports == ()
        assert await client.request(*listen("127.0.0.1", port))


async def test_requests_at_once_are_handled_in_order() -> None:
    """Listen, listen no more, and again: each finds what those before it left."""
    answers: dict[int, bool] = {}
    async with service() as port:
        pass

    async def request(number: int, name: str, payload: bytes) -> None:
        answers[number] = bool(await client.request(name, payload))

    async with pair() as (client, _):
        async with anyio.create_task_group() as tasks:
            for number in range(6):
                what = cancel if number % 2 else listen
                tasks.start_soon(request, number, *what("127.0.0.1", port))
                await anyio.wait_all_tasks_blocked()
        assert [answers[number] for number in range(6)] == [True] * 6


async def test_two_forwards_of_one_port() -> None:
    """PFW-11: exactly one wins."""
    outcomes: list[str] = []

    async def forward() -> None:
        try:
            async with client.forward_from_remote_port("localhost", port, "127.0.0.1", 9):
                outcomes.append("won")
                await wait_for(lambda: len(outcomes) == 2)
        except anyssh.SSHError:
            outcomes.append("lost")

    async with service() as port:
        pass
    async with pair() as (client, _), anyio.create_task_group() as tasks:
        tasks.start_soon(forward)
        tasks.start_soon(forward)
    assert sorted(outcomes) == ["lost", "won"]


# Malformed payloads

MALFORMED = [
    b"",
    b"\0",
    b"\0\0\0\x05abc",
    b"\xff\xff\xff\xff",
    messages.DirectTcpip("example.com", 70000, "", 0).encode(),
    messages.DirectTcpip("example.com", 80, "127.0.0.1", 70000).encode(),
    messages.DirectTcpip("x" * 300, 80, "", 0).encode(),
    messages.DirectTcpip("a\nb", 80, "", 0).encode(),
    messages.DirectTcpip("a\0b", 80, "", 0).encode(),
    messages.DirectStreamLocal("relative").encode(),
    messages.DirectStreamLocal("/a\0b").encode(),
]


@pytest.mark.parametrize("payload", MALFORMED, ids=range(len(MALFORMED)))
async def test_malformed_payloads_are_refused(payload: bytes) -> None:
    spy = Spy()
    async with service() as port, pair(spy.policy(decide=always)) as (client, _):
        for channel_type in (
            "direct-tcpip",
            "forwarded-tcpip",
            "direct-streamlocal@openssh.com",
            "forwarded-streamlocal@openssh.com",
        ):
            with pytest.raises(anyssh.ChannelOpenError) as refusal:
                await client.open_channel(channel_type, payload=payload)
            assert refusal.value.reason == FAILED
        assert (spy.connected, spy.listened) == ([], [])
        assert await ask_port(port) == b"HELLO!"


@pytest.mark.parametrize(
    "payload",
    [
        *MALFORMED[:4],
        messages.TcpipForward("localhost", 70000).encode(),
        messages.TcpipForward("x" * 300, 8080).encode(),
        messages.TcpipForward("a\nb", 8080).encode(),
        messages.TcpipForward("\0", 8080).encode(),
    ],
)
async def test_malformed_requests_are_refused(payload: bytes) -> None:
    spy = Spy()
    async with pair(spy.policy(decide=always)) as (client, _):
        for name in (
            "tcpip-forward",
            "cancel-tcpip-forward",
            "streamlocal-forward@openssh.com",
            "cancel-streamlocal-forward@openssh.com",
        ):
            assert not await client.request(name, payload)
        for path in ("relative", "", "/a\0b"):
            socket_path = messages.StreamLocalForward(path).encode()
            assert not await client.request("streamlocal-forward@openssh.com", socket_path)
        assert spy.listened == []
        assert await client.request(*listen("localhost", 0))


async def always(request: anyssh.ForwardingRequest) -> bool:
    return True


@pytest.mark.parametrize("host", ["a b", "xn--\u00ff", "." * 70, "\u0130" * 80, "[::1]", "::g"])
async def test_hosts_that_no_lookup_takes(host: str) -> None:
    async with pair(ForwardingPolicy(decide=always)) as (client, _):
        with pytest.raises(anyssh.ChannelOpenError):
            await client.stream_to_remote_port(host, 9)


async def test_what_was_not_asked_for_is_refused() -> None:
    """HR-77, in both roles, for ports and sockets."""
    async with pair(ALL, ALL) as (client, server):
        for session in (client, server):
            for endpoint in (TcpEndpoint("localhost", 8080), anyssh.UnixEndpoint("/tmp/x")):
                with pytest.raises(anyssh.ChannelOpenError, match="not requested"):
                    await session.forwarding.open(forwarded(), endpoint, None)


async def test_another_port_than_was_asked_for_is_refused() -> None:
    """HR-77."""
    async with (
        pair(ALL, ALL) as (client, server),
        client.stream_from_remote_port("127.0.0.1", 0) as listener,
    ):
        other = TcpEndpoint("127.0.0.1", listener.remote_port ^ 1)
        with pytest.raises(anyssh.ChannelOpenError, match="not requested"):
            await server.forwarding.open(forwarded(), other, None)


def forwarded() -> Any:
    from anyssh.forwarding.payloads import Way

    return Way.FORWARDED


# A peer that is faster than its replies


class Listening(RawPeer):
    """A server that says yes to a request to listen, at a moment of the test's choice."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, Role.SERVER)

    async def request(self) -> Any:
        def came() -> Any:
            found = [event for event in self.events if isinstance(event, GlobalRequestReceived)]
            return found[-1].request if found else None

        await self.until(lambda: came() is not None)
        return came()

    def open(self, port: int) -> None:
        payload = messages.ForwardedTcpip("127.0.0.1", port, "192.0.2.1", 5).encode()
        self.connection.open_channel("forwarded-tcpip", payload)

    def outcomes(self) -> list[Any]:
        return [
            event for event in self.events if isinstance(event, ChannelOpened | ChannelOpenFailed)
        ]


@asynccontextmanager
async def raw_server() -> AsyncIterator[tuple[anyssh.ClientSession, Listening, Any]]:
    near, far = memory_stream_pair()
    peer = Listening(far)
    async with anyio.create_task_group() as tasks:

        async def prepare() -> None:
            await peer.until(lambda: peer.core.is_running)
            await peer.flush()

        tasks.start_soon(prepare)
        async with client_of(near) as client:
            with anyio.fail_after(LIMIT):
                yield client, peer, tasks
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("asked", [0, 4711])
@pytest.mark.parametrize("order", ["open first", "reply first"])
async def test_early_connections_are_not_lost(asked: int, order: str) -> None:
    """Reply and connection in one write, in either order (PFW-17)."""
    async with raw_server() as (client, peer, tasks):

        async def serve() -> None:
            request = await peer.request()
            if order == "open first":
                peer.open(4711)
            peer.connection.answer(request, True, (4711).to_bytes(4, "big"))
            if order == "reply first":
                peer.open(4711)
            await peer.flush()
            await peer.until(lambda: bool(peer.outcomes()))
            await peer.serve_reads()

        tasks.start_soon(serve)
        async with client.stream_from_remote_port("127.0.0.1", asked) as listener:
            assert listener.remote_port == 4711
            channel = await listener.accept()
            assert channel.extra(SocketAttribute.remote_address) == ("192.0.2.1", 5)
            await wait_for(lambda: bool(peer.outcomes()))
            assert isinstance(peer.outcomes()[0], ChannelOpened)


@pytest.mark.parametrize("granted", [True, False])
async def test_a_connection_for_nobody_waits_only_for_the_reply(granted: bool) -> None:
    async with raw_server() as (client, peer, tasks):

        async def serve() -> None:
            request = await peer.request()
            peer.open(4712)
            peer.connection.answer(request, granted, (4711).to_bytes(4, "big"))
            await peer.flush()
            await peer.until(lambda: bool(peer.outcomes()))

        tasks.start_soon(serve)
        with suppress(anyssh.RequestDenied):
            async with client.stream_from_remote_port("127.0.0.1", 0):
                await wait_for(lambda: bool(peer.outcomes()))
        await wait_for(lambda: bool(peer.outcomes()))
        assert isinstance(peer.outcomes()[0], ChannelOpenFailed)


@pytest.mark.parametrize("asked", [0, 4711])
async def test_who_leaves_before_the_reply_leaves_nothing_behind(asked: int) -> None:
    """The peer is told to listen no more once it has agreed, and only then."""

    async def ask_for_it(client: anyssh.ClientSession) -> None:
        async with client.stream_from_remote_port("127.0.0.1", asked):
            pytest.fail("there was no reply")

    async with raw_server() as (client, peer, _):
        async with anyio.create_task_group() as asking:
            asking.start_soon(ask_for_it, client)
            request = await peer.request()
            asking.cancel_scope.cancel()
        peer.connection.answer(request, True, (4711).to_bytes(4, "big"))
        count = len(peer.events)
        await peer.flush()
        await peer.until(lambda: len(peer.events) > count)
        last = await peer.request()
        assert last.name == "cancel-tcpip-forward"
        assert messages.TcpipForward.decode(last.payload).port == 4711
        assert client.forwarding.local_ports == ()


@pytest.mark.parametrize("payload", [b"", b"\0\0\0\0", b"\0\0", (70000).to_bytes(4, "big")])
async def test_a_reply_without_a_port(payload: bytes) -> None:
    """One that was asked for need not be named; one that was not must be."""
    for asked in (0, 4711):
        async with raw_server() as (client, peer, tasks):

            async def serve(peer: Listening = peer) -> None:
                peer.connection.answer(await peer.request(), True, payload)
                await peer.serve_reads()

            tasks.start_soon(serve)
            is_good = asked != 0 and payload in (b"", b"\0\0\0\0")
            try:
                async with client.stream_from_remote_port("127.0.0.1", asked) as listener:
                    assert (is_good, listener.remote_port) == (True, 4711)
            except anyssh.SSHError:
                assert not is_good


# Ends


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("direction", ["to", "from"])
async def test_the_end_of_the_session_ends_everything(who: str, direction: str) -> None:
    """HR-76, PFW-10: connections are reset, listeners closed, and the body goes on."""
    async with (
        nothing_left_behind(),
        service(handler=hold) as port,
        pair() as (client, server),
        forwarding(client, direction, port) as number,
    ):
        stream = await anyio.connect_tcp("127.0.0.1", number)
        await stream.receive()
        await (client if who == "client" else server).aclose()
        await assert_reset(stream)
        await until_nobody_listens(number)


async def hold(stream: ByteStream) -> None:
    async with stream:
        await stream.send(b"hello")
        await stream.receive()


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_leaving_a_forward_ends_its_connections(direction: str) -> None:
    async with service(handler=hold) as port, pair() as (client, server):
        async with forwarding(client, direction, port) as number:
            stream = await anyio.connect_tcp("127.0.0.1", number)
            await stream.receive()
        await assert_reset(stream)
        await until_nobody_listens(number)
        await wait_for(lambda: client.channels == server.channels == ())


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_connections_survive_that_listening_stops(direction: str) -> None:
    async with service() as port, pair() as (client, _):
        if direction == "to":
            forward: Any = client.forward_to_remote_port("127.0.0.1", 0, "127.0.0.1", port)
        else:
            forward = client.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", port)
        async with forward:
            number = forward.local_port if direction == "to" else forward.remote_port
            stream = await anyio.connect_tcp("127.0.0.1", number)
            await stream.send(b"before ")
            await wait_for(lambda: bool(client.channels))
            await forward.stop_listening()
            await forward.stop_listening()
            await until_nobody_listens(number)
            assert await ask(stream, b"after") == b"BEFORE AFTER!"


async def test_who_leaves_does_not_wait_for_a_peer_that_does_not_read() -> None:
    """Cancelled or not; the peer is told once it reads again."""
    faulty: list[FaultStream] = []

    def wrap(inner: Any) -> FaultStream:
        faulty.append(FaultStream(inner))
        return faulty[0]

    async with session_pair(
        client_config=fast(anyssh.Limits(pending_output=1024, close_time=0.05)),
        server_config=fast(),
        host_key=host_key(),
        client_stream=wrap,
        server_forwarding=ALL,
    ) as (client, server):
        with anyio.fail_after(LIMIT):
            async with client.stream_from_remote_port("127.0.0.1", 0):
                assert len(server.forwarding.remote_ports) == 1
                faulty[0].stall(Direction.SEND)
                while client._core.room > 0:
                    await client.request("news", bytes(1024), want_reply=False)
                    await settle()
            faulty[0].release()
            await wait_for(lambda: server.forwarding.remote_ports == ())


async def test_who_never_entered_need_not_stop() -> None:
    async with pair() as (client, _):
        with anyio.fail_after(LIMIT):
            await client.forward_to_remote_port("127.0.0.1", 0, "127.0.0.1", 9).stop_listening()
            await client.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", 9).stop_listening()


async def test_a_forward_is_entered_once() -> None:
    async with pair() as (client, _):
        for forward in (
            client.forward_to_remote_port("127.0.0.1", 0, "127.0.0.1", 9),
            client.stream_from_remote_port("127.0.0.1", 0),
        ):
            async with forward:
                pass
            with pytest.raises(RuntimeError, match=r"once|already"):
                async with forward:
                    pytest.fail("entered twice")


async def test_an_exception_of_the_body_leaves_bare() -> None:
    async with pair() as (client, _):
        for forward in (
            client.forward_to_remote_port("127.0.0.1", 0, "127.0.0.1", 9),
            client.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", 9),
            client.stream_from_remote_port("127.0.0.1", 0),
        ):
            with pytest.raises(KeyError):
                async with forward:
                    raise KeyError


@pytest.mark.parametrize("kind", ["forward to", "stream from"])
async def test_what_could_not_be_entered_has_nothing_to_stop(kind: str) -> None:
    async with pair() as (client, server):
        if kind == "forward to":
            forward: Any = client.forward_to_remote_port("127.0.0.1", 0, "127.0.0.1", 9)
        else:
            forward = client.stream_from_remote_port("127.0.0.1", 0)
        await server.aclose()
        await client.wait_closed()
        with pytest.raises(anyssh.Disconnected):
            async with forward:
                pass
        with anyio.fail_after(LIMIT):
            await forward.stop_listening()


async def test_a_listener_that_is_left_takes_no_more() -> None:
    async with pair() as (client, server):
        listener = client.stream_from_remote_port("localhost", 4714)
        with pytest.raises(anyssh.LocalProtocolError, match="entered"):
            await listener.accept()
        async with anyio.create_task_group() as tasks:
            async with listener:
                late = Call(tasks, lambda: server.connect_to_forwarded_port(4714))
                await settle()
                assert not late.is_done
            with pytest.raises(anyssh.ChannelOpenError):
                await late.result()
        with pytest.raises(anyio.ClosedResourceError):
            await listener.accept()
        with pytest.raises(anyio.ClosedResourceError):
            await listener.serve(anyio.aclose_forcefully)


# Cancellation


@pytest.mark.parametrize(
    "kind",
    [
        "forward to",
        "forward from",
        "stream from",
        "stream to",
        "socks",
        "socks from",
        "connected",
    ],
)
async def test_cancelled_at_every_turn(kind: str) -> None:
    """Nothing is left listening or open at either side, and the session is as good as before."""
    async with service() as port, pair(ALL, ALL) as (client, server):

        async def operation() -> None:
            match kind:
                case "forward to":
                    async with client.forward_to_remote_port("127.0.0.1", 0, "127.0.0.1", port):
                        pass
                case "forward from":
                    async with client.forward_from_remote_port("", 0, "127.0.0.1", port):
                        pass
                case "stream from":
                    async with client.stream_from_remote_port("localhost", 0):
                        pass
                case "stream to":
                    await (await client.stream_to_remote_port("127.0.0.1", port)).aclose()
                case "socks":
                    async with client.forward_socks():
                        pass
                case "socks from":
                    async with client.forward_socks_from_remote_port():
                        pass
                case _:
                    async with client.forward_to_remote_port(
                        "127.0.0.1", 0, "127.0.0.1", port
                    ) as forward:
                        await ask_port(forward.local_port)

        async def check(completed: bool, result: object) -> None:
            await wait_for(
                lambda: (
                    server.forwarding.remote_ports == client.forwarding.local_ports == ()
                    and client.channels == server.channels == ()
                )
            )

        await cancelled_everywhere(operation, check)
        assert await ask(await client.stream_to_remote_port("127.0.0.1", port)) == b"HELLO!"


async def test_nothing_is_left_behind() -> None:
    async with nothing_left_behind(), service() as port, pair() as (client, server):
        for direction in ("to", "from"):
            async with forwarding(client, direction, port) as number:
                for _ in range(20):
                    assert await ask_port(number) == b"HELLO!"
                # Some who do not wait for an answer, and some who are rude.
                for linger in (False, True) * 10:
                    stream = await anyio.connect_tcp("127.0.0.1", number)
                    if linger:
                        raw = stream.extra(SocketAttribute.raw_socket)
                        now = struct.pack("ii", 1, 0)
                        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
                    await anyio.aclose_forcefully(stream)
        await wait_for(lambda: client.channels == server.channels == ())


async def test_forwarding_and_closing_race() -> None:
    """PFW-32."""
    async with service() as port, pair() as (client, server):

        async def come_and_go(turns: int) -> None:
            with anyio.move_on_after(0.001 * turns):
                async with client.forward_from_remote_port(
                    "127.0.0.1", 0, "127.0.0.1", port
                ) as forward:
                    await ask_port(forward.remote_port)

        async with anyio.create_task_group() as tasks:
            for turns in range(30):
                tasks.start_soon(come_and_go, turns)
        await wait_for(lambda: server.forwarding.remote_ports == ())
        assert await ask(await client.stream_to_remote_port("127.0.0.1", port)) == b"HELLO!"


async def test_forwards_that_live_at_the_end_of_the_session() -> None:
    """Closing the session under forwards that come and go leaves nothing (PFW-31, PFW-32)."""
    for turns in range(0, 40, 4):
        async with nothing_left_behind(), service() as port, pair() as (client, server):

            async def forward(client: anyssh.ClientSession = client, port: int = port) -> None:
                # uvloop has an error of its own for ending a direction of what was reset.
                with suppress(anyssh.SSHError, OSError, anyio.BrokenResourceError, RuntimeError):
                    async with client.forward_from_remote_port(
                        "127.0.0.1", 0, "127.0.0.1", port
                    ) as there:
                        await ask_port(there.remote_port)

            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(forward)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                await server.aclose()


# Bounds


class Undecided:
    """A policy of a peer that does not answer yet; counts what it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self._may_answer = anyio.Event()
        self.policy = ForwardingPolicy(decide=self._decide, listen_on=["localhost:*"])

    async def _decide(self, request: anyssh.ForwardingRequest) -> bool:
        if request.action is anyssh.ForwardingAction.CONNECT:
            self.asked += 1
            await self._may_answer.wait()
        return True

    def answer(self) -> None:
        self._may_answer.set()


@asynccontextmanager
async def slow_forward(
    kind: str, ours: ForwardingPolicy, port: int
) -> AsyncIterator[tuple[anyssh.LocalForward, Undecided]]:
    """Give a forward to a port, whose peer does not answer yet."""
    peer = Undecided()

    async def factory(endpoint: Any) -> Any:
        inner = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        return Lent(inner)

    async def hook(connection: anyssh.ForwardedConnection) -> ByteStream:
        return connection.stream

    options = {"socket": {}, "hook": {"connecting": hook}, "factory": {"listener": factory}}[kind]
    async with pair(peer.policy, ours) as (client, _):
        forward = client.forward_to_remote_port("127.0.0.1", 0, "127.0.0.1", port, **options)
        async with forward:
            yield forward, peer


class Lent(Listener[ByteStream]):
    """Accepts when it likes, unlike a socket of our own."""

    def __init__(self, inner: Listener[Any]) -> None:
        self._inner = inner

    async def serve(self, handler: Any, task_group: Any = None) -> None:
        await self._inner.serve(handler, task_group)

    async def aclose(self) -> None:
        await self._inner.aclose()

    @property
    def extra_attributes(self) -> Any:
        return self._inner.extra_attributes


KINDS = ["socket", "hook", "factory"]


@pytest.mark.parametrize("kind", KINDS)
async def test_connections_that_wait_are_bounded(kind: str) -> None:
    """HR-76: those beyond the limit wait for their turn, and nobody is reset."""
    ours = ForwardingPolicy(pending_connections=3)
    async with service() as port, slow_forward(kind, ours, port) as (forward, peer):
        number = forward.local_port
        streams = [await anyio.connect_tcp("127.0.0.1", number) for _ in range(8)]
        await wait_for(lambda: peer.asked == 3)
        await settle()
        assert peer.asked == 3
        peer.answer()
        for stream in streams:
            assert await ask(stream) == b"HELLO!"
        assert await ask_port(number) == b"HELLO!"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_burst_of_connections_is_served(kind: str) -> None:
    """HR-76: more of them at once than may wait for the peer, or with it (HR-50)."""
    async with service() as port, slow_forward(kind, ForwardingPolicy(), port) as (forward, peer):
        answers: list[bytes] = []

        async def come() -> None:
            answers.append(await ask_port(forward.local_port))

        async with anyio.create_task_group() as tasks:
            for _ in range(300):
                tasks.start_soon(come)
            await wait_for(lambda: peer.asked == 64)
            peer.answer()
        assert answers == [b"HELLO!"] * 300


@pytest.mark.parametrize("kind", KINDS)
async def test_who_was_accepted_is_served_though_nobody_listens_any_more(kind: str) -> None:
    ours = ForwardingPolicy(pending_connections=1)
    async with service() as port, slow_forward(kind, ours, port) as (forward, peer):
        stream = await anyio.connect_tcp("127.0.0.1", forward.local_port)
        await wait_for(lambda: peer.asked == 1)
        others = []
        if kind == "factory":  # sockets of our own accept nobody else
            others = [await anyio.connect_tcp("127.0.0.1", forward.local_port) for _ in range(3)]
            await settle()
        await forward.stop_listening()
        peer.answer()
        for each in (stream, *others):
            assert await ask(each) == b"HELLO!"


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_left_of_who_waits_for_his_turn(kind: str) -> None:
    ours = ForwardingPolicy(pending_connections=1)
    async with nothing_left_behind(), service() as port:
        async with slow_forward(kind, ours, port) as (forward, peer):
            streams = [await anyio.connect_tcp("127.0.0.1", forward.local_port) for _ in range(5)]
            await wait_for(lambda: peer.asked == 1)
        for stream in streams:
            await assert_reset(stream)


def test_somebody_must_be_able_to_wait() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ForwardingPolicy(pending_connections=0)


async def test_too_many_in_line_are_reset(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """HR-76: a listener that accepts without asking is bounded, too."""
    monkeypatch.setattr("anyssh.forwarding.turns.MAX_QUEUED", 2)
    ours = ForwardingPolicy(pending_connections=1)
    async with service() as port, slow_forward("factory", ours, port) as (forward, peer):
        streams = [await anyio.connect_tcp("127.0.0.1", forward.local_port) for _ in range(3)]
        await wait_for(lambda: peer.asked == 1)
        await settle()
        await assert_reset(await anyio.connect_tcp("127.0.0.1", forward.local_port))
        assert "2 connections queued" in caplog.text
        peer.answer()
        for stream in streams:
            assert await ask(stream) == b"HELLO!"


@pytest.mark.parametrize("has_epoll", [True, False])
async def test_who_waits_to_be_accepted_costs_no_turn_of_the_event_loop(
    has_epoll: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_epoll:
        monkeypatch.delattr(select, "epoll", raising=False)
    woken = 0
    socket_ready = listening.Accepting.socket_ready

    def count(accepting: listening.Accepting, ready: int) -> None:
        nonlocal woken
        woken += 1
        socket_ready(accepting, ready)

    monkeypatch.setattr(listening.Accepting, "socket_ready", count)
    ours = ForwardingPolicy(pending_connections=1)
    async with service() as port, slow_forward("socket", ours, port) as (forward, peer):
        streams = [await anyio.connect_tcp("127.0.0.1", forward.local_port) for _ in range(3)]
        await wait_for(lambda: peer.asked == 1)
        before = woken
        await settle()
        assert woken == before
        peer.answer()
        for stream in streams:
            assert await ask(stream) == b"HELLO!"


async def test_a_turn_goes_on_when_its_taker_has_left() -> None:
    """Whoever is cancelled as he is called leaves the turn to the next, or to the listener."""
    few = Turns(1)
    told: list[str] = []
    async with anyio.create_task_group() as tasks, few.turn():
        first, second = (Call(tasks, lambda: take_a_turn(few, told)) for _ in range(2))
        await settle()
        few.tell_when_free(lambda: told.append("free"))
        first.scope.cancel()
        few.give_back()
        assert told == []
        await second.done.wait()
        assert told == ["turn", "free"]
        few.take_nowait()
    assert few.free == 1


async def take_a_turn(few: Turns, told: list[str]) -> None:
    async with few.turn():
        told.append("turn")


@pytest.mark.trio
async def test_a_connection_without_a_byte_ends(autojump_clock: object) -> None:
    """HR-78."""
    near, far = memory_stream_pair()

    async def connector(endpoint: anyssh.Endpoint) -> ByteStream:
        return near

    policy = ForwardingPolicy(connect_to=["localhost:*"], connector=connector, idle_time=2)
    async with pair(policy) as (client, server):
        stream = await client.stream_to_remote_port("localhost", 1)
        for _ in range(4):
            await stream.send(b"x")
            assert await far.receive() == b"x"
            last = anyio.current_time()
            await anyio.sleep(1.5)
        closed = await stream.wait_closed()
        assert closed.exit_signal == "ABRT"
        assert anyio.current_time() - last == pytest.approx(2, abs=0.4)
        await wait_for(lambda: server.channels == ())


class Whole(ByteStream):
    """Ends in both directions at once, as TLS does."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data: bytes = await self._inner.receive(max_bytes)
        return data

    async def send(self, item: bytes) -> None:
        await self._inner.send(item)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.trio
@pytest.mark.parametrize("answers", [True, False])
async def test_a_target_that_cannot_be_told_of_an_end_may_still_answer(
    answers: bool, autojump_clock: object
) -> None:
    """HR-78: neither is the answer cut off, nor does a connection stay that nobody needs."""
    near, far = memory_stream_pair()

    async def connector(endpoint: anyssh.Endpoint) -> ByteStream:
        return Whole(near)

    policy = ForwardingPolicy(connect_to=["*:*"], connector=connector)
    async with pair(policy) as (client, server):
        stream = await client.stream_to_remote_port("example.com", 443)
        await stream.send(b"question")
        await stream.send_eof()
        assert await far.receive() == b"question"
        await anyio.sleep(16)
        if answers:
            await far.send(b"an ")
            await anyio.sleep(16)
            await far.send(b"answer")
            await far.send_eof()
            assert b"".join([chunk async for chunk in stream]) == b"an answer"
            assert (await stream.wait_closed()).exit_signal is None
        else:
            assert stream.closed is None
            assert (await stream.wait_closed()).exit_signal is None
        await wait_for(lambda: server.channels == ())


async def test_who_cannot_be_told_of_an_end_is_told_by_the_end_of_all() -> None:
    """HR-78: as many clients wait for, whose answer ends with the connection."""
    near, far = memory_stream_pair()
    target, asked = memory_stream_pair()

    async def connector(endpoint: anyssh.Endpoint) -> ByteStream:
        return target

    async def listen(endpoint: Any) -> Any:
        return OneConnection(Whole(near))

    policy = ForwardingPolicy(connect_to=["*:*"], connector=connector)
    async with pair(policy) as (client, server):
        async with client.forward_to_remote_port("127.0.0.1", 0, "there", 80, listener=listen):
            await far.send(b"question")
            assert await asked.receive() == b"question"
            await asked.send(b"answer")
            await asked.send_eof()
            with anyio.fail_after(relay.NO_HALF_CLOSE_TIME / 2):
                assert b"".join([chunk async for chunk in far]) == b"answer"
            with pytest.raises(anyio.EndOfStream):
                await asked.receive()
        await wait_for(lambda: server.channels == ())


class OneConnection(Listener[ByteStream]):
    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def serve(self, handler: Any, task_group: Any = None) -> None:
        await handler(self._stream)
        await anyio.sleep_forever()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_a_listener_survives_what_accepting_raises() -> None:
    class Moody:
        """Fails twice before it works, and once in between."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner
            self.failures = 2

        async def serve(self, handler: Any, task_group: Any = None) -> None:
            if self.failures:
                self.failures -= 1
                raise OSError(24, "Too many open files")
            await self.inner.serve(handler, task_group)

        def extra(self, attribute: Any, default: Any = None) -> Any:
            return self.inner.extra(attribute, default)

        async def aclose(self) -> None:
            await self.inner.aclose()

    async def moody(endpoint: Any) -> Any:
        return Moody(await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0))

    async with (
        service() as port,
        pair() as (client, _),
        forwarding(client, "to", port, listener=moody) as number,
    ):
        assert await ask_port(number) == b"HELLO!"


@pytest.mark.nightly
@pytest.mark.timeout(600)
async def test_ten_thousand_connections() -> None:
    """T-34."""
    async with (
        nothing_left_behind(),
        service() as port,
        pair() as (client, server),
        forwarding(client, "to", port) as number,
    ):
        with anyio.CancelScope(shield=True):
            for _ in range(10_000):
                assert await ask_port(number) == b"HELLO!"
        assert client.channels == server.channels == ()


@pytest.mark.parametrize("has_task", [False, True])
async def test_what_targets_do_not_read_is_bounded_when_channels_are_closed(
    has_task: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HR-51: of connections whose channel is gone, the oldest are aborted."""
    monkeypatch.setattr("anyssh.forwarding.relay.MOST_LEFTOVERS", 2)
    policy = replace(ALL, idle_time=3600) if has_task else ALL
    with ExitStack() as sockets, anyio.fail_after(LIMIT):
        silent = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=8))
        port = silent.getsockname()[1]
        targets = []
        async with pair(policy) as (client, server):
            for _ in range(4):
                channel = await client.stream_to_remote_port("127.0.0.1", port)
                targets.append(sockets.enter_context(silent.accept()[0]))
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(send_without_end, channel)
                    await wait_for(lambda: any(each.is_readable for each in server.channels))
                    await settle()
                    tasks.cancel_scope.cancel()
                await channel.aclose()
                await wait_for(lambda: not server.channels)
            await settle()
            assert [await was_reset(target) for target in targets] == [True, True, False, False]


async def send_without_end(channel: ByteStream) -> None:
    while True:
        await channel.send(bytes(1 << 20))


async def was_reset(target: socket.socket) -> bool:
    """Whether the other end has reset a connection, of which nothing was read."""
    await anyio.lowlevel.checkpoint()
    return target.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
