"""Key derivation from the shared secret: one hash chain per letter (RFC 4253 section 7.2).

The first block is ``HASH(K || H || letter || session_id)``; each further one hashes ``K || H`` and
all blocks so far. ``K`` is passed encoded, as methods differ in how it enters the hash.
"""

from __future__ import annotations

import hashlib

__all__ = ["derive_key"]


def derive_key(
    hash_name: str,
    encoded_secret: bytes,
    exchange_hash: bytes,
    letter: bytes,
    session_id: bytes,
    size: int,
) -> bytes:
    """Derive one key or initial vector (RFC 4253 section 7.2).

    :param hash_name: the hash of the key exchange method, as named by :mod:`hashlib`
    :param encoded_secret: the shared secret with its length, as it entered the exchange hash
    :param exchange_hash: H of this key exchange
    :param letter: ``b"A"`` to ``b"F"``, which selects one of the six keys
    :param session_id: H of the connection's first key exchange
    :param size: the number of bytes to derive; 0 returns ``b""``
    """
    if not size:
        return b""
    hashed = getattr(hashlib, hash_name)
    common = encoded_secret + exchange_hash
    blocks: bytes = hashed(common + letter + session_id).digest()
    while len(blocks) < size:
        blocks += hashed(common + blocks).digest()
    return blocks[:size]
