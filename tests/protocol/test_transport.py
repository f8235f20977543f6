"""The transport on its own: counters, bounds, and the receipts at the end of packets."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest

from anyssh.algorithms import (
    encryption_parameters,
    mac_key_size,
    packet_opener,
    packet_sealer,
)
from anyssh.algorithms.encrypt_and_mac import DISCARD_SIZE
from anyssh.config import ENCRYPTIONS, MACS, Limits
from anyssh.constants import DisconnectReason
from anyssh.errors import RemoteProtocolError
from anyssh.protocol import Role
from anyssh.protocol.transport import MAX_DELAY, Traffic, Transport

LINE = b"SSH-2.0-sender_1\r\n"
LIMITS = Limits(unauthenticated_packet_size=1000, packet_size=2000)


def transport(role: Role = Role.CLIENT, **options: object) -> Transport:
    return Transport(role, LIMITS, "SSH-2.0-sender_1", bytes, **options)  # type: ignore[arg-type]


def pair() -> tuple[Transport, Transport]:
    """Return two ends that have greeted each other."""
    ends = transport(Role.CLIENT), transport(Role.SERVER)
    for sender, receiver in (ends, ends[::-1]):
        receiver.feed(sender.take_output())
        assert receiver.read_greeting() is not None
    return ends


def move(sender: Transport, receiver: Transport) -> list[bytes]:
    """Let everything arrive; return the payloads."""
    receiver.feed(sender.take_output())
    received = []
    while (payload := receiver.next_payload()) is not None:
        received.append(bytes(payload))
    return received


# Counting


def test_what_was_sent_and_received_is_counted() -> None:
    near, far = pair()
    assert near.traffic == Traffic(len(LINE), len(LINE), 0, 0)
    near.send(b"\x02", b"body")
    near.send(b"\x03more")
    assert near.pending == near.bytes_sent - len(LINE) > 0
    size = near.pending
    assert move(near, far) == [b"\x02body", b"\x03more"]
    assert near.pending == 0
    assert near.take_output() == b""
    assert near.traffic == Traffic(len(LINE) + size, len(LINE), 2, 0)
    assert far.traffic == Traffic(len(LINE), len(LINE) + size, 0, 2)
    assert (near.send_sequence, far.receive_sequence) == (2, 2)
    assert near.traffic + far.traffic == Traffic(2 * len(LINE) + size, 2 * len(LINE) + size, 2, 2)


def test_what_waits_unread_is_counted() -> None:
    near, far = pair()
    near.send(b"\x02one")
    near.send(b"\x02two")
    data = near.take_output()
    far.feed(data)
    assert far.unread == len(data)
    far.next_payload()
    assert far.unread == len(data) // 2
    far.next_payload()
    assert far.next_payload() is None
    assert far.unread == 0


def test_a_packet_may_come_in_any_pieces() -> None:
    near, far = pair()
    near.send(b"\x02" + bytes(100))
    near.send(b"\x03")
    data = near.take_output()
    received = []
    for place in range(len(data)):
        far.feed(data[place : place + 1])
        while (payload := far.next_payload()) is not None:
            received.append((place, bytes(payload)))
    assert [payload for _, payload in received] == [b"\x02" + bytes(100), b"\x03"]
    assert received[-1][0] == len(data) - 1
    assert far.messages_received == 2


def test_whoever_watches_is_told_of_whole_payloads() -> None:
    told: list[tuple[int, int]] = []
    near = transport(on_send=lambda number, sequence: told.append((number, sequence)))
    near.send(b"\x14kexinit")
    near.send(b"\x5e", b"data has a watcher of its own")
    near.send(b"\x02")
    assert told == [(20, 0), (2, 2)]


# Bounds


@pytest.mark.parametrize("is_large", [False, True])
def test_packets_have_bounds(is_large: bool) -> None:
    """HR-20: one bound before authentication, another afterwards."""
    limit = LIMITS.packet_size if is_large else LIMITS.unauthenticated_packet_size
    for length, is_legal in ((limit, True), (limit + 1, False), (4, False), (0, False)):
        _, far = pair()
        if is_large:
            far.allow_large_packets()
        packet = struct.pack(">IB", length, 4) + bytes(max(0, length - 1))
        far.feed(packet[:5])
        if is_legal:
            assert far.next_payload() is None
            far.feed(packet[5:])
            payload = far.next_payload()
            assert payload is not None
            assert len(payload) == length - 5
        else:
            with pytest.raises(RemoteProtocolError, match=f"packet_length of {length} "):
                far.next_payload()


# Receipts


def receipts(*, with_delay: bool) -> tuple[Transport, Transport, list[tuple[int, float | None]]]:
    """Return two ends, the second of which gives receipts to the first, which notes them."""
    near, far = pair()
    noted: list[tuple[int, float | None]] = []
    far.give_receipts(with_delay=with_delay)
    near.expect_receipts(
        with_delay=with_delay, on_receipt=lambda number, delay: noted.append((number, delay))
    )
    assert far.gives_receipts
    assert not far.gets_receipts
    assert near.gets_receipts
    assert not near.gives_receipts
    return near, far, noted


@pytest.mark.parametrize("with_delay", [False, True])
def test_a_receipt_tells_the_last_packet(with_delay: bool) -> None:
    near, far, noted = receipts(with_delay=with_delay)
    far.received_at = far.now = 5.0
    numbers = []
    for count in (1, 1, 3):
        for _ in range(count):
            near.send(b"\x02")
        move(near, far)
        assert far.messages_received > far.receipted_messages
        far.send(b"\x5e", b"data")
        assert far.messages_received == far.receipted_messages
        assert far.bytes_received == far.receipted_bytes
        assert move(far, near) == [b"\x5edata"]
        numbers.append(near.last_receipt)
    assert numbers == [0, 1, 4]
    assert noted == [(number, 0.0 if with_delay else None) for number in numbers]


def test_a_receipt_that_was_given_before_is_no_news() -> None:
    near, far, noted = receipts(with_delay=False)
    near.send(b"\x02")
    move(near, far)
    for _ in range(3):
        far.send(b"\x02")
        move(far, near)
    assert noted == [(0, None)]


@pytest.mark.parametrize(
    "received_at, now, delay",
    [(1.0, 1.0, 0.0), (1.0, 3.25, 2.25), (3.0, 1.0, 0.0), (0.0, 10_000.0, MAX_DELAY / 10**6)],
)
def test_the_delay_is_in_microseconds_and_has_bounds(
    received_at: float, now: float, delay: float
) -> None:
    near, far, noted = receipts(with_delay=True)
    near.send(b"\x02")
    move(near, far)
    far.received_at, far.now = received_at, now
    far.send(b"\x02")
    move(far, near)
    assert noted == [(0, pytest.approx(delay))]


@pytest.mark.parametrize("number, is_legal", [(0, True), (1, True), (2, False), (2**64 - 1, False)])
def test_a_receipt_is_for_what_was_sent(number: int, is_legal: bool) -> None:
    """HR-66."""
    near, far = pair()
    near.expect_receipts(with_delay=False, on_receipt=lambda number, delay: None)
    for _ in range(2):
        near.send(b"\x02")
    far.send(b"\x02", struct.pack(">Q", number))
    if is_legal:
        assert move(far, near) == [b"\x02"]
    else:
        with pytest.raises(RemoteProtocolError, match=f"acknowledges packet {number};"):
            move(far, near)


def test_receipts_never_go_back() -> None:
    """HR-66."""
    near, far = pair()
    near.expect_receipts(with_delay=False, on_receipt=lambda number, delay: None)
    for _ in range(3):
        near.send(b"\x02")
    far.send(b"\x02", struct.pack(">Q", 2))
    move(far, near)
    far.send(b"\x02", struct.pack(">Q", 1))
    with pytest.raises(RemoteProtocolError, match="it acknowledged 2 before"):
        move(far, near)


@pytest.mark.parametrize("with_delay, size", [(False, 8), (True, 12)])
def test_a_payload_is_more_than_its_receipt(with_delay: bool, size: int) -> None:
    near, far = pair()
    near.expect_receipts(with_delay=with_delay, on_receipt=lambda number, delay: None)
    near.send(b"\x02")
    far.send(bytes(size))
    with pytest.raises(RemoteProtocolError, match=f"{size} bytes without a receipt"):
        move(far, near)


def test_a_receipt_that_nobody_notes_is_still_checked() -> None:
    near, far = pair()
    near.expect_receipts(with_delay=False, on_receipt=None)  # type: ignore[arg-type]
    near.send(b"\x02")
    far.send(b"\x02", bytes(8))
    assert move(far, near) == [b"\x02"]
    assert near.last_receipt == 0


# What somebody in between changes

PROTECTIONS = [
    (encryption, mac)
    for encryption in ENCRYPTIONS
    for mac in (MACS if not encryption_parameters(encryption).is_aead else MACS[:1])
]
SIZES = (1, 2, 30, 31, 32, 33, 700, 5, 1500, 64, 900, 100)


def keys_for(encryption: str, mac: str) -> dict[str, Any]:
    parameters = encryption_parameters(encryption)
    sizes = {
        "iv": parameters.iv_size,
        "key": parameters.key_size,
        "mac_key": 0 if parameters.is_aead else mac_key_size(mac),
    }
    return {name: hashlib.shake_128(name.encode()).digest(size) for name, size in sizes.items()}


def receive(receiver: Transport, received: list[bytes], *pieces: bytes | bytearray) -> None:
    """Feed one piece after the other; note the payloads in between."""
    for piece in pieces:
        receiver.feed(piece)
        while (payload := receiver.next_payload()) is not None:
            received.append(bytes(payload))


@pytest.mark.parametrize("encryption, mac", PROTECTIONS)
def test_one_flipped_bit_at_every_byte(encryption: str, mac: str) -> None:
    """T-18: what was sent before it comes out, nothing else does, and the end is always one."""
    keys = keys_for(encryption, mac)
    near, greeted = pair()
    near.install_sealer(packet_sealer(encryption, mac, random=bytes, **keys), reset_sequence=True)
    payloads = [b"\x5e" + bytes([number]) * size for number, size in enumerate(SIZES)]
    ends = []
    data = b""
    for payload in payloads:
        near.send(payload)
        data += near.take_output()
        ends.append(len(data))
    # With CBC and a MAC over the plain packet, so many bytes are read before it fails.
    silence = bytes(DISCARD_SIZE)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        far = transport(Role.SERVER)
        far.peer_version = greeted.peer_version
        far.allow_large_packets()
        far.install_opener(packet_opener(encryption, mac, **keys), reset_sequence=True)
        received: list[bytes] = []
        with pytest.raises(RemoteProtocolError) as caught:
            receive(far, received, changed, silence)
        assert caught.value.reason == DisconnectReason.MAC_ERROR
        assert received == payloads[: sum(end <= place for end in ends)]
