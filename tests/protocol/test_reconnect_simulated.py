"""Long random lives of one session: many losses, with much of everything in between.

The rules are those of :mod:`.test_reconnect_stateful`. Drawn with weights, 250 at a time, they
cause about six reconnects in each life, while Hypothesis tends to short stories. A failure is
reduced, and shown as the calls that reproduce it.

``ANYSSH_LIVES=20000`` runs that many lives, starting with ``ANYSSH_FIRST_LIFE``.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import pytest

from .core_pair import CLIENT, SERVER
from .test_connection_stateful import WINDOW
from .test_reconnect_stateful import Machine

LIVES = int(os.environ.get("ANYSSH_LIVES", "25"))
FIRST = int(os.environ.get("ANYSSH_FIRST_LIFE", "0"))
STEPS = 250
ENDINGS: list[list[Any]] = [[], [CLIENT], [SERVER], [CLIENT, SERVER]]

Draw = Callable[[Random], Any]
Step = tuple[str, dict[str, Any]]


def role(random: Random) -> Any:
    return random.choice([CLIENT, SERVER])


def pick(random: Random) -> int:
    return random.randrange(100)


def yes(random: Random) -> bool:
    return random.random() < 0.5


def below(*limits: int) -> Draw:
    """Draw a number of one of several magnitudes."""
    return lambda random: random.randrange(1, random.choice(limits) + 1)


def one_of(*values: Any) -> Draw:
    return lambda random: random.choice(values)


def kept(random: Random) -> tuple[int, int]:
    first, second = (random.choice([0, 200, 3000]) for _ in range(2))
    return random.randint(0, first), random.randint(0, second)


def pieces(count: int, size: int) -> Draw:
    return lambda random: [random.randint(1, size) for _ in range(random.randrange(count))]


class Action(NamedTuple):
    """A rule, how often it is drawn, and how its arguments are."""

    weight: float
    name: str
    arguments: dict[str, Draw]


ACTIONS = [
    Action(10, "some_bytes_arrive", {"sender": role, "size": below(100, 6000)}),
    Action(6, "everything_arrives", {}),
    Action(3, "time_passes", {"seconds": one_of(0.1, 1.1, 5.1)}),
    Action(3, "new_keys_are_wanted", {"role": role}),
    Action(3, "a_channel_is_asked_for", {"opener": role}),
    Action(1, "an_open_is_abandoned", {"pick": pick}),
    Action(4, "an_offer_is_answered", {"pick": pick, "is_accepted": one_of(True, True, False)}),
    Action(
        14,
        "data_is_sent",
        {"role": role, "pick": pick, "kind": one_of(0, 1), "size": below(1, 50, 2000, 3 * WINDOW)},
    ),
    Action(1, "a_sender_gives_up", {"role": role, "pick": pick}),
    Action(1, "no_more_is_sent", {"role": role, "pick": pick}),
    Action(8, "data_is_consumed", {"role": role, "pick": pick, "size": below(WINDOW)}),
    Action(
        2,
        "a_channel_is_closed",
        {
            "role": role,
            "pick": pick,
            "exit_": one_of((None, None), (0, None), (42, None), (None, "TERM")),
        },
    ),
    Action(
        6,
        "something_is_asked",
        {"role": role, "pick": pick, "of_channel": yes, "wants_reply": one_of(True, True, False)},
    ),
    Action(6, "a_request_is_decided", {"pick": pick, "is_success": yes}),
    Action(1, "a_caller_goes_away", {"pick": pick}),
    Action(4, "the_stream_is_cut", {"kept": kept, "noticed": one_of(*ENDINGS)}),
    Action(6, "a_side_notices", {"role": role, "pick": pick, "is_orderly": yes}),
    Action(4, "late_bytes_arrive", {"sender": role, "pick": pick, "size": below(3000)}),
    Action(4, "the_client_tries_in_vain", {"pieces": pieces(14, 2500), "kept": kept, "knows": yes}),
    Action(5, "the_client_comes_back", {"pieces": lambda random: []}),
    Action(5, "the_client_comes_back", {"pieces": pieces(8, 6000)}),
    Action(0.3, "a_bit_flips", {"sender": role, "offset": below(10**6), "bit": below(7)}),
]
RULES = {rule.function.__name__: rule for rule in Machine().rules}


def life(seed: int) -> list[Step]:
    """Draw what happens in a life; the same for the same number."""
    random = Random(seed)
    actions = random.choices(ACTIONS, [action.weight for action in ACTIONS], k=STEPS)
    return [
        (action.name, {name: draw(random) for name, draw in action.arguments.items()})
        for action in actions
    ]


def live(steps: list[Step]) -> Machine:
    """Do one step after the other, as far as each is possible."""
    machine = Machine()
    for name, arguments in steps:
        if all(holds(machine) for holds in RULES[name].preconditions):
            getattr(machine, name)(**arguments)
            machine.both_sides_run()
            machine.the_promise_is_kept()
            machine.windows_agree()
    machine.teardown()
    return machine


def failure(steps: list[Step]) -> tuple[str, int] | None:
    """Return where a life fails, None if it does not."""
    try:
        live(steps)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return last.filename, last.lineno or 0
    return None


def shortened(steps: list[Step]) -> list[Step]:
    """Leave out whatever a failure does not need."""
    expected = failure(steps)
    size = len(steps) // 2
    while size:
        start = 0
        while start < len(steps):
            without = steps[:start] + steps[start + size :]
            if failure(without) == expected:
                steps = without
            else:
                start += size
        size //= 2
    return steps


@pytest.mark.timeout(max(90, LIVES * 10))
def test_lives() -> None:
    """T-71."""
    reconnects = 0
    for seed in range(FIRST, FIRST + LIVES):
        steps = life(seed)
        try:
            machine = live(steps)
        except Exception as error:
            calls = "\n".join(f"    {step!r}," for step in shortened(steps))
            error.add_note(f"life {seed} fails, and so does this one:\n{calls}")
            raise
        reconnects += machine.pair.resumptions[CLIENT]
    assert reconnects > 3 * LIVES
