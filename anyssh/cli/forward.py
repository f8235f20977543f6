"""``anyssh forward``: tunnels that stay up.

If the server supports the reconnect extension, one session survives all losses of the network, and
so do its connections. If not, or if the server has given the session up, another session replaces
it: connections break, but the forwards are restored.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from secrets import SystemRandom
from typing import Final, Literal

import anyio

import anyssh
from anyssh import (
    Endpoint,
    LocalForward,
    RemoteForward,
    RemoteSocksForward,
    SocksForward,
    TcpEndpoint,
)

from .failures import Failure, reason_of
from .lending import LentListener, listen_to_lend
from .login import CannotConnect, Login
from .running import Signals
from .status import Status, StatusDisplay, duration

__all__ = ["Forward", "keep_forwarding"]

logger: Final = logging.getLogger("anyssh.cli")

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
_random: Final = SystemRandom()
_Entered = LocalForward | RemoteForward | RemoteSocksForward | SocksForward
FAILURES: Final = (
    anyssh.TraceId.PORT_FORWARD_CHANNEL_OPEN_FAILED,
    anyssh.TraceId.PORT_FORWARD_CONNECTION_FAILED,
)


@dataclass
class Forward:
    """One ``-L``, ``-R`` or ``-D``.

    :ivar listens: where connections arrive; its port becomes the actual one
    :ivar target: where they go to; None if they say so themselves
    :ivar listener: the listener on our side, which outlives sessions
    """

    option: Literal["-L", "-R", "-D"]
    listens: Endpoint
    target: Endpoint | None
    listener: LentListener | None = field(default=None, repr=False)

    async def open(self) -> LentListener | None:
        """Listen, if that is up to us."""
        if self.option != "-R":
            self.listener = await listen_to_lend(self.listens)
            self.listens = self.listener.endpoint
        return self.listener

    def over(self, session: anyssh.ClientSession) -> _Entered:
        """Return the session's forward, to be entered."""
        lend = None if self.listener is None else self.listener.lend
        match self.listens, self.target:
            case TcpEndpoint(host, port), None if self.option == "-R":
                return session.forward_socks_from_remote_port(host, port)
            case TcpEndpoint(host, port), None:
                return session.forward_socks(host, port, listener=lend)
            case listens, target if target is not None and self.option == "-R":
                return session.forward_from_remote(listens, target)
            case listens, target if target is not None:
                return session.forward_to_remote(listens, target, listener=lend)
        raise Failure(f"{self.listens} cannot be a SOCKS proxy; give a port")

    def __str__(self) -> str:
        listens = str(self.listens)
        if isinstance(self.listens, TcpEndpoint) and not self.listens.host:
            listens = f"*:{self.listens.port}"
        target = "wherever they ask (SOCKS)" if self.target is None else self.target
        if self.option == "-R":
            return f"-R connections to {listens} of the server go from here to {target}"
        return f"{self.option} connections to {listens} here go from the server to {target}"


class Tunnel:
    """A tunnel, and its history."""

    def __init__(
        self,
        login: Login,
        forwards: Sequence[Forward],
        policy: anyssh.ForwardingPolicy,
        display: StatusDisplay,
    ) -> None:
        self._login = login
        self._forwards = forwards
        self._policy = policy
        self._display = display
        self._session: anyssh.ClientSession | None = None
        self._was_up = False
        self._lost_at: float | None = None
        self._is_starting_anew = False
        self._past = Status()
        self._shown = Status()

    async def run(self) -> None:
        """Keep the tunnel up until cancelled.

        :raises Failure: it could not be established
        :raises SSHError: it could not be established, or the server does not accept us again
        """
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._up() as session:
                    pause = FIRST_PAUSE
                    closed = await session.wait_closed()
                raise closed.error
            except (anyssh.HostKeyError, anyssh.AuthenticationError, anyssh.NegotiationError):
                raise
            except (CannotConnect, anyssh.SSHError, _Refused) as error:
                if not self._was_up:
                    raise
                self._tell_end(error)
            await anyio.sleep(_random.uniform(0.5, 1) * pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    @asynccontextmanager
    async def _up(self) -> AsyncGenerator[anyssh.ClientSession]:
        """Log in and forward; leaving ends the session."""
        logging_in = self._login.session(self._trace, self._policy)
        async with logging_in as session, AsyncExitStack() as stack:
            for forward in self._forwards:
                await self._enter(forward, stack, session)
            self._tell_beginning(session)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch, session)
                    yield session
                    tasks.cancel_scope.cancel()
            finally:
                self._past = self._totals()
                self._session = None

    async def _enter(
        self, forward: Forward, stack: AsyncExitStack, session: anyssh.ClientSession
    ) -> None:
        try:
            entered = await stack.enter_async_context(forward.over(session))
        except anyssh.RequestDenied as error:
            raise _Refused(
                f"the server refuses to listen on {forward.listens}: something else may have the "
                "port, or the server's configuration does not allow it"
            ) from error
        except OSError as error:
            raise Failure(f"cannot listen on {forward.listens}: {reason_of(error)}") from error
        listens = forward.listens
        if isinstance(listens, TcpEndpoint) and isinstance(
            entered, RemoteForward | RemoteSocksForward
        ):
            # The next session should get the same port.
            forward.listens = replace(listens, port=entered.remote_port or 0)

    # Messages

    def _tell_beginning(self, session: anyssh.ClientSession) -> None:
        self._session = session
        place = f"{self._login.destination}, {session.peer_version}"
        if self._was_up:
            lost = "" if self._lost_at is None else f" after {duration(self._lost_for())}"
            self._past = replace(self._past, reconnections=self._past.reconnections + 1)
            self._display.tell(
                f"connected again to {place}{lost}; the forwards are restored, "
                "earlier connections are broken"
            )
        else:
            self._display.tell(f"connected to {place}")
        for forward in self._forwards:
            self._display.tell(str(forward))
        self._was_up = True
        self._lost_at = None
        self._is_starting_anew = False

    def _tell_end(self, error: Exception) -> None:
        if self._lost_at is None:
            self._lost_at = anyio.current_time()
        if self._is_starting_anew:
            logger.info("%s", error)
        else:
            self._is_starting_anew = True
            self._display.tell(f"the session is over ({error}); connecting again")

    def _trace(self, event: anyssh.TraceEvent) -> None:
        """Report connections that fail; their clients only see them end."""
        if event.id in FAILURES:
            self._display.tell(event.message)

    async def _watch(self, session: anyssh.ClientSession) -> None:
        async for event in session.events():
            match event:
                case anyssh.events.Disconnected(error):
                    self._lost_at = anyio.current_time()
                    self._display.tell(f"the network is lost ({error}); reconnecting")
                case anyssh.events.Reconnected():
                    after = duration(self._lost_for())
                    self._lost_at = None
                    self._display.tell(f"reconnected after {after}; nothing is lost")

    async def show(self) -> None:
        """Update the status display until cancelled."""
        while True:
            await anyio.sleep(self._display.interval)
            self._display.show(self._status())

    def _lost_for(self) -> float:
        return 0.0 if self._lost_at is None else anyio.current_time() - self._lost_at

    def _totals(self) -> Status:
        """Return the totals of all sessions so far."""
        past, session = self._past, self._session
        if session is None:
            return replace(past, latency=0.0, connections=0)
        metrics = session.metrics
        return Status(
            sent=past.sent + metrics.bytes_sent,
            received=past.received + metrics.bytes_received,
            latency=metrics.latency.current,
            connections=len(session.channels),
            reconnections=past.reconnections + metrics.reconnections,
        )

    def _status(self) -> Status:
        """Return the totals, and the changes since the last call."""
        before, totals, interval = self._shown, self._totals(), self._display.interval
        self._shown = totals
        return replace(
            totals,
            sent_rate=(totals.sent - before.sent) / interval,
            received_rate=(totals.received - before.received) / interval,
            lost_for=None if self._lost_at is None else self._lost_for(),
        )


class _Refused(Failure):
    """The server does not listen for us; it may once it notices that an old session is over."""


async def keep_forwarding(
    login: Login,
    forwards: Sequence[Forward],
    policy: anyssh.ForwardingPolicy,
    display: StatusDisplay,
    signals: Signals,
) -> int:
    """Forward until a signal ends it.

    :param policy: what the server may connect to
    """
    async with AsyncExitStack() as listeners:
        for forward in forwards:
            if (listener := await forward.open()) is not None:
                listeners.push_async_callback(listener.close)
        await listeners.enter_async_context(login)
        tunnel = Tunnel(login, forwards, policy, display)
        async with anyio.create_task_group() as tasks:
            signals.handle = _Ending(tasks).handle
            with display:
                tasks.start_soon(tunnel.show)
                await tunnel.run()
    return 0


class _Ending:
    """Ends the tunnel for the usual signals."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks

    async def handle(self, number: signal.Signals) -> bool:
        if number not in (signal.SIGINT, signal.SIGTERM):
            return False
        self._tasks.cancel_scope.cancel()
        return True
