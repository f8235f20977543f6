"""The categories of the Dev Tunnels SSH benchmark suite: anyssh beside the npm package.

Each program measures every scenario in one process, with both ends in it, as that suite does, and
prints a line of JSON for each. Rounds run one program after the other; the first is discarded.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from .harness import PeerFailed, Program
from .implementations import LOOPS, Implementation
from .report import markdown, number

NAME: Final = "categories"
_HERE: Final = Path(__file__).parent
_NPM: Final = _HERE / "npm"
_PACKAGE: Final = "dev-tunnels-ssh"
_HIGHER_IS_BETTER: Final = frozenset(("MB/s",))
_PATIENCE: Final = 120.0

Key = tuple[str, str, str]
"""Category, scenario and unit."""


def _programs(able: Sequence[Implementation]) -> dict[str, tuple[list[str], Path]]:
    """Return how to start each program, by its name; the npm package as well as anyssh."""
    names = {each.name for each in able}
    programs = {
        f"anyssh/{loop}": (
            [sys.executable, "-m", "benchmarks.peers.anyssh_categories", "--loop", loop],
            _HERE.parent,
        )
        for loop in LOOPS
        if f"anyssh/{loop}" in names
    }
    if _PACKAGE in names:
        programs[_PACKAGE] = (["node", str(_NPM / "categories.js")], _NPM)
    return programs


class Categories:
    """What each program measured, in each scenario and round.

    :ivar values: by scenario, then by program
    :ivar failures: what went wrong
    """

    def __init__(self) -> None:
        self.values: dict[Key, dict[str, list[float]]] = {}
        self.failures: list[str] = []

    def measure(
        self,
        able: Sequence[Implementation],
        *,
        runs: int,
        seconds: float,
        warm_up_seconds: float,
        progress: Callable[[str], None],
    ) -> None:
        """Run the programs in rounds.

        :param able: implementations that can run here
        :param seconds: of each scenario
        :param warm_up_seconds: of each scenario in a first round, which is discarded; 0 for none
        """
        programs = _programs(able)
        for round_number in range(0 if warm_up_seconds else 1, runs + 1):
            for name in list(programs):
                label = f"run {round_number}" if round_number else "warm-up"
                progress(f"  {label} {NAME} {name}")
                try:
                    found = self._run(*programs[name], seconds if round_number else warm_up_seconds)
                except PeerFailed as error:
                    self.failures.append(f"{name}, {NAME}: {error}")
                    progress(f"  FAILED {self.failures[-1]}")
                    del programs[name]
                    continue
                if round_number:
                    for key, value in found.items():
                        self.values.setdefault(key, {}).setdefault(name, []).append(value)

    @staticmethod
    def _run(command: list[str], directory: Path, seconds: float) -> dict[Key, float]:
        found: dict[Key, float] = {}
        with Program([*command, "--seconds", str(seconds)], directory, False) as program:
            while "value" in (line := program.read_line(_PATIENCE)):
                found[line["category"], line["scenario"], line["unit"]] = line["value"]
        return found

    def table(self) -> str:
        """Return the medians, and how many times better than the package each loop is."""
        names = list(dict.fromkeys(name for found in self.values.values() for name in found))
        heads = ["category", "scenario", "unit"]
        for name in names:
            heads += [name] if name == _PACKAGE else [name, "×"]
        lines = []
        for (category, scenario, unit), found in self.values.items():
            line = [category, scenario, unit]
            for name in names:
                line.append(number(statistics.median(found[name])) if name in found else "")
                if name != _PACKAGE:
                    line.append(_times_better(unit, found, name))
            lines.append(line)
        return markdown(heads, lines) if lines else ""

    def as_json(self) -> list[dict[str, Any]]:
        """Return everything, unrounded."""
        return [
            {"category": category, "scenario": scenario, "unit": unit, "runs": found}
            for (category, scenario, unit), found in self.values.items()
        ]


def _times_better(unit: str, found: dict[str, list[float]], name: str) -> str:
    """Show the median, over the rounds, of how many times better than the package it is."""
    theirs, ours = found.get(_PACKAGE, []), found.get(name, [])
    pairs = [(a, b) if unit in _HIGHER_IS_BETTER else (b, a) for a, b in zip(ours, theirs)]  # noqa: B905 - a program may fail in a later round
    return number(statistics.median(a / b for a, b in pairs if b)) if pairs else ""
