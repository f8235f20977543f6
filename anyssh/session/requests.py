"""Requests of channels and sessions: ours, and those of the peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol, Self

import anyio
import anyio.lowlevel

from ..errors import LocalProtocolError
from ..protocol.channel import PendingRequest, ReplySlot
from ..protocol.events import do_nothing
from ._waiting import Notice

__all__ = ["ChannelRequest", "IncomingRequest", "Reply", "RequestIterator", "size_of"]

REQUEST_OVERHEAD: Final = 512
"""The overhead of a waiting request in bytes, so that those without payload count too."""


def size_of(request: PendingRequest) -> int:
    """Return how many bytes a waiting request takes."""
    return REQUEST_OVERHEAD + len(request.payload)


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """A request to send right after opening a channel.

    :ivar name: the request type, for example ``"exec"``, ``"shell"`` or ``"subsystem"``
    :ivar payload: the type-specific data in wire format; see :mod:`anyssh.wire`
    :ivar want_reply: whether opening waits for the reply, and fails if the request is refused
    """

    name: str
    payload: bytes = field(default=b"", repr=False)
    want_reply: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to a request; true if it was granted.

    :ivar is_success: whether the peer granted the request
    :ivar payload: the data of a positive reply to a global request; channel replies have none
    """

    is_success: bool
    payload: bytes = field(default=b"", repr=False)

    def __bool__(self) -> bool:
        return self.is_success


class _Answering(Protocol):
    """What an incoming request needs from its session."""

    def _answer_request(self, request: PendingRequest, is_success: bool, payload: bytes) -> None:
        """Send the answer once its turn has come."""


class IncomingRequest:
    """A request of the peer.

    Answers are sent in the order of the requests, whatever the order in which they are decided.

    :ivar name: the request name or type
    :ivar payload: the request-specific data in wire format; read it with
        :class:`anyssh.wire.Reader`
    :ivar want_reply: whether the peer expects an answer
    """

    __slots__ = ("_pending", "_session", "name", "payload", "want_reply")

    def __init__(self, session: _Answering, pending: PendingRequest) -> None:
        self._session = session
        self._pending = pending
        self.name: str = pending.name
        self.payload: bytes = pending.payload
        self.want_reply: bool = pending.want_reply

    async def accept(self, payload: bytes = b"") -> None:
        """Grant the request.

        :param payload: data to send with the reply; for global requests only
        :raises LocalProtocolError: the request was already answered, or ``payload`` is too long
            for one SSH message
        """
        await anyio.lowlevel.checkpoint()
        self.accept_nowait(payload)

    def accept_nowait(self, payload: bytes = b"") -> None:
        """Grant the request without a checkpoint; see :meth:`accept`.

        :param payload: as for :meth:`accept`
        :raises LocalProtocolError: the request was already answered, or ``payload`` is too long
            for one SSH message
        """
        self._session._answer_request(self._pending, True, payload)

    async def reject(self) -> None:
        """Refuse the request.

        :raises LocalProtocolError: the request was already answered
        """
        await anyio.lowlevel.checkpoint()
        self.reject_nowait()

    def reject_nowait(self) -> None:
        """Refuse the request without a checkpoint; see :meth:`reject`.

        :raises LocalProtocolError: the request was already answered
        """
        self._session._answer_request(self._pending, False, b"")

    def __repr__(self) -> str:
        return f"<IncomingRequest {self.name!r} want_reply={self.want_reply}>"


class _Interest(Enum):
    """Whether the application handles requests."""

    UNDECIDED = auto()
    NONE = auto()
    HANDLES = auto()


class RequestQueue:
    """The requests of one channel or session that wait for the application."""

    __slots__ = ("_ended", "_interest", "_notice", "_refuse", "_waiting")

    def __init__(self, refuse: Callable[[PendingRequest], None]) -> None:
        self._refuse = refuse
        self._interest = _Interest.UNDECIDED
        self._waiting: list[PendingRequest] = []
        self._notice = Notice()
        self._ended = False

    @property
    def size(self) -> int:
        """How many bytes the waiting requests take."""
        return sum(map(size_of, self._waiting))

    def put(self, request: PendingRequest) -> None:
        """Queue a request, or refuse it if the application does not handle any."""
        if self._interest is _Interest.NONE:
            self._refuse(request)
        else:
            self._waiting.append(request)
            self._notice.notify()

    def disregard(self) -> None:
        """Refuse requests from now on, unless the application already handles them."""
        if self._interest is _Interest.UNDECIDED:
            self._interest = _Interest.NONE
            while self._waiting:
                self._refuse(self._waiting.pop(0))

    def handle(self) -> None:
        """Keep requests for the application from now on."""
        self._interest = _Interest.HANDLES

    def hand_over(self) -> list[PendingRequest]:
        """Return and clear the queue: another consumer handles all requests from now on."""
        self.handle()
        waiting, self._waiting = self._waiting, []
        return waiting

    def end(self) -> None:
        """End the queue: no more requests come, and refusals are not sent any more."""
        self._ended = True
        self._refuse = do_nothing
        self._notice.notify()

    async def get(self) -> PendingRequest:
        """Return the next request.

        :raises StopAsyncIteration: there will be no more
        """
        if self._waiting:
            await anyio.lowlevel.checkpoint()
        while not self._waiting:
            if self._ended:
                await anyio.lowlevel.checkpoint()
                raise StopAsyncIteration
            await self._notice.wait()
        return self._waiting.pop(0)


class RequestIterator:
    """Iterates over the peer's requests; ends when there can be no more."""

    __slots__ = ("_queue", "_session")

    def __init__(self, session: _Answering, queue: RequestQueue) -> None:
        self._session = session
        self._queue = queue

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> IncomingRequest:
        return IncomingRequest(self._session, await self._queue.get())


class PendingReply:
    """A task's wait for the reply to a request."""

    __slots__ = ("_error", "_event", "_reply", "_slot")

    def __init__(self, slot: ReplySlot) -> None:
        self._slot = slot
        self._event = anyio.Event()
        self._reply: Reply | None = None
        self._error: Callable[[], Exception] | None = None
        slot.owner = self

    def resolve(self, is_success: bool, payload: bytes) -> None:
        """Deliver the reply."""
        self._reply = Reply(is_success, payload)
        self._event.set()

    def fail(self, error: Callable[[], Exception]) -> None:
        """Make the waiting task raise what ``error`` returns, unless the reply came first."""
        if self._reply is None:
            self._error = error
        self._event.set()

    def abandon(self) -> None:
        """Detach from the slot, which stays queued until its reply arrives."""
        self._slot.owner = None

    async def wait(self) -> Reply:
        """Wait for the reply; if cancelled, the slot stays queued."""
        await self._event.wait()
        if self._error is not None:
            raise self._error()
        if self._reply is None:
            raise LocalProtocolError("woken without a reply")
        return self._reply
