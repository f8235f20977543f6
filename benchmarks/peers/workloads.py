"""What clients do: each workload warms up, says that it starts, and returns what it measured.

A workload prints ``{"event": "start"}`` when it is about to do the measured work and
``{"event": "done", ...}`` after it, then keeps its connection until its standard input ends, so
that the driver can look at both processes.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Callable
from typing import Any, Final

from .common import Channel, Connect, Connection, Repetitions, Task, emit, sleep, summary, writes

_WARM_UP_BYTES: Final = 16 * 1024 * 1024
_WARM_UP_EXCHANGES: Final = 200
_WARM_UP_CONNECTIONS: Final = 5
_WARM_UP_OPENS: Final = 50
_MESSAGE: Final = bytes(range(64))
_STALL_SECONDS: Final = 1.5
_STALL_AFTER: Final = 64 * 1024


def _finish(**fields: Any) -> dict[str, Any]:
    """Report, and hold the connection until the driver has looked at both processes."""
    emit(event="done", **fields)
    sys.stdin.read()
    return fields


def _start(task: Task) -> Repetitions:
    emit(event="start")
    return Repetitions(task.seconds, task.count)


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
    reply = bytearray()
    while not reply.endswith(b"\n"):
        data = await channel.receive()
        if not data:
            raise RuntimeError(f"the server ended without a number, after {bytes(reply)!r}")
        reply += data
    seconds = time.perf_counter() - begin
    if int(reply) != total:
        raise RuntimeError(f"sent {total} bytes, the server counted {int(reply)}")
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


async def _exchange(channel: Channel) -> None:
    await channel.send(_MESSAGE)
    reply = await channel.receive()
    while len(reply) < len(_MESSAGE):
        more = await channel.receive()
        if not more:
            raise RuntimeError("the echo ended")
        reply = bytes(reply) + more
    if reply != _MESSAGE:
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
            await connection.open_and_close()
        repetitions = _start(task)
        for _ in repetitions:
            await connection.open_and_close()
        return _finish(**repetitions.result())


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
    "open-close": _measure_open_close,
    "slow-reader": _measure_slow_reader,
}
FORWARDS: Final = ("forward", "forward-connections", "forward-connections-16", "forward-memory")
