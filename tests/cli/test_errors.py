"""Errors are reported in one line, with the cause and the remedy, and end with status 255."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import anyssh
from anyssh.cli.failures import explain, reason_of
from tests.interop.peers import KeyFile

from .conftest import know, sshd
from .program import ROOT, Anyssh

pytestmark = pytest.mark.blocking_allowed  # only the tests themselves block


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def test_nobody_listens(user: Anyssh) -> None:
    port = free_port()
    for command in (("exec", f"127.0.0.1:{port}", "--", "true"),
                    ("forward", "-D", "0", f"127.0.0.1:{port}")):  # fmt: skip
        told = await user.run(*command)
        assert told.complaint == (
            f"cannot connect to 127.0.0.1:{port}: Connection refused; check the name and the port, "
            "and that a server runs there"
        )


async def test_there_is_no_such_host(user: Anyssh) -> None:
    told = await user.run("exec", "nobody@host.invalid", "--", "true")
    assert told.complaint.startswith("cannot connect to host.invalid:22: ")
    assert "check the name" in told.complaint


async def test_something_else_listens(user: Anyssh) -> None:
    import anyio
    from anyio.abc import SocketAttribute, SocketStream

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, answer)
        port = listener.extra(SocketAttribute.local_port)
        told = await user.run("exec", f"127.0.0.1:{port}", "--", "true")
        tasks.cancel_scope.cancel()
    assert "HTTP" in told.complaint


async def test_a_host_that_is_not_known(user: Anyssh) -> None:
    async with user.serve("--exec") as server:
        told = await user.run("exec", server.place, "--", "true")
        assert f"[127.0.0.1]:{server.port} is not known" in told.complaint
        assert server.host_key in told.complaint
        assert told.complaint.endswith("or use --accept-new")
        assert not (user.home / ".ssh" / "known_hosts").exists()


async def test_a_host_with_another_key(user: Anyssh) -> None:
    async with user.serve("--exec") as server:
        await know(user, anyssh.generate_key("ssh-ed25519"), server.port)
        for option in ((), ("--accept-new",)):
            told = await user.run("exec", *option, server.place, "--", "true")
            assert "has a different host key than before" in told.complaint
            assert server.host_key in told.complaint


async def test_a_key_that_is_not_authorized(user: Anyssh, keys: dict[str, KeyFile]) -> None:
    stranger = keys["ed25519"].private
    async with user.serve("--exec") as server:
        await know(user, user.host_key(), server.port)
        told = await user.run("exec", "-i", stranger, server.place, "--", "true")
        assert "did not authenticate" in told.complaint
        assert told.complaint.endswith("or have yours added to the server's authorized_keys")
        told = await user.run("exec", f"mallory@{server.place}", "--", "true")
        assert "did not authenticate 'mallory'" in told.complaint


@pytest.mark.peers
async def test_a_key_that_sshd_does_not_take(user: Anyssh, keys: dict[str, KeyFile]) -> None:
    stranger = keys["ecdsa256"].private
    async with sshd(user, keys) as other:
        told = await user.run("exec", "-i", stranger, f"127.0.0.1:{other.port}", "--", "true")
        assert "did not authenticate" in told.complaint


async def test_an_identity_that_is_not_there(user: Anyssh, tmp_path: Path) -> None:
    told = await user.run("exec", "-i", tmp_path / "none", "127.0.0.1:1", "--", "true")
    assert told.complaint == (
        f"cannot read the identity {tmp_path}/none: No such file or directory"
    )
    (tmp_path / "text").write_text("hello")
    told = await user.run("exec", "-i", tmp_path / "text", "127.0.0.1:1", "--", "true")
    assert "cannot be used: not a key" in told.complaint


async def test_an_identity_that_others_can_read(user: Anyssh) -> None:
    path = user.home / ".ssh" / "id_ed25519"
    path.chmod(0o644)
    told = await user.run("exec", "-i", path, "127.0.0.1:1", "--", "true")
    assert told.complaint == f"others may read {path}, so it is not used; run: chmod 600 {path}"
    told = await user.run("exec", "127.0.0.1:1", "--", "true")
    left_out, complaint = told.err.splitlines()
    assert left_out == f"anyssh: the identity {path} is ignored: others may read {path}, so it " \
        f"is not used; run: chmod 600 {path}"  # fmt: skip
    assert complaint.startswith("anyssh: cannot connect to 127.0.0.1:1: ")


async def test_an_encrypted_identity_without_a_terminal(user: Anyssh, tmp_path: Path) -> None:
    path = tmp_path / "encrypted"
    key = anyssh.generate_key("ssh-ed25519")
    anyssh.export_private_key_file(key, path, "openssh", "secret")
    told = await user.run("exec", "-i", path, "127.0.0.1:1", "--", "true")
    assert told.complaint == (f"{path} is encrypted, and there is no {path}.pub to identify it")


@pytest.mark.parametrize(
    "arguments,told",
    [
        (("exec",), "requires an argument"),
        (("exec", "host"), "say what to run"),
        (("exec", "host", "-s", "echo", "ls"), "say what to run"),
        (("exec", "host", "ls", "-l"), "put -- before that"),
        (("exec", "--port", "x", "host", "--", "ls"), "--port"),
        (("exec", "--port", "70000", "host", "--", "ls"), "not a port"),
        (("exec", "a b", "--", "ls"), "not the name of a host"),
        (("exec", "@host", "--", "ls"), "is not a destination"),
        (("exec", "host:x", "--", "ls"), "not a port"),
        (("exec", "host:0", "--", "ls"), "port 0"),
        (("exec", "host:" + "1" * 5000, "--", "ls"), "not a port"),
        (("exec", "a,b", "--", "ls"), "not the name or the bare address of a host"),
        (("exec", "--keep-alive", "-1", "host", "--", "ls"), "--keep-alive"),
        (("exec", "--known-hosts", "~nobody-here/x", "host", "--", "ls"), "no home directory"),
        (("exec", "--", "-oProxyCommand=x", "ls"), "not the name of a host"),
        (("nonsense",), "See: anyssh --help"),
        (("serve", "--listen", "x:y:z"), "is not an address to listen on"),
        (("serve", "--allow-connect", "nonsense"), "is not a pattern"),
        (("serve", "--patience", "-1"), "--patience"),
        (("serve", "--host-key", "~nobody-here/key"), "no home directory for ~nobody-here/key"),
        (("serve", "--authorized-keys", "/nonexistent"), "with --authorized-keys"),
        (("fingerprint",), "say which files"),
        (("fingerprint", "/nonexistent"), "cannot read /nonexistent: No such file"),
        (("contour", "/nonexistent"), "neither a file nor a contour"),
        (("fingerprint", "~nobody-here/key"), "no home directory for ~nobody-here/key"),
        (("contour", "AAAA"), "contour"),
        (("contour", "~nobody-here/x"), "no home directory for ~nobody-here/x"),
        (("keygen", "-t", "dsa"), "Choose from"),
        (("key", "convert", "/nonexistent"), "cannot read /nonexistent: No such file"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(
    arguments: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "anyssh", *arguments], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"HOME": str(tmp_path)}, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (255, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("anyssh: ")
    assert told in line


async def test_a_port_that_is_taken(user: Anyssh) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        told = await user.run("serve", "--listen", place)
    *_, complaint = told.err.splitlines()
    assert told.status == 255
    assert complaint == (
        f"anyssh: cannot listen on {place}: Address already in use; "
        "choose another address with --listen"
    )


async def test_more_is_told_to_those_who_ask(user: Anyssh) -> None:
    told = await user.run("exec", "-v", f"127.0.0.1:{free_port()}", "--", "true")
    *more, last = told.err.splitlines()
    assert "because of OSError: All connection attempts failed" in "\n".join(more)
    assert last.startswith("anyssh: cannot connect to ")
    assert "Traceback" not in told.err


def test_a_mistake_of_ours_is_told_as_one() -> None:
    assert explain(KeyError("x"), is_verbose=False) == (
        "KeyError: 'x'; this is a bug in anyssh; -v shows where"
    )
    try:
        raise ExceptionGroup("all", [ConnectionRefusedError(111, "x"), TimeoutError()])
    except ExceptionGroup as group:
        error = OSError("All connection attempts failed")
        error.__cause__ = group
    assert reason_of(error) == "Connection refused; no answer"


def test_without_the_extra_there_is_the_demonstration(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['cyclopts'] = None; import importlib.util as u; f = u.find_spec; "
        "u.find_spec = lambda n, *a: None if n == 'cyclopts' else f(n, *a); "
        "from anyssh.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    assert "--mib" in run("demo", "--help").stdout
    told = run("exec", "host", "--", "ls")
    assert (told.returncode, told.stdout) == (255, "")
    assert told.stderr == (
        "anyssh: the command line needs more packages; install them with: "
        "pip install 'anyssh[cli]'\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no sh")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nobody_reads_the_output(unbuffered: str, keys: dict[str, KeyFile]) -> None:
    """What comes too late for its reader ends quietly, as programs do whom SIGPIPE kills."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "anyssh", "fingerprint", keys["ed25519"].public], cwd=ROOT,
        stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_for_shells(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "completion"
    done = subprocess.run(
        [sys.executable, "-m", "anyssh", "--install-completion", "--shell", shell, "-o", str(path)],
        cwd=ROOT, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert done.returncode == 0
    script = path.read_text()
    for word in ("serve", "forward", "contour", "accept-new"):
        assert word in script
