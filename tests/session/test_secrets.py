"""Secrets stay secret (T-53, HR-71) in sessions: logs, traces, events, objects.

The search is that of ``tests/protocol/test_secrets.py``, which proves that it finds what is
disclosed.
"""

from __future__ import annotations

import collections
import functools
import logging
import types
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

import anyssh
from anyssh.protocol import key_exchange, reconnect
from tests.protocol.test_secrets import Secrets, exception_texts, parts

from .ends import host_key, make_server, pinned, receive_exactly
from .network import network_pair, open_channel_pair

PASSWORD = "correct horse battery staple"
WRONG_PASSWORD = "incorrect donkey, and then some"
CONTENTS = b"what is said on a channel"
USER_KEY = anyssh.generate_key("ecdsa-sha2-nistp256")

CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque, types.CellType)
CALLABLES = (types.MethodType, types.FunctionType, functools.partial)


def is_ours(value: object) -> bool:
    return any(kind.__module__.partition(".")[0] == "anyssh" for kind in type(value).__mro__)


def objects_of(*roots: object) -> list[object]:
    """Return what can be reached through objects of ours, and not by way of the event loop."""
    seen: dict[int, object] = {}
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if id(value) not in seen:
            seen[id(value)] = value
            if is_ours(value) or isinstance(value, CONTAINERS + CALLABLES):
                waiting += parts(value)
    return [value for value in seen.values() if is_ours(value)]


class Watched:
    """The secrets of all sessions, and everything that is told about them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.secrets = Secrets()
        self.told: list[object] = []
        self.tokens: list[bytes] = []
        self.secrets.add_private_key("host key", host_key())
        self.secrets.add_private_key("user key", USER_KEY)
        for text in (PASSWORD, WRONG_PASSWORD):
            self.secrets.add("a password", text)
        self.secrets.add("bytes of a channel", CONTENTS)
        derive, make_tokens = key_exchange.derive_key, reconnect.Reconnector._tokens

        def watched_derive(hash_name: str, *values: Any) -> bytes:
            secret, exchange_hash, letter, session_id, size = values
            key = derive(hash_name, *values)
            for name, value in (("session id", session_id), ("exchange hash", exchange_hash)):
                self.secrets.add(name, value)
            self.secrets.add("shared secret", secret[5:])
            if size >= 12:
                self.secrets.add(f"key {letter!r}", key)
            return key

        def watched_tokens(itself: Any, *, to_server: bool) -> Callable[[bytes], bytes]:
            token_of = make_tokens(itself, to_server=to_server)

            def watched_token(session_id: bytes) -> bytes:
                self.tokens.append(token_of(session_id))
                self.secrets.add("reconnect token", self.tokens[-1])
                return self.tokens[-1]

            return watched_token

        monkeypatch.setattr(key_exchange, "derive_key", watched_derive)
        monkeypatch.setattr(reconnect.Reconnector, "_tokens", watched_tokens)

    def texts(self, *roots: object) -> Iterator[str]:
        for value in (*self.told, *objects_of(*roots)):
            yield f"{value!r} {value}"
            error = value if isinstance(value, BaseException) else getattr(value, "error", None)
            if isinstance(error, BaseException):
                yield from exception_texts(error)

    def assert_nothing_told(self, caplog: pytest.LogCaptureFixture, *roots: object) -> None:
        for text in (caplog.text, *self.texts(*roots)):
            assert not self.secrets.found_in(text), text[:300]


async def test_a_whole_session_tells_no_secret(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With failures, every kind of traffic, new keys, another stream and an end."""
    caplog.set_level(logging.DEBUG)
    watched = Watched(monkeypatch)

    async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
        match attempt:
            case anyssh.PasswordAttempt(password=password):
                return password == PASSWORD
        raise KeyError("a mistake of the application")

    watching = {"trace": watched.told.append, "on_progress": watched.told.append}
    server = make_server(
        authenticate=authenticate, config=anyssh.SessionConfig.with_reconnect(), **watching
    )
    right = anyssh.ClientCredentials("alice", keys=[USER_KEY], password=PASSWORD)
    wrong = anyssh.ClientCredentials("alice", password=WRONG_PASSWORD)
    watched.told += [right, wrong]
    with anyio.fail_after(30):
        async with network_pair(server, credentials=right, **watching) as (network, client, far):
            stranger = anyssh.ClientSession.connect(
                await network.connect(), credentials=wrong, verify_host=pinned(), **watching
            )
            with pytest.raises(anyssh.AuthenticationError) as caught:
                async with stranger:
                    pytest.fail("let in")
            watched.told.append(caught.value)
            ours, theirs = await open_channel_pair(client, far)
            await ours.send(CONTENTS)
            await theirs.send_stderr(CONTENTS)
            await client.rekey()
            for stream in network.streams[0]:
                stream.close()
            await ours.request("exec", CONTENTS, want_reply=False)
            await ours.send(CONTENTS)
            assert await receive_exactly(theirs, 2 * len(CONTENTS)) == 2 * CONTENTS
            await far.rekey()
            watched.told += [client.metrics, far.metrics, client.id, far.algorithms, ours, theirs]
            watched.assert_nothing_told(caplog, client, far, stranger, server)
            assert client.metrics.reconnections == 1
            await client.disconnect(11, "bye")
            watched.told += [await client.wait_closed(), await far.wait_closed()]
        watched.told += [fact async for fact in client.events()]
    watched.assert_nothing_told(caplog, client, far, stranger, server)
    assert len(watched.tokens) >= 4
    assert len(watched.told) > 100
    kinds = {type(value).__name__ for value in objects_of(client, far, server)}
    assert {"Core", "KeyExchanger", "Reconnector", "Link", "SessionContour", "Server"} <= kinds
