"""The Dev Tunnels package in a real browser, against our server over WebSockets."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

import anyssh
from anyssh.websocket import WebSocketListener, WebSocketRequest, WebSocketStream

from .peers import DEADLINE, HERE, find_program, in_thread, require_peer, token

MEBIBYTE = 1 << 20
PAGES = HERE / "browser"
MODULES = HERE / "npm/node_modules"
TYPES = {".html": "text/html", ".js": "text/javascript", ".json": "application/json"}


def require_browser() -> str:
    """Return the browser; without it the test is skipped, or fails where CI=true."""
    require_peer("npm")
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if program := find_program(name):
            return program
    text = "no browser: apt-get install chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


class Web:
    """A web server in threads: gives the page and the modules, takes the page's reports."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = web.file(urlsplit(self.path).path)
                if path is None:
                    self.send_error(404)
                    return
                data = path.read_bytes()
                self.send_response(200)
                self.send_header("Content-Type", TYPES[path.suffix])
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self) -> None:
                web.events.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def file(self, path: str) -> Path | None:
        root, name = (MODULES, path[9:]) if path.startswith("/modules/") else (PAGES, path[1:])
        found = (root / name).resolve()
        is_ours = found.is_relative_to(root.resolve()) and found.suffix in TYPES
        return found if is_ours and found.is_file() else None

    def wait_for(self, name: str) -> dict[str, Any]:
        """Block until the page reports an event; fail when it reports that it cannot go on."""
        while True:
            event = self.events.get(timeout=2 * DEADLINE)
            assert event["event"] != "failed" or name == "failed", event["error"]
            if event["event"] == name:
                return event

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def web_server() -> Iterator[Web]:
    web = Web()
    try:
        yield web
    finally:
        web.stop()


@contextmanager
def browser(program: str, url: str) -> Iterator[None]:
    """Show a page in a browser without a window, until the body is done."""
    profile = tempfile.mkdtemp(prefix="anyssh-browser-")
    command = [
        program,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        f"--user-data-dir={profile}",
        url,
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(profile, ignore_errors=True)


class Bridge:
    """Our server behind WebSockets; it echoes, and can cut what a page is connected by."""

    def __init__(
        self,
        origin: str,
        config: anyssh.SessionConfig,
        forwarding: anyssh.ForwardingPolicy | None = None,
    ) -> None:
        self.origin = origin
        self.password = token()
        self.host_key = anyssh.generate_key("ecdsa-sha2-nistp384")
        self.requests: list[WebSocketRequest] = []
        self.streams: list[WebSocketStream] = []
        self.sessions: list[anyssh.ServerSession] = []
        self.cut_after: int | None = None
        self.url = ""
        self._server = anyssh.Server(
            host_keys=[self.host_key],
            authenticate=self._authenticate,
            config=config,
            forwarding=forwarding,
        )

    async def _authenticate(self, attempt: anyssh.AuthAttempt) -> object | None:
        match attempt:
            case anyssh.PasswordAttempt(username="alice", password=self.password):
                return "alice"
        return None

    async def _may_connect(self, request: WebSocketRequest) -> bool:
        self.requests.append(request)
        return request.headers.get("origin") == self.origin

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with WebSocketListener(
            await anyio.create_tcp_listener(local_host="127.0.0.1"),
            subprotocols=["ssh"],
            may_connect=self._may_connect,
        ) as listener:
            self.url = f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/bridge"
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, self._serve_one)
                yield
                tasks.cancel_scope.cancel()

    async def _serve_one(self, stream: WebSocketStream) -> None:
        self.streams.append(stream)
        try:
            async with self._server.accept(stream) as session:
                self.sessions.append(session)
                await session.serve(self._echo)
        except anyssh.SSHError:
            return

    async def _echo(self, channel: anyssh.Channel) -> None:
        size = 0
        async for chunk in channel:
            await channel.send(chunk)
            size += len(chunk)
            if self.cut_after is not None and size >= self.cut_after:
                self.cut_after = None
                await anyio.aclose_forcefully(self.streams[-1])
        await channel.send_eof()

    def page(self, web: Web, **options: object) -> str:
        query = {
            "url": self.url,
            "user": "alice",
            "password": self.password,
            "hostKey": b64encode(self.host_key.public_blob).decode(),
            **options,
        }
        return f"http://127.0.0.1:{web.port}/page.html?{urlencode(query)}"


@asynccontextmanager
async def page(
    scenario: str,
    config: anyssh.SessionConfig,
    *,
    origin: str | None = None,
    forwarding: anyssh.ForwardingPolicy | None = None,
    cut_after: int | None = None,
    **options: object,
) -> AsyncIterator[tuple[Bridge, Any]]:
    """Run a scenario in a browser; give the bridge and a way to wait for events of the page.

    :param origin: the only one whose pages may connect, the page's own if not given
    :param forwarding: what pages may have the bridge connect to
    :param cut_after: bytes of the echo after which the bridge drops the WebSocket, once
    """
    program = require_browser()
    with web_server() as web:
        bridge = Bridge(origin or f"http://127.0.0.1:{web.port}", config, forwarding)
        bridge.cut_after = cut_after
        async with bridge.running():
            showing = browser(program, bridge.page(web, scenario=scenario, **options))
            await anyio.to_thread.run_sync(showing.__enter__)
            try:
                yield bridge, lambda name: in_thread(partial(web.wait_for, name))
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(showing.__exit__, None, None, None)


async def test_a_page_echoes_a_mebibyte() -> None:
    async with page("echo", anyssh.SessionConfig(), bytes=MEBIBYTE) as (bridge, event):
        connected = await event("connected")
        assert connected["protocol"] == "ssh"
        assert connected["encrypted"]
        result = await event("result")
        assert result["sent"] == result["received"]
        await event("done")
        assert bridge.requests[0].headers["origin"] == bridge.origin
        (session,) = bridge.sessions
        assert (await session.wait_closed()).reason == anyssh.DisconnectReason.BY_APPLICATION
        assert session.peer_version.is_dev_tunnels


async def test_a_page_reaches_a_port() -> None:
    async def echo(stream: ByteStream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as target,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(target.serve, echo)
        port = target.extra(SocketAttribute.local_port)
        policy = anyssh.ForwardingPolicy(connect_to=[f"127.0.0.1:{port}"])
        options = {"bytes": MEBIBYTE, "port": port}
        config = anyssh.SessionConfig()
        async with page("forward", config, forwarding=policy, **options) as (_, event):
            result = await event("result")
            assert result["sent"] == result["received"]
            await event("done")
        tasks.cancel_scope.cancel()


async def test_a_page_survives_a_cut() -> None:
    config = anyssh.SessionConfig.with_reconnect()
    options = {"bytes": MEBIBYTE, "cut_after": MEBIBYTE // 3}
    async with page("reconnect", config, **options) as (bridge, event):
        result = await event("result")
        assert result["sent"] == result["received"]
        assert result["reconnections"] == 1
        await event("done")
        assert len(bridge.streams) == 2
        (session,) = bridge.sessions
        assert session.metrics.reconnections == 1


async def test_a_page_of_another_site_is_refused() -> None:
    config, other = anyssh.SessionConfig(), "https://example.org"
    async with page("echo", config, origin=other, bytes=1) as (bridge, event):
        failed = await event("failed")
        assert "no WebSocket" in failed["error"]
        assert bridge.requests[0].headers["origin"] != other
        assert bridge.streams == []
