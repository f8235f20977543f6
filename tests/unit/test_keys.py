"""The key itself: blobs, signatures, bounds. Labels are those of the hardening requirements."""

from __future__ import annotations

import copy
import hashlib
import itertools
import os
import pickle
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyssh.errors import KeyFormatError, LocalProtocolError, SSHError
from anyssh.keys import SIGNATURE_ALGORITHMS, Key, generate_key, key_type_for
from anyssh.wire import Reader, mpint, string, uint32

# SEC 2, section 2: what is missing to the power of two below which the orders lie.
ORDERS = {
    "nistp256": (1 << 256) - (1 << 224) + (1 << 192) - 0x4319055258E8617B0C46353D039CDAAF,
    "nistp384": (1 << 384) - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D,
    "nistp521": (1 << 521) - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
}
KEYS = {
    "ssh-ed25519": generate_key("ssh-ed25519", comment="ed"),
    "ecdsa-sha2-nistp256": generate_key("ecdsa-sha2-nistp256"),
    "ecdsa-sha2-nistp384": generate_key("ecdsa-sha2-nistp384"),
    "ecdsa-sha2-nistp521": generate_key("ecdsa-sha2-nistp521"),
    "ssh-rsa": generate_key("rsa-sha2-256"),
}
EVERY_KEY = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
EVERY_SIGNATURE = pytest.mark.parametrize(
    "key, algorithm",
    [(key, algorithm) for key in KEYS.values() for algorithm in key.signature_algorithms],
    ids=lambda value: value if isinstance(value, str) else "",
)


def rsa_blob(modulus: int, exponent: int = 65537, name: str = "ssh-rsa") -> bytes:
    return string(name) + mpint(exponent) + mpint(modulus)


def modulus_of(key: Key) -> int:
    reader = Reader(key.public_blob)
    reader.string()
    reader.mpint()
    return reader.mpint()


def inner_signature(signature: bytes) -> bytes:
    reader = Reader(signature)
    reader.string()
    return reader.string()


# Properties -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked, algorithm, bits, signature_algorithms",
    [
        ("ssh-ed25519", "ssh-ed25519", 256, ("ssh-ed25519",)),
        ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256", 256, ("ecdsa-sha2-nistp256",)),
        ("ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384", 384, ("ecdsa-sha2-nistp384",)),
        ("ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521", 521, ("ecdsa-sha2-nistp521",)),
        ("rsa-sha2-256", "ssh-rsa", 2048, ("rsa-sha2-512", "rsa-sha2-256")),
        ("rsa-sha2-512", "ssh-rsa", 4096, ("rsa-sha2-512", "rsa-sha2-256")),
        ("ssh-rsa", "ssh-rsa", 3072, ("rsa-sha2-512", "rsa-sha2-256")),
    ],
)
def test_generated_keys_have_the_type_and_size_asked_for(
    asked: str, algorithm: str, bits: int, signature_algorithms: tuple[str, ...]
) -> None:
    key = generate_key(asked, comment="mine")
    assert (key.algorithm, key.bits, key.comment) == (algorithm, bits, "mine")
    assert key.signature_algorithms == signature_algorithms
    assert key.has_private
    assert Reader(key.public_blob).text() == algorithm


def test_the_bits_of_an_rsa_key_can_be_chosen() -> None:
    assert generate_key("rsa-sha2-512", bits=2048).bits == 2048


@pytest.mark.parametrize(
    "algorithm, bits",
    [
        ("ssh-dss", None),
        ("none", None),
        ("ssh-rsa", 1024),
        ("ssh-rsa", 2047),
        ("rsa-sha2-256", 16385),
        ("ssh-ed25519", 255),
        ("ecdsa-sha2-nistp256", 384),
    ],
)
def test_keys_that_do_not_exist_are_not_generated(algorithm: str, bits: int | None) -> None:
    with pytest.raises(ValueError, match=r"bits|unknown key algorithm"):
        generate_key(algorithm, bits=bits)


def test_the_type_of_the_keys_of_every_signature_algorithm() -> None:
    types = {key_type_for(algorithm) for algorithm in SIGNATURE_ALGORITHMS}
    assert types == set(KEYS)
    for name in ("ssh-rsa", "ssh-dss", ""):
        with pytest.raises(ValueError, match="not a signature algorithm"):
            key_type_for(name)


@EVERY_KEY
def test_a_public_key_equals_its_pair(key: Key) -> None:
    public = key.public()
    assert not public.has_private
    assert public == key == Key.from_public_blob(key.public_blob)
    assert {public, key, key.with_comment("other")} == {key}
    assert public.public() is public
    assert public.comment == key.comment
    assert key.with_comment("other").comment == "other"
    assert key.with_comment("other").has_private


def test_different_keys_differ_from_each_other_and_from_bytes() -> None:
    for one, other in itertools.combinations(KEYS.values(), 2):
        assert one != other
    assert KEYS["ssh-ed25519"] != KEYS["ssh-ed25519"].public_blob


@EVERY_KEY
def test_cryptography_keys_go_in_and_come_out(key: Key) -> None:
    again = Key.from_cryptography(key.to_cryptography(), "word")
    assert again == key
    assert again.has_private
    assert again.comment == "word"
    public = Key.from_cryptography(key.public().to_cryptography())
    assert public == key
    assert not public.has_private


@pytest.mark.parametrize(
    "foreign",
    [
        rsa.generate_private_key(65537, 1024),
        rsa.generate_private_key(65537, 1024).public_key(),
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP224R1()).public_key(),
        b"bytes",
        None,
    ],
    ids=["rsa1024", "public rsa1024", "secp256k1", "secp224r1", "bytes", "None"],
)
def test_cryptography_keys_that_ssh_does_not_use_are_refused(foreign: object) -> None:
    with pytest.raises(KeyFormatError):
        Key.from_cryptography(foreign)


def test_the_private_part_is_neither_shown_nor_pickled() -> None:
    """HR-71."""
    key = KEYS["ssh-ed25519"].with_comment("a\nb\x1b[31m")
    secret = key.to_cryptography().private_bytes_raw()
    shown = repr(key) + str(key) + f"{key}"
    assert key.algorithm in shown
    assert key.fingerprint in shown
    assert "key pair" in shown
    assert "public key" in repr(key.public())
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert secret.hex() not in shown
    for each in (key, key.public()):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(each, protocol)
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key


def test_a_key_cannot_be_changed_or_constructed() -> None:
    key = KEYS["ssh-ed25519"]
    for name in ("algorithm", "public_blob", "comment", "has_private", "fingerprint", "extra"):
        with pytest.raises(AttributeError):
            setattr(key, name, "x")
    with pytest.raises(TypeError, match="generate_key"):
        Key()


# Public blobs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rsa-sha2-256", "rsa-sha2-512"])
def test_signature_algorithms_as_blob_types_mean_ssh_rsa(name: str) -> None:
    key = KEYS["ssh-rsa"]
    assert Key.from_public_blob(rsa_blob(modulus_of(key), name=name)) == key


@pytest.mark.parametrize(
    "name", ["ssh-dss", "ssh-rsa-cert-v01@openssh.com", "sk-ssh-ed25519@openssh.com", "", "\x00"]
)
def test_other_types_are_refused(name: str) -> None:
    with pytest.raises(KeyFormatError, match="unknown key type"):
        Key.from_public_blob(string(name) + string(bytes(32)))


@EVERY_KEY
def test_every_truncation_and_extension_of_a_blob_is_refused(key: Key) -> None:
    blob = key.public_blob
    for size in range(len(blob)):
        with pytest.raises(KeyFormatError):
            Key.from_public_blob(blob[:size])
    with pytest.raises(KeyFormatError, match="trailing bytes"):
        Key.from_public_blob(blob + b"\0")


@pytest.mark.parametrize("bits", [1, 512, 1024, 2047, 16385, 30_000, 65_536])
def test_rsa_moduli_outside_of_the_bounds_are_refused_quickly(bits: int) -> None:
    """HR-42."""
    started = time.process_time()
    with pytest.raises(KeyFormatError, match=r"bits|bytes"):
        Key.from_public_blob(rsa_blob((1 << (bits - 1)) | 1))
    assert time.process_time() - started < 0.02


@pytest.mark.parametrize("exponent", [-3, -1, 0, 1, 2, 4, 65536, (1 << 24) + 1, 1 << 2000])
def test_rsa_exponents_outside_of_the_bounds_are_refused(exponent: int) -> None:
    """HR-42."""
    with pytest.raises(KeyFormatError, match="exponent"):
        Key.from_public_blob(rsa_blob(modulus_of(KEYS["ssh-rsa"]), exponent))


def test_rsa_bounds_are_inclusive() -> None:
    for bits in (2048, 16384):
        assert Key.from_public_blob(rsa_blob((1 << (bits - 1)) | 1)).bits == bits
    for exponent in (3, (1 << 24) - 1):
        blob = rsa_blob(modulus_of(KEYS["ssh-rsa"]), exponent)
        assert Key.from_public_blob(blob).public_blob == blob


def test_rsa_numbers_that_are_even_negative_or_not_minimal_are_refused() -> None:
    modulus = modulus_of(KEYS["ssh-rsa"])
    number = modulus.to_bytes(257, "big")
    for bad in (
        rsa_blob(modulus + 1),
        rsa_blob(-modulus),
        string("ssh-rsa") + mpint(65537) + string(b"\0" + number),
        string("ssh-rsa") + mpint(65537) + string(number[1:]),
        string("ssh-rsa") + string(b"\0\x01\0\x01") + mpint(modulus),
    ):
        with pytest.raises(KeyFormatError):
            Key.from_public_blob(bad)


@pytest.mark.parametrize("curve", ["nistp256", "nistp384", "nistp521"])
def test_points_in_any_but_the_uncompressed_form_are_refused(curve: str) -> None:
    """HR-43."""
    name = f"ecdsa-sha2-{curve}"
    head = string(name) + string(curve)
    reader = Reader(KEYS[name].public_blob)
    reader.string()
    reader.string()
    point = reader.string()
    half = len(point) // 2
    off_curve = bytearray(point)
    off_curve[-1] ^= 1
    bad_points = {
        "infinity": b"\0",
        "empty": b"",
        "compressed": bytes([2 + (point[-1] & 1)]) + point[1 : 1 + half],
        "hybrid": bytes([6 + (point[-1] & 1)]) + point[1:],
        "short": point[:-1],
        "long": point + b"\0",
        "off the curve": bytes(off_curve),
        "zero": b"\x04" + bytes(2 * half),
        "beyond the field": b"\x04" + b"\xff" * (2 * half),
    }
    for bad in bad_points.values():
        with pytest.raises(KeyFormatError):
            Key.from_public_blob(head + string(bad))
    assert Key.from_public_blob(head + string(point)) == KEYS[name]


def test_the_curve_named_twice_must_be_the_same() -> None:
    for key, other in itertools.permutations(("nistp256", "nistp384", "nistp521"), 2):
        blob = KEYS[f"ecdsa-sha2-{key}"].public_blob
        reader = Reader(blob)
        reader.string()
        rest = reader.rest()
        with pytest.raises(KeyFormatError):
            Key.from_public_blob(string(f"ecdsa-sha2-{other}") + rest)
        with pytest.raises(KeyFormatError, match="another curve"):
            Key.from_public_blob(blob.replace(string(key), string(other)))


@pytest.mark.parametrize("size", [0, 31, 33, 57])
def test_ed25519_keys_have_32_bytes(size: int) -> None:
    with pytest.raises(KeyFormatError, match="32 bytes"):
        Key.from_public_blob(string("ssh-ed25519") + string(bytes(size)))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_damaged_blob_raises_anything_else(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(list(KEYS.values())))
    blob = bytearray(key.public_blob)
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        damaged = Key.from_public_blob(bytes(blob))
    except KeyFormatError:
        return
    assert damaged.public_blob == bytes(blob)


# Signatures -----------------------------------------------------------------------------------


@EVERY_SIGNATURE
def test_signatures_name_their_algorithm_and_verify(key: Key, algorithm: str) -> None:
    signature = key.sign(b"data", algorithm)
    assert Reader(signature).text() == algorithm
    assert key.public().verify(b"data", signature, algorithm)
    assert not key.verify(b"other data", signature, algorithm)
    assert not key.verify(b"", signature, algorithm)
    assert key.sign(b"data").startswith(string(key.signature_algorithms[0]))


def test_a_signature_counts_only_for_its_key_and_algorithm() -> None:
    """HR-40: all pairs."""
    names = (*SIGNATURE_ALGORITHMS, "ssh-rsa", "ssh-dss", "", "\ud800")
    for signer in KEYS.values():
        for signed_as in signer.signature_algorithms:
            signature = signer.sign(b"data", signed_as)
            for verifier, name in itertools.product(KEYS.values(), names):
                expected = verifier == signer and name == signed_as
                assert verifier.verify(b"data", signature, name) is expected
                relabelled = string(name.encode(errors="replace"))
                relabelled += string(inner_signature(signature))
                assert verifier.verify(b"data", relabelled, name) is expected


def test_sha1_is_neither_signed_nor_verified() -> None:
    """HR-41."""
    key = KEYS["ssh-rsa"]
    raw = key.to_cryptography().sign(b"data", padding.PKCS1v15(), hashes.SHA1())
    for label in ("ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"):
        for name in ("ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"):
            assert not key.verify(b"data", string(label) + string(raw), name)
    with pytest.raises(LocalProtocolError, match="signs with"):
        key.sign(b"data", "ssh-rsa")


@EVERY_KEY
def test_what_cannot_sign_says_so(key: Key) -> None:
    with pytest.raises(LocalProtocolError, match="no private part"):
        key.public().sign(b"data")
    with pytest.raises(LocalProtocolError, match="signs with"):
        key.sign(b"data", "ssh-dss")


@EVERY_SIGNATURE
def test_no_damaged_signature_verifies_or_raises(key: Key, algorithm: str) -> None:
    signature = key.sign(b"data", algorithm)
    for size in range(len(signature)):
        assert not key.verify(b"data", signature[:size], algorithm)
    for position in range(len(signature)):
        damaged = bytearray(signature)
        damaged[position] ^= 1 << (position % 8)
        assert not key.verify(b"data", bytes(damaged), algorithm)
    inner = inner_signature(signature)
    assert not key.verify(b"data", signature + b"\0", algorithm)
    assert not key.verify(b"data", string(algorithm) + string(inner + b"\0"), algorithm)
    assert not key.verify(b"data", string(algorithm) + string(b"\0" + inner), algorithm)
    assert not key.verify(b"data", string(algorithm) + string(b""), algorithm)
    assert not key.verify(b"data", string(algorithm) + uint32(2**32 - 1) + inner, algorithm)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from(list(KEYS.values())), garbage=st.binary(max_size=300))
def test_garbage_is_never_a_signature(key: Key, garbage: bytes) -> None:
    algorithm = key.signature_algorithms[0]
    assert not key.verify(b"data", garbage, algorithm)
    assert not key.verify(b"data", string(algorithm) + string(garbage), algorithm)


@pytest.mark.parametrize("curve", ORDERS)
def test_ecdsa_numbers_out_of_range_or_form_are_refused(curve: str) -> None:
    """HR-43."""
    name = f"ecdsa-sha2-{curve}"
    key = KEYS[name]
    order = ORDERS[curve]
    reader = Reader(inner_signature(key.sign(b"data")))
    r, s = reader.mpint(), reader.mpint()

    def verifies(inner: bytes) -> bool:
        return key.verify(b"data", string(name) + string(inner), name)

    assert verifies(mpint(r) + mpint(s))
    assert verifies(mpint(r) + mpint(order - s))  # ECDSA's own symmetry shows the right order
    for number in (0, -1, order, order + 1, -r, r + order, 1 << 600):
        assert not verifies(mpint(number) + mpint(s))
        assert not verifies(mpint(r) + mpint(number))
        assert not verifies(mpint(number) + mpint(number))
    assert not verifies(mpint(r) + mpint(s + order))
    assert not verifies(string(b"\0" + mpint(r)[4:]) + mpint(s))
    assert not verifies(mpint(r) + string(b"\0" + mpint(s)[4:]))
    assert not verifies(mpint(r) + mpint(s) + b"\0")
    assert not verifies(mpint(r))
    assert not verifies(key.to_cryptography().sign(b"data", ec.ECDSA(hashes.SHA256())))


def test_many_ecdsa_signatures_verify() -> None:
    """Numbers of every length come up, those with leading zeros among them."""
    for curve in ORDERS:
        key = KEYS[f"ecdsa-sha2-{curve}"]
        for number in range(150):
            data = number.to_bytes(2, "big")
            assert key.verify(data, key.sign(data), key.algorithm)


def test_rsa_signatures_may_lack_leading_zeros_but_not_be_long() -> None:
    """HR-40."""
    key = KEYS["ssh-rsa"]
    for number in range(5000):
        data = number.to_bytes(2, "big")
        raw = inner_signature(key.sign(data, "rsa-sha2-256"))
        if raw[0] == 0:
            break
    else:
        pytest.fail("no signature with a leading zero byte among 5000")
    assert len(raw) == 256
    assert key.verify(data, string("rsa-sha2-256") + string(raw), "rsa-sha2-256")
    assert key.verify(data, string("rsa-sha2-256") + string(raw.lstrip(b"\0")), "rsa-sha2-256")
    assert not key.verify(data, string("rsa-sha2-256") + string(b"\0" + raw), "rsa-sha2-256")


class FaultyRsaKey:
    """Signs with one bit flipped, as a fault in the machine would."""

    def __init__(self, sound: rsa.RSAPrivateKey) -> None:
        self._sound = sound

    def sign(self, *arguments: object) -> bytes:
        signature = bytearray(self._sound.sign(*arguments))  # type: ignore[arg-type]
        signature[100] ^= 4
        return bytes(signature)


def test_a_faulty_rsa_signature_does_not_leave() -> None:
    """HR-45, T-25."""
    sound = generate_key("rsa-sha2-256")
    key = sound.with_comment("faulty")
    key._private = FaultyRsaKey(sound.to_cryptography())
    for algorithm in key.signature_algorithms:
        with pytest.raises(SSHError, match="does not verify"):
            key.sign(b"data", algorithm)
    assert sound.verify(b"data", sound.sign(b"data"), "rsa-sha2-512")


def test_the_largest_rsa_key_verifies_in_bounded_time() -> None:
    """T-24."""
    key = Key.from_public_blob(rsa_blob((1 << 16383) | 1, (1 << 24) - 1))
    signature = string("rsa-sha2-512") + string(bytes(range(1, 256)) * 8)
    started = time.process_time()
    assert not key.verify(b"data", signature, "rsa-sha2-512")
    assert time.process_time() - started < 0.05


def test_ed25519_signs_as_rfc_8032_says() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    expected = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    key = Key.from_cryptography(ed25519.Ed25519PrivateKey.from_private_bytes(seed))
    assert key.public_blob == string("ssh-ed25519") + string(public)
    assert key.sign(b"") == string("ssh-ed25519") + string(expected)


def test_dsa_is_no_key() -> None:
    with pytest.raises(KeyFormatError):
        Key.from_cryptography(dsa.generate_private_key(1024))


needs_ssh_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None and "CI" not in os.environ, reason="no ssh-keygen"
)


@needs_ssh_keygen
@EVERY_KEY
def test_ssh_keygen_computes_the_same_fingerprint_and_size(key: Key, tmp_path: Path) -> None:
    import base64

    line = f"{key.algorithm} {base64.b64encode(key.public_blob).decode()} word\n"
    (tmp_path / "key.pub").write_text(line)
    answer = subprocess.run(
        ["ssh-keygen", "-l", "-f", tmp_path / "key.pub"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert answer[:2] == [str(key.bits), key.fingerprint]


@needs_ssh_keygen
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_signatures_of_ssh_keygen_verify(kind: str, tmp_path: Path) -> None:
    """``ssh-keygen -Y sign`` wraps a wire signature; PROTOCOL.sshsig says over what."""
    import base64

    bits = ["-b", "2048"] if kind == "rsa" else []
    path = tmp_path / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, *bits, "-N", "", "-f", path], check=True, timeout=30
    )
    armored = subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-n", "test", "-f", path],
        input=b"hello",
        check=True,
        capture_output=True,
    ).stdout
    reader = Reader(base64.b64decode(b"".join(armored.splitlines()[1:-1])))
    assert reader.raw(6) == b"SSHSIG"
    assert reader.uint32() == 1
    key = Key.from_public_blob(reader.string())
    namespace, reserved, digest, signature = (reader.string() for _ in range(4))
    assert digest == b"sha512"
    signed = b"SSHSIG" + string(namespace) + string(reserved) + string(digest)
    signed += string(hashlib.sha512(b"hello").digest())
    assert key.verify(signed, signature, key.signature_algorithms[0])
    assert not key.verify(signed + b"x", signature, key.signature_algorithms[0])
