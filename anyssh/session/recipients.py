"""Protocols for receiving a channel's data through callbacks, without a task."""

from __future__ import annotations

from typing import Protocol

from ..errors import ChannelOpenError
from ..wire import Buffer

__all__ = ["Attendant", "Recipient"]


class Recipient(Protocol):
    """Receives a channel's data at once; see :meth:`Channel.deliver_to`.

    The session's reader calls these methods, so they must neither wait nor raise.
    """

    def deliver(self, data: Buffer) -> int:
        """Consume bytes from the front, as far as possible now; return how many.

        :param data: the bytes that arrived
        """

    def deliver_eof(self) -> None:
        """React to EOF: the peer sends no more bytes, and all were delivered."""

    def channel_closed(self, by_peer: bool) -> None:
        """React to the channel being closed.

        :param by_peer: whether its peer closed it, rather than we or the end of the session
        """


class Attendant(Recipient, Protocol):
    """Handles all of a channel's events without a task; see :meth:`Session.open_channel_nowait`."""

    def channel_opened(self) -> None:
        """React to the confirmation of a channel that we asked to open."""

    def channel_refused(self, error: ChannelOpenError) -> None:
        """React to the refusal of a channel that we asked to open.

        :param error: the reason
        """

    def channel_writable(self) -> None:
        """Continue sending: :meth:`Channel.send_nowait` had stopped short, and now accepts more."""
