"""Destinations such as ``alice@host``, and the arguments of ``-L``, ``-R`` and ``-D``."""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anyssh import Endpoint, TcpEndpoint, UnixEndpoint

from .failures import Failure

__all__ = ["Destination", "address", "expanded", "forward", "local_user"]

DEFAULT_PORT: Final = 22
LOOPBACK: Final = "localhost"
EVERYWHERE: Final = ""

_PART: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::|$)")


@dataclass(frozen=True, slots=True)
class Destination:
    """A server, and the user to log in as.

    :ivar host: a name or an address, without brackets
    """

    user: str
    host: str
    port: int = DEFAULT_PORT

    @classmethod
    def parse(cls, text: str, port: int | None = None) -> Destination:
        """Parse ``[user@]host[:port]`` or ``ssh://[user@]host[:port]``.

        :param port: takes precedence
        :raises Failure: it is neither
        """
        user, at, place = text.removeprefix("ssh://").rstrip("/").rpartition("@")
        parts = split(place)
        if parts is not None and len(parts) > 2 and "[" not in place:
            parts = [place]  # an IPv6 address, which ssh accepts like this
        if parts is None or not 1 <= len(parts) <= 2 or not parts[0] or (at and not user):
            raise Failure(f"{text!r} is not a destination; expected user@host or user@host:port")
        if not parts[0].isprintable() or parts[0].startswith("-") or " " in parts[0]:
            raise Failure(f"{parts[0]!r} is not the name of a host")
        number = DEFAULT_PORT if len(parts) == 1 else port_number(parts[1], text)
        number = number if port is None else port_number(str(port), text)
        if not number:
            raise Failure(f"{text!r}: port 0 is not valid")
        return cls(user or local_user(), parts[0], number)

    def __str__(self) -> str:
        return f"{self.user}@{TcpEndpoint(self.host, self.port)}"


def local_user() -> str:
    """Return the name of the current user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise Failure("your user name is unknown; give user@host") from None


def expanded(*parts: str | Path) -> Path:
    """Return a path with ``~`` expanded.

    :raises Failure: there is no home directory
    """
    path = Path(*parts)
    try:
        return path.expanduser()
    except RuntimeError:
        raise Failure(f"there is no home directory for {path}; give the whole path") from None


def split(text: str) -> list[str] | None:
    """Split at colons outside of brackets, and strip brackets; return None if malformed."""
    parts, position = [], 0
    while True:
        found = _PART.match(text, position)
        if found is None:
            return None
        parts.append(found[1].removeprefix("[").removesuffix("]"))
        position = found.end()
        if not found[0].endswith(":"):
            return parts if position == len(text) else None


def port_number(text: str, whole: str) -> int:
    """Parse a port number."""
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 65535:
        raise Failure(f"{whole!r}: {text!r} is not a port; ports are numbers from 0 to 65535")
    return int(text)


def address(text: str) -> TcpEndpoint:
    """Parse a ``[host:]port`` to listen on, where ``*`` means all interfaces.

    :raises Failure: it has another form
    """
    parts = split(text)
    if parts is None or not 1 <= len(parts) <= 2:
        raise Failure(f"{text!r} is not an address to listen on; expected [host:]port")
    return _bound([LOOPBACK, *parts][-2:], text)


def forward(text: str, option: str) -> tuple[Endpoint, Endpoint | None]:
    """Parse where ``-L`` or ``-R`` listens, and where its connections go.

    :param option: which of the two; without a target, ``-R`` is a SOCKS proxy
    :raises Failure: it has another form
    """
    parts = split(text)
    match parts:
        case [_] | [_, _] if option == "-R" and "/" not in text:
            return address(text), None
        case [path, *target] if path.startswith("/"):
            listens: Endpoint = UnixEndpoint(path)
        case [port, path] if path.startswith("/"):
            listens, target = _bound([LOOPBACK, port], text), [path]
        case [host, port, path] if path.startswith("/"):
            listens, target = _bound([host, port], text), [path]
        case [port, *target] if len(target) == 2:
            listens = _bound([LOOPBACK, port], text)
        case [host, port, *target] if len(target) == 2:
            listens = _bound([host, port], text)
        case _:
            target = []
            listens = TcpEndpoint(LOOPBACK, 0)
    match target:
        case [path] if path.startswith("/"):
            return listens, UnixEndpoint(path)
        case [host, port] if host and not host.startswith("/"):
            number = port_number(port, text)
            if number:
                return listens, TcpEndpoint(host, number)
    alone = "; [address:]port alone is a SOCKS proxy" if option == "-R" else ""
    raise Failure(
        f"{option} {text!r}: expected [address:]port:host:port, "
        f"or the path of a socket in place of either pair{alone}"
    )


def _bound(parts: list[str], text: str) -> TcpEndpoint:
    host, port = parts
    return TcpEndpoint(EVERYWHERE if host == "*" else host, port_number(port, text))
