"""HTTP through a session, for httpcore: the session's peer makes the connections."""

from __future__ import annotations

import ssl
import typing
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSAttribute, TLSStream

try:
    import httpcore
except ImportError as _missing:
    raise ImportError(
        "anyssh.integrations.httpcore needs httpcore: pip install 'anyssh[httpcore]'"
    ) from _missing

from anyssh import Channel, Endpoint, Session, SSHError, TcpEndpoint, UnixEndpoint

__all__ = ["SessionBackend"]


class SessionBackend(httpcore.AsyncNetworkBackend):
    """A network backend for httpcore that connects from the network of a session's peer.

    Host names are resolved there, too. TLS extends all the way to the HTTP server: the peer sees no
    more of it than a router would. Close the pool before the session ends.

    :param session: the session to connect through
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Have the peer connect to a port.

        :param host: a name or an address, as seen from the peer
        :param port: the port
        :param timeout: seconds
        :param local_address: ignored, as it cannot be chosen from here
        :param socket_options: ignored, as the socket is not ours
        :raises ~httpcore.ConnectError: the peer may not or cannot connect, or the session has ended
        :raises ~httpcore.ConnectTimeout: the time is up
        """
        return await self._connect(TcpEndpoint(host, port), timeout)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Have the peer connect to a UNIX socket; see :meth:`connect_tcp`."""
        return await self._connect(UnixEndpoint(path), timeout)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)

    async def _connect(
        self, endpoint: Endpoint, timeout: float | None
    ) -> httpcore.AsyncNetworkStream:
        async with _told(httpcore.ConnectTimeout, httpcore.ConnectError):
            with anyio.fail_after(timeout):
                channel = await self._session.stream_to_remote(endpoint)
        return _Stream(channel, channel)


class _Stream(httpcore.AsyncNetworkStream):
    """A channel, or TLS over a channel, with httpcore's interface.

    :param channel: the underlying channel
    """

    def __init__(self, stream: ByteStream, channel: Channel) -> None:
        self._stream = stream
        self._channel = channel

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        async with _told(httpcore.ReadTimeout, httpcore.ReadError):
            with anyio.fail_after(timeout):
                try:
                    return await self._stream.receive(max_bytes)
                except anyio.EndOfStream:
                    return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        async with _told(httpcore.WriteTimeout, httpcore.WriteError):
            with anyio.fail_after(timeout):
                await self._stream.send(buffer)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with _told(httpcore.ConnectTimeout, httpcore.ConnectError):
                with anyio.fail_after(timeout):
                    stream = await TLSStream.wrap(
                        self._stream,
                        hostname=server_hostname,
                        ssl_context=ssl_context,
                        server_side=False,
                        standard_compatible=False,
                    )
        except BaseException:
            await anyio.aclose_forcefully(self._stream)
            raise
        return _Stream(stream, self._channel)

    def get_extra_info(self, info: str) -> typing.Any:
        if info == "is_readable":
            # An idle connection with something to read was closed by the server.
            return self._channel.is_readable
        if info == "ssl_object":
            return self._stream.extra(TLSAttribute.ssl_object, None)
        return None


@asynccontextmanager
async def _told(
    too_late: type[httpcore.TimeoutException], failed: type[httpcore.NetworkError]
) -> AsyncGenerator[None]:
    """Translate exceptions to those of httpcore."""
    try:
        yield
    except TimeoutError as error:
        raise too_late(str(error)) from error
    except (
        SSHError,
        anyio.BrokenResourceError,
        anyio.ClosedResourceError,
        anyio.EndOfStream,
        ssl.SSLError,
    ) as error:
        raise failed(str(error)) from error
