"""Verifying a server's host key.

A verifier is an async callable. There is no default: a client must say how it knows its server.
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

    :ivar key: the key; users compare ``key.fingerprint``
    :ivar peer_version: the server's protocol version and software
    :ivar address: the remote address of the stream as ``(host, port)``, if it has one
    :ivar certificate: a certificate for the key; only given to a :class:`HostCertificateVerifier`,
        which has to check that it is valid for this host
    """

    key: Key
    peer_version: PeerVersion
    address: tuple[str, int] | None = None
    certificate: Certificate | None = None


HostKeyVerifier = Callable[[PresentedHostKey], Awaitable[bool]]
"""Returns True to accept a key. Anything else, including an exception, ends the connection."""


def pin(*fingerprints: str) -> HostKeyVerifier:
    """Return a verifier that accepts the keys with these fingerprints, and no others.

    :param fingerprints: fingerprints such as ``SHA256:…``, as printed by ``ssh-keygen -l``
    :raises ValueError: there is none, or one is malformed
    :raises TypeError: one is not a str
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
    """Return fingerprints in the form of :attr:`Key.fingerprint`.

    :raises ValueError: one is malformed
    :raises TypeError: one is not a str
    """
    fingerprints = tuple(fingerprints)
    for fingerprint in fingerprints:
        if not isinstance(fingerprint, str):
            kind = type(fingerprint).__name__
            raise TypeError(
                f"expected a fingerprint like SHA256:…, got {kind}; see Key.fingerprint"
            )
    found = [fingerprint.rstrip("=") for fingerprint in fingerprints]
    for fingerprint in found:
        if not fingerprint.startswith("SHA256:") or len(fingerprint) != 50:
            raise ValueError(f"expected a fingerprint like SHA256:…, got {fingerprint!r}")
    return frozenset(found)


class InsecureAcceptAnyHostKey:
    """Accepts every host key: whoever can redirect the connection can read and change it."""

    async def __call__(self, presented: PresentedHostKey) -> bool:
        """Return True.

        :param presented: the key that the server proved to hold
        """
        return True
