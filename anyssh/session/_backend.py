"""Direct access to the running event loop, for what is called with every message.

AnyIO's functions determine the running event loop on each call, which takes longer than what most
of them do then.
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

    :ivar backend: its AnyIO backend
    :ivar clock: returns its time in seconds
    """

    backend: type[AsyncBackend]
    clock: Callable[[], float]


def running_loop() -> RunningLoop:
    """Return the running event loop."""
    token = current_token()
    backend = token.backend_class
    # On asyncio, AnyIO would just ask the loop for the time.
    return RunningLoop(backend, getattr(token.native_token, "time", backend.current_time))


def callback_context() -> Context:
    """Return a context in which AnyIO finds its asyncio backend outside of tasks, too."""
    context = copy_context()
    sniffio: Any = sys.modules.get("sniffio")  # which AnyIO asks if Trio is installed as well
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context
