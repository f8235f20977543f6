"""Secrets stay secret (HR-71, T-53): in traces, in representations of objects, in errors.

A session goes through everything that involves a secret, while the inputs and outputs of key
derivation are recorded. Then whatever could end up in a log is searched: the lines of both traces,
events, exceptions with everything attached to them, the text of every DISCONNECT, and the ``repr``
and ``str`` of every object of ours that can be reached from the two cores.
"""

from __future__ import annotations

import base64
import functools
import gc
import struct
import traceback
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from anyssh.algorithms import derive_key
from anyssh.config import RECONNECT_EXTENSIONS, Limits
from anyssh.constants import Encryption, Mac, MessageNumber
from anyssh.errors import HostKeyError, LocalProtocolError
from anyssh.keys import Key
from anyssh.messages import Disconnect
from anyssh.protocol import Phase, Role
from anyssh.protocol import key_exchange as key_exchange_module
from anyssh.protocol.authentication import (
    Challenge,
    KeyboardInteractiveAttempt,
    PasswordAttempt,
    Prompt,
)
from anyssh.protocol.events import (
    AttemptMade,
    ChallengeReceived,
    ConnectionTerminated,
    SignatureRequested,
)
from anyssh.trace import TraceEvent

from .core_pair import CLIENT, SERVER, Answers, CorePair, fast_config, host_key

MIN_SECRET = 12
PASSWORD = "correct horse battery staple"
WRONG_PASSWORD = "incorrect donkey \u6771\u4eac"
ANSWER = "my first pet was Rex"
CHANNEL_DATA = b"what is said on a channel"
USER_KEY = host_key("ssh-ed25519", 40)
RSA_KEY = host_key("rsa-sha2-512", 40)
HOST_KEY = host_key("ecdsa-sha2-nistp256", 40)


# What to look for


def spellings(secret: bytes) -> set[str]:
    """Return the ways in which a secret, or the most of it, may stand in a text."""
    found = {secret.decode("latin-1"), repr(secret)[2:-1], repr(bytearray(secret))[12:-2]}
    found.add(secret.decode(errors="replace"))
    found.add(str(list(secret))[1:-1])
    found.add(str(int.from_bytes(secret, "big")))
    for piece in (secret[:MIN_SECRET], secret[-MIN_SECRET:]):
        found |= {piece.hex(), piece.hex().upper(), piece.hex(":"), piece.hex(" ")}
        for start in range(3):
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                end = start + (len(piece) - start) // 3 * 3
                found.add(encode(piece[start:end]).decode())
    return found


class Secrets:
    """What must not be told, by name."""

    def __init__(self) -> None:
        self.spellings: dict[str, str] = {}

    def add(self, name: str, secret: bytes | str) -> None:
        data = secret.encode() if isinstance(secret, str) else secret
        assert len(data) >= MIN_SECRET
        assert len(set(data)) > 4, "too plain to be looked for"
        for spelling in spellings(data):
            self.spellings[spelling] = name
        if isinstance(secret, str):
            self.spellings |= {secret: name, repr(secret)[1:-1]: name, ascii(secret)[1:-1]: name}

    def add_private_key(self, name: str, key: Key) -> None:
        private = key.to_cryptography()
        encoded = (Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        self.add(f"{name} as a whole", private.private_bytes(*encoded)[-48:])
        if key.algorithm == "ssh-rsa":
            numbers = private.private_numbers()
            for part in ("d", "p", "q"):
                self.add(
                    f"{name}, {part}", getattr(numbers, part).to_bytes(256, "big").lstrip(b"\0")
                )
        elif key.algorithm == "ssh-ed25519":
            self.add(f"{name}, seed", private.private_bytes_raw())
        else:
            self.add(f"{name}, number", private.private_numbers().private_value.to_bytes(32, "big"))

    def found_in(self, text: str) -> set[str]:
        """Return the names of the secrets that a text tells."""
        return {name for spelling, name in self.spellings.items() if spelling in text}


def exception_texts(error: BaseException | None) -> Iterator[str]:
    """Yield all that an exception, and whatever hangs on it, may put into a log."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield str(error)
        yield repr(error)
        yield repr(error.args)
        yield repr(vars(error))
        yield from getattr(error, "__notes__", ())
        yield "".join(traceback.format_exception(error))
        waiting += [error.__cause__, error.__context__]


# What can be reached

OPAQUE = (types.ModuleType, type, types.FrameType, types.CodeType)
MAX_OBJECTS = 200_000


def parts(value: object) -> Iterable[object]:
    """Return what an object refers to, without the globals of functions."""
    if isinstance(value, OPAQUE):
        return ()
    if isinstance(value, types.FunctionType):
        return (*(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__)
    return gc.get_referents(value)


def reachable(*roots: object) -> list[object]:
    """Return everything that can be reached from some objects, each once."""
    seen: dict[int, object] = {}
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        assert len(seen) < MAX_OBJECTS, "far more than two cores can need"
        waiting += parts(value)
    return list(seen.values())


def speaks_for_itself(value: object) -> bool:
    """Tell whether an object's ``repr`` is ours to answer for."""
    if isinstance(value, OPAQUE):
        return False
    modules = [kind.__module__.partition(".")[0] for kind in type(value).__mro__]
    kinds = (functools.partial, types.MethodType, types.FunctionType, BaseException)
    return "anyssh" in modules or "cryptography" in modules or isinstance(value, kinds)


def object_texts(*roots: object) -> Iterator[tuple[str, str]]:
    """Yield what each object of ours says of itself."""
    for value in reachable(*roots):
        if speaks_for_itself(value):
            for text in (repr(value), str(value), f"{value}"):
                yield type(value).__name__, text


# The scenario


class Watched:
    """A pair of cores whose traces and secrets are known."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, answers: Answers | None = None, **config: Any
    ) -> None:
        self.secrets = Secrets()
        self.trace: list[TraceEvent] = []
        self.errors: list[BaseException] = []
        self.derived = 0
        monkeypatch.setattr(key_exchange_module, "derive_key", self._derive)
        config.setdefault(
            "host_key_algorithms", [HOST_KEY.algorithm, "ssh-ed25519", "rsa-sha2-512"]
        )
        self.pair = CorePair(
            fast_config(limits=Limits(authentication_failures=100), **config),
            host_keys=[HOST_KEY],
            answers=answers or Answers(attempt=None),
            trace=self.trace.append,
        )
        for name, key in (("host key", HOST_KEY), ("user key", USER_KEY), ("RSA key", RSA_KEY)):
            self.secrets.add_private_key(name, key)
        for text in (PASSWORD, WRONG_PASSWORD, ANSWER):
            self.secrets.add("a password or answer", text)
        self.secrets.add("delay secret", bytes(range(100, 132)))
        self.pair.server._delay_secret = bytes(range(100, 132))
        self.secrets.add("bytes of a channel", CHANNEL_DATA)

    def _derive(
        self,
        hash_name: str,
        secret: bytes,
        exchange_hash: bytes,
        letter: bytes,
        session_id: bytes,
        size: int,
    ) -> bytes:
        key = derive_key(hash_name, secret, exchange_hash, letter, session_id, size)
        self.derived += 1
        self.secrets.add("shared secret", secret[5:])
        self.secrets.add("exchange hash", exchange_hash)
        self.secrets.add("session id", session_id)
        if size >= MIN_SECRET:
            self.secrets.add(f"derived key {letter.decode()}", key)
        return key

    def refused(self, call: Callable[[], object]) -> None:
        """Make a call that must raise, and keep its error."""
        with pytest.raises(LocalProtocolError) as caught:
            call()
        self.errors.append(caught.value)

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield all that could end in a log, each with what it is."""
        for event in self.trace:
            yield "trace", event.message
            yield "trace", repr(event)
            yield from (("trace's error", text) for text in exception_texts(event.error))
        for role, told in self.pair.log:
            yield f"event of the {role.name}", f"{told!r} {told}"
            if isinstance(told, ConnectionTerminated):
                yield from (("end", text) for text in exception_texts(told.error))
        for error in self.errors:
            yield from (("error", text) for text in exception_texts(error))
        for role in Role:
            for payload in self.pair.sent(role):
                if payload[0] == MessageNumber.DISCONNECT:
                    yield "disconnect", Disconnect.decode(payload).description
        yield "metrics", repr([core.transport.traffic for core in self.pair.cores.values()])
        yield from object_texts(*self.pair.cores.values(), self.pair.events, self.errors)

    def assert_nothing_told(self) -> None:
        """Search everything."""
        told = [
            (what, names, text[:200])
            for what, text in self.texts()
            if (names := self.secrets.found_in(text))
        ]
        assert told == []

    # Steps

    def authenticate(self) -> None:
        """Fail and succeed with every method there is."""
        pair = self.pair
        pair.pump()
        client = pair.client.client_authentication
        self.refused(lambda: client.respond((ANSWER,)))
        self.refused(lambda: client.request_password("alice", "\ud800" + PASSWORD))
        client.request_password("alice", WRONG_PASSWORD)
        pair.pump()
        self.refused(lambda: client.request_password("alice", PASSWORD))
        self._judge("reject")
        for key in (USER_KEY, RSA_KEY):
            algorithm = key.signature_algorithms[0]
            client.query_key("alice", key, algorithm)
            pair.pump()
            data = client.public_key_data("alice", key, algorithm)
            client.request_public_key("alice", key, algorithm, key.sign(data, algorithm))
            pair.pump()
            self._judge("reject")
        client.request_interactive("alice")
        pair.pump()
        self._judge("challenge", Challenge("sign-in", "", (Prompt("Pet: "),)))
        (asked,) = pair.of_type(CLIENT, ChallengeReceived)
        assert asked.challenge.prompts[0].text == "Pet: "
        self.refused(lambda: client.respond((ANSWER, ANSWER)))
        client.respond((ANSWER,))
        pair.pump()
        self._judge("reject")
        client.request_password("alice", PASSWORD)
        pair.pump()
        self._judge("accept", "principal")
        assert pair.client.phase is pair.server.phase is Phase.RUNNING

    def _judge(self, method: str, *arguments: object) -> None:
        attempt = self.pair.of_type(SERVER, AttemptMade)[-1]
        getattr(attempt, method)(*arguments, self.pair.now)
        self.refused(lambda: attempt.reject(self.pair.now))
        self.pair.pump()
        self.pair.advance(0.1)

    def talk(self) -> None:
        """Use a channel, under the first keys and under new ones."""
        ours, theirs = self.pair.open_channel()
        for _ in range(2):
            self.pair.send(CLIENT, ours, CHANNEL_DATA)
            self.pair.send(SERVER, theirs, CHANNEL_DATA)
            self.pair.rekey(SERVER)


PROTECTIONS = [
    (Encryption.AES256_GCM, Mac.HMAC_SHA2_256),
    (Encryption.CHACHA20_POLY1305, Mac.HMAC_SHA2_256),
    (Encryption.AES256_CTR, Mac.HMAC_SHA2_512_ETM),
    (Encryption.AES256_CTR, Mac.HMAC_SHA2_256),
    (Encryption.AES256_CBC, Mac.HMAC_SHA2_256),
]


@pytest.mark.parametrize("encryption, mac", PROTECTIONS)
def test_a_whole_session_tells_no_secret(
    encryption: str, mac: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T-53: with every method, a channel, new keys and a goodbye."""
    watched = Watched(monkeypatch, encryptions=[encryption], macs=[mac])
    watched.authenticate()
    watched.assert_nothing_told()
    watched.talk()
    watched.assert_nothing_told()
    watched.pair.client.disconnect(11, "bye")
    watched.pair.pump()
    watched.assert_nothing_told()
    assert watched.derived >= 2 * 3 * 4
    assert len(watched.trace) > 30


def test_no_secret_while_it_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-53: while the server holds passwords and answers, some of them waiting for their turn."""
    watched = Watched(monkeypatch)
    pair = watched.pair
    pair.pump()
    client = pair.client.client_authentication
    client.request_interactive("alice")
    pair.pump()
    pair.of_type(SERVER, AttemptMade)[0].challenge(Challenge("", "", (Prompt("?"),)), pair.now)
    pair.pump()
    client.respond((ANSWER,))
    pair.pump()
    watched.assert_nothing_told()
    pair.of_type(SERVER, AttemptMade)[1].reject(pair.now)
    pair.advance(0.1)
    client.request_password("alice", WRONG_PASSWORD)
    pair.inject(CLIENT, HEAD + string(b"password") + b"\0" + string(SECRET))
    assert pair.of_type(SERVER, AttemptMade)[-1].attempt == PasswordAttempt("alice", WRONG_PASSWORD)
    watched.assert_nothing_told()


@pytest.mark.parametrize(
    "method", ["curve25519-sha256", "ecdh-sha2-nistp384", "diffie-hellman-group14-sha256"]
)
def test_no_secret_in_the_middle_of_an_exchange(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T-53: while shares, secrets and signatures are held."""
    answers = Answers(host_key=None, signature=None)
    watched = Watched(monkeypatch, answers=answers, key_exchanges=[method])
    watched.pair.pump()
    (question,) = watched.pair.of_type(SERVER, SignatureRequested)
    watched.secrets.add("exchange hash", question.data)
    for value in reachable(*watched.pair.cores.values()):
        if type(value).__module__.startswith("cryptography") and hasattr(value, "private_bytes"):
            pkcs8 = value.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            watched.secrets.add("private share", pkcs8[-48:])
    watched.assert_nothing_told()
    question.supply(HOST_KEY.sign(question.data), watched.pair.now)
    watched.refused(lambda: question.supply(b"", watched.pair.now))
    watched.pair.pump()
    watched.assert_nothing_told()
    assert watched.derived


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


HEAD = b"\x32" + string(b"alice") + string(b"ssh-connection")
SECRET = PASSWORD.encode()
BAD_REQUESTS = {
    "password and more": HEAD + string(b"password") + b"\0" + string(SECRET) + SECRET,
    "password cut": HEAD + string(b"password") + b"\0" + string(SECRET)[:-1],
    "password that is not UTF-8": HEAD + string(b"password") + b"\0" + string(SECRET + b"\xff"),
    "password and no flag": HEAD + string(b"password") + string(SECRET),
    "password in the key": HEAD + string(b"publickey") + b"\x01" + string(SECRET) * 3,
    "password in a disconnect of ours": HEAD + string(b"password") + b"\x01" + string(SECRET),
    "answers unasked": b"\x3d\0\0\0\x01" + string(SECRET),
    "password outside": b"\x00" + SECRET,
    "password of an unknown number": b"\xc8" + SECRET,
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_errors_about_secrets_do_not_repeat_them(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T-53: nor does the DISCONNECT that follows."""
    watched = Watched(monkeypatch)
    pair = watched.pair
    pair.pump()
    pair.client.client_authentication.request_none("alice")
    pair.pump()
    pair.inject(CLIENT, BAD_REQUESTS[case])
    pair.advance(0.1)
    watched.assert_nothing_told()
    assert pair.server.phase is Phase.TERMINATED or case == "password in the key"


def test_bad_answers_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    for payload in (
        b"\x3d\0\0\0\x02" + string(SECRET) * 2,
        b"\x3d\0\0\0\x01" + string(SECRET + b"\xff"),
        b"\x3d\0\0\0\x01" + string(SECRET) + SECRET,
    ):
        watched = Watched(monkeypatch)
        pair = watched.pair
        pair.pump()
        pair.client.client_authentication.request_interactive("alice")
        pair.pump()
        pair.of_type(SERVER, AttemptMade)[0].challenge(Challenge("", "", (Prompt("?"),)), pair.now)
        pair.pump()
        pair.inject(CLIENT, payload)
        pair.advance(0.1)
        watched.assert_nothing_told()


def corrupt(pair: CorePair) -> None:
    pair.send(CLIENT, pair.open_channel()[0], CHANNEL_DATA)
    pair.connections[CLIENT].send_data(pair.channels[0][0], memoryview(CHANNEL_DATA))
    (packet,) = pair.take(CLIENT)
    pair.feed(SERVER, packet[:-1] + bytes([packet[-1] ^ 1]))


def change_the_host_key(pair: CorePair) -> None:
    pair.server.exchanger._host_key_for = lambda algorithm: USER_KEY  # type: ignore[method-assign]
    pair.answers.signature = lambda event, now: event.supply(USER_KEY.sign(event.data), now)
    pair.rekey(SERVER)


ENDS: dict[str, Callable[[CorePair], object]] = {
    "a wrong MAC": corrupt,
    "an illegal message": lambda pair: pair.inject(CLIENT, b"\x34" + SECRET),
    "a channel that is not there": lambda pair: pair.inject(
        CLIENT, *[b"\x5e" + struct.pack(">I", 999) + string(CHANNEL_DATA)] * 1100
    ),
    "a wrong offer": lambda pair: pair.inject(CLIENT, b"\x14" + SECRET),
    "another host key": change_the_host_key,
    "a lost stream": CorePair.end_stream,
}


@pytest.mark.parametrize("how", ENDS)
def test_no_end_tells_a_secret(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.authenticate()
    ENDS[how](watched.pair)
    watched.pair.pump()
    assert any(core.phase is Phase.TERMINATED for core in watched.pair.cores.values())
    watched.assert_nothing_told()


def test_a_rejected_host_key_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(host_key=lambda event, now: event.reject(HostKeyError("not mine"), now))
    watched = Watched(monkeypatch, answers=answers)
    watched.pair.pump()
    assert watched.pair.client.phase is Phase.TERMINATED
    watched.assert_nothing_told()
    assert watched.derived


# The search itself


def test_the_search_finds_secrets() -> None:
    """What is searched for above would be found, in every spelling."""
    secret = bytes(range(200, 232))
    secrets = Secrets()
    secrets.add("key", secret)
    secrets.add("password", PASSWORD)
    for text in (
        secret.hex(),
        secret.hex().upper(),
        secret.hex(":"),
        secret[:16].hex(),
        secret[16:].hex(),
        repr(secret),
        repr(b"around " + secret + b" it"),
        repr(bytearray(secret)),
        str(list(secret)),
        str(int.from_bytes(secret, "big")),
        secret.decode("latin-1"),
        base64.b64encode(secret).decode(),
        base64.b64encode(b"x" + secret).decode(),
        base64.b64encode(b"xy" + secret).decode(),
        base64.urlsafe_b64encode(secret).decode(),
    ):
        assert secrets.found_in(f"log: {text}!") == {"key"}, text
    for text in (PASSWORD, PASSWORD.encode().hex(), repr(PASSWORD.encode()), repr(PASSWORD)):
        assert "password" in secrets.found_in(f"log: {text}!"), text
    assert not secrets.found_in("nothing of the kind")


def test_the_walk_reaches_what_holds_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The objects that know the secrets are among those whose words were searched."""
    watched = Watched(monkeypatch)
    watched.pair.pump()
    watched.pair.client.client_authentication.request_password("alice", PASSWORD)
    watched.pair.pump()
    found = reachable(*watched.pair.cores.values(), watched.pair.events)
    names = {
        kind.__name__ for value in found if speaks_for_itself(value) for kind in type(value).__mro__
    }
    assert {
        "Core",
        "KeyExchanger",
        "Transport",
        "ServerAuthentication",
        "ClientAuthentication",
        "UserauthRequest",
        "PasswordAttempt",
        "AttemptMade",
        "SignatureRequested",
        "Key",
    } <= names
    session_id = watched.pair.client.exchanger.session_id
    assert any(value is session_id for value in found)
    assert PASSWORD in found
    sealed = [value for value in found if type(value).__name__.endswith(("Sealer", "Opener"))]
    assert len(sealed) >= 4


def held_secrets(watched: Watched) -> set[str]:
    """Return the names of the secrets whose very bytes the two cores still refer to."""
    pair = watched.pair
    for role in Role:  # what only tests keep
        pair.sent(role).clear()
        pair.events[role].clear()
    pair.log.clear()
    watched.trace.clear()
    watched.errors.clear()
    held: set[str] = set()
    for value in reachable(*pair.cores.values(), *pair.connections.values()):
        if isinstance(value, bytes | bytearray | memoryview):
            held |= watched.secrets.found_in(bytes(value).decode("latin-1"))
        elif isinstance(value, str):
            held |= watched.secrets.found_in(value)
        elif isinstance(value, int):
            held |= watched.secrets.found_in(str(value))
    return held


KEPT = {"session id", "delay secret"}
"""What a running session needs: to sign and to reconnect, and to take its time."""


@pytest.mark.parametrize("encryption, mac", PROTECTIONS)
@pytest.mark.parametrize("reconnect", [False, True])
def test_secrets_are_let_go_when_they_have_served(
    encryption: str, mac: str, reconnect: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HR-71: Python cannot wipe bytes, but what nobody refers to is memory for others at once.

    Passwords and answers go with their attempt, shared secrets with their exchange, and keys into
    the objects of the library below, from which nobody can read them.
    """
    extensions = {"extensions": RECONNECT_EXTENSIONS} if reconnect else {}
    watched = Watched(monkeypatch, encryptions=[encryption], macs=[mac], **extensions)
    watched.secrets.spellings = {
        spelling: name for spelling, name in watched.secrets.spellings.items() if "key" not in name
    }
    watched.authenticate()
    assert watched.pair.client.is_running
    assert watched.pair.server._authentication is None  # with all that it was told
    assert held_secrets(watched) <= KEPT
    watched.talk()
    watched.pair.rekey(CLIENT)
    held = held_secrets(watched)
    assert held <= KEPT
    assert "session id" in held  # so the search does find what is there


def test_errors_are_searched_to_the_bottom() -> None:
    """Causes, contexts, notes and attributes count as told."""
    error = ValueError("top")
    error.__cause__ = KeyError("cause")
    error.__context__ = KeyError("context")
    error.__cause__.__context__ = OSError("deep")
    error.add_note("noted")
    error.__dict__["kept"] = "attribute"
    text = " ".join(exception_texts(error))
    for word in ("top", "cause", "context", "deep", "noted", "attribute"):
        assert word in text


def test_attempts_do_not_show_what_was_typed() -> None:
    for attempt in (
        PasswordAttempt("alice", PASSWORD),
        KeyboardInteractiveAttempt("alice", (ANSWER,), 1),
    ):
        event = AttemptMade(attempt, None)
        for text in (repr(attempt), str(attempt), repr(event)):
            assert "alice" in text
            assert PASSWORD not in text
            assert ANSWER not in text
