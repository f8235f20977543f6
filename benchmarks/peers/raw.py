"""The limits: bare AnyIO sockets (``tcp``), and with SSH framing and AES-GCM (``framing``).

``framing`` does only what every SSH implementation on AnyIO has to do: it splits data into packets
of 32 KiB, seals each one, sends the packets of one write together, and opens them at the other end.
It has no windows, dispatch or channels; each command has a connection of its own, with fixed keys.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import ByteStream, SocketAttribute
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .common import HOST, RECEIVE_SIZE, Channel, Data, Task, answer
from .program import main

PACKET_DATA = 32 * 1024
TAG_SIZE = 16
BLOCK_SIZE = 16
CHANNEL_DATA = 94
CHANNEL_EOF = 96
_FRAMING = "--plain" not in sys.argv
_LENGTH = struct.Struct(">I")
_NONCE = struct.Struct(">IQ")
_DATA_HEADER = struct.Struct(">BBII")  # padding length, message number, channel, data length
_PADDING = bytes(BLOCK_SIZE + 4)
_KEY = bytes(range(32))

# As anyssh does: the C library then keeps the memory of a transfer and does not fault it in anew.
bytes(1024 * 1024)


class PlainChannel:
    """A TCP connection as it is."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def send(self, data: bytes) -> None:
        """Send it all."""
        await self._stream.send(data)

    send_small = send

    async def receive(self) -> Data:
        """Return some bytes, ``b""`` at the end."""
        try:
            return await self._stream.receive(RECEIVE_SIZE)
        except anyio.EndOfStream:
            return b""

    async def send_eof(self) -> None:
        """Say that no more will be sent."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()


def _packet_size(data_size: int) -> int:
    """Return the size of a packet: length, header, data, 4 bytes of padding or more, tag."""
    smallest = _DATA_HEADER.size + data_size + 4
    return _LENGTH.size + smallest + -smallest % BLOCK_SIZE + TAG_SIZE


class FramedChannel:
    """A TCP connection that carries sealed CHANNEL_DATA packets and nothing else."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._cipher = AESGCM(_KEY)
        self._sent = self._received = 0
        self._input = bytearray()
        self._offset = 0
        self._opened = bytearray(PACKET_DATA + 4 * BLOCK_SIZE)

    async def send(self, data: bytes) -> None:
        """Seal in packets and send them in one call."""
        view = memoryview(data)
        whole, rest = divmod(len(view), PACKET_DATA)
        size = whole * _packet_size(PACKET_DATA) + (_packet_size(rest) if rest else 0)
        output = bytearray(size)
        with memoryview(output) as target:
            end = 0
            for start in range(0, len(view), PACKET_DATA):
                end = self._seal(CHANNEL_DATA, view[start : start + PACKET_DATA], target, end)
        await self._stream.send(output)  # type: ignore[arg-type]  # sockets take any buffer

    def _seal(self, number: int, data: Data, target: memoryview, start: int) -> int:
        """Write a packet to ``target`` from ``start`` on, and return where it ends."""
        end = start + _packet_size(len(data))
        body = start + _LENGTH.size
        padding = end - body - TAG_SIZE - _DATA_HEADER.size - len(data)
        length = _LENGTH.pack(end - body - TAG_SIZE)
        header = _DATA_HEADER.pack(padding, number, 0, len(data))
        target[start:body] = length
        plaintext = b"".join((header, data, _PADDING[:padding]))
        nonce = _NONCE.pack(1, self._sent)
        self._cipher.encrypt_into(nonce, plaintext, length, target[body:end])
        self._sent += 1
        return end

    send_small = send

    async def receive(self) -> Data:
        """Return the data of the next packet, which stays valid until the next call."""
        while True:
            available = len(self._input) - self._offset
            if available >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._input, self._offset)
                if available >= _LENGTH.size + length + TAG_SIZE:
                    return self._open(length)
            del self._input[: self._offset]
            self._offset = 0
            self._input += await self._stream.receive(RECEIVE_SIZE)

    def _open(self, length: int) -> Data:
        body = self._offset + _LENGTH.size
        end = body + length + TAG_SIZE
        with memoryview(self._input) as view, memoryview(self._opened) as opened:
            nonce = _NONCE.pack(1, self._received)
            header = view[self._offset : body]
            self._cipher.decrypt_into(nonce, view[body:end], header, opened[:length])
        self._received += 1
        self._offset = end
        _, number, _, size = _DATA_HEADER.unpack_from(self._opened)
        if number == CHANNEL_EOF:
            return b""
        return memoryview(self._opened)[_DATA_HEADER.size : _DATA_HEADER.size + size]

    async def send_eof(self) -> None:
        """Say that no more will be sent."""
        packet = bytearray(_packet_size(0))
        with memoryview(packet) as target:
            self._seal(CHANNEL_EOF, b"", target, 0)
        await self._stream.send(packet)  # type: ignore[arg-type]  # sockets take any buffer

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()


def _channel(stream: ByteStream) -> Channel:
    return FramedChannel(stream) if _FRAMING else PlainChannel(stream)


async def _handle(stream: ByteStream) -> None:
    channel = _channel(stream)
    try:
        command = bytearray()
        while not command.endswith(b"\n"):
            data = await channel.receive()
            if not data:
                return
            command += data
        await channel.send(b"+")  # nothing else may follow the command before this
        await answer(command.decode(), channel)
    except (anyio.BrokenResourceError, anyio.EndOfStream):
        return  # the client has what it wanted
    finally:
        await stream.aclose()


async def serve(task: Task) -> None:
    """Answer commands, one per connection."""
    listener = await anyio.create_tcp_listener(local_host=HOST)
    task.listens(listener.extra(SocketAttribute.local_port))
    await listener.serve(_handle)


async def relay(task: Task) -> None:
    """Join each client's connection with one to the server."""

    async def join(stream: ByteStream) -> None:
        near = _channel(stream)
        far = _channel(await anyio.connect_tcp(HOST, task.port))
        async with stream, anyio.create_task_group() as tasks:
            tasks.start_soon(_copy, near, far)
            await _copy(far, near)
            tasks.cancel_scope.cancel()

    listener = await anyio.create_tcp_listener(local_host=HOST)
    task.listens(listener.extra(SocketAttribute.local_port))
    await listener.serve(join)


async def _copy(source: Channel, target: Channel) -> None:
    with suppress(anyio.BrokenResourceError, anyio.EndOfStream):  # the client has what it wanted
        while data := await source.receive():
            await target.send(data)  # type: ignore[arg-type]  # either takes any buffer
        await target.send_eof()


class RawConnection:
    """Opens a TCP connection for each command."""

    def __init__(self, task: Task) -> None:
        self._task = task

    async def open(self, command: str) -> Channel:
        """Return a connection on which the server runs the command."""
        channel = _channel(await anyio.connect_tcp(HOST, self._task.port))
        await channel.send(command.encode() + b"\n")
        await channel.receive()
        return channel

    async def open_idle(self) -> Channel:
        """Return a new connection on which the server runs nothing."""
        return PlainChannel(await anyio.connect_tcp(HOST, self._task.port))


@asynccontextmanager
async def connect(task: Task) -> AsyncIterator[RawConnection]:
    """Give access to the server."""
    yield RawConnection(task)


if __name__ == "__main__":
    if not _FRAMING:
        sys.argv.remove("--plain")
    main(serve, connect, relay=relay)
