"""Joining a channel and a stream: bytes both ways, with what belongs to them.

Of any stream, each direction is a task. Of a plain socket, only the direction to the channel is:
what comes on the channel is written to the socket at once, by the session's reader.

The end of one direction is passed on and leaves the other open. A reset on one side becomes a reset
on the other: of a channel, that is its closing with a signal. Each direction holds one chunk, so
whoever does not read stops whoever sends.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from logging import Logger, getLogger
from typing import Final

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream, SocketAttribute, SocketStream, TaskGroup

from ..errors import SSHError
from ..session.channel import Channel
from ..wire import Buffer
from .sockets import ConnectedSocket, resets_when_closed

__all__ = ["Relay", "SocketRelay", "reset"]

logger: Logger = getLogger("anyssh")

RECEIVE_BYTES: Final = 256 * 1024
CLOSE_TIME: Final = 1.0
RESET_SIGNAL: Final = "ABRT"

Establish = Callable[[], Awaitable[tuple[Channel, ByteStream]]]


async def reset(stream: ByteStream) -> None:
    """Close a stream so that its peer sees an error rather than an end, as far as it can be."""
    try:
        with anyio.CancelScope(shield=True):
            if isinstance(stream, Channel):
                await stream.aclose(signal=RESET_SIGNAL)
            else:
                if isinstance(stream, SocketStream):
                    resets_when_closed(stream.extra(SocketAttribute.raw_socket))
                await anyio.aclose_forcefully(stream)
    except Exception as error:  # whatever a stream raises that is broken already
        logger.debug("resetting a forwarded stream: %r", error)


class _Outcome(Enum):
    """How a relay ended."""

    NONE = auto()
    """It has not, or was cancelled."""
    COMPLETE = auto()
    BROKEN = auto()


class Relay:
    """Moves bytes between a stream and a channel, which may come later than the stream.

    It owns both and closes both on every path. Reading the stream begins at once: a listener of the
    application may give streams that take in what comes until somebody reads them.

    :param early: bytes that were taken from the stream before
    :param idle_time: seconds without a byte after which both are reset
    """

    def __init__(
        self, stream: ByteStream, *, early: bytes = b"", idle_time: float = math.inf
    ) -> None:
        self._stream = stream
        self._early = early
        self._idle_time = idle_time
        self._tasks: TaskGroup
        self._outcome = _Outcome.NONE
        self._channel: Channel | None = None
        self._far: ByteStream | None = None
        self._established = anyio.Event()
        self._delivered = anyio.Event()
        self._directions_left = 2

    async def run(self, establish: Establish) -> None:
        """Establish the channel, relay until both directions have ended, close both ends.

        :param establish: returns the channel and the stream to use, which may be one around it;
            it closes both itself if it raises an exception. That resets the stream and leaves.
        """
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(self._copy_to_channel)
                try:
                    self._channel, self._far = await establish()
                except Exception as error:
                    # Raised below, where the task group does not make a group of it.
                    failure = error
                    self._end(_Outcome.BROKEN)
                else:
                    self._established.set()
                    self._touch()
                    self._tasks.start_soon(self._copy_to_stream, self._far, self._channel)
                    await self._watch_channel(self._channel)
        finally:
            with anyio.move_on_after(CLOSE_TIME, shield=True):
                await self._close()
            if self._outcome is not _Outcome.COMPLETE:
                await self._abort()
        if failure is not None:
            raise failure

    def _end(self, outcome: _Outcome, error: Exception | None = None) -> None:
        if self._outcome is _Outcome.NONE:
            self._outcome = outcome
            self._tasks.cancel_scope.cancel()
            if error is not None:
                logger.debug("a forwarded connection broke: %r", error)

    def _touch(self) -> None:
        if self._idle_time != math.inf:
            self._tasks.cancel_scope.deadline = anyio.current_time() + self._idle_time

    # Copying

    async def _copy_to_channel(self) -> None:
        try:
            chunk = self._early or await self._receive()
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
            await self._pass_eof(far)
        except _ChannelClosed:
            return  # the watcher sees to it, once all that came has been delivered
        except Exception as error:
            self._end(_Outcome.BROKEN, error)
        else:
            self._direction_ended()

    async def _receive(self) -> bytes:
        """Return the next chunk, nothing at the end."""
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
                return  # no end but a reset; the watcher sees to it
            await self._pass_eof(self._stream)
        except Exception as error:
            self._end(_Outcome.BROKEN, error)
        else:
            self._delivered.set()
            self._direction_ended()

    async def _pass_eof(self, stream: ByteStream) -> None:
        try:
            await stream.send_eof()
        except NotImplementedError:
            # It cannot end one direction, so it ends both.
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
            await self._delivered.wait()
            self._end(_Outcome.COMPLETE)

    # The end

    async def _close(self) -> None:
        """Close both ends if all went well; what fails now is broken."""
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


class _Pump(Enum):
    """The task that waits for a socket which takes no more."""

    NONE = auto()
    """The socket has taken everything so far."""
    IDLE = auto()
    """It waits for bytes that the socket does not take at once."""
    WRITING = auto()


class SocketRelay:
    """Moves bytes between a plain socket and a channel in the task of its caller.

    That task reads the socket. It owns both ends and closes both on every path. What comes on the
    channel is taken by the socket, or kept by the channel until the *pump*, a task that most relays
    never need, has waited for the socket.

    :param start_soon: starts a task of the session
    """

    def __init__(
        self,
        stream: ConnectedSocket,
        channel: Channel,
        start_soon: Callable[[Callable[[anyio.Event], Awaitable[None]], anyio.Event], None],
    ) -> None:
        self._stream = stream
        self._channel = channel
        self._start_soon = start_soon
        self._directions_left = 2
        self._had_waited = True
        self._pump = _Pump.NONE
        self._outcome = _Outcome.NONE
        self._ended: anyio.Event | None = None
        self._pump_ended: anyio.Event | None = None

    async def run(self, early: bytes = b"") -> None:
        """Relay until both directions have ended, close both ends.

        :param early: bytes that were taken from the socket before
        """
        try:
            self._channel.deliver_to(self)
            await self._copy_to_channel(early)
            if self._outcome is _Outcome.NONE:
                self._ended = anyio.Event()
                await self._ended.wait()
        finally:
            self._end(_Outcome.BROKEN)
            if self._pump_ended is not None:
                with anyio.CancelScope(shield=True):
                    await self._pump_ended.wait()

    def _end(self, outcome: _Outcome, error: Exception | None = None) -> None:
        """Close both ends, which wakes whoever waits for them."""
        if self._outcome is not _Outcome.NONE:
            return
        self._outcome = outcome
        is_broken = outcome is _Outcome.BROKEN
        self._stream.close(resets=is_broken)
        self._channel.close(signal=RESET_SIGNAL if is_broken else None)
        if self._ended is not None:
            self._ended.set()
        if error is not None:
            logger.debug("a forwarded connection broke: %r", error)

    def _direction_ended(self) -> bool:
        """Note that one direction has ended; return whether the other goes on."""
        self._directions_left -= 1
        if self._directions_left == 0:
            self._end(_Outcome.COMPLETE)
        return self._directions_left > 0

    # To the channel

    async def _copy_to_channel(self, chunk: bytes) -> None:
        try:
            chunk = chunk or await self._receive()
            while chunk:
                await self._send(chunk)
                chunk = await self._receive()
            if self._direction_ended():
                self._channel.send_eof_nowait()
        except Exception as error:
            # Of a channel that is closed, all that came has yet to be delivered.
            if self._channel.closed is None:
                self._end(_Outcome.BROKEN, error)

    async def _receive(self) -> bytes:
        """Return the next chunk, nothing at the end."""
        chunk = self._stream.receive_nowait(RECEIVE_BYTES)
        if chunk is not None:
            # Of a socket that always has something, others must have their turn.
            if self._had_waited:
                self._had_waited = False
            else:
                await anyio.lowlevel.checkpoint()
            return chunk
        while chunk is None:
            await self._stream.wait_readable()
            chunk = self._stream.receive_nowait(RECEIVE_BYTES)
        self._had_waited = True
        return chunk

    async def _send(self, chunk: bytes) -> None:
        sent = self._channel.send_nowait(chunk)
        if sent < len(chunk):
            await self._channel.send(memoryview(chunk)[sent:])

    # To the socket

    def deliver(self, data: Buffer) -> int:
        """Write what the socket takes at once; have the pump see to the rest."""
        if self._pump is _Pump.WRITING:
            return 0
        try:
            sent = self._stream.send_nowait(data)
            if sent < len(data) and self._pump is _Pump.NONE:
                pump_ended = anyio.Event()
                self._start_soon(self._run_pump, pump_ended)
                self._pump, self._pump_ended = _Pump.WRITING, pump_ended
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, SSHError) as error:
            self._end(_Outcome.BROKEN, error)
            return 0
        return sent

    def deliver_eof(self) -> None:
        """Pass the end on, if the pump does not."""
        if self._pump is _Pump.NONE:
            self._end_to_socket()

    def channel_closed(self, by_peer: bool) -> None:
        """End with the channel, once all that came has been delivered."""
        closed = self._channel.closed
        error = closed.error if closed is not None else None
        was_reset = closed is not None and closed.exit_signal is not None
        if was_reset or error is not None or not by_peer:
            self._end(_Outcome.BROKEN, error)
        elif self._pump is _Pump.NONE:
            self._end(_Outcome.COMPLETE)

    def _end_to_socket(self) -> None:
        if self._direction_ended():
            try:
                self._stream.send_eof_nowait()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                self._end(_Outcome.BROKEN, error)

    async def _run_pump(self, ended: anyio.Event) -> None:
        try:
            while True:
                self._pump = _Pump.IDLE
                chunk = await self._channel.receive(RECEIVE_BYTES)
                self._pump = _Pump.WRITING
                await self._stream.send(chunk)
        except anyio.EndOfStream:
            if self._channel.closed is not None:
                self._end(_Outcome.COMPLETE)
            else:
                self._end_to_socket()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            self._end(_Outcome.BROKEN, error)
        finally:
            ended.set()
