"""Connecting a connectable: an address needs just a socket, everything else goes AnyIO's way."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from anyssh.session import connecting
from anyssh.session.connecting import connect_socket, open_stream


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


class Noting(anyio.TCPConnectable):
    """Somebody else's class, which does more than connect."""

    has_connected = False

    async def connect(self) -> SocketStream:
        self.has_connected = True
        return await super().connect()


async def test_a_class_of_somebody_else_connects_itself(server: socket.socket) -> None:
    noting = Noting(*server.getsockname())
    async with await open_stream(noting):
        assert noting.has_connected


async def test_an_address_is_connected_to_without_looking_it_up(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def connect(connectable: anyio.TCPConnectable) -> SocketStream:
        raise AssertionError("AnyIO was asked")

    monkeypatch.setattr(anyio.TCPConnectable, "connect", connect)
    address = server.getsockname()
    async with await open_stream(anyio.as_connectable(address)) as stream:
        assert stream.extra(SocketAttribute.remote_address) == address


async def test_a_refusal_is_told_as_anyio_tells_it() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        host, port = bound.getsockname()
        connectable = anyio.as_connectable((host, port))
        with pytest.raises(anyio.ConnectionFailed) as theirs:
            await connectable.connect()
        with pytest.raises(anyio.ConnectionFailed) as ours:
            await open_stream(connectable)
    for told in (ours, theirs):
        assert str(told.value).startswith(f"error connecting to {host}:{port}: ")


async def test_a_server_that_resets_at_once_fails_as_one_that_refuses(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AnyIO then finds that the socket is not connected, which it takes for a mistake of ours."""

    async def connect(host: str, port: int) -> socket.socket:
        raw = await connect_socket(host, port)
        server.setblocking(False)
        accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        return raw

    monkeypatch.setattr(connecting, "connect_socket", connect)
    with pytest.raises(anyio.ConnectionFailed):
        await open_stream(anyio.as_connectable(server.getsockname()))


async def test_an_address_of_a_link_is_connected_to_by_its_zone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A socket would drop a zone that is part of the text."""
    asked: list[object] = []

    def connect_at_once(raw: socket.socket, address: object) -> bool:
        asked.append(address)
        return True

    monkeypatch.setattr(connecting, "_connect_at_once", connect_at_once)
    for host in ("fe80::1%2", "::1"):
        (await connect_socket(host, 22)).close()
    assert asked == [("fe80::1", 22, 0, 2), ("::1", 22)]
