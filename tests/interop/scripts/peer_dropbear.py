"""Dropbear as a peer: ``dropbear`` and ``dbclient`` with the command line of :mod:`peer_common`.

Its key files, in a format of its own, are made by ``dropbearconvert``. Its server accepts only the
machine's own accounts; see :mod:`accounts` for how it gets one of ours.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from accounts import add_account, free_port, in_namespace
from peer_common import emit, parse_arguments, play_client
from programs import ProgramConnection, run_quietly


def converted(key: Path, home: Path) -> Path:
    """Return the key in Dropbear's own format."""
    file = home / f"{key.parent.name}-{key.name}.dropbear"
    if not file.exists():
        run_quietly("dropbearconvert", "openssh", "dropbear", key, file)
    return file


# --- the server


def server_command(arguments: argparse.Namespace, port: int, home: Path) -> list[str]:
    command = ["dropbear", "-F", "-E", "-p", f"127.0.0.1:{port}", "-P", str(home / "pid")]
    for name in arguments.host_key:
        command += ["-r", str(converted(Path(name), home))]
    if arguments.password is None:
        return [*command, "-s"]
    add_account(arguments.user, arguments.password, home)
    return in_namespace(home, command)


def serve(arguments: argparse.Namespace, home: Path) -> None:
    folder = home / ".ssh"
    folder.mkdir(mode=0o700)
    if arguments.authorized:
        keys = folder / "authorized_keys"
        keys.write_text(Path(arguments.authorized).read_text())
        keys.chmod(0o600)
    port = free_port()
    command = server_command(arguments, port, home)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        threading.Thread(target=follow, args=(process, port), daemon=True).start()
        sys.stdin.read()
        process.kill()  # SIGTERM is lost if it comes just after the SIGCHLD of a connection


def follow(process: subprocess.Popen[str], port: int) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        sys.stderr.write(line)
        if "Not backgrounding" in line:
            emit("listening", port=port)


# --- the client


class Dbclient(ProgramConnection):
    # It tries a password again and again, until the server has had enough: with status 0.
    refusals = (b"No auth methods could be used", b"Disconnect received")
    # About once in three hundred runs it stays, although its channel was closed by both sides.
    tries = 4

    def __init__(self, arguments: argparse.Namespace, home: Path) -> None:
        super().__init__(home, DROPBEAR_PASSWORD=arguments.password or "")
        folder = home / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        lines = [Path(name).read_text() for name in arguments.host_public_key]
        known = [" ".join(["127.0.0.1", *line.split()[:2]]) for line in lines]
        (folder / "known_hosts").write_text("\n".join(known) + "\n")
        self.command: list[str | Path] = ["dbclient", "-T", "-p", str(arguments.port)]
        self.command += ["-l", arguments.user]
        if arguments.key:
            self.command += ["-i", converted(Path(arguments.key[0]), home)]

    def to_run(self, command: str) -> list[str | Path]:
        return [*self.command, "127.0.0.1", command]

    def to_forward(self, port: int) -> list[str | Path]:
        return [*self.command, "-B", f"127.0.0.1:{port}", "127.0.0.1"]

    def to_listen(self, port: int, target: int) -> list[str | Path]:
        there = f"127.0.0.1:{port}:127.0.0.1:{target}"
        return [*self.command, "-N", "-R", there, "127.0.0.1"]


def main() -> None:
    os.environ["PATH"] += ":/usr/sbin"
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="peer") as directory:
        home = Path(directory)
        if arguments.role == "server":
            serve(arguments, home)
        else:
            play_client(arguments, lambda wanted: Dbclient(wanted, home))


if __name__ == "__main__":
    main()
