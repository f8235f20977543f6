"""Listeners that outlive sessions.

The port of a tunnel stays open while there is no session: new connections wait in the system's
backlog instead of being refused, and no other program takes the port. Each forward is lent
duplicates of the sockets, which share the backlog, and may close them.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute, SocketListener
from anyio.streams.stapled import MultiListener

import anyssh
from anyssh import Endpoint, TcpEndpoint

from .failures import Failure, reason_of

__all__ = ["LentListener", "listen_to_lend"]


class LentListener:
    """Lends a listener to one forward after another.

    :ivar endpoint: where it listens, with the actual port
    """

    def __init__(self, listener: Listener[ByteStream], endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._listener = listener

    async def lend(self, endpoint: Endpoint) -> Listener[ByteStream]:
        """Serve as a ListenerFactory."""
        lent: list[SocketListener] = []
        try:
            for each in _sockets(self._listener):
                lent.append(await _listener_of(each.dup()))  # noqa: PERF401
        except BaseException:
            for listener in lent:
                await anyio.aclose_forcefully(listener)
            raise
        return MultiListener(lent)

    async def close(self) -> None:
        """Close the listener for good."""
        with anyio.CancelScope(shield=True):
            await self._listener.aclose()


def _sockets(listener: Listener[ByteStream]) -> Sequence[socket.socket]:
    parts = listener.listeners if isinstance(listener, MultiListener) else [listener]
    return [each.extra(SocketAttribute.raw_socket) for each in parts]


async def _listener_of(raw: socket.socket) -> SocketListener:
    try:
        return await SocketListener.from_socket(raw)
    except BaseException:
        raw.close()
        raise


async def listen_to_lend(endpoint: Endpoint) -> LentListener:
    """Listen on a TCP port or a UNIX socket.

    :raises Failure: the endpoint is not available
    """
    try:
        listener = await anyssh.listen(endpoint)
    except OSError as error:
        what = "port" if isinstance(endpoint, TcpEndpoint) else "path"
        raise Failure(
            f"cannot listen on {endpoint}: {reason_of(error)}; choose another {what}"
        ) from error
    if isinstance(endpoint, TcpEndpoint):
        endpoint = TcpEndpoint(endpoint.host, listener.extra(SocketAttribute.local_port))
    return LentListener(listener, endpoint)
