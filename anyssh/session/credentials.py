"""What a client can prove who it is with, and the order in which it is tried."""

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
    """A key pair whose private half lives elsewhere: in an agent, a token, another process."""

    @property
    def key(self) -> Key:
        """The public key."""

    async def sign(self, data: bytes, algorithm: str) -> bytes:
        """Return the signature of ``data`` in wire form: the algorithm's name, then its bytes.

        :param algorithm: one of the key's ``signature_algorithms``
        :raises SigningRefused: there will be none; a client goes on to what else it has. What
            else a signer raises ends the attempt to authenticate
        """


KeyPair: TypeAlias = "Key | Signer | CryptographyKey"
"""Whatever signs: ours, or a private key of the cryptography package."""


def as_signer(key: KeyPair) -> Key | Signer:
    """Return what signs as one of ours.

    :raises TypeError: it is nothing that signs
    :raises KeyFormatError: it is a key of the cryptography package that is not for SSH
    """
    if isinstance(key, Key) or isinstance(key, Signer):  # noqa: SIM101
        return key
    if not hasattr(key, "public_key"):
        raise TypeError(f"keys must be keys, private keys or signers, not {type(key).__name__}")
    return Key.from_cryptography(key)


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A key together with a certificate for it, to be shown in place of the plain key.

    :param key: a pair or signer, a private key of the cryptography package, or a public key whose
        private half ``key_provider`` finds
    :param certificate: what an authority says about it
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
    """Check that a certificate of ours is about what it is to be shown for.

    :raises ValueError: it is not
    """
    if certificate.type is not type:
        raise ValueError(f"{certificate!r} cannot be shown for a {type.name.lower()}")


PasswordProvider = Callable[[], Awaitable[str | None]]
KeySource = Callable[[], Awaitable[Sequence["KeyPair | CertifiedKey"]]]
KeyProvider = Callable[[Key], Awaitable["KeyPair | None"]]
Responder = Callable[[Challenge], Awaitable[Sequence[str] | None]]


@dataclass(frozen=True, slots=True)
class HostBasedCredentials:
    """The word of this machine for its user (RFC 4252 section 9).

    :ivar host_key: this machine's own host key
    :ivar client_host_name: this machine's name, as the server knows it
    :ivar client_user_name: the user on this machine
    """

    host_key: KeyPair
    client_host_name: str
    client_user_name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "host_key", as_signer(self.host_key))


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """Who a client is and how it can prove it.

    Tried in this order, as far as the server takes the method: keys, host-based, password,
    answers to prompts; with none of these, the bare user name. A server that demands several proofs
    gets them in the order in which it wants them.

    :ivar username: whom to log in as
    :ivar password: sent once the host key was verified
    :ivar keys: pairs, signers, private keys of the cryptography package, or public keys whose
        private half ``key_provider`` finds, and that are passed over without it; each alone or as a
        :class:`CertifiedKey`; give both to try a key with and without certificate; or an async
        callable that gives them when they are needed, such as :meth:`Agent.identities`
    :ivar password_provider: an async callable without arguments, asked for the password when its
        turn has come; takes precedence over ``password``; None or an empty text skips the method
    :ivar key_provider: an async callable that is given a public key that the server would accept,
        and returns what signs for it, or None; such as :meth:`Agent.find`
    :ivar respond: an async callable that is given each :class:`Challenge` of keyboard-interactive
        and returns its answers, one text for each prompt; None gives up
    :ivar host_based: the word of this machine
    :raises TypeError: something is of a wrong type, such as one key that is not in a list
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
