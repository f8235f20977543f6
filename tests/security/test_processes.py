"""Processes that are killed, stopped and continued, run out of files, or see the clock jump.

Both ends are real processes over TCP. A client sends numbered records and checks that each comes
back once, in order; whatever happens, it either continues or learns of one definite end.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from anyssh.protocol import Core, Role
from anyssh.protocol.connection import Connection
from tests.session.life_support import fast

from .processes import End, Ends, ends

Figure = Callable[[str, str], None]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts by /proc, signals of POSIX")

BACKENDS = ["asyncio", "trio"]
KEEP_ALIVE = 0.5
NIGHTLY = int(os.environ.get("ANYSSH_KILLS", "0"))
LENIENT = {"unauthenticated": 1000, "early_drop_from": 1000}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Ends]:
    with ends(tmp_path) as started:
        yield started


def pair(start: Ends, **options: Any) -> tuple[End, End, int]:
    server, port = start.server(**options)
    client = start.start("client", port=port, **options)
    client.goes_on(50)
    return server, client, port


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_server_that_is_killed(start: Ends, backend: str, figure: Figure) -> None:
    """T-73: its successor knows no session, says so, and the client begins a new one."""
    server, client, port = pair(start, backend=backend)
    source = random.Random(73)
    times = []
    for _ in range(NIGHTLY or 2):
        client.listen(source.uniform(0, 0.3))
        server.kill()
        killed = time.monotonic()
        server, _ = start.server(port=port, backend=backend)
        error = client.expect("error")
        assert error["error"] == "ReconnectError", error
        times.append(error["at"] - killed)
        assert times[-1] < 30
        client.expect("session")
        client.goes_on(50)
    figure(f"seconds until the client knows, the longest of {len(times)}", f"{max(times):.1f}")
    assert client.stop()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_client_that_is_killed(start: Ends, backend: str, figure: Figure) -> None:
    """T-73, HR-61: its session waits for its time, then nothing of it is left."""
    limits = {"disconnected_time": 0.5}
    server, port = start.server(backend=backend, limits=limits)
    before = server.usage()
    for _ in range(NIGHTLY or 2):
        client = start.start("client", port=port, backend=backend)
        client.goes_on(50)
        assert server.usage()["sessions"] == 1
        client.kill()
        server.expect("lost")
        server.expect("gone", 10)
    wanted = {name: before[name] for name in ("sessions", "tasks", "files")}
    deadline = time.monotonic() + 10  # the session is told to be gone a little before it is
    while (after := {name: server.usage()[name] for name in wanted}) != wanted:
        assert time.monotonic() < deadline, (after, wanted)
    figure(f"sessions, tasks, files more than before, after {NIGHTLY or 2} clients", "0, 0, 0")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("who", ["server", "client"])
def test_an_end_that_is_stopped_for_a_while(start: Ends, who: str, backend: str) -> None:
    """T-73: the stream is given up for its silence; the session goes on where it was."""
    server, client, _ = pair(start, backend=backend, keep_alive=KEEP_ALIVE)
    stopped, other = (server, client) if who == "server" else (client, server)
    stopped.pause()
    other.expect("lost")
    stopped.listen(30 if NIGHTLY else 1)
    stopped.resume()
    client.expect("reconnected")
    client.goes_on()
    assert client.stop()
    assert not any("error" in fact for fact in client.told)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_end_that_is_stopped_briefly(start: Ends, backend: str) -> None:
    """T-73: shorter than signs of life take to be missed, it costs nothing but time."""
    server, client, _ = pair(start, backend=backend)
    for end in (server, client, server):
        end.pause()
        time.sleep(0.3)  # not for the sake of synchronisation: it is what is tested
        end.resume()
        client.goes_on(50)
    assert client.stop()
    assert not any("lost" in fact or "error" in fact for fact in client.told)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_server_that_has_no_more_files(start: Ends, backend: str, figure: Figure) -> None:
    """T-15, HR-81: who is in stays in, nobody spins, others come in once there is room."""
    files = 64
    server, client, port = pair(start, backend=backend, files=files, server_limits=LENIENT)
    with ExitStack() as crowd:
        for _ in range(files + 40):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        client.goes_on(50)
        before = server.usage()
        assert before["files"] >= files - 3
        client.pause()
        server.listen(2)
        after = server.usage()
        client.resume()
        used = after["processor"] - before["processor"]
        figure("processor time in 2 s without a free file", f"{used * 1000:.0f} ms")
        assert used < 0.2
        client.goes_on(50)
    another = start.start("client", port=port, backend=backend)
    another.goes_on(50)
    assert another.stop()
    assert client.stop()
    assert not any("lost" in fact or "error" in fact for fact in client.told)


def first_words() -> bytes:
    """Return all that a client can say before it has heard anything, its share included."""
    config = fast(guess_key_exchange=True)
    core = Core(
        Role.CLIENT,
        config,
        now=0.0,
        random=os.urandom,
        identification="SSH-2.0-flood",
        connection=Connection(config),
    )
    return core.data_to_send(0.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("limits", ["default", "none"])
def test_a_flood_of_handshakes(start: Ends, backend: str, limits: str, figure: Figure) -> None:
    """T-16, HR-83: 200 each second, served or refused; who is in hardly notices, nothing stays."""
    server_limits = {"exempt": []} if limits == "default" else LENIENT
    server, port = start.server(backend=backend, server_limits=server_limits)
    client = start.start("client", port=port, backend=backend)
    client.goes_on(50)
    words, seconds, open_at_once, rate = first_words(), 15 if NIGHTLY else 3, 50, 200
    with ExitStack() as stack:
        crowd: deque[socket.socket] = deque()
        before = server.usage()
        started = time.monotonic()
        for number in range(seconds * rate):
            if len(crowd) == open_at_once:
                crowd.popleft().close()
            crowd.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)))
            with suppress(ConnectionError):  # a server that refuses hangs up
                crowd[-1].sendall(words)
            time.sleep(max(0.0, started + number / rate - time.monotonic()))
        after = server.usage()
        if limits == "none":  # it was served up to the new keys, when its turn came
            answer = b""
            crowd[-1].settimeout(60)
            while b"\0\0\0\x0bssh-ed25519\0" not in answer:
                answer += (received := crowd[-1].recv(4096))
                assert received, answer
    client.goes_on(50)
    assert after["sessions"] == 1
    # Some hundred are there at any moment: those that are open, and those that end.
    assert after["resident"] - before["resident"] < 48 * 1024 * 1024
    deadline = time.monotonic() + 30
    while (left := server.usage())["tasks"] > before["tasks"] or left["files"] > before["files"]:
        assert time.monotonic() < deadline, (left, before)
    assert client.stop()
    assert not any("lost" in fact or "error" in fact for fact in client.told)
    latency = next(fact["latency"] for fact in client.told if "latency" in fact)
    figure("latency beside it, on average and at most", "{1:.1f} and {2:.1f} ms".format(*latency))
    assert latency[1] < 500


DAY = 24 * 3600


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wall_clock_that_jumps(start: Ends, backend: str, tmp_path: Path, figure: Figure) -> None:
    """T-74: nothing is lost, no sign of life is missed, no latency is out of this world."""
    library = _faketime()
    clock = tmp_path / "clock"
    environment = {
        **os.environ,
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    clock.write_text("+0d\n")
    _, client, _ = pair(start, backend=backend, environment=environment, keep_alive=KEEP_ALIVE)
    for days in (1, -1, 0, 2, -30):
        _replace(clock, f"{days:+}d\n")
        jumped = client.expect(lambda fact, days=days: abs(_days(fact) - days) < 0.1)
        assert "echoed" in jumped
        client.goes_on()
    assert client.stop()
    latency = next(fact["latency"] for fact in client.told if "latency" in fact)
    assert all(0 <= milliseconds < 30_000 for milliseconds in latency), latency
    figure(
        "latency while the clock jumps by days, at least and at most",
        "{0:.1f} and {2:.1f} ms".format(*latency),
    )
    assert not {"lost", "error", "missed"} & {name for fact in client.told for name in fact}


def _days(fact: dict[str, Any]) -> float:
    """Return how far the clock of a process is ahead of ours."""
    return float((fact.get("wall", float("inf")) - time.time()) / DAY)


def _replace(path: Path, text: str) -> None:
    """Write a file that others may read at any moment."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def _faketime() -> str:
    for path in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"):
        return str(path)
    if "CI" in os.environ:
        pytest.fail("libfaketime is not here; on Debian: apt-get install faketime")
    pytest.skip("libfaketime is not here; on Debian: apt-get install faketime")
