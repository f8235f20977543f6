"""How sessions use plain sockets: small output leaves at once, and one task keeps time.

Streams in memory never show it: there every byte waits for its reader.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NoReturn

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.stapled import StapledByteStream

import anyssh
from anyssh import TraceId
from anyssh.forwarding.acceptor import originator_of
from anyssh.session._direct import DirectWriter
from anyssh.session.attributes import remote_address
from anyssh.testing import memory_stream_pair

from .ends import ALICE, make_server, pinned

LIMIT = 20.0
MIB = 1024 * 1024
PATIENT = anyssh.SessionConfig(
    limits=anyssh.Limits(version_time=600, key_exchange_time=600, authentication_time=600)
)
"""No deadline comes to the help of what was forgotten."""


@asynccontextmanager
async def sockets() -> AsyncIterator[tuple[SocketStream, SocketStream]]:
    """Give both ends of a TCP connection."""
    ends: list[SocketStream] = []
    accepted = anyio.Event()

    async def accept(stream: SocketStream) -> None:
        ends.append(stream)
        accepted.set()
        await anyio.sleep_forever()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, accept)
        port = listener.extra(SocketAttribute.local_port)
        async with await anyio.connect_tcp("127.0.0.1", port) as near:
            await accepted.wait()
            with anyio.fail_after(LIMIT):
                yield near, ends[0]
        await ends[0].aclose()
        group.cancel_scope.cancel()


def happens(event: anyio.Event, trace_id: TraceId, text: str) -> Callable[..., None]:
    """Return a trace handler that sets an event."""

    def watch(told: anyssh.TraceEvent) -> None:
        if told.id is trace_id and text in told.message:
            event.set()

    return watch


async def test_last_words_arrive_although_not_all_was_read() -> None:
    """A socket that is closed with bytes unread would reset the connection."""
    async with sockets() as (near, far):
        await far.send(bytes(1000))
        with near.extra(SocketAttribute.raw_socket).dup() as waited_for:
            await anyio.wait_readable(waited_for)
        direct = DirectWriter.open(near)
        assert direct is not None
        direct.write(b"last words")
        direct.discard_input()
        await near.aclose()
        direct.close()
        assert await far.receive() == b"last words"
        with pytest.raises(anyio.EndOfStream):
            await far.receive()


async def entered(session: anyssh.ServerSession) -> None:
    async with session:
        await session.wait_closed()


async def test_new_keys_leave_while_a_person_looks_at_the_host_key() -> None:
    """The server would otherwise wait for our NEWKEYS, and in the end hang up."""
    encrypted = anyio.Event()
    server = make_server(config=PATIENT, trace=happens(encrypted, TraceId.SESSION_ENCRYPTED, ""))

    async def verify(presented: anyssh.PresentedHostKey) -> bool:
        await encrypted.wait()
        return True

    async with sockets() as (near, far), anyio.create_task_group() as group:
        group.start_soon(entered, server.accept(far))
        async with anyssh.ClientSession.connect(
            near, credentials=ALICE, verify_host=verify, config=PATIENT
        ):
            pass


async def test_new_keys_leave_when_no_credentials_follow() -> None:
    encrypted = anyio.Event()
    server = make_server(config=PATIENT, trace=happens(encrypted, TraceId.SESSION_ENCRYPTED, ""))
    async with sockets() as (near, far), anyio.create_task_group() as group:
        group.start_soon(entered, server.accept(far))
        async with anyssh.ClientSession.connect(
            near, verify_host=pinned(), config=PATIENT
        ) as client:
            await encrypted.wait()
            await client.authenticate(ALICE)


async def test_the_service_is_granted_while_a_verdict_takes_its_time() -> None:
    granted = anyio.Event()

    async def authenticate(attempt: anyssh.AuthAttempt) -> str:
        await granted.wait()
        return "alice"

    server = make_server(config=PATIENT, authenticate=authenticate)
    async with sockets() as (near, far), anyio.create_task_group() as group:
        group.start_soon(entered, server.accept(far))
        async with anyssh.ClientSession.connect(
            near,
            credentials=ALICE,
            verify_host=pinned(),
            config=PATIENT,
            trace=happens(granted, TraceId.RECEIVING_MESSAGE, "SERVICE_ACCEPT"),
        ):
            pass


async def test_a_silent_peer_meets_the_deadline() -> None:
    config = anyssh.SessionConfig(limits=anyssh.Limits(version_time=0.05))
    async with sockets() as (_, far):
        with pytest.raises(anyssh.RemoteProtocolError, match="took too long for the ident"):
            await entered(make_server(config=config).accept(far))


async def test_a_refused_attempt_is_answered_in_its_time() -> None:
    """Its deadline comes up in the middle of authentication, and no byte wakes anybody."""
    wrong = anyssh.ClientCredentials("alice", password="guess")
    async with sockets() as (near, far), anyio.create_task_group() as group:
        group.start_soon(refusing, make_server().accept(far))
        with pytest.raises(anyssh.AuthenticationError):
            async with anyssh.ClientSession.connect(near, credentials=wrong, verify_host=pinned()):
                pytest.fail("let in with a wrong password")


async def refusing(session: anyssh.ServerSession) -> None:
    with suppress(anyssh.SSHError):
        await entered(session)


async def relay(source: ByteStream, sink: ByteStream, scope: anyio.CancelScope) -> None:
    """Pass bytes on until told to stop; then hold both ends open and read no more."""
    with scope:
        async for chunk in source:
            await sink.send(chunk)
    await anyio.sleep_forever()


async def test_time_goes_on_while_the_socket_takes_nothing() -> None:
    """A sender is stuck in the middle of a packet; the silence of its peer is noticed all the same.

    The writer waits for the stream then, and cannot keep the time.
    """
    impatient = anyssh.SessionConfig(keep_alive_interval=0.1, keep_alive_count=2)
    generous = anyssh.SessionConfig(window_size=32 * MIB)
    to_server, to_client = anyio.CancelScope(), anyio.CancelScope()

    async def receive(session: anyssh.ServerSession) -> None:
        async with session:
            await (await session.accept_channel()).receive()
            to_server.cancel()
            to_client.cancel()
            await session.wait_closed()

    async with (
        sockets() as (near, middle),
        sockets() as (other_middle, far),
        anyio.create_task_group() as group,
    ):
        group.start_soon(relay, middle, other_middle, to_server)
        group.start_soon(relay, other_middle, middle, to_client)
        group.start_soon(receive, make_server(config=generous).accept(far))
        async with anyssh.ClientSession.connect(
            near, credentials=ALICE, verify_host=pinned(), config=impatient
        ) as client:
            channel = await client.open_channel()
            with pytest.raises(anyio.BrokenResourceError, match="did not answer keep-alive"):
                await channel.send(bytes(32 * MIB))
        group.cancel_scope.cancel()


# Sockets that are already gone


class Gone(StapledByteStream):
    """A stream whose socket is gone, which each event loop says in a way of its own."""

    def __init__(self, error: Exception) -> None:
        near, _ = memory_stream_pair()
        super().__init__(near, near)
        self._error = error

    @property
    def extra_attributes(self) -> NoReturn:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(errno.EBADF, "Bad file descriptor"), id="asyncio"),
        pytest.param(AttributeError("'NoneType' object has no attribute"), id="uvloop"),
        pytest.param(ValueError("negative file descriptor"), id="uvloop, a moment earlier"),
    ],
)
def test_nobody_knows_where_a_socket_came_from_that_is_gone(error: Exception) -> None:
    stream = Gone(error)
    assert remote_address(stream) is None
    assert originator_of(stream) is None
