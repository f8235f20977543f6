"""The connection protocol (RFC 4254): channels, their data and requests, and global requests.

A :class:`Connection` lives as long as its session, and knows nothing of packets or keys: it passes
payloads to the sink that it is attached to. Its handlers rely on the acceptance table for legality;
they check only what depends on the channel table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import MethodType
from typing import Final, Protocol

from ..config import SessionConfig
from ..constants import ChannelOpenFailureReason, Extension, MessageNumber
from ..errors import LocalProtocolError, RemoteProtocolError, WireError
from ..identification import PeerVersion
from ..messages import (
    ChannelClose,
    ChannelEof,
    ChannelExtendedData,
    ChannelFailure,
    ChannelOpen,
    ChannelOpenConfirmation,
    ChannelOpenFailure,
    ChannelRequest,
    ChannelSuccess,
    ChannelWindowAdjust,
    ExitSignal,
    ExitStatus,
    GlobalRequest,
    RequestFailure,
    RequestSuccess,
    channel_data,
    channel_data_header,
    channel_extended_data_header,
)
from ..wire import Buffer, displayable
from .channel import (
    MAX_WINDOW,
    ChannelPhase,
    ChannelState,
    Half,
    PendingRequest,
    ReceiveMemory,
    ReplySlot,
    RequestLine,
    SendWait,
)
from .events import (
    ChannelClosed,
    ChannelDataReceived,
    ChannelEofReceived,
    ChannelExtendedDataReceived,
    ChannelOpened,
    ChannelOpenFailed,
    ChannelOpenReceived,
    ChannelRequestReceived,
    ChannelWritable,
    Event,
    GlobalRequestReceived,
    ReplyReceived,
    RoomMade,
)
from .journal import Continuity
from .undecided import Undecided

__all__ = ["Connection", "PacketSink"]

MAX_CLOSING: Final = 1024
MAX_CHANNEL_ID: Final = 2**31 - 1
MAX_NAME: Final = 256
MESSAGES_PER_TURN: Final = 64
"""Messages that a channel may send, however small, before the next channel has its turn."""
GATHERED_PIECE: Final = 2 * 1024
"""Anything larger is worth a message of its own."""
GATHERED_BYTES: Final = 32 * 1024
"""Bytes in one message; every peer accepts that many."""
PAYLOAD_MARGIN: Final = 1024
"""The most bytes of a packet that are not its payload."""
HELD_OVERHEAD: Final = 32
"""The overhead of a waiting payload, in bytes."""

# Looking up an enum member is slow in Python 3.11.
_OPEN: Final = ChannelPhase.OPEN
_HALF_OPEN: Final = Half.OPEN


class PacketSink(Protocol):
    """What a connection needs from its stream."""

    @property
    def can_send(self) -> bool:
        """Whether payloads may be sent now, or must wait for a key exchange."""

    @property
    def room(self) -> int:
        """Bytes that the output can take; zero or less if it is full."""

    def send(self, head: bytes, body: Buffer = b"") -> None:
        """Queue a payload, given in one or two pieces."""

    def emit(self, event: Event) -> None:
        """Queue an event for the session."""

    def count_noise(self, size: int) -> None:
        """Count a message without effect.

        :raises RemoteProtocolError: there were too many
        """


class Connection:
    """The channels and requests of one session.

    :ivar continuity: what is needed to resume over another stream; None if that is not possible
    :ivar gathering: the channel whose small pieces are being gathered into one message
    :ivar pending_service: the service requested and not granted yet
    :ivar leaves_too_much: tells whether too much is left of closed channels for the peer to open
        more; None while nothing is
    """

    __slots__ = (
        "__weakref__",
        "_asked_without_reply",
        "_channels",
        "_closing",
        "_config",
        "_gathered",
        "_held",
        "_limits",
        "_memory",
        "_next_id",
        "_packet_size",
        "_remote_ids",
        "_replies",
        "_requests",
        "_room_is_awaited",
        "_sink",
        "_undecided",
        "_waiting_for_turn",
        "_was_attached",
        "continuity",
        "gathering",
        "handlers",
        "held_size",
        "leaves_too_much",
        "own_waiting",
        "pending_service",
    )

    def __init__(
        self, config: SessionConfig, service_requests: Collection[str] = frozenset()
    ) -> None:
        self._config = config
        self._limits = config.limits
        self._packet_size = config.packet_size_with(None)
        self._was_attached = False
        self.continuity: Continuity | None = None
        self.pending_service: str | None = None
        self.leaves_too_much: Callable[[], bool] | None = None
        self._sink: PacketSink | None = None
        self.gathering: ChannelState | None = None
        self._gathered = bytearray()
        self._held: list[bytes] = []
        self.held_size: int = 0
        self.own_waiting: int = 0
        self._channels: dict[int, ChannelState] = {}
        self._remote_ids: dict[int, None] = {}
        self._closing: dict[int, ChannelState] = {}
        self._waiting_for_turn: dict[ChannelState, None] = {}
        self._room_is_awaited = False
        self._next_id = 0
        self._memory = ReceiveMemory(config.limits)
        self._undecided = Undecided(config.limits, service_requests)
        self._replies: list[ReplySlot] = []
        self._asked_without_reply = False
        self._requests = RequestLine()
        self.handlers: dict[int, Callable[[Buffer], None]] = _Handlers(self)

    def learn_peer(self, version: PeerVersion) -> None:
        """Adapt to the peer's implementation."""
        self._packet_size = self._config.packet_size_with(version)

    # The sink

    def attach(self, sink: PacketSink) -> None:
        """Use ``sink`` from now on."""
        self._was_attached = True
        self._sink = sink
        self.resume()

    def detach(self) -> None:
        """Stop for good: whatever is sent from now on is dropped."""
        self._sink = None
        self.handlers = {}  # they refer back to this object
        self.continuity = None
        self.gathering = None
        self._gathered.clear()
        self._held.clear()
        self.held_size = 0

    def resume(self) -> None:
        """Send what waited for a key exchange, in order, and let channels continue."""
        sink = self._sink
        if sink is None:
            return
        if self._held and sink.can_send:
            held, self._held, self.held_size = self._held, [], 0
            for payload in held:
                sink.send(payload)
        self.pass_turn()

    def pass_turn(self) -> None:
        """Let the channel that has waited longest send, if there is room."""
        if not (self._waiting_for_turn or self._room_is_awaited):
            return
        sink = self._sink
        if sink is None or not sink.can_send or sink.room <= 0:
            return
        if self._room_is_awaited:
            self._room_is_awaited = False
            sink.emit(RoomMade())
        if self._waiting_for_turn:
            channel = next(iter(self._waiting_for_turn))
            del self._waiting_for_turn[channel]
            channel.send_wait = SendWait.NOTHING
            sink.emit(ChannelWritable(channel))

    def wait_for_room(self) -> bool:
        """Return whether opens and requests should wait until the peer has read earlier output.

        If so, :class:`~anyssh.protocol.events.RoomMade` tells when to check again.
        """
        sink = self._sink
        if sink is None or (sink.room > 0 and self.held_size <= self._limits.pending_output):
            return False
        self._room_is_awaited = True
        return True

    def _send(self, payload: bytes, data: bytes = b"") -> None:
        if self.gathering is not None:
            self.send_gathered()
        sink = self._sink
        if sink is None:
            self._require_attached_once()
        elif sink.can_send:
            sink.send(payload, data)
        else:
            payload += data
            self._held.append(payload)
            self.held_size += len(payload) + HELD_OVERHEAD

    def _ask(self, payload: bytes) -> None:
        """Send a message of our own accord, which never counts as caused by the peer."""
        self._send(payload)
        self.own_waiting += len(payload)

    def output_was_taken(self) -> None:
        """Note that waiting output has been written, and let the next channel send."""
        self.own_waiting = min(self.own_waiting, self.held_size)
        self.pass_turn()

    def _require_attached_once(self) -> None:
        if not self._was_attached:
            raise LocalProtocolError("the session is not ready: authenticate first")

    def _emit(self, event: Event) -> None:
        if self._sink is not None:
            self._sink.emit(event)

    def _count_noise(self, size: int) -> None:
        if self._sink is not None:
            self._sink.count_noise(size)

    def send_service_message(self, payload: bytes) -> None:
        """Send SERVICE_REQUEST or SERVICE_ACCEPT, which wait for a key exchange like the rest."""
        self._send(payload)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is open or unanswered, and the session cannot outlive its stream."""
        return not (
            self._channels
            or self._replies
            or self._asked_without_reply
            or self.pending_service
            or self.held_size
            or self.continuity
        )

    @property
    def channel_count(self) -> int:
        """The number of channels in the table, including those being closed."""
        return len(self._channels)

    # Opening

    def open_channel(
        self, channel_type: str, payload: bytes = b"", *, window_size: int | None = None
    ) -> ChannelState:
        """Send CHANNEL_OPEN; results in ChannelOpened or ChannelOpenFailed.

        :raises LocalProtocolError: the session is not ready, or has reached its limit of channels;
            or ``channel_type`` or ``payload`` is too long, or ``window_size`` out of range
        """
        self._require_attached_once()
        if self._open_count() >= self._limits.channels:
            raise LocalProtocolError(
                f"the limit of open channels, {self._limits.channels}, is reached"
            )
        if window_size is not None:
            _check_window(window_size)
        self._check_question(channel_type, payload)
        channel = self._new_channel(
            channel_type,
            ChannelPhase.OPENING,
            self._config.window_size if window_size is None else window_size,
        )
        message = ChannelOpen(
            channel_type,
            channel.local_id,
            channel.receive_window.limit,
            channel.receive_packet_size,
            payload,
        )
        try:
            self._ask(message.encode())
        except LocalProtocolError:
            self._remove(channel)
            raise
        return channel

    def abandon_open(self, channel: ChannelState) -> None:
        """Give up a channel that is being opened; it is closed if the peer confirms it."""
        if channel.phase is ChannelPhase.OPENING:
            channel.move(ChannelPhase.ABANDONED)

    def accept_channel(
        self, channel: ChannelState, payload: bytes = b"", *, window_size: int | None = None
    ) -> None:
        """Confirm a channel that the peer has asked to open.

        :raises LocalProtocolError: it was already answered, or the peer is gone; or ``payload`` is
            too long, or ``window_size`` out of range
        """
        self._require_offered(channel)
        self._check_payload(payload)
        if window_size is not None:
            _check_window(window_size)
            self._resize_window(channel, window_size)
        channel.move(ChannelPhase.OPEN)
        self._undecided.accept_open(channel.open_size)
        self._send(
            ChannelOpenConfirmation(
                channel.remote_id,
                channel.local_id,
                channel.receive_window.limit,
                channel.receive_packet_size,
                payload,
            ).encode()
        )

    def reject_channel(self, channel: ChannelState, reason: int, description: str) -> None:
        """Refuse a channel that the peer has asked to open.

        :raises LocalProtocolError: it was already answered, or the peer is gone; or ``description``
            is too long
        """
        self._require_offered(channel)
        refusal = ChannelOpenFailure(channel.remote_id, reason, description).encode()
        self._check_payload(refusal)
        self._undecided.forget_open(channel.open_size)
        self._remove(channel)
        self._send(refusal)

    def _require_offered(self, channel: ChannelState) -> None:
        if channel.phase is not ChannelPhase.OFFERED:
            raise LocalProtocolError(f"channel {channel.local_id} was already answered")

    def _check_payload(self, payload: bytes) -> None:
        """Reject a payload too large for any peer, which would end the session."""
        longest = self._limits.packet_size - PAYLOAD_MARGIN
        if len(payload) > longest:
            raise LocalProtocolError(
                f"a payload of {len(payload)} bytes is too long; at most {longest} fit"
            )

    def _check_question(self, name: str, payload: bytes) -> None:
        """Reject a name or a payload that is too long; long names end sessions, too."""
        if len(name) > MAX_NAME:
            raise LocalProtocolError(
                f"a name of {len(name)} characters is too long; at most {MAX_NAME} are accepted"
            )
        self._check_payload(payload)

    def _new_channel(
        self, channel_type: str, phase: ChannelPhase, window_size: int
    ) -> ChannelState:
        if self._next_id > MAX_CHANNEL_ID:
            raise LocalProtocolError("this session has used up its channel numbers")
        window = self._memory.grant(window_size)
        channel = ChannelState(
            self._next_id, channel_type, phase, window, min(self._packet_size, window.limit)
        )
        self._next_id += 1
        self._channels[channel.local_id] = channel
        return channel

    def _resize_window(self, channel: ChannelState, wanted: int) -> None:
        self._memory.take_back(channel.receive_window)
        channel.receive_window = self._memory.grant(wanted)
        channel.receive_packet_size = min(channel.receive_packet_size, channel.receive_window.limit)

    def _remove(self, channel: ChannelState) -> None:
        if self._channels.pop(channel.local_id, None) is not None:
            if channel.phase is not ChannelPhase.CLOSING:
                self._memory.take_back(channel.receive_window)
            self._remote_ids.pop(channel.remote_id, None)
        channel.move(ChannelPhase.CLOSED)

    def _open_count(self) -> int:
        return len(self._channels) - len(self._closing)

    # Sending

    def send_data(self, channel: ChannelState, data: memoryview) -> int:
        """Send as much as the window, key exchange and output bound allow; return how many bytes.

        If that is not everything, :class:`~anyssh.protocol.events.ChannelWritable` tells when to
        continue. Call :meth:`stop_sending` when done sending, for whatever reason.

        :raises LocalProtocolError: the channel is not open, or EOF was sent
        """
        return self._send_chunks(channel, data, None)

    def send_extended_data(self, channel: ChannelState, data_type: int, data: memoryview) -> int:
        """Send extended data, like :meth:`send_data`."""
        return self._send_chunks(channel, data, data_type)

    def _send_chunks(self, channel: ChannelState, data: memoryview, data_type: int | None) -> int:
        channel.require_open()
        if channel.send_half is not _HALF_OPEN:
            raise LocalProtocolError(f"EOF was sent on channel {channel.local_id}")
        if self.gathering is not None:
            self.send_gathered()
        sink = self._sink
        if sink is None:
            channel.send_wait = SendWait.TURN  # never granted: the end is about to be reported
            return 0
        size = len(data)
        sent = 0
        messages_left = MESSAGES_PER_TURN
        if sink.can_send:
            while sent < size and messages_left and sink.room > 0:
                count = min(size - sent, channel.send_window, channel.send_packet_size)
                if count == 0:
                    break
                if data_type is None:
                    head = channel_data_header(channel.remote_id, count)
                else:
                    head = channel_extended_data_header(channel.remote_id, data_type, count)
                sink.send(head, data[sent : sent + count])
                channel.send_window -= count
                sent += count
                messages_left -= 1
            channel.bytes_sent += sent
        if sent < size:
            self._wait_to_send(channel)
        if self._waiting_for_turn:
            self.pass_turn()
        return sent

    def gather_data(self, channel: ChannelState, data: memoryview) -> int:
        """Send like :meth:`send_data`, but gather small pieces into one message.

        Gathered bytes precede anything else that is sent, and leave when the sink is asked for its
        output at the latest; they count as sent at once.

        :raises LocalProtocolError: the channel is not open, or EOF was sent
        """
        size, packet_size = len(data), channel.send_packet_size
        if self.gathering is not channel or (
            len(self._gathered) + size > min(GATHERED_BYTES, packet_size)
        ):
            self.send_gathered()
        largest = min(GATHERED_PIECE, packet_size, channel.send_window)
        if not (0 < size <= largest and self._begin_gathering(channel)):
            return self.send_data(channel, data)
        self._gathered += data
        channel.send_window -= size
        channel.bytes_sent += size
        return size

    def _begin_gathering(self, channel: ChannelState) -> bool:
        """Gather for a channel, or go on with that, if it may send; return whether it may."""
        if self.gathering is None:
            sink = self._sink
            if (
                sink is None
                or not sink.can_send
                or sink.room <= 0
                or channel.phase is not _OPEN
                or channel.send_half is not _HALF_OPEN
            ):
                return False
            self.gathering = channel
        return True

    def send_gathered(self) -> None:
        """Send the gathered bytes, if any, as one message."""
        channel = self.gathering
        if channel is not None:
            data = bytes(self._gathered)
            self.gathering = None
            self._gathered.clear()
            self._send(channel_data_header(channel.remote_id, len(data)), data)

    def _wait_to_send(self, channel: ChannelState) -> None:
        if channel.send_window == 0:
            channel.send_wait = SendWait.WINDOW
        else:
            channel.send_wait = SendWait.TURN
            self._waiting_for_turn[channel] = None

    def stop_sending(self, channel: ChannelState) -> None:
        """Note that no task is waiting to send on a channel; its turn goes to the next."""
        channel.send_wait = SendWait.NOTHING
        self._waiting_for_turn.pop(channel, None)
        self.pass_turn()

    def consume(self, channel: ChannelState, size: int) -> bool:
        """Return window for bytes that the application consumed; return whether it was sent."""
        adjustment = channel.receive_window.consume(size)
        if (
            adjustment == 0
            or channel.phase is not ChannelPhase.OPEN
            or channel.receive_half is not Half.OPEN
        ):
            return False
        self._send(ChannelWindowAdjust(channel.remote_id, adjustment).encode())
        return True

    def send_eof(self, channel: ChannelState) -> None:
        """Send CHANNEL_EOF; further calls do nothing.

        :raises LocalProtocolError: the channel is not open
        """
        channel.require_open()
        if channel.send_half is Half.OPEN:
            channel.send_half = Half.EOF
            self._send(ChannelEof(channel.remote_id).encode())

    def close(
        self,
        channel: ChannelState,
        *,
        exit_status: int | None = None,
        signal: str | None = None,
        message: str = "",
    ) -> None:
        """Close a channel, after an exit status or signal if given; further calls do nothing.

        :raises LocalProtocolError: the status is out of range, or the signal and its message are
            too long; the channel stays open
        """
        if channel.phase is ChannelPhase.OFFERED:
            self.reject_channel(
                channel, ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED, "not accepted"
            )
        if channel.phase is not ChannelPhase.OPEN:
            return
        last_words = b""
        if exit_status is not None:
            payload = ExitStatus(exit_status).encode()
            last_words = ChannelRequest(channel.remote_id, "exit-status", False, payload).encode()
        elif signal is not None:
            payload = ExitSignal(signal, False, message).encode()
            self._check_payload(payload)
            last_words = ChannelRequest(channel.remote_id, "exit-signal", False, payload).encode()
        if last_words:
            self._send(last_words)
        self._send(ChannelClose(channel.remote_id).encode())
        self._await_close(channel)

    def _await_close(self, channel: ChannelState) -> None:
        """Keep the number until the peer closes too; some never do, so the number kept is bounded.

        Its window no longer counts, as data that still arrives is dropped.
        """
        channel.move(ChannelPhase.CLOSING)
        self._memory.take_back(channel.receive_window)
        self._abandon_work(channel)
        self._closing[channel.local_id] = channel
        if len(self._closing) > max(MAX_CLOSING, self._limits.channels):
            oldest = next(iter(self._closing))
            self._remove(self._closing.pop(oldest))

    def _abandon_work(self, channel: ChannelState) -> None:
        """Forget the peer's requests, fail ours, and give up the turn to send."""
        self._undecided.clear(channel.requests)
        self._undecided.forget_accepted(channel.open_size)
        channel.open_size = 0
        replies, channel.replies = channel.replies, []
        for slot in replies:
            self._emit(ReplyReceived(slot, False, b""))
        self.stop_sending(channel)

    # Our requests

    def request_channel(
        self, channel: ChannelState, name: str, payload: bytes, *, want_reply: bool
    ) -> ReplySlot:
        """Send a channel request; with ``want_reply``, results in ReplyReceived.

        :raises LocalProtocolError: the channel is not open, or ``name`` or ``payload`` is too long
        """
        channel.require_open()
        self._check_question(name, payload)
        slot = ReplySlot()
        self._ask(ChannelRequest(channel.remote_id, name, want_reply, payload).encode())
        if want_reply:
            channel.replies.append(slot)
        return slot

    def request_global(self, name: str, payload: bytes, *, want_reply: bool) -> ReplySlot:
        """Send a global request; with ``want_reply``, results in ReplyReceived.

        :raises LocalProtocolError: ``name`` or ``payload`` is too long
        """
        self._check_question(name, payload)
        slot = ReplySlot()
        self._ask(GlobalRequest(name, want_reply, payload).encode())
        if want_reply:
            self._replies.append(slot)
        else:
            self._asked_without_reply = True
        return slot

    # Our answers

    def answer(self, request: PendingRequest, is_success: bool, payload: bytes = b"") -> None:
        """Answer a request of the peer. Replies leave in the order of the requests.

        Does nothing if the request's channel is no longer open.

        :raises LocalProtocolError: it was already answered, or ``payload`` is too long
        """
        channel = request.channel
        if channel is not None and channel.phase is not ChannelPhase.OPEN:
            return
        self._check_payload(payload)
        line = self._requests if channel is None else channel.requests
        for answered in self._undecided.decide(line, request, is_success, payload):
            self._reply(answered)

    def _reply(self, request: PendingRequest) -> None:
        if not request.want_reply:
            return
        channel = request.channel
        if channel is None:
            reply = RequestSuccess(request.reply_payload) if request.answer else RequestFailure(b"")
            self._send(reply.encode())
        elif channel.phase is ChannelPhase.OPEN:
            kind = ChannelSuccess if request.answer else ChannelFailure
            self._send(kind(channel.remote_id).encode())

    # Messages that open channels

    def _channel_open(self, payload: Buffer) -> None:
        message = ChannelOpen.decode(payload)
        remote_id = message.sender_channel
        if remote_id in self._remote_ids:
            raise RemoteProtocolError(f"the peer opened its channel {remote_id} twice")
        refusal = self._refusal(message)
        if refusal is not None:
            self._count_noise(len(payload))
            self._send(ChannelOpenFailure(remote_id, *refusal).encode())
            return
        channel = self._new_channel(
            message.channel_type, ChannelPhase.OFFERED, self._config.window_size
        )
        self._set_peer(channel, remote_id, message.initial_window_size, message.maximum_packet_size)
        channel.open_size = len(message.payload)
        self._undecided.keep_open(channel.open_size)
        self._emit(ChannelOpenReceived(channel, message.payload))

    def _refusal(self, message: ChannelOpen) -> tuple[int, str] | None:
        if not 1 <= len(message.channel_type) <= MAX_NAME:
            return ChannelOpenFailureReason.UNKNOWN_CHANNEL_TYPE, "not a channel type"
        if message.maximum_packet_size == 0:
            return (
                ChannelOpenFailureReason.ADMINISTRATIVELY_PROHIBITED,
                "a maximum packet size of 0 lets nothing through",
            )
        if (
            self._next_id > MAX_CHANNEL_ID
            or self._open_count() >= self._limits.channels
            or not self._undecided.has_room_for_open(len(message.payload))
        ):
            return ChannelOpenFailureReason.RESOURCE_SHORTAGE, "too many channels"
        if self.leaves_too_much is not None and self.leaves_too_much():
            return (
                ChannelOpenFailureReason.RESOURCE_SHORTAGE,
                "too much is left of closed channels",
            )
        return None

    def _set_peer(
        self, channel: ChannelState, remote_id: int, window: int, packet_size: int
    ) -> None:
        channel.remote_id = remote_id
        channel.send_window = window
        channel.send_packet_size = min(packet_size, self._packet_size)
        self._remote_ids[remote_id] = None

    def _open_confirmation(self, payload: Buffer) -> None:
        message = ChannelOpenConfirmation.decode(payload)
        channel = self._opening(message.recipient_channel)
        if message.sender_channel in self._remote_ids:
            raise RemoteProtocolError(f"the peer opened its channel {message.sender_channel} twice")
        was_abandoned = channel.phase is ChannelPhase.ABANDONED
        self._set_peer(
            channel,
            message.sender_channel,
            message.initial_window_size,
            message.maximum_packet_size,
        )
        channel.move(ChannelPhase.OPEN)
        if was_abandoned:
            self.close(channel)
        elif message.maximum_packet_size == 0:
            self.close(channel)
            self._emit(
                ChannelOpenFailed(
                    channel,
                    ChannelOpenFailureReason.CONNECT_FAILED,
                    "the peer's maximum packet size of 0 lets nothing through",
                )
            )
        else:
            self._emit(ChannelOpened(channel, message.payload))

    def _open_failure(self, payload: Buffer) -> None:
        message = ChannelOpenFailure.decode(payload)
        channel = self._opening(message.recipient_channel)
        was_abandoned = channel.phase is ChannelPhase.ABANDONED
        self._remove(channel)
        if not was_abandoned:
            self._emit(
                ChannelOpenFailed(channel, message.reason_code, displayable(message.description))
            )

    def _opening(self, local_id: int) -> ChannelState:
        channel = self._channels.get(local_id)
        if channel is None or channel.phase not in (ChannelPhase.OPENING, ChannelPhase.ABANDONED):
            raise RemoteProtocolError(
                f"the peer answered an open of channel {local_id}, but none is outstanding"
            )
        return channel

    # Messages on open channels

    def _find(self, local_id: int, size: int) -> ChannelState | None:
        """Return an open channel, else None; a message of ``size`` bytes to no channel is noise."""
        channel = self._channels.get(local_id)
        if channel is None:
            self._count_noise(size)
            return None
        if channel.phase is _OPEN:
            return channel
        if channel.phase is not ChannelPhase.CLOSING:
            raise RemoteProtocolError(f"a message on channel {local_id} before it is open")
        return None

    def _data(self, payload: Buffer) -> None:
        local_id, data = channel_data(payload)
        channel = self._find(local_id, len(payload))
        if channel is not None:
            self._receive(channel, len(data))
            if data:
                self._emit(ChannelDataReceived(channel, data))

    def _extended_data(self, payload: Buffer) -> None:
        message = ChannelExtendedData.decode(payload)
        channel = self._find(message.recipient_channel, len(payload))
        if channel is not None:
            data = message.data
            self._receive(channel, len(data))
            if data:
                self._emit(ChannelExtendedDataReceived(channel, message.data_type_code, data))

    def _receive(self, channel: ChannelState, size: int) -> None:
        if channel.receive_half is not _HALF_OPEN:
            raise RemoteProtocolError(f"data on channel {channel.local_id} after EOF")
        if size == 0:
            self._count_noise(0)
        elif size > channel.receive_packet_size:
            raise RemoteProtocolError(
                f"{size} bytes in one message; channel {channel.local_id} takes at most "
                f"{channel.receive_packet_size}"
            )
        channel.receive_window.take(size)
        channel.bytes_received += size

    def _window_adjust(self, payload: Buffer) -> None:
        message = ChannelWindowAdjust.decode(payload)
        channel = self._find(message.recipient_channel, len(payload))
        if channel is None:
            return
        if message.bytes_to_add == 0:
            self._count_noise(0)
        if channel.open_window(message.bytes_to_add):
            self._emit(ChannelWritable(channel))

    def _eof(self, payload: Buffer) -> None:
        channel = self._find(ChannelEof.decode(payload).recipient_channel, len(payload))
        if channel is None:
            return
        if channel.receive_half is Half.EOF:
            raise RemoteProtocolError(f"a second EOF on channel {channel.local_id}")
        channel.receive_half = Half.EOF
        self._emit(ChannelEofReceived(channel))

    def _close(self, payload: Buffer) -> None:
        local_id = ChannelClose.decode(payload).recipient_channel
        channel = self._channels.get(local_id)
        if channel is None:
            self._count_noise(0)
            return
        if channel.phase is ChannelPhase.OPEN:
            self._send(ChannelClose(channel.remote_id).encode())
        elif channel.phase is ChannelPhase.CLOSING:
            del self._closing[local_id]
        else:
            raise RemoteProtocolError(f"a message on channel {local_id} before it is open")
        self._abandon_work(channel)
        self._remove(channel)
        self._emit(ChannelClosed(channel))

    # Requests and replies

    def _channel_request(self, payload: Buffer) -> None:
        message = ChannelRequest.decode(payload)
        channel = self._find(message.recipient_channel, len(payload))
        if channel is None:
            return
        if message.request_type in ("exit-status", "exit-signal"):
            self._exit(channel, message)
            return
        _check_name(message.request_type)
        request = PendingRequest(message.request_type, message.payload, message.want_reply, channel)
        # OpenSSH sends its keep-alive requests on a channel, others as global requests.
        if message.request_type == Extension.KEEP_ALIVE_REQUEST:
            self._refuse_in_turn(channel.requests, request)
        elif self._keep(channel.requests, request):
            self._emit(ChannelRequestReceived(channel, request))

    def _exit(self, channel: ChannelState, message: ChannelRequest) -> None:
        """Record how the peer's program ended; these requests are never answered."""
        try:
            if message.request_type == "exit-status":
                channel.exit_status = ExitStatus.decode(message.payload).exit_status
            else:
                signal = ExitSignal.decode(message.payload)
                channel.exit_signal = displayable(signal.signal_name)
                channel.exit_message = displayable(signal.error_message)
                channel.core_dumped = signal.core_dumped
        except WireError as error:
            raise WireError(f"{message.request_type}: {error}") from None

    def _global_request(self, payload: Buffer) -> None:
        message = GlobalRequest.decode(payload)
        _check_name(message.request_name)
        request = PendingRequest(message.request_name, message.payload, message.want_reply)
        if message.request_name == Extension.KEEP_ALIVE_REQUEST:
            self._refuse_in_turn(self._requests, request)
        elif self._keep(self._requests, request):
            self._emit(GlobalRequestReceived(request))

    def _keep(self, line: RequestLine, request: PendingRequest) -> bool:
        """Keep a request for the application; refuse it if too many are waiting."""
        if not self._undecided.has_room_for(line, request):
            self._count_noise(len(request.payload))
            self._refuse_in_turn(line, request)
            return False
        self._undecided.append(line, request, len(self._channels))
        return True

    def _refuse_in_turn(self, line: RequestLine, request: PendingRequest) -> None:
        """Refuse a request without asking; the reply waits for those before it."""
        if not request.want_reply:
            return
        request.payload = b""
        self._undecided.append(line, request, len(self._channels))
        self.answer(request, False)

    def _request_success(self, payload: Buffer) -> None:
        self._replied(self._replies, True, RequestSuccess.decode(payload).payload)

    def _request_failure(self, payload: Buffer) -> None:
        self._replied(self._replies, False, RequestFailure.decode(payload).payload)

    def _channel_success(self, payload: Buffer) -> None:
        channel = self._find(ChannelSuccess.decode(payload).recipient_channel, len(payload))
        if channel is not None:
            self._replied(channel.replies, True, b"")

    def _channel_failure(self, payload: Buffer) -> None:
        channel = self._find(ChannelFailure.decode(payload).recipient_channel, len(payload))
        if channel is not None:
            self._replied(channel.replies, False, b"")

    def _replied(self, slots: list[ReplySlot], is_success: bool, payload: bytes) -> None:
        if not slots:
            self._count_noise(len(payload))
            return
        self._emit(ReplyReceived(slots.pop(0), is_success, payload))


_HANDLERS: Final[dict[int, Callable[[Connection, Buffer], None]]] = {
    MessageNumber.GLOBAL_REQUEST: Connection._global_request,
    MessageNumber.REQUEST_SUCCESS: Connection._request_success,
    MessageNumber.REQUEST_FAILURE: Connection._request_failure,
    MessageNumber.CHANNEL_OPEN: Connection._channel_open,
    MessageNumber.CHANNEL_OPEN_CONFIRMATION: Connection._open_confirmation,
    MessageNumber.CHANNEL_OPEN_FAILURE: Connection._open_failure,
    MessageNumber.CHANNEL_WINDOW_ADJUST: Connection._window_adjust,
    MessageNumber.CHANNEL_DATA: Connection._data,
    MessageNumber.CHANNEL_EXTENDED_DATA: Connection._extended_data,
    MessageNumber.CHANNEL_EOF: Connection._eof,
    MessageNumber.CHANNEL_CLOSE: Connection._close,
    MessageNumber.CHANNEL_REQUEST: Connection._channel_request,
    MessageNumber.CHANNEL_SUCCESS: Connection._channel_success,
    MessageNumber.CHANNEL_FAILURE: Connection._channel_failure,
}


class _Handlers(dict[int, Callable[[Buffer], None]]):
    """The message handlers of one connection, bound when a message of their kind first arrives."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def __missing__(self, number: int) -> Callable[[Buffer], None]:
        handler = self[number] = MethodType(_HANDLERS[number], self._connection)
        return handler


def _check_window(size: int) -> None:
    if not 1 <= size <= MAX_WINDOW:
        raise LocalProtocolError(f"a window must be between 1 and {MAX_WINDOW} bytes, not {size}")


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME:
        raise RemoteProtocolError(
            f"a request name of {len(name)} characters; at most {MAX_NAME} are accepted"
        )
