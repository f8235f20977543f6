"""Received bytes that wait for their reader."""

from __future__ import annotations

from typing import Final

from ..wire import Buffer

__all__ = ["ByteQueue"]

SMALL_BYTES: Final = 1024
JOINED_BYTES: Final = 32 * 1024
"""Small chunks are joined up to this size, lest their objects outweigh their bytes."""


class ByteQueue:
    """Chunks in order of arrival, read in pieces of any size."""

    __slots__ = ("_chunks", "size")

    def __init__(self) -> None:
        # Not a deque, which takes 700 bytes even when empty, as it is in most channels.
        self._chunks: list[bytes | bytearray | memoryview] = []
        self.size: int = 0

    def append(self, data: Buffer) -> None:
        """Append a chunk."""
        chunks = self._chunks
        if len(data) < SMALL_BYTES and chunks:
            last = chunks[-1]
            if type(last) is bytearray and len(last) < JOINED_BYTES:
                last += data
            else:
                chunks.append(bytearray(data))
        else:
            chunks.append(data)
        self.size += len(data)

    def put_back(self, data: Buffer) -> None:
        """Put what was taken last, or the end of it, back to the front."""
        self._chunks.insert(0, data)
        self.size += len(data)

    def take(self, max_bytes: int) -> bytes:
        """Remove and return up to ``max_bytes`` from the front; there must be some."""
        chunks = self._chunks
        if self.size <= max_bytes:
            data = b"".join(chunks) if len(chunks) > 1 else bytes(chunks[0])
            chunks.clear()
            self.size = 0
            return data
        taken = []
        wanted = max_bytes
        for chunk in chunks:
            if len(chunk) > wanted:
                break
            taken.append(chunk)
            wanted -= len(chunk)
        del chunks[: len(taken)]
        if wanted:
            view = memoryview(chunks[0])
            taken.append(view[:wanted])
            chunks[0] = view[wanted:]
        self.size -= max_bytes
        return b"".join(taken)

    def clear(self) -> int:
        """Discard everything; return how many bytes that was."""
        size, self.size = self.size, 0
        self._chunks.clear()
        return size
