"""paramiko as a peer; the command line is that of :mod:`peer_common`."""

from __future__ import annotations

import argparse
import base64
import logging
import socket
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import paramiko
from paramiko.common import cMSG_DISCONNECT
from peer_common import (
    DIGEST,
    DISCONNECT,
    ECHO,
    GREETING,
    PROMPTS,
    REPORT,
    SHARED,
    SIGNAL,
    Done,
    RefusedError,
    emit,
    end_with_input,
    log_actions,
    parse_arguments,
    pattern,
    sha256,
    watch_log,
)

TIME = 30.0
CHUNK = 65536


def public_blobs(names: Iterable[str]) -> set[bytes]:
    lines = [line for name in names for line in Path(name).read_text().splitlines()]
    return {base64.b64decode(line.split()[1]) for line in lines if line}


class Rekeying:
    """Exchanges keys once, in the thread that counts the bytes, which waits for it.

    Left to itself the library may do so when a channel has ended, and then waits for ever.
    """

    def __init__(self, transport: paramiko.Transport, limit: int | None) -> None:
        self.transport = transport
        self.left = limit

    def count(self, size: int) -> None:
        if self.left is None:
            return
        self.left -= size
        if self.left <= 0:
            self.left = None
            self.transport.renegotiate_keys()


def once(arguments: argparse.Namespace) -> int | None:
    """Return the bytes after which keys are exchanged once, if they are to be."""
    return arguments.rekey_bytes if arguments.rekey_once else None


def configure(transport: paramiko.Transport, arguments: argparse.Namespace) -> None:
    options = transport.get_security_options()
    for name, chosen in (
        ("kex", arguments.kex),
        ("ciphers", arguments.ciphers),
        ("digests", arguments.macs),
        ("key_types", arguments.host_key_algorithms),
    ):
        if chosen:
            setattr(options, name, tuple(chosen))
    if arguments.rekey_bytes and not arguments.rekey_once:
        transport.packetizer.REKEY_BYTES = arguments.rekey_bytes


def send_disconnect(transport: paramiko.Transport, reason: int, text: str) -> None:
    message = paramiko.Message()
    message.add_byte(cMSG_DISCONNECT)
    message.add_int(reason)
    message.add_string(text)
    message.add_string("")
    transport._send_message(message)
    transport.close()


class ServerTransport(paramiko.Transport):
    """Starts a command only when the reply to its request has been sent."""

    accepted: threading.Thread | None = None

    def _send_user_message(self, data: paramiko.Message) -> None:
        super()._send_user_message(data)
        if threading.current_thread() is self and self.accepted is not None:
            command, self.accepted = self.accepted, None
            command.start()


class PeerServer(paramiko.ServerInterface):
    def __init__(self, arguments: argparse.Namespace, transport: ServerTransport) -> None:
        self.arguments = arguments
        self.transport = transport
        self.authorized = public_blobs([arguments.authorized]) if arguments.authorized else set()

    def _answer(self, good: bool, user: str, method: str) -> int:
        if good and user == self.arguments.user:
            emit("authenticated", user=user, method=method)
            return int(paramiko.AUTH_SUCCESSFUL)
        return int(paramiko.AUTH_FAILED)

    def get_allowed_auths(self, username: str) -> str:
        methods = ["publickey"] if self.authorized else []
        methods += ["keyboard-interactive"] if self.arguments.interactive else []
        methods += ["password"] if self.arguments.password is not None else []
        return ",".join(methods)

    def check_auth_password(self, username: str, password: str) -> int:
        good = self.arguments.password is not None and password == self.arguments.password
        return self._answer(good, username, "password")

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        good = key.asbytes() in self.authorized and username == self.arguments.user
        return int(paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED)

    def check_auth_interactive(self, username: str, submethods: str) -> Any:
        if not self.arguments.interactive:
            return paramiko.AUTH_FAILED
        self.user = username
        return paramiko.InteractiveQuery("Two questions", "Answer both", *PROMPTS)

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        good = list(responses) == self.arguments.answers
        return self._answer(good, self.user, "keyboard-interactive")

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if kind == "session":
            return int(paramiko.OPEN_SUCCEEDED)
        return int(paramiko.OPEN_FAILED_UNKNOWN_CHANNEL_TYPE)

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        if not self.arguments.everything:
            return int(paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)
        arguments = (self.transport, chanid, destination)
        threading.Thread(target=relay, args=arguments, daemon=True).start()
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        rekeying = Rekeying(self.transport, once(self.arguments))
        arguments = (self.transport, channel, command.decode(), rekeying)
        command_thread = threading.Thread(target=run_command, args=arguments, daemon=True)
        self.transport.accepted = command_thread
        return True


def run_command(
    transport: paramiko.Transport, channel: paramiko.Channel, command: str, rekeying: Rekeying
) -> None:
    if command == ECHO:
        while chunk := channel.recv(65536):
            channel.sendall(chunk)
            rekeying.count(len(chunk))
        channel.send_exit_status(0)
    elif command == DIGEST:
        received = b"".join(iter(lambda: channel.recv(65536), b""))
        channel.sendall(f"{sha256(received)}  -\n".encode())
        channel.send_exit_status(0)
    elif command == REPORT:
        channel.sendall(b"output")
        channel.sendall_stderr(b"errors")
        channel.send_exit_status(42)
    elif command == SIGNAL:
        message = paramiko.Message()
        message.add_byte(paramiko.common.cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("exit-signal")
        message.add_boolean(False)
        message.add_string("TERM")
        message.add_boolean(False)
        message.add_string("terminated")
        message.add_string("")
        transport._send_user_message(message)
    elif command.startswith(DISCONNECT):
        reason, _, text = command.removeprefix(DISCONNECT).partition(" ")
        send_disconnect(transport, int(reason), text)
        return
    channel.shutdown_write()
    channel.close()


def relay(transport: paramiko.Transport, number: int, destination: tuple[str, int]) -> None:
    """Join the channel of this number to a port. Session channels are accepted along the way."""
    channel = transport.accept(TIME)
    while channel is not None and channel.get_id() != number:
        channel = transport.accept(TIME)
    if channel is not None:
        join_to(channel, destination)


def join_to(channel: paramiko.Channel, destination: tuple[str, int]) -> None:
    with socket.create_connection(destination) as there:

        def back() -> None:
            while chunk := there.recv(65536):
                channel.sendall(chunk)
            channel.close()

        threading.Thread(target=back, daemon=True).start()
        while chunk := channel.recv(65536):
            there.sendall(chunk)
        there.shutdown(socket.SHUT_WR)


def serve_one(stream: socket.socket, arguments: argparse.Namespace) -> None:
    transport = ServerTransport(stream)
    configure(transport, arguments)
    for name in arguments.host_key:
        transport.add_server_key(paramiko.PKey.from_path(name))
    try:
        transport.start_server(server=PeerServer(arguments, transport))
    except paramiko.SSHException as error:
        emit("failed", error=str(error))


def serve(arguments: argparse.Namespace) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    emit("listening", port=listener.getsockname()[1])

    def accept() -> None:
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=serve_one, args=(stream, arguments), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


def exchange(
    transport: paramiko.Transport,
    data: bytes,
    command: str = ECHO,
    rekey_once: int | None = None,
) -> tuple[bytes, int]:
    """Send data to a command while reading, return what came back and the exit status.

    :param rekey_once: bytes sent after which keys are exchanged
    """
    channel = transport.open_session(timeout=TIME)
    channel.settimeout(TIME)
    channel.exec_command(command)

    def send() -> None:
        rekeying = Rekeying(transport, rekey_once)
        for start in range(0, len(data), CHUNK):
            channel.sendall(data[start : start + CHUNK])
            rekeying.count(CHUNK)
        channel.shutdown_write()

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    received = bytearray()
    while chunk := channel.recv(65536):
        received += chunk
    sender.join(TIME)
    return bytes(received), channel.recv_exit_status()


def exchange_three(transport: paramiko.Transport) -> list[bool]:
    intact = [False] * 3

    def one(seed: int) -> None:
        data = pattern(65536, seed)
        intact[seed] = exchange(transport, data)[0] == data

    threads = [threading.Thread(target=one, args=(seed,), daemon=True) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIME)
    return intact


def run_report(transport: paramiko.Transport) -> Done:
    channel = transport.open_session(timeout=TIME)
    channel.settimeout(TIME)
    channel.exec_command(REPORT)
    output = channel.makefile("rb").read()
    errors = channel.makefile_stderr("rb").read()
    return Done(output, errors, channel.recv_exit_status())


def report(transport: paramiko.Transport) -> None:
    done = run_report(transport)
    output, errors = done.output.decode(), done.errors.decode()
    emit("result", stdout=output, stderr=errors, status=done.status)


def play(transport: paramiko.Transport, arguments: argparse.Namespace) -> None:
    match arguments.scenario:
        case "authenticate":
            emit("result")
        case "echo":
            received, status = exchange(transport, GREETING)
            emit("result", received=received.decode(), status=status)
        case "bulk":
            received, status = exchange(transport, pattern(arguments.bytes))
            emit("result", received=len(received), sha256=sha256(received), status=status)
        case "upload":
            received, status = exchange(transport, pattern(arguments.bytes), DIGEST)
            emit("result", sha256=received.decode().split()[0], status=status)
        case "channels":
            emit("result", intact=exchange_three(transport))
        case "exec":
            report(transport)
        case "disconnect":
            exchange(transport, GREETING)
            send_disconnect(transport, arguments.reason, arguments.message)
        case "wait":
            transport.open_session(timeout=TIME).exec_command(ECHO)
            transport.join(TIME)
        case unknown:
            raise SystemExit(f"no scenario {unknown!r}")


def authenticate(transport: paramiko.Transport, arguments: argparse.Namespace) -> str:
    def answer(name: str, instruction: str, prompts: list[tuple[str, bool]]) -> list[str]:
        emit("challenge", name=name, instruction=instruction, prompts=prompts)
        answers: list[str] = arguments.answers
        return answers[: len(prompts)]

    if arguments.key:
        try:
            transport.auth_publickey(arguments.user, paramiko.PKey.from_path(arguments.key[0]))
            return "publickey"
        except paramiko.AuthenticationException:
            if arguments.password is None:
                raise
    if arguments.interactive:
        transport.auth_interactive(arguments.user, answer)
        return "keyboard-interactive"
    transport.auth_password(arguments.user, arguments.password or "", fallback=False)
    return "password"


def start(arguments: argparse.Namespace) -> paramiko.Transport:
    transport = paramiko.Transport(socket.create_connection(("127.0.0.1", arguments.port)))
    transport.auth_timeout = transport.banner_timeout = TIME
    configure(transport, arguments)
    return transport


def verify(transport: paramiko.Transport, arguments: argparse.Namespace) -> None:
    transport.start_client(timeout=TIME)
    key = transport.get_remote_server_key()
    if key.asbytes() not in public_blobs(arguments.host_public_key):
        raise paramiko.SSHException("the host key is not the expected one")


class CellConnection:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.rekey_once = once(arguments)
        self.transport = start(arguments)
        verify(self.transport, arguments)
        try:
            authenticate(self.transport, arguments)
        except paramiko.AuthenticationException as error:
            raise RefusedError(str(error)) from None

    def run(self, command: str, data: bytes) -> Done:
        if command == REPORT:
            return run_report(self.transport)
        received, status = exchange(self.transport, data, command, self.rekey_once)
        return Done(received, b"", status)

    def through(self, port: int, words: bytes) -> bytes:
        places = (("127.0.0.1", port), ("127.0.0.1", 0))
        channel = self.transport.open_channel("direct-tcpip", *places, timeout=TIME)
        channel.settimeout(TIME)
        channel.sendall(words)
        heard = b""
        while len(heard) < len(words) and (chunk := channel.recv(65536)):
            heard += chunk
        channel.close()
        return heard

    def back(self, port: int, target: int) -> None:
        def join(channel: paramiko.Channel, origin: Any, listened: Any) -> None:
            where = ("127.0.0.1", target)
            threading.Thread(target=join_to, args=(channel, where), daemon=True).start()

        self.transport.request_port_forward("127.0.0.1", port, join)
        emit("waiting")
        sys.stdin.read()

    def close(self) -> None:
        self.transport.close()


def connect(arguments: argparse.Namespace) -> None:
    end_with_input()
    transport = start(arguments)
    try:
        verify(transport, arguments)
        emit("connected", cipher=transport.remote_cipher, mac=transport.remote_mac)
        method = authenticate(transport, arguments)
    except paramiko.AuthenticationException as error:
        emit("refused", error=str(error))
    except (paramiko.SSHException, EOFError, OSError) as error:
        emit("failed", error=f"{type(error).__name__}: {error}")
    else:
        emit("authenticated", method=method)
        play(transport, arguments)
    transport.close()


def main() -> None:
    arguments = parse_arguments()
    watch_log(
        "paramiko",
        logging.DEBUG,
        log_actions(
            key_exchange="Switch to new keys",
            disconnected=r"Disconnect \(code (?P<reason>\d+)\): (?P<message>.*)",
            asked_alive='Received global request "keepalive@openssh.com"',
            keep_alive="(?!)",  # its own keep-alives ask for no answer
        ),
    )
    if arguments.role == "server":
        serve(arguments)
    elif arguments.scenario in SHARED:
        SHARED[arguments.scenario](arguments, CellConnection)
    else:
        connect(arguments)


if __name__ == "__main__":
    main()
