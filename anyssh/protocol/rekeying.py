"""Decides when a connection needs new keys, and whether its peer rekeys too often.

With most peers, we rekey after the configured bytes or packets in one direction, or seconds,
whichever comes first. Dev Tunnels implementations cannot be asked at any time: they accept a
KEXINIT only when they are about to send one themselves, which they decide by the bytes of both
directions together. With these we count as they do, and rekey for no other reason; with the Go
implementation, we never do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from ..config import SessionConfig
from ..errors import RemoteProtocolError
from ..identification import PeerVersion
from .rate import Bucket
from .transport import NO_TRAFFIC, Traffic, Transport

__all__ = ["Rekeying"]

MAX_PACKETS: Final = 2**31
MAX_BYTES: Final = 2**32 * 16
"""RFC 4344 section 3.2: no more than 2**32 blocks under one key."""

PACKET_LENGTH_FIELD: Final = 4
LITTLE_TRAFFIC: Final = 16 * 1024
"""OpenSSH with a small RekeyLimit rekeys after every full packet, and before a full packet that
follows small ones.
"""


class _Habit(Enum):
    """What KEXINITs a peer accepts."""

    STANDARD = auto()
    COUNTS_LIKE_US = auto()
    ANSWERS_ONLY = auto()


@dataclass(slots=True)
class _Mark:
    """Counters and a time to stay below."""

    bytes_sent: int
    bytes_received: int
    messages_sent: int
    messages_received: int
    time: float


class Rekeying:
    """Watches the counters of one transport."""

    __slots__ = (
        "_bucket",
        "_config",
        "_earlier",
        "_habit",
        "_last",
        "_last_time",
        "_overhead",
        "_quiet_until",
        "_transport",
    )

    def __init__(self, config: SessionConfig, transport: Transport) -> None:
        self._config = config
        self._transport = transport
        self._habit = _Habit.STANDARD
        self._overhead = 0
        self._bucket: Bucket | None = None  # most peers never need it
        self._last = NO_TRAFFIC
        self._earlier = NO_TRAFFIC
        self._last_time = 0.0
        self._quiet_until = _Mark(0, 0, 0, 0, 0.0)

    def learn_peer(self, version: PeerVersion) -> None:
        """Adapt to the peer's implementation."""
        if version.is_dev_tunnels_go:
            self._habit = _Habit.ANSWERS_ONLY
        elif version.is_dev_tunnels:
            self._habit = _Habit.COUNTS_LIKE_US

    def keys_changed(self, now: float) -> None:
        """Start counting from here."""
        # Data read together with the peer's NEWKEYS, but after it, is under the new keys.
        so_far = replace(self._transport.traffic, bytes_received=self._bytes_read)
        self._earlier = so_far if self._last is NO_TRAFFIC else self._last
        self._last = so_far
        self._last_time = now
        self._overhead = PACKET_LENGTH_FIELD + self._transport.trailer_size
        last, config = self._last, self._config
        most_bytes = min(config.rekey_bytes // 2, MAX_BYTES)
        most_packets = min(config.rekey_packets, MAX_PACKETS)
        self._quiet_until = _Mark(
            last.bytes_sent + most_bytes,
            last.bytes_received + most_bytes,
            last.messages_sent + most_packets,
            last.messages_received + most_packets,
            now + config.rekey_time,
        )

    def may_be_due(self, now: float) -> bool:
        """Whether :meth:`is_due` is worth calling; a quick check for every packet.

        Below half of the bytes in each direction, keys are not due by any peer's way of counting.
        """
        transport, mark = self._transport, self._quiet_until
        return not (
            transport.bytes_sent < mark.bytes_sent
            and transport.bytes_received < mark.bytes_received
            and transport.messages_sent < mark.messages_sent
            and transport.messages_received < mark.messages_received
            and now < mark.time
        )

    @property
    def _bytes_read(self) -> int:
        return self._transport.bytes_received - self._transport.unread

    @property
    def is_at_will(self) -> bool:
        """Whether the peer accepts a KEXINIT at any time."""
        return self._habit is _Habit.STANDARD

    @property
    def deadline(self) -> float | None:
        """When new keys are due because of their age."""
        if self._habit is _Habit.STANDARD:
            return self._last_time + self._config.rekey_time
        return None

    def is_due(self, now: float) -> bool:
        """Whether we should start a key exchange.

        :raises RemoteProtocolError: the peer has not rekeyed for too long
        """
        transport, last, config = self._transport, self._last, self._config
        sent = transport.bytes_sent - last.bytes_sent
        received = self._bytes_read - last.bytes_received
        packets_sent = transport.messages_sent - last.messages_sent
        packets_received = transport.messages_received - last.messages_received
        if max(packets_sent, packets_received) >= MAX_PACKETS or max(sent, received) >= MAX_BYTES:
            raise RemoteProtocolError("the keys are used up and the peer has not changed them")
        if self._habit is _Habit.ANSWERS_ONLY:
            return False
        if self._habit is _Habit.COUNTS_LIKE_US:
            counted = sent + received - (packets_sent + packets_received) * self._overhead
            return counted > config.rekey_bytes
        return (
            max(sent, received) >= config.rekey_bytes
            or max(packets_sent, packets_received) >= config.rekey_packets
            or now >= self._last_time + config.rekey_time
        )

    def peer_may_start(self, now: float) -> bool:
        """Whether the peer may rekey now.

        A key exchange is always permitted if there was enough traffic since the last one, or on
        average since the one before, or if it is due here as well; others are rationed.
        """
        enough = min(LITTLE_TRAFFIC, self._config.rekey_bytes)
        if self._since(self._last) >= enough or self._since(self._earlier) >= 2 * enough:
            return True
        if self._bucket is None:
            limits = self._config.limits
            self._bucket = Bucket(limits.rekey_burst, 1 / limits.rekey_interval)
        return self._bucket.take(1, now)

    def _since(self, mark: Traffic) -> int:
        """Return the bytes in both directions since a key exchange."""
        now = self._transport.bytes_sent + self._bytes_read
        return now - mark.bytes_sent - mark.bytes_received
