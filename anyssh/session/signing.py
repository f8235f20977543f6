"""Getting a signature, wherever the private key lives."""

from __future__ import annotations

from ..errors import LocalProtocolError
from ..keys import Identity, Key
from .credentials import CertifiedKey, KeyPair, Signer, as_signer

__all__ = ["identity_of", "public_key_of", "signed", "signer_of"]


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


async def signed(key: KeyPair, data: bytes, algorithm: str) -> bytes:
    """Return the signature of ``data``, checked against the public key.

    The check costs little and keeps a faulty signer from giving its key away (a wrong RSA
    signature can).

    :raises LocalProtocolError: the signature is not good
    """
    signer = as_signer(key)
    if isinstance(signer, Key):
        return signer.sign(data, algorithm)
    signature = await signer.sign(data, algorithm)
    if not signer.key.verify(data, signature, algorithm):
        raise LocalProtocolError(f"the signer of {signer.key.fingerprint} made a wrong signature")
    return signature
