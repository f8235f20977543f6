"""Messages of the transport protocol (RFC 4253, RFC 8308): numbers 1 to 7, 20, 21, 30 and 31.

KEXINITs from the same software differ only in their cookies, so what follows the cookie is parsed
and encoded once, and cached.
"""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, ClassVar, Final, Self, cast

from .. import wire
from ..constants import MessageNumber
from ..errors import WireError
from .declaration import (
    Codec,
    Message,
    boolean,
    coded,
    declared,
    fixed_bytes,
    lenient_text,
    name_list,
    read_count,
    string,
    text,
    uint32,
)

__all__ = [
    "Debug",
    "Disconnect",
    "ExtInfo",
    "Ignore",
    "KexDhInit",
    "KexDhReply",
    "KexInit",
    "NewKeys",
    "ServiceAccept",
    "ServiceRequest",
    "Unimplemented",
]

MAX_EXTENSIONS: Final = 64
MAX_EXTENSION_BYTES: Final = 16 * 1024
MAX_KEXINIT_BYTES: Final = 16 * 1024
MAX_CACHED_BYTES: Final = 4 * 1024
_COOKIE_SIZE: Final = 16
_LISTS_OFFSET: Final = 1 + _COOKIE_SIZE
"""Where the fields after the cookie of a KEXINIT start."""


@declared
class Disconnect(Message):
    """The end of the connection (RFC 4253 section 11.1). Some peers omit the language."""

    number: ClassVar[int] = MessageNumber.DISCONNECT

    reason: int = uint32()
    description: str = lenient_text(default="")
    language: str = lenient_text(default="", optional=True)


@declared
class Ignore(Message):
    """Bytes without meaning (RFC 4253 section 11.2). Some peers omit even the string."""

    number: ClassVar[int] = MessageNumber.IGNORE

    data: bytes = string(default=b"", optional=True)


@declared
class Unimplemented(Message):
    """The answer to an unknown message number (RFC 4253 section 11.4).

    :ivar sequence_number: the low 32 bits of the rejected packet's sequence number
    """

    number: ClassVar[int] = MessageNumber.UNIMPLEMENTED

    sequence_number: int = uint32()


@declared
class Debug(Message):
    """A text for debugging (RFC 4253 section 11.3)."""

    number: ClassVar[int] = MessageNumber.DEBUG

    always_display: bool = boolean()
    message: str = lenient_text()
    language: str = lenient_text(default="", optional=True)


@declared
class ServiceRequest(Message):
    """A request to use a service (RFC 4253 section 10)."""

    number: ClassVar[int] = MessageNumber.SERVICE_REQUEST

    service_name: str = text()


@declared
class ServiceAccept(Message):
    """Grants a service (RFC 4253 section 10)."""

    number: ClassVar[int] = MessageNumber.SERVICE_ACCEPT

    service_name: str = text()


def _write_extensions(extensions: dict[str, bytes]) -> bytes:
    parts = [wire.uint32(len(extensions))]
    for name, value in extensions.items():
        parts += (wire.string(name), wire.string(value))
    return b"".join(parts)


def _read_extensions(reader: wire.Reader) -> dict[str, bytes]:
    if reader.remaining > MAX_EXTENSION_BYTES:
        raise WireError(
            f"extensions of {reader.remaining} bytes; at most {MAX_EXTENSION_BYTES} are accepted"
        )
    count = read_count(reader, MAX_EXTENSIONS, 8, "extensions")
    return {reader.text(): reader.string() for _ in range(count)}


@declared
class ExtInfo(Message):
    """The extensions that a side supports (RFC 8308 section 2.3).

    At most 64 entries in 16 KiB are read. Of entries with the same name, the last one counts.
    """

    number: ClassVar[int] = MessageNumber.EXT_INFO

    extensions: dict[str, bytes] = coded(Codec(_write_extensions, _read_extensions))


@declared
class KexInit(Message):
    """The algorithms that a side supports (RFC 4253 section 7.1); at most 16 KiB are read.

    :ivar cookie: 16 random bytes
    """

    number: ClassVar[int] = MessageNumber.KEXINIT

    cookie: bytes = fixed_bytes(_COOKIE_SIZE)
    kex_algorithms: tuple[str, ...] = name_list()
    server_host_key_algorithms: tuple[str, ...] = name_list()
    encryption_algorithms_client_to_server: tuple[str, ...] = name_list()
    encryption_algorithms_server_to_client: tuple[str, ...] = name_list()
    mac_algorithms_client_to_server: tuple[str, ...] = name_list()
    mac_algorithms_server_to_client: tuple[str, ...] = name_list()
    compression_algorithms_client_to_server: tuple[str, ...] = name_list()
    compression_algorithms_server_to_client: tuple[str, ...] = name_list()
    languages_client_to_server: tuple[str, ...] = name_list(default=())
    languages_server_to_client: tuple[str, ...] = name_list(default=())
    first_kex_packet_follows: bool = boolean(default=False)
    reserved: int = uint32(default=0)

    def encode(self) -> bytes:
        """Return the encoding.

        :raises LocalProtocolError: a value does not fit its field
        """
        if len(self.cookie) != _COOKIE_SIZE:
            return self.encode_as_declared()
        return self._start + self.cookie + _bytes_behind_cookie(_LISTS(self))

    @classmethod
    def decode(cls, data: wire.Buffer) -> Self:
        """Parse a payload.

        :param data: a complete payload, including its message number
        :raises WireError: it is longer than 16 KiB, another message, or malformed
        """
        if len(data) > MAX_KEXINIT_BYTES:
            raise WireError(
                f"KexInit: a payload of {len(data)} bytes; at most {MAX_KEXINIT_BYTES} are accepted"
            )
        if not _LISTS_OFFSET <= len(data) <= MAX_CACHED_BYTES or data[0] != cls.number:
            return cls.decode_as_declared(data)
        cookie = bytes(data[1:_LISTS_OFFSET])
        return cls(cookie, *_fields_behind_cookie(bytes(data[_LISTS_OFFSET:])))


_LISTS: Final = attrgetter(*(field.name for field in fields(cast(Any, KexInit))[1:]))


# The same software sends the same lists for each role and configuration.
@lru_cache(maxsize=32)
def _bytes_behind_cookie(values: tuple[Any, ...]) -> bytes:
    return KexInit(bytes(_COOKIE_SIZE), *values).encode_as_declared()[_LISTS_OFFSET:]


@lru_cache(maxsize=32)
def _fields_behind_cookie(data: bytes) -> tuple[Any, ...]:
    message = KexInit._read_fields(wire.Reader(bytes(_LISTS_OFFSET) + data, 1))
    return tuple(getattr(message, field.name) for field in fields(cast(Any, message))[1:])


@declared
class NewKeys(Message):
    """From here on the sender uses the new keys (RFC 4253 section 7.3)."""

    number: ClassVar[int] = MessageNumber.NEWKEYS


@declared
class KexDhInit(Message):
    """The client's public value (RFC 4253 section 8, RFC 5656 section 4).

    All key exchange methods share one format: the string contains an mpint for finite-field
    Diffie-Hellman, a point for ECDH, or a key and a public value for a hybrid method.
    """

    number: ClassVar[int] = MessageNumber.KEXDH_INIT

    client_public: bytes = string()


@declared
class KexDhReply(Message):
    """The server's host key, its public value, and the signature of the exchange hash.

    The format of the public value is as in :class:`KexDhInit`.
    """

    number: ClassVar[int] = MessageNumber.KEXDH_REPLY

    host_key: bytes = string()
    server_public: bytes = string()
    signature: bytes = string()
