"""``python -m anyssh demo``: a session that loses its network again and again, but not a byte.

A server and a client in one program, with real TCP sockets between them. Several channels of one
authenticated, encrypted session carry random data to the server and back at the same time, while
the client's stream is cut at random places. The session reconnects by itself; at the end, the
hashes of what was sent, what the server received and what came back must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
from anyio.abc import ByteStreamConnectable, SocketAttribute, TaskStatus

import anyssh

from .cutting import CuttingConnectable
from .display import Display, Status, make_display

__all__ = ["main"]

CHUNK_BYTES = 256 * 1024
MIB = 1024 * 1024
REFRESH = 0.25
GOOD = "every byte arrived, once and in order"
BAD = "BYTES WERE LOST OR CHANGED"
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Transfer:
    """The result of one channel.

    :ivar size: bytes that came back
    :ivar sent_hash: the hash of what the client sent
    :ivar server_hash: the hash of what the server received, according to the server
    :ivar returned_hash: the hash of what came back to the client
    """

    name: str
    size: int
    sent_hash: str
    server_hash: str
    returned_hash: str

    @property
    def is_good(self) -> bool:
        """Whether every byte arrived exactly once and in order, both ways."""
        return self.sent_hash == self.server_hash == self.returned_hash

    def __str__(self) -> str:
        verdict = "equal on both sides" if self.is_good else "DIFFERENT"
        return (
            f"{self.name}: {self.size / MIB:.0f} MiB there and back, "
            f"SHA-256 {self.sent_hash[:16]}… {verdict}"
        )


class Progress:
    """How much has come back so far.

    :ivar total: bytes to come back in total
    :ivar done: bytes that have come back
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0


async def echo(channel: anyssh.Channel) -> None:
    """Send everything back, then its hash as standard error."""
    digest = hashlib.sha256()
    async for chunk in channel:
        digest.update(chunk)
        await channel.send(chunk)
    await channel.send_stderr(digest.hexdigest().encode())
    await channel.aclose(exit_status=0)


async def transfer(
    session: anyssh.ClientSession, name: str, size: int, progress: Progress
) -> Transfer:
    """Transfer ``size`` bytes to the server and back over a channel."""
    sent, returned = hashlib.sha256(), hashlib.sha256()
    came_back = 0
    async with await session.open_channel() as channel:

        async def send() -> None:
            left = size
            while left:
                chunk = os.urandom(min(left, CHUNK_BYTES))
                sent.update(chunk)
                await channel.send(chunk)
                left -= len(chunk)
            await channel.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            async for chunk in channel:
                returned.update(chunk)
                came_back += len(chunk)
                progress.done += len(chunk)
        server_hash = b"".join([chunk async for chunk in channel.stderr]).decode()
    return Transfer(name, came_back, sent.hexdigest(), server_hash, returned.hexdigest())


async def transfer_all(
    session: anyssh.ClientSession, channels: int, size: int, progress: Progress
) -> list[Transfer]:
    """Transfer data over all channels concurrently."""
    results: list[Transfer] = []

    async def move(number: int) -> None:
        results.append(await transfer(session, f"channel {number}", size, progress))

    async with anyio.create_task_group() as tasks:
        for number in range(1, channels + 1):
            tasks.start_soon(move, number)
    return sorted(results, key=lambda result: result.name)


async def show(
    session: anyssh.ClientSession,
    progress: Progress,
    connectable: CuttingConnectable,
    display: Display,
) -> None:
    """Display the progress until cancelled."""
    then, done_then = time.perf_counter(), 0
    while True:
        await anyio.sleep(REFRESH)
        now, done = time.perf_counter(), progress.done
        display.show(
            Status(
                is_connected=session.state is anyssh.SessionState.CONNECTED,
                done=done / progress.total,
                rate=(done - done_then) / MIB / (now - then),
                latency=session.metrics.latency.current,
                cuts=connectable.cuts,
                reconnections=session.metrics.reconnections,
            )
        )
        then, done_then = now, done


async def run_client(
    connectable: CuttingConnectable,
    host_key: anyssh.Key,
    user_key: anyssh.Key,
    channels: int,
    size: int,
) -> bool:
    """Connect, transfer data over all channels concurrently, print figures."""
    progress = Progress(channels * size)
    async with anyssh.ClientSession.connect(
        connectable,
        credentials=anyssh.ClientCredentials("alice", keys=[user_key]),
        verify_host=anyssh.pin(host_key.fingerprint),
        config=anyssh.SessionConfig.with_reconnect(),
    ) as session:
        print(f"client: connected and authenticated, {session.algorithms}")
        start = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            with make_display() as display:
                tasks.start_soon(show, session, progress, connectable, display)
                results = await transfer_all(session, channels, size, progress)
            tasks.cancel_scope.cancel()
        seconds = time.perf_counter() - start
        for result in results:
            print(f"client: {result}")
        report(session, 2 * progress.total, seconds, connectable.cuts)
    return all(result.is_good and result.size == size for result in results)


def report(session: anyssh.ClientSession, moved: int, seconds: float, cuts: int) -> None:
    """Print the figures of a finished session."""
    metrics = session.metrics
    latency = metrics.latency
    print(f"client: {moved / MIB:.0f} MiB in {seconds:.1f} s, {moved / MIB / seconds:.0f} MiB/s")
    print(
        f"client: the stream was cut {cuts} times, the session reconnected {metrics.reconnections}"
    )
    print(
        f"client: latency {latency.minimum:.2f} ms at least, {latency.average:.2f} on average, "
        f"{latency.maximum:.2f} at most"
    )
    print(session.contour.draw())


async def demo(channels: int, size: int, cuts: int) -> str:
    """Run the server and the client; return what came of it."""
    host_key = anyssh.generate_key("ssh-ed25519", comment="demo host key")
    user_key = anyssh.generate_key("ssh-ed25519", comment="demo user key")

    async def authenticate(attempt: anyssh.AuthAttempt) -> str | None:
        match attempt:
            case anyssh.PublicKeyAttempt(username="alice", public_key=key) if key == user_key:
                return "alice"
        return None

    async def handle(session: anyssh.ServerSession) -> None:
        print(f"server: {session.principal} has authenticated, with {session.peer_version}")
        await session.serve(echo)

    server = anyssh.Server(
        host_keys=[host_key],
        authenticate=authenticate,
        config=anyssh.SessionConfig.with_reconnect(),
    )

    async def serve(*, task_status: TaskStatus[ByteStreamConnectable]) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(SocketAttribute.local_port)
            print(f"server: listening on 127.0.0.1:{port}, host key {host_key.fingerprint}")
            task_status.started(anyio.as_connectable(("127.0.0.1", port)))
            await server.serve(listener, handle)

    async with anyio.create_task_group() as tasks:
        address = await tasks.start(serve)
        connectable = CuttingConnectable(address, channels * size // max(cuts, 1), cuts)
        is_good = await run_client(connectable, host_key, user_key, channels, size)
        tasks.cancel_scope.cancel()
    if not is_good:
        return BAD
    if connectable.cuts < cuts:
        return f"{GOOD}, but was over after {connectable.cuts} cuts; move more with --mib"
    return GOOD


def main(arguments: Sequence[str]) -> int:
    """Run the demo; return 0 if every byte arrived exactly once and in order, despite all cuts."""
    parser = argparse.ArgumentParser(
        prog="python -m anyssh demo",
        description="One session whose network is cut again and again, and that loses no byte.",
    )
    parser.add_argument("--channels", type=int, default=2, help="how many at once (default 2)")
    parser.add_argument("--mib", type=int, default=256, help="MiB for each channel (default 256)")
    parser.add_argument("--cuts", type=int, default=24, help="at least so many (default 24)")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    options = parser.parse_args(arguments)
    if options.channels < 1 or options.mib < 1 or options.cuts < 0:
        parser.error("--channels and --mib must be at least 1, --cuts must not be negative")
    verdict = ""
    try:
        verdict = anyio.run(
            demo, options.channels, options.mib * MIB, options.cuts, backend=options.backend
        )
    except* KeyboardInterrupt:
        print("stopped before the end")
    if not verdict:
        return INTERRUPTED
    print(verdict)
    return 0 if verdict == GOOD else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
