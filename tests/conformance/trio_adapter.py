"""An AnyIO byte stream wrapped as a Trio stream, to run Trio's own conformance checks.

Trio's interface differs: the end is ``b""`` instead of an exception, and ``max_bytes`` is optional.
"""

from __future__ import annotations

import operator

import anyio
import trio
from anyio.abc import ByteStream


class TrioStream(trio.abc.HalfCloseableStream):
    """A :class:`trio.abc.HalfCloseableStream` over an :class:`anyio.abc.ByteStream`.

    :param inner: a stream that runs under AnyIO's Trio backend
    """

    def __init__(self, inner: ByteStream) -> None:
        self.inner = inner

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with _trio_errors():
            await self.inner.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        # AnyIO has no such call; an empty send tells at least who is busy, closed or broken.
        with _trio_errors():
            await self.inner.send(b"")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        limit = 65536 if max_bytes is None else operator.index(max_bytes)
        with _trio_errors():
            try:
                return await self.inner.receive(limit)
            except anyio.EndOfStream:
                return b""

    async def send_eof(self) -> None:
        with _trio_errors():
            await self.inner.send_eof()

    async def aclose(self) -> None:
        await self.inner.aclose()


class _trio_errors:
    """Turn AnyIO's errors into Trio's of the same name."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        match error:
            case anyio.ClosedResourceError():
                raise trio.ClosedResourceError(*error.args) from error
            case anyio.BrokenResourceError():
                raise trio.BrokenResourceError(*error.args) from error
            case anyio.BusyResourceError():
                raise trio.BusyResourceError(*error.args) from error
