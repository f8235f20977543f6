"""One direction of the binary packet protocol (RFC 4253 section 6): what all modes have in common.

A *sealer* turns a payload into a packet: ``packet_length | padding_length | payload | padding`` and
its authentication. An *opener* takes packets apart again. Each object serves one direction under
one set of keys, and is replaced along with the keys.

An opener reads a buffer owned by its caller: first :meth:`PacketOpener.packet_length`, as soon as
it has ``header_size`` bytes, then :meth:`PacketOpener.open`, once it has the whole packet.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, Protocol

from ..constants import DisconnectReason
from ..errors import RemoteProtocolError
from ..wire import Buffer

__all__ = [
    "BYTES",
    "LENGTH",
    "LENGTH_SIZE",
    "MIN_PADDING",
    "VIEW_FROM",
    "PacketOpener",
    "PacketSealer",
    "PaddingSource",
    "encrypted_packet_error",
    "padding_sizes",
    "strip_padding",
]

LENGTH: Final = struct.Struct(">I")
LENGTH_SIZE: Final = 4
MIN_PADDING: Final = 4
VIEW_FROM: Final = 8192
"""The size in bytes from which on a view is cheaper than the copy that it saves."""
BYTES: Final = tuple(bytes((value,)) for value in range(256))
"""Each byte as an object, which is faster than creating it."""

_FIRST_POOL_SIZE: Final = 256
_POOL_SIZE: Final = 1024


class PacketSealer(Protocol):
    """Creates the packets of one direction under one set of keys."""

    def seal(self, sequence: int, head: Buffer, body: Buffer = b"", tail: bytes = b"") -> bytes:
        """Return the complete packet, as sent; no other reference to the object exists.

        :param sequence: the packet's sequence number, used modulo 2**32 where RFC 4253 says so
        :param head: the payload, or the start of it
        :param body: the rest of the payload
        :param tail: what an extension appends to the payload
        :raises LocalProtocolError: with ChaCha20-Poly1305, if the sequence number was used before
        """
        ...


class PacketOpener(Protocol):
    """Takes the packets of one direction apart, under one set of keys."""

    @property
    def header_size(self) -> int:
        """Bytes that must be available before :meth:`packet_length` is called."""
        ...

    @property
    def trailer_size(self) -> int:
        """Bytes of tag or MAC after the ``packet_length`` ones."""
        ...

    def packet_length(self, sequence: int, buffer: bytearray, offset: int) -> int:
        """Return the length field of the packet at ``offset``; may be called repeatedly.

        The caller checks it against its bounds before it waits for as many bytes, and passes a
        length outside of them to :meth:`refuse_length`.

        :param sequence: the packet's sequence number
        :param buffer: contains at least ``header_size`` bytes of the packet
        :param offset: where the packet starts
        """
        ...

    def refuse_length(self, packet_length: int) -> int:
        """Respond to a length that the caller cannot accept.

        Raises in all modes but one: CBC with a MAC over the plaintext packet. There, ending the
        connection at an invalid length would tell an attacker what a chosen block decrypts to, so
        it returns another, moderate length to continue with; see :class:`CbcAndMacOpener`.

        :param packet_length: what :meth:`packet_length` returned
        :raises RemoteProtocolError: the connection is over
        """
        ...

    def open(
        self, sequence: int, buffer: bytearray, offset: int, packet_length: int
    ) -> bytes | memoryview:
        """Verify and decrypt a packet, and return its payload, which is not empty.

        The result does not refer to ``buffer``. In the mode that :meth:`refuse_length` mentions, it
        is ``b""`` after a failure: skip the packet and continue with the next.

        :param sequence: the packet's sequence number
        :param buffer: contains at least ``4 + packet_length + trailer_size`` bytes of the packet
        :param offset: where the packet starts
        :param packet_length: what :meth:`packet_length` or :meth:`refuse_length` returned
        :raises RemoteProtocolError: the peer did not create this packet with our keys; with
            ``MAC_ERROR``, or with ``PROTOCOL_ERROR`` if there are no keys
        """
        ...


class PaddingSource:
    """Returns random padding from a small pool, to request entropy less often."""

    __slots__ = ("_offset", "_pool", "_pool_size", "_random")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        """Start with an empty pool.

        :param random: returns the given number of unpredictable bytes
        """
        self._random = random
        self._pool = b""
        # Most keys of a short session seal just a handful of packets.
        self._pool_size = _FIRST_POOL_SIZE
        self._offset = 0

    def take(self, size: int) -> bytes:
        """Return ``size`` bytes, at most 255, none of which was returned before."""
        start = self._offset
        end = start + size
        if end > len(self._pool):
            self._pool = self._random(self._pool_size)
            self._pool_size = _POOL_SIZE
            start, end = 0, size
        self._offset = end
        return self._pool[start:end]


def padding_sizes(block_size: int) -> tuple[int, ...]:
    """Return the padding needed for alignment, indexed by the size modulo ``block_size``."""
    least = [-size % block_size for size in range(block_size)]
    return tuple(size if size >= MIN_PADDING else size + block_size for size in least)


def strip_padding(plain: bytes, start: int = 0) -> bytes | memoryview:
    """Return the payload of a verified packet.

    :param plain: the decrypted packet, up to the end of its padding
    :param start: the position of padding_length in it
    :raises RemoteProtocolError: the padding leaves less than one byte of payload
    """
    end = len(plain) - plain[start]
    start += 1
    if plain[start - 1] < MIN_PADDING or end <= start:
        raise encrypted_packet_error()
    if end < VIEW_FROM:
        return plain[start:end]
    return memoryview(plain)[start:end]


def encrypted_packet_error() -> RemoteProtocolError:
    """Return the only error for anything wrong with an encrypted packet.

    It must not tell a peer, or someone in between, how far a forged packet got.
    """
    return RemoteProtocolError(
        "an encrypted packet is not valid: its length, padding or authentication code is wrong",
        reason=DisconnectReason.MAC_ERROR,
    )
