"""What a peer may have us connect to or listen on: nothing, unless the application says so.

A pattern names hosts and ports, ``"db.internal:5432"``, or the path of a socket. Decisions are made
before any name is looked up, and once more for the addresses that a name turned out to have: a
name, whoever owns it, never leads to this machine or its link unless a pattern names that address.
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
    """What a peer wants of us."""

    CONNECT = "connect"
    """A connection to the endpoint."""
    LISTEN = "listen"
    """That we listen on the endpoint and pass the connections on."""


@dataclass(frozen=True, slots=True)
class ForwardingRequest:
    """Something that a peer wants and that the application may decide.

    :ivar session: whose peer it is; a server's session knows its ``principal``
    :ivar action: to connect or to listen
    :ivar endpoint: where
    :ivar originator: where the connection to be forwarded comes from, as the peer tells it; None
        when it does not
    :ivar extra: what the peer's application put behind the standard fields, such as a token
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
"""Makes a listener, on the given port or, if that cannot be had, on another one."""

Connecting = Callable[["ForwardedConnection"], Awaitable[ByteStream | None]]
"""Called for each forwarded connection; returns the stream to relay, None to refuse it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardingPolicy:
    """What the peer may have us connect to or listen on; by default nothing.

    A pattern is ``"host:port"``, with an IPv6 address in brackets, or the path of a socket.
    The host is a name or an address, ``"*"``, a name with ``*`` in it, or a network such as
    ``10.0.0.0/8``; the port is a number, a range such as ``8000-8999``, or ``*``. What looks like
    an address with ``*`` in it is refused, as names would pass for one.

    * To connect to: no name and no ``*`` covers addresses of this machine or of its link
      (loopback, link-local, multicast). ``"localhost:8080"``, an address or a network does.
    * To listen on: ``localhost`` means every spelling of loopback, ``*`` every address; ``*``
      as a port means 1024 and above. A peer that asks for all interfaces with an empty address and
      may only have loopback gets that.
    * A path may have ``*``, ``?`` and ``[…]`` in it. What a path is linked to is not looked at.

    :ivar connect_to: patterns of what the peer may connect to
    :ivar listen_on: patterns of what the peer may have us listen on
    :ivar decide: asked about what the patterns allow, under the deadline of
        :attr:`Limits.handler_time`; patterns that are None leave everything to it
    :ivar connecting: called with each connection that the peer's wishes bring about, before its
        bytes flow; returns the stream to use, usually one around ``connection.stream``, or None to
        refuse
    :ivar connector: makes the connections instead of TCP and UNIX sockets; no addresses are checked
        then
    :ivar listener: makes the listeners instead of TCP and UNIX sockets
    :ivar accept_local_connections: False to listen on nothing; connections then come only from
        :meth:`Session.connect_to_forwarded_port`
    :ivar connect_time: seconds for a connection to come about
    :ivar idle_time: seconds without a byte after which a connection is ended
    :ivar listeners: that one session may have at the same time
    :ivar pending_connections: of one listener, those that wait for the peer at the same time, which
        is asked to hold no more than we would; others are accepted when it is their turn. What
        another listener has accepted already is in line, up to 512; more are reset
    :ivar passes_on: True for a session that is to be piped: what its peer asks for is neither
        allowed nor refused, but reaches :func:`pipe`, or whoever takes the session's channels and
        requests, like all else; the session itself forwards nothing then
    :raises ValueError: a pattern does not have the form of one, what is passed on would also
        be decided, or no connection may wait for the peer
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
            raise ValueError("a policy that passes everything on allows and refuses nothing itself")
        if self.pending_connections < 1:
            raise ValueError(
                f"pending_connections must be at least 1, not {self.pending_connections}"
            )
        for name in ("connect_to", "listen_on"):
            patterns = getattr(self, name)
            if patterns is None:
                continue
            if isinstance(patterns, str):
                raise ValueError(f"{name} is a list of patterns, not one text: {patterns!r}")
            object.__setattr__(self, name, tuple(patterns))
            for pattern in patterns:
                _parsed(pattern)

    @classmethod
    def allow_all(cls) -> Self:
        """Return a policy that lets the peer connect to and listen on everything we can reach."""
        anywhere = ("*:*", "0.0.0.0/0:*", "[::/0]:*", "localhost:*", "/*")
        return cls(connect_to=anywhere, listen_on=("*:0-65535", "/*"))

    @property
    def decides_at_once(self) -> bool:
        """Whether connections are made by us, and nobody is asked about them."""
        return (
            self.decide is None
            and self.connecting is None
            and self.connector is None
            and self.idle_time == math.inf
        )

    def may_connect(self, endpoint: Endpoint) -> bool:
        """Whether the patterns allow a connection, as far as can be told before a lookup.

        :param endpoint: what the peer asks for, before any look-up
        """
        if self.connect_to is None:
            return self.decide is not None
        return _any_covers(tuple(self.connect_to), endpoint)

    def may_use_address(self, asked: TcpEndpoint, address: IPAddress) -> bool:
        """Whether a connection that is allowed may go to this address of its host.

        :param asked: what the peer asked for
        :param address: what its name turned out to be
        """
        return _may_use(tuple(self.connect_to or ()), asked, address)

    def may_listen(self, endpoint: Endpoint) -> bool:
        """Whether the patterns allow to listen.

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
        # A detour such as /allowed/../other would get around the pattern.
        path = endpoint.path
        return os.path.normpath(path) == path and fnmatchcase(path, self.path)

    covers_listener = covers_target

    def names_address(self, address: IPAddress, port: int) -> bool:
        return False


@lru_cache
def _parsed(pattern: str) -> _HostPattern | _PathPattern:
    """Read a pattern.

    :raises ValueError: it does not have the form of one
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
            f"{pattern!r} is no pattern: expected 'host:port', '[address]:port' or '/path', "
            "with * for anything"
        )
    try:
        network = ip_network(host)
    except ValueError:
        if "/" in host:
            raise ValueError(f"{pattern!r}: {host!r} is no network") from None
        if _PART_OF_AN_ADDRESS.fullmatch(host):
            raise ValueError(
                f"{pattern!r}: {host!r} would cover names too, which may lead anywhere; for "
                "addresses give a network, such as 10.0.0.0/8"
            ) from None
        network = None
    return _HostPattern(host.lower(), network, _port_range(pattern, ports), ports == "*")


@lru_cache
def _any_covers(patterns: tuple[str, ...], endpoint: Endpoint) -> bool:
    """Whether one of the patterns allows a connection."""
    return any(_parsed(text).covers_target(endpoint) for text in patterns)


@lru_cache
def _may_use(patterns: tuple[str, ...], asked: TcpEndpoint, address: IPAddress) -> bool:
    """Whether a connection that is allowed may go to this address of its host."""
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
        raise ValueError(f"{pattern!r}: {ports!r} is no port, no range of ports and no '*'")
    return chosen
