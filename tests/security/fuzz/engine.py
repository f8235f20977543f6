"""Runs one target under atheris; :mod:`tests.security.fuzz.__main__` starts it, as a process.

It is a script, as the package may only be imported once atheris watches what anyssh does.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import zlib
from pathlib import Path

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
    from tests.security.fuzz.oracle import judge
    from tests.security.fuzz.scripts import Script, mutate

SLACK = 8
"""Code that is watched is so many times slower."""
MEASURED = 64
"""The memory of one input in so many is measured, which is slow."""


def main(name: str, *arguments: str) -> None:
    """Fuzz the target until libFuzzer has enough; ``arguments`` are those of libFuzzer."""
    target = TARGETS[name]

    def one_input(data: bytes) -> None:
        judge(target, data, slack=SLACK, measure_memory=zlib.crc32(data) % MEASURED == 0)

    def changed(data: bytes, max_size: int, seed: int) -> bytes:
        return mutate(data, max_size, seed, stock, atheris.Mutate)

    options = {}
    if target.is_scripted:
        stock = [step for seed in target.seeds() for step in Script.decode(seed).steps]
        options["custom_mutator"] = changed
    atheris.Setup([sys.argv[0], *arguments], one_input, **options)
    atheris.Fuzz()


main(*sys.argv[1:])
