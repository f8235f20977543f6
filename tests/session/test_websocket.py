"""WebSockets as byte streams: what they carry, how they end, and peers that break the rules.

The misbehaving peers are wsproto's connections, and plain bytes over streams in memory.
"""

from __future__ import annotations

import math
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute, TaskGroup
from anyio.streams.tls import TLSListener
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
)

import anyssh
from anyssh.testing import FaultStream, MemoryStream, check_byte_stream, memory_stream_pair
from anyssh.websocket import (
    WebSocketConnectable,
    WebSocketError,
    WebSocketListener,
    WebSocketRequest,
    WebSocketStream,
    accept_websocket,
    connect_websocket,
)
from tests.session.ends import ALICE, Call, at_once, make_server, pinned, settle
from tests.session.life_support import LIMIT, Others, echo, echoes
from tests.tls import self_signed

KIB = 1024
MIB = 1024 * 1024
TINY_FRAMES = 8000

REQUEST = (
    b"GET /bridge?x=1 HTTP/1.1\r\n"
    b"Host: example.org\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
)
END = b"\r\n"
ACCEPTED = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # for that key, RFC 6455 section 1.3


@asynccontextmanager
async def websockets(**options: Any) -> AsyncIterator[tuple[WebSocketStream, WebSocketStream]]:
    """Give a client's and a server's end over TCP."""
    ends: list[WebSocketStream] = []
    came, may_leave = anyio.Event(), anyio.Event()

    async def handle(stream: WebSocketStream) -> None:
        ends.append(stream)
        came.set()
        async with stream:
            await may_leave.wait()

    async with listening(handle, **options) as url:
        client = await connect_websocket(url)
        await came.wait()
        yield client, ends[0]
        await at_once(client.aclose(), ends[0].aclose())
        may_leave.set()


@asynccontextmanager
async def listening(handler: Any, **options: Any) -> AsyncIterator[str]:
    """Serve WebSockets on loopback; give the URL."""
    async with (
        WebSocketListener(await anyio.create_tcp_listener(local_host="127.0.0.1"), **options) as (
            listener
        ),
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, handler)
        yield f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/bridge"
        group.cancel_scope.cancel()


class Peer:
    """The other end of a WebSocket, which does what the test tells it to."""

    def __init__(self, stream: MemoryStream, connection: WSConnection | Connection) -> None:
        self.stream = stream
        self.connection = connection

    async def send(self, *events: Event) -> None:
        await self.stream.send(b"".join(self.connection.send(event) for event in events))

    async def send_tiny_frames(self) -> None:
        """Send many frames of one message, none of which has a byte."""
        empty = BytesMessage(b"", message_finished=False)
        first, next_one = self.connection.send(empty), self.connection.send(empty)
        await self.stream.send(first + (TINY_FRAMES - 1) * next_one)

    async def events(self) -> list[Event]:
        """Receive once; give what came."""
        self.connection.receive_data(await self.stream.receive())
        return list(self.connection.events())


@asynccontextmanager
async def with_client(**options: Any) -> AsyncIterator[tuple[WebSocketStream, Peer]]:
    """Give our server's end, and a client that is wsproto's."""
    near, far = memory_stream_pair()
    connection = WSConnection(ConnectionType.CLIENT)
    await near.send(connection.send(Request(host="example.org", target="/")))
    stream = await accept_websocket(far, **options)
    peer = Peer(near, connection)
    (answer,) = await peer.events()
    assert isinstance(answer, AcceptConnection)
    async with stream, near:
        yield stream, peer


@asynccontextmanager
async def with_server() -> AsyncIterator[tuple[WebSocketStream, Peer]]:
    """Give our client's end, and a server that is wsproto's."""
    near, far = memory_stream_pair()
    peer = Peer(far, WSConnection(ConnectionType.SERVER))

    async def accept() -> None:
        (request,) = await peer.events()
        assert isinstance(request, Request)
        await peer.send(AcceptConnection())

    stream, _ = await at_once(asked(near), accept())
    async with stream, far:
        yield stream, peer


async def asked(stream: ByteStream, **options: Any) -> WebSocketStream:
    """Make a client's end over a stream that is there."""

    class Connectable(WebSocketConnectable):
        async def _open(self) -> ByteStream:
            return stream

    return await Connectable(url="ws://example.org/bridge", **options).connect()


# Bytes


async def test_keeps_every_rule_over_tcp(anyio_backend_name: str) -> None:
    # Sockets that AnyIO accepts on asyncio take all that comes until somebody waits for bytes.
    limit = None if anyio_backend_name == "asyncio" else 32 * MIB
    await check_byte_stream(websockets, half_close=False, buffer_limit=limit)


@asynccontextmanager
async def over_memory() -> AsyncIterator[tuple[WebSocketStream, WebSocketStream]]:
    near, far = memory_stream_pair()
    client, server = await at_once(asked(near), accept_websocket(far))
    yield client, server
    await at_once(client.aclose(), server.aclose())


async def test_keeps_every_rule_in_memory() -> None:
    await check_byte_stream(over_memory, half_close=False)


async def test_large_amounts_both_ways_at_once() -> None:
    async with websockets() as (client, server):
        data = [os.urandom(3 * MIB) for _ in range(2)]
        async with anyio.create_task_group() as group:
            sending = [
                Call(group, partial(end.send, bytes_))
                for end, bytes_ in zip((client, server), data, strict=True)
            ]
            received = await at_once(read(server, 3 * MIB), read(client, 3 * MIB))
            for call in sending:
                await call.result()
        assert list(received) == data


async def end_of(receive: Callable[[], Awaitable[Any]]) -> Exception:
    """Receive until there is no more; give what tells so."""
    while True:
        try:
            await receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError) as end:
            return end


async def read(stream: ByteStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        data += await stream.receive(count - len(data))
    return bytes(data)


async def test_a_session_over_a_websocket() -> None:
    async def serve(stream: WebSocketStream) -> None:
        async with make_server().accept(stream) as session:
            await session.serve(echo)

    async with (
        listening(serve) as url,
        anyssh.ClientSession.connect(
            WebSocketConnectable(url=url), credentials=ALICE, verify_host=pinned()
        ) as session,
    ):
        for _ in range(3):
            await echoes(session)
        assert session.extra(SocketAttribute.remote_address)[0] == "127.0.0.1"


async def test_a_server_serves_a_listener_of_websockets() -> None:
    async def handle(session: anyssh.ServerSession) -> None:
        await session.serve(echo)

    async with (
        WebSocketListener(await anyio.create_tcp_listener(local_host="127.0.0.1")) as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(make_server().serve, listener, handle)
        url = f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        async with anyssh.ClientSession.connect(
            await connect_websocket(url), credentials=ALICE, verify_host=pinned()
        ) as session:
            await echoes(session)
        group.cancel_scope.cancel()


async def test_over_tls(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(certificate, key)
    client_context = ssl.create_default_context(cafile=str(certificate))

    async def handle(stream: WebSocketStream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)

    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    tls = TLSListener(plain, server_context, standard_compatible=False)
    async with WebSocketListener(tls) as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        url = f"wss://127.0.0.1:{plain.extra(SocketAttribute.local_port)}/"
        async with await connect_websocket(url, ssl_context=client_context) as stream:
            await stream.send(b"secret")
            assert await read(stream, 6) == b"secret"
        with pytest.raises(ssl.SSLError):
            await connect_websocket(url)  # a certificate that nobody trusts
        group.cancel_scope.cancel()


@pytest.mark.parametrize("role", [with_client, with_server])
async def test_the_boundaries_of_messages_mean_nothing(role: Any) -> None:
    async with role() as (stream, peer):
        await peer.send(
            BytesMessage(b""),
            BytesMessage(b"one, ", message_finished=False),
            Ping(b"in between"),
            BytesMessage(b"", message_finished=False),
            BytesMessage(b"two, ", message_finished=False),
            BytesMessage(b"three"),
            BytesMessage(b""),
            BytesMessage(b", four"),
        )
        assert await read(stream, 21) == b"one, two, three, four"
        assert await peer.events() == [Pong(b"in between")]

        async def count() -> int:
            size = 0
            while size < 150 * KIB:
                for event in await peer.events():
                    assert isinstance(event, BytesMessage)
                    size += len(event.data)
            return size

        _, size = await at_once(stream.send(bytes(150 * KIB)), count())
        assert size == 150 * KIB


@pytest.mark.parametrize("size", [1, 2, 7, 125, 126, 127, 65535, 65536])
async def test_bytes_that_come_in_pieces(size: int) -> None:
    data = os.urandom(100 * KIB)
    async with with_client() as (stream, peer):
        wire = b"".join(
            peer.connection.send(BytesMessage(data[start : start + size]))
            for start in range(0, min(len(data), size * 50), size)
        )

        async def drip() -> None:
            for start in range(0, len(wire), 1000):
                await peer.stream.send(wire[start : start + 1000])

        expected = data[: size * 50]
        _, received = await at_once(drip(), read(stream, len(expected)))
        assert received == expected


# Pings


@pytest.mark.parametrize("role", [with_client, with_server])
async def test_pings_are_answered_while_receiving(role: Any) -> None:
    async with role() as (stream, peer), anyio.create_task_group() as group:
        receiving = Call(group, stream.receive)
        for word in (b"", b"a", bytes(125)):
            await peer.send(Ping(word))
            assert await peer.events() == [Pong(word)]
        await peer.send(Pong(b"nobody asked"), BytesMessage(b"bytes"))
        assert await receiving.result() == b"bytes"


async def test_of_many_pings_the_last_is_answered_and_no_message_is_torn() -> None:
    async with with_client() as (stream, peer), anyio.create_task_group() as group:
        sending = Call(group, partial(stream.send, bytes(MIB)))
        receiving = Call(group, stream.receive)
        await settle()
        assert not sending.is_done  # the stream below is full, in the middle of a message
        for number in range(100):
            await peer.send(Ping(b"%d" % number))
        await settle()
        pongs, size = [], 0
        while size < MIB or not pongs:
            for event in await peer.events():
                if isinstance(event, Pong):
                    pongs.append(event.payload)
                else:
                    assert isinstance(event, BytesMessage)
                    size += len(event.data)
        assert pongs == [b"99"]
        await sending.result()
        receiving.scope.cancel()


async def test_tiny_frames_leave_others_their_turn() -> None:
    async with with_client() as (stream, peer), anyio.create_task_group() as group:
        receiving = Call(group, stream.receive)
        others = Others()
        group.start_soon(others.run)
        await peer.send_tiny_frames()
        await peer.send(BytesMessage(b"the end"))
        assert await receiving.result() == b"the end"
        assert others.turns > TINY_FRAMES / 256
        group.cancel_scope.cancel()


# The end


@pytest.mark.parametrize("role", [with_client, with_server])
@pytest.mark.parametrize("code", [1000, 1001, None])
async def test_a_close_of_the_peer_is_the_end(role: Any, code: int | None) -> None:
    async with role() as (stream, peer):
        await peer.send(BytesMessage(b"last words"))
        await peer.send(CloseConnection(code if code is not None else 1005))
        assert await read(stream, 10) == b"last words"
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        (answer,) = await peer.events()
        assert isinstance(answer, CloseConnection)
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"too late")


@pytest.mark.parametrize("role", [with_client, with_server])
async def test_a_close_for_a_reason_is_an_error(role: Any) -> None:
    async with role() as (stream, peer):
        await peer.send(CloseConnection(4711, "gone fishing"))
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await stream.receive()
        assert isinstance(caught.value.__cause__, WebSocketError)
        assert caught.value.__cause__.code == 4711
        assert "gone fishing" in str(caught.value)
        (answer,) = await peer.events()
        assert isinstance(answer, CloseConnection)


@pytest.mark.parametrize("role", [with_client, with_server])
async def test_what_a_peer_says_about_its_close_is_safe_to_show(role: Any) -> None:
    """HR-06: no control or direction characters, in one short line."""
    async with role() as (stream, peer):
        await peer.send(CloseConnection(4711, "\x1b[2J\n\u202eroot logged in"))
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await stream.receive()
        for error in (caught.value, caught.value.__cause__):
            assert str(error).isprintable()
    assert len(str(WebSocketError("x" * 100_000))) <= 256


@pytest.mark.parametrize("role", [with_client, with_server])
async def test_an_end_without_close_is_an_error(role: Any) -> None:
    async with role() as (stream, peer):
        await peer.send(BytesMessage(b"not all", message_finished=False))
        await peer.stream.aclose()
        assert await read(stream, 7) == b"not all"
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await stream.receive()
        assert isinstance(caught.value.__cause__, WebSocketError | anyio.BrokenResourceError)


@pytest.mark.parametrize("role", [with_client, with_server])
async def test_closing_says_so_and_waits_for_the_answer(role: Any) -> None:
    async with role() as (stream, peer), anyio.create_task_group() as group:
        await stream.send(b"last words")
        closing = Call(group, stream.aclose)
        await settle()
        assert not closing.is_done
        events = await peer.events()
        assert isinstance(events[-1], CloseConnection)
        assert events[-1].code == 1000
        await peer.send(events[-1].response())
        with anyio.fail_after(0.4):  # before it loses patience
            await closing.result()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"too late")


async def test_a_peer_that_never_answers_the_close_is_left() -> None:
    async with with_client() as (stream, _):
        with anyio.fail_after(LIMIT):
            await stream.aclose()
            await stream.aclose()


async def test_closing_amid_tiny_frames_leaves_others_their_turn() -> None:
    async with with_client() as (stream, peer), anyio.create_task_group() as group:
        others = Others()
        await peer.send_tiny_frames()
        group.start_soon(others.run)
        await peer.send(CloseConnection(1000))
        before = others.turns
        await stream.aclose()
        assert others.turns - before > TINY_FRAMES / 256
        group.cancel_scope.cancel()


async def test_closing_at_once() -> None:
    async with with_client() as (stream, peer):
        await anyio.aclose_forcefully(stream)
        await end_of(peer.stream.receive)


async def close_while_receiving(group: TaskGroup, stream: ByteStream) -> tuple[Call, Call]:
    receiving = Call(group, stream.receive)
    await settle()
    closing = Call(group, stream.aclose)
    await settle()
    return receiving, closing


async def test_closing_while_another_task_receives() -> None:
    async with with_client() as (stream, peer), anyio.create_task_group() as group:
        receiving, closing = await close_while_receiving(group, stream)
        (close,) = await peer.events()
        assert isinstance(close, CloseConnection)
        await peer.send(close.response())
        await closing.result()
        with pytest.raises(anyio.ClosedResourceError):
            await receiving.result()


async def test_what_arrives_before_the_answer_leaves_the_peer_its_time_to_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closing with bytes unread would reset the connection, and so lose our last bytes."""
    monkeypatch.setattr("anyssh.websocket.CLOSE_TIME", math.inf)
    async with with_client() as (stream, peer), anyio.create_task_group() as group:
        receiving, closing = await close_while_receiving(group, stream)
        await peer.send(BytesMessage(b"sent before it knew"))
        with pytest.raises(anyio.ClosedResourceError):
            await receiving.result()
        await settle()
        assert not closing.is_done
        await peer.send((await peer.events())[0].response())
        await closing.result()


async def test_sending_late_leaves_the_peer_its_time_to_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anyssh.websocket.CLOSE_TIME", math.inf)
    async with with_client() as (stream, peer), anyio.create_task_group() as group:
        receiving, closing = await close_while_receiving(group, stream)
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"too late")
        await settle()
        assert not closing.is_done
        await peer.send((await peer.events())[0].response())
        await closing.result()
        with pytest.raises(anyio.ClosedResourceError):
            await receiving.result()


async def test_there_is_no_half_close() -> None:
    async with with_client() as (stream, _):
        with pytest.raises(NotImplementedError, match="aclose"):
            await stream.send_eof()


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with with_client() as (stream, peer):
        for number in range(50):
            with anyio.move_on_after(0):
                await stream.receive()
            await peer.send(BytesMessage(b"%02d" % number))
            assert await read(stream, 2) == b"%02d" % number


async def test_a_message_cut_short_is_followed_by_nothing() -> None:
    async with with_client() as (stream, peer), anyio.create_task_group() as group:
        sending = Call(group, partial(stream.send, bytes(MIB)))
        await settle()
        sending.scope.cancel()
        await sending.done.wait()
        with pytest.raises(anyio.BrokenResourceError, match="cut short"):
            await stream.send(b"more")
        await stream.aclose()
        await end_of(peer.stream.receive)


async def test_a_stream_that_breaks_is_the_cause() -> None:
    near, far = memory_stream_pair()
    faulty = FaultStream(far)
    client, server = await at_once(asked(near), accept_websocket(faulty))
    async with client, server:
        faulty.cut()
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await server.receive()
        assert caught.value.__cause__ is not None
        with pytest.raises(anyio.BrokenResourceError):
            await server.send(b"x")


# Peers that break the rules


VIOLATIONS: dict[str, tuple[bytes, int]] = {
    "text": (b"\x81\x81\x00\x00\x00\x00a", 1003),
    "not masked": (b"\x82\x01a", 1002),
    "reserved bit": (b"\xc2\x81\x00\x00\x00\x00a", 1002),
    "unknown kind": (b"\x83\x81\x00\x00\x00\x00a", 1002),
    "unknown control": (b"\x8b\x81\x00\x00\x00\x00a", 1002),
    "long ping": (b"\x89\xfe\x00\x7e\x00\x00\x00\x00" + bytes(126), 1002),
    "split ping": (b"\x09\x81\x00\x00\x00\x00a", 1002),
    "nothing to continue": (b"\x80\x81\x00\x00\x00\x00a", 1002),
    "message in a message": (b"\x02\x81\x00\x00\x00\x00a\x82\x81\x00\x00\x00\x00a", 1002),
    "wasteful length": (b"\x82\xfe\x00\x01\x00\x00\x00\x00a", 1002),
    "negative length": (b"\x82\xff" + b"\xff" * 8 + bytes(4), 1002),
    "close of one byte": (b"\x88\x81\x00\x00\x00\x00a", 1002),
    "close with a code that is never sent": (b"\x88\x82\x00\x00\x00\x00\x03\xee", 1002),
    "close with text that is none": (b"\x88\x83\x00\x00\x00\x00\x03\xe8\xff", 1007),
    "too big": (b"\x02\xfe\x10\x00\x00\x00\x00\x00" + bytes(4096) + b"\x80\x81" + bytes(5), 1009),
}


@pytest.mark.parametrize("violation", VIOLATIONS)
async def test_a_violation_is_told_and_ends_the_websocket(violation: str) -> None:
    wire, code = VIOLATIONS[violation]
    async with with_client(max_message_size=4096) as (stream, peer):
        await peer.stream.send(wire)
        end = await end_of(stream.receive)
        assert isinstance(end, anyio.BrokenResourceError)
        cause = end.__cause__
        assert isinstance(cause, WebSocketError)
        assert cause.code == code
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"more")
        (told,) = await peer.events()
        assert isinstance(told, CloseConnection)
        assert told.code == code


async def test_a_masked_frame_of_a_server_is_a_violation() -> None:
    async with with_server() as (stream, peer):
        await peer.stream.send(b"\x82\x81\x00\x00\x00\x00a")
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await stream.receive()
        assert isinstance(caught.value.__cause__, WebSocketError)


async def test_a_message_may_be_as_big_as_allowed() -> None:
    async with with_client(max_message_size=4096) as (stream, peer):
        for _ in range(3):
            await peer.send(BytesMessage(bytes(4096)))
            assert await read(stream, 4096) == bytes(4096)


async def outcome_of(wire: bytes) -> None:
    """Feed bytes to our end; only AnyIO's errors of streams may come out."""
    async with with_client(max_message_size=100_000) as (stream, peer):
        await peer.stream.send(wire)
        await peer.stream.send_eof()
        await end_of(stream.receive)


@given(st.binary(max_size=300))
@settings(max_examples=60)
async def test_any_bytes_end_in_an_error_of_streams(wire: bytes) -> None:
    await outcome_of(wire)


frames = st.builds(
    lambda first, length, rest: bytes([first, 0x80 | length]) + bytes(4) + rest,
    st.integers(0, 255),
    st.integers(0, 127),
    st.binary(max_size=130),
)


@given(st.lists(frames, max_size=5))
@settings(max_examples=60)
async def test_any_frames_end_in_an_error_of_streams(made: list[bytes]) -> None:
    await outcome_of(b"".join(made))


# The handshake


async def answer_to(request: bytes, **options: Any) -> tuple[WebSocketError, bytes]:
    """Send a request that must fail; give our error and the answer."""
    near, far = memory_stream_pair()
    await near.send(request)
    await near.send_eof()
    with pytest.raises(WebSocketError) as caught:
        await accept_websocket(far, **options)
    answer = b""
    try:
        while True:
            answer += await near.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        await near.aclose()
    return caught.value, answer


BAD_REQUESTS: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "half a request": (REQUEST, b""),
    "an SSH client": (b"SSH-2.0-client\r\n", b""),
    "another method": (REQUEST.replace(b"GET", b"POST") + END, b""),
    "a plain request": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400"),
    "no host": (REQUEST.replace(b"Host: example.org\r\n", b"") + END, b"HTTP/1.1 400"),
    "no key": (REQUEST.replace(b"-Key", b"-Lock") + END, b"HTTP/1.1 400"),
    "no upgrade": (REQUEST.replace(b"websocket", b"tls") + END, b"HTTP/1.1 400"),
    "an old version": (REQUEST.replace(b"Version: 13", b"Version: 8") + END, b"HTTP/1.1 426"),
    "not HTTP": (b"GET / \x00\xff\r\n\r\n", b"HTTP/1.1 400"),
    "a header without colon": (REQUEST + b"nonsense\r\n" + END, b"HTTP/1.1 400"),
    "a host that is no name": (REQUEST.replace(b"example.org", b"xn--\xff") + END, b""),
    "protocols that are no text": (REQUEST + b"Sec-WebSocket-Protocol: \xff\r\n" + END, b""),
    "too many headers": (REQUEST + b"X: " + b"y" * 20_000 + END + END, b""),
    "endless headers": (REQUEST + b"X: y\r\n" * 5_000, b""),
    "frames before the answer": (REQUEST + END + b"\x82\x81\x00\x00\x00\x00a", b""),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_a_bad_request_is_an_error(name: str) -> None:
    request, start = BAD_REQUESTS[name]
    _, answer = await answer_to(request)
    assert answer.startswith(start)
    if start == b"HTTP/1.1 426":
        assert b"Sec-WebSocket-Version: 13" in answer
    if not start:
        assert b" 101 " not in answer


async def test_a_request_is_answered_as_the_standard_says() -> None:
    near, far = memory_stream_pair()
    await near.send(REQUEST + b"Sec-WebSocket-Protocol: chat, ssh\r\n" + END)
    stream = await accept_websocket(far, subprotocols=["other", "ssh"])
    assert stream.subprotocol == "ssh"
    answer = await near.receive()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert ACCEPTED in answer
    assert b"ssh" in answer
    assert b"chat" not in answer
    await near.aclose()
    await stream.aclose()


async def test_a_request_may_be_judged() -> None:
    seen: list[WebSocketRequest] = []

    async def judge(request: WebSocketRequest) -> bool:
        seen.append(request)
        return False

    request = REQUEST + b"Origin: https://example.org\r\nSec-WebSocket-Protocol: ssh, x\r\n" + END
    error, answer = await answer_to(request, may_connect=judge)
    assert error.code == 403
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert (seen[0].target, seen[0].host) == ("/bridge?x=1", "example.org")
    assert seen[0].headers["origin"] == "https://example.org"
    assert seen[0].subprotocols == ("ssh", "x")


async def test_what_a_judge_raises_leaves_as_it_is() -> None:
    """Even if a stream might raise the same."""
    error = ConnectionRefusedError("the database is down")

    async def judge(request: WebSocketRequest) -> bool:
        raise error

    near, far = memory_stream_pair()
    await near.send(REQUEST + END)
    with pytest.raises(ConnectionRefusedError) as caught:
        await accept_websocket(far, may_connect=judge)
    assert caught.value is error
    await end_of(near.receive)
    await near.aclose()


async def test_a_request_that_does_not_come_in_time() -> None:
    near, far = memory_stream_pair()
    await near.send(REQUEST)
    with pytest.raises(WebSocketError, match=r"within 0\.05 seconds"):
        await accept_websocket(far, handshake_time=0.05)
    await near.aclose()


BAD_ANSWERS: dict[str, bytes] = {
    "nothing": b"",
    "an SSH server": b"SSH-2.0-server\r\n",
    "another page": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "a redirection": b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
    "another upgrade": b"HTTP/1.1 101 x\r\nUpgrade: tls\r\nConnection: upgrade\r\n\r\n",
    "no upgrade": b"HTTP/1.1 101 x\r\n\r\n",
    "a wrong proof": (
        b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPTED + b"\r\n\r\n"
    ),
    "a wait": b"HTTP/1.1 100 Continue\r\n\r\n",
    "endless headers": b"HTTP/1.1 101 x\r\n" + b"X: y\r\n" * 5_000,
    "not HTTP": b"HTTP/1.1 1000\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_a_bad_answer_is_an_error(name: str) -> None:
    near, far = memory_stream_pair()

    async def answer() -> None:
        await far.receive()
        await far.send(BAD_ANSWERS[name])
        await far.send_eof()

    async def ask() -> None:
        with pytest.raises(WebSocketError) as caught:
            await asked(near)
        if name == "another page":
            assert caught.value.code == 200

    await at_once(ask(), answer())
    await end_of(far.receive)
    await far.aclose()


async def test_the_request_of_a_client() -> None:
    near, far = memory_stream_pair()
    peer = Peer(far, WSConnection(ConnectionType.SERVER))
    requests: list[Any] = []

    async def answer() -> None:
        requests.extend(await peer.events())
        # The answer and a message come in one piece.
        await peer.send(AcceptConnection(subprotocol="ssh"), BytesMessage(b"welcome"))

    options = {"subprotocols": ["ssh"], "headers": [("Authorization", "Bearer x")]}
    stream, _ = await at_once(asked(near, **options), answer())
    (request,) = requests
    assert (request.host, request.target) == ("example.org", "/bridge")
    assert (b"authorization", b"Bearer x") in request.extra_headers
    assert stream.subprotocol == "ssh"
    assert await read(stream, 7) == b"welcome"
    await far.aclose()
    await stream.aclose()


async def test_a_refusal_names_its_status() -> None:
    near, far = memory_stream_pair()
    peer = Peer(far, WSConnection(ConnectionType.SERVER))

    async def answer() -> None:
        await peer.events()
        await peer.send(RejectConnection(status_code=401))

    async def ask() -> None:
        with pytest.raises(WebSocketError, match="401") as caught:
            await asked(near)
        assert caught.value.code == 401

    await at_once(ask(), answer())
    await far.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ws:///path",
        "ws://user:word@example.org/",
        "ws://example.org:99999/",
        "ws://example.org/#part",
        "ws://example.org/a path",
        "ws://example.org/caf\u00e9",
        "ws://example.org/\n",
        "example.org",
        "",
    ],
)
async def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        await connect_websocket(url)


async def test_nobody_listens() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
    with pytest.raises(anyio.ConnectionFailed, match=f"connecting to 127.0.0.1:{port}"):
        await connect_websocket(f"ws://127.0.0.1:{port}/")


async def test_a_server_without_tls_is_no_way_to_a_wss_url() -> None:
    async def handle(stream: ByteStream) -> None:
        async with stream:
            await stream.receive()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, handle)
        port = listener.extra(SocketAttribute.local_port)
        with pytest.raises(anyio.ConnectionFailed, match=f"127.0.0.1:{port} does not speak TLS"):
            await connect_websocket(f"wss://127.0.0.1:{port}/")
        group.cancel_scope.cancel()


async def test_a_failed_handshake_leaves_the_listener_alone() -> None:
    async def handle(stream: WebSocketStream) -> None:
        async with stream:
            await stream.send(await stream.receive())

    async with listening(handle) as url:
        port = int(url.split(":")[2].split("/")[0])
        async with await anyio.connect_tcp("127.0.0.1", port) as rude:
            await rude.send(b"GET / HTTP/1.1\r\n\r\n")
            assert (await rude.receive()).startswith(b"HTTP/1.1 400 ")
        async with await connect_websocket(url) as stream:
            await stream.send(b"fine")
            assert await read(stream, 4) == b"fine"


async def test_handshakes_at_the_same_time_are_bounded() -> None:
    """HR-80: who only connects does not keep others out for long, and costs a bounded amount."""

    async def handle(stream: WebSocketStream) -> None:
        async with stream:
            await stream.send(await stream.receive())

    async with listening(handle, max_handshakes=2, handshake_time=60) as url:
        port = int(url.split(":")[2].split("/")[0])
        closed = anyio.Event()
        ends = 0

        async def stay() -> None:
            nonlocal ends
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"GET ")
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    await stream.receive()
                ends += 1
                closed.set()

        async with anyio.create_task_group() as silent:
            for _ in range(3):
                silent.start_soon(stay)
            await closed.wait()
            await anyio.wait_all_tasks_blocked()
            assert ends == 1
            silent.cancel_scope.cancel()
        while True:  # until the server has noticed that they are gone
            try:
                stream = await connect_websocket(url)
            except WebSocketError:
                await anyio.sleep(0.001)
                continue
            break
        async with stream:
            await stream.send(b"fine")
            assert await read(stream, 4) == b"fine"
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as tcp:
        with pytest.raises(ValueError, match="max_handshakes"):
            WebSocketListener(tcp, max_handshakes=0)


async def test_who_only_connects_locks_nobody_out() -> None:
    """HR-80: however many stay, whoever says what he wants gets in."""

    async def handle(stream: WebSocketStream) -> None:
        async with stream:
            await stream.send(await stream.receive())

    async with (
        listening(handle, max_handshakes=2, handshake_time=60) as url,
        AsyncExitStack() as stack,
    ):
        port = int(url.split(":")[2].split("/")[0])
        for _ in range(5):
            await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
        async with await connect_websocket(url) as stream:
            await stream.send(b"fine")
            assert await read(stream, 4) == b"fine"


async def test_a_judge_that_fails_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    async def judge(request: WebSocketRequest) -> bool:
        if request.target == "/bridge":
            raise KeyError("no such site")
        return True

    async def handle(stream: WebSocketStream) -> None:
        async with stream:
            await stream.send(await stream.receive())

    async with listening(handle, may_connect=judge) as url:
        with pytest.raises(WebSocketError):
            await connect_websocket(url)
        async with await connect_websocket(url.replace("bridge", "other")) as stream:
            await stream.send(b"fine")
            assert await read(stream, 4) == b"fine"
    assert "deciding about a WebSocket failed" in caplog.text


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancelled_handshake_closes_the_stream(turns: int) -> None:
    near, far = memory_stream_pair()

    async def cancel() -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(cancel)
            await asked(near)
        group.cancel_scope.cancel()
    assert scope.cancelled_caught
    await end_of(far.receive)
    await far.aclose()


def test_the_package_does_without_wsproto() -> None:
    program = "import sys, anyssh, anyssh.testing; sys.exit('wsproto' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_what_is_missing_is_told() -> None:
    program = (
        "import sys; sys.modules['wsproto'] = None\n"
        "try: import anyssh.websocket\n"
        "except ImportError as error: sys.exit('anyssh[ws]' not in str(error))\n"
        "sys.exit(2)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
