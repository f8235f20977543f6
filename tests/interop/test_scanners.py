"""What scanners find in a default server and a default client.

``ssh-audit`` rates algorithms. What it finds fault with is either not there or in ``EXPLAINED``,
with the reason why we offer it all the same; an entry that it no longer finds fault with has to go.
The policy files say what is offered, in which order. ``nmap`` looks at the protocol from outside,
without logging in.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anyio
import pytest
from anyio.abc import SocketAttribute

import anyssh

from .explained import EXPLAINED
from .ours import echo
from .peers import find_program, token

POLICIES = Path(__file__).parent / "policies"
DEADLINE = 60.0


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def require_program(name: str, remedy: str) -> str:
    program = find_program(name)
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no {name}: {remedy}")
        pytest.skip(f"no {name}: {remedy}")
    return program


@pytest.fixture(scope="module")
def ssh_audit() -> str:
    return require_program("ssh-audit", "pip install ssh-audit")


@pytest.fixture(scope="module")
def nmap() -> str:
    return require_program("nmap", "apt-get install nmap")


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


# --- ssh-audit


def faults(report: dict[str, Any]) -> set[tuple[str, str]]:
    """Return what was found fault with: the words, and the algorithm."""
    return {
        (note, entry["algorithm"])
        for kind in ("kex", "key", "enc", "mac")
        for entry in report[kind]
        for level in ("fail", "warn")
        for note in entry["notes"].get(level, ())
    }


def check_faults(report: dict[str, Any]) -> None:
    found = faults(report)
    explained = {(one.words, name) for one in EXPLAINED for name in one.algorithms}
    shortened = {
        (next((one.words for one in EXPLAINED if note.startswith(one.words)), note), name)
        for note, name in found
    }
    assert shortened - explained == set(), "found fault with, and not explained"
    assert explained - shortened == set(), "explained, and no longer found fault with"
    assert report["cves"] == []


async def audit(program: str, *arguments: str) -> dict[str, Any]:
    with anyio.fail_after(DEADLINE):
        done = await anyio.run_process([program, "--json", *arguments], check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


async def test_server_audit(ssh_audit: str) -> None:
    """With the limits that meet strangers; a source on loopback would be exempt from them."""
    async with scanned(anyssh.ServerLimits(exempt=())) as server:
        report = await audit(ssh_audit, "-p", str(server.port), "127.0.0.1")
    check_faults(report)
    # One note is left: that the other side has to know strict key exchange, too.
    [note] = report["additional_notes"]
    assert "properly supports the strict key exchange method" in note


async def test_throttling_is_what_keeps_the_rate_down(ssh_audit: str) -> None:
    """Without it the scanner complains, so the test above would notice if it was gone."""
    async with scanned(anyssh.ServerLimits()) as server:
        report = await audit(ssh_audit, "-p", str(server.port), "127.0.0.1")
    assert any("connection throttling" in note for note in report["additional_notes"])


async def test_server_policy(ssh_audit: str) -> None:
    """What is offered, in this order, is the policy's."""
    policy = POLICIES / "server.txt"
    async with scanned() as server:
        report = await audit(ssh_audit, "-P", str(policy), "-p", str(server.port), "127.0.0.1")
    assert report["passed"], report["errors"]


@pytest.mark.parametrize("policy", [None, "client.txt"], ids=["audit", "policy"])
async def test_client(ssh_audit: str, policy: str | None) -> None:
    port = free_port()
    arguments = ["--client-audit", "-p", str(port)]
    if policy:
        arguments += ["-P", str(POLICIES / policy)]
    report: dict[str, Any] = {}

    async def listen() -> None:
        report.update(await audit(ssh_audit, *arguments))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await connect_once(port)
    if policy:
        assert report["passed"], report["errors"]
    else:
        check_faults(report)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def connect_once(port: int) -> None:
    """Connect a default client to a server that only reads what it offers."""
    with anyio.fail_after(DEADLINE):
        while True:
            try:
                stream = await anyio.connect_tcp("127.0.0.1", port)
                break
            except OSError:
                await anyio.sleep(0.05)
    with pytest.raises(anyssh.SSHError):
        async with anyssh.ClientSession.connect(
            stream, verify_host=anyssh.pin("SHA256:" + "A" * 43)
        ):
            pytest.fail("the scanner is no server")


# --- nmap


async def scan(nmap: str, port: int, *scripts: str) -> dict[str, str]:
    """Run scripts of nmap whatever it thinks of the port; return what each said."""
    command = [nmap, "-Pn", "-n", "-p", str(port), "-oX", "-"]
    command += ["--script", ",".join(f"+{name}" for name in scripts)]
    command += ["--script-args", "ssh_hostkey=all,ssh.user=alice", "127.0.0.1"]
    with anyio.fail_after(DEADLINE):
        done = await anyio.run_process(command)
    found = ElementTree.fromstring(done.stdout).iter("script")
    return {script.attrib["id"]: script.attrib["output"] for script in found}


async def test_nmap(nmap: str) -> None:
    async with scanned() as server:
        found = await scan(nmap, server.port, "ssh2-enum-algos", "ssh-auth-methods", "sshv1")
        assert server.attempts == 0
    config = anyssh.SessionConfig()
    for names in (
        config.key_exchanges,
        config.host_key_algorithms,
        config.encryptions,
        config.macs,
    ):
        listed = found["ssh2-enum-algos"].split()
        assert [name for name in listed if name in names] == list(names)
    methods = found["ssh-auth-methods"].split()[3:]
    assert methods == list(config.authentication_methods)
    # It only speaks when the server knows version 1.
    assert "sshv1" not in found


async def test_nmap_cannot_agree_on_a_host_key(nmap: str) -> None:
    """It offers no MAC but with MD5, SHA-1 and RIPEMD; the server refuses, and goes on."""
    async with scanned() as server:
        found = await scan(nmap, server.port, "ssh-hostkey")
        for key in server.keys.values():
            assert key.fingerprint.partition(":")[2] not in found.get("ssh-hostkey", "")
            await shake_hands(server.port, key)


async def shake_hands(port: int, key: anyssh.Key) -> None:
    """See that a server shows this key."""
    config = anyssh.SessionConfig(host_key_algorithms=key.signature_algorithms)
    stream = await anyio.connect_tcp("127.0.0.1", port)
    verify = anyssh.pin(key.fingerprint)
    async with anyssh.ClientSession.connect(stream, verify_host=verify, config=config):
        pass


# --- a flood of connections


ROUNDS = 10.0
"""Seconds of the flood."""
SLOWEST = 0.05
"""Seconds that 99 of 100 echoes stay below."""
GROWTH = 32 * 1024 * 1024
"""Bytes that the process may grow by after the flood's first second."""


def resident_memory() -> int:
    """Return the bytes of memory that this process has, by Linux's account."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def flooding(program: str, port: int) -> AsyncIterator[None]:
    """Let the scanner make connections as fast as it can, sixteen at a time."""
    command = [program, "--conn-rate-test", "16", "-p", str(port), "127.0.0.1"]
    async with await anyio.open_process(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("exempt", [True, False], ids=["each one is let in", "penalised"])
async def test_an_echo_goes_on_in_a_flood(
    ssh_audit: str, exempt: bool, record_property: Any
) -> None:
    """T-16: an established session is as quick as before, memory stays as it was."""
    limits = anyssh.ServerLimits() if exempt else anyssh.ServerLimits(exempt=())
    times: list[float] = []
    async with scanned(limits) as server:
        mine = anyssh.ClientCredentials("alice", password=server.password)
        verify = anyssh.pin(server.keys["ssh-ed25519"].fingerprint)
        stream = await anyio.connect_tcp("127.0.0.1", server.port)
        async with (
            anyssh.ClientSession.connect(stream, credentials=mine, verify_host=verify) as session,
            await session.open_channel() as channel,
            flooding(ssh_audit, server.port),
        ):
            before = None
            end = time.monotonic() + ROUNDS
            while (start := time.monotonic()) < end:
                await channel.send(b"x" * 64)
                assert await channel.receive()
                times.append(time.monotonic() - start)
                await anyio.sleep(0.002)
                if before is None and start > end - ROUNDS + 1:
                    before = resident_memory()
            after = resident_memory()
        assert server.server.statistics.total_logins == 1
    times.sort()
    p99 = times[len(times) * 99 // 100]
    assert before is not None
    figures = {"echoes": len(times), "p99_ms": p99 * 1000, "grown": after - before}
    for name, value in figures.items():
        record_property(name, value)
    assert p99 < SLOWEST
    assert after - before < GROWTH
