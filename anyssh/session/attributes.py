"""What can be asked of streams, sessions and channels through AnyIO's ``extra()``."""

from __future__ import annotations

from typing import Any, Final

from anyio import TypedAttributeSet, typed_attribute
from anyio.abc import AnyByteStream, SocketAttribute

from ..identification import PeerVersion
from ..keys import Key
from ..protocol.negotiation import Algorithms
from ._direct import plain_socket

__all__ = ["SSHAttribute", "displayed_address", "remote_address"]

IPV4_FIELDS: Final = 2
"""Of other addresses AnyIO says more than the socket module."""


class SSHAttribute(TypedAttributeSet):
    """Typed attributes of sessions and of the channels in them."""

    peer_version: PeerVersion = typed_attribute()
    """What the peer said it is."""
    algorithms: Algorithms = typed_attribute()
    """What the last key exchange agreed on."""
    host_key: Key = typed_attribute()
    """The server's host key; known to clients."""
    principal: object = typed_attribute()
    """Who the client is; known to servers."""
    channel_type: str = typed_attribute()
    """The type that a channel was opened with."""


def remote_address(stream: AnyByteStream) -> tuple[str, int] | None:
    """Return the host and port at the other end of a stream, where it has them."""
    try:
        raw = plain_socket(stream)
        address: Any = None if raw is None else raw.getpeername()
        if not isinstance(address, tuple) or len(address) > IPV4_FIELDS:
            address = stream.extra(SocketAttribute.remote_address, None)
    except (OSError, AttributeError):  # what sockets raise that are closed already
        return None
    return (address[0], address[1]) if isinstance(address, tuple) else None


def displayed_address(address: tuple[str, int]) -> str:
    """Return an address as people write it, one of IPv6 in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
