"""Tells developers what a core sends, receives and makes of it."""

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

    :param with_data: whether messages with the bytes of channels are told, and the bytes with them
    """

    __slots__ = ("_handler", "transport", "with_data")

    def __init__(self, handler: TraceHandler, *, with_data: bool) -> None:
        self._handler = handler
        self.with_data: bool = with_data
        self.transport: Transport

    def sent(self, number: int, sequence: int) -> None:
        """Tell of a message that leaves."""
        self.tell(
            TraceId.SENDING_MESSAGE,
            TraceLevel.VERBOSE,
            f"Sending #{sequence} {message_name(number)}",
        )

    def received(self, payload: Buffer) -> None:
        """Tell of a message that has come."""
        number, sequence = payload[0], self.transport.receive_sequence - 1
        if number not in DATA_MESSAGES:
            text = f"Receiving #{sequence} {message_name(number)}"
            self.tell(TraceId.RECEIVING_MESSAGE, TraceLevel.VERBOSE, text)
        elif self.with_data:
            self._tell_data(TraceId.RECEIVING_CHANNEL_DATA, f"Receiving #{sequence}", payload)

    def sent_data(self, payload: bytes) -> None:
        """Tell of the bytes of a channel that leave."""
        what = f"Sending #{self.transport.send_sequence}"
        self._tell_data(TraceId.SENDING_CHANNEL_DATA, what, payload)

    def _tell_data(self, trace_id: TraceId, what: str, payload: Buffer) -> None:
        """Tell of the bytes of a channel, with a sum to compare those of both ends by."""
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
        """Tell of anything else."""
        self._handler(TraceEvent(trace_id, level, message, error))


def message_name(number: int) -> str:
    """Return the RFC's name of a message, or its number where it has none."""
    try:
        return MessageNumber(number).name
    except ValueError:
        return f"message {number}"
