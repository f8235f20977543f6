"""The structure of the package, read from its source: who imports whom, and what layers may do.

``docs/design.md`` has the picture. A new part of the package is added to ``LAYERS`` first.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import anyssh

PACKAGE = Path(anyssh.__file__).parent

LAYERS = {
    "_version": 0,
    "config": 0,
    "constants": 0,
    "contour": 0,
    "errors": 0,
    "identification": 0,
    "trace": 0,
    "wire": 0,
    "algorithms": 1,
    "keys": 1,
    "messages": 1,
    "protocol": 2,
    "session": 3,
    "to_thread": 3,
    "forwarding": 4,
    "pipes": 4,
    "streams": 4,
    "": 5,  # anyssh/__init__.py: the public names
    "testing": 6,
    "websocket": 6,
    "integrations": 6,
    "demo": 7,
    "cli": 8,
    "__main__": 9,
}
"""Parts of the package and how high they stand; a part may import what stands lower, and itself."""

PURE = 2
"""Up to this layer nothing waits, reads a clock, or finds randomness by itself."""

PUBLIC = LAYERS[""]
"""From the layer above this one on, code lives on public names, as an application does."""

NEIGHBOURS = {("algorithms", "keys"), ("keys", "algorithms")}
"""Parts of one height that may know each other, besides those of layer 0."""

FEATURES = {"forwarding", "pipes", "streams"}
"""Parts that live on what sessions offer to everybody, though they stand below the public names."""

ASSEMBLY = {f"anyssh.session.{name}" for name in ("client", "server", "server_session", "session")}
"""Modules that give sessions the methods and parameters of features, and so stand above them."""

PUBLIC_MODULES = {"messages", "testing", "to_thread", "websocket", "wire"}

LIBRARIES = {
    0: set(),
    1: {"bcrypt", "cryptography"},
    2: set(),
    3: {"anyio"},
    4: {"anyio"},
}
"""What a layer may import besides the standard library; higher layers are as the highest here."""

EXTRAS = {
    "cli": {"cyclopts", "rich"},
    "demo": {"rich"},
    "integrations": {"httpcore", "httpx", "opentelemetry", "prometheus_client"},
    "websocket": {"wsproto"},
}
"""What parts import besides that is only there with an extra; ``import anyssh`` does without."""

IMPURE = {
    "asyncio",
    "logging",
    "multiprocessing",
    "random",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
}
ENTROPY = {"urandom", "getrandom"}
MAKES_KEYS = {"algorithms", "keys"}
"""Parts that generate keys and so draw on the system's entropy, through ``secrets`` at most."""

ASYNCHRONOUS = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
SECRET = re.compile(
    r"(^|_)(challenge|digest|hexdigest|mac|password|passphrase|proof|secret|session_id|signature"
    r"|tag|token)$|^code$"
)
PUBLIC_TAGS = {"anyssh.keys.der"}
"""Modules whose tags are numbers of a file format."""
UNTRUSTED = {"dbm", "marshal", "pickle", "shelve"}
"""What turns bytes into objects of their sender's choice."""
RANDOM = {
    "anyssh.testing.conformance": "data of tests, the same each time",
    "anyssh.testing.fault_stream": "faults by a seed, the same each time",
}
"""Modules that draw from ``random``, and what: nothing that an attacker must not guess."""
RUNS_TEXT = {"__import__", "compile", "eval", "exec"}
REACHES_BY_NAME = {"delattr", "getattr", "hasattr", "setattr"}
COMPUTED_NAMES = {
    "anyssh": "the names that it lists",
    "anyssh.algorithms.derivation": "the hash that one of our own methods names",
    "anyssh.config": "the names of its own fields",
    "anyssh.forwarding.policy": "the names of its own fields",
    "anyssh.keys.encryption": "one of three names that it lists",
    "anyssh.messages.declaration": "the declared fields of a message",
    "anyssh.messages.transport": "the declared fields of a message",
    "anyssh.protocol.key_exchange": "the hash that one of our own methods names",
    "anyssh.session.admission": "the value of a member of an enumeration",
    "anyssh.testing.faults": "the names of its own fields",
}
"""Modules that reach attributes by names that are not literals, and where those come from."""


@dataclass(frozen=True)
class Module:
    """One source file: the part of the package it belongs to, its dotted name, its syntax."""

    name: str
    tree: ast.Module
    is_package: bool = False

    @property
    def part(self) -> str:
        return part_of(self.name)

    @property
    def layer(self) -> int:
        return LAYERS[self.part]

    @classmethod
    def read(cls, path: Path) -> Module:
        names = ["anyssh", *path.relative_to(PACKAGE).with_suffix("").parts]
        is_package = names[-1] == "__init__"
        if is_package:
            del names[-1]
        return cls(".".join(names), ast.parse(path.read_text(), str(path)), is_package)

    @classmethod
    def sample(cls, name: str, source: str) -> Module:
        return cls(name, ast.parse(source))


def part_of(name: str) -> str:
    """Give the entry of LAYERS for ``anyssh.part.anything``."""
    return name.split(".")[1] if "." in name else ""


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Give the line and the absolute name of every import, inside functions too.

    ``from anyssh import wire`` counts as ``anyssh.wire``, other names from there as ``anyssh``.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.name.split(".")
                up = node.level - 1 if module.is_package else node.level
                base = ".".join([*package[: len(package) - up], *filter(None, [node.module])])
            for alias in node.names:
                below = f"{base}.{alias.name}"
                yield node.lineno, below if base == "anyssh" and alias.name in LAYERS else base


def wrong_imports(module: Module) -> Iterator[str]:
    for line, name in imports(module):
        top = name.partition(".")[0]
        problem = wrong_part(module, name) if top == "anyssh" else wrong_library(module, top)
        if problem:
            yield f"{module.name}:{line} imports {name}: {problem}"


def wrong_part(module: Module, name: str) -> str | None:
    """Say why a module may not import this part of the package."""
    part = part_of(name)
    if part == module.part:
        return None
    if part not in LAYERS:
        return "a part that LAYERS does not know"
    if module.layer > PUBLIC and part and part not in PUBLIC_MODULES and LAYERS[part] < PUBLIC:
        return "not public"
    if module.name in ASSEMBLY and part in FEATURES:
        return None
    if LAYERS[part] < module.layer or LAYERS[part] == 0 or (module.part, part) in NEIGHBOURS:
        return None
    return "it does not stand lower"


def wrong_library(module: Module, top: str) -> str | None:
    """Say why a module may not import this foreign package."""
    if top in UNTRUSTED:
        return "bytes may become any object"
    if top == "random" and module.name not in RANDOM and module.layer > PURE:
        return "not for secrets; RANDOM lists who may, and for what"
    if module.layer <= PURE and top in IMPURE:
        return "time, entropy and the outside world are arguments here"
    if top == "secrets" and module.layer <= PURE and module.part not in MAKES_KEYS:
        return "entropy is an argument here"
    allowed = LIBRARIES[min(module.layer, max(LIBRARIES))] | EXTRAS.get(module.part, set())
    if top in sys.stdlib_module_names or top in allowed:
        return None
    return "not a library of this layer"


def wrong_statements(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        problem = None
        if isinstance(node, ast.Assert):
            problem = "assert is no check: python -O removes it"
        elif isinstance(node, ast.Compare) and module.name not in PUBLIC_TAGS:
            problem = leaking_comparison(node)
        elif isinstance(node, ast.Call) and (danger := dangerous_call(module, node)):
            problem = danger
        elif module.layer <= PURE:
            problem = impurity(node)
        elif module.part in FEATURES:
            problem = intrusion(node)
        if problem:
            yield f"{module.name}:{getattr(node, 'lineno', 0)} {problem}"


def impurity(node: ast.AST) -> str | None:
    """Say what a node does that only the session layer may do."""
    if isinstance(node, ASYNCHRONOUS) or (isinstance(node, ast.comprehension) and node.is_async):
        return "async and await belong to the session layer"
    if isinstance(node, ast.Attribute) and node.attr in ENTROPY:
        return "entropy is an argument"
    if isinstance(node, ast.ImportFrom) and any(alias.name in ENTROPY for alias in node.names):
        return "entropy is an argument"
    return None


def intrusion(node: ast.AST) -> str | None:
    """Say which name of another object's own a feature uses."""
    if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
        return None
    if node.attr.endswith("__") or getattr(node.value, "id", "") in ("self", "cls"):
        return None
    return f"{node.attr} is not offered to others"


def leaking_comparison(node: ast.Compare) -> str | None:
    """Say which secret is compared in a time that depends on where it differs.

    Comparing with a literal or with a name from a class of constants tells nothing and is fine.
    """
    if not any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops):
        return None
    operands = [node.left, *node.comparators]
    if any(is_constant(operand) for operand in operands):
        return None
    for operand in operands:
        while isinstance(operand, ast.Subscript | ast.Call):
            operand = operand.value if isinstance(operand, ast.Subscript) else operand.func
        name = getattr(operand, "id", getattr(operand, "attr", ""))
        if SECRET.search(name):
            return f"{name} is compared with ==; use hmac.compare_digest"
    return None


def dangerous_call(module: Module, node: ast.Call) -> str | None:
    """Say which call might do what a text says."""
    name = getattr(node.func, "id", "")
    if name in RUNS_TEXT:
        return f"{name} runs what a text says"
    if name not in REACHES_BY_NAME or module.name in COMPUTED_NAMES:
        return None
    is_literal = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
    return None if is_literal else f"{name} with a name that is no literal"


def is_constant(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return True
    return isinstance(node, ast.Attribute) and node.attr.isupper()


def problems(module: Module) -> list[str]:
    """Give everything that is wrong with a module."""
    if module.part not in LAYERS:
        return [f"{module.name} has no entry in LAYERS"]
    return [*wrong_imports(module), *wrong_statements(module)]


def package_modules() -> list[Module]:
    return [Module.read(path) for path in sorted(PACKAGE.rglob("*.py"))]


@pytest.mark.parametrize("module", package_modules(), ids=lambda module: module.name)
def test_a_module_keeps_to_its_layer(module: Module) -> None:
    """HR-08, HR-62, T-63: nor does it do what no module may, such as to compare tokens with ==."""
    assert problems(module) == []


def test_no_exception_from_a_rule_is_left_over() -> None:
    by_name = {module.name: module for module in package_modules()}
    for name in COMPUTED_NAMES:
        without = Module("anyssh.session.link", by_name[name].tree)
        assert any("no literal" in problem for problem in wrong_statements(without)), name
    for name in RANDOM:
        assert any(imported == "random" for _, imported in imports(by_name[name])), name


def _public_imports() -> dict[str, str]:
    """Return what type checkers see the package import: the module of each name."""
    package = Module.read(PACKAGE / "__init__.py")
    block = next(node for node in package.tree.body if isinstance(node, ast.If))
    return {
        alias.name: f".{node.module or ''}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_names_are_found_where_type_checkers_look_for_them() -> None:
    seen = _public_imports()
    modules = {name: f"{seen.pop(name)}.{name}" for name in [*seen] if name in anyssh._MODULES}
    assert seen == anyssh._HOMES
    assert {name: home.replace("..", ".") for name, home in modules.items()} == {
        name: home for name, home in anyssh._MODULES.items() if name in modules
    }
    assert {*seen, *modules, "__version__"} == {*anyssh.__all__}


def test_the_package_imports_nothing_before_it_is_used() -> None:
    program = "import sys, anyssh; print(*sorted(name for name in sys.modules if 'anyssh' in name))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.split() == ["anyssh", "anyssh._version"], ran.stderr


def test_names_that_are_not_there_are_told_so() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Sever'"):
        anyssh.Sever  # noqa: B018
    assert {*anyssh.__all__} <= {*dir(anyssh)}


def test_all_modules_are_read() -> None:
    names = {module.name for module in package_modules()}
    assert {"anyssh.wire", "anyssh.config", "anyssh.errors"} <= names


@pytest.mark.parametrize(
    "name,source",
    [
        ("anyssh.wire", "import cryptography"),
        ("anyssh.wire", "from .messages import Disconnect"),
        ("anyssh.wire", "from . import protocol"),
        ("anyssh.wire", "from . import SSHError"),
        ("anyssh.novelty", "x = 1"),
        ("anyssh.wire", "from .novelty import x"),
        ("anyssh.messages.transport", "from ..algorithms import packet_sealer"),
        ("anyssh.messages.transport", "from ..keys import Key"),
        ("anyssh.algorithms.mac", "from anyssh.messages import Disconnect"),
        ("anyssh.keys.openssh", "import anyssh.messages.transport"),
        ("anyssh.protocol.core", "def f():\n    from anyssh.session import Channel"),
        ("anyssh.protocol.core", "import anyio"),
        ("anyssh.protocol.core", "import time"),
        ("anyssh.protocol.core", "from time import monotonic"),
        ("anyssh.protocol.core", "import logging"),
        ("anyssh.protocol.core", "import secrets"),
        ("anyssh.protocol.core", "import asyncio.events"),
        ("anyssh.protocol.core", "import os\nos.urandom(8)"),
        ("anyssh.protocol.core", "from os import urandom"),
        ("anyssh.protocol.core", "async def f(): pass"),
        ("anyssh.protocol.core", "x = [a async for a in b]"),
        ("anyssh.session.link", "import anyssh"),
        ("anyssh.session.link", "from anyssh import Channel"),
        ("anyssh.session.link", "import trio"),
        ("anyssh.session.link", "from ..testing import FaultStream"),
        ("anyssh.session.link", "assert x, 'is there'"),
        ("anyssh.session.link", "received_mac == mac"),
        ("anyssh.session.link", "self.tag != other.tag"),
        ("anyssh.session.link", "data[:16] == tag[:16]"),
        ("anyssh.session.link", "shared_secret == wanted"),
        ("anyssh.algorithms.mac", "code != buffer[start:end]"),
        ("anyssh.session.link", "hmac.digest(key, data, name) == received"),
        ("anyssh.session.link", "received != hasher.hexdigest()"),
        ("anyssh.session.link", "event.session_id == continuity.session_id"),
        ("anyssh.session.link", "proof != expected"),
        ("anyssh.session.link", "import random"),
        ("anyssh.session.link", "from random import Random"),
        ("anyssh.protocol.core", "import random"),
        ("anyssh.session.link", "import pickle"),
        ("anyssh.session.link", "eval(text)"),
        ("anyssh.session.link", "exec(text)"),
        ("anyssh.session.link", "getattr(self, name)"),
        ("anyssh.session.link", "getattr(self, f'_{name}_came')"),
        ("anyssh.protocol.core", "setattr(self, message.name, 1)"),
        ("anyssh.session.link", "from ..forwarding.relay import Relay"),
        ("anyssh.forwarding.relay", "channel._session"),
        ("anyssh.forwarding.relay", "import asyncssh"),
        ("anyssh.testing.pairs", "from ..forwarding.relay import Relay"),
        ("anyssh.testing.pairs", "from ..session.link import Link"),
        ("anyssh.testing.pairs", "from ..protocol import Core"),
        ("anyssh.demo", "from anyssh.session import Channel"),
        ("anyssh.testing.pairs", "import rich"),
        ("anyssh.demo", "import wsproto"),
        ("anyssh.cli.exec", "from anyssh.session import Channel"),
        ("anyssh.cli.exec", "import httpx"),
        ("anyssh.integrations.httpx", "import rich"),
        ("anyssh.integrations.httpx", "from anyssh.forwarding.local import Forward"),
        ("anyssh.session.link", "from anyssh.integrations.logging import LogTrace"),
        ("anyssh.testing.pairs", "import cyclopts"),
        ("anyssh", "from .testing import session_pair"),
        ("anyssh", "from . import websocket"),
    ],
)
def test_what_is_wrong_is_found(name: str, source: str) -> None:
    assert len(problems(Module.sample(name, source))) == 1


@pytest.mark.parametrize(
    "name,source",
    [
        ("anyssh.wire", "from .errors import WireError\nimport struct"),
        ("anyssh.keys.openssh", "import bcrypt\nfrom cryptography.hazmat.primitives import hashes"),
        ("anyssh.algorithms.signature", "from ..keys import Key\nfrom .. import wire"),
        ("anyssh.messages.transport", "from .. import wire\nfrom ..constants import MessageNumber"),
        ("anyssh.protocol.core", "from ..messages import Disconnect\nfrom .events import Event"),
        ("anyssh.session.link", "import anyio, time\nasync def f(): await g()"),
        ("anyssh.session.link", "from ..protocol import Core\nfrom . import channel"),
        ("anyssh.session.session", "from ..forwarding.methods import ForwardingMethods"),
        ("anyssh.forwarding.relay", "from ..session.channel import Channel\nself._channel.closed"),
        ("anyssh.session.link", "hmac.compare_digest(tag, received_tag)"),
        ("anyssh.session.link", "mac == 'none' or mac == Mac.NONE or len(tag) == tag_size"),
        ("anyssh.session.link", "stage == other_stage"),
        ("anyssh.session.link", "getattr(error, 'reason', 2)"),
        ("anyssh.session.link", "hmac.compare_digest(hasher.digest(), received)"),
        ("anyssh.testing.fault_stream", "from random import Random"),
        ("anyssh.messages.declaration", "getattr(self, member.name)"),
        (
            "anyssh.testing.pairs",
            "from anyssh import Channel\nfrom anyssh import wire\nimport anyio",
        ),
        ("anyssh.demo", "import anyssh\nfrom anyssh.testing import session_pair"),
        ("anyssh.__main__", "from anyssh.demo import main"),
        ("anyssh.__main__", "from .cli import main"),
        ("anyssh.cli.exec", "import anyssh, cyclopts, rich\nfrom anyssh.demo import main"),
        ("anyssh.integrations.httpx", "import httpx, httpcore\nfrom anyssh import Session"),
        ("anyssh.websocket", "import wsproto\nfrom anyssh import SSHError"),
    ],
)
def test_what_is_right_passes(name: str, source: str) -> None:
    assert problems(Module.sample(name, source)) == []
