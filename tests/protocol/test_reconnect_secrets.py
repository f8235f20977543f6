"""What proves knowledge of a session stays secret on all of its streams (HR-71, T-53)."""

from __future__ import annotations

import hmac
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from anyssh.config import RECONNECT_EXTENSIONS
from anyssh.errors import ReconnectError
from anyssh.messages import (
    GlobalRequest,
    LinkedSessionReconnectRequest,
    SessionReconnectRequest,
    SessionReconnectResponse,
)
from anyssh.protocol import Role
from anyssh.protocol import reconnect as reconnect_module
from anyssh.protocol.events import ConnectionTerminated, ReconnectRequested, SessionResumed

from .core_pair import CLIENT, SERVER, host_key
from .test_secrets import CHANNEL_DATA, Secrets, Watched, object_texts


class Reconnecting(Watched):
    """A pair that can reconnect; tokens and the names of streams are secrets as well."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch, extensions=RECONNECT_EXTENSIONS)
        self.tokens = 0

        def watched(key: bytes, message: bytes, name: str) -> bytes:
            token = hmac.digest(key, message, name)
            self.secrets.add("token", token)
            self.secrets.add("key of a token", key)
            self.secrets.add("what a token proves", message)
            self.tokens += 1
            return token

        spied = SimpleNamespace(digest=watched, compare_digest=hmac.compare_digest)
        monkeypatch.setattr(reconnect_module, "hmac", spied)

    def lose(self) -> None:
        """Lose the stream while bytes are on their way in both directions."""
        for role, channel in zip(Role, self.pair.channels[0], strict=True):
            self.pair.connections[role].send_data(channel, memoryview(CHANNEL_DATA))
            continuity = self.pair.connections[role].continuity
            assert continuity is not None
            self.secrets.add("name of a stream", continuity.journal.link_id)
            self.secrets.add("session id", continuity.session_id)
        self.pair.lose()

    def texts(self) -> Any:
        yield from super().texts()
        yield from object_texts(*self.pair.connections.values())
        for error in self.pair.events[CLIENT] + self.pair.events[SERVER]:
            if isinstance(error, ConnectionTerminated) and error.error is not None:
                yield "pickle", pickle.dumps(error.error).decode("latin-1")


def test_a_session_that_goes_on_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Reconnecting(monkeypatch)
    watched.authenticate()
    watched.talk()
    for count in (1, 2):
        watched.lose()
        watched.assert_nothing_told()
        watched.pair.reconnect()
        watched.assert_nothing_told()
        assert len(watched.pair.of_type(CLIENT, SessionResumed)) == count
    assert watched.tokens == 2 * 2 * 2
    watched.pair.client.disconnect(11, "bye")
    watched.pair.pump()
    watched.assert_nothing_told()


def test_a_question_about_a_session_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server looks for the session."""
    watched = Reconnecting(monkeypatch)
    watched.authenticate()
    watched.pair.open_channel()
    watched.lose()
    watched.pair.answers.reconnect = None
    watched.pair.reconnect()
    (question,) = watched.pair.of_type(SERVER, ReconnectRequested)
    watched.assert_nothing_told()
    assert not question.proves(b"x" * 32)
    question.reject(ReconnectError(2, "no such session"), watched.pair.now)
    watched.pair.pump()
    watched.assert_nothing_told()


def weaker(watched: Reconnecting) -> None:
    watched.pair.reconnect(host_keys=[host_key(number=9)])


def wrong_number(watched: Reconnecting) -> None:
    continuity = watched.pair.connections[CLIENT].continuity
    assert continuity is not None
    continuity.journal.last_received += 1000
    watched.pair.reconnect()


def wrong_session(watched: Reconnecting) -> None:
    continuity = watched.pair.connections[SERVER].continuity
    assert continuity is not None
    continuity.session_id = bytes(range(64, 96))
    watched.secrets.add("another session id", continuity.session_id)
    watched.pair.reconnect()


def wrong_answer(watched: Reconnecting) -> None:
    watched.pair.answers.reconnect = None
    watched.pair.reconnect()
    token = bytes(range(120, 184))
    watched.secrets.add("token of another", token)
    watched.pair.inject(SERVER, b"\x51" + SessionReconnectResponse(token, 3).encode())


def answer_in_pieces(watched: Reconnecting) -> None:
    watched.pair.answers.reconnect = None
    watched.pair.reconnect()
    token = bytes(range(120, 184))
    watched.secrets.add("token of another", token)
    watched.pair.inject(SERVER, b"\x51" + SessionReconnectResponse(token, 3).encode()[:-3])


def request_in_pieces(watched: Reconnecting) -> None:
    """A token in a request that cannot be read, on a stream that may be asked."""
    watched.pair.reconnect(pump=False)
    token = bytes(range(120, 184))
    watched.secrets.add("token of another", token)
    payload = LinkedSessionReconnectRequest(token, 3, bytes(range(40, 72)), 1).encode()[:-3]
    request = GlobalRequest("session-reconnect@microsoft.com", True, payload)
    watched.pair.pump()
    watched.pair.inject(CLIENT, request.encode())


@pytest.mark.parametrize(
    "fail",
    [weaker, wrong_number, wrong_session, wrong_answer, answer_in_pieces, request_in_pieces],
)
def test_no_failure_tells_a_secret(
    fail: Callable[[Reconnecting], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Reconnecting(monkeypatch)
    watched.authenticate()
    watched.pair.open_channel()
    watched.lose()
    fail(watched)
    watched.pair.pump()
    watched.assert_nothing_told()
    watched.pair.end_stream()
    watched.assert_nothing_told()


@pytest.mark.parametrize(
    "message",
    [
        SessionReconnectRequest(bytes(range(50, 114)), 7),
        LinkedSessionReconnectRequest(bytes(range(50, 114)), 7, bytes(range(150, 182)), 1),
        SessionReconnectResponse(bytes(range(50, 114)), 7),
    ],
)
def test_messages_do_not_show_what_proves_a_session(message: Any) -> None:
    secrets = Secrets()
    secrets.add("token", bytes(range(50, 114)))
    secrets.add("name of a stream", bytes(range(150, 182)))
    for text in (repr(message), str(message), f"{message}"):
        assert "7" in text
        assert not secrets.found_in(text)
