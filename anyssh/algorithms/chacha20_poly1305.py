"""ChaCha20 and Poly1305, as combined by OpenSSH (PROTOCOL.chacha20poly1305).

There are two keys. One encrypts only the length field, so that it can be read before the tag is
verified. The other encrypts the rest, and its first keystream block is the key of the tag, which
covers both. The nonce is the packet's sequence number, so no number may recur under the same keys.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hmac import compare_digest
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

from ..errors import LocalProtocolError
from ..wire import Buffer
from .packets import (
    BYTES,
    LENGTH,
    LENGTH_SIZE,
    PaddingSource,
    encrypted_packet_error,
    padding_sizes,
    strip_padding,
)

__all__ = ["ChachaOpener", "ChachaSealer"]

_BLOCK_SIZE: Final = 8
_PADDING: Final = padding_sizes(_BLOCK_SIZE)
_MIN_LENGTH: Final = 16
"""When sending: RFC 4253 section 6 forbids packets shorter than 16 bytes."""
_TAG_SIZE: Final = 16
_KEY_SIZE: Final = 32
_NONCE: Final = struct.Struct(">8xQ")
"""The block counter, which starts at zero, and the sequence number."""
_FIRST_BLOCK: Final = bytes(64)


class ChachaSealer:
    """Encrypts and authenticates with ChaCha20 and Poly1305."""

    __slots__ = ("_body", "_last_sequence", "_length", "_take_padding")

    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        self._body = _cipher(key[:_KEY_SIZE])
        self._length = _cipher(key[_KEY_SIZE:])
        self._last_sequence = -1
        self._take_padding = PaddingSource(random).take

    def seal(self, sequence: int, head: Buffer, body: Buffer = b"", tail: bytes = b"") -> bytes:
        """Return the complete packet; see :meth:`PacketSealer.seal`."""
        if sequence <= self._last_sequence:
            raise LocalProtocolError(
                f"packet number {sequence} does not follow {self._last_sequence}"
            )
        self._last_sequence = sequence
        size = 1 + len(head) + len(body) + len(tail)
        padding = _PADDING[size % _BLOCK_SIZE]
        if size + padding < _MIN_LENGTH:
            padding += _BLOCK_SIZE
        nonce = _NONCE.pack(sequence)
        self._length.reset_nonce(nonce)
        self._body.reset_nonce(nonce)
        tag_key = self._body.update(_FIRST_BLOCK)[:_KEY_SIZE]
        plain = b"".join((BYTES[padding], head, body, tail, self._take_padding(padding)))
        sealed = self._length.update(LENGTH.pack(size + padding)) + self._body.update(plain)
        return sealed + Poly1305.generate_tag(tag_key, sealed)


class ChachaOpener:
    """Verifies and decrypts with ChaCha20 and Poly1305."""

    __slots__ = ("_body", "_known_length", "_length")

    header_size: Final = LENGTH_SIZE
    trailer_size: Final = _TAG_SIZE

    def __init__(self, key: bytes) -> None:
        self._body = _cipher(key[:_KEY_SIZE])
        self._length = _cipher(key[_KEY_SIZE:])
        self._known_length: int | None = None

    def packet_length(self, sequence: int, buffer: bytearray, offset: int) -> int:
        """Return the length field; see :meth:`PacketOpener.packet_length`."""
        length = self._known_length
        if length is None:
            self._length.reset_nonce(_NONCE.pack(sequence))
            field = self._length.update(buffer[offset : offset + LENGTH_SIZE])
            length = self._known_length = int.from_bytes(field, "big")
        return length

    def refuse_length(self, packet_length: int) -> int:
        """Raise; see :meth:`PacketOpener.refuse_length`."""
        raise encrypted_packet_error()

    def open(
        self, sequence: int, buffer: bytearray, offset: int, packet_length: int
    ) -> bytes | memoryview:
        """Return the payload; see :meth:`PacketOpener.open`."""
        self._known_length = None
        if packet_length % _BLOCK_SIZE or packet_length < _BLOCK_SIZE:
            raise encrypted_packet_error()
        end = offset + LENGTH_SIZE + packet_length
        self._body.reset_nonce(_NONCE.pack(sequence))
        tag_key = self._body.update(_FIRST_BLOCK)[:_KEY_SIZE]
        sealed = buffer[offset:end]
        tag = Poly1305.generate_tag(tag_key, sealed)
        if not compare_digest(tag, buffer[end : end + _TAG_SIZE]):
            raise encrypted_packet_error()
        return strip_padding(self._body.update(memoryview(sealed)[LENGTH_SIZE:]))


def _cipher(key: bytes) -> CipherContext:
    """Return a keystream generator, to be set to each packet's nonce before use."""
    return Cipher(ChaCha20(key, _NONCE.pack(0)), mode=None).encryptor()
