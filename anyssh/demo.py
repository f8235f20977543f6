"""``python -m anyssh demo``: a server and a client in one program, with real sockets between them.

An authenticated, encrypted session over loopback TCP carries several channels at once; each moves
random data to the server and back, and both ends' hashes are compared.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from dataclasses import dataclass

import anyio
from anyio.abc import SocketAttribute, TaskStatus

import anyssh

__all__ = ["main"]

CHUNK_BYTES = 256 * 1024
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one channel moved.

    :ivar sent_hash: of what the client sent
    :ivar server_hash: of what the server says that it received
    :ivar returned_hash: of what came back to the client
    """

    name: str
    size: int
    seconds: float
    sent_hash: str
    server_hash: str
    returned_hash: str

    @property
    def is_good(self) -> bool:
        """Whether every byte arrived, both ways."""
        return self.sent_hash == self.server_hash == self.returned_hash

    def __str__(self) -> str:
        rate = 2 * self.size / MIB / self.seconds
        verdict = "equal" if self.is_good else "DIFFERENT"
        return (
            f"  {self.name}: {self.size / MIB:.0f} MiB there and back, {rate:.0f} MiB/s, "
            f"SHA-256 {self.sent_hash[:16]}… {verdict}"
        )


async def echo(channel: anyssh.Channel) -> None:
    """Send everything back, then tell its hash as standard error."""
    digest = hashlib.sha256()
    async for chunk in channel:
        digest.update(chunk)
        await channel.send(chunk)
    await channel.send_stderr(digest.hexdigest().encode())
    await channel.aclose(exit_status=0)


async def transfer(session: anyssh.ClientSession, name: str, size: int) -> Transfer:
    """Move ``size`` bytes to the server and back over a channel of their own."""
    sent, returned = hashlib.sha256(), hashlib.sha256()
    start = time.perf_counter()
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
        server_hash = b"".join([chunk async for chunk in channel.stderr]).decode()
    seconds = time.perf_counter() - start
    return Transfer(name, size, seconds, sent.hexdigest(), server_hash, returned.hexdigest())


async def demo(channels: int, size: int) -> bool:
    """Run the server and the client; return whether every hash was equal."""
    host_key = anyssh.generate_key("ssh-ed25519", comment="demo host key")
    user_key = anyssh.generate_key("ssh-ed25519", comment="demo user key")

    async def authenticate(attempt: anyssh.AuthAttempt) -> str | None:
        match attempt:
            case anyssh.PublicKeyAttempt(username="alice", public_key=key) if key == user_key:
                return "alice"
        return None

    async def handle(session: anyssh.ServerSession) -> None:
        print(f"server: {session.principal} is in, with {session.peer_version}")
        await session.serve(echo)

    server = anyssh.Server(host_keys=[host_key], authenticate=authenticate)

    async def serve(*, task_status: TaskStatus[int]) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            task_status.started(listener.extra(SocketAttribute.local_port))
            await server.serve(listener, handle)

    async with anyio.create_task_group() as tasks:
        port = await tasks.start(serve)
        print(f"server: listening on 127.0.0.1:{port}, host key {host_key.fingerprint}")
        results = await run_client(port, host_key, user_key, channels, size)
        tasks.cancel_scope.cancel()
    return all(result.is_good for result in results)


async def run_client(
    port: int, host_key: anyssh.Key, user_key: anyssh.Key, channels: int, size: int
) -> list[Transfer]:
    """Connect, move data over every channel at once, print figures."""
    start = time.perf_counter()
    async with anyssh.ClientSession.connect(
        await anyio.connect_tcp("127.0.0.1", port),
        credentials=anyssh.ClientCredentials("alice", keys=[user_key]),
        verify_host=anyssh.pin(host_key.fingerprint),
    ) as session:
        milliseconds = (time.perf_counter() - start) * 1000
        print(f"client: connected and authenticated in {milliseconds:.1f} ms")
        print(f"client: {session.algorithms}")
        results: list[Transfer] = []

        async def move(number: int) -> None:
            results.append(await transfer(session, f"channel {number}", size))

        start = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number in range(1, channels + 1):
                tasks.start_soon(move, number)
        seconds = time.perf_counter() - start
        for result in sorted(results, key=lambda result: result.name):
            print(result)
        moved = 2 * channels * size / MIB
        print(f"client: {moved:.0f} MiB in {seconds:.2f} s, {moved / seconds:.0f} MiB/s in all")
        metrics = session.metrics
        print(
            f"client: {metrics.messages_sent} packets sent, {metrics.messages_received} received, "
            f"{metrics.bytes_sent + metrics.bytes_received} bytes on the wire"
        )
        return results


def main(arguments: list[str]) -> int:
    """Run the demo; return 0 if every byte arrived."""
    parser = argparse.ArgumentParser(prog="anyssh demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--channels", type=int, default=4, help="how many at once (default 4)")
    parser.add_argument("--mib", type=int, default=32, help="MiB for each channel (default 32)")
    parser.add_argument("--backend", choices=("asyncio", "trio"), default="asyncio")
    options = parser.parse_args(arguments)
    if options.channels < 1 or options.mib < 1:
        parser.error("--channels and --mib must be at least 1")
    try:
        is_good = anyio.run(demo, options.channels, options.mib * MIB, backend=options.backend)
    except* KeyboardInterrupt:
        is_good = False
    print("every byte arrived, both ways" if is_good else "BYTES WERE LOST OR CHANGED")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
