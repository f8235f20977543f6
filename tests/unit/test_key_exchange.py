"""Key exchange methods: both sides agree, encodings are exact, bad values are rejected."""

from __future__ import annotations

import hashlib
import secrets
import sys
import warnings
from collections.abc import Callable
from importlib.resources import files
from types import ModuleType
from unittest.mock import Mock

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from anyssh.algorithms import finite_field, is_available, key_exchange, key_exchanges
from anyssh.algorithms.agreement import EllipticCurvePair, X25519Pair
from anyssh.algorithms.finite_field import GROUP14, GROUP16, DiffieHellmanPair, Group
from anyssh.constants import DisconnectReason, KeyExchange
from anyssh.errors import RemoteProtocolError
from anyssh.wire import Reader, mpint, string

HASHES = {
    KeyExchange.MLKEM768_X25519_SHA256: "sha256",
    KeyExchange.CURVE25519_SHA256: "sha256",
    KeyExchange.CURVE25519_SHA256_LIBSSH: "sha256",
    KeyExchange.ECDH_NISTP256: "sha256",
    KeyExchange.ECDH_NISTP384: "sha384",
    KeyExchange.ECDH_NISTP521: "sha512",
    KeyExchange.DH_GROUP14_SHA256: "sha256",
    KeyExchange.DH_GROUP16_SHA512: "sha512",
}
NAMES = [name for name in HASHES if is_available(name)]
CURVES = {
    KeyExchange.ECDH_NISTP256: (ec.SECP256R1(), 2**256 - 2**224 + 2**192 + 2**96 - 1),
    KeyExchange.ECDH_NISTP384: (ec.SECP384R1(), 2**384 - 2**128 - 2**96 + 2**32 - 1),
    KeyExchange.ECDH_NISTP521: (ec.SECP521R1(), 2**521 - 1),
}
GROUPS = {
    KeyExchange.DH_GROUP14_SHA256: GROUP14,
    KeyExchange.DH_GROUP16_SHA512: GROUP16,
}
X25519_NAMES = [KeyExchange.CURVE25519_SHA256, KeyExchange.CURVE25519_SHA256_LIBSSH]
HYBRID = KeyExchange.MLKEM768_X25519_SHA256
needs_hybrid = pytest.mark.skipif(
    not is_available(HYBRID), reason="this cryptography package has no ML-KEM"
)


def assert_refused(function: Callable[[bytes], object], value: bytes) -> str:
    """Both roles take a value through one code path; each must refuse it with reason 3."""
    with pytest.raises(RemoteProtocolError) as caught:
        function(value)
    assert caught.value.reason == DisconnectReason.KEY_EXCHANGE_FAILED
    return str(caught.value)


def both_roles(name: str) -> list[Callable[[bytes], object]]:
    algorithm = key_exchange(name)
    return [algorithm.server_reply, algorithm.client_share().finish]


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_agree_and_every_run_differs(name: str) -> None:
    """ALG-01, ALG-02."""
    algorithm = key_exchange(name)
    assert (algorithm.name, algorithm.hash_name) == (name, HASHES[name])
    seen = set()
    for _ in range(2):
        share = algorithm.client_share()
        server_public, server_secret = algorithm.server_reply(share.public)
        assert share.finish(server_public) == server_secret
        seen |= {share.public, server_public, server_secret}
    assert len(seen) == 6


@pytest.mark.parametrize("name", [name for name in NAMES if name != HYBRID])
def test_the_secret_is_a_positive_mpint(name: str) -> None:
    algorithm = key_exchange(name)
    for _ in range(3):
        _, secret = algorithm.server_reply(algorithm.client_share().public)
        reader = Reader(secret)
        assert reader.mpint() > 1
        reader.expect_end()


@pytest.mark.parametrize("name", NAMES)
def test_no_warning_escapes(name: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        algorithm = key_exchange(name)
        algorithm.server_reply(algorithm.client_share().public)
    assert caught == []


@pytest.mark.parametrize("name", ["", "none", "diffie-hellman-group1-sha1", "ext-info-c", "é"])
def test_unknown_names(name: str) -> None:
    assert not is_available(name)
    with pytest.raises(ValueError, match="not available"):
        key_exchange(name)


def test_every_known_name_but_the_hybrid_is_always_available() -> None:
    assert set(HASHES) - {HYBRID} <= set(NAMES)


def test_repr_tells_the_name_only() -> None:
    algorithm = key_exchange(KeyExchange.CURVE25519_SHA256)
    assert repr(algorithm) == "<DiffieHellmanExchange curve25519-sha256>"


class TestX25519:
    def test_known_answer(self) -> None:
        """RFC 7748 section 6.1."""
        alice = X25519Pair(
            X25519PrivateKey.from_private_bytes(
                bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
            )
        )
        assert alice.public == bytes.fromhex(
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
        )
        bob = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
        assert alice.agree(bob) == bytes.fromhex(
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
        )

    @pytest.mark.parametrize("name", X25519_NAMES)
    def test_the_secret_is_big_endian(self, name: str) -> None:
        """RFC 8731 section 3.1: the 32 bytes as they are, read as a number."""
        client = X25519PrivateKey.generate()
        public, secret = key_exchange(name).server_reply(client.public_key().public_bytes_raw())
        raw = client.exchange(X25519PublicKey.from_public_bytes(public))
        assert secret == mpint(int.from_bytes(raw, "big"))

    @pytest.mark.parametrize("name", X25519_NAMES)
    @pytest.mark.parametrize("size", [0, 1, 31, 33, 64, 1216])
    def test_wrong_sizes(self, name: str, size: int) -> None:
        for role in both_roles(name):
            assert f"not {size}" in assert_refused(role, b"\x09" * size)

    @pytest.mark.parametrize("name", X25519_NAMES)
    @pytest.mark.parametrize(
        "point",
        [
            0,
            1,
            2**255 - 19 - 1,
            2**255 - 19,
            2**255 - 19 + 1,
            325606250916557431795983626356110631294008115727848805560023387167927233504,
            39382357235489614581723060781553021112529911719440698176882885853963445705823,
            2**255,  # the highest bit is not looked at
            2**255 + 1,
        ],
    )
    def test_points_of_small_order(self, name: str, point: int) -> None:
        for role in both_roles(name):
            assert "all-zero" in assert_refused(role, point.to_bytes(32, "little"))


class TestEllipticCurves:
    def test_known_answer(self) -> None:
        """RFC 5903 section 8.1."""
        number = "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433"
        peer = (
            "04"
            "D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63"
            "56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB"
        )
        pair = EllipticCurvePair(ec.derive_private_key(int(number, 16), ec.SECP256R1()))
        assert pair.public == bytes.fromhex(
            "04"
            "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180"
            "5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3"
        )
        assert pair.agree(bytes.fromhex(peer)) == bytes.fromhex(
            "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE"
        )

    @pytest.mark.parametrize("name", CURVES)
    def test_the_secret_is_the_x_coordinate(self, name: str) -> None:
        """Against arithmetic of our own, on the formulas of the curve."""
        curve, prime = CURVES[name]
        client = ec.generate_private_key(curve)
        public, secret = key_exchange(name).server_reply(encode_point(client.public_key()))
        point = multiply(client.private_numbers().private_value, decode_point(public), prime)
        assert secret == mpint(point[0])

    @pytest.mark.parametrize("name", CURVES)
    def test_the_public_value_is_an_uncompressed_point(self, name: str) -> None:
        curve, _ = CURVES[name]
        share = key_exchange(name).client_share()
        assert len(share.public) == 1 + 2 * ((curve.key_size + 7) // 8)
        point = ec.EllipticCurvePublicKey.from_encoded_point(curve, share.public)
        assert encode_point(point) == share.public

    @pytest.mark.parametrize("name", CURVES)
    def test_other_forms_of_a_point(self, name: str) -> None:
        """HR-43."""
        curve, _ = CURVES[name]
        key = ec.generate_private_key(curve).public_key()
        good = encode_point(key)
        compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        hybrid_form = bytes([6 + (good[-1] & 1)]) + good[1:]
        long_compressed = compressed + bytes(len(good) - len(compressed))
        for role in both_roles(name):
            for value in (
                b"",
                b"\x00",
                bytes(len(good)),
                compressed,
                long_compressed,
                hybrid_form,
                good[:-1],
                good + b"\x00",
                b"\x00" + good,
                good[1:],
            ):
                assert "begin with 04" in assert_refused(role, value)

    @pytest.mark.parametrize("name", CURVES)
    def test_points_off_the_curve(self, name: str) -> None:
        """HR-43."""
        curve, prime = CURVES[name]
        size = (curve.key_size + 7) // 8
        x, y = decode_point(encode_point(ec.generate_private_key(curve).public_key()))
        largest = 2 ** (8 * size) - 1
        for role in both_roles(name):
            for pair in ((0, 0), (x, y ^ 1), (y, x), (x, 0), (prime, y), (largest, largest)):
                value = b"\x04" + b"".join(number.to_bytes(size, "big") for number in pair)
                assert "not on" in assert_refused(role, value)

    def test_a_point_of_another_curve(self) -> None:
        for ours in CURVES:
            for theirs in CURVES.keys() - {ours}:
                value = key_exchange(theirs).client_share().public
                for role in both_roles(ours):
                    assert_refused(role, value)


class TestDiffieHellman:
    @pytest.mark.parametrize(
        "group, bits, constant",
        [(GROUP14, 2048, 124476), (GROUP16, 4096, 240904)],
        ids=["group14", "group16"],
    )
    def test_the_primes(self, group: Group, bits: int, constant: int) -> None:
        """RFC 3526 defines them by the digits of pi."""
        digits = pi_scaled(bits - 130)
        expected = 2**bits - 2 ** (bits - 64) - 1 + 2**64 * (digits + constant)
        assert group.prime == expected

    @pytest.mark.parametrize("name", GROUPS)
    def test_the_secret_is_a_power(self, name: str) -> None:
        prime = GROUPS[name].prime
        exponent = 0x1234_5678_9ABC_DEF0_1234_5678
        public, secret = key_exchange(name).server_reply(contents(pow(2, exponent, prime)))
        assert secret == mpint(pow(int.from_bytes(public, "big"), exponent, prime))

    @pytest.mark.parametrize("name", GROUPS)
    def test_the_public_value_is_the_contents_of_an_mpint(self, name: str) -> None:
        group = GROUPS[name]
        for exponent in (7, 8, 15, 16):  # 128, 256, …: with and without a leading zero byte
            assert DiffieHellmanPair(group, exponent).public == contents(2**exponent)
        public = key_exchange(name).client_share().public
        assert 2 <= Reader(string(public)).mpint() <= group.prime - 2

    @pytest.mark.parametrize("name", GROUPS)
    def test_values_out_of_range(self, name: str) -> None:
        """ALG-03, HR-43."""
        prime = GROUPS[name].prime
        for role in both_roles(name):
            for value in (1, prime - 1, prime, prime + 1):
                assert "between 2 and p - 2" in assert_refused(role, contents(value))
            for negative in (-1, -2, -prime):
                assert "negative" in assert_refused(role, contents(negative))

    @pytest.mark.parametrize("name", GROUPS)
    def test_encodings(self, name: str) -> None:
        """HR-40: minimal, and not longer than p."""
        prime = GROUPS[name].prime
        longest = prime.bit_length() // 8 + 1
        for role in both_roles(name):
            assert "bytes, not 0" in assert_refused(role, b"")
            assert f"not {longest + 1}" in assert_refused(role, b"\x00" + contents(prime - 2))
            assert f"not {2**20}" in assert_refused(role, b"\x01" * 2**20)
            for value in (b"\x00", b"\x00\x02", b"\x00\x00\x80"):
                assert "superfluous" in assert_refused(role, value)

    @pytest.mark.parametrize("name", GROUPS)
    def test_the_extremes_are_accepted(self, name: str) -> None:
        """ALG-03."""
        prime = GROUPS[name].prime
        for value in (2, prime - 2):
            assert key_exchange(name).server_reply(contents(value))[1]

    @pytest.mark.parametrize("group", [GROUP14, GROUP16], ids=["group14", "group16"])
    def test_a_degenerate_secret(self, group: Group) -> None:
        # No honest exponent does this; one that is a multiple of the group's order does.
        pair = DiffieHellmanPair(group, group.prime - 1)
        assert "degenerate" in assert_refused(pair.agree, contents(3))

    @pytest.mark.parametrize("name", GROUPS)
    def test_the_library_and_python_agree(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The library takes its Diffie-Hellman away one day; nothing else must change then."""
        group = GROUPS[name]
        exponents = [2, 3, *(secrets.randbits(group.exponent_bits) | 1 << 200 for _ in range(4))]
        pairs = [DiffieHellmanPair(group, exponent) for exponent in exponents]
        agreed = [pair.agree(pairs[-1].public) for pair in pairs]
        is_there = (files("cryptography.hazmat.primitives.asymmetric") / "dh.py").is_file()
        assert (finite_field._library() is not None) == is_there
        with monkeypatch.context() as patch:
            patch.setattr(finite_field, "_library", lambda: None)
            assert [DiffieHellmanPair(group, exponent).public for exponent in exponents] == [
                pair.public for pair in pairs
            ]
            assert [pair.agree(pairs[-1].public) for pair in pairs] == agreed
            assert "degenerate" in assert_refused(
                DiffieHellmanPair(group, group.prime - 1).agree, contents(3)
            )

    def test_powers_are_left_to_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The time that Python takes depends on the exponent."""
        if finite_field._library() is None:
            pytest.skip("this library has no Diffie-Hellman")
        monkeypatch.setattr(finite_field, "pow", None, raising=False)
        for group in (GROUP14, GROUP16):
            ours, theirs = DiffieHellmanPair(group), DiffieHellmanPair(group)
            assert ours.agree(theirs.public) == theirs.agree(ours.public)

    def test_a_library_without_diffie_hellman(self, monkeypatch: pytest.MonkeyPatch) -> None:
        emptied = ModuleType("dh")
        package = "cryptography.hazmat.primitives.asymmetric"
        monkeypatch.setattr(f"{package}.dh", emptied, raising=False)
        monkeypatch.setitem(sys.modules, f"{package}.dh", emptied)
        assert finite_field._library.__wrapped__() is None
        monkeypatch.delattr(f"{package}.dh")
        monkeypatch.setitem(sys.modules, f"{package}.dh", None)
        assert finite_field._library.__wrapped__() is None

    def test_exponents_have_their_full_size(self) -> None:
        # A small group shows the exponent by trial.
        group = Group(prime=2**521 - 1, exponent_bits=9)
        publics = {DiffieHellmanPair(group).public for _ in range(64)}
        allowed = {contents(pow(2, exponent, group.prime)) for exponent in range(256, 512)}
        assert len(publics) > 8
        assert publics <= allowed


@needs_hybrid
class TestHybrid:
    def test_sizes(self) -> None:
        algorithm = key_exchange(HYBRID)
        share = algorithm.client_share()
        public, secret = algorithm.server_reply(share.public)
        assert (len(share.public), len(public)) == (1184 + 32, 1088 + 32)
        assert len(secret) == 4 + 32
        assert secret[:4] == bytes([0, 0, 0, 32])

    def test_the_server_against_the_draft(self) -> None:
        """A client that is made of the library's parts: quantum-safe first, classical second."""
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

        quantum, classical = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
        public, secret = key_exchange(HYBRID).server_reply(
            quantum.public_key().public_bytes_raw() + classical.public_key().public_bytes_raw()
        )
        joined = quantum.decapsulate(public[:1088])
        joined += classical.exchange(X25519PublicKey.from_public_bytes(public[1088:]))
        assert secret == string(hashlib.sha256(joined).digest())

    def test_the_client_against_the_draft(self) -> None:
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

        share = key_exchange(HYBRID).client_share()
        quantum, ciphertext = MLKEM768PublicKey.from_public_bytes(share.public[:1184]).encapsulate()
        server = X25519PrivateKey.generate()
        joined = quantum
        joined += server.exchange(X25519PublicKey.from_public_bytes(share.public[1184:]))
        secret = share.finish(ciphertext + server.public_key().public_bytes_raw())
        assert secret == string(hashlib.sha256(joined).digest())

    def test_wrong_sizes(self) -> None:
        server, client = both_roles(HYBRID)
        for role, good in ((server, 1216), (client, 1120)):
            for size in (0, 32, 1088, 1120, 1184, 1216, good - 1, good + 1):
                if size != good:
                    assert f"not {size}" in assert_refused(role, bytes(size))

    def test_an_encapsulation_key_with_coefficients_beyond_the_modulus(self) -> None:
        """FIPS 203 section 7.2."""
        classical = X25519PrivateKey.generate().public_key().public_bytes_raw()
        server, _ = both_roles(HYBRID)
        assert "encapsulation key" in assert_refused(server, b"\xff" * 1184 + classical)

    def test_the_classical_half_of_small_order(self) -> None:
        algorithm = key_exchange(HYBRID)
        share = algorithm.client_share()
        assert "all-zero" in assert_refused(algorithm.server_reply, share.public[:1184] + bytes(32))
        public, _ = algorithm.server_reply(share.public)
        assert "all-zero" in assert_refused(share.finish, public[:1088] + bytes(32))

    def test_a_changed_ciphertext_gives_another_secret(self) -> None:
        algorithm = key_exchange(HYBRID)
        share = algorithm.client_share()
        public, secret = algorithm.server_reply(share.public)
        changed = bytes([public[0] ^ 1]) + public[1:]
        assert share.finish(changed) != secret


@needs_hybrid
def test_a_library_may_know_ml_kem_and_not_be_able_to_do_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from anyssh.algorithms import hybrid

    exchange = hybrid.HybridExchange(KeyExchange.MLKEM768_X25519_SHA256, "sha256")
    assert exchange.is_supported()
    generate = Mock(side_effect=UnsupportedAlgorithm("an older OpenSSL"))
    monkeypatch.setattr(hybrid, "MLKEM768PrivateKey", Mock(generate=generate))
    assert not exchange.is_supported()


def test_without_ml_kem_the_hybrid_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anyssh.algorithms.hybrid", None)  # the import fails
    key_exchanges._hybrid.cache_clear()
    try:
        assert not is_available(HYBRID)
        with pytest.raises(ValueError, match="not available"):
            key_exchange(HYBRID)
        assert is_available(KeyExchange.CURVE25519_SHA256)
    finally:
        key_exchanges._hybrid.cache_clear()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_peer_can_only_cause_our_own_error(name: str, data: st.DataObject) -> None:
    """HR-03: any bytes give a secret or a RemoteProtocolError."""
    algorithm = key_exchange(name)
    good = GOOD_VALUES[name]
    value = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.binary(min_size=len(good), max_size=len(good)),
            st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)).map(
                lambda change: good[: change[0]] + bytes([change[1]]) + good[change[0] + 1 :]
            ),
        )
    )
    try:
        outcome = len(algorithm.server_reply(value)[1]) > 4
    except RemoteProtocolError as error:
        outcome = error.reason == DisconnectReason.KEY_EXCHANGE_FAILED
    assert outcome


GOOD_VALUES = {name: key_exchange(name).client_share().public for name in NAMES}


def contents(value: int) -> bytes:
    """Return what stands in an mpint behind its length."""
    return mpint(value)[4:]


def encode_point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


Point = tuple[int, int]


def decode_point(value: bytes) -> Point:
    size = (len(value) - 1) // 2
    return int.from_bytes(value[1 : 1 + size], "big"), int.from_bytes(value[1 + size :], "big")


def multiply(factor: int, point: Point, prime: int) -> Point:
    """Multiply a point of a curve y^2 = x^3 - 3x + b, as a textbook does it."""
    result: Point | None = None
    while factor:
        if factor & 1:
            result = point if result is None else add(result, point, prime)
        point = add(point, point, prime)
        factor >>= 1
    assert result is not None
    return result


def add(first: Point, second: Point, prime: int) -> Point:
    (x1, y1), (x2, y2) = first, second
    if first == second:
        slope = (3 * x1 * x1 - 3) * pow(2 * y1, -1, prime)
    else:
        slope = (y2 - y1) * pow(x2 - x1, -1, prime)
    x3 = (slope * slope - x1 - x2) % prime
    return x3, (slope * (x1 - x3) - y1) % prime


def pi_scaled(bits: int) -> int:
    """Return the integer part of 2**bits times pi (Machin's formula)."""
    guard = 64
    unit = 1 << (bits + guard)
    return 4 * (4 * inverse_arctangent(5, unit) - inverse_arctangent(239, unit)) >> guard


def inverse_arctangent(value: int, unit: int) -> int:
    power = total = unit // value
    divisor, sign = 3, -1
    while power:
        power //= value * value
        total += sign * (power // divisor)
        divisor, sign = divisor + 2, -sign
    return total
