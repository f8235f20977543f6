"""``anyssh exec`` and ``anyssh serve --exec``, with each other and with OpenSSH."""

from __future__ import annotations

import errno
import getpass
import os
import signal
import sys
from types import SimpleNamespace
from typing import cast

import anyio
import pytest

import anyssh
from anyssh.cli.commands import _signal_group
from anyssh.cli.exec import _SignalPasser, _status
from tests.interop.peers import KeyFile, find_program, require_peer

from .conftest import sshd
from .program import DEADLINE, Anyssh, Result

pytestmark = pytest.mark.blocking_allowed  # only the tests themselves block

MEGABYTES = os.urandom(3_000_000)


async def test_streams_and_status(user: Anyssh) -> None:
    async with user.serve("--exec") as server:
        told = await user.run("exec", "--accept-new", server.place, "--", "echo out; echo err >&2")
        assert told == Result(0, "out\n", "err\n")
        told = await user.run("exec", server.place, "--", "exit", "7")
        assert told == Result(7, "", "")
        assert await user.run("exec", server.place, "--", "wc", "-c", given=MEGABYTES) == Result(
            0, f"{len(MEGABYTES)}\n", ""
        )
        told = await user.run("exec", server.place, "--", "kill -TERM $$")
        assert (told.status, told.out) == (128 + signal.SIGTERM, "")
        assert told.err == "anyssh: the command was ended by SIGTERM\n"
        nameless = signal.SIGRTMIN + 1
        told = await user.run("exec", server.place, "--", f"kill -{nameless} $$")
        assert told == Result(255, "", f"anyssh: the command was ended by SIG{nameless}\n")
        facts = await server.running.event("login")
        assert facts["user"] == getpass.getuser()
        key = anyssh.import_key_file(user.home / ".ssh" / "id_ed25519")
        assert facts["key"] == key.fingerprint


async def test_each_address_is_told(user: Anyssh) -> None:
    async with user.start("serve", "--listen", "0", "--listen", "[::1]:0") as running:
        first = await running.line(r"listening on 127.0.0.1:(\d+), host key SHA256:")
        second = await running.line(rf"listening on \[::1\]:{first[1]}, host key SHA256:")
        third = await running.line(r"listening on \[::1\]:(\d+), host key SHA256:", count=2)
        assert third[1] not in second.string
        for host in ("127.0.0.1", "::1"):
            await anyio.aclose_forcefully(await anyio.connect_tcp(host, int(first[1])))


async def test_bulk_output_arrives_whole(user: Anyssh) -> None:
    async with user.serve("--exec") as server:
        told = await user.run(
            "exec", "--accept-new", server.place, "--", "head -c 5000000 /dev/zero"
        )
        assert told == Result(0, "\0" * 5_000_000, "")


async def test_a_command_that_does_not_read_ends_all_the_same(user: Anyssh) -> None:
    async with user.serve("--exec") as server:
        told = await user.run("exec", "--accept-new", server.place, "--", "true", given=MEGABYTES)
        assert told == Result(0, "", "")


async def test_the_subsystem_that_echoes(user: Anyssh) -> None:
    async with user.serve("--echo") as server:
        told = await user.run("exec", "--accept-new", "-s", "echo", server.place, given=b"hello\n")
        assert told == Result(0, "hello\n", "")
        told = await user.run("exec", server.place, "--", "echo no")
        assert told.complaint == "the server does not run commands"
        assert (await server.running.event("refused"))["reason"] == "commands need --exec"


async def test_nothing_is_allowed_that_was_not_asked_for(user: Anyssh) -> None:
    async with user.serve() as server:
        told = await user.run("exec", "--accept-new", "-s", "echo", server.place)
        assert told.complaint == "the server does not run this subsystem"
        told = await user.run("exec", server.place, "--", "true")
        assert told.complaint == "the server does not run commands"


async def test_other_types_of_channels_and_broken_requests_harm_nobody(user: Anyssh) -> None:
    async with user.serve("--exec") as server:
        key = anyssh.import_key_file(user.home / ".ssh" / "id_ed25519")
        async with anyssh.ClientSession.connect(
            await anyio.connect_tcp("127.0.0.1", server.port),
            credentials=anyssh.ClientCredentials(getpass.getuser(), keys=[key]),
            verify_host=anyssh.pin(server.host_key),
        ) as session:
            with pytest.raises(anyssh.ChannelOpenError) as caught:
                await session.open_channel("weather")
            assert caught.value.reason == anyssh.ChannelOpenFailureReason.UNKNOWN_CHANNEL_TYPE
            broken = await session.open_channel()
            assert not await broken.request("exec", b"\xff\xff\xff\xff")
            request = anyssh.ChannelRequest("exec", anyssh.wire.string("echo hello"))
            channel = await session.open_channel(request=request)
            assert b"".join([chunk async for chunk in channel]) == b"hello\n"
            completed = await session.run_command("echo a\0b", check=False)
            assert completed.exit_status == 126
            assert completed.stderr.startswith(b"the command cannot be run: ")


async def test_signals_that_are_not_ours_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """To what sudo runs, for one."""

    def forbid(group: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    async with await anyio.open_process(["cat"], start_new_session=True) as process:
        assert _signal_group(process, signal.SIGCONT)
        with monkeypatch.context() as patch:
            patch.setattr(os, "killpg", forbid)
            assert not _signal_group(process, signal.SIGCONT)
        assert _signal_group(process, signal.SIGKILL)
        await process.wait()
        assert not _signal_group(process, signal.SIGCONT)


@pytest.mark.parametrize("told,ours", [(0, 0), (3, 3), (256, 255), (259, 3), (0xC0000000, 255)])
def test_no_failure_becomes_a_success(told: int, ours: int) -> None:
    """Some systems have statuses of 32 bits."""
    assert _status(anyssh.ChannelClosed(exit_status=told)) == ours


async def test_signals_reach_the_command(user: Anyssh) -> None:
    async with user.serve("--exec") as server:
        command = "trap 'echo told; exit 3' INT; echo ready; while :; do sleep 0.05; done"
        async with user.start("exec", "--accept-new", server.place, "--", command) as running:
            await running.line("^ready$")
            assert await running.finish(signal.SIGINT) == 3
            await running.line("^told$")


async def test_who_insists_is_let_go(user: Anyssh) -> None:
    async with user.serve("--exec") as server:
        command = "trap 'echo told' INT; echo ready; while :; do sleep 0.05; done"
        async with user.start("exec", "--accept-new", server.place, "--", command) as running:
            await running.line("^ready$")
            running.process.send_signal(signal.SIGINT)
            await running.line("^told$")
            assert await running.finish(signal.SIGINT) == 128 + signal.SIGINT
        await server.running.event("exec-end")


async def test_who_insists_does_not_wait_for_the_network() -> None:
    """A signal may have to wait until the server reads again; the next one comes meanwhile."""

    class Stuck:
        closed = None

        async def send_signal(self, name: str) -> None:
            await anyio.sleep_forever()

    session = SimpleNamespace(state=anyssh.SessionState.CONNECTED)
    async with anyio.create_task_group() as tasks:
        passer = _SignalPasser(
            cast("anyssh.Session", session), cast("anyssh.Channel", Stuck()), tasks
        )
        with anyio.fail_after(1):
            assert await passer.handle(signal.SIGTERM)
            assert await passer.handle(signal.SIGINT)
            assert not await passer.handle(signal.SIGINT)
        tasks.cancel_scope.cancel()


async def test_a_signal_ends_us_while_the_network_is_lost() -> None:
    session = SimpleNamespace(state=anyssh.SessionState.DISCONNECTED)
    async with anyio.create_task_group() as tasks:
        channel = SimpleNamespace(closed=None)
        passer = _SignalPasser(
            cast("anyssh.Session", session), cast("anyssh.Channel", channel), tasks
        )
        assert not await passer.handle(signal.SIGTERM)


async def test_output_waits_for_a_pipe_that_somebody_has_made_not_to_block(user: Anyssh) -> None:
    async with user.serve("--exec") as server:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        arguments = ("exec", "--accept-new", server.place, "--", "head -c 300000 /dev/zero")
        with open(reading, "rb") as output:
            async with await anyio.open_process(
                user.command(*arguments), stdout=writing, env=user.environment
            ) as process:
                os.close(writing)
                await server.running.event("exec-end")
                with anyio.fail_after(DEADLINE):
                    assert await anyio.to_thread.run_sync(output.read) == bytes(300_000)
                    assert await process.wait() == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_standard_streams_may_be_closed(user: Anyssh, closed: str) -> None:
    async with user.serve("--exec") as server:
        command = "echo out; echo err >&2; exit 3"
        arguments = user.command("exec", "--accept-new", server.place, "--", command)
        done = await anyio.run_process(
            ["sh", "-c", f'"$@" {closed}', "sh", *arguments], env=user.environment, check=False
        )
        assert done.returncode == 3
        assert done.stdout == (b"" if ">&-" in closed.split() else b"out\n")
        assert done.stderr == (b"" if "2>&-" in closed else b"err\n")


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
async def test_standard_streams_that_python_does_not_have_lead_nowhere(name: str) -> None:
    """Also where their numbers are taken, as on Windows for programs without a console."""
    program = f"""
import os, sys
from anyssh.__main__ import open_standard_streams
sys.{name} = None
open_standard_streams()
sys.{name}.readable() and sys.exit(len(sys.{name}.read()))
print("lost", file=sys.{name}, flush=True)
"""
    done = await anyio.run_process([sys.executable, "-c", program], input=b"lost", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_a_command_ends_when_its_client_does_not_come_back(user: Anyssh) -> None:
    async with user.serve("--exec", "--patience", "0.5") as server:
        command = "trap '' HUP; echo $$; sleep 1000; true"
        async with user.start("exec", "--accept-new", server.place, "--", command) as running:
            process = int((await running.line(r"^\d+$"))[0])
            os.kill(process, 0)
            running.process.kill()
        with anyio.fail_after(DEADLINE):
            while is_alive(process):  # noqa: ASYNC110
                await anyio.sleep(0.02)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_reader_that_goes_away_ends_it_quietly(user: Anyssh) -> None:
    async with user.serve("--exec") as server:
        command = user.command("exec", "--accept-new", server.place, "--", "yes")
        process = await anyio.open_process(
            ["sh", "-c", '"$@" | head -n 1; exit 0', "sh", *command],
            env=user.environment,
            start_new_session=True,
        )
        async with process:
            assert process.stdout is not None
            assert process.stderr is not None
            with anyio.fail_after(DEADLINE):
                assert b"".join([chunk async for chunk in process.stdout]) == b"y\n"
                assert b"".join([chunk async for chunk in process.stderr]) == b""
        await server.running.event("exec-end")


@pytest.mark.peers
async def test_commands_at_sshd(user: Anyssh, keys: dict[str, KeyFile]) -> None:
    async with sshd(user, keys) as server:
        place = f"127.0.0.1:{server.port}"
        told = await user.run("exec", place, "--", "cat; echo err >&2; exit 9", given=b"in\n")
        assert told == Result(9, "in\n", "err\n")
        told = await user.run("exec", place, "--", "wc -c", given=MEGABYTES)
        assert told == Result(0, f"{len(MEGABYTES)}\n", "")
        told = await user.run("exec", place, "--", "kill -KILL $$")
        assert told.status == 128 + signal.SIGKILL
        # An sshd that runs as root for root passes no signals on: the second one ends us.
        async with user.start("exec", "-v", place, "--", "echo ready; sleep 1000") as running:
            await running.line("^ready$")
            running.process.send_signal(signal.SIGINT)
            await running.line("the command was sent SIGINT")
            assert await running.finish(signal.SIGINT) == 128 + signal.SIGINT


@pytest.mark.peers
async def test_ssh_at_our_server(user: Anyssh) -> None:
    require_peer("openssh")
    async with user.serve("--exec", "--echo") as server:
        line = anyssh.export_public_key(
            anyssh.import_key_file(user.home / ".config" / "anyssh" / "host_key")
        )
        known = user.home / "known"
        known.write_text(f"[127.0.0.1]:{server.port} {line}")
        options = [
            find_program("ssh") or "ssh", "-F", "none", "-p", str(server.port),
            "-i", str(user.home / ".ssh" / "id_ed25519"), "-o", f"UserKnownHostsFile={known}",
            "-o", "BatchMode=yes", "127.0.0.1",
        ]  # fmt: skip

        async def ssh(*words: str, given: bytes = b"") -> Result:
            done = await anyio.run_process(
                [*options, *words], input=given, check=False, env=user.environment
            )
            return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

        told = await ssh("cat; echo err >&2; exit 9", given=b"in\n")
        assert told == Result(9, "in\n", "err\n")
        assert await ssh("wc -c", given=MEGABYTES) == Result(0, f"{len(MEGABYTES)}\n", "")
        assert await ssh("-s", "echo", given=b"hello") == Result(0, "hello", "")
        assert (await ssh("kill -TERM $$")).status == 255
        told = await ssh("-tt", "echo hello")
        assert told.status == 255 or "hello" in told.out
        assert "PTY allocation request failed" in told.err
        facts = await server.running.event("refused")
        assert (facts["request"], facts["reason"]) == ("pty-req", "terminals are not supported")
        told = await ssh("-T", given=b"exit 0\n")
        assert told.status == 255
        assert "shell request failed" in told.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_server_ends_when_told_to(user: Anyssh, number: int) -> None:
    async with user.serve("--exec") as server:
        command = ("exec", "--accept-new", server.place, "--", "echo $$; exec sleep 1000")
        async with user.start(*command) as client:
            process = int((await client.line(r"^\d+$"))[0])
            assert await server.running.finish(number) == 0
            assert await client.process.wait() == 255
            await client.line("^anyssh: the peer ended the session: by application")
        assert not is_alive(process)
