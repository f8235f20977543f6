"""Sockets of relayed connections, without a transport of the event loop.

On asyncio, AnyIO's accepted TCP streams buffer incoming data until a reader has once had to wait,
which one that relays to something slower never does. Here nothing is read before it is asked for,
nothing is copied on the way, and no connection is lost when accepting is cancelled.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.lowlevel
from anyio import ResourceGuard
from anyio.abc import ByteStream, Listener, SocketAttribute, SocketListener, SocketStream

from ..session.connecting import connect_socket, connect_socket_nowait
from ..wire import Buffer

__all__ = [
    "ConnectedSocket",
    "connect_nowait",
    "connect_to",
    "listening_socket",
    "resets_when_closed",
]

RECEIVE_BYTES: Final = 65536
LINGER_NOT: Final = struct.pack("ii", 1, 0)
_IP: Final = (socket.AF_INET, socket.AF_INET6)


class ConnectedSocket(SocketStream):
    """A connected socket as a stream, which reads only on request.

    :ivar accepted_from: the address it was accepted from, as the system reported it, if it was
        accepted
    """

    def __init__(self, raw: socket.socket, accepted_from: Any = None) -> None:
        if raw.gettimeout() != 0.0:
            raw.setblocking(False)
        if raw.family in _IP:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted_from = accepted_from
        self._socket = raw
        self._reading = ResourceGuard("reading from")
        self._writing = ResourceGuard("writing to")
        self._is_closed = False
        self._is_ended = False
        self._waiting = 0

    @property
    def _raw_socket(self) -> socket.socket:
        return self._socket

    def fileno(self) -> int:
        """Return the file descriptor, or -1 once the socket is closed."""
        return self._socket.fileno()

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """Receive at least one and at most ``max_bytes`` bytes. Cancelling loses none.

        :raises ~anyio.EndOfStream: the peer has ended its direction
        :raises ~anyio.BrokenResourceError: the connection was reset
        :raises ~anyio.ClosedResourceError: it was closed here
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        with self._reading:
            await anyio.lowlevel.checkpoint()
            while (data := self.receive_nowait(max_bytes)) is None:
                await self.wait_readable()
        if not data:
            raise anyio.EndOfStream
        return data

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        """Return the bytes available now, ``b""`` at the end, or None if nothing has arrived yet.

        :raises ~anyio.BrokenResourceError: the connection was reset
        :raises ~anyio.ClosedResourceError: it was closed here
        """
        self._require_open()
        try:
            return self._socket.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._failure(error) from error

    async def wait_readable(self) -> None:
        """Wait until there are bytes, or the end of the stream.

        :raises ~anyio.ClosedResourceError: it was closed here
        """
        await self._wait(anyio.wait_readable)

    async def wait_writable(self) -> None:
        """Wait until something can be sent.

        :raises ~anyio.ClosedResourceError: it was closed here
        """
        await self._wait(anyio.wait_writable)

    async def send(self, item: bytes) -> None:
        """Send bytes; return once the system has accepted all of them.

        :raises ~anyio.BrokenResourceError: the connection was reset
        :raises ~anyio.ClosedResourceError: it was closed here, or our direction has ended
        """
        with self._writing:
            await anyio.lowlevel.checkpoint()
            rest = memoryview(item).cast("B")
            while rest := rest[self.send_nowait(rest) :]:
                await self.wait_writable()

    def send_nowait(self, item: Buffer) -> int:
        """Send as much as the system accepts at once; return the number of bytes sent.

        :raises ~anyio.BrokenResourceError: the connection was reset
        :raises ~anyio.ClosedResourceError: it was closed here, or our direction has ended
        """
        self._require_open()
        if self._is_ended:
            raise anyio.ClosedResourceError
        try:
            return self._socket.send(item)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._failure(error) from error

    async def send_eof(self) -> None:
        """End our direction; further calls do nothing.

        :raises ~anyio.BrokenResourceError: the connection was reset
        :raises ~anyio.ClosedResourceError: it was closed here
        """
        with self._writing:
            await anyio.lowlevel.checkpoint()
            self.send_eof_nowait()

    def send_eof_nowait(self) -> None:
        """End our direction without a checkpoint; see :meth:`send_eof`."""
        self._require_open()
        if self._is_ended:
            return
        self._is_ended = True
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._failure(error) from error

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        """Wait for readiness; if the socket is closed meanwhile, release it afterwards.

        Otherwise its descriptor could be reused before the event loop stops watching it.
        """
        self._waiting += 1
        try:
            await wait(self._socket)
        finally:
            self._waiting -= 1
            if self._is_closed and self._waiting == 0:
                self._socket.close()

    def _require_open(self) -> None:
        if self._is_closed:
            raise anyio.ClosedResourceError

    def _failure(self, error: OSError) -> Exception:
        if self._is_closed:
            return anyio.ClosedResourceError()
        return anyio.BrokenResourceError(str(error))

    async def aclose(self) -> None:
        """Close the connection, and wake the tasks that wait for it."""
        self.close()
        await anyio.lowlevel.checkpoint()

    def close(self, *, resets: bool = False) -> None:
        """Close the connection without a checkpoint; see :meth:`aclose`.

        :param resets: whether a TCP peer sees a reset instead of an orderly end
        """
        if self._is_closed:
            return
        if resets:
            resets_when_closed(self._socket)
        self._is_closed = True
        if self._waiting:
            anyio.notify_closing(self._socket)
        else:
            self._socket.close()


def resets_when_closed(raw: socket.socket) -> None:
    """Have the system reset a TCP connection when its socket is closed."""
    if raw.family in _IP:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)


async def connect_to(host: str, port: int, seconds: float = math.inf) -> ConnectedSocket:
    """Connect to a port of an address; see :func:`.connecting.connect_socket`."""
    return _connected(await connect_socket(host, port, seconds))


def connect_nowait(host: str, port: int) -> ConnectedSocket | None:
    """Connect to a port of an address of this machine; return None if that needs waiting.

    :raises OSError: the connection was refused, or failed otherwise
    """
    raw = connect_socket_nowait(host, port)
    return None if raw is None else _connected(raw)


def _connected(raw: socket.socket) -> ConnectedSocket:
    try:
        return ConnectedSocket(raw)
    except BaseException:
        raw.close()
        raise


def listening_socket(listener: Listener[ByteStream]) -> socket.socket | None:
    """Return the socket of one of AnyIO's own listeners, None for any other listener."""
    if not isinstance(listener, SocketListener) or not type(listener).__module__.startswith(
        "anyio."
    ):
        return None
    raw: socket.socket = listener.extra(SocketAttribute.raw_socket)
    return raw
