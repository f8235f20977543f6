"""What every input must satisfy, whichever target takes it.

* Nothing is raised except what the target expects of its part, which is up to the target.
* Processor time is bounded by :data:`SECONDS`. An input that takes longer is tried again, as the
  first one of its kind may import a module.
* The memory allocated at any time is bounded by :attr:`Target.memory`.
"""

from __future__ import annotations

import base64
import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Finding", "Target", "judge", "load_corpus", "save_corpus"]

SECONDS: Final = 0.05
"""Of processor time for one input, on a machine that does nothing else with it."""
TRIES: Final = 5
KIBIBYTE: Final = 1024
MEMORY: Final = 512 * KIBIBYTE
MEMORY_PER_BYTE: Final = 64
CORPUS: Final = Path(__file__).with_name("corpus")


class Finding(AssertionError):
    """Something that must not be."""


@dataclass(frozen=True)
class Target:
    """One part of anyssh that foreign bytes come to.

    :ivar prepare: makes what has to be there before the bytes come; what it returns takes them
    :ivar seeds: inputs that make sense, to begin with
    :ivar is_scripted: whether inputs are scripts
    :ivar kinds: of how many kinds inputs are, by their first byte; each has inputs of its own kept
    :ivar memory: bytes that may be allocated, besides :data:`MEMORY_PER_BYTE`
    """

    name: str
    prepare: Callable[[bytes], Callable[[], None]]
    seeds: Callable[[], Iterable[bytes]]
    is_scripted: bool = False
    kinds: int = 1
    memory: int = MEMORY


def judge(target: Target, data: bytes, *, slack: float = 1.0, measure_memory: bool = True) -> None:
    """Give an input to a target.

    :param slack: how many times longer it may take
    :raises Finding: it took too long or too much memory, or the target says so
    """
    limit = SECONDS * slack
    taken = limit
    for _ in range(TRIES):
        taken = min(taken, _seconds(target.prepare(data)))
        if taken < limit:
            break
    else:
        raise Finding(f"{len(data)} bytes took more than {limit:g} s of processor time")
    if measure_memory:
        peak = _peak(target.prepare(data))
        allowed = target.memory + MEMORY_PER_BYTE * len(data)
        if peak > allowed:
            raise Finding(f"{len(data)} bytes made us allocate {peak}; {allowed} are allowed")


def _seconds(run: Callable[[], None]) -> float:
    start = time.thread_time()
    run()
    return time.thread_time() - start


def _peak(run: Callable[[], None]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def load_corpus(name: str, folder: Path = CORPUS) -> list[bytes]:
    """Return the inputs that are kept for a target."""
    return [base64.b64decode(line) for line in _file(name, folder).read_text().splitlines()]


def save_corpus(name: str, inputs: Iterable[bytes], folder: Path = CORPUS) -> None:
    """Keep inputs for a target, in an order that depends on nothing else."""
    lines = sorted((base64.b64encode(data).decode() for data in inputs), key=lambda x: (len(x), x))
    _file(name, folder).write_text("".join(f"{line}\n" for line in lines))


def _file(name: str, folder: Path) -> Path:
    return folder / f"{name}.txt"
