"""Everything that one byte stream needs: the machine that a session feeds and drains.

A core puts the parts together: the transport turns bytes into payloads; each payload is looked up
in the acceptance table and handed to the part it belongs to: key exchange, authentication or
connection. What those tell goes out as events. Any error of the peer ends in one place,
:meth:`Core.terminate`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ..config import SessionConfig
from ..constants import (
    ChannelOpenFailureReason,
    DisconnectReason,
    Extension,
    MessageNumber,
    Service,
)
from ..errors import Disconnected, LocalProtocolError, RemoteProtocolError, SSHError
from ..keys import Key
from ..messages import (
    ChannelOpen,
    ChannelOpenFailure,
    Debug,
    Disconnect,
    ExtInfo,
    GlobalRequest,
    RequestFailure,
    ServiceAccept,
    ServiceRequest,
    Unimplemented,
)
from ..trace import TraceEvent, TraceHandler, TraceId, TraceLevel
from ..wire import Buffer, displayable
from .acceptance import Condition, Phase, Role, compiled
from .client_authentication import ClientAuthentication
from .connection import Connection
from .events import (
    Authenticated,
    ConnectionTerminated,
    DebugReceived,
    Event,
    ExtensionsReceived,
    KeepAliveMissed,
    KeyExchangeCompleted,
    Obligation,
    ServiceAccepted,
    VersionReceived,
)
from .keep_alive import KeepAlive
from .key_exchange import KeyExchanger
from .rate import Bucket
from .rekeying import Rekeying
from .server_authentication import ServerAuthentication
from .transport import Traffic, Transport

__all__ = ["Core"]

MAX_EARLY_NOISE: Final = 8
MAX_DEFERRED_PACKETS: Final = 64
MAX_DEFERRED_BYTES: Final = 2 * 1024 * 1024

_DATA_MESSAGES: Final = (MessageNumber.CHANNEL_DATA, MessageNumber.CHANNEL_EXTENDED_DATA)
_ACCEPTANCE: Final = {role: compiled(role) for role in Role}


class Core:
    """One connection of a session, without any input or output of its own.

    :param role: which end we are
    :param config: algorithms and limits
    :param now: monotonic seconds
    :param random: returns so many unpredictable bytes
    :param identification: our line, without its end
    :param connection: what the session has besides this stream; attached once authenticated
    :param host_keys: a server's host keys, in order of preference; their private halves may live
        elsewhere
    :param delay_secret: makes the times of failed authentications unpredictable
    :param trace: told what happens, if given
    """

    def __init__(
        self,
        role: Role,
        config: SessionConfig,
        *,
        now: float,
        random: Callable[[int], bytes],
        identification: str,
        connection: Connection,
        host_keys: Sequence[Key] = (),
        delay_secret: bytes = b"",
        trace: TraceHandler | None = None,
    ) -> None:
        self.role = role
        self.config = config
        self._now = now
        self._trace = trace
        self._delay_secret = delay_secret
        self._events: list[Event] = []
        self._phase = Phase.VERSION
        self._accepts = _ACCEPTANCE[role][Phase.VERSION]
        self._input_ended = False
        self.transport = Transport(
            role, config.limits, identification, random, self._trace_sent if trace else None
        )
        self._exchanger = KeyExchanger(
            role,
            config,
            self.transport,
            random,
            host_keys,
            identification,
            self._emit_guarded,
        )
        self._rekeying = Rekeying(config, self.transport)
        self._authentication: ClientAuthentication | ServerAuthentication | None = None
        self._connection = connection
        self._keep_alive = KeepAlive(config.keep_alive_interval)
        limits = config.limits
        self._noise = Bucket(limits.noise_messages, limits.noise_rate)
        self._noise_bytes = Bucket(limits.noise_bytes, limits.noise_rate * 4096)
        self._early_noise = 0
        self._deferred: deque[bytes] = deque()
        self._ext_info_phases = {Phase.ENCRYPTED}
        if role is Role.CLIENT:
            self._ext_info_phases.add(Phase.AUTHENTICATION)
        self._success_must_follow = False
        self._pending_service: str | None = None
        self._saw_connection_message = False
        self._deadline: float | None = now + limits.version_time
        self._exchanger.start()
        self._conditions = self._condition_table()
        self._handlers = self._handler_table()

    # What a session asks

    @property
    def phase(self) -> Phase:
        """How far the connection has come."""
        return self._phase

    @property
    def exchanger(self) -> KeyExchanger:
        """The key exchange, for what it found out."""
        return self._exchanger

    @property
    def is_running(self) -> bool:
        """Whether channels and requests are allowed."""
        return self._phase in (Phase.RUNNING, Phase.REKEYING)

    @property
    def client_authentication(self) -> ClientAuthentication:
        """The client's authentication.

        :raises LocalProtocolError: it is not time for it, or this is not a client
        """
        if not isinstance(self._authentication, ClientAuthentication):
            raise LocalProtocolError("there is nothing to authenticate to yet")
        if not self._exchanger.host_key_is_accepted:
            raise LocalProtocolError("the host key was not accepted yet")
        return self._authentication

    @property
    def traffic(self) -> Traffic:
        """What went over the stream."""
        return self.transport.traffic

    # Feeding and draining

    def receive_data(self, data: Buffer, now: float) -> list[Event]:
        """Take bytes from the stream; return what they brought about."""
        self._now = now
        if self._phase is not Phase.TERMINATED:
            self._keep_alive.received(now)
            self._guarded(lambda: self._receive(data))
        return self.poll_events()

    def receive_eof(self, now: float) -> list[Event]:
        """Note that the stream has ended; return what that brought about."""
        self._now = now
        if self._phase is not Phase.TERMINATED:
            if self._phase is Phase.VERSION:
                error: SSHError | None = RemoteProtocolError(
                    "the stream was closed before the peer's identification line"
                )
            else:
                error = None
            self._end(error)
        return self.poll_events()

    def poll_events(self) -> list[Event]:
        """Return, and forget, what has come about since the last call."""
        events = self._events
        if not events:
            return []
        taken = events.copy()
        events.clear()
        return taken

    def data_to_send(self) -> bytes:
        """Return, and forget, the bytes to write to the stream."""
        if self._phase is Phase.RUNNING and not self._exchanger.is_running:
            self._guarded(self._start_rekey_if_due)
        return self.transport.take_output()

    def next_deadline(self) -> float | None:
        """Return when :meth:`handle_timeout` has something to do, in monotonic seconds."""
        deadlines = [self._deadline]
        if self._phase is Phase.RUNNING:
            deadlines += (self._keep_alive.deadline, self._rekeying.deadline)
        if isinstance(self._authentication, ServerAuthentication):
            deadlines.append(self._authentication.deadline)
        return min((time for time in deadlines if time is not None), default=None)

    def handle_timeout(self, now: float) -> list[Event]:
        """Do what is due; return what that brought about."""
        self._now = now
        if self._phase is not Phase.TERMINATED:
            self._guarded(self._time_out)
        return self.poll_events()

    def _time_out(self) -> None:
        now = self._now
        if self._deadline is not None and now >= self._deadline:
            raise self._late()
        if isinstance(self._authentication, ServerAuthentication):
            self._authentication.handle_timeout(now)
        if self._phase is Phase.RUNNING:
            self._start_rekey_if_due()
            self._ask_for_sign_of_life()

    def _late(self) -> RemoteProtocolError:
        words = {
            Phase.VERSION: "the identification line",
            Phase.KEY_EXCHANGE: "the key exchange",
            Phase.ENCRYPTED: "authentication",
            Phase.AUTHENTICATION: "authentication",
        }
        what = words.get(self._phase, "new keys")
        return RemoteProtocolError(f"the peer took too long for {what}")

    # Ending

    def disconnect(self, reason: int, description: str) -> None:
        """Say goodbye; nothing is received or sent afterwards."""
        if self._phase is not Phase.TERMINATED:
            self._send_disconnect(reason, description)
            self._end(Disconnected(reason, description, by_peer=False))

    def terminate(self, error: Exception) -> None:
        """End the connection for an error, telling the peer its reason."""
        if self._phase is Phase.TERMINATED:
            return
        reason = getattr(error, "reason", DisconnectReason.PROTOCOL_ERROR)
        if self._phase is not Phase.VERSION:
            self._send_disconnect(reason, _public_words(error))
        self._trace_error(error)
        if isinstance(error, RemoteProtocolError) and self._phase in _HANDSHAKE_WORDS:
            error.add_note(f"during {_HANDSHAKE_WORDS[self._phase]}")
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        self._set_phase(Phase.TERMINATED)
        self._deadline = None
        self._events.append(ConnectionTerminated(error))

    def _send_disconnect(self, reason: int, description: str) -> None:
        self.transport.send_now(Disconnect(reason, description).encode())

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do something that the peer may have made impossible."""
        try:
            action()
        except LocalProtocolError:
            raise
        except SSHError as error:
            self.terminate(error)

    def _emit_guarded(self, event: Event) -> None:
        """Pass an event on; what answering it raises ends the connection."""
        self._events.append(event)
        if isinstance(event, Obligation):
            event.guard(self._guarded_answer)
        elif isinstance(event, KeyExchangeCompleted):
            self._keys_changed(event)
        elif isinstance(event, Authenticated):
            self._authenticated()

    def _guarded_answer(self, answer: Callable[..., None]) -> Callable[..., None]:
        def guarded(*arguments: object) -> None:
            if self._phase is not Phase.TERMINATED:
                self._guarded(lambda: answer(*arguments))

        return guarded

    # Receiving

    def _receive(self, data: Buffer) -> None:
        transport = self.transport
        transport.feed(data)
        if self._phase is Phase.VERSION and not self._read_greeting():
            return
        if not self.is_running:
            self._check_unauthenticated_budget()
        while (payload := transport.next_payload()) is not None:
            number = payload[0]
            if self._trace is not None and number not in _DATA_MESSAGES:
                self._trace_received(number)
            condition = self._accepts[number]
            if condition is Condition.ALWAYS:
                self._handlers[number](payload)
            else:
                self._receive_conditionally(number, bytes(payload), condition)
            if self._phase is Phase.TERMINATED:
                return

    def _read_greeting(self) -> bool:
        version = self.transport.read_greeting()
        if version is None:
            return False
        self._rekeying.learn_peer(version)
        self._set_phase(Phase.KEY_EXCHANGE)
        self._deadline = self._now + self.config.limits.key_exchange_time
        self._events.append(VersionReceived(version))
        return True

    def _check_unauthenticated_budget(self) -> None:
        limits, transport = self.config.limits, self.transport
        if (
            transport.bytes_received > limits.unauthenticated_bytes
            or transport.messages_received > limits.unauthenticated_packets
        ):
            raise RemoteProtocolError(
                f"more than {limits.unauthenticated_bytes} bytes or "
                f"{limits.unauthenticated_packets} packets before authentication"
            )

    def _receive_conditionally(
        self, number: int, payload: bytes, condition: Condition | None
    ) -> None:
        if self._success_must_follow and number != MessageNumber.USERAUTH_SUCCESS:
            raise RemoteProtocolError("EXT_INFO during authentication must precede success")
        if condition is None or not self._conditions[condition](number, payload):
            raise self._illegal(number)

    def _illegal(self, number: int) -> RemoteProtocolError:
        try:
            name = f"{MessageNumber(number).name} ({number})"
        except ValueError:
            name = f"message {number}"
        phase = self._phase.name.lower().replace("_", " ")
        reason = DisconnectReason.PROTOCOL_ERROR
        return RemoteProtocolError(f"{name} is not allowed in the {phase} phase", reason)

    # Conditions: each handles its message and returns True, or returns False

    def _condition_table(self) -> dict[Condition, Callable[[int, bytes], bool]]:
        return {
            Condition.ALWAYS: self._handle,
            Condition.FEW_AND_NOT_STRICT: self._early_noise_came,
            Condition.NOISE: self._noise_came,
            Condition.KEXINIT_EXPECTED: self._if(lambda: self._exchanger.expects_kexinit),
            Condition.KEX_INIT_EXPECTED: self._if(lambda: self._exchanger.expects_init),
            Condition.KEX_REPLY_EXPECTED: self._if(lambda: self._exchanger.expects_reply),
            Condition.NEWKEYS_EXPECTED: self._if(lambda: self._exchanger.expects_newkeys),
            Condition.REKEY_ALLOWED: self._if(self._may_rekey),
            Condition.SERVICE_NOT_REQUESTED: self._handle,
            Condition.SERVICE_PENDING: self._if(lambda: self._pending_service is not None),
            Condition.EXT_INFO_EXPECTED: self._if(self._expects_ext_info),
            Condition.USERAUTH_REPLY_EXPECTED: self._if(self._expects_userauth_reply),
            Condition.USERAUTH_METHOD_MESSAGE_EXPECTED: self._if(self._expects_method_message),
            Condition.INFO_RESPONSE_EXPECTED: self._if(self._expects_info_response),
            Condition.LATE_USERAUTH_REQUEST: self._late_request_came,
            Condition.DEV_TUNNELS_IGNORED: lambda number, payload: self._peer_is_dev_tunnels,
            Condition.DEV_TUNNELS_REFUSED: self._refuse,
            Condition.DEV_TUNNELS_DEFERRED: self._defer,
            Condition.UNKNOWN: self._unknown_came,
        }

    def _if(self, holds: Callable[[], bool]) -> Callable[[int, bytes], bool]:
        def check(number: int, payload: bytes) -> bool:
            return holds() and self._handle(number, payload)

        return check

    def _handle(self, number: int, payload: bytes) -> bool:
        self._handlers[number](payload)
        return True

    @property
    def _peer_is_dev_tunnels(self) -> bool:
        version = self.transport.peer_version
        return version is not None and version.is_dev_tunnels

    def _early_noise_came(self, number: int, payload: bytes) -> bool:
        self._early_noise += 1
        return not self._exchanger.is_strict and self._early_noise <= MAX_EARLY_NOISE

    def _noise_came(self, number: int, payload: bytes) -> bool:
        self._count_noise(len(payload))
        return self._handle(number, payload)

    def _count_noise(self, size: int) -> None:
        if not (self._noise.take(1, self._now) and self._noise_bytes.take(size, self._now)):
            raise RemoteProtocolError("too many messages without effect")

    def _may_rekey(self) -> bool:
        return self._exchanger.is_running or self._rekeying.peer_may_start(self._now)

    def _expects_ext_info(self) -> bool:
        return self._phase in self._ext_info_phases

    def _expects_userauth_reply(self) -> bool:
        authentication = self._authentication
        return isinstance(authentication, ClientAuthentication) and authentication.expects_reply

    def _expects_method_message(self) -> bool:
        authentication = self._authentication
        return (
            isinstance(authentication, ClientAuthentication)
            and authentication.expects_method_message
        )

    def _expects_info_response(self) -> bool:
        authentication = self._authentication
        return (
            isinstance(authentication, ServerAuthentication)
            and authentication.expects_info_response
        )

    def _late_request_came(self, number: int, payload: bytes) -> bool:
        return not self._saw_connection_message

    def _refuse(self, number: int, payload: bytes) -> bool:
        """Tell a peer that it has to authenticate first, without asking anybody."""
        if not self._peer_is_dev_tunnels:
            return False
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
        return True

    def _defer(self, number: int, payload: bytes) -> bool:
        if not self._peer_is_dev_tunnels:
            return False
        self._deferred.append(payload)
        size = sum(map(len, self._deferred))
        return len(self._deferred) <= MAX_DEFERRED_PACKETS and size <= MAX_DEFERRED_BYTES

    def _unknown_came(self, number: int, payload: bytes) -> bool:
        self._count_noise(len(payload))
        sequence = (self.transport.receive_sequence - 1) & 0xFFFFFFFF
        self.transport.send(Unimplemented(sequence).encode())
        return True

    # Handlers

    def _handler_table(self) -> dict[int, Callable[..., None]]:
        handlers: dict[int, Callable[..., None]] = {
            MessageNumber.DISCONNECT: self._disconnect_came,
            MessageNumber.IGNORE: lambda payload: None,
            MessageNumber.UNIMPLEMENTED: self._unimplemented_came,
            MessageNumber.DEBUG: self._debug_came,
            MessageNumber.SERVICE_REQUEST: self._service_request_came,
            MessageNumber.SERVICE_ACCEPT: self._service_accept_came,
            MessageNumber.EXT_INFO: self._ext_info_came,
            MessageNumber.KEXINIT: self._kexinit_came,
            MessageNumber.KEX_INIT: self._exchanger.receive_init,
            MessageNumber.KEX_REPLY: self._exchanger.receive_reply,
            MessageNumber.NEWKEYS: self._exchanger.receive_newkeys,
        }
        return handlers | self._connection.handlers

    def _disconnect_came(self, payload: bytes) -> None:
        message = Disconnect.decode(payload)
        self._end(Disconnected(message.reason, displayable(message.description)))

    def _unimplemented_came(self, payload: bytes) -> None:
        Unimplemented.decode(payload)

    def _debug_came(self, payload: bytes) -> None:
        message = Debug.decode(payload)
        self._events.append(DebugReceived(displayable(message.message), message.always_display))

    def _kexinit_came(self, payload: bytes) -> None:
        version = self.transport.peer_version
        if version is None:
            raise LocalProtocolError("no identification yet")
        if self._phase is Phase.RUNNING:
            self._set_phase(Phase.REKEYING)
            self._deadline = self._now + self.config.limits.key_exchange_time
        self._exchanger.receive_kexinit(payload, version)

    def _keys_changed(self, event: KeyExchangeCompleted) -> None:
        self._rekeying.keys_changed(self._now)
        if event.is_initial:
            self._begin_authentication()
            return
        self._set_phase(Phase.RUNNING)
        self._deadline = None
        self.transport.release()
        deferred, self._deferred = self._deferred, deque()
        for payload in deferred:
            self._handlers[payload[0]](payload)

    def _begin_authentication(self) -> None:
        if not self.config.is_secure:
            self._authenticated()
            return
        self._set_phase(Phase.ENCRYPTED)
        self._deadline = self._now + self.config.limits.authentication_time
        self.transport.release()
        grouped = self._peer_is_dev_tunnels
        if self.role is Role.CLIENT:
            client = ClientAuthentication(
                lambda: self._exchanger.session_id,
                self._send_authentication,
                self._emit_guarded,
                grouped_prompts=grouped,
            )
            self._authentication = client
            self._handlers |= {
                MessageNumber.USERAUTH_FAILURE: client.receive_failure,
                MessageNumber.USERAUTH_SUCCESS: client.receive_success,
                MessageNumber.USERAUTH_BANNER: client.receive_banner,
                MessageNumber.USERAUTH_PK_OK: client.receive_method_message,
            }
        else:
            server = ServerAuthentication(
                self.config,
                lambda: self._exchanger.session_id,
                self.transport.send,
                self._emit_guarded,
                delay_secret=self._delay_secret,
                grouped_prompts=grouped,
            )
            self._authentication = server
            self._handlers |= {
                MessageNumber.USERAUTH_REQUEST: lambda payload: server.receive_request(
                    payload, self._now
                ),
                MessageNumber.USERAUTH_INFO_RESPONSE: lambda payload: server.receive_info_response(
                    payload, self._now
                ),
            }

    def _send_authentication(self, payload: bytes) -> None:
        if payload[0] == MessageNumber.SERVICE_REQUEST:
            self._pending_service = Service.USERAUTH
        self.transport.send(payload)

    def _authenticated(self) -> None:
        self._set_phase(Phase.RUNNING)
        self._deadline = None
        self._success_must_follow = False
        self.transport.allow_large_packets()
        self.transport.release()
        self._connection.attach(self.transport, self._events.append, self._count_noise)
        self._keep_alive.start(self._now)

    def _ext_info_came(self, payload: bytes) -> None:
        extensions = ExtInfo.decode(payload).extensions
        self._ext_info_phases.discard(self._phase)
        self._success_must_follow = self._phase is Phase.AUTHENTICATION
        if isinstance(self._authentication, ClientAuthentication):
            self._authentication.learn_extensions(extensions)
        self._events.append(ExtensionsReceived(extensions))

    # Services

    def request_service(self, name: str) -> None:
        """Ask the server for a service; ServiceAccepted tells that it was granted.

        :raises LocalProtocolError: a request is under way, or this is not the time
        """
        if self.role is Role.SERVER or not self.is_running:
            raise LocalProtocolError("services are requested by an authenticated client")
        if self._pending_service is not None:
            raise LocalProtocolError("a service request is under way")
        self._pending_service = name
        self.transport.send(ServiceRequest(name).encode())

    def _service_request_came(self, payload: bytes) -> None:
        name = ServiceRequest.decode(payload).service_name
        if self._phase is Phase.ENCRYPTED and name == Service.USERAUTH:
            self._set_phase(Phase.AUTHENTICATION)
        elif name != Service.CONNECTION or not (self.is_running or self._peer_is_dev_tunnels):
            raise RemoteProtocolError(
                f'Service "{displayable(name)}" not available',
                DisconnectReason.SERVICE_NOT_AVAILABLE,
            )
        self.transport.send(ServiceAccept(name).encode())

    def _service_accept_came(self, payload: bytes) -> None:
        name = ServiceAccept.decode(payload).service_name
        if name != self._pending_service:
            raise RemoteProtocolError(
                f"the server granted {displayable(name)!r}; {self._pending_service} was asked for"
            )
        self._pending_service = None
        if self._phase is Phase.ENCRYPTED:
            self._set_phase(Phase.AUTHENTICATION)
        self._events.append(ServiceAccepted(name))

    # New keys and signs of life

    def start_rekey(self) -> None:
        """Exchange new keys now.

        :raises LocalProtocolError: the session is not running, or an exchange is under way
        """
        if self._phase is not Phase.RUNNING:
            raise LocalProtocolError("only a running session can exchange new keys")
        self._exchanger.start()
        self._deadline = self._now + self.config.limits.key_exchange_time

    def _start_rekey_if_due(self) -> None:
        if (
            self.config.is_secure
            and not self._exchanger.is_running
            and self._rekeying.is_due(self._now)
        ):
            self.start_rekey()

    def _ask_for_sign_of_life(self) -> None:
        deadline = self._keep_alive.deadline
        if deadline is None or self._now < deadline:
            return
        event = self._keep_alive.judge(self._now)
        self._events.append(event)
        if isinstance(event, KeepAliveMissed) and self._trace is not None:
            self._tell(
                TraceId.KEEP_ALIVE_FAILED, TraceLevel.WARNING, f"no sign of life, {event.count}"
            )
        self._connection.request_global(Extension.KEEP_ALIVE_REQUEST, b"", want_reply=True)

    # Trace

    def _set_phase(self, phase: Phase) -> None:
        self._phase = phase
        self._accepts = _ACCEPTANCE[self.role][phase]

    def _trace_sent(self, number: int, sequence: int) -> None:
        text = f"Sending #{sequence} {_message_name(number)}"
        self._tell(TraceId.SENDING_MESSAGE, TraceLevel.VERBOSE, text)

    def _trace_received(self, number: int) -> None:
        sequence = self.transport.receive_sequence - 1
        text = f"Receiving #{sequence} {_message_name(number)}"
        self._tell(TraceId.RECEIVING_MESSAGE, TraceLevel.VERBOSE, text)

    def _trace_error(self, error: Exception) -> None:
        self._tell(TraceId.RECEIVE_MESSAGE_FAILED, TraceLevel.ERROR, str(error), error)

    def _tell(
        self,
        trace_id: TraceId,
        level: TraceLevel,
        message: str,
        error: BaseException | None = None,
    ) -> None:
        if self._trace is not None:
            self._trace(TraceEvent(trace_id, level, message, error))


_HANDSHAKE_WORDS: Final = {
    Phase.VERSION: "the version exchange",
    Phase.KEY_EXCHANGE: "the key exchange",
    Phase.ENCRYPTED: "authentication",
    Phase.AUTHENTICATION: "authentication",
}


def _public_words(error: Exception) -> str:
    """Return what the peer may know of an error of ours."""
    return str(error)[:256] if isinstance(error, SSHError) else "internal error"


def _message_name(number: int) -> str:
    try:
        return MessageNumber(number).name
    except ValueError:
        return f"message {number}"
