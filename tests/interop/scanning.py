"""A server for scanners to inspect, and the scanners."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest
from anyio.abc import SocketAttribute

import anyssh

from .ours import echo
from .peers import find_program, token


def require_program(name: str, remedy: str) -> str:
    program = find_program(name)
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no {name}: {remedy}")
        pytest.skip(f"no {name}: {remedy}")
    return program


HOST_KEYS = {
    "ssh-ed25519": "ssh-ed25519",
    "ssh-rsa": "rsa-sha2-512",
    "ecdsa-sha2-nistp256": "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384": "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521": "ecdsa-sha2-nistp521",
}


@dataclass
class Scanned:
    """A server to be looked at."""

    port: int
    password: str
    keys: dict[str, anyssh.Key]
    server: anyssh.Server
    attempts: int = 0


@asynccontextmanager
async def scanned(
    limits: anyssh.ServerLimits | None = None, config: anyssh.SessionConfig | None = None
) -> AsyncIterator[Scanned]:
    """Run a server with a key of each type; all else is as it comes."""
    keys = {name: anyssh.generate_key(algorithm) for name, algorithm in HOST_KEYS.items()}
    password = token()

    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        found.attempts += 1
        match attempt:
            case anyssh.PasswordAttempt(username="alice", password=given) if given == password:
                return "alice"
        return None

    async def handle(session: anyssh.ServerSession) -> None:
        await session.serve(echo)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        port = listener.extra(SocketAttribute.local_port)
        server = anyssh.Server(
            host_keys=list(keys.values()), authenticate=authenticate, config=config, limits=limits
        )
        found = Scanned(port, password, keys, server)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, listener, handle)
            yield found
            tasks.cancel_scope.cancel()
