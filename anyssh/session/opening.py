"""A channel that the peer asks to open, until it is accepted or rejected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio.lowlevel

from ..constants import ChannelOpenFailureReason
from ..protocol.channel import ChannelState

if TYPE_CHECKING:
    from .channel import Channel
    from .session import Session

__all__ = ["ChannelOpening"]


class ChannelOpening:
    """A channel that the peer asks to open, waiting to be accepted or rejected."""

    __slots__ = ("_is_handled", "_payload", "_session", "_state")

    def __init__(self, session: Session, state: ChannelState, payload: bytes) -> None:
        self._session = session
        self._state = state
        self._payload = payload
        self._is_handled = False

    @property
    def channel_type(self) -> str:
        """The requested channel type."""
        return self._state.channel_type

    @property
    def payload(self) -> bytes:
        """The type-specific data of CHANNEL_OPEN, in wire format."""
        return self._payload

    async def accept(self, *, payload: bytes = b"", window_size: int | None = None) -> Channel:
        """Accept the channel, which opens it.

        :param payload: type-specific data to send with the confirmation
        :param window_size: the initial window in bytes; by default the configured ``window_size``
        :raises LocalProtocolError: it was already accepted or rejected; or ``payload`` is too long
            for one SSH message, or ``window_size`` is out of range
        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        return self.accept_nowait(payload=payload, window_size=window_size)

    def accept_nowait(self, *, payload: bytes = b"", window_size: int | None = None) -> Channel:
        """Accept the channel without a checkpoint; see :meth:`accept`.

        :param payload: as for :meth:`accept`
        :param window_size: as for :meth:`accept`
        :raises LocalProtocolError: it was already accepted or rejected; or ``payload`` is too long
            for one SSH message, or ``window_size`` is out of range
        :raises SSHError: the session has ended
        """
        channel = self._session._accept_opening(self._state, self._payload, payload, window_size)
        channel._is_handled = self._is_handled
        return channel

    def _set_handled(self, is_handled: bool) -> None:
        """Note whether a task of ours handles the channel, whoever has accepted it."""
        self._is_handled = is_handled
        if self._state.owner is not None:
            self._state.owner._is_handled = is_handled

    async def reject(
        self,
        reason: int = ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED,
        description: str = "",
    ) -> None:
        """Reject the channel.

        :param reason: a :class:`~anyssh.ChannelOpenFailureReason`
        :param description: a text for the peer's users and logs
        :raises LocalProtocolError: it was already accepted or rejected, or ``description`` is too
            long for one SSH message
        """
        await anyio.lowlevel.checkpoint()
        self.reject_nowait(reason, description)

    def reject_nowait(
        self,
        reason: int = ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED,
        description: str = "",
    ) -> None:
        """Reject the channel without a checkpoint; see :meth:`reject`.

        :param reason: as for :meth:`reject`
        :param description: as for :meth:`reject`
        :raises LocalProtocolError: it was already accepted or rejected, or ``description`` is too
            long for one SSH message
        """
        self._session._reject_opening(self._state, reason, description)

    def __repr__(self) -> str:
        return f"<ChannelOpening {self.channel_type!r}>"
