"""The plan of the matrix and its page, without any peer."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import combinations

import pytest

from anyssh import config

from .matrix import AEAD, PEERINGS, Cell, Offer, plan
from .table import PATH, Line, Page, Section, scanners

EVERYTHING = Offer(
    config.KEY_EXCHANGES, config.HOST_KEY_ALGORITHMS, config.ENCRYPTIONS, config.MACS
)
LITTLE = Offer(("curve25519-sha256",), ("ssh-ed25519",), ("aes256-ctr",), ("hmac-sha2-256",))
ONLY_AEAD = Offer(("curve25519-sha256",), ("ssh-ed25519",), AEAD, ())


@pytest.mark.parametrize("offer", [EVERYTHING, LITTLE, ONLY_AEAD])
def test_the_plan_has_each_name_and_each_pair(offer: Offer) -> None:
    possible = list(offer.cells())
    names = {name for cell in possible for name in cell.names}
    pairs = {pair for cell in possible for pair in combinations(cell.names, 2)}
    chosen = plan(offer)
    assert {name for cell in chosen.covering for name in cell.names} == names
    assert {pair for cell in chosen.cells for pair in combinations(cell.names, 2)} == pairs
    assert len(set(chosen.cells)) == len(chosen.cells) <= len(possible)
    assert set(chosen.cells) <= set(possible)


def test_the_plan_is_much_less_than_everything() -> None:
    assert len(list(EVERYTHING.cells())) == 912
    assert len(plan(EVERYTHING).covering) == len(config.KEY_EXCHANGES)
    assert len(plan(EVERYTHING).cells) < 65


def test_nothing_in_common() -> None:
    assert plan(Offer((), (), (), ())).cells == ()


def test_a_cipher_with_a_mac_of_its_own_has_no_other() -> None:
    for cell in EVERYTHING.cells():
        assert (cell.mac is None) == (cell.cipher in AEAD)


def results() -> list[str]:
    """Return lines as a run leaves them: two cells for each peer, one of them on two loops."""
    both = Cell("curve25519-sha256", "ssh-ed25519", "aes256-gcm@openssh.com", None)
    one = Cell("ecdh-sha2-nistp256", "rsa-sha2-256", "aes128-ctr", "hmac-sha2-256")
    runs = [(one, "asyncio", "us"), (both, "trio", "peer"), (both, "asyncio", "peer")]
    return [
        json.dumps(
            asdict(peering) | asdict(cell) | {"backend": loop, "rekey": by, "version": "SSH-2.0-x"}
        )
        for peering in PEERINGS
        for cell, loop, by in runs
    ]


def test_a_page_can_be_read_back() -> None:
    page = Page.of_results(results())
    assert list(map(str, page.sections[PEERINGS[0]].lines)) == [
        "curve25519-sha256              ssh-ed25519          aes256-gcm@openssh.com"
        "         -                              asyncio trio",
        "ecdh-sha2-nistp256             rsa-sha2-256         aes128-ctr            "
        "         hmac-sha2-256                  asyncio",
    ]
    again = Page.parse(str(page))
    assert list(again.sections) == PEERINGS
    for peering, section in page.sections.items():
        assert again.sections[peering].lines == section.lines
        assert again.sections[peering].version == "SSH-2.0-x"


def test_the_page_counts() -> None:
    text = str(Page.of_results(results()))
    assert "| OpenSSH | client | `SSH-2.0-x` | 2 | 3 | anyssh or the peer |" in text
    cells, runs = 2 * len(PEERINGS), 3 * len(PEERINGS)
    assert f"| **all** | | | **{cells}** | **{runs}** | |" in text
    [row] = [line for line in text.splitlines() if line.startswith("| `aes128-ctr` |")]
    assert row.split("|")[2:5] == [" 1 / 1 ", " 1 / 1 ", " 1 "]
    [row] = [line for line in text.splitlines() if line.startswith("| `aes192-ctr` |")]
    assert row.split("|")[2:5] == [" – / – ", " – / – ", " – "]


def test_lines_without_a_mac() -> None:
    line = Line(Cell("a", "b", "c", None), ("trio",))
    assert Line.parse(str(line)) == line
    assert Section(lines=[line]).uses("c") == 1


def test_the_page_tells_what_scanners_find() -> None:
    assert "\n".join(scanners()) in PATH.read_text()
