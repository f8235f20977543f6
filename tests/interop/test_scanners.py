"""What scanners find in a default server and a default client (T-62).

``ssh-audit`` rates algorithms. What it criticises is either absent or in ``EXPLAINED``, with the
reason why we offer it all the same; an entry that it no longer criticises has to go. The policy
files say what is offered, and in which order. ``nmap`` inspects the protocol from outside, without
logging in.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anyio
import pytest

import anyssh

from .explained import EXPLAINED
from .scanning import require_program, scanned
from .scripts.accounts import free_port

POLICIES = Path(__file__).parent / "policies"
DEADLINE = 60.0


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def ssh_audit() -> str:
    return require_program("ssh-audit", "pip install ssh-audit")


@pytest.fixture(scope="module")
def nmap() -> str:
    return require_program("nmap", "apt-get install nmap")


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
