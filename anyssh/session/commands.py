"""Running a command on a server, from the request to the exit status.

A command is a channel with an ``exec`` request (RFC 4254 section 6.5). Three tasks feed its input
and read both of its outputs concurrently, as it may block on any of the three. If one of them is
cut short, the end of the channel, which all wait for, says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio
from anyio.abc import ByteReceiveStream

from ..errors import SSHError
from ..messages import ExecRequest
from ..wire import displayable
from .channel import Channel, ChannelClosed
from .requests import ChannelRequest

if TYPE_CHECKING:
    from .client import ClientSession

__all__ = ["OUTPUT_BYTES", "CommandFailed", "CompletedCommand", "run_command"]

OUTPUT_BYTES: Final = 16 * 1024 * 1024
LAST_WORDS: Final = 1024
"""Bytes at the end of standard error that are searched for a reason."""


@dataclass(frozen=True)
class CompletedCommand:
    """The output and exit status of a command.

    :ivar command: the command line
    :ivar stdout: everything written to standard output
    :ivar stderr: everything written to standard error
    :ivar exit_status: the exit status, None if there was none
    :ivar exit_signal: the name of the signal that ended the command, without ``SIG``, if one did
    :ivar message: the error message that came with the signal
    """

    command: str
    stdout: bytes
    stderr: bytes
    exit_status: int | None = None
    exit_signal: str | None = None
    message: str | None = None

    def check_status(self) -> None:
        """Raise unless the exit status is 0.

        :raises CommandFailed: the exit status is not 0, or there was none
        """
        if self.exit_status != 0:
            raise CommandFailed(self._end(), self)

    def _end(self) -> str:
        if self.exit_status is not None:
            end = f"ended with status {self.exit_status}"
        elif self.exit_signal is not None:
            end = f"was ended by SIG{displayable(self.exit_signal)}"
        else:
            end = "ended without a status"
        last_words = self.message or self.stderr[-LAST_WORDS:].decode(errors="replace").strip()
        return f"{end}: {displayable(last_words.splitlines()[-1])}" if last_words else end


class CommandFailed(SSHError):
    """A command did not end with exit status 0, or wrote more than permitted.

    :ivar completed: what the command has written, and how it ended as far as known
    """

    def __init__(self, reason: str, completed: CompletedCommand) -> None:
        super().__init__(f"the command {displayable(completed.command)!r} {reason}")
        self.completed = completed


class _Output:
    """The output of a command, which cancels a scope when it exceeds its limit."""

    def __init__(self, max_bytes: int, exceeded: anyio.CancelScope) -> None:
        self._room = max_bytes
        self._exceeded = exceeded
        self.is_too_long = False
        self.stdout = bytearray()
        self.stderr = bytearray()

    async def collect(self, source: ByteReceiveStream, target: bytearray) -> None:
        try:
            async for chunk in source:
                if len(chunk) > self._room:
                    self.is_too_long = True
                    self._exceeded.cancel()
                    return
                self._room -= len(chunk)
                target += chunk
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # the end of the channel says why

    def completed(self, command: str, closed: ChannelClosed) -> CompletedCommand:
        return CompletedCommand(
            command,
            bytes(self.stdout),
            bytes(self.stderr),
            closed.exit_status,
            closed.exit_signal,
            closed.message,
        )


async def run_command(
    session: ClientSession, command: str, data: bytes, *, check: bool, max_output: int
) -> CompletedCommand:
    """Implement :meth:`ClientSession.run_command`."""
    request = ChannelRequest(ExecRequest.request_type, ExecRequest(command).encode())
    async with await session.open_channel(request=request) as channel:
        async with anyio.create_task_group() as tasks:
            output = _Output(max_output, tasks.cancel_scope)
            tasks.start_soon(_feed, channel, data)
            tasks.start_soon(output.collect, channel.stderr, output.stderr)
            await output.collect(channel, output.stdout)
        if output.is_too_long:
            reason = f"wrote more than {max_output} bytes; a larger max_output permits more"
            raise CommandFailed(reason, output.completed(command, ChannelClosed()))
        closed = await channel.wait_closed()
    if closed.error is not None:
        raise session._failure()
    completed = output.completed(command, closed)
    if check:
        completed.check_status()
    return completed


async def _feed(channel: Channel, data: bytes) -> None:
    """Send a command's input, as far as the command reads it."""
    try:
        if data:
            await channel.send(data)
        await channel.send_eof()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return  # the command may end without reading everything
