"""The programs that shaped the public API, and those of the README: they run as written.

Their texts are here, or come from the README, unchanged except for the port and, in the client, the
fingerprint of a key that the server generates each time. Around them are added the names that they
leave to their reader, and the event loop, so that each runs on every backend over TCP.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketStream

import anyssh
from anyssh.testing import memory_stream_pair, session_pair
from tests.session.ends import ALICE, at_once, make_server, pinned

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PORT = "2222"

SERVER = '''\
import anyio
import anyssh

async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
    """Return the principal to accept, None to refuse."""
    match attempt:
        case anyssh.PasswordAttempt(username="alice", password="wonderland"):
            return "alice"
        case anyssh.PublicKeyAttempt(username=name, public_key=key) if key in AUTHORIZED[name]:
            return name                      # called only after the signature was verified
    return None

async def echo(channel: anyssh.Channel) -> None:
    async with channel:
        async for chunk in channel:          # an AnyIO ByteStream
            await channel.send(chunk)

async def handle(session: anyssh.ServerSession) -> None:   # runs only once the client is authenticated
    print(session.principal, session.peer_version)
    await session.serve(echo)                # one task per incoming channel

async def main() -> None:
    server = anyssh.Server(host_keys=[anyssh.generate_key("ssh-ed25519")], authenticate=authenticate)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=2222) as listener:
        await server.serve(listener, handle)  # any anyio Listener; also `server.accept(stream)` for one stream

anyio.run(main, backend="trio")
'''  # noqa: E501

CLIENT = """\
async with anyssh.ClientSession.connect(
    await anyio.connect_tcp("127.0.0.1", 2222),
    credentials=anyssh.ClientCredentials("alice", password="wonderland"),
    verify_host=anyssh.pin("SHA256:uNiVztksCsDhcc0u9e8BrsWHm8qjlVgZjmUzvQ4wXSg"),
) as session:
    async with await session.open_channel() as channel:
        await channel.send(b"hello")
        print(await channel.receive())
        await channel.send_eof()
"""

COMMAND = """\
channel = await session.open_channel("session", request=anyssh.ChannelRequest("exec", anyssh.wire.string("ls -l")))
output = [chunk async for chunk in channel]              # stdout
errors = [chunk async for chunk in channel.stderr]       # a ByteReceiveStream of its own
closed = await channel.wait_closed()                     # .exit_status / .exit_signal / .message / .error
"""  # noqa: E501

COMMAND_SERVER = """\
# the other side
async for opening in session.incoming_channels():        # or session.accept_channel("type"); held until asked for, at most 64, then refused
    channel = await opening.accept()
    async for request in channel.requests():
        if request.name == "exec":
            await request.accept()
            await channel.send(b"...")
            await channel.send_stderr(b"...")
            await channel.aclose(exit_status=0)          # or signal="KILL", message="..."
        else:
            await request.reject()
"""  # noqa: E501

FORWARDING = """\
async with session.forward_to_remote_port("127.0.0.1", 0, "db.internal", 5432) as forward:      # ssh -L
    print(forward.local_port)
async with session.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", 3000) as forward:      # ssh -R
    print(forward.remote_port)
stream = await session.stream_to_remote_port("db.internal", 5432)                                # no local socket
async with anyssh.ClientSession.connect(session.connectable("next-hop", 22), **options) as inner: ...  # ProxyJump in one line
"""  # noqa: E501

KEYS = """\
key = anyssh.generate_key("rsa-sha2-512", bits=4096)
key = anyssh.import_key(Path("id_ed25519").read_bytes(), passphrase="…")  # format found by itself
text = anyssh.export_private_key(key, "openssh", passphrase="…")
key.fingerprint                 # "SHA256:…"; also key.public_blob, key.algorithm, key.comment, key.has_private
"""  # noqa: E501

NO_PROTECTION_BY_LONG_NAME = "verify_host=anyssh.InsecureAcceptAnyHostKey()"


def program(text: str, **names: Any) -> dict[str, Any]:
    """Run a program up to the ``anyio.run`` at its end; return its names."""
    tree = ast.parse(text)
    last = ast.unparse(tree.body[-1])
    assert "anyio.run(main" in last or "ClientSession" in text
    if "anyio.run(main" in last:
        tree.body.pop()
    names["__name__"] = "program"
    exec(compile(tree, "program", "exec"), names)  # noqa: S102
    return names


async def snippet(text: str, **names: Any) -> dict[str, Any]:
    """Run a part of a program that awaits; return its names."""
    names = {"anyio": anyio, "anyssh": anyssh, **names}
    code = compile(text, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(code, names)  # noqa: S307
    return names


def readme_program(heading: str) -> str:
    found = re.search(rf"^## {heading}\n\n```python\n(.*?)^```$", README, re.M | re.S)
    assert found is not None, heading
    return found[1]


async def connect_when_ready(port: int) -> SocketStream:
    """Connect to a program that does not say when it listens."""
    with anyio.fail_after(20):
        while True:
            try:
                return await anyio.connect_tcp("127.0.0.1", port)
            except OSError:
                await anyio.sleep(0.01)


async def fingerprint_of(port: int) -> str:
    """Return the fingerprint of the host key of the server at a port, as soon as it listens."""
    seen: list[str] = []

    async def remember(presented: anyssh.PresentedHostKey) -> bool:
        seen.append(presented.key.fingerprint)
        return True

    async with anyssh.ClientSession.connect(await connect_when_ready(port), verify_host=remember):
        return seen[0]


@asynccontextmanager
async def running(text: str, port: int, **names: Any) -> AsyncIterator[str]:
    """Run a server's program; give its host key's fingerprint."""
    main = program(text.replace(PORT, str(port)), **names)["main"]
    async with anyio.create_task_group() as group:
        group.start_soon(main)
        yield await fingerprint_of(port)
        group.cancel_scope.cancel()


def for_server(text: str, port: int, fingerprint: str) -> str:
    return re.sub(r"SHA256:[\w+/]{43}", fingerprint, text).replace(PORT, str(port))


# Server and client


async def test_the_server_and_the_client(
    free_tcp_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(SERVER, free_tcp_port) as fingerprint:
        await snippet(for_server(CLIENT, free_tcp_port, fingerprint))
    version = f"SSH-2.0-anyssh_{anyssh.__version__}"
    assert capsys.readouterr().out == f"alice {version}\nb'hello'\n"


async def test_the_client_with_the_fingerprint_as_written(free_tcp_port: int) -> None:
    async with running(SERVER, free_tcp_port) as fingerprint:
        with pytest.raises(anyssh.HostKeyError) as caught:
            await snippet(CLIENT.replace(PORT, str(free_tcp_port)))
        assert caught.value.fingerprint == fingerprint


async def test_the_one_way_to_skip_the_verification(
    free_tcp_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    text = re.sub(r"verify_host=anyssh\.pin\(.*?\)", NO_PROTECTION_BY_LONG_NAME, CLIENT)
    assert NO_PROTECTION_BY_LONG_NAME in text
    async with running(SERVER, free_tcp_port):
        await snippet(text.replace(PORT, str(free_tcp_port)))
    assert capsys.readouterr().out.endswith("b'hello'\n")


async def test_the_server_takes_authorized_keys_and_nothing_else(free_tcp_port: int) -> None:
    key, other = (anyssh.generate_key("ssh-ed25519") for _ in range(2))
    authorized = {"alice": {key.public()}}

    async def log_in(credentials: anyssh.ClientCredentials) -> None:
        async with (
            anyssh.ClientSession.connect(
                await anyio.connect_tcp("127.0.0.1", free_tcp_port),
                credentials=credentials,
                verify_host=anyssh.pin(fingerprint),
            ) as session,
            await session.open_channel() as channel,
        ):
            await channel.send(b"let in")
            assert await channel.receive() == b"let in"

    async with running(SERVER, free_tcp_port, AUTHORIZED=authorized) as fingerprint:
        await log_in(anyssh.ClientCredentials("alice", keys=[key]))
        for refused in (
            anyssh.ClientCredentials("alice", keys=[other]),
            anyssh.ClientCredentials("alice", password="looking-glass"),
            anyssh.ClientCredentials("bob", keys=[key]),  # AUTHORIZED["bob"] raises
            anyssh.ClientCredentials("alice"),
        ):
            with pytest.raises(anyssh.AuthenticationError):
                await log_in(refused)
        await log_in(anyssh.ClientCredentials("alice", keys=[other, key]))


async def test_the_handler_gets_an_exception_of_a_body_bare(free_tcp_port: int) -> None:
    text = CLIENT.replace('await channel.send(b"hello")', 'raise KeyError("mine")')
    async with running(SERVER, free_tcp_port) as fingerprint:
        with pytest.raises(KeyError, match="mine"):
            await snippet(for_server(text, free_tcp_port, fingerprint))
        # The server goes on.
        await snippet(for_server(CLIENT, free_tcp_port, fingerprint))


def test_the_server_as_a_program_of_its_own(free_tcp_port: int) -> None:
    text = SERVER.replace(PORT, str(free_tcp_port))
    with subprocess.Popen(
        [sys.executable, "-u", "-c", text], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            fingerprint = anyio.run(fingerprint_of, free_tcp_port)
            client = for_server(CLIENT, free_tcp_port, fingerprint)
            anyio.run(snippet, client)
            assert server.stdout is not None
            line = server.stdout.readline()
        finally:
            server.kill()
    assert line == f"alice SSH-2.0-anyssh_{anyssh.__version__}\n"


# Channels, requests, exit status


@asynccontextmanager
async def sessions_over_tcp(
    port: int,
) -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.ServerSession]]:
    sessions: list[anyssh.ServerSession] = []
    entered = anyio.Event()

    async def handle(session: anyssh.ServerSession) -> None:
        sessions.append(session)
        entered.set()
        await session.wait_closed()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    async with listener, anyio.create_task_group() as group:
        await group.start(make_server().serve, listener, handle)
        async with anyssh.ClientSession.connect(
            await anyio.connect_tcp("127.0.0.1", port),
            credentials=ALICE,
            verify_host=pinned(),
        ) as client:
            await entered.wait()
            yield client, sessions[0]
        group.cancel_scope.cancel()


@pytest.mark.parametrize("end", ["client", "server"])
async def test_a_command_its_output_and_its_status(free_tcp_port: int, end: str) -> None:
    async with sessions_over_tcp(free_tcp_port) as (client, server):
        asker, answerer = (client, server) if end == "client" else (server, client)

        async def ask() -> dict[str, Any]:
            names = await snippet(COMMAND, session=asker)
            await asker.aclose()  # ends the loop of the other side
            return names

        names, _ = await at_once(ask(), snippet(COMMAND_SERVER, session=answerer))
    assert names["output"] == [b"..."]
    assert names["errors"] == [b"..."]
    assert names["closed"] == anyssh.ChannelClosed(exit_status=0)


async def test_a_command_that_a_signal_ended(free_tcp_port: int) -> None:
    text = COMMAND_SERVER.replace("exit_status=0", 'signal="KILL", message="..."')
    async with sessions_over_tcp(free_tcp_port) as (client, server):

        async def ask() -> dict[str, Any]:
            names = await snippet(COMMAND, session=client)
            await client.aclose()
            return names

        names, _ = await at_once(ask(), snippet(text, session=server))
    assert names["closed"] == anyssh.ChannelClosed(exit_signal="KILL", message="...")


async def test_a_request_that_the_other_side_refuses(free_tcp_port: int) -> None:
    text = COMMAND.replace('"exec"', '"shell"')
    async with sessions_over_tcp(free_tcp_port) as (client, server):

        async def ask() -> None:
            with pytest.raises(anyssh.RequestDenied):
                await snippet(text, session=client)
            await client.aclose()

        await at_once(ask(), snippet(COMMAND_SERVER, session=server))


async def test_a_reply_is_true_when_granted_and_carries_a_payload(free_tcp_port: int) -> None:
    async with sessions_over_tcp(free_tcp_port) as (client, server):

        async def answer() -> None:
            requests = server.requests()
            await (await anext(requests)).accept(b"granted")
            await (await anext(requests)).reject()

        async def ask() -> list[anyssh.Reply]:
            text = "replies = [await session.request(name, payload) for _ in range(2)]"
            names = await snippet(text, session=client, name="x@example.com", payload=b"?")
            replies: list[anyssh.Reply] = names["replies"]
            return replies

        _, (granted, refused) = await at_once(answer(), ask())
        assert granted
        assert granted.payload == b"granted"
        assert not refused


async def test_an_echo_server_needs_no_code_for_requests(free_tcp_port: int) -> None:
    async with (
        running(SERVER, free_tcp_port) as fingerprint,
        anyssh.ClientSession.connect(
            await anyio.connect_tcp("127.0.0.1", free_tcp_port),
            credentials=ALICE,
            verify_host=anyssh.pin(fingerprint),
        ) as session,
    ):
        channel = await session.open_channel()
        # What OpenSSH's client asks before it sends anything.
        assert not await channel.request("pty-req")
        assert not await channel.request("shell")
        assert not await session.request("no-more-sessions@openssh.com")
        await channel.send(b"hello")
        assert await channel.receive() == b"hello"


# Keys


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pair = anyssh.generate_key("ssh-ed25519")
    encrypted = anyssh.export_private_key(pair, "openssh", passphrase="…")
    Path("id_ed25519").write_bytes(
        encrypted if isinstance(encrypted, bytes) else encrypted.encode()
    )
    names: dict[str, Any] = {"anyssh": anyssh, "Path": Path}
    exec(KEYS, names)  # noqa: S102
    assert names["key"] == pair
    key: anyssh.Key = names["key"]
    assert key.fingerprint.startswith("SHA256:")
    assert anyssh.Key.from_public_blob(key.public_blob) == key
    assert (key.algorithm, key.comment, key.has_private) == ("ssh-ed25519", "", True)
    text = names["text"]
    again = anyssh.import_key(text if isinstance(text, bytes) else text.encode(), passphrase="…")
    assert again == pair
    assert again.has_private


# The README


async def test_the_programs_of_the_readme(
    free_tcp_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    client = program(readme_program("A client").replace(PORT, str(free_tcp_port)))["main"]
    async with running(readme_program("A server"), free_tcp_port) as fingerprint:
        await client(fingerprint)
    told = capsys.readouterr().out.splitlines()
    assert told == [
        f"the host key is {fingerprint}",
        f"alice SSH-2.0-anyssh_{anyssh.__version__}",
        "b'hello'",
    ]


async def test_the_client_of_the_readme_refuses_another_key(free_tcp_port: int) -> None:
    client = program(readme_program("A client").replace(PORT, str(free_tcp_port)))["main"]
    async with running(readme_program("A server"), free_tcp_port):
        with pytest.raises(anyssh.HostKeyError):
            await client(anyssh.generate_key("ssh-ed25519").fingerprint)


# Port forwarding


async def test_forwarding(capsys: pytest.CaptureFixture[str]) -> None:
    """As written, but for the arguments of the inner session, which stand there as dots."""

    async def connect(endpoint: anyssh.Endpoint) -> ByteStream:
        near, far = memory_stream_pair()
        if endpoint == anyssh.TcpEndpoint("next-hop", 22):
            group.start_soon(be_next_hop, far)
        else:
            assert endpoint == anyssh.TcpEndpoint("db.internal", 5432)
            await far.send(b"ready")
        return near

    async def be_next_hop(stream: ByteStream) -> None:
        async with make_server().accept(stream) as session:
            await session.wait_closed()

    policy = anyssh.ForwardingPolicy(
        connect_to=["db.internal:5432", "next-hop:22"], listen_on=["localhost:*"], connector=connect
    )
    options = {"credentials": ALICE, "verify_host": pinned()}
    async with (
        session_pair(server_forwarding=policy) as (session, _),
        anyio.create_task_group() as group,
    ):
        names = await snippet(FORWARDING, session=session, options=options)
        assert await names["stream"].receive() == b"ready"
        assert names["inner"].peer_version.name == "anyssh"
    assert all(int(port) > 0 for port in capsys.readouterr().out.split())
