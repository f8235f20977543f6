"""What the peer has sent on channels that it has closed since, and that nobody has read yet.

Such a channel counts among the open ones no more, and its window belongs to others. So a peer could
fill and close one after the other before a slow application has read them. While too much waits,
it opens no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from ..config import Limits

if TYPE_CHECKING:
    from .channel import Channel

__all__ = ["Leftovers"]


class Leftovers:
    """The closed channels of one session that have bytes left, while anybody may read them.

    There may be as many as channels, and they may hold as much as those.
    """

    __slots__ = ("_channels", "_least", "_most", "_size", "_sorted_out_at")

    def __init__(self, limits: Limits) -> None:
        self._most = limits.receive_memory
        self._least = limits.receive_memory // limits.channels
        self._channels: list[ref[Channel]] = []
        self._size = 0
        self._sorted_out_at = limits.channels

    def note(self, channel: Channel) -> None:
        """Note a channel that was closed by the peer."""
        # Of a peer that opens none, nobody asks whether these are too much.
        if len(self._channels) >= self._sorted_out_at:
            self._sort_out()
        self._channels.append(ref(channel))
        self._size += self._weight(channel)

    def are_too_much(self) -> bool:
        """Tell whether the peer has to wait until more of it was read, or given up."""
        if self._size >= self._most:
            self._sort_out()
        return self._size >= self._most

    def _sort_out(self) -> None:
        """Forget the channels that were read or given up; those that we have opened may be many."""
        left = [each for each in self._channels if (channel := each()) and channel._unread]
        self._channels = left
        self._size = sum(self._weight(channel) for each in left if (channel := each()))
        self._sorted_out_at = max(self._sorted_out_at, 2 * len(left))

    def _weight(self, channel: Channel) -> int:
        return max(channel._unread, self._least)
