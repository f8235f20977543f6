"""What the matrix does not cover with its additional peers: refusals, and remote forwarding.

The event loops are covered by the matrix, so here one is enough.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

import anyssh

from .conftest import Keys
from .matrix import AskingServer
from .ours import Gate, exchange, our_client, our_key, our_server
from .peers import (
    USER,
    Peer,
    RunningServer,
    find_program,
    in_thread,
    require_accounts,
    require_peer,
    token,
)
from .scripts.accounts import free_port
from .scripts.peer_common import GREETING
from .test_forwarding import capitals, say

CLIENTS = ["dropbear", "putty", "libssh", "libssh2", "twisted", "ssh2"]
SERVERS = ["dropbear", "libssh", "twisted", "ssh2"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


# --- clients


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Peer:
    return require_peer(request.param)


async def test_wrong_password_of_a_client(keys: Keys, client: Peer) -> None:
    hosts = [keys.host["ed25519"]]
    async with our_server(Gate(USER, password=token()), hosts) as server:
        report = await client.play(server.port, "echo", host_public_key=hosts, password=token())
        assert report.one("refused")
        assert not report.all("authenticated")
        assert server.visits == []
        assert anyssh.PasswordAttempt in map(type, server.attempts)


async def test_unknown_key_of_a_client(keys: Keys, client: Peer) -> None:
    hosts, stranger = [keys.host["ed25519"]], keys.stranger["ed25519"]
    async with our_server(Gate(USER, authorized=[keys.user["ed25519"]]), hosts) as server:
        report = await client.play(server.port, "echo", host_public_key=hosts, key=[stranger])
        assert report.one("refused")
        assert not report.all("authenticated")
        assert server.visits == []


async def test_unexpected_host_key_for_a_client(keys: Keys, client: Peer) -> None:
    shown, expected = [keys.host["ed25519"]], [keys.stranger["ed25519"]]
    password = token()
    async with our_server(Gate(USER, password=password), shown) as server:
        report = await client.play(server.port, "echo", host_public_key=expected, password=password)
        assert report.one("failed")
        assert server.attempts == []


async def test_a_client_may_not_reach_ports(keys: Keys, client: Peer) -> None:
    """Without a policy our server connects to nothing."""
    hosts, password = [keys.host["ed25519"]], token()
    behind = AskingServer()
    options = {"host_public_key": hosts, "password": password, "key": [keys.user["ed25519"]]}
    gate = Gate(USER, password=password, authorized=[keys.user["ed25519"]])
    async with (
        our_server(gate, hosts) as server,
        client.client(server.port, "cells", **options) as running,
    ):
        outcome = await running.ask("cell", {"target": behind.port})
    assert "error" in outcome
    assert not behind.was_asked()


async def test_psftp_is_let_in_and_told_that_there_is_no_sftp(keys: Keys, tmp_path: Path) -> None:
    """It asks for the subsystem, then runs a command to start one; neither is there."""
    require_peer("putty")
    hosts, password = [keys.host["ed25519"]], token()
    command = [find_program("psftp") or "psftp", "-batch", "-noagent"]
    command += ["-hostkey", our_key(hosts[0]).fingerprint, "-pw", password]
    async with our_server(Gate(USER, password=password), hosts) as server:
        done = await anyio.run_process(
            [*command, "-P", str(server.port), f"{USER}@127.0.0.1"],
            check=False,
            env=os.environ | {"HOME": str(tmp_path)},
        )
        assert b"unexpected end-of-file from SFTP server" in done.stderr, done
        assert [visit.session.principal for visit in server.visits] == ["password"]
    assert done.returncode == 1


BACKWARDS = ["openssh", "dropbear", "putty", "libssh", "libssh2", "asyncssh", "paramiko"]


@pytest.mark.parametrize("name", BACKWARDS)
async def test_a_client_has_us_listen(keys: Keys, name: str) -> None:
    """Option -R of the programs: what connects to a port of ours comes out beside the client."""
    client, key, hosts = require_peer(name), keys.user["ed25519"], [keys.host["ed25519"]]
    policy = anyssh.ForwardingPolicy.allow_all()
    async with (
        capitals() as target,
        our_server(Gate(USER, authorized=[key]), hosts, forwarding=policy) as server,
        client.client(
            server.port, "back", host_public_key=hosts, key=[key],
            target=target, listen=(port := free_port()),
        ) as running,
    ):  # fmt: skip
        await in_thread(partial(running.wait_for, "waiting"))
        session = (await server.visit()).session
        await session.wait_for_forwarded_port(port)
        assert await say(await anyio.connect_tcp("127.0.0.1", port), b"hello") == b"HELLO"


@pytest.mark.parametrize("name", ["dropbear", "asyncssh"])
async def test_a_server_listens_for_us(keys: Keys, name: str) -> None:
    peer, hosts = require_peer(name), [keys.host["ed25519"]]
    mine = anyssh.ClientCredentials(USER, keys=[our_key(keys.user["ed25519"])])
    port = free_port()
    async with (
        capitals() as target,
        serving(keys, peer, password=token(), everything=True) as server,
        our_client(server.port, hosts, mine) as session,
        session.forward_from_remote_port("127.0.0.1", port, "127.0.0.1", target),
    ):
        assert await say(await anyio.connect_tcp("127.0.0.1", port), b"hello") == b"HELLO"


# --- servers


@pytest.fixture(params=SERVERS)
def server_peer(request: pytest.FixtureRequest) -> Peer:
    return require_peer(request.param)


@asynccontextmanager
async def serving(keys: Keys, peer: Peer, **options: Any) -> AsyncIterator[RunningServer]:
    require_accounts(peer)
    hosts = [keys.host["ed25519"]]
    async with peer.server(
        host_key=hosts, authorized=keys.authorized, user=USER, **options
    ) as server:
        yield server


async def test_wrong_password_for_a_server(keys: Keys, server_peer: Peer) -> None:
    hosts, password = [keys.host["ed25519"]], token()
    wrong = anyssh.ClientCredentials(USER, password=token())
    right = anyssh.ClientCredentials(USER, password=password)
    async with serving(keys, server_peer, password=password) as server:
        with pytest.raises(anyssh.AuthenticationError) as refusal:
            async with our_client(server.port, hosts, wrong):
                pytest.fail("a wrong password was accepted")
        assert "password" in refusal.value.methods_left
        async with our_client(server.port, hosts, right) as session:
            assert await exchange(session, GREETING) == (GREETING, 0)


async def test_unknown_key_for_a_server(keys: Keys, server_peer: Peer) -> None:
    hosts = [keys.host["ed25519"]]
    stranger = anyssh.ClientCredentials(USER, keys=[our_key(keys.stranger["ed25519"])])
    async with serving(keys, server_peer, password=token()) as server:
        with pytest.raises(anyssh.AuthenticationError) as refusal:
            async with our_client(server.port, hosts, stranger):
                pytest.fail("a key that the server does not know was accepted")
    assert "publickey" in refusal.value.methods_left
