"""What a session offers for forwarding: each method hands over to the session's service."""

from __future__ import annotations

from typing import TypeVar

from anyio.abc import ByteStreamConnectable

from ..session.channel import Channel
from ..session.services import SessionService
from .endpoints import Endpoint, TcpEndpoint, require_endpoints
from .local import LocalForward, RemoteConnectable, SocksForward
from .policy import Connecting, ListenerFactory
from .ports import ForwardedPort
from .remote import RemoteForward, RemoteListener
from .service import PortForwarding

__all__ = ["ForwardingMethods"]

ServiceT = TypeVar("ServiceT", bound=SessionService)


class ForwardingMethods:
    """The forwarding that a session does, by host and port; :attr:`forwarding` does all of it."""

    def service(self, kind: type[ServiceT]) -> ServiceT:
        """Return the session's instance of a service."""
        raise NotImplementedError

    @property
    def forwarding(self) -> PortForwarding:
        """All that the session forwards, sockets in the file system included."""
        return self.service(PortForwarding)

    # Listening here

    def forward_to_remote_port(
        self,
        local_host: str,
        local_port: int,
        remote_host: str,
        remote_port: int,
        *,
        connecting: Connecting | None = None,
        listener: ListenerFactory | None = None,
    ) -> LocalForward:
        """Return a forward for ``async with``: connections made here leave at the peer.

        This is ``ssh -L`` (RFC 4254 section 7.2). Entering raises :exc:`OSError` when the port
        cannot be had. Loopback means both families.

        :param local_host: where to listen: an address, ``"localhost"``, or ``""`` for all
        :param local_port: 0 chooses a free one; see :attr:`LocalForward.local_port`
        :param remote_host: a name or an address, as the peer knows it
        :param connecting: may put something around each connection, or refuse it
        :param listener: makes the listener instead of a socket
        :raises SSHError: the session has ended
        """
        return self.forward_to_remote(
            TcpEndpoint(local_host, local_port),
            TcpEndpoint(remote_host, remote_port),
            connecting=connecting,
            listener=listener,
        )

    def forward_to_remote(
        self,
        local: Endpoint,
        remote: Endpoint,
        *,
        connecting: Connecting | None = None,
        listener: ListenerFactory | None = None,
    ) -> LocalForward:
        """Return a forward like :meth:`forward_to_remote_port`, for ports and sockets alike.

        Sockets in the file system are an extension of OpenSSH. One that we listen on is for our own
        user alone, and is removed in the end; one that is there already is in use.
        """
        require_endpoints(local, remote)
        return LocalForward(self.forwarding, local, remote, connecting, listener)

    def forward_socks(
        self,
        local_host: str = "127.0.0.1",
        local_port: int = 0,
        *,
        connecting: Connecting | None = None,
        listener: ListenerFactory | None = None,
    ) -> SocksForward:
        """Return a SOCKS proxy for ``async with``: its clients say where the peer connects to.

        This is ``ssh -D``: SOCKS 4, 4a and 5, CONNECT only, without authentication. Whoever can
        connect to it can use it; so mind the address.

        :param local_port: 0 chooses a free one; see :attr:`SocksForward.local_port`
        :raises SSHError: the session has ended
        """
        local = TcpEndpoint(local_host, local_port)
        return SocksForward(self.forwarding, local, connecting, listener)

    # Connections without a listener

    async def stream_to_remote_port(self, host: str, port: int) -> Channel:
        """Have the peer connect to a port; return the channel, an AnyIO byte stream.

        When cancelled, the channel is closed as soon as the peer confirms it.

        :param host: a name or an address, as the peer knows it
        :raises ChannelOpenError: the peer may not or cannot connect there
        :raises SSHError: the session has ended
        """
        return await self.stream_to_remote(TcpEndpoint(host, port))

    async def stream_to_remote(self, remote: Endpoint) -> Channel:
        """Connect like :meth:`stream_to_remote_port`, to a port or a socket."""
        require_endpoints(remote)
        return await self.forwarding.connect(remote)

    def connectable(self, host: str, port: int) -> ByteStreamConnectable:
        """Return a way to a port that the peer reaches, for whatever takes an AnyIO connectable.

        Another session over it is a jump over this one:
        ``ClientSession.connect(session.connectable("next-hop", 22), …)``.
        Connecting raises :exc:`~anyio.ConnectionFailed`.
        """
        return self.connectable_to(TcpEndpoint(host, port))

    def connectable_to(self, remote: Endpoint) -> ByteStreamConnectable:
        """Return a way to a port or a socket that the peer reaches."""
        require_endpoints(remote)
        return RemoteConnectable(self.forwarding, remote)

    # Having the peer listen

    def forward_from_remote_port(
        self,
        remote_host: str,
        remote_port: int,
        local_host: str,
        local_port: int,
        *,
        connecting: Connecting | None = None,
    ) -> RemoteForward:
        """Return a forward for ``async with``: connections made at the peer leave here.

        This is ``ssh -R`` (RFC 4254 section 7.1). Entering raises :exc:`RequestDenied` when the
        peer may not or cannot listen, and :exc:`LocalProtocolError` when the session forwards this
        port already. A connection is confirmed once ours has come about.

        :param remote_host: where the peer listens: an address, ``"localhost"``, or ``""`` for all.
            ``"127.0.0.1"`` is asked for as ``"localhost"``, which peers take for both families
        :param remote_port: 0 lets the peer choose; see :attr:`RemoteForward.remote_port`
        :param local_host: what to connect to
        :param connecting: may put something around each connection, or refuse it
        :raises SSHError: the session has ended
        """
        return self.forward_from_remote(
            TcpEndpoint(remote_host, remote_port),
            TcpEndpoint(local_host, local_port),
            connecting=connecting,
        )

    def forward_from_remote(
        self, remote: Endpoint, local: Endpoint, *, connecting: Connecting | None = None
    ) -> RemoteForward:
        """Return a forward like :meth:`forward_from_remote_port`, for ports and sockets alike."""
        require_endpoints(remote, local)
        return RemoteForward(self.forwarding, remote, local, connecting)

    def stream_from_remote_port(self, remote_host: str, remote_port: int) -> RemoteListener:
        """Return a listener for ``async with``: connections made at the peer, as channels.

        What entering raises is told by :meth:`forward_from_remote_port`.

        :param remote_port: 0 lets the peer choose; see :attr:`RemoteListener.remote_port`
        """
        return self.stream_from_remote(TcpEndpoint(remote_host, remote_port))

    def stream_from_remote(self, remote: Endpoint) -> RemoteListener:
        """Return a listener like :meth:`stream_from_remote_port`, for a port or a socket."""
        require_endpoints(remote)
        return RemoteListener(self.forwarding, remote)

    # What the peer has us listen on

    async def wait_for_forwarded_port(self, port: int) -> ForwardedPort:
        """Wait until the peer has asked us to listen on a port, and we do.

        :param port: the number that both sides know
        :raises SSHError: the session has ended
        """
        return await self.forwarding.wait_for_port(port)

    async def connect_to_forwarded_port(self, port: int) -> Channel:
        """Connect to a port that the peer has asked us to listen on, without a socket.

        :param port: the number that both sides know
        :raises LocalProtocolError: it has not asked for it
        :raises ChannelOpenError: the peer could not connect to what is behind the port
        :raises SSHError: the session has ended
        """
        return await self.forwarding.connect_to_port(port)
