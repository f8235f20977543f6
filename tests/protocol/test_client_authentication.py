"""A client core that authenticates: what it sends, and which replies it accepts.

The server is a :class:`Host`: it exchanges keys like any other, and then sends what a test wants.
Its messages are assembled from bytes here, without the package.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anyio.abc import AsyncBackend
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from anyssh.constants import DisconnectReason
from anyssh.errors import AuthenticationError, LocalProtocolError, RemoteProtocolError
from anyssh.messages import Disconnect, HostBasedFields, UserauthRequest
from anyssh.protocol import Phase
from anyssh.protocol.authentication import Challenge, Prompt
from anyssh.protocol.client_authentication import ClientAuthentication
from anyssh.protocol.events import (
    Authenticated,
    AuthenticationFailed,
    BannerReceived,
    ChallengeReceived,
    ConnectionTerminated,
    Event,
    KeyAccepted,
    PasswordExpired,
    ServiceAccepted,
)
from anyssh.session.client_authentication import Authenticator
from anyssh.session.credentials import ClientCredentials

from .core_pair import CLIENT, fast_config, host_key
from .scripted_peer import ScriptedPeer

DEV_TUNNELS = "SSH-2.0-Microsoft.DevTunnels.Ssh_3.12"
USER = "alice"
USER_KEY = host_key("ssh-ed25519", 20)
OTHER_KEY = host_key("ssh-ed25519", 21)
RSA_KEY = host_key("rsa-sha2-512", 20)


# Messages, byte by byte


def string(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(data)) + data


def uint32(value: int) -> bytes:
    return struct.pack(">I", value)


def request(method: str, fields: bytes = b"", user: str = USER) -> bytes:
    return b"\x32" + string(user) + string("ssh-connection") + string(method) + fields


def failure(*methods: str, partial: bool = False) -> bytes:
    return b"\x33" + string(",".join(methods)) + (b"\x01" if partial else b"\0")


def banner(text: str | bytes) -> bytes:
    return b"\x35" + string(text) + string("")


def key_accepted(algorithm: str, blob: bytes) -> bytes:
    return b"\x3c" + string(algorithm) + string(blob)


def question(
    *prompts: tuple[str, bool], name: str = "", instruction: str = "", grouped: bool = False
) -> bytes:
    head = b"\x3c" + string(name) + string(instruction) + string("") + uint32(len(prompts))
    texts = [string(text) for text, _ in prompts]
    echoes = [b"\x01" if echo else b"\0" for _, echo in prompts]
    if grouped:
        return head + b"".join(texts) + b"".join(echoes)
    return head + b"".join(map(bytes.__add__, texts, echoes))


SUCCESS = b"\x34"
GRANTED = b"\x06" + string("ssh-userauth")
WANTED = b"\x05" + string("ssh-userauth")


class Host(ScriptedPeer):
    """A server that says what a test wants, and the application of the client it says it to."""

    def __init__(
        self,
        request: Callable[[ClientAuthentication], object] | None = None,
        *,
        identification: str = "SSH-2.0-host_1.0",
        extensions: bytes | None = None,
        grants: bool = True,
    ) -> None:
        super().__init__(CLIENT, identification=identification)
        self.greet()
        for name in ("KEXINIT", "KEXDH_REPLY", "NEWKEYS"):
            self.send(name)
        if extensions is not None:
            self.say(extensions)
        if request is not None:
            self.do(request)
            if grants:
                assert self.say(GRANTED) == []

    @property
    def client(self) -> ClientAuthentication:
        """What the application calls."""
        return self.core.client_authentication

    def say(self, *payloads: bytes) -> list[bytes]:
        """Send payloads in one write; return what the client says at once."""
        first = len(self.heard)
        for payload in payloads:
            self.transport.send(payload)
        self.deliver()
        return self.heard[first:]

    def do(self, call: Callable[[ClientAuthentication], object]) -> list[bytes]:
        """Let the application do something; return what the client says."""
        call(self.client)
        return self.say()

    def told(self, *kinds: type[Event]) -> list[Any]:
        """Return the events of some kinds."""
        return [event for event in self.events if isinstance(event, kinds)]

    def assert_over(self, reason: int = DisconnectReason.PROTOCOL_ERROR) -> RemoteProtocolError:
        """Check that the client ended the connection and is not authenticated."""
        assert self.core.phase is Phase.TERMINATED
        assert Disconnect.decode(self.heard[-1]).reason == reason
        (end,) = self.told(ConnectionTerminated)
        assert self.events[-1:] == [end]
        assert isinstance(end.error, RemoteProtocolError)
        return end.error

    def assert_unchanged_by(
        self, call: Callable[[ClientAuthentication], object], match: str | None = None
    ) -> LocalProtocolError:
        """Check that a call raises and nothing comes of it."""
        before = (len(self.events), self.core.phase, self.core.transport.traffic)
        with pytest.raises(LocalProtocolError, match=match) as caught:
            call(self.client)
        assert self.say() == []
        assert (len(self.events), self.core.phase, self.core.transport.traffic) == before
        return caught.value


HOST_FIELDS = HostBasedFields("ssh-ed25519", USER_KEY.public_blob, "desk.", "al", b"")
REQUESTS: dict[str, Callable[[ClientAuthentication], object]] = {
    "none": lambda client: client.request_none(USER),
    "password": lambda client: client.request_password(USER, "wonderland"),
    "query": lambda client: client.query_key(USER, USER_KEY, "ssh-ed25519"),
    "publickey": lambda client: client.request_public_key(USER, USER_KEY, "ssh-ed25519", b"sig"),
    "hostbased": lambda client: client.request_host_based(USER, HOST_FIELDS, b"sig"),
    "interactive": lambda client: client.request_interactive(USER),
}
KEY_FIELDS = string("ssh-ed25519") + string(USER_KEY.public_blob)
ON_THE_WIRE = {
    "none": request("none"),
    "password": request("password", b"\0" + string("wonderland")),
    "query": request("publickey", b"\0" + KEY_FIELDS),
    "publickey": request("publickey", b"\x01" + KEY_FIELDS + string(b"sig")),
    "hostbased": request("hostbased", KEY_FIELDS + string("desk.") + string("al") + string(b"sig")),
    "interactive": request("keyboard-interactive", string("") + string("")),
}


# What leaves


@pytest.mark.parametrize("kind", REQUESTS)
def test_requests_on_the_wire(kind: str) -> None:
    """The first one takes the service request along and does not wait for its grant."""
    host = Host()
    assert host.do(REQUESTS[kind]) == [WANTED, ON_THE_WIRE[kind]]
    assert host.say(GRANTED, failure("password")) == []
    assert [event.name for event in host.told(ServiceAccepted)] == ["ssh-userauth"]
    assert host.do(REQUESTS["password"]) == [ON_THE_WIRE["password"]]


def test_answers_on_the_wire() -> None:
    host = Host(REQUESTS["interactive"])
    host.say(question(("a", False), ("b", True)))
    sent = host.do(lambda client: client.respond(("\u6771\u4eac", "")))
    assert sent == [b"\x3d" + uint32(2) + string("\u6771\u4eac") + string("")]
    host.say(question())
    assert host.do(lambda client: client.respond(())) == [b"\x3d" + uint32(0)]


def test_what_has_to_be_signed() -> None:
    """RFC 4252 sections 7 and 9, over the session id of this connection."""
    host = Host()
    service = string("ssh-connection")
    start = string(host.session_id) + b"\x32" + string("bob") + service
    blob = string(RSA_KEY.public_blob)
    expected = start + string("publickey") + b"\x01" + string("rsa-sha2-256") + blob
    data = host.client.public_key_data("bob", RSA_KEY, "rsa-sha2-256")
    assert data == expected
    public = RSA_KEY.to_cryptography().public_key()
    signature = RSA_KEY.sign(data, "rsa-sha2-256")
    assert signature.startswith(string("rsa-sha2-256"))
    public.verify(signature[20:], expected, padding.PKCS1v15(), hashes.SHA256())
    names = string("desk.") + string("al")
    assert host.client.host_based_data("bob", HOST_FIELDS) == (
        start + string("hostbased") + KEY_FIELDS + names
    )


def test_a_private_key_stays() -> None:
    """Queries and proofs carry the public half, whichever half is given."""
    fields = b"\0" + string("rsa-sha2-512") + string(RSA_KEY.public_blob)
    for key in (RSA_KEY, RSA_KEY.public()):
        host = Host()
        host.client.query_key(USER, key, "rsa-sha2-512")
        assert host.say() == [WANTED, request("publickey", fields)]


# Misuse


@pytest.mark.parametrize("first", REQUESTS)
def test_one_request_at_a_time(first: str) -> None:
    """A second one raises, and the first one's reply is understood as if it had not been tried."""
    replies = {"query": key_accepted("ssh-ed25519", USER_KEY.public_blob)}
    replies["interactive"] = question(("?", False))
    events: dict[str, type[Event]] = {"query": KeyAccepted, "interactive": ChallengeReceived}
    others = REQUESTS | {
        "other query": lambda client: client.query_key(USER, OTHER_KEY, "ssh-ed25519"),
        "answers": lambda client: client.respond(()),
    }
    for second in others.values():
        host = Host(REQUESTS[first])
        host.assert_unchanged_by(second)
        host.say(replies.get(first, SUCCESS))
        assert len(host.told(events.get(first, Authenticated))) == 1


def test_a_query_that_was_refused_us_asks_about_nothing() -> None:
    """The key of a call that raised must not pass for the one that was asked about."""
    host = Host(REQUESTS["query"])
    host.assert_unchanged_by(lambda client: client.query_key(USER, OTHER_KEY, "ssh-ed25519"))
    host.say(key_accepted("ssh-ed25519", OTHER_KEY.public_blob))
    assert "did not ask" in str(host.assert_over())


UNENCODABLE = "\ud800hidden"
UNENCODABLE_CALLS: dict[str, Callable[[ClientAuthentication], object]] = {
    "user of none": lambda client: client.request_none(UNENCODABLE),
    "user of a password": lambda client: client.request_password(UNENCODABLE, "wonderland"),
    "password": lambda client: client.request_password(USER, UNENCODABLE),
    "user of a query": lambda client: client.query_key(UNENCODABLE, OTHER_KEY, "ssh-ed25519"),
    "algorithm": lambda client: client.query_key(USER, OTHER_KEY, UNENCODABLE),
    "user of a key": lambda client: client.request_public_key(UNENCODABLE, USER_KEY, "x", b""),
    "host": lambda client: client.request_host_based(
        USER, HostBasedFields("x", b"", UNENCODABLE, "al", b""), b""
    ),
    "user to be asked": lambda client: client.request_interactive(UNENCODABLE),
}


@pytest.mark.parametrize("case", UNENCODABLE_CALLS)
def test_text_that_cannot_be_sent(case: str) -> None:
    """It raises and changes nothing: another request can follow, the service request with it."""
    host = Host()
    error = host.assert_unchanged_by(UNENCODABLE_CALLS[case])
    if case == "password":
        assert "hidden" not in f"{error} {error!r} {error.__context__!r} {error.__cause__!r}"
    assert host.do(REQUESTS["password"]) == [WANTED, ON_THE_WIRE["password"]]
    host.say(GRANTED, SUCCESS)
    assert host.core.phase is Phase.RUNNING


def test_answers_that_cannot_be_sent() -> None:
    host = Host(REQUESTS["interactive"])
    host.say(question(("?", False)))
    error = host.assert_unchanged_by(lambda client: client.respond((UNENCODABLE,)))
    assert "hidden" not in f"{error} {error!r} {error.__context__!r} {error.__cause__!r}"
    assert host.do(lambda client: client.respond(("fine",))) == [
        b"\x3d" + uint32(1) + string("fine")
    ]


def test_answers_need_a_question() -> None:
    for kind in (None, "none", "query", "interactive"):
        host = Host(None if kind is None else REQUESTS[kind])
        host.assert_unchanged_by(lambda client: client.respond(()), "has not sent a challenge")
    host = Host(REQUESTS["interactive"])
    host.say(question(("a", False), ("b", False)))
    for answers in ((), ("x",), ("x", "y", "z")):
        with pytest.raises(LocalProtocolError, match="2 answers"):
            host.client.respond(answers)
        assert host.say() == []
    host.do(lambda client: client.respond(("1", "2")))
    host.assert_unchanged_by(lambda client: client.respond(("1", "2")), "has not sent a challenge")


@pytest.mark.parametrize("kind", REQUESTS)
def test_nothing_to_request_once_authenticated(kind: str) -> None:
    host = Host(REQUESTS["none"])
    host.say(SUCCESS)
    host.assert_unchanged_by(REQUESTS[kind], "already")
    host.assert_unchanged_by(lambda client: client.respond(()))


def leave(host: Host) -> None:
    host.core.disconnect(11, "bye")
    host.say()


ENDS: dict[str, Callable[[Host], object]] = {
    "the server left": lambda host: host.say(b"\x01" + uint32(11) + string("") + string("")),
    "we left": leave,
    "the server broke the protocol": lambda host: host.say(b"\x5e" + bytes(8)),
    "the stream ended": lambda host: host.core.receive_eof(host.now),
}


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("how", ENDS)
def test_no_credential_leaves_after_the_end(how: str, kind: str) -> None:
    """Nothing follows a goodbye, least of all a password."""
    host = Host()
    client = host.client
    ENDS[how](host)
    assert host.core.phase is Phase.TERMINATED
    with pytest.raises(LocalProtocolError):
        REQUESTS[kind](client)
    assert host.core.data_to_send(host.now) == b""
    with pytest.raises(LocalProtocolError):
        _ = host.client


# Replies


def test_failures() -> None:
    """What the server would still take is passed on; then the next request may leave."""
    for methods, partial in (((), False), (("password",), True), (("a", "b@example.com"), False)):
        host = Host(REQUESTS["password"])
        host.say(failure(*methods, partial=partial))
        (event,) = host.told(AuthenticationFailed)
        assert (event.methods_left, event.partial_success) == (methods, partial)
        assert not host.core.is_running
        host.do(REQUESTS["interactive"])
        host.say(SUCCESS)
        assert host.core.phase is Phase.RUNNING


@pytest.mark.parametrize("kind", [kind for kind in REQUESTS if kind != "query"])
def test_success(kind: str) -> None:
    host = Host(REQUESTS[kind])
    host.say(SUCCESS)
    assert [event.principal for event in host.told(Authenticated)] == [None]
    assert host.core.phase is Phase.RUNNING


def test_success_is_no_answer_to_a_query() -> None:
    """Nothing was proved yet: such a server wants to be believed too easily."""
    host = Host(REQUESTS["query"])
    host.say(SUCCESS)
    host.assert_over()
    assert not host.told(Authenticated)


def idle() -> Iterator[tuple[str, Host]]:
    """Yield clients that wait for no reply."""
    yield "nothing requested", Host()
    host = Host(REQUESTS["password"])
    host.say(failure("password"))
    yield "a request was refused", host
    host = Host(REQUESTS["query"])
    host.say(key_accepted("ssh-ed25519", USER_KEY.public_blob))
    yield "a query was answered", host
    host = Host(REQUESTS["interactive"])
    host.say(question(("?", False)))
    yield "the answers are ours", host
    host = Host(REQUESTS["none"])
    host.say(SUCCESS)
    yield "authenticated", host


UNASKED = {
    "success": SUCCESS,
    "failure": failure("password"),
    "key accepted": key_accepted("ssh-ed25519", USER_KEY.public_blob),
    "question": question(("?", False)),
}


@pytest.mark.parametrize("reply", UNASKED)
def test_replies_that_nobody_waits_for(reply: str) -> None:
    """T-23: DISCONNECT 2, without an event."""
    for case, host in idle():
        before = len(host.events)
        host.say(UNASKED[reply])
        host.assert_over()
        assert len(host.events) == before + 1, case


def test_only_one_reply_to_a_request() -> None:
    for first, second in (
        (failure("password"), SUCCESS),
        (failure("password"), failure("password")),
        (SUCCESS, SUCCESS),
        (SUCCESS, failure("password")),
    ):
        host = Host(REQUESTS["password"])
        host.say(first, second)
        host.assert_over()
        assert len(host.told(Authenticated, AuthenticationFailed)) == 1


def test_replies_before_the_service_is_granted() -> None:
    for reply in UNASKED.values():
        host = Host(REQUESTS["password"], grants=False)
        host.say(reply)
        host.assert_over()
        assert not host.told(Authenticated, AuthenticationFailed, BannerReceived)


@pytest.mark.parametrize(
    "payload",
    [
        SUCCESS + b"\0",
        failure("password") + b"\0",
        failure("password")[:-1],
        b"\x33",
        b"\x33" + string("a,,b") + b"\0",
        b"\x33" + string("a b") + b"\0",
        b"\x33" + string(",".join(["x"] * 257)) + b"\0",
        b"\x33" + string("x" * 65) + b"\0",
        b"\x33" + string(b"pass\xff") + b"\0",
        b"\x33" + string("\x1b[2J") + b"\0",
        b"\x35" + string("hello") + string("") + b"\0",
        b"\x35" + uint32(100) + b"hello",
    ],
    ids=lambda payload: payload[:12].hex(),
)
def test_replies_of_a_wrong_form(payload: bytes) -> None:
    host = Host(REQUESTS["password"])
    host.say(payload)
    host.assert_over()
    assert not host.told(Authenticated, AuthenticationFailed, BannerReceived)


def test_what_only_clients_send() -> None:
    """T-02: requests and answers from a server."""
    for payload in (request("none"), b"\x3d" + uint32(0), WANTED):
        for kind in ("password", "interactive"):
            host = Host(REQUESTS[kind])
            host.say(payload)
            host.assert_over()


# Message 60


def test_keys_that_are_accepted() -> None:
    """Some servers name the key's type instead of the algorithm."""
    for algorithm in ("rsa-sha2-512", "ssh-rsa"):
        host = Host(lambda client: client.query_key(USER, RSA_KEY, "rsa-sha2-512"))
        host.say(key_accepted(algorithm, RSA_KEY.public_blob))
        assert len(host.told(KeyAccepted)) == 1
        assert not host.told(Authenticated)
        assert host.core.phase is Phase.AUTHENTICATION
        assert len(host.do(REQUESTS["publickey"])) == 1


@pytest.mark.parametrize(
    "payload",
    [
        key_accepted("rsa-sha2-256", RSA_KEY.public_blob),
        key_accepted("", RSA_KEY.public_blob),
        key_accepted("rsa-sha2-512", host_key("rsa-sha2-512", 21).public_blob),
        key_accepted("rsa-sha2-512", b""),
        key_accepted("rsa-sha2-512", RSA_KEY.public_blob + b"\0"),
        key_accepted("rsa-sha2-512", RSA_KEY.public_blob) + b"\0",
        key_accepted("rsa-sha2-512", RSA_KEY.public_blob)[:-1],
        question(("?", False)),
        b"\x3c",
    ],
    ids=[
        "other algorithm",
        "no algorithm",
        "other key",
        "no key",
        "more key",
        "more",
        "cut",
        "question",
        "empty",
    ],
)
def test_keys_that_were_not_asked_about(payload: bytes) -> None:
    host = Host(lambda client: client.query_key(USER, RSA_KEY, "rsa-sha2-512"))
    host.say(payload)
    host.assert_over()
    assert not host.told(KeyAccepted, ChallengeReceived)


@pytest.mark.parametrize("kind", ["none", "publickey", "hostbased"])
def test_60_belongs_to_queries_and_questions_and_passwords(kind: str) -> None:
    """T-23: no other method has a message 60, so it cannot stand for success either."""
    for payload in (UNASKED["key accepted"], UNASKED["question"], b"\x3c"):
        host = Host(REQUESTS[kind])
        host.say(payload)
        host.assert_over()
        assert not host.told(KeyAccepted, ChallengeReceived, Authenticated)


def test_a_password_that_has_expired() -> None:
    """RFC 4252 section 8: that the server wants another one is no breach; other methods may do."""
    host = Host(REQUESTS["password"])
    assert host.say(b"\x3c" + string("Choose \x1b[2J another:") + string("en")) == []
    assert [event.prompt for event in host.told(PasswordExpired)] == ["Choose \\x1b[2J another:"]
    assert host.do(REQUESTS["publickey"]) == [ON_THE_WIRE["publickey"]]
    host.say(SUCCESS)
    assert host.core.phase is Phase.RUNNING


@pytest.mark.parametrize("payload", [b"\x3c", question(("?", False))], ids=["empty", "question"])
def test_a_password_is_answered_in_its_own_form(payload: bytes) -> None:
    host = Host(REQUESTS["password"])
    host.say(payload)
    host.assert_over()
    assert not host.told(PasswordExpired, ChallengeReceived)


def test_60_is_no_success() -> None:
    """Neither its answers nor the server's silence open the connection."""
    host = Host(REQUESTS["interactive"])
    host.say(question())
    host.do(lambda client: client.respond(()))
    assert host.core.phase is Phase.AUTHENTICATION
    with pytest.raises(LocalProtocolError):
        host.connection.open_channel("session")
    host.say(b"\x50" + string("x") + b"\0")
    host.assert_over()


# Questions

THREE = (("Password: ", False), ("OTP: ", True), ("PIN: ", False))
PROMPTS = (Prompt("Password: "), Prompt("OTP: ", True), Prompt("PIN: "))


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("grouped", [False, True], ids=["as in the RFC", "grouped"])
@pytest.mark.parametrize("identification", ["SSH-2.0-host_1.0", DEV_TUNNELS])
def test_both_layouts_of_questions(identification: str, grouped: bool, count: int) -> None:
    """RFC 4256 section 3.2 and that of Dev Tunnels, whoever sends them."""
    host = Host(REQUESTS["interactive"], identification=identification)
    host.say(question(*THREE[:count], name="sign-in", instruction="now", grouped=grouped))
    (event,) = host.told(ChallengeReceived)
    assert event.challenge == Challenge("sign-in", "now", PROMPTS[:count])


def test_a_question_of_dev_tunnels() -> None:
    """The bytes that their own library sends."""
    payload = bytes.fromhex(
        "3c00000004617574680000000e506c6561736520726573706f6e6400000002656e"
        "000000030000000a50617373776f72643a20000000054f54503a200000000550494e3a20000100"
    )
    host = Host(REQUESTS["interactive"], identification=DEV_TUNNELS)
    host.say(payload)
    (event,) = host.told(ChallengeReceived)
    assert event.challenge == Challenge("auth", "Please respond", PROMPTS)


def test_no_more_than_sixteen_prompts() -> None:
    """HR-27: counted before any is read."""
    for grouped in (False, True):
        host = Host(REQUESTS["interactive"])
        host.say(question(*[("?", False)] * 16, grouped=grouped))
        assert len(host.told(ChallengeReceived)[0].challenge.prompts) == 16
    head = b"\x3c" + string("") * 3
    for payload in (
        question(*[("?", False)] * 17),
        question(*[("?", False)] * 17, grouped=True),
        head + b"\xff\xff\xff\xff",
        head + b"\xff\xff\xff\xff" + bytes(30_000),
        head + uint32(16) + bytes(79),
        question(("?", False)) + b"\0",
        question(("?", False))[:-1],
    ):
        host = Host(REQUESTS["interactive"])
        host.say(payload)
        host.assert_over()
        assert not host.told(ChallengeReceived)


def test_questions_are_safe_to_show() -> None:
    """HR-06: no control or direction characters, no long lines."""
    evil = "\x1b[2J\r\x07\u202e\x9b" + "x" * 10_000
    host = Host(REQUESTS["interactive"])
    lines = f"one\n{evil}\nthree"
    host.say(question((lines, False), name=evil, instruction=lines))
    (event,) = host.told(ChallengeReceived)
    challenge = event.challenge
    texts = (challenge.instruction, challenge.prompts[0].text)
    for text in (challenge.name, *texts[0].split("\n"), *texts[1].split("\n")):
        assert text.isprintable()
        assert len(text) <= 256
    assert all(text.startswith("one\n") and text.endswith("\nthree") for text in texts)


def test_a_menu_before_a_question_is_shown_whole() -> None:
    """As servers with a second factor send it; the question itself comes last."""
    menu = "".join(f" {number}. Call +XX XXX XXX {number:04}\n" for number in range(9))
    text = f"Second factor for alice\n\nChoose one of these:\n\n{menu}\nOption (1-9): "
    host = Host(REQUESTS["interactive"])
    host.say(question((text, True)))
    (event,) = host.told(ChallengeReceived)
    assert event.challenge.prompts == (Prompt(text, echo=True),)


def test_questions_that_are_not_utf8_are_mended() -> None:
    host = Host(REQUESTS["interactive"])
    host.say(b"\x3c" + string(b"\xff") + string("") * 2 + uint32(1) + string(b"P\xffIN") + b"\0")
    (event,) = host.told(ChallengeReceived)
    assert event.challenge.prompts == (Prompt("P\ufffdIN"),)


def test_round_after_round() -> None:
    """One answer to each question, and no second question before it."""
    host = Host(REQUESTS["interactive"])
    for number in range(12):
        host.say(question((str(number), False)))
        assert len(host.told(ChallengeReceived)) == number + 1
        assert len(host.do(lambda client: client.respond(("x",)))) == 1
    host.say(question(("?", False)), question(("again?", False)))
    host.assert_over()


def test_questions_without_prompts_come_to_an_end() -> None:
    """HR-26: each of them costs its user nothing, so nobody else would put an end to them."""
    host = Host(REQUESTS["interactive"])
    most = host.core.config.limits.unauthenticated_packets
    for _ in range(most):
        assert host.core.transport.messages_received <= most
        host.say(question())
        if host.core.phase is Phase.TERMINATED:
            break
        host.do(lambda client: client.respond(()))
    assert "packets before authentication" in str(host.assert_over())
    assert not host.told(Authenticated)


def test_another_request_abandons_a_question() -> None:
    """RFC 4252 section 5: the server forgets it, and so do we."""
    host = Host(REQUESTS["interactive"])
    host.say(question(("?", False)))
    assert host.do(REQUESTS["password"]) == [ON_THE_WIRE["password"]]
    host.assert_unchanged_by(lambda client: client.respond(("x",)), "has not sent a challenge")
    host.say(SUCCESS)
    assert host.core.phase is Phase.RUNNING


# Banners


def test_banners_are_shown_once_they_are_safe() -> None:
    """HR-06: several lines, each without control characters, none of them long."""
    host = Host(REQUESTS["password"])
    host.say(banner("Welcome\r\nto \x1b[31mhere\u202e\n" + "x" * 1000), banner(b"\xff"))
    first, second = [event.message for event in host.told(BannerReceived)]
    lines = first.split("\n")
    assert lines[0] == "Welcome"
    assert lines[1] == "to \\x1b[31mhere\\u202e"
    assert lines[2:] == ["x" * 256]
    assert second == "\ufffd"
    host.say(banner("\n".join(["line"] * 1000)))
    assert len(host.told(BannerReceived)[-1].message.split("\n")) <= 64
    assert host.core.phase is Phase.AUTHENTICATION


def test_a_banner_without_a_language() -> None:
    host = Host(REQUESTS["password"])
    host.say(b"\x35" + string("hello"), SUCCESS)
    assert [event.message for event in host.told(BannerReceived)] == ["hello"]
    assert host.core.phase is Phase.RUNNING


def test_banners_between_requests() -> None:
    """RFC 4252 section 5.4: at any time before success, which the server cannot time better."""
    cases = dict(idle())
    for case in ("a request was refused", "a query was answered", "the answers are ours"):
        host = cases[case]
        host.say(banner("hello"), banner("again"))
        assert [event.message for event in host.told(BannerReceived)] == ["hello", "again"], case
        host.do(REQUESTS["password"])
        host.say(SUCCESS)
        assert host.core.phase is Phase.RUNNING
    for case in ("nothing requested", "authenticated"):
        cases[case].say(banner("hello"))
        cases[case].assert_over()
        assert not cases[case].told(BannerReceived)


def test_no_more_than_sixteen_banners() -> None:
    """In all, however many requests they are spread over."""
    host = Host(REQUESTS["password"])
    for _ in range(4):
        host.say(*[banner("hello")] * 4, failure("password"))
        host.do(REQUESTS["password"])
    assert len(host.told(BannerReceived)) == 16
    host.say(banner("hello"))
    host.assert_over()
    assert len(host.told(BannerReceived)) == 16


# The service


@pytest.mark.parametrize("name", ["ssh-connection", "", "ssh-userauth\0", "\x1b[2J" + "x" * 999])
def test_another_service_is_granted(name: str) -> None:
    """HR-06: the error shows its name, as far as that is safe."""
    host = Host(REQUESTS["password"], grants=False)
    host.say(b"\x06" + string(name))
    assert str(host.assert_over()).isprintable()
    assert not host.told(ServiceAccepted)


def test_the_service_is_granted_once_and_only_if_asked_for() -> None:
    host = Host()
    host.say(GRANTED)
    host.assert_over()
    host = Host(REQUESTS["password"])
    host.say(GRANTED)
    host.assert_over()


# Which signatures the server takes


def ext_info(**extensions: bytes) -> bytes:
    entries = [string(name.replace("_", "-")) + string(value) for name, value in extensions.items()]
    return b"\x07" + uint32(len(entries)) + b"".join(entries)


@pytest.mark.parametrize(
    "told, rsa",
    [
        (None, "rsa-sha2-512"),
        (b"", "rsa-sha2-512"),
        (b"ssh-rsa,ssh-dss,rsa-sha2-256", "rsa-sha2-256"),
        (b"rsa-sha2-256,rsa-sha2-512,ssh-ed25519", "rsa-sha2-512"),
        (b"ssh-rsa", None),
        (b"none", None),
        (b"RSA-SHA2-512, ssh-ed25519,\xff\xfe", None),
        (b"ssh-ed25519," + b"x" * 5000, None),
    ],
    ids=str,
)
def test_the_server_narrows_our_algorithms(told: bytes | None, rsa: str | None) -> None:
    """HR-46: ours in our order, without those that it does not name; never one more.

    A key with one algorithm leaves nothing to choose, so it is tried whatever the server names: the
    npm package ssh2 runs two names into one, ``ecdsa-sha2-nistp521rsa-sha2-512``.
    """
    host = Host(extensions=None if told is None else ext_info(server_sig_algs=told))
    config = fast_config(host_key_algorithms=["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"])
    authenticator = Authenticator(host.core, config, lambda: None, AsyncBackend)
    assert authenticator._algorithm_for(RSA_KEY) == rsa
    assert authenticator._algorithm_for(USER_KEY) == "ssh-ed25519"
    assert authenticator._algorithm_for(host_key("ecdsa-sha2-nistp256", 20)) is None


# Credentials one after the other


def try_all(credentials: ClientCredentials, replies: dict[str, list[bytes]]) -> list[str]:
    """Let a client try what it has, and answer it by method; return the methods that it tried."""
    host, tried = Host(), []

    def answer() -> None:
        first = len(host.heard)
        host.say()
        (sent,) = [each for each in host.heard[first:] if each[0] == 0x32]
        tried.append(UserauthRequest.decode(sent).method_name)
        seen = len(host.events)
        host.say(*[GRANTED] * (len(tried) == 1), replies[tried[-1]].pop(0))
        for event in host.events[seen:]:
            if isinstance(event, AuthenticationFailed | PasswordExpired | Authenticated):
                authenticator.reply_received(event)

    authenticator = Authenticator(host.core, fast_config(), answer, AsyncBackend)
    running = authenticator.run(credentials)
    with pytest.raises(StopIteration):  # no reply is waited for
        running.send(None)
    return tried


def test_a_method_that_is_wanted_only_after_another() -> None:
    """RFC 4252 section 5.1: what a server did not take before it may after a partial success."""
    credentials = ClientCredentials(USER, keys=[USER_KEY], password="right", respond=no_answer)
    replies = {
        "publickey": [failure("keyboard-interactive", "password"), SUCCESS],
        "password": [failure("publickey", partial=True)],
    }
    assert try_all(credentials, replies) == ["publickey", "password", "publickey"]


def test_a_method_that_was_passed_over_comes_after_another() -> None:
    """Nor does what was never sent count as refused."""
    credentials = ClientCredentials(
        USER, keys=[USER_KEY, OTHER_KEY], password="right", respond=no_answer
    )
    replies = {
        "publickey": [
            failure("keyboard-interactive"),
            failure("publickey", "password", partial=True),
            SUCCESS,
        ],
        "password": [],
        "keyboard-interactive": [failure("publickey", partial=True)],
    }
    tried = ["publickey", "keyboard-interactive", "publickey", "publickey"]
    assert try_all(credentials, replies) == tried


def test_what_was_wrong_is_not_offered_again() -> None:
    """A partial success makes no credential right that the server has looked at and refused."""
    credentials = ClientCredentials(USER, keys=[USER_KEY], password="right")
    replies = {
        "publickey": [failure("publickey", "password")],
        "password": [failure("publickey", partial=True)],
    }
    expected = "it accepted password and wants more, it refused publickey, and nothing else"
    with pytest.raises(AuthenticationError, match=expected) as caught:
        try_all(credentials, replies)
    assert caught.value.methods_left == ("publickey",)
    assert caught.value.methods_accepted == ("password",)
    assert not any(replies.values())


def test_a_server_that_always_wants_another_method_comes_to_an_end() -> None:
    """A refusal in turn with a partial success, each of which asks for something else again."""
    credentials = ClientCredentials(
        USER, keys=[USER_KEY, OTHER_KEY], password="right", respond=no_answer
    )
    others = ("password", "keyboard-interactive")
    replies = {
        "publickey": [failure(*others)] * 20,
        "password": [failure("publickey", *others, partial=True)] * 20,
        "keyboard-interactive": [failure("publickey", *others, partial=True)] * 20,
    }
    with pytest.raises(AuthenticationError, match="it accepted password, keyboard-interactive"):
        try_all(credentials, replies)
    # One key before, between and after the two, each of which is used up by its success.
    assert {method: 20 - len(left) for method, left in replies.items()} == {
        "publickey": 3,
        "password": 1,
        "keyboard-interactive": 1,
    }


def test_an_expired_password_is_told_and_others_are_tried() -> None:
    credentials = ClientCredentials(USER, password="old", respond=no_answer)
    expired = b"\x3c" + string("Choose another") + string("")
    replies = {"password": [expired], "keyboard-interactive": [SUCCESS]}
    assert try_all(credentials, replies) == ["password", "keyboard-interactive"]
    replies = {"password": [expired], "keyboard-interactive": [failure("password")]}
    with pytest.raises(AuthenticationError, match="new password first: 'Choose another'"):
        try_all(credentials, replies)


async def no_answer(challenge: Challenge) -> None:
    raise AssertionError("nobody asks")


def test_extensions_without_signatures_change_nothing() -> None:
    host = Host(extensions=ext_info(x=b"ssh-ed25519"))
    assert host.client.signature_algorithms is None
