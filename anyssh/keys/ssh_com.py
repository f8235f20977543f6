"""Private key files of ssh.com (Tectia), for RSA; plain, or encrypted with Triple-DES.

The label says ENCRYPTED in both cases; the cipher name inside decides. Numbers are a bit count,
followed by as many bytes as that takes. The key derivation is one round of MD5: encrypted files are
read, but never written.
"""

from __future__ import annotations

import hashlib
from typing import Final

from ..errors import KeyFormatError, LocalProtocolError, WireError
from ..wire import Reader, displayable, string, uint32
from .armor import ssh2
from .encryption import cbc_decrypt, need_passphrase, wrong_passphrase
from .key import Key
from .pairs import rsa_pair

__all__ = ["LABEL", "MAGIC", "read", "write"]

LABEL: Final = "SSH2 ENCRYPTED PRIVATE KEY"
MAGIC: Final = uint32(0x3F6FF9EB)
_KEY_TYPE: Final = b"if-modn{sign{rsa-pkcs1-sha1},encrypt{rsa-pkcs1v2-oaep}}"
_MAX_NUMBER_BITS: Final = 32768


def read(data: bytes, passphrase: bytes | None) -> Key:
    """Read the binary contents, which have no comment.

    :raises KeyFormatError: they are not an RSA key in this format
    :raises PassphraseRequired: they are encrypted
    :raises WrongPassphrase: the passphrase does not decrypt them
    """
    try:
        reader = Reader(data)
        if reader.raw(4) != MAGIC:
            raise KeyFormatError("not an ssh.com private key: its first four bytes are wrong")
        if reader.uint32() != len(data):
            raise KeyFormatError("the length in the ssh.com private key is wrong")
        if not reader.string().startswith(b"if-modn{sign{rsa-pkcs1"):
            raise KeyFormatError("only RSA is supported in ssh.com private keys")
        cipher = reader.text()
        content = reader.string()
        reader.expect_end()
    except WireError as error:
        raise KeyFormatError(f"not an ssh.com private key: {error}") from None
    if cipher == "none":
        return _read_numbers(content)
    if cipher != "3des-cbc":
        raise KeyFormatError(f"unknown cipher of an ssh.com key: {displayable(cipher)!r}")
    content = cbc_decrypt("3des", _derive(need_passphrase(passphrase)), bytes(8), content)
    # Only the length at the start shows whether this is the original plaintext.
    size = int.from_bytes(content[:4], "big")
    if not any(0 <= len(content) - 4 - each < 8 for each in (size, size // 8)):
        raise wrong_passphrase()
    return _read_numbers(content)


def _derive(passphrase: bytes) -> bytes:
    first = hashlib.md5(passphrase, usedforsecurity=False).digest()
    second = hashlib.md5(passphrase + first, usedforsecurity=False).digest()
    return (first + second)[:24]


def _read_numbers(content: bytes) -> Key:
    try:
        reader = Reader(content)
        # The length at the start is in bytes or, from some writers, in bits; it is not needed.
        reader.uint32()
        public_exponent, private_exponent, modulus, coefficient, prime2, prime1 = (
            _read_number(reader) for _ in range(6)
        )
    except WireError as error:
        raise KeyFormatError(f"the numbers of an ssh.com private key: {error}") from None
    if reader.remaining >= 8:
        raise KeyFormatError("an ssh.com private key is longer than its numbers")
    return rsa_pair(
        modulus=modulus,
        public_exponent=public_exponent,
        private_exponent=private_exponent,
        prime1=prime1,
        prime2=prime2,
        coefficient=coefficient,
    )


def _read_number(reader: Reader) -> int:
    bits = reader.uint32()
    if bits > _MAX_NUMBER_BITS:
        raise KeyFormatError(f"a number of {bits} bits in an ssh.com private key")
    return int.from_bytes(reader.raw((bits + 7) // 8), "big")


def write(key: Key) -> str:
    """Write an RSA key pair, unencrypted, with its comment.

    :raises LocalProtocolError: the key is not RSA
    """
    if key.algorithm != "ssh-rsa":
        raise LocalProtocolError(f"the format ssh2 holds private RSA keys, not {key.algorithm}")
    private = key.to_cryptography().private_numbers()
    public = private.public_numbers
    numbers = (public.e, private.d, public.n, private.iqmp, private.q, private.p)
    content = b"".join(
        uint32(number.bit_length()) + number.to_bytes((number.bit_length() + 7) // 8, "big")
        for number in numbers
    )
    content = uint32(len(content)) + content
    body = string(_KEY_TYPE) + string("none") + string(content)
    return ssh2(LABEL, key.comment, MAGIC + uint32(8 + len(body)) + body)
