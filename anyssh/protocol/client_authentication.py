"""User authentication as a client (RFC 4252, RFC 4256): one request at a time.

The session decides which credential comes next; this machine sends the requests, and knows the
possible replies. The first request is sent right after the SERVICE_REQUEST, without waiting for the
service to be granted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from typing import Final

from ..constants import AuthenticationMethod, Extension, MessageNumber, Service
from ..errors import LocalProtocolError, RemoteProtocolError, WireError
from ..keys import Identity
from ..messages import (
    GroupedUserauthInfoRequest,
    HostBasedFields,
    KeyboardInteractiveFields,
    PasswordFields,
    PublicKeyFields,
    ServiceRequest,
    UserauthBanner,
    UserauthFailure,
    UserauthInfoRequest,
    UserauthInfoResponse,
    UserauthPasswdChangereq,
    UserauthPkOk,
    UserauthRequest,
    UserauthSuccess,
)
from ..wire import displayable, displayable_lines
from .authentication import Challenge, Prompt, host_based_signed_data, public_key_signed_data
from .events import (
    AuthenticationFailed,
    BannerReceived,
    ChallengeReceived,
    Event,
    KeyAccepted,
    PasswordExpired,
)

__all__ = ["ClientAuthentication"]

MAX_BANNERS: Final = 16
_SERVICE_REQUEST: Final = ServiceRequest(Service.USERAUTH).encode()


class _Waiting(Enum):
    """What we are waiting for."""

    NOTHING = auto()
    REPLY = auto()
    QUERY_REPLY = auto()
    PASSWORD_REPLY = auto()
    INTERACTIVE_REPLY = auto()
    OUR_ANSWERS = auto()
    DONE = auto()


_NO_REPLY: Final = (_Waiting.NOTHING, _Waiting.OUR_ANSWERS, _Waiting.DONE)
_METHOD_MESSAGE: Final = (
    _Waiting.QUERY_REPLY,
    _Waiting.PASSWORD_REPLY,
    _Waiting.INTERACTIVE_REPLY,
)


class ClientAuthentication:
    """Sends authentication requests, and interprets their replies."""

    def __init__(
        self,
        session_id: bytes,
        send: Callable[[bytes], None],
        emit: Callable[[Event], None],
        on_success: Callable[[], None],
        *,
        grouped_prompts: bool,
    ) -> None:
        self._session_id = session_id
        self._send = send
        self._emit = emit
        self._on_success = on_success
        self._grouped_prompts = grouped_prompts
        self._waiting = _Waiting.NOTHING
        self._service_requested = False
        self._queried: tuple[tuple[str, bytes], ...] = ()
        self._prompt_count = 0
        self._banners = 0
        self.signature_algorithms: frozenset[str] | None = None

    @property
    def handlers(self) -> dict[int, Callable[[bytes], None]]:
        """The handlers of the server's messages."""
        return {
            MessageNumber.USERAUTH_FAILURE: self._failure_received,
            MessageNumber.USERAUTH_SUCCESS: self._success_received,
            MessageNumber.USERAUTH_BANNER: self._banner_received,
            MessageNumber.USERAUTH_PK_OK: self._method_message_received,
        }

    @property
    def expects_reply(self) -> bool:
        """Whether the server owes us a reply."""
        return self._waiting not in _NO_REPLY

    @property
    def takes_banner(self) -> bool:
        """Whether the server may send another banner, which it does unasked."""
        return self._banners < MAX_BANNERS

    @property
    def expects_method_message(self) -> bool:
        """Whether message 60 has a meaning now."""
        return self._waiting in _METHOD_MESSAGE

    @property
    def deadline(self) -> float | None:
        """When to call :meth:`handle_timeout`: never."""
        return None

    def handle_timeout(self, now: float) -> None:
        """Do nothing: a client only ever waits for its server."""

    def learn_extensions(self, extensions: dict[str, bytes]) -> None:
        """Record the signature algorithms that the server accepts (RFC 8308 section 3.1)."""
        value = extensions.get(Extension.SERVER_SIG_ALGS)
        if value:
            self.signature_algorithms = frozenset(value.decode("ascii", "replace").split(","))

    # Requests

    def request_none(self, username: str) -> None:
        """Request access without any proof."""
        self._request(username, AuthenticationMethod.NONE, b"", _Waiting.REPLY)

    def request_password(self, username: str, password: str) -> None:
        """Send a password."""
        fields = PasswordFields(False, password).encode()
        self._request(username, AuthenticationMethod.PASSWORD, fields, _Waiting.PASSWORD_REPLY)

    def query_key(self, username: str, identity: Identity, algorithm: str) -> None:
        """Ask whether the server would accept a key or certificate."""
        fields = PublicKeyFields(False, algorithm, identity.public_blob).encode()
        self._request(username, AuthenticationMethod.PUBLIC_KEY, fields, _Waiting.QUERY_REPLY)
        # Some servers answer with the key type instead of the algorithm.
        self._queried = (
            (algorithm, identity.public_blob),
            (identity.algorithm, identity.public_blob),
        )

    def public_key_data(self, username: str, identity: Identity, algorithm: str) -> bytes:
        """Return the data to sign for :meth:`request_public_key`."""
        return public_key_signed_data(
            self._session_id, username, Service.CONNECTION, algorithm, identity.public_blob
        )

    def request_public_key(
        self, username: str, identity: Identity, algorithm: str, signature: bytes
    ) -> None:
        """Send a key or certificate, with a signature as proof of possession."""
        fields = PublicKeyFields(True, algorithm, identity.public_blob, signature).encode()
        self._request(username, AuthenticationMethod.PUBLIC_KEY, fields, _Waiting.REPLY)

    def host_based_data(self, username: str, fields: HostBasedFields) -> bytes:
        """Return the data to sign for :meth:`request_host_based`."""
        return host_based_signed_data(self._session_id, username, Service.CONNECTION, fields)

    def request_host_based(self, username: str, fields: HostBasedFields, signature: bytes) -> None:
        """Send this machine's signature for its user."""
        signed = replace(fields, signature=signature).encode()
        self._request(username, AuthenticationMethod.HOST_BASED, signed, _Waiting.REPLY)

    def request_interactive(self, username: str) -> None:
        """Request keyboard-interactive."""
        fields = KeyboardInteractiveFields().encode()
        self._request(
            username,
            AuthenticationMethod.KEYBOARD_INTERACTIVE,
            fields,
            _Waiting.INTERACTIVE_REPLY,
        )

    def respond(self, responses: tuple[str, ...]) -> None:
        """Answer a challenge.

        :raises LocalProtocolError: there is none, or it has a different number of prompts
        """
        if self._waiting is not _Waiting.OUR_ANSWERS:
            raise LocalProtocolError("the server has not sent a challenge")
        if len(responses) != self._prompt_count:
            raise LocalProtocolError(f"{self._prompt_count} answers needed, got {len(responses)}")
        self._send(UserauthInfoResponse(responses).encode())
        self._waiting = _Waiting.INTERACTIVE_REPLY

    def _request(self, username: str, method: str, fields: bytes, waiting: _Waiting) -> None:
        if self._waiting is _Waiting.DONE:
            raise LocalProtocolError("the session is already authenticated")
        if self._waiting not in _NO_REPLY:
            raise LocalProtocolError("an authentication request is in progress")
        # Encoding may raise; nothing may have been changed or sent by then.
        request = UserauthRequest(username, Service.CONNECTION, method, fields).encode()
        if not self._service_requested:
            self._send(_SERVICE_REQUEST)
            self._service_requested = True
        self._send(request)
        self._waiting = waiting

    # Replies

    def _failure_received(self, payload: bytes) -> None:
        """Report a refusal."""
        failure = UserauthFailure.decode(payload)
        self._waiting = _Waiting.NOTHING
        self._emit(
            AuthenticationFailed(failure.authentications_that_can_continue, failure.partial_success)
        )

    def _success_received(self, payload: bytes) -> None:
        """Report success."""
        UserauthSuccess.decode(payload)
        if self._waiting is _Waiting.QUERY_REPLY:
            raise RemoteProtocolError("the server answered a query about a key with success")
        self._waiting = _Waiting.DONE
        self._on_success()

    def _banner_received(self, payload: bytes) -> None:
        """Report a banner."""
        self._banners += 1
        self._emit(BannerReceived(displayable_lines(UserauthBanner.decode(payload).message)))

    def _method_message_received(self, payload: bytes) -> None:
        """Report message 60 according to the method in progress."""
        if self._waiting is _Waiting.QUERY_REPLY:
            accepted = UserauthPkOk.decode(payload)
            if (accepted.algorithm, accepted.public_key) not in self._queried:
                raise RemoteProtocolError("the server accepted a key that we did not ask about")
            self._waiting = _Waiting.NOTHING
            self._emit(KeyAccepted())
        elif self._waiting is _Waiting.PASSWORD_REPLY:
            # We do not change passwords; another method may follow (RFC 4252 section 8).
            demand = UserauthPasswdChangereq.decode(payload)
            self._waiting = _Waiting.NOTHING
            self._emit(PasswordExpired(displayable(demand.prompt)))
        else:
            challenge = self._decode_challenge(payload)
            self._prompt_count = len(challenge.prompts)
            self._waiting = _Waiting.OUR_ANSWERS
            self._emit(ChallengeReceived(challenge))

    def _decode_challenge(self, payload: bytes) -> Challenge:
        """Decode prompts in the peer's layout; some peers announce one layout and use the other."""
        layouts: list[type[UserauthInfoRequest | GroupedUserauthInfoRequest]]
        layouts = [UserauthInfoRequest, GroupedUserauthInfoRequest]
        if self._grouped_prompts:
            layouts.reverse()
        try:
            message = layouts[0].decode(payload)
        except WireError:
            message = layouts[1].decode(payload)
        # Servers with two-factor authentication may put an entire menu before the question.
        prompts = tuple(
            Prompt(displayable_lines(prompt.text), prompt.echo) for prompt in message.prompts
        )
        return Challenge(displayable(message.name), displayable_lines(message.instruction), prompts)
