"""The SSH2 public key file of RFC 4716."""

from __future__ import annotations

from ..errors import KeyFormatError
from ..wire import displayable
from .armor import Block, ssh2, tidy
from .key import Key

__all__ = ["LABEL", "comment_of", "read", "write"]

LABEL = "SSH2 PUBLIC KEY"


def comment_of(block: Block) -> str:
    """Return the comment header, without the quotes that usually enclose it."""
    comment = block.headers.get("comment", "")
    if len(comment) >= 2 and comment[0] == comment[-1] == '"':
        comment = comment[1:-1]
    return tidy(comment)


def read(block: Block) -> Key:
    """Read a public key.

    :raises KeyFormatError: the block contains something else
    """
    if block.label != LABEL:
        raise KeyFormatError(f"expected {LABEL!r}, found {displayable(block.label)!r}")
    return Key.from_public_blob(block.data).with_comment(comment_of(block))


def write(key: Key) -> str:
    """Write the public key and its comment."""
    return ssh2(LABEL, key.comment, key.public_blob)
