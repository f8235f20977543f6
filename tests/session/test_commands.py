"""Commands run by a client: what they wrote, how they ended, what may go wrong on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest

import anyssh
from anyssh.messages import ExecRequest
from anyssh.testing import session_pair

from .ends import Call, settle
from .network import network_pair

MIB = 1024 * 1024

Command = Callable[[anyssh.Channel], Awaitable[object]]


async def answer(channel: anyssh.Channel, commands: dict[str, Command]) -> None:
    """Do as a server that knows some commands."""
    async for request in channel.requests():
        command = commands.get(ExecRequest.decode(request.payload).command)
        if request.name != "exec" or command is None:
            await request.reject()
        else:
            await request.accept()
            await command(channel)


@asynccontextmanager
async def client_of(**commands: Command) -> AsyncIterator[anyssh.ClientSession]:
    async with session_pair() as (client, server), anyio.create_task_group() as group:
        group.start_soon(server.serve, partial(answer, commands=commands))
        yield client
        group.cancel_scope.cancel()


async def end(channel: anyssh.Channel, **how: Any) -> None:
    await channel.aclose(**how)


async def test_both_outputs_and_the_input_flow_side_by_side() -> None:
    """More than any window of each: whoever did one after the other would wait for ever."""

    async def tee(channel: anyssh.Channel) -> None:
        async for chunk in channel:
            await channel.send_stderr(chunk)
            await channel.send(chunk)
        await channel.aclose(exit_status=0)

    data = bytes(range(256)) * (5 * MIB // 256)
    async with client_of(tee=tee) as session:
        completed = await session.run_command("tee", input=data)
    assert completed == anyssh.CompletedCommand("tee", data, data, 0)
    completed.check_status()


async def test_without_input_a_command_reads_its_end() -> None:
    async def count(channel: anyssh.Channel) -> None:
        size = sum([len(chunk) async for chunk in channel])
        await channel.send(b"%d" % size)
        await channel.aclose(exit_status=0)

    async with client_of(count=count) as session:
        assert (await session.run_command("count")).stdout == b"0"


@pytest.mark.parametrize(
    "how, words",
    [
        ({"exit_status": 3}, "ended with status 3"),
        ({"exit_status": 2**32 - 1}, "ended with status 4294967295"),
        ({"signal": "KILL"}, "was ended by SIGKILL"),
        ({"signal": "KILL", "message": "no memory"}, "was ended by SIGKILL: no memory"),
        ({}, "ended without a status"),
    ],
    ids=str,
)
async def test_any_end_but_success_is_an_error_unless_it_is_asked_for(
    how: dict[str, Any], words: str
) -> None:
    async with client_of(fail=partial(end, **how)) as session:
        with pytest.raises(anyssh.CommandFailed) as failed:
            await session.run_command("fail")
        assert str(failed.value) == f"the command 'fail' {words}"
        completed = await session.run_command("fail", check=False)
    assert completed == failed.value.completed
    assert (completed.exit_status, completed.exit_signal) == (
        how.get("exit_status"),
        how.get("signal"),
    )
    with pytest.raises(anyssh.CommandFailed):
        completed.check_status()


async def test_an_error_ends_with_the_last_words_of_the_command() -> None:
    """They are the server's: no terminal shall do what they say."""

    async def complain(channel: anyssh.Channel) -> None:
        await channel.send(b"so far")
        await channel.send_stderr(b"warning: old\nno such file: \x1b[2J\xff\n\n")
        await channel.aclose(exit_status=1)

    async with client_of(complain=complain) as session:
        with pytest.raises(anyssh.CommandFailed) as failed:
            await session.run_command("complain")
    words = "no such file: \\x1b[2J\N{REPLACEMENT CHARACTER}"
    assert str(failed.value) == f"the command 'complain' ended with status 1: {words}"
    assert failed.value.completed.stdout == b"so far"
    assert failed.value.completed.stderr.startswith(b"warning")


async def test_a_command_need_not_read_its_input() -> None:
    async with client_of(true=partial(end, exit_status=0)) as session:
        completed = await session.run_command("true", input=bytes(5 * MIB))
    assert completed.exit_status == 0


@pytest.mark.parametrize("is_stderr", [False, True])
@pytest.mark.parametrize("check", [False, True])
async def test_a_command_that_writes_without_end_is_closed(is_stderr: bool, check: bool) -> None:
    """What a peer may have us keep has a bound."""
    has_ended = anyio.Event()

    async def write(channel: anyssh.Channel) -> None:
        send = channel.send_stderr if is_stderr else channel.send
        try:
            while True:
                await send(bytes(1000))
        except anyio.BrokenResourceError:
            has_ended.set()

    async with client_of(yes=write, true=partial(end, exit_status=0)) as session:
        with pytest.raises(anyssh.CommandFailed, match="more than 100000 bytes") as failed:
            await session.run_command("yes", check=check, max_output=100_000)
        completed = failed.value.completed
        assert 0 < len(completed.stdout) + len(completed.stderr) <= 100_000
        assert completed.exit_status is None
        await has_ended.wait()
        await session.run_command("true")


async def test_as_much_as_is_allowed_is_not_too_much() -> None:
    async def write(channel: anyssh.Channel) -> None:
        await channel.send(bytes(600))
        await channel.send_stderr(bytes(400))
        await channel.aclose(exit_status=0)

    async with client_of(write=write) as session:
        completed = await session.run_command("write", max_output=1000)
        assert (len(completed.stdout), len(completed.stderr)) == (600, 400)
        with pytest.raises(anyssh.CommandFailed):
            await session.run_command("write", max_output=999)


async def test_a_server_may_run_no_commands() -> None:
    async with client_of() as session:
        with pytest.raises(anyssh.RequestDenied):
            await session.run_command("ls")


async def test_the_end_of_the_session_is_raised_bare() -> None:
    async with session_pair() as (client, server):
        running = anyio.Event()

        async def linger(channel: anyssh.Channel) -> None:
            await channel.send(b"begun")
            running.set()
            await anyio.sleep_forever()

        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, partial(answer, commands={"linger": linger}))
            run = partial(client.run_command, "linger", input=bytes(5 * MIB))
            calls = [Call(group, run) for _ in range(2)]
            await running.wait()
            await settle()
            await server.disconnect(anyssh.DisconnectReason.BY_APPLICATION, "enough")
            for call in calls:
                await call.done.wait()
            group.cancel_scope.cancel()
    for call in calls:
        assert type(call.error) is anyssh.Disconnected
        assert call.error.description == "enough"
    assert calls[0].error is not calls[1].error


async def test_who_is_cancelled_leaves_nothing_behind() -> None:
    closed: list[anyssh.ChannelClosed] = []
    running = anyio.Event()

    async def linger(channel: anyssh.Channel) -> None:
        running.set()
        closed.append(await channel.wait_closed())

    async with client_of(linger=linger) as session, anyio.create_task_group() as group:
        call = Call(group, partial(session.run_command, "linger"))
        await running.wait()
        await settle()
        call.scope.cancel()
        await call.done.wait()
        await settle()
        assert closed == [anyssh.ChannelClosed()]
        assert not session._channels


async def test_a_command_does_not_notice_a_cut() -> None:
    async def double(channel: anyssh.Channel) -> None:
        async for chunk in channel:
            await channel.send(chunk + chunk)
        await channel.aclose(exit_status=0)

    async with (
        network_pair() as (network, client, server),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server.serve, partial(answer, commands={"double": double}))
        call = Call(group, partial(client.run_command, "double", input=b"x" * (2 * MIB)))
        while client.metrics.bytes_received < MIB:
            await anyio.lowlevel.checkpoint()
        network.cut()
        await call.done.wait()
        assert call.error is None
        assert call.value.stdout == b"x" * (4 * MIB)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("command", [["ls", "-l"], b"ls", None], ids=str)
async def test_a_command_is_a_text(command: Any) -> None:
    async with client_of() as session:
        with pytest.raises(TypeError, match=r"shlex\.join"):
            await session.run_command(command)
        with pytest.raises(TypeError, match="input"):
            await session.run_command("cat", input="text")  # type: ignore[arg-type]
