"""PuTTY's private key files (PPK), versions 2 and 3, read only (PuTTY manual, appendix C).

Lines of ``Name: value``; the public and the private part are base64 lines, preceded by their
number. A MAC over everything reveals damage and, for encrypted keys, a wrong passphrase.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..errors import KeyFormatError, WireError
from ..wire import Reader, displayable, string
from ._schemes import EcdsaScheme, scheme_for
from .armor import decode_base64, tidy
from .encryption import argon2_key, cbc_decrypt, need_passphrase, wrong_passphrase
from .key import Key
from .pairs import ecdsa_pair, ed25519_pair, rsa_pair

__all__ = ["PREFIX", "read"]

PREFIX: Final = "PuTTY-User-Key-File-"
_MAX_LINES: Final = 20_000


@dataclass(frozen=True, slots=True)
class _File:
    """The parts of a file, as written there."""

    version: int
    algorithm: str
    encryption: str
    comment: bytes
    public_blob: bytes
    private_blob: bytes
    mac: bytes
    derivation: dict[str, str]


@dataclass(frozen=True, slots=True, repr=False)
class _Secrets:
    """What is derived from the passphrase."""

    cipher_key: bytes
    initial: bytes
    mac_key: bytes


def read(text: str, passphrase: bytes | None) -> Key:
    """Read a file's text.

    :raises KeyFormatError: it is not a supported key, or is damaged
    :raises PassphraseRequired: it is encrypted
    :raises WrongPassphrase: the passphrase does not decrypt it
    """
    file = _parse(text)
    encrypted = file.encryption != "none"
    if encrypted and file.encryption != "aes256-cbc":
        raise KeyFormatError(f"PPK: unknown cipher: {displayable(file.encryption)!r}")
    given = need_passphrase(passphrase) if encrypted else b""
    secrets = (_secrets_2 if file.version == 2 else _secrets_3)(file, given)
    private = file.private_blob
    if encrypted:
        private = cbc_decrypt("aes", secrets.cipher_key, secrets.initial, private)
    signed = string(file.algorithm) + string(file.encryption) + string(file.comment)
    signed += string(file.public_blob) + string(private)
    digest = "sha1" if file.version == 2 else "sha256"
    if not hmac.compare_digest(hmac.digest(secrets.mac_key, signed, digest), file.mac):
        if encrypted:
            raise wrong_passphrase()
        raise KeyFormatError("PPK: the MAC is wrong; the file is damaged")
    try:
        key = _read_private(file, private)
    except WireError as error:
        raise KeyFormatError(f"PPK: the private part: {error}") from None
    return key.with_comment(file.comment.decode(errors="replace"))


def _parse(text: str) -> _File:
    lines = iter([line.strip("\r") for line in text.strip().split("\n", _MAX_LINES)])
    first, algorithm = _header(lines)
    if first not in (PREFIX + "2", PREFIX + "3"):
        raise KeyFormatError(f"PPK: versions 2 and 3 are supported, not {displayable(first)!r}")
    encryption = _expect(lines, "Encryption")
    comment = _expect(lines, "Comment")
    public_blob = _base64_lines(lines, _expect(lines, "Public-Lines"))
    derivation: dict[str, str] = {}
    name, value = _header(lines)
    while name.startswith(("Key-Derivation", "Argon2-")) and len(derivation) < 8:
        derivation[name] = value
        name, value = _header(lines)
    if name != "Private-Lines":
        raise KeyFormatError(f"PPK: expected 'Private-Lines', found {displayable(name)!r}")
    private_blob = _base64_lines(lines, value)
    mac = _hexadecimal(_expect(lines, "Private-MAC"))
    if any(lines):
        raise KeyFormatError("PPK: lines follow the MAC")
    return _File(
        version=int(first[-1]),
        algorithm=tidy(algorithm),
        encryption=tidy(encryption),
        comment=_raw(comment),
        public_blob=public_blob,
        private_blob=private_blob,
        mac=mac,
        derivation=derivation,
    )


def _header(lines: Iterator[str]) -> tuple[str, str]:
    line = next(lines, "")
    name, separator, value = line.partition(": ")
    if not separator:
        # An empty comment may have lost the space after its colon.
        name, separator, value = line.partition(":")
    if not separator:
        raise KeyFormatError("PPK: a line 'Name: value' is missing")
    return name, value


def _expect(lines: Iterator[str], expected: str) -> str:
    name, value = _header(lines)
    if name != expected:
        raise KeyFormatError(f"PPK: expected {expected!r}, found {displayable(name)!r}")
    return value


def _base64_lines(lines: Iterator[str], count: str) -> bytes:
    number = _integer(count, _MAX_LINES)
    return decode_base64("".join(next(lines, "") for _ in range(number)))


def _integer(text: str, ceiling: int) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 10 or int(text) > ceiling:
        raise KeyFormatError(f"PPK: expected a number up to {ceiling}, found {displayable(text)!r}")
    return int(text)


def _hexadecimal(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise KeyFormatError("PPK: expected hexadecimal digits") from None


def _raw(text: str) -> bytes:
    """Return the bytes that the text was decoded from, which the MAC covers."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise KeyFormatError("PPK: the comment is not text") from None


def _secrets_2(file: _File, passphrase: bytes) -> _Secrets:
    # An unencrypted file is authenticated with the MAC key of the empty passphrase.
    halves = [
        hashlib.sha1(number + passphrase, usedforsecurity=False).digest()
        for number in (b"\0\0\0\0", b"\0\0\0\x01")
    ]
    mac_key = hashlib.sha1(b"putty-private-key-file-mac-key" + passphrase, usedforsecurity=False)
    return _Secrets(b"".join(halves)[:32], bytes(16), mac_key.digest())


def _secrets_3(file: _File, passphrase: bytes) -> _Secrets:
    if file.encryption == "none":
        return _Secrets(b"", b"", b"")
    values = file.derivation
    try:
        material = argon2_key(
            values["Key-Derivation"],
            passphrase,
            _hexadecimal(values["Argon2-Salt"]),
            passes=_integer(values["Argon2-Passes"], 1 << 22),
            lanes=_integer(values["Argon2-Parallelism"], 1 << 16),
            kibibytes=_integer(values["Argon2-Memory"], 1 << 22),
            size=80,
        )
    except KeyError as error:
        raise KeyFormatError(f"PPK: the line {error} is missing") from None
    return _Secrets(material[:32], material[32:48], material[48:])


def _read_private(file: _File, data: bytes) -> Key:
    public = Key.from_public_blob(file.public_blob)
    if public.algorithm != file.algorithm:
        raise KeyFormatError("PPK: the first line names another type than the public key")
    scheme = scheme_for(public.algorithm)
    reader = Reader(data)
    if public.algorithm == "ssh-rsa":
        numbers = public.to_cryptography().public_numbers()
        private_exponent, prime1, prime2, coefficient = (reader.mpint() for _ in range(4))
        key = rsa_pair(
            modulus=numbers.n,
            public_exponent=numbers.e,
            private_exponent=private_exponent,
            prime1=prime1,
            prime2=prime2,
            coefficient=coefficient,
        )
    elif isinstance(scheme, EcdsaScheme):
        point = scheme.point(public.to_cryptography())
        key = ecdsa_pair(scheme, reader.mpint(), point)
    else:
        # The file contains a little-endian number in a string, perhaps without leading zeros.
        seed = reader.string().ljust(32, b"\0")
        key = ed25519_pair(seed, public.to_cryptography().public_bytes_raw())
    if reader.remaining >= 16:
        raise KeyFormatError("PPK: the private part is longer than its key")
    return key
