"""The clients' work: each workload warms up, announces its start, and returns its measurements.

A workload prints ``{"event": "start"}`` right before the measured work and ``{"event": "done",
...}`` after it, then keeps its connection until its standard input ends, so that the driver can
inspect both processes.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any, Final, NoReturn

from .common import (
    Channel,
    Connect,
    Connection,
    Crew,
    Repetitions,
    Signal,
    Task,
    emit,
    sleep,
    summary,
    writes,
)

_WARM_UP_BYTES: Final = 16 * 1024 * 1024
_WARM_UP_EXCHANGES: Final = 200
_WARM_UP_CONNECTIONS: Final = 5
_WARM_UP_OPENS: Final = 50
_MESSAGE: Final = bytes(range(64))
_AT_ONCE: Final = 8
"""Sessions that are set up at the same time; servers may refuse those of a larger crowd."""
_BATCH: Final = 100
_ECHO_SIZE: Final = 16 * 1024
_ENDLESS: Final = 2**40
_HOLD_SECONDS: Final = 24 * 3600.0
_SETTLE_SECONDS: Final = 0.3
_STALL_SECONDS: Final = 1.5
_STALL_AFTER: Final = 64 * 1024


def _finish(**fields: Any) -> dict[str, Any]:
    """Report, and hold the connection until the driver has looked at both processes."""
    emit(event="done", **fields)
    sys.stdin.read()
    return fields


def _finish_at_once(**fields: Any) -> NoReturn:
    """Report, and end the process without taking down what many tasks hold."""
    _finish(**fields)
    os._exit(0)


def _start(task: Task) -> Repetitions:
    emit(event="start")
    return Repetitions(task.seconds, task.count)


async def _counted(channel: Channel, total: int) -> None:
    """Wait until the server tells what it has counted."""
    reply = bytearray()
    while not reply.endswith(b"\n"):
        data = await channel.receive()
        if not data:
            raise RuntimeError(f"the server ended without a number, after {bytes(reply)!r}")
        reply += data
    if int(reply) != total:
        raise RuntimeError(f"sent {total} bytes, the server counted {int(reply)}")


async def _upload(
    connection: Connection, total: int, size: int, started: Callable[[], None]
) -> tuple[Channel, float]:
    """Send ``total`` bytes; return the channel and the seconds until the server counted them."""
    channel = await connection.open("sink")
    started()
    begin = time.perf_counter()
    for piece in writes(total, size):
        await channel.send(piece)
    await channel.send_eof()
    await _counted(channel, total)
    seconds = time.perf_counter() - begin
    return channel, seconds


async def _download(
    connection: Connection, total: int, size: int, started: Callable[[], None]
) -> tuple[Channel, float]:
    """Receive ``total`` bytes; return the channel and the seconds that took."""
    channel = await connection.open(f"source {total} {size}")
    started()
    begin = time.perf_counter()
    await channel.send(b"\n")
    await _receive(channel, total)
    seconds = time.perf_counter() - begin
    return channel, seconds


async def _receive(channel: Channel, total: int, count: int = 0) -> None:
    while count < total:
        data = await channel.receive()
        if not data:
            break
        count += len(data)
    if count != total:
        raise RuntimeError(f"expected {total} bytes, received {count}")


async def _measure_bulk(task: Task, connect: Connect) -> dict[str, Any]:
    transfer = _download if task.workload == "download" else _upload
    async with connect(task) as connection:
        warm_up = _WARM_UP_BYTES if task.count else max(min(task.total // 8, _WARM_UP_BYTES), 1)
        total = task.count * task.write_size or task.total
        channel, _ = await transfer(connection, warm_up, task.write_size, lambda: None)
        await channel.aclose()
        # The channel of the measured transfer stays open while the driver looks at the processes.
        _, seconds = await transfer(connection, total, task.write_size, lambda: emit(event="start"))
        return _finish(bytes=total, seconds=seconds)


async def _exchange(channel: Channel, message: bytes = _MESSAGE) -> None:
    await channel.send(message)
    reply = await channel.receive()
    if len(reply) < len(message):
        whole = bytearray(reply)
        while len(whole) < len(message):
            reply = await channel.receive()
            if not reply:
                raise RuntimeError("the echo ended")
            whole += reply
        reply = whole
    if reply != message:
        raise RuntimeError("the echo differs")


async def _measure_ping_pong(task: Task, connect: Connect) -> dict[str, Any]:
    async with connect(task) as connection:
        channel = await connection.open("echo")
        for _ in range(_WARM_UP_EXCHANGES):
            await _exchange(channel)
        repetitions = _start(task)
        for _ in repetitions:
            await _exchange(channel)
        return _finish(**repetitions.result())


async def _measure_set_up(task: Task, connect: Connect) -> dict[str, Any]:
    for _ in range(_WARM_UP_CONNECTIONS):
        async with connect(task):
            pass
    repetitions = _start(task)
    until_authenticated = array("d")
    for _ in repetitions:
        begin = time.perf_counter()
        async with connect(task):
            until_authenticated.append(time.perf_counter() - begin)
    return _finish(**repetitions.result() | summary(until_authenticated))


async def _measure_open_close(task: Task, connect: Connect) -> dict[str, Any]:
    async with connect(task) as connection:
        for _ in range(_WARM_UP_OPENS):
            await (await connection.open_idle()).aclose()
        emit(event="start")
        begin = time.perf_counter()
        times = array("d")

        async def open_and_close() -> None:
            repetitions = Repetitions(task.seconds, task.count)
            for _ in repetitions:
                await (await connection.open_idle()).aclose()
            times.extend(repetitions.times)

        async with Crew(task.loop) as crew:
            for _ in range(task.width):
                crew.start(open_and_close)
        return _finish(seconds=time.perf_counter() - begin, **summary(times))


async def _measure_messages(task: Task, connect: Connect) -> dict[str, Any]:
    """Send small messages without an answer, until the server has counted them."""
    async with connect(task) as connection:
        channel = await connection.open("sink")
        for _ in range(_BATCH * 10):
            await channel.send_small(_MESSAGE)
        await channel.send_eof()
        await _counted(channel, _BATCH * 10 * len(_MESSAGE))
        channel = await connection.open("sink")
        repetitions = _start(task)
        begin = time.perf_counter()
        for _ in repetitions:
            for _ in range(_BATCH):
                await channel.send_small(_MESSAGE)
        await channel.send_eof()
        count = len(repetitions.times) * _BATCH
        await _counted(channel, count * len(_MESSAGE))
        seconds = time.perf_counter() - begin
        return _finish(count=count, seconds=seconds)


async def _hold(
    task: Task, connect: Connect, command: str | None, channels: list[Channel], ready: Signal
) -> None:
    """Keep a session until the process ends; run a command in it, if there is one."""
    async with connect(task) as connection:
        if command is not None:
            channels.append(await connection.open(command))
        ready.set()
        await sleep(task.loop, _HOLD_SECONDS)


async def _open_sessions(
    crew: Crew, task: Task, connect: Connect, number: int, command: str | None
) -> list[Channel]:
    """Open so many sessions, each in a task of its own; return their channels."""
    channels: list[Channel] = []
    for start in range(0, number, _AT_ONCE):
        signals = [Signal(task.loop) for _ in range(min(_AT_ONCE, number - start))]
        for ready in signals:
            crew.start(_hold, task, connect, command, channels, ready)
        for ready in signals:
            await ready.wait()
    return channels


async def _measure_sessions(task: Task, connect: Connect) -> dict[str, Any]:
    """Echo large messages in many sessions at the same time."""
    message = os.urandom(_ECHO_SIZE)
    times = array("d")

    async def echo(channel: Channel, seconds: float, count: int) -> None:
        repetitions = Repetitions(seconds, count)
        for _ in repetitions:
            await _exchange(channel, message)
        times.extend(repetitions.times)

    async with Crew(task.loop) as holders:
        channels = await _open_sessions(holders, task, connect, task.width, "echo")
        async with Crew(task.loop) as crew:
            for channel in channels:
                crew.start(echo, channel, 0.0, 2)
        del times[:]
        emit(event="start")
        begin = time.perf_counter()
        async with Crew(task.loop) as crew:
            for channel in channels:
                crew.start(echo, channel, task.seconds, task.count)
        seconds = time.perf_counter() - begin
        return _finish_at_once(bytes=len(times) * _ECHO_SIZE, seconds=seconds)


async def _measure_idle_sessions(task: Task, connect: Connect) -> dict[str, Any]:
    """Hold sessions in which nothing happens."""
    async with Crew(task.loop) as crew:
        await _open_sessions(crew, task, connect, _WARM_UP_OPENS, None)
        emit(event="start")
        begin = time.perf_counter()
        await _open_sessions(crew, task, connect, task.width, None)
        seconds = time.perf_counter() - begin
        await sleep(task.loop, _SETTLE_SECONDS)
        return _finish_at_once(count=task.width, seconds=seconds)


async def _measure_idle_channels(task: Task, connect: Connect) -> dict[str, Any]:
    """Hold channels of one session in which nothing happens."""
    async with connect(task) as connection:
        channels = [await connection.open_idle() for _ in range(_WARM_UP_OPENS)]
        emit(event="start")
        begin = time.perf_counter()
        channels += [await connection.open_idle() for _ in range(task.width)]
        seconds = time.perf_counter() - begin
        await sleep(task.loop, _SETTLE_SECONDS)
        return _finish_at_once(count=task.width, seconds=seconds)


async def _measure_channels(task: Task, connect: Connect) -> dict[str, Any]:
    """Send the same amount over one channel, or over many of one session at the same time."""
    share = task.total // task.width
    pieces = list(writes(share, min(share, task.write_size)))  # one object, many times

    async def upload(channel: Channel) -> None:
        for piece in pieces:
            await channel.send(piece)
        await channel.send_eof()
        await _counted(channel, share)

    async with connect(task) as connection:
        channel, _ = await _upload(connection, _WARM_UP_BYTES, task.write_size, lambda: None)
        await channel.aclose()
        channels = [await connection.open("sink") for _ in range(task.width)]
        emit(event="start")
        begin = time.perf_counter()
        async with Crew(task.loop) as crew:
            for channel in channels:
                crew.start(upload, channel)
        seconds = time.perf_counter() - begin
        return _finish_at_once(bytes=share * task.width, seconds=seconds)


async def _take_turns(task: Task, channels: list[Channel]) -> dict[str, Any]:
    for channel in channels:
        await _exchange(channel)
    for _ in range(_WARM_UP_EXCHANGES):
        await _exchange(channels[0])
    turns = itertools.cycle(channels)
    repetitions = _start(task)
    for _ in repetitions:
        await _exchange(next(turns))
    return _finish_at_once(**repetitions.result())


async def _measure_turns_of_channels(task: Task, connect: Connect) -> dict[str, Any]:
    """Play ping-pong, each time over the next of many channels of one session."""
    async with connect(task) as connection:
        channels = [await connection.open("echo") for _ in range(task.width)]
        return await _take_turns(task, channels)


async def _measure_turns_of_sessions(task: Task, connect: Connect) -> dict[str, Any]:
    """Play ping-pong, each time over the next of many sessions."""
    async with Crew(task.loop) as crew:
        channels = await _open_sessions(crew, task, connect, task.width, "echo")
        return await _take_turns(task, channels)


async def _measure_fairness(task: Task, connect: Connect) -> dict[str, Any]:
    """Play ping-pong on one channel while another of the same session is flooded."""

    async def flood(channel: Channel) -> None:
        for piece in writes(_ENDLESS, task.write_size):
            await channel.send(piece)

    async with connect(task) as connection, Crew(task.loop) as crew:
        channel = await connection.open("echo")
        for _ in range(_WARM_UP_EXCHANGES):
            await _exchange(channel)
        crew.start(flood, await connection.open("sink"))
        await sleep(task.loop, _SETTLE_SECONDS)
        repetitions = _start(task)
        for _ in repetitions:
            await _exchange(channel)
        return _finish_at_once(**repetitions.result())


async def _measure_beside_stuck(task: Task, connect: Connect) -> dict[str, Any]:
    """Play ping-pong on one channel while nobody reads what comes on another."""
    async with connect(task) as connection:
        channel = await connection.open("echo")
        stuck = await connection.open(f"source {_ENDLESS} {task.write_size}")
        await stuck.send(b"\n")
        for _ in range(_WARM_UP_EXCHANGES):
            await _exchange(channel)
        await sleep(task.loop, _SETTLE_SECONDS)
        repetitions = _start(task)
        for _ in repetitions:
            await _exchange(channel)
        return _finish_at_once(**repetitions.result())


async def _measure_slow_reader(task: Task, connect: Connect) -> dict[str, Any]:
    """Read a little, stop for a while, then read the rest."""
    async with connect(task) as connection:
        channel = await connection.open(f"source {task.total} {task.write_size}")
        await channel.send(b"\n")
        count = 0
        while count < _STALL_AFTER:
            count += len(await channel.receive())
        emit(event="start")
        begin = time.perf_counter()
        await sleep(task.loop, _STALL_SECONDS)
        emit(event="resumed")
        await _receive(channel, task.total, count)
        return _finish(bytes=task.total, seconds=time.perf_counter() - begin)


MEASURES: Final = {
    "upload": _measure_bulk,
    "download": _measure_bulk,
    "ping-pong": _measure_ping_pong,
    "set-up": _measure_set_up,
    "messages": _measure_messages,
    "open-close": _measure_open_close,
    "sessions": _measure_sessions,
    "idle-sessions": _measure_idle_sessions,
    "idle-channels": _measure_idle_channels,
    "channels": _measure_channels,
    "turns-of-channels": _measure_turns_of_channels,
    "turns-of-sessions": _measure_turns_of_sessions,
    "fairness": _measure_fairness,
    "beside-stuck": _measure_beside_stuck,
    "slow-reader": _measure_slow_reader,
}
FORWARDS: Final = (
    "forward",
    "forward-connections",
    "forward-connections-16",
    "forward-connections-64",
    "forward-memory",
)
