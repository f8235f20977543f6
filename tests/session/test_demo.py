"""The demonstration: does it do what it says, and would it notice if it did not?"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from anyssh.demo import Transfer
from anyssh.demo.display import Status


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_demo_loses_its_stream_and_no_byte(backend: str) -> None:
    command = [sys.executable, "-m", "anyssh", "demo", "--backend", backend]
    run = subprocess.run(
        [*command, "--mib", "8", "--cuts", "5"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("equal on both sides") == 2
    assert "the stream was cut 5 times" in run.stdout
    assert run.stdout.endswith("every byte arrived, once and in order\n")
    assert run.stderr == ""


def test_more_cuts_than_there_is_time_for() -> None:
    """Nothing is lost, and nothing else is said."""
    command = [sys.executable, "-m", "anyssh", "demo", "--channels", "1", "--mib", "1"]
    run = subprocess.run(
        [*command, "--cuts", "2000000"], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 1, run.stdout + run.stderr
    last = run.stdout.splitlines()[-1]
    assert re.fullmatch(
        r"every byte arrived, once and in order, but was over after \d+ cuts; move more with --mib",
        last,
    )


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Start programs such that SIGINT reaches them; a shell ignores it in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals of this kind")
@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_who_stops_the_demo_is_not_told_of_losses(backend: str) -> None:
    command = [sys.executable, "-m", "anyssh", "demo", "--backend", backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("client: connected"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "stopped before the end"


@pytest.mark.parametrize("hashes", [("a", "a", "b"), ("a", "b", "a"), ("b", "a", "a")])
def test_a_hash_that_differs_is_noticed(hashes: tuple[str, str, str]) -> None:
    result = Transfer("channel 1", 1, *hashes)
    assert not result.is_good
    assert "DIFFERENT" in str(result)


def test_a_status_is_one_line() -> None:
    status = Status(False, 0.5, 100.0, 1.5, 3, 2)
    assert " ".join(str(status).split()) == (
        "50% 100 MiB/s latency 1.50 ms 3 cuts 2 reconnections DISCONNECTED"
    )
