"""Joining a channel and a stream: bytes both ways, with what belongs to them.

The end of one direction is passed on and leaves the other open. A reset on one side becomes a reset
on the other: of a channel, that is its closing with a signal. Each direction holds one chunk, so
whoever does not read stops whoever sends.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from logging import Logger, getLogger
from typing import Final

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream, TaskGroup

from ..session.channel import Channel

__all__ = ["Relay", "reset"]

logger: Logger = getLogger("anyssh")

RECEIVE_BYTES: Final = 256 * 1024
CLOSE_TIME: Final = 1.0
RESET_SIGNAL: Final = "ABRT"
LINGER_NOT: Final = struct.pack("ii", 1, 0)

Establish = Callable[[], Awaitable[tuple[Channel, ByteStream]]]


async def reset(stream: ByteStream) -> None:
    """Close a stream so that its peer sees an error rather than an end, as far as it can be."""
    try:
        with anyio.CancelScope(shield=True):
            if isinstance(stream, Channel):
                await stream.aclose(signal=RESET_SIGNAL)
            else:
                _linger_not(stream)
                await anyio.aclose_forcefully(stream)
    except Exception as error:  # whatever a stream raises that is broken already
        logger.debug("resetting a forwarded stream: %r", error)


def _linger_not(stream: ByteStream) -> None:
    """Have the system reset a TCP connection when its socket is closed."""
    if isinstance(stream, SocketStream):
        raw = stream.extra(SocketAttribute.raw_socket)
        if raw.family in (socket.AF_INET, socket.AF_INET6):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)


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
