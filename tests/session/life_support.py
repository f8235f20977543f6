"""What the tests of a session's life share: two ends, leak detectors, a misbehaving peer.

Handshakes use the cheapest algorithms. :class:`RawPeer` does whatever it likes: a bare protocol
core over a stream, which answers nothing unless told to.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

import anyssh
from anyssh.protocol import Core, Role
from anyssh.protocol.connection import Connection
from anyssh.protocol.events import AttemptMade, Event, HostKeyPresented, SignatureRequested
from anyssh.testing import memory_stream_pair, session_pair

__all__ = [
    "ALICE",
    "LIMIT",
    "Outcome",
    "RawPeer",
    "Recorder",
    "accept_password",
    "client_of",
    "echo",
    "echoes",
    "fast",
    "foreign_cancellation",
    "host_key",
    "must_not_spin",
    "nothing_left_behind",
    "pair",
    "run_end",
    "server_of",
    "settle",
    "streams",
    "until_nobody_listens",
    "wait_for",
]

LIMIT = 20
"""Seconds after which a test no longer believes that something will happen."""

ALICE = anyssh.ClientCredentials("alice", password="wonderland")


def fast(limits: anyssh.Limits | None = None, **changes: Any) -> anyssh.SessionConfig:
    """Return a configuration with a cheap handshake."""
    cheap: dict[str, Any] = {
        "key_exchanges": [anyssh.KeyExchange.CURVE25519_SHA256],
        "encryptions": [anyssh.Encryption.AES128_GCM],
        "limits": limits or anyssh.Limits(close_time=0.3),
    }
    return anyssh.SessionConfig(**cheap | changes)


@cache
def host_key() -> anyssh.Key:
    return anyssh.generate_key("ssh-ed25519")


async def accept_password(attempt: anyssh.AuthAttempt) -> object | None:
    match attempt:
        case anyssh.PasswordAttempt(username=name, password="wonderland"):
            return name
    return None


def server_of(**changes: Any) -> anyssh.Server:
    """Return a server that lets Alice in."""
    arguments: dict[str, Any] = {
        "host_keys": [host_key()],
        "authenticate": accept_password,
        "config": fast(),
    }
    return anyssh.Server(**arguments | changes)


def client_of(stream: Any, **changes: Any) -> anyssh.ClientSession:
    """Return Alice's session over a stream."""
    arguments: dict[str, Any] = {
        "verify_host": anyssh.pin(host_key().fingerprint),
        "credentials": ALICE,
        "config": fast(),
    }
    return anyssh.ClientSession.connect(stream, **arguments | changes)


@asynccontextmanager
async def pair(
    client_config: anyssh.SessionConfig | None = None,
    server_config: anyssh.SessionConfig | None = None,
    **arguments: Any,
) -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.ServerSession]]:
    """Give the two ends of a session with a cheap handshake."""
    async with session_pair(
        client_config=client_config or fast(),
        server_config=server_config or fast(),
        host_key=host_key(),
        **arguments,
    ) as ends:
        yield ends


class Wrapper(ByteStream):
    """A stream that passes everything on; subclasses change a method each."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def send(self, item: bytes) -> None:
        await self.inner.send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data: bytes = await self.inner.receive(max_bytes)
        return data

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        await self.inner.aclose()


class Recorder(Wrapper):
    """A stream that keeps what is sent on it and counts how often it is closed."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.sent = bytearray()
        self.closes = 0

    async def send(self, item: bytes) -> None:
        self.sent += item
        await super().send(item)

    async def aclose(self) -> None:
        self.closes += 1
        await super().aclose()


def streams(**arguments: Any) -> tuple[Recorder, Recorder]:
    """Return two connected streams that are watched."""
    near, far = memory_stream_pair(**arguments)
    return Recorder(near), Recorder(far)


class Outcome:
    """What became of an end that runs in a task of its own."""

    def __init__(self) -> None:
        self.entered = anyio.Event()
        self.ended = anyio.Event()
        self.error: BaseException | None = None


async def run_end(
    session: Any,
    body: Callable[[Any], Awaitable[object]] | None = None,
    outcome: Outcome | None = None,
) -> Outcome:
    """Enter a session, run a body, leave; a body that is not given waits for the end."""
    outcome = outcome or Outcome()
    try:
        async with session as entered:
            outcome.entered.set()
            if body is None:
                raise (await entered.wait_closed()).error.fresh()
            await body(entered)
    except Exception as error:
        outcome.error = error
    finally:
        outcome.ended.set()
    return outcome


async def echo(channel: anyssh.Channel) -> None:
    async for chunk in channel:
        await channel.send(chunk)


async def echoes(session: anyssh.Session) -> None:
    """Check that a new channel to an echo server works."""
    with anyio.fail_after(LIMIT):
        async with await session.open_channel("echo") as channel:
            word = os.urandom(8)
            await channel.send(word)
            got = b""
            while len(got) < len(word):
                got += await channel.receive()
            assert got == word


async def wait_for(condition: Callable[[], bool]) -> None:
    """Let others run until something holds."""
    with anyio.fail_after(LIMIT):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.001)


async def until_nobody_listens(port: int) -> None:
    """Let others run until a port of this machine refuses connections."""
    with anyio.fail_after(LIMIT):
        while True:
            try:
                await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
            except OSError:
                return
            await anyio.sleep(0.001)


class Others:
    """A task that counts its turns, and does nothing else.

    :ivar turns: how many it has had
    """

    def __init__(self) -> None:
        self.turns = 0

    async def run(self) -> None:
        while True:
            await anyio.lowlevel.checkpoint()
            self.turns += 1


async def settle() -> None:
    """Let others run until nobody can go on."""
    await anyio.wait_all_tasks_blocked()


def foreign_cancellation() -> BaseException:
    """Return what a task meets that awaits something that somebody else has cancelled."""
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        return asyncio.CancelledError()
    return RuntimeError("there is no such thing on Trio")


class RawPeer:
    """A bare core over a stream. It signs, and believes everything; all else is the test's.

    :param lets_in: whether it answers a client that authenticates
    :param config: its configuration, if it matters
    """

    def __init__(
        self,
        stream: Any,
        role: Role = Role.CLIENT,
        *,
        lets_in: bool = True,
        config: anyssh.SessionConfig | None = None,
    ) -> None:
        self.stream = stream
        self.lets_in = lets_in
        self.events: list[Event] = []
        self.received = 0
        config = config or fast()
        self.connection = Connection(config)
        self.core = Core(
            role,
            config,
            now=0.0,
            random=os.urandom,
            identification="SSH-2.0-raw_1",
            connection=self.connection,
            host_keys=(host_key(),) if role is Role.SERVER else (),
        )

    async def flush(self) -> None:
        data = self.core.transport.take_output()
        if data:
            await self.stream.send(data)

    async def step(self) -> None:
        """Receive once, and answer what a peer has to."""
        data = await self.stream.receive()
        self.received += len(data)
        self._handle(self.core.receive_data(data, 0.0))

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            self.events.append(event)
            match event:
                case SignatureRequested():
                    event.supply(host_key().sign(event.data, event.algorithm), 0.0)
                case HostKeyPresented():
                    event.accept(0.0)
                case AttemptMade() if self.lets_in:
                    event.accept("somebody", 0.0)
                case _:
                    continue
            self._handle(self.core.poll_events())

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(LIMIT):
            while not condition():
                await self.flush()
                await self.step()
            await self.flush()

    async def exchange_keys(self) -> None:
        await self.until(lambda: self.core.exchanger.completed_count > 0)

    async def log_in(self) -> None:
        await self.exchange_keys()
        self.core.client_authentication.request_password("alice", "wonderland")
        await self.until(lambda: self.core.is_running)

    async def send(self, *payloads: bytes) -> None:
        """Send payloads sealed, whatever they are."""
        for payload in payloads:
            self.core.transport.send(payload)
        await self.flush()

    async def serve_reads(self) -> None:
        """Read, handle and answer, until the stream ends."""
        try:
            await self.flush()
            while True:
                await self.step()
                await self.flush()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self.stream.aclose()


@contextmanager
def must_not_spin(seconds: int = 5) -> Iterator[None]:
    """Break an endless loop that never lets the event loop run, by a signal."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def give_up(number: int, frame: object) -> None:
        raise AssertionError(f"the event loop was not run for {seconds} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _open_files() -> set[str]:
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        return set()
    found = set()
    for name in os.listdir(folder):
        try:
            found.add(f"{name} {os.readlink(f'{folder}/{name}')}")
        except OSError:  # the one that lists the folder
            continue
    return found


@asynccontextmanager
async def nothing_left_behind() -> AsyncIterator[None]:
    """Check that no task, no thread and no open file is there that was not there before."""
    gc.collect()
    tasks = {task.id for task in anyio.get_running_tasks()}
    threads = set(threading.enumerate())
    files = _open_files()
    yield
    at_once = [task for task in anyio.get_running_tasks() if task.id not in tasks]
    assert not at_once, f"tasks that outlive their session: {at_once}"
    for _ in range(3):  # an asyncio transport closes its socket a turn later
        await checkpoint()
    gc.collect()
    # The event loops have threads and files of their own: Trio polls in one under AnyIO's plugin,
    # asyncio looks up names in some, libuv keeps a spare descriptor.
    new_threads = {
        thread
        for thread in set(threading.enumerate()) - threads
        if not thread.name.startswith(("Trio thread", "asyncio_"))
    }
    assert not new_threads, f"threads that outlive their session: {new_threads}"
    new_files = {file for file in _open_files() - files if not file.endswith(" /dev/null")}
    assert not new_files, f"files that outlive their session: {new_files}"
