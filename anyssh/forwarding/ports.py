"""What is forwarded now: ports, their channels, and the facts that tell how both change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
from anyio.abc import ByteStream

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
    """A port, or a socket, that one side listens on for the other.

    :ivar local: our end: where we connect to, or where we listen; None if there is no socket
    :ivar remote: the peer's end; the port is the one that both sides know it by
    :ivar is_remote: whether the peer asked for it and we listen
    :ivar open_channels: those of its connections, in the order in which they came
    """

    def __init__(self, local: Endpoint | None, remote: Endpoint | None, is_remote: bool) -> None:
        self.local = local
        self.remote = remote
        self.is_remote = is_remote
        self.open_channels: dict[Channel, None] = {}

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels of its connections that are open now."""
        return tuple(self.open_channels)

    @property
    def local_port(self) -> int | None:
        """The number of our port, None for what has none."""
        return self.local.port if isinstance(self.local, TcpEndpoint) else None

    @property
    def remote_port(self) -> int | None:
        """The number of the port as both sides know it, None for what has none."""
        return self.remote.port if isinstance(self.remote, TcpEndpoint) else None

    def __str__(self) -> str:
        """Show both ends and an arrow to the side that connects."""
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

    :ivar port: the new one
    """

    port: ForwardedPort


@dataclass(frozen=True, slots=True)
class ForwardedPortRemoved(SessionEvent):
    """A port is forwarded no more; its connections may go on.

    :ivar port: what it was
    """

    port: ForwardedPort


@dataclass(frozen=True, slots=True)
class ForwardedChannelAdded(SessionEvent):
    """A connection to a forwarded port has come about.

    :ivar port: where it belongs
    :ivar channel: what carries its bytes
    """

    port: ForwardedPort
    channel: Channel


@dataclass(frozen=True, slots=True)
class ForwardedChannelRemoved(SessionEvent):
    """A connection to a forwarded port has ended.

    :ivar port: where it belonged
    :ivar channel: what carried its bytes
    """

    port: ForwardedPort
    channel: Channel


@dataclass(frozen=True, slots=True)
class ForwardedConnection:
    """A connection whose bytes are about to flow through a session.

    :ivar session: the session
    :ivar stream: its channel
    :ivar endpoint: where it goes to; of a port that one side listens on for the other, that port
    :ivar originator: where it comes from, as far as known
    :ivar is_incoming: whether the peer opened the channel, and we have connected to something
    """

    session: Session
    stream: ByteStream
    endpoint: Endpoint
    originator: TcpEndpoint | None
    is_incoming: bool


class Ports:
    """The ports of one direction, and who waits for one."""

    def __init__(self, tell: Callable[[SessionEvent], None]) -> None:
        self._tell = tell
        self._ports: dict[ForwardedPort, None] = {}
        self._changed = anyio.Event()
        self._is_ended = False

    @property
    def snapshot(self) -> tuple[ForwardedPort, ...]:
        """The ports now, in the order in which they came."""
        return tuple(self._ports)

    def add(self, port: ForwardedPort) -> None:
        """Add a port and say so."""
        self._ports[port] = None
        self._tell(ForwardedPortAdded(port))
        self._changed.set()
        self._changed = anyio.Event()

    def remove(self, port: ForwardedPort) -> None:
        """Remove a port, if it is there, and say so."""
        if port in self._ports:
            del self._ports[port]
            self._tell(ForwardedPortRemoved(port))

    def find(self, number: int) -> ForwardedPort | None:
        """Return the port that both sides know by a number."""
        return next((port for port in self._ports if port.remote_port == number), None)

    async def wait_for(self, number: int) -> ForwardedPort | None:
        """Wait until there is a port of that number; return None when there will be none."""
        while (port := self.find(number)) is None and not self._is_ended:
            await self._changed.wait()
        return port

    def end(self) -> None:
        """No port comes any more."""
        self._is_ended = True
        self._changed.set()

    def add_channel(self, port: ForwardedPort, channel: Channel) -> None:
        """Note a connection."""
        port.open_channels[channel] = None
        self._tell(ForwardedChannelAdded(port, channel))

    def remove_channel(self, port: ForwardedPort, channel: Channel) -> None:
        """Note that a connection has ended."""
        if port.open_channels.pop(channel, channel) is None:
            self._tell(ForwardedChannelRemoved(port, channel))
