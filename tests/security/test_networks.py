"""Networks that fail between two processes: no link, one way only, slow, small packets (T-75).

Each end is a process in a network namespace of its own, with a pair of virtual interfaces between
them. Whatever happens to those, the client's records all come back, once and in order. Needs Linux,
root, and Debian's iproute2 and nftables.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .processes import End, Ends, ends

Figure = Callable[[str, str], None]

BACKENDS = ["asyncio", "trio"]
INTERVAL = 0.4
MISSED = 3
SERVER = "192.0.2.1"
OUTAGES = [5.0, 60.0] if "ANYSSH_KILLS" in os.environ else [2.0]
SLACK = 2.0
"""Seconds that a busy machine may be late."""


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


class Wire:
    """Two namespaces and what lies between them."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.near, self.far = f"{name}n", f"{name}f"
        for space in (self.near, self.far):
            run("ip", "netns", "add", space)
            stack.callback(run, "ip", "netns", "del", space)
        run(
            *("ip", "link", "add", "wire", "netns", self.near, "type", "veth"),
            *("peer", "name", "wire", "netns", self.far),
        )
        for space, address in ((self.near, "192.0.2.2"), (self.far, SERVER)):
            run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "wire")
            run("ip", "-n", space, "link", "set", "lo", "up")
        self.up()

    def up(self) -> None:
        for space in (self.near, self.far):
            run("ip", "-n", space, "link", "set", "wire", "up")

    def down(self) -> None:
        run("ip", "-n", self.far, "link", "set", "wire", "down")

    def drop(self, space: str) -> None:
        """Drop all that comes into a namespace, and nothing that leaves it."""
        rules = (
            "table inet t { chain i { type filter hook input priority 0; iifname wire drop; }; }"
        )
        run("ip", "netns", "exec", space, "nft", rules)

    def pass_again(self) -> None:
        for space in (self.near, self.far):
            run("ip", "netns", "exec", space, "nft", "flush ruleset")

    def packets_of(self, size: int) -> None:
        for space in (self.near, self.far):
            run("ip", "-n", space, "link", "set", "wire", "mtu", str(size))

    def slow_down(self, rate: str) -> None:
        for space in (self.near, self.far):
            queue = ("root", "tbf", "rate", rate, "burst", "4kb", "latency", "400ms")
            run("ip", "netns", "exec", space, "tc", "qdisc", "add", "dev", "wire", *queue)


def _why_not() -> str | None:
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if missing := [name for name in ("ip", "nft") if shutil.which(name) is None]:
        return f"not here: {', '.join(missing)}; on Debian: apt-get install iproute2 nftables"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        run("ip", "netns", "add", f"anyssh{os.getpid()}t")
        run("ip", "netns", "del", f"anyssh{os.getpid()}t")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode(errors='replace').strip()}"
    return None


@pytest.fixture(scope="module")
def _possible() -> None:
    reason = _why_not()
    if reason is not None:
        if "CI" in os.environ and sys.platform == "linux":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def wire(_possible: None) -> Iterator[Wire]:
    with ExitStack() as stack:
        yield Wire(f"anyssh{os.getpid()}", stack)


@pytest.fixture
def start(tmp_path: Path, wire: Wire) -> Iterator[Ends]:
    with ends(tmp_path) as started:
        yield started


def pair(start: Ends, wire: Wire, backend: str, pause: float = 0.01) -> tuple[End, End]:
    options = {"backend": backend, "keep_alive": INTERVAL, "host": SERVER, "pause": pause}
    server, port = start.server(inside=("ip", "netns", "exec", wire.far), **options)
    inside = ("ip", "netns", "exec", wire.near)
    client = start.start("client", inside=inside, port=port, **options)
    client.goes_on(50)
    return server, client


def assert_whole(client: End) -> None:
    """All records come back, in the one session that there was."""
    client.goes_on(100)
    assert client.stop()
    assert not any("error" in fact for fact in client.told)
    assert len([fact for fact in client.told if "session" in fact]) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("outage", OUTAGES)
def test_a_link_that_is_down(
    start: Ends, wire: Wire, outage: float, backend: str, figure: Figure
) -> None:
    server, client = pair(start, wire, backend)
    wire.down()
    went_down = time.monotonic()
    for end in (client, server):
        lost = end.expect("lost")["at"] - went_down
        figure(f"seconds until it is noticed, signs of life every {INTERVAL}", f"{lost:.1f}")
        assert lost <= (MISSED + 1) * INTERVAL + SLACK
    client.listen(outage - (time.monotonic() - went_down))
    wire.up()
    client.expect("reconnected")
    assert_whole(client)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("deaf", ["client", "server"])
def test_a_network_that_drops_one_way(
    start: Ends, wire: Wire, deaf: str, backend: str, figure: Figure
) -> None:
    """HR-59: the one that hears nothing gives the stream up, and both go on over another."""
    server, client = pair(start, wire, backend)
    wire.drop(wire.near if deaf == "client" else wire.far)
    dropped = time.monotonic()
    lost = (client if deaf == "client" else server).expect("lost")["at"] - dropped
    figure(f"seconds until it is noticed, signs of life every {INTERVAL}", f"{lost:.1f}")
    assert lost <= (MISSED + 1) * INTERVAL + SLACK
    wire.pass_again()
    client.expect("reconnected")
    assert_whole(client)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_short_outage(start: Ends, wire: Wire, backend: str) -> None:
    """Shorter than signs of life take to be missed, it costs nothing but time."""
    _, client = pair(start, wire, backend)
    for _ in range(3):
        wire.drop(wire.near)
        client.listen(INTERVAL / 4)
        wire.pass_again()
        client.goes_on(50)
    assert_whole(client)
    assert not any("lost" in fact for fact in client.told)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slow_network_of_small_packets(start: Ends, wire: Wire, backend: str) -> None:
    _, client = pair(start, wire, backend, pause=0.0)
    wire.packets_of(600)
    wire.slow_down("512kbit")
    client.goes_on(200)
    assert_whole(client)
    assert not any("lost" in fact for fact in client.told)
