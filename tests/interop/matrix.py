"""The matrix: the algorithms with which a session with each peer is tried.

What both sides support is read from the peer's own KEXINIT, with a server or client configured to
offer everything it has. Of all combinations of key exchange, host key, cipher and MAC, a plan first
takes as few as possible that name each algorithm once, then more until each pair of algorithms of
different kinds occurs in one of them. An AEAD cipher has no other MAC.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product

import anyssh
from anyssh import config as configuration
from anyssh.messages import KexInit

AEAD = (
    anyssh.Encryption.AES256_GCM,
    anyssh.Encryption.AES128_GCM,
    anyssh.Encryption.CHACHA20_POLY1305,
)
KEY_TYPES = {
    "ssh-ed25519": "ed25519",
    "ecdsa-sha2-nistp256": "ecdsa256",
    "ecdsa-sha2-nistp384": "ecdsa384",
    "ecdsa-sha2-nistp521": "ecdsa521",
    "rsa-sha2-256": "rsa",
    "rsa-sha2-512": "rsa",
}
"""The generated key that each host key algorithm works with."""


@dataclass(frozen=True)
class Peering:
    """A peer in one of its roles."""

    peer: str
    role: str
    """What the peer is: ``client`` or ``server``."""

    def __str__(self) -> str:
        return f"{self.peer}-{self.role}"


PEERINGS = [
    *(Peering("openssh", role) for role in ("client", "server")),
    *(Peering("dropbear", role) for role in ("client", "server")),
    Peering("putty", "client"),
    *(Peering("libssh", role) for role in ("client", "server")),
    Peering("libssh2", "client"),
    *(Peering("asyncssh", role) for role in ("client", "server")),
    *(Peering("paramiko", role) for role in ("client", "server")),
    *(Peering("twisted", role) for role in ("client", "server")),
    *(Peering("ssh2", role) for role in ("client", "server")),
    *(Peering("npm", role) for role in ("client", "server")),
]


@dataclass(frozen=True)
class Cell:
    """One set of algorithms."""

    key_exchange: str
    host_key: str
    cipher: str
    mac: str | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in vars(self).values() if name)

    @property
    def pairs(self) -> set[tuple[str, str]]:
        return set(combinations(self.names, 2))

    def __str__(self) -> str:
        return " ".join(self.names)


@dataclass(frozen=True)
class Offer:
    """Algorithms by kind, in our order."""

    key_exchanges: tuple[str, ...]
    host_keys: tuple[str, ...]
    ciphers: tuple[str, ...]
    macs: tuple[str, ...]

    @classmethod
    def of(cls, *messages: KexInit) -> Offer:
        """Return what these KEXINIT have together, as far as we have it too."""

        def common(ours: Sequence[str], *theirs: str) -> tuple[str, ...]:
            return tuple(
                name
                for name in ours
                if any(
                    all(name in getattr(message, field) for field in theirs) for message in messages
                )
            )

        both = ("client_to_server", "server_to_client")
        return cls(
            common(configuration.KEY_EXCHANGES, "kex_algorithms"),
            common(configuration.HOST_KEY_ALGORITHMS, "server_host_key_algorithms"),
            common(configuration.ENCRYPTIONS, *(f"encryption_algorithms_{way}" for way in both)),
            common(configuration.MACS, *(f"mac_algorithms_{way}" for way in both)),
        )

    def cells(self) -> Iterator[Cell]:
        """Give every combination."""
        for key_exchange, host_key, cipher in product(
            self.key_exchanges, self.host_keys, self.ciphers
        ):
            for mac in [None] if cipher in AEAD else self.macs:
                yield Cell(key_exchange, host_key, cipher, mac)


@dataclass(frozen=True)
class Plan:
    """The cells to play: those that name each algorithm once, and those for the pairs."""

    covering: tuple[Cell, ...]
    pairwise: tuple[Cell, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        return self.covering + self.pairwise


@lru_cache
def plan(offer: Offer) -> Plan:
    """Choose the cells, the same ones for the same offer."""
    every = list(offer.cells())
    names = {(name,) for cell in every for name in cell.names}
    pairs = {pair for cell in every for pair in cell.pairs}
    covering = _choose(every, {cell: {(name,) for name in cell.names} for cell in every}, names)
    for cell in covering:
        pairs -= cell.pairs
    return Plan(covering, _choose(every, {cell: cell.pairs for cell in every}, pairs))


def _choose(
    every: list[Cell], covered: dict[Cell, set[tuple[str, ...]]], wanted: set[tuple[str, ...]]
) -> tuple[Cell, ...]:
    """Take the cell that has most of what is wanted, the first of equals, until nothing is."""
    wanted, chosen = set(wanted), []
    while wanted:
        best = max(every, key=lambda cell: len(covered[cell] & wanted))
        chosen.append(best)
        wanted -= covered[best]
    return tuple(chosen)


# --- what a peer offers


@dataclass(frozen=True)
class Greeting:
    """What the other side says first."""

    version: str
    kexinit: KexInit

    @classmethod
    def read(cls, stream: socket.socket) -> Greeting:
        with stream.makefile("rb") as lines:
            while not (line := lines.readline()).startswith(b"SSH-2.0-"):
                if not line:
                    raise EOFError("the other side said nothing")
            length = int.from_bytes(lines.read(4), "big")
            packet = lines.read(length)
        return cls(line.decode().rstrip(), KexInit.decode(packet[1 : length - packet[0]]))


def ask_server(port: int) -> Greeting:
    """Return what a server on loopback says."""
    with socket.create_connection(("127.0.0.1", port), 20) as stream:
        stream.sendall(b"SSH-2.0-asking\r\n")
        return Greeting.read(stream)


class AskingServer:
    """Listens on loopback for one client, and has nothing to offer."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self.port: int = self._listener.getsockname()[1]

    def was_asked(self) -> bool:
        """Return whether anybody has connected; nobody can any more."""
        with self._listener:
            self._listener.setblocking(False)
            try:
                self._listener.accept()[0].close()
            except BlockingIOError:
                return False
            return True

    def ask(self) -> Greeting:
        with self._listener, self._listener.accept()[0] as stream:
            stream.settimeout(20)
            stream.sendall(b"SSH-2.0-asking\r\n")
            return Greeting.read(stream)
