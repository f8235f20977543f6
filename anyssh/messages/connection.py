"""Messages of the connection protocol (RFC 4254): numbers 80 to 82 and 90 to 100.

Opens, requests and their replies end in type-specific fields, which remain bytes here
(``payload``). The two messages of bulk transfer are packed by hand, as the generic way is several
times as expensive; anything unusual about them goes the generic way, and fails there.
"""

from __future__ import annotations

import struct
from typing import ClassVar, Final, Self

from .. import wire
from ..constants import MessageNumber
from .declaration import Message, boolean, declared, lenient_text, rest, string, text, uint32

__all__ = [
    "ChannelClose",
    "ChannelData",
    "ChannelEof",
    "ChannelExtendedData",
    "ChannelFailure",
    "ChannelOpen",
    "ChannelOpenConfirmation",
    "ChannelOpenFailure",
    "ChannelRequest",
    "ChannelSuccess",
    "ChannelWindowAdjust",
    "GlobalRequest",
    "RequestFailure",
    "RequestSuccess",
    "channel_data",
    "channel_data_header",
    "channel_extended_data_header",
]

_DATA_NUMBER: Final = int(MessageNumber.CHANNEL_DATA)
_DATA_HEADER: Final = struct.Struct(">BII")
_EXTENDED_DATA_NUMBER: Final = int(MessageNumber.CHANNEL_EXTENDED_DATA)
_EXTENDED_DATA_HEADER: Final = struct.Struct(">BIII")


@declared
class GlobalRequest(Message):
    """A global request (RFC 4254 section 4)."""

    number: ClassVar[int] = MessageNumber.GLOBAL_REQUEST

    request_name: str = text()
    want_reply: bool = boolean()
    payload: bytes = rest(default=b"")


@declared
class RequestSuccess(Message):
    """A global request was granted (RFC 4254 section 4)."""

    number: ClassVar[int] = MessageNumber.REQUEST_SUCCESS

    payload: bytes = rest(default=b"")


@declared
class RequestFailure(Message):
    """A global request was refused (RFC 4254 section 4).

    :ivar payload: empty, except for :class:`~anyssh.messages.SessionReconnectFailure`
    """

    number: ClassVar[int] = MessageNumber.REQUEST_FAILURE

    payload: bytes = rest(default=b"")


@declared
class ChannelOpen(Message):
    """A request to open a channel (RFC 4254 section 5.1).

    :ivar sender_channel: the sender's number for the channel
    :ivar initial_window_size: bytes that the receiver may send
    :ivar maximum_packet_size: bytes of data in one message to the sender
    """

    number: ClassVar[int] = MessageNumber.CHANNEL_OPEN

    channel_type: str = text()
    sender_channel: int = uint32()
    initial_window_size: int = uint32()
    maximum_packet_size: int = uint32()
    payload: bytes = rest(default=b"")


@declared
class ChannelOpenConfirmation(Message):
    """The channel is open (RFC 4254 section 5.1)."""

    number: ClassVar[int] = MessageNumber.CHANNEL_OPEN_CONFIRMATION

    recipient_channel: int = uint32()
    sender_channel: int = uint32()
    initial_window_size: int = uint32()
    maximum_packet_size: int = uint32()
    payload: bytes = rest(default=b"")


@declared
class ChannelOpenFailure(Message):
    """The channel was refused (RFC 4254 section 5.1). Some peers omit what follows the reason."""

    number: ClassVar[int] = MessageNumber.CHANNEL_OPEN_FAILURE

    recipient_channel: int = uint32()
    reason_code: int = uint32()
    description: str = lenient_text(default="", optional=True)
    language: str = lenient_text(default="en", optional=True)


@declared
class ChannelWindowAdjust(Message):
    """Adds to the window (RFC 4254 section 5.2)."""

    number: ClassVar[int] = MessageNumber.CHANNEL_WINDOW_ADJUST

    recipient_channel: int = uint32()
    bytes_to_add: int = uint32()


@declared
class ChannelData(Message):
    """Data of a channel (RFC 4254 section 5.2)."""

    number: ClassVar[int] = MessageNumber.CHANNEL_DATA

    recipient_channel: int = uint32()
    data: bytes = string()

    def encode(self) -> bytes:
        """Return the encoding.

        :raises LocalProtocolError: a value does not fit its field
        """
        try:
            header = _DATA_HEADER.pack(_DATA_NUMBER, self.recipient_channel, len(self.data))
        except struct.error:
            return self.encode_as_declared()
        return header + self.data

    @classmethod
    def decode(cls, data: wire.Buffer) -> Self:
        """Parse a payload; the channel's data is copied once.

        :param data: a complete payload, including its message number
        :raises WireError: it is another message, or malformed
        """
        body_size = len(data) - _DATA_HEADER.size
        if body_size >= 0:
            number, recipient_channel, size = _DATA_HEADER.unpack_from(data)
            if number == _DATA_NUMBER and size == body_size:
                return cls(recipient_channel, bytes(memoryview(data)[_DATA_HEADER.size :]))
        return cls.decode_as_declared(data)


@declared
class ChannelExtendedData(Message):
    """Data of another kind, such as standard error (RFC 4254 section 5.2)."""

    number: ClassVar[int] = MessageNumber.CHANNEL_EXTENDED_DATA

    recipient_channel: int = uint32()
    data_type_code: int = uint32()
    data: bytes = string()

    def encode(self) -> bytes:
        """Return the encoding.

        :raises LocalProtocolError: a value does not fit its field
        """
        try:
            header = _EXTENDED_DATA_HEADER.pack(
                _EXTENDED_DATA_NUMBER, self.recipient_channel, self.data_type_code, len(self.data)
            )
        except struct.error:
            return self.encode_as_declared()
        return header + self.data

    @classmethod
    def decode(cls, data: wire.Buffer) -> Self:
        """Parse a payload; the channel's data is copied once.

        :param data: a complete payload, including its message number
        :raises WireError: it is another message, or malformed
        """
        body_size = len(data) - _EXTENDED_DATA_HEADER.size
        if body_size >= 0:
            number, recipient_channel, code, size = _EXTENDED_DATA_HEADER.unpack_from(data)
            if number == _EXTENDED_DATA_NUMBER and size == body_size:
                body = bytes(memoryview(data)[_EXTENDED_DATA_HEADER.size :])
                return cls(recipient_channel, code, body)
        return cls.decode_as_declared(data)


@declared
class ChannelEof(Message):
    """The sender will send no more data (RFC 4254 section 5.3)."""

    number: ClassVar[int] = MessageNumber.CHANNEL_EOF

    recipient_channel: int = uint32()


@declared
class ChannelClose(Message):
    """The sender is done with the channel (RFC 4254 section 5.3)."""

    number: ClassVar[int] = MessageNumber.CHANNEL_CLOSE

    recipient_channel: int = uint32()


@declared
class ChannelRequest(Message):
    """A channel request (RFC 4254 section 5.4)."""

    number: ClassVar[int] = MessageNumber.CHANNEL_REQUEST

    recipient_channel: int = uint32()
    request_type: str = text()
    want_reply: bool = boolean()
    payload: bytes = rest(default=b"")


@declared
class ChannelSuccess(Message):
    """A channel request was granted (RFC 4254 section 5.4)."""

    number: ClassVar[int] = MessageNumber.CHANNEL_SUCCESS

    recipient_channel: int = uint32()


@declared
class ChannelFailure(Message):
    """A channel request was refused (RFC 4254 section 5.4)."""

    number: ClassVar[int] = MessageNumber.CHANNEL_FAILURE

    recipient_channel: int = uint32()


def channel_data(payload: wire.Buffer) -> tuple[int, wire.Buffer]:
    """Return the recipient channel and the data of a CHANNEL_DATA message, without copying.

    For receivers of bulk data (RFC 4254 section 5.2).

    :param payload: a complete payload, including its message number
    :raises WireError: it is another message, or malformed
    """
    size = len(payload) - _DATA_HEADER.size
    if size >= 0:
        number, recipient_channel, declared_size = _DATA_HEADER.unpack_from(payload)
        if number == _DATA_NUMBER and declared_size == size:
            return recipient_channel, payload[_DATA_HEADER.size :]
    message = ChannelData.decode(payload)
    return message.recipient_channel, message.data


def channel_data_header(recipient_channel: int, size: int) -> bytes:
    """Return the 9 bytes that precede ``size`` bytes of data in CHANNEL_DATA.

    For senders that pass header and data on separately (RFC 4254 section 5.2).

    :param recipient_channel: the receiver's number for the channel
    :param size: the number of bytes of data
    :raises struct.error: a number is not a uint32
    """
    return _DATA_HEADER.pack(_DATA_NUMBER, recipient_channel, size)


def channel_extended_data_header(recipient_channel: int, data_type_code: int, size: int) -> bytes:
    """Return the 13 bytes that precede ``size`` bytes of data in CHANNEL_EXTENDED_DATA.

    For senders that pass header and data on separately (RFC 4254 section 5.2).

    :param recipient_channel: the receiver's number for the channel
    :param data_type_code: the kind of data; 1 is standard error
    :param size: the number of bytes of data
    :raises struct.error: a number is not a uint32
    """
    return _EXTENDED_DATA_HEADER.pack(
        _EXTENDED_DATA_NUMBER, recipient_channel, data_type_code, size
    )
