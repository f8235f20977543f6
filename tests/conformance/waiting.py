"""Determines without a clock whether a call waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

__all__ = ["waits"]


async def waits(call: Callable[[], Awaitable[Any]]) -> bool:
    """Cancel a call once nobody can go on; return whether it was still waiting."""
    is_waiting = True

    async def run() -> None:
        nonlocal is_waiting
        await call()
        is_waiting = False

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    return is_waiting
