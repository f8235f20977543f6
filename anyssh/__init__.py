"""SSH-2 client and server for AnyIO: asyncio and Trio, any byte stream, Dev Tunnels compatible.

Public names are imported lazily, on first use: ``import anyssh`` is fast, and a program loads only
the modules it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from . import messages, to_thread, wire
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
    from .forwarding.listening import listen
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
    from .forwarding.remote import RemoteForward, RemoteListener, RemoteSocksForward
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
    from .session.channel import Channel, ChannelClosed, StderrStream
    from .session.client import ClientSession
    from .session.commands import CommandFailed, CompletedCommand
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
    from .session.opening import ChannelOpening
    from .session.recipients import Attendant, Recipient
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
    "Attendant",
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
    "CommandFailed",
    "CompletedCommand",
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
    "Recipient",
    "ReconnectError",
    "ReconnectFailureReason",
    "ReconnectableSessions",
    "Reconnected",
    "RemoteConnectable",
    "RemoteForward",
    "RemoteListener",
    "RemoteProtocolError",
    "RemoteSocksForward",
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
    "listen",
    "messages",
    "pin",
    "pipe",
    "to_thread",
    "wire",
]

_NAMES = {
    ".config": "InsecureSessionConfig Limits ServerLimits SessionConfig",
    ".constants": (
        "AuthenticationMethod ChannelOpenFailureReason Compression DisconnectReason Encryption "
        "Extension HostKeyAlgorithm KeyExchange Mac MessageNumber ReconnectFailureReason "
        "Service"
    ),
    ".contour": "ContourInterval SessionContour",
    ".errors": (
        "AgentError AuthenticationError CertificateError ChannelOpenError ContourFormatError "
        "Disconnected HostKeyError KeyExchangeFailed KeyFormatError LocalProtocolError "
        "NegotiationError PassphraseError PassphraseRequired ProtocolError ReconnectError "
        "RemoteProtocolError RequestDenied SessionMoved SigningRefused SSHError WireError "
        "WrongPassphrase"
    ),
    ".forwarding.endpoints": "Endpoint TcpEndpoint UnixEndpoint",
    ".forwarding.errors": "ConnectFailed",
    ".forwarding.listening": "listen",
    ".forwarding.local": "LocalForward RemoteConnectable SocksForward",
    ".forwarding.policy": (
        "Connecting Connector ForwardingAction ForwardingPolicy ForwardingRequest ListenerFactory"
    ),
    ".forwarding.ports": (
        "ForwardedChannelAdded ForwardedChannelRemoved ForwardedConnection ForwardedPort "
        "ForwardedPortAdded ForwardedPortRemoved"
    ),
    ".forwarding.remote": "RemoteForward RemoteListener RemoteSocksForward",
    ".forwarding.service": "PortForwarding",
    ".identification": "PeerVersion",
    ".keys": (
        "Certificate CertificateType Key KeyFormat check_host_certificate "
        "check_user_certificate export_private_key export_private_key_bytes "
        "export_private_key_file export_public_key export_public_key_bytes "
        "export_public_key_file generate_key import_certificate import_certificate_file "
        "import_key import_key_file import_public_key"
    ),
    ".keys.known_hosts": "HostMarker KnownHostsEntry KnownHostsProblem",
    ".pipes": "pipe",
    ".protocol.authentication": (
        "AuthAttempt CertificateAttempt Challenge HostBasedAttempt KeyboardInteractiveAttempt "
        "NoneAttempt PasswordAttempt Prompt PublicKeyAttempt"
    ),
    ".protocol.latency": "Latency",
    ".protocol.negotiation": "Algorithms",
    ".session.agent": "Agent AgentIdentity",
    ".session.arrivals": "ReceivedData ReceivedEof",
    ".session.attributes": "SSHAttribute",
    ".session.authorities": "HostAuthorities HostCertificateVerifier UserAuthorities",
    ".session.channel": "Channel ChannelClosed StderrStream",
    ".session.client": "ClientSession",
    ".session.commands": "CommandFailed CompletedCommand",
    ".session.credentials": "CertifiedKey ClientCredentials HostBasedCredentials Signer",
    ".session.errors": "ConnectionLost",
    ".session.events": (
        "KeepAliveFailed KeepAliveSucceeded Reconnected ServiceActivated SessionEvent"
    ),
    ".session.host_keys": "HostKeyVerifier InsecureAcceptAnyHostKey PresentedHostKey pin",
    ".session.known_hosts": "HostKeyStatus KnownHosts KnownHostVerifier",
    ".session.life": "SessionClosed",
    ".session.links": "SessionState",
    ".session.metrics": "ChannelMetrics ServerStatistics SessionMetrics",
    ".session.opening": "ChannelOpening",
    ".session.recipients": "Attendant Recipient",
    ".session.reconnectable": "ReconnectableSessions",
    ".session.requests": "ChannelRequest IncomingRequest Reply",
    ".session.server": "Server",
    ".session.server_session": "ServerSession",
    ".session.services": "ServiceActivation SessionService",
    ".session.session": "Session",
    ".streams": "MultiChannelStream SecureStream",
    ".trace": "Progress ProgressEvent TraceEvent TraceId TraceLevel",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

_MODULES = {
    "events": ".session.events",
    "errors": ".errors",
    "keys": ".keys",
    "messages": ".messages",
    "testing": ".testing",
    "to_thread": ".to_thread",
    "wire": ".wire",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        value: object = import_module(_MODULES[name], __name__)
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name], __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
