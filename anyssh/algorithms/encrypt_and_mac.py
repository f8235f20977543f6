"""Authenticate the plain packet and encrypt it too: the older codes (RFC 4253 section 6.4).

The length field is encrypted with the rest, so the first block is decrypted before the length is
known. The code covers the packet's number and the plain packet.

With CBC this is a trap: an attacker who repeats a block as the beginning of a packet could tell
what it decrypts to from the number of bytes that we then wait for. So after anything that is wrong
:class:`CbcAndMacOpener` reads on until it has had the same number of bytes each time, and only
then fails. CBC is never offered unless an application asks for it.
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
"""Bytes that are read of a bad CBC packet, and after it, before the connection fails."""

_DISCARD_STEP: Final = 32 * 1024
_PADDING: Final = padding_sizes(BLOCK_SIZE)
_HEAD: Final = struct.Struct(">IB")


class EncryptAndMacSealer:
    """Authenticates a plain packet and encrypts it."""

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
        """Return the whole packet; see :meth:`PacketSealer.seal`."""
        size = _HEAD.size + len(head) + len(body) + len(tail)
        padding = _PADDING[size % BLOCK_SIZE]
        start = _HEAD.pack(size - LENGTH_SIZE + padding, padding)
        plain = b"".join((start, head, body, tail, self._take_padding(padding)))
        code = self._authenticator.code(SEQUENCE.pack(sequence & SEQUENCES), plain)
        return self._encrypt(plain) + code


class EncryptAndMacOpener:
    """Decrypts a packet and verifies it before anything but its length is looked at."""

    __slots__ = ("_authenticator", "_decrypt", "_first_block", "trailer_size")

    header_size: Final = BLOCK_SIZE

    def __init__(self, decrypt: Callable[[Buffer], bytes], authenticator: Authenticator) -> None:
        self._decrypt = decrypt
        self._authenticator = authenticator
        self._first_block = b""
        self.trailer_size: int = authenticator.size

    def packet_length(self, sequence: int, buffer: bytearray, offset: int) -> int:
        """Return the length field; see :meth:`PacketOpener.packet_length`."""
        # A cipher that chains must see each block once, but the length may be asked for again.
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
    """Never tells from when it fails what a block decrypts to.

    Once something is wrong, it takes the input for further packets of a modest length, for which
    :meth:`open` returns ``b""``. The connection fails when :data:`DISCARD_SIZE` bytes were read,
    counted from the first of the packet that was wrong, whatever was wrong with it. (A packet that
    is about as long as that, or longer if the limits permit it, fails where it ends.)
    """

    __slots__ = ("_discard",)

    def __init__(self, decrypt: Callable[[Buffer], bytes], authenticator: Authenticator) -> None:
        super().__init__(decrypt, authenticator)
        self._discard: int | None = None

    def packet_length(self, sequence: int, buffer: bytearray, offset: int) -> int:
        """Return the length field, or one to read on with.

        See :meth:`PacketOpener.packet_length`.
        """
        if self._discard is not None:
            return self._next_step(self._discard)
        return super().packet_length(sequence, buffer, offset)

    def refuse_length(self, packet_length: int) -> int:
        """Return how much to read on; see :meth:`PacketOpener.refuse_length`."""
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
            # Authenticating takes as long as for a packet whose length was not refused.
            self._authenticator.code(b"", buffer[offset : offset + size])
        self._discard -= size
        if self._discard < self._shortest_step():
            raise encrypted_packet_error()
        return b""

    def _next_step(self, left: int) -> int:
        """Return a packet_length such that never less than one packet remains to be read."""
        step = left if left < _DISCARD_STEP + self._shortest_step() else _DISCARD_STEP
        return step - LENGTH_SIZE - self.trailer_size

    def _shortest_step(self) -> int:
        return BLOCK_SIZE + self.trailer_size
