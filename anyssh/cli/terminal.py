"""Prompting the user at the terminal, wherever standard input and output go.

The terminal itself is opened, as ``ssh`` does. A prompt waits without a thread, so that it can be
cancelled, and the terminal's echo is restored in any case.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

__all__ = ["Terminal"]

MAX_ANSWER_BYTES = 4096
POLL_TIME = 0.05


class Terminal:
    """The controlling terminal of the command, if there is one."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()

    async def ask(self, question: str, *, is_secret: bool = False) -> str | None:
        """Ask for one line; return None if there is no terminal.

        :param is_secret: whether to hide what is typed
        """
        if sys.platform == "win32":
            return None
        try:
            terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            async with self._lock:
                return await _ask(terminal, question, is_secret)
        finally:
            os.close(terminal)


if sys.platform != "win32":
    import termios

    async def _ask(terminal: int, question: str, is_secret: bool) -> str | None:
        with _hidden(terminal) if is_secret else _shown():
            os.write(terminal, question.encode(errors="replace"))
            try:
                await _wait_readable(terminal)
                answer = os.read(terminal, MAX_ANSWER_BYTES)
            finally:
                if is_secret:
                    os.write(terminal, b"\n")
        if not answer:  # the end of input
            return None
        return answer.decode("utf-8", "surrogateescape").removesuffix("\n")

    async def _wait_readable(terminal: int) -> None:
        try:
            await anyio.wait_readable(terminal)
        except OSError:  # the event queue of macOS does not take /dev/tty
            while not select.select((terminal,), (), (), 0)[0]:  # noqa: ASYNC110
                await anyio.sleep(POLL_TIME)

    @contextmanager
    def _hidden(terminal: int) -> Iterator[None]:
        before = termios.tcgetattr(terminal)
        quiet = list(before)
        quiet[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSAFLUSH, quiet)
        try:
            yield
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)

    @contextmanager
    def _shown() -> Iterator[None]:
        yield
