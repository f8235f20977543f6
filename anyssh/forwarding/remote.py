"""Having the peer listen for connections that leave here: ``ssh -R``.

The request runs as a task of the forwarding service, so that it reaches its end whatever becomes of
who asked: should he have gone when the peer agrees, the peer is told to listen no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from logging import Logger, getLogger
from typing import Any, Self

import anyio
import anyio.lowlevel
from anyio import AsyncContextManagerMixin
from anyio.abc import Listener, TaskGroup

from ..constants import ChannelOpenFailureReason
from ..errors import LocalProtocolError, RequestDenied, SSHError
from ..messages import TcpipForwardSuccess
from ..session.channel import Channel
from ..session.opening import ChannelOpening
from . import payloads
from .acceptor import contained
from .carried import describe
from .endpoints import Endpoint, TcpEndpoint, address_to_bind
from .payloads import Opening
from .policy import Connecting
from .ports import ForwardedPort
from .service import PortForwarding, connect_for_us

__all__ = ["RemoteForward", "RemoteListener"]

logger: Logger = getLogger("anyssh")


class _AtPeer(AsyncContextManagerMixin):
    """A port or a socket that the peer listens on for us, inside ``async with``.

    :ivar asked: what the peer was asked for, in the words that every family takes
    :ivar announced: what it listens on; None until it has said so
    """

    def __init__(self, service: PortForwarding, remote: Endpoint, local: Endpoint | None) -> None:
        if isinstance(remote, TcpEndpoint):
            remote = TcpEndpoint(address_to_bind(remote.host), remote.port)
        self.asked: Endpoint = remote
        self.announced: Endpoint | None = None
        self._service = service
        self._local = local
        self._port: ForwardedPort | None = None
        self._failure: Exception | None = None
        self._was_entered = False
        self._decided = anyio.Event()
        self._stopping = anyio.Event()
        self._stopped = anyio.Event()
        self._leaving = anyio.Event()
        self._finished = anyio.Event()
        self._tasks: TaskGroup | None = None

    @property
    def remote_port(self) -> int | None:
        """The port that the peer listens on, None for a socket in its file system."""
        known = self.announced or self.asked
        return known.port if isinstance(known, TcpEndpoint) else None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._was_entered:
            raise RuntimeError("a forward is entered once")
        self._was_entered = True
        await anyio.lowlevel.checkpoint()
        self._service.asked.expect(self)
        self._service.start_soon(self._run)
        try:
            await self._decided.wait()
            if self._failure is not None:
                raise self._failure
            yield self
        finally:
            await self.aclose()

    async def stop_listening(self) -> None:
        """Tell the peer to listen no more; the connections go on until this is left."""
        self._stopping.set()
        if self._was_entered:
            await self._stopped.wait()

    async def aclose(self) -> None:
        """Tell the peer to listen no more; returns when nothing of this runs any more."""
        self._stopping.set()
        self._leaving.set()
        if self._decided.is_set():
            with anyio.CancelScope(shield=True):
                await self._finished.wait()

    async def _run(self) -> None:
        try:
            if await self._ask():
                await self._hold()
        finally:
            self._service.asked.forget(self, self._port)
            self._decided.set()
            self._stopped.set()
            self._finished.set()
            await self._left()

    async def _ask(self) -> bool:
        """Ask the peer to listen; return whether it does.

        Shielded: the end of the session ends it, and nothing else may lose the reply.
        """
        session = self._service.session
        name, payload = payloads.listen_request(self.asked)
        try:
            with anyio.CancelScope(shield=True):
                reply = await session.request(name, payload)
            if not reply:
                raise RequestDenied(f"the peer refused to listen on {self.asked}")
            self.announced = self._announced(reply.payload)
        except SSHError as error:
            self._failure = error
            return False
        self._port = ForwardedPort(self._local, self.announced, is_remote=False)
        return True

    def _announced(self, payload: bytes) -> Endpoint:
        if not isinstance(self.asked, TcpEndpoint):
            return self.asked
        # Most peers only say what was not known before; some write 0 for "as you wished".
        # Others put something of their own behind it.
        port = TcpipForwardSuccess.decode(payload[:4]).port or self.asked.port
        if not 0 < port <= 65535:
            raise RequestDenied(f"the peer listens, but names {port} as the port")
        return TcpEndpoint(self.asked.host, port)

    async def _hold(self) -> None:
        """Take connections until told to stop, and keep them until told to leave."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                if self._port is not None and not self._leaving.is_set():
                    self._service.asked.granted(self, self._port)
                self._decided.set()
                await self._stopping.wait()
                await self._stop()
                await self._leaving.wait()
                tasks.cancel_scope.cancel()
        finally:
            self._tasks = None
            await self._stop()

    async def _stop(self) -> None:
        """Tell the peer to listen no more; what arrives now is refused."""
        if self._stopped.is_set():
            return
        self._service.asked.forget(self, self._port)
        # A peer that does not read keeps nobody here; it is told when it reads again.
        limit = self._service.session.config.limits.close_time
        with anyio.move_on_after(limit, shield=True) as telling:
            await self._tell_peer()
        if telling.cancelled_caught:
            with suppress(SSHError):  # the session has ended
                self._service.start_soon(self._tell_peer)
        self._stopped.set()
        await self._left()

    async def _tell_peer(self) -> None:
        name, payload = payloads.cancel_request(self.announced or self.asked)
        try:
            await self._service.session.request(name, payload, want_reply=False)
        except SSHError as error:
            logger.debug("%r ends with its session: %r", self, error)

    async def take(self, opening: ChannelOpening, arrival: Opening) -> None:
        """See to a connection that arrived; it may be faster than the reply."""
        await self._decided.wait()
        if self._tasks is None or self._stopping.is_set():
            await opening.reject(
                ChannelOpenFailureReason.CONNECT_FAILED, "Forwarding channel was not requested."
            )
        else:
            await self._connected(self._tasks, opening, arrival)

    async def _connected(self, tasks: TaskGroup, opening: ChannelOpening, arrival: Opening) -> None:
        """Have a connection that belongs here carried on."""
        raise NotImplementedError

    async def _left(self) -> None:
        """Release what waits: no more connections come."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.announced or self.asked}>"


class RemoteForward(_AtPeer):
    """Connections that come to the peer leave here, for one place (``ssh -R``).

    Leaving ``async with`` tells the peer to listen no more and breaks the connections off.

    :ivar local: where they are connected to
    """

    def __init__(
        self,
        service: PortForwarding,
        remote: Endpoint,
        local: Endpoint,
        connecting: Connecting | None,
    ) -> None:
        if isinstance(local, TcpEndpoint) and local.port == 0:
            raise ValueError("a port to connect to is needed, not 0")
        super().__init__(service, remote, local)
        self.local = local
        self._connecting = connecting

    @property
    def local_port(self) -> int | None:
        """The port that is connected to, None for a socket."""
        return self.local.port if isinstance(self.local, TcpEndpoint) else None

    async def _connected(self, tasks: TaskGroup, opening: ChannelOpening, arrival: Opening) -> None:
        tasks.start_soon(self._carry, opening, arrival)

    async def _carry(self, opening: ChannelOpening, arrival: Opening) -> None:
        await contained(
            self._service.carried.carry_incoming(
                opening,
                arrival,
                lambda seconds: connect_for_us(self.local, seconds),
                connecting=self._connecting,
                port=self._port,
            )
        )


class RemoteListener(_AtPeer, Listener[Channel]):  # type: ignore[misc]
    """Connections that come to the peer, as channels: an AnyIO listener without a socket.

    Inside ``async with`` it can be served like any listener, for example by
    :meth:`Server.serve`. Connections wait until they are asked for. Leaving tells the peer to
    listen no more; channels that were taken are their taker's.
    """

    def __init__(self, service: PortForwarding, remote: Endpoint) -> None:
        super().__init__(service, remote, None)
        self._waiting: deque[tuple[ChannelOpening, Opening]] = deque()
        self._changed = anyio.Event()

    async def _connected(self, tasks: TaskGroup, opening: ChannelOpening, arrival: Opening) -> None:
        self._waiting.append((opening, arrival))
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _left(self) -> None:
        self._notify()
        with anyio.CancelScope(shield=True):
            while self._waiting:
                opening, _ = self._waiting.popleft()
                try:
                    await opening.reject()
                except SSHError:
                    continue  # the session has ended

    async def accept(self) -> Channel:
        """Wait for a connection.

        :raises ~anyio.ClosedResourceError: this was left
        :raises ~anyio.BrokenResourceError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        while not self._waiting:
            await self._require_open()
            await self._changed.wait()
        opening, arrival = self._waiting.popleft()
        try:
            channel = opening.accept_nowait()
        except SSHError as error:
            raise anyio.BrokenResourceError from error
        describe(channel, local=arrival.endpoint, remote=arrival.originator)
        if self._port is not None:
            self._service.carried.note_channel(self._port, channel)
        return channel

    async def _require_open(self) -> None:
        if not self._decided.is_set():
            raise LocalProtocolError("the listener was not entered: use 'async with'")
        if self._stopped.is_set():
            if self._stopping.is_set():
                raise anyio.ClosedResourceError
            closed = await self._service.session.wait_closed()
            raise anyio.BrokenResourceError(str(closed.error)) from closed.error

    async def serve(
        self, handler: Callable[[Channel], Any], task_group: TaskGroup | None = None
    ) -> None:
        """Run ``handler`` for each connection as a task, until cancelled.

        :param task_group: where the handlers run; one of its own if None
        :raises ~anyio.ClosedResourceError: this was left
        :raises ~anyio.BrokenResourceError: the session has ended
        """
        async with AsyncExitStack() as stack:
            if task_group is None:
                task_group = await stack.enter_async_context(anyio.create_task_group())
            while True:
                channel = await self.accept()
                task_group.start_soon(handler, channel)
