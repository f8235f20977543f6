"""The peers with each other, without anyssh: the basis of the other tests."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from .conftest import Keys
from .peers import PeerProcess, require_peer
from .scripts.peer_common import pattern, sha256

PAIRS = [
    ("npm", "npm"),
    ("npm", "asyncssh"),
    ("asyncssh", "npm"),
    ("openssh", "asyncssh"),
    ("asyncssh", "openssh"),
    ("paramiko", "openssh"),
    ("openssh", "paramiko"),
]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("client_name, server_name", PAIRS)
async def test_pair(keys: Keys, client_name: str, server_name: str) -> None:
    client, server = require_peer(client_name), require_peer(server_name)
    hosts = [keys.host["ecdsa384"], keys.host["rsa"]]
    user: dict[str, Any] = {"user": server.user}
    options = user | {"host_public_key": hosts, "key": [keys.user["ecdsa256"]]}
    async with server.server(host_key=hosts, authorized=keys.authorized, **user) as running:
        bulk = await client.play(running.port, "bulk", bytes=100_000, **options)
        channels = await client.play(running.port, "channels", **options)
        report = await client.play(running.port, "exec", **options)
        stranger = options | {"key": [keys.stranger["ecdsa256"]]}
        refused = await client.play(running.port, "echo", **stranger)
    assert bulk.one("result")["sha256"] == sha256(pattern(100_000))
    assert channels.one("result")["intact"] == [True, True, True]
    assert report.one("result")["stdout"] == "output"
    assert report.one("result")["stderr"] == "errors"
    assert report.one("result")["status"] == 42
    assert refused.one("refused")


LINGERING = """
import subprocess
program = subprocess.Popen(["sleep", "600"])
print('{"event": "started"}', flush=True)
program.wait()
"""


def test_a_peer_that_does_not_end() -> None:
    """What it has started would hold the pipes open, and nobody could close them."""
    process = PeerProcess([sys.executable, "-c", LINGERING])
    process.wait_for("started")
    process.patience = 0.0
    process.stop()
