"""Remote forwarding: the peer listens, and we connect (``ssh -R``).

The request runs as a task of the forwarding service, so that its reply is always seen: if the
caller is gone by the time the peer agrees, the peer is told to stop listening.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from logging import Logger, getLogger
from typing import Any, Self

import anyio
import anyio.lowlevel
from anyio import AsyncContextManagerMixin
from anyio.abc import Listener, TaskGroup

from ..constants import ChannelOpenFailureReason
from ..errors import LocalProtocolError, RequestDenied, SSHError
from ..messages import TcpipForwardSuccess
from ..session._waiting import Notice
from ..session.channel import Channel
from ..session.opening import ChannelOpening
from . import payloads
from .acceptor import contained
from .carried import describe
from .endpoints import Endpoint, TcpEndpoint, address_to_bind
from .payloads import ForwardingOpen
from .policy import Connecting
from .ports import ForwardedConnection, ForwardedPort
from .proxying import SocksProxy, ready
from .service import PortForwarding, connect_for_us

__all__ = ["RemoteForward", "RemoteListener", "RemoteSocksForward"]

logger: Logger = getLogger("anyssh")


class _RemoteListening(AsyncContextManagerMixin):
    """A port or UNIX socket that the peer listens on for us, inside ``async with``.

    :ivar asked: the endpoint to ask for, in a form that every implementation accepts
    :ivar announced: the endpoint that the peer listens on; None until it has replied
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
        """The port that the peer listens on; None for a UNIX socket."""
        known = self.announced or self.asked
        return known.port if isinstance(known, TcpEndpoint) else None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._was_entered:
            raise RuntimeError("a forward can be entered only once")
        self._was_entered = True
        try:
            await anyio.lowlevel.checkpoint()
            self._service.asked.expect(self)
            self._service.start_soon(self._run)
        except BaseException:
            self._stopped.set()  # as nothing else will
            raise
        try:
            await self._decided.wait()
            if self._failure is not None:
                raise self._failure
            yield self
        finally:
            await self.aclose()

    async def stop_listening(self) -> None:
        """Tell the peer to stop listening; the connections continue until this is left."""
        self._stopping.set()
        if self._was_entered:
            await self._stopped.wait()

    async def aclose(self) -> None:
        """Tell the peer to stop listening; return once everything here has ended."""
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

        Shielded: only the end of the session may end this, so that the reply is never lost.
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
        # Most peers name the port only if it was not known before; some send 0 for the requested
        # one. Others append data of their own.
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
                    self._service.asked.granted(self._port)
                self._decided.set()
                await self._stopping.wait()
                await self._stop()
                await self._leaving.wait()
                tasks.cancel_scope.cancel()
        finally:
            self._tasks = None
            await self._stop()

    async def _stop(self) -> None:
        """Tell the peer to stop listening; connections that arrive from now on are refused."""
        if self._stopped.is_set():
            return
        self._service.asked.forget(self, self._port)
        # A peer that does not read must not block us; it is told once it reads again.
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

    async def take(self, opening: ChannelOpening, arrival: ForwardingOpen) -> None:
        """Handle a connection; it may have overtaken the reply to the request."""
        await self._decided.wait()
        if self._tasks is None or self._stopping.is_set():
            await opening.reject(
                ChannelOpenFailureReason.CONNECT_FAILED, "Forwarding channel was not requested."
            )
        else:
            self._connected(self._tasks, opening, arrival)

    def _connected(
        self, tasks: TaskGroup, opening: ChannelOpening, arrival: ForwardingOpen
    ) -> None:
        """Take a connection that belongs here."""
        raise NotImplementedError

    async def _left(self) -> None:
        """Release what is waiting: no more connections will come."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.announced or self.asked}>"


class _RemoteForwarding(_RemoteListening):
    """Relays its connections, each in a task, whose failure leaves the others alone.

    A task may outlast its channel, for example while it connects. So there may be twice as many as
    channels; without a limit, each open and close would add one, with a socket.
    """

    _carried = 0

    def _connected(
        self, tasks: TaskGroup, opening: ChannelOpening, arrival: ForwardingOpen
    ) -> None:
        if self._carried >= 2 * self._service.session.config.limits.channels:
            opening.reject_nowait(
                ChannelOpenFailureReason.RESOURCE_SHORTAGE, "too many connections have not ended"
            )
            return
        self._carried += 1
        tasks.start_soon(self._carry_contained, opening, arrival)

    async def _carry_contained(self, opening: ChannelOpening, arrival: ForwardingOpen) -> None:
        try:
            await contained(self._carry(opening, arrival))
        finally:
            self._carried -= 1

    async def _carry(self, opening: ChannelOpening, arrival: ForwardingOpen) -> None:
        """Accept or refuse a connection, and relay it until it ends."""
        raise NotImplementedError


class RemoteForward(_RemoteForwarding):
    """Forwards connections made to the peer to one endpoint on this side (``ssh -R``).

    Leaving ``async with`` tells the peer to stop listening and aborts the connections.

    :ivar local: where the connections are forwarded to
    """

    def __init__(
        self,
        service: PortForwarding,
        remote: Endpoint,
        local: Endpoint,
        connecting: Connecting | None,
    ) -> None:
        if isinstance(local, TcpEndpoint) and local.port == 0:
            raise ValueError("the port to connect to must not be 0")
        super().__init__(service, remote, local)
        self.local = local
        self._connecting = connecting

    @property
    def local_port(self) -> int | None:
        """The port that we connect to; None for a UNIX socket."""
        return self.local.port if isinstance(self.local, TcpEndpoint) else None

    async def _carry(self, opening: ChannelOpening, arrival: ForwardingOpen) -> None:
        carried = self._service.carried
        await carried.carry_incoming(
            opening,
            arrival,
            lambda: carried.connect(
                self.local, lambda seconds: connect_for_us(self.local, seconds)
            ),
            connecting=self._connecting,
            port=self._port,
        )


class RemoteSocksForward(_RemoteForwarding):
    """A SOCKS 4, 4a and 5 proxy at the peer whose connections we make (``ssh -R``).

    Leaving ``async with`` tells the peer to stop listening and aborts the connections.
    """

    def __init__(self, service: PortForwarding, remote: TcpEndpoint) -> None:
        if not service.policy.allows_connecting:
            raise LocalProtocolError(
                "the session's policy allows no connections, so nobody could use this SOCKS proxy: "
                "create the session with forwarding=ForwardingPolicy(connect_to=[…])"
            )
        super().__init__(service, remote, None)
        self._proxy = SocksProxy(service.policy.connect_time)

    async def _carry(self, opening: ChannelOpening, arrival: ForwardingOpen) -> None:
        service, originator = self._service, arrival.originator
        channel = opening.accept_nowait()
        answered = await self._proxy.answer(
            channel, lambda target: service.connect_for_peer(target, originator)
        )
        if answered is not None:
            target, stream = answered
            await service.carried.carry(
                stream,
                ready(channel),
                ForwardedConnection(service.session, stream, target, originator, True),
                connecting=service.policy.connecting,
                port=self._port,
            )


class RemoteListener(_RemoteListening, Listener[Channel]):  # type: ignore[misc]
    """An AnyIO listener for connections made to the peer, which arrive as channels.

    Inside ``async with`` it can be served like any listener, for example by :meth:`Server.serve`.
    Connections wait until they are accepted. Leaving tells the peer to stop listening; channels
    that were accepted belong to whoever accepted them.
    """

    def __init__(self, service: PortForwarding, remote: Endpoint) -> None:
        super().__init__(service, remote, None)
        self._waiting: deque[tuple[ChannelOpening, ForwardingOpen]] = deque()
        self._changed = Notice()

    def _connected(
        self, tasks: TaskGroup, opening: ChannelOpening, arrival: ForwardingOpen
    ) -> None:
        self._waiting.append((opening, arrival))
        self._changed.notify()

    async def _left(self) -> None:
        self._changed.notify()
        with anyio.CancelScope(shield=True):
            while self._waiting:
                opening, _ = self._waiting.popleft()
                try:
                    await opening.reject()
                except SSHError:
                    continue  # the session has ended

    async def accept(self) -> Channel:
        """Wait for a connection.

        :raises ~anyio.ClosedResourceError: the listener was left
        :raises ~anyio.BrokenResourceError: the session has ended
        :raises LocalProtocolError: the listener was not entered
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
        """Run ``handler`` in a task for each connection, until cancelled.

        :param handler: called with each connection's channel
        :param task_group: runs the handlers; by default a task group of its own
        :raises ~anyio.ClosedResourceError: the listener was left
        :raises ~anyio.BrokenResourceError: the session has ended
        :raises LocalProtocolError: the listener was not entered
        """
        if task_group is None:
            await self._serve_alone(handler)
            return
        while True:
            channel = await self.accept()
            task_group.start_soon(handler, channel)

    async def _serve_alone(self, handler: Callable[[Channel], Any]) -> None:
        failure: Exception | None = None
        async with anyio.create_task_group() as handlers:
            try:
                await self.serve(handler, handlers)
            except Exception as error:
                # Raised below, outside of the task group, which would wrap it.
                failure = error
                handlers.cancel_scope.cancel()
        if failure is not None:
            raise failure
