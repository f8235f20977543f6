"""When new keys are due: the quick look for every packet never overlooks what the full one sees."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from anyssh.errors import RemoteProtocolError
from anyssh.identification import PeerVersion
from anyssh.protocol.acceptance import Role
from anyssh.protocol.rekeying import MAX_BYTES, MAX_PACKETS, Rekeying
from anyssh.protocol.transport import Transport

from .core_pair import fast_config

PEERS = ("SSH-2.0-OpenSSH_9.2", "SSH-2.0-dev-tunnels-ssh_3.0", "SSH-2.0-dev-tunnels-ssh-go_1.0")
COUNTERS = ("bytes_sent", "bytes_received", "messages_sent", "messages_received")


def rekeying(peer: str, start: int, **options: Any) -> tuple[Rekeying, Transport]:
    config = fast_config(**options)
    transport = Transport(Role.CLIENT, config.limits, "SSH-2.0-x", os.urandom)
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
