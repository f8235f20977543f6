"""Listeners that outlive sessions.

The port of a tunnel stays open while there is no session: new connections wait in the system's
backlog instead of being refused, and no other program takes the port.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute, TaskGroup
from anyio.streams.stapled import MultiListener

from anyssh import Endpoint, TcpEndpoint

from .failures import Failure, reason_of

__all__ = ["LentListener", "listen_to_lend"]

logger: Final = logging.getLogger("anyssh.cli")


class LentListener(Listener[ByteStream]):
    """Lends a listener to one forward after another.

    To a forward it is a listener like any other, but closing it leaves the actual listener open.

    :ivar endpoint: where it listens, with the actual port
    """

    def __init__(self, listener: Listener[ByteStream], endpoint: TcpEndpoint) -> None:
        self.endpoint = endpoint
        self._listener = listener
        self._serving = anyio.CancelScope()

    async def lend(self, endpoint: Endpoint) -> Listener[ByteStream]:
        """Serve as a ListenerFactory."""
        self._serving = anyio.CancelScope()
        return self

    async def serve(
        self, handler: Callable[[ByteStream], Any], task_group: TaskGroup | None = None
    ) -> None:
        """Accept connections until the forward is closed."""
        with self._serving:
            await self._listener.serve(handler, task_group)

    async def aclose(self) -> None:
        """End the present loan."""
        self._serving.cancel()
        await anyio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Close the listener for good."""
        self._serving.cancel()
        with anyio.CancelScope(shield=True):
            await self._listener.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the listener."""
        return self._listener.extra_attributes


async def listen_to_lend(endpoint: TcpEndpoint) -> LentListener:
    """Listen on a port; ``localhost`` means both IPv4 and IPv6.

    :raises Failure: the port is not available
    """
    hosts = ("127.0.0.1", "::1") if endpoint.host == "localhost" else (endpoint.host or None,)
    port = endpoint.port
    listeners: list[Listener[ByteStream]] = []
    for host in hosts:
        try:
            listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
        except OSError as error:
            if listeners:
                logger.debug("not on %s, too: %s", host, error)
                continue
            raise Failure(
                f"cannot listen on {endpoint}: {reason_of(error)}; choose another port"
            ) from error
        listeners.append(listener)
        port = port or listener.extra(SocketAttribute.local_port)
    return LentListener(MultiListener(listeners), TcpEndpoint(endpoint.host, port))
