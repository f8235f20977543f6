"""Fixtures for the command line: users with home directories, and sshd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import anyssh
from tests.interop.peers import KeyFile, RunningServer, generate_keys, require_peer

from .program import Anyssh


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run the tests themselves on one event loop: the programs run on each of theirs."""
    return ("asyncio", {"use_uvloop": False})


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    """The event loop of the programs."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KeyFile]:
    return generate_keys(tmp_path_factory.mktemp("cli") / "keys")


@pytest.fixture
def user(backend: str, tmp_path: Path) -> Anyssh:
    """Somebody with a key who may log in with it."""
    folder = tmp_path / ".ssh"
    folder.mkdir(mode=0o700)
    key = anyssh.generate_key("ssh-ed25519", comment="user@test")
    anyssh.export_private_key_file(key, folder / "id_ed25519", "openssh")
    anyssh.export_public_key_file(key, folder / "id_ed25519.pub")
    anyssh.export_public_key_file(key, folder / "authorized_keys")
    return Anyssh(tmp_path, backend)


async def know(user: Anyssh, key: anyssh.Key, port: int) -> None:
    """Write a host key where the user's programs look for it."""
    known = await anyssh.KnownHosts.load(user.home / ".ssh" / "known_hosts")
    await known.add(key, "127.0.0.1", port)


@asynccontextmanager
async def sshd(
    user: Anyssh, keys: dict[str, KeyFile], /, **options: Any
) -> AsyncIterator[RunningServer]:
    """Run OpenSSH's server; the user may log in, and knows it.

    :param options: more of those of the script that runs it
    """
    peer = require_peer("openssh")
    authorized = user.home / ".ssh" / "authorized_keys"
    options |= {"host_key": [keys["ed25519"]], "authorized": authorized}
    async with peer.server(**options) as server:
        await know(user, anyssh.import_key_file(keys["ed25519"].public), server.port)
        yield server
