"""Key exchange methods by name, and the Diffie-Hellman family of methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from ..constants import KeyExchange
from ..wire import mpint
from .agreement import KeyPair, X25519Pair, curve_pairs
from .finite_field import GROUP14, GROUP16, DiffieHellmanPair
from .methods import ClientShare, KeyExchangeAlgorithm

__all__ = ["is_available", "key_exchange"]


class DiffieHellmanShare(ClientShare):
    """The client's half of a method where both sides send the same kind of public value."""

    __slots__ = ("_pair",)

    def __init__(self, pair: KeyPair) -> None:
        super().__init__(pair.public)
        self._pair = pair

    def finish(self, server_public: bytes) -> bytes:
        """Return the shared secret as an mpint; see :meth:`ClientShare.finish`."""
        return _as_mpint(self._pair.agree(server_public))


class DiffieHellmanExchange(KeyExchangeAlgorithm):
    """Diffie-Hellman in a finite field, on a NIST curve or on Curve25519.

    (RFC 4253 section 8, RFC 5656 section 4, RFC 8731.)
    """

    __slots__ = ("_generate",)

    def __init__(self, name: str, hash_name: str, generate: Callable[[], KeyPair]) -> None:
        super().__init__(name, hash_name)
        self._generate = generate

    def client_share(self) -> ClientShare:
        """Return the client's half, with fresh keys."""
        return DiffieHellmanShare(self._generate())

    def server_reply(self, client_public: bytes) -> tuple[bytes, bytes]:
        """Answer a client; see :meth:`KeyExchangeAlgorithm.server_reply`."""
        pair = self._generate()
        return pair.public, _as_mpint(pair.agree(client_public))


_DIFFIE_HELLMAN: Final[dict[str, KeyExchangeAlgorithm]] = {
    name: DiffieHellmanExchange(name, hash_name, generate)
    for name, hash_name, generate in (
        (KeyExchange.CURVE25519_SHA256, "sha256", X25519Pair),
        (KeyExchange.CURVE25519_SHA256_LIBSSH, "sha256", X25519Pair),
        (KeyExchange.ECDH_NISTP256, "sha256", curve_pairs(ec.SECP256R1())),
        (KeyExchange.ECDH_NISTP384, "sha384", curve_pairs(ec.SECP384R1())),
        (KeyExchange.ECDH_NISTP521, "sha512", curve_pairs(ec.SECP521R1())),
        (KeyExchange.DH_GROUP14_SHA256, "sha256", partial(DiffieHellmanPair, GROUP14)),
        (KeyExchange.DH_GROUP16_SHA512, "sha512", partial(DiffieHellmanPair, GROUP16)),
    )
}


def key_exchange(name: str) -> KeyExchangeAlgorithm:
    """Return a key exchange method.

    :param name: one of :class:`~anyssh.constants.KeyExchange`, except ``none``
    :raises ValueError: the method is unknown, or the installed cryptography package does not
        support it
    """
    algorithm = _DIFFIE_HELLMAN.get(name)
    if algorithm is None and name == KeyExchange.MLKEM768_X25519_SHA256:
        algorithm = _hybrid()
    if algorithm is None:
        raise ValueError(f"the key exchange {name!r} is not available here")
    return algorithm


def is_available(name: str) -> bool:
    """Tell whether :func:`key_exchange` supports a method with what is installed."""
    if name == KeyExchange.MLKEM768_X25519_SHA256:
        return _hybrid() is not None
    return name in _DIFFIE_HELLMAN


@cache
def _hybrid() -> KeyExchangeAlgorithm | None:
    # Versions of cryptography before 47, and builds with older OpenSSL, have no ML-KEM.
    try:
        from .hybrid import HybridExchange
    except ImportError:
        return None
    algorithm = HybridExchange(KeyExchange.MLKEM768_X25519_SHA256, "sha256")
    return algorithm if algorithm.is_supported() else None


def _as_mpint(secret: bytes) -> bytes:
    return mpint(int.from_bytes(secret, "big"))
