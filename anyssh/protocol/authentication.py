"""What user authentication speaks of, in both roles: attempts, challenges, signed data (RFC 4252).

An *attempt* is what a server's application is asked to judge. A :class:`PublicKeyAttempt`,
:class:`CertificateAttempt` or :class:`HostBasedAttempt` only ever exists after its signature was
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
    """One proof that a client offers; the base of all kinds.

    :ivar username: whom the client wants to be
    """

    method: ClassVar[str]
    username: str


@dataclass(frozen=True, slots=True)
class NoneAttempt(AuthAttempt):
    """The client offers no proof at all. Only seen when the method ``none`` is enabled."""

    method = AuthenticationMethod.NONE


@dataclass(frozen=True, slots=True)
class PasswordAttempt(AuthAttempt):
    """The client sent a password.

    :ivar password: in clear text; never shown by ``repr()``
    """

    method = AuthenticationMethod.PASSWORD
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PublicKeyAttempt(AuthAttempt):
    """The client has proved that it holds the private half of a key.

    :ivar public_key: that key
    :ivar algorithm: the signature algorithm that it used
    """

    method = AuthenticationMethod.PUBLIC_KEY
    public_key: Key
    algorithm: str


@dataclass(frozen=True, slots=True)
class CertificateAttempt(AuthAttempt):
    """The client has proved that it holds the key of a certificate.

    Not a :class:`PublicKeyAttempt`: who lets in a plain key has said nothing about certificates.

    :ivar certificate: what the authority says; a :class:`~anyssh.Server` has checked it with its
        :class:`~anyssh.UserAuthorities`
    :ivar algorithm: the algorithm that it used, by its name for certificates
    """

    method = AuthenticationMethod.PUBLIC_KEY
    certificate: Certificate
    algorithm: str


@dataclass(frozen=True, slots=True)
class KeyboardInteractiveAttempt(AuthAttempt):
    """The client is ready for questions, or has answered them.

    Return a :class:`Challenge` to ask (again).

    :ivar responses: the answers to the last challenge, in order; None before the first
    :ivar round: how many challenges were answered
    """

    method = AuthenticationMethod.KEYBOARD_INTERACTIVE
    responses: tuple[str, ...] | None = field(default=None, repr=False)
    round: int = 0


@dataclass(frozen=True, slots=True)
class HostBasedAttempt(AuthAttempt):
    """A client host vouches for its user and has proved that it holds its host key.

    :ivar public_key: the host key of the client's machine
    :ivar algorithm: the signature algorithm that it used
    :ivar client_host_name: what that machine calls itself
    :ivar client_user_name: the user on that machine
    """

    method = AuthenticationMethod.HOST_BASED
    public_key: Key
    algorithm: str
    client_host_name: str
    client_user_name: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question of a challenge.

    :ivar text: what to show; some servers send several lines
    :ivar echo: whether the answer may be shown while it is typed
    """

    text: str
    echo: bool = False


@dataclass(frozen=True, slots=True)
class Challenge:
    """Questions for a user (RFC 4256 section 3.2).

    :ivar name: a title, possibly empty
    :ivar instruction: what to do, possibly empty
    :ivar prompts: the questions, possibly none, at most 16
    """

    name: str = ""
    instruction: str = ""
    prompts: Sequence[Prompt] = ()

    def __post_init__(self) -> None:
        if len(self.prompts) > MAX_PROMPTS:
            raise ValueError(f"{len(self.prompts)} prompts; a challenge has at most {MAX_PROMPTS}")
        for prompt in self.prompts:
            if not isinstance(prompt, Prompt):
                raise TypeError(f"prompts must be of Prompt, not {type(prompt).__name__}")


def public_key_signed_data(
    session_id: bytes, username: str, service: str, algorithm: str, public_blob: bytes
) -> bytes:
    """Return what a client signs for ``publickey`` (RFC 4252 section 7)."""
    return wire.string(session_id) + _signed_request(username, service, algorithm, public_blob)


# The same few users come again and again with the same few keys.
@lru_cache(maxsize=32)
def _signed_request(username: str, service: str, algorithm: str, public_blob: bytes) -> bytes:
    """Return a request with a key up to its signature."""
    return (
        _request_head(username, service, AuthenticationMethod.PUBLIC_KEY)
        + PublicKeyFields(True, algorithm, public_blob).signed_fields()
    )


def host_based_signed_data(
    session_id: bytes, username: str, service: str, fields: HostBasedFields
) -> bytes:
    """Return what a client host signs for ``hostbased`` (RFC 4252 section 9)."""
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
