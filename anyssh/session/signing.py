"""Getting a signature, wherever the private key lives."""

from __future__ import annotations

from ..errors import LocalProtocolError
from ..keys import Identity, Key
from .credentials import CertifiedKey, Signer

__all__ = ["identity_of", "public_key_of", "signed", "signer_of"]


def signer_of(key: Key | Signer | CertifiedKey) -> Key | Signer:
    """Return what signs, with or without a certificate."""
    return key.key if isinstance(key, CertifiedKey) else key


def public_key_of(key: Key | Signer | CertifiedKey) -> Key:
    """Return the public key, without its certificate."""
    signer = signer_of(key)
    return signer if isinstance(signer, Key) else signer.key


def identity_of(key: Key | Signer | CertifiedKey) -> Identity:
    """Return what is shown of a key: its certificate, or its public key."""
    return key.certificate if isinstance(key, CertifiedKey) else public_key_of(key)


async def signed(key: Key | Signer, data: bytes, algorithm: str) -> bytes:
    """Return the signature of ``data``, checked against the public key.

    The check costs little and keeps a faulty signer from giving its key away (a wrong RSA
    signature can).

    :raises LocalProtocolError: the signature is not good
    """
    if isinstance(key, Key):
        return key.sign(data, algorithm)
    signature = await key.sign(data, algorithm)
    if not key.key.verify(data, signature, algorithm):
        raise LocalProtocolError(f"the signer of {key.key.fingerprint} made a wrong signature")
    return signature
