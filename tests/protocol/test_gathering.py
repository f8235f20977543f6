"""Small pieces gathered into one message: when they leave, and that nothing overtakes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anyssh.constants import DisconnectReason, MessageNumber
from anyssh.errors import LocalProtocolError
from anyssh.messages import ChannelData
from anyssh.protocol.channel import ChannelState
from anyssh.protocol.connection import GATHERED_BYTES, GATHERED_PIECE

from .core_pair import CLIENT, SERVER, Answers, CorePair, running_pair
from .reconnect_pair import reconnect_config

IDLE = Answers(consume=False)


def gather(pair: CorePair, channel: ChannelState, *pieces: bytes) -> list[int]:
    connection = pair.connections[CLIENT]
    return [connection.gather_data(channel, memoryview(piece)) for piece in pieces]


def messages(pair: CorePair) -> list[bytes | int]:
    """Return what the client has sent since it opened its last channel: data, else numbers."""
    sent = pair.sent(CLIENT)
    opened = max(i for i, payload in enumerate(sent) if payload[0] == MessageNumber.CHANNEL_OPEN)
    return [
        bytes(ChannelData.decode(payload).data)
        if payload[0] == MessageNumber.CHANNEL_DATA
        else payload[0]
        for payload in sent[opened + 1 :]
    ]


def test_small_pieces_share_a_message() -> None:
    pair = running_pair(channels=1)
    client, server = pair.channels[0]
    assert gather(pair, client, b"one, ", b"two, ", b"three") == [5, 5, 5]
    assert pair.client.has_output
    assert client.bytes_sent == 15
    pair.pump()
    assert messages(pair) == [b"one, two, three"]
    assert pair.received[SERVER, server.local_id] == b"one, two, three"
    assert not pair.client.has_output


def test_a_message_holds_no_more_than_it_may() -> None:
    pair = running_pair(channels=1)
    client, _ = pair.channels[0]
    count = GATHERED_BYTES // GATHERED_PIECE
    gather(pair, client, *[bytes(GATHERED_PIECE)] * (count + 1))
    pair.pump()
    assert messages(pair) == [bytes(GATHERED_BYTES), bytes(GATHERED_PIECE)]


def test_larger_pieces_and_none_have_no_message_in_common() -> None:
    pair = running_pair(channels=1)
    client, _ = pair.channels[0]
    assert gather(pair, client, b"a", bytes(GATHERED_PIECE + 1), b"b", b"") == [1, 2049, 1, 0]
    pair.pump()
    assert messages(pair) == [b"a", bytes(GATHERED_PIECE + 1), b"b"]


def test_a_peer_that_takes_small_packets_gets_small_ones() -> None:
    pair = running_pair()
    client, _ = pair.open_channel()
    client.send_packet_size = 4
    assert gather(pair, client, b"abc", b"de", b"fghij") == [3, 2, 5]
    pair.pump()
    data = [payload for payload in pair.sent(CLIENT) if payload[0] == MessageNumber.CHANNEL_DATA]
    assert [bytes(ChannelData.decode(payload).data) for payload in data] == [
        b"abc",
        b"de",
        b"fghi",
        b"j",
    ]


def test_no_more_is_taken_than_the_window() -> None:
    pair = running_pair(answers=IDLE)
    client, _ = pair.open_channel(SERVER, window_size=1024)
    assert gather(pair, client, bytes(1000), bytes(30), b"x") == [1000, 24, 0]
    assert client.send_window == 0
    pair.pump()
    assert client.bytes_sent == 1024


@pytest.mark.parametrize(
    "what, number",
    [
        (lambda pair, it: pair.connections[CLIENT].send_eof(it), MessageNumber.CHANNEL_EOF),
        (lambda pair, it: pair.connections[CLIENT].close(it), MessageNumber.CHANNEL_CLOSE),
        (
            lambda pair, it: pair.connections[CLIENT].send_extended_data(it, 1, memoryview(b"x")),
            MessageNumber.CHANNEL_EXTENDED_DATA,
        ),
        (
            lambda pair, it: pair.connections[CLIENT].request_channel(
                it, "shell", b"", want_reply=False
            ),
            MessageNumber.CHANNEL_REQUEST,
        ),
        (
            lambda pair, it: pair.connections[CLIENT].request_global("x", b"", want_reply=False),
            MessageNumber.GLOBAL_REQUEST,
        ),
        (
            lambda pair, it: pair.client.disconnect(DisconnectReason.BY_APPLICATION, ""),
            MessageNumber.DISCONNECT,
        ),
    ],
)
def test_nothing_overtakes(what: Callable[[CorePair, ChannelState], object], number: int) -> None:
    pair = running_pair(channels=1)
    client, _ = pair.channels[0]
    gather(pair, client, b"a", b"b")
    what(pair, client)
    pair.pump()
    assert messages(pair)[:2] == [b"ab", number]


def test_data_of_any_channel_leaves_in_its_order() -> None:
    pair = running_pair(channels=2)
    (first, _), (second, _) = pair.channels
    gather(pair, first, b"1", b"2")
    gather(pair, second, b"3")
    pair.connections[CLIENT].send_data(first, memoryview(b"4"))
    gather(pair, first, b"5")
    pair.pump()
    assert messages(pair) == [b"12", b"3", b"4", b"5"]


def test_it_waits_for_new_keys_and_keeps_its_place() -> None:
    pair = running_pair(channels=1)
    client, server = pair.channels[0]
    gather(pair, client, b"before")
    pair.client.start_rekey(pair.now)
    assert gather(pair, client, b", meanwhile") == [11]
    pair.client.data_to_send(pair.now)  # lost, and with it the whole exchange
    assert pair.connections[CLIENT].held_size > 17
    assert gather(pair, client, b"later") == [0]
    assert messages(pair) == [MessageNumber.KEXINIT]
    assert pair.received[SERVER, server.local_id] == b""


def test_what_was_gathered_comes_before_the_answer_to_a_close() -> None:
    pair = running_pair(channels=1)
    client, server = pair.channels[0]
    gather(pair, client, b"last words")
    pair.connections[SERVER].close(server)
    pair.pump()
    assert messages(pair) == [b"last words", MessageNumber.CHANNEL_CLOSE]
    assert gather_error(pair, client) is not None


def gather_error(pair: CorePair, channel: ChannelState) -> LocalProtocolError | None:
    try:
        gather(pair, channel, b"x")
    except LocalProtocolError as error:
        return error
    return None


def test_no_channel_gathers_after_eof() -> None:
    pair = running_pair(channels=1)
    client, _ = pair.channels[0]
    pair.connections[CLIENT].send_eof(client)
    assert gather_error(pair, client) is not None


def test_nothing_is_gathered_while_there_is_no_room() -> None:
    pair = running_pair(channels=2, answers=IDLE)
    (first, _), (second, _) = pair.channels
    pair.connections[CLIENT].send_data(first, memoryview(bytes(1024 * 1024)))
    assert pair.client.room <= 0
    assert gather(pair, second, b"x") == [0]


def test_what_was_gathered_survives_the_stream() -> None:
    pair = running_pair(reconnect_config(), channels=1)
    client, server = pair.channels[0]
    gather(pair, client, b"gathered", b" and")
    pair.lose()
    gather(pair, client, b" kept", b" whole")
    pair.reconnect()
    assert pair.received[SERVER, server.local_id] == b"gathered and kept whole"


def test_an_ended_session_keeps_nothing() -> None:
    pair = running_pair(channels=1)
    client, _ = pair.channels[0]
    gather(pair, client, b"x")
    pair.client.receive_eof(pair.now)
    assert pair.connections[CLIENT].gathering is None
    assert not pair.client.has_output
