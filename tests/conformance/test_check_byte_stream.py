"""The conformance suite has to fail: for each rule, on a stream that breaks it.

:data:`BROKEN` has such a stream for each rule, as similar as possible to a correct one. On Trio's
virtual clock, every rule is checked on every one of them, which shows that the other rules do
*not* fail, except for those that cannot be told apart. On the other event loops, only the
broken rule is checked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import anyio
import pytest
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from anyssh.testing import (
    RULES,
    ConformanceError,
    Direction,
    FaultStream,
    FlipBit,
    MemoryStream,
    check_byte_stream,
    memory_stream_pair,
)

CAPACITY = 65536


class Honest(ByteStream):
    """A stream that keeps every rule; the broken ones change a method each."""

    def __init__(self, inner: MemoryStream) -> None:
        self.inner = inner

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self.inner.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self.inner.send(item)

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        await self.inner.aclose()

    @property
    def has_bytes(self) -> bool:
        return bool(self.inner._incoming.chunks)

    @property
    def is_closed(self) -> bool:
        return self.inner._incoming.reader.name == "CLOSED"

    def has_room_for(self, item: bytes) -> bool:
        return self.inner._outgoing.size + len(item) <= CAPACITY


class SendsNothing(Honest):
    async def send(self, item: bytes) -> None:
        await self.inner.send(b"")


class DropsTheRest(Honest):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        if max_bytes < 1:
            raise ValueError
        return (await self.inner.receive())[:max_bytes]


class ReturnsTooMuch(Honest):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self.inner.receive(max_bytes * 2)


class TakesAnyMaxBytes(Honest):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self.inner.receive(max(max_bytes, 1))


class ReturnsEmptyBytesOnce(Honest):
    has_waited = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        would_wait = not self.has_bytes and self.inner._incoming.writer.name == "OPEN"
        if would_wait and not self.has_waited and not self.is_closed and max_bytes > 0:
            await checkpoint()
            self.has_waited = True
            return b""
        return await self.inner.receive(max_bytes)


class ReturnsEmptyBytesAtTheEnd(Honest):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            return await self.inner.receive(max_bytes)
        except anyio.EndOfStream:
            return b""


class EndsWithAnEmptySend(Honest):
    async def send(self, item: bytes) -> None:
        await (self.inner.send(item) if item else self.inner.send_eof())


class IteratesIntoTheEnd(Honest):
    async def __anext__(self) -> bytes:
        return await self.receive()


class LosesBytesWhenItCloses(Honest):
    async def aclose(self) -> None:
        self.inner._outgoing.discard()
        await self.inner.aclose()


class EndsOnlyOnce(Honest):
    has_ended = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self.has_ended:
            await checkpoint()
            raise anyio.BrokenResourceError
        try:
            return await self.inner.receive(max_bytes)
        except anyio.EndOfStream:
            self.has_ended = True
            raise


class EndsBothWays(Honest):
    async def send_eof(self) -> None:
        await self.inner.aclose()


class EndsOnceAndThenRaises(Honest):
    async def send_eof(self) -> None:
        if self.inner._outgoing.writer.name != "OPEN" and not self.is_closed:
            raise RuntimeError("send_eof() was called before")
        await self.inner.send_eof()


class SendsAfterTheEnd(Honest):
    has_ended = False

    async def send_eof(self) -> None:
        await self.inner.send_eof()
        self.has_ended = True

    async def send(self, item: bytes) -> None:
        if self.has_ended:
            raise RuntimeError("cannot send after the end")
        await self.inner.send(item)


class SendsToNobody(Honest):
    async def send(self, item: bytes) -> None:
        try:
            await self.inner.send(item)
        except anyio.BrokenResourceError:
            await checkpoint()


class ReadsOnAfterClose(Honest):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self.is_closed:
            raise anyio.EndOfStream
        return await self.inner.receive(max_bytes)


class SendsOnAfterClose(Honest):
    async def send(self, item: bytes) -> None:
        if not self.is_closed:
            await self.inner.send(item)


class EndsAfterClose(Honest):
    async def send_eof(self) -> None:
        if not self.is_closed:
            await self.inner.send_eof()


class ClosesOnce(Honest):
    async def aclose(self) -> None:
        if self.is_closed:
            raise anyio.ClosedResourceError
        await self.inner.aclose()


class WakesReceiveWithTheEnd(Honest):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        was_closed = self.is_closed
        try:
            return await self.inner.receive(max_bytes)
        except anyio.ClosedResourceError:
            if was_closed:
                raise
            raise anyio.EndOfStream from None


class DoesNotWakeReceive(Honest):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        was_closed = self.is_closed
        try:
            return await self.inner.receive(max_bytes)
        except anyio.ClosedResourceError as error:
            if not was_closed:
                await anyio.sleep_forever()
            raise error


class WakesSendWithoutAnError(Honest):
    async def send(self, item: bytes) -> None:
        was_closed = self.is_closed
        try:
            await self.inner.send(item)
        except anyio.ClosedResourceError:
            if was_closed or not self.is_closed:
                raise


class ClosesAfterACheckpoint(Honest):
    async def aclose(self) -> None:
        await checkpoint()
        await self.inner.aclose()


class ClosesWhenAllIsRead(Honest):
    async def aclose(self) -> None:
        # A shield with an end, so that what is checked does end.
        with anyio.move_on_after(1.5, shield=True):
            while self.inner._outgoing.size > CAPACITY // 2:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        await self.inner.aclose()


class QueuesReceivers(Honest):
    def __init__(self, inner: MemoryStream) -> None:
        super().__init__(inner)
        self.lock = anyio.Lock()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        async with self.lock:
            return await self.inner.receive(max_bytes)


class QueuesSenders(Honest):
    def __init__(self, inner: MemoryStream) -> None:
        super().__init__(inner)
        self.lock = anyio.Lock()

    async def send(self, item: bytes) -> None:
        async with self.lock:
            await self.inner.send(item)


class BuffersWithoutBound(Honest):
    def __init__(self, inner: MemoryStream) -> None:
        super().__init__(inner)
        inner._outgoing.capacity = 2**40


class LosesBytesWhenCancelled(Honest):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self.inner.receive(max_bytes)
        await checkpoint()
        return data


class ReceivesThoughCancelled(Honest):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = b""
        with anyio.CancelScope(shield=self.has_bytes):
            data = await self.inner.receive(max_bytes)
        return data


class SendsThoughCancelled(Honest):
    async def send(self, item: bytes) -> None:
        with anyio.CancelScope(shield=self.has_room_for(item)):
            await self.inner.send(item)


class SendsBeforeItIsCancelled(Honest):
    async def send(self, item: bytes) -> None:
        with anyio.CancelScope(shield=self.has_room_for(item)):
            await self.inner.send(item)
        await checkpoint()


class EndsBeforeItIsCancelled(Honest):
    async def send_eof(self) -> None:
        with anyio.CancelScope(shield=True):
            await self.inner.send_eof()
        await checkpoint()


class ReceivesInOneTurn(Honest):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        await checkpoint_if_cancelled()
        if self.has_bytes and max_bytes > 0:
            return self.inner._incoming.take(max_bytes)
        return await self.inner.receive(max_bytes)


class EndsInOneTurn(Honest):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        await checkpoint_if_cancelled()
        if not self.has_bytes and self.inner._incoming.writer.name == "ENDED":
            self.inner._check_open()
            raise anyio.EndOfStream
        return await self.inner.receive(max_bytes)


class SendsInOneTurn(Honest):
    async def send(self, item: bytes) -> None:
        await checkpoint_if_cancelled()
        if not item or not self.has_room_for(item):
            await self.inner.send(item)
        else:
            self.inner._check_open()
            self.inner._check_outgoing()
            self.inner._outgoing.put(item)


class SendsNothingInOneTurn(Honest):
    async def send(self, item: bytes) -> None:
        if item:
            await self.inner.send(item)


class SendsTheEndInOneTurn(Honest):
    has_ended = False

    async def send_eof(self) -> None:
        await checkpoint_if_cancelled()
        self.inner._check_open()
        if not self.has_ended:
            await self.inner.send_eof()
            self.has_ended = True


class ClosesInOneTurn(Honest):
    async def aclose(self) -> None:
        self.inner.close()


class HasAttributesThatAreNoCallables(Honest):
    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {"name": "a value"}  # type: ignore[dict-item]


class HasNoMappingOfAttributes(Honest):
    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return [("name", str)]  # type: ignore[return-value]


def flip_a_late_bit(inner: MemoryStream) -> FaultStream:
    return FaultStream(inner, [FlipBit(Direction.SEND, 700_000)])


class Broken(NamedTuple):
    """A stream that breaks a rule, and the other rules that it cannot but break with it.

    A stream that carries no data keeps hardly any rule: None says so.
    """

    rule: str
    stream: Callable[[MemoryStream], ByteStream]
    also: frozenset[str] | None = frozenset()
    sometimes: frozenset[str] = frozenset()


AT_THE_END = frozenset(
    {
        "close_when_cancelled",
        "end_after_data",
        "end_every_time",
        "end_yields",
        "half_close",
        "iteration",
    }
)
ONCE = frozenset({"close_wakes_receive", "concurrent_receive", "iteration", "large_transfer"})
OTHER_USES_OF_SEND_EOF = frozenset(
    {"send_eof_after_close", "send_eof_is_cancellable", "send_eof_twice"}
)
BROKEN = [
    Broken("data_both_ways", SendsNothing, also=None),
    Broken("partial_receive", DropsTheRest, frozenset({"max_bytes", "receive_yields"})),
    Broken("max_bytes", ReturnsTooMuch, frozenset({"partial_receive", "receive_yields"})),
    Broken("bad_max_bytes", TakesAnyMaxBytes),
    Broken("no_empty_bytes", ReturnsEmptyBytesOnce, ONCE),
    Broken("no_empty_bytes", ReturnsEmptyBytesAtTheEnd, AT_THE_END),
    Broken("empty_send", EndsWithAnEmptySend),
    Broken("iteration", IteratesIntoTheEnd),
    Broken("large_transfer", flip_a_late_bit),
    # Whether the reader comes before the close is up to the scheduler.
    Broken("end_after_data", LosesBytesWhenItCloses, sometimes=frozenset({"iteration"})),
    Broken("end_every_time", EndsOnlyOnce, frozenset({"end_yields"})),
    Broken("half_close", EndsBothWays, OTHER_USES_OF_SEND_EOF),
    Broken("send_eof_twice", EndsOnceAndThenRaises, frozenset({"send_eof_yields"})),
    Broken("send_after_eof", SendsAfterTheEnd),
    Broken("broken_send", SendsToNobody),
    Broken("receive_after_close", ReadsOnAfterClose),
    Broken("send_after_close", SendsOnAfterClose, frozenset({"close_when_cancelled"})),
    Broken("send_eof_after_close", EndsAfterClose),
    Broken("close_twice", ClosesOnce, frozenset({"close_yields"})),
    Broken("close_wakes_receive", WakesReceiveWithTheEnd),
    Broken("close_wakes_receive", DoesNotWakeReceive),
    Broken("close_wakes_send", WakesSendWithoutAnError),
    Broken("close_when_cancelled", ClosesAfterACheckpoint),
    Broken("close_when_cancelled", ClosesWhenAllIsRead, frozenset({"close_wakes_send"})),
    Broken("concurrent_receive", QueuesReceivers),
    Broken("concurrent_send", QueuesSenders),
    Broken(
        "back_pressure", BuffersWithoutBound, frozenset({"close_wakes_send", "concurrent_send"})
    ),
    Broken("cancelled_receive", LosesBytesWhenCancelled),
    Broken("receive_is_cancellable", ReceivesThoughCancelled),
    Broken("send_is_cancellable", SendsThoughCancelled),
    Broken("send_is_cancellable", SendsBeforeItIsCancelled),
    Broken("send_eof_is_cancellable", EndsBeforeItIsCancelled),
    Broken("receive_yields", ReceivesInOneTurn),
    Broken("end_yields", EndsInOneTurn),
    Broken("send_yields", SendsInOneTurn),
    Broken("empty_send_yields", SendsNothingInOneTurn),
    Broken("send_eof_yields", SendsTheEndInOneTurn),
    Broken("close_yields", ClosesInOneTurn),
    Broken("attributes", HasAttributesThatAreNoCallables),
    Broken("attributes", HasNoMappingOfAttributes),
]

broken_streams = pytest.mark.parametrize(
    "broken", [pytest.param(each, id=f"{each.stream.__name__}-{each.rule}") for each in BROKEN]
)


@asynccontextmanager
async def pair_of(
    stream: Callable[[MemoryStream], ByteStream],
) -> AsyncIterator[tuple[ByteStream, ByteStream]]:
    left, right = memory_stream_pair(capacity=CAPACITY)
    yield stream(left), stream(right)
    left.close()
    right.close()


async def broken_rules(stream: Callable[[MemoryStream], ByteStream]) -> set[str]:
    found = set()
    for rule in RULES:
        try:
            await check_byte_stream(
                partial(pair_of, stream),
                only=[rule],
                both_ends=False,
                buffer_limit=2 * CAPACITY,
                patience=1,
            )
        except ConformanceError as error:
            found.add(error.rule)
    return found


def test_every_rule_has_a_stream_that_breaks_it() -> None:
    assert {broken.rule for broken in BROKEN} == RULES.keys()


@broken_streams
async def test_a_broken_stream_is_caught(broken: Broken) -> None:
    with pytest.raises(ConformanceError, match="expected") as caught:
        await check_byte_stream(
            partial(pair_of, broken.stream),
            only=[broken.rule],
            buffer_limit=2 * CAPACITY,
            patience=0.1,
        )
    assert caught.value.rule == broken.rule
    assert str(caught.value).startswith(broken.rule)


@pytest.mark.trio
@broken_streams
async def test_no_other_rule_complains(broken: Broken, autojump_clock: object) -> None:
    found = await broken_rules(broken.stream)
    if broken.also is None:
        assert broken.rule in found
    else:
        expected = {broken.rule} | broken.also
        assert expected <= found <= expected | broken.sometimes


@pytest.mark.trio
async def test_no_rule_complains_about_an_honest_stream(autojump_clock: object) -> None:
    assert await broken_rules(Honest) == set()
