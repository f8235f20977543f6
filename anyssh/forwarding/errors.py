"""The forwarding errors that are AnyIO errors as well."""

from __future__ import annotations

import anyio

from ..errors import SSHError

__all__ = ["ConnectFailed"]


class ConnectFailed(SSHError, anyio.ConnectionFailed):
    """A connection through a session could not be established; ``__cause__`` says why."""
