"""Making signatures, wherever the private key is held.

RSA takes milliseconds, during which a server under many new connections would not serve the
established ones. So RSA signatures are made in worker threads, which release the interpreter lock
meanwhile, at most :data:`THREADS` at a time per event loop, to leave some processor time. All our
other keys sign faster than the way to a thread and back.
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
    """Return what to present: the certificate, or the public key."""
    return key.certificate if isinstance(key, CertifiedKey) else public_key_of(key)


def signs_quickly(signer: Key | Signer) -> bool:
    """Tell whether to call :meth:`Key.sign` directly, without awaiting anything."""
    return isinstance(signer, Key) and signer.algorithm != _RSA


class HostKeys(NamedTuple):
    """What all sessions of a server authenticate with.

    :ivar shown: certificates and plain keys
    :ivar signers: the signer of each key
    """

    shown: tuple[Identity, ...]
    signers: Mapping[Key, Key | Signer]

    @classmethod
    def of(cls, keys: Iterable[KeyPair | CertifiedKey]) -> Self:
        """Split host keys into what is shown and what signs."""
        shown: dict[Identity, None] = {}
        signers: dict[Key, Key | Signer] = {}
        for key in keys:
            shown[identity_of(key)] = None
            shown[public_key_of(key)] = None
            signers.setdefault(public_key_of(key), signer_of(key))
        return cls(tuple(shown), signers)


async def signed(key: KeyPair, data: bytes, algorithm: str) -> bytes:
    """Return the signature of ``data``, verified against the public key.

    Verifying costs little, and protects against faulty signers, whose wrong RSA signatures can
    reveal the key.

    :raises LocalProtocolError: the signature is not valid
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
    """Return the limiter for concurrent signatures in this event loop."""
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(THREADS)
        _limiter.set(limiter)
    return limiter
