"""Payloads of port and socket forwarding.

TCP forwarding is RFC 4254 section 7; forwarding of UNIX domain sockets is an OpenSSH extension. The
classes have the name of their request, or the type of their channel.
"""

from __future__ import annotations

from typing import ClassVar

from .declaration import Structure, declared, rest, string, system_text, text, uint32

__all__ = [
    "DirectStreamLocal",
    "DirectTcpip",
    "ForwardedStreamLocal",
    "ForwardedTcpip",
    "StreamLocalForward",
    "TcpipForward",
    "TcpipForwardSuccess",
]


@declared
class TcpipForward(Structure):
    """Where the peer is to listen, or to stop listening (RFC 4254 section 7.1).

    :ivar address_to_bind: ``""`` for all addresses, ``"localhost"``, or an address
    :ivar port: 0 lets the peer choose
    :ivar extra: what an application appended, such as a token
    """

    request_name: ClassVar[str] = "tcpip-forward"
    cancel_request_name: ClassVar[str] = "cancel-tcpip-forward"

    address_to_bind: str = text()
    port: int = uint32()
    extra: bytes = rest(default=b"")


@declared
class TcpipForwardSuccess(Structure):
    """The port that the peer listens on (RFC 4254 section 7.1).

    :ivar port: 0 if the reply has no port, which means the requested one
    """

    port: int = uint32(default=0, optional=True)


@declared
class ForwardedTcpip(Structure):
    """A connection that arrived where the peer listens for us (RFC 4254 section 7.2).

    :ivar host: the address that was connected to, as requested
    :ivar port: the port that was connected to
    :ivar extra: what an application appended
    """

    channel_type: ClassVar[str] = "forwarded-tcpip"

    host: str = text()
    port: int = uint32()
    originator_address: str = text()
    originator_port: int = uint32()
    extra: bytes = rest(default=b"")


@declared
class DirectTcpip(Structure):
    """A connection that the peer is to make (RFC 4254 section 7.2).

    :ivar host: the name or address to connect to
    :ivar port: the port to connect to
    :ivar extra: what an application appended
    """

    channel_type: ClassVar[str] = "direct-tcpip"

    host: str = text()
    port: int = uint32()
    originator_address: str = text()
    originator_port: int = uint32()
    extra: bytes = rest(default=b"")


@declared
class StreamLocalForward(Structure):
    """The socket path that the peer is to listen on, or to stop listening on."""

    request_name: ClassVar[str] = "streamlocal-forward@openssh.com"
    cancel_request_name: ClassVar[str] = "cancel-streamlocal-forward@openssh.com"

    socket_path: str = system_text()


@declared
class ForwardedStreamLocal(Structure):
    """A connection that arrived at a socket that the peer listens on for us."""

    channel_type: ClassVar[str] = "forwarded-streamlocal@openssh.com"

    socket_path: str = system_text()
    reserved: bytes = string(default=b"")


@declared
class DirectStreamLocal(Structure):
    """A connection to a socket that the peer is to make."""

    channel_type: ClassVar[str] = "direct-streamlocal@openssh.com"

    socket_path: str = system_text()
    reserved_string: bytes = string(default=b"")
    reserved_number: int = uint32(default=0)
