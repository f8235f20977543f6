"""What each cipher and each message authentication code needs: sizes in bytes, and a hash.

A table for each kind, looked up by the name that is negotiated. The key exchange asks for the sizes
before it derives keys; :mod:`~anyssh.algorithms.protection` checks what it is given against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..constants import Encryption, Mac

__all__ = [
    "EncryptionParameters",
    "MacParameters",
    "encryption_parameters",
    "mac_digest",
    "mac_key_size",
    "mac_parameters",
    "needs_strict_key_exchange",
]


@dataclass(frozen=True, slots=True)
class EncryptionParameters:
    """What a cipher needs, in bytes.

    :ivar name: as it is negotiated
    :ivar key_size: of the key, or of both keys together
    :ivar iv_size: of the initial vector; 0 where there is none
    :ivar block_size: encrypted parts of a packet are a multiple of it
    :ivar is_aead: whether the cipher authenticates, so that no MAC takes part
    """

    name: str
    key_size: int
    iv_size: int
    block_size: int
    is_aead: bool = False

    @property
    def is_cbc(self) -> bool:
        """Whether the cipher chains blocks."""
        return self.name.endswith("-cbc")


@dataclass(frozen=True, slots=True)
class MacParameters:
    """What a message authentication code needs.

    :ivar name: as it is negotiated
    :ivar hash_name: of the HMAC, for :mod:`hashlib`
    :ivar key_size: bytes; its code has the same size
    :ivar is_encrypt_then_mac: whether the code covers the encrypted packet, not the plain one
    """

    name: str
    hash_name: str
    key_size: int
    is_encrypt_then_mac: bool


_ENCRYPTIONS: Final = {
    parameters.name: parameters
    for parameters in (
        # Of the 16 bytes of their initial vector the GCM ciphers use 12 (RFC 5647 section 7.1).
        EncryptionParameters(Encryption.AES256_GCM, 32, 16, 16, is_aead=True),
        EncryptionParameters(Encryption.AES128_GCM, 16, 16, 16, is_aead=True),
        EncryptionParameters(Encryption.CHACHA20_POLY1305, 64, 0, 8, is_aead=True),
        EncryptionParameters(Encryption.AES256_CTR, 32, 16, 16),
        EncryptionParameters(Encryption.AES192_CTR, 24, 16, 16),
        EncryptionParameters(Encryption.AES128_CTR, 16, 16, 16),
        EncryptionParameters(Encryption.AES256_CBC, 32, 16, 16),
        EncryptionParameters(Encryption.NONE, 0, 0, 8),
    )
}
_MACS: Final = {
    parameters.name: parameters
    for parameters in (
        MacParameters(Mac.HMAC_SHA2_512_ETM, "sha512", 64, True),
        MacParameters(Mac.HMAC_SHA2_256_ETM, "sha256", 32, True),
        MacParameters(Mac.HMAC_SHA2_512, "sha512", 64, False),
        MacParameters(Mac.HMAC_SHA2_256, "sha256", 32, False),
    )
}


def encryption_parameters(name: str) -> EncryptionParameters:
    """Return what a cipher needs.

    :param name: one of :class:`~anyssh.constants.Encryption`, ``none`` included
    :raises ValueError: no such cipher is known
    """
    try:
        return _ENCRYPTIONS[name]
    except KeyError:
        raise ValueError(f"{name!r} is not a cipher; known are {', '.join(_ENCRYPTIONS)}") from None


def mac_parameters(name: str) -> MacParameters:
    """Return what a message authentication code needs.

    :param name: one of :class:`~anyssh.constants.Mac`, except ``none``
    :raises ValueError: no such code is known
    """
    try:
        return _MACS[name]
    except KeyError:
        raise ValueError(f"{name!r} is not a MAC; known are {', '.join(_MACS)}") from None


def mac_key_size(name: str) -> int:
    """Return the size of a MAC's key in bytes, 0 for ``none``.

    :raises ValueError: no such MAC is known
    """
    return 0 if name == Mac.NONE else mac_parameters(name).key_size


def mac_digest(name: str) -> str:
    """Return the :mod:`hashlib` name of a MAC's hash.

    :raises ValueError: no such MAC is known, or it is ``none``
    """
    return mac_parameters(name).hash_name


def needs_strict_key_exchange(encryption: str, mac: str) -> bool:
    """Tell whether a pair is safe only if both sides keep strict key exchange.

    Without it, packets can be removed from the start of a connection unnoticed when the cipher
    takes its nonce from the packet number, or chains blocks under an encrypt-then-MAC code.

    :raises ValueError: one of the names is not known
    """
    parameters = encryption_parameters(encryption)
    if parameters.is_aead:
        return encryption == Encryption.CHACHA20_POLY1305
    if not parameters.is_cbc:
        return False
    return mac != Mac.NONE and mac_parameters(mac).is_encrypt_then_mac
