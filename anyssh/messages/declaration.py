"""How messages are declared: fields in wire order, from which encoding and decoding are derived.

A message is a dataclass with slots whose fields declare their wire format::

    @declared
    class Disconnect(Message):
        number: ClassVar[int] = MessageNumber.DISCONNECT

        reason: int = uint32()
        description: str = lenient_text(default="")
        language: str = lenient_text(default="", optional=True)

A *field specifier* (``uint32()``) stands for a :class:`Codec`: a function that writes a value, and
one that reads it. :func:`declared` collects them once per class. A field is *optional* if a peer
may end the message before it, which yields its default, and *conditional* if an earlier boolean
says whether it is present. Such fields must come last, and form the *tail*, which is processed
field by field; the fields before are the *head*, which is processed in one sweep. Most messages on
channels are a *row* of 32-bit integers, perhaps followed by a rest, which is processed in one step.

Type checkers see frozen dataclasses. At run time they are not frozen, as a frozen dataclass takes
three times as long to create.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import (
    Any,
    ClassVar,
    Final,
    Generic,
    NamedTuple,
    Self,
    TypeVar,
    cast,
    dataclass_transform,
)

from .. import wire
from ..errors import LocalProtocolError, WireError

__all__ = [
    "Codec",
    "Message",
    "Structure",
    "boolean",
    "coded",
    "declared",
    "embedded",
    "fixed_bytes",
    "lenient_text",
    "name_list",
    "read_count",
    "rest",
    "secret_text",
    "string",
    "system_text",
    "text",
    "uint32",
    "uint64",
]

MAX_SHOWN_CHARACTERS: Final = 256

Value = TypeVar("Value")


class Codec(NamedTuple, Generic[Value]):
    """A wire format: how a value is written, and how it is read back."""

    write: Callable[[Value], bytes]
    read: Callable[[wire.Reader], Value]


class _Member(NamedTuple):
    """A declared field of a class; ``condition`` is the position of the boolean it depends on."""

    name: str
    write: Callable[[Any], bytes]
    read: Callable[[wire.Reader], Any]
    default: Any
    optional: bool
    condition: int | None
    secret: bool


class _Row:
    """The format of a message of 32-bit integers, perhaps followed by a rest, kept as is."""

    __slots__ = ("_has_rest", "_layout", "_names", "_number", "_size")

    def __init__(self, number: int, members: Sequence[_Member]) -> None:
        self._has_rest = members[-1].read is _REST.read
        numbers = members[:-1] if self._has_rest else members
        self._number = int(number)
        self._names = tuple(member.name for member in members)
        self._layout = struct.Struct(">B" + "I" * len(numbers))
        self._size = self._layout.size

    @classmethod
    def of(cls, made: type[Structure]) -> _Row | None:
        """Return the row of a class, None if it has another format."""
        reads = [member.read for member in made._members]
        numbers = reads[:-1] if reads[-1:] == [_REST.read] else reads
        if not issubclass(made, Message) or made._tail or not numbers:
            return None
        if any(read is not _UINT32.read for read in numbers):
            return None
        return cls(made.number, made._members)

    def encode(self, message: Structure) -> bytes:
        values = [getattr(message, name) for name in self._names]
        rest = bytes(values.pop()) if self._has_rest else b""
        return self._layout.pack(self._number, *values) + rest

    def fits(self, data: wire.Buffer) -> bool:
        size = len(data)
        return size == self._size or (self._has_rest and size > self._size)

    def values(self, data: wire.Buffer) -> list[Any]:
        _, *values = self._layout.unpack_from(data)
        if self._has_rest:
            values.append(bytes(data[self._size :]))
        return values


class Structure:
    """Fields in wire order without a message number, as contained in a message."""

    __slots__ = ()

    _members: ClassVar[tuple[_Member, ...]]
    _writers: ClassVar[tuple[tuple[str, Callable[[Any], bytes]], ...]]
    _readers: ClassVar[tuple[Callable[[wire.Reader], Any], ...]]
    _tail: ClassVar[tuple[_Member, ...]]
    _start: ClassVar[bytes]
    _row: ClassVar[_Row | None]

    def encode(self) -> bytes:
        """Return the encoding; optional fields are always written.

        :raises LocalProtocolError: a value does not fit its field
        """
        try:
            row = self._row
            if row is not None:
                return row.encode(self)
            parts = [self._start]
            parts += [write(getattr(self, name)) for name, write in self._writers]
            for member in self._tail:
                if member.condition is None or self._holds(member.condition):
                    parts.append(member.write(getattr(self, member.name)))
            return b"".join(parts)
        except (struct.error, ValueError):
            pass
        # Raised outside of the handler, so that no context contains a secret.
        raise self._refusal()

    encode_as_declared = encode
    """The same, for classes whose own ``encode`` has a faster path."""

    @classmethod
    def decode(cls, data: wire.Buffer) -> Self:
        """Parse an encoding, which must extend to the end of ``data``.

        :param data: the encoding
        :raises WireError: it is malformed
        """
        return cls._read_fields(wire.Reader(data))

    decode_as_declared = decode
    """The same, for classes whose own ``decode`` has a faster path."""

    @classmethod
    def _read_fields(cls, reader: wire.Reader) -> Self:
        try:
            values = [read(reader) for read in cls._readers]
            for member in cls._tail:
                condition = member.condition
                present = reader.remaining > 0 if condition is None else values[condition]
                values.append(member.read(reader) if present else member.default)
            reader.expect_end()
        except WireError as error:
            raise WireError(f"{cls.__name__}: {error}") from None
        return cls(*values)

    def _holds(self, position: int) -> bool:
        return bool(getattr(self, self._members[position].name))

    def _refusal(self) -> LocalProtocolError:
        """Return the error for the field that cannot be written; omit its value if secret."""
        for member in self._members:
            try:
                member.write(getattr(self, member.name))
            except (struct.error, ValueError) as error:
                problem = "cannot be encoded" if member.secret else str(error)
                return LocalProtocolError(f"{type(self).__name__}.{member.name}: {problem}")
        return LocalProtocolError(f"{type(self).__name__} cannot be encoded")

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(
            getattr(self, member.name) == getattr(other, member.name) for member in self._members
        )

    def __repr__(self) -> str:
        shown = [
            f"{member.name}={_shown(getattr(self, member.name))}"
            for member in self._members
            if not member.secret
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


class Message(Structure):
    """A complete payload: the message number, then the fields.

    :cvar number: the message number (RFC 4250 section 4.1.2)
    """

    __slots__ = ()

    number: ClassVar[int]

    @classmethod
    def decode(cls, data: wire.Buffer) -> Self:
        """Parse a payload.

        :param data: a complete payload, including its message number
        :raises WireError: it is another message, or malformed
        """
        number = data[0] if data else "nothing"
        if number != cls.number:
            raise WireError(f"{cls.__name__}: expected message {cls.number:d}, got {number}")
        row = cls._row
        if row is not None and row.fits(data):
            return cls(*row.values(data))
        return cls._read_fields(wire.Reader(data, 1))

    decode_as_declared = decode


def _shown(value: object) -> str:
    """Show a value on one short line: bytes as their length, text escaped and cut."""
    match value:
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case str():
            return repr(value[:MAX_SHOWN_CHARACTERS])
        case dict():
            return "{" + ", ".join(f"{_shown(k)}: {_shown(v)}" for k, v in value.items()) + "}"
        case tuple():
            return "(" + ", ".join(map(_shown, value)) + ")"
    return repr(value)


# --- field specifiers -----------------------------------------------------------------------------

_REQUIRED: Any = MISSING


def coded(
    codec: Codec[Value],
    *,
    default: Value = _REQUIRED,
    optional: bool = False,
    condition: str = "",
    secret: bool = False,
) -> Value:
    """Declare a field of any wire format.

    :param default: the value if neither the constructor's caller nor the peer provides one
    :param optional: whether a peer may end the message before this field
    :param condition: the name of the boolean field that says whether this one is present
    :param secret: whether ``repr`` omits the field
    """
    metadata = {"codec": codec, "optional": optional, "condition": condition}
    return field(default=default, repr=not secret, metadata=metadata)


def boolean(*, default: bool = _REQUIRED) -> bool:
    """Declare a boolean of one byte."""
    return coded(_BOOLEAN, default=default)


def uint32(*, default: int = _REQUIRED, optional: bool = False) -> int:
    """Declare an unsigned 32-bit integer."""
    return coded(_UINT32, default=default, optional=optional)


def uint64() -> int:
    """Declare an unsigned 64-bit integer."""
    return coded(_UINT64)


def fixed_bytes(size: int) -> bytes:
    """Declare ``size`` bytes that are not preceded by a length."""

    def write(value: bytes) -> bytes:
        if len(value) != size:
            raise ValueError(f"expected {size} bytes, got {len(value)}")
        return bytes(value)

    return coded(Codec(write, lambda reader: reader.raw(size)))


def string(
    *,
    default: bytes = _REQUIRED,
    optional: bool = False,
    condition: str = "",
    secret: bool = False,
) -> bytes:
    """Declare a string of bytes."""
    return coded(_STRING, default=default, optional=optional, condition=condition, secret=secret)


def text(*, default: str = _REQUIRED) -> str:
    """Declare a string that is a name; anything but UTF-8 is rejected."""
    return coded(_TEXT, default=default)


def lenient_text(*, default: str = _REQUIRED, optional: bool = False) -> str:
    """Declare a string meant for people; anything but UTF-8 is replaced."""
    return coded(_LENIENT_TEXT, default=default, optional=optional)


def system_text(*, default: str = _REQUIRED) -> str:
    """Declare a command, path or variable: UTF-8 with other bytes preserved as surrogates.

    Operating systems treat such strings as bytes. This is the format of :func:`os.fsdecode`:
    readable as text, and identical byte for byte when passed on.
    """
    return coded(_SYSTEM_TEXT, default=default)


def secret_text(*, default: str = _REQUIRED, condition: str = "") -> str:
    """Declare a password: UTF-8, shown neither by ``repr`` nor in errors."""
    return coded(SECRET_TEXT, default=default, condition=condition, secret=True)


def name_list(*, default: tuple[str, ...] = _REQUIRED) -> tuple[str, ...]:
    """Declare a name-list (RFC 4251 section 5)."""
    return coded(_NAME_LIST, default=default)


def rest(*, default: bytes = _REQUIRED, secret: bool = False) -> bytes:
    """Declare everything up to the end, as data that only the receiver understands."""
    return coded(_REST, default=default, secret=secret)


EmbeddedStructure = TypeVar("EmbeddedStructure", bound=Structure)


def embedded(kind: type[EmbeddedStructure]) -> EmbeddedStructure:
    """Declare a structure that extends to the end."""

    def write(value: EmbeddedStructure) -> bytes:
        return value.encode()

    return coded(Codec(write, lambda reader: kind.decode(reader.rest())))


# --- wire forms -----------------------------------------------------------------------------------


def read_count(reader: wire.Reader, most: int, entry_size: int, what: str) -> int:
    """Read the number of entries that follow; reject one that the remaining bytes cannot contain.

    :param most: the largest count accepted
    :param entry_size: the size of the smallest entry in bytes
    :param what: the name of the entries, for the error
    :raises WireError: there are too many, or more than the remaining bytes can contain
    """
    count = reader.uint32()
    if count > most:
        raise WireError(f"{count} {what}; at most {most} are accepted")
    if count * entry_size > reader.remaining:
        raise WireError(f"{count} {what} do not fit into {reader.remaining} bytes")
    return count


def _read_secret_text(reader: wire.Reader) -> str:
    data = reader.string()
    try:
        return data.decode()
    except UnicodeDecodeError:
        pass
    # Raised outside of the handler: the decoder's error contains the bytes.
    raise WireError("a password or an answer must be UTF-8")


def _write_system_text(value: str) -> bytes:
    return wire.string(value.encode("utf-8", "surrogateescape"))


def _read_system_text(reader: wire.Reader) -> str:
    return reader.string().decode("utf-8", "surrogateescape")


_BOOLEAN: Final = Codec(wire.boolean, wire.Reader.boolean)
_UINT32: Final = Codec(wire.uint32, wire.Reader.uint32)
_UINT64: Final = Codec(wire.uint64, wire.Reader.uint64)
_STRING: Final[Codec[bytes]] = Codec(wire.string, wire.Reader.string)
_TEXT: Final[Codec[str]] = Codec(wire.string, wire.Reader.text)
_LENIENT_TEXT: Final[Codec[str]] = Codec(wire.string, wire.Reader.lenient_text)
_SYSTEM_TEXT: Final = Codec(_write_system_text, _read_system_text)
SECRET_TEXT: Final[Codec[str]] = Codec(wire.string, _read_secret_text)
_NAME_LIST: Final[Codec[tuple[str, ...]]] = Codec(wire.name_list, wire.Reader.name_list)
_REST: Final[Codec[bytes]] = Codec(bytes, wire.Reader.rest)


# --- the decorator --------------------------------------------------------------------------------

Declared = TypeVar("Declared", bound=Structure)


@dataclass_transform(
    frozen_default=True,
    field_specifiers=(
        boolean,
        coded,
        embedded,
        fixed_bytes,
        lenient_text,
        name_list,
        rest,
        secret_text,
        string,
        system_text,
        text,
        uint32,
        uint64,
    ),
)
def declared(cls: type[Declared]) -> type[Declared]:
    """Turn a declaration into a dataclass with slots, and derive its wire format.

    :raises TypeError: a required field follows an optional or conditional one
    """
    made = dataclass(slots=True, repr=False, eq=False)(cls)
    members = tuple(_members_of(made))
    head = tuple(member for member in members if not _can_be_missing(member))
    made._members = members
    made._writers = tuple((member.name, member.write) for member in head)
    made._readers = tuple(member.read for member in head)
    made._tail = members[len(head) :]
    made._start = wire.byte(made.number) if issubclass(made, Message) else b""
    made._row = _Row.of(made)
    if not all(map(_can_be_missing, made._tail)):
        raise TypeError(f"{cls.__name__}: fields that can be missing must come last")
    return made


def _members_of(made: type[Structure]) -> Iterable[_Member]:
    entries = fields(cast(Any, made))
    positions = {entry.name: position for position, entry in enumerate(entries)}
    for entry in entries:
        codec: Codec[Any] = entry.metadata["codec"]
        condition = entry.metadata["condition"]
        yield _Member(
            name=entry.name,
            write=codec.write,
            read=codec.read,
            default=entry.default,
            optional=entry.metadata["optional"],
            condition=positions[condition] if condition else None,
            secret=not entry.repr,
        )


def _can_be_missing(member: _Member) -> bool:
    return member.optional or member.condition is not None
