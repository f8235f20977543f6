"""What the Python peer scripts share: one command line, one vocabulary, JSON lines on stdout.

A peer script is another SSH program behind the command line below, so that a test drives OpenSSH,
asyncssh, paramiko and the Dev Tunnels package alike. ``server`` listens until its standard
input ends; ``client`` plays one scenario and ends. Both tell what happens as JSON lines:

================== =========================================================================
``listening``      ``port``
``connected``      a client's key exchange is done; the algorithms, as far as the peer knows them
``authenticated``  ``method`` and, on a server, ``user``
``refused``        a client's credentials were not accepted
``result``         what the scenario brought, see below
``key_exchange``   new keys are in use, the first ones included
``keep_alive``     the other side answered our keepalive@openssh.com
``asked_alive``    the other side sent keepalive@openssh.com to us
``disconnected``   the other side sent DISCONNECT: ``reason``, ``message``
``failed``         a client could not go on: ``error``
================== =========================================================================

A server runs the commands below in a session channel; they are shell text, so that sshd's shell
does the same. A client's scenarios and the members of their ``result``:

================ ============================================================================
``authenticate`` none
``echo``         through ``cat``: ``received``, ``status``
``bulk``         ``--bytes`` bytes through ``cat``: ``received`` (a count), ``sha256``, ``status``
``upload``       ``--bytes`` bytes into ``DIGEST`` (paramiko only): ``sha256``, ``status``
``channels``     three ``cat`` at a time, each its own bytes: ``intact``, a list of booleans
``exec``         ``REPORT``: ``stdout``, ``stderr``, ``status``
``signal``       ``SIGNAL``: ``signal``
``disconnect``   after an echo sends DISCONNECT with ``--reason`` and ``--message``
``wait``         keeps a channel open until the other side ends the session, or our input ends
``alive``        keeps a channel open until two ``keep_alive``
``back``         has the server listen on ``--listen``, joins that to ``--target`` until our input
                 ends: none. Before it is an event ``waiting``. Not of the npm packages, nor twisted
``cells``        nothing by itself: plays a cell for each line of its standard input, see below
================ ============================================================================

A cell of the matrix is what every client does with each set of algorithms: it logs in by key, has
a MiB echoed and a greeting answered by a port behind the server, then logs in by password and runs
``REPORT``. A line ``cell JSON`` asks for one; its members replace those of the command line, among
them ``target``, the port. The answer is an event ``cell`` with what :func:`play_cell` returns.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

ECHO = "cat"
REPORT = "printf output; printf errors >&2; exit 42"
SIGNAL = "kill -TERM $$"
DIGEST = "sha256sum"
"""Not every peer has it: sshd and paramiko do."""
DISCONNECT = "disconnect "
"""Followed by a number and the message: the server sends that DISCONNECT (not sshd)."""

PROMPTS = (("First colour: ", True), ("Second colour: ", False))
GREETING = b"hello, peer"

_lock = threading.Lock()


def emit(event: str, **members: object) -> None:
    """Write one event to standard output."""
    with _lock:
        sys.stdout.write(json.dumps({"event": event, **members}) + "\n")
        sys.stdout.flush()


def pattern(size: int, seed: int = 0) -> bytes:
    """Return bytes that differ everywhere, the same for the same seed."""
    block = b"".join(hashlib.sha256(b"%d %d" % (seed, n)).digest() for n in range(1024))
    return (block * (size // len(block) + 1))[:size]


def sha256(data: bytes) -> str:
    """Return the digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _names(text: str) -> list[str]:
    return text.split(",")


def parse_arguments() -> argparse.Namespace:
    """Read the command line that all peer scripts understand."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--user", default="alice")
    common.add_argument("--password")
    common.add_argument("--answers", type=_names, default=["red", "blue"])
    common.add_argument("--kex", type=_names)
    common.add_argument("--host-key-algorithms", type=_names)
    common.add_argument("--ciphers", type=_names)
    common.add_argument("--macs", type=_names)
    common.add_argument("--rekey-bytes", type=int)
    common.add_argument("--rekey-once", action="store_true", help="no limit after the first time")
    common.add_argument("--keep-alive", type=float, help="seconds")
    common.add_argument(
        "--everything", action="store_true", help="offer every algorithm that there is"
    )
    common.add_argument(
        "--option", action="append", default=[], help="NAME=VALUE of OpenSSH's own configuration"
    )
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server", parents=[common])
    server.add_argument("--host-key", action="append", required=True)
    server.add_argument("--authorized", help="a file of public keys, one a line")
    server.add_argument("--interactive", action="store_true")
    client = roles.add_parser("client", parents=[common])
    client.add_argument("--port", type=int, required=True)
    client.add_argument("--key", action="append", default=[])
    client.add_argument("--host-public-key", action="append", required=True)
    client.add_argument("--interactive", action="store_true")
    client.add_argument("--scenario", default="echo")
    client.add_argument("--bytes", type=int, default=1 << 20)
    client.add_argument("--reason", type=int, default=11)
    client.add_argument("--message", default="good night")
    client.add_argument("--target", type=int, help="the port that ports are forwarded to")
    client.add_argument("--listen", type=int, help="the port that the server shall listen on")
    return parser.parse_args()


def end_with_input() -> None:
    """End the process when its standard input ends, so that none outlives its test."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def watch_log(name: str, level: int, actions: dict[str, Callable[[re.Match[str]], None]]) -> None:
    """Call an action for each record of a logger that its regular expression is found in."""
    patterns = {re.compile(text): action for text, action in actions.items()}

    class Watcher(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            sys.stderr.write(text + "\n")
            for expression, action in patterns.items():
                if match := expression.search(text):
                    action(match)

    logger = logging.getLogger(name)
    logger.setLevel(level)
    logger.propagate = False
    logger.addHandler(Watcher())


def log_actions(
    key_exchange: str, disconnected: str, asked_alive: str, keep_alive: str
) -> dict[str, Callable[[re.Match[str]], None]]:
    """Bind the regular expressions of one peer's log to the events that they stand for."""
    return {
        key_exchange: lambda match: emit("key_exchange"),
        disconnected: lambda match: emit(
            "disconnected", reason=int(match["reason"]), message=match["message"]
        ),
        asked_alive: lambda match: emit("asked_alive"),
        keep_alive: lambda match: emit("keep_alive"),
    }


# --- clients that run one thing after another


class RefusedError(Exception):
    """The credentials were not accepted."""


@dataclass(frozen=True)
class Done:
    """What a command brought."""

    output: bytes
    errors: bytes
    status: int | None


class Connection(Protocol):
    """A client that has logged in, or will for each thing that it does."""

    def run(self, command: str, data: bytes) -> Done:
        """Send data and EOF to a command while reading."""

    def through(self, port: int, words: bytes) -> bytes:
        """Say something to a port behind the server, return an answer as long."""

    def back(self, port: int, target: int) -> None:
        """Have the server listen on a port and join it to a target, until our input ends."""

    def close(self) -> None: ...


Connect = Callable[[argparse.Namespace], Connection]
"""Logs in with the ``key`` of the arguments if they have one, else with the ``password``."""


def play_client(arguments: argparse.Namespace, connect: Connect) -> None:
    """Play a scenario of a client that knows no others than these."""
    if arguments.scenario in SHARED:
        SHARED[arguments.scenario](arguments, connect)
        return
    end_with_input()
    try:
        with contextlib.closing(connect(arguments)) as connection:
            play(connection, arguments)
            # Only now has every kind of client logged in.
            emit("authenticated", method="publickey" if arguments.key else "password")
    except RefusedError as error:
        emit("refused", error=str(error))
    except Exception as error:
        traceback.print_exc()
        emit("failed", error=f"{type(error).__name__}: {error}")


def play(connection: Connection, arguments: argparse.Namespace) -> None:
    match arguments.scenario:
        case "echo":
            done = connection.run(ECHO, GREETING)
            emit("result", received=done.output.decode(), status=done.status)
        case "bulk":
            done = connection.run(ECHO, pattern(arguments.bytes))
            received = len(done.output)
            emit("result", received=received, sha256=sha256(done.output), status=done.status)
        case "exec":
            done = connection.run(REPORT, b"")
            output, errors = done.output.decode(), done.errors.decode()
            emit("result", stdout=output, stderr=errors, status=done.status)
        case unknown:
            raise SystemExit(f"no scenario {unknown!r}")


def play_cells(arguments: argparse.Namespace, connect: Connect) -> None:
    """Play a cell for each line of standard input."""
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line.removeprefix("cell "))
        cell = argparse.Namespace(**vars(arguments) | order)
        try:
            emit("cell", **play_cell(cell, connect))
        except Exception as error:
            traceback.print_exc()
            emit("cell", error=f"{type(error).__name__}: {error}")


def play_cell(cell: argparse.Namespace, connect: Connect) -> dict[str, object]:
    """Do what belongs to each cell, return what came of it."""
    data = pattern(cell.bytes)
    with contextlib.closing(connect(cell)) as connection:
        echoed = connection.run(ECHO, data)
        answer = connection.through(cell.target, GREETING) if cell.target else b""
    by_password = argparse.Namespace(**vars(cell) | {"key": []})
    with contextlib.closing(connect(by_password)) as connection:
        report = connection.run(REPORT, b"")
    return {
        "sha256": sha256(echoed.output),
        "echo_status": echoed.status,
        "answer": answer.decode(),
        "stdout": report.output.decode(),
        "stderr": report.errors.decode(),
        "exec_status": report.status,
    }


def play_back(arguments: argparse.Namespace, connect: Connect) -> None:
    """Have the server listen on a port for as long as standard input lasts."""
    with contextlib.closing(connect(arguments)) as connection:
        connection.back(arguments.listen, arguments.target)
    emit("result")


SHARED = {"back": play_back, "cells": play_cells}
"""The scenarios that every client plays in the same way."""
