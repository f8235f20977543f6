"""Bytes that were received and wait for their reader."""

from __future__ import annotations

from collections import deque

__all__ = ["ByteQueue"]


class ByteQueue:
    """Chunks in the order of their coming, given out in pieces of any size."""

    __slots__ = ("_chunks", "size")

    def __init__(self) -> None:
        self._chunks: deque[bytes | memoryview] = deque()
        self.size = 0

    def append(self, data: bytes) -> None:
        """Add a chunk at the end."""
        self._chunks.append(data)
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
        while wanted:
            chunk = chunks.popleft()
            if len(chunk) > wanted:
                view = memoryview(chunk)
                chunks.appendleft(view[wanted:])
                chunk = view[:wanted]
            taken.append(chunk)
            wanted -= len(chunk)
        self.size -= max_bytes
        return b"".join(taken)

    def clear(self) -> int:
        """Forget everything; return how much it was."""
        size, self.size = self.size, 0
        self._chunks.clear()
        return size
