"""Reading and writing key files: detecting the format, and the capabilities of each.

============ ================== ========================= =========== ============
format       public keys        key pairs                 encryption  comment
============ ================== ========================= =========== ============
``ssh``      read, write        --                        --          yes
``ssh2``     read, write        read, write (RSA)         read        yes
``pkcs1``    read, write (RSA)  read, write (RSA)         read        no
``sec1``     --                 read, write (ECDSA)       read        no
``pkcs8``    read, write        read, write               read, write no
``openssh``  --                 read, write               read, write yes
``jwk``      read, write        read, write               --          yes
``putty``    --                 read                      read        yes
============ ================== ========================= =========== ============

These functions are CPU-bound: key derivation from a passphrase takes from tens of milliseconds to
seconds. Call them through :mod:`anyssh.to_thread` where that matters.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from ..errors import KeyFormatError, LocalProtocolError
from .armor import decode_base64, read_pem, read_ssh2
from .der import is_sequence
from .key import Key

__all__ = [
    "MAX_KEY_FILE_BYTES",
    "KeyFormat",
    "export_private_key",
    "export_private_key_bytes",
    "export_private_key_file",
    "export_public_key",
    "export_public_key_bytes",
    "export_public_key_file",
    "import_key",
    "import_key_file",
    "import_public_key",
]

MAX_KEY_FILE_BYTES: Final = 1024 * 1024


class KeyFormat(StrEnum):
    """Formats of key files."""

    SSH = "ssh"
    """OpenSSH's one-line public keys."""
    SSH2 = "ssh2"
    """RFC 4716 public keys, ssh.com private keys."""
    PKCS1 = "pkcs1"
    """RSA keys as in RFC 8017."""
    SEC1 = "sec1"
    """ECDSA key pairs as in RFC 5915."""
    PKCS8 = "pkcs8"
    """Public keys as in RFC 5280, private keys as in RFC 5958."""
    OPENSSH = "openssh"
    """OpenSSH's private keys."""
    JWK = "jwk"
    """JSON Web Keys."""
    PUTTY = "putty"
    """PuTTY's private keys."""


# Reading --------------------------------------------------------------------------------------


def import_key(
    data: str | bytes,
    passphrase: str | bytes | None = None,
    format: KeyFormat | str | None = None,
) -> Key:
    """Read a public key or a key pair; the format is detected.

    A passphrase for an unencrypted key is ignored, except with ``jwk``, which has no encryption.

    :param data: text, or the binary form of any format that has one; at most 1 MiB
    :param passphrase: a str is encoded as UTF-8; an empty one counts as none
    :param format: the only format to accept; by default any
    :raises KeyFormatError: the data is not a key in a supported format
    :raises PassphraseRequired: the key is encrypted, and no passphrase was given
    :raises WrongPassphrase: the passphrase does not decrypt the key
    :raises ValueError: ``format`` is unknown
    """
    expected = None if format is None else KeyFormat(format)
    if len(data) > MAX_KEY_FILE_BYTES:
        raise KeyFormatError(f"a key of more than {MAX_KEY_FILE_BYTES} bytes")
    given = _passphrase_bytes(passphrase)
    if isinstance(data, str):
        return _import_text(data, given, expected)
    binary = _binary_format(bytes(data))
    if binary is not None:
        return _import_binary(bytes(data), given, binary, expected)
    return _import_text(bytes(data).decode("utf-8", "surrogateescape"), given, expected)


def import_public_key(text: str | bytes) -> Key:
    """Read a public key in OpenSSH's one-line format.

    :param text: the line
    :raises KeyFormatError: it is not such a key
    """
    return import_key(text, format=KeyFormat.SSH)


def _passphrase_bytes(passphrase: str | bytes | None) -> bytes | None:
    # Text from a terminal or the command line may contain bytes that are not UTF-8.
    if isinstance(passphrase, str):
        return passphrase.encode("utf-8", "surrogateescape")
    return passphrase


def _expect_format(found: str, expected: KeyFormat | None) -> None:
    if expected not in (None, found):
        raise KeyFormatError(f"expected a key in the format {expected}, found {found}")


def _import_text(text: str, passphrase: bytes | None, expected: KeyFormat | None) -> Key:
    from . import jwk, openssh_public, putty

    text = text.removeprefix("\ufeff").strip()
    if text.startswith("{"):
        _expect_format(KeyFormat.JWK, expected)
        if passphrase:
            raise KeyFormatError("JWK has no encryption, but a passphrase was given")
        return jwk.read(text)
    if text.startswith(putty.PREFIX):
        _expect_format(KeyFormat.PUTTY, expected)
        return putty.read(text, passphrase)
    if openssh_public.is_public_line(text):
        _expect_format(KeyFormat.SSH, expected)
        return openssh_public.read(text)
    for line in text.splitlines():
        if line.startswith("-----BEGIN "):
            return _import_pem(text, passphrase, expected)
        if line.startswith("---- BEGIN "):
            _expect_format(KeyFormat.SSH2, expected)
            return _import_ssh2(text, passphrase)
    return _import_bare_base64(text, passphrase, expected)


def _import_pem(text: str, passphrase: bytes | None, expected: KeyFormat | None) -> Key:
    from . import openssh_private, pem

    block = read_pem(text)
    if block.label == openssh_private.LABEL:
        _expect_format(KeyFormat.OPENSSH, expected)
        return openssh_private.read(block.data, passphrase)
    if block.label in pem.FORMATS:
        _expect_format(pem.FORMATS[block.label], expected)
    return pem.read(block, passphrase)


def _import_ssh2(text: str, passphrase: bytes | None) -> Key:
    from . import rfc4716, ssh_com

    block = read_ssh2(text)
    if block.label == ssh_com.LABEL:
        key = ssh_com.read(block.data, passphrase)
        return key.with_comment(rfc4716.comment_of(block))
    return rfc4716.read(block)


def _import_bare_base64(text: str, passphrase: bytes | None, expected: KeyFormat | None) -> Key:
    try:
        data = decode_base64(text)
    except KeyFormatError:
        data = b""
    binary = _binary_format(data)
    if binary is None:
        raise KeyFormatError("not a key in a known format")
    return _import_binary(data, passphrase, binary, expected)


def _binary_format(data: bytes) -> str | None:
    """Return what the first bytes announce: ``"der"``, a format's name, or None for text."""
    if data.startswith(b"openssh-key-v1\0"):
        return KeyFormat.OPENSSH
    if data.startswith(b"\x3f\x6f\xf9\xeb"):
        return KeyFormat.SSH2
    if data.startswith(b"\x00\x00\x00"):
        return KeyFormat.SSH
    return "der" if is_sequence(data) else None


def _import_binary(
    data: bytes, passphrase: bytes | None, found: str, expected: KeyFormat | None
) -> Key:
    from . import openssh_private, pem, ssh_com

    if found == "der":
        if expected not in (None, KeyFormat.PKCS1, KeyFormat.SEC1, KeyFormat.PKCS8):
            raise KeyFormatError(f"expected a key in the format {expected}, found DER")
        return pem.read_der(data, passphrase, expected)
    if found == KeyFormat.SSH:
        if expected not in (None, KeyFormat.SSH, KeyFormat.SSH2):
            raise KeyFormatError(f"expected a key in the format {expected}, found a public blob")
        return Key.from_public_blob(data)
    _expect_format(found, expected)
    if found == KeyFormat.OPENSSH:
        return openssh_private.read(data, passphrase)
    return ssh_com.read(data, passphrase)


def import_key_file(
    path: str | os.PathLike[str],
    passphrase: str | bytes | None = None,
    format: KeyFormat | str | None = None,
) -> Key:
    """Read a key from a file of at most 1 MiB.

    :param path: the file
    :param passphrase: as for :func:`import_key`
    :param format: as for :func:`import_key`
    :raises KeyFormatError: as for :func:`import_key`, including its subclasses
    :raises ValueError: ``format`` is unknown
    :raises OSError: the file cannot be read
    """
    with Path(path).open("rb") as file:
        data = file.read(MAX_KEY_FILE_BYTES + 1)
    return import_key(data, passphrase, format)


# Writing --------------------------------------------------------------------------------------


def export_public_key(
    key: Key, format: KeyFormat | str = KeyFormat.SSH, *, legacy_curve_names: bool = False
) -> str:
    """Return the public key, also of a key pair, as text with a final line feed.

    :param key: a key, or a key pair whose public half is taken
    :param format: ``"ssh"`` (``"openssh"`` means the same here), ``"ssh2"``, ``"pkcs1"`` for RSA,
        ``"pkcs8"`` or ``"jwk"``
    :param legacy_curve_names: whether to write ``nistp384`` and the like into a JWK in place of
        ``P-384``, as older Dev Tunnels peers require
    :raises LocalProtocolError: the format does not support such a key
    :raises ValueError: the format is unknown
    """
    from . import jwk, openssh_public, pem, rfc4716

    match KeyFormat(format):
        case KeyFormat.SSH | KeyFormat.OPENSSH:
            return openssh_public.write(key)
        case KeyFormat.SSH2:
            return rfc4716.write(key)
        case KeyFormat.PKCS1:
            return pem.write_pkcs1_public(key)
        case KeyFormat.PKCS8:
            return pem.write_pkcs8_public(key)
        case KeyFormat.JWK:
            return jwk.write_public(key, legacy_curve_names)
        case other:
            raise LocalProtocolError(f"public keys are not written in the format {other}")


def export_private_key(
    key: Key,
    format: KeyFormat | str = KeyFormat.PKCS8,
    passphrase: str | bytes | None = None,
    *,
    rounds: int | None = None,
    legacy_curve_names: bool = False,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> str:
    """Return a key pair as text with a final line feed.

    :param key: a key pair
    :param format: ``"pkcs8"``, ``"openssh"`` or ``"jwk"``; ``"pkcs1"`` and ``"ssh2"`` for RSA;
        ``"sec1"`` for ECDSA
    :param passphrase: encrypts the key, with ``pkcs8`` and ``openssh`` only: the others have no
        encryption, or only a weak one; a str is encoded as UTF-8
    :param rounds: the cost of the key derivation: PBKDF2 iterations for ``pkcs8``, by default and
        at least 100,000; bcrypt rounds for ``openssh``, by default and at least 16
    :param legacy_curve_names: as for :func:`export_public_key`
    :param random: returns the given number of unpredictable bytes
    :raises LocalProtocolError: there is no private part, the format does not support such a key, or
        the requested encryption is weak or not possible
    :raises ValueError: the format is unknown
    """
    from . import jwk, openssh_private, pem, ssh_com

    wanted = KeyFormat(format)
    if not key.has_private:
        raise LocalProtocolError(f"{key!r} has no private part to export")
    given = _passphrase_bytes(passphrase)
    work = _check_encryption(wanted, given, rounds)
    match wanted:
        case KeyFormat.PKCS8:
            return pem.write_pkcs8_private(key, given, random, work)
        case KeyFormat.OPENSSH:
            return openssh_private.write(key, given, random, work)
        case KeyFormat.PKCS1:
            return pem.write_pkcs1_private(key)
        case KeyFormat.SEC1:
            return pem.write_sec1(key)
        case KeyFormat.SSH2:
            return ssh_com.write(key)
        case KeyFormat.JWK:
            return jwk.write_private(key, legacy_curve_names)
        case other:
            raise LocalProtocolError(f"key pairs are not written in the format {other}")


def export_public_key_bytes(key: Key, format: KeyFormat | str = KeyFormat.SSH) -> bytes:
    """Return the public key, also of a key pair, in the binary form that its text contains.

    :param key: a key, or a key pair whose public half is taken
    :param format: ``"ssh"``, ``"ssh2"``, which differs only as text, ``"pkcs1"`` for RSA, or
        ``"pkcs8"``
    :raises LocalProtocolError: the format does not support such a key, or has no binary form
    :raises ValueError: the format is unknown
    """
    wanted = KeyFormat(format)
    if wanted in (KeyFormat.SSH, KeyFormat.OPENSSH, KeyFormat.SSH2):
        return key.public_blob
    return _enclosed(wanted, export_public_key(key, wanted))


def export_private_key_bytes(
    key: Key,
    format: KeyFormat | str = KeyFormat.PKCS8,
    passphrase: str | bytes | None = None,
    *,
    rounds: int | None = None,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> bytes:
    """Return a key pair in the binary form that its text contains: DER for most formats.

    The parameters are those of :func:`export_private_key`. A PKCS#8 key stays one when encrypted.

    :param key: a key pair
    :raises LocalProtocolError: as for :func:`export_private_key`, or the format has no binary form
    :raises ValueError: the format is unknown
    """
    wanted = KeyFormat(format)
    text = export_private_key(key, wanted, passphrase, rounds=rounds, random=random)
    return _enclosed(wanted, text)


def _enclosed(format: KeyFormat, text: str) -> bytes:
    if format is KeyFormat.JWK:
        raise LocalProtocolError("the format jwk is text and has no binary form")
    return (read_ssh2 if format is KeyFormat.SSH2 else read_pem)(text).data


def _check_encryption(format: KeyFormat, passphrase: bytes | None, rounds: int | None) -> int:
    """Return the rounds to use; reject an encryption that would not protect."""
    from .encryption import MAX_BCRYPT_ROUNDS, MAX_PBKDF2_ITERATIONS
    from .openssh_private import DEFAULT_ROUNDS
    from .pem import DEFAULT_ITERATIONS

    if passphrase is None:
        return DEFAULT_ROUNDS
    if not passphrase:
        raise LocalProtocolError("an empty passphrase protects nothing; None means unencrypted")
    bounds = {
        KeyFormat.PKCS8: (DEFAULT_ITERATIONS, MAX_PBKDF2_ITERATIONS),
        KeyFormat.OPENSSH: (DEFAULT_ROUNDS, MAX_BCRYPT_ROUNDS),
    }.get(format)
    if bounds is None:
        raise LocalProtocolError(
            f"keys are not encrypted in the format {format}; pkcs8 and openssh can be"
        )
    lowest, highest = bounds
    if rounds is None:
        return lowest
    if not lowest <= rounds <= highest:
        raise LocalProtocolError(f"{format} is written with {lowest} to {highest} rounds")
    return rounds


def export_private_key_file(
    key: Key,
    path: str | os.PathLike[str],
    format: KeyFormat | str = KeyFormat.PKCS8,
    passphrase: str | bytes | None = None,
    *,
    rounds: int | None = None,
    legacy_curve_names: bool = False,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> None:
    """Write a key pair to a new file that only its owner may read.

    The parameters are those of :func:`export_private_key`.

    :param key: a key pair
    :param path: the new file
    :raises FileExistsError: the path exists, even as a link
    :raises OSError: the file cannot be written; it is removed
    :raises LocalProtocolError: as for :func:`export_private_key`
    :raises ValueError: the format is unknown
    """
    text = export_private_key(
        key,
        format,
        passphrase,
        rounds=rounds,
        legacy_curve_names=legacy_curve_names,
        random=random,
    )
    _write_new_file(path, text, 0o600)


def export_public_key_file(
    key: Key,
    path: str | os.PathLike[str],
    format: KeyFormat | str = KeyFormat.SSH,
    *,
    legacy_curve_names: bool = False,
) -> None:
    """Write the public key to a new file.

    The parameters are those of :func:`export_public_key`.

    :param key: a key, or a key pair whose public half is taken
    :param path: the new file
    :raises FileExistsError: the path exists, even as a link
    :raises OSError: the file cannot be written; it is removed
    :raises LocalProtocolError: as for :func:`export_public_key`
    :raises ValueError: the format is unknown
    """
    text = export_public_key(key, format, legacy_curve_names=legacy_curve_names)
    _write_new_file(path, text, 0o644)


def _write_new_file(path: str | os.PathLike[str], text: str, mode: int) -> None:
    """Create the file with its mode in one step, so that it is never more accessible."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        try:
            file.write(text.encode())
            file.flush()
        except BaseException:
            Path(path).unlink()
            raise
