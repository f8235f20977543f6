"""Piping: join two channels, or all channels and requests of two sessions.

A gateway between a client and a server has a session with each of them, and :func:`pipe` joins the
two. Each direction of each channel is a task that takes arrivals in order and sends them on under
the flow control of the other side. It grants window back to the source only as it takes, so a side
that does not read stalls its own channel and nothing else. Bytes that arrive while the task is
idle, and that the other side accepts at once, bypass it: the session's reader sends them on.
Replies to requests and answers to opens are awaited in tasks of their own, which start in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self, TypeVar, overload

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup, TaskStatus

from .constants import RESET_SIGNAL, ChannelOpenFailureReason, DisconnectReason
from .errors import ChannelOpenError, SSHError
from .session._waiting import Notice
from .session.arrivals import Arrival, ReceivedData, ReceivedEof
from .session.channel import Channel
from .session.life import SessionClosed
from .session.opening import ChannelOpening
from .session.requests import IncomingRequest, Reply
from .session.session import Session
from .wire import Buffer

__all__ = ["pipe"]

CHECKED_AT_ONCE: Final = 32
"""Channels added before the bytes held for closed ones are checked again."""
NOT_PASSED_ON: Final = "the relay could not pass the channel on"

_GONE: Final = (SSHError, anyio.BrokenResourceError, anyio.ClosedResourceError)


@overload
async def pipe(first: Channel, second: Channel) -> None: ...


@overload
async def pipe(first: Session, second: Session) -> None: ...


async def pipe(first: Channel | Session, second: Channel | Session) -> None:
    """Relay everything between two channels, or between two sessions, until either ends.

    Between **channels**, data, standard error, EOF, requests and replies are passed on in order.
    Once one channel is closed and what it sent has been delivered, the other is closed in the same
    way. The pipe owns both channels: it closes them on every path, and nothing else may use them
    meanwhile.

    Between **sessions**, requests and the channels that the peers open from then on are passed on,
    with their payloads byte for byte. A channel is confirmed or refused as the other side does.
    Once one session has ended, its channels have :attr:`Limits.disconnect_time` to deliver what is
    left; then the other session is ended with the same reason (or ``BY_APPLICATION`` if the
    connection was lost). A session that may still reconnect has not ended. Channels that are
    already open are left alone.

    :meth:`Channel.wait_closed` and :meth:`Session.wait_closed` tell how it ended. Cancelling closes
    the relayed channels and refuses what waits for an answer; sessions stay open.

    :param first: a channel or a session
    :param second: another one of the same kind
    :raises ~anyio.BusyResourceError: another task receives from one of the channels
    :raises TypeError: the two are neither both channels nor both sessions
    :raises ValueError: the two are the same
    """
    if first is second:
        raise ValueError("a pipe needs two different ends")
    if isinstance(first, Channel) and isinstance(second, Channel):
        await _pipe_channels(first, second)
    elif isinstance(first, Session) and isinstance(second, Session):
        await _pipe_sessions(first, second)
    else:
        raise TypeError(
            "a pipe joins two channels or two sessions, not "
            f"{type(first).__name__} and {type(second).__name__}"
        )


# Channels


class _Asking:
    """Counts the requests of one channel that the other has not answered yet.

    :ivar size: the bytes of their payloads
    """

    def __init__(self) -> None:
        self.size: int = 0
        self._count = 0
        self._all_answered = Notice()

    @contextmanager
    def one_more(self, size: int) -> Iterator[None]:
        self._count += 1
        self.size += size
        try:
            yield
        finally:
            self._count -= 1
            self.size -= size
            if not self._count:
                self._all_answered.notify()

    async def wait_all_answered(self) -> None:
        while self._count:
            await self._all_answered.wait()


@dataclass(frozen=True, slots=True, eq=False)
class _End:
    """One of two piped channels."""

    channel: Channel
    arrivals: AsyncIterator[Arrival]
    asking: _Asking

    @classmethod
    def of(cls, channel: Channel, target: Channel) -> Self:
        return cls(channel, channel.arrivals(partial(_pass_on, target)), _Asking())


def _pass_on(target: Channel, data: Buffer) -> int:
    """Send what a channel accepts at once; drop everything if the channel is gone."""
    try:
        return target.send_nowait(data, is_urgent=True)
    except _GONE:
        return len(data)


async def _pipe_channels(first: Channel, second: Channel) -> None:
    async with first, second:
        await _pipe_ends(_End.of(first, second), _End.of(second, first))


async def _pipe_ends(one: _End, other: _End) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_carry, other, one, tasks)
        await _carry(one, other, tasks)


async def _carry(source: _End, target: _End, tasks: TaskGroup) -> None:
    """Pass on what arrives on one channel until it is closed, then close the other likewise.

    Once the target is gone, the rest is read and dropped: the target's peer may be waiting for
    something that the source's peer sends only after it could write.
    """
    async for arrival in source.arrivals:
        try:
            await _pass_arrival(arrival, source, target.channel, tasks)
        except _GONE:
            continue
    end = await source.channel.wait_closed()
    # An answer from the source before it closed may still be in flight in another task.
    await target.asking.wait_all_answered()
    if end.exit_signal is not None:
        await target.channel.aclose(signal=end.exit_signal, message=end.message or "")
    else:
        await target.channel.aclose(exit_status=end.exit_status)


async def _pass_arrival(arrival: Arrival, source: _End, target: Channel, tasks: TaskGroup) -> None:
    match arrival:
        case ReceivedData(data, is_stderr=False):
            # Taking an arrival is a checkpoint, so passing it on need not be one.
            sent = target.send_nowait(data, is_urgent=True)
            if sent < len(data):
                await target.send(memoryview(data)[sent:])
        case ReceivedData(data):
            await target.send_stderr(data)
        case ReceivedEof():
            await target.send_eof()
        case IncomingRequest():
            relay = partial(_relay_channel_request, source.asking)
            await _start_in_order(tasks, relay, arrival, target)


async def _relay_channel_request(
    asking: _Asking, request: IncomingRequest, target: Channel, sent: _Sent
) -> None:
    with asking.one_more(len(request.payload)):
        await _relay_request(request, target, sent)


# Sessions


class _Relayed:
    """The channels of two piped sessions.

    A channel that its peer has filled and closed no longer counts in its session, but the bytes
    that the other side has not accepted are held here. If they exceed the bound, the oldest pairs
    are aborted.

    :param most: bytes that may be held for closed channels
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pairs: dict[tuple[_End, _End], None] = {}
        self._next_check = CHECKED_AT_ONCE

    @contextmanager
    def relaying(self, near: _End, far: _End) -> Iterator[None]:
        """Count a pair of channels, once there is room."""
        self._next_check = min(self._next_check, len(self._pairs) + CHECKED_AT_ONCE)
        if len(self._pairs) >= self._next_check:
            self._make_room()
            self._next_check = len(self._pairs) + CHECKED_AT_ONCE
        self._pairs[near, far] = None
        try:
            yield
        finally:
            del self._pairs[near, far]

    def _make_room(self) -> None:
        held = {pair: size for pair in self._pairs if (size := _held(*pair))}
        too_much = sum(held.values()) - self._most
        for (near, far), size in held.items():
            if too_much <= 0:
                return
            too_much -= size
            for end in (near, far):
                end.channel.close(signal=RESET_SIGNAL)


def _held(near: _End, far: _End) -> int:
    """Return how many bytes of a closed channel, with its requests, the other has not accepted."""
    if (near.channel.closed is None) == (far.channel.closed is None):
        return 0
    source, target = (far, near) if near.channel.closed is None else (near, far)
    data = source.channel.metrics.bytes_received - target.channel.metrics.bytes_sent
    return data + source.channel.request_backlog + source.asking.size


async def _pipe_sessions(first: Session, second: Session) -> None:
    memory = max(each.config.limits.receive_memory for each in (first, second))
    relay_opening = partial(_relay_opening, _Relayed(memory // 2))
    async with anyio.create_task_group() as relays:
        async with anyio.create_task_group() as acceptors:
            for source, target in ((first, second), (second, first)):
                acceptors.start_soon(_relay_requests, source.requests(), target, relays)
                openings = source.incoming_channels()
                acceptors.start_soon(_relay_openings, openings, target, relays, relay_opening)
            end, other = await _first_end(first, second)
            acceptors.cancel_scope.cancel()
        relays.cancel_scope.deadline = anyio.current_time() + other.config.limits.disconnect_time
    await other.disconnect(_reason_for_others(end), end.description)


def _reason_for_others(end: SessionClosed) -> int:
    """Return the reason to pass on; a lost stream would look like the other session's own."""
    lost = end.reason == DisconnectReason.CONNECTION_LOST
    return DisconnectReason.BY_APPLICATION if lost else end.reason


async def _first_end(first: Session, second: Session) -> tuple[SessionClosed, Session]:
    """Wait until one session has ended; return how, and the one that is left."""
    ends: list[tuple[SessionClosed, Session]] = []

    async def watch(session: Session, other: Session) -> None:
        ends.append((await session.wait_closed(), other))
        watchers.cancel_scope.cancel()

    async with anyio.create_task_group() as watchers:
        watchers.start_soon(watch, first, second)
        watchers.start_soon(watch, second, first)
    return ends[0]


async def _relay_requests(
    requests: AsyncIterator[IncomingRequest], target: Session, relays: TaskGroup
) -> None:
    async for request in requests:
        await _start_in_order(relays, _relay_request, request, target)


async def _relay_openings(
    openings: AsyncIterator[ChannelOpening],
    target: Session,
    relays: TaskGroup,
    relay_opening: Callable[[ChannelOpening, Any, _Sent], Coroutine[Any, Any, None]],
) -> None:
    async for opening in openings:
        await _start_in_order(relays, relay_opening, opening, target)


# One request, one channel


class _Sent(TaskStatus[None]):
    """Reports that a request has been sent, or never will be."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def started(self, value: None = None) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()


T = TypeVar("T")


async def _start_in_order(
    tasks: TaskGroup,
    relay: Callable[[T, Any, _Sent], Coroutine[Any, Any, None]],
    what: T,
    target: Channel | Session,
) -> None:
    """Start the relay of one request or open; return once its place in the order is taken."""
    sent = _Sent()
    tasks.start_soon(relay, what, target, sent)
    await sent.wait()


async def _relay_request(request: IncomingRequest, target: Channel | Session, sent: _Sent) -> None:
    reply = Reply(False)
    try:
        reply = await target.request(
            request.name, request.payload, want_reply=request.want_reply, task_status=sent
        )
    except _GONE:
        pass
    finally:
        sent.started()
        with anyio.CancelScope(shield=True):
            await _answer(request, reply)


async def _answer(request: IncomingRequest, reply: Reply) -> None:
    if reply:
        try:
            await request.accept(reply.payload)
            return
        except SSHError:  # the source accepts no payload of that size
            pass
    await request.reject()


async def _relay_opening(
    relayed: _Relayed, opening: ChannelOpening, target: Session, sent: _Sent
) -> None:
    reason: int = ChannelOpenFailureReason.CONNECT_FAILED
    description = NOT_PASSED_ON
    far: Channel | None = None
    try:
        far = await target.open_channel(
            opening.channel_type, payload=opening.payload, task_status=sent
        )
    except ChannelOpenError as error:
        reason, description = error.reason, error.description
    except SSHError:
        pass
    finally:
        sent.started()
        if far is None:
            with anyio.CancelScope(shield=True):
                await _refuse(opening, reason, description)
    if far is not None:
        await _join(opening, far, relayed)


async def _refuse(opening: ChannelOpening, reason: int, description: str) -> None:
    with suppress(SSHError):  # the session that asked has ended
        await opening.reject(reason, description)


async def _join(opening: ChannelOpening, far: Channel, relayed: _Relayed) -> None:
    async with far:
        try:
            near = opening.accept_nowait(payload=far.open_payload)
        except SSHError:  # the session that asked has ended, or takes no payload of that size
            await _refuse(opening, ChannelOpenFailureReason.CONNECT_FAILED, NOT_PASSED_ON)
            return
        async with near:
            ends = _End.of(near, far), _End.of(far, near)
            with relayed.relaying(*ends):
                await _pipe_ends(*ends)
