"""``anyssh keygen``, ``key convert`` and ``fingerprint``, compared with ssh-keygen."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import anyssh
from tests.interop.peers import KeyFile

from .program import Anyssh

pytestmark = [
    pytest.mark.blocking_allowed,  # only the tests themselves block
    pytest.mark.peers,
    pytest.mark.skipif(
        shutil.which("ssh-keygen") is None and "CI" not in os.environ,
        reason="no ssh-keygen: apt-get install openssh-client",
    ),
]

DATA = Path(__file__).parents[1] / "data" / "keys"


@pytest.fixture
def backend() -> str:
    """The event loop of the programs: keys do not care which it is."""
    return "asyncio"


def ssh_keygen(*arguments: object) -> str:
    done = subprocess.run(
        ["ssh-keygen", *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


def without_comment(lines: str) -> list[tuple[str, str, str]]:
    """Return size, fingerprint and type: where there is no comment, ssh-keygen has a path."""
    words = [line.split() for line in lines.splitlines()]
    return [(size, fingerprint, kind) for size, fingerprint, *_, kind in words]


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "ecdsa-384", "ecdsa-521", "rsa"])
async def test_a_new_key(user: Anyssh, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "new"
    told = await user.run("keygen", "-t", kind, "-f", path, "-C", "a comment", "--no-passphrase")
    assert (told.status, told.err) == (0, "")
    where, line = told.out.splitlines()
    assert where == f"the private key is in {path}, the public key in {path}.pub"
    assert line + "\n" == ssh_keygen("-l", "-f", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ssh_keygen("-y", "-f", path) == Path(f"{path}.pub").read_text()


async def test_the_key_of_a_new_user(user: Anyssh, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    told = await Anyssh(home, "trio").run("keygen", "--no-passphrase")
    assert told.status == 0, told
    assert stat.S_IMODE((home / ".ssh").stat().st_mode) == 0o700
    assert "@" in anyssh.import_key_file(home / ".ssh" / "id_ed25519").comment


async def test_a_passphrase_from_a_file(user: Anyssh, tmp_path: Path) -> None:
    path, secret = tmp_path / "new", tmp_path / "secret"
    secret.write_text("correct horse\nbattery staple\n")
    told = await user.run("keygen", "-f", path, "--passphrase-file", secret)
    assert told.status == 0, told
    assert ssh_keygen("-y", "-P", "correct horse", "-f", path) == Path(f"{path}.pub").read_text()
    told = await user.run("keygen", "-f", tmp_path / "other", "--passphrase-file", "-",
                          given=b"from a pipe\n")  # fmt: skip
    assert told.status == 0, told
    assert ssh_keygen("-y", "-P", "from a pipe", "-f", tmp_path / "other")
    secret.write_bytes("correct\x0chorse\u2028battery\r\nstaple".encode())
    told = await user.run("keygen", "-f", tmp_path / "third", "--passphrase-file", secret)
    assert told.status == 0, told
    whole = "correct\x0chorse\u2028battery"
    assert ssh_keygen("-y", "-P", whole, "-f", tmp_path / "third")


async def test_no_key_is_written_over_another(user: Anyssh) -> None:
    before = (user.home / ".ssh" / "id_ed25519").read_text()
    told = await user.run("keygen", "--no-passphrase")
    assert "id_ed25519 exists already; choose another file with -f, or move it" in told.complaint
    assert (user.home / ".ssh" / "id_ed25519").read_text() == before


async def test_keys_that_cannot_be_made(user: Anyssh, tmp_path: Path) -> None:
    told = await user.run("keygen", "-f", tmp_path / "new")
    assert "no passphrase was chosen; use --no-passphrase" in told.complaint
    told = await user.run("keygen", "-f", tmp_path / "new", "-b", "100", "--no-passphrase")
    assert told.complaint == "a key of type ssh-ed25519 has 256 bits, not 100"
    told = await user.run("keygen", "-f", tmp_path / "no" / "new", "--no-passphrase")
    assert told.complaint == f"cannot write {tmp_path}/no/new: No such file or directory"
    assert list(tmp_path.glob("new*")) == []


@pytest.mark.parametrize("format", ["pkcs8", "pkcs1", "openssh"])
async def test_conversion_of_private_keys(
    user: Anyssh, keys: dict[str, KeyFile], format: str, tmp_path: Path
) -> None:
    path = tmp_path / "converted"
    told = await user.run("key", "convert", keys["rsa"].private, "--to", format, "-o", path)
    assert (told.status, told.out, told.err) == (0, "", "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (
        ssh_keygen("-l", "-f", path).split()[1]
        == ssh_keygen("-l", "-f", keys["rsa"].public).split()[1]
    )
    told = await user.run("key", "convert", path, "-o", path)
    assert told.complaint == f"cannot write {path}: File exists"


async def test_conversion_of_public_keys(user: Anyssh, keys: dict[str, KeyFile]) -> None:
    told = await user.run("key", "convert", keys["rsa"].public, "--to", "ssh2")
    given = ssh_keygen("-e", "-m", "RFC4716", "-f", keys["rsa"].public)
    assert anyssh.import_key(told.out) == anyssh.import_key(given)
    told = await user.run("key", "convert", "--public", keys["ed25519"].private)
    assert told.out.split()[:2] == keys["ed25519"].line.split()[:2]
    told = await user.run("key", "convert", "-", "--to", "pkcs8",
                          given=keys["rsa"].line.encode())  # fmt: skip
    assert told.out == ssh_keygen("-e", "-m", "PKCS8", "-f", keys["rsa"].public)


async def test_conversion_takes_and_gives_passphrases(user: Anyssh, tmp_path: Path) -> None:
    old, new, path = tmp_path / "old", tmp_path / "new", tmp_path / "key"
    old.write_text("password")
    new.write_text("another")
    source = DATA / "testkey-private-ecdsa384-pkcs8-pw.txt"
    told = await user.run(
        "key", "convert", source, "--passphrase-file", old, "--new-passphrase-file", new, "-o", path
    )
    assert told.status == 0, told
    assert ssh_keygen("-y", "-P", "another", "-f", path)
    told = await user.run("key", "convert", source)
    assert told.complaint == f"{source} is encrypted; give --passphrase-file"
    told = await user.run("key", "convert", source, "--passphrase-file", new)
    assert told.complaint == f"{source} is encrypted; give --passphrase-file"
    told = await user.run("key", "convert", "--to", "sec1", user.home / ".ssh" / "id_ed25519")
    assert "sec1" in told.complaint


async def test_fingerprints(user: Anyssh, keys: dict[str, KeyFile], tmp_path: Path) -> None:
    for name in ("ed25519", "ecdsa256", "rsa"):
        for path in (keys[name].public, keys[name].private):
            told = await user.run("fingerprint", path)
            assert without_comment(told.out) == without_comment(ssh_keygen("-l", "-f", path))
    several = tmp_path / "authorized_keys"
    several.write_text(
        f'# a comment\n\n{keys["rsa"].line}command="a b",no-pty {keys["ecdsa521"].line}'
    )
    told = await user.run("fingerprint", several)
    assert without_comment(told.out) == without_comment(ssh_keygen("-l", "-f", several))
    known = tmp_path / "known_hosts"
    known.write_text(f"@revoked host,other {keys['ed25519'].line}")
    assert (
        anyssh.import_key(keys["ed25519"].line).fingerprint
        in (await user.run("fingerprint", known)).out
    )


async def test_fingerprints_of_encrypted_keys(user: Anyssh, tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = anyssh.generate_key("ssh-ed25519", comment="mine")
    anyssh.export_private_key_file(key, path, "openssh", "secret")
    told = await user.run("fingerprint", path)
    assert "is encrypted, and there is no" in told.complaint
    anyssh.export_public_key_file(key, f"{path}.pub")
    assert (await user.run("fingerprint", path)).out == ssh_keygen("-l", "-f", path)


async def test_fingerprints_of_certificates(
    user: Anyssh, keys: dict[str, KeyFile], tmp_path: Path
) -> None:
    public = tmp_path / "user.pub"
    public.write_text(keys["ed25519"].line)
    ssh_keygen("-q", "-s", keys["rsa"].private, "-I", "who", "-n", "alice", public)
    path = tmp_path / "user-cert.pub"
    told = await user.run("fingerprint", path)
    assert without_comment(told.out) == without_comment(ssh_keygen("-l", "-f", path))
