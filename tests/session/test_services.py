"""Services: created on demand, one per session, ended with it (SVC-01 to SVC-08)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import anyssh
from anyssh import ServiceActivation, SessionService

from .life_support import LIMIT, fast, foreign_cancellation, host_key
from .life_support import pair as plain_pair


class Recording(SessionService):
    """Says yes to everything, and notes what it was."""

    def __init__(self, session: anyssh.Session, config: Any = None) -> None:
        super().__init__(session, config)
        self.seen: list[str] = []
        self.closes = 0
        self.happened = anyio.Event()

    async def on_session_request(self, request: anyssh.IncomingRequest) -> None:
        self.seen.append(request.name)
        await request.accept(request.payload)

    async def on_channel_request(
        self, channel: anyssh.Channel, request: anyssh.IncomingRequest
    ) -> None:
        self.seen.append(f"{channel.channel_type} {request.name}")
        await request.accept()

    async def on_channel_opening(self, opening: anyssh.ChannelOpening) -> None:
        self.seen.append(opening.channel_type)
        async with await opening.accept() as channel:
            await channel.send(opening.payload.upper())
            await channel.send_eof()
            async for _ in channel:
                continue

    async def aclose(self) -> None:
        self.closes += 1


class ByService(Recording):
    activations = (ServiceActivation(service_request="hello@example.com"),)


class BySession(Recording):
    activations = (ServiceActivation(session_request="ask@example.com"),)


class ByChannel(Recording):
    activations = (ServiceActivation(channel_type="talk@example.com"),)


class ByRequest(Recording):
    activations = (ServiceActivation(channel_request="do@example.com"),)


class ByBoth(Recording):
    activations = (
        ServiceActivation(channel_type="work@example.com", channel_request="start@example.com"),
    )


ALL: dict[type[SessionService], Any] = dict.fromkeys(
    [ByService, BySession, ByChannel, ByRequest, ByBoth]
)


@asynccontextmanager
async def pair(
    services: dict[type[SessionService], Any] = ALL,
) -> AsyncIterator[tuple[anyssh.ClientSession, anyssh.ServerSession]]:
    async with plain_pair(server_services=services) as ends:
        with anyio.fail_after(LIMIT):
            yield ends


def only(session: anyssh.Session, kind: type[Recording]) -> Recording:
    """Return the service, which must be the only one that is there."""
    (service,) = session.services
    assert isinstance(service, kind)
    return service


async def test_a_service_request_makes_a_service() -> None:
    async with pair() as (client, server):
        assert server.services == ()
        await client.request_service("hello@example.com")
        only(server, ByService)


async def test_a_service_that_nobody_offers_ends_the_session() -> None:
    async with pair() as (client, _):
        with pytest.raises(anyssh.Disconnected) as end:
            await client.request_service("other@example.com")
        assert end.value.reason == anyssh.DisconnectReason.SERVICE_NOT_AVAILABLE


async def test_a_request_of_the_session_makes_a_service() -> None:
    async with pair() as (client, server):
        reply = await client.request("ask@example.com", b"question")
        assert (bool(reply), reply.payload) == (True, b"question")
        assert only(server, BySession).seen == ["ask@example.com"]


async def test_a_channel_makes_a_service() -> None:
    async with pair() as (client, server):
        async with await client.open_channel("talk@example.com", payload=b"hello") as channel:
            assert b"".join([chunk async for chunk in channel]) == b"HELLO"
        assert only(server, ByChannel).seen == ["talk@example.com"]


async def test_a_request_of_any_channel_makes_a_service() -> None:
    async with pair() as (client, server), anyio.create_task_group() as tasks:
        tasks.start_soon(server.accept_channel)
        channel = await client.open_channel("any@example.com")
        assert await channel.request("do@example.com")
        assert only(server, ByRequest).seen == ["any@example.com do@example.com"]


async def test_a_type_and_a_request_together_make_a_service() -> None:
    """The type alone does not, nor the request on another type; the application gets both."""
    async with pair() as (client, server), anyio.create_task_group() as tasks:
        tasks.start_soon(server.accept_channel, "work@example.com")
        work = await client.open_channel("work@example.com")
        tasks.start_soon(server.serve, refuse)
        other = await client.open_channel("other@example.com")
        assert not await other.request("start@example.com")
        assert server.services == ()
        assert await work.request("start@example.com")
        assert only(server, ByBoth).seen == ["work@example.com start@example.com"]
        tasks.cancel_scope.cancel()


async def refuse(channel: anyssh.Channel) -> None:
    async for request in channel.requests():
        await request.reject()


async def test_one_instance_serves_a_session() -> None:
    async with pair() as (client, server):
        for _ in range(3):
            await client.request("ask@example.com")
        service = only(server, BySession)
        assert service.seen == ["ask@example.com"] * 3
        assert server.service(BySession) is service
        async for event in server.events():
            assert event == anyssh.ServiceActivated(service)
            break


async def test_a_configuration_is_passed_through() -> None:
    config = object()
    async with pair({BySession: config, ByChannel: None}) as (_, server):
        assert server.service(BySession).config is config
        assert server.service(ByChannel).config is None
        assert [type(service) for service in server.services] == [BySession, ByChannel]


async def test_services_end_with_their_session() -> None:
    cancelled = anyio.Event()

    async def stay() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async with pair() as (client, server):
        service = server.service(BySession)
        service.start_soon(stay)
        await client.request("ask@example.com")
        await client.aclose()
        await server.wait_closed()
        await cancelled.wait()
    assert service.closes == 1


async def test_a_service_of_an_ended_session_cannot_be_made() -> None:
    async with pair() as (client, server):
        await client.aclose()
        await server.wait_closed()
        with pytest.raises(anyssh.SSHError):
            server.service(BySession)


async def test_a_service_that_is_not_registered() -> None:
    async with pair({}) as (client, server):
        with pytest.raises(anyssh.LocalProtocolError, match="register"):
            server.service(BySession)
        async with anyio.create_task_group() as asking:
            asking.start_soon(client.request, "ask@example.com")
            assert (await anext(server.requests())).name == "ask@example.com"
            assert server.services == ()
            asking.cancel_scope.cancel()


async def test_sessions_have_services_of_their_own() -> None:
    async with pair() as (_, first), pair() as (_, second):
        assert first.service(BySession) is not second.service(BySession)


class Failing(Recording):
    activations = (
        ServiceActivation(session_request="ask@example.com"),
        ServiceActivation(channel_type="talk@example.com"),
        ServiceActivation(channel_request="do@example.com"),
    )

    async def on_session_request(self, request: anyssh.IncomingRequest) -> None:
        raise self.config()

    async def on_channel_request(
        self, channel: anyssh.Channel, request: anyssh.IncomingRequest
    ) -> None:
        raise self.config()

    async def on_channel_opening(self, opening: anyssh.ChannelOpening) -> None:
        raise self.config()


@pytest.mark.parametrize("error", [ValueError, foreign_cancellation])
async def test_a_failing_service_refuses_and_the_session_goes_on(error: Any) -> None:
    async with pair({Failing: error}) as (client, server), anyio.create_task_group() as tasks:
        assert not await client.request("ask@example.com")
        with pytest.raises(anyssh.ChannelOpenError):
            await client.open_channel("talk@example.com")
        tasks.start_soon(server.accept_channel)
        channel = await client.open_channel()
        assert not await channel.request("do@example.com")
        assert not await client.request("ask@example.com")


class Unmakeable(SessionService):
    activations = (ServiceActivation(session_request="ask@example.com"),)

    def __init__(self, session: anyssh.Session, config: Any = None) -> None:
        raise ValueError("a bug")


async def test_what_a_service_cannot_be_made_for_goes_to_the_application() -> None:
    async with pair({Unmakeable: None}) as (client, server), anyio.create_task_group() as tasks:
        tasks.start_soon(server.wait_closed)  # nobody asks for requests
        assert not await client.request("ask@example.com")
        tasks.cancel_scope.cancel()


class Bare(SessionService):
    activations = (
        ServiceActivation(session_request="ask@example.com"),
        ServiceActivation(channel_type="talk@example.com"),
        ServiceActivation(channel_request="do@example.com"),
    )


async def test_a_service_refuses_what_it_does_not_handle() -> None:
    async with pair({Bare: None}) as (client, server), anyio.create_task_group() as tasks:
        assert not await client.request("ask@example.com")
        with pytest.raises(anyssh.ChannelOpenError) as refusal:
            await client.open_channel("talk@example.com")
        assert refusal.value.reason == 1
        tasks.start_soon(server.accept_channel)
        assert not await (await client.open_channel()).request("do@example.com")


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"session_request": ""},
        {"channel_type": "a", "session_request": "b"},
        {"channel_type": "a", "channel_request": "b", "service_request": "c"},
        {"service_request": "a", "channel_request": "b"},
    ],
)
def test_an_activation_is_for_one_thing(names: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="one kind"):
        ServiceActivation(**names)


def test_only_services_are_services() -> None:
    with pytest.raises(TypeError, match="SessionService"):
        anyssh.Server(
            host_keys=[host_key()], authenticate=never, config=fast(), services={int: None}
        ).accept(anyssh.testing.memory_stream_pair()[0])


async def never(attempt: anyssh.AuthAttempt) -> None:
    return None
