"""Everything that arrives on a channel as a single sequence, for relays.

A channel offers data, standard error and requests separately, which suits programs. A relay must
also preserve their relative order: the request to run a program precedes the program's input.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Self

import anyio.lowlevel

from ..protocol.channel import PendingRequest
from ..wire import Buffer
from ._bytes import ByteQueue
from ._waiting import Notice
from .requests import IncomingRequest, size_of

if TYPE_CHECKING:
    from .channel import Channel

__all__ = ["Arrival", "Arrivals", "ReceivedData", "ReceivedEof"]

ARRIVAL_BYTES: Final = 128 * 1024
MAX_WAITING: Final = 256
"""Beyond this number, bytes are appended to earlier ones of their kind: otherwise, alternating
single bytes of output and standard error would cost an object each, a hundred times the window in
memory.
"""


@dataclass(frozen=True, slots=True)
class ReceivedData:
    """Bytes that the peer has sent.

    :ivar data: at least one byte
    :ivar is_stderr: whether they are standard error
    """

    data: bytes = field(repr=False)
    is_stderr: bool = False


@dataclass(frozen=True, slots=True)
class ReceivedEof:
    """The peer sends no more bytes; requests may still follow."""


Arrival = ReceivedData | ReceivedEof | IncomingRequest
"""What :meth:`Channel.arrivals` yields."""


@dataclass(slots=True)
class _Run:
    """Consecutive bytes of one kind."""

    bytes: ByteQueue
    is_stderr: bool


class Arrivals:
    """Iterates over what arrives on a channel; ends with the channel.

    :param take: offered the bytes that arrive while the iteration is waiting
    """

    __slots__ = (
        "_channel",
        "_ended",
        "_is_awaited",
        "_last_runs",
        "_notice",
        "_take",
        "_waiting",
    )

    def __init__(self, channel: Channel, take: Callable[[Buffer], int] | None = None) -> None:
        self._channel = channel
        self._take = take
        self._is_awaited = False
        self._waiting: deque[_Run | ReceivedEof | PendingRequest] = deque()
        self._last_runs: dict[bool, _Run] = {}
        self._notice = Notice()
        self._ended = False

    @property
    def size(self) -> int:
        """How many bytes wait to be taken."""
        return sum(each.bytes.size for each in self._waiting if isinstance(each, _Run))

    @property
    def requests_size(self) -> int:
        """How many bytes the requests take that wait to be taken."""
        return sum(size_of(each) for each in self._waiting if isinstance(each, PendingRequest))

    def put_run(self, data: ByteQueue, is_stderr: bool) -> None:
        """Add all bytes of a queue, and take ownership of it."""
        if data.size:
            self._last_runs[is_stderr] = run = _Run(data, is_stderr)
            self._put(run)

    def put_data(self, data: Buffer, is_stderr: bool) -> None:
        """Add bytes, except those that the callback takes at once."""
        if self._is_awaited and not self._waiting and not is_stderr and self._take is not None:
            channel = self._channel
            taken = channel._tell_recipient(partial(self._take, data))
            channel._consumed(taken)
            if taken == len(data) or channel._is_closed_here:
                return
            data = data[taken:]
        waiting, run = self._waiting, self._last_runs.get(is_stderr)
        if run is not None and (run is waiting[-1] or len(waiting) >= MAX_WAITING):
            run.bytes.append(data)
            return
        queue = ByteQueue()
        queue.append(data)
        self.put_run(queue, is_stderr)

    def put_request(self, request: PendingRequest) -> None:
        """Add a request."""
        self._last_runs.clear()  # no later bytes may overtake it
        self._put(request)

    def put_eof(self) -> None:
        """Add the end of the bytes."""
        self._last_runs.clear()
        self._put(ReceivedEof())

    def _put(self, arrival: _Run | ReceivedEof | PendingRequest) -> None:
        self._waiting.append(arrival)
        self._notice.notify()

    def end(self) -> None:
        """Note that nothing more will arrive."""
        self._ended = True
        self._notice.notify()

    def clear(self) -> None:
        """Discard what has arrived."""
        self._waiting.clear()
        self._last_runs.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Arrival:
        # Nothing awaits after this, so a cancelled call never loses an arrival.
        await anyio.lowlevel.checkpoint()
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._is_awaited = True
            try:
                await self._notice.wait()
            finally:
                self._is_awaited = False
        first = self._waiting[0]
        if isinstance(first, _Run):
            return self._take_bytes(first)
        del self._waiting[0]
        if isinstance(first, PendingRequest):
            return IncomingRequest(self._channel._session, first)
        return first

    def _take_bytes(self, run: _Run) -> ReceivedData:
        data = run.bytes.take(ARRIVAL_BYTES)
        if not run.bytes.size:
            del self._waiting[0]
            if self._last_runs.get(run.is_stderr) is run:
                del self._last_runs[run.is_stderr]
        self._channel._consumed(len(data))
        return ReceivedData(data, run.is_stderr)
