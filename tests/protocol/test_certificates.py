"""Certificates between two cores: when they are used, and what they are never mistaken for.

Whether a certificate is valid for a user or host is judged above the cores; here it is enough that
its encoding is canonical and its key has signed. See ``tests/unit/test_certificates.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from anyssh.config import InsecureSessionConfig, SessionConfig
from anyssh.constants import DisconnectReason
from anyssh.errors import HostKeyError
from anyssh.keys import Certificate, Identity, Key, key_of
from anyssh.messages import KexInit
from anyssh.protocol import Phase, Role
from anyssh.protocol.authentication import CertificateAttempt, PublicKeyAttempt
from anyssh.protocol.events import (
    Authenticated,
    ConnectionTerminated,
    HostKeyPresented,
    KeyExchangeCompleted,
    KeyQueried,
    SessionResumed,
    SignatureRequested,
)
from tests.authority import HOST, SUFFIX, Draft, certified

from .core_pair import (
    CLIENT,
    FAST,
    SERVER,
    Answers,
    CorePair,
    assert_terminated,
    fast_config,
    host_key,
)
from .test_server_authentication import (
    ALGORITHMS,
    KEYS,
    OTHER_KEY,
    RSA_KEY,
    USER,
    USER_KEY,
    Stranger,
    let_in,
    proof,
    query,
    request,
    sign,
    signed_data,
    string,
)

AUTHORITY = host_key("ssh-ed25519", 20)
CERTIFICATES = {name: certified(key, AUTHORITY) for name, key in KEYS.items()}
CERTIFICATE = CERTIFICATES["ssh-ed25519"]
BOTH = tuple(name + suffix for name in ALGORITHMS for suffix in ("", SUFFIX))


# Users


def visitor(**options: Any) -> Stranger:
    """Return a client whose server takes certificates, and lets everybody in."""
    return Stranger(**{"judge": let_in, "takes_certificates": True} | options)


def signed_proof(
    client: Stranger, key: Key, shown: bytes, algorithm: str, signed: bytes | None = None
) -> bytes:
    """Return a request that shows one thing and signs it, or something else."""
    plain = algorithm.removesuffix(SUFFIX)
    data = signed_data(client.session_id, shown if signed is None else signed, algorithm)
    return proof(shown, algorithm, sign(key, data, plain))


def test_every_key_and_algorithm() -> None:
    for key, certificate in zip(KEYS.values(), CERTIFICATES.values(), strict=True):
        for plain in key.signature_algorithms:
            algorithm = plain + SUFFIX
            client = visitor()
            client.ask(signed_proof(client, key, certificate.public_blob, algorithm))
            assert client.attempts == [CertificateAttempt(USER, certificate, algorithm)]
            assert not isinstance(client.attempts[0], PublicKeyAttempt)
            assert client.attempts[0].method == "publickey"
            client.assert_accepted(USER)


def test_plain_keys_stay_plain() -> None:
    client = visitor()
    client.ask(client.proof(USER_KEY))
    assert client.attempts == [PublicKeyAttempt(USER, USER_KEY, "ssh-ed25519")]


def test_without_authorities_no_certificate_is_even_read() -> None:
    """Neither under its own name nor under that of a key that would be let in."""
    for name, key in KEYS.items():
        certificate = CERTIFICATES[name]
        for algorithm in (name, certificate.algorithm, *certificate.signature_algorithms):
            for blob in (certificate.public_blob, key.public_blob):
                if algorithm in key.signature_algorithms and blob == key.public_blob:
                    continue
                client = visitor(takes_certificates=False, allow=lambda user, identity: True)
                client.assert_refused(query(blob, algorithm))
                client.assert_refused(signed_proof(client, key, blob, algorithm))
                assert client.told(KeyQueried) == []


def test_key_certificate_and_algorithm_have_to_go_together() -> None:
    client = visitor(judge=None, allow=None)
    for (name, key), algorithm in itertools.product(KEYS.items(), BOTH):
        for identity in (key, CERTIFICATES[name]):
            if algorithm in identity.signature_algorithms:
                continue
            fresh = visitor()
            fresh.assert_refused(query(identity.public_blob, algorithm))
            fresh.assert_refused(
                proof(identity.public_blob, algorithm, key.sign(b"", key.signature_algorithms[0]))
            )
    assert client.attempts == []


def test_a_signature_for_the_key_is_none_for_its_certificate() -> None:
    """What is signed names what is shown, so neither can be put in the other's place."""
    plain, named = USER_KEY.public_blob, CERTIFICATE.public_blob
    other = certified(USER_KEY, AUTHORITY, principals=["root"]).public_blob
    for shown, algorithm, signed, signed_algorithm in (
        (named, "ssh-ed25519" + SUFFIX, plain, "ssh-ed25519"),
        (named, "ssh-ed25519" + SUFFIX, plain, "ssh-ed25519" + SUFFIX),
        (named, "ssh-ed25519" + SUFFIX, named, "ssh-ed25519"),
        (named, "ssh-ed25519" + SUFFIX, other, "ssh-ed25519" + SUFFIX),
        (plain, "ssh-ed25519", named, "ssh-ed25519" + SUFFIX),
        (plain, "ssh-ed25519", named, "ssh-ed25519"),
    ):
        client = visitor()
        data = signed_data(client.session_id, signed, signed_algorithm)
        client.assert_refused(proof(shown, algorithm, sign(USER_KEY, data)))


WRONG_SIGNATURES: dict[str, Callable[[bytes], bytes]] = {
    "by another key": lambda data: sign(OTHER_KEY, data),
    "by the authority": lambda data: sign(AUTHORITY, data),
    "named as the certificate": lambda data: sign(USER_KEY, data, label="ssh-ed25519" + SUFFIX),
    "of something else": lambda data: sign(USER_KEY, data[::-1]),
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("case", WRONG_SIGNATURES)
def test_signatures_that_prove_nothing(case: str) -> None:
    client = visitor()
    data = signed_data(client.session_id, CERTIFICATE.public_blob, CERTIFICATE.algorithm)
    signature = WRONG_SIGNATURES[case](data)
    client.assert_refused(proof(CERTIFICATE.public_blob, CERTIFICATE.algorithm, signature))


def test_certificates_that_are_none_are_refused_like_wrong_keys() -> None:
    good = CERTIFICATE.public_blob
    draft = Draft(USER_KEY)
    for blob in (
        b"",
        good[:-1],
        good + b"\0",
        draft.body(AUTHORITY) + string(OTHER_KEY.sign(draft.body(AUTHORITY))),
        Draft(USER_KEY, type=9).signed(AUTHORITY),
        Draft(USER_KEY, nonce=bytes(32_768)).signed(AUTHORITY),
    ):
        client = visitor()
        client.assert_refused(query(blob, CERTIFICATE.algorithm))
        client.assert_refused(signed_proof(client, USER_KEY, blob, CERTIFICATE.algorithm))


def test_a_query_asks_about_the_certificate() -> None:
    asked: list[Identity] = []

    def allow(username: str, identity: Identity) -> bool:
        asked.append(identity)
        return isinstance(identity, Certificate)

    rsa = CERTIFICATES["ssh-rsa"]
    algorithm = "rsa-sha2-256" + SUFFIX
    client = visitor(allow=allow)
    expected = b"\x3c" + string(algorithm) + string(rsa.public_blob)
    assert client.ask(query(rsa.public_blob, algorithm)) == [expected]
    assert client.ask(query(RSA_KEY.public_blob, "rsa-sha2-256"))[0][0] == 51
    assert asked == [rsa, RSA_KEY]
    assert client.attempts == []


def test_host_based_takes_no_certificates() -> None:
    client = visitor()
    for algorithm in ("ssh-ed25519", "ssh-ed25519" + SUFFIX):
        fields = string(algorithm) + string(CERTIFICATE.public_blob) + string("h") + string("u")
        data = string(client.session_id) + request("hostbased", fields)
        client.assert_refused(request("hostbased", fields + string(sign(USER_KEY, data))))


def test_only_algorithms_of_the_configuration() -> None:
    client = visitor(host_key_algorithms=["ssh-ed25519"])
    for name, certificate in CERTIFICATES.items():
        for algorithm in certificate.signature_algorithms:
            if name != "ssh-ed25519":
                request = signed_proof(client, KEYS[name], certificate.public_blob, algorithm)
                visitor(host_key_algorithms=["ssh-ed25519"]).assert_refused(request)
    client.ask(signed_proof(client, USER_KEY, CERTIFICATE.public_blob, CERTIFICATE.algorithm))
    client.assert_accepted(USER)


# Hosts

HOST_KEYS = {name: host_key(name.replace("ssh-rsa", "rsa-sha2-512"), 30) for name in CERTIFICATES}
HOST_CERTIFICATES = {
    name: certified(key, AUTHORITY, type=HOST, principals=["host"])
    for name, key in HOST_KEYS.items()
}
HOST_KEY = HOST_KEYS["ssh-ed25519"]
HOST_CERTIFICATE = HOST_CERTIFICATES["ssh-ed25519"]


def pair_with(
    *shown: Identity, takes_certificates: bool = True, held: Sequence[Key] = (), **options: Any
) -> CorePair:
    """Return a pair whose server shows certificates and keys, in this order."""
    options.setdefault("client_config", fast_config(host_key_algorithms=ALGORITHMS))
    keys = (*HOST_KEYS.values(), *held)

    def answer(event: SignatureRequested, now: float) -> None:
        assert isinstance(event.key, Key)
        (key,) = [key for key in keys if key == event.key]
        event.supply(key.sign(event.data, event.algorithm), now)

    options.setdefault("answers", Answers(signature=answer))
    return CorePair(host_keys=shown, takes_certificates=takes_certificates, **options)


def offered(pair: CorePair, role: Role) -> tuple[str, ...]:
    return KexInit.decode(pair.sent(role)[0]).server_host_key_algorithms


@pytest.mark.parametrize("name", HOST_KEYS)
def test_every_host_key_and_algorithm(name: str) -> None:
    key, certificate = HOST_KEYS[name], HOST_CERTIFICATES[name]
    for plain in key.signature_algorithms:
        config = fast_config(host_key_algorithms=[plain])
        pair = pair_with(certificate, key.public(), client_config=config)
        pair.pump()
        (event,) = pair.of_type(CLIENT, HostKeyPresented)
        assert (event.key, event.certificate) == (key, certificate)
        (completed,) = pair.of_type(CLIENT, KeyExchangeCompleted)
        assert completed.algorithms.host_key == plain + SUFFIX
        assert offered(pair, CLIENT) == offered(pair, SERVER) == (plain + SUFFIX, plain)
        pair.authenticate()
        pair.assert_usable()


def test_certificates_are_offered_only_where_they_are_held_or_judged() -> None:
    plain = tuple(ALGORITHMS)
    asks = pair_with(HOST_KEY.public())
    assert offered(asks, CLIENT) == (*(name + SUFFIX for name in plain), *plain)
    assert offered(asks, SERVER) == ("ssh-ed25519",)
    asks.pump()
    assert asks.of_type(CLIENT, HostKeyPresented)[0].certificate is None
    shows = pair_with(HOST_CERTIFICATE, HOST_KEY.public(), takes_certificates=False)
    assert offered(shows, CLIENT) == plain
    assert offered(shows, SERVER) == ("ssh-ed25519" + SUFFIX, "ssh-ed25519")
    shows.pump()
    (event,) = shows.of_type(CLIENT, HostKeyPresented)
    assert (event.key, event.certificate) == (HOST_KEY, None)


def test_an_insecure_session_knows_none() -> None:
    pair = pair_with(HOST_CERTIFICATE, client_config=InsecureSessionConfig())
    assert offered(pair, CLIENT) == offered(pair, SERVER) == ("none",)


def test_a_certificate_alone_is_enough() -> None:
    pair = pair_with(HOST_CERTIFICATE)
    pair.pump()
    assert offered(pair, SERVER) == ("ssh-ed25519" + SUFFIX,)
    assert pair.of_type(CLIENT, HostKeyPresented)[0].certificate == HOST_CERTIFICATE


def lying(shown: bytes, signed_by: Key = HOST_KEY, algorithm: str = "ssh-ed25519") -> CorePair:
    """Return a pair that agrees on a certificate; the server shows and signs something else."""
    config = fast_config(host_key_algorithms=["ssh-ed25519"])

    class Shown:
        public_blob = shown

    answers = Answers(
        signature=lambda event, now: event.supply(signed_by.sign(event.data, algorithm), now)
    )
    pair = pair_with(HOST_CERTIFICATE, client_config=config, answers=answers)
    stranger: Any = Shown()
    pair.server.exchanger._host_key_for = lambda name: stranger  # type: ignore[method-assign]
    return pair


@pytest.mark.parametrize(
    "shown, signed_by",
    [
        (HOST_KEY.public_blob, HOST_KEY),
        (HOST_CERTIFICATE.public_blob, OTHER_KEY),
        (HOST_CERTIFICATE.public_blob, AUTHORITY),
        (HOST_CERTIFICATE.public_blob[:-1], HOST_KEY),
        (HOST_CERTIFICATES["ecdsa-sha2-nistp256"].public_blob, HOST_KEY),
        (Draft(HOST_KEY).body(AUTHORITY) + string(b""), HOST_KEY),
        (b"", HOST_KEY),
    ],
    ids=["plain", "other key", "authority", "cut", "other type", "not signed", "empty"],
)
def test_what_proves_no_certificate(shown: bytes, signed_by: Key) -> None:
    pair = lying(shown, signed_by)
    pair.pump()
    error = assert_terminated(pair, CLIENT, DisconnectReason.HOST_KEY_NOT_VERIFIABLE)
    assert isinstance(error, HostKeyError)
    assert not pair.of_type(CLIENT, HostKeyPresented)


def test_a_certificate_that_was_not_asked_for() -> None:
    """Whoever judges plain keys only is never shown a certificate as one."""
    pair = pair_with(HOST_KEY.public(), takes_certificates=False)
    shown: Any = HOST_CERTIFICATE
    pair.server.exchanger._host_key_for = lambda name: shown  # type: ignore[method-assign]
    pair.pump()
    assert isinstance(pair.termination(CLIENT), HostKeyError)
    assert not pair.of_type(CLIENT, HostKeyPresented)


def rekeyed(first: Identity, second: Identity, held: Sequence[Key] = ()) -> CorePair:
    """Return a pair that has exchanged keys twice, for the second time with something else."""
    pair = pair_with(first, held=held)
    pair.pump()
    pair.authenticate()
    pair.server.exchanger._host_keys = (second,)
    pair.server.start_rekey(pair.now)
    pair.pump()
    return pair


def test_later_exchanges_prove_the_same_key() -> None:
    renewed = certified(HOST_KEY, AUTHORITY, type=HOST, principals=["host"], serial=2)
    for second in (HOST_CERTIFICATE, renewed, HOST_KEY.public()):
        pair = rekeyed(HOST_CERTIFICATE, second)
        assert len(pair.of_type(CLIENT, KeyExchangeCompleted)) == 2
        assert len(pair.of_type(CLIENT, HostKeyPresented)) == 1
        assert pair.client.exchanger.host_key == HOST_KEY
        pair.assert_usable()


def test_later_exchanges_with_a_certificate_for_another_key() -> None:
    another = host_key("ssh-ed25519", 31)
    for first in (HOST_CERTIFICATE, HOST_KEY.public()):
        pair = rekeyed(first, certified(another, AUTHORITY, type=HOST), held=[another])
        error = pair.termination(CLIENT)
        assert isinstance(error, HostKeyError)
        assert "changed its host key" in str(error)
        assert pair.client.phase is Phase.TERMINATED
        assert key_of(HOST_CERTIFICATE).fingerprint in str(error)


def test_a_session_goes_on_with_the_key_of_its_certificate() -> None:
    """Over another stream too: a renewed certificate is as good, another key is not."""
    config = SessionConfig.with_reconnect(**FAST)
    another = host_key("ssh-ed25519", 31)
    for second, good in (
        (certified(HOST_KEY, AUTHORITY, type=HOST, serial=2), True),
        (HOST_KEY.public(), True),
        (certified(another, AUTHORITY, type=HOST), False),
    ):
        pair = pair_with(HOST_CERTIFICATE, client_config=config, held=[another])
        pair.pump()
        pair.authenticate()
        pair.end_stream()
        client_config, server_config, _, common = pair._make_arguments
        pair._make_arguments = (client_config, server_config, [second], common)
        pair.reconnect()
        assert bool(pair.of_type(CLIENT, SessionResumed)) is good
        assert len(pair.of_type(CLIENT, HostKeyPresented)) == 1
        if not good:
            error = pair.of_type(CLIENT, ConnectionTerminated)[-1].error
            assert isinstance(error, HostKeyError)


def test_user_authentication_after_a_host_certificate() -> None:
    pair = pair_with(HOST_CERTIFICATE)
    pair.pump()
    authentication = pair.client.client_authentication
    data = authentication.public_key_data(USER, CERTIFICATE, CERTIFICATE.algorithm)
    authentication.request_public_key(USER, CERTIFICATE, CERTIFICATE.algorithm, USER_KEY.sign(data))
    pair.pump()
    assert pair.of_type(SERVER, Authenticated)
