"""The errors of sessions that are AnyIO errors too, and what those of others mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeVar

import anyio

from ..errors import SSHError

__all__ = ["ConnectionLost", "handle_failure", "is_end_of_peer", "without_frames"]

ErrorT = TypeVar("ErrorT", bound=BaseException)


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


def handle_failure(error: BaseException, handle: Callable[[Exception], object]) -> bool:
    """Have a failure handled, whatever it raised; return False if it is none, and to be raised on.

    Whoever has caught it keeps it in no variable: its traceback leads to his frame, and that to all
    that he knows, until the garbage collector comes.

    :param handle: is given what has failed
    """
    failure = _failure_of(error)
    if failure is None:
        return False
    handle(failure)
    return True


def _failure_of(error: BaseException) -> Exception | None:
    """Return what has failed that raised an exception; None if that is for others to handle.

    It is where the running task is cancelled. On asyncio, who awaits something that somebody else
    has cancelled meets an exception that looks the same; the task goes on after that. On Trio, what
    fails while it is cancelled raises both in one group.
    """
    if isinstance(error, Exception):
        return error
    cancelled = anyio.get_cancelled_exc_class()
    if isinstance(error, BaseExceptionGroup):
        failures, others = error.split(Exception)
        return failures if others is None or others.split(cancelled)[1] is None else None
    if isinstance(error, cancelled) and not _is_being_cancelled(cancelled):
        failure = RuntimeError("something was cancelled that was waited for")
        failure.__cause__ = error
        return failure
    return None


def without_frames(error: ErrorT) -> ErrorT:
    """Return an error without its traceback, and without those of what it came from.

    For errors that may be kept for long. Frames know who has called them, so even one of somebody
    else's leads to a session, its keys and its buffers.
    """
    found: dict[int, BaseException] = {}
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in found:
            found[id(each)] = each
            each.with_traceback(None)  # as nothing can be assigned to frozen ones
            waiting += [each.__cause__, each.__context__]
            waiting += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
    return error


def _is_being_cancelled(cancelled: type[BaseException]) -> bool:
    """Whether the running task is cancelled, by a scope or by asyncio's own means."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if cancelled.__module__ != "asyncio.exceptions":
        return False
    import asyncio  # where this is used, it was before

    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
