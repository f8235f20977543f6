"""Changes that make no difference to anybody, and why: looked at one by one, and not counted.

They are named by module, line of source and change, so that they survive changes elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from .mutants import Mutant

__all__ = ["EQUIVALENT", "reason_for"]

UNTIL_USED: Final = "it is set before it is used"
SPEED: Final = "it decides how much is done at once, not what comes of it"
GATE: Final = "the table of legal messages has seen to it before"

EQUIVALENT: Final[dict[str, dict[tuple[str, str], str]]] = {
    "anyssh.algorithms.packets": {
        ("_FIRST_POOL_SIZE: Final = 256", "256 -> 257"): SPEED,
        ("_POOL_SIZE: Final = 1024", "1024 -> 1025"): SPEED,
        ("VIEW_FROM: Final = 8192", "8192 -> 8193"): SPEED,
    },
    "anyssh.algorithms.aes_gcm": {
        (
            "buffer[start:end] if packet_length < VIEW_FROM else memoryview(buffer)[start:end],",
            "packet_length < VIEW_FROM -> packet_length <= VIEW_FROM",
        ): SPEED,
    },
    "anyssh.algorithms.encrypt_and_mac": {
        ("_DISCARD_STEP: Final = 32 * 1024", "1024 -> 1025"): SPEED,
        ("_DISCARD_STEP: Final = 32 * 1024", "32 -> 33"): SPEED,
        (
            'self._authenticator.code(b"", buffer[offset : offset + size])',
            "offset + size -> offset - size",
        ): "what comes of it is not looked at; it shall only take its time",
    },
    "anyssh.protocol.transport": {
        (
            "if not MIN_PACKET_LENGTH <= length <= self._max_packet_length:",
            "MIN_PACKET_LENGTH <= length <= self._max_packet_length -> "
            "MIN_PACKET_LENGTH < length <= self._max_packet_length",
        ): "in each mode the shortest packet is longer, and this one is refused later",
        ("self.receipted_messages: int = 0", "0 -> 1"): UNTIL_USED,
        ("self.receipted_bytes: int = 0", "0 -> 1"): UNTIL_USED,
        ("self.received_at: float = 0.0", "0.0 -> 1.0"): UNTIL_USED,
        ("self.now: float = 0.0", "0.0 -> 1.0"): UNTIL_USED,
    },
    "anyssh.protocol.client_authentication": {
        (
            "if self._grouped_prompts:",
            "self._grouped_prompts -> not self._grouped_prompts",
        ): "both layouts are tried, and nothing that is meant for one can be read in the other",
        (
            "layouts.reverse()",
            "without layouts.reverse()",
        ): "both layouts are tried, and nothing that is meant for one can be read in the other",
        ("self._prompt_count = 0", "0 -> 1"): UNTIL_USED,
        ("self._prompt_count = 0", "without self._prompt_count = 0"): UNTIL_USED,
    },
    "anyssh.protocol.server_authentication": {
        ("self._judged_since = 0.0", "0.0 -> 1.0"): UNTIL_USED,
        ("self._judged_since = 0.0", "without self._judged_since = 0.0"): UNTIL_USED,
        (
            'raise RemoteProtocolError("answers without a challenge")',
            "without raise RemoteProtocolError('answers without a challenge')",
        ): GATE,
        (
            "return FAILURE_TIME + FAILURE_TIME_SPREAD * digest[0] / 255",
            "0 -> 1",
        ): "each byte of the digest is as good as the first",
        (
            'digest = hmac.digest(self._delay_secret, (self._username or "").encode(), '
            "hashlib.sha256)",
            "'' -> 'X'",
        ): "whoever is judged has a name",
        (
            "self._queue.clear()",
            "without self._queue.clear()",
        ): "once somebody is authenticated, nothing more is judged",
    },
    "anyssh.protocol.acceptance": {
        (
            "Row((N.SERVICE_ACCEPT,), _CLIENT, (Phase.ENCRYPTED,), Condition.SERVICE_PENDING),",
            "Condition.SERVICE_PENDING -> Condition.ALWAYS",
        ): "its handler ends the connection too, as no name is that of no service",
        (
            "Row((N.SERVICE_ACCEPT,), _CLIENT, (Phase.RUNNING,), Condition.SERVICE_PENDING),",
            "Condition.SERVICE_PENDING -> Condition.ALWAYS",
        ): "its handler ends the connection too, as no name is that of no service",
        (
            "Row((N.SERVICE_ACCEPT,), _CLIENT, (Phase.RUNNING,), Condition.SERVICE_PENDING),",
            "_CLIENT -> _BOTH",
        ): "the condition never holds for a server, which asks for no service",
    },
    "anyssh.protocol.journal": {
        ("self._confirmed_by = 0", "0 -> 1"): UNTIL_USED,
        ("self._confirmed_by = 0", "without self._confirmed_by = 0"): UNTIL_USED,
        ("self._repeated = 0", "0 -> 1"): UNTIL_USED,
        ("self._repeated = 0", "without self._repeated = 0"): UNTIL_USED,
    },
    "anyssh.protocol.reconnect": {
        (
            "if waiting <= 0 or not transport.gives_receipts:",
            "waiting <= 0 -> waiting < 0",
        ): "a deadline is set at which nothing is due",
        (
            "for new, old in zip(_macs(algorithms), _macs(before), strict=True)",
            "True -> False",
        ): "both have two",
        ("continuity.attempts += 1", "1 -> 2"): "only their order matters",
        (
            "self._has_asked = False",
            "without self._has_asked = False",
        ): "the reply ends the phase in which it is looked at",
    },
}
"""By module, then by line and change: the reason."""


def reason_for(mutant: Mutant, source: Callable[[str], str]) -> str | None:
    """Return why a change makes no difference, None if it may make one."""
    known = EQUIVALENT.get(mutant.module)
    if known is None:
        return None
    return known.get((_lines(mutant.module, source)[mutant.line - 1].strip(), mutant.what))


@cache
def _lines(module: str, source: Callable[[str], str]) -> list[str]:
    return source(module).splitlines()
