"""Who takes what comes on a channel at once, in place of a task that receives."""

from __future__ import annotations

from typing import Protocol

from ..errors import ChannelOpenError
from ..wire import Buffer

__all__ = ["Attendant", "Recipient"]


class Recipient(Protocol):
    """Takes what comes on a channel at once; see :meth:`Channel.deliver_to`.

    The session's reader calls these functions, so they neither wait nor raise.
    """

    def deliver(self, data: Buffer) -> int:
        """Take bytes from the front, as far as that is possible now; return how many it was.

        :param data: what has come
        """

    def deliver_eof(self) -> None:
        """Note that the peer sends no more bytes, and that all were delivered."""

    def channel_closed(self, by_peer: bool) -> None:
        """Note that the channel is closed.

        :param by_peer: whether its peer has closed it, and not we or the end of its session
        """


class Attendant(Recipient, Protocol):
    """Attends to a channel without any task; see :meth:`Session.open_channel_nowait`."""

    def channel_opened(self) -> None:
        """Note that the peer has confirmed the channel, if we had asked for it."""

    def channel_refused(self, error: ChannelOpenError) -> None:
        """Note that the peer has refused the channel, which is of no use any more.

        :param error: why
        """

    def channel_writable(self) -> None:
        """Send on: :meth:`Channel.send_nowait` had not taken everything, and takes more now."""
