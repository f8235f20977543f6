"""Slow key operations in worker threads: all other tasks continue."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread as anyio_to_thread

import anyssh
from anyssh.testing import session_pair
from tests.session.ends import Call, channel_pair

PASSPHRASE = "wonderland"
PUTTY = """\
PuTTY-User-Key-File-3: ssh-ed25519
Encryption: aes256-cbc
Comment: recorded
Public-Lines: 2
AAAAC3NzaC1lZDI1NTE5AAAAIPcWhW6dSh+MFnM5CW8CQq7UbMHaAw5A4YRvPc0g
ZLyF
Key-Derivation: Argon2id
Argon2-Memory: 65536
Argon2-Passes: 2
Argon2-Parallelism: 1
Argon2-Salt: 9cba5381dbb13d1d724df825c66378f6
Private-Lines: 1
L13wA74bY1xp5UNsFm/q2lSCEtT4xB3ZnDY3Z+cFG/LPp8GADstV2CTWipgs9+ax
Private-MAC: 31d2d350d174e5bffd2bb61b1cd738842c57f51fb211757ce1f88b2090e1b91a
"""
"""Encrypted with ``password`` through Argon2id over 64 MiB, twice."""


async def echo(channel: anyssh.Channel) -> None:
    async for chunk in channel:
        await channel.send(chunk)


async def echoes_meanwhile(work: Callable[[], Awaitable[Any]]) -> tuple[Any, int]:
    """Return what the work returns, and how many messages were echoed from its start to its end."""
    count = 0
    async with session_pair() as (client, server), anyio.create_task_group() as tasks:
        near, far = await channel_pair(client, server)
        tasks.start_soon(echo, far)
        call = Call(tasks, work)  # type: ignore[arg-type]
        while not call.is_done:
            await near.send(b"still here?")
            assert await near.receive() == b"still here?"
            count += 1
        tasks.cancel_scope.cancel()
    return await call.result(), count


ENOUGH = 20
"""Echoes; if the loop stood still there would be one or two, however long the work took."""


@pytest.mark.parametrize("kind", ["rsa", "openssh", "pkcs8", "putty", "file"])
async def test_a_session_echoes_meanwhile(kind: str, tmp_path: Path) -> None:
    key = anyssh.generate_key("ssh-ed25519")
    slow_text = anyssh.export_private_key(key, "openssh", PASSPHRASE, rounds=32)
    path = tmp_path / "key"
    path.write_text(slow_text)
    work: dict[str, Callable[[], Awaitable[anyssh.Key | str]]] = {
        "rsa": lambda: anyssh.to_thread.generate_key("ssh-rsa", bits=3072),
        "openssh": lambda: anyssh.to_thread.import_key(slow_text, PASSPHRASE),
        "pkcs8": lambda: anyssh.to_thread.export_private_key(
            key, "pkcs8", PASSPHRASE, rounds=400_000
        ),
        "putty": lambda: anyssh.to_thread.import_key(PUTTY, "password"),
        "file": lambda: anyssh.to_thread.import_key_file(path, PASSPHRASE),
    }
    result, echoes = await echoes_meanwhile(work[kind])
    assert echoes >= ENOUGH
    if kind == "rsa":
        assert result.bits == 3072
    elif kind == "pkcs8":
        assert await anyssh.to_thread.import_key(result, PASSPHRASE) == key
    elif kind != "putty":
        assert result == key


async def test_the_loop_would_stand_still_without_a_thread() -> None:
    """What the test above measures with is able to tell."""

    async def work() -> anyssh.Key:
        return anyssh.generate_key("ssh-rsa", bits=2048)

    _, echoes = await echoes_meanwhile(work)
    assert echoes < ENOUGH


async def test_the_functions_are_those_of_the_same_names(tmp_path: Path) -> None:
    for name in anyssh.to_thread.__all__:
        function = getattr(anyssh.to_thread, name)
        assert inspect.iscoroutinefunction(function)
        assert inspect.signature(function) == inspect.signature(getattr(anyssh, name))
        assert f"anyssh.{name}`" in function.__doc__
    key = await anyssh.to_thread.generate_key("ssh-ed25519", comment="mine")
    path = tmp_path / "key"
    await anyssh.to_thread.export_private_key_file(key, path, "openssh")
    await anyssh.to_thread.export_public_key_file(key, tmp_path / "key.pub")
    assert await anyssh.to_thread.import_key_file(path) == key
    assert (await anyssh.to_thread.import_key_file(tmp_path / "key.pub")).comment == "mine"
    data = await anyssh.to_thread.export_private_key_bytes(key, "pkcs8")
    assert await anyssh.to_thread.import_key(data) == key


async def test_what_is_raised_there_is_raised_here(tmp_path: Path) -> None:
    key = anyssh.generate_key("ssh-ed25519")
    text = anyssh.export_private_key(key, "openssh", PASSPHRASE)
    with pytest.raises(anyssh.PassphraseRequired):
        await anyssh.to_thread.import_key(text)
    with pytest.raises(anyssh.WrongPassphrase):
        await anyssh.to_thread.import_key(text, "looking-glass")
    with pytest.raises(ValueError, match="dsa"):
        await anyssh.to_thread.generate_key("ssh-dsa")
    with pytest.raises(FileNotFoundError):
        await anyssh.to_thread.import_key_file(tmp_path / "none")


async def test_a_cancelled_call_leaves_nothing_running() -> None:
    """Nothing runs on: the thread has finished when the call ends."""
    before = threading.active_count()
    limiter = anyio_to_thread.current_default_thread_limiter()
    async with anyio.create_task_group() as tasks:
        call = Call(tasks, lambda: anyssh.to_thread.generate_key("ssh-rsa", bits=2048))  # type: ignore[arg-type, return-value]
        while limiter.borrowed_tokens == 0:
            await anyio.lowlevel.checkpoint()
        call.scope.cancel()
        await call.done.wait()
        assert limiter.borrowed_tokens == 0
    assert threading.active_count() <= before + 1  # an idle worker of AnyIO's


async def test_a_cancelled_scope_starts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = anyssh.generate_key("ssh-ed25519")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyssh.to_thread.export_private_key_file(key, path)
    assert not path.exists()
