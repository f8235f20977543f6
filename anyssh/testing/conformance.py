"""A conformance check against AnyIO's contract for byte streams, for streams of your own.

:data:`RULES` is a table of small coroutines, each of which checks one rule on a fresh pair of
connected streams, and reports what it expected and what it saw. :func:`check_byte_stream` runs
them, with a time limit: whatever has to happen has ``patience`` seconds to do so.

::

    @asynccontextmanager
    async def pair() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
        async with MyStream.connected() as (left, right):
            yield left, right

    async def test_my_stream() -> None:
        await check_byte_stream(pair)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from random import Random
from typing import Any, Final

from anyio import (
    BrokenResourceError,
    BusyResourceError,
    CancelScope,
    ClosedResourceError,
    EndOfStream,
    create_task_group,
    move_on_after,
    sleep,
)
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

__all__ = ["RULES", "ConformanceError", "Rule", "StreamPairFactory", "check_byte_stream"]

StreamPairFactory = Callable[[], AbstractAsyncContextManager[tuple[ByteStream, ByteStream]]]
"""Returns a context manager for two connected streams, which closes them unless they are closed."""

_SETTLE_TURNS: Final = 10
_SETTLE_TIME: Final = 0.005
_QUIET_TIME: Final = 0.1
_CHUNK: Final = 64 * 1024
_TRANSFER: Final = 1024 * 1024


class ConformanceError(AssertionError):
    """A byte stream broke a rule.

    :ivar rule: the rule's name in :data:`RULES`
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Trial:
    """The check of a rule on one pair: the stream under test, its peer, and the expectations.

    :ivar patience: seconds for whatever has to happen
    :ivar buffer_limit: bytes after which a send has to wait for the reader; None if never
    """

    rule: str
    stream: ByteStream
    peer: ByteStream
    patience: float
    buffer_limit: int | None

    def broken(self, expected: str, seen: object) -> ConformanceError:
        """Return the error for a broken rule."""
        return ConformanceError(self.rule, f"expected {expected}; seen: {seen}")

    def expect(self, holds: bool, expected: str, seen: object) -> None:
        """Raise unless a condition holds."""
        if not holds:
            raise self.broken(expected, seen)

    async def outcome(self, call: _Call) -> _Outcome:
        """Make a call and return its outcome; cancel it when patience is exhausted."""
        outcome = _Outcome()
        with move_on_after(self.patience) as scope:
            await outcome.record(call)
        # A call that shields itself still ends, but too late.
        outcome.is_late = scope.cancel_called
        return outcome

    async def value(self, call: _Call, what: str) -> Any:
        """Make a call that has to succeed."""
        outcome = await self.outcome(call)
        self.expect(outcome.is_success, f"{what} to succeed", outcome)
        return outcome.value

    async def error(self, kind: type[Exception], call: _Call, what: str) -> None:
        """Make a call that has to fail in a certain way."""
        outcome = await self.outcome(call)
        self.expect(isinstance(outcome.error, kind), f"{kind.__name__} from {what}", outcome)

    async def while_pending(self, pending: _Call, action: _Call) -> tuple[_Outcome, _Outcome]:
        """Start a call, and make another one while it waits; then give the first time to end."""
        first, second = _Outcome(), _Outcome()
        async with create_task_group() as group:
            group.start_soon(first.record, pending)
            await _settle()
            with move_on_after(self.patience):
                await second.record(action)
            await self.until(lambda: first.is_over)
            group.cancel_scope.cancel()
        return first, second

    async def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition until patience is exhausted; return whether it became true."""
        with move_on_after(self.patience):
            while not condition():  # noqa: ASYNC110  # what it looks at has no event to offer
                await sleep(_SETTLE_TIME)
        return condition()

    async def receive_exactly(self, stream: ByteStream, count: int) -> bytes:
        """Receive ``count`` bytes, or less if the stream ends or patience is exhausted."""
        data = b""
        with move_on_after(self.patience):
            while len(data) < count:
                try:
                    chunk = await stream.receive(count - len(data))
                except EndOfStream:
                    break
                if not chunk:
                    break
                data += chunk
        return data

    async def transfer(self, message: bytes, sender: ByteStream, receiver: ByteStream) -> None:
        """Send a message, and check that it arrives at the other end."""
        got = b""

        async def receive() -> None:
            nonlocal got
            got = await self.receive_exactly(receiver, len(message))

        async with create_task_group() as group:
            group.start_soon(receive)
            outcome = await self.outcome(partial(sender.send, message))
        self.expect(outcome.is_success, "send() to succeed", outcome)
        self.expect(got == message, f"{message!r} at the other end", repr(got))


_Call = Callable[[], Awaitable[Any]]
_Check = Callable[[Trial], Awaitable[None]]


class _Outcome:
    """The outcome of a call: a value, an error, or neither if it was cancelled."""

    def __init__(self) -> None:
        self.is_over = False
        self.is_late = False
        self.value: Any = None
        self.error: Exception | None = None

    async def record(self, call: _Call) -> None:
        try:
            self.value = await call()
        except Exception as error:
            self.error = error
        self.is_over = True

    @property
    def is_success(self) -> bool:
        return self.is_over and self.error is None and not self.is_late

    def __str__(self) -> str:
        if not self.is_over:
            return "it was still waiting when it was cancelled"
        seen = f"returned {self.value!r:.80}" if self.error is None else f"raised {self.error!r}"
        return f"it {seen}" + (", but too late" if self.is_late else "")


@dataclass(frozen=True, slots=True)
class Rule:
    """One requirement for a byte stream.

    :ivar name: for ``only`` and ``without`` of :func:`check_byte_stream`
    :ivar text: the rule in one sentence
    :ivar check: raises :exc:`ConformanceError` if the rule is broken
    :ivar needs_half_close: whether it calls ``send_eof``
    :ivar needs_back_pressure: whether it relies on sends that wait for the reader
    """

    name: str
    text: str
    check: _Check
    needs_half_close: bool = False
    needs_back_pressure: bool = False


RULES: Final[dict[str, Rule]] = {}
"""The rules by name, in the order in which they are checked."""


def _rule(
    text: str, *, half_close: bool = False, back_pressure: bool = False
) -> Callable[[Callable[[Trial], Coroutine[Any, Any, None]]], _Check]:
    def add(check: Callable[[Trial], Coroutine[Any, Any, None]]) -> _Check:
        name = check.__name__.removeprefix("_")
        RULES[name] = Rule(name, text, check, half_close, back_pressure)
        return check

    return add


async def check_byte_stream(
    stream_pair: StreamPairFactory,
    *,
    half_close: bool = True,
    buffer_limit: int | None = 16 * 1024 * 1024,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    both_ends: bool = True,
    patience: float = 5.0,
) -> None:
    """Check a byte stream against every rule of :data:`RULES`, each on a fresh pair.

    :param stream_pair: returns a context manager for a pair of connected streams
    :param half_close: whether one direction can end while the other continues
    :param buffer_limit: the most bytes that may be sent ahead of the reader; None if unbounded,
        which skips the rules about senders that wait
    :param only: names of the rules to check; all if None
    :param without: names of rules to skip
    :param both_ends: whether to check the second stream of the pair as well as the first
    :param patience: seconds for anything that has to happen
    :raises ConformanceError: a rule is broken; names the rule, what was expected and what was seen
    :raises ValueError: there is no rule of a given name
    """
    for name in (*(only or ()), *without):
        if name not in RULES:
            raise ValueError(f"{name!r} is not a rule; rules are {', '.join(RULES)}")
    for rule in RULES.values():
        if (
            (only is not None and rule.name not in only)
            or rule.name in without
            or (rule.needs_half_close and not half_close)
            or (rule.needs_back_pressure and buffer_limit is None)
        ):
            continue
        for swapped in (False, True) if both_ends else (False,):
            async with stream_pair() as (left, right):
                if swapped:
                    left, right = right, left
                trial = Trial(rule.name, left, right, patience, buffer_limit)
                await _try(rule, trial)


async def _try(rule: Rule, trial: Trial) -> None:
    try:
        await rule.check(trial)
    except Exception as error:
        cause = _single(error)
        if isinstance(cause, ConformanceError):
            raise cause from cause.__cause__
        raise trial.broken(rule.text, f"it raised {cause!r}") from cause


def _single(error: Exception) -> Exception:
    """Return the only exception in a group, or the group if it has several."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def _settle() -> None:
    """Let every other task run until it waits."""
    for _ in range(_SETTLE_TURNS):
        await checkpoint()
    await sleep(_SETTLE_TIME)


# Data ---------------------------------------------------------------------------------------


@_rule("What one end sends comes out at the other, in both directions.")
async def _data_both_ways(trial: Trial) -> None:
    await trial.transfer(b"from here", trial.stream, trial.peer)
    await trial.transfer(b"from there", trial.peer, trial.stream)


@_rule("What a receive does not take stays for the next one.")
async def _partial_receive(trial: Trial) -> None:
    await trial.value(partial(trial.peer.send, b"0123456789"), "send()")
    got = [await trial.receive_exactly(trial.stream, count) for count in (1, 3, 6)]
    trial.expect(got == [b"0", b"123", b"456789"], "the bytes in order, none lost", got)


@_rule("receive() never returns more than max_bytes.")
async def _max_bytes(trial: Trial) -> None:
    await trial.value(partial(trial.peer.send, bytes(100)), "send()")
    await _settle()
    for limit in (1, 7, 50):
        data = await trial.value(partial(trial.stream.receive, limit), f"receive({limit})")
        trial.expect(len(data) <= limit, f"at most {limit} bytes", f"{len(data)} bytes")


@_rule("receive() raises ValueError if max_bytes is less than 1.")
async def _bad_max_bytes(trial: Trial) -> None:
    await trial.value(partial(trial.peer.send, b"x"), "send()")
    for limit in (0, -1):
        await trial.error(ValueError, partial(trial.stream.receive, limit), f"receive({limit})")


@_rule("receive() waits for bytes or raises, it never returns b''.")
async def _no_empty_bytes(trial: Trial) -> None:
    first, _ = await trial.while_pending(trial.stream.receive, partial(trial.peer.send, b"x"))
    trial.expect(first.value == b"x", "receive() to wait for b'x'", first)
    first, _ = await trial.while_pending(trial.stream.receive, trial.peer.aclose)
    trial.expect(first.value != b"", "no b'' at the end of the stream", first)


@_rule("send(b'') does nothing; above all it is not the end of the stream.")
async def _empty_send(trial: Trial) -> None:
    await trial.value(partial(trial.stream.send, b""), "send(b'')")
    await trial.value(partial(trial.stream.send, b"x"), "send(b'x')")
    outcome = await trial.outcome(trial.peer.receive)
    trial.expect(outcome.value == b"x", "receive() to give b'x' only", outcome)


@_rule("An async for gives all bytes and stops at the end of the stream.")
async def _iteration(trial: Trial) -> None:
    got = b""

    async def iterate() -> None:
        nonlocal got
        async for chunk in trial.stream:
            trial.expect(bool(chunk), "bytes in the loop", "b''")
            got += chunk

    async def send_and_close() -> None:
        await trial.peer.send(b"all of it")
        await trial.peer.aclose()

    first, _ = await trial.while_pending(iterate, send_and_close)
    trial.expect(first.is_success, "the loop to end", first)
    trial.expect(got == b"all of it", "b'all of it' in the loop", repr(got))


@_rule("A megabyte goes each way at the same time and arrives whole.")
async def _large_transfer(trial: Trial) -> None:
    random = Random(1)  # noqa: S311
    there, back = random.randbytes(_TRANSFER), random.randbytes(_TRANSFER)
    hashes: dict[bool, str] = {}

    async def send(stream: ByteStream, data: bytes, sizes: Random) -> None:
        start = 0
        while start < len(data):
            size = sizes.randint(1, _CHUNK)
            await stream.send(data[start : start + size])
            start += size

    async def receive(key: bool, stream: ByteStream) -> None:
        digest, count = sha256(), 0
        while count < _TRANSFER:
            data = await stream.receive(_CHUNK)
            if not data:
                return
            digest.update(data)
            count += len(data)
        hashes[key] = digest.hexdigest()

    # While bytes keep arriving, the stream may take its time.
    with move_on_after(trial.patience * 10):
        async with create_task_group() as group:
            group.start_soon(send, trial.stream, there, Random(2))  # noqa: S311
            group.start_soon(send, trial.peer, back, Random(3))  # noqa: S311
            group.start_soon(receive, True, trial.peer)
            group.start_soon(receive, False, trial.stream)
    expected = {True: sha256(there).hexdigest(), False: sha256(back).hexdigest()}
    trial.expect(hashes == expected, "the same bytes at both ends", hashes or "nothing complete")


# The end of the stream -----------------------------------------------------------------------


@_rule("What was sent before aclose is delivered, then comes EndOfStream.")
async def _end_after_data(trial: Trial) -> None:
    await trial.value(partial(trial.peer.send, b"the last words"), "send()")
    await trial.value(trial.peer.aclose, "aclose()")
    got = await trial.receive_exactly(trial.stream, 14)
    trial.expect(got == b"the last words", "the bytes sent before aclose()", repr(got))
    await trial.error(EndOfStream, trial.stream.receive, "receive() at the end")


@_rule("After EndOfStream every further receive raises EndOfStream.")
async def _end_every_time(trial: Trial) -> None:
    await trial.value(trial.peer.aclose, "aclose()")
    for which in ("first", "second", "third"):
        await trial.error(EndOfStream, trial.stream.receive, f"the {which} receive() at the end")


@_rule(
    "After send_eof the peer gets its data, then EndOfStream, and can still send.",
    half_close=True,
)
async def _half_close(trial: Trial) -> None:
    await trial.value(partial(trial.stream.send, b"question"), "send()")
    await trial.value(trial.stream.send_eof, "send_eof()")
    got = await trial.receive_exactly(trial.peer, 8)
    trial.expect(got == b"question", "the bytes sent before send_eof()", repr(got))
    await trial.error(EndOfStream, trial.peer.receive, "receive() after the peer's send_eof()")
    await trial.transfer(b"answer", trial.peer, trial.stream)


@_rule("send_eof() can be called again and does nothing then.", half_close=True)
async def _send_eof_twice(trial: Trial) -> None:
    await trial.value(trial.stream.send_eof, "the first send_eof()")
    await trial.value(trial.stream.send_eof, "the second send_eof()")
    await trial.transfer(b"still alive", trial.peer, trial.stream)


@_rule("send() raises ClosedResourceError after send_eof.", half_close=True)
async def _send_after_eof(trial: Trial) -> None:
    await trial.value(trial.stream.send_eof, "send_eof()")
    await trial.error(ClosedResourceError, partial(trial.stream.send, b"x"), "send() after it")


@_rule("Sending to a peer that has closed fails with BrokenResourceError before long.")
async def _broken_send(trial: Trial) -> None:
    await trial.value(trial.peer.aclose, "aclose()")

    async def send_on() -> None:
        while True:
            await trial.stream.send(b"is anyone there?")
            await sleep(_SETTLE_TIME)

    await trial.error(BrokenResourceError, send_on, "send() to a closed peer")


# Closing --------------------------------------------------------------------------------------


@_rule("receive() raises ClosedResourceError after our own aclose, whatever waits to be read.")
async def _receive_after_close(trial: Trial) -> None:
    await trial.value(partial(trial.peer.send, b"unread"), "send()")
    await _settle()
    await trial.value(trial.stream.aclose, "aclose()")
    for _ in range(2):
        await trial.error(ClosedResourceError, trial.stream.receive, "receive() after aclose()")


@_rule("send() raises ClosedResourceError after our own aclose.")
async def _send_after_close(trial: Trial) -> None:
    await trial.value(trial.stream.aclose, "aclose()")
    send = partial(trial.stream.send, b"x")
    await trial.error(ClosedResourceError, send, "send() after aclose()")


@_rule("send_eof() raises ClosedResourceError after our own aclose.", half_close=True)
async def _send_eof_after_close(trial: Trial) -> None:
    await trial.value(trial.stream.aclose, "aclose()")
    await trial.error(ClosedResourceError, trial.stream.send_eof, "send_eof() after aclose()")


@_rule("aclose() can be called again and does nothing then.")
async def _close_twice(trial: Trial) -> None:
    await trial.value(trial.stream.aclose, "the first aclose()")
    await trial.value(trial.stream.aclose, "the second aclose()")


@_rule("aclose() ends a receive that waits with ClosedResourceError.")
async def _close_wakes_receive(trial: Trial) -> None:
    first, second = await trial.while_pending(trial.stream.receive, trial.stream.aclose)
    trial.expect(second.is_success, "aclose() to succeed while a receive waits", second)
    woken = isinstance(first.error, ClosedResourceError)
    trial.expect(woken, "ClosedResourceError from the receive() that waited", first)


@_rule("aclose() ends a send that waits with ClosedResourceError.", back_pressure=True)
async def _close_wakes_send(trial: Trial) -> None:
    filling = _Filling(trial)
    async with create_task_group() as group:
        group.start_soon(filling.run)
        await filling.wait_until_blocked()
        before = filling.sent
        closed = await trial.outcome(trial.stream.aclose)
        await trial.until(lambda: filling.outcome.is_over)
        group.cancel_scope.cancel()
    trial.expect(closed.is_success, "aclose() to succeed while a send waits", closed)
    expected = "ClosedResourceError from the send() that waited"
    trial.expect(filling.sent == before, expected, "it returned as if all were sent")
    trial.expect(isinstance(filling.outcome.error, ClosedResourceError), expected, filling.outcome)


@_rule("aclose() in a scope that is cancelled closes all the same, and at once.")
async def _close_when_cancelled(trial: Trial) -> None:
    # Bytes that nobody reads: a close that waits for them to be sent would hang.
    with move_on_after(_QUIET_TIME):
        for _ in range(16):
            await trial.stream.send(bytes(_CHUNK))

    async def close() -> None:
        with CancelScope() as scope:
            scope.cancel()
            await trial.stream.aclose()

    await trial.value(close, "aclose() in a cancelled scope")
    send = partial(trial.stream.send, b"x")
    await trial.error(ClosedResourceError, send, "send() after a cancelled aclose()")

    async def drain() -> None:
        while await trial.peer.receive():
            pass

    outcome = await trial.outcome(drain)
    ended = isinstance(outcome.error, EndOfStream | BrokenResourceError)
    trial.expect(ended, "the peer to learn of a cancelled aclose()", outcome)


# Tasks: one reader, one writer, cancelled at any time -----------------------------------------


@_rule("A second receive at the same time raises BusyResourceError and does not harm the first.")
async def _concurrent_receive(trial: Trial) -> None:
    seen: list[_Outcome] = []

    async def intrude() -> None:
        seen.append(await trial.outcome(trial.stream.receive))
        await trial.peer.send(b"for the first")

    first, _ = await trial.while_pending(trial.stream.receive, intrude)
    refused = isinstance(seen[0].error, BusyResourceError)
    trial.expect(refused, "BusyResourceError from the second receive()", seen[0])
    trial.expect(first.value == b"for the first", "the first receive() to go on", first)


@_rule(
    "A second send at the same time raises BusyResourceError and does not harm the first.",
    back_pressure=True,
)
async def _concurrent_send(trial: Trial) -> None:
    filling = _Filling(trial)
    async with create_task_group() as group:
        group.start_soon(filling.run)
        await filling.wait_until_blocked()
        second = await trial.outcome(partial(trial.stream.send, b"x"))
        refused = isinstance(second.error, BusyResourceError)
        trial.expect(refused, "BusyResourceError from the second send()", second)
        goes_on = await filling.goes_on()
        trial.expect(goes_on, "the first send() to go on", filling.outcome)
        group.cancel_scope.cancel()


@_rule("send() waits when the peer does not read, and goes on when it does.", back_pressure=True)
async def _back_pressure(trial: Trial) -> None:
    filling = _Filling(trial)
    async with create_task_group() as group:
        group.start_soon(filling.run)
        await filling.wait_until_blocked()
        goes_on = await filling.goes_on()
        trial.expect(goes_on, "send() to go on when the peer reads", filling.outcome)
        group.cancel_scope.cancel()


class _Filling:
    """Sends until the stream makes it wait, and reads at the other end on demand."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.sent = 0
        self.outcome = _Outcome()

    async def run(self) -> None:
        await self.outcome.record(self._fill)

    async def _fill(self) -> None:
        # One chunk more than may be buffered, or the last send would not be seen to wait.
        while self.sent <= (self.trial.buffer_limit or 0):
            await self.trial.stream.send(bytes(_CHUNK))
            self.sent += _CHUNK

    async def wait_until_blocked(self) -> None:
        """Wait until nothing moves any more; this must be due to a send that waits."""
        before = -1
        while before != self.sent and not self.outcome.is_over:
            before = self.sent
            await sleep(_QUIET_TIME)
        self.trial.expect(
            not self.outcome.is_over,
            f"send() to wait for the reader before more than {self.trial.buffer_limit} bytes",
            f"{self.sent} bytes went out; {self.outcome}",
        )

    async def goes_on(self) -> bool:
        """Read at the other end; return whether sending continues."""
        before = self.sent
        with move_on_after(self.trial.patience):
            while self.sent == before and not self.outcome.is_over:
                await self.trial.peer.receive(_CHUNK)
                await checkpoint()
        return self.sent > before


@_rule("Cancelling a receive loses no byte, wherever it is when that happens.")
async def _cancelled_receive(trial: Trial) -> None:
    got, expected = b"", b""

    async def take() -> None:
        nonlocal got
        got += await trial.stream.receive()

    for turns in range(12):
        message = b"%07d " % turns
        expected += message
        async with create_task_group() as group:
            group.start_soon(take)
            for _ in range(_SETTLE_TURNS):
                await checkpoint()
            await trial.peer.send(message)
            for _ in range(turns):
                await checkpoint()
            group.cancel_scope.cancel()
    got += await trial.receive_exactly(trial.stream, len(expected) - len(got))
    trial.expect(got == expected, f"{expected!r} in all", repr(got))


@_rule("receive() in a scope that is cancelled is cancelled, and takes nothing.")
async def _receive_is_cancellable(trial: Trial) -> None:
    await trial.value(partial(trial.peer.send, b"x"), "send()")
    await _settle()
    await _expect_cancelled(trial, trial.stream.receive, "receive()")
    got = await trial.receive_exactly(trial.stream, 1)
    trial.expect(got == b"x", "b'x' to wait for the next receive()", repr(got))


@_rule("send() in a scope that is cancelled is cancelled, and sends nothing.")
async def _send_is_cancellable(trial: Trial) -> None:
    await _expect_cancelled(trial, partial(trial.stream.send, b"cancelled"), "send()")
    await trial.value(partial(trial.stream.send, b"x"), "send() after a cancelled one")
    got = await trial.value(trial.peer.receive, "receive()")
    trial.expect(got == b"x", "b'x' only", repr(got))


@_rule(
    "send_eof() in a scope that is cancelled is cancelled, and does not end the stream.",
    half_close=True,
)
async def _send_eof_is_cancellable(trial: Trial) -> None:
    await _expect_cancelled(trial, trial.stream.send_eof, "send_eof()")
    await trial.transfer(b"going on", trial.stream, trial.peer)


async def _expect_cancelled(trial: Trial, call: _Call, what: str) -> None:
    outcome = _Outcome()
    with CancelScope() as scope:
        scope.cancel()
        await outcome.record(call)
    trial.expect(not outcome.is_over, f"{what} in a cancelled scope to be cancelled", outcome)


@_rule("receive() lets other tasks run even if bytes are there already.")
async def _receive_yields(trial: Trial) -> None:
    await trial.value(partial(trial.peer.send, bytes(_TURNS)), "send()")
    await _settle()
    await _expect_yields(trial, partial(trial.stream.receive, 1), "receive()")


@_rule("receive() lets other tasks run at the end of the stream.")
async def _end_yields(trial: Trial) -> None:
    async def receive_end() -> None:
        try:
            await trial.stream.receive()
        except EndOfStream:
            return
        raise trial.broken("EndOfStream", "bytes")

    await trial.value(trial.peer.aclose, "aclose()")
    await _settle()
    await _expect_yields(trial, receive_end, "receive() at the end")


@_rule("send() lets other tasks run even if it need not wait.")
async def _send_yields(trial: Trial) -> None:
    await _expect_yields(trial, partial(trial.stream.send, b"x"), "send()")


@_rule("send(b'') lets other tasks run.")
async def _empty_send_yields(trial: Trial) -> None:
    await _expect_yields(trial, partial(trial.stream.send, b""), "send(b'')")


@_rule("send_eof() lets other tasks run.", half_close=True)
async def _send_eof_yields(trial: Trial) -> None:
    await _expect_yields(trial, trial.stream.send_eof, "send_eof()")


@_rule("aclose() lets other tasks run.")
async def _close_yields(trial: Trial) -> None:
    await _expect_yields(trial, trial.stream.aclose, "aclose()")


_TURNS: Final = 20


async def _expect_yields(trial: Trial, call: _Call, what: str) -> None:
    """Make a call several times while another task counts its turns."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        # Bounded: a clock that jumps when all tasks wait would otherwise never do so.
        while turns < _TURNS * 100:
            turns += 1
            await checkpoint()

    async def repeat() -> int:
        before = turns
        for _ in range(_TURNS):
            await call()
        return turns - before

    async with create_task_group() as group:
        group.start_soon(count)
        await checkpoint()
        outcome = await trial.outcome(repeat)
        group.cancel_scope.cancel()
    trial.expect(outcome.is_success, f"{what} to succeed {_TURNS} times", outcome)
    seen = f"{outcome.value} turns in {_TURNS} calls"
    # On Trio, which task runs first in a turn is random, so the count may be one less.
    trial.expect(outcome.value >= _TURNS - 1, f"another task's turn for each {what}", seen)


# Attributes -----------------------------------------------------------------------------------


@_rule("The extra attributes are a mapping of callables.")
async def _attributes(trial: Trial) -> None:
    attributes = trial.stream.extra_attributes
    trial.expect(isinstance(attributes, Mapping), "a mapping", repr(attributes))
    for name, value in attributes.items():
        trial.expect(callable(value), f"a callable for {name!r}", repr(value))
