"""Random lives of whole sessions over real sockets (T-71), on each event loop.

Where :mod:`.test_session_lives` runs in memory on a virtual clock, here is what event loops do:
sockets that are read by callbacks, writes that the kernel does not accept, timers that are late. A
client reaches a server through a proxy whose connections are cut, freeze, lose a bit or arrive in
slices. Both ends open channels and send on them, are cancelled, read slowly or not at all, send
requests, close, rekey, and forward connections. Most lives end in the middle of all that.

Whatever happens: what has arrived is a prefix of what was sent, and all of it if nobody closed and
the session lived; only documented errors are raised; nothing is logged as a bug; everything ends in
time; and no task, thread, descriptor, timer or session stays behind.

``ANYSSH_SOCKET_LIVES=500`` runs that many on each loop, starting with ``ANYSSH_FIRST_LIFE``.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import anyio
import pytest
from anyio.abc import (
    ByteStream,
    ByteStreamConnectable,
    Listener,
    SocketAttribute,
    TaskGroup,
    TaskStatus,
)
from anyio.streams.tls import TLSConnectable, TLSListener

import anyssh
from anyssh.session.link import Link
from tests.tls import self_signed

from .faulty import BROKEN, Faulty, FaultyNetwork, Proxy, listen, listening
from .life_support import ALICE, accept_password, host_key, nothing_left_behind
from .reconnect_support import FINAL
from .talk import GONE, Bytes, Line, Order, patience

LIVES = int(os.environ.get("ANYSSH_SOCKET_LIVES", "12"))
FIRST = int(os.environ.get("ANYSSH_FIRST_LIFE", "0"))
AT_ONCE = 4
"""Lives that share an event loop, and disturb each other."""
PATIENCE = 60.0
"""Seconds after which a life hangs."""
KIB, MIB = 1024, 1024 * 1024
TRANSPORTS = (*("tcp",) * 8, "tls", "memory")
QUESTIONS = ("life@example.com", "answer@example.com")
EARLY_ENDS = (
    "raise",
    "cancel",
    "close",
    "close both",
    "shutdown",
    "server leaves",
    "server fails",
)
REFUSALS = (*GONE, anyssh.SSHError)

pytestmark = pytest.mark.timeout(max(240, LIVES * 20))


class Left(Exception):
    """Raised in the middle of a session by its user."""


class Contexts(NamedTuple):
    """What the two sides need to speak TLS."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def make_contexts(folder: Path) -> Contexts:
    certificate, key = self_signed(folder)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    return Contexts(server, ssl.create_default_context(cafile=str(certificate)))


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return make_contexts(tmp_path_factory.mktemp("tls"))


# What is forwarded to


async def answer(stream: Any) -> None:
    """Be a server that something is forwarded to: the first byte says of what kind."""
    async with stream:
        _linger(stream, is_reset=True)  # whoever is cancelled says so
        with suppress(*BROKEN, anyio.EndOfStream):
            chunk = await stream.receive()
            kind = chunk[0] % 4
            if kind in (1, 2):
                await anyio.sleep(0.003)
            if kind < 2:
                _linger(stream, is_reset=kind == 1)
                return
            await stream.send(chunk)
            async for chunk in stream:
                await stream.send(chunk)
            await stream.send_eof()
            _linger(stream, is_reset=False)


def _linger(stream: ByteStream, *, is_reset: bool) -> None:
    """Decide whether the other side sees an end or an error when the stream is closed."""
    # What sockets raise that are closed already; uvloop's a ValueError.
    with suppress(OSError, AttributeError, ValueError):
        raw = stream.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", is_reset, 0))


async def visit(chance: Random, port: int, *, task_status: TaskStatus[None]) -> None:
    """Be a client of what is forwarded."""
    what = Bytes(chance)
    size = chance.choice((1, 1000, 200 * KIB))
    pause = chance.choice((0, 0, 0.002))
    with patience(chance.choice((None, None, 0.005, 0.05))):
        try:
            stream = await anyio.connect_tcp("127.0.0.1", port)
        except OSError:
            return
        finally:
            task_status.started()
        async with stream, anyio.create_task_group() as group:
            match chance.randrange(5):
                case 0:
                    return
                case 3:
                    await _tell(stream, what, size)
                case _:
                    group.start_soon(_tell, stream, what, size)
                    await _hear(stream, what, size, pause)


async def _tell(stream: ByteStream, what: Bytes, size: int) -> None:
    with suppress(*BROKEN):
        await stream.send(what.next(size))
        await stream.send_eof()
        what.is_ended = True


async def _hear(stream: ByteStream, what: Bytes, size: int, pause: float) -> None:
    with suppress(*BROKEN):
        async for chunk in stream:
            what.take(chunk)
            await anyio.sleep(pause)
        # Where sending was told of a reset, receiving sees an end.
        is_echoed = what.is_ended and what.next(1)[0] % 4 >= 2
        assert not is_echoed or what.received == size, "a forwarded connection lost its end"


# What is served


class Answering(anyssh.SessionService):
    """Answers what it is asked, and echoes on its channels."""

    activations = (
        anyssh.ServiceActivation(service_request="answering@example.com"),
        anyssh.ServiceActivation(session_request="answer@example.com"),
        anyssh.ServiceActivation(channel_type="echo@example.com"),
    )

    async def on_session_request(self, request: anyssh.IncomingRequest) -> None:
        await anyio.sleep(len(request.payload) / 10_000)
        await request.accept(request.payload)

    async def on_channel_opening(self, opening: anyssh.ChannelOpening) -> None:
        async with await opening.accept() as channel:
            with suppress(*GONE):
                async for chunk in channel:
                    await channel.send(chunk)
                await channel.send_eof()


# The life


class Life:
    """A session and what happens to it.

    :param contexts: for lives over TLS
    """

    def __init__(self, seed: int, contexts: Contexts) -> None:
        self.seed = seed
        chance = self.chance = Random(seed)
        self.contexts = contexts
        self.transport = chance.choice(TRANSPORTS)
        self.reconnects = chance.choice(("never", "by hand", "by itself"))
        self.ending = chance.choice(("in order",) * 6 + EARLY_ENDS)
        self.lines = [Line(number, self._some()) for number in range(chance.randint(1, 6))]
        self.buffers = chance.choice((None, 4 * KIB, 64 * KIB))
        self.is_spared = chance.random() < 0.3
        self.faulty = Faulty(self._some(), spared=self.is_spared)
        self.server = anyssh.Server(
            host_keys=[host_key()],
            authenticate=accept_password,
            config=self._config(),
            forwarding=anyssh.ForwardingPolicy.allow_all(),
            services={Answering: None},
        )
        self.server_session: anyssh.ServerSession | None = None
        self.server_leaves = anyio.Event()
        self.pauses = chance.choice(((0, 0.001), (0, 0.001, 0.01), (0, 0.01, 0.1)))
        self.opening = 0
        self.opened = anyio.Event()
        self.facts: Counter[str] = Counter({f"{self.transport}, {self.reconnects}": 1})
        self.tasks: TaskGroup

    def _some(self) -> Random:
        return Random(self.chance.random())

    def _config(self) -> anyssh.SessionConfig:
        chance, is_kept = self.chance, self.reconnects != "never"
        base = anyssh.SessionConfig.with_reconnect() if is_kept else anyssh.SessionConfig()
        ciphers = anyssh.Encryption.AES128_GCM, anyssh.Encryption.CHACHA20_POLY1305
        return base.replace(
            key_exchanges=[anyssh.KeyExchange.CURVE25519_SHA256],
            encryptions=[chance.choice(ciphers)],
            window_size=chance.choice((32 * KIB, 64 * KIB, 2 * MIB)),
            max_packet_size=chance.choice((1024, 32768)),
            keep_alive_interval=chance.choice((0.1, 0.5)) if is_kept else 0,
            rekey_bytes=chance.choice((64 * KIB, 64 * MIB)),
            limits=anyssh.Limits(
                close_time=0.3,
                disconnect_time=0.3,
                disconnected_time=120.0 if self.is_spared else 3.0,
                pending_output=chance.choice((16 * KIB, 512 * KIB)),
                rekey_burst=1000,
            ),
        )

    def __str__(self) -> str:
        return f"life {self.seed}: {self.transport}, reconnects {self.reconnects}, {self.ending}"

    # Its world

    async def run(self) -> None:
        """Live from the beginning to the end."""
        with anyio.fail_after(PATIENCE):
            async with (
                self._network() as (listener, connectable),
                listening(answer, self.buffers) as self.target,
                anyio.create_task_group() as self.tasks,
            ):
                self.tasks.start_soon(self.server.serve, listener, self._serve)
                try:
                    await self._live(connectable)
                except (anyssh.SSHError, anyio.EndOfStream, anyio.ConnectionFailed) as error:
                    self.facts[f"ended by {type(error).__name__}"] += 1
                except Left:
                    assert self.ending == "raise"
                self.faulty.calm()
                self.server_leaves.set()
                await self.server.shutdown(grace=self.chance.choice((0, 0.01)))
                self.tasks.cancel_scope.cancel()

    @asynccontextmanager
    async def _network(self) -> AsyncIterator[tuple[Listener[Any], ByteStreamConnectable]]:
        if self.transport == "memory":
            network = FaultyNetwork(self.faulty)
            yield network, network
            return
        async with (
            listen(self.buffers) as listener,
            listening(Proxy(self.faulty, listener.port).handle, self.buffers) as port,
        ):
            connectable = anyio.TCPConnectable("127.0.0.1", port)
            if self.transport == "tls":
                yield self._over_tls(listener, connectable)
            else:
                yield listener, connectable

    def _over_tls(
        self, listener: Listener[Any], connectable: ByteStreamConnectable
    ) -> tuple[Listener[Any], ByteStreamConnectable]:
        return (
            TLSListener(listener, self.contexts.server, standard_compatible=False),
            TLSConnectable(
                connectable,
                hostname="127.0.0.1",
                ssl_context=self.contexts.client,
                standard_compatible=False,
            ),
        )

    # The two ends

    async def _live(self, connectable: ByteStreamConnectable) -> None:
        transport = connectable if self.reconnects == "by itself" else await connectable.connect()
        with anyio.CancelScope() as scope:
            async with anyssh.ClientSession.connect(
                transport,
                verify_host=anyssh.pin(host_key().fingerprint),
                credentials=ALICE,
                config=self.server.config,
            ) as session:
                if self.reconnects == "by hand":
                    self.tasks.start_soon(self._keep_connected, session, connectable)
                self._begin(session, 0)
                await self._happen(session)
                try:
                    await self._end(session, scope)
                finally:
                    self.facts["reconnections"] += session.metrics.reconnections

    async def _serve(self, session: anyssh.ServerSession) -> None:
        self.server_session = session
        self._begin(session, 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.wait_closed)
            await self.server_leaves.wait()
            if self.ending == "server fails":
                raise Left
            if self.ending == "server leaves":
                tasks.cancel_scope.cancel()

    def _begin(self, session: anyssh.Session, which: int) -> None:
        self.tasks.start_soon(self._answer, session)
        self.tasks.start_soon(self._accept, session, which)
        for line in self.lines:
            if line.is_ours == (which == 0):
                self.opening += 1
                self.tasks.start_soon(self._open, session, line, which)

    async def _answer(self, session: anyssh.Session) -> None:
        async for request in session.requests():
            with suppress(anyssh.SSHError):
                await request.accept(request.payload)

    async def _accept(self, session: anyssh.Session, which: int) -> None:
        async for opening in session.incoming_channels():
            end = self.lines[opening.payload[0]].ends[which]
            with suppress(anyssh.SSHError):
                self.tasks.start_soon(end.live, opening.accept_nowait())

    async def _open(self, session: anyssh.Session, line: Line, which: int) -> None:
        channel = None
        with suppress(anyssh.SSHError), patience(line.patience):
            channel = await session.open_channel("life", payload=bytes([line.number]))
        self.opening -= 1
        self.opened.set()
        if channel is not None:
            line.is_open = True
            await line.ends[which].live(channel)

    async def _keep_connected(
        self, session: anyssh.ClientSession, connectable: ByteStreamConnectable
    ) -> None:
        with suppress(anyssh.SSHError):
            while True:
                await session.wait_disconnected()
                try:
                    await session.reconnect(await connectable.connect())
                except anyssh.ReconnectError as error:
                    if error.reason in FINAL:
                        await session.aclose()
                except (anyssh.SSHError, anyio.EndOfStream, *BROKEN):
                    await anyio.sleep(0.005)

    # What happens

    async def _happen(self, session: anyssh.ClientSession) -> None:
        chance = self.chance
        for _ in range(chance.choice((20, 60, 200))):
            either = chance.choice([session, self.server_session or session])
            match chance.randrange(24):
                case 0 | 1 | 2:
                    self.faulty.disturb()
                case 3:
                    self.tasks.start_soon(self._try, either.rekey)
                case 4:
                    self.tasks.start_soon(self._try, partial(self._ask, either))
                case 5:
                    self.tasks.start_soon(self._try, partial(self._use_service, session))
                case 6 | 7:
                    forward = partial(self._forward, session, self._some())
                    self.tasks.start_soon(self._try, forward, (None, None, 0, 0.05))
                case 8 | 9 | 10 | 11 | 12:
                    await anyio.sleep(chance.choice(self.pauses))
                case _:
                    chance.choice(chance.choice(self.lines).ends).tell(self._order())

    def _order(self) -> Order:
        """Draw what an end is told to do."""
        chance = self.chance
        seconds = chance.choice((None, None, None, 0, chance.uniform(0, 0.02)))
        match chance.randrange(12):
            case 0 | 1:
                return Order("ask", chance.randrange(6), seconds)
            case 2 if chance.random() < 0.4:
                return Order(chance.choice(("eof", "eof", "close")), chance.randrange(256), seconds)
        size = int(10 ** chance.uniform(0, chance.choice((2, 4, 5, 6))))
        return Order(chance.choice(("send", "send", "burst", "errors")), size, seconds)

    async def _try(
        self,
        what: Callable[[], Awaitable[object]],
        times: Sequence[float | None] = (None, 0, 0.001, 0.02),
    ) -> None:
        """Do something that may be refused, and change one's mind after one of these times."""
        with suppress(*REFUSALS), patience(self.chance.choice(times)):
            await what()

    async def _ask(self, session: anyssh.Session) -> None:
        name, question = self.chance.choice(QUESTIONS), self.chance.randbytes(9)
        reply = await session.request(name, question)
        assert not reply or reply.payload == question

    async def _use_service(self, session: anyssh.ClientSession) -> None:
        if self.chance.random() < 0.3:
            await session.request_service("answering@example.com")
            return
        what = Bytes(self.chance)
        size = self.chance.choice((10, 100_000))
        async with (
            await session.open_channel("echo@example.com") as channel,
            anyio.create_task_group() as group,
        ):
            group.start_soon(_tell, channel, what, size)
            with suppress(*GONE):
                async for chunk in channel:
                    what.take(chunk)
                assert what.received == size

    async def _forward(self, session: anyssh.ClientSession, chance: Random) -> None:
        forward: Any
        if chance.random() < 0.5:
            forward = session.forward_to_remote_port("127.0.0.1", 0, "127.0.0.1", self.target)
        else:
            forward = session.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", self.target)
        async with forward:
            port = getattr(forward, "local_port", None) or forward.remote_port
            for _ in range(chance.randrange(5)):
                await self.tasks.start(visit, Random(chance.random()), port)
                await anyio.sleep(chance.choice((0, 0, 0.001)))
            await anyio.sleep(chance.choice((0, 0.01, 0.1, 0.5)))

    # The end

    async def _end(self, session: anyssh.ClientSession, scope: anyio.CancelScope) -> None:
        server = self.server_session
        self.facts[self.ending] += 1
        match self.ending:
            case "in order":
                await self._finish(session)
                return
            case "raise":
                raise Left
            case "cancel":
                scope.cancel()
                await anyio.sleep_forever()
            case "close":
                await session.aclose()
            case "close both":
                async with anyio.create_task_group() as group:
                    group.start_soon(session.aclose)
                    if server is not None:
                        group.start_soon(server.aclose)
            case "shutdown":
                self.tasks.start_soon(partial(self.server.shutdown, grace=0))
        self.faulty.calm()
        self.server_leaves.set()
        await session.wait_closed()

    async def _finish(self, session: anyssh.ClientSession) -> None:
        """Have everything sent that is to be sent, and see whether it has come."""
        self.faulty.calm()
        while self.opening:
            self.opened = anyio.Event()
            await self.opened.wait()
        for line in self.lines:
            for end in line.ends:
                end.tell(Order("eof"))
        for line in self.lines:
            for end in line.ends:
                if end.has_begun:
                    await end.over.wait()
        sessions = session, self.server_session
        if any(each is None or each.state is anyssh.SessionState.CLOSED for each in sessions):
            assert not self.is_spared
            return
        self.facts["whole"] += 1
        for line in self.lines:
            if line.is_open:
                line.check()


# All of them


class Mistakes(logging.Handler):
    """Keeps what is logged as a mistake, but for what the lives raise themselves."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not (isinstance(error, ExceptionGroup) and error.subgroup(Left)):
            self.found.append(record)


@contextmanager
def no_mistakes() -> Iterator[None]:
    """Check that nothing is logged that points to a mistake of ours."""
    handler, ours = Mistakes(), logging.getLogger("anyssh")
    loggers = ours, logging.getLogger("anyio")  # which logs each TLS handshake that is cut
    ours.addHandler(handler)
    for logger in loggers:
        logger.propagate = False  # pytest keeps what is logged, and with it the sessions
    try:
        yield
    finally:
        for logger in loggers:
            logger.propagate = True
        ours.removeHandler(handler)
    formatter = logging.Formatter()
    assert not handler.found, "\n".join(map(formatter.format, handler.found))


def living() -> list[object]:
    """Return what sessions are made of, wherever it is."""
    gc.collect()
    kinds = anyssh.Session, anyssh.Channel, Link
    return [each for each in gc.get_objects() if isinstance(each, kinds)]


async def live(seed: int, contexts: Contexts, facts: Counter[str]) -> None:
    life = Life(seed, contexts)
    try:
        await life.run()
    except BaseException as error:
        error.add_note(str(life))
        raise
    facts.update(life.facts)


async def live_together(seeds: Iterable[int], contexts: Contexts, facts: Counter[str]) -> None:
    """Live several lives at the same time, and leave nothing behind."""
    with no_mistakes():
        async with nothing_left_behind(), anyio.create_task_group() as group:
            for seed in seeds:
                group.start_soon(live, seed, contexts, facts)


async def test_lives(contexts: Contexts) -> None:
    """T-71, over sockets: ends that are cancelled and leave, connections that fail at any time."""
    facts: Counter[str] = Counter()
    others = living()
    for seed in range(FIRST, FIRST + LIVES, AT_ONCE):
        await live_together(range(seed, seed + AT_ONCE), contexts, facts)
    assert facts["whole"] > 0
    left_behind = [each for each in living() if not any(each is other for other in others)]
    assert not left_behind
