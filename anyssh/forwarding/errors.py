"""The errors of forwarding that are AnyIO errors too."""

from __future__ import annotations

import anyio

from ..errors import SSHError

__all__ = ["ConnectFailed"]


class ConnectFailed(SSHError, anyio.ConnectionFailed):
    """A connection through a session did not come about; ``__cause__`` tells why."""
