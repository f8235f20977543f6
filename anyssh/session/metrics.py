"""Numbers that servers, sessions and channels keep, as frozen snapshots."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocol.latency import Latency

__all__ = ["ChannelMetrics", "ServerStatistics", "SessionMetrics"]


@dataclass(frozen=True, slots=True)
class SessionMetrics:
    """What a session has moved so far.

    :ivar bytes_sent: on the stream, with framing, padding and encryption
    :ivar bytes_received: on the stream, with framing, padding and encryption
    :ivar messages_sent: packets, those of the transport included
    :ivar messages_received: packets, those of the transport included
    :ivar reconnections: how often the session went on over another stream
    :ivar latency: in milliseconds; measured when both sides have ``session-latency``
    """

    bytes_sent: int
    bytes_received: int
    messages_sent: int
    messages_received: int
    reconnections: int
    latency: Latency


@dataclass(frozen=True, slots=True)
class ChannelMetrics:
    """What a channel has moved so far.

    :ivar bytes_sent: of data and extended data, without any overhead
    :ivar bytes_received: of data and extended data, without any overhead
    """

    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatistics:
    """What the connections of a server's listeners are, and were so far.

    :ivar connections: at this moment; sessions without a stream do not count
    :ivar unauthenticated: of them, those whose clients have not logged in yet
    :ivar without_stream: sessions whose clients may still come back over another stream
    :ivar penalised_sources: whose connections are refused at this moment
    :ivar total_connections: let in so far
    :ivar total_logins: clients that have proved who they are
    :ivar refused_by_limit: connections that were one too many
    :ivar refused_by_penalty: connections from sources that had misbehaved
    :ivar handler_failures: handlers that raised what they should not have
    """

    connections: int
    unauthenticated: int
    without_stream: int
    penalised_sources: int
    total_connections: int
    total_logins: int
    refused_by_limit: int
    refused_by_penalty: int
    handler_failures: int
