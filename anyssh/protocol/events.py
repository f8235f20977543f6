"""What a core tells its session: events in the order in which they came about.

Most are plain facts. An :class:`Obligation` is a question to the outside world; the core goes no
further on that axis until one of its answer methods was called, exactly once.
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
    "nobody",
]


class Event:
    """The base of everything that a core tells."""

    __slots__ = ()


class Obligation(Event):
    """A question that the core waits for; answered through a method, once.

    Every answer tells the time, in monotonic seconds.
    """

    __slots__ = ("_answer",)
    _answer: Answer | None

    def _answer_with(self, now: float, *answer: Any) -> None:
        if self._answer is None:
            raise LocalProtocolError(f"{type(self).__name__} was answered before")
        answer_method, self._answer = self._answer, None
        answer_method(now, *answer)


Answer = Callable[..., None]
"""Takes the time and the answer."""

Guard = Callable[[Callable[..., None]], Answer]
"""Makes an :data:`Answer` out of a function of the answer alone, and handles what it raises."""


def nobody(*told: Any) -> Any:
    """Take the place of who was told, once there is nothing more to tell."""


# The connection


@dataclass(slots=True)
class VersionReceived(Event):
    """The peer has identified itself."""

    version: PeerVersion


@dataclass(slots=True)
class KeyExchangeStarted(Event):
    """A side has sent KEXINIT."""

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
    """The peer sent a text for developers; it is safe to show."""

    message: str
    always_display: bool


@dataclass(slots=True)
class KeepAliveAnswered(Event):
    """The peer gave a sign of life, for the ``count``-th time in a row."""

    count: int


@dataclass(slots=True)
class KeepAliveMissed(Event):
    """The peer gave no sign of life, for the ``count``-th time in a row."""

    count: int


@dataclass(slots=True)
class LatencyMeasured(Event):
    """So long did a packet take to the peer and its receipt back, without the peer's own time."""

    milliseconds: float


@dataclass(slots=True)
class ConnectionTerminated(Event):
    """The connection is over.

    :ivar error: why: a :class:`~anyssh.SSHError`, or None when the stream just ended
    :ivar phase: how far the connection had come
    :ivar is_survivable: whether the session can go on over another stream
    """

    error: SSHError | None
    phase: Phase
    is_survivable: bool = False


@dataclass(slots=True)
class ReconnectRequested(Obligation):
    """A client wants to go on with a session over this stream: with which?

    :ivar proves: tells whether the client has proved that it knows the session of this id; takes
        the same time whatever the answer
    :ivar is_overtaken: tells whether the session of a connection has been gone on with since the
        client gave this request up; it must not cost the session its present stream
    """

    proves: Callable[[bytes], bool] = field(repr=False)
    is_overtaken: Callable[[Connection], bool] = field(repr=False)
    _answer: Answer | None = field(repr=False)

    def accept(self, connection: Connection, now: float) -> None:
        """Go on with a session that the client has proved to know, and that has no stream."""
        self._answer_with(now, connection, None)

    def reject(self, error: ReconnectError, now: float) -> None:
        """Tell the client why not, and end the stream."""
        self._answer_with(now, None, error)


@dataclass(slots=True)
class SessionResumed(Event):
    """The session goes on over this stream."""


@dataclass(slots=True)
class HostKeyPresented(Obligation):
    """The server has proved that it holds this host key: is it the right one?

    :ivar certificate: what an authority says about the key, if the server showed that
    """

    key: Key
    certificate: Certificate | None
    _answer: Answer | None = field(repr=False)

    def accept(self, now: float) -> None:
        """Go on."""
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
        """Give the signature, in its wire form."""
        self._answer_with(now, signature, None)

    def fail(self, error: SSHError, now: float) -> None:
        """End the connection: there will be no signature."""
        self._answer_with(now, b"", error)


# Authentication


@dataclass(slots=True)
class ServiceRequested(Event):
    """An authenticated client asked for one of the services that the core was told of."""

    name: str


@dataclass(slots=True)
class ServiceAccepted(Event):
    """The server has granted a service."""

    name: str


@dataclass(slots=True)
class KeyQueried(Obligation):
    """A client asks whether a key, or a certificate for one, is worth signing with."""

    username: str
    identity: Identity
    _answer: Answer | None = field(repr=False)

    def answer(self, is_worthwhile: bool, now: float) -> None:
        """Tell the client."""
        self._answer_with(now, is_worthwhile)


@dataclass(slots=True)
class AttemptMade(Obligation):
    """A client has offered a proof: is it good?"""

    attempt: AuthAttempt
    _answer: Answer | None = field(repr=False)

    def accept(self, principal: object, now: float) -> None:
        """Let the client in as ``principal``."""
        self._answer_with(now, Accepted(principal))

    def reject(self, now: float) -> None:
        """Refuse the proof."""
        self._answer_with(now, Refused())

    def challenge(self, challenge: Challenge, now: float) -> None:
        """Ask the user something.

        :raises LocalProtocolError: this is not keyboard-interactive
        """
        if not isinstance(self.attempt, KeyboardInteractiveAttempt):
            raise LocalProtocolError(f"the method {self.attempt.method} knows no challenges")
        self._answer_with(now, challenge)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The verdict on a proof that was good."""

    principal: object


@dataclass(frozen=True, slots=True)
class Refused:
    """The verdict on a proof that was not good."""


Verdict = Accepted | Refused | Challenge


@dataclass(slots=True)
class Authenticated(Event):
    """The client is authenticated. ``principal`` is known to a server only."""

    principal: object | None


@dataclass(slots=True)
class AuthenticationFailed(Event):
    """The server refused a request."""

    methods_left: tuple[str, ...]
    partial_success: bool


@dataclass(slots=True)
class KeyAccepted(Event):
    """The server would accept a signature with the key that was queried."""


@dataclass(slots=True)
class PasswordExpired(Event):
    """The server wants a new password before it looks at this one; the text is safe to show."""

    prompt: str


@dataclass(slots=True)
class ChallengeReceived(Event):
    """The server asks the user something."""

    challenge: Challenge


@dataclass(slots=True)
class BannerReceived(Event):
    """The server sent a text for the user; it is safe to show."""

    message: str


# Channels


@dataclass(slots=True)
class ChannelOpenReceived(Event):
    """The peer wants to open a channel."""

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
    """Bytes came, within the window."""

    channel: ChannelState
    data: Buffer = field(repr=False)


@dataclass(slots=True)
class ChannelExtendedDataReceived(Event):
    """Bytes of another kind came, such as standard error."""

    channel: ChannelState
    data_type: int
    data: bytes = field(repr=False)


@dataclass(slots=True)
class ChannelEofReceived(Event):
    """The peer sends no more data on a channel."""

    channel: ChannelState


@dataclass(slots=True)
class ChannelClosed(Event):
    """The peer has closed a channel; it is gone from the table."""

    channel: ChannelState


@dataclass(slots=True)
class ChannelWritable(Event):
    """A channel that could not send all of its bytes can send again."""

    channel: ChannelState


@dataclass(slots=True)
class RoomMade(Event):
    """The output has room again for those who asked by ``Connection.wait_for_room``."""


# Requests


@dataclass(slots=True)
class ChannelRequestReceived(Event):
    """The peer wants something of a channel."""

    channel: ChannelState
    request: PendingRequest


@dataclass(slots=True)
class GlobalRequestReceived(Event):
    """The peer wants something of the session."""

    request: PendingRequest


@dataclass(slots=True)
class ReplyReceived(Event):
    """A request of ours was answered."""

    slot: ReplySlot
    is_success: bool
    payload: bytes = field(repr=False)
