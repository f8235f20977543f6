"""Cancelling any call at any await leaves the session usable, and loses or mixes up nothing.

:func:`cancelled_everywhere` cancels an operation after 0, 1, 2, … turns of the scheduler, each time
anew, until it completes before it can be cancelled.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import anyssh

from .life_support import (
    ALICE,
    LIMIT,
    Outcome,
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
MAX_TURNS = 400
LAVISH = anyssh.Limits(rekey_burst=10_000, noise_messages=100_000)


async def cancel_after(turns: int, operation: Callable[[], Awaitable[Any]]) -> tuple[bool, Any]:
    """Run an operation, cancel it after so many turns; return whether it completed, and how."""
    result = None
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                for _ in range(turns):
                    await checkpoint()
                scope.cancel()

            group.start_soon(cancel)
            with anyio.fail_after(LIMIT):
                result = await operation()
        group.cancel_scope.cancel()
    return not scope.cancelled_caught, result


async def cancelled_everywhere(
    operation: Callable[[], Awaitable[Any]],
    check: Callable[[bool, Any], Awaitable[object]],
    *,
    prepare: Callable[[], Awaitable[object]] | None = None,
) -> int:
    """Cancel an operation at each turn, check after each; return how many turns it takes.

    :param prepare: called before each
    :param check: told whether the operation completed, and its result
    """
    for turns in range(MAX_TURNS):
        if prepare is not None:
            await prepare()
        completed, result = await cancel_after(turns, operation)
        await check(completed, result)
        if completed:
            return turns
    raise AssertionError(f"not complete after {MAX_TURNS} turns")


async def _grant_and_echo(channel: anyssh.Channel) -> None:
    """Grant each request but those named "no", and send everything back."""
    async with anyio.create_task_group() as group:

        async def answer() -> None:
            async for request in channel.requests():
                if request.name == "no":
                    await request.reject()
                else:
                    await request.accept()

        group.start_soon(answer)
        with suppress(anyio.BrokenResourceError):
            await echo(channel)
        group.cancel_scope.cancel()


async def _mirror(session: anyssh.Session) -> None:
    """Answer each request of the session with its own payload."""
    async for request in session.requests():
        await request.accept(request.payload)


@asynccontextmanager
async def served(
    handler: Callable[[anyssh.Channel], Awaitable[object]] = _grant_and_echo,
) -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.ServerSession]]:
    """Give a session whose server serves channels and mirrors requests."""
    config = fast(LAVISH)
    async with pair(config, config) as (client, server), anyio.create_task_group() as group:
        group.start_soon(_mirror, server)
        group.start_soon(server.serve, handler)
        yield client, server
        group.cancel_scope.cancel()


async def check_usable(session: anyssh.Session) -> None:
    """Check that channels and requests still work and that replies reach who asked."""
    await echoes(session)
    word = b"%d" % next(_numbers)
    with anyio.fail_after(LIMIT):
        reply = await session.request("mirror", word)
    assert reply
    assert reply.payload == word


_numbers = itertools.count()


def tables_are_empty(*sessions: anyssh.Session) -> bool:
    """Whether neither end knows any channel any more."""
    return all(
        session._connection.channel_count == 0 and session.channels == () for session in sessions
    )


# Opening channels


async def test_opening_a_channel() -> None:
    """HR-55, T-34."""
    async with served() as (client, server):

        async def check(completed: bool, channel: anyssh.Channel | None) -> None:
            await check_usable(client)
            if completed:
                assert channel is not None
                await channel.aclose()
            await wait_for(lambda: tables_are_empty(client, server))

        assert await cancelled_everywhere(client.open_channel, check) > 2


@pytest.mark.parametrize("name", ["yes", "no"])
async def test_opening_a_channel_with_a_request(name: str) -> None:
    async with served() as (client, server):

        async def attempt() -> anyssh.Channel | None:
            try:
                return await client.open_channel(request=anyssh.ChannelRequest(name))
            except anyssh.RequestDenied:
                return None

        async def check(completed: bool, channel: anyssh.Channel | None) -> None:
            await check_usable(client)
            if completed:
                assert (channel is not None) == (name == "yes")
            if channel is not None:
                await channel.aclose()
            await wait_for(lambda: tables_are_empty(client, server))

        assert await cancelled_everywhere(attempt, check) > 4


async def test_an_open_that_is_confirmed_late_is_closed() -> None:
    """The peer decides long after the caller has gone."""
    async with pair() as (client, server):
        for decision in ("accept", "reject"):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:

                    async def cancel(scope: anyio.CancelScope = scope) -> None:
                        await settle()
                        scope.cancel()

                    group.start_soon(cancel)
                    await client.open_channel()
            assert scope.cancelled_caught
            assert client.channels == ()
            with anyio.fail_after(LIMIT):
                opening = await anext(aiter(server.incoming_channels()))
                if decision == "accept":
                    channel = await opening.accept()
                    await channel.wait_closed()
                else:
                    await opening.reject()
            await wait_for(lambda: tables_are_empty(client, server))


async def test_cancelled_opens_do_not_use_up_the_limit_of_channels() -> None:
    limits = anyssh.Limits(channels=3)
    config = fast(limits)
    async with pair(config, config) as (client, server), anyio.create_task_group() as group:
        group.start_soon(server.serve, echo)
        for _ in range(10):
            await cancel_after(1, client.open_channel)
        await settle()
        await echoes(client)
        group.cancel_scope.cancel()


# Bytes


async def test_sending_a_little_is_all_or_nothing() -> None:
    received = bytearray()
    ended = anyio.Event()

    async def keep(channel: anyssh.Channel) -> None:
        if channel.channel_type == "echo":
            return await echo(channel)
        async for chunk in channel:
            received.extend(chunk)
        ended.set()

    async with served(keep) as (client, _):
        channel = await client.open_channel("keep")
        sent: list[tuple[bytes, bool, int]] = []
        record = b""

        async def prepare() -> None:
            nonlocal record
            record = b"<%06d>" % next(_numbers)

        async def check(completed: bool, result: object) -> None:
            sent.append((record, completed, channel.metrics.bytes_sent))
            await check_usable(client)

        for _ in range(3):
            await cancelled_everywhere(lambda: channel.send(record), check, prepare=prepare)
        await channel.send_eof()
        with anyio.fail_after(LIMIT):
            await ended.wait()
        expected, before = b"", 0
        for record, completed, bytes_sent in sent:
            assert bytes_sent - before in ((8,) if completed else (0, 8))
            expected += record if bytes_sent > before else b""
            before = bytes_sent
        assert bytes(received) == expected


@pytest.mark.parametrize("as_stderr", [False, True])
async def test_a_large_send_stops_where_its_metrics_say(as_stderr: bool) -> None:
    received = bytearray()
    ended = anyio.Event()
    size = 3 * MIB

    async def keep(channel: anyssh.Channel) -> None:
        if channel.channel_type == "echo":
            return await echo(channel)
        async for chunk in channel.stderr if as_stderr else channel:
            received.extend(chunk)
        ended.set()

    async with served(keep) as (client, _):
        channel = await client.open_channel("keep")
        send = channel.send_stderr if as_stderr else channel.send
        expected = b""
        before = 0
        for turns in range(0, MAX_TURNS, 7):
            tag = b"%d" % (turns // 7 % 10)
            completed, _ = await cancel_after(turns, partial(send, tag * size))
            count = channel.metrics.bytes_sent - before
            before = channel.metrics.bytes_sent
            assert count == size if completed else count < size
            expected += tag * count
            if turns % 5 == 0:
                await check_usable(client)
            if completed:
                break
        else:
            pytest.fail("never complete")
        await channel.send_eof()
        with anyio.fail_after(LIMIT):
            await ended.wait()
        assert received == expected


@pytest.mark.parametrize("what", ["bytes", "stderr", "iteration"])
async def test_receiving_loses_no_byte(what: str) -> None:
    async with pair() as (client, server):
        near = await _open_between(client, server)
        channel, peer = near
        got, sent = bytearray(), bytearray()
        stream: Any = channel.stderr if what == "stderr" else channel

        async def prepare() -> None:
            data = b"%d " % next(_numbers)
            if what == "stderr":
                await peer.send_stderr(data)
            else:
                await peer.send(data)
            sent.extend(data)

        async def receive() -> bytes:
            if what == "iteration":
                chunk: bytes = await anext(aiter(stream))
                return chunk
            data: bytes = await stream.receive(3)
            return data

        async def check(completed: bool, data: bytes | None) -> None:
            if completed:
                assert data
                got.extend(data)

        for _ in range(20):
            await cancelled_everywhere(receive, check, prepare=prepare)
        if what == "stderr":
            await peer.aclose()
        else:
            await peer.send_eof()
        with anyio.fail_after(LIMIT):
            async for chunk in stream:
                got.extend(chunk)
        assert got == sent


async def _open_between(
    client: anyssh.Session, server: anyssh.Session
) -> tuple[anyssh.Channel, anyssh.Channel]:
    ends: list[anyssh.Channel] = []
    async with anyio.create_task_group() as group:

        async def accept() -> None:
            ends.append(await server.accept_channel())

        group.start_soon(accept)
        channel = await client.open_channel()
    return channel, ends[0]


async def test_two_receivers_do_not_take_from_each_other_when_one_is_cancelled() -> None:
    async with pair() as (client, server):
        channel, peer = await _open_between(client, server)
        async with anyio.create_task_group() as group:
            scope = anyio.CancelScope()

            async def receive() -> None:
                with scope:
                    await channel.receive()

            group.start_soon(receive)
            await settle()
            with pytest.raises(anyio.BusyResourceError):
                await channel.receive()
            scope.cancel()
            await peer.send(b"for the next")
        with anyio.fail_after(LIMIT):
            assert await channel.receive() == b"for the next"


async def test_ending_and_closing_a_channel() -> None:
    async with served() as (client, server):
        channel: anyssh.Channel

        async def prepare() -> None:
            nonlocal channel
            channel = await client.open_channel()

        async def eof_then_close(completed: bool, result: object) -> None:
            if completed:
                with pytest.raises(anyio.ClosedResourceError):
                    await channel.send(b"x")
                with anyio.fail_after(LIMIT), pytest.raises(anyio.EndOfStream):
                    await channel.receive()
            await channel.aclose()
            await check_usable(client)
            await wait_for(lambda: tables_are_empty(client, server))

        async def closed(completed: bool, result: object) -> None:
            # Closing must happen at once, whether or not the caller is cancelled.
            with anyio.fail_after(LIMIT):
                assert (await channel.wait_closed()).error is None
            await check_usable(client)
            await wait_for(lambda: tables_are_empty(client, server))

        await cancelled_everywhere(lambda: channel.send_eof(), eof_then_close, prepare=prepare)
        await cancelled_everywhere(lambda: channel.aclose(), closed, prepare=prepare)


async def test_closing_in_a_cancelled_scope_closes() -> None:
    async with served() as (client, server):
        channel = await client.open_channel()
        await anyio.aclose_forcefully(channel)
        with pytest.raises(anyio.ClosedResourceError):
            await channel.send(b"x")
        await wait_for(lambda: tables_are_empty(client, server))
        with anyio.CancelScope() as scope:
            async with await client.open_channel():
                scope.cancel()
                await checkpoint()
        await wait_for(lambda: tables_are_empty(client, server))


# Requests


async def test_requests_of_a_channel() -> None:
    async with served() as (client, _):
        channel = await client.open_channel()

        async def check(completed: bool, reply: anyssh.Reply | None) -> None:
            with anyio.fail_after(LIMIT):
                assert not await channel.request("no")
                assert await channel.request("yes")
            if completed:
                assert reply
            await check_usable(client)
            assert not channel._state.replies

        assert await cancelled_everywhere(lambda: channel.request("yes"), check) > 2
        await channel.aclose()


async def test_requests_of_the_session() -> None:
    async with served() as (client, _):
        word = b""

        async def prepare() -> None:
            nonlocal word
            word = b"word %d" % next(_numbers)

        async def check(completed: bool, reply: anyssh.Reply | None) -> None:
            await check_usable(client)
            if completed:
                assert reply is not None
                assert reply.payload == word
            assert not client._connection._replies
            assert not client._pending_replies

        turns = await cancelled_everywhere(
            lambda: client.request("mirror", word), check, prepare=prepare
        )
        assert turns > 2


async def test_replies_reach_who_asked_although_every_second_caller_is_cancelled() -> None:
    """HR-58, T-35."""
    async with served() as (client, _):
        got: dict[int, bytes] = {}

        async def ask(number: int) -> None:
            reply = await client.request("mirror", b"%d" % number)
            got[number] = reply.payload

        with anyio.fail_after(LIMIT):
            async with anyio.create_task_group() as group:
                for number in range(15):
                    if number % 2:
                        group.start_soon(cancel_after, 1 + number % 3, lambda n=number: ask(n))
                    else:
                        group.start_soon(ask, number)
        assert all(got[number] == b"%d" % number for number in got)
        assert set(got) >= set(range(0, 15, 2))
        await wait_for(lambda: not client._connection._replies)


async def test_answering_a_request() -> None:
    """A cancelled answer is given or can be given again."""
    async with pair() as (client, server):
        requests = aiter(server.requests())
        for verdict in (True, False):
            for turns in range(5):
                replies: list[anyssh.Reply] = []

                async def ask(replies: list[anyssh.Reply] = replies) -> None:
                    replies.append(await client.request("x"))

                with anyio.fail_after(LIMIT):
                    async with anyio.create_task_group() as group:
                        group.start_soon(ask)
                        request = await anext(requests)
                        answer = request.accept if verdict else request.reject
                        completed, _ = await cancel_after(turns, answer)
                        if not completed:
                            with suppress(anyssh.LocalProtocolError):
                                await answer()
                assert bool(replies[0]) is verdict


# Arrivals and facts


@pytest.mark.parametrize("how", ["accept", "accept a type", "iterate"])
async def test_accepting_channels(how: str) -> None:
    """An arrival is not lost when the one who would have taken it is cancelled."""
    async with pair() as (client, server):
        opened: list[anyssh.Channel] = []

        async def open_one() -> None:
            opened.append(await client.open_channel("kind"))

        async def accept() -> anyssh.Channel:
            match how:
                case "accept":
                    return await server.accept_channel()
                case "accept a type":
                    return await server.accept_channel("kind")
                case _:
                    opening = await anext(aiter(server.incoming_channels()))
                    return opening.accept_nowait()

        async with anyio.create_task_group() as group:
            for turns in range(8):
                group.start_soon(open_one)
                completed, channel = await cancel_after(turns, accept)
                if not completed:
                    with anyio.fail_after(LIMIT):
                        channel = await accept()
                assert isinstance(channel, anyssh.Channel)
        assert len(opened) == len(server.channels) == 8
        assert server._connection._undecided.opens == 0


@pytest.mark.parametrize("decision", ["accept", "reject"])
async def test_deciding_about_an_opening(decision: str) -> None:
    async with pair() as (client, server):
        for turns in range(4):
            results: list[object] = []

            async def open_one(results: list[object] = results) -> None:
                try:
                    results.append(await client.open_channel())
                except anyssh.ChannelOpenError as error:
                    results.append(error)

            with anyio.fail_after(LIMIT):
                async with anyio.create_task_group() as group:
                    group.start_soon(open_one)
                    opening = await anext(aiter(server.incoming_channels()))
                    decide = opening.accept if decision == "accept" else opening.reject
                    completed, _ = await cancel_after(turns, decide)
                    if not completed:
                        with suppress(anyssh.LocalProtocolError):
                            await decide()
            wanted = anyssh.Channel if decision == "accept" else anyssh.ChannelOpenError
            assert isinstance(results[0], wanted)
        assert server._connection._undecided.opens == 0


async def test_waiting_for_requests_and_facts() -> None:
    async with pair() as (client, server):
        channel, peer = await _open_between(client, server)
        requests, of_session = aiter(peer.requests()), aiter(server.requests())
        for turns in range(5):
            for iterator, asker in ((requests, channel), (of_session, client)):
                name = f"request {next(_numbers)}"
                await asker.request(name, want_reply=False)
                completed, request = await cancel_after(turns, partial(anext, iterator))
                if not completed:
                    with anyio.fail_after(LIMIT):
                        request = await anext(iterator)
                assert request.name == name
            for wait in (client.wait_closed, channel.wait_closed, lambda: anext(client.events())):
                completed, _ = await cancel_after(turns, wait)
                assert not completed
        with anyio.fail_after(LIMIT):
            await peer.aclose(exit_status=3)
            assert (await channel.wait_closed()).exit_status == 3


async def test_serving() -> None:
    """A cancelled ``serve`` closes its handlers' channels and leaves the session to others."""
    async with pair() as (client, server):
        for turns in range(0, 30, 2):
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_after, turns, lambda: server.serve(echo))
                group.start_soon(cancel_after, turns + 5, client.open_channel)
            async with anyio.create_task_group() as group:
                group.start_soon(server.serve, echo)
                await echoes(client)
                await settle()
                group.cancel_scope.cancel()
            await wait_for(
                lambda: (
                    client.channels == ()
                    or all(channel._closed is not None for channel in client.channels)
                )
            )


# Keys


@pytest.mark.parametrize("by_server", [False, True])
async def test_exchanging_keys(by_server: bool) -> None:
    async with served() as (client, server):
        session: anyssh.Session = server if by_server else client

        async def check(completed: bool, result: object) -> None:
            await check_usable(client)
            with anyio.fail_after(LIMIT):
                await session.rekey()

        assert await cancelled_everywhere(session.rekey, check) > 2


async def test_asking_for_a_service() -> None:
    async with served() as (client, _):

        async def check(completed: bool, result: object) -> None:
            await check_usable(client)
            with anyio.fail_after(LIMIT):
                try:
                    await client.request_service()
                except anyssh.LocalProtocolError:
                    await settle()

        assert await cancelled_everywhere(client.request_service, check) > 1


# The whole session


async def test_connecting() -> None:
    """Cancelled at any turn, both ends end, nothing is left, and the stream is closed."""

    async def attempt(turns: int) -> bool:
        near, far = streams()
        server_end = Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far), None, server_end)

            async def connect() -> None:
                async with client_of(near):
                    pass

            completed, _ = await cancel_after(turns, connect)
            assert near.closes == 1
            with anyio.fail_after(LIMIT):
                await server_end.ended.wait()
        assert isinstance(server_end.error, anyssh.SSHError)
        assert far.closes == 1
        return completed

    async with nothing_left_behind():
        for turns in range(MAX_TURNS):
            if await attempt(turns):
                break
        assert 5 < turns < MAX_TURNS - 1


async def test_accepting_a_connection() -> None:
    async def attempt(turns: int) -> bool:
        near, far = streams()
        client_end = Outcome()
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, client_of(near), None, client_end)

            async def accept() -> None:
                async with server_of().accept(far):
                    pass

            completed, _ = await cancel_after(turns, accept)
            assert far.closes == 1
            with anyio.fail_after(LIMIT):
                await client_end.ended.wait()
        assert isinstance(client_end.error, anyssh.SSHError)
        assert near.closes == 1
        return completed

    async with nothing_left_behind():
        for turns in range(MAX_TURNS):
            if await attempt(turns):
                break
        assert 5 < turns < MAX_TURNS - 1


async def _after_a_cancelled(
    operation: Callable[[anyssh.ClientSession], Awaitable[object]], turns: int
) -> tuple[bool, bool]:
    """Cancel an authentication; return whether it completed, and whether we then get in."""
    near, far = streams()
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far))
        async with client_of(near, credentials=None) as client:
            completed, _ = await cancel_after(turns, lambda: operation(client))
            if not client.is_authenticated:
                with anyio.fail_after(LIMIT):
                    # It may have come to an end before we could begin.
                    with suppress(anyssh.LocalProtocolError):
                        await client.authenticate(ALICE)
            return completed, client.is_authenticated
    raise AssertionError("not reached")


@pytest.mark.parametrize("what", ["right", "wrong", "query"])
async def test_authenticating(what: str) -> None:
    """A reply that comes after its caller has gone must not be taken for that of the next."""
    wrong = anyssh.ClientCredentials("alice", password="guess")
    key = anyssh.generate_key("ssh-ed25519")

    async def operation(client: anyssh.ClientSession) -> None:
        if what == "query":
            await client.query_public_key("alice", key)
        elif what == "right":
            await client.authenticate(ALICE)
        else:
            with pytest.raises(anyssh.AuthenticationError):
                await client.authenticate(wrong)

    # A refusal is delayed by the clock, not by turns.
    most = 16 if what == "wrong" else MAX_TURNS
    completed = False
    for turns in range(most):
        completed, is_in = await _after_a_cancelled(operation, turns)
        assert is_in, f"cancelled after {turns} turns"
        if completed:
            break
    assert completed or what == "wrong"


async def _cancel_scope_after(turns: int, scope: anyio.CancelScope) -> None:
    for _ in range(turns):
        await checkpoint()
    scope.cancel()


@pytest.mark.parametrize("how", ["disconnect", "aclose", "leave"])
async def test_ending(how: str) -> None:
    """Cancelling an end does not undo it: the peer is told, the stream is closed."""

    async def attempt(turns: int) -> bool:
        near, far = streams()
        server_end = Outcome()
        completed = False
        async with anyio.create_task_group() as group:
            group.start_soon(run_end, server_of().accept(far), None, server_end)
            with anyio.CancelScope() as scope:
                async with client_of(near) as client:
                    match how:
                        case "leave":
                            group.start_soon(_cancel_scope_after, turns, scope)
                        case "aclose":
                            completed, _ = await cancel_after(turns, client.aclose)
                        case _:
                            end = partial(client.disconnect, 9999, "enough")
                            completed, _ = await cancel_after(turns, end)
            if how == "leave":
                completed = not scope.cancelled_caught
                scope.cancel()
            with anyio.fail_after(LIMIT):
                await server_end.ended.wait()
        assert near.closes == far.closes == 1
        assert isinstance(server_end.error, anyssh.Disconnected)
        assert server_end.error.reason == (9999 if how == "disconnect" else 11)
        return completed

    async with nothing_left_behind():
        for turns in range(MAX_TURNS):
            if await attempt(turns):
                break
        assert turns < MAX_TURNS - 1


async def test_what_a_body_has_shielded_keeps_its_signs_of_life() -> None:
    """Timers of a session go on until it ends, on streams without a socket too."""
    lively = fast(keep_alive_interval=0.02, keep_alive_count=1000)
    near, far = streams()
    seen = []
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far))
        with anyio.CancelScope() as scope:
            async with client_of(near, config=lively) as client:
                scope.cancel()
                with anyio.fail_after(LIMIT, shield=True):
                    async for event in client.events():
                        seen.append(event)
                        if len(seen) == 3:
                            break
    assert len(seen) == 3


async def test_what_fails_while_it_is_cancelled_is_not_lost() -> None:
    """A task group would wrap both; of the two it is the failure that somebody has to know."""

    class Slow(anyssh.SessionService):
        activations = (anyssh.ServiceActivation(session_request="slow"),)

        async def aclose(self) -> None:
            for _ in range(100):  # longer than the stream takes to close
                await checkpoint()

    async def fail_while_cancelled() -> None:
        with anyio.CancelScope() as scope:
            async with client_of(near, services={Slow: None}) as client:
                client.service(Slow)
                await settle()
                scope.cancel()
                raise KeyError("mine")

    near, far = streams()
    async with anyio.create_task_group() as group:
        group.start_soon(run_end, server_of().accept(far))
        with pytest.raises(KeyError):
            await fail_while_cancelled()
