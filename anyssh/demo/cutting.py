"""A network that breaks: streams that are cut at random places."""

from __future__ import annotations

from secrets import SystemRandom

from anyio.abc import ByteStream, ByteStreamConnectable

from ..testing import Cut, Direction, Ending, Fault, FaultStream, Report

__all__ = ["CuttingConnectable"]

HANDSHAKE_BYTES = 3000
EARLY_CUTS = 8
"""One cut in so many happens while the session is still reconnecting."""

_random = SystemRandom()


class CuttingConnectable(ByteStreamConnectable):
    """Connects streams that are cut after a while.

    :param connectable: connects the actual streams
    :param distance: the average number of bytes between two cuts in one direction
    :param cuts: the least number of cuts; afterwards no stream is cut
    """

    def __init__(self, connectable: ByteStreamConnectable, distance: int, cuts: int) -> None:
        self._connectable = connectable
        # Between most of the cuts, the session has to come back.
        self._distance = max(distance, 4 * HANDSHAKE_BYTES)
        self._planned = cuts
        self._streams: list[FaultStream] = []

    @property
    def cuts(self) -> int:
        """How often a stream was cut so far."""
        return sum(stream.is_cut for stream in self._streams)

    async def connect(self) -> ByteStream:
        """Return a stream that will not last."""
        stream = FaultStream(await self._connectable.connect(), self._plan())
        self._streams.append(stream)
        return stream

    def _plan(self) -> list[Fault]:
        if self.cuts >= self._planned:
            return []
        is_early = self._streams and _random.randrange(EARLY_CUTS) == 0
        after = _random.randrange(HANDSHAKE_BYTES if is_early else self._distance)
        return [
            Cut(
                _random.choice(list(Direction)),
                after + (0 if is_early or self._streams else HANDSHAKE_BYTES),
                _random.choice(list(Ending)),
                _random.choice(list(Report)),
            )
        ]
