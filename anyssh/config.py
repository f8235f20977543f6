"""What an application chooses: algorithms, limits, timers. Immutable, checked when it is built.

A :class:`SessionConfig` can only name algorithms that protect. The one way to talk without
protection is :class:`InsecureSessionConfig`, which names nothing but ``none``: the two share no
name, so neither can be negotiated into the other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Self

from .constants import (
    DEFAULT_MAX_PACKET_SIZE,
    DEFAULT_WINDOW_SIZE,
    LARGE_MAX_PACKET_SIZE,
    AuthenticationMethod,
    Compression,
    Encryption,
    Extension,
    HostKeyAlgorithm,
    KeyExchange,
    Mac,
)
from .identification import PeerVersion

__all__ = ["InsecureSessionConfig", "Limits", "ServerLimits", "SessionConfig"]

KEY_EXCHANGES: Final = (
    KeyExchange.MLKEM768_X25519_SHA256,
    KeyExchange.CURVE25519_SHA256,
    KeyExchange.CURVE25519_SHA256_LIBSSH,
    KeyExchange.ECDH_NISTP384,
    KeyExchange.ECDH_NISTP256,
    KeyExchange.ECDH_NISTP521,
    KeyExchange.DH_GROUP16_SHA512,
    KeyExchange.DH_GROUP14_SHA256,
)
HOST_KEY_ALGORITHMS: Final = (
    HostKeyAlgorithm.ED25519,
    HostKeyAlgorithm.RSA_SHA2_512,
    HostKeyAlgorithm.RSA_SHA2_256,
    HostKeyAlgorithm.ECDSA_NISTP384,
    HostKeyAlgorithm.ECDSA_NISTP256,
    HostKeyAlgorithm.ECDSA_NISTP521,
)
ENCRYPTIONS: Final = (
    Encryption.AES256_GCM,
    Encryption.AES128_GCM,
    Encryption.CHACHA20_POLY1305,
    Encryption.AES256_CTR,
    Encryption.AES192_CTR,
    Encryption.AES128_CTR,
    Encryption.AES256_CBC,
)
MACS: Final = (
    Mac.HMAC_SHA2_512_ETM,
    Mac.HMAC_SHA2_256_ETM,
    Mac.HMAC_SHA2_512,
    Mac.HMAC_SHA2_256,
)
COMPRESSIONS: Final = (Compression.NONE,)
AUTHENTICATION_METHODS: Final = (
    AuthenticationMethod.PUBLIC_KEY,
    AuthenticationMethod.PASSWORD,
    AuthenticationMethod.KEYBOARD_INTERACTIVE,
    AuthenticationMethod.HOST_BASED,
    AuthenticationMethod.NONE,
)

RECONNECT_EXTENSIONS: Final = (
    Extension.SERVER_SIG_ALGS,
    Extension.SESSION_RECONNECT,
    Extension.SESSION_LATENCY,
    Extension.SESSION_LINK,
)

_OPT_IN: Final = frozenset(
    {
        KeyExchange.DH_GROUP14_SHA256,
        KeyExchange.DH_GROUP16_SHA512,
        Encryption.AES256_CBC,
        AuthenticationMethod.HOST_BASED,
        AuthenticationMethod.NONE,
    }
)


def _default(known: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in known if name not in _OPT_IN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what a peer can make us hold, compute or wait for.

    Sizes are bytes, times are seconds. The defaults suit a server on the open internet.

    :ivar version_time: until the peer's identification line has come
    :ivar key_exchange_time: for the first key exchange, and for each later one
    :ivar authentication_time: from the end of the key exchange until the client is authenticated
    :ivar handler_time: for one answer of an application callback during authentication
    :ivar disconnect_time: for a last DISCONNECT to leave
    :ivar close_time: for the peer to close its side after our goodbye
    :ivar packet_size: the largest packet_length accepted once authenticated
    :ivar unauthenticated_packet_size: the largest packet_length accepted before that
    :ivar unauthenticated_bytes: received in all before authentication
    :ivar unauthenticated_packets: received in all before authentication
    :ivar authentication_failures: refused attempts before the server disconnects
    :ivar authentication_requests: requests of any kind before the server disconnects
    :ivar channels: open at the same time in one session
    :ivar unaccepted_channels: opened by the peer and not yet accepted by the application
    :ivar requests: waiting for the application, per channel and per session
    :ivar service_requests: of the session that wait for a service, such as those to forward ports
    :ivar receive_memory: windows granted in one session, in all; also what may wait to be read on
        channels that the peer has closed, before it opens more
    :ivar pending_output: sealed or queued for sending before senders wait
    :ivar waiting_bytes: payloads of opens and requests that wait for the application, per session
    :ivar unread_answers: answers to the peer that wait for it to read, besides ``pending_output``
    :ivar noise_messages: IGNORE, DEBUG, UNIMPLEMENTED and other idle messages in one burst
    :ivar noise_bytes: of such messages in one burst
    :ivar noise_rate: such messages a second that a burst recovers by
    :ivar rekey_burst: key exchanges that the peer may start in one burst, when little was sent
    :ivar rekey_interval: seconds after which one more of them is allowed
    :ivar disconnected_time: without a stream before a session that could reconnect ends
    :ivar unacknowledged_bytes: kept for a peer that may have to be sent them again
    :ivar events: facts kept for an application that does not read :meth:`Session.events`
    """

    version_time: float = 10.0
    key_exchange_time: float = 20.0
    authentication_time: float = 60.0
    handler_time: float = 30.0
    disconnect_time: float = 0.5
    close_time: float = 1.0
    packet_size: int = 256 * 1024
    unauthenticated_packet_size: int = 40_000
    unauthenticated_bytes: int = 256 * 1024
    unauthenticated_packets: int = 512
    authentication_failures: int = 5
    authentication_requests: int = 20
    channels: int = 1024
    unaccepted_channels: int = 64
    requests: int = 16
    service_requests: int = 64
    receive_memory: int = 64 * 1024 * 1024
    pending_output: int = 512 * 1024
    waiting_bytes: int = 4 * 1024 * 1024
    unread_answers: int = 1024 * 1024
    noise_messages: int = 1024
    noise_bytes: int = 4 * 1024 * 1024
    noise_rate: int = 128
    rekey_burst: int = 6
    rekey_interval: float = 10.0
    disconnected_time: float = 120.0
    unacknowledged_bytes: int = 4 * 1024 * 1024
    events: int = 64

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"Limits.{name} must be positive, not {getattr(self, name)!r}")
        if self.packet_size > 1024 * 1024:
            raise ValueError(f"Limits.packet_size can be at most 1 MiB, not {self.packet_size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Bounds on what all the connections of a server cost together.

    A *source* is an IPv4 address or an IPv6 network of 64 bits. Times are seconds. Penalties add up
    while they last; a source whose penalty has reached ``shortest_penalty`` is refused until
    it has expired. A penalty of 0 is none.

    :ivar connections: at the same time; sessions without a stream do not count
    :ivar connections_per_source: of them, from one source
    :ivar unauthenticated: connections at the same time whose clients have not logged in
    :ivar unauthenticated_per_source: of them, from one source
    :ivar early_drop_from: so many of them, and some new ones are refused by chance, so that
        those who fill the room do not shut everybody else out
    :ivar early_drop_chance: how likely that is at first; it grows to 1 at ``unauthenticated``
    :ivar no_login_penalty: for a connection that ended before its client tried to log in
    :ivar failed_login_penalty: for a connection whose client has tried, and never got in
    :ivar protocol_error_penalty: for one that broke the protocol before that, or took too long
    :ivar failed_reconnect_penalty: for asking for a session that is not there or not one's own
    :ivar shortest_penalty: from which on penalties are enforced
    :ivar longest_penalty: which no penalty exceeds
    :ivar penalised_sources: remembered at the same time
    :ivar exempt: networks whose addresses have neither penalties nor limits per source
    """

    connections: int = 1000
    connections_per_source: int = 100
    unauthenticated: int = 100
    unauthenticated_per_source: int = 10
    early_drop_from: int = 10
    early_drop_chance: float = 0.3
    no_login_penalty: float = 1.0
    failed_login_penalty: float = 5.0
    protocol_error_penalty: float = 10.0
    failed_reconnect_penalty: float = 1.0
    shortest_penalty: float = 15.0
    longest_penalty: float = 600.0
    penalised_sources: int = 65_536
    exempt: tuple[str, ...] = ("127.0.0.0/8", "::1/128")

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if name == "exempt":
                for network in value:
                    ipaddress.ip_network(network)
            elif name == "early_drop_chance" or name.startswith(_OFFENCES):
                if not value >= 0:
                    raise ValueError(f"ServerLimits.{name} cannot be negative, as {value!r} is")
            elif not value > 0:
                raise ValueError(f"ServerLimits.{name} must be positive, not {value!r}")
        if self.early_drop_chance > 1:
            chance = self.early_drop_chance
            raise ValueError(f"ServerLimits.early_drop_chance can be at most 1, not {chance!r}")
        if self.longest_penalty < self.shortest_penalty:
            raise ValueError(
                f"ServerLimits.longest_penalty, {self.longest_penalty!r}, is shorter than "
                f"shortest_penalty, {self.shortest_penalty!r}"
            )


_OFFENCES: Final = ("no_login", "failed_login", "protocol_error", "failed_reconnect")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """How a session is negotiated and kept.

    Every list is in order of preference.

    :ivar key_exchanges: names of :class:`~anyssh.KeyExchange`
    :ivar host_key_algorithms: names of :class:`~anyssh.HostKeyAlgorithm`, for host keys and for
        the public keys of clients; where certificates take part, for certificates of such keys too
    :ivar encryptions: names of :class:`~anyssh.Encryption`, both directions
    :ivar macs: names of :class:`~anyssh.Mac`, both directions
    :ivar compressions: only ``none``
    :ivar authentication_methods: offered by a server, used by a client
    :ivar extensions: announced to the peer in EXT_INFO
    :ivar window_size: bytes that the peer may send on a channel ahead of the application
    :ivar max_packet_size: bytes of data in one CHANNEL_DATA message; unless it is given, 32 KiB,
        and 128 KiB if the peer is anyssh, too
    :ivar rekey_bytes: new keys after so many bytes in one direction
    :ivar rekey_packets: new keys after so many packets in one direction
    :ivar rekey_time: new keys after so many seconds
    :ivar guess_key_exchange: whether a client sends its first key exchange message before it
        knows whether the server agrees (RFC 4253 section 7); None: with a server that was anyssh,
        too, and agreed before, at the same address
    :ivar keep_alive_interval: seconds of silence before the peer is asked for a sign of life;
        0 turns this off
    :ivar keep_alive_count: unanswered questions after which the connection counts as lost
    :ivar trace_channel_data: whether a trace shows the bytes of channels, in full
    :ivar limits: see :class:`Limits`
    """

    _known: ClassVar[dict[str, tuple[str, ...]]] = {
        "key_exchanges": KEY_EXCHANGES,
        "host_key_algorithms": HOST_KEY_ALGORITHMS,
        "encryptions": ENCRYPTIONS,
        "macs": MACS,
        "compressions": COMPRESSIONS,
        "authentication_methods": AUTHENTICATION_METHODS,
    }

    key_exchanges: Sequence[str] = _default(KEY_EXCHANGES)
    host_key_algorithms: Sequence[str] = _default(HOST_KEY_ALGORITHMS)
    encryptions: Sequence[str] = _default(ENCRYPTIONS)
    macs: Sequence[str] = _default(MACS)
    compressions: Sequence[str] = COMPRESSIONS
    authentication_methods: Sequence[str] = _default(AUTHENTICATION_METHODS)
    extensions: Sequence[str] = (Extension.SERVER_SIG_ALGS,)
    window_size: int = DEFAULT_WINDOW_SIZE
    max_packet_size: int | None = None
    rekey_bytes: int = 512 * 1024 * 1024
    rekey_packets: int = 2**28
    rekey_time: float = 3600.0
    guess_key_exchange: bool | None = None
    keep_alive_interval: float = 0.0
    keep_alive_count: int = 3
    trace_channel_data: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in (*self._known, "extensions"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} is a list of names, not one text: {getattr(self, name)!r}")
        if not isinstance(self.limits, Limits):
            raise TypeError(f"limits must be Limits, not {type(self.limits).__name__}")
        for name, known in self._known.items():
            chosen = tuple(getattr(self, name))
            object.__setattr__(self, name, chosen)
            unknown = [value for value in chosen if value not in known]
            if unknown:
                raise ValueError(
                    f"{name}: {unknown[0]!r} is not known here; known are {', '.join(known)}"
                )
            if not chosen:
                raise ValueError(f"{name} is empty; a session needs at least one")
            twice = [value for value in chosen if chosen.count(value) > 1]
            if twice:
                raise ValueError(f"{name} names an entry twice: {twice[0]!r}")
        object.__setattr__(self, "extensions", tuple(self.extensions))
        if Extension.SESSION_RECONNECT in self.extensions and not self.is_secure:
            raise ValueError("a session without encryption cannot prove itself when it reconnects")
        self._check_numbers()

    def packet_size_with(self, peer: PeerVersion | None) -> int:
        """Return how many bytes of data one message may carry.

        :param peer: whom it goes to; None if that is not known
        """
        if self.max_packet_size is not None:
            return self.max_packet_size
        if peer is None or not peer.is_anyssh:
            return DEFAULT_MAX_PACKET_SIZE
        return min(LARGE_MAX_PACKET_SIZE, self.limits.packet_size - 1024, self.window_size)

    def _check_numbers(self) -> None:
        packet_size = self.packet_size_with(None)
        if not 1024 <= packet_size <= self.limits.packet_size - 1024:
            most = self.limits.packet_size - 1024
            raise ValueError(
                f"max_packet_size must lie between 1 KiB and limits.packet_size - 1 KiB, {most}; "
                f"it is {packet_size}"
            )
        if not packet_size <= self.window_size < 2**32:
            raise ValueError(
                f"window_size must lie between max_packet_size, {packet_size}, and 2**32 - 1; "
                f"it is {self.window_size}"
            )
        # Written so that a number that is none is refused too.
        if not 0 < self.rekey_packets <= 2**31:
            raise ValueError(
                f"rekey_packets must be positive and at most 2**31, not {self.rekey_packets}"
            )
        for name in ("rekey_bytes", "rekey_time", "keep_alive_count"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")
        if not self.keep_alive_interval >= 0:
            raise ValueError(
                f"keep_alive_interval cannot be negative, as {self.keep_alive_interval!r} is"
            )

    @property
    def is_secure(self) -> bool:
        """Whether sessions are encrypted and authenticated."""
        return True

    @classmethod
    def with_reconnect(cls, **changes: Any) -> Self:
        """Return the default configuration with sessions that survive the loss of their stream.

        It announces ``session-reconnect@microsoft.com``, ``session-latency@microsoft.com`` and
        what anyssh adds to them. A peer that knows none of them is served as ever.

        :param changes: other fields, as in the constructor
        """
        return cls(extensions=RECONNECT_EXTENSIONS, **changes)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class InsecureSessionConfig(SessionConfig):
    """A configuration without any protection: no encryption, no integrity, no authentication.

    For streams that are protected already, such as TLS or a pipe between parent and child. It
    offers only ``none`` and so never comes to terms with a :class:`SessionConfig`.
    """

    _known: ClassVar[dict[str, tuple[str, ...]]] = {
        "key_exchanges": (KeyExchange.NONE,),
        "host_key_algorithms": (HostKeyAlgorithm.NONE,),
        "encryptions": (Encryption.NONE,),
        "macs": (Mac.NONE,),
        "compressions": COMPRESSIONS,
        "authentication_methods": AUTHENTICATION_METHODS,
    }

    key_exchanges: Sequence[str] = (KeyExchange.NONE,)
    host_key_algorithms: Sequence[str] = (HostKeyAlgorithm.NONE,)
    encryptions: Sequence[str] = (Encryption.NONE,)
    macs: Sequence[str] = (Mac.NONE,)

    @property
    def is_secure(self) -> bool:
        """Whether sessions are encrypted and authenticated."""
        return False
