"""The messages of the agent protocol: exact bytes, frames in arbitrary pieces, damage."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyssh.errors import WireError
from anyssh.messages import Message
from anyssh.messages.agent import (
    MAX_AGENT_MESSAGE_BYTES,
    AgentFailure,
    AgentIdentities,
    AgentIdentitiesRequest,
    AgentSignRequest,
    AgentSignResponse,
    SignFlag,
    frame,
    take_frame,
)
from anyssh.wire import uint32

# Written out from the tables of the draft, sections 3 and 6.
RECORDED: list[tuple[Message, str]] = [
    (AgentFailure(), "00000001 05"),
    (AgentIdentitiesRequest(), "00000001 0b"),
    (AgentIdentities(()), "00000005 0c 00000000"),
    (
        AgentIdentities(((b"\x01\x02", "me"), (b"", "ü"))),
        "0000001b 0c 00000002 00000002 0102 00000002 6d65 00000000 00000002 c3bc",
    ),
    (
        AgentSignRequest(b"key", b"data", SignFlag.RSA_SHA2_512),
        "00000014 0d 00000003 6b6579 00000004 64617461 00000004",
    ),
    (
        AgentSignRequest(b"key", b"", SignFlag.RSA_SHA2_256),
        "00000010 0d 00000003 6b6579 00000000 00000002",
    ),
    (AgentSignResponse(b"signed"), "0000000b 0e 00000006 7369676e6564"),
]

MESSAGES = [message for message, _ in RECORDED]


@pytest.mark.parametrize("message,recorded", RECORDED, ids=repr)
def test_messages_have_the_bytes_of_the_draft(message: Message, recorded: str) -> None:
    data = bytes.fromhex(recorded)
    assert frame(message) == data
    payload = take_frame(bytearray(data))
    assert payload is not None
    assert type(message).decode(payload) == message


@given(st.lists(st.sampled_from(MESSAGES), max_size=8), st.lists(st.integers(1, 40), max_size=60))
def test_frames_come_whole_in_whatever_pieces(messages: list[Message], sizes: list[int]) -> None:
    stream = b"".join(map(frame, messages))
    received = bytearray()
    taken: list[bytes] = []
    while stream:
        size = sizes.pop() if sizes else len(stream)
        received += stream[:size]
        stream = stream[size:]
        while (payload := take_frame(received)) is not None:
            taken.append(payload)
    assert taken == [message.encode() for message in messages]
    assert not received


@pytest.mark.parametrize("size", [0, MAX_AGENT_MESSAGE_BYTES + 1, 1 << 31, (1 << 32) - 1])
def test_lengths_out_of_bounds_are_refused_before_anything_is_awaited(size: int) -> None:
    with pytest.raises(WireError, match="1 to 262144"):
        take_frame(bytearray(uint32(size)))


def test_the_longest_message_is_read() -> None:
    payload = bytes(MAX_AGENT_MESSAGE_BYTES)
    received = bytearray(uint32(len(payload)) + payload + b"next")
    assert take_frame(received) == payload
    assert received == b"next"


@given(st.sampled_from(MESSAGES), st.data())
def test_damage_raises_nothing_but_wire_errors(message: Message, data: st.DataObject) -> None:
    payload = bytearray(message.encode())
    cut = data.draw(st.integers(0, len(payload)))
    del payload[cut:]
    for _ in range(data.draw(st.integers(0, 3))):
        if payload:
            payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(
                st.integers(0, 7)
            )
    payload += data.draw(st.binary(max_size=4))
    try:
        again = type(message).decode(bytes(payload))
    except WireError:
        return
    if not isinstance(message, AgentIdentities):  # whose comments are for people, and mended
        assert again.encode() == payload


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_what_is_short_or_long_is_refused(message: Message) -> None:
    payload = message.encode()
    for end in range(len(payload)):
        with pytest.raises(WireError):
            type(message).decode(payload[:end])
    with pytest.raises(WireError, match="trailing bytes"):
        type(message).decode(payload + b"\0")


def test_a_count_of_identities_that_are_not_there_costs_nothing() -> None:
    payload = b"\x0c" + uint32(32_000) + bytes(16)
    tracemalloc.start()
    with pytest.raises(WireError, match="do not fit"):
        AgentIdentities.decode(payload)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
