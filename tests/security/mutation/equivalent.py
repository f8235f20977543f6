"""Changes without any effect, and why: examined one by one, and not counted.

They are named by module, source line and change, so that they survive changes elsewhere.
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

NEVER_A_SERVER: Final = "the condition never holds for a server"
A_NAME: Final = "both sides are ours, and say the same"
WORDS: Final = "it is a word of an error"
AS_FALSE: Final = "it is as false"

EQUIVALENT: Final[dict[str, dict[tuple[str, str], str]]] = {
    "anyssh.algorithms.packets": {
        ("if end < VIEW_FROM:", "end < VIEW_FROM -> end <= VIEW_FROM"): SPEED,
        ("self._offset = 0", "0 -> 1"): "a byte of the first randomness is left out",
        (
            "least = [-size % block_size for size in range(block_size)]",
            "-size % block_size -> -size + block_size",
        ): "less than the least is raised by one block anyway",
        ("_FIRST_POOL_SIZE: Final = 256", "256 -> 257"): SPEED,
        ("_POOL_SIZE: Final = 1024", "1024 -> 1025"): SPEED,
        ("VIEW_FROM: Final = 8192", "8192 -> 8193"): SPEED,
    },
    "anyssh.algorithms.aes_gcm": {
        (
            "buffer[start:end] if packet_length < VIEW_FROM else memoryview(buffer)[start:end],",
            "packet_length < VIEW_FROM -> not packet_length < VIEW_FROM",
        ): SPEED,
        (
            "buffer[start:end] if packet_length < VIEW_FROM else memoryview(buffer)[start:end],",
            "packet_length < VIEW_FROM -> packet_length > VIEW_FROM",
        ): SPEED,
        (
            "buffer[start:end] if packet_length < VIEW_FROM else memoryview(buffer)[start:end],",
            "packet_length < VIEW_FROM -> packet_length <= VIEW_FROM",
        ): SPEED,
    },
    "anyssh.algorithms.encrypt_and_mac": {
        (
            'self._authenticator.code(b"", buffer[offset : offset + size])',
            "without self._authenticator.code(b'', buffer[offset:offset + size])",
        ): "what comes of it is not looked at; it shall only take its time",
        ("_DISCARD_STEP: Final = 32 * 1024", "32 * 1024 -> 32 + 1024"): SPEED,
        (
            'self._authenticator.code(b"", buffer[offset : offset + size])',
            "b'' -> b'X'",
        ): "what comes of it is not looked at; it shall only take its time",
        ("_DISCARD_STEP: Final = 32 * 1024", "1024 -> 1025"): SPEED,
        ("_DISCARD_STEP: Final = 32 * 1024", "32 -> 33"): SPEED,
        (
            'self._authenticator.code(b"", buffer[offset : offset + size])',
            "offset + size -> offset - size",
        ): "what comes of it is not looked at; it shall only take its time",
    },
    "anyssh.protocol.transport": {
        ("self.last_receipt: int = -1", "1 -> 2"): "every number is larger than either",
        (
            'f"before, and {self.messages_sent - 1} was the last one sent"',
            "1 -> 2",
        ): "it is a number in an error",
        (
            "if not self.last_receipt < number < self.messages_sent:",
            "self.last_receipt < number < self.messages_sent -> "
            "self.last_receipt <= number < self.messages_sent",
        ): "whoever repeats a receipt is let go on before",
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
        (
            "if challenge is None or self._current is None:",
            "challenge is None or self._current is None -> "
            "challenge is None and self._current is None",
        ): GATE,
        (
            "self._is_authenticated = True",
            "without self._is_authenticated = True",
        ): "once somebody is authenticated, nothing more is in the queue",
        (
            '"too many authentication failures", DisconnectReason.NO_MORE_AUTH_METHODS_AVAILABLE',
            "'too many authentication failures' -> 'too many authentication failuresX'",
        ): "it is a word of an error",
        (
            "except (KeyFormatError, WireError):",
            "without WireError in a tuple",
        ): "what is no key raises the other one",
        (
            "self._is_authenticated = True",
            "True -> False",
        ): "once somebody is authenticated, nothing more is in the queue",
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
            "Condition.INFO_RESPONSE_EXPECTED,",
            "Condition.INFO_RESPONSE_EXPECTED -> Condition.ALWAYS",
        ): "its handler ends the connection too",
        (
            "Row((N.SERVICE_ACCEPT,), _CLIENT, (Phase.ENCRYPTED,), Condition.SERVICE_PENDING),",
            "_CLIENT -> _BOTH",
        ): NEVER_A_SERVER,
        (
            "result: dict[Phase, list[Rule | None]] = {phase: [None] * 256 for phase in Phase}",
            "256 -> 257",
        ): "no message has that number",
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
        ("self._unanswered = -1", "1 -> 2"): "no packet has either number",
        ("self._watched = 0", "0 -> 1"): UNTIL_USED,
        ("self._watched = 0", "without self._watched = 0"): UNTIL_USED,
        (
            'words = displayable(failure.description) or "no description"',
            "'no description' -> 'no descriptionX'",
        ): "it is a word of an error",
        (
            'raise LocalProtocolError("the extension is not in use")',
            "without raise LocalProtocolError('the extension is not in use')",
        ): GATE,
        (
            "self._unanswered = -1",
            "-1 -> 1",
        ): "no stream is so short that the number of its last packet is 1",
        (
            "return self.deadline is not None or not self._transport.gives_receipts",
            "return self.deadline is not None or not self._transport.gives_receipts -> return None",
        ): SPEED,
        (
            "return self.deadline is not None or not self._transport.gives_receipts",
            "self.deadline is not None or not self._transport.gives_receipts -> "
            "self.deadline is not None and (not self._transport.gives_receipts)",
        ): SPEED,
        (
            'digest = hashlib.sha256(b"anyssh-link" + self._exchanger.session_id).digest()',
            "b'anyssh-link' -> b'anyssh-linkX'",
        ): A_NAME,
        (
            "if self._connection is None or not self._is_requested:",
            "self._connection is None or not self._is_requested -> "
            "self._connection is None and (not self._is_requested)",
        ): GATE,
        (
            'raise LocalProtocolError("no session was requested")',
            "without raise LocalProtocolError('no session was requested')",
        ): GATE,
        (
            'raise LocalProtocolError("this session cannot reconnect")',
            "without raise LocalProtocolError('this session cannot reconnect')",
        ): "only sessions that can are asked",
        (
            "self._is_requested = False",
            "False -> True",
        ): "the reply ends the phase in which it is looked at",
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
            "self._is_requested = False",
            "without self._is_requested = False",
        ): "the reply ends the phase in which it is looked at",
    },
    "anyssh.algorithms.clear": {
        (
            "return bytes(payload) if packet_length < VIEW_FROM else memoryview(payload)",
            "packet_length < VIEW_FROM -> packet_length <= VIEW_FROM",
        ): SPEED,
        (
            "return bytes(payload) if packet_length < VIEW_FROM else memoryview(payload)",
            "packet_length < VIEW_FROM -> packet_length > VIEW_FROM",
        ): SPEED,
        (
            "return bytes(payload) if packet_length < VIEW_FROM else memoryview(payload)",
            "packet_length < VIEW_FROM -> not packet_length < VIEW_FROM",
        ): SPEED,
    },
    "anyssh.algorithms.chacha20_poly1305": {
        (
            "return Cipher(ChaCha20(key, _NONCE.pack(0)), mode=None).encryptor()",
            "0 -> 1",
        ): UNTIL_USED,
        ("self._last_sequence = -1", "1 -> 2"): "every sequence number is larger than either",
    },
    "anyssh.algorithms.protection": {
        (
            '_check_size("initial vector", encryption, iv, parameters.iv_size)',
            "'initial vector' -> 'initial vectorX'",
        ): "it is a word of an error",
        (
            '_check_size("key", encryption, key, parameters.key_size)',
            "'key' -> 'keyX'",
        ): "it is a word of an error",
    },
    "anyssh.algorithms.agreement": {
        (
            'seen = bytes(peer_public[:1]).hex() or "nothing"',
            "1 -> 2",
        ): WORDS,
    },
    "anyssh.protocol.key_exchange": {
        (
            'raise LocalProtocolError("a key exchange is in progress")',
            "without raise LocalProtocolError('a key exchange is in progress')",
        ): "whoever starts one has asked before",
        (
            'raise LocalProtocolError("the key exchange has no secret yet")',
            "without raise LocalProtocolError('the key exchange has no secret yet')",
        ): GATE,
        (
            'key = keys.derive(b"E" if to_server else b"F", mac_key_size(mac)) if mac else b""',
            "b'' -> b'X'",
        ): "reconnect is turned on only where both directions have one",
    },
    "anyssh.protocol.rekeying": {
        ("return False", "return False -> return None"): AS_FALSE,
        ("self._last_time = 0.0", "0.0 -> 1.0"): UNTIL_USED,
        ("self._quiet_until = _Mark(0, 0, 0, 0, 0.0)", "0.0 -> 1.0"): UNTIL_USED,
    },
    "anyssh.algorithms.finite_field": {
        ("480,", "480 -> 481"): "one bit more is as good",
        (
            'warnings.simplefilter("ignore")  # accessing deprecated names warns',
            "without warnings.simplefilter('ignore')",
        ): "the library that is tested with does not warn",
    },
    "anyssh.protocol.connection": {
        ("HELD_OVERHEAD: Final = 32", "32 -> 33"): "it is an estimate",
        (
            "self._packet_size = config.packet_size_with(None)",
            "without self._packet_size = config.packet_size_with(None)",
        ): UNTIL_USED,
        (
            "if self._held and sink.can_send:",
            "self._held and sink.can_send -> self._held or sink.can_send",
        ): "whoever resumes can send",
        ("GATHERED_BYTES: Final = 32 * 1024", "32 -> 33"): SPEED,
        ("self._next_id += 1", "1 -> 2"): "numbers may leave some out",
        (
            'channel, ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED, "not accepted"',
            "'not accepted' -> 'not acceptedX'",
        ): WORDS,
        ("return False", "return False -> return None"): AS_FALSE,
    },
    "anyssh.protocol.channel": {
        (
            "size = min(wanted, max(MIN_WINDOW, free // 4 if free < 4 * wanted else wanted))",
            "free < 4 * wanted -> free <= 4 * wanted",
        ): "both are the same then",
        (
            "size = min(wanted, max(MIN_WINDOW, free // 4 if free < 4 * wanted else wanted))",
            "4 -> 5",
        ): "the smaller one of both is taken",
    },
    "anyssh.protocol.core": {
        (
            'Phase.ENCRYPTED: "authentication",',
            "'authentication' -> 'authenticationX'",
        ): WORDS,
        (
            'Phase.AUTHENTICATION: "authentication",',
            "'authentication' -> 'authenticationX'",
        ): WORDS,
        ('Phase.RUNNING: "new keys",', "'new keys' -> 'new keysX'"): WORDS,
        ('Phase.REKEYING: "new keys",', "'new keys' -> 'new keysX'"): WORDS,
        ("return False", "return False -> return None"): AS_FALSE,
        (
            "others = (self._authentication.deadline, None, None)",
            "without None in a tuple",
        ): "it stands for no deadline",
        (
            "if deadline is not None and (earliest is None or deadline < earliest):",
            "deadline < earliest -> deadline <= earliest",
        ): "both are the same then",
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
