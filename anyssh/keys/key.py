"""A key: a public key or a key pair, immutable, and identified by its public blob.

``Key`` holds the blob, the comment, and key objects of the cryptography package. What differs
between RSA, ECDSA and Ed25519 is in ``anyssh.keys._schemes``. Signatures are the wire blobs of RFC
4253 section 6.6: ``string algorithm || string signature``.

The private part leaves a ``Key`` only through :meth:`Key.to_cryptography`: ``repr``, ``pickle`` and
log messages cannot leak it.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeAlias

from ..constants import HostKeyAlgorithm
from ..errors import KeyFormatError, LocalProtocolError, WireError
from ..wire import Reader, displayable, string

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from ._schemes import Scheme

__all__ = ["SIGNATURE_ALGORITHMS", "CryptographyKey", "Key", "generate_key", "key_type_for"]

CryptographyKey: TypeAlias = "RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey"
"""A private key of the cryptography package."""

SIGNATURE_ALGORITHMS: Final = (
    HostKeyAlgorithm.ED25519,
    HostKeyAlgorithm.RSA_SHA2_512,
    HostKeyAlgorithm.RSA_SHA2_256,
    HostKeyAlgorithm.ECDSA_NISTP384,
    HostKeyAlgorithm.ECDSA_NISTP256,
    HostKeyAlgorithm.ECDSA_NISTP521,
)
"""Every algorithm that :meth:`Key.sign` and :meth:`Key.verify` support."""

MAX_PUBLIC_BLOB_BYTES: Final = 4096

_RSA_SIGNATURE_ALGORITHMS: Final = (HostKeyAlgorithm.RSA_SHA2_512, HostKeyAlgorithm.RSA_SHA2_256)
_DEFAULT_RSA_BITS: Final = {
    "ssh-rsa": 3072,
    HostKeyAlgorithm.RSA_SHA2_256: 2048,
    HostKeyAlgorithm.RSA_SHA2_512: 4096,
}
_RSA_EXPONENT: Final = 65537


def key_type_for(signature_algorithm: str) -> str:
    """Return the key type of a signature algorithm; ``"ssh-rsa"`` for all those of RSA.

    :param signature_algorithm: one of :data:`SIGNATURE_ALGORITHMS`
    :raises ValueError: it is not one of them, such as ``"ssh-rsa"``, which means SHA-1 (RFC 8332)
    """
    if signature_algorithm not in SIGNATURE_ALGORITHMS:
        raise ValueError(f"not a signature algorithm: {displayable(signature_algorithm)!r}")
    return "ssh-rsa" if signature_algorithm in _RSA_SIGNATURE_ALGORITHMS else signature_algorithm


class Key:
    """A public key or a key pair. Immutable; equal to every key with the same public blob.

    Created by :func:`generate_key`, :func:`import_key`, :meth:`from_public_blob` and
    :meth:`from_cryptography`, never by its constructor.
    """

    __slots__ = ("_comment", "_hash", "_private", "_public", "_public_blob", "_scheme")

    _comment: str
    _hash: int
    _private: Any
    _public: Any
    _public_blob: bytes
    _scheme: Scheme

    def __init__(self) -> None:
        raise TypeError("create keys with generate_key, import_key or Key.from_public_blob")

    @classmethod
    def _build(cls, scheme: Scheme, public: Any, private: Any, blob: bytes, comment: str) -> Self:
        key = cls.__new__(cls)
        key._scheme = scheme
        key._public = public
        key._private = private
        key._public_blob = blob
        key._comment = comment
        key._hash = hash(blob)
        return key

    @classmethod
    def from_public_blob(cls, blob: bytes) -> Self:
        """Parse a public key blob (RFC 4253 section 6.6).

        The key types ``rsa-sha2-256`` and ``rsa-sha2-512`` are read as ``ssh-rsa``.

        :param blob: the contents of the wire string
        :raises KeyFormatError: the key type is unknown, the encoding is not canonical, or the key
            is unsafe
        """
        if len(blob) > MAX_PUBLIC_BLOB_BYTES:
            raise KeyFormatError(
                f"a public key of {len(blob)} bytes; at most {MAX_PUBLIC_BLOB_BYTES} are accepted"
            )
        scheme, public, canonical = _read_public_blob(bytes(blob))
        return cls._build(scheme, public, None, canonical, "")

    @classmethod
    def from_cryptography(cls, key: object, comment: str = "") -> Self:
        """Wrap a public or private key of the cryptography package.

        :param key: an RSA, NIST curve or Ed25519 key; its class may be another package's, such as a
            hardware module's, as long as it derives from that of cryptography
        :param comment: for people, for example whose key it is
        :raises KeyFormatError: it is another kind of key, or RSA outside of 2048 to 16384 bits
        """
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

        from ._schemes import scheme_of

        private: Any = None
        public: object = key
        if isinstance(
            key, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
        ):
            private = key
            public = key.public_key()
        scheme = scheme_of(public)
        blob = scheme.public_blob(public)
        # Parsing the blob applies the same bounds as for a key from a peer.
        parsed = cls.from_public_blob(blob)
        return cls._build(scheme, parsed._public, private, blob, comment)

    def to_cryptography(self) -> Any:
        """Return the cryptography package's private key, or the public key if there is none."""
        return self._public if self._private is None else self._private

    @property
    def algorithm(self) -> str:
        """The key type, for example ``"ssh-ed25519"``; ``"ssh-rsa"`` for every RSA key."""
        return self._scheme.algorithm

    @property
    def public_blob(self) -> bytes:
        """The public key blob, as sent in SSH messages."""
        return self._public_blob

    @property
    def comment(self) -> str:
        """The comment stored in key files; not part of the key."""
        return self._comment

    @property
    def has_private(self) -> bool:
        """Whether the key can sign."""
        return self._private is not None

    @property
    def fingerprint(self) -> str:
        """``SHA256:`` and the unpadded base64 digest of the public blob."""
        return _fingerprint(self._public_blob)

    @property
    def bits(self) -> int:
        """The nominal size in bits: that of the RSA modulus, or of the curve."""
        return self._scheme.bits(self._public)

    @property
    def signature_algorithms(self) -> tuple[str, ...]:
        """The signature algorithms of the key, in order of preference."""
        return self._scheme.signature_algorithms

    def public(self) -> Key:
        """Return the key without its private part."""
        if self._private is None:
            return self
        return self._build(self._scheme, self._public, None, self._public_blob, self._comment)

    def with_comment(self, comment: str) -> Key:
        """Return the same key with another comment.

        :param comment: for people, for example whose key it is
        """
        return self._build(self._scheme, self._public, self._private, self._public_blob, comment)

    def sign(self, data: bytes, algorithm: str | None = None) -> bytes:
        """Sign data; return the signature blob (RFC 4253 section 6.6).

        :param data: the bytes to sign
        :param algorithm: one of :attr:`signature_algorithms`; by default the first
        :raises LocalProtocolError: the key has no private part, or does not support the algorithm
        :raises SSHError: the new RSA signature failed its verification, and was discarded
        """
        if self._private is None:
            raise LocalProtocolError(f"{self!r} has no private part to sign with")
        scheme = self._scheme
        if algorithm is None:
            algorithm = scheme.signature_algorithms[0]
        elif algorithm not in scheme.signature_algorithms:
            raise LocalProtocolError(
                f"a key of type {scheme.algorithm} signs with "
                f"{' or '.join(scheme.signature_algorithms)}, not {displayable(algorithm)!r}"
            )
        signature = scheme.sign(self._private, self._public, data, algorithm)
        return string(algorithm) + string(signature)

    def verify(self, data: bytes, signature: bytes, algorithm: str) -> bool:
        """Tell whether a signature blob is valid. Never raises for an invalid one.

        :param data: the bytes that were signed
        :param signature: the signature blob (RFC 4253 section 6.6)
        :param algorithm: the negotiated or requested algorithm; the blob must name the same
        """
        scheme = self._scheme
        if algorithm not in scheme.signature_algorithms:
            return False
        try:
            reader = Reader(signature)
            if reader.string() != algorithm.encode():
                return False
            inner = reader.string()
            reader.expect_end()
            return scheme.verify(self._public, data, inner, algorithm)
        except WireError:
            return False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Key):
            return NotImplemented
        return self._public_blob == other._public_blob

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        kind = "key pair" if self.has_private else "public key"
        comment = f" {displayable(self._comment)!r}" if self._comment else ""
        return f"<{kind} {self.algorithm} {self.fingerprint}{comment}>"

    def __copy__(self) -> Key:
        return self

    def __deepcopy__(self, memo: object) -> Key:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("keys cannot be pickled; export them in a key format")


# Few keys recur all the time: those of the hosts and users of one network.
@lru_cache(maxsize=128)
def _fingerprint(blob: bytes) -> str:
    digest = hashlib.sha256(blob).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


@lru_cache(maxsize=128)
def _read_public_blob(blob: bytes) -> tuple[Scheme, Any, bytes]:
    """Return a blob's scheme, its public key, and the blob with the canonical key type."""
    from ._schemes import scheme_for

    try:
        reader = Reader(blob)
        name = reader.text()
        scheme = scheme_for(name)
        if scheme is None:
            raise KeyFormatError(f"unknown key type: {displayable(name)!r}")
        public = scheme.read_public(reader)
        reader.expect_end()
    except WireError as error:
        raise KeyFormatError(f"not a public key: {error}") from None
    canonical = blob if name == scheme.algorithm else scheme.public_blob(public)
    return scheme, public, canonical


def generate_key(algorithm: str, *, bits: int | None = None, comment: str = "") -> Key:
    """Generate a key pair. RSA takes seconds: see :mod:`anyssh.to_thread`.

    :param algorithm: ``"ssh-ed25519"``, ``"ecdsa-sha2-nistp256"`` (or 384, 521), ``"ssh-rsa"``,
        ``"rsa-sha2-256"`` or ``"rsa-sha2-512"``
    :param bits: the size of the RSA modulus, 2048 to 16384; by default 3072 for ``"ssh-rsa"``, 2048
        for ``"rsa-sha2-256"``, 4096 for ``"rsa-sha2-512"``
    :param comment: for people, for example whose key it is
    :raises ValueError: the algorithm is unknown, or has no keys of that size
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    from ._schemes import ALGORITHMS, MAX_RSA_BITS, MIN_RSA_BITS, EcdsaScheme, scheme_for

    scheme = scheme_for(algorithm)
    private: object
    if scheme is None:
        raise ValueError(f"unknown key algorithm: {algorithm!r}; known are {', '.join(ALGORITHMS)}")
    if algorithm in _DEFAULT_RSA_BITS:
        size = _DEFAULT_RSA_BITS[algorithm] if bits is None else bits
        if not MIN_RSA_BITS <= size <= MAX_RSA_BITS:
            raise ValueError(f"RSA keys have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, not {size}")
        private = rsa.generate_private_key(_RSA_EXPONENT, size)
    elif isinstance(scheme, EcdsaScheme):
        _check_fixed_size(algorithm, scheme.curve.key_size, bits)
        private = ec.generate_private_key(scheme.curve)
    else:
        _check_fixed_size(algorithm, 256, bits)
        private = ed25519.Ed25519PrivateKey.generate()
    return Key.from_cryptography(private, comment)


def _check_fixed_size(algorithm: str, size: int, bits: int | None) -> None:
    if bits is not None and bits != size:
        raise ValueError(f"a key of type {algorithm} has {size} bits, not {bits}")
