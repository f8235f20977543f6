"""OpenSSH: ``sshd`` with a configuration of its own, and one ``ssh`` process per channel.

Each channel is a new connection. That does not matter in bulk and ping-pong, whose clock starts
once the remote command runs; a session set-up is a whole run of ``ssh``, with the subsystem that is
built into sshd, so that no shell and its start-up files count.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .common import (
    ENCRYPTION,
    HOST,
    HOST_KEY_ALGORITHM,
    KEY_EXCHANGE,
    RECEIVE_SIZE,
    Channel,
    Data,
    Task,
)
from .program import main

_daemons: list[subprocess.Popen[bytes]] = []
_writing = threading.Lock()
_READY = b"ready\n"
_SHELL_COMMANDS = {
    # The sleep keeps both ends alive while the driver looks at them.
    "sink": "wc -c; sleep 1",
    "source": "read go; dd if=/dev/zero bs={1} count={0} iflag=count_bytes status=none; sleep 1",
    "echo": "exec cat",
}
_SERVER = """\
Port {port}
ListenAddress {host}
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
UseDNS no
MaxStartups 1000
LogLevel ERROR
Ciphers {cipher}
KexAlgorithms {kex}
HostKeyAlgorithms {key}
PubkeyAcceptedAlgorithms {key}
Compression no
Subsystem sftp internal-sftp
"""
_CLIENT = """\
Host *
HostName {host}
Port {port}
User {user}
IdentityFile {keys}/user
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile {keys}/known_hosts
GlobalKnownHostsFile none
StrictHostKeyChecking yes
UpdateHostKeys no
PreferredAuthentications publickey
BatchMode yes
ControlMaster no
RequestTTY no
EscapeChar none
LogLevel ERROR
Ciphers {cipher}
KexAlgorithms {kex}
HostKeyAlgorithms {key}
PubkeyAcceptedAlgorithms {key}
Compression no
"""


def _write_configuration(path: Path, template: str, task: Task, port: int) -> None:
    path.write_text(
        template.format(
            host=HOST,
            port=port,
            keys=task.keys,
            user=getpass.getuser(),
            cipher=ENCRYPTION,
            kex=KEY_EXCHANGE,
            key=HOST_KEY_ALGORITHM,
        )
    )


def _find_sshd() -> str:
    # sshd insists on an absolute path; it often is in a directory that users do not search.
    path = shutil.which("sshd", path=os.pathsep.join((os.defpath, "/usr/sbin", "/usr/local/sbin")))
    if path is None:
        raise RuntimeError("there is no sshd")
    return path


async def serve(task: Task) -> None:
    """Run sshd until our input ends."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = _free_port()
    configuration = task.keys / "sshd_config"
    _write_configuration(configuration, _SERVER, task, port)
    sshd = subprocess.Popen(
        [_find_sshd(), "-D", "-e", "-f", str(configuration)], stdin=subprocess.DEVNULL
    )
    _daemons.append(sshd)
    _wait_for(port, sshd)
    task.listens(port)
    sshd.wait()


def _stop() -> None:
    for daemon in _daemons:
        daemon.terminate()
        daemon.wait()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _wait_for(port: int, daemon: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        if daemon.poll() is not None:
            raise RuntimeError(f"{daemon.args!r} ended with {daemon.returncode}")
        try:
            socket.create_connection((HOST, port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{daemon.args!r} does not listen")


class ProcessChannel:
    """The standard streams of one ``ssh`` process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._input = process.stdin
        self._output = process.stdout

    async def send(self, data: bytes) -> None:
        """Send it all."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._input.fileno(), view) :]

    send_small = send

    async def receive(self) -> Data:
        """Return some bytes, ``b""`` at the end."""
        return os.read(self._output.fileno(), RECEIVE_SIZE)

    async def send_eof(self) -> None:
        """Say that no more will be sent."""
        self._input.close()

    async def aclose(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
        self._input.close()
        self._output.close()


class OpenSSHConnection:
    """Starts an ``ssh`` process for each command."""

    def __init__(self, configuration: Path) -> None:
        self._configuration = configuration

    async def open(self, command: str) -> Channel:
        """Return the process that runs the command, once it runs."""
        name, *arguments = command.split()
        shell_command = "echo ready; " + _SHELL_COMMANDS[name].format(*arguments)
        process = subprocess.Popen(
            ["ssh", "-F", str(self._configuration), "peer", shell_command],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        channel = ProcessChannel(process)
        greeting = await channel.receive()
        if greeting != _READY:
            raise RuntimeError(f"the remote command did not start, it said {greeting!r}")
        return channel

    async def open_idle(self) -> Channel:
        """Return the process of a command that does nothing."""
        return await self.open("echo")


def _client_configuration(task: Task) -> Path:
    configuration = task.keys / "ssh_config"
    with _writing:
        if not configuration.exists() or f"Port {task.port}\n" not in configuration.read_text():
            _write_configuration(configuration, _CLIENT, task, task.port)
            public = (task.keys / "host.pub").read_text()
            (task.keys / "known_hosts").write_text(f"[{HOST}]:{task.port} {public}")
    return configuration


@asynccontextmanager
async def connect(task: Task) -> AsyncIterator[OpenSSHConnection]:
    """Prepare the client's configuration; for a session set-up, run one whole session."""
    configuration = _client_configuration(task)
    if task.workload == "set-up":
        command = ["ssh", "-n", "-s", "-F", str(configuration), "peer", "sftp"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    yield OpenSSHConnection(configuration)


@asynccontextmanager
async def forward(task: Task) -> AsyncIterator[int]:
    """Forward a free port to the target."""
    port = _free_port()
    ways = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"{HOST}:{port}:{HOST}:{task.target}"]
    command = ["ssh", "-F", str(_client_configuration(task)), *ways, "peer"]
    ssh = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    _daemons.append(ssh)
    _wait_for(port, ssh)
    yield port


if __name__ == "__main__":
    main(serve, connect, forward, _stop)
