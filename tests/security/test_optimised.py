"""T-63: what P0 promises holds under ``python -O`` too (HR-08).

There, pytest still rewrites the asserts of tests and their helpers into statements that remain. The
package has none, as :mod:`tests.unit.test_imports` checks. Some quick parts of P0 run here, in a
process of their own; ``nox -s optimised`` runs all of it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUIET = ("-W", "ignore:assertions not in test modules:pytest.PytestConfigWarning")
SAMPLE = """
from tests.protocol.core_pair import CLIENT, running_pair
from anyssh.wire import byte

def test_that_passes():
    running_pair().assert_usable()

def test_that_fails():
    assert byte(1) == byte(2)

def test_whose_helper_fails():
    running_pair().termination(CLIENT)  # has an assertion, and nothing was terminated
    raise KeyError("the assertion is gone")

def test_that_it_is_optimised():
    exec("assert False")
    if __debug__:
        raise KeyError("not optimised")
"""
QUICK = (
    "tests/unit/test_packet_protection.py",
    "tests/protocol/test_reconnect_liars.py",
    "tests/protocol/test_server_authentication.py",
    "tests/protocol/test_channels.py",
    "tests/protocol/test_requests.py",
)
"""P0 in so far as it takes seconds."""


def run_optimised(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider", *QUIET]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.timeout(300)
def test_tests_can_fail_without_asserts(tmp_path: Path) -> None:
    sample = tmp_path / "test_sample.py"
    sample.write_text(SAMPLE)
    config = ("-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}", "-p", "tests.conftest")
    output = run_optimised(*config, str(sample)).stdout
    assert "2 failed, 2 passed" in output, output
    assert "test_that_fails - " in output
    assert "test_whose_helper_fails - " in output
    assert "KeyError" not in output.rpartition("short test summary")[2]


@pytest.mark.timeout(300)
def test_promises_hold_without_asserts() -> None:
    done = run_optimised(*QUICK)
    assert done.returncode == 0, done.stdout
