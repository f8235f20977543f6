"""The endpoints of forwarded connections, as different implementations spell them.

Peers write "all interfaces" and "loopback" in several ways, and expect their own spelling in
return. An endpoint therefore keeps the text as received; the functions here interpret it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

__all__ = [
    "Endpoint",
    "TcpEndpoint",
    "UnixEndpoint",
    "address_of",
    "address_to_bind",
    "is_all_interfaces",
    "is_guarded",
    "is_loopback",
    "require_endpoints",
]

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A TCP port of a host.

    :ivar host: a name or an address; ``""`` means all interfaces when listening
    :ivar port: 0 to 65535; 0 picks a free port when listening
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        if not isinstance(self.port, int):
            raise TypeError(f"a port must be an int, not {self.port!r}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"a port must be between 0 and 65535, not {self.port!r}")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    """A UNIX domain socket.

    :ivar path: its path in the file system
    """

    path: str

    def __str__(self) -> str:
        return self.path


Endpoint = TcpEndpoint | UnixEndpoint


def require_endpoints(*endpoints: Endpoint) -> None:
    """Check that these are endpoints, and not for example pairs of host and port.

    :raises TypeError: one of them is not an endpoint
    """
    for endpoint in endpoints:
        if not isinstance(endpoint, Endpoint):
            kind = type(endpoint).__name__
            raise TypeError(f"expected a TcpEndpoint or a UnixEndpoint, got {kind}")


LOCALHOST: Final = "localhost"
LONGEST_ADDRESS: Final = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")
ALL_INTERFACES: Final = ("", "*", "0.0.0.0", "::")
_GUARDED: Final = tuple(
    map(
        ip_network,
        [
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "255.255.255.255/32",
            "::/128",
            "::1/128",
            "fe80::/10",
            "ff00::/8",
        ],
    )
)


def address_of(host: str) -> IPAddress | None:
    """Return the address that a text represents, None if it is a name.

    An IPv4-mapped IPv6 address counts as the IPv4 address.
    """
    text = host.partition("%")[0]
    return _parsed(text) if len(text) <= LONGEST_ADDRESS else None


@lru_cache
def _parsed(text: str) -> IPAddress | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


@lru_cache
def is_guarded(address: IPAddress) -> bool:
    """Tell whether an address leads to this machine or its link rather than to another network."""
    return any(address in network for network in _GUARDED if network.version == address.version)


def is_loopback(host: str) -> bool:
    """Tell whether a host means this machine only."""
    if host.lower() == LOCALHOST:
        return True
    address = address_of(host)
    return address is not None and address.is_loopback


def is_all_interfaces(host: str) -> bool:
    """Tell whether binding to a host would accept connections from everywhere."""
    if host in ALL_INTERFACES:
        return True
    address = address_of(host)
    return address is not None and address.is_unspecified


def address_to_bind(host: str) -> str:
    """Return the host to ask a peer to bind to, in a form that every implementation accepts."""
    return {"0.0.0.0": "", "*": "", "127.0.0.1": LOCALHOST}.get(host, host)
