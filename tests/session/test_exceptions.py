"""Which exceptions leave a session, whatever raises below, above or beside it."""

from __future__ import annotations

import contextlib
import ssl
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

import anyssh
from anyssh.testing import Direction

from .life_support import (
    ALICE,
    LIMIT,
    Outcome,
    Recorder,
    accept_password,
    client_of,
    echo,
    echoes,
    fast,
    foreign_cancellation,
    host_key,
    nothing_left_behind,
    pair,
    run_end,
    server_of,
    settle,
    streams,
)


class Odd(BaseException):
    """Neither an Exception nor a cancellation."""


# The body


@pytest.mark.parametrize(
    "error",
    [
        KeyError("mine"),
        StopAsyncIteration("mine"),
        ExceptionGroup("mine", [ValueError("a"), OSError("b")]),
        anyssh.ConnectionLost("mine"),
        anyio.ClosedResourceError(),
        TimeoutError("mine"),
        Odd("mine"),
        BaseExceptionGroup("mine", [Odd()]),
    ],
    ids=repr,
)
async def test_what_the_body_raises_leaves_as_it_is(error: BaseException) -> None:
    def deep_in_the_body() -> None:
        raise error

    near, far = streams()
    server_end = Outcome()
    async with nothing_left_behind(), anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far), None, server_end)
        with anyio.fail_after(LIMIT), pytest.raises(type(error)) as caught:
            async with client_of(near):
                deep_in_the_body()
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    assert not hasattr(error, "__notes__")
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "deep_in_the_body"
    assert near.closes == far.closes == 1
    assert isinstance(server_end.error, anyssh.Disconnected)
    error.__traceback__ = None


async def test_what_the_body_raises_as_a_server_leaves_as_it_is() -> None:
    near, far = streams()
    client_end = Outcome()
    error = KeyError("mine")
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, client_of(near), None, client_end)
        with anyio.fail_after(LIMIT), pytest.raises(KeyError) as caught:
            async with server_of().accept(far):
                raise error
    assert caught.value is error
    assert isinstance(client_end.error, anyssh.Disconnected)


async def test_the_bodys_exception_wins_over_the_end_of_the_session() -> None:
    """A body that fails because its session has ended raises what it got, once."""
    near, far = streams()
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far), lambda session: checkpoint())
        with anyio.fail_after(LIMIT), pytest.raises(anyssh.Disconnected) as caught:
            async with client_of(near) as session:
                await session.open_channel()
    assert caught.value.by_peer
    assert near.closes == 1


async def test_an_exception_in_a_task_group_of_the_body_is_not_wrapped_further() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with pair(), anyio.create_task_group():
            raise KeyError("mine")
    assert len(caught.value.exceptions) == 1
    assert isinstance(caught.value.exceptions[0], KeyError)


# Deciding about host keys


async def _connect(server: anyssh.Server | None = None, **changes: Any) -> tuple[Outcome, Outcome]:
    """Connect; return how both ends ended. A client that gets in leaves at once."""
    near, far = streams()
    client_end, server_end = Outcome(), Outcome()
    with anyio.fail_after(LIMIT):
        async with nothing_left_behind(), anyio.create_task_group() as group:
            group.start_soon(run_end, (server or server_of()).accept(far), None, server_end)
            await run_end(client_of(near, **changes), lambda session: checkpoint(), client_end)
    assert near.closes == far.closes == 1
    return client_end, server_end


@pytest.mark.parametrize(
    "verdict",
    [None, False, 0, "", "yes", 1, object()],
    ids=["None", "False", "0", "empty", "yes", "1", "object"],
)
async def test_a_verifier_that_does_not_say_true(verdict: object) -> None:
    async def verify(presented: anyssh.PresentedHostKey) -> Any:
        return verdict

    attempts: list[anyssh.AuthAttempt] = []

    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        attempts.append(attempt)
        return "in"

    client, server = await _connect(server_of(authenticate=authenticate), verify_host=verify)
    assert isinstance(client.error, anyssh.HostKeyError)
    assert client.error.fingerprint == host_key().fingerprint
    assert isinstance(server.error, anyssh.Disconnected)
    assert server.error.reason == anyssh.DisconnectReason.HOST_KEY_NOT_VERIFIABLE
    assert attempts == []


@pytest.mark.parametrize(
    "error", [KeyError("bug"), OSError("disk"), anyssh.SSHError("ours"), TimeoutError()], ids=repr
)
async def test_a_verifier_that_raises(error: Exception) -> None:
    """HR-35, T-26."""

    async def verify(presented: anyssh.PresentedHostKey) -> bool:
        raise error

    client, server = await _connect(verify_host=verify)
    assert isinstance(client.error, anyssh.HostKeyError)
    assert client.error.__cause__ is error
    assert isinstance(server.error, anyssh.Disconnected)
    assert "bug" not in str(server.error)


async def test_a_verifier_whose_own_wait_was_cancelled() -> None:
    """HR-35: at once, and not when the time for the key exchange is over."""

    async def verify(presented: anyssh.PresentedHostKey) -> bool:
        raise foreign_cancellation()

    client, server = await _connect(verify_host=verify)
    assert isinstance(client.error, anyssh.HostKeyError)
    assert isinstance(client.error.__cause__, RuntimeError)
    assert isinstance(server.error, anyssh.Disconnected)


async def test_a_verifier_that_hangs() -> None:
    async def verify(presented: anyssh.PresentedHostKey) -> bool:
        await anyio.sleep_forever()
        return True

    client, _ = await _connect(verify_host=verify, config=fast(anyssh.Limits(handler_time=0.1)))
    assert isinstance(client.error, anyssh.HostKeyError)
    assert isinstance(client.error.__cause__, TimeoutError)


async def test_a_verifier_that_hangs_while_the_peer_leaves() -> None:
    asked = anyio.Event()

    async def verify(presented: anyssh.PresentedHostKey) -> bool:
        asked.set()
        await anyio.sleep_forever()
        return True

    near, far = streams()
    client_end = Outcome()
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, client_of(near, verify_host=verify), None, client_end)
            with anyio.CancelScope() as scope:

                async def leave() -> None:
                    await asked.wait()
                    scope.cancel()

                group.start_soon(leave)
                async with server_of().accept(far):
                    pytest.fail("authenticated without a verdict")
    assert isinstance(client_end.error, (anyssh.Disconnected, anyssh.ConnectionLost))


# Deciding about clients


@pytest.mark.parametrize("kind", ["raises", "hangs", "is not awaited", "says nothing"])
async def test_an_authenticator_that_fails_refuses(kind: str) -> None:
    pending: list[Any] = []

    async def authenticate(attempt: anyssh.AuthAttempt) -> Any:
        match kind:
            case "raises":
                raise KeyError("secret detail")
            case "hangs":
                await anyio.sleep_forever()
            case "is not awaited":
                pending.append(accept_password(attempt))
                return pending[-1]
            case _:
                return None

    server = server_of(authenticate=authenticate, config=fast(anyssh.Limits(handler_time=0.1)))
    client, server_end = await _connect(server)
    assert isinstance(client.error, anyssh.AuthenticationError)
    assert "secret" not in str(client.error)
    assert isinstance(server_end.error, anyssh.Disconnected)
    for coroutine in pending:
        coroutine.close()


async def test_who_may_use_a_key_is_refused_when_the_callback_fails() -> None:
    async def may_use_key(username: str, key: anyssh.Key) -> bool:
        raise KeyError(username)

    near, far = streams()
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of(may_use_key=may_use_key).accept(far))
        with anyio.fail_after(LIMIT):
            async with client_of(near, credentials=None) as client:
                assert not await client.query_public_key("alice", host_key())
                await client.authenticate(ALICE)
                assert client.is_authenticated


# Asking for credentials


async def test_a_provider_that_raises_leaves_bare() -> None:
    error = KeyError("no keyring")

    async def provide() -> str | None:
        raise error

    client, server = await _connect(
        credentials=anyssh.ClientCredentials("alice", password_provider=provide)
    )
    assert client.error is error
    assert isinstance(server.error, anyssh.Disconnected)


async def test_a_provider_that_hangs_ends_with_the_time_for_authentication() -> None:
    async def provide() -> str | None:
        await anyio.sleep_forever()
        return None

    limits = anyssh.Limits(authentication_time=0.2)
    for client_config, server_config in ((fast(limits), fast()), (fast(), fast(limits))):
        client, server = await _connect(
            server_of(config=server_config),
            config=client_config,
            credentials=anyssh.ClientCredentials("alice", password_provider=provide),
        )
        assert isinstance(client.error, (anyssh.RemoteProtocolError, anyssh.Disconnected))
        assert isinstance(server.error, (anyssh.RemoteProtocolError, anyssh.Disconnected))
        assert "authentication" in str(client.error)


@pytest.mark.parametrize("kind", ["raises", "lies", "awaits what was cancelled"])
async def test_a_host_key_signer_that_fails(kind: str) -> None:
    """HR-45: nor does a wrong signature leave that somebody else has made."""

    class FailingSigner:
        key = host_key().public()

        async def sign(self, data: bytes, algorithm: str) -> bytes:
            if kind == "raises":
                raise OSError("no agent at /run/agent")
            if kind == "awaits what was cancelled":
                raise foreign_cancellation()
            return host_key().sign(b"something else", algorithm)

    client, server = await _connect(server_of(host_keys=[FailingSigner()]))
    assert isinstance(client.error, anyssh.Disconnected)
    assert "agent" not in str(client.error)
    assert isinstance(server.error, anyssh.SSHError)
    cause = server.error.__cause__
    expected = {"raises": OSError, "lies": anyssh.LocalProtocolError}
    assert isinstance(cause, expected.get(kind, RuntimeError))


# Watching


class _EveryTime:
    """A callback that always raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    def __call__(self, event: object) -> None:
        self.calls += 1
        raise self.error


@pytest.mark.parametrize("error", [KeyError("mine"), anyssh.RemoteProtocolError("mine")], ids=repr)
async def test_trace_and_progress_callbacks_that_raise_harm_nobody(error: Exception) -> None:
    traces = [_EveryTime(error), _EveryTime(error)]
    progress = [_EveryTime(error), _EveryTime(error)]
    near, far = streams()
    server_end = Outcome()
    server = server_of(trace=traces[0], on_progress=progress[0])
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(
                run_end, server.accept(far), lambda session: session.serve(echo), server_end
            )
            async with client_of(near, trace=traces[1], on_progress=progress[1]) as client:
                await echoes(client)
                await client.rekey()
                await echoes(client)
    assert server_end.error is None
    assert near.closes == far.closes == 1
    assert all(callback.calls for callback in traces + progress)


async def test_a_callback_may_use_the_session_from_the_first_stage_on() -> None:
    used: list[anyssh.Progress] = []

    def use(event: anyssh.ProgressEvent) -> None:
        with contextlib.suppress(anyssh.LocalProtocolError):  # it has not started
            assert client.forwarding
            used.append(event.progress)

    near, far = streams()
    client = client_of(near, on_progress=use)
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far))
        async with client:
            assert used[0] is anyssh.Progress.STARTING_VERSION_EXCHANGE
            with anyio.fail_after(LIMIT):
                async with client.forward_to_remote_port("127.0.0.1", 0, "127.0.0.1", 9) as forward:
                    await forward.stop_listening()


async def test_handlers_that_raise_close_their_channel_only() -> None:
    async def handle(channel: anyssh.Channel) -> None:
        if channel.channel_type == "echo":
            return await echo(channel)
        raise KeyError("mine") if channel.channel_type == "bad" else foreign_cancellation()

    async with pair() as (client, server), anyio.create_task_group() as group:
        group.start_soon(server.serve, handle)
        with anyio.fail_after(LIMIT):
            for kind in ("bad", "awaits what was cancelled", "bad"):
                channel = await client.open_channel(kind)
                closed = await channel.wait_closed()
                assert closed.error is None
                await echoes(client)
        group.cancel_scope.cancel()


# Streams that raise


@dataclass(frozen=True)
class _Frozen(Exception):
    """Nothing can be assigned to it, not even a traceback."""

    reason: str


ODD_ERRORS: list[Exception] = [
    OSError("cable"),
    ssl.SSLError("tls"),
    RuntimeError("unable to perform operation on closed transport"),
    KeyError("bug"),
    ValueError("bug"),
    TimeoutError("slow"),
    anyio.EndOfStream(),
    anyio.ClosedResourceError(),
    anyio.BrokenResourceError(),
    anyio.BusyResourceError("writing to"),
    anyio.IncompleteRead(),
    ExceptionGroup("several", [OSError("a"), OSError("b")]),
    _Frozen("cable"),
    RecursionError("deep"),
    MemoryError(),
    NotImplementedError("no"),
]


class _Failing(Recorder):
    """Raises from one method, from a certain call on."""

    def __init__(self, inner: Any, method: str, error: BaseException, after: int = 0) -> None:
        super().__init__(inner)
        self._method = method
        self._error = error
        self._calls_left = after

    def fail_now(self) -> None:
        self._calls_left = 0

    def _count(self, method: str) -> None:
        if method == self._method:
            self._calls_left -= 1
            if self._calls_left < 0:
                raise self._error.with_traceback(None)

    async def send(self, item: bytes) -> None:
        await checkpoint()
        self._count("send")
        await super().send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self._count("receive")
        return await super().receive(max_bytes)

    async def send_eof(self) -> None:
        await checkpoint()
        self._count("send_eof")
        await super().send_eof()

    async def aclose(self) -> None:
        await super().aclose()
        self._count("aclose")


@pytest.mark.parametrize("method", ["send", "receive"])
async def test_whatever_a_stream_raises_means_that_the_connection_is_lost(method: str) -> None:
    for number, error in enumerate(ODD_ERRORS):
        for after in (0, 1, 2) if number == 0 else (1,):
            near, far = streams()
            failing = _Failing(near, method, error, after)
            client_end, server_end = Outcome(), Outcome()
            limits = anyssh.Limits(close_time=0.05)
            with anyio.fail_after(LIMIT):
                async with anyio.create_task_group() as group:
                    group.start_soon(run_end, server_of().accept(far), None, server_end)
                    session = client_of(failing, config=fast(limits))
                    await run_end(session, None, client_end)
            where = f"{method} {after} {error!r}"
            assert isinstance(client_end.error, anyssh.ConnectionLost), where
            if not (method == "receive" and isinstance(error, anyio.EndOfStream)):
                assert client_end.error.__cause__ is error, where
            assert isinstance(server_end.error, anyssh.SSHError), where
            assert failing.closes == far.closes == 1, where


@pytest.mark.parametrize("method", ["send", "receive"])
async def test_a_stream_that_breaks_before_the_version_exchange_names_its_error(
    method: str,
) -> None:
    """The cause is told also when nothing has come yet."""
    near, far = streams()
    error = OSError("cable")
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far))
        with anyio.fail_after(LIMIT):
            outcome = await run_end(client_of(_Failing(near, method, error)))
    assert isinstance(outcome.error, anyssh.SSHError)
    assert outcome.error.__cause__ is error


async def test_a_stream_that_breaks_while_we_send_does_not_wait_for_a_goodbye() -> None:
    """The end must not get lost on a writer that is just then sending."""
    limits = anyssh.Limits(disconnect_time=8, close_time=8)
    near, far = streams()
    server_end = Outcome()
    failing = _Failing(near, "receive", OSError("cable"), 1)
    with anyio.fail_after(5):  # cannot cut short what is shielded, but tells that it took longer
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far), None, server_end)
            outcome = await run_end(client_of(failing, config=fast(limits)))
    assert isinstance(outcome.error, anyssh.ConnectionLost)


@pytest.mark.parametrize("method", ["send_eof", "aclose"])
async def test_a_stream_that_raises_at_the_end_spoils_nothing(method: str) -> None:
    for error in ODD_ERRORS:
        near, far = streams()
        failing = _Failing(near, method, error)
        client_end, server_end = Outcome(), Outcome()
        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as group:
                group.start_soon(run_end, server_of().accept(far), None, server_end)
                await run_end(client_of(failing), lambda session: checkpoint(), client_end)
        assert client_end.error is None
        assert isinstance(server_end.error, anyssh.Disconnected)
        assert failing.closes == far.closes == 1


@pytest.mark.parametrize("method", ["send", "receive", "send_eof", "aclose"])
async def test_a_stream_whose_own_wait_was_cancelled_is_lost(method: str) -> None:
    """Nobody has cancelled the session: its body goes on, and hears of the loss."""
    near, far = streams()
    leaves = method in ("send_eof", "aclose")
    failing = _Failing(near, method, foreign_cancellation(), 0 if leaves else 1)
    client_end, server_end = Outcome(), Outcome()
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far), None, server_end)
            body = (lambda session: checkpoint()) if leaves else None
            await run_end(client_of(failing), body, client_end)
    if leaves:
        assert client_end.error is None
    else:
        assert isinstance(client_end.error, anyssh.ConnectionLost)
        assert isinstance(client_end.error.__cause__, RuntimeError)
    assert isinstance(server_end.error, anyssh.SSHError)
    assert failing.closes == far.closes == 1


class _FailingWhenCancelled(Recorder):
    """Raises what a nursery of Trio's does when one of its tasks fails while it is cancelled."""

    def __init__(self, inner: Any, method: str) -> None:
        super().__init__(inner)
        self._method = method
        self.hangs = False
        self.failures = 0

    async def _call(self, method: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if method != self._method:
            return await call()
        try:
            if self.hangs:
                await anyio.sleep_forever()
            return await call()
        except anyio.get_cancelled_exc_class() as cancellation:
            self.failures += 1
            raise BaseExceptionGroup("both", [cancellation, OSError("cable")]) from None

    async def send(self, item: bytes) -> None:
        await self._call("send", lambda: super(_FailingWhenCancelled, self).send(item))

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data: bytes = await self._call("receive", super().receive)
        return data

    async def send_eof(self) -> None:
        await self._call("send_eof", super().send_eof)


@pytest.mark.parametrize("method", ["send", "receive", "send_eof"])
async def test_a_stream_that_fails_while_it_is_cancelled_spoils_nothing(method: str) -> None:
    near, far = streams()
    failing = _FailingWhenCancelled(near, method)
    error = KeyError("mine")
    limits = anyssh.Limits(disconnect_time=0.05, close_time=0.05)

    async def body(session: anyssh.ClientSession) -> None:
        await echoes(session)
        failing.hangs = True
        raise error

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far), lambda session: session.serve(echo))
            outcome = await run_end(client_of(failing, config=fast(limits)), body)
    assert outcome.error is error
    assert failing.failures == failing.closes == 1


@pytest.mark.parametrize("junk", ["text", None, 7], ids=repr)
async def test_a_stream_that_gives_no_bytes_ends_its_own_session_only(junk: object) -> None:
    class Junk(Recorder):
        async def receive(self, max_bytes: int = 65536) -> Any:
            await checkpoint()
            return junk

    near, far = streams()
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far))
        with anyio.fail_after(LIMIT):
            outcome = await run_end(client_of(Junk(near)))
    assert isinstance(outcome.error, anyssh.SSHError)


# Connection lost


@pytest.mark.parametrize(
    "encryption", ["aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr"]
)
@pytest.mark.parametrize("sends", [True, False], ids=["on the way there", "on the way back"])
async def test_one_bit_that_changes_on_its_way_ends_the_session(
    encryption: str, sends: bool
) -> None:
    """PKT-09: whoever receives it says why, and gives nobody what came in the broken packet."""
    config = fast(encryptions=[encryption])
    altered: list[_Altered] = []

    def wrap(inner: ByteStream) -> _Altered:
        altered.append(_Altered(inner))
        return altered[0]

    async with (
        pair(config, config, client_stream=wrap) as (client, server),
        anyio.create_task_group() as group,
    ):
        victim, other = (server, client) if sends else (client, server)
        group.start_soon(server.serve, echo)
        channel = await client.open_channel()
        await channel.send(b"whole")
        assert await channel.receive() == b"whole"
        altered[0].alters = Direction.SEND if sends else Direction.RECEIVE
        await channel.send(b"broken")
        with anyio.fail_after(LIMIT):
            mine, theirs = await victim.wait_closed(), await other.wait_closed()
        with pytest.raises(anyio.BrokenResourceError):
            await channel.receive()
    assert isinstance(mine.error, anyssh.RemoteProtocolError)
    assert isinstance(theirs.error, anyssh.Disconnected)
    assert theirs.error.by_peer
    assert mine.reason == theirs.reason == anyssh.DisconnectReason.MAC_ERROR


class _Altered(Recorder):
    """Changes the last bit of the next piece that passes in one direction."""

    alters: Direction | None = None

    def _altered(self, data: bytes, direction: Direction) -> bytes:
        if self.alters is not direction:
            return data
        self.alters = None
        return data[:-1] + bytes([data[-1] ^ 1])

    async def send(self, item: bytes) -> None:
        await super().send(self._altered(bytes(item), Direction.SEND))

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return self._altered(await super().receive(max_bytes), Direction.RECEIVE)


async def test_connection_lost_is_an_error_of_both_worlds_and_names_its_cause() -> None:
    near, far = streams()
    error = OSError("cable")
    failing = _Failing(near, "send", error, after=1000)
    results: list[BaseException] = []

    async def attempt(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except Exception as caught:
            results.append(caught)

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far), lambda s: s.serve(echo))
            async with client_of(failing) as client:
                channel = await client.open_channel()
                await settle()
                async with anyio.create_task_group() as calls:
                    calls.start_soon(attempt, channel.receive)
                    calls.start_soon(attempt, client.accept_channel)
                    await settle()
                    failing.fail_now()
                    calls.start_soon(attempt, lambda: client.request("x"))
                closed = await client.wait_closed()
    assert len(results) == 3
    for result in results:
        assert isinstance(result, anyio.BrokenResourceError)
        lost = result if isinstance(result, anyssh.SSHError) else result.__cause__
        assert isinstance(lost, anyssh.ConnectionLost)
        assert lost.__cause__ is error
    assert len(set(map(id, results))) == 3
    assert isinstance(closed.error, anyssh.ConnectionLost)
    assert closed.error.__cause__ is error


@pytest.mark.parametrize(
    "hello, words",
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
        (b"SSH-1.5-old\r\n", "2.0 is needed"),
    ],
)
async def test_a_peer_that_speaks_something_else_is_named(hello: bytes, words: str) -> None:
    near, far = streams()
    await far.send(hello)
    with anyio.fail_after(LIMIT):
        outcome = await run_end(client_of(near))
    assert isinstance(outcome.error, anyssh.RemoteProtocolError)
    assert words in str(outcome.error)
    assert near.closes == 1


@pytest.mark.parametrize(
    "hello, words",
    [
        (b"", "before the peer had identified itself"),
        (b"SSH-2.", "'SSH-2.'"),
        (b"Not allowed at this time\r\n", "it had sent 'Not allowed at this time'"),
    ],
)
async def test_a_peer_that_hangs_up_before_its_identification(hello: bytes, words: str) -> None:
    """That is a connection lost, in which phase, after which words."""
    near, far = streams()
    if hello:
        await far.send(hello)
    await far.aclose()
    with anyio.fail_after(LIMIT):
        outcome = await run_end(client_of(near))
    assert isinstance(outcome.error, anyssh.ConnectionLost)
    assert words in str(outcome.error)
    assert outcome.error.__notes__ == ["during the version exchange"]
    assert near.closes == 1


async def test_no_shared_algorithm_is_told_to_both() -> None:
    other = anyssh.SessionConfig(
        key_exchanges=[anyssh.KeyExchange.CURVE25519_SHA256],
        encryptions=[anyssh.Encryption.AES256_CTR],
    )
    client, server = await _connect(server_of(config=other))
    assert isinstance(client.error, anyssh.NegotiationError)
    assert isinstance(server.error, (anyssh.NegotiationError, anyssh.Disconnected))


@pytest.mark.parametrize("mistake", [KeyError("mine"), RecursionError("deep"), MemoryError()])
async def test_a_mistake_of_ours_is_an_end_like_others(
    mistake: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """HR-03, HR-07: both sides hear of it in an error of ours; the log says what it was."""

    def fail(payload: object) -> None:
        raise mistake

    async with pair() as (client, server):
        server._connection.handlers[anyssh.MessageNumber.GLOBAL_REQUEST] = fail
        with anyio.fail_after(LIMIT), pytest.raises(anyssh.Disconnected) as caught:
            await client.request("anything")
        error = (await server.wait_closed()).error
        assert type(error) is anyssh.SSHError
        assert error.__cause__ is mistake
    assert caught.value.by_peer
    assert "mine" not in str(caught.value)
    assert any(record.exc_info and record.exc_info[1] is mistake for record in caplog.records)


async def test_a_stream_that_has_failed_is_not_written_to_again() -> None:
    """HR-09: half a packet may have left, so whatever follows would be torn."""

    class Torn(Recorder):
        writes_left = 1_000_000

        async def send(self, item: bytes) -> None:
            await checkpoint()
            self.writes_left -= 1
            if self.writes_left == 0:
                self.sent += item[: len(item) // 2]
                raise OSError("cable")
            await super().send(item)

    near, far = streams()
    torn = Torn(near)
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far), lambda s: s.serve(echo))
        with anyio.fail_after(LIMIT):
            async with client_of(torn) as client:
                channel = await client.open_channel()
                await settle()
                torn.writes_left = 1
                for _ in range(3):
                    with contextlib.suppress(anyio.BrokenResourceError):
                        await channel.send(b"x" * 1000)
                    await settle()
                await channel.aclose()
    assert torn.writes_left == 0


async def test_an_exception_of_the_service_group_is_not_left_to_guess() -> None:
    """A callback that raises no Exception leaves as what it is, and everything is cleaned up."""

    async def verify(presented: anyssh.PresentedHostKey) -> bool:
        raise Odd("mine")

    near, far = streams()
    async with nothing_left_behind(), anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far))
        with anyio.fail_after(LIMIT), pytest.raises((Odd, BaseExceptionGroup)) as caught:
            async with client_of(near, verify_host=verify):
                pytest.fail("let in")
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        assert len(error.exceptions) == 1
        error = error.exceptions[0]
    assert isinstance(error, Odd)
    assert near.closes == 1
