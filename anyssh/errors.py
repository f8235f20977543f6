"""The errors that anyssh raises, all of them subclasses of :class:`SSHError`.

``ConnectionLost`` is defined in ``anyssh.session.errors``, as it is also an AnyIO error: the layers
below the session import no AnyIO, and never raise it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, Self

from .constants import ChannelOpenFailureReason, DisconnectReason, ReconnectFailureReason

__all__ = [
    "AgentError",
    "AuthenticationError",
    "CertificateError",
    "ChannelOpenError",
    "ContourFormatError",
    "Disconnected",
    "HostKeyError",
    "KeyExchangeFailed",
    "KeyFormatError",
    "LocalProtocolError",
    "NegotiationError",
    "PassphraseError",
    "PassphraseRequired",
    "ProtocolError",
    "ReconnectError",
    "RemoteProtocolError",
    "RequestDenied",
    "SSHError",
    "SessionMoved",
    "SigningRefused",
    "WireError",
    "WrongPassphrase",
]


MAX_NAMES_SHOWN: Final = 16


class SSHError(Exception):
    """The base class of all anyssh errors."""

    def fresh(self) -> Self:
        """Return an equal exception without a traceback, to be raised in one more place."""
        copy = self.__class__.__new__(self.__class__, *self.args)
        copy.__dict__.update(self.__dict__)
        if hasattr(self, "__notes__"):
            copy.__notes__ = list(self.__notes__)
        copy.__cause__ = self.__cause__
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, copying and pickling call the class with its args, which ours do not accept.
        return _restored, (type(self), self.args, self.__dict__)


class ProtocolError(SSHError):
    """The SSH protocol was violated, by us or by the peer."""


class LocalProtocolError(ProtocolError):
    """The call is not possible in the present state; nothing was changed."""


class RemoteProtocolError(ProtocolError):
    """The peer violated the protocol; the connection is over.

    :ivar reason: the reason code that we sent in DISCONNECT
    """

    def __init__(self, message: str, reason: int = DisconnectReason.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.reason = reason


class WireError(RemoteProtocolError):
    """Bytes do not have the format that their field or message requires."""


class KeyExchangeFailed(SSHError):
    """The key exchange failed for a reason on our side."""

    reason = DisconnectReason.KEY_EXCHANGE_FAILED


class NegotiationError(SSHError):
    """The two sides have no algorithm of some kind in common (RFC 4253 section 7.1).

    :ivar kind: what was negotiated, for example ``"encryption client to server"``
    :ivar ours: our algorithm names, in order of preference
    :ivar theirs: the peer's algorithm names, in order of preference
    """

    reason = DisconnectReason.KEY_EXCHANGE_FAILED

    def __init__(
        self, kind: str, ours: Sequence[str], theirs: Sequence[str], hint: str = ""
    ) -> None:
        self.kind = kind
        self.ours: tuple[str, ...] = tuple(ours)
        self.theirs: tuple[str, ...] = tuple(theirs)
        text = f"no common {kind}: we offer {_listed(ours)}; the peer offers {_listed(theirs)}"
        super().__init__(f"{text}; {hint}" if hint else text)


class HostKeyError(SSHError):
    """The server's host key was refused, or its signature is not valid.

    :ivar fingerprint: the key's fingerprint, ``SHA256:…``, if there was a key
    :ivar algorithm: the key type, for example ``"ssh-ed25519"``
    """

    reason = DisconnectReason.HOST_KEY_NOT_VERIFIABLE

    def __init__(self, message: str, fingerprint: str = "", algorithm: str = "") -> None:
        super().__init__(message)
        self.fingerprint = fingerprint
        self.algorithm = algorithm


class AuthenticationError(SSHError):
    """The server refused every credential that we could offer.

    :ivar methods_left: the methods that the server would still accept
    :ivar methods_accepted: the methods that it has just accepted as a part of what it wants; one of
        ``methods_left`` may then complete it
    """

    def __init__(
        self,
        message: str,
        methods_left: Sequence[str] = (),
        methods_accepted: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.methods_left: tuple[str, ...] = tuple(methods_left)
        self.methods_accepted: tuple[str, ...] = tuple(methods_accepted)


class SigningRefused(SSHError):
    """A signer declines to sign; a client continues with its other credentials."""


class AgentError(SSHError):
    """There is no agent to connect to, or it violates the agent protocol."""


class Disconnected(SSHError):
    """One side ended the session with DISCONNECT (RFC 4253 section 11.1).

    :ivar reason: a :class:`~anyssh.DisconnectReason`, or the number that the peer sent
    :ivar description: the description sent with it
    :ivar by_peer: whether the peer ended the session
    """

    def __init__(self, reason: int, description: str, by_peer: bool = True) -> None:
        who = "the peer" if by_peer else "we"
        name = reason_name(reason)
        words = f": {description}" if description else ""
        super().__init__(f"{who} ended the session: {name}{words}")
        self.reason: int = _named(DisconnectReason, reason)
        self.description = description
        self.by_peer = by_peer


class ChannelOpenError(SSHError):
    """The peer refused to open a channel (RFC 4254 section 5.1).

    :ivar reason: a :class:`~anyssh.ChannelOpenFailureReason`, or the number that the peer sent
    :ivar description: the peer's description
    """

    def __init__(self, reason: int, description: str) -> None:
        self.reason: int = _named(ChannelOpenFailureReason, reason)
        name = f"reason {reason}"
        if isinstance(self.reason, ChannelOpenFailureReason):
            name = self.reason.name.lower().replace("_", " ")
        super().__init__(f"channel not opened: {name}: {description or 'no description'}")
        self.description = description


class RequestDenied(SSHError):
    """The peer refused a request that had to succeed."""


class ReconnectError(SSHError):
    """A session could not be resumed over a new stream.

    :ivar reason: a :class:`~anyssh.ReconnectFailureReason`, or the number that the server sent
    """

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason: int = _named(ReconnectFailureReason, reason)


class ContourFormatError(SSHError, ValueError):
    """A text is not a session contour in the format that we read."""


class SessionMoved(SSHError):
    """The client resumed another session over this stream; nothing is left to do here."""


class KeyFormatError(SSHError):
    """Bytes are not a key in any format that we read."""


class CertificateError(SSHError):
    """A certificate is genuine, but not valid for this use."""


class PassphraseError(KeyFormatError):
    """An encrypted key could not be decrypted."""


class PassphraseRequired(PassphraseError):
    """The key is encrypted, and no passphrase was given."""


class WrongPassphrase(PassphraseError):
    """The passphrase does not decrypt the key."""


def _listed(names: Sequence[str]) -> str:
    """Return some names for display; a peer may send very many."""
    shown = ", ".join(names[:MAX_NAMES_SHOWN]) or "nothing"
    more = len(names) - MAX_NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _restored(kind: type[SSHError], args: tuple[Any, ...], attributes: dict[str, Any]) -> SSHError:
    """Rebuild a pickled error."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


def _named(reasons: type[IntEnum], number: int) -> int:
    """Return the enum member of a number, or the number itself."""
    try:
        return reasons(number)
    except ValueError:
        return number


def reason_name(reason: int) -> str:
    """Return the name of a disconnect reason, or ``"reason N"`` if it is unassigned."""
    return _REASON_NAMES.get(reason) or f"reason {reason}"


_REASON_NAMES: Final = {
    int(reason): reason.name.lower().replace("_", " ") for reason in DisconnectReason
}
