"""A channel as an AnyIO byte stream.

The session's reader queues incoming bytes and wakes the receiving task. The window bounds the
queue, and is granted back to the peer as the application consumes bytes. Sending passes bytes to
the core as far as the peer's window and the output limit allow, and otherwise waits for room.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from logging import Logger, getLogger
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import anyio
import anyio.lowlevel
from anyio import TASK_STATUS_IGNORED, ResourceGuard
from anyio.abc import ByteReceiveStream, ByteStream, TaskStatus

from ..constants import EXTENDED_DATA_STDERR
from ..errors import ChannelOpenError, RequestDenied, SSHError
from ..messages import Signal
from ..protocol.channel import ChannelPhase, ChannelState, Half, PendingRequest, SendWait
from ..protocol.connection import MESSAGES_PER_TURN
from ..wire import Buffer
from ._bytes import ByteQueue
from ._waiting import Notice
from .arrivals import Arrival, Arrivals
from .attributes import SSHAttribute
from .metrics import ChannelMetrics
from .recipients import Attendant, Recipient
from .requests import ChannelRequest, IncomingRequest, Reply, RequestIterator, RequestQueue

if TYPE_CHECKING:
    from .session import Session

__all__ = ["Channel", "ChannelClosed", "StderrStream"]

logger: Logger = getLogger("anyssh")

DEFAULT_RECEIVE_BYTES: Final = 65536
DELIVERED_BYTES: Final = 256 * 1024

# Looking up an enum member is slow in Python 3.11.
_OPEN: Final = ChannelPhase.OPEN
_HALF_OPEN: Final = Half.OPEN


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """How a channel ended.

    :ivar exit_status: the exit status of the program behind it, if one was sent
    :ivar exit_signal: the name of the signal that ended the program, without ``SIG``, if one was
        sent
    :ivar message: the error message that came with the signal
    :ivar error: why the session ended, if that is what ended the channel
    """

    exit_status: int | None = None
    exit_signal: str | None = None
    message: str | None = None
    error: Exception | None = None


class _Inbox:
    """Received bytes of one kind, data or standard error, waiting to be read."""

    __slots__ = ("_channel", "guard", "is_closed", "notice", "queue")

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.guard = ResourceGuard("reading from")
        self.queue = ByteQueue()
        self.notice = Notice()
        self.is_closed = False

    def put(self, data: Buffer) -> None:
        self.queue.append(data)
        self.notice.notify()

    def close(self) -> int:
        """Discard what was queued; return how many bytes that was."""
        self.is_closed = True
        self.notice.notify()
        return self.queue.clear()

    async def receive(self, max_bytes: int) -> bytes:
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        with self.guard:
            # Nothing awaits after this, so a cancelled call never loses bytes.
            await self._wait_for_bytes()
            data = self.queue.take(max_bytes)
        self._channel._consumed(len(data))
        return data

    async def _wait_for_bytes(self) -> None:
        """Pass a checkpoint, then return as soon as there are bytes; raise if none can come."""
        if self.queue.size or self.is_finished:
            await self._channel._session._backend.checkpoint()
        while not self.queue.size:
            if self.is_finished:
                self._raise_end()
            await self.notice.wait()

    @property
    def is_finished(self) -> bool:
        """Whether no more bytes will arrive."""
        channel = self._channel
        return channel._bytes_are_over or channel._closed is not None or self.is_closed

    def _raise_end(self) -> NoReturn:
        self._channel._require_not_closed()
        if self.is_closed:
            raise anyio.ClosedResourceError
        if not self._channel._bytes_are_over:
            self._channel._require_session()
        raise anyio.EndOfStream


class StderrStream(ByteReceiveStream):
    """The peer's standard error, as a receive stream (RFC 4254 section 5.2).

    It shares the channel's window, so unread bytes eventually stall the whole channel: read this
    stream, or :meth:`aclose` it to discard them.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._inbox = _Inbox(channel)

    async def receive(self, max_bytes: int = DEFAULT_RECEIVE_BYTES) -> bytes:
        """Receive at least one and at most ``max_bytes`` bytes; see :meth:`Channel.receive`."""
        self._channel._requests.disregard()
        return await self._inbox.receive(max_bytes)

    async def aclose(self) -> None:
        """Discard everything received so far and from now on."""
        if not self._inbox.is_closed:
            self._channel._consumed(self._inbox.close())
        await anyio.lowlevel.checkpoint()

    def _put(self, data: bytes) -> None:
        if self._inbox.is_closed:
            self._channel._consumed(len(data))
        else:
            self._inbox.put(data)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the channel."""
        return self._channel.extra_attributes


class Channel(ByteStream):
    """A byte stream within a session, with requests alongside (RFC 4254 section 5).

    Created by :meth:`Session.open_channel` or by accepting a :class:`ChannelOpening`. Leaving
    ``async with`` closes it.
    """

    __slots__ = (
        "_arrivals",
        "_attendant",
        "_attributes",
        "_bytes_are_over",
        "_changed",
        "_closed",
        "_inbox",
        "_is_closed_here",
        "_is_handled",
        "_is_sending",
        "_open_payload",
        "_recipient",
        "_refusal",
        "_requests",
        "_send_guard",
        "_session",
        "_size_at_services",
        "_state",
        "_stderr",
        "_stderr_guard",
        "_writable",
    )

    def __init__(self, session: Session, state: ChannelState, open_payload: bytes = b"") -> None:
        self._session = session
        self._state = state
        state.owner = self
        self._open_payload = open_payload
        self._changed = Notice()
        self._refusal: tuple[int, str] | None = None
        self._inbox = _Inbox(self)
        self._stderr: StderrStream | None = None
        self._send_guard = ResourceGuard("writing to")
        self._stderr_guard: ResourceGuard | None = None
        self._is_sending = False
        self._writable = Notice()
        self._bytes_are_over = False
        self._closed: ChannelClosed | None = None
        self._is_closed_here = False
        self._is_handled = False
        self._requests = RequestQueue(self._refuse_request)
        self._size_at_services = 0
        self._attributes: dict[Any, Callable[[], Any]] = {}
        self._arrivals: Arrivals | None = None
        self._recipient: Recipient | None = None
        self._attendant: Attendant | None = None

    # Identity

    @property
    def channel_type(self) -> str:
        """The type that the channel was opened with."""
        return self._state.channel_type

    @property
    def channel_id(self) -> int:
        """Our number for the channel."""
        return self._state.local_id

    @property
    def remote_channel_id(self) -> int:
        """The peer's number for the channel."""
        return self._state.remote_id

    @property
    def open_payload(self) -> bytes:
        """The type-specific data of CHANNEL_OPEN, or of its confirmation if we sent the open."""
        return self._open_payload

    @property
    def closed(self) -> ChannelClosed | None:
        """How the channel ended; None while it is open."""
        return self._closed

    @property
    def stderr(self) -> StderrStream:
        """The peer's standard error."""
        # Created on demand, as most channels never need it.
        if self._stderr is None:
            self._stderr = StderrStream(self)
        return self._stderr

    @property
    def turn_size(self) -> int:
        """How many bytes to send at a time so that other channels have their turn.

        For code that uses :meth:`send_nowait` and yields between two pieces.
        """
        return MESSAGES_PER_TURN * self._state.send_packet_size

    @property
    def metrics(self) -> ChannelMetrics:
        """A snapshot of the bytes sent and received so far."""
        return ChannelMetrics(self._state.bytes_sent, self._state.bytes_received)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The session's attributes, :attr:`SSHAttribute.channel_type`, and those added."""
        own = {SSHAttribute.channel_type: lambda: self.channel_type}
        return {**self._session.extra_attributes, **own, **self._attributes}

    def add_attributes(self, attributes: Mapping[Any, Callable[[], Any]]) -> None:
        """Add typed attributes, for example about what is behind the channel.

        :param attributes: for each typed attribute, a callable that returns its value
        """
        self._attributes.update(attributes)

    # Bytes

    async def receive(self, max_bytes: int = DEFAULT_RECEIVE_BYTES) -> bytes:
        """Receive at least one and at most ``max_bytes`` bytes. Cancelling loses none.

        :param max_bytes: the most bytes to return
        :raises ~anyio.EndOfStream: the peer has sent EOF or closed the channel
        :raises ~anyio.ClosedResourceError: the channel was closed here
        :raises ~anyio.BrokenResourceError: the session has ended; its error is the cause
        :raises ~anyio.BusyResourceError: another task is receiving
        :raises ValueError: ``max_bytes`` is less than 1
        """
        self._requests.disregard()
        return await self._inbox.receive(max_bytes)

    @property
    def is_readable(self) -> bool:
        """Whether :meth:`receive` would return or raise without waiting.

        For connection pools, to find out whether an idle channel is still usable.
        """
        return bool(self._inbox.queue.size) or self._inbox.is_finished

    async def send(self, item: Buffer) -> None:
        """Send bytes; return once flow control has accepted all of them.

        If the call is cancelled, bytes that fit into the window and one message were sent either
        completely or not at all. Of more, a part may have been sent: :attr:`metrics` tells how
        much.

        :param item: the bytes
        :raises ~anyio.ClosedResourceError: the channel was closed here, or EOF was sent
        :raises ~anyio.BrokenResourceError: the peer has closed the channel, or the session has
            ended
        :raises ~anyio.BusyResourceError: another task is sending
        """
        self._requests.disregard()
        await self._send(item, None)

    async def send_stderr(self, item: Buffer) -> None:
        """Send bytes as standard error; otherwise like :meth:`send`, and allowed alongside it.

        :param item: the bytes
        """
        self._requests.disregard()
        await self._send(item, EXTENDED_DATA_STDERR)

    async def _send(self, item: Buffer, data_type: int | None) -> None:
        session, state = self._session, self._state
        connection, backend = session._connection, session._backend
        with self._send_guard if data_type is None else self._guard_of_stderr():
            await backend.checkpoint_if_cancelled()
            if self._is_sending:
                await self._wait_for_other_sender()
            try:
                self._require_sendable()
            except BaseException:
                await backend.cancel_shielded_checkpoint()
                raise
            rest = memoryview(item).cast("B")
            self._is_sending = True
            try:
                while rest:
                    if data_type is None:
                        sent = connection.send_data(state, rest)
                    else:
                        sent = connection.send_extended_data(state, data_type, rest)
                    session._advance()
                    rest = rest[sent:]
                    if rest:
                        self._require_sendable()
                        await self._wait_writable()
                        self._require_sendable()
                # Yield last, so that the bytes are already on their way.
                await backend.cancel_shielded_checkpoint()
            finally:
                self._is_sending = False
                if rest:
                    connection.stop_sending(state)
                    session._advance()
                self._became_writable()

    def _guard_of_stderr(self) -> ResourceGuard:
        if self._stderr_guard is None:
            self._stderr_guard = ResourceGuard("writing to")
        return self._stderr_guard

    def send_nowait(self, item: Buffer, *, is_urgent: bool = False) -> int:
        """Send as much as possible without waiting; return the number of bytes sent.

        Small pieces sent in the same event loop iteration share a message, which leaves at its end.
        Nothing can be sent while another task is sending or keys are being exchanged. Pass what is
        left to :meth:`send`; an attendant of the channel is told, after this call has returned,
        when more can be sent.

        :param item: the bytes
        :param is_urgent: whether to send at once instead of at the end of the iteration
        :raises ~anyio.ClosedResourceError: the channel was closed here, or EOF was sent
        :raises ~anyio.BrokenResourceError: the peer has closed the channel, or the session has
            ended
        """
        self._requests.disregard()
        self._require_sendable()
        if self._is_sending:
            return 0
        data = memoryview(item).cast("B")
        self._is_sending = True
        try:
            sent = more = self._send_some(data, is_urgent)
            while more and sent < len(data) and self._attendant is not None and self._may_send_on:
                more = self._send_some(data[sent:], is_urgent)
                sent += more
        finally:
            self._is_sending = False
        return sent

    def _send_some(self, data: memoryview, is_urgent: bool) -> int:
        """Send as much as possible, and start writing it; return the number of bytes sent."""
        state, session = self._state, self._session
        connection = session._connection
        if is_urgent:
            sent = connection.send_data(state, data)
        else:
            is_begun = connection.gathering is state
            sent = connection.gather_data(state, data)
            if is_begun and connection.gathering is state and sent == len(data):
                return sent  # the first piece has already scheduled the flush
        if sent < len(data) and self._attendant is None:
            connection.stop_sending(state)
        session._advance(is_urgent=is_urgent or connection.gathering is None)
        return sent

    async def _wait_for_other_sender(self) -> None:
        """Serialise data and standard error, which two tasks may be sending."""
        while self._is_sending:
            await self._writable.wait()

    async def _wait_writable(self) -> None:
        if self._state.send_wait is SendWait.NOTHING:
            # It is our turn again already; let other tasks run.
            await anyio.lowlevel.checkpoint()
        while self._state.send_wait is not SendWait.NOTHING:
            await self._writable.wait()
            self._require_sendable()

    async def send_eof(self) -> None:
        """Send EOF (RFC 4254 section 5.3); further calls do nothing.

        :raises ~anyio.ClosedResourceError: the channel was closed here
        :raises ~anyio.BusyResourceError: another task is sending
        """
        with self._send_guard:
            await anyio.lowlevel.checkpoint()
            await self._wait_for_other_sender()
            self.send_eof_nowait()

    def send_eof_nowait(self) -> None:
        """Send EOF without a checkpoint; see :meth:`send_eof`.

        :raises ~anyio.ClosedResourceError: the channel was closed here
        """
        self._require_not_closed()
        if self._state.phase is ChannelPhase.OPEN:
            self._session._connection.send_eof(self._state)
            self._session._advance(is_urgent=False)

    # Requests

    def requests(self) -> AsyncIterator[IncomingRequest]:
        """Iterate over the peer's requests (RFC 4254 section 5.4); ends with the channel.

        Up to 16 requests (``limits.requests``) wait until this is called. If the channel's
        bytes are used first, or :meth:`wait_closed`, requests are refused until then.
        """
        self._requests.handle()
        return RequestIterator(self._session, self._requests)

    @property
    def request_backlog(self) -> int:
        """How many bytes of memory the peer's requests occupy that nobody has taken yet."""
        arrivals = self._arrivals
        waiting = self._requests.size if arrivals is None else arrivals.requests_size
        return waiting + self._size_at_services

    def arrivals(self, take: Callable[[Buffer], int] | None = None) -> AsyncIterator[Arrival]:
        """Take the channel over, and iterate over everything that arrives, in order.

        For relays: data, standard error, EOF and requests form one sequence; :meth:`receive` and
        the like then find the channel busy. What arrived before the call comes first: requests,
        data, standard error, EOF. The iteration ends with the channel, once everything has been
        returned.

        :param take: offered data first if it arrives while the iteration is waiting; called by the
            session's reader, it returns how many bytes it has consumed, as
            :meth:`Recipient.deliver` does
        :raises ~anyio.BusyResourceError: a task is receiving, or this was called before
        """
        with ExitStack() as readers:
            for inbox in (self._inbox, self.stderr._inbox):
                readers.enter_context(inbox.guard)
            readers.pop_all()  # never released: the iterator keeps the channel
        arrivals = self._arrivals = Arrivals(self, take)
        for request in self._requests.hand_over():
            arrivals.put_request(request)
        arrivals.put_run(self._inbox.queue, is_stderr=False)
        arrivals.put_run(self.stderr._inbox.queue, is_stderr=True)
        if self._state.receive_half is Half.EOF:
            arrivals.put_eof()
        if self._closed is not None:
            arrivals.end()
        return arrivals

    def deliver_to(self, recipient: Recipient) -> None:
        """Deliver bytes to a recipient as they arrive, without a task that waits for them.

        For relays: passing bytes on at once saves an event loop iteration. What the recipient does
        not consume, and everything behind it, waits for :meth:`receive`; once all of that was
        received, deliveries resume. Bytes that arrived before the call are delivered by it. An
        exception in the recipient closes the channel and is logged.

        :param recipient: called with the bytes, in order
        """
        self._requests.disregard()
        had_ended = self._closed is not None
        self._recipient = recipient
        self.deliver_rest()
        if had_ended:
            self._tell_recipient(partial(recipient.channel_closed, not self._is_closed_here))

    def attend(self, attendant: Attendant) -> None:
        """Deliver bytes as :meth:`deliver_to` does, and report when more can be sent.

        For relays that have no task per channel.

        :param attendant: called with the bytes, and when sending is possible again
        """
        self._attendant = attendant
        self.deliver_to(attendant)

    def deliver_rest(self) -> None:
        """Offer the recipient again what it has not consumed."""
        recipient, queue = self._recipient, self._inbox.queue
        if recipient is None:
            return
        while queue.size:
            data = queue.take(DELIVERED_BYTES)
            taken = self._tell_recipient(partial(recipient.deliver, data))
            if taken < len(data) and not self._is_closed_here:
                queue.put_back(memoryview(data)[taken:])
            self._consumed(taken)
            if taken < len(data):
                return
        is_over = self._bytes_are_over and self._state.receive_half is Half.EOF
        if is_over and not self._is_closed_here:
            self._tell_recipient(recipient.deliver_eof)

    def _tell_recipient(self, tell: Callable[[], int | None]) -> int:
        """Call a recipient, whose exceptions must not harm the session's reader."""
        try:
            return tell() or 0
        except Exception:
            logger.exception("the recipient of %r failed", self)
            self.close()
            return 0

    def _deliver(self, recipient: Recipient, data: Buffer) -> None:
        """Deliver bytes and queue the rest; the queue must be empty."""
        taken = self._tell_recipient(partial(recipient.deliver, data))
        if taken < len(data) and not self._is_closed_here:
            self._inbox.put(data[taken:])
        self._consumed(taken)

    async def request(
        self,
        name: str,
        payload: bytes = b"",
        *,
        want_reply: bool = True,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> Reply:
        """Send a channel request (RFC 4254 section 5.4); return the reply, true if it was granted.

        A cancelled call does not affect the replies of others. Without ``want_reply`` the call does
        not wait, and returns a true reply. If the channel is closed meanwhile, the reply is false.

        :param name: the request type, for example ``"exec"``
        :param payload: the type-specific data, in wire format
        :param want_reply: whether the peer has to answer
        :param task_status: started once the request has its place in the order of sending
        :raises LocalProtocolError: ``name`` or ``payload`` is too long for one SSH message
        :raises ~anyio.ClosedResourceError: the channel was closed here
        :raises ~anyio.BrokenResourceError: the peer has closed the channel, or the session has
            ended
        """
        await anyio.lowlevel.checkpoint()
        session = self._session
        while self._closed is None and session._connection.wait_for_room():
            await session._changed.wait()
        self._require_usable()
        slot = session._connection.request_channel(
            self._state, name, payload, want_reply=want_reply
        )
        try:
            return await session._reply(slot, want_reply, task_status)
        except SSHError as error:
            raise anyio.BrokenResourceError(str(error)) from error

    async def send_signal(self, name: str) -> None:
        """Send a signal to the program at the other end (RFC 4254 section 6.9).

        :param name: the signal name without ``SIG``, for example ``"TERM"``
        :raises LocalProtocolError: ``name`` is too long for one SSH message
        :raises ~anyio.ClosedResourceError: the channel was closed here
        :raises ~anyio.BrokenResourceError: the peer has closed the channel, or the session has
            ended
        """
        await self.request("signal", Signal(name).encode(), want_reply=False)

    def _refuse_request(self, request: PendingRequest) -> None:
        self._session._answer_request(request, False, b"")

    # The end

    async def aclose(
        self,
        *,
        exit_status: int | None = None,
        signal: str | None = None,
        message: str = "",
    ) -> None:
        """Close the channel in both directions (RFC 4254 section 5.3); further calls do nothing.

        Bytes sent before are still delivered. The call does not wait for the peer.

        :param exit_status: the exit status of the program that this end represents
        :param signal: the name of the signal that ended the program, without ``SIG``
        :param message: the error message to send with the signal
        :raises ValueError: both ``exit_status`` and ``signal`` were given, or the status is out of
            range
        :raises LocalProtocolError: ``signal`` and ``message`` are too long for one SSH message
        """
        self.close(exit_status=exit_status, signal=signal, message=message)
        await anyio.lowlevel.checkpoint()

    def close(
        self,
        *,
        exit_status: int | None = None,
        signal: str | None = None,
        message: str = "",
    ) -> None:
        """Close the channel without a checkpoint; see :meth:`aclose`.

        :param exit_status: as for :meth:`aclose`
        :param signal: as for :meth:`aclose`
        :param message: as for :meth:`aclose`
        :raises ValueError: both ``exit_status`` and ``signal`` were given, or the status is out of
            range
        :raises LocalProtocolError: ``signal`` and ``message`` are too long for one SSH message
        """
        if exit_status is not None and signal is not None:
            raise ValueError("a program ends with a status or by a signal, not both")
        if exit_status is not None and not 0 <= exit_status < 2**32:
            raise ValueError(
                f"an exit status lies between 0 and 2**32 - 1, not at {exit_status}; "
                "a program that a signal has ended has signal="
            )
        if not self._is_closed_here:
            self._close_now(exit_status, signal, message)

    def _close_now(
        self, exit_status: int | None = None, signal: str | None = None, message: str = ""
    ) -> None:
        self._session._connection.abandon_open(self._state)
        self._session._connection.close(
            self._state, exit_status=exit_status, signal=signal, message=message
        )
        self._is_closed_here = True
        # Some peers never answer CHANNEL_CLOSE, so the session forgets the channel now.
        self._session._channels.pop(self, None)
        self._end(exit_status, signal, message if signal is not None else None)
        # Data that the peer has already sent may still arrive.
        self._recipient = self._attendant = None
        self._inbox.queue.clear()
        if self._stderr is not None:
            self._stderr._inbox.queue.clear()
        if self._arrivals is not None:
            self._arrivals.clear()
        self._session._note_leftovers(self)
        self._session._advance(is_urgent=False)

    def _end(
        self,
        exit_status: int | None = None,
        signal: str | None = None,
        message: str | None = None,
        error: Exception | None = None,
    ) -> None:
        """Record how the channel ended, the first time, and wake all waiting tasks."""
        if self._closed is not None:
            return
        state = self._state
        if exit_status is None and signal is None:
            exit_status, signal, message = state.exit_status, state.exit_signal, state.exit_message
        self._closed = ChannelClosed(exit_status, signal, message, error)
        self._changed.notify()
        self._writable.notify()
        self._notify_receivers()
        self._session._changed.notify()  # for requests that wait for room
        self._requests.end()
        if self._arrivals is not None:
            self._arrivals.end()
        if self._recipient is not None:
            told = partial(self._recipient.channel_closed, not self._is_closed_here)
            self._tell_recipient(told)

    async def wait_closed(self) -> ChannelClosed:
        """Wait until either side closes the channel or the session ends; return how it ended.

        Refuses the peer's requests, unless :meth:`requests` was called before. The exit status or
        signal is the one that this end sent, otherwise the peer's.
        """
        self._requests.disregard()
        await anyio.lowlevel.checkpoint()
        while self._closed is None:
            await self._changed.wait()
        return self._closed

    def _notify_receivers(self) -> None:
        self._inbox.notice.notify()
        if self._stderr is not None:
            self._stderr._inbox.notice.notify()

    # Called by the session's reader

    def _data_received(self, data: Buffer) -> None:
        if self._is_closed_here:
            return
        if self._arrivals is not None:
            self._arrivals.put_data(data, is_stderr=False)
        elif self._recipient is not None and not self._inbox.queue.size:
            self._deliver(self._recipient, data)
        else:
            self._inbox.put(data)

    def _extended_data_received(self, data_type: int, data: bytes) -> None:
        if data_type != EXTENDED_DATA_STDERR or self._is_closed_here:
            self._consumed(len(data))
        elif self._arrivals is None:
            self.stderr._put(data)
        else:
            self._arrivals.put_data(data, is_stderr=True)

    def _eof_received(self) -> None:
        if self._arrivals is not None:
            self._arrivals.put_eof()
        self._bytes_ended()
        if self._recipient is not None and not self._inbox.queue.size:
            self._tell_recipient(self._recipient.deliver_eof)

    def _bytes_ended(self) -> None:
        self._bytes_are_over = True
        self._notify_receivers()

    def _became_writable(self) -> None:
        self._writable.notify()
        # A call that is sending finds out by itself, and has not returned yet how much it sent.
        if self._attendant is not None and self._can_send and not self._is_sending:
            self._tell_recipient(self._attendant.channel_writable)

    def _peer_closed(self) -> None:
        self._bytes_ended()
        self._end()

    def _session_ended(self, error: Exception) -> None:
        self._end(error=error)

    def _request_received(self, request: PendingRequest) -> None:
        if self._arrivals is None:
            self._requests.put(request)
        else:
            self._arrivals.put_request(request)

    def _confirmed(self, payload: bytes) -> None:
        self._open_payload = payload
        self._changed.notify()
        if self._attendant is not None:
            self._tell_recipient(self._attendant.channel_opened)

    def _refused(self, reason: int, description: str) -> None:
        self._refusal = (reason, description)
        self._changed.notify()
        if self._attendant is not None:
            error = ChannelOpenError(reason, description)
            self._tell_recipient(partial(self._attendant.channel_refused, error))

    async def _wait_opened(self) -> None:
        while self._state.phase is ChannelPhase.OPENING and self._refusal is None:
            self._session._require_alive()
            await self._changed.wait()
        if self._refusal is not None:
            raise ChannelOpenError(*self._refusal)
        self._session._require_alive()

    async def _first_request(self, request: ChannelRequest) -> None:
        granted: Reply | None = None
        with suppress(anyio.BrokenResourceError):  # the channel, or its session, is already closed
            granted = await self.request(
                request.name, request.payload, want_reply=request.want_reply
            )
        if granted is None:
            self._session._require_alive()
        if not granted:
            raise RequestDenied(f"the peer refused the request {request.name!r}")

    # Conditions

    @property
    def _unread(self) -> int:
        """How many bytes wait to be read, or for a recipient."""
        size = self.request_backlog
        if self._arrivals is not None:
            return size + self._arrivals.size
        size += self._inbox.queue.size
        return size if self._stderr is None else size + self._stderr._inbox.queue.size

    @property
    def _is_open(self) -> bool:
        return self._state.phase is ChannelPhase.OPEN

    @property
    def _can_send(self) -> bool:
        state = self._state
        return self._closed is None and state.phase is _OPEN and state.send_half is _HALF_OPEN

    @property
    def _may_send_on(self) -> bool:
        """Whether writing has already made room again."""
        return self._state.send_wait is SendWait.NOTHING and self._can_send

    def _consumed(self, size: int) -> None:
        if size and self._session._connection.consume(self._state, size):
            self._session._advance()

    def _require_not_closed(self) -> None:
        if self._is_closed_here:
            raise anyio.ClosedResourceError

    def _require_session(self) -> None:
        """Raise if the channel ended because its session did."""
        if self._closed is not None and self._closed.error is not None:
            raise anyio.BrokenResourceError(str(self._closed.error)) from self._closed.error

    def _require_usable(self) -> None:
        self._require_not_closed()
        self._require_session()
        if self._state.phase is not ChannelPhase.OPEN:
            raise anyio.BrokenResourceError("the peer has closed the channel")

    def _require_sendable(self) -> None:
        if self._can_send:
            return
        self._require_usable()
        raise anyio.ClosedResourceError("EOF was sent")

    async def __aenter__(self) -> Self:
        return self

    def __repr__(self) -> str:
        state = self._state
        has_lost_session = self._closed is not None and self._closed.error is not None
        phase = "ended" if has_lost_session else state.phase.name.lower()
        return f"<Channel {state.channel_type!r} {state.local_id} {phase}>"
