"""``anyssh keygen``, ``anyssh key convert`` and ``anyssh fingerprint``: key files."""

from __future__ import annotations

import getpass
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyssh
from anyssh import KeyFormat, to_thread

from .failures import Failure, reason_of
from .places import expanded
from .terminal import Terminal

__all__ = ["ALGORITHMS", "convert", "describe", "fingerprints", "generate", "read_passphrase"]

ALGORITHMS: Final = {
    "ed25519": "ssh-ed25519",
    "ecdsa": "ecdsa-sha2-nistp256",
    "ecdsa-256": "ecdsa-sha2-nistp256",
    "ecdsa-384": "ecdsa-sha2-nistp384",
    "ecdsa-521": "ecdsa-sha2-nistp521",
    "rsa": "ssh-rsa",
}
"""Short names of key types."""

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
TRIES: Final = 3


async def generate(
    kind: str,
    bits: int | None,
    path: Path | None,
    comment: str | None,
    format: KeyFormat,
    passphrase: str | None,
) -> int:
    """Generate a key pair in two new files; print its description.

    :param passphrase: None to ask for one, an empty one for no encryption
    """
    path = expanded(path or f"~/.ssh/id_{kind.partition('-')[0]}")
    public_path = Path(f"{path}.pub")
    for existing in (path, public_path):
        if existing.exists():  # before anything is asked
            raise Failure(f"{existing} exists already; choose another file with -f, or move it")
    if passphrase is None:
        passphrase = await _ask_new_passphrase(path)
    comment = f"{_user()}@{platform.node()}" if comment is None else comment
    try:
        key = await to_thread.generate_key(ALGORITHMS[kind], bits=bits, comment=comment)
        if path.parent == expanded("~/.ssh"):
            path.parent.mkdir(mode=0o700, exist_ok=True)
        await to_thread.export_private_key_file(key, path, format, passphrase or None)
        await to_thread.export_public_key_file(key, public_path)
    except (ValueError, anyssh.LocalProtocolError) as error:
        raise Failure(str(error)) from error
    except OSError as error:
        raise Failure(f"cannot write {path}: {reason_of(error)}") from error
    print(f"the private key is in {path}, the public key in {public_path}")
    print(describe(key))
    return 0


async def _ask_new_passphrase(path: Path) -> str:
    terminal = Terminal()
    for _ in range(TRIES):
        question = f"Choose a passphrase for {path} (empty for none): "
        first = await terminal.ask(question, is_secret=True)
        if first is None:
            break
        if first == await terminal.ask("Enter it again: ", is_secret=True):
            return first
    raise Failure(
        "no passphrase was chosen; use --no-passphrase for a key that is not encrypted, "
        "or --passphrase-file"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "user"


def read_passphrase(path: Path) -> str:
    """Return the first line of a file, or of standard input for ``-``.

    :raises Failure: there is none
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else expanded(path).read_bytes()
    except OSError as error:
        raise Failure(f"cannot read the passphrase file {path}: {reason_of(error)}") from error
    line = data.partition(b"\n")[0].removesuffix(b"\r")
    if not line:
        raise Failure(f"the passphrase file {path} has no passphrase in its first line")
    return line.decode("utf-8", "surrogateescape")


async def read_key(path: Path, passphrase: str | None = None) -> anyssh.Key:
    """Read a key from a file, or standard input for ``-``; ask for its passphrase if necessary.

    :raises Failure: there is no key, or it cannot be decrypted
    """
    data = read_file(path)
    terminal = Terminal()
    for _ in range(TRIES):
        try:
            return await to_thread.import_key(data, passphrase)
        except anyssh.PassphraseRequired as error:
            passphrase = await terminal.ask(f"Enter the passphrase for {path}: ", is_secret=True)
            if not passphrase:
                raise Failure(f"{path} is encrypted; give --passphrase-file") from error
        except anyssh.WrongPassphrase:
            passphrase = None
        except anyssh.KeyFormatError as error:
            raise Failure(f"{path}: {error}") from error
    raise Failure(f"{path}: wrong passphrase")


def read_file(path: Path) -> bytes:
    """Return the contents of a file, or of standard input for ``-``.

    :raises Failure: it cannot be read
    """
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(MAX_FILE_BYTES)
        with expanded(path).open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise Failure(f"cannot read {path}: {reason_of(error)}") from error


async def convert(
    path: Path,
    format: KeyFormat | None,
    is_public: bool,
    output: Path | None,
    passphrase: str | None,
    new_passphrase: str | None,
) -> int:
    """Write a key in another format, to standard output or a new file.

    :param new_passphrase: encrypts the key; None to leave it unencrypted
    """
    key = await read_key(path, passphrase)
    is_public = is_public or not key.has_private
    if format is None:
        format = KeyFormat.SSH if is_public else KeyFormat.OPENSSH
    try:
        if is_public:
            text = anyssh.export_public_key(key, format)
        else:
            text = await to_thread.export_private_key(key, format, new_passphrase)
    except anyssh.LocalProtocolError as error:
        raise Failure(str(error)) from error
    if output is None:
        sys.stdout.write(text)
        return 0
    try:
        mode = 0o644 if is_public else 0o600
        file = os.open(expanded(output), os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(file, "w", encoding="utf-8") as target:
            target.write(text)
    except OSError as error:
        raise Failure(f"cannot write {output}: {reason_of(error)}") from error
    return 0


# Fingerprints


def describe(key: anyssh.Key | anyssh.Certificate) -> str:
    """Describe a key in one line, like ``ssh-keygen -l``."""
    if isinstance(key, anyssh.Certificate):
        return f"{describe(key.key).removesuffix(')')}-CERT)"
    name = key.algorithm.removeprefix("ssh-").removeprefix("ecdsa-sha2-")
    kind = "ECDSA" if name.startswith("nistp") else name.upper()
    comment = anyssh.wire.displayable(key.comment) or "no comment"
    return f"{key.bits} {key.fingerprint} {comment} ({kind})"


async def fingerprints(paths: list[Path]) -> int:
    """Print a line for each key in the files: keys, authorized keys or known hosts."""
    for path in paths:
        data = read_file(path)
        found = list(_keys_of_lines(data))
        if not found:
            found = [await _key_of_file(path, data)]
        for key in found:
            print(describe(key))
    return 0


async def _key_of_file(path: Path, data: bytes) -> anyssh.Key:
    try:
        return await to_thread.import_key(data)
    except anyssh.PassphraseRequired as error:
        try:
            return await to_thread.import_key_file(f"{path}.pub")
        except (OSError, anyssh.KeyFormatError):
            raise Failure(
                f"{path} is encrypted, and there is no {path}.pub; see: anyssh key convert --public"
            ) from error
    except anyssh.KeyFormatError as error:
        raise Failure(f"{path}: {error}") from error


def _keys_of_lines(data: bytes) -> Iterator[anyssh.Key | anyssh.Certificate]:
    """Yield the keys of a text with one key per line."""
    for line in data.decode("utf-8", "replace").split("\n"):
        words = line.split()
        for start in range(min(len(words), 4)):
            # The key may be preceded by options, or by the names of a known host.
            if key := _key_of_text(" ".join(words[start:])):
                yield key
                break


def _key_of_text(text: str) -> anyssh.Key | anyssh.Certificate | None:
    try:
        return anyssh.import_public_key(text)
    except anyssh.SSHError:
        pass
    try:
        return anyssh.import_certificate(text)
    except anyssh.SSHError:
        return None
