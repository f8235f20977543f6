"""Key files: every format in and out, compared with recorded files and the usual tools.

The files in ``tests/data/keys`` contain one key per size in many formats, with the comment
``comment`` where the format has one; the passphrase of those that end in ``-pw`` is ``password``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.kdf import argon2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anyssh.errors import (
    KeyFormatError,
    LocalProtocolError,
    PassphraseRequired,
    WrongPassphrase,
)
from anyssh.keys import (
    Key,
    KeyFormat,
    der,
    encryption,
    export_private_key,
    export_private_key_bytes,
    export_private_key_file,
    export_public_key,
    export_public_key_bytes,
    export_public_key_file,
    generate_key,
    import_key,
    import_key_file,
    import_public_key,
    openssh_private,
    pem,
    ssh_com,
)
from anyssh.keys.armor import Block, read_pem, read_ssh2
from anyssh.keys.armor import pem as armored
from anyssh.keys.armor import ssh2 as ssh2_armored
from anyssh.wire import Reader, mpint, string, uint32

DATA = Path(__file__).parent.parent / "data" / "keys"
FILES = sorted(DATA.glob("testkey-*.txt"))
ALGORITHMS = {
    "rsa2048": ("ssh-rsa", 2048),
    "rsa4096": ("ssh-rsa", 4096),
    "ecdsa384": ("ecdsa-sha2-nistp384", 384),
    "ecdsa521": ("ecdsa-sha2-nistp521", 521),
}
WITH_COMMENT = {"ssh", "ssh2", "openssh", "jwk"}
PASSPHRASE = "password"
KEYS = {
    "ssh-ed25519": generate_key("ssh-ed25519", comment="an Ed25519 key"),
    "ecdsa-sha2-nistp256": generate_key("ecdsa-sha2-nistp256", comment="P-256"),
    "ecdsa-sha2-nistp384": generate_key("ecdsa-sha2-nistp384", comment="schlüssel ü"),
    "ecdsa-sha2-nistp521": generate_key("ecdsa-sha2-nistp521"),
    "ssh-rsa": generate_key("rsa-sha2-256", comment="two words"),
}
EVERY_FILE = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[8:])
EVERY_ENCRYPTED_FILE = pytest.mark.parametrize(
    "path", [path for path in FILES if path.stem.endswith("-pw")], ids=lambda path: path.stem[8:]
)
EVERY_KEY = pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())


def facts(path: Path) -> tuple[str, str, str, str | None]:
    """Return kind, key, format and passphrase of a recorded file."""
    _, kind, name, format, *protected = path.stem.split("-")
    return kind, name, format, PASSPHRASE if protected else None


def read(name: str, passphrase: str | None = None) -> Key:
    return import_key((DATA / f"testkey-{name}.txt").read_text(), passphrase)


def public_line(name: str) -> Key:
    return read(f"public-{name}-ssh")


def recorded_random(*chunks: str) -> Callable[[int], bytes]:
    """Return a source of randomness that gives these chunks, each for its exact size only."""
    queue = [bytes.fromhex(chunk) for chunk in chunks]

    def take(size: int) -> bytes:
        chunk = queue.pop(0)
        assert len(chunk) == size
        return chunk

    return take


def rewrap(text: str, change: Callable[[bytes], bytes]) -> str:
    """Change the binary contents of an armored text."""
    if text.startswith("-----"):
        block = read_pem(text)
        return armored(block.label, change(block.data))
    block = read_ssh2(text)
    return ssh2_armored(block.label, "comment", change(block.data))


# Reading recorded files ------------------------------------------------------------------------


def test_all_38_files_are_there() -> None:
    assert len(FILES) == 38
    assert sum(path.stem.endswith("-pw") for path in FILES) == 7


@EVERY_FILE
def test_the_format_is_found_by_itself(path: Path) -> None:  # KEY-01, KEY-03, KEY-18
    kind, name, format, passphrase = facts(path)
    key = import_key(path.read_bytes(), passphrase)
    assert (key.algorithm, key.bits) == ALGORITHMS[name]
    assert key.has_private is (kind == "private")
    assert key.comment == ("comment" if format in WITH_COMMENT else "")
    assert key == public_line(name)
    if key.has_private:
        assert public_line(name).verify(b"data", key.sign(b"data"), key.signature_algorithms[0])


@EVERY_FILE
def test_the_format_can_be_demanded(path: Path) -> None:  # KEY-02
    _, _, format, passphrase = facts(path)
    key = import_key(path.read_text(), passphrase, format)
    assert import_key_file(path, passphrase, KeyFormat(format)) == key
    for other in KeyFormat:
        if other != format:
            with pytest.raises(KeyFormatError, match="expected"):
                import_key(path.read_text(), passphrase, other)


@EVERY_FILE
def test_line_ends_byte_order_marks_and_surrounding_text_do_not_matter(path: Path) -> None:
    _, name, format, passphrase = facts(path)
    text = path.read_text()
    key = public_line(name)
    assert import_key(text.replace("\n", "\r\n"), passphrase) == key
    assert import_key(("\ufeff\n" + text + "\n\n").encode(), passphrase) == key
    assert import_key(text.rstrip("\n"), passphrase) == key
    if format in ("pkcs1", "pkcs8", "sec1", "openssh", "ssh2"):
        assert import_key(f"Bag Attributes: none\n{text}trailing words\n", passphrase) == key


@EVERY_ENCRYPTED_FILE
def test_missing_and_wrong_passphrases_are_told_apart(path: Path) -> None:  # KEY-08
    data = path.read_bytes()
    for missing in (None, "", b""):
        with pytest.raises(PassphraseRequired, match="required"):
            import_key(data, missing)
    for wrong in ("wrong", "Password", "password ", "pässword", b"\xff\x00"):
        with pytest.raises(WrongPassphrase):
            import_key(data, wrong)
    assert import_key(data, PASSPHRASE.encode()).has_private


def test_the_wrong_passphrase_is_noticed_every_time() -> None:
    """One of 256 wrong passphrases leaves good padding behind: that must not be believed."""
    for name in ("rsa2048-pkcs1", "ecdsa384-sec1", "rsa2048-ssh2"):
        for number in range(600):
            with pytest.raises(WrongPassphrase):
                read(f"private-{name}-pw", str(number))


@pytest.mark.parametrize("format", ["pkcs1", "pkcs8", "openssh", "ssh2"])
def test_a_passphrase_for_a_plain_key_is_ignored(format: str) -> None:
    assert read(f"private-rsa2048-{format}", "needless") == public_line("rsa2048")


def test_a_passphrase_for_a_jwk_is_an_error() -> None:
    with pytest.raises(KeyFormatError, match="no encryption"):
        read("private-rsa2048-jwk", PASSPHRASE)


# Writing as recorded ----------------------------------------------------------------------------


@EVERY_FILE
def test_exports_equal_the_recorded_files(path: Path) -> None:  # KEY-04, KEY-05, KEY-06, KEY-07
    kind, name, format, passphrase = facts(path)
    key = read(f"private-{name}-pkcs8").with_comment("comment")
    check = recorded_random("cccccccc")
    if kind == "public":
        text = export_public_key(key, format, legacy_curve_names=True)
    elif passphrase is None:
        text = export_private_key(key, format, random=check, legacy_curve_names=True)
    elif format == "pkcs8":
        random = recorded_random("1fc0f960c951899a", "38af3d00ece643427c943073cb924fa2")
        text = pem.write_pkcs8_private(key, passphrase.encode(), random, 2048)
    elif format == "openssh":
        random = recorded_random("cccccccc", "c4dfebf5d0b80328eef007cdf1d64ba1")
        text = openssh_private.write(key, passphrase.encode(), random, 2)
    else:
        with pytest.raises(LocalProtocolError, match="not encrypted in the format"):  # KEY-09
            export_private_key(key, format, passphrase)
        return
    assert text == path.read_text()


def test_the_defaults_are_the_public_line_and_pkcs8() -> None:  # KEY-12
    key = KEYS["ssh-rsa"]
    assert export_public_key(key) == export_public_key(key, "ssh")
    assert export_public_key(key) == export_public_key(key, "openssh")
    assert export_private_key(key) == export_private_key(key, "pkcs8")


HOLDS = {
    "ssh-rsa": {"pkcs1", "ssh2", "pkcs8", "openssh", "jwk"},
    "ssh-ed25519": {"pkcs8", "openssh", "jwk"},
    "ecdsa-sha2-nistp256": {"sec1", "pkcs8", "openssh", "jwk"},
    "ecdsa-sha2-nistp384": {"sec1", "pkcs8", "openssh", "jwk"},
    "ecdsa-sha2-nistp521": {"sec1", "pkcs8", "openssh", "jwk"},
}


@EVERY_KEY
@pytest.mark.parametrize("format", KeyFormat)
def test_private_keys_go_out_and_come_back(key: Key, format: KeyFormat) -> None:
    if format not in HOLDS[key.algorithm]:
        with pytest.raises(LocalProtocolError, match="format"):
            export_private_key(key, format)
        return
    text = export_private_key(key, format)
    assert text.endswith("\n")
    again = import_key(text, format=format)
    assert again == key
    assert again.has_private
    assert again.comment == (key.comment if format in WITH_COMMENT else "")
    assert export_private_key(again, "pkcs8") == export_private_key(key, "pkcs8")  # KEY-17


@EVERY_KEY
@pytest.mark.parametrize("format", KeyFormat)
def test_public_keys_go_out_and_come_back(key: Key, format: KeyFormat) -> None:
    if format in ("sec1", "putty") or (format == "pkcs1" and key.algorithm != "ssh-rsa"):
        with pytest.raises(LocalProtocolError, match="format"):  # KEY-10
            export_public_key(key, format)
        return
    text = export_public_key(key, format)
    assert text == export_public_key(key.public(), format)
    again = import_key(text.encode())
    assert again == key
    assert not again.has_private
    assert again.comment == (key.comment if format in WITH_COMMENT else "")


@EVERY_KEY
@pytest.mark.parametrize("format", ["pkcs8", "openssh"])
def test_encrypted_keys_go_out_and_come_back(key: Key, format: str) -> None:
    text = export_private_key(key, format, "pässword")
    assert text != export_private_key(key, format, "pässword")  # other salt
    with pytest.raises(PassphraseRequired):
        import_key(text)
    with pytest.raises(WrongPassphrase):
        import_key(text, "password")
    again = import_key(text, "pässword")
    assert again == key
    assert again.sign(b"data")
    assert PASSPHRASE not in text


@pytest.mark.parametrize("format", ["pkcs8", "openssh"])
def test_weak_encryption_is_refused(format: str) -> None:
    key = KEYS["ssh-ed25519"]
    with pytest.raises(LocalProtocolError, match="empty passphrase"):
        export_private_key(key, format, "")
    for rounds in (-1, 0, 15, 1 << 31):
        with pytest.raises(LocalProtocolError, match="rounds"):
            export_private_key(key, format, "x", rounds=rounds)
    more = {"pkcs8": 100_001, "openssh": 17}[format]
    assert import_key(export_private_key(key, format, "x", rounds=more), "x") == key


@EVERY_KEY
@pytest.mark.parametrize("format", sorted(set(KeyFormat) - {"pkcs8", "openssh"}))
def test_other_formats_are_not_encrypted(key: Key, format: str) -> None:  # KEY-09
    for export in (export_private_key, export_private_key_bytes):
        with pytest.raises(LocalProtocolError, match="not encrypted in the format"):
            export(key, format, PASSPHRASE)


@pytest.mark.parametrize("format", KeyFormat)
def test_a_public_key_has_no_private_export(format: KeyFormat) -> None:  # KEY-11
    with pytest.raises(LocalProtocolError, match="no private part"):
        export_private_key(KEYS["ssh-rsa"].public(), format)


def test_unknown_formats_are_refused() -> None:
    key = KEYS["ssh-ed25519"]
    for act in (
        lambda: export_public_key(key, "pgp"),
        lambda: export_private_key(key, "pgp"),
        lambda: import_key(export_public_key(key), format="pgp"),
    ):
        with pytest.raises(ValueError, match="pgp"):
            act()


# One format at a time ---------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["pkcs1", "sec1", "pkcs8", "openssh", "ssh2"])
def test_binary_forms_are_read_with_and_without_the_format(format: str) -> None:  # KEY-13
    for path in sorted(DATA.glob(f"testkey-*-{format}.txt")):
        text = path.read_text()
        block = read_ssh2(text) if format == "ssh2" else read_pem(text)
        for demanded in (None, format):
            key = import_key(block.data, format=demanded)
            assert key == public_line(facts(path)[1])
            assert key.has_private is (facts(path)[0] == "private")
        bare = base64.encodebytes(block.data).decode()
        assert import_key(bare) == import_key(bare, format=format) == key
        other = "jwk" if format != "pkcs8" else "pkcs1"
        with pytest.raises(KeyFormatError, match="expected"):
            import_key(block.data, format=other)


@EVERY_KEY
@pytest.mark.parametrize("format", ["pkcs1", "sec1", "pkcs8", "openssh", "ssh2"])
def test_private_keys_go_out_and_come_back_as_bytes(key: Key, format: str) -> None:  # KEY-13
    check = recorded_random("cccccccc")
    if format not in HOLDS[key.algorithm]:
        with pytest.raises(LocalProtocolError, match="format"):
            export_private_key_bytes(key, format)
        return
    data = export_private_key_bytes(key, format, random=check)
    again = import_key(data, format=format)
    assert again == import_key(data) == key
    text = export_private_key(key, format, random=recorded_random("cccccccc"))
    # The comment of ssh2 stands in the armor, which bytes do not have.
    again = again.with_comment(key.comment)
    assert export_private_key(again, format, random=recorded_random("cccccccc")) == text
    begin = "---- BEGIN " if format == "ssh2" else "-----BEGIN "
    assert begin.encode() not in data


@pytest.mark.parametrize("format", ["pkcs8", "openssh"])
def test_encrypted_bytes_come_back(format: str) -> None:  # KEY-13
    key = KEYS["ssh-ed25519"]
    data = export_private_key_bytes(key, format, PASSPHRASE)
    with pytest.raises(PassphraseRequired):
        import_key(data)
    with pytest.raises(WrongPassphrase):
        import_key(data, "wrong")
    assert import_key(data, PASSPHRASE, format) == key
    with pytest.raises(LocalProtocolError, match="rounds"):
        export_private_key_bytes(key, format, PASSPHRASE, rounds=1)


@EVERY_KEY
@pytest.mark.parametrize("format", ["ssh", "openssh", "ssh2", "pkcs1", "pkcs8"])
def test_public_keys_go_out_and_come_back_as_bytes(key: Key, format: str) -> None:  # KEY-13
    if format == "pkcs1" and key.algorithm != "ssh-rsa":
        with pytest.raises(LocalProtocolError, match="format"):
            export_public_key_bytes(key, format)
        return
    data = export_public_key_bytes(key, format)
    assert data == export_public_key_bytes(key.public(), format)
    again = import_key(data)
    assert again == key
    assert not again.has_private
    again = again.with_comment(key.comment)
    assert export_public_key(again, format) == export_public_key(key, format)


@EVERY_FILE
def test_recorded_files_are_the_bytes_in_armor(path: Path) -> None:  # KEY-13
    kind, name, format, passphrase = facts(path)
    if format in ("jwk", "ssh") or passphrase:
        return
    text = path.read_text()
    block = read_ssh2(text) if format == "ssh2" else read_pem(text)
    key = read(f"private-{name}-pkcs8").with_comment("comment")
    if kind == "public":
        assert export_public_key_bytes(key, format) == block.data
    else:
        random = recorded_random("cccccccc")
        assert export_private_key_bytes(key, format, random=random) == block.data


def test_formats_without_bytes() -> None:
    key = KEYS["ssh-ed25519"]
    for export in (export_public_key_bytes, export_private_key_bytes):
        with pytest.raises(LocalProtocolError, match="jwk is text"):
            export(key, "jwk")
        with pytest.raises(ValueError, match="pgp"):
            export(key, "pgp")
    for format in ("sec1", "putty"):  # KEY-10
        with pytest.raises(LocalProtocolError, match="format"):
            export_public_key_bytes(key, format)
    with pytest.raises(LocalProtocolError, match="no private part"):  # KEY-11
        export_private_key_bytes(key.public())


@EVERY_KEY
def test_public_blobs_are_read(key: Key) -> None:
    assert import_key(key.public_blob) == key
    assert import_key(key.public_blob, format="ssh") == key
    with pytest.raises(KeyFormatError, match="expected"):
        import_key(key.public_blob, format="pkcs8")


def test_the_public_line() -> None:
    key = KEYS["ssh-rsa"]
    encoded = base64.b64encode(key.public_blob).decode()
    assert export_public_key(key) == f"ssh-rsa {encoded} two words\n"
    assert export_public_key(key.with_comment("")) == f"ssh-rsa {encoded}\n"
    assert import_public_key(f"  ssh-rsa\t{encoded}  a  b \n").comment == "a  b"
    assert (
        import_public_key(f"ssh-rsa {encoded} a\x0bb\x85c\u2028d").comment == "a\x0bb\x85c\u2028d"
    )
    assert import_public_key(f"rsa-sha2-512 {encoded}") == key
    assert import_public_key(f"ssh-rsa {encoded} gr\udcfcn").comment == "gr?n"
    for bad in (
        "",
        "ssh-rsa",
        f"ssh-ed25519 {encoded}",
        f"ssh-rsa {encoded[:-4]}",
        f"ssh-rsa {encoded}=",
        f"ssh-rsa {encoded}AAAA",
        f"ssh-rsa !{encoded}",
        f"ssh-rsa {encoded}\nssh-rsa {encoded}\n",
        export_private_key(key),
    ):
        with pytest.raises(KeyFormatError):
            import_public_key(bad)


def test_no_comment_can_add_a_line() -> None:
    for comment in ("a\nssh-rsa AAAA b", "a\r\nb", "a\u2028b", "a\x00\x1b[2Jb", "\n", "\ud800"):
        key = KEYS["ssh-ed25519"].with_comment(comment)
        line = export_public_key(key)
        assert len(line.splitlines()) == 1
        assert import_public_key(line) == key
        assert import_key(export_public_key(key, "ssh2")) == key
        assert import_key(export_private_key(key, "openssh")) == key
        assert import_key(export_public_key(key, "jwk")) == key
        rsa = KEYS["ssh-rsa"].with_comment(comment)
        assert import_key(export_private_key(rsa, "ssh2")) == rsa


def test_certificates_are_not_keys() -> None:
    name = "ssh-ed25519-cert-v01@openssh.com"
    blob = base64.b64encode(string(name) + string(bytes(32)) + string(bytes(32))).decode()
    with pytest.raises(KeyFormatError, match="is a certificate"):
        import_key(f"{name} {blob} comment")


def test_long_headers_go_on_in_the_next_line() -> None:
    key = KEYS["ssh-ed25519"].with_comment("word " * 100 + "end")
    text = export_public_key(key, "ssh2")
    assert max(map(len, text.splitlines())) <= 72
    assert import_key(text).comment == key.comment
    example = text.replace("Comment: ", "X-Vendor: a\nSubject: me\nCOMMENT: ", 1)
    assert import_key(example).comment == key.comment


def test_rfc_4716_comments_stand_with_or_without_quotes() -> None:
    text = export_public_key(KEYS["ssh-rsa"].with_comment("it"), "ssh2")
    assert import_key(text.replace('"it"', "it")).comment == "it"
    assert import_key(text.replace('"it"', '"')).comment == '"'
    assert import_key(text.replace('Comment: "it"\n', "")).comment == ""


def test_a_public_jwk_never_has_private_members() -> None:
    for key in KEYS.values():
        private = set(json.loads(export_private_key(key, "jwk")))
        public = set(json.loads(export_public_key(key, "jwk")))
        assert "d" in private
        assert public <= {"kty", "crv", "n", "e", "x", "y", "comment"}


@pytest.mark.parametrize("number", ["256", "384", "521"])
def test_curve_names_of_jwks(number: str) -> None:  # KEY-16
    key = KEYS[f"ecdsa-sha2-nistp{number}"]
    standard = export_private_key(key, "jwk")
    legacy = export_private_key(key, "jwk", legacy_curve_names=True)
    assert json.loads(standard)["crv"] == f"P-{number}"
    assert json.loads(legacy)["crv"] == f"nistp{number}"
    assert import_key(standard) == import_key(legacy) == key


@pytest.mark.parametrize("curve", ["P-256", "nistp256"])
def test_a_known_public_jwk(curve: str) -> None:  # KEY-16
    x = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
    y = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
    key = import_key(json.dumps({"kty": "EC", "crv": curve, "x": x, "y": y}))
    point = b"\x04" + base64.urlsafe_b64decode(x + "=") + base64.urlsafe_b64decode(y + "=")
    assert key.public_blob == string("ecdsa-sha2-nistp256") + string("nistp256") + string(point)
    assert not key.has_private


def test_the_jwk_of_rfc_8037() -> None:
    text = (
        '{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",'
        '"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
    )
    key = import_key(text)
    assert key.has_private
    members = json.loads(export_private_key(key, "jwk"))
    assert members == json.loads(text)


BAD_JWK_MEMBERS = [
    {"kty": "oct"},
    {"kty": ["EC"]},
    {"crv": "secp256k1"},
    {"crv": 256},
    {"x": None},
    {"x": 5},
    {"x": ""},
    {"x": "AAAA"},
    {"x": "+/=="},
    {"x": "AAAAA"},
    {"d": "AA"},
    {"d": "_" * 64},
    {"d": "AQ"},
    {"comment": 7},
]


@pytest.mark.parametrize("change", BAD_JWK_MEMBERS, ids=str)
def test_bad_jwk_members(change: dict[str, object]) -> None:
    members = json.loads((DATA / "testkey-private-ecdsa384-jwk.txt").read_text())
    with pytest.raises(KeyFormatError):
        import_key(json.dumps(members | change))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"kty":"EC"}',
        '{"kty":"RSA","kty":"EC"}',
        '{"a":' * 50_000,
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"kty":' + "9" * 100_000 + "}",
        '{"kty":"RSA","n":"AQAB","e":"AQAB"}',
    ],
    ids=range(8),
)
def test_json_that_is_no_key(text: str) -> None:
    with pytest.raises(KeyFormatError):
        import_key(text)


def test_every_member_of_an_rsa_jwk_counts() -> None:
    members = json.loads((DATA / "testkey-private-rsa2048-jwk.txt").read_text())
    for name in ("n", "e", "d", "p", "q", "dp", "dq", "qi"):
        without = {key: value for key, value in members.items() if key != name}
        if name != "d":
            with pytest.raises(KeyFormatError):
                import_key(json.dumps(without))
        changed = members | {name: ("B" if members[name][0] != "B" else "C") + members[name][1:]}
        with pytest.raises(KeyFormatError):
            import_key(json.dumps(changed))


def short_scalar_key() -> Key:
    """Return a P-256 key whose scalar begins with a zero byte."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return Key.from_cryptography(ec.derive_private_key(0x1234 << 200, ec.SECP256R1()))


def test_short_scalars_are_written_whole_and_read_either_way() -> None:
    key = short_scalar_key()
    scalar = (0x1234 << 200).to_bytes(32, "big")
    for format in ("sec1", "pkcs8"):
        assert der.octet_string(scalar) in read_pem(export_private_key(key, format)).data
    bare = der.sequence(
        der.integer(1),
        der.octet_string(scalar.lstrip(b"\0")),
        der.context(0, der.object_identifier("1.2.840.10045.3.1.7")),
    )
    assert import_key(bare) == key
    too_long = bare.replace(
        der.octet_string(scalar.lstrip(b"\0")), der.octet_string(b"\0" + scalar)
    )
    with pytest.raises(KeyFormatError):
        import_key(der.sequence(too_long[2:]))


def test_scalars_with_the_zero_of_a_signed_number() -> None:
    """As PuTTYgen exports them in OpenSSH's old form: half of all P-256 and P-384 keys."""
    key = next(iter(large_scalar_keys()))
    scalar = key.to_cryptography().private_numbers().private_value.to_bytes(33, "big")

    def sec1(scalar: bytes) -> bytes:
        curve = der.context(0, der.object_identifier("1.2.840.10045.3.1.7"))
        return der.sequence(der.integer(1), der.octet_string(scalar), curve)

    assert import_key(sec1(scalar)) == key
    for wrong in (b"\0" + scalar, scalar + b"\0", b"\x01" + scalar[1:]):
        with pytest.raises(KeyFormatError):
            import_key(sec1(wrong))


def test_ed25519_with_its_public_key_inside_pkcs8() -> None:  # RFC 8410 section 10.3
    text = (
        "-----BEGIN PRIVATE KEY-----\n"
        "MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"
        "oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrB\n"
        "Z9w7lshQhqowtrbLDFw4rXAxZuE=\n"
        "-----END PRIVATE KEY-----\n"
    )
    key = import_key(text)
    assert key.public_blob[-32:] == base64.b64decode("Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=")
    with pytest.raises(KeyFormatError, match="does not match"):
        import_key(text.replace("rXAxZuE=", "rXAxZuA="))


@pytest.mark.parametrize("key", [KEYS["ecdsa-sha2-nistp256"], KEYS["ssh-rsa"]], ids=["ec", "rsa"])
def test_pem_labels_must_agree_with_the_contents(key: Key) -> None:
    data = read_pem(export_private_key(key)).data
    for label in pem.FORMATS:
        if label != "PRIVATE KEY":
            with pytest.raises(KeyFormatError):
                import_key(armored(label, data), PASSPHRASE)
    for label in ("DSA PRIVATE KEY", "CERTIFICATE", "X", ""):
        with pytest.raises(KeyFormatError):
            import_key(armored(label, data))


@pytest.mark.parametrize(
    "change",
    [
        ("4,ENCRYPTED", "4,CLEAR"),
        ("AES-128-CBC", "DES-CBC"),
        ("AES-128-CBC", "AES-256-CBC"),
        ("DEK-Info: ", "DEK: "),
        ("A6F1", "A6"),
        ("A6F1", "zzzz"),
        ("RSA PRIVATE", "PRIVATE"),
        ("-----END RSA PRIVATE KEY-----", ""),
    ],
    ids=str,
)
def test_bad_headers_of_encrypted_pem(change: tuple[str, str]) -> None:
    text = (DATA / "testkey-private-rsa2048-pkcs1-pw.txt").read_text()
    with pytest.raises(KeyFormatError):
        import_key(text.replace(*change), PASSPHRASE)


# OpenSSH's private format, piece by piece --------------------------------------------------------


def container(key: Key, fields: bytes, padding: bytes = b"", checks: bytes = bytes(8)) -> str:
    section = checks + fields + padding
    data = b"openssh-key-v1\0" + string("none") + string("none") + string("")
    data += uint32(1) + string(key.public_blob) + string(section)
    return armored("OPENSSH PRIVATE KEY", data, 70)


def ed25519_fields(key: Key) -> bytes:
    private = key.to_cryptography()
    public = private.public_key().public_bytes_raw()
    seed = private.private_bytes_raw()
    return string("ssh-ed25519") + string(public) + string(seed + public) + string("word")


def test_writers_that_differ_are_read() -> None:
    """Scalars without their leading zero byte, padding whose count starts again."""
    key = KEYS["ssh-ed25519"]
    fields = ed25519_fields(key)
    for padding in (b"", b"\1\2\3", b"\1\2\3\4\5\1\2\3\4\5\6\7\x08", bytes(16)):
        assert import_key(container(key, fields, padding)) == key
    ec_key = next(iter(large_scalar_keys()))
    scalar = ec_key.to_cryptography().private_numbers().private_value.to_bytes(32, "big")
    fields = ec_key.public_blob + string(scalar) + string("word")
    assert import_key(container(ec_key, fields)) == ec_key
    assert import_key(container(ec_key, fields)).comment == "word"


def large_scalar_keys() -> Iterator[Key]:
    while True:
        key = generate_key("ecdsa-sha2-nistp256")
        if key.to_cryptography().private_numbers().private_value >> 255:
            yield key


def test_halves_of_different_keys_are_refused() -> None:
    key, other = KEYS["ssh-ed25519"], generate_key("ssh-ed25519")
    with pytest.raises(KeyFormatError, match="does not match"):
        import_key(container(other, ed25519_fields(key)))
    with pytest.raises(KeyFormatError, match="does not match"):
        import_key(container(KEYS["ssh-rsa"], ed25519_fields(key)))
    public = other.public_blob[-32:]
    seed = key.to_cryptography().private_bytes_raw()
    fields = string("ssh-ed25519") + string(public) + string(seed + public) + string("")
    with pytest.raises(KeyFormatError, match="does not match"):
        import_key(container(other, fields))
    ec_key, ec_other = generate_key("ecdsa-sha2-nistp256"), KEYS["ecdsa-sha2-nistp256"]
    scalar = mpint(ec_key.to_cryptography().private_numbers().private_value)
    with pytest.raises(KeyFormatError, match="does not match"):
        import_key(container(ec_other, ec_other.public_blob + scalar + string("")))


def test_bad_containers_are_refused() -> None:
    key = KEYS["ssh-ed25519"]
    fields = ed25519_fields(key)
    for bad in (
        container(key, fields, bytes(33)),
        container(key, fields, checks=bytes(7) + b"\1"),
        container(key, fields[:-1]),
        container(key, string("ssh-dss") + fields),
        container(key, b""),
        rewrap(container(key, fields), lambda data: data + b"\0"),
        rewrap(container(key, fields), lambda data: data.replace(uint32(1), uint32(2), 1)),
        rewrap(container(key, fields), lambda data: data.replace(uint32(1), uint32(0), 1)),
        rewrap(container(key, fields), lambda data: b"openssh-key-v2\0" + data[15:]),
        rewrap(container(key, fields), lambda data: data.replace(b"none", b"nono", 1)),
    ):
        with pytest.raises(KeyFormatError):
            import_key(bad, PASSPHRASE)


# Numbers that do not belong together -------------------------------------------------------------


def rsa_numbers() -> dict[str, int]:
    numbers = read("private-rsa2048-pkcs1").to_cryptography().private_numbers()
    public = numbers.public_numbers
    return {
        "n": public.n,
        "e": public.e,
        "d": numbers.d,
        "p": numbers.p,
        "q": numbers.q,
        "dp": numbers.dmp1,
        "dq": numbers.dmq1,
        "qi": numbers.iqmp,
    }


def pkcs1(numbers: dict[str, int]) -> bytes:
    return der.sequence(*map(der.integer, (0, *numbers.values())))


def test_rsa_numbers_that_do_not_belong_together_are_refused_quickly() -> None:
    numbers = rsa_numbers()
    assert import_key(pkcs1(numbers)) == public_line("rsa2048")
    swapped = numbers | {"p": numbers["q"], "q": numbers["p"]}
    one = numbers | {"p": 1, "q": numbers["n"]}
    for bad in (
        *(numbers | {name: numbers[name] + 2} for name in numbers),
        *(numbers | {name: value} for name in numbers for value in (0, 1, 1 << 40_000)),
        numbers | {"d": numbers["d"] + numbers["n"]},
        numbers | {"qi": numbers["qi"] + numbers["p"]},
        swapped,
        one,
    ):
        started = time.process_time()
        with pytest.raises(KeyFormatError):
            import_key(pkcs1(bad))
        assert time.process_time() - started < 0.1


def test_rsa_factors_that_are_not_prime_are_refused() -> None:
    numbers = rsa_numbers()
    primes = [numbers["p"], numbers["q"]]
    other = generate_key("rsa-sha2-256").to_cryptography().private_numbers()
    p, q = primes[0] * primes[1], other.p
    e = 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    composite = {
        "n": p * q,
        "e": e,
        "d": d,
        "p": p,
        "q": q,
        "dp": d % (p - 1),
        "dq": d % (q - 1),
        "qi": pow(q, -1, p),
    }
    with pytest.raises(KeyFormatError, match="do not make a valid signature"):
        import_key(pkcs1(composite))


@pytest.mark.parametrize(
    "identifier, size, order",
    [
        ("1.2.840.10045.3.1.7", 32, 2**256 - 2**224 + 2**192 - 0x4319055258E8617B0C46353D039CDAAF),
        ("1.3.132.0.34", 48, 2**384 - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D),
        (
            "1.3.132.0.35",
            66,
            2**521 - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
        ),
    ],
    ids=["P-256", "P-384", "P-521"],
)
def test_scalars_out_of_range_are_refused(identifier: str, size: int, order: int) -> None:
    def key_of(scalar: int) -> Key:
        return import_key(
            der.sequence(
                der.integer(1),
                der.octet_string(scalar.to_bytes(size, "big")),
                der.context(0, der.object_identifier(identifier)),
            )
        )

    for scalar in (1, order - 1):
        assert key_of(scalar).sign(b"data")
    for scalar in (0, order, order + 1, (1 << 8 * size) - 1):
        with pytest.raises(KeyFormatError, match="out of range"):
            key_of(scalar)


@pytest.mark.parametrize(
    "data",
    [
        b"\x30\x80\x02\x01\x00\x00\x00",
        b"\x30\x81\x03\x02\x01\x00",
        b"\x30\x82\x00\x03\x02\x01\x00",
        b"\x30\x84\xff\xff\xff\xff",
        b"\x30\x88\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x30\x00",
        b"\x30",
        b"\x30\x03\x02\x01\x80",
        b"\x30\x04\x02\x02\x00\x01",
        b"\x30\x02\x02\x00",
        b"\x30\x82\xff\xff" + b"\x30\x80" * 20_000,
        b"",
        b"\0",
        b"\0\0\0",
        b"openssh-key-v1\0",
        b"\x3f\x6f\xf9\xeb",
        b"\xff\xfe\x00",
        b"-----BEGIN PRIVATE KEY-----",
        b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\nA: b\n-----END PRIVATE KEY-----",
        b"---- BEGIN SSH2 PUBLIC KEY ----\n---- END SSH2 PUBLIC KEY ----",
        b"---- BEGIN SSH2 PUBLIC KEY ----\nComment: a\\",
        b"PuTTY-User-Key-File-3: ssh-rsa",
        b"PuTTY-User-Key-File-1: ssh-rsa\n",
        b"MAA=",
        b"hello",
    ],
)
def test_odd_encodings_are_refused(data: bytes) -> None:
    with pytest.raises(KeyFormatError):
        import_key(data)
    for format in KeyFormat:
        with pytest.raises(KeyFormatError):
            import_key(data, PASSPHRASE, format)


@pytest.mark.parametrize(
    "filling",
    [b"\\\n", b"\n", b"a: b\n", b"A" * 63 + b"\n", b"x" * 500 + b"\\\n", b"-----BEGIN X-----\n"],
    ids=repr,
)
@pytest.mark.parametrize(
    "begin", [b"---- BEGIN SSH2 PUBLIC KEY ----\nComment: ", b"-----BEGIN PRIVATE KEY-----\n", b"{"]
)
def test_large_texts_are_refused_quickly(begin: bytes, filling: bytes) -> None:
    data = begin + filling * ((1024 * 1024 - len(begin)) // len(filling))
    started = time.process_time()
    with pytest.raises(KeyFormatError):
        import_key(data)
    assert time.process_time() - started < 2
    with pytest.raises(KeyFormatError, match="more than"):
        import_key(data + filling * 10)


# Bounds of the work that a file can ask for ------------------------------------------------------


def with_rounds(rounds: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        salt = bytes.fromhex("c4dfebf5d0b80328eef007cdf1d64ba1")
        return data.replace(salt + uint32(2), salt + uint32(rounds))

    return change


def test_a_known_answer_of_bcrypt() -> None:  # ALG-22
    derived = encryption.bcrypt_key(b"password", b"salt1234567890ab", 16, 48)
    assert derived.hex() == (
        "0b1cbc9575040af2e1cf0fcbc1446951171cf7614e9855991049265bb1e58fd1"
        "775d0099450f9105084f9d5d7c763120"
    )


@pytest.mark.parametrize("rounds", [0, 2049, 1 << 31, (1 << 32) - 1])
def test_bcrypt_rounds_are_bounded(rounds: int) -> None:
    """HR-47, T-27."""
    text = (DATA / "testkey-private-rsa2048-openssh-pw.txt").read_text()
    started = time.process_time()
    with pytest.raises(KeyFormatError, match="bcrypt rounds"):
        import_key(rewrap(text, with_rounds(rounds)), PASSPHRASE)
    assert time.process_time() - started < 0.1


def pbes2(iterations: int, salt: bytes = bytes(8), *, length: int | None = None) -> bytes:
    function = der.sequence(der.object_identifier("1.2.840.113549.2.9"), der.null())
    key_length = b"" if length is None else der.integer(length)
    parameters = der.sequence(der.octet_string(salt), der.integer(iterations), key_length, function)
    derivation = der.sequence(der.object_identifier("1.2.840.113549.1.5.12"), parameters)
    cipher = der.sequence(
        der.object_identifier("2.16.840.1.101.3.4.1.42"), der.octet_string(bytes(16))
    )
    scheme = der.sequence(
        der.object_identifier("1.2.840.113549.1.5.13"), der.sequence(derivation, cipher)
    )
    return der.sequence(scheme, der.octet_string(bytes(64)))


def test_pbkdf2_iterations_are_bounded() -> None:
    """HR-47."""
    with pytest.raises(WrongPassphrase):
        import_key(pbes2(1), "x")
    with pytest.raises(WrongPassphrase):
        import_key(pbes2(1, length=32), "x")
    with pytest.raises(KeyFormatError, match="key length"):
        import_key(pbes2(1, length=16), "x")
    for iterations in (0, 5_000_001, 1 << 31, 1 << 4000):
        started = time.process_time()
        with pytest.raises(KeyFormatError, match="iterations"):
            import_key(pbes2(iterations), "x")
        assert time.process_time() - started < 0.1
    for salt in (b"", bytes(2000)):
        with pytest.raises(KeyFormatError, match="salt"):
            import_key(pbes2(1, salt), "x")


def test_argon2_is_bounded() -> None:
    """HR-47."""
    fine = {"passes": 1, "lanes": 1, "kibibytes": 8}
    assert len(encryption.argon2_key("Argon2id", b"x", bytes(16), size=80, **fine)) == 80
    for name, value in (
        ("passes", 0),
        ("passes", 1 << 30),
        ("lanes", 0),
        ("lanes", 17),
        ("kibibytes", 7),
        ("kibibytes", 1 << 20),
    ):
        with pytest.raises(KeyFormatError, match="bounds"):
            encryption.argon2_key("Argon2id", b"x", bytes(16), size=80, **(fine | {name: value}))
    for flavour in ("Argon2x", "__all__", "InvalidKey", ""):
        with pytest.raises(KeyFormatError, match="unknown key derivation"):
            encryption.argon2_key(flavour, b"x", bytes(16), size=80, **fine)
    with pytest.raises(KeyFormatError):
        encryption.argon2_key("Argon2id", b"x", b"short", size=80, **fine)


def test_an_argon2_that_the_library_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(argon2, "Argon2i", raising=False)
    with pytest.raises(KeyFormatError, match="too old for Argon2i"):
        encryption.argon2_key("Argon2i", b"x", bytes(16), passes=1, lanes=1, kibibytes=8, size=80)


# Files -------------------------------------------------------------------------------------------


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.usefixtures("open_umask")
def test_private_files_are_created_with_mode_0600(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # HR-47, T-27, KEY-14
    """HR-47, T-27, KEY-14."""
    key = KEYS["ssh-ed25519"]
    path = tmp_path / "key"
    modes: list[int] = []
    real_fdopen = os.fdopen

    def looking_fdopen(descriptor: int, mode: str) -> object:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return real_fdopen(descriptor, mode)

    monkeypatch.setattr(os, "fdopen", looking_fdopen)
    monkeypatch.setattr(os, "chmod", lambda *arguments: pytest.fail("chmod"))
    monkeypatch.setattr(os, "fchmod", lambda *arguments: pytest.fail("fchmod"))
    export_private_key_file(key, path, "openssh", PASSPHRASE)
    assert modes == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = import_key_file(str(path), PASSPHRASE)
    assert again == key
    assert again.comment == key.comment
    export_public_key_file(key, tmp_path / "key.pub")
    assert import_key_file(tmp_path / "key.pub") == key
    assert (tmp_path / "key.pub").read_text() == export_public_key(key)


def test_existing_files_and_links_are_never_written(tmp_path: Path) -> None:
    """HR-47, T-27."""
    key = KEYS["ssh-ed25519"]
    existing = tmp_path / "existing"
    existing.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    for path in (existing, link):
        with pytest.raises(FileExistsError):
            export_private_key_file(key, path)
        with pytest.raises(FileExistsError):
            export_public_key_file(key, path)
    assert existing.read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


def test_a_refused_export_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError):
        export_private_key_file(KEYS["ssh-rsa"], tmp_path / "key", "sec1")
    with pytest.raises(FileNotFoundError):
        export_private_key_file(KEYS["ssh-rsa"], tmp_path / "none" / "key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_is_full_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    real_open = os.open

    def open_full(name: object, flags: int, mode: int = 0o777, **options: object) -> int:
        os.close(real_open(path, flags, mode))
        return real_open("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(os, "open", open_full)
    with pytest.raises(OSError, match="No space left"):
        export_private_key_file(KEYS["ssh-ed25519"], path)
    monkeypatch.undo()
    assert not path.exists()


def test_files_beyond_1_mib_are_not_read(tmp_path: Path) -> None:
    """HR-47, T-27."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(10 << 30)  # a hole: 10 GiB that are not there
    with pytest.raises(KeyFormatError, match="more than 1048576 bytes"):
        import_key_file(path)
    with pytest.raises(FileNotFoundError):
        import_key_file(tmp_path / "none")


# Damage ------------------------------------------------------------------------------------------

TEXTS = {path.stem[8:]: path.read_bytes() for path in FILES if "4096" not in path.stem} | {
    f"{format}-ed25519": export_private_key(KEYS["ssh-ed25519"], format).encode()
    for format in ("openssh", "pkcs8", "jwk")
}


def check_damaged(data: str | bytes) -> None:
    """Import damaged data: a key that comes out must be whole, an error must be ours."""
    with pytest.MonkeyPatch.context() as patch:
        # The ceilings themselves are tested above; here they only cost time.
        patch.setattr(encryption, "MAX_BCRYPT_ROUNDS", 16)
        patch.setattr(encryption, "MAX_PBKDF2_ITERATIONS", 4096)
        started = time.thread_time()
        try:
            key = import_key(data, None if data[:1] in ("{", b"{") else PASSPHRASE)
        except KeyFormatError:
            return
        finally:
            assert time.thread_time() - started < 2
    assert Key.from_public_blob(key.public_blob) == key
    if key.has_private:
        algorithm = key.signature_algorithms[0]
        assert key.verify(b"data", key.sign(b"data"), algorithm)


@pytest.mark.parametrize("name", TEXTS)
def test_truncated_files_are_refused(name: str) -> None:
    data = TEXTS[name]
    for size in range(0, len(data) - 60, 13):
        with pytest.raises(KeyFormatError):
            import_key(data[:size], None if "jwk" in name else PASSPHRASE)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_flipped_bits_of_the_text(data: st.DataObject) -> None:
    text = bytearray(TEXTS[data.draw(st.sampled_from(sorted(TEXTS)))])
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    check_damaged(bytes(text))


BLOCKS = sorted(name for name, text in TEXTS.items() if text.startswith(b"---"))


def block_of(name: str) -> Block:
    text = TEXTS[name].decode()
    return read_pem(text) if text.startswith("-----") else read_ssh2(text)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_flipped_bytes_of_the_contents(data: st.DataObject) -> None:
    block = block_of(data.draw(st.sampled_from(BLOCKS)))
    contents = bytearray(block.data)
    for _ in range(data.draw(st.integers(1, 3))):
        # Structure stands at the beginning, so half of the damage goes there.
        last = data.draw(st.sampled_from([min(120, len(contents)) - 1, len(contents) - 1]))
        contents[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    check_damaged(bytes(contents))
    if not block.headers and block.label.isupper() and "SSH2" not in block.label:
        check_damaged(armored(block.label, bytes(contents)))


@pytest.mark.parametrize("name", BLOCKS)
def test_lying_lengths_take_no_memory(name: str) -> None:
    """T-24: wherever a number may be a length, a huge one allocates nothing."""
    contents = block_of(name).data
    tracemalloc.start()
    try:
        for start in range(0, min(96, len(contents) - 4), 2):
            for lie in (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x84\x7f\xff\xff"):
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
                check_damaged(contents[:start] + lie + contents[start + 4 :])
                _, peak = tracemalloc.get_traced_memory()
                assert peak - before < 4 * 1024 * 1024, (start, lie)
    finally:
        tracemalloc.stop()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    start=st.sampled_from([b"", b"0", b"\0\0\0", b"{", b"ssh-", b"-----BEGIN ", ssh_com.MAGIC]),
    rest=st.binary(max_size=200),
)
def test_garbage(start: bytes, rest: bytes) -> None:
    check_damaged(start + rest)


# The usual tools ---------------------------------------------------------------------------------


def needs(tool: str) -> pytest.MarkDecorator:
    """Skip without a tool; in CI go on and fail."""
    is_missing = shutil.which(tool) is None and "CI" not in os.environ
    return pytest.mark.skipif(is_missing, reason=f"no {tool}")


def needs_argon2(flavour: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not hasattr(argon2, flavour), reason=f"this cryptography has no {flavour}"
    )


def run(*command: str | Path, stdin: str = "") -> str:
    done = subprocess.run(
        [*command], input=stdin, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def private_file(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@needs("ssh-keygen")
@EVERY_KEY
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_ssh_keygen_reads_what_we_write(key: Key, passphrase: str | None, tmp_path: Path) -> None:
    """Several comments, so that every length of padding comes up."""
    formats = {"openssh", "pkcs8"} if passphrase else HOLDS[key.algorithm] - {"jwk", "ssh2"}
    if key.algorithm == "ssh-ed25519":
        formats -= {"pkcs8"}  # the OpenSSL that ssh-keygen was built with may not do that
    for format in sorted(formats):
        lengths = range(0, 16, 1 if passphrase is None else 9) if format == "openssh" else [3]
        for length in lengths:
            text = export_private_key(key.with_comment("c" * length), format, passphrase)
            path = private_file(tmp_path / f"{format}{length}", text)
            line = run("ssh-keygen", "-y", "-P", passphrase or "", "-f", path)
            assert import_public_key(line) == key
            if format == "openssh":
                assert import_public_key(line).comment == "c" * length


@needs("ssh-keygen")
def test_ssh_keygen_reads_large_and_small_scalars(tmp_path: Path) -> None:
    for number, key in enumerate([short_scalar_key(), next(iter(large_scalar_keys()))]):
        path = private_file(tmp_path / str(number), export_private_key(key, "openssh"))
        assert import_public_key(run("ssh-keygen", "-y", "-f", path)) == key


@needs("ssh-keygen")
@EVERY_KEY
def test_ssh_keygen_reads_our_public_keys(key: Key, tmp_path: Path) -> None:
    for format, name in (("ssh2", "RFC4716"), ("pkcs8", "PKCS8"), ("pkcs1", "PEM")):
        if format == "pkcs1" and key.algorithm != "ssh-rsa":
            continue
        if format == "pkcs8" and key.algorithm == "ssh-ed25519":
            continue  # as above
        path = tmp_path / format
        path.write_text(export_public_key(key, format))
        assert import_public_key(run("ssh-keygen", "-i", "-m", name, "-f", path)) == key


@needs("ssh-keygen")
def test_ssh_keygen_reads_our_ssh_com_keys(tmp_path: Path) -> None:
    key = KEYS["ssh-rsa"]
    path = private_file(tmp_path / "key", export_private_key(key, "ssh2"))
    assert import_key(run("ssh-keygen", "-i", "-m", "RFC4716", "-f", path)) == key


KINDS = [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "2048")]


@needs("ssh-keygen")
@pytest.mark.parametrize("kind, bits", KINDS)
@pytest.mark.parametrize("passphrase", ["", PASSPHRASE])
@pytest.mark.parametrize("form", ["RFC4716", "PEM", "PKCS8"])
def test_we_read_what_ssh_keygen_writes(
    kind: str, bits: str, passphrase: str, form: str, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    command = ("ssh-keygen", "-q", "-t", kind, "-b", bits, "-C", "some words", "-a", "4")
    run(*command, "-m", form, "-N", passphrase, "-f", path)
    public = import_key_file(path.with_suffix(".pub"))
    key = import_key_file(path, passphrase)
    assert key == public
    assert public.comment == "some words"
    if form == "RFC4716" or kind == "ed25519":
        assert key.comment == "some words"
    if passphrase:
        with pytest.raises(WrongPassphrase):
            import_key_file(path, "wrong")
        with pytest.raises(PassphraseRequired):
            import_key_file(path)
    for other in ("RFC4716", "PEM", "PKCS8"):
        if kind != "ed25519" or other == "RFC4716":
            text = run("ssh-keygen", "-e", "-m", other, "-f", path.with_suffix(".pub"))
            assert import_key(text) == key


@needs("ssh-keygen")
@pytest.mark.parametrize("cipher", openssh_private._CIPHERS)
def test_we_read_every_cipher_of_ssh_keygen(cipher: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    command = ("ssh-keygen", "-q", "-t", "ed25519", "-C", "words", "-a", "2", "-Z", cipher)
    run(*command, "-N", PASSPHRASE, "-f", path)
    key = import_key_file(path, PASSPHRASE)
    assert key == import_key_file(path.with_suffix(".pub"))
    assert key.comment == "words"
    with pytest.raises(WrongPassphrase):
        import_key_file(path, "wrong")
    text = path.read_text()
    for change in (lambda data: data + b"\0", lambda data: data[:-1]):
        with pytest.raises(KeyFormatError):
            import_key(rewrap(text, change), PASSPHRASE)


@needs("openssl")
@EVERY_KEY
def test_openssl_reads_what_we_write(key: Key, tmp_path: Path) -> None:
    public = export_public_key(key, "pkcs8")
    for format in sorted(HOLDS[key.algorithm] & {"pkcs1", "sec1", "pkcs8"}):
        path = private_file(tmp_path / format, export_private_key(key, format))
        assert run("openssl", "pkey", "-in", path, "-pubout") == public
        run("openssl", "pkey", "-in", path, "-check", "-noout")
    path = private_file(tmp_path / "encrypted", export_private_key(key, "pkcs8", PASSPHRASE))
    words = ("-passin", f"pass:{PASSPHRASE}", "-pubout")
    assert run("openssl", "pkey", "-in", path, *words) == public
    if key.algorithm == "ssh-rsa":
        path = tmp_path / "public"
        path.write_text(export_public_key(key, "pkcs1"))
        assert run("openssl", "rsa", "-RSAPublicKey_in", "-in", path, "-pubout") == public


WITHOUT_PRF = """\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGNMEkGCSqGSIb3DQEFDTA8MBsGCSqGSIb3DQEFDDAOBAhrNyUZmnXQ+QICCAAw
HQYJYIZIAWUDBAEqBBDGayvkP4fH/7dwGMwKr8lEBECYYxPqbRLgTJuSsaQslKec
HkniFl0N4Bvd5jt3PyfZ14RmTb4BbT/5QJEgyh2k3cH4swPcMLkSGCsgiysI+8w7
-----END ENCRYPTED PRIVATE KEY-----
"""
"""A key of OpenSSL's, whose parameters of PBKDF2 end with the iterations."""
WITHOUT_PRF_LINE = "AAAAC3NzaC1lZDI1NTE5AAAAICfsM1Q+r4z0xW/WLd7anDUpnN2YwyH1qDz7H6XAm+fn"


def test_pbkdf2_without_a_function_means_hmac_sha1() -> None:  # KEY-15
    parameters = bytes.fromhex("300e040873616c7431323334020203e8")
    derivation = der.DerReader(der.object_identifier("1.2.840.113549.1.5.12") + parameters)
    derived = pem._read_pbkdf2(derivation, b"password", 32)
    assert derived == hashlib.pbkdf2_hmac("sha1", b"password", b"salt1234", 1000, 32)
    key = import_key(WITHOUT_PRF, PASSPHRASE)
    assert key == import_public_key(f"ssh-ed25519 {WITHOUT_PRF_LINE}")
    with pytest.raises(WrongPassphrase):
        import_key(WITHOUT_PRF, "wrong")


@needs("openssl")
@EVERY_KEY
def test_we_read_the_encryptions_of_openssl(key: Key, tmp_path: Path) -> None:  # KEY-15
    path = private_file(tmp_path / "key", export_private_key(key))
    head = ("openssl", "pkcs8", "-topk8", "-in", path, "-passout", f"pass:{PASSPHRASE}")
    for options in (
        ("-v2", "aes-128-cbc"),
        ("-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA1"),
        ("-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512"),
        ("-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA384", "-iter", "1000"),
        ("-v2", "des3"),
    ):
        text = run(*head, *options)
        assert import_key(text, PASSPHRASE) == key
        with pytest.raises(WrongPassphrase):
            import_key(text, "wrong")
    for other in (("-scrypt",), ("-v2", "camellia-256-cbc")):
        with pytest.raises(KeyFormatError, match="must use"):
            import_key(run(*head, *other), PASSPHRASE)


@needs("openssl")
@pytest.mark.parametrize("algorithm, tool", [("ssh-rsa", "rsa"), ("ecdsa-sha2-nistp256", "ec")])
def test_we_read_the_older_encryption_of_openssl(algorithm: str, tool: str, tmp_path: Path) -> None:
    key = KEYS[algorithm]
    path = private_file(tmp_path / "key", export_private_key(key))
    for cipher in ("-aes128", "-aes192", "-aes256", "-des3"):
        older = ["-traditional"] if tool == "rsa" else []
        text = run("openssl", tool, "-in", path, cipher, "-passout", f"pass:{PASSPHRASE}", *older)
        assert "DEK-Info" in text
        assert import_key(text, PASSPHRASE) == key
        with pytest.raises(PassphraseRequired):
            import_key(text)


@needs("openssl")
def test_keys_of_openssl_that_ssh_does_not_use_are_refused() -> None:
    for options in (
        ("ecparam", "-name", "secp256k1", "-genkey"),
        ("ecparam", "-name", "prime256v1", "-genkey", "-param_enc", "explicit"),
        ("genpkey", "-algorithm", "X25519"),
        ("genpkey", "-algorithm", "ED448"),
        ("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048"),
        ("genrsa", "-primes", "3", "2048"),
        ("genrsa", "1024"),
    ):
        with pytest.raises(KeyFormatError):
            import_key(run("openssl", *options))
    text = run("openssl", "ecparam", "-name", "secp384r1", "-genkey")
    assert "EC PARAMETERS" in text
    assert import_key(text).algorithm == "ecdsa-sha2-nistp384"
    compressed = run(
        "openssl",
        "ec",
        "-pubout",
        "-conv_form",
        "compressed",
        stdin=export_private_key(KEYS["ecdsa-sha2-nistp256"]),
    )
    with pytest.raises(KeyFormatError, match="uncompressed"):
        import_key(compressed)


def passphrase_file(tmp_path: Path) -> Path:
    return private_file(tmp_path / "passphrase", PASSPHRASE)


def to_putty(tmp_path: Path, key: Key, passphrase: bool, parameters: str) -> str:
    source = private_file(tmp_path / "source", export_private_key(key, "openssh"))
    target = tmp_path / "key.ppk"
    protection = passphrase_file(tmp_path) if passphrase else private_file(tmp_path / "no", "")
    run(
        "puttygen", source, "-O", "private", "-o", target, "--ppk-param", parameters,
        "--new-passphrase", protection, "-P", "-q", "-C", key.comment,
    )  # fmt: skip
    return target.read_text()


@needs("puttygen")
@EVERY_KEY
@pytest.mark.parametrize(
    "parameters",
    [
        "version=2",
        "version=3,memory=64,passes=2",
        pytest.param("version=3,kdf=argon2i,memory=64", marks=needs_argon2("Argon2i")),
        pytest.param("version=3,kdf=argon2d,memory=64", marks=needs_argon2("Argon2d")),
    ],
)
def test_we_read_what_puttygen_writes(key: Key, parameters: str, tmp_path: Path) -> None:
    plain = to_putty(tmp_path, key, False, parameters)
    assert import_key(plain, format="putty") == key
    assert import_key(plain.encode()).comment == key.comment
    assert import_key(plain).sign(b"data")
    encrypted = to_putty(tmp_path, key, True, parameters)
    assert "Encryption: aes256-cbc" in encrypted
    assert import_key(encrypted.replace("\n", "\r\n"), PASSPHRASE) == key
    with pytest.raises(WrongPassphrase):
        import_key(encrypted, "wrong")
    with pytest.raises(PassphraseRequired):
        import_key(encrypted)


@needs("puttygen")
@pytest.mark.parametrize("version", ["2", "3"])
def test_damaged_putty_files_are_refused(version: str, tmp_path: Path) -> None:
    key = KEYS["ssh-ed25519"]
    parameters = f"version={version},memory=64,passes=1" if version == "3" else "version=2"
    for passphrase in (False, True):
        text = to_putty(tmp_path, key, passphrase, parameters)
        for position in range(len(text.rstrip())):
            swapped = "A" if text[position] != "A" else "B"
            damaged = text[:position] + swapped + text[position + 1 :]
            try:
                imported = import_key(damaged, PASSPHRASE)
            except KeyFormatError:
                continue
            assert text[position] == "a"  # a hexadecimal digit, now a capital
            assert imported == key
        for size in range(0, len(text) - 3, 7):
            with pytest.raises(KeyFormatError):
                import_key(text[:size], PASSPHRASE)
        with pytest.raises(KeyFormatError, match="follow"):
            import_key(text + "more\n", PASSPHRASE)


@needs("puttygen")
def test_argon2_parameters_of_putty_files_are_bounded(tmp_path: Path) -> None:
    text = to_putty(tmp_path, KEYS["ssh-ed25519"], True, "version=3,memory=64,passes=2")
    for change in (
        ("Argon2-Memory: 64", "Argon2-Memory: 4194304"),
        ("Argon2-Memory: 64", "Argon2-Memory: 1"),
        ("Argon2-Memory: 64", "Argon2-Memory: 99999999999"),
        ("Argon2-Memory: 64", "Argon2-Memory: ٣"),
        ("Argon2-Passes: 2", "Argon2-Passes: 4194304"),
        ("Argon2-Passes: 2", "Argon2-Passes: 0"),
        ("Argon2-Parallelism: 1", "Argon2-Parallelism: 65535"),
        ("Argon2id", "Argon2"),
        ("Argon2-Salt: ", "Argon2-Salt: zz"),
        ("Argon2-Passes: 2\n", ""),
        ("Private-Lines: 1", "Private-Lines: 9999999"),
        ("Private-Lines: 1", "Private-Lines: -1"),
    ):
        assert change[0] in text
        started = time.process_time()
        with pytest.raises(KeyFormatError):
            import_key(text.replace(*change), PASSPHRASE)
        assert time.process_time() - started < 0.2


@needs("puttygen")
def test_puttygen_reads_what_we_write(tmp_path: Path) -> None:
    for key in KEYS.values():
        line = export_public_key(key.with_comment(""))
        path = private_file(tmp_path / "key", export_private_key(key, "openssh", PASSPHRASE))
        secret = passphrase_file(tmp_path)
        shown = run("puttygen", path, "-L", "--old-passphrase", secret)
        assert shown.startswith(line.rstrip())
    path = private_file(tmp_path / "key", export_private_key(KEYS["ssh-rsa"], "ssh2"))
    assert import_public_key(run("puttygen", path, "-L")) == KEYS["ssh-rsa"]


@needs("puttygen")
def test_we_read_the_ssh_com_keys_of_puttygen(tmp_path: Path) -> None:
    key = KEYS["ssh-rsa"]
    source = private_file(tmp_path / "source", export_private_key(key, "openssh"))
    for passphrase in (None, PASSPHRASE):
        target = tmp_path / f"out{bool(passphrase)}"
        secret = private_file(tmp_path / "secret", passphrase or "")
        run("puttygen", source, "-O", "private-sshcom", "-o", target, "-P", "-q",
            "--new-passphrase", secret, "-C", "words")  # fmt: skip
        again = import_key_file(target, passphrase)
        assert again == key
        assert again.comment == "words"


def test_the_length_in_bits_of_an_ssh_com_key_is_read_too() -> None:
    text = (DATA / "testkey-private-rsa2048-ssh2.txt").read_text()

    def change(data: bytes) -> bytes:
        return data.replace(uint32(927) + uint32(923), uint32(927) + uint32(923 * 8))

    assert import_key(rewrap(text, change)) == public_line("rsa2048")
    assert change(read_ssh2(text).data) != read_ssh2(text).data


def test_bad_ssh_com_keys_are_refused() -> None:
    text = (DATA / "testkey-private-rsa2048-ssh2.txt").read_text()
    data = read_ssh2(text).data
    for bad in (
        data + b"\0",
        data[:-1],
        data.replace(b"if-modn{sign{rsa", b"dl-modp{sign{dsa"),
        data.replace(string("none"), string("idea")),
        data.replace(uint32(2048), uint32((1 << 32) - 1), 1),
        data.replace(uint32(17) + b"\1\0\1", uint32(17) + b"\1\0\3"),
    ):
        assert bad != data
        with pytest.raises(KeyFormatError):
            import_key(bad, PASSPHRASE)


def test_the_wire_blob_inside_each_format_is_the_same() -> None:  # KEY-03
    reader = Reader(public_line("ecdsa521").public_blob)
    assert reader.text() == "ecdsa-sha2-nistp521"
    assert reader.text() == "nistp521"
    assert len(reader.string()) == 133
    reader.expect_end()
