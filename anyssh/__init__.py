"""SSH-2 client and server for AnyIO: asyncio and Trio, any byte stream, Dev Tunnels compatible."""

from __future__ import annotations

from . import messages, to_thread, wire
from ._version import __version__
from .config import InsecureSessionConfig, Limits, ServerLimits, SessionConfig
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
    CertificateError,
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
from .forwarding.endpoints import Endpoint, TcpEndpoint, UnixEndpoint
from .forwarding.errors import ConnectFailed
from .forwarding.local import LocalForward, RemoteConnectable, SocksForward
from .forwarding.policy import (
    Connecting,
    Connector,
    ForwardingAction,
    ForwardingPolicy,
    ForwardingRequest,
    ListenerFactory,
)
from .forwarding.ports import (
    ForwardedChannelAdded,
    ForwardedChannelRemoved,
    ForwardedConnection,
    ForwardedPort,
    ForwardedPortAdded,
    ForwardedPortRemoved,
)
from .forwarding.remote import RemoteForward, RemoteListener
from .forwarding.service import PortForwarding
from .identification import PeerVersion
from .keys import (
    Certificate,
    CertificateType,
    Key,
    KeyFormat,
    check_host_certificate,
    check_user_certificate,
    export_private_key,
    export_private_key_bytes,
    export_private_key_file,
    export_public_key,
    export_public_key_bytes,
    export_public_key_file,
    generate_key,
    import_certificate,
    import_certificate_file,
    import_key,
    import_key_file,
    import_public_key,
)
from .keys.known_hosts import HostMarker, KnownHostsEntry, KnownHostsProblem
from .pipes import pipe
from .protocol.authentication import (
    AuthAttempt,
    CertificateAttempt,
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
from .session.arrivals import ReceivedData, ReceivedEof
from .session.attributes import SSHAttribute
from .session.authorities import HostAuthorities, HostCertificateVerifier, UserAuthorities
from .session.channel import Channel, ChannelClosed, ChannelOpening, StderrStream
from .session.client import ClientSession
from .session.credentials import CertifiedKey, ClientCredentials, HostBasedCredentials, Signer
from .session.errors import ConnectionLost
from .session.events import (
    KeepAliveFailed,
    KeepAliveSucceeded,
    Reconnected,
    ServiceActivated,
    SessionEvent,
)
from .session.host_keys import HostKeyVerifier, InsecureAcceptAnyHostKey, PresentedHostKey, pin
from .session.known_hosts import HostKeyStatus, KnownHosts, KnownHostVerifier
from .session.life import SessionClosed
from .session.links import SessionState
from .session.metrics import ChannelMetrics, ServerStatistics, SessionMetrics
from .session.reconnectable import ReconnectableSessions
from .session.requests import ChannelRequest, IncomingRequest, Reply
from .session.server import Server
from .session.server_session import ServerSession
from .session.services import ServiceActivation, SessionService
from .session.session import Session
from .streams import MultiChannelStream, SecureStream
from .trace import Progress, ProgressEvent, TraceEvent, TraceId, TraceLevel

__all__ = [
    "Agent",
    "AgentError",
    "AgentIdentity",
    "Algorithms",
    "AuthAttempt",
    "AuthenticationError",
    "AuthenticationMethod",
    "Certificate",
    "CertificateAttempt",
    "CertificateError",
    "CertificateType",
    "CertifiedKey",
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
    "ConnectFailed",
    "Connecting",
    "ConnectionLost",
    "Connector",
    "ContourFormatError",
    "ContourInterval",
    "DisconnectReason",
    "Disconnected",
    "Encryption",
    "Endpoint",
    "Extension",
    "ForwardedChannelAdded",
    "ForwardedChannelRemoved",
    "ForwardedConnection",
    "ForwardedPort",
    "ForwardedPortAdded",
    "ForwardedPortRemoved",
    "ForwardingAction",
    "ForwardingPolicy",
    "ForwardingRequest",
    "HostAuthorities",
    "HostBasedAttempt",
    "HostBasedCredentials",
    "HostCertificateVerifier",
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
    "ListenerFactory",
    "LocalForward",
    "LocalProtocolError",
    "Mac",
    "MessageNumber",
    "MultiChannelStream",
    "NegotiationError",
    "NoneAttempt",
    "PassphraseError",
    "PassphraseRequired",
    "PasswordAttempt",
    "PeerVersion",
    "PortForwarding",
    "PresentedHostKey",
    "Progress",
    "ProgressEvent",
    "Prompt",
    "ProtocolError",
    "PublicKeyAttempt",
    "ReceivedData",
    "ReceivedEof",
    "ReconnectError",
    "ReconnectFailureReason",
    "ReconnectableSessions",
    "Reconnected",
    "RemoteConnectable",
    "RemoteForward",
    "RemoteListener",
    "RemoteProtocolError",
    "Reply",
    "RequestDenied",
    "SSHAttribute",
    "SSHError",
    "SecureStream",
    "Server",
    "ServerLimits",
    "ServerSession",
    "ServerStatistics",
    "Service",
    "ServiceActivated",
    "ServiceActivation",
    "Session",
    "SessionClosed",
    "SessionConfig",
    "SessionContour",
    "SessionEvent",
    "SessionMetrics",
    "SessionMoved",
    "SessionService",
    "SessionState",
    "Signer",
    "SigningRefused",
    "SocksForward",
    "StderrStream",
    "TcpEndpoint",
    "TraceEvent",
    "TraceId",
    "TraceLevel",
    "UnixEndpoint",
    "UserAuthorities",
    "WireError",
    "WrongPassphrase",
    "__version__",
    "check_host_certificate",
    "check_user_certificate",
    "events",
    "export_private_key",
    "export_private_key_bytes",
    "export_private_key_file",
    "export_public_key",
    "export_public_key_bytes",
    "export_public_key_file",
    "generate_key",
    "import_certificate",
    "import_certificate_file",
    "import_key",
    "import_key_file",
    "import_public_key",
    "messages",
    "pin",
    "pipe",
    "to_thread",
    "wire",
]
