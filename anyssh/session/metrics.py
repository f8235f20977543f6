"""Numbers that sessions and channels keep, as frozen snapshots."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocol.latency import Latency

__all__ = ["ChannelMetrics", "SessionMetrics"]


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
