"""Which connections a server admits: limits in total and per source, and penalties.

A *source* is an IPv4 address or an IPv6 /64 network, the smallest unit that is assigned to one
user. Exempt and unknown addresses have the source None, and only the limits in total apply to them.

Nothing here waits, reads a clock or generates random numbers: time and chance are arguments.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from ..config import ServerLimits
from .metrics import ServerStatistics

__all__ = ["Admission", "Offence", "Penalties", "Refusal", "Sources", "Stage", "Visit"]

IPV6_SOURCE_BYTES: Final = 8
MOST_REMEMBERED: Final = 1024
"""Addresses whose source is cached, as most recur."""


class Refusal(Enum):
    """Why a connection is refused, in words for the client."""

    if not TYPE_CHECKING:
        __hash__ = object.__hash__  # that of Enum is written in Python

    FULL = "Too many connections"
    FULL_OF_UNAUTHENTICATED = "Too many unauthenticated connections"
    SOURCE_FULL = "Too many connections from your address"
    SOURCE_FULL_OF_UNAUTHENTICATED = "Too many unauthenticated connections from your address"
    PENALISED = "Not allowed at this time"


class Offence(Enum):
    """What a source is penalised for; the values name fields of :class:`ServerLimits`."""

    NO_LOGIN = "no_login_penalty"
    FAILED_LOGIN = "failed_login_penalty"
    PROTOCOL_ERROR = "protocol_error_penalty"
    FAILED_RECONNECT = "failed_reconnect_penalty"


class Stage(Enum):
    """The stage of a session, as counted by the server."""

    if not TYPE_CHECKING:
        __hash__ = object.__hash__  # that of Enum is written in Python

    UNAUTHENTICATED = auto()
    """Not authenticated yet."""
    AUTHENTICATED = auto()
    WITHOUT_STREAM = auto()
    """Authenticated, and waiting for another stream."""
    OVER = auto()


class Sources:
    """Maps addresses to sources.

    :param exempt: networks whose addresses have no source
    """

    def __init__(self, exempt: tuple[str, ...]) -> None:
        self._exempt = tuple(ipaddress.ip_network(network) for network in exempt)
        self.source: Callable[[str | None], bytes | None] = lru_cache(MOST_REMEMBERED)(self._source)
        """Returns the source of an address, None if it is exempt or not an IP address."""

    def _source(self, host: str | None) -> bytes | None:
        try:
            address = ipaddress.ip_address(host or "")
        except ValueError:
            return None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in self._exempt):
            return None
        packed = address.packed
        return packed if address.version == 4 else packed[:IPV6_SOURCE_BYTES]


@dataclass(slots=True)
class _Penalty:
    expires: float
    is_enforced: bool = False


class Penalties:
    """The penalties of sources: durations that add up, and are enforced from a threshold on.

    Once enforced, a penalty stays so until it expires. If there are too many, the source whose last
    offence was longest ago is dropped.
    """

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._penalties: dict[bytes, _Penalty] = {}

    def charge(self, source: bytes, offence: Offence, now: float) -> bool:
        """Add to the penalty of a source; return whether it is enforced from now on."""
        seconds: float = getattr(self._limits, offence.value)
        if not seconds:
            return False
        penalty = self._penalties.pop(source, None)
        if penalty is None or penalty.expires <= now:
            penalty = _Penalty(now)
        self._make_room(now)
        self._penalties[source] = penalty
        penalty.expires = min(penalty.expires + seconds, now + self._limits.longest_penalty)
        was_enforced = penalty.is_enforced
        if penalty.expires - now >= self._limits.shortest_penalty:
            penalty.is_enforced = True
        return penalty.is_enforced and not was_enforced

    def _make_room(self, now: float) -> None:
        while self._penalties:
            oldest = next(iter(self._penalties))
            is_full = len(self._penalties) >= self._limits.penalised_sources
            if not is_full and self._penalties[oldest].expires > now:
                return
            del self._penalties[oldest]

    def is_enforced(self, source: bytes, now: float) -> bool:
        """Tell whether a source is currently refused."""
        penalty = self._penalties.get(source)
        if penalty is None:
            return False
        if penalty.expires <= now:
            del self._penalties[source]
            return False
        return penalty.is_enforced

    def count_enforced(self, now: float) -> int:
        """Return how many sources are currently refused."""
        return sum(each.is_enforced and each.expires > now for each in self._penalties.values())

    def __len__(self) -> int:
        return len(self._penalties)


class Visit:
    """One session, as counted by the server.

    :ivar stage: its present stage
    """

    __slots__ = ("_admission", "_source", "stage")

    def __init__(self, admission: Admission | None = None, source: bytes | None = None) -> None:
        self._admission = admission
        self._source = source
        self.stage: Stage = Stage.UNAUTHENTICATED

    def move(self, stage: Stage) -> None:
        """Record a new stage."""
        before, self.stage = self.stage, stage
        if self._admission is not None:
            self._admission._moved(self._source, before, stage)

    def come_back(self, host: str | None) -> None:
        """Record that the session was resumed over another stream, perhaps from another source."""
        if self._admission is not None:
            self._admission._moved(self._source, self.stage, Stage.OVER)
            self._source = self._admission.sources.source(host)
            self._admission._moved(self._source, Stage.OVER, Stage.AUTHENTICATED)
        self.stage = Stage.AUTHENTICATED

    def offend(self, offence: Offence, now: float) -> bool:
        """Penalise the source; return whether it is refused from now on, and was not before."""
        if self._admission is None or self._source is None:
            return False
        return self._admission.penalties.charge(self._source, offence, now)


class Admission:
    """Admits or refuses connections, and counts the admitted ones.

    :param on_move: called whenever a session reaches another stage
    :ivar sources: maps addresses to sources
    :ivar penalties: the penalties of sources
    """

    def __init__(self, limits: ServerLimits, on_move: Callable[[], None]) -> None:
        self._limits = limits
        self._on_move = on_move
        self.sources: Sources = Sources(limits.exempt)
        self.penalties: Penalties = Penalties(limits)
        self._counts: Counter[Stage] = Counter()
        self._by_source: dict[bytes, Counter[Stage]] = {}
        self._let_in = 0
        self._logins = 0
        self._refusals: Counter[Refusal] = Counter()

    def admit(self, host: str | None, now: float, chance: float) -> Visit | Refusal:
        """Admit a connection, as a visit that must end, or return why it is refused.

        :param host: the address that it comes from, if known
        :param chance: a random number, at least 0 and less than 1
        """
        source = self.sources.source(host)
        refusal = self._refusal(source, now, chance)
        if refusal is not None:
            self._refusals[refusal] += 1
            return refusal
        self._let_in += 1
        self._moved(source, Stage.OVER, Stage.UNAUTHENTICATED)
        return Visit(self, source)

    def _refusal(self, source: bytes | None, now: float, chance: float) -> Refusal | None:
        limits = self._limits
        if source is not None and self.penalties.is_enforced(source, now):
            return Refusal.PENALISED
        unauthenticated = self._counts[Stage.UNAUTHENTICATED]
        if _connections(self._counts) >= limits.connections:
            return Refusal.FULL
        if unauthenticated >= limits.unauthenticated:
            return Refusal.FULL_OF_UNAUTHENTICATED
        if source is None:
            return None
        own = self._by_source.get(source, _NOBODY)
        if _connections(own) >= limits.connections_per_source:
            return Refusal.SOURCE_FULL
        if own[Stage.UNAUTHENTICATED] >= limits.unauthenticated_per_source:
            return Refusal.SOURCE_FULL_OF_UNAUTHENTICATED
        if chance < self._early_drop_chance(unauthenticated):
            return Refusal.FULL_OF_UNAUTHENTICATED
        return None

    def _early_drop_chance(self, unauthenticated: int) -> float:
        """Return the probability that a new connection is refused; it grows to 1 at the limit."""
        limits = self._limits
        if unauthenticated < limits.early_drop_from:
            return 0.0
        share = (unauthenticated - limits.early_drop_from) / (
            limits.unauthenticated - limits.early_drop_from
        )
        return limits.early_drop_chance + (1 - limits.early_drop_chance) * share

    def _moved(self, source: bytes | None, before: Stage, stage: Stage) -> None:
        if before is Stage.UNAUTHENTICATED and stage is Stage.AUTHENTICATED:
            self._logins += 1
        _count(self._counts, before, stage)
        if source is not None:
            own = self._by_source.setdefault(source, Counter())
            _count(own, before, stage)
            if not own.total():
                del self._by_source[source]
        self._on_move()

    def statistics(self, now: float, handler_failures: int) -> ServerStatistics:
        """Return the present numbers."""
        refusals = self._refusals
        return ServerStatistics(
            connections=_connections(self._counts),
            unauthenticated=self._counts[Stage.UNAUTHENTICATED],
            without_stream=self._counts[Stage.WITHOUT_STREAM],
            penalised_sources=self.penalties.count_enforced(now),
            total_connections=self._let_in,
            total_logins=self._logins,
            refused_by_limit=refusals.total() - refusals[Refusal.PENALISED],
            refused_by_penalty=refusals[Refusal.PENALISED],
            handler_failures=handler_failures,
        )


_NOBODY: Final[Counter[Stage]] = Counter()


def _connections(counts: Counter[Stage]) -> int:
    return counts[Stage.UNAUTHENTICATED] + counts[Stage.AUTHENTICATED]


def _count(counts: Counter[Stage], before: Stage, stage: Stage) -> None:
    if before is not Stage.OVER:
        counts[before] -= 1
    if stage is not Stage.OVER:
        counts[stage] += 1
