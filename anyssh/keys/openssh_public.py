"""OpenSSH's one-line public key format: type, base64 of the blob, comment."""

from __future__ import annotations

import base64
from typing import Final

from ..errors import KeyFormatError
from ..wire import displayable
from .armor import decode_base64, one_line, tidy
from .key import Key

__all__ = ["CERTIFICATE_SUFFIX", "is_public_line", "read", "split_line", "write"]

CERTIFICATE_SUFFIX: Final = "-cert-v01@openssh.com"
"""The suffix of certificate types, and of algorithms that sign with certificates."""

_TYPE_PREFIXES = ("ssh-", "ecdsa-sha2-", "rsa-sha2-", "sk-")


def is_public_line(text: str) -> bool:
    """Tell whether text looks like this format."""
    return text.lstrip().startswith(_TYPE_PREFIXES)


def split_line(text: str) -> tuple[str, bytes, str]:
    """Split a line into its type, blob and comment; empty lines around it are ignored.

    :raises KeyFormatError: it is not a single such line
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) != 1:
        raise KeyFormatError(f"a public key must be one line, not {len(lines)}")
    fields = lines[0].strip().split(maxsplit=2)
    if len(fields) < 2:
        raise KeyFormatError("a public key line is a type, base64 text and perhaps a comment")
    return fields[0], decode_base64(fields[1]), tidy(fields[2]) if len(fields) == 3 else ""


def read(text: str) -> Key:
    """Read a line; empty lines around it are ignored.

    :raises KeyFormatError: it is not a single line of a supported type, or its blob has another
        type
    """
    name, blob, comment = split_line(text)
    if name.endswith(CERTIFICATE_SUFFIX):
        raise KeyFormatError(
            f"{displayable(name)!r} is a certificate, not a key: read it with import_certificate"
        )
    key = Key.from_public_blob(blob)
    names = (key.algorithm, *key.signature_algorithms)
    if name not in names:
        raise KeyFormatError(f"the line says {displayable(name)!r}, its key is {key.algorithm}")
    return key.with_comment(comment)


def write(key: Key) -> str:
    """Write the line, with a line feed."""
    line = f"{key.algorithm} {base64.b64encode(key.public_blob).decode()} {one_line(key.comment)}"
    return line.rstrip() + "\n"
