"""Medians, ratios, and the tables that show them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any, Final

from .harness import Measurement, MemorySamples
from .implementations import Implementation, Kind

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB

Row = dict[str, Any]

_UNITS: Final = {
    "upload": "MB/s",
    "download": "MB/s",
    "ping-pong": "round trips/s",
    "set-up": "sessions/s",
    "memory-upload": "MB/s",
    "memory-download": "MB/s",
    "slow-reader": "MB/s",
    "forward": "MB/s",
    "forward-connections": "connections/s",
    "forward-connections-16": "connections/s",
    "forward-memory": "connections/s",
}
# Allocators and interpreters give and take a little whatever the program does.
_FLAT_BYTES: Final = 4 * MIB
_HELD_SHARE: Final = 1 / 8
_LIMITS: Final = {"upload": "framing", "download": "framing", "ping-pong": "tcp"}


def unit(workload: str) -> str:
    """Return what the figures of a workload count."""
    return _UNITS[workload]


def figure(run: Measurement) -> float:
    """Return the one figure of a run: megabytes (10^6) or repetitions in a second."""
    seconds = float(run.line["seconds"])
    if "bytes" in run.line:
        return float(run.line["bytes"]) / seconds / 1e6
    return float(run.line["count"]) / seconds


def summarise(implementation: Implementation, workload: str, runs: list[Measurement]) -> Row:
    """Return the row of one implementation: medians over the runs, and their spread."""
    figures = [figure(run) for run in runs]

    def median(value: Callable[[Measurement], float]) -> float:
        return statistics.median(map(value, runs))

    row: Row = {
        "workload": workload,
        "implementation": implementation.name,
        "kind": implementation.kind.value,
        "loop": implementation.loop,
        "unit": unit(workload),
        "runs": figures,
        "median": statistics.median(figures),
        "minimum": min(figures),
        "maximum": max(figures),
        "client_peak_bytes": median(lambda run: run.client_peak),
        "server_peak_bytes": median(lambda run: run.server_peak),
        "note": runs[0].note,
    }
    if "bytes" in runs[0].line:
        per_gib = GIB / runs[0].line["bytes"]
        row["client_cpu_seconds_per_gib"] = median(lambda run: run.client_cpu * per_gib)
        row["server_cpu_seconds_per_gib"] = median(lambda run: run.server_cpu * per_gib)
        row["cpu_seconds_per_gib"] = median(lambda run: (run.client_cpu + run.server_cpu) * per_gib)
    else:
        row["cpu_milliseconds_each"] = median(
            lambda run: (run.client_cpu + run.server_cpu) / run.line["count"] * 1000
        )
        row["p50_milliseconds"] = median(lambda run: run.line["p50"] * 1000)
        row["p99_milliseconds"] = median(lambda run: run.line["p99"] * 1000)
    return row


def summarise_memory(implementation: Implementation, workload: str, run: Measurement) -> Row:
    """Return the row of a long transfer: how much memory grew from its first half to its second."""
    samples = run.samples
    client = MemorySamples.growth(samples.client)
    server = MemorySamples.growth(samples.server)
    return {
        **summarise(implementation, workload, [run]),
        "bytes": run.line["bytes"],
        "samples": len(samples.client),
        "client_growth_bytes": client,
        "server_growth_bytes": server,
        "is_bounded": max(client, server) <= _FLAT_BYTES,
    }


def summarise_slow_reader(implementation: Implementation, run: Measurement) -> Row:
    """Return the row of a stalled transfer: how much both ends took on meanwhile."""

    def taken_on(samples: list[int]) -> int:
        stalled = samples[: run.stalled_samples]
        return max(stalled, default=0) - min(stalled[:1], default=0)

    client = taken_on(run.samples.client)
    server = taken_on(run.samples.server)
    return {
        **summarise(implementation, "slow-reader", [run]),
        "bytes": run.line["bytes"],
        "client_growth_bytes": client,
        "server_growth_bytes": server,
        "is_bounded": max(client, server) <= _HELD_SHARE * run.line["bytes"],
    }


def summarise_held(implementation: Implementation, run: Measurement) -> Row:
    """Return the row of connections that are held: how much memory they took."""
    return {
        **summarise(implementation, "forward-memory", [run]),
        "count": run.line["count"],
        "client_growth_bytes": MemorySamples.growth(run.samples.client),
        "server_growth_bytes": MemorySamples.growth(run.samples.server),
    }


def add_ratios(rows: list[Row]) -> None:
    """Compare the rows of one workload with its limit and with the best peer.

    The limit is that of the same event loop; of the best loop for what runs on none of ours.
    """
    if not rows:
        return
    family = _LIMITS.get(rows[0]["workload"])
    limits = {
        row["loop"]: row["median"]
        for row in rows
        if family is not None and row["implementation"].startswith(family + "/")
    }
    peers = {row["implementation"]: row["median"] for row in rows if row["kind"] == Kind.PEER.value}
    best = max(peers, key=lambda name: peers[name], default=None)
    for row in rows:
        limit = limits.get(row["loop"]) or max(limits.values(), default=None)
        if limit is not None:
            row["of_limit"] = row["median"] / limit
        if best is not None:
            row["best_peer"] = best
            row["of_best_peer"] = row["median"] / peers[best]


def table(workload: str, rows: Iterable[Row]) -> str:
    """Return the rows of one workload as a Markdown table."""
    if workload.startswith("memory") or workload == "slow-reader":
        columns = _MEMORY_COLUMNS
    elif workload == "forward-memory":
        columns = _HELD_COLUMNS
    else:
        columns = [
            *_COMMON_COLUMNS,
            *(_BULK_COLUMNS if unit(workload) == "MB/s" else _COUNTING_COLUMNS),
            *_PEAK_COLUMNS,
        ]
    cells = [[show(row) for _, show in columns] for row in rows]
    heads = [head.replace("UNIT", unit(workload)) for head, _ in columns]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = [heads, ["-" * width for width in widths], *cells]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if index and number != 1 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for number, line in enumerate(lines)
    )


def _number(name: str, digits: int = 0, scale: float = 1) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        value = row.get(name)
        return "" if not value else f"{value / scale:,.{digits}f}"

    return show


def _growth(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row[name] / MIB:+.1f}"


def _percentage(row: Row) -> str:
    return f"{row['of_limit']:.0%}" if "of_limit" in row else ""


_Column = tuple[str, Callable[[Row], str]]
_NAME: Final[_Column] = ("implementation", lambda row: row["implementation"])
_COMMON_COLUMNS: Final[list[_Column]] = [
    _NAME,
    ("UNIT", _number("median")),
    ("min", _number("minimum")),
    ("max", _number("maximum")),
    ("of limit", _percentage),
    ("× best peer", _number("of_best_peer", 2)),
]
_BULK_COLUMNS: Final[list[_Column]] = [
    ("CPU s/GiB", _number("cpu_seconds_per_gib", 2)),
    ("client", _number("client_cpu_seconds_per_gib", 2)),
    ("server", _number("server_cpu_seconds_per_gib", 2)),
]
_COUNTING_COLUMNS: Final[list[_Column]] = [
    ("p50 ms", _number("p50_milliseconds", 3)),
    ("p99 ms", _number("p99_milliseconds", 3)),
    ("CPU ms each", _number("cpu_milliseconds_each", 3)),
]
_PEAK_COLUMNS: Final[list[_Column]] = [
    ("client MiB", _number("client_peak_bytes", 0, MIB)),
    ("server MiB", _number("server_peak_bytes", 0, MIB)),
]
_MEMORY_COLUMNS: Final[list[_Column]] = [
    _NAME,
    ("moved MiB", _number("bytes", 0, MIB)),
    ("UNIT", _number("median")),
    ("client grew MiB", _growth("client_growth_bytes")),
    ("server grew MiB", _growth("server_growth_bytes")),
    ("bounded", lambda row: "yes" if row["is_bounded"] else "NO"),
    *_PEAK_COLUMNS,
]
_HELD_COLUMNS: Final[list[_Column]] = [
    _NAME,
    ("held", _number("count")),
    ("UNIT", _number("median")),
    ("client grew MiB", _growth("client_growth_bytes")),
    ("server grew MiB", _growth("server_growth_bytes")),
    *_PEAK_COLUMNS,
]
