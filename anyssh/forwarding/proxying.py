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

__all__ = ["SocksProxy", "ready"]

StreamT = TypeVar("StreamT", bound=ByteStream)

MAX_HANDSHAKES: Final = 512


class SocksProxy:
    """Answers the clients of one proxy.

    If too many have not named their targets yet, the oldest is given up for each new one, so that
    whoever only connects neither takes up all file descriptors nor locks others out.

    :param seconds: each client's deadline for naming its target
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._handshakes: dict[anyio.CancelScope, None] = {}

    async def answer(
        self, client: ByteStream, connect: Callable[[TcpEndpoint], Awaitable[StreamT]]
    ) -> tuple[TcpEndpoint, StreamT] | None:
        """Run the handshake with a client and connect to its target.

        No byte is read that belongs to the target. If the connection fails, the client is told so
        and closed; on an exception it is reset.

        :param connect: connects, or raises :exc:`ChannelOpenError`
        :return: the target and the connection to it; None if there is no connection
        :raises TimeoutError: the client did not name its target in time, or was given up
        """
        server = SocksServer()
        try:
            with self._one_more_handshake():
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

    @contextmanager
    def _one_more_handshake(self) -> Iterator[None]:
        if len(self._handshakes) >= MAX_HANDSHAKES:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.deadline = -math.inf
        with anyio.fail_after(self._seconds) as scope:
            self._handshakes[scope] = None
            try:
                yield
            finally:
                self._handshakes.pop(scope, None)


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
