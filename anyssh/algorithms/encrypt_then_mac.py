"""Encrypt-then-MAC: the ``-etm@openssh.com`` algorithms (OpenSSH PROTOCOL, section 1.7).

The length field is not encrypted, and does not count for alignment. The MAC covers the packet's
sequence number, the length and the ciphertext, and is verified before anything is decrypted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hmac import compare_digest
from typing import Final

from ..wire import Buffer
from .block_ciphers import BLOCK_SIZE, SEQUENCE, SEQUENCES, Authenticator
from .packets import (
    BYTES,
    LENGTH,
    LENGTH_SIZE,
    PaddingSource,
    encrypted_packet_error,
    padding_sizes,
    strip_padding,
)

__all__ = ["EncryptThenMacOpener", "EncryptThenMacSealer"]

_PADDING: Final = padding_sizes(BLOCK_SIZE)
_SEQUENCE_AND_LENGTH: Final = struct.Struct(">II")


class EncryptThenMacSealer:
    """Encrypts a packet, then authenticates the result."""

    __slots__ = ("_authenticator", "_encrypt", "_take_padding")

    def __init__(
        self,
        encrypt: Callable[[Buffer], bytes],
        authenticator: Authenticator,
        random: Callable[[int], bytes],
    ) -> None:
        self._encrypt = encrypt
        self._authenticator = authenticator
        self._take_padding = PaddingSource(random).take

    def seal(self, sequence: int, head: Buffer, body: Buffer = b"", tail: bytes = b"") -> bytes:
        """Return the complete packet; see :meth:`PacketSealer.seal`."""
        size = 1 + len(head) + len(body) + len(tail)
        padding = _PADDING[size % BLOCK_SIZE]
        encrypted = self._encrypt(
            b"".join((BYTES[padding], head, body, tail, self._take_padding(padding)))
        )
        prefix = _SEQUENCE_AND_LENGTH.pack(sequence & SEQUENCES, size + padding)
        code = self._authenticator.code(prefix, encrypted)
        return b"".join((prefix[SEQUENCE.size :], encrypted, code))


class EncryptThenMacOpener:
    """Verifies a packet, then decrypts it."""

    __slots__ = ("_authenticator", "_decrypt", "trailer_size")

    header_size: Final = LENGTH_SIZE

    def __init__(self, decrypt: Callable[[Buffer], bytes], authenticator: Authenticator) -> None:
        self._decrypt = decrypt
        self._authenticator = authenticator
        self.trailer_size: int = authenticator.size

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
        if packet_length % BLOCK_SIZE or packet_length < BLOCK_SIZE:
            raise encrypted_packet_error()
        end = offset + LENGTH_SIZE + packet_length
        sealed = buffer[offset:end]
        code = self._authenticator.code(SEQUENCE.pack(sequence & SEQUENCES), sealed)
        if not compare_digest(code, buffer[end : end + self.trailer_size]):
            raise encrypted_packet_error()
        return strip_padding(self._decrypt(memoryview(sealed)[LENGTH_SIZE:]))
