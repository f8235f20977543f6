"""Trace and progress events, for diagnosing a session.

The identifiers are those of the Dev Tunnels SSH libraries, so that the logs of both ends can be
compared. Events never contain secrets, nor channel data unless
:attr:`SessionConfig.trace_channel_data <anyssh.SessionConfig>` is set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum

__all__ = [
    "Progress",
    "ProgressEvent",
    "TraceEvent",
    "TraceHandler",
    "TraceId",
    "TraceLevel",
]


class TraceLevel(IntEnum):
    """The severity of a trace event."""

    ERROR = 0
    WARNING = 1
    INFO = 2
    VERBOSE = 3


class TraceId(IntEnum):
    """The kind of a trace event."""

    UNKNOWN_ERROR = 9000
    STREAM_READ_ERROR = 9001
    STREAM_WRITE_ERROR = 9002
    STREAM_CLOSE_ERROR = 9003
    SEND_MESSAGE_FAILED = 9004
    RECEIVE_MESSAGE_FAILED = 9005
    HANDLE_MESSAGE_FAILED = 9006
    SERVER_AUTHENTICATION_FAILED = 9007
    CLIENT_AUTHENTICATION_FAILED = 9008
    AUTHENTICATION_ERROR = 9009
    CHANNEL_WAIT_FOR_WINDOW_ADJUST = 9011
    SESSION_RECONNECT_INIT_FAILED = 9020
    SERVER_SESSION_RECONNECT_FAILED = 9021
    CLIENT_SESSION_RECONNECT_FAILED = 9022
    SESSION_REQUEST_FAILED = 9023
    CHANNEL_REQUEST_FAILED = 9024
    PORT_FORWARD_LISTEN_FAILED = 9051
    PORT_FORWARD_REQUEST_INVALID = 9052
    PORT_FORWARD_CHANNEL_INVALID = 9053
    PORT_FORWARD_CHANNEL_OPEN_FAILED = 9054
    PORT_FORWARD_CONNECTION_FAILED = 9055
    KEEP_ALIVE_FAILED = 9062
    KEEP_ALIVE_REQUEST_RECEIVED = 9063
    PROTOCOL_VERSION = 9100
    SENDING_MESSAGE = 9101
    RECEIVING_MESSAGE = 9102
    SENDING_CHANNEL_DATA = 9103
    RECEIVING_CHANNEL_DATA = 9104
    SESSION_ENCRYPTED = 9110
    SESSION_AUTHENTICATING = 9111
    SESSION_AUTHENTICATED = 9112
    SESSION_CLOSING = 9113
    SESSION_CONNECTING = 9114
    CHANNEL_OPENED = 9120
    CHANNEL_OPEN_FAILED = 9121
    CHANNEL_EOF_RECEIVED = 9122
    CHANNEL_CLOSED = 9123
    SERVER_LISTENING = 9150
    SERVER_CLIENT_CONNECTED = 9151
    PORT_FORWARD_LISTENING = 9152
    PORT_FORWARD_CONNECTION_ACCEPTED = 9153
    PORT_FORWARD_CHANNEL_OPENED = 9154
    PORT_FORWARD_CHANNEL_CLOSED = 9155
    PORT_FORWARD_CONNECTION_OPENED = 9156
    PORT_FORWARD_CONNECTION_CLOSED = 9157
    SESSION_DISCONNECTED = 9160
    CLIENT_SESSION_RECONNECTING = 9161
    SERVER_SESSION_RECONNECTING = 9162
    CLIENT_SESSION_STARTING_RECONNECT = 9163
    ALGORITHM_NEGOTIATION = 9170
    DEBUG_MESSAGE = 9200


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One line of a trace.

    :ivar id: the kind of event
    :ivar level: its severity
    :ivar message: one line of text, safe to display
    :ivar error: the exception that caused it, if any
    """

    id: TraceId
    level: TraceLevel
    message: str
    error: BaseException | None = None


TraceHandler = Callable[[TraceEvent], None]


class Progress(Enum):
    """The stages of setting up a session."""

    OPENING_SESSION_CONNECTION = "OpeningSshSessionConnection"
    STARTING_VERSION_EXCHANGE = "StartingProtocolVersionExchange"
    COMPLETED_VERSION_EXCHANGE = "CompletedProtocolVersionExchange"
    STARTING_KEY_EXCHANGE = "StartingKeyExchange"
    COMPLETED_KEY_EXCHANGE = "CompletedKeyExchange"
    OPENED_SESSION_CONNECTION = "OpenedSshSessionConnection"
    STARTING_AUTHENTICATION = "StartingSessionAuthentication"
    COMPLETED_AUTHENTICATION = "CompletedSessionAuthentication"


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """A stage that a session has reached.

    :ivar progress: the stage
    :ivar session_number: the number of the session in this process, counting from 1
    """

    progress: Progress
    session_number: int
