"""What is specific to OpenSSH: its defaults, and the account databases behind sshd."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import anyssh
from anyssh import SessionConfig

from .conftest import Keys
from .ours import Gate, exchange, our_client, our_key, our_server
from .peers import USER, RunningServer, find_program, require_accounts, require_peer, token
from .scripts.peer_common import GREETING


def preferred_key_exchanges() -> list[str]:
    """Return the names that ssh prefers in this version, best first."""
    program = find_program("ssh") or "ssh"
    command = [program, "-F", "none", "-G", "127.0.0.1"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = dict(line.split(" ", 1) for line in answer.stdout.splitlines() if " " in line)
    return lines["kexalgorithms"].split(",")


async def test_default_key_exchange_of_the_client(keys: Keys) -> None:
    """OpenSSH names its favourite first, and the client's preference decides."""
    peer = require_peer("openssh")
    common = [name for name in preferred_key_exchanges() if name in SessionConfig().key_exchanges]
    key, hosts = keys.user["ed25519"], keys.hosts(peer)
    async with our_server(Gate(USER, authorized=[key]), hosts) as server:
        report = await peer.play(server.port, "echo", host_public_key=hosts, key=[key])
        used = (await server.visit()).algorithms
    assert report.one("result")["received"] == GREETING.decode()
    assert used.key_exchange == common[0] == report.merged("connected")["kex"]
    assert used.is_strict
    assert {used.encryption_client_to_server, used.encryption_server_to_client} == {
        report.merged("connected")["cipher"]
    }


async def test_default_key_exchange_with_the_server(keys: Keys) -> None:
    peer = require_peer("openssh")
    common = [name for name in SessionConfig().key_exchanges if name in preferred_key_exchanges()]
    hosts = keys.hosts(peer)
    mine = anyssh.ClientCredentials(peer.user, keys=[our_key(keys.user["ed25519"])])
    async with (
        peer.server(host_key=hosts, authorized=keys.authorized) as server,
        our_client(server.port, hosts, mine) as session,
    ):
        assert session.algorithms.key_exchange == common[0]
        assert session.algorithms.is_strict
        assert session.peer_version.name == "OpenSSH"
        assert await exchange(session, GREETING) == (GREETING, 0)


@asynccontextmanager
async def with_account(
    keys: Keys, password: str, *, interactive: bool
) -> AsyncIterator[RunningServer]:
    """Run an sshd that knows a user by a password."""
    peer = require_peer("openssh")
    require_accounts(peer)
    async with peer.server(
        host_key=keys.hosts(peer), user=USER, password=password, interactive=interactive
    ) as server:
        yield server


async def test_password_of_an_account(keys: Keys) -> None:
    password = token()
    mine = anyssh.ClientCredentials(USER, password=password)
    hosts = keys.hosts(require_peer("openssh"))
    async with (
        with_account(keys, password, interactive=False) as server,
        our_client(server.port, hosts, mine) as session,
    ):
        assert await exchange(session, GREETING) == (GREETING, 0)
        event = await server.event("authenticated")
    assert (event["user"], event["method"]) == (USER, "password")


async def test_wrong_password_of_an_account(keys: Keys) -> None:
    mine = anyssh.ClientCredentials(USER, password=token())
    hosts = keys.hosts(require_peer("openssh"))
    async with with_account(keys, token(), interactive=False) as server:
        with pytest.raises(anyssh.AuthenticationError) as refusal:
            async with our_client(server.port, hosts, mine):
                pytest.fail("a wrong password was accepted")
    assert "password" in refusal.value.methods_left


async def test_prompt_of_the_login_system(keys: Keys) -> None:
    """PAM asks one question, then sends a challenge without any."""
    password = token()
    asked = []

    async def respond(challenge: anyssh.Challenge) -> list[str]:
        asked.append(challenge)
        return [password for _ in challenge.prompts]

    mine = anyssh.ClientCredentials(USER, respond=respond)
    hosts = keys.hosts(require_peer("openssh"))
    async with (
        with_account(keys, password, interactive=True) as server,
        our_client(server.port, hosts, mine) as session,
    ):
        assert await exchange(session, GREETING) == (GREETING, 0)
    assert [[prompt.echo for prompt in challenge.prompts] for challenge in asked] == [[False], []]
    assert asked[0].prompts[0].text.startswith("Password")
