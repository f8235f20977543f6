"""The forwarding service of a session: the peer's requests, and ours.

All channels and requests of forwarding arrive here. They are judged by the policy, or belong to a
port that we have asked the peer to listen on. ``asked`` keeps what the peer listens on for us,
``granted`` what we listen on for the peer, and ``carried`` the connections.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from ..errors import ChannelOpenError, LocalProtocolError, WireError
from ..messages import DirectTcpip
from ..session.channel import Channel
from ..session.opening import ChannelOpening
from ..session.requests import IncomingRequest
from ..session.services import ServiceActivation, SessionService
from ..trace import TraceId, TraceLevel
from ..wire import displayable
from . import payloads
from .asked import Asked
from .carried import FAILED, NOT_ALLOWED, Carried, describe, refuse
from .connecting import connect_tcp, connect_tcp_nowait, connect_unix
from .endpoints import Endpoint, TcpEndpoint
from .granted import Granted
from .lookups import Lookups
from .payloads import ForwardingOpen, Way
from .policy import ForwardingAction, ForwardingPolicy, ForwardingRequest
from .ports import ForwardedPort, Ports

if TYPE_CHECKING:
    from ..session.session import Session

__all__ = ["PortForwarding"]


class PortForwarding(SessionService):
    """Everything that a session forwards, in both directions; see :attr:`Session.forwarding`."""

    activations: ClassVar[tuple[ServiceActivation, ...]] = (
        *(ServiceActivation(channel_type=name) for name in payloads.CHANNEL_TYPES),
        *(ServiceActivation(session_request=name) for name in payloads.SESSION_REQUESTS),
    )

    def __init__(self, session: Session, config: Any = None) -> None:
        super().__init__(session, config)
        self._policy: ForwardingPolicy = config if config is not None else ForwardingPolicy()
        self._local = Ports(self.tell)
        self._remote = Ports(self.tell)
        self._lookups = Lookups(self.start_soon)
        self._granted = Granted(self, self._remote)
        self.asked: Asked = Asked(self._local)
        self.carried: Carried = Carried(self)

    @property
    def policy(self) -> ForwardingPolicy:
        """What the peer may ask of us."""
        return self._policy

    @property
    def local_ports(self) -> tuple[ForwardedPort, ...]:
        """The ports that the peer listens on at our request."""
        return self._local.snapshot

    @property
    def remote_ports(self) -> tuple[ForwardedPort, ...]:
        """The ports that we listen on at the peer's request."""
        return self._remote.snapshot

    def ports_of(self, port: ForwardedPort) -> Ports:
        """Return the collection that a port belongs to.

        :param port: a port that is or was forwarded
        """
        return self._remote if port.is_remote else self._local

    # Channels from the peer

    def on_channel_opening_nowait(self, opening: ChannelOpening) -> bool:
        """Connect to this machine at once, if the application need not be asked.

        :param opening: accepted or rejected here, unless that takes waiting
        """
        if opening.channel_type != DirectTcpip.channel_type or not self._policy.decides_at_once:
            return False
        try:
            arrival = payloads.read_opening(opening.channel_type, opening.payload)
        except WireError:
            return False
        endpoint = arrival.endpoint
        if not (isinstance(endpoint, TcpEndpoint) and self._policy.may_connect(endpoint)):
            return False
        may_use = self._policy.may_use_address
        try:
            stream = connect_tcp_nowait(endpoint, lambda address: may_use(endpoint, address))
        except OSError as error:
            refusal = self.carried.failure(endpoint, error)
            opening.reject_nowait(refusal.reason, refusal.description)
            return True
        if stream is None:
            return False
        self.carried.accept_nowait(opening, arrival, stream)
        return True

    async def on_channel_opening(self, opening: ChannelOpening) -> None:
        """Connect a channel to its endpoint, if the policy allows it or we have asked for it."""
        try:
            arrival = payloads.read_opening(opening.channel_type, opening.payload)
        except WireError as error:
            await opening.reject(FAILED, displayable(str(error)))
            self.trace_failure(TraceId.PORT_FORWARD_CHANNEL_INVALID, str(error))
            return
        try:
            if arrival.way is Way.DIRECT:
                await self._open_direct(opening, arrival)
            else:
                await self._open_forwarded(opening, arrival)
        except BaseException:
            await refuse(opening)
            raise

    async def _open_forwarded(self, opening: ChannelOpening, arrival: ForwardingOpen) -> None:
        listener = await self.asked.expected(arrival.endpoint)
        if listener is None:
            self.trace_failure(
                TraceId.PORT_FORWARD_CHANNEL_INVALID, f"{arrival.endpoint} was not asked for"
            )
            await opening.reject(FAILED, "Forwarding channel was not requested.")
        else:
            await listener.take(opening, arrival)

    async def _open_direct(self, opening: ChannelOpening, arrival: ForwardingOpen) -> None:
        await self.carried.carry_incoming(
            opening,
            arrival,
            lambda: self.connect_for_peer(arrival.endpoint, arrival.originator, arrival.extra),
            connecting=self._policy.connecting,
        )

    async def connect_for_peer(
        self, endpoint: Endpoint, originator: TcpEndpoint | None, extra: bytes = b""
    ) -> ByteStream:
        """Connect to an endpoint for the peer, if the policy allows it.

        :param endpoint: the target
        :param originator: where the peer says the connection comes from
        :param extra: data that the peer's application appended to the request
        :raises ChannelOpenError: the policy does not allow it, or the connection failed
        """
        request = ForwardingRequest(
            self.session, ForwardingAction.CONNECT, endpoint, originator, extra
        )
        if not (self._policy.may_connect(endpoint) and await self.decide(request)):
            self.trace_failure(TraceId.PORT_FORWARD_CHANNEL_OPEN_FAILED, f"{endpoint}: not allowed")
            raise ChannelOpenError(NOT_ALLOWED, "connecting there is not allowed")
        return await self.carried.connect(
            endpoint, lambda seconds: self._connect(endpoint, seconds)
        )

    async def decide(self, request: ForwardingRequest) -> bool:
        """Ask the application; an exception or a timeout counts as no.

        :param request: what the peer asks for
        """
        decide = self._policy.decide
        if decide is None:
            return True
        try:
            with anyio.fail_after(self.session.config.limits.handler_time):
                return await decide(request) is True
        except Exception as error:
            self.trace_failure(
                TraceId.PORT_FORWARD_REQUEST_INVALID, "deciding about forwarding failed", error
            )
            return False

    async def _connect(self, endpoint: Endpoint, seconds: float) -> ByteStream:
        """Connect for the peer, to addresses that it may use."""
        if self._policy.connector is not None:
            with anyio.fail_after(seconds):
                return await self._policy.connector(endpoint)
        if isinstance(endpoint, TcpEndpoint):
            may_use = self._policy.may_use_address
            look_up = self._lookups.addresses_of
            return await connect_tcp(
                endpoint, seconds, lambda address: may_use(endpoint, address), look_up
            )
        return await connect_unix(endpoint, seconds)

    # Ports that the peer asks us to listen on

    async def on_session_request(self, request: IncomingRequest) -> None:
        """Start or stop listening for the peer."""
        try:
            endpoint, extra = payloads.read_request(request.name, request.payload)
        except WireError as error:
            self.trace_failure(TraceId.PORT_FORWARD_REQUEST_INVALID, str(error))
            await request.reject()
            return
        if payloads.is_cancel_request(request.name):
            await self._granted.cancel(endpoint, request)
        else:
            await self._granted.grant(endpoint, extra, request)

    async def wait_for_port(self, port: int) -> ForwardedPort:
        """Wait until the peer has asked us to listen on a port.

        :raises SSHError: the session has ended
        """
        await anyio.lowlevel.checkpoint()
        found = await self._remote.wait_for(port)
        if found is None:
            raise (await self.session.wait_closed()).error.fresh()
        return found

    async def connect_to_port(self, port: int) -> Channel:
        """Open a channel to a port that the peer has asked us to listen on, without a socket.

        :raises LocalProtocolError: the peer has not asked for this port
        :raises ChannelOpenError: the peer refused
        """
        forwarded = self._remote.find(port)
        if forwarded is None or forwarded.remote is None:
            raise LocalProtocolError(f"Port {port} is not being forwarded.")
        channel = await self.open(Way.FORWARDED, forwarded.remote, None)
        describe(channel, local=forwarded.remote, remote=None)
        return channel

    # Opening channels

    async def open(self, way: Way, endpoint: Endpoint, originator: TcpEndpoint | None) -> Channel:
        """Open a forwarding channel.

        :raises ChannelOpenError: the peer refused, or could not connect
        :raises SSHError: the session has ended
        """
        channel_type, payload = payloads.channel_opening(way, endpoint, originator)
        try:
            return await self.session.open_channel(channel_type, payload=payload)
        except ChannelOpenError as error:
            # The client of a forwarded port only sees its connection end.
            self.trace_failure(
                TraceId.PORT_FORWARD_CHANNEL_OPEN_FAILED, f"{endpoint}: {error}", error
            )
            raise

    async def connect(self, remote: Endpoint) -> Channel:
        """Have the peer connect to an endpoint; see :meth:`Session.stream_to_remote_port`."""
        channel = await self.open(Way.DIRECT, remote, None)
        describe(channel, local=None, remote=remote)
        return channel

    def trace_failure(
        self, trace_id: TraceId, message: str, error: BaseException | None = None
    ) -> None:
        """Trace a failure.

        :param trace_id: the kind of failure
        :param message: what happened; may contain text from the peer
        :param error: the exception that caused it, if any
        """
        self.trace(trace_id, TraceLevel.WARNING, displayable(message), error)

    async def aclose(self) -> None:
        """Forget everything: the session has ended."""
        self._granted.forget()


def connect_for_us(endpoint: Endpoint, seconds: float) -> Awaitable[ByteStream]:
    """Connect to an endpoint that the application has named, without any checks."""
    if isinstance(endpoint, TcpEndpoint):
        return connect_tcp(endpoint, seconds)
    return connect_unix(endpoint, seconds)
