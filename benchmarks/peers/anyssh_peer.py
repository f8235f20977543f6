"""anyssh, on asyncio, uvloop or Trio; with ``--reconnect`` as a session that can reconnect."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import anyio
from anyio.abc import SocketAttribute

import anyssh
from anyssh.keys import import_key

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

_IDLE = "idle"
_RECONNECTS = "--reconnect" in sys.argv
_CONFIG = (anyssh.SessionConfig.with_reconnect if _RECONNECTS else anyssh.SessionConfig)(
    key_exchanges=[KEY_EXCHANGE],
    host_key_algorithms=[HOST_KEY_ALGORITHM],
    encryptions=[ENCRYPTION],
)


class StreamChannel:
    """A channel, with the end of input as ``b""``."""

    def __init__(self, channel: anyssh.Channel) -> None:
        self._channel = channel
        self.send = channel.send
        self.send_eof = channel.send_eof
        self.aclose = channel.aclose

    async def send_small(self, data: bytes) -> None:
        """Send it with what else is sent in this turn of the loop; wait if there is no room."""
        sent = self._channel.send_nowait(data)
        if sent < len(data):
            await self._channel.send(data[sent:])

    async def receive(self) -> Data:
        """Return some bytes, ``b""`` at the end."""
        try:
            return await self._channel.receive(RECEIVE_SIZE)
        except anyio.EndOfStream:
            return b""


async def _answer(channel: anyssh.Channel) -> None:
    async for request in channel.requests():
        if request.name != "exec":
            await request.reject()
            continue
        await request.accept()
        command = anyssh.wire.Reader(request.payload).text()
        await answer(command, StreamChannel(channel))
        return


class _Idle(anyssh.SessionService):
    """Accepts channels on which nothing happens."""

    activations: ClassVar = (anyssh.ServiceActivation(channel_type=_IDLE),)

    def on_channel_opening_nowait(self, opening: anyssh.ChannelOpening) -> bool:
        opening.accept_nowait()
        return True


async def _handle(session: anyssh.ServerSession) -> None:
    await session.serve(_answer)


@cache
def _key(path: Path) -> anyssh.Key:
    return import_key(path.read_bytes())


def _server(task: Task) -> anyssh.Server:
    user_key = _key(task.keys / "user")

    async def authenticate(attempt: anyssh.AuthAttempt) -> str | None:
        match attempt:
            case anyssh.PublicKeyAttempt(username=name, public_key=key) if key == user_key:
                return name
        return None

    return anyssh.Server(
        host_keys=[_key(task.keys / "host")],
        authenticate=authenticate,
        config=_CONFIG,
        forwarding=anyssh.ForwardingPolicy(connect_to=["localhost:*"]),
        services={_Idle: None},
    )


async def _listen(
    task: Task, handle: Callable[[anyssh.ServerSession], Coroutine[Any, Any, None]]
) -> None:
    async with await anyio.create_tcp_listener(local_host=HOST, backlog=1024) as listener:
        task.listens(listener.extra(SocketAttribute.local_port))
        await _server(task).serve(listener, handle)


async def serve(task: Task) -> None:
    """Answer commands."""
    await _listen(task, _handle)


async def relay(task: Task) -> None:
    """Join each client's session with one to the server."""

    async def join(session: anyssh.ServerSession) -> None:
        async with _session(task) as upstream:
            await anyssh.pipe(session, upstream)

    await _listen(task, join)


class AnysshConnection:
    """A client session."""

    def __init__(self, session: anyssh.ClientSession) -> None:
        self._session = session

    async def open(self, command: str) -> Channel:
        """Return a channel on which the server runs the command."""
        request = anyssh.ChannelRequest("exec", anyssh.wire.string(command))
        return StreamChannel(await self._session.open_channel("session", request=request))

    async def open_idle(self) -> Channel:
        """Return a new channel on which the server runs nothing."""
        return StreamChannel(await self._session.open_channel(_IDLE))


@cache
def _client(task: Task) -> Callable[[], anyssh.ClientSession]:
    return partial(
        anyssh.ClientSession.connect,
        anyio.as_connectable((HOST, task.port)),
        credentials=anyssh.ClientCredentials(USERNAME, keys=[_key(task.keys / "user")]),
        verify_host=anyssh.pin(_key(task.keys / "host").fingerprint),
        config=_CONFIG,
    )


def _session(task: Task) -> anyssh.ClientSession:
    return _client(task)()


@asynccontextmanager
async def connect(task: Task) -> AsyncIterator[AnysshConnection]:
    """Connect, verify the host key, authenticate; close at the end."""
    async with _session(task) as session:
        yield AnysshConnection(session)


@asynccontextmanager
async def forward(task: Task) -> AsyncIterator[int]:
    """Forward a free port to the target."""
    async with (
        _session(task) as session,
        session.forward_to_remote_port(HOST, 0, HOST, task.target) as forwarding,
    ):
        assert forwarding.local_port is not None
        yield forwarding.local_port


if __name__ == "__main__":
    if _RECONNECTS:
        sys.argv.remove("--reconnect")
    main(serve, connect, forward, relay=relay)
