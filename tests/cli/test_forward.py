"""``anyssh forward``: through our server and through sshd, and while the network is cut."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

import anyssh
from tests.interop.peers import KeyFile
from tests.interop.proxy import Way, proxy_to

from .conftest import know, sshd
from .program import DEADLINE, Anyssh, Running

pytestmark = pytest.mark.blocking_allowed  # only the tests themselves block

EVERYTHING = ("--allow-connect", "localhost:*", "--allow-listen", "localhost:*")


async def shout(stream: ByteStream) -> None:
    async with stream:
        with suppress(anyio.BrokenResourceError):  # a forward that ends aborts it
            async for chunk in stream:
                await stream.send(chunk.upper())


@asynccontextmanager
async def shouting() -> AsyncIterator[int]:
    """Run a service that forwards can lead to; give its port."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, shout)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def ask(port: int, text: bytes = b"hello") -> bytes:
    with anyio.fail_after(DEADLINE):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            return await exchange(stream, text)


async def exchange(stream: ByteStream, text: bytes) -> bytes:
    with anyio.fail_after(DEADLINE):
        await stream.send(text)
        answer = b""
        while len(answer) < len(text):
            answer += await stream.receive()
        return answer


async def ask_through_socks(port: int, target: int) -> bytes:
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        assert await socks_reply(stream, target) == 0
        return await exchange(stream, b"hello")


async def socks_reply(stream: ByteStream, target: int) -> int:
    """Ask a proxy for a port of this machine; return what it makes of that."""
    with anyio.fail_after(DEADLINE):
        await stream.send(b"\x05\x01\x00")
        assert await stream.receive(2) == b"\x05\x00"
        address = socket.inet_aton("127.0.0.1") + struct.pack(">H", target)
        await stream.send(b"\x05\x01\x00\x01" + address)
        reply = await stream.receive(10)
        assert reply[:1] == b"\x05"
        return reply[1]


async def port_of(running: Running, option: str, *, count: int = 1) -> int:
    """Wait until a forward is there; give the port that it has."""
    match = await running.line(rf"{option} connections to localhost:(\d+) ", count=count)
    return int(match[1])


async def test_every_kind_of_forward(user: Anyssh) -> None:
    path = user.home / "socket"
    async with shouting() as target, user.serve(*EVERYTHING) as server:
        forwards = (
            "-L", f"0:localhost:{target}", "-R", f"0:127.0.0.1:{target}", "-D", "0",
            "-L", f"{path}:localhost:{target}",
        )  # fmt: skip
        async with user.start("forward", "--accept-new", *forwards, server.place) as running:
            await running.line("connected to .*anyssh")
            assert await ask(await port_of(running, "-L")) == b"HELLO"
            assert await ask(await port_of(running, "-R")) == b"HELLO"
            assert await ask_through_socks(await port_of(running, "-D"), target) == b"HELLO"
            async with await anyio.connect_unix(path) as stream:
                assert await exchange(stream, b"hello") == b"HELLO"
            assert await running.finish(signal.SIGINT) == 0
            assert running.err == []
        assert not path.exists()


@pytest.mark.peers
async def test_every_kind_of_forward_through_sshd(user: Anyssh, keys: dict[str, KeyFile]) -> None:
    async with shouting() as target, sshd(user, keys) as server:
        forwards = (
            "-L", f"127.0.0.1:0:localhost:{target}", "-R", f"0:127.0.0.1:{target}", "-D", "0",
        )  # fmt: skip
        async with user.start("forward", *forwards, f"127.0.0.1:{server.port}") as running:
            await running.line("connected to .*OpenSSH")
            match = await running.line(r"-L connections to 127.0.0.1:(\d+) ")
            assert await ask(int(match[1])) == b"HELLO"
            assert await ask(await port_of(running, "-R")) == b"HELLO"
            assert await ask_through_socks(await port_of(running, "-D"), target) == b"HELLO"
            assert await running.finish(signal.SIGTERM) == 0


async def test_a_connection_that_does_not_come_about_is_told(user: Anyssh) -> None:
    async with user.serve("--allow-connect", "localhost:1") as server:
        forwards = ("-L", "0:localhost:1", "-D", "0")
        async with user.start("forward", "--accept-new", *forwards, server.place) as running:
            async with await anyio.connect_tcp("127.0.0.1", await port_of(running, "-L")) as stream:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
            await running.line("localhost:1.*Connect call failed|localhost:1.*refused")
            async with await anyio.connect_tcp("127.0.0.1", await port_of(running, "-D")) as stream:
                await stream.send(b"\x05\x01\x00\x05\x01\x00\x01\x7f\0\0\x01\0\x02")
                assert await stream.receive(2) == b"\x05\x00"
                assert await stream.receive() != b"\0"
            await running.line("127.0.0.1:2.*prohibited")
        refused = await server.running.line(r"localhost:1: .*|127.0.0.1:2: not allowed", count=2)
        assert "forward-failed" in refused.string


@pytest.mark.peers
@pytest.mark.parametrize("at", ["anyssh", "sshd"])
async def test_a_proxy_at_the_server(user: Anyssh, keys: dict[str, KeyFile], at: str) -> None:
    """It leads where we let it, and nowhere else."""
    async with shouting() as target, shouting() as other:
        serving = user.serve(*EVERYTHING) if at == "anyssh" else sshd(user, keys)
        async with serving as server:
            forwards = ("-R", "0", "--allow-connect", f"localhost:{target}")
            place = f"127.0.0.1:{server.port}"
            async with user.start("forward", "--accept-new", *forwards, place) as running:
                await running.line("-R connections to .* of the server go from here to .*SOCKS")
                port = await port_of(running, "-R")
                assert await ask_through_socks(port, target) == b"HELLO"
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    assert await socks_reply(stream, other) == 2
                await running.line(f"127.0.0.1:{other}: not allowed")
                assert await running.finish(signal.SIGTERM) == 0


async def test_a_connection_survives_the_network(user: Anyssh) -> None:
    async with shouting() as target, user.serve(*EVERYTHING) as server:
        await know(user, user.host_key(), server.port)
        async with proxy_to(server.port) as proxy:
            await know(user, user.host_key(), proxy.port)
            place = f"127.0.0.1:{proxy.port}"
            forward = f"0:localhost:{target}"
            async with user.start("forward", "-L", forward, place) as running:
                port = await port_of(running, "-L")
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    for count in range(1, 4):
                        assert await exchange(stream, b"hello") == b"HELLO"
                        proxy.last.cut_after(Way.TO_SERVER, 20_000)
                        big = bytes(100_000)
                        assert await exchange(stream, big) == big
                        await running.line("the network is lost", count=count)
                        await running.line("reconnected after .*; nothing is lost", count=count)
                assert await running.finish(signal.SIGINT) == 0
                assert running.err == []
        assert (await server.running.event("reconnected"))["count"] == 1


async def test_a_server_that_was_started_anew(user: Anyssh) -> None:
    """Ports and sockets stay, and who connects while there is no server waits."""
    path = user.home / "socket"
    async with shouting() as target, user.serve(*EVERYTHING) as server:
        await know(user, user.host_key(), server.port)
        forwards = (
            "-L", f"0:localhost:{target}", "-L", f"{path}:localhost:{target}",
            "-R", f"0:127.0.0.1:{target}", "-R", "0", "--allow-connect", f"localhost:{target}",
        )  # fmt: skip
        async with user.start("forward", *forwards, server.place) as running:
            port = await port_of(running, "-L")
            remote = await port_of(running, "-R")
            proxy = await port_of(running, "-R", count=2)
            assert await ask(port) == b"HELLO"
            await server.running.finish()
            await running.line("the session is over .*shutting down.*; connecting again")
            async with (
                await anyio.connect_tcp("127.0.0.1", port) as early,
                await anyio.connect_tcp("::1", port) as second,
                await anyio.connect_unix(path) as third,
                user.serve(*EVERYTHING, port=server.port),
            ):
                await running.line("connected again to .* after .*; the forwards are restored")
                for stream in (early, second, third):
                    assert await exchange(stream, b"early") == b"EARLY"
                assert await port_of(running, "-R", count=3) == remote
                assert await port_of(running, "-R", count=4) == proxy
                assert await ask(remote) == b"HELLO"
                assert await ask_through_socks(proxy, target) == b"HELLO"
                assert await running.finish(signal.SIGINT) == 0
        assert not path.exists()


@pytest.mark.peers
async def test_sshd_is_connected_to_again(user: Anyssh, keys: dict[str, KeyFile]) -> None:
    async with shouting() as target, sshd(user, keys) as server, proxy_to(server.port) as proxy:
        await know(user, anyssh.import_key_file(keys["ed25519"].public), proxy.port)
        forwards = ("-L", f"0:localhost:{target}", "-R", f"0:127.0.0.1:{target}")
        async with user.start("forward", *forwards, f"127.0.0.1:{proxy.port}") as running:
            port = await port_of(running, "-L")
            remote = await port_of(running, "-R")
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                assert await exchange(stream, b"hello") == b"HELLO"
                proxy.last.cut()
                await running.line("the session is over .*; connecting again")
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
            await running.line("connected again to .*, earlier connections are broken")
            assert await ask(port) == b"HELLO"
            assert await port_of(running, "-R", count=2) == remote
            assert await ask(remote) == b"HELLO"
            assert await running.finish(signal.SIGINT) == 0


async def test_a_silent_network_is_noticed(user: Anyssh) -> None:
    async with (
        shouting() as target,
        user.serve(*EVERYTHING) as server,
        proxy_to(server.port) as proxy,
    ):
        await know(user, user.host_key(), proxy.port)
        place = f"127.0.0.1:{proxy.port}"
        arguments = ("-L", f"0:localhost:{target}", "--keep-alive", "0.3", place)
        async with user.start("forward", *arguments) as running:
            port = await port_of(running, "-L")
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                assert await exchange(stream, b"hello") == b"HELLO"
                proxy.last.freeze()
                assert await exchange(stream, b"still there") == b"STILL THERE"
                await running.line("reconnected after .*; nothing is lost")


async def test_what_does_not_come_up(user: Anyssh, tmp_path: Path) -> None:
    async with user.serve() as server:
        await know(user, user.host_key(), server.port)
        told = await user.run("forward", "-R", "0:localhost:80", server.place)
        assert "the server refuses to listen on localhost:0" in told.complaint
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            forward = f"127.0.0.1:{port}:localhost:80"
            told = await user.run("forward", "-L", forward, server.place)
            assert told.complaint == (
                f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another port"
            )
        told = await user.run("forward", "-L", f"{tmp_path}/no/sock:localhost:80", server.place)
        assert "cannot listen on" in told.complaint
        told = await user.run("forward", server.place)
        assert told.complaint.startswith("say what to forward with -L, -R or -D")
        for wrong in ("80", "a:b:c", "1:2:3:4:5", "80:host:99999", "[::1:80:h:80"):
            told = await user.run("forward", "-L", wrong, server.place)
            assert repr(wrong) in told.complaint
        told = await user.run("forward", "-R", "0", server.place)
        assert "specify what it may reach with --allow-connect, such as " in told.complaint
        told = await user.run("forward", "-R", "0", "--allow-connect", "80", server.place)
        assert told.complaint.startswith("'80' is not a pattern: expected ")
        told = await user.run(
            "forward", "-L", "0:localhost:80", "--allow-connect", "*:*", server.place
        )
        assert told.complaint == "--allow-connect is for -R without host:port"
