"""The data types of RFC 4251 section 5: functions that encode them, and a reader that parses them.

Encoders return ``bytes``, to be concatenated: ``string("exec") + boolean(True)``. The
:class:`Reader` advances through a buffer by offset. It is strict: reading
beyond the end raises :class:`~anyssh.WireError`, and :meth:`Reader.expect_end` raises it if bytes
are left over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from .errors import WireError

__all__ = [
    "MAX_NAMES",
    "MAX_NAME_LIST_BYTES",
    "Buffer",
    "Reader",
    "boolean",
    "byte",
    "displayable",
    "displayable_lines",
    "mpint",
    "name_list",
    "string",
    "uint32",
    "uint64",
]

Buffer = bytes | bytearray | memoryview

MAX_NAMES: Final = 256
MAX_NAME_LIST_BYTES: Final = 16 * 1024
MAX_CACHED_BYTES: Final = 1024
MAX_DISPLAY_CHARACTERS: Final = 256
MAX_DISPLAY_LINES: Final = 64

_UINT32 = struct.Struct(">I")
_UINT64 = struct.Struct(">Q")


def byte(value: int) -> bytes:
    """Encode a byte.

    :param value: 0 to 255
    """
    return value.to_bytes(1, "big")


def boolean(value: bool) -> bytes:
    """Encode a boolean.

    :param value: true or false
    """
    return b"\x01" if value else b"\x00"


def uint32(value: int) -> bytes:
    """Encode an unsigned 32-bit integer.

    :param value: 0 to 2**32 - 1
    """
    return _UINT32.pack(value)


def uint64(value: int) -> bytes:
    """Encode an unsigned 64-bit integer.

    :param value: 0 to 2**64 - 1
    """
    return _UINT64.pack(value)


def string(value: str | Buffer) -> bytes:
    """Encode a string: its length, then its bytes.

    :param value: the bytes, or a text to encode as UTF-8
    """
    data = value.encode() if isinstance(value, str) else value
    return _UINT32.pack(len(data)) + data


def mpint(value: int) -> bytes:
    """Encode a signed integer of any size, in minimal two's complement.

    :param value: any integer
    """
    if value == 0:
        return b"\x00\x00\x00\x00"
    # A negative power of two (-128) needs one bit less than its magnitude suggests.
    bits = (value if value > 0 else -value - 1).bit_length()
    return string(value.to_bytes(bits // 8 + 1, "big", signed=True))


def name_list(names: Iterable[str]) -> bytes:
    """Encode a name-list: one comma-separated string, empty if there are no names.

    :param names: ASCII names, without commas
    """
    return string(",".join(names).encode("ascii"))


def displayable(text: str) -> str:
    """Make text from a peer safe to display: one short line, without control characters.

    Characters that could forge a log line, move a terminal's cursor or change the text direction
    are escaped; anything beyond 256 characters is cut off.

    :param text: text from the peer
    """
    cut = text[:MAX_DISPLAY_CHARACTERS]
    shown = cut if cut.isprintable() else "".join(map(_escaped, cut))
    if len(shown) > MAX_DISPLAY_CHARACTERS:
        shown = shown[:MAX_DISPLAY_CHARACTERS]
    return shown


def displayable_lines(text: str) -> str:
    """Make text of several lines safe to display, each line as by :func:`displayable`.

    Lines after the 64th are cut off.

    :param text: text from the peer
    """
    return "\n".join(map(displayable, text.splitlines()[:MAX_DISPLAY_LINES]))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


# Peers with the same software all send the same lists.
@lru_cache(maxsize=64)
def _parse_names(data: bytes) -> tuple[str, ...]:
    if not data:
        return ()
    if data.count(b",") >= MAX_NAMES:
        raise WireError(f"a name-list of more than {MAX_NAMES} names")
    try:
        names = tuple(data.decode("ascii").split(","))
    except UnicodeDecodeError:
        raise WireError("a name-list must be ASCII") from None
    for name in names:
        if not 1 <= len(name) <= 64 or not name.isprintable() or " " in name:
            raise WireError(f"not an algorithm name: {displayable(name)!r}")
    return names


class Reader:
    """Parses a buffer from front to back; never reads beyond it.

    :param data: the bytes, which are not copied
    :param offset: where to start
    """

    __slots__ = ("_data", "_end", "_offset")

    def __init__(self, data: Buffer, offset: int = 0) -> None:
        self._data = data
        self._offset = offset
        self._end = len(data)

    @property
    def offset(self) -> int:
        """Where the next read starts."""
        return self._offset

    @property
    def remaining(self) -> int:
        """The number of bytes left."""
        return self._end - self._offset

    def byte(self) -> int:
        """Read a byte."""
        return self._data[self._advance(1)]

    def boolean(self) -> bool:
        """Read a boolean; every byte but zero is true."""
        return self._data[self._advance(1)] != 0

    def uint32(self) -> int:
        """Read an unsigned 32-bit integer."""
        start = self._offset
        if start + 4 > self._end:
            self._advance(4)
        self._offset = start + 4
        value: int = _UINT32.unpack_from(self._data, start)[0]
        return value

    def uint64(self) -> int:
        """Read an unsigned 64-bit integer."""
        value: int = _UINT64.unpack_from(self._data, self._advance(8))[0]
        return value

    def raw(self, size: int) -> bytes:
        """Read ``size`` bytes that are not preceded by a length."""
        start = self._advance(size)
        return bytes(self._data[start : start + size])

    def string(self) -> bytes:
        """Read a string as bytes."""
        # Inlined, as most reads are of integers and strings.
        start = self._offset + 4
        if start > self._end:
            self._advance(4)
        self._offset = start
        size: int = _UINT32.unpack_from(self._data, start - 4)[0]
        if size > self._end - start:
            self._advance(size)
        self._offset = start + size
        return bytes(self._data[start : start + size])

    def text(self) -> str:
        """Read a string that is a name; it must be UTF-8."""
        try:
            return self.string().decode()
        except UnicodeDecodeError as error:
            raise WireError(f"a name must be UTF-8: {error}") from None

    def lenient_text(self) -> str:
        """Read a string meant for people, replacing what is not UTF-8."""
        return self.string().decode(errors="replace")

    def mpint(self) -> int:
        """Read a signed integer, rejecting superfluous leading bytes."""
        data = self.string()
        if len(data) > 1 and (
            (data[0] == 0 and data[1] < 0x80) or (data[0] == 0xFF and data[1] >= 0x80)
        ):
            raise WireError("an mpint has superfluous leading bytes")
        if data == b"\x00":
            raise WireError("the mpint zero must be empty")
        return int.from_bytes(data, "big", signed=True)

    def name_list(self) -> tuple[str, ...]:
        """Read a name-list of at most 256 names, each of 1 to 64 printable ASCII characters."""
        size = self.uint32()
        if size > MAX_NAME_LIST_BYTES:
            raise WireError(
                f"a name-list of {size} bytes; at most {MAX_NAME_LIST_BYTES} are accepted"
            )
        data = self.raw(size)
        return _parse_names(data) if size <= MAX_CACHED_BYTES else _parse_names.__wrapped__(data)

    def rest(self) -> bytes:
        """Read everything that is left."""
        start, self._offset = self._offset, self._end
        return bytes(self._data[start:])

    def expect_end(self) -> None:
        """Raise :class:`~anyssh.WireError` unless everything was read."""
        if self._offset != self._end:
            raise WireError(f"{self._end - self._offset} trailing bytes at offset {self._offset}")

    def _advance(self, size: int) -> int:
        start = self._offset
        if size > self._end - start:
            raise WireError(
                f"expected {size} bytes at offset {start}, but only {self._end - start} are left"
            )
        self._offset = start + size
        return start
