"""Configurations: their defaults, what they reject, and that they are immutable."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from anyssh.config import InsecureSessionConfig, Limits, SessionConfig
from anyssh.identification import PeerVersion

LISTS = {
    "key_exchanges": (
        "mlkem768x25519-sha256",
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
        "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp256",
        "ecdh-sha2-nistp521",
    ),
    "host_key_algorithms": (
        "ssh-ed25519",
        "rsa-sha2-512",
        "rsa-sha2-256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp521",
    ),
    "encryptions": (
        "aes256-gcm@openssh.com",
        "aes128-gcm@openssh.com",
        "chacha20-poly1305@openssh.com",
        "aes256-ctr",
        "aes192-ctr",
        "aes128-ctr",
    ),
    "macs": (
        "hmac-sha2-512-etm@openssh.com",
        "hmac-sha2-256-etm@openssh.com",
        "hmac-sha2-512",
        "hmac-sha2-256",
    ),
    "compressions": ("none",),
    "authentication_methods": ("publickey", "password", "keyboard-interactive"),
}
OPT_IN = {
    "key_exchanges": ("diffie-hellman-group16-sha512", "diffie-hellman-group14-sha256"),
    "encryptions": ("aes256-cbc",),
    "authentication_methods": ("hostbased", "none"),
}
PRESETS = [SessionConfig, SessionConfig.with_reconnect, InsecureSessionConfig]


@pytest.mark.parametrize("field", LISTS)
def test_default_preferences(field: str) -> None:
    """CFG-01 to CFG-05, CFG-13, HR-24, HR-34: modern ones, then the Dev Tunnels family's order."""
    assert getattr(SessionConfig(), field) == LISTS[field]


@pytest.mark.parametrize("field", OPT_IN)
def test_what_must_be_asked_for(field: str) -> None:
    """CFG-01, CFG-03, CFG-05"""
    for name in OPT_IN[field]:
        changes: dict[str, Any] = {field: [name]}
        assert getattr(SessionConfig(**changes), field) == (name,)


def test_default_numbers() -> None:
    """CFG-07, HR-59, WIN-01"""
    config = SessionConfig()
    assert config.limits.authentication_failures == 5
    assert not config.guess_key_exchange
    assert config.keep_alive_interval == 0
    assert config.rekey_bytes == 512 * 1024 * 1024
    assert config.window_size == 1024 * 1024


def test_packets_are_larger_among_ourselves() -> None:
    """WIN-01: 32 KiB, but for others of our kind"""
    ours = PeerVersion.parse("SSH-2.0-anyssh_0.1")
    theirs = PeerVersion.parse("SSH-2.0-anyssh-like_0.1")
    config = SessionConfig()
    assert config.packet_size_with(None) == config.packet_size_with(theirs) == 32 * 1024
    assert config.packet_size_with(ours) == 128 * 1024
    assert SessionConfig(max_packet_size=2048).packet_size_with(ours) == 2048
    assert SessionConfig(window_size=64 * 1024).packet_size_with(ours) == 64 * 1024
    strict = SessionConfig(limits=Limits(packet_size=48 * 1024))
    assert strict.packet_size_with(ours) == 47 * 1024


def test_extensions() -> None:
    """CFG-06"""
    reconnecting = SessionConfig.with_reconnect(window_size=2**21)
    added = set(reconnecting.extensions) - set(SessionConfig().extensions)
    assert "server-sig-algs" in SessionConfig().extensions
    assert set(SessionConfig().extensions) <= set(reconnecting.extensions)
    assert {"session-reconnect@microsoft.com", "session-latency@microsoft.com"} <= added
    assert reconnecting.window_size == 2**21
    assert reconnecting.replace(extensions=SessionConfig().extensions) == SessionConfig(
        window_size=2**21
    )


def test_without_protection_everything_is_none() -> None:
    """CFG-08, HR-60"""
    insecure = InsecureSessionConfig()
    for field in ("key_exchanges", "host_key_algorithms", "encryptions", "macs", "compressions"):
        assert getattr(insecure, field) == ("none",)
    assert insecure.extensions == SessionConfig().extensions
    assert (insecure.is_secure, SessionConfig().is_secure) == (False, True)
    with pytest.raises(ValueError, match="without encryption"):
        InsecureSessionConfig.with_reconnect()


@pytest.mark.parametrize("preset", PRESETS, ids=["default", "reconnect", "insecure"])
def test_nobody_changes_a_configuration(preset: Any) -> None:
    """CFG-09, CFG-11, CFG-12: so sessions may share one, and it may be kept or thrown away."""
    config = preset()
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, getattr(config, field.name))
    for field in dataclasses.fields(config.limits):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config.limits, field.name, 1)
    assert config == preset()
    assert hash(config) == hash(preset())


def test_a_list_may_change_once_it_was_given() -> None:
    """CFG-09"""
    names, extensions = ["aes256-ctr"], ["server-sig-algs"]
    config = SessionConfig(encryptions=names, extensions=extensions)
    names.append("none")
    extensions.clear()
    assert config.encryptions == ("aes256-ctr",)
    assert config.extensions == ("server-sig-algs",)


@pytest.mark.parametrize("field", LISTS)
def test_lists_are_neither_empty_nor_repetitive(field: str) -> None:
    """CFG-10: ciphers or MACs without a key exchange cannot even be named."""
    changes: dict[str, Any] = {field: []}
    with pytest.raises(ValueError, match=f"{field} is empty"):
        SessionConfig(**changes)
    changes = {field: [*LISTS[field], LISTS[field][0]]}
    with pytest.raises(ValueError, match=f"{field} names an entry twice"):
        SessionConfig(**changes)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"max_packet_size": 1023}, "max_packet_size"),
        ({"max_packet_size": 256 * 1024}, "max_packet_size"),
        ({"window_size": 32 * 1024 - 1}, "window_size"),
        ({"window_size": 2**32}, "window_size"),
        # Keys never last for ever (ROT-03 is another library's choice).
        ({"rekey_bytes": 0}, "rekey"),
        ({"rekey_packets": 0}, "rekey"),
        ({"rekey_packets": 2**31 + 1}, "rekey"),
        ({"rekey_time": 0.0}, "rekey"),
        ({"rekey_time": math.nan}, "rekey"),
        ({"keep_alive_interval": -1.0}, "keep_alive"),
        ({"keep_alive_interval": math.nan}, "keep_alive"),
        ({"keep_alive_count": 0}, "keep_alive"),
    ],
    ids=str,
)
def test_numbers_that_make_no_sense(changes: dict[str, Any], told: str) -> None:
    """CFG-10"""
    for build in (SessionConfig, SessionConfig().replace, InsecureSessionConfig):
        with pytest.raises(ValueError, match=told):
            build(**changes)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
def test_limits_are_positive(name: str) -> None:
    """CFG-10"""
    for value in (0, -1, math.nan):
        changes: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            Limits(**changes)


def test_packets_have_at_most_1_mib() -> None:
    """PKT-05"""
    assert Limits(packet_size=2**20).packet_size == 2**20
    with pytest.raises(ValueError, match="1 MiB"):
        Limits(packet_size=2**20 + 1)
