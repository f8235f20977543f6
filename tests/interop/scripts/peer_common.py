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
================ ============================================================================
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable

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
    common.add_argument("--keep-alive", type=float, help="seconds")
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
