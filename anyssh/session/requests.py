"""Requests of channels and sessions: those we send, and those that wait for our answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol, Self

import anyio
import anyio.lowlevel

from ..errors import LocalProtocolError
from ..protocol.channel import PendingRequest, ReplySlot
from ..protocol.events import nobody
from ._waiting import Notice

__all__ = ["ChannelRequest", "IncomingRequest", "Reply", "RequestIterator"]


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """A request to send right after opening a channel.

    :ivar name: for example ``"exec"``, ``"shell"`` or ``"subsystem"``
    :ivar payload: what belongs to it, in wire form; see :mod:`anyssh.wire`
    :ivar want_reply: whether opening waits for, and fails without, the peer's consent
    """

    name: str
    payload: bytes = field(default=b"", repr=False)
    want_reply: bool = True


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request: true when it was granted.

    :ivar is_success: whether the peer granted the request
    :ivar payload: what came with a granted request of the session; channels' replies have none
    """

    is_success: bool
    payload: bytes = field(default=b"", repr=False)

    def __bool__(self) -> bool:
        return self.is_success


class _Answering(Protocol):
    """What an incoming request needs of its session."""

    def _answer_request(self, request: PendingRequest, is_success: bool, payload: bytes) -> None:
        """Send the answer once its turn has come."""


class IncomingRequest:
    """A request of the peer.

    Answers leave in the order in which the requests came, whatever the order of deciding.

    :ivar name: what is wanted
    :ivar payload: what belongs to it, in wire form; read it with :class:`anyssh.wire.Reader`
    :ivar want_reply: whether the peer waits for the answer
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

        :param payload: goes with the reply; only requests of the session have one
        :raises LocalProtocolError: it was answered before
        """
        await anyio.lowlevel.checkpoint()
        self.accept_nowait(payload)

    def accept_nowait(self, payload: bytes = b"") -> None:
        """Grant the request at once; see :meth:`accept`.

        :param payload: as for :meth:`accept`
        """
        self._session._answer_request(self._pending, True, payload)

    async def reject(self) -> None:
        """Refuse the request.

        :raises LocalProtocolError: it was answered before
        """
        await anyio.lowlevel.checkpoint()
        self.reject_nowait()

    def reject_nowait(self) -> None:
        """Refuse the request at once; see :meth:`reject`."""
        self._session._answer_request(self._pending, False, b"")

    def __repr__(self) -> str:
        return f"<IncomingRequest {self.name!r} want_reply={self.want_reply}>"


class _Interest(Enum):
    """Whether the application handles requests."""

    UNDECIDED = auto()
    NONE = auto()
    HANDLES = auto()


class RequestQueue:
    """Requests of one channel, or of the session, on their way to the application."""

    __slots__ = ("_ended", "_interest", "_notice", "_refuse", "_waiting")

    def __init__(self, refuse: Callable[[PendingRequest], None]) -> None:
        self._refuse = refuse
        self._interest = _Interest.UNDECIDED
        self._waiting: list[PendingRequest] = []
        self._notice = Notice()
        self._ended = False

    def put(self, request: PendingRequest) -> None:
        """Keep a request, or refuse it when nobody will ask for it."""
        if self._interest is _Interest.NONE:
            self._refuse(request)
        else:
            self._waiting.append(request)
            self._notice.notify()

    def disregard(self) -> None:
        """Refuse what comes, unless the application has asked for requests before."""
        if self._interest is _Interest.UNDECIDED:
            self._interest = _Interest.NONE
            while self._waiting:
                self._refuse(self._waiting.pop(0))

    def handle(self) -> None:
        """Keep requests for the application from now on."""
        self._interest = _Interest.HANDLES

    def hand_over(self) -> list[PendingRequest]:
        """Return, and forget, what waits: somebody else takes it, and what comes, from now on."""
        self.handle()
        waiting, self._waiting = self._waiting, []
        return waiting

    def end(self) -> None:
        """No more requests come, and nobody hears of a refusal."""
        self._ended = True
        self._refuse = nobody
        self._notice.notify()

    async def get(self) -> PendingRequest:
        """Return the next request.

        :raises StopAsyncIteration: no more come
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
    """Iterates over the peer's requests; ends when no more can come."""

    __slots__ = ("_queue", "_session")

    def __init__(self, session: _Answering, queue: RequestQueue) -> None:
        self._session = session
        self._queue = queue

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> IncomingRequest:
        return IncomingRequest(self._session, await self._queue.get())


class PendingReply:
    """Somebody who waits for the reply to a request."""

    __slots__ = ("_error", "_event", "_reply", "_slot")

    def __init__(self, slot: ReplySlot) -> None:
        self._slot = slot
        self._event = anyio.Event()
        self._reply: Reply | None = None
        self._error: Callable[[], Exception] | None = None
        slot.owner = self

    def resolve(self, is_success: bool, payload: bytes) -> None:
        """Hand over the reply."""
        self._reply = Reply(is_success, payload)
        self._event.set()

    def fail(self, error: Callable[[], Exception]) -> None:
        """Let the waiter raise what ``error`` makes, unless the reply came first."""
        if self._reply is None:
            self._error = error
        self._event.set()

    def abandon(self) -> None:
        """Forget the slot, which stays in the queue until its reply comes."""
        self._slot.owner = None

    async def wait(self) -> Reply:
        """Wait for the reply; a cancelled waiter leaves its slot in the queue."""
        await self._event.wait()
        if self._error is not None:
            raise self._error()
        if self._reply is None:
            raise LocalProtocolError("a reply was announced and is not there")
        return self._reply
