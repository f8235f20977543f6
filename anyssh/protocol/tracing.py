"""Trace events of a core: the messages that it sends and receives, and what results."""

from __future__ import annotations

from typing import Final
from zlib import crc32

from ..constants import MessageNumber
from ..trace import TraceEvent, TraceHandler, TraceId, TraceLevel
from ..wire import Buffer
from .transport import Transport

__all__ = ["DATA_MESSAGES", "Tracer", "message_name"]

DATA_MESSAGES: Final = (MessageNumber.CHANNEL_DATA, MessageNumber.CHANNEL_EXTENDED_DATA)
_DATA_STARTS: Final = {MessageNumber.CHANNEL_DATA: 9, MessageNumber.CHANNEL_EXTENDED_DATA: 13}
_ROW: Final = 16


class Tracer:
    """Traces one transport.

    :param with_data: whether messages with channel data are traced, including that data
    """

    __slots__ = ("_handler", "transport", "with_data")

    def __init__(self, handler: TraceHandler, *, with_data: bool) -> None:
        self._handler = handler
        self.with_data: bool = with_data
        self.transport: Transport

    def sent(self, number: int, sequence: int) -> None:
        """Trace a message that is being sent."""
        self.tell(
            TraceId.SENDING_MESSAGE,
            TraceLevel.VERBOSE,
            f"Sending #{sequence} {message_name(number)}",
        )

    def received(self, payload: Buffer) -> None:
        """Trace a received message."""
        number, sequence = payload[0], self.transport.receive_sequence - 1
        if number not in DATA_MESSAGES:
            text = f"Receiving #{sequence} {message_name(number)}"
            self.tell(TraceId.RECEIVING_MESSAGE, TraceLevel.VERBOSE, text)
        elif self.with_data:
            self._tell_data(TraceId.RECEIVING_CHANNEL_DATA, f"Receiving #{sequence}", payload)

    def sent_data(self, payload: bytes) -> None:
        """Trace channel data that is being sent."""
        what = f"Sending #{self.transport.send_sequence}"
        self._tell_data(TraceId.SENDING_CHANNEL_DATA, what, payload)

    def _tell_data(self, trace_id: TraceId, what: str, payload: Buffer) -> None:
        """Trace channel data, with a checksum for comparison between the two ends."""
        number = payload[0]
        data = bytes(payload[_DATA_STARTS[MessageNumber(number)] :])
        text = (
            f"{what} {message_name(number)}, channel {int.from_bytes(payload[1:5])}, "
            f"{len(data)} bytes, CRC-32 {crc32(data):08X}"
        )
        rows = (
            f"{row:04X}: {data[row : row + _ROW].hex(' ')}" for row in range(0, len(data), _ROW)
        )
        self.tell(trace_id, TraceLevel.VERBOSE, ", ".join([text, *rows]))

    def tell(
        self,
        trace_id: TraceId,
        level: TraceLevel,
        message: str,
        error: BaseException | None = None,
    ) -> None:
        """Trace anything else."""
        self._handler(TraceEvent(trace_id, level, message, error))


def message_name(number: int) -> str:
    """Return the RFC's name of a message, or its number if it has none."""
    try:
        return MessageNumber(number).name
    except ValueError:
        return f"message {number}"
