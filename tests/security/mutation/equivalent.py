"""Changes that make no difference to anybody, and why: looked at one by one, and not counted.

They are named by module, line of source and change, so that they survive changes elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from .mutants import Mutant

__all__ = ["EQUIVALENT", "reason_for"]

EQUIVALENT: Final[dict[str, dict[tuple[str, str], str]]] = {
    "anyssh.protocol.acceptance": {
        (
            "Row((N.SERVICE_ACCEPT,), _CLIENT, (Phase.RUNNING,), Condition.SERVICE_PENDING),",
            "_CLIENT -> _BOTH",
        ): "the condition never holds for a server, which asks for no service",
    },
    "anyssh.protocol.journal": {
        ("self.struck_off: int = -1", "1 -> 2"): "every packet comes after both numbers",
        ("self.last_received: int = -1", "1 -> 2"): "it is set before it is read",
        ("self.last_sent: int = -1", "1 -> 2"): "it is set before it is read",
        ("self.unanswered: int = -1", "1 -> 2"): "every packet comes after both numbers",
    },
    "anyssh.protocol.reconnect": {
        (
            "self._has_asked = False",
            "without self._has_asked = False",
        ): "the reply ends the phase in which it is looked at",
    },
}
"""By module, then by line and change: the reason."""


def reason_for(mutant: Mutant, source: Callable[[str], str]) -> str | None:
    """Return why a change makes no difference, None if it may make one."""
    known = EQUIVALENT.get(mutant.module)
    if known is None:
        return None
    return known.get((_lines(mutant.module, source)[mutant.line - 1].strip(), mutant.what))


@cache
def _lines(module: str, source: Callable[[str], str]) -> list[str]:
    return source(module).splitlines()
