"""A server core that authenticates: what proves something, what does not, and what it costs.

The client is a :class:`Stranger`: it exchanges keys like any other, and then sends what a test
wants. Its messages are assembled from bytes here, without the package.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

from anyssh.config import Limits, SessionConfig
from anyssh.constants import DisconnectReason
from anyssh.errors import LocalProtocolError, RemoteProtocolError
from anyssh.keys import Identity, Key
from anyssh.messages import Disconnect, HostBasedFields
from anyssh.protocol import Phase
from anyssh.protocol.authentication import (
    AuthAttempt,
    Challenge,
    HostBasedAttempt,
    KeyboardInteractiveAttempt,
    NoneAttempt,
    PasswordAttempt,
    Prompt,
    PublicKeyAttempt,
    host_based_signed_data,
    public_key_signed_data,
)
from anyssh.protocol.events import (
    AttemptMade,
    Authenticated,
    ChannelOpenReceived,
    ConnectionTerminated,
    Event,
    GlobalRequestReceived,
    KeyQueried,
)

from .core_pair import SERVER, Answers, host_key
from .scripted_peer import ScriptedPeer

DEV_TUNNELS = "SSH-2.0-Microsoft.DevTunnels.Ssh_3.12"
FAILURE, SUCCESS, QUESTION = 51, 52, 60
USER = "alice"
USER_KEY = host_key("ssh-ed25519", 10)
OTHER_KEY = host_key("ssh-ed25519", 11)
KEYS = {
    "ssh-ed25519": USER_KEY,
    "ecdsa-sha2-nistp256": host_key("ecdsa-sha2-nistp256", 10),
    "ecdsa-sha2-nistp384": host_key("ecdsa-sha2-nistp384", 10),
    "ecdsa-sha2-nistp521": host_key("ecdsa-sha2-nistp521", 10),
    "ssh-rsa": host_key("rsa-sha2-512", 10),
}
RSA_KEY = KEYS["ssh-rsa"]
ALGORITHMS = (*(name for name in KEYS if name != "ssh-rsa"), "rsa-sha2-256", "rsa-sha2-512")
METHODS = ("publickey", "password", "keyboard-interactive", "hostbased", "none")
NO_LIMIT = Limits(
    authentication_failures=10**6,
    authentication_requests=10**6,
    unauthenticated_packets=10**6,
    unauthenticated_bytes=10**9,
    authentication_time=10.0**6,
)


# Messages, byte by byte


def string(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(data)) + data


def mpint(value: int) -> bytes:
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def request(
    method: str, fields: bytes = b"", user: str = USER, service: str = "ssh-connection"
) -> bytes:
    return b"\x32" + string(user) + string(service) + string(method) + fields


def none(user: str = USER) -> bytes:
    return request("none", user=user)


def password(text: str, user: str = USER) -> bytes:
    return request("password", b"\0" + string(text), user)


def interactive(fields: bytes = string("") + string("")) -> bytes:
    return request("keyboard-interactive", fields)


def responses(*texts: str) -> bytes:
    return b"\x3d" + struct.pack(">I", len(texts)) + b"".join(map(string, texts))


def query(blob: bytes, algorithm: str, user: str = USER) -> bytes:
    return request("publickey", b"\0" + string(algorithm) + string(blob), user)


def proof(blob: bytes, algorithm: str, signature: bytes, user: str = USER) -> bytes:
    fields = b"\x01" + string(algorithm) + string(blob) + string(signature)
    return request("publickey", fields, user)


def signed_data(
    session_id: bytes,
    blob: bytes,
    algorithm: str,
    *,
    user: str = USER,
    service: str = "ssh-connection",
    method: str = "publickey",
    has_signature: bytes = b"\x01",
) -> bytes:
    head = string(session_id) + b"\x32" + string(user) + string(service) + string(method)
    return head + has_signature + string(algorithm) + string(blob)


def sign(key: Key, data: bytes, algorithm: str = "", label: str | None = None) -> bytes:
    """Sign with the mathematics of the cryptography package alone.

    :param algorithm: for RSA keys: whose hash is used, ``"ssh-rsa"`` for SHA-1
    :param label: what the signature says that it is
    """
    private = key.to_cryptography()
    if key.algorithm == "ssh-rsa":
        sizes: dict[str, hashes.HashAlgorithm] = {
            "ssh-rsa": hashes.SHA1(),
            "rsa-sha2-256": hashes.SHA256(),
        }
        digest = sizes.get(algorithm, hashes.SHA512())
        inner = private.sign(data, padding.PKCS1v15(), digest)
    elif key.algorithm == "ssh-ed25519":
        inner = private.sign(data)
    else:
        curve_hash = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
        der = private.sign(data, ec.ECDSA(curve_hash[key.bits]))
        r, s = utils.decode_dss_signature(der)
        inner = mpint(r) + mpint(s)
    return string(algorithm or key.algorithm if label is None else label) + string(inner)


def failure(methods: Iterable[str]) -> bytes:
    return b"\x33" + string(",".join(methods)) + b"\0"


# The client


class Stranger(ScriptedPeer):
    """A client that says what a test wants, and the application of the server it says it to.

    :param judge: answers attempts: a principal, a challenge, or None to refuse; without it they
        are left to the test
    :param allow: answers queries; without it they are left to the test
    """

    def __init__(
        self,
        *,
        judge: Callable[[AuthAttempt], object] | None = None,
        allow: Callable[[str, Identity], bool] | None = None,
        identification: str = "SSH-2.0-stranger_1.0",
        delay_secret: bytes = b"d" * 32,
        asks_for_service: bool = True,
        takes_certificates: bool = False,
        **config: Any,
    ) -> None:
        config.setdefault("authentication_methods", METHODS)
        config.setdefault("host_key_algorithms", ALGORITHMS)

        def answer_attempt(event: AttemptMade, now: float) -> None:
            verdict = judge(event.attempt) if judge is not None else None
            if isinstance(verdict, Challenge):
                event.challenge(verdict, now)
            elif verdict is None:
                event.reject(now)
            else:
                event.accept(verdict, now)

        def answer_query(event: KeyQueried, now: float) -> None:
            assert allow is not None
            event.answer(allow(event.username, event.identity), now)

        answers = Answers(
            attempt=None if judge is None else answer_attempt,
            query=None if allow is None else answer_query,
            accept_channels=None,
            grant_requests=None,
        )
        super().__init__(SERVER, identification=identification, answers=answers, **config)
        self.core._delay_secret = delay_secret
        self.core._takes_certificates = takes_certificates
        self.greet()
        for name in ("KEXINIT", "KEXDH_INIT", "NEWKEYS"):
            self.send(name)
        if asks_for_service:
            assert self.say(b"\x05" + string("ssh-userauth")) == [b"\x06" + string("ssh-userauth")]

    def say(self, *payloads: bytes) -> list[bytes]:
        """Send payloads in one write; return what the server says at once."""
        first = len(self.heard)
        for payload in payloads:
            self.transport.send(payload)
        self.deliver()
        while self.core.has_backlog:
            self.deliver()
        return self.heard[first:]

    def wait(self, seconds: float = 0.1) -> list[bytes]:
        """Let time pass; return what the server says meanwhile."""
        first = len(self.heard)
        end = self.now + seconds
        while (deadline := self.core.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            for event in self.core.handle_timeout(self.now):
                self.events.append(event)
                self.answers.answer(event, self.connection, self.now)
            self.deliver()
        self.now = end
        return self.heard[first:]

    def ask(self, *payloads: bytes) -> list[bytes]:
        """Send payloads; return what the server says, however late."""
        return self.say(*payloads) + self.wait(0.1 * len(payloads))

    def told(self, *kinds: type[Event]) -> list[Any]:
        """Return the events of some kinds."""
        return [event for event in self.events if isinstance(event, kinds)]

    @property
    def attempts(self) -> list[AuthAttempt]:
        """What the application was asked to judge."""
        return [event.attempt for event in self.told(AttemptMade)]

    @property
    def pending(self) -> Any:
        """The latest question to the application."""
        return self.told(AttemptMade, KeyQueried)[-1]

    def answer(self, method: str, *arguments: object) -> list[bytes]:
        """Answer the latest question; return what the server says at once."""
        getattr(self.pending, method)(*arguments, self.now)
        return self.say()

    def proof(self, key: Key, algorithm: str = "", user: str = USER) -> bytes:
        """Return a request that is right in every way."""
        algorithm = algorithm or key.signature_algorithms[0]
        data = signed_data(self.session_id, key.public_blob, algorithm, user=user)
        return proof(key.public_blob, algorithm, sign(key, data, algorithm), user)

    def assert_refused(self, *payloads: bytes) -> None:
        """Check that a request is answered with one FAILURE and nobody was asked."""
        before = len(self.told(AttemptMade, Authenticated))
        (reply,) = self.ask(*payloads)
        assert reply[0] == FAILURE
        assert len(self.told(AttemptMade, Authenticated)) == before
        assert self.core.phase is Phase.AUTHENTICATION

    def assert_over(self, reason: int) -> RemoteProtocolError:
        """Check that the server ended the connection and told why; return its error."""
        assert self.core.phase is Phase.TERMINATED
        assert Disconnect.decode(self.heard[-1]).reason == reason
        (end,) = self.told(ConnectionTerminated)
        assert self.events[-1:] == [end]
        assert isinstance(end.error, RemoteProtocolError)
        assert end.error.reason == reason
        return end.error

    def assert_accepted(self, principal: object) -> None:
        """Check that the client is in."""
        assert [event.principal for event in self.told(Authenticated)] == [principal]
        assert self.core.phase is Phase.RUNNING


def let_in(attempt: AuthAttempt) -> object:
    return attempt.username


def keep_out(attempt: AuthAttempt) -> object:
    return None


# What is signed


def test_signed_data_of_publickey() -> None:
    """RFC 4252 section 7, byte by byte."""
    expected = bytes.fromhex(
        "00000004 a0a1a2a3"
        "32"
        "00000003 626f62"
        "0000000e 7373682d636f6e6e656374696f6e"
        "00000009 7075626c69636b6579"
        "01"
        "0000000c 7273612d736861322d323536"
        "00000003 b0b1b2"
    )
    made = public_key_signed_data(
        b"\xa0\xa1\xa2\xa3", "bob", "ssh-connection", "rsa-sha2-256", b"\xb0\xb1\xb2"
    )
    assert made == expected


def test_signed_data_of_hostbased() -> None:
    """RFC 4252 section 9, byte by byte."""
    expected = bytes.fromhex(
        "00000004 a0a1a2a3"
        "32"
        "00000003 626f62"
        "0000000e 7373682d636f6e6e656374696f6e"
        "00000009 686f73746261736564"
        "0000000b 7373682d65643235353139"
        "00000003 b0b1b2"
        "00000006 702e74657374"
        "00000005 63c3a96c69"
    )
    fields = HostBasedFields("ssh-ed25519", b"\xb0\xb1\xb2", "p.test", "c\xe9li", b"not signed")
    assert host_based_signed_data(b"\xa0\xa1\xa2\xa3", "bob", "ssh-connection", fields) == expected


# Methods


def test_each_method_lets_in() -> None:
    """Every method ends in one SUCCESS of one byte, one event, and the application's principal."""
    principal = object()

    def signed_by_host(client: Stranger) -> bytes:
        head = string("ssh-ed25519") + string(USER_KEY.public_blob)
        names = string("desk.example.com.") + string("al")
        start = string(client.session_id) + request("hostbased")
        return request("hostbased", head + names + string(sign(USER_KEY, start + head + names)))

    cases: list[tuple[Callable[[Stranger], bytes], AuthAttempt]] = [
        (lambda client: none(), NoneAttempt(USER)),
        (lambda client: password("wonderland"), PasswordAttempt(USER, "wonderland")),
        (
            lambda client: client.proof(USER_KEY),
            PublicKeyAttempt(USER, USER_KEY, "ssh-ed25519"),
        ),
        (lambda client: interactive(), KeyboardInteractiveAttempt(USER)),
        (
            signed_by_host,
            HostBasedAttempt(USER, USER_KEY, "ssh-ed25519", "desk.example.com.", "al"),
        ),
    ]
    for make, expected in cases:
        client = Stranger(judge=lambda attempt: principal)
        assert client.say(make(client)) == [b"\x34"]
        assert client.attempts == [expected]
        (accepted,) = client.told(Authenticated)
        assert accepted.principal is principal
        assert client.core.phase is Phase.RUNNING


@pytest.mark.parametrize("identification", ["SSH-2.0-stranger_1.0", DEV_TUNNELS])
def test_methods_that_are_off_or_unknown(identification: str) -> None:
    """T-20: refused unread, with the methods that are on; nobody is asked.

    RFC 4252 section 5.2: none is never among them.
    """
    for method in (*METHODS, "gssapi-with-mic", "Password", "password ", "", "partial"):
        enabled = tuple(name for name in METHODS if name != method)
        for fields in (b"", b"\0" + string("wonderland"), b"\xff" * 40):
            client = Stranger(
                judge=let_in,
                allow=lambda user, key: True,
                identification=identification,
                authentication_methods=enabled,
            )
            listed = [name for name in enabled if name != "none"]
            assert client.ask(request(method, fields)) == [failure(listed)]
            assert not client.told(AttemptMade, KeyQueried, Authenticated)


def test_the_method_none_is_off_by_default() -> None:
    """HR-34: a server that says nothing about methods does not offer none, nor hostbased."""
    methods = SessionConfig().authentication_methods
    client = Stranger(judge=let_in, authentication_methods=methods)
    assert client.ask(none()) == [failure(["publickey", "password", "keyboard-interactive"])]


def well_formed(client: Stranger) -> Iterator[tuple[bytes, frozenset[int]]]:
    """Yield one right request of each method, and the lengths at which it may end as well."""
    head = len(request("keyboard-interactive"))
    yield none(), frozenset()
    yield password("wonderland"), frozenset()
    yield query(USER_KEY.public_blob, "ssh-ed25519"), frozenset()
    yield client.proof(USER_KEY), frozenset()
    yield interactive(string("en") + string("pam")), frozenset({head, head + 6})
    fields = string("ssh-ed25519") + string(USER_KEY.public_blob) + string("h") + string("u")
    yield request("hostbased", fields + string(b"signature")), frozenset()


@pytest.mark.parametrize("index", range(6))
def test_requests_that_end_too_early_or_late(index: int) -> None:
    """T-20, HR-03: DISCONNECT 2, and nobody is asked."""
    (whole, ends) = list(well_formed(Stranger()))[index]
    signed = index in (3, 5)
    step = 7 if signed else 1
    cases = [whole[:end] for end in range(1, len(whole), step) if end not in ends]
    for payload in [*cases, whole + b"\0"]:
        client = Stranger(judge=let_in, allow=lambda user, key: True)
        client.ask(payload)
        client.assert_over(DisconnectReason.PROTOCOL_ERROR)
        assert not client.told(AttemptMade, KeyQueried, Authenticated)


# Passwords


@pytest.mark.parametrize(
    "text",
    ["wonderland", "", " ", "\u6771\u4eac\U0001f511", "a\0b\n", "x" * 4096, "\xe9" * 2048],
    ids=["plain", "empty", "blank", "unicode", "controls", "4096 bytes", "2048 characters"],
)
def test_passwords_arrive_as_they_are(text: str) -> None:
    client = Stranger(judge=let_in)
    assert client.say(password(text)) == [b"\x34"]
    assert client.attempts == [PasswordAttempt(USER, text)]


@pytest.mark.parametrize("text", ["x" * 4097, "\xe9" * 2049, "x" * 30_000])
def test_passwords_that_are_too_long(text: str) -> None:
    """HR-33: refused without asking anybody."""
    Stranger(judge=let_in).assert_refused(password(text))


def test_password_changes_are_refused() -> None:
    """RFC 4252 section 8: neither the old password nor the new one is looked at."""
    client = Stranger(judge=let_in)
    client.assert_refused(request("password", b"\1" + string("wonderland") + string("new")))


def test_a_password_that_is_not_utf8() -> None:
    client = Stranger(judge=let_in)
    client.ask(request("password", b"\0" + string(b"wonder\xff\xfe")))
    error = client.assert_over(DisconnectReason.PROTOCOL_ERROR)
    assert "wonder" not in str(error)


# Keys and signatures


LABELS = (*ALGORITHMS, "ssh-rsa", "")


def test_every_key_with_every_algorithm_and_every_label() -> None:
    """T-24, HR-40, HR-41: key, requested algorithm and signature have to go together."""
    client = Stranger(judge=keep_out, limits=NO_LIMIT)
    for key in KEYS.values():
        for algorithm in (*LABELS, "ssh-dss", "none"):
            for label in LABELS:
                before = len(client.attempts)
                data = signed_data(client.session_id, key.public_blob, algorithm)
                hash_of = label if key.algorithm == "ssh-rsa" else ""
                signature = sign(key, data, hash_of, label)
                (reply,) = client.ask(proof(key.public_blob, algorithm, signature))
                assert reply[0] == FAILURE
                is_proof = len(client.attempts) > before
                expected = algorithm in key.signature_algorithms and label == algorithm
                assert is_proof == expected, (key.algorithm, algorithm, label)
                if expected:
                    assert client.attempts[-1] == PublicKeyAttempt(USER, key, algorithm)


def test_every_key_with_every_algorithm_in_queries() -> None:
    """T-24, HR-40: only what could be proved is worth a question."""
    client = Stranger(allow=lambda user, key: True, limits=NO_LIMIT)
    for key in KEYS.values():
        for algorithm in (*LABELS, "ssh-dss", "none"):
            asked = len(client.told(KeyQueried))
            (reply,) = client.ask(query(key.public_blob, algorithm))
            if algorithm in key.signature_algorithms:
                assert reply == b"\x3c" + string(algorithm) + string(key.public_blob)
                assert len(client.told(KeyQueried)) == asked + 1
                assert (client.pending.username, client.pending.identity) == (USER, key)
            else:
                assert reply[0] == FAILURE
                assert len(client.told(KeyQueried)) == asked
    assert not client.attempts


def test_algorithms_that_are_off() -> None:
    """HR-34: an algorithm that the configuration does not name is refused in each form."""
    for key in list(KEYS.values())[1:]:  # Ed25519 is needed for the host key
        for algorithm in key.signature_algorithms:
            others = [name for name in ALGORITHMS if name != algorithm]
            client = Stranger(judge=let_in, host_key_algorithms=others)
            client.assert_refused(client.proof(key, algorithm))
            client.assert_refused(query(key.public_blob, algorithm))
            assert not client.told(KeyQueried)


def inner(signature: bytes) -> bytes:
    (size,) = struct.unpack_from(">I", signature)
    return signature[4 + size + 4 :]


WrongSignature = Callable[[Stranger, Key, str], bytes]


def of(**changes: Any) -> WrongSignature:
    """Return a maker of signatures over data in which something is different."""

    def make(client: Stranger, key: Key, algorithm: str) -> bytes:
        arguments = {
            "session_id": client.session_id,
            "blob": key.public_blob,
            "algorithm": algorithm,
        } | changes
        return sign(key, signed_data(**arguments), algorithm)

    return make


def from_right(change: Callable[[bytes, str], bytes]) -> WrongSignature:
    """Return a maker of signatures that were right before they were changed."""
    make = of()
    return lambda client, key, algorithm: change(make(client, key, algorithm), algorithm)


def by_another_key(client: Stranger, key: Key, algorithm: str) -> bytes:
    number = 11 if key.algorithm == "ssh-ed25519" else 12
    kind = algorithm if key.algorithm == "ssh-rsa" else key.algorithm
    other = host_key(kind, number)
    assert other != key
    return sign(other, signed_data(client.session_id, key.public_blob, algorithm), algorithm)


def of_another_session(client: Stranger, key: Key, algorithm: str) -> bytes:
    other = Stranger()
    assert other.session_id != client.session_id
    return sign(key, signed_data(other.session_id, key.public_blob, algorithm), algorithm)


WRONG_SIGNATURES: dict[str, WrongSignature] = {
    "by another key": by_another_key,
    "of another session": of_another_session,
    "without a session": of(session_id=b""),
    "for another user": of(user="bob"),
    "for no user": of(user=""),
    "for another service": of(service="ssh-userauth"),
    "for another method": of(method="hostbased"),
    "for a query": of(has_signature=b"\0"),
    "for a truth that is not 1": of(has_signature=b"\xff"),
    "for another algorithm": of(algorithm="ssh-rsa"),
    "for another key": of(blob=OTHER_KEY.public_blob),
    "of nothing": lambda client, key, algorithm: sign(key, b"", algorithm),
    "of the session alone": lambda client, key, algorithm: sign(key, client.session_id, algorithm),
    "empty": from_right(lambda right, label: b""),
    "label alone": from_right(lambda right, label: string(label)),
    "empty inside": from_right(lambda right, label: string(label) + string(b"")),
    "without label": from_right(lambda right, label: inner(right)),
    "zeros": from_right(lambda right, label: string(label) + string(bytes(len(inner(right))))),
    "cut": from_right(lambda right, label: right[:-1]),
    "cut inside": from_right(lambda right, label: string(label) + string(inner(right)[:-1])),
    "longer": from_right(lambda right, label: right + b"\0"),
    "longer inside": from_right(lambda right, label: string(label) + string(inner(right) + b"\0")),
    "longer in front": from_right(
        lambda right, label: string(label) + string(b"\0" + inner(right))
    ),
    "twice": from_right(lambda right, label: right + right),
    "first bit": from_right(
        lambda right, label: string(label) + string(bytes([inner(right)[0] ^ 1]) + inner(right)[1:])
    ),
    "last bit": from_right(lambda right, label: right[:-1] + bytes([right[-1] ^ 1])),
}


@pytest.mark.parametrize("case", WRONG_SIGNATURES)
def test_signatures_that_prove_nothing(case: str) -> None:
    """T-21, HR-30, HR-40: one FAILURE, and nobody is asked; the same key can prove itself."""
    client = Stranger(judge=keep_out, limits=NO_LIMIT)
    for key in KEYS.values():
        for algorithm in key.signature_algorithms:
            signature = WRONG_SIGNATURES[case](client, key, algorithm)
            client.assert_refused(proof(key.public_blob, algorithm, signature))
            asked = len(client.attempts)
            client.ask(client.proof(key, algorithm))
            assert len(client.attempts) == asked + 1


def test_sha1_proves_nothing() -> None:
    """HR-41: neither under its own name nor under another."""
    client = Stranger(judge=let_in, limits=NO_LIMIT)
    for algorithm in ("ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"):
        data = signed_data(client.session_id, RSA_KEY.public_blob, algorithm)
        for label in ("ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"):
            signature = sign(RSA_KEY, data, "ssh-rsa", label)
            client.assert_refused(proof(RSA_KEY.public_blob, algorithm, signature))


def test_ecdsa_numbers_that_prove_nothing() -> None:
    """T-24, HR-43: r and s of 0 or the order, negative, not minimal."""
    key = KEYS["ecdsa-sha2-nistp256"]
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    client = Stranger(judge=let_in, limits=NO_LIMIT)
    data = signed_data(client.session_id, key.public_blob, key.algorithm)
    right = inner(sign(key, data))
    (size,) = struct.unpack_from(">I", right)
    r, s = right[: 4 + size], right[4 + size :]
    assert r[4:] + s[8 - 4 :] != b""
    number = int.from_bytes(r[4:], "big")
    for wrong in (
        mpint(0)[:4] + s,
        string(b"") + s,
        r + string(b""),
        mpint(order) + s,
        r + mpint(order),
        mpint(number + order) + s,
        string(b"\0" + r[4:]) + s,
        string(b"\xff" + r[4:]) + s,
        string(b"") + string(b""),
    ):
        signature = string(key.algorithm) + string(wrong)
        client.assert_refused(proof(key.public_blob, key.algorithm, signature))
    assert client.say(client.proof(key)) == [b"\x34"]


@pytest.mark.parametrize("name", ["rsa-sha2-512", "rsa-sha2-256"])
def test_rsa_keys_under_the_name_of_their_signature(name: str) -> None:
    """Older Dev Tunnels clients: the blob counts as it came, the key as what it is."""
    assert RSA_KEY.public_blob.startswith(string("ssh-rsa"))
    blob = string(name) + RSA_KEY.public_blob[11:]
    for algorithm in ("rsa-sha2-512", "rsa-sha2-256"):
        client = Stranger(
            judge=let_in, allow=lambda user, key: key == RSA_KEY, identification=DEV_TUNNELS
        )
        assert client.ask(query(blob, algorithm)) == [b"\x3c" + string(algorithm) + string(blob)]
        renamed = sign(
            RSA_KEY, signed_data(client.session_id, RSA_KEY.public_blob, algorithm), algorithm
        )
        client.assert_refused(proof(blob, algorithm, renamed))
        as_sent = sign(RSA_KEY, signed_data(client.session_id, blob, algorithm), algorithm)
        assert client.say(proof(blob, algorithm, as_sent)) == [b"\x34"]
        (attempt,) = client.attempts
        assert attempt == PublicKeyAttempt(USER, RSA_KEY, algorithm)
        assert isinstance(attempt, PublicKeyAttempt)
        assert attempt.public_key.fingerprint == RSA_KEY.fingerprint


def point(key: Key) -> bytes:
    return key.public_blob[-(2 * ((key.bits + 7) // 8) + 1) :]


def off_the_curve(key: Key) -> bytes:
    right = point(key)
    return right[:-1] + bytes([right[-1] ^ 1])


def rsa_blob(exponent: bytes, modulus: bytes) -> bytes:
    return string("ssh-rsa") + exponent + modulus


MODULUS = RSA_KEY.to_cryptography().public_key().public_numbers().n
P256 = KEYS["ecdsa-sha2-nistp256"]
CURVE = string("ecdsa-sha2-nistp256") + string("nistp256")
WRONG_BLOBS: dict[str, tuple[str, bytes]] = {
    "empty": ("ssh-ed25519", b""),
    "type alone": ("ssh-ed25519", string("ssh-ed25519")),
    "Ed25519 of 31 bytes": ("ssh-ed25519", string("ssh-ed25519") + string(bytes(31))),
    "Ed25519 of 33 bytes": ("ssh-ed25519", string("ssh-ed25519") + string(bytes(33))),
    "Ed25519 and more": ("ssh-ed25519", USER_KEY.public_blob + b"\0"),
    "Ed25519 cut": ("ssh-ed25519", USER_KEY.public_blob[:-1]),
    "Ed25519 under another name": (
        "rsa-sha2-512",
        string("rsa-sha2-512") + USER_KEY.public_blob[15:],
    ),
    "1024 bits": ("rsa-sha2-512", rsa_blob(mpint(65537), mpint(MODULUS >> 1024 | 1))),
    "2047 bits": ("rsa-sha2-512", rsa_blob(mpint(65537), mpint(MODULUS >> 1 | 1))),
    "16385 bits": ("rsa-sha2-512", rsa_blob(mpint(65537), mpint(1 << 16384 | 1))),
    "65536 bits": ("rsa-sha2-512", rsa_blob(mpint(65537), mpint(1 << 65535 | 1))),
    "even modulus": ("rsa-sha2-512", rsa_blob(mpint(65537), mpint(MODULUS - 1))),
    "negative modulus": (
        "rsa-sha2-512",
        rsa_blob(mpint(65537), string(b"\x80" + MODULUS.to_bytes(256, "big"))),
    ),
    "modulus not minimal": (
        "rsa-sha2-512",
        rsa_blob(mpint(65537), string(b"\0" + mpint(MODULUS)[4:])),
    ),
    "exponent 1": ("rsa-sha2-512", rsa_blob(mpint(1), mpint(MODULUS))),
    "exponent 0": ("rsa-sha2-512", rsa_blob(string(b""), mpint(MODULUS))),
    "even exponent": ("rsa-sha2-512", rsa_blob(mpint(65536), mpint(MODULUS))),
    "huge exponent": ("rsa-sha2-512", rsa_blob(mpint(2**64 + 1), mpint(MODULUS))),
    "exponent and modulus exchanged": ("rsa-sha2-512", rsa_blob(mpint(MODULUS), mpint(65537))),
    "infinity": ("ecdsa-sha2-nistp256", CURVE + string(b"\0")),
    "no point": ("ecdsa-sha2-nistp256", CURVE + string(b"")),
    "compressed": ("ecdsa-sha2-nistp256", CURVE + string(b"\x02" + point(P256)[1:33])),
    "hybrid form": ("ecdsa-sha2-nistp256", CURVE + string(b"\x06" + point(P256)[1:])),
    "off the curve": ("ecdsa-sha2-nistp256", CURVE + string(off_the_curve(P256))),
    "origin": ("ecdsa-sha2-nistp256", CURVE + string(b"\x04" + bytes(64))),
    "point cut": ("ecdsa-sha2-nistp256", CURVE + string(point(P256)[:-1])),
    "point and more": ("ecdsa-sha2-nistp256", CURVE + string(point(P256) + b"\0")),
    "another curve named": (
        "ecdsa-sha2-nistp256",
        string("ecdsa-sha2-nistp256") + string("nistp384") + string(point(P256)),
    ),
    "DSA": ("ssh-dss", string("ssh-dss") + mpint(7) * 4),
    "certificate": (
        "ssh-ed25519",
        string("ssh-ed25519-cert-v01@openssh.com") + string(bytes(32)) + USER_KEY.public_blob[15:],
    ),
    "length that lies": ("ssh-ed25519", string("ssh-ed25519") + b"\xff\xff\xff\xff" + bytes(32)),
    "long": ("ssh-ed25519", string("ssh-ed25519") + string(bytes(20_000))),
}


@pytest.mark.parametrize("case", WRONG_BLOBS)
def test_blobs_that_are_no_keys(case: str) -> None:
    """T-24, HR-40, HR-42, HR-43: refused in both forms, cheaply, and nobody is asked."""
    algorithm, blob = WRONG_BLOBS[case]
    client = Stranger(judge=let_in, allow=lambda user, key: True, limits=NO_LIMIT)
    signature = string(algorithm) + string(b"\x01" * 64)
    for payload in (query(blob, algorithm), proof(blob, algorithm, signature)):
        start = time.thread_time()
        client.assert_refused(payload)
        assert time.thread_time() - start < 0.02
    assert not client.told(KeyQueried)


# Queries


def test_a_query_proves_nothing() -> None:
    """HR-30: PK_OK is an answer, not an authentication."""
    client = Stranger(judge=let_in, allow=lambda user, key: True)
    assert [reply[0] for reply in client.ask(query(USER_KEY.public_blob, "ssh-ed25519"))] == [60]
    assert client.core.phase is Phase.AUTHENTICATION
    assert not client.attempts
    assert not client.told(Authenticated)
    client.say(b"\x5a" + string("session") + struct.pack(">III", 0, 2**20, 2**15))
    client.assert_over(DisconnectReason.PROTOCOL_ERROR)


def test_query_one_key_and_prove_another() -> None:
    """T-22: only the key that was proved reaches the application."""
    client = Stranger(judge=keep_out, allow=lambda user, key: True, limits=NO_LIMIT)
    client.ask(query(USER_KEY.public_blob, "ssh-ed25519"))
    client.ask(client.proof(OTHER_KEY))
    assert client.attempts == [PublicKeyAttempt(USER, OTHER_KEY, "ssh-ed25519")]
    data = signed_data(client.session_id, USER_KEY.public_blob, "ssh-ed25519")
    client.assert_refused(proof(USER_KEY.public_blob, "ssh-ed25519", sign(OTHER_KEY, data)))


def test_a_proof_needs_no_query() -> None:
    """A query that was refused keeps nobody from proving the key; the application judges."""
    client = Stranger(judge=let_in, allow=lambda user, key: False)
    assert client.ask(query(USER_KEY.public_blob, "ssh-ed25519"))[0][0] == FAILURE
    assert client.say(client.proof(USER_KEY)) == [b"\x34"]


# Keyboard-interactive


TWO = Challenge("sign-in", "two things", (Prompt("Password: "), Prompt("Colour: ", True)))
HEAD = b"\x3c" + string("sign-in") + string("two things") + string("") + b"\0\0\0\x02"


@pytest.mark.parametrize("fields", [b"", string(""), string("") + string(""), string("en") * 2])
def test_requests_to_be_asked(fields: bytes) -> None:
    """Some Dev Tunnels clients leave out both fields; the others send them."""
    client = Stranger(judge=lambda attempt: TWO)
    (reply,) = client.say(interactive(fields))
    assert reply[0] == QUESTION
    assert client.attempts == [KeyboardInteractiveAttempt(USER, None, 0)]


def test_prompts_as_the_standard_lays_them_out() -> None:
    """RFC 4256 section 3.2: each prompt with its echo."""
    client = Stranger(judge=lambda attempt: TWO)
    expected = HEAD + string("Password: ") + b"\0" + string("Colour: ") + b"\x01"
    assert client.say(interactive()) == [expected]


@pytest.mark.parametrize("name", ["Microsoft.DevTunnels.Ssh", "dev-tunnels-ssh-go"])
def test_prompts_as_dev_tunnels_lay_them_out(name: str) -> None:
    """All prompts, then all echoes."""
    client = Stranger(judge=lambda attempt: TWO, identification=f"SSH-2.0-{name}_3.12")
    expected = HEAD + string("Password: ") + string("Colour: ") + b"\0\x01"
    assert client.say(interactive()) == [expected]


def test_answers_reach_the_application_in_order() -> None:
    def judge(attempt: AuthAttempt) -> object:
        assert isinstance(attempt, KeyboardInteractiveAttempt)
        return {0: TWO, 1: Challenge(), 2: "in"}[attempt.round]

    client = Stranger(judge=judge)
    client.say(interactive())
    empty = b"\x3c" + string("") * 3 + b"\0\0\0\0"
    assert client.say(responses("\u6771\u4eac", "")) == [empty]
    assert client.say(responses()) == [b"\x34"]
    assert client.attempts == [
        KeyboardInteractiveAttempt(USER),
        KeyboardInteractiveAttempt(USER, ("\u6771\u4eac", ""), 1),
        KeyboardInteractiveAttempt(USER, (), 2),
    ]
    client.assert_accepted("in")


def test_at_most_ten_rounds() -> None:
    """HR-33: the eleventh challenge is a failure; the answers before are all judged."""
    client = Stranger(judge=lambda attempt: Challenge("", "", (Prompt("?"),)))
    assert client.say(interactive())[0][0] == QUESTION
    for _ in range(9):
        assert [reply[0] for reply in client.say(responses("!"))] == [QUESTION]
    assert [reply[0] for reply in client.ask(responses("!"))] == [FAILURE]
    assert len(client.attempts) == 11
    client.say(responses("!"))
    client.assert_over(DisconnectReason.PROTOCOL_ERROR)


def test_rounds_count_anew_with_each_request() -> None:
    client = Stranger(judge=lambda attempt: Challenge("", "", (Prompt("?"),)))
    for _ in range(2):
        payloads = [interactive(), *[responses("!")] * 10]
        replies = [client.ask(payload)[0][0] for payload in payloads]
        assert replies == [QUESTION] * 10 + [FAILURE]


@pytest.mark.parametrize("given", [(), ("one",), ("one", "two", "three")])
def test_another_number_of_answers(given: tuple[str, ...]) -> None:
    """RFC 4256 section 3.4, HR-33: a failure, and the answers are not judged."""
    client = Stranger(judge=lambda attempt: TWO)
    client.say(interactive())
    client.assert_refused(responses(*given))


def test_more_answers_than_there_can_be_prompts() -> None:
    """HR-27: refused before they are read."""
    for payload in (responses(*["x"] * 17), b"\x3d\xff\xff\xff\xff"):
        client = Stranger(judge=lambda attempt: TWO)
        client.say(interactive())
        client.say(payload)
        client.assert_over(DisconnectReason.PROTOCOL_ERROR)
        assert len(client.attempts) == 1


def unsolicited() -> Iterator[tuple[str, Stranger]]:
    """Yield servers that have asked nothing, or nothing any more."""
    yield "nothing requested", Stranger()
    client = Stranger()
    client.say(password("wonderland"))
    yield "a password is judged", client
    client = Stranger(judge=keep_out)
    client.ask(password("wonderland"))
    yield "a password was refused", client
    client = Stranger()
    client.say(interactive())
    yield "not asked yet", client
    client = Stranger(judge=keep_out)
    client.ask(interactive())
    yield "refused before anything was asked", client
    client = Stranger()
    client.say(interactive())
    client.answer("challenge", TWO)
    client.say(responses("a", "b"))
    yield "answers are judged", client
    client = Stranger()
    client.say(interactive())
    client.answer("challenge", TWO)
    client.say(none())
    yield "abandoned", client
    client = Stranger(judge=let_in)
    client.say(password("wonderland"))
    yield "authenticated", client


def test_answers_that_nobody_asked_for() -> None:
    """T-23: DISCONNECT 2; nothing more is judged, whatever is answered later."""
    for case, client in unsolicited():
        judged, accepted = len(client.attempts), len(client.told(Authenticated))
        client.say(responses("a", "b"))
        assert "not allowed" in str(client.assert_over(DisconnectReason.PROTOCOL_ERROR)), case
        assert len(client.attempts) == judged, case
        assert len(client.told(Authenticated)) == accepted, case


def test_answers_are_not_for_a_method_that_is_off() -> None:
    """HR-34: without keyboard-interactive there is no way to the answers."""
    client = Stranger(judge=let_in, authentication_methods=["password"])
    client.assert_refused(interactive())
    client.say(responses("x"))
    client.assert_over(DisconnectReason.PROTOCOL_ERROR)


# One after the other


def test_pipelined_requests_are_answered_in_order() -> None:
    """Each gets exactly one reply; what comes behind success gets none (HR-31)."""
    client = Stranger(
        judge=lambda attempt: "in" if attempt == PasswordAttempt(USER, "good") else None,
        allow=lambda user, key: key == USER_KEY,
    )
    replies = client.ask(
        none(),
        password("bad"),
        query(USER_KEY.public_blob, "ssh-ed25519"),
        query(OTHER_KEY.public_blob, "ssh-ed25519"),
        request("unknown"),
        password("good"),
        password("good"),
        none(),
    )
    assert [reply[0] for reply in replies] == [51, 51, 60, 51, 51, 52]
    assert client.attempts == [
        NoneAttempt(USER),
        PasswordAttempt(USER, "bad"),
        PasswordAttempt(USER, "good"),
    ]
    client.assert_accepted("in")


def test_requests_may_come_with_the_service_request() -> None:
    """Clients do not wait for the service (they may send all at once)."""
    client = Stranger(judge=let_in, asks_for_service=False)
    replies = client.say(b"\x05" + string("ssh-userauth"), password("wonderland"))
    assert replies == [b"\x06" + string("ssh-userauth"), b"\x34"]


def test_the_service_may_be_asked_for_anew() -> None:
    """Some clients do so before each attempt; it is neither an attempt nor the end of one."""
    client = Stranger()
    wanted, granted = b"\x05" + string("ssh-userauth"), b"\x06" + string("ssh-userauth")
    assert client.say(wanted, password("bad"), wanted) == [granted, granted]
    client.answer("reject")
    assert [reply[0] for reply in client.wait()] == [FAILURE]
    assert client.say(wanted, interactive()) == [granted]
    assert [reply[0] for reply in client.answer("challenge", TWO)] == [QUESTION]
    assert client.say(wanted, responses("1", "2")) == [granted]
    assert client.answer("accept", "in") == [b"\x34"]
    client.say(wanted)
    client.assert_over(DisconnectReason.SERVICE_NOT_AVAILABLE)


def test_a_request_waits_for_the_verdict_on_the_one_before() -> None:
    """One question to the application at a time, and none while a failure waits."""
    client = Stranger()
    assert client.say(password("one"), password("two"), client.proof(USER_KEY)) == []
    assert client.attempts == [PasswordAttempt(USER, "one")]
    assert client.answer("reject") == []
    assert len(client.attempts) == 1
    assert [reply[0] for reply in client.wait()] == [FAILURE]
    assert client.attempts[1:] == [PasswordAttempt(USER, "two")]
    assert client.answer("accept", "second") == [b"\x34"]
    assert len(client.attempts) == 2
    client.assert_accepted("second")


def test_a_query_waits_like_any_request() -> None:
    client = Stranger()
    client.say(query(USER_KEY.public_blob, "ssh-ed25519"), password("two"))
    assert not client.attempts
    assert [reply[0] for reply in client.answer("answer", True)] == [60]
    assert client.attempts == [PasswordAttempt(USER, "two")]


def test_a_new_request_abandons_a_challenge() -> None:
    """RFC 4252 section 5: no FAILURE for the abandoned one, which counts for nothing."""
    client = Stranger(
        judge=lambda attempt: TWO if isinstance(attempt, KeyboardInteractiveAttempt) else None
    )
    for _ in range(6):
        assert [reply[0] for reply in client.ask(interactive())] == [QUESTION]
    assert [reply[0] for reply in client.ask(password("x"))] == [FAILURE]


def test_a_request_that_is_there_already_abandons_a_challenge_too() -> None:
    """RFC 4252 section 5: a request that needs further messages is aborted by a later one."""
    client = Stranger()
    client.say(interactive(), password("wonderland"))
    client.answer("challenge", TWO)
    assert client.attempts[1:] == [PasswordAttempt(USER, "wonderland")]
    assert client.answer("accept", "in") == [b"\x34"]


# Limits


def test_the_fifth_failure_is_the_last() -> None:
    """HR-32: FAILURE, then DISCONNECT 14; what was queued behind is not judged."""
    client = Stranger(judge=lambda attempt: "in" if "right" in repr(attempt) else None)
    kinds = [
        password("1"),
        client.proof(OTHER_KEY),
        query(b"no key", "ssh-ed25519"),
        request("unknown"),
        interactive(),
        password("right"),
    ]
    replies = client.ask(*kinds)
    assert [reply[0] for reply in replies] == [51, 51, 51, 51, 51, 1]
    client.assert_over(DisconnectReason.NO_MORE_AUTH_METHODS_AVAILABLE)
    assert not client.told(Authenticated)


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_the_limit_of_failures_is_configurable(limit: int) -> None:
    client = Stranger(judge=keep_out, limits=Limits(authentication_failures=limit))
    for count in range(1, limit + 1):
        replies = client.ask(password(str(count)))
        assert [reply[0] for reply in replies] == ([51, 1] if count == limit else [51])


@pytest.mark.parametrize("methods", [METHODS, METHODS[:-1]], ids=["on", "off"])
@pytest.mark.parametrize("behind", [0, 2])
def test_the_first_none_does_not_count(methods: tuple[str, ...], behind: int) -> None:
    """HR-32: it is how clients ask for the methods; the second one is a failure like any."""
    client = Stranger(judge=keep_out, authentication_methods=methods)
    wrong = [password("x")] * behind
    replies = client.ask(*wrong, none(), *[none()] * (4 - behind))
    assert [reply[0] for reply in replies] == [51] * 5
    assert [reply[0] for reply in client.ask(none())] == [51, 1]
    client.assert_over(DisconnectReason.NO_MORE_AUTH_METHODS_AVAILABLE)


def test_no_more_than_twenty_requests() -> None:
    """HR-32: of any kind, answered or not, refused or not."""
    client = Stranger(allow=lambda user, key: True)
    replies = client.ask(*[query(USER_KEY.public_blob, "ssh-ed25519")] * 20)
    assert [reply[0] for reply in replies] == [60] * 20
    replies = client.ask(client.proof(USER_KEY))
    assert [reply[0] for reply in replies] == [1]
    client.assert_over(DisconnectReason.NO_MORE_AUTH_METHODS_AVAILABLE)
    assert not client.attempts


def test_challenges_that_are_abandoned_count_as_requests() -> None:
    client = Stranger(judge=lambda attempt: TWO)
    for _ in range(10):
        client.say(interactive())
        client.say(responses("a", "b"))
    for _ in range(10):
        assert [reply[0] for reply in client.say(interactive())] == [QUESTION]
    client.say(interactive())
    client.assert_over(DisconnectReason.NO_MORE_AUTH_METHODS_AVAILABLE)


def test_requests_that_nobody_has_judged_count_too() -> None:
    """A flood behind one question that is open ends the connection."""
    client = Stranger()
    client.say(*[password("x")] * 20)
    assert client.core.phase is Phase.AUTHENTICATION
    client.say(password("x"))
    client.assert_over(DisconnectReason.NO_MORE_AUTH_METHODS_AVAILABLE)
    assert client.answer("accept", "late") == []
    assert not client.told(Authenticated)


# Who, and for what


@pytest.mark.parametrize("first", [none(), password("x"), interactive()])
def test_the_user_cannot_change(first: bytes) -> None:
    """HR-33: DISCONNECT 2, also while the first request is being judged."""
    for waits in (False, True):
        client = Stranger(judge=None if waits else keep_out)
        client.ask(first)
        client.ask(password("x", user="bob"))
        error = client.assert_over(DisconnectReason.PROTOCOL_ERROR)
        assert "user" in str(error)
        assert [attempt.username for attempt in client.attempts] == [USER]
        if waits:
            assert client.answer("accept", "late") == []
            assert not client.told(Authenticated)


@pytest.mark.parametrize("service", ["ssh-userauth", "ssh-Connection", ""])
@pytest.mark.parametrize("later", [False, True])
def test_there_is_only_one_service(service: str, later: bool) -> None:
    """HR-33, RFC 4252 section 5: DISCONNECT 7."""
    client = Stranger(judge=keep_out)
    if later:
        client.ask(none())
    client.say(request("password", b"\0" + string("x"), service=service))
    client.assert_over(DisconnectReason.SERVICE_NOT_AVAILABLE)
    assert len(client.attempts) == later


@pytest.mark.parametrize("user", ["", "x" * 1024, "\u6771" * 341, "a b\0\x1b[2J"])
def test_user_names_that_are_taken(user: str) -> None:
    """They arrive as they are; what they mean is for the application."""
    client = Stranger(judge=let_in)
    assert client.say(password("x", user=user)) == [b"\x34"]
    client.assert_accepted(user)


@pytest.mark.parametrize("user", ["x" * 1025, "\u6771" * 342])
def test_user_names_that_are_too_long(user: str) -> None:
    """HR-33: 1,024 bytes of UTF-8."""
    client = Stranger(judge=let_in)
    client.say(password("x", user=user))
    client.assert_over(DisconnectReason.ILLEGAL_USER_NAME)
    assert not client.attempts


def test_a_user_name_that_is_not_utf8() -> None:
    client = Stranger(judge=let_in)
    payload = b"\x32" + string(b"\xff\xfe") + string("ssh-connection") + string("none")
    client.say(payload)
    client.assert_over(DisconnectReason.PROTOCOL_ERROR)
    assert not client.attempts


# Verdicts


def test_verdicts_are_given_once() -> None:
    """A second answer raises, and changes and sends nothing."""
    for first in (("accept", "in"), ("reject",), ("challenge", TWO)):
        client = Stranger()
        client.say(interactive())
        event = client.pending
        client.answer(*first)
        client.wait()
        phase = client.core.phase
        for second in (("accept", "other"), ("reject",), ("challenge", TWO)):
            with pytest.raises(LocalProtocolError, match="already answered"):
                getattr(event, second[0])(*second[1:], client.now)
        assert client.wait() == []
        assert client.core.phase is phase
    client = Stranger()
    client.say(query(USER_KEY.public_blob, "ssh-ed25519"))
    client.answer("answer", False)
    with pytest.raises(LocalProtocolError, match="already answered"):
        client.pending.answer(True, client.now)
    assert [reply[0] for reply in client.wait()] == [FAILURE]


def test_only_one_method_knows_challenges() -> None:
    """A challenge elsewhere raises; the attempt can still be answered."""
    for payload in (none(), password("x"), Stranger.proof):
        client = Stranger()
        client.say(payload if isinstance(payload, bytes) else payload(client, USER_KEY))
        with pytest.raises(LocalProtocolError, match="no challenges"):
            client.pending.challenge(TWO, client.now)
        assert client.say() == []
        assert client.answer("accept", "in") == [b"\x34"]
        client.assert_accepted("in")


def leave(client: Stranger) -> None:
    client.core.disconnect(11, "bye")
    client.say()


ENDS: dict[str, Callable[[Stranger], object]] = {
    "the stream ended": lambda client: client.core.receive_eof(client.now),
    "the client left": lambda client: client.say(
        b"\x01" + struct.pack(">I", 11) + string("") + string("")
    ),
    "we left": leave,
    "the client broke the protocol": lambda client: client.say(b"\x3d\0\0\0\0"),
    "it took too long": lambda client: client.wait(100),
}


@pytest.mark.parametrize("how", ENDS)
def test_verdicts_after_the_end_do_nothing(how: str) -> None:
    """They neither raise nor send nor let anybody in."""
    for answer in (("accept", "in"), ("reject",), ("challenge", TWO), ("answer", True)):
        client = Stranger()
        payload = query(USER_KEY.public_blob, "ssh-ed25519") if answer[0] == "answer" else None
        client.say(payload or interactive())
        ENDS[how](client)
        assert client.core.phase is Phase.TERMINATED
        assert client.answer(*answer) == []
        assert client.wait() == []
        assert not client.told(Authenticated)


def test_failures_that_wait_are_forgotten_at_the_end() -> None:
    client = Stranger(judge=keep_out)
    assert client.say(password("x")) == []
    client.core.disconnect(11, "bye")
    assert [reply[0] for reply in client.say()] == [1]
    assert client.core.next_deadline() is None
    client.core.handle_timeout(client.now + 1)
    assert client.say() == []


# After success


def test_requests_after_success_are_dropped_until_the_connection_is_used() -> None:
    """T-23: without reply, event or effect; then DISCONNECT 2."""
    client = Stranger(judge=let_in)
    client.say(password("wonderland"))
    late = [password("other"), none("bob"), client.proof(USER_KEY), b"\x32garbage", interactive()]
    assert client.ask(*late) == []
    assert len(client.attempts) == 1
    client.assert_accepted(USER)
    assert client.say(b"\x50" + string("ping") + b"\x01") == []
    (ping,) = client.told(GlobalRequestReceived)
    client.connection.answer(ping.request, False)
    assert [reply[0] for reply in client.say()] == [82]
    client.say(password("other"))
    client.assert_over(DisconnectReason.PROTOCOL_ERROR)
    assert len(client.told(Authenticated)) == 1


def test_dropped_requests_are_bounded() -> None:
    """HR-29: they are messages without effect like others."""
    client = Stranger(judge=let_in)
    client.say(password("wonderland"))
    client.say(*[none()] * 1024)
    assert client.core.phase is Phase.RUNNING
    client.say(none())
    client.assert_over(DisconnectReason.PROTOCOL_ERROR)


# Time


def refusals() -> dict[str, tuple[Callable[[Stranger], bytes], bool]]:
    """Return ways to fail, and whether the application is asked in between."""
    signature = sign(USER_KEY, b"something else")
    return {
        "wrong password": (lambda client: password("wrong"), True),
        "long password": (lambda client: password("x" * 5000), False),
        "password change": (
            lambda client: request("password", b"\1" + string("a") + string("b")),
            False,
        ),
        "unknown key": (lambda client: client.proof(OTHER_KEY), True),
        "bad signature": (
            lambda client: proof(USER_KEY.public_blob, "ssh-ed25519", signature),
            False,
        ),
        "no key": (lambda client: query(b"", "ssh-ed25519"), False),
        "wrong algorithm": (lambda client: query(USER_KEY.public_blob, "ssh-rsa"), False),
        "query of an unknown key": (
            lambda client: query(OTHER_KEY.public_blob, "ssh-ed25519"),
            True,
        ),
        "no answers": (lambda client: interactive(), True),
    }


def time_of_failure(
    payload: Callable[[Stranger], bytes],
    thinking: float,
    secret: bytes = b"d" * 32,
) -> float:
    """Return the seconds after which a FAILURE leaves; it must not leave any earlier."""
    client = Stranger(delay_secret=secret)
    start = client.now
    assert client.say(payload(client)) == []
    for question in client.told(AttemptMade, KeyQueried):
        client.now += thinking
        arguments = (False,) if isinstance(question, KeyQueried) else ()
        assert client.answer("answer" if arguments else "reject", *arguments) == []
    deadline = client.core.next_deadline()
    assert deadline is not None
    client.now = max(client.now, deadline - 1e-6)
    if client.now < deadline:
        client.core.handle_timeout(client.now)
        assert client.say() == []
    client.now = max(client.now, deadline)
    assert not client.core.handle_timeout(client.now)
    assert [reply[0] for reply in client.say()] == [FAILURE]
    return client.now - start


def test_failures_take_the_same_time() -> None:
    """HR-38: between 50 and 60 ms, whatever was wrong and however fast that was found out."""
    times = {
        (case, thinking): time_of_failure(payload, thinking)
        for case, (payload, is_asked) in refusals().items()
        for thinking in ((0.0, 0.02, 0.049) if is_asked else (0.0,))
    }
    assert all(0.050 <= seconds <= 0.060 for seconds in times.values()), times
    assert max(times.values()) - min(times.values()) < 1e-6, times


def test_a_slow_verdict_is_not_slowed_down() -> None:
    seconds = time_of_failure(lambda client: password("wrong"), thinking=0.3)
    assert seconds == pytest.approx(0.3)


def test_the_time_depends_on_the_user_and_a_secret() -> None:
    """HR-38: an observer cannot tell users apart by what they share, nor predict it."""
    users = ["alice", "bob", "carol", "", "\u6771\u4eac"]

    def times(secret: bytes) -> list[float]:
        def payload(user: str) -> Callable[[Stranger], bytes]:
            return lambda client: password("wrong", user=user)

        return [time_of_failure(payload(user), 0.0, secret) for user in users]

    first = times(b"d" * 32)
    assert times(b"d" * 32) == pytest.approx(first, abs=1e-9)
    assert len({round(seconds, 6) for seconds in first}) > 1
    assert times(b"e" * 32) != pytest.approx(first, abs=1e-5)
    assert all(0.050 <= seconds <= 0.060 for seconds in first)


def test_time_counts_from_the_turn_of_a_request() -> None:
    """Requests sent in one go fail one after the other, not all at once."""
    client = Stranger(judge=keep_out)
    client.say(password("1"), password("2"), password("3"))
    each = [len(client.wait(0.0601)) for _ in range(3)]
    assert each == [1, 1, 1]


def test_none_is_refused_at_once_and_success_is_not_delayed() -> None:
    for methods in (METHODS, METHODS[:-1]):
        client = Stranger(judge=keep_out, authentication_methods=methods)
        assert [reply[0] for reply in client.say(none(), none())] == [FAILURE] * 2
    client = Stranger(judge=let_in, allow=lambda user, key: True)
    assert client.say(query(USER_KEY.public_blob, "ssh-ed25519"))[0][0] == QUESTION
    assert client.say(client.proof(USER_KEY)) == [b"\x34"]


def test_answers_have_a_time_of_their_own() -> None:
    """A user who types for a minute does not make a failure instantaneous."""
    client = Stranger(
        judge=lambda attempt: TWO if attempt == KeyboardInteractiveAttempt(USER) else None
    )
    client.say(interactive())
    client.wait(30)
    assert client.say(responses("a", "b")) == []
    assert client.wait(0.0499) == []
    assert [reply[0] for reply in client.wait(0.0102)] == [FAILURE]


# Hosts that vouch for their users


def host_request(
    client: Stranger, key: Key = USER_KEY, signature: bytes | None = None, **changes: str
) -> bytes:
    """Return a hostbased request; ``changes`` make the signature one of something else."""
    names = {"user": USER, "service": "ssh-connection", "method": "hostbased"}
    names |= {"algorithm": key.signature_algorithms[0], "host": "desk.", "client_user": "al"}

    def fields(names: dict[str, str]) -> bytes:
        head = string(names["algorithm"]) + string(key.public_blob)
        return head + string(names["host"]) + string(names["client_user"])

    other = names | changes
    data = string(client.session_id) + request(
        other["method"], b"", other["user"], other["service"]
    )
    made = sign(key, data + fields(other), names["algorithm"]) if signature is None else signature
    return request("hostbased", fields(names) + string(made))


def test_hosts_prove_themselves() -> None:
    """Every key type; RFC 4252 section 9."""
    for key in KEYS.values():
        client = Stranger(judge=let_in)
        assert client.say(host_request(client, key)) == [b"\x34"]
        algorithm = key.signature_algorithms[0]
        assert client.attempts == [HostBasedAttempt(USER, key, algorithm, "desk.", "al")]


@pytest.mark.parametrize(
    "changes",
    [
        {"user": "bob"},
        {"service": "ssh-userauth"},
        {"method": "publickey"},
        {"algorithm": "ssh-rsa"},
        {"host": "other."},
        {"client_user": "root"},
    ],
    ids=str,
)
def test_hosts_that_signed_something_else(changes: dict[str, Any]) -> None:
    client = Stranger(judge=let_in, limits=NO_LIMIT)
    for key in KEYS.values():
        client.assert_refused(host_request(client, key, **changes))


def test_hosts_that_prove_nothing() -> None:
    client = Stranger(judge=let_in, limits=NO_LIMIT)
    other = Stranger()
    data = signed_data(client.session_id, USER_KEY.public_blob, "ssh-ed25519")
    for signature in (
        b"",
        string("ssh-ed25519") + string(bytes(64)),
        sign(OTHER_KEY, data),
        sign(USER_KEY, data),
        sign(USER_KEY, data, label="rsa-sha2-512"),
    ):
        client.assert_refused(host_request(client, signature=signature))
    client.assert_refused(host_request(other))
    client.assert_refused(
        request(
            "hostbased",
            string("ssh-ed25519") + string(b"no key") + string("h") + string("u") + string(b""),
        )
    )
    client.assert_refused(
        request(
            "hostbased",
            string("rsa-sha2-512") + string(USER_KEY.public_blob) + string("h") * 2 + string(b""),
        )
    )


# Services


@pytest.mark.parametrize(
    "name", ["ssh-connection", "ssh-keyexchange", "", "SSH-USERAUTH", "x" * 999]
)
def test_other_services_before_authentication(name: str) -> None:
    """RFC 4253 section 10: DISCONNECT 7."""
    client = Stranger(asks_for_service=False)
    client.say(b"\x05" + string(name))
    client.assert_over(DisconnectReason.SERVICE_NOT_AVAILABLE)


def test_the_name_of_an_unknown_service_is_not_repeated_as_it_is() -> None:
    """HR-06: not even to the one who sent it."""
    client = Stranger(asks_for_service=False)
    client.say(b"\x05" + string("\x1b[2J\r\n\u202e" + "x" * 5000))
    error = client.assert_over(DisconnectReason.SERVICE_NOT_AVAILABLE)
    for text in (str(error), Disconnect.decode(client.heard[-1]).description):
        assert text.isprintable()
        assert len(text) <= 300


@pytest.mark.parametrize("name", ["Microsoft.DevTunnels.Ssh", "dev-tunnels-ssh-go"])
def test_dev_tunnels_clients_ask_for_too_much_at_first(name: str) -> None:
    """They may try a channel, then authenticate; nobody is asked about the channel."""
    client = Stranger(judge=let_in, identification=f"SSH-2.0-{name}_3.12", asks_for_service=False)
    connection, userauth = string("ssh-connection"), string("ssh-userauth")
    opening = b"\x5a" + string("session") + struct.pack(">III", 7, 2**20, 2**15)
    assert client.say(b"\x05" + connection) == [b"\x06" + connection]
    (refusal,) = client.say(opening)
    assert refusal[:9] == b"\x5c" + struct.pack(">II", 7, 1)
    assert client.say(b"\x50" + string("x") + b"\x01") == [b"\x52"]
    assert client.say(b"\x50" + string("x") + b"\0") == []
    assert client.say(b"\x05" + userauth) == [b"\x06" + userauth]
    assert [reply[0] for reply in client.say(opening)] == [92]
    assert not client.told(ChannelOpenReceived, GlobalRequestReceived)
    assert client.say(password("wonderland")) == [b"\x34"]
    client.say(opening)
    assert len(client.told(ChannelOpenReceived)) == 1


def test_refusals_before_authentication_are_bounded() -> None:
    """HR-26: a stranger makes us send 256 KiB at the most, also one whose questions are answered"""
    client = Stranger(identification=DEV_TUNNELS)
    opening = b"\x5a" + string("x" * 100) + struct.pack(">III", 7, 1, 1)
    client.say(*[opening] * 600)
    client.assert_over(DisconnectReason.PROTOCOL_ERROR)
    assert not client.told(ChannelOpenReceived)
    assert client.core.transport.bytes_sent < 256 * 1024


def test_services_after_authentication() -> None:
    """The connection service is there for the asking, the other one no more."""
    client = Stranger(judge=let_in)
    client.say(password("wonderland"))
    connection = string("ssh-connection")
    assert client.say(b"\x05" + connection) == [b"\x06" + connection]
    client.say(b"\x05" + string("ssh-userauth"))
    client.assert_over(DisconnectReason.SERVICE_NOT_AVAILABLE)
