"""The server side of SOCKS 4, 4a and 5 (RFC 1928): CONNECT without authentication, sans-IO.

Received bytes go in, and bytes to answer come out, until :attr:`SocksServer.is_finished`. Then
either there is a target, and :meth:`SocksServer.reply` tells the client the outcome, or the
client's connection is to be closed.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from .endpoints import TcpEndpoint

__all__ = ["SocksReply", "SocksServer"]

MAX_HANDSHAKE: Final = 1024
CONNECT: Final = 1
NO_AUTHENTICATION: Final = 0
NO_METHOD: Final = 0xFF
IPV4, DOMAIN, IPV6 = 1, 3, 4
SOCKS4_GRANTED, SOCKS4_REJECTED = 90, 91


class SocksReply(IntEnum):
    """The outcome of a request, with the reply codes of SOCKS 5."""

    GRANTED = 0
    FAILED = 1
    NOT_ALLOWED = 2
    HOST_UNREACHABLE = 4
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_NOT_SUPPORTED = 8


class _State(Enum):
    START = auto()
    REQUEST = auto()
    """A SOCKS 5 client whose greeting was answered."""
    FINISHED = auto()


class _Incomplete(Exception):
    """More bytes are needed."""

    def __init__(self, missing: int) -> None:
        self.missing: int = missing


class _Refused(Exception):
    """The client is to be sent an answer and closed."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer


class SocksServer:
    """The handshake of one client.

    :ivar target: where the client wants to connect, once it is known
    :ivar wanted: the number of bytes that are sure to belong to the handshake; reading no more than
        that leaves what follows for the target
    """

    def __init__(self) -> None:
        self._state = _State.START
        self._version = 5
        self._data = bytearray()
        self._position = 0
        self.target: TcpEndpoint | None = None
        self.wanted: int = 1

    @property
    def is_finished(self) -> bool:
        """Whether the handshake is over."""
        return self._state is _State.FINISHED

    def receive_data(self, data: bytes) -> bytes:
        """Process bytes from the client; return what to answer at once."""
        self._data += data
        answer = b""
        try:
            while not self.is_finished:
                self._position = 0
                answer += self._step()
                del self._data[: self._position]
        except _Incomplete as incomplete:
            self.wanted = incomplete.missing
            if len(self._data) > MAX_HANDSHAKE:
                self._state = _State.FINISHED
        except _Refused as refusal:
            self._state = _State.FINISHED
            answer += refusal.answer
        return answer

    def reply(self, reply: SocksReply) -> bytes:
        """Return the reply to the client's request."""
        if self._version == 4:
            code = SOCKS4_GRANTED if reply is SocksReply.GRANTED else SOCKS4_REJECTED
            return bytes([0, code]) + bytes(6)
        return bytes([5, reply, 0, IPV4]) + bytes(6)

    # Parsing: each step either completes or raises _Incomplete and is repeated

    def _step(self) -> bytes:
        if self._state is _State.REQUEST:
            self._request()
            return b""
        version = self._byte()
        if version == 4:
            self._version = 4
            self._socks4()
            return b""
        if version != 5:
            raise _Refused(b"")
        methods = self._take(self._byte())
        if NO_AUTHENTICATION not in methods:
            raise _Refused(bytes([5, NO_METHOD]))
        self._state = _State.REQUEST
        return bytes([5, NO_AUTHENTICATION])

    def _request(self) -> None:
        version, command, _, kind = self._take(4)
        if version != 5:
            raise _Refused(b"")
        if kind == IPV4:
            host = str(IPv4Address(self._take(4)))
        elif kind == IPV6:
            host = str(IPv6Address(self._take(16)))
        elif kind == DOMAIN:
            host = self._name(self._take(self._byte()))
        else:
            raise _Refused(self.reply(SocksReply.ADDRESS_NOT_SUPPORTED))
        self._connect(command, host, int.from_bytes(self._take(2), "big"))

    def _socks4(self) -> None:
        command = self._byte()
        port = int.from_bytes(self._take(2), "big")
        address = self._take(4)
        self._text()
        # 0.0.0.x announces a host name (SOCKS 4a).
        by_name = address[:3] == bytes(3) and address[3] != 0
        host = self._name(self._text()) if by_name else str(IPv4Address(address))
        self._connect(command, host, port)

    def _connect(self, command: int, host: str, port: int) -> None:
        if command != CONNECT:
            raise _Refused(self.reply(SocksReply.COMMAND_NOT_SUPPORTED))
        self.target = TcpEndpoint(host, port)
        self._state = _State.FINISHED

    def _name(self, raw: bytes) -> str:
        name = raw.decode("ascii", "replace")
        if not name or not name.isascii() or not name.isprintable():
            raise _Refused(self.reply(SocksReply.FAILED))
        return name

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise _Incomplete(end - len(self._data))
        taken = bytes(self._data[self._position : end])
        self._position = end
        return taken

    def _text(self) -> bytes:
        end = self._data.find(0, self._position)
        if end < 0:
            raise _Incomplete(1)
        taken = bytes(self._data[self._position : end])
        self._position = end + 1
        return taken
