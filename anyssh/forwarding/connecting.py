"""Connecting to the target of a forwarded connection: checked addresses, both families tried.

A name is resolved once, and only addresses that were checked are connected to, so a name that
resolves differently a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Final

import anyio
from anyio.abc import ByteStream

from .endpoints import IPAddress, TcpEndpoint, UnixEndpoint, address_of, is_loopback
from .sockets import ConnectedSocket, connect_nowait, connect_to

__all__ = ["AddressRefused", "addresses_of", "connect_tcp", "connect_tcp_nowait", "connect_unix"]

NEXT_ADDRESS: Final = 0.25
NEXT_LOCAL_ADDRESS: Final = 0.01
"""Seconds before the next address is tried too (RFC 8305); loopback answers at once or never."""


class AddressRefused(OSError):
    """The policy allows none of the addresses of a name."""


async def connect_unix(endpoint: UnixEndpoint, seconds: float = math.inf) -> ByteStream:
    """Connect to a UNIX domain socket.

    :param seconds: the time limit
    :raises OSError: there is no such socket, or this system has no UNIX sockets
    :raises TimeoutError: it took too long
    """
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    with anyio.fail_after(seconds):
        return await anyio.connect_unix(endpoint.path)


async def addresses_of(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host, in the system's order of preference.

    :raises OSError: it has none
    :raises ValueError: it is not a name
    """
    # Of every type, as uvloop drops the scope of an IPv6 address if a type is given.
    found = await anyio.getaddrinfo(host, port)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def connect_tcp(
    endpoint: TcpEndpoint,
    seconds: float = math.inf,
    may_use: Callable[[IPAddress], bool] = lambda address: True,
    look_up: Callable[[str, int], Awaitable[Sequence[str]]] = addresses_of,
) -> ByteStream:
    """Connect to the first address of a host that answers.

    :param seconds: the time limit
    :param may_use: tells whether an address is allowed
    :param look_up: returns the addresses of a name
    :raises AddressRefused: none of the host's addresses is allowed
    :raises OSError: the host has no address, or none of them answers
    :raises TimeoutError: it took too long
    """
    if "%" not in endpoint.host and address_of(endpoint.host) is not None:
        # An address needs no resolver thread, and often no waiting at all.
        _require_any([endpoint.host], may_use)
        return await connect_to(endpoint.host, endpoint.port, seconds)
    with anyio.fail_after(seconds):
        hosts = await look_up(endpoint.host, endpoint.port)
        allowed = _require_any(hosts, may_use)
        if len(allowed) == 1:
            return await connect_to(allowed[0], endpoint.port)
        pause = NEXT_LOCAL_ADDRESS if is_loopback(endpoint.host) else NEXT_ADDRESS
        return await _first_to_answer(_alternating(allowed), endpoint.port, pause)


def connect_tcp_nowait(
    endpoint: TcpEndpoint, may_use: Callable[[IPAddress], bool]
) -> ConnectedSocket | None:
    """Connect to an address of this machine; return None if that needs waiting.

    :param may_use: tells whether an address is allowed
    :raises AddressRefused: it is not allowed
    :raises OSError: the connection was refused, or failed otherwise
    """
    address = _own_address(endpoint.host)
    if address is None:
        return None
    if not may_use(address):
        raise AddressRefused(errno.EACCES, "not allowed")
    return connect_nowait(endpoint.host, endpoint.port)


@lru_cache
def _own_address(host: str) -> IPAddress | None:
    """Return the address that a text represents if it is a loopback address, else None."""
    address = address_of(host)
    return address if address is not None and address.is_loopback and "%" not in host else None


def _require_any(hosts: Sequence[str], may_use: Callable[[IPAddress], bool]) -> list[str]:
    """Return the allowed addresses among a host's; raise if there is none."""
    allowed = [host for host in hosts if (at := address_of(host)) is not None and may_use(at)]
    if not allowed:
        raise AddressRefused(errno.EACCES, "not allowed")
    return allowed


def _alternating(hosts: Sequence[str]) -> list[str]:
    """Return the addresses alternating between the families, starting with the first one's."""
    first = [host for host in hosts if (":" in host) == (":" in hosts[0])]
    other = [host for host in hosts if (":" in host) != (":" in hosts[0])]
    ordered = []
    while first or other:
        ordered += first[:1] + other[:1]
        del first[:1], other[:1]
    return ordered


async def _first_to_answer(hosts: Sequence[str], port: int, pause: float) -> ByteStream:
    connected: list[ByteStream] = []
    errors: list[OSError] = []

    async def attempt(host: str, failed: anyio.Event) -> None:
        try:
            stream = await connect_to(host, port)
        except OSError as error:
            errors.append(error)
            failed.set()
            return
        if connected:
            await anyio.aclose_forcefully(stream)
        else:
            connected.append(stream)
            attempts.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as attempts:
            for host in hosts:
                failed = anyio.Event()
                attempts.start_soon(attempt, host, failed)
                with anyio.move_on_after(pause):
                    await failed.wait()
    except BaseException:
        for stream in connected:
            await anyio.aclose_forcefully(stream)
        raise
    if not connected:
        raise errors[0]
    return connected[0]
