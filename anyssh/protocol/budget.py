"""Bounds on what one peer may cost over many messages, each of which is legal by itself.

Bounds on a single thing are checked where that thing is: the length of a packet in the transport,
the window of a channel in the connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..config import Limits
from ..errors import RemoteProtocolError
from .connection import Connection
from .rate import Bucket
from .transport import Transport

__all__ = ["Budget"]

MAX_EARLY_NOISE: Final = 8
MAX_DEFERRED_PACKETS: Final = 64
MAX_DEFERRED_BYTES: Final = 2 * 1024 * 1024
BYTES_PER_NOISE: Final = 4096


class Budget:
    """Keeps account of the peer of one stream."""

    __slots__ = ("_early_noise", "_limits", "_noise", "_transport")

    def __init__(self, limits: Limits, transport: Transport) -> None:
        self._limits = limits
        self._transport = transport
        self._noise: tuple[Bucket, Bucket] | None = None  # most peers send none
        self._early_noise = 0

    def takes_noise(self, size: int, now: float) -> bool:
        """Count a message of ``size`` bytes without effect; return whether that is acceptable."""
        if self._noise is None:
            limits = self._limits
            self._noise = (
                Bucket(limits.noise_messages, limits.noise_rate),
                Bucket(limits.noise_bytes, limits.noise_rate * BYTES_PER_NOISE),
            )
        messages, sizes = self._noise
        return messages.take(1, now) and sizes.take(size, now)

    def takes_early_noise(self) -> bool:
        """Count one during the first key exchange; return whether that is acceptable."""
        self._early_noise += 1
        return self._early_noise <= MAX_EARLY_NOISE

    def check_unauthenticated(self) -> None:
        """Bound what is received before authentication.

        Data not processed yet is not counted, as it may follow the end of authentication.

        :raises RemoteProtocolError: it was too much
        """
        limits, transport = self._limits, self._transport
        if (
            transport.bytes_received - transport.unread > limits.unauthenticated_bytes
            or transport.messages_received > limits.unauthenticated_packets
        ):
            raise RemoteProtocolError(
                f"more than {limits.unauthenticated_bytes} bytes or "
                f"{limits.unauthenticated_packets} packets before authentication"
            )

    def check_unread_answers(self, connection: Connection) -> None:
        """Bound the answers that a peer causes without reading them.

        :raises RemoteProtocolError: too much is waiting for it
        """
        waiting = self._transport.pending + connection.held_size - connection.own_waiting
        if waiting > self._limits.pending_output + self._limits.unread_answers:
            raise RemoteProtocolError(f"the peer leaves {waiting} bytes of answers unread")

    def check_deferred(self, payloads: Sequence[bytes]) -> None:
        """Bound what waits for the end of a key exchange.

        :raises RemoteProtocolError: it is too much
        """
        if len(payloads) > MAX_DEFERRED_PACKETS or sum(map(len, payloads)) > MAX_DEFERRED_BYTES:
            raise RemoteProtocolError("too many messages between KEXINIT and NEWKEYS")
