"""anyssh as the client of other servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest

import anyssh

from .conftest import Keys, Site, Sites
from .ours import Watch, collect, exchange, execute, our_client, our_key
from .peers import KeyFile, Peer, require_peer, token
from .scripts.peer_common import (
    DIGEST,
    DISCONNECT,
    ECHO,
    GREETING,
    PROMPTS,
    REPORT,
    SIGNAL,
    pattern,
    sha256,
)

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
def site(request: pytest.FixtureRequest, sites: Sites) -> Site:
    found: Site = sites[request.param]
    return found


@pytest.fixture
def credentials(site: Site, keys: Keys) -> anyssh.ClientCredentials:
    return with_key(site.user, keys.user["ecdsa384"])


def with_key(user: str, key: KeyFile) -> anyssh.ClientCredentials:
    return anyssh.ClientCredentials(user, keys=[our_key(key)])


@pytest.mark.parametrize("site, key_type", PEERS_AND_KEYS, indirect=["site"])
async def test_public_key(site: Site, keys: Keys, key_type: str) -> None:
    mine = with_key(site.user, keys.user[key_type])
    async with our_client(site.port, site.hosts, mine) as session:
        assert await exchange(session, GREETING) == (GREETING, 0)


@pytest.mark.parametrize("name", ["asyncssh", "paramiko", "npm"])
async def test_password(sites: Sites, name: str) -> None:
    site = sites[name]
    mine = anyssh.ClientCredentials(site.user, password=site.password)
    async with our_client(site.port, site.hosts, mine) as session:
        assert await exchange(session, GREETING) == (GREETING, 0)


async def test_wrong_password_then_key(site: Site, keys: Keys) -> None:
    """A refusal leaves the session as it was; the next attempt may be good."""
    wrong = anyssh.ClientCredentials(site.user, password="not " + token())
    right = with_key(site.user, keys.user["ecdsa256"])
    stream = await anyio.connect_tcp("127.0.0.1", site.port)
    verify = anyssh.pin(*(our_key(file).fingerprint for file in site.hosts))
    async with anyssh.ClientSession.connect(stream, verify_host=verify) as session:
        with pytest.raises(anyssh.AuthenticationError) as refusal:
            await session.authenticate(wrong)
        assert "publickey" in refusal.value.methods_left
        await session.authenticate(right)
        assert await exchange(session, GREETING) == (GREETING, 0)


async def test_unknown_key_is_refused(site: Site, keys: Keys) -> None:
    mine = with_key(site.user, keys.stranger["ecdsa256"])
    with pytest.raises(anyssh.AuthenticationError) as refusal:
        async with our_client(site.port, site.hosts, mine):
            pytest.fail("a key that the server does not know was accepted")
    assert "publickey" in refusal.value.methods_left


async def test_unexpected_host_key_is_refused(
    site: Site, keys: Keys, credentials: anyssh.ClientCredentials
) -> None:
    with pytest.raises(anyssh.HostKeyError) as refusal:
        async with our_client(site.port, [keys.stranger["rsa"]], credentials):
            pytest.fail("a host key that was not expected was accepted")
    assert refusal.value.fingerprint in [our_key(file).fingerprint for file in site.hosts]


async def test_bulk(site: Site, credentials: anyssh.ClientCredentials) -> None:
    data = pattern(MEBIBYTE)
    async with our_client(site.port, site.hosts, credentials) as session:
        received, status = await exchange(session, data)
    assert (len(received), status) == (MEBIBYTE, 0)
    assert received == data


async def test_three_channels(site: Site, credentials: anyssh.ClientCredentials) -> None:
    sent = [pattern(65536, seed) for seed in range(3)]
    received = [b""] * 3

    async def one(session: anyssh.ClientSession, number: int) -> None:
        received[number], _ = await exchange(session, sent[number])

    async with (
        our_client(site.port, site.hosts, credentials) as session,
        anyio.create_task_group() as tasks,
    ):
        for number in range(3):
            tasks.start_soon(one, session, number)
    assert received == sent


async def test_exec(site: Site, credentials: anyssh.ClientCredentials) -> None:
    async with our_client(site.port, site.hosts, credentials) as session:
        channel = await execute(session, REPORT)
        output = await collect(channel)
        errors = await collect(channel.stderr)
        closed = await channel.wait_closed()
    assert (output, errors, closed.exit_status) == (b"output", b"errors", 42)
    assert closed.exit_signal is None


async def test_run_command(site: Site, credentials: anyssh.ClientCredentials) -> None:
    data = pattern(MEBIBYTE)
    async with our_client(site.port, site.hosts, credentials) as session:
        reported = await session.run_command(REPORT, check=False)
        with pytest.raises(anyssh.CommandFailed, match="ended with status 42: errors"):
            await session.run_command(REPORT)
        echoed = await session.run_command(ECHO, input=data)
        ended = await session.run_command(SIGNAL, check=False)
    assert reported == anyssh.CompletedCommand(REPORT, b"output", b"errors", 42)
    assert (echoed.stdout == data, echoed.exit_status) == (True, 0)
    assert (ended.exit_signal, ended.exit_status) == ("TERM", None)


async def test_exit_signal(site: Site, credentials: anyssh.ClientCredentials) -> None:
    async with our_client(site.port, site.hosts, credentials) as session:
        closed = await (await execute(session, SIGNAL)).wait_closed()
    assert (closed.exit_signal, closed.exit_status) == ("TERM", None)


@pytest.mark.parametrize("name", ["openssh", "asyncssh", "paramiko"])
async def test_we_rekey(sites: Sites, keys: Keys, name: str) -> None:
    """New keys every 256 KiB while data flows both ways."""
    site, watch = sites[name], Watch()
    config = anyssh.SessionConfig(rekey_bytes=MEBIBYTE // 4)
    mine = with_key(site.user, keys.user["ecdsa256"])
    data = pattern(MEBIBYTE)
    async with our_client(site.port, site.hosts, mine, config=config, trace=watch) as session:
        received, status = await exchange(session, data)
        assert (received == data, status) == (True, 0)
        assert await exchange(session, GREETING) == (GREETING, 0)
    assert watch.key_exchanges >= 3


@pytest.mark.parametrize("name", ["openssh", "asyncssh", "npm"])
async def test_they_rekey(keys: Keys, name: str) -> None:
    peer, watch, data = require_peer(name), Watch(), pattern(MEBIBYTE)
    async with rekeying(peer, keys, watch) as session:
        received, status = await exchange(session, data)
        assert (received == data, status) == (True, 0)
        assert await exchange(session, GREETING) == (GREETING, 0)
    assert watch.key_exchanges >= 2


async def test_they_rekey_while_we_upload(keys: Keys) -> None:
    """One way only, so that no key exchange of this peer falls on the end of the channel."""
    watch, data = Watch(), pattern(4 * MEBIBYTE)
    async with rekeying(require_peer("paramiko"), keys, watch) as session:
        received, status = await exchange(session, data, DIGEST)
        assert (received.split()[0].decode(), status) == (sha256(data), 0)
        assert await exchange(session, GREETING) == (GREETING, 0)
    assert watch.key_exchanges >= 2


@asynccontextmanager
async def rekeying(peer: Peer, keys: Keys, watch: Watch) -> AsyncIterator[anyssh.ClientSession]:
    """Connect to a server that wants new keys after a few hundred KiB."""
    hosts, mine = keys.hosts(peer), with_key(peer.user, keys.user["ecdsa256"])
    serving = peer.server(
        host_key=hosts,
        authorized=keys.authorized,
        user=peer.user,
        rekey_bytes=peer.rekey_bytes,
    )
    async with serving as server, our_client(server.port, hosts, mine, trace=watch) as session:
        yield session


@pytest.mark.parametrize("name", PEERS)
async def test_a_guess_is_taken(keys: Keys, name: str) -> None:
    """The key exchange is guessed, and the server agrees."""
    peer, method = require_peer(name), anyssh.KeyExchange.ECDH_NISTP256
    hosts, mine = keys.hosts(peer), with_key(peer.user, keys.user["ecdsa384"])
    algorithms = [anyssh.HostKeyAlgorithm.ECDSA_NISTP384]
    config = anyssh.SessionConfig(
        key_exchanges=[method], host_key_algorithms=algorithms, guess_key_exchange=True
    )
    messages: list[str] = []

    def trace(event: anyssh.TraceEvent) -> None:
        if event.id in (anyssh.TraceId.SENDING_MESSAGE, anyssh.TraceId.RECEIVING_MESSAGE):
            direction, _, message = event.message.split()
            messages.append(f"{direction} {message}")

    serving = peer.server(
        host_key=[file for file in hosts if our_key(file).algorithm in algorithms],
        authorized=keys.authorized,
        user=peer.user,
        kex=method,
    )
    async with serving as server:
        session = our_client(server.port, hosts, mine, config=config, trace=trace)
        async with session as client:
            assert await exchange(client, GREETING) == (GREETING, 0)
    assert messages[:2] == ["Sending KEXINIT", "Sending KEXDH_INIT"]
    assert messages.count("Sending KEXDH_INIT") == 1


@pytest.mark.parametrize("name", ["asyncssh", "paramiko", "npm"])
async def test_two_prompts(keys: Keys, name: str) -> None:
    """The npm package lays its prompts out in a way of its own."""
    peer, answers = require_peer(name), [token(), token()]
    hosts = keys.hosts(peer)
    asked = []

    async def respond(challenge: anyssh.Challenge) -> list[str]:
        asked.append(challenge)
        return answers

    mine = anyssh.ClientCredentials("alice", respond=respond)
    async with (
        peer.server(host_key=hosts, interactive=True, answers=answers) as server,
        our_client(server.port, hosts, mine) as session,
    ):
        assert await exchange(session, GREETING) == (GREETING, 0)
    [challenge] = asked
    assert (challenge.name, challenge.instruction) == ("Two questions", "Answer both")
    assert [(prompt.text, prompt.echo) for prompt in challenge.prompts] == list(PROMPTS)


async def test_disconnect_tells_the_peer_why(
    site: Site, credentials: anyssh.ClientCredentials
) -> None:
    message = token()
    async with our_client(site.port, site.hosts, credentials) as session:
        assert await exchange(session, GREETING) == (GREETING, 0)
        await session.disconnect(9999, message)
    await site.server.event("disconnected", reason=9999, message=message)


@pytest.mark.parametrize("reason", [11, 9999])
@pytest.mark.parametrize("name", ["asyncssh", "paramiko", "npm"])
async def test_disconnect_of_the_peer(sites: Sites, keys: Keys, name: str, reason: int) -> None:
    site = sites[name]
    mine = with_key(site.user, keys.user["ecdsa256"])
    async with our_client(site.port, site.hosts, mine) as session:
        with suppress(anyio.BrokenResourceError):  # the goodbye may overtake the reply
            await execute(session, f"{DISCONNECT}{reason} going home")
        closed = await session.wait_closed()
        with pytest.raises(anyssh.Disconnected) as end:
            await session.open_channel()
    assert (closed.reason, closed.description) == (reason, "going home")
    assert (end.value.reason, end.value.description) == (reason, "going home")
    assert end.value.by_peer


@pytest.mark.parametrize("name", PEERS)
async def test_we_keep_alive(sites: Sites, keys: Keys, name: str) -> None:
    site = sites[name]
    config = anyssh.SessionConfig(keep_alive_interval=0.2, keep_alive_count=2)
    mine = with_key(site.user, keys.user["ecdsa256"])
    async with our_client(site.port, site.hosts, mine, config=config) as session:
        await execute(session, ECHO)
        async for event in session.events():
            assert isinstance(event, anyssh.KeepAliveSucceeded)
            if event.count == 4:
                break
        assert await exchange(session, GREETING) == (GREETING, 0)


async def test_they_keep_alive(keys: Keys) -> None:
    """All peers at a time: they count in seconds."""
    peers = [require_peer(name) for name in ("openssh", "asyncssh", "npm")]
    async with anyio.create_task_group() as tasks:
        for peer in peers:
            tasks.start_soon(stay_alive, peer, keys)


async def stay_alive(peer: Peer, keys: Keys) -> None:
    hosts, mine = keys.hosts(peer), with_key(peer.user, keys.user["ecdsa256"])
    serving = peer.server(host_key=hosts, authorized=keys.authorized, user=peer.user, keep_alive=1)
    async with serving as server, our_client(server.port, hosts, mine) as session:
        await execute(session, ECHO)
        for _ in range(2):
            await server.event("keep_alive")
        assert await exchange(session, GREETING) == (GREETING, 0)
