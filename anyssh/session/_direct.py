"""Writing to plain sockets directly, and reading from them with fewer task switches.

Small messages suffer from every task that they pass through. If no other output is waiting and the
stream is one of AnyIO's own sockets, any task can write to its kernel buffer; what does not fit
goes the ordinary way. The descriptor is a duplicate: event loops close theirs when a connection
breaks, after which the number could be reused.

On asyncio, a task that receives from such a stream has the loop watch it, is woken an iteration
after bytes arrive, and has the watch removed, every time. Here the loop keeps watching, and calls a
function with what arrives, while the task rests. Trio has no such callbacks; there, AnyIO's stream
tries to read before it waits, which is in vain when the peer has yet to answer, so here the order
is reversed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from logging import Logger, getLogger
from typing import Any, Final, Self

from anyio import EndOfStream
from anyio.abc import (
    AnyByteStream,
    AsyncBackend,
    ByteReceiveStream,
    SocketAttribute,
    SocketStream,
)

from ._backend import callback_context
from ._waiting import Notice

__all__ = [
    "DirectReader",
    "DirectWriter",
    "PatientReader",
    "RestingReader",
    "plain_socket",
    "receive_from",
]

logger: Logger = getLogger("anyssh")

PIECE_BYTES: Final = 64 * 1024
DISCARDED_PIECES: Final = 16

_ASYNCIO_STREAMS: Final = "anyio._backends._asyncio"
_TRIO_STREAMS: Final = "anyio._backends._trio"


def plain_socket(stream: AnyByteStream) -> socket.socket | None:
    """Return the socket of a stream, None if the stream is anything but a plain socket.

    A foreign class may do more than pass bytes on, even if it is a :class:`~anyio.abc.SocketStream`
    and exposes the underlying socket.
    """
    if not type(stream).__module__.startswith("anyio.") or not isinstance(stream, SocketStream):
        return None
    # For a single attribute, AnyIO computes all of them, with two system calls.
    found: socket.socket | None = getattr(stream, "_raw_socket", None)
    return stream.extra(SocketAttribute.raw_socket) if found is None else found


class DirectWriter:
    """A second way to write to a socket, while the first one is idle.

    :ivar error: the error that prevented writing, if any
    """

    __slots__ = ("_descriptor", "error")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.error: OSError | None = None

    @classmethod
    def open(cls, stream: AnyByteStream) -> Self | None:
        """Return a writer for a stream, None if it is anything but a plain socket."""
        if os.name != "posix":
            return None
        try:
            raw = plain_socket(stream)
            return None if raw is None else cls(os.dup(raw.fileno()))
        except (OSError, AttributeError):  # raised by closed sockets
            return None

    def write(self, data: bytes) -> int:
        """Write what the kernel accepts at once; return how many bytes.

        Errors count as 0 bytes and are stored in :attr:`error`: the ordinary way will find the
        socket unusable as well.
        """
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.error = error
            return 0

    def send_eof(self) -> None:
        """Close our side of the connection; what the peer sends last is still received."""
        # With an explicit family and type Python does not query them, and they do not matter here.
        own = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, self._descriptor)
        try:
            own.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.error = error
        finally:
            own.detach()

    def discard_input(self) -> None:
        """Read and discard what has arrived.

        Closing a socket with unread bytes resets the connection, and the peer may lose what it has
        not read of our final output.
        """
        try:
            for _ in range(DISCARDED_PIECES):
                if len(os.read(self._descriptor, PIECE_BYTES)) < PIECE_BYTES:
                    return
        except OSError:
            return  # there is nothing more, or the connection is broken

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class DirectReader:
    """A second way to read from one of AnyIO's asyncio streams, while the first one rests.

    It replaces the stream's protocol at its transport, passes its callbacks on, and keeps the bytes
    for us. A stream exposes neither its transport nor whether it has buffered bytes, so this uses
    AnyIO's internals. A stream that does not look as expected is read in the ordinary way.

    :param stream: a stream that :meth:`open` supports
    :ivar is_at_work: whether it is started
    """

    __slots__ = (
        "_context",
        "_ended",
        "_loop",
        "_protocol",
        "_received",
        "_transport",
        "is_at_work",
    )

    def __init__(self, stream: Any) -> None:
        import asyncio  # already imported wherever this runs

        self._loop = asyncio.get_running_loop()
        self._transport = stream._transport
        self._protocol = stream._protocol
        self._received: Callable[[bytes], None] = _unwanted
        self._ended: Callable[[Exception | None], None] = _unwanted
        self._context = callback_context()
        self.is_at_work: bool = False

    @classmethod
    def open(cls, stream: AnyByteStream) -> Self | None:
        """Return a reader for a stream, None if the stream is not supported."""
        if type(stream).__module__ != _ASYNCIO_STREAMS:
            return None
        protocol = getattr(stream, "_protocol", None)
        is_known = hasattr(protocol, "read_queue") and hasattr(protocol, "is_at_eof")
        return cls(stream) if is_known and hasattr(stream, "_transport") else None

    def start(
        self, received: Callable[[bytes], None], ended: Callable[[Exception | None], None]
    ) -> bool:
        """Let the event loop deliver what arrives; return whether that is possible.

        It is not while the stream itself has bytes or its end to deliver.

        :param received: called with bytes, outside of any task, in a context where AnyIO knows its
            backend
        :param ended: called when there are no more, with the error if the connection broke
        """
        protocol, transport = self._protocol, self._transport
        if protocol.read_queue or protocol.is_at_eof or transport.is_closing():
            return False
        self._received, self._ended = received, ended
        self.is_at_work = True
        transport.set_protocol(self)
        transport.resume_reading()
        return True

    def stop(self) -> None:
        """Leave what arrives from now on to the stream; further calls do nothing."""
        if not self.is_at_work:
            return
        self.is_at_work = False
        transport = self._transport
        if not transport.is_closing():
            transport.pause_reading()
        transport.set_protocol(self._protocol)
        self._received = self._ended = _unwanted

    def call_later(self, iterations: int, function: Callable[[], None]) -> None:
        """Call a function after some iterations of the loop, and after the tasks woken by now."""
        if iterations > 1:
            self._loop.call_soon(self.call_later, iterations - 1, function)
        else:
            self._loop.call_soon(function)

    # Called by the transport

    def data_received(self, data: bytes) -> None:
        """Deliver received bytes."""
        self._context.run(self._received, data)

    def eof_received(self) -> bool | None:
        """Pass on that no more bytes come."""
        keeps_open: bool | None = self._protocol.eof_received()
        self._ended(None)
        return keeps_open

    def connection_lost(self, error: Exception | None) -> None:
        """Pass on that the connection is gone."""
        self._protocol.connection_lost(error)
        self._ended(error)

    def pause_writing(self) -> None:
        """Pass on that the transport accepts no more for now."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the transport accepts more."""
        self._protocol.resume_writing()


def _unwanted(what: object) -> None:
    """Take the place of a callback that is no longer wanted."""


class RestingReader:
    """Reads in a task that rests while the event loop has arriving bytes handled.

    Callbacks of the event loop have no caller to raise exceptions to. Such an exception is a bug of
    ours, and is raised in the task.

    :param direct: reads the stream
    :param take: handles bytes outside of any task; returns whether it has. If not, they are left to
        the task
    :param broken: called with the error of a connection that breaks
    """

    __slots__ = (
        "_broken",
        "_direct",
        "_has_ended",
        "_is_closed",
        "_mistake",
        "_take",
        "_untaken",
        "_wanted",
    )

    def __init__(
        self,
        direct: DirectReader,
        take: Callable[[bytes], bool],
        broken: Callable[[Exception], None],
    ) -> None:
        self._direct = direct
        self._take = take
        self._broken = broken
        self._wanted = Notice()
        self._untaken: bytes | None = None
        self._has_ended = False
        self._mistake: Exception | None = None
        self._is_closed = False

    @classmethod
    def open(
        cls,
        stream: AnyByteStream,
        take: Callable[[bytes], bool],
        broken: Callable[[Exception], None],
    ) -> Self | None:
        """Return a reader for a stream, None if the stream is not supported."""
        direct = DirectReader.open(stream)
        return None if direct is None else cls(direct, take, broken)

    def start(self) -> bool:
        """Let the event loop handle what arrives; return whether to :meth:`receive` here."""
        return (
            self._direct.is_at_work
            or self._has_ended
            or self._untaken is not None
            or self._mistake is not None
            or self._direct.start(self._received, self._ended)
        )

    async def receive(self, backend: type[AsyncBackend]) -> bytes | None:
        """Rest until a task is needed; return bytes if they need it, None if something else does.

        :param backend: the AnyIO backend of the running event loop
        :raises ~anyio.EndOfStream: there are no more bytes
        :raises Exception: a callback of the event loop failed
        """
        try:
            while self._direct.is_at_work:
                await self._wanted.wait(backend)
        finally:
            self._direct.stop()
        mistake, self._mistake = self._mistake, None
        if mistake is not None:
            raise mistake
        data, self._untaken = self._untaken, None
        if self._has_ended and data is None:
            raise EndOfStream
        return data

    def end(self) -> bool:
        """End the task if it rests, which is cheaper than cancelling it; return whether it did."""
        if not self._direct.is_at_work:
            return False
        self._has_ended = True
        self.wake()
        return True

    def wake(self) -> None:
        """Wake the task."""
        self._direct.stop()
        self._wanted.notify()

    def call_later(self, iterations: int, act: Callable[[], object]) -> None:
        """Call a function after some iterations of the loop, and after the tasks woken by now."""
        self._direct.call_later(iterations, partial(self._call, act))

    def close(self) -> None:
        """Leave what arrives from now on to the stream."""
        self._is_closed = True
        self._direct.stop()

    # Called by the event loop

    def _received(self, data: bytes) -> None:
        try:
            if self._take(data):
                return
        except Exception as mistake:
            self._raise_in_task(mistake)
        else:
            self._untaken = data
            self.wake()

    def _ended(self, error: Exception | None) -> None:
        if error is not None:
            self._broken(error)
        self._has_ended = True
        self.wake()

    def _call(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as mistake:
            self._raise_in_task(mistake)

    def _raise_in_task(self, mistake: Exception) -> None:
        if self._is_closed:  # the link has ended, and no task reads any more
            logger.error("a callback failed after its session had ended", exc_info=mistake)
        self._mistake = mistake
        self.wake()


class PatientReader:
    """A second way to read from one of AnyIO's Trio streams: wait first, then read the socket.

    These streams buffer nothing, so either way may be used at any time.

    :param backend: the AnyIO backend of the running event loop
    """

    __slots__ = ("_socket", "_wait_readable")

    def __init__(self, raw: socket.socket, backend: type[AsyncBackend]) -> None:
        self._socket = raw
        self._wait_readable = backend.wait_readable

    @classmethod
    def open(cls, stream: AnyByteStream, backend: type[AsyncBackend]) -> Self | None:
        """Return a reader for a stream, None if the stream is not supported."""
        raw = plain_socket(stream) if type(stream).__module__ == _TRIO_STREAMS else None
        return None if raw is None else cls(raw, backend)

    async def receive(self, max_bytes: int) -> bytes:
        """Receive at least one and at most ``max_bytes`` bytes. Cancelling loses none.

        :raises ~anyio.EndOfStream: the peer has ended its direction
        :raises ~anyio.ClosedResourceError: the stream was closed
        :raises OSError: the connection is broken
        """
        while True:
            await self._wait_readable(self._socket)
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                continue  # a spurious wake-up
            if not data:
                raise EndOfStream
            return data


def receive_from(
    stream: AnyByteStream, backend: type[AsyncBackend], max_bytes: int
) -> Callable[[], Awaitable[bytes]]:
    """Return the best function for a task to receive from a stream.

    :param max_bytes: the most to receive at once, if the stream accepts a limit
    """
    source = PatientReader.open(stream, backend) or stream
    if isinstance(source, ByteReceiveStream | PatientReader):
        return partial(source.receive, max_bytes)
    return source.receive
