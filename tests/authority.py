"""A certificate authority that certifies anything a test needs, assembled from bytes.

It does not use the package's idea of a certificate: only PROTOCOL.certkeys, and keys that sign.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from anyssh.keys import Certificate, Key

__all__ = ["FOREVER", "HOST", "SUFFIX", "USER", "Draft", "certified", "packed", "string"]

SUFFIX: Final = "-cert-v01@openssh.com"
USER, HOST = 1, 2
FOREVER: Final = 2**64 - 1

Options = Sequence[tuple[str | bytes, bytes]]


def string(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(data)) + data


def packed(pairs: Options) -> bytes:
    return b"".join(string(name) + string(data) for name, data in pairs)


@dataclass(frozen=True)
class Draft:
    """What a certificate is to say; the fields in raw form win over those that people like."""

    key: Key
    name: str | bytes | None = None
    nonce: bytes = b"n" * 32
    public: bytes | None = None
    serial: int = 0
    type: int = USER
    key_id: str | bytes = "a test"
    principals: Iterable[str | bytes] = ("alice",)
    principals_field: bytes | None = None
    valid_after: int = 0
    valid_before: int = FOREVER
    critical_options: Options = ()
    critical_field: bytes | None = None
    extensions: Options = ()
    extensions_field: bytes | None = None
    reserved: bytes = b""
    authority_blob: bytes | None = None
    tail: bytes = b""

    def but(self, **changes: Any) -> Draft:
        return replace(self, **changes)

    def body(self, authority: Key) -> bytes:
        """Return what is signed."""
        name = self.key.algorithm + SUFFIX if self.name is None else self.name
        public = self.key.public_blob[len(string(self.key.algorithm)) :]
        principals = b"".join(map(string, self.principals))
        return b"".join(
            (
                string(name),
                string(self.nonce),
                public if self.public is None else self.public,
                struct.pack(">Q", self.serial),
                struct.pack(">I", self.type),
                string(self.key_id),
                string(principals if self.principals_field is None else self.principals_field),
                struct.pack(">QQ", self.valid_after, self.valid_before),
                string(_either(self.critical_field, self.critical_options)),
                string(_either(self.extensions_field, self.extensions)),
                string(self.reserved),
                string(
                    authority.public_blob if self.authority_blob is None else self.authority_blob
                ),
            )
        )

    def signed(self, authority: Key, algorithm: str | None = None) -> bytes:
        """Return the certificate."""
        body = self.body(authority)
        return body + string(authority.sign(body, algorithm)) + self.tail


def _either(field: bytes | None, pairs: Options) -> bytes:
    return packed(pairs) if field is None else field


def certified(key: Key, authority: Key, **fields: Any) -> Certificate:
    """Return a certificate that is good for an hour, around now."""
    now = int(time.time())
    usual = {"nonce": os.urandom(32), "valid_after": now - 1800, "valid_before": now + 1800}
    return Certificate(Draft(key.public(), **usual | fields).signed(authority))
