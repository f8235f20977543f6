"""Prompts for the user at the terminal, and what is drawn there."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute

import anyssh
from anyssh.cli.terminal import _ask
from anyssh.messages import UserauthPasswdChangereq, UserauthRequest
from anyssh.protocol.server_authentication import _JUDGES, ServerAuthentication
from tests.interop.peers import USER, KeyFile, require_accounts, require_peer, token

from .conftest import know, sshd
from .program import DEADLINE, ROOT, Anyssh

if sys.platform == "win32":
    pytest.skip("no terminals of this kind", allow_module_level=True)

import pty
import termios

pytestmark = pytest.mark.blocking_allowed  # only the tests themselves block

PASSPHRASE = "correct horse"
CTRL_C = "\x03"


class Console:
    """A terminal with the program in it: what the person sees and types."""

    def __init__(self, user: Anyssh, *arguments: object) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            user.command(*arguments), cwd=ROOT, env=user.environment | {"TERM": "xterm"},
            preexec_fn=lambda: os.login_tty(slave),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""
        self._read_until = 0

    async def see(self, pattern: str) -> str:
        """Wait until this is to be seen, behind what was seen before; return it."""
        found: re.Match[str] | None = None
        with anyio.move_on_after(DEADLINE):
            while found is None:
                found = re.compile(pattern).search(self.seen, self._read_until)
                if found is None and not await self._read():
                    break
        assert found is not None, f"no {pattern!r} in {self.seen!r}"
        self._read_until = found.end()
        return found[0]

    async def _read(self) -> bool:
        await anyio.wait_readable(self._master)
        try:
            data = os.read(self._master, 65536)
        except OSError:  # nobody has the terminal open any more
            data = b""
        self.seen += data.decode(errors="replace")
        return bool(data)

    def type(self, text: str, *, end: str = "\n") -> None:
        os.write(self._master, (text + end).encode())

    @property
    def shows_what_is_typed(self) -> bool:
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    async def status(self) -> int:
        """Wait for the end; return the exit status."""
        with anyio.fail_after(DEADLINE):
            while await self._read():
                pass
            return await anyio.to_thread.run_sync(self._process.wait)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)


@asynccontextmanager
async def console(user: Anyssh, *arguments: object) -> AsyncIterator[Console]:
    running = Console(user, *arguments)
    try:
        yield running
    finally:
        running.close()


async def test_a_new_host_is_asked_about(user: Anyssh) -> None:
    async with user.serve("--exec") as server:
        command = ("exec", server.place, "--", "echo hello")
        async with console(user, *command) as screen:
            await screen.see(re.escape(server.host_key))
            await screen.see("Is that right")
            screen.type("perhaps")
            await screen.see("Please say yes or no")
            screen.type("no")
            await screen.see(r"anyssh: the host .* is not known")
            assert await screen.status() == 255
            assert "--accept-new" not in screen.seen
        assert not (user.home / ".ssh" / "known_hosts").exists()
        async with console(user, *command) as screen:
            await screen.see("Is that right")
            screen.type("SHA256:" + "x" * 43)
            await screen.see(r"anyssh: the host .* is not known")
        async with console(user, *command) as screen:
            await screen.see("Is that right")
            screen.type(server.host_key)
            await screen.see("hello")
            assert await screen.status() == 0
        assert await user.run(*command) == await user.run(*command)
        assert (await user.run(*command)).out == "hello\n"


def encrypted(user: Anyssh) -> None:
    """Encrypt the user's key."""
    path = user.home / ".ssh" / "id_ed25519"
    key = anyssh.import_key_file(path)
    path.unlink()
    anyssh.export_private_key_file(key, path, "openssh", PASSPHRASE)


async def test_a_passphrase_is_asked_for_and_not_shown(user: Anyssh) -> None:
    encrypted(user)
    async with user.serve("--exec") as server:
        await know(user, user.host_key(), server.port)
        async with console(user, "exec", server.place, "--", "echo hello") as screen:
            await screen.see("Enter the passphrase for .*id_ed25519: ")
            assert not screen.shows_what_is_typed
            screen.type("wrong")
            await screen.see("Wrong passphrase. Enter the passphrase for .*id_ed25519: ")
            screen.type(PASSPHRASE)
            await screen.see("hello")
            assert screen.shows_what_is_typed
            assert await screen.status() == 0
            assert PASSPHRASE not in screen.seen


async def test_who_does_not_know_the_passphrase_is_not_let_in(user: Anyssh) -> None:
    encrypted(user)
    async with user.serve("--exec") as server:
        await know(user, user.host_key(), server.port)
        async with console(user, "exec", server.place, "--", "echo hello") as screen:
            for _ in range(3):
                await screen.see("Enter the passphrase for ")
                screen.type("wrong")
            await screen.see("anyssh: the server did not authenticate ")
            assert await screen.status() == 255


async def test_a_key_that_the_server_would_not_take_is_not_decrypted(
    user: Anyssh, tmp_path: Path
) -> None:
    path = tmp_path / "other"
    key = anyssh.generate_key("ssh-ed25519")
    anyssh.export_private_key_file(key, path, "openssh", PASSPHRASE)
    anyssh.export_public_key_file(key, f"{path}.pub")
    async with user.serve("--exec") as server:
        await know(user, user.host_key(), server.port)
        command = ("exec", "-i", path, server.place, "--", "true")
        async with console(user, *command) as screen:
            await screen.see("anyssh: the server did not authenticate ")
            assert await screen.status() == 255
            assert "passphrase" not in screen.seen


async def test_ctrl_c_at_a_question(user: Anyssh) -> None:
    encrypted(user)
    async with user.serve("--exec") as server:
        await know(user, user.host_key(), server.port)
        async with console(user, "exec", server.place, "--", "true") as screen:
            await screen.see("Enter the passphrase for ")
            assert not screen.shows_what_is_typed
            screen.type(CTRL_C, end="")
            assert await screen.status() == 128 + signal.SIGINT
            assert screen.shows_what_is_typed
            assert "Traceback" not in screen.seen


async def test_a_passphrase_for_a_new_key(user: Anyssh, tmp_path: Path) -> None:
    path = tmp_path / "new"
    async with console(user, "keygen", "-f", path) as screen:
        await screen.see("Choose a passphrase")
        screen.type(PASSPHRASE)
        await screen.see("Enter it again: ")
        screen.type("something else")
        await screen.see("Choose a passphrase")
        screen.type(PASSPHRASE)
        await screen.see("Enter it again: ")
        screen.type(PASSPHRASE)
        await screen.see("the private key is in ")
        assert await screen.status() == 0
    assert anyssh.import_key_file(path, PASSPHRASE).has_private


KEYS_AND_PASSWORDS = [
    anyssh.AuthenticationMethod.PUBLIC_KEY,
    anyssh.AuthenticationMethod.PASSWORD,
]


@asynccontextmanager
async def asking_server(
    user: Anyssh, methods: Sequence[str] = anyssh.SessionConfig().authentication_methods
) -> AsyncIterator[int]:
    """Run a server that lets people in by password, or by an answer; give its port."""

    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        match attempt:
            case anyssh.PasswordAttempt(username="alice", password="wonderland"):
                return "alice"
            case anyssh.KeyboardInteractiveAttempt(username="alice", responses=None):
                prompts = [anyssh.Prompt("Your name? ", echo=True), anyssh.Prompt("And the word? ")]
                return anyssh.Challenge("A riddle", "Answer it.", prompts)
            case anyssh.KeyboardInteractiveAttempt(responses=("Alice", "jabberwock")):
                return anyssh.Challenge("Well done", "Nothing more is asked.")
            case anyssh.KeyboardInteractiveAttempt(responses=(), round=2):
                return "alice"
        return None

    async def greet(session: anyssh.ServerSession) -> None:
        channel = await session.accept_channel()
        await (await anext(channel.requests())).accept()
        await channel.send(b"hello\n")
        await channel.aclose(exit_status=0)
        await session.wait_closed()

    host_key = anyssh.generate_key("ssh-ed25519")
    server = anyssh.Server(
        host_keys=[host_key],
        authenticate=authenticate,
        config=anyssh.SessionConfig(authentication_methods=methods),
    )
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(server.serve, listener, greet)
        port = listener.extra(SocketAttribute.local_port)
        await know(user, host_key, port)
        yield port
        tasks.cancel_scope.cancel()


async def test_a_terminal_that_the_event_loop_cannot_watch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As /dev/tty on macOS."""

    async def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(anyio, "wait_readable", refuse)
    master, slave = pty.openpty()
    answers: list[str | None] = []

    async def ask() -> None:
        answers.append(await _ask(slave, "Well? ", is_secret=True))

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            assert (await anyio.to_thread.run_sync(os.read, master, 100)) == b"Well? "
            os.write(master, b"so so\n")
    finally:
        os.close(master)
        os.close(slave)
    assert answers == ["so so"]


async def test_a_password_is_asked_for_again_when_it_is_wrong(user: Anyssh) -> None:
    async with (
        asking_server(user, KEYS_AND_PASSWORDS) as port,
        console(user, "exec", f"alice@127.0.0.1:{port}", "--", "greet") as screen,
    ):
        await screen.see("Enter the password of alice@127.0.0.1: ")
        assert not screen.shows_what_is_typed
        screen.type("wrong")
        await screen.see("Not accepted. Enter the password of alice@127.0.0.1: ")
        screen.type("wonderland")
        await screen.see("hello")
        assert await screen.status() == 0
        assert "wonderland" not in screen.seen


@pytest.mark.peers
@pytest.mark.parametrize(
    "methods", ["password,publickey", "publickey,password", "keyboard-interactive,publickey"]
)
async def test_a_server_that_wants_a_key_and_a_password(
    user: Anyssh, keys: dict[str, KeyFile], methods: str
) -> None:
    require_accounts(require_peer("openssh"))
    password = token()
    options = {
        "user": USER,
        "password": password,
        "interactive": "interactive" in methods,
        "option": [f"AuthenticationMethods={methods}"],
    }
    async with (
        sshd(user, keys, **options) as server,
        console(user, "exec", f"{USER}@127.0.0.1:{server.port}", "--", "echo hello") as screen,
    ):
        await screen.see("[Pp]assword")
        screen.type("wrong")
        await screen.see("Not accepted")
        await screen.see("[Pp]assword")
        screen.type(password)
        await screen.see("hello")
        assert await screen.status() == 0


async def test_an_expired_password_is_told(user: Anyssh, monkeypatch: pytest.MonkeyPatch) -> None:
    def expired(judge: ServerAuthentication, request: UserauthRequest) -> None:
        judge._conclude(UserauthPasswdChangereq("Choose another."))

    monkeypatch.setitem(_JUDGES, anyssh.AuthenticationMethod.PASSWORD, expired)
    async with (
        asking_server(user, KEYS_AND_PASSWORDS) as port,
        console(user, "exec", f"alice@127.0.0.1:{port}", "--", "greet") as screen,
    ):
        await screen.see("Enter the password of alice@127.0.0.1: ")
        screen.type("wonderland")
        await screen.see("it wants a new password first: 'Choose another.'")
        assert await screen.status() == 255


async def test_the_servers_own_questions(user: Anyssh) -> None:
    async with (
        asking_server(user) as port,
        console(user, "exec", f"alice@127.0.0.1:{port}", "--", "greet") as screen,
    ):
        for words in ("A riddle", "Answer it.", "Your name. "):
            # Nobody shall take what a server asks for a question about a passphrase of here.
            assert await screen.see(r"[^\n]*" + words) == f"(alice@127.0.0.1) {words}".replace(
                "name.", "name?"
            )
        screen.type("Alice")
        await screen.see("And the word. ")
        screen.type("snark")
        await screen.see("Not accepted.")
        await screen.see("Answer it.")
        await screen.see("Your name. ")
        assert screen.shows_what_is_typed
        screen.type("Alice")
        await screen.see("And the word. ")
        assert not screen.shows_what_is_typed
        screen.type("jabberwock")
        await screen.see("Well done Nothing more is asked.")
        await screen.see("hello")
        assert await screen.status() == 0
        assert "jabberwock" not in screen.seen


@pytest.mark.parametrize("has_keys", [True, False])
async def test_nobody_is_asked_for_a_password_that_the_server_does_not_take(
    user: Anyssh, has_keys: bool
) -> None:
    if not has_keys:
        (user.home / ".ssh" / "id_ed25519").unlink()
    async with (
        asking_server(user, [anyssh.AuthenticationMethod.PUBLIC_KEY]) as port,
        console(user, "exec", f"alice@127.0.0.1:{port}", "--", "greet") as screen,
    ):
        await screen.see("anyssh: the server did not authenticate ")
        assert await screen.status() == 255
        assert "Enter the password" not in screen.seen


async def test_a_password_without_a_terminal(user: Anyssh) -> None:
    async with asking_server(user, KEYS_AND_PASSWORDS) as port:
        told = await user.run("exec", f"alice@127.0.0.1:{port}", "--", "greet")
        assert "the server accepts: publickey, password" in told.complaint


async def test_a_tunnel_is_drawn(user: Anyssh) -> None:
    async with user.serve("--allow-connect", "localhost:*") as server:
        await know(user, user.host_key(), server.port)
        command = ("forward", "-L", "0:localhost:1", server.place)
        async with console(user, *command) as screen:
            await screen.see("-L connections to localhost:")
            await screen.see("connected .*up ")
            await screen.see("in total")
            screen.type(CTRL_C, end="")
            assert await screen.status() == 0
            assert "Traceback" not in screen.seen
            assert screen.shows_what_is_typed
