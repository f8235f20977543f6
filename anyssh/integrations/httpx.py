"""HTTP through a session, for HTTPX: the session's peer makes the connections."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

try:
    import httpcore
    import httpx
except ImportError as _missing:
    raise ImportError(
        "anyssh.integrations.httpx needs httpx: pip install 'anyssh[httpx]'"
    ) from _missing

from anyssh import Session

from .httpcore import SessionBackend

__all__ = ["SessionTransport"]

MAX_CONNECTIONS: Final = 100
MAX_IDLE: Final = 20
IDLE_TIME: Final = 5.0


class SessionTransport(httpx.AsyncBaseTransport):
    """A transport for :class:`httpx.AsyncClient`, to be passed as ``transport``.

    Close the client before the session ends.

    :param session: the session to connect through
    :param ssl_context: for ``https``; HTTPX's default if not given
    :param http2: whether to use HTTP/2, which needs the package ``h2``
    :param max_connections: connections at the same time, each of which is a channel
    :param max_idle: of these, connections kept open for another request
    :param idle_time: seconds for which they are kept
    """

    def __init__(
        self,
        session: Session,
        *,
        ssl_context: ssl.SSLContext | None = None,
        http2: bool = False,
        max_connections: int = MAX_CONNECTIONS,
        max_idle: int = MAX_IDLE,
        idle_time: float = IDLE_TIME,
    ) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context or httpx.create_ssl_context(),
            max_connections=max_connections,
            max_keepalive_connections=max_idle,
            keepalive_expiry=idle_time,
            http2=http2,
            network_backend=SessionBackend(session),
        )

    async def __aenter__(self) -> Self:
        """Enter the pool; called by the client."""
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close all connections; called by the client."""
        with _translated():
            await self._pool.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; return its response, whose body is yet to be read.

        :param request: the request
        :raises ~httpx.TransportError: as with every transport of HTTPX
        """
        url = request.url
        wanted = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _translated():
            response = await self._pool.handle_async_request(wanted)
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )


class _Body(httpx.AsyncByteStream):
    """The body of a response."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if isinstance(self._response.stream, AsyncIterable):
            with _translated():
                async for part in self._response.stream:
                    yield part

    async def aclose(self) -> None:
        with _translated():
            await self._response.aclose()


@contextmanager
def _translated() -> Iterator[None]:
    """Translate httpcore's exceptions to those of HTTPX with the same name."""
    try:
        yield
    except Exception as error:
        for kind in type(error).__mro__:
            same = vars(httpx).get(kind.__name__)
            if kind.__module__.startswith("httpcore") and isinstance(same, type):
                raise same(str(error)) from error
        raise
