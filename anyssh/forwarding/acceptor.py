"""Accepting the connections of a listener, and owning them until they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from logging import Logger, getLogger
from typing import Final

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute, TaskGroup

from ..errors import SSHError
from ..session._waiting import Notice
from .endpoints import TcpEndpoint
from .listening import close_listener, loses_nothing, serve_connections
from .relay import SocketRelay
from .sockets import ConnectedSocket
from .turns import Turns
from .watching import Watcher

__all__ = ["Acceptor", "Carry", "CarryNowait", "contained", "originator_of"]

logger: Logger = getLogger("anyssh")

CLOSE_TIME: Final = 0.5
"""Seconds for a closed listener to stop accepting."""

Carry = Callable[[ByteStream], Awaitable[None]]


CarryNowait = Callable[[ConnectedSocket], bool]
"""Takes over a connection without a task; returns whether that is possible."""


def originator_of(stream: ByteStream) -> TcpEndpoint | None:
    """Return where a connection comes from, as far as its stream tells."""
    match stream:
        case ConnectedSocket(accepted_from=(str(host), int(port), *rest)) if not any(rest):
            return TcpEndpoint(host, port)
    try:
        address = stream.extra(SocketAttribute.remote_address, None)
    except (OSError, AttributeError, ValueError):  # raised by closed sockets
        return None
    return TcpEndpoint(str(address[0]), int(address[1])) if isinstance(address, tuple) else None


async def contained(carry: Awaitable[None]) -> None:
    """Contain the failure of one connection."""
    try:
        await carry
    except (SSHError, OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
        logger.debug("a forwarded connection failed: %r", error)
    except anyio.EndOfStream:
        logger.debug("a forwarded connection ended early")
    except Exception:
        logger.exception("a forwarded connection failed")


class Acceptor:
    """Accepts connections and has them relayed, each without a task or in one of its own.

    A failing connection is logged, and leaves the others and the listener alone.

    :param carry: takes over a connection, and closes it
    :param limit: connections that may wait for the other side
    :param carry_nowait: tried first, to take over a connection without a task
    :param watcher: watches our own sockets
    :ivar turns: bound the connections that wait for the other side; taken by what relays them
    """

    def __init__(
        self,
        listener: Listener[ByteStream],
        carry: Carry,
        limit: int,
        carry_nowait: CarryNowait,
        watcher: Watcher,
    ) -> None:
        self._listener = listener
        self._carry = carry
        self._carry_nowait = carry_nowait
        self._watcher = watcher
        self._relays: dict[SocketRelay, None] = {}
        self._relays_ended = Notice()
        self.turns: Turns = Turns(limit)
        self._scope = anyio.CancelScope()
        self._accepting = anyio.CancelScope(shield=True)
        self._accepted = anyio.Event()
        self._stopping = anyio.Event()
        self._stopped = anyio.Event()
        self._finished = anyio.Event()

    async def run(self) -> None:
        """Accept connections until told to stop; then wait for them to end."""
        try:
            with self._scope:
                async with anyio.create_task_group() as connections:
                    connections.start_soon(self._accept, connections)
                    try:
                        await self._stopping.wait()
                    finally:
                        await self._close_listener()
                    while self._relays:
                        await self._relays_ended.wait()
        finally:
            await self._close_listener()
            for relay in tuple(self._relays):
                relay.abort()
            self._finished.set()

    async def _accept(self, connections: TaskGroup) -> None:
        """Accept until told to stop; shielded, as how to stop depends on the listener."""
        try:
            with self._accepting:
                await serve_connections(
                    self._listener,
                    self._handle,
                    connections,
                    self._take,
                    self.turns,
                    self._watcher,
                )
        finally:
            self._accepted.set()

    async def stop_listening(self) -> None:
        """Close the listener; its connections continue."""
        self._stopping.set()
        await self._stopped.wait()

    async def aclose(self) -> None:
        """Close the listener and abort its connections; return once all are gone."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._finished.wait()

    def _take(self, streams: Sequence[ConnectedSocket]) -> Sequence[ConnectedSocket]:
        """Relay what needs no task; return the rest."""
        return [
            stream for stream in streams if not (self.turns.free and self._carry_nowait(stream))
        ]

    def relay_began(self, relay: SocketRelay) -> None:
        """Own a relay, which is waiting for its channel."""
        self._relays[relay] = None
        self.turns.take_nowait()

    def relay_served(self) -> None:
        """Note that a relay waits for its channel no more: it is open, or never will be."""
        self.turns.give_back()

    def relay_ended(self, relay: SocketRelay) -> None:
        """Stop owning a relay that has ended."""
        del self._relays[relay]
        if not self._relays:
            self._relays_ended.notify()

    async def _handle(self, stream: ByteStream) -> None:
        await contained(self._carry(stream))

    async def _close_listener(self) -> None:
        if self._stopped.is_set():
            return
        with anyio.CancelScope(shield=True):
            if loses_nothing(self._listener):
                # The event loop must not watch a closed socket.
                self._accepting.cancel()
                await self._accepted.wait()
                await close_listener(self._listener)
            else:
                # Cancelling while a connection is being accepted may lose it.
                await close_listener(self._listener)
                with anyio.move_on_after(CLOSE_TIME):
                    await self._accepted.wait()
                self._accepting.cancel()
        self._stopped.set()
