"""The conformance suite on real sockets: it must not require more than streams provide.

A rule that is wrong would have to be wrong for them and for our memory stream alike. Rules that go
beyond what a backend's sockets promise are left out by name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketListener

from anyssh.testing import check_byte_stream

BEYOND_SOCKETS = {
    "asyncio": {
        "receive_after_close",
        "receive_is_cancellable",
        "send_after_eof",
        "send_eof_after_close",
        "send_eof_is_cancellable",
        "send_eof_yields",
    },
    "trio": {
        "empty_send_yields",
        "send_after_eof",
        "send_eof_after_close",
        "send_eof_is_cancellable",
        "send_eof_yields",
    },
}


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        (only,) = cast("list[SocketListener]", listener.listeners)
        port = only.extra(SocketAttribute.local_port)
        async with (
            await anyio.connect_tcp("127.0.0.1", port) as left,
            await only.accept() as right,
        ):
            yield left, right


async def test_asks_nothing_of_streams_that_sockets_do_not_give(anyio_backend_name: str) -> None:
    await check_byte_stream(
        tcp_pair,
        buffer_limit=None if anyio_backend_name == "asyncio" else 32 * 1024 * 1024,
        without=BEYOND_SOCKETS[anyio_backend_name],
    )
