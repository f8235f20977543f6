"""The page of the matrix: generated from the cells that passed, and read back for comparison.

``python -m tests.interop.table RESULTS`` writes ``docs/interop.md`` from the lines that a run of
``test_matrix.py`` left in the file RESULTS. If a peer is missing there, the page is not written.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyssh import config

from .explained import EXPLAINED
from .matrix import PEERINGS, Cell, Peering

PATH = Path(__file__).parents[2] / "docs/interop.md"

TITLES = {
    "openssh": "OpenSSH",
    "dropbear": "Dropbear",
    "putty": "PuTTY plink",
    "libssh": "libssh",
    "libssh2": "libssh2",
    "asyncssh": "asyncssh",
    "paramiko": "paramiko",
    "twisted": "Twisted Conch",
    "ssh2": "npm ssh2",
    "npm": "Dev Tunnels SSH",
}
KINDS = {
    "Key exchange": config.KEY_EXCHANGES,
    "Host key": config.HOST_KEY_ALGORITHMS,
    "Cipher": config.ENCRYPTIONS,
    "MAC": config.MACS,
}
REKEYERS = {"us": "anyssh", "peer": "the peer"}

HEAD = """\
# Interoperability

Every test run exercises anyssh against each of these programs over real sockets, in both roles
where the program has both. `nox -s interop-table` generates this page from such a run, and a test
fails if the cells on the page differ from those of the run.

The algorithms that both sides support are read from the program's own KEXINIT. Of all combinations
of key exchange, host key, cipher and MAC, the run takes enough to cover every pair of two
algorithms; each is a *cell*. In each cell the client

* authenticates with a public key,
* sends 1 MiB through a command that echoes it and compares hashes, with a key re-exchange halfway,
* connects to a port behind the server (`direct-tcpip`),
* authenticates again with a password, and runs a command that writes to both outputs and exits
  with status 42.

A failing cell fails the run, so every cell listed here has passed. All cells run on asyncio; those
that are the first to use an algorithm also run on Trio. Keyboard-interactive logins, exit signals,
many channels, port forwarding in both directions, keep-alive, certificates, agents and reconnecting
have their own tests, against the programs that support them.

## Peers

"New keys by" says which side starts the key re-exchange: if both can, each does for half of the
host key algorithms. PuTTY and libssh2 have no server. PuTTY's `psftp` needs an SFTP server, which
anyssh leaves to applications.

"""


@dataclass(frozen=True)
class Line:
    """A cell and the event loops that it ran on."""

    cell: Cell
    backends: tuple[str, ...]

    def __str__(self) -> str:
        names = (*self.cell.names[:3], self.cell.mac or "-")
        widths = (30, 20, 30, 30)
        columns = [name.ljust(width) for name, width in zip(names, widths, strict=True)]
        return " ".join([*columns, *self.backends])

    @classmethod
    def parse(cls, text: str) -> Line:
        key_exchange, host_key, cipher, mac, *backends = text.split()
        return cls(
            Cell(key_exchange, host_key, cipher, None if mac == "-" else mac), tuple(backends)
        )


@dataclass
class Section:
    """What is known of one peer in one role."""

    version: str = ""
    rekeyers: set[str] = field(default_factory=set)
    lines: list[Line] = field(default_factory=list)

    @property
    def runs(self) -> int:
        return sum(len(line.backends) for line in self.lines)

    def uses(self, algorithm: str) -> int:
        return sum(algorithm in line.cell.names for line in self.lines)


def title(peering: Peering) -> str:
    return f"{TITLES[peering.peer]} as the {peering.role}"


@dataclass
class Page:
    """The sections by peer and role."""

    sections: dict[Peering, Section]

    @classmethod
    def of_results(cls, lines: Iterable[str]) -> Page:
        """Put the cells of a run together; a cell that ran on two event loops is one line."""
        cells: dict[Peering, dict[Cell, list[str]]] = defaultdict(lambda: defaultdict(list))
        sections: dict[Peering, Section] = defaultdict(Section)
        for line in lines:
            entry: dict[str, Any] = json.loads(line)
            peering = Peering(entry["peer"], entry["role"])
            kinds = ("key_exchange", "host_key", "cipher", "mac")
            cells[peering][Cell(*(entry[kind] for kind in kinds))].append(entry["backend"])
            sections[peering].version = entry["version"]
            sections[peering].rekeyers.add(entry["rekey"])
        for peering, found in cells.items():
            ordered = sorted(found, key=_order)
            sections[peering].lines = [
                Line(cell, tuple(sorted(set(found[cell])))) for cell in ordered
            ]
        return cls(dict(sections))

    @classmethod
    def parse(cls, text: str) -> Page:
        """Read the cells back from a page."""
        titles = {title(peering): peering for peering in PEERINGS}
        sections: dict[Peering, Section] = {}
        for part in text.split("\n### ")[1:]:
            heading, _, rest = part.partition("\n")
            listing = rest.split("```")[1].partition("\n")[2]
            version = rest.split("`")[1]
            lines = [Line.parse(line) for line in listing.splitlines()]
            sections[titles[heading]] = Section(version, lines=lines)
        return cls(sections)

    def __str__(self) -> str:
        parts = (self._peers(), self._algorithms(), scanners(), self._cells())
        return HEAD + "\n".join("\n".join(part) + "\n" for part in parts)

    def _peers(self) -> Iterator[str]:
        yield "| peer | as the | identifies itself as | cells | runs | new keys by |"
        yield "|---|---|---|--:|--:|---|"
        for peering in PEERINGS:
            section = self.sections[peering]
            by = " or ".join(REKEYERS[name] for name in sorted(section.rekeyers, reverse=True))
            row = (TITLES[peering.peer], peering.role, f"`{section.version}`")
            yield f"| {' | '.join(row)} | {len(section.lines)} | {section.runs} | {by} |"
        cells = sum(len(section.lines) for section in self.sections.values())
        runs = sum(section.runs for section in self.sections.values())
        yield f"| **all** | | | **{cells:,}** | **{runs:,}** | |"

    def _algorithms(self) -> Iterator[str]:
        yield "## Algorithms"
        yield ""
        yield "In how many cells an algorithm was used, with the peer as the client / as the"
        yield "server. A dash: the peer does not have it."
        yield ""
        yield f"| | {' | '.join(TITLES.values())} |"
        yield "|---|" + "--:|" * len(TITLES)
        for kind, names in KINDS.items():
            yield f"| **{kind}** |" + " |" * len(TITLES)
            for name in names:
                yield f"| `{name}` | {' | '.join(self._uses(peer, name) for peer in TITLES)} |"

    def _uses(self, peer: str, algorithm: str) -> str:
        counts = [
            str(self.sections[Peering(peer, role)].uses(algorithm) or "–")
            for role in ("client", "server")
            if Peering(peer, role) in PEERINGS
        ]
        return " / ".join(counts)

    def _cells(self) -> Iterator[str]:
        yield "## Cells"
        yield ""
        yield "Key exchange, host key, cipher, MAC and event loops. A dash means that the cipher"
        yield "includes its own MAC."
        for peering in PEERINGS:
            section = self.sections[peering]
            yield ""
            yield f"### {title(peering)}"
            yield ""
            yield f"`{section.version}`"
            yield ""
            yield "```text"
            yield from map(str, section.lines)
            yield "```"


def scanners() -> Iterator[str]:
    """Give the part about scanners."""
    yield "## Scanners"
    yield ""
    yield "`ssh-audit` examines a default server and a default client; `nmap`'s `ssh2-enum-algos`,"
    yield "`ssh-auth-methods`, `ssh-hostkey` and `sshv1` examine the server. The run fails if the"
    yield "findings of `ssh-audit` differ from these."
    yield ""
    yield "| `ssh-audit` says | of | why it stays |"
    yield "|---|---|---|"
    for one in EXPLAINED:
        names = ", ".join(f"`{name}`" for name in sorted(one.algorithms))
        yield f"| {one.words} | {names} | {one.why} |"


def _order(cell: Cell) -> tuple[int, ...]:
    """Order cells as we prefer their algorithms."""
    ranks = [name for names in KINDS.values() for name in names]
    return tuple(ranks.index(name) for name in cell.names)


def main(results: Path) -> None:
    """Write the page from the results of a run."""
    page = Page.of_results(results.read_text().splitlines())
    if missing := [str(peering) for peering in PEERINGS if peering not in page.sections]:
        raise SystemExit(f"nothing passed with {', '.join(missing)}; the page stays as it is")
    PATH.write_text(str(page))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
