"""Scripts: what happens to a core, step by step, encoded as bytes.

Two bytes of options are followed by steps: a kind, two bytes of length, and that many bytes. Every
byte string is a script, as a truncated step just has the bytes that are there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

__all__ = ["Kind", "Script", "Step", "mutate"]

MAX_STEPS: Final = 24
OPTIONS: Final = 2
INTERESTING: Final = (0, 1, 2, 4, 5, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)


class Kind(IntEnum):
    """What a step does."""

    PAYLOAD = 0
    """The peer sends a payload, properly sealed."""
    NAMED = 1
    """It sends the message of that number in the scripted peer's list, well-formed."""
    ACTION = 2
    """The application above the core does something."""
    TIME = 3
    """Time passes, in eighths of a second."""
    RAW = 4
    """Bytes come that no peer has sealed."""


class Step(NamedTuple):
    """One step."""

    kind: Kind
    body: bytes = b""


class Script(NamedTuple):
    """Options, and what happens."""

    options: int
    steps: tuple[Step, ...]

    @classmethod
    def decode(cls, data: bytes) -> Script:
        """Read any bytes."""
        options = int.from_bytes(data[:OPTIONS], "big")
        steps = []
        offset = OPTIONS
        while offset < len(data) and len(steps) < MAX_STEPS:
            kind = Kind(data[offset] % len(Kind))
            size = int.from_bytes(data[offset + 1 : offset + 3], "big")
            steps.append(Step(kind, data[offset + 3 : offset + 3 + size]))
            offset += 3 + size
        return cls(options, tuple(steps))

    def encode(self) -> bytes:
        """Write the script."""
        parts = [self.options.to_bytes(OPTIONS, "big")]
        for kind, body in self.steps:
            parts += [bytes([kind]), len(body).to_bytes(2, "big"), body]
        return b"".join(parts)


def mutate(
    data: bytes,
    max_size: int,
    seed: int,
    stock: Sequence[Step],
    change: Callable[[bytes, int], bytes],
) -> bytes:
    """Return a script that differs from the one given in a step or two.

    :param stock: steps that may be put in
    :param change: changes bytes, to so many at most
    """
    chance = random.Random(seed)
    script = Script.decode(data)
    steps = list(script.steps) or [chance.choice(stock)]
    options = script.options
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        place = chance.randrange(len(steps))
        step = steps[place]
        match chance.randrange(10):
            case 0 | 1 | 2:
                steps[place] = step._replace(body=change(step.body, 1024))
            case 3 | 4:
                steps[place] = step._replace(body=_with_number(step.body, chance))
            case 5:
                steps.insert(chance.randrange(len(steps) + 1), step)
            case 6 if len(steps) > 1:
                del steps[place]
            case 7:
                other = chance.randrange(len(steps))
                steps[place], steps[other] = steps[other], steps[place]
            case 8:
                options ^= 1 << chance.randrange(8 * OPTIONS)
            case _:
                steps.insert(chance.randrange(len(steps) + 1), chance.choice(stock))
    encoded = Script(options, tuple(_short(steps))).encode()
    return encoded[:max_size]


def _short(steps: Iterable[Step]) -> Iterable[Step]:
    for step in list(steps)[:MAX_STEPS]:
        yield step._replace(body=step.body[: 2**16 - 1])


def _with_number(body: bytes, chance: random.Random) -> bytes:
    """Overwrite four bytes somewhere with a number that is likely to hurt."""
    place = chance.randrange(len(body) + 1)
    number = chance.choice((*INTERESTING, len(body), len(body) + 1, chance.randrange(8)))
    return body[:place] + number.to_bytes(4, "big") + body[place + 4 :]
