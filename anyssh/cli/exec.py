"""``anyssh exec``: a remote command with our standard streams, signals and its exit status."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
from contextlib import suppress
from typing import Final

import anyio
from anyio import to_thread
from anyio.abc import ByteReceiveStream, TaskGroup

import anyssh
from anyssh.messages import ExecRequest, SubsystemRequest

from .failures import FAILED, Failure, say
from .login import Login
from .running import SIGPIPE, Signals, status_of_signal

__all__ = ["command_request", "execute", "subsystem_request"]

logger: Final = logging.getLogger("anyssh.cli")

CHUNK_BYTES: Final = 64 * 1024
STDIN, STDOUT, STDERR = 0, 1, 2


async def execute(login: Login, request: anyssh.ChannelRequest, signals: Signals) -> int:
    """Run a command or subsystem on a server; return the exit status to use."""
    async with login, login.session() as session:
        try:
            channel = await session.open_channel("session", request=request)
        except anyssh.RequestDenied as error:
            raise Failure(f"the server does not run {_name(request)}") from error
        async with channel, anyio.create_task_group() as tasks:
            signals.handle = _SignalPasser(session, channel, tasks).handle
            tasks.start_soon(_tell_losses, session)
            tasks.start_soon(_feed, channel)
            try:
                await _take_output(channel)
                closed = await channel.wait_closed()
            finally:
                signals.handle = None
            tasks.cancel_scope.cancel()
    return _status(closed)


def _name(request: anyssh.ChannelRequest) -> str:
    return "commands" if request.name == ExecRequest.request_type else "this subsystem"


def command_request(command: tuple[str, ...]) -> anyssh.ChannelRequest:
    """Return the request for a command, whose words the remote shell splits again."""
    return anyssh.ChannelRequest("exec", ExecRequest(" ".join(command)).encode())


def subsystem_request(name: str) -> anyssh.ChannelRequest:
    """Return the request for a subsystem."""
    return anyssh.ChannelRequest("subsystem", SubsystemRequest(name).encode())


def _status(closed: anyssh.ChannelClosed) -> int:
    if closed.exit_status is not None:
        # A failing status that does not fit into a byte must remain a failure.
        return closed.exit_status & 0xFF or (FAILED if closed.exit_status else 0)
    if closed.exit_signal is not None:
        say(f"the command was ended by SIG{closed.exit_signal} {closed.message or ''}")
        number = signal.Signals.__members__.get(f"SIG{closed.exit_signal}")
        return FAILED if number is None else status_of_signal(number)
    if closed.error is not None:
        raise closed.error
    say("the server did not say how the command ended")
    return FAILED


class _SignalPasser:
    """Passes signals on to the command; a second SIGINT ends us.

    So does every signal while the command cannot be reached.
    """

    def __init__(self, session: anyssh.Session, channel: anyssh.Channel, tasks: TaskGroup) -> None:
        self._session = session
        self._channel = channel
        self._tasks = tasks
        self._interrupts = 0

    async def handle(self, number: signal.Signals) -> bool:
        self._interrupts += number == signal.SIGINT
        is_reachable = self._session.state is anyssh.SessionState.CONNECTED
        if self._interrupts > 1 or self._channel.closed is not None or not is_reachable:
            return False
        # In a task, as it may have to wait for the network, and the next signal must not.
        self._tasks.start_soon(self._pass_on, number)
        told = "the command was sent %s"
        if number == signal.SIGINT:
            told += "; Ctrl-C once more ends anyssh"
        logger.log(logging.WARNING if sys.stderr.isatty() else logging.DEBUG, told, number.name)
        return True

    async def _pass_on(self, number: signal.Signals) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._channel.send_signal(number.name.removeprefix("SIG"))


async def _tell_losses(session: anyssh.ClientSession) -> None:
    """Tell the user why nothing arrives."""
    async for event in session.events():
        match event:
            case anyssh.events.Disconnected(error):
                say(f"the connection is lost ({error}); reconnecting")
            case anyssh.events.Reconnected():
                say("connected again")


# Standard streams


async def _feed(channel: anyssh.Channel) -> None:
    """Send standard input, until it ends or is no longer wanted."""
    try:
        while chunk := await _read(STDIN):
            await channel.send(chunk)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return
    except OSError as error:  # standard input is closed
        logger.debug("standard input cannot be read: %s", error)
    await channel.send_eof()


async def _read(descriptor: int) -> bytes:
    if sys.platform == "win32":
        return await to_thread.run_sync(os.read, descriptor, CHUNK_BYTES, abandon_on_cancel=True)
    while True:
        try:
            await anyio.wait_readable(descriptor)
        except OSError:  # a file or /dev/null, which is always readable
            return await to_thread.run_sync(os.read, descriptor, CHUNK_BYTES)
        with suppress(BlockingIOError):  # another process that reads it was faster
            return os.read(descriptor, CHUNK_BYTES)


async def _take_output(channel: anyssh.Channel) -> None:
    async with anyio.create_task_group() as outputs:
        outputs.start_soon(_write_all, channel, STDOUT)
        outputs.start_soon(_write_all, channel.stderr, STDERR)


async def _write_all(source: ByteReceiveStream, descriptor: int) -> None:
    async for chunk in source:
        try:
            # In a thread, as whatever reads our output may be slow.
            await to_thread.run_sync(_write, descriptor, chunk, abandon_on_cancel=True)
        except BrokenPipeError as error:
            # Our output is not read any more, as with "| head": exit as SIGPIPE would make us.
            raise Failure("", status_of_signal(SIGPIPE)) from error


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # another program that shares it has made it non-blocking
            select.select((), (descriptor,), ())
