"""Turns of the event loop for sessions that are being set up.

To agree on keys and to prove who one is takes a millisecond or so of the processor, each time
something comes from the peer, and hundreds of peers may come at once. All of them together would
keep those waiting who are in already. So in one turn of the event loop at most :data:`PER_TURN`
sessions go on with it, and the others in the turns after. Where a finite field is among our
methods, whose arithmetic takes several times as long, it is one session. As long as there are no
more than that, nobody waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from anyio.lowlevel import RunVar, cancel_shielded_checkpoint

from ..constants import KeyExchange

__all__ = ["PER_TURN", "Handshakes"]

PER_TURN: Final = 4

_LONG: Final = frozenset({KeyExchange.DH_GROUP14_SHA256, KeyExchange.DH_GROUP16_SHA512})


class Handshakes:
    """All sessions of an event loop that are being set up.

    :ivar count: how many these are
    """

    __slots__ = ("_left", "_turn", "count")

    def __init__(self) -> None:
        self.count: int = 0
        self._left = PER_TURN
        self._turn = 0

    @classmethod
    def here(cls) -> Handshakes:
        """Return those of the event loop that runs."""
        found = _all.get(None)
        if found is None:
            found = cls()
            _all.set(found)
        return found

    def begin(self) -> None:
        """Count one more session that is being set up."""
        self.count += 1

    def end(self) -> None:
        """Count one less."""
        self.count -= 1

    def is_crowded(self, methods: Iterable[str]) -> bool:
        """Tell whether so many are there that each waits for its turn.

        :param methods: of key exchange, ours
        """
        return self.count * _weight(methods) > PER_TURN

    async def take_turn(self, methods: Iterable[str]) -> None:
        """Wait for a turn in which few have gone on yet.

        Is not cancelled meanwhile: the reader of a link, which calls this, holds bytes of the peer.

        :param methods: of key exchange, ours
        """
        weight = _weight(methods)
        while self._left < weight:
            turn = self._turn
            await cancel_shielded_checkpoint()
            if turn == self._turn:  # of those who waited, this is the first
                self._turn += 1
                self._left = PER_TURN
        self._left -= weight


def _weight(methods: Iterable[str]) -> int:
    return 1 if _LONG.isdisjoint(methods) else PER_TURN


_all: Final[RunVar[Handshakes]] = RunVar("anyssh.session.handshakes")
