"""The subset of DER (X.690) that key files need: definite, minimal lengths, and no recursion.

Encoders are functions that return bytes; :class:`DerReader` reads the contents of one value.
Malformed input raises :class:`~anyssh.KeyFormatError`.
"""

from __future__ import annotations

from typing import Final

from ..errors import KeyFormatError

__all__ = [
    "BIT_STRING",
    "INTEGER",
    "NULL",
    "OBJECT_IDENTIFIER",
    "OCTET_STRING",
    "SEQUENCE",
    "DerReader",
    "bit_string",
    "context",
    "integer",
    "is_sequence",
    "null",
    "object_identifier",
    "octet_string",
    "sequence",
]

INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
SEQUENCE: Final = 0x30
_CONTEXT: Final = 0xA0
_CONTEXT_PRIMITIVE: Final = 0x80


def _value(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    encoded = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(encoded))) + encoded + content


def sequence(*values: bytes) -> bytes:
    """Encode a SEQUENCE of values that are already encoded."""
    return _value(SEQUENCE, b"".join(values))


def integer(value: int) -> bytes:
    """Encode a non-negative INTEGER."""
    return _value(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octet_string(content: bytes) -> bytes:
    """Encode an OCTET STRING."""
    return _value(OCTET_STRING, content)


def bit_string(content: bytes) -> bytes:
    """Encode a BIT STRING of whole bytes."""
    return _value(BIT_STRING, b"\0" + content)


def null() -> bytes:
    """Encode NULL."""
    return b"\x05\x00"


def context(number: int, *values: bytes) -> bytes:
    """Encode the explicit tag ``[number]`` around values."""
    return _value(_CONTEXT | number, b"".join(values))


def object_identifier(dotted: str) -> bytes:
    """Encode an OBJECT IDENTIFIER given in dotted form."""
    first, second, *others = map(int, dotted.split("."))
    content = bytearray()
    for number in (first * 40 + second, *others):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | number & 0x7F)
        content += bytes(reversed(groups))
    return _value(OBJECT_IDENTIFIER, bytes(content))


def is_sequence(data: bytes) -> bool:
    """Tell whether the bytes are exactly one SEQUENCE."""
    reader = DerReader(data)
    try:
        reader.read(SEQUENCE)
        reader.expect_end()
    except KeyFormatError:
        return False
    return True


class DerReader:
    """Reads values one after another; never beyond its bytes."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def next_tag(self) -> int | None:
        """Return the tag of the next value, None at the end."""
        return self._data[self._offset] if self._offset < len(self._data) else None

    def read(self, tag: int) -> bytes:
        """Read the contents of the next value, which must have this tag."""
        seen = self.next_tag()
        if seen != tag:
            shown = "the end" if seen is None else f"tag 0x{seen:02x}"
            raise KeyFormatError(f"DER: expected tag 0x{tag:02x}, found {shown}")
        start, size = self._length(self._offset + 1)
        if size > len(self._data) - start:
            raise KeyFormatError("DER: a value extends beyond the end")
        self._offset = start + size
        return self._data[start : start + size]

    def _length(self, offset: int) -> tuple[int, int]:
        """Return where the contents start, and their size."""
        data = self._data
        first = data[offset] if offset < len(data) else 0x80
        if first < 0x80:
            return offset + 1, first
        count = first & 0x7F
        encoded = data[offset + 1 : offset + 1 + count]
        size = int.from_bytes(encoded, "big")
        if not 1 <= count <= 4 or len(encoded) < count or encoded[0] == 0 or size < 0x80:
            raise KeyFormatError("DER: a length is missing, indefinite or not minimal")
        return offset + 1 + count, size

    def sequence(self) -> DerReader:
        """Enter a SEQUENCE."""
        return DerReader(self.read(SEQUENCE))

    def integer(self) -> int:
        """Read a non-negative INTEGER."""
        content = self.read(INTEGER)
        if not content or content[0] >= 0x80:
            raise KeyFormatError("DER: an integer is empty or negative")
        if len(content) > 1 and content[0] == 0 and content[1] < 0x80:
            raise KeyFormatError("DER: an integer is not minimal")
        return int.from_bytes(content, "big")

    def octet_string(self) -> bytes:
        """Read an OCTET STRING."""
        return self.read(OCTET_STRING)

    def bit_string(self) -> bytes:
        """Read a BIT STRING of whole bytes."""
        content = self.read(BIT_STRING)
        if content[:1] != b"\0":
            raise KeyFormatError("DER: a bit string is empty or not a whole number of bytes")
        return content[1:]

    def object_identifier(self) -> bytes:
        """Read an OBJECT IDENTIFIER, in the encoding of :func:`object_identifier`."""
        return _value(OBJECT_IDENTIFIER, self.read(OBJECT_IDENTIFIER))

    def context(self, number: int) -> DerReader | None:
        """Enter ``[number]`` if it comes next, whether explicit or implicit."""
        tag = self.next_tag()
        if tag in (_CONTEXT | number, _CONTEXT_PRIMITIVE | number):
            return DerReader(self.read(tag))
        return None

    def optional_null(self) -> None:
        """Skip a NULL if it comes next."""
        if self.next_tag() == NULL and self.read(NULL):
            raise KeyFormatError("DER: a null has contents")

    def rest(self) -> bytes:
        """Read everything that is left."""
        start, self._offset = self._offset, len(self._data)
        return self._data[start:]

    def expect_end(self) -> None:
        """Raise :class:`~anyssh.KeyFormatError` unless everything was read."""
        if self._offset != len(self._data):
            raise KeyFormatError(f"DER: {len(self._data) - self._offset} trailing bytes")
