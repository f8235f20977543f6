"""The diagrams of the documentation show the code's tables, and the code obeys the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any
from xml.etree import ElementTree

import pytest

from anyssh import LocalProtocolError, SessionConfig
from anyssh.protocol import Connection, Core
from anyssh.protocol.acceptance import NEXT_PHASES, TABLE, Disposition, Phase, Role, Row
from anyssh.protocol.channel import (
    NEXT_CHANNEL_PHASES,
    ChannelPhase,
    ChannelState,
    Half,
    ReceiveWindow,
)
from anyssh.session.links import NEXT_STATES, SessionState
from docs._diagrams import drawings

SVG = "{http://www.w3.org/2000/svg}"


class Step(Enum):
    ONE = auto()
    TWO = auto()
    """The second of them."""
    THREE = auto()


def read(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)


def words(picture: str) -> list[str]:
    return [element.text or "" for element in read(picture).iter(f"{SVG}text")]


def count(picture: str, shape: str, css: str) -> int:
    return sum(css in element.get("class", "").split() for element in read(picture).iter(shape))


def heads(picture: str) -> int:
    return count(picture, f"{SVG}polygon", "head")


@pytest.mark.parametrize("name", drawings.STATES)
def test_every_state_is_in_the_picture(name: str) -> None:
    shown = words(drawings.draw_states(name))
    for state in drawings.STATES[name]:
        assert drawings.spoken(state) in shown


def test_notes_come_from_the_code() -> None:
    assert drawings.notes_of(Step) == {"TWO": "The second of them."}
    assert "Not entered yet." in words(drawings.draw_states("session"))


FORWARD: Mapping[Step, Sequence[Step]] = {Step.ONE: (Step.TWO,), Step.TWO: (), Step.THREE: ()}


@pytest.mark.parametrize(
    "change,arrows",
    [
        ({}, 1),
        ({Step.TWO: (Step.THREE,)}, 2),
        ({Step.ONE: (Step.TWO, Step.THREE)}, 2),
        ({Step.THREE: (Step.ONE,)}, 2),
        ({Step.ONE: ()}, 0),
    ],
)
def test_another_table_is_another_picture(change: dict[Step, Any], arrows: int) -> None:
    picture = drawings.states("Steps", {**FORWARD, **change})
    assert heads(picture) == arrows
    assert count(picture, f"{SVG}rect", "end") == sum(not n for n in {**FORWARD, **change}.values())


def test_one_more_state_is_one_more_box() -> None:
    two = {Step.ONE: (Step.TWO,), Step.TWO: ()}
    three = {Step.ONE: (Step.TWO,), Step.TWO: (Step.THREE,), Step.THREE: ()}
    assert words(drawings.states("Steps", two)) == ["one", "two"]
    assert words(drawings.states("Steps", three)) == ["one", "two", "three"]


def test_halves_are_drawn_as_pairs() -> None:
    picture = drawings.draw_halves()
    assert count(picture, f"{SVG}rect", "box") == len(Half) ** 2
    assert heads(picture) == 4
    assert "receives: eof" in words(picture)


def spots(picture: str) -> int:
    return count(picture, f"{SVG}rect", "spot")


def test_every_rule_has_its_spot() -> None:
    assert spots(drawings.draw_acceptance()) == sum(len(g.rules) for g in drawings.groups())


@pytest.mark.parametrize(
    "row", TABLE, ids=lambda row: f"{int(row.numbers[0])}-{row.phases[0].name}"
)
def test_without_a_row_the_picture_is_another(row: Row) -> None:
    others = tuple(other for other in TABLE if other is not row)
    assert drawings.acceptance(others) != drawings.acceptance(TABLE)


def test_colours_are_dispositions() -> None:
    dropped = Row((20,), (Role.SERVER,), (Phase.RUNNING,), disposition=Disposition.DROP)
    picture = drawings.acceptance([dropped])
    assert count(picture, f"{SVG}rect", "drop") == 1
    assert "KEXINIT" in words(picture)
    assert "authentication" not in words(picture)


def test_a_conversation() -> None:
    picture = drawings.sequence(
        "Talk", "us, them\nus -> them: hello\nthem -x us: lost\nus: waits\n-- the end"
    )
    shown = words(picture)
    assert [word for word in shown if word in ("us", "them")] == ["us", "them"]
    assert {"hello", "lost", "waits", "the end"} <= set(shown)
    assert heads(picture) == 1
    assert count(picture, f"{SVG}path", "lost") == 2


def test_what_a_peer_could_write_stays_text() -> None:
    assert words(drawings.sequence("<T>", "a, b\na -> b: <script>"))[-1] == "<script>"


TABLES: list[Any] = [NEXT_STATES, NEXT_PHASES, NEXT_CHANNEL_PHASES]


@pytest.mark.parametrize("table", TABLES, ids=["session", "core", "channel"])
def test_tables_are_whole(table: Mapping[Enum, Sequence[Enum]]) -> None:
    kind = type(next(iter(table)))
    assert list(table) == list(kind)
    assert [state for state, following in table.items() if not following] == [list(kind)[-1]]
    for state, following in table.items():
        assert state not in following


def pairs(table: Mapping[Any, Sequence[Any]]) -> list[tuple[Any, Any]]:
    return [(before, after) for before in table for after in table]


@pytest.mark.parametrize("before,after", pairs(NEXT_PHASES))
def test_the_core_keeps_its_table(before: Phase, after: Phase) -> None:
    config = SessionConfig()
    core = Core(
        Role.CLIENT, config, now=0.0, random=bytes, identification="SSH-2.0-test",
        connection=Connection(config),
    )  # fmt: skip
    core.phase = before
    if after in NEXT_PHASES[before]:
        core._set_phase(after)
        assert core.phase is after
    else:
        with pytest.raises(LocalProtocolError, match="cannot follow"):
            core._set_phase(after)


@pytest.mark.parametrize("before,after", pairs(NEXT_CHANNEL_PHASES))
def test_a_channel_keeps_its_table(before: ChannelPhase, after: ChannelPhase) -> None:
    channel = ChannelState(0, "session", before, ReceiveWindow(1), 1)
    if after in NEXT_CHANNEL_PHASES[before]:
        channel.move(after)
        assert channel.phase is after
    else:
        with pytest.raises(LocalProtocolError, match="cannot follow"):
            channel.move(after)


def test_a_session_begins_new() -> None:
    assert next(iter(NEXT_STATES)) is SessionState.NEW
