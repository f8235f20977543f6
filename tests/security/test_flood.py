"""A flood of connections during an established session, as ``ssh-audit`` causes it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

import anyssh
from tests.interop.scanning import require_program, scanned

Figure = Callable[[str, str], None]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


ROUNDS = 10.0
"""Seconds of the flood."""
SLOWEST = 0.05
"""Seconds that 99 of 100 echoes stay below."""
GROWTH = 32 * 1024 * 1024
"""Bytes that the process may grow by after the flood's first second."""


def resident_memory() -> int:
    """Return the bytes of memory that this process has, by Linux's account."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def flooding(program: str, port: int) -> AsyncIterator[None]:
    """Let the scanner make connections as fast as it can, sixteen at a time."""
    command = [program, "--conn-rate-test", "16", "-p", str(port), "127.0.0.1"]
    async with await anyio.open_process(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("exempt", [True, False], ids=["each one is let in", "penalised"])
async def test_an_echo_goes_on_in_a_flood(exempt: bool, figure: Figure) -> None:
    """T-16: an established session is as quick as before, memory stays as it was."""
    ssh_audit = require_program("ssh-audit", "pip install ssh-audit")
    limits = anyssh.ServerLimits() if exempt else anyssh.ServerLimits(exempt=())
    times: list[float] = []
    async with scanned(limits) as server:
        mine = anyssh.ClientCredentials("alice", password=server.password)
        verify = anyssh.pin(server.keys["ssh-ed25519"].fingerprint)
        stream = await anyio.connect_tcp("127.0.0.1", server.port)
        async with (
            anyssh.ClientSession.connect(stream, credentials=mine, verify_host=verify) as session,
            await session.open_channel() as channel,
            flooding(ssh_audit, server.port),
        ):
            before = None
            end = time.monotonic() + ROUNDS
            while (start := time.monotonic()) < end:
                await channel.send(b"x" * 64)
                assert await channel.receive()
                times.append(time.monotonic() - start)
                await anyio.sleep(0.002)
                if before is None and start > end - ROUNDS + 1:
                    before = resident_memory()
            after = resident_memory()
        statistics = server.server.statistics
    times.sort()
    p99 = times[len(times) * 99 // 100]
    assert before is not None
    figure(f"connections in {ROUNDS:.0f} s, let in", f"{statistics.total_connections:,}")
    figure("ms that 99 of 100 echoes stay below meanwhile", f"{p99 * 1000:.1f}")
    figure("KiB that the process grows by", f"{(after - before) // 1024:,}")
    assert p99 < SLOWEST
    assert after - before < GROWTH
