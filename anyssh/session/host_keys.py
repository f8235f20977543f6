"""Deciding whether a server is the right one.

A verifier is one async callable. There is no default: a client must say how it knows its server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from ..errors import HostKeyError
from ..identification import PeerVersion
from ..keys import Certificate, Key
from .attributes import displayed_address

__all__ = [
    "HostKeyVerifier",
    "InsecureAcceptAnyHostKey",
    "PresentedHostKey",
    "checked_fingerprints",
    "pin",
]


@dataclass(frozen=True, slots=True)
class PresentedHostKey:
    """A host key that a server has proved to hold.

    :ivar key: the key; ``key.fingerprint`` is what people compare
    :ivar peer_version: what the server said it is
    :ivar address: the remote address of the stream as ``(host, port)``, where it has one
    :ivar certificate: what an authority says about the key; only ever there for a
        :class:`HostCertificateVerifier`, which has to check that it is good for this host
    """

    key: Key
    peer_version: PeerVersion
    address: tuple[str, int] | None = None
    certificate: Certificate | None = None


HostKeyVerifier = Callable[[PresentedHostKey], Awaitable[bool]]
"""Returns True for the right key. All else, an exception included, ends the connection."""


def pin(*fingerprints: str) -> HostKeyVerifier:
    """Accept the keys with these fingerprints and no others.

    :param fingerprints: in the form ``SHA256:…``, as ``ssh-keygen -l`` prints them
    :raises ValueError: there is none, or one has another form
    """
    if not fingerprints:
        raise ValueError("pin() needs at least one fingerprint")
    pinned = checked_fingerprints(fingerprints)

    async def verify(presented: PresentedHostKey) -> bool:
        key = presented.key
        if key.fingerprint in pinned:
            return True
        where = f" of {displayed_address(presented.address)}" if presented.address else ""
        raise HostKeyError(
            f"the {key.algorithm} host key{where} is {key.fingerprint}; "
            f"pinned: {', '.join(sorted(pinned))}",
            key.fingerprint,
            key.algorithm,
        )

    return verify


def checked_fingerprints(fingerprints: Iterable[str]) -> frozenset[str]:
    """Return fingerprints in the form that keys tell theirs.

    :raises ValueError: one has another form
    :raises TypeError: one is no text
    """
    fingerprints = tuple(fingerprints)
    for fingerprint in fingerprints:
        if not isinstance(fingerprint, str):
            kind = type(fingerprint).__name__
            raise TypeError(
                f"expected a fingerprint like SHA256:…, got {kind}; a Key tells its own"
            )
    found = [fingerprint.rstrip("=") for fingerprint in fingerprints]
    for fingerprint in found:
        if not fingerprint.startswith("SHA256:") or len(fingerprint) != 50:
            raise ValueError(f"expected a fingerprint like SHA256:…, got {fingerprint!r}")
    return frozenset(found)


class InsecureAcceptAnyHostKey:
    """Accept every host key: whoever can redirect the connection can read and change it."""

    async def __call__(self, presented: PresentedHostKey) -> bool:
        """Return True."""
        return True
