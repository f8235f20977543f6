"""Finds the peer's identification string at the start of a stream (RFC 4253 section 4.2).

A server may send other lines before its own; a client may not. Other protocols are recognised, so
that the error names the likely cause.
"""

from __future__ import annotations

from typing import Final

from ..constants import DisconnectReason
from ..errors import RemoteProtocolError
from ..identification import PeerVersion
from ..wire import displayable
from .acceptance import Role

__all__ = ["Greeting"]

MAX_LINE_BYTES: Final = 255
MAX_BANNER_LINES: Final = 50
MAX_BANNER_BYTES: Final = 8 * 1024


class Greeting:
    """Consumes lines from the front of a buffer until the peer has identified itself.

    :ivar last_line: the last line received instead of an identification string
    """

    __slots__ = ("_bytes", "_lines", "_peer", "last_line")

    def __init__(self, peer: Role) -> None:
        self._peer = peer
        self._lines = 0
        self._bytes = 0
        self.last_line: bytes = b""

    def read(self, buffer: bytearray) -> PeerVersion | None:
        """Consume the identification string, or the lines before it that are complete.

        :raises RemoteProtocolError: the peer does not speak SSH, or sends too much before
        """
        while True:
            end = buffer.find(b"\n", 0, MAX_LINE_BYTES + MAX_BANNER_BYTES)
            if end < 0:
                self._check_partial(buffer)
                return None
            line = bytes(buffer[:end]).rstrip(b"\r\n")
            size = end + 1
            if line.startswith(b"SSH-"):
                version = self._parse(line, size)
                del buffer[:size]
                return version
            self._skip(line, size)
            del buffer[:size]

    def _parse(self, line: bytes, size: int) -> PeerVersion:
        if size > MAX_LINE_BYTES:
            raise RemoteProtocolError(
                f"the identification line has {size} bytes; {MAX_LINE_BYTES} are allowed"
            )
        try:
            version = PeerVersion.parse(line.decode("ascii"))
        except ValueError:
            shown = displayable(line.decode(errors="replace"))
            raise RemoteProtocolError(f"not an SSH identification: {shown!r}") from None
        if version.protocol not in ("2.0", "1.99"):
            raise RemoteProtocolError(
                f"the peer speaks SSH {version.protocol}; 2.0 is needed",
                DisconnectReason.PROTOCOL_VERSION_NOT_SUPPORTED,
            )
        return version

    def _skip(self, line: bytes, size: int) -> None:
        if self._peer is Role.CLIENT:
            raise _not_ssh(line)
        if b"\x00" in line or line.startswith((b"HTTP/", b"\x16\x03", b"\x15\x03")):
            raise _not_ssh(line)
        self.last_line = line
        self._lines += 1
        self._bytes += size
        if self._lines > MAX_BANNER_LINES or self._bytes > MAX_BANNER_BYTES:
            raise RemoteProtocolError(
                f"no identification within {MAX_BANNER_LINES} lines or {MAX_BANNER_BYTES} bytes"
            )

    def _check_partial(self, buffer: bytearray) -> None:
        head = bytes(buffer[:MAX_LINE_BYTES])
        expected = b"SSH-"[: len(head)]
        if self._peer is Role.CLIENT and not head.startswith(expected):
            raise _not_ssh(head)
        if head.startswith((b"\x16\x03", b"\x15\x03")):
            raise _not_ssh(head)
        limit = MAX_LINE_BYTES if head.startswith(b"SSH-") else MAX_BANNER_BYTES - self._bytes
        if len(buffer) >= limit:
            raise RemoteProtocolError(f"a line of more than {limit} bytes before any key exchange")


def _not_ssh(data: bytes) -> RemoteProtocolError:
    shown = displayable(data[:64].decode(errors="replace"))
    return RemoteProtocolError(
        f"expected an SSH identification line, got {_likely(data)}: {shown!r}"
    )


def _likely(data: bytes) -> str:
    if data.startswith((b"\x16\x03", b"\x15\x03")):
        return "TLS"
    first = data.split(b"\r\n", 1)[0]
    if data.startswith(b"HTTP/") or b" HTTP/1" in first:
        return "HTTP"
    if first.split(b" ", 1)[0] in (b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"CONNECT"):
        return "HTTP"
    return "something else"
