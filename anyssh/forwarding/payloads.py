"""Forwarding on the wire: the payloads of its requests and channels.

TCP is RFC 4254 section 7; UNIX domain sockets are an OpenSSH extension. What cannot be an endpoint
is a :class:`~anyssh.WireError`, and what carried it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from ..errors import WireError
from ..messages import (
    DirectStreamLocal,
    DirectTcpip,
    ForwardedStreamLocal,
    ForwardedTcpip,
    StreamLocalForward,
    TcpipForward,
)
from .endpoints import Endpoint, TcpEndpoint, UnixEndpoint

__all__ = [
    "CHANNEL_TYPES",
    "SESSION_REQUESTS",
    "ForwardingOpen",
    "Way",
    "cancel_request",
    "channel_opening",
    "is_cancel_request",
    "listen_request",
    "read_opening",
    "read_request",
]

MAX_HOST: Final = 255
NOWHERE: Final = TcpEndpoint("", 0)

CHANNEL_TYPES: Final = (
    DirectTcpip.channel_type,
    ForwardedTcpip.channel_type,
    DirectStreamLocal.channel_type,
    ForwardedStreamLocal.channel_type,
)
SESSION_REQUESTS: Final = (
    TcpipForward.request_name,
    TcpipForward.cancel_request_name,
    StreamLocalForward.request_name,
    StreamLocalForward.cancel_request_name,
)


class Way(Enum):
    """How a forwarding channel relates to its listener."""

    DIRECT = auto()
    """The opener listened; the other side is to connect."""
    FORWARDED = auto()
    """The opener listened at the other side's request."""


@dataclass(frozen=True, slots=True)
class ForwardingOpen:
    """The parsed open of a forwarding channel.

    :ivar endpoint: where to connect to, or where the connection arrived
    :ivar extra: what the peer's application appended
    """

    way: Way
    endpoint: Endpoint
    originator: TcpEndpoint | None
    extra: bytes = b""


def channel_opening(
    way: Way, endpoint: Endpoint, originator: TcpEndpoint | None
) -> tuple[str, bytes]:
    """Return the type and payload of a channel to open."""
    if isinstance(endpoint, UnixEndpoint):
        local = DirectStreamLocal if way is Way.DIRECT else ForwardedStreamLocal
        return local.channel_type, local(endpoint.path).encode()
    tcp = DirectTcpip if way is Way.DIRECT else ForwardedTcpip
    origin = originator or NOWHERE
    payload = tcp(endpoint.host, endpoint.port, origin.host, origin.port)
    return tcp.channel_type, payload.encode()


def read_opening(channel_type: str, payload: bytes) -> ForwardingOpen:
    """Parse the open of a peer's channel.

    :raises WireError: the payload is malformed
    """
    match channel_type:
        case DirectTcpip.channel_type | ForwardedTcpip.channel_type:
            kind = DirectTcpip if channel_type == DirectTcpip.channel_type else ForwardedTcpip
            message = kind.decode(payload)
            way = Way.DIRECT if kind is DirectTcpip else Way.FORWARDED
            origin = None
            if message.originator_address:
                origin = _tcp(message.originator_address, message.originator_port)
            return ForwardingOpen(way, _tcp(message.host, message.port), origin, message.extra)
        case DirectStreamLocal.channel_type:
            return ForwardingOpen(
                Way.DIRECT, _unix(DirectStreamLocal.decode(payload).socket_path), None
            )
    path = ForwardedStreamLocal.decode(payload).socket_path
    return ForwardingOpen(Way.FORWARDED, _unix(path), None)


def listen_request(endpoint: Endpoint) -> tuple[str, bytes]:
    """Return the name and payload of a request to listen."""
    if isinstance(endpoint, UnixEndpoint):
        return StreamLocalForward.request_name, StreamLocalForward(endpoint.path).encode()
    return TcpipForward.request_name, TcpipForward(endpoint.host, endpoint.port).encode()


def cancel_request(endpoint: Endpoint) -> tuple[str, bytes]:
    """Return the name and payload of a request to stop listening."""
    kind = StreamLocalForward if isinstance(endpoint, UnixEndpoint) else TcpipForward
    return kind.cancel_request_name, listen_request(endpoint)[1]


def is_cancel_request(name: str) -> bool:
    """Tell whether a request is one to stop listening."""
    return name in (TcpipForward.cancel_request_name, StreamLocalForward.cancel_request_name)


def read_request(name: str, payload: bytes) -> tuple[Endpoint, bytes]:
    """Parse a peer's request to start or stop listening; return the endpoint and what follows it.

    :raises WireError: the payload is malformed
    """
    if name in (TcpipForward.request_name, TcpipForward.cancel_request_name):
        message = TcpipForward.decode(payload)
        return _tcp(message.address_to_bind, message.port), message.extra
    return _unix(StreamLocalForward.decode(payload).socket_path), b""


def _tcp(host: str, port: int) -> TcpEndpoint:
    if len(host) > MAX_HOST or not host.isprintable():
        raise WireError("expected the name or the address of a host")
    try:
        return TcpEndpoint(host, port)
    except ValueError as error:
        raise WireError(str(error)) from None


def _unix(path: str) -> UnixEndpoint:
    if not path.startswith("/") or "\0" in path:
        raise WireError("expected the absolute path of a socket")
    return UnixEndpoint(path)
