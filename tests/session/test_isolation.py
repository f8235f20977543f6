"""What goes wrong in one connection affects no other, and nothing leaks before it may."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint

import anyssh
from anyssh import messages
from anyssh.protocol import Role

from .life_support import (
    ALICE,
    LIMIT,
    Outcome,
    RawPeer,
    Recorder,
    accept_password,
    client_of,
    echo,
    echoes,
    fast,
    host_key,
    run_end,
    server_of,
    settle,
    streams,
)

GOOD = 49

KINDS: dict[str, Callable[[], Exception]] = {
    "key": lambda: KeyError("a bug"),
    "value": lambda: ValueError("a bug"),
    "recursion": lambda: RecursionError("too deep"),
    "memory": lambda: MemoryError(),
    "group": lambda: ExceptionGroup("several", [KeyError("a"), OSError("b")]),
    "system": lambda: OSError(24, "Too many open files"),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    "timeout": lambda: TimeoutError(),
    "end of stream": lambda: anyio.EndOfStream(),
    "closed": lambda: anyio.ClosedResourceError(),
    "ours": lambda: anyssh.RemoteProtocolError("raised by an application"),
    "assertion": lambda: AssertionError(),
}

PLACES = ("authenticate", "may_use_key", "session handler", "channel handler", "trace", "parser")


class _Faulty:
    """The application of a server, which fails for users who are named after a failure."""

    def __init__(self) -> None:
        self.failures = 0
        self.traced: Exception | None = None

    def _fail(self, username: str, place: str) -> None:
        wanted, _, kind = username.partition("/")
        if wanted == place:
            self.failures += 1
            raise KINDS[kind]()

    async def authenticate(self, attempt: anyssh.AuthAttempt) -> object | None:
        self._fail(attempt.username, "authenticate")
        return await accept_password(attempt)

    async def may_use_key(self, username: str, key: anyssh.Key) -> bool:
        self._fail(username, "may_use_key")
        return True

    async def handle(self, session: anyssh.ServerSession) -> None:
        username = session.username or ""
        self._fail(username, "session handler")

        async def handle_channel(channel: anyssh.Channel) -> None:
            self._fail(username, "channel handler")
            await echo(channel)

        # A mistake of ours, which no input is known to bring about.
        if username.startswith("parser/"):
            number = anyssh.MessageNumber.GLOBAL_REQUEST
            session._connection.handlers[number] = lambda payload: self._fail(username, "parser")
        await session.serve(handle_channel)

    def trace(self, event: anyssh.TraceEvent) -> None:
        if self.traced is not None:
            self.failures += 1
            raise self.traced


async def _fail_once(faulty: _Faulty, place: str, kind: str, port: int) -> None:
    """Make one connection that makes the server's application fail in one place."""
    faulty.failures = 0
    credentials = anyssh.ClientCredentials(f"{place}/{kind}", password="wonderland")
    if place == "trace":
        faulty.traced = KINDS[kind]()
    client = client_of(await anyio.connect_tcp("127.0.0.1", port), credentials=None)
    try:
        async with client:
            if place == "may_use_key":
                assert not await client.query_public_key(credentials.username, host_key())
            try:
                await client.authenticate(credentials)
            except anyssh.AuthenticationError:
                assert place == "authenticate"
                return
            try:
                await echoes(client)
                if place == "parser":
                    await client.request("anything")
                assert place in ("may_use_key", "trace"), "the failure had no effect"
            except (anyssh.SSHError, anyio.BrokenResourceError, anyio.EndOfStream):
                assert place in ("session handler", "channel handler", "parser")
    finally:
        faulty.traced = None
        assert faulty.failures, f"{place} was not called"


async def _talk_garbage(port: int, seed: int) -> None:
    """Connect and speak something else, or SSH up to a point and then nonsense."""
    source = random.Random(seed)
    garbage = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes.fromhex("16030100c8010000c40303") + source.randbytes(200),
        source.randbytes(300),
        b"\x00" * 100_000,
        b"SSH-2.0-x\r\n" + source.randbytes(4000),
        b"SSH-1.99-x\r\n" + b"\xff" * 40,
        b"",
    ]
    for data in garbage:
        stream = await anyio.connect_tcp("127.0.0.1", port)
        async with stream:
            try:
                await stream.send(data)
                if data:
                    while True:
                        await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
    for payload in (bytes([source.randrange(256)]) + source.randbytes(20) for _ in range(8)):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            peer = RawPeer(stream)
            await peer.log_in()
            try:
                await peer.send(payload, messages.GlobalRequest("x", True).encode())
                await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass


@pytest.mark.timeout(120)
async def test_forty_nine_connections_go_on_whatever_the_fiftieth_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """T-07, HR-07."""
    caplog.set_level("CRITICAL", "anyssh")
    faulty = _Faulty()
    server = server_of(
        authenticate=faulty.authenticate, may_use_key=faulty.may_use_key, trace=faulty.trace
    )
    finished = anyio.Event()

    async def stay(port: int, *, task_status: anyio.abc.TaskStatus[anyssh.Channel]) -> None:
        async with client_of(await anyio.connect_tcp("127.0.0.1", port)) as client:
            async with await client.open_channel() as channel:
                task_status.started(channel)
                await finished.wait()
            await echoes(client)

    async def use(channel: anyssh.Channel) -> None:
        await channel.send(b"still here")
        assert await channel.receive() == b"still here"

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener,
        anyio.create_task_group() as serving,
    ):
        serving.start_soon(server.serve, listener, faulty.handle)
        port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as good:
            channels = [await good.start(stay, port) for _ in range(GOOD)]
            bad: list[Callable[[], Awaitable[None]]] = [
                partial(_fail_once, faulty, place, kind, port) for place in PLACES for kind in KINDS
            ]
            with anyio.fail_after(LIMIT * 4):
                for fail in (*bad, partial(_talk_garbage, port, seed=1)):
                    async with anyio.create_task_group() as at_once:
                        at_once.start_soon(fail)
                        for channel in channels:
                            at_once.start_soon(use, channel)
            finished.set()
        with anyio.fail_after(LIMIT):
            async with client_of(await anyio.connect_tcp("127.0.0.1", port)) as client:
                await echoes(client)
        serving.cancel_scope.cancel()


async def test_a_failing_stream_does_not_end_the_listener() -> None:
    """The listener hands over streams that break in every way."""

    class Listener(anyio.abc.Listener[Any]):
        async def serve(self, handler: Any, task_group: Any = None) -> None:
            for stream in incoming:
                task_group.start_soon(handler, stream)
            await anyio.sleep_forever()

        async def aclose(self) -> None:
            pass

        @property
        def extra_attributes(self) -> Any:
            return {}

    class Bad(Recorder):
        def __init__(self, error: Exception) -> None:
            super().__init__(None)
            self.error = error

        async def send(self, item: bytes) -> None:
            await checkpoint()
            raise self.error

        async def receive(self, max_bytes: int = 65536) -> bytes:
            await checkpoint()
            raise self.error

        async def send_eof(self) -> None:
            raise self.error

        async def aclose(self) -> None:
            self.closes += 1
            await checkpoint()
            raise self.error

    bad = [Bad(make()) for make in KINDS.values()]
    near, far = streams()
    incoming: list[Any] = [*bad, far]
    async with anyio.create_task_group() as group:
        group.start_soon(server_of().serve, Listener(), lambda session: session.serve(echo))
        with anyio.fail_after(LIMIT):
            async with client_of(near) as client:
                await echoes(client)
        group.cancel_scope.cancel()
    assert all(stream.closes == 1 for stream in bad)


# Nothing before its time


def _clear_text_numbers(sent: bytes) -> list[int]:
    """Return the message numbers of what was sent before encryption began."""
    end = sent.index(b"\r\n") + 2
    numbers = []
    position = end
    while position + 6 <= len(sent):
        length = int.from_bytes(sent[position : position + 4])
        number = sent[position + 5]
        numbers.append(number)
        if number == anyssh.MessageNumber.NEWKEYS:
            break
        position += 4 + length
    return numbers


KEY_EXCHANGE_NUMBERS = {20, 21, 30, 31}


@pytest.mark.parametrize("role", Role)
async def test_no_call_during_the_handshake_puts_a_message_into_the_clear(role: Role) -> None:
    """T-05: an eager application calls everything at every turn until the session is ready."""
    near, far = streams()
    client = client_of(near, credentials=None if role is Role.CLIENT else ALICE)
    server = server_of().accept(far)
    session: Any = client if role is Role.CLIENT else server
    refused = 0

    async def call(operation: Callable[[], Awaitable[object]]) -> None:
        nonlocal refused
        try:
            await operation()
        except (anyssh.SSHError, anyio.BusyResourceError):
            refused += 1

    operations: list[Callable[[], Awaitable[object]]] = [
        session.open_channel,
        partial(session.open_channel, request=anyssh.ChannelRequest("exec")),
        partial(session.request, "early"),
        partial(session.request, "early", want_reply=False),
        session.rekey,
    ]
    if role is Role.CLIENT:
        operations += [
            partial(client.authenticate, ALICE),
            partial(client.query_public_key, "alice", host_key()),
            client.request_service,
        ]
    entered, finished = Outcome(), anyio.Event()
    turns = 0

    async def poke(group: anyio.abc.TaskGroup) -> None:
        nonlocal turns
        while not (
            session.state is not anyssh.SessionState.NEW and session._core.exchanger.completed_count
        ):
            turns += 1
            for operation in operations:
                group.start_soon(call, operation)
            await checkpoint()

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            other = server if role is Role.CLIENT else client
            group.start_soon(run_end, other, lambda session: finished.wait())
            group.start_soon(poke, group)
            await run_end(session, lambda session: checkpoint(), entered)
            finished.set()
            group.cancel_scope.cancel()
    assert entered.error is None
    assert turns > 3
    assert refused >= (turns - 2) * len(operations)
    for stream in (near, far):
        numbers = _clear_text_numbers(bytes(stream.sent))
        assert set(numbers) <= KEY_EXCHANGE_NUMBERS
        assert numbers[-1] == anyssh.MessageNumber.NEWKEYS


async def test_no_channel_and_no_request_before_authentication() -> None:
    """Between the keys and the proof, the application's calls are refused here."""
    near, far = streams()
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far), lambda s: s.serve(echo))
        with anyio.fail_after(LIMIT):
            async with client_of(near, credentials=None) as client:
                for operation in (
                    client.open_channel,
                    partial(client.request, "x"),
                    client.rekey,
                    client.request_service,
                ):
                    with pytest.raises(anyssh.LocalProtocolError):
                        await operation()
                assert client.channels == ()
                await client.authenticate(ALICE)
                await echoes(client)


async def test_no_application_code_runs_before_authentication() -> None:
    """HR-01: A peer that never authenticates reaches neither handler nor iterators (T-26)."""
    near, far = streams()
    called: list[str] = []

    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        called.append("authenticate")
        return None

    async def handle(session: anyssh.ServerSession) -> None:
        called.append("handle")

    async with anyio.create_task_group() as group:
        session = server_of(authenticate=authenticate, config=fast()).accept(far)
        group.start_soon(run_end, session, handle)
        peer = RawPeer(near)
        await peer.exchange_keys()
        await peer.send(
            messages.ServiceRequest("ssh-userauth").encode(),
            messages.ChannelOpen("session", 0, 1000, 1000).encode(),
            messages.GlobalRequest("tcpip-forward", True).encode(),
        )
        await settle()
        assert called == []
        assert not session._openings
        await near.aclose()
