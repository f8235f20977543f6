"""Authentication of both ends: every method in both roles, host keys, limits, no protection."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519

import anyssh
from anyssh import AuthenticationMethod as Method
from anyssh import ClientCredentials, DisconnectReason, HostKeyAlgorithm
from anyssh.messages import UserauthBanner
from tests.session.ends import (
    ALICE,
    Call,
    ServerEnd,
    accept_alice,
    at_once,
    channel_pair,
    connected,
    host_key,
    make_server,
    pinned,
    receive_all,
    serving,
    settle,
)

KEY_ALGORITHMS = [
    HostKeyAlgorithm.ED25519,
    HostKeyAlgorithm.ECDSA_NISTP256,
    HostKeyAlgorithm.ECDSA_NISTP384,
    HostKeyAlgorithm.ECDSA_NISTP521,
    HostKeyAlgorithm.RSA_SHA2_256,
    HostKeyAlgorithm.RSA_SHA2_512,
]

EVERY_METHOD = (
    Method.PUBLIC_KEY,
    Method.PASSWORD,
    Method.KEYBOARD_INTERACTIVE,
    Method.HOST_BASED,
    Method.NONE,
)


@cache
def key_of(algorithm: str) -> anyssh.Key:
    if algorithm.startswith("rsa"):
        return anyssh.generate_key("ssh-rsa", bits=2048)
    return anyssh.generate_key(algorithm)


class Judge:
    """Accepts what a predicate likes, and keeps all attempts that it was asked about."""

    def __init__(self, good: Callable[[Any], object] = lambda attempt: None) -> None:
        self._good = good
        self.attempts: list[Any] = []

    async def __call__(self, attempt: anyssh.AuthAttempt) -> object | None:
        self.attempts.append(attempt)
        return self._good(attempt)

    @property
    def methods(self) -> list[str]:
        return [attempt.method for attempt in self.attempts]


class RemoteKey:
    """A signer: a key whose private half can only be asked to sign."""

    def __init__(self, pair: anyssh.Key, *, signs_with: anyssh.Key | None = None) -> None:
        self.key = pair.public()
        self._pair = signs_with or pair
        self.asked: list[str] = []
        self.may_sign = anyio.Event()
        self.may_sign.set()

    async def sign(self, data: bytes, algorithm: str) -> bytes:
        self.asked.append(algorithm)
        await self.may_sign.wait()
        return self._pair.sign(data, algorithm)


async def refuse_login(
    credentials: ClientCredentials, server: anyssh.Server, **options: Any
) -> anyssh.AuthenticationError:
    """Connect in vain; see that the server closes quietly, and return the client's error."""
    options = {"verify_host": pinned(), **options}
    async with serving(server) as (stream, end):
        with pytest.raises(anyssh.AuthenticationError) as caught:
            async with anyssh.ClientSession.connect(stream, credentials=credentials, **options):
                pytest.fail("the server let us in")
        await end.left.wait()
        assert isinstance(end.failure, anyssh.SSHError)
    return caught.value


# Passwords


@pytest.mark.parametrize(
    "password", ["wonderland", "p", "pässwörd 密码 \U0001f511", "x" * 4096], ids=len
)
async def test_a_password_arrives_as_it_is(password: str) -> None:
    judge = Judge(lambda attempt: "somebody")
    credentials = ClientCredentials("ålice", password=password)
    server = make_server(authenticate=judge)
    async with connected(server, credentials=credentials) as (client, session):
        assert judge.attempts == [anyssh.PasswordAttempt("ålice", password)]
        assert client.is_authenticated
        assert session.username == "ålice"


async def test_a_password_beyond_the_bound_is_refused_without_asking() -> None:
    judge = Judge(lambda attempt: "anybody")
    credentials = ClientCredentials("alice", password="x" * 4097)
    await refuse_login(credentials, make_server(authenticate=judge))
    assert judge.attempts == []


async def test_an_empty_user_name_is_a_user_name() -> None:
    judge = Judge(lambda attempt: "nobody")
    credentials = ClientCredentials("", password="x")
    async with connected(make_server(authenticate=judge), credentials=credentials) as ends:
        assert ends[1].username == ""
        assert ends[1].principal == "nobody"


async def test_a_wrong_password_is_refused_and_the_session_goes_on() -> None:
    async with connected(credentials=None) as (client, _):
        for _ in range(2):
            with pytest.raises(anyssh.AuthenticationError, match="'alice'"):
                await client.authenticate(ClientCredentials("alice", password="looking-glass"))
            assert not client.is_authenticated
        await client.authenticate(ALICE)
        assert client.is_authenticated


async def test_a_password_never_shows(caplog: pytest.LogCaptureFixture) -> None:
    judge = Judge()
    with caplog.at_level(logging.DEBUG):
        error = await refuse_login(ALICE, make_server(authenticate=judge))
    assert "wonderland" not in caplog.text
    for shown in (repr(ALICE), repr(judge.attempts), repr(error), str(error)):
        assert "wonderland" not in shown


async def test_a_password_provider_is_asked_when_its_turn_has_come() -> None:
    async def provide() -> str:
        asked.append(True)
        return "wonderland"

    async def accept_key(attempt: anyssh.AuthAttempt) -> object | None:
        return attempt.username if isinstance(attempt, anyssh.PublicKeyAttempt) else None

    asked: list[bool] = []
    key = key_of(HostKeyAlgorithm.ED25519)
    credentials = ClientCredentials(
        "alice", password="not this one", password_provider=provide, keys=[key]
    )
    async with connected(make_server(authenticate=accept_key), credentials=credentials):
        assert asked == []
    async with connected(make_server(), credentials=credentials):
        assert asked == [True]


async def test_a_slow_password_provider_holds_up_only_its_own_session() -> None:
    may_answer = anyio.Event()

    async def provide() -> str:
        await may_answer.wait()
        return "wonderland"

    async with connected(credentials=None) as (client, _), anyio.create_task_group() as group:
        credentials = ClientCredentials("alice", password_provider=provide)
        login = Call(group, partial(client.authenticate, credentials))
        await settle()
        assert not login.is_done
        may_answer.set()
        await login.result()
        assert client.is_authenticated


@pytest.mark.parametrize("answer", [None, ""])
async def test_a_provider_without_a_password_skips_the_method(answer: str | None) -> None:
    async def provide() -> str | None:
        return answer

    async def respond(challenge: anyssh.Challenge) -> Sequence[str]:
        return ["yes"] * len(challenge.prompts)

    judge = Judge(ask_once("yes"))
    credentials = ClientCredentials("alice", password_provider=provide, respond=respond)
    async with connected(make_server(authenticate=judge), credentials=credentials):
        assert judge.methods == [Method.KEYBOARD_INTERACTIVE] * 2
    only = ClientCredentials("alice", password="unused", password_provider=provide)
    judge = Judge()
    await refuse_login(only, make_server(authenticate=judge))
    assert judge.attempts == []


async def test_what_a_provider_raises_reaches_the_caller_bare() -> None:
    async def provide() -> str:
        raise KeyError("no keyring")

    credentials = ClientCredentials("alice", password_provider=provide)
    async with serving(make_server()) as (stream, end):
        with pytest.raises(KeyError, match="no keyring"):
            async with anyssh.ClientSession.connect(
                stream, credentials=credentials, verify_host=pinned()
            ):
                pytest.fail("without a password")
        await end.left.wait()
    async with connected(credentials=None) as (client, _):
        with pytest.raises(KeyError):
            await client.authenticate(credentials)
        await client.authenticate(ALICE)


# Keys


@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
async def test_keys_of_every_type_are_accepted(algorithm: str) -> None:
    key = key_of(algorithm)
    judge = Judge(lambda attempt: attempt.public_key)
    config = anyssh.SessionConfig(
        host_key_algorithms=[algorithm, *(a for a in KEY_ALGORITHMS if a != algorithm)]
    )
    server = make_server(authenticate=judge)
    credentials = ClientCredentials("alice", keys=[key])
    async with connected(server, credentials=credentials, config=config) as (_, session):
        (attempt,) = judge.attempts
        assert attempt == anyssh.PublicKeyAttempt("alice", key, algorithm)
        assert attempt.public_key.public_blob == key.public_blob
        assert not attempt.public_key.has_private
        assert session.principal == key


async def test_keys_are_tried_in_their_order_until_one_is_accepted() -> None:
    keys = [anyssh.generate_key("ssh-ed25519") for _ in range(4)]
    judge = Judge(lambda attempt: "alice" if attempt.public_key == keys[2] else None)
    credentials = ClientCredentials("alice", keys=keys, password="not needed")
    async with connected(make_server(authenticate=judge), credentials=credentials):
        assert [attempt.public_key for attempt in judge.attempts] == keys[:3]


async def test_a_key_that_the_server_takes_by_no_algorithm_is_skipped() -> None:
    config = anyssh.SessionConfig(host_key_algorithms=[HostKeyAlgorithm.ED25519])
    judge = Judge(lambda attempt: "alice")
    keys = [key_of(HostKeyAlgorithm.RSA_SHA2_256), key_of(HostKeyAlgorithm.ED25519)]
    server = make_server(authenticate=judge, config=config)
    async with connected(server, credentials=ClientCredentials("alice", keys=keys)):
        assert [attempt.public_key for attempt in judge.attempts] == keys[1:]


async def test_public_keys_are_proved_by_what_the_provider_finds() -> None:
    pairs = [anyssh.generate_key("ssh-ed25519") for _ in range(3)]
    asked: list[anyssh.Key] = []

    async def find(key: anyssh.Key) -> anyssh.Key | None:
        asked.append(key)
        return pairs[2] if key == pairs[2] else None

    async def may_use_key(username: str, key: anyssh.Key) -> bool:
        questions.append((username, key))
        return key != pairs[0]

    questions: list[tuple[str, anyssh.Key]] = []
    judge = Judge(lambda attempt: "alice")
    server = make_server(authenticate=judge, may_use_key=may_use_key)
    credentials = ClientCredentials(
        "alice", keys=[pair.public() for pair in pairs], key_provider=find
    )
    async with connected(server, credentials=credentials):
        # Only of those that the server may accept is the private half wanted.
        assert asked == pairs[1:]
        assert questions == [("alice", pair) for pair in pairs]
        assert [attempt.public_key for attempt in judge.attempts] == pairs[2:]


async def test_the_provider_may_find_a_signer() -> None:
    pair = key_of(HostKeyAlgorithm.ED25519)
    signer = RemoteKey(pair)

    async def find(key: anyssh.Key) -> anyssh.Signer:
        return signer

    judge = Judge(lambda attempt: "alice")
    credentials = ClientCredentials("alice", keys=[pair.public()], key_provider=find)
    async with connected(make_server(authenticate=judge), credentials=credentials):
        assert judge.methods == [Method.PUBLIC_KEY]
        assert signer.asked == [HostKeyAlgorithm.ED25519]


async def test_public_keys_without_a_provider_are_skipped() -> None:
    judge = Judge(lambda attempt: attempt.username)
    key = key_of(HostKeyAlgorithm.ED25519).public()
    credentials = ClientCredentials("alice", keys=[key], password="wonderland")
    async with connected(make_server(authenticate=judge), credentials=credentials):
        assert judge.methods == [Method.PASSWORD]


async def test_a_pair_is_not_asked_of_the_provider() -> None:
    async def find(key: anyssh.Key) -> anyssh.Key | None:
        raise AssertionError("the private half is there")

    judge = Judge(lambda attempt: "alice")
    key = key_of(HostKeyAlgorithm.ED25519)
    credentials = ClientCredentials("alice", keys=[key], key_provider=find)
    async with connected(make_server(authenticate=judge), credentials=credentials):
        assert judge.methods == [Method.PUBLIC_KEY]


@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
async def test_a_signer_proves_its_key(algorithm: str) -> None:
    signer = RemoteKey(key_of(algorithm))
    judge = Judge(lambda attempt: "alice")
    config = anyssh.SessionConfig(
        host_key_algorithms=[algorithm, HostKeyAlgorithm.ED25519]
        if algorithm != HostKeyAlgorithm.ED25519
        else [algorithm]
    )
    credentials = ClientCredentials("alice", keys=[signer])
    assert isinstance(signer, anyssh.Signer)
    async with connected(make_server(authenticate=judge), credentials=credentials, config=config):
        assert judge.attempts == [anyssh.PublicKeyAttempt("alice", signer.key, algorithm)]
        assert signer.asked == [algorithm]


async def test_a_signer_is_asked_only_when_the_server_may_take_its_key() -> None:
    async def may_use_key(username: str, key: anyssh.Key) -> bool:
        return False

    signer = RemoteKey(key_of(HostKeyAlgorithm.ED25519))
    server = make_server(may_use_key=may_use_key)
    await refuse_login(ClientCredentials("alice", keys=[signer]), server)
    assert signer.asked == []


async def test_a_slow_signer_is_waited_for() -> None:
    signer = RemoteKey(key_of(HostKeyAlgorithm.ED25519))
    signer.may_sign = anyio.Event()
    server = make_server(authenticate=Judge(lambda attempt: "alice"))
    async with (
        connected(server, credentials=None) as (client, _),
        anyio.create_task_group() as group,
    ):
        credentials = ClientCredentials("alice", keys=[signer])
        login = Call(group, partial(client.authenticate, credentials))
        await settle()
        assert signer.asked
        assert not login.is_done
        signer.may_sign.set()
        await login.result()
        assert client.is_authenticated


async def test_a_signer_that_signs_wrongly_is_not_sent_to_the_server() -> None:
    good = key_of(HostKeyAlgorithm.ED25519)
    signer = RemoteKey(good, signs_with=anyssh.generate_key("ssh-ed25519"))
    judge = Judge(lambda attempt: "alice")
    async with connected(make_server(authenticate=judge), credentials=None) as (client, _):
        with pytest.raises(anyssh.LocalProtocolError, match="wrong signature"):
            await client.authenticate(ClientCredentials("alice", keys=[signer]))
        assert judge.attempts == []
        await client.authenticate(ClientCredentials("alice", keys=[good]))


async def test_what_a_signer_raises_reaches_the_caller_bare() -> None:
    class Broken:
        key = key_of(HostKeyAlgorithm.ED25519).public()

        async def sign(self, data: bytes, algorithm: str) -> bytes:
            raise OSError("the token was pulled out")

    server = make_server(authenticate=Judge(lambda attempt: "alice"))
    async with connected(server, credentials=None) as (client, _):
        with pytest.raises(OSError, match="pulled out"):
            await client.authenticate(ClientCredentials("alice", keys=[Broken()]))
        await client.authenticate(ClientCredentials("alice", password="any"))


# Questions about keys


async def test_a_question_about_a_key_proves_nothing() -> None:
    good, bad = (anyssh.generate_key("ssh-ed25519") for _ in range(2))

    async def may_use_key(username: str, key: anyssh.Key) -> bool:
        questions.append((username, key))
        return key == good

    questions: list[tuple[str, anyssh.Key]] = []
    judge = Judge(lambda attempt: "alice")
    server = make_server(authenticate=judge, may_use_key=may_use_key)
    async with connected(server, credentials=None) as (client, session):
        assert await client.query_public_key("alice", good) is True
        assert await client.query_public_key("alice", bad.public()) is False
        assert questions == [("alice", good), ("alice", bad)]
        assert judge.attempts == []
        assert session.principal is None
        assert not client.is_authenticated
        await client.authenticate(ClientCredentials("alice", keys=[good]))
        assert judge.methods == [Method.PUBLIC_KEY]


async def test_every_key_may_be_worth_signing_with_unless_one_says_otherwise() -> None:
    async with connected(credentials=None) as (client, _):
        assert await client.query_public_key("alice", key_of(HostKeyAlgorithm.RSA_SHA2_256))


@pytest.mark.parametrize("answer", [None, 1, "yes", KeyError("lookup")], ids=repr)
async def test_anything_but_true_about_a_key_means_no(answer: object) -> None:
    async def may_use_key(username: str, key: anyssh.Key) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with connected(make_server(may_use_key=may_use_key), credentials=None) as (client, _):
        assert not await client.query_public_key("alice", key_of(HostKeyAlgorithm.ED25519))
        await client.authenticate(ALICE)


# Prompts


def ask_once(*answers: str, **challenge: Any) -> Callable[[Any], object]:
    """Ask for these answers and accept nothing else."""

    def judge(attempt: anyssh.AuthAttempt) -> object:
        match attempt:
            case anyssh.KeyboardInteractiveAttempt(responses=None):
                prompts = [anyssh.Prompt(f"Code {n}: ", n % 2 == 1) for n in range(len(answers))]
                return anyssh.Challenge(**{"prompts": prompts, **challenge})
            case anyssh.KeyboardInteractiveAttempt(responses=responses):
                return "alice" if responses == answers else None
        return None

    return judge


def answering(
    *rounds: Sequence[str] | None, seen: list[anyssh.Challenge] | None = None
) -> ClientCredentials:
    remaining = list(rounds)

    async def respond(challenge: anyssh.Challenge) -> Sequence[str] | None:
        if seen is not None:
            seen.append(challenge)
        return remaining.pop(0)

    return ClientCredentials("alice", respond=respond)


@pytest.mark.parametrize("answers", [(), ("secret42",), ("secret42", "ünd noch eins")], ids=len)
async def test_prompts_are_answered_in_their_order(answers: tuple[str, ...]) -> None:
    seen: list[anyssh.Challenge] = []
    judge = Judge(ask_once(*answers, name="Title", instruction="Two\nlines"))
    server = make_server(authenticate=judge)
    async with connected(server, credentials=answering(answers, seen=seen)) as (_, session):
        (challenge,) = seen
        assert challenge.name == "Title"
        assert challenge.instruction == "Two\nlines"
        assert [prompt.text for prompt in challenge.prompts] == [
            f"Code {n}: " for n in range(len(answers))
        ]
        assert [prompt.echo for prompt in challenge.prompts] == [
            n % 2 == 1 for n in range(len(answers))
        ]
        assert [(a.responses, a.round) for a in judge.attempts] == [(None, 0), (answers, 1)]
        assert session.principal == "alice"


async def test_several_rounds_of_prompts() -> None:
    def judge(attempt: anyssh.KeyboardInteractiveAttempt) -> object:
        if attempt.round < 3:
            return anyssh.Challenge(prompts=[anyssh.Prompt("?")] * attempt.round)
        return "alice"

    keeping = Judge(judge)
    credentials = answering((), ("a",), ("b", "c"))
    async with connected(make_server(authenticate=keeping), credentials=credentials):
        assert [attempt.responses for attempt in keeping.attempts] == [
            None,
            (),
            ("a",),
            ("b", "c"),
        ]


async def test_there_are_at_most_10_rounds_of_prompts() -> None:
    judge = Judge(lambda attempt: anyssh.Challenge(prompts=[anyssh.Prompt("?")]))
    server = make_server(authenticate=judge)
    await refuse_login(answering(*[("x",)] * 20), server)
    assert judge.attempts[-1].round == 10


async def test_wrong_answers_are_refused() -> None:
    judge = Judge(ask_once("right"))
    async with connected(make_server(authenticate=judge), credentials=None) as (client, _):
        with pytest.raises(anyssh.AuthenticationError):
            await client.authenticate(answering(("wrong",)))
        await client.authenticate(answering(("right",)))


async def test_who_does_not_answer_gives_up_and_may_try_again() -> None:
    judge = Judge(ask_once("right"))
    async with connected(make_server(authenticate=judge), credentials=None) as (client, _):
        with pytest.raises(anyssh.AuthenticationError):
            await client.authenticate(answering(None))
        await client.authenticate(answering(("right",)))


async def test_the_wrong_number_of_answers_is_not_sent() -> None:
    judge = Judge(ask_once("one", "two"))
    async with connected(make_server(authenticate=judge), credentials=None) as (client, _):
        with pytest.raises(anyssh.LocalProtocolError, match="2 answers"):
            await client.authenticate(answering(("one",)))
        await client.authenticate(answering(("one", "two")))


async def test_answers_never_show() -> None:
    judge = Judge(ask_once("secret42"))
    async with connected(make_server(authenticate=judge), credentials=answering(("secret42",))):
        assert "secret42" not in repr(judge.attempts)


async def test_a_challenge_is_no_answer_to_a_password() -> None:
    judge = Judge(lambda attempt: anyssh.Challenge())
    await refuse_login(ALICE, make_server(authenticate=judge))
    assert judge.methods == [Method.PASSWORD]


# Host-based, none


HOST_BASED = anyssh.SessionConfig(authentication_methods=[Method.HOST_BASED])


@pytest.mark.parametrize("algorithm", [HostKeyAlgorithm.ED25519, HostKeyAlgorithm.RSA_SHA2_512])
@pytest.mark.parametrize("as_signer", [False, True])
async def test_a_host_vouches_for_its_user(algorithm: str, as_signer: bool) -> None:
    pair = key_of(algorithm)
    host = anyssh.HostBasedCredentials(
        RemoteKey(pair) if as_signer else pair, "client.example.com", "al"
    )
    judge = Judge(lambda attempt: attempt.client_user_name)
    server = make_server(authenticate=judge, config=HOST_BASED)
    credentials = ClientCredentials("alice", host_based=host)
    async with connected(server, credentials=credentials, config=HOST_BASED) as (_, session):
        assert judge.attempts == [
            anyssh.HostBasedAttempt("alice", pair, algorithm, "client.example.com", "al")
        ]
        assert session.principal == "al"


async def test_a_host_may_be_refused() -> None:
    judge = Judge()
    host = anyssh.HostBasedCredentials(host_key(), "client.example.com", "al")
    error = await refuse_login(
        ClientCredentials("alice", host_based=host),
        make_server(authenticate=judge, config=HOST_BASED),
        config=HOST_BASED,
    )
    assert judge.methods == [Method.HOST_BASED]
    assert error.methods_left == (Method.HOST_BASED,)


async def test_host_based_must_be_enabled_at_both_ends() -> None:
    host = anyssh.HostBasedCredentials(host_key(), "client.example.com", "al")
    credentials = ClientCredentials("alice", host_based=host, password="wonderland")
    judge = Judge(lambda attempt: "anybody")
    # The client tries only what is enabled there, the server takes only what is enabled there.
    async with connected(make_server(authenticate=judge), credentials=credentials):
        assert judge.methods == [Method.PASSWORD]
    judge = Judge(lambda attempt: "anybody")
    config = anyssh.SessionConfig(authentication_methods=EVERY_METHOD)
    server = make_server(authenticate=judge)
    async with connected(server, credentials=credentials, config=config):
        assert judge.methods == [Method.PASSWORD]


async def test_nothing_to_prove_with_is_method_none() -> None:
    config = anyssh.SessionConfig(authentication_methods=EVERY_METHOD)
    judge = Judge(lambda attempt: "guest")
    server = make_server(authenticate=judge, config=config)
    async with connected(server, credentials=ClientCredentials("anonymous")) as (_, session):
        assert judge.attempts == [anyssh.NoneAttempt("anonymous")]
        assert session.principal == "guest"


async def test_none_is_refused_unless_it_is_enabled() -> None:
    judge = Judge(lambda attempt: "guest")
    error = await refuse_login(ClientCredentials("alice"), make_server(authenticate=judge))
    assert judge.attempts == []
    assert set(error.methods_left) == {
        Method.PUBLIC_KEY,
        Method.PASSWORD,
        Method.KEYBOARD_INTERACTIVE,
    }


# Methods, attempts, verdicts


async def test_methods_that_the_server_does_not_name_are_skipped() -> None:
    async def provide() -> str:
        raise AssertionError("a password is of no use")

    config = anyssh.SessionConfig(authentication_methods=[Method.PUBLIC_KEY])
    judge = Judge()
    credentials = ClientCredentials(
        "alice", keys=[key_of(HostKeyAlgorithm.ED25519)], password_provider=provide
    )
    error = await refuse_login(credentials, make_server(authenticate=judge, config=config))
    assert judge.methods == [Method.PUBLIC_KEY]
    assert error.methods_left == (Method.PUBLIC_KEY,)
    assert "publickey" in str(error)


async def test_a_refused_method_tells_which_to_take() -> None:
    config = anyssh.SessionConfig(authentication_methods=[Method.KEYBOARD_INTERACTIVE])
    judge = Judge(ask_once("yes"))

    async def respond(challenge: anyssh.Challenge) -> Sequence[str]:
        return ["yes"]

    credentials = ClientCredentials("alice", password="wonderland", respond=respond)
    async with connected(make_server(authenticate=judge, config=config), credentials=credentials):
        assert judge.methods == [Method.KEYBOARD_INTERACTIVE] * 2


async def test_everything_is_tried_in_its_order() -> None:
    config = anyssh.SessionConfig(authentication_methods=EVERY_METHOD)
    judge = Judge()

    async def respond(challenge: anyssh.Challenge) -> Sequence[str]:
        raise AssertionError("nobody asks")

    credentials = ClientCredentials(
        "alice",
        password="wonderland",
        keys=[key_of(HostKeyAlgorithm.ED25519)],
        respond=respond,
        host_based=anyssh.HostBasedCredentials(host_key(), "client.example.com", "al"),
    )
    server = make_server(authenticate=judge, config=config)
    error = await refuse_login(credentials, server, config=config)
    assert judge.methods == [
        Method.PUBLIC_KEY,
        Method.HOST_BASED,
        Method.PASSWORD,
        Method.KEYBOARD_INTERACTIVE,
    ]
    assert set(error.methods_left) == set(EVERY_METHOD) - {Method.NONE}


async def test_the_client_uses_only_what_its_configuration_enables() -> None:
    config = anyssh.SessionConfig(authentication_methods=[Method.PASSWORD])
    judge = Judge(lambda attempt: "alice")
    credentials = ClientCredentials(
        "alice", password="wonderland", keys=[key_of(HostKeyAlgorithm.ED25519)]
    )
    async with connected(make_server(authenticate=judge), credentials=credentials, config=config):
        assert judge.methods == [Method.PASSWORD]


async def test_several_failures_then_success_in_one_session() -> None:
    judge = Judge(lambda a: "alice" if getattr(a, "password", "") == "wonderland" else None)
    async with connected(make_server(authenticate=judge), credentials=None) as (client, session):
        for number in range(3):
            with pytest.raises(anyssh.AuthenticationError) as caught:
                await client.authenticate(ClientCredentials("alice", password=f"{number}"))
            assert Method.PASSWORD in caught.value.methods_left
        key = key_of(HostKeyAlgorithm.ED25519)
        with pytest.raises(anyssh.AuthenticationError):
            await client.authenticate(ClientCredentials("alice", keys=[key]))
        await client.authenticate(ALICE)
        await settle()
        assert session.principal == "alice"
        assert len(judge.attempts) == 5
        near, far = await channel_pair(client, session)
        await near.send(b"in")
        assert await far.receive() == b"in"


async def test_one_proof_is_enough() -> None:
    async with connected() as (client, server):
        with pytest.raises(anyssh.LocalProtocolError, match="already authenticated"):
            await client.authenticate(ALICE)
        with pytest.raises(anyssh.LocalProtocolError, match="already authenticated"):
            await client.query_public_key("alice", key_of(HostKeyAlgorithm.ED25519))
        await channel_pair(client, server)


async def test_one_authentication_at_a_time() -> None:
    may_answer = anyio.Event()

    async def authenticate(attempt: anyssh.AuthAttempt) -> object:
        await may_answer.wait()
        return attempt.username

    server = make_server(authenticate=authenticate)
    async with (
        connected(server, credentials=None) as (client, _),
        anyio.create_task_group() as group,
    ):
        login = Call(group, partial(client.authenticate, ALICE))
        await settle()
        with pytest.raises(anyio.BusyResourceError):
            await client.authenticate(ALICE)
        with pytest.raises(anyio.BusyResourceError):
            await client.query_public_key("alice", key_of(HostKeyAlgorithm.ED25519))
        may_answer.set()
        await login.result()


async def test_a_cancelled_authentication_can_be_followed_by_another() -> None:
    asked, may_answer = anyio.Event(), anyio.Event()

    async def authenticate(attempt: anyssh.PasswordAttempt) -> object | None:
        asked.set()
        await may_answer.wait()
        return "alice" if attempt.password == "wonderland" else None

    server = make_server(authenticate=authenticate)
    async with (
        connected(server, credentials=None) as (client, _),
        anyio.create_task_group() as group,
    ):
        wrong = ClientCredentials("alice", password="wrong")
        login = Call(group, partial(client.authenticate, wrong))
        await asked.wait()
        login.scope.cancel()
        await login.done.wait()
        again = Call(group, partial(client.authenticate, ALICE))
        await settle()
        may_answer.set()
        await again.result()
        assert client.is_authenticated


async def test_a_cancelled_authentication_may_still_succeed() -> None:
    asked, may_answer = anyio.Event(), anyio.Event()

    async def authenticate(attempt: anyssh.PasswordAttempt) -> object | None:
        asked.set()
        await may_answer.wait()
        return "alice"

    server = make_server(authenticate=authenticate)
    async with (
        connected(server, credentials=None) as (client, session),
        anyio.create_task_group() as group,
    ):
        login = Call(group, partial(client.authenticate, ALICE))
        await asked.wait()
        login.scope.cancel()
        await login.done.wait()
        assert not client.is_authenticated
        may_answer.set()
        await settle()
        assert client.is_authenticated
        await channel_pair(client, session)


class Principal:
    """Something that is equal to nothing but itself."""


async def test_the_principal_is_the_very_object() -> None:
    principal = Principal()
    server = make_server(authenticate=Judge(lambda attempt: principal))
    async with connected(server) as (client, session):
        assert session.principal is principal
        assert session.extra(anyssh.SSHAttribute.principal) is principal
        _, far = await channel_pair(client, session)
        assert far.extra(anyssh.SSHAttribute.principal) is principal
        assert session.username == "alice"


@pytest.mark.parametrize("verdict", [None, False, 0, "", (), NotImplemented], ids=repr)
async def test_nothing_true_means_no(verdict: object) -> None:
    """HR-30."""
    await refuse_login(ALICE, make_server(authenticate=Judge(lambda attempt: verdict)))


async def test_a_forgotten_await_does_not_let_anybody_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def authenticate(attempt: anyssh.AuthAttempt) -> object:
        forgotten = anyio.Event().wait()
        coroutines.append(forgotten)
        return forgotten

    coroutines: list[Any] = []
    await refuse_login(ALICE, make_server(authenticate=authenticate))
    assert "forget to await" in caplog.text
    for coroutine in coroutines:
        coroutine.close()


async def test_a_failing_judge_refuses_and_the_session_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """HR-34."""
    failures = [KeyError("database"), ExceptionGroup("two", [ValueError(), OSError()])]

    async def authenticate(attempt: anyssh.AuthAttempt) -> object:
        if failures:
            raise failures.pop(0)
        return "alice"

    async with connected(make_server(authenticate=authenticate), credentials=None) as (client, _):
        for _ in range(2):
            with pytest.raises(anyssh.AuthenticationError):
                await client.authenticate(ALICE)
        assert "database" in caplog.text
        await client.authenticate(ALICE)


async def test_a_judge_that_takes_too_long_refuses() -> None:
    """HR-34."""

    async def authenticate(attempt: anyssh.AuthAttempt) -> object:
        if len(asked) < 1:
            asked.append(attempt)
            await anyio.sleep_forever()
        return "alice"

    asked: list[anyssh.AuthAttempt] = []
    config = anyssh.SessionConfig(limits=anyssh.Limits(handler_time=0.05))
    server = make_server(authenticate=authenticate, config=config)
    async with connected(server, credentials=None) as (client, _):
        with pytest.raises(anyssh.AuthenticationError):
            await client.authenticate(ALICE)
        await client.authenticate(ALICE)


# Limits and ends


async def test_too_many_failures_end_the_session_with_reason_14() -> None:
    config = anyssh.SessionConfig(limits=anyssh.Limits(authentication_failures=2))
    async with connected(make_server(config=config), credentials=None) as (client, server):
        wrong = ClientCredentials("alice", password="wrong")
        with pytest.raises(anyssh.AuthenticationError):
            await client.authenticate(wrong)
        # The refusal and the goodbye may come together.
        with pytest.raises(anyssh.SSHError):
            await client.authenticate(wrong)
        expected = DisconnectReason.NO_MORE_AUTH_METHODS_AVAILABLE
        assert (await client.wait_closed()).reason == expected
        assert (await server.wait_closed()).reason == expected
        with pytest.raises(anyssh.Disconnected):
            await client.authenticate(ALICE)


async def test_the_default_is_five_failures() -> None:
    async with connected(credentials=None) as (client, _):
        wrong = ClientCredentials("alice", password="wrong")
        for _ in range(4):
            with pytest.raises(anyssh.AuthenticationError):
                await client.authenticate(wrong)
        await client.authenticate(ALICE)


async def test_too_many_requests_of_any_kind_end_the_session() -> None:
    config = anyssh.SessionConfig(limits=anyssh.Limits(authentication_requests=3))
    async with connected(make_server(config=config), credentials=None) as (client, _):
        for _ in range(3):
            assert await client.query_public_key("alice", host_key())
        with pytest.raises(anyssh.Disconnected):
            await client.query_public_key("alice", host_key())


async def test_who_does_not_authenticate_in_time_is_sent_away() -> None:
    config = anyssh.SessionConfig(limits=anyssh.Limits(authentication_time=0.05))
    async with serving(make_server(config=config)) as (stream, end):
        async with anyssh.ClientSession.connect(stream, verify_host=pinned()) as client:
            assert isinstance((await client.wait_closed()).error, anyssh.Disconnected)
        await end.left.wait()
        assert "too long for authentication" in str(end.failure)


async def test_the_user_name_stays_the_same() -> None:
    async with connected(credentials=None) as (client, _):
        with pytest.raises(anyssh.AuthenticationError):
            await client.authenticate(ClientCredentials("alice", password="wrong"))
        with pytest.raises(anyssh.SSHError):
            await client.authenticate(ClientCredentials("bob", password="wrong"))


@pytest.mark.parametrize("who", ["client", "server"])
async def test_the_end_during_authentication_wakes_who_waits(who: str) -> None:
    asked = anyio.Event()

    async def authenticate(attempt: anyssh.AuthAttempt) -> object:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    server = make_server(authenticate=authenticate)
    async with (
        connected(server, credentials=None) as (client, session),
        anyio.create_task_group() as group,
    ):
        login = Call(group, partial(client.authenticate, ALICE))
        await asked.wait()
        await (client if who == "client" else session).disconnect(11, "changed my mind")
        with pytest.raises(anyssh.Disconnected, match="changed my mind"):
            await login.result()


async def test_a_lost_stream_during_authentication_is_a_lost_connection() -> None:
    asked = anyio.Event()

    async def authenticate(attempt: anyssh.AuthAttempt) -> object:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with (
        serving(make_server(authenticate=authenticate)) as (stream, end),
        anyio.create_task_group() as group,
    ):

        async def connect() -> None:
            async with anyssh.ClientSession.connect(
                stream, credentials=ALICE, verify_host=pinned()
            ):
                pytest.fail("the server did not answer")

        connecting = Call(group, connect)
        await asked.wait()
        stream.abort()  # type: ignore[attr-defined]
        with pytest.raises(anyssh.ConnectionLost) as caught:
            await connecting.result()
        assert "during authentication" in caught.value.__notes__
        await end.left.wait()
        assert isinstance(end.failure, anyssh.ConnectionLost)


async def test_the_lines_of_banners_do_not_run_together() -> None:
    ends: list[ServerEnd] = []

    async def authenticate(attempt: anyssh.AuthAttempt) -> object:
        # Servers of ours send none, so this one is helped along.
        for text in ("Welcome,\r\n", "to wonderland\r\n\x1b[2J\r\n"):
            ends[0].session._core.transport.send(UserauthBanner(text, "").encode())
        return "alice"

    async with serving(make_server(authenticate=authenticate)) as (stream, end):
        ends.append(end)
        async with anyssh.ClientSession.connect(stream, verify_host=pinned()) as client:
            assert client.banner == ""
            await client.authenticate(ALICE)
            assert client.banner.splitlines() == ["Welcome,", "to wonderland", "\\x1b[2J"]


# Host keys


@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
async def test_host_keys_of_every_type_are_verified(algorithm: str) -> None:
    key = key_of(algorithm)
    config = anyssh.SessionConfig(host_key_algorithms=[algorithm])
    server = make_server(host_keys=[key], config=config)
    async with connected(server, verify_host=anyssh.pin(key.fingerprint)) as (client, _):
        assert client.host_key == key
        assert not client.host_key.has_private
        assert client.algorithms.host_key == algorithm


@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
async def test_a_host_key_may_live_elsewhere(algorithm: str) -> None:
    signer = RemoteKey(key_of(algorithm))
    config = anyssh.SessionConfig(host_key_algorithms=[algorithm])
    server = make_server(host_keys=[signer], config=config)
    async with connected(server, verify_host=anyssh.pin(signer.key.fingerprint)) as (client, _):
        assert client.host_key == signer.key
        await client.rekey()
        assert signer.asked == [algorithm] * 2


async def test_a_slow_host_key_is_waited_for() -> None:
    signer = RemoteKey(host_key())
    signer.may_sign = anyio.Event()
    async with (
        serving(make_server(host_keys=[signer])) as (stream, end),
        anyio.create_task_group() as group,
    ):

        async def connect() -> None:
            async with anyssh.ClientSession.connect(
                stream, credentials=ALICE, verify_host=pinned()
            ):
                await end.entered.wait()

        connecting = Call(group, connect)
        await settle()
        assert signer.asked
        assert not connecting.is_done
        signer.may_sign.set()
        await connecting.result()


@pytest.mark.parametrize("fault", ["signs wrongly", "raises", "takes too long"])
async def test_a_host_key_that_cannot_sign_ends_the_session(fault: str) -> None:
    signer = RemoteKey(host_key())
    if fault == "signs wrongly":
        signer = RemoteKey(host_key(), signs_with=anyssh.generate_key("ssh-ed25519"))
    elif fault == "raises":
        signer._pair = host_key().public()
    else:
        signer.may_sign = anyio.Event()
    config = anyssh.SessionConfig(limits=anyssh.Limits(handler_time=0.05))
    server = make_server(host_keys=[signer], config=config)
    async with serving(server) as (stream, end):
        with pytest.raises(anyssh.Disconnected) as caught:
            async with anyssh.ClientSession.connect(
                stream, credentials=ALICE, verify_host=pinned()
            ):
                pytest.fail("without a signature")
        assert caught.value.reason == DisconnectReason.KEY_EXCHANGE_FAILED
        await end.left.wait()
        assert isinstance(end.failure, anyssh.SSHError)
        assert "host key could not sign" in str(end.failure)


async def test_the_first_host_key_that_fits_is_used() -> None:
    keys = [key_of(HostKeyAlgorithm.ECDSA_NISTP256), key_of(HostKeyAlgorithm.ED25519)]
    server = make_server(host_keys=keys)
    for algorithm, key in zip(
        (HostKeyAlgorithm.ECDSA_NISTP256, HostKeyAlgorithm.ED25519), keys, strict=True
    ):
        config = anyssh.SessionConfig(host_key_algorithms=[algorithm])
        async with connected(server, verify_host=anyssh.pin(key.fingerprint), config=config) as (
            client,
            _,
        ):
            assert client.host_key == key


async def test_one_of_several_pins_is_enough() -> None:
    other = anyssh.generate_key("ssh-ed25519").fingerprint
    for pins in ((other, host_key().fingerprint), (host_key().fingerprint, other)):
        async with connected(verify_host=anyssh.pin(*pins)) as (client, _):
            assert client.is_authenticated


async def refuse_host(verify_host: Any, **options: Any) -> anyssh.HostKeyError:
    judge = Judge(lambda attempt: "anybody")
    async with serving(make_server(authenticate=judge)) as (stream, end):
        with pytest.raises(anyssh.HostKeyError) as caught:
            async with anyssh.ClientSession.connect(
                stream, credentials=ALICE, verify_host=verify_host, **options
            ):
                pytest.fail("the host key was refused")
        await end.left.wait()
        # Both ends know why, and no credential was shown.
        assert isinstance(end.failure, anyssh.Disconnected)
        assert end.failure.reason == DisconnectReason.HOST_KEY_NOT_VERIFIABLE
        assert judge.attempts == []
    assert caught.value.reason == DisconnectReason.HOST_KEY_NOT_VERIFIABLE
    return caught.value


async def test_another_key_than_the_pinned_one_is_refused() -> None:
    pins = [anyssh.generate_key("ssh-ed25519").fingerprint for _ in range(2)]
    error = await refuse_host(anyssh.pin(*pins))
    assert error.fingerprint == host_key().fingerprint
    assert error.algorithm == "ssh-ed25519"
    for text in (host_key().fingerprint, *pins):
        assert text in str(error)


@pytest.mark.parametrize("verdict", [False, None, 1, "yes"], ids=repr)
async def test_a_verifier_must_say_true(verdict: object) -> None:
    """HR-35, T-26."""

    async def verify(presented: anyssh.PresentedHostKey) -> Any:
        return verdict

    error = await refuse_host(verify)
    assert error.fingerprint == host_key().fingerprint


async def test_what_a_verifier_raises_is_the_cause() -> None:
    async def verify(presented: anyssh.PresentedHostKey) -> bool:
        raise FileNotFoundError("known_hosts")

    error = await refuse_host(verify)
    assert isinstance(error.__cause__, FileNotFoundError)
    assert error.fingerprint == host_key().fingerprint


async def test_a_verifier_that_takes_too_long_refuses() -> None:
    async def verify(presented: anyssh.PresentedHostKey) -> bool:
        await anyio.sleep_forever()
        return True

    config = anyssh.SessionConfig(limits=anyssh.Limits(handler_time=0.05))
    error = await refuse_host(verify, config=config)
    assert isinstance(error.__cause__, TimeoutError)


async def test_a_refusal_does_not_wait_for_the_time_that_a_goodbye_may_take() -> None:
    async def verify(presented: anyssh.PresentedHostKey) -> bool:
        return False

    limits = anyssh.Limits(disconnect_time=2, close_time=2)
    for _ in range(20):  # the tasks of a session run in another order each time on Trio
        began = anyio.current_time()
        await refuse_host(verify, config=anyssh.SessionConfig(limits=limits))
        assert anyio.current_time() - began < 1


async def test_nothing_is_sent_before_the_host_key_is_accepted() -> None:
    """HR-35, T-26."""
    may_answer = anyio.Event()

    async def verify(presented: anyssh.PresentedHostKey) -> bool:
        await may_answer.wait()
        return True

    judge = Judge(lambda attempt: "alice")
    async with (
        serving(make_server(authenticate=judge)) as (stream, end),
        anyio.create_task_group() as group,
    ):

        async def connect() -> None:
            async with anyssh.ClientSession.connect(stream, credentials=ALICE, verify_host=verify):
                await end.entered.wait()

        connecting = Call(group, connect)
        await settle()
        assert not connecting.is_done
        assert judge.attempts == []
        may_answer.set()
        await connecting.result()
        assert judge.methods == [Method.PASSWORD]


async def test_a_verifier_sees_key_version_and_address(free_tcp_port: int) -> None:
    seen: list[anyssh.PresentedHostKey] = []

    async def verify(presented: anyssh.PresentedHostKey) -> bool:
        seen.append(presented)
        return True

    async def handle(session: anyssh.ServerSession) -> None:
        await session.wait_closed()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=free_tcp_port)
    async with listener, anyio.create_task_group() as group:
        await group.start(make_server().serve, listener, handle)
        async with anyssh.ClientSession.connect(
            await anyio.connect_tcp("127.0.0.1", free_tcp_port),
            credentials=ALICE,
            verify_host=verify,
        ) as session:
            (presented,) = seen
            assert presented.key == host_key() == session.host_key
            assert presented.peer_version == session.peer_version
            assert presented.address == ("127.0.0.1", free_tcp_port)
            assert session.extra(SocketAttribute.remote_address) == presented.address
        group.cancel_scope.cancel()


async def test_a_stream_without_an_address_is_presented_without() -> None:
    seen: list[anyssh.PresentedHostKey] = []

    async def verify(presented: anyssh.PresentedHostKey) -> bool:
        seen.append(presented)
        return True

    async with connected(verify_host=verify) as (client, _):
        await client.rekey()  # the same key is not presented again
    assert [presented.address for presented in seen] == [None]


async def test_any_host_key_is_accepted_only_by_its_long_name() -> None:
    async with connected(verify_host=anyssh.InsecureAcceptAnyHostKey()) as (client, _):
        assert client.host_key == host_key()


def test_a_client_without_verifier_and_a_server_without_judge_cannot_be_built() -> None:
    """T-04, HR-35."""
    for nothing in (None, "SHA256:x", True):
        with pytest.raises(TypeError, match="verify_host"):
            anyssh.ClientSession.connect(
                anyio.as_connectable(("127.0.0.1", 22)),
                verify_host=nothing,  # type: ignore[arg-type]
            )
    with pytest.raises(TypeError):
        anyssh.ClientSession.connect(  # type: ignore[call-arg]
            anyio.as_connectable(("127.0.0.1", 22)), credentials=ALICE
        )
    with pytest.raises(TypeError, match="authenticate"):
        anyssh.Server(host_keys=[host_key()])
    with pytest.raises(ValueError, match="no usable host key"):
        anyssh.Server(authenticate=accept_alice)
    with pytest.raises(ValueError, match="no private half"):
        anyssh.Server(host_keys=[host_key().public()], authenticate=accept_alice)


@pytest.mark.parametrize("pins", [(), ("",), ("MD5:aa:bb",), ("SHA256:short",)], ids=repr)
def test_a_pin_has_the_form_of_a_fingerprint(pins: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        anyssh.pin(*pins)


# Step by step


async def test_without_credentials_the_session_stops_after_the_key_exchange() -> None:
    judge = Judge(lambda attempt: "alice")
    server = make_server(authenticate=judge)
    async with connected(server, credentials=None) as (client, session):
        assert client.peer_version.name == "anyssh"
        assert client.host_key == host_key()
        assert client.algorithms.key_exchange
        assert not client.is_authenticated
        assert judge.attempts == []
        assert session.username is None
        await client.authenticate(ALICE)
        assert client.is_authenticated
        await settle()
        assert session.username == "alice"
        near, far = await channel_pair(client, session)
        await near.send(b"hello")
        assert await far.receive() == b"hello"
    assert not client.is_authenticated


async def test_the_connection_service_can_be_asked_for() -> None:
    async with connected() as (client, server):
        await client.request_service()
        await client.request_service("ssh-connection")
        await channel_pair(client, server)
        with pytest.raises(anyssh.Disconnected) as caught:
            await client.request_service("ssh-teleport")
        assert caught.value.reason == DisconnectReason.SERVICE_NOT_AVAILABLE


# Without protection


INSECURE = anyssh.InsecureSessionConfig()


async def test_sessions_without_protection_carry_channels_without_authentication() -> None:
    async with connected(
        anyssh.Server(config=INSECURE), config=INSECURE, verify_host=None, credentials=None
    ) as (client, server):
        near, far = await channel_pair(client, server)
        await near.send(b"in clear")
        await near.send_eof()
        assert await receive_all(far) == b"in clear"
        await far.send(b"and back")
        assert await near.receive() == b"and back"
        assert server.principal is server.username is None
        with pytest.raises(anyssh.LocalProtocolError):
            _ = client.host_key
        with pytest.raises(anyssh.LocalProtocolError):
            await client.rekey()
        with pytest.raises(anyssh.LocalProtocolError):
            await client.authenticate(ALICE)
        near, far = await channel_pair(server, client)
        await near.send(b"still in clear")
        assert await far.receive() == b"still in clear"


@pytest.mark.parametrize("insecure", ["client", "server"])
async def test_a_session_without_protection_never_comes_to_terms_with_a_secure_one(
    insecure: str,
) -> None:
    judge = Judge(lambda attempt: "anybody")
    options: dict[str, Any] = {"verify_host": pinned(), "credentials": ALICE}
    if insecure == "client":
        server, options["config"] = make_server(authenticate=judge), INSECURE
    else:
        server = make_server(authenticate=judge, config=INSECURE)
    async with serving(server) as (stream, end):
        with pytest.raises(anyssh.SSHError) as caught:
            async with anyssh.ClientSession.connect(stream, **options):
                pytest.fail("they came to terms")
        await end.left.wait()
        errors = (caught.value, end.failure)
        assert any(isinstance(error, anyssh.NegotiationError) for error in errors)
        assert all(isinstance(error, anyssh.SSHError) for error in errors)
        assert judge.attempts == []
        assert not end.entered.is_set()


@pytest.mark.parametrize(
    "field, name",
    [
        ("key_exchanges", "none"),
        ("host_key_algorithms", "none"),
        ("encryptions", "none"),
        ("macs", "none"),
        ("host_key_algorithms", "null"),
    ],
)
def test_a_secure_configuration_cannot_name_none(field: str, name: str) -> None:
    """T-04, HR-19."""
    secure = getattr(anyssh.SessionConfig(), field)
    for names in ([name], [*secure, name]):
        with pytest.raises(ValueError, match=name):
            anyssh.SessionConfig(**{field: names})


async def judge_by_match(attempt: anyssh.AuthAttempt) -> object | None:
    match attempt:
        case anyssh.PublicKeyAttempt(username=name, public_key=key) if key == host_key():
            return f"{name} by key"
        case anyssh.PasswordAttempt(username="alice", password="wonderland"):
            return "alice by password"
        case anyssh.KeyboardInteractiveAttempt(responses=None):
            return anyssh.Challenge(prompts=[anyssh.Prompt("Code: ")])
        case anyssh.KeyboardInteractiveAttempt(username=name, responses=(code,)):
            return f"{name} by code" if code == "1234" else None
    return None


@pytest.mark.parametrize(
    "credentials, principal",
    [
        (ALICE, "alice by password"),
        (ClientCredentials("bob", keys=[host_key()]), "bob by key"),
        (answering(("1234",), ("1234",), ("1234",)), "alice by code"),
    ],
    ids=["password", "key", "code"],
)
async def test_attempts_are_told_apart_by_their_classes(
    credentials: ClientCredentials, principal: str
) -> None:
    if credentials.respond is not None:
        credentials = answering(("1234",))
    server = make_server(authenticate=judge_by_match)
    async with connected(server, credentials=credentials) as (_, session):
        assert session.principal == principal


async def test_two_clients_authenticate_at_the_same_time_without_mixing() -> None:
    judge = Judge(lambda attempt: attempt.password)
    server = make_server(authenticate=judge)

    async def log_in(name: str) -> object:
        credentials = ClientCredentials(name, password=f"password of {name}")
        async with connected(server, credentials=credentials) as (_, session):
            return session.principal

    principals = await at_once(log_in("alice"), log_in("bob"))
    assert principals == ("password of alice", "password of bob")


# Keys of the cryptography package


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
async def test_private_keys_of_the_cryptography_package_are_taken_as_they_are(kind: str) -> None:
    """For a server, for a client, by a provider, with a certificate: wherever a pair is."""
    private: Any = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ecdsa": partial(ec.generate_private_key, ec.SECP256R1()),
        "rsa": partial(rsa.generate_private_key, 65537, 2048),
    }[kind]()
    key = anyssh.Key.from_cryptography(private)

    async def provide(public: anyssh.Key) -> Any:
        return private

    async def find() -> Any:
        return [private]

    attempts: list[anyssh.AuthAttempt] = []

    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        attempts.append(attempt)
        return attempt.username

    server = make_server(host_keys=[private], authenticate=authenticate)
    for credentials in (
        ClientCredentials("alice", keys=[private]),
        ClientCredentials("alice", keys=find),
        ClientCredentials("alice", keys=[key.public()], key_provider=provide),
    ):
        verify = anyssh.pin(key.fingerprint)
        async with connected(server, credentials=credentials, verify_host=verify):
            attempt = attempts.pop()
            assert isinstance(attempt, anyssh.PublicKeyAttempt)
            assert attempt.public_key == key
    assert not attempts
    host_based = anyssh.HostBasedCredentials(private, "desk", "al")
    assert host_based.host_key == key


def test_other_keys_are_no_keys_of_ours() -> None:
    for make in (
        lambda other: ClientCredentials("alice", keys=[other]),
        lambda other: anyssh.HostBasedCredentials(other, "desk", "al"),
        lambda other: make_server(host_keys=[other]),
    ):
        with pytest.raises(anyssh.KeyFormatError):
            make(x25519.X25519PrivateKey.generate())
        with pytest.raises(TypeError, match="not str"):
            make("id_ed25519")


@pytest.mark.trio
@pytest.mark.parametrize("means", ["password", "key"])
async def test_a_refusal_takes_as_long_whatever_the_judge_thinks(
    autojump_clock: object, means: str
) -> None:
    """HR-38: by a clock that only waiting moves, so that no other work of the machine counts."""
    wrong = {"password": "wrong"} if means == "password" else {"keys": [key_of("ssh-ed25519")]}

    async def time_of_refusal(username: str, thinking: float) -> float:
        async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
            await anyio.sleep(thinking)
            return None

        credentials = ClientCredentials(username, **wrong)  # type: ignore[arg-type]
        server = make_server(authenticate=authenticate)
        async with connected(server, credentials=None) as (client, _):
            started = anyio.current_time()
            with pytest.raises(anyssh.AuthenticationError):
                await client.authenticate(credentials)
            return anyio.current_time() - started

    for username in ("known", "unknown"):
        times = [await time_of_refusal(username, thinking) for thinking in (0.0, 0.02, 0.049)]
        assert all(0.05 - 1e-6 <= seconds <= 0.06 + 1e-6 for seconds in times), times
        assert max(times) - min(times) < 1e-6, times
