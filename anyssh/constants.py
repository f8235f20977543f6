"""Numbers and names assigned by the SSH standards and the Dev Tunnels extensions.

Nothing here has behaviour. Message numbers are those of RFC 4250 section 4.1.2, disconnect and
channel open failure reasons those of sections 4.2.2 and 4.3; a name with an ``@`` belongs to the
domain in it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = [
    "DEFAULT_MAX_PACKET_SIZE",
    "DEFAULT_WINDOW_SIZE",
    "EXTENDED_DATA_STDERR",
    "AuthenticationMethod",
    "Extension",
    "MessageNumber",
    "DisconnectReason",
    "ChannelOpenFailureReason",
    "ReconnectFailureReason",
    "KeyExchange",
    "HostKeyAlgorithm",
    "Encryption",
    "Mac",
    "Compression",
    "Marker",
    "Service",
]

DEFAULT_MAX_PACKET_SIZE: Final = 32 * 1024
"""Bytes of data that one CHANNEL_DATA message may carry by default."""

LARGE_MAX_PACKET_SIZE: Final = 128 * 1024
"""The same if both ends are anyssh, which is faster with fewer messages."""

DEFAULT_WINDOW_SIZE: Final = 32 * DEFAULT_MAX_PACKET_SIZE
"""Bytes that a peer may send on a channel before we adjust its window."""

EXTENDED_DATA_STDERR: Final = 1

RESET_SIGNAL: Final = "ABRT"
"""The exit-signal of a channel that is aborted, as a reset would be for a TCP connection."""


class MessageNumber(IntEnum):
    """Message numbers, the first byte of every payload."""

    DISCONNECT = 1
    IGNORE = 2
    UNIMPLEMENTED = 3
    DEBUG = 4
    SERVICE_REQUEST = 5
    SERVICE_ACCEPT = 6
    EXT_INFO = 7
    KEXINIT = 20
    NEWKEYS = 21
    KEXDH_INIT = 30
    KEXDH_REPLY = 31
    USERAUTH_REQUEST = 50
    USERAUTH_FAILURE = 51
    USERAUTH_SUCCESS = 52
    USERAUTH_BANNER = 53
    USERAUTH_PK_OK = 60
    USERAUTH_PASSWD_CHANGEREQ = 60
    USERAUTH_INFO_REQUEST = 60
    USERAUTH_INFO_RESPONSE = 61
    GLOBAL_REQUEST = 80
    REQUEST_SUCCESS = 81
    REQUEST_FAILURE = 82
    CHANNEL_OPEN = 90
    CHANNEL_OPEN_CONFIRMATION = 91
    CHANNEL_OPEN_FAILURE = 92
    CHANNEL_WINDOW_ADJUST = 93
    CHANNEL_DATA = 94
    CHANNEL_EXTENDED_DATA = 95
    CHANNEL_EOF = 96
    CHANNEL_CLOSE = 97
    CHANNEL_REQUEST = 98
    CHANNEL_SUCCESS = 99
    CHANNEL_FAILURE = 100


class DisconnectReason(IntEnum):
    """Reasons for ending a session (RFC 4253 section 11.1); other numbers are plain ints."""

    NONE = 0
    HOST_NOT_ALLOWED_TO_CONNECT = 1
    PROTOCOL_ERROR = 2
    KEY_EXCHANGE_FAILED = 3
    RESERVED = 4
    MAC_ERROR = 5
    COMPRESSION_ERROR = 6
    SERVICE_NOT_AVAILABLE = 7
    PROTOCOL_VERSION_NOT_SUPPORTED = 8
    HOST_KEY_NOT_VERIFIABLE = 9
    CONNECTION_LOST = 10
    BY_APPLICATION = 11
    TOO_MANY_CONNECTIONS = 12
    AUTH_CANCELLED_BY_USER = 13
    NO_MORE_AUTH_METHODS_AVAILABLE = 14
    ILLEGAL_USER_NAME = 15


class ChannelOpenFailureReason(IntEnum):
    """Reasons for refusing a channel (RFC 4254 section 5.1)."""

    ADMINISTRATIVELY_PROHIBITED = 1
    CONNECT_FAILED = 2
    UNKNOWN_CHANNEL_TYPE = 3
    RESOURCE_SHORTAGE = 4


class ReconnectFailureReason(IntEnum):
    """Reasons why a session was not resumed; those from 101 on are detected by the client."""

    UNKNOWN_SERVER_FAILURE = 1
    SESSION_NOT_FOUND = 2
    INVALID_CLIENT_TOKEN = 3
    SERVER_DROPPED_MESSAGES = 4
    UNKNOWN_CLIENT_FAILURE = 101
    DIFFERENT_SERVER_HOST_KEY = 102
    INVALID_SERVER_TOKEN = 103
    CLIENT_DROPPED_MESSAGES = 104


class KeyExchange:
    """Names of key exchange methods."""

    MLKEM768_X25519_SHA256: Final = "mlkem768x25519-sha256"
    CURVE25519_SHA256: Final = "curve25519-sha256"
    CURVE25519_SHA256_LIBSSH: Final = "curve25519-sha256@libssh.org"
    ECDH_NISTP256: Final = "ecdh-sha2-nistp256"
    ECDH_NISTP384: Final = "ecdh-sha2-nistp384"
    ECDH_NISTP521: Final = "ecdh-sha2-nistp521"
    DH_GROUP14_SHA256: Final = "diffie-hellman-group14-sha256"
    DH_GROUP16_SHA512: Final = "diffie-hellman-group16-sha512"
    NONE: Final = "none"


class HostKeyAlgorithm:
    """Names of public key (signature) algorithms, for host keys and user keys."""

    ED25519: Final = "ssh-ed25519"
    ECDSA_NISTP256: Final = "ecdsa-sha2-nistp256"
    ECDSA_NISTP384: Final = "ecdsa-sha2-nistp384"
    ECDSA_NISTP521: Final = "ecdsa-sha2-nistp521"
    RSA_SHA2_256: Final = "rsa-sha2-256"
    RSA_SHA2_512: Final = "rsa-sha2-512"
    NONE: Final = "none"


class Encryption:
    """Names of ciphers."""

    AES256_GCM: Final = "aes256-gcm@openssh.com"
    AES128_GCM: Final = "aes128-gcm@openssh.com"
    CHACHA20_POLY1305: Final = "chacha20-poly1305@openssh.com"
    AES256_CTR: Final = "aes256-ctr"
    AES192_CTR: Final = "aes192-ctr"
    AES128_CTR: Final = "aes128-ctr"
    AES256_CBC: Final = "aes256-cbc"
    NONE: Final = "none"


class Mac:
    """Names of message authentication codes (MACs)."""

    HMAC_SHA2_512_ETM: Final = "hmac-sha2-512-etm@openssh.com"
    HMAC_SHA2_256_ETM: Final = "hmac-sha2-256-etm@openssh.com"
    HMAC_SHA2_512: Final = "hmac-sha2-512"
    HMAC_SHA2_256: Final = "hmac-sha2-256"
    NONE: Final = "none"


class Compression:
    """Names of compression methods, of which there is only ``none``."""

    NONE: Final = "none"


class Marker:
    """Names in the list of key exchange methods that announce a capability; never chosen."""

    EXT_INFO_CLIENT: Final = "ext-info-c"
    EXT_INFO_SERVER: Final = "ext-info-s"
    STRICT_CLIENT: Final = "kex-strict-c-v00@openssh.com"
    STRICT_SERVER: Final = "kex-strict-s-v00@openssh.com"


class Extension:
    """Names of extensions in EXT_INFO (RFC 8308), and of the requests that belong to them."""

    SERVER_SIG_ALGS: Final = "server-sig-algs"
    OPEN_CHANNEL_REQUEST: Final = "open-channel-request@microsoft.com"
    SESSION_RECONNECT: Final = "session-reconnect@microsoft.com"
    SESSION_LATENCY: Final = "session-latency@microsoft.com"
    SESSION_LINK: Final = "session-link@anyssh.dev"
    ENABLE_SESSION_RECONNECT_REQUEST: Final = "enable-session-reconnect@microsoft.com"
    SESSION_RECONNECT_REQUEST: Final = "session-reconnect@microsoft.com"
    INITIAL_CHANNEL_REQUEST: Final = "initial-channel-request@microsoft.com"
    KEEP_ALIVE_REQUEST: Final = "keepalive@openssh.com"


class Service:
    """Names of services (RFC 4250 section 4.7)."""

    USERAUTH: Final = "ssh-userauth"
    CONNECTION: Final = "ssh-connection"


class AuthenticationMethod:
    """Names of user authentication methods."""

    NONE: Final = "none"
    PASSWORD: Final = "password"
    PUBLIC_KEY: Final = "publickey"
    HOST_BASED: Final = "hostbased"
    KEYBOARD_INTERACTIVE: Final = "keyboard-interactive"
