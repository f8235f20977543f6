"""Encrypt-and-MAC: authenticating the plaintext packet (RFC 4253 section 6.4).

The length field is encrypted with the rest, so the first block is decrypted before the length is
known. The MAC covers the packet's sequence number and the plaintext packet.

With CBC this is a trap: an attacker who replays a block as the start of a packet could learn what
it decrypts to, from the number of bytes that we then wait for. So after anything invalid,
:class:`CbcAndMacOpener` first reads on until a fixed number of bytes was received, and only then
fails. CBC is only offered if an application enables it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hmac import compare_digest
from typing import Final

from ..errors import RemoteProtocolError
from ..wire import Buffer
from .block_ciphers import BLOCK_SIZE, SEQUENCE, SEQUENCES, Authenticator
from .packets import (
    LENGTH,
    LENGTH_SIZE,
    PaddingSource,
    encrypted_packet_error,
    padding_sizes,
    strip_padding,
)

__all__ = ["DISCARD_SIZE", "CbcAndMacOpener", "EncryptAndMacOpener", "EncryptAndMacSealer"]

DISCARD_SIZE: Final = 256 * 1024
"""Bytes of and after an invalid CBC packet that are read before the connection fails."""

_DISCARD_STEP: Final = 32 * 1024
_PADDING: Final = padding_sizes(BLOCK_SIZE)
_HEAD: Final = struct.Struct(">IB")


class EncryptAndMacSealer:
    """Authenticates a plaintext packet and encrypts it."""

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
        size = _HEAD.size + len(head) + len(body) + len(tail)
        padding = _PADDING[size % BLOCK_SIZE]
        start = _HEAD.pack(size - LENGTH_SIZE + padding, padding)
        plain = b"".join((start, head, body, tail, self._take_padding(padding)))
        code = self._authenticator.code(SEQUENCE.pack(sequence & SEQUENCES), plain)
        return self._encrypt(plain) + code


class EncryptAndMacOpener:
    """Decrypts a packet, and verifies it before using anything but its length."""

    __slots__ = ("_authenticator", "_decrypt", "_first_block", "trailer_size")

    header_size: Final = BLOCK_SIZE

    def __init__(self, decrypt: Callable[[Buffer], bytes], authenticator: Authenticator) -> None:
        self._decrypt = decrypt
        self._authenticator = authenticator
        self._first_block = b""
        self.trailer_size: int = authenticator.size

    def packet_length(self, sequence: int, buffer: bytearray, offset: int) -> int:
        """Return the length field; see :meth:`PacketOpener.packet_length`."""
        # A stateful cipher must see each block once, but the length may be requested again.
        if not self._first_block:
            self._first_block = self._decrypt(buffer[offset : offset + BLOCK_SIZE])
        length: int = LENGTH.unpack_from(self._first_block)[0]
        return length

    def refuse_length(self, packet_length: int) -> int:
        """Raise; see :meth:`PacketOpener.refuse_length`."""
        raise encrypted_packet_error()

    def open(
        self, sequence: int, buffer: bytearray, offset: int, packet_length: int
    ) -> bytes | memoryview:
        """Return the payload; see :meth:`PacketOpener.open`."""
        if (LENGTH_SIZE + packet_length) % BLOCK_SIZE:
            raise encrypted_packet_error()
        end = offset + LENGTH_SIZE + packet_length
        plain = self._first_block + self._decrypt(buffer[offset + BLOCK_SIZE : end])
        self._first_block = b""
        code = self._authenticator.code(SEQUENCE.pack(sequence & SEQUENCES), plain)
        if not compare_digest(code, buffer[end : end + self.trailer_size]):
            raise encrypted_packet_error()
        return strip_padding(plain, LENGTH_SIZE)


class CbcAndMacOpener(EncryptAndMacOpener):
    """Does not reveal what a block decrypts to by when it fails.

    Once anything is invalid, it treats the input as further packets of moderate length, for which
    :meth:`open` returns ``b""``. The connection fails once :data:`DISCARD_SIZE` bytes were read,
    counted from the start of the invalid packet, whatever was wrong with it. (A packet of about
    that length, or longer if the limits permit it, fails at its end.)
    """

    __slots__ = ("_discard",)

    def __init__(self, decrypt: Callable[[Buffer], bytes], authenticator: Authenticator) -> None:
        super().__init__(decrypt, authenticator)
        self._discard: int | None = None

    def packet_length(self, sequence: int, buffer: bytearray, offset: int) -> int:
        """Return the length field, or a length to read on with.

        See :meth:`PacketOpener.packet_length`.
        """
        if self._discard is not None:
            return self._next_step(self._discard)
        return super().packet_length(sequence, buffer, offset)

    def refuse_length(self, packet_length: int) -> int:
        """Return a length to read on with; see :meth:`PacketOpener.refuse_length`."""
        if self._discard is None:
            self._discard = DISCARD_SIZE
        return self._next_step(self._discard)

    def open(
        self, sequence: int, buffer: bytearray, offset: int, packet_length: int
    ) -> bytes | memoryview:
        """Return the payload, ``b""`` while reading on; see :meth:`PacketOpener.open`."""
        size = LENGTH_SIZE + packet_length + self.trailer_size
        if self._discard is None:
            try:
                return super().open(sequence, buffer, offset, packet_length)
            except RemoteProtocolError:
                self._discard = DISCARD_SIZE
        else:
            # Authenticate anyway, to take as long as for a packet with an acceptable length.
            self._authenticator.code(b"", buffer[offset : offset + size])
        self._discard -= size
        if self._discard < self._shortest_step():
            raise encrypted_packet_error()
        return b""

    def _next_step(self, left: int) -> int:
        """Return a packet_length that never leaves less than one packet to be read."""
        step = left if left < _DISCARD_STEP + self._shortest_step() else _DISCARD_STEP
        return step - LENGTH_SIZE - self.trailer_size

    def _shortest_step(self) -> int:
        return BLOCK_SIZE + self.trailer_size
