"""Payloads of the Dev Tunnels extensions: reconnecting, and a request sent along with an open.

They are carried by GLOBAL_REQUEST and its replies. The names of the requests are in
:class:`~anyssh.Extension`.
"""

from __future__ import annotations

from ..constants import ReconnectFailureReason
from .connection import ChannelRequest
from .declaration import (
    Structure,
    declared,
    embedded,
    lenient_text,
    string,
    uint32,
    uint64,
)

__all__ = [
    "InitialChannelRequest",
    "LinkedSessionReconnectRequest",
    "SessionReconnectFailure",
    "SessionReconnectRequest",
    "SessionReconnectResponse",
]


@declared
class SessionReconnectRequest(Structure):
    """A client's proof that a disconnected session is its own.

    :ivar client_token: an HMAC over both session ids
    :ivar last_received_sequence_number: the last message that the client has received
    """

    client_token: bytes = string(secret=True)
    last_received_sequence_number: int = uint64()


@declared
class LinkedSessionReconnectRequest(SessionReconnectRequest):
    """The same between two sides that both announce ``session-link@anyssh.dev``.

    A client that resumes and immediately loses its stream again cannot tell whether the server
    knows that it has resumed. So it says which of the two streams its number belongs to.

    A client that gives up an attempt and makes another cannot call back what it has sent. So it
    counts its attempts, and a server ignores one that has been superseded.

    :ivar link_id: ``SHA-256("anyssh-link" || H)``, where H is the exchange hash of that stream's
        first key exchange
    :ivar attempt: 1 for the session's very first reconnect request, incremented each time
    """

    link_id: bytes = string(secret=True)
    attempt: int = uint32()


@declared
class SessionReconnectResponse(Structure):
    """The server's proof, in the payload of REQUEST_SUCCESS.

    :ivar server_token: an HMAC over both session ids
    :ivar last_received_sequence_number: the last message that the server has received
    """

    server_token: bytes = string(secret=True)
    last_received_sequence_number: int = uint64()


@declared
class SessionReconnectFailure(Structure):
    """Why a session cannot be resumed, in the payload of REQUEST_FAILURE.

    :ivar reason: 101 (unknown) if the failure is bare, as from a peer without the extension
    """

    reason: int = uint32(default=ReconnectFailureReason.UNKNOWN_CLIENT_FAILURE, optional=True)
    description: str = lenient_text(default="", optional=True)
    language: str = lenient_text(default="en", optional=True)


@declared
class InitialChannelRequest(Structure):
    """The first request of a channel, sent right after CHANNEL_OPEN.

    :ivar sender_channel: the channel's number from CHANNEL_OPEN
    :ivar request: a complete message, including its number; its recipient channel and its
        ``want_reply`` are ignored
    """

    sender_channel: int = uint32()
    request: ChannelRequest = embedded(ChannelRequest)
