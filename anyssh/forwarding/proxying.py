"""Answering the clients of a SOCKS proxy, on either side of a session."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import anyio
from anyio.abc import ByteStream

from ..constants import ChannelOpenFailureReason
from ..errors import ChannelOpenError
from ..session.channel import Channel
from .endpoints import TcpEndpoint
from .relay import reset
from .socks import SocksReply, SocksServer

__all__ = ["Handshakes", "answer_socks", "ready"]

StreamT = TypeVar("StreamT", bound=ByteStream)

MAX_HANDSHAKES: Final = 512


class Handshakes:
    """The clients of one proxy that have not named their targets yet.

    If there are too many, the oldest is given up for each new one, so that whoever only connects
    neither takes up all file descriptors nor locks others out.
    """

    def __init__(self) -> None:
        self._scopes: dict[anyio.CancelScope, None] = {}

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Count one more; raise :exc:`TimeoutError` if it takes too long or is given up."""
        if len(self._scopes) >= MAX_HANDSHAKES:
            oldest = next(iter(self._scopes))
            del self._scopes[oldest]
            oldest.deadline = -math.inf
        with anyio.fail_after(seconds) as scope:
            self._scopes[scope] = None
            try:
                yield
            finally:
                self._scopes.pop(scope, None)


async def answer_socks(
    client: ByteStream,
    connect: Callable[[TcpEndpoint], Awaitable[StreamT]],
    handshakes: Handshakes,
    seconds: float,
) -> tuple[TcpEndpoint, StreamT] | None:
    """Run the handshake with a client and connect to its target.

    No byte is read that belongs to the target. If the connection fails, the client is told so and
    closed; on an exception it is reset.

    :param connect: connects, or raises :exc:`ChannelOpenError`
    :param handshakes: those of the proxy
    :param seconds: the client's deadline for naming its target
    :return: the target and the connection to it; None if there is no connection
    """
    server = SocksServer()
    try:
        with handshakes.limited(seconds):
            target = await _shake_hands(client, server)
        if target is None:
            await client.aclose()
            return None
        try:
            connection = await connect(target)
        except ChannelOpenError as error:
            await client.send(server.reply(_reply_for(error.reason)))
            await client.aclose()
            return None
        try:
            await client.send(server.reply(SocksReply.GRANTED))
        except BaseException:
            await reset(connection)
            raise
    except BaseException:
        await reset(client)
        raise
    return target, connection


async def _shake_hands(client: ByteStream, server: SocksServer) -> TcpEndpoint | None:
    """Run the SOCKS handshake; return the target, or None if there is none."""
    while not server.is_finished:
        data = await client.receive(server.wanted)
        if len(data) > server.wanted:
            raise anyio.BrokenResourceError("a stream returned more bytes than requested")
        answer = server.receive_data(data)
        if answer:
            await client.send(answer)
    return server.target


def _reply_for(reason: int) -> SocksReply:
    if reason == ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED:
        return SocksReply.NOT_ALLOWED
    if reason == ChannelOpenFailureReason.CONNECT_FAILED:
        return SocksReply.HOST_UNREACHABLE
    return SocksReply.FAILED


def ready(channel: Channel) -> Callable[[], Awaitable[Channel]]:
    """Return what opens a channel that is already open."""

    async def opened() -> Channel:
        return channel

    return opened
