"""One byte stream of a session: its reader and, on demand, its writer and its timer.

Once the session is set up, the reader awaits nothing but the stream, so nothing can hold it up. On
a plain asyncio socket it *rests*: the event loop delivers what arrives, and it is handled outside
of any task until a task is needed, for example to wait for the turn of a handshake. On a plain
socket, output goes straight to the kernel's buffer, from whichever task produces it; small answers
then need no iteration of the event loop. What does not fit, and everything on other kinds of
streams, is left to the writer: a task started on first use, and the only one that awaits sending,
so a cancelled caller never truncates a packet.

Output is written at once, unless waiting a little lets more of it share a write: while the events
of one chunk are dispatched, or code sends several things *together*; while output is *held* for a
task that was woken and will soon have more to send; and for an iteration or two after a chunk of
several small messages, whose answers come from a *crowd* of tasks.

On a plain socket the reader also keeps time: its receiving is cancelled when the core has something
to do, which loses no bytes there. Other streams may lose some, so they get a timer, a task of its
own. Either way the *alarm* is a cancel scope with the deadline of the core.

All tasks end soon after the core: the writer once the final output is written, the reader once the
peer has sent DISCONNECT or closed its side, or time is up.

A server's link may turn out to belong to a session that has lost its stream. The link is then
released: its tasks end, while the stream and the core live on in a new link of that session.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from enum import Enum, auto
from logging import Logger, getLogger
from typing import Any, Final

import anyio
import anyio.lowlevel
from anyio.abc import AnyByteStream

from ..config import Limits
from ..contour import SessionContour
from ..errors import SSHError
from ..protocol import Core, Phase
from ..protocol.events import Event, do_nothing
from ._backend import RunningLoop
from ._direct import DirectWriter, RestingReader, receive_from
from ._waiting import Latch, Notice
from .errors import ConnectionLost, handle_failure, without_frames
from .handshakes import Handshakes

__all__ = ["Link", "StartTask", "Together"]

RECEIVE_BYTES: Final = 256 * 1024
LARGEST_BLOCK: Final = 1024 * 1024
DIRECT_BYTES: Final = 288 * 1024
"""Two of the largest messages. More would hardly fit into the kernel's buffer."""
CLOSING_TIME: Final = 1.0
"""Seconds for a stream to close."""
TOGETHER_BYTES: Final = 16 * 1024
"""More output than this does not wait to share a write."""
CROWD: Final = 4
"""Messages in one chunk from which on their answers share a write."""
SMALL_MESSAGE: Final = 1024

# The GNU C library returns freed memory to the system at once, except for about twice the size of
# the largest block freed before (mallopt(3)); each piece of a bulk transfer would then be faulted
# in anew, page by page. So a large block is allocated and freed here, which is never touched and
# costs nothing.
bytes(LARGEST_BLOCK)

# Looking up an enum member is slow in Python 3.11.
_TERMINATED: Final = Phase.TERMINATED

logger: Logger = getLogger("anyssh")

StartTask = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]


class _StreamFailed(Exception):
    """Sending on the stream is no longer possible."""


class _Writer(Enum):
    """The state of the writer."""

    NEW = auto()
    """The link is not running yet."""
    ABSENT = auto()
    """Not started: there was nothing to do yet."""
    IDLE = auto()
    PATIENT = auto()
    """It has output that may wait for what is sent in the next iteration."""
    BUSY = auto()
    """It has output to send, or was told so."""
    GONE = auto()
    """Nothing is sent any more."""


_ABSENT: Final = _Writer.ABSENT
_IDLE: Final = _Writer.IDLE
_PATIENT: Final = _Writer.PATIENT


_STARTED: Final = (_IDLE, _PATIENT, _Writer.BUSY)


class Link:
    """Moves bytes between a stream and a core until either has ended.

    :param contour: records what is moved
    :param dispatch: called with the events of the core, in order; must not raise
    :param start_task: starts a task that ends with the session at the latest
    :param loop: the running event loop
    """

    __slots__ = (
        "_alarm",
        "_backend",
        "_clock",
        "_contour",
        "_direct",
        "_error",
        "_finished",
        "_handshakes",
        "_has_crowd",
        "_is_dispatching",
        "_is_held",
        "_is_released",
        "_is_steady",
        "_is_together",
        "_limits",
        "_output",
        "_read_until",
        "_reading",
        "_receive",
        "_rest",
        "_resting",
        "_start_task",
        "_unpaused",
        "_write_until",
        "_writer",
        "_writing",
        "_written",
        "core",
        "dispatch",
        "stream",
    )

    def __init__(
        self,
        stream: AnyByteStream,
        core: Core,
        limits: Limits,
        contour: SessionContour,
        dispatch: Callable[[Sequence[Event]], None],
        start_task: StartTask,
        loop: RunningLoop,
    ) -> None:
        self.stream: AnyByteStream = stream
        self.core: Core = core
        self.dispatch: Callable[[Sequence[Event]], None] = dispatch
        self._limits = limits
        self._contour = contour
        self._receive: Callable[[], Awaitable[bytes]] = receive_from(
            stream, loop.backend, RECEIVE_BYTES
        )
        self._start_task = start_task
        self._backend, self._clock = loop
        self._direct: DirectWriter | None = None
        self._resting: RestingReader | None = None
        self._writer = _Writer.NEW
        self._output = Notice()
        self._rest = b""
        self._is_dispatching = False
        # Reasons why output is not written at once; several may apply.
        self._is_together = False
        """Code is collecting output, and will call :meth:`end_together`."""
        self._is_held = False
        """Woken tasks will soon have more to send, and have not had their turn."""
        self._has_crowd = False
        """The last chunk held several small messages, whose answers are to share a write."""
        self._writing: anyio.CancelScope | None = None
        self._write_until = math.inf
        self._written = Notice()
        self._reading: anyio.CancelScope | None = None
        self._read_until = math.inf
        self._alarm: anyio.CancelScope | None = None
        self._is_steady = False
        self._error: Exception | None = None
        self._is_released = False
        self._handshakes: Handshakes | None = None
        self._unpaused = Notice()
        self._finished = Latch()

    @property
    def error(self) -> Exception | None:
        """The exception that the stream raised, if any."""
        return self._error

    def loss(self) -> ConnectionLost:
        """Return the error of a stream that ended without DISCONNECT."""
        words = "the stream ended without DISCONNECT"
        transport = self.core.transport
        if transport.peer_version is None:
            words = "the stream ended before the peer had identified itself"
            if transport.said_instead:
                words += f"; it had sent {transport.said_instead!r}"
        return ConnectionLost(words)

    # Ending

    @property
    def _is_ending(self) -> bool:
        return self._is_released or self.core.phase is _TERMINATED

    def _limit_ending(self) -> None:
        """Limit the time for the final output, and for the peer to close."""
        if self._read_until == math.inf:
            self._limit_writing()
            self._read_until = self._clock() + self._limits.close_time
            if self._reading is not None:
                self._reading.deadline = min(self._reading.deadline, self._read_until)

    def _limit_writing(self) -> None:
        deadline = self._clock() + self._limits.disconnect_time
        self._write_until = min(self._write_until, deadline)
        if self._writing is not None:
            self._writing.deadline = self._write_until

    def _stop_reading(self) -> None:
        self._read_until = -math.inf
        has_ended = self._resting is not None and self._resting.end()
        if not has_ended and self._reading is not None:
            self._reading.cancel()

    def hurry(self) -> None:
        """Leave the final output :attr:`Limits.disconnect_time`, and the peer no time to close."""
        if not self._finished.is_set():
            self._limit_writing()
            self._stop_reading()

    def release(self) -> None:
        """End the tasks, but neither the core nor the stream; only while the core is paused.

        Output being sent has :attr:`Limits.disconnect_time`; if that is not enough, the stream is
        of no use to anyone, and the core ends.
        """
        self._is_released = True
        self._limit_writing()
        self._wake_all()

    def drop_references(self) -> None:
        """Drop all references that lead back here or to the session, which is over."""
        self.dispatch = self._start_task = do_nothing
        self.core.release()

    def _wake_all(self) -> None:
        """Make every task notice the end."""
        self._unpaused.notify()
        self._output.notify()
        if self._alarm is not None and self._alarm is not self._reading:
            self._alarm.cancel()

    async def wait_finished(self) -> None:
        """Wait until the stream is closed, or released."""
        await self._finished.wait(self._backend)

    # Lifecycle

    def begin(self) -> None:
        """Write waiting output at once if possible; :meth:`run` must follow.

        :meth:`run` would do the same, but only when its task gets its turn.
        """
        if self._writer is not _Writer.NEW:
            return
        self._handshakes = Handshakes.here()
        self._handshakes.begin()
        self._writer = _ABSENT
        self._direct = DirectWriter.open(self.stream)
        self._resting = RestingReader.open(self.stream, self._take_directly, self._lost)
        if self._direct is None:
            self._start_task(self._keep_time)
        self.advance()
        if self._resting is not None:
            self._resting.start()

    async def run(self) -> None:
        """Move bytes until the end, then close the stream.

        Runs shielded, like the tasks that it starts: cancelling the scope around a session must
        leave time for its DISCONNECT. The session ends its link, and each step of the end has a
        deadline.
        """
        try:
            self.begin()
            await self._read()
        finally:
            with self._backend.create_cancel_scope(shield=True):
                await self._end()

    async def _end(self) -> None:
        """Let the final output be written, then close the stream, unless it lives on elsewhere."""
        try:
            self._is_held = False  # the final output waits for nothing
            if not self._is_released:
                self._tell_core(self.core.receive_eof)
            while self._writer in _STARTED:
                await self._written.wait(self._backend)
        finally:
            self._writer = _Writer.GONE
            self.end_handshake()
            self._write_until = -math.inf
            if self._writing is not None:
                self._writing.cancel()
            if self._resting is not None:
                self._resting.close()
                self._resting = None  # its context may refer to the session
            if not self._is_released:
                await self._close_stream()
            direct, self._direct = self._direct, None
            if direct is not None:
                direct.close()
            self._finished.set()

    async def _close_stream(self) -> None:
        try:
            if self._direct is not None:
                self._direct.discard_input()
                await self.stream.aclose()
            else:
                with anyio.move_on_after(CLOSING_TIME):
                    await self.stream.aclose()
        except BaseException as error:
            if not handle_failure(error, self._lost):
                raise

    def _lost(self, error: Exception) -> None:
        if self._error is None:
            logger.debug("a stream has failed", exc_info=error)
            self._error = without_frames(error)

    # Output of the core

    def advance(self, *, is_urgent: bool = True) -> None:
        """Dispatch the core's events, then take care of its output and deadline.

        :param is_urgent: whether the output must not wait for what is sent in the next iteration of
            the event loop
        """
        if is_urgent and not self._is_together and self.core.has_output:
            self._write_soon()  # the peer need not wait for what else the events cause
        self._dispatch_new_events()
        if self._is_together and self.core.transport.pending < TOGETHER_BYTES:
            return  # whoever began collecting does the rest
        if not is_urgent and self._defer_to_writer():
            self._check_deadline()
            return
        self._is_held = False
        self._flush()
        self._check_deadline()

    def _defer_to_writer(self) -> bool:
        """Leave the output to the writer if that does no harm; return whether that was done."""
        if self._writer is _IDLE or self._writer is _ABSENT:
            self._wake_writer()
            self._writer = _PATIENT
        return self._writer in _STARTED and self.core.phase is not _TERMINATED

    def begin_together(self) -> bool:
        """Collect output from now on; return False if it is already being collected.

        After True, call :meth:`end_together` within an iteration or two of the event loop: others
        wait for it.
        """
        if self._is_together:
            return False
        self._is_together = True
        return True

    def end_together(self) -> None:
        """Write what was sent since :meth:`begin_together`."""
        try:
            self._dispatch_new_events()
        finally:
            self._is_together = False
        self._flush()
        self._check_deadline()

    def hold(self) -> None:
        """Hold output until tasks woken before have had their turn.

        Called while events are dispatched, by code that has woken a task which will soon have more
        to send: both then share a write.
        """
        self._is_held = True

    def _dispatch_new_events(self) -> None:
        """Dispatch new events, unless a caller further up the stack is doing so.

        That one gets to them as well: handling an event may cause another, and dispatching it
        inside of the handler would let a peer nest calls arbitrarily deep.
        """
        if not self._is_dispatching:
            self._dispatch_events(self.core.poll_events())

    def _dispatch_events(self, events: Sequence[Event]) -> None:
        if not events:
            return
        self._is_dispatching = True
        try:
            while events:
                self.dispatch(events)
                events = self.core.poll_events()
        finally:
            self._is_dispatching = False

    def _tell_core(self, tell: Callable[..., Sequence[Event]], *what: bytes) -> None:
        """Call the core with the time, and dispatch the events that result.

        The core never raises because of a peer; should it do so all the same, only this session
        ends.
        """
        try:
            events = tell(*what, self._clock())
        except Exception as bug:
            logger.exception("a session ends because of an internal error")
            error = SSHError("the session ended because of an internal error")
            error.__cause__ = bug
            self.core.terminate(error)
            events = self.core.poll_events()
        self._is_together = True
        try:
            self._dispatch_events(events)
        finally:
            self._is_together = False
        if not self._is_held:
            self._flush()
        self._check_deadline()

    async def _let_others_go_on(self) -> None:
        """Give woken tasks their turn, then write what was held for them."""
        has_begun = self._has_crowd and self.begin_together()
        try:
            await self._backend.checkpoint()
            # A task that has answered yields, and often has more to say then. And where tasks
            # have no order, as on Trio, woken tasks may run after us.
            if has_begun or self._is_held:
                await self._backend.checkpoint()
        finally:
            if has_begun:
                self._end_crowd()
            else:
                self._release_held()

    # Reading

    async def _read(self) -> None:
        """Receive until the peer has closed its side, or time is up."""
        is_due = False
        while not self._is_released:
            reading = self._backend.create_cancel_scope(deadline=self._read_until, shield=True)
            with reading as self._reading:
                if is_due:
                    self._tell_core(self.core.handle_timeout)
                    await self._let_others_go_on()
                if self._direct is not None:
                    self._alarm = self._reading
                    self._set_alarm()
                await self._receive_all()
                return
            if self._clock() >= self._read_until:
                return
            is_due = True

    async def _receive_all(self) -> None:
        core = self.core
        while await self._takes_more():
            resting = self._resting
            try:
                if resting is not None and resting.start():
                    data = await resting.receive(self._backend)
                    if data is None:
                        continue
                else:
                    data = await self._receive_or_lose()
            except anyio.EndOfStream:
                return
            if self._handshakes is not None and self._waits_for_turn(self._handshakes):
                await self._handshakes.take_turn(core.config.key_exchanges)
            self._tell_core(self._take, data)
            del data  # or it would live until the next chunk
            # Starting to wait for the stream takes a while, which woken tasks need not sit out.
            await self._let_others_go_on()

    async def _takes_more(self) -> bool:
        """Let the core process its backlog, wait while it is paused; return whether to go on."""
        core = self.core
        while core.has_backlog:
            await anyio.lowlevel.checkpoint()
            self._tell_core(core.receive_data, b"")
            if self._is_held:
                await self._let_others_go_on()
        while core.is_paused:
            if self._is_released:
                return False
            await self._unpaused.wait(self._backend)
        return not core.peer_has_left

    async def _receive_or_lose(self) -> bytes:
        """Return bytes from the stream.

        :raises ~anyio.EndOfStream: the stream has ended, or is lost
        """
        try:
            return await self._receive()
        except anyio.EndOfStream:
            raise
        except BaseException as error:
            if not handle_failure(error, self._lost):
                raise
            raise anyio.EndOfStream from None

    def _take_directly(self, data: bytes) -> bool:
        """Handle received bytes outside of any task, unless they must wait for a turn."""
        if self._handshakes is not None and self._waits_for_turn(self._handshakes):
            return False
        self._tell_core(self._take, data)
        resting, core = self._resting, self.core
        if resting is not None:
            self._call_after_others(resting)
            if core.has_backlog or core.is_paused or core.peer_has_left:
                resting.wake()
        return True

    def _call_after_others(self, resting: RestingReader) -> None:
        """Do what :meth:`_let_others_go_on` does, where no task can wait."""
        if self._has_crowd and self.begin_together():
            # A task that has answered yields, and often has more to say then.
            resting.call_later(2, self._end_crowd)
        elif self._is_held:
            resting.call_later(1, self._release_held)

    def _end_crowd(self) -> None:
        self._is_held = False
        self.end_together()

    def _release_held(self) -> None:
        if self._is_held:
            self.advance()

    def _waits_for_turn(self, handshakes: Handshakes) -> bool:
        """Whether to leave established sessions their share while others are being set up."""
        if self.core.is_running:
            self.end_handshake()
            return False
        return handshakes.is_crowded(self.core.config.key_exchanges)

    def end_handshake(self) -> None:
        """Stop counting as a session that is being set up."""
        if self._handshakes is not None:
            self._handshakes.end()
            self._handshakes = None

    def _take(self, data: bytes, now: float) -> Sequence[Event]:
        self._contour.record_received(now, len(data))
        events = self.core.receive_data(data, now)
        count = len(events)
        self._has_crowd = count >= CROWD and len(data) < count * SMALL_MESSAGE
        return events

    # Writing

    def _flush(self) -> None:
        """Write waiting output, at once if possible; wind down once the core has ended."""
        if self.core.has_output:
            self._write_soon()
        if self.core.phase is _TERMINATED:
            if self.core.peer_has_left:
                self._limit_writing()
                self._read_until = -math.inf
            self._limit_ending()
            self._wake_all()
            self._finish_writing()

    def _write_soon(self) -> None:
        writer = self._writer
        if writer is _ABSENT or writer is _IDLE or writer is _PATIENT:
            direct = self._direct
            if direct is None or self.core.transport.pending > DIRECT_BYTES:
                self._wake_writer()
            else:
                self._write_at_once(direct)

    def _write_at_once(self, direct: DirectWriter) -> None:
        now = self._clock()
        data = self.core.data_to_send(now)
        written = self._write_directly(direct, data, now)
        if written < len(data):
            self._rest = data[written:]
            self._wake_writer()
        self._dispatch_new_events()
        if self.core.transport.pending:
            self._wake_writer()

    def _write_directly(self, direct: DirectWriter, data: bytes, now: float) -> int:
        """Write what the socket accepts; return how many bytes."""
        written = direct.write(data)
        self._contour.record_sent(now, written)
        if direct.error is not None:
            self._lost(direct.error)
        return written

    def _wake_writer(self) -> None:
        if self._writer is _ABSENT:
            self._start_task(self._write)
        elif self._writer is _IDLE:
            self._output.notify()
        elif self._writer is not _PATIENT:
            return
        self._writer = _Writer.BUSY

    def _finish_writing(self) -> None:
        """Close our side; what the peer sends last is still received."""
        direct, has_left = self._direct, self.core.peer_has_left
        if self._writer is _ABSENT and (has_left or direct is not None):
            self._writer = _Writer.GONE
            if direct is not None and not has_left and self._read_until > -math.inf:
                direct.send_eof()
        else:
            self._wake_writer()

    async def _write(self) -> None:
        writing = self._writing = anyio.CancelScope(deadline=self._write_until, shield=True)
        try:
            with writing:
                while True:
                    if self._writer is _PATIENT:
                        await self._backend.checkpoint()
                    self._writer = _Writer.BUSY
                    if self.core.has_output or self._rest:
                        await self._write_pending()
                    if self.core.phase is _TERMINATED:
                        await self._send_eof()
                        break
                    if self._is_released:
                        break
                    self._writer = _IDLE
                    await self._output.wait(self._backend)
        except _StreamFailed:
            # What the peer sent last may still be on its way to the reader.
            self._limit_ending()
        finally:
            self._writer = _Writer.GONE
            self._written.notify()
        if self._is_released and writing.cancelled_caught:
            error = SSHError("the peer reads too slowly to be handed over")
            self.core.lose(error, anyio.current_time())

    async def _write_pending(self) -> None:
        while True:
            if self._rest:
                rest, self._rest = self._rest, b""
                await self._send(rest)
            now = self._clock()
            data = self.core.data_to_send(now)
            has_news = self.core.has_events
            if has_news:
                self.advance()
            if not data:
                if has_news:
                    continue
                return
            if self._direct is None or len(data) > DIRECT_BYTES:
                await self._send(data)
            else:
                self._rest = data[self._write_directly(self._direct, data, now) :]

    async def _send(self, data: bytes) -> None:
        try:
            await self.stream.send(data)
            self._contour.record_sent(self._clock(), len(data))
        except BaseException as error:
            if not handle_failure(error, self._lost):
                raise
            raise _StreamFailed from error

    async def _send_eof(self) -> None:
        try:
            await self.stream.send_eof()
        except NotImplementedError:
            self._stop_reading()
        except BaseException as error:
            if not handle_failure(error, self._lost):
                raise

    # Time

    def _check_deadline(self) -> None:
        was_steady, self._is_steady = self._is_steady, self.core.is_steady
        if not (was_steady and self._is_steady):
            self._set_alarm()

    def _set_alarm(self) -> None:
        """Set the alarm no later than the core's deadline; going off early does no harm."""
        alarm = self._alarm
        if alarm is not None:
            deadline = self.core.next_deadline()
            if deadline is not None and deadline < alarm.deadline:
                alarm.deadline = deadline

    async def _keep_time(self) -> None:
        """Call the core when it has something to do, on a stream whose reader cannot."""
        with anyio.CancelScope(shield=True):
            while not self._is_ending:
                with anyio.CancelScope() as self._alarm:
                    self._set_alarm()
                    await anyio.sleep_forever()
                self._tell_core(self.core.handle_timeout)
                await self._let_others_go_on()


class Together:
    """Writes everything sent inside ``with`` together; nothing may be awaited inside."""

    __slots__ = ("_has_begun", "_link")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._has_begun = False

    def __enter__(self) -> None:
        self._has_begun = self._link.begin_together()

    def __exit__(self, *error: object) -> None:
        if self._has_begun:
            self._link.end_together()
