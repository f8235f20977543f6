"""Chooses the mode of packet protection for the negotiated algorithms.

There are five: clear, encrypt-and-MAC, encrypt-then-MAC, AES-GCM and ChaCha20-Poly1305. A cipher
without authentication, or a MAC without a cipher, is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from ..constants import Encryption, Mac
from .aes_gcm import GcmOpener, GcmSealer
from .block_ciphers import Authenticator, decryptor, encryptor
from .chacha20_poly1305 import ChachaOpener, ChachaSealer
from .clear import ClearOpener, ClearSealer
from .encrypt_and_mac import CbcAndMacOpener, EncryptAndMacOpener, EncryptAndMacSealer
from .encrypt_then_mac import EncryptThenMacOpener, EncryptThenMacSealer
from .packets import PacketOpener, PacketSealer
from .parameters import (
    EncryptionParameters,
    MacParameters,
    encryption_parameters,
    mac_parameters,
)

__all__ = ["clear_opener", "clear_sealer", "packet_opener", "packet_sealer"]


def clear_sealer(random: Callable[[int], bytes]) -> PacketSealer:
    """Return a sealer for packets without keys.

    :param random: returns the given number of unpredictable bytes
    """
    return ClearSealer(random)


def clear_opener() -> PacketOpener:
    """Return an opener for packets without keys."""
    return ClearOpener()


def packet_sealer(
    encryption: str,
    mac: str,
    *,
    iv: bytes,
    key: bytes,
    mac_key: bytes,
    random: Callable[[int], bytes],
) -> PacketSealer:
    """Return the sealer of one direction for new keys.

    :param encryption: one of :class:`~anyssh.constants.Encryption`
    :param mac: one of :class:`~anyssh.constants.Mac`; ignored if the cipher authenticates
    :param iv: the initial vector, :attr:`EncryptionParameters.iv_size` bytes
    :param key: the key or keys of the cipher, :attr:`EncryptionParameters.key_size` bytes
    :param mac_key: the key of the MAC, :func:`mac_key_size` bytes; ignored if the cipher
        authenticates
    :param random: returns the given number of unpredictable bytes
    :raises ValueError: a name is unknown, the two do not protect together, or a key has the wrong
        size
    """
    parameters, authentication = _check(encryption, mac, iv, key, mac_key)
    if encryption == Encryption.NONE:
        return ClearSealer(random)
    if encryption == Encryption.CHACHA20_POLY1305:
        return ChachaSealer(key, random)
    if authentication is None:
        return GcmSealer(key, iv, random)
    authenticator = Authenticator(authentication, mac_key)
    encrypt = encryptor(parameters, key, iv)
    if authentication.is_encrypt_then_mac:
        return EncryptThenMacSealer(encrypt, authenticator, random)
    return EncryptAndMacSealer(encrypt, authenticator, random)


def packet_opener(
    encryption: str, mac: str, *, iv: bytes, key: bytes, mac_key: bytes
) -> PacketOpener:
    """Return the opener of one direction for new keys; parameters as for :func:`packet_sealer`.

    :raises ValueError: a name is unknown, the two do not protect together, or a key has the wrong
        size
    """
    parameters, authentication = _check(encryption, mac, iv, key, mac_key)
    if encryption == Encryption.NONE:
        return ClearOpener()
    if encryption == Encryption.CHACHA20_POLY1305:
        return ChachaOpener(key)
    if authentication is None:
        return GcmOpener(key, iv)
    authenticator = Authenticator(authentication, mac_key)
    decrypt = decryptor(parameters, key, iv)
    if authentication.is_encrypt_then_mac:
        return EncryptThenMacOpener(decrypt, authenticator)
    if parameters.is_cbc:
        return CbcAndMacOpener(decrypt, authenticator)
    return EncryptAndMacOpener(decrypt, authenticator)


def _check(
    encryption: str, mac: str, iv: bytes, key: bytes, mac_key: bytes
) -> tuple[EncryptionParameters, MacParameters | None]:
    parameters = encryption_parameters(encryption)
    _check_size("key", encryption, key, parameters.key_size)
    _check_size("initial vector", encryption, iv, parameters.iv_size)
    if parameters.is_aead:
        return parameters, None
    if (encryption == Encryption.NONE) != (mac == Mac.NONE):
        raise ValueError(f"{encryption!r} with the MAC {mac!r} would not protect packets")
    if mac == Mac.NONE:
        return parameters, None
    authentication = mac_parameters(mac)
    _check_size("key", mac, mac_key, authentication.key_size)
    return parameters, authentication


def _check_size(kind: str, name: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise ValueError(f"the {kind} of {name} must have {size} bytes, not {len(value)}")
