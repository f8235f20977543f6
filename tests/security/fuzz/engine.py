"""Runs one target under atheris; :mod:`tests.security.fuzz.__main__` starts it as a process.

It is a script, as the package must not be imported before atheris instruments it.
"""

from __future__ import annotations

import importlib
import math
import os
import pkgutil
import signal
import sys
import time
import zlib
from pathlib import Path
from types import FrameType

WATCHED = tuple(
    f"anyssh.{name}"
    for name in ("algorithms", "contour", "forwarding", "keys", "messages", "protocol", "session")
)
sys.path[0] = str(Path(__file__).parents[3])

import atheris  # noqa: E402

with atheris.instrument_imports(include=["anyssh"], enable_loader_override=False):
    import anyssh

    for module in pkgutil.walk_packages(anyssh.__path__, "anyssh."):
        if module.name.startswith(WATCHED):  # many are loaded only when they are needed
            importlib.import_module(module.name)
    from tests.security.fuzz import TARGETS
    from tests.security.fuzz.oracle import Finding, judge
    from tests.security.fuzz.scripts import Script, mutate

SLACK = 8
"""Code that is watched is so many times slower."""
MEASURED = 64
"""The memory of one input in so many is measured, which is slow."""
ENDLESS = 20.0
"""Seconds of processor time after which an input is stopped."""


def main(name: str, seconds: str, *arguments: str) -> None:
    """Fuzz the target for some seconds of processor time; ``arguments`` are those of libFuzzer."""
    target = TARGETS[name]
    end = time.process_time() + float(seconds)

    def one_input(data: bytes) -> None:
        nonlocal end
        signal.setitimer(signal.ITIMER_VIRTUAL, ENDLESS)
        judge(target, data, slack=SLACK, measure_memory=zlib.crc32(data) % MEASURED == 0)
        if time.process_time() > end:
            end = math.inf
            os.kill(os.getpid(), signal.SIGUSR1)  # libFuzzer ends after this input

    def changed(data: bytes, max_size: int, seed: int) -> bytes:
        return mutate(data, max_size, seed, stock, atheris.Mutate)

    options = {}
    if target.is_scripted:
        stock = [step for seed in target.seeds() for step in Script.decode(seed).steps]
        options["custom_mutator"] = changed
    signal.signal(signal.SIGVTALRM, stop)
    atheris.Setup([sys.argv[0], *arguments], one_input, **options)
    atheris.Fuzz()


def stop(_: int, __: FrameType | None) -> None:
    """End an input that would take for ever."""
    raise Finding(f"an input took more than {ENDLESS:g} s of processor time")


main(*sys.argv[1:])
