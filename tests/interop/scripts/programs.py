"""What peer scripts that wrap programs share: each action is a run of a program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from peer_common import Done, RefusedError, emit

TIME = 60.0


class ProgramConnection:
    """A client program that connects anew for each command, and for each forwarded port."""

    refusals: tuple[bytes, ...] = ()
    """What the program says when it was not let in."""
    tries: int = 1
    """How often it is run if it does not end."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.environment = os.environ | {"HOME": str(home)} | environment

    def to_run(self, command: str) -> Sequence[str | Path]:
        """Return how to run a remote command."""
        raise NotImplementedError

    def to_forward(self, port: int) -> Sequence[str | Path]:
        """Return how to connect standard input and output to a port behind the server."""
        raise NotImplementedError

    def to_listen(self, port: int, target: int) -> Sequence[str | Path]:
        """Return how to have the server listen on a port and join it to one on this side."""
        raise NotImplementedError

    def back(self, port: int, target: int) -> None:
        """Forward a port of the server until our standard input ends."""
        process = self.start(self.to_listen(port, target))
        emit("waiting")
        sys.stdin.read()
        process.terminate()
        process.communicate(timeout=TIME)

    def start(self, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        environment = self.environment
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)

    def run(self, command: str, data: bytes) -> Done:
        for left in reversed(range(self.tries)):
            process = self.start(self.to_run(command))
            try:
                output, errors = process.communicate(data, timeout=TIME / self.tries)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                if not left:
                    raise
        if any(words in errors for words in self.refusals):
            raise RefusedError(errors.decode(errors="replace"))
        if process.returncode and not output:
            raise RuntimeError(f"status {process.returncode}: {errors.decode(errors='replace')}")
        return Done(output, errors, process.returncode)

    def through(self, port: int, words: bytes) -> bytes:
        process = self.start(self.to_forward(port))
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(words)
        process.stdin.flush()
        heard = b""
        while len(heard) < len(words) and (chunk := process.stdout.read1()):
            heard += chunk
        _, errors = process.communicate(timeout=TIME)
        if heard != words.upper():
            raise RuntimeError(f"heard {heard!r}: {errors.decode(errors='replace')}")
        return heard

    def close(self) -> None:
        pass


def run_quietly(*command: str | Path) -> bytes:
    """Run a program that must succeed, return what it says."""
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {(done.stdout + done.stderr).decode(errors='replace')}")
    return done.stdout
