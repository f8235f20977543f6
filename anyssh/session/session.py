"""The connection protocol (RFC 4254) of clients and servers: channels, requests, services.

:class:`Session` turns the events of the core into channels, requests and replies, and wakes the
tasks that wait for them. What happens to the session as a whole (its streams, its state, its
end) is :class:`~anyssh.session.life.SessionLife`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from logging import Logger, getLogger
from typing import Any, Final, Self

import anyio
import anyio.lowlevel
from anyio import TASK_STATUS_IGNORED
from anyio.abc import TaskStatus

from ..config import SessionConfig
from ..errors import SSHError
from ..forwarding.methods import ForwardingMethods
from ..forwarding.policy import ForwardingPolicy
from ..forwarding.service import PortForwarding
from ..protocol import Connection
from ..protocol.channel import ChannelState, PendingRequest, ReplySlot
from ..protocol.events import (
    ChannelClosed,
    ChannelDataReceived,
    ChannelEofReceived,
    ChannelExtendedDataReceived,
    ChannelOpened,
    ChannelOpenFailed,
    ChannelOpenReceived,
    ChannelRequestReceived,
    ChannelWritable,
    GlobalRequestReceived,
    ReplyReceived,
    RoomMade,
    ServiceAccepted,
    ServiceRequested,
)
from ..trace import TraceHandler, TraceId, TraceLevel
from ._arguments import check_type
from ._waiting import Notice
from .channel import Channel
from .errors import handle_failure, is_end_of_peer
from .leftovers import Leftovers
from .life import LIFE_HANDLERS, ProgressHandler, SessionLife, StreamSource
from .link import Together
from .links import SessionState
from .opening import ChannelOpening
from .recipients import Attendant
from .requests import (
    ChannelRequest,
    IncomingRequest,
    PendingReply,
    Reply,
    RequestIterator,
    RequestQueue,
)
from .services import ServiceHost, ServiceT, SessionService

__all__ = ["Session"]

logger: Logger = getLogger("anyssh")

_NO_FORWARDING: Final = ForwardingPolicy()


class ChannelOpenings:
    """Iterates over the channels that the peer asks to open; ends with the session."""

    __slots__ = "_session"

    def __init__(self, session: Session) -> None:
        self._session = session

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[ChannelOpening]:
        return self._session._next_opening(None, StopAsyncIteration)


class Session(ForwardingMethods, SessionLife):
    """One end of an SSH session, created by :class:`ClientSession` or :class:`Server`.

    Enter it once, with ``async with``, and leave it in the same task. Leaving sends DISCONNECT,
    closes the stream and ends every task of the session.
    """

    __slots__ = (
        "_channels",
        "_granted_service",
        "_leftovers",
        "_opening_came",
        "_openings",
        "_pending_replies",
        "_requests",
        "_service_host",
    )

    def __init__(
        self,
        transport: StreamSource,
        config: SessionConfig,
        *,
        forwarding: ForwardingPolicy | None = None,
        services: Mapping[type[SessionService], Any] | None = None,
        trace: TraceHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> None:
        check_type("forwarding", forwarding, ForwardingPolicy)
        policy = forwarding if forwarding is not None else _NO_FORWARDING
        registered: dict[type[SessionService], Any] = {PortForwarding: policy, **(services or {})}
        if policy.passes_on:
            del registered[PortForwarding]
        self._service_host = ServiceHost(registered)
        connection = Connection(config, self._service_host.session_requests)
        super().__init__(
            transport,
            config,
            connection,
            service_names=self._service_host.service_requests,
            trace=trace,
            on_progress=on_progress,
        )
        self._channels: dict[Channel, None] = {}
        self._openings: list[ChannelOpening] = []
        self._opening_came = Notice()
        self._pending_replies: dict[PendingReply, None] = {}
        self._granted_service: str | None = None
        self._leftovers: Leftovers | None = None  # allocated on demand: few sessions need it
        self._requests = RequestQueue(self._refuse_request)

    # Channels

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The open channels, in the order in which they were opened."""
        return tuple(channel for channel in self._channels if channel._is_open)

    async def open_channel(
        self,
        channel_type: str = "session",
        *,
        request: ChannelRequest | None = None,
        payload: bytes = b"",
        window_size: int | None = None,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> Channel:
        """Open a channel (RFC 4254 section 5.1).

        If the call is cancelled, the channel is closed as soon as the peer confirms it.

        :param channel_type: the channel type, for example ``"session"``
        :param request: a channel request to send right after the open; the call also waits for its
            reply
        :param payload: the type-specific data of CHANNEL_OPEN, in wire format
        :param window_size: the initial window in bytes; by default the configured ``window_size``
        :param task_status: started once CHANNEL_OPEN has its place in the order of sending
        :raises ChannelOpenError: the peer refused the channel
        :raises RequestDenied: the peer refused the request; the channel has been closed again
        :raises LocalProtocolError: the limit of channels is reached, ``channel_type`` or
            ``payload`` is too long for one SSH message, or ``window_size`` is out of range
        :raises SSHError: the session has ended
        :raises TypeError: ``request`` is not a :class:`ChannelRequest`
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        await self._wait_for_room()
        try:
            check_type("request", request, ChannelRequest)
            self._require_alive()
            state = self._connection.open_channel(channel_type, payload, window_size=window_size)
        except BaseException:
            # Every other path waits for the peer.
            await anyio.lowlevel.cancel_shielded_checkpoint()
            raise
        channel = Channel(self, state)
        self._channels[channel] = None
        self._advance()
        task_status.started()
        try:
            await channel._wait_opened()
            if request is not None:
                await channel._first_request(request)
        except BaseException:
            self._channels.pop(channel, None)
            channel._close_now()
            raise
        return channel

    def open_channel_nowait(
        self, attendant: Attendant, channel_type: str = "session", *, payload: bytes = b""
    ) -> Channel:
        """Open a channel without waiting; report its confirmation and its data to an attendant.

        Meant for relays of many channels, which then need no task per channel. The attendant learns
        whether the channel was opened or refused, or, if the session ends first, that it is closed.
        Until then nothing can be sent. A channel that is closed meanwhile is forgotten here, and
        closed at the peer as soon as it confirms it.

        :param attendant: receives the outcome, and everything that happens to the channel
            afterwards
        :param channel_type: the channel type
        :param payload: the type-specific data of CHANNEL_OPEN, in wire format
        :raises ~anyio.WouldBlock: the peer is not reading what was sent before
        :raises LocalProtocolError: the limit of channels is reached, or ``channel_type`` or
            ``payload`` is too long for one SSH message
        :raises SSHError: the session has ended
        """
        self._require_alive()
        if self._connection.wait_for_room():
            raise anyio.WouldBlock
        state = self._connection.open_channel(channel_type, payload)
        channel = Channel(self, state)
        self._channels[channel] = None
        channel.attend(attendant)
        self._advance()
        return channel

    def together(self) -> AbstractContextManager[None]:
        """Return a context manager that sends what is sent inside its ``with`` in one write.

        Meanwhile the output of all tasks is held back, so the block must not await anything. Much
        output takes several writes.

        :raises LocalProtocolError: the session has not been entered
        """
        if self._state is SessionState.NEW:
            raise self._not_started()
        return Together(self._links.current)

    def incoming_channels(self) -> AsyncIterator[ChannelOpening]:
        """Iterate over the channels that the peer asks to open.

        Up to 64 channels (``limits.unaccepted_channels``) wait for the iteration; more are refused.
        It ends with the session.
        """
        self._requests.disregard()
        return ChannelOpenings(self)

    async def accept_channel(self, channel_type: str | None = None) -> Channel:
        """Wait for the peer to open a channel, and accept it.

        :param channel_type: accept only channels of this type; the others keep waiting
        :raises SSHError: the session has ended
        """
        self._requests.disregard()
        opening = await self._next_opening(channel_type, self._failure)
        return opening.accept_nowait()

    async def serve(self, handler: Callable[[Channel], Awaitable[object]]) -> None:
        """Accept every channel, and run ``handler`` for each in a task of its own.

        Returns once the session has ended and every handler has returned. A channel is closed when
        its handler returns; an exception in a handler closes its channel and is logged.

        :param handler: called with each channel
        """
        openings = self.incoming_channels()
        opening = await anext(openings, None)
        if opening is None:
            return  # without a task group, which would cost more than the whole call
        async with anyio.create_task_group() as handlers:
            while opening is not None:
                with suppress(SSHError):  # the channel or the session has ended meanwhile
                    channel = opening.accept_nowait()
                    channel._is_handled = True
                    handlers.start_soon(self._run_handler, handler, channel)
                opening = await anext(openings, None)

    async def _run_handler(
        self, handler: Callable[[Channel], Awaitable[object]], channel: Channel
    ) -> None:
        async with channel:
            try:
                await handler(channel)
            except BaseException as error:
                if not handle_failure(error, partial(_handler_failed, channel)):
                    raise
            finally:
                channel._is_handled = False

    async def _next_opening(
        self, channel_type: str | None, end: Callable[[], Exception]
    ) -> ChannelOpening:
        """Return the next channel that the peer asks to open; raise ``end()`` if there are none."""
        if self._openings or self._end is not None:
            await anyio.lowlevel.checkpoint()
        while True:
            for opening in self._openings:
                if channel_type is None or opening.channel_type == channel_type:
                    self._openings.remove(opening)
                    return opening
            if self._end is not None:
                raise end()
            self._require_alive()
            await self._opening_came.wait(self._backend)

    def _accept_opening(
        self, state: ChannelState, open_payload: bytes, payload: bytes, window_size: int | None
    ) -> Channel:
        self._require_alive()
        self._connection.accept_channel(state, payload, window_size=window_size)
        channel = Channel(self, state, open_payload)
        self._channels[channel] = None
        self._advance()
        self._trace_channel(TraceId.CHANNEL_OPENED, "opened", channel)
        return channel

    def _reject_opening(self, state: ChannelState, reason: int, description: str) -> None:
        self._connection.reject_channel(state, reason, description)
        self._advance()

    def _trace_channel(self, trace_id: TraceId, what: str, channel: Channel) -> None:
        if self._trace_handler is not None:
            self._trace(trace_id, TraceLevel.INFO, f"{what} {channel!r}")

    # Requests

    def requests(self) -> AsyncIterator[IncomingRequest]:
        """Iterate over the peer's global requests (RFC 4254 section 4); ends with the session.

        Up to 16 requests (``limits.requests``) wait until this is called. A session whose channels
        are used without ever calling it refuses all requests. Keep-alive requests are answered
        automatically.
        """
        self._requests.handle()
        return RequestIterator(self, self._requests)

    async def request(
        self,
        name: str,
        payload: bytes = b"",
        *,
        want_reply: bool = True,
        task_status: TaskStatus[None] = TASK_STATUS_IGNORED,
    ) -> Reply:
        """Send a global request (RFC 4254 section 4); return the reply, true if it was granted.

        A cancelled call does not affect the replies of others. Without ``want_reply`` the call does
        not wait, and returns a true reply.

        :param name: the request name, for example ``"keepalive@openssh.com"``
        :param payload: the request-specific data, in wire format
        :param want_reply: whether the peer has to answer
        :param task_status: started once the request has its place in the order of sending
        :raises LocalProtocolError: ``name`` or ``payload`` is too long for one SSH message
        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        await self._wait_for_room()
        self._require_alive()
        slot = self._connection.request_global(name, payload, want_reply=want_reply)
        return await self._reply(slot, want_reply, task_status)

    async def _wait_for_room(self) -> None:
        """Wait while the peer is not reading, lest our opens and requests pile up."""
        while self._connection.wait_for_room():
            await self._changed.wait()

    async def _reply(
        self, slot: ReplySlot, is_wanted: bool, task_status: TaskStatus[None]
    ) -> Reply:
        """Send a request, and wait for its reply if one is wanted."""
        if not is_wanted:
            self._advance()
            task_status.started()
            return Reply(True)
        pending = PendingReply(slot)
        self._pending_replies[pending] = None
        self._advance()
        task_status.started()
        try:
            return await pending.wait()
        finally:
            del self._pending_replies[pending]
            pending.abandon()

    def _answer_request(self, request: PendingRequest, is_success: bool, payload: bytes) -> None:
        self._connection.answer(request, is_success, payload)
        self._advance()

    def _refuse_request(self, request: PendingRequest) -> None:
        self._answer_request(request, False, b"")

    # Services

    @property
    def services(self) -> tuple[SessionService, ...]:
        """The services activated so far."""
        return self._service_host.active

    def service(self, kind: type[ServiceT]) -> ServiceT:
        """Return the session's instance of a registered service, creating it on first use.

        :param kind: the class that the service was registered with
        :raises LocalProtocolError: the service is not registered, or the session has not been
            entered
        :raises SSHError: the session has ended
        """
        if self._state is SessionState.NEW:
            raise self._not_started()
        self._require_alive()
        return self._service_host.activate(kind, self)

    # Keys

    async def rekey(self) -> None:
        """Exchange new keys (RFC 4253 section 9); return when they are in use.

        Joins a key exchange that is already in progress.

        :raises LocalProtocolError: the session is not authenticated, is not encrypted, or the peer
            is a Dev Tunnels implementation, which starts key exchanges itself
        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        self._require_alive()
        core = self._core
        before = core.exchanger.completed_count
        if self._state is not SessionState.DISCONNECTED:
            core.start_rekey(anyio.current_time())
            self._advance()
        # A session that reconnects meanwhile has new keys anyway.
        await self._wait_until(
            lambda: core is not self._core or core.exchanger.completed_count > before
        )

    # Events of the core

    def _service_accepted(self, event: ServiceAccepted) -> None:
        self._granted_service = event.name
        self._changed.notify()

    def _service_requested(self, event: ServiceRequested) -> None:
        self._service_host.take_service_request(event.name, self)

    def _channel_open_received(self, event: ChannelOpenReceived) -> None:
        opening = ChannelOpening(self, event.channel, event.payload)
        if not self._service_host.take_opening(opening, self):
            self._openings.append(opening)
            self._opening_came.notify()

    def _channel_opened(self, event: ChannelOpened) -> None:
        channel: Channel = event.channel.owner
        channel._confirmed(event.payload)
        self._trace_channel(TraceId.CHANNEL_OPENED, "opened", channel)

    def _channel_open_failed(self, event: ChannelOpenFailed) -> None:
        channel: Channel = event.channel.owner
        self._channels.pop(channel, None)
        channel._refused(event.reason, event.description)
        self._trace(
            TraceId.CHANNEL_OPEN_FAILED, TraceLevel.WARNING, f"{channel!r}: {event.description}"
        )

    def _channel_data_received(self, event: ChannelDataReceived) -> None:
        event.channel.owner._data_received(event.data)

    def _channel_extended_data_received(self, event: ChannelExtendedDataReceived) -> None:
        event.channel.owner._extended_data_received(event.data_type, event.data)

    def _channel_eof_received(self, event: ChannelEofReceived) -> None:
        event.channel.owner._eof_received()

    def _channel_closed(self, event: ChannelClosed) -> None:
        channel: Channel = event.channel.owner
        self._channels.pop(channel, None)
        channel._peer_closed()
        if not channel._is_closed_here:
            self._note_leftovers(channel)
        self._trace_channel(TraceId.CHANNEL_CLOSED, "closed", channel)

    def _note_leftovers(self, channel: Channel) -> None:
        """Keep account of what is left of a channel that was just closed."""
        if channel._is_handled or channel._unread:
            if self._leftovers is None:
                self._leftovers = Leftovers(self._config.limits)
                self._connection.leaves_too_much = self._leftovers.are_too_much
            self._leftovers.note(channel)

    def _channel_writable(self, event: ChannelWritable) -> None:
        event.channel.owner._became_writable()

    def _room_made(self, event: RoomMade) -> None:
        self._changed.notify()

    def _channel_request_received(self, event: ChannelRequestReceived) -> None:
        channel: Channel = event.channel.owner
        if not self._service_host.take_channel_request(channel, event.request, self):
            channel._request_received(event.request)

    def _global_request_received(self, event: GlobalRequestReceived) -> None:
        if not self._service_host.take_session_request(event.request, self):
            self._requests.put(event.request)

    def _reply_received(self, event: ReplyReceived) -> None:
        pending: PendingReply | None = event.slot.owner
        if pending is not None:
            pending.resolve(event.is_success, event.payload)

    # The end

    def _end_work(self, error: SSHError) -> None:
        """Wake all waiting tasks; each raises a fresh exception."""
        self._service_host.end()
        for channel in tuple(self._channels):
            channel._session_ended(error)
        self._channels.clear()
        self._openings.clear()
        self._opening_came.notify()
        for pending in self._pending_replies:
            pending.fail(self._failure)
        self._requests.end()

    def _disregard_requests(self) -> None:
        self._requests.disregard()


Session._handlers = {
    **LIFE_HANDLERS,
    ChannelDataReceived: Session._channel_data_received,
    ChannelWritable: Session._channel_writable,
    RoomMade: Session._room_made,
    ChannelExtendedDataReceived: Session._channel_extended_data_received,
    ChannelEofReceived: Session._channel_eof_received,
    ChannelClosed: Session._channel_closed,
    ChannelOpenReceived: Session._channel_open_received,
    ChannelOpened: Session._channel_opened,
    ChannelOpenFailed: Session._channel_open_failed,
    ChannelRequestReceived: Session._channel_request_received,
    GlobalRequestReceived: Session._global_request_received,
    ReplyReceived: Session._reply_received,
    ServiceAccepted: Session._service_accepted,
    ServiceRequested: Session._service_requested,
}


def _handler_failed(channel: Channel, error: Exception) -> None:
    if is_end_of_peer(error):
        logger.debug("%r ended: %r", channel, error)
    else:
        logger.error("the handler of %r failed", channel, exc_info=error)
