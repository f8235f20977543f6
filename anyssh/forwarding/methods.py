"""The forwarding methods of a session, which delegate to its forwarding service."""

from __future__ import annotations

from typing import TypeVar

from anyio.abc import ByteStreamConnectable

from ..session.channel import Channel
from ..session.services import SessionService
from .endpoints import Endpoint, TcpEndpoint, require_endpoints
from .local import LocalForward, RemoteConnectable, SocksForward
from .policy import Connecting, ListenerFactory
from .ports import ForwardedPort
from .remote import RemoteForward, RemoteListener, RemoteSocksForward
from .service import PortForwarding

__all__ = ["ForwardingMethods"]

ServiceT = TypeVar("ServiceT", bound=SessionService)


class ForwardingMethods:
    """Port forwarding by host and port, backed by :attr:`forwarding`."""

    __slots__ = ()

    def service(self, kind: type[ServiceT]) -> ServiceT:
        """Return the session's instance of a service."""
        raise NotImplementedError

    @property
    def forwarding(self) -> PortForwarding:
        """The forwarding service, which also handles UNIX sockets."""
        return self.service(PortForwarding)

    # Local forwarding

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
        """Return a forward for ``async with``: the peer connects for what connects here.

        This is ``ssh -L`` (RFC 4254 section 7.2). Entering raises :exc:`OSError` if the port is not
        available. Loopback means both IPv4 and IPv6.

        :param local_host: where to listen: an address, ``"localhost"``, or ``""`` for all
            interfaces
        :param local_port: 0 picks a free port; see :attr:`LocalForward.local_port`
        :param remote_host: a name or an address, as seen from the peer
        :param remote_port: the port that the peer connects to
        :param connecting: may wrap or refuse each connection
        :param listener: creates the listener in place of a socket
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
        """Return a forward like :meth:`forward_to_remote_port`, for ports and UNIX sockets.

        UNIX sockets are an extension of OpenSSH. A socket that we listen on is accessible to the
        current user only, and removed at the end; an existing path counts as in use.

        :param local: where to listen
        :param remote: where the peer connects to
        :param connecting: as for :meth:`forward_to_remote_port`
        :param listener: as for :meth:`forward_to_remote_port`
        :raises SSHError: the session has ended
        :raises TypeError: ``local`` or ``remote`` is not an endpoint
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
        """Return a SOCKS proxy for ``async with``, whose connections the peer makes.

        This is ``ssh -D``: SOCKS 4, 4a and 5, CONNECT only, without authentication. Everyone who
        can reach the proxy can use it, so choose the address with care.

        :param local_host: where to listen, as for :meth:`forward_to_remote_port`
        :param local_port: 0 picks a free port; see :attr:`SocksForward.local_port`
        :param connecting: may wrap or refuse each connection
        :param listener: creates the listener in place of a socket
        :raises SSHError: the session has ended
        """
        local = TcpEndpoint(local_host, local_port)
        return SocksForward(self.forwarding, local, connecting, listener)

    # Connections without a listener

    async def stream_to_remote_port(self, host: str, port: int) -> Channel:
        """Have the peer connect to a port; return the channel, an AnyIO byte stream.

        If the call is cancelled, the channel is closed as soon as the peer confirms it.

        :param host: a name or an address, as seen from the peer
        :param port: the port that the peer connects to
        :raises ChannelOpenError: the peer may not or cannot connect there
        :raises SSHError: the session has ended
        """
        return await self.stream_to_remote(TcpEndpoint(host, port))

    async def stream_to_remote(self, remote: Endpoint) -> Channel:
        """Connect like :meth:`stream_to_remote_port`, to a port or a UNIX socket.

        :param remote: where the peer connects to
        :raises TypeError: ``remote`` is not an endpoint
        """
        require_endpoints(remote)
        return await self.forwarding.connect(remote)

    def connectable(self, host: str, port: int) -> ByteStreamConnectable:
        """Return an AnyIO connectable for a port that the peer can reach.

        A session over it uses this one as a jump host:
        ``ClientSession.connect(session.connectable("next-hop", 22), …)``. Connecting raises
        :exc:`~anyio.ConnectionFailed`.

        :param host: a name or an address, as seen from the peer
        :param port: the port that the peer connects to
        :raises SSHError: the session has ended
        """
        return self.connectable_to(TcpEndpoint(host, port))

    def connectable_to(self, remote: Endpoint) -> ByteStreamConnectable:
        """Return a connectable like :meth:`connectable`, for a port or a UNIX socket.

        :param remote: where the peer connects to
        :raises TypeError: ``remote`` is not an endpoint
        """
        require_endpoints(remote)
        return RemoteConnectable(self.forwarding, remote)

    # Remote forwarding

    def forward_from_remote_port(
        self,
        remote_host: str,
        remote_port: int,
        local_host: str,
        local_port: int,
        *,
        connecting: Connecting | None = None,
    ) -> RemoteForward:
        """Return a forward for ``async with``: we connect for what connects to the peer.

        This is ``ssh -R`` (RFC 4254 section 7.1). Entering raises :exc:`RequestDenied` if the peer
        may not or cannot listen, and :exc:`LocalProtocolError` if the session already forwards this
        port. A connection is confirmed to the peer once ours is established.

        :param remote_host: where the peer listens: an address, ``"localhost"``, or ``""`` for all
            interfaces. ``"127.0.0.1"`` is sent as ``"localhost"``, which means both IPv4 and IPv6
            to peers
        :param remote_port: 0 lets the peer choose; see :attr:`RemoteForward.remote_port`
        :param local_host: the host to connect to
        :param local_port: the port to connect to
        :param connecting: may wrap or refuse each connection
        :raises SSHError: the session has ended
        :raises ValueError: ``local_port`` is 0
        """
        return self.forward_from_remote(
            TcpEndpoint(remote_host, remote_port),
            TcpEndpoint(local_host, local_port),
            connecting=connecting,
        )

    def forward_from_remote(
        self, remote: Endpoint, local: Endpoint, *, connecting: Connecting | None = None
    ) -> RemoteForward:
        """Return a forward like :meth:`forward_from_remote_port`, for ports and UNIX sockets.

        :param remote: where the peer listens
        :param local: where to connect to
        :param connecting: as for :meth:`forward_from_remote_port`
        :raises TypeError: ``remote`` or ``local`` is not an endpoint
        """
        require_endpoints(remote, local)
        return RemoteForward(self.forwarding, remote, local, connecting)

    def forward_socks_from_remote_port(
        self, remote_host: str = "127.0.0.1", remote_port: int = 0
    ) -> RemoteSocksForward:
        """Return a SOCKS proxy at the peer for ``async with``, whose connections we make.

        This is ``ssh -R`` without a target: SOCKS 4, 4a and 5, CONNECT only, without
        authentication. The peer, and everyone who can reach the proxy there, choose where this
        machine connects to. So the session's policy decides about each connection, as it does about
        everything that the peer wants to connect to: see :class:`ForwardingPolicy`.

        Entering raises what entering :meth:`forward_from_remote_port` raises.

        :param remote_host: where the peer listens, as for :meth:`forward_from_remote_port`
        :param remote_port: 0 lets the peer pick one; see :attr:`RemoteSocksForward.remote_port`
        :raises LocalProtocolError: the policy allows no connections at all
        :raises SSHError: the session has ended
        """
        return RemoteSocksForward(self.forwarding, TcpEndpoint(remote_host, remote_port))

    def stream_from_remote_port(self, remote_host: str, remote_port: int) -> RemoteListener:
        """Return a listener for ``async with``: connections made to the peer, as channels.

        Entering raises what entering :meth:`forward_from_remote_port` raises.

        :param remote_host: as for :meth:`forward_from_remote_port`
        :param remote_port: 0 lets the peer choose; see :attr:`RemoteListener.remote_port`
        :raises SSHError: the session has ended
        """
        return self.stream_from_remote(TcpEndpoint(remote_host, remote_port))

    def stream_from_remote(self, remote: Endpoint) -> RemoteListener:
        """Return a listener like :meth:`stream_from_remote_port`, for a port or a UNIX socket.

        :param remote: where the peer listens
        :raises TypeError: ``remote`` is not an endpoint
        """
        require_endpoints(remote)
        return RemoteListener(self.forwarding, remote)

    # Ports that we listen on for the peer

    async def wait_for_forwarded_port(self, port: int) -> ForwardedPort:
        """Wait until we listen on a port at the peer's request.

        :param port: the port number that both sides use
        :raises SSHError: the session has ended
        """
        return await self.forwarding.wait_for_port(port)

    async def connect_to_forwarded_port(self, port: int) -> Channel:
        """Connect to a port that the peer has asked us to listen on, without a socket.

        :param port: the port number that both sides use
        :raises LocalProtocolError: the peer has not asked for this port
        :raises ChannelOpenError: the peer could not connect to what is behind the port
        :raises SSHError: the session has ended
        """
        return await self.forwarding.connect_to_port(port)
