"""The identification string (RFC 4253 section 4.2): ours, and what a peer's says.

The text enters the exchange hash, so it is kept as received; everything else is derived from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

__all__ = ["PeerVersion", "local_identification"]

_LINE: Final = re.compile(r"SSH-(?P<protocol>\d+\.\d+)-(?P<software>[\x20-\x7e]+)", re.ASCII)
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+", re.ASCII)

_DEV_TUNNELS_NAMES: Final = frozenset(
    {
        "Microsoft.DevTunnels.Ssh",
        "Microsoft.VisualStudio.Ssh",
        "dev-tunnels-ssh",
        "dev-tunnels-ssh-go",
        "vs-ssh",
    }
)
_DEV_TUNNELS_GO_NAME: Final = "dev-tunnels-ssh-go"
_OUR_NAME: Final = "anyssh"


@lru_cache(maxsize=1)
def local_identification(version: str) -> str:
    """Return our identification string, without CR LF: ``SSH-2.0-anyssh_<version>``."""
    return f"SSH-2.0-{_OUR_NAME}_{version}"


@dataclass(frozen=True, slots=True)
class PeerVersion:
    """A peer's protocol version and software.

    :ivar text: the identification string as received, without CR LF
    :ivar protocol: ``"2.0"``, or ``"1.99"`` from a server that also supports the older protocol
    :ivar name: the name of the software, with underscores replaced by spaces
    :ivar version: the dotted number after the name, ``""`` if there is none
    """

    text: str
    protocol: str
    name: str
    version: str

    @staticmethod
    def parse(text: str) -> PeerVersion:
        """Parse an identification string.

        :param text: the string without its line ending
        :raises ValueError: it is not an identification string
        """
        return _parsed(text)

    @property
    def is_dev_tunnels(self) -> bool:
        """Whether the peer is one of the Dev Tunnels SSH libraries."""
        return self.name in _DEV_TUNNELS_NAMES

    @property
    def is_dev_tunnels_go(self) -> bool:
        """Whether the peer is the Dev Tunnels library for Go, which never accepts our KEXINIT."""
        return self.name == _DEV_TUNNELS_GO_NAME

    @property
    def is_anyssh(self) -> bool:
        """Whether the peer is anyssh."""
        return self.name == _OUR_NAME

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=64)
def _parsed(text: str) -> PeerVersion:
    """Parse an identification string; cached, as most peers send one of a few."""
    match = _LINE.fullmatch(text)
    if match is None:
        raise ValueError(f"not an SSH identification: {text[:64]!r}")
    product = match["software"].split(" ", 1)[0]
    name, underscore, tail = product.rpartition("_")
    if not underscore:
        name, tail = product, ""
    version = _VERSION.match(tail)
    return PeerVersion(
        text, match["protocol"], name.replace("_", " "), version[0] if version else ""
    )
