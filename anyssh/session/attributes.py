"""The typed attributes of sessions and channels, for AnyIO's ``extra()``."""

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
"""For IPv6 addresses, AnyIO reports more than the socket module."""


class SSHAttribute(TypedAttributeSet):
    """Typed attributes of sessions and their channels."""

    peer_version: PeerVersion = typed_attribute()
    """The peer's protocol version and software."""
    algorithms: Algorithms = typed_attribute()
    """The algorithms negotiated by the last key exchange."""
    host_key: Key = typed_attribute()
    """The server's host key; on clients only."""
    principal: object = typed_attribute()
    """The client's identity; on servers only."""
    channel_type: str = typed_attribute()
    """The type that a channel was opened with."""


def remote_address(stream: AnyByteStream) -> tuple[str, int] | None:
    """Return the remote host and port of a stream, if it has them."""
    try:
        raw = plain_socket(stream)
        address: Any = None if raw is None else raw.getpeername()
        if not isinstance(address, tuple) or len(address) > IPV4_FIELDS:
            address = stream.extra(SocketAttribute.remote_address, None)
    except (OSError, AttributeError, ValueError):  # raised by closed sockets
        return None
    return (address[0], address[1]) if isinstance(address, tuple) else None


def displayed_address(address: tuple[str, int]) -> str:
    """Format an address for display, with IPv6 addresses in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
