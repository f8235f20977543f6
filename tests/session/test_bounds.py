"""Bounds on time and memory, whatever the peer does or omits."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

import anyssh
from anyssh import messages
from anyssh.constants import MessageNumber
from anyssh.protocol import Core, Role
from anyssh.protocol.events import ChannelOpened, ChannelOpenReceived, do_nothing
from anyssh.testing import Direction, FaultStream, session_pair

from .ends import channel_pair
from .life_support import (
    LIMIT,
    Outcome,
    RawPeer,
    client_of,
    echo,
    echoes,
    fast,
    must_not_spin,
    pair,
    run_end,
    server_of,
    settle,
    streams,
    wait_for,
)

MIB = 1024 * 1024
KIB = 1024


# Slow peers, with a clock that jumps


SLOW_PEERS = 34
PHASES = ("version", "key exchange", "authentication")
DEADLINES = {"version": 10.0, "key exchange": 20.0, "authentication": 60.0}


async def _drip(stream: ByteStream, phase: str, role: Role) -> None:
    """Come to a phase at once, then send one byte of its next message every five seconds."""
    peer = RawPeer(stream, role, lets_in=False)
    rest = b"SSH-2.0-" + b"x" * 100
    if phase == "key exchange":
        rest = peer.core.transport.take_output()
        end = rest.index(b"\n") + 1
        await stream.send(rest[:end])
        rest = rest[end:]
    elif phase == "authentication":
        await peer.exchange_keys()
        kind = messages.ServiceRequest if role is Role.CLIENT else messages.Ignore
        argument: Any = "ssh-userauth" if role is Role.CLIENT else b"x" * 50
        peer.core.transport.send(kind(argument).encode())
        rest = peer.core.transport.take_output()
    async with anyio.create_task_group() as group:

        async def read() -> None:
            while True:
                await stream.receive()

        group.start_soon(read)
        for byte in rest:
            await stream.send(bytes([byte]))
            await anyio.sleep(5)
        await anyio.sleep_forever()


@pytest.mark.trio
@pytest.mark.parametrize("role", [Role.CLIENT, Role.SERVER])
async def test_slow_peers_are_left_at_the_deadline_of_their_phase(
    autojump_clock: object, role: Role
) -> None:
    """T-13: 102 peers of each role; ``role`` is the peer's."""
    ends: list[tuple[str, float, BaseException | None]] = []

    async def one(phase: str, group: anyio.abc.TaskGroup) -> None:
        near, far = streams()
        started = anyio.current_time()

        async def drip() -> None:
            try:
                await _drip(far, phase, role)
            except* (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

        group.start_soon(drip)
        session: Any = server_of().accept(near)
        if role is Role.SERVER:
            session = client_of(near, credentials=None)

        async def authenticate(session: anyssh.ClientSession) -> None:
            await session.authenticate(anyssh.ClientCredentials("alice", password="x"))

        outcome = await run_end(session, authenticate if role is Role.SERVER else None)
        ends.append((phase, anyio.current_time() - started, outcome.error))
        assert near.closes == 1

    async with anyio.create_task_group() as group:
        async with anyio.create_task_group() as ours:
            for phase in PHASES:
                for _ in range(SLOW_PEERS):
                    ours.start_soon(one, phase, group)
            await anyio.sleep(1)
            before = anyio.current_time()
            near, far = streams()
            ours.start_soon(run_end, server_of().accept(far), lambda s: s.serve(echo))
            async with client_of(near) as client:
                await echoes(client)
            assert anyio.current_time() - before < 1, "a new client had to wait"
        group.cancel_scope.cancel()
    assert len(ends) == SLOW_PEERS * len(PHASES)
    for phase, seconds, error in ends:
        assert abs(seconds - DEADLINES[phase]) <= 2, (phase, seconds, error)
        assert isinstance(error, (anyssh.RemoteProtocolError, anyssh.Disconnected)), error


async def test_slow_peers_are_left_at_their_deadline_in_real_time() -> None:
    """T-13."""
    limits = anyssh.Limits(
        version_time=0.2, key_exchange_time=0.2, authentication_time=0.2, close_time=0.05
    )

    async def one() -> None:
        near, far = streams()
        slow = FaultStream(near)
        slow.stall(Direction.RECEIVE)
        outcome = await run_end(server_of(config=fast(limits)).accept(slow))
        assert isinstance(outcome.error, anyssh.SSHError)
        assert near.closes == 1
        await far.aclose()

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(one)


# Memory


async def _server_and_raw_client(
    group: anyio.abc.TaskGroup,
    handler: Callable[[anyssh.ServerSession], Awaitable[object]],
    config: anyssh.SessionConfig | None = None,
    capacity: int = 64 * KIB,
) -> tuple[RawPeer, Outcome]:
    near, far = streams(capacity=capacity)
    outcome = Outcome()
    group.start_soon(run_end, server_of(config=config or fast()).accept(far), handler, outcome)
    peer = RawPeer(near)
    await peer.log_in()
    return peer, outcome


async def test_senders_wait_for_a_peer_that_does_not_read() -> None:
    """T-58."""
    limits = anyssh.Limits(pending_output=128 * KIB)
    channels: list[anyssh.Channel] = []

    async def handler(session: anyssh.ServerSession) -> None:
        async with anyio.create_task_group() as senders:
            for _ in range(4):
                channels.append(await session.accept_channel())
                senders.start_soon(channels[-1].send, bytes(8 * MIB))

    async with anyio.create_task_group() as group:
        peer, _ = await _server_and_raw_client(group, handler, fast(limits))
        tracemalloc.start()
        try:
            for number in range(4):
                open_ = messages.ChannelOpen("x", number, 2**31, 32 * KIB)
                await peer.send(open_.encode())
            await settle()
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        sent = sum(channel.metrics.bytes_sent for channel in channels)
        assert len(channels) == 4
        # What waits to be sealed, what the writer holds, and what lies in the stream.
        assert sent <= 2 * (128 + 32) * KIB + 64 * KIB
        assert grown < 4 * 8 * MIB + 2 * MIB  # the messages themselves, and little more
        group.cancel_scope.cancel()


async def test_senders_wait_for_a_peer_that_never_adjusts_its_window() -> None:
    """T-58."""
    window = 100_000
    states: list[anyssh.Channel] = []

    async def handler(session: anyssh.ServerSession) -> None:
        states.append(await session.accept_channel())
        await states[0].send(bytes(MIB))

    async with anyio.create_task_group() as group:
        peer, _ = await _server_and_raw_client(group, handler)
        peer.connection.open_channel("x", window_size=window)
        group.start_soon(peer.serve_reads)
        await wait_for(lambda: bool(states) and states[0].metrics.bytes_sent == window)
        await settle()
        assert states[0].metrics.bytes_sent == window
        await peer.send(messages.ChannelWindowAdjust(states[0].channel_id, 7).encode())
        await wait_for(lambda: states[0].metrics.bytes_sent == window + 7)
        group.cancel_scope.cancel()


async def test_a_reader_that_does_not_read_holds_no_more_than_its_window() -> None:
    """HR-51, T-58."""
    config = fast(window_size=256 * KIB)
    async with pair(config, config) as (client, server), anyio.create_task_group() as group:
        held: list[anyssh.Channel] = []

        async def hold() -> None:
            held.append(await server.accept_channel())

        group.start_soon(hold)
        channel = await client.open_channel()
        group.start_soon(channel.send, bytes(4 * MIB))
        await settle()
        assert channel.metrics.bytes_sent == held[0].metrics.bytes_received == 256 * KIB
        assert held[0]._inbox.queue.size == 256 * KIB
        with anyio.fail_after(LIMIT):
            left = 4 * MIB
            while left:
                left -= len(await held[0].receive())
        group.cancel_scope.cancel()


async def test_stderr_counts_against_the_window_until_it_is_read_or_closed() -> None:
    config = fast(window_size=64 * KIB)
    async with pair(config, config) as (client, server), anyio.create_task_group() as group:

        async def complain() -> None:
            async with await server.accept_channel() as channel:
                await channel.send_stderr(bytes(200 * KIB))
                await channel.send(b"at last")
                await channel.send_eof()

        group.start_soon(complain)
        channel = await client.open_channel()
        await settle()
        assert channel.metrics.bytes_received == 64 * KIB
        await channel.stderr.aclose()
        with anyio.fail_after(LIMIT):
            assert await channel.receive() == b"at last"


async def test_tiny_messages_that_nobody_reads_take_little_memory() -> None:
    held: list[anyssh.Channel] = []

    async def handler(session: anyssh.ServerSession) -> None:
        held.append(await session.accept_channel())
        await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        peer, _ = await _server_and_raw_client(group, handler)
        await peer.send(messages.ChannelOpen("x", 0, MIB, 32 * KIB).encode())
        await wait_for(lambda: bool(held))
        data = messages.ChannelData(held[0].channel_id, b"xy").encode()
        for _ in range(20):
            await peer.send(*[data] * 500)
        await wait_for(lambda: held[0].metrics.bytes_received == 20_000)
        assert len(held[0]._inbox.queue._chunks) <= 2
        group.cancel_scope.cancel()


async def test_what_is_idle_takes_little_memory() -> None:
    """Both ends together, with their tasks; `docs/performance.md` tells where it is."""
    channels: list[anyssh.Channel] = []

    async def open_channels(client: anyssh.ClientSession) -> None:
        channels.extend([await client.open_channel() for _ in range(100)])

    async with AsyncExitStack() as stack:
        ends = [await stack.enter_async_context(pair()) for _ in range(2)]
        tracemalloc.start()
        try:
            ends += [await stack.enter_async_context(pair()) for _ in range(10)]
            gc.collect()
            of_sessions, _ = tracemalloc.get_traced_memory()
            client, server = ends[0]
            async with anyio.create_task_group() as group:
                group.start_soon(open_channels, client)
                channels.extend([await server.accept_channel() for _ in range(100)])
            gc.collect()
            both, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert of_sessions < 10 * 80 * KIB
    assert both - of_sessions < 100 * 4 * KIB


async def test_a_peer_that_reads_none_of_the_answers_it_asks_for() -> None:
    limits = anyssh.Limits(pending_output=64 * KIB, unread_answers=64 * KIB)
    config = fast(limits)
    async with anyio.create_task_group() as group:
        peer, outcome = await _server_and_raw_client(
            group, lambda session: session.serve(echo), config, capacity=4 * KIB
        )
        question = messages.GlobalRequest("keepalive@openssh.com", True).encode()
        with anyio.fail_after(LIMIT):
            try:
                while not outcome.ended.is_set():
                    await peer.send(*[question] * 100)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                await outcome.ended.wait()
        group.cancel_scope.cancel()


async def test_openings_and_requests_that_nobody_takes_are_bounded() -> None:
    limits = anyssh.Limits(unaccepted_channels=8, requests=4)
    async with pair(fast(), fast(limits)) as (client, server), anyio.create_task_group() as group:
        refused: list[anyssh.ChannelOpenError] = []
        replies: list[anyssh.Reply] = []

        async def open_one() -> None:
            try:
                await client.open_channel()
            except anyssh.ChannelOpenError as error:
                refused.append(error)

        async def ask() -> None:
            replies.append(await client.request("x"))

        for _ in range(12):
            group.start_soon(open_one)
            group.start_soon(ask)
        await wait_for(lambda: len(refused) == 4)
        await settle()
        assert len(server._openings) == 8
        assert replies == []  # refusals wait for the answers before them
        async with anyio.create_task_group() as answering:

            async def answer() -> None:
                async for request in server.requests():
                    await request.accept()

            answering.start_soon(answer)
            await wait_for(lambda: len(replies) == 12)
            answering.cancel_scope.cancel()
        assert sum(map(bool, replies)) == 4
        group.cancel_scope.cancel()


# Fairness


async def test_channels_move_beside_one_that_is_stuck_and_one_that_floods() -> None:
    """T-58: each of the others makes many round trips while the flood goes on."""
    flood = 0

    async def handle(channel: anyssh.Channel) -> None:
        nonlocal flood
        match channel.channel_type:
            case "stuck":
                await anyio.sleep_forever()
            case "flood":
                async for chunk in channel:
                    flood += len(chunk)
            case _:
                await echo(channel)

    async with pair() as (client, server), anyio.create_task_group() as group:
        group.start_soon(server.serve, handle)
        stuck = await client.open_channel("stuck")
        flooding = await client.open_channel("flood")
        group.start_soon(stuck.send, bytes(16 * MIB))

        async def send_for_ever() -> None:
            while True:
                await flooding.send(bytes(MIB))

        group.start_soon(send_for_ever)
        done = 0

        async def talk() -> None:
            nonlocal done
            async with await client.open_channel("echo") as channel:
                for number in range(20):
                    word = b"%04d" % number
                    await channel.send(word)
                    got = b""
                    while len(got) < 4:
                        got += await channel.receive()
                    assert got == word
                    done += 1

        with anyio.fail_after(LIMIT * 2):
            async with anyio.create_task_group() as talkers:
                for _ in range(3):
                    talkers.start_soon(talk)
            before = flood
            await wait_for(lambda: flood > before + MIB)
        assert done == 60
        assert stuck.metrics.bytes_sent == 32 * 32 * KIB
        group.cancel_scope.cancel()


async def test_a_turn_is_passed_on_by_one_whose_window_has_closed() -> None:
    """Several senders wait for room in the output; none is forgotten."""
    async with anyio.create_task_group() as group:
        done: list[str] = []

        async def handler(session: anyssh.ServerSession) -> None:
            channels = {name: await session.accept_channel(name) for name in "ab"}

            async def send(name: str, size: int) -> None:
                await channels[name].send(bytes(size))
                done.append(name)

            async with anyio.create_task_group() as senders:
                senders.start_soon(send, "a", 4 * MIB)
                await settle()
                senders.start_soon(send, "b", 200 * KIB)

        peer, _ = await _server_and_raw_client(group, handler, capacity=4 * KIB)
        for name, window in (("a", MIB), ("b", 16 * MIB)):
            peer.connection.open_channel(name, window_size=window)
        await peer.flush()
        await settle()
        group.start_soon(peer.serve_reads)
        await wait_for(lambda: "b" in done)
        assert done == ["b"]
        group.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_a_turn_is_passed_on_by_one_that_gives_up(how: str) -> None:
    faulty: list[FaultStream] = []

    def wrap(inner: ByteStream) -> FaultStream:
        faulty.append(FaultStream(inner))
        return faulty[0]

    config = fast(anyssh.Limits(pending_output=128 * KIB))
    async with (
        pair(config, client_stream=wrap) as (client, server),
        anyio.create_task_group() as group,
    ):

        async def read(channel: anyssh.Channel) -> None:
            async for _ in channel:
                pass

        group.start_soon(server.serve, read)
        first, second, third = [await client.open_channel() for _ in range(3)]
        await settle()
        faulty[0].stall(Direction.SEND)
        done: list[str] = []

        async def send(name: str, channel: anyssh.Channel, size: int) -> None:
            try:
                await channel.send(bytes(size))
            except anyio.ClosedResourceError:
                done.append(f"{name} closed")
            else:
                done.append(name)

        scope = anyio.CancelScope()

        async def send_cancelled() -> None:
            with scope:
                await send("second", second, 300 * KIB)

        group.start_soon(send, "first", first, 900 * KIB)
        await settle()
        group.start_soon(send_cancelled)
        await settle()
        group.start_soon(send, "third", third, 300 * KIB)
        await settle()
        assert done == []
        if how == "cancelled":
            scope.cancel()
        else:
            await second.aclose()
        await settle()
        assert done == ([] if how == "cancelled" else ["second closed"])
        faulty[0].release()
        await wait_for(lambda: {"first", "third"} <= set(done))
        await echoes_or_reads(client)
        group.cancel_scope.cancel()


async def echoes_or_reads(session: anyssh.Session) -> None:
    """Check that the session goes on: a channel can be opened, used and closed."""
    with anyio.fail_after(LIMIT):
        async with await session.open_channel() as channel:
            await channel.send(b"x" * 100 * KIB)


# Signs of life


async def test_keep_alive_tells_of_signs_of_life() -> None:
    config = fast(keep_alive_interval=0.02)
    async with pair(config) as (client, _):
        counts = []
        with anyio.fail_after(LIMIT):
            async for event in client.events():
                assert isinstance(event, anyssh.KeepAliveSucceeded)
                counts.append(event.count)
                if len(counts) == 4:
                    break
        assert counts == [1, 2, 3, 4]


async def test_a_silent_peer_is_lost_after_so_many_intervals() -> None:
    """HR-59."""
    faulty: list[FaultStream] = []

    def wrap(inner: ByteStream) -> FaultStream:
        faulty.append(FaultStream(inner))
        return faulty[0]

    limits = anyssh.Limits(disconnect_time=0.05, close_time=0.05)
    config = fast(limits, keep_alive_interval=0.05)
    async with pair(config, client_stream=wrap) as (client, _):
        faulty[0].stall(Direction.RECEIVE)
        with anyio.fail_after(LIMIT):
            failures = [
                event.count
                async for event in client.events()
                if isinstance(event, anyssh.KeepAliveFailed)
            ]
            closed = await client.wait_closed()
        assert failures == [1, 2, 3]  # HR-59: as many as the default says
        assert isinstance(closed.error, anyssh.ConnectionLost)
        assert "3 times" in str(closed.error)
        assert closed.reason == anyssh.DisconnectReason.CONNECTION_LOST


async def test_a_silent_peer_is_lost_although_the_stream_takes_nothing_any_more() -> None:
    """Whoever sends when the loss is found is told so; nobody spins."""
    faulty: list[FaultStream] = []

    def wrap(inner: ByteStream) -> FaultStream:
        faulty.append(FaultStream(inner))
        return faulty[0]

    limits = anyssh.Limits(disconnect_time=0.3, close_time=0.3)
    config = fast(limits, keep_alive_interval=0.05, keep_alive_count=2)
    async with (
        pair(config, client_stream=wrap) as (client, server),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server.serve, echo)
        channel = await client.open_channel()
        await settle()
        faulty[0].stall()
        results: list[Exception] = []

        async def send_until_it_fails() -> None:
            try:
                while True:
                    await channel.send(b"x")
            except anyio.BrokenResourceError as error:
                results.append(error)

        with must_not_spin(), anyio.fail_after(LIMIT):
            await send_until_it_fails()
            closed = await client.wait_closed()
        assert isinstance(closed.error, anyssh.ConnectionLost)
        assert isinstance(results[0].__cause__, anyssh.ConnectionLost)
        group.cancel_scope.cancel()


async def test_unread_facts_are_bounded() -> None:
    limits = anyssh.Limits(events=3)
    async with pair(fast(limits, keep_alive_interval=0.01)) as (client, _):
        facts = client.events()._events  # type: ignore[attr-defined]
        await wait_for(lambda: len(facts) == 3 and facts[0].count > 1)
        await client.aclose()
        with anyio.fail_after(LIMIT):
            counts = [event.count async for event in client.events()]  # type: ignore[attr-defined]
    assert len(counts) == 3
    assert counts[0] > 1
    assert counts == list(range(counts[0], counts[0] + 3))


# New keys


LAVISH = anyssh.Limits(rekey_burst=10_000)


async def test_new_keys_from_both_sides_under_load() -> None:
    config = fast(LAVISH)
    sent = {number: os.urandom(MIB) for number in range(4)}
    got: dict[int, bytes] = {}
    async with pair(config, config) as (client, server), anyio.create_task_group() as group:
        group.start_soon(server.serve, echo)

        async def talk(number: int) -> None:
            channel = await client.open_channel()

            async def send() -> None:
                await channel.send(sent[number])
                await channel.send_eof()

            # The echo ends with its channel, so as many bytes are read as were sent.
            async with anyio.create_task_group() as sending:
                sending.start_soon(send)
                got[number] = b"".join([chunk async for chunk in channel])
            await channel.aclose()

        rekeyed = 0

        async def rekey(session: anyssh.Session) -> None:
            nonlocal rekeyed
            for _ in range(6):
                await session.rekey()
                rekeyed += 1
                await checkpoint()

        with anyio.fail_after(LIMIT * 2):
            async with anyio.create_task_group() as work:
                for number in sent:
                    work.start_soon(talk, number)
                work.start_soon(rekey, client)
                work.start_soon(rekey, server)
        assert got == sent
        assert rekeyed == 12
        await echoes(client)
        group.cancel_scope.cancel()


async def test_two_calls_for_new_keys_share_one_exchange() -> None:
    config = fast(LAVISH)
    async with pair(config, config) as (client, server), anyio.create_task_group() as group:
        group.start_soon(server.serve, echo)
        before = client._core.exchanger.completed_count
        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as calls:
                for session in (client, client, server):
                    calls.start_soon(session.rekey)
        assert client._core.exchanger.completed_count <= before + 2
        await echoes(client)
        group.cancel_scope.cancel()


async def test_new_keys_by_bytes_lose_nothing() -> None:
    config = fast(LAVISH, rekey_bytes=100 * KIB)
    data = os.urandom(2 * MIB)
    async with pair(config, config) as (client, server), anyio.create_task_group() as group:
        group.start_soon(server.serve, echo)
        channel = await client.open_channel()

        async def send() -> None:
            await channel.send(data)
            await channel.send_eof()

        group.start_soon(send)
        with anyio.fail_after(LIMIT):
            got = b"".join([chunk async for chunk in channel])
        assert got == data
        assert client._core.exchanger.completed_count > 5
        group.cancel_scope.cancel()


@pytest.mark.trio
async def test_new_keys_after_a_long_idle_time(autojump_clock: object) -> None:
    """The time for an exchange counts from its start."""
    config = fast()
    async with pair(config, config) as (client, server), anyio.create_task_group() as group:
        group.start_soon(server.serve, echo)
        await anyio.sleep(2 * config.limits.key_exchange_time)
        with anyio.fail_after(LIMIT):
            await client.rekey()
            await server.rekey()
        await echoes(client)
        group.cancel_scope.cancel()


@pytest.mark.trio
@pytest.mark.parametrize("start", ["by call", "by bytes"])
async def test_a_peer_that_does_not_answer_for_new_keys_is_left(
    start: str, autojump_clock: object
) -> None:
    """The deadline counts also when the writer itself starts the exchange."""
    faulty: list[FaultStream] = []

    def wrap(inner: ByteStream) -> FaultStream:
        faulty.append(FaultStream(inner))
        return faulty[0]

    async def swallow(channel: anyssh.Channel) -> None:
        async for _ in channel:
            pass

    config = fast(rekey_bytes=50 * KIB)
    async with (
        pair(config, client_stream=wrap) as (client, server),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server.serve, swallow)
        channel = await client.open_channel()
        await anyio.sleep(2 * config.limits.key_exchange_time)
        faulty[0].stall(Direction.RECEIVE)
        with anyio.fail_after(config.limits.key_exchange_time + LIMIT):
            if start == "by call":
                with pytest.raises(anyssh.RemoteProtocolError):
                    await client.rekey()
            else:
                await channel.send(bytes(60 * KIB))
                await settle()  # now the writer has started the exchange
                with pytest.raises(anyio.BrokenResourceError):
                    await channel.send(bytes(60 * KIB))
            closed = await client.wait_closed()
        assert "took too long for new keys" in str(closed.error)
        group.cancel_scope.cancel()


@pytest.mark.trio
async def test_the_timer_does_not_spin_while_an_exchange_is_unanswered(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty: list[FaultStream] = []

    def wrap(inner: ByteStream) -> FaultStream:
        faulty.append(FaultStream(inner))
        return faulty[0]

    config = fast(rekey_time=0.1)
    async with pair(config, client_stream=wrap) as (client, _):
        faulty[0].stall(Direction.RECEIVE)
        calls = 0
        ordinary = Core.handle_timeout

        def counted(core: Core, now: float) -> Any:
            nonlocal calls
            calls += core is client._core
            return ordinary(core, now)

        monkeypatch.setattr(Core, "handle_timeout", counted)
        with must_not_spin():
            await anyio.sleep(0.5)
        assert 1 <= calls < 5
        faulty[0].release()


@pytest.mark.trio
async def test_an_unprotected_session_does_not_spin_for_keys_it_has_not(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = streams()
    config = anyssh.InsecureSessionConfig(rekey_time=0.1)
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, anyssh.Server(config=config).accept(far))
        session = anyssh.ClientSession.connect(near, verify_host=None, config=config)
        async with session as client:
            calls = 0
            ordinary = Core.handle_timeout

            def counted(core: Core, now: float) -> Any:
                nonlocal calls
                calls += core is client._core
                return ordinary(core, now)

            monkeypatch.setattr(Core, "handle_timeout", counted)
            with must_not_spin():
                await anyio.sleep(0.4)
            assert calls < 5


# Peers that go on silently


async def test_a_request_whose_channel_is_closed_meanwhile_is_answered_no() -> None:
    """A peer that neither answers nor closes does not hold the caller."""
    async with anyio.create_task_group() as group:
        replies: list[anyssh.Reply] = []

        async def handler(session: anyssh.ServerSession) -> None:
            channel = await session.accept_channel()

            async def ask() -> None:
                replies.append(await channel.request("x"))

            async with anyio.create_task_group() as asking:
                asking.start_soon(ask)
                await settle()
                await channel.aclose()
            await anyio.sleep_forever()

        peer, _ = await _server_and_raw_client(group, handler)
        await peer.send(messages.ChannelOpen("x", 0, MIB, 32 * KIB).encode())
        await wait_for(lambda: bool(replies))
        assert not replies[0]
        group.cancel_scope.cancel()


async def test_a_client_meets_a_server_that_never_confirms() -> None:
    near, far = streams()
    async with anyio.create_task_group() as group:
        peer = RawPeer(far, Role.SERVER)

        def opens() -> list[ChannelOpenReceived]:
            return [e for e in peer.events if isinstance(e, ChannelOpenReceived)]

        group.start_soon(peer.serve_reads)
        with anyio.fail_after(LIMIT):
            async with client_of(near) as client:
                async with anyio.create_task_group() as opening:
                    opening.start_soon(client.open_channel)
                    await wait_for(lambda: bool(opens()))
                    opening.cancel_scope.cancel()
                opened = opens()
                assert len(opened) == 1
                peer.connection.accept_channel(opened[0].channel)
                await peer.flush()
                await wait_for(lambda: client._connection.channel_count == 0)
                assert not [e for e in peer.events if isinstance(e, ChannelOpened)]


# What was sent on channels that are closed


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("size", [1, 100 * KIB])
async def test_what_waits_of_closed_channels_is_bounded(size: int, in_order: bool) -> None:
    """HR-51: their windows are free again, and nobody has read what came. Nothing of it is lost."""
    limits = anyssh.Limits(receive_memory=4 * MIB, channels=64)
    config = anyssh.SessionConfig(limits=limits)
    most = min(64, 4 * MIB // size)
    may_read = anyio.Event()
    read: list[bytes] = []

    async def slow(channel: anyssh.Channel) -> None:
        arrivals = channel.arrivals() if in_order else None
        await may_read.wait()
        if arrivals is None:
            read.append(b"".join([chunk async for chunk in channel]))
        else:
            found = [each async for each in arrivals]
            read.append(
                b"".join(each.data for each in found if isinstance(each, anyssh.ReceivedData))
            )

    async with (
        session_pair(server_config=config) as (client, server),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server.serve, slow)
        opened = 0

        async def open_all() -> None:
            nonlocal opened
            for number in range(2 * most):
                await fill_and_close(client, bytes([number]) * size)
                opened += 1

        with pytest.raises(anyssh.ChannelOpenError) as refused:
            await open_all()
        assert refused.value.reason == anyssh.ChannelOpenFailureReason.RESOURCE_SHORTAGE
        assert most <= opened <= most + 2
        may_read.set()
        await settle()
        assert sorted(read) == [bytes([number]) * size for number in range(opened)]
        await fill_and_close(client, b"at last")
        await settle()
        assert read[-1] == b"at last"
        group.cancel_scope.cancel()


class Slow(anyssh.SessionService):
    """A service that takes its time with each channel."""

    activations = (anyssh.ServiceActivation(channel_type="service"),)
    running = 0
    may_end: anyio.Event

    async def on_channel_opening(self, opening: anyssh.ChannelOpening) -> None:
        await opening.accept()
        Slow.running += 1
        await Slow.may_end.wait()
        Slow.running -= 1


@pytest.mark.parametrize("starter", ["session", "service"])
async def test_handlers_of_closed_channels_are_bounded(starter: str) -> None:
    """HR-50: there may be as many as channels; otherwise each open and close would add one."""
    config = anyssh.SessionConfig(limits=anyssh.Limits(channels=8))
    Slow.may_end, Slow.running = anyio.Event(), 0

    async def slow(channel: anyssh.Channel) -> None:
        Slow.running += 1
        await Slow.may_end.wait()
        Slow.running -= 1

    async with (
        session_pair(server_config=config, server_services={Slow: None}) as (client, server),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server.serve, slow)

        async def open_all() -> None:
            for _ in range(20):
                async with await client.open_channel(starter):
                    await settle()
                await settle()

        with pytest.raises(anyssh.ChannelOpenError) as refused:
            await open_all()
        assert refused.value.reason == anyssh.ChannelOpenFailureReason.RESOURCE_SHORTAGE
        assert Slow.running == 8
        Slow.may_end.set()
        await settle()
        assert Slow.running == 0
        await (await client.open_channel(starter)).aclose()
        group.cancel_scope.cancel()


class Lazy:
    """A recipient that takes nothing."""

    def deliver(self, data: Any) -> int:
        return 0

    def deliver_eof(self) -> None:
        """Do nothing."""

    def channel_closed(self, by_peer: bool) -> None:
        """Do nothing."""


async def test_what_waits_for_recipients_of_closed_channels_is_bounded() -> None:
    """HR-51: whatever a recipient does not take waits, as if there was none."""
    limits = anyssh.Limits(receive_memory=4 * MIB, channels=64)
    config = anyssh.SessionConfig(limits=limits)
    kept: list[anyssh.Channel] = []

    async def accept_all(session: anyssh.Session) -> None:
        async for opening in session.incoming_channels():
            kept.append(opening.accept_nowait())
            kept[-1].deliver_to(Lazy())

    async with (
        session_pair(server_config=config) as (client, server),
        anyio.create_task_group() as group,
    ):
        group.start_soon(accept_all, server)

        async def open_all() -> None:
            for _ in range(30):
                await fill_and_close(client, bytes(400 * KIB))
                await settle()

        with pytest.raises(anyssh.ChannelOpenError):
            await open_all()
        assert len(kept) == 11
        group.cancel_scope.cancel()


class Busy(anyssh.SessionService):
    """A service that is still at its first request."""

    activations = (anyssh.ServiceActivation(channel_request="service@example.com"),)
    may_answer: anyio.Event

    async def on_channel_request(
        self, channel: anyssh.Channel, request: anyssh.IncomingRequest
    ) -> None:
        await self.may_answer.wait()


@pytest.mark.parametrize("taker", ["requests", "arrivals", "service"])
async def test_requests_of_closed_channels_are_bounded(taker: str) -> None:
    """HR-51: they count as waiting no more, and whoever has to take them is busy."""
    limits = anyssh.Limits(receive_memory=4 * MIB, channels=64)
    config = anyssh.SessionConfig(limits=limits)
    may_take = Busy.may_answer = anyio.Event()
    services: dict[type[anyssh.SessionService], Any] = {Busy: None} if taker == "service" else {}
    taken: list[Any] = []

    async def slow(channel: anyssh.Channel) -> None:
        waiting: Any = channel.arrivals() if taker == "arrivals" else channel.requests()
        await may_take.wait()
        taken.extend([each async for each in waiting])

    async def ask_and_close(client: anyssh.Session) -> None:
        async with await client.open_channel() as channel:
            for _ in range(4):
                await channel.request(f"{taker}@example.com", bytes(100 * KIB), want_reply=False)

    async with (
        session_pair(server_config=config, server_services=services) as (client, server),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server.serve, slow)
        opened = 0

        async def open_all() -> None:
            nonlocal opened
            for _ in range(30):
                await ask_and_close(client)
                opened += 1

        with pytest.raises(anyssh.ChannelOpenError) as refused:
            await open_all()
        assert refused.value.reason == anyssh.ChannelOpenFailureReason.RESOURCE_SHORTAGE
        assert opened in range(10, 13)
        may_take.set()
        await settle()
        assert len(taken) == (0 if taker == "service" else 4 * opened)
        await ask_and_close(client)
        group.cancel_scope.cancel()


async def test_requests_at_services_are_bounded_whoever_closes_their_channels() -> None:
    """HR-51: a handler closes its channel upon EOF, and the peer never closes it."""
    limits = anyssh.Limits(receive_memory=4 * MIB, channels=64)
    config = anyssh.SessionConfig(limits=limits)
    Busy.may_answer = anyio.Event()
    async with (
        session_pair(server_config=config, server_services={Busy: None}) as (client, server),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server.serve, echo)
        client._connection.handlers[MessageNumber.CHANNEL_CLOSE] = do_nothing

        async def open_all() -> None:
            for _ in range(30):
                channel = await client.open_channel()
                for _ in range(4):
                    await channel.request("service@example.com", bytes(100 * KIB), want_reply=False)
                await channel.send_eof()
                await settle()

        with pytest.raises(anyssh.ChannelOpenError):
            await open_all()
        assert not server.channels
        assert len(server.services[-1]._requests) * 100 * KIB < 5 * MIB
        group.cancel_scope.cancel()


async def test_opens_refused_because_of_closed_channels_are_noise() -> None:
    """HR-29: each costs a look at all of these channels."""
    limits = anyssh.Limits(receive_memory=4 * MIB, channels=8, noise_messages=20, noise_rate=1)
    config = anyssh.SessionConfig(limits=limits)
    async with (
        session_pair(server_config=config) as (client, server),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server.serve, lambda channel: anyio.sleep_forever())
        for _ in range(8):
            await fill_and_close(client, b"x")
        await settle()
        for _ in range(20):
            with pytest.raises(anyssh.ChannelOpenError):
                await client.open_channel()
        with pytest.raises(anyssh.Disconnected, match="messages without effect"):
            await client.open_channel()
        group.cancel_scope.cancel()


async def test_who_drops_closed_channels_need_not_read_them() -> None:
    limits = anyssh.Limits(receive_memory=4 * MIB, channels=64)
    config = anyssh.SessionConfig(limits=limits)
    async with (
        session_pair(server_config=config) as (client, server),
        anyio.create_task_group() as group,
    ):

        async def accept_only() -> None:
            async for opening in server.incoming_channels():
                await opening.accept()

        group.start_soon(accept_only)
        for number in range(200):
            await fill_and_close(client, bytes(50 * KIB))
            if number % 50 == 0:
                gc.collect()
        group.cancel_scope.cancel()


async def test_closed_channels_that_were_read_leave_nothing() -> None:
    """Not even where the peer opens none, as with commands that a client runs one after another."""
    config = anyssh.SessionConfig(limits=anyssh.Limits(channels=8))
    async with session_pair(client_config=config) as (client, server):
        for _ in range(40):
            ours, theirs = await channel_pair(client, server)
            await theirs.send(b"x")
            await theirs.aclose()
            await settle()
            assert await ours.receive() == b"x"
            await ours.aclose()
        leftovers = client._leftovers
        assert leftovers is not None
        assert len(leftovers._channels) <= 8


async def fill_and_close(session: anyssh.Session, data: bytes) -> None:
    async with await session.open_channel() as channel:
        await channel.send(data)
