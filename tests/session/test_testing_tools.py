"""The testing tool for users that needs a session: ``session_pair``."""

from __future__ import annotations

import anyio
import pytest

import anyssh
from anyssh.testing import Cut, Direction, Fault, FaultStream, Slice, session_pair


async def test_gives_two_ends_of_one_session() -> None:
    async with session_pair() as (client, server):
        assert isinstance(client, anyssh.ClientSession)
        assert isinstance(server, anyssh.ServerSession)
        assert client.is_authenticated
        assert server.principal is not None
        async with anyio.create_task_group() as group:

            async def echo() -> None:
                async with await server.accept_channel() as channel:
                    async for chunk in channel:
                        await channel.send(chunk)

            group.start_soon(echo)
            async with await client.open_channel() as channel:
                await channel.send(b"hello")
                assert await channel.receive() == b"hello"


async def test_the_host_key_is_made_once_unless_it_is_given() -> None:
    async with session_pair() as (first, _), session_pair() as (second, _):
        assert first.host_key == second.host_key
    key = anyssh.generate_key("ecdsa-sha2-nistp256")
    async with session_pair(host_key=key) as (client, _):
        assert client.host_key == key


async def test_takes_credentials_and_who_judges_them() -> None:
    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        match attempt:
            case anyssh.PasswordAttempt(username="alice", password="wonderland"):
                return "the queen's guest"
        return None

    alice = anyssh.ClientCredentials("alice", password="wonderland")
    async with session_pair(authenticate=authenticate, credentials=alice) as (_, server):
        assert server.principal == "the queen's guest"


async def test_wrong_credentials_are_refused() -> None:
    mallory = anyssh.ClientCredentials("mallory", password="guess")
    with pytest.raises(anyssh.AuthenticationError):
        async with session_pair(credentials=mallory):
            pytest.fail("a session without the right password")


async def test_takes_configurations() -> None:
    name = anyssh.Encryption.AES128_GCM
    config = anyssh.SessionConfig(encryptions=[name])
    async with session_pair(client_config=config) as (client, _):
        assert client.algorithms.encryption_client_to_server == name
    async with session_pair(server_config=config) as (client, _):
        assert client.algorithms.encryption_client_to_server == name
    other = anyssh.SessionConfig(encryptions=[anyssh.Encryption.AES256_CTR])
    with pytest.raises(anyssh.NegotiationError):
        async with session_pair(client_config=config, server_config=other):
            pytest.fail("a session without a common encryption")


async def test_works_without_protection() -> None:
    insecure = anyssh.InsecureSessionConfig()
    async with session_pair(client_config=insecure, server_config=insecure) as (_, server):
        assert server.principal is None


async def test_wraps_the_streams() -> None:
    ends: list[FaultStream] = []

    def sliced(inner: anyio.abc.ByteStream) -> FaultStream:
        ends.append(FaultStream(inner, [Slice(direction, 7) for direction in Direction]))
        return ends[-1]

    async with session_pair(client_stream=sliced, server_stream=sliced):
        assert len(ends) == 2
        assert all(end.bytes_sent > 500 and end.bytes_received > 500 for end in ends)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("after", [0, 10, 300, 700])
async def test_a_cut_while_connecting_is_one_bare_error(direction: Direction, after: int) -> None:
    plan: list[Fault] = [Cut(direction, after)]
    with pytest.raises(anyssh.SSHError) as caught:
        async with session_pair(client_stream=lambda inner: FaultStream(inner, plan)):
            pytest.fail("a session over a stream that was cut")
    assert not isinstance(caught.value, BaseExceptionGroup)


async def test_an_exception_in_the_body_leaves_bare() -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with session_pair():
            raise error
    assert caught.value is error


async def test_a_test_may_skip_itself_in_the_body() -> None:
    """What it raises is no Exception, and leaves bare too."""
    with pytest.raises(pytest.skip.Exception, match="mine"):
        async with session_pair():
            pytest.skip("mine")


async def test_can_be_cancelled() -> None:
    with anyio.CancelScope() as scope:
        async with session_pair():
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_a_cut_in_the_body_does_not_spoil_its_end() -> None:
    faults: list[FaultStream] = []

    def wrap(inner: anyio.abc.ByteStream) -> FaultStream:
        faults.append(FaultStream(inner))
        return faults[-1]

    with anyio.fail_after(30):
        async with session_pair(client_stream=wrap) as (client, _):
            faults[0].cut()
            with pytest.raises(anyssh.SSHError):
                await client.open_channel()
