"""The identification line (RFC 4253 section 4.2): what we send and what a peer's line tells.

The text takes part in the exchange hash, so it is kept as it came; the rest is derived from it.
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
    """Return our own line, without its end: ``SSH-2.0-anyssh_<version>``."""
    return f"SSH-2.0-{_OUR_NAME}_{version}"


@dataclass(frozen=True, slots=True)
class PeerVersion:
    """What the peer said it is.

    :ivar text: the line as it came, without its end
    :ivar protocol: ``"2.0"``, or ``"1.99"`` from a server that also speaks the older protocol
    :ivar name: the software's name, underscores turned into spaces
    :ivar version: the dotted number behind the name, ``""`` if there is none
    """

    text: str
    protocol: str
    name: str
    version: str

    @staticmethod
    def parse(text: str) -> PeerVersion:
        """Split an identification line.

        :param text: the identification line without its line end
        :raises ValueError: it is not one
        """
        return _parsed(text)

    @property
    def is_dev_tunnels(self) -> bool:
        """Whether the peer is one of the Dev Tunnels SSH libraries."""
        return self.name in _DEV_TUNNELS_NAMES

    @property
    def is_dev_tunnels_go(self) -> bool:
        """Whether the peer is the Dev Tunnels library for Go, which cannot be asked to rekey."""
        return self.name == _DEV_TUNNELS_GO_NAME

    @property
    def is_anyssh(self) -> bool:
        """Whether the peer is of our own kind."""
        return self.name == _OUR_NAME

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=64)
def _parsed(text: str) -> PeerVersion:
    """Split an identification line; most peers send one of a few."""
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
