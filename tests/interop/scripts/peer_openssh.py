"""OpenSSH as a peer: ``sshd`` and ``ssh`` with the command line of :mod:`peer_common`.

The server runs as the present user with its own configuration on a loopback port. Passwords need an
account whose password we know, see :mod:`accounts`. Without ``--password``, any user can run the
server.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from accounts import add_account, free_port, in_namespace
from peer_common import (
    ECHO,
    GREETING,
    REPORT,
    SHARED,
    SIGNAL,
    emit,
    parse_arguments,
    pattern,
    sha256,
)
from programs import ProgramConnection

ALL_KEX = "curve25519-sha256,ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521"
ALL_KEX += ",curve25519-sha256@libssh.org"
ALL_KEX += ",diffie-hellman-group14-sha256,diffie-hellman-group16-sha512"

Actions = dict[str, Callable[[re.Match[str]], None]]


def follow(lines: Iterable[str], actions: Actions) -> None:
    """Turn the lines of a log into events, and keep them on our standard error."""
    patterns = {re.compile(text): action for text, action in actions.items()}
    for line in lines:
        sys.stderr.write(line)
        for expression, action in patterns.items():
            if match := expression.search(line):
                action(match)


def follow_file(path: Path, actions: Actions) -> None:
    with path.open(errors="replace") as lines:
        follow(lines, actions)


def log_actions() -> Actions:
    return {
        r"SSH2_MSG_NEWKEYS received": lambda match: emit("key_exchange"),
        r"Received disconnect from \S+ port \d+:(?P<reason>\d+): (?P<message>.*)": (
            lambda match: emit(
                "disconnected",
                reason=int(match["reason"]),
                message=match["message"].removesuffix(" [preauth]").strip(),
            )
        ),
        r"input_global_request: rtype keepalive@openssh.com": lambda match: emit("asked_alive"),
    }


def known(kind: str) -> list[str]:
    """Ask ``ssh`` for every algorithm of a kind that it has."""
    done = subprocess.run(["ssh", "-Q", kind], capture_output=True, text=True, check=True)
    return done.stdout.split()


def name_everything(arguments: argparse.Namespace) -> None:
    """Name all algorithms that are not named yet."""
    arguments.kex = arguments.kex or known("kex")
    arguments.ciphers = arguments.ciphers or known("cipher")
    arguments.macs = arguments.macs or known("mac")


# --- the server


def server_configuration(arguments: argparse.Namespace, port: int, home: Path) -> str:
    with_password = arguments.password is not None
    lines = [
        *(option.replace("=", " ", 1) for option in arguments.option),
        f"ListenAddress 127.0.0.1:{port}",
        *(f"HostKey {name}" for name in arguments.host_key),
        f"AuthorizedKeysFile {arguments.authorized or 'none'}",
        f"PidFile {home / 'pid'}",
        "StrictModes no",
        "PermitRootLogin yes",
        "LogLevel DEBUG3",
        "PermitUserRC no",
        "MaxStartups 100",
        "UseDNS no",
        f"UsePAM {'yes' if with_password else 'no'}",
        f"PasswordAuthentication {'yes' if with_password else 'no'}",
        f"KbdInteractiveAuthentication {'yes' if arguments.interactive else 'no'}",
        f"KexAlgorithms {','.join(arguments.kex) if arguments.kex else '+' + ALL_KEX}",
        f"Ciphers {','.join(arguments.ciphers) if arguments.ciphers else '+aes256-cbc'}",
    ]
    if arguments.macs:
        lines.append(f"MACs {','.join(arguments.macs)}")
    if arguments.host_key_algorithms:
        lines.append(f"HostKeyAlgorithms {','.join(arguments.host_key_algorithms)}")
    if arguments.rekey_bytes:
        lines.append(f"RekeyLimit {arguments.rekey_bytes}")
    if arguments.keep_alive:
        lines += [f"ClientAliveInterval {arguments.keep_alive:.0f}", "ClientAliveCountMax 1"]
    return "\n".join(lines) + "\n"


def server_actions(ready: threading.Event, asked: threading.Event) -> Actions:
    def sent_keep_alive(match: re.Match[str]) -> None:
        asked.set()

    def answered(match: re.Match[str]) -> None:
        if asked.is_set():
            asked.clear()
            emit("keep_alive")

    return log_actions() | {
        r"Server listening on": lambda match: ready.set(),
        r"Accepted (?P<method>\S+) for (?P<user>\S+) from": lambda match: emit(
            "authenticated", user=match["user"], method=match["method"].partition("/")[0]
        ),
        # sshd asks on a channel when there is one (98), otherwise with a global request (80).
        r"(channel \d+: request keepalive@openssh.com|send packet: type 80)": sent_keep_alive,
        r"receive packet: type (81|82|99|100)\b": answered,
    }


def serve(arguments: argparse.Namespace, home: Path) -> None:
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ["PATH"])
    assert program is not None, "there is no sshd"
    port = free_port()
    configuration = home / "sshd_config"
    configuration.write_text(server_configuration(arguments, port, home))
    # A pipe with a name: with -e the commands' own stderr would carry the log as well.
    log = home / "log"
    os.mkfifo(log)
    command = [program, "-D", "-E", str(log), "-f", str(configuration)]
    if arguments.password is not None:
        add_account(arguments.user, arguments.password, home)
        command = in_namespace(home, command)
    elif os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    ready, asked = threading.Event(), threading.Event()
    with subprocess.Popen(command) as process:
        follower = (log, server_actions(ready, asked))
        threading.Thread(target=follow_file, args=follower, daemon=True).start()
        if ready.wait(20):
            emit("listening", port=port)
            sys.stdin.read()
        else:
            emit("failed", error=f"sshd did not start, status {process.poll()}")
        process.terminate()


# --- the client

ASKPASS = """\
#!/bin/sh
case "$1" in
*"First colour: ") echo "$PEER_FIRST" ;;
*"Second colour: ") echo "$PEER_SECOND" ;;
*) echo "$PEER_PASSWORD" ;;
esac
"""


class Cell(ProgramConnection):
    """Each thing that belongs to a cell is a connection of its own."""

    refusals = (b"Permission denied",)

    def __init__(self, arguments: argparse.Namespace, home: Path) -> None:
        self.client = Client(arguments, home)
        super().__init__(home, **self.client.environment)
        self.program = [*self.client.program(home / "log"), "127.0.0.1"]

    def to_run(self, command: str) -> list[str | Path]:
        return [*self.program, command]

    def to_forward(self, port: int) -> list[str | Path]:
        return [*self.program, "-W", f"127.0.0.1:{port}"]

    def to_listen(self, port: int, target: int) -> list[str | Path]:
        return [*self.program, "-N", "-R", f"127.0.0.1:{port}:127.0.0.1:{target}"]


class Client:
    """Runs ``ssh`` programs that share one set of options."""

    def __init__(self, arguments: argparse.Namespace, home: Path) -> None:
        self.arguments = arguments
        self.known_hosts = home / "known_hosts"
        self.control = home / "control"
        keys = [Path(name).read_text().split()[:2] for name in arguments.host_public_key]
        host = f"[127.0.0.1]:{arguments.port}"
        self.known_hosts.write_text("".join(f"{host} {kind} {blob}\n" for kind, blob in keys))
        askpass = home / "askpass"
        askpass.write_text(ASKPASS)
        askpass.chmod(0o700)
        self.environment = os.environ | {
            "SSH_ASKPASS": str(askpass),
            "SSH_ASKPASS_REQUIRE": "force",
            "PEER_PASSWORD": arguments.password or arguments.answers[0],
            "PEER_FIRST": arguments.answers[0],
            "PEER_SECOND": arguments.answers[1],
        }

    def options(self) -> dict[str, str]:
        arguments = self.arguments
        methods = ["publickey"] if arguments.key else []
        methods += ["keyboard-interactive"] if arguments.interactive else []
        methods += ["password"] if arguments.password is not None else []
        options = {
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "IdentityAgent": "none",
            "IdentitiesOnly": "yes",
            "PreferredAuthentications": ",".join(methods),
            "NumberOfPasswordPrompts": "1",
            "KexAlgorithms": ",".join(arguments.kex) if arguments.kex else "",
            "Ciphers": ",".join(arguments.ciphers) if arguments.ciphers else "",
            "MACs": ",".join(arguments.macs) if arguments.macs else "",
            "HostKeyAlgorithms": ",".join(arguments.host_key_algorithms or ()),
            "RekeyLimit": str(arguments.rekey_bytes or ""),
        }
        if arguments.keep_alive:
            options |= {
                "ServerAliveInterval": f"{arguments.keep_alive:.0f}",
                "ServerAliveCountMax": "1",
            }
        options |= dict(option.split("=", 1) for option in arguments.option)
        return {name: value for name, value in options.items() if value}

    def program(self, log: Path) -> list[str]:
        program = ["ssh", "-F", "none", "-T", "-vvv", "-E", str(log)]
        program += ["-p", str(self.arguments.port), "-l", self.arguments.user]
        program += [f"-i{name}" for name in self.arguments.key] or ["-oIdentityFile=none"]
        program += [f"-o{name}={value}" for name, value in self.options().items()]
        return program

    def start(self, command: str, log: Path, *more: str) -> subprocess.Popen[bytes]:
        """Start one ``ssh`` that runs a command, its log in a file of its own."""
        program = [*self.program(log), *more, "127.0.0.1", command]
        pipe = subprocess.PIPE
        environment = self.environment
        return subprocess.Popen(program, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)


def client_actions() -> Actions:
    state = {"asked": False}

    def asked(match: re.Match[str]) -> None:
        state["asked"] = True

    def answered(match: re.Match[str]) -> None:
        if state["asked"]:
            state["asked"] = False
            emit("keep_alive")

    return log_actions() | {
        r"kex: algorithm: (?P<kex>\S+)": lambda match: emit("connected", kex=match["kex"]),
        r"kex: client->server cipher: (?P<cipher>\S+) MAC: (?P<mac>\S+)": (
            lambda match: emit("connected", cipher=match["cipher"], mac=match["mac"])
        ),
        r'Authenticated to .* using "(?P<method>[^"]+)"': (
            lambda match: emit("authenticated", method=match["method"])
        ),
        r"Permission denied \(": lambda match: emit("refused", error=match.string.strip()),
        r"send packet: type 80\b": asked,
        r"receive packet: type 8[12]\b": answered,
    }


def talk(process: subprocess.Popen[bytes], data: bytes) -> tuple[bytes, bytes, int]:
    output, errors = process.communicate(data, timeout=60)
    return output, errors, process.returncode


def three_channels(client: Client, home: Path) -> None:
    """Play three channels of one connection: a master and three programs that use its socket."""
    ready = ["-oPermitLocalCommand=yes", "-oLocalCommand=echo ready", "-M"]
    master = client.start(ECHO, home / "log", f"-oControlPath={client.control}", *ready)
    assert master.stdout is not None
    if master.stdout.readline() != b"ready\n":
        emit("failed", error="the master connection did not come up")
        return
    sent = [pattern(65536, seed) for seed in range(3)]
    intact = [False] * 3

    def one(seed: int) -> None:
        log = home / f"log{seed}"
        process = client.start(ECHO, log, f"-oControlPath={client.control}", "-oProxyCommand=false")
        intact[seed] = talk(process, sent[seed])[0] == sent[seed]

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    emit("result", intact=intact)
    talk(master, b"")


def end_with_input(process: subprocess.Popen[bytes]) -> None:
    """End the remote command when our own standard input ends."""
    sys.stdin.read()
    assert process.stdin is not None
    process.stdin.close()


def until_alive(client: Client, log: Path) -> None:
    """Keep a channel open until two keep-alives were answered."""
    os.mkfifo(log)
    process = client.start(ECHO, log)
    seen = {"count": 0}
    actions = client_actions()
    answered = actions[r"receive packet: type 8[12]\b"]

    def count(match: re.Match[str]) -> None:
        answered(match)
        seen["count"] += 1
        if seen["count"] == 2:
            assert process.stdin is not None
            process.stdin.close()

    actions[r"receive packet: type 8[12]\b"] = count
    follow_file(log, actions)
    process.wait(20)
    log.unlink()
    log.touch()


def play(client: Client, arguments: argparse.Namespace, home: Path) -> None:
    log = home / "log"
    match arguments.scenario:
        case "authenticate" | "disconnect":
            # ssh ends every session with DISCONNECT 11 and words of its own.
            _, _, status = talk(client.start(ECHO, log), b"")
            if status == 0:
                emit("result")
        case "echo":
            output, _, status = talk(client.start(ECHO, log), GREETING)
            emit("result", received=output.decode(), status=status)
        case "bulk":
            output, _, status = talk(client.start(ECHO, log), pattern(arguments.bytes))
            emit("result", received=len(output), sha256=sha256(output), status=status)
        case "channels":
            three_channels(client, home)
        case "exec":
            output, errors, status = talk(client.start(REPORT, log), b"")
            emit("result", stdout=output.decode(), stderr=errors.decode(), status=status)
        case "signal":
            talk(client.start(SIGNAL, log), b"")
            # ssh tells that a signal came, not which.
            came = "rtype exit-signal" in log.read_text(errors="replace")
            emit("result", signal="unnamed" if came else None)
        case "wait":
            process = client.start(ECHO, log)
            threading.Thread(target=end_with_input, args=(process,), daemon=True).start()
            process.wait()
        case "alive":
            until_alive(client, log)
        case unknown:
            raise SystemExit(f"no scenario {unknown!r}")
    follow_file(log, client_actions())


def main() -> None:
    arguments = parse_arguments()
    if arguments.everything:
        name_everything(arguments)
    # A control socket's path must be short, so not below pytest's directory.
    with tempfile.TemporaryDirectory(prefix="peer") as directory:
        home = Path(directory)
        if arguments.role == "server":
            serve(arguments, home)
        elif arguments.scenario in SHARED:
            SHARED[arguments.scenario](arguments, lambda wanted: Cell(wanted, home))
        else:
            play(Client(arguments, home), arguments, home)


if __name__ == "__main__":
    main()
