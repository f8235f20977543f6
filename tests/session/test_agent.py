"""The agent's client against purpose-built agents; ``tests/interop`` has the real one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream, SocketAttribute

import anyssh
from anyssh.messages.agent import (
    MAX_AGENT_MESSAGE_BYTES,
    AgentFailure,
    AgentIdentities,
    AgentIdentitiesRequest,
    AgentSignRequest,
    AgentSignResponse,
    SignFlag,
    frame,
    take_frame,
)
from anyssh.testing import memory_stream_pair
from tests.authority import certified
from tests.session.ends import Call, connected, make_server, settle

UNIX_SOCKETS = pytest.mark.skipif(os.name == "nt", reason="no UNIX sockets")


@cache
def key(name: str = "ssh-ed25519") -> anyssh.Key:
    return anyssh.generate_key(name, bits=2048 if name == "ssh-rsa" else None, comment=name)


class OwnAgent:
    """An agent with keys in memory, and a gate in front of each answer."""

    def __init__(self, *keys: anyssh.Key) -> None:
        self.keys = {each.public_blob: each for each in keys}
        self.questions: list[bytes] = []
        self.asked = anyio.Event()
        self.connections = 0
        self.disconnections = 0
        self.may_answer = anyio.Event()
        self.may_answer.set()

    async def serve(self, stream: ByteStream) -> None:
        self.connections += 1
        received = bytearray()
        try:
            async with stream:
                async for chunk in stream:
                    received += chunk
                    while (question := take_frame(received)) is not None:
                        self.questions.append(question)
                        self.asked.set()
                        await self.may_answer.wait()
                        await stream.send(self.answer(question))
        except anyio.BrokenResourceError:  # who asked has gone
            pass
        finally:
            self.disconnections += 1

    def answer(self, question: bytes) -> bytes:
        if question == AgentIdentitiesRequest().encode():
            listed = tuple((blob, each.comment) for blob, each in self.keys.items())
            return frame(AgentIdentities(listed))
        request = AgentSignRequest.decode(question)
        pair = self.keys.get(request.public_key)
        if pair is None:
            return frame(AgentFailure())
        algorithm = {
            SignFlag.RSA_SHA2_256: "rsa-sha2-256",
            SignFlag.RSA_SHA2_512: "rsa-sha2-512",
        }.get(SignFlag(request.flags), pair.algorithm)
        return frame(AgentSignResponse(pair.sign(request.data, algorithm)))

    def hold_back(self) -> None:
        self.asked = anyio.Event()
        self.may_answer = anyio.Event()


Serve = Callable[[ByteStream], Awaitable[None]]


@asynccontextmanager
async def at_stream(serve: Serve) -> AsyncIterator[anyssh.Agent]:
    """Give an agent over one stream that was connected beforehand."""
    near, far = memory_stream_pair()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, far)
        async with anyssh.Agent(near) as agent:
            yield agent


@asynccontextmanager
async def at_address(serve: Serve) -> AsyncIterator[anyssh.Agent]:
    """Give an agent that is connected to anew for each question."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        port = listener.extra(SocketAttribute.local_port)
        async with anyssh.Agent(anyio.as_connectable(("127.0.0.1", port))) as agent:
            yield agent
        tasks.cancel_scope.cancel()


EITHER_WAY = pytest.mark.parametrize("at", [at_stream, at_address])
At = Callable[[Serve], AbstractAsyncContextManager[anyssh.Agent]]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.lowlevel.checkpoint()


# Asking


@EITHER_WAY
async def test_identities_sign_with_every_algorithm(at: At) -> None:
    names = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp521", "ssh-rsa")
    own = OwnAgent(*map(key, names))
    async with at(own.serve) as agent:
        identities = await agent.identities()
        assert [each.key for each in identities] == [key(name) for name in names]
        assert [each.key.comment for each in identities] == list(names)
        for identity in identities:
            assert isinstance(identity, anyssh.Signer)
            assert not identity.key.has_private
            for algorithm in identity.key.signature_algorithms:
                signature = await identity.sign(b"data", algorithm)
                assert identity.key.verify(b"data", signature, algorithm)
    flags = [AgentSignRequest.decode(each).flags for each in own.questions[1:]]
    assert flags == [0, 0, 0, 4, 2]


@EITHER_WAY
async def test_keys_of_other_types_are_passed_over(at: At) -> None:
    def answer(question: bytes) -> bytes:
        strange = anyssh.wire.string("sk-ssh-ed25519@openssh.com") + bytes(40)
        return frame(
            AgentIdentities(((strange, "token"), (key().public_blob, "\x1b[2J"), (b"", "")))
        )

    own = OwnAgent()
    own.answer = answer  # type: ignore[method-assign]
    async with at(own.serve) as agent:
        (identity,) = await agent.identities()
        assert identity.key == key()
        assert identity.key.comment == "\x1b[2J"
        assert "\x1b" not in repr(identity.key)


async def test_find_gives_the_identity_of_a_key() -> None:
    async with at_stream(OwnAgent(key(), key("ssh-rsa")).serve) as agent:
        identity = await agent.find(key("ssh-rsa").public())
        assert identity is not None
        assert identity.key == key("ssh-rsa")
        assert await agent.find(anyssh.generate_key("ssh-ed25519")) is None


@EITHER_WAY
async def test_a_refusal_says_what_may_be_wrong(at: At) -> None:
    own = OwnAgent(key())
    async with at(own.serve) as agent:
        (identity,) = await agent.identities()
        own.keys.clear()
        with pytest.raises(anyssh.SigningRefused, match="ssh-add -X") as caught:
            await identity.sign(b"data", "ssh-ed25519")
        assert key().fingerprint in str(caught.value)
        assert await agent.identities() == ()


async def test_algorithms_of_other_keys_are_not_asked_for() -> None:
    own = OwnAgent(key("ssh-rsa"))
    async with at_stream(own.serve) as agent:
        for algorithm in ("ssh-rsa", "ssh-ed25519", ""):
            with pytest.raises(anyssh.LocalProtocolError, match="rsa-sha2-512 or rsa-sha2-256"):
                await agent.sign(key("ssh-rsa"), b"data", algorithm)
        with pytest.raises(anyssh.LocalProtocolError, match="262144"):
            await agent.sign(key("ssh-rsa"), bytes(MAX_AGENT_MESSAGE_BYTES), "rsa-sha2-512")
    assert own.questions == []


@pytest.mark.parametrize("named", ["ssh-rsa", "", "rsa-sha2-256\n"])
async def test_a_signature_of_another_algorithm_is_refused(named: str) -> None:
    own = OwnAgent(key("ssh-rsa"))
    forged = anyssh.wire.string(named) + anyssh.wire.string(bytes(256))
    own.answer = lambda question: frame(AgentSignResponse(forged))  # type: ignore[method-assign]
    async with at_stream(own.serve) as agent:
        with pytest.raises(anyssh.SigningRefused, match="too old") as caught:
            await agent.sign(key("ssh-rsa"), b"data", "rsa-sha2-256")
        assert str(caught.value).isprintable()


# Agents that are not there, or not agents


async def test_an_environment_without_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    for unset in (True, False):
        if unset:
            monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        else:
            monkeypatch.setenv("SSH_AUTH_SOCK", "")
        with pytest.raises(anyssh.AgentError, match="SSH_AUTH_SOCK: start an agent"):
            async with anyssh.Agent():
                pytest.fail("there is no agent")


async def test_a_system_without_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows may have the environment of an agent, but Python has no way to its socket."""
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")
    monkeypatch.setattr("anyssh.session.agent.socket", SimpleNamespace())
    with pytest.raises(anyssh.AgentError, match="no UNIX sockets"):
        async with anyssh.Agent():
            pytest.fail("there is no way to an agent")


@UNIX_SOCKETS
async def test_the_environment_names_the_agent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = OwnAgent(key())
    path = tmp_path / "agent"
    async with (
        await anyio.create_unix_listener(path) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, own.serve)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        for agent in (anyssh.Agent(), anyssh.Agent(path), anyssh.Agent(str(path))):
            async with agent:
                assert [each.key for each in await agent.identities()] == [key()]
        await until(lambda: own.disconnections == 6)
        tasks.cancel_scope.cancel()


@UNIX_SOCKETS
@pytest.mark.parametrize("kind", ["missing", "dead", "file"])
async def test_a_socket_without_an_agent(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "agent"
    if kind == "dead":
        async with await anyio.create_unix_listener(path):
            pass
    elif kind == "file":
        path.touch()
    with pytest.raises(anyssh.AgentError, match=f"no agent answers at {path}") as caught:
        async with anyssh.Agent(path):
            pytest.fail("there is no agent")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("wrong", [22, b"/path", ("host", 22)])
def test_what_is_no_way_to_an_agent(wrong: object) -> None:
    with pytest.raises(TypeError, match="path of a socket"):
        anyssh.Agent(wrong)  # type: ignore[arg-type]


NONSENSE = {
    "another answer": frame(AgentSignResponse(b"")),
    "an empty message": bytes(4),
    "a message too long": b"\xff" * 64,
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a failure with more": b"\0\0\0\x02\x05\x00",
    "identities that are not there": b"\0\0\0\x05\x0c\0\0\0\x01",
    "an end within a message": frame(AgentIdentities(()))[:-1],
    "an end": b"",
}


@EITHER_WAY
@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
async def test_an_agent_that_talks_nonsense(answer: bytes, at: At) -> None:
    async def talk(stream: ByteStream) -> None:
        async with stream:
            try:
                await stream.receive()
                await stream.send(answer)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return

    async with at(talk) as agent:
        with pytest.raises(anyssh.AgentError, match="agent"):
            await agent.identities()


async def test_answers_that_nobody_asked_for_are_not_mistaken_for_others() -> None:
    own = OwnAgent(key())
    answer = own.answer
    own.answer = lambda question: answer(question) * 2  # type: ignore[method-assign]
    async with at_stream(own.serve) as agent:
        assert len(await agent.identities()) == 1
        for _ in range(2):
            with pytest.raises(anyssh.AgentError, match="an unsolicited answer"):
                await agent.sign(key(), b"data", "ssh-ed25519")


async def test_use_outside_of_its_block() -> None:
    near, far = memory_stream_pair()
    agent = anyssh.Agent(near)
    with pytest.raises(anyssh.LocalProtocolError, match="async with"):
        await agent.identities()
    async with agent:
        with pytest.raises(anyssh.LocalProtocolError, match="already"):
            await agent.__aenter__()
    with pytest.raises(anyssh.LocalProtocolError, match="async with"):
        await agent.identities()
    with pytest.raises(anyio.EndOfStream):  # what it was given it has closed
        await far.receive()


async def test_the_block_ends_while_a_question_waits() -> None:
    own = OwnAgent(key())
    own.hold_back()
    async with at_stream(own.serve) as agent, anyio.create_task_group() as tasks:
        call = Call(tasks, agent.identities)
        await own.asked.wait()
        await agent.__aexit__(None, None, None)
        with pytest.raises(anyssh.AgentError):
            await call.result()
        own.may_answer.set()


# Several at once, and cancellation


@EITHER_WAY
async def test_answers_reach_those_who_asked(at: At) -> None:
    own = OwnAgent(key())
    async with at(own.serve) as agent, anyio.create_task_group() as tasks:
        calls = [
            Call(tasks, partial(agent.sign, key(), b"%d" % number, "ssh-ed25519"))
            for number in range(20)
        ]
        for number, call in enumerate(calls):
            assert key().verify(b"%d" % number, await call.result(), "ssh-ed25519")


@EITHER_WAY
async def test_a_cancelled_question_leaves_the_agent_in_step(
    at: At,
) -> None:
    own = OwnAgent(key())
    async with at(own.serve) as agent, anyio.create_task_group() as tasks:
        for asked in range(1, 4):
            own.hold_back()
            call = Call(tasks, partial(agent.sign, key(), b"given up", "ssh-ed25519"))
            await own.asked.wait()
            call.scope.cancel()
            await call.done.wait()
            own.may_answer.set()
            signature = await agent.sign(key(), b"data %d" % asked, "ssh-ed25519")
            assert key().verify(b"data %d" % asked, signature, "ssh-ed25519")
        assert len(await agent.identities()) == 1


async def test_several_cancelled_questions_over_one_stream() -> None:
    own = OwnAgent(key())
    own.hold_back()
    async with at_stream(own.serve) as agent, anyio.create_task_group() as tasks:
        first = Call(tasks, agent.identities)
        await own.asked.wait()
        behind = [Call(tasks, agent.identities) for _ in range(3)]
        await settle()
        for call in (behind[0], first, behind[1]):
            call.scope.cancel()
            await call.done.wait()
        own.may_answer.set()
        assert [each.key for each in await behind[2].result()] == [key()]
        signature = await agent.sign(key(), b"data", "ssh-ed25519")
        assert key().verify(b"data", signature, "ssh-ed25519")
    assert own.connections == 1


@EITHER_WAY
async def test_cancellation_after_every_number_of_turns(at: At) -> None:
    own = OwnAgent(key())
    finished = 0
    async with at(own.serve) as agent, anyio.create_task_group() as tasks:
        for turns in range(40):
            call = Call(tasks, partial(agent.sign, key(), b"%d" % turns, "ssh-ed25519"))
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            call.scope.cancel()
            await call.done.wait()
            assert call.error is None
            finished += call.value is not None
            assert key().verify(
                b"after", await agent.sign(key(), b"after", "ssh-ed25519"), "ssh-ed25519"
            )
    assert finished < 40


async def test_a_cancelled_question_is_withdrawn_where_it_has_its_connection() -> None:
    own = OwnAgent(key())
    async with at_address(own.serve) as agent, anyio.create_task_group() as tasks:
        own.hold_back()
        slow = Call(tasks, partial(agent.sign, key(), b"slow", "ssh-ed25519"))
        await own.asked.wait()
        # An agent that asks a person does not keep the others waiting.
        own.may_answer, closed_gate = anyio.Event(), own.may_answer
        own.may_answer.set()
        assert len(await agent.identities()) == 1
        assert not slow.is_done
        slow.scope.cancel()
        await slow.done.wait()
        closed_gate.set()
        await until(lambda: own.disconnections == own.connections == 3)


async def test_an_agent_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that is cut short is the end of a stream, and takes no longer than stated."""
    monkeypatch.setattr("anyssh.session.agent.SEND_TIME", 0.1)
    near, far = memory_stream_pair(capacity=16)
    async with anyssh.Agent(near) as agent:
        with pytest.raises(anyssh.AgentError, match="did not read the request"):
            await agent.sign(key(), bytes(1000), "ssh-ed25519")
        with pytest.raises(anyssh.AgentError):
            await agent.identities()
    await far.aclose()


# Logging in


async def accept_key(attempt: anyssh.AuthAttempt) -> object | None:
    match attempt:
        case anyssh.PublicKeyAttempt(public_key=found) if found == key("ecdsa-sha2-nistp256"):
            return "by key"
        case anyssh.PasswordAttempt(password="wonderland"):
            return "by password"
    return None


async def may_use_key(username: str, offered: anyssh.Key) -> bool:
    return offered == key("ecdsa-sha2-nistp256")


def server() -> anyssh.Server:
    return make_server(authenticate=accept_key, may_use_key=may_use_key)


async def login(credentials: anyssh.ClientCredentials) -> object:
    async with connected(server(), credentials=credentials) as (_, session):
        return session.principal


async def test_logging_in_with_what_the_agent_holds() -> None:
    own = OwnAgent(key(), key("ecdsa-sha2-nistp256"))
    async with at_stream(own.serve) as agent:
        as_list = anyssh.ClientCredentials("alice", keys=await agent.identities())
        assert await login(as_list) == "by key"
        own.questions.clear()
        as_source = anyssh.ClientCredentials("alice", keys=agent.identities)
        assert own.questions == []
        assert await login(as_source) == "by key"
        assert len(own.questions) == 2


async def test_the_agent_is_asked_only_about_keys_that_the_server_would_take() -> None:
    own = OwnAgent(key(), key("ecdsa-sha2-nistp256"))
    public = [key().public(), key("ecdsa-sha2-nistp256").public()]
    async with at_stream(own.serve) as agent:
        mine = anyssh.ClientCredentials("alice", keys=public, key_provider=agent.find)
        assert await login(mine) == "by key"
        assert len(own.questions) == 2  # the list, the signature
        own.questions.clear()
        refused = anyssh.ClientCredentials(
            "alice", keys=public[:1], key_provider=agent.find, password="wonderland"
        )
        assert await login(refused) == "by password"
        assert own.questions == []


async def test_a_key_that_was_removed_meanwhile_is_passed_over() -> None:
    own = OwnAgent(key("ecdsa-sha2-nistp256"))
    async with at_stream(own.serve) as agent:
        identities = await agent.identities()
        own.keys.clear()
        mine = anyssh.ClientCredentials("alice", keys=identities, password="wonderland")
        assert await login(mine) == "by password"
        only = anyssh.ClientCredentials("alice", keys=identities)
        with pytest.raises(anyssh.AuthenticationError, match="ssh-add -X"):
            await login(only)


async def test_an_agent_that_breaks_ends_the_attempt() -> None:
    own = OwnAgent(key("ecdsa-sha2-nistp256"))
    async with at_stream(own.serve) as agent:
        identities = await agent.identities()
        own.answer = lambda question: b"\xff" * 8  # type: ignore[method-assign]
        mine = anyssh.ClientCredentials("alice", keys=identities, password="wonderland")
        with pytest.raises(anyssh.AgentError, match="protocol"):
            await login(mine)


@pytest.mark.parametrize("name", ["ssh-ed25519", "ssh-rsa"])
async def test_a_certificate_for_a_key_of_the_agents(name: str) -> None:
    authority = anyssh.generate_key("ssh-ed25519")

    async def accept_certificate(attempt: anyssh.AuthAttempt) -> object | None:
        return "certified" if isinstance(attempt, anyssh.CertificateAttempt) else None

    believing = make_server(
        authenticate=accept_certificate,
        user_authorities=anyssh.UserAuthorities([authority.public()]),
    )
    async with at_stream(OwnAgent(key(name)).serve) as agent:
        (identity,) = await agent.identities()
        pair = anyssh.CertifiedKey(identity, certified(key(name), authority))
        mine = anyssh.ClientCredentials("alice", keys=[pair])
        async with connected(believing, credentials=mine) as (_, session):
            assert session.principal == "certified"


async def test_an_agent_behind_a_server() -> None:
    """Host keys of a server may live in an agent too."""
    own = OwnAgent(key(), key("ssh-rsa"))
    async with at_stream(own.serve) as agent:
        serving = make_server(host_keys=await agent.identities())
        verify = anyssh.pin(key().fingerprint)
        async with connected(serving, verify_host=verify) as (client, _):
            assert client.host_key == key()
        own.keys.clear()
        with pytest.raises(anyssh.SSHError) as caught:
            async with connected(serving, verify_host=verify):
                pytest.fail("nobody signed")
        assert "agent" not in str(caught.value)
