"""OpenSSH's private key files (PROTOCOL.key in its sources), with their comments.

A container (cipher, key derivation, public blob), followed by a section with the private fields,
which is encrypted as a whole. Two equal random numbers at its start reveal a wrong passphrase.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..errors import KeyFormatError, WireError
from ..wire import Reader, displayable, mpint, string, uint32
from ._schemes import EcdsaScheme, scheme_for
from .armor import pem, tidy
from .encryption import (
    bcrypt_key,
    cbc_decrypt,
    chacha20_poly1305_decrypt,
    ctr_crypt,
    gcm_decrypt,
    need_passphrase,
    wrong_passphrase,
)
from .key import Key
from .pairs import curve_named, ecdsa_pair, ed25519_pair, expect_same_public, rsa_pair

__all__ = ["DEFAULT_ROUNDS", "LABEL", "MAGIC", "read", "write"]

LABEL: Final = "OPENSSH PRIVATE KEY"
MAGIC: Final = b"openssh-key-v1\0"
DEFAULT_ROUNDS: Final = 16
_LINE_WIDTH: Final = 70
_MAX_PADDING: Final = 32
# Sizes in bytes of the key, of the derived initialisation vector, and of the tag.
_CIPHERS: Final = {
    "aes128-ctr": (16, 16, 0),
    "aes192-ctr": (24, 16, 0),
    "aes256-ctr": (32, 16, 0),
    "aes128-cbc": (16, 16, 0),
    "aes192-cbc": (24, 16, 0),
    "aes256-cbc": (32, 16, 0),
    "3des-cbc": (24, 8, 0),
    "aes128-gcm@openssh.com": (16, 12, 16),
    "aes256-gcm@openssh.com": (32, 12, 16),
    "chacha20-poly1305@openssh.com": (64, 0, 16),
}


def read(data: bytes, passphrase: bytes | None) -> Key:
    """Read the binary contents.

    :raises KeyFormatError: they are not a single key of a supported type
    :raises PassphraseRequired: they are encrypted
    :raises WrongPassphrase: the passphrase does not decrypt them
    """
    try:
        return _read(data, passphrase)
    except WireError as error:
        raise KeyFormatError(f"not an OpenSSH private key: {error}") from None


def _read(data: bytes, passphrase: bytes | None) -> Key:
    reader = Reader(data)
    if reader.raw(min(len(MAGIC), reader.remaining)) != MAGIC:
        raise KeyFormatError("not an OpenSSH private key: its first bytes are wrong")
    cipher, derivation, options = reader.text(), reader.text(), reader.string()
    count = reader.uint32()
    if count != 1:
        raise KeyFormatError(f"an OpenSSH private key file must contain one key, not {count}")
    public_blob = reader.string()
    section = reader.string()
    tag = reader.rest()
    if cipher == "none":
        if derivation != "none" or options or tag:
            raise KeyFormatError(
                "an unencrypted key with a key derivation or an authentication tag"
            )
    else:
        section = _decrypt(cipher, derivation, options, section, tag, passphrase)
    reader = Reader(section)
    if reader.uint32() != reader.uint32():
        if cipher == "none":
            raise KeyFormatError("the two check numbers of the OpenSSH private key differ")
        raise wrong_passphrase()
    key = _read_private(reader)
    comment = tidy(reader.lenient_text())
    # Some writers have their own padding bytes, so only the size is checked.
    if reader.remaining > _MAX_PADDING:
        raise KeyFormatError(f"{reader.remaining} bytes of padding in an OpenSSH private key")
    expect_same_public(key, public_blob)
    return key.with_comment(comment)


def _decrypt(
    cipher: str, derivation: str, options: bytes, section: bytes, tag: bytes, given: bytes | None
) -> bytes:
    if cipher not in _CIPHERS or derivation != "bcrypt":
        raise KeyFormatError(
            f"unknown encryption of an OpenSSH private key: "
            f"{displayable(cipher)!r} with {displayable(derivation)!r}"
        )
    key_size, initial_size, tag_size = _CIPHERS[cipher]
    if len(tag) != tag_size:
        raise KeyFormatError(f"{len(tag)} bytes follow the private section, not {tag_size}")
    reader = Reader(options)
    salt = reader.string()
    rounds = reader.uint32()
    reader.expect_end()
    material = bcrypt_key(need_passphrase(given), salt, rounds, key_size + initial_size)
    key, initial = material[:key_size], material[key_size:]
    if cipher.endswith("-ctr"):
        return ctr_crypt(key, initial, section)
    if cipher.endswith("-cbc"):
        return cbc_decrypt(cipher[:4] if cipher[0] == "3" else "aes", key, initial, section)
    if cipher.startswith("aes"):
        return gcm_decrypt(key, initial, section, tag)
    return chacha20_poly1305_decrypt(key, section, tag)


def _read_private(reader: Reader) -> Key:
    name = reader.text()
    scheme = scheme_for(name)
    if scheme is None:
        raise KeyFormatError(f"unknown private key type: {displayable(name)!r}")
    if scheme.algorithm == "ssh-rsa":
        modulus, public_exponent, private_exponent = (reader.mpint() for _ in range(3))
        coefficient, prime1, prime2 = (reader.mpint() for _ in range(3))
        return rsa_pair(
            modulus=modulus,
            public_exponent=public_exponent,
            private_exponent=private_exponent,
            prime1=prime1,
            prime2=prime2,
            coefficient=coefficient,
        )
    if isinstance(scheme, EcdsaScheme):
        if curve_named(reader.text()) is not scheme:
            raise KeyFormatError(f"a key of type {name} names another curve")
        point = reader.string()
        # Some writers omit the zero byte before a scalar whose first bit is set.
        return ecdsa_pair(scheme, int.from_bytes(reader.string(), "big"), point)
    public = reader.string()
    both = reader.string()
    if len(both) != 64 or both[32:] != public:
        raise KeyFormatError("an Ed25519 private key must be 32 bytes, then the public key")
    return ed25519_pair(both[:32], public)


def write(
    key: Key,
    passphrase: bytes | None,
    random: Callable[[int], bytes],
    rounds: int = DEFAULT_ROUNDS,
) -> str:
    """Write a key pair and its comment; with a passphrase, encrypted with AES-256-CTR.

    :param random: called for 4 check bytes, then for 16 bytes of salt if there is a passphrase
    :param rounds: the rounds of bcrypt
    """
    check = random(4)
    section = check + check + _private_fields(key) + string(tidy(key.comment))
    if passphrase is None:
        section = _padded(section, 8)
        header = string("none") + string("none") + string(b"")
    else:
        salt = random(16)
        material = bcrypt_key(passphrase, salt, rounds, 48)
        section = ctr_crypt(material[:32], material[32:], _padded(section, 16))
        header = string("aes256-ctr") + string("bcrypt") + string(string(salt) + uint32(rounds))
    data = MAGIC + header + uint32(1) + string(key.public_blob) + string(section)
    return pem(LABEL, data, _LINE_WIDTH)


def _padded(section: bytes, block: int) -> bytes:
    return section + bytes(range(1, 1 + -len(section) % block))


def _private_fields(key: Key) -> bytes:
    private = key.to_cryptography()
    head = string(key.algorithm)
    if key.algorithm == "ssh-rsa":
        numbers = private.private_numbers()
        public = numbers.public_numbers
        values = (public.n, public.e, numbers.d, numbers.iqmp, numbers.p, numbers.q)
        return head + b"".join(map(mpint, values))
    if key.algorithm == "ssh-ed25519":
        public_bytes = private.public_key().public_bytes_raw()
        seed = private.private_bytes_raw()
        return head + string(public_bytes) + string(seed + public_bytes)
    # The public blob consists of the type, curve and point needed here.
    return key.public_blob + mpint(private.private_numbers().private_value)
