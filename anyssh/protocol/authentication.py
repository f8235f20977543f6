"""The vocabulary of user authentication in both roles (RFC 4252): attempts, prompts, signed data.

An *attempt* is what a server's application has to judge. A :class:`PublicKeyAttempt`,
:class:`CertificateAttempt` or :class:`HostBasedAttempt` is only created after its signature was
verified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Final

from .. import wire
from ..constants import AuthenticationMethod, MessageNumber
from ..keys import Certificate, Key
from ..messages import HostBasedFields, PublicKeyFields

__all__ = [
    "AuthAttempt",
    "CertificateAttempt",
    "Challenge",
    "HostBasedAttempt",
    "KeyboardInteractiveAttempt",
    "NoneAttempt",
    "PasswordAttempt",
    "Prompt",
    "PublicKeyAttempt",
    "host_based_signed_data",
    "public_key_signed_data",
]

MAX_PROMPTS: Final = 16


@dataclass(frozen=True, slots=True)
class AuthAttempt:
    """The base class of all authentication attempts.

    :ivar username: the user that the client wants to log in as
    """

    method: ClassVar[str]
    username: str


@dataclass(frozen=True, slots=True)
class NoneAttempt(AuthAttempt):
    """The client offers no proof at all. Only occurs if the method ``none`` is enabled."""

    method = AuthenticationMethod.NONE


@dataclass(frozen=True, slots=True)
class PasswordAttempt(AuthAttempt):
    """The client sent a password.

    :ivar password: the password in clear text, omitted by ``repr()``
    """

    method = AuthenticationMethod.PASSWORD
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PublicKeyAttempt(AuthAttempt):
    """The client has proved possession of a private key.

    :ivar public_key: its public key
    :ivar algorithm: the signature algorithm used
    """

    method = AuthenticationMethod.PUBLIC_KEY
    public_key: Key
    algorithm: str


@dataclass(frozen=True, slots=True)
class CertificateAttempt(AuthAttempt):
    """The client has proved possession of the key of a certificate.

    Not a :class:`PublicKeyAttempt`: code that accepts a plain key need not accept certificates for
    it.

    :ivar certificate: the certificate, already checked by the :class:`~anyssh.UserAuthorities` of
        the :class:`~anyssh.Server`
    :ivar algorithm: the algorithm used, by its name for certificates
    """

    method = AuthenticationMethod.PUBLIC_KEY
    certificate: Certificate
    algorithm: str


@dataclass(frozen=True, slots=True)
class KeyboardInteractiveAttempt(AuthAttempt):
    """The client is ready to be prompted, or has answered the prompts.

    Return a :class:`Challenge` to prompt it (again).

    :ivar responses: the answers to the last challenge, in order; None before the first
    :ivar round: how many challenges were answered
    """

    method = AuthenticationMethod.KEYBOARD_INTERACTIVE
    responses: tuple[str, ...] | None = field(default=None, repr=False)
    round: int = 0


@dataclass(frozen=True, slots=True)
class HostBasedAttempt(AuthAttempt):
    """A client host vouches for its user, and has proved possession of its host key.

    :ivar public_key: the host key of the client's machine
    :ivar algorithm: the signature algorithm used
    :ivar client_host_name: the name of that machine, according to itself
    :ivar client_user_name: the user on that machine
    """

    method = AuthenticationMethod.HOST_BASED
    public_key: Key
    algorithm: str
    client_host_name: str
    client_user_name: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a challenge.

    :ivar text: the text to display; some servers send several lines
    :ivar echo: whether to display the answer while it is typed
    """

    text: str
    echo: bool = False


@dataclass(frozen=True, slots=True)
class Challenge:
    """Prompts for a user (RFC 4256 section 3.2).

    :ivar name: a title, possibly empty
    :ivar instruction: what to do, possibly empty
    :ivar prompts: the prompts, possibly none, at most 16
    :raises ValueError: there are more than 16 prompts
    :raises TypeError: a prompt is not a :class:`Prompt`
    """

    name: str = ""
    instruction: str = ""
    prompts: Sequence[Prompt] = ()

    def __post_init__(self) -> None:
        if len(self.prompts) > MAX_PROMPTS:
            raise ValueError(f"{len(self.prompts)} prompts; a challenge has at most {MAX_PROMPTS}")
        for prompt in self.prompts:
            if not isinstance(prompt, Prompt):
                raise TypeError(f"prompts must be of type Prompt, not {type(prompt).__name__}")


def public_key_signed_data(
    session_id: bytes, username: str, service: str, algorithm: str, public_blob: bytes
) -> bytes:
    """Return the data that a client signs for ``publickey`` (RFC 4252 section 7)."""
    return wire.string(session_id) + _signed_request(username, service, algorithm, public_blob)


# The same few users log in repeatedly with the same few keys.
@lru_cache(maxsize=32)
def _signed_request(username: str, service: str, algorithm: str, public_blob: bytes) -> bytes:
    """Return a public key request up to its signature."""
    return (
        _request_head(username, service, AuthenticationMethod.PUBLIC_KEY)
        + PublicKeyFields(True, algorithm, public_blob).signed_fields()
    )


def host_based_signed_data(
    session_id: bytes, username: str, service: str, fields: HostBasedFields
) -> bytes:
    """Return the data that a client host signs for ``hostbased`` (RFC 4252 section 9)."""
    return (
        wire.string(session_id)
        + _request_head(username, service, AuthenticationMethod.HOST_BASED)
        + fields.signed_fields()
    )


def _request_head(username: str, service: str, method: str) -> bytes:
    return (
        wire.byte(MessageNumber.USERAUTH_REQUEST)
        + wire.string(username)
        + wire.string(service)
        + wire.string(method)
    )
