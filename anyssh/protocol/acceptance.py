"""Which messages are legal when: the table that every received packet is looked up in.

A row permits some message numbers for some receivers in some phases, under a condition. Anything
that no row permits ends the connection with DISCONNECT before it is parsed or has any other effect.
Handlers may therefore assume that their message was legal.

Conditions and dispositions are just names here: :class:`~anyssh.protocol.core.Core` evaluates the
former and carries out the latter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from ..constants import MessageNumber as N

__all__ = [
    "NEXT_PHASES",
    "PLAIN",
    "TABLE",
    "Condition",
    "Disposition",
    "Phase",
    "Role",
    "Row",
    "Rule",
    "compiled",
]


class Role(Enum):
    """Which end of the session we are; the table names the receiver."""

    if not TYPE_CHECKING:
        __hash__ = object.__hash__  # that of Enum is written in Python

    CLIENT = auto()
    SERVER = auto()

    @property
    def other(self) -> Role:
        """The peer's role."""
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT


class Phase(Enum):
    """The phase of one connection."""

    if not TYPE_CHECKING:
        __hash__ = object.__hash__  # that of Enum is written in Python

    VERSION = auto()
    KEY_EXCHANGE = auto()
    ENCRYPTED = auto()
    AUTHENTICATION = auto()
    RUNNING = auto()
    REKEYING = auto()
    """From a later KEXINIT of the peer until its NEWKEYS; our own may be earlier or later."""
    TERMINATED = auto()


NEXT_PHASES: Final[Mapping[Phase, tuple[Phase, ...]]] = {
    Phase.VERSION: (Phase.KEY_EXCHANGE, Phase.TERMINATED),
    Phase.KEY_EXCHANGE: (Phase.ENCRYPTED, Phase.RUNNING, Phase.TERMINATED),
    Phase.ENCRYPTED: (Phase.AUTHENTICATION, Phase.RUNNING, Phase.TERMINATED),
    Phase.AUTHENTICATION: (Phase.RUNNING, Phase.TERMINATED),
    Phase.RUNNING: (Phase.REKEYING, Phase.TERMINATED),
    Phase.REKEYING: (Phase.RUNNING, Phase.TERMINATED),
    Phase.TERMINATED: (),
}
"""The possible transitions. A key exchange leads straight to RUNNING if the stream needs no
protection, and so does ENCRYPTED if a session is resumed over another stream.
"""


class Condition(Enum):
    """What must hold in addition to role and phase."""

    if not TYPE_CHECKING:
        __hash__ = object.__hash__  # that of Enum is written in Python

    ALWAYS = auto()
    FEW_AND_NOT_STRICT = auto()
    """At most 8 during the first key exchange, and none with strict key exchange."""
    NOT_TOO_MUCH_NOISE = auto()
    """Messages without effect are legal, but too many of them are an attack."""
    KEXINIT_EXPECTED = auto()
    KEXDH_INIT_EXPECTED = auto()
    KEXDH_REPLY_EXPECTED = auto()
    NEWKEYS_EXPECTED = auto()
    REKEY_ALLOWED = auto()
    SERVICE_PENDING = auto()
    EXT_INFO_EXPECTED = auto()
    USERAUTH_REPLY_EXPECTED = auto()
    FEW_BANNERS = auto()
    """At any time during authentication (RFC 4252 section 5.4), but not indefinitely."""
    USERAUTH_METHOD_MESSAGE_EXPECTED = auto()
    INFO_RESPONSE_EXPECTED = auto()
    CONNECTION_UNUSED = auto()
    """No message of the connection protocol has arrived yet (RFC 4252 section 5.1)."""
    DEV_TUNNELS_PEER = auto()
    EARLY_REQUEST = auto()
    """A request to enable or start reconnecting; Dev Tunnels implementations also send others."""
    RECONNECT_REPLY_EXPECTED = auto()


class Disposition(Enum):
    """What happens to a legal message."""

    HANDLE = auto()
    DROP = auto()
    REFUSE = auto()
    """Refused, without asking the application."""
    DEFER = auto()
    """Kept until the new keys are in use."""
    UNIMPLEMENTED = auto()
    """An unknown message, answered with UNIMPLEMENTED (RFC 4253 section 11.4)."""


_BOTH: Final = (Role.CLIENT, Role.SERVER)
_CLIENT: Final = (Role.CLIENT,)
_SERVER: Final = (Role.SERVER,)

_NOISE: Final = (N.IGNORE, N.UNIMPLEMENTED, N.DEBUG)
_GLOBAL: Final = (N.GLOBAL_REQUEST, N.REQUEST_SUCCESS, N.REQUEST_FAILURE)
_CHANNEL: Final = tuple(range(N.CHANNEL_OPEN, N.CHANNEL_FAILURE + 1))
_UNASSIGNED: Final = (
    *range(8, 20),
    *range(22, 30),
    *range(32, 50),
    *range(54, 60),
    *range(62, 80),
    *range(83, 90),
    *range(101, 256),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Permits some messages for some receivers in some phases."""

    numbers: tuple[int, ...]
    receivers: tuple[Role, ...]
    phases: tuple[Phase, ...]
    condition: Condition = Condition.ALWAYS
    disposition: Disposition = Disposition.HANDLE


@dataclass(frozen=True, slots=True)
class Rule:
    """What a row says about one message; compared by identity with :data:`PLAIN`."""

    condition: Condition
    disposition: Disposition


PLAIN: Final = Rule(Condition.ALWAYS, Disposition.HANDLE)
"""The rule of most messages: handle it."""

_ENCRYPTED: Final = (Phase.ENCRYPTED, Phase.AUTHENTICATION, Phase.RUNNING, Phase.REKEYING)
_UNAUTHENTICATED: Final = (Phase.ENCRYPTED, Phase.AUTHENTICATION)

TABLE: Final = (
    Row((N.DISCONNECT,), _BOTH, (Phase.KEY_EXCHANGE, *_ENCRYPTED)),
    Row(
        _NOISE,
        _BOTH,
        (Phase.KEY_EXCHANGE,),
        Condition.FEW_AND_NOT_STRICT,
        Disposition.DROP,
    ),
    Row(_NOISE, _BOTH, _ENCRYPTED, Condition.NOT_TOO_MUCH_NOISE),
    # Key exchange
    Row((N.KEXINIT,), _BOTH, (Phase.KEY_EXCHANGE,), Condition.KEXINIT_EXPECTED),
    Row((N.KEXINIT,), _BOTH, (Phase.RUNNING,), Condition.REKEY_ALLOWED),
    Row(
        (N.KEXDH_INIT,),
        _SERVER,
        (Phase.KEY_EXCHANGE, Phase.REKEYING),
        Condition.KEXDH_INIT_EXPECTED,
    ),
    Row(
        (N.KEXDH_REPLY,),
        _CLIENT,
        (Phase.KEY_EXCHANGE, Phase.REKEYING),
        Condition.KEXDH_REPLY_EXPECTED,
    ),
    Row((N.NEWKEYS,), _BOTH, (Phase.KEY_EXCHANGE, Phase.REKEYING), Condition.NEWKEYS_EXPECTED),
    # Authentication. Some clients request the service again before each of their attempts.
    Row((N.SERVICE_REQUEST,), _SERVER, _UNAUTHENTICATED),
    Row((N.SERVICE_ACCEPT,), _CLIENT, (Phase.ENCRYPTED,), Condition.SERVICE_PENDING),
    Row((N.EXT_INFO,), _BOTH, _UNAUTHENTICATED, Condition.EXT_INFO_EXPECTED),
    Row((N.USERAUTH_REQUEST,), _SERVER, (Phase.AUTHENTICATION,)),
    Row(
        (N.USERAUTH_REQUEST,),
        _SERVER,
        (Phase.RUNNING,),
        Condition.CONNECTION_UNUSED,
        Disposition.DROP,
    ),
    Row(
        (N.USERAUTH_FAILURE, N.USERAUTH_SUCCESS),
        _CLIENT,
        (Phase.AUTHENTICATION,),
        Condition.USERAUTH_REPLY_EXPECTED,
    ),
    Row((N.USERAUTH_BANNER,), _CLIENT, (Phase.AUTHENTICATION,), Condition.FEW_BANNERS),
    Row(
        (N.USERAUTH_FAILURE, N.USERAUTH_SUCCESS),
        _SERVER,
        (Phase.AUTHENTICATION,),
        Condition.DEV_TUNNELS_PEER,
        Disposition.DROP,
    ),
    Row(
        (N.USERAUTH_PK_OK,),
        _CLIENT,
        (Phase.AUTHENTICATION,),
        Condition.USERAUTH_METHOD_MESSAGE_EXPECTED,
    ),
    Row(
        (N.USERAUTH_INFO_RESPONSE,),
        _SERVER,
        (Phase.AUTHENTICATION,),
        Condition.INFO_RESPONSE_EXPECTED,
    ),
    # Connection
    Row((N.GLOBAL_REQUEST,), _BOTH, _UNAUTHENTICATED, Condition.EARLY_REQUEST),
    Row(
        (N.REQUEST_SUCCESS, N.REQUEST_FAILURE),
        _CLIENT,
        (Phase.ENCRYPTED,),
        Condition.RECONNECT_REPLY_EXPECTED,
    ),
    Row(
        (N.CHANNEL_OPEN,),
        _SERVER,
        _UNAUTHENTICATED,
        Condition.DEV_TUNNELS_PEER,
        Disposition.REFUSE,
    ),
    Row((N.SERVICE_REQUEST,), _SERVER, (Phase.RUNNING,)),
    Row((N.SERVICE_ACCEPT,), _CLIENT, (Phase.RUNNING,), Condition.SERVICE_PENDING),
    Row((*_GLOBAL, *_CHANNEL), _BOTH, (Phase.RUNNING,)),
    Row(
        (*_GLOBAL, *_CHANNEL),
        _BOTH,
        (Phase.REKEYING,),
        Condition.DEV_TUNNELS_PEER,
        Disposition.DEFER,
    ),
    Row(
        _UNASSIGNED,
        _BOTH,
        (Phase.RUNNING,),
        Condition.NOT_TOO_MUCH_NOISE,
        Disposition.UNIMPLEMENTED,
    ),
)


def compiled(role: Role) -> dict[Phase, tuple[Rule | None, ...]]:
    """Return the table of one receiver: 256 rules for each phase, None where illegal."""
    result: dict[Phase, list[Rule | None]] = {phase: [None] * 256 for phase in Phase}
    for row in _rows_for(role):
        rule = Rule(row.condition, row.disposition)
        for phase in row.phases:
            for number in row.numbers:
                if result[phase][number] is not None:
                    raise ValueError(f"two rows for message {number} in {phase}")
                result[phase][number] = PLAIN if rule == PLAIN else rule
    return {phase: tuple(rules) for phase, rules in result.items()}


def _rows_for(role: Role) -> Iterable[Row]:
    return (row for row in TABLE if role in row.receivers)
