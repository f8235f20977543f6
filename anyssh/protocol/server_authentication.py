"""User authentication as a server (RFC 4252, RFC 4256): requests in order, one reply to each.

Requests may be pipelined; they are queued and judged in order. A request is judged in three steps:
is its method enabled and its format right, is its signature valid, does the application accept it.
Whatever falls through is a failure; success is only sent by :meth:`_accept`.

Failures of passwords and keys are sent at least 50 ms after their request arrived, so that the
delay does not reveal what was wrong.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from ..config import SessionConfig
from ..constants import AuthenticationMethod, DisconnectReason, MessageNumber, Service
from ..errors import KeyFormatError, RemoteProtocolError, WireError
from ..keys import Certificate, Identity, Key, read_identity, with_certificates
from ..messages import (
    GroupedUserauthInfoRequest,
    HostBasedFields,
    KeyboardInteractiveFields,
    Message,
    PasswordFields,
    PublicKeyFields,
    UserauthFailure,
    UserauthInfoRequest,
    UserauthInfoResponse,
    UserauthPkOk,
    UserauthRequest,
    UserauthSuccess,
)
from ..messages import Prompt as WirePrompt
from .authentication import (
    AuthAttempt,
    CertificateAttempt,
    Challenge,
    HostBasedAttempt,
    KeyboardInteractiveAttempt,
    NoneAttempt,
    PasswordAttempt,
    PublicKeyAttempt,
    host_based_signed_data,
    public_key_signed_data,
)
from .events import Accepted, AttemptMade, Event, Guard, KeyQueried, Verdict

__all__ = ["ServerAuthentication"]

MAX_USERNAME_BYTES: Final = 1024
MAX_PASSWORD_BYTES: Final = 4096
MAX_ROUNDS: Final = 10
FAILURE_TIME: Final = 0.050
FAILURE_TIME_SPREAD: Final = 0.010


@dataclass(slots=True)
class _Delayed:
    """A failure that must not be sent too early."""

    time: float
    counts: bool


class ServerAuthentication:
    """Judges a client's requests until one succeeds."""

    def __init__(
        self,
        config: SessionConfig,
        session_id: bytes,
        send: Callable[[bytes], None],
        emit: Callable[[Event], None],
        guard: Guard,
        clock: Callable[[], float],
        on_success: Callable[[object], None],
        *,
        takes_certificates: bool,
        delay_secret: bytes,
        grouped_prompts: bool,
    ) -> None:
        self._methods = tuple(config.authentication_methods)
        # RFC 4252 section 5.2: "none" must not be listed, whether or not it is enabled.
        self._listed = tuple(name for name in self._methods if name != AuthenticationMethod.NONE)
        self._algorithms = tuple(config.host_key_algorithms)
        self._user_algorithms = (
            with_certificates(self._algorithms) if takes_certificates else self._algorithms
        )
        self._limits = config.limits
        self._session_id = session_id
        self._send = send
        self._emit = emit
        self._guard = guard
        self._clock = clock
        self._on_success = on_success
        self._delay_secret = delay_secret
        self._grouped_prompts = grouped_prompts
        self._queue: deque[UserauthRequest] = deque()
        self._current: UserauthRequest | None = None
        self._judged_since = 0.0
        self._delayed: _Delayed | None = None
        self._challenge: Challenge | None = None
        self._rounds = 0
        self._username: str | None = None
        self._requests = 0
        self._failures = 0
        self._probed = False
        self._is_authenticated = False

    @property
    def handlers(self) -> dict[int, Callable[[bytes], None]]:
        """The handlers of the client's messages."""
        return {
            MessageNumber.USERAUTH_REQUEST: self._request_received,
            MessageNumber.USERAUTH_INFO_RESPONSE: self._info_response_received,
        }

    @property
    def expects_answers(self) -> bool:
        """Whether the client has yet to answer a challenge."""
        return self._challenge is not None

    @property
    def deadline(self) -> float | None:
        """When a delayed failure may be sent."""
        return None if self._delayed is None else self._delayed.time

    def handle_timeout(self, now: float) -> None:
        """Send a delayed failure that is due."""
        if self._delayed is not None and now >= self._delayed.time:
            delayed, self._delayed = self._delayed, None
            self._send_failure(counts=delayed.counts)
            self._judge_next()

    # The client's messages

    def _request_received(self, payload: bytes) -> None:
        """Queue a request, and judge it when its turn has come."""
        request = UserauthRequest.decode(payload)
        self._requests += 1
        if self._requests > self._limits.authentication_requests:
            raise _too_many()
        self._check_identity(request)
        if self._challenge is not None:
            # A new request abandons the present exchange (RFC 4252 section 5.1).
            self._challenge = None
            self._current = None
        self._queue.append(request)
        self._judge_next()

    def _check_identity(self, request: UserauthRequest) -> None:
        if len(request.user_name.encode()) > MAX_USERNAME_BYTES:
            raise RemoteProtocolError(
                f"a user name of more than {MAX_USERNAME_BYTES} bytes",
                DisconnectReason.ILLEGAL_USER_NAME,
            )
        if request.service_name != Service.CONNECTION:
            raise RemoteProtocolError(
                f"authentication for a service other than {Service.CONNECTION}",
                DisconnectReason.SERVICE_NOT_AVAILABLE,
            )
        if self._username is None:
            self._username = request.user_name
        elif self._username != request.user_name:
            raise RemoteProtocolError("the user name changed between authentication requests")

    def _judge_next(self) -> None:
        while self._queue and self._current is None and not self._is_authenticated:
            request = self._queue.popleft()
            self._current = request
            self._judged_since = self._clock()
            judge = _JUDGES.get(request.method_name)
            if judge is None or request.method_name not in self._methods:
                self._fail(counts=not self._is_first_probe(request))
            else:
                judge(self, request)

    def _is_first_probe(self, request: UserauthRequest) -> bool:
        """Tell whether this is the usual first request, which asks for the enabled methods."""
        is_first = request.method_name == AuthenticationMethod.NONE and not self._probed
        self._probed = self._probed or is_first
        return is_first

    # Methods

    def _judge_none(self, request: UserauthRequest) -> None:
        if request.method_fields:
            raise WireError(f"{len(request.method_fields)} bytes after a method without fields")
        self._attempt(NoneAttempt(request.user_name), counts=not self._is_first_probe(request))

    def _judge_password(self, request: UserauthRequest) -> None:
        fields = PasswordFields.decode(request.method_fields)
        if fields.change or len(fields.password.encode()) > MAX_PASSWORD_BYTES:
            self._fail()
        else:
            self._attempt(PasswordAttempt(request.user_name, fields.password))

    def _judge_public_key(self, request: UserauthRequest) -> None:
        fields = PublicKeyFields.decode(request.method_fields)
        identity = _usable(fields.public_key, fields.algorithm, self._user_algorithms)
        if identity is None:
            self._fail()
        elif not fields.has_signature:
            self._query(request.user_name, identity, fields)
        elif identity.verify(
            public_key_signed_data(
                self._session_id,
                request.user_name,
                request.service_name,
                fields.algorithm,
                fields.public_key,
            ),
            fields.signature,
            fields.algorithm,
        ):
            self._attempt(_proof(request.user_name, identity, fields.algorithm))
        else:
            self._fail()

    def _query(self, username: str, identity: Identity, fields: PublicKeyFields) -> None:
        def answer(is_worthwhile: bool) -> None:
            if is_worthwhile:
                self._conclude(UserauthPkOk(fields.algorithm, fields.public_key))
            else:
                self._fail()
            self._judge_next()

        self._emit(KeyQueried(username, identity, self._guard(answer)))

    def _judge_interactive(self, request: UserauthRequest) -> None:
        KeyboardInteractiveFields.decode(request.method_fields)
        self._rounds = 0
        self._attempt(KeyboardInteractiveAttempt(request.user_name))

    def _info_response_received(self, payload: bytes) -> None:
        """Pass the answers to a challenge to the application."""
        response = UserauthInfoResponse.decode(payload)
        challenge, self._challenge = self._challenge, None
        if challenge is None or self._current is None:
            raise RemoteProtocolError("answers without a challenge")
        self._judged_since = self._clock()
        if len(response.responses) != len(challenge.prompts):
            self._fail()
            return
        self._rounds += 1
        self._attempt(
            KeyboardInteractiveAttempt(
                self._current.user_name, tuple(response.responses), self._rounds
            )
        )

    def _judge_host_based(self, request: UserauthRequest) -> None:
        fields = HostBasedFields.decode(request.method_fields)
        key = _usable(fields.host_key, fields.algorithm, self._algorithms)
        if not isinstance(key, Key):
            self._fail()
            return
        signed = host_based_signed_data(
            self._session_id, request.user_name, request.service_name, fields
        )
        if key.verify(signed, fields.signature, fields.algorithm):
            self._attempt(
                HostBasedAttempt(
                    request.user_name,
                    key,
                    fields.algorithm,
                    fields.client_host_name,
                    fields.client_user_name,
                )
            )
        else:
            self._fail()

    # Verdicts

    def _attempt(self, attempt: AuthAttempt, *, counts: bool = True) -> None:
        def answer(verdict: Verdict) -> None:
            if isinstance(verdict, Accepted):
                self._accept(verdict.principal)
            elif isinstance(verdict, Challenge):
                self._ask(verdict)
            else:
                self._fail(counts=counts)
            self._judge_next()

        self._emit(AttemptMade(attempt, self._guard(answer)))

    def _accept(self, principal: object) -> None:
        self._is_authenticated = True
        self._queue.clear()
        self._conclude(UserauthSuccess())
        self._on_success(principal)

    def _ask(self, challenge: Challenge) -> None:
        if self._queue:
            # The next request aborts a method that needs further messages (RFC 4252 section 5).
            self._current = None
            return
        if self._rounds >= MAX_ROUNDS:
            self._fail()
            return
        self._challenge = challenge
        layout = GroupedUserauthInfoRequest if self._grouped_prompts else UserauthInfoRequest
        prompts = tuple(WirePrompt(prompt.text, prompt.echo) for prompt in challenge.prompts)
        self._send(layout(challenge.name, challenge.instruction, "", prompts).encode())

    def _fail(self, *, counts: bool = True) -> None:
        """Refuse the current request, after its delay."""
        request = self._current
        if request is not None and request.method_name != AuthenticationMethod.NONE:
            self._delayed = _Delayed(self._judged_since + self._failure_time(), counts)
        else:
            self._send_failure(counts=counts)

    def _failure_time(self) -> float:
        digest = hmac.digest(self._delay_secret, (self._username or "").encode(), hashlib.sha256)
        return FAILURE_TIME + FAILURE_TIME_SPREAD * digest[0] / 255

    def _send_failure(self, *, counts: bool) -> None:
        self._conclude(UserauthFailure(self._listed, False))
        if counts:
            self._failures += 1
            if self._failures >= self._limits.authentication_failures:
                raise _too_many()

    def _conclude(self, reply: Message) -> None:
        self._current = None
        self._send(reply.encode())


_JUDGES: Final[dict[str, Callable[[ServerAuthentication, UserauthRequest], None]]] = {
    AuthenticationMethod.NONE: ServerAuthentication._judge_none,
    AuthenticationMethod.PASSWORD: ServerAuthentication._judge_password,
    AuthenticationMethod.PUBLIC_KEY: ServerAuthentication._judge_public_key,
    AuthenticationMethod.KEYBOARD_INTERACTIVE: ServerAuthentication._judge_interactive,
    AuthenticationMethod.HOST_BASED: ServerAuthentication._judge_host_based,
}


def _usable(blob: bytes, algorithm: str, accepted: Collection[str]) -> Identity | None:
    """Return the key or certificate if it is valid and matches an algorithm that we accept."""
    if algorithm not in accepted:
        return None
    try:
        identity = read_identity(blob, algorithm)
    except (KeyFormatError, WireError):
        return None
    return identity if algorithm in identity.signature_algorithms else None


def _proof(username: str, identity: Identity, algorithm: str) -> AuthAttempt:
    if isinstance(identity, Certificate):
        return CertificateAttempt(username, identity, algorithm)
    return PublicKeyAttempt(username, identity, algorithm)


def _too_many() -> RemoteProtocolError:
    return RemoteProtocolError(
        "too many authentication failures", DisconnectReason.NO_MORE_AUTH_METHODS_AVAILABLE
    )
