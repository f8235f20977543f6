"""The demonstration: does it do what it says, and would it notice if it did not?"""

from __future__ import annotations

import subprocess
import sys

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
