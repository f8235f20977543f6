"""The running event loop's own functions, for what is called with every message.

AnyIO's functions look up which event loop runs each time they are called. That takes longer than
what most of them do then.
"""

from __future__ import annotations

from anyio.abc import AsyncBackend
from anyio.lowlevel import current_token

__all__ = ["running_backend"]


def running_backend() -> type[AsyncBackend]:
    """Return what AnyIO calls on the event loop that runs; for as long as that one runs."""
    return current_token().backend_class
