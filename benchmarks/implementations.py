"""The implementations: how to start them, and whether they can run here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Final

from .harness import Commands
from .peers.workloads import FORWARDS
from .traffic import CONNECTIONS

_HERE: Final = Path(__file__).parent
_NPM: Final = _HERE / "npm"
_ADMINISTRATION: Final = os.pathsep.join((os.defpath, "/usr/sbin", "/usr/local/sbin"))


class Kind(Enum):
    """Why an implementation is in the table."""

    LIMIT = "limit"
    SUBJECT = "subject"
    PEER = "peer"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Implementation:
    """One column of programs.

    :ivar name: as in the table and for ``--only``
    :ivar kind: see :class:`Kind`
    :ivar loop: ``asyncio``, ``uvloop``, ``trio`` or ``none``
    :ivar commands: how to start it
    :ivar mib: MiB that it moves in about a second
    :ivar actions: what its client can be told to do
    :ivar missing: tells what it lacks to run here, ``""`` for nothing
    :ivar version: tells its version
    :ivar importing: how to time its import
    """

    name: str
    kind: Kind
    loop: str
    commands: Commands
    mib: int
    actions: frozenset[str]
    missing: Callable[[], str]
    version: Callable[[], str]
    importing: Commands | None = None

    @property
    def family(self) -> str:
        """The name without the loop."""
        return self.name.partition("/")[0]


LOOPS: Final = ("asyncio", "uvloop", "trio")
_LIMITED: Final = frozenset(("upload", "download", "ping-pong"))
_CHANNELS: Final = _LIMITED | {
    "set-up", "messages", "open-close", "sessions", "idle-sessions", "idle-channels", "fairness",
    "import",
}  # fmt: skip
_PULLING: Final = _CHANNELS | {
    "slow-reader", "channels", "turns-of-channels", "turns-of-sessions", "beside-stuck",
}  # fmt: skip
_FORWARDS: Final = frozenset(FORWARDS) - {"forward-memory"}
_PROCESSES: Final = _LIMITED | {"set-up", "messages", "sessions"} | frozenset(FORWARDS)
"""What makes sense where each channel is a process."""
_ALL: Final = _PULLING | frozenset(FORWARDS)
_GATEWAY: Final = frozenset(("gateway",))
"""Of those that can be a process between client and server."""


def _missing_modules(*names: str) -> str:
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def _missing_anyssh() -> str:
    try:
        import anyssh
    except ImportError as error:
        return f"cannot be imported: {error}"
    return "" if hasattr(anyssh, "ClientSession") else "has no ClientSession"


@cache
def _missing_packages() -> str:
    """Install the npm packages, once; tell what stands in the way."""
    if shutil.which("node") is None:
        return "node is not installed"
    if not (_NPM / "node_modules").exists():
        install = subprocess.run(
            [str(_HERE / "install_peers.sh"), sys.executable],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if install.returncode or not (_NPM / "node_modules").exists():
            return f"its packages were not installed: {' '.join(install.stdout.split())[-200:]}"
    return ""


def _missing_openssh() -> str:
    absent = [name for name in ("ssh", "dd") if shutil.which(name) is None]
    if shutil.which("sshd", path=_ADMINISTRATION) is None:
        absent.append("sshd")
    return f"not installed: {', '.join(absent)}" if absent else ""


def _anyssh_version() -> str:
    from anyssh._version import __version__

    return __version__


def _npm_version(package: str) -> str:
    manifest = _NPM / "node_modules" / package / "package.json"
    version: str = json.loads(manifest.read_text())["version"]
    return version


def _openssh_version() -> str:
    # It is printed to the standard error, as in "OpenSSH_9.2p1 Debian-2, OpenSSL 3.0.19".
    told = subprocess.run(["ssh", "-V"], capture_output=True, text=True).stderr
    return told.partition(",")[0].removeprefix("OpenSSH_").strip()


def _python(module: str, *options: str, only_children: bool = False) -> Commands:
    program = [sys.executable, "-m", f"benchmarks.peers.{module}", *options]
    return Commands(program, _HERE.parent, only_children)


def _node(script: str) -> Commands:
    return Commands(["node", str(_NPM / script)], _NPM)


_PYTHON_IMPORT: Final = """\
import json, time
begin = time.perf_counter()
import {module}
seconds = time.perf_counter() - begin
print(json.dumps({{"event": "done", "count": 1, "seconds": seconds, "p50": seconds}}))
"""
_NODE_IMPORT: Final = """\
const begin = process.hrtime.bigint();
require('{module}');
const seconds = Number(process.hrtime.bigint() - begin) / 1e9;
console.log(JSON.stringify({{ event: 'done', count: 1, seconds, p50: seconds }}));
"""


def _import_python(module: str) -> Commands:
    return Commands([sys.executable, "-c", _PYTHON_IMPORT.format(module=module)], _HERE.parent)


def _import_node(module: str) -> Commands:
    return Commands(["node", "-e", _NODE_IMPORT.format(module=module)], _NPM)


def _on_loops(
    name: str,
    kind: Kind,
    commands: Commands,
    loops: tuple[str, ...],
    mib: int,
    actions: frozenset[str],
    missing: Callable[[str], str],
    distribution: str,
    version: Callable[[str], str] = importlib.metadata.version,
) -> Iterator[Implementation]:
    for loop in loops:
        yield Implementation(
            name=f"{name}/{loop}",
            kind=kind,
            loop=loop,
            commands=commands,
            mib=mib,
            actions=actions,
            missing=lambda loop=loop: missing(loop),  # type: ignore[misc]
            version=lambda: version(distribution),
            importing=_import_python(distribution),
        )


_ANYSSH: Final = (("anyssh", ()), ("anyssh-reconnect", ("--reconnect",)))


def _anyssh(name: str, options: tuple[str, ...]) -> Iterator[Implementation]:
    return _on_loops(
        name,
        Kind.SUBJECT,
        _python("anyssh_peer", *options),
        LOOPS,
        512,
        _ALL | _GATEWAY,
        lambda loop: _missing_modules(loop) or _missing_anyssh(),
        "anyssh",
        lambda _: _anyssh_version(),
    )


def _interleave(*kinds: Iterator[Implementation]) -> Iterator[Implementation]:
    """Put what is compared side by side, so that it is measured one after the other."""
    for alike in zip(*kinds, strict=True):
        yield from alike


def implementations() -> list[Implementation]:
    """Return everything that can be measured, in the order of the table."""

    def missing_raw(loop: str) -> str:
        return _missing_modules("anyio", "cryptography", loop)

    return [
        *_on_loops(
            "tcp",
            Kind.LIMIT,
            _python("raw", "--plain"),
            LOOPS,
            1024,
            _LIMITED,
            missing_raw,
            "anyio",
        ),
        *_on_loops(
            "framing",
            Kind.LIMIT,
            _python("raw"),
            LOOPS,
            1024,
            _LIMITED | _GATEWAY,
            missing_raw,
            "anyio",
        ),
        Implementation(
            name="framing/none",
            kind=Kind.LIMIT,
            loop="none",
            commands=_python("framed_relay"),
            mib=1024,
            actions=frozenset(CONNECTIONS),
            missing=lambda: _missing_modules("cryptography"),
            version=lambda: importlib.metadata.version("anyio"),
        ),
        *_interleave(*(_anyssh(*each) for each in _ANYSSH)),
        *_on_loops(
            "asyncssh",
            Kind.PEER,
            _python("asyncssh_peer"),
            LOOPS[:2],
            384,
            _ALL,
            lambda loop: _missing_modules("asyncssh", loop),
            "asyncssh",
        ),
        Implementation(
            name="paramiko",
            kind=Kind.PEER,
            loop="none",
            commands=_python("paramiko_peer"),
            mib=192,
            actions=_PULLING,
            missing=lambda: _missing_modules("paramiko"),
            version=lambda: importlib.metadata.version("paramiko"),
            importing=_import_python("paramiko"),
        ),
        Implementation(
            name="dev-tunnels-ssh",
            kind=Kind.PEER,
            loop="none",
            commands=_node("dev-tunnels-ssh.js"),
            mib=256,
            actions=_CHANNELS | _FORWARDS,
            missing=_missing_packages,
            version=lambda: _npm_version("@microsoft/dev-tunnels-ssh"),
            importing=_import_node("@microsoft/dev-tunnels-ssh"),
        ),
        Implementation(
            name="ssh2",
            kind=Kind.PEER,
            loop="none",
            commands=_node("ssh2.js"),
            mib=512,
            actions=_CHANNELS,
            missing=_missing_packages,
            version=lambda: _npm_version("ssh2"),
            importing=_import_node("ssh2"),
        ),
        Implementation(
            name="openssh",
            kind=Kind.PEER,
            loop="none",
            commands=_python("openssh", only_children=True),
            mib=384,
            actions=_PROCESSES,
            missing=_missing_openssh,
            version=_openssh_version,
        ),
    ]
