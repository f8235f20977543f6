"""Selects inputs that reach all the code that many inputs reach.

Code means pairs of lines of anyssh that run one after the other in one call. Inputs are examined in
order of size, and one is kept if it reaches something that none before it has.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import anyssh

from .oracle import Target

__all__ = ["reduce", "steps_of"]

PACKAGE: Final = str(Path(anyssh.__file__).parent)
LIMIT: Final = 64 * 1024
"""Bytes that are kept for a target, at most."""

Step = tuple[str, int, int]


def steps_of(target: Target, data: bytes) -> set[Step]:
    """Return the steps from line to line that an input makes a target take."""
    run = target.prepare(data)
    steps: set[Step] = set()
    last: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "return":
            last.pop(frame, None)
        else:
            line = frame.f_lineno
            steps.add((frame.f_code.co_filename, last.get(frame, 0), line))
            last[frame] = line
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return steps


def reduce(target: Target, inputs: Iterable[bytes]) -> list[bytes]:
    """Return those inputs that reach all that they reach together, as far as there is room."""
    reached: dict[int, set[Step]] = {kind: set() for kind in range(target.kinds)}
    kept: list[bytes] = []
    size = 0
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        steps = steps_of(target, data)
        before = reached[(data[0] if data else 0) % target.kinds]
        if steps <= before or size + len(data) > LIMIT:
            continue
        before |= steps
        kept.append(data)
        size += len(data)
    return kept
