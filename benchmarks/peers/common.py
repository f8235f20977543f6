"""What the peer programs in Python share: the task, the channels, and the commands they run.

The work is done on channels that run a command, the same for every implementation:

* ``sink``: the server counts bytes until the end of input, and answers with the number;
* ``source TOTAL SIZE``: after a line feed from the client, the server sends TOTAL bytes in writes
  of SIZE bytes;
* ``echo``: the server sends back what it receives.

So a peer only defines how to listen, how to connect, and how to send and receive on a channel.
``workloads.py`` defines what clients do, ``program.py`` how the programs are started.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import traceback
from array import array
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

RECEIVE_SIZE: Final = 256 * 1024
ENCRYPTION: Final = "aes256-gcm@openssh.com"
KEY_EXCHANGE: Final = "ecdh-sha2-nistp256"
HOST_KEY_ALGORITHM: Final = "ecdsa-sha2-nistp256"
HOST: Final = "127.0.0.1"
USERNAME: Final = "bench"
NOWHERE: Final = 1
"""A port to which no peer connects: the server holds such channels itself."""


def emit(**fields: Any) -> None:
    """Print one line for the driver."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def _tell_port(port: int) -> None:
    emit(port=port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the driver asks of this process.

    :ivar role: ``server``, ``client``, or ``both`` in one process
    :ivar loop: ``asyncio``, ``uvloop``, ``trio`` or ``none``
    :ivar keys: directory with ``host`` and ``user`` (private keys) and their ``.pub`` files
    :ivar port: of the server, for a client
    :ivar workload: which one, for a client
    :ivar total: bytes to move
    :ivar write_size: bytes of one write
    :ivar seconds: how long to repeat, for the workloads that count
    :ivar count: how often to repeat instead; 0 to go by the time
    :ivar width: sessions, channels or work in flight, for the workloads that have many
    :ivar target: the port that a client forwards to
    :ivar listens: called by a server with its port
    """

    role: str
    loop: str
    keys: Path
    port: int
    workload: str
    total: int
    write_size: int
    seconds: float
    count: int
    width: int
    target: int
    listens: Callable[[int], None] = _tell_port


Data = bytes | bytearray | memoryview


class Channel(Protocol):
    """One byte stream of a connection, as every implementation can offer it."""

    async def send(self, data: bytes) -> None:
        """Send it all."""

    async def send_small(self, data: bytes) -> None:
        """Send it as the library would have a program send many small pieces."""

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

    async def open_idle(self) -> Channel:
        """Return a new channel on which the server runs nothing."""


Connect = Callable[[Task], AbstractAsyncContextManager[Connection]]
Serve = Callable[[Task], Coroutine[Any, Any, None]]
Forward = Callable[[Task], AbstractAsyncContextManager[int]]
"""Connects, and forwards a local port to the task's target; gives that port."""


def writes(total: int, size: int) -> Iterator[bytes]:
    """Yield data of ``total`` bytes in pieces of ``size`` bytes."""
    piece = os.urandom(size)
    for _ in range(total // size):
        yield piece
    if total % size:
        yield piece[: total % size]


def summary(times: array[float]) -> dict[str, Any]:
    """Return how many repetitions there were, and their percentiles in seconds."""
    ordered = sorted(times)
    return {
        "count": len(ordered),
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[len(ordered) * 99 // 100],
    }


class Repetitions:
    """Repeats until a time is over or, to count instructions, so and so often.

    :param seconds: how long
    :param count: how often, 0 to go by the time
    :ivar times: seconds that each took
    """

    def __init__(self, seconds: float, count: int) -> None:
        self._seconds = seconds
        self._count = count
        self._begin = self._before = time.perf_counter()
        self.times = array("d")

    def __iter__(self) -> Iterator[None]:
        while self._go_on():
            yield
            now = time.perf_counter()
            self.times.append(now - self._before)
            self._before = now

    def _go_on(self) -> bool:
        if self._count:
            return len(self.times) < self._count
        return self._before - self._begin < self._seconds

    def result(self) -> dict[str, Any]:
        """Return what there is to tell: how often, in what time, and percentiles."""
        return {"seconds": self._before - self._begin, **summary(self.times)}


async def sleep(loop: str, seconds: float) -> None:
    """Sleep as the loop does it."""
    if loop == "trio":
        import trio

        await trio.sleep(seconds)
    elif loop == "none":
        time.sleep(seconds)
    else:
        await asyncio.sleep(seconds)


class Signal:
    """Tells the members of a crew that something has happened, once."""

    def __init__(self, loop: str) -> None:
        self._event: Any
        if loop == "none":
            self._event = threading.Event()
            self.wait = self._block
        else:
            import anyio

            self._event = anyio.Event()
            self.wait = self._event.wait
        self.set = self._event.set

    async def _block(self) -> None:
        self._event.wait()


class Crew:
    """Runs coroutines at the same time: in tasks, or in threads where they never suspend.

    Use it with ``async with``, which waits for all of them. A failure in a thread ends the process.
    """

    def __init__(self, loop: str) -> None:
        self._threads: list[threading.Thread] | None = [] if loop == "none" else None
        self._tasks: Any = None

    async def __aenter__(self) -> Self:
        if self._threads is None:
            import anyio

            self._tasks = anyio.create_task_group()
            await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        if self._threads is None:
            await self._tasks.__aexit__(*error)
        else:
            for thread in self._threads:
                thread.join()

    def start(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        """Start one member."""
        if self._threads is None:
            self._tasks.start_soon(work, *arguments)
        else:
            thread = threading.Thread(target=_run_to_its_end, args=(work(*arguments),), daemon=True)
            self._threads.append(thread)
            thread.start()


def _run_to_its_end(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    raise RuntimeError(f"{coroutine} waits, but nothing here could wake it")


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
