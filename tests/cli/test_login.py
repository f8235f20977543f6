"""Identities other than plain key files: agents and certificates."""

from __future__ import annotations

import base64
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute

import anyssh
from tests.authority import certified
from tests.session.test_agent import OwnAgent

from .conftest import know
from .program import Anyssh, Result

pytestmark = [
    pytest.mark.blocking_allowed,  # only the tests themselves block
    pytest.mark.skipif(sys.platform == "win32", reason="no UNIX sockets"),
]

Judge = Callable[[anyssh.AuthAttempt], object | None]


@asynccontextmanager
async def greeting(user: Anyssh, judge: Judge, **options: Any) -> AsyncIterator[str]:
    """Run a server that greets whom it lets in; give its place."""

    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        return judge(attempt)

    async def greet(session: anyssh.ServerSession) -> None:
        channel = await session.accept_channel()
        await (await anext(channel.requests())).accept()
        await channel.send(f"hello {session.principal}\n".encode())
        await channel.aclose(exit_status=0)
        await session.wait_closed()

    host_key = anyssh.generate_key("ssh-ed25519")
    server = anyssh.Server(host_keys=[host_key], authenticate=authenticate, **options)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(server.serve, listener, greet)
        port = listener.extra(SocketAttribute.local_port)
        await know(user, host_key, port)
        yield f"127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def agent_of(user: Anyssh, *keys: anyssh.Key) -> AsyncIterator[dict[str, str]]:
    """Run an agent; give the environment that leads to it."""
    path = user.home / "agent"
    async with (
        await anyio.create_unix_listener(path) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, OwnAgent(*keys).serve)
        yield {"SSH_AUTH_SOCK": str(path)}
        tasks.cancel_scope.cancel()


def write_certificate(path: Path, certificate: anyssh.Certificate) -> None:
    blob = base64.b64encode(certificate.public_blob).decode()
    path.write_text(f"{certificate.algorithm} {blob}\n")


async def test_the_keys_of_an_agent(user: Anyssh) -> None:
    key = anyssh.generate_key("ssh-ed25519")

    def judge(attempt: anyssh.AuthAttempt) -> object | None:
        is_ours = isinstance(attempt, anyssh.PublicKeyAttempt) and attempt.public_key == key
        return "holder" if is_ours else None

    async with (
        greeting(user, judge) as place,
        agent_of(user, anyssh.generate_key("ssh-ed25519"), key) as environment,
    ):
        command = ("exec", place, "--", "greet")
        told = await user.run(*command, environment=environment)
        assert told == Result(0, "hello holder\n", "")
        told = await user.run(*command[:1], "--no-agent", *command[1:], environment=environment)
        assert "did not authenticate" in told.complaint
        told = await user.run(*command, environment={"SSH_AUTH_SOCK": str(user.home / "none")})
        assert "did not authenticate" in told.complaint


@pytest.mark.parametrize("suffix", ["", ".pub"], ids=["encrypted file", "public file"])
async def test_a_key_of_the_agent_that_a_file_names(user: Anyssh, suffix: str) -> None:
    """Nobody is asked for a passphrase, and a certificate beside the file is shown."""
    authority = anyssh.generate_key("ssh-ed25519")
    key, path = anyssh.generate_key("ssh-ed25519"), user.home / "key"
    anyssh.export_private_key_file(key, path, "openssh", "secret")
    anyssh.export_public_key_file(key, f"{path}.pub")
    tried: list[str] = []

    def judge(attempt: anyssh.AuthAttempt) -> object | None:
        tried.append(type(attempt).__name__)
        is_ours = isinstance(attempt, anyssh.PublicKeyAttempt) and attempt.public_key == key
        return "holder" if is_ours else None

    async with (
        greeting(user, judge, user_authorities=anyssh.UserAuthorities([authority])) as place,
        agent_of(user, key) as environment,
    ):
        command = ("exec", "-i", f"{path}{suffix}", f"alice@{place}", "--", "greet")
        told = await user.run(*command, environment=environment)
        assert told == Result(0, "hello holder\n", "")
        certificate = certified(key, authority, principals=["alice"])
        write_certificate(Path(f"{path}{suffix}-cert.pub"), certificate)
        tried.clear()
        await user.run(*command, environment=environment)
        assert tried[0] == "CertificateAttempt"


async def test_a_certificate_beside_a_usual_key_that_the_agent_holds(user: Anyssh) -> None:
    authority = anyssh.generate_key("ssh-ed25519")
    path = user.home / ".ssh" / "id_ed25519"
    key = anyssh.import_key_file(path)

    def judge(attempt: anyssh.AuthAttempt) -> object | None:
        return "certified" if isinstance(attempt, anyssh.CertificateAttempt) else None

    certificate = certified(key, authority, principals=["alice"])
    write_certificate(Path(f"{path}-cert.pub"), certificate)
    async with (
        greeting(user, judge, user_authorities=anyssh.UserAuthorities([authority])) as place,
        agent_of(user, key) as environment,
    ):
        told = await user.run("exec", f"alice@{place}", "--", "greet", environment=environment)
        assert told == Result(0, "hello certified\n", "")


async def test_a_server_that_needs_no_proof(user: Anyssh) -> None:
    """Nobody is there to decrypt the key that it would take."""
    path = user.home / ".ssh" / "id_ed25519"
    key = anyssh.import_key_file(path)
    path.unlink()
    anyssh.export_private_key_file(key, path, "openssh", "correct horse")
    methods = [anyssh.AuthenticationMethod.PUBLIC_KEY, anyssh.AuthenticationMethod.NONE]
    config = anyssh.SessionConfig(authentication_methods=methods)

    def judge(attempt: anyssh.AuthAttempt) -> object | None:
        return "guest" if isinstance(attempt, anyssh.NoneAttempt) else None

    async with greeting(user, judge, config=config) as place:
        told = await user.run("exec", place, "--", "greet")
    assert (told.status, told.out) == (0, "hello guest\n")


async def test_a_certificate_beside_a_key(user: Anyssh) -> None:
    authority = anyssh.generate_key("ssh-ed25519")
    path = user.home / ".ssh" / "id_ed25519"
    certificate = certified(anyssh.import_key_file(path), authority, principals=["alice"])

    def judge(attempt: anyssh.AuthAttempt) -> object | None:
        return "certified" if isinstance(attempt, anyssh.CertificateAttempt) else None

    authorities = anyssh.UserAuthorities([authority])
    async with greeting(user, judge, user_authorities=authorities) as place:
        told = await user.run("exec", f"alice@{place}", "--", "greet")
        assert "did not authenticate" in told.complaint
        write_certificate(user.home / ".ssh" / "id_ed25519-cert.pub", certificate)
        told = await user.run("exec", f"alice@{place}", "--", "greet")
        assert told == Result(0, "hello certified\n", "")
        (user.home / ".ssh" / "id_ed25519-cert.pub").write_text("nonsense")
        told = await user.run("exec", f"alice@{place}", "--", "greet")
        left_out, _ = told.err.splitlines()
        assert "id_ed25519-cert.pub is ignored: " in left_out
