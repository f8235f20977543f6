"""OpenSSH certificates: a public key with statements about it, signed by an authority.

The format is OpenSSH's (PROTOCOL.certkeys, draft-miller-ssh-cert). A :class:`Certificate` only
exists once its authority's signature was verified. Whether the authority is trusted, and the
certificate is valid for a user or host at this moment, is checked by :func:`check_user_certificate`
and :func:`check_host_certificate`.

A certificate is not a :class:`~anyssh.keys.Key`, and never equal to one, so that code that trusts a
key does not take a certificate for it, or accept a certificate without checking its restrictions.
Both are an :data:`Identity`: a public blob that signatures are verified for.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from fnmatch import fnmatchcase
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ..errors import CertificateError, KeyFormatError, WireError
from ..wire import Reader, displayable
from .formats import MAX_KEY_FILE_BYTES
from .key import Key
from .openssh_public import CERTIFICATE_SUFFIX, split_line

__all__ = [
    "Certificate",
    "CertificateType",
    "Identity",
    "check_host_certificate",
    "check_user_certificate",
    "import_certificate",
    "import_certificate_file",
    "key_of",
    "read_identity",
    "signature_algorithm",
    "with_certificates",
]

MAX_CERTIFICATE_BYTES: Final = 32 * 1024
MAX_PRINCIPALS: Final = 256
MAX_OPTIONS: Final = 64
MAX_SOURCE_ADDRESSES: Final = 256

FORCE_COMMAND: Final = "force-command"
SOURCE_ADDRESS: Final = "source-address"
VERIFY_REQUIRED: Final = "verify-required"


class CertificateType(IntEnum):
    """What a certificate certifies."""

    USER = 1
    HOST = 2


@dataclass(frozen=True, slots=True, repr=False)
class Certificate:
    """A public key with statements about it, signed by an authority. Immutable.

    Equal to every certificate with the same public blob, and to no key.

    :param public_blob: the certificate blob, as sent in SSH messages, at most 32 KiB
    :ivar key: the certified public key
    :ivar authority: the public key that signed the certificate, which is not necessarily trusted
    :ivar type: whether it certifies a user or a host
    :ivar serial: a number chosen by the authority; 0 if it does not number its certificates
    :ivar key_id: a text chosen by the authority, for logs
    :ivar principals: the names of users or hosts, at most 256
    :ivar valid_after: the first second of its validity, in seconds since 1970 in UTC
    :ivar valid_before: the first second after its validity
    :ivar critical_options: restrictions by name; a certificate with an unknown one must be refused
    :ivar extensions: permissions by name, such as ``permit-pty``; unknown ones have no effect
    :raises KeyFormatError: the encoding is not canonical, or the signature is not the authority's
    """

    public_blob: bytes
    key: Key = field(init=False, compare=False)
    authority: Key = field(init=False, compare=False)
    type: CertificateType = field(init=False, compare=False)
    serial: int = field(init=False, compare=False)
    key_id: str = field(init=False, compare=False)
    principals: tuple[str, ...] = field(init=False, compare=False)
    valid_after: int = field(init=False, compare=False)
    valid_before: int = field(init=False, compare=False)
    critical_options: Mapping[str, bytes] = field(init=False, compare=False)
    extensions: Mapping[str, bytes] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        blob = bytes(self.public_blob)
        if len(blob) > MAX_CERTIFICATE_BYTES:
            raise KeyFormatError(
                f"a certificate of {len(blob)} bytes; at most {MAX_CERTIFICATE_BYTES} are accepted"
            )
        try:
            read = _read(blob)
        except WireError as error:
            raise KeyFormatError(f"not a certificate: {error}") from None
        for name, value in {"public_blob": blob, **read}.items():
            object.__setattr__(self, name, value)

    @property
    def algorithm(self) -> str:
        """The certificate type, for example ``"ssh-ed25519-cert-v01@openssh.com"``."""
        return self.key.algorithm + CERTIFICATE_SUFFIX

    @property
    def signature_algorithms(self) -> tuple[str, ...]:
        """The algorithms that sign with this certificate, in order of preference."""
        return tuple(name + CERTIFICATE_SUFFIX for name in self.key.signature_algorithms)

    @property
    def force_command(self) -> str | None:
        """The only command that the user may run, whatever was requested; None if there is none."""
        data = self.critical_options.get(FORCE_COMMAND)
        return None if data is None else _only_text(data)

    def verify(self, data: bytes, signature: bytes, algorithm: str) -> bool:
        """Tell whether a signature by the certified key is valid. Never raises for an invalid one.

        :param data: the bytes that were signed
        :param signature: the signature blob (RFC 4253 section 6.6)
        :param algorithm: one of :attr:`signature_algorithms`; the blob itself names the key's
            algorithm
        """
        return algorithm in self.signature_algorithms and self.key.verify(
            data, signature, signature_algorithm(algorithm)
        )

    def __repr__(self) -> str:
        return (
            f"<{self.type.name.lower()} certificate {displayable(self.key_id)!r} "
            f"serial {self.serial} of {self.key.algorithm} {self.key.fingerprint} "
            f"by {self.authority.fingerprint}>"
        )


Identity = Key | Certificate
"""What signatures are verified for: a key, or a certificate for one."""


def key_of(identity: Identity) -> Key:
    """Return the public key of an identity."""
    return identity.key if isinstance(identity, Certificate) else identity


def signature_algorithm(algorithm: str) -> str:
    """Return the algorithm that signs, given its name or the one for certificates."""
    return algorithm.removesuffix(CERTIFICATE_SUFFIX)


def with_certificates(algorithms: Iterable[str]) -> tuple[str, ...]:
    """Return signature algorithms, preceded by those for certificates."""
    names = tuple(algorithms)
    return (*(name + CERTIFICATE_SUFFIX for name in names), *names)


def read_identity(blob: bytes, algorithm: str) -> Identity:
    """Parse a peer's public blob, in the format that the algorithm requires.

    :raises KeyFormatError: it does not have that format
    """
    if algorithm.endswith(CERTIFICATE_SUFFIX):
        return Certificate(blob)
    return Key.from_public_blob(blob)


# Reading --------------------------------------------------------------------------------------


def _read(blob: bytes) -> dict[str, Any]:
    """Parse a certificate, and verify its signature; return its fields by name."""
    from ._schemes import scheme_for

    reader = Reader(blob)
    name = reader.text()
    scheme = scheme_for(signature_algorithm(name))
    if scheme is None or name != scheme.algorithm + CERTIFICATE_SUFFIX:
        raise KeyFormatError(f"unknown certificate type: {displayable(name)!r}")
    reader.string()  # a nonce, which only makes the signature unpredictable
    read: dict[str, Any] = {
        "key": Key.from_cryptography(scheme.read_public(reader)),
        "serial": reader.uint64(),
        "type": _type(reader.uint32()),
        "key_id": reader.text(),
        "principals": _principals(reader.string()),
        "valid_after": reader.uint64(),
        "valid_before": reader.uint64(),
        "critical_options": _options(reader.string()),
        "extensions": _options(reader.string()),
    }
    _check_known_options(read["critical_options"])
    reader.string()  # reserved, to be ignored
    authority_blob = reader.string()
    signed = blob[: reader.offset]
    signature = reader.string()
    reader.expect_end()
    read["authority"] = _signer(authority_blob, signed, signature)
    return read


def _type(number: int) -> CertificateType:
    try:
        return CertificateType(number)
    except ValueError:
        raise KeyFormatError(
            f"a certificate is about a user (1) or a host (2), not {number}"
        ) from None


def _principals(data: bytes) -> tuple[str, ...]:
    reader = Reader(data)
    names: list[str] = []
    while reader.remaining:
        if len(names) == MAX_PRINCIPALS:
            raise KeyFormatError(f"a certificate with more than {MAX_PRINCIPALS} principals")
        names.append(reader.text())
    return tuple(names)


def _options(data: bytes) -> Mapping[str, bytes]:
    reader = Reader(data)
    options: dict[str, bytes] = {}
    last: str | None = None
    while reader.remaining:
        if len(options) == MAX_OPTIONS:
            raise KeyFormatError(f"a certificate with more than {MAX_OPTIONS} options of a kind")
        name = reader.text()
        if last is not None and name <= last:
            raise KeyFormatError("the options of a certificate must be sorted and unique")
        options[name] = reader.string()
        last = name
    return MappingProxyType(options)


def _check_known_options(options: Mapping[str, bytes]) -> None:
    for name in (FORCE_COMMAND, SOURCE_ADDRESS):
        if name in options:
            _only_text(options[name])
    if options.get(VERIFY_REQUIRED):
        raise KeyFormatError(f"the option {VERIFY_REQUIRED} must not have a value")


def _only_text(data: bytes) -> str:
    reader = Reader(data)
    text = reader.text()
    reader.expect_end()
    return text


def _signer(blob: bytes, signed: bytes, signature: bytes) -> Key:
    """Return the authority, after verifying its signature."""
    authority = Key.from_public_blob(blob)
    if authority.public_blob != blob:
        raise KeyFormatError("the authority's key is not canonically encoded")
    if not authority.verify(signed, signature, Reader(signature).text()):
        raise KeyFormatError("the certificate is not signed by the authority that it names")
    return authority


def import_certificate(text: str | bytes) -> Certificate:
    """Read a certificate in the format of ``ssh-keygen -s``: type, base64 text, comment.

    Verifying the signature takes up to a few milliseconds.

    :param text: one line, such as ``ssh-keygen -s`` writes into ``…-cert.pub``
    :raises KeyFormatError: it is not a certificate, or its signature is not valid
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if len(text) > MAX_KEY_FILE_BYTES:
        raise KeyFormatError(f"a certificate file of more than {MAX_KEY_FILE_BYTES} bytes")
    name, blob, _ = split_line(text)
    certificate = Certificate(blob)
    if name not in (certificate.algorithm, *certificate.signature_algorithms):
        raise KeyFormatError(
            f"the line says {displayable(name)!r}, its certificate is {certificate.algorithm}"
        )
    return certificate


def import_certificate_file(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate from a file, such as ``id_ed25519-cert.pub``.

    :param path: the file
    :raises KeyFormatError: as for :func:`import_certificate`
    :raises OSError: the file cannot be read
    """
    with Path(path).open("rb") as file:
        return import_certificate(file.read(MAX_KEY_FILE_BYTES + 1))


# Checking -------------------------------------------------------------------------------------


def check_user_certificate(
    certificate: Certificate,
    authorities: Collection[Key],
    principals: Collection[str],
    *,
    now: float,
    address: str | None = None,
    enforced_options: Collection[str] = (),
    revoked: Collection[str] = (),
) -> None:
    """Check that a certificate lets a user in; return only if it does.

    This does not prove possession of the key; a signature does.

    :param certificate: the certificate that the client presented
    :param authorities: the public keys trusted to certify users
    :param principals: names of which the certificate must list at least one; a certificate without
        principals is valid for nobody
    :param now: seconds since 1970 in UTC
    :param address: the client's address, for the option ``source-address``; None if unknown
    :param enforced_options: critical options that the caller enforces itself, such as
        ``force-command``; ``source-address`` is enforced here
    :param revoked: fingerprints of keys and authorities that are no longer trusted
    :raises CertificateError: it does not; the message says why
    """
    _check(certificate, CertificateType.USER, authorities, now, revoked)
    wanted = {name for name in principals if name}
    if wanted.isdisjoint(certificate.principals):
        raise _refusal(certificate, f"not issued for {_names(principals)}")
    for name, data in certificate.critical_options.items():
        if name == SOURCE_ADDRESS:
            if not _is_within(address, _only_text(data)):
                raise _refusal(certificate, f"not valid from the address {address}")
        elif name not in enforced_options:
            raise _refusal(
                certificate, f"restricted by {displayable(name)!r}, which is not enforced here"
            )


def check_host_certificate(
    certificate: Certificate,
    authorities: Collection[Key],
    host: str,
    *,
    now: float,
    revoked: Collection[str] = (),
) -> None:
    """Check that a certificate is valid for a host; return only if it is.

    This does not prove possession of the key; a signature does.

    :param certificate: the certificate that the server presented
    :param authorities: the public keys trusted to certify this host
    :param host: the name or address to be reached, without a port; in the certificate's principals,
        ``*`` matches any characters and ``?`` a single one
    :param now: seconds since 1970 in UTC
    :param revoked: fingerprints of keys and authorities that are no longer trusted
    :raises CertificateError: it is not; the message says why
    """
    _check(certificate, CertificateType.HOST, authorities, now, revoked)
    name = host.lower()
    if not name or not any(_matches(name, pattern) for pattern in certificate.principals):
        raise _refusal(certificate, f"not issued for {displayable(host)!r}")
    if certificate.critical_options:
        unknown = ", ".join(map(displayable, certificate.critical_options))
        raise _refusal(
            certificate, f"restricted by {unknown}; host certificates have no such options"
        )


def _check(
    certificate: Certificate,
    wanted: CertificateType,
    authorities: Collection[Key],
    now: float,
    revoked: Collection[str],
) -> None:
    """Check what users and hosts have in common."""
    authority = certificate.authority
    if authority not in authorities:
        raise _refusal(certificate, f"signed by {authority.fingerprint}, which is not trusted")
    for key in (authority, certificate.key):
        if key.fingerprint in revoked:
            raise _refusal(certificate, f"{key.fingerprint} is revoked")
    if certificate.type is not wanted:
        raise _refusal(certificate, f"not for a {wanted.name.lower()}")
    if now < certificate.valid_after:
        raise _refusal(
            certificate, f"not valid yet, for another {certificate.valid_after - now:.0f} s"
        )
    if now >= certificate.valid_before:
        raise _refusal(certificate, f"expired {now - certificate.valid_before:.0f} s ago")


def _matches(host: str, pattern: str) -> bool:
    # Only * and ? are special; fnmatch also interprets brackets.
    return fnmatchcase(host, pattern.lower().replace("[", "[[]"))


def _is_within(address: str | None, networks: str) -> bool:
    """Tell whether an address is in one of the networks; False if in doubt."""
    if address is None:
        return False
    try:
        found = ip_address(address.partition("%")[0])
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        listed = [ip_network(text) for text in networks.split(",", MAX_SOURCE_ADDRESSES)]
        return any(found in network for network in listed)
    except ValueError:
        return False


def _refusal(certificate: Certificate, reason: str) -> CertificateError:
    kind = certificate.type.name.lower()
    return CertificateError(f"the {kind} certificate {displayable(certificate.key_id)!r}: {reason}")


def _names(names: Collection[str]) -> str:
    return " or ".join(repr(displayable(name)) for name in sorted(names)[:8]) or "anybody"
