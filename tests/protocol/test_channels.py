"""Channels in the core: opening, refusing, giving up, EOF, closing, and their limits.

Everything here is well-behaved on both sides; the rest is in ``test_connection_abuse``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anyssh.constants import ChannelOpenFailureReason, DisconnectReason, MessageNumber
from anyssh.errors import Disconnected, LocalProtocolError
from anyssh.messages import (
    ChannelClose,
    ChannelOpen,
    ChannelOpenConfirmation,
    ChannelOpenFailure,
    ChannelRequest,
    ExitSignal,
    ExitStatus,
)
from anyssh.protocol import Phase, Role
from anyssh.protocol.channel import ChannelPhase, ChannelState, Half
from anyssh.protocol.connection import PAYLOAD_MARGIN, Connection
from anyssh.protocol.events import (
    ChannelClosed,
    ChannelDataReceived,
    ChannelEofReceived,
    ChannelExtendedDataReceived,
    ChannelOpened,
    ChannelOpenFailed,
    ChannelOpenReceived,
    GlobalRequestReceived,
    ReplyReceived,
)
from anyssh.trace import TraceEvent, TraceId

from .core_pair import (
    CLIENT,
    SERVER,
    Answers,
    CorePair,
    assert_terminated,
    fast_config,
    running_pair,
)

BOTH = pytest.mark.parametrize("opener", [CLIENT, SERVER], ids=["client", "server"])


def offered(pair: CorePair, opener: Role, channel_type: str = "session") -> ChannelState:
    """Open a channel as one side and return what the other one, which has not answered, holds."""
    pair.connections[opener].open_channel(channel_type)
    pair.pump()
    return pair.of_type(opener.other, ChannelOpenReceived)[-1].channel


def held_back() -> CorePair:
    """Return a running pair in which channels and requests wait for the test's answer."""
    return running_pair(answers=Answers(accept_channels=None, grant_requests=None))


# Opening


@BOTH
def test_an_opened_channel_is_known_to_both_sides_by_both_numbers(opener: Role) -> None:
    """CHN-01, CHN-16"""
    pair = running_pair()
    pair.open_channel(SERVER)  # so that the numbers of both sides differ
    pair.connections[opener].abandon_open(pair.connections[opener].open_channel("lost"))
    pair.pump()

    ours, theirs = pair.open_channel(opener, "direct", payload=b"more fields")
    if opener is SERVER:
        ours, theirs = theirs, ours

    assert (ours.local_id, ours.remote_id) == (theirs.remote_id, theirs.local_id)
    assert ours.channel_type == theirs.channel_type == "direct"
    assert ours.phase is theirs.phase is ChannelPhase.OPEN
    assert pair.of_type(opener.other, ChannelOpenReceived)[-1].payload == b"more fields"
    assert pair.of_type(opener, ChannelOpened)[-1].payload == b""


@BOTH
def test_an_open_and_its_confirmation_are_encoded_as_the_standard_says(opener: Role) -> None:
    """WIN-01: a window of 1 MiB and packets of 32 KiB by default"""
    pair = held_back()
    theirs = offered(pair, opener)
    pair.connections[opener.other].accept_channel(theirs, b"extra")
    pair.pump()

    opening = next(m for m in pair.sent(opener) if m[0] == MessageNumber.CHANNEL_OPEN)
    assert ChannelOpen.decode(opening) == ChannelOpen("session", 0, 1_048_576, 32_768, b"")
    confirmation = pair.sent(opener.other)[-1]
    assert ChannelOpenConfirmation.decode(confirmation) == ChannelOpenConfirmation(
        0, 0, 1_048_576, 32_768, b"extra"
    )
    assert pair.of_type(opener, ChannelOpened)[-1].payload == b"extra"


@BOTH
def test_a_refusal_carries_reason_and_text(opener: Role) -> None:
    """CHN-07"""
    pair = held_back()
    theirs = offered(pair, opener)
    pair.connections[opener.other].reject_channel(
        theirs, ChannelOpenFailureReason.CONNECT_FAILED, "nobody\nthere"
    )
    pair.pump()

    (failed,) = pair.of_type(opener, ChannelOpenFailed)
    assert failed.reason == ChannelOpenFailureReason.CONNECT_FAILED
    assert failed.description == "nobody\\nthere"
    assert theirs.phase is failed.channel.phase is ChannelPhase.CLOSED
    assert [connection.channel_count for connection in pair.connections.values()] == [0, 0]


@pytest.mark.parametrize("kept", [9, 13, 15], ids=["reason", "description", "all"])
def test_a_refusal_may_end_early(kept: int) -> None:
    """wire-connection 1.1: some peers leave out the language, or the description too"""
    pair = held_back()
    ours = pair.connections[CLIENT].open_channel("session")
    whole = ChannelOpenFailure(ours.local_id, 2, "", "en").encode()
    pair.inject(SERVER, whole[:kept] if kept < 15 else whole, pump=False)
    pair.cross(SERVER)

    (failed,) = pair.of_type(CLIENT, ChannelOpenFailed)
    assert (failed.channel, failed.reason, failed.description) == (ours, 2, "")


def test_opens_are_answered_in_any_order() -> None:
    pair = held_back()
    ours = [pair.connections[CLIENT].open_channel(f"number {n}") for n in range(10)]
    pair.pump()
    theirs = [event.channel for event in pair.of_type(SERVER, ChannelOpenReceived)]
    assert [channel.channel_type for channel in theirs] == [f"number {n}" for n in range(10)]

    for channel in reversed(theirs):
        pair.connections[SERVER].accept_channel(channel)
    pair.pump()

    assert [event.channel for event in pair.of_type(CLIENT, ChannelOpened)] == ours[::-1]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.remote_id == other.local_id
        assert other.remote_id == mine.local_id


def test_a_channel_is_answered_once() -> None:
    pair = held_back()
    connection = pair.connections[SERVER]
    accepted, rejected = offered(pair, CLIENT), offered(pair, CLIENT)
    connection.accept_channel(accepted)
    connection.reject_channel(rejected, 1, "no")
    sent = pair.sent(SERVER).copy()

    for channel in (accepted, rejected):
        with pytest.raises(LocalProtocolError, match="already answered"):
            connection.accept_channel(channel)
        with pytest.raises(LocalProtocolError, match="already answered"):
            connection.reject_channel(channel, 1, "no")

    assert pair.sent(SERVER) == sent
    assert accepted.phase is ChannelPhase.OPEN


def test_the_acceptor_speaks_first() -> None:
    """CHN-10: data right behind the confirmation reaches the opener, and after it"""
    pair = held_back()
    theirs = offered(pair, CLIENT)
    pair.connections[SERVER].accept_channel(theirs)
    pair.connections[SERVER].send_data(theirs, memoryview(b"welcome"))
    first = len(pair.events[CLIENT])
    pair.pump()

    kinds = [type(event) for event in pair.events[CLIENT][first:]]
    assert kinds == [ChannelOpened, ChannelDataReceived]
    assert pair.received[CLIENT, theirs.remote_id] == b"welcome"


@pytest.mark.parametrize("state", ["opening", "offered", "closed"])
def test_nothing_can_be_sent_on_a_channel_that_is_not_open(state: str) -> None:
    pair = held_back()
    if state == "opening":
        role, channel = CLIENT, pair.connections[CLIENT].open_channel("session")
    else:
        role, channel = SERVER, offered(pair, CLIENT)
    if state == "closed":
        pair.connections[SERVER].close(channel)
    pair.pump()
    connection, sent = pair.connections[role], pair.sent(role).copy()

    with pytest.raises(LocalProtocolError, match=state):
        connection.send_data(channel, memoryview(b"x"))
    with pytest.raises(LocalProtocolError, match=state):
        connection.send_extended_data(channel, 1, memoryview(b"x"))
    with pytest.raises(LocalProtocolError, match=state):
        connection.send_eof(channel)
    with pytest.raises(LocalProtocolError, match=state):
        connection.request_channel(channel, "exec", b"", want_reply=True)

    assert pair.sent(role) == sent
    assert not channel.replies


def test_nothing_opens_before_authentication() -> None:
    pair = CorePair()
    pair.pump()
    for connection in pair.connections.values():
        with pytest.raises(LocalProtocolError, match="authenticate first"):
            connection.open_channel("session")
        with pytest.raises(LocalProtocolError, match="authenticate first"):
            connection.request_global("hello", b"", want_reply=True)
        assert connection.channel_count == 0
    pair.authenticate()
    pair.assert_usable()


def test_an_open_that_cannot_be_encoded_changes_nothing() -> None:
    """Our own misuse raises and leaves no trace in the table."""
    pair = running_pair()
    connection = pair.connections[CLIENT]
    sent = pair.sent(CLIENT).copy()
    with pytest.raises(LocalProtocolError):
        connection.open_channel("lone surrogate \udc80")
    assert connection.channel_count == 0
    assert pair.sent(CLIENT) == sent
    pair.assert_usable()


def test_what_the_application_adds_may_be_as_long_as_any_peer_takes() -> None:
    """One byte more is refused here, rather than have the peer end the session."""
    pair = held_back()
    ours, theirs = pair.connections[CLIENT], pair.connections[SERVER]
    longest = bytes(pair.client.config.limits.packet_size - PAYLOAD_MARGIN)

    def fits(call: Callable[[bytes], object]) -> None:
        with pytest.raises(LocalProtocolError, match=f"at most {len(longest)} fit"):
            call(longest + b"x")
        call(longest)
        pair.pump()

    fits(lambda payload: ours.open_channel("session", payload))
    (offer,) = pair.of_type(SERVER, ChannelOpenReceived)
    fits(lambda payload: theirs.accept_channel(offer.channel, payload))
    (opened,) = pair.of_type(CLIENT, ChannelOpened)
    channel = opened.channel
    fits(lambda payload: ours.request_channel(channel, "x", payload, want_reply=False))
    fits(lambda payload: ours.request_global("x", payload, want_reply=True))
    (asked,) = pair.of_type(SERVER, GlobalRequestReceived)
    fits(lambda payload: theirs.answer(asked.request, True, payload))
    assert pair.of_type(CLIENT, ReplyReceived)[0].payload == longest
    assert pair.client.phase is pair.server.phase is Phase.RUNNING


# Giving up


@pytest.mark.parametrize("seen", [False, True], ids=["before the answer", "after the offer"])
def test_an_abandoned_open_is_closed_when_the_confirmation_comes(seen: bool) -> None:
    """HR-55, CHN-06"""
    pair = held_back()
    ours = pair.connections[CLIENT].open_channel("session")
    if seen:
        pair.pump()
    pair.connections[CLIENT].abandon_open(ours)
    pair.pump()
    theirs = pair.of_type(SERVER, ChannelOpenReceived)[-1].channel
    pair.connections[SERVER].accept_channel(theirs)
    pair.pump()

    assert pair.sent(CLIENT)[-1] == ChannelClose(theirs.local_id).encode()
    assert pair.sent(SERVER)[-1] == ChannelClose(ours.local_id).encode()
    assert not pair.of_type(CLIENT, ChannelOpened)
    assert not pair.of_type(CLIENT, ChannelOpenFailed)
    assert len(pair.of_type(SERVER, ChannelClosed)) == 1
    assert [connection.channel_count for connection in pair.connections.values()] == [0, 0]
    pair.answers.accept_channels = True
    pair.assert_usable()


def test_an_abandoned_open_is_forgotten_when_the_refusal_comes() -> None:
    """HR-55"""
    pair = held_back()
    theirs_of = offered(pair, CLIENT)
    (ours,) = pair.connections[CLIENT]._channels.values()
    pair.connections[CLIENT].abandon_open(ours)
    pair.connections[SERVER].reject_channel(theirs_of, 1, "no")
    pair.pump()

    assert not pair.of_type(CLIENT, ChannelOpenFailed)
    assert [connection.channel_count for connection in pair.connections.values()] == [0, 0]
    pair.answers.accept_channels = True
    pair.assert_usable()


def test_an_open_channel_cannot_be_abandoned() -> None:
    pair = running_pair(channels=1)
    client, _ = pair.channels[0]
    pair.connections[CLIENT].abandon_open(client)
    assert client.phase is ChannelPhase.OPEN
    pair.assert_usable()


# Data of both kinds, and EOF


@pytest.mark.parametrize("size", [0, 1, 4, 2032, 32_768, 32_769, 3_000_000])
def test_data_of_any_size_arrives_whole_in_both_directions(size: int) -> None:
    """CHN-22, CHN-25"""
    pair = running_pair(channels=2)
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    client, server = pair.channels[1]
    for sender, ours, theirs in ((CLIENT, client, server), (SERVER, server, client)):
        pair.send(sender, ours, data)
        assert pair.received[sender.other, theirs.local_id] == data
        assert ours.bytes_sent == theirs.bytes_received == size
    assert not pair.received[SERVER, pair.channels[0][1].local_id]


def test_a_slice_sends_only_the_slice() -> None:
    """CHN-23"""
    pair = running_pair(channels=1)
    client, server = pair.channels[0]
    buffer = bytearray(b"one two three")
    assert pair.connections[CLIENT].send_data(client, memoryview(buffer)[4:7]) == 3
    buffer[4:7] = b"TWO"  # what was taken is sealed: the caller may use its buffer again
    pair.pump()
    assert pair.received[SERVER, server.local_id] == b"two"


def test_channels_do_not_mix() -> None:
    """CHN-17, CHN-24"""
    pair = running_pair(channels=10)
    expected = {server.local_id: bytearray() for _, server in pair.channels}
    for turn in range(256):
        client, server = pair.channels[turn % 10]
        piece = f"{turn},".encode() * 100
        assert pair.connections[CLIENT].send_data(client, memoryview(piece)) == len(piece)
        expected[server.local_id] += piece
    pair.pump()
    for number, data in expected.items():
        assert pair.received[SERVER, number] == data


@pytest.mark.parametrize("is_wanted", [True, False])
def test_data_is_traced_if_wanted(is_wanted: bool) -> None:
    traces: list[TraceEvent] = []
    config = fast_config(trace_channel_data=is_wanted)
    running_pair(config, channels=1, trace=traces.append).assert_usable()
    told = {trace.id for trace in traces}
    of_data = {TraceId.SENDING_CHANNEL_DATA, TraceId.RECEIVING_CHANNEL_DATA}
    assert told & of_data == (of_data if is_wanted else set())


def test_extended_data_arrives_with_its_type() -> None:
    """EXD-01"""
    pair = running_pair(channels=1)
    client, server = pair.channels[0]
    pair.connections[SERVER].send_extended_data(server, 1, memoryview(b"SERVER_STDERR_OUTPUT"))
    pair.connections[CLIENT].send_extended_data(client, 77, memoryview(b"CLIENT_OTHER_DATA"))
    pair.pump()

    (to_client,) = pair.of_type(CLIENT, ChannelExtendedDataReceived)
    assert (to_client.channel, to_client.data_type) == (client, 1)
    assert to_client.data == b"SERVER_STDERR_OUTPUT"
    (to_server,) = pair.of_type(SERVER, ChannelExtendedDataReceived)
    assert (to_server.data_type, to_server.data) == (77, b"CLIENT_OTHER_DATA")


@BOTH
def test_eof_ends_one_direction_only(opener: Role) -> None:
    """EXD-03, EXD-04"""
    pair = running_pair(channels=1)
    pair_of = dict(zip((CLIENT, SERVER), pair.channels[0], strict=True))
    ours, theirs = pair_of[opener], pair_of[opener.other]
    connection = pair.connections[opener]
    connection.send_data(ours, memoryview(b"last words"))
    connection.send_eof(ours)
    connection.send_eof(ours)
    pair.pump()

    (eof,) = pair.of_type(opener.other, ChannelEofReceived)
    assert eof.channel is theirs
    assert pair.received[opener.other, theirs.local_id] == b"last words"
    assert pair.sent_numbers(opener).count(MessageNumber.CHANNEL_EOF) == 1
    assert ours.send_half is theirs.receive_half is Half.EOF
    for send in (connection.send_data, lambda c, d: connection.send_extended_data(c, 1, d)):
        with pytest.raises(LocalProtocolError, match="EOF was sent"):
            send(ours, memoryview(b"x"))

    pair.send(opener.other, theirs, b"still listening")
    assert pair.received[opener, ours.local_id] == b"still listening"
    connection.request_channel(ours, "signal", b"", want_reply=True)
    pair.pump()
    assert pair.sent_numbers(opener.other)[-1] == MessageNumber.CHANNEL_SUCCESS


# Closing


@BOTH
def test_closing_tells_both_sides_once_and_empties_the_tables(opener: Role) -> None:
    """CHN-02, CHN-11, CHN-12: CLOSE is answered with CLOSE (RFC 4254 section 5.3)"""
    pair = running_pair(channels=1)
    channels = dict(zip((CLIENT, SERVER), pair.channels[0], strict=True))
    for _ in range(2):
        pair.connections[opener].close(channels[opener])
    assert channels[opener].phase is ChannelPhase.CLOSING
    pair.pump()

    for role, channel in channels.items():
        (closed,) = pair.of_type(role, ChannelClosed)
        assert closed.channel is channel
        assert channel.phase is ChannelPhase.CLOSED
        assert (channel.exit_status, channel.exit_signal, channel.exit_message) == (None,) * 3
        assert pair.sent_numbers(role).count(MessageNumber.CHANNEL_CLOSE) == 1
        assert pair.connections[role].channel_count == 0
        assert not pair.of_type(role, ChannelEofReceived)
    pair.channels.clear()
    pair.assert_usable()


def test_both_sides_close_at_once() -> None:
    pair = running_pair(channels=1)
    for role, channel in zip((CLIENT, SERVER), pair.channels[0], strict=True):
        pair.connections[role].close(channel)
    pair.pump()
    for role in Role:
        assert len(pair.of_type(role, ChannelClosed)) == 1
        assert pair.sent_numbers(role).count(MessageNumber.CHANNEL_CLOSE) == 1
        assert pair.connections[role].channel_count == 0


@pytest.mark.parametrize("status", [0, 11, 42, 2**32 - 1])
def test_a_status_comes_with_the_close(status: int) -> None:
    """CHN-13, EXD-07: it is no request to anybody"""
    pair = running_pair(channels=1, answers=Answers(grant_requests=None))
    client, server = pair.channels[0]
    pair.connections[SERVER].send_data(server, memoryview(b"output"))
    pair.connections[SERVER].close(server, exit_status=status)
    pair.pump()

    exit_message, close = pair.sent(SERVER)[-2:]
    assert ChannelRequest.decode(exit_message) == ChannelRequest(
        client.local_id, "exit-status", False, ExitStatus(status).encode()
    )
    assert close[0] == MessageNumber.CHANNEL_CLOSE
    assert pair.received[CLIENT, client.local_id] == b"output"
    assert client.exit_status == status
    assert client.exit_signal is None
    assert [type(event) for event in pair.events[CLIENT][-2:]] == [
        ChannelDataReceived,
        ChannelClosed,
    ]


@pytest.mark.parametrize(
    "name, message", [("KILL", "process killed"), ("TERM", "terminated"), ("test", "")]
)
def test_a_signal_comes_with_the_close(name: str, message: str) -> None:
    """CHN-14"""
    pair = running_pair(channels=1)
    client, server = pair.channels[0]
    pair.connections[CLIENT].close(client, signal=name, message=message)
    pair.pump()

    request = ChannelRequest.decode(pair.sent(CLIENT)[-2])
    assert (request.request_type, request.want_reply) == ("exit-signal", False)
    assert ExitSignal.decode(request.payload) == ExitSignal(name, False, message, "")
    assert (server.exit_signal, server.exit_message) == (name, message)
    assert (server.exit_status, server.core_dumped) == (None, False)


def test_a_signal_needs_no_words() -> None:
    pair = running_pair(channels=1)
    client, server = pair.channels[0]
    pair.connections[SERVER].close(server, signal="TERM")
    pair.pump()
    assert (client.exit_signal, client.exit_message) == ("TERM", "")


def test_a_status_that_does_not_fit_leaves_the_channel_open() -> None:
    pair = running_pair(channels=1)
    client, _ = pair.channels[0]
    for status in (-1, 2**32):
        with pytest.raises(LocalProtocolError):
            pair.connections[CLIENT].close(client, exit_status=status)
        assert client.phase is ChannelPhase.OPEN
    pair.assert_usable()


LONG = "x" * 2**20  # more than any peer takes in one message


def test_last_words_too_long_for_the_peer_leave_the_channel_open() -> None:
    """Sent, they would end the session."""
    pair = running_pair(channels=1)
    client, _ = pair.channels[0]
    for signal, message in ((LONG, ""), ("TERM", LONG)):
        with pytest.raises(LocalProtocolError, match="too long"):
            pair.connections[CLIENT].close(client, signal=signal, message=message)
        assert client.phase is ChannelPhase.OPEN
    pair.assert_usable()


@pytest.mark.parametrize("description", [LONG, "\ud800"])
def test_a_refusal_that_cannot_be_sent_leaves_the_channel_to_be_answered(description: str) -> None:
    pair = held_back()
    theirs = offered(pair, CLIENT)
    with pytest.raises(LocalProtocolError):
        pair.connections[SERVER].reject_channel(theirs, 2, description)
    pair.connections[SERVER].accept_channel(theirs)
    pair.pump()
    assert len(pair.of_type(CLIENT, ChannelOpened)) == 1


@pytest.mark.parametrize("size", [257, len(LONG)])
def test_names_too_long_for_the_peer_are_not_sent(size: int) -> None:
    """Sent, those of requests would end the session."""
    pair = running_pair(channels=1)
    client, _ = pair.channels[0]
    connection, name = pair.connections[CLIENT], LONG[:size]
    with pytest.raises(LocalProtocolError, match="too long"):
        connection.open_channel(name)
    with pytest.raises(LocalProtocolError, match="too long"):
        connection.request_channel(client, name, b"", want_reply=False)
    with pytest.raises(LocalProtocolError, match="too long"):
        connection.request_global(name, b"", want_reply=False)
    assert connection.channel_count == 1
    pair.assert_usable()


def test_closing_an_offered_channel_refuses_it() -> None:
    pair = held_back()
    theirs = offered(pair, CLIENT)
    pair.connections[SERVER].close(theirs)
    pair.pump()
    (failed,) = pair.of_type(CLIENT, ChannelOpenFailed)
    assert failed.reason == ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED
    assert pair.connections[SERVER].channel_count == 0


# How many


def test_a_thousand_and_twenty_four_channels_at_once() -> None:
    """HR-50, T-34, CHN-18: each carries its own data; one more is refused on either side"""
    pair = running_pair(channels=1024)
    for number, (client, server) in enumerate(pair.channels):
        assert pair.connections[CLIENT].send_data(client, memoryview(b"%d" % number))
        assert pair.connections[SERVER].send_data(server, memoryview(b"-%d" % number))
    pair.pump()
    for number, (client, server) in enumerate(pair.channels):
        assert pair.received[SERVER, server.local_id] == b"%d" % number
        assert pair.received[CLIENT, client.local_id] == b"-%d" % number

    with pytest.raises(LocalProtocolError, match="limit of open channels, 1024,"):
        pair.connections[CLIENT].open_channel("session")
    one_more = ChannelOpen("session", 5000, 100, 100).encode()
    pair.inject(CLIENT, one_more, pump=False)
    pair.cross(CLIENT)
    assert ChannelOpenFailure.decode(pair.sent(SERVER)[-1]).reason_code == (
        ChannelOpenFailureReason.RESOURCE_SHORTAGE
    )


def test_all_channels_can_be_closed_at_once() -> None:
    """A peer that answers every CLOSE makes no noise, however many there are."""
    limits = fast_config().limits
    config = fast_config(limits=type(limits)(channels=3000))
    pair = running_pair(config, channels=3000)
    for client, _ in pair.channels:
        pair.connections[CLIENT].close(client)
    pair.pump()
    assert [core.phase for core in pair.cores.values()] == [Phase.RUNNING, Phase.RUNNING]
    assert [connection.channel_count for connection in pair.connections.values()] == [0, 0]


def test_ten_thousand_channels_one_after_another() -> None:
    """T-34, HR-54, CHN-19, CHN-20: no number is used twice, every table is as it was"""
    pair = running_pair(channels=1)
    connections = pair.connections.values()
    before = [table_sizes(pair, role) for role in Role]
    numbers: dict[Role, set[int]] = {role: set() for role in Role}
    for turn in range(10_000):
        opener = Role.CLIENT if turn % 3 else Role.SERVER
        client, server = pair.open_channel(opener)
        pair.channels.pop()
        numbers[CLIENT].add(client.local_id)
        numbers[SERVER].add(server.local_id)
        closer = Role.CLIENT if turn % 2 else Role.SERVER
        pair.connections[closer].close(client if closer is CLIENT else server)
        pair.pump()
        pair.log.clear()
    assert [len(used) for used in numbers.values()] == [10_000, 10_000]
    assert [connection.channel_count for connection in connections] == [1, 1]
    assert [table_sizes(pair, role) for role in Role] == before
    pair.assert_usable()


def table_sizes(pair: CorePair, role: Role) -> dict[str, int]:
    """Return how much is in each of a connection's tables, and the memory it has granted."""
    connection = pair.connections[role]
    names = set(Connection.__slots__) - {"handlers", "__weakref__"}
    tables = {name: getattr(connection, name) for name in names}
    sizes = {name: len(value) for name, value in tables.items() if hasattr(value, "__len__")}
    granted, offered = connection._memory.granted, connection._undecided.opens
    return sizes | {"granted": granted, "offered": offered}


def test_sixty_four_channels_wait_for_the_application() -> None:
    """HR-50, CHN-04: more are refused, and each decision makes room"""
    pair = held_back()
    opened = [pair.connections[CLIENT].open_channel("session") for _ in range(65)]
    pair.pump()
    waiting = [event.channel for event in pair.of_type(SERVER, ChannelOpenReceived)]
    assert len(waiting) == 64
    (failed,) = pair.of_type(CLIENT, ChannelOpenFailed)
    assert failed.channel is opened[64]
    assert failed.reason == ChannelOpenFailureReason.RESOURCE_SHORTAGE

    pair.connections[SERVER].accept_channel(waiting[0])
    pair.connections[SERVER].reject_channel(waiting[1], 1, "no")
    for _ in range(3):
        pair.connections[CLIENT].open_channel("session")
    pair.pump()
    assert len(pair.of_type(SERVER, ChannelOpenReceived)) == 66
    assert len(pair.of_type(CLIENT, ChannelOpenFailed)) == 3


def test_a_session_out_of_numbers_refuses() -> None:
    """HR-54: a number is never used again, so at last there is none; the session goes on"""
    pair = running_pair(channels=1)
    connection = pair.connections[SERVER]
    connection._next_id = 2**31 - 1
    _, last = pair.open_channel()
    assert last.local_id == 2**31 - 1

    pair.connections[CLIENT].open_channel("session")
    pair.pump()
    (failed,) = pair.of_type(CLIENT, ChannelOpenFailed)
    assert failed.reason == ChannelOpenFailureReason.RESOURCE_SHORTAGE
    with pytest.raises(LocalProtocolError, match="channel numbers"):
        connection.open_channel("session")
    pair.assert_usable()


def close_unanswered(pair: CorePair, turn: int) -> None:
    """Open and close a channel as the client, with a server that never sends CLOSE."""
    ours = pair.connections[CLIENT].open_channel("session")
    confirmation = ChannelOpenConfirmation(ours.local_id, turn, 1000, 1000).encode()
    pair.inject(SERVER, confirmation, pump=False)
    pair.cross(SERVER)
    pair.connections[CLIENT].close(ours)
    pair.take(CLIENT)


def test_a_peer_that_never_answers_a_close_fills_no_table() -> None:
    """HR-50, wire-connection 1.8: some peers send nothing back; numbers are kept for a while"""
    pair = running_pair()
    for turn in range(3000):
        close_unanswered(pair, turn)
    assert pair.connections[CLIENT].channel_count <= 1024
    assert pair.client.phase is Phase.RUNNING


def test_a_peer_that_never_answers_a_close_keeps_no_memory() -> None:
    """HR-51: a closed channel holds nothing, so a new one still gets its whole window"""
    pair = running_pair()
    for turn in range(200):
        close_unanswered(pair, turn)
    last = pair.connections[CLIENT].open_channel("session")
    assert last.receive_window.limit == 1_048_576


# The end of the session


@pytest.mark.parametrize("role", [CLIENT, SERVER], ids=["client", "server"])
def test_any_reason_to_disconnect_reaches_the_peer(role: Role) -> None:
    """SES-03, SES-04, SES-05: reasons travel as they are"""
    for reason in (*range(21), 9999, 2**32 - 1):
        pair = running_pair(channels=1)
        pair.cores[role].disconnect(reason, "so long \u2014 and thanks")
        pair.cores[role].disconnect(DisconnectReason.BY_APPLICATION, "twice")
        pair.pump()

        ours = assert_terminated(pair, role, reason)
        assert isinstance(ours, Disconnected)
        theirs = assert_terminated(pair, role.other)
        assert isinstance(theirs, Disconnected)
        assert (ours.by_peer, theirs.by_peer) == (False, True)
        assert not pair.cores[role].peer_has_left
        assert pair.cores[role.other].peer_has_left
        assert ours.reason == theirs.reason == reason
        assert ours.description == theirs.description == "so long \u2014 and thanks"


@pytest.mark.parametrize("role", [CLIENT, SERVER], ids=["client", "server"])
def test_a_reason_reaches_the_peer_however_long_its_description_is(role: Role) -> None:
    pair = running_pair(channels=1)
    pair.cores[role].disconnect(DisconnectReason.BY_APPLICATION, 300_000 * "\u2014")
    pair.pump()
    theirs = assert_terminated(pair, role.other)
    assert isinstance(theirs, Disconnected)
    assert theirs.reason == DisconnectReason.BY_APPLICATION
    assert theirs.description == 256 * "\u2014"
