"""Two connections do everything permitted, in any order, while streams are lost at any byte.

T-71. The applications and their model are those of :mod:`.test_connection_stateful`; the network is
:mod:`.reconnect_pair`. Streams are cut with bytes in flight, each side learns of it at any time,
late bytes of dead streams arrive, bits flip, and attempts to reconnect are cut as well.

``--hypothesis-profile=nightly`` runs many more examples, ``ANYSSH_EXAMPLES`` sets their number.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from anyssh.protocol import Phase, Role

from . import test_connection_stateful as stateful
from .core_pair import CLIENT, SERVER
from .reconnect_pair import ReconnectingPair, reconnect_config

EXAMPLES = int(os.environ.get("ANYSSH_EXAMPLES", stateful.EXAMPLES))
MAX_FLIPS = 4
KEPT = st.tuples(st.integers(0, 3000), st.integers(0, 3000))
ROLES = st.sampled_from([CLIENT, SERVER])


class Machine(stateful.Machine):
    """Adds what can happen to streams."""

    pair: ReconnectingPair

    def make_pair(self) -> ReconnectingPair:
        self.flips = 0
        config = reconnect_config(**stateful.CONFIG)
        return ReconnectingPair(config, answers=stateful.NOBODY, seed=1)

    def go_on(self, told: list[tuple[Role, stateful.Event]]) -> None:
        """Let the applications do what comes of what they were told, and of that in turn."""
        while told:
            for role, event in told:
                self.check(role, [event])
            told = self.pair.poll()

    # The network

    def collect(self) -> None:
        self.go_on(self.pair.collect())

    def deliver(self, sender: Role, size: int) -> None:
        self.go_on(self.pair.deliver(self.pair.newest, sender, size))

    @rule()
    def everything_arrives(self) -> None:
        self.collect()
        while any(self.pair.newest.wire.values()):
            for role in Role:
                self.deliver(role, len(self.pair.newest.wire[role]))
            self.collect()

    @rule(seconds=st.floats(0.1, 12.0))
    def time_passes(self, seconds: float) -> None:
        self.go_on(self.pair.let_time_pass(seconds))

    @rule(role=ROLES)
    def new_keys_are_wanted(self, role: Role) -> None:
        if self.pair.is_connected(role):
            super().new_keys_are_wanted(role)

    @precondition(lambda self: not self.pair.newest.is_cut)
    @rule(kept=KEPT, noticed=st.sampled_from([[], [CLIENT], [SERVER], [CLIENT], [*Role]]))
    def the_stream_is_cut(self, kept: tuple[int, int], noticed: list[Role]) -> None:
        self.collect()
        self.cut(kept)
        for role in noticed:
            self.go_on(self.pair.notice(self.pair.newest, role))

    def cut(self, kept: tuple[int, int]) -> None:
        self.pair.newest.cut(dict(zip(Role, kept, strict=True)))

    @precondition(lambda self: any(stream.is_cut for stream in self.pair.streams))
    @rule(role=ROLES, pick=st.integers(0, 9), is_orderly=st.booleans())
    def a_side_notices(self, role: Role, pick: int, is_orderly: bool) -> None:
        cut = [s for s in self.pair.streams if s.is_cut and not s.has_ended(role)]
        if cut:
            stream = cut[pick % len(cut)]
            if is_orderly:
                self.go_on(self.pair.deliver(stream, role.other, len(stream.wire[role.other])))
            self.go_on(self.pair.notice(stream, role))

    @precondition(lambda self: len(self.pair.streams) > 1)
    @rule(sender=ROLES, pick=st.integers(0, 9), size=st.integers(1, 3000))
    def late_bytes_arrive(self, sender: Role, pick: int, size: int) -> None:
        stream = self.pair.streams[pick % len(self.pair.streams)]
        self.go_on(self.pair.deliver(stream, sender, size))

    @precondition(lambda self: self.pair.may_begin)
    @rule(pieces=st.lists(st.integers(1, 6000), max_size=8))
    def the_client_comes_back(self, pieces: list[int]) -> None:
        """Begin; usually both sides go on at once, but only so much arrives if sizes are given."""
        self.pair.begin()
        for number, size in enumerate(pieces):
            self.collect()
            self.deliver(CLIENT if number % 2 else SERVER, size)
        if not pieces:
            self.everything_arrives()

    @precondition(lambda self: self.pair.may_begin)
    @rule(pieces=st.lists(st.integers(1, 2500), max_size=14), kept=KEPT, knows=st.booleans())
    def the_client_tries_in_vain(
        self, pieces: list[int], kept: tuple[int, int], knows: bool
    ) -> None:
        """Have an attempt fail after some bytes, or right after it was a success."""
        self.pair.begin()
        for number, size in enumerate(pieces):
            self.collect()
            self.deliver(CLIENT if number % 2 else SERVER, size)
        self.collect()
        self.cut(kept)
        self.go_on(self.pair.deliver(self.pair.newest, SERVER, kept[1]))
        self.go_on(self.pair.notice(self.pair.newest, CLIENT))
        if knows:
            self.go_on(self.pair.notice(self.pair.newest, SERVER))

    @precondition(lambda self: self.flips < MAX_FLIPS)
    @rule(sender=ROLES, offset=st.integers(0, 10**6), bit=st.integers(0, 7))
    def a_bit_flips(self, sender: Role, offset: int, bit: int) -> None:
        self.collect()
        wire = self.pair.newest.wire[sender]
        if wire:
            wire[offset % len(wire)] ^= 1 << bit
            self.pair.newest.is_damaged = True
            self.flips += 1

    # What always holds

    @invariant()
    def both_sides_run(self) -> None:
        for role in Role:
            stream = self.pair.attached[role]
            if not stream.has_ended(role):
                assert stream.cores[role].phase in (Phase.RUNNING, Phase.REKEYING)
                assert stream.cores[role].transport.pending <= 40_000

    @invariant()
    def the_promise_is_kept(self) -> None:
        self.pair.assert_promise()

    def settle(self) -> None:
        self.go_on(self.pair.recover())
        super().settle()

    def teardown(self) -> None:
        super().teardown()
        for role in Role:
            said = self.pair.connections[role].said
            assert self.pair.connections[role.other].handled == said


TestReconnecting = Machine.TestCase
TestReconnecting.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
