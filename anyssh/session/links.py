"""The successive streams of a session.

Most sessions have just one. A session that can reconnect runs the link of one stream until it is
lost, then waits for another stream, or connects one, and starts over.

A new stream is an :class:`Attempt` until the peer has resumed the session on it. Whatever happens
on it before that does not affect the session; if it fails, the next one may succeed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from logging import Logger, getLogger
from secrets import SystemRandom
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import AnyByteStream, ByteStreamConnectable

from ..config import Limits
from ..constants import ReconnectFailureReason
from ..contour import SessionContour
from ..errors import HostKeyError, LocalProtocolError, ReconnectError, SSHError
from ..protocol import Core, Phase, Role
from ..protocol.events import ConnectionTerminated, Event, SessionResumed, do_nothing
from ..protocol.transport import NO_TRAFFIC, Traffic
from ._backend import RunningLoop
from ._waiting import Latch, Notice
from .connecting import close_at_once, open_stream
from .errors import ConnectionLost, handle_failure, without_frames
from .link import Link, StartTask

__all__ = ["NEXT_STATES", "Attempt", "Links", "SessionState"]

logger: Logger = getLogger("anyssh")

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
MAX_BAD_ATTEMPTS: Final = 3

FINAL_FAILURES: Final = frozenset(
    {
        ReconnectFailureReason.SESSION_NOT_FOUND,
        ReconnectFailureReason.SERVER_DROPPED_MESSAGES,
        ReconnectFailureReason.DIFFERENT_SERVER_HOST_KEY,
        ReconnectFailureReason.INVALID_SERVER_TOKEN,
        ReconnectFailureReason.CLIENT_DROPPED_MESSAGES,
    }
)
"""Retrying would end the same way."""

_random: Final = SystemRandom()


class SessionState(Enum):
    """The state of a session."""

    if not TYPE_CHECKING:
        __hash__ = object.__hash__  # that of Enum is written in Python

    NEW = auto()
    """Not entered yet."""
    CONNECTING = auto()
    """Exchanging versions and keys, and authenticating."""
    CONNECTED = auto()
    DISCONNECTED = auto()
    """Without a stream, but able to resume over another."""
    CLOSED = auto()


NEXT_STATES: Final[Mapping[SessionState, tuple[SessionState, ...]]] = {
    SessionState.NEW: (SessionState.CONNECTING,),
    SessionState.CONNECTING: (
        SessionState.CONNECTED,
        SessionState.DISCONNECTED,
        SessionState.CLOSED,
    ),
    SessionState.CONNECTED: (SessionState.DISCONNECTED, SessionState.CLOSED),
    SessionState.DISCONNECTED: (SessionState.CONNECTED, SessionState.CLOSED),
    SessionState.CLOSED: (),
}
"""The possible transitions."""


class Attempt:
    """One attempt to resume over a new stream."""

    __slots__ = ("_links", "error", "is_over", "link")

    def __init__(self, links: Links, stream: AnyByteStream, core: Core) -> None:
        self._links = links
        self.link: Link = links.make_link(stream, core, self._dispatch)
        self.error: SSHError | None = None
        self.is_over: Latch = Latch()

    def _dispatch(self, events: Sequence[Event]) -> None:
        for index, event in enumerate(events):
            match event:
                case SessionResumed():
                    self.is_over.set()
                    self._links.go_on(self.link, events[index:])
                    return
                case ConnectionTerminated(error):
                    self._fail(error or self.link.loss())

    def _fail(self, error: SSHError) -> None:
        if isinstance(error, HostKeyError):
            refusal = ReconnectError(
                ReconnectFailureReason.DIFFERENT_SERVER_HOST_KEY,
                "another server has answered: its host key is not that of the session",
            )
            refusal.__cause__ = error
            error = refusal
        elif error.__cause__ is None:
            without_frames(error).__cause__ = self.link.error
        self.error = error
        self.is_over.set()
        if self.link.core.role is Role.CLIENT:  # a client that we refuse should be able to read why
            self.link.hurry()
        self._links.attempt_failed(error)

    async def wait(self) -> None:
        """Wait until the session is resumed here, or the attempt failed with its stream closed."""
        try:
            await self.is_over.wait()
        except BaseException:
            self.abort("the attempt was cancelled")
            if self.error is not None:
                with anyio.CancelScope(shield=True):
                    await self.link.wait_finished()
            raise
        if self.error is not None:
            await self.link.wait_finished()
            raise self.error.fresh()

    def abort(self, reason: str) -> None:
        """End the attempt, unless it is over."""
        if not self.is_over.is_set():
            self.link.core.lose(ConnectionLost(reason), anyio.current_time())
            self.link.advance()


class Links:
    """Runs one link after another.

    :param stream: the first stream
    :param make_core: creates the core of a new stream
    :param dispatch: called with the events of the present link
    :param connectable: connects further streams, if the session is to reconnect by itself
    :param start_task: starts a task that ends with the session at the latest
    :param loop: the running event loop
    """

    __slots__ = (
        "_attempt",
        "_attempt_came",
        "_bad_attempts",
        "_connectable",
        "_connecting",
        "_contour",
        "_delay",
        "_dispatch",
        "_expires",
        "_finished",
        "_is_over",
        "_last_error",
        "_limits",
        "_link",
        "_loop",
        "_make_core",
        "_past",
        "_running",
        "_search",
        "_start_task",
    )

    def __init__(
        self,
        stream: AnyByteStream,
        limits: Limits,
        contour: SessionContour,
        make_core: Callable[[AnyByteStream], Core],
        dispatch: Callable[[Sequence[Event]], None],
        connectable: ByteStreamConnectable | None,
        start_task: StartTask,
        loop: RunningLoop,
    ) -> None:
        self._limits = limits
        self._loop = loop
        self._start_task = start_task
        self._contour = contour
        self._make_core = make_core
        self._dispatch = dispatch
        self._connectable = connectable
        self._link: Link | None = self.make_link(stream, make_core(stream), dispatch)
        self._past = NO_TRAFFIC
        self._attempt: Attempt | None = None
        self._running: Attempt | None = None
        self._attempt_came = Notice()
        self._search: anyio.CancelScope | None = None
        self._connecting: anyio.CancelScope | None = None
        self._expires = math.inf
        self._delay = FIRST_DELAY
        self._last_error: Exception | None = None
        self._bad_attempts = 0
        self._is_over = False
        self._finished = Latch()

    # The present link

    @property
    def current(self) -> Link:
        """The link that the session uses, or used last."""
        if self._link is None:
            raise LocalProtocolError("the stream belongs to another session")
        return self._link

    @property
    def stream(self) -> AnyByteStream | None:
        """The stream that the session uses, or used last; None if it was handed over."""
        return None if self._link is None else self._link.stream

    @property
    def traffic(self) -> Traffic:
        """The traffic of all streams."""
        return self._past if self._link is None else self._past + self._link.core.transport.traffic

    def make_link(
        self, stream: AnyByteStream, core: Core, dispatch: Callable[[Sequence[Event]], None]
    ) -> Link:
        """Return a link for a stream."""
        return Link(
            stream, core, self._limits, self._contour, dispatch, self._start_task, self._loop
        )

    # Lifecycle

    def begin(self) -> None:
        """Write the first output at once; :meth:`run` must follow."""
        self.current.begin()

    async def run(self) -> None:
        """Run one link after another until the session is over.

        Each wait is shielded: the session ends this, and nothing else would close a stream that
        arrives at the last moment.
        """
        link: Link | None = self.current
        try:
            while link is not None:
                await link.run()
                link = await self._next()
        finally:
            self._finished.set()
            self._drop_references()

    def _drop_references(self) -> None:
        """Drop all references that lead back to the session, which is over.

        They would keep it alive until the garbage collector runs.
        """
        self._make_core = self._dispatch = self._start_task = do_nothing
        if self._link is not None:
            self._link.drop_references()

    @property
    def is_finished(self) -> bool:
        """Whether the last stream is closed."""
        return self._finished.is_set()

    async def wait_finished(self) -> None:
        """Wait until the last stream is closed."""
        await self._finished.wait(self._loop.backend)

    def lost(self) -> None:
        """Note that the present stream is lost."""
        self._expires = anyio.current_time() + self._limits.disconnected_time
        self._delay = FIRST_DELAY
        self._last_error = None
        self.current.hurry()

    def end(self) -> None:
        """Stop looking for streams."""
        self._is_over = True
        if self._search is not None:
            self._search.cancel()
        for attempt in (self._attempt, self._running):
            if attempt is not None:
                attempt.abort("the session has ended")

    def hurry(self) -> None:
        """End the present link soon, if there is one, and that of the last attempt."""
        if self._link is not None:
            self._link.hurry()
        if self._running is not None:
            self._running.link.hurry()

    async def hand_over(self) -> tuple[AnyByteStream, Core]:
        """Return the present stream and its core, for use by another session."""
        link, self._link = self.current, None
        self.end()
        link.release()
        with anyio.CancelScope(shield=True):  # nothing else would close the stream
            await link.wait_finished()
        return link.stream, link.core

    # The next stream

    async def _next(self) -> Link | None:
        """Return the next link; None when the session is over."""
        if not self._is_over:
            with anyio.CancelScope(deadline=self._expires, shield=True) as self._search:
                if self._connectable is None:
                    await self._wait_for_attempt()
                else:
                    await self._look_for_stream(self._connectable)
        attempt, self._attempt = self._attempt, None
        self._running = attempt
        if attempt is not None and self._is_over:
            attempt.abort("the session has ended")
        if attempt is None and not self._is_over:
            time = self._limits.disconnected_time
            self._give_up(ConnectionLost(f"there was no other stream within {time:g} seconds"))
        return None if attempt is None else attempt.link

    async def _wait_for_attempt(self) -> None:
        while self._attempt is None:
            await self._attempt_came.wait()

    async def _look_for_stream(self, connectable: ByteStreamConnectable) -> None:
        """Connect a stream, with exponential backoff and full jitter."""
        while self._attempt is None:
            with anyio.move_on_after(_random.uniform(0, self._delay)):
                await self._wait_for_attempt()
            self._delay = min(2 * self._delay, LONGEST_DELAY)
            if self._attempt is None:
                with anyio.CancelScope() as self._connecting:
                    await self._connect(connectable)

    async def _connect(self, connectable: ByteStreamConnectable) -> None:
        """Connect a stream, unless another one is provided meanwhile."""
        try:
            stream = await open_stream(connectable)
        except BaseException as error:
            if not handle_failure(error, self._not_connected):
                raise
            return  # whatever it was, the next attempt may succeed
        if self._attempt is None:
            self._attempt = Attempt(self, stream, self._make_core(stream))
        else:
            await close_at_once(stream)

    def _not_connected(self, error: Exception) -> None:
        logger.debug("a stream could not be connected", exc_info=error)
        self._last_error = without_frames(error)

    def try_stream(self, stream: AnyByteStream, core: Core | None = None) -> Attempt:
        """Attempt to resume over a stream, in place of the lost one.

        :param core: the stream's core, if it already has one
        :raises LocalProtocolError: another stream is being tried, or this one is already lost
        """
        if core is not None and core.phase is Phase.TERMINATED:
            raise LocalProtocolError("the stream was lost while it was handed over")
        running = self._running
        is_trying = running is not None and not running.is_over.is_set()
        if self._is_over:
            raise LocalProtocolError("the session has ended and takes no other stream")
        if self._attempt is not None or is_trying:
            raise LocalProtocolError("another stream is being tried; try again if that fails")
        if running is not None:
            running.link.hurry()
        self._attempt = Attempt(self, stream, core or self._make_core(stream))
        self._attempt_came.notify()
        if self._connecting is not None:
            self._connecting.cancel()
        return self._attempt

    def go_on(self, link: Link, events: Sequence[Event]) -> None:
        """Use another link from now on."""
        self._past, self._link = self.traffic, link
        self._bad_attempts = 0
        link.dispatch = self._dispatch
        self._dispatch(events)

    def attempt_failed(self, error: SSHError) -> None:
        """Note why an attempt failed; give up if no other can succeed."""
        self._last_error = error
        if isinstance(error, ReconnectError) and not self._is_over:
            self._bad_attempts += error.reason == ReconnectFailureReason.SERVER_DROPPED_MESSAGES
            is_final = error.reason in FINAL_FAILURES and self._connectable is not None
            if is_final or self._bad_attempts >= MAX_BAD_ATTEMPTS:
                self._give_up(error)

    def _give_up(self, error: SSHError) -> None:
        if error.__cause__ is None and error is not self._last_error:
            error.__cause__ = self._last_error
        self._dispatch([ConnectionTerminated(error, Phase.TERMINATED)])
