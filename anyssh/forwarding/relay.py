"""Joining a channel and a stream: bytes in both directions, half-close and reset.

For a general stream, each direction is a task. For a plain socket there is no task: the session's
reader writes what arrives on the channel to the socket at once, and one task watches all such
sockets.

The end of one direction is passed on and leaves the other direction open. A reset on one side
becomes a reset on the other; on a channel, that is closing it with a signal. Each direction holds
at most one chunk, so a slow reader stops its sender.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from logging import Logger, getLogger
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream, TaskGroup

from ..constants import RESET_SIGNAL
from ..errors import ChannelOpenError, SSHError
from ..session.channel import Channel
from ..wire import Buffer
from .sockets import ConnectedSocket, resets_when_closed
from .watching import NOTHING, READING, WRITING, Watcher

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = ["Relay", "Relays", "SocketRelay", "reset"]

logger: Logger = getLogger("anyssh")

RECEIVE_BYTES: Final = 256 * 1024
CLOSE_TIME: Final = 1.0
NO_HALF_CLOSE_TIME: Final = 30.0
"""Seconds of silence after which a relay ends that could not pass on the end of the input."""
MOST_LEFTOVERS: Final = 32
"""Bytes, in windows, that may wait for streams after their channels are closed."""
LEAST_LEFTOVER: Final = 64 * 1024
"""The least that each such relay counts for, as it also holds a socket."""

Establish = Callable[[], Awaitable[tuple[Channel, ByteStream]]]


async def reset(stream: ByteStream) -> None:
    """Close a stream such that its peer sees an error instead of an end, if possible."""
    try:
        with anyio.CancelScope(shield=True):
            if isinstance(stream, Channel):
                await stream.aclose(signal=RESET_SIGNAL)
            else:
                if isinstance(stream, SocketStream):
                    resets_when_closed(stream.extra(SocketAttribute.raw_socket))
                await anyio.aclose_forcefully(stream)
    except Exception as error:  # whatever a broken stream may raise
        logger.debug("resetting a forwarded stream: %r", error)


class _Outcome(Enum):
    """How a relay ended."""

    NONE = auto()
    """It has not ended, or was cancelled."""
    COMPLETE = auto()
    BROKEN = auto()


class Relay:
    """Moves bytes between a stream and a channel, which may be opened later than the stream.

    It owns both, and closes both on every path. It starts to read the stream immediately: an
    application's listener may return streams that buffer incoming data until someone reads them.

    Some streams, such as TLS, cannot end one direction only. A client is then sent the end of both,
    as its target has nothing more to say. A target may still answer, or wait for an end that never
    comes, so the relay ends after a period of silence.

    :param relays: what the session's relays share
    :param is_target: whether the stream leads to the target rather than to the client
    :param idle_time: seconds without a byte after which both ends are reset
    """

    def __init__(
        self,
        stream: ByteStream,
        relays: Relays,
        *,
        is_target: bool,
        idle_time: float = math.inf,
    ) -> None:
        self._stream = stream
        self._relays = relays
        self._is_target = is_target
        self._idle_time = idle_time
        self._tasks: TaskGroup
        self._outcome = _Outcome.NONE
        self._channel: Channel | None = None
        self._far: ByteStream | None = None
        self._established = anyio.Event()
        self._delivered = anyio.Event()
        self._directions_left = 2
        self._ends_when_idle = False

    async def run(self, establish: Establish) -> None:
        """Establish the channel, relay until both directions have ended, close both ends.

        :param establish: returns the channel and the stream to use for it, which may be a wrapper;
            if it raises, it has closed both, and the relay resets its stream and re-raises
        """
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._copy_to_channel)
                try:
                    self._channel, self._far = await establish()
                except Exception as error:
                    # Raised below, outside of the task group, which would wrap it.
                    failure = error
                    self._end(_Outcome.BROKEN)
                else:
                    self._established.set()
                    self._touch()
                    self._tasks.start_soon(self._copy_to_stream, self._far, self._channel)
                    await self._watch_channel(self._channel)
        finally:
            self._relays.forget(self)
            self._end_idle()
            with anyio.move_on_after(CLOSE_TIME, shield=True):
                await self._close()
            if self._outcome is not _Outcome.COMPLETE:
                await self._abort()
        if failure is not None:
            raise failure

    def abort(self) -> None:
        """Reset both ends, unless the relay is already ending."""
        self._end(_Outcome.BROKEN)

    def _end(self, outcome: _Outcome, error: Exception | None = None) -> None:
        if self._outcome is _Outcome.NONE:
            self._outcome = outcome
            self._tasks.cancel_scope.cancel()
            if error is not None:
                logger.debug("a forwarded connection broke: %r", error)

    def _touch(self) -> None:
        if self._idle_time != math.inf:
            self._tasks.cancel_scope.deadline = anyio.current_time() + self._idle_time

    def _end_idle(self) -> None:
        """End in good order if the relay has gone silent and is only waiting for that."""
        is_idle = self._tasks.cancel_scope.deadline <= anyio.current_time()
        if self._outcome is _Outcome.NONE and self._ends_when_idle and is_idle:
            self._outcome = _Outcome.COMPLETE

    # Copying

    async def _copy_to_channel(self) -> None:
        try:
            chunk = await self._receive()
        except Exception as error:
            self._end(_Outcome.BROKEN, error)
            return
        await self._established.wait()
        far, channel = self._far, self._channel
        if far is None or channel is None:
            return
        try:
            while chunk:
                await self._send_to_channel(far, channel, chunk)
                chunk = await self._receive()
            await self._pass_eof(far, is_target=not self._is_target)
        except _ChannelClosed:
            return  # the watcher ends the relay once everything has been delivered
        except Exception as error:
            self._end(_Outcome.BROKEN, error)
        else:
            self._direction_ended()

    async def _receive(self) -> bytes:
        """Return the next chunk, ``b""`` at the end."""
        try:
            chunk = await self._stream.receive(RECEIVE_BYTES)
        except anyio.EndOfStream:
            return b""
        self._touch()
        return chunk

    async def _send_to_channel(self, far: ByteStream, channel: Channel, chunk: bytes) -> None:
        try:
            await far.send(chunk)
        except Exception as error:
            if channel.closed is not None:
                raise _ChannelClosed from error
            raise
        self._touch()

    async def _copy_to_stream(self, far: ByteStream, channel: Channel) -> None:
        try:
            while True:
                try:
                    chunk = await far.receive(RECEIVE_BYTES)
                except anyio.EndOfStream:
                    break
                self._touch()
                await self._stream.send(chunk)
            if channel.closed is not None and channel.closed.exit_signal is not None:
                return  # a reset rather than an end, which the watcher handles
            await self._pass_eof(self._stream, is_target=self._is_target)
        except Exception as error:
            self._end(_Outcome.BROKEN, error)
        else:
            self._delivered.set()
            self._direction_ended()

    async def _pass_eof(self, stream: ByteStream, *, is_target: bool) -> None:
        try:
            await stream.send_eof()
        except NotImplementedError:
            if is_target:
                self._idle_time = min(self._idle_time, NO_HALF_CLOSE_TIME)
                self._ends_when_idle = True
                self._touch()
            else:
                self._end(_Outcome.COMPLETE)

    def _direction_ended(self) -> None:
        self._directions_left -= 1
        if self._directions_left == 0:
            self._end(_Outcome.COMPLETE)

    async def _watch_channel(self, channel: Channel) -> None:
        closed = await channel.wait_closed()
        if closed.exit_signal is not None or closed.error is not None:
            self._end(_Outcome.BROKEN, closed.error)
        else:
            self._relays.keep(self, channel)
            await self._delivered.wait()
            self._end(_Outcome.COMPLETE)

    # Ending

    async def _close(self) -> None:
        """Close both ends if all went well; a failure here breaks the relay."""
        if self._outcome is not _Outcome.COMPLETE:
            return
        self._outcome = _Outcome.BROKEN
        for end in dict.fromkeys((self._far, self._channel, self._stream)):
            if end is not None:
                try:
                    await end.aclose()
                except Exception as error:
                    logger.debug("closing a forwarded connection: %r", error)
                    return
        self._outcome = _Outcome.COMPLETE

    async def _abort(self) -> None:
        for end in dict.fromkeys((self._channel, self._far, self._stream)):
            if end is not None:
                await reset(end)


class _ChannelClosed(Exception):
    """The peer closed the channel while we were sending."""


class _Flow(Enum):
    """The state of one direction of a relay between a socket and a channel."""

    FLOWING = auto()
    BLOCKED = auto()
    """The destination accepts no more for now."""
    ENDED = auto()


_FLOWING: Final = _Flow.FLOWING
_BLOCKED: Final = _Flow.BLOCKED
_ENDED: Final = _Flow.ENDED

_STREAM_ERRORS: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, SSHError, OSError)
"""The socket, channel or session is gone, or the system cannot watch any more sockets."""


class Relays:
    """What the relays of one session share.

    A relay whose channel is closed, but whose stream has not accepted everything, no longer counts
    as a channel, yet holds up to a window of bytes. If these exceed the bound, the oldest are
    aborted.

    :param window_size: the most bytes that one channel holds
    :ivar watcher: watches the sockets of relays without a task
    """

    __slots__ = ("_leftover_bytes", "_leftovers", "_window_size", "watcher")

    def __init__(self, watcher: Watcher, window_size: int) -> None:
        self.watcher: Watcher = watcher
        self._window_size = max(window_size, LEAST_LEFTOVER)
        self._leftovers: dict[Relay | SocketRelay, int] = {}
        self._leftover_bytes = 0

    def keep(self, relay: Relay | SocketRelay, channel: Channel) -> None:
        """Let a relay finish writing to its stream after its channel was closed."""
        size = max(LEAST_LEFTOVER, min(channel.metrics.bytes_received, self._window_size))
        self._leftovers[relay] = size
        self._leftover_bytes += size
        while self._leftover_bytes > MOST_LEFTOVERS * self._window_size:
            oldest = next(iter(self._leftovers))
            self.forget(oldest)
            oldest.abort()

    def forget(self, relay: Relay | SocketRelay) -> None:
        """Forget a relay that has ended."""
        self._leftover_bytes -= self._leftovers.pop(relay, 0)


class SocketRelay:
    """Moves bytes between a plain socket and a channel, without a task of its own.

    The session's reader calls it with what arrives on the channel, and a watcher when the socket is
    ready; it moves what can be moved at once. What the socket does not accept stays in the channel,
    whose window then closes; while the channel accepts no more, the socket is not read.

    It owns both ends, and closes both on every path.

    :param relays: what the session's relays share
    """

    __slots__ = (
        "_channel",
        "_finished",
        "_outcome",
        "_relays",
        "_rest",
        "_stream",
        "_to_channel",
        "_to_socket",
        "_watched_for",
    )

    def __init__(self, stream: ConnectedSocket, relays: Relays) -> None:
        self._stream = stream
        self._relays = relays
        self._channel: Channel | None = None
        self._rest: Buffer = b""
        self._watched_for = NOTHING
        self._to_channel = _FLOWING
        self._to_socket = _FLOWING
        self._outcome = _Outcome.NONE
        self._finished: anyio.Event | None = None

    # Lifecycle

    def open(self, session: Session, channel_type: str, payload: bytes) -> None:
        """Ask for a channel; start once the peer has confirmed it.

        :raises ~anyio.WouldBlock: the peer is not reading; the socket is untouched
        :raises SSHError: the session has ended, or has reached its limit of channels; likewise
        """
        self._channel = session.open_channel_nowait(self, channel_type, payload=payload)

    def begin(self, channel: Channel) -> None:
        """Start with an open channel."""
        self._channel = channel
        channel.attend(self)
        self._watch_or_break()

    async def run(self, channel: Channel) -> None:
        """Start, and return once both directions have ended; if cancelled, abort."""
        self._finished = anyio.Event()
        try:
            self.begin(channel)
            await self._finished.wait()
        finally:
            self.abort()

    def opened(self, channel: Channel) -> None:
        """React to the channel being open; for subclasses."""

    def ended(self) -> None:
        """React to the end of the relay; for subclasses."""

    def leave(self) -> None:
        """Give the socket up to another owner, before anything has started."""
        self._outcome = _Outcome.BROKEN
        self.ended()

    def abort(self) -> None:
        """Reset both ends, unless both are already closed."""
        self._end(_Outcome.BROKEN)

    def _end(self, outcome: _Outcome, error: Exception | None = None) -> None:
        if self._outcome is not _Outcome.NONE:
            return
        self._outcome = outcome
        self._relays.forget(self)
        is_broken = outcome is _Outcome.BROKEN
        self._to_channel = self._to_socket = _ENDED
        self._watch()
        self._stream.close(resets=is_broken)
        if self._channel is not None:
            self._channel.close(signal=RESET_SIGNAL if is_broken else None)
        if error is not None:
            logger.debug("a forwarded connection broke: %r", error)
        if self._finished is not None:
            self._finished.set()
        self.ended()

    def _watch(self) -> None:
        """Update what the socket is watched for."""
        wanted = READING if self._to_channel is _FLOWING else NOTHING
        if self._to_socket is _BLOCKED:
            wanted |= WRITING
        before = self._watched_for
        if wanted != before:
            self._relays.watcher.watch(self._stream, self, before, wanted)
            self._watched_for = wanted

    def _watch_or_break(self) -> None:
        """Update what the socket is watched for; if that fails, break the connection."""
        try:
            self._watch()
        except _STREAM_ERRORS as error:
            self._end(_Outcome.BROKEN, error)

    # Called by the watcher

    def socket_ready(self, ready: int) -> None:
        """Move what can be moved now."""
        if ready & WRITING and self._to_socket is _BLOCKED:
            self._write()
        if ready & READING and self._to_channel is _FLOWING:
            self._read()

    # Socket to channel

    def _read(self) -> None:
        """Send on what has arrived on the socket; watch it if there is nothing."""
        channel = self._channel
        if channel is None:
            return
        try:
            # No more than one turn's worth of small packets, so that others have their turn.
            chunk = self._stream.receive_nowait(min(RECEIVE_BYTES, channel.turn_size))
            if chunk:
                self._send(chunk)
            elif chunk is not None:
                self._end_to_channel()
            self._watch()
        except _STREAM_ERRORS as error:
            self._to_channel_broke(error)

    def _send(self, chunk: Buffer) -> None:
        """Send what the channel accepts, and keep the rest until it accepts more."""
        if self._channel is None:
            return
        try:
            sent = self._channel.send_nowait(chunk)
        except anyio.BrokenResourceError:
            # The peer has closed it; we are told so after everything received before.
            self._rest, self._to_channel = b"", _ENDED
            return
        if self._outcome is not _Outcome.NONE:
            return  # sending has ended this relay
        self._rest = b"" if sent == len(chunk) else memoryview(chunk)[sent:]
        self._to_channel = _BLOCKED if self._rest else _FLOWING

    def _end_to_channel(self) -> None:
        self._to_channel = _ENDED
        if self._to_socket is _ENDED:
            self._end(_Outcome.COMPLETE)
        elif self._channel is not None:
            self._channel.send_eof_nowait()

    def _to_channel_broke(self, error: Exception) -> None:
        channel = self._channel
        if channel is None or channel.closed is None:
            self._end(_Outcome.BROKEN, error)
        elif self._outcome is _Outcome.NONE:
            # The channel is closed, but what it received has yet to be delivered.
            self._to_channel = _ENDED
            self._watch()

    def channel_opened(self) -> None:
        """Start with the channel that was asked for."""
        if self._channel is not None and self._outcome is _Outcome.NONE:
            self.opened(self._channel)
            self._read()

    def channel_refused(self, error: ChannelOpenError) -> None:
        """Abort: there will be no channel."""
        self._end(_Outcome.BROKEN, error)

    def channel_writable(self) -> None:
        """Send the rest, and continue reading."""
        if self._to_channel is _BLOCKED:
            try:
                self._send(self._rest)
                self._watch()
            except _STREAM_ERRORS as error:
                self._to_channel_broke(error)

    # Channel to socket

    def deliver(self, data: Buffer) -> int:
        """Write what the socket accepts at once; watch it if that is not everything."""
        if self._to_socket is not _FLOWING:
            return 0
        try:
            sent = self._stream.send_nowait(data)
            if sent < len(data):
                self._to_socket = _BLOCKED
                self._watch()
        except _STREAM_ERRORS as error:
            self._end(_Outcome.BROKEN, error)
            return 0
        return sent

    def _write(self) -> None:
        """Write what the channel has kept."""
        channel = self._channel
        if channel is None:
            return
        self._to_socket = _FLOWING
        channel.deliver_rest()
        if self._to_socket is not _BLOCKED and self._outcome is _Outcome.NONE:
            if channel.closed is not None:
                self._end(_Outcome.COMPLETE)
            else:
                self._watch()

    def deliver_eof(self) -> None:
        """Pass EOF on."""
        if self._to_socket is _ENDED:
            return
        self._to_socket = _ENDED
        if self._to_channel is _ENDED:
            self._end(_Outcome.COMPLETE)
            return
        try:
            self._stream.send_eof_nowait()
            self._watch()
        except _STREAM_ERRORS as error:
            self._end(_Outcome.BROKEN, error)

    def channel_closed(self, by_peer: bool) -> None:
        """End with the channel, once everything it received has been delivered."""
        channel = self._channel
        closed = channel.closed if channel is not None else None
        error = closed.error if closed is not None else None
        was_reset = closed is not None and closed.exit_signal is not None
        if was_reset or error is not None or not by_peer:
            self._end(_Outcome.BROKEN, error)
        elif self._to_socket is not _BLOCKED:
            self._end(_Outcome.COMPLETE)
        elif channel is not None and self._outcome is _Outcome.NONE:
            self._relays.keep(self, channel)
