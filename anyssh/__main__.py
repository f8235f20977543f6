"""``python -m anyssh``: what can be run without writing a program.

A command is imported only when it is asked for, and parses the rest of the line itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name.

    :param arguments: the command line after the program's name
    :returns: the exit status
    :raises SystemExit: the arguments make no sense, or asked for help
    """
    parser = argparse.ArgumentParser(
        prog="python -m anyssh",
        description="SSH-2 for AnyIO: what can be run as it is.",
        epilog="demo: a server, a client and several channels in one process, with figures",
    )
    parser.add_argument("--version", action="version", version=f"anyssh {__version__}")
    parser.add_argument("command", choices=["demo"])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see: command --help")
    chosen = parser.parse_args(arguments)
    from .demo import main as demo

    return demo(chosen.arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
