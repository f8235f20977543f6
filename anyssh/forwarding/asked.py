"""What the peer listens on at our request, and how its connections are matched to it."""

from __future__ import annotations

from typing import Protocol

from ..errors import LocalProtocolError
from ..session._waiting import Notice
from ..session.opening import ChannelOpening
from .endpoints import Endpoint, TcpEndpoint
from .payloads import ForwardingOpen
from .ports import ForwardedPort, Ports

__all__ = ["Asked", "PeerListener"]


class PeerListener(Protocol):
    """Something that we have asked the peer to listen on."""

    @property
    def asked(self) -> Endpoint:
        """The endpoint that we asked for."""

    @property
    def announced(self) -> Endpoint | None:
        """The endpoint that the peer listens on; None until it is known."""

    async def take(self, opening: ChannelOpening, arrival: ForwardingOpen) -> None:
        """Handle a connection that arrived there."""


class Asked:
    """The listeners of one session at its peer.

    :param ports: where they are reported as forwarded while the peer listens
    """

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._listeners: dict[PeerListener, None] = {}
        self._changed = Notice()

    def expect(self, listener: PeerListener) -> None:
        """Expect connections for a listener that the peer is about to be asked for.

        :raises LocalProtocolError: there is already one for this endpoint
        """
        if self._match(listener.asked) is not None:
            raise LocalProtocolError(f"{listener.asked} is already forwarded from the peer")
        self._listeners[listener] = None

    def granted(self, port: ForwardedPort) -> None:
        """Report that the peer listens, and where; its listener knows by now."""
        self._ports.add(port)
        self._changed.notify()

    def forget(self, listener: PeerListener, port: ForwardedPort | None) -> None:
        """Expect no more connections for a listener."""
        self._listeners.pop(listener, None)
        if port is not None:
            self._ports.remove(port)
        self._changed.notify()

    def _match(self, endpoint: Endpoint) -> PeerListener | None:
        """Return the listener that asked for an endpoint.

        Peers report the bound address in their own spelling, so the port decides; the address only
        distinguishes several listeners of one port.
        """
        same_port = None
        for listener in self._listeners:
            known = listener.announced or listener.asked
            if isinstance(known, TcpEndpoint) and isinstance(endpoint, TcpEndpoint):
                if known.port == endpoint.port != 0:
                    if known.host == endpoint.host:
                        return listener
                    same_port = listener
            elif known == endpoint:
                return listener
        return same_port

    async def expected(self, endpoint: Endpoint) -> PeerListener | None:
        """Return the listener that asked for an endpoint, None if nothing did.

        A connection may overtake the reply that names its port, so this waits while one is
        outstanding.
        """
        while (listener := self._match(endpoint)) is None and self._awaits_a_port:
            await self._changed.wait()
        return listener

    @property
    def _awaits_a_port(self) -> bool:
        """Whether the peer is choosing a port for us."""
        return any(
            isinstance(listener.asked, TcpEndpoint)
            and listener.asked.port == 0
            and listener.announced is None
            for listener in self._listeners
        )
