"""Two simple uses of a session: multiplexing many byte streams, or securing a single one.

:class:`MultiChannelStream` multiplexes without cryptography, over a stream that is already
protected. :class:`SecureStream` encrypts and authenticates a stream, and is a stream itself.
Both interoperate with the classes of the same names in Dev Tunnels SSH.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import anyio
from anyio import AsyncContextManagerMixin
from anyio.abc import AnyByteStream, ByteStream

from .config import InsecureSessionConfig, SessionConfig
from .constants import DisconnectReason
from .errors import Disconnected, LocalProtocolError, SSHError
from .session.channel import Channel
from .session.client import ClientSession
from .session.credentials import ClientCredentials
from .session.host_keys import HostKeyVerifier
from .session.life import ProgressHandler, SessionClosed, StreamSource
from .session.opening import ChannelOpening
from .session.server import Server
from .session.session import Session
from .trace import TraceHandler

__all__ = ["MultiChannelStream", "SecureStream"]

STREAM_TYPE: Final = "session"

CLEAN_ENDS: Final = frozenset({0, DisconnectReason.BY_APPLICATION})
"""Disconnect reasons that just mean the end of the stream."""


class MultiChannelStream(AsyncContextManagerMixin):
    """Many byte streams over one, **without encryption, integrity or authentication**.

    For streams that are already protected, such as TLS or a pipe between parent and child process.
    Created by :meth:`connect` at one end and :meth:`accept` at the other. Enter it once, with
    ``async with``; leaving closes all its streams and the underlying one.
    """

    def __init__(self, session: Session) -> None:
        if session.config.is_secure:
            raise TypeError(
                "a MultiChannelStream has no security: it takes an InsecureSessionConfig; "
                "for a secure session use ClientSession and Server"
            )
        self._session = session

    @classmethod
    def connect(
        cls,
        transport: StreamSource,
        *,
        config: InsecureSessionConfig | None = None,
        trace: TraceHandler | None = None,
    ) -> Self:
        """Return one end, to be entered with ``async with``.

        It owns the underlying stream from then on, and closes it on every path. Entering raises
        :exc:`RemoteProtocolError`, :exc:`NegotiationError`, :exc:`Disconnected` or
        :exc:`ConnectionLost` if the peer is not the other end of such a stream, or goes away.

        :param transport: a byte stream, or a connectable that returns one
        :param config: limits, windows and timers
        :param trace: called with trace events, for diagnosis
        :raises TypeError: ``config`` is not an :class:`InsecureSessionConfig`
        """
        config = config if config is not None else InsecureSessionConfig()
        return cls(ClientSession(transport, verify_host=None, config=config, trace=trace))

    @classmethod
    def accept(
        cls,
        stream: AnyByteStream,
        *,
        config: InsecureSessionConfig | None = None,
        trace: TraceHandler | None = None,
    ) -> Self:
        """Return the other end, to be entered with ``async with``; see :meth:`connect`.

        :param stream: the underlying stream, owned from now on
        :param config: as for :meth:`connect`
        :param trace: as for :meth:`connect`
        :raises TypeError: ``config`` is not an :class:`InsecureSessionConfig`
        """
        config = config if config is not None else InsecureSessionConfig()
        return cls(Server(config=config, trace=trace).accept(stream))

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with self._session:
            yield self

    @property
    def session(self) -> Session:
        """The underlying session, for requests, metrics and the like."""
        return self._session

    async def open_stream(self, stream_type: str = STREAM_TYPE, *, payload: bytes = b"") -> Channel:
        """Open a stream.

        If the call is cancelled, the stream is closed as soon as the peer confirms it.

        :param stream_type: a name that tells the peer what the stream is for
        :param payload: data that goes with the type, in a format that the two ends agree on
        :raises ChannelOpenError: the peer refused the stream
        :raises SSHError: the session has ended
        """
        return await self._session.open_channel(stream_type, payload=payload)

    async def accept_stream(self, stream_type: str | None = None) -> Channel:
        """Wait for the peer to open a stream, and accept it.

        :param stream_type: accept only streams of this type; the others keep waiting
        :raises SSHError: the session has ended
        """
        return await self._session.accept_channel(stream_type)

    def incoming_streams(self) -> AsyncIterator[ChannelOpening]:
        """Iterate over the streams that the peer asks to open, to accept or reject each of them.

        Up to 64 streams (``limits.unaccepted_channels``) wait for the iteration; more are refused.
        It ends with the session.
        """
        return self._session.incoming_channels()

    async def serve(self, handler: Callable[[Channel], Awaitable[object]]) -> None:
        """Accept every stream, and run ``handler`` for each in a task of its own.

        Returns once the peer has closed and every handler has returned; see :meth:`Session.serve`.

        :param handler: called with each stream
        """
        await self._session.serve(handler)

    async def wait_closed(self) -> SessionClosed:
        """Wait until either end has closed; return how it ended."""
        return await self._session.wait_closed()

    async def aclose(self) -> None:
        """Close all streams and the underlying one; further calls do nothing."""
        await self._session.aclose()


# The mixin's __aexit__ may swallow exceptions, which AsyncResource's may not; ours does not.
class SecureStream(AsyncContextManagerMixin, ByteStream):  # type: ignore[misc]
    """An encrypted and authenticated byte stream over another one.

    Created by :meth:`connect` on the client and :meth:`accept` on the server. Enter it once, with
    ``async with``; leaving closes it and the underlying stream.
    """

    def __init__(self, session: Session, open_channel: Callable[[], Awaitable[Channel]]) -> None:
        if not session.config.is_secure:
            raise TypeError("a SecureStream takes no InsecureSessionConfig")
        self._session = session
        self._open_channel = open_channel
        self._channel_if_open: Channel | None = None

    @classmethod
    def connect(
        cls,
        transport: StreamSource,
        *,
        credentials: ClientCredentials,
        verify_host: HostKeyVerifier,
        config: SessionConfig | None = None,
        trace: TraceHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> Self:
        """Return the client's end, to be entered with ``async with``.

        The parameters are those of :meth:`ClientSession.connect`, and so are the exceptions from
        entering; in addition, :exc:`ChannelOpenError` if the server is not the other end of such a
        stream.

        :raises TypeError: ``config`` is an :class:`InsecureSessionConfig`, or ``verify_host`` is
            missing
        """
        session = ClientSession(
            transport,
            credentials=credentials,
            verify_host=verify_host,
            config=config,
            trace=trace,
            on_progress=on_progress,
        )
        return cls(session, lambda: session.open_channel(STREAM_TYPE))

    @classmethod
    def accept(cls, stream: AnyByteStream, server: Server) -> Self:
        """Return the server's end, to be entered with ``async with``.

        Entering waits for the client, and raises what entering :meth:`Server.accept` raises, for
        example :exc:`SessionMoved` if a client reconnected an end that had lost its stream.

        :param stream: the underlying stream; owned from then on, and closed on every path
        :param server: has the host keys and the configuration, and authenticates the client
        :raises TypeError: the server's configuration is an :class:`InsecureSessionConfig`
        """
        session = server.accept(stream)
        return cls(session, lambda: session.accept_channel(STREAM_TYPE))

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with self._session, await self._open_channel() as self._channel_if_open:
            yield self

    @property
    def _channel(self) -> Channel:
        if self._channel_if_open is None:
            raise LocalProtocolError("the stream is not connected: enter it with 'async with'")
        return self._channel_if_open

    @property
    def session(self) -> Session:
        """The underlying session, for the principal, metrics, new keys and the like."""
        return self._session

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the underlying stream, and those of :class:`SSHAttribute`."""
        return self._session.extra_attributes

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive at least one and at most ``max_bytes`` bytes. Cancelling loses none.

        :param max_bytes: the most bytes to return
        :raises ~anyio.EndOfStream: the peer has sent EOF or closed its end
        :raises ~anyio.ClosedResourceError: this end was closed
        :raises ~anyio.BrokenResourceError: the underlying stream broke; our error is the cause
        :raises ~anyio.BusyResourceError: another task is receiving
        :raises ValueError: ``max_bytes`` is less than 1
        """
        try:
            return await self._channel.receive(max_bytes)
        except anyio.BrokenResourceError as error:
            # Other implementations send DISCONNECT without closing the channel first.
            match error.__cause__:
                case Disconnected(by_peer=True, reason=reason) if reason in CLEAN_ENDS:
                    raise anyio.EndOfStream from error
            raise

    async def send(self, item: bytes) -> None:
        """Send bytes; return once flow control has accepted them. See :meth:`Channel.send`.

        :param item: the bytes
        :raises ~anyio.ClosedResourceError: this end was closed, or EOF was sent
        :raises ~anyio.BrokenResourceError: the peer has closed its end, or the underlying stream
            broke
        :raises ~anyio.BusyResourceError: another task is sending
        """
        await self._channel.send(item)

    async def send_eof(self) -> None:
        """Send EOF; further calls do nothing.

        :raises ~anyio.ClosedResourceError: this end was closed
        :raises ~anyio.BusyResourceError: another task is sending
        """
        await self._channel.send_eof()

    async def wait_disconnected(self) -> SSHError:
        """Wait until the underlying stream is lost and can be replaced; return why it was lost.

        :raises SSHError: the session has ended instead
        """
        return await self._session.wait_disconnected()

    async def reconnect(self, stream: AnyByteStream) -> None:
        """Resume over another stream; see :meth:`ClientSession.reconnect`.

        Both ends need a configuration from :meth:`SessionConfig.with_reconnect`. On the server,
        :meth:`accept` reconnects the end that was lost, and raises :exc:`SessionMoved`.

        :param stream: a new byte stream to the same server; owned from now on
        :raises LocalProtocolError: this is the server's end, or it still has a stream
        :raises SSHError: as for :meth:`ClientSession.reconnect`
        """
        if not isinstance(self._session, ClientSession):
            await anyio.aclose_forcefully(stream)
            raise LocalProtocolError("the client reconnects; the server's end waits for it")
        await self._session.reconnect(stream)

    async def wait_closed(self) -> SessionClosed:
        """Wait until either end has closed or the underlying stream is lost for good; tell how."""
        return await self._session.wait_closed()

    async def aclose(self) -> None:
        """Close this end and the underlying stream; further calls do nothing.

        Bytes sent before are still delivered, provided that the peer reads them within
        :attr:`Limits.disconnect_time`. If it was never entered, only the underlying stream is
        closed.
        """
        try:
            if self._channel_if_open is not None:
                await self._channel_if_open.aclose()
        finally:  # also when cancelled
            await self._session.aclose()
