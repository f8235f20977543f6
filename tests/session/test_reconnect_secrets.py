"""A session that reconnects discloses no secret to observers (HR-71, T-53)."""

from __future__ import annotations

import hmac
import logging
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

import anyssh
from anyssh.protocol import reconnect as reconnect_module
from tests.protocol.test_secrets import Secrets, exception_texts

from .network import open_channel_pair
from .test_reconnectable_sessions import house, lose, server_with


async def test_nothing_that_an_application_sees_tells_a_secret(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traces, progress, logs, events, metrics, errors, what objects say, and what is pickled."""
    caplog.set_level(logging.DEBUG)
    secrets = Secrets()
    told: list[Any] = []

    def watched(key: bytes, message: bytes, name: str) -> bytes:
        token = hmac.digest(key, message, name)
        for what, value in (("token", token), ("key", key), ("session ids", message)):
            secrets.add(what, value)
        return token

    spied = SimpleNamespace(digest=watched, compare_digest=hmac.compare_digest)
    monkeypatch.setattr(reconnect_module, "hmac", spied)
    errors: list[BaseException] = []
    watchers = {"trace": told.append, "on_progress": told.append}
    async with house(server=server_with(**watchers)) as place:
        client, server, stream = await place.connect(**watchers)
        channel, theirs = await open_channel_pair(client, server)
        for _ in range(2):
            await channel.send(b"the bytes of a channel are nobody's business")
            secrets.add("bytes of a channel", b"the bytes of a channel are nobody's business")
            for session in (client, server):
                continuity = session._connection.continuity
                assert continuity is not None
                secrets.add("session id", continuity.session_id)
                secrets.add("name of a stream", continuity.journal.link_id)
            await lose(client, server, stream=stream)
            errors += [await client.wait_disconnected(), await server.wait_disconnected()]
            near = await place.network.connect()
            near.abort()
            with pytest.raises(anyssh.SSHError) as failed:
                await client.reconnect(near)
            errors.append(failed.value)
            stream = await place.network.connect()
            await client.reconnect(stream)
            await theirs.receive()
        assert client.id == server.id
        assert client.metrics.reconnections == 2
        place.store._discard(server)
        stream.abort()
        await server.wait_closed()
        await client.wait_disconnected()
        with pytest.raises(anyssh.ReconnectError) as refused:
            await client.reconnect(await place.network.connect())
        errors.append(refused.value)
        await client.aclose()
        ends = [await client.wait_closed(), await server.wait_closed()]
        errors += [end.error for end in ends]
        facts = [fact async for fact in client.events()]
        assert any(isinstance(fact, anyssh.Reconnected) for fact in facts)
        objects = [client, server, channel, theirs, place.store, *facts, *ends]
        values = [client.metrics, client.contour.export(), server.metrics, client.id, *facts]
        for whole in (client, server):
            with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
                pickle.dumps(whole)
    texts = [repr(each) for each in objects] + [str(each) for each in objects]
    texts += [pickle.dumps(each).decode("latin-1") for each in (values, errors)]
    texts += [f"{event!r} {event}" for event in told]
    texts += [text for error in errors for text in exception_texts(error)]
    for event in told:
        texts += exception_texts(getattr(event, "error", None))
    texts += [f"{record.getMessage()} {record.args!r}" for record in caplog.records]
    assert len(told) > 50
    assert [names for text in texts if (names := secrets.found_in(text))] == []
