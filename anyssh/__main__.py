"""The ``anyssh`` command, and ``python -m anyssh``.

The commands are in :mod:`anyssh.cli`, which needs the extra ``cli``. Without it, only the
demonstration is available, and the error for any other command says what to install.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Literal, TextIO

from . import __version__

MISSING = "the command line needs more packages; install them with: pip install 'anyssh[cli]'"


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name.

    :param arguments: the command line after the program's name
    :returns: the exit status
    :raises SystemExit: the arguments are invalid, or asked for help
    """
    if has_command_line():
        from .cli import main as run_command

        return run_command(arguments)
    parser = argparse.ArgumentParser(
        prog="anyssh",
        description="SSH-2 for AnyIO: what can be run as it is.",
        epilog=f"demo: a session whose network is cut again and again. For all else, {MISSING}",
    )
    parser.add_argument("--version", action="version", version=f"anyssh {__version__}")
    parser.add_argument("command", help="demo")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see: command --help")
    chosen = parser.parse_args(arguments)
    if chosen.command != "demo":
        print(f"anyssh: {MISSING}", file=sys.stderr)
        return 255
    from .demo import main as demo

    return demo(chosen.arguments)


def has_command_line() -> bool:
    """Tell whether the packages of the extra are installed."""
    return all(importlib.util.find_spec(name) for name in ("cyclopts", "rich"))


def open_standard_streams() -> None:
    """Open closed standard streams to the null device, lest sockets get their descriptors."""
    sys.stdin = _opened(sys.stdin, 0, "r")
    sys.stdout = _opened(sys.stdout, 1, "w")
    sys.stderr = _opened(sys.stderr, 2, "w")


def _opened(stream: TextIO | None, number: int, mode: Literal["r", "w"]) -> TextIO:
    if stream is not None:
        return stream
    # On POSIX, open() returns the lowest free descriptor, which is this one.
    descriptor = os.open(os.devnull, os.O_RDWR)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    return os.fdopen(number, mode, closefd=False)


def run() -> None:
    """Run the program ``anyssh``, and exit."""
    open_standard_streams()
    if isinstance(sys.stdout, TextIOWrapper):
        # A comment or drawing is worth printing even if some characters cannot be encoded.
        sys.stdout.reconfigure(errors="replace")
    status = main(sys.argv[1:])
    if not has_command_line():
        sys.exit(status)
    from .cli.running import leave

    leave(status)


if __name__ == "__main__":
    run()
