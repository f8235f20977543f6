"""Facts about SSH libraries, determined from the installed packages.

``python -m tests.interop.facts`` prints the tables of ``docs/explanation/comparison.md``, which a
test compares with the page. A fact is a question about each package; the answer is what was found
there, and does not judge how well it is done.
"""

from __future__ import annotations

import importlib
import inspect
import json
import threading
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import anyssh
from anyssh import Encryption, HostKeyAlgorithm, KeyExchange, Mac
from anyssh.config import COMPRESSIONS, ENCRYPTIONS, HOST_KEY_ALGORITHMS, KEY_EXCHANGES, MACS

__all__ = ["NPM", "tables"]

NPM = Path(__file__).parent / "npm" / "node_modules" / "@microsoft"
NPM_NAMES = ("dev-tunnels-ssh", "dev-tunnels-ssh-keys", "dev-tunnels-ssh-tcp")
PACKAGES = ("anyssh", "asyncssh", "paramiko", "dev-tunnels-ssh")

Answer = bool | str
Question = Callable[[str], Answer]


def package(name: str) -> Any:
    return importlib.import_module(name)


@cache
def source(name: str) -> str:
    """Return all the code of a package."""
    if name == "dev-tunnels-ssh":
        folders, kind = [NPM / npm for npm in NPM_NAMES], "*.js"
    else:
        folders, kind = [Path(package(name).__file__).parent], "*.py"
    files = sorted(path for folder in folders for path in folder.rglob(kind))
    return "\n".join(path.read_text() for path in files)


def says(*words: str) -> Question:
    """Ask whether the code of a package has these words."""
    return lambda name: all(word in source(name) for word in words)


def offers(kind: str, name: str) -> Question:
    """Ask whether an algorithm can be negotiated."""

    def ask(library: str) -> bool:
        return name in ALGORITHMS[library]()[kind]

    return ask


def ours() -> Mapping[str, set[str]]:
    lists = {
        "key exchange": KEY_EXCHANGES,
        "cipher": ENCRYPTIONS,
        "mac": MACS,
        "host key": HOST_KEY_ALGORITHMS,
        "compression": COMPRESSIONS,
    }
    return {kind: {str(getattr(n, "value", n)) for n in names} for kind, names in lists.items()}


def of_asyncssh() -> Mapping[str, set[str]]:
    library = package("asyncssh")
    lists = {
        "key exchange": library.kex.get_kex_algs(),
        "cipher": library.encryption.get_encryption_algs(),
        "mac": library.mac.get_mac_algs(),
        "host key": library.public_key.get_public_key_algs(),
        "compression": library.compression.get_compression_algs(),
    }
    return {kind: {name.decode() for name in names} for kind, names in lists.items()}


def of_paramiko() -> Mapping[str, set[str]]:
    transport = package("paramiko").Transport
    return {
        "key exchange": set(transport._preferred_kex),
        "cipher": set(transport._preferred_ciphers),
        "mac": set(transport._preferred_macs),
        "host key": set(transport._preferred_keys),
        "compression": set(transport._compression_info),
    }


class _Words:
    """Stands for a list of names of which only their appearance in the code is known."""

    def __contains__(self, name: object) -> bool:
        return f"'{name}'" in source("dev-tunnels-ssh")


ALGORITHMS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "anyssh": ours,
    "asyncssh": of_asyncssh,
    "paramiko": of_paramiko,
    "dev-tunnels-ssh": lambda: dict.fromkeys(
        ("key exchange", "cipher", "mac", "host key", "compression"), _Words()
    ),
}


def licence(name: str) -> Answer:
    if name == "dev-tunnels-ssh":
        return str(json.loads((NPM / name / "package.json").read_text())["license"])
    found = metadata.metadata(name)
    return str(found.get("License-Expression") or found.get("License"))


def language(name: str) -> Answer:
    return "JavaScript, TypeScript" if name == "dev-tunnels-ssh" else "Python"


def concurrency(name: str) -> Answer:
    if name == "dev-tunnels-ssh":
        return "promises"
    if name == "paramiko":
        assert issubclass(package(name).Transport, threading.Thread)
        return "threads"
    if name == "asyncssh":
        assert "import asyncio" in source(name)
        assert "import trio" not in source(name)
        return "asyncio"
    assert "anyio" in " ".join(metadata.requires(name) or [])
    return "asyncio, uvloop, Trio"


def types(name: str) -> Answer:
    if name == "dev-tunnels-ssh":
        return (NPM / name / "index.d.ts").is_file()
    return (Path(package(name).__file__).parent / "py.typed").is_file()


def has(names: Mapping[str, str]) -> Question:
    """Ask for an attribute by its dotted name, which is another one in each package."""

    def ask(library: str) -> bool:
        if library not in names:
            return False
        if library == "dev-tunnels-ssh":
            return names[library] in source(library)
        found = package(library)
        for step in names[library].split("."):
            if not hasattr(found, step):
                if inspect.ismodule(found):
                    found = importlib.import_module(f"{found.__name__}.{step}")
                    continue
                raise AttributeError(f"{library} has no {names[library]}")
            found = getattr(found, step)
        return True

    return ask


FACTS: Mapping[str, Mapping[str, Question]] = {
    "The packages": {
        "licence": licence,
        "language": language,
        "concurrency": concurrency,
        "ships its types": types,
    },
    "Sessions": {
        "client": has({
            "anyssh": "ClientSession", "asyncssh": "SSHClientConnection",
            "paramiko": "SSHClient", "dev-tunnels-ssh": "class SshClientSession",
        }),
        "server": has({
            "anyssh": "Server", "asyncssh": "SSHServerConnection",
            "paramiko": "ServerInterface", "dev-tunnels-ssh": "class SshServerSession",
        }),
        "goes on over another stream (`session-reconnect@microsoft.com`)": says(
            "session-reconnect@microsoft.com"
        ),
        "measures latency in band (`session-latency@microsoft.com`)": says(
            "session-latency@microsoft.com"
        ),
        "multiplexing without encryption": has({
            "anyssh": "MultiChannelStream", "dev-tunnels-ssh": "class MultiChannelStream",
        }),
        "one secure stream over another": has({
            "anyssh": "SecureStream", "dev-tunnels-ssh": "class SecureStream",
        }),
        "WebSockets": has({
            "anyssh": "websocket.WebSocketStream", "dev-tunnels-ssh": "class WebSocketStream",
        }),
    },
    "Algorithms": {
        KeyExchange.MLKEM768_X25519_SHA256: offers("key exchange", "mlkem768x25519-sha256"),
        KeyExchange.CURVE25519_SHA256: says("curve25519-sha256"),
        KeyExchange.ECDH_NISTP384: offers("key exchange", "ecdh-sha2-nistp384"),
        KeyExchange.DH_GROUP14_SHA256: offers("key exchange", "diffie-hellman-group14-sha256"),
        Encryption.CHACHA20_POLY1305: offers("cipher", "chacha20-poly1305@openssh.com"),
        Encryption.AES256_GCM: offers("cipher", "aes256-gcm@openssh.com"),
        Encryption.AES256_CTR: offers("cipher", "aes256-ctr"),
        Mac.HMAC_SHA2_512_ETM: offers("mac", "hmac-sha2-512-etm@openssh.com"),
        HostKeyAlgorithm.ED25519: offers("host key", "ssh-ed25519"),
        HostKeyAlgorithm.RSA_SHA2_512: offers("host key", "rsa-sha2-512"),
        "zlib": offers("compression", "zlib@openssh.com"),
    },
    "Keys and logins": {
        "`known_hosts` files": has({
            "anyssh": "KnownHosts", "asyncssh": "SSHKnownHosts", "paramiko": "HostKeys",
        }),
        "SSH agents": has({
            "anyssh": "Agent", "asyncssh": "SSHAgentClient", "paramiko": "Agent",
        }),
        "certificates of OpenSSH": has({
            "anyssh": "Certificate", "asyncssh": "SSHCertificate",
            "paramiko": "PKey.load_certificate",
        }),
        "PKCS#11 tokens": has({"asyncssh": "load_pkcs11_keys"}),
        "GSSAPI": says("gssapi-with-mic"),
    },
    "Forwarding and files": {
        "ports in both directions": has({
            "anyssh": "Session.forward_from_remote_port",
            "asyncssh": "SSHClientConnection.forward_remote_port",
            "paramiko": "Transport.request_port_forward",
            "dev-tunnels-ssh": "class RemotePortForwarder",
        }),
        "UNIX sockets": says("streamlocal-forward@openssh.com"),
        "a SOCKS proxy": has({
            "anyssh": "Session.forward_socks", "asyncssh": "SSHClientConnection.forward_socks",
        }),
        "TUN and TAP": says("tun@openssh.com"),
        "SFTP": has({"asyncssh": "SFTPClient", "paramiko": "SFTPClient"}),
        "`ssh_config` files": has({"asyncssh": "config.SSHConfig", "paramiko": "SSHConfig"}),
    },
    "For developers": {
        "relays between sessions": has({
            "anyssh": "pipe", "dev-tunnels-ssh": "pipeSession",
        }),
        "session contours": has({
            "anyssh": "SessionContour", "dev-tunnels-ssh": "class SessionContour",
        }),
        "trace events with numbers": has({
            "anyssh": "TraceId", "dev-tunnels-ssh": "SshTraceEventIds",
        }),
        "streams that fail by plan, for tests": has({"anyssh": "testing.FaultStream"}),
    },
}  # fmt: skip


def cell(answer: Answer) -> str:
    if isinstance(answer, bool):
        return "yes" if answer else "–"
    return answer


def tables() -> str:
    """Return the facts as tables in Markdown."""
    parts = []
    for title, questions in FACTS.items():
        lines = [f"## {title}", "", f"| | {' | '.join(PACKAGES)} |", "|---" * 5 + "|"]
        for label, question in questions.items():
            answers = " | ".join(cell(question(name)) for name in PACKAGES)
            shown = f"`{getattr(label, 'value', label)}`" if title == "Algorithms" else label
            lines.append(f"| {shown} | {answers} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    assert anyssh.__version__
    print(tables())  # noqa: T201
