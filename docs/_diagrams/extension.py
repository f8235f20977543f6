"""Directives that put the drawings on pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from anyssh import trace
from anyssh.protocol import acceptance, channel
from anyssh.protocol.acceptance import TABLE, Condition, Role
from anyssh.session import links
from anyssh.trace import TraceId

from . import drawings

__all__ = ["setup"]


class FromCode(SphinxDirective):
    """What is made of the code; the page is made anew when that has changed."""

    def note_sources(self) -> None:
        for module in (acceptance, channel, links, trace, drawings):
            self.env.note_dependency(str(module.__file__))


class Drawing(FromCode):
    """Puts one picture into the page."""

    optional_arguments = 1
    draw: ClassVar[Callable[[str], str]]

    def run(self) -> list[nodes.Node]:
        self.note_sources()
        name = self.arguments[0] if self.arguments else ""
        return framed(type(self).draw(name))


class Conversation(FromCode):
    """Draws the conversation that is its content."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        self.note_sources()
        return framed(drawings.sequence(self.arguments[0], "\n".join(self.content)))


def framed(picture: str) -> list[nodes.Node]:
    """Let a picture scroll where the page is narrower."""
    return [nodes.raw("", f'<div class="diagram-frame">{picture}</div>', format="html")]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], literal: set[int]) -> nodes.table:
    """Return a table of plain text; some columns are code."""
    group = nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    group += nodes.thead("", _row(head, set()))
    group += nodes.tbody("", *[_row(row, literal) for row in rows])
    return nodes.table("", group, classes=["colwidths-auto"])


def _row(cells: Sequence[str], literal: set[int]) -> nodes.row:
    row = nodes.row()
    for number, cell in enumerate(cells):
        inner = nodes.literal(cell, cell) if number in literal and cell else nodes.Text(cell)
        row += nodes.entry("", nodes.paragraph("", "", inner))
    return row


class AcceptanceRows(FromCode):
    """Lists the table of legal messages as it stands in the code."""

    def run(self) -> list[nodes.Node]:
        self.note_sources()
        notes = drawings.notes_of(Condition)
        rows = []
        for row in TABLE:
            names = drawings.Group(tuple(map(int, row.numbers)), {}).name
            who = "both" if len(row.receivers) == len(Role) else drawings.spoken(row.receivers[0])
            phases = ", ".join(map(drawings.spoken, row.phases))
            condition = drawings.spoken(row.condition)
            note = notes.get(row.condition.name)
            told = f"{condition}: {note}" if note else condition
            rows.append([names, who, phases, told, drawings.spoken(row.disposition)])
        return [table(["message", "to", "phases", "condition", "then"], rows, {0})]


class TraceRows(FromCode):
    """Lists what a trace can tell."""

    def run(self) -> list[nodes.Node]:
        self.note_sources()
        rows = [[str(int(event)), event.name] for event in TraceId]
        return [table(["number", "name"], rows, {1})]


def setup(app: Any) -> dict[str, Any]:
    """Register the directives."""
    for name, draw in {
        "states": drawings.draw_states,
        "channel-halves": drawings.draw_halves,
        "acceptance": drawings.draw_acceptance,
    }.items():
        kind = type(f"{name}-drawing", (Drawing,), {"draw": staticmethod(draw)})
        app.add_directive(name, kind)
    app.add_directive("sequence", Conversation)
    app.add_directive("acceptance-rows", AcceptanceRows)
    app.add_directive("trace-rows", TraceRows)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
