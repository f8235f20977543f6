"""Elliptic curve key pairs, and the interface of all key pairs: agreeing on a secret with a peer.

All arithmetic is done by the cryptography package. This module validates encodings first, and
reports invalid values from a peer as our own error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..constants import DisconnectReason
from ..errors import RemoteProtocolError
from ..wire import Buffer

__all__ = [
    "X25519_SIZE",
    "EllipticCurvePair",
    "KeyPair",
    "X25519Pair",
    "curve_pairs",
    "peer_value_error",
]

X25519_SIZE: Final = 32
_UNCOMPRESSED: Final = 0x04
_ECDH: Final = ec.ECDH()


class KeyPair(Protocol):
    """An ephemeral private key for a single exchange."""

    @property
    def public(self) -> bytes:
        """The public value, as the contents of a wire string."""
        ...

    def agree(self, peer_public: Buffer) -> bytes:
        """Return the shared secret, big-endian.

        :param peer_public: the peer's public value, as the contents of a wire string
        :raises RemoteProtocolError: the value is not acceptable
        """
        ...


class X25519Pair:
    """A key pair on Curve25519 (RFC 7748, RFC 8731)."""

    __slots__ = ("_private", "public")

    def __init__(self, private: X25519PrivateKey | None = None) -> None:
        """Create a key pair.

        :param private: random unless given
        """
        self._private = X25519PrivateKey.generate() if private is None else private
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def agree(self, peer_public: Buffer) -> bytes:
        """Return the 32 bytes of the shared secret.

        :param peer_public: the peer's 32 bytes
        :raises RemoteProtocolError: there are not 32 bytes, or the secret is all zeros, as for
            points of small order (RFC 8731 section 3)
        """
        if len(peer_public) != X25519_SIZE:
            raise peer_value_error(
                f"an X25519 value must have {X25519_SIZE} bytes, not {len(peer_public)}"
            )
        try:
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(bytes(peer_public)))
        except ValueError:  # the library itself rejects the all-zero secret
            secret = bytes(X25519_SIZE)
        if not any(secret):
            raise peer_value_error("an X25519 exchange gave the all-zero secret")
        return secret


class EllipticCurvePair:
    """A key pair on a NIST curve (RFC 5656 section 4)."""

    __slots__ = ("_private", "public")

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes(
            Encoding.X962, PublicFormat.UncompressedPoint
        )

    def agree(self, peer_public: Buffer) -> bytes:
        """Return the x coordinate of the shared point.

        :param peer_public: the peer's point: 0x04 and both coordinates
        :raises RemoteProtocolError: it has another format or size, or is not on the curve
        """
        curve = self._private.curve
        size = 1 + 2 * ((curve.key_size + 7) // 8)
        if len(peer_public) != size or peer_public[0] != _UNCOMPRESSED:
            seen = bytes(peer_public[:1]).hex() or "nothing"
            raise peer_value_error(
                f"a point of {curve.name} must have {size} bytes and begin with 04; "
                f"got {len(peer_public)}, beginning with {seen}"
            )
        try:
            point = ec.EllipticCurvePublicKey.from_encoded_point(curve, bytes(peer_public))
            return self._private.exchange(_ECDH, point)
        except ValueError:
            raise peer_value_error(f"a point is not on {curve.name}") from None


def curve_pairs(curve: ec.EllipticCurve) -> Callable[[], EllipticCurvePair]:
    """Return a function that creates key pairs on ``curve``."""
    return lambda: EllipticCurvePair(ec.generate_private_key(curve))


def peer_value_error(message: str) -> RemoteProtocolError:
    """Return the error for an unacceptable public value of the peer."""
    return RemoteProtocolError(message, reason=DisconnectReason.KEY_EXCHANGE_FAILED)
