"""Starts ends of sessions as separate processes, and reads their reports."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyssh

LIMIT = 60
"""Seconds after which a test no longer believes that something will be told."""

ROOT = Path(__file__).parents[2]
Fact = dict[str, Any]


class End:
    """One process, and what it has told so far.

    :ivar told: all facts, in order
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.told: list[Fact] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def expect(self, wanted: str | Callable[[Fact], bool], limit: float = LIMIT) -> Fact:
        """Wait for a fact that has a name, or of which something holds."""
        holds = (lambda fact: wanted in fact) if isinstance(wanted, str) else wanted
        deadline = time.monotonic() + limit
        while True:
            fact = self._next(deadline - time.monotonic())
            if holds(fact):
                return fact

    def _next(self, limit: float) -> Fact:
        try:
            line = self._lines.get(timeout=max(0.0, limit))
        except queue.Empty:
            raise TimeoutError(f"not told in time; last: {self.told[-8:]}") from None
        if not line:
            raise EOFError(f"the process ended with {self.process.wait()}; last: {self.told[-8:]}")
        fact: Fact = json.loads(line)
        assert "wrong" not in fact, fact
        self.told.append(fact)
        return fact

    def listen(self, seconds: float) -> list[Fact]:
        """Return what is told in so many seconds."""
        first = len(self.told)
        deadline = time.monotonic() + seconds
        try:
            while True:
                self._next(deadline - time.monotonic())
        except TimeoutError:
            return self.told[first:]

    def command(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def usage(self) -> Fact:
        self.command("usage")
        return self.expect("resident")

    def goes_on(self, records: int = 200) -> None:
        """Wait until a client has had so many more records back."""
        for _ in range(records // 50):
            self.expect("echoed")

    def stop(self) -> int:
        """End a client once all its records are back; return how many there were."""
        self.command("stop")
        count: int = self.expect("done")["done"]
        assert self.process.wait(LIMIT) == 0
        return count

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


class Ends:
    """Starts the ends of one test, all with the same host key, and ends those that are left."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        key = anyssh.generate_key("ssh-ed25519")
        self._fingerprint = key.fingerprint
        self._key = folder / "host_key"
        self._key.write_bytes(anyssh.export_private_key(key).encode())

    def start(
        self,
        role: str,
        *,
        inside: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> End:
        """Start one end; options are those of its command line."""
        given = {"fingerprint": self._fingerprint, "key": str(self._key), **options}
        arguments = [role]
        for name, value in given.items():
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            arguments += [f"--{name.replace('_', '-')}", text]
        process = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.security.process", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=None if environment is None else dict(environment),
        )
        end = End(process)
        self._stack.callback(_end, process)
        return end

    def server(self, **options: Any) -> tuple[End, int]:
        end = self.start("server", **options)
        return end, end.expect("port")["port"]


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # a command that nobody read
                pipe.close()


@contextmanager
def ends(folder: Path) -> Iterator[Ends]:
    """Start ends inside; all of them are gone afterwards."""
    with ExitStack() as stack:
        yield Ends(folder, stack)
