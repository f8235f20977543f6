"""Running ``python -m anyssh`` as a separate program, as users do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream, Process

import anyssh

ROOT = Path(__file__).parents[2]
DEADLINE = 25.0
"""Seconds until a program that does not say what is waited for counts as stuck."""


@dataclass(frozen=True)
class Result:
    """How a program ended, and what it said."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line of a failure, without the program's name."""
        assert (self.status, self.out) == (255, ""), self
        (line,) = self.err.splitlines()
        assert line.startswith("anyssh: "), line
        assert "Traceback" not in line
        return line.removeprefix("anyssh: ")


@dataclass
class Running:
    """A program that runs: its output by lines, as far as it has come."""

    process: Process
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    came: anyio.Event = field(default_factory=anyio.Event)
    ended: int = 0

    async def read(self, stream: ByteReceiveStream | None, lines: list[str]) -> None:
        assert stream is not None
        rest = b""
        async for chunk in stream:
            *complete, rest = (rest + chunk).split(b"\n")
            lines += [line.decode() for line in complete]
            self._notify()
        if rest:
            lines.append(rest.decode())
        self.ended += 1
        self._notify()

    def _notify(self) -> None:
        self.came.set()
        self.came = anyio.Event()

    async def line(self, pattern: str, *, count: int = 1) -> re.Match[str]:
        """Wait until a line matches, for the so many-th time."""
        with anyio.move_on_after(DEADLINE):
            while True:
                found = [re.search(pattern, line) for line in self.out + self.err]
                matches = [match for match in found if match is not None]
                if len(matches) >= count:
                    return matches[count - 1]
                if self.ended == 2:
                    break
                await self.came.wait()
        raise AssertionError(f"no line like {pattern!r} in {self.out} and {self.err}")

    async def event(self, name: str) -> dict[str, Any]:
        """Wait for an event of a log in JSON."""
        match = await self.line(rf'.*"event": "{name}".*')
        event: dict[str, Any] = json.loads(match[0])
        return event

    async def finish(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; wait for the end; return the status."""
        self.process.send_signal(number)
        with anyio.fail_after(DEADLINE):
            return await self.process.wait()


@dataclass(frozen=True)
class Anyssh:
    """The program, for a user with a home folder of his own."""

    home: Path
    backend: str

    def command(self, *arguments: object) -> list[str]:
        words = [str(word) for word in arguments]
        if words and not words[0].startswith("-") and words[0] != "key":
            words[1:1] = ["--backend", self.backend]
        return [sys.executable, "-m", "anyssh", *words]

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
        return kept | {"HOME": str(self.home), "XDG_CONFIG_HOME": "", "COLUMNS": "200"}

    def host_key(self) -> anyssh.Key:
        """Return the host key that ``anyssh serve`` has made."""
        return anyssh.import_key_file(self.home / ".config" / "anyssh" / "host_key")

    async def run(
        self, *arguments: object, given: bytes = b"", environment: Mapping[str, str] | None = None
    ) -> Result:
        """Run the program to its end; it has no terminal."""
        run = partial(
            subprocess.run, self.command(*arguments), input=given, capture_output=True, check=False,
            cwd=ROOT, env=self.environment | dict(environment or {}), start_new_session=True,
            timeout=DEADLINE,
        )  # fmt: skip
        done = await anyio.to_thread.run_sync(run)
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    @asynccontextmanager
    async def start(self, *arguments: object) -> AsyncIterator[Running]:
        """Run the program while the body goes on; kill it if it then still runs."""
        async with await anyio.open_process(
            self.command(*arguments), stdin=subprocess.PIPE, cwd=ROOT, env=self.environment,
            start_new_session=True,
        ) as process:  # fmt: skip
            running = Running(process)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(running.read, process.stdout, running.out)
                    tasks.start_soon(running.read, process.stderr, running.err)
                    yield running
                    if process.returncode is None:
                        process.terminate()
                        with anyio.move_on_after(10):
                            await process.wait()
                    tasks.cancel_scope.cancel()
            finally:
                if process.returncode is None:
                    process.kill()

    @asynccontextmanager
    async def serve(self, *options: object, port: int = 0) -> AsyncIterator[Serving]:
        """Run ``anyssh serve`` with a log in JSON."""
        arguments = ("serve", "--listen", f"127.0.0.1:{port}", "--log-json", *options)
        async with self.start(*arguments) as running:
            facts = await running.event("listening")
            yield Serving(running, facts["port"], facts["host_key"])


@dataclass(frozen=True)
class Serving:
    """A server that runs."""

    running: Running
    port: int
    host_key: str

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"
