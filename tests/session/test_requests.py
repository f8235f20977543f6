"""Channel and global requests: answers, their order, cancellation, who is asked at all."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

import anyssh
from anyssh.testing import Direction, FaultStream, session_pair
from tests.session.ends import (
    ALICE,
    Call,
    at_once,
    channel_pair,
    connected,
    receive_exactly,
    settle,
)

KEEP_ALIVE = "keepalive@openssh.com"


class Level:
    """The two ends of either a channel or a session, which both send requests alike."""

    def __init__(self, asker: Any, answerer: Any, sessions: tuple[Any, Any], kind: str) -> None:
        self.asker = asker
        self.answerer = answerer
        self.asking_session, self.answering_session = sessions
        self.kind = kind


Levels = Callable[..., AsyncIterator[Level]]


@pytest.fixture(
    params=[(kind, asker) for kind in ("channel", "session") for asker in ("client", "server")],
    ids="-".join,
)
def level(request: pytest.FixtureRequest) -> Levels:
    """Gives ``async with level() as ends`` for channels and sessions, in both directions."""
    kind, asker = request.param

    @asynccontextmanager
    async def open_level(**options: Any) -> AsyncIterator[Level]:
        async with session_pair(**options) as (client, server):
            sessions = (client, server) if asker == "client" else (server, client)
            if kind == "session":
                yield Level(*sessions, sessions, kind)
            else:
                # Who opened the channel does not matter, so let it be the one that answers.
                answerer, asker_end = await channel_pair(sessions[1], sessions[0])
                yield Level(asker_end, answerer, sessions, kind)

    return open_level


# Answers


async def test_a_request_is_granted_or_refused(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        requests = ends.answerer.requests()
        for granted in (True, False, True):
            asking = Call(group, partial(ends.asker.request, "question", b"payload\x00"))
            request = await anext(requests)
            assert (request.name, request.payload) == ("question", b"payload\x00")
            assert request.want_reply
            await settle()
            assert not asking.is_done  # the reply leaves when it was decided, not earlier
            await (request.accept() if granted else request.reject())
            reply = await asking.result()
            assert bool(reply) is reply.is_success is granted


async def test_a_request_is_answered_at_once(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        requests = ends.answerer.requests()
        for granted in (True, False):
            asking = Call(group, partial(ends.asker.request, "question"))
            request = await anext(requests)
            (request.accept_nowait if granted else request.reject_nowait)()
            for again in (request.accept_nowait, request.reject_nowait):
                with pytest.raises(anyssh.LocalProtocolError):
                    again()
            assert bool(await asking.result()) is granted


async def test_five_requests_come_in_their_order(level: Levels) -> None:
    async with level() as ends:
        requests = ends.answerer.requests()

        async def answer() -> list[str]:
            names = []
            for _ in range(5):
                request = await anext(requests)
                names.append(request.name)
                await request.accept()
            return names

        async def ask() -> None:
            for number in range(5):
                assert await ends.asker.request(f"number {number}")

        _, names = await at_once(ask(), answer())
        assert names == [f"number {number}" for number in range(5)]


async def test_a_request_without_reply_waits_for_nothing(level: Levels) -> None:
    async with level() as ends:
        requests = ends.answerer.requests()
        reply = await ends.asker.request("news", b"old", want_reply=False)
        assert reply == anyssh.Reply(True)
        request = await anext(requests)
        assert (request.name, request.payload) == ("news", b"old")
        assert not request.want_reply
        before = ends.answering_session.metrics.messages_sent
        await request.reject()
        await settle()
        assert ends.answering_session.metrics.messages_sent == before


async def test_requests_without_reply_do_not_disturb_the_replies(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        requests = ends.answerer.requests()
        asking = []
        for number in range(6):
            if number % 2:
                await ends.asker.request("quiet", want_reply=False)
            else:
                asking.append(Call(group, partial(ends.asker.request, f"{number}")))
            await settle()
        for number in range(6):
            request = await anext(requests)
            await (request.accept() if number == 2 else request.reject())
        assert [bool(await call.result()) for call in asking] == [False, True, False]


async def test_a_request_is_answered_once(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        asking = Call(group, partial(ends.asker.request, "question"))
        request = await anext(ends.answerer.requests())
        assert repr(request) == "<IncomingRequest 'question' want_reply=True>"
        await request.accept()
        for again in (request.accept, request.reject):
            with pytest.raises(anyssh.LocalProtocolError, match="already answered"):
                await again()
        assert await asking.result()


async def test_a_reply_of_the_session_carries_a_payload() -> None:
    async with session_pair() as (client, server), anyio.create_task_group() as group:
        for asker, answerer in ((client, server), (server, client)):
            requests = answerer.requests()
            for payload in (b"", b"\x00\x00\x10\x92", bytes(30_000)):
                asking = Call(group, partial(asker.request, "mirror@example.com"))
                await (await anext(requests)).accept(payload)
                assert await asking.result() == anyssh.Reply(True, payload)
            asking = Call(group, partial(asker.request, "mirror@example.com"))
            await (await anext(requests)).reject()
            assert await asking.result() == anyssh.Reply(False)


async def test_payloads_and_names_keep_their_bytes(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        requests = ends.answerer.requests()
        for name, payload in (("häßlich@example.com", bytes(range(256))), ("x" * 256, b"")):
            asking = Call(group, partial(ends.asker.request, name, payload))
            request = await anext(requests)
            assert (request.name, request.payload) == (name, payload)
            await request.accept()
            assert await asking.result()


# Order


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)], ids=str)
async def test_replies_leave_in_the_order_of_the_requests(
    level: Levels, order: tuple[int, ...]
) -> None:
    granted = [False, True, False, True]
    async with level() as ends, anyio.create_task_group() as group:
        requests = ends.answerer.requests()
        asking = []
        for number in range(4):
            asking.append(Call(group, partial(ends.asker.request, f"{number}")))
            await settle()
        incoming = [await anext(requests) for _ in range(4)]
        assert [request.name for request in incoming] == ["0", "1", "2", "3"]
        decided: set[int] = set()
        for number in order:
            request = incoming[number]
            await (request.accept() if granted[number] else request.reject())
            decided.add(number)
            await settle()
            ready = next(n for n in range(5) if n not in decided)
            assert [call.is_done for call in asking] == [n < ready for n in range(4)]
        assert [bool(await call.result()) for call in asking] == granted


async def test_the_first_handler_may_wait_for_the_second_request(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        second_came = anyio.Event()

        async def handle_first(request: anyssh.IncomingRequest) -> None:
            await second_came.wait()
            await request.accept()

        async def handle_second(request: anyssh.IncomingRequest) -> None:
            second_came.set()
            await request.reject()

        async def answer() -> None:
            requests = ends.answerer.requests()
            async with anyio.create_task_group() as handlers:
                handlers.start_soon(handle_first, await anext(requests))
                handlers.start_soon(handle_second, await anext(requests))

        group.start_soon(answer)
        first = Call(group, partial(ends.asker.request, "first"))
        await settle()
        second = Call(group, partial(ends.asker.request, "second"))
        assert await first.result()
        assert not await second.result()


async def test_both_ends_ask_at_the_same_time(level: Levels) -> None:
    async with level() as ends:

        async def talk(end: Any, granted: bool) -> list[bool]:
            requests = end.requests()

            async def answer() -> None:
                for _ in range(20):
                    request = await anext(requests)
                    await (request.accept() if granted else request.reject())

            async def ask() -> list[bool]:
                return [bool(await end.request(f"{number}")) for number in range(20)]

            _, replies = await at_once(answer(), ask())
            return replies

        left, right = await at_once(talk(ends.asker, True), talk(ends.answerer, False))
        assert left == [False] * 20
        assert right == [True] * 20


async def test_a_handler_may_ask_back(level: Levels) -> None:
    async with level() as ends:

        async def answer() -> None:
            request = await anext(ends.answerer.requests())
            assert await ends.answerer.request("are you sure?")
            await request.accept()

        async def confirm() -> str:
            request = await anext(ends.asker.requests())
            await request.accept()
            return request.name

        _, (name, reply) = await at_once(
            answer(), at_once(confirm(), ends.asker.request("delete everything"))
        )
        assert name == "are you sure?"
        assert reply


# Cancellation


async def test_a_request_that_is_cancelled_before_it_starts_is_not_sent(level: Levels) -> None:
    async with level() as ends:
        before = ends.asking_session.metrics
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ends.asker.request("never")
        assert scope.cancelled_caught
        await settle()
        assert ends.asking_session.metrics == before


async def test_a_cancelled_request_leaves_the_replies_with_their_callers(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        requests = ends.answerer.requests()
        asking = []
        for number in range(5):
            asking.append(Call(group, partial(ends.asker.request, f"{number}")))
            await settle()
        for number in (0, 2):
            asking[number].scope.cancel()
            await asking[number].done.wait()
        late = Call(group, partial(ends.asker.request, "5"))
        for number in range(6):
            request = await anext(requests)
            assert request.name == f"{number}"
            # The cancelled ones are granted, of the others only the last but one.
            await (request.accept() if number in (0, 2, 4) else request.reject())
        assert [bool(await asking[number].result()) for number in (1, 3, 4)] == [
            False,
            False,
            True,
        ]
        assert not await late.result()
        assert asking[0].value is asking[2].value is None


async def test_waiting_for_a_request_can_be_cancelled_and_loses_none(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        requests = ends.answerer.requests()
        waiting = Call(group, partial(anext, requests))  # type: ignore[arg-type]
        await settle()
        waiting.scope.cancel()
        await waiting.done.wait()
        asking = Call(group, partial(ends.asker.request, "question"))
        await settle()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(requests)
        assert scope.cancelled_caught
        await (await anext(requests)).accept()
        assert await asking.result()


async def test_an_answer_that_is_cancelled_before_it_starts_can_still_be_given(
    level: Levels,
) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        asking = Call(group, partial(ends.asker.request, "question"))
        request = await anext(ends.answerer.requests())
        with anyio.CancelScope() as scope:
            scope.cancel()
            await request.accept()
        assert scope.cancelled_caught
        await settle()
        assert not asking.is_done
        await request.reject()
        assert not await asking.result()


# Who is asked


async def test_requests_wait_until_somebody_asks_for_them(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        asking = Call(group, partial(ends.asker.request, "question"))
        await settle()
        assert not asking.is_done
        await (await anext(ends.answerer.requests())).accept()
        assert await asking.result()


async def test_16_requests_wait_and_more_are_refused_in_their_turn(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        asking = []
        for number in range(20):
            asking.append(Call(group, partial(ends.asker.request, f"{number}")))
            await settle()
        assert not any(call.is_done for call in asking)
        requests = ends.answerer.requests()
        for number in range(16):
            request = await anext(requests)
            assert request.name == f"{number}"
            await request.accept()
        assert [bool(await call.result()) for call in asking] == [True] * 16 + [False] * 4
        asking.append(Call(group, partial(ends.asker.request, "afterwards")))
        request = await anext(requests)
        assert request.name == "afterwards"
        await request.accept()
        assert await asking[-1].result()


async def test_requests_without_reply_beyond_the_bound_are_dropped(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        for number in range(20):
            await ends.asker.request(f"{number}", want_reply=False)
        await settle()
        requests = ends.answerer.requests()
        names = [(await anext(requests)).name for _ in range(16)]
        assert names == [f"{number}" for number in range(16)]
        nothing = Call(group, partial(anext, requests))  # type: ignore[arg-type]
        await settle()
        assert not nothing.is_done
        nothing.scope.cancel()


@pytest.mark.parametrize(
    "use",
    [
        lambda channel: channel.receive(),
        lambda channel: channel.stderr.receive(),
        lambda channel: channel.wait_closed(),
        lambda channel: channel.send(bytes(2**21)),
        lambda channel: channel.send_stderr(bytes(2**21)),
    ],
    ids=["receive", "stderr", "wait_closed", "send", "send_stderr"],
)
@pytest.mark.parametrize("first", ["request", "use"])
async def test_who_uses_a_channel_without_asking_for_requests_refuses_them(
    use: Callable[[anyssh.Channel], Any], first: str
) -> None:
    async with session_pair() as ends, anyio.create_task_group() as group:
        near, far = await channel_pair(*ends)
        if first == "request":
            asking = [Call(group, partial(near.request, f"{number}")) for number in range(3)]
            await settle()
            assert not any(call.is_done for call in asking)
        using = Call(group, partial(use, far))
        await settle()
        if first == "use":
            asking = [Call(group, partial(near.request, f"{number}")) for number in range(3)]
        assert [bool(await call.result()) for call in asking] == [False] * 3
        using.scope.cancel()


async def test_who_has_asked_for_requests_may_use_the_channel_first() -> None:
    async with session_pair() as ends, anyio.create_task_group() as group:
        near, far = await channel_pair(*ends)
        requests = far.requests()
        await near.send(b"first bytes")
        assert await far.receive() == b"first bytes"
        asking = Call(group, partial(near.request, "then a request"))
        await (await anext(requests)).accept()
        assert await asking.result()


async def test_asking_late_serves_the_requests_from_then_on() -> None:
    async with session_pair() as ends, anyio.create_task_group() as group:
        near, far = await channel_pair(*ends)
        await far.send(b"touched")
        assert not await near.request("too early")
        requests = far.requests()
        asking = Call(group, partial(near.request, "now"))
        request = await anext(requests)
        assert request.name == "now"
        await request.accept()
        assert await asking.result()


async def test_who_only_reads_the_channel_that_it_opened_refuses_requests_too() -> None:
    async with session_pair() as ends:
        near, far = await channel_pair(*ends)
        _, reply = await at_once(near.receive(), _ask_then_send(far))
        assert not reply


async def _ask_then_send(channel: anyssh.Channel) -> anyssh.Reply:
    reply = await channel.request("xon-xoff")
    await channel.send(b"x")
    return reply


@pytest.mark.parametrize("take", ["incoming_channels", "accept_channel", "serve"])
async def test_a_session_that_takes_channels_without_asking_refuses_requests(take: str) -> None:
    async with session_pair() as (client, server), anyio.create_task_group() as group:
        asking = Call(group, partial(client.request, "early"))
        await settle()
        assert not asking.is_done

        async def handler(channel: anyssh.Channel) -> None:
            raise AssertionError("no channel was opened")

        if take == "incoming_channels":
            server.incoming_channels()
        elif take == "accept_channel":
            accepting = Call(group, server.accept_channel)
        else:
            accepting = Call(group, partial(server.serve, handler))
        assert not await asking.result()
        assert not await client.request("late")
        requests = server.requests()
        asking = Call(group, partial(client.request, "latest"))
        await (await anext(requests)).accept()
        assert await asking.result()
        if take != "incoming_channels":
            accepting.scope.cancel()


async def test_a_session_that_has_asked_may_take_channels_too() -> None:
    async with session_pair() as (client, server), anyio.create_task_group() as group:
        requests = server.requests()
        near, far = await channel_pair(client, server)
        asking = Call(group, partial(client.request, "question"))
        await (await anext(requests)).accept()
        assert await asking.result()
        await near.send(b"x")
        assert await far.receive() == b"x"


async def test_a_sign_of_life_is_answered_without_asking(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        # Nobody has asked for requests, and nobody has shown that they are not wanted.
        for _ in range(20):
            assert await ends.asker.request(KEEP_ALIVE) == anyssh.Reply(False)
        requests = ends.answerer.requests()
        assert await ends.asker.request(KEEP_ALIVE, want_reply=False)
        assert not await ends.asker.request(KEEP_ALIVE)
        asking = Call(group, partial(ends.asker.request, "question"))
        request = await anext(requests)
        assert request.name == "question"
        await request.accept()
        assert await asking.result()


async def test_a_sign_of_life_waits_for_the_answers_before_it(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        first = Call(group, partial(ends.asker.request, "question"))
        await settle()
        second = Call(group, partial(ends.asker.request, KEEP_ALIVE))
        await settle()
        assert not second.is_done
        await (await anext(ends.answerer.requests())).accept()
        assert await first.result()
        assert not await second.result()


# Independence


async def test_a_handler_that_blocks_delays_no_other_channel() -> None:
    async with session_pair() as (client, server), anyio.create_task_group() as group:
        may_go_on = anyio.Event()

        async def handle(channel: anyssh.Channel) -> None:
            async for request in channel.requests():
                if request.name == "slow":
                    await may_go_on.wait()
                await request.accept()

        serving = Call(group, partial(server.serve, handle))
        slow, quick = await client.open_channel(), await client.open_channel()
        blocked = [Call(group, partial(slow.request, "slow")) for _ in range(2)]
        await settle()
        for _ in range(10):
            assert await quick.request("quick")
        assert not await client.request("of the session")
        assert not any(call.is_done for call in blocked)
        may_go_on.set()
        assert all([await call.result() for call in blocked])
        serving.scope.cancel()


async def test_handlers_of_three_channels_run_at_the_same_time() -> None:
    async with session_pair() as (client, server), anyio.create_task_group() as group:
        running: list[str] = []
        all_run = anyio.Event()

        async def handle(channel: anyssh.Channel) -> None:
            async for request in channel.requests():
                running.append(request.name)
                if len(running) == 3:
                    all_run.set()
                await all_run.wait()
                await request.accept()

        serving = Call(group, partial(server.serve, handle))
        channels = [await client.open_channel() for _ in range(3)]
        asking = [Call(group, partial(channel.request, "exec")) for channel in channels]
        assert all([await call.result() for call in asking])
        serving.scope.cancel()


async def test_a_pending_request_does_not_hold_up_the_bytes() -> None:
    async with session_pair() as ends, anyio.create_task_group() as group:
        near, far = await channel_pair(*ends)
        requests = far.requests()
        asking = Call(group, partial(near.request, "question"))
        request = await anext(requests)
        await near.send(bytes(100_000))
        assert await receive_exactly(far, 100_000) == bytes(100_000)
        await far.send(b"not answered yet")
        assert await near.receive() == b"not answered yet"
        assert not asking.is_done
        await request.accept()
        assert await asking.result()


async def test_a_request_does_not_wait_for_the_window() -> None:
    async with session_pair() as ends, anyio.create_task_group() as group:
        near, far = await channel_pair(*ends)
        requests = far.requests()
        sending = Call(group, partial(near.send, bytes(2**21)))
        await settle()
        assert not sending.is_done
        asking = Call(group, partial(near.request, "question"))
        await (await anext(requests)).accept()
        assert await asking.result()
        sending.scope.cancel()


async def test_a_signal_is_a_request_without_reply() -> None:
    async with session_pair() as ends:
        for near, far in (await channel_pair(*ends), (await channel_pair(*ends))[::-1]):
            requests = far.requests()
            for name in ("TERM", "HUP"):
                await near.send_signal(name)
                request = await anext(requests)
                assert request.name == "signal"
                assert not request.want_reply
                assert anyssh.wire.Reader(request.payload).text() == name


async def test_how_a_program_ended_is_never_a_request() -> None:
    async with session_pair() as ends:
        near, far = await channel_pair(*ends)
        requests = far.requests()
        await near.request("exit-status", anyssh.wire.uint32(7), want_reply=False)
        await near.request("last", want_reply=False)
        assert (await anext(requests)).name == "last"
        await near.aclose()
        assert (await far.wait_closed()).exit_status == 7


# The end


async def test_a_failing_handler_refuses_and_harms_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with session_pair() as (client, server), anyio.create_task_group() as group:

        async def handle(channel: anyssh.Channel) -> None:
            async for request in channel.requests():
                if request.name == "fail":
                    raise KeyError("a mistake of the application")
                await request.accept()

        serving = Call(group, partial(server.serve, handle))
        failing, other = await client.open_channel(), await client.open_channel()
        with caplog.at_level(logging.ERROR, "anyssh"):
            assert not await failing.request("fail")
            await failing.wait_closed()
        assert "a mistake of the application" in caplog.text
        assert await other.request("exec")
        assert await (await client.open_channel()).request("exec")
        assert not serving.is_done
        serving.scope.cancel()


@pytest.mark.parametrize("answers_first", [True, False])
async def test_a_handler_may_close_its_channel(answers_first: bool) -> None:
    async with session_pair() as ends, anyio.create_task_group() as group:
        for near, far in (await channel_pair(*ends), (await channel_pair(*ends))[::-1]):
            asking = Call(group, partial(near.request, "close"))
            requests = far.requests()
            request = await anext(requests)
            if answers_first:
                await request.accept()
            await far.aclose()
            if not answers_first:
                await request.accept()
            assert bool(await asking.result()) is answers_first
            with pytest.raises(StopAsyncIteration):
                await anext(requests)
            await near.wait_closed()
        near, far = await channel_pair(*ends)
        await near.send(b"the session goes on")
        assert await far.receive() == b"the session goes on"


async def test_requests_end_with_the_channel() -> None:
    async with session_pair() as ends, anyio.create_task_group() as group:
        near, far = await channel_pair(*ends)
        names: list[str] = []

        async def collect() -> None:
            async for request in far.requests():
                names.append(request.name)
                await request.accept()

        collecting = Call(group, collect)
        assert await near.request("one")
        await near.request("two", want_reply=False)
        await near.aclose()
        await collecting.result()
        assert names == ["one", "two"]
        with pytest.raises(anyio.ClosedResourceError):
            await near.request("three")
        with pytest.raises(anyio.BrokenResourceError):
            await far.request("three")


async def test_closing_the_channel_here_answers_our_requests_with_no() -> None:
    async with session_pair() as ends, anyio.create_task_group() as group:
        near, _ = await channel_pair(*ends)
        asking = Call(group, partial(near.request, "question"))
        await settle()
        await near.aclose()
        assert await asking.result() == anyssh.Reply(False)


async def test_a_reply_that_comes_with_the_goodbye_is_a_reply(level: Levels) -> None:
    """Both are read at once, so the session has ended before the asker can look."""
    faulty: list[FaultStream] = []

    def wrap(stream: ByteStream) -> ByteStream:
        faulty.append(FaultStream(stream))
        return faulty[-1]

    async with (
        level(client_stream=wrap, server_stream=wrap) as ends,
        anyio.create_task_group() as group,
    ):
        asking = Call(group, partial(ends.asker.request, "question"))
        question = await anext(ends.answerer.requests())
        # What receives already does not stall any more; one message takes it along.
        for stream in faulty:
            stream.stall(Direction.RECEIVE)
        await ends.answering_session.request("wakes the reader", want_reply=False)
        await settle()
        await question.accept()
        leaving = Call(group, partial(ends.answering_session.disconnect, 11, "done"))
        await settle()
        assert not asking.is_done
        for stream in faulty:
            stream.release()
        assert await asking.result() == anyssh.Reply(True)
        await leaving.result()


async def test_requests_that_wait_when_the_session_ends_raise_why(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        asking = [Call(group, partial(ends.asker.request, "question")) for _ in range(2)]
        iterating = Call(group, partial(anext, ends.asker.requests()))  # type: ignore[arg-type]
        await settle()
        await ends.answering_session.disconnect(11, "enough of it")
        errors = []
        for call in asking:
            with pytest.raises((anyssh.Disconnected, anyio.BrokenResourceError)) as caught:
                await call.result()
            errors.append(caught.value)
            reason = caught.value if ends.kind == "session" else caught.value.__cause__
            assert isinstance(reason, anyssh.Disconnected)
            assert (reason.reason, reason.description) == (11, "enough of it")
        assert errors[0] is not errors[1]
        with pytest.raises(StopAsyncIteration):
            await iterating.result()


async def test_requests_after_the_session_ended_raise_why(level: Levels) -> None:
    async with level() as ends:
        await ends.answering_session.aclose()
        await ends.asking_session.wait_closed()
        expected = anyssh.Disconnected if ends.kind == "session" else anyio.BrokenResourceError
        for want_reply in (True, False):
            with pytest.raises(expected):
                await ends.asker.request("question", want_reply=want_reply)


async def test_an_answer_that_comes_after_the_session_does_no_harm(level: Levels) -> None:
    async with level() as ends, anyio.create_task_group() as group:
        asking = Call(group, partial(ends.asker.request, "question"))
        request = await anext(ends.answerer.requests())
        await ends.asking_session.aclose()
        await ends.answering_session.wait_closed()
        await request.accept()
        await asking.done.wait()
        assert asking.error is not None


async def test_a_lost_connection_is_told_to_those_who_wait(level: Levels) -> None:
    cut: list[FaultStream] = []

    def wrap(inner: ByteStream) -> FaultStream:
        cut.append(FaultStream(inner))
        return cut[-1]

    async with level(client_stream=wrap) as ends, anyio.create_task_group() as group:
        asking = [Call(group, partial(ends.asker.request, "question")) for _ in range(2)]
        await settle()
        cut[0].cut()
        for call in asking:
            with pytest.raises(anyio.BrokenResourceError) as caught:
                await call.result()
            lost = caught.value if ends.kind == "session" else caught.value.__cause__
            assert isinstance(lost, anyssh.ConnectionLost)
        assert asking[0].error is not asking[1].error


# Before authentication


async def test_nothing_can_be_asked_before_authentication() -> None:
    async with connected(credentials=None) as (client, _):
        for call in (
            partial(client.request, "question"),
            partial(client.request, "question", want_reply=False),
            client.open_channel,
            client.rekey,
        ):
            with pytest.raises(anyssh.LocalProtocolError):
                await call()
        assert client.channels == ()
        await client.authenticate(ALICE)
        assert not await client.request(KEEP_ALIVE)


async def test_an_authenticated_session_starts_with_no_requests_waiting() -> None:
    async with connected() as (client, server), anyio.create_task_group() as group:
        for session in (client, server):
            waiting = Call(group, partial(anext, session.requests()))  # type: ignore[arg-type]
            await settle()
            assert not waiting.is_done
            waiting.scope.cancel()
