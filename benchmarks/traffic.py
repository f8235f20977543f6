"""Both ends of forwarded connections: the client, and a target in a process of its own.

Neither knows SSH, and both are the same for every implementation. The process prints ``{"port":
N}``, the port of the target, then reads a line with the port to connect to. The target counts every
byte; a difference is a failure.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import select
import signal
import socket
import sys
import time
from array import array
from typing import Any, Final

from .peers.common import HOST, emit, summary, writes

CONNECTIONS: Final = {
    "forward-connections": 1,
    "forward-connections-16": 16,
    "forward-connections-64": 64,
}
HELD: Final = 1000
COUNT_BYTES: Final = 8
_RECEIVE_SIZE: Final = 1024 * 1024
_WARM_UP_BYTES: Final = 16 * 1024 * 1024
_WARM_UP_CONNECTIONS: Final = 50
_BACKLOG: Final = 1024
_ONE: Final = b"\x01"
_held: list[socket.socket] = []


def _count(connection: socket.socket) -> None:
    """Receive a number and as many bytes, and answer with how many came."""
    buffer = bytearray(_RECEIVE_SIZE)
    with connection:
        total = int.from_bytes(_receive_exactly(connection, COUNT_BYTES))
        count = 0
        while count < total and (received := connection.recv_into(buffer)):
            count += received
        connection.sendall(count.to_bytes(COUNT_BYTES))
        connection.recv(1)


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def _be_counted(listener: socket.socket) -> None:
    """Count what comes, one connection after the other."""
    while True:
        _count(listener.accept()[0])


def _be_answered(listener: socket.socket) -> None:
    """Answer one byte with one byte, on all connections at once.

    Nothing but the system calls that this takes, so that little of the machine is left out of what
    is measured.
    """
    ready = select.epoll()
    ready.register(listener, select.EPOLLIN)
    listening = listener.fileno()
    while True:
        for number, _ in ready.poll():
            if number == listening:
                ready.register(listener.accept()[0].detach(), select.EPOLLIN)
            elif os.read(number, 1):
                os.write(number, _ONE)
            else:
                os.close(number)


def _transfer(port: int, total: int, size: int) -> None:
    with socket.create_connection((HOST, port)) as connection:
        connection.sendall(total.to_bytes(COUNT_BYTES))
        for piece in writes(total, size):
            connection.sendall(piece)
        reply = _receive_exactly(connection, COUNT_BYTES)
    if int.from_bytes(reply) != total or len(reply) != COUNT_BYTES:
        raise RuntimeError(f"sent {total} bytes, the target counted {reply!r}")


def _connect(port: int) -> socket.socket:
    """Return a connection through which one byte went there and back."""
    connection = socket.create_connection((HOST, port))
    connection.sendall(_ONE)
    if connection.recv(1) != _ONE:
        raise RuntimeError("a forwarded connection ended without an answer")
    return connection


def _measure_bulk(port: int, options: argparse.Namespace) -> dict[str, Any]:
    _transfer(port, max(min(options.total // 8, _WARM_UP_BYTES), 2), options.write_size)
    emit(event="start")
    begin = time.perf_counter()
    _transfer(port, options.total, options.write_size)
    return {"bytes": options.total, "seconds": time.perf_counter() - begin}


def _measure_connections(port: int, options: argparse.Namespace) -> dict[str, Any]:
    for _ in range(_WARM_UP_CONNECTIONS):
        _connect(port).close()
    emit(event="start")
    begin = time.perf_counter()
    times = _keep_connecting((HOST, port), CONNECTIONS[options.workload], options)
    return {"seconds": time.perf_counter() - begin, **summary(times)}


def _keep_connecting(
    address: tuple[str, int], in_flight: int, options: argparse.Namespace
) -> array[float]:
    """Have so many connections at any time; return how long each took, from connecting to closing.

    One task for all, as those of a program for each would take turns with each other.
    """
    ready = select.epoll()
    waiting: dict[int, tuple[socket.socket, float]] = {}
    times = array("d")
    most = options.count * in_flight or sys.maxsize
    now = time.perf_counter()
    end = math.inf if options.count else now + options.seconds

    def begin() -> None:
        # Where the machine connects to itself, this waits for nobody.
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.connect(address)
        connection.send(_ONE)
        ready.register(connection, select.EPOLLIN)
        waiting[connection.fileno()] = connection, now

    for _ in range(in_flight):
        begin()
    while waiting:
        for number, _ in ready.poll():
            connection, began = waiting.pop(number)
            if connection.recv(1) != _ONE:
                raise RuntimeError("a forwarded connection ended without an answer")
            connection.close()
            now = time.perf_counter()
            times.append(now - began)
            if now < end and len(times) + len(waiting) < most:
                begin()
    return times


def _measure_held(port: int, options: argparse.Namespace) -> dict[str, Any]:
    """Hold connections that have nothing to say."""
    for _ in range(_WARM_UP_CONNECTIONS):
        _connect(port).close()
    emit(event="start")
    begin = time.perf_counter()
    _held.extend(_connect(port) for _ in range(HELD))
    seconds = time.perf_counter() - begin
    return {"count": HELD, "seconds": seconds}


def main() -> None:
    """Run one workload through a forward."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", choices=["forward", *CONNECTIONS, "forward-memory"])
    parser.add_argument("--total", type=int, default=1024 * 1024, help="bytes")
    parser.add_argument("--write-size", type=int, default=256 * 1024, help="bytes")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=0, help="connections, instead of seconds")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    is_bulk = options.workload == "forward"
    with socket.create_server((HOST, 0), backlog=_BACKLOG) as listener:
        target_port = listener.getsockname()[1]
        if (target := os.fork()) == 0:
            (_be_counted if is_bulk else _be_answered)(listener)
    try:
        emit(port=target_port)
        port = int(sys.stdin.readline())
        measures = {"forward": _measure_bulk, "forward-memory": _measure_held}
        measure = measures.get(options.workload, _measure_connections)
        emit(event="done", **measure(port, options))
        sys.stdin.read()
    finally:
        os.kill(target, signal.SIGKILL)
        os.waitpid(target, 0)


if __name__ == "__main__":
    main()
