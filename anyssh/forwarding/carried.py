"""Connections that are relayed without a task, as the forwarding of a session knows them.

Each tells its channel where it comes from and goes to, is counted among those of its port and of
whoever accepted it, and is traced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from anyio.abc import SocketAttribute

from ..errors import ChannelOpenError
from ..session.channel import Channel
from ..trace import TraceId, TraceLevel
from ..wire import displayable
from .endpoints import Endpoint, TcpEndpoint
from .ports import ForwardedPort
from .relay import Leftovers, SocketRelay
from .sockets import ConnectedSocket
from .watching import Watcher

if TYPE_CHECKING:
    from .service import PortForwarding

__all__ = ["CarriedRelay", "Owner", "describe"]


class Owner(Protocol):
    """Whoever has accepted connections and breaks them off at his end."""

    def relay_began(self, relay: SocketRelay) -> None:
        """Own a relay, which waits for its channel."""

    def relay_opened(self, relay: SocketRelay) -> None:
        """Note that a relay waits no longer."""

    def relay_ended(self, relay: SocketRelay) -> None:
        """Own a relay no longer."""


class CarriedRelay(SocketRelay):
    """The relay of one connection.

    :param endpoint: where it goes to, or where it arrived
    :param originator: where it comes from, as far as that is known
    :param is_incoming: whether the peer has opened the channel
    :param port: where it belongs, if anywhere
    :param owner: whoever accepted it
    """

    __slots__ = (
        "_endpoint",
        "_has_opened",
        "_is_incoming",
        "_originator",
        "_owner",
        "_port",
        "_service",
    )

    def __init__(
        self,
        service: PortForwarding,
        watcher: Watcher,
        leftovers: Leftovers,
        stream: ConnectedSocket,
        endpoint: Endpoint,
        originator: TcpEndpoint | None,
        *,
        is_incoming: bool = False,
        port: ForwardedPort | None = None,
        owner: Owner | None = None,
    ) -> None:
        super().__init__(stream, watcher, leftovers)
        self._service = service
        self._endpoint = endpoint
        self._originator = originator
        self._is_incoming = is_incoming
        self._port = port
        self._owner = owner
        self._has_opened = False
        if owner is not None:
            owner.relay_began(self)

    def opened(self, channel: Channel) -> None:
        """Make the connection known."""
        self._has_opened = True
        if self._owner is not None:
            self._owner.relay_opened(self)
        if self._is_incoming or self._port is not None:
            describe(channel, local=self._endpoint, remote=self._originator)
        else:
            describe(channel, local=None, remote=self._endpoint)
        if self._port is not None:
            self._service.ports_of(self._port).add_channel(self._port, channel)
        if self._service.is_traced:
            origin = f" from {self._originator}" if self._originator else ""
            self._trace(TraceId.PORT_FORWARD_CHANNEL_OPENED, TraceLevel.INFO, origin)

    def channel_refused(self, error: ChannelOpenError) -> None:
        """Break off, which is all that whoever has connected will see."""
        what = TraceId.PORT_FORWARD_CHANNEL_OPEN_FAILED
        self._trace(what, TraceLevel.WARNING, f": {error}", error)
        super().channel_refused(error)

    def ended(self) -> None:
        """Forget the connection."""
        if self._has_opened:
            if self._port is not None and self._channel is not None:
                self._service.ports_of(self._port).remove_channel(self._port, self._channel)
            if self._service.is_traced:
                self._trace(TraceId.PORT_FORWARD_CHANNEL_CLOSED, TraceLevel.INFO, ": ended")
        if self._owner is not None:
            if not self._has_opened:
                self._owner.relay_opened(self)
            self._owner.relay_ended(self)

    def _trace(
        self, trace_id: TraceId, level: TraceLevel, what: str, error: Exception | None = None
    ) -> None:
        self._service.trace(trace_id, level, displayable(f"{self._endpoint}{what}"), error)


def describe(channel: Channel, *, local: Endpoint | None, remote: Endpoint | None) -> None:
    """Have a channel tell its addresses as a socket would."""
    if isinstance(local, TcpEndpoint):
        near = (local.host, local.port)
        channel.add_attributes(
            {
                SocketAttribute.local_address: lambda: near,
                SocketAttribute.local_port: lambda: near[1],
            }
        )
    if isinstance(remote, TcpEndpoint):
        far = (remote.host, remote.port)
        channel.add_attributes(
            {
                SocketAttribute.remote_address: lambda: far,
                SocketAttribute.remote_port: lambda: far[1],
            }
        )
