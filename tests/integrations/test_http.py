"""HTTP through a session, with httpcore and HTTPX, to servers that only the peer can reach."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import httpcore
import httpx
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSListener
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import anyssh
from anyssh.integrations.httpcore import SessionBackend
from anyssh.integrations.httpx import SessionTransport
from anyssh.testing import session_pair
from tests.session.life_support import wait_for

POLICY = anyssh.ForwardingPolicy(connect_to=["localhost:*", "/*"])
BODY = bytes(range(256)) * 2000

# The libraries that log and resolve names below us may block where they are first used.
pytestmark = pytest.mark.blocking_allowed


class Web:
    """A small HTTP server: it answers with the method, the path and the size of the body.

    ``/close`` closes the connection after the answer, ``/silent`` does not answer.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[str] = []

    async def serve(self, stream: ByteStream) -> None:
        self.connections += 1
        async with stream:
            with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                while await self._answer(BufferedByteReceiveStream(stream), stream):
                    pass

    async def _answer(self, requests: BufferedByteReceiveStream, stream: ByteStream) -> bool:
        head = (await requests.receive_until(b"\r\n\r\n", 65536)).decode()
        method, path, _ = head.split("\r\n")[0].split(" ")
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
        size = len(await requests.receive_exactly(int(fields.get("content-length", 0))))
        self.requests.append(path)
        if path == "/silent":
            await anyio.sleep_forever()
        body = BODY if path == "/big" else f"{method} {path} {size}".encode()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        return path != "/close"


@asynccontextmanager
async def serving(
    web: Web, wrap: Callable[[Any], Any] = lambda listener: listener
) -> AsyncIterator[int]:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as inner,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(wrap(inner).serve, web.serve)
        yield inner.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def client_of(session: anyssh.Session, **options: Any) -> AsyncIterator[Any]:
    transport = SessionTransport(session, **options)
    async with httpx.AsyncClient(transport=transport, timeout=30, trust_env=False) as client:
        yield client


async def test_httpx_through_a_session() -> None:
    web = Web()
    async with (
        session_pair(server_forwarding=POLICY) as (session, _),
        serving(web) as port,
        client_of(session) as client,
    ):
        url = f"http://localhost:{port}"
        for _ in range(3):
            response = await client.get(f"{url}/path?query=1")
            assert (response.status_code, response.text) == (200, "GET /path?query=1 0")
        response = await client.post(f"{url}/", content=BODY)
        assert response.text == f"POST / {len(BODY)}"
        assert (await client.get(f"{url}/big")).content == BODY
        assert web.connections == 1
    assert session.channels == ()


async def test_httpcore_through_a_session() -> None:
    web = Web()
    async with (
        session_pair(server_forwarding=POLICY) as (session, _),
        serving(web) as port,
        httpcore.AsyncConnectionPool(network_backend=SessionBackend(session)) as pool,
    ):
        response = await pool.request("GET", f"http://localhost:{port}/x")
        assert response.content == b"GET /x 0"
        assert len(session.channels) == 1
    assert web.connections == 1


async def test_httpcore_over_a_socket_in_the_file_system(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    web = Web()
    async with (
        session_pair(server_forwarding=POLICY) as (session, _),
        await anyio.create_unix_listener(path) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, web.serve)
        backend = SessionBackend(session)
        async with httpcore.AsyncConnectionPool(network_backend=backend, uds=path) as pool:
            response = await pool.request("GET", "http://whatever/x")
            assert response.content == b"GET /x 0"
        tasks.cancel_scope.cancel()


async def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    web = Web()
    async with (
        session_pair(server_forwarding=POLICY) as (session, _),
        serving(web) as port,
        client_of(session) as client,
    ):
        for count in range(1, 4):
            await client.get(f"http://localhost:{port}/close")
            assert web.connections == count
            await wait_for(lambda: all(channel.is_readable for channel in session.channels))


async def test_a_connection_that_may_not_or_cannot_come_about() -> None:
    async with (
        session_pair(server_forwarding=POLICY) as (session, _),
        client_of(session) as client,
    ):
        with pytest.raises(httpx.ConnectError, match="prohibited"):
            await client.get("http://192.0.2.1/")
        async with serving(Web()) as port:
            pass
        with pytest.raises(httpx.ConnectError, match="connect failed"):
            await client.get(f"http://localhost:{port}/")


async def test_a_server_that_does_not_answer() -> None:
    async with (
        session_pair(server_forwarding=POLICY) as (session, _),
        serving(Web()) as port,
        client_of(session) as client,
    ):
        with pytest.raises(httpx.ReadTimeout):
            await client.get(f"http://localhost:{port}/silent", timeout=0.2)
        assert (await client.get(f"http://localhost:{port}/x")).text == "GET /x 0"


async def test_a_session_that_ends_during_a_request() -> None:
    web = Web()
    async with (
        session_pair(server_forwarding=POLICY) as (session, server),
        serving(web) as port,
        anyio.create_task_group() as tasks,
        client_of(session) as client,
    ):

        async def end() -> None:
            # Earlier, HTTPX would leave the iterator of the request's body to the collector.
            await wait_for(lambda: web.requests == ["/silent"])
            await server.aclose()

        tasks.start_soon(end)
        with pytest.raises(httpx.NetworkError):
            await client.get(f"http://localhost:{port}/silent")
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://localhost:{port}/x")


def make_certificate(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what a server and a client need for TLS on ``localhost``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = tmp_path / "server.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(path)
    client = ssl.create_default_context(cadata=certificate.public_bytes(pem).decode())
    return server, client


async def test_tls_goes_all_the_way(tmp_path: Path) -> None:
    server_context, client_context = make_certificate(tmp_path)
    web = Web()

    def wrap(listener: Any) -> Any:
        return TLSListener(listener, server_context, standard_compatible=False)

    async with (
        session_pair(server_forwarding=POLICY) as (session, _),
        serving(web, wrap) as port,
        client_of(session, ssl_context=client_context) as client,
    ):
        for _ in range(2):
            assert (await client.get(f"https://localhost:{port}/x")).text == "GET /x 0"
        assert (await client.get(f"https://localhost:{port}/big")).content == BODY
        assert web.connections == 1
        async with client_of(session) as stranger:
            with pytest.raises(httpx.ConnectError, match=r"(?i)certificate verify failed"):
                await stranger.get(f"https://localhost:{port}/x")
