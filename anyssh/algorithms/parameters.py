"""The parameters of each cipher and MAC: sizes in bytes, and a hash.

There is a table for each kind, indexed by the negotiated name. Key exchange looks sizes up before
it derives keys; :mod:`~anyssh.algorithms.protection` checks its arguments against them.
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
    """The parameters of a cipher, in bytes.

    :ivar name: the negotiated name
    :ivar key_size: the size of the key, or of both keys together
    :ivar iv_size: the size of the initial vector; 0 if there is none
    :ivar block_size: the encrypted parts of a packet are a multiple of it
    :ivar is_aead: whether the cipher authenticates, so that no MAC is used
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
    """The parameters of a MAC.

    :ivar name: the negotiated name
    :ivar hash_name: the hash of the HMAC, as named by :mod:`hashlib`
    :ivar key_size: the size in bytes of the key, and of the MAC
    :ivar is_encrypt_then_mac: whether the MAC covers the encrypted packet instead of the plaintext
    """

    name: str
    hash_name: str
    key_size: int
    is_encrypt_then_mac: bool


_ENCRYPTIONS: Final = {
    parameters.name: parameters
    for parameters in (
        # Of their 16-byte initial vector, the GCM ciphers use 12 bytes (RFC 5647 section 7.1).
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
    """Return the parameters of a cipher.

    :param name: one of :class:`~anyssh.constants.Encryption`, including ``none``
    :raises ValueError: the cipher is unknown
    """
    try:
        return _ENCRYPTIONS[name]
    except KeyError:
        raise ValueError(f"{name!r} is not a cipher; known are {', '.join(_ENCRYPTIONS)}") from None


def mac_parameters(name: str) -> MacParameters:
    """Return the parameters of a MAC.

    :param name: one of :class:`~anyssh.constants.Mac`, except ``none``
    :raises ValueError: the MAC is unknown
    """
    try:
        return _MACS[name]
    except KeyError:
        raise ValueError(f"{name!r} is not a MAC; known are {', '.join(_MACS)}") from None


def mac_key_size(name: str) -> int:
    """Return the size of a MAC's key in bytes, 0 for ``none``.

    :raises ValueError: the MAC is unknown
    """
    return 0 if name == Mac.NONE else mac_parameters(name).key_size


def mac_digest(name: str) -> str:
    """Return the :mod:`hashlib` name of a MAC's hash.

    :raises ValueError: the MAC is unknown, or ``none``
    """
    return mac_parameters(name).hash_name


def needs_strict_key_exchange(encryption: str, mac: str) -> bool:
    """Tell whether a cipher and MAC are safe only with strict key exchange.

    Without it, packets can be removed unnoticed from the start of a connection, if the cipher takes
    its nonce from the sequence number, or chains blocks under an encrypt-then-MAC algorithm.

    :raises ValueError: one of the names is unknown
    """
    parameters = encryption_parameters(encryption)
    if parameters.is_aead:
        return encryption == Encryption.CHACHA20_POLY1305
    if not parameters.is_cbc:
        return False
    return mac != Mac.NONE and mac_parameters(mac).is_encrypt_then_mac
