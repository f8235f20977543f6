"""The extension ``session-reconnect@microsoft.com``, on one stream.

A side that finds the extension in the peer's EXT_INFO announces it with a global request, and from
its next packet on ends every packet in a receipt. That is all until the stream is lost.

On a new stream, the client then does not authenticate: it sends a token, which only the client of
the lost session can compute, and the number of the last packet that it has received. The server
answers with its own. The tokens are computed with the MAC keys of the new stream's first key
exchange, so they are of no use elsewhere. Then both sides retransmit what the other lacks.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from ..algorithms import mac_key_size
from ..config import SessionConfig
from ..constants import Extension, ReconnectFailureReason
from ..errors import LocalProtocolError, ReconnectError
from ..messages import (
    GlobalRequest,
    Ignore,
    LinkedSessionReconnectRequest,
    RequestFailure,
    RequestSuccess,
    SessionReconnectFailure,
    SessionReconnectRequest,
    SessionReconnectResponse,
)
from ..wire import Buffer, displayable
from .connection import Connection
from .events import Event, Guard, ReconnectRequested, do_nothing
from .journal import Continuity, Entry, Journal
from .key_exchange import KeyExchanger
from .negotiation import Algorithms
from .transport import ReceiptHandler, Transport

__all__ = ["Reconnector"]

RECEIPT_MESSAGES: Final = 256
RECEIPT_BYTES: Final = 1024 * 1024
RECEIPT_TIME: Final = 1.0
"""The peer gets a receipt at the latest after so many messages, bytes or seconds."""

Resume = Callable[[Connection, list[Entry]], None]
"""Resumes a session, given the entries to retransmit."""


class Reconnector:
    """The extension on one stream.

    :ivar journal: what was sent; None while the extension is not in use
    :ivar deadline: when the next receipt is due, in monotonic seconds
    """

    __slots__ = (
        "_config",
        "_connection",
        "_emit",
        "_exchanger",
        "_extensions",
        "_guard",
        "_has_resumed",
        "_is_requested",
        "_on_receipt",
        "_on_resume",
        "_transport",
        "_unanswered",
        "_watched",
        "deadline",
        "journal",
    )

    def __init__(
        self,
        config: SessionConfig,
        transport: Transport,
        exchanger: KeyExchanger,
        emit: Callable[[Event], None],
        guard: Guard,
        on_receipt: ReceiptHandler,
        on_resume: Resume,
    ) -> None:
        self._config = config
        self._transport = transport
        self._exchanger = exchanger
        self._emit = emit
        self._guard = guard
        self._on_receipt = on_receipt
        self._on_resume = on_resume
        self._extensions: tuple[str, ...] = ()
        self._connection: Connection | None = None
        self._is_requested = False
        self._has_resumed = False
        self._unanswered = -1
        self._watched = 0
        self.deadline: float | None = None
        self.journal: Journal | None = None

    def release(self) -> None:
        """Drop the callbacks; nothing more will arrive."""
        self._emit = self._guard = self._on_receipt = self._on_resume = do_nothing

    # Enabling

    def learn_extensions(self, names: frozenset[str]) -> None:
        """Announce receipts if the peer supports them; on a client, ask for a lost session."""
        if self._extensions:
            return
        self._extensions = tuple(name for name in self._config.extensions if name in names)
        if Extension.SESSION_RECONNECT in self._extensions and self._has_token_keys():
            digest = hashlib.sha256(b"anyssh-link" + self._exchanger.session_id).digest()
            self.journal = Journal(digest)
            request = GlobalRequest(Extension.ENABLE_SESSION_RECONNECT_REQUEST, False, b"")
            self._transport.send(request.encode())
            self._transport.give_receipts(with_delay=self._has_delays)
        if self._connection is not None:
            self._ask(_continuity(self._connection))

    def _has_token_keys(self) -> bool:
        algorithms = self._exchanger.algorithms
        return algorithms is not None and all(_macs(algorithms))

    @property
    def _has_delays(self) -> bool:
        return Extension.SESSION_LATENCY in self._extensions

    @property
    def may_be_enabled(self) -> bool:
        """Whether the peer may announce its receipts: once, and if both sides support them."""
        return self.journal is not None and not self._transport.gets_receipts

    def receive_enable(self) -> None:
        """Expect receipts from the next packet on."""
        self._transport.expect_receipts(with_delay=self._has_delays, on_receipt=self._on_receipt)

    @property
    def is_enabled(self) -> bool:
        """Whether the peer can resume over another stream.

        It has announced receipts, or has resumed already: a client may ask for its session first,
        and lose the stream before it announces them.
        """
        return self.journal is not None and (self._transport.gets_receipts or self._has_resumed)

    # Receipts on their own

    @property
    def is_steady(self) -> bool:
        """Whether packets that arrive next cannot bring the deadline forward."""
        return self.deadline is not None or not self._transport.gives_receipts

    def ignore(self, size: int) -> None:
        """Owe no receipt for a packet, lest two idle sides keep each other busy."""
        self._transport.receipted_messages += 1
        self._transport.receipted_bytes += size

    def give_receipt_if_due(self, now: float) -> None:
        """Send a packet just for its receipt, if the peer has waited for too long."""
        transport = self._transport
        waiting = transport.messages_received - transport.receipted_messages
        if waiting <= 0 or not transport.gives_receipts:
            return
        if (
            waiting >= RECEIPT_MESSAGES
            or transport.bytes_received - transport.receipted_bytes >= RECEIPT_BYTES
        ):
            self._give_receipt()
        elif self.deadline is None or transport.receipted_messages != self._watched:
            self._watched = transport.receipted_messages
            self.deadline = now + RECEIPT_TIME

    def handle_timeout(self, now: float) -> None:
        """Send a receipt, unless one was sent in the meantime."""
        if self.deadline is None or now < self.deadline:
            return
        self.deadline = None
        transport = self._transport
        if transport.messages_received > transport.receipted_messages == self._watched:
            self._give_receipt()

    def _give_receipt(self) -> None:
        self._transport.send(Ignore(b"").encode())

    # Client

    def resume(self, connection: Connection) -> None:
        """Ask for a lost session as soon as the server has announced the extension."""
        algorithms = self._exchanger.algorithms
        before = _continuity(connection).algorithms
        if algorithms is None or _is_weaker(algorithms, before):
            raise _client_failure("the new stream's algorithms are weaker than the session's")
        self._connection = connection

    @property
    def is_awaiting_reply(self) -> bool:
        """Whether we have asked for a session and not been answered."""
        return self._is_requested

    def _ask(self, continuity: Continuity) -> None:
        if self.journal is None:
            raise _client_failure("the server does not know the session: it offers no reconnect")
        token = self._tokens(to_server=True)(continuity.session_id)
        lost = continuity.journal
        continuity.attempts += 1
        request = (
            LinkedSessionReconnectRequest(
                token, lost.last_received, lost.link_id, continuity.attempts
            )
            if self._names_links
            else SessionReconnectRequest(token, lost.last_received)
        )
        name = Extension.SESSION_RECONNECT_REQUEST
        self._transport.send(GlobalRequest(name, True, request.encode()).encode())
        self._is_requested = True
        if not self._names_links:
            self._unanswered = lost.unanswered
            lost.unanswered = max(self._unanswered, self._transport.messages_sent - 1)

    @property
    def _names_links(self) -> bool:
        return Extension.SESSION_LINK in self._extensions

    def _tokens(self, *, to_server: bool) -> Callable[[bytes], bytes]:
        """Return the function that computes a direction's tokens, valid on this stream only."""
        digest, key = self._exchanger.mac_key(to_server=to_server)
        stream_id = self._exchanger.session_id
        return lambda session_id: hmac.digest(key, session_id + stream_id, digest)

    def receive_success(self, payload: Buffer) -> None:
        """Verify that the server knows the session, and resume it."""
        response = SessionReconnectResponse.decode(RequestSuccess.decode(payload).payload)
        connection = self._asked()
        continuity = _continuity(connection)
        token = self._tokens(to_server=False)(continuity.session_id)
        if not hmac.compare_digest(token, response.server_token):
            raise ReconnectError(
                ReconnectFailureReason.INVALID_SERVER_TOKEN,
                "the server did not prove that it knows the session",
            )
        number, lost = response.last_received_sequence_number, continuity.journal
        if number <= self._unanswered:
            # The server resumed over a stream that was lost; we do not know what it received there.
            raise ReconnectError(
                ReconnectFailureReason.CLIENT_DROPPED_MESSAGES,
                "the server resumed over a stream that was lost before its answer arrived",
            )
        if not lost.fits(number):
            raise ReconnectError(
                ReconnectFailureReason.CLIENT_DROPPED_MESSAGES,
                f"the server received packet {number} last, it says; "
                f"expected one from {lost.acknowledged} to {lost.last_sent}",
            )
        self._has_resumed = True
        self._on_resume(connection, lost.missing(number))
        # Tells the server that its answer has arrived.
        self._give_receipt()

    def receive_failure(self, payload: Buffer) -> None:
        """Give up: the server does not resume the session."""
        _continuity(self._asked()).journal.unanswered = self._unanswered
        failure = SessionReconnectFailure.decode(RequestFailure.decode(payload).payload)
        words = displayable(failure.description) or "no description"
        raise ReconnectError(failure.reason, f"the server does not resume the session: {words}")

    def _asked(self) -> Connection:
        if self._connection is None or not self._is_requested:
            raise LocalProtocolError("no session was requested")
        self._is_requested = False
        return self._connection

    # Server

    @property
    def may_be_asked(self) -> bool:
        """Whether the client may ask for a lost session: once, if both support the extension."""
        return self.journal is not None and not self._is_requested

    def receive_request(self, payload: bytes) -> None:
        """Ask which session it is; nothing else is received until that is known."""
        self._is_requested = True
        request: SessionReconnectRequest
        if self._names_links:
            request = LinkedSessionReconnectRequest.decode(payload)
            link_id, attempt = request.link_id, request.attempt
        else:
            request = SessionReconnectRequest.decode(payload)
            link_id, attempt = b"", None
        number = request.last_received_sequence_number
        token = self._tokens(to_server=True)

        def proves(session_id: bytes) -> bool:
            return hmac.compare_digest(token(session_id), request.client_token)

        def is_overtaken(connection: Connection) -> bool:
            return attempt is not None and attempt <= _continuity(connection).attempts

        def answer(connection: Connection | None, error: ReconnectError | None) -> None:
            if connection is None:
                raise error or LocalProtocolError("a refusal needs an error")
            continuity = _continuity(connection)
            lost = continuity.follow(link_id, number)
            if attempt is not None:
                continuity.attempts = attempt
            self._continue(connection, lost, number)

        self._emit(ReconnectRequested(proves, is_overtaken, self._guard(answer)))

    def _continue(self, connection: Connection, lost: Journal, number: int) -> None:
        """Confirm to the client that its session resumes, and resume it."""
        journal = self.journal
        if journal is None:
            raise LocalProtocolError("the extension is not in use")
        missing = lost.missing(number)
        journal.continues(lost, repeated=len(missing), confirmed_by=self._transport.messages_sent)
        token = self._tokens(to_server=False)(_continuity(connection).session_id)
        response = SessionReconnectResponse(token, lost.last_received)
        self._transport.send(RequestSuccess(response.encode()).encode())
        self._has_resumed = True
        self._on_resume(connection, missing)

    def refuse(self, error: ReconnectError) -> None:
        """Refuse to resume the session that a client asked for."""
        failure = SessionReconnectFailure(error.reason, str(error)).encode()
        self._transport.send(RequestFailure(failure).encode())


def _continuity(connection: Connection) -> Continuity:
    if connection.continuity is None:
        raise LocalProtocolError("this session cannot reconnect")
    return connection.continuity


def _macs(algorithms: Algorithms) -> tuple[str, str]:
    return algorithms.mac_client_to_server, algorithms.mac_server_to_client


def _is_weaker(algorithms: Algorithms, before: Algorithms) -> bool:
    """Whether a MAC, whose key computes the tokens, is weaker than before."""
    return any(
        not new or mac_key_size(new) < mac_key_size(old)
        for new, old in zip(_macs(algorithms), _macs(before), strict=True)
    )


def _client_failure(text: str) -> ReconnectError:
    return ReconnectError(ReconnectFailureReason.UNKNOWN_CLIENT_FAILURE, text)
