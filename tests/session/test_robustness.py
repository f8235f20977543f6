"""Small ways of harming a session, one test each."""

from __future__ import annotations

import array
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

import anyssh
from anyssh.messages import ChannelOpen
from anyssh.protocol import Phase, rekeying
from anyssh.protocol.events import ConnectionTerminated
from anyssh.testing import MemoryStream, memory_stream_pair, session_pair

from .life_support import Others, RawPeer, foreign_cancellation, run_end, server_of


@asynccontextmanager
async def echoing() -> AsyncIterator[anyssh.ClientSession]:
    """A client whose server echoes every channel."""

    async def echo(channel: anyssh.Channel) -> None:
        async for chunk in channel:
            await channel.send(chunk)
        await channel.send_eof()

    async with session_pair() as (client, server), anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, echo)
        yield client
        tasks.cancel_scope.cancel()


async def test_wide_views_are_sent_byte_by_byte() -> None:
    numbers = array.array("I", range(1000))
    async with echoing() as client, await client.open_channel() as channel:
        await channel.send(memoryview(numbers))  # type: ignore[arg-type]
        await channel.send_eof()
        assert b"".join([chunk async for chunk in channel]) == numbers.tobytes()


async def test_a_payload_that_no_peer_takes_is_refused_here() -> None:
    async with echoing() as client:
        with pytest.raises(anyssh.LocalProtocolError, match="at most"):
            await client.request("big", bytes(300_000))
        with pytest.raises(anyssh.LocalProtocolError, match="at most"):
            await client.open_channel("big", payload=bytes(300_000))
        async with await client.open_channel() as channel:
            with pytest.raises(anyssh.LocalProtocolError, match="at most"):
                await channel.request("big", bytes(300_000))
            await channel.send(b"still here")
            assert await channel.receive() == b"still here"


async def test_messages_of_our_own_are_not_answers_that_the_peer_leaves_unread() -> None:
    async with session_pair() as (client, server), anyio.create_task_group() as tasks:
        for _ in range(12):
            await client.request("notice", bytes(200_000), want_reply=False)
        # The server's question reaches a client whose own messages still wait to be written.
        tasks.start_soon(client.wait_closed)
        tasks.start_soon(server.wait_closed)
        assert not await server.request("question")
        assert not await client.request("question")
        tasks.cancel_scope.cancel()


async def test_a_peer_that_takes_one_byte_at_a_time_stops_nobody() -> None:
    others = Others()
    config = anyssh.SessionConfig(max_packet_size=1024, window_size=1024 * 1024)
    async with (
        session_pair(server_config=config) as (client, server),
        anyio.create_task_group() as tasks,
    ):

        async def discard(channel: anyssh.Channel) -> None:
            async for _ in channel:
                pass

        tasks.start_soon(server.serve, discard)
        async with await client.open_channel() as channel:
            tasks.start_soon(others.run)
            before = others.turns
            await channel.send(bytes(512 * 1024))
            # 512 messages of 1 KiB are 8 turns of 64; how turns interleave is the loop's affair.
            assert others.turns - before >= 4
        tasks.cancel_scope.cancel()


async def test_a_peer_that_writes_to_many_channels_leaves_others_their_turn() -> None:
    """HR-05: between two turns of anybody else, few of its channels' tasks have theirs."""
    woken = received = 0
    turns: list[int] = []

    async def count() -> None:
        while True:
            before = woken
            await anyio.lowlevel.checkpoint()
            turns.append(woken - before)

    async def take(channel: anyssh.Channel) -> None:
        nonlocal woken, received
        async for chunk in channel:
            woken += 1
            received += len(chunk)

    async with session_pair() as (client, server), anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, take)
        channels = [await client.open_channel() for _ in range(300)]
        tasks.start_soon(count)
        for _ in range(8):
            for channel in channels:
                assert channel.send_nowait(b"x") == 1
        with anyio.fail_after(30):
            while received < 8 * len(channels):  # noqa: ASYNC110
                await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    # Trio runs the tasks of a turn in any order, so two turns may come together.
    assert 0 < max(turns) <= 2 * 64


async def test_used_up_keys_end_calls_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        session_pair() as (client, server),
        await open_accepted(client, server) as channel,
    ):
        monkeypatch.setattr(rekeying, "MAX_BYTES", 1)
        client._core._rekeying.keys_changed(anyio.current_time())
        with anyio.fail_after(30), pytest.raises((anyssh.SSHError, anyio.BrokenResourceError)):
            await channel.request("anything")
        with anyio.fail_after(30), pytest.raises(anyio.BrokenResourceError):
            await channel.send(bytes(4 * 1024 * 1024))
        with anyio.fail_after(30), pytest.raises(anyssh.SSHError):
            await client.request("anything")


async def open_accepted(
    client: anyssh.ClientSession, server: anyssh.ServerSession
) -> anyssh.Channel:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.accept_channel)
        return await client.open_channel()


class Unsure:
    """A verdict that cannot be judged."""

    def __bool__(self) -> bool:
        raise RuntimeError("cannot say")


@pytest.mark.parametrize("kind", ["unsure", "coroutine", "not implemented", "zero", "many prompts"])
async def test_a_verdict_that_is_a_mistake_lets_nobody_in(kind: str) -> None:
    async def other() -> bool:
        return True

    async def authenticate(attempt: anyssh.AuthAttempt) -> object:
        if kind == "unsure":
            return Unsure()
        if kind == "coroutine":
            mistake = other()
            mistake.close()
            return mistake
        if kind == "many prompts":
            return anyssh.Challenge(prompts=[anyssh.Prompt("?")] * 17)
        return NotImplemented if kind == "not implemented" else 0

    with pytest.raises(anyssh.AuthenticationError):
        async with session_pair(
            authenticate=authenticate, credentials=anyssh.ClientCredentials("a", password="b")
        ):
            pass


async def test_a_callback_whose_own_wait_was_cancelled_refuses() -> None:
    async def authenticate(attempt: anyssh.AuthAttempt) -> object:
        raise foreign_cancellation()

    with pytest.raises(anyssh.AuthenticationError):
        async with session_pair(
            authenticate=authenticate, credentials=anyssh.ClientCredentials("a", password="b")
        ):
            pass


@pytest.mark.parametrize("over_tcp", [False, True])
async def test_a_violation_behind_an_attempt_is_answered_before_the_verdict(over_tcp: bool) -> None:
    """HR-01, HR-05: output that is held for the verdict does not hold up the DISCONNECT."""

    async def never_decide(attempt: anyssh.AuthAttempt) -> object:
        await anyio.sleep_forever()
        return None

    async with anyio.create_task_group() as tasks:
        near, far = await tcp_pair() if over_tcp else memory_stream_pair()
        tasks.start_soon(run_end, server_of(authenticate=never_decide).accept(far))
        peer = RawPeer(near)
        await peer.exchange_keys()
        peer.core.client_authentication.request_password("alice", "wonderland")
        await peer.send(ChannelOpen("session", 0, 1024, 1024).encode())
        await peer.until(lambda: peer.core.phase is Phase.TERMINATED)
        (end,) = [each for each in peer.events if isinstance(each, ConnectionTerminated)]
        assert isinstance(end.error, anyssh.Disconnected)
        assert end.error.reason == anyssh.DisconnectReason.PROTOCOL_ERROR
        await near.aclose()


async def tcp_pair() -> tuple[ByteStream, ByteStream]:
    """Return two connected sockets of this machine."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        near = await anyio.connect_tcp("127.0.0.1", listener.extra(SocketAttribute.local_port))
        accepted: list[ByteStream] = []
        async with anyio.create_task_group() as accepting:

            async def accept(stream: ByteStream) -> None:
                accepted.append(stream)
                accepting.cancel_scope.cancel()

            await listener.serve(accept)
        return near, accepted[0]


async def test_a_socket_that_is_closed_already() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        stream = await anyio.connect_tcp("127.0.0.1", listener.extra(SocketAttribute.local_port))
        await stream.aclose()
        with pytest.raises(anyssh.SSHError):
            async with anyssh.ClientSession.connect(
                stream, verify_host=anyssh.InsecureAcceptAnyHostKey()
            ):
                pass


async def test_a_stream_is_closed_when_a_session_cannot_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    near, far = memory_stream_pair()
    monkeypatch.setattr(sys.modules["anyssh.session.life"], "Core", fail)
    with pytest.raises(ZeroDivisionError):
        async with anyssh.ClientSession.connect(
            near, verify_host=anyssh.InsecureAcceptAnyHostKey()
        ):
            pass
    assert isinstance(far, MemoryStream)
    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
        await far.receive()


async def test_a_channel_that_is_closed_while_keys_are_exchanged_tells_its_status() -> None:
    closed: list[anyssh.ChannelClosed] = []

    async with session_pair() as (client, server), anyio.create_task_group() as tasks:

        async def watch() -> None:
            channel = await server.accept_channel()
            closed.append(await channel.wait_closed())

        tasks.start_soon(watch)
        channel = await client.open_channel()
        client._core.start_rekey(anyio.current_time())
        client._advance()
        channel._close_now(exit_status=7)
        assert client._connection.held_size
        with anyio.fail_after(30):
            await client.aclose()
    assert [end.exit_status for end in closed] == [7]
