"""The server's proof of identity: which host keys a client accepts, and what comes first.

Most tests make a real server lie: it proves a different key than it was asked for, signs with
another algorithm, or repeats what it sent before. See ``test_key_exchange_core.py`` for what
negotiated algorithms lead to when nobody lies.
"""

from __future__ import annotations

import functools
import hashlib
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from anyssh.algorithms import derive_key
from anyssh.constants import DisconnectReason
from anyssh.errors import HostKeyError, KeyExchangeFailed, LocalProtocolError, SSHError
from anyssh.keys import Key
from anyssh.messages import Disconnect
from anyssh.protocol import Phase, Role
from anyssh.protocol import key_exchange as key_exchange_module
from anyssh.protocol.events import (
    Authenticated,
    Event,
    HostKeyPresented,
    ServiceAccepted,
    SignatureRequested,
)
from anyssh.protocol.key_exchange import KeyExchanger

from .core_pair import (
    CLIENT,
    SERVER,
    Answers,
    CorePair,
    assert_terminated,
    fast_config,
    host_key,
    running_pair,
)
from .scripted_peer import ScriptedPeer

KEYS = {
    "ssh-ed25519": host_key("ssh-ed25519", 30),
    "ecdsa-sha2-nistp256": host_key("ecdsa-sha2-nistp256", 30),
    "ecdsa-sha2-nistp384": host_key("ecdsa-sha2-nistp384", 30),
    "ecdsa-sha2-nistp521": host_key("ecdsa-sha2-nistp521", 30),
    "ssh-rsa": host_key("rsa-sha2-512", 30),
}
RSA_KEY = KEYS["ssh-rsa"]
OTHER_RSA_KEY = host_key("rsa-sha2-512", 31)
ALGORITHMS = (*(name for name in KEYS if name != "ssh-rsa"), "rsa-sha2-256", "rsa-sha2-512")
NO_CREDENTIAL = [20, 30]
"""What a client has sent when a server's answer comes: KEXINIT and its public value."""


def string(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(data)) + data


def relabelled(signature: bytes, label: str) -> bytes:
    """Return a signature that calls itself something else."""
    (size,) = struct.unpack_from(">I", signature)
    return string(label) + signature[4 + size :]


def sha1_signature(key: Key, label: str, data: bytes) -> bytes:
    inner = key.to_cryptography().sign(data, padding.PKCS1v15(), hashes.SHA1())
    return string(label) + string(inner)


def lying_pair(
    algorithm: str,
    key: Key,
    sign: Callable[[bytes], bytes],
    **arguments: Any,
) -> CorePair:
    """Return a pair that agrees on an algorithm; the server shows some key and signs somehow."""
    config = fast_config(host_key_algorithms=[algorithm])
    honest = next(held for held in KEYS.values() if algorithm in held.signature_algorithms)
    answers = Answers(signature=lambda event, now: event.supply(sign(event.data), now))
    pair = CorePair(config, host_keys=[honest], answers=answers, **arguments)
    pair.server.exchanger._host_key_for = lambda algorithm: key  # type: ignore[method-assign]
    return pair


def assert_not_believed(pair: CorePair, sent: list[int] | None = None) -> HostKeyError:
    """Check that the client left with DISCONNECT 9 and told nobody why."""
    error = assert_terminated(pair, CLIENT, DisconnectReason.HOST_KEY_NOT_VERIFIABLE)
    assert isinstance(error, HostKeyError)
    assert not pair.of_type(CLIENT, HostKeyPresented)
    assert pair.sent_numbers(CLIENT) == [*(sent or NO_CREDENTIAL), 1]
    assert Disconnect.decode(pair.sent(CLIENT)[-1]).description == "host key not verifiable"
    return error


# Which proof is one


def test_every_key_with_every_algorithm_and_every_label() -> None:
    """T-24, HR-40: key, agreed algorithm and signature have to go together."""
    for algorithm in ALGORITHMS:
        for key in KEYS.values():
            for label in (*ALGORITHMS, "ssh-rsa", ""):
                as_labelled = label in key.signature_algorithms
                used = label if as_labelled else key.signature_algorithms[0]

                def sign(
                    data: bytes, key: Key = key, used: str = used, label: str = label
                ) -> bytes:
                    return relabelled(key.sign(data, used), label)

                pair = lying_pair(algorithm, key, sign)
                pair.pump()
                if as_labelled and label == algorithm:
                    (event,) = pair.of_type(CLIENT, HostKeyPresented)
                    assert event.key == key
                    assert pair.client.phase is Phase.ENCRYPTED
                else:
                    error = assert_not_believed(pair)
                    assert error.fingerprint == key.fingerprint, (algorithm, label)


def test_sha1_proves_nothing() -> None:
    """HR-41: neither under its own name nor under that of the agreed algorithm."""
    for algorithm in ("rsa-sha2-256", "rsa-sha2-512"):
        for label in (algorithm, "ssh-rsa"):
            sign = functools.partial(sha1_signature, RSA_KEY, label)
            pair = lying_pair(algorithm, RSA_KEY, sign)
            pair.pump()
            assert_not_believed(pair)


def with_a_bit_flipped(signature: bytes) -> bytes:
    return signature[:-1] + bytes([signature[-1] ^ 1])


WRONG_SIGNATURES: dict[str, Callable[[Key, str, bytes], bytes]] = {
    "by another key": lambda key, algorithm, data: (
        OTHER_RSA_KEY if key == RSA_KEY else host_key(algorithm, 31)
    ).sign(data, algorithm),
    "of something else": lambda key, algorithm, data: key.sign(data[::-1], algorithm),
    "of less": lambda key, algorithm, data: key.sign(data[:-1], algorithm),
    "of more": lambda key, algorithm, data: key.sign(data + b"\0", algorithm),
    "of nothing": lambda key, algorithm, data: key.sign(b"", algorithm),
    "empty": lambda key, algorithm, data: b"",
    "empty inside": lambda key, algorithm, data: string(algorithm) + string(b""),
    "cut": lambda key, algorithm, data: key.sign(data, algorithm)[:-1],
    "longer": lambda key, algorithm, data: key.sign(data, algorithm) + b"\0",
    "a bit": lambda key, algorithm, data: with_a_bit_flipped(key.sign(data, algorithm)),
}


@pytest.mark.parametrize("case", WRONG_SIGNATURES)
def test_signatures_that_prove_nothing(case: str) -> None:
    """T-26, HR-40: DISCONNECT 9, nobody is asked about the key, and no credential leaves."""
    for algorithm in ALGORITHMS:
        key = next(key for key in KEYS.values() if algorithm in key.signature_algorithms)
        sign = functools.partial(WRONG_SIGNATURES[case], key, algorithm)
        pair = lying_pair(algorithm, key, sign)
        pair.pump()
        assert_not_believed(pair)
        assert not pair.of_type(SERVER, Authenticated)


def test_what_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 4253 section 8: the hash of both lines, both offers, the key, the shares, the secret."""
    asked: list[bytes] = []
    secrets: set[bytes] = set()

    def derive(hash_name: str, secret: bytes, *arguments: Any) -> bytes:
        assert hash_name == "sha256"
        secrets.add(secret)
        return derive_key(hash_name, secret, *arguments)

    def sign(event: SignatureRequested, now: float) -> None:
        asked.append(event.data)
        event.supply(RSA_KEY.sign(event.data, event.algorithm), now)

    monkeypatch.setattr(key_exchange_module, "derive_key", derive)
    config = fast_config(host_key_algorithms=["rsa-sha2-256"])
    pair = CorePair(config, host_keys=[RSA_KEY], answers=Answers(signature=sign))
    pair.pump()
    (secret,) = secrets
    client, server = pair.sent(CLIENT), pair.sent(SERVER)
    init, reply = client[1], server[1]
    assert (init[0], reply[0]) == (30, 31)
    blob = string(RSA_KEY.public_blob)
    assert reply[1:].startswith(blob)
    share = reply[1 + len(blob) :][:36]
    lines = string("SSH-2.0-client_1.0") + string("SSH-2.0-server_1.0")
    hashed = lines + string(client[0]) + string(server[0]) + blob + init[1:] + share + secret
    assert asked == [hashlib.sha256(hashed).digest()]
    assert asked == [pair.client.exchanger.session_id] == [pair.server.exchanger.session_id]
    public = RSA_KEY.to_cryptography().public_key()
    public.verify(reply[-256:], asked[0], padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize("name", ["rsa-sha2-256", "rsa-sha2-512"])
def test_rsa_keys_under_the_name_of_their_signature(name: str) -> None:
    """Older Dev Tunnels servers: the hash takes the blob as it came, the key is what it is."""
    blob = string(name) + RSA_KEY.public_blob[11:]

    class Renamed:
        public_blob = blob

    pair = lying_pair("rsa-sha2-512", RSA_KEY, lambda data: RSA_KEY.sign(data, "rsa-sha2-512"))
    renamed: Any = Renamed()
    pair.server.exchanger._host_key_for = lambda algorithm: renamed  # type: ignore[method-assign]
    pair.pump()
    (event,) = pair.of_type(CLIENT, HostKeyPresented)
    assert event.key == RSA_KEY
    assert event.key.fingerprint == RSA_KEY.fingerprint
    pair.authenticate()
    pair.assert_usable()


# A man in the middle


def is_answer(sender: Role, index: int) -> bool:
    """Tell whether this is the third packet of a server, behind its line and its KEXINIT."""
    return sender is SERVER and index == 2


def test_every_byte_of_the_answer_counts() -> None:
    """T-26: whatever is changed in key, public value or signature, the client does not go on."""
    honest = CorePair(host_keys=[KEYS["ssh-ed25519"]])
    honest.pump()
    (size,) = {len(payload) for payload in honest.sent(SERVER) if payload[0] == 31}
    header = 4 + 1
    for position in range(size):
        pair = CorePair(host_keys=[KEYS["ssh-ed25519"]])

        def change(
            sender: Role, index: int, packet: bytes, position: int = position
        ) -> list[bytes]:
            if not is_answer(sender, index):
                return [packet]
            changed = bytearray(packet)
            changed[header + position] ^= 1
            return [bytes(changed)]

        pair.middle = change
        pair.pump()
        assert pair.client.phase is Phase.TERMINATED, position
        assert not pair.of_type(CLIENT, HostKeyPresented)
        assert pair.sent_numbers(CLIENT) == [*NO_CREDENTIAL, 1]


def answer_of(pair: CorePair) -> list[bytes]:
    """Return, and keep, the packet of a server's answer, which has not arrived yet."""
    kept: list[bytes] = []

    def keep(sender: Role, index: int, packet: bytes) -> list[bytes]:
        if is_answer(sender, index):
            kept.append(packet)
        return [packet]

    pair.middle = keep
    return kept


def test_an_answer_from_another_connection() -> None:
    """T-26: a recorded proof, of the very same server, does not help."""
    first = CorePair()
    kept = answer_of(first)
    first.pump()
    assert first.client.phase is Phase.ENCRYPTED
    second = CorePair()
    second.middle = lambda sender, index, packet: kept if is_answer(sender, index) else [packet]
    second.pump()
    assert_not_believed(second)


def test_an_answer_that_is_given_twice() -> None:
    pair = CorePair()
    pair.middle = lambda sender, index, packet: (
        [packet, packet] if is_answer(sender, index) else [packet]
    )
    pair.pump()
    assert_terminated(pair, CLIENT, DisconnectReason.PROTOCOL_ERROR)
    assert not pair.of_type(CLIENT, Authenticated)


# Keys that are none


def point(key: Key) -> bytes:
    return key.public_blob[-(2 * ((key.bits + 7) // 8) + 1) :]


def mpint(value: int) -> bytes:
    return string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


MODULUS = RSA_KEY.to_cryptography().public_key().public_numbers().n
CURVE = string("ecdsa-sha2-nistp256") + string("nistp256")
P256 = point(KEYS["ecdsa-sha2-nistp256"])
ED25519 = KEYS["ssh-ed25519"].public_blob
WRONG_BLOBS: dict[str, bytes] = {
    "empty": b"",
    "type alone": string("ssh-ed25519"),
    "31 bytes": string("ssh-ed25519") + string(bytes(31)),
    "and more": ED25519 + b"\0",
    "cut": ED25519[:-1],
    "unknown type": string("ssh-unknown") + string(bytes(32)),
    "DSA": string("ssh-dss") + mpint(7) * 4,
    "certificate": string("ssh-ed25519-cert-v01@openssh.com") + string(bytes(32)) + ED25519[15:],
    "1024 bits": string("ssh-rsa") + mpint(65537) + mpint(MODULUS >> 1024 | 1),
    "65536 bits": string("ssh-rsa") + mpint(65537) + mpint(1 << 65535 | 1),
    "even exponent": string("ssh-rsa") + mpint(65536) + mpint(MODULUS),
    "huge exponent": string("ssh-rsa") + mpint(2**64 + 1) + mpint(MODULUS),
    "not minimal": string("ssh-rsa") + mpint(65537) + string(b"\0" + mpint(MODULUS)[4:]),
    "negative": string("ssh-rsa") + mpint(65537) + string(b"\x80" + bytes(256)),
    "infinity": CURVE + string(b"\0"),
    "compressed": CURVE + string(b"\x02" + P256[1:33]),
    "off the curve": CURVE + string(P256[:-1] + bytes([P256[-1] ^ 1])),
    "another curve": string("ecdsa-sha2-nistp256") + string("nistp521") + string(P256),
    "length that lies": string("ssh-ed25519") + b"\xff\xff\xff\xff" + bytes(32),
    "long": string("ssh-ed25519") + string(bytes(20_000)),
    "name to show": string("\x1b[2J\n" + "x" * 1000) + string(bytes(32)),
    "name that is not UTF-8": string(b"\xff\xfe") + string(bytes(32)),
}


class Pretender:
    """A host key that is none."""

    def __init__(self, blob: bytes) -> None:
        self.public_blob = blob

    def sign(self, data: bytes) -> bytes:
        return KEYS["ssh-ed25519"].sign(data)


@pytest.mark.parametrize("case", WRONG_BLOBS)
def test_blobs_that_are_no_keys(case: str) -> None:
    """T-24, HR-40, HR-42, HR-43: DISCONNECT 9, cheaply; the error is safe to show."""
    peer = ScriptedPeer(CLIENT)
    peer.greet()
    peer.send("KEXINIT")
    pretender: Any = Pretender(WRONG_BLOBS[case])
    peer.host_key = pretender
    start = time.thread_time()
    peer.send("KEXDH_REPLY")
    assert time.thread_time() - start < 0.02
    assert peer.is_over
    assert [payload[0] for payload in peer.heard] == [*NO_CREDENTIAL, 1]
    disconnect = Disconnect.decode(peer.heard[-1])
    assert disconnect.reason == DisconnectReason.HOST_KEY_NOT_VERIFIABLE
    assert disconnect.description == "host key not verifiable"
    error: Any = peer.events[-1]
    assert isinstance(error.error, HostKeyError)
    assert str(error.error).isprintable()
    assert len(str(error.error)) < 600


# The application's word


def test_the_key_is_shown_once_it_is_proved() -> None:
    """HR-35: the application sees the public key, after the proof and before anything else."""
    pair = CorePair(answers=Answers(host_key=None))
    pair.pump()
    (event,) = pair.of_type(CLIENT, HostKeyPresented)
    assert event.key == host_key()
    assert not event.key.has_private
    assert event.key.fingerprint == host_key().fingerprint


def client_calls(pair: CorePair) -> dict[str, Callable[[], object]]:
    core, key = pair.client, host_key()
    return {
        "none": lambda: core.client_authentication.request_none("a"),
        "password": lambda: core.client_authentication.request_password("a", "secret"),
        "query": lambda: core.client_authentication.query_key("a", key, "ssh-ed25519"),
        "interactive": lambda: core.client_authentication.request_interactive("a"),
        "service": lambda: core.request_service("ssh-connection"),
        "channel": lambda: pair.connections[CLIENT].open_channel("session"),
        "rekey": lambda: core.start_rekey(pair.now),
    }


def test_nothing_is_requested_before_the_key_is_accepted() -> None:
    """HR-35: every call raises and nothing leaves, however long that takes."""
    pair = CorePair(answers=Answers(host_key=None))
    pair.pump()
    (event,) = pair.of_type(CLIENT, HostKeyPresented)
    before = pair.sent_numbers(CLIENT)
    for seconds in (0, 1, 50):
        pair.advance(seconds)
        for call in client_calls(pair).values():
            with pytest.raises(LocalProtocolError):
                call()
        assert pair.take(CLIENT) == []
    assert pair.sent_numbers(CLIENT) == before == [20, 30, 21]
    event.accept(pair.now)
    pair.authenticate()
    pair.assert_usable()


def test_nothing_is_believed_before_the_key_is_accepted() -> None:
    """HR-37: a server that goes ahead is refused; its messages reach nobody."""
    early = {
        "service": b"\x06" + string("ssh-userauth"),
        "success": b"\x34",
        "failure": b"\x33" + string("password") + b"\0",
        "banner": b"\x35" + string("type your password here") + string(""),
        "question": b"\x3c" + string("") * 3 + struct.pack(">I", 0),
        "request": b"\x50" + string("x") + b"\x01",
        "channel": b"\x5a" + string("session") + bytes(12),
        "new keys": pair_kexinit(),
    }
    for case, payload in early.items():
        pair = CorePair(answers=Answers(host_key=None))
        pair.pump()
        events = len(pair.events[CLIENT])
        pair.inject(SERVER, payload)
        assert_terminated(pair, CLIENT, DisconnectReason.PROTOCOL_ERROR)
        assert len(pair.events[CLIENT]) == events + 1, case
        pair.of_type(CLIENT, HostKeyPresented)[0].accept(pair.now)
        assert pair.take(CLIENT) == []
        with pytest.raises(LocalProtocolError):
            pair.client.client_authentication.request_password("a", "secret")
        assert pair.take(CLIENT) == []


def pair_kexinit() -> bytes:
    pair = CorePair()
    return pair.sent(SERVER)[0]


@pytest.mark.parametrize(
    "error",
    [
        HostKeyError("known_hosts line 7 says otherwise", "SHA256:hidden", "ssh-ed25519"),
        SSHError("the database at 10.0.0.1 is down"),
        LocalProtocolError("a bug at /home/alice"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_rejected_key(error: SSHError) -> None:
    """HR-35: DISCONNECT 9 whatever the reason, which is told here and not on the wire."""
    pair = CorePair(answers=Answers(host_key=lambda event, now: event.reject(error, now)))
    pair.pump()
    told = assert_terminated(pair, CLIENT, DisconnectReason.HOST_KEY_NOT_VERIFIABLE)
    assert told is error or (told is not None and told.__cause__ is error)
    assert pair.sent_numbers(CLIENT) == [20, 30, 21, 1]
    assert Disconnect.decode(pair.sent(CLIENT)[-1]).description == "host key not verifiable"
    assert not pair.of_type(CLIENT, ServiceAccepted)
    with pytest.raises(LocalProtocolError):
        _ = pair.client.client_authentication


def test_the_verdict_is_given_once() -> None:
    for first in ("accept", "reject"):
        for second in ("accept", "reject"):
            pair = CorePair(answers=Answers(host_key=None))
            pair.pump()
            (event,) = pair.of_type(CLIENT, HostKeyPresented)
            arguments: dict[str, tuple[Any, ...]] = {
                "accept": (pair.now,),
                "reject": (HostKeyError("no"), pair.now),
            }
            getattr(event, first)(*arguments[first])
            phase = pair.client.phase
            with pytest.raises(LocalProtocolError, match="already answered"):
                getattr(event, second)(*arguments[second])
            assert pair.client.phase is phase
            assert pair.client.exchanger.host_key_is_accepted == (first == "accept")


def test_verdicts_after_the_end_do_nothing() -> None:
    for verdict in ("accept", "reject"):
        pair = CorePair(answers=Answers(host_key=None))
        pair.pump()
        pair.end_stream()
        (event,) = pair.of_type(CLIENT, HostKeyPresented)
        told = len(pair.events[CLIENT])
        getattr(event, verdict)(*([HostKeyError("no")] if verdict == "reject" else []), pair.now)
        pair.pump()
        assert len(pair.events[CLIENT]) == told
        assert pair.client.phase is Phase.TERMINATED
        with pytest.raises(LocalProtocolError):
            pair.client.client_authentication.request_password("a", "secret")
        assert pair.take(CLIENT) == []


# Signing


class FaultyRsaKey(rsa.RSAPrivateKey):
    """Signs wrongly, as a fault in one half of the computation does."""

    def __init__(self, inner: rsa.RSAPrivateKey) -> None:
        self._inner = inner

    def sign(self, *arguments: Any) -> bytes:
        signature = bytearray(self._inner.sign(*arguments))
        signature[100] ^= 1
        return bytes(signature)

    def __copy__(self) -> FaultyRsaKey:
        return self

    def __deepcopy__(self, memo: object) -> FaultyRsaKey:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def decrypt(self, *arguments: Any) -> bytes:
        raise NotImplementedError

    @property
    def key_size(self) -> int:
        return self._inner.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        return self._inner.public_key()

    def private_numbers(self) -> rsa.RSAPrivateNumbers:
        return self._inner.private_numbers()

    def private_bytes(self, *arguments: Any) -> bytes:
        return self._inner.private_bytes(*arguments)


def test_a_faulty_signature_does_not_leave() -> None:
    """T-25, HR-45: a wrong RSA signature would give the private key away."""
    faulty = Key.from_cryptography(FaultyRsaKey(RSA_KEY.to_cryptography()))
    private: Any = faulty.to_cryptography()
    made = private.sign(b"x", padding.PKCS1v15(), hashes.SHA512())
    with pytest.raises(InvalidSignature):
        private.public_key().verify(made, b"x", padding.PKCS1v15(), hashes.SHA512())
    failures: list[SSHError] = []

    def sign(event: SignatureRequested, now: float) -> None:
        try:
            event.supply(event.key.sign(event.data, event.algorithm), now)
        except SSHError as error:
            failures.append(error)
            event.fail(KeyExchangeFailed("the host key could not sign"), now)

    config = fast_config(host_key_algorithms=["rsa-sha2-512"])
    pair = CorePair(config, host_keys=[faulty], answers=Answers(signature=sign))
    pair.pump()
    assert "does not verify" in str(failures[0])
    assert_terminated(pair, SERVER, DisconnectReason.KEY_EXCHANGE_FAILED)
    assert pair.sent_numbers(SERVER) == [20, 1]
    assert Disconnect.decode(pair.sent(SERVER)[-1]).description == "the host key could not sign"


def test_a_signature_is_supplied_once() -> None:
    pair = CorePair(answers=Answers(signature=None))
    pair.pump()
    (event,) = pair.of_type(SERVER, SignatureRequested)
    assert pair.sent_numbers(SERVER) == [20]
    event.supply(host_key().sign(event.data), pair.now)
    with pytest.raises(LocalProtocolError, match="already answered"):
        event.supply(b"", pair.now)
    with pytest.raises(LocalProtocolError, match="already answered"):
        event.fail(SSHError("no"), pair.now)
    pair.pump()
    assert pair.sent_numbers(SERVER) == [20, 31, 21, 7]
    pair.authenticate()


# New keys


def test_the_key_is_judged_once() -> None:
    """HR-36: a rekey proves the same key again and asks nobody."""
    pair = running_pair(channels=1)
    for starter in (*Role, *Role):
        pair.rekey(starter)
    assert len(pair.of_type(CLIENT, HostKeyPresented)) == 1
    assert len(pair.of_type(SERVER, SignatureRequested)) == 5
    pair.assert_usable()


def rekey_with(
    change: Callable[[KeyExchanger], None], config: Any = None, **arguments: Any
) -> CorePair:
    """Return a running pair that went through a rekey in which the server lied."""
    pair = running_pair(config, channels=1, **arguments)
    change(pair.server.exchanger)
    pair.rekey(CLIENT)
    return pair


@pytest.mark.parametrize("algorithm", ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512"])
def test_another_key_at_a_rekey(algorithm: str) -> None:
    """T-26, HR-36: DISCONNECT 9, even if the key is of the same kind and proved."""
    held = next(key for key in KEYS.values() if algorithm in key.signature_algorithms)
    other = host_key(algorithm, 31)

    def sign(event: SignatureRequested, now: float) -> None:
        key = held if event.key == held else other
        event.supply(key.sign(event.data, event.algorithm), now)

    def change(exchanger: KeyExchanger) -> None:
        exchanger._host_key_for = lambda algorithm: other  # type: ignore[method-assign]

    pair = rekey_with(
        change,
        fast_config(host_key_algorithms=[algorithm]),
        host_keys=[held],
        answers=Answers(signature=sign),
    )
    error = assert_terminated(pair, CLIENT, DisconnectReason.HOST_KEY_NOT_VERIFIABLE)
    assert isinstance(error, HostKeyError)
    assert held.fingerprint in str(error)
    assert error.fingerprint == other.fingerprint
    assert Disconnect.decode(pair.sent(CLIENT)[-1]).description == "host key not verifiable"
    assert pair.sent_numbers(CLIENT)[-3:] == [20, 30, 1]
    assert len(pair.of_type(CLIENT, HostKeyPresented)) == 1


def test_a_key_of_another_kind_at_a_rekey() -> None:
    """HR-36: a server's second key is not its first, though it would have done at the start."""
    keys = [KEYS["ssh-ed25519"], KEYS["ecdsa-sha2-nistp256"]]
    config = fast_config(host_key_algorithms=["ssh-ed25519", "ecdsa-sha2-nistp256"])
    pair = running_pair(config, host_keys=keys, channels=1)

    def change(exchanger: KeyExchanger) -> None:
        exchanger._host_keys = keys[1:]

    change(pair.server.exchanger)
    pair.rekey(SERVER)
    error = assert_terminated(pair, CLIENT, DisconnectReason.HOST_KEY_NOT_VERIFIABLE)
    assert keys[1].fingerprint in str(error)


def test_an_answer_from_the_exchange_before() -> None:
    """T-26: at a rekey the first answer is worth nothing any more."""
    pair = running_pair(channels=1)
    (first,) = [payload for payload in pair.sent(SERVER) if payload[0] == 31]
    exchanger = pair.server.exchanger

    repeat: Any = lambda *arguments: exchanger._transport.send(first)  # noqa: E731
    exchanger._send_reply = repeat  # type: ignore[method-assign]
    pair.rekey(CLIENT)
    error = assert_terminated(pair, CLIENT, DisconnectReason.HOST_KEY_NOT_VERIFIABLE)
    assert isinstance(error, HostKeyError)
    assert pair.sent_numbers(CLIENT)[-3:] == [20, 30, 1]


def test_an_unproved_key_at_a_rekey() -> None:
    """T-26: the right key is not enough, it has to sign the new hash."""
    pair = running_pair(channels=1)
    old: list[Event] = list(pair.of_type(SERVER, SignatureRequested))
    (first,) = old
    assert isinstance(first, SignatureRequested)
    signature = host_key().sign(first.data)
    pair.answers.signature = lambda event, now: event.supply(signature, now)
    pair.rekey(SERVER)
    assert isinstance(
        assert_terminated(pair, CLIENT, DisconnectReason.HOST_KEY_NOT_VERIFIABLE), HostKeyError
    )
