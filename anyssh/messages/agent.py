"""Messages between an SSH agent and its client (draft-ietf-sshm-ssh-agent).

The agent protocol is not part of SSH: it has message numbers of its own, and frames each message
with just a length. A client sends requests, and the agent answers them, strictly in turn.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import ClassVar, Final

from .. import wire
from ..errors import WireError
from .declaration import Codec, Message, coded, declared, read_count, string, uint32

__all__ = [
    "MAX_AGENT_MESSAGE_BYTES",
    "AgentFailure",
    "AgentIdentities",
    "AgentIdentitiesRequest",
    "AgentSignRequest",
    "AgentSignResponse",
    "SignFlag",
    "frame",
    "take_frame",
]

MAX_AGENT_MESSAGE_BYTES: Final = 256 * 1024
"""OpenSSH's agent closes the connection on anything longer."""


class AgentMessageNumber(IntEnum):
    """Message numbers, the first byte of every message (section 6.1 of the draft)."""

    FAILURE = 5
    REQUEST_IDENTITIES = 11
    IDENTITIES_ANSWER = 12
    SIGN_REQUEST = 13
    SIGN_RESPONSE = 14


class SignFlag(IntFlag):
    """The hash that an RSA key signs with (section 6.3); without any, an agent would use SHA-1."""

    NONE = 0
    RSA_SHA2_256 = 2
    RSA_SHA2_512 = 4


def _write_identities(identities: tuple[tuple[bytes, str], ...]) -> bytes:
    parts = [wire.string(blob) + wire.string(comment) for blob, comment in identities]
    return wire.uint32(len(parts)) + b"".join(parts)


def _read_identities(reader: wire.Reader) -> tuple[tuple[bytes, str], ...]:
    count = read_count(reader, MAX_AGENT_MESSAGE_BYTES // 8, 8, "identities")
    return tuple((reader.string(), reader.lenient_text()) for _ in range(count))


@declared
class AgentFailure(Message):
    """The agent does not do what was requested; it never says why."""

    number: ClassVar[int] = AgentMessageNumber.FAILURE


@declared
class AgentIdentitiesRequest(Message):
    """Asks for the agent's keys."""

    number: ClassVar[int] = AgentMessageNumber.REQUEST_IDENTITIES


@declared
class AgentIdentities(Message):
    """The agent's keys: public key blobs with their comments."""

    number: ClassVar[int] = AgentMessageNumber.IDENTITIES_ANSWER

    identities: tuple[tuple[bytes, str], ...] = coded(Codec(_write_identities, _read_identities))


@declared
class AgentSignRequest(Message):
    """Asks for a signature of some data with a key."""

    number: ClassVar[int] = AgentMessageNumber.SIGN_REQUEST

    public_key: bytes = string()
    data: bytes = string()
    flags: int = uint32(default=SignFlag.NONE)


@declared
class AgentSignResponse(Message):
    """The signature blob."""

    number: ClassVar[int] = AgentMessageNumber.SIGN_RESPONSE

    signature: bytes = string()


def frame(message: Message) -> bytes:
    """Return a message as transmitted: its length, then its payload."""
    return wire.string(message.encode())


def take_frame(received: bytearray) -> bytes | None:
    """Remove the first payload from what was received; return None while it is incomplete.

    :raises WireError: it would be empty, or longer than any agent may send
    """
    if len(received) < 4:
        return None
    size = wire.Reader(received).uint32()
    if not 1 <= size <= MAX_AGENT_MESSAGE_BYTES:
        raise WireError(
            f"an agent's message of {size} bytes; 1 to {MAX_AGENT_MESSAGE_BYTES} are accepted"
        )
    if len(received) < 4 + size:
        return None
    payload = bytes(received[4 : 4 + size])
    del received[: 4 + size]
    return payload
