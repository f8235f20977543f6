"""asyncssh, with its stream API, on asyncio or uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, cast

import asyncssh

from .common import (
    ENCRYPTION,
    HOST,
    HOST_KEY_ALGORITHM,
    KEY_EXCHANGE,
    NOWHERE,
    RECEIVE_SIZE,
    USERNAME,
    Channel,
    Data,
    Task,
    answer,
)
from .program import main

_ALGORITHMS = {
    "kex_algs": [KEY_EXCHANGE],
    "encryption_algs": [ENCRYPTION],
    "compression_algs": ["none"],
    "signature_algs": [HOST_KEY_ALGORITHM],
}


class StreamChannel:
    """A channel by its reader and its writer."""

    def __init__(
        self, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]
    ) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send it all."""
        self._writer.write(data)
        await self._writer.drain()

    send_small = send

    async def receive(self) -> Data:
        """Return some bytes, ``b""`` at the end."""
        return await self._reader.read(RECEIVE_SIZE)

    async def send_eof(self) -> None:
        """Say that no more will be sent."""
        self._writer.write_eof()

    async def aclose(self) -> None:
        """Close it."""
        self._writer.channel.close()
        await self._writer.channel.wait_closed()


async def _handle(
    reader: asyncssh.SSHReader[bytes],
    writer: asyncssh.SSHWriter[bytes],
    _errors: asyncssh.SSHWriter[bytes],
) -> None:
    channel = cast(asyncssh.SSHServerChannel[bytes], writer.channel)
    try:
        await answer(channel.get_command() or "", StreamChannel(reader, writer))
        channel.exit(0)
    except (BrokenPipeError, asyncssh.DisconnectError):
        writer.close()  # the client has what it wanted


class _Idle(asyncssh.SSHTCPSession[bytes]):
    """Does nothing with a channel."""


class _Server(asyncssh.SSHServer):
    """Allows every connection to be forwarded, and holds those to nowhere itself."""

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Any:
        return _Idle() if dest_port == NOWHERE else True


async def serve(task: Task) -> None:
    """Answer commands."""
    server = await asyncssh.listen(
        HOST,
        0,
        server_host_keys=[str(task.keys / "host")],
        authorized_client_keys=str(task.keys / "user.pub"),
        server_factory=_Server,
        session_factory=_handle,
        encoding=None,
        backlog=1024,
        config=[],
        **_ALGORITHMS,
    )
    task.listens(server.get_port())
    await asyncio.get_running_loop().create_future()


@cache
def _options(task: Task) -> asyncssh.SSHClientConnectionOptions:
    public = (task.keys / "host.pub").read_text()
    return asyncssh.SSHClientConnectionOptions(
        username=USERNAME,
        client_keys=[str(task.keys / "user")],
        known_hosts=asyncssh.import_known_hosts(f"[{HOST}]:{task.port} {public}"),
        agent_path=None,
        config=[],
        server_host_key_algs=[HOST_KEY_ALGORITHM],
        **_ALGORITHMS,
    )


class AsyncsshConnection:
    """A client connection."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection

    async def open(self, command: str) -> Channel:
        """Return a channel on which the server runs the command."""
        writer, reader, _errors = await self._connection.open_session(command, encoding=None)
        return StreamChannel(reader, writer)

    async def open_idle(self) -> Channel:
        """Return a new channel on which the server runs nothing."""
        reader, writer = await self._connection.open_connection(HOST, NOWHERE, encoding=None)
        return StreamChannel(reader, writer)


@asynccontextmanager
async def connect(task: Task) -> AsyncIterator[AsyncsshConnection]:
    """Connect, verify the host key, authenticate; close at the end."""
    async with asyncssh.connect(HOST, task.port, options=_options(task)) as connection:
        yield AsyncsshConnection(connection)


@asynccontextmanager
async def forward(task: Task) -> AsyncIterator[int]:
    """Forward a free port to the target."""
    async with (
        asyncssh.connect(HOST, task.port, options=_options(task)) as connection,
        connection.forward_local_port(HOST, 0, HOST, task.target) as listener,
    ):
        yield listener.get_port()


if __name__ == "__main__":
    main(serve, connect, forward)
