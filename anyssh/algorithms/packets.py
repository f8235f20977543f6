"""One direction of the binary packet protocol (RFC 4253 section 6): what all modes have in common.

A *sealer* makes a packet out of a payload: ``packet_length | padding_length | payload | padding``
and whatever authenticates it. An *opener* takes packets apart again. Each object is one direction
under one set of keys and is replaced whole when the keys are.

An opener reads a buffer that it does not own: first :meth:`PacketOpener.packet_length`, as soon as
``header_size`` bytes are there, then :meth:`PacketOpener.open`, when the whole packet is.
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
"""From this size on, in bytes, a view costs less than the copy that it saves."""
BYTES: Final = tuple(bytes((value,)) for value in range(256))
"""Each byte as an object, quicker than to make it anew."""

_FIRST_POOL_SIZE: Final = 256
_POOL_SIZE: Final = 1024


class PacketSealer(Protocol):
    """Makes packets for one direction under one set of keys."""

    def seal(self, sequence: int, head: Buffer, body: Buffer = b"", tail: bytes = b"") -> bytes:
        """Return the whole packet, as it goes on the wire; nothing else refers to the object.

        :param sequence: the packet's number; it is used modulo 2**32 where RFC 4253 says so
        :param head: the payload, or its beginning
        :param body: the rest of the payload
        :param tail: what an extension puts behind the payload
        :raises LocalProtocolError: with ChaCha20-Poly1305, a number that was used before
        """
        ...


class PacketOpener(Protocol):
    """Takes packets apart for one direction under one set of keys."""

    @property
    def header_size(self) -> int:
        """Bytes that must be there before :meth:`packet_length` is called."""
        ...

    @property
    def trailer_size(self) -> int:
        """Bytes of tag or MAC that follow the ``packet_length`` ones."""
        ...

    def packet_length(self, sequence: int, buffer: bytearray, offset: int) -> int:
        """Return the length field of the packet at ``offset``; may be asked again and again.

        The caller checks it against its bounds before it waits for as many bytes, and hands a
        length beyond them to :meth:`refuse_length`.

        :param sequence: the packet's number
        :param buffer: holds ``header_size`` bytes of it, or more
        :param offset: where it begins
        """
        ...

    def refuse_length(self, packet_length: int) -> int:
        """Answer a length that the caller cannot accept.

        Raises, but for one mode: CBC with a MAC over the plain packet. Were the connection to end
        at a bad length, an attacker would learn what a block of his choice decrypts to. There it
        returns another, modest length to go on with; see :class:`CbcAndMacOpener`.

        :param packet_length: what :meth:`packet_length` returned
        :raises RemoteProtocolError: the connection is over
        """
        ...

    def open(
        self, sequence: int, buffer: bytearray, offset: int, packet_length: int
    ) -> bytes | memoryview:
        """Verify and decrypt a packet and return its payload, which is not empty.

        The result does not refer to ``buffer``. Only after a failure in the mode that
        :meth:`refuse_length` names it is ``b""``: skip the packet and go on with the next.

        :param sequence: the packet's number
        :param buffer: holds ``4 + packet_length + trailer_size`` bytes of it, or more
        :param offset: where it begins
        :param packet_length: what :meth:`packet_length` or :meth:`refuse_length` returned
        :raises RemoteProtocolError: it is not a packet that the peer made with our keys; with
            ``MAC_ERROR``, or with ``PROTOCOL_ERROR`` where there are no keys
        """
        ...


class PaddingSource:
    """Hands out random padding from a small pool, so that not every packet asks for entropy."""

    __slots__ = ("_offset", "_pool", "_pool_size", "_random")

    def __init__(self, random: Callable[[int], bytes]) -> None:
        """Begin with an empty pool.

        :param random: returns as many unpredictable bytes as it is asked for
        """
        self._random = random
        self._pool = b""
        # Most keys of a short session seal a handful of packets.
        self._pool_size = _FIRST_POOL_SIZE
        self._offset = 0

    def take(self, size: int) -> bytes:
        """Return ``size`` bytes, at most 255, that were not handed out before."""
        start = self._offset
        end = start + size
        if end > len(self._pool):
            self._pool = self._random(self._pool_size)
            self._pool_size = _POOL_SIZE
            start, end = 0, size
        self._offset = end
        return self._pool[start:end]


def padding_sizes(block_size: int) -> tuple[int, ...]:
    """Return how much padding what must be aligned needs, by its size modulo ``block_size``."""
    least = [-size % block_size for size in range(block_size)]
    return tuple(size if size >= MIN_PADDING else size + block_size for size in least)


def strip_padding(plain: bytes, start: int = 0) -> bytes | memoryview:
    """Return the payload of a packet that was verified.

    :param plain: the decrypted packet, up to the end of its padding
    :param start: where padding_length stands in it
    :raises RemoteProtocolError: the padding does not leave at least one byte of payload
    """
    end = len(plain) - plain[start]
    start += 1
    if plain[start - 1] < MIN_PADDING or end <= start:
        raise encrypted_packet_error()
    if end < VIEW_FROM:
        return plain[start:end]
    return memoryview(plain)[start:end]


def encrypted_packet_error() -> RemoteProtocolError:
    """Return the one error for whatever is wrong with an encrypted packet.

    A peer, or somebody in between, must not learn from it how far a forged packet came.
    """
    return RemoteProtocolError(
        "an encrypted packet is not valid: its length, padding or authentication code is wrong",
        reason=DisconnectReason.MAC_ERROR,
    )
