"""What one peer may cost: bounds that span many messages, each of which would be legal by itself.

Bounds on a single thing stand where that thing is: a packet's length in the transport, a channel's
window in the connection.
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
    """Keeps the accounts of one stream's peer."""

    __slots__ = ("_early_noise", "_limits", "_noise", "_transport")

    def __init__(self, limits: Limits, transport: Transport) -> None:
        self._limits = limits
        self._transport = transport
        self._noise: tuple[Bucket, Bucket] | None = None  # most peers make none
        self._early_noise = 0

    def takes_noise(self, size: int, now: float) -> bool:
        """Note a message without effect, of so many bytes; return whether it is bearable."""
        if self._noise is None:
            limits = self._limits
            self._noise = (
                Bucket(limits.noise_messages, limits.noise_rate),
                Bucket(limits.noise_bytes, limits.noise_rate * BYTES_PER_NOISE),
            )
        messages, sizes = self._noise
        return messages.take(1, now) and sizes.take(size, now)

    def takes_early_noise(self) -> bool:
        """Note such a message during the first key exchange; return whether it is bearable."""
        self._early_noise += 1
        return self._early_noise <= MAX_EARLY_NOISE

    def check_stranger(self) -> None:
        """Bound what is received before authentication.

        What has come but was not looked at yet may lie behind the end of authentication.

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
        """Do not let a peer make us answer without end while it does not read the answers.

        :raises RemoteProtocolError: too much waits for it
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
