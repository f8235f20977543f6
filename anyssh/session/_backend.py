"""The running event loop's own functions, for what is called with every message.

AnyIO's functions look up which event loop runs each time they are called. That takes longer than
what most of them do then.
"""

from __future__ import annotations

import sys
from contextvars import Context, copy_context
from typing import Any

from anyio.abc import AsyncBackend
from anyio.lowlevel import current_token

__all__ = ["callback_context", "running_backend"]


def running_backend() -> type[AsyncBackend]:
    """Return what AnyIO calls on the event loop that runs; for as long as that one runs."""
    return current_token().backend_class


def callback_context() -> Context:
    """Return a context in which AnyIO knows outside of tasks, too, that it is on asyncio."""
    context = copy_context()
    sniffio: Any = sys.modules.get("sniffio")  # AnyIO asks it where Trio is installed as well
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context
