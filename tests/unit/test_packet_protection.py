"""Packets in every mode: known answers, round trips, and every way in which they can be wrong.

The labels are those of the hardening requirements and of the catalogue of behaviours.
"""

from __future__ import annotations

import hmac
import itertools
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.poly1305 import Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from anyssh.algorithms import (
    PacketOpener,
    PacketSealer,
    aes_gcm,
    chacha20_poly1305,
    clear_opener,
    clear_sealer,
    encrypt_and_mac,
    encrypt_then_mac,
    encryption_parameters,
    mac_digest,
    mac_key_size,
    packet_opener,
    packet_sealer,
)
from anyssh.algorithms.encrypt_and_mac import DISCARD_SIZE
from anyssh.algorithms.packets import VIEW_FROM, PaddingSource
from anyssh.constants import DisconnectReason, Encryption, Mac
from anyssh.errors import LocalProtocolError, RemoteProtocolError
from anyssh.wire import string, uint32, uint64

PING = b"\x50" + string("ping") + b"\x01"


@dataclass(frozen=True)
class Mode:
    """A pair of names, and keys that are the same in each test."""

    encryption: str
    mac: str = Mac.NONE
    iv_start: int = 0x20

    def __str__(self) -> str:
        return f"{self.encryption}+{self.mac}"

    @property
    def key(self) -> bytes:
        return bytes(range(encryption_parameters(self.encryption).key_size))

    @property
    def iv(self) -> bytes:
        size = encryption_parameters(self.encryption).iv_size
        return bytes(range(self.iv_start, self.iv_start + size))

    @property
    def mac_key(self) -> bytes:
        return bytes(range(mac_key_size(self.mac)))

    @property
    def block_size(self) -> int:
        return encryption_parameters(self.encryption).block_size

    @property
    def is_clear(self) -> bool:
        return self.encryption == Encryption.NONE

    @property
    def length_is_encrypted(self) -> bool:
        return not self.is_clear and not self.length_is_apart

    @property
    def length_is_apart(self) -> bool:
        """Whether the length field does not count for alignment."""
        return encryption_parameters(self.encryption).is_aead or "-etm" in self.mac

    @property
    def tag_size(self) -> int:
        if encryption_parameters(self.encryption).is_aead:
            return 16
        return mac_key_size(self.mac)

    @property
    def failure(self) -> DisconnectReason:
        return DisconnectReason.PROTOCOL_ERROR if self.is_clear else DisconnectReason.MAC_ERROR

    def sealer(self, random: Callable[[int], bytes] = os.urandom) -> PacketSealer:
        return packet_sealer(
            self.encryption,
            self.mac,
            iv=self.iv,
            key=self.key,
            mac_key=self.mac_key,
            random=random,
        )

    def opener(self) -> PacketOpener:
        return packet_opener(
            self.encryption, self.mac, iv=self.iv, key=self.key, mac_key=self.mac_key
        )

    def craft(self, plain: bytes, sequence: int = 0) -> bytes:
        """Protect a whole plain packet, however wrong, as the first one under these keys.

        This is a second implementation, written from the specifications, for one packet.
        """
        if self.is_clear:
            return plain
        if self.encryption == Encryption.CHACHA20_POLY1305:
            return self._craft_chacha(plain, sequence)
        if encryption_parameters(self.encryption).is_aead:
            return plain[:4] + AESGCM(self.key).encrypt(self.iv[:12], plain[4:], plain[:4])
        sequence_bytes = uint32(sequence & 0xFFFFFFFF)
        digest = mac_digest(self.mac)
        if self.length_is_apart:
            sealed = plain[:4] + self._encrypt(plain[4:])
            return sealed + hmac.digest(self.mac_key, sequence_bytes + sealed, digest)
        return self._encrypt(plain) + hmac.digest(self.mac_key, sequence_bytes + plain, digest)

    def _craft_chacha(self, plain: bytes, sequence: int) -> bytes:
        nonce = bytes(8) + uint64(sequence)
        length = stream(self.key[32:], nonce, plain[:4])
        body = stream(self.key[:32], nonce, bytes(64) + plain[4:])
        sealed = length + body[64:]
        return sealed + Poly1305.generate_tag(body[:32], sealed)

    def _encrypt(self, plain: bytes) -> bytes:
        mode = modes.CBC if self.encryption.endswith("-cbc") else modes.CTR
        context = Cipher(algorithms.AES(self.key), mode(self.iv)).encryptor()
        return context.update(plain)


def stream(key: bytes, nonce: bytes, data: bytes) -> bytes:
    return Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor().update(data)


CLEAR = Mode(Encryption.NONE)
AES_GCM = Mode(Encryption.AES256_GCM)
CHACHA = Mode(Encryption.CHACHA20_POLY1305)
CBC = Mode(Encryption.AES256_CBC, Mac.HMAC_SHA2_256)
MODES = [
    CLEAR,
    AES_GCM,
    Mode(Encryption.AES128_GCM),
    CHACHA,
    *(
        Mode(encryption, mac)
        for encryption in (
            Encryption.AES256_CTR,
            Encryption.AES192_CTR,
            Encryption.AES128_CTR,
            Encryption.AES256_CBC,
        )
        for mac in (
            Mac.HMAC_SHA2_256,
            Mac.HMAC_SHA2_512,
            Mac.HMAC_SHA2_256_ETM,
            Mac.HMAC_SHA2_512_ETM,
        )
    ),
]
ENCRYPTED_MODES = [mode for mode in MODES if not mode.is_clear]
CBC_MODES = [mode for mode in MODES if mode.length_is_encrypted and "cbc" in mode.encryption]
FAILING_AT_ONCE = [mode for mode in ENCRYPTED_MODES if mode not in CBC_MODES]

every_mode = pytest.mark.parametrize("mode", MODES, ids=str)
every_encrypted_mode = pytest.mark.parametrize("mode", ENCRYPTED_MODES, ids=str)
every_mode_that_fails_at_once = pytest.mark.parametrize("mode", FAILING_AT_ONCE, ids=str)


def take(opener: PacketOpener, wire: bytes | bytearray, sequence: int = 0) -> bytes:
    """Open one packet that is all of ``wire``, behind bytes that belong to nobody."""
    buffer = bytearray(b"before") + wire
    length = opener.packet_length(sequence, buffer, 6)
    assert 6 + 4 + length + opener.trailer_size == len(buffer)
    payload = bytes(opener.open(sequence, buffer, 6, length))
    del buffer[:7]  # nothing holds on to the buffer
    return payload


def plain_packet(payload: bytes, padding: int, padding_length: int | None = None) -> bytes:
    """Build a packet with ``padding`` bytes of it, even if ``padding_length`` says otherwise."""
    announced = padding if padding_length is None else padding_length
    body = bytes([announced]) + payload + b"\xaa" * padding
    return uint32(len(body)) + body


def sizes_of_padding(mode: Mode, size: int) -> Iterator[int]:
    """Yield each legal amount of padding for a payload of ``size`` bytes."""
    counted = 1 + size + (0 if mode.length_is_apart else 4)
    step = 1 if mode.is_clear else mode.block_size
    yield from (padding for padding in range(4, 256) if (counted + padding) % step == 0)


class TestKnownAnswers:
    """Packets of an independent implementation; the padding is zero."""

    def seal(self, mode: Mode, sequence: int, *payloads: bytes) -> list[str]:
        sealer = mode.sealer(random=lambda size: bytes(size))
        return [
            sealer.seal(sequence + number, payload).hex() for number, payload in enumerate(payloads)
        ]

    def test_gcm(self) -> None:
        with_trailer = PING + uint64(7) + uint32(1500)
        assert self.seal(AES_GCM, 0, PING, with_trailer) == [
            "00000010d76aa6706c9c6a67741b43cec118f4f9dadf3a19dfd3ac11d5531568e4c5b5e8",
            "000000205136b96b4a2f9829eae504280f524baf914f34163c4b1feb783a0630"
            "c16abcf26a16c00a1a4721aea803c2d3fd657548",
        ]

    def test_counter_mode_with_a_plain_mac(self) -> None:
        """The MAC covers the low 32 bits of the packet's number."""
        mode = Mode(Encryption.AES256_CTR, Mac.HMAC_SHA2_256)
        expected = [
            "61a693725fdf101c1cc589fadb25a1d4b3b2f089cd2a435206ca05f23127a19b"
            "4e8ee9378e491c8c51c5278bee55a92d8624b83526447088a760499b87eb07b6"
        ]
        assert self.seal(mode, 2**32 + 3, PING) == expected
        assert self.seal(mode, 3, PING) == expected

    def test_counter_mode_with_encrypt_then_mac(self) -> None:
        mode = Mode(Encryption.AES256_CTR, Mac.HMAC_SHA2_512_ETM)
        assert self.seal(mode, 3, PING) == [
            "0000001064f6936e4e8b607572a6f893b542a0d4351574b1614e3942f96e11fd"
            "d4c606d65a6dfdd2d88d505d70042e9471ab814072578a9486ab641f1ac39ee2"
            "5b731d86f410a19222ba4e3b6bbd37c67ce92b53"
        ]

    def test_clear(self) -> None:
        assert self.seal(CLEAR, 0, PING, b"\x15") == [
            "00000014" + "09" + PING.hex() + "00" * 9,
            "0000000c" + "0a" + "15" + "00" * 10,
        ]

    @every_mode
    def test_against_a_second_implementation(self, mode: Mode) -> None:
        for size in range(1, 40):
            payload = bytes(range(100, 100 + size))
            sealed = mode.sealer(random=lambda count: b"\xaa" * count).seal(size, payload)
            padding = len(sealed) - mode.tag_size - 5 - size
            assert sealed == mode.craft(plain_packet(payload, padding), sequence=size)


class TestRoundTrips:
    @every_mode
    def test_sizes(self, mode: Mode) -> None:
        """PKT-01, PKT-04, PKT-13, PKT-14, ALG-05, ALG-08: one continuous stream of packets."""
        sealer, opener = mode.sealer(), mode.opener()
        sizes = [*range(1, 100), *range(128, 4097, 32), 2031, 2032, 2033, 50000, 10, 262000]
        sizes += [VIEW_FROM + delta for delta in range(-40, 41, 8)]
        for sequence, size in enumerate(sizes):
            payload = os.urandom(size)
            sealed = sealer.seal(sequence, payload)
            assert type(sealed) is bytes
            assert take(opener, sealed, sequence) == payload

    @every_mode
    @settings(max_examples=30, deadline=None)
    @given(
        parts=st.lists(
            st.tuples(st.binary(max_size=80), st.binary(max_size=300)).filter(any), max_size=8
        ),
        first=st.integers(0, 2**64 - 100),
        chunk=st.integers(1, 500),
    )
    def test_many_packets_in_one_buffer(
        self, mode: Mode, parts: list[tuple[bytes, bytes]], first: int, chunk: int
    ) -> None:
        """Fed by chunks; the length is asked for whenever it might be known."""
        sealer, opener = mode.sealer(), mode.opener()
        wire = b"".join(
            sealer.seal(first + number, memoryview(head), bytearray(body))
            for number, (head, body) in enumerate(parts)
        )
        buffer, received, offset = bytearray(), [], 0
        for start in range(0, len(wire), chunk):
            buffer += wire[start : start + chunk]
            while len(buffer) - offset >= opener.header_size:
                sequence = first + len(received)
                length = opener.packet_length(sequence, buffer, offset)
                end = offset + 4 + length + opener.trailer_size
                if len(buffer) < end:
                    break
                received.append(bytes(opener.open(sequence, buffer, offset, length)))
                offset = end
            del buffer[:offset]
            offset = 0
        assert received == [head + body for head, body in parts]
        assert not buffer

    @every_mode
    @pytest.mark.parametrize("size", [1, 300, VIEW_FROM + 1, 100_000])
    def test_the_payload_outlives_the_buffer(self, mode: Mode, size: int) -> None:
        payload = os.urandom(size)
        sealer, opener = mode.sealer(), mode.opener()
        buffer = bytearray(sealer.seal(0, payload))
        opened = opener.open(0, buffer, 0, opener.packet_length(0, buffer, 0))
        buffer[:] = bytes(len(buffer))
        buffer += sealer.seal(1, bytes(size))
        del buffer[: -len(buffer) // 2]
        opener.open(1, buffer, 0, opener.packet_length(1, buffer, 0))
        assert opened == payload
        assert bytes(opened[size // 2 :]) == payload[size // 2 :]

    @every_encrypted_mode
    def test_what_is_on_the_wire_does_not_show_the_payload(self, mode: Mode) -> None:
        """PKT-03, ALG-07, ALG-13."""
        sealer, payload = mode.sealer(random=lambda size: bytes(size)), b"plain text " * 8
        first, second = sealer.seal(0, payload), sealer.seal(1, payload)
        assert payload[:11] not in first
        assert first[4:] != second[4:]
        length = uint32(len(first) - 4 - mode.tag_size)
        is_hidden = mode.length_is_encrypted or mode.encryption == Encryption.CHACHA20_POLY1305
        assert (first[:4] == length) is not is_hidden

    def test_sealed_packets_are_not_touched_again(self) -> None:
        for mode in MODES:
            sealer = mode.sealer()
            packets = [sealer.seal(number, b"x" * 20_000) for number in range(3)]
            copies = [bytes(bytearray(packet)) for packet in packets]
            sealer.seal(3, b"y" * 20_000)
            assert packets == copies


class TestPadding:
    @every_mode
    def test_what_we_send(self, mode: Mode) -> None:
        """HR-21: at least 4 bytes, aligned, at least 16 bytes in all, and not more than needed."""
        for size in range(1, 80):
            sealed = mode.sealer().seal(0, bytes(size))
            total = len(sealed) - mode.tag_size
            padding = total - 5 - size
            counted = total - 4 if mode.length_is_apart else total
            assert counted % mode.block_size == 0
            assert total >= 16
            assert 4 <= padding < max(mode.block_size + 4, 16)

    @every_mode
    def test_every_legal_amount_is_accepted(self, mode: Mode) -> None:
        for size in (1, 2, 17):
            for padding in sizes_of_padding(mode, size):
                payload = bytes(range(size))
                assert take(mode.opener(), mode.craft(plain_packet(payload, padding))) == payload

    def test_a_short_packet_of_a_peer_is_accepted(self) -> None:
        """Others send 8 bytes for a message of one byte with this cipher."""
        assert take(CHACHA.opener(), CHACHA.craft(plain_packet(b"\x34", 6))) == b"\x34"

    def test_clear_packets_need_no_alignment(self) -> None:
        for padding in range(4, 30):
            assert take(CLEAR.opener(), plain_packet(b"\x14abc", padding)) == b"\x14abc"

    def test_padding_is_random_and_not_asked_for_each_time(self) -> None:
        """HR-08: in clear packets too."""
        asked: list[int] = []

        def random(size: int) -> bytes:
            asked.append(size)
            return bytes(index % 251 for index in range(len(asked), len(asked) + size))

        sealer = clear_sealer(random)
        paddings = [sealer.seal(number, PING)[15:] for number in range(300)]
        assert 2 <= len(asked) <= 5
        assert sum(asked) < 2 * sum(map(len, paddings))
        assert len(set(paddings[:100])) == 100

    @given(st.lists(st.integers(0, 255), max_size=60))
    def test_the_pool_hands_out_nothing_twice(self, sizes: list[int]) -> None:
        numbers = itertools.count()

        def random(size: int) -> bytes:
            return b"".join(struct.pack(">H", next(numbers)) for _ in range(size // 2))

        source = PaddingSource(random)
        pieces = [source.take(size) for size in sizes]
        assert [len(piece) for piece in pieces] == sizes
        everything = b"".join(struct.pack(">H", number) for number in range(20_000))
        position = 0
        for piece in filter(None, pieces):
            position = everything.index(piece, position) + len(piece)


class TestWrongPackets:
    """T-11, HR-20 to HR-23."""

    def assert_fails(self, mode: Mode, wire: bytes, opener: PacketOpener | None = None) -> str:
        opener = opener or mode.opener()
        buffer = bytearray(wire)
        length = opener.packet_length(0, buffer, 0)
        with pytest.raises(RemoteProtocolError) as caught:
            opener.open(0, buffer, 0, length)
        assert caught.value.reason == mode.failure
        assert caught.value.__cause__ is None
        del buffer[:5]  # not even an error holds on to the buffer
        return str(caught.value)

    def test_every_failure_reads_the_same(self) -> None:
        """HR-23."""
        texts = set()
        for mode in FAILING_AT_ONCE:
            good = mode.sealer().seal(0, bytes(30))
            texts |= {
                self.assert_fails(mode, good[:-1] + bytes([good[-1] ^ 1])),
                self.assert_fails(mode, mode.craft(plain_packet(bytes(12), 3))),
                self.assert_fails(mode, mode.craft(plain_packet(bytes(12), 19, 255))),
                self.assert_fails(mode, mode.craft(plain_packet(bytes(6), 4))),
            }
            with pytest.raises(RemoteProtocolError) as caught:
                mode.opener().refuse_length(2**31)
            assert caught.value.reason == DisconnectReason.MAC_ERROR
            texts.add(str(caught.value))
        assert len(texts) == 1

    @every_mode_that_fails_at_once
    def test_one_flipped_bit_anywhere(self, mode: Mode) -> None:
        """HR-22, T-18, PKT-08, ALG-09, ALG-11: body, tag and MAC; T-18 has the length field."""
        sealed = mode.sealer().seal(0, bytes(range(60)))
        for position in range(4, len(sealed)):
            for bit in (0, 7):
                wire = bytearray(sealed)
                wire[position] ^= 1 << bit
                self.assert_fails(mode, wire)

    @every_mode_that_fails_at_once
    def test_nothing_of_a_forged_packet_is_looked_at(
        self, mode: Mode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """HR-22: what is verified before it is decrypted is not even that."""

        def look(*_: object) -> bytes:
            raise AssertionError("a forged packet is looked at")

        for module in (aes_gcm, chacha20_poly1305, encrypt_and_mac, encrypt_then_mac):
            monkeypatch.setattr(module, "strip_padding", look)
        good = mode.sealer().seal(0, bytes(60))
        opener = mode.opener()
        if isinstance(opener, encrypt_then_mac.EncryptThenMacOpener):
            opener._decrypt = look
        self.assert_fails(mode, good[:-1] + bytes([good[-1] ^ 1]), opener)

    @every_mode_that_fails_at_once
    def test_a_flipped_bit_in_the_length(self, mode: Mode) -> None:
        sealed = mode.sealer().seal(0, bytes(range(200)))
        for bit in range(32):
            wire = bytearray(sealed) + bytes(1000)
            wire[bit // 8] ^= 0x80 >> bit % 8
            opener = mode.opener()
            length = opener.packet_length(0, wire, 0)
            if 4 + length + mode.tag_size <= len(wire):
                self.assert_fails(mode, wire, opener)
            else:
                with pytest.raises(RemoteProtocolError, match="not valid"):
                    opener.refuse_length(length)

    @every_mode_that_fails_at_once
    def test_another_number_another_key_another_vector(self, mode: Mode) -> None:
        sealed = mode.sealer().seal(1, bytes(40))
        if mode.encryption not in (Encryption.AES256_GCM, Encryption.AES128_GCM):
            self.assert_fails(mode, sealed)  # opened as number 0
        sealed = mode.sealer().seal(0, bytes(40))
        # Encrypt-then-MAC does not cover the initial vector, which belongs to the key anyway.
        if mode.iv and "-etm" not in mode.mac:
            with pytest.raises(RemoteProtocolError):
                open_any_length(replace(mode, iv_start=0x21).opener(), sealed)
        other = packet_opener(
            mode.encryption,
            mode.mac,
            iv=mode.iv,
            key=bytes(len(mode.key)) if mode.tag_size == 16 else mode.key,
            mac_key=bytes(len(mode.mac_key)),
        )
        with pytest.raises(RemoteProtocolError):
            open_any_length(other, sealed)

    @every_mode_that_fails_at_once
    def test_a_packet_twice_or_out_of_order(self, mode: Mode) -> None:
        sealer, opener = mode.sealer(), mode.opener()
        first, second = sealer.seal(0, bytes(20)), sealer.seal(1, bytes(20))
        with pytest.raises(RemoteProtocolError):
            open_any_length(mode.opener(), second)
        assert take(opener, first) == bytes(20)
        with pytest.raises(RemoteProtocolError):
            open_any_length(opener, first, sequence=1)

    @every_mode
    def test_all_short_lengths(self, mode: Mode) -> None:
        """Authentic packets of each packet_length from 0 to 64: legal or refused, never a crash."""
        for length in range(65):
            body = (bytes([4]) + b"\x02" * 63 + b"\xaa" * 64)[:length]
            aligned = (length + (0 if mode.length_is_apart else 4)) % mode.block_size == 0
            is_legal = length >= 6 and (aligned or mode.is_clear)
            if mode in CBC_MODES and not aligned:
                continue  # no sender can encrypt these
            wire = mode.craft(uint32(length) + body)
            if len(wire) < mode.opener().header_size:
                continue
            if is_legal:
                assert take(mode.opener(), wire) == body[1 : length - 4]
            elif mode not in CBC_MODES:
                self.assert_fails(mode, wire)

    @pytest.mark.parametrize("mode", [m for m in FAILING_AT_ONCE if m.mac != Mac.NONE], ids=str)
    def test_misaligned_lengths(self, mode: Mode) -> None:
        """An authentic MAC over a length that no block cipher can have."""
        for length in range(65):
            if (length + (0 if mode.length_is_apart else 4)) % 16 == 0:
                continue
            plain = uint32(length) + bytes([4]) + bytes(91)
            self.assert_fails(mode, mode.craft(plain) + bytes(200))

    @every_mode_that_fails_at_once
    def test_every_padding_length(self, mode: Mode) -> None:
        """PKT-06: authentic packets with each value of padding_length."""
        total = 64 if not mode.length_is_apart else 68
        for padding in range(256):
            body = bytes([padding]) + bytes(total - 5)
            wire = mode.craft(uint32(len(body)) + body)
            if 4 <= padding <= len(body) - 2:
                assert take(mode.opener(), wire) == bytes(len(body) - 1 - padding)
            else:
                self.assert_fails(mode, wire)

    def test_every_padding_length_in_clear(self) -> None:
        """PKT-05, PKT-06."""
        for length in range(24):
            for padding in range(256):
                wire = uint32(length) + bytes([padding]) + bytes(30)
                if 4 <= padding <= length - 2:
                    opener = clear_opener()
                    opened = opener.open(0, bytearray(wire), 0, length)
                    assert opened == bytes(length - 1 - padding)
                else:
                    assert f"is {padding if length >= 6 else length}" in self.assert_fails(
                        CLEAR, wire
                    )
        with pytest.raises(RemoteProtocolError, match="262145") as caught:
            clear_opener().refuse_length(262145)
        assert caught.value.reason == DisconnectReason.PROTOCOL_ERROR

    @every_mode_that_fails_at_once
    def test_truncated_and_moved_up(self, mode: Mode) -> None:
        """PKT-07: a packet that lost bytes, with the next one right behind it."""
        sealer = mode.sealer()
        first, second = sealer.seal(0, bytes(50)), sealer.seal(1, bytes(300))
        for lost in range(1, len(first) - 16):
            damaged = first[:-lost] + second
            if not damaged.startswith(first):  # what was lost may be what comes next
                self.assert_fails(mode, damaged)

    @every_mode
    @settings(max_examples=100, deadline=None)
    @given(data=st.data())
    def test_any_bytes(self, mode: Mode, data: st.DataObject) -> None:
        """HR-03: nothing but our own error, whatever comes, and no forged packet."""
        opener = mode.opener()
        buffer = bytearray(data.draw(st.binary(min_size=16, max_size=64)))
        length = opener.packet_length(0, buffer, 0)
        try:
            if length > 300:
                length = opener.refuse_length(length)
            buffer += bytes(max(0, 4 + length + opener.trailer_size - len(buffer)))
            outcome = bytes(opener.open(0, buffer, 0, length))
        except RemoteProtocolError as error:
            assert_reason(error, mode.failure)
        else:
            assert bool(outcome) is mode.is_clear


def assert_reason(error: RemoteProtocolError, reason: DisconnectReason) -> None:
    assert error.reason == reason


def open_any_length(opener: PacketOpener, wire: bytes, sequence: int = 0) -> bytes:
    """Open a packet whose length may have become nonsense, within bounds of 5 to 300 bytes."""
    buffer = bytearray(wire) + bytes(400)
    length = opener.packet_length(sequence, buffer, 0)
    if not 5 <= length <= 300:
        length = opener.refuse_length(length)
    return bytes(opener.open(sequence, buffer, 0, length))


class TestCbcTellsNothing:
    """HR-24: bytes consumed and the error are equal whatever is wrong."""

    LIMIT = 40_000

    def consumed(self, mode: Mode, wire: bytes) -> tuple[int, str, int]:
        """Feed a packet and then noise; return when and how the connection fails."""
        opener = mode.opener()
        buffer = bytearray(wire) + bytes(300_000)
        offset = 0
        for sequence in itertools.count():
            length = opener.packet_length(sequence, buffer, offset)
            assert length == opener.packet_length(sequence, buffer, offset)
            if not 5 <= length <= self.LIMIT:
                length = opener.refuse_length(length)
            assert 5 <= length <= self.LIMIT
            end = offset + 4 + length + opener.trailer_size
            try:
                payload = opener.open(sequence, buffer, offset, length)
            except RemoteProtocolError as error:
                return end, str(error), error.reason
            assert payload == b""
            offset = end
        raise AssertionError

    @pytest.mark.parametrize("mode", CBC_MODES, ids=str)
    def test_all_failures_are_alike(self, mode: Mode) -> None:
        """HR-24."""
        outcomes = set()
        lengths = [*range(65), 39_996, 39_999, 40_000, 40_001, 40_012, 262_140, 2**31, 2**32 - 1]
        for length in lengths:  # bad lengths, and good ones with a bad MAC
            outcomes.add(self.consumed(mode, mode.craft(uint32(length) + bytes(12))[:16]))
        near_a_step = range(32 * 1024 - 160, 32 * 1024 + 17, 16)
        for size in (1, 100, 30_000, *(size - 9 - mode.tag_size for size in near_a_step)):
            good = mode.sealer().seal(0, bytes(size))
            for position in (4, len(good) // 2, len(good) - 1):
                wire = bytearray(good)
                wire[position] ^= 4
                outcomes.add(self.consumed(mode, wire))
        for padding in (0, 3, 59, 255):
            body = bytes([padding]) + bytes(59)
            outcomes.add(self.consumed(mode, mode.craft(uint32(60) + body)))
        assert len(outcomes) == 1
        [(consumed, text, reason)] = outcomes
        assert (consumed, reason) == (DISCARD_SIZE, DisconnectReason.MAC_ERROR)
        assert consumed == 262_144
        assert text == str(wrong_tag_error())

    @pytest.mark.parametrize("mode", CBC_MODES, ids=str)
    def test_a_long_packet_fails_where_it_ends(self, mode: Mode) -> None:
        for total in (*range(DISCARD_SIZE - 160, DISCARD_SIZE + 64, 16), DISCARD_SIZE + 16_000):
            good = mode.sealer().seal(0, bytes(total - 9 - mode.tag_size))
            assert len(good) == total
            buffer = bytearray(good[:-1]) + bytes([good[-1] ^ 1])
            opener = mode.opener()
            length = opener.packet_length(0, buffer, 0)
            if total + 16 + mode.tag_size <= DISCARD_SIZE:
                assert opener.open(0, buffer, 0, length) == b""
            else:
                with pytest.raises(RemoteProtocolError):
                    opener.open(0, buffer, 0, length)

    def test_good_packets_are_never_empty(self) -> None:
        sealer, opener = CBC.sealer(), CBC.opener()
        for number in range(50):
            assert take(opener, sealer.seal(number, b"x" * (number + 1)), number)


def wrong_tag_error() -> RemoteProtocolError:
    opener = AES_GCM.opener()
    with pytest.raises(RemoteProtocolError) as caught:
        opener.open(0, bytearray(uint32(16) + bytes(32)), 0, 16)
    return caught.value


class TestNonces:
    def seal_with_iv(self, iv: bytes, count: int) -> list[bytes]:
        sealer = packet_sealer(
            Encryption.AES256_GCM,
            Mac.NONE,
            iv=iv,
            key=bytes(32),
            mac_key=b"",
            random=lambda size: bytes(size),
        )
        return [sealer.seal(number, PING) for number in range(count)]

    def test_the_gcm_counter_wraps_without_carry(self) -> None:
        """HR-25."""
        fixed = b"\x01\x02\x03\xff"
        start = 2**64 - 2
        packets = self.seal_with_iv(fixed + uint64(start) + b"unused"[:4], 5)
        for number, packet in enumerate(packets):
            nonce = fixed + uint64((start + number) % 2**64)
            plain = AESGCM(bytes(32)).decrypt(nonce, packet[4:], packet[:4])
            assert plain[1 : 1 + len(PING)] == PING
        opener = packet_opener(
            Encryption.AES256_GCM,
            Mac.NONE,
            iv=fixed + uint64(start) + bytes(4),
            key=bytes(32),
            mac_key=b"",
        )
        for number, packet in enumerate(packets):
            assert take(opener, packet, number) == PING

    def test_the_gcm_counter_does_not_depend_on_the_packet_number(self) -> None:
        sealer, opener = AES_GCM.sealer(), AES_GCM.opener()
        for sequence in (7, 7, 0, 2**40):
            assert take(opener, sealer.seal(sequence, PING), 0) == PING

    def test_chacha_refuses_a_number_that_does_not_grow(self) -> None:
        """HR-25."""
        sealer = CHACHA.sealer()
        sealer.seal(5, PING)
        for number in (5, 4, 0):
            with pytest.raises(LocalProtocolError, match=f"packet number {number} .*follow 5"):
                sealer.seal(number, PING)
        assert take(CHACHA.opener(), sealer.seal(6, PING), 6) == PING

    def test_chacha_uses_all_64_bits_of_the_number(self) -> None:
        low, high = CHACHA.sealer().seal(3, PING), CHACHA.sealer().seal(2**32 + 3, PING)
        assert low[4:14] != high[4:14]
        assert take(CHACHA.opener(), high, 2**32 + 3) == PING

    def test_counter_mode_is_one_stream(self) -> None:
        """ALG-06: the keystream runs on over packets."""
        mode = Mode(Encryption.AES256_CTR, Mac.HMAC_SHA2_256_ETM)
        sealer = mode.sealer(random=lambda size: bytes(size))
        bodies = [sealer.seal(number, bytes([7]) * 27)[4:-32] for number in range(3)]
        context = Cipher(algorithms.AES(mode.key), modes.CTR(mode.iv)).decryptor()
        assert context.update(b"".join(bodies)) == (bytes([4]) + bytes([7]) * 27 + bytes(4)) * 3


class TestConstruction:
    @every_mode
    def test_mode_of_the_length_field(self, mode: Mode) -> None:
        """ALG-13, ALG-10."""
        opener = mode.opener()
        assert opener.header_size == (16 if mode.length_is_encrypted else 4)
        assert opener.trailer_size == mode.tag_size

    def build(self, encryption: str, mac: str, iv: bytes, key: bytes, mac_key: bytes) -> None:
        with pytest.raises(ValueError, match=r"not|must"):
            packet_opener(encryption, mac, iv=iv, key=key, mac_key=mac_key)
        with pytest.raises(ValueError, match=r"not|must"):
            packet_sealer(encryption, mac, iv=iv, key=key, mac_key=mac_key, random=os.urandom)

    def test_pairs_that_do_not_protect(self) -> None:
        """HR-19."""
        iv, key = bytes(16), bytes(32)
        self.build(Encryption.AES256_CTR, Mac.NONE, iv, key, b"")
        self.build(Encryption.AES256_CBC, Mac.NONE, iv, key, b"")
        self.build(Encryption.NONE, Mac.HMAC_SHA2_256, b"", b"", key)
        self.build(Encryption.NONE, Mac.HMAC_SHA2_256_ETM, b"", b"", key)

    def test_unknown_names(self) -> None:
        self.build("3des-cbc", Mac.HMAC_SHA2_256, bytes(8), bytes(24), bytes(32))
        self.build(Encryption.AES256_CTR, "hmac-md5", bytes(16), bytes(32), bytes(16))

    @every_mode
    def test_sizes_of_keys(self, mode: Mode) -> None:
        iv, key, mac_key = mode.iv, mode.key, mode.mac_key
        for extra in (b"\x00", b"\x00" * 16):
            self.build(mode.encryption, mode.mac, iv + extra, key, mac_key)
            self.build(mode.encryption, mode.mac, iv, key + extra, mac_key)
            if mac_key:
                self.build(mode.encryption, mode.mac, iv, key, mac_key + extra)
        if key:
            self.build(mode.encryption, mode.mac, iv, key[1:], mac_key)

    @pytest.mark.parametrize("mac", [Mac.NONE, Mac.HMAC_SHA2_256, "no such name"])
    def test_a_cipher_that_authenticates_ignores_the_mac(self, mac: str) -> None:
        for mode in (AES_GCM, CHACHA):
            keys = {"iv": mode.iv, "key": mode.key, "mac_key": b"any"}
            opener = packet_opener(mode.encryption, mac, **keys)
            assert take(opener, mode.sealer().seal(0, PING)) == PING
            sealer = packet_sealer(mode.encryption, mac, random=os.urandom, **keys)
            assert take(mode.opener(), sealer.seal(0, PING)) == PING
