"""Channels between two sessions: opening, bytes, windows, standard error, ends, attributes."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
from anyio import TypedAttributeLookupError
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint

import anyssh
from anyssh import ChannelOpenFailureReason as Reason
from anyssh.testing import session_pair
from tests.session.ends import (
    ALICE,
    Call,
    at_once,
    channel_pair,
    make_server,
    pinned,
    receive_all,
    receive_exactly,
    settle,
)

MIB = 1024 * 1024
PACKET = 32 * 1024

Pair = tuple[anyssh.Session, anyssh.Session]


@pytest.fixture(params=["client opens", "server opens"])
def ends(request: pytest.FixtureRequest) -> Callable[..., AsyncIterator[Pair]]:
    """Gives ``async with ends() as (opener, acceptor)`` in both roles."""

    @asynccontextmanager
    async def open_ends(**options: object) -> AsyncIterator[Pair]:
        async with session_pair(**options) as (client, server):  # type: ignore[arg-type]
            yield (client, server) if request.param == "client opens" else (server, client)

    return open_ends


async def accept_next(session: anyssh.Session, **options: object) -> anyssh.Channel:
    opening = await anext(session.incoming_channels())
    return await opening.accept(**options)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# Opening


async def test_both_ends_open_channels_and_agree_on_their_numbers(ends) -> None:
    async with ends() as (opener, acceptor):
        for _ in range(2):  # the numbers differ between the ends from the second on
            near, far = await channel_pair(opener, acceptor)
            assert near.channel_type == far.channel_type == "session"
            assert near.channel_id == far.remote_channel_id
            assert near.remote_channel_id == far.channel_id
            await channel_pair(acceptor, opener)


async def test_a_type_of_its_own_is_known_at_both_ends(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor, channel_type="weather@example.com")
        assert near.channel_type == far.channel_type == "weather@example.com"


async def test_accept_waits_until_a_channel_comes(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        accepting = Call(group, acceptor.accept_channel)
        await settle()
        assert not accepting.is_done
        near = await opener.open_channel()
        assert (await accepting.result()).remote_channel_id == near.channel_id


async def test_channels_wait_until_they_are_asked_for_in_any_order_of_types(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        opened = {name: Call(group, partial(opener.open_channel, name)) for name in "abc"}
        await settle()
        assert not any(call.is_done for call in opened.values())
        for name in "cab":
            far = await acceptor.accept_channel(name)
            assert far.channel_type == name
            assert far.remote_channel_id == (await opened[name].result()).channel_id


async def test_accept_without_a_type_takes_the_channels_in_their_order(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        for name in ("first", "second", "third"):
            Call(group, partial(opener.open_channel, name))
            await settle()
        types = [(await acceptor.accept_channel()).channel_type for _ in range(3)]
        assert types == ["first", "second", "third"]


async def test_those_who_wait_for_a_type_each_get_theirs(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        waiting = {name: Call(group, partial(acceptor.accept_channel, name)) for name in "abcd"}
        await settle()
        for name in "dbca":
            near = await opener.open_channel(name)
            assert (await waiting[name].result()).remote_channel_id == near.channel_id


async def test_a_type_that_nobody_takes_holds_up_no_other(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        unwanted = Call(group, partial(opener.open_channel, "unwanted"))
        near, far = await at_once(opener.open_channel("wanted"), acceptor.accept_channel("wanted"))
        await near.send(b"hello")
        assert await far.receive() == b"hello"
        assert not unwanted.is_done
        unwanted.scope.cancel()


async def test_25_channels_that_nobody_accepts_hold_up_nothing(ends) -> None:
    """HR-05."""
    async with anyio.create_task_group() as group:
        async with ends() as (opener, acceptor):
            near, far = await channel_pair(opener, acceptor)
            waiting = [Call(group, opener.open_channel) for _ in range(25)]
            await settle()
            await near.send(b"still here")
            assert await far.receive() == b"still here"
            await far.send(b"and back")
            assert await near.receive() == b"and back"
            assert not any(call.is_done for call in waiting)
            with anyio.fail_after(1):
                await acceptor.aclose()
        for call in waiting:
            with pytest.raises(anyssh.SSHError):
                await call.result()


async def test_channels_beyond_the_bound_are_refused_until_some_are_accepted(ends) -> None:
    limits = anyssh.Limits(unaccepted_channels=3)
    config = anyssh.SessionConfig(limits=limits)
    both = {"client_config": config, "server_config": config}
    async with ends(**both) as (opener, acceptor), anyio.create_task_group() as group:
        waiting = [Call(group, opener.open_channel) for _ in range(3)]
        await settle()
        with pytest.raises(anyssh.ChannelOpenError) as caught:
            await opener.open_channel()
        assert caught.value.reason == Reason.RESOURCE_SHORTAGE
        await acceptor.accept_channel()
        waiting.append(Call(group, opener.open_channel))
        for _ in range(3):
            await acceptor.accept_channel()
        for call in waiting:
            await call.result()


@pytest.mark.parametrize("channel_type", [None, "session"])
async def test_accept_can_be_cancelled_and_loses_no_channel(ends, channel_type) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        accepting = Call(group, partial(acceptor.accept_channel, channel_type))
        await settle()
        accepting.scope.cancel()
        await accepting.done.wait()
        assert accepting.value is None
        near, far = await channel_pair(opener, acceptor)
        assert near.channel_id == far.remote_channel_id


async def test_accept_that_is_cancelled_as_a_channel_comes_does_not_lose_it(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        opening = Call(group, opener.open_channel)
        await settle()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await acceptor.accept_channel()
        assert scope.cancelled_caught
        far = await acceptor.accept_channel()
        assert (await opening.result()).channel_id == far.remote_channel_id


async def test_an_open_that_is_cancelled_before_it_starts_sends_nothing(ends) -> None:
    async with ends() as (opener, acceptor):
        before = opener.metrics
        with anyio.CancelScope() as scope:
            scope.cancel()
            await opener.open_channel()
        assert scope.cancelled_caught
        await settle()
        assert opener.metrics == before
        assert opener.channels == ()
        await channel_pair(opener, acceptor)


async def test_an_open_that_is_cancelled_while_it_waits_is_closed_when_it_is_accepted(
    ends,
) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        opening = Call(group, opener.open_channel)
        await settle()
        opening.scope.cancel()
        await opening.done.wait()
        assert opening.value is None
        far = await acceptor.accept_channel()
        assert await far.wait_closed() == anyssh.ChannelClosed()
        with pytest.raises(anyio.EndOfStream):
            await far.receive()
        near, far = await channel_pair(opener, acceptor)
        await near.send(b"as usual")
        assert await far.receive() == b"as usual"


async def test_an_open_that_is_cancelled_may_still_be_refused(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        opening = Call(group, opener.open_channel)
        await settle()
        opening.scope.cancel()
        await opening.done.wait()
        await (await anext(acceptor.incoming_channels())).reject()
        await channel_pair(opener, acceptor)


@pytest.mark.parametrize("reason", [*Reason, 0xFE00_0001])
async def test_a_refusal_carries_its_reason_and_text(ends, reason: int) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        opening = Call(group, opener.open_channel)
        await (await anext(acceptor.incoming_channels())).reject(reason, "not today: ütf-8")
        with pytest.raises(anyssh.ChannelOpenError) as caught:
            await opening.result()
        assert caught.value.reason == reason
        assert caught.value.description == "not today: ütf-8"
        assert opener.channels == acceptor.channels == ()
        await channel_pair(opener, acceptor)


async def test_a_refusal_needs_no_reason(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        opening = Call(group, opener.open_channel)
        await (await anext(acceptor.incoming_channels())).reject()
        with pytest.raises(anyssh.ChannelOpenError) as caught:
            await opening.result()
        assert caught.value.reason == Reason.ADMINISTRATIVELY_PROHIBITED
        assert caught.value.description == ""


@pytest.mark.parametrize("first", ["accept", "reject"])
@pytest.mark.parametrize("second", ["accept", "reject"])
async def test_an_opening_is_decided_once(ends, first: str, second: str) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        opening = Call(group, opener.open_channel)
        offer = await anext(acceptor.incoming_channels())
        await getattr(offer, first)()
        with pytest.raises(anyssh.LocalProtocolError):
            await getattr(offer, second)()
        await opening.done.wait()
        assert (opening.error is None) == (first == "accept")
        assert len(opener.channels) == len(acceptor.channels) == (first == "accept")


async def test_accept_nowait_needs_no_await(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        opening = Call(group, opener.open_channel)
        offer = await anext(acceptor.incoming_channels())
        far = offer.accept_nowait(payload=b"at once")
        assert (await opening.result()).open_payload == b"at once"
        assert repr(offer) == "<ChannelOpening 'session'>"
        assert far in acceptor.channels


async def test_payloads_travel_both_ways(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        opening = Call(group, partial(opener.open_channel, payload=b"from the opener\x00\xff"))
        offer = await anext(acceptor.incoming_channels())
        assert offer.channel_type == "session"
        assert offer.payload == b"from the opener\x00\xff"
        far = await offer.accept(payload=b"from the acceptor")
        near = await opening.result()
        assert near.open_payload == b"from the acceptor"
        assert far.open_payload == b"from the opener\x00\xff"


async def test_bytes_that_the_acceptor_sends_at_once_reach_the_opener(ends) -> None:
    async with ends() as (opener, acceptor):

        async def greet() -> None:
            channel = await acceptor.accept_channel()
            await channel.send(b"welcome")

        near, _ = await at_once(opener.open_channel(), greet())
        assert await near.receive() == b"welcome"


async def test_a_request_goes_out_with_the_open(ends) -> None:
    async with ends() as (opener, acceptor):

        async def run() -> tuple[str, bytes]:
            channel = await acceptor.accept_channel()
            request = await anext(channel.requests())
            await request.accept()
            return request.name, request.payload

        request = anyssh.ChannelRequest("exec", anyssh.wire.string("true"))
        _, seen = await at_once(opener.open_channel(request=request), run())
        assert seen == ("exec", anyssh.wire.string("true"))


async def test_a_denied_request_closes_the_channel_again(ends) -> None:
    async with ends() as (opener, acceptor):

        async def refuse() -> anyssh.ChannelClosed:
            channel = await acceptor.accept_channel()
            await (await anext(channel.requests())).reject()
            return await channel.wait_closed()

        async def open_with_request() -> None:
            with pytest.raises(anyssh.RequestDenied, match="'exec'"):
                await opener.open_channel(request=anyssh.ChannelRequest("exec"))

        _, closed = await at_once(open_with_request(), refuse())
        assert closed == anyssh.ChannelClosed()
        await settle()
        assert opener.channels == acceptor.channels == ()


@pytest.mark.parametrize("end", ["the channel", "the session"])
@pytest.mark.parametrize("early", [True, False])
async def test_an_end_denies_a_request_that_waits(ends, end: str, early: bool) -> None:
    """Of a session that has ended, its error counts."""
    async with ends() as (opener, acceptor):

        async def leave() -> None:
            channel = await acceptor.accept_channel()
            if not early:
                await anext(channel.requests())
            await (channel if end == "the channel" else acceptor).aclose()

        async def open_with_request() -> None:
            with pytest.raises(anyssh.SSHError) as caught:
                await opener.open_channel(request=anyssh.ChannelRequest("exec"))
            denied = end == "the channel"
            assert type(caught.value) is (anyssh.RequestDenied if denied else anyssh.Disconnected)

        await at_once(open_with_request(), leave())


async def test_an_open_does_not_wait_for_a_request_without_reply(ends) -> None:
    async with ends() as (opener, acceptor):
        request = anyssh.ChannelRequest("env", want_reply=False)
        near, far = await channel_pair(opener, acceptor, request=request)
        assert (await anext(far.requests())).name == "env"
        assert near in opener.channels


async def test_sequential_channels_have_different_numbers(ends) -> None:
    async with ends() as (opener, acceptor):
        seen = set()
        for _ in range(5):
            near, far = await channel_pair(opener, acceptor)
            seen.add((near.channel_id, far.channel_id))
            await near.aclose()
            await far.aclose()
        assert len({near for near, _ in seen}) == len({far for _, far in seen}) == 5


async def test_more_channels_than_the_limit_are_refused_here_without_harm(ends) -> None:
    config = anyssh.SessionConfig(limits=anyssh.Limits(channels=2))
    async with ends(client_config=config, server_config=config) as (opener, acceptor):
        near, _ = await channel_pair(opener, acceptor)
        await channel_pair(opener, acceptor)
        with pytest.raises(anyssh.LocalProtocolError, match="limit of open channels, 2"):
            await opener.open_channel()
        await near.aclose()
        await settle()
        await channel_pair(opener, acceptor)


# Many channels


async def test_parallel_channels_do_not_mix_their_bytes(ends) -> None:
    async with ends() as (opener, acceptor):
        pairs = [await channel_pair(opener, acceptor) for _ in range(10)]
        received: dict[int, bytes] = {}

        async def exchange(number: int) -> None:
            near, far = pairs[number]

            async def send() -> None:
                for part in range(50):
                    await near.send(b"%d:%d;" % (number, part) * 20)
                await near.send_eof()

            _, received[number] = await at_once(send(), receive_all(far))

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(exchange, number)
        for number in range(10):
            expected = b"".join(b"%d:%d;" % (number, part) * 20 for part in range(50))
            assert received[number] == expected


async def test_200_channels_in_parallel_each_with_a_request_and_data(ends) -> None:
    config = anyssh.SessionConfig(limits=anyssh.Limits(unaccepted_channels=200))
    both = {"client_config": config, "server_config": config}
    answers: dict[int, bytes] = {}

    async def answer(channel: anyssh.Channel) -> None:
        request = await anext(channel.requests())
        await request.accept()
        text = await channel.receive()
        await channel.send(request.payload + b" " + text)

    async def ask(opener: anyssh.Session, number: int) -> None:
        request = anyssh.ChannelRequest("exec", b"%d" % number)
        async with await opener.open_channel(request=request) as channel:
            await channel.send(b"data %d" % number)
            answers[number] = await receive_all(channel)

    async with anyio.create_task_group() as serving, ends(**both) as (opener, acceptor):
        serving.start_soon(acceptor.serve, answer)
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(ask, opener, number)
        await settle()
        assert opener.channels == acceptor.channels == ()
    assert answers == {number: b"%d data %d" % (number, number) for number in range(200)}


# The end


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, anyssh.ChannelClosed()),
        ({"exit_status": 0}, anyssh.ChannelClosed(exit_status=0)),
        ({"exit_status": 11}, anyssh.ChannelClosed(exit_status=11)),
        ({"exit_status": 2**32 - 1}, anyssh.ChannelClosed(exit_status=2**32 - 1)),
        (
            {"signal": "KILL", "message": "process killed"},
            anyssh.ChannelClosed(exit_signal="KILL", message="process killed"),
        ),
        ({"signal": "TERM"}, anyssh.ChannelClosed(exit_signal="TERM", message="")),
    ],
)
async def test_both_ends_learn_how_a_channel_closed(ends, options, expected) -> None:
    async with ends() as (opener, acceptor):
        for swapped in (False, True):
            closer, other = await channel_pair(opener, acceptor)
            if swapped:
                closer, other = other, closer
            await closer.aclose(**options)
            assert await closer.wait_closed() == expected
            assert await other.wait_closed() == expected
            assert await other.wait_closed() == expected  # as often as one asks
        near, far = await channel_pair(opener, acceptor)
        await near.send(b"the session goes on")
        assert await far.receive() == b"the session goes on"


@pytest.mark.parametrize("options", [{"exit_status": -1}, {"exit_status": 2**32}])
async def test_an_impossible_status_is_refused_and_changes_nothing(ends, options) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        with pytest.raises((ValueError, anyssh.LocalProtocolError)):
            await near.aclose(**options)
        await near.send(b"still open")
        assert await far.receive() == b"still open"


async def test_a_status_and_a_signal_exclude_each_other(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        with pytest.raises(ValueError, match="not both"):
            await near.aclose(exit_status=0, signal="KILL")
        await near.send(b"still open")
        assert await far.receive() == b"still open"


async def test_only_the_first_close_counts(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        await near.aclose(exit_status=1)
        await near.aclose(exit_status=2)
        assert (await far.wait_closed()).exit_status == 1
        assert (await near.wait_closed()).exit_status == 1


async def test_closing_what_the_peer_has_closed_does_no_harm(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        await near.aclose(exit_status=1)
        assert (await far.wait_closed()).exit_status == 1
        await far.aclose(exit_status=2)
        assert (await far.wait_closed()).exit_status == 1
        await channel_pair(opener, acceptor)


async def test_leaving_the_block_closes_the_channel(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        async with near:
            await near.send(b"x")
        with pytest.raises(anyio.ClosedResourceError):
            await near.send(b"x")
        assert await far.receive() == b"x"
        with pytest.raises(anyio.EndOfStream):
            await far.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await far.send(b"x")


async def test_bytes_sent_before_the_close_are_still_received(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        data = noise(200_000)
        await near.send(data)
        await near.send_stderr(b"and an error")
        await near.aclose(exit_status=42)
        assert await far.wait_closed() == anyssh.ChannelClosed(exit_status=42)
        assert await receive_all(far) == data
        assert await receive_all(far.stderr) == b"and an error"
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await far.receive()


async def test_a_close_ends_a_send_that_waits_at_the_other_end(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        near, far = await channel_pair(opener, acceptor)
        sending = Call(group, partial(near.send, bytes(2 * MIB)))
        await settle()
        assert not sending.is_done
        await far.aclose()
        with pytest.raises(anyio.BrokenResourceError):
            await sending.result()


async def test_wait_closed_waits(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        near, far = await channel_pair(opener, acceptor)
        waiting = [Call(group, channel.wait_closed) for channel in (near, near, far)]
        await settle()
        assert not any(call.is_done for call in waiting)
        await far.aclose(exit_status=3)
        for call in waiting:
            assert (await call.result()).exit_status == 3


async def test_a_session_that_ends_closes_its_channels_with_its_error(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        await far.send(b"the last words")
        await settle()
        await acceptor.disconnect(11, "enough")
        closed = await near.wait_closed()
        assert isinstance(closed.error, anyssh.Disconnected)
        assert (closed.error.reason, closed.error.description) == (11, "enough")
        assert closed.exit_status is closed.exit_signal is closed.message is None
        assert await near.receive() == b"the last words"
        for _ in range(2):
            with pytest.raises(anyio.BrokenResourceError) as caught:
                await near.receive()
            assert isinstance(caught.value.__cause__, anyssh.Disconnected)
        with pytest.raises(anyio.BrokenResourceError):
            await near.send(b"x")
        with pytest.raises(anyio.BrokenResourceError):
            await near.request("x")
        assert (await far.wait_closed()).error is not None
        await near.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await near.receive()


async def test_a_session_that_ends_wakes_everybody_on_its_channels(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        near, _ = await channel_pair(opener, acceptor)
        near.requests()
        calls = [
            Call(group, near.receive),
            Call(group, near.stderr.receive),
            Call(group, partial(near.send, bytes(2 * MIB))),
            Call(group, partial(near.request, "hello")),
        ]
        closing = Call(group, near.wait_closed)
        await settle()
        assert not any(call.is_done for call in calls)
        await acceptor.aclose()
        for call in calls:
            with pytest.raises(anyio.BrokenResourceError):
                await call.result()
        assert (await closing.result()).error is not None


# Bytes


@pytest.mark.parametrize("size", [1, 2032, PACKET - 1, PACKET, PACKET + 1, 3 * PACKET + 7])
async def test_data_of_every_size_comes_back_from_an_echo(ends, size: int) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        near, far = await channel_pair(opener, acceptor)

        async def echo() -> None:
            async for chunk in far:
                await far.send(chunk)
            await far.send_eof()

        group.start_soon(echo)
        data = noise(size)
        await near.send(data)
        await near.send_eof()
        assert await receive_all(near) == data
        assert near.metrics == far.metrics == anyssh.ChannelMetrics(size, size)


async def test_nothing_sent_is_no_end(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        before = opener.metrics.messages_sent
        for _ in range(3):
            await near.send(b"")
            await near.send_stderr(b"")
        await settle()
        assert opener.metrics.messages_sent == before
        await near.send(b"x")
        assert await far.receive() == b"x"


async def test_an_end_alone_is_the_end(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        await near.send_eof()
        assert await receive_all(far) == b""
        assert await receive_all(far.stderr) == b""
        await far.send(b"the other half is open")
        assert await near.receive() == b"the other half is open"
        with pytest.raises(anyio.ClosedResourceError):
            await near.send(b"x")
        with pytest.raises(anyio.ClosedResourceError):
            await near.send_stderr(b"x")


async def test_both_halves_close_one_by_one(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        await near.send(b"question")
        await near.send_eof()
        assert await receive_all(far) == b"question"
        await far.send(b"answer")
        await far.send_eof()
        assert await receive_all(near) == b"answer"
        # Two ends are no close.
        assert near in opener.channels
        assert far in acceptor.channels
        assert not await near.request("keepalive@openssh.com")
        await near.aclose(exit_status=5)
        assert (await far.wait_closed()).exit_status == 5


@pytest.mark.parametrize("wrap", [bytearray, memoryview])
async def test_a_slice_is_sent_alone_and_can_change_afterwards(ends, wrap) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        buffer = bytearray(b"....data....")
        await near.send(wrap(memoryview(buffer)[4:8]))
        buffer[:] = b"xxxxxxxxxxxx"
        assert await far.receive() == b"data"


async def test_256_sends_keep_their_order(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        parts = [bytes([number]) * 1024 for number in range(256)]

        async def send() -> None:
            for part in parts:
                await near.send(part)
            await near.send_eof()

        _, received = await at_once(send(), receive_all(far))
        assert received == b"".join(parts)


async def test_two_large_sends_follow_each_other(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        first, second = noise(MIB * 5 // 2), noise(MIB * 5 // 2 + 1)

        async def send() -> None:
            await near.send(first)
            await near.send(second)
            await near.send_eof()

        _, received = await at_once(send(), receive_all(far))
        assert received == first + second


@pytest.mark.parametrize("windows", [(1, 1), (1, 5), (5, 1)], ids=str)
@pytest.mark.parametrize("mebibytes", [2.5, 3.5])
async def test_transfers_through_windows_of_every_size(
    ends, windows: tuple[int, int], mebibytes: float
) -> None:
    config = anyssh.SessionConfig(limits=anyssh.Limits(receive_memory=128 * MIB))
    data = noise(int(mebibytes * MIB))

    async def send(channel: anyssh.Channel) -> None:
        await channel.send(data)
        await channel.send_eof()

    async with ends(client_config=config, server_config=config) as (opener, acceptor):
        near, far = await at_once(
            opener.open_channel(window_size=windows[0] * MIB),
            accept_next(acceptor, window_size=windows[1] * MIB),
        )
        there, back = b"", b""
        async with anyio.create_task_group() as group:
            group.start_soon(send, near)
            group.start_soon(send, far)
            there, back = await at_once(receive_all(far), receive_all(near))
        assert there == data
        assert back == data


# Windows


@pytest.mark.parametrize("window", [PACKET, 40_000, 4 * PACKET])
async def test_the_opener_grants_the_window_that_it_asks_for(ends, window: int) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor, window_size=window)
        await expect_window(far, near, window)
        await expect_window(near, far, MIB)


@pytest.mark.parametrize("window", [PACKET, 40_000, 4 * PACKET])
async def test_the_acceptor_grants_the_window_that_it_asks_for(ends, window: int) -> None:
    async with ends() as (opener, acceptor):
        near, far = await at_once(opener.open_channel(), accept_next(acceptor, window_size=window))
        await expect_window(near, far, window)
        await expect_window(far, near, MIB)


async def test_the_configuration_sets_the_window_of_each_end() -> None:
    client_config = anyssh.SessionConfig(window_size=2 * PACKET)
    server_config = anyssh.SessionConfig(window_size=3 * PACKET)
    async with session_pair(client_config=client_config, server_config=server_config) as ends:
        near, far = await channel_pair(*ends)
        await expect_window(far, near, 2 * PACKET)
        await expect_window(near, far, 3 * PACKET)


@pytest.mark.parametrize("size", [0, 2**32])
async def test_an_impossible_window_is_refused_and_changes_nothing(ends, size: int) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        with pytest.raises(anyssh.LocalProtocolError):
            await opener.open_channel(window_size=size)
        assert opener.channels == ()
        opening = Call(group, opener.open_channel)
        offer = await anext(acceptor.incoming_channels())
        with pytest.raises(anyssh.LocalProtocolError):
            await offer.accept(window_size=size)
        await offer.accept()
        await opening.result()


async def expect_window(sender: anyssh.Channel, receiver: anyssh.Channel, window: int) -> None:
    """Fill a window that nobody has used; see that it has this size, and empty it again."""
    async with anyio.create_task_group() as group:
        await sender.send(bytes(window))
        beyond = Call(group, partial(sender.send, b"one more"))
        await settle()
        assert not beyond.is_done
        assert sender.metrics.bytes_sent == receiver.metrics.bytes_received == window
        assert await receive_exactly(receiver, window + 8) == bytes(window) + b"one more"
        await beyond.result()


async def test_twice_the_window_waits_after_one_window(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        near, far = await channel_pair(opener, acceptor)
        data = noise(2 * MIB)
        sending = Call(group, partial(near.send, data))
        await settle()
        assert not sending.is_done
        assert near.metrics.bytes_sent == far.metrics.bytes_received == MIB
        # Less than half of the window is not given back.
        received = await receive_exactly(far, MIB // 2 - 1)
        await settle()
        assert near.metrics.bytes_sent == MIB
        received += await receive_exactly(far, 1)
        await settle()
        assert near.metrics.bytes_sent == MIB + MIB // 2
        received += await receive_exactly(far, 2 * MIB - len(received))
        await sending.result()
        assert received == data


async def test_a_send_stops_and_goes_on_many_times(ends) -> None:
    window = 2 * PACKET
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        near, far = await at_once(opener.open_channel(), accept_next(acceptor, window_size=window))
        data = noise(8 * window)
        sending = Call(group, partial(near.send, data))
        received = b""
        while len(received) < len(data):
            await settle()
            ahead = near.metrics.bytes_sent - len(received)
            assert ahead == min(window, len(data) - len(received))
            received += await receive_exactly(far, window // 2)
        await sending.result()
        assert received == data


async def test_what_nobody_receives_is_kept_in_order(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        for number in range(200):
            await near.send(b"%d," % number)
        await near.send_eof()
        await settle()
        assert await receive_all(far) == b"".join(b"%d," % number for number in range(200))


async def test_little_data_is_sent_without_window_adjustments(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        before = acceptor.metrics.messages_sent
        for _ in range(10):
            await near.send(bytes(1000))
            await receive_exactly(far, 1000)
        await settle()
        assert acceptor.metrics.messages_sent == before
        await near.send(bytes(MIB // 2))
        await receive_exactly(far, MIB // 2)
        await settle()
        assert acceptor.metrics.messages_sent == before + 1


async def test_windows_of_channels_do_not_depend_on_each_other(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        full, _ = await channel_pair(opener, acceptor)
        sending = Call(group, partial(full.send, bytes(2 * MIB)))
        near, far = await channel_pair(opener, acceptor)
        await settle()
        assert not sending.is_done
        await near.send(bytes(MIB))
        assert await receive_exactly(far, MIB) == bytes(MIB)
        await far.send(b"back")
        assert await near.receive() == b"back"
        sending.scope.cancel()


async def test_a_cancelled_send_tells_what_it_sent_and_can_be_followed(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        near, far = await channel_pair(opener, acceptor)
        data = noise(2 * MIB)
        sending = Call(group, partial(near.send, data))
        await settle()
        sending.scope.cancel()
        await sending.done.wait()
        sent = near.metrics.bytes_sent
        assert sent == MIB
        following = Call(group, partial(near.send, data[sent:]))
        assert await receive_exactly(far, 2 * MIB) == data
        await following.result()


# Standard error


async def test_standard_error_is_a_stream_of_its_own_in_both_directions(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        for sender, receiver in ((near, far), (far, near)):
            await sender.send(b"out 1,")
            await sender.send_stderr(b"CLIENT_STDERR_DATA")
            await sender.send(b"out 2")
            await sender.send_eof()
            assert await receive_all(receiver.stderr) == b"CLIENT_STDERR_DATA"
            assert await receive_all(receiver) == b"out 1,out 2"
            with pytest.raises(anyio.EndOfStream):
                await receiver.stderr.receive()


async def test_a_reader_of_standard_error_waits_for_it(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        near, far = await channel_pair(opener, acceptor)
        reading = Call(group, near.stderr.receive)
        await far.send(b"this is not for it")
        await settle()
        assert not reading.is_done
        await far.send_stderr(b"this is")
        assert await reading.result() == b"this is"


async def test_large_output_of_both_kinds_arrives_whole(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        out, err = noise(MIB + 1), noise(MIB + 2)

        async def send() -> None:
            await near.send(out)
            await near.send_stderr(err)
            await near.send_eof()

        received: list[bytes] = []

        async def receive() -> None:
            received.extend(await at_once(receive_all(far), receive_all(far.stderr)))

        await at_once(send(), receive())
        assert received == [out, err]


async def test_standard_error_that_nobody_reads_holds_up_the_channel(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        near, far = await channel_pair(opener, acceptor)
        await near.send_stderr(bytes(MIB))
        sending = Call(group, partial(near.send, b"held up"))
        await settle()
        assert not sending.is_done
        assert await receive_exactly(far.stderr, MIB) == bytes(MIB)
        await sending.result()
        assert await far.receive() == b"held up"


@pytest.mark.parametrize("when", ["before it comes", "after it came"])
async def test_closing_standard_error_discards_it_and_frees_the_window(ends, when: str) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        if when == "before it comes":
            await far.stderr.aclose()
        await near.send_stderr(bytes(MIB))
        await settle()
        await far.stderr.aclose()
        await far.stderr.aclose()
        for _ in range(3):
            await near.send_stderr(bytes(MIB))
        await near.send(b"the rest goes on")
        assert await far.receive() == b"the rest goes on"
        assert far.metrics.bytes_received == 4 * MIB + 16
        with pytest.raises(anyio.ClosedResourceError):
            await far.stderr.receive()


async def test_closing_standard_error_wakes_its_reader(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        near, _ = await channel_pair(opener, acceptor)
        reading = Call(group, near.stderr.receive)
        await settle()
        await near.stderr.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await reading.result()


async def test_standard_error_keeps_the_rules_of_byte_streams(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        near, far = await channel_pair(opener, acceptor)
        for size in (0, -1):
            with pytest.raises(ValueError, match="max_bytes"):
                await near.stderr.receive(size)
        reading = Call(group, near.stderr.receive)
        await settle()
        with pytest.raises(anyio.BusyResourceError):
            await near.stderr.receive()
        reading.scope.cancel()
        await reading.done.wait()
        await far.send_stderr(b"0123456789")
        await settle()
        assert await near.stderr.receive(4) == b"0123"
        assert await near.stderr.receive() == b"456789"
        await near.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await near.stderr.receive()


# What a channel tells of itself


async def test_channels_lists_those_that_are_open(ends) -> None:
    async with ends() as (opener, acceptor):
        assert opener.channels == acceptor.channels == ()
        near, far = await channel_pair(opener, acceptor)
        assert opener.channels == (near,)
        assert acceptor.channels == (far,)
        await near.aclose()
        assert opener.channels == ()
        await far.wait_closed()
        assert acceptor.channels == ()


async def test_channels_does_not_list_what_is_not_open_yet(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        opening = Call(group, opener.open_channel)
        await settle()
        assert opener.channels == acceptor.channels == ()
        await acceptor.accept_channel()
        near = await opening.result()
        assert opener.channels == (near,)


async def test_metrics_count_data_of_both_kinds_and_nothing_else(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        assert near.metrics == anyssh.ChannelMetrics(0, 0)
        snapshot = near.metrics
        await near.send(bytes(100_000))
        await near.send_stderr(bytes(234))
        await far.send(bytes(56))
        await near.request("ignored", bytes(1000), want_reply=False)
        await settle()
        assert near.metrics == anyssh.ChannelMetrics(bytes_sent=100_234, bytes_received=56)
        assert far.metrics == anyssh.ChannelMetrics(bytes_sent=56, bytes_received=100_234)
        assert snapshot == anyssh.ChannelMetrics(0, 0)
        await near.aclose()
        assert near.metrics == anyssh.ChannelMetrics(bytes_sent=100_234, bytes_received=56)


async def test_a_channel_shows_what_it_is(ends) -> None:
    async with ends() as (opener, acceptor), anyio.create_task_group() as group:
        opening = Call(group, partial(opener.open_channel, "weather"))
        far = await acceptor.accept_channel()
        near = await opening.result()
        assert repr(near) == f"<Channel 'weather' {near.channel_id} open>"
        await far.aclose()
        await near.wait_closed()
        assert repr(near) == f"<Channel 'weather' {near.channel_id} closed>"


async def test_channels_and_sessions_answer_for_their_attributes() -> None:
    async with session_pair() as (client, server):
        near, far = await channel_pair(client, server, channel_type="weather")
        for channel, session in ((near, client), (far, server)):
            assert channel.extra(anyssh.SSHAttribute.channel_type) == "weather"
            assert channel.stderr.extra(anyssh.SSHAttribute.channel_type) == "weather"
            for provider in (session, channel):
                version = provider.extra(anyssh.SSHAttribute.peer_version)
                assert version == session.peer_version
                assert version.name == "anyssh"
                assert provider.extra(anyssh.SSHAttribute.algorithms) == session.algorithms
            with pytest.raises(TypedAttributeLookupError):
                session.extra(anyssh.SSHAttribute.channel_type)
        for provider in (client, near):
            assert provider.extra(anyssh.SSHAttribute.host_key) == client.host_key
            with pytest.raises(TypedAttributeLookupError):
                provider.extra(anyssh.SSHAttribute.principal)
        for provider in (server, far):
            assert provider.extra(anyssh.SSHAttribute.principal) == server.principal
            with pytest.raises(TypedAttributeLookupError):
                provider.extra(anyssh.SSHAttribute.host_key)
        assert near.extra(SocketAttribute.remote_port, None) is None


async def test_attributes_of_the_socket_show_through(free_tcp_port: int) -> None:
    seen: list[tuple[str, int]] = []

    async def handle(session: anyssh.ServerSession) -> None:
        channel = await session.accept_channel()
        seen.append(channel.extra(SocketAttribute.remote_address))
        assert session.extra(SocketAttribute.local_port) == free_tcp_port
        await channel.send(b"noted")
        await session.wait_closed()

    server = make_server()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=free_tcp_port)
    async with listener, anyio.create_task_group() as group:
        await group.start(server.serve, listener, handle)
        async with anyssh.ClientSession.connect(
            await anyio.connect_tcp("127.0.0.1", free_tcp_port),
            credentials=ALICE,
            verify_host=pinned(),
        ) as session:
            channel = await session.open_channel()
            assert channel.extra(SocketAttribute.remote_address) == ("127.0.0.1", free_tcp_port)
            assert session.extra(SocketAttribute.remote_port) == free_tcp_port
            assert await channel.receive() == b"noted"
            assert seen == [channel.extra(SocketAttribute.local_address)]
        group.cancel_scope.cancel()
    await checkpoint()


@pytest.mark.nightly
@pytest.mark.timeout(600)
async def test_a_gibibyte_through_one_channel() -> None:
    """ROB-05: whole, and without a trace of it in memory."""
    piece, count = os.urandom(MIB), 1024
    expected, got = hashlib.sha256(), hashlib.sha256()
    async with session_pair() as (client, server):
        ours, theirs = await channel_pair(client, server)

        async def send() -> None:
            for number in range(count):
                stamped = number.to_bytes(4) + piece[4:]
                expected.update(stamped)
                await ours.send(stamped)
            await ours.send_eof()

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            gc.collect()
            before = sys.getallocatedblocks()
            async for chunk in theirs:
                got.update(chunk)
            gc.collect()
            assert sys.getallocatedblocks() - before < 5000
    assert theirs.metrics.bytes_received == count * MIB
    assert got.digest() == expected.digest()


async def test_a_channel_tells_whether_receive_would_wait(ends) -> None:
    async with ends() as (opener, acceptor):
        near, far = await channel_pair(opener, acceptor)
        assert not near.is_readable
        await far.send(b"x")
        await settle()
        assert near.is_readable
        assert await near.receive() == b"x"
        assert not near.is_readable
        await far.send_eof()
        await settle()
        assert near.is_readable
        with pytest.raises(anyio.EndOfStream):
            await near.receive()
        await far.aclose()
        await near.aclose()
        assert near.is_readable
        with pytest.raises(anyio.ClosedResourceError):
            await near.receive()


async def test_a_channel_of_a_lost_session_is_readable(ends) -> None:
    async with ends() as (opener, acceptor):
        near, _ = await channel_pair(opener, acceptor)
        await acceptor.aclose()
        await opener.wait_closed()
        assert near.is_readable
        with pytest.raises(anyio.BrokenResourceError):
            await near.receive()
