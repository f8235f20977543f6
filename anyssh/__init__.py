"""SSH-2 client and server for AnyIO: asyncio and Trio, any byte stream, Dev Tunnels compatible."""

from __future__ import annotations

from . import messages, to_thread, wire
from ._version import __version__
from .config import InsecureSessionConfig, Limits, SessionConfig
from .constants import (
    AuthenticationMethod,
    ChannelOpenFailureReason,
    Compression,
    DisconnectReason,
    Encryption,
    Extension,
    HostKeyAlgorithm,
    KeyExchange,
    Mac,
    MessageNumber,
    ReconnectFailureReason,
    Service,
)
from .contour import ContourInterval, SessionContour
from .errors import (
    AgentError,
    AuthenticationError,
    ChannelOpenError,
    ContourFormatError,
    Disconnected,
    HostKeyError,
    KeyExchangeFailed,
    KeyFormatError,
    LocalProtocolError,
    NegotiationError,
    PassphraseError,
    PassphraseRequired,
    ProtocolError,
    ReconnectError,
    RemoteProtocolError,
    RequestDenied,
    SessionMoved,
    SigningRefused,
    SSHError,
    WireError,
    WrongPassphrase,
)
from .identification import PeerVersion
from .keys import (
    Key,
    KeyFormat,
    export_private_key,
    export_private_key_bytes,
    export_private_key_file,
    export_public_key,
    export_public_key_bytes,
    export_public_key_file,
    generate_key,
    import_key,
    import_key_file,
    import_public_key,
)
from .keys.known_hosts import HostMarker, KnownHostsEntry, KnownHostsProblem
from .protocol.authentication import (
    AuthAttempt,
    Challenge,
    HostBasedAttempt,
    KeyboardInteractiveAttempt,
    NoneAttempt,
    PasswordAttempt,
    Prompt,
    PublicKeyAttempt,
)
from .protocol.latency import Latency
from .protocol.negotiation import Algorithms
from .session import events
from .session.agent import Agent, AgentIdentity
from .session.attributes import SSHAttribute
from .session.channel import Channel, ChannelClosed, ChannelOpening, StderrStream
from .session.client import ClientSession
from .session.credentials import ClientCredentials, HostBasedCredentials, Signer
from .session.errors import ConnectionLost
from .session.events import KeepAliveFailed, KeepAliveSucceeded, Reconnected, SessionEvent
from .session.host_keys import HostKeyVerifier, InsecureAcceptAnyHostKey, PresentedHostKey, pin
from .session.known_hosts import HostKeyStatus, KnownHosts, KnownHostVerifier
from .session.links import SessionState
from .session.metrics import ChannelMetrics, SessionMetrics
from .session.reconnectable import ReconnectableSessions
from .session.requests import ChannelRequest, IncomingRequest, Reply
from .session.server import Server, ServerSession
from .session.session import Session, SessionClosed
from .trace import Progress, ProgressEvent, TraceEvent, TraceId, TraceLevel

__all__ = [
    "events",
    "SessionState",
    "SessionMoved",
    "ReconnectFailureReason",
    "ReconnectableSessions",
    "Reconnected",
    "Agent",
    "AgentError",
    "AgentIdentity",
    "Algorithms",
    "AuthAttempt",
    "AuthenticationError",
    "AuthenticationMethod",
    "Challenge",
    "Channel",
    "ChannelClosed",
    "ChannelMetrics",
    "ChannelOpenError",
    "ChannelOpenFailureReason",
    "ChannelOpening",
    "ChannelRequest",
    "ClientCredentials",
    "ClientSession",
    "Compression",
    "ConnectionLost",
    "ContourFormatError",
    "ContourInterval",
    "DisconnectReason",
    "Disconnected",
    "Encryption",
    "Extension",
    "HostBasedAttempt",
    "HostBasedCredentials",
    "HostKeyAlgorithm",
    "HostKeyError",
    "HostKeyStatus",
    "HostKeyVerifier",
    "HostMarker",
    "IncomingRequest",
    "InsecureAcceptAnyHostKey",
    "InsecureSessionConfig",
    "KeepAliveFailed",
    "KeepAliveSucceeded",
    "Key",
    "KeyExchange",
    "KeyExchangeFailed",
    "KeyFormat",
    "KeyFormatError",
    "KeyboardInteractiveAttempt",
    "KnownHostVerifier",
    "KnownHosts",
    "KnownHostsEntry",
    "KnownHostsProblem",
    "Latency",
    "Limits",
    "LocalProtocolError",
    "Mac",
    "MessageNumber",
    "NegotiationError",
    "NoneAttempt",
    "PassphraseError",
    "PassphraseRequired",
    "PasswordAttempt",
    "PeerVersion",
    "PresentedHostKey",
    "Progress",
    "ProgressEvent",
    "Prompt",
    "ProtocolError",
    "PublicKeyAttempt",
    "ReconnectError",
    "RemoteProtocolError",
    "Reply",
    "RequestDenied",
    "SSHAttribute",
    "SSHError",
    "Server",
    "ServerSession",
    "Service",
    "Session",
    "SessionClosed",
    "SessionConfig",
    "SessionContour",
    "SessionEvent",
    "SessionMetrics",
    "Signer",
    "SigningRefused",
    "StderrStream",
    "TraceEvent",
    "TraceId",
    "TraceLevel",
    "WireError",
    "WrongPassphrase",
    "__version__",
    "export_private_key",
    "export_private_key_bytes",
    "export_private_key_file",
    "export_public_key",
    "export_public_key_bytes",
    "export_public_key_file",
    "generate_key",
    "import_key",
    "import_key_file",
    "import_public_key",
    "messages",
    "pin",
    "to_thread",
    "wire",
]
