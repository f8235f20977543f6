"""Certificates: canonical encoding, the authority's signature, and what they are valid for."""

from __future__ import annotations

import base64
import copy
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyssh.errors import CertificateError, KeyFormatError
from anyssh.keys import (
    Certificate,
    CertificateType,
    Key,
    check_host_certificate,
    check_user_certificate,
    generate_key,
    import_certificate,
    import_certificate_file,
    import_key,
    import_key_file,
    key_of,
    read_identity,
    signature_algorithm,
    with_certificates,
)
from tests.authority import FOREVER, HOST, SUFFIX, USER, Draft, packed, string

KEYS = {
    "ssh-ed25519": generate_key("ssh-ed25519"),
    "ecdsa-sha2-nistp256": generate_key("ecdsa-sha2-nistp256"),
    "ecdsa-sha2-nistp384": generate_key("ecdsa-sha2-nistp384"),
    "ecdsa-sha2-nistp521": generate_key("ecdsa-sha2-nistp521"),
    "ssh-rsa": generate_key("rsa-sha2-256"),
}
AUTHORITIES = {
    "ssh-ed25519": generate_key("ssh-ed25519"),
    "ecdsa-sha2-nistp384": generate_key("ecdsa-sha2-nistp384"),
    "ssh-rsa": generate_key("rsa-sha2-256"),
}
KEY, AUTHORITY = KEYS["ssh-ed25519"], AUTHORITIES["ssh-ed25519"]
RSA_AUTHORITY = AUTHORITIES["ssh-rsa"]
DRAFT = Draft(KEY)
NOW = 1_700_000_000
FULL = Draft(
    KEY,
    serial=2**64 - 1,
    key_id="Älice's key",
    principals=("alice", "bob"),
    valid_after=NOW - 60,
    valid_before=NOW + 60,
    critical_options=(
        ("force-command", string("ls -l")),
        ("source-address", string("10.0.0.0/8,2001:db8::/32,192.0.2.7")),
        ("verify-required", b""),
        ("zzz@example.com", b"\xff\0"),
    ),
    extensions=(("permit-pty", b""), ("who@example.com", string("knows"))),
    reserved=b"for later",
)


def made(draft: Draft = DRAFT, authority: Key = AUTHORITY) -> Certificate:
    return Certificate(draft.signed(authority))


# Reading


@pytest.mark.parametrize("authority", AUTHORITIES.values(), ids=AUTHORITIES)
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_every_key_by_every_authority(key: Key, authority: Key) -> None:
    for algorithm in authority.signature_algorithms:
        blob = FULL.but(key=key).signed(authority, algorithm)
        certificate = Certificate(blob)
        assert certificate.public_blob == blob
        assert certificate.key == key
        assert not certificate.key.has_private
        assert certificate.authority == authority
        assert certificate.type is CertificateType.USER
        assert (certificate.serial, certificate.key_id) == (2**64 - 1, "Älice's key")
        assert certificate.principals == ("alice", "bob")
        assert (certificate.valid_after, certificate.valid_before) == (NOW - 60, NOW + 60)
        assert dict(certificate.critical_options) == dict(FULL.critical_options)
        assert dict(certificate.extensions) == dict(FULL.extensions)
        assert certificate.force_command == "ls -l"
        assert certificate.algorithm == key.algorithm + SUFFIX
        assert read_identity(blob, certificate.signature_algorithms[0]) == certificate


def test_names_of_algorithms() -> None:
    rsa = made(Draft(KEYS["ssh-rsa"]))
    assert rsa.algorithm == "ssh-rsa-cert-v01@openssh.com"
    assert rsa.signature_algorithms == (
        "rsa-sha2-512-cert-v01@openssh.com",
        "rsa-sha2-256-cert-v01@openssh.com",
    )
    assert with_certificates(["ssh-ed25519", "rsa-sha2-256"]) == (
        "ssh-ed25519-cert-v01@openssh.com",
        "rsa-sha2-256-cert-v01@openssh.com",
        "ssh-ed25519",
        "rsa-sha2-256",
    )
    assert [signature_algorithm(name) for name in with_certificates(["a"])] == ["a", "a"]


def test_a_certificate_is_no_key() -> None:
    certificate = made()
    assert certificate != KEY
    assert certificate not in {KEY}
    assert KEY not in [certificate]
    assert key_of(certificate) == key_of(KEY) == KEY
    assert certificate == made() == copy.copy(certificate)
    assert hash(certificate) == hash(made())
    assert certificate != made(DRAFT.but(serial=1))
    with pytest.raises(KeyFormatError, match="unknown key type"):
        Key.from_public_blob(certificate.public_blob)
    with pytest.raises(KeyFormatError, match="unknown certificate type"):
        Certificate(KEY.public_blob)
    with pytest.raises(KeyFormatError):
        read_identity(KEY.public_blob, "ssh-ed25519" + SUFFIX)
    with pytest.raises(KeyFormatError):
        read_identity(certificate.public_blob, "ssh-ed25519")


def test_it_cannot_be_changed() -> None:
    certificate = made(FULL)
    with pytest.raises(AttributeError):
        certificate.principals = ("root",)  # type: ignore[misc]
    options: Any = certificate.critical_options
    with pytest.raises(TypeError):
        del options["force-command"]
    given = bytearray(DRAFT.signed(AUTHORITY))
    kept = Certificate(given)
    given[:] = bytes(len(given))
    assert kept == made()


def test_its_text_is_safe_to_show() -> None:
    certificate = made(DRAFT.but(key_id="\x1b[2J\nroot", serial=7))
    assert repr(certificate).isprintable()
    assert "serial 7" in repr(certificate)
    assert KEY.fingerprint in repr(certificate)
    assert AUTHORITY.fingerprint in repr(certificate)


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_signatures_by_the_certified_key(key: Key) -> None:
    certificate = made(Draft(key))
    for plain in key.signature_algorithms:
        signature = key.sign(b"data", plain)
        assert certificate.verify(b"data", signature, plain + SUFFIX)
        assert not certificate.verify(b"data", signature, plain)
        assert not certificate.verify(b"date", signature, plain + SUFFIX)
        assert not certificate.verify(b"data", AUTHORITY.sign(b"data"), plain + SUFFIX)
        named = string(plain + SUFFIX) + signature[len(string(plain)) :]
        assert not certificate.verify(b"data", named, plain + SUFFIX)


# What is refused


def sha1(authority: Key, body: bytes) -> bytes:
    inner = authority.to_cryptography().sign(body, padding.PKCS1v15(), hashes.SHA1())
    return string(inner)


CURVE = KEYS["ecdsa-sha2-nistp256"].public_blob[len(string("ecdsa-sha2-nistp256")) :]
TWICE = packed([("permit-pty", b""), ("permit-pty", b"")])
UNSORTED = packed([("permit-user-rc", b""), ("permit-pty", b"")])
MANY = packed([(f"x{number:03}", b"") for number in range(65)])
WRONG_FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "tail": ({"tail": b"\0"}, "1 trailing bytes"),
    "no type": ({"name": ""}, "type"),
    "plain type": ({"name": "ssh-ed25519"}, "type"),
    "type of a signature": ({"name": "rsa-sha2-512" + SUFFIX}, "type"),
    "type of another version": ({"name": "ssh-ed25519-cert-v00@openssh.com"}, "type"),
    "type twice certified": ({"name": "ssh-ed25519" + SUFFIX + SUFFIX}, "type"),
    "type of a security key": ({"name": "sk-ssh-ed25519" + SUFFIX}, "type"),
    "type of DSA": ({"name": "ssh-dss" + SUFFIX}, "type"),
    "type not UTF-8": ({"name": b"\xff"}, "UTF-8"),
    "other key inside": ({"public": CURVE}, "32 bytes"),
    "other curve inside": (
        {"name": "ecdsa-sha2-nistp384" + SUFFIX, "public": CURVE},
        "another curve",
    ),
    "about nobody": ({"type": 0}, "not 0"),
    "about something": ({"type": 3}, "not 3"),
    "key id not UTF-8": ({"key_id": b"\xff"}, "UTF-8"),
    "principal cut": ({"principals_field": b"\0\0\0\x06alice"}, "expected"),
    "principals end early": ({"principals_field": string("alice") + b"\0"}, "expected"),
    "principal not UTF-8": ({"principals": [b"\xff"]}, "UTF-8"),
    "257 principals": ({"principals": ["x"] * 257}, "256"),
    "option without value": ({"critical_field": string("a")}, "expected"),
    "option twice": ({"critical_field": TWICE}, "sorted"),
    "options not sorted": ({"critical_field": UNSORTED}, "sorted"),
    "65 options": ({"critical_field": MANY}, "64"),
    "option not UTF-8": ({"critical_options": [(b"\xff", b"")]}, "UTF-8"),
    "extension twice": ({"extensions_field": TWICE}, "sorted"),
    "extensions not sorted": ({"extensions_field": UNSORTED}, "sorted"),
    "65 extensions": ({"extensions_field": MANY}, "64"),
    "bare command": ({"critical_options": [("force-command", b"ls -l")]}, "expected"),
    "command and more": (
        {"critical_options": [("force-command", string("ls") + b"\0")]},
        "trailing bytes",
    ),
    "empty addresses": ({"critical_options": [("source-address", b"")]}, "expected"),
    "flag with value": (
        {"critical_options": [("verify-required", b"\0")]},
        "must not have a value",
    ),
    "authority is a certificate": (
        {"authority_blob": Draft(AUTHORITY, type=USER).signed(RSA_AUTHORITY)},
        "unknown key type",
    ),
    "authority is nothing": ({"authority_blob": b""}, "expected"),
    "authority and more": ({"authority_blob": AUTHORITY.public_blob + b"\0"}, "trailing bytes"),
    "another authority": ({"authority_blob": RSA_AUTHORITY.public_blob}, "not signed"),
    "more than 32 KiB": ({"nonce": bytes(32 * 1024)}, "at most"),
}


@pytest.mark.parametrize("case", WRONG_FORMS)
def test_forms_that_are_refused_though_signed(case: str) -> None:
    changes, told = WRONG_FORMS[case]
    blob = DRAFT.but(**changes).signed(AUTHORITY)
    with pytest.raises(KeyFormatError, match=told):
        Certificate(blob)


def test_the_most_that_is_read() -> None:
    options = [(f"x{number:03}", b"") for number in range(64)]
    draft = DRAFT.but(principals=["x"] * 256, critical_options=options, extensions=options)
    certificate = made(draft)
    assert len(certificate.principals) == 256
    assert len(certificate.critical_options) == len(certificate.extensions) == 64


def test_one_exact_form_of_the_authority() -> None:
    """A blob that names a signature algorithm as its type is a key, but no authority."""
    renamed = string("rsa-sha2-512") + RSA_AUTHORITY.public_blob[len(string("ssh-rsa")) :]
    assert Key.from_public_blob(renamed) == RSA_AUTHORITY
    draft = DRAFT.but(authority_blob=renamed)
    with pytest.raises(KeyFormatError, match="not canonically encoded"):
        Certificate(draft.signed(RSA_AUTHORITY))


@pytest.mark.parametrize("label", ["ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"])
def test_sha1_certifies_nothing(label: str) -> None:
    """HR-41: neither under its own name nor under another."""
    body = DRAFT.body(RSA_AUTHORITY)
    with pytest.raises(KeyFormatError, match="not signed"):
        Certificate(body + string(string(label) + sha1(RSA_AUTHORITY, body)))


SIGNATURES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda body: b"",
    "no bytes": lambda body: string("ssh-ed25519") + string(b""),
    "by the certified key": KEY.sign,
    "of the body's first half": lambda body: AUTHORITY.sign(body[: len(body) // 2]),
    "of nothing": lambda body: AUTHORITY.sign(b""),
    "and more": lambda body: AUTHORITY.sign(body) + b"\0",
    "of another certificate": lambda body: AUTHORITY.sign(FULL.body(AUTHORITY)),
}


@pytest.mark.parametrize("case", SIGNATURES)
def test_signatures_that_certify_nothing(case: str) -> None:
    body = DRAFT.body(AUTHORITY)
    with pytest.raises(KeyFormatError):
        Certificate(body + string(SIGNATURES[case](body)))


@pytest.mark.parametrize("authority", AUTHORITIES.values(), ids=AUTHORITIES)
def test_every_truncation_is_refused(authority: Key) -> None:
    blob = FULL.signed(authority)
    for size in range(len(blob)):
        with pytest.raises(KeyFormatError):
            Certificate(blob[:size])


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_every_byte_counts(key: Key) -> None:
    blob = FULL.but(key=key).signed(AUTHORITY)
    for position in range(len(blob)):
        changed = bytearray(blob)
        changed[position] ^= 1 << position % 8
        with pytest.raises(KeyFormatError):
            Certificate(bytes(changed))


BLOBS = [FULL.but(key=key).signed(by) for key in KEYS.values() for by in AUTHORITIES.values()]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damage_is_a_format_error_and_nothing_else(data: st.DataObject) -> None:
    blob = bytearray(data.draw(st.sampled_from(BLOBS)))
    start = data.draw(st.integers(0, len(blob) - 1))
    end = data.draw(st.integers(start, min(start + 16, len(blob))))
    patch = data.draw(st.binary(max_size=16))
    if bytes(blob[start:end]) == patch:
        return
    blob[start:end] = patch
    with pytest.raises(KeyFormatError):
        Certificate(bytes(blob))


@given(st.binary(max_size=200), st.sampled_from([*KEYS, "x"]))
def test_anything_else_is_a_format_error_too(data: bytes, name: str) -> None:
    for blob in (data, string(name + SUFFIX) + data, string(name + SUFFIX) + string(data) + data):
        with pytest.raises(KeyFormatError):
            Certificate(blob)


# Files


def line(certificate: Certificate, name: str = "") -> str:
    blob = base64.b64encode(certificate.public_blob).decode()
    return f"{name or certificate.algorithm} {blob} a comment\n"


def test_a_line() -> None:
    certificate = made()
    text = line(certificate)
    assert import_certificate(text) == certificate
    assert import_certificate(b"\n" + text.encode() + b"\r\n") == certificate
    assert import_certificate(text.removesuffix(" a comment\n")) == certificate
    rsa = made(Draft(KEYS["ssh-rsa"]))
    assert import_certificate(line(rsa, "rsa-sha2-512" + SUFFIX)) == rsa


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519" + SUFFIX,
        f"ssh-ed25519{SUFFIX} AAAA",
        f"ssh-ed25519{SUFFIX} !!!",
        line(made()) * 2,
        line(made(), "ssh-ed25519"),
        line(made(), "ecdsa-sha2-nistp256" + SUFFIX),
        "#" * (1 << 20),
        "x" * ((1 << 20) + 1),
        "\udcff",
    ],
    ids=range(10),
)
def test_texts_that_are_no_certificate(text: str) -> None:
    with pytest.raises(KeyFormatError):
        import_certificate(text)


def test_each_reader_tells_of_the_other() -> None:
    with pytest.raises(KeyFormatError, match="import_certificate"):
        import_key(line(made()))
    with pytest.raises(KeyFormatError, match="unknown certificate type"):
        import_certificate(f"ssh-ed25519 {base64.b64encode(KEY.public_blob).decode()}")


# Judging


def refusal(certificate: Certificate, *, of_host: bool = False, **changes: Any) -> str:
    """Return why a certificate is refused, "" if it is not."""
    usual: dict[str, Any] = {"authorities": {AUTHORITY}, "now": NOW}
    usual |= {"host": "a.example.org"} if of_host else {"principals": ["alice"]}
    check: Callable[..., None] = check_host_certificate if of_host else check_user_certificate
    try:
        check(certificate, **usual | changes)
    except CertificateError as error:
        return str(error)
    return ""


def test_the_authority_must_be_believed() -> None:
    assert refusal(made()) == ""
    assert "not trusted" in refusal(made(), authorities=set())
    assert "not trusted" in refusal(made(), authorities=[RSA_AUTHORITY, KEY])
    assert refusal(made(), authorities=[RSA_AUTHORITY, AUTHORITY]) == ""
    assert "not trusted" in refusal(made(authority=KEY))


def test_users_are_not_hosts() -> None:
    host = made(DRAFT.but(type=HOST, principals=["a.example.org", "alice"]))
    user = made(DRAFT.but(principals=["a.example.org", "alice"]))
    assert (refusal(user), refusal(host, of_host=True)) == ("", "")
    assert "not for a user" in refusal(host)
    assert "not for a host" in refusal(user, of_host=True)


@pytest.mark.parametrize(
    "after, before, good",
    [
        (0, FOREVER, True),
        (NOW, NOW + 1, True),
        (NOW + 1, FOREVER, False),
        (0, NOW, False),
        (NOW + 5, NOW - 5, False),
        (NOW, NOW, False),
        (FOREVER, FOREVER, False),
        (0, 0, False),
    ],
)
def test_time(after: int, before: int, good: bool) -> None:
    certificate = made(DRAFT.but(valid_after=after, valid_before=before))
    assert (refusal(certificate) == "") is good
    host = made(
        DRAFT.but(type=HOST, principals=["a.example.org"], valid_after=after, valid_before=before)
    )
    assert (refusal(host, of_host=True) == "") is good
    assert (refusal(certificate, now=NOW + 0.999) == "") is good


@pytest.mark.parametrize(
    "certified, wanted, good",
    [
        (["alice"], ["alice"], True),
        (["bob", "alice"], ["x", "alice"], True),
        ([], ["alice"], False),
        ([], [], False),
        (["alice"], [], False),
        ([""], [""], False),
        (["", "alice"], [""], False),
        (["Alice"], ["alice"], False),
        (["alice "], ["alice"], False),
        (["alice\0"], ["alice"], False),
        (["*"], ["alice"], False),
        (["alice"], ["*"], False),
    ],
)
def test_principals(certified: list[str], wanted: list[str], good: bool) -> None:
    certificate = made(DRAFT.but(principals=certified))
    told = refusal(certificate, principals=wanted)
    assert (told == "") is good, told


@pytest.mark.parametrize(
    "certified, host, good",
    [
        (["a.example.org"], "a.example.org", True),
        (["A.example.org"], "a.EXAMPLE.org", True),
        (["b", "::1"], "::1", True),
        (["*.example.org"], "a.example.org", True),
        (["?.example.org"], "a.example.org", True),
        (["?.example.org"], "ab.example.org", False),
        (["*.example.org"], "example.org", False),
        (["[ab].example.org"], "a.example.org", False),
        (["[ab]"], "[ab]", True),
        (["a.example.org"], "a.example.orgs", False),
        (["a.example.org"], "xa.example.org", False),
        (["a.example.org"], "*", False),
        ([], "a.example.org", False),
        ([""], "", False),
        (["*"], "", False),
    ],
)
def test_hosts(certified: list[str], host: str, good: bool) -> None:
    certificate = made(DRAFT.but(type=HOST, principals=certified))
    told = refusal(certificate, of_host=True, host=host)
    assert (told == "") is good, told


def test_patterns_of_hosts_take_no_time() -> None:
    certificate = made(DRAFT.but(type=HOST, principals=["*a" * 2000 + "b"]))
    assert "not issued for" in refusal(certificate, of_host=True, host="a" * 253)


def with_option(name: str, data: bytes) -> Certificate:
    return made(DRAFT.but(critical_options=[(name, data)]))


def test_critical_options_need_somebody_who_enforces_them() -> None:
    forced, unknown = with_option("force-command", string("ls")), with_option("x@y", b"")
    assert "'force-command'" in refusal(forced)
    assert refusal(forced, enforced_options=["force-command"]) == ""
    assert "'x@y'" in refusal(unknown, enforced_options=["force-command"])
    assert refusal(unknown, enforced_options={"x@y"}) == ""
    assert "verify-required" in refusal(with_option("verify-required", b""))
    assert "'x\\x1b'" in refusal(with_option("x\x1b", b"")).replace("\\\\", "\\")
    host = {"type": HOST, "principals": ["a.example.org"]}
    restricted = made(DRAFT.but(**host, critical_options=[("force-command", string("ls"))]))
    assert "force-command" in refusal(restricted, of_host=True)


def test_extensions_restrict_nothing() -> None:
    assert refusal(made(DRAFT.but(extensions=[("x@y", b"?")]))) == ""


@pytest.mark.parametrize(
    "networks, address, good",
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.7,10.0.0.0/8", "10.1.2.3", True),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("::/0", "10.1.2.3", False),
        ("0.0.0.0/0", "10.1.2.3", True),
        ("0.0.0.0/0", None, False),
        ("0.0.0.0/0", "", False),
        ("0.0.0.0/0", "localhost", False),
        ("0.0.0.0/0", "/run/socket", False),
        ("", "10.1.2.3", False),
        ("10.0.0.0/8,", "10.1.2.3", False),
        ("10.0.0.0/8, 11.0.0.0/8", "10.1.2.3", False),
        ("10.0.0.1/8", "10.1.2.3", False),
        ("10.0.0.0/8,nonsense", "10.1.2.3", False),
        ("!11.0.0.0/8", "10.1.2.3", False),
        ("10.0.0.0/33", "10.1.2.3", False),
        (",".join(["10.0.0.0/8"] * 257), "10.1.2.3", True),
        (",".join(["10.0.0.0/8"] * 258), "10.1.2.3", False),
    ],
)
def test_source_addresses(networks: str, address: str | None, good: bool) -> None:
    certificate = with_option("source-address", string(networks))
    assert (refusal(certificate, address=address) == "") is good
    # Nobody else can enforce it in our place.
    assert (
        refusal(certificate, address=address, enforced_options=["source-address"]) == ""
    ) is good


def test_what_is_revoked() -> None:
    host = made(DRAFT.but(type=HOST, principals=["a.example.org"]))
    for fingerprint in (KEY.fingerprint, AUTHORITY.fingerprint):
        revoked = {RSA_AUTHORITY.fingerprint, fingerprint}
        assert f"{fingerprint} is revoked" in refusal(made(), revoked=revoked)
        assert f"{fingerprint} is revoked" in refusal(host, of_host=True, revoked=revoked)
    assert refusal(made(), revoked={RSA_AUTHORITY.fingerprint}) == ""


# ssh-keygen


def keygen(folder: Path, *arguments: str) -> None:
    subprocess.run(["ssh-keygen", "-q", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("ssh-keygen") is None and "CI" not in os.environ:
        pytest.skip("no ssh-keygen")
    path = tmp_path_factory.mktemp("keygen")
    kinds = {"ed25519": ["-t", "ed25519"], "rsa": ["-t", "rsa", "-b", "2048"]}
    kinds |= {f"ecdsa{bits}": ["-t", "ecdsa", "-b", str(bits)] for bits in (256, 384, 521)}
    for name, options in kinds.items():
        for file in (name, f"{name}-authority"):
            keygen(path, *options, "-N", "", "-f", file)
    return path


NAMES = ["ed25519", "ecdsa256", "ecdsa384", "ecdsa521", "rsa"]


@pytest.mark.parametrize("authority", NAMES)
@pytest.mark.parametrize("name", NAMES)
def test_users_that_ssh_keygen_certifies(folder: Path, name: str, authority: str) -> None:
    keygen(
        folder, "-s", f"{authority}-authority", "-I", "Älice at work", "-n", "alice,bob",
        "-V", "20231114221300Z:20231114221330Z", "-z", "18446744073709551615",
        "-O", "force-command=ls -l", "-O", "source-address=10.0.0.0/8,::1/128",
        "-O", "verify-required", "-O", "critical:a@example.com=b", "-O", "no-x11-forwarding",
        "-O", "extension:who@example.com=knows", f"{name}.pub",
    )  # fmt: skip
    certificate = import_certificate_file(folder / f"{name}-cert.pub")
    assert certificate.key == import_key_file(folder / f"{name}.pub")
    assert certificate.authority == import_key_file(folder / f"{authority}-authority.pub")
    assert certificate.type is CertificateType.USER
    assert (certificate.key_id, certificate.serial) == ("Älice at work", 2**64 - 1)
    assert certificate.principals == ("alice", "bob")
    assert (certificate.valid_after, certificate.valid_before) == (NOW - 20, NOW + 10)
    assert certificate.force_command == "ls -l"
    assert dict(certificate.critical_options) == {
        "a@example.com": string("b"),
        "force-command": string("ls -l"),
        "source-address": string("10.0.0.0/8,::1/128"),
        "verify-required": b"",
    }
    assert dict(certificate.extensions) == {
        "permit-agent-forwarding": b"",
        "permit-port-forwarding": b"",
        "permit-pty": b"",
        "permit-user-rc": b"",
        "who@example.com": string("knows"),
    }
    check_user_certificate(
        certificate,
        [certificate.authority],
        ["bob"],
        now=NOW,
        address="10.0.0.1",
        enforced_options=["a@example.com", "force-command", "verify-required"],
    )


@pytest.mark.parametrize("name", NAMES)
def test_hosts_that_ssh_keygen_certifies(folder: Path, name: str) -> None:
    keygen(
        folder, "-s", "rsa-authority", "-h", "-I", "a host", "-n", "a.example.org,10.0.0.1",
        "-V", "always:forever", f"{name}.pub",
    )  # fmt: skip
    certificate = import_certificate_file(folder / f"{name}-cert.pub")
    assert certificate.type is CertificateType.HOST
    assert (certificate.serial, certificate.valid_after) == (0, 0)
    assert certificate.valid_before == FOREVER
    assert not certificate.critical_options
    assert not certificate.extensions
    for host in ("a.example.org", "10.0.0.1"):
        check_host_certificate(certificate, [certificate.authority], host, now=NOW)


def test_sha1_of_ssh_keygen_certifies_nothing(folder: Path) -> None:
    keygen(folder, "-s", "rsa-authority", "-t", "ssh-rsa", "-I", "x", "-n", "x", "ed25519.pub")
    with pytest.raises(KeyFormatError, match="not signed"):
        import_certificate_file(folder / "ed25519-cert.pub")
