"""How a peer program is started, and what it prints.

It is a ``server``, a ``client``, ``both`` in one process, or a ``gateway`` that joins each client's
session with one of its own to the server. A server and a gateway print ``{"port": N}`` once they
listen; what a client prints is defined in ``workloads.py``. All end when their standard input does.

For the workloads of forwarded connections, a client is told the port of a target. It forwards a
port of its own to it (``ssh -L``), prints ``{"port": N}``, and carries the connections, which are
made and answered by ``benchmarks/traffic.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from .common import Connect, Forward, Serve, Task, emit, sleep
from .workloads import FORWARDS, MEASURES

_FORWARD_SECONDS: Final = 24 * 3600.0


def _parse() -> Task:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["server", "client", "both", "gateway"])
    parser.add_argument("--loop", default="asyncio", choices=["asyncio", "uvloop", "trio", "none"])
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--workload", default="upload", choices=[*MEASURES, *FORWARDS])
    parser.add_argument("--total", type=int, default=1024 * 1024, help="bytes")
    parser.add_argument("--write-size", type=int, default=256 * 1024, help="bytes")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=0, help="repetitions, instead of seconds")
    parser.add_argument("--width", type=int, default=1, help="sessions, channels, or in flight")
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


async def _carry(task: Task, forward: Forward) -> None:
    """Forward until our input ends."""
    async with forward(task) as port:
        emit(port=port)
        await sleep(task.loop, _FORWARD_SECONDS)


async def _serve_and(
    task: Task, serve: Serve, be_client: Callable[[Task], Awaitable[object]]
) -> None:
    """Be a server and its client on one loop, and end the process after the client's work."""
    import anyio

    listening = anyio.Event()
    ports = []

    def listens(port: int) -> None:
        ports.append(port)
        listening.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, replace(task, role="server", listens=listens))
        await listening.wait()
        await be_client(replace(task, role="client", port=ports[0]))
        os._exit(0)  # without taking down what is not measured


def _end_with_input(before_end: Callable[[], None]) -> None:
    sys.stdin.read()
    before_end()
    os._exit(0)


def main(
    serve: Serve,
    connect: Connect,
    forward: Forward | None = None,
    before_end: Callable[[], None] = lambda: None,
    relay: Serve | None = None,
) -> None:
    """Be what the command line asks for.

    :param relay: serves as a gateway
    :param before_end: called in a thread when a server or a forward has to end
    """
    task = _parse()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if task.role in ("server", "gateway") or task.workload in FORWARDS:
        threading.Thread(target=_end_with_input, args=(before_end,), daemon=True).start()

    async def be_client(task: Task) -> None:
        if forward is not None and task.workload in FORWARDS:
            await _carry(task, forward)
        else:
            await MEASURES[task.workload](task, connect)

    match task.role:
        case "server":
            _run(lambda: serve(task), task.loop)
        case "gateway" if relay is not None:
            _run(lambda: relay(task), task.loop)
        case "client":
            _run(lambda: be_client(task), task.loop)
        case _:
            _run(lambda: _serve_and(task, serve, be_client), task.loop)
