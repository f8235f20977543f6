"""libssh's server, through its C API: ``ssh-python`` wraps only the client of that library.

Each connection has a thread, in which libssh's messages are answered one after another; commands
run in between, so a connection does one thing at a time.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import enum
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import ssh
import ssh.session  # loads what the library itself needs
from peer_common import ECHO, REPORT, emit

CHUNK = 32768
WAIT = 20
"""Milliseconds until a read that brings nothing lets the other side of a relay have its turn."""
EVERY_CIPHER = (
    "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com,aes128-gcm@openssh.com"
    ",aes256-ctr,aes192-ctr,aes128-ctr,aes256-cbc"
)
"""The library's own list is without CBC; what it does not know it would leave out."""


class Library:
    """The shared library that the package brought, its functions with their types."""

    def __init__(self) -> None:
        folder = Path(ssh.__file__).parent.parent / "ssh_python.libs"
        [path] = folder.glob("libssh-*.so*")
        self._library = ctypes.CDLL(str(path))

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, "ssh_" + name)
        pointers = ("new", "_get", "_auth_pubkey", "_open_reply_accept")
        texts = ("_user", "_password", "_command", "_destination", "get_error")
        if name.endswith(pointers):
            function.restype = ctypes.c_void_p
        elif name.endswith(texts):
            function.restype = ctypes.c_char_p
        else:
            function.restype = ctypes.c_int
        setattr(self, name, function)
        return function


lib = Library()


class Bind(enum.IntEnum):
    HOSTKEY = 3
    CIPHERS_C_S = 12
    CIPHERS_S_C = 13
    PROCESS_CONFIG = 19


AGAIN = -2
REKEY_DATA = 39


class Request(enum.IntEnum):
    AUTH = 1
    CHANNEL_OPEN = 2
    CHANNEL = 3


class Method(enum.IntEnum):
    PASSWORD = 2
    PUBLICKEY = 4


SESSION, DIRECT_TCPIP = 1, 2
EXEC = 2
UNSIGNED, VALID = 0, 1


def pointer(value: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(value)


class Visitor:
    """One connection."""

    def __init__(self, arguments: argparse.Namespace, bind: Any, stream: socket.socket) -> None:
        self.arguments = arguments
        self.session = pointer(lib.new())
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        if arguments.rekey_bytes:
            limit = ctypes.c_uint64(arguments.rekey_bytes)
            lib.options_set(self.session, REKEY_DATA, ctypes.byref(limit))
        lines = Path(arguments.authorized).read_text().splitlines() if arguments.authorized else []
        self.authorized = [base64.b64decode(line.split()[1]) for line in lines]
        # The library closes the descriptor.
        if lib.bind_accept_fd(bind, self.session, stream.detach()) != 0:
            raise OSError("the connection was not accepted")

    def serve(self) -> None:
        if lib.handle_key_exchange(self.session) != 0:
            sys.stderr.write(f"{lib.get_error(self.session)}\n")
            return
        while message := lib.message_get(self.session):
            self.answer(pointer(message))
            lib.message_free(pointer(message))
        lib.disconnect(self.session)

    def answer(self, message: Any) -> None:
        kind, part = lib.message_type(message), lib.message_subtype(message)
        if kind == Request.AUTH:
            self.authenticate(message, part)
        elif kind == Request.CHANNEL_OPEN and part == SESSION:
            self.channel = pointer(lib.message_channel_request_open_reply_accept(message))
        elif kind == Request.CHANNEL_OPEN and part == DIRECT_TCPIP:
            self.relay(message)
        elif kind == Request.CHANNEL and part == EXEC:
            command = lib.message_channel_request_command(message).decode()
            lib.message_channel_request_reply_success(message)
            self.run(self.channel, command)
        else:
            lib.message_reply_default(message)

    def authenticate(self, message: Any, method: int) -> None:
        right_user = lib.message_auth_user(message).decode() == self.arguments.user
        if right_user and method == Method.PASSWORD:
            password = lib.message_auth_password(message).decode()
            if password == self.arguments.password:
                self.welcome(message, "password")
                return
        if right_user and method == Method.PUBLICKEY and self.knows_key(message):
            state = lib.message_auth_publickey_state(message)
            if state == UNSIGNED:
                lib.message_auth_reply_pk_ok_simple(message)
                return
            if state == VALID:
                self.welcome(message, "publickey")
                return
        lib.message_auth_set_methods(message, Method.PASSWORD | Method.PUBLICKEY)
        lib.message_reply_default(message)

    def knows_key(self, message: Any) -> bool:
        key = pointer(lib.message_auth_pubkey(message))
        text = ctypes.c_char_p()
        lib.pki_export_pubkey_base64(key, ctypes.byref(text))
        return base64.b64decode(text.value or b"") in self.authorized

    def welcome(self, message: Any, method: str) -> None:
        lib.message_auth_reply_success(message, 0)
        emit("authenticated", user=self.arguments.user, method=method)

    def read(self, channel: Any, timeout: int) -> bytes | None:
        """Return what came, nothing if nothing came in time, None at the end."""
        buffer = ctypes.create_string_buffer(CHUNK)
        count = lib.channel_read_timeout(channel, buffer, CHUNK, 0, timeout)
        if count > 0:
            return buffer.raw[:count]
        is_over = count not in (0, AGAIN) or lib.channel_is_eof(channel)
        return None if is_over else b""

    def run(self, channel: Any, command: str) -> None:
        status = 127
        if command == ECHO:
            while (chunk := self.read(channel, -1)) is not None:
                lib.channel_write(channel, chunk, len(chunk))
            status = 0
        elif command == REPORT:
            lib.channel_write(channel, b"output", 6)
            lib.channel_write_stderr(channel, b"errors", 6)
            status = 42
        lib.channel_send_eof(channel)
        lib.channel_request_send_exit_status(channel, status)
        lib.channel_close(channel)

    def relay(self, message: Any) -> None:
        host = lib.message_channel_request_open_destination(message).decode()
        port = lib.message_channel_request_open_destination_port(message)
        with socket.create_connection((host, port)) as there:
            channel = pointer(lib.message_channel_request_open_reply_accept(message))
            there.setblocking(False)
            while (chunk := self.read(channel, WAIT)) is not None:
                there.sendall(chunk)
                try:
                    answer = there.recv(CHUNK)
                except BlockingIOError:
                    continue
                lib.channel_write(channel, answer, len(answer))
            lib.channel_close(channel)


def new_bind(arguments: argparse.Namespace) -> Any:
    bind = pointer(lib.bind_new())
    lib.bind_options_set(bind, Bind.PROCESS_CONFIG, ctypes.byref(ctypes.c_bool(False)))
    for name in arguments.host_key:
        # It holds one key of each kind, and the three curves are one kind.
        if lib.bind_options_set(bind, Bind.HOSTKEY, name.encode()) != 0:
            raise ValueError(f"{name}: {lib.get_error(bind)}")
    if arguments.everything:
        lib.bind_options_set(bind, Bind.CIPHERS_C_S, EVERY_CIPHER.encode())
        lib.bind_options_set(bind, Bind.CIPHERS_S_C, EVERY_CIPHER.encode())
    return bind


def serve(arguments: argparse.Namespace) -> None:
    """Serve until standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    emit("listening", port=listener.getsockname()[1])

    def accept() -> None:
        while True:
            stream, _ = listener.accept()
            visitor = Visitor(arguments, new_bind(arguments), stream)
            threading.Thread(target=visitor.serve, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()
