"""Known hosts as a policy: which keys are accepted, added and refused, with which messages."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

import anyssh
from anyssh import HostKeyStatus, KnownHosts
from anyssh.keys.known_hosts import hashed_name, known_hosts_line
from anyssh.session.known_hosts import default_paths
from tests.authority import HOST, certified
from tests.session.ends import Call, connected, make_server

POSIX = pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")


@cache
def key(name: str) -> anyssh.Key:
    """Give a key by a name that begins with its kind."""
    kind = {"ed": "ssh-ed25519", "ec": "ecdsa-sha2-nistp256", "rs": "ssh-rsa"}[name[:2]]
    return anyssh.generate_key(kind, bits=2048 if kind == "ssh-rsa" else None)


def line(names: str, name: str, marker: str = "") -> str:
    return f"{marker} {known_hosts_line(names, key(name))}\n".lstrip()


def presented(name: str) -> anyssh.PresentedHostKey:
    return anyssh.PresentedHostKey(key(name), anyssh.PeerVersion.parse("SSH-2.0-test"))


# Looking up -------------------------------------------------------------------------------------

LINES = (
    line("host,*.example.org,!bad.example.org", "ed1")
    + line(hashed_name("hidden", bytes(20)), "ed1")
    + line("[host]:2222", "ed2")
    + line("several", "ed1")
    + line("several", "ec1")
    + line("*", "ed-revoked", "@revoked")
    + line("once", "ed-revoked")
    + line("*.example.org", "ed-authority", "@cert-authority")
    + line("*.example.org", "ed-revoked", "@cert-authority")
)
K, U, C, R = (
    HostKeyStatus.KNOWN,
    HostKeyStatus.UNKNOWN,
    HostKeyStatus.CHANGED,
    HostKeyStatus.REVOKED,
)


@pytest.mark.parametrize(
    "host,port,name,status",
    [
        ("host", 22, "ed1", K),
        ("HOST", 22, "ed1", K),
        ("host", 22, "ed2", C),
        ("host", 22, "ec1", C),  # another type does not excuse it
        ("other", 22, "ed1", U),
        ("www.example.org", 22, "ed1", K),
        ("bad.example.org", 22, "ed1", U),
        ("hidden", 22, "ed1", K),
        ("hidden", 22, "ed2", C),
        ("hidden", 2222, "ed1", K),
        ("host", 2222, "ed2", K),
        ("host", 2222, "ed1", C),  # good at port 22, but this one has a key of its own
        ("host", 2222, "ec1", C),
        ("host", 2223, "ed1", K),
        ("host", 2223, "ed2", U),  # wrong at port 22, which says nothing about this one
        ("several", 22, "ed1", K),
        ("several", 22, "ec1", K),
        ("several", 22, "rs1", C),
        ("anything", 22, "ed-revoked", R),
        ("once", 22, "ed-revoked", R),
        ("once", 2222, "ed-revoked", R),
        ("once", 22, "ed1", C),  # revoking leaves a host without a key, not without a past
        ("www.example.org", 22, "ed-authority", C),  # an authority is no host
        ("bad.example.org", 22, "ed-authority", U),
    ],
)
def test_what_is_known_about_a_key(host: str, port: int, name: str, status: HostKeyStatus) -> None:
    assert KnownHosts.parse(LINES).status_of(key(name), host, port) is status


def test_the_keys_of_a_host() -> None:
    known = KnownHosts.parse(LINES)
    assert known.keys_for("several") == (key("ed1"), key("ec1"))
    assert known.keys_for("host", 2222) == (key("ed2"),)
    assert known.keys_for("host", 2223) == (key("ed1"),)
    assert known.keys_for("once") == known.keys_for("other") == ()
    assert known.authorities_for("www.example.org") == (key("ed-authority"),)
    assert known.authorities_for("www.example.org", 2222) == (key("ed-authority"),)
    assert known.authorities_for("host") == ()
    assert known.revoked_for("host") == known.revoked_for("x", 9) == (key("ed-revoked"),)


def test_revocation_under_the_bare_name_holds_at_every_port() -> None:
    known = KnownHosts.parse(line("[host]:2222", "ed1") + line("host", "ed1", "@revoked"))
    assert known.status_of(key("ed1"), "host", 2222) is R


def test_what_was_read_and_what_was_not() -> None:
    known = KnownHosts.parse(line("host", "ed1") + "nonsense\n", "the text")
    assert [(str(entry), entry.key) for entry in known.entries] == [("the text:1", key("ed1"))]
    assert [problem.line for problem in known.problems] == [2]
    assert known.paths == ("the text",)


@pytest.mark.parametrize("host,port", [("a b", 22), ("*", 22), ("", 22), ("host", 0)])
async def test_names_of_no_host(host: str, port: int, tmp_path: Path) -> None:
    known = await KnownHosts.load(tmp_path / "known")
    with pytest.raises(ValueError, match="not"):
        known.status_of(key("ed1"), host, port)
    with pytest.raises(ValueError, match="not"):
        known.for_host(host, port)
    with pytest.raises(ValueError, match="not"):
        await known.add(key("ed1"), host, port)
    assert os.listdir(tmp_path) == []


# Files ------------------------------------------------------------------------------------------


async def test_files_are_read_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text(line("a", "ed1"))
    second.write_bytes(b"\xff\xfe\x00 nonsense\r\n" + line("b", "ed2").encode())
    known = await KnownHosts.load(str(first), tmp_path / "missing", second)
    assert [str(entry) for entry in known.entries] == [f"{first}:1", f"{second}:2"]
    assert [(each.path, each.line) for each in known.problems] == [(str(second), 1)]


async def test_the_files_of_openssh_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/known_hosts").write_text(line("mine", "ed1"))
    for known in (await KnownHosts.load(), await KnownHosts.load("~/.ssh/known_hosts")):
        assert known.keys_for("mine") == (key("ed1"),)
    others = (await KnownHosts.load()).paths[1:]
    assert others == (() if os.name == "nt" else ("/etc/ssh/ssh_known_hosts",))


def test_no_file_is_a_default_that_others_may_make() -> None:
    """On Windows, where users can create folders beside the system's."""
    assert default_paths("nt") == ("~/.ssh/known_hosts",)
    assert default_paths("posix") == ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")


async def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=str(tmp_path.name)):
        await KnownHosts.load(tmp_path)
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(10 << 30)  # a hole
    with pytest.raises(anyssh.KeyFormatError, match="16777216 bytes"):
        await KnownHosts.load(large)


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@POSIX
@pytest.mark.usefixtures("open_umask")
async def test_new_files_are_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "known_hosts"
    known = await KnownHosts.load(path)
    await known.add(key("ed1"), "host")
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert path.read_text() == line("host", "ed1")


@POSIX
@pytest.mark.parametrize("before", [0o600, 0o400, 0o644])
async def test_modes_are_kept(before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "known_hosts"
    path.touch(mode=0o600)
    path.chmod(before)
    monkeypatch.setattr(os, "chmod", lambda *arguments: pytest.fail("chmod"))
    monkeypatch.setattr(os, "fchmod", lambda *arguments: pytest.fail("fchmod"))
    known = await KnownHosts.load(path)
    if before == 0o400 and os.geteuid() != 0:
        with pytest.raises(PermissionError):
            await known.add(key("ed1"), "host")
    else:
        await known.add(key("ed1"), "host")
    assert mode(path) == before


@pytest.mark.parametrize("before", ["", "# comment\n", "# comment", "other x", "\n"])
async def test_lines_are_appended_and_nothing_else_changes(before: str, tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_bytes(before.encode())
    link = tmp_path / "link"
    link.symlink_to(path)
    known = await KnownHosts.load(link)
    await known.add(key("ed1"), "Host", 2222)
    await known.add(key("rs1"), "::1", hash_name=True)
    text = path.read_text()
    assert text.startswith(before.rstrip("\n"))
    assert link.is_symlink()
    assert line("[host]:2222", "ed1") in text
    assert "::1" not in text
    assert text.endswith("\n")
    again = await KnownHosts.load(path)
    for each in (known, again):
        assert each.status_of(key("ed1"), "host", 2222) is K
        assert each.status_of(key("rs1"), "::1") is K
        assert each.status_of(key("ed1"), "::1") is C


async def test_two_hashes_of_a_name_differ(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    known = await KnownHosts.load(path)
    await known.add(key("ed1"), "host", hash_name=True)
    await known.add(key("ed2"), "host", hash_name=True)
    first, second = (each.split()[0] for each in path.read_text().splitlines())
    assert first != second


async def test_private_parts_are_not_written(tmp_path: Path) -> None:
    known = await KnownHosts.load(tmp_path / "known_hosts")
    await known.add(key("ed1"), "host")
    assert all(entry.key and not entry.key.has_private for entry in known.entries)


async def test_text_cannot_be_added_to() -> None:
    known = KnownHosts.parse(LINES)
    with pytest.raises(anyssh.LocalProtocolError, match="not loaded from a file"):
        await known.add(key("ed1"), "new")
    with pytest.raises(anyssh.LocalProtocolError, match="loaded from a file"):
        known.for_host("new", accept_new=True)
    assert known.status_of(key("ed1"), "new") is U


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
async def test_what_cannot_be_written_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.symlink_to("/dev/full")
    known = await KnownHosts.load(tmp_path / "other")
    known._paths = (str(path),)
    with pytest.raises(OSError, match="No space left"):
        await known.add(key("ed1"), "host")
    assert known.status_of(key("ed1"), "host") is U
    verify = known.for_host("host", accept_new=True)
    with pytest.raises(anyssh.HostKeyError, match=r"cannot be saved: .*No space") as caught:
        await verify(presented("ed1"))
    assert isinstance(caught.value.__cause__, OSError)


@POSIX
async def test_half_a_line_does_not_stay(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "known_hosts"
    path.write_text(line("other", "ed1"))
    size = path.stat().st_size
    known = await KnownHosts.load(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(OSError, match="only 20 of"):
            await known.add(key("ed2"), "host")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == line("other", "ed1")


def test_writers_at_once_tear_no_line(tmp_path: Path) -> None:
    """Many writers, each with a view of its own, as processes have."""
    path = tmp_path / "known_hosts"
    path.write_text("# no line feed at the end")
    start = threading.Barrier(8)
    shared = key("rs1")

    async def write(number: int) -> None:
        known = await KnownHosts.load(path)
        await to_thread.run_sync(start.wait)
        for each in range(25):
            await known.add(shared, f"host-{number}-{each}", hash_name=each % 2 == 0)

    writers = [threading.Thread(target=anyio.run, args=[write, number]) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    known = KnownHosts.parse(path.read_text())
    assert known.problems == ()
    assert len(known.entries) == 200
    for number in range(8):
        for each in range(25):
            assert known.keys_for(f"host-{number}-{each}") == (shared,)


async def test_cancelling_leaves_a_whole_line_or_none(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    known = await KnownHosts.load(path)
    async with anyio.create_task_group() as tasks:
        for turns in range(8):
            host = f"host{turns}"
            call = Call(tasks, lambda host=host: known.add(key("ed1"), host))
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            call.scope.cancel()
            await call.done.wait()
            again = await KnownHosts.load(path)
            assert again.problems == ()
            assert again.status_of(key("ed1"), host) is known.status_of(key("ed1"), host)


# The policy -------------------------------------------------------------------------------------


def server_with(*names: str) -> anyssh.Server:
    return make_server(host_keys=[key(name) for name in names])


async def connect(verify_host: anyssh.HostKeyVerifier, *names: str) -> anyssh.Key:
    async with connected(server_with(*names), verify_host=verify_host) as (client, _):
        return client.host_key


async def refusal(verify_host: anyssh.HostKeyVerifier, *names: str) -> str:
    with pytest.raises(anyssh.HostKeyError) as caught:
        async with connected(server_with(*names), verify_host=verify_host):
            pytest.fail("the wrong key was accepted")
    error = caught.value
    assert error.fingerprint in [key(name).fingerprint for name in names]
    assert error.fingerprint in str(error)
    assert error.algorithm in str(error)
    return str(error)


async def test_a_known_host_is_accepted() -> None:
    known = KnownHosts.parse(LINES)
    assert await connect(known.for_host("host"), "ed1") == key("ed1")
    assert await connect(known.for_host("host", 2222), "ed2") == key("ed2")


@pytest.mark.parametrize("name", ["ed1", "ec1", "rs1"])
@pytest.mark.parametrize("others", [["ed1", "ec1", "rs1"], ["rs1", "ec1", "ed1"]])
async def test_the_server_is_asked_for_the_key_that_is_known(name: str, others: list[str]) -> None:
    known = KnownHosts.parse(line("host", name))
    assert await connect(known.for_host("host"), *others) == key(name)


def test_the_order_of_algorithms_is_kept_otherwise() -> None:
    names = anyssh.SessionConfig().host_key_algorithms

    def preferred(text: str) -> Sequence[str]:
        return KnownHosts.parse(text).for_host("host").preferred(names)

    assert preferred("") == tuple(names)
    assert preferred(line("host", "ed1")) == tuple(names)
    rsa = preferred(line("host", "rs1"))
    assert rsa[:2] == ("rsa-sha2-512", "rsa-sha2-256")
    assert sorted(rsa) == sorted(names)
    assert [name for name in rsa if "rsa" not in name] == [n for n in names if "rsa" not in n]


async def test_an_unknown_host_is_refused_with_the_line_to_add() -> None:
    known = KnownHosts.parse(LINES + "nonsense\n", "/home/me/.ssh/known_hosts")
    text = await refusal(known.for_host("new.host", 2222), "ed1")
    assert "the host [new.host]:2222 is not known" in text
    assert f"add to /home/me/.ssh/known_hosts: {line('[new.host]:2222', 'ed1').strip()}" in text
    assert "could not be read: /home/me/.ssh/known_hosts:10:" in text
    assert "certificates" not in text


async def test_a_changed_key_is_refused_with_where_the_old_one_stands() -> None:
    known = KnownHosts.parse(LINES + f"several ssh-dss {DSS}\n", "known")
    text = await refusal(known.for_host("several"), "ed2")
    assert "several has a different host key than before, or someone impersonates it" in text
    assert f"{key('ed1').fingerprint} (known:4), {key('ec1').fingerprint} (known:5)" in text
    assert "a key of type ssh-dss (known:10)" in text
    assert line("several", "ed2").strip() in text


DSS = "AAAAB3NzaC1kc3MAAAAA"


async def test_a_revoked_key_is_refused_with_where_it_was_revoked() -> None:
    known = KnownHosts.parse(LINES, "known")
    for verify in (known.for_host("once"), known.for_host("other")):
        text = await refusal(verify, "ed-revoked")
        assert "must not be trusted" in text
        assert "revoked by known:6" in text


async def test_hosts_known_by_certificates_are_not_known_by_any_key(tmp_path: Path) -> None:
    path = tmp_path / "known"
    path.write_text(line("*.org", "ed-authority", "@cert-authority"))
    known = await KnownHosts.load(path)
    for accept_new in (False, True):
        text = await refusal(known.for_host("a.org", accept_new=accept_new), "ed1")
        assert "known by its certificates, and showed none" in text
    assert path.read_text() == line("*.org", "ed-authority", "@cert-authority")


CERTIFIED = line("*.org", "ed-authority", "@cert-authority") + line("*", "ed-revoked", "@revoked")


def certified_server(authority: str = "ed-authority", **fields: Any) -> anyssh.Server:
    usual = {"type": HOST, "principals": ["a.org"]}
    certificate = certified(key("ed1"), key(authority), **usual | fields)
    return make_server(host_keys=[anyssh.CertifiedKey(key("ed1"), certificate)])


@pytest.mark.parametrize("port", [22, 2222])
async def test_a_host_is_known_by_its_certificate(port: int) -> None:
    verify = KnownHosts.parse(CERTIFIED).for_host("a.org", port)
    assert isinstance(verify, anyssh.HostCertificateVerifier)
    assert verify.takes_certificates
    async with connected(certified_server(), verify_host=verify) as (client, _):
        assert client.host_key == key("ed1")
    assert not KnownHosts.parse(CERTIFIED).for_host("a.com", port).takes_certificates


@pytest.mark.parametrize(
    "fields,reason",
    [
        ({"principals": ["b.org"]}, "not issued for 'a.org'"),
        ({"authority": "ed2"}, "not trusted"),
        ({"authority": "ed-revoked"}, "not trusted"),
        ({"valid_before": 1_000_000_000, "valid_after": 0}, "expired"),
    ],
)
async def test_a_certificate_that_is_not_good(fields: dict[str, Any], reason: str) -> None:
    known = KnownHosts.parse(CERTIFIED)
    with pytest.raises(anyssh.HostKeyError, match=f"a.org is not known.*{reason}") as caught:
        async with connected(certified_server(**fields), verify_host=known.for_host("a.org")):
            pytest.fail("the certificate is not good")
    assert isinstance(caught.value.__cause__, anyssh.CertificateError)
    # The key itself may be known all the same.
    known = KnownHosts.parse(CERTIFIED + line("a.org", "ed1"))
    async with connected(certified_server(**fields), verify_host=known.for_host("a.org")):
        pass


async def test_a_certificate_for_a_key_that_is_revoked() -> None:
    known = KnownHosts.parse(CERTIFIED + line("*", "ed1", "@revoked"))
    with pytest.raises(anyssh.HostKeyError, match="must not be trusted"):
        async with connected(certified_server(), verify_host=known.for_host("a.org")):
            pytest.fail("the key was revoked")


async def test_the_address_of_the_stream_does_not_matter() -> None:
    known = KnownHosts.parse(line("10.0.0.1,[10.0.0.1]:22", "ed1"))
    verify = known.for_host("meant")
    shown = anyssh.PresentedHostKey(
        key("ed1"), anyssh.PeerVersion.parse("SSH-2.0-test"), ("10.0.0.1", 22)
    )
    with pytest.raises(anyssh.HostKeyError, match="meant is not known"):
        await verify(shown)


@pytest.mark.parametrize("hash_names", [False, True])
async def test_new_hosts_are_accepted_once(hash_names: bool, tmp_path: Path) -> None:
    path = tmp_path / ".ssh" / "known_hosts"
    known = await KnownHosts.load(path)
    verify = known.for_host("host", 2222, accept_new=True, hash_names=hash_names)
    await connect(verify, "ed1")
    await connect(verify, "ed1")
    assert len(path.read_text().splitlines()) == 1
    assert ("host" not in path.read_text()) is hash_names
    again = await KnownHosts.load(path)
    assert await connect(again.for_host("host", 2222), "ed1", "ec1") == key("ed1")
    for other in ("ed2", "ec1"):
        for each in (known, again):
            text = await refusal(each.for_host("host", 2222, accept_new=True), other)
            assert "a different host key" in text
    assert len(path.read_text().splitlines()) == 1


async def test_somebody_is_asked_about_new_hosts(tmp_path: Path) -> None:
    known = await KnownHosts.load(tmp_path / "known_hosts")
    asked: list[anyssh.Key] = []

    answers: list[object] = [False, None, "yes", True]

    async def ask(shown: anyssh.PresentedHostKey) -> object:
        asked.append(shown.key)
        return answers.pop(0)

    verify = known.for_host("host", accept_new=ask)  # type: ignore[arg-type]
    for _ in range(3):
        assert "not known" in await refusal(verify, "ed1")
    await connect(verify, "ed1")
    await connect(verify, "ed1")
    assert "a different host key" in await refusal(verify, "ed2")
    assert asked == [key("ed1")] * 4
    with pytest.raises(anyssh.LocalProtocolError, match="loaded from a file"):
        KnownHosts.parse("").for_host("host", accept_new=ask)  # type: ignore[arg-type]


async def test_an_answer_that_comes_too_late(tmp_path: Path) -> None:
    """While the user thinks about one key, another one becomes the host's."""
    known = await KnownHosts.load(tmp_path / "known_hosts")

    async def ask(shown: anyssh.PresentedHostKey) -> bool:
        await known.add(key("ed2"), "host")
        return True

    text = await refusal(known.for_host("host", accept_new=ask), "ed1")
    assert "a different host key" in text
    assert len((tmp_path / "known_hosts").read_text().splitlines()) == 1


async def test_two_keys_of_a_new_host_at_once(tmp_path: Path) -> None:
    known = await KnownHosts.load(tmp_path / "known_hosts")
    verify = known.for_host("host", accept_new=True)
    async with anyio.create_task_group() as tasks:
        calls = [Call(tasks, lambda name=name: verify(presented(name))) for name in ("ed1", "ed2")]
        for call in calls:
            await call.done.wait()
    errors = [call.error for call in calls if call.error is not None]
    assert len(errors) == 1
    assert isinstance(errors[0], anyssh.HostKeyError)
    assert len((tmp_path / "known_hosts").read_text().splitlines()) == 1


async def test_known_hosts_without_a_name_are_no_verifier() -> None:
    near, _ = anyssh.testing.memory_stream_pair()
    with pytest.raises(TypeError, match=r"for_host\('name'\)"):
        anyssh.ClientSession.connect(near, verify_host=KnownHosts.parse(LINES))  # type: ignore[arg-type]
