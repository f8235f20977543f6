"""Packets without keys: before the first key exchange, or always if ``none`` was negotiated.

They are aligned to 8 bytes when sent. Received ones need not be: some peers do not count the length
field, and there is nothing to protect.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from ..errors import RemoteProtocolError
from ..wire import Buffer
from .packets import (
    LENGTH,
    LENGTH_SIZE,
    MIN_PADDING,
    VIEW_FROM,
    PaddingSource,
    padding_sizes,
)

__all__ = ["ClearOpener", "ClearSealer"]

_BLOCK_SIZE: Final = 8
_PADDING: Final = padding_sizes(_BLOCK_SIZE)
_HEAD: Final = struct.Struct(">IB")
_BYTE_AND_PAYLOAD: Final = 2
"""The least that a packet holds besides its padding: padding_length and one byte."""


class ClearSealer:
    """Frames payloads, without any protection."""

    __slots__ = ("_padding",)

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._padding = PaddingSource(random)

    def seal(self, sequence: int, head: Buffer, body: Buffer = b"", tail: bytes = b"") -> bytes:
        """Return the complete packet; see :meth:`PacketSealer.seal`."""
        size = _HEAD.size + len(head) + len(body) + len(tail)
        padding = _PADDING[size % _BLOCK_SIZE]
        start = _HEAD.pack(size - LENGTH_SIZE + padding, padding)
        return b"".join((start, head, body, tail, self._padding.take(padding)))


class ClearOpener:
    """Extracts payloads from unprotected packets."""

    __slots__ = ()

    header_size: Final = LENGTH_SIZE
    trailer_size: Final = 0

    def packet_length(self, sequence: int, buffer: bytearray, offset: int) -> int:
        """Return the length field; see :meth:`PacketOpener.packet_length`."""
        length: int = LENGTH.unpack_from(buffer, offset)[0]
        return length

    def refuse_length(self, packet_length: int) -> int:
        """Raise; see :meth:`PacketOpener.refuse_length`."""
        raise RemoteProtocolError(f"a packet_length of {packet_length} is out of bounds")

    def open(
        self, sequence: int, buffer: bytearray, offset: int, packet_length: int
    ) -> bytes | memoryview:
        """Return the payload; see :meth:`PacketOpener.open`."""
        longest = packet_length - _BYTE_AND_PAYLOAD
        if longest < MIN_PADDING:
            raise RemoteProtocolError(
                f"packet_length must be at least {_BYTE_AND_PAYLOAD + MIN_PADDING}, "
                f"is {packet_length}"
            )
        start = offset + LENGTH_SIZE
        padding = buffer[start]
        if not MIN_PADDING <= padding <= longest:
            raise RemoteProtocolError(
                f"padding_length must lie between {MIN_PADDING} and {longest}, is {padding}"
            )
        payload = buffer[start + 1 : start + packet_length - padding]
        return bytes(payload) if packet_length < VIEW_FROM else memoryview(payload)
