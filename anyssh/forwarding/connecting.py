"""Connecting to where a forwarded connection is to go: addresses checked, both families tried.

A name is looked up once; what is connected to is one of the addresses that were checked, so a name
that changes its mind in between leads nowhere.
"""

from __future__ import annotations

import errno
import math
import os
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import anyio
from anyio.abc import ByteStream

from .endpoints import IPAddress, TcpEndpoint, UnixEndpoint, address_of, is_loopback
from .sockets import ConnectedSocket, connect_nowait, connect_to

__all__ = ["AddressRefused", "connect_tcp", "connect_tcp_nowait", "connect_unix"]

NEXT_ADDRESS: Final = 0.25
NEXT_LOCAL_ADDRESS: Final = 0.01
"""Seconds until the next address is tried too (RFC 8305); loopback answers at once or never."""


class AddressRefused(OSError):
    """The policy allows none of the addresses that a name has."""


async def connect_unix(endpoint: UnixEndpoint, seconds: float = math.inf) -> ByteStream:
    """Connect to a UNIX domain socket.

    :param seconds: how long that may take
    :raises OSError: it is not there, or there are none on this system
    :raises TimeoutError: it took too long
    """
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    with anyio.fail_after(seconds):
        return await anyio.connect_unix(endpoint.path)


async def connect_tcp(
    endpoint: TcpEndpoint,
    seconds: float = math.inf,
    may_use: Callable[[IPAddress], bool] = lambda address: True,
) -> ByteStream:
    """Connect to the first address of a host that answers.

    :param seconds: how long that may take
    :param may_use: whether an address is allowed
    :raises AddressRefused: the host has addresses, none of them allowed
    :raises OSError: the host has no address, or none of them answers
    :raises TimeoutError: it took too long
    """
    if "%" not in endpoint.host and address_of(endpoint.host) is not None:
        # Without the thread that looks names up, and often without waiting at all.
        _require_any([endpoint.host], may_use)
        return await connect_to(endpoint.host, endpoint.port, seconds)
    with anyio.fail_after(seconds):
        # Of every type, as uvloop drops the zone of an address where one type is asked for.
        found = await anyio.getaddrinfo(endpoint.host, endpoint.port)
        hosts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = _require_any(hosts, may_use)
        if len(allowed) == 1:
            return await connect_to(allowed[0], endpoint.port)
        pause = NEXT_LOCAL_ADDRESS if is_loopback(endpoint.host) else NEXT_ADDRESS
        return await _first_to_answer(_alternating(allowed), endpoint.port, pause)


def connect_tcp_nowait(
    endpoint: TcpEndpoint, may_use: Callable[[IPAddress], bool]
) -> ConnectedSocket | None:
    """Connect to an address of this machine, if that needs no waiting.

    :param may_use: whether an address is allowed
    :raises AddressRefused: it is not
    :raises OSError: it does not answer
    """
    address = _own_address(endpoint.host)
    if address is None:
        return None
    if not may_use(address):
        raise AddressRefused(errno.EACCES, "not allowed")
    return connect_nowait(endpoint.host, endpoint.port)


@lru_cache
def _own_address(host: str) -> IPAddress | None:
    """Return the address that a text is, None if it is a name or not of this machine."""
    address = address_of(host)
    return address if address is not None and address.is_loopback and "%" not in host else None


def _require_any(hosts: Sequence[str], may_use: Callable[[IPAddress], bool]) -> list[str]:
    """Return those of a host's addresses that are allowed; there must be one."""
    allowed = [host for host in hosts if (at := address_of(host)) is not None and may_use(at)]
    if not allowed:
        raise AddressRefused(errno.EACCES, "not allowed")
    return allowed


def _alternating(hosts: Sequence[str]) -> list[str]:
    """Return the addresses with the families in turn, that of the first one first."""
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
