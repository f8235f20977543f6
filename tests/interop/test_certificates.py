"""Certificates against OpenSSH: its authority, its server, its client."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

import anyssh

from .conftest import Keys
from .ours import Gate, exchange, our_key, our_server
from .peers import USER, KeyFile, Peer, RunningServer, find_program, require_peer
from .scripts.peer_common import GREETING

HOST = "server.example"
NAMES = ["ed25519", "ecdsa256", "ecdsa384", "ecdsa521", "rsa"]
ALGORITHMS = {
    "ed25519": ["ssh-ed25519"],
    "ecdsa256": ["ecdsa-sha2-nistp256"],
    "ecdsa384": ["ecdsa-sha2-nistp384"],
    "ecdsa521": ["ecdsa-sha2-nistp521"],
    "rsa": ["rsa-sha2-512", "rsa-sha2-256"],
}
NAMES_AND_ALGORITHMS = [(name, algorithm) for name in NAMES for algorithm in ALGORITHMS[name]]
SUFFIX = "-cert-v01@openssh.com"


@dataclass(frozen=True)
class Authority:
    """A key that certifies others, with ssh-keygen."""

    file: Path

    @property
    def public(self) -> anyssh.Key:
        return anyssh.import_key(self.line)

    @property
    def line(self) -> str:
        return self.file.with_suffix(".pub").read_text()

    def certify(self, key: KeyFile, folder: Path, *options: str) -> Path:
        """Return the file of a certificate."""
        public = folder / f"{key.private.name}.pub"
        shutil.copy(key.public, public)
        command = [find_program("ssh-keygen") or "ssh-keygen", "-q", "-s", str(self.file)]
        command += ["-I", key.private.name, *options, str(public)]
        subprocess.run(command, check=True, capture_output=True)
        return public.with_name(f"{key.private.name}-cert.pub")

    def certify_host(self, key: KeyFile, folder: Path, name: str = HOST) -> Path:
        return self.certify(key, folder, "-h", "-n", name, "-V", "-5m:+1h")


@pytest.fixture(scope="module")
def openssh() -> Peer:
    return require_peer("openssh")


@pytest.fixture(scope="module", params=["ed25519", "rsa"])
def authority(
    request: pytest.FixtureRequest, openssh: Peer, tmp_path_factory: pytest.TempPathFactory
) -> Authority:
    file = tmp_path_factory.mktemp("authority") / "authority"
    command = [find_program("ssh-keygen") or "ssh-keygen", "-q", "-t", request.param]
    subprocess.run([*command, "-N", "", "-f", str(file)], check=True)
    return Authority(file)


def certified(key: KeyFile, certificate: Path) -> anyssh.CertifiedKey:
    return anyssh.CertifiedKey(our_key(key), anyssh.import_certificate(certificate.read_text()))


# Our client


@pytest.fixture(scope="module")
def sshd(
    openssh: Peer, authority: Authority, keys: Keys, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Run a server that knows no user's key, only the authority."""
    folder = tmp_path_factory.mktemp("hosts")
    hosts = [keys.host[name] for name in NAMES]
    certificates = [authority.certify_host(key, folder) for key in hosts]
    options = [f"TrustedUserCAKeys={authority.file.with_suffix('.pub')}"]
    options += [f"HostCertificate={certificate}" for certificate in certificates]
    with openssh.serving(host_key=hosts, option=options) as server:
        yield server


@asynccontextmanager
async def our_client(
    server: RunningServer,
    verify_host: anyssh.HostKeyVerifier,
    credentials: anyssh.ClientCredentials,
    *algorithms: str,
) -> AsyncIterator[anyssh.ClientSession]:
    config = anyssh.SessionConfig()
    if algorithms:
        config = config.replace(host_key_algorithms=algorithms)
    stream = await anyio.connect_tcp("127.0.0.1", server.port)
    async with anyssh.ClientSession.connect(
        stream, verify_host=verify_host, credentials=credentials, config=config
    ) as session:
        yield session


def believing(authority: Authority, host: str = HOST) -> anyssh.HostAuthorities:
    return anyssh.HostAuthorities([authority.public], host)


@pytest.mark.parametrize("name, algorithm", NAMES_AND_ALGORITHMS)
async def test_our_client_and_sshd(
    sshd: RunningServer, openssh: Peer, authority: Authority, keys: Keys, tmp_path: Path,
    name: str, algorithm: str,
) -> None:  # fmt: skip
    """Both sides prove themselves with a certificate, over and over: keys are exchanged anew."""
    key = keys.stranger[name]
    file = authority.certify(key, tmp_path, "-n", f"nobody,{openssh.user}", "-V", "-5m:+1h")
    mine = anyssh.ClientCredentials(openssh.user, keys=[certified(key, file)])
    async with our_client(sshd, believing(authority), mine, algorithm) as session:
        assert session.algorithms.host_key == algorithm + SUFFIX
        assert session.host_key == our_key(keys.host[name])
        assert await exchange(session, GREETING) == (GREETING, 0)
        await session.rekey()
        assert await exchange(session, GREETING) == (GREETING, 0)


async def test_what_sshd_demands_of_users(
    sshd: RunningServer, openssh: Peer, authority: Authority, keys: Keys, tmp_path: Path
) -> None:
    key, right = keys.stranger["ed25519"], ["-n", openssh.user]
    for options in (
        ["-n", "nobody"],
        [*right, "-V", "-2h:-1h"],
        [*right, "-O", "source-address=10.0.0.0/8"],
    ):
        mine = certified(key, authority.certify(key, tmp_path, *options))
        credentials = anyssh.ClientCredentials(openssh.user, keys=[mine, our_key(key)])
        with pytest.raises(anyssh.AuthenticationError):
            async with our_client(sshd, believing(authority), credentials):
                pytest.fail("a certificate was accepted that is not good")
    options = [*right, "-O", "source-address=127.0.0.0/8", "-O", "force-command=echo forced"]
    mine = certified(key, authority.certify(key, tmp_path, *options))
    credentials = anyssh.ClientCredentials(openssh.user, keys=[mine])
    async with our_client(sshd, believing(authority), credentials) as session:
        assert (await exchange(session, b""))[0] == b"forced\n"


async def test_what_we_demand_of_hosts(
    sshd: RunningServer, openssh: Peer, authority: Authority, keys: Keys
) -> None:
    nobody = anyssh.ClientCredentials(openssh.user)
    stranger = anyssh.HostAuthorities([our_key(keys.user["rsa"])], HOST)
    for verify in (believing(authority, "other.example"), stranger):
        with pytest.raises(anyssh.HostKeyError) as refusal:
            async with our_client(sshd, verify, nobody):
                pytest.fail("a host was believed that is not the right one")
        assert isinstance(refusal.value.__cause__, anyssh.CertificateError)


async def test_authorities_of_known_hosts(
    sshd: RunningServer, openssh: Peer, authority: Authority, keys: Keys, tmp_path: Path
) -> None:
    key = keys.stranger["ed25519"]
    file = authority.certify(key, tmp_path, "-n", openssh.user)
    mine = anyssh.ClientCredentials(openssh.user, keys=[certified(key, file)])
    line = anyssh.export_public_key(authority.public)
    for names in (f"[{HOST}]:{sshd.port}", HOST, "*"):
        known = anyssh.KnownHosts.parse(f"@cert-authority {names} {line}")
        async with our_client(sshd, known.for_host(HOST, sshd.port), mine) as session:
            assert session.algorithms.host_key.endswith(SUFFIX)
            assert await exchange(session, GREETING) == (GREETING, 0)
    revoked = anyssh.KnownHosts.parse(f"@cert-authority * {line}@revoked * {line}")
    with pytest.raises(anyssh.HostKeyError, match="not known"):
        async with our_client(sshd, revoked.for_host(HOST, sshd.port), mine):
            pytest.fail("the authority was revoked")


async def test_sshd_without_certificates(openssh: Peer, authority: Authority, keys: Keys) -> None:
    host, key = keys.host["ed25519"], keys.user["ed25519"]
    mine = anyssh.ClientCredentials(openssh.user, keys=[our_key(key)])
    pinned = anyssh.pin(our_key(host).fingerprint)
    async with openssh.server(host_key=[host], authorized=keys.authorized) as server:
        with pytest.raises(anyssh.HostKeyError, match="no certificate"):
            async with our_client(server, believing(authority), mine):
                pytest.fail("a plain key was believed")
        verify = anyssh.HostAuthorities([authority.public], HOST, otherwise=pinned)
        async with our_client(server, verify, mine) as session:
            assert session.algorithms.host_key == "ssh-ed25519"


async def test_sshd_that_has_certificates_nobody_asks_for(
    sshd: RunningServer, openssh: Peer, authority: Authority, keys: Keys, tmp_path: Path
) -> None:
    key = keys.stranger["ed25519"]
    mine = certified(key, authority.certify(key, tmp_path, "-n", openssh.user))
    credentials = anyssh.ClientCredentials(openssh.user, keys=[mine])
    pinned = anyssh.pin(our_key(keys.host["ed25519"]).fingerprint)
    async with our_client(sshd, pinned, credentials) as session:
        assert session.algorithms.host_key == "ssh-ed25519"


# Our server


@dataclass
class Visitor:
    """An ssh that has a certificate and believes an authority of hosts."""

    key: KeyFile
    certificate: Path
    known_hosts: Path
    host: str = HOST

    def options(self) -> dict[str, object]:
        return {
            "key": [self.key],
            "host_public_key": [self.key],
            "option": [
                f"CertificateFile={self.certificate}",
                f"UserKnownHostsFile={self.known_hosts}",
                f"HostKeyAlias={self.host}",
            ],
        }


def visitor(authority: Authority, key: KeyFile, folder: Path, *options: str) -> Visitor:
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"@cert-authority *.example {authority.line}")
    certificate = authority.certify(key, folder, *(options or ("-n", USER, "-V", "-5m:+1h")))
    return Visitor(key, certificate, known_hosts)


def users(authority: Authority, *enforced_options: str) -> anyssh.UserAuthorities:
    return anyssh.UserAuthorities([authority.public], enforced_options=enforced_options)


def host_keys(authority: Authority, key: KeyFile, folder: Path) -> list[anyssh.CertifiedKey]:
    hosts = folder / "hosts"
    hosts.mkdir(exist_ok=True)
    return [certified(key, authority.certify_host(key, hosts))]


@pytest.mark.parametrize("name", NAMES)
async def test_ssh_and_our_server(
    openssh: Peer, authority: Authority, keys: Keys, tmp_path: Path, name: str
) -> None:
    client = visitor(authority, keys.user[name], tmp_path)
    hosts = host_keys(authority, keys.host[name], tmp_path)
    async with our_server(Gate(USER), hosts, user_authorities=users(authority)) as server:
        report = await openssh.play(server.port, "echo", **client.options())
        assert report.one("result")["received"] == GREETING.decode()
        visit = await server.visit()
        assert visit.session.principal == "certificate"
        assert visit.algorithms.host_key == ALGORITHMS[name][0] + SUFFIX
        (attempt,) = [
            attempt for attempt in server.attempts if isinstance(attempt, anyssh.CertificateAttempt)
        ]
    assert attempt.certificate.key == our_key(keys.user[name])
    assert attempt.certificate.key_id == name


async def test_ssh_with_keys_exchanged_anew(
    openssh: Peer, authority: Authority, keys: Keys, tmp_path: Path
) -> None:
    client = visitor(authority, keys.user["rsa"], tmp_path)
    hosts = host_keys(authority, keys.host["rsa"], tmp_path)
    async with our_server(Gate(USER), hosts, user_authorities=users(authority)) as server:
        report = await openssh.play(
            server.port, "bulk", rekey_bytes=openssh.rekey_bytes, **client.options()
        )
    assert report.one("result")["received"] == 1 << 20
    assert len(report.all("key_exchange")) >= 2


@pytest.mark.parametrize(
    "options",
    [
        ["-n", "nobody"],
        ["-n", USER, "-V", "-2h:-1h"],
        ["-n", USER, "-O", "source-address=10.0.0.0/8"],
        ["-n", USER, "-O", "force-command=ls"],
        ["-n", USER, "-O", "critical:x@example.com"],
        ["-n", USER, "-h"],
    ],
    ids=["nobody", "expired", "from elsewhere", "command", "unknown", "host"],
)
async def test_what_we_demand_of_users(
    openssh: Peer, authority: Authority, keys: Keys, tmp_path: Path, options: list[str]
) -> None:
    client = visitor(authority, keys.user["ed25519"], tmp_path, *options)
    hosts = host_keys(authority, keys.host["ed25519"], tmp_path)
    async with our_server(Gate(USER), hosts, user_authorities=users(authority)) as server:
        report = await openssh.play(server.port, "echo", **client.options())
        assert report.one("refused")
        assert not [a for a in server.attempts if isinstance(a, anyssh.CertificateAttempt)]


async def test_ssh_from_the_right_address_with_a_command(
    openssh: Peer, authority: Authority, keys: Keys, tmp_path: Path
) -> None:
    options = ["-n", USER, "-O", "source-address=127.0.0.0/8", "-O", "force-command=ls -l"]
    client = visitor(authority, keys.user["ed25519"], tmp_path, *options)
    hosts = host_keys(authority, keys.host["ed25519"], tmp_path)
    enforcing = users(authority, "force-command")
    async with our_server(Gate(USER), hosts, user_authorities=enforcing) as server:
        report = await openssh.play(server.port, "authenticate", **client.options())
        assert report.one("authenticated")
        (attempt,) = server.attempts
    assert isinstance(attempt, anyssh.CertificateAttempt)
    assert attempt.certificate.force_command == "ls -l"


async def test_without_authorities_ssh_is_let_in_by_its_key_alone(
    openssh: Peer, authority: Authority, keys: Keys, tmp_path: Path
) -> None:
    key = keys.user["rsa"]
    client = visitor(authority, key, tmp_path)
    hosts = host_keys(authority, keys.host["rsa"], tmp_path)
    async with our_server(Gate(USER, authorized=[key]), hosts) as server:
        report = await openssh.play(server.port, "echo", **client.options())
        assert report.one("result")["received"] == GREETING.decode()
        assert {type(attempt) for attempt in server.attempts} == {anyssh.PublicKeyAttempt}


async def test_ssh_refuses_a_host_by_another_name(
    openssh: Peer, authority: Authority, keys: Keys, tmp_path: Path
) -> None:
    client = visitor(authority, keys.user["ed25519"], tmp_path)
    client.host = "other.example"
    hosts = host_keys(authority, keys.host["ed25519"], tmp_path)
    async with our_server(Gate(USER), hosts, user_authorities=users(authority)) as server:
        report = await openssh.play(server.port, "echo", **client.options())
        assert not report.all("authenticated")
        assert server.attempts == []


async def test_ssh_that_knows_the_plain_key(
    openssh: Peer, authority: Authority, keys: Keys, tmp_path: Path
) -> None:
    """It asks for certificates whatever it knows, and then goes by the key inside."""
    client = visitor(authority, keys.user["ed25519"], tmp_path)
    client.known_hosts.write_text(f"{HOST} {keys.host['ed25519'].line}")
    hosts = host_keys(authority, keys.host["ed25519"], tmp_path)
    async with our_server(Gate(USER), hosts, user_authorities=users(authority)) as server:
        report = await openssh.play(server.port, "echo", **client.options())
        assert report.one("result")["received"] == GREETING.decode()
        assert (await server.visit()).algorithms.host_key == "ssh-ed25519" + SUFFIX
