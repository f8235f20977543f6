"""``anyssh contour``: draws the contour of a session for the terminal, as SVG, or as JSON."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import anyssh
from anyssh import ContourInterval, SessionContour

from .failures import Failure, reason_of
from .keys import read_file
from .places import expanded
from .status import duration, size

__all__ = ["contour", "read_contour", "to_json", "to_svg"]

MIN_COLUMNS: Final = 40
WIDTH, HEIGHT, LEFT, TOP, GAP = 800, 140, 70, 30, 50
COLORS: Final = {"sent": "#1f77b4", "received": "#2ca02c", "latency": "#d62728"}


def contour(source: str, form: str, output: Path | None, columns: int | None) -> int:
    """Show a contour.

    :param source: the exported text, or the path of a file that contains it
    :param form: ``"terminal"``, ``"svg"`` or ``"json"``
    """
    found = read_contour(source)
    if form == "svg":
        text = to_svg(found)
    elif form == "json":
        text = to_json(found)
    else:
        width = columns or max(MIN_COLUMNS, shutil.get_terminal_size().columns)
        try:
            text = found.draw(width) + "\n"
        except ValueError as error:
            raise Failure(str(error)) from error
    if output is None:
        sys.stdout.write(text)
        return 0
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(f"cannot write {output}: {reason_of(error)}") from error
    return 0


def read_contour(source: str) -> SessionContour:
    """Read a contour from a file, from standard input or from the text itself.

    :raises Failure: it is none of these
    """
    text, where = source, "the text"
    if source == "-" or _is_path(source):
        text, where = read_file(Path(source)).decode("utf-8", "replace"), source
    try:
        return SessionContour.import_(text)
    except anyssh.ContourFormatError as error:
        if where == source:
            raise Failure(f"{source}: {error}") from error
        raise Failure(f"neither a file nor a contour: {error}") from error


def _is_path(source: str) -> bool:
    try:
        return expanded(source).exists()
    except OSError:  # too long for a file name
        return False


def to_json(found: SessionContour) -> str:
    """Return a contour as JSON; bytes are totals per interval, latencies in milliseconds."""
    intervals = [
        {
            "start": number * found.interval,
            "bytes_sent": each.bytes_sent,
            "bytes_received": each.bytes_received,
            "latency_minimum": each.latency_minimum,
            "latency_average": each.latency_average,
            "latency_maximum": each.latency_maximum,
        }
        for number, each in enumerate(found.intervals)
    ]
    return json.dumps({"interval": found.interval, "intervals": intervals}, indent=2) + "\n"


# SVG


def to_svg(found: SessionContour) -> str:
    """Return an SVG image: bytes per second at the top, latency with its range below, over time."""
    intervals = found.intervals
    seconds = found.interval
    height = TOP + 2 * HEIGHT + 2 * GAP
    rates = [
        ("sent", [each.bytes_sent / seconds for each in intervals]),
        ("received", [each.bytes_received / seconds for each in intervals]),
    ]
    total = duration(len(intervals) * seconds)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        *_panel(TOP, rates, lambda amount: f"{size(amount)}/s"),
        *_latency(TOP + HEIGHT + GAP, intervals),
        f'<text x="{LEFT}" y="{height - GAP + 16}">0</text>',
        f'<text x="{LEFT + WIDTH}" y="{height - GAP + 16}" text-anchor="end">{total}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(
    top: int, curves: Sequence[tuple[str, Sequence[float]]], words: Callable[[float], str]
) -> Iterable[str]:
    highest = max((max(values, default=0.0) for _, values in curves), default=0.0)
    yield from _frame(top, words(highest))
    for number, (name, values) in enumerate(curves):
        yield _name(top, number, name)
        yield _steps(values, highest, top, COLORS[name])


def _latency(top: int, intervals: Sequence[ContourInterval]) -> Iterable[str]:
    highest = max((each.latency_maximum for each in intervals), default=0.0)
    highest = max(highest, max((each.latency_average for each in intervals), default=0.0))
    yield from _frame(top, f"{highest:.3g} ms" if highest else "not measured")
    yield _name(top, 0, "latency")
    step = WIDTH / max(1, len(intervals))
    for number, each in enumerate(intervals):
        if not each.latency_average:
            continue
        left = LEFT + number * step
        low, high = (
            _height(value or each.latency_average, highest, top)
            for value in (each.latency_minimum, each.latency_maximum)
        )
        yield (
            f'<rect x="{left:.2f}" y="{high:.2f}" width="{step:.2f}" height="{low - high:.2f}" '
            f'fill="{COLORS["latency"]}" fill-opacity="0.25"/>'
        )
        middle = _height(each.latency_average, highest, top)
        yield (
            f'<path d="M{left:.2f} {middle:.2f}h{step:.2f}" stroke="{COLORS["latency"]}" '
            'stroke-width="1.5"/>'
        )


def _frame(top: int, highest: str) -> Iterable[str]:
    yield (
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" '
        'stroke="#cccccc"/>'
    )
    yield f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{highest}</text>'
    yield f'<text x="{LEFT - 6}" y="{top + HEIGHT}" text-anchor="end">0</text>'


def _name(top: int, number: int, name: str) -> str:
    return f'<text x="{LEFT + 80 * number}" y="{top - 6}" fill="{COLORS[name]}">{name}</text>'


def _height(value: float, highest: float, top: int) -> float:
    return top + HEIGHT - (HEIGHT * value / highest if highest else 0.0)


def _steps(values: Sequence[float], highest: float, top: int, color: str) -> str:
    step = WIDTH / max(1, len(values))
    line = "".join(f"V{_height(value, highest, top):.2f}h{step:.2f}" for value in values)
    return (
        f'<path d="M{LEFT} {top + HEIGHT}{line}V{top + HEIGHT}z" stroke-width="1.5" '
        f'stroke="{color}" fill="{color}" fill-opacity="0.25"/>'
    )
