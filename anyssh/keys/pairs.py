"""Key pairs from the numbers in key files, which are checked first.

The numbers of a file may be inconsistent, by accident, or to make a signature reveal the key. The
checks are arithmetic, and fast for any numbers; for RSA, a trial signature replaces primality
tests, which would take minutes for the largest keys.
"""

from __future__ import annotations

from cryptography.exceptions import InternalError
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from ..errors import KeyFormatError, SSHError
from ._schemes import CURVES, RSA, EcdsaScheme
from .key import Key

__all__ = ["curve_named", "ecdsa_pair", "ed25519_pair", "expect_same_public", "rsa_pair"]


def curve_named(name: str) -> EcdsaScheme:
    """Return the scheme of a curve by its name in SSH.

    :raises KeyFormatError: it is none of nistp256, nistp384, nistp521
    """
    for scheme in CURVES:
        if scheme.curve_name == name:
            return scheme
    raise KeyFormatError("unknown curve; expected nistp256, nistp384 or nistp521")


def rsa_pair(
    *,
    modulus: int,
    public_exponent: int,
    private_exponent: int,
    prime1: int,
    prime2: int,
    coefficient: int,
    exponent1: int | None = None,
    exponent2: int | None = None,
) -> Key:
    """Build an RSA key pair; the names are those of RFC 8017 appendix A.1.2.

    :raises KeyFormatError: the numbers are inconsistent
    """
    public = RSA.public_from_numbers(modulus, public_exponent)
    size = modulus.bit_length()
    for number in (private_exponent, prime1, prime2):
        if number < 0 or not 2 < number.bit_length() <= size:
            raise KeyFormatError("the private numbers of an RSA key are out of range")
    first, second = prime1 - 1, prime2 - 1
    expected1, expected2 = private_exponent % first, private_exponent % second
    consistent = (
        prime1 * prime2 == modulus
        and private_exponent < modulus
        and 0 < coefficient < prime1
        and coefficient * prime2 % prime1 == 1
        and public_exponent * expected1 % first == 1
        and public_exponent * expected2 % second == 1
        and exponent1 in (None, expected1)
        and exponent2 in (None, expected2)
    )
    if not consistent:
        raise KeyFormatError("the private numbers of an RSA key are inconsistent")
    try:
        private = rsa.RSAPrivateNumbers(
            p=prime1,
            q=prime2,
            d=private_exponent,
            dmp1=expected1,
            dmq1=expected2,
            iqmp=coefficient,
            public_numbers=public.public_numbers(),
        ).private_key(unsafe_skip_rsa_key_validation=True)
        key = Key.from_cryptography(private)
        key.sign(b"trial")
    except (ValueError, InternalError, SSHError):
        raise KeyFormatError(
            "the private numbers of an RSA key do not make a valid signature"
        ) from None
    return key


def ecdsa_pair(scheme: EcdsaScheme, scalar: int, point: bytes | None) -> Key:
    """Build an ECDSA key pair.

    :param point: the uncompressed public point from the file, or None
    :raises KeyFormatError: the scalar is out of range, or does not match the point
    """
    if not 0 < scalar < scheme.order:
        raise KeyFormatError(f"the private scalar is out of range for {scheme.curve_name}")
    private = ec.derive_private_key(scalar, scheme.curve)
    if point is not None and point != scheme.point(private.public_key()):
        raise KeyFormatError("the public point does not match the private scalar")
    return Key.from_cryptography(private)


def ed25519_pair(seed: bytes, public: bytes | None) -> Key:
    """Build an Ed25519 key pair.

    :param seed: 32 bytes (RFC 8032 section 5.1.5)
    :param public: the public key from the file, or None
    :raises KeyFormatError: the seed has another length, or does not match the public key
    """
    if len(seed) != 32:
        raise KeyFormatError(f"an Ed25519 private key must have 32 bytes, not {len(seed)}")
    private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    if public is not None and public != private.public_key().public_bytes_raw():
        raise KeyFormatError("the public key does not match the private key")
    return Key.from_cryptography(private)


def expect_same_public(key: Key, blob: bytes) -> None:
    """Check the public blob that accompanies a private key.

    :raises KeyFormatError: it belongs to another key
    """
    if Key.from_public_blob(blob) != key:
        raise KeyFormatError("the public half of the file does not match the private half")
