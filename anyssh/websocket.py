"""WebSockets (RFC 6455) as byte streams, to run sessions through web proxies and from browsers.

Bytes travel as binary messages, whose boundaries mean nothing. The protocol is implemented by
wsproto, from the extra ``ws``. There are no background tasks: :meth:`WebSocketStream.receive`
answers pings and the peer's close as it encounters them, but never within a message being sent.

A truncated frame cannot be repaired, so cancelling ``send`` may leave the stream broken; a session
never cancels its own. Control frames are sent shielded from cancellation, for at most a second.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from logging import Logger, getLogger
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
from anyio import ConnectionFailed, ResourceGuard
from anyio.abc import ByteStream, ByteStreamConnectable, Listener, TaskGroup

try:
    from wsproto import ConnectionType, WSConnection
    from wsproto.connection import ConnectionState
    from wsproto.events import (
        AcceptConnection,
        BytesMessage,
        CloseConnection,
        Event,
        Ping,
        RejectConnection,
        Request,
        TextMessage,
    )
    from wsproto.frame_protocol import CloseReason
    from wsproto.utilities import ProtocolError
except ImportError as _missing:
    raise ImportError("anyssh.websocket needs wsproto: pip install 'anyssh[ws]'") from _missing

from anyssh import SSHError

from .wire import displayable

__all__ = [
    "WebSocketConnectable",
    "WebSocketError",
    "WebSocketListener",
    "WebSocketRequest",
    "WebSocketStream",
    "accept_websocket",
    "connect_websocket",
]

HEAD_BYTES: Final = 16 * 1024
MESSAGE_BYTES: Final = 64 * 1024
"""Longer sends become several messages, so that neither side needs a large buffer."""
DEFAULT_RECEIVE_BYTES: Final = 65536
RECEIVE_BYTES: Final = 256 * 1024
EVENTS_PER_TURN: Final = 256
"""Frames can be tiny, and a peer that sends only such must not monopolise the event loop."""
MAX_MESSAGE_SIZE: Final = 16 * 1024 * 1024
HANDSHAKE_TIME: Final = 10.0
MAX_HANDSHAKES: Final = 100
CONTROL_TIME: Final = 1.0
CLOSE_TIME: Final = 0.5

CLEAN_CODES: Final = frozenset(
    {CloseReason.NORMAL_CLOSURE, CloseReason.GOING_AWAY, CloseReason.NO_STATUS_RCVD}
)

logger: Logger = getLogger("anyssh")


class WebSocketError(SSHError):
    """The peer refused the WebSocket, violated the protocol, or closed it for a reason.

    :ivar code: the HTTP status of a refusal, or the code of a close (RFC 6455 section 7.4), if any
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(displayable(message))  # much of it may be from the peer
        self.code = code


@dataclass(frozen=True, slots=True)
class WebSocketRequest:
    """A client's opening handshake.

    :ivar target: path and query
    :ivar host: the client's name for this server
    :ivar subprotocols: the subprotocols it offers, in order of preference
    :ivar headers: the other headers, by lower-case name; ``origin`` is the site of a browser's page
    """

    target: str
    host: str
    subprotocols: tuple[str, ...]
    headers: Mapping[str, str] = field(repr=False)


MayConnect = Callable[[WebSocketRequest], Awaitable[bool]]


class _Phase(Enum):
    """The state of a WebSocket."""

    OPEN = auto()
    ENDED = auto()
    """The peer has closed it."""
    BROKEN = auto()
    CLOSED = auto()
    """We have closed it."""


class WebSocketStream(ByteStream):
    """A WebSocket as a byte stream, from :func:`connect_websocket` or :func:`accept_websocket`.

    It cannot end one direction alone: :meth:`send_eof` raises :exc:`NotImplementedError`.
    """

    def __init__(
        self,
        stream: ByteStream,
        connection: WSConnection,
        subprotocol: str | None,
        max_message_size: int,
    ) -> None:
        self._stream = stream
        self._connection = connection
        self._subprotocol = subprotocol
        self._max_message_size = max_message_size
        self._phase = _Phase.OPEN
        self._error: Exception | None = None
        self._received = bytearray()
        self._message_size = 0
        self._has_backlog = False
        self._reply = b""
        self._writing = anyio.Lock()
        self._finished = anyio.Event()
        self._receiver_left = anyio.Event()
        self._receive_guard = ResourceGuard("reading from")
        self._send_guard = ResourceGuard("writing to")
        self._handle_events()  # received right after the handshake

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol agreed on, if any."""
        return self._subprotocol

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the underlying stream."""
        return self._stream.extra_attributes

    # Receiving

    async def receive(self, max_bytes: int = DEFAULT_RECEIVE_BYTES) -> bytes:
        """Receive at least one and at most ``max_bytes`` bytes. Cancelling loses none.

        :param max_bytes: the most bytes to return
        :raises ~anyio.EndOfStream: the peer has closed the WebSocket in good order
        :raises ~anyio.ClosedResourceError: it was closed here
        :raises ~anyio.BrokenResourceError: the underlying stream broke or ended, or the peer
            violated the protocol or closed for another reason; a :exc:`WebSocketError` or the
            stream's own error is the cause
        :raises ~anyio.BusyResourceError: another task is receiving
        :raises ValueError: ``max_bytes`` is less than 1
        """
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        with self._receive_guard:
            await anyio.lowlevel.checkpoint()
            try:
                while not self._received:
                    self._require_readable()
                    await self._receive_more()
                self._require_not_closed()
            finally:
                if self._phase is _Phase.CLOSED:
                    self._receiver_left.set()  # aclose() receives what is left
            data = bytes(self._received[:max_bytes])
            del self._received[:max_bytes]
            return data

    async def _receive_more(self) -> None:
        """Process and answer what arrives next; the result is in our state."""
        if self._has_backlog:
            await anyio.lowlevel.checkpoint()
        else:
            await self._feed()
        if self._phase is _Phase.OPEN:
            self._handle_events()
            await self._send_reply()

    async def _feed(self) -> None:
        try:
            data = await self._stream.receive(RECEIVE_BYTES)
        except anyio.EndOfStream:
            self._break(WebSocketError("the stream ended before the WebSocket was closed"))
            return
        except anyio.get_cancelled_exc_class():
            raise
        except Exception as error:  # whatever it raises, the stream is gone
            self._break(error)
            return
        if self._phase in (_Phase.OPEN, _Phase.CLOSED):  # aclose() looks for the answer in it
            self._connection.receive_data(data)

    def _handle_events(self) -> None:
        self._has_backlog = False
        for number, event in enumerate(self._connection.events(), 1):
            match event:
                case BytesMessage():
                    self._take(event)
                case TextMessage():
                    self._violated(CloseReason.UNSUPPORTED_DATA, "text where bytes are expected")
                case Ping():
                    # Answering the latest is enough (RFC 6455 section 5.5.3).
                    self._reply = self._connection.send(event.response())
                case CloseConnection():
                    self._peer_closed(event)
            if self._phase is not _Phase.OPEN:
                return
            if number == EVENTS_PER_TURN:
                self._has_backlog = True
                return

    def _take(self, event: BytesMessage) -> None:
        self._message_size += len(event.data)
        if self._message_size > self._max_message_size:
            self._violated(CloseReason.MESSAGE_TOO_BIG, "the message is too big")
            return
        if event.message_finished:
            self._message_size = 0
        self._received += event.data

    def _violated(self, code: CloseReason, reason: str) -> None:
        self._reply = self._connection.send(CloseConnection(code, reason))
        self._break(WebSocketError(f"the peer violated the WebSocket protocol: {reason}", code))

    def _peer_closed(self, event: CloseConnection) -> None:
        if self._connection.state is ConnectionState.OPEN:
            # This is how wsproto reports malformed frames.
            self._violated(CloseReason(event.code), event.reason or "a malformed frame")
            return
        if self._connection.state is ConnectionState.REMOTE_CLOSING:
            self._reply = self._connection.send(event.response())
        if event.code in CLEAN_CODES:
            self._phase = _Phase.ENDED
            self._finished.set()
        else:
            words = f": {event.reason}" if event.reason else ""
            self._break(
                WebSocketError(f"the peer closed the WebSocket, {event.code}{words}", event.code)
            )

    def _break(self, error: Exception) -> None:
        if self._phase is _Phase.OPEN:
            self._phase = _Phase.BROKEN
            self._error = error
        self._finished.set()

    # Sending

    async def send(self, item: bytes) -> None:
        """Send bytes; return once the underlying stream has accepted them.

        If the call is cancelled while the underlying stream is accepting bytes, the WebSocket is
        broken.

        :param item: the bytes
        :raises ~anyio.ClosedResourceError: it was closed here
        :raises ~anyio.BrokenResourceError: the peer has closed it, or it broke; see :meth:`receive`
        :raises ~anyio.BusyResourceError: another task is sending
        """
        with self._send_guard:
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._require_writable()
            rest = memoryview(item).cast("B")
            while rest:
                message = BytesMessage(bytes(rest[:MESSAGE_BYTES]))
                async with self._writing:
                    self._require_writable()
                    await self._write(self._connection.send(message))
                    await self._write_reply()
                    self._require_writable()
                rest = rest[MESSAGE_BYTES:]
            await anyio.lowlevel.cancel_shielded_checkpoint()

    async def _send_reply(self) -> None:
        """Answer a ping or a close, unless a task is sending, which will do it."""
        if not self._reply or self._writing.locked():
            return
        with anyio.move_on_after(CONTROL_TIME, shield=True):
            async with self._writing:
                await self._write_reply()

    async def _write_reply(self) -> None:
        while self._reply:
            reply, self._reply = self._reply, b""
            await self._write(reply)

    async def _write(self, data: bytes) -> None:
        """Write complete frames; if that fails, nothing may follow."""
        try:
            await self._stream.send(data)
        except anyio.get_cancelled_exc_class():
            self._break(WebSocketError("a message was cut short, because sending was cancelled"))
            raise
        except Exception as error:  # whatever it raises, the stream is gone
            self._break(error)

    async def send_eof(self) -> None:
        """Raise NotImplementedError: WebSockets close in both directions at once."""
        raise NotImplementedError("a WebSocket cannot end one direction alone; use aclose()")

    # The end

    async def aclose(self) -> None:
        """Close the WebSocket and the underlying stream; further calls do nothing.

        The peer has half a second to close it too, as it might otherwise miss the last bytes.
        """
        phase, self._phase = self._phase, _Phase.CLOSED
        if phase is _Phase.CLOSED:
            await anyio.lowlevel.checkpoint()
            return
        try:
            if phase is _Phase.OPEN and not self._writing.locked():
                with anyio.move_on_after(CLOSE_TIME):
                    await self._close_handshake()
        finally:
            self._received.clear()
            await self._stream.aclose()

    async def _close_handshake(self) -> None:
        async with self._writing:
            await self._write(self._connection.send(CloseConnection(CloseReason.NORMAL_CLOSURE)))
        while not self._finished.is_set():
            try:
                with self._receive_guard:
                    await self._discard_until_finished()
                return
            except anyio.BusyResourceError:  # another task receives what comes next
                await self._receiver_left.wait()

    async def _discard_until_finished(self) -> None:
        while not self._finished.is_set():
            try:
                if await self._is_closed_by_peer():
                    return
                self._connection.receive_data(await self._stream.receive(RECEIVE_BYTES))
            except Exception:  # whatever it raises, the stream is gone
                return

    async def _is_closed_by_peer(self) -> bool:
        """Discard what has arrived; return whether the peer's close is among it."""
        for number, event in enumerate(self._connection.events(), 1):
            if isinstance(event, CloseConnection):
                return True
            if number % EVENTS_PER_TURN == 0:
                await anyio.lowlevel.checkpoint()
        return False

    def _require_not_closed(self) -> None:
        if self._phase is _Phase.CLOSED:
            raise anyio.ClosedResourceError

    def _require_readable(self) -> None:
        if self._phase is _Phase.ENDED:
            raise anyio.EndOfStream
        self._require_not_broken()

    def _require_writable(self) -> None:
        if self._phase is _Phase.ENDED:
            raise anyio.BrokenResourceError("the peer has closed the WebSocket")
        self._require_not_broken()

    def _require_not_broken(self) -> None:
        self._require_not_closed()
        if self._phase is _Phase.BROKEN:
            raise anyio.BrokenResourceError(str(self._error)) from self._error


# Clients


@dataclass(frozen=True, kw_only=True)
class WebSocketConnectable(ByteStreamConnectable):
    """A connectable for a WebSocket, for sessions that connect their streams themselves.

    :ivar url: ``ws://`` or ``wss://`` with host, port, path and query
    :ivar subprotocols: the subprotocols to offer, in order of preference
    :ivar headers: headers to add to the request, for example a token for a relay
    :ivar ssl_context: for ``wss``; by default the system's certificate authorities are trusted
    :ivar max_message_size: the most bytes in one message from the server
    :ivar handshake_time: seconds for the server to answer
    :raises ValueError: ``url`` is not a WebSocket URL
    """

    url: str
    subprotocols: Sequence[str] = ()
    headers: Sequence[tuple[str, str]] = field(default=(), repr=False)
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False)
    max_message_size: int = MAX_MESSAGE_SIZE
    handshake_time: float = HANDSHAKE_TIME

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.fragment:
            raise ValueError(f"{self.url!r} is not of the form ws://host/path or wss://host/path")
        if not (self.url.isascii() and self.url.isprintable()) or " " in self.url:
            raise ValueError(f"{self.url!r} contains characters that must be percent-encoded")
        if parts.username is not None:
            raise ValueError("a WebSocket's URL has no user name; use headers")
        self._port()  # raises if it is no number

    def _port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "wss" else 80)

    async def connect(self) -> WebSocketStream:
        """Connect; see :func:`connect_websocket`."""
        host = urlsplit(self.url).hostname
        try:
            stream = await self._open()
        except ssl.SSLError:
            raise
        except OSError as error:
            raise ConnectionFailed(f"error connecting to {host}:{self._port()}: {error}") from error
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise ConnectionFailed(f"{host}:{self._port()} does not speak TLS") from error
        return await _handshake(stream, self.handshake_time, self._ask)

    async def _open(self) -> ByteStream:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        if parts.scheme == "ws":
            return await anyio.connect_tcp(host, self._port())
        return await anyio.connect_tcp(
            host,
            self._port(),
            tls=True,
            ssl_context=self.ssl_context,
            tls_standard_compatible=False,
        )

    async def _ask(self, stream: ByteStream) -> WebSocketStream:
        parts = urlsplit(self.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = WSConnection(ConnectionType.CLIENT)
        request = Request(
            host=parts.netloc,
            target=target,
            subprotocols=list(self.subprotocols),
            extra_headers=[(name.encode(), value.encode()) for name, value in self.headers],
        )
        await _send_head(stream, connection.send(request))
        match await _read_head(stream, connection, b"HTTP/1."):
            case AcceptConnection(subprotocol=subprotocol):
                pass
            case RejectConnection(status_code=status):
                raise WebSocketError(f"the server refused, HTTP status {status}", status)
            case event:
                raise WebSocketError(f"expected an answer to the handshake, got {event!r}")
        return WebSocketStream(stream, connection, subprotocol, self.max_message_size)


async def connect_websocket(url: str, **options: Any) -> WebSocketStream:
    """Connect to a WebSocket.

    :param url: ``ws://`` or ``wss://`` with host, port, path and query
    :param options: the fields of :class:`WebSocketConnectable`
    :raises WebSocketError: the server refused, or does not speak WebSocket
    :raises ValueError: ``url`` is not a WebSocket URL
    :raises ~anyio.ConnectionFailed: the server is not reachable, or does not speak TLS with ``wss``
    :raises ~ssl.SSLError: TLS failed, for example because the certificate is not trusted
    """
    return await WebSocketConnectable(url=url, **options).connect()


# Servers


async def accept_websocket(
    stream: ByteStream,
    *,
    subprotocols: Sequence[str] = (),
    may_connect: MayConnect | None = None,
    max_message_size: int = MAX_MESSAGE_SIZE,
    handshake_time: float = HANDSHAKE_TIME,
) -> WebSocketStream:
    """Answer a client's handshake on a stream, which is closed if that fails.

    :param stream: a stream on which an HTTP request arrives
    :param subprotocols: the subprotocols we support; the first one that the client offers is chosen
    :param may_connect: decides about the request, for example by its origin and target; by default
        everyone may connect
    :param max_message_size: the most bytes in one message from the client
    :param handshake_time: seconds for the request to arrive and be decided about
    :raises WebSocketError: the request is not a valid opening handshake, or was refused
    :raises Exception: whatever ``may_connect`` raises
    """

    async def answer(stream: ByteStream) -> WebSocketStream:
        connection = WSConnection(ConnectionType.SERVER)
        try:
            event = await _read_head(stream, connection, b"GET ")
        except _Unacceptable as error:
            await _send_head(stream, error.answer)
            raise
        if not isinstance(event, Request):
            raise WebSocketError(f"expected a WebSocket request, got {event!r}")
        if may_connect is not None and not await may_connect(_described(event)):
            await _send_head(stream, connection.send(RejectConnection(status_code=403)))
            raise WebSocketError(f"the WebSocket {event.target!r} was refused", 403)
        subprotocol = next((name for name in subprotocols if name in event.subprotocols), None)
        await _send_head(stream, connection.send(AcceptConnection(subprotocol=subprotocol)))
        return WebSocketStream(stream, connection, subprotocol, max_message_size)

    return await _handshake(stream, handshake_time, answer)


def _described(request: Request) -> WebSocketRequest:
    headers = {
        name.decode("latin-1").lower(): value.decode("latin-1")
        for name, value in request.extra_headers
    }
    return WebSocketRequest(request.target, request.host, tuple(request.subprotocols), headers)


class WebSocketListener(Listener[WebSocketStream]):
    """Accepts WebSockets on another listener.

    A connection that does not become a WebSocket is closed and logged, without affecting the
    others. For ``wss``, wrap a :class:`~anyio.streams.tls.TLSListener`.

    :param listener: for example from :func:`anyio.create_tcp_listener`
    :param max_handshakes: the most handshakes at the same time; beyond that, the oldest is given up
        for each new one, so that whoever only connects locks nobody out. The limits of a server
        only count completed ones
    :param options: the options of :func:`accept_websocket`
    :raises ValueError: ``max_handshakes`` is less than 1
    """

    def __init__(
        self, listener: Listener[Any], *, max_handshakes: int = MAX_HANDSHAKES, **options: Any
    ) -> None:
        if max_handshakes < 1:
            raise ValueError(f"max_handshakes must be at least 1, not {max_handshakes}")
        self._listener = listener
        self._max_handshakes = max_handshakes
        self._handshakes: dict[anyio.CancelScope, None] = {}
        self._options = options

    async def serve(
        self,
        handler: Callable[[WebSocketStream], Any],
        task_group: TaskGroup | None = None,
    ) -> None:
        """Run ``handler`` in a task for each WebSocket, until cancelled.

        :param handler: called with each WebSocket
        :param task_group: runs the handlers; by default a task group of its own
        """

        async def handle(stream: ByteStream) -> None:
            if len(self._handshakes) >= self._max_handshakes:
                self._give_up_oldest()
            with anyio.CancelScope() as scope:
                self._handshakes[scope] = None
                try:
                    websocket = await accept_websocket(stream, **self._options)
                except WebSocketError as error:
                    logger.info("a connection did not become a WebSocket: %s", error)
                    return
                except Exception:
                    logger.exception("deciding about a WebSocket failed")
                    return
                finally:
                    self._handshakes.pop(scope, None)
            if not scope.cancelled_caught:
                await handler(websocket)

        await self._listener.serve(handle, task_group)

    def _give_up_oldest(self) -> None:
        oldest = next(iter(self._handshakes))
        del self._handshakes[oldest]
        oldest.cancel()
        logger.info("too many WebSocket handshakes: the oldest was given up")

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the underlying listener."""
        return self._listener.extra_attributes

    async def aclose(self) -> None:
        """Close the underlying listener."""
        await self._listener.aclose()


# The handshake


class _Unacceptable(WebSocketError):
    """A request to be answered with an HTTP error."""

    def __init__(self, message: str, answer: bytes) -> None:
        super().__init__(message)
        self.answer = answer


async def _handshake(
    stream: ByteStream,
    seconds: float,
    handshake: Callable[[ByteStream], Awaitable[WebSocketStream]],
) -> WebSocketStream:
    """Run a handshake with a time limit; close the stream if it fails."""
    try:
        with anyio.move_on_after(seconds):
            return await handshake(stream)
        raise WebSocketError(f"no WebSocket handshake within {seconds:g} seconds")
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


@contextmanager
def _as_failed_handshake() -> Iterator[None]:
    """Raise what a stream raises as a failure of the handshake."""
    try:
        yield
    except anyio.EndOfStream as error:
        raise WebSocketError("the stream ended before the handshake was complete") from error
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
        raise WebSocketError("the stream broke before the handshake was complete") from error


async def _send_head(stream: ByteStream, head: bytes) -> None:
    """Send a request or response."""
    with _as_failed_handshake():
        await stream.send(head)


async def _read_head(stream: ByteStream, connection: WSConnection, start: bytes) -> Event:
    """Read the head of a request or response; return its event, and pass on what follows."""
    head = bytearray()
    while (end := head.find(b"\r\n\r\n") + 4) < 4:
        if len(head) > HEAD_BYTES:
            raise WebSocketError(f"more than {HEAD_BYTES} bytes of HTTP headers")
        with _as_failed_handshake():
            head += await stream.receive(HEAD_BYTES + 1 - len(head))
        if head[: len(start)] != start[: len(head)]:
            raise WebSocketError(f"expected {start.decode()!r}, got {bytes(head[:40])!r}")
    event = _understood(connection, bytes(head[:end]))
    if len(head) > end and isinstance(event, Request):
        raise WebSocketError("the client sent data before the handshake was complete")
    if isinstance(event, AcceptConnection):
        connection.receive_data(bytes(head[end:]))
    return event


def _understood(connection: WSConnection, head: bytes) -> Event:
    try:
        connection.receive_data(head)
        return next(iter(connection.events()))
    except ProtocolError as error:
        hint = getattr(error, "event_hint", None)
        if not isinstance(hint, RejectConnection) or connection.client:
            raise WebSocketError(f"not a WebSocket handshake: {error}") from error
        raise _Unacceptable(f"not a WebSocket request: {error}", _refusal(hint)) from error
    except (UnicodeError, StopIteration) as error:
        raise WebSocketError("not a WebSocket handshake") from error


def _refusal(hint: RejectConnection) -> bytes:
    """Return an HTTP response; the connection itself may be unable to produce one."""
    headers: Iterable[tuple[bytes, bytes]] = hint.headers
    lines = [b"HTTP/1.1 %d Not a WebSocket" % hint.status_code, b"Content-Length: 0"]
    lines += [b"Connection: close", *(b"%s: %s" % header for header in headers), b"", b""]
    return b"\r\n".join(lines)
