"""Many streams of one session, many sessions without a stream: nothing accumulates (T-58, T-72)."""

from __future__ import annotations

import gc
from functools import partial

import anyio
import pytest
from anyio.abc import ByteStream, ByteStreamConnectable

from anyssh import Limits, SessionState
from tests.protocol.test_reconnect_soak import resident_bytes

from .ends import Call, receive_exactly, settle
from .life_support import _open_files
from .network import open_channel_pair
from .test_reconnectable_sessions import House, config, house, lose, server_with

KIB = 1024
MIB = 1024 * KIB


class Cuttable(ByteStreamConnectable):
    """Connects over TCP, and lets the last stream be cut."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.stream: ByteStream | None = None

    async def connect(self) -> ByteStream:
        self.stream = await anyio.connect_tcp("127.0.0.1", self.port)
        return self.stream

    async def cut(self) -> None:
        assert self.stream is not None
        await anyio.aclose_forcefully(self.stream)


async def go_on_over_many_streams(count: int) -> None:
    """Lose a stream with bytes on their way, again and again; compare what there is in between."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        connector = Cuttable(port)
        server = server_with()
        async with house(server=server) as place:
            place.group.start_soon(server.serve, listener, place._handle)
            client, at_server, _ = await place.connect(stream=await connector.connect())
            ours, theirs = await open_channel_pair(client, at_server)
            seen: list[tuple[int, int, int]] = []
            for number in range(count):
                word = b"%08d" % number
                await ours.send(word)
                await theirs.send(word)
                await connector.cut()
                await client.wait_disconnected()
                await ours.send(word)
                await theirs.send(word)
                # By hand, as a client that looks by itself waits for a while, by chance.
                await client.reconnect(await connector.connect())
                assert await receive_exactly(theirs, 16) == word * 2
                assert await receive_exactly(ours, 16) == word * 2
                if number % 10 == 9:
                    await settle()
                    gc.collect()
                    tasks = len(anyio.get_running_tasks())
                    seen.append((tasks, len(_open_files()), len(gc.get_objects())))
            assert client.metrics.reconnections == at_server.metrics.reconnections == count
            assert len(place.store) == 1
            half = seen[len(seen) // 2 :]
            assert len({tasks for tasks, _, _ in half}) == 1, seen
            assert max(files for _, files, _ in half) - min(files for _, files, _ in half) <= 2, (
                seen
            )
            # A single core has more objects than this for each stream.
            assert half[-1][2] - half[0][2] < 10 * count, seen
            place.group.cancel_scope.cancel()


async def test_nothing_adds_up_over_many_streams() -> None:
    await go_on_over_many_streams(100)


@pytest.mark.nightly
@pytest.mark.timeout(600)
async def test_nothing_adds_up_over_very_many_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    from . import test_reconnectable_sessions

    monkeypatch.setattr(test_reconnectable_sessions, "LIMIT", 400)
    await go_on_over_many_streams(500)


async def lose_many_sessions(place: House, count: int, limits: Limits) -> int:
    """Let servers send far too much to clients that are not there; return what is kept."""
    lost = []
    for number in range(count):
        client, server, stream = await place.connect(f"user{number}", config=config(limits))
        ours, theirs = await open_channel_pair(client, server)
        await lose(client, server, stream=stream)
        lost.append((client, server, ours, theirs))
    gc.collect()
    before = resident_bytes()
    calls = [Call(place.group, partial(theirs.send, bytes(4 * MIB))) for _, _, _, theirs in lost]
    await settle()
    assert not any(call.is_done for call in calls)
    growth = resident_bytes() - before
    kept = sum(server._kept_bytes for _, server, _, _ in lost)
    assert kept <= count * (limits.pending_output + 64 * KIB)
    client, _, ours, _ = lost[-1]
    await client.reconnect(await place.network.connect())
    assert await receive_exactly(ours, 4 * MIB) == bytes(4 * MIB)
    await calls[-1].result()
    assert all(server.state is SessionState.DISCONNECTED for _, server, _, _ in lost[:-1])
    return growth


async def test_senders_wait_for_clients_that_are_not_there() -> None:
    """T-58, HR-67."""
    limits = Limits(close_time=0.1, disconnect_time=0.1)
    async with house(config=config(limits)) as place:
        await lose_many_sessions(place, 5, limits)
        place.group.cancel_scope.cancel()


@pytest.mark.nightly
@pytest.mark.timeout(300)
async def test_a_hundred_clients_that_are_not_there_cost_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """T-58: besides what their senders hold themselves."""
    from . import test_reconnectable_sessions

    monkeypatch.setattr(test_reconnectable_sessions, "LIMIT", 150)
    limits = Limits(close_time=0.1, disconnect_time=0.1)
    async with house(config=config(limits)) as place:
        growth = await lose_many_sessions(place, 100, limits)
        assert growth <= 100 * (limits.pending_output + 64 * KIB) * 1.1 + 100 * 4 * MIB
        place.group.cancel_scope.cancel()
