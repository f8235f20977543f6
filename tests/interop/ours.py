"""anyssh's part in these tests: a server with the peers' commands, and a client's exchanges."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import SocketAttribute

import anyssh

from .peers import KeyFile
from .scripts.peer_common import DIGEST, DISCONNECT, ECHO, PROMPTS, REPORT, SIGNAL, sha256

ChannelHandler = Callable[[anyssh.Channel], Awaitable[object]]


def our_key(file: KeyFile) -> anyssh.Key:
    """Return a generated key as one of ours."""
    return anyssh.Key.from_cryptography(file.pair)


class Watch:
    """Counts trace events, and lets a test wait for them."""

    def __init__(self) -> None:
        self._counts: Counter[anyssh.TraceId] = Counter()

    def __call__(self, event: anyssh.TraceEvent) -> None:
        self._counts[event.id] += 1

    @property
    def key_exchanges(self) -> int:
        return self._counts[anyssh.TraceId.ALGORITHM_NEGOTIATION]


# --- the server


@dataclass
class Visit:
    """One authenticated session of our server, as it looked from here."""

    session: anyssh.ServerSession
    end: anyssh.SessionClosed | None = None

    @property
    def algorithms(self) -> anyssh.Algorithms:
        return self.session.algorithms


@dataclass
class OurServer:
    port: int
    watch: Watch
    attempts: list[anyssh.AuthAttempt] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    def notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def visit(self) -> Visit:
        """Wait for the first session."""
        while not self.visits:
            await self.changed.wait()
        return self.visits[0]

    async def command(self) -> str:
        """Wait for the first command that a client wants to run."""
        while not self.commands:
            await self.changed.wait()
        return self.commands[0]

    async def end(self) -> anyssh.SessionClosed:
        """Wait until the first session has ended, tell how."""
        visit = await self.visit()
        while visit.end is None:
            await self.changed.wait()
        return visit.end


@dataclass(frozen=True)
class Gate:
    """Whom our server lets in."""

    user: str
    password: str | None = None
    authorized: Sequence[KeyFile] = ()
    answers: Sequence[str] = ()

    def judge(self, attempt: anyssh.AuthAttempt) -> object | None:
        """Return what ``authenticate`` returns."""
        if attempt.username != self.user:
            return None
        match attempt:
            case anyssh.PasswordAttempt(password=password) if password == self.password:
                return "password"
            case anyssh.PublicKeyAttempt(public_key=key):
                known = [our_key(file) for file in self.authorized]
                return "publickey" if key in known else None
            case anyssh.CertificateAttempt():
                return "certificate"
            case anyssh.KeyboardInteractiveAttempt(responses=None) if self.answers:
                prompts = [anyssh.Prompt(text, echo) for text, echo in PROMPTS]
                return anyssh.Challenge("Two questions", "Answer both", prompts)
            case anyssh.KeyboardInteractiveAttempt(responses=responses) if self.answers:
                return "keyboard-interactive" if responses == tuple(self.answers) else None
        return None


async def run_commands(
    channel: anyssh.Channel, session: anyssh.ServerSession, server: OurServer
) -> None:
    """Run the peers' commands in a channel."""
    async for request in channel.requests():
        if request.name != "exec":
            await request.reject()
            continue
        await request.accept()
        command = anyssh.wire.Reader(request.payload).string().decode()
        server.commands.append(command)
        server.notify()
        if command == ECHO:
            await echo(channel)
        elif command == DIGEST:
            await channel.send(f"{sha256(await collect(channel))}  -\n".encode())
            await channel.aclose(exit_status=0)
        elif command == REPORT:
            await channel.send(b"output")
            await channel.send_stderr(b"errors")
            await channel.aclose(exit_status=42)
        elif command == SIGNAL:
            await channel.aclose(signal="TERM", message="terminated")
        elif command.startswith(DISCONNECT):
            reason, _, text = command.removeprefix(DISCONNECT).partition(" ")
            await session.disconnect(int(reason), text)
        else:
            await channel.aclose(exit_status=127)


async def echo(channel: anyssh.Channel) -> None:
    """Send back every byte, then EOF and success."""
    async for chunk in channel:
        await channel.send(chunk)
    await channel.send_eof()
    await channel.aclose(exit_status=0)


async def echo_stderr(channel: anyssh.Channel) -> None:
    """Send back standard error as standard error."""
    async for chunk in channel.stderr:
        await channel.send_stderr(chunk)
    await channel.aclose(exit_status=0)


@asynccontextmanager
async def our_server(
    gate: Gate,
    host_keys: Sequence[KeyFile | anyssh.CertifiedKey],
    *,
    config: anyssh.SessionConfig | None = None,
    handler: ChannelHandler | None = None,
    user_authorities: anyssh.UserAuthorities | None = None,
    forwarding: anyssh.ForwardingPolicy | None = None,
) -> AsyncIterator[OurServer]:
    """Run a server on loopback that lets in whom the gate, and the authorities, let in."""

    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        server.attempts.append(attempt)
        return gate.judge(attempt)

    async def handle(session: anyssh.ServerSession) -> None:
        visit = Visit(session)
        server.visits.append(visit)
        server.notify()

        async def serve_channel(channel: anyssh.Channel) -> None:
            if handler is None:
                await run_commands(channel, session, server)
            else:
                await handler(channel)

        await session.serve(serve_channel)
        visit.end = await session.wait_closed()
        server.notify()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        server = OurServer(listener.extra(SocketAttribute.local_port), Watch())
        anyssh_server = anyssh.Server(
            host_keys=[our_key(key) if isinstance(key, KeyFile) else key for key in host_keys],
            authenticate=authenticate,
            user_authorities=user_authorities,
            config=config,
            forwarding=forwarding,
            trace=server.watch,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyssh_server.serve, listener, handle)
            yield server
            tasks.cancel_scope.cancel()


# --- the client


@asynccontextmanager
async def our_client(
    port: int,
    host_keys: Sequence[KeyFile],
    credentials: anyssh.ClientCredentials,
    *,
    by_itself: bool = False,
    **options: Any,
) -> AsyncIterator[anyssh.ClientSession]:
    """Connect over loopback, accept these host keys only.

    :param by_itself: whether the session may look for another stream when it has lost one
    """
    connectable = anyio.as_connectable(("127.0.0.1", port))
    verify = anyssh.pin(*(our_key(file).fingerprint for file in host_keys))
    session = anyssh.ClientSession.connect(
        connectable if by_itself else await connectable.connect(),
        credentials=credentials,
        verify_host=verify,
        **options,
    )
    async with session:
        yield session


async def execute(session: anyssh.ClientSession, command: str) -> anyssh.Channel:
    """Open a channel that runs a command."""
    request = anyssh.ChannelRequest("exec", anyssh.wire.string(command))
    return await session.open_channel("session", request=request)


async def exchange(
    session: anyssh.ClientSession, data: bytes, command: str = ECHO
) -> tuple[bytes, int | None]:
    """Send data to a command while reading, return what came back and the exit status."""
    return await exchange_over(await execute(session, command), data)


async def exchange_over(channel: anyssh.Channel, data: bytes) -> tuple[bytes, int | None]:
    """Send data over a channel that echoes, return what came back and the exit status."""

    async def send() -> None:
        await channel.send(data)
        await channel.send_eof()

    received = bytearray()
    async with channel, anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        async for chunk in channel:
            received += chunk
        closed = await channel.wait_closed()
    return bytes(received), closed.exit_status


async def collect(stream: anyio.abc.ByteReceiveStream) -> bytes:
    """Return all that a stream brings."""
    return b"".join([chunk async for chunk in stream])
