"""Admission: limits in total and per source, penalties that add up, bounded memory (HR-80)."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyssh import ServerLimits
from anyssh.session.admission import (
    Admission,
    Offence,
    Penalties,
    Refusal,
    Sources,
    Stage,
    Visit,
)

NEVER = 1.0
"""No chance is that unlikely, so nobody is refused by it."""
HERE = "192.0.2.1"
THERE = "198.51.100.7"


class Door:
    """An admission whose time is the test's."""

    def __init__(self, **limits: Any) -> None:
        self.moves = 0
        self.admission = Admission(ServerLimits(**limits), self._count)

    def _count(self) -> None:
        self.moves += 1

    def ask(self, host: str | None = HERE, *, now: float = 0.0, chance: float = NEVER) -> Any:
        return self.admission.admit(host, now, chance)

    def enter(self, host: str | None = HERE, *, now: float = 0.0) -> Visit:
        visit = self.ask(host, now=now)
        assert isinstance(visit, Visit), visit
        return visit

    def log_in(self, host: str | None = HERE) -> Visit:
        visit = self.enter(host)
        visit.move(Stage.AUTHENTICATED)
        return visit


# Sources


@pytest.mark.parametrize(
    "first,second,are_one",
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_who_is_one_source(first: str, second: str, are_one: bool) -> None:
    sources = Sources(ServerLimits().exempt)
    one, other = sources.source(first), sources.source(second)
    assert one is not None
    assert other is not None
    assert (one == other) is are_one


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "", "x", None]
)
def test_loopback_and_what_has_no_address_have_no_source(host: str | None) -> None:
    assert Sources(ServerLimits().exempt).source(host) is None


def test_networks_of_ones_own_are_exempt() -> None:
    sources = Sources(("192.0.2.0/24", "2001:db8::/32"))
    assert sources.source("192.0.2.77") is None
    assert sources.source("2001:db8:5::1") is None
    assert sources.source("127.0.0.1") is not None


# Bounds


@pytest.mark.parametrize(
    "limits,hosts,logs_in,refusal",
    [
        ({"connections": 3}, [HERE, THERE], True, Refusal.FULL),
        ({"connections": 3}, [None], True, Refusal.FULL),
        ({"connections_per_source": 3}, [HERE], True, Refusal.SOURCE_FULL),
        ({"unauthenticated": 3}, [HERE, THERE], False, Refusal.FULL_OF_UNAUTHENTICATED),
        ({"unauthenticated": 3}, ["127.0.0.1"], False, Refusal.FULL_OF_UNAUTHENTICATED),
        ({"unauthenticated_per_source": 3}, [HERE], False, Refusal.SOURCE_FULL_OF_UNAUTHENTICATED),
    ],
)
def test_three_are_let_in_and_one_more_when_one_has_left(
    limits: dict[str, int], hosts: list[str | None], logs_in: bool, refusal: Refusal
) -> None:
    """HR-80, T-15."""
    door = Door(**limits)
    visits = []
    for number in range(3):
        host = hosts[number % len(hosts)]
        visits.append(door.log_in(host) if logs_in else door.enter(host))
    assert door.ask(hosts[0]) is refusal
    visits[0].move(Stage.OVER)
    door.enter(hosts[0])
    assert door.ask(hosts[0]) is refusal
    if not logs_in:
        visits[1].move(Stage.AUTHENTICATED)
        door.enter(hosts[0])


def test_other_sources_are_let_in_when_one_is_full() -> None:
    door = Door(unauthenticated_per_source=1)
    door.enter(HERE)
    assert door.ask(HERE) is Refusal.SOURCE_FULL_OF_UNAUTHENTICATED
    door.enter(THERE)
    for _ in range(20):
        door.enter("127.0.0.1")


def test_a_session_without_a_stream_makes_room_and_may_come_back_from_elsewhere() -> None:
    door = Door(connections=1, connections_per_source=1)
    lost = door.log_in(HERE)
    lost.move(Stage.WITHOUT_STREAM)
    other = door.log_in(HERE)
    lost.come_back(THERE)
    numbers = door.admission.statistics(0.0, 0)
    assert (numbers.connections, numbers.without_stream) == (2, 0)
    assert door.ask(None) is Refusal.FULL
    other.move(Stage.OVER)
    lost.move(Stage.WITHOUT_STREAM)
    assert door.admission.statistics(0.0, 0).without_stream == 1
    door.log_in(THERE)
    lost.move(Stage.OVER)
    assert door.ask(THERE) is Refusal.FULL


def test_a_session_that_comes_back_counts_once() -> None:
    """HR-80: the visit that brought its new stream ends, and what is left is one connection."""
    door = Door(connections_per_source=1)
    lost = door.log_in()
    lost.move(Stage.WITHOUT_STREAM)
    stream = door.enter()
    lost.come_back(HERE)
    stream.move(Stage.OVER)
    numbers = door.admission.statistics(0.0, 0)
    assert (numbers.connections, numbers.without_stream) == (1, 0)
    assert door.ask() is Refusal.SOURCE_FULL
    lost.move(Stage.OVER)
    door.enter()
    assert door.ask() is Refusal.SOURCE_FULL


def test_chance_refuses_more_and_more_strangers_as_it_fills() -> None:
    """HR-80, T-15: 30 % from the tenth on, all at the hundredth; those without a source never."""
    source = random.Random(1)
    limits = {"unauthenticated": 100, "unauthenticated_per_source": 1000}
    shares = []
    for strangers in (9, 10, 55, 99):
        door = Door(**limits)
        for _ in range(strangers):
            door.enter()
        chances = [source.random() for _ in range(4000)]
        answers = []
        for chance in chances:
            answer = door.ask(chance=chance)
            answers.append(isinstance(answer, Refusal))
            if isinstance(answer, Visit):
                answer.move(Stage.OVER)
        assert isinstance(door.ask(None, chance=0.0), Visit)
        shares.append(sum(answers) / len(answers))
    assert shares[0] == 0
    assert shares[1] == pytest.approx(0.3, abs=0.03)
    assert shares[2] == pytest.approx(0.65, abs=0.03)
    assert shares[3] == pytest.approx(0.992, abs=0.01)


# Penalties


def test_penalties_add_up_are_enforced_and_expire() -> None:
    """HR-80, T-15."""
    door = Door()
    visit = door.enter()
    assert not visit.offend(Offence.FAILED_LOGIN, 0.0)
    assert not visit.offend(Offence.FAILED_LOGIN, 0.0)
    door.enter(now=0.0).move(Stage.OVER)
    assert visit.offend(Offence.FAILED_LOGIN, 0.0)
    assert not visit.offend(Offence.FAILED_LOGIN, 0.0)
    assert door.ask(now=19.9) is Refusal.PENALISED
    assert door.ask(THERE, now=19.9) is not Refusal.PENALISED
    door.enter(now=20.0)


def test_an_enforced_penalty_stays_so_until_it_expires() -> None:
    door = Door()
    visit = door.enter()
    for _ in range(3):
        visit.offend(Offence.FAILED_LOGIN, 0.0)
    assert door.ask(now=14.0) is Refusal.PENALISED


def test_offences_far_apart_are_forgiven() -> None:
    door = Door()
    visit = door.enter()
    for turn in range(100):
        assert not visit.offend(Offence.FAILED_LOGIN, turn * 5.0)
    door.enter(now=500.0)


def test_no_penalty_is_longer_than_the_longest() -> None:
    door = Door(longest_penalty=60.0)
    visit = door.enter()
    for _ in range(1000):
        visit.offend(Offence.PROTOCOL_ERROR, 0.0)
    assert door.ask(now=59.9) is Refusal.PENALISED
    door.enter(now=60.0)


def test_no_penalty_for_what_costs_nothing_and_for_those_without_a_source() -> None:
    door = Door(failed_login_penalty=0.0)
    visits = [door.enter(), door.enter("127.0.0.1")]
    for _ in range(100):
        assert not visits[0].offend(Offence.FAILED_LOGIN, 0.0)
        assert not visits[1].offend(Offence.PROTOCOL_ERROR, 0.0)
        assert not Visit().offend(Offence.PROTOCOL_ERROR, 0.0)
    assert len(door.admission.penalties) == 0


def test_penalties_take_bounded_memory_and_the_oldest_go_first() -> None:
    """HR-80, T-15."""
    limits = ServerLimits(penalised_sources=8, shortest_penalty=1.0)
    penalties = Penalties(limits)
    for number in range(1000):
        penalties.charge(number.to_bytes(4), Offence.FAILED_LOGIN, 0.0)
        assert len(penalties) <= 8
    kept = [number for number in range(1000) if penalties.is_enforced(number.to_bytes(4), 0.0)]
    assert kept == list(range(992, 1000))
    assert penalties.count_enforced(0.0) == 8
    penalties.charge((992).to_bytes(4), Offence.FAILED_LOGIN, 0.0)
    penalties.charge(b"new!", Offence.FAILED_LOGIN, 0.0)
    assert penalties.is_enforced((992).to_bytes(4), 0.0)
    assert not penalties.is_enforced((993).to_bytes(4), 0.0)


def test_expired_penalties_are_forgotten() -> None:
    penalties = Penalties(ServerLimits())
    for number in range(100):
        penalties.charge(number.to_bytes(4), Offence.FAILED_LOGIN, 0.0)
    penalties.charge(b"late", Offence.FAILED_LOGIN, 5.0)
    assert len(penalties) == 1
    assert not penalties.is_enforced(b"late", 20.0)
    assert len(penalties) == 0


# Counting


@given(st.lists(st.tuples(st.integers(0, 7), st.sampled_from(list(Stage)), st.booleans())))
def test_the_counts_are_those_of_the_visits(steps: list[tuple[int, Stage, bool]]) -> None:
    hosts = [HERE, THERE, None, "2001:db8::1"]
    door = Door(connections=5)
    visits: list[Visit] = []
    for index, stage, comes_back in steps:
        if index >= len(visits):
            answer = door.ask(hosts[index % 4])
            if isinstance(answer, Visit):
                visits.append(answer)
        elif visits[index].stage is Stage.OVER:
            continue
        elif comes_back and visits[index].stage is Stage.WITHOUT_STREAM:
            visits[index].come_back(hosts[(index + 1) % 4])
        else:
            visits[index].move(stage)
    numbers = door.admission.statistics(0.0, 0)
    stages = [visit.stage for visit in visits]
    assert numbers.unauthenticated == stages.count(Stage.UNAUTHENTICATED)
    assert numbers.connections == numbers.unauthenticated + stages.count(Stage.AUTHENTICATED)
    assert numbers.without_stream == stages.count(Stage.WITHOUT_STREAM)
    assert numbers.total_connections == len(visits)
    for visit in visits:
        if visit.stage is not Stage.OVER:
            visit.move(Stage.OVER)
    numbers = door.admission.statistics(0.0, 0)
    assert numbers.connections == numbers.without_stream == 0
    assert not door.admission._by_source
    assert not door.admission._counts.total()


def test_statistics_tell_limits_and_penalties_apart() -> None:
    door = Door(connections_per_source=1)
    visit = door.log_in()
    door.ask()
    for _ in range(3):
        visit.offend(Offence.FAILED_LOGIN, 0.0)
    door.ask()
    door.ask()
    numbers = door.admission.statistics(0.0, 4)
    assert (numbers.refused_by_limit, numbers.refused_by_penalty) == (1, 2)
    assert (numbers.total_connections, numbers.total_logins) == (1, 1)
    assert (numbers.penalised_sources, numbers.handler_failures) == (1, 4)
    assert door.admission.statistics(15.0, 0).penalised_sources == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"connections": 0},
        {"unauthenticated_per_source": -1},
        {"early_drop_chance": 1.5},
        {"early_drop_chance": -0.1},
        {"failed_login_penalty": -1.0},
        {"longest_penalty": 10.0},
        {"exempt": ("10.0.0.1/8",)},
        {"exempt": ("somewhere",)},
        {"shortest_penalty": float("nan")},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ServerLimits(**wrong)
