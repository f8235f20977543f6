"""The handshake up to authentication: attacks, misuse and deadlines."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from anyssh.algorithms import needs_strict_key_exchange
from anyssh.config import ENCRYPTIONS, MACS, InsecureSessionConfig, Limits, SessionConfig
from anyssh.constants import DisconnectReason, Extension, Mac, MessageNumber
from anyssh.errors import (
    HostKeyError,
    LocalProtocolError,
    RemoteProtocolError,
    SSHError,
)
from anyssh.messages import Disconnect, ExtInfo, Ignore
from anyssh.protocol import Core, Phase, Role
from anyssh.protocol.connection import Connection
from anyssh.protocol.events import (
    Authenticated,
    ConnectionTerminated,
    Event,
    ExtensionsReceived,
    VersionReceived,
)

from .core_pair import (
    CLIENT,
    SERVER,
    START,
    Answers,
    CorePair,
    assert_terminated,
    fast_config,
    host_key,
    not_strict,
    running_pair,
)

# A man in the middle

PROTECTIONS = [
    *((name, Mac.HMAC_SHA2_256) for name in ENCRYPTIONS[:3]),
    *((cipher, mac) for cipher in ENCRYPTIONS[3:] for mac in MACS),
]
FIRST_CLEAR, LAST_CLEAR = 1, 3
"""Packets of each side: line, KEXINIT, 30 or 31, NEWKEYS; then EXT_INFO, service, authentication,
then the traffic of a channel."""
LAST_BEFORE_AUTHENTICATION = 6
LAST_TAMPERED = 8
CLEAR_IGNORE = struct.pack(">IB", 12, 6) + Ignore(b"").encode() + bytes(6)


def talking_config(encryption: str, mac: str) -> SessionConfig:
    """Return a configuration with which clients, too, send EXT_INFO."""
    extensions = (Extension.SERVER_SIG_ALGS, Extension.OPEN_CHANNEL_REQUEST)
    return fast_config(encryptions=[encryption], macs=[mac], extensions=extensions)


class ManInTheMiddle:
    """Does something to one packet of one side."""

    def __init__(self, sender: Role, index: int, operation: str) -> None:
        self.sender, self.index, self.operation = sender, index, operation
        self.kept: list[bytes] = []

    def __call__(self, sender: Role, index: int, packet: bytes) -> list[bytes]:
        if sender is not self.sender or index not in (self.index, self.index + 1):
            return [packet]
        if index > self.index:
            kept, self.kept = self.kept, []
            return [packet, *kept]
        match self.operation:
            case "insert":
                return [CLEAR_IGNORE, packet]
            case "duplicate":
                return [packet, packet]
            case "swap":
                self.kept = [packet]
        return []


def talk(pair: CorePair) -> None:
    """Go through a session as far as it gets, then let every deadline pass."""
    pair.pump()
    if pair.client.phase is Phase.ENCRYPTED:
        pair.client.client_authentication.request_password("alice", "wonderland")
        pair.pump()
    if pair.client.phase is Phase.RUNNING:
        pair.connections[CLIENT].open_channel("session")
        pair.pump()
        for _ in range(3):
            for role, connection in pair.connections.items():
                if pair.cores[role].is_running:
                    connection.request_global("ping", b"", want_reply=False)
                for channel in list(connection._channels.values()):
                    if channel.remote_id >= 0 and pair.cores[role].is_running:
                        connection.send_data(channel, memoryview(b"data"))
            pair.pump()
    pair.advance(200)
    # Chained blocks without encrypt-then-MAC: a receiver must not tell at once that, and so where,
    # a packet was wrong (HR-24); it reads on for 256 KiB.
    for role in Role:
        if pair.cores[role].phase is Phase.RUNNING:
            pair.inject(role, *[Ignore(bytes(30_000)).encode()] * 10)


def check_tampered(pair: CorePair, tamper: ManInTheMiddle, strict: bool) -> None:
    """The connection must die, in time, unless nothing at all was changed by what was done."""
    victim = tamper.sender.other
    dead = [role for role in Role if pair.cores[role].phase is Phase.TERMINATED]
    for role in Role:
        sent = [
            ExtInfo.decode(payload).extensions
            for payload in pair.sent(role.other)
            if payload[0] == MessageNumber.EXT_INFO
        ]
        heard = [event.extensions for event in pair.of_type(role, ExtensionsReceived)]
        assert heard == sent or (role in dead and not heard)
    if dead:
        early = tamper.index < LAST_BEFORE_AUTHENTICATION
        if early or (
            tamper.index == LAST_BEFORE_AUTHENTICATION and tamper.operation != "duplicate"
        ):
            assert not pair.of_type(victim, Authenticated)
        return
    # Only a peer without strict key exchange lets a message without effect pass.
    assert not strict
    assert tamper.operation == "insert"
    assert tamper.index <= LAST_CLEAR
    assert pair.client.exchanger.session_id == pair.server.exchanger.session_id
    assert list(map(len, pair.received.values())) == [12, 12]


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
@pytest.mark.parametrize("encryption, mac", PROTECTIONS)
def test_tampering_with_one_packet(encryption: str, mac: str, strict: bool) -> None:
    """T-03: insert, delete, duplicate or swap one packet anywhere in the first nine."""
    config = talking_config(encryption, mac)
    for sender in Role:
        for index in range(1, LAST_TAMPERED + 1):
            for operation in ("insert", "delete", "duplicate", "swap"):
                pair = CorePair(config, server_offer=None if strict else not_strict)
                tamper = ManInTheMiddle(sender, index, operation)
                pair.middle = tamper
                talk(pair)
                try:
                    check_tampered(pair, tamper, strict)
                except AssertionError as error:
                    error.add_note(f"{operation} packet {index} of the {sender.name.lower()}")
                    raise


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
@pytest.mark.parametrize("encryption, mac", PROTECTIONS)
def test_cutting_off_the_first_sealed_packets(encryption: str, mac: str, strict: bool) -> None:
    """T-03, HR-14: inserted noise must not make up for packets that are taken away."""
    config = talking_config(encryption, mac)
    for sender in Role:
        for count in (1, 2):

            def middle(
                who: Role, index: int, packet: bytes, sender: Role = sender, count: int = count
            ) -> list[bytes]:
                if who is sender and index == LAST_CLEAR:
                    return [CLEAR_IGNORE] * count + [packet]
                if who is sender and LAST_CLEAR < index <= LAST_CLEAR + count:
                    return []
                return [packet]

            pair = CorePair(config, server_offer=None if strict else not_strict)
            pair.middle = middle
            talk(pair)
            assert pair.cores[sender.other].phase is Phase.TERMINATED
            assert not pair.of_type(sender.other, Authenticated)
            assert not pair.of_type(sender.other, ExtensionsReceived)


def test_untampered_sessions_of_the_same_kind_work() -> None:
    """The counterpart of the tests above: their script ends well when nobody interferes."""
    for encryption, mac in PROTECTIONS:
        for offer in (None, not_strict):
            if offer is not None and needs_strict_key_exchange(encryption, mac):
                continue
            pair = CorePair(talking_config(encryption, mac), server_offer=offer)
            assert not pair.middle
            talk(pair)
            assert list(map(len, pair.received.values())) == [12, 12]
            assert [len(pair.of_type(role, ExtensionsReceived)) for role in Role] == [1, 1]


# Misuse

MISUSES: dict[str, Callable[[Core, Connection], object]] = {
    "open_channel": lambda core, connection: connection.open_channel("session"),
    "request_global": lambda core, connection: connection.request_global("x", b"", want_reply=True),
    "start_rekey": lambda core, connection: core.start_rekey(START),
    "request_service": lambda core, connection: core.request_service("ssh-connection"),
}


def misuse(pair: CorePair) -> None:
    """Call what is only for running sessions; nothing may come of it."""
    for role, core in pair.cores.items():
        connection = pair.connections[role]
        if core.is_running:
            continue
        before = (core.phase, core.transport.pending, core.next_deadline(), core.transport.traffic)
        for call in MISUSES.values():
            with pytest.raises(LocalProtocolError):
                call(core, connection)
        if role is SERVER or core.phase in (Phase.VERSION, Phase.KEY_EXCHANGE):
            with pytest.raises(LocalProtocolError):
                _ = core.client_authentication
        after = (core.phase, core.transport.pending, core.next_deadline(), core.transport.traffic)
        assert after == before
        assert not core.poll_events()
        assert connection.channel_count == 0


def clear_numbers(stream: bytes) -> list[int]:
    """Return the message numbers of a side's stream as far as they are in clear."""
    position = stream.index(b"\n") + 1
    numbers: list[int] = []
    while position < len(stream):
        (length,) = struct.unpack_from(">I", stream, position)
        numbers.append(stream[position + 5])
        if numbers[-1] == MessageNumber.NEWKEYS:
            break
        position += 4 + length
    return numbers


def test_misuse_during_the_handshake_puts_nothing_in_clear() -> None:
    """T-05: calls before their time raise, change nothing, and never reach the wire."""
    pair = CorePair()
    for role in Role:
        pair.handle(role, pair.cores[role].poll_events())
    streams = {CLIENT: bytearray(), SERVER: bytearray()}
    misuse(pair)
    asked = False
    for _ in range(10):
        for role in Role:
            for packet in pair.take(role):
                streams[role] += packet
                pair.feed(role.other, packet)
                misuse(pair)
        if pair.client.phase is Phase.ENCRYPTED and not asked:
            pair.client.client_authentication.request_password("alice", "wonderland")
            asked = True
            misuse(pair)
    assert all(core.phase is Phase.RUNNING for core in pair.cores.values())
    kex = [MessageNumber.KEXINIT, MessageNumber.KEXDH_INIT, MessageNumber.NEWKEYS]
    assert clear_numbers(bytes(streams[CLIENT])) == kex
    kex[1] = MessageNumber.KEXDH_REPLY
    assert clear_numbers(bytes(streams[SERVER])) == kex
    assert b"wonderland" not in streams[CLIENT]
    pair.assert_usable()


def test_no_credential_leaves_before_the_host_key_is_accepted() -> None:
    """HR-35, T-26: until the host key was judged there is nothing to authenticate with."""
    pair = CorePair(answers=Answers(host_key=None))
    pair.pump()
    assert pair.client.phase is Phase.ENCRYPTED
    with pytest.raises(LocalProtocolError, match="host key"):
        _ = pair.client.client_authentication
    assert pair.sent_numbers(CLIENT) == [20, 30, 21]


def test_a_rejected_host_key_ends_the_connection() -> None:
    """HR-35, T-26: DISCONNECT 9, and no credential has left."""
    error = HostKeyError("not this one")
    pair = CorePair(answers=Answers(host_key=lambda event, now: event.reject(error, now)))
    pair.pump()
    assert assert_terminated(pair, CLIENT, DisconnectReason.HOST_KEY_NOT_VERIFIABLE) is error
    assert pair.sent_numbers(CLIENT)[:-1] == [20, 30, 21]
    with pytest.raises(LocalProtocolError):
        _ = pair.client.client_authentication


def test_a_long_error_of_ours_is_cut_for_the_peer() -> None:
    error = SSHError("no " * 100)
    pair = CorePair(answers=Answers(signature=lambda event, now: event.fail(error, now)))
    pair.pump()
    goodbye = Disconnect.decode(pair.sent(SERVER)[-1])
    assert goodbye.description == str(error)[:256]


def test_a_signature_that_fails_ends_the_connection() -> None:
    """T-25: without a signature no answer leaves."""
    error = SSHError("the agent is gone")
    pair = CorePair(answers=Answers(signature=lambda event, now: event.fail(error, now)))
    pair.pump()
    assert pair.server.phase is Phase.TERMINATED
    assert pair.termination(SERVER) is error
    assert pair.sent_numbers(SERVER) == [20, MessageNumber.DISCONNECT]


def test_answers_that_come_too_late_do_nothing() -> None:
    """An obligation that is answered after the end is no error and sends nothing."""
    late: list[Any] = []
    pair = CorePair(answers=Answers(signature=lambda event, now: late.append(event)))
    pair.pump()
    pair.end_stream()
    late[0].supply(host_key().sign(late[0].data), pair.now)
    assert pair.server.data_to_send(pair.now) == b""
    with pytest.raises(LocalProtocolError, match="already answered"):
        late[0].fail(SSHError("twice"), pair.now)


@pytest.mark.parametrize("role", Role)
def test_nothing_follows_the_goodbye(role: Role) -> None:
    """After DISCONNECT no call of the application sends another byte, or keeps it."""
    pair = running_pair(channels=1)
    core, connection = pair.cores[role], pair.connections[role]
    channel = pair.channels[0][0 if role is CLIENT else 1]
    core.start_rekey(START)
    connection.request_global("it waits for new keys", b"", want_reply=False)
    assert connection.held_size > 0
    core.poll_events()
    core.disconnect(DisconnectReason.BY_APPLICATION, "bye")
    assert core.data_to_send(START)
    calls: list[Callable[[], object]] = [
        lambda: connection.open_channel("session"),
        lambda: connection.request_global("x", b"", want_reply=False),
        lambda: connection.send_data(channel, memoryview(b"data")),
        lambda: connection.send_eof(channel),
        lambda: connection.close(channel),
        lambda: core.start_rekey(START),
        lambda: core.disconnect(DisconnectReason.BY_APPLICATION, "again"),
    ]
    for call in calls:
        with contextlib.suppress(LocalProtocolError):
            call()
        assert core.data_to_send(START) == b""
        assert connection.held_size == 0
    assert [type(event) for event in core.poll_events()] == [ConnectionTerminated]


# The identification line


def lone_core(role: Role, **limits: Any) -> Core:
    """Return a core that waits for its peer's identification."""
    config = fast_config(limits=Limits(**limits))
    core = Core(
        role,
        config,
        now=START,
        random=os.urandom,
        identification="SSH-2.0-anyssh_1.0",
        connection=Connection(config),
        host_keys=[host_key()] if role is SERVER else [],
    )
    core.poll_events()
    core.data_to_send(START)
    return core


def peer_opening(role: Role) -> bytes:
    """Return line and KEXINIT of a peer with a role."""
    return CorePair().cores[role].data_to_send(START)


def end_of(events: list[Event]) -> RemoteProtocolError:
    """Return the error in the one event there is."""
    (terminated,) = events
    assert isinstance(terminated, ConnectionTerminated)
    assert isinstance(terminated.error, RemoteProtocolError)
    return terminated.error


LINE = b"SSH-2.0-peer_1.0\r\n"
BANNER = b"welcome\r\n"
HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
TLS = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
TLS_ALERT = b"\x15\x03\x01\x00\x02\x02\x16"

REFUSED_BY_ANY = {
    "a line of 1 MiB": (b"SSH-2.0-" + b"x" * 2**20 + b"\r\n", "bytes"),
    "1 MiB without an end": (b"x" * 2**20, ""),
    "a line of 256 bytes": (b"SSH-2.0-" + b"x" * 246 + b"\r\n", "255"),
    "255 bytes and no end": (b"SSH-2.0-" + b"x" * 247, "255"),
    "the older protocol": (b"SSH-1.5-old\r\n", "1.5"),
    "a newer protocol": (b"SSH-3.0-new\r\n", "3.0"),
    "NUL in the line": (b"SSH-2.0-a\0b\r\n", "identification"),
    "an escape in the line": (b"SSH-2.0-a\x1b[2Jb\r\n", "identification"),
    "not ASCII": ("SSH-2.0-größer\r\n".encode(), "identification"),
    "no software": (b"SSH-2.0-\r\n", "identification"),
    "no version": (b"SSH-\r\n", "identification"),
    "HTTP": (HTTP, "HTTP"),
    "TLS": (TLS, "TLS"),
    "a TLS alert": (TLS_ALERT, "TLS"),
    "NUL in a banner": (b"\0\0\0\r\n" + LINE, ""),
}
REFUSED_BY_SERVER = {
    "a banner": (BANNER + LINE, "something else"),
    "an HTTP request": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
    "binary": (b"\0\0\0\x0c", "something else"),
    "the first byte": (b"T", ""),
}
REFUSED_BY_CLIENT = {
    "51 lines": (BANNER * 51 + LINE, "50 lines"),
    "8 KiB in lines": ((b"x" * 1023 + b"\n") * 9 + LINE, "bytes"),
    "8 KiB in one line": (b"x" * 8192, ""),
}


@pytest.mark.parametrize("piece", [1 << 30, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("role", Role)
def test_what_is_no_identification(role: Role, piece: int) -> None:
    """T-10, HR-10: refused within the limits, whatever the pieces, without a byte in return."""
    cases = REFUSED_BY_ANY | (REFUSED_BY_SERVER if role is SERVER else REFUSED_BY_CLIENT)
    for name, (data, words) in cases.items():
        core = lone_core(role)
        events: list[Event] = []
        for start in range(0, len(data), piece):
            events += core.receive_data(data[start : start + piece], START)
            if core.phase is Phase.TERMINATED:
                break
            assert start < 9 * 1024, name
        assert core.phase is Phase.TERMINATED, name
        error = str(end_of(events))
        # A server sees with the first byte that something is wrong, but not yet what.
        assert words in error or (role is SERVER and piece == 1 and "else" in error), name
        assert core.data_to_send(START) == b"", name


@pytest.mark.parametrize("role", Role)
def test_lines_that_never_end_take_no_memory(role: Role) -> None:
    """T-10: less than 64 KiB are held of a peer that sends 1 MiB in place of a line."""
    core = lone_core(role)
    chunk = b"x" * 1024
    tracemalloc.start()
    for _ in range(1024):
        core.receive_data(chunk, START)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert core.phase is Phase.TERMINATED
    assert peak < 64 * 1024


@pytest.mark.parametrize(
    "line",
    [
        b"SSH-2.0-peer_1.0\r\n",
        b"SSH-2.0-peer_1.0\n",
        b"SSH-1.99-peer_1.0\r\n",
        b"SSH-2.0-dropbear 2022.83 (some comment)\r\n",
        b"SSH-2.0-" + b"x" * 245 + b"\r\n",
    ],
)
@pytest.mark.parametrize("piece", [1 << 30, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("role", Role)
def test_identifications_that_are_taken(role: Role, piece: int, line: bytes) -> None:
    """T-10: LF or CR LF, 2.0 or 1.99, up to 255 bytes."""
    core = lone_core(role)
    events: list[Event] = []
    for start in range(0, len(line), piece):
        events += core.receive_data(line[start : start + piece], START)
    (event,) = events
    assert isinstance(event, VersionReceived)
    assert event.version.text == line.decode().rstrip("\r\n")
    assert core.phase is Phase.KEY_EXCHANGE


@pytest.mark.parametrize("size", [1 << 30, 1, 7], ids=["coalesced", "byte by byte", "in sevens"])
@pytest.mark.parametrize("lines", [0, 1, 50])
def test_what_follows_the_line_is_kept(lines: int, size: int) -> None:
    """T-10, HR-10: lines before it are skipped by a client; KEXINIT may come in the same bytes."""
    pair = CorePair()
    pair.chunk_size = size
    for role in Role:
        pair.handle(role, pair.cores[role].poll_events())
    banner = BANNER * lines
    opening = b"".join(pair.take(SERVER))
    pair.feed(CLIENT, banner + opening)
    assert [type(event) for event in pair.events[CLIENT]][1] is VersionReceived
    assert pair.client.phase is Phase.KEY_EXCHANGE
    pair.pump()
    pair.authenticate()
    pair.assert_usable()


@pytest.mark.parametrize("role", Role)
def test_the_stream_ends_before_the_identification(role: Role) -> None:
    """An end in the middle of the line breaks no rule: the connection is lost, as it is later."""
    core = lone_core(role)
    core.receive_data(b"SSH-2.0-pe", START)
    assert not core.is_running
    assert core.receive_eof(START) == [ConnectionTerminated(None, Phase.VERSION)]
    assert core.transport.said_instead == "SSH-2.0-pe"


def test_what_a_server_said_instead() -> None:
    """HR-06: its last line, as far as it is safe to show."""
    core = lone_core(CLIENT)
    assert core.transport.said_instead == ""
    core.receive_data(b"hello\r\nExceeded \x1b[2JMaxStartups\xff\r\n", START)
    assert core.transport.said_instead == "Exceeded \\x1b[2JMaxStartups\ufffd"
    core.receive_data(b"y" * 1000, START)
    assert core.transport.said_instead == "y" * 256


# Deadlines


def trickle_until_end(core: Core, data: bytes, start: float, end: float) -> None:
    """Feed one byte a second; the core must end at the deadline and not before."""
    now = start
    for byte in data:
        if now >= end:
            break
        assert core.next_deadline() == end
        assert not any(
            isinstance(event, ConnectionTerminated)
            for event in core.receive_data(bytes([byte]), now) + core.handle_timeout(now)
        )
        now += 1.0
    assert now >= end, "too little to trickle"
    assert not core.handle_timeout(end - 0.001)
    error = end_of(core.handle_timeout(end))
    assert "too long" in str(error)
    assert core.phase is Phase.TERMINATED
    assert core.next_deadline() is None


@pytest.mark.parametrize("role", Role)
def test_deadline_of_the_identification(role: Role) -> None:
    """HR-11, T-10: ten seconds for the line, however it trickles in."""
    core = lone_core(role)
    trickle_until_end(core, b"SSH-2.0-" + b"x" * 50, START, START + 10.0)
    assert core.data_to_send(START) == b""


@pytest.mark.parametrize("role", Role)
def test_deadline_of_the_first_key_exchange(role: Role) -> None:
    """HR-11: twenty seconds more for the keys, counted from the line."""
    core = lone_core(role)
    opening = peer_opening(role.other)
    size = opening.index(b"\n") + 1
    line, kexinit = opening[:size], opening[size:]
    now = START + 5
    core.receive_data(line, now)
    trickle_until_end(core, kexinit, now, now + 20.0)


@pytest.mark.parametrize("role", Role)
def test_deadline_of_the_first_key_exchange_behind_kexinit(role: Role) -> None:
    """HR-11: further messages do not extend it either."""
    core = lone_core(role)
    core.receive_data(peer_opening(role.other), START)
    core.poll_events()
    trickle_until_end(core, b"\0\0\0\x2c" + bytes(100), START, START + 20.0)


@pytest.mark.parametrize("role", Role)
def test_deadline_of_authentication(role: Role) -> None:
    """HR-11: sixty seconds more until the client is authenticated, whatever is sent meanwhile."""
    pair = CorePair()
    pair.pump()
    end = START + 60.0
    for _ in range(59):
        pair.now += 1
        pair.inject(role.other, Ignore(b"").encode())
        assert pair.cores[role].next_deadline() == end
    pair.now = end
    pair.handle(role, pair.cores[role].handle_timeout(end))
    assert_terminated(pair, role, DisconnectReason.PROTOCOL_ERROR, "too long for authentication")


def test_deadline_of_authentication_counts_on_during_attempts() -> None:
    """HR-11: a server's deadline is absolute; attempts do not move it."""
    pair = CorePair(answers=Answers(attempt=lambda event, now: event.reject(now)))
    pair.pump()
    for _ in range(3):
        pair.client.client_authentication.request_password("alice", "wrong")
        pair.pump()
        pair.advance(15)
    pair.answers.attempt = None
    pair.client.client_authentication.request_password("alice", "slow")
    pair.pump()
    pair.advance(14.9)
    assert not pair.of_type(SERVER, ConnectionTerminated)
    pair.advance(0.2)
    assert [core.phase for core in pair.cores.values()] == [Phase.TERMINATED] * 2


@pytest.mark.parametrize("role", Role)
def test_deadline_while_somebody_is_asked(role: Role) -> None:
    """HR-11: a verifier or signer that never answers does not hold the connection for ever."""
    pair = CorePair(answers=Answers(host_key=None) if role is CLIENT else Answers(signature=None))
    pair.pump()
    pair.advance(80.1)
    assert pair.cores[role].phase is Phase.TERMINATED


def test_limits_set_the_deadlines() -> None:
    """HR-11: each deadline is a limit that can be chosen."""
    core = lone_core(SERVER, version_time=2.5, key_exchange_time=3.5)
    assert core.next_deadline() == START + 2.5
    core.receive_data(LINE, START + 1)
    assert core.next_deadline() == START + 4.5
    pair = CorePair(fast_config(limits=Limits(authentication_time=7.5)))
    pair.pump()
    assert pair.server.next_deadline() == START + 7.5


def test_a_running_session_has_no_deadline_but_new_keys() -> None:
    """HR-11: once authenticated, only the age of the keys wakes a core."""
    for role, core in running_pair(fast_config(rekey_time=1234.0)).cores.items():
        assert core.next_deadline() == START + 1234.0, role


def test_a_session_without_protection_has_no_deadline() -> None:
    """There are no keys to grow old; a deadline that passes would wake its timer for ever."""
    pair = running_pair(InsecureSessionConfig())
    pair.advance(10_000)
    for core in pair.cores.values():
        deadline = core.next_deadline()
        assert deadline is None or deadline > pair.now


# The budget of a peer that is not authenticated


@pytest.mark.parametrize("at_once", [True, False], ids=["in one chunk", "one by one"])
@pytest.mark.parametrize("role", Role)
def test_unauthenticated_packets_are_bounded(role: Role, at_once: bool) -> None:
    """HR-26: 512 packets in all, of whatever kind; the next one is the last."""
    pair = CorePair()
    pair.pump()
    received = pair.cores[role].transport.messages_received
    noise = [Ignore(b"").encode()] * (512 - received)
    pair.inject(role.other, *noise)
    assert pair.cores[role].phase is Phase.ENCRYPTED
    for count in (100,) if at_once else (1,) * 100:
        pair.inject(role.other, *noise[:1] * count)
    assert_terminated(pair, role, DisconnectReason.PROTOCOL_ERROR, "512 packets")
    assert pair.cores[role].transport.messages_received == 513


@pytest.mark.parametrize("role", Role)
def test_unauthenticated_bytes_are_bounded(role: Role) -> None:
    """HR-26: 256 KiB in all, also when they come in one chunk."""
    pair = CorePair()
    pair.pump()
    pair.inject(role.other, *[Ignore(bytes(30_000)).encode()] * 9)
    assert_terminated(pair, role, DisconnectReason.PROTOCOL_ERROR, "bytes")


@pytest.mark.parametrize("role", Role)
def test_the_bound_on_unauthenticated_bytes_is_exact(role: Role) -> None:
    """HR-26."""

    def after_noise(most: int) -> CorePair:
        pair = CorePair(fast_config(limits=Limits(unauthenticated_bytes=most)))
        pair.pump()
        for _ in range(2):
            pair.inject(role.other, Ignore(bytes(1000)).encode())
        return pair

    received = after_noise(10_000).cores[role].transport.bytes_received
    assert after_noise(received).cores[role].phase is Phase.ENCRYPTED
    assert_terminated(after_noise(received - 1), role, DisconnectReason.PROTOCOL_ERROR, "bytes")


@pytest.mark.parametrize("place", [FIRST_CLEAR, LAST_CLEAR])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("role", Role)
def test_early_noise_is_bounded(role: Role, strict: bool, place: int) -> None:
    """HR-12, HR-15: in the first key exchange eight idle messages pass, none if it is strict."""
    for count in (1, 8, 9):
        pair = CorePair(client_offer=None if strict else not_strict)

        def middle(sender: Role, index: int, packet: bytes, count: int = count) -> list[bytes]:
            if sender is not role and index == place:
                return [CLEAR_IGNORE] * count + [packet]
            return [packet]

        pair.middle = middle
        pair.pump()
        survives = not strict and count <= 8
        assert (pair.cores[role].phase is Phase.ENCRYPTED) is survives


def test_packets_of_a_stranger_are_small() -> None:
    """HR-20: a length above 40,000 is refused before its bytes are waited for."""
    core = lone_core(SERVER)
    core.receive_data(LINE, START)
    core.poll_events()
    core.receive_data(struct.pack(">I", 40_000), START)
    assert core.phase is Phase.KEY_EXCHANGE
    core = lone_core(SERVER)
    core.receive_data(LINE, START)
    core.poll_events()
    end_of(core.receive_data(struct.pack(">I", 40_001), START))


@pytest.mark.parametrize("size", [256 * 1024, 1024 * 1024])
def test_packets_of_an_authenticated_peer_may_be_larger(size: int) -> None:
    """HR-20: up to the limit, and not a byte is waited for beyond it."""
    for length, survives in ((size, True), (size + 1, False), (4, False)):
        pair = running_pair(fast_config(limits=Limits(packet_size=size)))
        pair.feed(SERVER, struct.pack(">I", length))
        assert (pair.server.phase is Phase.RUNNING) is survives, length
        if not survives:
            assert_terminated(pair, SERVER, DisconnectReason.MAC_ERROR)
    with pytest.raises(ValueError, match="1 MiB"):
        Limits(packet_size=1024 * 1024 + 1)


def test_what_is_received_takes_little_memory() -> None:
    """HR-20: two packets and 64 KiB, although the link asks for as much as a packet each time."""
    pair = running_pair()
    limit, chunk = Limits().packet_size, 256 * 1024
    largest = 0
    stream = b"".join(
        pair.transport(CLIENT)._sealer.seal(number, Ignore(bytes(limit - 100)).encode())
        for number in range(pair.transport(CLIENT).send_sequence, 40)
    )
    for start in range(0, len(stream), chunk - 77):
        pair.server.receive_data(stream[start : start + chunk - 77], START)
        largest = max(largest, sys.getsizeof(pair.server.transport._buffer))
    assert len(stream) > 6 * 1024 * 1024
    assert pair.server.phase is Phase.TERMINATED, "4 MiB of noise are too much"
    assert limit < largest <= 2 * limit + 64 * 1024
