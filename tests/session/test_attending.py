"""Channels without a task: attendants, and what is decided or sent together."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import select
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from traceback import walk_stack
from typing import Any, ClassVar, cast
from unittest.mock import Mock

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketListener, TaskGroup

import anyssh
from anyssh.forwarding import carried, payloads
from anyssh.forwarding.listening import Accepting, serve_connections
from anyssh.forwarding.relay import Relays, SocketRelay
from anyssh.forwarding.sockets import ConnectedSocket
from anyssh.forwarding.turns import Turns
from anyssh.forwarding.watching import NOTHING, READING, Watched, _TaskWatcher, make_watcher
from anyssh.protocol import core
from anyssh.protocol.connection import MESSAGES_PER_TURN
from anyssh.session._direct import DirectWriter
from anyssh.testing import memory_stream_pair, session_pair
from anyssh.wire import Buffer
from tests.session import test_forwarding as forwarding
from tests.session.ends import (
    ALICE,
    Call,
    channel_pair,
    make_server,
    pinned,
    receive_all,
    settle,
)
from tests.session.life_support import wait_for
from tests.session.test_delivery import Sink, noise
from tests.session.test_sockets import sockets

MIB = 1024 * 1024
LIMIT = 20.0


class Attendant(Sink):
    """Notes what it is told, and sends what it is given as far as the channel takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.channel: anyssh.Channel | None = None
        self.rest = b""
        self.opened = anyio.Event()

    def channel_opened(self) -> None:
        self.told.append("opened")
        self.opened.set()

    def channel_refused(self, error: anyssh.ChannelOpenError) -> None:
        self.told.append(f"refused: {error.description}")

    def channel_writable(self) -> None:
        self.told.append("writable")
        self.send_rest()

    def send_rest(self) -> None:
        assert self.channel is not None
        self.rest = self.rest[self.channel.send_nowait(self.rest) :]


async def serve_until_closed(session: anyssh.ServerSession) -> None:
    async with session:
        await session.serve(echo)


async def echo(channel: anyssh.Channel) -> None:
    async for chunk in channel:
        await channel.send(chunk)


@asynccontextmanager
async def sessions() -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.ServerSession]]:
    async with session_pair() as pair:
        with anyio.fail_after(LIMIT):
            yield pair


# One channel


async def test_an_attendant_is_told_all_of_its_channel() -> None:
    async with sessions() as (client, server):
        attendant = Attendant()
        channel = client.open_channel_nowait(attendant, "lamp", payload=b"on")
        with pytest.raises(anyio.BrokenResourceError):
            channel.send_nowait(b"too early")
        far = await server.accept_channel("lamp")
        assert far.open_payload == b"on"
        await far.send(b"light")
        await far.send_eof()
        await settle()
        assert channel.send_nowait(b"dark") == 4
        channel.close()
        assert attendant.told == ["opened", "eof", "closed here"]
        assert attendant.data == b"light"
        assert await receive_all(far) == b"dark"


class DeepAttendant(Attendant):
    """Notes how deep in calls it sends."""

    depths: ClassVar[list[int]] = []

    def send_rest(self) -> None:
        self.depths.append(len(list(walk_stack(None))))
        super().send_rest()


@pytest.mark.parametrize("count", [1, 40])
async def test_attendants_are_told_of_room_once_they_have_sent(count: int) -> None:
    """Told within that, one would send the same bytes again, and others go deeper each."""
    tiny = anyssh.SessionConfig(max_packet_size=1024)
    data = noise(200_000)
    attendants = [DeepAttendant() for _ in range(count)]
    DeepAttendant.depths.clear()
    async with sockets() as (near, far), anyio.create_task_group() as group:
        group.start_soon(serve_until_closed, make_server(config=tiny).accept(far))
        async with anyssh.ClientSession.connect(
            near, credentials=ALICE, verify_host=pinned()
        ) as client:
            for attendant in attendants:
                attendant.channel = await client.open_channel()
                attendant.channel.attend(attendant)
                attendant.rest = data
            for attendant in attendants:
                attendant.send_rest()
            await wait_for(lambda: all(len(one.data) == len(data) for one in attendants))
            assert all(one.data == data for one in attendants)
    assert max(DeepAttendant.depths) - min(DeepAttendant.depths) < 30


class Answering(Attendant):
    """Sends back what it is told."""

    def deliver(self, data: Buffer) -> int:
        self.rest += bytes(data)
        self.send_rest()
        return super().deliver(data)


async def test_an_attendant_sends_nothing_more_once_the_peer_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What came before the goodbye, in the same piece, is told when nothing can be sent any more.

    To try again and again until the channel is closed would hold up that very news for ever.
    """
    tries: list[int] = []

    def send_some(channel: anyssh.Channel, data: memoryview, is_urgent: bool) -> int:
        if channel is near:
            tries.append(len(data))
            assert len(tries) < 10
        return original(channel, data, is_urgent)

    original = anyssh.Channel._send_some
    async with sessions() as (client, server):
        near, far = await channel_pair(client, server)
        attendant = Answering()
        attendant.channel = near
        near.attend(attendant)
        monkeypatch.setattr(anyssh.Channel, "_send_some", send_some)
        with server.together():
            far.send_nowait(b"the last")
            server._send_disconnect(anyssh.DisconnectReason.BY_APPLICATION, "")
        await settle()
        assert attendant.told == ["closed by the peer"]
        assert attendant.data == attendant.rest == b"the last"
    assert tries == [8]


async def test_a_relay_that_its_own_sending_ends_watches_nothing() -> None:
    """Its socket is closed, and the number may soon be that of another."""
    wanted: list[int] = []

    class Notes:
        def watch(self, source: object, watched: Watched, before: int, now: int) -> None:
            wanted.append(now)

    class Breaking:
        closed = None
        turn_size = MIB

        def send_nowait(self, data: Buffer) -> int:
            relay.abort()
            return len(data)

        def attend(self, attendant: object) -> None: ...

        def close(self, signal: str | None) -> None: ...

    ours, theirs = socket.socketpair()
    with ours, theirs:
        relay = SocketRelay(ConnectedSocket(ours), Relays(Notes(), MIB))
        relay.begin(cast("anyssh.Channel", Breaking()))
        assert wanted == [READING]
        theirs.send(b"the end")
        relay.socket_ready(READING)
    assert wanted == [READING, NOTHING]


@pytest.mark.parametrize("received, kept", [(5 * MIB, 32), (MIB // 2, 64), (1, 512)])
def test_what_is_left_of_closed_channels_is_bounded_by_what_it_holds(
    received: int, kept: int
) -> None:
    """HR-51: many that hold little may all wait for their streams."""

    class Ended:
        metrics = anyssh.ChannelMetrics(0, received)

    class Waiting:
        was_aborted = False

        def abort(self) -> None:
            self.was_aborted = True
            relays.forget(cast("SocketRelay", self))

    class NobodyWatches:
        def watch(self, *what: object) -> None: ...

    relays = Relays(NobodyWatches(), MIB)
    waiting = [Waiting() for _ in range(kept + 2)]
    for each in waiting:
        relays.keep(cast("SocketRelay", each), cast("anyssh.Channel", Ended()))
    assert [each.was_aborted for each in waiting] == [True] * 2 + [False] * kept
    for each in waiting:
        relays.forget(cast("SocketRelay", each))
    last = Waiting()
    relays.keep(cast("SocketRelay", last), cast("anyssh.Channel", Ended()))
    assert not last.was_aborted


async def test_a_relay_sends_no_more_small_packets_in_one_turn_than_others_do() -> None:
    """A peer that takes one byte in each would hold up the event loop with what it asks for."""

    class NobodyWatches:
        def watch(self, *what: object) -> None: ...

    data = noise(200_000)
    tiny = anyssh.SessionConfig(max_packet_size=1024)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
        theirs.sendall(data)
        async with session_pair(client_config=tiny) as (client, server):
            near, far = await channel_pair(client, server)
            relay = SocketRelay(ConnectedSocket(ours), Relays(NobodyWatches(), MIB))
            relay.begin(far)
            received = b""
            with anyio.fail_after(LIMIT):
                while len(received) < len(data):
                    before = far.metrics.bytes_sent
                    relay.socket_ready(READING)
                    assert far.metrics.bytes_sent - before <= MESSAGES_PER_TURN * 1024
                    received += await near.receive()
            assert received == data


async def test_a_channel_has_a_slot_for_all_that_it_keeps() -> None:
    """A dictionary for each of 1,024 channels would weigh more than what is in it."""
    async with sessions() as (client, server):
        for channel in await channel_pair(client, server):
            assert vars(channel) == {}


async def test_an_attendant_is_told_of_a_refusal() -> None:
    async with sessions() as (client, server):
        attendant = Attendant()
        client.open_channel_nowait(attendant)
        async for opening in server.incoming_channels():
            opening.reject_nowait(description="no lamps here")
            break
        await settle()
        assert attendant.told == ["refused: no lamps here"]


async def test_an_attendant_is_told_that_the_session_ends_first() -> None:
    attendant = Attendant()
    async with sessions() as (client, _):
        client.open_channel_nowait(attendant)
        await settle()
        assert attendant.told == []
    assert attendant.told == ["closed by the peer"]
    with pytest.raises(anyssh.SSHError):
        client.open_channel_nowait(attendant)


async def test_a_channel_that_is_closed_early_is_closed_when_it_comes() -> None:
    async with sessions() as (client, server):
        attendant = Attendant()
        channel = client.open_channel_nowait(attendant)
        channel.close()
        far = await server.accept_channel()
        await far.wait_closed()
        await settle()
        assert attendant.told == ["closed here"]
        assert client.channels == ()


async def test_an_attendant_that_closes_its_channel_is_told_no_more() -> None:
    class Closing(Attendant):
        def deliver(self, data: Buffer) -> int:
            assert self.channel is not None
            self.channel.close()
            return len(data)

    async with sessions() as (client, server):
        attendant = Closing()
        attendant.channel = client.open_channel_nowait(attendant)
        far = await server.accept_channel()
        await settle()
        with server.together():
            far.send_nowait(b"last words")
            far.send_eof_nowait()
        await settle()
        assert attendant.told == ["opened", "closed here"]


async def test_an_attendant_that_closes_at_once_is_told_once() -> None:
    class Closing(Sink):
        def deliver(self, data: Buffer) -> int:
            far.close()
            return len(data)

    async with sessions() as (client, server):
        near, far = await channel_pair(client, server)
        await near.send(b"bytes")
        await near.send_eof()
        await settle()
        sink = Closing()
        far.deliver_to(sink)
        assert sink.told == ["closed here"]


async def test_an_attendant_that_fails_is_told_that_its_channel_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Attendant):
        def channel_opened(self) -> None:
            raise RuntimeError("a mistake")

    async with sessions() as (client, server):
        attendant = Broken()
        client.open_channel_nowait(attendant)
        far = await server.accept_channel()
        await far.wait_closed()
        assert "a mistake" in caplog.text
        assert attendant.told == ["closed here"]


async def test_an_attendant_sends_on_when_another_task_has_sent() -> None:
    data = noise(5 * MIB)
    async with sessions() as (client, server):
        attendant = Attendant()
        attendant.channel = channel = client.open_channel_nowait(attendant)
        far = await server.accept_channel()
        await settle()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.send_stderr, data)
            await settle()
            attendant.rest = b"bytes"
            attendant.send_rest()
            assert attendant.rest
            received = b""
            while len(received) < len(data):
                received += await far.stderr.receive(MIB)
        assert received == data
        assert await far.receive() == b"bytes"


async def test_a_channel_that_was_refused_is_forgotten() -> None:
    async with sessions() as (client, server):
        attendant = Attendant()
        channel = client.open_channel_nowait(attendant)
        async for opening in server.incoming_channels():
            opening.reject_nowait()
            break
        await settle()
        gone = weakref.ref(channel)
        del channel
        gc.collect()
        assert gone() is None


async def test_an_attendant_sends_on_when_more_is_taken() -> None:
    data = noise(5 * MIB)
    async with sessions() as (client, server):
        attendant = Attendant()
        attendant.channel = client.open_channel_nowait(attendant)
        far = await server.accept_channel()
        await settle()
        attendant.rest = data
        attendant.send_rest()
        assert attendant.rest
        received = b""
        while len(received) < len(data):
            received += await far.receive(MIB)
        assert received == data
        assert attendant.told.count("writable") > 1


async def test_what_was_not_taken_is_delivered_before_what_comes_later() -> None:
    async with sessions() as (client, server):
        near, far = await channel_pair(client, server)
        sink = Sink(lambda size: size // 2)
        far.deliver_to(sink)
        await near.send(b"12345678")
        await near.send(b"90")
        await near.send_eof()
        await settle()
        assert (sink.data, sink.told) == (b"1234", [])
        sink.takes = lambda size: 1
        far.deliver_rest()
        assert (sink.data, sink.told) == (b"12345", [])
        sink.takes = lambda size: size
        far.deliver_rest()
        assert (sink.data, sink.told) == (b"1234567890", ["eof"])


async def test_the_end_is_delivered_after_what_came_before_it() -> None:
    """Another channel's recipient may ask for the rest, while the end is yet to be told."""

    class Asking(Sink):
        def deliver(self, data: Buffer) -> int:
            sink.takes = lambda size: size
            far.deliver_rest()
            return len(data)

    sink = Sink(lambda size: 0)
    async with sessions() as (client, server):
        other, theirs = await channel_pair(client, server)
        near, far = await channel_pair(client, server)
        theirs.deliver_to(Asking())
        far.deliver_to(sink)
        await near.send(b"first")
        await settle()
        with client.together():
            other.send_nowait(b"go on")
            near.send_nowait(b", then")
            near.send_eof_nowait()
        await settle()
        assert (bytes(sink.data), sink.told) == (b"first, then", ["eof"])


async def test_much_that_was_not_taken_is_delivered_in_order() -> None:
    data = noise(MIB - 1)
    async with sessions() as (client, server):
        near, far = await channel_pair(client, server)
        sink = Sink(lambda size: 0)
        far.deliver_to(sink)
        await near.send(data)
        await settle()
        sink.takes = lambda size: size - 1
        far.deliver_rest()
        sink.takes = lambda size: size
        far.deliver_rest()
        assert sink.data == data


# Opens that are decided at once


class Doors(anyssh.SessionService):
    """Opens, refuses or breaks at once, or leaves a channel to a task."""

    activations: ClassVar = tuple(
        anyssh.ServiceActivation(channel_type=name) for name in ("open", "shut", "broken", "slow")
    )

    def on_channel_opening_nowait(self, opening: anyssh.ChannelOpening) -> bool:
        match opening.channel_type:
            case "open":
                opening.accept_nowait()
            case "shut":
                opening.reject_nowait(description="shut")
            case "broken":
                raise RuntimeError("off its hinges")
            case _:
                return False
        return True

    async def on_channel_opening(self, opening: anyssh.ChannelOpening) -> None:
        await opening.reject(description="by a task")


async def test_a_service_may_decide_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async with session_pair(server_services={Doors: None}) as (client, _):
        with anyio.fail_after(LIMIT):
            async with await client.open_channel("open"):
                pass
            for name, why in (("shut", "shut"), ("broken", "internal error"), ("slow", "a task")):
                with pytest.raises(anyssh.ChannelOpenError, match=why):
                    await client.open_channel(name)
    assert "off its hinges" in caplog.text


# What leaves together


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all direct writes to sockets, of both ends."""
    sizes: list[int] = []
    write = DirectWriter.write

    def noted(self: DirectWriter, data: bytes) -> int:
        sizes.append(len(data))
        return write(self, data)

    monkeypatch.setattr(DirectWriter, "write", noted)
    return sizes


@asynccontextmanager
async def over_tcp(**options: Any) -> AsyncIterator[anyssh.ClientSession]:
    async def handle(session: anyssh.ServerSession) -> None:
        await session.wait_closed()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(make_server(**options).serve, listener, handle)
        port = listener.extra(SocketAttribute.local_port)
        with anyio.fail_after(LIMIT):
            async with anyssh.ClientSession.connect(
                await anyio.connect_tcp("127.0.0.1", port), credentials=ALICE, verify_host=pinned()
            ) as client:
                yield client
        tasks.cancel_scope.cancel()


async def test_what_is_sent_together_is_one_write_and_so_are_its_answers(
    writes: list[int],
) -> None:
    attendants = [Attendant() for _ in range(50)]
    async with over_tcp(services={Doors: None}) as client:
        del writes[:]
        with client.together():
            for attendant in attendants:
                client.open_channel_nowait(attendant, "open")
            assert writes == []
        assert len(writes) == 1
        for attendant in attendants:
            await attendant.opened.wait()
        assert len(writes) < len(attendants) / 5


async def test_what_many_tasks_answer_leaves_together(writes: list[int]) -> None:
    async with over_tcp(services={Doors: None}) as client:

        async def open_and_close() -> None:
            for _ in range(20):
                await (await client.open_channel("open")).aclose()

        del writes[:]
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(open_and_close)
        # Of 4,000 messages.
        assert len(writes) < 1000


async def test_a_close_leaves_with_what_is_sent_next(writes: list[int]) -> None:
    async with over_tcp(services={Doors: None}) as client:
        del writes[:]
        for _ in range(40):
            await (await client.open_channel("open")).aclose()
        # Of 160 messages, two at a time.
        assert len(writes) < 100


async def test_what_is_held_leaves_though_the_last_message_had_to_wait_for_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MESSAGES_PER_CALL", "LEAST_MESSAGES_PER_CALL"):
        monkeypatch.setattr(core, name, 1)

    class Holding(Sink):
        def deliver(self, data: Buffer) -> int:
            if data == b"last":
                server._links.current.hold()
                far.send_nowait(b"answer")
            return len(data)

    async with sessions() as (client, server):
        near, far = await channel_pair(client, server)
        far.deliver_to(Holding())
        with client.together():
            for part in (b"first", b"second", b"last"):
                near.send_nowait(part, is_urgent=True)
        await settle()
        assert near.is_readable


# Without epoll


@pytest.mark.parametrize(
    "check",
    [
        forwarding.test_half_close_goes_through_in_both_directions,
        forwarding.test_a_lot_of_bytes_both_ways,
        forwarding.test_who_does_not_read_stops_who_sends,
        *(
            lambda direction=direction, check=check: check(direction)
            for direction in ("to", "from")
            for check in (
                forwarding.test_a_reset_goes_through_from_the_far_side,
                forwarding.test_a_reset_goes_through_from_the_near_side,
                forwarding.test_many_connections_at_once,
            )
        ),
    ],
)
async def test_sockets_are_watched_without_epoll_too(
    check: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_task_each(start_soon: Any, together: Any) -> _TaskWatcher:
        return _TaskWatcher(start_soon, together)

    monkeypatch.setattr(carried, "make_watcher", one_task_each)
    await check()


def no_connection_comes(raw: socket.socket, tasks: TaskGroup) -> Accepting:
    def take(streams: Sequence[ConnectedSocket]) -> Sequence[ConnectedSocket]:
        raise AssertionError("a connection came")

    async def handle(stream: ByteStream) -> None:
        raise AssertionError("a connection came")

    raw.setblocking(False)
    return Accepting(raw, handle, tasks, take, Turns(1))


async def test_nobody_waits_any_more_for_a_listener_that_is_to_be_closed() -> None:
    """Its number may soon belong to another socket, which could not be waited for."""
    with anyio.fail_after(LIMIT), socket.create_server(("127.0.0.1", 0)) as raw:
        async with anyio.create_task_group() as tasks:
            accepting = no_connection_comes(raw, tasks)
            async with anyio.create_task_group() as running:
                running.start_soon(accepting.run, _TaskWatcher(tasks.start_soon, nullcontext))
                await settle()
                running.cancel_scope.cancel()
            other = Call(tasks, lambda: anyio.wait_readable(raw))
            await settle()
            with socket.create_connection(raw.getsockname()):
                await other.result()


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll on this system")
async def test_a_listener_that_somebody_else_has_closed_is_watched_no_longer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as raw:
        async with anyio.create_task_group() as tasks:
            watcher = make_watcher(tasks.start_soon, nullcontext)
            accepting = no_connection_comes(raw, tasks)
            async with anyio.create_task_group() as running:
                running.start_soon(accepting.run, watcher)
                await settle()
                raw.close()
                running.cancel_scope.cancel()
            accepting.abort = Mock()  # type: ignore[method-assign]
            tasks.cancel_scope.cancel()
    accepting.abort.assert_not_called()


# Mistakes


async def assert_connection_is_reset(port: int) -> None:
    """Connect, and see it reset, as may come about before we know that we are connected."""
    with pytest.raises((anyio.BrokenResourceError, OSError)):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await forwarding.drain(stream)


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_a_mistake_costs_one_connection_and_leaves_the_listener_alone(
    direction: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*what: object) -> None:
        monkeypatch.undo()
        raise ValueError("a mistake")

    async with (
        forwarding.service() as port,
        forwarding.pair() as (client, _),
        forwarding.forwarding(client, direction, port) as number,
    ):
        monkeypatch.setattr(payloads, "channel_opening", fail)
        await assert_connection_is_reset(number)
        assert "a mistake" in caplog.text
        assert await forwarding.ask_port(number) == b"HELLO!"


# Without descriptors


class Epolls:
    """Makes epoll objects, or has the system be out of descriptors for so many of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
        self.failures = failures
        self.made = 0
        self._make = getattr(select, "epoll", None)
        if self._make is None:
            pytest.skip("there is no epoll on this system")
        monkeypatch.setattr(select, "epoll", self._make_or_fail)

    def _make_or_fail(self) -> select.epoll:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.made += 1
        assert self._make is not None
        return self._make()


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_without_descriptors_to_watch_a_connection_breaks_and_the_next_one_comes_about(
    direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    epolls = Epolls(monkeypatch, failures=0)
    async with (
        forwarding.service() as port,
        forwarding.pair() as (client, server),
        forwarding.forwarding(client, direction, port) as number,
    ):
        while not epolls.made:
            await anyio.lowlevel.checkpoint()  # until the listener is watched
        epolls.failures = 1  # at the end that connects
        await assert_connection_is_reset(number)
        await settle()
        assert client.channels == server.channels == ()
        assert await forwarding.ask_port(number) == b"HELLO!"


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_without_descriptors_to_watch_a_listener_waits_until_there_are_some(
    direction: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    epolls = Epolls(monkeypatch, failures=1)
    async with (
        forwarding.service() as port,
        forwarding.pair() as (client, _),
        forwarding.forwarding(client, direction, port) as number,
    ):
        assert await forwarding.ask_port(number) == b"HELLO!"
    assert epolls.failures == 0
    assert "cannot accept connections" in caplog.text


@pytest.mark.parametrize("direction", ["to", "from"])
async def test_without_descriptors_to_accept_a_listener_waits_until_there_are_some(
    direction: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not for ever, though the connection it could not accept is the same."""
    async with (
        forwarding.service() as port,
        forwarding.pair() as (client, _),
        forwarding.forwarding(client, direction, port) as number,
    ):
        failed = anyio.Event()

        def fail(self: socket.socket) -> tuple[socket.socket, object]:
            failed.set()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as without:
            without.setattr(socket.socket, "accept", fail)
            stream = await anyio.connect_tcp("127.0.0.1", number)
            await failed.wait()
            await wait_for(lambda: "cannot accept connections" in caplog.text)
        assert await forwarding.ask(stream) == b"HELLO!"
        assert await forwarding.ask_port(number) == b"HELLO!"


class Unwell(anyio.abc.Listener[ByteStream]):
    """Cannot accept, but for one connection at the third time, and is closed at the sixth."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def ask(self, accept: Callable[[], object]) -> None:
        self.asked.append(anyio.current_time())
        if len(self.asked) == 3:
            accept()
        if len(self.asked) == 6:
            raise anyio.ClosedResourceError
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def serve(self, handler: Callable[[ByteStream], Any], task_group: Any = None) -> None:
        near, _ = memory_stream_pair()
        self.ask(lambda: task_group.start_soon(handler, near))

    async def aclose(self) -> None:
        raise NotImplementedError


class UnwellWatcher:
    """Has a socket accept no more than an :class:`Unwell` does."""

    def __init__(self, listener: Unwell) -> None:
        self._listener = listener

    def watch(self, source: object, watched: Watched, before: int, wanted: int) -> None:
        if wanted != NOTHING:
            self._listener.ask(lambda: watched.socket_ready(READING))


@pytest.mark.trio
@pytest.mark.parametrize("is_socket", [False, True])
async def test_a_connection_in_between_makes_the_next_failure_another_trouble(
    autojump_clock: object, caplog: pytest.LogCaptureFixture, is_socket: bool
) -> None:
    """It is waited for as shortly as the first one, and logged as well."""
    unwell = Unwell()
    came: list[ByteStream] = []

    async def handle(stream: ByteStream) -> None:
        came.append(stream)
        await anyio.aclose_forcefully(stream)

    with socket.create_server(("127.0.0.1", 0)) as raw:
        raw.setblocking(False)
        listener = await SocketListener.from_socket(raw) if is_socket else unwell
        with socket.create_connection(raw.getsockname()):
            async with anyio.create_task_group() as tasks:
                watcher = UnwellWatcher(unwell)
                await serve_connections(listener, handle, tasks, list, Turns(1), watcher)
    assert len(came) == 1
    pauses = [later - before for before, later in itertools.pairwise(unwell.asked)]
    assert pauses == pytest.approx([0.1, 0.2, 0.1, 0.2, 0.4])
    assert caplog.text.count("cannot accept connections") == 2
