"""What is specific to Dev Tunnels peers; everything else is in the tests of both roles."""

from __future__ import annotations

import anyio
import pytest

import anyssh
from anyssh import HostKeyAlgorithm, KeyExchange

from .conftest import Keys
from .ours import (
    Gate,
    Watch,
    collect,
    echo,
    echo_stderr,
    exchange,
    exchange_over,
    our_client,
    our_key,
    our_server,
)
from .peers import USER, Peer, require_peer
from .scripts.peer_common import GREETING, pattern, sha256

MEBIBYTE = 1 << 20


@pytest.fixture
def npm() -> Peer:
    return require_peer("npm")


class Side:
    """What both sides of a test agree on."""

    def __init__(self, keys: Keys, npm: Peer) -> None:
        self.hosts = keys.hosts(npm)
        self.key = keys.user["ecdsa256"]
        self.gate = Gate(USER, authorized=[self.key])
        self.credentials = anyssh.ClientCredentials(USER, keys=[our_key(self.key)])
        self.serving = {"host_key": self.hosts, "authorized": keys.authorized}
        self.connecting = {"host_public_key": self.hosts, "key": [self.key]}


@pytest.fixture
def side(keys: Keys, npm: Peer) -> Side:
    return Side(keys, npm)


async def test_versions_are_known(npm: Peer, side: Side) -> None:
    async with (
        npm.server(**side.serving) as server,
        our_client(server.port, side.hosts, side.credentials) as session,
    ):
        assert (session.peer_version.name, session.peer_version.version) == (
            "dev-tunnels-ssh",
            "3.12.42",
        )
        assert session.peer_version.is_dev_tunnels


async def test_plain_channel_as_client(npm: Peer, side: Side) -> None:
    """Channels of this family carry bytes without any request."""
    async with (
        npm.server(**side.serving) as server,
        our_client(server.port, side.hosts, side.credentials) as session,
    ):
        channel = await session.open_channel()
        assert await exchange_over(channel, GREETING) == (GREETING, 0)


async def test_plain_channel_as_server(npm: Peer, side: Side) -> None:
    async with our_server(side.gate, side.hosts, handler=echo) as server:
        report = await npm.play(server.port, "plain", **side.connecting)
    result = report.one("result")
    assert (result["received"], result["status"]) == (GREETING.decode(), 0)


async def test_standard_error_as_client(npm: Peer, side: Side) -> None:
    async with (
        npm.server(**side.serving) as server,
        our_client(server.port, side.hosts, side.credentials) as session,
    ):
        channel = await session.open_channel()
        await channel.send_stderr(GREETING)
        await channel.send_eof()
        assert await collect(channel.stderr) == GREETING
        assert await collect(channel) == b""


async def test_standard_error_as_server(npm: Peer, side: Side) -> None:
    async with our_server(side.gate, side.hosts, handler=echo_stderr) as server:
        report = await npm.play(server.port, "stderr", **side.connecting)
    assert report.one("result")["received"] == GREETING.decode()


async def test_channel_before_authentication_is_refused(npm: Peer, side: Side) -> None:
    """The peer is told reason 1, and no handler sees the channel."""
    handled = []

    async def handler(channel: anyssh.Channel) -> None:
        handled.append(channel)

    async with our_server(side.gate, side.hosts, handler=handler) as server:
        report = await npm.play(server.port, "early", **side.connecting)
        assert server.visits == []
    assert report.one("result")["reason"] == 1
    assert handled == []


async def test_session_requests_as_client(npm: Peer, side: Side) -> None:
    async with (
        npm.server(**side.serving) as server,
        our_client(server.port, side.hosts, side.credentials) as session,
    ):
        names = ["unknown@example.com", "known@example.com", "unknown@example.com"]
        assert [bool(await session.request(name)) for name in names] == [False, True, False]


async def test_session_requests_as_server(npm: Peer, side: Side) -> None:
    async with (
        our_server(side.gate, side.hosts) as server,
        npm.client(server.port, "request", **side.connecting) as client,
    ):
        session = (await server.visit()).session
        async for request in session.requests():
            if request.name == "known@example.com":
                await request.accept()
                break
            await request.reject()
        event = await anyio.to_thread.run_sync(client.wait_for, "result")
    assert event["granted"] == [False, True]


# --- key exchange


async def test_no_security_as_client(npm: Peer, side: Side) -> None:
    config = anyssh.InsecureSessionConfig()
    async with npm.server(**side.serving, insecure=True) as server:
        stream = await anyio.connect_tcp("127.0.0.1", server.port)
        connecting = anyssh.ClientSession.connect(stream, verify_host=None, config=config)
        async with connecting as session:
            assert await exchange(session, GREETING) == (GREETING, 0)


async def test_no_security_as_server(npm: Peer, side: Side) -> None:
    config = anyssh.InsecureSessionConfig()
    async with our_server(side.gate, side.hosts, config=config) as server:
        report = await npm.play(server.port, "bulk", insecure=True, **side.connecting)
    assert report.one("result")["sha256"] == sha256(pattern(MEBIBYTE))
    assert not report.one("connected")["encrypted"]


async def test_security_and_no_security_do_not_meet(npm: Peer, side: Side) -> None:
    async with our_server(side.gate, side.hosts) as server:
        report = await npm.play(server.port, "echo", insecure=True, **side.connecting)
        assert server.visits == []
    assert not report.all("result")


GUESSES = [KeyExchange.ECDH_NISTP384, KeyExchange.ECDH_NISTP256]


@pytest.mark.parametrize("ours", [GUESSES, GUESSES[::-1], GUESSES[1:]], ids=len)
@pytest.mark.parametrize("host_key", ["rsa", "ecdsa384"])
async def test_their_guess(
    npm: Peer, keys: Keys, side: Side, ours: list[str], host_key: str
) -> None:
    """Right when the first name is what both settle on; the host key plays no part in it."""
    hosts = [keys.host[host_key]]
    options = side.connecting | {"host_public_key": hosts, "kex": GUESSES, "guess": True}
    config = anyssh.SessionConfig(key_exchanges=ours)
    async with our_server(side.gate, hosts, config=config) as server:
        report = await npm.play(server.port, "echo", **options)
        used = (await server.visit()).algorithms
    assert report.one("result")["received"] == GREETING.decode()
    assert used.key_exchange == next(name for name in GUESSES if name in ours)


@pytest.mark.parametrize("theirs", [GUESSES, GUESSES[::-1], GUESSES[1:]], ids=len)
async def test_our_guess(npm: Peer, side: Side, theirs: list[str]) -> None:
    config = anyssh.SessionConfig(
        key_exchanges=GUESSES,
        host_key_algorithms=[HostKeyAlgorithm.ECDSA_NISTP384, HostKeyAlgorithm.ECDSA_NISTP256],
        guess_key_exchange=True,
    )
    async with (
        npm.server(**side.serving, kex=theirs) as server,
        our_client(server.port, side.hosts, side.credentials, config=config) as session,
    ):
        expected = next(name for name in GUESSES if name in theirs)
        assert session.algorithms.key_exchange == expected
        assert await exchange(session, GREETING) == (GREETING, 0)


async def test_both_sides_rekey_as_client(npm: Peer, side: Side) -> None:
    """This family expects both sides to count the same bytes and to start together."""
    watch, data = Watch(), pattern(MEBIBYTE)
    config = anyssh.SessionConfig(rekey_bytes=MEBIBYTE // 2)
    async with (
        npm.server(**side.serving, rekey_bytes=MEBIBYTE // 2) as server,
        our_client(
            server.port, side.hosts, side.credentials, config=config, trace=watch
        ) as session,
    ):
        received, status = await exchange(session, data)
        assert (received == data, status) == (True, 0)
        assert await exchange(session, GREETING) == (GREETING, 0)
    assert watch.key_exchanges >= 3


async def test_both_sides_rekey_as_server(npm: Peer, side: Side) -> None:
    config = anyssh.SessionConfig(rekey_bytes=MEBIBYTE // 2)
    async with our_server(side.gate, side.hosts, config=config) as server:
        report = await npm.play(
            server.port, "bulk", rekey_bytes=MEBIBYTE // 2, bytes=MEBIBYTE, **side.connecting
        )
        assert server.watch.key_exchanges >= 3
    result = report.one("result")
    assert (result["sha256"], result["status"]) == (sha256(pattern(MEBIBYTE)), 0)
