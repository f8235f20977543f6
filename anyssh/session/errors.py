"""The errors of sessions that are AnyIO errors too."""

from __future__ import annotations

import anyio

from ..errors import SSHError

__all__ = ["ConnectionLost"]


class ConnectionLost(SSHError, anyio.BrokenResourceError):
    """The stream below the session ended or broke without a goodbye.

    ``__cause__`` is the stream's own error, if it had one.
    """
