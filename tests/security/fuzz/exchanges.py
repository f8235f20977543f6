"""The target that changes one message of a key exchange in transit: T-70 (f).

Both sides are honest and in one process. An input selects the algorithms, the sender and number of
the message, and the change. If a side received anything else than the other had sent, the client
must not come to believe that it shares keys with its server.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Final

from anyssh.algorithms.key_exchanges import is_available
from anyssh.constants import Encryption, HostKeyAlgorithm, KeyExchange
from anyssh.errors import SSHError
from anyssh.protocol import Role
from anyssh.protocol.events import Authenticated, ConnectionTerminated, KeyExchangeCompleted
from tests.protocol.core_pair import CLIENT, SERVER, CorePair, fast_config, host_key

from .oracle import Finding, Target

__all__ = ["TARGETS"]

METHODS: Final = (
    KeyExchange.CURVE25519_SHA256,
    KeyExchange.ECDH_NISTP256,
    KeyExchange.DH_GROUP14_SHA256,
    KeyExchange.MLKEM768_X25519_SHA256
    if is_available(KeyExchange.MLKEM768_X25519_SHA256)
    else KeyExchange.ECDH_NISTP384,
)
HOST_KEYS: Final = (HostKeyAlgorithm.ED25519, HostKeyAlgorithm.ECDSA_NISTP256)
MESSAGES: Final = 5
"""The line, KEXINIT, 30 or 31, NEWKEYS, and what comes first under the new keys."""


class _Middle:
    """Changes one message; of the others, and of this one as far as it goes, it keeps a record."""

    def __init__(self, sender: Role, index: int, change: Callable[[bytes], bytes]) -> None:
        self.sender, self.index, self.change = sender, index, change
        self.has_changed = False

    def __call__(self, sender: Role, index: int, packet: bytes) -> list[bytes]:
        if (sender, index) != (self.sender, self.index):
            return [packet]
        changed = self.change(packet) if index == 0 else self._repacked(packet, index)
        self.has_changed = changed != packet
        return [changed]

    def _repacked(self, packet: bytes, index: int) -> bytes:
        if index > 3:
            return self.change(packet)  # it is encrypted
        payload = packet[5 : len(packet) - packet[4]]
        changed = self.change(payload)
        if changed == payload:
            return packet
        padding = 8 - (5 + len(changed)) % 8
        padding += 8 if padding < 4 else 0
        head = (1 + len(changed) + padding).to_bytes(4, "big") + bytes([padding])
        return head + changed + bytes(padding)


def _changed(edits: bytes, payload: bytes) -> bytes:
    """Apply edits: a place from the front or the back, how many bytes go, and which come."""
    result = bytearray(payload)
    offset = 0
    while offset + 4 <= len(edits):
        place = int.from_bytes(edits[offset : offset + 2], "big", signed=True)
        removed, size = edits[offset + 2], edits[offset + 3]
        place = max(0, min(len(result), place if place >= 0 else len(result) + place))
        result[place : place + removed] = edits[offset + 4 : offset + 4 + size]
        offset += 4 + size
    return bytes(result)


def _prepare(data: bytes) -> Callable[[], None]:
    options, target = data[:2].ljust(2, b"\0")
    algorithm = HOST_KEYS[options >> 2 & 1]
    config = fast_config(
        key_exchanges=(METHODS[options & 3],),
        host_key_algorithms=(algorithm,),
        encryptions=(Encryption.AES128_GCM,),
    )
    pair = CorePair(config, host_keys=[host_key(algorithm)], seed=1)
    middle = _Middle(
        SERVER if target & 1 else CLIENT,
        (target >> 1) % MESSAGES,
        functools.partial(_changed, data[2:]),
    )
    pair.middle = middle

    def run() -> None:
        pair.pump()
        try:
            pair.client.client_authentication.request_password("alice", "wonderland")
            pair.pump()
        except SSHError:
            pass  # it never came to that
        _check(pair, middle)

    return run


def _check(pair: CorePair, middle: _Middle) -> None:
    for role in Role:
        for event in pair.events[role]:
            repr(event)
            if isinstance(event, ConnectionTerminated) and event.error is not None:
                str(event.error)
    has_keys = bool(pair.of_type(CLIENT, KeyExchangeCompleted))
    is_authenticated = bool(pair.of_type(CLIENT, Authenticated))
    if not middle.has_changed:
        if not (has_keys and is_authenticated):
            raise Finding("two honest sides did not come together")
    elif middle.index == 0:
        # A server may say something before its line, and that is all that nobody signs.
        is_same = all(
            pair.cores[role].transport.peer_version is not None
            and str(pair.cores[role].transport.peer_version) == _line(pair, role.other)
            for role in Role
        )
        if is_authenticated and not is_same:
            raise Finding("a changed identification was not noticed")
    elif is_authenticated or (has_keys and middle.index < 3):
        raise Finding(f"a changed message {middle.index} of {middle.sender} was not noticed")


def _line(pair: CorePair, role: Role) -> str:
    return pair._identifications[0 if role is CLIENT else 1]


def _seeds() -> Iterator[bytes]:
    edits = (
        b"",
        b"\0\0\0\4text",
        b"\xff\xff\1\1x",
        b"\0\1\4\4\xff\xff\xff\xff",
        b"\0\5\2\0",
        b"\0\1\xff\0",
        b"\0\0\1\1\2",
        b"\xff\xf0\1\1\0",
    )
    for method, target, edit in itertools.product(range(8), range(2 * MESSAGES), edits):
        if method in (0, 5) or edit in edits[1:4]:
            yield bytes([method, target]) + edit


TARGETS: Final = (Target("exchanges", _prepare, _seeds, kinds=8),)
