"""Running the coroutine of a command: the backend, signals, and reporting errors."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import anyio
from cyclopts import Parameter

import anyssh

from .failures import FAILED, Failure, explain, say
from .logs import configure

__all__ = ["COMMON", "SIGPIPE", "Common", "Signals", "fail", "leave", "run", "status_of_signal"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """The parameters of every command."""

    backend: Literal["asyncio", "trio"] = "asyncio"
    """The event loop to use."""
    verbose: Annotated[bool, Parameter(name=("--verbose", "-v"), negative="")] = False
    """Log more details to standard error."""


COMMON: Final = Common()

OnSignal: TypeAlias = Callable[[signal.Signals], Awaitable[bool]]

SIGPIPE: Final = 13
ENDING: Final = (signal.SIGINT, signal.SIGTERM)


def status_of_signal(number: int) -> int:
    """Return the exit status that shells use for a program ended by a signal."""
    return 128 + number


class Signals:
    """How a command handles signals: by default SIGINT and SIGTERM end it.

    :ivar handle: called first; returns whether it has handled the signal
    :ivar ended_by: the signal that ended the command
    """

    def __init__(self) -> None:
        self.handle: OnSignal | None = None
        self.ended_by: signal.Signals | None = None

    async def watch(self, scope: anyio.CancelScope) -> None:
        """Wait for signals until cancelled."""
        if sys.platform == "win32":  # KeyboardInterrupt must do there
            return
        wanted = [*ENDING, *_further_signals()]
        with anyio.open_signal_receiver(*wanted) as signals:
            async for number in signals:
                if self.handle is not None and await self.handle(number):
                    continue
                self.ended_by = number
                scope.cancel()


def _further_signals() -> list[signal.Signals]:
    """Return the other signals that usually end programs, if the system has them."""
    names = {"SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"}
    found = [number for number in signal.Signals if number.name in names]
    # A program started by nohup ignores them.
    return [number for number in found if signal.getsignal(number) is signal.SIG_DFL]


def run(command: Callable[[Signals], Awaitable[int]], common: Common) -> int:
    """Run a command; return its exit status, whatever happens.

    :param command: given the signal handling, which it may customise; by default signals end it
    """
    if common.backend == "trio" and importlib.util.find_spec("trio") is None:
        say("Trio is not installed; install it with: pip install 'anyssh[trio]'")
        return FAILED
    if not logging.getLogger("anyssh").handlers:
        configure(logging.WARNING, is_verbose=common.verbose)
    signals = Signals()
    outcome: list[int] = []

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(signals.watch, tasks.cancel_scope)
            outcome.append(await command(signals))
            tasks.cancel_scope.cancel()

    try:
        anyio.run(main, backend=common.backend)
    except KeyboardInterrupt:  # before signals are watched
        return status_of_signal(signal.SIGINT)
    except BaseExceptionGroup as group:
        error = _first(group)
        if isinstance(error, KeyboardInterrupt):
            return status_of_signal(signal.SIGINT)
        if not isinstance(error, Exception):
            raise error from None
        return fail(error, common)
    if outcome:
        return outcome[0]
    return FAILED if signals.ended_by is None else status_of_signal(signals.ended_by)


def fail(error: Exception, common: Common = COMMON) -> int:
    """Report what went wrong; return the exit status for it."""
    if isinstance(error, BrokenPipeError):  # our output is not read any more
        return status_of_signal(SIGPIPE)
    if text := explain(error, is_verbose=common.verbose):
        say(text)
    return error.status if isinstance(error, Failure) else FAILED


def _first(error: BaseException) -> BaseException:
    """Return the exception inside of groups; a command fails with a single one."""
    while isinstance(error, BaseExceptionGroup):
        preferred = [each for each in error.exceptions if isinstance(each, _EXPECTED)]
        error = (preferred or error.exceptions)[0]
    return error


_EXPECTED: Final = (Failure, anyssh.SSHError, OSError, anyio.BrokenResourceError)


def leave(status: int) -> None:
    """End the process, without waiting for a thread whose output is not read."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # it is not read; prevents Python from complaining on exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            status = status or status_of_signal(SIGPIPE)
    alive = [each for each in threading.enumerate() if each is not threading.main_thread()]
    if any(not each.daemon for each in alive):
        os._exit(status)
    sys.exit(status)
