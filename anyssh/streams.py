"""Two small ways to use a session: many plain streams over one, or one secure stream over one.

:class:`MultiChannelStream` multiplexes without cryptography, over a stream that is protected
already. :class:`SecureStream` puts encryption and authentication around a stream and is a stream
itself. Both are compatible with the classes of these names in Dev Tunnels SSH.
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
from .session.life import ProgressHandler, SessionClosed, Transport
from .session.opening import ChannelOpening
from .session.server import Server
from .session.session import Session
from .trace import TraceHandler

__all__ = ["MultiChannelStream", "SecureStream"]

STREAM_TYPE: Final = "session"

CLEAN_ENDS: Final = frozenset({0, DisconnectReason.BY_APPLICATION})
"""Reasons of a goodbye that means no more than the end of the stream."""


class MultiChannelStream(AsyncContextManagerMixin):
    """Many byte streams over one, **without encryption, integrity or authentication**.

    For streams that are protected already: TLS, or a pipe between parent and child. Entered once,
    with ``async with``; leaving closes all streams and the one below. Made by :meth:`connect` at
    one end and :meth:`accept` at the other.
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
        transport: Transport,
        *,
        config: InsecureSessionConfig | None = None,
        trace: TraceHandler | None = None,
    ) -> Self:
        """Return one end, to be entered with ``async with``.

        It owns the stream below from then on and closes it on every path. Entering raises
        :exc:`RemoteProtocolError`, :exc:`NegotiationError`, :exc:`Disconnected` or
        :exc:`ConnectionLost` when the peer is not the other end of such a stream, or goes away.

        :param transport: a byte stream, or a connectable that gives one
        :param config: limits, windows and timers
        :param trace: called with what happens, for developers
        :raises TypeError: the configuration is a secure one
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

        :param stream: the stream below, owned from now on
        :param config: as for :meth:`connect`
        :param trace: called with what happens, for developers
        """
        config = config if config is not None else InsecureSessionConfig()
        return cls(Server(config=config, trace=trace).accept(stream))

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        async with self._session:
            yield self

    @property
    def session(self) -> Session:
        """The session below, for requests, metrics and the like."""
        return self._session

    async def open_stream(self, stream_type: str = STREAM_TYPE, *, payload: bytes = b"") -> Channel:
        """Open a stream.

        When cancelled, the stream is closed as soon as the peer confirms it.

        :param stream_type: what kind of stream it is; the peer may look for it
        :param payload: what belongs to the type, in a form that the two ends know
        :raises ChannelOpenError: the peer refused the stream
        :raises SSHError: the session has ended
        """
        return await self._session.open_channel(stream_type, payload=payload)

    async def accept_stream(self, stream_type: str | None = None) -> Channel:
        """Wait for a stream that the peer opens, and accept it.

        :param stream_type: only take streams of this type
        :raises SSHError: the session has ended
        """
        return await self._session.accept_channel(stream_type)

    def incoming_streams(self) -> AsyncIterator[ChannelOpening]:
        """Iterate over the streams that the peer wants to open, to accept or to reject them.

        They are held until asked for, up to 64, then refused. The iteration ends with the session.
        """
        return self._session.incoming_channels()

    async def serve(self, handler: Callable[[Channel], Awaitable[object]]) -> None:
        """Accept every stream and run ``handler`` for each in a task of its own.

        Returns when the peer has closed; see :meth:`Session.serve`.
        """
        await self._session.serve(handler)

    async def wait_closed(self) -> SessionClosed:
        """Wait until either end has closed; tell how."""
        return await self._session.wait_closed()

    async def aclose(self) -> None:
        """Close all streams and the one below; does nothing the second time."""
        await self._session.aclose()


# The mixin's way of leaving could swallow errors, which a resource's may not; this one does not.
class SecureStream(AsyncContextManagerMixin, ByteStream):  # type: ignore[misc]
    """One encrypted and authenticated byte stream over another.

    Entered once, with ``async with``; leaving closes it and the stream below. Made by
    :meth:`connect` at the client's end and :meth:`accept` at the server's.
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
        transport: Transport,
        *,
        credentials: ClientCredentials,
        verify_host: HostKeyVerifier,
        config: SessionConfig | None = None,
        trace: TraceHandler | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> Self:
        """Return the client's end, to be entered with ``async with``.

        Parameters are those of :meth:`ClientSession.connect`, and so is what entering raises;
        besides, :exc:`ChannelOpenError` when the server is not the other end of such a stream.

        :raises TypeError: the configuration is an insecure one, or there is no ``verify_host``
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

        Entering waits for the client; it raises what entering :meth:`Server.accept` does,
        :exc:`SessionMoved` for one when a client came back for an end that had lost its stream.

        :param stream: the stream below, which is owned from then on and closed on every path
        :param server: has the host keys, judges the client, and has the configuration
        :raises TypeError: the configuration is an insecure one
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
        """The session below, for the principal, metrics, new keys and the like."""
        return self._session

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the stream below, then those of :class:`SSHAttribute`."""
        return self._session.extra_attributes

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive at least one and at most ``max_bytes`` bytes. Cancelling loses none.

        :raises ~anyio.EndOfStream: the peer has sent EOF or closed its end
        :raises ~anyio.ClosedResourceError: this end was closed
        :raises ~anyio.BrokenResourceError: the stream below broke; our error is the cause
        :raises ~anyio.BusyResourceError: another task is receiving
        :raises ValueError: ``max_bytes`` is less than 1
        """
        try:
            return await self._channel.receive(max_bytes)
        except anyio.BrokenResourceError as error:
            # Other programs say goodbye without closing the channel first.
            match error.__cause__:
                case Disconnected(by_peer=True, reason=reason) if reason in CLEAN_ENDS:
                    raise anyio.EndOfStream from error
            raise

    async def send(self, item: bytes) -> None:
        """Send bytes; return when they are accepted under flow control. See :meth:`Channel.send`.

        :param item: the bytes
        :raises ~anyio.ClosedResourceError: this end was closed, or EOF was sent
        :raises ~anyio.BrokenResourceError: the peer has closed its end, or the stream below broke
        :raises ~anyio.BusyResourceError: another task is sending
        """
        await self._channel.send(item)

    async def send_eof(self) -> None:
        """Tell the peer that no more bytes come; does nothing the second time.

        :raises ~anyio.ClosedResourceError: this end was closed
        """
        await self._channel.send_eof()

    async def wait_disconnected(self) -> SSHError:
        """Wait until the stream below is lost and another one could take its place; tell why.

        :raises SSHError: the session has ended instead
        """
        return await self._session.wait_disconnected()

    async def reconnect(self, stream: AnyByteStream) -> None:
        """Go on over another stream; see :meth:`ClientSession.reconnect`.

        Both ends need a configuration of :meth:`SessionConfig.with_reconnect`. At the server's
        end, :meth:`accept` does this for the end that was lost, and raises :exc:`SessionMoved`.

        :param stream: to the same server; owned from now on
        :raises LocalProtocolError: this is the server's end, or has a stream
        :raises SSHError: as there
        """
        if not isinstance(self._session, ClientSession):
            await anyio.aclose_forcefully(stream)
            raise LocalProtocolError("the client reconnects; the server's end waits for it")
        await self._session.reconnect(stream)

    async def wait_closed(self) -> SessionClosed:
        """Wait until either end has closed, or the stream below is lost for good; tell how."""
        return await self._session.wait_closed()

    async def aclose(self) -> None:
        """Close this end, and the stream below; does nothing the second time.

        Bytes sent before are delivered, as long as the peer takes them within
        :attr:`Limits.disconnect_time`. One that was never entered closes the stream below.
        """
        if self._channel_if_open is not None:
            await self._channel_if_open.aclose()
        await self._session.aclose()
