"""Sessions with the Dev Tunnels package that lose their streams, over real sockets (T-60).

Both sides count in both directions, so that a number that is lost, duplicated or late is noticed.
What this package itself gets wrong is avoided, with a note where that is done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict
from functools import partial
from random import Random
from typing import Any

import anyio
import pytest

import anyssh
from anyssh import ReconnectFailureReason, SessionState, events

from .conftest import Keys
from .ours import Gate, Watch, execute, our_client, our_server
from .peers import (
    USER,
    Event,
    KeyFile,
    Peer,
    PeerProcess,
    RunningServer,
    in_thread,
    require_peer,
    token,
)
from .proxy import Passage, Proxy, Way, proxy_to
from .test_algorithms import DEV_TUNNELS_SETS, HOST_KEYS, Set, for_npm

NUMBERS = "numbers"
NUMBER_SIZE = 4
CONFIG = anyssh.SessionConfig.with_reconnect(window_size=32 * 1024, max_packet_size=16 * 1024)
CUTS = 50


@pytest.fixture
def npm() -> Peer:
    return require_peer("npm")


# --- counting


class Counter:
    """Sends 0, 1, 2 and so on over a channel, and checks what comes."""

    def __init__(self, channel: anyssh.Channel) -> None:
        self.channel = channel
        self.sent = 0
        self.received = 0
        self._changed = anyio.Event()
        self._rest = b""

    async def send(self, count: int) -> None:
        numbers = range(self.sent, self.sent + count)
        self.sent += count
        await self.channel.send(b"".join(number.to_bytes(NUMBER_SIZE, "big") for number in numbers))

    async def stream(self) -> None:
        """Send numbers until cancelled, at a pace that leaves others some time."""
        while True:
            with anyio.CancelScope(shield=True):
                await self.send(1 + self.sent % 199)
            await anyio.sleep(0.001)

    async def check(self) -> None:
        """Take what comes until it ends."""
        async for chunk in self.channel:
            data = self._rest + chunk
            whole = len(data) - len(data) % NUMBER_SIZE
            for at in range(0, whole, NUMBER_SIZE):
                number = int.from_bytes(data[at : at + NUMBER_SIZE], "big")
                assert number == self.received, f"{number} came instead of {self.received}"
                self.received += 1
            self._rest = data[whole:]
            self._changed.set()
            self._changed = anyio.Event()

    async def wait_for(self, count: int) -> None:
        while self.received < count:
            await self._changed.wait()


# --- both sides


class Line:
    """A session with the peer through a proxy, over which both sides count.

    :ivar session: our end
    :ivar peer: the process at the other end
    :ivar watch: counts what our end traces
    """

    def __init__(
        self,
        proxy: Proxy,
        session: anyssh.ClientSession | anyssh.ServerSession,
        channel: anyssh.Channel,
        peer: PeerProcess,
        watch: Watch,
    ) -> None:
        self.proxy = proxy
        self.watch = watch
        self.session = session
        self.counter = Counter(channel)
        self.peer = peer

    def is_in(self, state: SessionState) -> bool:
        """Tell whether our end is in a state now."""
        return self.session.state is state

    async def tell(self, order: str) -> Event:
        """Have the peer do something; return its answer."""
        return await in_thread(partial(self.peer.tell, order))

    async def event(self, name: str, **members: Any) -> Event:
        return await in_thread(partial(self.peer.wait_for, name, **members))

    async def lost(self) -> None:
        """Wait until both sides know that the stream is lost."""
        await self.session.wait_disconnected()
        await self.event("lost")

    async def try_again(self) -> int | None:
        """Have the client try another stream; return why it failed, or None."""
        raise NotImplementedError

    async def reconnect(self) -> None:
        """Go on over another stream, once both sides know of the loss.

        As a server this package tells what it has received before it has stopped receiving.
        """
        await self.lost()
        assert await self.try_again() is None

    async def exchange(self, count: int) -> None:
        """Send so many numbers in both directions, wait until they have come."""
        expected = self.counter.received + count
        await self.counter.send(count)
        await self.tell(f"send {count}")
        await self.counter.wait_for(expected)
        await self.peer_has_all()

    async def peer_has_all(self) -> None:
        """Wait until the peer has all numbers."""
        await self.tell(f"expect {self.counter.sent}")

    async def finish(self) -> None:
        """End the counting; neither side has missed anything."""
        await self.counter.channel.send_eof()
        result = await self.event("result")
        assert result["intact"]
        assert result["received"] == self.counter.sent
        with anyio.fail_after(25):
            await self.counter.wait_for(result["sent"])
            await self.counter.channel.wait_closed()
        assert self.counter.received == result["sent"]


class ClientLine(Line):
    """We are the client."""

    session: anyssh.ClientSession

    async def try_again(self) -> int | None:
        stream = await anyio.connect_tcp("127.0.0.1", self.proxy.port)
        try:
            await self.session.reconnect(stream)
        except anyssh.ReconnectError as error:
            return error.reason
        return None


class ServerLine(Line):
    """We are the server."""

    session: anyssh.ServerSession

    async def try_again(self) -> int | None:
        reason: int | None = (await self.tell(f"reconnect {self.proxy.port}"))["reason"]
        assert reason is None or isinstance(reason, int), self.peer.log()
        return reason


LineMaker = Callable[..., AbstractAsyncContextManager[Line]]


class Sides:
    """What both sides of a test agree on, and how a line comes to be."""

    def __init__(self, npm: Peer, keys: Keys) -> None:
        self.npm = npm
        self.hosts = [keys.host["ecdsa384"]]
        self.rsa_host = keys.host["rsa"]
        self.other_hosts = [keys.stranger["ecdsa384"]]
        self.password = token()
        self.gate = Gate(USER, password=self.password)

    @asynccontextmanager
    async def as_client(
        self,
        *,
        config: anyssh.SessionConfig = CONFIG,
        delay: float = 0.0,
        by_itself: bool = False,
        hosts: Sequence[KeyFile] | None = None,
        **options: Any,
    ) -> AsyncIterator[Line]:
        hosts = hosts or self.hosts
        credentials = anyssh.ClientCredentials(USER, password=self.password)
        async with self.npm_server(hosts, **options) as server, proxy_to(server.port) as proxy:
            proxy.delay = delay
            watch = Watch()
            connecting = our_client(
                proxy.port, hosts, credentials, config=config, by_itself=by_itself, trace=watch
            )
            async with connecting as session:
                channel = await execute(session, NUMBERS)
                line = ClientLine(proxy, session, channel, server.process, watch)
                async with checking(line):
                    yield line

    def npm_server(
        self, hosts: Sequence[KeyFile], **options: Any
    ) -> AbstractAsyncContextManager[RunningServer]:
        options = {"reconnect": True} | options
        return self.npm.server(host_key=hosts, password=self.password, **options)

    @asynccontextmanager
    async def as_server(
        self,
        *,
        config: anyssh.SessionConfig = CONFIG,
        delay: float = 0.0,
        by_itself: bool = False,
        hosts: Sequence[KeyFile] | None = None,
        **options: Any,
    ) -> AsyncIterator[Line]:
        hosts = hosts or self.hosts
        channels: list[anyssh.Channel] = []
        came = anyio.Event()

        async def count(channel: anyssh.Channel) -> None:
            channels.append(channel)
            came.set()
            await anyio.sleep_forever()

        async with (
            our_server(self.gate, hosts, config=config, handler=count) as server,
            proxy_to(server.port) as proxy,
        ):
            proxy.delay = delay
            client = self.npm.client(
                proxy.port,
                NUMBERS,
                host_public_key=hosts,
                password=self.password,
                again=by_itself,
                **{"reconnect": True} | options,
            )
            async with client as process:
                await in_thread(partial(process.wait_for, "counting"))
                await came.wait()
                session = server.visits[0].session
                line = ServerLine(proxy, session, channels[0], process, server.watch)
                async with checking(line):
                    yield line
                assert len(server.visits) == 1


@asynccontextmanager
async def checking(line: Line) -> AsyncIterator[None]:
    """Check what comes meanwhile, until the session ends."""

    async def check() -> None:
        with suppress(anyio.BrokenResourceError):
            await line.counter.check()

    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(check)
        try:
            yield
        except Exception as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


@pytest.fixture
def sides(npm: Peer, keys: Keys) -> Sides:
    return Sides(npm, keys)


@pytest.fixture(params=["client", "server"])
def role(request: pytest.FixtureRequest) -> str:
    """Which side we are."""
    name: str = request.param
    return name


@pytest.fixture
def make_line(role: str, sides: Sides) -> LineMaker:
    return sides.as_client if role == "client" else sides.as_server


# --- nothing is lost


async def test_cuts_while_both_sides_count(make_line: LineMaker) -> None:
    """REC-05, REC-08, REC-11: whole packets, parts of them and receipts are lost."""
    random = Random(20)
    async with make_line() as line:
        await line.tell("stream")
        async with anyio.create_task_group() as group:
            group.start_soon(line.counter.stream)
            for number in range(CUTS):
                passage = line.proxy.last
                size = random.choice((300, 3000, 30_000))
                passage.cut_after(random.choice(list(Way)), random.randrange(size))
                await passage.wait_over()
                await line.reconnect()
                assert line.session.metrics.reconnections == number + 1
            group.cancel_scope.cancel()
        await line.finish()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_numbers_sent_while_disconnected(make_line: LineMaker, reset: bool) -> None:
    """REC-09, REC-10: three times in a row."""
    async with make_line() as line:
        for _ in range(3):
            line.proxy.last.cut(reset=reset)
            await line.lost()
            await line.counter.send(300)
            await line.tell("send 500")
            assert await line.try_again() is None
            await line.exchange(10)
        await line.finish()


async def test_client_is_back_before_the_server_knows(make_line: LineMaker) -> None:
    """REC-07: the server still believes in the old stream, and has sent over it in vain."""
    async with make_line() as line:
        await line.exchange(10)
        old = line.proxy.last
        old.freeze()
        await line.counter.send(20)
        await line.tell("send 30")
        await old.cut_client()
        if isinstance(line, ClientLine):
            await line.session.wait_disconnected()
            assert (await line.tell("status"))["connected"]
        else:
            await line.event("lost")
            assert line.is_in(SessionState.CONNECTED)
        assert await line.try_again() is None
        await line.finish()
        assert line.session.metrics.reconnections == 1


async def test_client_tries_until_it_succeeds(sides: Sides) -> None:
    """REC-15: streams that are lost in the handshake cost nothing but time.

    Not so with this package as a client: it cannot try again when one is.
    """
    async with sides.as_client() as line:
        line.proxy.last.cut()
        await line.lost()
        await line.counter.send(20)
        await line.tell("send 30")
        budgets = [(way, count) for way in Way for count in (1, 30, 400, 800)]
        for way, count in budgets:
            line.proxy.plans.append(partial(Passage.cut_after, way=way, count=count))
            with pytest.raises(anyssh.SSHError):
                await line.try_again()
            assert line.is_in(SessionState.DISCONNECTED)
        assert await line.try_again() is None
        await line.finish()


async def test_answer_that_never_came(sides: Sides) -> None:
    """The server has gone on, over a stream that the client knows nothing about.

    Between two sides of ours that does no harm. This package confuses the numbers of its two
    streams then, and could not be told of what it would lose or double.
    """
    async with sides.as_client(hosts=[sides.rsa_host]) as line:
        line.proxy.last.cut()
        await line.reconnect()
        size = line.proxy.last.passed[Way.TO_CLIENT]
        await line.counter.send(50)
        await line.peer_has_all()
        line.proxy.last.cut()
        await line.lost()
        plan = partial(Passage.cut_after, way=Way.TO_CLIENT, count=size - 1)
        line.proxy.plans.append(plan)
        with pytest.raises(anyssh.ConnectionLost):
            await line.try_again()
        await line.event("lost")
        assert await line.try_again() == ReconnectFailureReason.CLIENT_DROPPED_MESSAGES
        assert (await line.tell("status"))["received"] == 50


async def test_client_that_is_lost_before_it_announces_receipts(sides: Sides) -> None:
    """This package asks for its session first, and does not keep the announcement."""
    async with sides.as_server() as line:
        line.proxy.last.cut()
        await line.reconnect()
        sizes = []
        for number in (1, 2):
            await line.tell("send 1")
            await line.counter.wait_for(number)
            sizes.append(line.proxy.last.passed[Way.TO_SERVER])
        size = 2 * sizes[0] - sizes[1]
        line.proxy.last.cut()
        await line.lost()
        await line.counter.send(20)
        await line.tell("send 30")
        line.proxy.plans.append(partial(Passage.hold_after, way=Way.TO_SERVER, count=size - 1))
        assert await line.try_again() is None
        await line.peer_has_all()
        line.proxy.last.cut()
        await line.reconnect()
        await line.finish()


@pytest.mark.parametrize("what", ["request", "reply"])
async def test_request_under_way(make_line: LineMaker, what: str) -> None:
    """The one that asks gets the answer, over whichever stream."""
    async with make_line() as line:
        replies: list[bool] = []

        async def ask() -> None:
            replies.append(bool(await line.session.request("known@example.com")))

        to_peer, from_peer = list(Way) if isinstance(line, ClientLine) else list(Way)[::-1]
        line.proxy.last.cut_after(to_peer if what == "request" else from_peer, 1)
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await line.reconnect()
        assert replies == [isinstance(line, ClientLine)]
        await line.exchange(10)
        await line.finish()


# --- the ends of streams and sessions


async def test_we_give_the_stream_up(make_line: LineMaker) -> None:
    """REC-04: reason 10 stands for a lost stream."""
    async with make_line() as line:
        await line.session.disconnect(anyssh.DisconnectReason.CONNECTION_LOST)
        await line.reconnect()
        await line.finish()


async def test_the_peer_gives_the_stream_up(make_line: LineMaker) -> None:
    async with make_line() as line:
        await line.tell("close 10")
        await line.session.wait_disconnected()
        assert await line.try_again() is None
        await line.finish()


async def test_the_peer_ends_the_session(make_line: LineMaker) -> None:
    async with make_line() as line:
        await line.tell("close 11")
        end = await line.session.wait_closed()
        assert end.reason == anyssh.DisconnectReason.BY_APPLICATION


async def test_peer_without_the_extension(make_line: LineMaker) -> None:
    async with make_line(reconnect=False) as line:
        await line.exchange(10)
        line.proxy.last.cut()
        end = await line.session.wait_closed()
        assert isinstance(end.error, anyssh.ConnectionLost)


async def test_peer_without_latency(make_line: LineMaker) -> None:
    async with make_line(no_latency=True) as line:
        for _ in range(2):
            line.proxy.last.cut()
            await line.lost()
            await line.counter.send(20)
            await line.tell("send 30")
            assert await line.try_again() is None
            await line.exchange(10)
        assert line.session.metrics.latency == anyssh.Latency()
        await line.finish()


# --- what is measured and told


async def test_latency(make_line: LineMaker) -> None:
    """LAT-01, LAT-03: both ends measure what the way there and back takes.

    As a server this package measures no more once it has gone on over another stream.
    """
    delay = 0.05
    shortest, longest = 2000 * delay, 100_000 * delay

    def check(latency: dict[str, float]) -> None:
        assert shortest <= latency["minimum"] <= latency["average"] <= latency["maximum"]
        assert latency["minimum"] <= latency["current"] <= latency["maximum"] < longest

    async with make_line(delay=delay) as line:
        for _ in range(3):
            await line.exchange(1)
        check(ours(line))
        check(await theirs(line))

        before = ours(line)
        line.proxy.last.cut()
        await line.lost()
        assert ours(line) == before | {"current": 0}
        assert (await theirs(line))["current"] == 0

        assert await line.try_again() is None
        for _ in range(3):
            await line.exchange(1)
        check(ours(line))
        if isinstance(line, ServerLine):
            check(await theirs(line))
        await line.finish()
    assert ours(line)["current"] == 0


def ours(line: Line) -> dict[str, float]:
    """Return what our end has measured, as the peer tells it."""
    return asdict(line.session.metrics.latency)


async def theirs(line: Line) -> dict[str, float]:
    latency: dict[str, float] = (await line.tell("status"))["latency"]
    return latency


async def test_what_a_session_tells(make_line: LineMaker) -> None:
    """MET-02, MET-04, REC-03, REC-19: nobody who waits needs to know, but everybody can."""
    async with make_line() as line:
        session = line.session
        facts = session.events()
        assert line.is_in(SessionState.CONNECTED)
        name, algorithms = session.id, session.algorithms
        for count in (1, 2):
            before = session.metrics
            assert before.reconnections == count - 1
            line.proxy.last.cut()
            await line.lost()
            assert line.is_in(SessionState.DISCONNECTED)
            fact = await anext(facts)
            assert isinstance(fact, events.Disconnected)
            assert isinstance(fact.error, anyssh.ConnectionLost)
            status = await line.tell("status")
            assert (status["connected"], status["closed"]) == (False, False)

            assert await line.try_again() is None
            assert await anext(facts) == events.Reconnected(count)
            assert line.is_in(SessionState.CONNECTED)
            await line.exchange(10)
            after = session.metrics
            assert after.reconnections == count
            assert after.bytes_sent > before.bytes_sent
            assert after.messages_received > before.messages_received
            status = await line.tell("status")
            assert (status["connected"], status["reconnections"]) == (True, count)
            assert (session.id, session.algorithms) == (name, algorithms)
        await line.finish()
    assert line.is_in(SessionState.CLOSED)
    assert [fact async for fact in facts] == []


async def test_client_reconnects_by_itself(make_line: LineMaker) -> None:
    async with make_line(by_itself=True) as line:
        for _ in range(2):
            line.proxy.last.cut()
            await line.lost()
            await line.event("resumed")
            await line.exchange(10)
        await line.finish()


# --- failures


@pytest.mark.parametrize(
    "hosts,reason",
    [
        pytest.param("hosts", ReconnectFailureReason.SESSION_NOT_FOUND, id="unknown session"),
        pytest.param(
            "other_hosts", ReconnectFailureReason.DIFFERENT_SERVER_HOST_KEY, id="other host key"
        ),
    ],
)
async def test_another_server_as_client(
    sides: Sides, hosts: str, reason: ReconnectFailureReason
) -> None:
    """REC-12, REC-14: the first server still knows the session."""
    async with sides.as_client() as line, sides.npm_server(getattr(sides, hosts)) as other:
        port, line.proxy.target = line.proxy.target, other.port
        line.proxy.last.cut()
        await line.lost()
        assert await line.try_again() == reason
        assert line.is_in(SessionState.DISCONNECTED)
        line.proxy.target = port
        assert await line.try_again() is None
        await line.finish()


async def test_unknown_session_as_server(sides: Sides) -> None:
    async with (
        sides.as_server() as line,
        our_server(sides.gate, sides.hosts, config=CONFIG) as other,
    ):
        port, line.proxy.target = line.proxy.target, other.port
        line.proxy.last.cut()
        await line.lost()
        assert await line.try_again() == ReconnectFailureReason.SESSION_NOT_FOUND
        assert other.visits == []
        # For this package the failed stream is that of the session, until it ends.
        await line.event("lost")
        line.proxy.target = port
        assert await line.try_again() is None
        await line.finish()


async def test_another_host_key_as_server(sides: Sides) -> None:
    async with (
        sides.as_server() as line,
        our_server(sides.gate, sides.other_hosts, config=CONFIG) as other,
    ):
        port, line.proxy.target = line.proxy.target, other.port
        line.proxy.last.cut()
        await line.lost()
        assert await line.try_again() == ReconnectFailureReason.DIFFERENT_SERVER_HOST_KEY
        # This package leaves the stream open, and takes it for that of the session.
        line.proxy.last.cut()
        await line.event("lost")
        line.proxy.target = port
        assert await line.try_again() is None
        await line.finish()


async def test_server_dropped_messages_as_client(sides: Sides) -> None:
    """The third attempt of the kind ends the session."""
    async with sides.as_client() as line:
        line.proxy.last.cut()
        await line.lost()
        for _ in range(2):
            await line.tell("send 1")
        await line.tell("forget")
        for _ in range(3):
            assert line.is_in(SessionState.DISCONNECTED)
            assert await line.try_again() == ReconnectFailureReason.SERVER_DROPPED_MESSAGES
        end = await line.session.wait_closed()
        assert isinstance(end.error, anyssh.ReconnectError)
        assert end.error.reason == ReconnectFailureReason.SERVER_DROPPED_MESSAGES


async def test_server_dropped_messages_as_server(sides: Sides) -> None:
    """A client that claims to have what it was never sent is refused; the session lives on."""
    async with sides.as_server() as line:
        line.proxy.last.cut()
        await line.lost()
        await line.tell("forge 1000")
        assert await line.try_again() == ReconnectFailureReason.SERVER_DROPPED_MESSAGES
        await line.event("lost")
        await line.tell("forge -1000")
        assert await line.try_again() is None
        await line.finish()


# --- algorithms and keys


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "chosen", [for_npm(algorithms) for algorithms in DEV_TUNNELS_SETS], ids=str
)
async def test_algorithms(make_line: LineMaker, keys: Keys, chosen: Set) -> None:
    """REC-23, REC-26: the token is made with the MAC's keys, even if GCM does without a MAC."""
    assert chosen.host_key is not None
    hosts = [keys.host[HOST_KEYS[chosen.host_key]]]
    config = chosen.config.replace(extensions=CONFIG.extensions)
    async with make_line(config=config, hosts=hosts, **chosen.options) as line:
        for _ in range(2):
            line.proxy.last.cut()
            await line.lost()
            await line.counter.send(20)
            await line.tell("send 30")
            assert await line.try_again() is None
            chosen.check(line.session.algorithms)
            await line.exchange(10)
        await line.finish()


async def test_new_keys_before_and_after(make_line: LineMaker) -> None:
    """REC-24: tokens name the session by its first key exchange, whatever came since."""
    limit = 64 * 1024
    config = CONFIG.replace(rekey_bytes=limit)
    async with make_line(config=config, rekey_bytes=limit) as line:
        for _ in range(3):
            before = line.watch.key_exchanges
            await line.exchange(limit // NUMBER_SIZE)
            assert line.watch.key_exchanges > before
            line.proxy.last.cut()
            await line.reconnect()
        await line.finish()
