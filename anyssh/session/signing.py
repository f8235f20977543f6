"""Getting a signature, wherever the private key lives."""

from __future__ import annotations

from ..errors import LocalProtocolError
from ..keys import Key
from .credentials import Signer

__all__ = ["public_key_of", "signed"]


def public_key_of(key: Key | Signer) -> Key:
    """Return the public key of a pair or signer."""
    return key if isinstance(key, Key) else key.key


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
