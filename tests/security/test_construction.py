"""What does not exist cannot be attacked: compression, nonces of our own, default addresses."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import anyssh
from anyssh.constants import DisconnectReason
from anyssh.messages import KexInit
from anyssh.protocol import Role
from anyssh.wire import Reader
from tests.protocol.core_pair import CorePair

PACKAGE = Path(anyssh.__file__).parent


@pytest.mark.parametrize("name", ["zlib", "zlib@openssh.com"])
@pytest.mark.parametrize("role", Role)
def test_compression_is_neither_offered_nor_accepted(role: Role, name: str) -> None:
    """HR-28: a peer that insists on it is told that there is nothing in common."""
    with pytest.raises(ValueError, match=name):
        anyssh.SessionConfig(compressions=[name])
    offers: list[KexInit] = []

    def compressing(kexinit: KexInit, is_initial: bool) -> KexInit:
        offers.append(kexinit)
        return replace(
            kexinit,
            compression_algorithms_client_to_server=(name,),
            compression_algorithms_server_to_client=(name,),
        )

    offer: dict[str, Any] = {f"{role.other.name.lower()}_offer": compressing}
    pair = CorePair(**offer)
    pair.pump()
    assert offers[0].compression_algorithms_client_to_server == ("none",)
    assert offers[0].compression_algorithms_server_to_client == ("none",)
    error = pair.termination(role)
    assert isinstance(error, anyssh.NegotiationError)
    assert error.reason == DisconnectReason.KEY_EXCHANGE_FAILED


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in the package, with its module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield module, node


def test_numbers_are_raised_to_powers_in_one_place_only() -> None:
    """HR-44: arithmetic of signatures and curves is the library's; ours is finite-field DH."""
    powers = {
        module
        for module, call in calls()
        if isinstance(call.func, ast.Name) and call.func.id == "pow" and len(call.args) == 3
    }
    assert powers == {"algorithms/finite_field.py"}


@pytest.mark.parametrize("bits", [256, 384, 521])
def test_no_nonce_comes_twice(bits: int) -> None:
    """HR-44: of one key and one message, all signatures differ in their first number."""
    name = f"ecdsa-sha2-nistp{bits}"
    key = anyssh.generate_key(name)
    firsts = set()
    for _ in range(64):
        reader = Reader(key.sign(b"the same", name))
        reader.string()
        firsts.add(Reader(reader.string()).mpint())
    assert len(firsts) == 64


CALLS: list[tuple[Callable[..., Any], str]] = [
    (anyssh.Server.serve, "listener"),
    (anyssh.ClientSession.forward_to_remote_port, "local_host"),
    (anyssh.ClientSession.forward_from_remote_port, "remote_host"),
    (anyssh.ClientSession.stream_from_remote_port, "remote_host"),
]


@pytest.mark.parametrize(
    "function, parameter", CALLS, ids=lambda value: getattr(value, "__name__", value)
)
def test_who_listens_says_where(function: Callable[..., Any], parameter: str) -> None:
    """HR-82: no address stands for all interfaces because nobody thought of it."""
    parameters = inspect.signature(function).parameters
    assert parameters[parameter].default is inspect.Parameter.empty


def test_nothing_else_of_ours_listens_on_the_network() -> None:
    """HR-82: sockets are bound by the service that forwards, and by programs of ours."""
    binding = {"bind", "listen", "create_tcp_listener", "create_unix_listener", "start_server"}
    found = {
        module
        for module, call in calls()
        if isinstance(call.func, ast.Attribute) and call.func.attr in binding
    }
    assert {module for module in found if not module.startswith(("cli/", "demo/"))} == {
        "forwarding/listening.py"
    }
