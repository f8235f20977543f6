# mypy: disable-error-code="import-untyped,misc,no-any-return"
"""paramiko: blocking calls and threads, so the coroutines here never suspend."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import paramiko

from .common import (
    ENCRYPTION,
    HOST,
    HOST_KEY_ALGORITHM,
    KEY_EXCHANGE,
    RECEIVE_SIZE,
    USERNAME,
    Channel,
    Data,
    Task,
    answer,
)
from .program import main


class BlockingChannel:
    """A channel of paramiko."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    async def send(self, data: bytes) -> None:
        """Send it all."""
        self._channel.sendall(data)

    send_small = send

    async def receive(self) -> Data:
        """Return some bytes, ``b""`` at the end."""
        data: bytes = self._channel.recv(RECEIVE_SIZE)
        return data

    async def send_eof(self) -> None:
        """Say that no more will be sent."""
        self._channel.shutdown_write()

    async def aclose(self) -> None:
        """Close it."""
        self._channel.close()


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        pass
    except OSError:
        pass  # the client has what it wanted


class _Policy(paramiko.ServerInterface):
    def __init__(self, user_key: paramiko.PKey) -> None:
        self._user_key = user_key

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if key == self._user_key:
            return paramiko.AUTH_SUCCESSFUL
        return paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        work = answer(command.decode(), BlockingChannel(channel))
        threading.Thread(target=_run, args=(work,), daemon=True).start()
        return True


def _transport(sock: socket.socket, **options: Any) -> paramiko.Transport:
    transport = paramiko.Transport(sock, **options)
    security = transport.get_security_options()
    security.kex = [KEY_EXCHANGE]
    security.ciphers = [ENCRYPTION]
    security.key_types = [HOST_KEY_ALGORITHM]
    security.compression = ["none"]
    return transport


async def serve(task: Task) -> None:
    """Answer commands."""
    host_key = paramiko.ECDSAKey(filename=str(task.keys / "host"))
    user_key = paramiko.ECDSAKey(filename=str(task.keys / "user"))
    listener = socket.create_server((HOST, 0), backlog=1024)
    task.listens(listener.getsockname()[1])
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = _transport(sock)
        transport.add_server_key(host_key)
        # Without waiting for the negotiation: the next client is accepted meanwhile.
        transport.start_server(event=threading.Event(), server=_Policy(user_key))


@cache
def _user_key(task: Task) -> paramiko.PKey:
    return paramiko.ECDSAKey(filename=str(task.keys / "user"))


@cache
def _host_key(task: Task) -> paramiko.PKey:
    return paramiko.ECDSAKey(filename=str(task.keys / "host"))


class ParamikoConnection:
    """A client connection."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self._transport = transport

    async def open(self, command: str) -> Channel:
        """Return a channel on which the server runs the command."""
        channel = self._transport.open_session()
        channel.exec_command(command)
        return BlockingChannel(channel)

    async def open_idle(self) -> Channel:
        """Return a new channel on which the server runs nothing."""
        return BlockingChannel(self._transport.open_session())


@asynccontextmanager
async def connect(task: Task) -> AsyncIterator[ParamikoConnection]:
    """Connect, verify the host key, authenticate; close at the end."""
    sock = socket.create_connection((HOST, task.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    transport = _transport(sock)
    transport.connect(_host_key(task), USERNAME, pkey=_user_key(task))
    try:
        yield ParamikoConnection(transport)
    finally:
        transport.close()


if __name__ == "__main__":
    main(serve, connect)
