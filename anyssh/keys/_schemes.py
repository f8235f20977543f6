"""The three kinds of keys: how they encode their wire blobs, sign and verify.

A :class:`Scheme` is the stateless behaviour of one key type; a :class:`~anyssh.keys.Key` combines
it with objects of the cryptography package, which does all the mathematics. The formats of blobs
are RFC 4253 section 6.6 (RSA), RFC 5656 section 3.1 (ECDSA) and RFC 8709 section 4 (Ed25519).

This module, and not :mod:`anyssh.keys.key`, imports cryptography, along with the first key.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..constants import HostKeyAlgorithm
from ..errors import KeyFormatError, SSHError
from ..wire import Reader, mpint, string

__all__ = [
    "CURVES",
    "ED25519",
    "MAX_RSA_BITS",
    "MIN_RSA_BITS",
    "RSA",
    "EcdsaScheme",
    "Ed25519Scheme",
    "RsaScheme",
    "Scheme",
    "curve_scheme",
    "scheme_for",
    "scheme_of",
]

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 16384
MAX_RSA_EXPONENT: Final = 1 << 24

_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_P384_ORDER: Final = int(
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
    "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
    16,
)
_P521_ORDER: Final = int(
    "01FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
    "FA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409",
    16,
)


class Scheme(Protocol):
    """A key type. ``public`` and ``private`` are objects of the cryptography package."""

    algorithm: str
    signature_algorithms: tuple[str, ...]

    def read_public(self, reader: Reader) -> Any:
        """Read what follows the key type in a public blob; raise unless it is a valid key."""

    def public_blob(self, public: Any) -> bytes:
        """Encode the public blob, including the key type."""

    def bits(self, public: Any) -> int:
        """Return the nominal size in bits."""

    def sign(self, private: Any, public: Any, data: bytes, algorithm: str) -> bytes:
        """Return the inner signature, without the algorithm name."""

    def verify(self, public: Any, data: bytes, signature: bytes, algorithm: str) -> bool:
        """Tell whether an inner signature is valid."""


class RsaScheme:
    """RSA with PKCS#1 v1.5 and SHA-2 (RFC 8332); never with SHA-1."""

    algorithm = "ssh-rsa"
    signature_algorithms: tuple[str, ...] = (
        HostKeyAlgorithm.RSA_SHA2_512,
        HostKeyAlgorithm.RSA_SHA2_256,
    )
    _padding = padding.PKCS1v15()
    _hashes: ClassVar[dict[str, hashes.HashAlgorithm]] = {
        HostKeyAlgorithm.RSA_SHA2_512: hashes.SHA512(),
        HostKeyAlgorithm.RSA_SHA2_256: hashes.SHA256(),
    }

    def read_public(self, reader: Reader) -> rsa.RSAPublicKey:
        exponent = reader.mpint()
        modulus = reader.mpint()
        return self.public_from_numbers(modulus, exponent)

    def public_from_numbers(self, modulus: int, exponent: int) -> rsa.RSAPublicKey:
        """Build a public key from its two numbers.

        :raises KeyFormatError: they exceed the bounds that keep verification cheap and safe
        """
        bits = modulus.bit_length()
        if modulus < 0 or not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
            raise KeyFormatError(
                f"an RSA modulus must have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, not {bits}"
            )
        if modulus % 2 == 0:
            raise KeyFormatError("an RSA modulus must be odd")
        if not 3 <= exponent <= MAX_RSA_EXPONENT or exponent % 2 == 0:
            raise KeyFormatError("an RSA public exponent must be odd, between 3 and 2**24")
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()

    def public_blob(self, public: rsa.RSAPublicKey) -> bytes:
        numbers = public.public_numbers()
        return string(self.algorithm) + mpint(numbers.e) + mpint(numbers.n)

    def bits(self, public: rsa.RSAPublicKey) -> int:
        return public.key_size

    def sign(
        self, private: rsa.RSAPrivateKey, public: rsa.RSAPublicKey, data: bytes, algorithm: str
    ) -> bytes:
        signature = private.sign(data, self._padding, self._hashes[algorithm])
        # A fault in one half of the CRT computation would reveal the private key.
        if not self.verify(public, data, signature, algorithm):
            raise SSHError("the RSA signature just made does not verify; it was discarded")
        return signature

    def verify(
        self, public: rsa.RSAPublicKey, data: bytes, signature: bytes, algorithm: str
    ) -> bool:
        size = (public.key_size + 7) // 8
        if len(signature) > size:
            return False
        # RFC 8332 section 3: signers may omit leading zero bytes.
        signature = signature.rjust(size, b"\0")
        try:
            public.verify(signature, data, self._padding, self._hashes[algorithm])
        except InvalidSignature:
            return False
        return True


class EcdsaScheme:
    """ECDSA on a NIST curve (RFC 5656)."""

    def __init__(
        self, curve_name: str, curve: ec.EllipticCurve, order: int, digest: hashes.HashAlgorithm
    ) -> None:
        self.algorithm: str = f"ecdsa-sha2-{curve_name}"
        self.signature_algorithms: tuple[str, ...] = (self.algorithm,)
        self.curve_name = curve_name
        self.curve = curve
        self.order = order
        self.coordinate_size: int = (curve.key_size + 7) // 8
        self._ecdsa = ec.ECDSA(digest)

    def read_public(self, reader: Reader) -> ec.EllipticCurvePublicKey:
        curve_name = reader.string()
        if curve_name != self.curve_name.encode():
            raise KeyFormatError(f"a key of type {self.algorithm} names another curve")
        return self.public_from_point(reader.string())

    def public_from_point(self, point: bytes) -> ec.EllipticCurvePublicKey:
        """Build a public key from an uncompressed point.

        :raises KeyFormatError: it is not an uncompressed point, or not on the curve
        """
        if len(point) != 1 + 2 * self.coordinate_size or point[0] != 4:
            raise KeyFormatError(
                f"a point on {self.curve_name} must be uncompressed, "
                f"{1 + 2 * self.coordinate_size} bytes; this one has {len(point)}"
            )
        try:
            return ec.EllipticCurvePublicKey.from_encoded_point(self.curve, point)
        except ValueError:
            raise KeyFormatError(f"the point is not on {self.curve_name}") from None

    def point(self, public: ec.EllipticCurvePublicKey) -> bytes:
        """Return the uncompressed point."""
        return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def public_blob(self, public: ec.EllipticCurvePublicKey) -> bytes:
        return string(self.algorithm) + string(self.curve_name) + string(self.point(public))

    def bits(self, public: ec.EllipticCurvePublicKey) -> int:
        return self.curve.key_size

    def sign(
        self,
        private: ec.EllipticCurvePrivateKey,
        public: ec.EllipticCurvePublicKey,
        data: bytes,
        algorithm: str,
    ) -> bytes:
        r, s = utils.decode_dss_signature(private.sign(data, self._ecdsa))
        return mpint(r) + mpint(s)

    def verify(
        self, public: ec.EllipticCurvePublicKey, data: bytes, signature: bytes, algorithm: str
    ) -> bool:
        reader = Reader(signature)
        r = reader.mpint()
        s = reader.mpint()
        reader.expect_end()
        if not (0 < r < self.order and 0 < s < self.order):
            return False
        try:
            public.verify(utils.encode_dss_signature(r, s), data, self._ecdsa)
        except InvalidSignature:
            return False
        return True


class Ed25519Scheme:
    """Ed25519 (RFC 8709)."""

    algorithm = HostKeyAlgorithm.ED25519
    signature_algorithms: tuple[str, ...] = (HostKeyAlgorithm.ED25519,)

    def read_public(self, reader: Reader) -> ed25519.Ed25519PublicKey:
        return self.public_from_bytes(reader.string())

    def public_from_bytes(self, data: bytes) -> ed25519.Ed25519PublicKey:
        """Build a public key from its 32 bytes.

        :raises KeyFormatError: there are not 32 bytes
        """
        if len(data) != 32:
            raise KeyFormatError(f"an Ed25519 public key must have 32 bytes, not {len(data)}")
        return ed25519.Ed25519PublicKey.from_public_bytes(data)

    def public_blob(self, public: ed25519.Ed25519PublicKey) -> bytes:
        return string(self.algorithm) + string(public.public_bytes_raw())

    def bits(self, public: ed25519.Ed25519PublicKey) -> int:
        return 256

    def sign(
        self,
        private: ed25519.Ed25519PrivateKey,
        public: ed25519.Ed25519PublicKey,
        data: bytes,
        algorithm: str,
    ) -> bytes:
        return private.sign(data)

    def verify(
        self, public: ed25519.Ed25519PublicKey, data: bytes, signature: bytes, algorithm: str
    ) -> bool:
        if len(signature) != 64:
            return False
        try:
            public.verify(signature, data)
        except InvalidSignature:
            return False
        return True


RSA: Final = RsaScheme()
ED25519: Final = Ed25519Scheme()
CURVES: Final = (
    EcdsaScheme("nistp256", ec.SECP256R1(), _P256_ORDER, hashes.SHA256()),
    EcdsaScheme("nistp384", ec.SECP384R1(), _P384_ORDER, hashes.SHA384()),
    EcdsaScheme("nistp521", ec.SECP521R1(), _P521_ORDER, hashes.SHA512()),
)
# Older Dev Tunnels peers use the signature algorithm as the key type in blobs.
_BY_BLOB_NAME: Final[dict[str, Scheme]] = {
    "ssh-rsa": RSA,
    HostKeyAlgorithm.RSA_SHA2_512: RSA,
    HostKeyAlgorithm.RSA_SHA2_256: RSA,
    HostKeyAlgorithm.ED25519: ED25519,
    **{scheme.algorithm: scheme for scheme in CURVES},
}
ALGORITHMS: Final = tuple(_BY_BLOB_NAME)
"""What keys can be generated for."""

_BY_CURVE: Final = {scheme.curve.name: scheme for scheme in CURVES}


def scheme_for(name: str) -> Scheme | None:
    """Return the scheme for a key type as named in blobs, or None."""
    return _BY_BLOB_NAME.get(name)


def curve_scheme(curve: ec.EllipticCurve) -> EcdsaScheme:
    """Return the scheme of a curve.

    :raises KeyFormatError: SSH has no key type for it
    """
    scheme = _BY_CURVE.get(curve.name)
    if scheme is None:
        raise KeyFormatError(f"no key type for the curve {curve.name}")
    return scheme


def scheme_of(public: object) -> Scheme:
    """Return the scheme of an object of the cryptography package.

    :raises KeyFormatError: it is of a kind that SSH does not use
    """
    if isinstance(public, ed25519.Ed25519PublicKey):
        return ED25519
    if isinstance(public, rsa.RSAPublicKey):
        return RSA
    if isinstance(public, ec.EllipticCurvePublicKey):
        return curve_scheme(public.curve)
    raise KeyFormatError(f"not a public key that SSH uses: {type(public).__name__}")
