"""Writing to a plain socket at once, and reading from it where the event loop tells of bytes.

Small messages suffer from each task that they have to pass. When nothing else waits to be written
and the stream is one of AnyIO's own sockets, its kernel buffer can be filled from any task. What
does not fit goes the ordinary way. The descriptor is a duplicate: event loops close theirs when a
connection breaks, and the number could then belong to something else.

On asyncio's loops, a task that waits for such a stream has it watched by the loop, is woken a turn
after there are bytes, and has the watching ended, each time. There the loop may as well go on to
watch it, and hand over what comes by calling a function, while the task rests. On Trio, whose loop
calls nobody, such a stream tries to read before it waits; where the peer has to answer first, that
is in vain.
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
    """Return the socket below a stream, None if the stream is anything but a plain socket.

    A class of somebody else's may do more than pass bytes on, even if it is a
    :class:`~anyio.abc.SocketStream` and shows the socket below.
    """
    if not type(stream).__module__.startswith("anyio.") or not isinstance(stream, SocketStream):
        return None
    # To tell one attribute, AnyIO makes all of them, with two system calls.
    found: socket.socket | None = getattr(stream, "_raw_socket", None)
    return stream.extra(SocketAttribute.raw_socket) if found is None else found


class DirectWriter:
    """A second way to write to a socket, for as long as the first one is idle.

    :ivar error: what kept it from writing
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
        except (OSError, AttributeError):  # what sockets raise that are closed already
            return None

    def write(self, data: bytes) -> int:
        """Write what the kernel takes at once; return how many bytes it was.

        Errors count as nothing taken, and :attr:`error` tells what it was: the ordinary way will
        find the socket unusable too.
        """
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.error = error
            return 0

    def send_eof(self) -> None:
        """Close our side of the connection; the peer's last words still come through."""
        # The kind is only asked for where it is not told, and nothing depends on it here.
        own = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, self._descriptor)
        try:
            own.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.error = error
        finally:
            own.detach()

    def discard_input(self) -> None:
        """Read what has come and forget it.

        A socket that is closed with bytes unread resets its connection, and what the peer has not
        read of our last words may be lost with it.
        """
        try:
            for _ in range(DISCARDED_PIECES):
                if len(os.read(self._descriptor, PIECE_BYTES)) < PIECE_BYTES:
                    return
        except OSError:
            return  # there is nothing more, or the connection is broken

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


class DirectReader:
    """A second way to read from a stream of AnyIO's on asyncio, for as long as the first one rests.

    It takes the place of the stream's protocol at its transport, passes on what it is told, and
    keeps the bytes for us. Nothing public leads from a stream to its transport, or tells whether it
    holds bytes that it has not handed over; so this looks into it. One that looks different than
    expected is read in the ordinary way.

    :param stream: one of those that :meth:`open` knows
    :ivar is_at_work: whether it was started, and not stopped since
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
        import asyncio  # where this is used, it was before

        self._loop = asyncio.get_running_loop()
        self._transport = stream._transport
        self._protocol = stream._protocol
        self._received: Callable[[bytes], None] = _unwanted
        self._ended: Callable[[Exception | None], None] = _unwanted
        self._context = callback_context()
        self.is_at_work: bool = False

    @classmethod
    def open(cls, stream: AnyByteStream) -> Self | None:
        """Return a reader for a stream, None if it cannot be read in this way."""
        if type(stream).__module__ != _ASYNCIO_STREAMS:
            return None
        protocol = getattr(stream, "_protocol", None)
        is_known = hasattr(protocol, "read_queue") and hasattr(protocol, "is_at_eof")
        return cls(stream) if is_known and hasattr(stream, "_transport") else None

    def start(
        self, received: Callable[[bytes], None], ended: Callable[[Exception | None], None]
    ) -> bool:
        """Have what comes handed over by the event loop; return whether it is so.

        It is not while the stream itself still has something to tell.

        :param received: called with bytes, outside of any task, but where AnyIO knows its library
        :param ended: called when no more come; with the error, if the connection broke
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
        """Leave what comes from now on to the stream; does nothing the second time."""
        if not self.is_at_work:
            return
        self.is_at_work = False
        transport = self._transport
        if not transport.is_closing():
            transport.pause_reading()
        transport.set_protocol(self._protocol)
        self._received = self._ended = _unwanted

    def call_later(self, turns: int, function: Callable[[], None]) -> None:
        """Have a function called after so many turns of the loop, behind those woken by now."""
        if turns > 1:
            self._loop.call_soon(self.call_later, turns - 1, function)
        else:
            self._loop.call_soon(function)

    # What the transport tells

    def data_received(self, data: bytes) -> None:
        """Hand over what has come."""
        self._context.run(self._received, data)

    def eof_received(self) -> bool | None:
        """Pass on that no more comes."""
        keeps_open: bool | None = self._protocol.eof_received()
        self._ended(None)
        return keeps_open

    def connection_lost(self, error: Exception | None) -> None:
        """Pass on that the connection is gone."""
        self._protocol.connection_lost(error)
        self._ended(error)

    def pause_writing(self) -> None:
        """Pass on that the transport takes no more for now."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the transport takes more."""
        self._protocol.resume_writing()


def _unwanted(what: object) -> None:
    """Stand in for whoever is no longer told."""


class RestingReader:
    """Reads by a task that rests while the event loop has what comes handled.

    What is called by the event loop has nobody to raise its exceptions to. They are mistakes of
    ours, and raised in the task.

    :param direct: reads the stream
    :param take: handles bytes, outside of any task; returns whether it has. If not, they wait for
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
        """Return a reader for a stream, None if it cannot be read in this way."""
        direct = DirectReader.open(stream)
        return None if direct is None else cls(direct, take, broken)

    def start(self) -> bool:
        """Have the event loop handle what comes; return whether to :meth:`receive` here."""
        return (
            self._direct.is_at_work
            or self._has_ended
            or self._untaken is not None
            or self._mistake is not None
            or self._direct.start(self._received, self._ended)
        )

    async def receive(self, backend: type[AsyncBackend]) -> bytes | None:
        """Rest until something takes a task; return bytes if these do, None if something else.

        :param backend: what AnyIO calls on the event loop that runs
        :raises ~anyio.EndOfStream: no more come
        :raises Exception: a mistake was made outside of tasks
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
        """Have the task end if it rests, which takes less than to cancel it; return whether."""
        if not self._direct.is_at_work:
            return False
        self._has_ended = True
        self.wake()
        return True

    def wake(self) -> None:
        """Have the task go on."""
        self._direct.stop()
        self._wanted.notify()

    def call_later(self, turns: int, act: Callable[[], object]) -> None:
        """Have something done after so many turns of the loop, behind those woken by now."""
        self._direct.call_later(turns, partial(self._call, act))

    def close(self) -> None:
        """Leave what comes from now on to the stream."""
        self._is_closed = True
        self._direct.stop()

    # What the event loop calls

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
        if self._is_closed:  # the link has ended, and nobody reads any more
            logger.error("a session that has ended made a mistake", exc_info=mistake)
        self._mistake = mistake
        self.wake()


class PatientReader:
    """A second way to read from a stream of AnyIO's on Trio: it waits, then reads its socket.

    These streams hold no bytes back, so either way may be taken at any time.

    :param backend: of the event loop that runs
    """

    __slots__ = ("_socket", "_wait_readable")

    def __init__(self, raw: socket.socket, backend: type[AsyncBackend]) -> None:
        self._socket = raw
        self._wait_readable = backend.wait_readable

    @classmethod
    def open(cls, stream: AnyByteStream, backend: type[AsyncBackend]) -> Self | None:
        """Return a reader for a stream, None if it cannot be read in this way."""
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
                continue  # it was a mistake of the system's
            if not data:
                raise EndOfStream
            return data


def receive_from(
    stream: AnyByteStream, backend: type[AsyncBackend], max_bytes: int
) -> Callable[[], Awaitable[bytes]]:
    """Return what receives from a stream, in the best way that a task has there.

    :param max_bytes: to receive at once, where the stream can be told
    """
    source = PatientReader.open(stream, backend) or stream
    if isinstance(source, ByteReceiveStream | PatientReader):
        return partial(source.receive, max_bytes)
    return source.receive
