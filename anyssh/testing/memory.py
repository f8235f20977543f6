"""Two byte streams connected in memory: a socket pair without the operating system.

Each direction is a :class:`_Flow`, a bounded queue of chunks with at most one task waiting to read
and one waiting to write. Bytes are passed on without copying, and several sends may be received as
one piece, as with a socket. A chunk leaves the queue only after the last point where the receiver
can be cancelled.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import NoReturn

from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    Event,
    ResourceGuard,
)
from anyio.abc import ByteStream
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint, checkpoint_if_cancelled

__all__ = ["MemoryStream", "memory_stream_pair"]


class _Writer(Enum):
    """The sending side of a flow."""

    OPEN = auto()
    ENDED = auto()
    ABORTED = auto()


class _Reader(Enum):
    """The receiving side of a flow."""

    OPEN = auto()
    CLOSED = auto()


class _Flow:
    """The bytes in flight from one end to the other."""

    __slots__ = ("_room", "_some", "capacity", "chunks", "offset", "reader", "size", "writer")

    def __init__(self, capacity: int) -> None:
        self.capacity: int = capacity
        self.chunks: deque[bytes] = deque()
        self.offset: int = 0
        self.size: int = 0
        self.writer: _Writer = _Writer.OPEN
        self.reader: _Reader = _Reader.OPEN
        self._some: Event | None = None
        self._room: Event | None = None

    def put(self, data: bytes | memoryview) -> int:
        """Queue as many bytes as there is room for; return how many."""
        count = min(len(data), self.capacity - self.size)
        if count:
            # Copies only if the bytes are mutable, or if not all of them fit.
            self.chunks.append(bytes(data if count == len(data) else data[:count]))
            self.size += count
            if self._some is not None:
                self._some.set()
        return count

    def take(self, max_bytes: int) -> bytes:
        """Remove and return at most ``max_bytes`` bytes; the queue must not be empty."""
        first = self.chunks[0]
        if self.offset == 0 and len(self.chunks) == 1 and len(first) <= max_bytes:
            data = self.chunks.popleft()
        else:
            data = b"".join(self._parts(max_bytes))
        self.size -= len(data)
        # Waking the writer for every byte read would slow both sides to a crawl.
        if self._room is not None and self.size <= self.capacity // 2:
            self._room.set()
        return data

    def _parts(self, max_bytes: int) -> list[bytes]:
        parts = []
        while self.chunks and max_bytes:
            part = self.chunks[0][self.offset : self.offset + max_bytes]
            parts.append(part)
            max_bytes -= len(part)
            self.offset += len(part)
            if self.offset == len(self.chunks[0]):
                self.chunks.popleft()
                self.offset = 0
        return parts

    def discard(self) -> None:
        self.chunks.clear()
        self.offset = self.size = 0

    async def wait_for_bytes(self) -> None:
        self._some = Event()
        try:
            await self._some.wait()
        finally:
            self._some = None

    async def wait_for_room(self) -> None:
        self._room = Event()
        try:
            await self._room.wait()
        finally:
            self._room = None

    def wake(self) -> None:
        for event in (self._some, self._room):
            if event is not None:
                event.set()


class MemoryStream(ByteStream):
    """One end of :func:`memory_stream_pair`.

    It conforms to all of :data:`~anyssh.testing.RULES`. A cancelled :meth:`send` may have sent a
    part of its bytes, as with a socket; a cancelled :meth:`receive` loses none.
    """

    def __init__(self, incoming: _Flow, outgoing: _Flow) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._receive_guard = ResourceGuard("reading from")
        self._send_guard = ResourceGuard("writing to")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive at least one and at most ``max_bytes`` bytes. Cancelling loses none.

        :param max_bytes: the most bytes to return
        :raises ValueError: ``max_bytes`` is less than 1
        :raises ~anyio.EndOfStream: the peer ended its direction, or closed
        :raises ~anyio.ClosedResourceError: this end was closed
        :raises ~anyio.BrokenResourceError: the peer aborted
        :raises ~anyio.BusyResourceError: another task is receiving
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be a positive integer, not {max_bytes!r}")
        with self._receive_guard:
            await checkpoint_if_cancelled()
            flow = self._incoming
            yielded = False
            while True:
                self._check_open()
                if not flow.chunks and flow.writer is _Writer.OPEN:
                    await flow.wait_for_bytes()
                elif not yielded:
                    await cancel_shielded_checkpoint()
                elif flow.chunks:
                    return flow.take(max_bytes)
                else:
                    self._raise_end()
                yielded = True

    async def send(self, item: bytes) -> None:
        """Send bytes; return once all of them are in the buffer.

        :param item: the bytes
        :raises ~anyio.ClosedResourceError: this end was closed, or :meth:`send_eof` was called
        :raises ~anyio.BrokenResourceError: the peer closed or aborted
        :raises ~anyio.BusyResourceError: another task is sending
        """
        with self._send_guard:
            await checkpoint_if_cancelled()
            rest: bytes | memoryview = item
            yielded = False
            while True:
                self._check_open()
                self._check_outgoing()
                count = self._outgoing.put(rest)
                if count == len(rest):
                    break
                rest = memoryview(rest)[count:]
                await self._outgoing.wait_for_room()
                yielded = True
            if not yielded:
                await cancel_shielded_checkpoint()

    async def send_eof(self) -> None:
        """End our direction; receiving remains possible.

        :raises ~anyio.ClosedResourceError: this end was closed
        :raises ~anyio.BusyResourceError: another task is sending
        """
        with self._send_guard:
            await checkpoint_if_cancelled()
            self._check_open()
            if self._outgoing.writer is _Writer.OPEN:
                self._outgoing.writer = _Writer.ENDED
                self._outgoing.wake()
            await cancel_shielded_checkpoint()

    async def aclose(self) -> None:
        """Close this end. The peer still receives what was sent, then the end of the stream."""
        self.close()
        await checkpoint()

    def close(self) -> None:
        """Close this end without a checkpoint; see :meth:`aclose`."""
        self._shut(_Writer.ENDED)

    def abort(self) -> None:
        """Close this end as a crash would: the peer gets :exc:`~anyio.BrokenResourceError`.

        What is already in the buffer is still delivered.
        """
        self._shut(_Writer.ABORTED)

    def _shut(self, writer: _Writer) -> None:
        if self._incoming.reader is _Reader.CLOSED:
            return
        self._incoming.reader = _Reader.CLOSED
        self._incoming.discard()
        self._outgoing.writer = writer
        self._incoming.wake()
        self._outgoing.wake()

    def _check_open(self) -> None:
        if self._incoming.reader is _Reader.CLOSED:
            raise ClosedResourceError("this end of the memory stream was closed")

    def _check_outgoing(self) -> None:
        if self._outgoing.writer is not _Writer.OPEN:
            raise ClosedResourceError("send_eof() was called; nothing more can be sent")
        if self._outgoing.reader is _Reader.CLOSED:
            raise BrokenResourceError("the peer closed its end of the memory stream")

    def _raise_end(self) -> NoReturn:
        if self._incoming.writer is _Writer.ABORTED:
            raise BrokenResourceError("the peer aborted the memory stream")
        raise EndOfStream


def memory_stream_pair(*, capacity: int = 65536) -> tuple[MemoryStream, MemoryStream]:
    """Return two connected byte streams.

    :param capacity: bytes that one direction buffers before its sender waits
    :raises ValueError: ``capacity`` is less than 1
    """
    if capacity < 1:
        raise ValueError(f"capacity must be a positive number of bytes, not {capacity!r}")
    forward, backward = _Flow(capacity), _Flow(capacity)
    return MemoryStream(backward, forward), MemoryStream(forward, backward)
