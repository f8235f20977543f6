"""The server side of SOCKS: the requests of every version, in arbitrary pieces, and garbage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyssh import TcpEndpoint
from anyssh.forwarding.socks import SocksReply, SocksServer

GREETING = b"\x05\x01\x00"
BY_NAME = b"\x05\x01\x00\x03\x0bexample.com\x01\xbb"

GOOD = {
    "4": (b"\x04\x01\x00\x50\xc0\x00\x02\x01user\0", TcpEndpoint("192.0.2.1", 80)),
    "4a": (b"\x04\x01\x00\x50\0\0\0\x01\0example.com\0", TcpEndpoint("example.com", 80)),
    "5 by name": (GREETING + BY_NAME, TcpEndpoint("example.com", 443)),
    "5 by IPv4": (
        GREETING + b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x16",
        TcpEndpoint("192.0.2.1", 22),
    ),
    "5 by IPv6": (
        b"\x05\x02\x02\x00" + b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x16",
        TcpEndpoint("::1", 22),
    ),
}


@pytest.mark.parametrize("name", GOOD)
@given(cuts=st.lists(st.integers(0, 60)))
def test_a_request_in_pieces(name: str, cuts: list[int]) -> None:
    data, target = GOOD[name]
    server = SocksServer()
    answer, position = b"", 0
    for end in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        assert not server.is_finished
        answer += server.receive_data(data[position:end])
        position = end
    assert server.is_finished
    assert server.target == target
    assert answer == (b"\x05\x00" if name.startswith("5") else b"")


@pytest.mark.parametrize("name", GOOD)
def test_no_more_is_wanted_than_belongs_to_the_handshake(name: str) -> None:
    """What comes right behind it is for the target."""
    data, target = GOOD[name]
    server = SocksServer()
    while not server.is_finished:
        assert 0 < server.wanted <= len(data)
        chunk, data = data[: server.wanted], data[server.wanted :]
        server.receive_data(chunk)
    assert (server.target, data) == (target, b"")


def test_replies() -> None:
    four, five = SocksServer(), SocksServer()
    four.receive_data(GOOD["4"][0])
    five.receive_data(GOOD["5 by name"][0])
    assert four.reply(SocksReply.GRANTED) == b"\x00\x5a" + bytes(6)
    assert four.reply(SocksReply.NOT_ALLOWED) == b"\x00\x5b" + bytes(6)
    assert five.reply(SocksReply.GRANTED) == b"\x05\x00\x00\x01" + bytes(6)
    assert five.reply(SocksReply.HOST_UNREACHABLE) == b"\x05\x04\x00\x01" + bytes(6)


@pytest.mark.parametrize(
    "data,answer",
    [
        (b"GET / HTTP/1.1\r\n", b""),
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x00", b"\x05\xff"),
        (GREETING + b"\x04\x01\x00\x01", b"\x05\x00"),
        (GREETING + b"\x05\x02\x00\x01" + bytes(6), b"\x05\x00\x05\x07\x00\x01" + bytes(6)),
        (GREETING + b"\x05\x01\x00\x07", b"\x05\x00\x05\x08\x00\x01" + bytes(6)),
        (GREETING + b"\x05\x01\x00\x03\x00\x00\x50", b"\x05\x00\x05\x01\x00\x01" + bytes(6)),
        (GREETING + b"\x05\x01\x00\x03\x01\xff\x00\x50", b"\x05\x00\x05\x01\x00\x01" + bytes(6)),
        (b"\x04\x02\x00\x50\xc0\x00\x02\x01\0", b"\x00\x5b" + bytes(6)),
        (b"\x04\x01\x00\x50\0\0\0\x01\0a b\nc\0", b"\x00\x5b" + bytes(6)),
        (b"\x04\x01\x00\x50\xc0\x00\x02\x01" + b"x" * 2000, b""),
    ],
)
def test_what_is_refused(data: bytes, answer: bytes) -> None:
    server = SocksServer()
    assert server.receive_data(data) == answer
    assert server.is_finished
    assert server.target is None


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_garbage_is_refused_or_waited_for(chunks: list[bytes]) -> None:
    server = SocksServer()
    for chunk in chunks:
        if server.is_finished:
            break
        server.receive_data(chunk)
    assert server.is_finished or len(b"".join(chunks)) <= 1100 + 300
