"""PuTTY as a peer: ``plink`` with the command line of :mod:`peer_common`; a client only.

Its key files, in a format of its own, are made by ``puttygen``. Settings without an option, such as
when to rekey, are in a saved session.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from base64 import b64decode, b64encode
from pathlib import Path

from peer_common import parse_arguments, play_client
from programs import ProgramConnection, run_quietly


def fingerprint(public: Path) -> str:
    digest = hashlib.sha256(b64decode(public.read_text().split()[1])).digest()
    return "SHA256:" + b64encode(digest).decode().rstrip("=")


class Plink(ProgramConnection):
    refusals = (b"Access denied", b"Server refused", b"No supported authentication methods")

    def __init__(self, arguments: argparse.Namespace, home: Path) -> None:
        super().__init__(home)
        sessions = home / ".putty/sessions"
        sessions.mkdir(parents=True, exist_ok=True)
        settings = ["Protocol=ssh", "TryAgent=0", "AgentFwd=0"]
        if arguments.rekey_bytes:
            settings.append(f"RekeyBytes={arguments.rekey_bytes}")
        (sessions / "peer").write_text("\n".join(settings) + "\n")
        self.command: list[str | Path] = [
            *("plink", "-batch", "-noagent", "-no-antispoof", "-T", "-load", "peer", "-ssh"),
            *("-P", str(arguments.port), "-l", arguments.user),
        ]
        for name in arguments.host_public_key:
            self.command += ["-hostkey", fingerprint(Path(name))]
        if arguments.key:
            self.command += ["-i", self.converted(Path(arguments.key[0]))]
        else:
            (home / "password").write_text(arguments.password + "\n")
            self.command += ["-pwfile", home / "password"]

    def converted(self, key: Path) -> Path:
        """Return the key in PuTTY's own format."""
        file = self.home / f"{key.name}.ppk"
        if not file.exists():
            run_quietly("puttygen", key, "-O", "private", "-o", file)
        return file

    def to_run(self, command: str) -> list[str | Path]:
        return [*self.command, "127.0.0.1", command]

    def to_forward(self, port: int) -> list[str | Path]:
        return [*self.command, "-nc", f"127.0.0.1:{port}", "127.0.0.1"]

    def to_listen(self, port: int, target: int) -> list[str | Path]:
        there = f"127.0.0.1:{port}:127.0.0.1:{target}"
        return [*self.command, "-N", "-R", there, "127.0.0.1"]


def main() -> None:
    arguments = parse_arguments()
    if arguments.role == "server":
        raise SystemExit("this peer has no server on Debian")
    with tempfile.TemporaryDirectory(prefix="peer") as directory:
        play_client(arguments, lambda wanted: Plink(wanted, Path(directory)))


if __name__ == "__main__":
    main()
