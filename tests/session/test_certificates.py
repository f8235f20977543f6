"""Certificates in sessions: users that a server admits, and servers that a client accepts."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute

import anyssh
from anyssh.session import credentials as credentials_module
from tests.authority import HOST, certified, string
from tests.session.ends import accept_alice, connected, host_key, make_server, pinned, serving
from tests.session.test_authentication import Judge, RemoteKey, refuse_login

AUTHORITY = anyssh.generate_key("ssh-ed25519")
OTHER_AUTHORITY = anyssh.generate_key("ssh-ed25519")
KEY = anyssh.generate_key("ssh-ed25519")
OTHER_KEY = anyssh.generate_key("ssh-ed25519")
RSA_KEY = anyssh.generate_key("rsa-sha2-256")
HOUR = 3600


def by_certificate(attempt: Any) -> object:
    return attempt.username if isinstance(attempt, anyssh.CertificateAttempt) else None


def believing(
    judge: Judge | None = None, *, server: dict[str, Any] | None = None, **options: Any
) -> anyssh.Server:
    """Return a server that believes the authority."""
    return make_server(
        authenticate=judge or Judge(by_certificate),
        user_authorities=anyssh.UserAuthorities([AUTHORITY.public()], **options),
        **server or {},
    )


def with_certificate(
    key: anyssh.Key | anyssh.Signer = KEY, authority: anyssh.Key = AUTHORITY, **fields: Any
) -> anyssh.ClientCredentials:
    public = key if isinstance(key, anyssh.Key) else key.key
    pair = anyssh.CertifiedKey(key, certified(public, authority, **fields))
    return anyssh.ClientCredentials("alice", keys=[pair])


def forced(command: str = "ls") -> dict[str, Any]:
    return {"critical_options": [("force-command", string(command))]}


# Users


@pytest.mark.parametrize("key", [KEY, RSA_KEY], ids=["ssh-ed25519", "ssh-rsa"])
async def test_a_user_with_a_certificate(key: anyssh.Key) -> None:
    judge = Judge(by_certificate)
    mine = with_certificate(key, serial=7, extensions=[("permit-pty", b"")])
    async with connected(believing(judge), credentials=mine) as (_, session):
        (attempt,) = judge.attempts
        assert attempt.certificate == mine.keys[0].certificate  # type: ignore[union-attr]
        assert attempt.algorithm == attempt.certificate.signature_algorithms[0]
        assert (attempt.username, attempt.certificate.serial) == ("alice", 7)
        assert list(attempt.certificate.extensions) == ["permit-pty"]
        assert (session.principal, session.username) == ("alice", "alice")


def expired() -> dict[str, Any]:
    return {"valid_before": int(time.time()) - 1}


REFUSED: dict[str, Callable[[], dict[str, Any]]] = {
    "another authority": lambda: {"authority": OTHER_AUTHORITY},
    "by itself": lambda: {"authority": KEY},
    "another user": lambda: {"principals": ["bob", "Alice", "*"]},
    "nobody": lambda: {"principals": []},
    "expired": expired,
    "not yet": lambda: {"valid_after": int(time.time()) + HOUR},
    "about a host": lambda: {"type": HOST},
    "a command": forced,
    "from elsewhere": lambda: {"critical_options": [("source-address", string("10.0.0.0/8"))]},
    "from anywhere": lambda: {"critical_options": [("source-address", string("0.0.0.0/0"))]},
    "unknown": lambda: {"critical_options": [("x@example.com", b"")]},
    "verified": lambda: {"critical_options": [("verify-required", b"")]},
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("signer", [False, True], ids=["proof", "query"])
async def test_certificates_that_never_reach_the_application(
    case: str, signer: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The address of a stream in memory is unknown, so no restriction to addresses holds."""
    monkeypatch.setattr(credentials_module, "require_type", lambda *arguments: None)
    caplog.set_level(logging.INFO, "anyssh")
    remote = RemoteKey(KEY)
    judge = Judge(lambda attempt: "anybody")
    mine = with_certificate(remote if signer else KEY, **REFUSED[case]())
    await refuse_login(mine, believing(judge))
    assert judge.attempts == []
    assert remote.asked == []
    assert any("certificate 'a test'" in record.message for record in caplog.records)


@pytest.mark.parametrize("signer", [False, True], ids=["proof", "query"])
async def test_without_authorities_no_certificate_is_believed(signer: bool) -> None:
    """Not even for a key that is let in by itself."""
    remote = RemoteKey(KEY)
    asked: list[object] = []

    async def may_use_key(username: str, key: anyssh.Key) -> bool:
        asked.append(key)
        return True

    judge = Judge(lambda attempt: "anybody")
    server = make_server(authenticate=judge, may_use_key=may_use_key)
    await refuse_login(with_certificate(remote if signer else KEY), server)
    assert (judge.attempts, asked, remote.asked) == ([], [], [])


async def test_a_server_that_knows_plain_keys_refuses_certificates_for_them() -> None:
    """An application that was written before certificates goes on to see what it knows."""

    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        match attempt:
            case anyssh.PublicKeyAttempt(username=name, public_key=key) if key == KEY:
                return name
        return None

    server = make_server(
        authenticate=authenticate, user_authorities=anyssh.UserAuthorities([AUTHORITY])
    )
    await refuse_login(with_certificate(**forced()), server)
    await refuse_login(with_certificate(), server)
    mine = anyssh.ClientCredentials("alice", keys=[*with_certificate().keys, KEY])
    async with connected(server, credentials=mine) as (_, session):
        assert session.principal == "alice"


async def test_a_plain_key_is_no_certificate() -> None:
    judge = Judge(by_certificate)
    mine = anyssh.ClientCredentials("alice", keys=[KEY])
    await refuse_login(mine, believing(judge))
    assert [type(attempt) for attempt in judge.attempts] == [anyssh.PublicKeyAttempt]


async def test_the_application_has_the_last_word() -> None:
    judge = Judge(lambda attempt: None)
    await refuse_login(with_certificate(), believing(judge))
    assert len(judge.attempts) == 1


async def test_an_option_that_the_application_enforces() -> None:
    judge = Judge(lambda attempt: attempt.certificate.force_command)
    server = believing(judge, enforced_options=["force-command"])
    async with connected(server, credentials=with_certificate(**forced("ls -l"))) as ends:
        assert ends[1].principal == "ls -l"


async def test_other_names_for_a_user() -> None:
    asked: list[str] = []

    async def principals_for(username: str) -> Collection[str]:
        asked.append(username)
        return ["on-call", "admins"]

    server = believing(principals_for=principals_for)
    async with connected(server, credentials=with_certificate(principals=["admins"])):
        assert asked == ["alice"]
    await refuse_login(with_certificate(principals=["alice"]), server)


async def test_names_that_cannot_be_found_refuse(caplog: pytest.LogCaptureFixture) -> None:
    async def principals_for(username: str) -> Collection[str]:
        raise OSError("no file")

    judge = Judge(lambda attempt: "anybody")
    server = believing(judge, principals_for=principals_for)
    await refuse_login(with_certificate(), server)
    await refuse_login(with_certificate(RemoteKey(KEY)), server)
    assert judge.attempts == []
    assert "the attempt is refused" in caplog.text


async def test_names_that_take_too_long_refuse() -> None:
    async def principals_for(username: str) -> Collection[str]:
        await anyio.sleep_forever()
        return [username]

    config = anyssh.SessionConfig(limits=anyssh.Limits(handler_time=0.05))
    judge = Judge(lambda attempt: "anybody")
    server = believing(judge, principals_for=principals_for, server={"config": config})
    await refuse_login(with_certificate(), server)
    assert judge.attempts == []


async def test_what_is_revoked() -> None:
    for revoked in (KEY, AUTHORITY):
        server = believing(revoked=[revoked.fingerprint + "="])
        await refuse_login(with_certificate(), server)
    async with connected(
        believing(revoked=[OTHER_KEY.fingerprint]), credentials=with_certificate()
    ) as (client, _):
        assert client.is_authenticated


@pytest.mark.parametrize(
    "networks, good", [("127.0.0.0/8,10.0.0.0/8", True), ("10.0.0.0/8", False)]
)
async def test_the_address_of_the_stream(networks: str, good: bool) -> None:
    server = believing()
    left: list[BaseException | None] = []

    async def serve() -> None:
        async with await listener.accept() as stream:
            try:
                async with server.accept(stream) as session:
                    await session.wait_closed()
            except anyssh.SSHError as error:
                left.append(error)

    mine = with_certificate(critical_options=[("source-address", string(networks))])
    async with (
        _Listener() as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(serve)
        stream = await anyio.connect_tcp("127.0.0.1", listener.port)
        refusal = None
        try:
            async with anyssh.ClientSession.connect(
                stream, verify_host=pinned(), credentials=mine
            ) as client:
                assert client.is_authenticated
        except anyssh.AuthenticationError as error:
            refusal = error
    assert (refusal is None) is good
    assert (left == []) is good


class _Listener:
    """Takes one connection from loopback."""

    async def __aenter__(self) -> _Listener:
        self._listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
        self.port = self._listener.extra(SocketAttribute.local_port)
        return self

    async def accept(self) -> anyio.abc.ByteStream:
        return await self._listener.listeners[0].accept()

    async def __aexit__(self, *exception: object) -> None:
        await self._listener.aclose()


# Signing elsewhere


async def test_a_certified_signer() -> None:
    remote = RemoteKey(RSA_KEY)
    async with connected(believing(), credentials=with_certificate(remote)) as (client, _):
        assert client.is_authenticated
    assert remote.asked == ["rsa-sha2-512"]


@pytest.mark.parametrize("find", [lambda: KEY, lambda: RemoteKey(KEY)], ids=["pair", "signer"])
async def test_a_private_half_that_is_found_when_needed(find: Callable[[], Any]) -> None:
    wanted: list[anyssh.Key] = []

    async def key_provider(key: anyssh.Key) -> Any:
        wanted.append(key)
        return find()

    (pair,) = with_certificate(KEY.public()).keys
    mine = anyssh.ClientCredentials("alice", keys=[pair], key_provider=key_provider)
    judge = Judge(by_certificate)
    async with connected(believing(judge), credentials=mine):
        assert wanted == [KEY]
        assert len(judge.attempts) == 1


async def test_a_private_half_that_is_another() -> None:
    async def key_provider(key: anyssh.Key) -> Any:
        return OTHER_KEY

    (pair,) = with_certificate(KEY.public()).keys
    mine = anyssh.ClientCredentials("alice", keys=[pair], key_provider=key_provider)
    judge = Judge(by_certificate)
    async with serving(believing(judge)) as (stream, end):
        with pytest.raises(ValueError, match="the certificate is for"):
            async with anyssh.ClientSession.connect(stream, verify_host=pinned(), credentials=mine):
                pytest.fail("the server let us in")
        await end.left.wait()
    assert judge.attempts == []


@pytest.mark.parametrize("found", [None, "no provider"])
async def test_a_private_half_that_is_nowhere(found: str | None) -> None:
    async def key_provider(key: anyssh.Key) -> None:
        return None

    (pair,) = with_certificate(KEY.public()).keys
    provider = key_provider if found is None else None
    mine = anyssh.ClientCredentials("alice", keys=[pair], key_provider=provider)
    judge = Judge(by_certificate)
    await refuse_login(mine, believing(judge))
    assert judge.attempts == []


async def test_a_refused_certificate_is_followed_by_what_comes_next() -> None:
    mine = anyssh.ClientCredentials(
        "alice", keys=with_certificate(principals=["bob"]).keys, password="wonderland"
    )
    server = make_server(
        authenticate=accept_alice, user_authorities=anyssh.UserAuthorities([AUTHORITY])
    )
    async with connected(server, credentials=mine) as (_, session):
        assert session.principal == "alice"


async def test_algorithms_of_the_configuration_hold_for_certificates() -> None:
    judge = Judge(by_certificate)
    config = anyssh.SessionConfig(host_key_algorithms=["rsa-sha2-256", "ssh-ed25519"])
    async with connected(
        believing(judge), credentials=with_certificate(RSA_KEY), config=config
    ) as (client, _):
        assert client.is_authenticated
    assert judge.attempts[0].algorithm == "rsa-sha2-256-cert-v01@openssh.com"
    only = anyssh.SessionConfig(host_key_algorithms=["ssh-ed25519"])
    refusing = believing(judge, server={"config": only})
    await refuse_login(with_certificate(RSA_KEY), refusing)


# Hosts


def certified_host(**fields: Any) -> anyssh.CertifiedKey:
    fields = {"type": HOST, "principals": ["server.example"], **fields}
    return anyssh.CertifiedKey(host_key(), certified(host_key(), AUTHORITY, **fields))


def host_authorities(**options: Any) -> anyssh.HostAuthorities:
    return anyssh.HostAuthorities([AUTHORITY.public()], "server.example", **options)


async def refuse_host(
    server: anyssh.Server, verify_host: anyssh.HostKeyVerifier
) -> anyssh.HostKeyError:
    async with serving(server) as (stream, end):
        with pytest.raises(anyssh.HostKeyError) as caught:
            async with anyssh.ClientSession.connect(stream, verify_host=verify_host):
                pytest.fail("the server was believed")
        await end.left.wait()
    assert caught.value.fingerprint == host_key().fingerprint
    return caught.value


async def test_a_host_with_a_certificate() -> None:
    server = make_server(host_keys=[certified_host()])
    async with connected(server, verify_host=host_authorities()) as (client, session):
        assert client.algorithms.host_key == "ssh-ed25519-cert-v01@openssh.com"
        assert client.host_key == host_key()
        await client.rekey()
        await session.rekey()
        assert client.algorithms.host_key == "ssh-ed25519-cert-v01@openssh.com"


HOSTS_REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "another host": (lambda: {"principals": ["other.example"]}, "not issued for"),
    "no host": (lambda: {"principals": []}, "not issued for"),
    "expired": (expired, "expired"),
    "a command": (forced, "force-command"),
}


@pytest.mark.parametrize("case", HOSTS_REFUSED)
async def test_hosts_that_are_not_believed(case: str) -> None:
    fields, told = HOSTS_REFUSED[case]
    server = make_server(host_keys=[certified_host(**fields())])
    error = await refuse_host(server, host_authorities())
    assert told in str(error)
    assert isinstance(error.__cause__, anyssh.CertificateError)
    async with connected(server, verify_host=host_authorities(otherwise=pinned())) as (client, _):
        assert client.is_authenticated


async def test_another_authority_of_hosts() -> None:
    other = anyssh.HostAuthorities([OTHER_AUTHORITY], "server.example")
    server = make_server(host_keys=[certified_host()])
    assert "not trusted" in str(await refuse_host(server, other))


async def test_a_user_certificate_is_no_host_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyssh.session.server.require_type", lambda *arguments: None)
    server = make_server(host_keys=[certified_host(type=1)])
    assert "not for a host" in str(await refuse_host(server, host_authorities()))


async def test_a_host_without_a_certificate() -> None:
    server = make_server()
    error = await refuse_host(server, host_authorities())
    assert "no certificate for 'server.example'" in str(error)
    presented: list[anyssh.PresentedHostKey] = []

    async def otherwise(host: anyssh.PresentedHostKey) -> bool:
        presented.append(host)
        return host.key == host_key()

    verify = host_authorities(otherwise=otherwise)
    async with connected(server, verify_host=verify) as (client, _):
        assert client.algorithms.host_key == "ssh-ed25519"
    async with connected(
        make_server(host_keys=[certified_host(**expired())]), verify_host=verify
    ) as (client, _):
        assert client.algorithms.host_key == "ssh-ed25519-cert-v01@openssh.com"
    assert [host.certificate for host in presented] == [None, None]


async def test_clients_that_judge_plain_keys_get_plain_keys() -> None:
    server = make_server(host_keys=[certified_host()])
    for verify in (pinned(), anyssh.InsecureAcceptAnyHostKey()):
        async with connected(server, verify_host=verify) as (client, _):
            assert client.algorithms.host_key == "ssh-ed25519"


class Verifier:
    """A host certificate verifier of an application's own."""

    def __init__(self, takes_certificates: bool) -> None:
        self.takes_certificates = takes_certificates
        self.presented: list[anyssh.PresentedHostKey] = []

    async def __call__(self, presented: anyssh.PresentedHostKey) -> bool:
        self.presented.append(presented)
        return True


@pytest.mark.parametrize("takes_certificates", [False, True])
async def test_a_verifier_of_ones_own(takes_certificates: bool) -> None:
    verify = Verifier(takes_certificates)
    pair = certified_host()
    async with connected(make_server(host_keys=[pair]), verify_host=verify):
        (presented,) = verify.presented
    assert isinstance(verify, anyssh.HostCertificateVerifier)
    assert presented.key == host_key()
    assert presented.certificate == (pair.certificate if takes_certificates else None)


async def test_a_revoked_host_is_refused_whoever_else_believes_it() -> None:
    verify = host_authorities(
        revoked=[host_key().fingerprint], otherwise=anyssh.InsecureAcceptAnyHostKey()
    )
    for server in (make_server(), make_server(host_keys=[certified_host()])):
        assert "it is revoked" in str(await refuse_host(server, verify))
    no_authority = host_authorities(revoked=[AUTHORITY.fingerprint])
    server = make_server(host_keys=[certified_host()])
    assert "is revoked" in str(await refuse_host(server, no_authority))


async def test_a_host_key_that_signs_elsewhere() -> None:
    remote = RemoteKey(host_key())
    pair = anyssh.CertifiedKey(remote, certified_host().certificate)
    async with connected(make_server(host_keys=[pair]), verify_host=host_authorities()):
        assert remote.asked == ["ssh-ed25519"]


async def test_several_host_keys() -> None:
    """The certificate wins, in whatever place it stands; each client gets what it asks for."""
    server = make_server(host_keys=[RSA_KEY, certified_host()])
    async with connected(server, verify_host=host_authorities()) as (client, _):
        assert client.host_key == host_key()
    config = anyssh.SessionConfig(host_key_algorithms=["rsa-sha2-512"])
    verify = anyssh.pin(RSA_KEY.fingerprint)
    async with connected(server, verify_host=verify, config=config) as (client, _):
        assert client.host_key == RSA_KEY


# Files


async def test_a_certificate_file_is_read_in_a_thread(tmp_path: Path) -> None:
    certificate = certified(KEY, AUTHORITY)
    blob = base64.b64encode(certificate.public_blob).decode()
    file = anyio.Path(tmp_path / "id-cert.pub")
    await file.write_text(f"{certificate.algorithm} {blob} a comment\n")
    assert await anyssh.to_thread.import_certificate_file(file) == certificate


# Misuse


def test_what_cannot_be_built() -> None:
    user, host = certified(KEY, AUTHORITY), certified_host()
    with pytest.raises(ValueError, match="the certificate is for"):
        anyssh.CertifiedKey(OTHER_KEY, user)
    with pytest.raises(ValueError, match="cannot be used for a user"):
        anyssh.ClientCredentials("alice", keys=[host])
    with pytest.raises(ValueError, match="cannot be used for a host"):
        make_server(host_keys=[anyssh.CertifiedKey(KEY, user)])
    with pytest.raises(ValueError, match="no private half"):
        make_server(host_keys=[anyssh.CertifiedKey(host_key().public(), host.certificate)])
    for authorities in (
        lambda **options: anyssh.UserAuthorities(**options),
        lambda **options: anyssh.HostAuthorities(host="server.example", **options),
    ):
        with pytest.raises(ValueError, match="at least one authority"):
            authorities(keys=[])
        with pytest.raises(ValueError, match="SHA256"):
            authorities(keys=[AUTHORITY], revoked=["MD5:00"])
    with pytest.raises(ValueError, match="host is needed"):
        anyssh.HostAuthorities([AUTHORITY], "")
    bare: Any = user
    with pytest.raises(TypeError):
        anyssh.ClientCredentials("alice", keys=[bare])
