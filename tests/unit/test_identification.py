"""Identification strings: parsing, and what is rejected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyssh.identification import PeerVersion, local_identification


def test_our_own_line() -> None:
    """VER-01"""
    line = local_identification("0.1.0")
    assert line == "SSH-2.0-anyssh_0.1.0"
    own = PeerVersion.parse(line)
    assert (own.protocol, own.name, own.version) == ("2.0", "anyssh", "0.1.0")
    assert not own.is_dev_tunnels


@pytest.mark.parametrize(
    "software, name, version",
    [
        pytest.param("dev-tunnels-ssh_1.2", "dev-tunnels-ssh", "1.2", id="VER-02 TypeScript"),
        pytest.param(
            "Microsoft.DevTunnels.Ssh_3.10", "Microsoft.DevTunnels.Ssh", "3.10", id="VER-02 C#"
        ),
        pytest.param("dev-tunnels-ssh-go_0.1", "dev-tunnels-ssh-go", "0.1", id="VER-02 Go"),
        pytest.param("OpenSSH_7.9", "OpenSSH", "7.9", id="VER-02 OpenSSH"),
        pytest.param("dev-tunnels-ssh_3.12.42", "dev-tunnels-ssh", "3.12.42", id="three numbers"),
        pytest.param("OpenSSH_for_Windows_8.1", "OpenSSH for Windows", "8.1", id="VER-03"),
        pytest.param("OpenSSH_9.2p1 Debian-2+deb12u3", "OpenSSH", "9.2", id="VER-04 Debian"),
        pytest.param("OpenSSH_7.9p1 Debian-10+deb10u2", "OpenSSH", "7.9", id="VER-04 underscore"),
        pytest.param("OpenSSH_7.7.7x1 extra", "OpenSSH", "7.7.7", id="VER-04 extra"),
        pytest.param("OpenSSH_7.7 with_underscore", "OpenSSH", "7.7", id="underscore in comment"),
        pytest.param("test", "test", "", id="VER-05 name only"),
        pytest.param("test_extra", "test", "", id="VER-05 no version"),
        pytest.param("dropbear_2022.83", "dropbear", "2022.83", id="dropbear"),
        pytest.param("PuTTY_Release_0.78", "PuTTY Release", "0.78", id="PuTTY"),
        pytest.param("test_7", "test", "", id="no dotted number"),
    ],
)
def test_software_is_split(software: str, name: str, version: str) -> None:
    peer = PeerVersion.parse(f"SSH-2.0-{software}")
    assert (peer.protocol, peer.name, peer.version) == ("2.0", name, version)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="VER-06 empty"),
        pytest.param("not-ssh", id="VER-06 not SSH"),
        pytest.param("SSH-abc-test", id="VER-06 protocol is no number"),
        pytest.param("SSH-test", id="VER-06 two parts"),
        pytest.param("HTTP-2.0-test", id="VER-06 HTTP"),
        pytest.param("SSH-2.0-", id="no software"),
        pytest.param("ssh-2.0-test", id="lower case"),
        pytest.param("SSH-2.0-test\n", id="line end"),
        pytest.param("SSH-2.0-te\x00st", id="NUL"),
        pytest.param("SSH-2.0-te\x1bst", id="escape"),
        pytest.param("SSH-2.0-té", id="not ASCII"),
        pytest.param("SSH-\uff12.\uff10-test", id="digits of another script"),
        pytest.param(" SSH-2.0-test", id="space before"),
    ],
)
def test_what_is_no_identification(text: str) -> None:
    with pytest.raises(ValueError, match="not an SSH identification"):
        PeerVersion.parse(text)


def test_the_error_is_short() -> None:
    with pytest.raises(ValueError, match="not an SSH identification") as caught:
        PeerVersion.parse("\x1b" * 100_000)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("protocol", ["2.0", "1.99", "1.5"])
def test_the_protocol_is_told_not_judged(protocol: str) -> None:
    assert PeerVersion.parse(f"SSH-{protocol}-test").protocol == protocol


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=200))
def test_the_text_is_kept_as_it_came(software: str) -> None:
    """VER-07: the line takes part in the exchange hash."""
    text = f"SSH-2.0-{software}"
    peer = PeerVersion.parse(text)
    assert str(peer) == peer.text == text
    assert "_" not in peer.name


@pytest.mark.parametrize(
    "name, family, go",
    [
        ("Microsoft.DevTunnels.Ssh_3.12", True, False),
        ("Microsoft.VisualStudio.Ssh_3.12", True, False),
        ("dev-tunnels-ssh_3.12.42", True, False),
        ("dev-tunnels-ssh_", True, False),
        ("dev-tunnels-ssh", True, False),
        ("vs-ssh_1.0", True, False),
        ("dev-tunnels-ssh-go_0.1", True, True),
        ("OpenSSH_9.2", False, False),
        ("other_1.0", False, False),
        ("dev-tunnels-ssh-go-fork_0.1", False, False),
    ],
)
def test_the_dev_tunnels_family(name: str, family: bool, go: bool) -> None:
    """VER-08"""
    peer = PeerVersion.parse(f"SSH-2.0-{name}")
    assert (peer.is_dev_tunnels, peer.is_dev_tunnels_go) == (family, go)
