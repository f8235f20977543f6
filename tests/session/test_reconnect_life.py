"""Reconnecting that is interrupted: cancelled, left, overtaken, obstructed (HR-73)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStreamConnectable
from anyio.lowlevel import checkpoint

import anyssh
from anyssh import ReconnectFailureReason, SessionState
from anyssh.messages import GlobalRequest
from anyssh.protocol import Phase
from anyssh.session import server_session
from anyssh.testing import Direction, FaultStream, memory_stream_pair

from .ends import Call, receive_exactly, settle
from .life_support import (
    Recorder,
    client_of,
    foreign_cancellation,
    nothing_left_behind,
    run_end,
    server_of,
    wait_for,
)
from .network import open_channel_pair
from .reconnect_support import reconnecting
from .test_cancellation import cancel_after
from .test_reconnectable_sessions import House, config, house, lose, twin_of

LIMIT = 20


async def check_both_ways(ours: anyssh.Channel, theirs: anyssh.Channel, word: bytes) -> None:
    for sender, receiver in ((ours, theirs), (theirs, ours)):
        await sender.send(word)
        assert await receive_exactly(receiver, len(word)) == word


class BadlyClosed(Recorder):
    """A stream that raises when it is closed."""

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            raise OSError("it is closed already")


class Connector(ByteStreamConnectable):
    """Connects to a house when it is let, and shows every stream that it made.

    :ivar gate: kept closed, it lets nobody through
    """

    def __init__(
        self, place: House, *, shielded: bool = False, kind: type[Recorder] = Recorder
    ) -> None:
        self.place = place
        self.shielded = shielded
        self.kind = kind
        self.streams: list[Recorder] = []
        self.gate = anyio.Event()
        self.gate.set()
        self.waiting = anyio.Event()

    def close(self) -> None:
        self.gate, self.waiting = anyio.Event(), anyio.Event()

    async def connect(self) -> Recorder:
        self.waiting.set()
        with anyio.CancelScope(shield=self.shielded):
            await self.gate.wait()
            stream = self.kind(await self.place.network.connect())
        self.streams.append(stream)
        return stream


class Deaf(Recorder):
    """A stream that can end for its reader at once, whoever else runs."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.arrived: list[bytes] = []
        self.has_ended = False
        self.news = anyio.Event()

    async def pump(self) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                self.arrived.append(await self.inner.receive(65536))
                self.news.set()

    def end(self) -> None:
        self.has_ended = True
        self.news.set()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while not self.arrived:
            if self.has_ended:
                raise anyio.EndOfStream
            self.news = anyio.Event()
            await self.news.wait()
        return self.arrived.pop(0)


async def test_a_session_begins_that_lost_its_stream_as_the_client_was_let_in() -> None:
    near, inner = memory_stream_pair()
    far = Deaf(inner)

    async def let_in(attempt: anyssh.AuthAttempt) -> object:
        far.end()
        return attempt.username

    begun = anyio.Event()

    async def body(session: anyssh.ServerSession) -> None:
        begun.set()
        await session.wait_closed()

    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as group:
            server = server_of(authenticate=let_in, config=reconnecting())
            group.start_soon(far.pump)
            group.start_soon(run_end, server.accept(far), body)
            async with client_of(near, config=reconnecting()) as client:
                await client.wait_disconnected()
                near, inner = memory_stream_pair()
                group.start_soon(run_end, server.accept(inner))
                await client.reconnect(near)
                await begun.wait()


# Cancelling


async def test_reconnect_is_cancelled_at_each_await() -> None:
    """HR-73: the session is disconnected and can be asked again, or it has gone on."""
    async with house() as place:
        client, server, stream = await place.connect()
        ours, theirs = await open_channel_pair(client, server)
        seen = set()
        for turns in range(200):
            before = client.metrics.reconnections
            await lose(client, server, stream=stream)
            tried = Recorder(await place.network.connect())
            with anyio.fail_after(LIMIT):
                completed, _ = await cancel_after(turns, partial(client.reconnect, tried))
            state = client.state
            seen.add(state)
            await settle()
            assert client.state is state  # an attempt that was cancelled does not go on
            if state is SessionState.DISCONNECTED:
                assert client.metrics.reconnections == before
                assert tried.closes, turns
                await settle_server(server)
                await client.reconnect(await place.network.connect())
            stream = place.network.streams[-1][0]
            await check_both_ways(ours, theirs, b"%d" % turns)
            assert len(place.store) == 1
            if completed:
                break
        assert completed
        assert turns > 10
        assert seen == {SessionState.DISCONNECTED, SessionState.CONNECTED}


async def settle_server(server: anyssh.ServerSession) -> None:
    """Let a server whose client has given up notice that."""
    if server.state is SessionState.CONNECTED:
        await server.wait_disconnected()
    await settle()


@pytest.mark.parametrize("kind", [Recorder, BadlyClosed])
async def test_a_call_in_the_wrong_state_closes_its_stream_and_nothing_else(
    kind: type[Recorder],
) -> None:
    async with house() as place:
        client, server, stream = await place.connect()
        ours, theirs = await open_channel_pair(client, server)
        unwanted = kind(await place.network.connect())
        with pytest.raises(anyssh.LocalProtocolError, match="connected"):
            await client.reconnect(unwanted)
        assert unwanted.closes == 1
        await lose(client, server, stream=stream)
        near, _ = memory_stream_pair()
        first = Call(place.group, partial(client.reconnect, near))
        await settle()
        unwanted = kind(await place.network.connect())
        with pytest.raises(anyssh.LocalProtocolError, match="another stream"):
            await client.reconnect(unwanted)
        assert unwanted.closes == 1
        near.abort()
        with pytest.raises(anyssh.SSHError):
            await first.result()
        await client.reconnect(await place.network.connect())
        await check_both_ways(ours, theirs, b"all is well")


async def test_a_stream_that_is_given_interrupts_the_making_of_one() -> None:
    """A connectable that hangs does not keep a session from a stream that is there."""
    async with house() as place:
        connector = Connector(place)
        client, server, stream = await place.connect(stream=connector)
        ours, theirs = await open_channel_pair(client, server)
        connector.close()
        await lose(client, server, stream=stream)
        await connector.waiting.wait()
        await client.reconnect(await place.network.connect())
        await check_both_ways(ours, theirs, b"all is well")


@pytest.mark.parametrize("kind", [Recorder, BadlyClosed])
async def test_a_stream_that_was_made_in_vain_is_closed(kind: type[Recorder]) -> None:
    """What is given counts, should both come at the same time."""
    async with house() as place:
        connector = Connector(place, shielded=True, kind=kind)
        client, server, stream = await place.connect(stream=connector)
        ours, theirs = await open_channel_pair(client, server)
        connector.close()
        await lose(client, server, stream=stream)
        await connector.waiting.wait()
        call = Call(place.group, partial(client.reconnect, await place.network.connect()))
        await settle()
        connector.gate.set()
        await call.result()
        assert [stream.closes for stream in connector.streams[1:]] == [1]
        await check_both_ways(ours, theirs, b"all is well")


async def test_a_connectable_whose_own_wait_was_cancelled_is_asked_again() -> None:
    class Failing(Connector):
        async def connect(self) -> Recorder:
            stream = await super().connect()
            if len(self.streams) == 2:
                raise foreign_cancellation()
            return stream

    async with house() as place:
        client, server, stream = await place.connect(stream=Failing(place))
        ours, theirs = await open_channel_pair(client, server)
        await lose(client, server, stream=stream)
        await check_both_ways(ours, theirs, b"all is well")


# Leaving


@asynccontextmanager
async def entered(
    place: House, transport: Any
) -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.ServerSession]]:
    credentials = anyssh.ClientCredentials("alice", password="wonderland")
    async with anyssh.ClientSession.connect(
        transport,
        credentials=credentials,
        verify_host=anyssh.InsecureAcceptAnyHostKey(),
        config=config(),
    ) as session:
        while not place.sessions:
            await settle()
        yield session, place.sessions[-1]


async def _left_while_disconnected(place: House) -> None:
    transport = await place.network.connect()
    async with entered(place, transport) as (client, server):
        await lose(client, server, stream=transport)


async def _left_while_an_attempt_runs(place: House) -> None:
    transport = await place.network.connect()
    near, far = memory_stream_pair()
    tried = Recorder(near)
    async with entered(place, transport) as (client, server):
        await lose(client, server, stream=transport)
        Call(place.group, partial(client.reconnect, tried))
        assert await far.receive()
    assert tried.closes == 1


async def _left_while_it_looks(place: House) -> None:
    connector = Connector(place)
    async with entered(place, connector) as (client, server):
        connector.close()
        await lose(client, server, stream=connector.streams[0].inner)
        await connector.waiting.wait()
    assert [stream.closes for stream in connector.streams] == [1]


async def _left_while_the_connectable_cannot_be_cancelled(place: House) -> None:
    connector = Connector(place, shielded=True)
    async with entered(place, connector) as (client, server):
        connector.close()
        await lose(client, server, stream=connector.streams[0].inner)
        await connector.waiting.wait()
        Call(place.group, client.aclose)
        await client.wait_closed()
        connector.gate.set()
    # The stream that came too late says no more than who we are.
    late = connector.streams[1]
    assert late.closes == 1
    assert late.sent.startswith(b"SSH-2.0-")
    assert client.metrics.reconnections == 0
    assert client.state is SessionState.CLOSED


@pytest.mark.parametrize(
    "scene",
    [
        _left_while_disconnected,
        _left_while_an_attempt_runs,
        _left_while_it_looks,
        _left_while_the_connectable_cannot_be_cancelled,
    ],
)
async def test_leaving_leaves_nothing_behind(scene: Callable[[House], Awaitable[None]]) -> None:
    async with house() as place:
        await settle()
        async with nothing_left_behind():
            await scene(place)
            for session in place.sessions:
                # Its client is gone for good; nobody waits for the end of its time.
                await session.aclose()
            for _ in range(5):
                await settle()
        assert len(place.store) == 0


async def test_a_server_that_is_stopped_leaves_nothing_behind() -> None:
    """Sessions without a stream end with the task that serves them, in every state."""
    waits = anyio.Event()

    async def hesitate(session: anyssh.ServerSession, address: object) -> bool:
        waits.set()
        await anyio.sleep_forever()
        return True

    async with nothing_left_behind():
        async with house(authorize_reconnect=hesitate) as place:
            first = await place.connect("a")
            await lose(*first[:2], stream=first[2])
            second = await place.connect("b")
            await lose(*second[:2], stream=second[2])
            Call(place.group, partial(second[0].reconnect, await place.network.connect()))
            await waits.wait()
        for near, far in place.network.streams:
            with pytest.raises(anyio.ClosedResourceError):
                await far.send(b"x")
            with pytest.raises(anyio.ClosedResourceError):
                await near.send(b"x")


# What applications of servers say


async def _refuse(session: anyssh.ServerSession, address: object) -> bool:
    return False


async def _raise(session: anyssh.ServerSession, address: object) -> bool:
    raise RuntimeError("the directory is down")


async def _hang(session: anyssh.ServerSession, address: object) -> bool:
    await anyio.sleep_forever()
    return True


async def _something_true(session: anyssh.ServerSession, address: object) -> Any:
    return "yes"


async def _cancelled(session: anyssh.ServerSession, address: object) -> bool:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep_forever()
    return False


@pytest.mark.parametrize("says_no", [_refuse, _raise, _hang, _something_true, _cancelled])
async def test_only_true_lets_a_session_go_on(
    says_no: Callable[..., Awaitable[bool]], caplog: pytest.LogCaptureFixture
) -> None:
    """HR-64: whatever else comes of asking, the session stays as it was."""
    answers = [says_no]

    async def ask(session: anyssh.ServerSession, address: object) -> bool:
        if answers:
            return await answers.pop()(session, address)
        return True

    limits = anyssh.Limits(handler_time=0.2, close_time=0.1)
    async with house(authorize_reconnect=ask, config=config(limits)) as place:
        client, server, stream = await place.connect()
        ours, theirs = await open_channel_pair(client, server)
        await lose(client, server, stream=stream)
        with pytest.raises(anyssh.ReconnectError) as refused:
            await client.reconnect(await place.network.connect())
        assert refused.value.reason == ReconnectFailureReason.UNKNOWN_SERVER_FAILURE
        assert server.state is SessionState.DISCONNECTED
        await client.reconnect(await place.network.connect())
        await check_both_ways(ours, theirs, b"at last")


async def test_a_client_that_gives_up_while_it_is_judged_can_come_again() -> None:
    """A stream that ends while the application is asked is no stream to go on over."""
    gates = [anyio.Event()]
    asked = anyio.Event()

    async def hesitate(session: anyssh.ServerSession, address: object) -> bool:
        asked.set()
        if gates:
            await gates.pop().wait()
        return True

    (gate,) = gates
    limits = anyssh.Limits(authentication_time=0.3, close_time=0.1, disconnect_time=0.1)
    async with house(authorize_reconnect=hesitate, config=config(limits)) as place:
        client, server, stream = await place.connect()
        ours, theirs = await open_channel_pair(client, server)
        await lose(client, server, stream=stream)
        with pytest.raises(anyssh.SSHError):
            await client.reconnect(await place.network.connect())
        gate.set()
        await settle()
        await client.reconnect(await place.network.connect())
        await check_both_ways(ours, theirs, b"once more")


async def test_a_client_whose_stream_breaks_while_it_is_judged_comes_again() -> None:
    """Its session is found, but not free yet; a client that looks by itself does not give up."""
    asked = anyio.Event()
    gate = anyio.Event()

    async def hesitate(session: anyssh.ServerSession, address: object) -> bool:
        asked.set()
        await gate.wait()
        return True

    async with house(authorize_reconnect=hesitate) as place:
        client, server, stream = await place.connect(stream=place.network)
        ours, theirs = await open_channel_pair(client, server)
        await lose(client, server, stream=stream)
        await asked.wait()
        count = len(place.network.streams)
        place.network.streams[-1][0].abort()
        await wait_for(lambda: len(place.network.streams) >= count + 2)
        gate.set()
        await check_both_ways(ours, theirs, b"at last")


async def test_a_session_that_ends_while_it_is_judged_is_not_gone_on_with() -> None:
    async def end(session: anyssh.ServerSession, address: object) -> bool:
        await session.aclose()
        return True

    async with house(authorize_reconnect=end) as place:
        client, server, stream = await place.connect()
        await lose(client, server, stream=stream)
        with pytest.raises(anyssh.ReconnectError):
            await client.reconnect(await place.network.connect())
        assert server.state is SessionState.CLOSED
        assert len(place.store) == 0


# Taking over


async def test_a_client_comes_back_before_its_loss_was_noticed() -> None:
    """T-54: the old stream wakes up afterwards, and nothing that it brings counts."""
    async with house() as place:
        near, far = memory_stream_pair()
        frozen = FaultStream(far)
        place.group.start_soon(_start, place, frozen)
        client, server, _ = await place.connect(stream=near)
        ours, theirs = await open_channel_pair(client, server)
        frozen.stall(Direction.RECEIVE)
        await ours.send(b"lost, then sent again")
        near.abort()
        await client.wait_disconnected()
        assert server.state is SessionState.CONNECTED
        await theirs.send(b"into the void")
        await client.reconnect(await place.network.connect())
        frozen.release(Direction.RECEIVE)
        assert await receive_exactly(theirs, 21) == b"lost, then sent again"
        assert await receive_exactly(ours, 13) == b"into the void"
        await settle()
        await check_both_ways(ours, theirs, b"and on")
        assert server.state is SessionState.CONNECTED
        assert server.metrics.reconnections == client.metrics.reconnections == 1


async def test_the_application_is_asked_once_the_old_stream_is_closed() -> None:
    """HR-64: nothing that is still on its way there can come in between."""
    order: list[str] = []

    class Slow(Recorder):
        async def aclose(self) -> None:
            await settle()  # all that the new stream could bring about has happened
            order.append("closed")
            await super().aclose()

    async def ask(session: anyssh.ServerSession, address: object) -> bool:
        order.append("asked")
        return True

    async with house(authorize_reconnect=ask) as place:
        near, far = memory_stream_pair()
        frozen = FaultStream(Slow(far))
        place.group.start_soon(_start, place, frozen)
        client, server, _ = await place.connect(stream=near)
        ours, theirs = await open_channel_pair(client, server)
        frozen.stall(Direction.RECEIVE)
        near.abort()
        await client.wait_disconnected()
        await client.reconnect(await place.network.connect())
        assert order == ["closed", "asked"]
        await check_both_ways(ours, theirs, b"and on")


async def _start(place: House, stream: Any) -> None:
    await place.network._serving.wait()
    assert place.network._handler is not None
    await place.network._handler(stream)


async def cut_off_from(
    place: House, end: type[Recorder]
) -> tuple[anyssh.ClientSession, anyssh.Channel, anyssh.Channel]:
    """Give a client that has lost a stream whose far end is special, and a channel's two ends."""
    near, far = memory_stream_pair()
    place.group.start_soon(_start, place, end(far))
    client, server, _ = await place.connect(stream=near)
    ours, theirs = await open_channel_pair(client, server)
    near.abort()
    await client.wait_disconnected()
    return client, ours, theirs


async def test_an_old_stream_that_cannot_be_closed_keeps_nobody_waiting_for_long() -> None:
    """HR-64: a stream whose end hangs."""

    class Stubborn(Recorder):
        async def aclose(self) -> None:
            await anyio.sleep_forever()

    async with house() as place:
        client, ours, theirs = await cut_off_from(place, Stubborn)
        with anyio.fail_after(5):
            await client.reconnect(await place.network.connect())
        await check_both_ways(ours, theirs, b"and on")


async def test_a_client_is_refused_while_its_old_stream_does_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HR-64: nobody waits for it beyond a time, nor goes on before it has ended."""
    monkeypatch.setattr(server_session, "TAKE_OVER_TIME", 0.05)
    may_close = anyio.Event()

    class Shielded(Recorder):
        async def aclose(self) -> None:
            with anyio.CancelScope(shield=True):
                await may_close.wait()
            await super().aclose()

    async with house() as place:
        client, ours, theirs = await cut_off_from(place, Shielded)
        try:
            with anyio.fail_after(5), pytest.raises(anyssh.ReconnectError) as caught:
                await client.reconnect(await place.network.connect())
        finally:
            may_close.set()
        assert caught.value.reason == ReconnectFailureReason.UNKNOWN_SERVER_FAILURE
        await client.reconnect(await place.network.connect())
        await check_both_ways(ours, theirs, b"and on")


async def test_a_client_that_reads_nothing_does_not_hold_up_its_session() -> None:
    """A stream that cannot be written to is of no use to the session that it is for."""
    async with house() as place:
        client, server, stream = await place.connect()
        ours, theirs = await open_channel_pair(client, server)
        await lose(client, server, stream=stream)
        near, far = memory_stream_pair()
        watched = Recorder(far)
        slow = FaultStream(watched)
        place.group.start_soon(_start, place, slow)
        twin = twin_of(client, "SSH-2.0-dev-tunnels-ssh_3.12.42")
        while not twin._reconnector.is_awaiting_reply:
            await near.send(twin.data_to_send(anyio.current_time()))
            for byte in await near.receive():
                phase = twin.phase
                twin.receive_data(bytes([byte]), anyio.current_time())
                if twin.phase is not phase is Phase.KEY_EXCHANGE:
                    # The answer to this is what does not get through.
                    twin.transport.send(GlobalRequest("early@example.com", True).encode())
        slow.stall(Direction.SEND)
        await near.send(twin.data_to_send(anyio.current_time()))
        with pytest.raises(anyio.EndOfStream):
            await near.receive()
        assert watched.closes == 1
        assert server.state is SessionState.DISCONNECTED
        await client.reconnect(await place.network.connect())
        await check_both_ways(ours, theirs, b"and on")


async def test_a_stream_is_not_lost_when_its_server_stops_while_it_changes_hands() -> None:
    """At each turn of the hand-over, whoever has the stream closes it."""
    seen = set()
    for turns in range(60):
        async with house() as place:
            client, server, stream = await place.connect()
            await lose(client, server, stream=stream)
            call = Call(place.group, partial(client.reconnect, await place.network.connect()))
            for _ in range(turns):
                await checkpoint()
            place.serving.cancel()
            await call.done.wait()
            await settle()
            for _, far in place.network.streams:
                with pytest.raises(anyio.ClosedResourceError):
                    await far.send(b"x")
            seen.add(server.metrics.reconnections)
            if server.metrics.reconnections and turns > 40:
                break
    assert seen == {0, 1}
