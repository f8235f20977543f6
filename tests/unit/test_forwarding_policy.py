"""What a policy permits: patterns of hosts, ports and paths, and the addresses behind a name."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyssh import ForwardingPolicy, ForwardingRequest, TcpEndpoint, UnixEndpoint
from anyssh.forwarding.endpoints import Endpoint


async def yes(request: object) -> bool:
    return True


def connects(patterns: list[str], endpoint: Endpoint) -> bool:
    return ForwardingPolicy(connect_to=patterns).may_connect(endpoint)


def listens(patterns: list[str], host: str, port: int) -> bool:
    return ForwardingPolicy(listen_on=patterns).may_listen(TcpEndpoint(host, port))


EVERYTHING = [
    TcpEndpoint("example.com", 80),
    TcpEndpoint("10.0.0.1", 22),
    TcpEndpoint("localhost", 80),
    TcpEndpoint("127.0.0.1", 1),
    TcpEndpoint("::1", 1),
    TcpEndpoint("169.254.169.254", 80),
    TcpEndpoint("fe80::1%2", 80),
    TcpEndpoint("0.0.0.0", 80),
    TcpEndpoint("::ffff:127.0.0.1", 80),
    UnixEndpoint("/run/docker.sock"),
]


@pytest.mark.parametrize("endpoint", EVERYTHING, ids=str)
def test_nothing_by_default_and_all_with_allow_all(endpoint: Endpoint) -> None:
    nothing = ForwardingPolicy()
    assert not nothing.may_connect(endpoint)
    assert not nothing.may_listen(endpoint)
    everything = ForwardingPolicy.allow_all()
    assert everything.may_connect(endpoint)
    assert everything.may_listen(endpoint)
    asked = ForwardingPolicy(decide=yes)
    assert asked.may_connect(endpoint)
    assert asked.may_listen(endpoint)
    no_lists = ForwardingPolicy(connect_to=[], listen_on=[], decide=yes)
    assert not no_lists.may_connect(endpoint)
    assert not no_lists.may_listen(endpoint)


@pytest.mark.parametrize(
    "pattern,host,port,allowed",
    [
        ("db.internal:5432", "db.internal", 5432, True),
        ("db.internal:5432", "DB.Internal.", 5432, True),
        ("db.internal:5432", "db.internal", 5433, False),
        ("db.internal:5432", "evil.db.internal", 5432, False),
        ("*.internal:*", "db.internal", 1, True),
        ("*.internal:*", "internal", 1, False),
        ("*:443", "example.com", 443, True),
        ("*:443", "10.1.2.3", 443, True),
        ("*:443", "2001:db8::1", 443, True),
        ("*:443", "example.com", 80, False),
        ("*:8000-8002", "example.com", 8001, True),
        ("*:8000-8002", "example.com", 8003, False),
        ("10.0.0.0/8:22", "10.9.8.7", 22, True),
        ("10.0.0.0/8:22", "11.0.0.1", 22, False),
        ("10.0.0.0/8:22", "example.com", 22, False),
        ("[2001:db8::/32]:22", "2001:db8::7", 22, True),
        ("[2001:db8::7]:22", "2001:DB8:0::7", 22, True),
        # Nothing but itself covers this machine and its link.
        ("*:*", "localhost", 80, False),
        ("*:*", "127.0.0.1", 80, False),
        ("*:*", "127.8.9.1", 80, False),
        ("*:*", "::1", 80, False),
        ("*:*", "::ffff:127.0.0.1", 80, False),
        ("*:*", "::", 80, False),
        ("*:*", "0.0.0.0", 80, False),
        ("*:*", "169.254.169.254", 80, False),
        ("*:*", "fe80::1%eth0", 80, False),
        ("*:*", "224.0.0.1", 80, False),
        ("*:*", "", 80, False),
        ("localhost:80", "localhost", 80, True),
        ("localhost:80", "LOCALHOST", 80, True),
        ("localhost:80", "127.0.0.1", 80, True),
        ("localhost:80", "::1", 80, True),
        ("localhost:80", "127.0.0.1", 81, False),
        ("127.0.0.1:80", "127.0.0.1", 80, True),
        ("127.0.0.1:80", "127.0.0.2", 80, False),
        ("127.0.0.1:80", "localhost", 80, False),
        ("169.254.169.254:80", "169.254.169.254", 80, True),
    ],
)
def test_where_to_connect(pattern: str, host: str, port: int, allowed: bool) -> None:
    """HR-75, T-40."""
    assert connects([pattern], TcpEndpoint(host, port)) is allowed
    assert connects(["other:1", pattern], TcpEndpoint(host, port)) is allowed
    assert not connects([pattern], UnixEndpoint("/" + host))


@pytest.mark.parametrize(
    "patterns,name,address,allowed",
    [
        (["*:*"], "example.com", "93.184.216.34", True),
        (["*:*"], "example.com", "10.0.0.1", True),
        # A name that turns out to be ourselves, or the link.
        (["*:*"], "example.com", "127.0.0.1", False),
        (["*:*"], "2130706433", "127.0.0.1", False),
        (["*:*"], "example.com", "::1", False),
        (["*:*"], "example.com", "169.254.169.254", False),
        (["example.com:80"], "example.com", "0.0.0.0", False),
        (["example.com:80", "127.0.0.1:80"], "example.com", "127.0.0.1", True),
        (["example.com:80", "127.0.0.1:81"], "example.com", "127.0.0.1", False),
        (["example.com:80", "localhost:80"], "example.com", "::1", True),
        (["localhost:80"], "localhost", "127.0.0.1", True),
        (["localhost:80"], "localhost", "::1", True),
        (["localhost:80"], "localhost", "169.254.1.1", False),
        (["169.254.0.0/16:80"], "169.254.1.1", "169.254.1.1", True),
        (None, "example.com", "127.0.0.1", False),
        (None, "127.0.0.1", "127.0.0.1", True),
        (None, "localhost", "127.0.0.1", True),
    ],
)
def test_addresses_of_a_name(
    patterns: list[str] | None, name: str, address: str, allowed: bool
) -> None:
    """HR-75, T-40."""
    policy = ForwardingPolicy(connect_to=patterns, decide=yes)
    assert policy.may_use_address(TcpEndpoint(name, 80), ip_address(address)) is allowed


@pytest.mark.parametrize(
    "pattern,host,port,allowed",
    [
        ("localhost:*", "localhost", 8080, True),
        ("localhost:*", "127.0.0.1", 0, True),
        ("localhost:*", "127.0.0.9", 8080, True),
        ("localhost:*", "::1", 8080, True),
        ("localhost:*", "localhost", 80, False),
        ("localhost:80", "localhost", 80, True),
        ("localhost:0-65535", "localhost", 80, True),
        ("localhost:*", "", 8080, False),
        ("localhost:*", "0.0.0.0", 8080, False),
        ("localhost:*", "::", 8080, False),
        ("localhost:*", "192.0.2.1", 8080, False),
        ("*:8080", "", 8080, True),
        ("*:8080", "0.0.0.0", 8080, True),
        ("*:8080", "192.0.2.1", 8080, True),
        ("*:8080", "", 8081, False),
        ("*:*", "", 80, False),
        ("0.0.0.0:8080", "0.0.0.0", 8080, True),
        ("0.0.0.0:8080", "192.0.2.1", 8080, False),
        ("192.0.2.0/24:8080", "192.0.2.1", 8080, True),
        ("192.0.2.0/24:8080", "0.0.0.0", 8080, False),
    ],
)
def test_where_to_listen(pattern: str, host: str, port: int, allowed: bool) -> None:
    """HR-76, T-41."""
    assert listens([pattern], host, port) is allowed


@pytest.mark.parametrize(
    "pattern,path,allowed",
    [
        ("/run/docker.sock", "/run/docker.sock", True),
        ("/run/docker.sock", "/run/docker.sock2", False),
        ("/run/*.sock", "/run/x.sock", True),
        ("/run/*", "/run/../etc/x", False),
        ("/run/*", "/run//x", False),
        ("/run/*", "/run/./x", False),
        ("/*", "/anything/at/all", True),
        ("*:*", "/run/x", False),
    ],
)
def test_paths(pattern: str, path: str, allowed: bool) -> None:
    policy = ForwardingPolicy(connect_to=[pattern], listen_on=[pattern])
    assert policy.may_connect(UnixEndpoint(path)) is allowed
    assert policy.may_listen(UnixEndpoint(path)) is allowed


@pytest.mark.parametrize(
    "pattern",
    ["", "host", ":80", "host:", "host:x", "host:70000", "host:9-8", "::1:80", "10.0.0.0/99:1"],
)
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|network|port"):
        ForwardingPolicy(connect_to=[pattern])
    with pytest.raises(ValueError, match="list of patterns"):
        ForwardingPolicy(listen_on=pattern)


@pytest.mark.parametrize("pattern", ["192.168.1.*:80", "10.*:*", "*.1:22", "10.0.0.?:22"])
def test_no_name_passes_for_an_address(pattern: str) -> None:
    """HR-75: whoever has a domain can have 192.168.1.example.com lead to any host."""
    with pytest.raises(ValueError, match="names"):
        ForwardingPolicy(connect_to=[pattern])
    with pytest.raises(ValueError, match="names"):
        ForwardingPolicy(listen_on=[pattern])
    assert connects(["web*.example:*", "*.10.example:*", "*:*"], TcpEndpoint("web7.example", 1))


@given(st.text(), st.integers(0, 65535))
def test_no_text_is_more_than_refused(host: str, port: int) -> None:
    """Whatever a host is called, patterns of others do not cover this machine."""
    endpoint = TcpEndpoint(host, port)
    policy = ForwardingPolicy(connect_to=["192.0.2.0/24:*", "*.example.com:*"])
    if policy.may_connect(endpoint):
        assert host.lower().rstrip(".").endswith(".example.com") or host.startswith("192.0.2.")


async def decide(request: ForwardingRequest) -> bool:
    return request.originator is not None


DECISIONS: list[dict[str, Any]] = [{"connect_to": []}, {"listen_on": ["*:*"]}, {"decide": decide}]


@pytest.mark.parametrize("decision", DECISIONS)
def test_what_is_passed_on_is_not_decided(decision: dict[str, Any]) -> None:
    assert ForwardingPolicy(passes_on=True).passes_on
    with pytest.raises(ValueError, match="passes_on cannot be combined"):
        ForwardingPolicy(passes_on=True, **decision)
