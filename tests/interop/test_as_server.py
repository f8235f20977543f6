"""anyssh as the server of other clients."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import anyssh

from .conftest import Keys
from .ours import Gate, our_server
from .peers import USER, Peer, finish, require_peer, token
from .scripts.peer_common import ECHO, GREETING, PROMPTS, pattern, sha256

PEERS = ["openssh", "asyncssh", "paramiko", "npm"]
# Ed25519 is not known to every peer.
PEERS_AND_KEYS = [
    (peer, key)
    for peer in PEERS
    for key in ("ed25519", "ecdsa256", "rsa")
    if (peer, key) != ("npm", "ed25519")
]
MEBIBYTE = 1 << 20


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Peer:
    return require_peer(request.param)


class Side:
    """What both sides of a test agree on."""

    def __init__(self, keys: Keys, peer: Peer) -> None:
        self.hosts = keys.hosts(peer)
        self.key = keys.user["ecdsa384"]
        self.gate = Gate(USER, authorized=[self.key])
        self.options: dict[str, Any] = {"host_public_key": self.hosts, "key": [self.key]}


@pytest.fixture
def side(keys: Keys, peer: Peer) -> Side:
    return Side(keys, peer)


@pytest.mark.parametrize("peer, key_type", PEERS_AND_KEYS, indirect=["peer"])
async def test_public_key(keys: Keys, peer: Peer, key_type: str) -> None:
    key, hosts = keys.user[key_type], keys.hosts(peer)
    async with our_server(Gate(USER, authorized=[key]), hosts) as server:
        report = await peer.play(server.port, "echo", host_public_key=hosts, key=[key])
        assert report.one("result")["received"] == GREETING.decode()
        assert (await server.visit()).session.principal == "publickey"
        attempt = server.attempts[-1]
    assert isinstance(attempt, anyssh.PublicKeyAttempt)
    assert attempt.username == USER


async def test_password(keys: Keys, peer: Peer) -> None:
    password, hosts = token(), keys.hosts(peer)
    async with our_server(Gate(USER, password=password), hosts) as server:
        report = await peer.play(server.port, "echo", host_public_key=hosts, password=password)
        assert report.one("result")["received"] == GREETING.decode()
        assert (await server.visit()).session.principal == "password"


async def test_wrong_password_is_refused(keys: Keys, peer: Peer) -> None:
    hosts = keys.hosts(peer)
    async with our_server(Gate(USER, password=token()), hosts) as server:
        report = await peer.play(server.port, "echo", host_public_key=hosts, password=token())
        assert report.one("refused")
        assert server.visits == []
        assert [type(attempt) for attempt in server.attempts] == [anyssh.PasswordAttempt]


async def test_unknown_key_is_refused(keys: Keys, peer: Peer, side: Side) -> None:
    options = side.options | {"key": [keys.stranger["ecdsa384"]]}
    async with our_server(side.gate, side.hosts) as server:
        report = await peer.play(server.port, "echo", **options)
        assert report.one("refused")
        assert server.visits == []


@pytest.mark.parametrize("peer", ["openssh", "asyncssh", "paramiko"], indirect=True)
async def test_a_password_after_an_unknown_key(keys: Keys, peer: Peer) -> None:
    password, hosts = token(), keys.hosts(peer)
    options = {"key": [keys.stranger["ecdsa384"]], "password": password}
    async with our_server(Gate(USER, authorized=[], password=password), hosts) as server:
        report = await peer.play(server.port, "echo", host_public_key=hosts, **options)
        assert report.one("result")["received"] == GREETING.decode()
        assert (await server.visit()).session.principal == "password"


async def test_the_peer_refuses_an_unexpected_host_key(keys: Keys, peer: Peer, side: Side) -> None:
    options = side.options | {"host_public_key": [keys.stranger["rsa"]]}
    async with our_server(side.gate, [keys.host["rsa"]]) as server:
        report = await peer.play(server.port, "echo", **options)
        assert not report.all("authenticated")
        assert server.attempts == []


async def test_two_prompts(keys: Keys, peer: Peer) -> None:
    """The npm package reads the prompts in a layout of its own."""
    answers, hosts = [token(), token()], keys.hosts(peer)
    async with our_server(Gate(USER, answers=answers), hosts) as server:
        report = await peer.play(
            server.port, "echo", host_public_key=hosts, interactive=True, answers=answers
        )
        assert report.one("result")["received"] == GREETING.decode()
        assert (await server.visit()).session.principal == "keyboard-interactive"
    if peer.name != "openssh":  # which tells nothing of the questions
        challenge = report.one("challenge")
        assert (challenge["name"], challenge["instruction"]) == ("Two questions", "Answer both")
        assert challenge["prompts"] == [list(prompt) for prompt in PROMPTS]


async def test_bulk(peer: Peer, side: Side) -> None:
    async with our_server(side.gate, side.hosts) as server:
        report = await peer.play(server.port, "bulk", bytes=MEBIBYTE, **side.options)
    result = report.one("result")
    assert (result["received"], result["status"]) == (MEBIBYTE, 0)
    assert result["sha256"] == sha256(pattern(MEBIBYTE))


async def test_three_channels(peer: Peer, side: Side) -> None:
    async with our_server(side.gate, side.hosts) as server:
        report = await peer.play(server.port, "channels", **side.options)
        assert len(server.visits) == 1
    assert report.one("result")["intact"] == [True, True, True]


async def test_exec(peer: Peer, side: Side) -> None:
    async with our_server(side.gate, side.hosts) as server:
        report = await peer.play(server.port, "exec", **side.options)
    result = report.one("result")
    assert (result["stdout"], result["stderr"], result["status"]) == ("output", "errors", 42)


@pytest.mark.parametrize("peer", ["openssh", "asyncssh", "npm"], indirect=True)
async def test_exit_signal(peer: Peer, side: Side) -> None:
    async with our_server(side.gate, side.hosts) as server:
        report = await peer.play(server.port, "signal", **side.options)
    expected = "unnamed" if peer.name == "openssh" else "TERM"
    assert report.one("result")["signal"] == expected


@pytest.mark.parametrize("peer", ["openssh", "asyncssh", "paramiko"], indirect=True)
async def test_we_rekey(peer: Peer, side: Side) -> None:
    """New keys every 256 KiB while data flows both ways."""
    config = anyssh.SessionConfig(rekey_bytes=MEBIBYTE // 4)
    async with our_server(side.gate, side.hosts, config=config) as server:
        report = await peer.play(server.port, "bulk", bytes=MEBIBYTE, **side.options)
        assert server.watch.key_exchanges >= 3
    result = report.one("result")
    assert (result["received"], result["status"]) == (MEBIBYTE, 0)
    assert result["sha256"] == sha256(pattern(MEBIBYTE))


async def test_they_rekey(peer: Peer, side: Side) -> None:
    # With paramiko one way only, so that no key exchange falls on the end of the channel.
    scenario, size = ("upload", 4 * MEBIBYTE) if peer.name == "paramiko" else ("bulk", MEBIBYTE)
    options = side.options | {"rekey_bytes": peer.rekey_bytes, "bytes": size}
    async with our_server(side.gate, side.hosts) as server:
        report = await peer.play(server.port, scenario, **options)
        assert server.watch.key_exchanges >= 2
    result = report.one("result")
    assert (result["sha256"], result["status"]) == (sha256(pattern(size)), 0)


@pytest.mark.parametrize("peer", ["openssh"], indirect=True)
async def test_they_rekey_around_every_packet(peer: Peer, side: Side) -> None:
    """As OpenSSH does when its limit is small: T-17."""
    options = side.options | {"rekey_bytes": 64 * 1024, "bytes": 4 * MEBIBYTE}
    async with our_server(side.gate, side.hosts) as server:
        report = await peer.play(server.port, "bulk", **options)
        assert server.watch.key_exchanges >= 64
    result = report.one("result")
    assert (result["sha256"], result["status"]) == (sha256(pattern(4 * MEBIBYTE)), 0)


async def test_goodbye_of_the_peer(peer: Peer, side: Side) -> None:
    async with our_server(side.gate, side.hosts) as server:
        options = side.options | {"reason": 9999, "message": "good night"}
        await peer.play(server.port, "disconnect", **options)
        end = await server.end()
    if peer.name == "openssh":  # which always says the same
        assert (end.reason, end.description) == (11, "disconnected by user")
    else:
        assert (end.reason, end.description) == (9999, "good night")
    assert isinstance(end.error, anyssh.Disconnected)


@pytest.mark.parametrize("reason", [11, 9999])
async def test_our_goodbye(peer: Peer, side: Side, reason: int) -> None:
    async with (
        our_server(side.gate, side.hosts) as server,
        peer.client(server.port, "wait", **side.options) as client,
    ):
        visit = await server.visit()
        assert await server.command() == ECHO
        await visit.session.disconnect(reason, "going home")
        report = await finish(client)
    assert report.one("disconnected")["reason"] == reason
    assert report.one("disconnected")["message"] == "going home"


async def test_they_keep_alive(keys: Keys) -> None:
    """All peers at a time: they count in seconds."""
    peers = [require_peer(name) for name in ("openssh", "asyncssh", "npm")]
    async with anyio.create_task_group() as tasks:
        for peer in peers:
            tasks.start_soon(keep_alive, peer, Side(keys, peer))


async def keep_alive(peer: Peer, side: Side) -> None:
    async with our_server(side.gate, side.hosts) as server:
        report = await peer.play(server.port, "alive", keep_alive=1, **side.options)
    assert len(report.all("keep_alive")) >= 2, peer


async def test_we_keep_alive(peer: Peer, side: Side) -> None:
    config = anyssh.SessionConfig(keep_alive_interval=0.2, keep_alive_count=2)
    async with (
        our_server(side.gate, side.hosts, config=config) as server,
        peer.client(server.port, "wait", **side.options) as client,
    ):
        visit = await server.visit()
        async for event in visit.session.events():
            assert isinstance(event, anyssh.KeepAliveSucceeded)
            if event.count == 4:
                break
        await visit.session.disconnect(11, "enough")
        report = await finish(client)
    assert report.all("asked_alive")
