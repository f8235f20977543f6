"""Encryption of key files: keys from passphrases, and the ciphers, within bounds.

A file itself specifies how much work its passphrase takes. Whoever made it must not be able to keep
us busy for hours or to exhaust memory, so every parameter is bounded here.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ..errors import KeyFormatError, PassphraseRequired, WrongPassphrase

__all__ = [
    "MAX_BCRYPT_ROUNDS",
    "MAX_PBKDF2_ITERATIONS",
    "argon2_key",
    "bcrypt_key",
    "cbc_decrypt",
    "cbc_encrypt",
    "chacha20_poly1305_decrypt",
    "ctr_crypt",
    "gcm_decrypt",
    "legacy_pem_key",
    "need_passphrase",
    "pbkdf2_key",
    "pkcs7_pad",
    "pkcs7_unpad",
    "wrong_passphrase",
]

MAX_BCRYPT_ROUNDS: Final = 2048
MAX_PBKDF2_ITERATIONS: Final = 5_000_000
MAX_ARGON2_KIBIBYTES: Final = 256 * 1024
MAX_ARGON2_LANES: Final = 16
MAX_ARGON2_WORK: Final = 4 * 1024 * 1024  # KiB times passes
_MAX_SALT_BYTES: Final = 1024


def need_passphrase(passphrase: bytes | None) -> bytes:
    """Return the passphrase; an empty one counts as none.

    :raises PassphraseRequired: there is none
    """
    if not passphrase:
        raise PassphraseRequired("the key is encrypted: a passphrase is required")
    return passphrase


def wrong_passphrase() -> WrongPassphrase:
    """Return the error for data that does not decrypt."""
    return WrongPassphrase("the passphrase is wrong, or the encrypted part is damaged")


def bcrypt_key(passphrase: bytes, salt: bytes, rounds: int, size: int) -> bytes:
    """Derive a key as OpenSSH does (bcrypt_pbkdf)."""
    import bcrypt

    if not 1 <= rounds <= MAX_BCRYPT_ROUNDS:
        raise KeyFormatError(f"{rounds} bcrypt rounds; 1 to {MAX_BCRYPT_ROUNDS} are accepted")
    _check_salt(salt)
    return bcrypt.kdf(passphrase, salt, size, rounds, ignore_few_rounds=True)


def pbkdf2_key(digest: str, passphrase: bytes, salt: bytes, iterations: int, size: int) -> bytes:
    """Derive a key with PBKDF2 (RFC 8018 section 5.2)."""
    if not 1 <= iterations <= MAX_PBKDF2_ITERATIONS:
        raise KeyFormatError(
            f"the PBKDF2 iterations are out of bounds: 1 to {MAX_PBKDF2_ITERATIONS} are accepted"
        )
    _check_salt(salt)
    return hashlib.pbkdf2_hmac(digest, passphrase, salt, iterations, size)


def argon2_key(
    flavour: str,
    passphrase: bytes,
    salt: bytes,
    *,
    passes: int,
    lanes: int,
    kibibytes: int,
    size: int,
) -> bytes:
    """Derive a key with Argon2 (RFC 9106).

    :param flavour: ``"Argon2d"``, ``"Argon2i"`` or ``"Argon2id"``
    :raises KeyFormatError: a parameter is out of bounds, or the flavour is not available
    """
    from cryptography.hazmat.primitives.kdf import argon2

    if flavour not in ("Argon2d", "Argon2i", "Argon2id"):
        raise KeyFormatError("unknown key derivation")
    function: Any = getattr(argon2, flavour, None)
    if function is None:  # all but Argon2id are missing in the oldest version we support
        raise KeyFormatError(f"the installed version of cryptography is too old for {flavour}")
    if (
        not 1 <= lanes <= MAX_ARGON2_LANES
        or not 8 * lanes <= kibibytes <= MAX_ARGON2_KIBIBYTES
        or not 1 <= passes <= MAX_ARGON2_WORK // kibibytes
    ):
        raise KeyFormatError("the Argon2 parameters are out of bounds")
    _check_salt(salt)
    try:
        derivation = function(
            salt=salt, length=size, iterations=passes, lanes=lanes, memory_cost=kibibytes
        )
        derived: bytes = derivation.derive(passphrase)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFormatError(f"Argon2 is not possible: {error}") from None
    return derived


def legacy_pem_key(passphrase: bytes, salt: bytes, size: int) -> bytes:
    """Derive a key as OpenSSL does for ``DEK-Info`` (EVP_BytesToKey with MD5, one round)."""
    derived = block = b""
    while len(derived) < size:
        block = hashlib.md5(block + passphrase + salt, usedforsecurity=False).digest()
        derived += block
    return derived[:size]


def _check_salt(salt: bytes) -> None:
    if not 1 <= len(salt) <= _MAX_SALT_BYTES:
        raise KeyFormatError(f"a salt must have 1 to {_MAX_SALT_BYTES} bytes, not {len(salt)}")


def _block_cipher(kind: str, key: bytes) -> TripleDES | algorithms.AES:
    return TripleDES(key) if kind == "3des" else algorithms.AES(key)


def cbc_decrypt(kind: str, key: bytes, initial: bytes, data: bytes) -> bytes:
    """Decrypt with ``"aes"`` or ``"3des"`` in CBC mode, keeping the padding.

    :raises KeyFormatError: the data does not consist of whole blocks
    """
    cipher = _block_cipher(kind, key)
    if not data or len(data) % (cipher.block_size // 8):
        raise KeyFormatError("the encrypted part does not consist of whole blocks")
    decryptor = Cipher(cipher, modes.CBC(initial)).decryptor()
    return decryptor.update(data) + decryptor.finalize()


def cbc_encrypt(key: bytes, initial: bytes, data: bytes) -> bytes:
    """Encrypt whole blocks with AES in CBC mode."""
    encryptor = Cipher(algorithms.AES(key), modes.CBC(initial)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def ctr_crypt(key: bytes, initial: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt with AES in CTR mode."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(initial)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def gcm_decrypt(key: bytes, nonce: bytes, data: bytes, tag: bytes) -> bytes:
    """Decrypt with AES-GCM.

    :raises WrongPassphrase: the tag is wrong
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(nonce, data + tag, None)
    except InvalidTag:
        raise wrong_passphrase() from None


def chacha20_poly1305_decrypt(key: bytes, data: bytes, tag: bytes) -> bytes:
    """Decrypt as OpenSSH does for sequence number 0, without a packet length.

    :raises WrongPassphrase: the tag is wrong
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.poly1305 import Poly1305

    stream = Cipher(algorithms.ChaCha20(key[:32], bytes(16)), None).encryptor()
    one_time_key = stream.update(bytes(64))[:32]
    try:
        Poly1305.verify_tag(one_time_key, data, tag)
    except InvalidSignature:
        raise wrong_passphrase() from None
    return stream.update(data)


def pkcs7_pad(data: bytes, block: int) -> bytes:
    """Append the padding of RFC 5652 section 6.3."""
    count = block - len(data) % block
    return data + bytes((count,)) * count


def pkcs7_unpad(data: bytes, block: int) -> bytes:
    """Remove the padding of RFC 5652 section 6.3.

    :raises WrongPassphrase: there is no such padding
    """
    count = data[-1] if data else 0
    if not 1 <= count <= block or data[-count:] != bytes((count,)) * count:
        raise wrong_passphrase()
    return data[:-count]
