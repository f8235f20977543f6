"""The running event loop's own functions, for what is called with every message.

AnyIO's functions look up which event loop runs each time they are called. That takes longer than
what most of them do then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, NamedTuple

from anyio.abc import AsyncBackend
from anyio.lowlevel import current_token

__all__ = ["RunningLoop", "callback_context", "running_loop"]


class RunningLoop(NamedTuple):
    """An event loop, for as long as it runs.

    :ivar backend: what AnyIO calls on it
    :ivar clock: tells its time, in seconds
    """

    backend: type[AsyncBackend]
    clock: Callable[[], float]


def running_loop() -> RunningLoop:
    """Return the event loop that runs."""
    token = current_token()
    backend = token.backend_class
    # Those of asyncio tell the time themselves, and AnyIO asks them once it has found them.
    return RunningLoop(backend, getattr(token.native_token, "time", backend.current_time))


def callback_context() -> Context:
    """Return a context in which AnyIO knows outside of tasks, too, that it is on asyncio."""
    context = copy_context()
    sniffio: Any = sys.modules.get("sniffio")  # AnyIO asks it where Trio is installed as well
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context
