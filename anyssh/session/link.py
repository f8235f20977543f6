"""One byte stream under a session: a reader, a writer and a timer around one core.

The reader awaits nothing but the stream, so nobody can hold it up. The writer is the only one that
awaits sending, so packets are never torn by a cancelled user; while it is idle, a plain socket is
written to at once by whoever has something to say. Both end soon after the core has: the writer
once the last words are out, the reader once the peer has closed its side or time is up.

The writer watches the core's deadline as well, until it first has to wait for the stream. Then the
timer becomes a task of its own; on a plain socket, most sessions end without it.

A server's link may turn out to belong to a session that has lost another one. It is then released:
its tasks end, the stream and the core live on, and a new link of that session takes them.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from logging import Logger, getLogger
from typing import Final

import anyio
import anyio.lowlevel
from anyio.abc import AnyByteStream, ByteReceiveStream, TaskGroup

from ..config import Limits
from ..contour import SessionContour
from ..errors import SSHError
from ..protocol import Core, Phase
from ..protocol.events import Event
from ._direct import DirectWriter
from ._waiting import Notice
from .errors import ConnectionLost

__all__ = ["Link"]

RECEIVE_BYTES: Final = 256 * 1024
LARGEST_BLOCK: Final = 1024 * 1024
DIRECT_BYTES: Final = 64 * 1024
"""More than this would hardly fit the kernel's buffer, and gains nothing by being early."""

# The GNU C library gives memory that is freed back to the system at once, down to twice the largest
# block that it has seen come and go (mallopt(3)), and each piece of a bulk transfer is then faulted
# in anew, page by page. So it sees a large block here, which is never touched and costs nothing.
bytes(LARGEST_BLOCK)

# Python 3.11 takes long to look a member of an enumeration up.
_TERMINATED: Final = Phase.TERMINATED

logger: Logger = getLogger("anyssh")


class _StreamFailed(Exception):
    """Sending on the stream is no longer possible."""


class Link:
    """Moves bytes between a stream and a core until either has ended.

    :param contour: told what is moved
    :param dispatch: called with the events of the core, in order; must not raise
    """

    def __init__(
        self,
        stream: AnyByteStream,
        core: Core,
        limits: Limits,
        contour: SessionContour,
        dispatch: Callable[[Sequence[Event]], None],
    ) -> None:
        self.stream = stream
        self.core = core
        self.dispatch = dispatch
        self._limits = limits
        self._contour = contour
        self._receive: Callable[[], Awaitable[bytes]] = (
            partial(stream.receive, RECEIVE_BYTES)
            if isinstance(stream, ByteReceiveStream)
            else stream.receive
        )
        self._direct: DirectWriter | None = None
        self._writer_is_idle = False
        self._rest = b""
        self._is_held = False
        self._output = Notice()
        self._deadline_moved = self._output
        self._sleeping_until = math.inf
        self._is_steady = False
        self._tasks: TaskGroup
        self._reading = anyio.CancelScope()
        self._writing = anyio.CancelScope()
        self._error: Exception | None = None
        self._is_released = False
        self._unpaused = Notice()
        self._written = anyio.Event()
        self._finished = anyio.Event()

    @property
    def error(self) -> Exception | None:
        """What the stream raised, if anything."""
        return self._error

    def loss(self) -> ConnectionLost:
        """Return the error of a stream that is gone without a goodbye."""
        words = "the stream ended without a goodbye"
        transport = self.core.transport
        if transport.peer_version is None:
            words = "the stream ended before the peer had identified itself"
            if transport.said_instead:
                words += f"; it had said {transport.said_instead!r}"
        return ConnectionLost(words)

    def give_last_time(self) -> None:
        """Give the goodbye its time to leave, and the peer its time to close."""
        if self._reading.deadline < math.inf:
            return
        now = anyio.current_time()
        limits = self._limits
        self._writing.deadline = min(self._writing.deadline, now + limits.disconnect_time)
        self._reading.deadline = now + limits.close_time

    def hurry(self) -> None:
        """Give the goodbye no more than :attr:`Limits.disconnect_time`, and the peer no time."""
        if self._finished.is_set():
            return
        deadline = anyio.current_time() + self._limits.disconnect_time
        self._writing.deadline = min(self._writing.deadline, deadline)
        self._reading.cancel()

    def release(self) -> None:
        """End the tasks, but neither the core nor the stream; only while the core is paused.

        What is being sent gets :attr:`Limits.disconnect_time`; if that is not enough, the stream
        is of no use to anybody and the core ends.
        """
        self._is_released = True
        deadline = anyio.current_time() + self._limits.disconnect_time
        self._writing.deadline = min(self._writing.deadline, deadline)
        self._unpaused.notify()
        self._output.notify()
        self._deadline_moved.notify()

    async def wait_finished(self) -> None:
        """Wait until the stream is closed, or released."""
        await self._finished.wait()

    async def run(self) -> None:
        """Move bytes until the end, then close the stream.

        Shielded: cancelling what surrounds a session must leave time for its goodbye. It is the
        session that ends its link, and each step of the end has its deadline.
        """
        with anyio.CancelScope(shield=True):
            try:
                async with anyio.create_task_group() as self._tasks:
                    self._direct = DirectWriter.open(self.stream)
                    self._tasks.start_soon(self._write)
                    await self._read()
                    if not self._is_released:
                        self._tell_core(self.core.receive_eof)
                    await self._written.wait()
            finally:
                self._close_direct()
                if not self._is_released:
                    await self._close_stream()
                self._finished.set()

    def advance(self, events: list[Event]) -> None:
        """Hand events on, then see to output and deadline."""
        core = self.core
        while events:
            self.dispatch(events)
            events = core.poll_events()
        if core.transport.pending or core.phase is _TERMINATED:
            self._write_soon()
        self._is_held = False
        self._check_deadline()

    def hold(self) -> None:
        """Leave what waits now to the writer, which comes after tasks that were woken before.

        Called while events are dispatched, by whoever has woken a task that will soon have more
        to send: both then leave together.
        """
        self._is_held = True

    def _write_soon(self) -> None:
        if (
            self._writer_is_idle
            and self._direct is not None
            and not self._is_held
            and 0 < self.core.transport.pending <= DIRECT_BYTES
        ):
            self._write_at_once(self._direct)
        if self.core.phase is _TERMINATED:
            self.give_last_time()
            self._output.notify()
            self._deadline_moved.notify()
            self._unpaused.notify()
        elif self._rest or self.core.transport.pending:
            self._output.notify()

    def _write_at_once(self, direct: DirectWriter) -> None:
        now = anyio.current_time()
        data = self.core.data_to_send(now)
        written = self._write_directly(direct, data, now)
        if written < len(data):
            self._writer_is_idle = False
            self._rest = data[written:]
        events = self.core.poll_events()
        if events:
            self.dispatch(events)

    def _write_directly(self, direct: DirectWriter, data: bytes, now: float) -> int:
        """Write what the socket takes; return how much it was."""
        written = direct.write(data)
        self._contour.record_sent(now, written)
        if direct.error is not None:
            self._lost(direct.error)
        return written

    # Reading

    async def _read(self) -> None:
        with self._reading:
            while True:
                while self.core.has_backlog:
                    await anyio.lowlevel.checkpoint()
                    self._tell_core(self.core.receive_data, b"")
                while self.core.is_paused:
                    if self._is_released:
                        return
                    await self._unpaused.wait()
                try:
                    data = await self._receive()
                except anyio.EndOfStream:
                    return
                except Exception as error:  # whatever a stream raises means that it is gone
                    self._lost(error)
                    return
                self._tell_core(self.core.receive_data, data)

    def _tell_core(self, tell: Callable[..., list[Event]], *what: bytes) -> None:
        """Tell the core something and the time, and go on with what that brings about.

        The core raises nothing for what a peer does; should it all the same, only this session
        ends.
        """
        now = anyio.current_time()
        try:
            events = tell(*what, now)
            for data in what:
                self._contour.record_received(now, len(data))
        except Exception as bug:
            logger.exception("a session ends by an internal error")
            error = SSHError("the session ended by an internal error")
            error.__cause__ = bug
            self.core.terminate(error)
            events = self.core.poll_events()
        self.advance(events)

    def _lost(self, error: Exception) -> None:
        if self._error is None:
            self._error = error

    # Writing

    async def _write(self) -> None:
        try:
            with self._writing:
                while True:
                    await self._write_pending()
                    if self.core.phase is _TERMINATED:
                        await self._send_eof()
                        break
                    if self._is_released:
                        break
                    self._writer_is_idle = True
                    if self._timer_is_apart:
                        await self._output.wait()
                    else:
                        await self._wait_for_deadline()
                    self._writer_is_idle = False
        except _StreamFailed:
            # The peer's last words may still be on their way to the reader.
            self.give_last_time()
        finally:
            self._writer_is_idle = False
            self._written.set()
        if self._is_released and self._writing.cancelled_caught:
            error = SSHError("the peer reads too slowly to be handed over")
            self.core.lose(error, anyio.current_time())

    async def _write_pending(self) -> None:
        while True:
            if self._rest:
                rest, self._rest = self._rest, b""
                await self._send(rest)
            now = anyio.current_time()
            data = self.core.data_to_send(now)
            events = self.core.poll_events()
            if events:
                self.advance(events)
            if not data:
                if events:
                    continue
                return
            if self._direct is None or len(data) > DIRECT_BYTES:
                await self._send(data)
            else:
                self._rest = data[self._write_directly(self._direct, data, now) :]

    async def _send(self, data: bytes) -> None:
        if not self._timer_is_apart:
            self._deadline_moved = Notice()
            self._tasks.start_soon(self._watch_deadline)
        try:
            await self.stream.send(data)
            self._contour.record_sent(anyio.current_time(), len(data))
        except Exception as error:  # whatever a stream raises means that it is gone
            self._lost(error)
            raise _StreamFailed from error

    async def _send_eof(self) -> None:
        """Close our side, where a stream can, so that the peer's last words still come through."""
        try:
            await self.stream.send_eof()
        except NotImplementedError:
            self._reading.cancel()
        except Exception as error:  # whatever a stream raises means that it is gone
            self._lost(error)

    def _close_direct(self) -> None:
        direct, self._direct = self._direct, None
        if direct is not None:
            direct.close()

    async def _close_stream(self) -> None:
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 1):
            try:
                await self.stream.aclose()
            except Exception as error:
                self._lost(error)

    # Time

    def _check_deadline(self) -> None:
        was_steady, self._is_steady = self._is_steady, self.core.is_steady
        if was_steady and self._is_steady:
            return
        deadline = self.core.next_deadline()
        if deadline is not None and deadline < self._sleeping_until:
            self._deadline_moved.notify()

    @property
    def _timer_is_apart(self) -> bool:
        return self._deadline_moved is not self._output

    async def _watch_deadline(self) -> None:
        while not (self.core.phase is _TERMINATED or self._is_released):
            await self._wait_for_deadline()

    async def _wait_for_deadline(self) -> None:
        """Wait until there is something for whoever watches the deadline, and do it."""
        deadline = self.core.next_deadline()
        self._sleeping_until = math.inf if deadline is None else deadline
        with anyio.CancelScope(deadline=self._sleeping_until) as sleeping:
            await self._deadline_moved.wait()
        if sleeping.cancelled_caught:
            self._tell_core(self.core.handle_timeout)
