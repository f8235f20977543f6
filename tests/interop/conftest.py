"""Fixtures for the tests against other SSH programs: keys, and one server of each peer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .peers import USER, KeyFile, Peer, RunningServer, generate_keys, require_peer, token

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(scope="module", params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loop that a coroutine test runs on: two, the peers' processes take their time."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@dataclass(frozen=True)
class Keys:
    """Generated keys: of hosts, of users that are let in, of users that are not."""

    host: dict[str, KeyFile]
    user: dict[str, KeyFile]
    stranger: dict[str, KeyFile]
    authorized: Path

    def hosts(self, peer: Peer) -> list[KeyFile]:
        """Return host keys that a peer can serve with and verify."""
        names = ["ecdsa384", "rsa"] if peer.name == "npm" else ["ed25519", "ecdsa384", "rsa"]
        return [self.host[name] for name in names]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    directory = tmp_path_factory.mktemp("keys")
    names = ("host", "user", "stranger")
    host, user, stranger = (generate_keys(directory / name) for name in names)
    authorized = directory / "authorized_keys"
    authorized.write_text("".join(file.line for file in user.values()))
    return Keys(host, user, stranger, authorized)


@dataclass(frozen=True)
class Site:
    """A running server of a peer, and whom it lets in: keys always, a password if there is one.

    Its events are those of all tests, so wait for one with a text of the test's own.
    """

    peer: Peer
    server: RunningServer
    user: str
    hosts: list[KeyFile]
    password: str | None

    @property
    def port(self) -> int:
        return self.server.port


@pytest.fixture(scope="session")
def sites(keys: Keys) -> Iterator[Sites]:
    running = Sites(keys)
    yield running
    running.stop()


MORE_ALGORITHMS: dict[str, dict[str, list[str]]] = {
    "openssh": {},
    "paramiko": {},
    "asyncssh": {"ciphers": ["+aes256-cbc"]},
    "npm": {
        "kex": [
            "ecdh-sha2-nistp384",
            "ecdh-sha2-nistp256",
            "diffie-hellman-group16-sha512",
            "diffie-hellman-group14-sha256",
            "ecdh-sha2-nistp521",
        ],
        "host_key_algorithms": [
            "rsa-sha2-512",
            "rsa-sha2-256",
            "ecdsa-sha2-nistp384",
            "ecdsa-sha2-nistp256",
            "ecdsa-sha2-nistp521",
        ],
    },
}
"""What a peer's server must be told to offer all that it has: its defaults, then the rest."""


class Sites:
    """Starts a peer's server when the first test needs it; it runs until the last one."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._stack = ExitStack()
        self._running: dict[str, Site] = {}

    def __getitem__(self, name: str) -> Site:
        if name not in self._running:
            peer = require_peer(name)
            # sshd takes passwords only by special arrangement; see the test of it.
            password = None if name == "openssh" else token()
            names = ("ecdsa384", "ecdsa256", "ecdsa521", "rsa")
            hosts = [self._keys.host[key] for key in (names if name == "npm" else self._keys.host)]
            serving = peer.serving(
                host_key=hosts,
                authorized=self._keys.authorized,
                user=USER,
                password=password,
                **MORE_ALGORITHMS[name],
            )
            server = self._stack.enter_context(serving)
            self._running[name] = Site(peer, server, peer.user, hosts, password)
        return self._running[name]

    def stop(self) -> None:
        self._stack.close()
