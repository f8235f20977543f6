"""A user account for servers that only accept the machine's own.

As root, the account exists only in a mount namespace of the server, over copies of ``passwd`` and
``shadow``: the machine's own files stay unchanged.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

_PORTS = range(20_000, 30_000)
"""Below those that systems give to whoever asks for any."""

PAM = """\
auth required pam_unix.so
account required pam_permit.so
session required pam_permit.so
"""


def add_account(user: str, password: str, home: Path) -> None:
    """Write copies of the account files with one user more, who is ourselves by another name."""
    command = ["openssl", "passwd", "-6", "-stdin"]
    secret = subprocess.run(command, input=password, text=True, capture_output=True, check=True)
    line = f"{user}:x:{os.getuid()}:{os.getgid()}::{home}:/bin/sh\n"
    (home / "passwd").write_text(Path("/etc/passwd").read_text() + line)
    line = f"{user}:{secret.stdout.strip()}:19000:0:99999:7:::\n"
    (home / "shadow").write_text(Path("/etc/shadow").read_text() + line)
    (home / "shadow").chmod(0o600)
    (home / "pam").write_text(PAM)


def in_namespace(home: Path, command: list[str]) -> list[str]:
    """Return the command to run with those account files, seen by nobody else."""
    script = [
        "mount -t tmpfs none /run && mkdir -m 755 /run/sshd",
        f"mount --bind {home}/passwd /etc/passwd && mount --bind {home}/shadow /etc/shadow",
        f"[ ! -e /etc/pam.d/sshd ] || mount --bind {home}/pam /etc/pam.d/sshd",
        f"exec {shlex.join(command)}",
    ]
    return ["unshare", "--mount", "sh", "-c", " && ".join(script)]


def free_port() -> int:
    """Return a port that nobody uses, and that nobody gets who asks for any."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
