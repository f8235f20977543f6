"""The data types of RFC 4251: exact bytes, round trips, and false lengths."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyssh import wire
from anyssh.errors import WireError

LYING_SIZES = (2**31 - 1, 2**31, 2**32 - 1)

names = st.text(st.sampled_from([chr(c) for c in range(0x21, 0x7F) if c != ord(",")]), min_size=1)


@pytest.mark.parametrize(
    "encoded, expected",
    [
        pytest.param(wire.uint32(0x01020304), "01020304", id="WIO-03 uint32"),
        pytest.param(wire.uint64(0x0102030405060708), "0102030405060708", id="WIO-04 uint64"),
        pytest.param(wire.string("test"), "0000000474657374", id="WIO-05 text"),
        pytest.param(wire.string(""), "00000000", id="WIO-05 empty text"),
        pytest.param(wire.string("日本"), "00000006e697a5e69cac", id="WIO-05 CJK text"),
        pytest.param(wire.string(b"\x00\xff"), "0000000200ff", id="WIO-06 bytes"),
        pytest.param(wire.string(memoryview(b"ab")), "000000026162", id="WIO-06 view"),
        pytest.param(wire.name_list(["a", "b", "c"]), "00000005612c622c63", id="WIO-07 names"),
        pytest.param(wire.name_list([]), "00000000", id="WIO-07 no names"),
        pytest.param(wire.mpint(0), "00000000", id="WIO-08 zero"),
        pytest.param(wire.mpint(127), "000000017f", id="WIO-09 127"),
        pytest.param(wire.mpint(128), "000000020080", id="WIO-09 128"),
        pytest.param(wire.mpint(-1), "00000001ff", id="WIO-10 -1"),
        pytest.param(wire.mpint(-128), "0000000180", id="WIO-10 -128"),
        pytest.param(wire.mpint(-129), "00000002ff7f", id="WIO-10 -129"),
        pytest.param(wire.mpint(-256), "00000002ff00", id="WIO-10 -256"),
        # The examples of RFC 4251 section 5.
        pytest.param(wire.mpint(0x9A378F9B2E332A7), "0000000809a378f9b2e332a7", id="RFC mpint"),
        pytest.param(wire.mpint(-0x1234), "00000002edcc", id="RFC -1234"),
        pytest.param(wire.mpint(-0xDEADBEEF), "00000005ff21524111", id="RFC -deadbeef"),
        pytest.param(
            wire.name_list(["zlib", "none"]), "000000097a6c69622c6e6f6e65", id="RFC names"
        ),
        pytest.param(wire.byte(255), "ff", id="WIO-01 byte"),
        pytest.param(wire.boolean(True) + wire.boolean(False), "0100", id="WIO-02 booleans"),
    ],
)
def test_exact_bytes(encoded: bytes, expected: str) -> None:
    assert encoded.hex() == expected


@pytest.mark.parametrize("value", [0, 1, 42, 127, 128, 255])
def test_byte_takes_exactly_one_byte(value: int) -> None:
    """WIO-01"""
    reader = wire.Reader(wire.byte(value))
    assert reader.byte() == value
    assert reader.remaining == 0
    reader.expect_end()


@pytest.mark.parametrize("value", [0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_uint32_extremes(value: int) -> None:
    """WIO-03"""
    assert wire.Reader(wire.uint32(value)).uint32() == value


def test_uint64_maximum() -> None:
    """WIO-04"""
    assert wire.Reader(b"\xff" * 8).uint64() == 2**64 - 1


def test_every_byte_but_zero_is_true() -> None:
    """WIO-02, RFC 4251 section 5"""
    reader = wire.Reader(bytes(range(256)))
    assert [reader.boolean() for _ in range(256)] == [False] + [True] * 255


@given(st.binary(max_size=300))
def test_strings_round_trip(value: bytes) -> None:
    """WIO-06"""
    reader = wire.Reader(wire.string(value))
    assert reader.string() == value
    reader.expect_end()


@given(st.text(max_size=50))
def test_texts_round_trip(value: str) -> None:
    """WIO-05"""
    encoded = wire.string(value)
    assert wire.Reader(encoded).text() == value
    assert wire.Reader(encoded).lenient_text() == value


@given(st.integers(-(2**2100), 2**2100))
def test_mpints_round_trip(value: int) -> None:
    """WIO-09 to WIO-11; RFC 4251 section 5 forbids superfluous leading bytes."""
    encoded = wire.mpint(value)
    reader = wire.Reader(encoded)
    assert reader.mpint() == value
    reader.expect_end()
    for sign, lead in ((True, b"\x00"), (False, b"\xff")):
        if (value >= 0) is sign:
            with pytest.raises(WireError):
                wire.Reader(wire.string(lead + encoded[4:])).mpint()


def test_mpint_of_256_bytes_with_the_high_bit_set() -> None:
    """WIO-11"""
    value = 1 << 2047
    assert len(wire.mpint(value)) == 4 + 257
    assert wire.Reader(wire.mpint(value)).mpint() == value


@given(st.lists(names.map(lambda name: name[:64]), max_size=20))
def test_name_lists_round_trip(value: list[str]) -> None:
    """WIO-07"""
    reader = wire.Reader(wire.name_list(value))
    assert reader.name_list() == tuple(value)
    reader.expect_end()


def test_mixed_sequence_ends_exactly_at_the_end() -> None:
    """WIO-12, WIO-17"""
    data = (
        wire.byte(7)
        + wire.boolean(True)
        + wire.uint32(1)
        + wire.uint64(2)
        + wire.string("text")
        + wire.string(b"bytes")
        + wire.name_list(("a", "b"))
        + wire.mpint(-5)
        + b"raw"
        + b"rest"
    )
    reader = wire.Reader(data)
    assert (reader.byte(), reader.boolean(), reader.uint32(), reader.uint64()) == (7, True, 1, 2)
    assert (reader.text(), reader.string(), reader.name_list()) == ("text", b"bytes", ("a", "b"))
    assert (reader.mpint(), reader.raw(3), reader.rest()) == (-5, b"raw", b"rest")
    assert reader.offset == len(data)
    reader.expect_end()


def test_many_numbers_join() -> None:
    """WIO-15"""
    data = b"".join(map(wire.uint32, range(1000)))
    assert len(data) == 4000
    reader = wire.Reader(data)
    assert [reader.uint32() for _ in range(1000)] == list(range(1000))


READS: dict[str, tuple[Callable[[wire.Reader], object], bytes]] = {
    "byte": (wire.Reader.byte, wire.byte(1)),
    "boolean": (wire.Reader.boolean, wire.boolean(True)),
    "uint32": (wire.Reader.uint32, wire.uint32(1)),
    "uint64": (wire.Reader.uint64, wire.uint64(1)),
    "raw": (lambda reader: reader.raw(3), b"abc"),
    "string": (wire.Reader.string, wire.string(b"abc")),
    "text": (wire.Reader.text, wire.string("abc")),
    "lenient_text": (wire.Reader.lenient_text, wire.string("abc")),
    "mpint": (wire.Reader.mpint, wire.mpint(2**80)),
    "name_list": (wire.Reader.name_list, wire.name_list(["abc", "d"])),
}


@pytest.mark.parametrize("read, whole", READS.values(), ids=READS)
def test_every_prefix_is_refused(read: Callable[[wire.Reader], object], whole: bytes) -> None:
    """WIO-13, WIO-14, WIO-20: what is short is an error, never zero."""
    for size in range(len(whole)):
        with pytest.raises(WireError):
            read(wire.Reader(whole[:size]))
    read(wire.Reader(whole))


@pytest.mark.parametrize("name", ["string", "text", "lenient_text", "mpint", "name_list"])
def test_a_lying_length_allocates_nothing(name: str) -> None:
    """T-12"""
    read, whole = READS[name]
    size = len(whole) - 4
    tracemalloc.start()
    try:
        for lie in (size + 1, *LYING_SIZES):
            with pytest.raises(WireError):
                read(wire.Reader(wire.uint32(lie) + whole[4:]))
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_values_do_not_alias_the_buffer(kind: Callable[[bytes], wire.Buffer]) -> None:
    source = bytearray(wire.string(b"abc") + b"rest")
    data: wire.Buffer = source if kind is bytearray else kind(source)  # type: ignore[arg-type]
    reader = wire.Reader(data)
    value, rest = reader.string(), reader.rest()
    source[:] = bytes(len(source))
    assert (type(value), type(rest)) == (bytes, bytes)
    assert (value, rest) == (b"abc", b"rest")


def test_reading_starts_at_the_offset() -> None:
    reader = wire.Reader(b"xx\x00\x00\x00\x05", 2)
    assert (reader.offset, reader.remaining, reader.uint32()) == (2, 4, 5)


def test_trailing_bytes_are_told() -> None:
    reader = wire.Reader(b"\x01\x02\x03")
    reader.byte()
    with pytest.raises(WireError, match="2 trailing bytes at offset 1"):
        reader.expect_end()


def test_short_input_is_told() -> None:
    with pytest.raises(WireError, match="expected 4 bytes at offset 0, but only 2 are left"):
        wire.Reader(b"\x01\x02").uint32()


@pytest.mark.parametrize(
    "content", [b"\x00", b"\x00\x00", b"\x00\x7f", b"\xff\x80", b"\xff\xff", b"\x00" * 9]
)
def test_mpint_must_be_minimal(content: bytes) -> None:
    with pytest.raises(WireError):
        wire.Reader(wire.string(content)).mpint()


def test_a_name_that_is_not_utf8_is_refused_and_a_text_is_mended() -> None:
    encoded = wire.string(b"a\xff")
    with pytest.raises(WireError, match="UTF-8"):
        wire.Reader(encoded).text()
    assert wire.Reader(encoded).lenient_text() == "a\ufffd"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b",", id="two empty names"),
        pytest.param(b"a,", id="empty name at the end"),
        pytest.param(b",a", id="empty name at the start"),
        pytest.param(b"a,,b", id="empty name inside"),
        pytest.param(b"a b", id="space"),
        pytest.param(b"a\x00", id="NUL"),
        pytest.param(b"a\x7f", id="DEL"),
        pytest.param("é".encode(), id="not ASCII"),
        pytest.param(b"a" * 65, id="65 characters"),
        pytest.param(b",".join([b"a"] * 257), id="257 names"),
        pytest.param(b",".join([b"a" * 64] * 253), id="more than 16 KiB"),
    ],
)
def test_bad_name_lists_are_refused(content: bytes) -> None:
    """HR-16"""
    with pytest.raises(WireError):
        wire.Reader(wire.string(content)).name_list()


def test_the_largest_name_lists_are_read() -> None:
    """HR-16: 256 names, names of 64 characters."""
    many = tuple(f"n{number}" for number in range(256))
    assert wire.Reader(wire.name_list(many)).name_list() == many
    long = ("x" * 64,) * 252
    assert wire.Reader(wire.name_list(long)).name_list() == long


def test_displayable_leaves_plain_text_alone() -> None:
    assert wire.displayable("plain text, é and 日本") == "plain text, é and 日本"


@given(st.text(max_size=600))
def test_displayable_is_one_short_printable_line(value: str) -> None:
    """HR-06, T-14"""
    shown = wire.displayable(value)
    assert len(shown) <= 256
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a\nb", "a\\nb"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eevil", "\\u202eevil"),
        ("\u2028", "\\u2028"),
        ("\udc80", "\\udc80"),
        ("x" * 1_000_000, "x" * 256),
    ],
)
def test_displayable_escapes_what_moves_a_terminal(text: str, shown: str) -> None:
    assert wire.displayable(text) == shown
