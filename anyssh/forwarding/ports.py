"""The ports forwarded at present, their channels, and the events that report changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio.abc import ByteStream

from ..session._waiting import Notice
from ..session.channel import Channel
from ..session.events import SessionEvent
from .endpoints import Endpoint, TcpEndpoint

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = [
    "ForwardedChannelAdded",
    "ForwardedChannelRemoved",
    "ForwardedConnection",
    "ForwardedPort",
    "ForwardedPortAdded",
    "ForwardedPortRemoved",
    "Ports",
]


class ForwardedPort:
    """A port or UNIX socket that one side listens on for the other.

    :ivar local: our end: where we connect to, or where we listen; None if there is no socket
    :ivar remote: the peer's end, with the port number that both sides use
    :ivar is_remote: whether the peer asked for it and we listen
    :ivar open_channels: the channels of its connections, in the order of arrival
    """

    def __init__(self, local: Endpoint | None, remote: Endpoint | None, is_remote: bool) -> None:
        self.local = local
        self.remote = remote
        self.is_remote = is_remote
        self.open_channels: dict[Channel, None] = {}

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The open channels of its connections, in the order of arrival."""
        return tuple(self.open_channels)

    @property
    def local_port(self) -> int | None:
        """The number of our port; None if our end has none."""
        return self.local.port if isinstance(self.local, TcpEndpoint) else None

    @property
    def remote_port(self) -> int | None:
        """The port number that both sides use; None if there is none."""
        return self.remote.port if isinstance(self.remote, TcpEndpoint) else None

    def __str__(self) -> str:
        """Show both ends, with an arrow towards the side that connects."""
        arrow = "->" if self.is_remote else "<-"
        return f"{_short(self.local)}{arrow}{_short(self.remote)}"

    def __repr__(self) -> str:
        return f"<ForwardedPort {self}>"


def _short(endpoint: Endpoint | None) -> str:
    match endpoint:
        case None:
            return ""
        case TcpEndpoint():
            return str(endpoint.port)
    return str(endpoint)


@dataclass(frozen=True, slots=True)
class ForwardedPortAdded(SessionEvent):
    """A port is forwarded from now on.

    :ivar port: the new port
    """

    port: ForwardedPort


@dataclass(frozen=True, slots=True)
class ForwardedPortRemoved(SessionEvent):
    """A port is no longer forwarded; its connections may continue.

    :ivar port: the former port
    """

    port: ForwardedPort


@dataclass(frozen=True, slots=True)
class ForwardedChannelAdded(SessionEvent):
    """A connection to a forwarded port was established.

    :ivar port: the port
    :ivar channel: the channel that carries the connection
    """

    port: ForwardedPort
    channel: Channel


@dataclass(frozen=True, slots=True)
class ForwardedChannelRemoved(SessionEvent):
    """A connection to a forwarded port has ended.

    :ivar port: the port
    :ivar channel: the channel that carried the connection
    """

    port: ForwardedPort
    channel: Channel


@dataclass(frozen=True, slots=True)
class ForwardedConnection:
    """A connection about to be relayed through a session.

    :ivar session: the session
    :ivar stream: the connection's channel
    :ivar endpoint: where the connection goes to; for a port that one side listens on for the other,
        that port, unless the connection says by SOCKS where it goes
    :ivar originator: where the connection comes from, as far as known
    :ivar is_incoming: whether the peer opened the channel, and we connected to something
    """

    session: Session
    stream: ByteStream
    endpoint: Endpoint
    originator: TcpEndpoint | None
    is_incoming: bool


class Ports:
    """The forwarded ports of one direction, and the tasks that wait for one."""

    def __init__(self, tell: Callable[[SessionEvent], None]) -> None:
        self._tell = tell
        self._ports: dict[ForwardedPort, None] = {}
        self._changed = Notice()
        self._is_ended = False

    @property
    def snapshot(self) -> tuple[ForwardedPort, ...]:
        """The present ports, in the order in which they were added."""
        return tuple(self._ports)

    def add(self, port: ForwardedPort) -> None:
        """Add a port, and report it."""
        self._ports[port] = None
        self._tell(ForwardedPortAdded(port))
        self._changed.notify()

    def remove(self, port: ForwardedPort) -> None:
        """Remove a port if it is there, and report it."""
        if port in self._ports:
            del self._ports[port]
            self._tell(ForwardedPortRemoved(port))

    def find(self, number: int) -> ForwardedPort | None:
        """Return the port with the number that both sides use."""
        return next((port for port in self._ports if port.remote_port == number), None)

    async def wait_for(self, number: int) -> ForwardedPort | None:
        """Wait until there is a port of that number; return None if there will be none."""
        while (port := self.find(number)) is None and not self._is_ended:
            await self._changed.wait()
        return port

    def end(self) -> None:
        """Wake the waiting tasks: no more ports will come."""
        self._is_ended = True
        self._changed.notify()

    def add_channel(self, port: ForwardedPort, channel: Channel) -> None:
        """Add a connection to its port."""
        port.open_channels[channel] = None
        self._tell(ForwardedChannelAdded(port, channel))

    def remove_channel(self, port: ForwardedPort, channel: Channel) -> None:
        """Remove a connection that has ended."""
        if channel in port.open_channels:
            del port.open_channels[channel]
            self._tell(ForwardedChannelRemoved(port, channel))
