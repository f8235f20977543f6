"""Mistakes of an application are reported at once, in words that say what was expected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import anyio
import anyio.abc
import pytest

import anyssh
from anyssh.testing import memory_stream_pair

from .life_support import LIMIT, client_of, host_key, pair, run_end, server_of, wait_for

ENDPOINTS: Any = (("127.0.0.1", 0), ("localhost", 80))


def public_key() -> anyssh.Key:
    return anyssh.import_public_key(anyssh.export_public_key(host_key()))


@pytest.mark.parametrize(
    "make, kind, text",
    [
        (lambda: anyssh.pin(host_key()), TypeError, "got Key"),
        (lambda: anyssh.SessionConfig(encryptions="aes256-ctr"), TypeError, "not a str"),
        (lambda: anyssh.SessionConfig(limits={}), TypeError, "limits must be Limits, not dict"),
        (lambda: server_of(config={}), TypeError, "config must be of type SessionConfig, not dict"),
        (lambda: server_of(limits=anyssh.Limits()), TypeError, "of type ServerLimits, not Limits"),
        (lambda: server_of(forwarding=["*:*"]), TypeError, "of type ForwardingPolicy, not list"),
        (lambda: anyssh.generate_key("ed25519"), ValueError, "known are .*ssh-ed25519"),
        (
            lambda: anyssh.TcpEndpoint("localhost", "80"),
            TypeError,
            "a port must be an int, not '80'",
        ),
        (lambda: anyssh.Challenge(prompts=["Code: "]), TypeError, "of type Prompt, not str"),
    ],
)
def test_what_cannot_be_made_says_what_was_expected(
    make: Callable[[], object], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        make()


@pytest.mark.parametrize(
    "name, value", [("config", {}), ("credentials", "alice"), ("forwarding", ["*:*"])]
)
async def test_a_client_says_what_was_expected(name: str, value: Any) -> None:
    left, right = memory_stream_pair()
    async with left, right:
        with pytest.raises(TypeError, match=f"{name} must be of "):
            client_of(left, **{name: value})


@pytest.mark.parametrize(
    "call",
    [
        lambda session: session.open_channel(),
        lambda session: session.request("hello"),
        lambda session: session.accept_channel(),
        lambda session: session.stream_to_remote_port("localhost", 80),
        lambda session: session.wait_disconnected(),
    ],
)
async def test_a_session_that_was_not_entered_says_so(
    call: Callable[[anyssh.ClientSession], Awaitable[object]],
) -> None:
    left, right = memory_stream_pair()
    async with aclosing(client_of(left)) as session, right:
        with anyio.fail_after(LIMIT), pytest.raises(anyssh.LocalProtocolError, match="async with"):
            await call(session)
        with pytest.raises(anyssh.LocalProtocolError, match="async with"):
            session.together()


@pytest.mark.parametrize(
    "call, kind, text",
    [
        (
            lambda one: one.open_channel(request="exec"),
            TypeError,
            "of type ChannelRequest, not str",
        ),
        (lambda one: one.authenticate("alice"), TypeError, "of type ClientCredentials, not str"),
        (lambda one: one.authenticate(None), TypeError, "of type ClientCredentials, not NoneType"),
        (lambda one: one.reconnect(anyio.as_connectable(("::1", 1))), TypeError, "connect()"),
        (lambda one: one.stream_to_remote(ENDPOINTS[1]), TypeError, "TcpEndpoint .* got tuple"),
    ],
)
async def test_a_wrong_argument_changes_nothing(
    call: Callable[[anyssh.ClientSession], Awaitable[object]], kind: type[Exception], text: str
) -> None:
    async with pair() as (client, _):
        with pytest.raises(kind, match=text):
            await call(client)
        assert client.state is anyssh.SessionState.CONNECTED
        assert client.channels == ()


@pytest.mark.parametrize(
    "forward",
    [
        lambda session: session.forward_to_remote(*ENDPOINTS),
        lambda session: session.forward_from_remote(*ENDPOINTS),
        lambda session: session.stream_from_remote(ENDPOINTS[0]),
        lambda session: session.connectable_to(ENDPOINTS[1]),
    ],
)
async def test_an_endpoint_is_no_pair(forward: Callable[[anyssh.ClientSession], object]) -> None:
    async with pair() as (client, _):
        with pytest.raises(TypeError, match="expected a TcpEndpoint or a UnixEndpoint, got tuple"):
            forward(client)


async def test_a_status_that_a_signal_gave_a_program_is_no_exit_status() -> None:
    """Python says ``-9`` where SIGKILL has ended a process. The channel can still be closed."""
    async with pair() as (client, server), anyio.create_task_group() as tasks:

        async def answer(channel: anyssh.Channel) -> None:
            with pytest.raises(ValueError, match=r"not at -9; .* has signal="):
                await channel.aclose(exit_status=-9)
            await channel.aclose(signal="KILL")

        tasks.start_soon(server.serve, answer)
        async with await client.open_channel() as channel:
            with anyio.fail_after(LIMIT):
                assert (await channel.wait_closed()).exit_signal == "KILL"
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "error",
    [
        anyio.EndOfStream(),
        anyio.IncompleteRead(),
        ExceptionGroup("of a task group", [anyio.BrokenResourceError()]),
    ],
)
@pytest.mark.parametrize("serves_channels", [False, True])
async def test_a_peer_that_leaves_is_no_mistake_of_a_handler(
    error: Exception, serves_channels: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "anyssh")

    async def fail(_: object) -> None:
        raise error

    async def serve(session: anyssh.ServerSession) -> None:
        await session.serve(fail)

    server = server_of()
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        await group.start(server.serve, listener, serve if serves_channels else fail)
        address = listener.extra(anyio.abc.SocketAttribute.local_address)
        async with client_of(await anyio.connect_tcp(*address)) as client:
            if serves_channels:
                await (await client.open_channel()).wait_closed()
            else:
                await client.wait_closed()
        await wait_for(lambda: " ended: " in caplog.text)
        group.cancel_scope.cancel()
    assert {record.levelname for record in caplog.records} <= {"DEBUG", "INFO"}
    assert server.statistics.handler_failures == 0


async def test_a_verifier_that_is_not_async_is_told() -> None:
    left, right = memory_stream_pair()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_end, server_of().accept(right))
        with pytest.raises(anyssh.HostKeyError, match="verify_host failed with TypeError"):
            async with client_of(left, verify_host=lambda presented: True):
                pass


async def nothing(key: anyssh.Key) -> None:
    """Find no private half."""


@pytest.mark.parametrize("provider", [None, nothing])
async def test_a_private_half_that_is_not_found_is_told(provider: Any) -> None:
    key = public_key()
    credentials = anyssh.ClientCredentials("alice", keys=[key], key_provider=provider)
    with pytest.raises(anyssh.AuthenticationError) as raised:
        async with pair(credentials=credentials):
            pass
    assert str(raised.value) == (
        "the server did not authenticate 'alice': nothing could be tried; "
        f"the private half of {key.fingerprint} was not found"
    )


async def test_the_reason_of_a_peer_has_a_name_where_there_is_one() -> None:
    for reason in (anyssh.DisconnectReason.TOO_MANY_CONNECTIONS, 4711):
        async with pair() as (client, server):
            await server.disconnect(reason)
            with anyio.fail_after(LIMIT):
                closed = await client.wait_closed()
        assert (closed.reason, type(closed.reason)) == (reason, type(reason))


async def test_the_reason_of_a_refusal_has_a_name_where_there_is_one() -> None:
    for reason in (anyssh.ChannelOpenFailureReason.RESOURCE_SHORTAGE, 4711):
        async with pair() as (client, server), anyio.create_task_group() as tasks:
            tasks.start_soon(refuse, server, reason)
            with pytest.raises(anyssh.ChannelOpenError) as raised:
                await client.open_channel()
        assert (raised.value.reason, type(raised.value.reason)) == (reason, type(reason))


async def refuse(server: anyssh.ServerSession, reason: int) -> None:
    async for opening in server.incoming_channels():
        await opening.reject(reason)
        return
