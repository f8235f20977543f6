"""Lines of ``known_hosts`` files: reading, matching names, writing (sshd manual page).

A line is ``[@marker] names key-type base64 [comment]``. The names are a comma-separated list of
patterns with ``*``, ``?`` and ``!`` for exclusion, or a single hashed name. A name is ``host``, or
``[host]:port`` if the port is not 22.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

from ..errors import KeyFormatError, WireError
from ..wire import Reader, displayable
from .armor import decode_base64, one_line
from .key import Key

__all__ = [
    "DEFAULT_PORT",
    "SALT_BYTES",
    "HostMarker",
    "KnownHostsEntry",
    "KnownHostsProblem",
    "hashed_name",
    "host_name",
    "known_hosts_line",
    "read_known_hosts",
    "read_line",
]

DEFAULT_PORT: Final = 22
SALT_BYTES: Final = 20

_HASH_PREFIX: Final = "|1|"
_HASH_BYTES: Final = 20
_SPACE: Final = re.compile(r"[ \t]+")
_NO_HOST: Final = re.compile(r"[\s,*?!|#@\[\]]")


class HostMarker(StrEnum):
    """What a line says about its key."""

    HOST_KEY = ""
    """It is the key of the hosts."""
    REVOKED = "@revoked"
    """It must not be accepted any more, neither as a host key nor as an authority."""
    CERT_AUTHORITY = "@cert-authority"
    """It signs certificates of the hosts."""


@dataclass(frozen=True, slots=True)
class KnownHostsEntry:
    """A line that could be read.

    :ivar path: the file
    :ivar line: its line number, from 1; 0 if it was added after the file was read
    :ivar marker: what it says about the key
    :ivar names: the patterns, or the hashed name, as written in the file
    :ivar key: the public key with the line's comment; None if its type is not supported
    :ivar key_type: the key type, as named by the line
    """

    path: str
    line: int
    marker: HostMarker
    names: str
    key: Key | None
    key_type: str
    _hash: tuple[bytes, bytes] | None = field(default=None, repr=False, compare=False)

    def matches(self, name: str) -> bool:
        """Tell whether the line applies to a name.

        :param name: the host, as ``[host]:port`` for ports other than 22
        """
        if self._hash is not None:
            salt, digest = self._hash
            return hmac.compare_digest(_name_digest(name, salt), digest)
        matched = False
        for pattern in self.names.lower().split(","):
            if _fits(name, pattern.removeprefix("!")):
                if pattern.startswith("!"):
                    return False
                matched = True
        return matched

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else self.path


@dataclass(frozen=True, slots=True)
class KnownHostsProblem:
    """A line that could not be read, and is ignored.

    :ivar path: the file
    :ivar line: its line number, from 1
    :ivar message: what is wrong with it
    """

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def host_name(host: str, port: int) -> str:
    """Return the name of a host in such files: ``host`` or ``[host]:port``.

    :raises ValueError: the host or port is not valid
    """
    if not host or not host.isprintable() or _NO_HOST.search(host):
        raise ValueError(f"not the name or the bare address of a host: {displayable(host)!r}")
    if host.count(":") == 1:
        raise ValueError(f"give the port of {displayable(host)!r} separately")
    if not 1 <= port <= 65535:
        raise ValueError(f"not a port: {port}")
    return host.lower() if port == DEFAULT_PORT else f"[{host.lower()}]:{port}"


def hashed_name(name: str, salt: bytes) -> str:
    """Return the hashed form of a name, which does not reveal it to readers of the file.

    :param salt: 20 unpredictable bytes
    """
    encoded = (base64.b64encode(part).decode() for part in (salt, _name_digest(name, salt)))
    return _HASH_PREFIX + "|".join(encoded)


def known_hosts_line(names: str, key: Key) -> str:
    """Return a line for a host key, without a line feed."""
    blob = base64.b64encode(key.public_blob).decode()
    return f"{names} {key.algorithm} {blob} {one_line(key.comment)}".rstrip()


def read_known_hosts(text: str, path: str) -> tuple[list[KnownHostsEntry], list[KnownHostsProblem]]:
    """Parse a file's text into the lines about keys, and those that cannot be read."""
    entries: list[KnownHostsEntry] = []
    problems: list[KnownHostsProblem] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        try:
            entries.append(read_line(line, path, number))
        except (KeyFormatError, WireError) as error:
            problems.append(KnownHostsProblem(path, number, str(error)))
    return entries, problems


def read_line(line: str, path: str, number: int) -> KnownHostsEntry:
    """Parse a line that is neither empty nor a comment.

    :raises KeyFormatError: the line or its key is malformed
    :raises WireError: the key blob does not even consist of strings
    """
    marker = HostMarker.HOST_KEY
    if line.startswith("@"):
        word, *rest = _SPACE.split(line, maxsplit=1)
        if word not in list(HostMarker):
            raise KeyFormatError(f"unknown marker: {displayable(word)!r}")
        marker, line = HostMarker(word), "".join(rest)
    names, key_type, encoded, comment = _four(_SPACE.split(line, maxsplit=3))
    hashed = _read_hash(names) if names.startswith("|") else None
    blob = decode_base64(encoded)
    if Reader(blob).string() != key_type.encode("utf-8", "replace"):
        raise KeyFormatError(f"the key is not of the type {displayable(key_type)!r}")
    key = _read_key(key_type, blob)
    if key is not None:
        key = key.with_comment(one_line(comment))
    return KnownHostsEntry(path, number, marker, names, key, key_type, hashed)


def _four(fields: Iterable[str]) -> tuple[str, str, str, str]:
    names, key_type, encoded, comment, *_ = (*fields, "", "", "", "")
    if not encoded:
        raise KeyFormatError("expected names, a key type and base64 text")
    return names, key_type, encoded, comment


def _read_key(key_type: str, blob: bytes) -> Key | None:
    """Return the key, None if its type may exist but is not supported."""
    from ._schemes import scheme_for

    scheme = scheme_for(key_type)
    return None if scheme is None else Key.from_public_blob(blob)


def _read_hash(names: str) -> tuple[bytes, bytes]:
    """Return salt and digest of a hashed name."""
    parts = names.removeprefix(_HASH_PREFIX).split("|")
    if not names.startswith(_HASH_PREFIX) or len(parts) != 2:
        raise KeyFormatError(f"not a hashed name of the form {_HASH_PREFIX}salt|hash")
    salt, digest = map(decode_base64, parts)
    if not salt or len(digest) != _HASH_BYTES:
        raise KeyFormatError(f"a hashed name has a salt and a hash of {_HASH_BYTES} bytes")
    return salt, digest


def _name_digest(name: str, salt: bytes) -> bytes:
    return hmac.digest(salt, name.encode(), "sha1")


def _fits(name: str, pattern: str) -> bool:
    if "*" not in pattern and "?" not in pattern:
        return name == pattern
    # In fnmatch, "[" starts a set of characters; here it is literal.
    return fnmatchcase(name, pattern.replace("[", "[[]"))
