"""Fair turns for sessions that are being set up.

Key exchange and authentication take about a millisecond of processor time for each message of the
peer, and hundreds of peers may connect at once. Together they would stall the established sessions.
So in each iteration of the event loop at most :data:`PER_ITERATION` sessions proceed with their
set-up, and the others in later ones; just one session if a finite-field method, which takes several
times as long, is enabled. Up to that number, nobody waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from anyio.lowlevel import RunVar, cancel_shielded_checkpoint

from ..constants import KeyExchange

__all__ = ["PER_ITERATION", "Handshakes"]

PER_ITERATION: Final = 4

_LONG: Final = frozenset({KeyExchange.DH_GROUP14_SHA256, KeyExchange.DH_GROUP16_SHA512})


class Handshakes:
    """The sessions of an event loop that are being set up.

    :ivar count: how many there are
    """

    __slots__ = ("_iteration", "_left", "count")

    def __init__(self) -> None:
        self.count: int = 0
        self._left = PER_ITERATION
        self._iteration = 0

    @classmethod
    def here(cls) -> Handshakes:
        """Return the instance of the running event loop."""
        found = _all.get(None)
        if found is None:
            found = cls()
            _all.set(found)
        return found

    def begin(self) -> None:
        """Count one more session."""
        self.count += 1

    def end(self) -> None:
        """Count one session less."""
        self.count -= 1

    def is_crowded(self, methods: Iterable[str]) -> bool:
        """Tell whether there are so many sessions that each must wait for its turn.

        :param methods: our key exchange methods
        """
        return self.count * _weight(methods) > PER_ITERATION

    async def take_turn(self, methods: Iterable[str]) -> None:
        """Wait for an iteration that has capacity left.

        Shielded from cancellation, as the caller, the reader of a link, holds bytes from the peer.

        :param methods: our key exchange methods
        """
        weight = _weight(methods)
        while self._left < weight:
            iteration = self._iteration
            await cancel_shielded_checkpoint()
            if iteration == self._iteration:  # the first waiting task to run starts a new one
                self._iteration += 1
                self._left = PER_ITERATION
        self._left -= weight


def _weight(methods: Iterable[str]) -> int:
    return 1 if _LONG.isdisjoint(methods) else PER_ITERATION


_all: Final[RunVar[Handshakes]] = RunVar("anyssh.session.handshakes")
