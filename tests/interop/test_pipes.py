"""Our gateway between other programs: everything works through it as without it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

import anyssh

from .conftest import Keys, Site, Sites
from .ours import Gate, our_client, our_key
from .peers import USER, KeyFile, Peer, require_peer
from .scripts.peer_common import GREETING, pattern, sha256

MEBIBYTE = 1 << 20
PASS_ON = anyssh.ForwardingPolicy(passes_on=True)


class Gateway:
    """Lets clients in by its own key, and pipes each of them to a site."""

    def __init__(self, site: Site, keys: Keys, host_keys: list[KeyFile]) -> None:
        self.site = site
        self.user_key = keys.user["ecdsa256"]
        self.port = 0
        self._visits = 0
        self._changed = anyio.Event()
        self._host_keys = host_keys

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        gate = Gate(USER, authorized=[self.user_key])

        async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
            return gate.judge(attempt)

        server = anyssh.Server(
            host_keys=[our_key(file) for file in self._host_keys],
            authenticate=authenticate,
            forwarding=PASS_ON,
        )
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(SocketAttribute.local_port)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.serve, listener, self._relay)
                yield
                tasks.cancel_scope.cancel()

    async def _relay(self, near: anyssh.ServerSession) -> None:
        mine = anyssh.ClientCredentials(self.site.user, keys=[our_key(self.user_key)])
        self._visits += 1
        async with our_client(self.site.port, self.site.hosts, mine, forwarding=PASS_ON) as far:
            await anyssh.pipe(near, far)
        self._visits -= 1
        self._changed.set()
        self._changed = anyio.Event()

    async def idle(self) -> None:
        """Wait until every client that came has gone, and its pipe has ended."""
        while self._visits:
            await self._changed.wait()


PAIRS = [
    ("openssh", "openssh"),
    ("npm", "npm"),
    ("openssh", "npm"),
    ("npm", "openssh"),
    ("asyncssh", "openssh"),
    ("paramiko", "asyncssh"),
]


@pytest.fixture(params=PAIRS, ids="-to-".join)
def peers(request: pytest.FixtureRequest) -> tuple[Peer, str]:
    client, server = request.param
    return require_peer(client), server


async def test_programs_work_through_a_gateway(
    peers: tuple[Peer, str], sites: Sites, keys: Keys
) -> None:
    client, server = peers
    hosts = keys.hosts(client)
    gateway = Gateway(sites[server], keys, hosts)
    options = {"host_public_key": hosts, "key": [keys.user["ecdsa256"]]}
    async with gateway.running():
        echo = await client.play(gateway.port, "echo", **options)
        assert echo.one("result") == {
            "event": "result",
            "received": GREETING.decode(),
            "status": 0,
        }
        bulk = (await client.play(gateway.port, "bulk", bytes=MEBIBYTE, **options)).one("result")
        assert (bulk["sha256"], bulk["status"]) == (sha256(pattern(MEBIBYTE)), 0)
        run = (await client.play(gateway.port, "exec", **options)).one("result")
        assert (run["stdout"], run["stderr"], run["status"]) == ("output", "errors", 42)
        channels = (await client.play(gateway.port, "channels", **options)).one("result")
        assert channels["intact"] == [True, True, True]
        if client.name != "paramiko":  # which does not tell of signals
            ended = (await client.play(gateway.port, "signal", **options)).one("result")
            assert ended["signal"] == ("unnamed" if client.name == "openssh" else "TERM")
        await gateway.idle()


async def test_requests_and_standard_error_of_dev_tunnels(sites: Sites, keys: Keys) -> None:
    npm = require_peer("npm")
    hosts = keys.hosts(npm)
    gateway = Gateway(sites["npm"], keys, hosts)
    options = {"host_public_key": hosts, "key": [keys.user["ecdsa256"]]}
    async with gateway.running():
        plain = (await npm.play(gateway.port, "plain", **options)).one("result")
        assert (plain["received"], plain["status"]) == (GREETING.decode(), 0)
        errors = (await npm.play(gateway.port, "stderr", **options)).one("result")
        assert errors["received"] == GREETING.decode()
        request = (await npm.play(gateway.port, "request", **options)).one("result")
        assert request["granted"] == [False, True]


async def test_the_reason_of_a_goodbye_passes_through(sites: Sites, keys: Keys) -> None:
    npm = require_peer("npm")
    hosts = keys.hosts(npm)
    site = sites["npm"]
    gateway = Gateway(site, keys, hosts)
    options = {"host_public_key": hosts, "key": [keys.user["ecdsa256"]]}
    async with gateway.running():
        text = "through the gateway"
        await npm.play(gateway.port, "disconnect", reason=12, message=text, **options)
        told = await site.server.event("disconnected", message=text)
        assert told["reason"] == 12


async def test_ports_are_forwarded_through_a_gateway(sites: Sites, keys: Keys) -> None:
    """PIP-12: the server connects and listens for the client, and the gateway knows nothing."""
    require_peer("openssh")
    hosts = [keys.host["ed25519"]]
    gateway = Gateway(sites["openssh"], keys, hosts)
    mine = anyssh.ClientCredentials(USER, keys=[our_key(gateway.user_key)])

    async def shout(stream: ByteStream) -> None:
        async with stream:
            await stream.send((await stream.receive()).upper())

    async with (
        gateway.running(),
        await anyio.create_tcp_listener(local_host="127.0.0.1") as target,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(target.serve, shout)
        target_port = target.extra(SocketAttribute.local_port)
        async with our_client(gateway.port, hosts, mine) as session:
            stream = await session.stream_to_remote_port("127.0.0.1", target_port)
            async with stream:
                await stream.send(b"connect")
                assert await stream.receive() == b"CONNECT"
            with pytest.raises(anyssh.ChannelOpenError) as caught:
                await session.stream_to_remote_port("127.0.0.1", 1)
            assert caught.value.reason == anyssh.ChannelOpenFailureReason.CONNECT_FAILED

            forward = session.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", target_port)
            async with (
                forward as forwarded,
                await anyio.connect_tcp("127.0.0.1", forwarded.remote_port) as visitor,
            ):
                await visitor.send(b"listen")
                assert await visitor.receive() == b"LISTEN"
        tasks.cancel_scope.cancel()
