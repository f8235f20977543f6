"""Diffie-Hellman in groups 14 and 16 of RFC 3526.

The cryptography package does the exponentiation, ten times as fast as Python, and in a time that
does not depend on the exponent. It has deprecated finite-field Diffie-Hellman. Once that is gone,
or where it refuses, :func:`pow` is used, whose time does depend on the exponent; therefore each
exponent is used for one exchange only. The checks, and the size of exponents, are up to this
module.

:func:`pow` does not release the interpreter lock, so a worker thread would not help. A server's
part then takes about 6 ms in group 14 and 33 ms in group 16, which is one reason why both are
opt-in.
"""

from __future__ import annotations

import secrets
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from cryptography.exceptions import InternalError, UnsupportedAlgorithm

from ..wire import Buffer
from .agreement import peer_value_error

__all__ = ["GROUP14", "GROUP16", "DiffieHellmanPair", "Group"]


_GENERATOR: Final = 2


@dataclass(frozen=True, slots=True)
class Group:
    """The integers modulo a safe prime, with the generator 2.

    :ivar prime: the modulus
    :ivar exponent_bits: the size of private exponents (the larger estimate of RFC 3526 section 8)
    """

    prime: int
    exponent_bits: int


GROUP14: Final = Group(
    int(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74"
        "020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437"
        "4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
        "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05"
        "98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB"
        "9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"
        "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718"
        "3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
        16,
    ),
    320,
)
GROUP16: Final = Group(
    int(
        "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74"
        "020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437"
        "4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
        "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05"
        "98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB"
        "9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"
        "E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718"
        "3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33"
        "A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7"
        "ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864"
        "D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2"
        "08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D7"
        "88719A10BDBA5B2699C327186AF4E23C1A946834B6150BDA2583E9CA2AD44CE8"
        "DBBBC2DB04DE8EF92E8EFC141FBECAA6287C59474E6BC05D99B2964FA090C3A2"
        "233BA186515BE7ED1F612970CEE2D7AFB81BDD762170481CD0069127D5B05AA9"
        "93B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199FFFFFFFFFFFFFFFF",
        16,
    ),
    480,
)


class DiffieHellmanPair:
    """A private exponent and its public value (RFC 4253 section 8)."""

    __slots__ = ("_exponent", "_group", "public")

    def __init__(self, group: Group, exponent: int | None = None) -> None:
        """Create a key pair.

        :param group: the group that both sides use
        :param exponent: the private exponent; random unless given
        """
        if exponent is None:
            bits = group.exponent_bits
            exponent = secrets.randbits(bits) | 1 << (bits - 1)
        self._group = group
        self._exponent = exponent
        self.public: bytes = _mpint_contents(_power(group, _GENERATOR, exponent))

    def agree(self, peer_public: Buffer) -> bytes:
        """Return the shared secret, big-endian.

        :param peer_public: the contents of the peer's mpint
        :raises RemoteProtocolError: it is not a minimal mpint from 2 to p - 2, or the secret is 0
            or 1 (RFC 4253 section 8, RFC 8268 section 4)
        """
        prime = self._group.prime
        value = _parse_mpint_contents(peer_public, prime)
        if not 2 <= value <= prime - 2:
            raise peer_value_error("a Diffie-Hellman value must lie between 2 and p - 2")
        secret = _power(self._group, value, self._exponent)
        if secret <= 1:
            raise peer_value_error("a Diffie-Hellman exchange gave a degenerate secret")
        return _mpint_contents(secret)


def _power(group: Group, base: int, exponent: int) -> int:
    """Return ``base ** exponent``, as the shared secret for the public value ``base``."""
    library = _library()
    # Exponents of the group's size give no degenerate secret, which the library cannot handle.
    if library is not None and exponent.bit_length() <= group.exponent_bits:
        parameters = library.DHParameterNumbers(group.prime, _GENERATOR)
        peer = library.DHPublicNumbers(base, parameters)
        try:
            # The pair's own public value is irrelevant here.
            private = library.DHPrivateNumbers(exponent, peer).private_key()
            return int.from_bytes(private.exchange(peer.public_key()), "big")
        except (ValueError, UnsupportedAlgorithm, InternalError):
            pass  # the numbers are fine, but the library does not support them
    return pow(base, exponent, group.prime)


@dataclass(frozen=True, slots=True)
class _Library:
    """What we need from the cryptography package."""

    DHParameterNumbers: Any
    DHPrivateNumbers: Any
    DHPublicNumbers: Any


@cache
def _library() -> _Library | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # accessing deprecated names warns
        try:
            from cryptography.hazmat.primitives.asymmetric import dh

            return _Library(dh.DHParameterNumbers, dh.DHPrivateNumbers, dh.DHPublicNumbers)
        except (ImportError, AttributeError):
            return None


def _mpint_contents(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big")


def _parse_mpint_contents(data: Buffer, prime: int) -> int:
    longest = prime.bit_length() // 8 + 1
    if not 1 <= len(data) <= longest:
        raise peer_value_error(
            f"a Diffie-Hellman value must have 1 to {longest} bytes, not {len(data)}"
        )
    if data[0] >= 0x80:
        raise peer_value_error("a Diffie-Hellman value must not be negative")
    if data[0] == 0 and (len(data) == 1 or data[1] < 0x80):
        raise peer_value_error("a Diffie-Hellman value has superfluous leading bytes")
    return int.from_bytes(data, "big")
