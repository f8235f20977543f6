"""The workloads, in groups whose members are measured in the same rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final


class Figure(Enum):
    """What a workload is about: a field of its rows, with its unit, and which way is better."""

    BULK = ("rate", "MB/s", True)
    RATE = ("rate", "1/s", True)
    P99 = ("p99_milliseconds", "ms", False)
    TIME = ("p50_milliseconds", "ms", False)
    HELD = ("server_bytes_each", "KiB", False)

    def __init__(self, field: str, unit: str, higher_is_better: bool) -> None:
        self.field = field
        self.unit = unit
        self.higher_is_better = higher_is_better


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One thing to measure.

    :ivar name: as in the tables and for ``--workloads``
    :ivar text: what happens, for the tables
    :ivar figure: what it is about
    :ivar action: what the client's program is told to do; the name if empty
    :ivar write_kib: one write
    :ivar mib: to move; what an implementation moves in about a second if 0
    :ivar width: sessions, channels or work in flight
    :ivar limit: the family of implementations that is its limit
    :ivar basis: the workload of the same group that it is compared with, round by round
    :ivar through_gateway: a process between client and server joins two sessions
    :ivar ours: for anyssh only, unless others are named
    :ivar with_reconnect: anyssh takes part with reconnect and latency, too
    :ivar once: measured in a single run, with memory watched
    """

    name: str
    text: str
    figure: Figure
    action: str = ""
    write_kib: int = 256
    mib: int = 0
    width: int = 1
    limit: str = ""
    basis: str = ""
    through_gateway: bool = False
    ours: bool = False
    with_reconnect: bool = False
    once: bool = False

    @property
    def told(self) -> str:
        """What the client's program is told to do."""
        return self.action or self.name


def _bulk(direction: str, write_kib: int) -> Workload:
    return Workload(
        name=direction if write_kib == 256 else f"{direction}-{write_kib}",
        text=f"{direction}, writes of {write_kib} KiB",
        figure=Figure.BULK,
        action=direction,
        write_kib=write_kib,
        limit="framing",
        with_reconnect=write_kib == 256,
    )


def _connections(in_flight: int) -> Workload:
    return Workload(
        name="forward-connections" + (f"-{in_flight}" if in_flight > 1 else ""),
        text=f"forwarded connections, {'one' if in_flight == 1 else in_flight} at a time",
        figure=Figure.RATE,
        limit="framing",
    )


def _piped(write_kib: int) -> tuple[Workload, Workload]:
    """Return an upload to a server, and the same through a gateway."""
    suffix = "" if write_kib == 256 else f"-{write_kib}"
    alone = Workload(
        name=f"direct-upload{suffix}",
        text=f"upload without a gateway, writes of {write_kib} KiB",
        figure=Figure.BULK,
        action="upload",
        write_kib=write_kib,
        mib=256,
        limit="framing",
        ours=True,
    )
    text = f"upload through a gateway's pipe, writes of {write_kib} KiB"
    name = f"pipe-upload{suffix}"
    return alone, replace(alone, name=name, text=text, basis=alone.name, through_gateway=True)


_OPEN_CLOSE: Final = [
    Workload(
        name="open-close" + (f"-{width}" if width > 1 else ""),
        text=f"channel open and close, {width} in flight",
        figure=Figure.RATE,
        action="open-close",
        width=width,
    )
    for width in (1, 50)
]
_MEMORY: Final = [
    Workload(
        name=f"memory-{direction}",
        text=f"{direction} of 4 GiB, memory watched",
        figure=Figure.BULK,
        action=direction,
        mib=4096,
        ours=True,
        once=True,
    )
    for direction in ("upload", "download")
]

GROUPS: Final[tuple[tuple[Workload, ...], ...]] = (
    (_bulk("upload", 256), _bulk("download", 256)),
    (_bulk("upload", 32), _bulk("download", 32)),
    (
        Workload(
            name="ping-pong",
            text="ping-pong, 64 bytes",
            figure=Figure.RATE,
            limit="tcp",
            with_reconnect=True,
        ),
    ),
    (Workload(name="messages", text="one-way writes of 64 bytes", figure=Figure.RATE),),
    (Workload(name="set-up", text="session set-up", figure=Figure.RATE),),
    (*_OPEN_CLOSE,),
    (
        Workload(
            name="sessions",
            text="100 sessions echoing 16 KiB, in all",
            figure=Figure.BULK,
            width=100,
        ),
    ),
    (
        Workload(name="forward", text="forwarded TCP", figure=Figure.BULK, mib=128),
        _connections(1),
        _connections(16),
        _connections(64),
    ),
    (
        Workload(
            name="fairness",
            text="p99 of ping-pong beside a bulk channel",
            figure=Figure.P99,
        ),
    ),
    (Workload(name="import", text="import", figure=Figure.TIME),),
    (
        Workload(
            name="idle-sessions",
            text="memory of an idle session, server",
            figure=Figure.HELD,
            width=300,
            once=True,
        ),
        Workload(
            name="idle-channels",
            text="memory of an idle channel, server",
            figure=Figure.HELD,
            width=900,
            once=True,
        ),
    ),
    (
        Workload(
            name="channels-1",
            text="upload over one channel",
            figure=Figure.BULK,
            action="channels",
            mib=1024,
            ours=True,
        ),
        Workload(
            name="channels-1000",
            text="upload shared by 1,000 channels",
            figure=Figure.BULK,
            action="channels",
            mib=1024,
            width=1000,
            basis="channels-1",
            ours=True,
        ),
    ),
    (
        Workload(
            name="turns-1",
            text="ping-pong over one channel",
            figure=Figure.RATE,
            action="turns-of-channels",
            ours=True,
        ),
        Workload(
            name="turns-channels",
            text="ping-pong over 1,000 channels in turn",
            figure=Figure.RATE,
            action="turns-of-channels",
            width=1000,
            basis="turns-1",
            ours=True,
        ),
        Workload(
            name="turns-sessions",
            text="ping-pong over 500 sessions in turn",
            figure=Figure.RATE,
            action="turns-of-sessions",
            width=500,
            basis="turns-1",
            ours=True,
        ),
    ),
    _piped(256),
    _piped(32),
    (
        Workload(
            name="pipe-ping-pong",
            text="ping-pong through a gateway's pipe",
            figure=Figure.RATE,
            action="ping-pong",
            through_gateway=True,
            ours=True,
        ),
        Workload(
            name="pipe-stuck",
            text="the same beside a channel that nobody reads",
            figure=Figure.RATE,
            action="beside-stuck",
            basis="pipe-ping-pong",
            through_gateway=True,
            ours=True,
        ),
    ),
    (*_MEMORY,),
    (
        Workload(
            name="slow-reader",
            text="a reader that stops for a while",
            figure=Figure.BULK,
            mib=64,
            ours=True,
            once=True,
        ),
        Workload(
            name="forward-memory",
            text="1,000 forwarded connections that stay open",
            figure=Figure.RATE,
            ours=True,
            once=True,
        ),
    ),
)


def workloads() -> Iterator[Workload]:
    """Return every workload, in the order of the tables."""
    for group in GROUPS:
        yield from group
