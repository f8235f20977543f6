"""The target that tampers with an encrypted stream: whatever is changed, nothing false comes out.

An input selects the mode and the changes: a position, how many bytes are removed there, and which
are inserted. The receiver must deliver the payloads that were sent, in order, up to the first
change, and then end with the only error there is, which reveals nothing.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from anyssh.algorithms import (
    encryption_parameters,
    mac_key_size,
    packet_opener,
    packet_sealer,
)
from anyssh.config import ENCRYPTIONS, MACS, Limits
from anyssh.constants import DisconnectReason, Encryption, Mac
from anyssh.errors import RemoteProtocolError
from anyssh.protocol import Role
from anyssh.protocol.transport import Transport

from .oracle import Finding, Target

__all__ = ["TARGETS"]

MODES: Final = (
    (Encryption.NONE, Mac.NONE),
    *((name, MACS[0]) for name in ENCRYPTIONS if encryption_parameters(name).is_aead),
    *((name, mac) for name in (Encryption.AES256_CTR, Encryption.AES256_CBC) for mac in MACS),
)
PAYLOADS: Final = (b"\x02", b"\x5e" + bytes(40), b"\x5e" + b"data" * 500, b"\x60last")


class Change(NamedTuple):
    """What is done to the stream."""

    place: int
    removed: int
    added: bytes


def _changes(data: bytes) -> Iterator[Change]:
    offset = 0
    while offset + 5 <= len(data):
        size = data[offset + 4]
        place = int.from_bytes(data[offset : offset + 2], "big")
        removed = int.from_bytes(data[offset + 2 : offset + 4], "big")
        yield Change(place, removed, data[offset + 5 : offset + 5 + size])
        offset += 5 + size


def _key(letter: str, size: int) -> bytes:
    return hashlib.shake_128(letter.encode()).digest(size)


def _transport(mode: tuple[str, str]) -> Transport:
    """Return a sender and receiver in one, that has read its greeting."""
    encryption, mac = mode
    parameters = encryption_parameters(encryption)
    iv, key = _key("iv", parameters.iv_size), _key("key", parameters.key_size)
    mac_key = b"" if mac == Mac.NONE else _key("mac", mac_key_size(mac))
    transport = Transport(Role.CLIENT, Limits(), "SSH-2.0-x", bytes)
    transport.take_output()
    opener = packet_opener(encryption, mac, iv=iv, key=key, mac_key=mac_key)
    sealer = packet_sealer(encryption, mac, iv=iv, key=key, mac_key=mac_key, random=bytes)
    transport.install_opener(opener, reset_sequence=True)
    transport.install_sealer(sealer, reset_sequence=True)
    return transport


@functools.cache
def _stream(mode: tuple[str, str]) -> bytes:
    transport = _transport(mode)
    for payload in PAYLOADS:
        transport.send(payload)
    return transport.take_output()


def _prepare(data: bytes) -> Callable[[], None]:
    mode = MODES[(data[0] if data else 0) % len(MODES)]
    step = 1 + (data[1] if len(data) > 1 else 0) * 4
    original = _stream(mode)
    stream = bytearray(original)
    for place, removed, added in _changes(data[2:]):
        place %= len(stream) + 1
        stream[place : place + removed] = added

    def run() -> None:
        received = []
        transport = _transport(mode)
        error: RemoteProtocolError | None = None
        try:
            for start in range(0, len(stream), step):
                transport.feed(stream[start : start + step])
                while (payload := transport.next_payload()) is not None:
                    received.append(bytes(payload))
        except RemoteProtocolError as raised:
            error = raised
        if mode != MODES[0]:
            _check(received, error, is_original=bytes(stream) == original)

    return run


def _check(received: list[bytes], error: RemoteProtocolError | None, *, is_original: bool) -> None:
    if tuple(received) != PAYLOADS[: len(received)]:
        raise Finding("a payload came that was not sent")
    if error is not None and error.reason != DisconnectReason.MAC_ERROR:
        raise Finding(f"{error!r} tells what was wrong with an encrypted packet")
    if is_original and (error is not None or len(received) != len(PAYLOADS)):
        raise Finding("an honest stream was not understood")


def _seeds() -> Iterator[bytes]:
    for index, mode in enumerate(MODES):
        yield bytes([index, 255])
        size = len(_stream(mode))
        for place in (0, 3, 4, 16, 20, size - 1):
            yield bytes([index, 20]) + place.to_bytes(2, "big") + b"\0\1\1\xff"
        yield bytes([index, 90]) + b"\0\0\0\4\4\0\0\0\5"
        yield bytes([index, 90]) + b"\0\0\0\4\4\0\4\0\1"
        yield bytes([index, 0]) + b"\0\x10\0\x05\0"


TARGETS: Final = (Target("packets", _prepare, _seeds, kinds=len(MODES)),)
