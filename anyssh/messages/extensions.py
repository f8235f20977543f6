"""Payloads of the Dev Tunnels extensions: reconnect, and a request that travels with an open.

They ride on GLOBAL_REQUEST and its replies. The names of the requests are in
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
    :ivar last_received_sequence_number: the last message that the client has
    """

    client_token: bytes = string(secret=True)
    last_received_sequence_number: int = uint64()


@declared
class LinkedSessionReconnectRequest(SessionReconnectRequest):
    """The same between two sides that both announce ``session-link@anyssh.dev``.

    A client that goes on and loses its stream again at once cannot tell whether the server knows
    that it went on. So it says which of the two streams its number belongs to.

    One that gives up an attempt and makes another cannot call back what it has sent. So it counts
    its attempts, and a server does not heed one that is overtaken.

    :ivar link_id: ``SHA-256("anyssh-link" || H)``, H being the hash of that stream's first key
        exchange
    :ivar attempt: 1 for the session's first reconnect request of all, and one more each time
    """

    link_id: bytes = string(secret=True)
    attempt: int = uint32()


@declared
class SessionReconnectResponse(Structure):
    """The server's proof, in the payload of REQUEST_SUCCESS.

    :ivar server_token: an HMAC over both session ids
    :ivar last_received_sequence_number: the last message that the server has
    """

    server_token: bytes = string(secret=True)
    last_received_sequence_number: int = uint64()


@declared
class SessionReconnectFailure(Structure):
    """Why a session cannot go on, in the payload of REQUEST_FAILURE.

    :ivar reason: 101 (unknown) when the failure is bare, as from a peer without the extension
    """

    reason: int = uint32(default=ReconnectFailureReason.UNKNOWN_CLIENT_FAILURE, optional=True)
    description: str = lenient_text(default="", optional=True)
    language: str = lenient_text(default="en", optional=True)


@declared
class InitialChannelRequest(Structure):
    """The first request of a channel, sent right behind CHANNEL_OPEN.

    :ivar sender_channel: the channel's number as CHANNEL_OPEN gave it
    :ivar request: whole, with its number byte; its recipient channel and its wish for a reply
        do not count
    """

    sender_channel: int = uint32()
    request: ChannelRequest = embedded(ChannelRequest)
