"""Ports and sockets forwarded with OpenSSH on the other side, to a real HTTP server and sshd."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

import anyssh
from anyssh import ForwardingPolicy, UnixEndpoint

from .conftest import Keys, Sites
from .ours import Gate, OurServer, exchange, our_client, our_key, our_server
from .peers import USER, find_program, require_peer
from .scripts.accounts import free_port
from .scripts.peer_common import GREETING

LOOPBACK = "127.0.0.1"
CONTENT = secrets.token_bytes(300_000)
DEADLINE = 30.0


# --- what is forwarded to


@asynccontextmanager
async def web_server(folder: Path) -> AsyncIterator[int]:
    """Give the port of an HTTP server that has ``/file``."""
    (folder / "file").write_bytes(CONTENT)
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", LOOPBACK]
    async with await anyio.open_process(
        [*command, "--directory", str(folder)], stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 1000)
            yield int(re.findall(rb"port (\d+)", line)[0])
        finally:
            process.kill()


@asynccontextmanager
async def shouting(listener: anyio.abc.Listener[Any]) -> AsyncIterator[None]:
    """Answer the whole of what comes, once it has ended, in capitals."""

    async def shout(stream: ByteStream) -> None:
        async with stream:
            data = b"".join([chunk async for chunk in stream])
            await stream.send(data.upper())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, shout)
        yield
        tasks.cancel_scope.cancel()
    await listener.aclose()


async def ask(stream: ByteStream, question: bytes = b"hello") -> bytes:
    async with stream:
        await stream.send(question)
        await stream.send_eof()
        return b"".join([chunk async for chunk in stream])


async def get(stream: ByteStream) -> bytes:
    """Fetch the file by HTTP 1.0: the server ends the connection."""
    answer = await ask(stream, b"GET /file HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 200 "), answer[:100]
    return answer.partition(b"\r\n\r\n")[2]


async def is_served(bind: str, port: int) -> bool:
    """Tell whether the file can be fetched from a port that sshd listens on.

    For names of more than one address, sshd is content with one of them: another program may have
    the same port of the other.
    """
    for host in [bind] if bind in (LOOPBACK, "::1") else [LOOPBACK, "::1"]:
        with suppress(OSError, anyio.BrokenResourceError):
            stream = await anyio.connect_tcp(host, port)
            if (await ask(stream, b"GET /file HTTP/1.0\r\n\r\n")).endswith(CONTENT):
                return True
    return False


async def connect_soon(port: int) -> ByteStream:
    """Connect to a port that somebody is about to listen on."""
    with anyio.fail_after(DEADLINE):
        while True:
            try:
                return await anyio.connect_tcp(LOOPBACK, port)
            except OSError:
                await anyio.sleep(0.05)


async def curl(*arguments: str) -> bytes:
    program = find_program("curl")
    if program is None:
        text = "no curl: apt-get install curl"
        if "CI" in os.environ:
            pytest.fail(text)
        pytest.skip(text)
    done = await anyio.run_process([program, "-sS", "--max-time", "20", *arguments])
    return done.stdout


# --- OpenSSH as the client


async def said(process: anyio.abc.Process) -> bytes:
    """Return the first line that a program writes to its standard error."""
    assert process.stderr is not None
    with anyio.fail_after(DEADLINE):
        return await BufferedByteReceiveStream(process.stderr).receive_until(b"\n", 1000)


@dataclass
class Client:
    """``ssh`` with what it needs to reach our server, and sshd beside it."""

    config: Path

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator[anyio.abc.Process]:
        command = [find_program("ssh") or "ssh", "-F", str(self.config), *arguments]
        async with await anyio.open_process(command, stdin=subprocess.PIPE) as process:
            try:
                yield process
            finally:
                # A gentler signal may go unnoticed while the program waits for the network.
                if process.returncode is None:
                    process.kill()

    async def output(self, *arguments: str, given: bytes = b"") -> bytes:
        command = [find_program("ssh") or "ssh", "-F", str(self.config), *arguments]
        with anyio.fail_after(DEADLINE):
            return (await anyio.run_process(command, input=given)).stdout


@asynccontextmanager
async def openssh_client(
    keys: Keys, tmp_path: Path, forwarding: ForwardingPolicy | None, sshd: int = 22
) -> AsyncIterator[tuple[OurServer, Client]]:
    """Give our server, and ``ssh`` that knows it as ``ours``, and as ``theirs`` an sshd."""
    peer = require_peer("openssh")
    hosts, key = keys.hosts(peer), keys.user["ed25519"]
    gate = Gate(USER, authorized=[key])
    async with our_server(gate, hosts, forwarding=forwarding) as server:
        known = tmp_path / "known_hosts"
        lines = [
            f"[{LOOPBACK}]:{port} {' '.join(file.line.split()[:2])}\n"
            for port in (server.port, sshd)
            for file in hosts
        ]
        known.write_text("".join(lines))
        config = tmp_path / "config"
        config.write_text(
            f"Host ours\n User {USER}\n Port {server.port}\n"
            f"Host theirs\n User {peer.user}\n Port {sshd}\n"
            f"Host *\n HostName {LOOPBACK}\n IdentityFile {key.private}\n IdentitiesOnly yes\n"
            f" IdentityAgent none\n UserKnownHostsFile {known}\n GlobalKnownHostsFile none\n"
            " StrictHostKeyChecking yes\n UpdateHostKeys no\n ExitOnForwardFailure yes\n"
            " BatchMode yes\n"
        )
        yield server, Client(config)


ALL = ForwardingPolicy.allow_all()


async def test_option_l(keys: Keys, tmp_path: Path) -> None:
    async with (
        web_server(tmp_path) as web,
        openssh_client(keys, tmp_path, ALL) as (_, ssh),
    ):
        port = free_port()
        async with ssh.running("-N", "-L", f"{port}:localhost:{web}", "ours"):
            assert await get(await connect_soon(port)) == CONTENT
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(fetch_through, port)


async def fetch_through(port: int) -> None:
    assert await get(await anyio.connect_tcp(LOOPBACK, port)) == CONTENT


async def test_option_l_is_refused_by_default(keys: Keys, tmp_path: Path) -> None:
    async with web_server(tmp_path) as web, openssh_client(keys, tmp_path, None) as (_, ssh):
        port = free_port()
        async with ssh.running("-N", "-L", f"{port}:localhost:{web}", "ours") as process:
            # On Trio, ending a direction of what was reset is an error of the system.
            with suppress(anyio.BrokenResourceError, OSError):
                assert await ask(await connect_soon(port)) == b""
            assert b"administratively prohibited" in await said(process)


@pytest.mark.parametrize("bind", ["", "localhost:", "127.0.0.1:", "0.0.0.0:", "*:", "[::1]:"])
async def test_option_r(keys: Keys, tmp_path: Path, bind: str) -> None:
    async with web_server(tmp_path) as web, openssh_client(keys, tmp_path, ALL) as (server, ssh):
        port = free_port()
        async with ssh.running("-N", "-R", f"{bind}{port}:localhost:{web}", "ours"):
            host = "::1" if "::" in bind else LOOPBACK
            with anyio.fail_after(DEADLINE):
                session = (await server.visit()).session
                await session.wait_for_forwarded_port(port)
                assert await get(await anyio.connect_tcp(host, port)) == CONTENT
                # The same without a socket.
                assert await get(await session.connect_to_forwarded_port(port)) == CONTENT


async def test_option_r_with_a_port_of_our_choice(keys: Keys, tmp_path: Path) -> None:
    async with (
        web_server(tmp_path) as web,
        openssh_client(keys, tmp_path, ALL) as (_, ssh),
        ssh.running("-N", "-R", f"0:localhost:{web}", "ours") as process,
    ):
        found = re.search(rb"Allocated port (\d+)", await said(process))
        assert found
        await fetch_through(int(found[1]))


async def test_option_r_is_refused(keys: Keys, tmp_path: Path) -> None:
    policy = ForwardingPolicy(listen_on=["localhost:*"])
    async with openssh_client(keys, tmp_path, policy) as (_, ssh):
        for address in ("0.0.0.0:8080", "localhost:80"):
            async with ssh.running("-N", "-R", f"{address}:localhost:9", "ours") as process:
                with anyio.fail_after(DEADLINE):
                    assert await process.wait() == 255


async def test_option_d(keys: Keys, tmp_path: Path) -> None:
    async with web_server(tmp_path) as web, openssh_client(keys, tmp_path, ALL) as (_, ssh):
        port = free_port()
        async with ssh.running("-N", "-D", str(port), "ours"):
            await (await connect_soon(port)).aclose()
            url = f"http://localhost:{web}/file"
            for proxy in ("socks5h", "socks4a"):
                assert await curl("-x", f"{proxy}://{LOOPBACK}:{port}", url) == CONTENT


async def test_option_w(keys: Keys, tmp_path: Path) -> None:
    async with web_server(tmp_path) as web, openssh_client(keys, tmp_path, ALL) as (_, ssh):
        request = b"GET /file HTTP/1.0\r\n\r\n"
        answer = await ssh.output("-W", f"localhost:{web}", "ours", given=request)
        assert answer.partition(b"\r\n\r\n")[2] == CONTENT


async def test_option_j(keys: Keys, tmp_path: Path, sites: Sites) -> None:
    """A jump over our server to sshd."""
    sshd = sites["openssh"].port
    async with openssh_client(keys, tmp_path, ALL, sshd) as (_, ssh):
        assert await ssh.output("-J", "ours", "theirs", "cat", given=CONTENT) == CONTENT


async def test_sockets_with_option_l(keys: Keys, tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    async with (
        shouting(await anyio.create_unix_listener(far)),
        openssh_client(keys, tmp_path, ALL) as (_, ssh),
        ssh.running("-N", "-L", f"{near}:{far}", "ours"),
    ):
        await until_there(near)
        assert await ask(await anyio.connect_unix(near)) == b"HELLO"


async def until_there(path: Path) -> None:
    with anyio.fail_after(DEADLINE):
        while not await anyio.Path(path).exists():  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def test_sockets_with_option_r(keys: Keys, tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    async with (
        shouting(await anyio.create_unix_listener(far)),
        openssh_client(keys, tmp_path, ALL) as (server, ssh),
    ):
        async with ssh.running("-N", "-R", f"{near}:{far}", "ours"):
            await until_there(near)
            assert await ask(await anyio.connect_unix(near)) == b"HELLO"
            session = (await server.visit()).session
        with anyio.fail_after(DEADLINE):
            await session.wait_closed()
            while await anyio.Path(near).exists():  # noqa: ASYNC110
                await anyio.sleep(0.02)


# --- OpenSSH as the server


@asynccontextmanager
async def through_sshd(
    keys: Keys, sites: Sites, forwarding: ForwardingPolicy | None = None
) -> AsyncIterator[anyssh.ClientSession]:
    site = sites["openssh"]
    credentials = anyssh.ClientCredentials(site.user, keys=[our_key(keys.user["ed25519"])])
    async with our_client(site.port, site.hosts, credentials, forwarding=forwarding) as session:
        yield session


async def test_to_a_port_through_sshd(keys: Keys, sites: Sites, tmp_path: Path) -> None:
    async with (
        web_server(tmp_path) as web,
        through_sshd(keys, sites) as session,
        session.forward_to_remote_port(LOOPBACK, 0, "localhost", web) as forward,
    ):
        assert forward.local_port
        assert await get(await anyio.connect_tcp(LOOPBACK, forward.local_port)) == CONTENT
        assert await get(await session.stream_to_remote_port("localhost", web)) == CONTENT
        with pytest.raises(anyssh.ChannelOpenError) as failure:
            await session.stream_to_remote_port("localhost", free_port())
        assert failure.value.reason == anyssh.ChannelOpenFailureReason.CONNECT_FAILED


@pytest.mark.parametrize("bind", ["127.0.0.1", "localhost", "", "0.0.0.0", "::1", "::"])
@pytest.mark.parametrize("chosen", [True, False], ids=["any port", "given port"])
async def test_from_a_port_through_sshd(
    keys: Keys, sites: Sites, tmp_path: Path, bind: str, chosen: bool
) -> None:
    asked = 0 if chosen else free_port()
    async with (
        web_server(tmp_path) as web,
        through_sshd(keys, sites) as session,
        session.forward_from_remote_port(bind, asked, "localhost", web) as forward,
    ):
        port = forward.remote_port
        assert port
        assert asked in (0, port)
        assert await is_served(bind, port)
        with pytest.raises(anyssh.LocalProtocolError):
            async with session.forward_from_remote_port(bind, port, "localhost", web):
                pytest.fail("forwarded twice")
        await forward.stop_listening()
        # The same port again, once sshd has closed it.
        async with session.forward_from_remote_port(bind, port, "localhost", web) as again:
            assert await is_served(bind, port)
            assert again.remote_port == port


async def test_a_busy_port_of_sshd(keys: Keys, sites: Sites) -> None:
    async with (
        await anyio.create_tcp_listener(local_host="::1", local_port=0) as listener,
        through_sshd(keys, sites) as session,
    ):
        port = listener.extra(SocketAttribute.local_port)
        with pytest.raises(anyssh.RequestDenied):
            async with session.forward_from_remote_port("::1", port, LOOPBACK, 9):
                pytest.fail("forwarded a busy port")


async def test_streams_from_sshd(keys: Keys, sites: Sites) -> None:
    async with (
        through_sshd(keys, sites) as session,
        session.stream_from_remote_port(LOOPBACK, 0) as listener,
        shouting(listener),
    ):
        assert listener.remote_port
        for _ in range(3):
            assert await ask(await anyio.connect_tcp(LOOPBACK, listener.remote_port)) == b"HELLO"


async def test_a_jump_over_sshd(keys: Keys, sites: Sites) -> None:
    site = sites["openssh"]
    credentials = anyssh.ClientCredentials(site.user, keys=[our_key(keys.user["ed25519"])])
    verify = anyssh.pin(*(our_key(file).fingerprint for file in site.hosts))
    async with (
        through_sshd(keys, sites) as session,
        anyssh.ClientSession.connect(
            session.connectable(LOOPBACK, site.port), credentials=credentials, verify_host=verify
        ) as inner,
    ):
        assert await exchange(inner, GREETING) == (GREETING, 0)


async def test_sockets_through_sshd(keys: Keys, sites: Sites, tmp_path: Path) -> None:
    near, far, back = (str(tmp_path / name) for name in ("near", "far", "back"))
    async with (
        shouting(await anyio.create_unix_listener(far)),
        through_sshd(keys, sites) as session,
        session.forward_to_remote(UnixEndpoint(near), UnixEndpoint(far)),
        session.forward_from_remote(UnixEndpoint(back), UnixEndpoint(far)),
    ):
        assert await ask(await anyio.connect_unix(near)) == b"HELLO"
        assert await ask(await anyio.connect_unix(back)) == b"HELLO"
        assert await ask(await session.stream_to_remote(UnixEndpoint(far))) == b"HELLO"
    assert not await anyio.Path(near).exists()


async def test_a_proxy_through_sshd(keys: Keys, sites: Sites, tmp_path: Path) -> None:
    async with (
        web_server(tmp_path) as web,
        through_sshd(keys, sites) as session,
        session.forward_socks() as proxy,
    ):
        url = f"http://localhost:{web}/file"
        for scheme in ("socks5h", "socks5", "socks4a", "socks4"):
            address = f"{scheme}://{LOOPBACK}:{proxy.local_port}"
            assert await curl("-4", "-x", address, url) == CONTENT


async def test_a_proxy_at_sshd(keys: Keys, sites: Sites, tmp_path: Path) -> None:
    """Its clients say where we connect to, as far as our policy lets them."""
    async with (
        web_server(tmp_path) as web,
        through_sshd(keys, sites, ForwardingPolicy(connect_to=[f"localhost:{web}"])) as session,
        session.forward_socks_from_remote_port() as proxy,
    ):
        url = f"http://localhost:{web}/file"
        for scheme in ("socks5h", "socks5", "socks4a", "socks4"):
            address = f"{scheme}://{LOOPBACK}:{proxy.remote_port}"
            assert await curl("-4", "-x", address, url) == CONTENT
        address = f"socks5h://{LOOPBACK}:{proxy.remote_port}"
        with pytest.raises(subprocess.CalledProcessError) as failure:
            await curl("-x", address, f"http://localhost:{free_port()}/file")
        assert b"(2)" in failure.value.stderr  # not allowed by ruleset


# --- Dev Tunnels


async def echo_in_capitals(stream: ByteStream) -> None:
    """Answer each chunk at once: this family does not end one direction alone."""
    async with stream:
        with suppress(anyio.BrokenResourceError):
            async for chunk in stream:
                await stream.send(chunk.upper())


@asynccontextmanager
async def capitals() -> AsyncIterator[int]:
    """Give the port of a server that answers in capitals."""
    async with (
        await anyio.create_tcp_listener(local_host=LOOPBACK, local_port=0) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, echo_in_capitals)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def say(stream: ByteStream, words: bytes) -> bytes:
    """Say something and wait for an answer as long."""
    async with stream:
        await stream.send(words)
        heard = b""
        while len(heard) < len(words):
            heard += await stream.receive()
        return heard


async def test_dev_tunnels_client_forwards_through_our_server(keys: Keys) -> None:
    npm = require_peer("npm")
    hosts, key = keys.hosts(npm), keys.user["ecdsa256"]
    gate = Gate(USER, authorized=[key])
    async with (
        capitals() as target,
        our_server(gate, hosts, forwarding=ALL) as server,
    ):
        report = await npm.play(
            server.port, "forward", host_public_key=hosts, key=[key],
            target=target, closed=free_port(),
        )  # fmt: skip
    result = report.one("result")
    heard = ["STREAM TO", "FORWARD TO", "FORWARD FROM", "STREAM FROM", "AGAIN"]
    assert (result["heard"], result["twice"], result["reason"]) == (heard, True, 2)


@pytest.mark.parametrize("bind", ["127.0.0.1", "localhost", "0.0.0.0", ""])
async def test_our_client_forwards_through_a_dev_tunnels_server(keys: Keys, bind: str) -> None:
    npm = require_peer("npm")
    hosts, key = keys.hosts(npm), keys.user["ecdsa256"]
    credentials = anyssh.ClientCredentials(USER, keys=[our_key(key)])
    async with (
        capitals() as target,
        npm.server(host_key=hosts, authorized=keys.authorized, forwarding=True) as server,
        our_client(server.port, hosts, credentials) as session,
    ):
        stream = await session.stream_to_remote_port("localhost", target)
        assert await say(stream, b"stream to") == b"STREAM TO"
        async with session.forward_to_remote_port(LOOPBACK, 0, "localhost", target) as there:
            assert there.local_port
            near = await anyio.connect_tcp(LOOPBACK, there.local_port)
            assert await say(near, b"forward to") == b"FORWARD TO"
        for port in (0, free_port()):
            async with session.forward_from_remote_port(bind, port, LOOPBACK, target) as back:
                assert back.remote_port
                # The other side connects at once, without a socket.
                event = await server.event("answered")
                assert event["heard"] == f"PORT {back.remote_port}"
                far = await anyio.connect_tcp(LOOPBACK, back.remote_port)
                assert await say(far, b"forward from") == b"FORWARD FROM"
        async with (
            session.stream_from_remote_port(bind, 0) as listener,
            anyio.create_task_group() as tasks,
        ):
            assert listener.remote_port
            tasks.start_soon(listener.serve, echo_in_capitals)
            far = await anyio.connect_tcp(LOOPBACK, listener.remote_port)
            assert await say(far, b"stream from") == b"STREAM FROM"
            tasks.cancel_scope.cancel()
        with pytest.raises(anyssh.ChannelOpenError) as failure:
            await session.stream_to_remote_port(LOOPBACK, free_port())
        assert failure.value.reason == anyssh.ChannelOpenFailureReason.CONNECT_FAILED


async def test_many_options_r(keys: Keys, tmp_path: Path) -> None:
    """The client sends all of its requests at once, without waiting for answers."""
    # To different places, or the client asks only once.
    options = [word for port in range(1, 31) for word in ("-R", f"0:localhost:{port}")]
    async with (
        openssh_client(keys, tmp_path, ALL) as (server, ssh),
        ssh.running("-N", *options, "ours"),
    ):
        with anyio.fail_after(DEADLINE):
            session = (await server.visit()).session
            while len(session.forwarding.remote_ports) < 30:  # noqa: ASYNC110
                await anyio.sleep(0.02)
