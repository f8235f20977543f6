"""The application's choices: algorithms, limits and timers. Immutable, validated when built.

A :class:`SessionConfig` can only name algorithms that protect. The one way to do without protection
is :class:`InsecureSessionConfig`, which names nothing but ``none``. The two have no name in common,
so neither can be negotiated down to the other.
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
    """Bounds on what one peer can make us hold, compute or wait for.

    Sizes are in bytes, times in seconds. The defaults suit a server on the open internet.

    :ivar version_time: until the peer's identification string has arrived
    :ivar key_exchange_time: for the first key exchange, and for each later one
    :ivar authentication_time: from the end of the key exchange until the client is authenticated
    :ivar handler_time: for each answer of an application callback: to verify a host key,
        authenticate, sign with a host key, let a session be resumed, or allow forwarding
    :ivar disconnect_time: for a final DISCONNECT to be written
    :ivar close_time: for the peer to close its side after our DISCONNECT
    :ivar packet_size: the largest packet_length accepted after authentication
    :ivar unauthenticated_packet_size: the largest packet_length accepted before authentication
    :ivar unauthenticated_bytes: received in total before authentication
    :ivar unauthenticated_packets: received in total before authentication
    :ivar authentication_failures: refused attempts before the server disconnects
    :ivar authentication_requests: requests of any kind before the server disconnects
    :ivar channels: open at the same time in one session; also how many closed ones may still have a
        handler running before the peer may open more
    :ivar unaccepted_channels: opened by the peer and not yet accepted by the application
    :ivar requests: waiting for the application, per channel and per session
    :ivar service_requests: global requests that wait for a service, such as those for port
        forwarding
    :ivar receive_memory: windows granted in one session, in total; also how much unread data and
        how many bytes of requests of closed channels may be kept before the peer may open more, and
        how many bytes of payloads the peer may open channels with
    :ivar pending_output: sealed or queued for sending before senders wait
    :ivar waiting_bytes: payloads of opens and requests that wait for the application, per session
    :ivar unread_answers: answers that the peer has not read yet, in addition to ``pending_output``
    :ivar noise_messages: IGNORE, DEBUG, UNIMPLEMENTED and others without effect in one burst
    :ivar noise_bytes: bytes of such messages in one burst
    :ivar noise_rate: such messages per second at which a burst is replenished
    :ivar rekey_burst: key exchanges that the peer may start in one burst, when little was sent
    :ivar rekey_interval: seconds after which one more of them is allowed
    :ivar disconnected_time: how long a session that can reconnect waits without a stream
    :ivar unacknowledged_bytes: kept for retransmission after a reconnect
    :ivar events: events kept for an application that does not read :meth:`Session.events`
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
    """Bounds on the total cost of a server's connections.

    A *source* is an IPv4 address or an IPv6 /64 network. Times are in seconds. Penalties add up
    while they last; a source whose total reaches ``shortest_penalty`` is refused until it has
    expired. A penalty of 0 disables it.

    :ivar connections: at the same time, not counting sessions without a stream
    :ivar connections_per_source: of these, from one source
    :ivar unauthenticated: connections at the same time whose clients have not authenticated
    :ivar unauthenticated_per_source: of these, from one source
    :ivar early_drop_from: unauthenticated connections from which on new ones are refused at random,
        so that whoever fills the limit does not lock everybody else out
    :ivar early_drop_chance: the probability of that at first; it grows to 1 at ``unauthenticated``
    :ivar no_login_penalty: for a connection that ended before its client tried to authenticate
    :ivar failed_login_penalty: for a connection whose client tried to authenticate and failed
    :ivar protocol_error_penalty: for one that violated the protocol before that, or took too long
    :ivar failed_reconnect_penalty: for requesting a session that does not exist or is not the
        client's
    :ivar shortest_penalty: the total from which on penalties are enforced
    :ivar longest_penalty: the most that penalties add up to
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
                    raise ValueError(f"ServerLimits.{name} must not be negative, got {value!r}")
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
    """How a session is negotiated and maintained.

    Every list is in order of preference.

    :ivar key_exchanges: names of :class:`~anyssh.KeyExchange`
    :ivar host_key_algorithms: names of :class:`~anyssh.HostKeyAlgorithm`, for host keys and for the
        public keys of clients; if certificates are in use, also for certificates of such keys
    :ivar encryptions: names of :class:`~anyssh.Encryption`, for both directions
    :ivar macs: names of :class:`~anyssh.Mac`, for both directions
    :ivar compressions: only ``none``
    :ivar authentication_methods: offered by a server, used by a client
    :ivar extensions: announced to the peer in EXT_INFO
    :ivar window_size: the initial window of a channel in bytes: how much the peer may send before
        the application has read it
    :ivar max_packet_size: bytes of data in one CHANNEL_DATA message; None means 32 KiB, or 128 KiB
        if the peer is anyssh as well
    :ivar rekey_bytes: bytes in one direction after which new keys are exchanged
    :ivar rekey_packets: packets in one direction after which new keys are exchanged
    :ivar rekey_time: seconds after which new keys are exchanged
    :ivar guess_key_exchange: whether a client sends its first key exchange message before it knows
        the server's algorithms (RFC 4253 section 7); None: only to an address where the server was
        anyssh and the guess would have been right before
    :ivar keep_alive_interval: seconds of silence before the peer is sent a keep-alive request; 0
        disables keep-alive
    :ivar keep_alive_count: unanswered keep-alive requests after which the connection counts as lost
    :ivar trace_channel_data: whether trace events contain channel data, in full
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
                raise TypeError(
                    f"{name} must be a list of names, not a str: {getattr(self, name)!r}"
                )
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
            raise ValueError(
                "a session without encryption cannot reconnect: it has no keys to prove itself with"
            )
        self._check_numbers()

    def packet_size_with(self, peer: PeerVersion | None) -> int:
        """Return how many bytes of channel data one message may carry.

        :param peer: the receiving peer's version; None if unknown
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
        # Written such that NaN is refused as well.
        if not 0 < self.rekey_packets <= 2**31:
            raise ValueError(
                f"rekey_packets must be positive and at most 2**31, not {self.rekey_packets}"
            )
        for name in ("rekey_bytes", "rekey_time", "keep_alive_count"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")
        if not self.keep_alive_interval >= 0:
            raise ValueError(
                f"keep_alive_interval must not be negative, got {self.keep_alive_interval!r}"
            )

    @property
    def is_secure(self) -> bool:
        """Whether sessions are encrypted and authenticated."""
        return True

    @classmethod
    def with_reconnect(cls, **changes: Any) -> Self:
        """Return the default configuration, with sessions that survive the loss of their stream.

        It announces ``session-reconnect@microsoft.com``, ``session-latency@microsoft.com`` and
        anyssh's additions to them. With a peer that supports none of these, sessions work as usual.

        :param changes: other fields, as for the constructor
        """
        return cls(extensions=RECONNECT_EXTENSIONS, **changes)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed.

        :param changes: fields, as for the constructor
        """
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class InsecureSessionConfig(SessionConfig):
    """A configuration without any protection: no encryption, no integrity, no authentication.

    For streams that are already protected, such as TLS or a pipe between parent and child process.
    It offers only ``none``, so negotiation with a :class:`SessionConfig` always fails.
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
