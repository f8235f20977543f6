"""``known_hosts`` files written and read by OpenSSH's tools, and by us."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

import anyssh

from .conftest import Keys, Site, Sites
from .ours import Gate, exchange, our_key, our_server
from .peers import USER, find_program, require_peer
from .scripts.peer_common import ECHO, GREETING

ADDRESS = "127.0.0.1"


@pytest.fixture
def site(sites: Sites) -> Site:
    return sites["openssh"]


async def run(
    program: str, *arguments: str | Path, given: bytes | None = None, may_fail: bool = False
) -> str:
    command = [find_program(program) or program, *map(str, arguments)]
    done = await anyio.run_process(command, check=False, input=given)
    assert done.returncode == 0 or may_fail, done.stderr.decode()
    return done.stdout.decode()


async def login(site: Site, keys: Keys, verify_host: anyssh.HostKeyVerifier) -> anyssh.Key:
    mine = anyssh.ClientCredentials(site.user, keys=[our_key(keys.user["ed25519"])])
    stream = await anyio.connect_tcp(ADDRESS, site.port)
    async with anyssh.ClientSession.connect(
        stream, credentials=mine, verify_host=verify_host
    ) as session:
        assert await exchange(session, GREETING) == (GREETING, 0)
        return session.host_key


@pytest.mark.parametrize("options", [(), ("-H",)], ids=["plain", "hashed"])
async def test_what_ssh_keyscan_writes(
    site: Site, keys: Keys, options: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "known_hosts"
    text = await run("ssh-keyscan", *options, "-p", str(site.port), ADDRESS)
    await anyio.Path(path).write_text(text)
    known = await anyssh.KnownHosts.load(path)
    assert known.problems == ()
    found = set(known.keys_for(ADDRESS, site.port))
    assert {our_key(keys.host[name]) for name in ("ed25519", "rsa")} < found
    assert found < {our_key(file) for file in site.hosts}
    assert known.keys_for(ADDRESS) == known.keys_for("localhost", site.port) == ()
    await login(site, keys, known.for_host(ADDRESS, site.port))


async def test_ssh_keyscan_finds_our_keys(keys: Keys) -> None:
    """It prefers ChaCha20-Poly1305 and keeps no strict key exchange, which do not go together."""
    hosts = [keys.host[name] for name in ("ed25519", "ecdsa256", "rsa")]
    async with our_server(Gate(USER), hosts) as server:
        text = await run("ssh-keyscan", "-p", str(server.port), ADDRESS)
    known = anyssh.KnownHosts.parse(text)
    assert known.problems == ()
    assert set(known.keys_for(ADDRESS, server.port)) == {our_key(file) for file in hosts}


@pytest.mark.parametrize("name", ["ed25519", "ecdsa256", "ecdsa384", "ecdsa521", "rsa"])
async def test_the_one_key_that_is_known_is_asked_for(site: Site, keys: Keys, name: str) -> None:
    known = anyssh.KnownHosts.parse(f"[{ADDRESS}]:{site.port} {keys.host[name].line}")
    verify = known.for_host(ADDRESS, site.port)
    assert await login(site, keys, verify) == our_key(keys.host[name])


async def test_what_ssh_keygen_hashes(keys: Keys, tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    line = keys.host["ed25519"].line.strip()
    names = ["example.org", "[example.org]:2222", "10.0.0.1", "::1", "[fe80::1%eth0]:2222"]
    await anyio.Path(path).write_text("".join(f"{name} {line}\n" for name in names))
    await run("ssh-keygen", "-H", "-f", path)
    known = await anyssh.KnownHosts.load(path)
    assert known.problems == ()
    assert "example" not in await anyio.Path(path).read_text()
    key = our_key(keys.host["ed25519"])
    for host, port in (("Example.org", 22), ("example.org", 2222), ("10.0.0.1", 22), ("::1", 22)):
        assert known.keys_for(host, port) == (key,)
    assert known.keys_for("fe80::1%eth0", 2222) == (key,)
    assert known.keys_for("fe80::1%eth0") == known.keys_for("other") == ()


@pytest.mark.parametrize("hash_name", [False, True])
async def test_ssh_keygen_finds_what_we_add(keys: Keys, hash_name: bool, tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    known = await anyssh.KnownHosts.load(path)
    for host, port, name in (
        ("Example.org", 22, "ed25519"),
        ("example.org", 2222, "rsa"),
        ("::1", 2222, "ecdsa256"),
    ):
        await known.add(our_key(keys.host[name]), host, port, hash_name=hash_name)
    for name, kind in (
        ("example.org", "ed25519"),
        ("[example.org]:2222", "rsa"),
        ("[::1]:2222", "ecdsa256"),
    ):
        found = await run("ssh-keygen", "-F", name, "-f", path)
        assert found.splitlines()[1].split()[2] == keys.host[kind].line.split()[1]
    assert not await run("ssh-keygen", "-F", "other", "-f", path, may_fail=True)


@pytest.mark.parametrize("hash_names", [False, True])
async def test_ssh_trusts_the_host_that_we_accepted(
    site: Site, keys: Keys, hash_names: bool, tmp_path: Path
) -> None:
    path = tmp_path / "known_hosts"
    known = await anyssh.KnownHosts.load(path)
    verify = known.for_host(ADDRESS, site.port, accept_new=True, hash_names=hash_names)
    await login(site, keys, verify)
    assert await ssh_echo(site.port, site.user, keys, path) == GREETING.decode()
    await login(site, keys, (await anyssh.KnownHosts.load(path)).for_host(ADDRESS, site.port))


async def test_ssh_trusts_our_server_by_our_file(keys: Keys, tmp_path: Path) -> None:
    require_peer("openssh")
    path = tmp_path / "known_hosts"
    known = await anyssh.KnownHosts.load(path)
    hosts = [keys.host["rsa"], keys.host["ed25519"]]
    async with our_server(Gate(USER, authorized=[keys.user["ed25519"]]), hosts) as server:
        assert await ssh_echo(server.port, USER, keys, path, may_fail=True) == ""
        await known.add(our_key(keys.host["rsa"]), ADDRESS, server.port)
        assert await ssh_echo(server.port, USER, keys, path) == GREETING.decode()


async def test_a_port_with_a_key_of_its_own_has_no_other(
    site: Site, keys: Keys, tmp_path: Path
) -> None:
    """Who holds the key of port 22 cannot pose as another port that is known."""
    path = tmp_path / "known_hosts"
    bare = f"{ADDRESS} {keys.host['ed25519'].line}\n"
    own = f"[{ADDRESS}]:{site.port} {keys.user['ed25519'].line}\n"
    await anyio.Path(path).write_text(bare)
    assert await ssh_echo(site.port, site.user, keys, path) == GREETING.decode()
    await login(site, keys, (await anyssh.KnownHosts.load(path)).for_host(ADDRESS, site.port))
    await anyio.Path(path).write_text(own + bare)
    assert await ssh_echo(site.port, site.user, keys, path, may_fail=True) == ""
    with pytest.raises(anyssh.HostKeyError, match="a different host key"):
        await login(site, keys, (await anyssh.KnownHosts.load(path)).for_host(ADDRESS, site.port))


async def ssh_echo(
    port: int, user: str, keys: Keys, known_hosts: Path, *, may_fail: bool = False
) -> str:
    """Send a greeting through ssh, which insists on what the file says."""
    options = [
        f"UserKnownHostsFile={known_hosts}",
        "GlobalKnownHostsFile=none",
        "StrictHostKeyChecking=yes",
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        f"IdentityFile={keys.user['ed25519'].private}",
    ]
    flags = [word for option in options for word in ("-o", option)]
    where = ["-p", str(port), f"{user}@{ADDRESS}"]
    return await run(
        "ssh",
        "-F",
        "none",
        *flags,
        *where,
        ECHO,
        given=None if may_fail else GREETING,
        may_fail=may_fail,
    )


async def test_what_ssh_wrote_and_what_it_thinks_of_it(
    site: Site, keys: Keys, tmp_path: Path
) -> None:
    """A file that ssh made with accept-new, then a key in it that is not the host's."""
    path = tmp_path / "known_hosts"
    await run(
        "ssh", "-F", "none", "-o", f"UserKnownHostsFile={path}", "-o", "HashKnownHosts=yes",
        "-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes", "-p", str(site.port),
        "-i", keys.user["ed25519"].private, f"{site.user}@{ADDRESS}", "true",
    )  # fmt: skip
    known = await anyssh.KnownHosts.load(path)
    await login(site, keys, known.for_host(ADDRESS, site.port))
    wrong = path.with_name("wrong")
    text = await anyio.Path(path).read_text()
    names = text.split()[0]
    await anyio.Path(wrong).write_text(f"{names} {keys.stranger['ed25519'].line}")
    known = await anyssh.KnownHosts.load(wrong)
    with pytest.raises(anyssh.HostKeyError, match=f"someone impersonates it.*{wrong}:1"):
        await login(site, keys, known.for_host(ADDRESS, site.port, accept_new=True))
    await anyio.Path(wrong).write_text(f"{text}@revoked * {text.split(maxsplit=1)[1]}")
    known = await anyssh.KnownHosts.load(wrong)
    with pytest.raises(anyssh.HostKeyError, match="revoked by"):
        await login(site, keys, known.for_host(ADDRESS, site.port))
