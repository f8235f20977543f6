"""The errors that anyssh raises. Every one is an :class:`SSHError`.

``ConnectionLost`` also has to be an AnyIO error, so it stands in ``anyssh.session.errors``; the
layers that know no AnyIO never raise it.
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


MAX_NAMES_SHOWN = 16


class SSHError(Exception):
    """The base of all anyssh errors."""

    def fresh(self) -> Self:
        """Return an equal exception without traceback, for one more place to raise it."""
        copy = self.__class__.__new__(self.__class__, *self.args)
        copy.__dict__.update(self.__dict__)
        if hasattr(self, "__notes__"):
            copy.__notes__ = list(self.__notes__)
        copy.__cause__ = self.__cause__
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are copied and pickled as a call with their args, which ours do not take.
        return _restored, (type(self), self.args, self.__dict__)


class ProtocolError(SSHError):
    """The SSH protocol was not kept, by us or by the peer."""


class LocalProtocolError(ProtocolError):
    """The call is not possible in the present state; nothing was changed."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol; the connection is over.

    :ivar reason: what we told the peer in DISCONNECT
    """

    def __init__(self, message: str, reason: int = DisconnectReason.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.reason = reason


class WireError(RemoteProtocolError):
    """Bytes do not have the form that their field or message demands."""


class KeyExchangeFailed(SSHError):
    """Keys could not be exchanged for a reason on our side."""

    reason = DisconnectReason.KEY_EXCHANGE_FAILED


class NegotiationError(SSHError):
    """The two sides have no algorithm of one kind in common.

    :ivar kind: what was negotiated, for example ``"encryption client to server"``
    :ivar ours: our names, in order of preference
    :ivar theirs: the peer's names, in order of preference
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
    """The server's host key was refused or does not prove itself.

    :ivar fingerprint: ``SHA256:…`` of the key, when there was one
    :ivar algorithm: the key's type, for example ``"ssh-ed25519"``
    """

    reason = DisconnectReason.HOST_KEY_NOT_VERIFIABLE

    def __init__(self, message: str, fingerprint: str = "", algorithm: str = "") -> None:
        super().__init__(message)
        self.fingerprint = fingerprint
        self.algorithm = algorithm


class AuthenticationError(SSHError):
    """The server refused every credential that we could offer.

    :ivar methods_left: the methods that the server would still accept
    """

    def __init__(self, message: str, methods_left: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.methods_left: tuple[str, ...] = tuple(methods_left)


class SigningRefused(SSHError):
    """A signer will not sign; a client goes on to what else it has."""


class AgentError(SSHError):
    """There is no agent to talk to, or it does not keep its protocol."""


class Disconnected(SSHError):
    """A side ended the session with DISCONNECT.

    :ivar reason: a :class:`~anyssh.DisconnectReason`, or the peer's own number
    :ivar description: the text that came with it
    :ivar by_peer: whether it was the peer that ended it
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
    """The peer refused to open a channel.

    :ivar reason: a :class:`~anyssh.ChannelOpenFailureReason`, or the peer's own number
    :ivar description: the peer's words
    """

    def __init__(self, reason: int, description: str) -> None:
        self.reason: int = _named(ChannelOpenFailureReason, reason)
        name = f"reason {reason}"
        if isinstance(self.reason, ChannelOpenFailureReason):
            name = self.reason.name.lower().replace("_", " ")
        super().__init__(f"channel not opened: {name}: {description or 'no description'}")
        self.description = description


class RequestDenied(SSHError):
    """The peer answered a request with failure where only success would do."""


class ReconnectError(SSHError):
    """A session could not go on over a new stream.

    :ivar reason: a :class:`~anyssh.ReconnectFailureReason`, or the server's own number
    """

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason: int = _named(ReconnectFailureReason, reason)


class ContourFormatError(SSHError, ValueError):
    """A text is not a session contour in the format that we read."""


class SessionMoved(SSHError):
    """A client went on with another session over this stream; there is nothing left to do here."""


class KeyFormatError(SSHError):
    """Bytes are not a key in a format that we read."""


class CertificateError(SSHError):
    """A certificate is genuine, but not good for what it was shown for."""


class PassphraseError(KeyFormatError):
    """An encrypted key could not be decrypted."""


class PassphraseRequired(PassphraseError):
    """The key is encrypted and no passphrase was given."""


class WrongPassphrase(PassphraseError):
    """The passphrase does not decrypt the key."""


def _listed(names: Sequence[str]) -> str:
    """Return some names for people; a peer may send very many."""
    shown = ", ".join(names[:MAX_NAMES_SHOWN]) or "nothing"
    more = len(names) - MAX_NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _restored(kind: type[SSHError], args: tuple[Any, ...], attributes: dict[str, Any]) -> SSHError:
    """Make an error that was pickled."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


def _named(reasons: type[IntEnum], number: int) -> int:
    """Return the member that a number is, where there is one."""
    try:
        return reasons(number)
    except ValueError:
        return number


def reason_name(reason: int) -> str:
    """Return the words for a disconnect reason, ``"reason N"`` for an unassigned one."""
    return _REASON_NAMES.get(reason) or f"reason {reason}"


_REASON_NAMES: Final = {
    int(reason): reason.name.lower().replace("_", " ") for reason in DisconnectReason
}
