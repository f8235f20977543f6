"""Keys as text: BEGIN and END lines, headers, base64.

PEM (RFC 7468, and RFC 1421 for the headers of encrypted keys) uses five dashes, the SSH2 formats
(RFC 4716) four dashes and spaces. Text outside of the block is ignored, as by all tools.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..errors import KeyFormatError
from ..wire import displayable

__all__ = ["Block", "decode_base64", "one_line", "pem", "read_pem", "read_ssh2", "ssh2", "tidy"]

_MAX_HEADER_CHARACTERS: Final = 4096
_MAX_COMMENT_CHARACTERS: Final = 1000  # RFC 4716 section 3.3: a header's value has 1024 bytes


@dataclass(frozen=True, slots=True)
class Block:
    """What is between BEGIN and END."""

    label: str
    headers: dict[str, str]
    data: bytes


def decode_base64(text: str) -> bytes:
    """Decode base64; white space may be anywhere.

    :raises KeyFormatError: there are other characters, or too much or too little padding
    """
    joined = "".join(text.split())
    try:
        data = base64.b64decode(joined, validate=True)
    except (binascii.Error, ValueError):
        raise KeyFormatError("not base64") from None
    # The decoder ignores excess padding, and bits without meaning.
    if base64.b64encode(data).decode() != joined:
        raise KeyFormatError("not canonical base64")
    return data


def tidy(comment: str) -> str:
    """Make a comment from a file encodable again."""
    return comment.encode("utf-8", "replace").decode()


def one_line(comment: str) -> str:
    """Make a comment suitable for a line: anything that could end the line becomes a space."""
    shown = "".join(character if character.isprintable() else " " for character in comment)
    return tidy(shown).strip()


def read_pem(text: str) -> Block:
    """Read the first PEM block that contains a key.

    :raises KeyFormatError: there is none, or it is malformed
    """
    lines = iter(text.splitlines())
    for line in lines:
        line = line.strip()
        if line.startswith("-----BEGIN ") and line.endswith("-----"):
            block = _read_block(lines, line[11:-5], "-----END {}-----")
            # openssl ecparam writes the curve before the key, which names it again.
            if block.label != "EC PARAMETERS":
                return block
    raise KeyFormatError("no PEM block with a key")


def read_ssh2(text: str) -> Block:
    """Read the first SSH2 block (RFC 4716 section 3).

    :raises KeyFormatError: there is none, or it is malformed
    """
    lines = iter(text.splitlines())
    for line in lines:
        line = line.strip()
        if line.startswith("---- BEGIN ") and line.endswith(" ----"):
            return _read_block(lines, line[11:-5], "---- END {} ----")
    raise KeyFormatError("no SSH2 block with a key")


def _read_block(lines: Iterator[str], label: str, end: str) -> Block:
    closing = end.format(label)
    headers: dict[str, str] = {}
    body: list[str] = []
    for line in lines:
        line = line.strip()
        if line == closing:
            return Block(label, headers, decode_base64("".join(body)))
        if ":" not in line:
            if line:
                body.append(line)
            continue
        if body:
            raise KeyFormatError("a header follows the base64 text")
        while line.endswith("\\"):
            line = line[:-1] + next(lines, "")
            if len(line) > _MAX_HEADER_CHARACTERS:
                raise KeyFormatError(f"a header of more than {_MAX_HEADER_CHARACTERS} characters")
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    raise KeyFormatError(f"the line {displayable(closing)!r} is missing")


def pem(label: str, data: bytes, width: int = 64) -> str:
    """Encode as PEM, with a final line feed."""
    return f"-----BEGIN {label}-----\n{_wrapped(data, width)}\n-----END {label}-----\n"


def ssh2(label: str, comment: str, data: bytes) -> str:
    """Encode as an SSH2 block with lines of 70 characters, and the comment in a header."""
    header = ""
    if shown := one_line(comment)[:_MAX_COMMENT_CHARACTERS]:
        # RFC 4716 section 3.3: a longer line is continued after a backslash.
        pieces = _pieces(f'Comment: "{shown}"', 71)
        header = "\\\n".join(pieces) + "\n"
    return f"---- BEGIN {label} ----\n{header}{_wrapped(data, 70)}\n---- END {label} ----\n"


def _wrapped(data: bytes, width: int) -> str:
    return "\n".join(_pieces(base64.b64encode(data).decode(), width))


def _pieces(text: str, width: int) -> list[str]:
    return [text[start : start + width] for start in range(0, len(text), width)]
