"""AES in Galois/Counter Mode (RFC 5647, with OpenSSH's framing).

The length field is authenticated, but not encrypted; everything after it is encrypted, aligned to
16 bytes, and followed by a 16-byte tag. The nonce consists of 4 fixed bytes and a 64-bit counter,
both taken from the initial vector; the counter is incremented for each packet, and wraps without a
carry into the fixed part.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..wire import Buffer
from .packets import (
    BYTES,
    LENGTH,
    LENGTH_SIZE,
    VIEW_FROM,
    PaddingSource,
    encrypted_packet_error,
    padding_sizes,
    strip_padding,
)

__all__ = ["GcmOpener", "GcmSealer"]

_BLOCK_SIZE: Final = 16
_PADDING: Final = padding_sizes(_BLOCK_SIZE)
_TAG_SIZE: Final = 16
_FIXED_SIZE: Final = 4
_NONCE: Final = struct.Struct(f">{_FIXED_SIZE}sQ")
_COUNTERS: Final = 2**64
_PACKETS: Final = 2**32
"""More than one key is ever used for."""


class GcmSealer:
    """Encrypts and authenticates with AES-GCM."""

    __slots__ = ("_encrypt", "_next_nonce", "_take_padding")

    def __init__(self, key: bytes, iv: bytes, random: Callable[[int], bytes]) -> None:
        self._encrypt = AESGCM(key).encrypt
        self._next_nonce = _nonces(iv).__next__
        self._take_padding = PaddingSource(random).take

    def seal(self, sequence: int, head: Buffer, body: Buffer = b"", tail: bytes = b"") -> bytes:
        """Return the complete packet; see :meth:`PacketSealer.seal`."""
        size = 1 + len(head) + len(body) + len(tail)
        padding = _PADDING[size % _BLOCK_SIZE]
        length = LENGTH.pack(size + padding)
        plain = b"".join((BYTES[padding], head, body, tail, self._take_padding(padding)))
        return length + self._encrypt(self._next_nonce(), plain, length)


class GcmOpener:
    """Verifies and decrypts with AES-GCM."""

    __slots__ = ("_decrypt", "_next_nonce")

    header_size: Final = LENGTH_SIZE
    trailer_size: Final = _TAG_SIZE

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._decrypt = AESGCM(key).decrypt
        self._next_nonce = _nonces(iv).__next__

    def packet_length(self, sequence: int, buffer: bytearray, offset: int) -> int:
        """Return the length field; see :meth:`PacketOpener.packet_length`."""
        length: int = LENGTH.unpack_from(buffer, offset)[0]
        return length

    def refuse_length(self, packet_length: int) -> int:
        """Raise; see :meth:`PacketOpener.refuse_length`."""
        raise encrypted_packet_error()

    def open(
        self, sequence: int, buffer: bytearray, offset: int, packet_length: int
    ) -> bytes | memoryview:
        """Return the payload; see :meth:`PacketOpener.open`."""
        if packet_length % _BLOCK_SIZE or packet_length < _BLOCK_SIZE:
            raise encrypted_packet_error()
        start = offset + LENGTH_SIZE
        end = start + packet_length + _TAG_SIZE
        try:
            plain = self._decrypt(
                self._next_nonce(),
                # No variable refers to the view: the caller must be able to resize its buffer.
                buffer[start:end] if packet_length < VIEW_FROM else memoryview(buffer)[start:end],
                buffer[offset:start],
            )
        except InvalidTag:
            raise encrypted_packet_error() from None
        return strip_padding(plain)


def _nonces(iv: bytes) -> Iterator[bytes]:
    """Yield each nonce that belongs to ``iv`` once, so that none can be reused."""
    fixed, first = _NONCE.unpack_from(iv)
    counters: Iterator[int] = count(first)
    if first > _COUNTERS - _PACKETS:  # it will wrap; otherwise a plain counter is cheaper
        counters = chain(range(first, _COUNTERS), range(first))
    return map(_NONCE.pack, repeat(fixed), counters)
