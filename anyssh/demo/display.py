"""The progress of the demo: live on a terminal if rich is installed, otherwise as plain lines."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Display", "Status", "make_display"]

SECONDS_PER_LINE = 1.0
BAR_WIDTH = 40


@dataclass(frozen=True, slots=True)
class Status:
    """The present progress.

    :ivar done: from 0 to 1
    :ivar rate: MiB per second that came back
    :ivar latency: in milliseconds
    """

    is_connected: bool
    done: float
    rate: float
    latency: float
    cuts: int
    reconnections: int

    def __str__(self) -> str:
        state = "connected" if self.is_connected else "DISCONNECTED"
        return (
            f"{self.done:4.0%} {self.rate:5.0f} MiB/s  latency {self.latency:6.2f} ms  "
            f"{self.cuts:3} cuts  {self.reconnections:3} reconnections  {state}"
        )


class Display(Protocol):
    """Displays the changing status."""

    def show(self, status: Status) -> None:
        """Display the latest status."""


class PlainDisplay(AbstractContextManager["PlainDisplay"]):
    """Prints a line occasionally."""

    def __init__(self) -> None:
        self._last = 0.0

    def show(self, status: Status) -> None:
        """Print a line, if the last one is old enough."""
        now = time.monotonic()
        if now - self._last >= SECONDS_PER_LINE:
            self._last = now
            print(f"tunnel: {status}", flush=True)

    def __exit__(self, *exc_info: object) -> None:
        return None


class RichDisplay:
    """Updates one line in place."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(refresh_per_second=8)

    def show(self, status: Status) -> None:
        """Redraw the line."""
        from rich.text import Text

        filled = round(BAR_WIDTH * status.done)
        line = Text("━" * filled, style="green" if status.is_connected else "red")
        line.append("━" * (BAR_WIDTH - filled), style="dim")
        line.append(f" {status}")
        self._live.update(line)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()


def make_display() -> PlainDisplay | RichDisplay:
    """Return a display suited to standard output."""
    if not sys.stdout.isatty():
        return PlainDisplay()
    try:
        return RichDisplay()
    except ImportError:
        return PlainDisplay()
