"""The binary packet protocol of one byte stream (RFC 4253 section 6): bytes to payloads and back.

A transport holds the receive buffer, the protection of each direction, the packet sequence numbers,
and the output that waits for the stream. It knows neither how keys are exchanged nor what payloads
mean.

The receive buffer is one ``bytearray``, read by offset and trimmed once per chunk: cutting off each
packet as it arrives is thirty times as expensive.

With the reconnect extension, each packet ends in a *receipt*: the number of the last packet that
the sender has received and, with the latency extension, how long ago that was. Each direction
switches receipts on at a packet of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..algorithms import PacketOpener, PacketSealer, clear_opener, clear_sealer
from ..config import Limits
from ..errors import RemoteProtocolError
from ..identification import PeerVersion
from ..wire import Buffer, displayable
from .acceptance import Role
from .greeting import Greeting

__all__ = ["NO_TRAFFIC", "Traffic", "Transport"]

ReceiptHandler = Callable[[int, float | None], None]

MIN_PACKET_LENGTH: Final = 5
_NUMBER: Final = struct.Struct(">Q")
_NUMBER_AND_DELAY: Final = struct.Struct(">QI")
MAX_DELAY: Final = 2**32 - 1
MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes and packets in each direction, including framing and padding."""

    bytes_sent: int
    bytes_received: int
    messages_sent: int
    messages_received: int

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.bytes_sent + other.bytes_sent,
            self.bytes_received + other.bytes_received,
            self.messages_sent + other.messages_sent,
            self.messages_received + other.messages_received,
        )


NO_TRAFFIC: Final = Traffic(0, 0, 0, 0)


class Transport:
    """Turns the bytes of one stream into payloads and back.

    :ivar received_at: when bytes last arrived, in monotonic seconds
    :ivar now: the time of the packets sent next, in monotonic seconds
    :ivar pending: bytes that wait for the stream
    :ivar gives_receipts: whether our packets end in a receipt
    """

    __slots__ = (
        "_buffer",
        "_greeting",
        "_limits",
        "_make_receipt",
        "_max_packet_length",
        "_offset",
        "_on_receipt",
        "_on_send",
        "_opener",
        "_output",
        "_peer_receipt",
        "_sealer",
        "bytes_received",
        "bytes_sent",
        "gives_receipts",
        "last_receipt",
        "messages_received",
        "messages_sent",
        "now",
        "peer_version",
        "pending",
        "receipted_bytes",
        "receipted_messages",
        "receive_sequence",
        "received_at",
        "send_sequence",
    )

    def __init__(
        self,
        role: Role,
        limits: Limits,
        identification: str,
        random: Callable[[int], bytes],
        on_send: Callable[[int, int], None] | None = None,
    ) -> None:
        self._on_send = on_send
        self._limits = limits
        self._greeting = Greeting(role.other)
        self.peer_version: PeerVersion | None = None
        self._buffer = bytearray()
        self._offset = 0
        self._max_packet_length = limits.unauthenticated_packet_size
        self._sealer: PacketSealer = clear_sealer(random)
        self._opener: PacketOpener = clear_opener()
        self.send_sequence: int = 0
        self.receive_sequence: int = 0
        line = identification.encode("ascii") + b"\r\n"
        self._output: list[bytes] = [line]
        self.pending: int = len(line)
        self.bytes_sent: int = len(line)
        self.bytes_received: int = 0
        self.messages_sent: int = 0
        self.messages_received: int = 0
        self._make_receipt: Callable[[], bytes] | None = None
        self.gives_receipts: bool = False
        self._peer_receipt: struct.Struct | None = None
        self._on_receipt: ReceiptHandler | None = None
        self.last_receipt: int = -1
        self.receipted_messages: int = 0
        self.receipted_bytes: int = 0
        self.received_at: float = 0.0
        self.now: float = 0.0

    @property
    def traffic(self) -> Traffic:
        """The present counters."""
        return Traffic(
            self.bytes_sent, self.bytes_received, self.messages_sent, self.messages_received
        )

    # Receiving

    def feed(self, data: Buffer) -> None:
        """Append bytes from the stream, to be read with :meth:`next_payload`."""
        self._buffer += data
        self.bytes_received += len(data)

    def read_greeting(self) -> PeerVersion | None:
        """Return the peer's identification once its line is complete.

        :raises RemoteProtocolError: the peer sent something else
        """
        self.peer_version = self._greeting.read(self._buffer)
        return self.peer_version

    @property
    def said_instead(self) -> str:
        """What the peer sent last instead of an identification string, safe to display."""
        last = bytes(self._buffer) or self._greeting.last_line
        return displayable(last.decode(errors="replace"))

    def next_payload(self) -> bytes | memoryview | None:
        """Return the next payload, or None if the buffer contains no further complete packet.

        :raises RemoteProtocolError: the packet is malformed, or its MAC or tag is wrong
        """
        opener = self._opener
        buffer = self._buffer
        while (available := len(buffer) - self._offset) >= opener.header_size:
            offset = self._offset
            length = opener.packet_length(self.receive_sequence, buffer, offset)
            if not MIN_PACKET_LENGTH <= length <= self._max_packet_length:
                length = opener.refuse_length(length)
            size = 4 + length + opener.trailer_size
            if available < size:
                break
            payload = opener.open(self.receive_sequence, buffer, offset, length)
            self._offset = offset + size
            if payload:
                self.receive_sequence += 1
                if self._peer_receipt is not None:
                    payload = self._take_receipt(self._peer_receipt, payload)
                self.messages_received += 1
                return payload
        self._trim()
        return None

    def _trim(self) -> None:
        if self._offset:
            del self._buffer[: self._offset]
            self._offset = 0

    @property
    def unread(self) -> int:
        """Received bytes not yet returned by :meth:`next_payload`."""
        return len(self._buffer) - self._offset

    @property
    def trailer_size(self) -> int:
        """Bytes of MAC or tag after each packet."""
        return self._opener.trailer_size

    def install_opener(self, opener: PacketOpener, *, reset_sequence: bool) -> None:
        """Use new keys for everything after the packet just received."""
        self._opener = opener
        if reset_sequence:
            self.receive_sequence = 0

    def allow_large_packets(self) -> None:
        """Raise the packet size limit to that of authenticated peers."""
        self._max_packet_length = self._limits.packet_size

    # Sending

    def send(self, head: bytes, body: Buffer = b"") -> None:
        """Seal a payload, given in one or two pieces."""
        if self._on_send is not None and not body:
            self._on_send(head[0], self.send_sequence)
        tail = b"" if self._make_receipt is None else self._make_receipt()
        packet = self._sealer.seal(self.send_sequence, head, body, tail)
        self.send_sequence += 1
        self.messages_sent += 1
        size = len(packet)
        self.bytes_sent += size
        self.pending += size
        self._output.append(packet)

    def install_sealer(self, sealer: PacketSealer, *, reset_sequence: bool) -> None:
        """Use new keys from the next packet sent."""
        self._sealer = sealer
        if reset_sequence:
            self.send_sequence = 0

    def take_output(self) -> bytes:
        """Return and clear the bytes that wait for the stream."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        self._output = []
        self.pending = 0
        return data

    # Receipts

    @property
    def gets_receipts(self) -> bool:
        """Whether the peer's packets end in a receipt."""
        return self._peer_receipt is not None

    def give_receipts(self, *, with_delay: bool) -> None:
        """End each packet in a receipt, from the next one on.

        :param with_delay: whether it includes the time from :attr:`received_at` to :attr:`now`
        """
        self._make_receipt = self._receipt_with_delay if with_delay else self._receipt
        self.gives_receipts = True

    def expect_receipts(self, *, with_delay: bool, on_receipt: ReceiptHandler) -> None:
        """Expect a receipt at the end of each packet, from the next one on.

        :param with_delay: whether it includes a time
        :param on_receipt: called with the number of each newly acknowledged packet, and the seconds
            that the peer took to acknowledge it, if included
        """
        self._peer_receipt = _NUMBER_AND_DELAY if with_delay else _NUMBER
        self._on_receipt = on_receipt

    def _receipt(self) -> bytes:
        self.receipted_messages = self.messages_received
        self.receipted_bytes = self.bytes_received
        return _NUMBER.pack(self.messages_received - 1)

    def _receipt_with_delay(self) -> bytes:
        number = self.messages_received
        self.receipted_messages = number
        self.receipted_bytes = self.bytes_received
        delay = int((self.now - self.received_at) * MICROSECONDS)
        return _NUMBER_AND_DELAY.pack(number - 1, min(max(delay, 0), MAX_DELAY))

    def _take_receipt(
        self, layout: struct.Struct, payload: bytes | memoryview
    ) -> bytes | memoryview:
        """Strip the receipt from a payload and report it."""
        size = len(payload) - layout.size
        if size < 1:
            raise RemoteProtocolError(f"a payload of {len(payload)} bytes without a receipt")
        number, *delay = layout.unpack_from(payload, size)
        if number != self.last_receipt:
            if not self.last_receipt < number < self.messages_sent:
                raise RemoteProtocolError(
                    f"the peer acknowledges packet {number}; it acknowledged {self.last_receipt} "
                    f"before, and {self.messages_sent - 1} was the last one sent"
                )
            self.last_receipt = number
            if self._on_receipt is not None:
                self._on_receipt(number, delay[0] / MICROSECONDS if delay else None)
        return payload[:size]
