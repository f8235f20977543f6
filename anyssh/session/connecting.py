"""Connecting to an IP address without the threads and tasks that host names need.

AnyIO resolves names in a thread, and tries each address in a task. An address needs neither, and
loopback answers immediately.
"""

from __future__ import annotations

import math
import os
import socket
import sys
from errno import EALREADY, EINPROGRESS, EWOULDBLOCK
from functools import lru_cache, partial
from ipaddress import ip_address
from logging import Logger, getLogger
from typing import Final

import anyio
from anyio import ConnectionFailed, TCPConnectable
from anyio.abc import AnyByteStream, ByteStreamConnectable, SocketStream

from .errors import handle_failure

__all__ = ["close_at_once", "connect_socket", "connect_socket_nowait", "open_stream"]

logger: Logger = getLogger("anyssh")

UNDER_WAY: Final = (EINPROGRESS, EALREADY, EWOULDBLOCK)


async def open_stream(connectable: ByteStreamConnectable) -> AnyByteStream:
    """Connect a connectable; one that leads to an IP address needs just a socket."""
    # A foreign class may do more than connect, even if it derives from AnyIO's.
    if type(connectable) is not TCPConnectable or not _is_address(str(connectable.host)):
        return await connectable.connect()
    host, port = str(connectable.host), connectable.port
    try:
        raw = await connect_socket(host, port)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return await SocketStream.from_socket(raw)
        except BaseException:
            raw.close()
            raise
    except (OSError, ValueError) as error:  # ValueError is AnyIO's for a socket that was reset
        raise ConnectionFailed(f"error connecting to {host}:{port}: {error}") from error


async def close_at_once(stream: AnyByteStream) -> None:
    """Close an unwanted stream without waiting, whatever it raises."""
    try:
        await anyio.aclose_forcefully(stream)
    except BaseException as error:
        if not handle_failure(error, partial(logger.debug, "a stream could not be closed: %r")):
            raise


@lru_cache
def _is_address(host: str) -> bool:
    """Whether a text is an IP address without a scope; with one it is resolved."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host


async def connect_socket(host: str, port: int, seconds: float = math.inf) -> socket.socket:
    """Connect to a port of an address. Passes no checkpoint unless it has to wait.

    :param host: the address; the scope of a link-local address must be numeric
    :param seconds: how long to wait for the answer
    :raises OSError: the connection was refused, or failed otherwise
    :raises TimeoutError: the time is up
    """
    raw = _new_socket(host)
    try:
        if not _connect_at_once(raw, _socket_address(host, port)):
            with anyio.fail_after(seconds):
                await anyio.wait_writable(raw)
            if error := raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, os.strerror(error))
    except BaseException:
        raw.close()
        raise
    return raw


def connect_socket_nowait(host: str, port: int) -> socket.socket | None:
    """Connect to a port of an address of this machine; return None if that needs waiting.

    :raises OSError: the connection was refused, or failed otherwise
    """
    raw = _new_socket(host)
    try:
        if _connect_at_once(raw, (host, port)):
            return raw
    except BaseException:
        raw.close()
        raise
    raw.close()
    return None


def _new_socket(host: str) -> socket.socket:
    raw = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    raw.setblocking(False)
    return raw


def _socket_address(host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return the address for connect(), which would ignore a scope in the host's text."""
    address, has_zone, zone = host.partition("%")
    return (address, port, 0, int(zone)) if has_zone else (host, port)


def _connect_at_once(
    raw: socket.socket, address: tuple[str, int] | tuple[str, int, int, int]
) -> bool:
    """Start to connect; return whether the connection is established."""
    error = raw.connect_ex(address)
    if error in UNDER_WAY and sys.platform == "linux":
        # Loopback has answered by now; a second call reports that.
        error = raw.connect_ex(address)
    if error not in (0, *UNDER_WAY):
        raise OSError(error, os.strerror(error))
    return error == 0
