"""Many plain streams over one, and one secure stream over one.

Labels such as MCS-01 and SST-01 are those of the list of behaviours.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint

import anyssh
from anyssh.testing import FaultStream, check_byte_stream, memory_stream_pair
from tests.session.ends import (
    ALICE,
    Call,
    at_once,
    host_key,
    make_server,
    pinned,
    receive_exactly,
    settle,
)
from tests.session.life_support import LIMIT, Recorder, echo, nothing_left_behind, streams

KIB = 1024


class End:
    """One end in a task of its own, entered; it stays until it is told to leave."""

    def __init__(self, group: anyio.abc.TaskGroup, entering: Any) -> None:
        self.stream: Any = entering
        self._entered = anyio.Event()
        self._may_leave = anyio.Event()
        self._call = Call(group, self._run)

    async def _run(self) -> None:
        try:
            async with self.stream:
                self._entered.set()
                await self._may_leave.wait()
        finally:
            self._entered.set()

    async def entered(self) -> Any:
        await self._entered.wait()
        if self._call.error is not None:
            raise self._call.error
        return self.stream

    async def leave(self) -> None:
        self._may_leave.set()
        await self._call.result()

    async def result(self) -> None:
        await self._call.result()


@asynccontextmanager
async def multiplexed(
    config: anyssh.InsecureSessionConfig | None = None,
) -> AsyncIterator[tuple[anyssh.MultiChannelStream, anyssh.MultiChannelStream]]:
    near, far = memory_stream_pair()
    async with anyio.create_task_group() as group:
        other = End(group, anyssh.MultiChannelStream.accept(far, config=config))
        async with anyssh.MultiChannelStream.connect(near, config=config) as mux:
            yield mux, await other.entered()
        await other.leave()


@asynccontextmanager
async def secured(
    near: ByteStream | None = None, far: ByteStream | None = None
) -> AsyncIterator[tuple[anyssh.SecureStream, anyssh.SecureStream]]:
    if near is None or far is None:
        near, far = memory_stream_pair()
    async with anyio.create_task_group() as group:
        other = End(group, anyssh.SecureStream.accept(far, make_server()))
        async with secure_client(near) as secure:
            yield secure, await other.entered()
        await other.leave()


def secure_client(stream: Any, **changes: Any) -> anyssh.SecureStream:
    options: dict[str, Any] = {"credentials": ALICE, "verify_host": pinned()}
    return anyssh.SecureStream.connect(stream, **options | changes)


# Many streams over one


@pytest.mark.parametrize("way", [1, -1])
async def test_streams_over_a_stream(way: int) -> None:
    """MCS-01, MCS-08."""
    async with multiplexed() as ends:
        opener, acceptor = ends[::way]
        opened, accepted = await at_once(opener.open_stream("logs"), acceptor.accept_stream("logs"))
        assert opened.channel_type == accepted.channel_type == "logs"
        await opened.send(b"there")
        assert await receive_exactly(accepted, 5) == b"there"
        await accepted.send(b"back")
        assert await receive_exactly(opened, 4) == b"back"
        await opened.send_stderr(b"aside")  # MCS-09
        assert await receive_exactly(accepted.stderr, 5) == b"aside"


async def test_a_type_is_waited_for() -> None:
    async with multiplexed() as (mux, other), anyio.create_task_group() as group:
        first = Call(group, partial(mux.open_stream, "first", payload=b"details"))
        second = Call(group, partial(mux.open_stream, "second"))
        assert (await other.accept_stream("second")).channel_type == "second"
        accepted = await other.accept_stream()
        assert (accepted.channel_type, accepted.open_payload) == ("first", b"details")
        await first.result()
        await second.result()


async def test_twenty_streams_at_once() -> None:
    """MCS-02."""
    async with multiplexed() as (mux, other), anyio.create_task_group() as group:
        serving = Call(group, partial(other.serve, echo))

        async def talk(number: int) -> None:
            async with await mux.open_stream(f"{number}") as stream:
                for turn in range(10):
                    word = b"%d:%d" % (number, turn)
                    await stream.send(word)
                    assert await receive_exactly(stream, len(word)) == word

        async with anyio.create_task_group() as talks:
            for number in range(20):
                talks.start_soon(talk, number)
        await mux.aclose()
        await serving.result()  # MCS-05


async def test_a_stream_may_be_refused() -> None:
    async with multiplexed() as (mux, other), anyio.create_task_group() as group:
        opening = Call(group, mux.open_stream)
        await (await anext(other.incoming_streams())).reject(4, "not today")
        with pytest.raises(anyssh.ChannelOpenError, match="not today"):
            await opening.result()


async def test_closing_one_stream_leaves_the_others() -> None:
    """MCS-10."""
    async with multiplexed() as (mux, other):
        one, one_there = await at_once(mux.open_stream(), other.accept_stream())
        two, two_there = await at_once(mux.open_stream(), other.accept_stream())
        await one.aclose()
        with pytest.raises(anyio.EndOfStream):
            await one_there.receive()
        await two.send(b"alive")
        assert await receive_exactly(two_there, 5) == b"alive"


async def test_closing_ends_the_other_end() -> None:
    """MCS-04."""
    near, far = streams()
    async with anyio.create_task_group() as group:
        other = End(group, anyssh.MultiChannelStream.accept(far))
        async with anyssh.MultiChannelStream.connect(near) as mux:
            there = await other.entered()
            opened, accepted = await at_once(mux.open_stream(), there.accept_stream())
            waiting = Call(group, there.accept_stream)
            await opened.send(b"last words")
        closed = await there.wait_closed()
        assert closed.reason == anyssh.DisconnectReason.BY_APPLICATION
        assert await receive_exactly(accepted, 10) == b"last words"
        with pytest.raises(anyssh.Disconnected):
            await waiting.result()
        with pytest.raises(anyssh.Disconnected):
            await there.open_stream()
        await other.leave()
    assert (near.closes, far.closes) == (1, 1)


async def test_the_window_size_is_that_of_the_configuration() -> None:
    """MCS-07."""
    config = anyssh.InsecureSessionConfig(window_size=64 * KIB)
    async with multiplexed(config) as (mux, other), anyio.create_task_group() as group:
        for opener, acceptor in ((mux, other), (other, mux)):
            opened, accepted = await at_once(opener.open_stream(), acceptor.accept_stream())
            for sender, reader in ((opened, accepted), (accepted, opened)):
                sending = Call(group, partial(sender.send, bytes(100 * KIB)))
                await settle()
                assert sender.metrics.bytes_sent == 64 * KIB
                assert await receive_exactly(reader, 100 * KIB) == bytes(100 * KIB)
                await sending.result()


async def test_no_secure_configuration_for_many_streams() -> None:
    near, far = streams()
    for make in (anyssh.MultiChannelStream.accept, anyssh.MultiChannelStream.connect):
        with pytest.raises(TypeError):
            make(near, config=anyssh.SessionConfig())
    await near.aclose()
    await far.aclose()


async def test_many_streams_do_not_meet_a_secure_session() -> None:
    near, far = memory_stream_pair()
    async with anyio.create_task_group() as group:
        other = End(group, make_server().accept(far))
        with pytest.raises(anyssh.NegotiationError):
            async with anyssh.MultiChannelStream.connect(near):
                raise AssertionError("they met")
        with pytest.raises(anyssh.SSHError):
            await other.result()


@pytest.mark.parametrize("turns", [*range(8), 15, 30])
async def test_a_cancelled_open_leaves_the_rest_alone(turns: int) -> None:
    async with multiplexed() as (mux, other), anyio.create_task_group() as group:
        await cancelled_after(turns, mux.open_stream)
        opening = Call(group, partial(mux.open_stream, "probe"))
        accepted = await other.accept_stream("probe")
        await accepted.send(b"fine")
        assert await receive_exactly(await opening.result(), 4) == b"fine"


async def cancelled_after(turns: int, operation: Callable[[], Awaitable[Any]]) -> bool:
    """Cancel an operation after so many turns; return whether it was too late for that."""
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                for _ in range(turns):
                    await checkpoint()
                scope.cancel()

            group.start_soon(cancel)
            await operation()
        group.cancel_scope.cancel()
    return not scope.cancelled_caught


# One secure stream


async def test_a_secure_stream_keeps_every_rule() -> None:
    await check_byte_stream(secured)


async def test_bytes_both_ways() -> None:
    """SST-01."""
    near, far = streams()
    async with secured(near, far) as (secure, other):
        for sender, receiver in ((secure, other), (other, secure)):
            data = os.urandom(KIB)
            await sender.send(data)
            assert await receive_exactly(receiver, KIB) == data
            assert data not in near.sent + far.sent
        assert other.session.principal == "alice"
    assert near.closes == far.closes == 1


@pytest.mark.parametrize("leaver", ["client", "server"])
async def test_closing_one_end_closes_the_other(leaver: str) -> None:
    """SST-05, SST-04, SST-08."""
    async with secured() as (secure, other):
        left, stayed = (secure, other) if leaver == "client" else (other, secure)
        await left.send(b"last words")
        for _ in range(3):
            await left.aclose()
        closed = await stayed.wait_closed()
        assert closed.reason == anyssh.DisconnectReason.BY_APPLICATION
        assert await receive_exactly(stayed, 10) == b"last words"
        with pytest.raises(anyio.EndOfStream):
            await stayed.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await stayed.send(b"too late")
        with pytest.raises(anyio.ClosedResourceError):
            await left.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await left.send(b"too late")


async def test_closing_forcefully_closes_the_stream_below() -> None:
    """SST-04: what owns the stream cannot wait for whoever has entered it to leave."""
    near, far = streams()
    async with secured(near, far) as (secure, other):
        await anyio.aclose_forcefully(secure)
        with anyio.fail_after(LIMIT):
            await secure.wait_closed()
            await other.wait_closed()
        await settle()
        assert near.closes == 1


@pytest.mark.parametrize("reason", [0, 11])
async def test_a_goodbye_without_closing_the_channel_is_the_end(reason: int) -> None:
    """As programs of the Dev Tunnels family say it."""
    async with secured() as (secure, other):
        await other.send(b"last words")
        await other.session.disconnect(reason, "SshServerSession disposed.")
        assert await receive_exactly(secure, 10) == b"last words"
        with pytest.raises(anyio.EndOfStream):
            await secure.receive()


async def test_an_end_for_another_reason_is_an_error() -> None:
    async with secured() as (secure, other):
        await other.session.disconnect(anyssh.DisconnectReason.PROTOCOL_ERROR, "no")
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await secure.receive()
        assert isinstance(caught.value.__cause__, anyssh.Disconnected)


async def test_a_cut_is_an_error_and_no_end() -> None:
    near, far = memory_stream_pair()
    faulty = FaultStream(near)
    async with secured(faulty, far) as (secure, other):
        await secure.send(b"whole")
        assert await receive_exactly(other, 5) == b"whole"
        faulty.cut()
        for end in (secure, other):
            with pytest.raises(anyio.BrokenResourceError) as caught:
                await end.receive()
            assert isinstance(caught.value.__cause__, anyssh.ConnectionLost)


async def test_our_own_goodbye_is_no_end_of_the_peers_bytes() -> None:
    async with secured() as (secure, _):
        await secure.session.disconnect(11)
        with pytest.raises(anyio.BrokenResourceError):
            await secure.receive()


async def test_a_refused_host_key_fails_both_ends() -> None:
    """SST-02."""
    near, far = streams()
    other_key = anyssh.generate_key("ssh-ed25519")
    async with anyio.create_task_group() as group:
        other = End(group, anyssh.SecureStream.accept(far, make_server()))
        with pytest.raises(anyssh.HostKeyError):
            async with secure_client(near, verify_host=anyssh.pin(other_key.fingerprint)):
                raise AssertionError("it got through")
        with pytest.raises(anyssh.Disconnected) as caught:
            await other.result()
        assert caught.value.reason == anyssh.DisconnectReason.HOST_KEY_NOT_VERIFIABLE
    assert near.closes == far.closes == 1


async def test_a_refused_client_fails_both_ends() -> None:
    """SST-03."""
    near, far = streams()
    async with anyio.create_task_group() as group:
        other = End(group, anyssh.SecureStream.accept(far, make_server()))
        mallory = anyssh.ClientCredentials("mallory", password="guess")
        with pytest.raises(anyssh.AuthenticationError):
            async with secure_client(near, credentials=mallory):
                raise AssertionError("it got through")
        with pytest.raises(anyssh.SSHError):
            await other.result()
    assert near.closes == far.closes == 1


async def test_a_server_without_such_streams_is_told_so() -> None:
    near, far = memory_stream_pair()

    async def refuse(session: anyssh.ServerSession) -> None:
        async for opening in session.incoming_channels():
            await opening.reject(description="no streams here")

    async def serve() -> None:
        async with make_server().accept(far) as session:
            await refuse(session)

    async with anyio.create_task_group() as group:
        group.start_soon(serve)
        with pytest.raises(anyssh.ChannelOpenError, match="no streams here"):
            async with secure_client(near):
                raise AssertionError("it got through")


async def test_no_insecure_configuration_for_a_secure_stream() -> None:
    near, far = streams()
    config = anyssh.InsecureSessionConfig()
    with pytest.raises(TypeError):
        secure_client(near, config=config)
    with pytest.raises(TypeError):
        anyssh.SecureStream.accept(far, anyssh.Server(config=config))
    with pytest.raises(TypeError):
        secure_client(near, verify_host=None)
    await near.aclose()
    await far.aclose()


@pytest.mark.parametrize("make", [secure_client, anyssh.MultiChannelStream.connect])
async def test_closing_without_entering_closes_the_stream_below(
    make: Callable[[Recorder], Any],
) -> None:
    """SST-04, MCS-04."""
    near, far = streams()
    await make(near).aclose()
    assert near.closes == 1
    await far.aclose()


async def test_a_secure_stream_that_was_not_entered_says_so() -> None:
    near, far = streams()
    secure = secure_client(near)
    for call in (secure.receive, partial(secure.send, b"x"), secure.send_eof):
        with pytest.raises(anyssh.LocalProtocolError, match="async with"):
            await call()
    await secure.aclose()
    await far.aclose()


async def test_typed_attributes() -> None:
    async with secured() as (secure, other):
        assert secure.extra(anyssh.SSHAttribute.host_key) == host_key()
        assert other.extra(anyssh.SSHAttribute.principal) == "alice"
        assert secure.extra(anyssh.SSHAttribute.algorithms) == other.session.algorithms
        assert secure.extra(SocketAttribute.remote_port, None) is None


@pytest.mark.parametrize("pair", [multiplexed, secured])
async def test_an_error_of_the_body_leaves_bare(pair: Callable[[], Any]) -> None:
    near, far = memory_stream_pair()
    entering, accepting = {
        multiplexed: (anyssh.MultiChannelStream.connect, anyssh.MultiChannelStream.accept),
        secured: (secure_client, partial(anyssh.SecureStream.accept, server=make_server())),
    }[pair]
    async with anyio.create_task_group() as group:
        other = End(group, accepting(far))
        with pytest.raises(KeyError):
            async with entering(near):
                raise KeyError
        await other.entered()
        await other.leave()


@pytest.mark.parametrize("turns", [*range(0, 60, 4), 100, 200])
async def test_cancelling_entry_closes_everything(turns: int) -> None:
    near, far = streams()
    async with nothing_left_behind(), anyio.create_task_group() as group:
        other = End(group, anyssh.SecureStream.accept(far, make_server()))

        async def enter() -> None:
            async with secure_client(near):
                await anyio.sleep_forever()

        assert not await cancelled_after(turns, enter)
        with anyio.fail_after(LIMIT):
            try:
                await other.entered()
                await other.leave()
            except anyssh.SSHError:
                pass
    assert near.closes == far.closes == 1


async def test_a_secure_stream_reconnects() -> None:
    """SST-06, SST-07."""
    config = anyssh.SessionConfig.with_reconnect()
    server = make_server(config=config)
    near, far = memory_stream_pair()
    faulty = FaultStream(near)
    async with anyio.create_task_group() as group:
        other = End(group, anyssh.SecureStream.accept(far, server))
        async with secure_client(faulty, config=config) as secure:
            there = await other.entered()
            await secure.send(b"before ")
            assert await receive_exactly(there, 7) == b"before "
            waiting = Call(group, secure.receive)
            faulty.cut()
            assert isinstance(await secure.wait_disconnected(), anyssh.ConnectionLost)
            await secure.send(b"meanwhile ")
            near, far = memory_stream_pair()
            again = End(group, anyssh.SecureStream.accept(far, server))
            await secure.reconnect(near)
            with pytest.raises(anyssh.SessionMoved):
                await again.result()
            await secure.send(b"after")
            assert await receive_exactly(there, 15) == b"meanwhile after"
            await there.send(b"fine")
            assert await waiting.result() == b"fine"
            extra, extra_end = streams()
            with pytest.raises(anyssh.LocalProtocolError):
                await there.reconnect(extra)
            assert extra.closes == 1
            await extra_end.aclose()
        with pytest.raises(anyio.EndOfStream):
            await there.receive()
        await other.leave()


async def test_a_secure_stream_can_carry_a_session() -> None:
    """Any byte stream carries a session, so this one does too."""
    async with secured() as (secure, other), anyio.create_task_group() as group:
        inner = End(group, make_server().accept(other))
        async with anyssh.ClientSession.connect(
            secure, credentials=ALICE, verify_host=pinned()
        ) as client:
            session = await inner.entered()
            one, two = await at_once(client.open_channel(), session.accept_channel())
            await one.send(b"twice wrapped")
            assert await receive_exactly(two, 13) == b"twice wrapped"
        await inner.leave()
