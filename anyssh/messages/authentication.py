"""Messages of user authentication (RFC 4252, RFC 4256): numbers 50 to 53, 60 and 61.

A request ends in method-specific fields, which remain bytes here (``method_fields``), and have a
structure for each method. The meaning of number 60 depends on the method; the state that expects it
chooses the class.
"""

from __future__ import annotations

from typing import ClassVar, Final, NamedTuple

from .. import wire
from ..constants import MessageNumber
from .declaration import (
    SECRET_TEXT,
    Codec,
    Message,
    Structure,
    boolean,
    coded,
    declared,
    lenient_text,
    name_list,
    read_count,
    rest,
    secret_text,
    string,
    text,
)

__all__ = [
    "GroupedUserauthInfoRequest",
    "HostBasedFields",
    "KeyboardInteractiveFields",
    "PasswordFields",
    "Prompt",
    "PublicKeyFields",
    "UserauthBanner",
    "UserauthFailure",
    "UserauthInfoRequest",
    "UserauthInfoResponse",
    "UserauthPasswdChangereq",
    "UserauthPkOk",
    "UserauthRequest",
    "UserauthSuccess",
]

MAX_PROMPTS: Final = 16


@declared
class UserauthRequest(Message):
    """An authentication request (RFC 4252 section 5).

    :ivar method_fields: the method-specific fields: nothing for ``none``, otherwise the encoded
        :class:`PasswordFields`, :class:`PublicKeyFields`, :class:`HostBasedFields` or
        :class:`KeyboardInteractiveFields`
    """

    number: ClassVar[int] = MessageNumber.USERAUTH_REQUEST

    user_name: str = text()
    service_name: str = text()
    method_name: str = text()
    method_fields: bytes = rest(default=b"", secret=True)


@declared
class PasswordFields(Structure):
    """A password, or with ``change`` the old and the new password (RFC 4252 section 8)."""

    change: bool = boolean()
    password: str = secret_text()
    new_password: str = secret_text(default="", condition="change")


@declared
class PublicKeyFields(Structure):
    """A key that the client queries or, with a signature, proves to hold (RFC 4252 section 7).

    :ivar signature: only sent if ``has_signature`` is set
    """

    has_signature: bool = boolean()
    algorithm: str = text()
    public_key: bytes = string()
    signature: bytes = string(default=b"", condition="has_signature")

    def signed_fields(self) -> bytes:
        """Return the encoding up to the signature, which is what the signature covers."""
        encoded = PublicKeyFields(True, self.algorithm, self.public_key, b"").encode()
        return encoded[:-4]


@declared
class HostBasedFields(Structure):
    """A host that vouches for its user (RFC 4252 section 9)."""

    algorithm: str = text()
    host_key: bytes = string()
    client_host_name: str = text()
    client_user_name: str = text()
    signature: bytes = string()

    def signed_fields(self) -> bytes:
        """Return the encoding up to the signature, which is what the signature covers."""
        encoded = HostBasedFields(
            self.algorithm, self.host_key, self.client_host_name, self.client_user_name, b""
        ).encode()
        return encoded[:-4]


@declared
class KeyboardInteractiveFields(Structure):
    """A request to be prompted (RFC 4256 section 3.1). Some peers send neither field."""

    language: str = lenient_text(default="", optional=True)
    submethods: str = lenient_text(default="", optional=True)


@declared
class UserauthFailure(Message):
    """A refusal, with the methods that can continue (RFC 4252 section 5.1)."""

    number: ClassVar[int] = MessageNumber.USERAUTH_FAILURE

    authentications_that_can_continue: tuple[str, ...] = name_list()
    partial_success: bool = boolean(default=False)


@declared
class UserauthSuccess(Message):
    """The client is authenticated (RFC 4252 section 5.1)."""

    number: ClassVar[int] = MessageNumber.USERAUTH_SUCCESS


@declared
class UserauthBanner(Message):
    """A text to display before authentication (RFC 4252 section 5.4)."""

    number: ClassVar[int] = MessageNumber.USERAUTH_BANNER

    message: str = lenient_text()
    language: str = lenient_text(default="", optional=True)


@declared
class UserauthPkOk(Message):
    """The queried key would be accepted (RFC 4252 section 7)."""

    number: ClassVar[int] = MessageNumber.USERAUTH_PK_OK

    algorithm: str = text()
    public_key: bytes = string()


@declared
class UserauthPasswdChangereq(Message):
    """The password has expired (RFC 4252 section 8)."""

    number: ClassVar[int] = MessageNumber.USERAUTH_PASSWD_CHANGEREQ

    prompt: str = lenient_text()
    language: str = lenient_text(default="", optional=True)


class Prompt(NamedTuple):
    """One prompt for the user.

    :ivar text: the text to display
    :ivar echo: whether to display the answer while it is typed
    """

    text: str
    echo: bool


def _write_prompts(prompts: tuple[Prompt, ...]) -> bytes:
    parts = [wire.uint32(len(prompts))]
    for question, echo in prompts:
        parts += (wire.string(question), wire.boolean(echo))
    return b"".join(parts)


def _read_prompts(reader: wire.Reader) -> tuple[Prompt, ...]:
    count = read_count(reader, MAX_PROMPTS, 5, "prompts")
    return tuple(Prompt(reader.lenient_text(), reader.boolean()) for _ in range(count))


def _write_grouped_prompts(prompts: tuple[Prompt, ...]) -> bytes:
    parts = [wire.uint32(len(prompts))]
    parts += [wire.string(prompt.text) for prompt in prompts]
    parts += [wire.boolean(prompt.echo) for prompt in prompts]
    return b"".join(parts)


def _read_grouped_prompts(reader: wire.Reader) -> tuple[Prompt, ...]:
    count = read_count(reader, MAX_PROMPTS, 5, "prompts")
    questions = [reader.lenient_text() for _ in range(count)]
    return tuple(Prompt(question, reader.boolean()) for question in questions)


@declared
class UserauthInfoRequest(Message):
    """Prompts for the user (RFC 4256 section 3.2); at most 16 are read."""

    number: ClassVar[int] = MessageNumber.USERAUTH_INFO_REQUEST

    name: str = lenient_text()
    instruction: str = lenient_text()
    language: str = lenient_text()
    prompts: tuple[Prompt, ...] = coded(Codec(_write_prompts, _read_prompts))


@declared
class GroupedUserauthInfoRequest(UserauthInfoRequest):
    """The same prompts as laid out by the Dev Tunnels libraries: all texts, then all echo flags."""

    prompts: tuple[Prompt, ...] = coded(Codec(_write_grouped_prompts, _read_grouped_prompts))


def _write_responses(responses: tuple[str, ...]) -> bytes:
    return wire.uint32(len(responses)) + b"".join(map(SECRET_TEXT.write, responses))


def _read_responses(reader: wire.Reader) -> tuple[str, ...]:
    count = read_count(reader, MAX_PROMPTS, 4, "responses")
    return tuple(SECRET_TEXT.read(reader) for _ in range(count))


@declared
class UserauthInfoResponse(Message):
    """The user's answers, one per prompt (RFC 4256 section 3.4); at most 16 are read."""

    number: ClassVar[int] = MessageNumber.USERAUTH_INFO_RESPONSE

    responses: tuple[str, ...] = coded(Codec(_write_responses, _read_responses), secret=True)
