"""Listening here for connections that leave at the peer: ``ssh -L`` and ``ssh -D``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Self

import anyio
from anyio import AsyncContextManagerMixin
from anyio.abc import ByteStream, ByteStreamConnectable, Listener

from ..constants import ChannelOpenFailureReason
from ..errors import ChannelOpenError, SSHError
from ..session.channel import Channel
from .acceptor import Acceptor, originator_of
from .endpoints import Endpoint, TcpEndpoint
from .errors import ConnectFailed
from .listening import bound_port, close_listener, listen
from .payloads import Way
from .policy import Connecting, ListenerFactory
from .ports import ForwardedConnection
from .relay import reset
from .service import PortForwarding
from .sockets import ConnectedSocket
from .socks import SocksReply, SocksServer

__all__ = ["Forward", "LocalForward", "RemoteConnectable", "SocksForward"]

HANDSHAKE_BYTES: Final = 4096


class Forward(AsyncContextManagerMixin):
    """A listener here whose connections go through the session, inside ``async with``.

    Leaving closes the listener and breaks its connections off. All of it also ends with
    the session; the body then goes on, and new connections are refused.

    :ivar local: where it listens; the port is the one that was chosen
    """

    def __init__(
        self,
        service: PortForwarding,
        local: Endpoint,
        connecting: Connecting | None,
        listener: ListenerFactory | None,
    ) -> None:
        self.local = local
        self._service = service
        self._connecting = connecting
        self._listen: Callable[[Endpoint], Awaitable[Listener[ByteStream]]] = listener or listen
        self._acceptor: Acceptor | None = None

    @property
    def local_port(self) -> int | None:
        """The port that is listened on, None for a socket in the file system."""
        return self.local.port if isinstance(self.local, TcpEndpoint) else None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._acceptor is not None:
            raise RuntimeError("a forward is entered once")
        bound = await self._listen(self.local)
        if isinstance(self.local, TcpEndpoint):
            self.local = TcpEndpoint(self.local.host, bound_port(bound) or self.local.port)
        self._acceptor = self._service.carried.make_acceptor(bound, self._carry, self._carry_nowait)
        try:
            self._service.start_soon(self._acceptor.run)
        except BaseException:
            await close_listener(bound)
            raise
        try:
            yield self
        finally:
            await self._acceptor.aclose()

    async def stop_listening(self) -> None:
        """Close the listener; the connections go on until the forward is left."""
        if self._acceptor is not None:
            await self._acceptor.stop_listening()

    async def _carry(self, stream: ByteStream) -> None:
        """Take over a connection."""
        raise NotImplementedError

    def _carry_nowait(self, stream: ConnectedSocket) -> bool:
        """Take over a connection without a task; return whether that is possible."""
        return False

    async def _open(self, remote: Endpoint, origin: TcpEndpoint | None) -> Channel:
        if self._acceptor is None:
            raise RuntimeError("the forward was never entered")
        async with self._acceptor.turns.turn():
            return await self._service.open(Way.DIRECT, remote, origin)

    async def _carry_to(
        self,
        stream: ByteStream,
        remote: Endpoint,
        origin: TcpEndpoint | None,
        open_channel: Callable[[], Awaitable[Channel]],
        early: bytes = b"",
    ) -> None:
        await self._service.carried.carry(
            stream,
            open_channel,
            ForwardedConnection(self._service.session, stream, remote, origin, False),
            connecting=self._connecting,
            early=early,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.local}>"


class LocalForward(Forward):
    """Connections that come here leave at the peer, for one place (``ssh -L``).

    :ivar remote: where the peer connects to
    """

    def __init__(
        self,
        service: PortForwarding,
        local: Endpoint,
        remote: Endpoint,
        connecting: Connecting | None,
        listener: ListenerFactory | None,
    ) -> None:
        super().__init__(service, local, connecting, listener)
        self.remote = remote

    def _carry_nowait(self, stream: ConnectedSocket) -> bool:
        return self._acceptor is not None and self._service.carried.carry_nowait(
            self._acceptor, stream, Way.DIRECT, self.remote, connecting=self._connecting
        )

    async def _carry(self, stream: ByteStream) -> None:
        origin = originator_of(stream)
        await self._carry_to(stream, self.remote, origin, lambda: self._open(self.remote, origin))


class SocksForward(Forward):
    """Connections that come here say by SOCKS 4, 4a or 5 where they go (``ssh -D``)."""

    async def _carry(self, stream: ByteStream) -> None:
        server = SocksServer()
        origin = originator_of(stream)
        try:
            with anyio.fail_after(self._service.policy.connect_time):
                target = await self._shake_hands(stream, server)
            if target is None:
                await stream.aclose()
                return
            channel = await self._open_for(stream, server, target, origin)
        except BaseException:
            await reset(stream)
            raise
        if channel is not None:
            await self._carry_to(stream, target, origin, _ready(channel), server.surplus)

    async def _shake_hands(self, stream: ByteStream, server: SocksServer) -> TcpEndpoint | None:
        """Answer until it is known where a connection goes, or that it goes nowhere."""
        while not server.is_finished:
            answer = server.receive_data(await stream.receive(HANDSHAKE_BYTES))
            if answer:
                await stream.send(answer)
        return server.target

    async def _open_for(
        self,
        stream: ByteStream,
        server: SocksServer,
        target: TcpEndpoint,
        origin: TcpEndpoint | None,
    ) -> Channel | None:
        """Open a channel and say so; if it does not come about, say that and close."""
        try:
            channel = await self._open(target, origin)
        except ChannelOpenError as error:
            await stream.send(server.reply(_socks_reply(error.reason)))
            await stream.aclose()
            return None
        try:
            await stream.send(server.reply(SocksReply.GRANTED))
        except BaseException:
            await reset(channel)
            raise
        return channel


def _socks_reply(reason: int) -> SocksReply:
    if reason == ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED:
        return SocksReply.NOT_ALLOWED
    if reason == ChannelOpenFailureReason.CONNECT_FAILED:
        return SocksReply.HOST_UNREACHABLE
    return SocksReply.FAILED


def _ready(channel: Channel) -> Callable[[], Awaitable[Channel]]:
    async def opened() -> Channel:
        return channel

    return opened


class RemoteConnectable(ByteStreamConnectable):
    """A way to a place that the peer of a session reaches; each connection is a channel."""

    def __init__(self, service: PortForwarding, remote: Endpoint) -> None:
        self._service = service
        self._remote = remote

    async def connect(self) -> ByteStream:
        """Open a connection.

        :raises ~anyio.ConnectionFailed: it did not come about; ``__cause__`` tells why
        """
        try:
            return await self._service.connect(self._remote)
        except SSHError as error:
            raise ConnectFailed(f"{self._remote}: {error}") from error

    def __repr__(self) -> str:
        return f"<RemoteConnectable {self._remote}>"
