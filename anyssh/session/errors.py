"""The errors of sessions that are AnyIO errors too."""

from __future__ import annotations

from typing import Final

import anyio

from ..errors import SSHError

__all__ = ["ConnectionLost", "is_end_of_peer"]


class ConnectionLost(SSHError, anyio.BrokenResourceError):
    """The stream below the session ended or broke without a goodbye.

    ``__cause__`` is the stream's own error, if it had one.
    """


_ENDS: Final = (
    SSHError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    anyio.IncompleteRead,
)


def is_end_of_peer(error: BaseException) -> bool:
    """Whether a handler raised what it meets when its peer leaves, and not a mistake of its own."""
    if isinstance(error, ExceptionGroup):
        return all(map(is_end_of_peer, error.exceptions))
    return isinstance(error, _ENDS)
