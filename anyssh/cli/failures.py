"""Error messages in one line, with the cause and the remedy."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from typing import Final

import anyio

import anyssh

__all__ = ["FAILED", "Failure", "explain", "reason_of", "say"]

FAILED: Final = 255
"""The exit status of our own failures, as with ``ssh``: remote commands use the others."""

_REMEDIES: Final[dict[type[anyssh.SSHError], str]] = {
    anyssh.AuthenticationError: (
        "give a key with -i, or have yours added to the server's authorized_keys"
    ),
    anyssh.NegotiationError: "update the older side",
    anyssh.PassphraseRequired: "run this on a terminal to be asked for the passphrase",
}


class Failure(Exception):
    """An error that the user can do something about; its text is one line that says what.

    :param text: the message; if empty, nothing is printed
    :param status: the exit status
    """

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status


def say(text: str) -> None:
    """Print a message to standard error, in one line."""
    print(f"anyssh: {one_line(text)}", file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())


def reason_of(error: BaseException) -> str:
    """Return what went wrong, in the plainest words available."""
    if isinstance(error, OSError):
        cause = error.__cause__
        if isinstance(cause, BaseExceptionGroup):
            return "; ".join(dict.fromkeys(reason_of(each) for each in cause.exceptions))
        if isinstance(cause, OSError):
            return reason_of(cause)
        if isinstance(error, TimeoutError) and not error.strerror:
            return "no answer"
        # asyncio wraps the system's message in words of its own.
        return _system_words(error) or str(error) or type(error).__name__
    return str(error) or type(error).__name__


def _system_words(error: OSError) -> str | None:
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror
    return os.strerror(error.errno)


def explain(error: Exception, *, is_verbose: bool) -> str:
    """Return the message for an error that ended a command; if verbose, print its causes."""
    if is_verbose:
        _print_causes(error)
    if isinstance(error, anyio.BrokenResourceError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what happened to the session under a stream
    if isinstance(error, Failure):
        return str(error)
    if isinstance(error, anyssh.SSHError):
        remedies = [text for kind, text in _REMEDIES.items() if isinstance(error, kind)]
        return "; ".join([str(error), *remedies])
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{reason_of(error)}"
    if not is_verbose:
        return f"{type(error).__name__}: {error}; this is a bug in anyssh; -v shows where"
    return f"{type(error).__name__}: {error}"


def _print_causes(error: BaseException) -> None:
    """Print what led to an error; for a bug, with the traceback."""
    if not isinstance(error, Failure | anyssh.SSHError | OSError):
        traceback.print_exception(error)
        return
    cause = error.__cause__ or error.__context__
    while cause is not None:
        if str(cause) not in str(error):
            say(f"because of {type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
