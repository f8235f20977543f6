"""A session's life: entering, leaving, ending, and what it leaves behind."""

from __future__ import annotations

import gc
import hashlib
import os
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from anyio.streams.stapled import StapledObjectStream

import anyssh
from anyssh.protocol import Core, Role
from anyssh.protocol.events import ChannelOpenReceived
from anyssh.session.link import Link
from anyssh.session.links import Links
from anyssh.testing import Cut, Direction, Ending, Fault, FaultStream, HalfClose, Stall

from .ends import receive_exactly
from .life_support import (
    ALICE,
    LIMIT,
    Outcome,
    RawPeer,
    Recorder,
    Wrapper,
    client_of,
    echo,
    echoes,
    fast,
    nothing_left_behind,
    pair,
    run_end,
    server_of,
    settle,
    streams,
    wait_for,
)

MIB = 1024 * 1024
DirectionSizes = dict[Direction, int]


# Leaving


async def test_an_ordinary_end_closes_both_streams_and_tells_both_sides() -> None:
    near, far = streams()
    server_end = Outcome()
    seen: list[anyssh.SessionClosed] = []

    async def body(session: anyssh.ServerSession) -> None:
        seen.append(await session.wait_closed())

    with anyio.fail_after(LIMIT):
        async with nothing_left_behind(), anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far), body, server_end)
            async with client_of(near) as client:
                assert client.is_authenticated
            closed = await client.wait_closed()
    assert server_end.error is None
    assert near.closes == far.closes == 1
    assert not client.is_authenticated
    assert (closed.reason, seen[0].reason) == (11, 11)
    assert isinstance(closed.error, anyssh.Disconnected)
    assert not closed.error.by_peer
    assert isinstance(seen[0].error, anyssh.Disconnected)
    assert seen[0].error.by_peer


@pytest.mark.parametrize("reason", [11, 9999, 2**32 - 1])
@pytest.mark.parametrize("by_server", [False, True])
async def test_disconnect_tells_the_other_side_its_reason(reason: int, by_server: bool) -> None:
    async with pair() as (client, server):
        ours, theirs = (server, client) if by_server else (client, server)
        await ours.disconnect(reason, "enough of it")
        with anyio.fail_after(LIMIT):
            near, far = await ours.wait_closed(), await theirs.wait_closed()
    for closed, by_peer in ((near, False), (far, True)):
        assert (closed.reason, closed.description) == (reason, "enough of it")
        assert isinstance(closed.error, anyssh.Disconnected)
        assert (closed.error.reason, closed.error.by_peer) == (reason, by_peer)
        assert "enough of it" in str(closed.error)


async def test_an_impossible_reason_is_refused_and_changes_nothing() -> None:
    async with pair() as (client, server), anyio.create_task_group() as group:
        group.start_soon(server.serve, echo)
        for reason in (-1, 2**32):
            with pytest.raises((ValueError, anyssh.LocalProtocolError)):
                await client.disconnect(reason)
        await echoes(client)
        group.cancel_scope.cancel()


async def test_wait_closed_after_a_cut_tells_connection_lost() -> None:
    faulty: list[FaultStream] = []

    def wrap(inner: ByteStream) -> FaultStream:
        faulty.append(FaultStream(inner))
        return faulty[0]

    async with pair(client_stream=wrap) as (client, server):
        faulty[0].cut()
        with anyio.fail_after(LIMIT):
            for session in (client, server):
                closed = await session.wait_closed()
                assert closed.reason == anyssh.DisconnectReason.CONNECTION_LOST
                assert isinstance(closed.error, anyssh.ConnectionLost)
                assert await session.wait_closed() is closed


async def test_aclose_twice_and_calls_after_the_end() -> None:
    async with pair() as (client, _):
        await client.aclose()
        await client.aclose()
        with pytest.raises(anyssh.Disconnected):
            await client.open_channel()
        with pytest.raises(anyssh.Disconnected):
            await client.request("x")
        with pytest.raises(anyssh.Disconnected):
            await client.rekey()
        with pytest.raises(anyssh.Disconnected):
            await client.accept_channel()
        with pytest.raises(anyssh.Disconnected):
            await client.authenticate(ALICE)
        assert [opening async for opening in client.incoming_channels()] == []
        assert [request async for request in client.requests()] == []
        assert [event async for event in client.events()] == []


async def test_a_session_is_entered_once() -> None:
    async with pair() as (client, _):
        with pytest.raises(RuntimeError, match="entered"):
            await client.__aenter__()


@pytest.mark.parametrize(
    "end",
    [
        lambda session: session.aclose(),
        lambda session: session.disconnect(anyssh.DisconnectReason.BY_APPLICATION),
    ],
)
async def test_a_session_that_is_not_entered_yet(
    end: Callable[[anyssh.ClientSession], Awaitable[None]],
) -> None:
    near, _ = streams()
    session = client_of(near)
    for name in ("metrics", "peer_version", "algorithms", "host_key"):
        with pytest.raises(anyssh.LocalProtocolError):
            getattr(session, name)
    assert session.channels == ()
    assert session.extra(anyssh.SSHAttribute.channel_type, None) is None
    await end(session)
    assert near.closes == 1


async def test_every_end_of_a_session_is_a_checkpoint() -> None:
    config = fast(extensions=anyssh.SessionConfig.with_reconnect().extensions)
    async with pair(config, config) as (client, _):
        lose = partial(client.disconnect, anyssh.DisconnectReason.CONNECTION_LOST)
        never_entered = client_of(anyio.as_connectable(("127.0.0.1", 9)))
        for end in (never_entered.aclose, lose, lose):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await end()
            assert scope.cancelled_caught


async def test_is_authenticated_can_always_be_asked() -> None:
    near, _ = streams()
    assert client_of(near).is_authenticated is False


async def _feed(take: Callable[[bytes], object], channel: anyssh.Channel) -> None:
    async for chunk in channel:
        take(chunk)


async def test_everything_sent_before_leaving_arrives() -> None:
    data = os.urandom(5 * MIB)
    digests: list[bytes] = []

    async def body(session: anyssh.ServerSession) -> None:
        channel = await session.accept_channel()
        digest = hashlib.sha256()
        with pytest.raises(anyio.BrokenResourceError):
            await _feed(digest.update, channel)
        digests.append(digest.digest())

    patient = anyssh.Limits(disconnect_time=LIMIT, close_time=LIMIT)  # on a busy machine, too
    for capacity in (1024, 65536):
        near, far = streams(capacity=capacity)
        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as group:
                config = anyssh.SessionConfig(limits=patient)
                group.start_soon(run_end, server_of(config=config).accept(far), body)
                async with client_of(near, config=config) as client:
                    channel = await client.open_channel()
                    await channel.send(data)
    assert digests == [hashlib.sha256(data).digest()] * 2


@asynccontextmanager
async def _heard() -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.Channel, bytearray]]:
    """Give a client, a channel, and what the server has received of it; leave the client first."""
    got = bytearray()

    async def body(session: anyssh.ServerSession) -> None:
        channel = await session.accept_channel()
        with pytest.raises(anyio.BrokenResourceError):
            await _feed(got.extend, channel)

    near, far = streams()
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far), body)
            async with client_of(near) as client:
                yield client, await client.open_channel(), got


async def test_what_was_sent_during_a_key_exchange_arrives_although_we_leave() -> None:
    """EOF and CLOSE wait for the new keys; leaving meanwhile must not lose the bytes before."""
    async with _heard() as (client, channel, got), anyio.create_task_group() as rekeying:
        rekeying.start_soon(client.rekey)
        rekeying.start_soon(channel.send, b"x" * 100_000)
    assert got == b"x" * 100_000


async def test_what_was_gathered_before_a_key_exchange_arrives_although_we_leave() -> None:
    """It has not left when the exchange begins, so it waits for the new keys, too."""
    async with _heard() as (client, channel, got):
        assert channel.send_nowait(b"gathered") == 8
        client._core.start_rekey(anyio.current_time())
    assert got == b"gathered"


async def test_closing_forcefully_ends_a_session_that_waits_for_new_keys() -> None:
    async with _heard() as (client, channel, _):
        client._core.start_rekey(anyio.current_time())
        channel.close()
        assert client._connection.held_size
        await anyio.aclose_forcefully(client)
        assert client.state is anyssh.SessionState.CLOSED


class _Deaf(Wrapper):
    """Passes all on, but never tells that the other side has closed."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            return await super().receive(max_bytes)
        except anyio.EndOfStream:
            await anyio.sleep_forever()
            raise


@pytest.mark.parametrize("opened", ["", "channel", "request"])
async def test_a_client_waits_for_the_server_to_close_only_with_something_open(
    opened: str,
) -> None:
    near, far = streams()
    server_end = Outcome()
    config = fast(limits=anyssh.Limits(close_time=0.3))

    async def body(session: anyssh.ServerSession) -> None:
        await session.serve(echo)

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far), body, server_end)
            async with client_of(_Deaf(near), config=config) as client:
                if opened == "channel":
                    await client.open_channel()
                elif opened == "request":
                    await client.request("nobody-answers@example.com", want_reply=False)
                begin = anyio.current_time()
    took = anyio.current_time() - begin
    assert server_end.error is None
    assert (took > 0.2) is bool(opened)


async def test_who_leaves_a_session_that_has_ended_does_not_wait_for_the_server_to_close() -> None:
    near, far = streams()
    config = fast(limits=anyssh.Limits(close_time=LIMIT * 1.5))

    async def body(session: anyssh.ServerSession) -> None:
        await session.wait_closed()

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far), body)
            async with client_of(_Deaf(near), config=config) as client:
                client._core.terminate(anyssh.SSHError("a mistake of the server"))
                client._advance()
                await client.wait_closed()


async def test_a_peer_that_has_said_goodbye_is_not_waited_for() -> None:
    near, far = streams()
    server = server_of(config=fast(limits=anyssh.Limits(close_time=LIMIT * 10)))

    async def body(session: anyssh.ServerSession) -> None:
        closed = await session.wait_closed()
        assert isinstance(closed.error, anyssh.Disconnected)

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server.accept(_Deaf(far)), body, Outcome())
            async with client_of(near):
                pass
    assert far.closes == 1


async def test_a_session_that_is_over_needs_no_garbage_collector() -> None:
    async def live() -> int:
        near, far = streams()

        async def body(session: anyssh.ServerSession) -> None:
            await session.wait_closed()

        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far), body, Outcome())
            async with client_of(near):
                return parts()

    def parts() -> int:
        kinds = (anyssh.Session, Links, Link, Core)
        return sum(issubclass(type(item), kinds) for item in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = parts()
        with anyio.fail_after(LIMIT):
            assert await live() == before + 8
            for _ in range(3):
                await checkpoint()
        assert parts() == before
    finally:
        gc.enable()


async def test_tcp_sessions_leave_no_task_no_file_and_no_thread() -> None:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener,
        nothing_left_behind(),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server_of().serve, listener, lambda session: session.serve(echo))
        port = listener.extra(SocketAttribute.local_port)
        for leave in range(5):
            with anyio.CancelScope() as scope:
                try:
                    async with client_of(await anyio.connect_tcp("127.0.0.1", port)) as client:
                        await echoes(client)
                        if leave == 1:
                            raise KeyError("mine")
                        if leave == 2:
                            scope.cancel()
                            await checkpoint()
                        if leave == 3:
                            await client.disconnect(9999)
                except KeyError:
                    assert leave == 1
        group.cancel_scope.cancel()


async def test_large_and_small_messages_over_tcp_keep_their_order() -> None:
    """Bytes take different ways to the socket; a mix-up would break the packets' protection."""
    data = os.urandom(4 * MIB)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(server_of().serve, listener, lambda session: session.serve(echo))
        port = listener.extra(SocketAttribute.local_port)
        with anyio.fail_after(LIMIT * 2):
            async with client_of(await anyio.connect_tcp("127.0.0.1", port)) as client:
                channel = await client.open_channel()

                async def send() -> None:
                    await channel.send(data)
                    await channel.send_eof()

                async def chatter() -> None:
                    for _ in range(20):
                        await echoes(client)

                async with anyio.create_task_group() as work:
                    work.start_soon(send)
                    work.start_soon(chatter)
                    got = b"".join([chunk async for chunk in channel])
                assert got == data
        group.cancel_scope.cancel()


def _break_for_writing(stream: Any) -> None:
    """Make the kernel refuse what is written to a socket, while nobody has noticed yet."""
    descriptor = os.dup(stream.extra(SocketAttribute.raw_socket).fileno())
    with socket.socket(fileno=descriptor) as broken:
        broken.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("size", [1, MIB], ids=["at once", "by the writer"])
async def test_a_socket_that_breaks_as_it_is_written_to(size: int) -> None:
    """Whoever meets the error first, the session is lost by it and leaves nothing."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener,
        nothing_left_behind(),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server_of().serve, listener, lambda session: session.serve(echo))
        port = listener.extra(SocketAttribute.local_port)
        with anyio.fail_after(LIMIT):
            stream = await anyio.connect_tcp("127.0.0.1", port)
            async with client_of(stream) as client:
                channel = await client.open_channel()
                await settle()
                _break_for_writing(stream)

                async def send_and_wait() -> None:
                    await channel.send(bytes(size))
                    await channel.receive()

                with pytest.raises(anyio.BrokenResourceError) as caught:
                    await send_and_wait()
                closed = await client.wait_closed()
        assert isinstance(caught.value.__cause__, anyssh.ConnectionLost)
        assert isinstance(closed.error, anyssh.ConnectionLost)
        cause = closed.error.__cause__
        if size == 1:
            assert isinstance(cause, BrokenPipeError), "the first error is the one to tell"
        else:  # the peer may have closed its side before the writer has tried
            assert isinstance(cause, BrokenPipeError | anyio.BrokenResourceError | None)
        group.cancel_scope.cancel()


async def test_a_failed_handshake_over_tcp_leaves_nothing() -> None:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener,
        nothing_left_behind(),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server_of().serve, listener, lambda session: session.serve(echo))
        port = listener.extra(SocketAttribute.local_port)
        wrong = anyssh.ClientCredentials("alice", password="guess")
        with pytest.raises(anyssh.AuthenticationError):
            async with client_of(await anyio.connect_tcp("127.0.0.1", port), credentials=wrong):
                pytest.fail("let in with a wrong password")
        other = anyssh.pin("SHA256:uNiVztksCsDhcc0u9e8BrsWHm8qjlVgZjmUzvQ4wXSg")
        with pytest.raises(anyssh.HostKeyError):
            async with client_of(await anyio.connect_tcp("127.0.0.1", port), verify_host=other):
                pytest.fail("took a wrong host key")
        group.cancel_scope.cancel()


# Who waits when the session ends


async def _deaf(session: anyssh.Session) -> None:
    """Take channels of type "session", and neither read them nor answer anything."""
    session.requests()
    while True:
        channel = await session.accept_channel("session")
        channel.requests()


Waiter = Callable[[anyssh.ClientSession, anyssh.Channel], Awaitable[object]]


async def _to_the_end(iterable: Any) -> list[object]:
    return [item async for item in iterable]


async def _send_for_ever(session: anyssh.ClientSession, channel: anyssh.Channel) -> None:
    while True:
        await channel.send(bytes(MIB))


async def _send_stderr_for_ever(session: anyssh.ClientSession, channel: anyssh.Channel) -> None:
    while True:
        await channel.send_stderr(bytes(MIB))


async def _never(session: anyssh.Session, channel: anyssh.Channel) -> None:
    raise AssertionError("nobody opens a channel here")


BROKEN, OURS = anyio.BrokenResourceError, anyssh.SSHError

WAITERS: dict[str, tuple[Waiter, Any]] = {
    "receive": (lambda session, channel: channel.receive(), BROKEN),
    "stderr": (lambda session, channel: channel.stderr.receive(), BROKEN),
    "iterate": (lambda session, channel: _to_the_end(channel), BROKEN),
    "send": (_send_for_ever, BROKEN),
    "send stderr": (_send_stderr_for_ever, BROKEN),
    "request": (lambda session, channel: channel.request("x"), BROKEN),
    "session request": (lambda session, channel: session.request("x"), OURS),
    "open": (lambda session, channel: session.open_channel("never"), OURS),
    "open with a request": (
        lambda session, channel: session.open_channel(request=anyssh.ChannelRequest("x")),
        (anyssh.SSHError, anyio.BrokenResourceError),
    ),
    "accept": (lambda session, channel: session.accept_channel(), OURS),
    "accept a type": (lambda session, channel: session.accept_channel("x"), OURS),
    "channel closed": (lambda session, channel: channel.wait_closed(), anyssh.ChannelClosed),
    "session closed": (lambda session, channel: session.wait_closed(), anyssh.SessionClosed),
    "requests": (lambda session, channel: _to_the_end(channel.requests()), list),
    "session requests": (lambda session, channel: _to_the_end(session.requests()), list),
    "events": (lambda session, channel: _to_the_end(session.events()), list),
    "incoming": (lambda session, channel: _to_the_end(session.incoming_channels()), list),
    "serve": (lambda session, channel: session.serve(lambda c: _never(session, c)), type(None)),
}


@pytest.mark.parametrize("ending", ["leave", "body raises", "cancelled", "peer leaves", "cut"])
async def test_everybody_who_waits_is_woken_by_the_end(ending: str) -> None:
    results: dict[str, object] = {}

    async def wait(name: str, session: anyssh.ClientSession, channel: anyssh.Channel) -> None:
        try:
            results[name] = await WAITERS[name][0](session, channel)
        except Exception as error:
            results[name] = error

    near, far = streams()
    faulty = FaultStream(near)
    server_end = Outcome()
    peer_leaves = anyio.Event()

    async def serve(session: anyssh.ServerSession) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_deaf, session)
            await peer_leaves.wait()
            tasks.cancel_scope.cancel()

    with anyio.fail_after(LIMIT):
        async with nothing_left_behind(), anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far), serve, server_end)
            async with anyio.create_task_group() as waiters:
                error: BaseException | None = None
                with anyio.CancelScope() as scope:
                    try:
                        async with client_of(faulty) as client:
                            for name in WAITERS:
                                channel = await client.open_channel()
                                waiters.start_soon(wait, name, client, channel)
                            await settle()
                            assert results == {}
                            if ending == "body raises":
                                raise KeyError("mine")
                            if ending == "cancelled":
                                scope.cancel()
                                await checkpoint()
                            if ending == "peer leaves":
                                peer_leaves.set()
                                await client.wait_closed()
                            if ending == "cut":
                                faulty.cut()
                                await client.wait_closed()
                    except KeyError as caught:
                        error = caught
                assert (error is not None) == (ending == "body raises")
                assert scope.cancelled_caught == (ending == "cancelled")
            peer_leaves.set()
    _check_results(results, ending)


def _check_results(results: dict[str, object], ending: str) -> None:
    assert set(results) == set(WAITERS)
    lost = ending == "cut"
    for name, result in results.items():
        assert isinstance(result, WAITERS[name][1]), f"{name}: {result!r}"
        if isinstance(result, list):
            assert result == []
            continue
        if isinstance(result, anyio.BrokenResourceError) and not isinstance(result, OURS):
            cause: object = result.__cause__
        else:
            cause = getattr(result, "error", result)
        if cause is None:
            continue
        assert isinstance(cause, anyssh.ConnectionLost if lost else anyssh.Disconnected), name
        if isinstance(cause, anyssh.Disconnected):
            assert cause.by_peer == (ending == "peer leaves"), name
            assert cause.reason == 11
    raised = [result for result in results.values() if isinstance(result, Exception)]
    assert len(set(map(id, raised))) == len(raised), "two callers got the same exception"


@pytest.mark.parametrize("ending", ["leave", "cut"])
async def test_who_waits_for_new_keys_is_woken_by_the_end(ending: str) -> None:
    results: list[object] = []
    faulty: list[FaultStream] = []

    def wrap(inner: ByteStream) -> FaultStream:
        faulty.append(FaultStream(inner))
        return faulty[0]

    async def attempt(call: Callable[[], Awaitable[object]]) -> None:
        try:
            results.append(await call())
        except Exception as error:
            results.append(error)

    with anyio.fail_after(LIMIT):
        async with (
            anyio.create_task_group() as group,
            pair(client_stream=wrap) as (client, server),
        ):
            group.start_soon(server.serve, echo)
            channel = await client.open_channel()
            await settle()
            faulty[0].stall(Direction.RECEIVE)
            group.start_soon(attempt, client.rekey)
            await settle()
            group.start_soon(attempt, partial(channel.send, b"x"))
            group.start_soon(attempt, client.request_service)
            group.start_soon(attempt, partial(client.request, "x"))
            await settle()
            assert results == []
            if ending == "cut":
                faulty[0].cut()
                await client.wait_closed()
    assert len(results) == 4
    for result in results:
        assert isinstance(result, (anyssh.SSHError, anyio.BrokenResourceError)), result


async def test_who_authenticates_is_woken_by_the_end() -> None:
    """Two calls at once: the second is refused, and the first ends with its session."""
    results: list[object] = []

    async def hang(attempt: anyssh.AuthAttempt) -> object | None:
        await anyio.sleep_forever()
        return None

    async def authenticate(session: anyssh.ClientSession) -> None:
        try:
            await session.authenticate(ALICE)
        except Exception as error:
            results.append(error)

    near, far = streams()
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server_of(authenticate=hang).accept(far))
            async with client_of(near, credentials=None) as client:
                group.start_soon(authenticate, client)
                await settle()
                with pytest.raises(anyio.BusyResourceError):
                    await client.authenticate(ALICE)
                assert results == []
    assert isinstance(results[0], anyssh.Disconnected)


# Peers that vanish


async def _handshake(
    plan: list[Fault], on_client: bool = True, config: anyssh.SessionConfig | None = None
) -> tuple[Outcome, Outcome, tuple[Recorder, Recorder], FaultStream]:
    """Run both ends; a session that gets through waits for its end."""
    near, far = streams()
    faulty = FaultStream(near if on_client else far, plan)
    client = client_of(faulty if on_client else near, config=config or fast())
    server = server_of(config=config or fast()).accept(far if on_client else faulty)
    client_end, server_end = Outcome(), Outcome()
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server, None, server_end)
        await run_end(client, None, client_end)
    return client_end, server_end, (near, far), faulty


async def _handshake_sizes() -> DirectionSizes:
    """Return how many bytes the client sends and receives until it is authenticated."""
    near, far = streams()
    stream = FaultStream(near)
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far))
        async with client_of(stream):
            return {
                Direction.SEND: stream.bytes_sent,
                Direction.RECEIVE: stream.bytes_received,
            }
    raise AssertionError("not reached")


PHASES = ("the version exchange", "the key exchange", "authentication")


def _check_vanished(error: BaseException | None, where: str) -> None:
    """Check that an end told in one error of ours that its peer has gone, and during what."""
    assert isinstance(error, anyssh.ConnectionLost), f"{where}: {error!r}"
    is_early = f"during {PHASES[0]}" in getattr(error, "__notes__", ())
    assert ("identified itself" in str(error)) == is_early, where


@pytest.mark.parametrize("on_client", [True, False], ids=["client's end", "server's end"])
@pytest.mark.parametrize("kind", ["reset", "end", "half"])
async def test_a_peer_that_vanishes_at_any_byte_of_the_handshake(
    kind: str, on_client: bool
) -> None:
    sizes = await _handshake_sizes()
    brief = fast(anyssh.Limits(close_time=0.05))
    sent, received = sizes[Direction.SEND], sizes[Direction.RECEIVE]
    if not on_client:
        sent, received = received, sent
    for direction, size in ((Direction.SEND, sent), (Direction.RECEIVE, received)):
        for after in [*range(0, size - 1, 41), size - 1]:
            fault: Fault
            if kind == "half":
                fault = HalfClose(direction, after)
            else:
                fault = Cut(direction, after, Ending.RESET if kind == "reset" else Ending.EOF)
            where = f"{fault}"
            with anyio.fail_after(LIMIT):
                client, server, both, _ = await _handshake([fault], on_client, brief)
            _check_vanished(client.error, where)
            _check_vanished(server.error, where)
            assert [stream.closes for stream in both] == [1, 1], where
            receiver = server if (direction is Direction.SEND) == on_client else client
            assert not receiver.entered.is_set(), where


async def test_notes_tell_the_phase_in_which_the_peer_vanished() -> None:
    sizes = await _handshake_sizes()
    told: set[str] = set()
    for after in (5, 30, 600, sizes[Direction.RECEIVE] - 1):
        client, *_ = await _handshake([Cut(Direction.RECEIVE, after)])
        assert client.error is not None
        told |= {phase for phase in PHASES for note in client.error.__notes__ if phase in note}
    assert told == set(PHASES)


async def test_a_connection_that_dies_silently_at_any_byte_of_the_handshake() -> None:
    """Nothing arrives any more and nothing breaks; only the deadlines are left."""
    sizes = await _handshake_sizes()
    times = anyssh.Limits(
        version_time=0.4, key_exchange_time=0.4, authentication_time=0.4, disconnect_time=0.2
    )
    seen: list[tuple[str, Outcome, Outcome]] = []

    async def attempt(direction: Direction, after: int) -> None:
        plan: list[Fault] = [Stall(direction, after)]
        client, server, both, _ = await _handshake(plan, config=fast(times))
        assert [stream.closes for stream in both] == [1, 1]
        seen.append((f"{direction} {after}", client, server))

    with anyio.fail_after(LIMIT * 2):
        async with anyio.create_task_group() as group:
            for direction, size in sizes.items():
                for after in range(0, size, 151):
                    group.start_soon(attempt, direction, after)
    assert len(seen) > 8
    for where, client, server in seen:
        assert isinstance(client.error, anyssh.SSHError), f"{where}: {client.error!r}"
        assert isinstance(server.error, anyssh.SSHError), f"{where}: {server.error!r}"


@pytest.mark.parametrize("end", ["client", "server"])
async def test_a_peer_that_never_says_a_word(end: str) -> None:
    for hello in (b"", b"SSH-2.0-x\r\n"):
        near, far = streams()
        times = anyssh.Limits(version_time=0.1, key_exchange_time=0.1)
        config = fast(times)
        session: Any = client_of(near, config=config)
        if end == "server":
            session = server_of(config=config).accept(near)
        await far.send(hello or b"S")
        with anyio.fail_after(LIMIT):
            outcome = await run_end(session)
        assert isinstance(outcome.error, anyssh.RemoteProtocolError)
        assert "took too long" in str(outcome.error)
        assert near.closes == 1


# Streams of other kinds


@pytest.mark.parametrize("end", ["client", "server"])
async def test_a_session_introduces_itself_to_a_peer_that_has_not_spoken(end: str) -> None:
    """VER-10"""
    near, far = streams()
    session: Any = client_of(near) if end == "client" else server_of().accept(near)
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, session)
        said = b""
        with anyio.fail_after(LIMIT):
            while b"\n" not in said:
                said += await far.receive()
        assert said.startswith(f"SSH-2.0-anyssh_{anyssh.__version__}\r\n".encode())
        await far.aclose()


@pytest.mark.parametrize(
    "config", [fast(), anyssh.InsecureSessionConfig()], ids=["encrypted", "in clear"]
)
@pytest.mark.parametrize("capacity", [1, 100])
async def test_both_ends_send_at_once_over_a_stream_that_holds_nothing(
    config: anyssh.SessionConfig, capacity: int
) -> None:
    """PKT-11: neither waits for the other to stop sending before it reads."""
    data = os.urandom(4 * 1024 * capacity.bit_length())
    got: list[bytes] = []

    async def talk(channel: anyssh.Channel) -> None:
        async with anyio.create_task_group() as sending:
            sending.start_soon(_send_and_end, channel, data)
            got.append(b"".join([chunk async for chunk in channel]))

    near, far = streams(capacity=capacity)
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            server = server_of(config=config).accept(far)
            group.start_soon(run_end, server, lambda session: session.serve(talk))
            options: dict[str, Any] = {} if config.is_secure else {"credentials": None}
            async with client_of(near, config=config, **options) as client:
                await talk(await client.open_channel())
    assert got == [data, data]


async def _send_and_end(channel: anyssh.Channel, data: bytes) -> None:
    await channel.send(data)
    await channel.send_eof()


def _object_streams() -> tuple[StapledObjectStream[bytes], StapledObjectStream[bytes]]:
    forth: tuple[MemoryObjectSendStream[bytes], MemoryObjectReceiveStream[bytes]]
    back: tuple[MemoryObjectSendStream[bytes], MemoryObjectReceiveStream[bytes]]
    forth, back = anyio.create_memory_object_stream(8), anyio.create_memory_object_stream(8)
    return StapledObjectStream(forth[0], back[1]), StapledObjectStream(back[0], forth[1])


async def test_over_object_streams_of_bytes() -> None:
    near, far = _object_streams()
    with anyio.fail_after(LIMIT):
        async with nothing_left_behind(), anyio.create_task_group() as group:
            server_end = Outcome()
            group.start_soon(
                run_end, server_of().accept(far), lambda session: session.serve(echo), server_end
            )
            async with client_of(near) as client:
                await echoes(client)
                async with await client.open_channel() as channel:
                    data = os.urandom(3 * MIB)

                    async def send() -> None:
                        await channel.send(data)
                        await channel.send_eof()

                    async with anyio.create_task_group() as sending:
                        sending.start_soon(send)
                        got = b"".join([chunk async for chunk in channel])
                    assert got == data
    assert server_end.error is None


async def test_a_peer_that_vanishes_from_an_object_stream() -> None:
    near, far = _object_streams()
    async with anyio.create_task_group() as group:
        server_end = Outcome()
        group.start_soon(run_end, server_of().accept(far), None, server_end)
        with anyio.fail_after(LIMIT):
            async with client_of(near):
                await near.aclose()
                await server_end.ended.wait()
    assert isinstance(server_end.error, anyssh.ConnectionLost)


class _NoEof(Recorder):
    """A stream like TLS, which cannot close one side alone."""

    async def send_eof(self) -> None:
        raise NotImplementedError


async def test_over_streams_that_cannot_close_one_side() -> None:
    near, far = streams()
    got: list[bytes] = []

    async def body(session: anyssh.ServerSession) -> None:
        channel = await session.accept_channel()
        with pytest.raises(anyio.BrokenResourceError):
            await _feed(got.append, channel)

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(_NoEof(far)), body)
            async with client_of(_NoEof(near)) as client:
                channel = await client.open_channel()
                await channel.send(b"x" * 100_000)
    assert len(b"".join(got)) == 100_000


# Connectables


class _Connectable(anyio.abc.ByteStreamConnectable):
    def __init__(self, stream: ByteStream | Exception) -> None:
        self.stream = stream

    async def connect(self) -> ByteStream:
        await checkpoint()
        if isinstance(self.stream, Exception):
            raise self.stream
        return self.stream


async def test_over_a_connectable() -> None:
    near, far = streams()
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far))
        with anyio.fail_after(LIMIT):
            async with client_of(_Connectable(near)) as client:
                assert client.is_authenticated
    assert near.closes == far.closes == 1


@pytest.mark.parametrize(
    "error", [OSError("no route"), anyio.ConnectionFailed("refused"), KeyError("a bug")], ids=repr
)
async def test_a_connectable_that_fails(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        async with nothing_left_behind(), client_of(_Connectable(error)):
            pytest.fail("a session over nothing")
    assert caught.value is error


async def test_a_connectable_that_hangs_can_be_cancelled() -> None:
    class Hanging(_Connectable):
        async def connect(self) -> ByteStream:
            scope.cancel()
            await anyio.sleep_forever()
            raise AssertionError

    async with nothing_left_behind():
        with anyio.CancelScope() as scope:
            async with client_of(Hanging(KeyError())):
                pytest.fail("a session over nothing")
        assert scope.cancelled_caught


@pytest.mark.parametrize("comes_late", [False, True])
async def test_a_session_that_is_closed_waits_for_no_connectable(comes_late: bool) -> None:
    class Slow(_Connectable):
        async def connect(self) -> ByteStream:
            connecting.set()
            with anyio.CancelScope(shield=comes_late):
                await closed.wait()
                return await super().connect()

    near, _ = streams()
    connecting, closed, outcome = anyio.Event(), anyio.Event(), Outcome()
    session = client_of(Slow(near))
    with anyio.fail_after(LIMIT):
        async with nothing_left_behind(), anyio.create_task_group() as group:
            group.start_soon(run_end, session, None, outcome)
            await connecting.wait()
            await session.aclose()
            if comes_late:
                closed.set()
    assert isinstance(outcome.error, anyssh.Disconnected)
    assert not outcome.error.by_peer
    assert near.closes == comes_late


# Ends that do not end


async def test_leaving_takes_bounded_time_when_the_stream_takes_nothing() -> None:
    faulty: list[FaultStream] = []

    def wrap(inner: ByteStream) -> FaultStream:
        faulty.append(FaultStream(inner))
        return faulty[0]

    limits = anyssh.Limits(disconnect_time=0.1, close_time=0.1)
    start = anyio.current_time()
    async with pair(fast(limits), fast(limits), client_stream=wrap):
        faulty[0].stall()
    assert anyio.current_time() - start < LIMIT / 2


async def test_leaving_takes_bounded_time_when_the_peer_does_not_close() -> None:
    near, far = streams()
    async with anyio.create_task_group() as group:
        peer = RawPeer(far)
        limits = anyssh.Limits(disconnect_time=0.1, close_time=0.2)
        server_end = Outcome()
        leave = anyio.Event()
        session = server_of(config=fast(limits)).accept(near)
        group.start_soon(run_end, session, lambda session: leave.wait(), server_end)
        await peer.log_in()
        leave.set()
        with anyio.fail_after(LIMIT):
            await server_end.ended.wait()
    assert server_end.error is None
    assert near.closes == 1


class _NeverCloses(Recorder):
    async def aclose(self) -> None:
        self.closes += 1
        await anyio.sleep_forever()


async def test_a_stream_whose_aclose_hangs_does_not_hold_the_session() -> None:
    near, far = streams()
    stuck = _NeverCloses(near)
    with anyio.fail_after(LIMIT):
        async with nothing_left_behind(), anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far))
            async with client_of(stuck):
                pass
    assert stuck.closes == 1


async def test_an_end_that_is_cancelled_says_goodbye_all_the_same() -> None:
    near, far = streams()
    server_end = Outcome()
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far), None, server_end)
        with anyio.CancelScope() as scope:
            async with client_of(near):
                scope.cancel()
                await anyio.sleep_forever()
        with anyio.fail_after(LIMIT):
            await server_end.ended.wait()
    assert scope.cancelled_caught
    assert isinstance(server_end.error, anyssh.Disconnected)
    assert near.closes == far.closes == 1


async def test_on_an_exit_stack_no_cancellation_becomes_its_own_context() -> None:
    """As it does of a manager that raises what it was given, and AnyIO looks for its beginning."""
    near, far = streams()
    is_circular = None
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far))
        with anyio.CancelScope() as scope:
            try:
                async with AsyncExitStack() as stack:
                    await stack.enter_async_context(client_of(near))
                    stack.push_async_callback(checkpoint)  # raises a cancellation of its own
                    scope.cancel()
                    await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class() as error:
                is_circular = error.__context__ is error
                error.__context__ = None
                raise
    assert is_circular is False


async def test_entering_in_a_cancelled_scope_closes_the_stream() -> None:
    near, far = streams()
    async with nothing_left_behind():
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with client_of(near):
                pytest.fail("entered in a cancelled scope")
        assert scope.cancelled_caught
        assert near.closes == 1
        await far.aclose()


async def test_a_goodbye_can_still_be_said_in_the_bodys_finally() -> None:
    async with pair() as (client, server), anyio.create_task_group() as group:
        group.start_soon(server.serve, echo)
        said = False
        with anyio.CancelScope() as scope:
            try:
                scope.cancel()
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await echoes(client)
                    said = True
        assert said
        group.cancel_scope.cancel()


async def test_the_peers_handler_ends_with_the_session() -> None:
    """``serve`` returns once the session has ended and its handlers have."""
    async with pair() as (client, server), anyio.create_task_group() as group:
        returned = anyio.Event()

        async def serve() -> None:
            await server.serve(echo)
            returned.set()

        group.start_soon(serve)
        await echoes(client)
        await client.open_channel()
        await client.aclose()
        with anyio.fail_after(LIMIT):
            await returned.wait()
        await wait_for(lambda: server.channels == ())


# Many


async def test_a_hundred_sessions_at_once_all_get_through() -> None:
    """ROB-04, CON-05: each with channels of its own, whose bytes come back whole."""
    digests: list[bool] = []

    async def visit(port: int) -> None:
        async with client_of(await anyio.connect_tcp("127.0.0.1", port)) as client:
            for _ in range(2):
                data = os.urandom(20_000)
                async with await client.open_channel() as channel:
                    await channel.send(data)
                    got = hashlib.sha256()
                    for _ in range(0, len(data), 1000):
                        got.update(await receive_exactly(channel, 1000))
                digests.append(got.digest() == hashlib.sha256(data).digest())

    async with (
        await anyio.create_tcp_listener(
            local_host="127.0.0.1", local_port=0, backlog=200
        ) as listener,
        nothing_left_behind(),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server_of().serve, listener, lambda session: session.serve(echo))
        port = listener.extra(SocketAttribute.local_port)
        with anyio.fail_after(3 * LIMIT):
            async with anyio.create_task_group() as visitors:
                for _ in range(100):
                    visitors.start_soon(visit, port)
        group.cancel_scope.cancel()
    assert digests == [True] * 200


async def test_how_a_session_has_ended_does_not_keep_its_stream() -> None:
    """Nor its keys and buffers: an application may keep the error for long."""
    near, far = streams()
    ends: list[anyssh.SessionClosed] = []
    cores: list[weakref.ref[Core]] = []

    async def note(session: anyssh.ServerSession) -> None:
        cores.append(weakref.ref(session._core))
        ends.append(await session.wait_closed())

    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far), note)
        peer = RawPeer(near)
        await peer.log_in()
        await peer.send(bytes([anyssh.MessageNumber.USERAUTH_FAILURE]))
    gc.collect()
    assert isinstance(ends[0].error, anyssh.RemoteProtocolError)
    assert cores[0]() is None


async def test_channels_whose_close_is_never_answered_are_forgotten() -> None:
    """A session keeps no more of them than it needs to tell late messages from false ones."""
    near, far = streams()
    async with anyio.create_task_group() as group:
        peer = RawPeer(far, Role.SERVER)
        peer.connection.handlers[anyssh.MessageNumber.CHANNEL_CLOSE] = lambda payload: None

        async def accept_all() -> None:
            while True:
                for event in peer.events:
                    if isinstance(event, ChannelOpenReceived):
                        peer.connection.accept_channel(event.channel)
                        # To the peer it is gone, so that it may have as many as it is asked for.
                        peer.connection._remove(event.channel)
                peer.events.clear()
                await peer.flush()
                await peer.step()

        group.start_soon(accept_all)
        known: weakref.WeakSet[anyssh.Channel] = weakref.WeakSet()
        with anyio.fail_after(LIMIT):
            async with client_of(near) as client:
                for _ in range(1500):
                    channel = await client.open_channel()
                    known.add(channel)
                    await channel.aclose()
                assert client.channels == ()
                assert not client._channels
                del channel
                gc.collect()
                assert len(known) <= 1024
                group.cancel_scope.cancel()
