"""When new keys are due, to the byte, and how often the peer may request them."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyssh.algorithms import packet_opener
from anyssh.config import Limits
from anyssh.constants import Encryption
from anyssh.errors import RemoteProtocolError
from anyssh.identification import PeerVersion
from anyssh.protocol.acceptance import Role
from anyssh.protocol.rekeying import LITTLE_TRAFFIC, MAX_BYTES, MAX_PACKETS, Rekeying
from anyssh.protocol.transport import Transport

from .core_pair import fast_config

PEERS = ("SSH-2.0-OpenSSH_9.2", "SSH-2.0-dev-tunnels-ssh_3.0", "SSH-2.0-dev-tunnels-ssh-go_1.0")
COUNTERS = ("bytes_sent", "bytes_received", "messages_sent", "messages_received")


def rekeying(peer: str, start: int, **options: Any) -> tuple[Rekeying, Transport]:
    config = fast_config(**options)
    transport = Transport(Role.CLIENT, config.limits, "SSH-2.0-x", os.urandom)
    sealed = packet_opener(Encryption.AES128_GCM, "", iv=bytes(16), key=bytes(16), mac_key=b"")
    transport.install_opener(sealed, reset_sequence=False)
    made = Rekeying(config, transport)
    made.learn_peer(PeerVersion.parse(peer))
    for name in COUNTERS:
        setattr(transport, name, start)
    made.keys_changed(100.0)
    return made, transport


@given(
    peer=st.sampled_from(PEERS),
    start=st.sampled_from([0, 12_345]),
    rekey_bytes=st.sampled_from([1, 1000, 2**29, 2 * MAX_BYTES]),
    rekey_packets=st.sampled_from([1, 50, MAX_PACKETS]),
    moved=st.tuples(
        *[st.sampled_from([0, 49, 50, 499, 500, 999, 1000, 2**29, MAX_PACKETS, MAX_BYTES])] * 4
    ),
    elapsed=st.sampled_from([0.0, 59.0, 60.0]),
)
def test_a_quiet_look_means_that_nothing_is_due(
    peer: str,
    start: int,
    rekey_bytes: int,
    rekey_packets: int,
    moved: tuple[int, ...],
    elapsed: float,
) -> None:
    watched, transport = rekeying(
        peer, start, rekey_bytes=rekey_bytes, rekey_packets=rekey_packets, rekey_time=60.0
    )
    for name, by in zip(COUNTERS, moved, strict=True):
        setattr(transport, name, start + by)
    try:
        is_due = watched.is_due(100.0 + elapsed)
    except RemoteProtocolError:
        is_due = True
    assert watched.may_be_due(100.0 + elapsed) or not is_due


def test_most_packets_need_but_the_quick_look() -> None:
    watched, transport = rekeying(PEERS[0], 0, rekey_bytes=1000, rekey_packets=50, rekey_time=60.0)
    assert not watched.may_be_due(159.0)
    transport.bytes_sent = 499
    assert not watched.may_be_due(159.0)
    transport.bytes_sent = 500
    assert watched.may_be_due(100.0)


@given(now=st.floats(0, 1e9), seconds=st.floats(1, 1e5))
def test_what_comes_by_time_is_due_when_its_time_has_come(now: float, seconds: float) -> None:
    """Under a clock that jumps from one deadline to the next, nobody looks again a little later."""
    watched, _ = rekeying(PEERS[0], 0, rekey_time=seconds)
    watched.keys_changed(now)
    deadline = watched.deadline
    assert deadline is not None
    assert watched.is_due(deadline)
    assert watched.may_be_due(deadline)


def move(transport: Transport, **by: int) -> None:
    for name, amount in by.items():
        setattr(transport, name, getattr(transport, name) + amount)


def test_most_peers_are_asked_at_the_first_bound_that_is_reached() -> None:
    for counter in COUNTERS:
        bound = 1000 if counter.startswith("bytes") else 50
        watched, transport = rekeying(
            PEERS[0], 12_345, rekey_bytes=1000, rekey_packets=50, rekey_time=60.0
        )
        assert watched.is_at_will
        move(transport, **{counter: bound - 1})
        assert not watched.is_due(159.0), counter
        assert watched.is_due(160.0)
        move(transport, **{counter: 1})
        assert watched.may_be_due(100.0), counter
        assert watched.is_due(100.0), counter


def test_dev_tunnels_peers_are_asked_when_they_ask_themselves() -> None:
    """They count the bytes of both directions without the length and the tag of each packet."""
    watched, transport = rekeying(
        PEERS[1], 12_345, rekey_bytes=1000, rekey_packets=1, rekey_time=60.0
    )
    assert not watched.is_at_will
    assert watched.deadline is None
    move(transport, bytes_sent=600, bytes_received=460, messages_sent=2, messages_received=1)
    assert not watched.is_due(1000.0)
    move(transport, bytes_received=1)
    assert watched.is_due(100.0)


def test_the_go_member_is_never_asked() -> None:
    watched, transport = rekeying(
        PEERS[2], 12_345, rekey_bytes=1000, rekey_packets=1, rekey_time=60.0
    )
    assert not watched.is_at_will
    assert watched.deadline is None
    move(transport, **dict.fromkeys(COUNTERS, 10**6))
    assert not watched.is_due(1000.0)


@pytest.mark.parametrize("peer", PEERS)
def test_keys_that_are_used_up_end_the_session(peer: str) -> None:
    for counter in COUNTERS:
        bound = MAX_BYTES if counter.startswith("bytes") else MAX_PACKETS
        watched, transport = rekeying(peer, 12_345, rekey_bytes=2 * MAX_BYTES)
        move(transport, **{counter: bound - 1})
        watched.is_due(100.0)
        move(transport, **{counter: 1})
        assert watched.may_be_due(100.0), counter
        with pytest.raises(RemoteProtocolError, match="used up"):
            watched.is_due(100.0)


@pytest.mark.parametrize("rekey_bytes, enough", [(2**30, LITTLE_TRAFFIC), (1000, 1000)])
def test_a_peer_may_have_new_keys_after_traffic_and_now_and_then(
    rekey_bytes: int, enough: int
) -> None:
    limits = Limits(rekey_burst=3, rekey_interval=10.0)
    watched, transport = rekeying(PEERS[0], 12_345, rekey_bytes=rekey_bytes, limits=limits)
    move(transport, bytes_sent=enough - 500, bytes_received=499)
    assert [watched.peer_may_start(100.0) for _ in range(4)] == [True, True, True, False]
    move(transport, bytes_received=1)
    assert watched.peer_may_start(100.0)
    watched.keys_changed(110.0)
    assert [watched.peer_may_start(120.0) for _ in range(2)] == [True, False]


def test_a_full_packet_between_exchanges_is_traffic_enough() -> None:
    """T-17: OpenSSH with a small RekeyLimit; sometimes before the packet instead of behind it."""
    limits = Limits(rekey_burst=1, rekey_interval=10.0)
    watched, transport = rekeying(PEERS[0], 12_345, limits=limits)
    for size in (2 * LITTLE_TRAFFIC, LITTLE_TRAFFIC, *(2 * LITTLE_TRAFFIC, 40) * 50):
        move(transport, bytes_received=size)
        assert watched.peer_may_start(100.0)
        watched.keys_changed(100.0)
    move(transport, bytes_received=40)
    assert [watched.peer_may_start(100.0) for _ in range(2)] == [True, False]


def test_what_comes_in_one_read_with_newkeys_counts_for_the_new_keys() -> None:
    limits = Limits(rekey_burst=1, rekey_interval=10.0)
    watched, transport = rekeying(PEERS[0], 12_345, rekey_bytes=LITTLE_TRAFFIC, limits=limits)
    for _ in range(5):
        transport.feed(bytes(100 + LITTLE_TRAFFIC))
        transport._offset += 100  # NEWKEYS
        watched.keys_changed(100.0)
        assert not watched.is_due(100.0)
        transport._offset += LITTLE_TRAFFIC
        assert watched.is_due(100.0)
        assert watched.peer_may_start(100.0)
