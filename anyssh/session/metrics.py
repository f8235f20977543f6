"""Metrics of servers, sessions and channels, as frozen snapshots."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocol.latency import Latency

__all__ = ["ChannelMetrics", "ServerStatistics", "SessionMetrics"]


@dataclass(frozen=True, slots=True)
class SessionMetrics:
    """What a session has sent and received so far.

    :ivar bytes_sent: bytes on the stream, including framing, padding and encryption
    :ivar bytes_received: bytes on the stream, including framing, padding and encryption
    :ivar messages_sent: packets, including those of the transport protocol
    :ivar messages_received: packets, including those of the transport protocol
    :ivar reconnections: how often the session was resumed over another stream
    :ivar latency: in milliseconds; measured if both sides support ``session-latency``
    """

    bytes_sent: int
    bytes_received: int
    messages_sent: int
    messages_received: int
    reconnections: int
    latency: Latency


@dataclass(frozen=True, slots=True)
class ChannelMetrics:
    """What a channel has sent and received so far.

    :ivar bytes_sent: bytes of data and extended data, without overhead
    :ivar bytes_received: bytes of data and extended data, without overhead
    """

    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatistics:
    """Counts of the connections of a server's listeners, at present and in total.

    :ivar connections: at present, not counting sessions without a stream
    :ivar unauthenticated: of these, how many clients have not authenticated yet
    :ivar without_stream: sessions whose clients may still reconnect
    :ivar penalised_sources: sources whose connections are refused at present
    :ivar total_connections: connections admitted so far
    :ivar total_logins: clients that have authenticated so far
    :ivar refused_by_limit: connections refused because a limit was reached
    :ivar refused_by_penalty: connections refused because of their source's penalty
    :ivar handler_failures: handlers that raised an unexpected exception
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
