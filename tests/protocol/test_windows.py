"""Windows in the core: how much is sent, when it stops, when window is returned, its cost."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from anyssh.constants import MessageNumber
from anyssh.messages import (
    ChannelData,
    ChannelExtendedData,
    ChannelOpen,
    ChannelOpenConfirmation,
    ChannelWindowAdjust,
)
from anyssh.protocol import Role
from anyssh.protocol.channel import ChannelState
from anyssh.protocol.events import ChannelOpenReceived, ChannelWritable, RoomMade

from .core_pair import CLIENT, SERVER, Answers, CorePair, fast_config, running_pair

KIB, MIB = 1024, 1024 * 1024
DEFAULT_WINDOW = MIB
HALF = DEFAULT_WINDOW // 2


def idle_reader() -> Answers:
    """Return the answers of applications that read nothing by themselves."""
    return Answers(consume=False)


def adjustments(pair: CorePair, role: Role) -> list[int]:
    """Return how much credit a side has sent, message by message."""
    return [
        ChannelWindowAdjust.decode(payload).bytes_to_add
        for payload in pair.sent(role)
        if payload[0] == MessageNumber.CHANNEL_WINDOW_ADJUST
    ]


def data_sizes(pair: CorePair, role: Role) -> list[int]:
    """Return the sizes of the data messages that a side has sent."""
    return [
        len(ChannelData.decode(payload).data)
        for payload in pair.sent(role)
        if payload[0] == MessageNumber.CHANNEL_DATA
    ]


def send_until_stuck(pair: CorePair, role: Role, channel: ChannelState, size: int) -> int:
    """Send zeros until they are gone or no more is taken; return how many were taken."""
    sent = 0
    while sent < size:
        taken = pair.connections[role].send_data(channel, memoryview(bytes(size - sent)))
        pair.pump()
        if taken == 0:
            break
        sent += taken
    return sent


# When credit returns


def test_the_first_adjustment_follows_half_a_window() -> None:
    """wire-connection 1.2: nothing before 524,288 consumed bytes, then everything consumed"""
    pair = running_pair(channels=1, answers=idle_reader())
    client, server = pair.channels[0]
    connection = pair.connections[SERVER]
    pair.send(CLIENT, client, bytes(HALF + 100))
    assert not connection.consume(server, HALF - 1)
    pair.pump()
    assert adjustments(pair, SERVER) == []
    assert server.receive_window.remaining == client.send_window == HALF - 100

    assert connection.consume(server, 1)
    pair.pump()
    assert adjustments(pair, SERVER) == [HALF]
    assert server.receive_window.remaining == client.send_window == DEFAULT_WINDOW - 100

    assert not connection.consume(server, 100)
    pair.pump()
    assert adjustments(pair, SERVER) == [HALF]


def test_one_large_gulp_returns_all_of_it() -> None:
    pair = running_pair(channels=1, answers=idle_reader())
    client, server = pair.channels[0]
    pair.send(CLIENT, client, bytes(DEFAULT_WINDOW))
    pair.connections[SERVER].consume(server, DEFAULT_WINDOW)
    pair.pump()
    assert adjustments(pair, SERVER) == [DEFAULT_WINDOW]
    assert client.send_window == DEFAULT_WINDOW


@pytest.mark.parametrize("limit", [1024, 1025, 4096, 4097, 65_535, 2**32 - 1])
def test_half_a_window_of_any_size(limit: int) -> None:
    """The peer is told once what it may send and what lies unread is half of the limit."""
    pair = running_pair(answers=idle_reader())
    pair.connections[SERVER]._memory.granted = -(2**40)  # memory enough for every size
    pair.connections[CLIENT]._memory.granted = -(2**40)
    client, server = pair.open_channel(SERVER, window_size=limit)
    assert (server.receive_window.limit, client.send_window) == (limit, limit)
    step = limit - limit // 2
    connection = pair.connections[SERVER]
    server.receive_window.take(step)
    assert not connection.consume(server, step - 1)
    assert connection.consume(server, 1)
    assert server.receive_window.remaining == limit
    assert ChannelWindowAdjust.decode(pair.sent(SERVER)[-1]).bytes_to_add == step


def test_small_data_causes_no_adjustment() -> None:
    """WIN-09"""
    pair = running_pair(channels=1)
    client, _ = pair.channels[0]
    for _ in range(100):
        pair.send(CLIENT, client, bytes(5000))
    assert adjustments(pair, SERVER) == []


@pytest.mark.parametrize("reason", ["eof", "closed here", "closed there"])
def test_nobody_is_told_of_room_that_nobody_needs(reason: str) -> None:
    pair = running_pair(channels=1, answers=idle_reader())
    client, server = pair.channels[0]
    pair.send(CLIENT, client, bytes(DEFAULT_WINDOW))
    match reason:
        case "eof":
            pair.connections[CLIENT].send_eof(client)
        case "closed there":
            pair.connections[CLIENT].close(client)
    pair.pump()
    if reason == "closed here":
        pair.connections[SERVER].close(server)
    assert not pair.connections[SERVER].consume(server, DEFAULT_WINDOW)
    pair.pump()
    assert adjustments(pair, SERVER) == []
    assert len(pair.received[SERVER, server.local_id]) == DEFAULT_WINDOW


def test_standard_error_takes_room_like_data() -> None:
    """EXD-08"""
    pair = running_pair(channels=1, answers=idle_reader())
    client, server = pair.channels[0]
    connection = pair.connections[CLIENT]
    connection.send_extended_data(client, 1, memoryview(bytes(DEFAULT_WINDOW // 4)))
    pair.pump()
    assert send_until_stuck(pair, CLIENT, client, MIB) == DEFAULT_WINDOW * 3 // 4
    assert connection.send_extended_data(client, 1, memoryview(b"x")) == 0
    pair.connections[SERVER].consume(server, HALF)
    pair.pump()
    assert adjustments(pair, SERVER) == [HALF]
    assert client.send_window == HALF


# When sending stops and goes on


def test_sending_stops_after_exactly_one_window() -> None:
    """WIN-04, WIN-07"""
    pair = running_pair(channels=1, answers=idle_reader())
    client, server = pair.channels[0]
    assert send_until_stuck(pair, CLIENT, client, 2 * MIB) == MIB
    assert client.send_window == server.receive_window.remaining == 0
    assert len(pair.received[SERVER, server.local_id]) == MIB
    assert adjustments(pair, SERVER) == []
    before = len(pair.of_type(CLIENT, ChannelWritable))

    pair.connections[SERVER].consume(server, HALF - 1)
    pair.pump()
    assert len(pair.of_type(CLIENT, ChannelWritable)) == before
    pair.connections[SERVER].consume(server, 1)
    pair.pump()
    (writable,) = pair.of_type(CLIENT, ChannelWritable)[before:]
    assert writable.channel is client
    assert send_until_stuck(pair, CLIENT, client, MIB) == HALF


def test_a_send_of_exactly_the_window_is_taken_whole() -> None:
    """WIN-03"""
    config = fast_config(window_size=4096, max_packet_size=1024)
    pair = running_pair(config, channels=1, answers=idle_reader())
    client, server = pair.channels[0]
    assert pair.connections[CLIENT].send_data(client, memoryview(bytes(4096))) == 4096
    pair.pump()
    assert len(pair.received[SERVER, server.local_id]) == 4096
    pair.connections[SERVER].consume(server, 4096)
    pair.pump()
    assert client.send_window == 4096
    assert not pair.of_type(CLIENT, ChannelWritable), "nobody was waiting"


def test_many_stops_and_resumes() -> None:
    """WIN-05: 8 KiB through 2 KiB, read in small pieces"""
    config = fast_config(window_size=2048, max_packet_size=1024)
    pair = running_pair(config, channels=1, answers=idle_reader())
    client, server = pair.channels[0]
    data = random.Random(5).randbytes(8192)
    sent, consumed, stops = 0, 0, 0
    received = pair.received[SERVER, server.local_id]
    while sent < len(data):
        sent += (taken := pair.connections[CLIENT].send_data(client, memoryview(data)[sent:]))
        stops += taken == 0
        pair.pump()
        assert len(received) - consumed <= 2048
        step = min(700, len(received) - consumed)
        pair.connections[SERVER].consume(server, step)
        consumed += step
        pair.pump()
    assert received == data
    assert stops >= 3
    assert len(pair.of_type(CLIENT, ChannelWritable)) >= 3
    assert max(data_sizes(pair, CLIENT)) == 1024


@pytest.mark.parametrize(
    "client_window, server_window", [(MIB, MIB), (MIB, 5 * MIB), (5 * MIB, MIB)]
)
def test_transfers_larger_than_the_windows(client_window: int, server_window: int) -> None:
    """WIN-02, WIN-10: a window belongs to one channel and one direction"""
    pair = running_pair(
        fast_config(window_size=client_window), fast_config(window_size=server_window), channels=1
    )
    client, server = pair.channels[0]
    assert (client.send_window, server.send_window) == (server_window, client_window)
    data = random.Random(3).randbytes(3_500_000)
    pair.send(CLIENT, client, data)
    assert server.send_window == client_window
    pair.send(SERVER, server, data[:2_500_000])
    assert pair.received[SERVER, server.local_id] == data
    assert pair.received[CLIENT, client.local_id] == data[:2_500_000]
    assert adjustments(pair, SERVER)[0] >= server_window - server_window // 2


@pytest.mark.parametrize("size", [8 * KIB, 512 * KIB, 5 * MIB])
def test_either_side_chooses_the_window_of_one_channel(size: int) -> None:
    """CHN-09"""
    pair = running_pair(answers=Answers(accept_channels=None))
    ours = pair.connections[CLIENT].open_channel("session", window_size=size)
    pair.pump()
    (event,) = pair.of_type(SERVER, ChannelOpenReceived)
    assert event.channel.send_window == size
    pair.connections[SERVER].accept_channel(event.channel, window_size=size + 1000)
    pair.pump()
    assert ours.send_window == event.channel.receive_window.limit == size + 1000
    assert ours.receive_window.limit == size
    assert ours.receive_packet_size == event.channel.send_packet_size == min(size, 32 * KIB)
    theirs = min(size + 1000, 32 * KIB)
    assert ours.send_packet_size == event.channel.receive_packet_size == theirs


def test_a_blocked_sender_is_told_once() -> None:
    """Room that comes in two messages wakes it with the first; then nobody waits."""
    config = fast_config(window_size=2048, max_packet_size=1024)
    pair = running_pair(config, channels=1, answers=idle_reader())
    client, server = pair.channels[0]
    assert send_until_stuck(pair, CLIENT, client, 5000) == 2048
    for _ in range(2):
        pair.connections[SERVER].consume(server, 1024)
    pair.pump()
    assert adjustments(pair, SERVER) == [1024, 1024]
    assert [event.channel for event in pair.of_type(CLIENT, ChannelWritable)] == [client]


def test_one_blocked_channel_does_not_hold_up_another() -> None:
    pair = running_pair(channels=2, answers=idle_reader())
    (blocked, _), (free, free_there) = pair.channels
    assert send_until_stuck(pair, CLIENT, blocked, 2 * MIB) == MIB
    assert send_until_stuck(pair, CLIENT, free, 1000) == 1000
    assert len(pair.received[SERVER, free_there.local_id]) == 1000


def test_what_waits_for_the_stream_is_bounded() -> None:
    """Senders wait when much is unsent, by limits.pending_output; it is not the window."""
    config = fast_config(window_size=8 * MIB)
    pair = running_pair(config, channels=1)
    client, server = pair.channels[0]
    connection, limit = pair.connections[CLIENT], config.limits.pending_output
    data = memoryview(bytes(8 * MIB))
    taken = connection.send_data(client, data)
    assert limit <= pair.client.transport.pending <= limit + 32 * 1024 + 64
    assert connection.send_data(client, data) == 0
    assert connection.send_extended_data(client, 1, data) == 0
    assert client.send_window == 8 * MIB - taken
    pair.pump()
    assert len(pair.received[SERVER, server.local_id]) == taken
    assert connection.send_data(client, data) > 0


@pytest.mark.parametrize("server, size", [("anyssh_1", 128 * 1024), ("other_1", 32 * 1024)])
def test_messages_among_ourselves_carry_more(server: str, size: int) -> None:
    """WIN-01: no more than 32 KiB go to anybody else"""
    pair = running_pair(
        channels=1,
        client_identification="SSH-2.0-anyssh_1",
        server_identification=f"SSH-2.0-{server}",
    )
    client, _ = pair.channels[0]
    pair.send(CLIENT, client, bytes(3 * size + 1))
    assert data_sizes(pair, CLIENT) == [size] * 3 + [1]


def test_who_asks_for_room_is_told_once() -> None:
    """For what is asked of the peer beside data; nobody is told who did not ask."""
    pair = running_pair(fast_config(window_size=8 * MIB), channels=1)
    connection = pair.connections[CLIENT]
    for asks in (False, True, False):
        pair.events[CLIENT].clear()
        assert not connection.wait_for_room()
        connection.send_data(pair.channels[0][0], memoryview(bytes(2 * MIB)))
        assert not asks or connection.wait_for_room()
        pair.pump()
        assert len(pair.of_type(CLIENT, RoomMade)) == asks


def full_output(channels: int) -> CorePair:
    """Return a pair whose client's output is full, with all its channels waiting to send."""
    pair = running_pair(fast_config(window_size=4 * MIB), channels=channels)
    data = memoryview(bytes(MIB))
    for client, _ in pair.channels:
        assert pair.connections[CLIENT].send_data(client, data) < MIB
    assert pair.client.transport.pending >= pair.client.config.limits.pending_output
    assert not pair.of_type(CLIENT, ChannelWritable)
    return pair


def turns(pair: CorePair) -> list[ChannelState]:
    """Return which of the client's channels had a turn so far."""
    return [event.channel for event in pair.of_type(CLIENT, ChannelWritable)]


def test_channels_take_turns_when_there_is_room() -> None:
    """One after another, in the order in which they began to wait, again and again."""
    pair = full_output(3)
    one, two, three = (client for client, _ in pair.channels)
    data = memoryview(bytes(MIB))
    expected = []
    for _ in range(3):
        for channel in (one, two, three):
            pair.pump()
            expected.append(channel)
            assert turns(pair) == expected
            assert pair.connections[CLIENT].send_data(channel, data) > 0


@pytest.mark.parametrize("how", ["has sent all", "gives up", "closes", "is closed"])
def test_a_channel_that_needs_no_turn_passes_it_on(how: str) -> None:
    pair = full_output(2)
    (one, one_there), (two, _) = pair.channels
    connection = pair.connections[CLIENT]
    pair.pump()
    assert turns(pair) == [one]
    match how:
        case "has sent all":
            connection.send_data(one, memoryview(b"the rest"))
        case "gives up":
            connection.stop_sending(one)
        case "closes":
            connection.close(one)
        case _:
            pair.connections[SERVER].close(one_there)
    pair.pump()
    assert turns(pair) == [one, two]


def test_a_channel_that_stops_waiting_gets_no_turn() -> None:
    pair = full_output(2)
    (one, _), (two, _) = pair.channels
    pair.connections[CLIENT].stop_sending(one)
    pair.pump()
    assert turns(pair) == [two]


def test_many_small_messages_are_more_than_one_turn() -> None:
    """A channel of tiny packets does not keep the others waiting, though there is room for all."""
    pair = running_pair()
    connection = pair.connections[CLIENT]
    channels = [connection.open_channel("session") for _ in range(2)]
    pair.take(CLIENT)
    for number, channel in enumerate(channels):
        confirmation = ChannelOpenConfirmation(channel.local_id, number, MIB, 1)
        pair.inject(SERVER, confirmation.encode(), pump=False)
    pair.cross(SERVER)
    for channel in channels:
        assert connection.send_data(channel, memoryview(bytes(1000))) == 64
    for turn in range(20):
        pair.handle(CLIENT, pair.client.poll_events())
        channel = turns(pair)[turn]
        assert channel is channels[turn % 2]
        assert connection.send_data(channel, memoryview(bytes(1000))) == 64
    assert turns(pair) == channels * 10 + channels[:1]


@pytest.mark.parametrize("starter", [CLIENT, SERVER], ids=["client", "server"])
def test_senders_go_on_after_new_keys(starter: Role) -> None:
    """On both sides, also on the one whose last step is to receive."""
    pair = running_pair(channels=1)
    channels = dict(zip((CLIENT, SERVER), pair.channels[0], strict=True))
    pair.cores[starter].start_rekey(pair.now)
    pair.cross(starter)
    for role, channel in channels.items():
        assert pair.connections[role].send_data(channel, memoryview(b"held")) == 0
        assert not pair.of_type(role, ChannelWritable)
    pair.pump()
    for role, channel in channels.items():
        assert [event.channel for event in pair.of_type(role, ChannelWritable)] == [channel]
        assert pair.connections[role].send_data(channel, memoryview(b"held")) == 4
    pair.pump()
    for role, channel in channels.items():
        assert pair.received[role, channel.local_id] == b"held"


def test_data_waits_for_new_keys_and_loses_nothing() -> None:
    """Adjustments and EOF wait too; the order of messages on the channel stays."""
    pair = running_pair(channels=1, answers=idle_reader())
    client, server = pair.channels[0]
    pair.send(CLIENT, client, bytes(MIB))
    pair.client.start_rekey(pair.now)
    pair.server.start_rekey(pair.now)
    assert pair.connections[CLIENT].send_data(client, memoryview(b"x")) == 0
    assert pair.connections[SERVER].send_data(server, memoryview(b"x")) == 0
    assert pair.connections[SERVER].consume(server, MIB)
    pair.connections[CLIENT].send_eof(client)
    assert MessageNumber.CHANNEL_WINDOW_ADJUST not in pair.sent_numbers(SERVER)
    assert MessageNumber.CHANNEL_EOF not in pair.sent_numbers(CLIENT)
    pair.pump()
    assert client.send_window == MIB
    assert pair.sent_numbers(CLIENT)[-2:] == [MessageNumber.NEWKEYS, MessageNumber.CHANNEL_EOF]


# The sizes of packets


@pytest.mark.parametrize(
    "client_packet, server_packet", [(32_768, 1024), (1024, 32_768), (4096, 4096), (100_000, 9999)]
)
def test_messages_keep_to_the_smaller_limit(client_packet: int, server_packet: int) -> None:
    """WIN-01"""
    pair = running_pair(
        fast_config(max_packet_size=client_packet),
        fast_config(max_packet_size=server_packet),
        channels=1,
    )
    smaller = min(client_packet, server_packet)
    for role, channel in zip((CLIENT, SERVER), pair.channels[0], strict=True):
        pair.send(role, channel, bytes(smaller * 3 + 1))
        assert data_sizes(pair, role) == [smaller] * 3 + [1]


@pytest.mark.parametrize("theirs, used", [(1, 1), (7, 7), (32_769, 32_768), (2**32 - 1, 32_768)])
def test_a_peer_may_take_packets_of_any_size(theirs: int, used: int) -> None:
    """HR-53: however small, each turn sends something; larger than ours is cut to ours"""
    pair = running_pair(answers=Answers(accept_channels=None))
    opening = ChannelOpen("session", 0, 2**32 - 1, theirs).encode()
    pair.inject(CLIENT, opening, pump=False)
    pair.cross(CLIENT)
    channel = pair.of_type(SERVER, ChannelOpenReceived)[-1].channel
    connection = pair.connections[SERVER]
    connection.accept_channel(channel)
    assert connection.send_data(channel, memoryview(bytes(used * 3))) == used * 3
    assert connection.send_extended_data(channel, 1, memoryview(bytes(used + 1))) == used + 1
    extended = [
        len(ChannelExtendedData.decode(payload).data)
        for payload in pair.sent(SERVER)
        if payload[0] == MessageNumber.CHANNEL_EXTENDED_DATA
    ]
    assert (data_sizes(pair, SERVER), extended) == ([used] * 3, [used, 1])
    assert channel.send_window == 2**32 - 1 - used * 4 - 1


def test_a_window_of_nothing_waits_for_room() -> None:
    """T-31: the channel opens, and sends once the peer has room"""
    pair = running_pair()
    ours = pair.connections[CLIENT].open_channel("session")
    pair.take(CLIENT)
    pair.inject(SERVER, ChannelOpenConfirmation(ours.local_id, 0, 0, 32_768).encode(), pump=False)
    pair.cross(SERVER)
    connection = pair.connections[CLIENT]
    assert connection.send_data(ours, memoryview(b"hello")) == 0
    assert connection.send_data(ours, memoryview(b"")) == 0
    pair.inject(SERVER, ChannelWindowAdjust(ours.local_id, 0).encode(), pump=False)
    pair.cross(SERVER)
    assert not pair.of_type(CLIENT, ChannelWritable)
    pair.inject(SERVER, ChannelWindowAdjust(ours.local_id, 3).encode(), pump=False)
    pair.cross(SERVER)
    assert len(pair.of_type(CLIENT, ChannelWritable)) == 1
    assert connection.send_data(ours, memoryview(b"hello")) == 3
    assert ChannelData.decode(pair.sent(CLIENT)[-1]).data == b"hel"


def test_a_window_may_grow_to_the_last_byte() -> None:
    """WIN-06, HR-52: 2**32 - 1 in all is right; the test of one more is in the abuse file"""
    pair = running_pair(channels=1)
    client, server = pair.channels[0]
    room = 2**32 - 1 - server.send_window
    pair.inject(CLIENT, ChannelWindowAdjust(server.local_id, room).encode())
    assert server.send_window == 2**32 - 1
    assert client.local_id == server.remote_id
    pair.assert_usable()


# Memory


@pytest.mark.parametrize("wanted", [MIB, 5 * MIB, 64 * MIB, 2**32 - 1])
def test_all_windows_together_fit_the_budget(wanted: int) -> None:
    """HR-51: 64 MiB for 1,024 channels, each of which gets 32 KiB at least"""
    config = fast_config(window_size=wanted)
    pair = running_pair(config, fast_config())
    channels = [pair.connections[CLIENT].open_channel("session") for _ in range(1024)]
    granted = [channel.receive_window.limit for channel in channels]
    assert sum(granted) <= config.limits.receive_memory
    assert min(granted) == 32 * KIB
    assert granted[0] == min(wanted, 8 * MIB)
    assert all(later <= earlier for earlier, later in pairwise(granted))
    assert all(channel.receive_packet_size <= channel.receive_window.limit for channel in channels)


def test_a_large_window_takes_a_quarter_of_what_is_left() -> None:
    """Of 64 MiB, half of which is for the least that each of 1,024 channels gets."""
    connection = running_pair(fast_config(window_size=64 * MIB)).connections[CLIENT]
    windows = [connection.open_channel("session").receive_window.limit for _ in range(3)]
    assert windows == [8 * MIB, 6 * MIB, 4.5 * MIB]


def test_memory_comes_back_when_channels_close() -> None:
    """HR-51"""
    pair = running_pair(channels=200)
    assert pair.channels[-1][0].receive_window.limit < DEFAULT_WINDOW
    for client, _ in pair.channels:
        pair.connections[CLIENT].close(client)
    pair.pump()
    client, server = pair.open_channel()
    assert client.receive_window.limit == server.receive_window.limit == DEFAULT_WINDOW


def test_memory_comes_back_when_channels_are_refused() -> None:
    """HR-51"""
    pair = running_pair(answers=Answers(accept_channels=False))
    for _ in range(500):
        pair.connections[CLIENT].open_channel("session")
        pair.pump()
    pair.answers.accept_channels = True
    client, server = pair.open_channel()
    assert client.receive_window.limit == server.receive_window.limit == DEFAULT_WINDOW


def test_what_a_peer_can_make_us_hold_is_the_windows() -> None:
    """HR-51, T-58: nobody reads; nothing more can come, and no credit is given"""
    pair = running_pair(channels=60, answers=idle_reader())
    for client, _ in pair.channels:
        send_until_stuck(pair, CLIENT, client, 2 * MIB)
    held = sum(len(data) for data in pair.received.values())
    assert held == sum(server.receive_window.limit for _, server in pair.channels)
    assert held <= pair.server.config.limits.receive_memory
    assert adjustments(pair, SERVER) == []
