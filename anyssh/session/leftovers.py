"""What is left of closed channels: unread data and requests, and handlers that still run.

Such a channel no longer counts as open, its window is granted to others, and its requests no longer
count as waiting. A peer could therefore fill and close one channel after another before a slow
application has read them, or a slow service has taken the requests of channels closed here; or
have one handler after another started before slow ones have ended. While too much is left, it may
not open more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

from ..config import Limits

if TYPE_CHECKING:
    from .channel import Channel

__all__ = ["Leftovers"]


class Leftovers:
    """The closed channels of one session of which anything is left, while anything refers to them.

    They may be as many, and hold as many bytes, as open channels.
    """

    __slots__ = ("_channels", "_least", "_most", "_size", "_sorted_out_at")

    def __init__(self, limits: Limits) -> None:
        self._most = limits.receive_memory
        self._least = limits.receive_memory // limits.channels
        self._channels: list[ref[Channel]] = []
        self._size = 0
        self._sorted_out_at = limits.channels

    def note(self, channel: Channel) -> None:
        """Add a channel that was just closed."""
        # are_too_much() is never called for a peer that opens no channels.
        if len(self._channels) >= self._sorted_out_at:
            self._sort_out()
        self._channels.append(ref(channel))
        self._size += self._weight(channel)

    def are_too_much(self) -> bool:
        """Tell whether the peer must wait until more was read or discarded."""
        if self._size >= self._most:
            self._sort_out()
        return self._size >= self._most

    def _sort_out(self) -> None:
        """Remove channels that were read or discarded; those that we opened may be many."""
        left = [each for each in self._channels if (channel := each()) and _is_left(channel)]
        self._channels = left
        self._size = sum(self._weight(channel) for each in left if (channel := each()))
        self._sorted_out_at = max(self._sorted_out_at, 2 * len(left))

    def _weight(self, channel: Channel) -> int:
        return max(channel._unread + len(channel.open_payload), self._least)


def _is_left(channel: Channel) -> bool:
    return channel._is_handled or channel._unread > 0
