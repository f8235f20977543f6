"""The fault stream: it conforms to the rules, and breaks them exactly where it should."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import anyio
import pytest
import trio.testing
from anyio.abc import ByteStream, SocketAttribute, SocketListener
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from anyssh.testing import (
    Coalesce,
    Cut,
    CutInSend,
    Delay,
    Delete,
    Direction,
    Duplicate,
    Ending,
    Fault,
    FaultStream,
    FlipBit,
    HalfClose,
    Insert,
    MemoryStream,
    Report,
    Slice,
    Stall,
    Swap,
    Throttle,
    check_byte_stream,
    memory_stream_pair,
)
from tests.conformance.trio_adapter import TrioStream
from tests.conformance.waiting import waits

SEND, RECEIVE = Direction.SEND, Direction.RECEIVE
RESET, EOF = Ending.RESET, Ending.EOF
ALPHABET = b"abcdefghijklmnopqrstuvwxyz"


def faulty(*plan: Fault, seed: int = 0) -> tuple[FaultStream, MemoryStream]:
    """A faulty end and the honest end it is connected to."""
    left, right = memory_stream_pair()
    return FaultStream(left, plan, seed=seed), right


async def drain(stream: ByteStream) -> tuple[list[bytes], type[Exception]]:
    """Everything that still comes, piece by piece, and how it ends."""
    pieces = []
    while True:
        try:
            pieces.append(await stream.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            return pieces, type(error)


# Where nothing goes wrong -------------------------------------------------------------------


@asynccontextmanager
async def pair(
    plan: Iterable[Fault] = (), depth: int = 1
) -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    left, right = memory_stream_pair()
    ends: list[ByteStream] = [left, right]
    for _ in range(depth):
        ends = [FaultStream(end, plan) for end in ends]
    yield ends[0], ends[1]
    left.close()
    right.close()


@pytest.mark.parametrize(
    "make_pair",
    [
        pytest.param(pair, id="empty plan"),
        pytest.param(partial(pair, depth=3), id="three around each other"),
        pytest.param(
            partial(pair, [Slice(SEND, 9000, smallest=1), Slice(RECEIVE, 7000)]), id="slices"
        ),
        pytest.param(partial(pair, [Coalesce(3000, within=0.001)]), id="coalesce"),
        pytest.param(
            partial(pair, [Delay(SEND, 0.0001, 0.0002), Throttle(RECEIVE, 1e8)]), id="late"
        ),
        pytest.param(partial(pair, [Cut(SEND, 2**30), Stall(RECEIVE, 2**30)]), id="far away"),
    ],
)
async def test_keeps_every_rule_while_nothing_goes_wrong(make_pair: Any) -> None:
    await check_byte_stream(make_pair, buffer_limit=1024 * 1024, both_ends=False)


@pytest.mark.trio
async def test_trio_finds_no_fault() -> None:
    async def stream_maker() -> tuple[TrioStream, TrioStream]:
        left, right = memory_stream_pair()
        return TrioStream(FaultStream(left)), TrioStream(FaultStream(right))

    await trio.testing.check_half_closeable_stream(stream_maker, None)


async def test_attributes_are_those_of_the_inner_stream() -> None:
    async with tcp_pair() as (left, _):
        stream = FaultStream(left)
        assert stream.extra(SocketAttribute.remote_port) == left.extra(SocketAttribute.remote_port)


# Changed bytes ------------------------------------------------------------------------------

CHANGES = [
    ([FlipBit(SEND, 2, 5)], b"abCdefgh"),
    ([Insert(SEND, 3, b"---")], b"abc---defgh"),
    ([Insert(SEND, 0, b"---")], b"---abcdefgh"),
    ([Delete(SEND, 1, 3)], b"aefgh"),
    ([Duplicate(SEND, 2, 2)], b"abcdcdefgh"),
    ([Swap(SEND, 1, 3)], b"aefgbcdh"),
    ([Delete(SEND, 0, 4), Insert(SEND, 2, b"!")], b"ef!gh"),
    ([Swap(SEND, 0, 2), Duplicate(SEND, 0, 2)], b"cdcdabefgh"),
]


@pytest.mark.parametrize("plan, expected", CHANGES)
@pytest.mark.parametrize("size", [1, 3, 8])
async def test_changes_what_is_sent(plan: list[Fault], expected: bytes, size: int) -> None:
    stream, peer = faulty(*plan)
    for start in range(0, 8, size):
        await stream.send(b"abcdefgh"[start : start + size])
    assert stream.bytes_sent == len(expected)
    await stream.aclose()
    assert b"".join((await drain(peer))[0]) == expected


@pytest.mark.parametrize("plan, expected", CHANGES)
@pytest.mark.parametrize("size", [1, 3, 8])
async def test_changes_what_is_received(plan: list[Fault], expected: bytes, size: int) -> None:
    stream, peer = faulty(*(_turned(fault) for fault in plan))
    for start in range(0, 8, size):
        await peer.send(b"abcdefgh"[start : start + size])
    await peer.aclose()
    assert b"".join((await drain(stream))[0]) == expected
    assert stream.bytes_received == len(expected)


def _turned(fault: Fault) -> Fault:
    match fault:
        case FlipBit(_, offset, bit):
            return FlipBit(RECEIVE, offset, bit)
        case Insert(_, offset, data):
            return Insert(RECEIVE, offset, data)
        case Delete(_, offset, count) | Duplicate(_, offset, count) | Swap(_, offset, count):
            return type(fault)(RECEIVE, offset, count)
    raise AssertionError(fault)


@st.composite
def edits(draw: st.DrawFn) -> Fault:
    kind = draw(st.sampled_from([FlipBit, Insert, Delete, Duplicate, Swap]))
    offset = draw(st.integers(0, 30))
    if kind is FlipBit:
        return FlipBit(SEND, offset, draw(st.integers(0, 7)))
    if kind is Insert:
        return Insert(SEND, offset, draw(st.binary(max_size=4)))
    return cast("Fault", kind(SEND, offset, draw(st.integers(1, 8))))


def _model(fault: Fault, data: bytes) -> bytes:
    """What a fault makes of a whole stream, written down without any pieces."""
    match fault:
        case FlipBit(_, offset, bit):
            changed = bytearray(data)
            if offset < len(data):
                changed[offset] ^= 1 << bit
            return bytes(changed)
        case Insert(_, offset, new):
            return data[:offset] + new + data[offset:] if len(data) >= offset else data
        case Delete(_, offset, count):
            return data[:offset] + data[offset + count :]
        case Duplicate(_, offset, count):
            stop = offset + count
            return data[:stop] + data[offset:stop] + data[stop:] if len(data) >= stop else data
        case Swap(_, offset, count):
            middle, stop = offset + count, offset + 2 * count
            return data[:offset] + data[middle:stop] + data[offset:middle] + data[stop:]
    raise AssertionError(fault)


@given(
    plan=st.lists(edits(), max_size=4),
    pieces=st.lists(st.binary(max_size=12), max_size=8),
)
async def test_changes_do_not_depend_on_the_pieces(plan: list[Fault], pieces: list[bytes]) -> None:
    expected = b"".join(pieces)
    if expected:  # before the first byte nothing is inserted
        for fault in plan:
            expected = _model(fault, expected)
    stream, peer = faulty(*plan)
    for piece in filter(None, pieces):
        await stream.send(piece)
    if pieces and any(pieces):
        await stream.send_eof()
        assert b"".join((await drain(peer))[0]) == expected


async def test_swapped_bytes_that_never_got_a_partner_leave_with_the_end() -> None:
    stream, peer = faulty(Swap(SEND, 2, 4))
    await stream.send(b"abcdefg")
    await stream.send_eof()
    assert b"".join((await drain(peer))[0]) == b"abgcdef"


# Cuts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end, at_peer", [(RESET, anyio.BrokenResourceError), (EOF, anyio.EndOfStream)]
)
@pytest.mark.parametrize("after", range(9))
async def test_cut_after_any_byte_sent(after: int, end: Ending, at_peer: type[Exception]) -> None:
    stream, peer = faulty(Cut(SEND, after, end))

    async def send_all() -> None:
        for piece in (b"abc", b"def", b"gh", b"never"):
            await stream.send(piece)

    with pytest.raises(anyio.BrokenResourceError):
        await send_all()
    assert stream.bytes_sent == after
    assert stream.is_cut
    pieces, seen = await drain(peer)
    assert (b"".join(pieces), seen) == (b"abcdefgh"[:after], at_peer)
    assert (await drain(stream)) == ([], at_peer)
    with pytest.raises(anyio.BrokenResourceError):
        await peer.send(b"x")


@pytest.mark.parametrize(
    "end, seen", [(RESET, anyio.BrokenResourceError), (EOF, anyio.EndOfStream)]
)
@pytest.mark.parametrize("after", range(9))
async def test_cut_after_any_byte_received(after: int, end: Ending, seen: type[Exception]) -> None:
    stream, peer = faulty(Cut(RECEIVE, after, end))
    for piece in (b"abc", b"def", b"gh", b"never"):
        await peer.send(piece)
    pieces, error = await drain(stream)
    assert (b"".join(pieces), error) == (b"abcdefgh"[:after], seen)
    assert stream.bytes_received == after
    assert (await drain(peer)) == ([], seen)


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("report", Report)
async def test_cut_inside_a_send(after: int, report: Report) -> None:
    stream, peer = faulty(CutInSend(1, after, report=report))
    await stream.send(b"first")
    if report is Report.ERROR:
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"sec")
    else:
        await stream.send(b"sec")
    with pytest.raises(anyio.BrokenResourceError):
        await stream.send(b"third")
    pieces, _ = await drain(peer)
    assert b"".join(pieces) == b"first" + b"sec"[:after]
    assert stream.sends == 2


async def test_a_send_over_a_cut_can_claim_success() -> None:
    stream, peer = faulty(Cut(SEND, 2, report=Report.SUCCESS))
    await stream.send(b"abcdef")
    assert stream.bytes_sent == 2
    assert (await drain(peer))[0] == [b"ab"]
    with pytest.raises(anyio.BrokenResourceError):
        await stream.send(b"g")


async def test_a_send_that_ends_at_the_cut_succeeds() -> None:
    stream, peer = faulty(Cut(SEND, 3))
    await stream.send(b"abc")
    assert stream.is_cut
    assert await drain(peer) == ([b"abc"], anyio.BrokenResourceError)


async def test_the_earlier_cut_counts() -> None:
    stream, peer = faulty(Cut(SEND, 5), Cut(SEND, 2, EOF))
    with pytest.raises(anyio.BrokenResourceError):
        await stream.send(b"abcdef")
    assert await drain(peer) == ([b"ab"], anyio.EndOfStream)


@pytest.mark.parametrize(
    "end, seen", [(RESET, anyio.BrokenResourceError), (EOF, anyio.EndOfStream)]
)
@pytest.mark.parametrize("depth", [1, 2])
async def test_cut_by_hand_wakes_all(end: Ending, seen: type[Exception], depth: int) -> None:
    left, peer = memory_stream_pair(capacity=4)
    inner = FaultStream(left) if depth == 2 else left
    stream = FaultStream(inner)
    errors: dict[str, type[Exception]] = {}

    async def note(name: str, call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except Exception as error:
            errors[name] = type(error)

    async with anyio.create_task_group() as group:
        group.start_soon(note, "receive", stream.receive)
        group.start_soon(note, "send", partial(stream.send, b"too much"))
        await anyio.wait_all_tasks_blocked()
        stream.cut(end)
    assert errors == {"receive": seen, "send": anyio.BrokenResourceError}
    assert await drain(peer) == ([b"too "], seen)


async def test_a_cut_by_the_other_direction_wakes_a_receive() -> None:
    stream, _ = faulty(Cut(SEND, 1))
    async with anyio.create_task_group() as group:

        async def receive() -> None:
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()

        group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        await stream.send(b"x")


async def test_after_a_cut_the_stream_can_be_closed() -> None:
    stream, _ = faulty(Cut(SEND, 0))
    with pytest.raises(anyio.BrokenResourceError):
        await stream.send(b"x")
    await stream.aclose()
    with pytest.raises(anyio.ClosedResourceError):
        await stream.receive()
    assert stream.is_cut


class SlowToClose(FaultStream):
    """Neither a memory stream nor a socket: it has to be awaited to be closed."""

    async def aclose(self) -> None:
        try:
            await anyio.sleep(60)
        finally:
            self._inner.close()  # type: ignore[attr-defined]

    def cut(self, end: Ending = Ending.RESET) -> None:
        pass


async def test_a_cut_takes_no_time_and_loses_no_byte_even_if_it_is_cancelled() -> None:
    left, peer = memory_stream_pair()
    stream = FaultStream(SlowToClose(left), [Cut(RECEIVE, 3)])
    await peer.send(b"abcdef")
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            received = []

            async def receive() -> None:
                received.append(await stream.receive())

            group.start_soon(receive)
            while not stream.is_cut:
                await checkpoint()
            scope.cancel()
    assert received == [b"abc"]
    assert await drain(peer) == ([], anyio.EndOfStream)


async def test_half_close_of_what_is_sent() -> None:
    stream, peer = faulty(HalfClose(SEND, 3))
    with pytest.raises(anyio.BrokenResourceError):
        await stream.send(b"abcdef")
    assert await drain(peer) == ([b"abc"], anyio.EndOfStream)
    await peer.send(b"still here")
    assert await stream.receive() == b"still here"
    with pytest.raises(anyio.BrokenResourceError):
        await stream.send(b"x")


async def test_half_close_of_what_is_received() -> None:
    stream, peer = faulty(HalfClose(RECEIVE, 3))
    await peer.send(b"abcdef")
    assert await drain(stream) == ([b"abc"], anyio.EndOfStream)
    await stream.send(b"still here")
    assert await peer.receive() == b"still here"


# Pieces -------------------------------------------------------------------------------------


async def pieces_of(stream: ByteStream, peer: ByteStream) -> list[int]:
    await peer.send(bytes(1000))
    await peer.send_eof()
    return [len(piece) for piece in (await drain(stream))[0]]


async def test_slices_of_a_fixed_size() -> None:
    assert await pieces_of(*faulty(Slice(RECEIVE, 300))) == [300, 300, 300, 100]


async def test_slices_by_chance_are_the_same_for_the_same_seed() -> None:
    plan = Slice(RECEIVE, 50, smallest=1)
    first, again, other = [await pieces_of(*faulty(plan, seed=seed)) for seed in (1, 1, 2)]
    assert first == again
    assert first != other
    assert sum(first) == 1000
    assert max(first) <= 50
    assert len(set(first)) > 5


async def test_slices_do_not_depend_on_how_the_bytes_came() -> None:
    stream, peer = faulty(Slice(RECEIVE, 4))
    await peer.send(b"abc")
    assert await stream.receive() == b"abc"
    await peer.send(b"defghijk")
    assert [await stream.receive() for _ in range(3)] == [b"d", b"efgh", b"ijk"]


async def test_what_is_sent_is_sliced_too() -> None:
    sizes = []

    class Spy(FaultStream):
        async def send(self, item: bytes) -> None:
            sizes.append(len(item))
            await super().send(item)

    left, right = memory_stream_pair()
    await FaultStream(Spy(left), [Slice(SEND, 3)]).send(b"abcdefgh")
    assert sizes == [3, 3, 2]
    assert await right.receive() == b"abcdefgh"


async def test_coalesces_what_comes_within_the_time() -> None:
    stream, peer = faulty(Coalesce(6, within=60))

    async def send_slowly() -> None:
        for piece in (b"ab", b"cd", b"efgh"):
            await anyio.wait_all_tasks_blocked()
            await peer.send(piece)

    async with anyio.create_task_group() as group:
        group.start_soon(send_slowly)
        assert await stream.receive() == b"abcdefgh"


async def test_coalesces_until_the_end() -> None:
    stream, peer = faulty(Coalesce(100, within=60))
    await peer.send(b"all")
    await peer.aclose()
    assert await drain(stream) == ([b"all"], anyio.EndOfStream)


async def test_what_was_gathered_comes_before_the_error() -> None:
    stream, peer = faulty(Coalesce(100, within=60))
    await peer.send(b"all")
    peer.abort()
    assert await drain(stream) == ([b"all"], anyio.BrokenResourceError)


async def test_a_cancelled_gathering_loses_nothing() -> None:
    stream, peer = faulty(Coalesce(100, within=60))
    await peer.send(b"abc")
    assert await waits(stream.receive)
    await peer.send(b"def")
    await peer.aclose()
    assert (await drain(stream))[0] == [b"abcdef"]


# Time, on a virtual clock -------------------------------------------------------------------


@pytest.mark.trio
async def test_coalescing_ends_when_its_time_is_over(autojump_clock: object) -> None:
    stream, peer = faulty(Coalesce(100, within=3))
    await peer.send(b"abc")
    start = anyio.current_time()
    assert await stream.receive() == b"abc"
    assert anyio.current_time() - start == pytest.approx(3)


@pytest.mark.trio
@pytest.mark.parametrize("direction", Direction)
async def test_stalls_for_a_time(direction: Direction, autojump_clock: object) -> None:
    stream, peer = faulty(Stall(direction, 3, seconds=100))
    sender, receiver = (stream, peer) if direction is SEND else (peer, stream)
    start = anyio.current_time()
    times = []
    async with anyio.create_task_group() as group:
        group.start_soon(sender.send, b"abcdef")
        for expected in (b"abc", b"def"):
            assert await receiver.receive() == expected
            times.append(anyio.current_time() - start)
    assert times == [pytest.approx(0), pytest.approx(100)]


@pytest.mark.trio
async def test_a_stall_goes_on_while_nobody_calls(autojump_clock: object) -> None:
    stream, peer = faulty(Stall(RECEIVE, 3, seconds=100))
    await peer.send(b"abcdef")
    await stream.receive()
    await anyio.sleep(60)
    with anyio.move_on_after(20) as scope:
        await stream.receive()
    assert scope.cancelled_caught
    with anyio.fail_after(21):
        assert await stream.receive() == b"def"


@pytest.mark.trio
@pytest.mark.parametrize("direction", Direction)
async def test_throttles(direction: Direction, autojump_clock: object) -> None:
    stream, peer = faulty(Throttle(direction, 10), Slice(direction, 5))
    sender, receiver = (stream, peer) if direction is SEND else (peer, stream)
    start = anyio.current_time()
    received = 0
    async with anyio.create_task_group() as group:
        group.start_soon(sender.send, bytes(100))
        while received < 100:
            received += len(await receiver.receive())
    assert anyio.current_time() - start == pytest.approx(9.5)


@pytest.mark.trio
@pytest.mark.parametrize("direction", Direction)
async def test_delays(direction: Direction, autojump_clock: object) -> None:
    stream, peer = faulty(Delay(direction, 2), Delay(direction, 3))
    sender, receiver = (stream, peer) if direction is SEND else (peer, stream)
    start = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(sender.send, b"x")
        assert await receiver.receive() == b"x"
    assert anyio.current_time() - start == pytest.approx(5)


async def _delays(seed: int) -> list[float]:
    stream, peer = faulty(Delay(RECEIVE, 1, jitter=1), seed=seed)
    times = []
    for _ in range(10):
        start = anyio.current_time()
        await peer.send(b"x")
        await stream.receive()
        times.append(anyio.current_time() - start)
    return times


@pytest.mark.trio
async def test_jitter_is_the_same_for_the_same_seed(autojump_clock: object) -> None:
    first, again, other = await _delays(1), await _delays(1), await _delays(2)
    assert first == pytest.approx(again)
    assert first != pytest.approx(other)
    assert all(1 <= seconds <= 2.001 for seconds in first)


# Stalls -------------------------------------------------------------------------------------


async def test_a_stall_lasts_until_it_is_released() -> None:
    stream, peer = faulty(Stall(RECEIVE, 4), Stall(RECEIVE, 2))
    await peer.send(b"abcdef")
    assert await stream.receive() == b"ab"
    assert await waits(stream.receive)
    stream.release()
    assert await stream.receive() == b"cd"
    assert await waits(stream.receive)
    stream.release()
    assert await stream.receive() == b"ef"


async def test_a_release_wakes_a_call_that_waits() -> None:
    stream, peer = faulty(Stall(SEND, 2))
    async with anyio.create_task_group() as group:
        group.start_soon(stream.send, b"abcd")
        await anyio.wait_all_tasks_blocked()
        assert await peer.receive() == b"ab"
        stream.release(RECEIVE)
        assert await waits(peer.receive)
        stream.release(SEND)
        assert await peer.receive() == b"cd"


async def test_a_stall_holds_the_end_and_errors_back_too() -> None:
    for end in ("close", "abort"):
        stream, peer = faulty(Stall(RECEIVE, 0))
        getattr(peer, end)()
        assert await waits(stream.receive)


async def test_a_stall_holds_what_is_sent_and_the_end_after_it() -> None:
    stream, peer = faulty(Stall(SEND, 3))
    await stream.send(b"abc")
    assert await waits(stream.send_eof)
    assert await peer.receive() == b"abc"
    assert await waits(peer.receive)
    stream.release()
    await stream.send_eof()
    assert await drain(peer) == ([], anyio.EndOfStream)


async def test_a_stall_by_hand_holds_what_a_waiting_receive_gets() -> None:
    stream, peer = faulty()
    received = []

    async def receive() -> None:
        received.append(await stream.receive())

    async with anyio.create_task_group() as group:
        group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        stream.stall()
        await peer.send(b"late")
        await anyio.wait_all_tasks_blocked()
        assert received == []
        assert await waits(partial(stream.send, b"x"))
        stream.release()
    assert received == [b"late"]


async def test_a_stalled_call_is_woken_by_a_close() -> None:
    stream, _ = faulty(Stall(RECEIVE, 0))
    async with anyio.create_task_group() as group:

        async def receive() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await stream.receive()

        group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        await stream.aclose()


# Over real sockets --------------------------------------------------------------------------


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        (only,) = cast("list[SocketListener]", listener.listeners)
        port = only.extra(SocketAttribute.local_port)
        async with (
            await anyio.connect_tcp("127.0.0.1", port) as left,
            await only.accept() as right,
        ):
            yield left, right


@pytest.mark.parametrize(
    "end, seen", [(RESET, anyio.BrokenResourceError), (EOF, anyio.EndOfStream)]
)
@pytest.mark.parametrize("by_hand", [True, False])
async def test_cut_of_a_socket(end: Ending, seen: type[Exception], by_hand: bool) -> None:
    async with tcp_pair() as (left, right):
        stream = FaultStream(left, [] if by_hand else [Cut(RECEIVE, 3, end)])
        await stream.send(b"hello")
        assert await right.receive(5) == b"hello"
        await right.send(b"abc")
        assert await stream.receive() == b"abc"
        if by_hand:
            stream.cut(end)
        assert await drain(stream) == ([], seen)
        assert await drain(right) == ([], seen)
        await stream.aclose()


async def test_cut_by_hand_wakes_a_receive_on_a_socket() -> None:
    async with tcp_pair() as (left, right):
        stream = FaultStream(left)

        async def receive() -> None:
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()

        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            stream.cut()
        assert await drain(right) == ([], anyio.BrokenResourceError)


async def test_a_socket_that_is_closed_already_can_be_cut() -> None:
    """Its connection may have broken by itself; event loops have several words for that."""
    async with tcp_pair() as (left, _):
        stream = FaultStream(left)
        await left.aclose()
        await anyio.wait_all_tasks_blocked()  # a transport closes its socket a turn later
        stream.cut()
        assert await drain(stream) == ([], anyio.BrokenResourceError)


# Plans --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cut(SEND, -1),
        lambda: CutInSend(-1, 0),
        lambda: CutInSend(0, -1),
        lambda: HalfClose(SEND, -1),
        lambda: Stall(SEND, -1),
        lambda: Stall(SEND, 0, -1.0),
        lambda: Delay(SEND, -0.1),
        lambda: Delay(SEND, 0, -0.1),
        lambda: Throttle(SEND, 0),
        lambda: Slice(SEND, 0),
        lambda: Slice(SEND, 4, smallest=5),
        lambda: Slice(SEND, 4, smallest=0),
        lambda: Coalesce(0),
        lambda: Coalesce(1, within=0),
        lambda: FlipBit(SEND, -1),
        lambda: FlipBit(SEND, 0, 8),
        lambda: Insert(SEND, -1, b""),
        lambda: Delete(SEND, 0, 0),
        lambda: Duplicate(SEND, -1),
        lambda: Swap(SEND, 0, 0),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(make: Callable[[], Fault]) -> None:
    with pytest.raises(ValueError, match="must"):
        make()
