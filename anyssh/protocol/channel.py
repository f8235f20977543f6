"""The state of one channel: two halves, two windows, two queues of requests (RFC 4254 section 5).

This is data with a little arithmetic. What messages do to it is decided in
:mod:`anyssh.protocol.connection`.
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
MAX_WINDOW = 2**32 - 1


class ChannelPhase(Enum):
    """How far a channel has come."""

    OPENING = auto()
    """We asked for it."""
    ABANDONED = auto()
    """We asked for it and no longer want it; it is closed once the peer confirms it."""
    OFFERED = auto()
    """The peer asked for it, and we have not answered."""
    OPEN = auto()
    CLOSING = auto()
    """We sent CLOSE and wait for the peer's."""
    CLOSED = auto()


NEXT_CHANNEL_PHASES: Final[Mapping[ChannelPhase, tuple[ChannelPhase, ...]]] = {
    ChannelPhase.OPENING: (ChannelPhase.OPEN, ChannelPhase.ABANDONED, ChannelPhase.CLOSED),
    ChannelPhase.ABANDONED: (ChannelPhase.OPEN, ChannelPhase.CLOSED),
    ChannelPhase.OFFERED: (ChannelPhase.OPEN, ChannelPhase.CLOSED),
    ChannelPhase.OPEN: (ChannelPhase.CLOSING, ChannelPhase.CLOSED),
    ChannelPhase.CLOSING: (ChannelPhase.CLOSED,),
    ChannelPhase.CLOSED: (),
}
"""Which phases of a channel may follow one. What was abandoned is open for as long as it takes to
close it."""


class Half(Enum):
    """One direction of a channel, in the order of its life; the two know nothing of each other."""

    OPEN = auto()
    EOF = auto()
    """No more bytes come this way; those of the other way may."""


class SendWait(Enum):
    """What a channel that could not send all of its bytes waits for."""

    NOTHING = auto()
    WINDOW = auto()
    """The peer must open the window."""
    TURN = auto()
    """The output must have room, and the channels that waited longer must have had their turn."""


# Python 3.11 takes long to look a member of an enumeration up.
_OPEN: Final = ChannelPhase.OPEN


class ReceiveWindow:
    """What the peer may still send, and what we owe it for bytes consumed.

    Credit returns in half-window steps: the peer gets an adjustment once what it may still send
    plus what lies unread has fallen to half of the limit.
    """

    __slots__ = ("_consumed", "limit", "remaining")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.remaining: int = limit
        self._consumed = 0

    def take(self, size: int) -> None:
        """Account for bytes that came.

        :raises RemoteProtocolError: they are more than the window allows
        """
        if size > self.remaining:
            raise RemoteProtocolError(
                f"{size} bytes of channel data; the window has room for {self.remaining}"
            )
        self.remaining -= size

    def consume(self, size: int) -> int:
        """Account for bytes that the application took; return the adjustment to send, or 0."""
        self._consumed += size
        if self._consumed < self.limit - self.limit // 2:
            return 0
        adjustment, self._consumed = self._consumed, 0
        self.remaining += adjustment
        return adjustment


class ReceiveMemory:
    """What the peer may send on all channels together.

    :ivar granted: bytes of the windows that were given out
    """

    __slots__ = ("_unreserved", "granted")

    def __init__(self, limits: Limits) -> None:
        self._unreserved = limits.receive_memory - limits.channels * MIN_WINDOW
        self.granted: int = 0

    def grant(self, wanted: int) -> ReceiveWindow:
        """Give a window out, so large that the channels to come still get one each."""
        free = max(0, self._unreserved - self.granted)
        size = min(wanted, max(MIN_WINDOW, free // 4 if free < 4 * wanted else wanted))
        self.granted += size
        return ReceiveWindow(size)

    def take_back(self, window: ReceiveWindow) -> None:
        """Count a window no longer."""
        self.granted -= window.limit


@dataclass(slots=True, eq=False)
class ReplySlot:
    """The place of one request of ours in the queue of those that wait for replies.

    Replies carry no number, so a slot stays in its queue until its reply has come, whether or not
    anybody still waits for it.

    :ivar owner: whatever the session wants to find again
    """

    owner: Any = None


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request of the peer that waits for its answer.

    :ivar answer: the decision; None until it is made
    :ivar reply_payload: goes with a positive answer to a global request
    """

    name: str
    payload: bytes = field(repr=False)
    want_reply: bool
    channel: ChannelState | None = None
    answer: bool | None = None
    reply_payload: bytes = field(default=b"", repr=False)


class RequestLine:
    """Requests of the peer, kept in the order in which their answers must leave."""

    __slots__ = ("_requests", "size", "undecided")

    def __init__(self) -> None:
        self._requests: list[PendingRequest] = []
        self.undecided: int = 0
        self.size: int = 0

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def answers_waiting(self) -> int:
        """How many answers are given that have to wait for one before them."""
        return len(self._requests) - self.undecided

    def append(self, request: PendingRequest) -> None:
        """Add a request at the end."""
        self._requests.append(request)
        self.undecided += 1
        self.size += len(request.payload)

    def decide(
        self, request: PendingRequest, is_success: bool, payload: bytes
    ) -> list[PendingRequest]:
        """Decide a request; return the requests whose answers may leave now.

        :raises LocalProtocolError: it was decided before
        """
        if request.answer is not None:
            raise LocalProtocolError(f"the request {request.name!r} was answered before")
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
        """Forget every request; their answers have nowhere to go."""
        self._requests.clear()
        self.undecided = 0
        self.size = 0


@dataclass(slots=True, eq=False)
class ChannelState:
    """Everything that the protocol knows of one channel.

    :ivar local_id: our number for it, never used again
    :ivar remote_id: the peer's number for it, -1 until it is known
    :ivar send_window: bytes that we may still send
    :ivar send_packet_size: bytes that one message of ours may carry
    :ivar send_wait: what the last attempt to send waits for
    :ivar open_size: bytes of the open's payload, kept until it is accepted
    :ivar owner: whatever the session wants to find again
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
        """Let us send more; return whether somebody waited for it.

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
        """Come to another phase.

        :raises LocalProtocolError: it cannot follow the present one
        """
        if phase not in NEXT_CHANNEL_PHASES[self.phase]:
            raise LocalProtocolError(f"{phase} cannot follow {self.phase}")
        self.phase = phase

    def require_open(self) -> None:
        """Raise :class:`~anyssh.LocalProtocolError` unless we can send on the channel."""
        if self.phase is not _OPEN:
            raise LocalProtocolError(f"channel {self.local_id} is {self.phase.name.lower()}")
