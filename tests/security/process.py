"""A process that is one end of sessions, for tests that kill, stop and isolate processes.

``server`` echoes channels. ``client`` sends numbered records through one, checks that each comes
back once and in order, and starts a new session when its session is lost for good. Both report what
they see as lines of JSON on standard output, and take commands on standard input: ``usage`` asks
for figures, ``stop`` ends a client once all its records are back.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import time
import traceback
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

import anyssh
from anyssh import events

RECORD = 500
AHEAD = 64
"""Records that a client sends before the first of them has come back."""
REPORT = 50
RETRY = 0.05
MEMORY = os.open("/proc/self/statm", os.O_RDONLY)


def tell(**facts: Any) -> None:
    """Write one line for the test."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def is_open(number: int) -> bool:
    """Return whether a file is open under a number."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def usage(sessions: int) -> dict[str, Any]:
    """Return what this process costs, without opening a file."""
    pages = int(os.pread(MEMORY, 200, 0).split()[1])
    return {
        "resident": pages * os.sysconf("SC_PAGE_SIZE"),
        "processor": time.process_time(),
        "files": sum(map(is_open, range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))),
        "sessions": sessions,
        "tasks": len(anyio.get_running_tasks()),
        "wall": time.time(),
    }


def configuration(options: argparse.Namespace) -> anyssh.SessionConfig:
    """Return a configuration with reconnect, a cheap handshake and the limits of the test."""
    return anyssh.SessionConfig.with_reconnect(
        key_exchanges=[anyssh.KeyExchange.CURVE25519_SHA256],
        keep_alive_interval=options.keep_alive,
        limits=anyssh.Limits(**json.loads(options.limits)),
    )


async def commands() -> Any:
    """Yield the lines of standard input, read in a thread that nobody waits for."""
    while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        yield line.strip()


class EchoServer:
    """Lets everybody in and sends back what comes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._sessions = 0

    async def _authenticate(self, attempt: anyssh.AuthAttempt) -> object:
        return attempt.username

    async def _echo(self, channel: anyssh.Channel) -> None:
        if channel.channel_type == "flood":
            while True:
                await channel.send(bytes(32 * 1024))
        async with channel:
            async for chunk in channel:
                await channel.send(chunk)

    async def _handle(self, session: anyssh.ServerSession) -> None:
        self._sessions += 1
        try:
            async with anyio.create_task_group() as watching:
                watching.start_soon(watch, session)
                await session.serve(self._echo)
                watching.cancel_scope.cancel()
        finally:
            self._sessions -= 1
            tell(gone=session.username)

    async def run(self) -> None:
        options = self._options
        key = await anyssh.to_thread.import_key_file(options.key)
        server = anyssh.Server(
            host_keys=[key],
            authenticate=self._authenticate,
            config=configuration(options),
            limits=anyssh.ServerLimits(**json.loads(options.server_limits)),
        )
        listener = await anyio.create_tcp_listener(
            local_host=options.host, local_port=options.port, reuse_port=False
        )
        async with listener, anyio.create_task_group() as group:
            await group.start(server.serve, listener, self._handle)
            tell(port=listener.extra(anyio.abc.SocketAttribute.local_port))
            async for command in commands():
                if command == "usage":
                    gc.collect()
                    tell(**usage(self._sessions))
            group.cancel_scope.cancel()


async def watch(session: anyssh.Session) -> None:
    """Tell of lost and new streams."""
    async for event in session.events():
        match event:
            case events.Disconnected(error):
                tell(lost=str(error), at=time.monotonic())
            case events.Reconnected(count):
                tell(reconnected=count, at=time.monotonic())
            case events.KeepAliveFailed(count):
                tell(missed=count)


class RecordClient:
    """Sends numbered records for as long as it is wanted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._is_stopping = False
        self._room = anyio.Semaphore(AHEAD)
        self._sent = 0
        self._echoed = 0
        self._total = 0

    async def run(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._obey, group)
            while not self._is_stopping or self._echoed < self._sent:
                try:
                    await self._one_session()
                except (anyssh.SSHError, OSError) as error:
                    tell(error=type(error).__name__, text=str(error), at=time.monotonic())
                    await anyio.sleep(RETRY)
            tell(done=self._total)
            group.cancel_scope.cancel()

    async def _obey(self, group: TaskGroup) -> None:
        async for command in commands():
            if command == "stop":
                self._is_stopping = True
                self._room.release()  # whoever waits for it looks again

    async def _one_session(self) -> None:
        options = self._options
        self._sent = self._echoed = 0
        self._room = anyio.Semaphore(AHEAD)
        transport = anyio.as_connectable((options.host, options.port))
        async with anyssh.ClientSession.connect(
            transport,
            credentials=anyssh.ClientCredentials("alice", password="wonderland"),
            verify_host=anyssh.pin(options.fingerprint),
            config=configuration(options),
        ) as session:
            tell(session=str(session.peer_version))
            failure: anyssh.SSHError | None = None
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch, session)
                try:
                    await self._exchange(session)
                except (anyio.BrokenResourceError, anyio.EndOfStream, anyssh.SSHError):
                    failure = (await session.wait_closed()).error
                tasks.cancel_scope.cancel()
            if failure is not None:
                raise failure
            latency = session.metrics.latency
            tell(latency=[latency.minimum, latency.average, latency.maximum])

    async def _exchange(self, session: anyssh.ClientSession) -> None:
        failure: Exception | None = None
        async with (
            await session.open_channel("echo") as channel,
            anyio.create_task_group() as tasks,
        ):

            async def guarded(direction: Any) -> None:
                nonlocal failure
                try:
                    await direction(channel)
                except (anyio.BrokenResourceError, anyio.EndOfStream, anyssh.SSHError) as error:
                    failure = error
                    tasks.cancel_scope.cancel()

            tasks.start_soon(guarded, self._send)
            tasks.start_soon(guarded, self._receive)
        if failure is not None:
            raise failure

    async def _send(self, channel: anyssh.Channel) -> None:
        while True:
            await self._room.acquire()
            if self._is_stopping:
                await channel.send_eof()
                return
            # Counted before it is sent: a cut must not hide it.
            self._sent += 1
            await channel.send(record(self._sent))
            await anyio.sleep(self._options.pause)

    async def _receive(self, channel: anyssh.Channel) -> None:
        buffer = bytearray()
        async for chunk in channel:
            buffer += chunk
            while len(buffer) >= RECORD:
                self._echoed += 1
                self._total += 1
                if buffer[:RECORD] != record(self._echoed):
                    tell(wrong=self._echoed, got=bytes(buffer[:20]).hex())
                    sys.exit(1)
                del buffer[:RECORD]
                self._room.release()
                if self._echoed % REPORT == 0:
                    tell(echoed=self._echoed, wall=time.time())
        if buffer or self._echoed != self._sent:
            tell(wrong=f"{self._echoed} of {self._sent} records and {len(buffer)} bytes")
            sys.exit(1)


def record(number: int) -> bytes:
    """Return the bytes of one record."""
    return number.to_bytes(8, "big") * (RECORD // 8) + bytes(RECORD % 8)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["server", "client"])
    parser.add_argument("--backend", default="asyncio")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key")
    parser.add_argument("--fingerprint", default="")
    parser.add_argument("--keep-alive", type=float, default=0.0)
    parser.add_argument("--limits", default="{}")
    parser.add_argument("--server-limits", default="{}")
    parser.add_argument("--pause", type=float, default=0.002)
    parser.add_argument("--files", type=int, default=1024)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (options.files, options.files))
    end: EchoServer | RecordClient
    end = EchoServer(options) if options.role == "server" else RecordClient(options)
    try:
        anyio.run(end.run, backend=options.backend)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # the thread that reads standard input would have to be waited for


if __name__ == "__main__":
    main()
