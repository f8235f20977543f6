"""Every SSH message as a dataclass that encodes and decodes itself.

A :class:`Message` is a complete payload, including its message number; a :class:`Structure` is what
some messages contain (``UserauthRequest.method_fields``, and the ``payload`` of opens, requests and
replies). ``decode`` is strict: short input and trailing bytes raise :class:`~anyssh.WireError`,
counts are checked against the bytes available, and nothing is allocated for a length before it is
known to fit. ``repr`` shows bytes as their length, and no secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .authentication import (
    GroupedUserauthInfoRequest,
    HostBasedFields,
    KeyboardInteractiveFields,
    PasswordFields,
    Prompt,
    PublicKeyFields,
    UserauthBanner,
    UserauthFailure,
    UserauthInfoRequest,
    UserauthInfoResponse,
    UserauthPasswdChangereq,
    UserauthPkOk,
    UserauthRequest,
    UserauthSuccess,
)
from .connection import (
    ChannelClose,
    ChannelData,
    ChannelEof,
    ChannelExtendedData,
    ChannelFailure,
    ChannelOpen,
    ChannelOpenConfirmation,
    ChannelOpenFailure,
    ChannelRequest,
    ChannelSuccess,
    ChannelWindowAdjust,
    GlobalRequest,
    RequestFailure,
    RequestSuccess,
    channel_data,
    channel_data_header,
    channel_extended_data_header,
)
from .declaration import Message, Structure
from .extensions import (
    InitialChannelRequest,
    LinkedSessionReconnectRequest,
    SessionReconnectFailure,
    SessionReconnectRequest,
    SessionReconnectResponse,
)
from .forwarding import (
    DirectStreamLocal,
    DirectTcpip,
    ForwardedStreamLocal,
    ForwardedTcpip,
    StreamLocalForward,
    TcpipForward,
    TcpipForwardSuccess,
)
from .requests import (
    EnvRequest,
    ExecRequest,
    ExitSignal,
    ExitStatus,
    PtyRequest,
    Signal,
    SubsystemRequest,
    WindowChange,
)
from .transport import (
    Debug,
    Disconnect,
    ExtInfo,
    Ignore,
    KexDhInit,
    KexDhReply,
    KexInit,
    NewKeys,
    ServiceAccept,
    ServiceRequest,
    Unimplemented,
)

__all__ = [
    "MESSAGES",
    "MESSAGES_BY_NUMBER",
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
    "Debug",
    "DirectStreamLocal",
    "DirectTcpip",
    "Disconnect",
    "EnvRequest",
    "ExecRequest",
    "ExitSignal",
    "ExitStatus",
    "ExtInfo",
    "ForwardedStreamLocal",
    "ForwardedTcpip",
    "GlobalRequest",
    "GroupedUserauthInfoRequest",
    "HostBasedFields",
    "Ignore",
    "InitialChannelRequest",
    "KexDhInit",
    "KexDhReply",
    "KexInit",
    "KeyboardInteractiveFields",
    "Message",
    "NewKeys",
    "PasswordFields",
    "Prompt",
    "PtyRequest",
    "PublicKeyFields",
    "RequestFailure",
    "RequestSuccess",
    "ServiceAccept",
    "ServiceRequest",
    "LinkedSessionReconnectRequest",
    "SessionReconnectFailure",
    "SessionReconnectRequest",
    "SessionReconnectResponse",
    "Signal",
    "StreamLocalForward",
    "Structure",
    "SubsystemRequest",
    "TcpipForward",
    "TcpipForwardSuccess",
    "Unimplemented",
    "UserauthBanner",
    "UserauthFailure",
    "UserauthInfoRequest",
    "UserauthInfoResponse",
    "UserauthPasswdChangereq",
    "UserauthPkOk",
    "UserauthRequest",
    "UserauthSuccess",
    "WindowChange",
    "channel_data",
    "channel_data_header",
    "channel_extended_data_header",
]

MESSAGES: Final[tuple[type[Message], ...]] = (
    Disconnect,
    Ignore,
    Unimplemented,
    Debug,
    ServiceRequest,
    ServiceAccept,
    ExtInfo,
    KexInit,
    NewKeys,
    KexDhInit,
    KexDhReply,
    UserauthRequest,
    UserauthFailure,
    UserauthSuccess,
    UserauthBanner,
    UserauthPkOk,
    UserauthPasswdChangereq,
    UserauthInfoRequest,
    GroupedUserauthInfoRequest,
    UserauthInfoResponse,
    GlobalRequest,
    RequestSuccess,
    RequestFailure,
    ChannelOpen,
    ChannelOpenConfirmation,
    ChannelOpenFailure,
    ChannelWindowAdjust,
    ChannelData,
    ChannelExtendedData,
    ChannelEof,
    ChannelClose,
    ChannelRequest,
    ChannelSuccess,
    ChannelFailure,
)
"""Every message class, by message number."""

MESSAGES_BY_NUMBER: Final[Mapping[int, tuple[type[Message], ...]]] = MappingProxyType(
    {
        number: tuple(message for message in MESSAGES if message.number == number)
        for number in sorted({int(message.number) for message in MESSAGES})
    }
)
"""The classes of each message number: one each, but four for 60, among which the state decides."""
