"""The protocol of one byte stream, sans-IO: a state machine that a session feeds and drains.

The core connects the parts. The transport turns bytes into payloads; each payload is looked up in
the acceptance table, and passed to the part in charge: key exchange, authentication or connection.
What these report leaves as events. Every error of the peer ends in :meth:`Core.terminate`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

from ..config import SessionConfig
from ..constants import (
    ChannelOpenFailureReason,
    DisconnectReason,
    Extension,
    MessageNumber,
    Service,
)
from ..errors import (
    Disconnected,
    HostKeyError,
    LocalProtocolError,
    ReconnectError,
    RemoteProtocolError,
    SSHError,
)
from ..keys import Identity
from ..messages import (
    ChannelOpen,
    ChannelOpenFailure,
    Debug,
    Disconnect,
    ExtInfo,
    GlobalRequest,
    Message,
    RequestFailure,
    ServiceAccept,
    ServiceRequest,
    Unimplemented,
)
from ..trace import TraceHandler, TraceId, TraceLevel
from ..wire import Buffer, displayable
from .acceptance import (
    NEXT_PHASES,
    PLAIN,
    Condition,
    Disposition,
    Phase,
    Role,
    Rule,
    compiled,
)
from .budget import Budget
from .client_authentication import ClientAuthentication
from .connection import Connection
from .events import (
    Answer,
    Authenticated,
    ConnectionTerminated,
    DebugReceived,
    Event,
    ExtensionsReceived,
    KeepAliveMissed,
    KeyExchangeCompleted,
    LatencyMeasured,
    ServiceAccepted,
    ServiceRequested,
    SessionResumed,
    VersionReceived,
)
from .journal import Continuity, Entry
from .keep_alive import KeepAlive
from .key_exchange import KeyExchanger
from .negotiation import Algorithms
from .offline import Offline, overflow
from .reconnect import Reconnector
from .rekeying import Rekeying
from .server_authentication import ServerAuthentication
from .tracing import DATA_MESSAGES, Tracer, message_name
from .transport import Transport

__all__ = ["Core"]

MessageT = TypeVar("MessageT", bound=Message)

MAX_CACHED_BYTES: Final = 512
MAX_DESCRIPTION: Final = 1024
"""Characters of our DISCONNECT; one too long for the peer would hide the reason from it."""
MESSAGES_PER_CALL: Final = 512
"""Messages handled in one call, however small, before the caller gets a chance to do other work."""
LEAST_MESSAGES_PER_CALL: Final = 64
MESSAGES_PER_CHANNEL: Final = 8
"""How many messages waking one application task is worth; each channel may have one."""

# Looking up an enum member is slow in Python 3.11.
_VERSION: Final = Phase.VERSION
_RUNNING: Final = Phase.RUNNING
_TERMINATED: Final = Phase.TERMINATED
_HANDLE: Final = Disposition.HANDLE
_ACCEPTANCE: Final = {role: compiled(role) for role in Role}
_WAITED_FOR: Final = {
    Phase.VERSION: "the identification line",
    Phase.KEY_EXCHANGE: "the key exchange",
    Phase.ENCRYPTED: "authentication",
    Phase.AUTHENTICATION: "authentication",
    Phase.RUNNING: "new keys",
    Phase.REKEYING: "new keys",
}


def _cached_decoder(kind: type[MessageT]) -> Callable[[bytes], MessageT]:
    """Return a caching decoder for messages of which most peers send the same bytes."""
    remembered = lru_cache(maxsize=16)(kind.decode)

    def decode(payload: bytes) -> MessageT:
        return (remembered if len(payload) <= MAX_CACHED_BYTES else kind.decode)(payload)

    return decode


_decode_disconnect: Final = _cached_decoder(Disconnect)
_decode_ext_info: Final = _cached_decoder(ExtInfo)
_decode_service_accept: Final = _cached_decoder(ServiceAccept)
_decode_service_request: Final = _cached_decoder(ServiceRequest)


class Core:
    """The protocol state of one byte stream, without any I/O of its own.

    :param role: which end we are
    :param config: algorithms and limits
    :param now: monotonic seconds
    :param random: returns the given number of unpredictable bytes
    :param identification: our identification string, without CR LF
    :param connection: the session's state that outlives the stream; attached after authentication,
        or when a server resumes it after it lost its previous stream
    :param host_keys: a server's host keys and certificates, in order of preference; the private
        halves may be held elsewhere
    :param takes_certificates: whether the peer may authenticate with a certificate
    :param guesses_key_exchange: whether a client sends its first key exchange message at once
    :param delay_secret: makes the delays of failed authentications unpredictable
    :param services: what authenticated clients may request, besides the connection protocol
    :param clock: returns the present time in monotonic seconds, for measuring latency
    :param trace: called with trace events, if given
    :ivar phase: the phase of the connection
    :ivar is_running: whether channels and requests are allowed
    :ivar can_send: whether payloads of the connection may be sent now
    :ivar peer_has_left: whether the peer has sent DISCONNECT, so that nothing more will arrive
    :ivar has_backlog: whether to call :meth:`receive_data` again, after other tasks had their turn
    """

    __slots__ = (
        "__weakref__",
        "_asked_with",
        "_authentication",
        "_budget",
        "_clock",
        "_connection",
        "_data_tracer",
        "_deadline",
        "_deferred",
        "_delay_secret",
        "_events",
        "_ext_info_message",
        "_handlers",
        "_is_attached",
        "_is_halted",
        "_keep_alive",
        "_messages_per_call",
        "_now",
        "_reconnector",
        "_rekeying",
        "_rules",
        "_saw_connection_message",
        "_services",
        "_success_is_due",
        "_takes_certificates",
        "_tracer",
        "can_send",
        "config",
        "exchanger",
        "has_backlog",
        "is_running",
        "peer_has_left",
        "phase",
        "role",
        "transport",
    )

    def __init__(
        self,
        role: Role,
        config: SessionConfig,
        *,
        now: float,
        random: Callable[[int], bytes],
        identification: str,
        connection: Connection,
        host_keys: Sequence[Identity] = (),
        takes_certificates: bool = False,
        guesses_key_exchange: bool = False,
        delay_secret: bytes = b"",
        services: Collection[str] = (),
        clock: Callable[[], float] | None = None,
        trace: TraceHandler | None = None,
    ) -> None:
        self.role: Role = role
        self.config: SessionConfig = config
        self._now = now
        self._tracer = None if trace is None else Tracer(trace, with_data=config.trace_channel_data)
        self._data_tracer = self._tracer if config.trace_channel_data else None
        self._takes_certificates = takes_certificates
        self._delay_secret = delay_secret
        self._services = services
        self._events: list[Event] = []
        self.phase: Phase = Phase.VERSION
        self.is_running: bool = False
        self._rules = _ACCEPTANCE[role][Phase.VERSION]
        self.can_send: bool = False
        self.transport: Transport = Transport(
            role,
            config.limits,
            identification,
            random,
            None if self._tracer is None else self._tracer.sent,
        )
        if self._tracer is not None:
            self._tracer.transport = self.transport
        emit, guard = self.emit, self._guard
        self.exchanger: KeyExchanger = KeyExchanger(
            role,
            config,
            self.transport,
            random,
            host_keys,
            identification,
            emit,
            guard,
            self._exchange_completed,
            takes_certificates=takes_certificates,
            guesses=guesses_key_exchange or config.guess_key_exchange is True,
        )
        self._clock = clock if clock is not None else lambda: self._now
        self._reconnector = Reconnector(
            config,
            self.transport,
            self.exchanger,
            emit,
            guard,
            self._acknowledged,
            self._resume,
        )
        if connection.continuity is not None:
            self.exchanger.host_key = connection.continuity.host_key
        self._rekeying = Rekeying(config, self.transport)
        self._authentication: ClientAuthentication | ServerAuthentication | None = None
        self._connection = connection
        self._is_attached = False
        self._asked_with = -1
        self._keep_alive = KeepAlive(config.keep_alive_interval)
        self._budget = Budget(config.limits, self.transport)
        self._deferred: list[bytes] = []
        self._ext_info_message = 0
        self._success_is_due = False
        self._saw_connection_message = False
        self._deadline: float | None = now + config.limits.version_time
        self.has_backlog: bool = False
        self.peer_has_left: bool = False
        self._messages_per_call = LEAST_MESSAGES_PER_CALL
        self._is_halted = False
        self._handlers: dict[int, Callable[..., None]] = _Handlers(self)
        self.exchanger.start()

    # Called by the session

    @property
    def is_paused(self) -> bool:
        """Whether receiving is suspended until the session to resume over this stream is known."""
        return self._is_halted and self.phase is not Phase.TERMINATED

    @property
    def client_authentication(self) -> ClientAuthentication:
        """The client's authentication.

        :raises LocalProtocolError: it is not time for it, or this is not a client
        """
        if not isinstance(self._authentication, ClientAuthentication):
            raise LocalProtocolError(
                f"a client authenticates once keys are exchanged; this {self._whereabouts()}"
            )
        self._require_connection()
        if not self.exchanger.host_key_is_accepted:
            raise LocalProtocolError("the host key was not accepted yet")
        return self._authentication

    def _require_connection(self) -> None:
        if self.phase is Phase.TERMINATED:
            raise LocalProtocolError("the connection has ended")

    @property
    def is_steady(self) -> bool:
        """Whether :meth:`next_deadline` can only move later for now, and need not be checked."""
        return self.can_send and self._reconnector.is_steady

    # The PacketSink of the connection

    @property
    def room(self) -> int:
        """Bytes that the output, and the journal, can take before senders wait."""
        limits, journal = self.config.limits, self._reconnector.journal
        room = limits.pending_output - self.transport.pending
        return room if journal is None else min(room, limits.unacknowledged_bytes - journal.size)

    def send(self, head: bytes, body: Buffer = b"") -> None:
        """Seal and queue a payload, given in one or two pieces."""
        transport, journal = self.transport, self._reconnector.journal
        if self._data_tracer is not None and head[0] in DATA_MESSAGES:
            self._data_tracer.sent_data(bytes(head) + bytes(body))
        if journal is not None:
            if not transport.pending:  # otherwise it leaves together with what came just before
                transport.now = self._clock()
            journal.enter(transport.messages_sent, transport.now, head, body)
        transport.send(head, body)

    def emit(self, event: Event) -> None:
        """Queue an event for the session."""
        self._events.append(event)

    def count_noise(self, size: int) -> None:
        """Count a message without effect.

        :raises RemoteProtocolError: there were too many
        """
        if not self._budget.takes_noise(size, self._now):
            limits = self.config.limits
            raise RemoteProtocolError(
                f"more than {limits.noise_messages} messages without effect, or "
                f"{limits.noise_bytes} bytes of them, and more than {limits.noise_rate:g} a second"
            )

    # Feeding and draining

    def receive_data(self, data: Buffer, now: float) -> Sequence[Event]:
        """Process bytes from the stream; return the resulting events.

        The number of messages per call is bounded. While :attr:`has_backlog` is true, call again
        with ``b""``, after other tasks had their turn.
        """
        self._now = now
        self.has_backlog = False
        if self.phase is not _TERMINATED:
            self.transport.received_at = self.transport.now = now
            self._keep_alive.received(now)
            self._attempt(self._receive, data)
        return self.poll_events()

    def receive_eof(self, now: float) -> Sequence[Event]:
        """Process the end of the stream; return the resulting events."""
        self._now = now
        if self.phase is not Phase.TERMINATED:
            self._end(None, is_loss=True)
        return self.poll_events()

    @property
    def has_output(self) -> bool:
        """Whether :meth:`data_to_send` would return any bytes."""
        return self.transport.pending > 0 or self._connection.gathering is not None

    @property
    def has_events(self) -> bool:
        """Whether :meth:`poll_events` would return any events."""
        return bool(self._events)

    def poll_events(self) -> Sequence[Event]:
        """Return and clear the events since the last call."""
        events = self._events
        if not events:
            return ()
        taken = events.copy()
        events.clear()
        return taken

    def data_to_send(self, now: float) -> bytes:
        """Return and clear the bytes to write to the stream. May cause events."""
        self._now = now
        self.transport.now = now
        if self.phase is _RUNNING:
            if self._rekeying.may_be_due(now):
                self._attempt(self._start_rekey_if_due)
            if self._reconnector.journal is not None:
                self._ask_for_receipt()
        if self._is_attached:
            self._connection.send_gathered()
        data = self.transport.take_output()
        if data and self._is_attached:
            self._connection.output_was_taken()
        return data

    def next_deadline(self) -> float | None:
        """Return when to call :meth:`handle_timeout` next, in monotonic seconds."""
        if self.phase is Phase.TERMINATED:
            return None
        earliest = self._deadline
        if self.phase is Phase.RUNNING:
            others = (
                self._keep_alive.deadline,
                self._rekey_deadline(),
                self._reconnector.deadline,
            )
        elif self._authentication is not None:
            others = (self._authentication.deadline, None, None)
        else:
            return earliest
        for deadline in others:
            if deadline is not None and (earliest is None or deadline < earliest):
                earliest = deadline
        return earliest

    def _rekey_deadline(self) -> float | None:
        if self.exchanger.is_running or not self.config.is_secure:
            return None
        return self._rekeying.deadline

    def handle_timeout(self, now: float) -> Sequence[Event]:
        """Do what is due; return the resulting events."""
        self._now = self.transport.now = now
        if self.phase is not Phase.TERMINATED:
            self._attempt(self._time_out)
        return self.poll_events()

    def _time_out(self) -> None:
        now = self._now
        if self._deadline is not None and now >= self._deadline:
            error = RemoteProtocolError(f"the peer took too long for {_WAITED_FOR[self.phase]}")
            if not self._is_survivable:
                raise error
            # Silence is no violation: the peer may simply be gone.
            self._end(error, is_loss=True)
        elif self.phase is Phase.RUNNING:
            self._start_rekey_if_due()
            self._keep_alive_if_due()
            self._reconnector.handle_timeout(now)
        elif self._authentication is not None:
            self._authentication.handle_timeout(now)

    # Ending

    def disconnect(self, reason: int, description: str) -> None:
        """Send DISCONNECT; nothing is received or sent afterwards."""
        if self.phase is not Phase.TERMINATED:
            is_loss = reason == DisconnectReason.CONNECTION_LOST
            self._send_disconnect(reason, description)
            self._end(Disconnected(reason, description, by_peer=False), is_loss=is_loss)

    def lose(self, error: SSHError, now: float) -> None:
        """End the connection as if the stream had ended, for a reason known to us."""
        self._now = now
        if self.phase is not Phase.TERMINATED:
            self._end(error, is_loss=True)

    def terminate(self, error: SSHError) -> None:
        """End the connection because of an error, and tell the peer the reason.

        A session that can resume over another stream survives an occasional corrupted packet.
        """
        if self.phase is Phase.TERMINATED:
            return
        self._tell(TraceId.RECEIVE_MESSAGE_FAILED, TraceLevel.ERROR, str(error), error)
        reason = getattr(error, "reason", DisconnectReason.PROTOCOL_ERROR)
        if isinstance(error, ReconnectError):
            if self.role is Role.SERVER:
                self._reconnector.refuse(error)
            self._end(error)
        elif reason == DisconnectReason.MAC_ERROR and self._survives_fault():
            self._end(error, is_loss=True)
        else:
            self._send_disconnect(reason, _public_words(error))
            self._end(error)

    @property
    def _is_survivable(self) -> bool:
        """Whether the session could resume over another stream if this one were lost."""
        return (
            self._is_attached
            and self._connection.continuity is not None
            and self._reconnector.is_enabled
        )

    def _survives_fault(self) -> bool:
        continuity = self._connection.continuity
        return (
            continuity is not None and self._is_survivable and continuity.survives_fault(self._now)
        )

    def _end(self, error: SSHError | None, *, is_loss: bool = False) -> None:
        is_survivable = is_loss and self._is_survivable
        if is_survivable:
            # The peer has already been sent receipts for them.
            self._attempt(self._handle_deferred)
            if self.phase is Phase.TERMINATED:
                return
        self._events.append(ConnectionTerminated(error, self.phase, is_survivable))
        self._set_phase(Phase.TERMINATED)
        self.has_backlog = False
        self._is_halted = True
        if is_survivable:
            self._go_offline()
        elif self._is_attached:
            self._connection.detach()

    def release(self) -> None:
        """Drop all references that lead back here, once the stream is closed.

        They would keep this core alive until the garbage collector runs. Its state remains
        readable.
        """
        self._handlers = {}
        self._authentication = None
        self.exchanger.release()
        self._reconnector.release()

    def _go_offline(self) -> None:
        """Leave the connection with only the journal."""
        transport, continuity = self.transport, self._connection.continuity
        if continuity is not None:
            journal = continuity.journal
            received = transport.messages_received - 1
            if not transport.gets_receipts:
                # The peer's next packet would have announced receipts; it keeps only what it sends
                # after that.
                received += 1
            journal.end(transport.messages_sent - 1, received)
            offline = Offline(journal, self.config.limits, self.emit, self._clock)
            self._connection.attach(offline)

    def _send_disconnect(self, reason: int, description: str) -> None:
        """Send DISCONNECT, unless the peer has not identified itself as SSH."""
        if self._is_attached:
            self._connection.send_gathered()
        if self.phase is not Phase.VERSION:
            self.transport.send(Disconnect(reason, description[:MAX_DESCRIPTION]).encode())

    def _attempt(self, action: Callable[..., None], *arguments: Any) -> None:
        """Run an action; if it raises an SSHError, end the connection."""
        try:
            action(*arguments)
        except SSHError as error:
            self.terminate(error)

    def _guard(self, answer: Callable[..., None]) -> Answer:
        """Wrap the answer to an obligation, such that an SSHError in it ends the connection."""

        def guarded(now: float, *arguments: Any) -> None:
            self._now = now
            if self.phase is not Phase.TERMINATED:
                self._attempt(answer, *arguments)

        return guarded

    # Receiving

    def _receive(self, data: Buffer) -> None:
        transport = self.transport
        transport.feed(data)
        if self.phase is _VERSION and not self._read_greeting():
            return
        if not self.is_running:
            self._budget.check_unauthenticated()
        if self._is_halted:
            return
        for _ in range(self._messages_per_call):
            payload = transport.next_payload()
            if payload is None:
                break
            number = payload[0]
            if self._tracer is not None:
                self._tracer.received(payload)
            rule = self._rules[number]
            if rule is PLAIN:
                self._handlers[number](payload)
            else:
                self._receive_by_rule(number, bytes(payload), rule)
            if self._is_halted:
                return
        else:
            self.has_backlog = True
            self._limit_messages()
        if transport.pending or not self.can_send:
            self._budget.check_unread_answers(self._connection)
        if self.phase is _RUNNING and transport.gives_receipts:
            self._reconnector.give_receipt_if_due(self._now)

    def _limit_messages(self) -> None:
        """Bound the duration of a call, whatever the number of tasks that it wakes."""
        woken = MESSAGES_PER_CHANNEL * self._connection.channel_count
        self._messages_per_call = max(LEAST_MESSAGES_PER_CALL, MESSAGES_PER_CALL - woken)

    def _receive_by_rule(self, number: int, payload: bytes, rule: Rule | None) -> None:
        if not self.is_running:
            self._budget.check_unauthenticated()
        if self._success_is_due and number != MessageNumber.USERAUTH_SUCCESS:
            raise RemoteProtocolError(
                "EXT_INFO during authentication must be followed by USERAUTH_SUCCESS"
            )
        if rule is None or not _CONDITIONS[rule.condition](self, payload):
            raise self._illegal(number)
        if rule.disposition is _HANDLE:
            self._handlers[number](payload)
            return
        match rule.disposition:
            case Disposition.REFUSE:
                self._refuse(number, payload)
            case Disposition.DEFER:
                self._defer(payload)
            case Disposition.UNIMPLEMENTED:
                sequence = (self.transport.receive_sequence - 1) & 0xFFFFFFFF
                self.transport.send(Unimplemented(sequence).encode())
            case Disposition.DROP:
                pass

    def _read_greeting(self) -> bool:
        version = self.transport.read_greeting()
        if version is None:
            return False
        self._rekeying.learn_peer(version)
        self._set_phase(Phase.KEY_EXCHANGE)
        self._deadline = self._now + self.config.limits.key_exchange_time
        self._events.append(VersionReceived(version))
        return True

    def _illegal(self, number: int) -> RemoteProtocolError:
        return RemoteProtocolError(
            f"{message_name(number)} ({number}) is not allowed in the {self._phase_name} phase"
        )

    @property
    def _phase_name(self) -> str:
        return self.phase.name.lower().replace("_", " ")

    def _whereabouts(self) -> str:
        """Describe this end for errors: its role and phase."""
        return f"is a {self.role.name.lower()} in the {self._phase_name} phase"

    # Conditions

    def _is_early_noise(self, payload: bytes) -> bool:
        return self._budget.takes_early_noise() and not self.exchanger.is_strict

    def _is_early_request(self, payload: bytes) -> bool:
        name = GlobalRequest.decode(payload).request_name
        if name == Extension.ENABLE_SESSION_RECONNECT_REQUEST:
            if self._reconnector.may_be_enabled:
                return True
        elif name == Extension.SESSION_RECONNECT_REQUEST and self._may_be_asked_to_reconnect:
            return True
        return self.role is Role.SERVER and self._peer_is_dev_tunnels

    @property
    def _may_be_asked_to_reconnect(self) -> bool:
        return (
            self.role is Role.SERVER
            and self.phase is Phase.ENCRYPTED
            and self._reconnector.may_be_asked
        )

    def _is_bearable_late_request(self, payload: bytes) -> bool:
        return not self._saw_connection_message and self._is_bearable_noise(payload)

    def _is_bearable_noise(self, payload: bytes) -> bool:
        self.count_noise(len(payload))  # says more than that the message is not allowed
        return True

    def _check_rekey_rate(self, payload: bytes) -> bool:
        """Return True if the peer may start a key exchange now; otherwise raise the reason."""
        if self.exchanger.is_running or self._rekeying.peer_may_start(self._now):
            return True
        limits = self.config.limits
        raise RemoteProtocolError(
            f"the peer starts more than {limits.rekey_burst} key exchanges without much traffic "
            f"between them, and more than one in {limits.rekey_interval:g} seconds"
        )

    @property
    def _server_owes_reply(self) -> bool:
        authentication = self._authentication
        return isinstance(authentication, ClientAuthentication) and authentication.expects_reply

    @property
    def _server_may_send_banner(self) -> bool:
        authentication = self._authentication
        return isinstance(authentication, ClientAuthentication) and authentication.takes_banner

    @property
    def _server_owes_method_message(self) -> bool:
        authentication = self._authentication
        return (
            isinstance(authentication, ClientAuthentication)
            and authentication.expects_method_message
        )

    @property
    def _client_owes_answers(self) -> bool:
        authentication = self._authentication
        return isinstance(authentication, ServerAuthentication) and authentication.expects_answers

    @property
    def _peer_is_dev_tunnels(self) -> bool:
        version = self.transport.peer_version
        return version is not None and version.is_dev_tunnels

    @property
    def _expects_ext_info(self) -> bool:
        """The first message under the first keys; for clients also the last before success."""
        if self.phase is Phase.ENCRYPTED:
            return self.transport.messages_received == self._ext_info_message
        return self.role is Role.CLIENT

    # Dispositions

    def _refuse(self, number: int, payload: bytes) -> None:
        """Tell the peer that it has to authenticate first."""
        if number == MessageNumber.GLOBAL_REQUEST:
            if GlobalRequest.decode(payload).want_reply:
                self.transport.send(RequestFailure(b"").encode())
        else:
            opening = ChannelOpen.decode(payload)
            refusal = ChannelOpenFailure(
                opening.sender_channel,
                ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED,
                "Authenticate before opening channels.",
            )
            self.transport.send(refusal.encode())

    def _defer(self, payload: bytes) -> None:
        """Keep a message until the new keys are in use."""
        self._deferred.append(payload)
        self._budget.check_deferred(self._deferred)

    # Handlers

    def _first_connection_message(self, payload: Buffer) -> None:
        """Note that the connection is in use; further messages go straight to it."""
        self._saw_connection_message = True
        self._connection.handlers[payload[0]](payload)

    def _global_request_received(self, payload: Buffer) -> None:
        """Handle requests about the stream; pass others to the connection, once there is one."""
        message = GlobalRequest.decode(payload)
        if message.request_name == Extension.ENABLE_SESSION_RECONNECT_REQUEST:
            self._enable_received(len(payload))
        elif message.request_name != Extension.SESSION_RECONNECT_REQUEST:
            self._other_request_received(payload)
        elif self._may_be_asked_to_reconnect:
            self._is_halted = True
            self._reconnector.receive_request(message.payload)
        elif self._is_survivable:
            self.count_noise(len(payload))  # retransmitted with what was lost
        else:
            self._other_request_received(payload)

    def _other_request_received(self, payload: Buffer) -> None:
        if self.is_running:
            self._first_connection_message(payload)
        else:
            self._refuse(MessageNumber.GLOBAL_REQUEST, bytes(payload))

    def _enable_received(self, size: int) -> None:
        if self._reconnector.may_be_enabled:
            self._reconnector.receive_enable()
        elif self._peer_is_dev_tunnels:
            self.count_noise(size)  # one of these implementations repeats it
        else:
            raise RemoteProtocolError("reconnecting was enabled twice, or never announced")

    def _disconnect_received(self, payload: bytes) -> None:
        message = _decode_disconnect(payload)
        self.peer_has_left = True
        error = Disconnected(message.reason, displayable(message.description))
        self._end(error, is_loss=message.reason == DisconnectReason.CONNECTION_LOST)

    def _unimplemented_received(self, payload: bytes) -> None:
        Unimplemented.decode(payload)

    def _debug_received(self, payload: bytes) -> None:
        message = Debug.decode(payload)
        self._events.append(DebugReceived(displayable(message.message), message.always_display))

    def _kexinit_received(self, payload: bytes) -> None:
        version = self.transport.peer_version
        if version is None:
            raise LocalProtocolError("no identification yet")
        if self.phase is Phase.RUNNING:
            self._set_phase(Phase.REKEYING)
            if self._deadline is None:
                self._deadline = self._now + self.config.limits.key_exchange_time
        self.exchanger.receive_kexinit(payload, version)

    def _exchange_completed(self, algorithms: Algorithms, is_initial: bool) -> None:
        self._rekeying.keys_changed(self._now)
        self.emit(KeyExchangeCompleted(algorithms, is_initial))
        if not is_initial:
            self._run()
            self._handle_deferred()
        elif self._connection.continuity is not None:
            self._begin_resumption()
        elif self.config.is_secure:
            self._begin_authentication()
        else:
            self._authenticated()

    def _handle_deferred(self) -> None:
        deferred, self._deferred = self._deferred, []
        for payload in deferred:
            self._handlers[payload[0]](payload)

    def _run(self) -> None:
        self._set_phase(Phase.RUNNING)
        self._deadline = None
        self._connection.resume()

    def _begin_authentication(self) -> None:
        self._set_phase(Phase.ENCRYPTED)
        self._deadline = self._now + self.config.limits.authentication_time
        self._ext_info_message = self.transport.messages_received + 1
        self._authentication = (
            self._client_authentication()
            if self.role is Role.CLIENT
            else self._server_authentication()
        )
        self._handlers |= self._authentication.handlers

    def _client_authentication(self) -> ClientAuthentication:
        return ClientAuthentication(
            self.exchanger.session_id,
            self._send_authentication,
            self.emit,
            self._client_authenticated,
            grouped_prompts=self._peer_is_dev_tunnels,
        )

    def _server_authentication(self) -> ServerAuthentication:
        return ServerAuthentication(
            self.config,
            self.exchanger.session_id,
            self.transport.send,
            self.emit,
            self._guard,
            lambda: self._now,
            self._server_authenticated,
            takes_certificates=self._takes_certificates,
            delay_secret=self._delay_secret,
            grouped_prompts=self._peer_is_dev_tunnels,
        )

    def _send_authentication(self, payload: bytes) -> None:
        self._require_connection()
        if payload[0] == MessageNumber.SERVICE_REQUEST:
            self._connection.pending_service = Service.USERAUTH
        self.transport.send(payload)

    def _client_authenticated(self) -> None:
        self.emit(Authenticated(None))
        self._authenticated()

    def _server_authenticated(self, principal: object) -> None:
        self._authentication = None
        self.emit(Authenticated(principal))
        self._authenticated()

    def _authenticated(self) -> None:
        self._success_is_due = False
        journal, algorithms = self._reconnector.journal, self.exchanger.algorithms
        if journal is not None and algorithms is not None:
            self._connection.continuity = Continuity(
                self.exchanger.session_id, self.exchanger.host_key, algorithms, journal
            )
        self._start_running()
        if self.transport.peer_version is not None:
            self._connection.learn_peer(self.transport.peer_version)
        self._connection.attach(self)

    def _start_running(self) -> None:
        self._handlers.clear()  # those for authenticating, or for resuming
        self.exchanger.forget_first_exchange()
        self.transport.allow_large_packets()
        self._set_phase(Phase.RUNNING)
        self._deadline = None
        self._is_attached = True
        self._keep_alive.start(self._now)

    def _ext_info_received(self, payload: bytes) -> None:
        extensions = dict(
            _decode_ext_info(payload).extensions
        )  # a copy: decoded messages are cached
        self._reconnector.learn_extensions(frozenset(extensions))
        self._success_is_due = self.phase is Phase.AUTHENTICATION
        if isinstance(self._authentication, ClientAuthentication):
            self._authentication.learn_extensions(extensions)
        self.emit(ExtensionsReceived(extensions))

    # Reconnecting

    def _begin_resumption(self) -> None:
        """Resume a session that has lost its stream, instead of authenticating."""
        self._set_phase(Phase.ENCRYPTED)
        self._deadline = self._now + self.config.limits.key_exchange_time
        self._ext_info_message = self.transport.messages_received + 1
        self._handlers[MessageNumber.REQUEST_SUCCESS] = self._reconnector.receive_success
        self._handlers[MessageNumber.REQUEST_FAILURE] = self._reconnector.receive_failure
        self._reconnector.resume(self._connection)

    def _resume(self, connection: Connection, missing: Sequence[Entry]) -> None:
        """Resume a session; first retransmit what the peer lacks."""
        continuity, journal = connection.continuity, self._reconnector.journal
        algorithms = self.exchanger.algorithms
        if continuity is None or journal is None or algorithms is None:
            raise LocalProtocolError("this session cannot reconnect")
        self.exchanger.session_id = continuity.session_id
        continuity.journal, continuity.algorithms = journal, algorithms
        self._connection = connection
        self._start_running()
        self._is_halted = False
        self.has_backlog = True
        for _, _, head, body in missing:
            self.send(head, body)
        connection.own_waiting += self.transport.pending  # the peer did not cause any of this
        self.emit(SessionResumed())
        connection.attach(self)

    def _acknowledged(self, number: int, delay: float | None) -> None:
        """Process a receipt: drop what has arrived, and measure the latency."""
        journal = self._reconnector.journal
        if journal is None:
            return
        sent_at = journal.acknowledge(number)
        if delay is not None and sent_at is not None:
            self.emit(LatencyMeasured((self._now - sent_at - delay) * 1000))
        if self._is_attached:
            self._connection.pass_turn()

    def _ask_for_receipt(self) -> None:
        """Solicit a receipt before senders would have to wait for one.

        Once more only after a receipt for the request itself: a peer that acknowledges packets one
        by one, and answers nothing, would otherwise be owed a place for the answer to each.
        """
        journal, limits = self._reconnector.journal, self.config.limits
        if journal is None or 2 * journal.size < limits.unacknowledged_bytes:
            return
        error = overflow(journal, limits)
        if error is not None:
            self.terminate(error)
        elif self.can_send and self.transport.last_receipt >= self._asked_with:
            self._connection.request_global(Extension.KEEP_ALIVE_REQUEST, b"", want_reply=True)
            self._asked_with = self.transport.messages_sent - 1

    # Services

    def request_service(self, name: str) -> None:
        """Request a service from the server; ServiceAccepted reports that it was granted.

        :raises LocalProtocolError: another request is in progress, or the phase does not allow it
        """
        if self.role is Role.SERVER or not self.is_running:
            raise LocalProtocolError(
                f"only an authenticated client requests services; this {self._whereabouts()}"
            )
        pending = self._connection.pending_service
        if pending is not None:
            raise LocalProtocolError(f"a request for the service {pending!r} is in progress")
        self._connection.pending_service = name
        self._connection.send_service_message(ServiceRequest(name).encode())

    def _service_request_received(self, payload: bytes) -> None:
        name = _decode_service_request(payload).service_name
        if name == Service.USERAUTH and not self.is_running:
            if self.phase is Phase.ENCRYPTED:
                self._set_phase(Phase.AUTHENTICATION)
        elif name in self._services and self.is_running:
            self._events.append(ServiceRequested(name))
        elif name != Service.CONNECTION or not (self.is_running or self._peer_is_dev_tunnels):
            raise RemoteProtocolError(
                f'Service "{displayable(name)}" not available',
                DisconnectReason.SERVICE_NOT_AVAILABLE,
            )
        accept = _acceptance_of(name)
        if self.is_running:
            self._connection.send_service_message(accept)
        else:
            self.transport.send(accept)

    def _service_accept_received(self, payload: bytes) -> None:
        name = _decode_service_accept(payload).service_name
        expected = self._connection.pending_service
        if name != expected:
            raise RemoteProtocolError(
                f"the server granted {displayable(name)!r}; {expected} was asked for"
            )
        self._connection.pending_service = None
        if self.phase is Phase.ENCRYPTED:
            self._set_phase(Phase.AUTHENTICATION)
        self._events.append(ServiceAccepted(name))

    # New keys and keep-alive

    def start_rekey(self, now: float) -> None:
        """Exchange new keys now; does nothing if a key exchange is in progress.

        :raises LocalProtocolError: the session is not running or not encrypted, or the peer is a
            Dev Tunnels implementation, which only rekeys on its own initiative
        """
        self._now = now
        if not (self.config.is_secure and self.is_running):
            raise LocalProtocolError(
                f"only a running, secure session can exchange new keys; this {self._whereabouts()}"
            )
        if not self._rekeying.is_at_will:
            raise LocalProtocolError("this peer exchanges new keys only on its own initiative")
        if not self.exchanger.is_running:
            self._start_rekey()

    def _start_rekey(self) -> None:
        self.exchanger.start()
        self.can_send = False
        self._deadline = self._now + self.config.limits.key_exchange_time

    def _start_rekey_if_due(self) -> None:
        if (
            self.config.is_secure
            and not self.exchanger.is_running
            and self._rekeying.is_due(self._now)
        ):
            self._start_rekey()

    def _keep_alive_if_due(self) -> None:
        deadline = self._keep_alive.deadline
        if deadline is None or self._now < deadline:
            return
        event = self._keep_alive.judge(self._now)
        self._events.append(event)
        if isinstance(event, KeepAliveMissed):
            self._tell(
                TraceId.KEEP_ALIVE_FAILED,
                TraceLevel.WARNING,
                f"no answer to keep-alive, {event.count}",
            )
        self._connection.request_global(Extension.KEEP_ALIVE_REQUEST, b"", want_reply=True)

    # Phase and trace

    def _set_phase(self, phase: Phase) -> None:
        if phase not in NEXT_PHASES[self.phase]:
            raise LocalProtocolError(f"{phase} cannot follow {self.phase}")
        self.phase = phase
        self.is_running = phase is _RUNNING or phase is Phase.REKEYING
        self._rules = _ACCEPTANCE[self.role][phase]
        self.can_send = phase is _RUNNING and not self.exchanger.is_running

    def _tell(
        self,
        trace_id: TraceId,
        level: TraceLevel,
        message: str,
        error: BaseException | None = None,
    ) -> None:
        if self._tracer is not None:
            self._tracer.tell(trace_id, level, message, error)


_CONDITIONS: Final[dict[Condition, Callable[[Core, bytes], bool]]] = {
    Condition.ALWAYS: lambda core, payload: True,
    Condition.FEW_AND_NOT_STRICT: Core._is_early_noise,
    Condition.NOT_TOO_MUCH_NOISE: Core._is_bearable_noise,
    Condition.KEXINIT_EXPECTED: lambda core, payload: core.exchanger.expects_kexinit,
    Condition.KEXDH_INIT_EXPECTED: lambda core, payload: core.exchanger.expects_init,
    Condition.KEXDH_REPLY_EXPECTED: lambda core, payload: core.exchanger.expects_reply,
    Condition.NEWKEYS_EXPECTED: lambda core, payload: core.exchanger.expects_newkeys,
    Condition.REKEY_ALLOWED: Core._check_rekey_rate,
    Condition.SERVICE_PENDING: lambda core, payload: core._connection.pending_service is not None,
    Condition.EARLY_REQUEST: Core._is_early_request,
    Condition.RECONNECT_REPLY_EXPECTED: (lambda core, payload: core._reconnector.is_awaiting_reply),
    Condition.EXT_INFO_EXPECTED: lambda core, payload: core._expects_ext_info,
    Condition.USERAUTH_REPLY_EXPECTED: lambda core, payload: core._server_owes_reply,
    Condition.FEW_BANNERS: lambda core, payload: core._server_may_send_banner,
    Condition.USERAUTH_METHOD_MESSAGE_EXPECTED: (
        lambda core, payload: core._server_owes_method_message
    ),
    Condition.INFO_RESPONSE_EXPECTED: lambda core, payload: core._client_owes_answers,
    Condition.CONNECTION_UNUSED: Core._is_bearable_late_request,
    Condition.DEV_TUNNELS_PEER: lambda core, payload: core._peer_is_dev_tunnels,
}
_HANDLERS: Final[dict[int, Callable[[Core, bytes], None]]] = {
    MessageNumber.DISCONNECT: Core._disconnect_received,
    MessageNumber.IGNORE: lambda core, payload: core._reconnector.ignore(len(payload)),
    MessageNumber.UNIMPLEMENTED: Core._unimplemented_received,
    MessageNumber.DEBUG: Core._debug_received,
    MessageNumber.SERVICE_REQUEST: Core._service_request_received,
    MessageNumber.SERVICE_ACCEPT: Core._service_accept_received,
    MessageNumber.EXT_INFO: Core._ext_info_received,
    MessageNumber.KEXINIT: Core._kexinit_received,
    MessageNumber.KEXDH_INIT: lambda core, payload: core.exchanger.receive_init(payload),
    MessageNumber.KEXDH_REPLY: lambda core, payload: core.exchanger.receive_reply(payload),
    MessageNumber.NEWKEYS: lambda core, payload: core.exchanger.receive_newkeys(payload),
    MessageNumber.GLOBAL_REQUEST: Core._global_request_received,
}


class _Handlers(dict[int, Callable[..., None]]):
    """The message handlers of one core, bound when a message of their kind first arrives.

    Most sessions see only a few kinds, and binding a method for every kind would be slower. The
    handlers of the connection are kept, as they are used often.
    """

    __slots__ = ("_core",)

    def __init__(self, core: Core) -> None:
        super().__init__()
        self._core = core

    def __missing__(self, number: int) -> Callable[..., None]:
        core = self._core
        handler = _HANDLERS.get(number)
        if handler is not None:
            return partial(handler, core)
        if not core._saw_connection_message:
            return core._first_connection_message
        found = self[number] = core._connection.handlers[number]
        return found


@lru_cache(maxsize=16)
def _acceptance_of(service: str) -> bytes:
    return ServiceAccept(service).encode()


def _public_words(error: SSHError) -> str:
    """Return what to tell the peer about an error of ours."""
    if isinstance(error, HostKeyError):
        return "host key not verifiable"
    return str(error)[:256]
