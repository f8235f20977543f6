"""Reading plain sockets without their streams, on asyncio and on Trio."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.lowlevel import current_token

import anyssh
from anyssh.protocol.events import Event
from anyssh.session._direct import DirectReader, PatientReader

from .ends import ALICE, Call, make_server, pinned, settle
from .test_delivery import Sink
from .test_sockets import LIMIT, sockets

MIB = 1024 * 1024


RUNS: list[Callable[..., Any]] = [asyncio.run]
if find_spec("uvloop"):
    import uvloop

    RUNS.append(uvloop.run)


@pytest.fixture(scope="module", params=range(len(RUNS)), ids=["asyncio", "uvloop"][: len(RUNS)])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Those that hand bytes over."""
    return "asyncio", {"use_uvloop": request.param == 1}


class Told:
    """Notes what a reader hands over."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.errors: list[Exception | None] = []
        self._changed = anyio.Event()

    def received(self, data: bytes) -> None:
        self.data += data
        self._changed.set()

    def ended(self, error: Exception | None) -> None:
        self.errors.append(error)
        self._changed.set()

    async def until(self, is_true: Callable[[], object]) -> None:
        with anyio.fail_after(LIMIT):
            while not is_true():
                await self._changed.wait()
                self._changed = anyio.Event()


def opened(stream: SocketStream) -> DirectReader:
    reader = DirectReader.open(stream)
    assert reader is not None
    return reader


def reset(stream: SocketStream) -> None:
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


async def test_bytes_are_handed_over_as_they_come() -> None:
    async with sockets() as (near, far):
        reader, told = opened(near), Told()
        assert reader.start(told.received, told.ended)
        await far.send(b"first")
        await told.until(lambda: told.data == b"first")
        await far.send(b" second")
        await told.until(lambda: told.data == b"first second")
        reader.stop()
        assert told.errors == []


async def test_it_waits_until_the_stream_has_handed_over_what_it_has_read() -> None:
    """Or bytes would be lost, or come out of order."""
    async with sockets() as (near, far):
        reader, told = opened(near), Told()
        await far.send(b"read ahead")
        assert await near.receive(4) == b"read"  # the rest is in the stream
        assert not reader.start(told.received, told.ended)
        assert await near.receive() == b" ahead"
        assert reader.start(told.received, told.ended)
        await far.send(b" and on")
        await told.until(lambda: told.data == b" and on")
        reader.stop()


async def test_the_stream_reads_on_when_it_is_stopped() -> None:
    async with sockets() as (near, far):
        reader, told = opened(near), Told()
        assert reader.start(told.received, told.ended)
        await far.send(b"one")
        await told.until(lambda: told.data == b"one")
        reader.stop()
        await far.send(b"two")
        assert await near.receive() == b"two"
        assert told.data == b"one"


async def test_nothing_is_taken_while_it_is_stopped() -> None:
    """So the peer of somebody who does not read has to wait."""
    async with sockets() as (near, far), anyio.create_task_group() as group:
        reader, told = opened(near), Told()
        assert reader.start(told.received, told.ended)
        reader.stop()
        sending = Call(group, lambda: far.send(bytes(64 * MIB)))
        await settle()
        assert not sending.is_done
        assert told.data == b""
        group.cancel_scope.cancel()


async def test_the_end_of_the_peers_direction_is_told_once() -> None:
    async with sockets() as (near, far):
        reader, told = opened(near), Told()
        assert reader.start(told.received, told.ended)
        await far.send(b"last words")
        await far.send_eof()
        await told.until(lambda: told.errors)
        assert (told.data, told.errors) == (b"last words", [None])
        await near.send(b"answer")
        assert await far.receive() == b"answer"
        reader.stop()
        assert not reader.start(told.received, told.ended)
        with pytest.raises(anyio.EndOfStream):
            await near.receive()


async def test_a_reset_is_told_with_its_error() -> None:
    async with sockets() as (near, far):
        reader, told = opened(near), Told()
        assert reader.start(told.received, told.ended)
        reset(far)
        await anyio.aclose_forcefully(far)
        await told.until(lambda: told.errors)
        assert isinstance(told.errors[0], ConnectionResetError)
        reader.stop()
        with pytest.raises(anyio.BrokenResourceError):
            await near.receive()


async def test_somebody_who_closes_the_stream_ends_it() -> None:
    async with sockets() as (near, _):
        reader, told = opened(near), Told()
        assert reader.start(told.received, told.ended)
        await near.aclose()
        await told.until(lambda: told.errors)
        reader.stop()
        assert not reader.start(told.received, told.ended)


async def test_a_sender_still_waits_for_a_full_socket() -> None:
    async with sockets() as (near, far), anyio.create_task_group() as group:
        reader, told = opened(near), Told()
        assert reader.start(told.received, told.ended)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await far.receive()  # which ends the reading ahead of accepted streams
        sending = Call(group, lambda: near.send(bytes(64 * MIB)))
        await settle()
        assert not sending.is_done
        received = 0
        while received < 64 * MIB:
            received += len(await far.receive())
        await sending.result()
        reader.stop()


async def test_other_streams_are_left_alone() -> None:
    """A class of somebody else's may do more than pass bytes on."""

    class Counting(SocketStream):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            raise NotImplementedError

        async def send(self, item: bytes) -> None:
            raise NotImplementedError

        async def send_eof(self) -> None:
            raise NotImplementedError

        async def aclose(self) -> None:
            raise NotImplementedError

        @property
        def _raw_socket(self) -> socket.socket:
            raise NotImplementedError

    assert DirectReader.open(Counting()) is None


async def test_a_stream_that_looks_different_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with sockets() as (near, _):
        opened(near)
        monkeypatch.setattr(near, "_protocol", object())
        assert DirectReader.open(near) is None


# In a session


async def talk_to_a_recipient_that_uses_anyio() -> None:
    heard = anyio.Event()

    def take(size: int) -> int:
        assert anyio.current_time() > 0
        anyio.Event().set()
        heard.set()
        return size

    async def handle(session: anyssh.ServerSession) -> None:
        async for opening in session.incoming_channels():
            opening.accept_nowait().deliver_to(Sink(take))

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(make_server().serve, listener, handle)
        port = listener.extra(SocketAttribute.local_port)
        async with anyssh.ClientSession.connect(
            await anyio.connect_tcp("127.0.0.1", port), credentials=ALICE, verify_host=pinned()
        ) as client:
            channel = await client.open_channel("session")
            await channel.send(b"x")
            with anyio.fail_after(LIMIT):
                await heard.wait()
        group.cancel_scope.cancel()


async def test_who_leaves_while_output_is_held_still_says_goodbye() -> None:
    """As when four messages have just come, one of which has woken who leaves now."""
    closed: list[anyssh.SessionClosed] = []

    async def handle(session: anyssh.ServerSession) -> None:
        closed.append(await session.wait_closed())
        group.cancel_scope.cancel()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(make_server().serve, listener, handle)
        stream = await anyio.connect_tcp("127.0.0.1", listener.extra(SocketAttribute.local_port))
        session = anyssh.ClientSession.connect(stream, credentials=ALICE, verify_host=pinned())
        async with session as client:
            link = client._links.current
            link.begin_together()  # the event loop would soon call who ends it
            link.hold()
        with anyio.fail_after(LIMIT):
            await anyio.sleep_forever()
    assert isinstance(closed[0].error, anyssh.Disconnected)


async def test_a_session_that_its_context_knows_needs_no_garbage_collector() -> None:
    """Functions that event loops call have a context of their own, which must not last."""
    known: ContextVar[object] = ContextVar("known")

    async def live(port: int) -> weakref.ref[anyssh.ClientSession]:
        stream = await anyio.connect_tcp("127.0.0.1", port)
        client = anyssh.ClientSession.connect(stream, credentials=ALICE, verify_host=pinned())
        token = known.set(client)
        async with client:
            pass
        known.reset(token)
        return weakref.ref(client)

    async def handle(session: anyssh.ServerSession) -> None:
        await session.wait_closed()

    gc.disable()
    try:
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as group,
        ):
            group.start_soon(make_server().serve, listener, handle)
            session = await live(listener.extra(SocketAttribute.local_port))
            await settle()
            assert session() is None
            group.cancel_scope.cancel()
    finally:
        gc.enable()


@pytest.mark.parametrize("run", RUNS, ids=["asyncio", "uvloop"][: len(RUNS)])
def test_recipients_may_use_anyio_also_where_nobody_named_it(run: Callable[..., None]) -> None:
    """They are not called by a task, from which AnyIO could tell the library that runs."""
    run(talk_to_a_recipient_that_uses_anyio())


async def test_a_mistake_outside_of_tasks_is_raised_in_one() -> None:
    """Or the transport would swallow it, and the session look as if its stream were lost."""

    async def handle(session: anyssh.ServerSession) -> None:
        async for opening in session.incoming_channels():
            channel = opening.accept_nowait()
            await channel.send(await channel.receive())

    async def fail_once() -> None:
        async with anyssh.ClientSession.connect(
            await anyio.connect_tcp("127.0.0.1", port), credentials=ALICE, verify_host=pinned()
        ) as client:
            channel = await client.open_channel("session")
            link = client._links.current
            dispatch = link.dispatch

            def fail(events: Sequence[Event]) -> None:
                link.dispatch = dispatch
                raise ValueError("a mistake")

            link.dispatch = fail
            await channel.send(b"x")
            await anyio.sleep_forever()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(make_server().serve, listener, handle)
        port = listener.extra(SocketAttribute.local_port)
        with anyio.fail_after(LIMIT), pytest.raises(ExceptionGroup) as caught:
            await fail_once()
        assert caught.value.subgroup(lambda error: str(error) == "a mistake")
        group.cancel_scope.cancel()


# On Trio


@pytest.mark.trio
async def test_a_socket_that_is_waited_for_first_gives_all_bytes_and_the_end() -> None:
    async with sockets() as (near, far):
        reader = patient(near)
        async with anyio.create_task_group() as group:
            waiting = Call(group, lambda: reader.receive(100))
            await settle()
            await far.send(b"one")
            assert await waiting.result() == b"one"
        await far.send(b"two, three")
        assert await reader.receive(3) == b"two"
        assert await near.receive() == b", three"
        await far.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await reader.receive(100)


@pytest.mark.trio
async def test_cancelling_what_waits_for_a_socket_loses_nothing() -> None:
    async with sockets() as (near, far):
        reader = patient(near)
        await far.send(b"bytes")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await reader.receive(100)
        assert scope.cancelled_caught
        assert await reader.receive(100) == b"bytes"


@pytest.mark.trio
async def test_a_socket_that_is_waited_for_first_tells_of_resets_and_closing() -> None:
    async with sockets() as (near, far):
        reset(far)
        await anyio.aclose_forcefully(far)
        with pytest.raises(ConnectionResetError):
            await patient(near).receive(100)
    async with sockets() as (near, _), anyio.create_task_group() as group:
        waiting = Call(group, lambda: patient(near).receive(100))
        await settle()
        await near.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await waiting.result()


def patient(stream: SocketStream) -> PatientReader:
    reader = PatientReader.open(stream, current_token().backend_class)
    assert reader is not None
    return reader
