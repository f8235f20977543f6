"""asyncssh as a peer; the command line is that of :mod:`peer_common`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncssh
import asyncssh.encryption
import asyncssh.kex
import asyncssh.mac
from peer_common import (
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

T = TypeVar("T")


def algorithm_options(arguments: argparse.Namespace) -> dict[str, Any]:
    chosen = {
        "kex_algs": arguments.kex,
        "encryption_algs": arguments.ciphers and ",".join(arguments.ciphers),
        "mac_algs": arguments.macs,
        "rekey_bytes": arguments.rekey_bytes,
        "keepalive_interval": arguments.keep_alive,
        "compression_algs": ["none"],
    }
    if arguments.everything:
        for kind in ("kex_algs", "encryption_algs", "mac_algs"):
            chosen[kind] = chosen[kind] or known(kind)
    return {name: value for name, value in chosen.items() if value}


def known(kind: str) -> list[str]:
    """Return every algorithm of a kind that the library has."""
    getters = {
        "kex_algs": asyncssh.kex.get_kex_algs,
        "encryption_algs": asyncssh.encryption.get_encryption_algs,
        "mac_algs": asyncssh.mac.get_mac_algs,
    }
    return [name.decode() for name in getters[kind]()]


class PeerServer(asyncssh.SSHServer):
    arguments: argparse.Namespace

    def connection_made(self, connection: asyncssh.SSHServerConnection) -> None:
        self.connection = connection

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        return bool(self.arguments.everything)

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return bool(self.arguments.everything)

    def auth_completed(self) -> None:
        user = self.connection.get_extra_info("username")
        emit("authenticated", user=user, method=self.method)

    def begin_auth(self, username: str) -> bool:
        self.method = "none"
        return True

    def password_auth_supported(self) -> bool:
        return self.arguments.password is not None

    def validate_password(self, username: str, password: str) -> bool:
        self.method = "password"
        return bool((username, password) == (self.arguments.user, self.arguments.password))

    def public_key_auth_supported(self) -> bool:
        return self.arguments.authorized is not None

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self.method = "publickey"
        known = asyncssh.read_public_key_list(self.arguments.authorized)
        allowed = {item.public_data for item in known}
        return username == self.arguments.user and key.public_data in allowed

    def kbdint_auth_supported(self) -> bool:
        return bool(self.arguments.interactive)

    def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> Any:
        self.method = "keyboard-interactive"
        return "Two questions", "Answer both", "", list(PROMPTS)

    def validate_kbdint_response(self, username: str, responses: Any) -> bool:
        return bool(list(responses) == self.arguments.answers)


async def run_command(process: asyncssh.SSHServerProcess[bytes]) -> None:
    command = process.command or ""
    if command == ECHO:
        while chunk := await process.stdin.read(65536):
            process.stdout.write(chunk)
            await process.stdout.drain()
        process.exit(0)
    elif command == REPORT:
        process.stdout.write(b"output")
        process.stderr.write(b"errors")
        process.exit(42)
    elif command == SIGNAL:
        process.exit_with_signal("TERM", msg="terminated")
    elif command.startswith(DISCONNECT):
        reason, _, message = command.removeprefix(DISCONNECT).partition(" ")
        process.channel.get_connection().disconnect(int(reason), message)
    else:
        process.exit(127)


async def serve(arguments: argparse.Namespace) -> None:
    PeerServer.arguments = arguments
    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=PeerServer,
        server_host_keys=arguments.host_key,
        signature_algs=arguments.host_key_algorithms or (),
        process_factory=run_command,
        encoding=None,
        allow_scp=False,
        **algorithm_options(arguments),
    )
    emit("listening", port=listener.get_port())
    await asyncio.to_thread(sys.stdin.read)
    listener.close()


class PeerClient(asyncssh.SSHClient):
    arguments: argparse.Namespace

    def kbdint_auth_requested(self) -> str:
        return ""

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Any
    ) -> Any:
        emit("challenge", name=name, instruction=instructions, prompts=list(prompts))
        return self.arguments.answers[: len(prompts)]


async def exchange(
    connection: asyncssh.SSHClientConnection, data: bytes
) -> tuple[bytes, int | None]:
    """Send data through ``cat`` while reading, return what came back and the exit status."""
    process = await connection.create_process(ECHO, encoding=None)

    async def send() -> None:
        process.stdin.write(data)
        await process.stdin.drain()
        process.stdin.write_eof()

    _, received = await asyncio.gather(send(), process.stdout.read())
    await process.wait_closed()
    return received, process.exit_status


async def play(connection: asyncssh.SSHClientConnection, arguments: argparse.Namespace) -> None:
    match arguments.scenario:
        case "authenticate":
            emit("result")
        case "echo":
            received, status = await exchange(connection, GREETING)
            emit("result", received=received.decode(), status=status)
        case "bulk":
            received, status = await exchange(connection, pattern(arguments.bytes))
            emit("result", received=len(received), sha256=sha256(received), status=status)
        case "channels":
            sent = [pattern(65536, seed) for seed in range(3)]
            results = await asyncio.gather(*(exchange(connection, data) for data in sent))
            pairs = zip(results, sent, strict=True)
            emit("result", intact=[received == data for (received, _), data in pairs])
        case "exec":
            done = await connection.run(REPORT)
            emit("result", stdout=done.stdout, stderr=done.stderr, status=done.exit_status)
        case "signal":
            done = await connection.run(SIGNAL)
            emit("result", signal=done.exit_signal and done.exit_signal[0])
        case "disconnect":
            await exchange(connection, GREETING)
            connection.disconnect(arguments.reason, arguments.message)
        case "wait" | "alive":
            await connection.create_process(ECHO, encoding=None)
            await connection.wait_closed()
        case unknown:
            raise SystemExit(f"no scenario {unknown!r}")


def methods_of(arguments: argparse.Namespace) -> list[str]:
    methods = ["publickey"] if arguments.key else []
    methods += ["keyboard-interactive"] if arguments.interactive else []
    methods += ["password"] if arguments.password is not None else []
    return methods


async def log_in(arguments: argparse.Namespace) -> asyncssh.SSHClientConnection:
    PeerClient.arguments = arguments
    trusted = [asyncssh.read_public_key(name) for name in arguments.host_public_key]
    methods = methods_of(arguments)
    options = algorithm_options(arguments)
    if arguments.host_key_algorithms:
        options["server_host_key_algs"] = arguments.host_key_algorithms
    return await asyncssh.connect(
        "127.0.0.1",
        arguments.port,
        client_factory=PeerClient,
        username=arguments.user,
        password=arguments.password,
        client_keys=arguments.key or None,
        known_hosts=(trusted, [], []),
        preferred_auth=methods,
        config=None,
        agent_path=None,
        **options,
    )


async def connect(arguments: argparse.Namespace) -> None:
    end_with_input()
    try:
        connection = await log_in(arguments)
    except asyncssh.PermissionDenied as error:
        emit("refused", error=str(error))
        return
    except (asyncssh.Error, OSError) as error:
        emit("failed", error=f"{type(error).__name__}: {error}")
        return
    info = connection.get_extra_info
    emit("connected", cipher=info("send_cipher"), mac=info("send_mac"))
    emit("authenticated", method=",".join(methods_of(arguments)))
    try:
        await play(connection, arguments)
    except asyncssh.DisconnectError as error:
        emit("ended", reason=error.code, message=error.reason)
    connection.close()
    await connection.wait_closed()


class CellConnection:
    """Calls from the thread of the cells into the event loop."""

    def __init__(self, arguments: argparse.Namespace, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        try:
            self.connection = self.call(log_in(arguments))
        except asyncssh.PermissionDenied as error:
            raise RefusedError(str(error)) from None

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def run(self, command: str, data: bytes) -> Done:
        async def run() -> Done:
            done = await self.connection.run(command, input=data, encoding=None)
            return Done(bytes(done.stdout), bytes(done.stderr), done.exit_status)

        return self.call(run())

    def through(self, port: int, words: bytes) -> bytes:
        async def say() -> bytes:
            reader, writer = await self.connection.open_connection("127.0.0.1", port)
            writer.write(words)
            heard = await reader.readexactly(len(words))
            writer.close()
            return bytes(heard)

        return self.call(say())

    def back(self, port: int, target: int) -> None:
        async def listen() -> None:
            await self.connection.forward_remote_port("127.0.0.1", port, "127.0.0.1", target)

        self.call(listen())
        emit("waiting")
        sys.stdin.read()

    def close(self) -> None:
        async def close() -> None:
            self.connection.close()
            await self.connection.wait_closed()

        self.call(close())


async def play_shared(arguments: argparse.Namespace) -> None:
    loop, play = asyncio.get_running_loop(), SHARED[arguments.scenario]
    await asyncio.to_thread(play, arguments, lambda wanted: CellConnection(wanted, loop))


class AliveCount:
    """Ends the scenario ``alive`` at the second answer."""

    answered = 0

    def __call__(self, match: object) -> None:
        emit("keep_alive")
        self.answered += 1
        if self.answered == 2:
            for task in asyncio.all_tasks():
                task.cancel()


def main() -> None:
    arguments = parse_arguments()
    asyncssh.set_debug_level(2)
    actions = log_actions(
        key_exchange="Completed key exchange",
        disconnected=r"Received disconnect: (?P<message>.*) \((?P<reason>\d+)\)",
        asked_alive="Received OpenSSH keepalive request",
        keep_alive="Got keepalive response",
    )
    arguments.scenario = getattr(arguments, "scenario", None)
    if arguments.scenario == "alive":
        actions["Got keepalive response"] = AliveCount()
    watch_log("asyncssh", logging.DEBUG, actions)
    client = play_shared if arguments.scenario in SHARED else connect
    roles = {"server": serve, "client": client}
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(roles[arguments.role](arguments))


if __name__ == "__main__":
    main()
