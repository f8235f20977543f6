"""Pipes: what enters on one side leaves on the other, complete and in order.

A client talks to a server through a gateway, which has a session with each: ``near`` with the
client, ``far`` with the server. Labels such as PIP-04 are those of the list of behaviours.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint

import anyssh
from anyssh.testing import Direction, FaultStream, memory_stream_pair
from tests.session.ends import Call, at_once, channel_pair, receive_all, receive_exactly, settle
from tests.session.life_support import (
    LIMIT,
    client_of,
    echo,
    echoes,
    fast,
    nothing_left_behind,
    pair,
    run_end,
    server_of,
    until_nobody_listens,
    wait_for,
)

KIB, MIB = 1024, 1024 * 1024
SMALL = fast(window_size=32 * KIB, max_packet_size=16 * KIB)


@dataclass
class Relay:
    """A client, a gateway with two sessions, a server; and the pipe between the two."""

    client: anyssh.ClientSession
    near: anyssh.ServerSession
    far: anyssh.ClientSession
    server: anyssh.ServerSession
    pipe: Call

    def ends(self, which: str) -> tuple[Any, Any]:
        """Return the ends in the order of the way that is tested."""
        ends = (self.client, self.server)
        return ends if which == "client" else ends[::-1]


@asynccontextmanager
async def gateway(
    config: anyssh.SessionConfig | None = None, **far_options: Any
) -> AsyncIterator[tuple[Any, Any, Any, Any]]:
    """Give client, near, far, server: two sessions without a pipe."""
    async with (
        pair(config, config) as (client, near),
        pair(config, config, **far_options) as (
            far,
            server,
        ),
    ):
        yield client, near, far, server


@asynccontextmanager
async def relayed(
    config: anyssh.SessionConfig | None = None, **options: Any
) -> AsyncIterator[Relay]:
    """Give a client and a server with piped sessions between them."""
    async with (
        gateway(config, **options) as (client, near, far, server),
        anyio.create_task_group() as group,
    ):
        running = Call(group, partial(anyssh.pipe, near, far))
        yield Relay(client, near, far, server, running)
        running.scope.cancel()


@asynccontextmanager
async def piped_channels(
    config: anyssh.SessionConfig | None = None,
) -> AsyncIterator[tuple[anyssh.Channel, anyssh.Channel, Call, list[anyssh.Channel]]]:
    """Give the outer ends of two channels whose inner ends are piped, and the inner ends."""
    async with gateway(config) as (client, near, far, server):
        outer, inner = await channel_pair(client, near)
        other_inner, other = await channel_pair(far, server)
        async with anyio.create_task_group() as group:
            running = Call(group, partial(anyssh.pipe, inner, other_inner))
            yield outer, other, running, [inner, other_inner]
            running.scope.cancel()


async def next_request(requests: AsyncIterator[anyssh.IncomingRequest]) -> anyssh.IncomingRequest:
    with anyio.fail_after(LIMIT):
        return await anext(requests)


# Channels


@pytest.mark.parametrize("way", [1, -1])
async def test_data_eof_and_close_pass_in_both_directions(way: int) -> None:
    """PIP-01."""
    async with piped_channels() as (one, other, running, inner), anyio.create_task_group() as group:
        left, right = (one, other)[::way]
        await left.send(b"question")
        assert await receive_exactly(right, 8) == b"question"
        await left.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await right.receive()
        await right.send(b"answer")  # the other direction is still open
        assert await receive_exactly(left, 6) == b"answer"
        await right.aclose(exit_status=3)
        closed = await left.wait_closed()
        assert closed.exit_status == 3
        await running.result()
        for channel in inner:
            assert (await channel.wait_closed()).exit_status == 3
        group.cancel_scope.cancel()


async def test_standard_error_stays_standard_error() -> None:
    """PIP-02."""
    async with piped_channels() as (one, other, _, _):
        await other.send_stderr(b"warning")
        await other.send(b"output")
        assert await receive_exactly(one.stderr, 7) == b"warning"
        assert await receive_exactly(one, 6) == b"output"


@pytest.mark.parametrize(
    "end",
    [
        {},
        {"exit_status": 0},
        {"exit_status": 255},
        {"signal": "KILL", "message": "out of memory"},
        {"signal": "TERM"},
    ],
    ids=str,
)
async def test_the_way_of_closing_is_kept(end: dict[str, Any]) -> None:
    async with piped_channels() as (one, other, running, _):
        await other.send(b"last words")
        await other.aclose(**end)
        assert await receive_all(one) == b"last words"
        closed = await one.wait_closed()
        assert closed.exit_status == end.get("exit_status")
        assert closed.exit_signal == end.get("signal")
        if "signal" in end:
            assert closed.message == end.get("message", "")
        assert closed.error is None
        await running.result()


@pytest.mark.parametrize("way", [1, -1])
@pytest.mark.parametrize("signal", ["\x1b]0;gone\x07\x1b[2J", ""], ids=["escapes", "no name"])
async def test_a_signal_with_a_strange_name_is_passed_as_a_reset(signal: str, way: int) -> None:
    """HR-06: whoever learns of it can show it, and takes it for no orderly end."""
    async with piped_channels() as (one, other, running, inner):
        left, right = (one, other)[::way]
        await right.aclose(signal=signal, message="\x1b[31mred\r\n")
        await running.result()
        source, target = inner[::-way]
        for channel in (source, target, left):
            closed = await channel.wait_closed()
            assert closed.exit_signal == signal.replace("\x1b", "\\x1b").replace("\x07", "\\x07")
            assert closed.message == "\\x1b[31mred\\r\\n"
            assert closed.exit_status is None


async def test_a_thousand_messages_and_more_than_the_windows() -> None:
    """PIP-03."""
    async with piped_channels() as (one, other, _, _):
        words = [b"message %d;" % number for number in range(1000)]
        data = b"".join(words) + os.urandom(3 * MIB + MIB // 2)

        async def send() -> None:
            for word in words:
                await one.send(word)
            await one.send(data[sum(map(len, words)) :])
            await one.send_eof()

        _, received = await at_once(send(), receive_all(other))
        assert received == data


async def test_kinds_keep_their_order() -> None:
    """Requests, bytes and standard error of one direction come out as they went in."""
    async with piped_channels() as (one, other, running, _):
        arrivals = other.arrivals()
        await one.send(b"a")
        await one.request("first", b"1", want_reply=False)
        await one.send(b"b")
        await one.send_stderr(b"c")
        await one.send(b"d")
        await one.request("second", b"2", want_reply=False)
        await one.send_eof()
        await one.request("third", b"3", want_reply=False)
        await settle()
        await one.aclose()
        seen = []
        async for arrival in arrivals:
            match arrival:
                case anyssh.ReceivedData(data, is_stderr):
                    seen.append(f"{'err' if is_stderr else 'out'} {data.decode()}")
                case anyssh.ReceivedEof():
                    seen.append("eof")
                case anyssh.IncomingRequest(name=name, payload=payload):
                    seen.append(f"{name} {payload.decode()}")
        assert seen == ["out a", "first 1", "out b", "err c", "out d", "second 2", "eof", "third 3"]
        await running.result()


async def test_bytes_of_both_kinds_in_turn_cost_little() -> None:
    """A window of single bytes must not become a window of objects, nor overtake a request."""
    async with pair() as (client, server):
        one, other = await channel_pair(client, server)
        arrivals = other.arrivals()
        tracemalloc.start()
        try:
            for number in range(4_000):
                await (one.send_stderr if number % 2 else one.send)(b"%d" % (number % 10))
                if number == 2_000:
                    await one.request("half", want_reply=False)
            await settle()
            size = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert size < MIB
        await one.aclose()
        received = {False: b"", True: b""}
        at_half = {}
        async for arrival in arrivals:
            if isinstance(arrival, anyssh.ReceivedData):
                received[arrival.is_stderr] += arrival.data
            else:
                at_half = {kind: len(data) for kind, data in received.items()}
        assert received == {False: b"02468" * 400, True: b"13579" * 400}
        assert at_half == {False: 1001, True: 1000}


@pytest.mark.parametrize("way", [1, -1])
async def test_requests_and_their_replies_pass(way: int) -> None:
    """PIP-04, PIP-10."""
    async with piped_channels() as (one, other, _, _), anyio.create_task_group() as group:
        left, right = (one, other)[::way]
        requests = right.requests()
        for granted in (True, False, True):
            asking = Call(group, partial(left.request, "question", b"\x00payload"))
            request = await next_request(requests)
            assert (request.name, request.payload) == ("question", b"\x00payload")
            assert request.want_reply
            await (request.accept() if granted else request.reject())
            assert bool(await asking.result()) is granted
        for number in range(3):
            await left.request("news", b"%d" % number, want_reply=False)
            request = await next_request(requests)
            assert (request.payload, request.want_reply) == (b"%d" % number, False)
            await request.accept()
        assert right.metrics.bytes_received == 0


async def test_a_request_does_not_wait_for_the_one_before() -> None:
    """PIP-05: both reach the other side; the replies come back in order."""
    async with piped_channels() as (one, other, _, _), anyio.create_task_group() as group:
        first = Call(group, partial(one.request, "first"))
        await settle()
        second = Call(group, partial(one.request, "second"))
        requests = other.requests()
        held, quick = await next_request(requests), await next_request(requests)
        assert (held.name, quick.name) == ("first", "second")
        await one.send(b"bytes pass meanwhile")
        await quick.accept()
        await settle()
        assert not first.is_done
        assert not second.is_done
        await held.reject()
        assert not await first.result()
        assert await second.result()
        assert await receive_exactly(other, 20) == b"bytes pass meanwhile"


async def test_a_request_is_refused_when_the_other_side_closes() -> None:
    async with piped_channels() as (one, other, running, _), anyio.create_task_group() as group:
        asking = Call(group, partial(one.request, "question"))
        await next_request(other.requests())
        await other.aclose()
        assert not await asking.result()
        await running.result()


async def test_a_reply_comes_before_the_close_that_follows_it() -> None:
    """Both reach the relay at once, and which of its tasks goes first is up to the event loop."""
    for _ in range(20):
        async with piped_channels() as (one, other, running, _inner):
            requests = other.requests()
            async with anyio.create_task_group() as group:
                asked = Call(group, partial(one.request, "exec"))
                request = await next_request(requests)
                request._session._answer_request(request._pending, True, b"")
                await other.aclose(signal="TERM")
                assert await asked.result()
                assert (await one.wait_closed()).exit_signal == "TERM"
                await running.result()


async def test_what_came_before_the_pipe_passes() -> None:
    async with gateway() as (client, near, far, server):
        one, inner = await channel_pair(client, near)
        other_inner, other = await channel_pair(far, server)
        await one.request("exec", b"program", want_reply=False)
        await one.send(b"input")
        await one.send_eof()
        await settle()
        async with anyio.create_task_group() as group:
            arrivals = other.arrivals()
            running = Call(group, partial(anyssh.pipe, inner, other_inner))
            request = await anext(arrivals)
            assert isinstance(request, anyssh.IncomingRequest)
            assert (request.name, request.payload) == ("exec", b"program")
            assert await anext(arrivals) == anyssh.ReceivedData(b"input")
            assert await anext(arrivals) == anyssh.ReceivedEof()
            await other.aclose(exit_status=1)
            await running.result()
        assert (await one.wait_closed()).exit_status == 1


@pytest.mark.parametrize("way", [1, -1])
async def test_a_pipe_of_closed_channels_closes_the_other(way: int) -> None:
    async with gateway() as (client, near, far, server):
        one, inner = await channel_pair(client, near)
        other_inner, other = await channel_pair(far, server)
        await one.send(b"last words")
        await one.aclose(exit_status=7)
        await settle()
        with anyio.fail_after(LIMIT):
            await anyssh.pipe(*(inner, other_inner)[::way])
            assert await receive_all(other) == b"last words"
            assert (await other.wait_closed()).exit_status == 7


async def test_back_pressure_reaches_the_sender() -> None:
    """HR-79: a sender gets no further than the windows, and on when its bytes are read."""
    async with piped_channels(SMALL) as (one, other, _, _), anyio.create_task_group() as group:
        data = os.urandom(MIB)
        sending = Call(group, partial(one.send, data))
        await settle()
        assert not sending.is_done
        # A window on each leg, and one piece in the hands of the pipe.
        assert one.metrics.bytes_sent <= 3 * 32 * KIB
        assert await receive_exactly(other, MIB) == data
        await sending.result()


async def test_both_directions_full_are_no_deadlock() -> None:
    """T-43."""
    async with piped_channels(SMALL) as (one, other, _, _), anyio.create_task_group() as group:
        data = os.urandom(MIB)
        there, back = Call(group, partial(one.send, data)), Call(group, partial(other.send, data))
        await settle()
        assert not there.is_done
        assert not back.is_done
        received = await at_once(receive_exactly(other, MIB), receive_exactly(one, MIB))
        assert received == (data, data)
        await there.result()
        await back.result()


async def test_a_reader_that_writes_first_gets_all_although_its_reader_has_gone() -> None:
    """The peer of a closed channel may have to write before it reads what was sent before."""
    async with piped_channels(SMALL) as (one, other, running, _):
        async with anyio.create_task_group() as group:
            received: list[bytes] = []

            async def serve() -> None:
                async for chunk in other:
                    received.append(chunk)
                    await other.send(chunk)  # blocks unless somebody takes it

            # The client sends without reading, as far as echo and windows let it, and closes.
            serving = Call(group, serve)
            data = os.urandom(6 * 32 * KIB)
            await one.send(data)
            await one.aclose()
            await running.result()
            await serving.done.wait()
        assert b"".join(received) == data


@pytest.mark.parametrize("which", [0, 1])
async def test_the_end_of_a_session_closes_the_other_channel(which: int) -> None:
    """PIP-06."""
    async with gateway() as (client, near, far, server):
        one, inner = await channel_pair(client, near)
        other_inner, other = await channel_pair(far, server)
        async with anyio.create_task_group() as group:
            running = Call(group, partial(anyssh.pipe, inner, other_inner))
            await (client, server)[which].aclose()
            await running.result()
            closed = await (other, one)[which].wait_closed()
            assert closed.error is None
        await echoes_through(*((far, server), (client, near))[which])


async def echoes_through(opener: anyssh.Session, acceptor: anyssh.Session) -> None:
    """Check that the session between two ends still works."""
    opened, accepted = await at_once(opener.open_channel("probe"), acceptor.accept_channel("probe"))
    await opened.send(b"still here")
    assert await receive_exactly(accepted, 10) == b"still here"


async def test_channels_of_one_session_can_be_piped() -> None:
    async with pair() as (client, server):
        one, inner = await channel_pair(client, server)
        other, other_inner = await channel_pair(client, server)
        async with anyio.create_task_group() as group:
            running = Call(group, partial(anyssh.pipe, inner, other_inner))
            await one.send(b"round trip")
            assert await receive_exactly(other, 10) == b"round trip"
            await other.aclose()
            await running.result()
            assert await receive_all(one) == b""


async def test_wrong_ends_are_told_so() -> None:
    async with pair() as (client, server):
        one, other = await channel_pair(client, server)
        for first, second in ((one, client), (client, one), (one, "text")):
            with pytest.raises(TypeError, match="two channels or two sessions"):
                await anyssh.pipe(first, second)
        for end in (one, client):
            with pytest.raises(ValueError, match="two different"):
                await anyssh.pipe(end, end)
        await one.send(b"unharmed")
        assert await receive_exactly(other, 8) == b"unharmed"


async def test_a_channel_in_use_is_busy() -> None:
    async with gateway() as (client, near, far, server):
        _, inner = await channel_pair(client, near)
        other_inner, _ = await channel_pair(far, server)
        async with anyio.create_task_group() as group:
            reading = Call(group, other_inner.receive)
            await settle()
            with pytest.raises(anyio.BusyResourceError):
                await anyssh.pipe(inner, other_inner)
            with pytest.raises(anyio.ClosedResourceError):
                await reading.result()
        assert (await inner.wait_closed()).error is None


async def test_nobody_else_reads_a_piped_channel() -> None:
    async with piped_channels() as (_, _, _, inner):
        await settle()
        for channel in inner:
            with pytest.raises(anyio.BusyResourceError):
                await channel.receive()
            with pytest.raises(anyio.BusyResourceError):
                await channel.stderr.receive()
            with pytest.raises(anyio.BusyResourceError):
                channel.arrivals()


@pytest.mark.parametrize("turns", [*range(12), 20, 40])
async def test_cancelling_closes_both_channels(turns: int) -> None:
    """PIP-07, CAN-01."""
    async with gateway(SMALL) as (client, near, far, server):
        one, inner = await channel_pair(client, near)
        other_inner, other = await channel_pair(far, server)
        async with nothing_left_behind(), anyio.create_task_group() as group:
            sending = Call(group, partial(one.send, os.urandom(MIB)))
            asking = Call(group, partial(other.request, "question"))
            with anyio.CancelScope() as scope:

                async def cancel() -> None:
                    for _ in range(turns):
                        await checkpoint()
                    scope.cancel()

                group.start_soon(cancel)
                await anyssh.pipe(inner, other_inner)
            assert scope.cancelled_caught
            with pytest.raises(anyio.BrokenResourceError):
                await sending.result()
            assert not await asking.result()
            for channel in (one, other):
                assert (await channel.wait_closed()).error is None
        await echoes_through(client, near)
        await echoes_through(far, server)


# Sessions


@pytest.mark.parametrize("way", ["client", "server"])
async def test_an_open_passes_with_its_payloads(way: str) -> None:
    """HR-79, PIP-08, T-43; the numbers of the two legs are out of step (PIP-09)."""
    async with relayed() as relay, anyio.create_task_group() as group:
        opener, acceptor = relay.ends(way)
        for number in range(3):
            gateway_end = (relay.far, relay.near)[way == "server"]
            await channel_pair(gateway_end, acceptor)  # this leg has more channels
            payload = os.urandom(300)
            opening_call = Call(
                group, partial(opener.open_channel, f"custom-{number}@example", payload=payload)
            )
            opening = await anext(acceptor.incoming_channels())
            assert opening.channel_type == f"custom-{number}@example"
            assert opening.payload == payload
            await settle()
            assert not opening_call.is_done  # confirmed only when the other side confirms
            confirmation = os.urandom(200)
            accepted = await opening.accept(payload=confirmation)
            opened = await opening_call.result()
            assert opened.open_payload == confirmation
            assert opened.channel_id != accepted.channel_id
            await opened.send(b"%d" % number)
            assert await receive_exactly(accepted, 1) == b"%d" % number
            await accepted.send(b"back")
            assert await receive_exactly(opened, 4) == b"back"
        assert len(relay.near.channels) == (3 if way == "client" else 6)


async def test_an_open_with_a_request_passes() -> None:
    async with relayed() as relay, anyio.create_task_group() as group:
        command = anyssh.wire.string("ls -l")
        opening = Call(
            group,
            partial(relay.client.open_channel, request=anyssh.ChannelRequest("exec", command)),
        )
        channel = await relay.server.accept_channel("session")
        request = await next_request(channel.requests())
        assert (request.name, request.payload) == ("exec", command)
        await request.accept()
        opened = await opening.result()
        await channel.send(b"listing")
        await channel.send_stderr(b"complaint")
        await channel.aclose(exit_status=2)
        assert await receive_all(opened) == b"listing"
        assert await receive_all(opened.stderr) == b"complaint"
        assert (await opened.wait_closed()).exit_status == 2


@pytest.mark.parametrize("way", ["client", "server"])
async def test_a_refusal_passes_with_reason_and_text(way: str) -> None:
    """HR-79, T-43."""
    async with relayed() as relay, anyio.create_task_group() as group:
        opener, acceptor = relay.ends(way)
        for reason, text in ((4, "no room"), (1, "not you"), (0xFE000001, "häßlich")):
            opening = Call(group, opener.open_channel)
            await (await anext(acceptor.incoming_channels())).reject(reason, text)
            with pytest.raises(anyssh.ChannelOpenError) as caught:
                await opening.result()
            assert (caught.value.reason, caught.value.description) == (reason, text)
        assert relay.near.channels == relay.far.channels == ()


async def test_an_open_whose_confirmation_fits_no_packet_is_refused() -> None:
    """HR-79: the server accepts with more data than the gateway can pass on to the client."""
    small = fast(anyssh.Limits(packet_size=64 * KIB))
    async with (
        pair(small, small) as (client, near),
        pair() as (far, server),
        anyio.create_task_group() as group,
    ):
        running = Call(group, partial(anyssh.pipe, near, far))
        opening = Call(group, client.open_channel)
        await (await anext(server.incoming_channels())).accept(payload=bytes(100 * KIB))
        with (
            pytest.raises(anyssh.ChannelOpenError, match="could not pass the channel on"),
            anyio.fail_after(LIMIT),
        ):
            await opening.result()
        await settle()
        assert server.channels == far.channels == ()
        running.scope.cancel()


@pytest.mark.parametrize("way", ["client", "server"])
async def test_requests_of_the_session_pass_with_payloads(way: str) -> None:
    async with relayed() as relay, anyio.create_task_group() as group:
        asker, answerer = relay.ends(way)
        requests = answerer.requests()
        for number in range(3):  # PIP-10: requests without reply keep the rest in step
            await asker.request("news@example", b"%d" % number, want_reply=False)
            request = await next_request(requests)
            assert (request.name, request.payload) == ("news@example", b"%d" % number)
            assert not request.want_reply
            await request.accept()
            asking = Call(group, partial(asker.request, "question@example", os.urandom(100)))
            request = await next_request(requests)
            payload = os.urandom(50)
            await request.accept(payload)
            assert await asking.result() == anyssh.Reply(True, payload)
            asking = Call(group, partial(asker.request, "question@example"))
            await (await next_request(requests)).reject()
            assert await asking.result() == anyssh.Reply(False)


PASS_ON = anyssh.ForwardingPolicy(passes_on=True)


@asynccontextmanager
async def forwarding_relay(
    policy: anyssh.ForwardingPolicy | None,
) -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.ServerSession]]:
    """Give a client, and a server that forwards all, behind a gateway with a policy."""
    everything = anyssh.ForwardingPolicy.allow_all()
    async with (
        pair(server_forwarding=policy) as (client, near),
        pair(client_forwarding=policy, server_forwarding=everything) as (far, server),
        anyio.create_task_group() as group,
    ):
        running = Call(group, partial(anyssh.pipe, near, far))
        yield client, server
        running.scope.cancel()


async def test_ports_are_forwarded_through_a_relay_that_passes_on() -> None:
    """PIP-12."""

    async def shout(stream: ByteStream) -> None:
        async with stream:
            await stream.send((await stream.receive()).upper())

    async with (
        forwarding_relay(PASS_ON) as (client, _),
        await anyio.create_tcp_listener(local_host="127.0.0.1") as target,
        anyio.create_task_group() as group,
    ):
        group.start_soon(target.serve, shout)
        port = target.extra(SocketAttribute.local_port)
        for _ in range(2):
            async with await client.stream_to_remote_port("127.0.0.1", port) as stream:
                await stream.send(b"connect")
                assert await stream.receive() == b"CONNECT"
        async with (
            client.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", port) as forward,
            await anyio.connect_tcp("127.0.0.1", forward.remote_port) as visitor,
        ):
            await visitor.send(b"listen")
            assert await visitor.receive() == b"LISTEN"
        await until_nobody_listens(forward.remote_port)  # the end of it comes through, too
        group.cancel_scope.cancel()


async def test_a_relay_forwards_no_ports_by_default() -> None:
    async with forwarding_relay(None) as (client, _):
        with pytest.raises(anyssh.ChannelOpenError) as caught:
            await client.stream_to_remote_port("127.0.0.1", 1)
        assert caught.value.reason == 1
        with pytest.raises(anyssh.RequestDenied):
            async with client.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", 1):
                raise AssertionError("it was granted")


async def test_a_session_that_passes_on_forwards_nothing_itself() -> None:
    async with pair(client_forwarding=PASS_ON) as (client, _):
        with pytest.raises(anyssh.LocalProtocolError, match="not among the services"):
            await client.stream_to_remote_port("127.0.0.1", 1)


async def test_the_order_of_opens_and_requests_is_kept() -> None:
    async with relayed() as relay, anyio.create_task_group() as group:
        requests = relay.server.requests()
        for number in range(12):
            Call(group, partial(relay.client.open_channel, f"type {number}"))
            Call(group, partial(relay.client.request, f"request {number}"))
            await checkpoint()
            await settle()
        for number in range(12):
            opening = await anext(relay.server.incoming_channels())
            assert opening.channel_type == f"type {number}"
            await opening.reject()
            request = await next_request(requests)
            assert request.name == f"request {number}"
            await request.accept()


async def test_opens_before_the_pipe_are_passed_and_open_channels_left_alone() -> None:
    async with gateway() as (client, near, far, server), anyio.create_task_group() as group:
        near.requests()  # or they would be refused with the first channel
        own, kept = await channel_pair(client, near)
        waiting = Call(group, client.open_channel)
        asking = Call(group, partial(client.request, "question"))
        await settle()
        running = Call(group, partial(anyssh.pipe, near, far))
        request = await next_request(server.requests())
        await request.accept(b"yes")
        channel = await server.accept_channel()
        await channel.aclose()
        await waiting.result()
        assert (await asking.result()).payload == b"yes"
        await own.send(b"mine")
        assert await receive_exactly(kept, 4) == b"mine"
        running.scope.cancel()


async def test_a_stuck_channel_does_not_delay_others() -> None:
    """T-44."""
    async with relayed(SMALL) as relay, anyio.create_task_group() as group:
        handlers = Call(group, partial(relay.server.serve, serve_by_type))
        stuck = await relay.client.open_channel("stuck")
        filling = Call(group, partial(stuck.send, os.urandom(MIB)))
        await settle()
        assert not filling.is_done
        sent = stuck.metrics.bytes_sent
        for _ in range(5):
            await echoes(relay.client)
        assert stuck.metrics.bytes_sent == sent
        assert not filling.is_done
        await stuck.aclose()
        await relay.client.aclose()
        await handlers.result()


async def serve_by_type(channel: anyssh.Channel) -> None:
    if channel.channel_type == "stuck":
        await channel.wait_closed()
    else:
        await echo(channel)


@pytest.mark.parametrize("way", ["client", "server"])
async def test_the_end_of_a_session_ends_the_other_for_the_same_reason(way: str) -> None:
    """PIP-11."""
    async with relayed() as relay:
        one, other = relay.ends(way)
        await one.disconnect(anyssh.DisconnectReason.HOST_NOT_ALLOWED_TO_CONNECT, "closed today")
        closed = await other.wait_closed()
        assert (closed.reason, closed.description) == (1, "closed today")
        await relay.pipe.result()


@pytest.mark.parametrize("which", ["near", "far"])
async def test_a_session_that_the_gateway_ends_ends_the_pipe(which: str) -> None:
    async with relayed() as relay:
        await getattr(relay, which).disconnect(12, "going home")
        for end in (relay.client, relay.server):
            closed = await end.wait_closed()
            assert (closed.reason, closed.description) == (12, "going home")
        await relay.pipe.result()


async def test_a_cut_ends_the_other_session() -> None:
    faulty: list[FaultStream] = []

    def wrap(inner: Any) -> FaultStream:
        faulty.append(FaultStream(inner))
        return faulty[0]

    async with relayed(client_stream=wrap) as relay:
        faulty[0].cut()
        closed = await relay.client.wait_closed()
        assert closed.reason == anyssh.DisconnectReason.BY_APPLICATION
        await relay.pipe.result()


@pytest.mark.parametrize("which", ["near", "far"])
async def test_a_pipe_survives_what_its_sessions_survive(which: str) -> None:
    """A relay of sessions that reconnect: a cut on either side is a slow channel."""
    config = anyssh.SessionConfig.with_reconnect()
    reconnected = anyio.Event()

    async def come_back(client: anyssh.ClientSession, server: anyssh.Server) -> None:
        await client.wait_disconnected()
        near, far = memory_stream_pair()
        moved = Call(group, partial(run_end, server.accept(far)))
        await client.reconnect(near)
        assert isinstance((await moved.result()).error, anyssh.SessionMoved)
        reconnected.set()

    servers = [server_of(config=config) for _ in range(2)]
    async with anyio.create_task_group() as group:
        faults, ends, clients = [], [], []
        for server in servers:
            near, far = memory_stream_pair()
            faults.append(FaultStream(near))
            ends.append(server.accept(far))
            clients.append(client_of(faults[-1], config=config))
        outer, inner = clients
        entered = [anyio.Event(), anyio.Event()]
        served = [
            Call(group, partial(serve_end, *pair_)) for pair_ in zip(ends, entered, strict=True)
        ]
        async with outer, inner:
            for event in entered:
                await event.wait()
            running = Call(group, partial(anyssh.pipe, ends[0], inner))
            opened, accepted = await channel_pair(outer, ends[1])
            lost = 0 if which == "near" else 1
            group.start_soon(come_back, clients[lost], servers[lost])
            data = os.urandom(MIB)
            sending = Call(group, partial(opened.send, data))
            start = await receive_exactly(accepted, 100 * KIB)
            faults[lost].cut()
            rest = await receive_exactly(accepted, MIB - 100 * KIB)
            assert start + rest == data
            await sending.result()
            await reconnected.wait()
        await running.result()
        for call in served:
            await call.result()


async def serve_end(session: anyssh.ServerSession, entered: anyio.Event) -> None:
    async with session:
        entered.set()
        await session.wait_closed()


async def test_bytes_before_a_goodbye_are_delivered() -> None:
    async with relayed(SMALL) as relay:
        data = os.urandom(80 * KIB)  # more than the server's window: the gateway holds the rest
        opened, accepted = await channel_pair(relay.client, relay.server)
        await opened.send(data)
        await opened.aclose(exit_status=4)
        await relay.client.aclose()
        assert await receive_all(accepted) == data
        assert (await accepted.wait_closed()).exit_status == 4


async def test_a_side_that_does_not_read_delays_the_end_by_its_time_only() -> None:
    config = fast(
        anyssh.Limits(disconnect_time=0.2, close_time=0.2),
        window_size=32 * KIB,
        max_packet_size=16 * KIB,
    )
    async with relayed(config) as relay, anyio.create_task_group() as group:
        opened, _ = await channel_pair(relay.client, relay.server)
        sending = Call(group, partial(opened.send, os.urandom(MIB)))
        await settle()
        await relay.client.aclose()
        with anyio.fail_after(LIMIT):
            await relay.pipe.result()
            await relay.server.wait_closed()
            await sending.done.wait()


async def test_a_flood_of_requests_is_held_up_where_nobody_reads() -> None:
    """HR-79: what a peer sends without waiting for replies does not pile up in the gateway."""
    faulty: list[FaultStream] = []

    def wrap(inner: Any) -> FaultStream:
        faulty.append(FaultStream(inner))
        return faulty[0]

    config = fast(anyssh.Limits(pending_output=64 * KIB, close_time=0.2, noise_messages=100_000))
    async with (
        pair(config, config) as (client, near),
        pair(config, config, client_stream=wrap) as (far, _),
        anyio.create_task_group() as group,
    ):
        running = Call(group, partial(anyssh.pipe, near, far))
        faulty[0].stall(Direction.SEND)
        for _ in range(400):
            await client.request("news", bytes(4 * KIB), want_reply=False)
            await settle()
        # As much as fits the output, and one more; the rest waits or was refused.
        assert far._core.transport.pending < 64 * KIB + 64 * KIB
        faulty[0].cut()
        await client.aclose()
        await running.result()


@pytest.mark.parametrize("closer", ["server", "client"])
async def test_a_channel_closes_although_a_request_of_it_cannot_leave(closer: str) -> None:
    """T-44: what the other side does not read holds up requests, but not what it says itself."""
    faulty: list[FaultStream] = []

    def wrap(inner: Any) -> FaultStream:
        faulty.append(FaultStream(inner))
        return faulty[0]

    config = fast(anyssh.Limits(pending_output=64 * KIB, close_time=0.2))
    async with (
        nothing_left_behind(),
        pair(config, config) as (client, near),
        pair(config, config, client_stream=wrap) as (far, server),
        anyio.create_task_group() as group,
    ):
        running = Call(group, partial(anyssh.pipe, near, far))
        asked, accepted = await channel_pair(client, server)
        other, other_accepted = await channel_pair(client, server)
        faulty[0].stall(Direction.SEND)
        while far._core.room > 0:
            await client.request("news", bytes(4 * KIB), want_reply=False)
            await settle()
        question = Call(group, partial(asked.request, "question"))
        await settle()
        assert not question.is_done
        with anyio.fail_after(LIMIT):
            if closer == "server":
                await accepted.aclose(exit_status=3)
                assert (await asked.wait_closed()).exit_status == 3
            else:
                await asked.aclose()
            assert not await question.result()
            await other_accepted.send(b"goes on")
            assert await receive_exactly(other, 7) == b"goes on"
            assert far._core.room <= 0
            await client.aclose()
            await running.result()


@pytest.mark.parametrize("turns", [*range(12), 20, 40])
async def test_cancelling_a_pipe_of_sessions_leaves_them_usable(turns: int) -> None:
    """PIP-07, CAN-01."""
    async with gateway() as (client, near, far, server):
        near_requests = near.requests()
        async with nothing_left_behind(), anyio.create_task_group() as group:
            asking = Call(group, partial(client.request, "question"))
            opening = Call(group, client.open_channel)
            with anyio.CancelScope() as scope:

                async def cancel() -> None:
                    for _ in range(turns):
                        await checkpoint()
                    scope.cancel()

                group.start_soon(cancel)
                await anyssh.pipe(near, far)
            # What the pipe had taken is refused; what it had not is there for others.
            await settle()
            if not asking.is_done:
                await (await next_request(near_requests)).reject()
            assert not await asking.result()
            if not opening.is_done:
                await (await anext(near.incoming_channels())).reject()
            with pytest.raises(anyssh.ChannelOpenError):
                await opening.result()
        await echoes_through(client, near)
        await echoes_through(far, server)
        assert near.channels[:-1] == far.channels[:-1] == ()


async def test_a_chain_of_gateways() -> None:
    async with relayed() as first, relayed() as second, anyio.create_task_group() as group:
        joined = Call(group, partial(anyssh.pipe, first.server, second.client))
        serving = Call(group, partial(second.server.serve, echo))
        for _ in range(3):
            await echoes(first.client)
        data = os.urandom(MIB)
        async with await first.client.open_channel() as channel:

            async def send() -> None:
                await channel.send(data)
                await channel.send_eof()

            assert (await at_once(send(), receive_exactly(channel, MIB)))[1] == data
        await first.client.disconnect(11, "done")
        assert (await second.server.wait_closed()).description == "done"
        for call in (joined, serving, first.pipe, second.pipe):
            await call.result()


async def test_a_pipe_leaves_nothing_behind() -> None:
    async with nothing_left_behind(), relayed() as relay, anyio.create_task_group() as group:
        serving = Call(group, partial(relay.server.serve, echo))
        for _ in range(20):
            await echoes(relay.client)
        await settle()
        await wait_for(lambda: relay.near.channels == relay.far.channels == ())
        assert not relay.near._pending_replies
        assert not relay.far._pending_replies
        await relay.client.aclose()
        await relay.pipe.result()
        await serving.result()


async def fill_and_close(channel: anyssh.Channel) -> None:
    """Send until nothing more is taken, and close."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.send, bytes(MIB))
            await settle()
            scope.cancel()
    await channel.aclose()


@pytest.mark.parametrize("closer", ["client", "server"])
async def test_what_is_held_of_closed_channels_is_bounded(
    closer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HR-51: a peer that fills and closes channels, of which the other side reads nothing."""
    monkeypatch.setattr("anyssh.pipes.CHECKED_AT_ONCE", 1)
    limits = anyssh.Limits(channels=32, receive_memory=4 * MIB)
    config = fast(limits, window_size=256 * KIB)
    async with relayed(config) as relay:
        silent: list[anyssh.Channel] = []
        for _ in range(14):
            ends = await channel_pair(relay.client, relay.server)
            ours, theirs = ends if closer == "client" else ends[::-1]
            silent.append(theirs)
            await fill_and_close(ours)
            await settle()
        near, far = relay.near, relay.far
        assert len(near.channels if closer == "client" else far.channels) == 0
        broken = [each.closed is not None for each in silent]
        assert sum(broken) in range(3, 8)
        assert broken == sorted(broken, reverse=True), "the oldest first"
        assert {each.closed.exit_signal for each in silent if each.closed} == {"ABRT"}
        # What is left of the others arrives whole.
        held = 0
        for channel in silent[-3:]:
            received = await receive_all(channel)
            held += len(received)
            assert (await channel.wait_closed()).exit_signal is None
        assert held > 3 * 256 * KIB


async def test_requests_that_are_held_of_closed_channels_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HR-51: they wait behind data that the other side does not read."""
    monkeypatch.setattr("anyssh.pipes.CHECKED_AT_ONCE", 1)
    limits = anyssh.Limits(channels=32, receive_memory=4 * MIB)
    config = fast(limits, window_size=32 * KIB, max_packet_size=16 * KIB)
    async with relayed(config) as relay:
        silent: list[anyssh.Channel] = []
        for _ in range(14):
            ours, theirs = await channel_pair(relay.client, relay.server)
            silent.append(theirs)
            await ours.send(bytes(48 * KIB))
            for _ in range(4):
                await ours.request("news@example.com", bytes(100 * KIB), want_reply=False)
            await ours.aclose()
            await settle()
        broken = [each.closed is not None for each in silent]
        assert sum(broken) in range(8, 11)
        assert broken == sorted(broken, reverse=True), "the oldest first"


async def test_requests_passed_on_for_closed_channels_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HR-51: the other side has been asked, and does not answer."""
    monkeypatch.setattr("anyssh.pipes.CHECKED_AT_ONCE", 1)
    limits = anyssh.Limits(channels=32, receive_memory=4 * MIB, waiting_bytes=64 * MIB)
    config = fast(limits, window_size=32 * KIB, max_packet_size=16 * KIB)
    async with relayed(config) as relay, anyio.create_task_group() as asking:
        silent: list[anyssh.Channel] = []
        for _ in range(14):
            ours, theirs = await channel_pair(relay.client, relay.server)
            silent.append(theirs)
            requests = theirs.requests()
            for _ in range(4):
                asking.start_soon(ours.request, "question@example.com", bytes(100 * KIB))
                await next_request(requests)
            await ours.send(bytes(48 * KIB))
            await ours.aclose()
            await settle()
        broken = [each.closed is not None for each in silent]
        assert sum(broken) in range(8, 11)
        assert broken == sorted(broken, reverse=True), "the oldest first"
