"""Sessions that lose their stream and are resumed over another."""

from __future__ import annotations

import gc
import weakref

import anyio
import pytest

from anyssh import SessionState
from anyssh.testing import Direction, FaultStream

from .network import RECONNECTING, network_pair, open_channel_pair


@pytest.mark.parametrize("by_itself", [True, False])
async def test_a_session_goes_on_over_another_stream(by_itself: bool) -> None:
    with anyio.fail_after(30):
        async with network_pair(by_itself=by_itself) as (network, client, server):
            channel, theirs = await open_channel_pair(client, server)
            await channel.send(b"one ")
            network.cut()
            await client.wait_disconnected() if not by_itself else None
            await channel.send(b"two ")
            if not by_itself:
                assert client.state is SessionState.DISCONNECTED
                await client.reconnect(await network.connect())
            await channel.send(b"three")
            await channel.send_eof()
            assert b"".join([chunk async for chunk in theirs]) == b"one two three"
            await theirs.send(b"back")
            assert await channel.receive() == b"back"
            assert client.metrics.reconnections == server.metrics.reconnections == 1
            assert client.state is server.state is SessionState.CONNECTED


async def test_a_silent_peer_costs_the_stream_and_not_the_session() -> None:
    """HR-59: a stream on which nobody answers is given up; the session goes on over another."""
    impatient = RECONNECTING.replace(keep_alive_interval=0.05)
    with anyio.fail_after(30):
        async with network_pair(by_itself=False, config=impatient) as (network, client, server):
            channel, theirs = await open_channel_pair(client, server)
            network.cut()
            await client.wait_disconnected()
            faulty = FaultStream(await network.connect())
            await client.reconnect(faulty)
            faulty.stall(Direction.RECEIVE)
            await theirs.send(b"unheard ")
            error = await client.wait_disconnected()
            assert "did not answer keep-alive, 3 times" in str(error)
            assert client.state is SessionState.DISCONNECTED
            await client.reconnect(await network.connect())
            await theirs.send(b"heard")
            await theirs.send_eof()
            assert b"".join([chunk async for chunk in channel]) == b"unheard heard"
            assert client.metrics.reconnections == 2


async def test_a_lost_stream_is_gone_although_nobody_reads_the_facts() -> None:
    """What a fact says of a stream must not keep the stream, its keys and its buffers."""
    with anyio.fail_after(30):
        async with network_pair(by_itself=False) as (network, client, server):
            lost = []
            for _ in range(2):
                lost += [weakref.ref(client._core), weakref.ref(server._core)]
                network.cut()
                await client.wait_disconnected()
                await client.reconnect(await network.connect())
                # The server's last receipt for the stream before comes with its next message.
                channel, theirs = await open_channel_pair(client, server)
                await channel.aclose()
                await theirs.aclose()
            await anyio.wait_all_tasks_blocked()
            gc.collect()
            assert [core() for core in lost] == [None] * len(lost)
