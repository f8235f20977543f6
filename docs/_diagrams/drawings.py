"""Tables as SVG text: states and their transitions, messages and when they are legal.

A drawing knows nothing of Sphinx, and the code nothing of drawings. Colours are classes, for which
``_static/anyssh.css`` has a light and a dark scheme. Widths are chosen for phones.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from html import escape
from itertools import pairwise
from typing import Any, Final

from anyssh.constants import MessageNumber
from anyssh.protocol.acceptance import (
    NEXT_PHASES,
    TABLE,
    Condition,
    Disposition,
    Phase,
    Role,
    Row,
)
from anyssh.protocol.channel import NEXT_CHANNEL_PHASES, Half
from anyssh.session.links import NEXT_STATES

LINE: Final = 16
BOX_WIDTH: Final = 250
BOX_GAP: Final = 24
LANE: Final = 16
MARGIN: Final = 6
NOTE_CHARACTERS: Final = 37


def svg(width: float, height: float, title: str, content: Iterable[str], name: str) -> str:
    """Put shapes into a picture that grows to its own width at most."""
    body = "\n".join(content)
    return (
        f'<svg class="diagram {name}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'style="width: {width:g}px" xmlns="http://www.w3.org/2000/svg">\n'
        f"<title>{escape(title)}</title>\n{body}\n</svg>\n"
    )


def text(x: float, y: float, words: str, *, css: str = "", anchor: str = "middle") -> str:
    """Write one line."""
    style = f' class="{css}"' if css else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{style}>{escape(words)}</text>'


def arrow(points: Sequence[tuple[float, float]], css: str = "edge", head: bool = True) -> str:
    """Draw a line through some points; its head is at the last one."""
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
    line = f'<path class="{css}" d="{path}"/>'
    return line + (_head(points[-2], points[-1], css) if head else "")


def _head(before: tuple[float, float], tip: tuple[float, float], css: str) -> str:
    (x0, y0), (x, y) = before, tip
    length = max(abs(x - x0), abs(y - y0)) or 1
    dx, dy = (x - x0) / length, (y - y0) / length
    base_x, base_y = x - 8 * dx, y - 8 * dy
    corners = [(x, y), (base_x - 4 * dy, base_y + 4 * dx), (base_x + 4 * dy, base_y - 4 * dx)]
    points = " ".join(f"{a:g},{b:g}" for a, b in corners)
    return f'<polygon class="{css} head" points="{points}"/>'


def spoken(member: Enum) -> str:
    """Return the name of a member as words."""
    return member.name.lower().replace("_", " ")


# States


@dataclass(frozen=True)
class Box:
    """A state with its place."""

    member: Enum
    lines: tuple[str, ...]
    top: float

    @property
    def height(self) -> float:
        """Room for the name and the note."""
        return 28 + (4 + (LINE - 2) * len(self.lines) if self.lines else 0)

    @property
    def middle(self) -> float:
        """Where lines to the sides begin and end."""
        return self.top + self.height / 2

    @property
    def bottom(self) -> float:
        """Where the way to the next begins."""
        return self.top + self.height


def states(
    title: str, following: Mapping[Enum, Sequence[Enum]], notes: Mapping[str, str] | None = None
) -> str:
    """Draw states one below the other, and lines to what may follow each.

    What follows at once is joined straight; what comes later, at the right; what came before, at
    the left. All lines to one state come together before they reach it.
    """
    boxes: dict[Enum, Box] = {}
    top: float = MARGIN
    for member in following:
        note = (notes or {}).get(member.name, "")
        boxes[member] = Box(member, tuple(textwrap.wrap(note, NOTE_CHARACTERS)), top)
        top = boxes[member].bottom + BOX_GAP
    order = list(following)
    forward, backward = _lines(following, order)
    left = MARGIN + LANE * len(backward)
    right = left + BOX_WIDTH
    shapes = [*_straight(following, order, boxes, left + BOX_WIDTH / 2)]
    for lane, (target, sources) in enumerate(forward.items(), 1):
        shapes += _lane(right, right + LANE * lane, boxes, target, sources)
    for lane, (target, sources) in enumerate(backward.items(), 1):
        shapes += _lane(left, left - LANE * lane, boxes, target, sources)
    for box in boxes.values():
        shapes += _box(box, left, is_end=not following[box.member])
    width = right + LANE * len(forward) + MARGIN
    return svg(width, top - BOX_GAP + MARGIN, title, shapes, "states")


def _lines(
    following: Mapping[Enum, Sequence[Enum]], order: Sequence[Enum]
) -> tuple[dict[Enum, list[Enum]], dict[Enum, list[Enum]]]:
    """Return what cannot be joined straight, forward and backward: sources by target."""
    forward: dict[Enum, list[Enum]] = {}
    backward: dict[Enum, list[Enum]] = {}
    for source, targets in following.items():
        for target in targets:
            distance = order.index(target) - order.index(source)
            if distance > 1:
                forward.setdefault(target, []).append(source)
            elif distance < 1:
                backward.setdefault(target, []).append(source)
    nearest = sorted(forward, key=order.index)
    return {target: forward[target] for target in nearest}, backward


def _straight(
    following: Mapping[Enum, Sequence[Enum]],
    order: Sequence[Enum],
    boxes: Mapping[Enum, Box],
    x: float,
) -> Iterable[str]:
    for source, target in pairwise(order):
        if target in following[source]:
            yield arrow([(x, boxes[source].bottom), (x, boxes[target].top)])


def _lane(
    edge: float, lane: float, boxes: Mapping[Enum, Box], target: Enum, sources: Sequence[Enum]
) -> Iterable[str]:
    """Draw the lines to one state beside the boxes."""
    # A state is left a little lower than it is reached, so that lines there stay apart.
    starts = [boxes[source].middle + 5 for source in sources]
    end = boxes[target].middle - 5
    for start in starts:
        yield arrow([(edge, start), (lane, start)], head=False)
    first = min(starts) if edge < lane else max(starts)
    yield arrow([(lane, first), (lane, end), (edge, end)])


def _box(box: Box, left: float, *, is_end: bool) -> Iterable[str]:
    css = "box end" if is_end else "box"
    yield (
        f'<rect class="{css}" x="{left:g}" y="{box.top:g}" width="{BOX_WIDTH}" '
        f'height="{box.height:g}" rx="6"/>'
    )
    middle = left + BOX_WIDTH / 2
    yield text(middle, box.top + 19, spoken(box.member), css="name")
    for number, line in enumerate(box.lines):
        yield text(middle, box.top + 37 + (LINE - 2) * number, line, css="note")


# Two things that go on side by side


def product(title: str, first: str, second: str, steps: Sequence[Enum]) -> str:
    """Draw every pair of two things that pass the same steps, each on its own."""
    cell, height, left, top = 130, 46, 12, MARGIN
    shapes: list[str] = []
    for row, other in enumerate(steps):
        for column, one in enumerate(steps):
            x, y = left + column * (cell + 24), top + row * (height + 24)
            is_end = one is steps[-1] and other is steps[-1]
            shapes.append(
                f'<rect class="{"box end" if is_end else "box"}" x="{x}" y="{y}" width="{cell}" '
                f'height="{height}" rx="6"/>'
            )
            shapes.append(text(x + cell / 2, y + 20, f"{first}: {spoken(one)}", css="note"))
            shapes.append(text(x + cell / 2, y + 36, f"{second}: {spoken(other)}", css="note"))
            if column < len(steps) - 1:
                shapes.append(arrow([(x + cell, y + height / 2), (x + cell + 24, y + height / 2)]))
            if row < len(steps) - 1:
                shapes.append(arrow([(x + cell / 2, y + height), (x + cell / 2, y + height + 24)]))
    width = left * 2 + cell * len(steps) + 24 * (len(steps) - 1)
    bottom = top + height * len(steps) + 24 * (len(steps) - 1) + MARGIN
    return svg(width, bottom, title, shapes, "product")


# Which message is legal when


@dataclass(frozen=True)
class Group:
    """Messages about which the table says the same.

    :ivar numbers: of the messages
    :ivar rules: what becomes of them, by receiver and phase
    """

    numbers: tuple[int, ...]
    rules: Mapping[tuple[Role, Phase], tuple[Condition, Disposition]]

    @property
    def name(self) -> str:
        """The names of the messages, or what they have in common."""
        assigned = {int(number): number.name for number in MessageNumber}
        names = [assigned[number] for number in self.numbers if number in assigned]
        if not names:
            return "numbers without a message"
        if len(names) > 4:
            return f"{names[0].split('_')[0]}_… ({self.numbers[0]}–{self.numbers[-1]})"
        return ", ".join(names)


def groups(table: Sequence[Row] = TABLE) -> list[Group]:
    """Return the messages of a table, those that it treats alike together."""
    rules: dict[int, dict[tuple[Role, Phase], tuple[Condition, Disposition]]] = {}
    for row in table:
        for number in row.numbers:
            for receiver in row.receivers:
                for phase in row.phases:
                    places = rules.setdefault(int(number), {})
                    places[receiver, phase] = (row.condition, row.disposition)
    alike: dict[frozenset[object], list[int]] = {}
    for number in sorted(rules):
        alike.setdefault(frozenset(rules[number].items()), []).append(number)
    return [Group(tuple(numbers), rules[numbers[0]]) for numbers in alike.values()]


def acceptance(table: Sequence[Row] = TABLE, phases: Sequence[Phase] = tuple(Phase)) -> str:
    """Draw which messages may come to a server and to a client in each phase."""
    shown = [phase for phase in phases if any(phase in row.phases for row in table)]
    listed = groups(table)
    labels = [textwrap.wrap(group.name, 30) for group in listed]
    left, top, column, square = 228, 92, 58, 18
    width = left + column * len(shown) + 40
    shapes = [
        f'<g transform="translate({left + column * number + column / 2 - 4:g} {top - 12}) '
        f'rotate(-38)">{text(0, 0, spoken(phase), anchor="start")}</g>'
        for number, phase in enumerate(shown)
    ]
    y = float(top)
    for group, lines in zip(listed, labels, strict=True):
        height = max(24, (LINE - 2) * len(lines) + 8)
        shapes.append(f'<path class="rule" d="M{MARGIN} {y:g} H{width - MARGIN}"/>')
        first = y + height / 2 + 4 - (LINE - 2) * (len(lines) - 1) / 2
        for number, line in enumerate(lines):
            line_y = first + (LINE - 2) * number
            shapes.append(text(MARGIN, line_y, line, css="message", anchor="start"))
        for number, phase in enumerate(shown):
            x = left + column * number + column / 2 - square
            for place, receiver in enumerate((Role.SERVER, Role.CLIENT)):
                rule = group.rules.get((receiver, phase))
                spot = (x + place * (square + 1), y + (height - square) / 2)
                shapes.append(_spot(spot, square, receiver, rule))
        y += height
    return svg(width, y + MARGIN, "Which message is legal when", shapes, "acceptance")


def _spot(
    place: tuple[float, float],
    size: float,
    receiver: Role,
    rule: tuple[Condition, Disposition] | None,
) -> str:
    x, y = place
    if rule is None:
        return f'<path class="never" d="M{x + 5:g} {y + size / 2:g} h{size - 10:g}"/>'
    condition, disposition = rule
    css = f"{disposition.name.lower()} {'always' if condition is Condition.ALWAYS else 'if'}"
    told = f"to the {spoken(receiver)}: {spoken(disposition)}, {spoken(condition)}"
    return (
        f'<rect class="spot {css}" x="{x + 1:g}" y="{y + 1:g}" width="{size - 2:g}" '
        f'height="{size - 2:g}" rx="3"><title>{escape(told)}</title></rect>'
        + text(x + size / 2, y + size / 2 + 4, spoken(receiver)[0], css="letter")
    )


# What two sides say to each other


def sequence(title: str, script: str) -> str:
    """Draw a conversation.

    The first line names the sides. Then ``a -> b: words`` is a message, ``a -x b: words`` one that
    is lost, ``a: words`` something that a side does, and ``-- words`` what happens to both.
    """
    head, *lines = [line.strip() for line in script.strip().splitlines() if line.strip()]
    sides = [side.strip() for side in head.split(",")]
    spread, edge = 280, 62
    places = {side: edge + spread * number for number, side in enumerate(sides)}
    width = 2 * edge + spread * (len(sides) - 1)
    shapes: list[str] = []
    y = 44.0
    for line in lines:
        drawn, y = _moment(line, places, width, y)
        shapes += drawn
    posts = [
        f'<path class="rule" d="M{x} 34 V{y + 6:g}"/>'
        f'<rect class="box" x="{x - 56}" y="{MARGIN}" width="112" height="28" rx="6"/>'
        + text(x, MARGIN + 19, side, css="name")
        for side, x in places.items()
    ]
    return svg(width, y + 12, title, [*posts, *shapes], "sequence")


def _moment(
    line: str, places: Mapping[str, float], width: float, y: float
) -> tuple[list[str], float]:
    """Draw one line of a script; return it and where the next begins."""
    if line.startswith("-- "):
        middle = y + 15
        band = f'<rect class="band" x="{MARGIN}" y="{y + 2:g}" width="{width - 2 * MARGIN}"'
        words = text(width / 2, middle + 4, line[3:], css="note")
        return [f'{band} height="26" rx="4"/>', words], y + 36
    head, _, words = line.partition(": ")
    for sign in (" -> ", " -x "):
        if sign in head:
            source, target = head.split(sign)
            return _message(places[source], places[target], words, sign == " -x ", y)
    x = places[head]
    lines = textwrap.wrap(words, 30)
    is_left = x < width / 2
    anchor, start = ("start", x + 10) if is_left else ("end", x - 10)
    drawn = [
        text(start, y + 12 + (LINE - 2) * number, part, css="note", anchor=anchor)
        for number, part in enumerate(lines)
    ]
    dot = f'<circle class="dot" cx="{x}" cy="{y + 8:g}" r="4"/>'
    return [dot, *drawn], y + (LINE - 2) * len(lines) + 12


def _message(
    source: float, target: float, words: str, is_lost: bool, y: float
) -> tuple[list[str], float]:
    lines = textwrap.wrap(words, 42)
    middle = (source + target) / 2
    drawn = [
        text(middle, y + 12 + (LINE - 2) * number, part, css="note")
        for number, part in enumerate(lines)
    ]
    level = y + (LINE - 2) * len(lines) + 6
    if is_lost:
        end = source + (target - source) * 0.72
        drawn.append(arrow([(source, level), (end, level)], css="lost", head=False))
        cross = f"M{end - 5:g} {level - 5:g} l10 10 M{end + 5:g} {level - 5:g} l-10 10"
        drawn.append(f'<path class="lost" d="{cross}"/>')
    else:
        drawn.append(arrow([(source, level), (target, level)]))
    return drawn, level + 16


# The tables of the code

STATES: Final[Mapping[str, Mapping[Any, Sequence[Any]]]] = {
    "session": NEXT_STATES,
    "core": NEXT_PHASES,
    "channel": NEXT_CHANNEL_PHASES,
}
"""The tables that can be drawn as states."""


def notes_of(kind: type[Enum]) -> dict[str, str]:
    """Return the strings that stand below the members of an enumeration."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    notes = {}
    for member, note in zip(definition.body, definition.body[1:], strict=False):
        match member, note:
            case (
                ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                notes[name] = " ".join(words.split())
    return notes


def draw_states(name: str) -> str:
    """Draw one of the tables of states."""
    following = STATES[name]
    return states(f"The states of a {name}", following, notes_of(type(next(iter(following)))))


def draw_halves(_: str = "") -> str:
    """Draw how the two directions of a channel end."""
    return product("The two halves of a channel", "sends", "receives", list(Half))


def draw_acceptance(_: str = "") -> str:
    """Draw which message is legal when."""
    return acceptance()
