"""AES in counter and CBC mode, and HMAC: the parts of the two modes with a separate MAC.

The state of a cipher continues from packet to packet (RFC 4253 section 6.3, RFC 4344 section 4), so
each key has a single context.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC

from ..wire import Buffer
from .parameters import EncryptionParameters, MacParameters

__all__ = ["BLOCK_SIZE", "SEQUENCE", "SEQUENCES", "Authenticator", "decryptor", "encryptor"]

BLOCK_SIZE: Final = 16
SEQUENCE: Final = struct.Struct(">I")
SEQUENCES: Final = 0xFFFF_FFFF
"""The bits of a packet's sequence number that a MAC covers."""

_HASHES: Final[dict[str, Callable[[], hashes.HashAlgorithm]]] = {
    "sha256": hashes.SHA256,
    "sha512": hashes.SHA512,
}


class Authenticator:
    """Computes MACs under one key.

    :ivar size: the size of a MAC in bytes
    """

    __slots__ = ("_copy", "size")

    def __init__(self, parameters: MacParameters, key: bytes) -> None:
        self.size: int = parameters.key_size
        # Copying a keyed state is several times as fast as keying one for each packet.
        self._copy = HMAC(key, _HASHES[parameters.hash_name]()).copy

    def code(self, prefix: bytes, data: Buffer) -> bytes:
        """Return the MAC of ``prefix`` followed by ``data``."""
        state = self._copy()
        state.update(prefix)
        state.update(data)
        return state.finalize()


def encryptor(parameters: EncryptionParameters, key: bytes, iv: bytes) -> Callable[[Buffer], bytes]:
    """Return a function that encrypts whole blocks in successive calls."""
    return _cipher(parameters, key, iv).encryptor().update


def decryptor(parameters: EncryptionParameters, key: bytes, iv: bytes) -> Callable[[Buffer], bytes]:
    """Return a function that decrypts whole blocks in successive calls."""
    return _cipher(parameters, key, iv).decryptor().update


def _cipher(
    parameters: EncryptionParameters, key: bytes, iv: bytes
) -> Cipher[modes.CBC] | Cipher[modes.CTR]:
    if parameters.is_cbc:
        return Cipher(algorithms.AES(key), modes.CBC(iv))
    return Cipher(algorithms.AES(key), modes.CTR(iv))
