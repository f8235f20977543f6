"""A channel that the peer wants to open, until it is decided."""

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
    """A channel that the peer wants to open and that waits for our decision."""

    __slots__ = ("_payload", "_session", "_state")

    def __init__(self, session: Session, state: ChannelState, payload: bytes) -> None:
        self._session = session
        self._state = state
        self._payload = payload

    @property
    def channel_type(self) -> str:
        """What kind of channel it is to be."""
        return self._state.channel_type

    @property
    def payload(self) -> bytes:
        """What belongs to the type, in wire form."""
        return self._payload

    async def accept(self, *, payload: bytes = b"", window_size: int | None = None) -> Channel:
        """Open the channel.

        :param payload: appended to the confirmation
        :param window_size: bytes that the peer may send ahead; the configured number if not given
        :raises LocalProtocolError: it was decided before
        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        return self.accept_nowait(payload=payload, window_size=window_size)

    def accept_nowait(self, *, payload: bytes = b"", window_size: int | None = None) -> Channel:
        """Open the channel at once; see :meth:`accept`.

        :param payload: as for :meth:`accept`
        :param window_size: as for :meth:`accept`
        """
        return self._session._accept_opening(self._state, self._payload, payload, window_size)

    async def reject(
        self,
        reason: int = ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED,
        description: str = "",
    ) -> None:
        """Refuse the channel.

        :param reason: a :class:`~anyssh.ChannelOpenFailureReason`
        :param description: for the peer's people and logs
        :raises LocalProtocolError: it was decided before
        """
        await anyio.lowlevel.checkpoint()
        self.reject_nowait(reason, description)

    def reject_nowait(
        self,
        reason: int = ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED,
        description: str = "",
    ) -> None:
        """Refuse the channel at once; see :meth:`reject`.

        :param reason: as for :meth:`reject`
        :param description: as for :meth:`reject`
        """
        self._session._reject_opening(self._state, reason, description)

    def __repr__(self) -> str:
        return f"<ChannelOpening {self.channel_type!r}>"
