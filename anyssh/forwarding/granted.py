"""What a session listens on at the peer's request.

Requests are answered in order, and a connection is accepted only after its request was answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio.abc import ByteStream, Listener

from ..messages import TcpipForwardSuccess
from ..session.channel import Channel
from ..session.requests import IncomingRequest
from ..trace import TraceId, TraceLevel
from .acceptor import Acceptor, originator_of
from .endpoints import Endpoint, TcpEndpoint
from .listening import bound_port, close_listener, listen
from .payloads import Way
from .policy import ForwardingAction, ForwardingRequest
from .ports import ForwardedConnection, ForwardedPort, Ports

if TYPE_CHECKING:
    from .service import PortForwarding

__all__ = ["Granted"]


class _Granted:
    """A listener that the peer has asked for.

    :ivar key: the endpoint, as the peer names it
    :ivar acceptor: accepts connections, unless they come only from the application
    """

    def __init__(self, key: Endpoint, port: ForwardedPort) -> None:
        self.key = key
        self.port = port
        self.acceptor: Acceptor | None = None


class Granted:
    """What one session listens on for its peer.

    :param ports: where the ports are reported as forwarded while we listen
    """

    def __init__(self, service: PortForwarding, ports: Ports) -> None:
        self._service = service
        self._ports = ports
        self._granted: dict[Endpoint, _Granted] = {}

    async def cancel(self, endpoint: Endpoint, request: IncomingRequest) -> None:
        """Stop listening, as the peer asks."""
        granted = self._granted_for(endpoint)
        if granted is None:
            await request.reject()
            return
        await self._revoke(granted)
        await request.accept()

    def _granted_for(self, endpoint: Endpoint) -> _Granted | None:
        """Return what the peer means; some peers spell the address differently when they cancel."""
        if endpoint in self._granted or not isinstance(endpoint, TcpEndpoint):
            return self._granted.get(endpoint)
        same = [
            granted
            for granted in self._granted.values()
            if isinstance(granted.key, TcpEndpoint) and granted.key.port == endpoint.port
        ]
        return same[0] if len(same) == 1 else None

    async def _revoke(self, granted: _Granted) -> None:
        if granted.acceptor is not None:
            await granted.acceptor.stop_listening()
        self._granted.pop(granted.key, None)
        self._ports.remove(granted.port)

    async def grant(self, asked: Endpoint, extra: bytes, request: IncomingRequest) -> None:
        """Listen, as the peer asks, if the policy allows it.

        :param extra: what followed the standard fields of the request
        """
        if not await self._may_listen(asked, extra):
            self._service.trace_failure(
                TraceId.PORT_FORWARD_REQUEST_INVALID, f"{asked}: listening is not allowed"
            )
            await request.reject()
            return
        listener: Listener[ByteStream] | None = None
        if self._service.policy.accept_local_connections:
            try:
                listener = await self._listen(asked)
            except (OSError, ValueError) as error:
                self._service.trace_failure(
                    TraceId.PORT_FORWARD_LISTEN_FAILED, f"{asked}: {error}", error
                )
                await request.reject()
                return
        granted = self._name(asked, listener)
        if granted is None:
            if listener is not None:
                await close_listener(listener)
            await request.reject()
            return
        await self._begin(granted, listener, request)

    async def _may_listen(self, asked: Endpoint, extra: bytes) -> bool:
        if asked in self._granted or len(self._granted) >= self._service.policy.listeners:
            return False
        allowed = self._service.policy.may_listen(asked) or self._service.policy.may_listen(
            _narrowed(asked)
        )
        request = ForwardingRequest(
            self._service.session, ForwardingAction.LISTEN, asked, originator=None, extra=extra
        )
        return allowed and await self._service.decide(request)

    async def _listen(self, asked: Endpoint) -> Listener[ByteStream]:
        if not self._service.policy.may_listen(asked):
            asked = _narrowed(asked)
        factory = self._service.policy.listener or listen
        return await factory(asked)

    def _name(self, asked: Endpoint, listener: Listener[ByteStream] | None) -> _Granted | None:
        """Return what was granted, under the name that both sides use from now on.

        A requested port keeps its number, even if a factory has bound another one.
        """
        bound = bound_port(listener) if listener is not None else None
        local: Endpoint | None = None if listener is None else asked
        key = asked
        if isinstance(asked, TcpEndpoint):
            key = TcpEndpoint(asked.host, asked.port or bound or 0)
            if key.port == 0 or key in self._granted:
                return None
            local = None if bound is None else TcpEndpoint(asked.host, bound)
        return _Granted(key, ForwardedPort(local, key, is_remote=True))

    async def _begin(
        self, granted: _Granted, listener: Listener[ByteStream] | None, request: IncomingRequest
    ) -> None:
        """Reply, then report the port, then accept connections."""
        key = granted.key
        payload = TcpipForwardSuccess(key.port).encode() if isinstance(key, TcpEndpoint) else b""
        try:
            await request.accept(payload)
            if listener is not None:
                carried = self._service.carried
                acceptor: Acceptor = carried.make_acceptor(
                    listener,
                    lambda stream: self._carry(granted, acceptor, stream),
                    lambda stream: carried.carry_nowait(
                        acceptor,
                        stream,
                        Way.FORWARDED,
                        key,
                        connecting=self._service.policy.connecting,
                        port=granted.port,
                    ),
                )
                granted.acceptor = acceptor
                self._service.start_soon(acceptor.run)
        except BaseException:
            if listener is not None:
                await close_listener(listener)
            raise
        self._granted[key] = granted
        self._ports.add(granted.port)
        self._service.trace(TraceId.PORT_FORWARD_LISTENING, TraceLevel.INFO, f"listening on {key}")

    async def _carry(self, granted: _Granted, acceptor: Acceptor, stream: ByteStream) -> None:
        origin = originator_of(stream)

        async def open_channel() -> Channel:
            async with acceptor.turns.turn():
                return await self._service.open(Way.FORWARDED, granted.key, origin)

        await self._service.carried.carry(
            stream,
            open_channel,
            ForwardedConnection(self._service.session, stream, granted.key, origin, False),
            connecting=self._service.policy.connecting,
            port=granted.port,
        )

    def forget(self) -> None:
        """Forget everything: the session has ended."""
        for granted in tuple(self._granted.values()):
            del self._granted[granted.key]
            self._ports.remove(granted.port)
        self._ports.end()


def _narrowed(asked: Endpoint) -> Endpoint:
    """Return loopback for a peer that leaves the address to us, any other endpoint unchanged."""
    if isinstance(asked, TcpEndpoint) and asked.host == "":
        return TcpEndpoint("localhost", asked.port)
    return asked
