"""The status of a tunnel: updated in place on a terminal, otherwise as plain lines."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

__all__ = ["Status", "StatusDisplay", "duration", "make_display", "size"]

UNITS: Final = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True)
class Status:
    """The present status of a tunnel.

    :ivar sent_rate: bytes per second
    :ivar received_rate: bytes per second
    :ivar sent: bytes so far
    :ivar received: bytes so far
    :ivar latency: in milliseconds, 0 if not measured
    :ivar connections: open connections
    :ivar reconnections: how often the tunnel was restored
    :ivar lost_for: seconds since the network was lost, None if it is not
    """

    sent_rate: float = 0.0
    received_rate: float = 0.0
    sent: int = 0
    received: int = 0
    latency: float = 0.0
    connections: int = 0
    reconnections: int = 0
    lost_for: float | None = None

    def __str__(self) -> str:
        parts = [
            "connected"
            if self.lost_for is None
            else f"NOT CONNECTED for {duration(self.lost_for)}",
            f"up {size(self.sent_rate)}/s",
            f"down {size(self.received_rate)}/s",
            f"latency {self.latency:.1f} ms" if self.latency else "",
            _counted(self.connections, "connection"),
            _counted(self.reconnections, "reconnection"),
            f"{size(self.sent + self.received)} in total",
        ]
        return "  ".join(filter(None, parts))


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def size(amount: float) -> str:
    """Format a number of bytes for people."""
    power = 0
    while amount >= 999.5 and power < len(UNITS) - 1:
        amount /= 1000
        power += 1
    return f"{amount:.3g} {UNITS[power]}"


def duration(seconds: float) -> str:
    """Format a duration for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class StatusDisplay(Protocol):
    """Displays messages and the changing status, inside ``with``."""

    interval: float
    """Seconds between two updates."""

    def tell(self, fact: str) -> None:
        """Display a message permanently."""

    def show(self, status: Status) -> None:
        """Display the latest status."""

    def __enter__(self) -> Self:
        """Start."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""


class PlainDisplay(AbstractContextManager["PlainDisplay"]):
    """Prints a line for each message, and occasionally one for a status that has changed."""

    interval: float = 10.0

    def __init__(self) -> None:
        self._last = Status()

    def tell(self, fact: str) -> None:
        """Print a line."""
        print(f"{time.strftime('%H:%M:%S')} {fact}", flush=True)

    def show(self, status: Status) -> None:
        """Print a line if the tunnel is in use."""
        if status.connections or self._last.connections:
            self.tell(str(status))
        self._last = status

    def __exit__(self, *exc_info: object) -> None:
        return None


class LiveDisplay:
    """Draws the status below the messages, repeatedly."""

    interval: float = 0.5

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(refresh_per_second=4)

    def tell(self, fact: str) -> None:
        """Print a line above the status, which is there once it was first drawn."""
        from rich.text import Text

        self._live.console.print(Text(f"{time.strftime('%H:%M:%S')} {fact}"))
        self._live.start()

    def show(self, status: Status) -> None:
        """Redraw the status."""
        from rich.text import Text

        if not self._live.is_started:  # the terminal is still used for prompts
            return
        style = "green" if status.lost_for is None else "bold red"
        line = Text("● ", style=style, no_wrap=True, overflow="ellipsis")
        line.append(str(status), style="default" if status.lost_for is None else style)
        self._live.update(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()


def make_display() -> StatusDisplay:
    """Return a display suited to standard output."""
    return LiveDisplay() if sys.stdout.isatty() else PlainDisplay()
