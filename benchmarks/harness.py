"""Starts peer programs, talks to them, and reads the kernel's figures about their processes.

CPU time comes from the kernel's clock of each process, read by the driver when the measured work
starts and when it has ended. So interpreter start-up, imports and warm-up do not count, the peers
need no code for it, and an exited child still counts. Peak memory is the high-water mark of the
resident set. Both exist on Linux only; elsewhere the benchmarks do not run.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS: Final = 5.0
_SAMPLE_SECONDS: Final = 0.02
_ERROR_LINES: Final = 8

Line = dict[str, Any]


def make_keys(directory: Path) -> None:
    """Make the keys of a host and of a user: ``host``, ``user``, and their ``.pub`` files."""
    for name in ("host", "user"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = directory / name
        private.touch(mode=0o600)
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        (directory / f"{name}.pub").write_bytes(public + b"\n")


class PeerFailed(Exception):
    """A peer program ended early, said nothing in time, or said something else."""


def _environment() -> dict[str, str]:
    """Return ours, in which Python keeps what it compiles, as where packages are installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Program:
    """One peer program, started as server or client.

    :param command: what to execute
    :param directory: where
    :param only_children: its work is done by processes it starts, its own does not count
    :param stop_seconds: after the end of its input, until it is killed
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        only_children: bool,
        stop_seconds: float = _STOP_SECONDS,
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - stop() closes it
        self._command = command
        self._only_children = only_children
        self._stop_seconds = stop_seconds
        self._buffer = b""
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=_environment(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def read_line(self, seconds: float, while_waiting: Callable[[], None] | None = None) -> Line:
        """Return the next line the program prints.

        :param seconds: how long to wait
        :param while_waiting: called again and again until then
        :raises PeerFailed: the program ended, or the time is over
        """
        assert self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise PeerFailed(f"no answer for {seconds:.0f} s{self._last_errors()}")
            if while_waiting is not None:
                while_waiting()
                remaining = min(remaining, _SAMPLE_SECONDS)
            if select.select([self._process.stdout], [], [], remaining)[0]:
                data = os.read(self._process.stdout.fileno(), 65536)
                if not data:
                    code = self._process.wait(_STOP_SECONDS)
                    raise PeerFailed(f"ended with exit status {code}{self._last_errors()}")
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            fields: Line = json.loads(line)
        except ValueError:
            raise PeerFailed(f"expected a line of JSON, got {line[:200]!r}") from None
        return fields

    def expect(
        self, event: str, seconds: float, while_waiting: Callable[[], None] | None = None
    ) -> Line:
        """Return the next line, which must tell this event.

        :raises PeerFailed: the program ended, the time is over, or the line tells something else
        """
        line = self.read_line(seconds, while_waiting)
        if line.get("event") != event:
            raise PeerFailed(f"expected the event {event!r}, got {line}")
        return line

    def tell(self, line: str) -> None:
        """Give the program a line of input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def stop(self) -> None:
        """End the program by ending its input; kill it if that does not help."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(self._stop_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _last_errors(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return "".join(f"\n    {line}" for line in lines[-_ERROR_LINES:])

    def processes(self) -> list[int]:
        """Return the ids of the processes that do the program's work."""
        own = self._process.pid
        return _descendants(own) if self._only_children else [own, *_descendants(own)]

    def cpu_seconds(self) -> float:
        """Return the CPU time, user and system, that its processes have used so far."""
        ended = _cpu_seconds_of_ended_children(self._process.pid) if self._only_children else 0.0
        return ended + sum(_cpu_seconds(process) for process in self.processes())

    def resident_bytes(self) -> int:
        """Return the memory its processes hold now."""
        return sum(_status_bytes(process, "VmRSS") for process in self.processes())

    def peak_bytes(self) -> int:
        """Return the most memory that each of its processes has held, added up."""
        return sum(_status_bytes(process, "VmHWM") for process in self.processes())


def _descendants(process: int) -> list[int]:
    """Return the ids of the children, their children, and so on."""
    found = []
    try:
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                found += [child, *_descendants(child)]
    except FileNotFoundError:
        pass  # it has just ended
    return found


def _cpu_seconds(process: int) -> float:
    """Return what a process has used, with the children it has waited for."""
    try:
        # The clock id of another process, as clock_getcpuclockid(3) makes it; it has nanoseconds.
        own = time.clock_gettime((~process << 3) | 2)
    except OSError:
        return 0.0  # it has just ended, and its parent counts it
    return own + _cpu_seconds_of_ended_children(process)


def _cpu_seconds_of_ended_children(process: int) -> float:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return (int(fields[13]) + int(fields[14])) / _CLOCK_TICKS


def _status_bytes(process: int, name: str) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0  # an exited process that nobody has waited for yet


@dataclass(slots=True)
class MemorySamples:
    """The resident memory of both processes over time, in bytes."""

    client: list[int] = field(default_factory=list)
    server: list[int] = field(default_factory=list)

    def take(self, client: Program, server: Program) -> None:
        """Add one sample."""
        self.client.append(client.resident_bytes())
        self.server.append(server.resident_bytes())

    @staticmethod
    def growth(samples: list[int]) -> int:
        """Return by how much the peak of the second half exceeds the peak of the first.

        The first tenth is left out, since buffers are made then.
        """
        settled = samples[len(samples) // 10 :]
        middle = max(len(settled) // 2, 1)
        return max(settled[middle:], default=0) - max(settled[:middle], default=0)


@dataclass(slots=True)
class Measurement:
    """One run of one workload.

    :ivar line: what the client told at the end
    :ivar client_cpu: seconds of CPU time of the client during the work
    :ivar server_cpu: seconds of CPU time of the server during the work
    :ivar client_peak: bytes, the most the client has held
    :ivar server_peak: bytes, the most the server has held
    :ivar gateway_cpu: seconds of CPU time of a process between them
    :ivar note: what the server said about itself
    :ivar samples: memory over the work, if asked for
    :ivar stalled_samples: how many of them were taken before a slow reader went on
    """

    line: Line
    client_cpu: float
    server_cpu: float
    client_peak: int
    server_peak: int
    note: str
    samples: MemorySamples
    stalled_samples: int = 0
    gateway_cpu: float = 0.0

    @property
    def cpu(self) -> float:
        """Seconds of CPU time of all processes during the work."""
        return self.client_cpu + self.server_cpu + self.gateway_cpu


@dataclass(frozen=True, slots=True)
class Commands:
    """How to start the two roles of an implementation, without their options."""

    program: Sequence[str]
    directory: Path
    only_children: bool = False

    def start(self, role: str, options: Sequence[str]) -> Program:
        """Start a role."""
        command = [*self.program, role, *options]
        return Program(command, self.directory, self.only_children)


class Watch:
    """Looks at two programs from now on.

    :ivar samples: memory, taken by whoever wants to
    """

    def __init__(self, client: Program, server: Program, gateway: Program | None = None) -> None:
        self._programs = client, server, gateway
        self._before = [_cpu_seconds_of(program) for program in self._programs]
        self.samples = MemorySamples()

    def measurement(self, line: Line, hello: Line, *, stalled_samples: int = 0) -> Measurement:
        """Return what they did and used.

        :param line: what they told at the end
        :param hello: what the server told at its beginning
        """
        now = [_cpu_seconds_of(program) for program in self._programs]
        client, server, _ = self._programs
        return Measurement(
            line=line,
            client_cpu=now[0] - self._before[0],
            server_cpu=now[1] - self._before[1],
            gateway_cpu=now[2] - self._before[2],
            client_peak=client.peak_bytes(),
            server_peak=server.peak_bytes(),
            note=hello.get("note", ""),
            samples=self.samples,
            stalled_samples=stalled_samples,
        )


def _cpu_seconds_of(program: Program | None) -> float:
    return 0.0 if program is None else program.cpu_seconds()


def measure(
    commands: Commands,
    common_options: Sequence[str],
    client_options: Sequence[str],
    *,
    seconds: float,
    sample_memory: bool = False,
    stalls: bool = False,
    through_gateway: bool = False,
) -> Measurement:
    """Start a server and a client, let them work, and look at both.

    :param seconds: after which a silent peer counts as failed
    :param sample_memory: look at memory all the time, which costs some CPU time
    :param stalls: the client stops reading for a while
    :param through_gateway: the client connects to a process that connects to the server
    :raises PeerFailed: one of them did not do what it should
    """
    with ExitStack() as programs:
        server = programs.enter_context(commands.start("server", common_options))
        hello = server.read_line(seconds)
        options = [*common_options, "--port", str(hello["port"])]
        gateway = None
        if through_gateway:
            gateway = programs.enter_context(commands.start("gateway", options))
            options = [*common_options, "--port", str(gateway.read_line(seconds)["port"])]
        client = programs.enter_context(commands.start("client", [*options, *client_options]))
        client.expect("start", seconds)
        watch = Watch(client, server, gateway)
        samples = watch.samples
        sample = (lambda: samples.take(client, server)) if sample_memory else None
        stalled = 0
        if stalls:
            client.expect("resumed", seconds, sample)
            stalled = len(samples.client)
        line = client.expect("done", seconds, sample)
        if sample is not None:
            sample()
        return watch.measurement(line, hello, stalled_samples=stalled)


def measure_import(commands: Commands, *, seconds: float) -> Measurement:
    """Start a program that tells how long an import took it; the second time counts.

    :param seconds: after which a silent program counts as failed
    :raises PeerFailed: it did not do what it should
    """
    line: Line = {}
    for _ in range(2):
        with Program(commands.program, commands.directory, False) as program:
            line = program.expect("done", seconds)
    return Measurement(line, line["seconds"], 0.0, 0, 0, "", MemorySamples())


def measure_forward(
    commands: Commands,
    common_options: Sequence[str],
    client_options: Sequence[str],
    *,
    seconds: float,
) -> Measurement:
    """Have a client forward a port through a server, send through it, and look at both.

    Who connects and what is connected to are processes of their own, which do not count.

    :param seconds: after which a silent program counts as failed
    :raises PeerFailed: one of them did not do what it should
    """
    traffic_command = [sys.executable, "-m", "benchmarks.traffic", *client_options]
    with (
        Program(traffic_command, Path(__file__).parent.parent, False) as traffic,
        commands.start("server", common_options) as server,
    ):
        target = traffic.read_line(seconds)
        hello = server.read_line(seconds)
        ports = ["--port", str(hello["port"]), "--target", str(target["port"])]
        with commands.start("client", [*common_options, *ports, *client_options]) as client:
            traffic.tell(str(client.read_line(seconds)["port"]))
            traffic.expect("start", seconds)
            watch = Watch(client, server)
            watch.samples.take(client, server)
            line = traffic.expect("done", seconds)
            watch.samples.take(client, server)
            return watch.measurement(line, hello)
