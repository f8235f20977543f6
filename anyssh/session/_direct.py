"""Writing to a plain socket at once, without a turn of the event loop.

Small answers suffer from each task that they have to pass. When nothing else waits to be written
and the stream is one of AnyIO's own sockets, its kernel buffer can be filled from any task. What
does not fit goes the ordinary way. The descriptor is a duplicate: event loops close theirs when a
connection breaks, and the number could then belong to something else.
"""

from __future__ import annotations

import os
import socket
from typing import Self

from anyio.abc import AnyByteStream, SocketAttribute, SocketStream

__all__ = ["DirectWriter"]


class DirectWriter:
    """A second way to write to a socket, for as long as the first one is idle."""

    __slots__ = ("_descriptor", "error")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.error: OSError | None = None

    @classmethod
    def open(cls, stream: AnyByteStream) -> Self | None:
        """Return a writer for a stream, None if it is anything but a plain socket.

        A class of somebody else's may do more than pass bytes on, even if it is a
        :class:`~anyio.abc.SocketStream` and shows the socket below.
        """
        if os.name != "posix" or not isinstance(stream, SocketStream):
            return None
        if not type(stream).__module__.startswith("anyio."):
            return None
        try:
            return cls(os.dup(stream.extra(SocketAttribute.raw_socket).fileno()))
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

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)
