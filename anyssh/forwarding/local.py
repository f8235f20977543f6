"""Local forwarding: we listen, and the peer connects (``ssh -L`` and ``ssh -D``)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self

from anyio import AsyncContextManagerMixin
from anyio.abc import ByteStream, ByteStreamConnectable, Listener

from ..errors import SSHError
from ..session.channel import Channel
from .acceptor import Acceptor, originator_of
from .endpoints import Endpoint, TcpEndpoint
from .errors import ConnectFailed
from .listening import bound_port, close_listener, listen
from .payloads import Way
from .policy import Connecting, ListenerFactory
from .ports import ForwardedConnection
from .proxying import SocksProxy, ready
from .service import PortForwarding
from .sockets import ConnectedSocket

__all__ = ["Forward", "LocalForward", "RemoteConnectable", "SocksForward"]


class Forward(AsyncContextManagerMixin):
    """A listener on this side whose connections the session carries, inside ``async with``.

    Leaving closes the listener and aborts its connections. The end of the session does the
    same; the body then continues, and new connections are refused.

    :ivar local: where it listens, with the actual port
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
        """The port it listens on; None for a UNIX socket."""
        return self.local.port if isinstance(self.local, TcpEndpoint) else None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._acceptor is not None:
            raise RuntimeError("a forward can be entered only once")
        bound = await self._listen(self.local)
        if isinstance(self.local, TcpEndpoint):
            self.local = TcpEndpoint(self.local.host, bound_port(bound) or self.local.port)
        acceptor = self._service.carried.make_acceptor(bound, self._carry, self._carry_nowait)
        try:
            self._service.start_soon(acceptor.run)
        except BaseException:
            await close_listener(bound)
            raise
        self._acceptor = acceptor
        try:
            yield self
        finally:
            await acceptor.aclose()

    async def stop_listening(self) -> None:
        """Close the listener; its connections continue until the forward is left."""
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
    ) -> None:
        await self._service.carried.carry(
            stream,
            open_channel,
            ForwardedConnection(self._service.session, stream, remote, origin, False),
            connecting=self._connecting,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.local}>"


class LocalForward(Forward):
    """Forwards connections made here to one endpoint behind the peer (``ssh -L``).

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
    """A SOCKS 4, 4a and 5 proxy whose connections the peer makes (``ssh -D``)."""

    def __init__(
        self,
        service: PortForwarding,
        local: Endpoint,
        connecting: Connecting | None,
        listener: ListenerFactory | None,
    ) -> None:
        super().__init__(service, local, connecting, listener)
        self._proxy = SocksProxy(service.policy.connect_time)

    async def _carry(self, stream: ByteStream) -> None:
        origin = originator_of(stream)
        answered = await self._proxy.answer(stream, lambda target: self._open(target, origin))
        if answered is not None:
            target, channel = answered
            await self._carry_to(stream, target, origin, ready(channel))


class RemoteConnectable(ByteStreamConnectable):
    """A connectable for an endpoint behind the peer; each connection is a channel."""

    def __init__(self, service: PortForwarding, remote: Endpoint) -> None:
        self._service = service
        self._remote = remote

    async def connect(self) -> ByteStream:
        """Open a connection.

        :raises ~anyio.ConnectionFailed: it could not be established; ``__cause__`` says why
        """
        try:
            return await self._service.connect(self._remote)
        except SSHError as error:
            raise ConnectFailed(f"{self._remote}: {error}") from error

    def __repr__(self) -> str:
        return f"<RemoteConnectable {self._remote}>"
