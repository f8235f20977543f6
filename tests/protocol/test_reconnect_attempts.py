"""Attempts to reconnect that overtake each other, and how they are told apart (T-54)."""

from __future__ import annotations

import pytest

from anyssh.constants import Extension
from anyssh.messages import ChannelData
from anyssh.protocol.events import ChannelOpenReceived, Event

from .core_pair import CLIENT, SERVER, running_pair
from .reconnect_pair import ReconnectingPair, Stream, reconnect_config

DEV_TUNNELS = "SSH-2.0-dev-tunnels-ssh_3.12.42"
NOBODY_NAMES_STREAMS = tuple(
    name for name in reconnect_config().extensions if name != Extension.SESSION_LINK
)


def lost_pair(**changes: object) -> ReconnectingPair:
    """Return a session with a channel that has just lost its stream, and knows it."""
    pair = ReconnectingPair(reconnect_config(**changes))
    client = pair.connections[CLIENT].open_channel("session")
    (server,) = [
        event.channel for _, event in pair.recover() if isinstance(event, ChannelOpenReceived)
    ]
    pair.channels.append((client, server))
    lose(pair)
    return pair


def lose(pair: ReconnectingPair) -> None:
    pair.newest.cut({CLIENT: 0, SERVER: 0})
    for role in (CLIENT, SERVER):
        pair.notice(pair.newest, role)


def begin(pair: ReconnectingPair, *, until_asked: bool = False) -> Stream:
    """Begin a stream; until the client has asked for its session, or until the server goes on."""
    pair.begin()
    stream = pair.newest
    before = pair.resumptions[SERVER]
    while pair.resumptions[SERVER] == before:
        pair.collect()
        if until_asked and stream.cores[CLIENT]._reconnector.is_awaiting_reply:
            return stream
        pair.deliver(stream, SERVER, len(stream.wire[SERVER]))
        pair.collect()
        if until_asked and stream.cores[CLIENT]._reconnector.is_awaiting_reply:
            return stream
        pair.deliver(stream, CLIENT, len(stream.wire[CLIENT]))
    pair.collect()
    return stream


def say(pair: ReconnectingPair, data: bytes) -> list[Event]:
    client, _ = pair.channels[0]
    taken = pair.connections[CLIENT].send_data(client, memoryview(data))
    assert taken == len(data)
    return pair.handle(CLIENT, pair.cores[CLIENT].poll_events())


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_a_late_request_of_an_attempt_that_was_given_up(is_confirmed: bool) -> None:
    """It costs the session neither the stream that it goes on over nor the next one."""
    pair = lost_pair()
    say(pair, b"before ")
    given_up = begin(pair, until_asked=True)
    given_up.cut({CLIENT: len(given_up.wire[CLIENT]), SERVER: 0})
    pair.notice(given_up, CLIENT)
    stream = begin(pair)
    pair.deliver(stream, SERVER, len(stream.wire[SERVER]))
    pair.collect()
    if is_confirmed:
        pair.deliver(stream, CLIENT, len(stream.wire[CLIENT]))
    assert given_up.wire[CLIENT]
    pair.deliver(given_up, CLIENT, len(given_up.wire[CLIENT]))
    assert pair.is_connected(SERVER)
    assert pair.attached[SERVER] is stream
    pair.recover()
    say(pair, b"between ")
    lose(pair)
    pair.recover()
    say(pair, b"after")
    pair.recover()
    _, server = pair.channels[0]
    assert pair.received[SERVER, server.local_id] == b"before between after"
    assert pair.resumptions == {CLIENT: 2, SERVER: 2}


@pytest.mark.parametrize(
    "extensions,has_answer",
    [
        (reconnect_config().extensions, False),
        (reconnect_config().extensions, True),
        (NOBODY_NAMES_STREAMS, True),  # such clients give up when they have no answer
    ],
)
def test_a_stream_that_is_lost_around_the_answer(
    extensions: tuple[str, ...], has_answer: bool
) -> None:
    """The server knows which of the two streams its client comes from."""
    pair = lost_pair(extensions=extensions)
    client, server = pair.channels[0]
    for number in range(5):
        say(pair, b"%d " % number)
        pair.connections[SERVER].send_data(server, memoryview(b"-%d " % number))
        stream = begin(pair)
        if has_answer:
            pair.deliver(stream, SERVER, len(stream.wire[SERVER]))
        lose(pair)
    pair.recover()
    assert pair.received[SERVER, server.local_id] == b"0 1 2 3 4 "
    assert pair.received[CLIENT, client.local_id] == b"-0 -1 -2 -3 -4 "
    pair.assert_promise()


def test_what_came_between_a_kexinit_and_the_loss() -> None:
    """The Dev Tunnels family talks on while it exchanges keys; its receipt was given."""
    pair = running_pair(reconnect_config(), channels=1, client_identification=DEV_TUNNELS)
    client, server = pair.channels[0]
    pair.client.exchanger.start()
    pair.cross(CLIENT)
    pair.cores[CLIENT].send(ChannelData(client.remote_id, b"once").encode())
    pair.cross(CLIENT)
    assert pair.received[SERVER, server.local_id] == b""
    pair.lose()
    assert pair.received[SERVER, server.local_id] == b"once"
    pair.reconnect()
    pair.assert_usable()
    assert pair.received[SERVER, server.local_id] == b"oncestill here"
