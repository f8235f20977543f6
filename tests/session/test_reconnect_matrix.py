"""One session, cut at every byte: nothing is lost, duplicated or reordered.

The scripted session of :mod:`.reconnect_script` runs over a connection that ends after so many
bytes in one direction, for every such number; then over one that is cut in the middle, and whose
successor is cut after so many bytes, during the reconnect itself and after. The property: each side
sees exactly what the other did; a session that was not yet established fails with one definite
error.

``ANYSSH_CUT_STRIDE=1`` tries every byte; the default stride takes some of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import anyio
import pytest

import anyssh
from anyssh.testing import Cut, Direction, Ending, Fault, Report, Stall

from .life_support import wait_for
from .reconnect_script import client_script, server_script
from .reconnect_support import LIMIT, World, reconnecting, world

STRIDE = int(os.environ.get("ANYSSH_CUT_STRIDE", "41"))
CONFIG = reconnecting(window_size=2048, max_packet_size=1024)
WATCHFUL = CONFIG.replace(keep_alive_interval=2.0)
PATIENCE = 600.0
"""Seconds of a clock that jumps."""
MIDDLE = 7000
"""Where the first of two cuts is: all channels are open, and new keys have been exchanged."""

ENDS = [
    pytest.param(Ending.RESET, Report.ERROR, id="reset"),
    pytest.param(Ending.EOF, Report.SUCCESS, id="orderly"),
]
Plans = Sequence[Iterable[Fault]]

pytestmark = [pytest.mark.timeout(3600 if STRIDE < 10 else 120), pytest.mark.blocking_allowed]


async def run_script(
    plans: Plans = (),
    *,
    config: anyssh.SessionConfig = CONFIG,
    by_itself: bool = False,
    limit: float = LIMIT,
) -> World:
    """Run the script to its end over connections with these plans.

    :param by_itself: whether the client looks for streams by itself
    """
    with anyio.fail_after(limit):
        async with world(server_script, plans, config=config) as made:
            while not await _ran_in_one_session(made, by_itself):
                pass
            if not made.network.last.near.is_cut:  # or the goodbye may have been lost
                await wait_for(lambda: made.server_sessions[-1] not in made.busy)
            # Others are of clients that never learned that they were let in.
            assert made.server_sessions[-1] not in made.failures
            return made


async def _ran_in_one_session(made: World, by_itself: bool) -> bool:
    """Run the client's part; return False when the cut came before there was a session."""
    transport = made.network if by_itself else await made.network.connect()
    is_entered = False
    try:
        async with made.client(transport) as session:
            is_entered = True
            first = len(made.network.connections)
            async with anyio.create_task_group() as tasks:
                if not by_itself:
                    tasks.start_soon(made.keep_connected, session)
                await client_script(session)
                tasks.cancel_scope.cancel()
            tried = len(made.network.connections) - first
            assert session.metrics.reconnections <= tried
            assert (session.metrics.reconnections > 0) == (tried > 0)
    except anyssh.SSHError:
        if is_entered:
            raise
        return False
    return True


async def survive(plans: list[list[Fault]], **options: Any) -> None:
    try:
        await run_script(plans, **options)
    except BaseException as error:
        error.add_note(f"the plans were {plans}")
        raise


async def test_the_script_itself() -> None:
    made = await run_script()
    assert len(made.network.connections) == 1


@pytest.mark.parametrize("end,report", ENDS)
@pytest.mark.parametrize("direction", Direction)
async def test_one_cut(direction: Direction, end: Ending, report: Report) -> None:
    """T-56."""
    near = (await run_script()).network.last.near
    total = near.bytes_sent if direction is Direction.SEND else near.bytes_received
    assert total > 10_000
    # The two kinds of ends share the bytes, unless each byte is tried.
    stride = STRIDE if STRIDE == 1 else 2 * STRIDE
    for after in range(STRIDE if end is Ending.EOF and stride > 1 else 0, total, stride):
        await survive([[Cut(direction, after, end, report)]])


@pytest.mark.parametrize("first", Direction)
@pytest.mark.parametrize("second", Direction)
async def test_a_second_cut_during_the_reconnect(first: Direction, second: Direction) -> None:
    """T-56: at each message boundary and between."""
    cut = Cut(first, MIDDLE)
    made = await run_script([[cut]])
    assert len(made.network.connections) == 2
    near = made.network.last.near
    total = near.bytes_sent if second is Direction.SEND else near.bytes_received
    assert total > 2000
    for after in range(0, min(total, 4000), STRIDE):
        await survive([[cut], [Cut(second, after)]])


async def test_many_cuts_in_a_row() -> None:
    plans: list[list[Fault]] = [
        [Cut(direction, 3000 + 211 * number)] for number in range(10) for direction in Direction
    ]
    await survive(plans)


# On a clock that jumps: waiting costs nothing


@pytest.mark.trio
@pytest.mark.parametrize("direction", Direction)
async def test_a_client_that_looks_for_streams_itself(
    autojump_clock: object, direction: Direction
) -> None:
    for after in range(0, 11_000, 5 * STRIDE):
        await survive([[Cut(direction, after)]], by_itself=True, limit=PATIENCE)
        plans = [[Cut(direction, MIDDLE)], [Cut(direction, after // 3)]]
        await survive([*plans, [Cut(Direction.RECEIVE, 100)]], by_itself=True, limit=PATIENCE)


@pytest.mark.trio
@pytest.mark.parametrize("stalled", [[Direction.SEND], [Direction.RECEIVE], [*Direction]])
async def test_a_stream_that_dies_silently(
    autojump_clock: object, stalled: list[Direction]
) -> None:
    """Nobody is told; signs of life are missed, wherever the stream had come to."""
    options: dict[str, Any] = {"by_itself": True, "config": WATCHFUL, "limit": PATIENCE}
    for after in range(0, 11_000, 3 * STRIDE):
        dead: list[Fault] = [Stall(direction, after) for direction in stalled]
        await survive([dead], **options)
        if after < 2500:
            await survive([[Cut(Direction.SEND, MIDDLE)], dead], **options)
