"""Medians, ratios, and the tables that show them.

A row is one implementation with one workload. Each of its fields has a value for each run. Ratios
are taken between values of the same round, since machines drift; the table shows their median.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .catalogue import Figure, Workload
from .harness import Measurement, MemorySamples
from .implementations import LOOPS, Implementation, Kind

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
_HIGHER_IS_BETTER: Final = frozenset(("rate",))
# Allocators and interpreters give and take a little whatever the program does.
_FLAT_BYTES: Final = 4 * MIB
_HELD_SHARE: Final = 1 / 8


def values(run: Measurement) -> dict[str, float]:
    """Return the fields of one run that measured a rate."""
    line = run.line
    seconds = float(line["seconds"])
    if "bytes" in line:
        gibibytes = line["bytes"] / GIB
        fields = {
            "rate": line["bytes"] / seconds / 1e6,
            "cpu_seconds_per_gib": run.cpu / gibibytes,
            "client_cpu_seconds_per_gib": run.client_cpu / gibibytes,
            "server_cpu_seconds_per_gib": run.server_cpu / gibibytes,
        }
    else:
        fields = {
            "rate": line["count"] / seconds,
            "cpu_milliseconds_each": run.cpu / line["count"] * 1000,
        }
        for name in ("p50", "p99"):
            if name in line:
                fields[f"{name}_milliseconds"] = line[name] * 1000
    fields["client_peak_bytes"] = run.client_peak
    fields["server_peak_bytes"] = run.server_peak
    fields["peak_bytes"] = run.client_peak + run.server_peak
    return fields


def _held_values(run: Measurement) -> dict[str, float]:
    """Return what each of many held things took, from before the first to after the last."""
    count = run.line["count"]
    samples = run.samples
    return {
        "client_bytes_each": (samples.client[-1] - samples.client[0]) / count,
        "server_bytes_each": (samples.server[-1] - samples.server[0]) / count,
    }


@dataclass(slots=True)
class Row:
    """What one implementation did with one workload.

    :ivar runs: the value of each field in each run
    :ivar ratios: what a field is compared with, and the median of its ratios round by round
    :ivar facts: what is no figure
    """

    workload: Workload
    implementation: Implementation
    runs: dict[str, list[float]]
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Return the median of a field over the runs."""
        return statistics.median(self.runs[name])

    def spread(self, name: str) -> float:
        """Return half of the range of a field, as a share of its median."""
        taken = self.runs[name]
        median = self.median(name)
        return (max(taken) - min(taken)) / 2 / median if median else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return everything, unrounded."""
        return {
            "workload": self.workload.name,
            "text": self.workload.text,
            "implementation": self.implementation.name,
            "kind": self.implementation.kind.value,
            "loop": self.implementation.loop,
            "figure": self.workload.figure.field,
            "unit": self.workload.figure.unit,
            "medians": {name: self.median(name) for name in self.runs},
            "runs": self.runs,
            "ratios": self.ratios,
            **self.facts,
        }


def summarise(workload: Workload, each: Implementation, runs: Sequence[Measurement]) -> Row:
    """Return the row of one implementation from its runs."""
    taken = [values(run) for run in runs]
    if workload.figure is Figure.HELD or workload.name == "forward-memory":
        taken = [one | _held_values(run) for one, run in zip(taken, runs, strict=True)]
    row = Row(workload, each, {name: [one[name] for one in taken] for name in taken[0]})
    row.facts["note"] = runs[0].note
    if workload.name.startswith("memory-"):
        _add_growth(row, runs[0], MemorySamples.growth, _FLAT_BYTES)
    elif workload.name == "slow-reader":
        stalled = runs[0].stalled_samples

        def taken_on(samples: list[int]) -> int:
            return max(samples[:stalled], default=0) - min(samples[:1], default=0)

        _add_growth(row, runs[0], taken_on, _HELD_SHARE * runs[0].line["bytes"])
    return row


def _add_growth(
    row: Row, run: Measurement, growth: Callable[[list[int]], int], allowed: float
) -> None:
    client, server = growth(run.samples.client), growth(run.samples.server)
    row.facts |= {
        "bytes": run.line["bytes"],
        "client_growth_bytes": client,
        "server_growth_bytes": server,
        "is_bounded": max(client, server) <= allowed,
    }


# Ratios


def add_ratios(rows: Sequence[Row]) -> None:
    """Compare the rows of one group with limits, with the best peer, and with their basis."""
    for row in rows:
        alike = [other for other in rows if other.workload is row.workload]
        _compare_with_limit(row, alike)
        _compare_with_best_peer(row, alike)
        for other in rows:
            if (
                other.workload.name == row.workload.basis
                and other.implementation.name == row.implementation.name
            ):
                _compare(row, other, "of_basis")
        if row.implementation.family == "anyssh-reconnect":
            for other in alike:
                if other.implementation.name == f"anyssh/{row.implementation.loop}":
                    _compare(row, other, "of_plain")


def _compare(row: Row, other: Row, kind: str) -> None:
    ratios = row.ratios.setdefault(kind, {})
    for name in row.runs.keys() & other.runs.keys():
        pairs = zip(row.runs[name], other.runs[name], strict=True)
        taken = [mine / theirs for mine, theirs in pairs if theirs]
        if taken:
            ratios[name] = statistics.median(taken)


def _compare_with_limit(row: Row, alike: Sequence[Row]) -> None:
    """Compare with the limit of the same event loop; of the best loop for what runs on none."""
    limits = [other for other in alike if other.implementation.family == row.workload.limit != ""]
    own = [other for other in limits if other.implementation.loop == row.implementation.loop]
    if limits:
        _compare(row, own[0] if own else max(limits, key=lambda r: r.median("rate")), "of_limit")


def best_peer(alike: Iterable[Row], name: str) -> Row | None:
    """Return the row of the peer that is best in a field."""
    peers = [r for r in alike if r.implementation.kind is Kind.PEER and name in r.runs]
    choose = max if name in _HIGHER_IS_BETTER else min
    return choose(peers, key=lambda row: row.median(name), default=None)


def _compare_with_best_peer(row: Row, alike: Sequence[Row]) -> None:
    """Tell how many times better than the best peer each field is: above 1 is ahead."""
    for name, mine in row.runs.items():
        best = best_peer(alike, name)
        if best is None:
            continue
        pairs = list(zip(mine, best.runs[name], strict=True))
        if name not in _HIGHER_IS_BETTER:
            pairs = [(theirs, ours) for ours, theirs in pairs]
        taken = [better / worse for better, worse in pairs if worse]
        if taken:
            row.ratios.setdefault("times_best_peer", {})[name] = statistics.median(taken)
            row.facts.setdefault("best_peers", {})[name] = best.implementation.name


# Tables of one workload


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table, the first column to the left and the others to the right."""
    lines = list(lines)
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in (heads, rule, *lines)
    )


def table(workload: Workload, rows: Sequence[Row]) -> str:
    """Return the rows of one workload as a Markdown table, without empty columns."""
    columns = [
        (head.replace("UNIT", workload.figure.unit), [show(row) for row in rows])
        for head, show in _COLUMNS
        if not (head == "UNIT" and workload.figure is Figure.HELD)
    ]
    columns = [(head, cells) for head, cells in columns if any(cells)]
    heads = [head for head, _ in columns]
    return markdown(heads, zip(*(cells for _, cells in columns), strict=True))


def number(value: float) -> str:
    """Show three digits or all before the point."""
    magnitude = abs(value)
    digits = 0 if magnitude >= 100 else 1 if magnitude >= 10 else 2 if magnitude >= 1 else 3
    return f"{value:,.{digits}f}"


def _show(name: str, scale: float = 1) -> Callable[[Row], str]:
    return lambda row: number(row.median(name) / scale) if name in row.runs else ""


def _show_rate(row: Row) -> str:
    return number(row.median("rate")) if row.workload.figure is not Figure.TIME else ""


def _show_ratio(kind: str) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        ratios = row.ratios.get(kind, {})
        name = row.workload.figure.field
        if name not in ratios:
            return ""
        return f"{ratios[name]:.2f}" if kind == "times_best_peer" else f"{ratios[name]:.0%}"

    return show


def _show_fact(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row.facts[name] / MIB:+.1f}" if name in row.facts else ""


def _show_extreme(extreme: Callable[[list[float]], float]) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        figure = row.workload.figure
        taken = row.runs[figure.field]
        scale = KIB if figure is Figure.HELD else 1
        return number(extreme(taken) / scale) if len(taken) > 1 else ""

    return show


def _show_bounded(row: Row) -> str:
    return {None: "", True: "yes", False: "NO"}[row.facts.get("is_bounded")]


def _show_peak(name: str) -> Callable[[Row], str]:
    return lambda row: number(row.median(name) / MIB) if row.median(name) else ""


_COLUMNS: Final[list[tuple[str, Callable[[Row], str]]]] = [
    ("implementation", lambda row: row.implementation.name),
    ("client KiB each", _show("client_bytes_each", KIB)),
    ("server KiB each", _show("server_bytes_each", KIB)),
    ("a second", _show_rate),
    ("p50 ms", _show("p50_milliseconds")),
    ("p99 ms", _show("p99_milliseconds")),
    ("min", _show_extreme(min)),
    ("max", _show_extreme(max)),
    ("of limit", _show_ratio("of_limit")),
    ("of basis", _show_ratio("of_basis")),
    ("of plain", _show_ratio("of_plain")),
    ("× best peer", _show_ratio("times_best_peer")),
    ("CPU s/GiB", _show("cpu_seconds_per_gib")),
    ("client", _show("client_cpu_seconds_per_gib")),
    ("server", _show("server_cpu_seconds_per_gib")),
    ("CPU ms each", _show("cpu_milliseconds_each")),
    ("client grew MiB", _show_fact("client_growth_bytes")),
    ("server grew MiB", _show_fact("server_growth_bytes")),
    ("bounded", _show_bounded),
    ("client MiB", _show_peak("client_peak_bytes")),
    ("server MiB", _show_peak("server_peak_bytes")),
]


# The tables of everything


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the summary: a field of a workload."""

    workload: str
    field: str
    text: str
    scale: float = 1


_LINES: Final = (
    _Line("upload", "rate", "upload, 256 KiB writes, MB/s"),
    _Line("upload", "cpu_seconds_per_gib", "… CPU s/GiB, both sides"),
    _Line("upload", "peak_bytes", "… peak memory, both sides, MiB", MIB),
    _Line("download", "rate", "download, 256 KiB writes, MB/s"),
    _Line("download", "cpu_seconds_per_gib", "… CPU s/GiB, both sides"),
    _Line("upload-32", "rate", "upload, 32 KiB writes, MB/s"),
    _Line("upload-32", "cpu_seconds_per_gib", "… CPU s/GiB, both sides"),
    _Line("download-32", "rate", "download, 32 KiB writes, MB/s"),
    _Line("download-32", "cpu_seconds_per_gib", "… CPU s/GiB, both sides"),
    _Line("ping-pong", "rate", "64-byte ping-pong a second"),
    _Line("ping-pong", "p99_milliseconds", "… p99, ms"),
    _Line("messages", "rate", "one-way 64-byte writes a second"),
    _Line("set-up", "rate", "sessions set up a second"),
    _Line("set-up", "p50_milliseconds", "… connect to authenticated, p50, ms"),
    _Line("open-close", "rate", "channel open and close a second, one at a time"),
    _Line("open-close-50", "rate", "… 50 in flight"),
    _Line("sessions", "rate", "100 sessions echoing 16 KiB, MB/s in all"),
    _Line("forward", "rate", "forwarded TCP, MB/s"),
    _Line("forward-connections", "rate", "forwarded connections a second, one at a time"),
    _Line("forward-connections-16", "rate", "… 16 in parallel"),
    _Line("forward-connections-64", "rate", "… 64 in parallel"),
    _Line("fairness", "p99_milliseconds", "p99 of ping-pong beside a bulk channel, ms"),
    _Line("idle-sessions", "server_bytes_each", "memory of an idle session, server, KiB", KIB),
    _Line("idle-channels", "server_bytes_each", "memory of an idle channel, server, KiB", KIB),
    _Line("import", "p50_milliseconds", "import, ms"),
)
_OWN_LINES: Final = (
    ("upload", "of_plain", "rate", "upload with reconnect and latency, of the same without"),
    ("download", "of_plain", "rate", "download with reconnect and latency"),
    ("ping-pong", "of_plain", "rate", "ping-pong with reconnect and latency"),
    ("channels-1000", "of_basis", "rate", "upload shared by 1,000 channels, of one channel's"),
    ("turns-channels", "of_basis", "rate", "ping-pong over 1,000 channels in turn, of one's"),
    ("turns-channels", "of_basis", "cpu_milliseconds_each", "… its CPU time, of one's"),
    ("turns-sessions", "of_basis", "rate", "ping-pong over 500 sessions in turn, of one's"),
    ("turns-sessions", "of_basis", "cpu_milliseconds_each", "… its CPU time, of one's"),
    ("pipe-upload", "of_basis", "rate", "upload through a gateway's pipe, of a session's"),
    ("pipe-upload-32", "of_basis", "rate", "… with writes of 32 KiB"),
    ("pipe-upload", "of_limit", "rate", "upload through a gateway's pipe, of framing's gateway"),
    ("pipe-upload-32", "of_limit", "rate", "… with writes of 32 KiB"),
    ("pipe-stuck", "of_basis", "rate", "ping-pong in a pipe beside a stuck channel, of without"),
    ("pipe-stuck", "of_basis", "p99_milliseconds", "… its p99, of without"),
)
_SHORT: Final = {"asyncio": "asyncio", "uvloop": "uvloop", "trio": "Trio"}


def summary(rows: Sequence[Row]) -> str:
    """Return the tables of all workloads: anyssh beside limits and peers, and beside itself."""
    parts = [
        _ours_beside_others(rows),
        _everybody(rows),
        _ours_beside_ourselves(rows),
    ]
    return "\n\n".join(part for part in parts if part)


def _find(rows: Iterable[Row], workload: str, implementation: str) -> Row | None:
    for row in rows:
        if row.workload.name == workload and row.implementation.name == implementation:
            return row
    return None


def _ours_beside_others(rows: Sequence[Row]) -> str:
    lines = []
    for line in _LINES:
        cells = [_cell(_find(rows, line.workload, f"anyssh/{loop}"), line) for loop in LOOPS]
        alike = [row for row in rows if row.workload.name == line.workload]
        best = best_peer(alike, line.field)
        if any(cells):
            peer = "" if best is None else f"{_figure(best, line)} ({best.implementation.name})"
            lines.append([line.text, *cells, peer])
    heads = ["", *(_SHORT[loop] for loop in LOOPS), "best peer"]
    return markdown(heads, lines) if lines else ""


def _cell(row: Row | None, line: _Line) -> str:
    """Show the median, its spread, the share of the limit, and how many times the best peer."""
    if row is None or line.field not in row.runs:
        return ""
    spread = f" ± {row.spread(line.field):.0%}" if len(row.runs[line.field]) > 1 else ""
    parts = [_figure(row, line) + spread]
    limit = row.ratios.get("of_limit", {}).get(line.field)
    if limit is not None and line.field == "rate":
        parts.append(f"{limit:.0%}")
    times = row.ratios.get("times_best_peer", {}).get(line.field)
    if times is not None:
        parts.append(f"×{times:.2f}")
    return " · ".join(parts)


def _figure(row: Row, line: _Line) -> str:
    return number(row.median(line.field) / line.scale)


def _everybody(rows: Sequence[Row]) -> str:
    names = list(
        dict.fromkeys(
            row.implementation.name for row in rows if row.implementation.kind is not Kind.SUBJECT
        )
    )
    lines = []
    for line in _LINES:
        found = [_find(rows, line.workload, name) for name in names]
        cells = [_figure(r, line) if r is not None and line.field in r.runs else "" for r in found]
        if any(cells):
            lines.append([line.text, *cells])
    return markdown(["", *names], lines) if lines else ""


def _ours_beside_ourselves(rows: Sequence[Row]) -> str:
    lines = []
    for workload, kind, name, text in _OWN_LINES:
        family = "anyssh-reconnect" if kind == "of_plain" else "anyssh"
        found = [_find(rows, workload, f"{family}/{loop}") for loop in LOOPS]
        ratios = [None if r is None else r.ratios.get(kind, {}).get(name) for r in found]
        if any(ratio is not None for ratio in ratios):
            lines.append([text, *("" if ratio is None else f"{ratio:.0%}" for ratio in ratios)])
    return markdown(["", *(_SHORT[loop] for loop in LOOPS)], lines) if lines else ""
