"""libssh as a peer, through ``ssh-python``; the command line is that of :mod:`peer_common`.

The package wraps only libssh's client. The same library's server is called through its C API in
:mod:`libssh_server`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import libssh_server
from libssh_server import EVERY_CIPHER
from peer_common import Done, RefusedError, emit, parse_arguments, play_client
from ssh import options
from ssh.error_codes import SSH_AGAIN
from ssh.exceptions import EOF, AuthenticationDenied
from ssh.key import import_privkey_file
from ssh.session import Session

CHUNK = 32768
WAIT = 100
"""Milliseconds until a read that brings nothing lets the other stream have its turn."""


class LibsshConnection:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.session = session = Session()
        session.options_set(options.HOST, "127.0.0.1")
        session.options_set(options.USER, arguments.user)
        session.options_set_port(arguments.port)
        session.options_set_int_val(options.PROCESS_CONFIG, 0)
        session.options_set_int_val(options.NODELAY, 1)
        session.options_set(options.SSH_DIR, "/nonexistent")
        if arguments.everything:
            session.options_set(options.CIPHERS_C_S, EVERY_CIPHER)
            session.options_set(options.CIPHERS_S_C, EVERY_CIPHER)
        if arguments.rekey_bytes:
            # Its option takes a longer number than the binding gives.
            with tempfile.NamedTemporaryFile("w", suffix=".config") as file:
                file.write(f"RekeyLimit {arguments.rekey_bytes}\n")
                file.flush()
                session.options_parse_config(file.name)
        session.connect()
        key = base64.b64decode(session.get_server_publickey().export_pubkey_base64())
        lines = [Path(name).read_text() for name in arguments.host_public_key]
        if key not in [base64.b64decode(line.split()[1]) for line in lines]:
            raise ValueError("the host key is not the expected one")
        self.authenticate(arguments)

    def authenticate(self, arguments: argparse.Namespace) -> None:
        try:
            if arguments.key:
                self.session.userauth_publickey(import_privkey_file(arguments.key[0]))
            else:
                self.session.userauth_password(arguments.user, arguments.password)
        except AuthenticationDenied as error:
            raise RefusedError(str(error)) from None

    def open(self) -> Any:
        return self.session.channel_new()

    def run(self, command: str, data: bytes) -> Done:
        channel = self.open()
        channel.open_session()
        channel.request_exec(command)
        output, errors, sent = bytearray(), bytearray(), 0
        while sent < len(data):
            # Never more than the window, so that the call does not wait while nobody reads.
            room = min(CHUNK, channel.window_size(), len(data) - sent)
            if room:
                sent += channel.write(data[sent : sent + room])[1]
            output += channel.read_timeout(0 if room else WAIT, CHUNK)[1]
        channel.send_eof()
        # The end of both streams is an exception.
        with contextlib.suppress(EOF):
            while True:
                output += channel.read_timeout(WAIT, CHUNK)[1]
                errors += channel.read_nonblocking(CHUNK, True)[1]
        channel.close()
        return Done(bytes(output), bytes(errors), channel.get_exit_status())

    def through(self, port: int, words: bytes) -> bytes:
        channel = self.open()
        while channel.open_forward("127.0.0.1", port, "127.0.0.1", 0) == SSH_AGAIN:
            pass
        channel.write(words)
        heard = b""
        while len(heard) < len(words) and not channel.is_eof():
            heard += channel.read_timeout(WAIT, CHUNK)[1]
        channel.close()
        return heard

    def back(self, port: int, target: int) -> None:
        self.session.listen_forward("127.0.0.1", port, 0)
        emit("waiting")
        channel = None
        while channel is None:
            channel = self.session.accept_forward(WAIT, port)
        with socket.create_connection(("127.0.0.1", target)) as there:
            there.sendall(channel.read(CHUNK)[1])
            channel.write(there.recv(CHUNK))
        sys.stdin.read()

    def close(self) -> None:
        self.session.disconnect()


def main() -> None:
    arguments = parse_arguments()
    if arguments.role == "server":
        libssh_server.serve(arguments)
    else:
        play_client(arguments, LibsshConnection)


if __name__ == "__main__":
    main()
