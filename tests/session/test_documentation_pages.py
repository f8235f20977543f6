"""More examples of the documentation, executed: the tutorial, programs, and single calls."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute, TaskStatus
from anyio.streams.tls import TLSListener

import anyssh
from anyssh.testing import session_pair
from tests.examples import (
    PORT,
    ROOT,
    block_with,
    blocks,
    executes,
    free_port,
    run_block,
    run_program,
    running,
    running_process,
)
from tests.session.ends import ALICE, at_once, host_key, make_server, pinned
from tests.tls import self_signed


async def answer(stream: ByteStream) -> None:
    async with stream:
        with suppress(anyio.BrokenResourceError):  # who leaves may abort it
            async for chunk in stream:
                await stream.send(chunk.upper())


async def echo(session: anyssh.ServerSession) -> None:
    async def give_back(channel: anyssh.Channel) -> None:
        async for chunk in channel:
            await channel.send(chunk)

    await session.serve(give_back)


@asynccontextmanager
async def listening(serve: Any) -> AsyncIterator[int]:
    """Serve a listener of loopback; give its port."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(serve, listener)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def answering() -> AsyncIterator[int]:
    async with listening(lambda listener: listener.serve(answer)) as port:
        yield port


# The README, the tutorial, the quickstart


@executes("README.md", "as_connectable")
async def test_the_session_of_the_readme_that_survives() -> None:
    server = make_server(config=anyssh.SessionConfig.with_reconnect())
    async with listening(lambda listener: server.serve(listener, echo)) as port:
        names: dict[str, Any] = {}
        await run_block(block_with("README.md", "as_connectable").replace(PORT, str(port)), names)
        await names["main"](host_key().fingerprint)
    assert server.statistics.total_logins == 1


@executes("docs/tutorial.md")
def test_the_tutorial(tmp_path: Path) -> None:
    server, client = blocks("docs/tutorial.md")
    with running_process(server, tmp_path) as (port, fingerprint, process):
        status, told, errors = run_program(client, tmp_path, fingerprint, port=port)
        assert (status, errors) == (0, "")
        *first, lost, found, fourth, fifth = told.splitlines()
        assert first == [f"b'HELLO {number}'" for number in (1, 2, 3)]
        assert (fourth, fifth) == ("b'HELLO 4'", "b'HELLO 5'")
        assert lost.startswith("    Disconnected(error=")
        assert found == "    Reconnected(count=1)"
        wrong = fingerprint[:-1] + ("A" if fingerprint[-1] != "A" else "B")
        for program, key, error in [
            (client, wrong, "HostKeyError"),
            (client.replace("wonderland", "looking-glass"), fingerprint, "AuthenticationError"),
        ]:
            status, told, errors = run_program(program, tmp_path, key, port=port)
            assert (status, told) == (1, "")
            assert f"\nanyssh.errors.{error}: " in errors
            assert "ExceptionGroup" not in errors
        process.kill()
        assert process.stdout is not None
        assert process.stdout.read() == "alice connected\nalice left\n"


def test_the_tutorial_tells_what_one_sees(tmp_path: Path) -> None:
    (shown,) = [
        block
        for block in (ROOT / "docs/tutorial.md").read_text().split("```")
        if block.startswith("text\nb'HELLO")
    ]
    server, client = blocks("docs/tutorial.md")
    with running(server, tmp_path) as (port, fingerprint):
        _, told, _ = run_program(client, tmp_path, fingerprint, port=port)
    assert told == shown.removeprefix("text\n")


QUICKSTART = "docs/quickstart.md"


@executes(QUICKSTART, "KeyboardInteractiveAttempt", "getpass", "test_my_handler")
async def test_the_quickstart_asks_for_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(text: str) -> str:
        assert text == "Code: "
        return codes.pop()

    monkeypatch.setattr("getpass.getpass", ask)
    names: dict[str, Any] = {"anyssh": anyssh, "code_is_right": lambda name, code: code == "42"}
    names["anyio"] = anyio
    for text in ("KeyboardInteractiveAttempt", "getpass", "test_my_handler"):
        await run_block(block_with(QUICKSTART, text), names)
    await names["test_my_handler"]()

    for codes in (["42"], ["41"]):
        pair = session_pair(
            authenticate=names["authenticate"],
            credentials=names["credentials"],
        )
        if codes == ["42"]:
            async with pair as (_, server):
                assert server.principal == "alice"
        else:
            with pytest.raises(anyssh.AuthenticationError):
                await pair.__aenter__()


@executes(QUICKSTART, "generate_key", "keep_alive_interval")
async def test_the_quickstart_makes_keys_and_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"anyssh": anyssh}
    block = block_with(QUICKSTART, "generate_key")
    await anyio.to_thread.run_sync(exec, block, names)
    assert names["credentials"].keys == (names["key"],)
    assert names["key"].comment == "alice@example.com"
    assert (tmp_path / "id_ed25519").stat().st_mode & 0o077 == 0
    await run_block(block_with(QUICKSTART, "keep_alive_interval"), names)
    assert names["config"].limits.authentication_time == 20


# How to


@pytest.mark.skipif(
    shutil.which("ssh-keygen") is None and "CI" not in os.environ, reason="no ssh-keygen"
)
@executes("docs/how-to/authorized-keys.md")
def test_the_server_with_authorized_keys(tmp_path: Path) -> None:
    server, client = blocks("docs/how-to/authorized-keys.md")
    commands = (ROOT / "docs/how-to/authorized-keys.md").read_text().split("```sh\n")[1]
    with running(server, tmp_path) as (port, fingerprint):
        subprocess.run(["sh", "-ec", commands.split("```")[0]], cwd=tmp_path, check=True)
        done = run_program(client, tmp_path, fingerprint, port=port)
        assert done == (0, "b'let in by key'\n", "")
        other = anyssh.generate_key("ssh-ed25519")
        with_options = f'command="true" {anyssh.export_public_key(other)}'
        (tmp_path / "keys" / "alice").write_text(f"# nobody\n{with_options}")
        status, _, errors = run_program(client, tmp_path, fingerprint, port=port)
        assert (status, "AuthenticationError" in errors) == (1, True)
    assert (tmp_path / "host_key").stat().st_mode & 0o077 == 0
    with running(server, tmp_path) as (_, again):
        assert again == fingerprint


@executes("docs/how-to/tunnel.md")
def test_the_tunnel_that_survives(tmp_path: Path) -> None:
    client, server = blocks("docs/how-to/tunnel.md")
    with running(server, tmp_path) as (port, fingerprint):
        anyio.run(use_tunnel, client, tmp_path, int(port), fingerprint)


async def use_tunnel(program: str, folder: Path, port: int, fingerprint: str) -> None:
    path = anyio.Path(folder / "tunnel.py")
    await path.write_text(program)
    proxy = CuttingProxy(port)
    async with answering() as target, listening(proxy.serve) as between:
        arguments = ["127.0.0.1", str(between), fingerprint, str(target)]
        async with await anyio.open_process(
            [sys.executable, str(path), *arguments], env={"PYTHONPATH": str(ROOT)}, stderr=None
        ) as process:
            assert process.stdout is not None
            lines = Lines(process.stdout)
            tunnel = int((await lines.next()).split()[-1])
            async with await anyio.connect_tcp("127.0.0.1", tunnel) as stream:
                await stream.send(b"before")
                assert await stream.receive() == b"BEFORE"
                proxy.cut()
                await stream.send(b"after")
                assert await stream.receive() == b"AFTER"
            assert (await lines.next()).startswith("waiting for the network: ")
            assert await lines.next() == "back again, for the 1 time"
            process.terminate()
        assert proxy.connections == 2


class Lines:
    """The lines that a process writes."""

    def __init__(self, stream: anyio.abc.ByteReceiveStream) -> None:
        self._stream = stream
        self._rest = b""

    async def next(self) -> str:
        while b"\n" not in self._rest:
            self._rest += await self._stream.receive()
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()


class CuttingProxy:
    """Passes connections on, and cuts them when told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._scope = anyio.CancelScope()
        self.connections = 0

    def cut(self) -> None:
        self._scope.cancel()

    async def serve(self, listener: anyio.abc.Listener[ByteStream]) -> None:
        await listener.serve(self._pass_on)

    async def _pass_on(self, near: ByteStream) -> None:
        self.connections += 1
        async with near, await anyio.connect_tcp("127.0.0.1", self._port) as far:
            with anyio.CancelScope() as self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(copy, near, far)
                    tasks.start_soon(copy, far, near)


async def copy(source: ByteStream, target: ByteStream) -> None:
    try:
        async for chunk in source:
            await target.send(chunk)
    except anyio.BrokenResourceError:
        return


JUMP = "docs/how-to/jump-host.md"


@executes(JUMP)
async def test_the_jump_host(capsys: pytest.CaptureFixture[str]) -> None:
    async def let_bob_in(attempt: anyssh.AuthAttempt) -> object | None:
        match attempt:
            case anyssh.PasswordAttempt(username="bob", password="looking-glass"):
                return "bob"
        return None

    policy = anyssh.ForwardingPolicy(connect_to=["localhost:*"])
    inner = make_server(authenticate=let_bob_in, forwarding=policy)
    async with (
        listening(lambda listener: inner.serve(listener, echo)) as port,
        session_pair(server_forwarding=policy) as (session, _),
    ):
        names: dict[str, Any] = {"anyssh": anyssh, "session": session, "inner_port": port}
        names["inner_fingerprint"] = fingerprint = host_key().fingerprint
        await run_block(block_with(JUMP, "# ssh -J"), names)
        assert capsys.readouterr().out == "b'two hops away'\n"
        await run_block(block_with(JUMP, "AsyncExitStack"), names)
        async with AsyncExitStack() as stack:
            hops = [(port, fingerprint), (port, fingerprint)]
            last = await names["connect_through"](stack, session, hops)
            async with await last.open_channel() as channel:
                await channel.send(b"three hops")
                assert await channel.receive() == b"three hops"
    assert inner.statistics.total_logins == 3


TLS = "docs/how-to/tls.md"


@executes(TLS)
async def test_tls_over_a_channel_and_below_a_session(tmp_path: Path) -> None:
    certificate, key = await anyio.to_thread.run_sync(self_signed, tmp_path)
    far = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    far.load_cert_chain(certificate, key)
    near = ssl.create_default_context(cafile=str(certificate))
    names: dict[str, Any] = {"anyssh": anyssh, "anyio": anyio}
    for block in blocks(TLS):
        await run_block(block, names)

    async def serve(listener: anyio.abc.Listener[Any]) -> None:
        await TLSListener(listener, far, standard_compatible=False).serve(answer)

    policy = anyssh.ForwardingPolicy(connect_to=["localhost:*"])
    async with listening(serve) as port, session_pair(server_forwarding=policy) as (session, _):
        assert await names["ask_over_tls"](session, port, near) == b"HELLO"
    port = int(free_port())
    server = make_server()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(names["serve_over_tls"], server, port, far)
        fingerprint = host_key().fingerprint
        while True:
            try:
                name = await names["peer_name"]("localhost", port, near, fingerprint)
            except OSError:  # nobody listens yet
                await anyio.sleep(0.01)
            else:
                break
        assert name == "anyssh"
        tasks.cancel_scope.cancel()


@executes("docs/how-to/websocket.md", "async def relay")
def test_the_relay_of_websockets(tmp_path: Path) -> None:
    anyio.run(use_relay, block_with("docs/how-to/websocket.md", "async def relay"), tmp_path)


async def use_relay(program: str, folder: Path) -> None:
    from anyssh.websocket import WebSocketConnectable

    server = make_server(config=anyssh.SessionConfig.with_reconnect())
    async with listening(lambda listener: server.serve(listener, echo)) as target:
        relay = running(program, folder, "127.0.0.1", str(target))
        port, _ = await anyio.to_thread.run_sync(relay.__enter__)
        try:
            async with (
                anyssh.ClientSession.connect(
                    WebSocketConnectable(url=f"ws://127.0.0.1:{port}/", subprotocols=["ssh"]),
                    credentials=ALICE,
                    verify_host=pinned(),
                    config=anyssh.SessionConfig.with_reconnect(),
                ) as session,
                await session.open_channel() as channel,
            ):
                for _ in range(2):
                    await channel.send(b"through a relay")
                    assert await channel.receive() == b"through a relay"
                    await session.disconnect(anyssh.DisconnectReason.CONNECTION_LOST)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(relay.__exit__, None, None, None)


@executes("docs/how-to/streams.md", "open_process", "FileReadStream")
def test_streams_over_a_pipe_to_a_child(tmp_path: Path) -> None:
    child = block_with("docs/how-to/streams.md", "FileReadStream")
    (tmp_path / "child.py").write_text(child)
    parent = block_with("docs/how-to/streams.md", "open_process")
    assert run_program(parent, tmp_path) == (0, "b'FIRST' b'dnoces'\n", "")


@executes("docs/how-to/reconnect.md", "session.reconnect")
async def test_reconnecting_by_hand() -> None:
    config = anyssh.SessionConfig.with_reconnect()
    server = make_server(config=config)
    async with listening(lambda listener: server.serve(listener, echo)) as port:
        block = block_with("docs/how-to/reconnect.md", "session.reconnect")
        async with anyssh.ClientSession.connect(
            await anyio.connect_tcp("127.0.0.1", port),
            credentials=ALICE,
            verify_host=pinned(),
            config=config,
        ) as session:
            channel = await session.open_channel()
            await session.disconnect(anyssh.DisconnectReason.CONNECTION_LOST)
            await channel.send(b"kept")
            names = {"session": session, "anyio": anyio}
            await run_block(block.replace(PORT, str(port)), names)
            assert await channel.receive() == b"kept"
            assert session.metrics.reconnections == 1


@executes("docs/how-to/verify-host-keys.md", "SERVER_KEY")
async def test_the_verifier_that_compares_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await anyssh.to_thread.export_public_key_file(host_key(), tmp_path / "server.pub")
    block = block_with("docs/how-to/verify-host-keys.md", "SERVER_KEY")
    names: dict[str, Any] = {}
    await anyio.to_thread.run_sync(exec, block, names)
    version = anyssh.PeerVersion.parse("SSH-2.0-test")
    for key, is_right in ((host_key(), True), (anyssh.generate_key("ssh-ed25519"), False)):
        presented = anyssh.PresentedHostKey(key, version)
        assert await names["verify_host"](presented) is is_right


WATCH = "docs/how-to/watch.md"


@contextmanager
def root_logger_kept() -> Any:
    root, ours = logging.getLogger(), logging.getLogger("anyssh")
    before = (root.handlers[:], root.level, ours.level)
    root.handlers.clear()
    try:
        yield root
    finally:
        root.handlers[:], level, ours.level = before
        root.setLevel(level)


@executes(WATCH)
async def test_watching(capsys: pytest.CaptureFixture[str]) -> None:
    with root_logger_kept() as root:
        await run_block(block_with(WATCH, "basicConfig"), {})
        assert (root.level, logging.getLogger("anyssh").level) == (logging.INFO, logging.WARNING)
    config = anyssh.SessionConfig.with_reconnect()
    server = make_server(config=config)
    async with listening(lambda listener: server.serve(listener, echo)) as port:
        names: dict[str, Any] = {"anyssh": anyssh, "anyio": anyio, "port": port}
        names["fingerprint"] = host_key().fingerprint
        await run_block(block_with(WATCH, "on_trace"), names)
        told = capsys.readouterr().out
        for words in ("9110 SESSION_ENCRYPTED", "9111 SESSION_AUTHENTICATING as 'alice'",
                      " StartingKeyExchange\n", "kex="):  # fmt: skip
            assert words in told
        async with anyssh.ClientSession.connect(
            anyio.as_connectable(("127.0.0.1", port)),
            credentials=ALICE, verify_host=pinned(), config=config,
        ) as session, anyio.create_task_group() as tasks:  # fmt: skip
            await run_block(block_with(WATCH, "async def report"), names)
            tasks.start_soon(names["report"], session)
            async with await session.open_channel() as channel:
                await channel.send(b"hello")
                assert await channel.receive() == b"hello"
                names["session"] = session
                await run_block(block_with(WATCH, "session.contour.export"), names)
                told = capsys.readouterr().out
                assert told.startswith("bytes: True True\nround trip in milliseconds: ")
                assert "session 5 5" in told
                await session.disconnect(anyssh.DisconnectReason.CONNECTION_LOST)
                await channel.send(b"again")
                assert await channel.receive() == b"again"
            while "reconnected, 1" not in told:
                await anyio.lowlevel.checkpoint()
                told += capsys.readouterr().out
            assert "lost the stream: " in told
            tasks.cancel_scope.cancel()


# Explanations


STRUCTURE = "docs/explanation/structured-concurrency.md"


@executes(STRUCTURE)
async def test_what_structured_concurrency_guarantees(capsys: pytest.CaptureFixture[str]) -> None:
    server = make_server(forwarding=anyssh.ForwardingPolicy(connect_to=["localhost:*"]))
    async with listening(lambda listener: server.serve(listener, echo)) as port:
        names: dict[str, Any] = {"anyssh": anyssh, "anyio": anyio, "port": port, "target": port}
        names["fingerprint"] = host_key().fingerprint
        await run_block(block_with(STRUCTURE, "and closed again"), names)
        told = capsys.readouterr().out.splitlines()
        assert told[1:] == ["and closed again", "SessionState.CLOSED"]
        tunnel = int(told[0].split()[1])
        with socket.socket() as trial:
            assert trial.connect_ex(("127.0.0.1", tunnel)) != 0
    async with session_pair() as (client, server_session):
        channel, far = await at_once(client.open_channel(), server_session.accept_channel())
        names = {"anyio": anyio, "channel": channel}

        async def give_back(*, task_status: TaskStatus[None]) -> None:
            task_status.started()
            await far.send(await far.receive())

        async with anyio.create_task_group() as tasks:
            await tasks.start(give_back)
            await run_block(block_with(STRUCTURE, "move_on_after"), names)
        assert capsys.readouterr().out == (
            "gave up: True\nb'and the channel is as good as before'\n"
        )
        names = {"anyio": anyio, "session": client}

        async def collect() -> None:
            work = await server_session.accept_channel()
            assert b"".join([chunk async for chunk in work]) == b"workgoodbye"

        await at_once(run_block(block_with(STRUCTURE, "finally"), names), collect())


@executes("docs/errors.md")
async def test_catching_errors(capsys: pytest.CaptureFixture[str]) -> None:
    server = make_server()
    (block,) = blocks("docs/errors.md")
    right, wrong = host_key().fingerprint, anyssh.generate_key("ssh-ed25519").fingerprint
    async with listening(lambda listener: server.serve(listener, echo)) as port:
        for fingerprint, password, told in [
            (right, "wonderland", "let in by anyssh\n"),
            (wrong, "wonderland", "the wrong server: the ssh-ed25519 host key"),
            (right, "looking-glass", "not let in; the server would take ('publickey', "),
        ]:
            names = {"anyssh": anyssh, "anyio": anyio, "port": port}
            names |= {"fingerprint": fingerprint, "password": password}
            await run_block(block, names)
            assert capsys.readouterr().out.startswith(told)
    await run_block(block, names)
    assert capsys.readouterr().out.startswith("nobody answers: ")

    async def say_http(stream: ByteStream) -> None:
        await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    async with listening(lambda listener: listener.serve(say_http)) as port:
        await run_block(block, names | {"port": port})
    assert capsys.readouterr().out.startswith("it did not work: ")


# Migration


@asynccontextmanager
async def running_commands() -> AsyncIterator[anyssh.ClientSession]:
    """Give a session with a server that says what it was asked to run."""

    async def pretend(channel: anyssh.Channel) -> None:
        async for request in channel.requests():
            await request.accept()
            await channel.send(b"out: " + anyssh.wire.Reader(request.payload).string())
            await channel.send_stderr(b"err")
            await channel.aclose(exit_status=3)

    async with session_pair() as (client, server), anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, pretend)
        yield client
        tasks.cancel_scope.cancel()


ASYNCSSH, PARAMIKO = "docs/migration/asyncssh.md", "docs/migration/paramiko.md"


@executes("docs/migration/asyncssh.md")
async def test_what_one_did_with_asyncssh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"anyssh": anyssh, "anyio": anyio}
    for block in blocks(ASYNCSSH):
        await run_block(block, names)
    async with running_commands() as session:
        assert await names["run"](session, "ls -l") == (3, b"out: ls -l", b"err")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    key = anyssh.generate_key("ssh-ed25519")
    await anyssh.to_thread.export_private_key_file(key, "id_ed25519", "openssh")

    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        is_right = isinstance(attempt, anyssh.PublicKeyAttempt) and attempt.public_key == key
        return attempt.username if is_right else None

    async def greet(channel: anyssh.Channel) -> None:
        async for request in channel.requests():
            await request.accept()
            await channel.send(b"hello\n")
            await channel.aclose(exit_status=0)

    async def pretend(session: anyssh.ServerSession) -> None:
        await session.serve(greet)

    server = make_server(authenticate=authenticate)
    async with listening(lambda listener: server.serve(listener, pretend)) as port:
        known = await anyssh.KnownHosts.load(tmp_path / ".ssh" / "known_hosts")
        await known.add(host_key(), "127.0.0.1", port)
        await names["connect"]("127.0.0.1", port, "alice")
    assert capsys.readouterr().out == "b'hello\\n' (0, b'hello\\n', b'')\n"


@executes("docs/migration/paramiko.md")
async def test_what_one_did_with_paramiko() -> None:
    names: dict[str, Any] = {"anyssh": anyssh, "anyio": anyio}
    for block in blocks(PARAMIKO):
        await run_block(block, names)
    async with running_commands() as session:
        assert await names["exec_command"](session, "ls -l") == (b"out: ls -l", 3)

    async def pretend(session: anyssh.ServerSession) -> None:
        channel = await session.accept_channel()
        async for request in channel.requests():
            await request.accept()
            await channel.send(b"from a thread")
            await channel.aclose(exit_status=0)

    server = make_server()
    async with listening(lambda listener: server.serve(listener, pretend)) as port:
        arguments = (port, host_key().fingerprint, "ls")
        done = await anyio.to_thread.run_sync(names["run_from_a_thread"], *arguments)
    assert done == (b"from a thread", 0)


@executes("docs/migration/dev-tunnels-typescript.md")
@executes("docs/migration/dev-tunnels-csharp.md")
async def test_what_one_did_with_dev_tunnels(capsys: pytest.CaptureFixture[str]) -> None:
    server = make_server()
    async with listening(lambda listener: server.serve(listener, echo)) as port:
        for language in ("typescript", "csharp"):
            names: dict[str, Any] = {"anyssh": anyssh, "anyio": anyio}
            (block,) = blocks(f"docs/migration/dev-tunnels-{language}.md")
            await run_block(block, names)
            await names["talk"](await anyio.connect_tcp("127.0.0.1", port), pinned())
            assert capsys.readouterr().out == "b'hello'\n"


SERVICE = "docs/contributing/service.md"


@executes(SERVICE)
async def test_adding_a_service(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"anyssh": anyssh}
    await run_block(block_with(SERVICE, "class Counter"), names)
    async with session_pair(server_services={names["Counter"]: 41}) as (client, _):
        await run_block(block_with(SERVICE, "counts.receive"), names | {"session": client})
    assert capsys.readouterr().out == "42\nb'42\\n'\nb'43\\n'\n"
