"""Which message is legal when, written a second time from the standards and the design.

This model knows nothing of anyssh: it follows one connection, message by message, and says how a
receiver has to treat each of them. Tests compare the implementation with it, so it must not be
changed to follow the code.

Phases are named by one letter: K first key exchange, E encrypted but without a service, A
authentication, R running, X exchange of new keys (from the peer's KEXINIT until its NEWKEYS).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

__all__ = ["ASSIGNED", "Model", "Verdict"]

ASSIGNED = frozenset({*range(1, 8), 20, 21, 30, 31, *range(50, 54), 60, 61, 80, 81, 82})
ASSIGNED |= set(range(90, 101))
MAX_EARLY_NOISE = 8


class Verdict(Enum):
    """What a receiver makes of a message."""

    REFUSED = auto()
    """DISCONNECT with reason 2, and nothing else."""
    SERVICE_REFUSED = auto()
    """DISCONNECT with reason 7, and nothing else."""
    ENDED = auto()
    """The peer has ended the connection."""
    HANDLED = auto()
    """Legal; if its form is wrong: REFUSED."""
    UNREAD = auto()
    """Legal whatever its form, without an event or a reply."""
    UNIMPLEMENTED = auto()
    """Legal whatever its form; the reply UNIMPLEMENTED leaves without anybody being asked."""
    ANSWERED = auto()
    """Legal; a reply leaves without anybody being asked."""


@dataclass
class Model:
    """One connection as its receiver sees it.

    :ivar strict: both sides have announced strict key exchange
    :ivar dev_tunnels: the peer belongs to the Dev Tunnels family
    :ivar signs: a server's signature is there at once
    :ivar request: what a client asks for as soon as it can, such as ``"password"``; None: nothing
    :ivar kex: the message that is due in a key exchange
    :ivar reconnect: the receiver announces that it can reconnect
    :ivar lost: a client that comes back for a session whose stream was lost
    :ivar negotiated: both have announced it; None while the peer has announced nothing
    :ivar enabled: the peer has turned it on
    :ivar halted: a server that finds out which session its client comes back for
    """

    is_server: bool
    strict: bool = True
    dev_tunnels: bool = False
    signs: bool = True
    request: str | None = "password"
    phase: str = "K"
    kex: str = "KEXINIT"
    received: int = 0
    early_noise: int = 0
    channel_message_came: bool = False
    success_is_due: bool = False
    challenged: bool = False
    banners: int = 0
    reconnect: bool = False
    lost: bool = False
    negotiated: bool | None = None
    enabled: bool = False
    halted: bool = False
    _since_newkeys: int = field(default=-1)

    def receive(self, number: int, detail: str = "") -> Verdict:
        """Judge one well-formed message, and go on to the state behind it."""
        verdict = self._judge(number, detail)
        self.received += 1
        self._since_newkeys += 1
        is_of_stream = detail == "enable" or (detail == "reconnect" and self.enabled)
        if self.phase == "R" and number >= 80 and number in ASSIGNED and not is_of_stream:
            self.channel_message_came = True
        return verdict

    def _judge(self, number: int, detail: str) -> Verdict:
        if self.halted:
            return Verdict.UNREAD
        if number == 1:
            return Verdict.ENDED
        if self.success_is_due and number != 52:
            return Verdict.REFUSED
        if number in (2, 3, 4):
            return self._judge_noise(number)
        if number in (20, 21, 30, 31):
            return self._legal(self._judge_exchange(number))
        judge = {"E": self._judge_service, "A": self._judge_authentication, "R": self._judge_rest}
        if self.phase in judge:
            return judge[self.phase](number, detail)
        if self.phase == "X" and self.dev_tunnels and number >= 80 and number in ASSIGNED:
            return Verdict.UNREAD
        return Verdict.REFUSED

    def _judge_noise(self, number: int) -> Verdict:
        if self.phase == "K":
            self.early_noise += 1
            is_strict = self.strict and self.kex != "KEXINIT"
            few = self.early_noise <= MAX_EARLY_NOISE
            return Verdict.REFUSED if is_strict or not few else Verdict.UNREAD
        return Verdict.UNREAD if number == 2 else Verdict.HANDLED

    def _judge_exchange(self, number: int) -> bool:
        if number == 20:
            first = self.phase == "K" and self.kex == "KEXINIT"
            if not (self.phase == "R" or (first and not (self.strict and self.received))):
                return False
            self.phase = "K" if first else "X"
            self.kex = "KEXDH_INIT" if self.is_server else "KEXDH_REPLY"
        elif number == 30 and self.kex == "KEXDH_INIT":
            self.kex = "NEWKEYS" if self.signs else "our signature"
        elif number == 31 and self.kex == "KEXDH_REPLY":
            self.kex = "NEWKEYS"
        elif number == 21 and self.kex == "NEWKEYS":
            self._since_newkeys = -1
            self.phase = "E" if self.phase == "K" else "R"
            self.kex = ""
        else:
            return False
        return True

    def _judge_service(self, number: int, detail: str) -> Verdict:
        if number == 7:
            if self._since_newkeys != 0:
                return Verdict.REFUSED
            self._announced(detail)
            # Without the extension there is nothing to ask such a server for.
            return Verdict.ENDED if self.lost and not self.negotiated else Verdict.HANDLED
        if number in (81, 82) and self.lost and self.negotiated:
            # A success proves nothing without the token; a failure needs no reason.
            is_formed = number == 82 or detail == "reconnect"
            return Verdict.ENDED if is_formed else Verdict.REFUSED
        if number == 5 and self.is_server:
            return self._judge_service_request(detail)
        if number == 6 and not self.is_server and self.request:
            self.phase = "A"
            return Verdict.HANDLED
        if number == 80 and detail == "reconnect" and self.is_server and self.negotiated:
            self.halted = True
            return Verdict.HANDLED
        return self._judge_too_early(number, detail)

    def _judge_service_request(self, detail: str) -> Verdict:
        """As often as the client likes: nothing in the standards says only once."""
        if detail == "ssh-connection":
            return Verdict.ANSWERED if self.dev_tunnels else Verdict.SERVICE_REFUSED
        self.phase = "A"
        return Verdict.ANSWERED

    def _announced(self, detail: str) -> None:
        """The first announcement counts."""
        if self.negotiated is None:
            self.negotiated = self.reconnect and detail == "reconnect"

    def _judge_enable(self) -> Verdict:
        """Once, if both have announced it; members of the Dev Tunnels family repeat it."""
        if self.negotiated and not self.enabled:
            self.enabled = True
            return Verdict.UNREAD
        return Verdict.UNREAD if self.dev_tunnels else Verdict.REFUSED

    def _judge_authentication(self, number: int, detail: str) -> Verdict:
        if self.is_server:
            if number == 5:
                return self._judge_service_request(detail)
            if number in (51, 52) and self.dev_tunnels:
                return Verdict.UNREAD
            if number == 61 and self.challenged:
                return Verdict.HANDLED
            if number == 50:
                self.challenged = detail == "keyboard-interactive"
                self.phase = "A" if detail else "R"
                return Verdict.HANDLED
            return self._judge_too_early(number, detail)
        if number == 80:
            return self._judge_too_early(number, detail)
        if number == 7:
            self._announced(detail)
            self.success_is_due = True
            return Verdict.HANDLED
        if number == 53:
            self.banners += 1
            return self._legal(self.banners <= 16)
        if number == 60 and self.request in ("query", "password", "interactive"):
            self.request = None
            return Verdict.HANDLED
        if number == 51 and self.request:
            self.request = None
            return Verdict.HANDLED
        # Success for a mere question about a key would be success without any proof.
        if number == 52 and self.request and self.request != "query":
            self.phase, self.success_is_due = "R", False
            return Verdict.HANDLED
        return Verdict.REFUSED

    def _judge_too_early(self, number: int, detail: str) -> Verdict:
        is_due = self.negotiated and not self.enabled
        if number == 80 and detail == "enable" and (is_due or self.is_server):
            return self._judge_enable()
        is_tried = self.is_server and self.dev_tunnels and number in (80, 90)
        return Verdict.ANSWERED if is_tried else Verdict.REFUSED

    def _judge_rest(self, number: int, detail: str) -> Verdict:
        if number not in ASSIGNED:  # numbers begin at 1 (RFC 4250 section 4.1.1)
            return Verdict.UNIMPLEMENTED if number else Verdict.REFUSED
        if number == 5 and self.is_server:
            return Verdict.ANSWERED if detail == "ssh-connection" else Verdict.SERVICE_REFUSED
        if number == 50 and self.is_server and not self.channel_message_came:
            return Verdict.UNREAD
        if number == 80 and detail == "enable":
            return self._judge_enable()
        if number == 80 and detail == "reconnect" and self.enabled:
            return Verdict.UNREAD  # sent again with what was lost
        if number in (91, 92):  # answers to an open that never was
            return Verdict.REFUSED
        return self._legal(number >= 80)

    @staticmethod
    def _legal(legal: bool) -> Verdict:
        return Verdict.HANDLED if legal else Verdict.REFUSED
