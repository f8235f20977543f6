"""What clients of ``anyssh serve`` can do on channels: run commands, or use an echo service.

Only what the command line allows; anything else is refused, and the log says why.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

import anyssh
from anyssh.messages import ExecRequest, Signal, SubsystemRequest

from .logs import log_fields

__all__ = ["ECHO", "Commands"]

logger: Final = logging.getLogger("anyssh.cli")

SESSION: Final = "session"
UNKNOWN: Final = anyssh.ChannelOpenFailureReason.UNKNOWN_CHANNEL_TYPE
ECHO: Final = "echo"
HANG_UP_TIME: Final = 2.0
"""Seconds for a command to end by itself when its client is gone."""
_REASONS: Final = {
    "pty-req": "terminals are not supported",
    "shell": "shells are not supported",
    "x11-req": "X11 forwarding is not supported",
    "auth-agent-req@openssh.com": "agent forwarding is not supported",
}


@dataclass(frozen=True, slots=True)
class Commands:
    """Answers the requests on channels.

    :ivar may_exec: whether clients may run commands, as the user of the server
    :ivar may_echo: whether to offer the subsystem that sends back what it receives
    """

    may_exec: bool
    may_echo: bool

    async def serve(self, session: anyssh.ServerSession) -> None:
        """Serve the channels of a session until it ends; refuse those of other types."""
        async with anyio.create_task_group() as channels:
            async for opening in session.incoming_channels():
                try:
                    if opening.channel_type != SESSION:
                        await opening.reject(UNKNOWN, "only channels of type session are supported")
                        continue
                    channel = await opening.accept()
                except anyssh.SSHError as error:
                    logger.debug("%r came too late: %s", opening, error)
                else:
                    channels.start_soon(self._serve_one, channel, session.username or "")

    async def _serve_one(self, channel: anyssh.Channel, user: str) -> None:
        async with channel:
            try:
                await self._answer(channel, user)
            except (anyssh.SSHError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                logger.debug("%r ended: %s", channel, error)
            except Exception:
                logger.exception("a command of %s failed", user)

    async def _answer(self, channel: anyssh.Channel, user: str) -> None:
        """Start what the first permitted request asks for; refuse all others."""
        requests = channel.requests()
        async for request in requests:
            match request.name:
                case ExecRequest.request_type if self.may_exec:
                    command = ExecRequest.decode(request.payload).command
                    await request.accept()
                    await self._run(channel, command, user, requests)
                    return
                case SubsystemRequest.request_type if self._is_echo(request):
                    await request.accept()
                    await _echo(channel)
                    return
                case _:
                    _log_refusal(request, user)
                    await request.reject()

    def _is_echo(self, request: anyssh.IncomingRequest) -> bool:
        name = SubsystemRequest.decode(request.payload).subsystem_name
        return self.may_echo and name == ECHO

    async def _run(
        self,
        channel: anyssh.Channel,
        command: str,
        user: str,
        requests: AsyncIterator[anyssh.IncomingRequest],
    ) -> None:
        shown = anyssh.wire.displayable(command)
        logger.info("%s runs %r", user, shown, extra=log_fields("exec", user=user, command=shown))
        try:
            process = await anyio.open_process(
                [_shell(), "-c", command],
                stdin=subprocess.PIPE,
                cwd=Path.home(),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # the latter for a zero byte
            logger.error("%r cannot be run: %s", shown, error)
            await channel.send_stderr(f"the command cannot be run: {error}\n".encode())
            await channel.aclose(exit_status=126)
            return
        async with process:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_pass_signals, requests, process)
                    status = await _carry(process, channel)
                    tasks.cancel_scope.cancel()
            finally:
                if process.returncode is None:  # we were cancelled
                    _signal_group(process, signal.SIGKILL)
        how = f"with {status}" if status >= 0 else f"by {_name_of_signal(-status)}"
        extra = log_fields("exec-end", user=user, command=shown, status=status)
        logger.info("%s: %r ended %s", user, shown, how, extra=extra)


def _log_refusal(request: anyssh.IncomingRequest, user: str) -> None:
    name = anyssh.wire.displayable(request.name)
    if name == "env":  # every client tries that
        return
    reason = _REASONS.get(name, "it is not allowed here")
    if name == ExecRequest.request_type:
        reason = "commands need --exec"
    elif name == SubsystemRequest.request_type:
        reason = f"only {ECHO!r} exists, and needs --echo"
    extra = log_fields("refused", user=user, request=name, reason=reason)
    logger.info("%s asked for %r and was refused: %s", user, name, reason, extra=extra)


def _shell() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_shell or "/bin/sh"


async def _echo(channel: anyssh.Channel) -> None:
    async for chunk in channel:
        await channel.send(chunk)
    await channel.aclose(exit_status=0)


# Commands


async def _carry(process: Process, channel: anyssh.Channel) -> int:
    """Relay between a process and a channel until the process has ended; return its status."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_feed, channel, process.stdin)
        tasks.start_soon(_end_when_closed, channel, process)
        async with anyio.create_task_group() as outputs:
            outputs.start_soon(_copy, process.stdout, channel.send)
            outputs.start_soon(_copy, process.stderr, channel.send_stderr)
        status = await process.wait()
        tasks.cancel_scope.cancel()
    if status < 0:  # the negated number of a signal
        await channel.aclose(signal=_name_of_signal(-status).removeprefix("SIG"))
    else:
        await channel.aclose(exit_status=status)
    return status


def _name_of_signal(number: int) -> str:
    """Return the name of a signal; most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


async def _copy(source: ByteReceiveStream | None, send: Callable[[bytes], Awaitable[None]]) -> None:
    if source is None:
        return
    try:
        async for chunk in source:
            await send(chunk)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return  # one side or the other is gone


async def _feed(channel: anyssh.Channel, stdin: ByteSendStream | None) -> None:
    if stdin is not None:
        await _copy(channel, stdin.send)
        await stdin.aclose()


async def _end_when_closed(channel: anyssh.Channel, process: Process) -> None:
    """End the shell and what it has started once its client is gone for good."""
    await channel.wait_closed()
    _signal_group(process, signal.SIGHUP)
    await anyio.sleep(HANG_UP_TIME)
    _signal_group(process, signal.SIGKILL)


async def _pass_signals(requests: AsyncIterator[anyssh.IncomingRequest], process: Process) -> None:
    """Pass on the signals that the client sends; refuse all other requests."""
    async for request in requests:
        if request.name != Signal.request_type:
            await request.reject()
            continue
        name = Signal.decode(request.payload).signal_name
        number = signal.Signals.__members__.get(f"SIG{name}")
        was_sent = number is not None and _signal_group(process, number)
        await (request.accept() if was_sent else request.reject())


def _signal_group(process: Process, number: signal.Signals) -> bool:
    """Send a signal to a process and what it has started; return whether any of them got it."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # ended, or run as somebody else by sudo
        return False
    return True
