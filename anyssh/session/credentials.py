"""What a client authenticates with, and in which order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from ..keys import Certificate, CertificateType, CryptographyKey, Key
from ..protocol.authentication import Challenge

__all__ = [
    "CertifiedKey",
    "ClientCredentials",
    "HostBasedCredentials",
    "KeyPair",
    "Signer",
    "as_signer",
    "require_type",
]


@runtime_checkable
class Signer(Protocol):
    """A key pair whose private half is held elsewhere: in an agent, a token, another process."""

    @property
    def key(self) -> Key:
        """The public key."""

    async def sign(self, data: bytes, algorithm: str) -> bytes:
        """Return the signature of ``data`` as a signature blob (RFC 4253 section 6.6).

        :param data: the bytes to sign
        :param algorithm: one of the key's ``signature_algorithms``
        :raises SigningRefused: the signer declines; the client continues with its other
            credentials. Any other exception ends the authentication
        """


KeyPair: TypeAlias = "Key | Signer | CryptographyKey"
"""Anything that signs: a key pair, a signer, or a private key of the cryptography package."""


def as_signer(key: KeyPair) -> Key | Signer:
    """Return a key pair as a :class:`Key` or :class:`Signer`.

    :raises TypeError: it is none of the accepted types
    :raises KeyFormatError: it is a key of the cryptography package that SSH does not use
    """
    if isinstance(key, Key) or isinstance(key, Signer):  # noqa: SIM101
        return key
    if not hasattr(key, "public_key"):
        raise TypeError(f"keys must be keys, private keys or signers, not {type(key).__name__}")
    return Key.from_cryptography(key)


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A key with a certificate for it, which is presented in place of the plain key.

    :param key: a key pair or signer, a private key of the cryptography package, or a public key
        whose private half ``key_provider`` returns
    :param certificate: the certificate
    :raises ValueError: the certificate is for another key
    """

    key: KeyPair
    certificate: Certificate

    def __post_init__(self) -> None:
        signer = as_signer(self.key)
        object.__setattr__(self, "key", signer)
        held = signer if isinstance(signer, Key) else signer.key
        if held != self.certificate.key:
            raise ValueError(
                f"the certificate is for {self.certificate.key.fingerprint}, "
                f"the key is {held.fingerprint}"
            )


def require_type(certificate: Certificate, type: CertificateType) -> None:
    """Check that one of our certificates has the type that its use requires.

    :raises ValueError: it has not
    """
    if certificate.type is not type:
        raise ValueError(f"{certificate!r} cannot be used for a {type.name.lower()}")


PasswordProvider = Callable[[], Awaitable[str | None]]
KeySource = Callable[[], Awaitable[Sequence["KeyPair | CertifiedKey"]]]
KeyProvider = Callable[[Key], Awaitable["KeyPair | None"]]
Responder = Callable[[Challenge], Awaitable[Sequence[str] | None]]


@dataclass(frozen=True, slots=True)
class HostBasedCredentials:
    """Authentication of a user by this machine's host key (RFC 4252 section 9).

    :ivar host_key: this machine's host key
    :ivar client_host_name: this machine's name, as known to the server
    :ivar client_user_name: the user on this machine
    """

    host_key: KeyPair
    client_host_name: str
    client_user_name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "host_key", as_signer(self.host_key))


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """A user name, and what a client can authenticate with.

    As far as the server accepts the methods, they are tried in this order: keys, host-based,
    password, keyboard-interactive; with none of these, the bare user name. A server that requires
    several methods gets them in the order that it asks for.

    :ivar username: the user to log in as
    :ivar password: sent once the host key is verified
    :ivar keys: key pairs, signers, private keys of the cryptography package, or public keys whose
        private half ``key_provider`` returns (without it they are skipped); each alone or in a
        :class:`CertifiedKey`, or both to try the key with and without its certificate. Or an async
        callable that returns them when needed, such as :meth:`Agent.identities`
    :ivar password_provider: an async callable without arguments that returns the password when
        needed; takes precedence over ``password``. None or an empty str skips the method
    :ivar key_provider: an async callable that is given a public key that the server would accept,
        and returns what signs for it, or None; such as :meth:`Agent.find`
    :ivar respond: an async callable that is given each :class:`Challenge` of keyboard-interactive,
        and returns one answer per prompt, or None to give up
    :ivar host_based: credentials of this machine
    :raises TypeError: a field has the wrong type, such as a single key not in a list
    """

    username: str
    password: str | None = field(default=None, repr=False, kw_only=True)
    keys: Sequence[KeyPair | CertifiedKey] | KeySource = field(default=(), kw_only=True)
    password_provider: PasswordProvider | None = field(default=None, repr=False, kw_only=True)
    key_provider: KeyProvider | None = field(default=None, repr=False, kw_only=True)
    respond: Responder | None = field(default=None, repr=False, kw_only=True)
    host_based: HostBasedCredentials | None = field(default=None, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.username, str):
            raise TypeError(f"username must be a str, not {type(self.username).__name__}")
        if self.password is not None and not isinstance(self.password, str):
            raise TypeError(f"password must be a str, not {type(self.password).__name__}")
        if isinstance(self.keys, Key | str):
            raise TypeError("keys must be a sequence of keys; put a single one in a list")
        if callable(self.keys):
            return
        keys = [key if isinstance(key, CertifiedKey) else as_signer(key) for key in self.keys]
        for key in keys:
            if isinstance(key, CertifiedKey):
                require_type(key.certificate, CertificateType.USER)
        object.__setattr__(self, "keys", tuple(keys))
