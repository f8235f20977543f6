"""PKCS#1, SEC1 and PKCS#8: the DER formats of keys, and their PEM encoding.

PKCS#1 (RFC 8017 appendix A.1) contains RSA keys, SEC1 (RFC 5915) private ECDSA keys, PKCS#8 (RFC
5958, public keys as in RFC 5280, Ed25519 as in RFC 8410) all of them. PKCS#8 is encrypted with
PBES2 (RFC 8018); the older PEM encryption with ``DEK-Info`` is read but, being weak, not written.

The format is determined from the DER structure; a PEM label must agree with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..errors import KeyFormatError, LocalProtocolError
from ..wire import displayable
from . import der
from ._schemes import CURVES, ED25519, RSA, EcdsaScheme
from .armor import Block, pem
from .encryption import (
    cbc_decrypt,
    cbc_encrypt,
    legacy_pem_key,
    need_passphrase,
    pbkdf2_key,
    pkcs7_pad,
    pkcs7_unpad,
    wrong_passphrase,
)
from .key import Key
from .pairs import ecdsa_pair, ed25519_pair, rsa_pair

__all__ = [
    "DEFAULT_ITERATIONS",
    "FORMATS",
    "read",
    "read_der",
    "write_pkcs1_private",
    "write_pkcs1_public",
    "write_pkcs8_private",
    "write_pkcs8_public",
    "write_sec1",
]

DEFAULT_ITERATIONS: Final = 100_000

FORMATS: Final = {
    "RSA PUBLIC KEY": "pkcs1",
    "RSA PRIVATE KEY": "pkcs1",
    "EC PRIVATE KEY": "sec1",
    "PUBLIC KEY": "pkcs8",
    "PRIVATE KEY": "pkcs8",
    "ENCRYPTED PRIVATE KEY": "pkcs8",
}
"""The names of the formats by PEM label."""

_RSA: Final = der.object_identifier("1.2.840.113549.1.1.1")
_EC: Final = der.object_identifier("1.2.840.10045.2.1")
_ED25519: Final = der.object_identifier("1.3.101.112")
_PBES2: Final = der.object_identifier("1.2.840.113549.1.5.13")
_PBKDF2: Final = der.object_identifier("1.2.840.113549.1.5.12")
_HMAC_SHA256: Final = der.object_identifier("1.2.840.113549.2.9")
_AES256_CBC: Final = der.object_identifier("2.16.840.1.101.3.4.1.42")
_CURVE_OIDS: Final = dict(
    zip(
        map(der.object_identifier, ("1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35")),
        CURVES,
        strict=True,
    )
)
_OIDS_OF_CURVES: Final = {scheme.algorithm: oid for oid, scheme in _CURVE_OIDS.items()}
_PSEUDORANDOM_FUNCTIONS: Final = {
    der.object_identifier("1.2.840.113549.2.7"): "sha1",
    der.object_identifier("1.2.840.113549.2.8"): "sha224",
    _HMAC_SHA256: "sha256",
    der.object_identifier("1.2.840.113549.2.10"): "sha384",
    der.object_identifier("1.2.840.113549.2.11"): "sha512",
}
# Kind of cipher, key size, block size; sizes in bytes.
_CIPHERS: Final = {
    der.object_identifier("2.16.840.1.101.3.4.1.2"): ("aes", 16, 16),
    der.object_identifier("2.16.840.1.101.3.4.1.22"): ("aes", 24, 16),
    _AES256_CBC: ("aes", 32, 16),
    der.object_identifier("1.2.840.113549.3.7"): ("3des", 24, 8),
}
_LEGACY_CIPHERS: Final = {
    "AES-128-CBC": ("aes", 16, 16),
    "AES-192-CBC": ("aes", 24, 16),
    "AES-256-CBC": ("aes", 32, 16),
    "DES-EDE3-CBC": ("3des", 24, 8),
}


def read(block: Block, passphrase: bytes | None) -> Key:
    """Read the key of a PEM block.

    :raises KeyFormatError: it is not a key in a supported format
    :raises PassphraseRequired: it is encrypted
    :raises WrongPassphrase: the passphrase does not decrypt it
    """
    label = block.label
    if label not in FORMATS:
        raise KeyFormatError(f"not a PEM label of a supported key: {displayable(label)!r}")
    data = block.data
    if "dek-info" in block.headers or "proc-type" in block.headers:
        if label not in ("RSA PRIVATE KEY", "EC PRIVATE KEY"):
            raise KeyFormatError(f"a PEM block {label!r} cannot have a DEK-Info header")
        data = _decrypt_legacy(block, need_passphrase(passphrase))
    if _label_of(data) != label:
        raise KeyFormatError(f"a PEM block {label!r} with the contents of a {_label_of(data)!r}")
    return read_der(data, passphrase)


def _decrypt_legacy(block: Block, passphrase: bytes) -> bytes:
    """Decrypt according to RFC 1421 and OpenSSL."""
    if block.headers.get("proc-type", "").replace(" ", "") != "4,ENCRYPTED":
        raise KeyFormatError("the header Proc-Type must be 4,ENCRYPTED")
    name, _, digits = block.headers.get("dek-info", "").partition(",")
    cipher = _LEGACY_CIPHERS.get(name.strip().upper())
    if cipher is None:
        raise KeyFormatError(f"unknown DEK-Info cipher: {displayable(name)!r}")
    kind, key_size, block_size = cipher
    try:
        initial = bytes.fromhex(digits)
    except ValueError:
        raise KeyFormatError("the DEK-Info header's second part must be hexadecimal") from None
    if len(initial) != block_size:
        raise KeyFormatError(f"the DEK-Info header needs {block_size} bytes, not {len(initial)}")
    key = legacy_pem_key(passphrase, initial[:8], key_size)
    return _unpadded(cbc_decrypt(kind, key, initial, block.data), block_size)


def _unpadded(data: bytes, block_size: int) -> bytes:
    """Remove the padding; if the result is not DER, the passphrase was wrong."""
    plain = pkcs7_unpad(data, block_size)
    if not der.is_sequence(plain):
        raise wrong_passphrase()
    return plain


def _label_of(data: bytes) -> str:
    """Return the PEM label that matches the DER structure."""
    body = der.DerReader(data).sequence()
    if body.next_tag() == der.INTEGER:
        number = body.integer()
        match body.next_tag():
            case der.SEQUENCE:
                return "PRIVATE KEY"
            case der.OCTET_STRING:
                return "EC PRIVATE KEY"
            case der.INTEGER:
                return "RSA PUBLIC KEY" if number > 1 else "RSA PRIVATE KEY"
    elif body.next_tag() == der.SEQUENCE:
        body.sequence()
        match body.next_tag():
            case der.BIT_STRING:
                return "PUBLIC KEY"
            case der.OCTET_STRING:
                return "ENCRYPTED PRIVATE KEY"
    raise KeyFormatError("DER: not a key in PKCS#1, SEC1 or PKCS#8 form")


def read_der(data: bytes, passphrase: bytes | None, expected: str | None = None) -> Key:
    """Read a key from DER, in any of the formats.

    :param expected: the format that it must have, if any: ``"pkcs1"``, ``"sec1"`` or ``"pkcs8"``
    :raises KeyFormatError: it is not a key in a supported format
    :raises PassphraseRequired: it is encrypted
    :raises WrongPassphrase: the passphrase does not decrypt it
    """
    label = _label_of(data)
    if expected not in (None, FORMATS[label]):
        raise KeyFormatError(f"expected a key in the format {expected}, found {FORMATS[label]}")
    outer = der.DerReader(data)
    body = outer.sequence()
    outer.expect_end()
    if label == "ENCRYPTED PRIVATE KEY":
        plain = _decrypt_pbes2(body, need_passphrase(passphrase))
        if _label_of(plain) != "PRIVATE KEY":
            raise KeyFormatError("DER: the encrypted key is not in PKCS#8 form")
        return _read_pkcs8(der.DerReader(plain).sequence())
    match label:
        case "RSA PUBLIC KEY":
            return _read_pkcs1_public(body)
        case "RSA PRIVATE KEY":
            return _read_pkcs1_private(body)
        case "EC PRIVATE KEY":
            return _read_sec1(body, None)
        case "PUBLIC KEY":
            return _read_public(body)
        case _:
            return _read_pkcs8(body)


def _expect_version(body: der.DerReader, *versions: int) -> None:
    version = body.integer()
    if version not in versions:
        raise KeyFormatError(f"DER: expected version {versions[0]}, found another")


def _read_pkcs1_public(body: der.DerReader) -> Key:
    modulus, exponent = body.integer(), body.integer()
    body.expect_end()
    return Key.from_cryptography(RSA.public_from_numbers(modulus, exponent))


def _read_pkcs1_private(body: der.DerReader) -> Key:
    _expect_version(body, 0)  # 1 would be a key of more than two primes
    modulus, public_exponent, private_exponent = (body.integer() for _ in range(3))
    prime1, prime2, exponent1, exponent2, coefficient = (body.integer() for _ in range(5))
    body.expect_end()
    return rsa_pair(
        modulus=modulus,
        public_exponent=public_exponent,
        private_exponent=private_exponent,
        prime1=prime1,
        prime2=prime2,
        exponent1=exponent1,
        exponent2=exponent2,
        coefficient=coefficient,
    )


def _read_sec1(body: der.DerReader, curve: EcdsaScheme | None) -> Key:
    """Read ECPrivateKey; ``curve`` is the one named by the enclosing PKCS#8, if any."""
    _expect_version(body, 1)
    scalar = body.octet_string()
    if parameters := body.context(0):
        named = _read_curve(parameters)
        parameters.expect_end()
        if curve not in (None, named):
            raise KeyFormatError("DER: the key names two curves")
        curve = named
    if curve is None:
        raise KeyFormatError("DER: the key names no curve")
    # Some writers omit leading zeros, PuTTYgen adds the one of a signed integer; anything longer
    # than the curve's size is not a scalar.
    if scalar[:1] == b"\0" and scalar[1:2] >= b"\x80":
        scalar = scalar[1:]
    if len(scalar) > curve.coordinate_size:
        raise KeyFormatError(f"DER: a scalar of {len(scalar)} bytes is too long for the curve")
    point = None
    if public := body.context(1):
        point = public.bit_string()
        public.expect_end()
    body.expect_end()
    return ecdsa_pair(curve, int.from_bytes(scalar, "big"), point)


def _read_curve(parameters: der.DerReader) -> EcdsaScheme:
    if parameters.next_tag() != der.OBJECT_IDENTIFIER:
        raise KeyFormatError("DER: only named curves are supported")
    curve = _CURVE_OIDS.get(parameters.object_identifier())
    if curve is None:
        raise KeyFormatError("DER: the curve is none of P-256, P-384, P-521")
    return curve


def _read_pkcs8(body: der.DerReader) -> Key:
    _expect_version(body, 0, 1)
    algorithm = body.sequence()
    content = der.DerReader(body.octet_string())
    body.context(0)  # attributes, which say nothing about the key
    public = body.context(1)
    body.expect_end()
    identifier = algorithm.object_identifier()
    if identifier == _RSA:
        algorithm.optional_null()
        algorithm.expect_end()
        inner = content.sequence()
        content.expect_end()
        return _read_pkcs1_private(inner)
    if identifier == _EC:
        curve = _read_curve(algorithm)
        algorithm.expect_end()
        inner = content.sequence()
        content.expect_end()
        return _read_sec1(inner, curve)
    if identifier == _ED25519:
        algorithm.expect_end()
        seed = content.octet_string()
        content.expect_end()
        return ed25519_pair(seed, _implicit_bits(public) if public else None)
    raise KeyFormatError("DER: the key is none of RSA, ECDSA, Ed25519")


def _implicit_bits(public: der.DerReader) -> bytes:
    """Read ``[1] IMPLICIT BIT STRING`` (RFC 5958)."""
    content = public.rest()
    if content[:1] != b"\0":
        raise KeyFormatError("DER: a bit string is empty or not a whole number of bytes")
    return content[1:]


def _read_public(body: der.DerReader) -> Key:
    """Read SubjectPublicKeyInfo."""
    algorithm = body.sequence()
    content = body.bit_string()
    body.expect_end()
    identifier = algorithm.object_identifier()
    public: object
    if identifier == _RSA:
        algorithm.optional_null()
        outer = der.DerReader(content)
        numbers = outer.sequence()
        outer.expect_end()
        public = RSA.public_from_numbers(numbers.integer(), numbers.integer())
        numbers.expect_end()
    elif identifier == _EC:
        public = _read_curve(algorithm).public_from_point(content)
    elif identifier == _ED25519:
        public = ED25519.public_from_bytes(content)
    else:
        raise KeyFormatError("DER: the key is none of RSA, ECDSA, Ed25519")
    algorithm.expect_end()
    return Key.from_cryptography(public)


def _decrypt_pbes2(body: der.DerReader, passphrase: bytes) -> bytes:
    header = body.sequence()
    data = body.octet_string()
    body.expect_end()
    if header.object_identifier() != _PBES2:
        raise KeyFormatError("DER: an encrypted key must use PBES2")
    parameters = header.sequence()
    header.expect_end()
    derivation = parameters.sequence()
    encryption = parameters.sequence()
    parameters.expect_end()
    cipher = _CIPHERS.get(encryption.object_identifier())
    if cipher is None:
        raise KeyFormatError("DER: an encrypted key must use AES-CBC or Triple-DES-CBC")
    kind, key_size, block_size = cipher
    initial = encryption.octet_string()
    encryption.expect_end()
    if len(initial) != block_size:
        raise KeyFormatError(f"DER: an initialisation vector of {len(initial)} bytes")
    key = _read_pbkdf2(derivation, passphrase, key_size)
    return _unpadded(cbc_decrypt(kind, key, initial, data), block_size)


def _read_pbkdf2(derivation: der.DerReader, passphrase: bytes, key_size: int) -> bytes:
    if derivation.object_identifier() != _PBKDF2:
        raise KeyFormatError("DER: an encrypted key must use PBKDF2")
    parameters = derivation.sequence()
    derivation.expect_end()
    salt = parameters.octet_string()
    iterations = parameters.integer()
    if parameters.next_tag() == der.INTEGER and parameters.integer() != key_size:
        raise KeyFormatError("DER: the key length of PBKDF2 is not that of the cipher")
    digest: str | None = "sha1"
    if parameters.next_tag() is not None:
        function = parameters.sequence()
        digest = _PSEUDORANDOM_FUNCTIONS.get(function.object_identifier())
        function.optional_null()
        function.expect_end()
    parameters.expect_end()
    if digest is None:
        raise KeyFormatError("DER: PBKDF2 must use HMAC with SHA-1 or SHA-2")
    return pbkdf2_key(digest, passphrase, salt, iterations, key_size)


# Writing --------------------------------------------------------------------------------------


def _expect_type(key: Key, prefix: str, name: str) -> None:
    if not key.algorithm.startswith(prefix):
        raise LocalProtocolError(f"the format {name} does not hold keys of type {key.algorithm}")


def _curve_of(key: Key) -> EcdsaScheme:
    return _CURVE_OIDS[_OIDS_OF_CURVES[key.algorithm]]


def _rsa_public(key: Key) -> bytes:
    numbers = key.public().to_cryptography().public_numbers()
    return der.sequence(der.integer(numbers.n), der.integer(numbers.e))


def _rsa_private(key: Key) -> bytes:
    numbers = key.to_cryptography().private_numbers()
    public = numbers.public_numbers
    values = (public.n, public.e, numbers.d, numbers.p, numbers.q)
    chinese_remainder = (numbers.dmp1, numbers.dmq1, numbers.iqmp)
    return der.sequence(*map(der.integer, (0, *values, *chinese_remainder)))


def _ecdsa_private(key: Key, *, with_curve: bool) -> bytes:
    curve = _curve_of(key)
    scalar = key.to_cryptography().private_numbers().private_value
    return der.sequence(
        der.integer(1),
        der.octet_string(scalar.to_bytes(curve.coordinate_size, "big")),
        der.context(0, _OIDS_OF_CURVES[key.algorithm]) if with_curve else b"",
        der.context(1, der.bit_string(curve.point(key.public().to_cryptography()))),
    )


def write_pkcs1_public(key: Key) -> str:
    """Write an RSA public key as ``RSA PUBLIC KEY``.

    :raises LocalProtocolError: the key is not RSA
    """
    _expect_type(key, "ssh-rsa", "pkcs1")
    return pem("RSA PUBLIC KEY", _rsa_public(key))


def write_pkcs1_private(key: Key) -> str:
    """Write an RSA key pair as ``RSA PRIVATE KEY``, unencrypted.

    :raises LocalProtocolError: the key is not RSA
    """
    _expect_type(key, "ssh-rsa", "pkcs1")
    return pem("RSA PRIVATE KEY", _rsa_private(key))


def write_sec1(key: Key) -> str:
    """Write an ECDSA key pair as ``EC PRIVATE KEY``, unencrypted.

    :raises LocalProtocolError: the key is not ECDSA
    """
    _expect_type(key, "ecdsa-", "sec1")
    return pem("EC PRIVATE KEY", _ecdsa_private(key, with_curve=True))


def write_pkcs8_public(key: Key) -> str:
    """Write a public key as ``PUBLIC KEY``."""
    public = key.public().to_cryptography()
    match key.algorithm:
        case "ssh-rsa":
            content = _rsa_public(key)
        case "ssh-ed25519":
            content = public.public_bytes_raw()
        case _:
            content = _curve_of(key).point(public)
    return pem("PUBLIC KEY", der.sequence(_algorithm_identifier(key), der.bit_string(content)))


def _algorithm_identifier(key: Key) -> bytes:
    match key.algorithm:
        case "ssh-rsa":
            return der.sequence(_RSA, der.null())
        case "ssh-ed25519":
            return der.sequence(_ED25519)
        case _:
            return der.sequence(_EC, _OIDS_OF_CURVES[key.algorithm])


def write_pkcs8_private(
    key: Key,
    passphrase: bytes | None,
    random: Callable[[int], bytes],
    iterations: int = DEFAULT_ITERATIONS,
) -> str:
    """Write a key pair as ``PRIVATE KEY``, or with a passphrase as ``ENCRYPTED PRIVATE KEY``.

    :param random: called for 8 bytes of salt, then for a 16-byte initialisation vector
    :param iterations: the iterations of PBKDF2 with HMAC-SHA-256
    """
    match key.algorithm:
        case "ssh-rsa":
            content = _rsa_private(key)
        case "ssh-ed25519":
            content = der.octet_string(key.to_cryptography().private_bytes_raw())
        case _:
            content = _ecdsa_private(key, with_curve=False)
    plain = der.sequence(der.integer(0), _algorithm_identifier(key), der.octet_string(content))
    if passphrase is None:
        return pem("PRIVATE KEY", plain)
    salt = random(8)
    initial = random(16)
    secret = pbkdf2_key("sha256", passphrase, salt, iterations, 32)
    derivation = der.sequence(
        der.octet_string(salt),
        der.integer(iterations),
        der.sequence(_HMAC_SHA256, der.null()),
    )
    encryption = der.sequence(
        _PBES2,
        der.sequence(
            der.sequence(_PBKDF2, derivation),
            der.sequence(_AES256_CBC, der.octet_string(initial)),
        ),
    )
    encrypted = cbc_encrypt(secret, initial, pkcs7_pad(plain, 16))
    return pem("ENCRYPTED PRIVATE KEY", der.sequence(encryption, der.octet_string(encrypted)))
