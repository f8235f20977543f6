"""The state of one channel: two halves, two windows, two queues of requests (RFC 4254 section 5).

This is data with a little arithmetic. :mod:`anyssh.protocol.connection` decides how messages change
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from ..config import Limits
from ..errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "NEXT_CHANNEL_PHASES",
    "ChannelPhase",
    "ChannelState",
    "Half",
    "PendingRequest",
    "ReceiveMemory",
    "ReceiveWindow",
    "ReplySlot",
    "RequestLine",
    "SendWait",
]

MIN_WINDOW: Final = 32 * 1024
MAX_WINDOW: Final = 2**32 - 1


class ChannelPhase(Enum):
    """The phase of a channel."""

    OPENING = auto()
    """We sent CHANNEL_OPEN."""
    ABANDONED = auto()
    """We gave up opening it; it is closed if the peer confirms it."""
    OFFERED = auto()
    """The peer sent CHANNEL_OPEN, and we have not answered."""
    OPEN = auto()
    CLOSING = auto()
    """We sent CHANNEL_CLOSE, and wait for the peer's."""
    CLOSED = auto()


NEXT_CHANNEL_PHASES: Final[Mapping[ChannelPhase, tuple[ChannelPhase, ...]]] = {
    ChannelPhase.OPENING: (ChannelPhase.OPEN, ChannelPhase.ABANDONED, ChannelPhase.CLOSED),
    ChannelPhase.ABANDONED: (ChannelPhase.OPEN, ChannelPhase.CLOSED),
    ChannelPhase.OFFERED: (ChannelPhase.OPEN, ChannelPhase.CLOSED),
    ChannelPhase.OPEN: (ChannelPhase.CLOSING, ChannelPhase.CLOSED),
    ChannelPhase.CLOSING: (ChannelPhase.CLOSED,),
    ChannelPhase.CLOSED: (),
}
"""Possible transitions. An abandoned channel that the peer confirms is open until it is closed."""


class Half(Enum):
    """The state of one direction of a channel; the two are independent."""

    OPEN = auto()
    EOF = auto()
    """No more bytes come in this direction; the other is unaffected."""


class SendWait(Enum):
    """What a channel that could not send everything is waiting for."""

    NOTHING = auto()
    WINDOW = auto()
    """The peer must adjust the window."""
    TURN = auto()
    """The output must have room, and channels that have waited longer must have had their turn."""


# Looking up an enum member is slow in Python 3.11.
_OPEN: Final = ChannelPhase.OPEN


class ReceiveWindow:
    """How much the peer may still send, and how much consumed window we have not returned yet.

    Window is returned in steps of half its size: an adjustment is sent once what the peer may still
    send plus what is unread has fallen to half of the limit.
    """

    __slots__ = ("_consumed", "limit", "remaining")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.remaining: int = limit
        self._consumed = 0

    def take(self, size: int) -> None:
        """Account for received bytes.

        :raises RemoteProtocolError: they exceed the window
        """
        if size > self.remaining:
            raise RemoteProtocolError(
                f"{size} bytes of channel data; the window has room for {self.remaining}"
            )
        self.remaining -= size

    def consume(self, size: int) -> int:
        """Account for bytes the application consumed; return the adjustment to send, or 0."""
        self._consumed += size
        if self._consumed < self.limit - self.limit // 2:
            return 0
        adjustment, self._consumed = self._consumed, 0
        self.remaining += adjustment
        return adjustment


class ReceiveMemory:
    """What the peer may send on all channels together.

    :ivar granted: the sum of the granted windows, in bytes
    """

    __slots__ = ("_unreserved", "granted")

    def __init__(self, limits: Limits) -> None:
        self._unreserved = limits.receive_memory - limits.channels * MIN_WINDOW
        self.granted: int = 0

    def grant(self, wanted: int) -> ReceiveWindow:
        """Grant a window, sized such that later channels still get one."""
        free = max(0, self._unreserved - self.granted)
        size = min(wanted, max(MIN_WINDOW, free // 4 if free < 4 * wanted else wanted))
        self.granted += size
        return ReceiveWindow(size)

    def take_back(self, window: ReceiveWindow) -> None:
        """Stop counting a window."""
        self.granted -= window.limit


@dataclass(slots=True, eq=False)
class ReplySlot:
    """The place of one of our requests in the queue of requests that wait for replies.

    Replies carry no number, so a slot stays queued until its reply has arrived, even if no task
    waits for it any more.

    :ivar owner: the session's object for the request
    """

    owner: Any = None


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request of the peer that waits for its answer.

    :ivar answer: whether it is granted; None until decided
    :ivar reply_payload: the payload of a positive reply to a global request
    """

    name: str
    payload: bytes = field(repr=False)
    want_reply: bool
    channel: ChannelState | None = None
    answer: bool | None = None
    reply_payload: bytes = field(default=b"", repr=False)


class RequestLine:
    """The peer's requests, in the order in which they must be answered."""

    __slots__ = ("_requests", "size", "undecided")

    def __init__(self) -> None:
        self._requests: list[PendingRequest] = []
        self.undecided: int = 0
        self.size: int = 0

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def answers_waiting(self) -> int:
        """How many answers are waiting for an earlier one."""
        return len(self._requests) - self.undecided

    def append(self, request: PendingRequest) -> None:
        """Append a request."""
        self._requests.append(request)
        self.undecided += 1
        self.size += len(request.payload)

    def decide(
        self, request: PendingRequest, is_success: bool, payload: bytes
    ) -> list[PendingRequest]:
        """Decide a request; return the requests whose answers may be sent now.

        :raises LocalProtocolError: it was already decided
        """
        if request.answer is not None:
            raise LocalProtocolError(f"the request {request.name!r} was already answered")
        request.answer = is_success
        request.reply_payload = payload
        self.undecided -= 1
        ready = []
        while self._requests and self._requests[0].answer is not None:
            first = self._requests.pop(0)
            self.size -= len(first.payload)
            ready.append(first)
        return ready

    def clear(self) -> None:
        """Forget all requests; they need no answers any more."""
        self._requests.clear()
        self.undecided = 0
        self.size = 0


@dataclass(slots=True, eq=False)
class ChannelState:
    """The complete protocol state of a channel.

    :ivar local_id: our number for it, never reused
    :ivar remote_id: the peer's number for it, -1 until known
    :ivar send_window: bytes that we may still send
    :ivar send_packet_size: the most bytes of data in one message that we send
    :ivar send_wait: what the last attempt to send is waiting for
    :ivar open_size: bytes of the payload of the peer's open, kept while the channel is open
    :ivar owner: the session's object for the channel
    """

    local_id: int
    channel_type: str
    phase: ChannelPhase
    receive_window: ReceiveWindow
    receive_packet_size: int
    remote_id: int = -1
    send_window: int = 0
    send_packet_size: int = 0
    send_wait: SendWait = SendWait.NOTHING
    send_half: Half = Half.OPEN
    receive_half: Half = Half.OPEN
    exit_status: int | None = None
    exit_signal: str | None = None
    exit_message: str | None = None
    core_dumped: bool = False
    bytes_sent: int = 0
    bytes_received: int = 0
    open_size: int = 0
    owner: Any = field(default=None, repr=False)
    replies: list[ReplySlot] = field(default_factory=list, repr=False)
    requests: RequestLine = field(default_factory=RequestLine, repr=False)

    def open_window(self, size: int) -> bool:
        """Enlarge the send window; return whether a sender was waiting for it.

        :raises RemoteProtocolError: the window would exceed 2**32 - 1
        """
        if self.send_window + size > MAX_WINDOW:
            raise RemoteProtocolError(
                f"the window of channel {self.local_id} would exceed 2**32 - 1 bytes"
            )
        self.send_window += size
        if size == 0 or self.send_wait is not SendWait.WINDOW:
            return False
        self.send_wait = SendWait.NOTHING
        return True

    def move(self, phase: ChannelPhase) -> None:
        """Change to another phase.

        :raises LocalProtocolError: there is no such transition
        """
        if phase not in NEXT_CHANNEL_PHASES[self.phase]:
            raise LocalProtocolError(f"{phase} cannot follow {self.phase}")
        self.phase = phase

    def require_open(self) -> None:
        """Raise :class:`~anyssh.LocalProtocolError` unless we can send on the channel."""
        if self.phase is not _OPEN:
            raise LocalProtocolError(f"channel {self.local_id} is {self.phase.name.lower()}")
