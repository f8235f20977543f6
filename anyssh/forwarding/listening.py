"""Listening for connections to be forwarded.

Loopback and "all interfaces" mean both families: whatever listens on 127.0.0.1 also listens on the
same port of ::1, if the system has it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from logging import Logger, getLogger
from pathlib import Path
from typing import Any, Final, NoReturn

import anyio
from anyio.abc import ByteStream, Listener, SocketAttribute, SocketListener, TaskGroup
from anyio.streams.stapled import MultiListener

from ..errors import SSHError
from ..session._waiting import Failure
from ..session.accepting import AcceptLoop
from .endpoints import Endpoint, UnixEndpoint, address_of, is_all_interfaces
from .sockets import ConnectedSocket, listening_socket
from .turns import Turns
from .watching import NOTHING, READING, Watcher

__all__ = [
    "Accepting",
    "bound_port",
    "close_listener",
    "listen",
    "loses_nothing",
    "serve_connections",
]

logger: Logger = getLogger("anyssh")

TRIES: Final = 8
ACCEPTED_AT_ONCE: Final = 8
"""Connections accepted in a row before other tasks have their turn."""
BACKLOG: Final = 4096
"""Connecting to a full UNIX socket fails instead of waiting."""
PRIVATE: Final = 0o600
ONE_FAMILY: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""Errors for the second family's socket on a system without that family."""


async def listen(endpoint: Endpoint) -> Listener[ByteStream]:
    """Listen on a TCP port or a UNIX socket, as forwards without a ``listener`` argument do.

    For loopback and "all interfaces", this listens on one port of both IPv4 and IPv6, as far as
    available. A UNIX socket is accessible to the current user only, and removed when the listener
    is closed; an existing path counts as in use.

    :param endpoint: where to listen; port 0 picks a free port, which the listener's
        ``extra(SocketAttribute.local_port)`` returns
    :raises OSError: the endpoint is in use or not permitted, or the address is not ours
    """
    if isinstance(endpoint, UnixEndpoint):
        return await _listen_unix(endpoint.path)
    first, second = _addresses(endpoint.host)
    for _ in range(TRIES):
        listener = await _listen_tcp(first, endpoint.port)
        if second is None:
            return listener
        port = bound_port(listener) or endpoint.port
        try:
            other = await _listen_tcp(second, port)
        except OSError as error:
            if error.errno in ONE_FAMILY:
                return listener
            await close_listener(listener)
            if endpoint.port != 0 or error.errno != errno.EADDRINUSE:
                raise
        except BaseException:
            await close_listener(listener)
            raise
        else:
            return MultiListener([listener, other])
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


async def close_listener(listener: Listener[ByteStream]) -> None:
    """Close a listener, cancelled or not.

    AnyIO's MultiListener would leave sockets open if it is cancelled while closing the first.
    """
    with anyio.CancelScope(shield=True):
        try:
            await listener.aclose()
        except Exception:
            logger.exception("a listener could not be closed")


def loses_nothing(listener: Listener[ByteStream]) -> bool:
    """Tell whether cancelling :func:`serve_connections` never loses a connection."""
    return all(listening_socket(each) is not None for each in _parts(listener))


def _parts(listener: Listener[ByteStream]) -> Sequence[Listener[ByteStream]]:
    """Return the listeners that a listener consists of."""
    if isinstance(listener, MultiListener):
        return listener.listeners
    if isinstance(listener, _UnixListener):
        return [listener.inner]
    return [listener]


def _addresses(host: str) -> tuple[str, str | None]:
    """Return the address to listen on, and the corresponding one of the other family, if any."""
    if host == "::":
        return host, None
    if is_all_interfaces(host):
        return "0.0.0.0", "::"
    if host.lower() in ("localhost", "127.0.0.1"):
        return "127.0.0.1", "::1"
    return host, None


def bound_port(listener: Listener[ByteStream]) -> int | None:
    """Return the port of a listener, None if it has none."""
    port: int | None = listener.extra(SocketAttribute.local_port, None)
    return port


async def _listen_tcp(host: str, port: int) -> Listener[ByteStream]:
    """Listen on a port of an address, or of every address of a name.

    Addresses bypass the resolver, which may reject them on a system whose only address of the
    family is loopback.
    """
    if "%" in host or address_of(host) is None:
        return await anyio.create_tcp_listener(local_host=host, local_port=port)
    raw = _bind_tcp(host, port)
    try:
        return await SocketListener.from_socket(raw)
    except BaseException:
        raw.close()
        raise


def _bind_tcp(host: str, port: int) -> socket.socket:
    raw = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        if raw.family == socket.AF_INET6:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # On Windows, SO_REUSEADDR would permit what SO_EXCLUSIVEADDRUSE prevents.
        option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
        raw.setsockopt(socket.SOL_SOCKET, option, 1)
        raw.bind((host, port))
        raw.listen(BACKLOG)
    except BaseException:
        raw.close()
        raise
    return raw


async def _listen_unix(path: str) -> Listener[ByteStream]:
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    raw = await anyio.to_thread.run_sync(_bind_unix, path)
    try:
        return _UnixListener(await SocketListener.from_socket(raw), path)
    except BaseException:
        raw.close()
        raise


def _bind_unix(path: str) -> socket.socket:
    """Return a listening socket for the current user only; an existing path is left alone."""
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        raw.bind(path)
        # Before it listens, so that nobody can connect in between.
        Path(path).chmod(PRIVATE)
        raw.listen(BACKLOG)
    except BaseException:
        raw.close()
        raise
    return raw


class _UnixListener(Listener[ByteStream]):
    """Removes its socket file when closed.

    :ivar inner: the actual listener
    """

    def __init__(self, inner: Listener[ByteStream], path: str) -> None:
        self.inner = inner
        self._path = path
        self._is_closed = False

    async def serve(
        self,
        handler: Callable[[ByteStream], object],
        task_group: TaskGroup | None = None,
    ) -> None:
        await self.inner.serve(handler, task_group)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the socket."""
        return self.inner.extra_attributes

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: Path(self._path).unlink(missing_ok=True))
        await self.inner.aclose()


Take = Callable[[Sequence[ConnectedSocket]], Sequence[ConnectedSocket]]
"""Takes over connections; returns those that it does not take."""

Handler = Callable[[ByteStream], Coroutine[Any, Any, None]]


async def serve_connections(
    listener: Listener[ByteStream],
    handler: Handler,
    tasks: TaskGroup,
    take: Take,
    turns: Turns,
    watcher: Watcher,
) -> None:
    """Take over or handle each connection, until the listener is closed.

    :param handler: runs as one of ``tasks``, for each connection that was not taken
    :param take: given accepted sockets; returns those that it does not take
    :param turns: while none is free, our own sockets accept nothing
    :param watcher: watches our own sockets
    """
    async with anyio.create_task_group() as loops:
        for each in _parts(listener):
            loops.start_soon(_accept_from, each, handler, tasks, take, turns, watcher)


async def _accept_from(
    one: Listener[ByteStream],
    handler: Handler,
    tasks: TaskGroup,
    take: Take,
    turns: Turns,
    watcher: Watcher,
) -> None:
    loop = AcceptLoop("a forwarded port cannot accept connections")
    raw = listening_socket(one)
    if raw is None:
        await loop.run(partial(one.serve, loop.noting(handler), tasks))
        return

    def note_and_take(accepted: Sequence[ConnectedSocket]) -> Sequence[ConnectedSocket]:
        loop.accepted()
        return take(accepted)

    await loop.run(partial(Accepting(raw, handler, tasks, note_and_take, turns).run, watcher))


class Accepting:
    """A listening socket of our own, watched together with those of the connections.

    The end of one connection and the beginning of the next, if in the same iteration of the event
    loop, then leave in one write.
    """

    def __init__(
        self, raw: socket.socket, handler: Handler, tasks: TaskGroup, take: Take, turns: Turns
    ) -> None:
        self._raw = raw
        self._handler = handler
        self._tasks = tasks
        self._take = take
        self._turns = turns
        self._watcher: Watcher
        self._watched_for = NOTHING
        self._waiting = anyio.CancelScope()
        self._failure: Failure

    async def run(self, watcher: Watcher) -> NoReturn:
        """Take connections, or run the handler for each as one of the tasks.

        :raises OSError: the system cannot accept connections at present
        :raises ~anyio.ClosedResourceError: the socket is closed, or no longer watched
        """
        self._watcher = watcher
        self._failure = Failure()  # what failed before may work now
        self._watch()
        try:
            await self._failure.wait()
        finally:
            self._turns.forget(self._watch)
            self._watch_for(NOTHING)
            self._waiting.cancel()  # a closed socket must not be waited for

    def _watch(self) -> None:
        """Watch the socket if a turn is free, or as soon as one is."""
        is_free = self._turns.free > 0
        if not is_free:
            self._turns.tell_when_free(self._watch)
        try:
            self._watch_for(READING if is_free else NOTHING)
        except SSHError:  # the session has ended
            self._failure.set(anyio.ClosedResourceError())
        except OSError as error:
            self._failure.set(error)

    def _watch_for(self, wanted: int) -> None:
        before = self._watched_for
        if wanted == before:
            return
        if before == NOTHING and self._raw.fileno() < 0:
            self._failure.set(anyio.ClosedResourceError())
            return
        self._watcher.watch(self, self, before, wanted)
        self._watched_for = wanted

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._raw.fileno()

    async def wait_readable(self) -> None:
        """Wait until there is a connection, or accepting ends."""
        with anyio.CancelScope() as self._waiting:
            await anyio.wait_readable(self._raw)

    async def wait_writable(self) -> None:
        """Wait forever: a listening socket never becomes writable."""
        await anyio.sleep_forever()

    def socket_ready(self, ready: int) -> None:
        """Accept what has arrived, up to a few, so that others have their turn."""
        accepted: list[ConnectedSocket] = []
        most = min(ACCEPTED_AT_ONCE, self._turns.free)
        try:
            while len(accepted) < most:
                connection, address = self._raw.accept()
                accepted.append(ConnectedSocket(connection, address))
        except (BlockingIOError, ConnectionAbortedError):
            pass  # no more connections, or it is already gone
        except OSError as error:
            self._failure.set(error)
        finally:
            for stream in self._take(accepted) if accepted else ():
                self._tasks.start_soon(self._handler, stream)
            if not self._turns.free:
                self._watch()

    def abort(self) -> None:
        """Stop accepting, as the socket is no longer watched."""
        self._failure.set(anyio.ClosedResourceError())
