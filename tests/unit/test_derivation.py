"""Key derivation from a shared secret, and the sizes that each algorithm requires."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyssh.algorithms import (
    derive_key,
    encryption_parameters,
    mac_digest,
    mac_key_size,
    needs_strict_key_exchange,
)
from anyssh.constants import Encryption, Mac
from anyssh.wire import mpint

# From an independent implementation that talked to other programs with these keys.
SECRET = mpint(int("f1" + "23" * 47, 16))
EXCHANGE_HASH = bytes(range(48))
DERIVED = {
    b"A": "42229e13e9b2338382da1436e69e1221",
    b"B": "9de26a61b6f073fb5c20defec2511150",
    b"C": "dbd5834fc297b8122aba31ac7e0c3f18bf0474c3abd0705ad64fdbc6bdc49789",
    b"D": "ce22f8e04df56c3a5951b1a39cf40e1fecd08dbf71b985dc47552a85a871aadb",
    b"E": "4a2bf612e10ea43fb21b2d913b1ec44f34f21f2095e5c92b834aa3fe9afb7cfb"
    "86d16c631a0319c15fee1c11824a8a4fc7ec0fefb2e3c22d7189ebc95a07f4fc",
    b"F": "6c96ee230c8f661907846b4c5f19b1018364d99c373b22b86ecc6a11b60eda3c"
    "1d1d43e54487020e56264cf999f27d4eff9e0c93ae389d8b5d536137c4a91cb0",
}


@pytest.mark.parametrize("letter", DERIVED)
def test_known_answers(letter: bytes) -> None:
    expected = bytes.fromhex(DERIVED[letter])
    derived = derive_key("sha384", SECRET, EXCHANGE_HASH, letter, EXCHANGE_HASH, len(expected))
    assert derived == expected


def test_each_block_hashes_all_blocks_before_it() -> None:
    secret, exchange_hash, session_id = mpint(12345), b"h" * 32, b"s" * 32
    first = hashlib.sha256(secret + exchange_hash + b"C" + session_id).digest()
    second = hashlib.sha256(secret + exchange_hash + first).digest()
    third = hashlib.sha256(secret + exchange_hash + first + second).digest()
    assert derive_key("sha256", secret, exchange_hash, b"C", session_id, 96) == (
        first + second + third
    )


@given(size=st.integers(0, 200), hash_name=st.sampled_from(["sha256", "sha384", "sha512"]))
def test_a_shorter_key_is_the_beginning_of_a_longer_one(size: int, hash_name: str) -> None:
    def derive(length: int) -> bytes:
        return derive_key(hash_name, SECRET, EXCHANGE_HASH, b"A", b"id", length)

    assert derive(size) == derive(300)[:size]


def test_everything_that_enters_changes_the_key() -> None:
    keys = {
        derive_key("sha256", SECRET, EXCHANGE_HASH, b"A", b"id", 32),
        derive_key("sha512", SECRET, EXCHANGE_HASH, b"A", b"id", 32),
        derive_key("sha256", mpint(1), EXCHANGE_HASH, b"A", b"id", 32),
        derive_key("sha256", SECRET, b"other", b"A", b"id", 32),
        derive_key("sha256", SECRET, EXCHANGE_HASH, b"B", b"id", 32),
        derive_key("sha256", SECRET, EXCHANGE_HASH, b"A", b"di", 32),
    }
    assert len(keys) == 6


@pytest.mark.parametrize(
    "name, key_size, block_size, is_aead",
    [
        (Encryption.AES256_GCM, 32, 16, True),
        (Encryption.AES128_GCM, 16, 16, True),
        (Encryption.CHACHA20_POLY1305, 64, 8, True),
        (Encryption.AES256_CTR, 32, 16, False),
        (Encryption.AES192_CTR, 24, 16, False),
        (Encryption.AES128_CTR, 16, 16, False),
        (Encryption.AES256_CBC, 32, 16, False),
        (Encryption.NONE, 0, 8, False),
    ],
)
def test_cipher_sizes(name: str, key_size: int, block_size: int, is_aead: bool) -> None:
    parameters = encryption_parameters(name)
    assert (parameters.key_size, parameters.block_size) == (key_size, block_size)
    assert parameters.is_aead is is_aead
    has_iv = name not in (Encryption.CHACHA20_POLY1305, Encryption.NONE)
    assert parameters.iv_size == (16 if has_iv else 0)


@pytest.mark.parametrize(
    "name, digest, size",
    [
        (Mac.HMAC_SHA2_256, "sha256", 32),
        (Mac.HMAC_SHA2_512, "sha512", 64),
        (Mac.HMAC_SHA2_256_ETM, "sha256", 32),
        (Mac.HMAC_SHA2_512_ETM, "sha512", 64),
    ],
)
def test_mac_sizes(name: str, digest: str, size: int) -> None:
    assert mac_key_size(name) == size
    assert mac_digest(name) == digest


def test_the_mac_none_needs_no_key_and_has_no_hash() -> None:
    assert mac_key_size(Mac.NONE) == 0
    with pytest.raises(ValueError, match="not a MAC"):
        mac_digest(Mac.NONE)


@pytest.mark.parametrize("name", ["", "aes256-gcm", "hmac-md5", "AES256-CTR", "\x00"])
def test_unknown_names(name: str) -> None:
    for function in (encryption_parameters, mac_key_size, mac_digest):
        with pytest.raises(ValueError, match="known are"):
            function(name)


ENCRYPTIONS = [value for key, value in vars(Encryption).items() if key.isupper()]
MACS = [value for key, value in vars(Mac).items() if key.isupper()]


def test_pairs_that_need_strict_key_exchange() -> None:
    """HR-14."""
    found = {(e, m) for e in ENCRYPTIONS for m in MACS if needs_strict_key_exchange(e, m)}
    assert found == {(Encryption.CHACHA20_POLY1305, mac) for mac in MACS} | {
        (Encryption.AES256_CBC, Mac.HMAC_SHA2_256_ETM),
        (Encryption.AES256_CBC, Mac.HMAC_SHA2_512_ETM),
    }


def test_strictness_of_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="not a cipher"):
        needs_strict_key_exchange("3des-cbc", Mac.HMAC_SHA2_256)
    with pytest.raises(ValueError, match="not a MAC"):
        needs_strict_key_exchange(Encryption.AES256_CBC, "hmac-md5")
