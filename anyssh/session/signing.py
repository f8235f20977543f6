"""Getting a signature, wherever the private key lives.

RSA takes milliseconds, in which a server that many connect to at once would do nothing for those
who are in. So its signatures are made in worker threads, which do not keep the interpreter to
themselves meanwhile; no more than :data:`THREADS` at a time in one event loop, so that some of the
processor is left. All other keys of ours take less time than the way to a thread and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Self

import anyio.to_thread
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar

from ..constants import HostKeyAlgorithm
from ..errors import LocalProtocolError
from ..keys import Identity, Key, key_type_for
from .credentials import CertifiedKey, KeyPair, Signer, as_signer

__all__ = ["HostKeys", "identity_of", "public_key_of", "signed", "signer_of", "signs_quickly"]

THREADS: Final = 4

_RSA: Final = key_type_for(HostKeyAlgorithm.RSA_SHA2_256)
_limiter: Final[RunVar[CapacityLimiter]] = RunVar("anyssh.session.signing")


def signer_of(key: KeyPair | CertifiedKey) -> Key | Signer:
    """Return what signs, with or without a certificate."""
    return as_signer(key.key if isinstance(key, CertifiedKey) else key)


def public_key_of(key: KeyPair | CertifiedKey) -> Key:
    """Return the public key, without its certificate."""
    signer = signer_of(key)
    return signer if isinstance(signer, Key) else signer.key


def identity_of(key: KeyPair | CertifiedKey) -> Identity:
    """Return what is shown of a key: its certificate, or its public key."""
    return key.certificate if isinstance(key, CertifiedKey) else public_key_of(key)


def signs_quickly(signer: Key | Signer) -> bool:
    """Tell whether :meth:`Key.sign` is to be called right away, and nothing awaited."""
    return isinstance(signer, Key) and signer.algorithm != _RSA


class HostKeys(NamedTuple):
    """What all sessions of one server prove themselves with.

    :ivar shown: certificates and plain keys
    :ivar signers: who signs for each key
    """

    shown: tuple[Identity, ...]
    signers: Mapping[Key, Key | Signer]

    @classmethod
    def of(cls, keys: Iterable[KeyPair | CertifiedKey]) -> Self:
        """Take host keys apart."""
        shown: dict[Identity, None] = {}
        signers: dict[Key, Key | Signer] = {}
        for key in keys:
            shown[identity_of(key)] = None
            shown[public_key_of(key)] = None
            signers.setdefault(public_key_of(key), signer_of(key))
        return cls(tuple(shown), signers)


async def signed(key: KeyPair, data: bytes, algorithm: str) -> bytes:
    """Return the signature of ``data``, checked against the public key.

    The check costs little and keeps a faulty signer from giving its key away (a wrong RSA
    signature can).

    :raises LocalProtocolError: the signature is not good
    """
    signer = as_signer(key)
    if isinstance(signer, Key):
        if signs_quickly(signer):
            return signer.sign(data, algorithm)
        return await anyio.to_thread.run_sync(signer.sign, data, algorithm, limiter=_threads())
    signature = await signer.sign(data, algorithm)
    if not signer.key.verify(data, signature, algorithm):
        raise LocalProtocolError(f"the signer of {signer.key.fingerprint} made a wrong signature")
    return signature


def _threads() -> CapacityLimiter:
    """Return what keeps count of the signatures that are being made in this event loop."""
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(THREADS)
        _limiter.set(limiter)
    return limiter
