"""What a peer may have us connect to or listen on: nothing, unless the application permits it.

A pattern names hosts and ports, such as ``"db.internal:5432"``, or the path of a socket. Requests
are judged before any name is resolved, and again for the addresses that a name resolves to: a name,
whoever controls it, never leads to this machine or its link unless a pattern names that address.
"""

from __future__ import annotations

import math
import os.path
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Final, Self

from anyio.abc import ByteStream, Listener

from .endpoints import (
    LOCALHOST,
    Endpoint,
    IPAddress,
    TcpEndpoint,
    UnixEndpoint,
    address_of,
    is_all_interfaces,
    is_guarded,
    is_loopback,
)

if TYPE_CHECKING:
    from ..session.session import Session
    from .ports import ForwardedConnection

__all__ = [
    "Connecting",
    "Connector",
    "ForwardingAction",
    "ForwardingPolicy",
    "ForwardingRequest",
    "ListenerFactory",
]

FIRST_ORDINARY_PORT: Final = 1024
_PART_OF_AN_ADDRESS: Final = re.compile(r"(?=.*\d)[\d.]*[*?][\d.*?]*")


class ForwardingAction(Enum):
    """What a peer asks us to do."""

    CONNECT = "connect"
    """Connect to the endpoint."""
    LISTEN = "listen"
    """Listen on the endpoint, and forward the connections to the peer."""


@dataclass(frozen=True, slots=True)
class ForwardingRequest:
    """A forwarding request of the peer, for the application to decide.

    :ivar session: the session; a server session has the peer's ``principal``
    :ivar action: whether to connect or to listen
    :ivar endpoint: the endpoint to connect to or to listen on
    :ivar originator: where the forwarded connection comes from, according to the peer; None if the
        peer does not say
    :ivar extra: what the peer's application appended to the standard fields, such as a token
    """

    session: Session
    action: ForwardingAction
    endpoint: Endpoint
    originator: TcpEndpoint | None = None
    extra: bytes = field(default=b"", repr=False)


Decide = Callable[[ForwardingRequest], Awaitable[bool]]

Connector = Callable[[Endpoint], Awaitable[ByteStream]]
"""Makes the connections that a peer asks for."""

ListenerFactory = Callable[[Endpoint], Awaitable[Listener[ByteStream]]]
"""Creates a listener, on the given port or, if that is not available, on another one; by default
:func:`listen`."""

Connecting = Callable[["ForwardedConnection"], Awaitable[ByteStream | None]]
"""Called for each forwarded connection; returns the stream to relay, or None to refuse it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardingPolicy:
    """What the peer may have us connect to or listen on; nothing by default.

    A pattern is ``"host:port"``, with IPv6 addresses in brackets, or the path of a socket. The host
    is a name, an address, ``"*"``, a name containing ``*``, or a network such as ``10.0.0.0/8``;
    the port is a number, a range such as ``8000-8999``, or ``*``. A ``*`` in what looks like an
    address is rejected, as names could match it.

    * For connections, no name and no ``*`` matches addresses of this machine or its link (loopback,
      link-local, multicast). ``"localhost:8080"``, an address or a network does.
    * For listeners, ``localhost`` matches every spelling of loopback, and ``*`` every address;
      ``*`` as a port matches 1024 and above. A peer that asks for all interfaces with an empty
      address, but may only have loopback, gets loopback.
    * A path may contain ``*``, ``?`` and ``[…]``. Symbolic links are not resolved.

    :ivar connect_to: patterns of what the peer may connect to
    :ivar listen_on: patterns of what the peer may have us listen on
    :ivar decide: called for requests that the patterns allow, or for all where the patterns are
        None; has :attr:`Limits.handler_time` to answer
    :ivar connecting: called with each connection that the peer's requests bring about, before its
        bytes flow; returns the stream to use, usually a wrapper of ``connection.stream``, or None
        to refuse
    :ivar connector: makes the connections in place of TCP and UNIX sockets; addresses are then not
        checked
    :ivar listener: creates the listeners in place of TCP and UNIX sockets
    :ivar accept_local_connections: False to open no sockets for the peer's listen requests;
        connections then come only from :meth:`Session.connect_to_forwarded_port`
    :ivar connect_time: seconds for a connection to be established
    :ivar idle_time: seconds without a byte after which a connection is ended
    :ivar listeners: that one session may have at the same time
    :ivar pending_connections: of one listener, how many may wait for the peer at the same time; the
        peer is asked to hold no more than that either. Further connections are accepted when their
        turn comes. If a listener has accepted them already, up to 512 queue, and more are reset
    :ivar passes_on: True for a session that is to be piped: the peer's forwarding requests are
        neither allowed nor refused, but reach :func:`pipe`, or whatever takes the session's
        channels and requests; the session itself then forwards nothing
    :raises ValueError: a pattern is malformed, ``connect_to`` or ``listen_on`` is a str,
        ``passes_on`` is combined with patterns or ``decide``, or ``pending_connections`` is less
        than 1
    """

    connect_to: Sequence[str] | None = None
    listen_on: Sequence[str] | None = None
    decide: Decide | None = None
    connecting: Connecting | None = None
    connector: Connector | None = None
    listener: ListenerFactory | None = None
    accept_local_connections: bool = True
    connect_time: float = 10.0
    idle_time: float = math.inf
    listeners: int = 32
    pending_connections: int = 64
    passes_on: bool = False

    def __post_init__(self) -> None:
        decides = self.connect_to is not None or self.listen_on is not None or self.decide
        if self.passes_on and decides:
            raise ValueError("passes_on cannot be combined with connect_to, listen_on or decide")
        if self.pending_connections < 1:
            raise ValueError(
                f"pending_connections must be at least 1, not {self.pending_connections}"
            )
        for name in ("connect_to", "listen_on"):
            patterns = getattr(self, name)
            if patterns is None:
                continue
            if isinstance(patterns, str):
                raise ValueError(f"{name} must be a list of patterns, not a str: {patterns!r}")
            object.__setattr__(self, name, tuple(patterns))
            for pattern in patterns:
                _parsed(pattern)

    @classmethod
    def allow_all(cls) -> Self:
        """Return a policy that lets the peer connect to and listen on everything."""
        anywhere = ("*:*", "0.0.0.0/0:*", "[::/0]:*", "localhost:*", "/*")
        return cls(connect_to=anywhere, listen_on=("*:0-65535", "/*"))

    @property
    def allows_connecting(self) -> bool:
        """Whether the peer may connect anywhere, as far as the patterns and ``decide`` tell."""
        return self.decide is not None if self.connect_to is None else bool(self.connect_to)

    @property
    def decides_at_once(self) -> bool:
        """Whether we make the connections ourselves, without asking the application."""
        return (
            self.decide is None
            and self.connecting is None
            and self.connector is None
            and self.idle_time == math.inf
        )

    def may_connect(self, endpoint: Endpoint) -> bool:
        """Tell whether the patterns allow a connection, before its name is resolved.

        :param endpoint: what the peer asks for
        """
        if self.connect_to is None:
            return self.decide is not None
        return _any_covers(tuple(self.connect_to), endpoint)

    def may_use_address(self, asked: TcpEndpoint, address: IPAddress) -> bool:
        """Tell whether an allowed connection may use this address of its host.

        :param asked: what the peer asked for
        :param address: an address that the host resolved to
        """
        return _may_use(tuple(self.connect_to or ()), asked, address)

    def may_listen(self, endpoint: Endpoint) -> bool:
        """Tell whether the patterns allow listening.

        :param endpoint: where the peer asks us to listen
        """
        if self.listen_on is None:
            return self.decide is not None
        return any(_parsed(text).covers_listener(endpoint) for text in self.listen_on)


@dataclass(frozen=True, slots=True)
class _HostPattern:
    """A pattern of hosts and ports."""

    host: str
    network: IPv4Network | IPv6Network | None
    ports: range
    any_port: bool

    def covers_target(self, endpoint: Endpoint) -> bool:
        if isinstance(endpoint, UnixEndpoint) or endpoint.port not in self.ports:
            return False
        address = address_of(endpoint.host)
        if address is not None and (is_guarded(address) or self.network is not None):
            return self.names_address(address, endpoint.port)
        if self.host == LOCALHOST:
            return is_loopback(endpoint.host)
        if endpoint.host.lower() == LOCALHOST or not endpoint.host:
            return False
        return self.network is None and fnmatchcase(endpoint.host.lower().rstrip("."), self.host)

    def names_address(self, address: IPAddress, port: int) -> bool:
        if port not in self.ports:
            return False
        if self.host == LOCALHOST:
            return address.is_loopback
        return self.network is not None and address in self.network

    def covers_listener(self, endpoint: Endpoint) -> bool:
        if isinstance(endpoint, UnixEndpoint):
            return False
        if self.any_port and 0 < endpoint.port < FIRST_ORDINARY_PORT:
            return False
        if endpoint.port not in self.ports:
            return False
        if self.host == "*":
            return True
        if self.host == LOCALHOST:
            return is_loopback(endpoint.host)
        address = address_of(endpoint.host)
        if is_all_interfaces(endpoint.host):
            return self.network is not None and self.network.network_address.is_unspecified
        if self.network is not None:
            return address is not None and address in self.network
        return address is None and fnmatchcase(endpoint.host.lower(), self.host)


@dataclass(frozen=True, slots=True)
class _PathPattern:
    """A pattern of paths."""

    path: str

    def covers_target(self, endpoint: Endpoint) -> bool:
        if isinstance(endpoint, TcpEndpoint):
            return False
        # A detour such as /allowed/../other must not evade the pattern.
        path = endpoint.path
        return os.path.normpath(path) == path and fnmatchcase(path, self.path)

    covers_listener = covers_target

    def names_address(self, address: IPAddress, port: int) -> bool:
        return False


@lru_cache
def _parsed(pattern: str) -> _HostPattern | _PathPattern:
    """Parse a pattern.

    :raises ValueError: the pattern is malformed
    """
    if pattern.startswith("/"):
        return _PathPattern(pattern)
    host, colon, ports = pattern.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not ports:
        raise ValueError(
            f"{pattern!r} is not a pattern: expected 'host:port', '[address]:port' or '/path', "
            "with * for anything"
        )
    try:
        network = ip_network(host)
    except ValueError:
        if "/" in host:
            raise ValueError(f"{pattern!r}: {host!r} is not a network") from None
        if _PART_OF_AN_ADDRESS.fullmatch(host):
            raise ValueError(
                f"{pattern!r}: {host!r} would also match names, which may lead anywhere; to match "
                "addresses give a network, such as 10.0.0.0/8"
            ) from None
        network = None
    return _HostPattern(host.lower(), network, _port_range(pattern, ports), ports == "*")


@lru_cache
def _any_covers(patterns: tuple[str, ...], endpoint: Endpoint) -> bool:
    """Tell whether one of the patterns allows a connection."""
    return any(_parsed(text).covers_target(endpoint) for text in patterns)


@lru_cache
def _may_use(patterns: tuple[str, ...], asked: TcpEndpoint, address: IPAddress) -> bool:
    """Tell whether an allowed connection may use this address of its host."""
    if not is_guarded(address) or address_of(asked.host) == address:
        return True
    if is_loopback(asked.host) and address.is_loopback:
        return True
    return any(_parsed(text).names_address(address, asked.port) for text in patterns)


def _port_range(pattern: str, ports: str) -> range:
    if ports == "*":
        return range(65536)
    first, _, last = ports.partition("-")
    try:
        chosen = range(int(first), int(last or first) + 1)
    except ValueError:
        chosen = range(0)
    if not chosen or chosen[-1] > 65535 or chosen[0] < 0:
        raise ValueError(f"{pattern!r}: {ports!r} is not a port, a range of ports or '*'")
    return chosen
