"""What a core reports to its session: events, in the order in which they happened.

Most are mere notifications. An :class:`Obligation` is a question that only the session can answer;
the core waits with whatever depends on it until one of its methods is called, exactly once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import LocalProtocolError, ReconnectError, SSHError
from ..identification import PeerVersion
from ..keys import Certificate, Identity, Key
from .acceptance import Phase
from .authentication import AuthAttempt, Challenge, KeyboardInteractiveAttempt
from .channel import ChannelState, PendingRequest, ReplySlot
from .negotiation import Algorithms

if TYPE_CHECKING:
    from ..wire import Buffer
    from .connection import Connection

__all__ = [
    "Accepted",
    "Answer",
    "AttemptMade",
    "Authenticated",
    "AuthenticationFailed",
    "BannerReceived",
    "ChallengeReceived",
    "ChannelClosed",
    "ChannelDataReceived",
    "ChannelEofReceived",
    "ChannelExtendedDataReceived",
    "ChannelOpenFailed",
    "ChannelOpenReceived",
    "ChannelOpened",
    "ChannelRequestReceived",
    "ChannelWritable",
    "ConnectionTerminated",
    "DebugReceived",
    "Event",
    "ExtensionsReceived",
    "GlobalRequestReceived",
    "Guard",
    "HostKeyPresented",
    "KeepAliveAnswered",
    "KeepAliveMissed",
    "KeyAccepted",
    "KeyExchangeCompleted",
    "KeyExchangeStarted",
    "KeyQueried",
    "Obligation",
    "PasswordExpired",
    "Refused",
    "ReplyReceived",
    "RoomMade",
    "ServiceAccepted",
    "ServiceRequested",
    "SignatureRequested",
    "Verdict",
    "VersionReceived",
    "do_nothing",
]


class Event:
    """The base class of all events of a core."""

    __slots__ = ()


class Obligation(Event):
    """A question that the core is waiting for; answered by calling a method, once.

    Every answer includes the time, in monotonic seconds.
    """

    __slots__ = ("_answer",)
    _answer: Answer | None

    def _answer_with(self, now: float, *answer: Any) -> None:
        if self._answer is None:
            raise LocalProtocolError(f"{type(self).__name__} was already answered")
        answer_method, self._answer = self._answer, None
        answer_method(now, *answer)


Answer = Callable[..., None]
"""Takes the time and the answer."""

Guard = Callable[[Callable[..., None]], Answer]
"""Makes an :data:`Answer` of a function that takes the answer only, and handles its exceptions."""


def do_nothing(*told: Any) -> Any:
    """Replace a callback that is no longer wanted."""


# The connection


@dataclass(slots=True)
class VersionReceived(Event):
    """The peer has identified itself."""

    version: PeerVersion


@dataclass(slots=True)
class KeyExchangeStarted(Event):
    """One side has sent KEXINIT."""

    is_initial: bool


@dataclass(slots=True)
class KeyExchangeCompleted(Event):
    """New keys are in use in both directions."""

    algorithms: Algorithms
    is_initial: bool


@dataclass(slots=True)
class ExtensionsReceived(Event):
    """The peer has announced its extensions."""

    extensions: dict[str, bytes]


@dataclass(slots=True)
class DebugReceived(Event):
    """The peer sent a DEBUG message; its text is safe to display."""

    message: str
    always_display: bool


@dataclass(slots=True)
class KeepAliveAnswered(Event):
    """Something arrived during a keep-alive interval, for the ``count``-th time in a row."""

    count: int


@dataclass(slots=True)
class KeepAliveMissed(Event):
    """Nothing arrived during a keep-alive interval, for the ``count``-th time in a row."""

    count: int


@dataclass(slots=True)
class LatencyMeasured(Event):
    """The time from sending a packet to receiving its receipt, less the peer's own delay."""

    milliseconds: float


@dataclass(slots=True)
class ConnectionTerminated(Event):
    """The connection is over.

    :ivar error: the reason, or None if the stream just ended
    :ivar phase: the phase that the connection had reached
    :ivar is_survivable: whether the session can be resumed over another stream
    """

    error: SSHError | None
    phase: Phase
    is_survivable: bool = False


@dataclass(slots=True)
class ReconnectRequested(Obligation):
    """A client wants to resume a session over this stream: which one?

    :ivar proves: tells whether the client has proved knowledge of a given session id, in constant
        time
    :ivar is_overtaken: tells whether a connection's session has been resumed since the client gave
        this request up, so that the request must not cost the session its present stream
    """

    proves: Callable[[bytes], bool] = field(repr=False)
    is_overtaken: Callable[[Connection], bool] = field(repr=False)
    _answer: Answer | None = field(repr=False)

    def accept(self, connection: Connection, now: float) -> None:
        """Resume a session without a stream, whose id the client has proved to know."""
        self._answer_with(now, connection, None)

    def reject(self, error: ReconnectError, now: float) -> None:
        """Tell the client why not, and end the stream."""
        self._answer_with(now, None, error)


@dataclass(slots=True)
class SessionResumed(Event):
    """The session is resumed over this stream."""


@dataclass(slots=True)
class HostKeyPresented(Obligation):
    """The server has proved possession of this host key: is it the right one?

    :ivar certificate: a certificate for the key, if the server presented one
    """

    key: Key
    certificate: Certificate | None
    _answer: Answer | None = field(repr=False)

    def accept(self, now: float) -> None:
        """Accept the key, and continue."""
        self._answer_with(now, None)

    def reject(self, error: SSHError, now: float) -> None:
        """End the connection with DISCONNECT 9."""
        self._answer_with(now, error)


@dataclass(slots=True)
class SignatureRequested(Obligation):
    """A server needs the exchange hash signed with one of its host keys."""

    key: Key
    algorithm: str
    data: bytes = field(repr=False)
    _answer: Answer | None = field(repr=False)

    def supply(self, signature: bytes, now: float) -> None:
        """Supply the signature blob."""
        self._answer_with(now, signature, None)

    def fail(self, error: SSHError, now: float) -> None:
        """End the connection: there will be no signature."""
        self._answer_with(now, b"", error)


# Authentication


@dataclass(slots=True)
class ServiceRequested(Event):
    """An authenticated client requests one of the services known to the core."""

    name: str


@dataclass(slots=True)
class ServiceAccepted(Event):
    """The server has granted a service."""

    name: str


@dataclass(slots=True)
class KeyQueried(Obligation):
    """A client asks whether a key or certificate would be accepted."""

    username: str
    identity: Identity
    _answer: Answer | None = field(repr=False)

    def answer(self, is_worthwhile: bool, now: float) -> None:
        """Answer the client."""
        self._answer_with(now, is_worthwhile)


@dataclass(slots=True)
class AttemptMade(Obligation):
    """A client has offered a proof: is it accepted?"""

    attempt: AuthAttempt
    _answer: Answer | None = field(repr=False)

    def accept(self, principal: object, now: float) -> None:
        """Authenticate the client as ``principal``."""
        self._answer_with(now, Accepted(principal))

    def reject(self, now: float) -> None:
        """Refuse the proof."""
        self._answer_with(now, Refused())

    def challenge(self, challenge: Challenge, now: float) -> None:
        """Prompt the user.

        :raises LocalProtocolError: the method is not keyboard-interactive
        """
        if not isinstance(self.attempt, KeyboardInteractiveAttempt):
            raise LocalProtocolError(f"the method {self.attempt.method} has no challenges")
        self._answer_with(now, challenge)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The verdict on an accepted proof."""

    principal: object


@dataclass(frozen=True, slots=True)
class Refused:
    """The verdict on a refused proof."""


Verdict = Accepted | Refused | Challenge


@dataclass(slots=True)
class Authenticated(Event):
    """The client is authenticated. ``principal`` is known on a server only."""

    principal: object | None


@dataclass(slots=True)
class AuthenticationFailed(Event):
    """The server refused a request."""

    methods_left: tuple[str, ...]
    partial_success: bool


@dataclass(slots=True)
class KeyAccepted(Event):
    """The server would accept a signature with the queried key."""


@dataclass(slots=True)
class PasswordExpired(Event):
    """The server demands a new password before it judges this one; the text is safe to display."""

    prompt: str


@dataclass(slots=True)
class ChallengeReceived(Event):
    """The server prompts the user."""

    challenge: Challenge


@dataclass(slots=True)
class BannerReceived(Event):
    """The server sent a banner for the user; it is safe to display."""

    message: str


# Channels


@dataclass(slots=True)
class ChannelOpenReceived(Event):
    """The peer asks to open a channel."""

    channel: ChannelState
    payload: bytes = field(repr=False)


@dataclass(slots=True)
class ChannelOpened(Event):
    """The peer has confirmed a channel of ours."""

    channel: ChannelState
    payload: bytes = field(repr=False)


@dataclass(slots=True)
class ChannelOpenFailed(Event):
    """The peer has refused a channel of ours."""

    channel: ChannelState
    reason: int
    description: str


@dataclass(slots=True)
class ChannelDataReceived(Event):
    """Data arrived, within the window."""

    channel: ChannelState
    data: Buffer = field(repr=False)


@dataclass(slots=True)
class ChannelExtendedDataReceived(Event):
    """Extended data arrived, such as standard error."""

    channel: ChannelState
    data_type: int
    data: bytes = field(repr=False)


@dataclass(slots=True)
class ChannelEofReceived(Event):
    """The peer sends no more data on a channel."""

    channel: ChannelState


@dataclass(slots=True)
class ChannelClosed(Event):
    """The peer has closed a channel, which was removed from the table."""

    channel: ChannelState


@dataclass(slots=True)
class ChannelWritable(Event):
    """A channel that could not send everything can send again."""

    channel: ChannelState


@dataclass(slots=True)
class RoomMade(Event):
    """The output has room again for callers of ``Connection.wait_for_room``."""


# Requests


@dataclass(slots=True)
class ChannelRequestReceived(Event):
    """The peer sent a channel request."""

    channel: ChannelState
    request: PendingRequest


@dataclass(slots=True)
class GlobalRequestReceived(Event):
    """The peer sent a global request."""

    request: PendingRequest


@dataclass(slots=True)
class ReplyReceived(Event):
    """One of our requests was answered."""

    slot: ReplySlot
    is_success: bool
    payload: bytes = field(repr=False)
