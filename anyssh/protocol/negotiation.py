"""Algorithm negotiation (RFC 4253 section 7.1): two KEXINITs in, one result out.

Of each kind, the first name on the client's list that is also on the server's is chosen, so both
sides reach the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Final, NamedTuple

from ..algorithms import encryption_parameters, needs_strict_key_exchange
from ..constants import Compression, Marker
from ..errors import NegotiationError
from ..messages import KexInit
from .acceptance import Role

__all__ = [
    "Algorithms",
    "guess_is_right",
    "is_strict",
    "negotiate",
    "unsafe_protection",
    "wants_ext_info",
]

_MARKERS: Final = frozenset(
    {
        Marker.EXT_INFO_CLIENT,
        Marker.EXT_INFO_SERVER,
        Marker.STRICT_CLIENT,
        Marker.STRICT_SERVER,
    }
)


@dataclass(frozen=True, slots=True)
class Algorithms:
    """The result of algorithm negotiation.

    :ivar key_exchange: one of :class:`KeyExchange`
    :ivar host_key: one of :class:`HostKeyAlgorithm`
    :ivar encryption_client_to_server: one of :class:`Encryption`
    :ivar encryption_server_to_client: one of :class:`Encryption`
    :ivar mac_client_to_server: one of :class:`Mac`; may be empty if the cipher authenticates
    :ivar mac_server_to_client: one of :class:`Mac`; may be empty if the cipher authenticates
    :ivar compression_client_to_server: ``none``
    :ivar compression_server_to_client: ``none``
    :ivar is_strict: whether strict key exchange is in use
    """

    key_exchange: str
    host_key: str
    encryption_client_to_server: str
    encryption_server_to_client: str
    mac_client_to_server: str
    mac_server_to_client: str
    compression_client_to_server: str = Compression.NONE
    compression_server_to_client: str = Compression.NONE
    is_strict: bool = False

    def __str__(self) -> str:
        return (
            f"kex={self.key_exchange} host_key={self.host_key} "
            f"client_to_server={self.encryption_client_to_server}+{self.mac_client_to_server} "
            f"server_to_client={self.encryption_server_to_client}+{self.mac_server_to_client}"
            f"{' strict' if self.is_strict else ''}"
        )


def negotiate(role: Role, client: KexInit, server: KexInit, *, strict: bool) -> Algorithms:
    """Return the algorithms that two KEXINITs agree on.

    ``strict`` is whether the first exchange of this connection agreed on strict key exchange.

    :raises NegotiationError: the lists of some kind have nothing in common
    """
    return _negotiate(role, _LISTS(client), _LISTS(server), strict)


def unsafe_protection(
    role: Role, algorithms: Algorithms, client: KexInit, server: KexInit
) -> NegotiationError | None:
    """Return why nothing may be sent with the negotiated algorithms, None if it may.

    Some are unsafe without strict key exchange, as packets could be removed unnoticed. A client
    without it may prefer them nevertheless.
    """
    if algorithms.is_strict:
        return None
    chosen = (
        (algorithms.encryption_client_to_server, algorithms.mac_client_to_server),
        (algorithms.encryption_server_to_client, algorithms.mac_server_to_client),
    )
    directions = (_Offer.of(_LISTS(kexinit))[2:] for kexinit in (client, server))
    for (encryption, mac), of_client, of_server in zip(chosen, *directions, strict=True):
        if needs_strict_key_exchange(encryption, mac):
            return _Chooser(role).refusal(
                f"safe encryption {of_client.name}",
                of_client.encryptions,
                of_server.encryptions,
                f"{encryption} needs strict key exchange here, which the peer does not offer; "
                "a configuration that does not name it may agree on another",
            )
    return None


_Names = tuple[str, ...]
_LISTS: Final[Callable[[KexInit], tuple[_Names, ...]]] = attrgetter(
    "kex_algorithms",
    "server_host_key_algorithms",
    "encryption_algorithms_client_to_server",
    "encryption_algorithms_server_to_client",
    "mac_algorithms_client_to_server",
    "mac_algorithms_server_to_client",
    "compression_algorithms_client_to_server",
    "compression_algorithms_server_to_client",
)


class _Direction(NamedTuple):
    """The algorithms offered for one direction."""

    name: str
    encryptions: _Names
    macs: _Names
    compressions: _Names


class _Offer(NamedTuple):
    """The contents of a KEXINIT, except for its cookie and guess."""

    methods: _Names
    host_keys: _Names
    to_server: _Direction
    to_client: _Direction

    @classmethod
    def of(cls, lists: tuple[_Names, ...]) -> _Offer:
        methods, host_keys, *protection = lists
        return cls(
            methods,
            host_keys,
            _Direction("client to server", *protection[0::2]),
            _Direction("server to client", *protection[1::2]),
        )


# Peers with the same software make the same offer.
@lru_cache(maxsize=64)
def _negotiate(
    role: Role, client_lists: tuple[_Names, ...], server_lists: tuple[_Names, ...], strict: bool
) -> Algorithms:
    client, server = _Offer.of(client_lists), _Offer.of(server_lists)
    choose = _Chooser(role)
    key_exchange = choose("key exchange method", _methods(client.methods), _methods(server.methods))
    host_key = choose("host key algorithm", client.host_keys, server.host_keys)
    to_server = _protection(choose, client.to_server, server.to_server)
    to_client = _protection(choose, client.to_client, server.to_client)
    return Algorithms(
        key_exchange,
        host_key,
        to_server.encryption,
        to_client.encryption,
        to_server.mac,
        to_client.mac,
        to_server.compression,
        to_client.compression,
        strict,
    )


class _Protection(NamedTuple):
    encryption: str
    mac: str
    compression: str


def _protection(choose: _Chooser, client: _Direction, server: _Direction) -> _Protection:
    encryption = choose(f"encryption {client.name}", client.encryptions, server.encryptions)
    # The MAC of an AEAD cipher only keys reconnect tokens: having none in common is no error.
    if encryption_parameters(encryption).is_aead:
        mac = _first_common(client.macs, server.macs) or ""
    else:
        mac = choose(f"MAC {client.name}", client.macs, server.macs)
    compression = choose(f"compression {client.name}", client.compressions, server.compressions)
    return _Protection(encryption, mac, compression)


def is_strict(client: KexInit, server: KexInit) -> bool:
    """Return whether the first KEXINITs of both sides announce strict key exchange."""
    return (
        Marker.STRICT_CLIENT in client.kex_algorithms
        and Marker.STRICT_SERVER in server.kex_algorithms
    )


def wants_ext_info(peer: Role, kexinit: KexInit) -> bool:
    """Return whether a peer's first KEXINIT requests EXT_INFO (RFC 8308 section 2.1)."""
    marker = Marker.EXT_INFO_CLIENT if peer is Role.CLIENT else Marker.EXT_INFO_SERVER
    return marker in kexinit.kex_algorithms


def guess_is_right(client: KexInit, server: KexInit, *, by_method_only: bool, method: str) -> bool:
    """Return whether a guessed first message is to be used.

    RFC 4253 section 7 compares the first key exchange method and the first host key algorithm of
    both lists. Dev Tunnels implementations (``by_method_only``) compare the negotiated method with
    the client's first one.
    """
    first_method = _methods(client.kex_algorithms)[:1]
    if by_method_only:
        return first_method == (method,)
    return (
        first_method == _methods(server.kex_algorithms)[:1]
        and client.server_host_key_algorithms[:1] == server.server_host_key_algorithms[:1]
    )


def _methods(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in _MARKERS)


def _first_common(client: Sequence[str], server: Sequence[str]) -> str | None:
    return next((name for name in client if name in server), None)


class _Chooser:
    """Chooses as both sides do; phrases errors from the point of view of our role."""

    def __init__(self, role: Role) -> None:
        self._role = role

    def __call__(self, kind: str, client: Sequence[str], server: Sequence[str]) -> str:
        chosen = _first_common(client, server)
        if chosen is None:
            raise self.refusal(kind, client, server)
        return chosen

    def refusal(
        self, kind: str, client: Sequence[str], server: Sequence[str], *reason: str
    ) -> NegotiationError:
        ours, theirs = (client, server) if self._role is Role.CLIENT else (server, client)
        return NegotiationError(kind, ours, theirs, *reason)
