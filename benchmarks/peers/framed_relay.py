"""The limit of forwarded connections: sealed packets between sockets, and nothing else.

It does only what every SSH implementation in Python has to do: for each connection the seven
packets of a channel, sealed with AES-GCM, between two programs that each watch their sockets with
one epoll object, without an event loop, and that send together what happens together. It has no key
exchange, windows, policies, bounds, errors or deadlines, and only suits connections of one byte.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Final, Never

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .common import HOST, Connection, Task
from .program import main

OPEN, CONFIRMATION, DATA, EOF, CLOSE = 90, 91, 94, 96, 97
TAG_SIZE: Final = 16
_LENGTH: Final = struct.Struct(">I")
_PORT: Final = struct.Struct(">H")
_HEADER: Final = struct.Struct(">BBI")  # padding length, message number, channel
_PADDING: Final = bytes(5)
_KEY: Final = bytes(range(32))
_RECEIVE_SIZE: Final = 64 * 1024


class _Packets:
    """Sealed packets over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._cipher = AESGCM(_KEY)
        self._sent = self._received = 0
        self._output: list[bytes] = []
        self._input = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def put(self, number: int, channel: int, data: bytes = b"") -> None:
        body = _HEADER.pack(len(_PADDING), number, channel) + data + _PADDING
        length = _LENGTH.pack(len(body))
        self._output += length, self._cipher.encrypt(self._sent.to_bytes(12), body, length)
        self._sent += 1

    def flush(self) -> None:
        if self._output:
            self._socket.sendall(b"".join(self._output))
            self._output.clear()

    def receive(self) -> Iterator[tuple[int, int, bytes]]:
        received = self._socket.recv(_RECEIVE_SIZE)
        if not received:
            raise SystemExit
        data = self._input + received
        start = 0
        while (body := start + _LENGTH.size) <= len(data):
            length = data[start:body]
            end = body + _LENGTH.unpack(length)[0] + TAG_SIZE
            if end > len(data):
                break
            packet = self._cipher.decrypt(self._received.to_bytes(12), data[body:end], length)
            self._received += 1
            padding, number, channel = _HEADER.unpack_from(packet)
            yield number, channel, packet[_HEADER.size : -padding]
            start = end
        self._input = data[start:]


class _Relay:
    """One side: its packets, and the connections by their channels and descriptors.

    :param listener: of a client; a server connects to the port that it is told
    """

    def __init__(
        self, packets: _Packets, listener: socket.socket | None = None, target: int = 0
    ) -> None:
        self._packets = packets
        self._listener = listener
        self._opening = _PORT.pack(target) + bytes(50)  # as much as direct-tcpip has to tell
        self._ready = select.epoll()
        for each in (packets, listener):
            if each is not None:
                self._ready.register(each, select.EPOLLIN)
        self._connections: dict[int, socket.socket] = {}
        self._watched: dict[int, int] = {}
        self._numbers = count()

    def run(self) -> Never:
        while True:
            for descriptor, _ in self._ready.poll():
                if descriptor in self._watched:
                    self._read(descriptor)
                elif descriptor == self._packets.fileno():
                    for packet in self._packets.receive():
                        self._handle(*packet)
                elif self._listener is not None:
                    self._accept(self._listener)
            self._packets.flush()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            while True:
                connection, _ = listener.accept()
                channel = next(self._numbers)
                self._connections[channel] = connection
                self._packets.put(OPEN, channel, self._opening)

    def _read(self, descriptor: int) -> None:
        channel = self._watched[descriptor]
        if data := self._connections[channel].recv(_RECEIVE_SIZE):
            self._packets.put(DATA, channel, data)
            return
        del self._watched[descriptor]
        if self._listener is None:  # the target closes last
            self._packets.put(CLOSE, channel)
            self._connections.pop(channel).close()
        else:
            self._packets.put(EOF, channel)
            self._ready.unregister(descriptor)

    def _watch(self, channel: int) -> None:
        connection = self._connections[channel]
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watched[connection.fileno()] = channel
        self._ready.register(connection, select.EPOLLIN)

    def _handle(self, number: int, channel: int, data: bytes) -> None:
        if number == OPEN:
            address = HOST, _PORT.unpack(data[: _PORT.size])[0]
            self._connections[channel] = socket.create_connection(address)
            self._watch(channel)
            self._packets.put(CONFIRMATION, channel, bytes(12))
        elif number == CONFIRMATION:
            self._watch(channel)
        elif number == DATA:
            self._connections[channel].send(data)
        elif number == EOF:
            self._connections[channel].shutdown(socket.SHUT_WR)
        elif self._listener is not None:
            self._packets.put(CLOSE, channel)
            self._connections.pop(channel).close()


async def serve(task: Task) -> None:
    """Relay for one client."""
    with socket.create_server((HOST, 0)) as listener:
        task.listens(listener.getsockname()[1])
        _Relay(_Packets(listener.accept()[0])).run()


@asynccontextmanager
async def connect(task: Task) -> AsyncIterator[Connection]:
    """Refuse, as there is nothing but forwarding."""
    raise NotImplementedError(task.workload)
    yield


@asynccontextmanager
async def forward(task: Task) -> AsyncIterator[int]:
    """Forward a free port to the target."""
    listener = socket.create_server((HOST, 0), backlog=1024)
    listener.setblocking(False)
    relay = _Relay(_Packets(socket.create_connection((HOST, task.port))), listener, task.target)
    threading.Thread(target=relay.run, daemon=True).start()
    yield listener.getsockname()[1]


if __name__ == "__main__":
    main(serve, connect, forward)
