"""Every peer in each of its roles, with the algorithms that both sides support (T-61).

:mod:`matrix` defines which sets of algorithms are tried. In each such cell, the client logs in by
key, has a MiB echoed, during which keys are exchanged again, and talks to a port behind the
server; then it logs in by password and runs a command that fails with a status. One test plays
the cells of one host key algorithm. Trio plays those that name each algorithm once.

With ``ANYSSH_INTEROP_RESULTS``, each cell that passed is a line of that file; ``nox -s
interop-table`` makes ``docs/interop.md`` from them. The page must list exactly what is played here.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import anyssh

from . import table
from .conftest import Keys
from .matrix import (
    KEY_TYPES,
    PEERINGS,
    AskingServer,
    Cell,
    Greeting,
    Offer,
    Peering,
    Plan,
    ask_server,
    plan,
)
from .ours import (
    Gate,
    Watch,
    collect,
    exchange,
    execute,
    our_client,
    our_key,
    our_server,
)
from .peers import USER, KeyFile, Peer, PeerProcess, require_accounts, require_peer, token
from .scripts.peer_common import GREETING, REPORT, pattern, sha256
from .test_forwarding import capitals, say

MEBIBYTE = 1 << 20
OUR_REKEY_BYTES = 600_000
"""No multiple of it is near what an echo of a MiB comes to, so no exchange falls on its end."""


@dataclass(frozen=True)
class Abilities:
    """What a peer can do besides what each of them can."""

    rekeys: bool = True
    """Whether it can be made to exchange keys again."""
    follows: bool = True
    """Whether it goes along when we do."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else its script is told when it is to exchange keys again."""


ABILITIES = {
    # Its limits are fixed when it is built.
    "dropbear": Abilities(rekeys=False),
    # It has no call for it.
    "libssh2": Abilities(rekeys=False),
    # So that no key exchange falls on the end of a channel.
    "paramiko": Abilities(options={"rekey_once": True}),
    "npm": Abilities(follows=False),
}


OTHER_USER_KEYS = {
    # It signs by SHA-1 only, which we never accept.
    Peering("twisted", "client"): ("rsa-sha2-256", "rsa-sha2-512"),
    # It announces no such algorithm: the name runs into another one.
    Peering("ssh2", "server"): ("rsa-sha2-512",),
    # It takes the first algorithm of its own list.
    Peering("npm", "client"): ("rsa-sha2-512",),
}


def user_algorithm(peering: Peering, host_key: str) -> str:
    """Return the algorithm of the user's key: that of the host, where the peer can."""
    others = OTHER_USER_KEYS.get(peering, ())
    return "ecdsa-sha2-nistp256" if host_key in others else host_key


def we_rekey(peering: Peering, host_key: str) -> bool:
    """Whether keys are exchanged anew by us, or by the peer: with each second host key algorithm.

    Each other algorithm is used with all of them, so with keys anew by either side.
    """
    can = ABILITIES.get(peering.peer, Abilities())
    is_our_turn = list(KEY_TYPES).index(host_key) % 2 == 1
    return can.follows and (is_our_turn or not can.rekeys)


# --- what both sides have


LOADABLE = {"npm": ["ecdsa256", "ecdsa384", "ecdsa521", "rsa"]}
SEPARATE = {
    "dropbear": [["ed25519", "ecdsa256", "rsa"], ["ecdsa384", "ecdsa521"]],
    "libssh": [["ed25519", "ecdsa256", "rsa"], ["ecdsa384"], ["ecdsa521"]],
}
"""Host keys that these servers can have at the same time; the others take all."""


def host_key_names(peer: Peer) -> list[str]:
    return LOADABLE.get(peer.name, list(dict.fromkeys(KEY_TYPES.values())))


def host_key_sets(peer: Peer) -> list[list[str]]:
    return SEPARATE.get(peer.name, [host_key_names(peer)])


class Plans:
    """The plan of each peering, once the peer has told what it has."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._known: dict[Peering, list[Greeting]] = {}

    def greetings(self, peering: Peering) -> list[Greeting]:
        """Return what the peer says first; a server, with each of its sets of host keys."""
        if peering not in self._known:
            ask = self._ask_client if peering.role == "client" else self._ask_server
            self._known[peering] = list(ask(require_peer(peering.peer)))
        return self._known[peering]

    def __getitem__(self, peering: Peering) -> Plan:
        return plan(Offer.of(*(greeting.kexinit for greeting in self.greetings(peering))))

    def _ask_server(self, peer: Peer) -> Iterator[Greeting]:
        authorized = self._keys.authorized
        for names in host_key_sets(peer):
            hosts = [self._keys.host[name] for name in names]
            with peer.serving(host_key=hosts, authorized=authorized, everything=True) as server:
                yield ask_server(server.port)

    def _ask_client(self, peer: Peer) -> Iterator[Greeting]:
        asking = AskingServer()
        hosts = [self._keys.host[name] for name in host_key_names(peer)]
        options = {
            "port": asking.port,
            "scenario": "echo",
            "everything": True,
            "host_public_key": hosts,
            "password": token(),
        }
        with peer.running("client", **options):
            yield asking.ask()


@pytest.fixture(scope="session")
def plans(keys: Keys) -> Plans:
    return Plans(keys)


# --- playing a cell


@dataclass
class Passed:
    """A cell that passed, for the table."""

    peering: Peering
    cell: Cell
    backend: str
    version: str = ""
    rekeyed_by: str = ""

    def record(self) -> None:
        if path := os.environ.get("ANYSSH_INTEROP_RESULTS"):
            line = asdict(self.peering) | asdict(self.cell)
            line |= {"backend": self.backend, "version": self.version, "rekey": self.rekeyed_by}
            with Path(path).open("a") as file:
                file.write(json.dumps(line) + "\n")


@dataclass
class Setting:
    """What the cells of one test share."""

    peering: Peering
    host: KeyFile
    user: KeyFile
    user_algorithm: str
    target: int
    we_rekey: bool
    password: str = field(default_factory=token)

    def config(self, cell: Cell) -> anyssh.SessionConfig:
        """Insist on the algorithms of the cell, and on that of the user's key."""
        config = anyssh.SessionConfig(
            key_exchanges=[cell.key_exchange],
            host_key_algorithms=list(dict.fromkeys([cell.host_key, self.user_algorithm])),
            encryptions=[cell.cipher],
        )
        if cell.mac:
            config = config.replace(macs=[cell.mac])
        return config.replace(rekey_bytes=OUR_REKEY_BYTES) if self.we_rekey else config

    def check(self, cell: Cell, used: anyssh.Algorithms) -> None:
        assert used.key_exchange == cell.key_exchange
        assert used.host_key == cell.host_key
        assert {used.encryption_client_to_server, used.encryption_server_to_client} == {cell.cipher}
        if cell.mac:
            assert {used.mac_client_to_server, used.mac_server_to_client} == {cell.mac}


async def play_with_server(setting: Setting, cell: Cell, port: int, passed: Passed) -> None:
    config = setting.config(cell)
    by_key = anyssh.ClientCredentials(USER, keys=[our_key(setting.user)])
    by_password = anyssh.ClientCredentials(USER, password=setting.password)
    connect, watch = partial(our_client, port, [setting.host], config=config), Watch()
    async with connect(by_key, trace=watch) as session:
        setting.check(cell, session.algorithms)
        passed.version = str(session.peer_version)
        assert await exchange(session, pattern(MEBIBYTE)) == (pattern(MEBIBYTE), 0)
        stream = await session.stream_to_remote_port("127.0.0.1", setting.target)
        assert await say(stream, GREETING) == GREETING.upper()
    assert watch.key_exchanges >= 2
    async with connect(by_password) as session:
        channel = await execute(session, REPORT)
        output, errors = await collect(channel), await collect(channel.stderr)
        closed = await channel.wait_closed()
    assert (output, errors, closed.exit_status) == (b"output", b"errors", 42)


async def play_with_client(
    setting: Setting, cell: Cell, client: PeerProcess, passed: Passed
) -> None:
    config = setting.config(cell)
    gate = Gate(USER, password=setting.password, authorized=[setting.user])
    everywhere = anyssh.ForwardingPolicy.allow_all()
    async with our_server(gate, [setting.host], config=config, forwarding=everywhere) as server:
        outcome = await client.ask("cell", {"port": server.port, "target": setting.target})
        assert outcome == {
            "event": "cell",
            "sha256": sha256(pattern(MEBIBYTE)),
            "echo_status": 0,
            "answer": GREETING.upper().decode(),
            "stdout": "output",
            "stderr": "errors",
            "exec_status": 42,
        }
        assert {visit.session.principal for visit in server.visits} == {"publickey", "password"}
        for visit in server.visits:
            setting.check(cell, visit.algorithms)
        assert server.watch.key_exchanges > len(server.visits)
        passed.version = str(server.visits[0].session.peer_version)


async def play_cells(
    keys: Keys, peering: Peering, host_key: str, cells: Sequence[Cell], backend: str
) -> None:
    """Play all cells, then tell which of them failed."""
    peer, failures = require_peer(peering.peer), []
    algorithm, ours = user_algorithm(peering, host_key), we_rekey(peering, host_key)
    host, user = keys.host[KEY_TYPES[host_key]], keys.user[KEY_TYPES[algorithm]]
    by = "us" if ours else "peer"
    async with capitals() as target:
        setting = Setting(peering, host, user, algorithm, target, ours)
        async with peer_in_role(keys, peer, setting) as play:
            for cell in cells:
                passed = Passed(peering, cell, backend, rekeyed_by=by)
                try:
                    await play(cell, passed)
                except Exception as error:
                    error.add_note(f"in the cell {peering}: {cell}, keys anew by {by}")
                    failures.append(error)
                else:
                    passed.record()
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(cells)} cells failed", failures)


@asynccontextmanager
async def peer_in_role(keys: Keys, peer: Peer, setting: Setting) -> AsyncIterator[Any]:
    """Run the peer while its cells are played; give the function that plays one."""
    options: dict[str, Any] = {"everything": True, "user": USER, "password": setting.password}
    if not setting.we_rekey:
        options["rekey_bytes"] = peer.rekey_bytes
        options |= ABILITIES.get(peer.name, Abilities()).options
    if setting.peering.role == "server":
        require_accounts(peer)
        serving = peer.server(host_key=[setting.host], authorized=keys.authorized, **options)
        async with serving as server:

            async def play(cell: Cell, passed: Passed) -> None:
                await play_with_server(setting, cell, server.port, passed)

            yield play
        return
    options |= {"host_public_key": [setting.host], "key": [setting.user]}
    async with peer.client(0, "cells", **options) as client:

        async def play(cell: Cell, passed: Passed) -> None:
            await play_with_client(setting, cell, client, passed)

        yield play


@pytest.mark.parametrize("host_key", KEY_TYPES)
@pytest.mark.parametrize("peering", PEERINGS, ids=str)
async def test_cells(
    keys: Keys, plans: Plans, anyio_backend: Any, peering: Peering, host_key: str
) -> None:
    wanted, backend = plans[peering], anyio_backend[0]
    chosen = wanted.cells if backend == "asyncio" else wanted.covering
    cells = [cell for cell in chosen if cell.host_key == host_key]
    if cells:
        await play_cells(keys, peering, host_key, cells, backend)
    elif not any(cell.host_key == host_key for cell in wanted.cells):
        await play_without(keys, peering, host_key)


async def play_without(keys: Keys, peering: Peering, host_key: str) -> None:
    """See that without a common host key algorithm there is no session."""
    peer = require_peer(peering.peer)
    config = anyssh.SessionConfig(host_key_algorithms=[host_key])
    mine, theirs = keys.host[KEY_TYPES[host_key]], keys.hosts(peer)
    if peering.role == "server":
        by_password = anyssh.ClientCredentials(USER, password=token())
        async with peer.server(host_key=theirs, authorized=keys.authorized) as server:
            with pytest.raises(anyssh.NegotiationError) as failure:
                async with our_client(server.port, theirs, by_password, config=config):
                    pytest.fail(f"{peering} has {host_key}")
        assert host_key not in failure.value.theirs
        return
    password = token()
    async with our_server(Gate(USER, password=password), [mine], config=config) as ours:
        # It may not know what to do with such a key at all.
        report = await peer.play(ours.port, "echo", host_public_key=theirs, password=password)
        assert not report.all("authenticated")
        assert not ours.visits
        assert not ours.attempts


# --- the page


@pytest.mark.parametrize("peering", PEERINGS, ids=str)
def test_the_page_lists_these_cells(plans: Plans, peering: Peering) -> None:
    section = table.Page.parse(table.PATH.read_text()).sections.get(peering, table.Section())
    wanted = plans[peering]
    played = {table.Line(cell, ("asyncio", "trio")) for cell in wanted.covering}
    played |= {table.Line(cell, ("asyncio",)) for cell in wanted.pairwise}
    differ = sorted(map(str, played ^ set(section.lines)))
    version = plans.greetings(peering)[0].version
    if differ and version != section.version and os.environ.get("CI") != "true":
        pytest.skip(f"the page is of {section.version}, here is {version}")
    assert not differ, f"run nox -s interop-table and commit docs/interop.md: {version}: {differ}"
