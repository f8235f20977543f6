"""Lines of known_hosts: what they match, what they mean, what is wrong with them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyssh.keys import Key, generate_key
from anyssh.keys.known_hosts import (
    HostMarker,
    KnownHostsEntry,
    hashed_name,
    host_name,
    known_hosts_line,
    read_known_hosts,
)
from anyssh.wire import string

KEY = generate_key("ssh-ed25519").public()
RSA = generate_key("ssh-rsa", bits=2048).public()
BLOB = base64.b64encode(KEY.public_blob).decode()
DSS = base64.b64encode(string("ssh-dss") + bytes(40)).decode()
SECURITY_KEY = "sk-ssh-ed25519@openssh.com"


def entry_of(line: str) -> KnownHostsEntry:
    (entry,), problems = read_known_hosts(line, "file")
    assert problems == []
    return entry


def with_names(names: str) -> KnownHostsEntry:
    return entry_of(f"{names} ssh-ed25519 {BLOB}")


# Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host,port,name",
    [
        ("example.org", 22, "example.org"),
        ("Example.ORG", 22, "example.org"),
        ("example.org", 2222, "[example.org]:2222"),
        ("10.0.0.1", 22, "10.0.0.1"),
        ("::1", 22, "::1"),
        ("fe80::1%eth0", 443, "[fe80::1%eth0]:443"),
        ("bücher", 22, "bücher"),
    ],
)
def test_the_name_of_a_host_at_a_port(host: str, port: int, name: str) -> None:
    assert host_name(host, port) == name


BAD_HOSTS = [
    "",
    "a b",
    "a\nb",
    "a\rb",
    "a,b",
    "*",
    "a?",
    "!a",
    "|1|a",
    "#a",
    "@revoked",
    "[a]",
    "a\t",
    "a\x00",
    "a\u2028b",
    "\u202ea",
    "\udc80",
]


@pytest.mark.parametrize("host", BAD_HOSTS, ids=ascii)
def test_what_cannot_be_the_name_of_a_host(host: str) -> None:
    with pytest.raises(ValueError, match="not the name") as caught:
        host_name(host, 22)
    assert str(caught.value).isprintable()


def test_a_port_behind_the_host_is_no_part_of_its_name() -> None:
    with pytest.raises(ValueError, match="port of 'host:2222' separately"):
        host_name("host:2222", 22)


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_what_cannot_be_a_port(port: int) -> None:
    with pytest.raises(ValueError, match="port"):
        host_name("host", port)


@pytest.mark.parametrize(
    "names,matching,others",
    [
        ("host", ["host"], ["hosts", "hos", "[host]:2222"]),
        ("HOST.example", ["host.example"], []),
        ("a,b", ["a", "b"], ["a,b", "ab"]),
        ("*.example.org", ["www.example.org", ".example.org", "a.b.example.org"], ["example.org"]),
        ("h?st", ["host", "h?st"], ["hst", "hoost"]),
        ("*", ["host", "[host]:2222", "::1"], []),
        ("*,!bad", ["good"], ["bad"]),
        ("!bad,*", ["good"], ["bad"]),
        ("*.org,!*.evil.org", ["good.org"], ["very.evil.org"]),
        ("!bad", [], ["bad", "good"]),
        ("[host]:2222", ["[host]:2222"], ["host", "h", "[host]:22"]),
        ("[*.org]:2222", ["[a.org]:2222"], ["[a.org]:2223", "a.org"]),
        ("[a-z]", ["[a-z]"], ["b"]),
        ("10.0.0.*", ["10.0.0.7"], ["10.0.1.7"]),
        ("a,,b", ["a", "b"], ["a,,b"]),
    ],
)
def test_names_match(names: str, matching: list[str], others: list[str]) -> None:
    entry = with_names(names)
    assert [name for name in matching + others if entry.matches(name)] == matching


@given(
    st.text("ab.*?[]!", min_size=1, max_size=8).filter(lambda text: text[0] not in "!"),
    st.text("ab.[]!", max_size=8),
)
def test_patterns_match_as_a_regular_expression_says(pattern: str, name: str) -> None:
    model = "".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in pattern)
    assert with_names(pattern).matches(name) is bool(re.fullmatch(model, name))


def test_no_pattern_takes_long() -> None:
    entry = with_names("*a" * 500)
    started = time.process_time()
    assert not entry.matches("a" * 5000 + "b")
    assert time.process_time() - started < 5


# Hashed names -----------------------------------------------------------------------------------


def test_the_hash_of_a_name() -> None:
    salt = bytes(range(20))
    digest = hmac.new(salt, b"[host]:2222", hashlib.sha1).digest()
    expected = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
    assert hashed_name("[host]:2222", salt) == expected
    entry = with_names(expected)
    assert entry.matches("[host]:2222")
    assert not any(map(entry.matches, ["host", "[host]:22", "[Host]:2222", expected]))


@given(host=st.text("abc.-", min_size=1, max_size=30), port=st.integers(1, 65535))
def test_hashed_lines_are_read_again(host: str, port: int) -> None:
    name = host_name(host, port)
    entry = entry_of(known_hosts_line(hashed_name(name, bytes(20)), KEY))
    assert entry.matches(name)
    assert not entry.matches(name + "x")
    assert entry.key == KEY


# Lines ------------------------------------------------------------------------------------------


def test_a_line_has_names_a_type_a_key_and_perhaps_a_comment() -> None:
    text = f"# first\n\n  host,other\tssh-ed25519 {BLOB}  two  words \r\n\t# last\nrsa ssh-rsa "
    text += base64.b64encode(RSA.public_blob).decode()
    entries, problems = read_known_hosts(text, "/etc/hosts.known")
    assert problems == []
    assert [(entry.line, entry.names, entry.key, entry.key_type) for entry in entries] == [
        (3, "host,other", KEY, "ssh-ed25519"),
        (5, "rsa", RSA, "ssh-rsa"),
    ]
    assert [str(entry) for entry in entries] == ["/etc/hosts.known:3", "/etc/hosts.known:5"]
    assert [entry.key.comment for entry in entries if entry.key] == ["two  words", ""]
    assert {entry.marker for entry in entries} == {HostMarker.HOST_KEY}


def test_markers() -> None:
    assert entry_of(f"@revoked * ssh-ed25519 {BLOB}").marker is HostMarker.REVOKED
    authority = entry_of(f"@cert-authority\t*.org  ssh-ed25519 {BLOB} the CA")
    assert authority.marker is HostMarker.CERT_AUTHORITY
    assert authority.matches("a.org")


@pytest.mark.parametrize("key_type,blob", [("ssh-dss", DSS), (SECURITY_KEY, None)])
def test_keys_of_other_types_are_no_problem(key_type: str, blob: str | None) -> None:
    blob = blob or base64.b64encode(string(key_type) + b"whatever").decode()
    entry = entry_of(f"host {key_type} {blob}")
    assert (entry.key, entry.key_type) == (None, key_type)


PROBLEMS = {
    "host": "expected",
    "host ssh-ed25519": "expected",
    f"ssh-ed25519 {BLOB}": "expected",
    f"@unknown host ssh-ed25519 {BLOB}": "unknown marker",
    "@revoked": "expected",
    f"@revoked host {BLOB}": "expected",
    f"@ host ssh-ed25519 {BLOB}": "unknown marker",
    f"host ssh-rsa {BLOB}": "not of the type 'ssh-rsa'",
    f"host ssh-ed25519 {BLOB[:-8]}": "not a public key",
    f"host ssh-ed25519 {BLOB}AAAA": "not a public key",
    f"host ssh-ed25519 {BLOB[:-1]}": "base64",
    "host ssh-ed25519 ****": "base64",
    "host ssh-ed25519 AA==": "expected 4 bytes",
    "host 1024 37 1354673": "base64",
    f"|1|onlyone ssh-ed25519 {BLOB}": "not a hashed name",
    f"|2|AAAA|AAAA ssh-ed25519 {BLOB}": "not a hashed name",
    f"|1|AAAA|AAAA ssh-ed25519 {BLOB}": "20 bytes",
    f"|1||{base64.b64encode(bytes(20)).decode()} ssh-ed25519 {BLOB}": "a salt",
    f"|1|*|* ssh-ed25519 {BLOB}": "base64",
    "\x00\x1b[31m x y": "base64",
    "host ssh-rsa "
    + base64.b64encode(
        string("ssh-rsa") + string(b"\x03") + string(b"\x7f" * 127 + b"\x01")
    ).decode(): "2048",
}


@pytest.mark.parametrize("line", PROBLEMS, ids=map(str, range(len(PROBLEMS))))
def test_what_is_wrong_is_reported_and_the_rest_is_read(line: str) -> None:
    good = f"host ssh-ed25519 {BLOB}"
    entries, (problem,) = read_known_hosts(f"{good}\n{line}\n{good}", "file")
    assert [entry.line for entry in entries] == [1, 3]
    assert (problem.path, problem.line) == ("file", 2)
    assert PROBLEMS[line] in problem.message
    assert str(problem) == f"file:2: {problem.message}"
    assert str(problem).isprintable()


SAMPLE = "\n".join(
    [
        "# comment",
        known_hosts_line("host,*.org", KEY.with_comment("comment")),
        "@revoked * " + known_hosts_line("", RSA).strip(),
        known_hosts_line(hashed_name("host", bytes(20)), KEY),
        f"host ssh-dss {DSS}",
    ]
).encode()


@given(st.data())
def test_no_damage_raises(data: st.DataObject) -> None:
    damaged = bytearray(SAMPLE[: data.draw(st.integers(0, len(SAMPLE)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            place = data.draw(st.integers(0, len(damaged) - 1))
            damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    check_reading(damaged.decode(errors="replace"))


@given(st.text(max_size=200))
def test_garbage_does_not_raise(text: str) -> None:
    check_reading(text)


def check_reading(text: str) -> None:
    entries, problems = read_known_hosts(text, "file")
    for entry in entries:
        assert entry.matches("host") in (True, False)
        assert entry.key is None or isinstance(entry.key, Key)
    lines = {entry.line for entry in entries} | {problem.line for problem in problems}
    assert len(lines) == len(entries) + len(problems)
    assert lines <= set(range(1, text.count("\n") + 2))


def test_a_comment_cannot_begin_a_line() -> None:
    evil = KEY.with_comment("x\n* ssh-ed25519 AAAA\u2028y")
    line = known_hosts_line("host", evil)
    assert "\n" not in line
    assert entry_of(line).key == KEY


def test_ten_thousand_lines_are_read_in_bounded_time() -> None:
    text = "\n".join(
        known_hosts_line(hashed_name(f"host{number}", bytes(20)), KEY) for number in range(10_000)
    )
    started = time.process_time()
    entries, _ = read_known_hosts(text, "file")
    read = time.process_time() - started
    assert sum(entry.matches("host77") for entry in entries) == 1
    matched = time.process_time() - started - read
    assert (read < 10, matched < 2) == (True, True), (read, matched)
