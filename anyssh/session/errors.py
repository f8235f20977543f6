"""The session errors that are AnyIO errors too, and how failures of foreign code are handled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeVar

import anyio

from ..errors import SSHError

__all__ = ["ConnectionLost", "handle_failure", "is_end_of_peer", "without_frames"]

ErrorT = TypeVar("ErrorT", bound=BaseException)


class ConnectionLost(SSHError, anyio.BrokenResourceError):
    """The session's stream ended or broke without DISCONNECT.

    ``__cause__`` is the stream's own error, if it raised one.
    """


_ENDS: Final = (
    SSHError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    anyio.IncompleteRead,
)


def is_end_of_peer(error: BaseException) -> bool:
    """Tell whether a handler raised what a departing peer causes, rather than a bug of its own."""
    if isinstance(error, ExceptionGroup):
        return all(map(is_end_of_peer, error.exceptions))
    return isinstance(error, _ENDS)


def handle_failure(error: BaseException, handle: Callable[[Exception], object]) -> bool:
    """Handle a failure, whatever was raised; return False if it is none and must be re-raised.

    Callers must not keep the exception in a variable: its traceback refers to their frame, and
    thereby to everything in it, until the garbage collector runs.

    :param handle: called with the failure
    """
    failure = _failure_of(error)
    if failure is None:
        return False
    handle(failure)
    return True


def _failure_of(error: BaseException) -> Exception | None:
    """Return the failure behind an exception, None if the exception is for others to handle.

    It is for others when the running task is being cancelled. On asyncio, awaiting something that
    was cancelled elsewhere raises an exception that looks the same, but the task continues. On
    Trio, code that fails while being cancelled raises both in one group.
    """
    if isinstance(error, Exception):
        return error
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        failures, others = error.split(Exception)
        return failures if others is None or others.split(cancelled)[1] is None else None
    if isinstance(error, cancelled) and not _is_being_cancelled(cancelled):
        failure = RuntimeError("something that was awaited was cancelled elsewhere")
        failure.__cause__ = error
        return failure
    return None


def without_frames(error: ErrorT) -> ErrorT:
    """Return an error stripped of its traceback, and of those of its causes.

    For errors that may be kept for long: even the frames of foreign code refer to their callers,
    and so to a session, its keys and its buffers.
    """
    found: dict[int, BaseException] = {}
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in found:
            found[id(each)] = each
            each.with_traceback(None)  # frozen exceptions permit no assignment
            waiting += [each.__cause__, each.__context__]
            waiting += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
    return error


def _is_being_cancelled(cancelled: type[BaseException]) -> bool:
    """Tell whether the running task is cancelled, by a scope or by asyncio's own means."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if cancelled.__module__ != "asyncio.exceptions":
        return False
    import asyncio  # already imported wherever this runs

    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
