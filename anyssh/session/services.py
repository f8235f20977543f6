"""Services: components of a session that handle certain requests and channels.

An application registers services when it creates a session: classes derived from
:class:`SessionService`, each with an optional configuration. A class declares in
:attr:`~SessionService.activations` which requests and channels it handles. The first of these to
arrive creates the session's single instance; it receives that one and all later ones, which then
reach neither ``incoming_channels()`` nor ``requests()``. The tasks of a service end with the
session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from logging import Logger, getLogger
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, TypeVarTuple, cast

import anyio
from anyio.abc import TaskGroup

from ..constants import ChannelOpenFailureReason
from ..errors import LocalProtocolError, SSHError
from ..protocol.channel import PendingRequest
from ..trace import TraceId, TraceLevel
from ._waiting import Notice
from .channel import Channel
from .errors import handle_failure
from .events import ServiceActivated, SessionEvent
from .opening import ChannelOpening
from .requests import IncomingRequest, size_of

if TYPE_CHECKING:
    from .session import Session

__all__ = ["ServiceActivation", "ServiceHost", "SessionService"]

logger: Logger = getLogger("anyssh")

Arguments = TypeVarTuple("Arguments")
ServiceT = TypeVar("ServiceT", bound="SessionService")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceActivation:
    """One kind of request or channel that a service handles. Name exactly one, or the last two.

    :ivar service_request: a service that clients request from a server (RFC 4253 section 10)
    :ivar session_request: a global request
    :ivar channel_type: channels of this type that the peer opens
    :ivar channel_request: a channel request, limited to ``channel_type`` if that is given too
    :raises ValueError: any other combination was named
    """

    service_request: str | None = None
    session_request: str | None = None
    channel_type: str | None = None
    channel_request: str | None = None

    def __post_init__(self) -> None:
        names = [self.service_request, self.session_request, self.channel_type]
        names.append(self.channel_request)
        given = [name for name in names if name]
        pair = self.channel_type and self.channel_request
        if len(given) != (2 if pair else 1) or "" in names:
            raise ValueError("an activation names one kind of request or a channel type")


class SessionService:
    """The base class of services; one instance serves one session.

    The ``on_…`` methods are called with what the activations name. An exception in one of them
    refuses what it was called with, and is logged; the session continues.

    :cvar activations: the requests and channels that the service handles
    :ivar session: the session that it serves
    :ivar config: the configuration that it was registered with, or None
    """

    activations: ClassVar[Sequence[ServiceActivation]] = ()

    def __init__(self, session: Session, config: Any = None) -> None:
        self.session = session
        self.config = config
        self._scope = anyio.CancelScope()
        self._tasks: TaskGroup | None = None
        self._starts_tasks = True
        self._early: list[tuple[Callable[..., Awaitable[object]], tuple[Any, ...]]] = []
        self._requests: deque[Callable[[], Awaitable[None]]] = deque()
        self._request_came = Notice()

    def start_soon(
        self,
        function: Callable[[*Arguments], Awaitable[object]],
        *arguments: *Arguments,
    ) -> None:
        """Run a function in a task of the service. An exception in it is logged.

        The task is cancelled when the session has ended.

        :param function: an async callable, called with ``arguments``
        :raises SSHError: the session has ended, or was cancelled
        """
        self.session._require_alive()
        self._start_task(function, *arguments)

    def _start_task(
        self,
        function: Callable[[*Arguments], Awaitable[object]],
        *arguments: *Arguments,
    ) -> None:
        if not self._starts_tasks:
            raise LocalProtocolError("the session was cancelled: no task can be started")
        if self._tasks is None:
            self._early.append((function, arguments))
        else:
            self._tasks.start_soon(self._contain, function, arguments)

    def tell(self, event: SessionEvent) -> None:
        """Report an event to the application, through :meth:`Session.events`.

        :param event: the event
        """
        self.session._events.put(event)

    @property
    def is_traced(self) -> bool:
        """Whether the session has a handler for :meth:`trace`."""
        return self.session._trace_handler is not None

    def trace(
        self,
        trace_id: TraceId,
        level: TraceLevel,
        message: str,
        error: BaseException | None = None,
    ) -> None:
        """Emit a trace event of the session, for diagnosis.

        :param trace_id: the kind of event
        :param level: its severity
        :param message: one line of text, safe to display
        :param error: the exception that caused it, if any
        """
        self.session._trace(trace_id, level, message, error)

    async def on_session_request(self, request: IncomingRequest) -> None:
        """Answer a global request.

        Called with one request at a time, in order: a slow answer delays those behind it, whose
        answers could not be sent earlier anyway.

        :param request: to be accepted or rejected
        """
        await request.reject()

    async def on_channel_request(self, channel: Channel, request: IncomingRequest) -> None:
        """Answer a channel request; called in order with global requests.

        :param channel: the channel that the request arrived on
        :param request: to be accepted or rejected
        """
        await request.reject()

    def on_channel_opening_nowait(self, opening: ChannelOpening) -> bool:
        """Accept or reject a channel at once; return whether that was done.

        Called before :meth:`on_channel_opening`, and in place of it if it returns True. The
        session's reader waits for this method, so it must not take long.

        :param opening: to be accepted or rejected, or left alone
        """
        return False

    async def on_channel_opening(self, opening: ChannelOpening) -> None:
        """Accept or reject a channel not handled at once; called in a task of its own.

        :param opening: to be accepted or rejected
        """
        await opening.reject()

    async def aclose(self) -> None:
        """Release the service's resources; called once, after its tasks have ended.

        Shielded from cancellation, for at most :attr:`Limits.close_time`.
        """

    # Lifecycle, controlled by the host

    async def _run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks
                    for function, arguments in self._early:
                        tasks.start_soon(self._contain, function, arguments)
                    self._early.clear()
                    try:
                        await self._answer_requests()
                    finally:  # a cancelled session may not have told its body yet
                        self._starts_tasks = False
        finally:
            limit = self.session.config.limits.close_time
            with anyio.move_on_after(limit, shield=True):
                await self._contain(self.aclose, ())

    async def _answer_requests(self) -> None:
        while True:
            while not self._requests:
                await self._request_came.wait()
            await self._requests.popleft()()

    async def _contain(
        self, function: Callable[..., Awaitable[object]], arguments: tuple[Any, ...]
    ) -> None:
        try:
            await function(*arguments)
        except BaseException as error:
            if not handle_failure(error, self._task_failed):
                raise

    def _task_failed(self, error: Exception) -> None:
        if isinstance(error, SSHError):
            logger.debug("%r: %r", self, error)
        else:
            logger.error("a task of %r failed", self, exc_info=error)

    def _take_request(self, request: IncomingRequest, channel: Channel | None) -> None:
        size = size_of(request._pending)
        if channel is not None:
            channel._size_at_services += size

        async def answer() -> None:
            if channel is not None:
                channel._size_at_services -= size
            try:
                if channel is None:
                    await self.on_session_request(request)
                else:
                    await self.on_channel_request(channel, request)
            except BaseException as error:
                what = f"the request {request.name!r}"
                if not handle_failure(error, partial(self._hook_failed, what)):
                    raise
                await self._refuse(request.reject)

        self._requests.append(answer)
        self._request_came.notify()

    def _receive_opening(self, opening: ChannelOpening) -> None:
        try:
            if not self.on_channel_opening_nowait(opening):
                self._start_task(self._take_opening, opening)
        except Exception as error:
            self._hook_failed(repr(opening), error)
            with suppress(SSHError):  # it was already answered, or the session has ended
                opening.reject_nowait(ChannelOpenFailureReason.CONNECT_FAILED, "internal error")

    async def _take_opening(self, opening: ChannelOpening) -> None:
        opening._set_handled(True)
        try:
            await self.on_channel_opening(opening)
        except BaseException as error:
            if not handle_failure(error, partial(self._hook_failed, repr(opening))):
                raise
            reason = ChannelOpenFailureReason.CONNECT_FAILED
            await self._refuse(opening.reject, reason, "internal error")
        finally:
            opening._set_handled(False)

    def _hook_failed(self, what: str, error: Exception) -> None:
        if isinstance(error, SSHError):
            logger.debug("%r could not handle %s: %r", self, what, error)
        else:
            logger.error("%r failed at %s", self, what, exc_info=error)

    async def _refuse(self, reject: Callable[..., Awaitable[None]], *reason: Any) -> None:
        try:
            await reject(*reason)
        except SSHError:
            return  # it was already answered, or the session has ended

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.session!r}>"


Kinds = tuple[type[SessionService], ...]


class _Responsible:
    """Which services handle what; those registered earlier have precedence.

    The lookup tables are shared between sessions that register the same services.
    """

    def __init__(self, kinds: Kinds) -> None:
        self.kinds = kinds
        self.for_service_requests: dict[str, Kinds] = {}
        self.for_session_requests: dict[str, Kinds] = {}
        self.for_channel_types: dict[str, Kinds] = {}
        for kind in kinds:
            for rule in kind.activations:
                _add(self.for_service_requests, rule.service_request, kind)
                _add(self.for_session_requests, rule.session_request, kind)
                if rule.channel_request is None:
                    _add(self.for_channel_types, rule.channel_type, kind)

    def for_channel_request(self, name: str, channel_type: str) -> Kinds:
        return tuple(
            kind
            for kind in self.kinds
            if any(
                rule.channel_request == name and rule.channel_type in (None, channel_type)
                for rule in kind.activations
            )
        )


def _add(table: dict[str, Kinds], name: str | None, kind: type[SessionService]) -> None:
    if name is not None:
        table[name] = (*table.get(name, ()), kind)


_responsible: Final = lru_cache(maxsize=16)(_Responsible)


class ServiceHost:
    """Creates the services of one session on demand, and ends them with it."""

    __slots__ = ("_active", "_registered", "_responsible")

    def __init__(self, registered: Mapping[type[SessionService], Any]) -> None:
        for kind in registered:
            if not issubclass(kind, SessionService):
                raise TypeError(f"expected classes derived from SessionService, got {kind!r}")
        self._registered = dict(registered)
        self._active: dict[type[SessionService], SessionService] = {}
        self._responsible = _responsible(tuple(registered))

    @property
    def active(self) -> tuple[SessionService, ...]:
        """The services activated so far."""
        return tuple(self._active.values())

    def activate(self, kind: type[ServiceT], session: Session) -> ServiceT:
        """Return a service, creating it on first use.

        :raises LocalProtocolError: it is not registered
        """
        service = self._active.get(kind)
        if service is None:
            if kind not in self._registered:
                raise LocalProtocolError(
                    f"{kind.__name__} is not among the services of this session; register it "
                    "with services={…} when the session is made"
                )
            service = self._active[kind] = kind(session, self._registered[kind])
            session._services.start_soon(service._run)
            session._events.put(ServiceActivated(service))
        return cast("ServiceT", service)

    def take_opening(self, opening: ChannelOpening, session: Session) -> bool:
        """Pass a channel to the service that handles it; return whether there is one."""
        kinds = self._responsible.for_channel_types.get(opening.channel_type, ())
        service = self._first(kinds, session)
        if service is not None:
            service._receive_opening(opening)
        return service is not None

    def take_session_request(self, pending: PendingRequest, session: Session) -> bool:
        """Pass a global request to the service that handles it; return whether there is one."""
        kinds = self._responsible.for_session_requests.get(pending.name, ())
        service = self._first(kinds, session)
        if service is not None:
            service._take_request(IncomingRequest(session, pending), None)
        return service is not None

    def take_channel_request(
        self, channel: Channel, pending: PendingRequest, session: Session
    ) -> bool:
        """Pass a channel request to the service that handles it; return whether there is one."""
        kinds = self._responsible.for_channel_request(pending.name, channel.channel_type)
        service = self._first(kinds, session)
        if service is not None:
            service._take_request(IncomingRequest(session, pending), channel)
        return service is not None

    @property
    def session_requests(self) -> Collection[str]:
        """The global requests that services handle."""
        return self._responsible.for_session_requests

    @property
    def service_requests(self) -> Collection[str]:
        """The services that a client may request."""
        return self._responsible.for_service_requests

    def take_service_request(self, name: str, session: Session) -> None:
        """Activate the service that a client has requested."""
        self._first(self._responsible.for_service_requests.get(name, ()), session)

    def end(self) -> None:
        """Cancel all tasks of services: the session has ended."""
        for service in self._active.values():
            service._scope.cancel()

    def _first(self, kinds: Kinds, session: Session) -> SessionService | None:
        """Return the first service that can be created."""
        for kind in kinds:
            try:
                return self.activate(kind, session)
            except Exception:
                logger.exception("the service %s cannot be made", kind.__name__)
        return None
