"""ML-KEM-768 with X25519: the secret is safe as long as one of the two is unbroken.

The client sends an encapsulation key and an X25519 value, the server a ciphertext and its X25519
value, each as one string. The secret is ``SHA-256(K_PQ || K_CL)``, encoded as a string, not as an
mpint (draft-ietf-sshm-mlkem-hybrid-kex). Importing this module fails if the cryptography package
does not have ML-KEM.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)

from ..wire import string
from .agreement import X25519_SIZE, X25519Pair, peer_value_error
from .methods import ClientShare, KeyExchangeAlgorithm

__all__ = ["CIPHERTEXT_SIZE", "ENCAPSULATION_KEY_SIZE", "HybridExchange"]

ENCAPSULATION_KEY_SIZE: Final = 1184
CIPHERTEXT_SIZE: Final = 1088


class HybridShare(ClientShare):
    """The client's half: a decapsulation key and an X25519 key pair."""

    __slots__ = ("_decapsulation_key", "_pair")

    def __init__(self) -> None:
        self._decapsulation_key = MLKEM768PrivateKey.generate()
        self._pair = X25519Pair()
        super().__init__(
            self._decapsulation_key.public_key().public_bytes_raw() + self._pair.public
        )

    def finish(self, server_public: bytes) -> bytes:
        """Return the shared secret as a string; see :meth:`ClientShare.finish`."""
        ciphertext, peer = _split(server_public, CIPHERTEXT_SIZE)
        # A manipulated ciphertext yields a different secret, not an error.
        quantum_safe = self._decapsulation_key.decapsulate(ciphertext)
        return _combine(quantum_safe, self._pair.agree(peer))


class HybridExchange(KeyExchangeAlgorithm):
    """The method ``mlkem768x25519-sha256``."""

    __slots__ = ()

    def client_share(self) -> ClientShare:
        """Return the client's half, with fresh keys."""
        return HybridShare()

    def server_reply(self, client_public: bytes) -> tuple[bytes, bytes]:
        """Answer a client; see :meth:`KeyExchangeAlgorithm.server_reply`."""
        encapsulation_key, peer = _split(client_public, ENCAPSULATION_KEY_SIZE)
        pair = X25519Pair()
        classical = pair.agree(peer)
        try:
            key = MLKEM768PublicKey.from_public_bytes(encapsulation_key)
            quantum_safe, ciphertext = key.encapsulate()
        except ValueError:
            raise peer_value_error("an ML-KEM-768 encapsulation key is not valid") from None
        return ciphertext + pair.public, _combine(quantum_safe, classical)

    def is_supported(self) -> bool:
        """Tell whether the underlying library supports ML-KEM."""
        try:
            MLKEM768PrivateKey.generate()
        except UnsupportedAlgorithm:
            return False
        return True


def _split(value: bytes, size: int) -> tuple[bytes, bytes]:
    expected = size + X25519_SIZE
    if len(value) != expected:
        raise peer_value_error(
            f"a value for ML-KEM-768 with X25519 must have {expected} bytes, not {len(value)}"
        )
    return bytes(value[:size]), bytes(value[size:])


def _combine(quantum_safe: bytes, classical: bytes) -> bytes:
    return string(hashlib.sha256(quantum_safe + classical).digest())
