"""OpenSSH's agent: listing its keys, signing and logging in with them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import anyssh

from .conftest import Keys, Site, Sites
from .ours import exchange, our_client, our_key
from .peers import KeyFile, find_program, require_peer
from .scripts.peer_common import GREETING

TYPES = ["ed25519", "ecdsa256", "ecdsa384", "ecdsa521", "rsa"]
SECRET = "rabbit hole"


class RealAgent:
    """A running ``ssh-agent``; what it asks people is answered by a script."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "agent"
        self.answer = folder / "answer"
        self.asked = folder / "was asked"
        self._askpass = folder / "askpass"
        self._askpass.write_text(
            f"#!/bin/sh\ntouch '{self.asked}'\n"
            f"until [ -s '{self.answer}' ]; do sleep 0.05; done\ncat '{self.answer}'\n"
        )
        self._askpass.chmod(0o700)
        self.answer.write_text(f"{SECRET}\n")
        self._process = subprocess.Popen(
            [find_program("ssh-agent") or "ssh-agent", "-D", "-a", str(self.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self._environment(),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline()  # told once the socket is there

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "SSH_AUTH_SOCK": str(self.path),
            "SSH_ASKPASS": str(self._askpass),
            "SSH_ASKPASS_REQUIRE": "force",
            "DISPLAY": "none",
        }

    def ssh_add(self, *arguments: str | Path) -> None:
        command = [find_program("ssh-add") or "ssh-add", *map(str, arguments)]
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RealAgent]:
    require_peer("openssh")
    running = RealAgent(tmp_path)
    yield running
    running.stop()


@pytest.fixture
def site(sites: Sites) -> Site:
    return sites["openssh"]


async def login(site: Site, credentials: anyssh.ClientCredentials) -> None:
    async with our_client(site.port, site.hosts, credentials) as session:
        assert await exchange(session, GREETING) == (GREETING, 0)


async def test_every_key_is_listed_and_signs(agent: RealAgent, keys: Keys) -> None:
    for name in TYPES:
        agent.ssh_add(keys.user[name].private)
    async with anyssh.Agent(agent.path) as ours:
        identities = await ours.identities()
        assert [each.key for each in identities] == [our_key(keys.user[name]) for name in TYPES]
        assert all(each.key.comment for each in identities)
        for identity in identities:
            for algorithm in identity.key.signature_algorithms:
                for data in (b"", b"data", bytes(100_000)):
                    signature = await identity.sign(data, algorithm)
                    assert identity.key.verify(data, signature, algorithm)


@pytest.mark.parametrize("name", TYPES)
async def test_logging_in_at_sshd(
    agent: RealAgent, keys: Keys, site: Site, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.ssh_add(keys.user[name].private)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.path))
    async with anyssh.Agent() as ours:
        await login(site, anyssh.ClientCredentials(site.user, keys=ours.identities))


async def test_the_right_key_among_strangers(agent: RealAgent, keys: Keys, site: Site) -> None:
    agent.ssh_add(keys.stranger["ed25519"].private)
    agent.ssh_add(keys.stranger["rsa"].private)
    agent.ssh_add(keys.user["ecdsa256"].private)
    async with anyssh.Agent(agent.path) as ours:
        await login(site, anyssh.ClientCredentials(site.user, keys=await ours.identities()))
        public = [our_key(keys.user[name]).public() for name in ("ed25519", "ecdsa256")]
        await login(site, anyssh.ClientCredentials(site.user, keys=public, key_provider=ours.find))


async def test_a_key_removed_between_listing_and_signing(
    agent: RealAgent, keys: Keys, site: Site
) -> None:
    agent.ssh_add(keys.user["ed25519"].private)
    agent.ssh_add(keys.user["rsa"].private)
    async with anyssh.Agent(agent.path) as ours:
        identities = await ours.identities()
        agent.ssh_add("-d", keys.user["ed25519"].public)
        with pytest.raises(anyssh.SigningRefused, match=re.escape(identities[0].key.fingerprint)):
            await identities[0].sign(b"data", "ssh-ed25519")
        await login(site, anyssh.ClientCredentials(site.user, keys=identities))
        agent.ssh_add("-D")
        with pytest.raises(anyssh.AuthenticationError, match="does not hold the key any more"):
            await login(site, anyssh.ClientCredentials(site.user, keys=identities))
        assert await ours.identities() == ()


async def test_a_locked_agent(agent: RealAgent, keys: Keys) -> None:
    agent.ssh_add(keys.user["ed25519"].private)
    async with anyssh.Agent(agent.path) as ours:
        (identity,) = await ours.identities()
        agent.ssh_add("-x")
        assert await ours.identities() == ()
        with pytest.raises(anyssh.SigningRefused, match=r"locked.*ssh-add -X"):
            await identity.sign(b"data", "ssh-ed25519")
        agent.ssh_add("-X")
        assert await ours.find(identity.key) == identity
        await identity.sign(b"data", "ssh-ed25519")


async def test_a_question_to_a_person_is_given_up(agent: RealAgent, keys: Keys) -> None:
    agent.ssh_add("-c", keys.user["ed25519"].private)
    agent.asked.unlink(missing_ok=True)
    agent.answer.unlink()
    async with anyssh.Agent(agent.path) as ours:
        (identity,) = await ours.identities()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(identity.sign, b"data", "ssh-ed25519")
            while not agent.asked.exists():  # noqa: ASYNC110
                await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        agent.answer.write_text("yes\n")
        signature = await identity.sign(b"more", "ssh-ed25519")
        assert identity.key.verify(b"more", signature, "ssh-ed25519")


async def test_an_agent_that_is_gone(agent: RealAgent, keys: Keys) -> None:
    agent.ssh_add(keys.user["ed25519"].private)
    async with anyssh.Agent(agent.path) as ours:
        (identity,) = await ours.identities()
        agent.stop()
        with pytest.raises(anyssh.AgentError, match="no agent answers at"):
            await identity.sign(b"data", "ssh-ed25519")


@pytest.mark.parametrize("name", ["ed25519", "ecdsa521", "rsa"])
async def test_the_agent_reads_the_keys_that_we_write(  # KEY-19
    agent: RealAgent, keys: Keys, site: Site, name: str, tmp_path: Path
) -> None:
    key = our_key(keys.user[name]).with_comment("written by us")
    path = tmp_path / "key"
    await anyssh.to_thread.export_private_key_file(key, path, "openssh", SECRET)
    agent.ssh_add(path)
    async with anyssh.Agent(agent.path) as ours:
        (identity,) = await ours.identities()
        assert (identity.key, identity.key.comment) == (key, "written by us")
        await login(site, anyssh.ClientCredentials(site.user, keys=[identity]))


@pytest.mark.parametrize(
    "name,format",
    [(name, "openssh") for name in ("ed25519", "ecdsa384", "rsa")]
    + [(name, "pkcs8") for name in ("ecdsa384", "rsa")],
)
async def test_sshd_and_ssh_read_the_keys_that_we_write(  # KEY-19
    keys: Keys, name: str, format: str, tmp_path: Path
) -> None:
    peer = require_peer("openssh")
    host = await written(keys.host[name], format, tmp_path / "host")
    user = await written(keys.user[name], format, tmp_path / "user")
    mine = anyssh.ClientCredentials(peer.user, keys=[our_key(keys.user[name])])
    async with peer.server(host_key=[host], authorized=keys.authorized) as server:
        async with our_client(server.port, [host], mine) as session:
            assert session.host_key == our_key(host)
        report = await peer.play(
            server.port, "echo", host_public_key=[host], key=[user], user=peer.user
        )
    assert report.one("result")["received"] == GREETING.decode()


async def written(file: KeyFile, format: str, path: Path) -> KeyFile:
    await anyssh.to_thread.export_private_key_file(our_key(file), path, format)
    public = path.with_suffix(".pub")
    await anyssh.to_thread.export_public_key_file(our_key(file), public)
    return KeyFile(path, path, public, file.pair)
