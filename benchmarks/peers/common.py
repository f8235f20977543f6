"""What the peer programs in Python share: command line, workloads, and the lines they print.

A peer program is started as ``server`` or as ``client``. A server prints ``{"port": N}`` once it
listens. A client prints ``{"event": "start"}`` when it is about to do the measured work and
``{"event": "done", ...}`` after it, then keeps its connection until its standard input ends, so
that the driver can look at both processes. Both end when their standard input does.

The work is spoken over one channel that runs a command, the same for every implementation:

* ``sink``: the server counts bytes until the end of input and answers with the number;
* ``source TOTAL SIZE``: after a line feed from the client, the server sends TOTAL bytes in writes
  of SIZE bytes;
* ``echo``: the server sends back what comes.

So a peer only says how to listen, how to connect, and how to send and receive on a channel.

For the workloads of forwarded connections a client is told the port of a target. It forwards a port
of its own to it (``ssh -L``), prints ``{"port": N}``, and carries what comes; the connections are
made and answered by ``benchmarks/traffic.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import threading
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

RECEIVE_SIZE: Final = 256 * 1024
ENCRYPTION: Final = "aes256-gcm@openssh.com"
KEY_EXCHANGE: Final = "ecdh-sha2-nistp256"
HOST_KEY_ALGORITHM: Final = "ecdsa-sha2-nistp256"
HOST: Final = "127.0.0.1"
USERNAME: Final = "bench"

_WARM_UP_BYTES: Final = 16 * 1024 * 1024
_WARM_UP_EXCHANGES: Final = 200
_WARM_UP_CONNECTIONS: Final = 5
_MESSAGE: Final = bytes(range(64))
_STALL_SECONDS: Final = 1.5
_STALL_AFTER: Final = 64 * 1024
_FORWARD_SECONDS: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the driver asks of this process.

    :ivar role: ``server`` or ``client``
    :ivar loop: ``asyncio``, ``uvloop``, ``trio`` or ``none``
    :ivar keys: directory with ``host`` and ``user`` (private keys) and their ``.pub`` files
    :ivar port: of the server, for a client
    :ivar workload: which one, for a client
    :ivar total: bytes to move
    :ivar write_size: bytes of one write
    :ivar seconds: how long to repeat, for the workloads that count
    :ivar target: the port that a client forwards to
    """

    role: str
    loop: str
    keys: Path
    port: int
    workload: str
    total: int
    write_size: int
    seconds: float
    target: int


Data = bytes | bytearray | memoryview


class Channel(Protocol):
    """One byte stream of a connection, as every implementation can offer it."""

    async def send(self, data: bytes) -> None:
        """Send it all."""

    async def receive(self) -> Data:
        """Return some bytes, ``b""`` at the end."""

    async def send_eof(self) -> None:
        """Say that no more will be sent."""

    async def aclose(self) -> None:
        """Close it."""


class Connection(Protocol):
    """An authenticated connection of a client."""

    async def open(self, command: str) -> Channel:
        """Return a new channel on which the server runs the command."""


Connect = Callable[[Task], AbstractAsyncContextManager[Connection]]
Serve = Callable[[Task], Awaitable[None]]
Forward = Callable[[Task], AbstractAsyncContextManager[int]]
"""Connects, and forwards a local port to the task's target; gives that port."""


def emit(**fields: Any) -> None:
    """Print one line for the driver."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def writes(total: int, size: int) -> Iterator[bytes]:
    """Yield data of ``total`` bytes in pieces of ``size`` bytes."""
    piece = os.urandom(size)
    for _ in range(total // size):
        yield piece
    if total % size:
        yield piece[: total % size]


async def answer(command: str, channel: Channel) -> None:
    """Run one command as the server."""
    match command.split():
        case ["sink"]:
            count = 0
            while data := await channel.receive():
                count += len(data)
            await channel.send(b"%d\n" % count)
        case ["source", total, size]:
            await channel.receive()
            for piece in writes(int(total), int(size)):
                await channel.send(piece)
        case ["echo"]:
            while data := await channel.receive():
                await channel.send(bytes(data))
        case _:
            raise ValueError(f"unknown command {command!r}")
    await channel.send_eof()


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
    transfer = _upload if task.workload == "upload" else _download
    async with connect(task) as connection:
        warm_up = max(min(task.total // 8, _WARM_UP_BYTES), 1)
        channel, _ = await transfer(connection, warm_up, task.write_size, lambda: None)
        await channel.aclose()
        # The channel of the measured transfer stays open while the driver looks at the processes.
        _, seconds = await transfer(
            connection, task.total, task.write_size, lambda: emit(event="start")
        )
        return _finish(bytes=task.total, seconds=seconds)


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
        emit(event="start")
        times = array("d")
        begin = before = time.perf_counter()
        while before - begin < task.seconds:
            await _exchange(channel)
            now = time.perf_counter()
            times.append(now - before)
            before = now
        return _finish(seconds=before - begin, **summary(times))


async def _measure_set_up(task: Task, connect: Connect) -> dict[str, Any]:
    for _ in range(_WARM_UP_CONNECTIONS):
        async with connect(task):
            pass
    emit(event="start")
    times = array("d")
    begin = before = time.perf_counter()
    while before - begin < task.seconds:
        async with connect(task):
            times.append(time.perf_counter() - before)
        before = time.perf_counter()
    return _finish(seconds=before - begin, **summary(times))


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
        await _sleep(task.loop, _STALL_SECONDS)
        emit(event="resumed")
        await _receive(channel, task.total, count)
        return _finish(bytes=task.total, seconds=time.perf_counter() - begin)


async def _sleep(loop: str, seconds: float) -> None:
    if loop == "trio":
        import trio

        await trio.sleep(seconds)
    elif loop == "none":
        time.sleep(seconds)
    else:
        await asyncio.sleep(seconds)


def summary(times: array[float]) -> dict[str, Any]:
    """Return how many repetitions there were, and their percentiles in seconds."""
    ordered = sorted(times)
    return {
        "count": len(ordered),
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[len(ordered) * 99 // 100],
    }


def _finish(**fields: Any) -> dict[str, Any]:
    """Report, and hold the connection until the driver has looked at both processes."""
    emit(event="done", **fields)
    sys.stdin.read()
    return fields


_MEASURES: Final = {
    "upload": _measure_bulk,
    "download": _measure_bulk,
    "ping-pong": _measure_ping_pong,
    "set-up": _measure_set_up,
    "slow-reader": _measure_slow_reader,
}


FORWARDS: Final = ("forward", "forward-connections", "forward-connections-16", "forward-memory")


async def _carry(task: Task, forward: Forward) -> None:
    """Forward until our input ends."""
    async with forward(task) as port:
        emit(port=port)
        await _sleep(task.loop, _FORWARD_SECONDS)


def _parse() -> Task:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["server", "client"])
    parser.add_argument("--loop", default="asyncio", choices=["asyncio", "uvloop", "trio", "none"])
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--workload", default="upload", choices=[*_MEASURES, *FORWARDS])
    parser.add_argument("--total", type=int, default=1024 * 1024, help="bytes")
    parser.add_argument("--write-size", type=int, default=256 * 1024, help="bytes")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--target", type=int, default=0)
    return Task(**vars(parser.parse_args()))


def _run(main: Callable[[], Any], loop: str) -> None:
    match loop:
        case "trio":
            import trio

            trio.run(main)
        case "uvloop":
            import uvloop

            uvloop.run(main())
        case _:
            asyncio.run(main())


def _end_with_input(before_end: Callable[[], None]) -> None:
    sys.stdin.read()
    before_end()
    os._exit(0)


def main(
    serve: Serve,
    connect: Connect,
    forward: Forward | None = None,
    before_end: Callable[[], None] = lambda: None,
) -> None:
    """Be the server or the client that the command line asks for.

    :param before_end: called in a thread when a server or a forward has to end
    """
    task = _parse()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if task.role == "server" or task.workload in FORWARDS:
        threading.Thread(target=_end_with_input, args=(before_end,), daemon=True).start()
    if task.role == "server":
        _run(lambda: serve(task), task.loop)
    elif forward is not None and task.workload in FORWARDS:
        _run(lambda: _carry(task, forward), task.loop)
    else:
        _run(lambda: _MEASURES[task.workload](task, connect), task.loop)
