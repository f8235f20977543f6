"""Two connections do everything permitted, in any order; a simple model predicts the result.

This is T-71 without the loss of streams, and T-35.

The model of a channel is four byte strings, what each side's core has accepted of each kind of
data; the model of requests is one queue for each channel and side, and one for each session. Bytes
travel in random slices, so everything crosses everything: closes and requests, new keys and data,
answers given out of order, callers that are gone, keep-alive.

``--hypothesis-profile=nightly`` runs many more examples.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from anyssh.config import Limits
from anyssh.errors import ChannelOpenError
from anyssh.protocol import Phase, Role
from anyssh.protocol.channel import ChannelPhase, ChannelState, Half, PendingRequest, ReplySlot
from anyssh.protocol.events import (
    ChannelClosed,
    ChannelDataReceived,
    ChannelEofReceived,
    ChannelExtendedDataReceived,
    ChannelOpened,
    ChannelOpenFailed,
    ChannelOpenReceived,
    ChannelRequestReceived,
    ChannelWritable,
    ConnectionTerminated,
    Event,
    GlobalRequestReceived,
    ReplyReceived,
)

from .core_pair import CLIENT, SERVER, Answers, CorePair, fast_config, running_pair

USUAL_EXAMPLES = 80
EXAMPLES = (
    USUAL_EXAMPLES
    if settings.default is None or settings.default.max_examples <= 100
    else settings.default.max_examples
)
PACKET, WINDOW = 1024, 5000
MAX_WAITING = 16
DATA, EXTENDED, GATHERED = 0, 1, 2
REQUEST = b"please"
NOBODY = Answers(accept_channels=None, grant_requests=None, consume=False)
CONFIG: dict[str, Any] = {
    "window_size": WINDOW,
    "max_packet_size": PACKET,
    "keep_alive_interval": 5.0,
    "limits": Limits(
        rekey_burst=10**6,
        key_exchange_time=1e9,
        noise_messages=10**6,
        pending_output=3000,
        requests=MAX_WAITING,
    ),
}


@dataclass
class End:
    """One side of a channel: what its application did, and what it saw."""

    role: Role
    state: ChannelState | None = None
    taken: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    seen: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    unsent: deque[tuple[int, bytes]] = field(default_factory=deque)
    consumed: int = 0
    wants_eof: bool = False
    saw_eof: bool = False
    has_closed: bool = False
    saw_close: bool = False
    exit: tuple[int | None, str | None] = (None, None)

    def taken_of(self, kind: int) -> bytearray:
        """Return what was taken of a kind; gathering it makes it no other kind."""
        return self.taken[DATA if kind == GATHERED else kind]

    @property
    def unread(self) -> int:
        """Bytes that came and were not consumed."""
        return sum(map(len, self.seen)) - self.consumed

    @property
    def is_open(self) -> bool:
        """Whether the core says that this end can be used."""
        return self.state is not None and self.state.phase is ChannelPhase.OPEN


@dataclass
class Line:
    """A channel as the model sees it."""

    opener: Role
    ends: dict[Role, End]
    abandoned: bool = False
    outcome: str = "asked"  # then "offered", "accepted" or "rejected", by the other side


@dataclass
class Asked:
    """A request of either kind."""

    number: int
    asker: Role
    line: Line | None
    wants_reply: bool
    slot: ReplySlot
    cancelled: bool = False
    request: PendingRequest | None = None
    decision: bool | None = None
    reply: bool | None = None

    @property
    def payload(self) -> bytes:
        """What goes with a positive answer of a session."""
        return f"payload of {self.number}".encode() if self.line is None else b""


class Machine(RuleBasedStateMachine):
    """Rules are what applications and the network do; events are checked as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = self.make_pair()
        self.wire = {role: bytearray() for role in Role}
        self.lines: list[Line] = []
        self.by_state: dict[ChannelState, tuple[Line, End]] = {}
        self.asked: list[Asked] = []
        self.awaited: dict[tuple[Role, int | None], deque[Asked]] = {}
        self.by_slot: dict[ReplySlot, Asked] = {}
        for opener in Role:
            self.a_channel_is_asked_for(opener)
        self.everything_arrives()
        for line in self.lines:
            self.answer_offer(line, True)
        self.everything_arrives()

    def make_pair(self) -> CorePair:
        """Return two sides that are authenticated, and applications that decide nothing."""
        return running_pair(fast_config(**CONFIG), answers=NOBODY, seed=1)

    # The network

    def collect(self) -> None:
        """Take what both sides have to say; it is on its way from then on."""
        for role, core in self.pair.cores.items():
            self.wire[role] += core.data_to_send(self.pair.now)
            self.check(role, self.pair.handle(role, core.poll_events()))

    def deliver(self, sender: Role, size: int) -> None:
        """Let some bytes arrive."""
        chunk = bytes(self.wire[sender][:size])
        del self.wire[sender][:size]
        if chunk:
            self.check(sender.other, self.pair.feed(sender.other, chunk))

    @rule(sender=st.sampled_from([CLIENT, SERVER]), size=st.integers(1, 6000))
    def some_bytes_arrive(self, sender: Role, size: int) -> None:
        self.collect()
        self.deliver(sender, size)

    @rule()
    def everything_arrives(self) -> None:
        self.collect()
        while any(self.wire.values()):
            for role in Role:
                self.deliver(role, len(self.wire[role]))
            self.collect()

    @rule(seconds=st.floats(0.1, 12.0))
    def time_passes(self, seconds: float) -> None:
        self.pair.now += seconds
        for role, core in self.pair.cores.items():
            deadline = core.next_deadline()
            if deadline is not None and deadline <= self.pair.now:
                self.check(role, self.pair.handle(role, core.handle_timeout(self.pair.now)))

    @rule(role=st.sampled_from([CLIENT, SERVER]))
    def new_keys_are_wanted(self, role: Role) -> None:
        self.pair.cores[role].start_rekey(self.pair.now)

    # Channels

    @precondition(lambda self: len(self.lines) < 12)
    @rule(opener=st.sampled_from([CLIENT, SERVER]))
    def a_channel_is_asked_for(self, opener: Role) -> None:
        line = Line(opener, {role: End(role) for role in Role})
        payload = len(self.lines).to_bytes(4, "big")
        state = self.pair.connections[opener].open_channel("session", payload)
        self.lines.append(line)
        self.know(state, line, opener)

    def know(self, state: ChannelState, line: Line, role: Role) -> None:
        line.ends[role].state = state
        self.by_state[state] = (line, line.ends[role])

    def pick_line(self, pick: int, *outcomes: str) -> Line | None:
        lines = [line for line in self.lines if line.outcome in outcomes]
        return lines[pick % len(lines)] if lines else None

    @rule(pick=st.integers(0, 99))
    def an_open_is_abandoned(self, pick: int) -> None:
        line = self.pick_line(pick, "asked", "offered", "accepted", "rejected")
        if line is not None:
            state = line.ends[line.opener].state
            assert state is not None
            line.abandoned |= state.phase is ChannelPhase.OPENING
            self.pair.connections[line.opener].abandon_open(state)

    @rule(pick=st.integers(0, 99), is_accepted=st.sampled_from([True, True, True, False]))
    def an_offer_is_answered(self, pick: int, is_accepted: bool) -> None:
        line = self.pick_line(pick, "offered")
        if line is not None:
            self.answer_offer(line, is_accepted)

    def answer_offer(self, line: Line, is_accepted: bool) -> None:
        end = line.ends[line.opener.other]
        connection = self.pair.connections[end.role]
        assert end.state is not None
        if is_accepted:
            connection.accept_channel(end.state)
            line.outcome = "accepted"
        else:
            connection.reject_channel(end.state, 2, "not today")
            line.outcome = "rejected"

    def pick_end(self, pick: int, role: Role) -> End | None:
        ends = [line.ends[role] for line in self.lines if line.ends[role].is_open]
        return ends[pick % len(ends)] if ends else None

    @rule(
        role=st.sampled_from([CLIENT, SERVER]),
        pick=st.integers(0, 99),
        kind=st.sampled_from([DATA, GATHERED, EXTENDED]),
        size=st.integers(0, 300) | st.integers(0, 3 * WINDOW),
    )
    def data_is_sent(self, role: Role, pick: int, kind: int, size: int) -> None:
        end = self.pick_end(pick, role)
        if end is None or end.wants_eof:
            return
        start = len(end.taken_of(kind)) + sum(len(data) for kind, data in end.unsent)
        data = bytes((start + index) * 31 % 251 for index in range(size))
        is_first = not end.unsent
        end.unsent.append((kind, data))
        if is_first:
            self.go_on_sending(end)
            self.see(role)

    def go_on_sending(self, end: End) -> None:
        """Send what an application waits to send, as far as it goes."""
        connection = self.pair.connections[end.role]
        assert end.state is not None
        while end.unsent:
            kind, data = end.unsent[0]
            view = memoryview(data)
            if kind == DATA:
                taken = connection.send_data(end.state, view)
            elif kind == GATHERED:
                taken = connection.gather_data(end.state, view)
            else:
                taken = connection.send_extended_data(end.state, 1, view)
            end.taken_of(kind).extend(view[:taken])
            if taken < len(data):
                end.unsent[0] = (kind, data[taken:])
                return
            end.unsent.popleft()
        connection.stop_sending(end.state)
        if end.wants_eof:
            connection.send_eof(end.state)

    @rule(role=st.sampled_from([CLIENT, SERVER]), pick=st.integers(0, 99))
    def a_sender_gives_up(self, role: Role, pick: int) -> None:
        end = self.pick_end(pick, role)
        if end is not None and end.unsent:
            end.unsent.clear()
            self.go_on_sending(end)
            self.see(role)

    @rule(role=st.sampled_from([CLIENT, SERVER]), pick=st.integers(0, 99))
    def no_more_is_sent(self, role: Role, pick: int) -> None:
        end = self.pick_end(pick, role)
        if end is not None and not end.wants_eof:
            end.wants_eof = True
            if not end.unsent:
                self.go_on_sending(end)
                self.see(role)

    @rule(
        role=st.sampled_from([CLIENT, SERVER]), pick=st.integers(0, 99), size=st.integers(1, WINDOW)
    )
    def data_is_consumed(self, role: Role, pick: int, size: int) -> None:
        ends = [line.ends[role] for line in self.lines if line.ends[role].unread]
        if ends:
            self.consume(ends[pick % len(ends)], size)

    def consume(self, end: End, size: int) -> None:
        size = min(size, end.unread)
        end.consumed += size
        assert end.state is not None
        self.pair.connections[end.role].consume(end.state, size)

    @rule(
        role=st.sampled_from([CLIENT, SERVER]),
        pick=st.integers(0, 99),
        exit_=st.sampled_from([(None, None), (0, None), (42, None), (None, "TERM")]),
    )
    def a_channel_is_closed(
        self, role: Role, pick: int, exit_: tuple[int | None, str | None]
    ) -> None:
        end = self.pick_end(pick, role)
        if end is not None:
            self.close(end, exit_)

    def close(self, end: End, exit_: tuple[int | None, str | None] = (None, None)) -> None:
        end.has_closed = True
        end.exit = exit_
        end.unsent.clear()
        assert end.state is not None
        status, signal = exit_
        self.pair.connections[end.role].close(end.state, exit_status=status, signal=signal)
        self.see(end.role)

    def see(self, role: Role) -> None:
        """Take what a call has brought about, at once as sessions do."""
        self.check(role, self.pair.handle(role, self.pair.cores[role].poll_events()))

    # Requests

    @rule(
        role=st.sampled_from([CLIENT, SERVER]),
        pick=st.integers(0, 99),
        of_channel=st.booleans(),
        wants_reply=st.sampled_from([True, True, False]),
    )
    def something_is_asked(
        self, role: Role, pick: int, of_channel: bool, wants_reply: bool
    ) -> None:
        end = self.pick_end(pick, role) if of_channel else None
        if of_channel and end is None:
            return
        line = None if end is None or end.state is None else self.by_state[end.state][0]
        undecided = [
            asked
            for asked in self.asked
            if asked.asker is role and asked.line is line and asked.decision is None
        ]
        if len(undecided) >= MAX_WAITING:
            return
        number = len(self.asked)
        connection = self.pair.connections[role]
        if end is None or end.state is None:
            slot = connection.request_global(str(number), REQUEST, want_reply=wants_reply)
        else:
            slot = connection.request_channel(
                end.state, str(number), REQUEST, want_reply=wants_reply
            )
        asked = Asked(number, role, line, wants_reply, slot)
        slot.owner = asked
        self.asked.append(asked)
        if wants_reply:
            self.queue(asked).append(asked)
            self.by_slot[slot] = asked

    def queue(self, asked: Asked) -> deque[Asked]:
        line = None if asked.line is None else id(asked.line)
        return self.awaited.setdefault((asked.asker, line), deque())

    @rule(pick=st.integers(0, 99), is_success=st.booleans())
    def a_request_is_decided(self, pick: int, is_success: bool) -> None:
        waiting = [asked for asked in self.asked if asked.request and asked.decision is None]
        if waiting:
            self.decide(waiting[pick % len(waiting)], is_success)

    def decide(self, asked: Asked, is_success: bool) -> None:
        asked.decision = is_success
        assert asked.request is not None
        self.pair.connections[asked.asker.other].answer(asked.request, is_success, asked.payload)

    @rule(pick=st.integers(0, 99))
    def a_caller_goes_away(self, pick: int) -> None:
        if self.asked:
            asked = self.asked[pick % len(self.asked)]
            asked.cancelled = True
            asked.slot.owner = None

    # What the cores tell

    def check(self, role: Role, events: list[Event]) -> None:
        """Hold what a core tells against the model."""
        for event in events:
            self.check_event(role, event)

    def check_event(self, role: Role, event: Event) -> None:
        match event:
            case ConnectionTerminated():
                raise AssertionError(f"{role} ended: {event.error!r}")
            case ChannelOpenReceived():
                line = self.lines[int.from_bytes(event.payload, "big")]
                assert line.opener is role.other
                assert line.outcome == "asked"
                line.outcome = "offered"
                self.know(event.channel, line, role)
            case ChannelOpened():
                line, _ = self.by_state[event.channel]
                assert line.outcome == "accepted"
                assert not line.abandoned
            case ChannelOpenFailed():
                line, _ = self.by_state[event.channel]
                assert line.outcome == "rejected"
                assert not line.abandoned
                error = ChannelOpenError(event.reason, event.description)
                assert "connect failed: not today" in str(error)
            case ChannelDataReceived():
                self.check_data(event.channel, DATA, event.data)
            case ChannelExtendedDataReceived():
                self.check_data(event.channel, EXTENDED, event.data)
            case ChannelWritable():
                _, end = self.by_state[event.channel]
                assert end.unsent, "nobody was waiting"
                if end.is_open:  # or its close is among the events that follow
                    self.go_on_sending(end)
            case ChannelEofReceived():
                line, end = self.by_state[event.channel]
                other = line.ends[role.other]
                assert not any((end.saw_eof, end.saw_close))
                assert other.wants_eof
                assert end.seen == other.taken
                end.saw_eof = True
            case ChannelClosed():
                self.check_close(event.channel, role)
            case ChannelRequestReceived() | GlobalRequestReceived():
                self.check_request(role, event.request)
            case ReplyReceived():
                self.check_reply(role, event)
            case _:
                pass

    def check_data(self, channel: ChannelState, kind: int, data: bytes) -> None:
        line, end = self.by_state[channel]
        other = line.ends[end.role.other]
        assert not any((end.saw_eof, end.saw_close, end.has_closed, line.abandoned))
        assert 0 < len(data) <= PACKET
        start = len(end.seen[kind])
        assert other.taken[kind][start : start + len(data)] == data
        end.seen[kind].extend(data)

    def check_close(self, channel: ChannelState, role: Role) -> None:
        line, end = self.by_state[channel]
        other = line.ends[role.other]
        assert not end.saw_close
        assert other.has_closed or end.has_closed or line.abandoned
        end.saw_close = True
        end.unsent.clear()
        if not (end.has_closed or line.abandoned):
            assert other.has_closed
            assert end.seen == other.taken
            assert (channel.exit_status, channel.exit_signal) == other.exit

    def check_request(self, role: Role, request: PendingRequest) -> None:
        asked = self.asked[int(request.name)]
        assert asked.asker is role.other
        assert asked.request is None
        assert asked.wants_reply == request.want_reply
        if asked.line is not None:
            assert request.channel is asked.line.ends[role].state
        asked.request = request

    def check_reply(self, role: Role, event: ReplyReceived) -> None:
        asked = self.by_slot.get(event.slot)
        if asked is None:  # of a sign of life
            assert not event.is_success
            return
        assert asked.asker is role
        assert self.queue(asked).popleft() is asked
        assert asked.slot.owner is (None if asked.cancelled else asked)
        assert asked.reply is None
        asked.reply = event.is_success
        was_closed = asked.line is not None and (
            any(end.has_closed for end in asked.line.ends.values()) or asked.line.abandoned
        )
        if event.is_success or not was_closed:
            assert event.is_success == asked.decision
        assert event.payload == (asked.payload if event.is_success else b"")

    # What always holds

    @invariant()
    def windows_agree(self) -> None:
        for line in self.lines:
            for role, end in line.ends.items():
                self.check_windows(end, line.ends[role.other])

    def check_windows(self, receiver: End, sender: End) -> None:
        if not receiver.is_open or receiver.state is None:
            return
        window = receiver.state.receive_window
        assert 0 <= window.remaining <= window.limit <= WINDOW
        assert window.remaining + window._consumed + receiver.unread == window.limit
        if sender.is_open and sender.state is not None:
            assert sender.state.send_window >= 0
            if receiver.state.receive_half is Half.OPEN:
                assert sender.state.send_window <= window.remaining
            in_flight = sum(map(len, sender.taken)) - sum(map(len, receiver.seen))
            assert 0 <= in_flight <= window.limit

    @invariant()
    def both_sides_run(self) -> None:
        for core in self.pair.cores.values():
            assert core.phase in (Phase.RUNNING, Phase.REKEYING)
            assert core.transport.pending <= 20_000

    # At the end everything is answered, read and closed: nothing is lost, no table keeps anything

    def settle(self) -> None:
        """Go on until nothing happens any more, with applications that do all they should."""
        while True:
            before = self.progress()
            self.everything_arrives()
            for line in self.lines:
                if line.outcome == "offered":
                    self.answer_offer(line, True)
                for end in line.ends.values():
                    if end.unread:
                        self.consume(end, end.unread)
            for asked in self.asked:
                if asked.request is not None and asked.decision is None:
                    self.decide(asked, True)
            self.everything_arrives()
            if self.progress() == before:
                return

    def progress(self) -> tuple[int, ...]:
        return (*(core.transport.messages_sent for core in self.pair.cores.values()),)

    def teardown(self) -> None:
        self.settle()
        for line in self.lines:
            for role, end in line.ends.items():
                other = line.ends[role.other]
                if end.is_open:
                    assert not end.unsent, "a sender was forgotten"
                    assert other.seen == end.taken
                    assert other.saw_eof == end.wants_eof
        for asked in self.asked:
            if asked.wants_reply:
                assert asked.reply is not None, "a caller was forgotten"
        for line in self.lines:
            end = line.ends[line.opener]
            if end.is_open:
                self.close(end)
        self.settle()
        for role, connection in self.pair.connections.items():
            assert connection.channel_count == 0
            kept = {name: attrgetter(name)(connection) for name in TABLES}
            assert not any(kept.values()), (role, kept)
        for line in self.lines:
            for end in line.ends.values():
                if line.outcome == "accepted" and not line.abandoned:
                    assert end.saw_close


TABLES = {
    "_channels",
    "_closing",
    "_held",
    "_memory.granted",
    "_remote_ids",
    "_replies",
    "_undecided.accepted_bytes",
    "_undecided.answers_waiting",
    "_undecided.kept_bytes",
    "_undecided.opens",
    "_waiting_for_turn",
}

TestConnections = Machine.TestCase
TestConnections.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
