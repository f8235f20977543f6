"""Our streams and those of Dev Tunnels peers, in both roles, over sockets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream

import anyssh

from .conftest import Keys
from .ours import echo, our_key
from .peers import HERE, USER, PeerProcess, Report, find_program, finish, in_thread, require_peer

MEBIBYTE = 1 << 20
PASSWORD = "wonderland"


@asynccontextmanager
async def peer(kind: str, role: str, **options: object) -> AsyncIterator[PeerProcess]:
    """Run a stream of the package."""
    require_peer("npm")
    command = [find_program("node") or "node", str(HERE / "npm/streams.js"), kind, role]
    for name, value in options.items():
        command.append("--" + name.replace("_", "-"))
        if value is not True:
            command.append(str(value))
    process = await anyio.to_thread.run_sync(PeerProcess, command)
    try:
        yield process
    finally:
        await anyio.to_thread.run_sync(process.stop)


@asynccontextmanager
async def peer_server(kind: str, **options: object) -> AsyncIterator[tuple[ByteStream, Any]]:
    """Give a stream to a server of the package, and a way to wait for its events."""
    async with peer(kind, "server", **options) as process:
        event = partial(in_thread_event, process)
        port = (await event("listening"))["port"]
        yield await anyio.connect_tcp("127.0.0.1", port), event


async def in_thread_event(process: PeerProcess, name: str) -> dict[str, Any]:
    return await in_thread(partial(process.wait_for, name))


async def peer_client(
    kind: str, handle: Callable[[SocketStream], Awaitable[object]], **options: object
) -> Report:
    """Run a client of the package against a handler of its connection."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, handle)
            async with peer(kind, "client", port=port, **options) as process:
                report = await finish(process)
            tasks.cancel_scope.cancel()
    return report


async def exchange(stream: ByteStream, data: bytes) -> bytes:
    """Send bytes and read as many back."""
    received = bytearray()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.send, data)
        while len(received) < len(data):
            received += await stream.receive()
    return bytes(received)


async def test_many_streams_with_their_server() -> None:
    data = os.urandom(MEBIBYTE)
    async with peer_server("mux") as (stream, event):
        async with anyssh.MultiChannelStream.connect(stream) as mux:
            await event("connected")

            async def talk(number: int) -> None:
                async with await mux.open_stream() as one:
                    for turn in range(10):
                        word = b"%d:%d" % (number, turn)
                        assert await exchange(one, word) == word

            async with anyio.create_task_group() as tasks:
                for number in range(10):
                    tasks.start_soon(talk, number)
            async with await mux.open_stream() as bulk:
                assert await exchange(bulk, data) == data
        assert (await event("closed"))["reason"] == anyssh.DisconnectReason.BY_APPLICATION


@pytest.mark.parametrize(
    "make", [anyssh.MultiChannelStream.accept, anyssh.MultiChannelStream.connect]
)
async def test_many_streams_with_their_client(make: Callable[[Any], Any]) -> None:
    """Their class knows no roles, so ours may stand at either end."""
    ends: list[anyssh.SessionClosed] = []

    async def handle(stream: SocketStream) -> None:
        async with make(stream) as mux:
            await mux.serve(echo)
            ends.append(await mux.wait_closed())

    report = await peer_client("mux", handle)
    result = report.one("result")
    assert result["intact"] == [True] * 10
    assert result["bytes"] == MEBIBYTE
    assert result["sent"] == result["received"]
    assert len(ends) == 1


async def test_a_secure_stream_with_their_server(keys: Keys) -> None:
    host_key = keys.host["ecdsa384"]
    data = os.urandom(MEBIBYTE)
    options = {"host_key": host_key.pkcs8, "password": PASSWORD}
    async with peer_server("secure", **options) as (stream, event):
        async with anyssh.SecureStream.connect(
            stream,
            credentials=anyssh.ClientCredentials(USER, password=PASSWORD),
            verify_host=anyssh.pin(our_key(host_key).fingerprint),
        ) as secure:
            await event("connected")
            assert await exchange(secure, data) == data
        await event("closed")


async def test_their_server_refuses_us(keys: Keys) -> None:
    host_key = keys.host["ecdsa384"]
    options = {"host_key": host_key.pkcs8, "password": PASSWORD}
    async with peer_server("secure", **options) as (stream, _):
        with pytest.raises(anyssh.AuthenticationError):
            async with anyssh.SecureStream.connect(
                stream,
                credentials=anyssh.ClientCredentials(USER, password="guess"),
                verify_host=anyssh.pin(our_key(host_key).fingerprint),
            ):
                raise AssertionError("it let us in")


class SecureServer:
    """Our end of a secure stream for their client; echoes, and keeps how it ended."""

    def __init__(self, keys: Keys, config: anyssh.SessionConfig | None = None) -> None:
        self.server = anyssh.Server(
            host_keys=[our_key(keys.host["ecdsa384"])],
            authenticate=self.authenticate,
            config=config,
        )
        self.ends: list[str] = []

    async def authenticate(self, attempt: anyssh.AuthAttempt) -> object | None:
        match attempt:
            case anyssh.PasswordAttempt(username="alice", password="wonderland"):
                return "alice"
        return None

    async def handle(self, stream: SocketStream) -> None:
        try:
            async with anyssh.SecureStream.accept(stream, self.server) as secure:
                async for chunk in secure:
                    await secure.send(chunk)
                self.ends.append("end of stream")
        except anyssh.SSHError as error:
            self.ends.append(type(error).__name__)


async def test_a_secure_stream_with_their_client(keys: Keys) -> None:
    ours = SecureServer(keys)
    host_key = keys.host["ecdsa384"].public
    report = await peer_client("secure", ours.handle, host_public_key=host_key, password=PASSWORD)
    result = report.one("result")
    assert (result["bytes"], result["sent"]) == (MEBIBYTE, result["received"])
    assert ours.ends == ["end of stream"]


@pytest.mark.parametrize("wrong", ["password", "host_key"])
async def test_their_client_is_refused_or_refuses(keys: Keys, wrong: str) -> None:
    ours = SecureServer(keys)
    host_key = keys.host["rsa" if wrong == "host_key" else "ecdsa384"].public
    password = "guess" if wrong == "password" else PASSWORD
    report = await peer_client("secure", ours.handle, host_public_key=host_key, password=password)
    assert not report.all("result")
    assert report.one("failed")
    assert len(ours.ends) == 1
    assert ours.ends[0] != "end of stream"


async def test_their_client_comes_back(keys: Keys) -> None:
    ours = SecureServer(keys, anyssh.SessionConfig.with_reconnect())
    options = {"host_public_key": keys.host["ecdsa384"].public, "password": PASSWORD}
    report = await peer_client("secure", ours.handle, reconnect=True, **options)
    first, second = report.all("result")
    assert first["sent"] == first["received"]
    assert second["sent"] == second["received"]
    assert ours.ends == ["SessionMoved", "end of stream"]


async def test_we_come_back_to_their_server(keys: Keys) -> None:
    host_key = keys.host["ecdsa384"]
    options = {"host_key": host_key.pkcs8, "password": PASSWORD, "reconnect": True}
    async with peer_server("secure", **options) as (stream, event):
        port = stream.extra(SocketAttribute.remote_port)
        async with anyssh.SecureStream.connect(
            stream,
            credentials=anyssh.ClientCredentials(USER, password=PASSWORD),
            verify_host=anyssh.pin(our_key(host_key).fingerprint),
            config=anyssh.SessionConfig.with_reconnect(),
        ) as secure:
            await event("connected")
            data = os.urandom(MEBIBYTE)
            assert await exchange(secure, data) == data
            await anyio.aclose_forcefully(stream)
            await secure.wait_disconnected()
            await secure.reconnect(await anyio.connect_tcp("127.0.0.1", port))
            assert await exchange(secure, data) == data
        await event("closed")
