"""Starting, driving and stopping the peers: other SSH programs with a common command line.

``scripts/peer_common.py`` defines the command line and the events. A peer is a process of its own;
a thread reads its events, so that it can be used by fixtures without an event loop and by tests on
any backend. Nothing here uses anyssh: ``test_peers.py`` tests the peers against each other.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

HERE = Path(__file__).parent
DEADLINE = 25.0
"""Seconds until a peer that says nothing counts as stuck: generous, for busy machines."""

T = TypeVar("T")
Event = dict[str, Any]

USER = "alice"
REKEY_LIMITS = {"openssh": 768 * 1024}
"""Limits in bytes with which a peer exchanges keys a few times in a MiB, unless 384 KiB do.

OpenSSH then does so every 256 KiB.
"""

NODE_SCRIPTS = {"npm": "peer.js", "ssh2": "ssh2.js"}
NODE_PACKAGES = {"npm": "@microsoft/dev-tunnels-ssh", "ssh2": "ssh2"}
PROGRAMS = {
    "openssh": (("sshd", "ssh"), "apt-get install openssh-server openssh-client"),
    "dropbear": (("dropbear", "dbclient", "dropbearconvert"), "apt-get install dropbear-bin"),
    "putty": (("plink", "puttygen"), "apt-get install putty-tools"),
}
MODULES = {
    "asyncssh": ("asyncssh", "asyncssh"),
    "paramiko": ("paramiko", "paramiko"),
    "libssh": ("ssh", "ssh-python"),
    "libssh2": ("ssh2", "ssh2-python"),
    "twisted": ("twisted.conch", "twisted[conch]"),
}

REPEATED = {"key", "host_key", "host_public_key", "option"}


class PeerError(AssertionError):
    """A peer did not say what the test waited for."""


def search_path() -> str:
    """Return where programs are looked for: with the interpreter, in PATH, among the servers."""
    return os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"]
    )


def find_program(name: str) -> str | None:
    return shutil.which(name, path=search_path())


def _missing(name: str) -> str | None:
    """Return the command that installs what the peer lacks, None if it is all there."""
    if name in PROGRAMS:
        programs, remedy = PROGRAMS[name]
        return None if all(map(find_program, programs)) else remedy
    if name in NODE_SCRIPTS:
        package = HERE / "npm/node_modules" / NODE_PACKAGES[name]
        is_there = find_program("node") is not None and package.is_dir()
        return None if is_there else "tests/interop/install_peers.sh"
    module, package_name = MODULES[name]
    try:
        is_there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        is_there = False
    return None if is_there else f"pip install {package_name}"


def require_peer(name: str) -> Peer:
    """Return a peer; without it the test is skipped, or fails where CI=true."""
    if remedy := _missing(name):
        _go_without(f"no peer {name}: {remedy}")
    return Peer(name)


def require_accounts(peer: Peer) -> None:
    """Go on if a server can be shown an account of ours, without changing those of the machine."""
    if peer.name not in ("dropbear", "openssh"):
        return
    command = ["unshare", "--mount", "true"]
    as_root = os.getuid() == 0
    if not as_root or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        _go_without(f"{peer.name} takes passwords of accounts; run as root, where unshare works")


def _go_without(text: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


@dataclass(frozen=True)
class KeyFile:
    """A generated key: in the files that the peers read, and in memory for us."""

    private: Path
    pkcs8: Path
    public: Path
    pair: Any = field(repr=False)

    @property
    def line(self) -> str:
        return self.public.read_text()


def generate_keys(directory: Path) -> dict[str, KeyFile]:
    """Make one key of each type, by the short names that the tests use."""
    made: dict[str, Any] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "ecdsa256": ec.generate_private_key(ec.SECP256R1()),
        "ecdsa384": ec.generate_private_key(ec.SECP384R1()),
        "ecdsa521": ec.generate_private_key(ec.SECP521R1()),
        "rsa": rsa.generate_private_key(65537, 2048),
    }
    directory.mkdir(mode=0o700)
    files = {}
    for name, key in made.items():
        pkcs8, public = directory / f"{name}.pkcs8.pem", directory / f"{name}.pub"
        file = KeyFile(directory / name, pkcs8, public, key)
        forms = ((file.private, PrivateFormat.OpenSSH), (file.pkcs8, PrivateFormat.PKCS8))
        for path, form in forms:
            path.touch(mode=0o600)
            path.write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        file.public.write_bytes(line + b"\n")
        files[name] = file
    return files


class Report(list[Event]):
    """The events of a peer that has ended."""

    def all(self, event: str) -> list[Event]:
        return [entry for entry in self if entry["event"] == event]

    def one(self, event: str) -> Event:
        """Return the first such event; without it, tell what there was instead."""
        found = self.all(event)
        assert found, f"expected {event!r}, the peer reported {list(self)}"
        return found[0]

    def merged(self, event: str) -> Event:
        """Return the members of all such events together."""
        return {name: value for entry in self.all(event) for name, value in entry.items()}


class PeerProcess:
    """A running peer: reads its events in a thread, keeps its log, ends it.

    It has a process group of its own, so that programs that it has started end with it: they hold
    the pipes that are read here, too. Its temporary files are below one folder, which goes with it.

    :ivar patience: seconds that it has to end by itself
    """

    patience = 5.0

    def __init__(self, command: Sequence[str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
        self._files = tempfile.TemporaryDirectory(prefix="peer", ignore_cleanup_errors=True)
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._log: list[str] = []
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment | {"PATH": search_path(), "TMPDIR": self._files.name},
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_log, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        self._log.extend(self._process.stderr)

    def _next(self) -> Event | None:
        try:
            return self._events.get(timeout=DEADLINE)
        except queue.Empty:
            raise PeerError(f"the peer said nothing for {DEADLINE} s; {self.log()}") from None

    def log(self) -> str:
        return "its log ends:\n" + "".join(self._log[-40:])

    def wait_for(self, event: str, **members: Any) -> Event:
        """Block until such an event comes, with at least these members; skip all others."""
        skipped = []
        while (entry := self._next()) is not None:
            if entry["event"] == event and members.items() <= entry.items():
                return entry
            skipped.append(entry)
        raise PeerError(f"no {event!r} {members} among {skipped}; {self.log()}")

    def rest(self) -> Report:
        """Block until the peer ends, return the events until then."""
        report = Report()
        while (entry := self._next()) is not None:
            report.append(entry)
        if self._process.wait(DEADLINE) != 0:
            raise PeerError(f"the peer broke after {report}; {self.log()}")
        return report

    def tell(self, order: str) -> Event:
        """Give an order, return the answer to it; skip the events before."""
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        return self.wait_for(order.split()[0])

    async def ask(self, order: str, members: dict[str, Any]) -> Event:
        """Give an order with members, return the answer to it."""
        return await in_thread(partial(self.tell, f"{order} {json.dumps(members)}"))

    def stop(self) -> None:
        """End the peer: its standard input ends, and what is left after a while is killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self.patience)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._files.cleanup()
        for reader in self._readers:
            reader.join(DEADLINE)
            if reader.is_alive():  # to close a pipe that a thread reads would wait for ever
                raise PeerError(f"something of the peer outlives it; {self.log()}")
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def token() -> str:
    """Return a password that nobody else on this machine knows."""
    return secrets.token_hex(12)


async def in_thread(function: partial[T]) -> T:
    """Run a blocking function of a peer; a cancelled test does not wait for it."""
    return await to_thread.run_sync(function, abandon_on_cancel=True)


async def finish(process: PeerProcess) -> Report:
    """Wait until a peer ends by itself; return what it reported."""
    return await in_thread(partial(process.rest))


class RunningServer:
    """A peer's server that listens on loopback."""

    def __init__(self, process: PeerProcess) -> None:
        self._process = process
        self.port: int = process.wait_for("listening")["port"]

    async def event(self, name: str, **members: Any) -> Event:
        """Wait for an event of the server; the ones before it are gone."""
        return await in_thread(partial(self._process.wait_for, name, **members))

    @property
    def process(self) -> PeerProcess:
        return self._process


@dataclass(frozen=True)
class Peer:
    """Another SSH program, by name; ``npm`` is the Dev Tunnels package."""

    name: str

    def key(self, file: KeyFile) -> Path:
        """Return the private key in a form that this peer reads."""
        return file.pkcs8 if self.name == "npm" else file.private

    @property
    def rekey_bytes(self) -> int:
        """A limit that makes this peer exchange keys at least once in a MiB."""
        return REKEY_LIMITS.get(self.name, 384 * 1024)

    def _command(self, role: str, options: dict[str, Any]) -> list[str]:
        if self.name in NODE_SCRIPTS:
            script = HERE / "npm" / NODE_SCRIPTS[self.name]
            command = [find_program("node") or "node", str(script), role]
        else:
            command = [sys.executable, str(HERE / f"scripts/peer_{self.name}.py"), role]
        for name, value in options.items():
            option = "--" + name.replace("_", "-")
            if value is True:
                command.append(option)
            elif value is None or value is False:
                continue
            elif name in REPEATED:
                for item in value:
                    path = item
                    if isinstance(item, KeyFile):
                        path = item.public if name == "host_public_key" else self.key(item)
                    command += [option, str(path)]
            elif isinstance(value, (list, tuple)):
                command += [option, ",".join(value)]
            else:
                command += [option, str(value)]
        return command

    @contextmanager
    def running(self, role: str, **options: Any) -> Iterator[PeerProcess]:
        """Run a peer, from code without an event loop."""
        process = PeerProcess(self._command(role, options))
        try:
            yield process
        finally:
            process.stop()

    @contextmanager
    def serving(self, **options: Any) -> Iterator[RunningServer]:
        """Run a server, from code without an event loop."""
        with self.running("server", **options) as process:
            yield RunningServer(process)

    @property
    def user(self) -> str:
        """Whom a client logs in as: sshd without a password of ours only has real users."""
        return pwd.getpwuid(os.getuid()).pw_name if self.name == "openssh" else USER

    @asynccontextmanager
    async def server(self, **options: Any) -> AsyncIterator[RunningServer]:
        """Run a server; the options are those of the script."""
        command = self._command("server", options)
        process = await to_thread.run_sync(PeerProcess, command)
        try:
            yield await in_thread(partial(RunningServer, process))
        finally:
            await to_thread.run_sync(process.stop)

    @asynccontextmanager
    async def client(self, port: int, scenario: str, **options: Any) -> AsyncIterator[PeerProcess]:
        """Run a client while the body goes on; see :meth:`play` for the usual case."""
        command = self._command("client", {"port": port, "scenario": scenario} | options)
        process = await to_thread.run_sync(PeerProcess, command)
        try:
            yield process
        finally:
            await to_thread.run_sync(process.stop)

    async def play(self, port: int, scenario: str, **options: Any) -> Report:
        """Run a client through one scenario, return all that it reported."""
        async with self.client(port, scenario, **options) as process:
            return await finish(process)
