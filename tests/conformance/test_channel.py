"""A channel as a byte stream: AnyIO's rules, Trio's checks, a checkpoint in every call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import pytest
import trio.testing
from anyio.abc import ByteStream, SocketAttribute, SocketListener

import anyssh
from anyssh.testing import check_byte_stream, session_pair
from tests.conformance.trio_adapter import TrioStream
from tests.session.ends import ALICE, channel_pair, connected, make_server, pinned, serving, settle


@asynccontextmanager
async def channels_over_memory() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    async with session_pair() as (client, server):
        yield await channel_pair(client, server)


@asynccontextmanager
async def channels_over_tcp() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    async with sessions_over_tcp() as (client, server):
        yield await channel_pair(client, server)


@asynccontextmanager
async def sessions_over_tcp() -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.ServerSession]]:
    sessions: list[anyssh.ServerSession] = []
    entered = anyio.Event()

    async def handle(session: anyssh.ServerSession) -> None:
        sessions.append(session)
        entered.set()
        await session.wait_closed()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        (only,) = cast("list[SocketListener]", listener.listeners)
        port = only.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(make_server().serve, only, handle)
            async with anyssh.ClientSession.connect(
                await anyio.connect_tcp("127.0.0.1", port),
                credentials=ALICE,
                verify_host=pinned(),
            ) as client:
                await entered.wait()
                yield client, sessions[0]
            group.cancel_scope.cancel()


async def test_keeps_every_rule_in_memory() -> None:
    await check_byte_stream(channels_over_memory)


async def test_keeps_every_rule_over_tcp() -> None:
    await check_byte_stream(channels_over_tcp)


@pytest.mark.trio
async def test_trio_finds_no_fault() -> None:
    async with session_pair() as (client, server):

        async def stream_maker() -> tuple[TrioStream, TrioStream]:
            near, far = await channel_pair(client, server)
            return TrioStream(near), TrioStream(far)

        # Its other half checks a call that AnyIO's streams do not have.
        await trio.testing.check_half_closeable_stream(stream_maker, None)


# Checkpoints


Ends = tuple[anyssh.ClientSession, anyssh.ServerSession, anyssh.Channel, anyssh.Channel]
Probe = Callable[[Ends], Awaitable[Any]]

PROBES: dict[str, Probe] = {}


def probe(function: Probe) -> Probe:
    PROBES[getattr(function, "__name__")] = function  # noqa: B009
    return function


@probe
async def channel_send(ends: Ends) -> None:
    with trio.testing.assert_checkpoints():
        await ends[2].send(b"data")


@probe
async def channel_send_nothing(ends: Ends) -> None:
    with trio.testing.assert_checkpoints():
        await ends[2].send(b"")


@probe
async def channel_send_after_close(ends: Ends) -> None:
    await ends[2].aclose()
    with trio.testing.assert_checkpoints(), pytest.raises(anyio.ClosedResourceError):
        await ends[2].send(b"data")


@probe
async def channel_send_stderr(ends: Ends) -> None:
    with trio.testing.assert_checkpoints():
        await ends[2].send_stderr(b"data")


@probe
async def channel_send_eof(ends: Ends) -> None:
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await ends[2].send_eof()


@probe
async def channel_receive(ends: Ends) -> None:
    await ends[3].send(b"data")
    await settle()
    with trio.testing.assert_checkpoints():
        await ends[2].receive()


@probe
async def channel_receive_end(ends: Ends) -> None:
    await ends[3].send_eof()
    await settle()
    for _ in range(2):
        with trio.testing.assert_checkpoints(), pytest.raises(anyio.EndOfStream):
            await ends[2].receive()


@probe
async def channel_receive_after_close(ends: Ends) -> None:
    await ends[2].aclose()
    with trio.testing.assert_checkpoints(), pytest.raises(anyio.ClosedResourceError):
        await ends[2].receive()


@probe
async def stderr_receive(ends: Ends) -> None:
    await ends[3].send_stderr(b"data")
    await settle()
    with trio.testing.assert_checkpoints():
        await ends[2].stderr.receive()


@probe
async def stderr_aclose(ends: Ends) -> None:
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await ends[2].stderr.aclose()


@probe
async def channel_aclose(ends: Ends) -> None:
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await ends[2].aclose()


@probe
async def channel_wait_closed(ends: Ends) -> None:
    await ends[2].aclose()
    with trio.testing.assert_checkpoints():
        await ends[2].wait_closed()


@probe
async def channel_request(ends: Ends) -> None:
    with trio.testing.assert_checkpoints():
        await ends[2].request("env", want_reply=False)


@probe
async def channel_request_with_reply(ends: Ends) -> None:
    with trio.testing.assert_checkpoints():
        await ends[2].request("keepalive@openssh.com")


@probe
async def channel_request_after_close(ends: Ends) -> None:
    await ends[2].aclose()
    with trio.testing.assert_checkpoints(), pytest.raises(anyio.ClosedResourceError):
        await ends[2].request("env", want_reply=False)


@probe
async def channel_send_signal(ends: Ends) -> None:
    with trio.testing.assert_checkpoints():
        await ends[2].send_signal("TERM")


@probe
async def channel_requests(ends: Ends) -> None:
    requests = ends[3].requests()
    await ends[2].request("env", want_reply=False)
    await ends[2].send_eof()
    await settle()
    with trio.testing.assert_checkpoints():
        request = await anext(requests)
    with trio.testing.assert_checkpoints():
        await request.accept()
    await ends[3].aclose()
    with trio.testing.assert_checkpoints(), pytest.raises(StopAsyncIteration):
        await anext(requests)


@probe
async def channel_request_reject(ends: Ends) -> None:
    requests = ends[3].requests()
    await ends[2].request("env", want_reply=False)
    request = await anext(requests)
    with trio.testing.assert_checkpoints():
        await request.reject()


@probe
async def session_open_and_accept(ends: Ends) -> None:
    async def accept() -> None:
        await ends[1].accept_channel()

    async with anyio.create_task_group() as group:
        group.start_soon(accept)
        with trio.testing.assert_checkpoints():
            await ends[0].open_channel()


@probe
async def session_accept_what_waits(ends: Ends) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(ends[0].open_channel)
        await settle()
        with trio.testing.assert_checkpoints():
            await ends[1].accept_channel()


@probe
async def session_incoming_channels(ends: Ends) -> None:
    async with anyio.create_task_group() as group:
        openings = ends[1].incoming_channels()
        group.start_soon(ends[0].open_channel)
        await settle()
        with trio.testing.assert_checkpoints():
            opening = await anext(openings)
        with trio.testing.assert_checkpoints():
            await opening.accept()


@probe
async def session_reject_channel(ends: Ends) -> None:
    async def refused() -> None:
        with pytest.raises(anyssh.ChannelOpenError):
            await ends[0].open_channel()

    async with anyio.create_task_group() as group:
        group.start_soon(refused)
        opening = await anext(ends[1].incoming_channels())
        with trio.testing.assert_checkpoints():
            await opening.reject()


@probe
async def session_request(ends: Ends) -> None:
    with trio.testing.assert_checkpoints():
        await ends[0].request("hello", want_reply=False)
    with trio.testing.assert_checkpoints():
        await ends[0].request("keepalive@openssh.com")


@probe
async def session_rekey(ends: Ends) -> None:
    with trio.testing.assert_checkpoints():
        await ends[0].rekey()


@probe
async def session_request_service(ends: Ends) -> None:
    with trio.testing.assert_checkpoints():
        await ends[0].request_service()


@probe
async def session_end(ends: Ends) -> None:
    client = ends[0]
    events = client.events()
    openings = client.incoming_channels()
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await client.aclose()
    with trio.testing.assert_checkpoints():
        await client.disconnect(11)
    with trio.testing.assert_checkpoints():
        await client.wait_closed()
    with trio.testing.assert_checkpoints(), pytest.raises(StopAsyncIteration):
        await anext(events)
    with trio.testing.assert_checkpoints(), pytest.raises(StopAsyncIteration):
        await anext(openings)
    for call in (client.open_channel, client.accept_channel, client.rekey, client.request_service):
        with trio.testing.assert_checkpoints(), pytest.raises(anyssh.SSHError):
            await cast("Callable[[], Awaitable[Any]]", call)()
    with trio.testing.assert_checkpoints(), pytest.raises(anyssh.SSHError):
        await client.request("hello")
    with trio.testing.assert_checkpoints(), pytest.raises(anyssh.SSHError):
        await client.authenticate(ALICE)
    with trio.testing.assert_checkpoints():
        await client.serve(anyio.sleep_forever)  # type: ignore[arg-type]  # never called


@pytest.mark.trio
@pytest.mark.parametrize("name", PROBES)
async def test_every_call_passes_a_checkpoint(name: str) -> None:
    async with connected() as (client, server):
        await PROBES[name]((client, server, *await channel_pair(client, server)))


@pytest.mark.trio
async def test_authentication_passes_checkpoints() -> None:
    async with connected(credentials=None) as (client, _):
        with trio.testing.assert_checkpoints():
            await client.query_public_key("alice", anyssh.generate_key("ssh-ed25519"))
        with trio.testing.assert_checkpoints():
            await client.authenticate(ALICE)
        with trio.testing.assert_checkpoints(), pytest.raises(anyssh.LocalProtocolError):
            await client.authenticate(ALICE)


@pytest.mark.trio
async def test_closing_a_session_that_was_never_entered_passes_a_checkpoint() -> None:
    async with serving(make_server()) as (stream, _):
        session = anyssh.ClientSession.connect(stream, verify_host=pinned())
        for _ in range(2):
            with trio.testing.assert_checkpoints():
                await session.aclose()
