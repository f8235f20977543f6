"""The examples of the documentation, executed: complete programs, unchanged but for their ports."""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute

import anyssh
from anyssh.testing import memory_stream_pair, session_pair
from tests.authority import certified, string
from tests.examples import (
    PAGES,
    PORT,
    ROOT,
    block_with,
    blocks,
    claims,
    compiled,
    executes,
    free_port,
    run_block,
    run_program,
    running,
    running_process,
    until,
)
from tests.session.ends import at_once, host_key, make_server, receive_exactly
from tests.session.test_agent import OwnAgent

EXAMPLES = [
    pytest.param(block, id=f"{page.parent.name}-{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page))
]


def test_every_example_is_run_by_a_test() -> None:
    run = {(str(ROOT / page), block) for page, block in claims()}
    idle = [
        f"{page.relative_to(ROOT)}: {block.splitlines()[0]}"
        for page in PAGES
        for block in blocks(page)
        if (str(page), block) not in run
    ]
    assert idle == []


def test_a_test_runs_what_it_says() -> None:
    @executes("README.md", "create_tcp_listener")
    def idle() -> None:
        pass

    with pytest.raises(AssertionError, match="does not run what it says"):
        idle()


@pytest.mark.parametrize("block", EXAMPLES)
def test_every_example_is_python(block: str) -> None:
    compiled(block)


@pytest.mark.parametrize("block", EXAMPLES)
def test_every_name_of_ours_in_an_example_exists(block: str) -> None:
    for dotted in re.findall(r"\b(anyssh(?:\.\w+)+)", block):
        assert resolve_name(dotted) is not None


def resolve_name(dotted: str) -> Any:
    """Return what a dotted name stands for; modules are imported on the way."""
    found: Any = anyssh
    path = "anyssh"
    for name in dotted.split(".")[1:]:
        path += f".{name}"
        found = getattr(found, name) if hasattr(found, name) else importlib.import_module(path)
    return found


@executes("README.md", "create_tcp_listener", "connect_tcp(")
def test_the_server_and_the_client_of_the_readme(tmp_path: Path) -> None:
    server = block_with("README.md", "create_tcp_listener")
    client = block_with("README.md", "connect_tcp(")
    with running(server, tmp_path) as (port, fingerprint):
        path = tmp_path / "client.py"
        path.write_text(client.replace(PORT, port))
        done = subprocess.run(
            [sys.executable, path, fingerprint], cwd=ROOT, capture_output=True, text=True,
            env={"PYTHONPATH": str(ROOT)}, timeout=30, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'hello'\n", "")


@executes("docs/quickstart.md", "run_command", "wait_closed", "incoming_channels")
async def test_commands_of_the_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    in_one_call = block_with("docs/quickstart.md", "run_command")
    by_a_channel = block_with("docs/quickstart.md", "wait_closed")
    server_side = block_with("docs/quickstart.md", "incoming_channels")
    names: dict[str, Any] = {"anyssh": anyssh}
    exec(compiled(server_side), names)  # noqa: S102
    async with session_pair() as (client, server), anyio.create_task_group() as tasks:
        tasks.start_soon(names["handle"], server)
        names["session"] = client
        for client_side in (in_one_call, by_a_channel):
            await eval(compiled(client_side), names)  # noqa: S307
        tasks.cancel_scope.cancel()
    told = "0 b'this is standard output\\n' b'and this is standard error\\n'\n"
    assert capsys.readouterr().out == 2 * told


@pytest.mark.skipif(
    shutil.which("ssh-keygen") is None and "CI" not in os.environ, reason="no ssh-keygen"
)
@executes("docs/how-to/certificates.md", "create_tcp_listener", "ClientSession.connect")
def test_the_server_and_the_client_with_certificates(tmp_path: Path) -> None:
    page = "docs/how-to/certificates.md"
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    subprocess.run(["sh", "-e", "-c", commands], cwd=tmp_path, check=True)
    client = block_with(page, "ClientSession.connect")
    with running(block_with(page, "create_tcp_listener"), tmp_path) as (port, fingerprint):
        assert fingerprint == anyssh.import_key_file(tmp_path / "host.pub").fingerprint
        done = subprocess.run(
            [sys.executable, "-c", client.replace(PORT, port)], cwd=tmp_path, capture_output=True,
            text=True, env={"PYTHONPATH": str(ROOT)}, timeout=30, check=False,
        )  # fmt: skip
    told = "b'hello' ssh-ed25519-cert-v01@openssh.com\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")


@executes("docs/how-to/certificates.md", "command_to_run", "principals_for")
async def test_roles_and_restrictions_of_the_how_to() -> None:
    names: dict[str, Any] = {}
    page = "docs/how-to/certificates.md"
    for text in ("command_to_run", "principals_for"):
        exec(compiled(block_with(page, text)), names)  # noqa: S102
    authority, key = anyssh.generate_key("ssh-ed25519"), anyssh.generate_key("ssh-ed25519")
    options = [("force-command", string("uptime"))]
    certificate = certified(
        key, authority, principals=["on-call"], critical_options=options,
        extensions=[("permit-pty", b"")],
    )  # fmt: skip
    with pytest.raises(anyssh.CertificateError, match="not issued for"):
        await names["authorities"](authority).check(certificate, "root", None)
    with pytest.raises(anyssh.CertificateError, match="force-command"):
        await names["authorities_with_roles"](authority).check(certificate, "root", None)
    alices = certified(key, authority, critical_options=options)
    await names["authorities"](authority).check(alices, "alice", None)
    await names["authorities_with_roles"](authority).check(
        certified(key, authority, principals=["on-call"]), "root", None
    )
    session = SimpleNamespace(principal=certificate)
    assert names["command_to_run"](session, "ls") == "uptime"
    assert names["may_have_terminal"](certificate) is True
    assert names["may_have_terminal"](alices) is False


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell")
@executes("docs/how-to/exec-server.md")
def test_the_server_that_runs_commands(tmp_path: Path) -> None:
    program = block_with("docs/how-to/exec-server.md", "create_tcp_listener")
    with running(program, tmp_path) as (port, fingerprint):
        anyio.run(use_commands, int(port), fingerprint, tmp_path)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum")
@executes("docs/how-to/files.md")
def test_a_file_is_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "a target"
    source.write_bytes(os.urandom(3_000_000))
    server = block_with("docs/how-to/exec-server.md", "create_tcp_listener")
    (program,) = blocks("docs/how-to/files.md")
    with running(server, tmp_path) as (port, fingerprint):
        status, told, errors = run_program(
            program, tmp_path, port, fingerprint, str(source), str(target)
        )
        assert (status, told) == (0, f"the same bytes are in {target}\n"), errors
        assert target.read_bytes() == source.read_bytes()
        nowhere = str(tmp_path / "nowhere" / "target")
        status, told, errors = run_program(
            program, tmp_path, port, fingerprint, str(source), nowhere
        )
    assert (status, told) == (1, "")
    assert "OSError: " in errors.splitlines()[-1]
    assert nowhere in errors.splitlines()[-1]


async def use_commands(port: int, fingerprint: str, folder: Path) -> None:
    async with anyssh.ClientSession.connect(
        await anyio.connect_tcp("127.0.0.1", port),
        credentials=anyssh.ClientCredentials("alice", password="wonderland"),
        verify_host=anyssh.pin(fingerprint),
    ) as session:
        assert await outcome(session, "echo out; echo err >&2; exit 3") == (3, b"out\n", b"err\n")
        assert await outcome(session, "wc -c", bytes(3_000_000)) == (0, b"3000000\n", b"")
        assert await outcome(session, "true", bytes(3_000_000)) == (0, b"", b"")
        assert (await outcome(session, "kill -TERM $$"))[0] == "TERM"
        with pytest.raises(anyssh.RequestDenied):
            await session.open_channel("session", request=anyssh.ChannelRequest("shell"))
        # A program whose client has gone does not go on.
        told = folder / "pid"
        channel = await session.open_channel(
            request=exec_request(f"echo $$ > {told}.new; mv {told}.new {told}; exec sleep 1000")
        )
        await until(told.exists)
        await channel.aclose()
        await until(lambda: not is_alive(int(told.read_text())))


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def exec_request(command: str) -> anyssh.ChannelRequest:
    return anyssh.ChannelRequest("exec", anyssh.wire.string(command))


async def outcome(
    session: anyssh.ClientSession, command: str, given: bytes = b""
) -> tuple[int | str | None, bytes, bytes]:
    ended = await session.run_command(command, input=given, check=False)
    how = ended.exit_signal if ended.exit_status is None else ended.exit_status
    return how, ended.stdout, ended.stderr


@executes("docs/how-to/reconnect.md", "create_tcp_listener")
def test_the_session_that_survives(tmp_path: Path) -> None:
    program = block_with("docs/how-to/reconnect.md", "create_tcp_listener")
    port = free_port()
    path = tmp_path / "survivor.py"
    path.write_text(program.replace(PORT, port))
    done = subprocess.run(
        [sys.executable, path], cwd=ROOT, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT)}, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lost, found, data, figures = done.stdout.splitlines()
    assert lost.startswith("lost the stream: ")
    assert found == "reconnected, 1"
    assert data == "b'before and after'"
    assert re.fullmatch(r"1 \d+\.\d+", figures)


FORWARDING = "docs/how-to/port-forwarding.md"


async def answer(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        with suppress(anyio.BrokenResourceError):  # who leaves a forward aborts its connections
            async for chunk in stream:
                await stream.send(chunk.upper())


@asynccontextmanager
async def answering(serve: Callable[[Any], Awaitable[object]]) -> AsyncIterator[str]:
    """Serve connections on one of the ports that the page's policy allows; give its number."""
    for port in range(8000, 9000):
        try:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
        except OSError:
            continue
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(serve, listener)
            yield str(port)
            tasks.cancel_scope.cancel()
        return


@executes("docs/how-to/port-forwarding.md")
def test_forwarding(tmp_path: Path) -> None:
    with running(block_with(FORWARDING, "create_tcp_listener"), tmp_path) as (port, fingerprint):
        anyio.run(forward_ports, int(port), fingerprint)


async def forward_ports(port: int, fingerprint: str) -> None:
    inner = anyssh.Server(
        host_keys=[key := anyssh.generate_key("ssh-ed25519")],
        authenticate=lambda attempt: always("alice"),
    )
    said: list[str] = []
    async with (
        anyssh.ClientSession.connect(
            await anyio.connect_tcp("127.0.0.1", port),
            credentials=anyssh.ClientCredentials("alice", password="wonderland"),
            verify_host=anyssh.pin(fingerprint),
            forwarding=anyssh.ForwardingPolicy(connect_to=["*:443"]),
        ) as session,
        answering(lambda listener: listener.serve(answer)) as target,
        answering(lambda listener: inner.serve(listener, anyssh.ServerSession.wait_closed)) as hop,
    ):
        names: dict[str, Any] = {
            "anyio": anyio,
            "anyssh": anyssh,
            "session": session,
            "fingerprint": key.fingerprint,
            "print": lambda *words: said.append(" ".join(map(str, words))),
        }

        async def run(text: str) -> str:
            block = block_with(FORWARDING, text).replace("8080", target).replace("8022", hop)
            before = len(said)
            code = eval(compiled(block), names)  # noqa: S307
            if code is not None:
                await code
            return said[before] if said[before:] else ""

        assert await run("# ssh -L") == "b'HELLO'"
        assert await run("session.stream_to_remote_port") == "b'HELLO'"
        assert await run("session.connectable") == "anyssh"
        assert (await run("forward_from_remote_port(")).startswith("connections to port ")
        assert (await run("# ssh -D")).startswith("socks5h://127.0.0.1:")
        await run("*.example.com")
        assert names["policy"].may_connect(anyssh.TcpEndpoint("www.example.com", 443))
        assert (await run("forward_socks_from_remote_port")).startswith("socks5h://127.0.0.1:")
        assert int(await run("docker")) > 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, "listener.serve")
            await until(lambda: "listener" in names and names["listener"].remote_port)
            port = names["listener"].remote_port
            async with await anyio.connect_tcp("127.0.0.1", port) as greeted:
                assert await greeted.receive() == b"hello"
            tasks.cancel_scope.cancel()
        await run("def log")
        async with session.forward_to_remote_port(
            "127.0.0.1", 0, "localhost", int(target), connecting=names["log"]
        ) as forward:
            port = forward.local_port or 0
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"hello")
                assert await stream.receive() == b"HELLO"
        assert said[-1].endswith(f" -> localhost:{target}")
        with pytest.raises(anyssh.ChannelOpenError, match="prohibited"):
            await session.stream_to_remote_port("localhost", 22)


async def always(principal: object) -> object:
    return principal


@executes("docs/how-to/test-your-code.md")
async def test_the_tests_of_the_how_to() -> None:
    names: dict[str, Any] = {}
    for block in blocks(ROOT / "docs/how-to/test-your-code.md"):
        exec(compiled(block), names)  # noqa: S102
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        await test()


async def accept_hatter(attempt: anyssh.AuthAttempt) -> object | None:
    is_hatter = isinstance(attempt, anyssh.PublicKeyAttempt) and attempt.public_key == HATTER
    return attempt.username if is_hatter else None


async def say_hello(session: anyssh.ServerSession) -> None:
    channel = await session.accept_channel()
    async for request in channel.requests():
        await request.accept()
        await channel.send(b"hello\n")
        await channel.aclose(exit_status=0)


HATTER = anyssh.generate_key("ssh-ed25519")
HOST_KEY = anyssh.generate_key("ssh-ed25519")


@asynccontextmanager
async def serving_hello() -> AsyncIterator[int]:
    """Run a server that lets one key in and says hello; give its port."""
    server = anyssh.Server(host_keys=[HOST_KEY], authenticate=accept_hatter)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(server.serve, listener, say_hello)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def known_at(port: int, home: Path) -> dict[str, str]:
    """Write the host's key where a program looks for it; return the program's environment."""
    known = await anyssh.KnownHosts.load(home / ".ssh" / "known_hosts")
    await known.add(HOST_KEY, "127.0.0.1", port)
    return {"PYTHONPATH": str(ROOT), "HOME": str(home)}


async def run_in(
    program: str, folder: Path, environment: dict[str, str], *arguments: object
) -> tuple[int, str, str]:
    path = folder / "program.py"
    await anyio.Path(path).write_text(program)
    command = [sys.executable, str(path), *map(str, arguments)]
    done = await anyio.run_process(command, check=False, cwd=ROOT, env=environment)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="no UNIX sockets")
@executes("docs/how-to/use-an-agent.md", "KnownHosts.load()")
async def test_the_client_that_logs_in_with_an_agent(tmp_path: Path) -> None:
    program = block_with("docs/how-to/use-an-agent.md", "KnownHosts.load()")
    own = OwnAgent(anyssh.generate_key("ssh-ed25519"), HATTER)
    path = tmp_path / "agent"
    async with (
        serving_hello() as port,
        await anyio.create_unix_listener(path) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, own.serve)
        environment = await known_at(port, tmp_path) | {"SSH_AUTH_SOCK": str(path)}
        arguments = ("127.0.0.1", port, "alice")
        assert await run_in(program, tmp_path, environment, *arguments) == (0, "hello\n", "")
        await until(lambda: own.disconnections == own.connections)
        tasks.cancel_scope.cancel()


@executes("docs/how-to/use-an-agent.md", "agent.find")
async def test_the_credentials_of_one_key_of_the_agents() -> None:
    names: dict[str, Any] = {}
    exec(compiled(block_with("docs/how-to/use-an-agent.md", "agent.find")), names)  # noqa: S102
    line = anyssh.export_public_key(HATTER)
    agent = anyssh.Agent(memory_stream_pair()[0])
    credentials = names["credentials"](agent, "alice", line)
    assert credentials.keys == (HATTER,)
    assert credentials.key_provider == agent.find


@executes("docs/how-to/known-hosts.md", "session.host_key.algorithm")
async def test_the_client_that_knows_its_hosts(tmp_path: Path) -> None:
    program = block_with("docs/how-to/known-hosts.md", "session.host_key.algorithm")
    async with serving_hello() as port:
        environment = await known_at(port, tmp_path)
        told = f"ssh-ed25519 {HOST_KEY.fingerprint}\n"
        assert await run_in(program, tmp_path, environment, "127.0.0.1", port) == (0, told, "")
        status, told, errors = await run_in(program, tmp_path, environment, "localhost", port)
        assert (status, told) == (1, "")
        assert f"the host [localhost]:{port} is not known" in errors


@executes("docs/how-to/known-hosts.md", "trust_on_first_use")
async def test_the_verifier_that_accepts_new_hosts(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(compiled(block_with("docs/how-to/known-hosts.md", "trust_on_first_use")), names)  # noqa: S102
    path = tmp_path / "known_hosts"
    verify = await names["trust_on_first_use"](str(path), "host")
    version = anyssh.PeerVersion.parse("SSH-2.0-test")
    assert await verify(anyssh.PresentedHostKey(HOST_KEY, version)) is True
    assert "host" not in await anyio.Path(path).read_text()
    with pytest.raises(anyssh.HostKeyError, match="a different host key"):
        await verify(anyssh.PresentedHostKey(HATTER, version))


@pytest.mark.parametrize("answer,accepted", [("yes", True), ("no", False)])
@executes("docs/how-to/known-hosts.md", "async def ask(")
async def test_the_verifier_that_asks(
    answer: str, accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {}
    exec(compiled(block_with("docs/how-to/known-hosts.md", "async def ask(")), names)  # noqa: S102
    asked: list[str] = []

    def reply(question: str) -> str:
        asked.append(question)
        return answer

    names["input"] = reply
    monkeypatch.setenv("HOME", str(tmp_path))
    verify = await names["ask_about_new_hosts"]("host.invalid")
    shown = anyssh.PresentedHostKey(HOST_KEY, anyssh.PeerVersion.parse("SSH-2.0-test"))
    for _ in range(2):
        if accepted:
            assert await verify(shown) is True
        else:
            with pytest.raises(anyssh.HostKeyError, match="not known"):
                await verify(shown)
    assert len(asked) == (1 if accepted else 2)
    assert HOST_KEY.fingerprint in asked[0]


@executes("docs/how-to/verify-host-keys.md", "TrustOnFirstUse")
async def test_the_verifier_that_trusts_on_first_use(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(compiled(block_with("docs/how-to/verify-host-keys.md", "TrustOnFirstUse")), names)  # noqa: S102
    verify = names["TrustOnFirstUse"](str(tmp_path / "known.json"))
    version = anyssh.PeerVersion.parse("SSH-2.0-test")
    right, wrong = (
        anyssh.PresentedHostKey(anyssh.generate_key("ssh-ed25519"), version, ("host", 22))
        for _ in range(2)
    )
    assert await verify(right) is True
    assert await verify(right) is True
    with pytest.raises(anyssh.HostKeyError, match="now it has"):
        await verify(wrong)
    assert await verify(anyssh.PresentedHostKey(wrong.key, version, ("other", 22))) is True
    assert await verify(anyssh.PresentedHostKey(right.key, version)) is False


def until_refused(port: int) -> None:
    while True:
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED:
                return


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
@pytest.mark.parametrize("told", [1, 2])
@executes("docs/how-to/production.md")
async def test_the_server_in_production(tmp_path: Path, told: int) -> None:
    """Told once, it lets a session go on; told twice, it ends it."""
    program = block_with("docs/how-to/production.md", "create_tcp_listener")
    await anyio.Path(tmp_path / "host_key").write_text(anyssh.export_private_key(HOST_KEY))
    running = running_process(program, tmp_path)
    port, fingerprint, process = await anyio.to_thread.run_sync(running.__enter__)
    try:
        session = anyssh.ClientSession.connect(
            await anyio.connect_tcp("127.0.0.1", int(port)),
            credentials=anyssh.ClientCredentials("alice", password="wonderland"),
            verify_host=anyssh.pin(fingerprint),
        )
        async with session, await session.open_channel() as channel:
            process.send_signal(signal.SIGTERM)
            await anyio.to_thread.run_sync(until_refused, int(port))
            await channel.send(b"still here")
            assert await channel.receive() == b"still here"
            if told == 2:
                process.send_signal(signal.SIGTERM)
                closed = await session.wait_closed()
                assert closed.reason == anyssh.DisconnectReason.BY_APPLICATION
        assert await anyio.to_thread.run_sync(process.wait) == 0
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(running.__exit__, None, None, None)


@executes("docs/how-to/relay.md", "create_tcp_listener")
async def test_the_gateway(tmp_path: Path) -> None:
    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        match attempt:
            case anyssh.PasswordAttempt(username="gateway", password="looking-glass"):
                return "gateway"
        return None

    async def shout(channel: anyssh.Channel) -> None:
        async for chunk in channel:
            await channel.send(chunk.upper())
        await channel.aclose(exit_status=5)

    async def serve(session: anyssh.ServerSession) -> None:
        await session.serve(shout)

    host_key = anyssh.generate_key("ssh-ed25519")
    server = anyssh.Server(host_keys=[host_key], authenticate=authenticate)
    program = block_with("docs/how-to/relay.md", "create_tcp_listener")
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(server.serve, listener, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        gateway = running(program, tmp_path, "127.0.0.1", str(port), host_key.fingerprint)
        port_and_fingerprint = await anyio.to_thread.run_sync(gateway.__enter__)
        try:
            await talk_to_shouter(*port_and_fingerprint)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(gateway.__exit__, None, None, None)
        tasks.cancel_scope.cancel()


async def talk_to_shouter(port: str, fingerprint: str) -> None:
    async with anyssh.ClientSession.connect(
        await anyio.connect_tcp("127.0.0.1", int(port)),
        credentials=anyssh.ClientCredentials("alice", password="wonderland"),
        verify_host=anyssh.pin(fingerprint),
    ) as session:
        channel = await session.open_channel()
        await channel.send(b"hello")
        await channel.send_eof()
        assert b"".join([chunk async for chunk in channel]) == b"HELLO"
        assert (await channel.wait_closed()).exit_status == 5


@executes("docs/how-to/relay.md", "log_and_relay")
async def test_the_relay_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"anyssh": anyssh}
    exec(compiled(block_with("docs/how-to/relay.md", "log_and_relay")), names)  # noqa: S102
    async with session_pair() as (client, server), anyio.create_task_group() as tasks:
        channels = []
        for _ in range(2):
            channels += await at_once(client.open_channel(), server.accept_channel())
        outer, source, other, target = channels
        tasks.start_soon(names["log_and_relay"], source, target)
        requests = other.requests()

        async def grant() -> None:
            await (await anext(requests)).accept()

        granted, _ = await at_once(outer.request("news"), grant())
        assert granted
        await outer.send(b"hello")
        await outer.send_eof()
        await outer.aclose()
        assert b"".join([chunk async for chunk in other]) == b"hello"
    assert capsys.readouterr().out == "request news\n5 bytes\n"


@executes("docs/how-to/streams.md", "def write_log", "def ask")
async def test_streams_over_a_stream(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"anyssh": anyssh}
    for text in ("def write_log", "def ask"):
        exec(compiled(block_with("docs/how-to/streams.md", text)), names)  # noqa: S102
    near, far = memory_stream_pair()
    await at_once(names["write_log"](near), names["read_log"](far))
    assert capsys.readouterr().out == "b'all is well\\n'\nb'thank you'\n"
    near, far = memory_stream_pair()
    server = make_server()
    await at_once(names["ask"](near, host_key().fingerprint), names["answer"](far, server))
    assert capsys.readouterr().out == "b'END TO END ENCRYPTED'\n"


@executes("docs/how-to/websocket.md", "def use")
def test_the_session_through_a_websocket(tmp_path: Path) -> None:
    port = free_port()
    path = tmp_path / "websocket.py"
    program = block_with("docs/how-to/websocket.md", "def use")
    path.write_text(program.replace(PORT, port))
    done = subprocess.run(
        [sys.executable, path], cwd=ROOT, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT)}, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'hello through the web'\n", "")


# Integrations


async def answer_http(stream: anyio.abc.ByteStream) -> None:
    async with stream:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while b"\r\n\r\n" in await stream.receive():
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


@pytest.mark.blocking_allowed
@executes("docs/how-to/http.md")
async def test_http_through_a_session(capsys: pytest.CaptureFixture[str]) -> None:
    policy = anyssh.ForwardingPolicy(connect_to=["localhost:*"])
    async with (
        session_pair(server_forwarding=policy) as (session, _),
        answering(lambda listener: listener.serve(answer_http)) as port,
    ):
        for text, told in (
            ("SessionTransport", "200 hello\n"),
            ("SessionBackend", "200 b'hello'\n"),
        ):
            block = block_with("docs/how-to/http.md", text)
            await run_block(block.replace("8080", port), {"session": session})
            assert capsys.readouterr().out == told


@executes("docs/how-to/contour.md")
async def test_a_contour_for_a_dashboard(capsys: pytest.CaptureFixture[str]) -> None:
    """The handler of the page serves a session; the series of the page adds up to its bytes."""

    async def echo(channel: anyssh.Channel) -> None:
        async for chunk in channel:
            await channel.send(chunk)

    names: dict[str, Any] = {"anyssh": anyssh, "echo": echo}
    for block in blocks("docs/how-to/contour.md"):
        await run_block(block, names)
    async with session_pair() as (client, server), anyio.create_task_group() as tasks:
        tasks.start_soon(names["handle"], server)
        async with await client.open_channel() as channel:
            await channel.send(bytes(50_000))
            assert await receive_exactly(channel, 50_000) == bytes(50_000)
        await client.disconnect(anyssh.DisconnectReason.BY_APPLICATION)
    line = json.loads(capsys.readouterr().out)
    assert line["user"] == server.username
    shown = names["series"](line["contour"], 1000.0)
    seconds = anyssh.SessionContour.import_(line["contour"]).interval
    assert shown[0]["time"] == 1000.0
    # A contour keeps bytes in steps of its largest value's 256th part.
    received = sum(each["received_per_second"] for each in shown) * seconds
    assert 0.9 < received / server.metrics.bytes_received < 1.1


@executes("docs/how-to/metrics.md", "SSHCollector")
def test_the_server_with_metrics(tmp_path: Path) -> None:
    page, web = "docs/how-to/metrics.md", free_port()
    program = block_with(page, "SSHCollector").replace("9464", web)
    with running(program, tmp_path) as (port, fingerprint):
        lines = anyio.run(read_metrics, int(port), fingerprint, int(web))
    assert 'anyssh_sessions{role="server"} 1.0' in lines
    assert 'anyssh_server_logins_total{server="main"} 1.0' in lines
    listed = (ROOT / page).read_text()
    names = {line.split("{")[0] for line in lines if line.startswith("anyssh_")}
    names = {name for name in names if not name.endswith("_created")}
    assert len(names) >= 14
    for name in names:
        assert name in listed or name.replace("anyssh_server_", "…_") in listed, name


async def read_metrics(port: int, fingerprint: str, web: int) -> list[str]:
    url = f"http://127.0.0.1:{web}/metrics"
    async with (
        anyssh.ClientSession.connect(
            await anyio.connect_tcp("127.0.0.1", port),
            credentials=anyssh.ClientCredentials("alice", password="wonderland"),
            verify_host=anyssh.pin(fingerprint),
        ) as session,
        await session.open_channel() as channel,
    ):
        await channel.send(b"hello")
        assert await channel.receive() == b"hello"
        page = await anyio.to_thread.run_sync(lambda: urllib.request.urlopen(url).read())
    lines: list[str] = page.decode().splitlines()
    return lines


@executes("docs/how-to/metrics.md", "SSHInstruments")
def test_metrics_for_opentelemetry(tmp_path: Path) -> None:
    """The page's block, between what it takes for granted and a use of it."""
    block = block_with("docs/how-to/metrics.md", "SSHInstruments")
    path = tmp_path / "metrics.py"
    path.write_text(f"""
import anyio, anyssh
from anyssh.testing import session_pair

async def echo(channel):
    async for chunk in channel:
        await channel.send(chunk)

{block}
async def main():
    async with session_pair() as (client, server), anyio.create_task_group() as tasks:
        tasks.start_soon(handle, server)
        async with await client.open_channel() as channel:
            await channel.send(b"hello")
            await channel.receive()
            provider.force_flush()
        tasks.cancel_scope.cancel()

anyio.run(main)
provider.shutdown()
""")
    done = subprocess.run(
        [sys.executable, path], cwd=ROOT, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT)}, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    listed = (ROOT / "docs/how-to/metrics.md").read_text()
    names = set(re.findall(r'"name": "(anyssh\.[\w.]+)"', done.stdout))
    assert names >= {"anyssh.session.io", "anyssh.sessions", "anyssh.sessions.connected"}
    for name in names:
        assert f"`{name}`" in listed or name.startswith("anyssh.server."), name


@executes("docs/how-to/logging.md", "LogTrace")
async def test_a_trace_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    block = block_with("docs/how-to/logging.md", "LogTrace")
    names: dict[str, Any] = {}
    form = re.search(r'basicConfig\((format="[^"]*")\)', block)
    assert form is not None
    levels = {name: logging.getLogger(name).level for name in ("", "anyssh.trace")}
    try:
        exec(compiled(block.replace("logging.basicConfig", "dict")), names)  # noqa: S102
        async with serving_hello() as port:
            connectable = anyio.as_connectable(("127.0.0.1", port))
            with pytest.raises(anyssh.AuthenticationError):
                async with names["connect"](connectable, HOST_KEY.fingerprint):
                    pass
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    template = logging.Formatter(form[1].split("=", 1)[1].strip('"'))
    lines = [template.format(each) for each in caplog.records if each.name == "anyssh.trace"]
    assert "INFO db session_encrypted: encrypted" in lines


# The command line


@pytest.mark.skipif(sys.platform == "win32", reason="no sh")
def test_the_commands_of_the_command_line(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/command-line.md").read_text()
    _, prepare, use, tunnel = re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)
    port = free_port()
    program = tmp_path / "bin" / "anyssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m anyssh "$@"\n')
    program.chmod(0o755)
    environment = {
        "HOME": str(tmp_path), "LOGNAME": "alice", "PYTHONPATH": str(ROOT),
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip

    def run(commands: str) -> str:
        done = subprocess.run(
            ["sh", "-e", "-c", commands.replace(PORT, port)], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    *keys, serve = prepare.splitlines()
    run("\n".join(keys))
    command = f"exec {serve} --listen 127.0.0.1:{port}"
    with subprocess.Popen(
        ["sh", "-c", command], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            told = [""]
            while "clients may" not in told[-1]:
                told.append(server.stderr.readline())
                assert told[-1]
            assert "clients may run commands; use the echo; connect to localhost:*" in told[-1]
            fingerprint = next(line for line in told if "listening on" in line).split()[-1]
            system, hello, line = run(use).splitlines()
            assert (system, hello) == (os.uname().sysname, "hello")
            assert line.split()[1] == fingerprint
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    from anyssh.cli.application import app

    _, *words = shlex.split(tunnel)
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert bound.arguments["local"] == ("8080:localhost:80",)
