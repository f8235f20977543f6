"""Parsing destinations, forwards and authorized keys."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import anyssh
from anyssh import TcpEndpoint, UnixEndpoint
from anyssh.cli.authorized import AuthorizedKeys, parse_line
from anyssh.cli.failures import Failure
from anyssh.cli.places import Destination, address, forward
from anyssh.cli.status import Status, duration, size

KEY = anyssh.generate_key("ssh-ed25519", comment="somebody")
LINE = anyssh.export_public_key(KEY).strip()


@pytest.mark.parametrize(
    "text,host,port",
    [
        ("alice@host", "host", 22),
        ("alice@host:2222", "host", 2222),
        ("ssh://alice@host:2222", "host", 2222),
        ("ssh://alice@host/", "host", 22),
        ("alice@::1", "::1", 22),
        ("alice@[::1]", "::1", 22),
        ("alice@[::1]:2222", "::1", 2222),
        ("alice@10.0.0.1", "10.0.0.1", 22),
    ],
)
def test_destinations(text: str, host: str, port: int) -> None:
    assert Destination.parse(text) == Destination("alice", host, port)
    assert Destination.parse(text, 5) == Destination("alice", host, 5)


def test_a_user_with_an_at_sign_in_the_name() -> None:
    assert Destination.parse("alice@corp@host") == Destination("alice@corp", "host")


def test_the_own_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "bob")
    assert Destination.parse("host") == Destination("bob", "host")
    assert str(Destination.parse("host")) == "bob@host:22"


@pytest.mark.parametrize(
    "text",
    ["", "@host", "alice@", "a@host:", "a@host:ssh", "a@host:99999", "a@[::1", "a@-x", "a@b c"],
)  # fmt: skip
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(Failure):
        Destination.parse(text)


DB = TcpEndpoint("db", 5432)


@pytest.mark.parametrize(
    "text,listens,target",
    [
        ("80:db:5432", TcpEndpoint("localhost", 80), DB),
        ("0:db:5432", TcpEndpoint("localhost", 0), DB),
        ("*:80:db:5432", TcpEndpoint("", 80), DB),
        (":80:db:5432", TcpEndpoint("", 80), DB),
        ("10.0.0.1:80:db:5432", TcpEndpoint("10.0.0.1", 80), DB),
        ("[::1]:80:[fe80::1]:22", TcpEndpoint("::1", 80), TcpEndpoint("fe80::1", 22)),
        ("80:/run/db", TcpEndpoint("localhost", 80), UnixEndpoint("/run/db")),
        ("10.0.0.1:80:/run/db", TcpEndpoint("10.0.0.1", 80), UnixEndpoint("/run/db")),
        ("/run/here:db:5432", UnixEndpoint("/run/here"), DB),
        ("/run/here:/run/db", UnixEndpoint("/run/here"), UnixEndpoint("/run/db")),
    ],
)
def test_forwards(text: str, listens: object, target: object) -> None:
    assert forward(text, "-L") == (listens, target)


@pytest.mark.parametrize(
    "text",
    ["", "80:db", "80:db:", "80::5432", "80:db:0", "x:db:80", "1:2:3:4:5", "80:db:70000",
     "/run/here", "/run/here:db", "80:[::1:22", "[80]x:db:1"],
)  # fmt: skip
@pytest.mark.parametrize("option", ["-L", "-R"])
def test_what_is_no_forward(option: str, text: str) -> None:
    with pytest.raises(Failure, match=rf"{option}|port"):
        forward(text, option)


@pytest.mark.parametrize(
    "text,listens",
    [
        ("1080", TcpEndpoint("localhost", 1080)),
        ("0", TcpEndpoint("localhost", 0)),
        ("*:1080", TcpEndpoint("", 1080)),
        ("[::1]:1080", TcpEndpoint("::1", 1080)),
    ],
)
def test_a_proxy_at_the_server(text: str, listens: object) -> None:
    assert forward(text, "-R") == (listens, None)
    with pytest.raises(Failure, match=r"\[address:\]port alone is a SOCKS proxy"):
        forward("/run/here", "-R")
    with pytest.raises(Failure, match="-L"):
        forward(text, "-L")


def test_addresses_to_listen_on() -> None:
    assert address("2222") == TcpEndpoint("localhost", 2222)
    assert address("*:2222") == TcpEndpoint("", 2222)
    assert address("[::1]:0") == TcpEndpoint("::1", 0)
    for wrong in ("", "host", "1:2:3", "a:b"):
        with pytest.raises(Failure):
            address(wrong)


@pytest.mark.parametrize(
    "line",
    [LINE, f"no-pty {LINE}", f"No-PTY,no-X11-forwarding\t{LINE}", f"  {LINE}  ".strip()],
    ids=["bare", "an option", "two options", "spaces"],
)
def test_lines_that_let_somebody_in(line: str) -> None:
    assert parse_line(line) == KEY


@pytest.mark.parametrize(
    "options",
    ["restrict", 'command="ls"', 'command="echo \\"a, b\\" c"', 'no-pty,from="10.0.0.0/8"',
     "cert-authority", "no-port-forwarding", 'permitopen="a:1"', "a-new-one"],
)  # fmt: skip
def test_a_restriction_that_is_not_kept_lets_nobody_in(options: str) -> None:
    with pytest.raises(ValueError, match="is not enforced here"):
        parse_line(f"{options} {LINE}")


@pytest.mark.parametrize(
    "line", ["", "# a comment", f"# {LINE}"], ids=["empty", "comment", "commented key"]
)
def test_lines_that_say_nothing(line: str) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize("line", ["hello", "ssh-ed25519", "ssh-ed25519 AAAA", 'command="x'])
def test_lines_that_make_no_sense(line: str) -> None:
    with pytest.raises((ValueError, anyssh.SSHError)):
        parse_line(line)


def test_a_file_with_a_bad_line_is_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text(f"nonsense\nrestrict {LINE}\n")
    path.chmod(0o600)
    authorized = AuthorizedKeys(path)
    assert asyncio.run(authorized.holds(KEY)) is False
    path.write_text(f"nonsense\n{LINE}\n")
    assert asyncio.run(authorized.holds(KEY)) is True


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_nothing_but_a_line_feed_ends_a_line(separator: str, tmp_path: Path) -> None:
    """Else the comment of a restricted key could let another one in without restrictions."""
    path = tmp_path / "authorized_keys"
    other = anyssh.export_public_key(anyssh.generate_key("ssh-ed25519")).strip()
    restricted = f'command="ls" {other} {separator}{LINE}'
    path.write_bytes(f"{restricted}\n# old:{separator}{LINE}\n".encode())
    path.chmod(0o600)
    assert asyncio.run(AuthorizedKeys(path).holds(KEY)) is False
    path.write_bytes(f"{LINE}{separator}or so\r\n".encode())
    assert asyncio.run(AuthorizedKeys(path).holds(KEY)) is True


def test_a_file_that_others_can_write_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "authorized_keys"
    path.write_text(LINE)
    path.chmod(0o622)
    authorized = AuthorizedKeys(path)
    assert asyncio.run(authorized.holds(KEY)) is False
    with pytest.raises(Failure, match="chmod go-w"):
        asyncio.run(authorized.read())


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_file_that_others_can_replace_lets_nobody_in(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "authorized_keys"
    path.write_text(LINE)
    path.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(path)
    for mode, lets_in in ((0o755, True), (0o777, False), (0o770, False), (0o1777, True)):
        folder.chmod(mode)
        for each in (path, link):
            assert asyncio.run(AuthorizedKeys(each).holds(KEY)) is lets_in
    if os.geteuid() == 0:
        os.chown(path, 4242, -1)
        with pytest.raises(Failure, match="belongs to another user"):
            asyncio.run(AuthorizedKeys(path).read())


def test_words_for_amounts() -> None:
    assert [size(amount) for amount in (0, 999, 1000, 1_234_567)] == [
        "0 B", "999 B", "1 kB", "1.23 MB",
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (0.4, 59, 61, 3700)] == [
        "0 s", "59 s", "1 min 1 s", "1 h 1 min",
    ]  # fmt: skip
    shown = str(Status(sent=1000, latency=1.25, connections=1, reconnections=2))
    assert shown == (
        "connected  up 0 B/s  down 0 B/s  latency 1.2 ms  1 connection  2 reconnections  "
        "1 kB in total"
    )
    assert str(Status(lost_for=5)).startswith("NOT CONNECTED for 5 s  ")
