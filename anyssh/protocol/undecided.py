"""What the peer has asked and the application has not decided, bounded over a whole session.

One channel's requests are a :class:`~anyssh.protocol.channel.RequestLine`; how much all of them
may hold, and the channels that the peer wants to open, is counted here.
"""

from __future__ import annotations

from collections.abc import Collection

from ..config import Limits
from ..errors import RemoteProtocolError
from .channel import PendingRequest, RequestLine

__all__ = ["Undecided"]


class Undecided:
    """Opens and requests of the peer that are kept for the application.

    :param service_requests: names of session requests that services answer
    :ivar opens: how many channels the peer wants to open
    :ivar kept_bytes: payloads of these and of requests
    :ivar answers_waiting: answers that were given and have to wait for one before them
    """

    __slots__ = ("_limits", "_service_requests", "answers_waiting", "kept_bytes", "opens")

    def __init__(self, limits: Limits, service_requests: Collection[str]) -> None:
        self._limits = limits
        self._service_requests = service_requests
        self.opens: int = 0
        self.kept_bytes: int = 0
        self.answers_waiting: int = 0

    # Channels that the peer wants to open

    def has_room_for_open(self, size: int) -> bool:
        """Whether one more can be kept, with a payload of so many bytes."""
        limits = self._limits
        return (
            self.opens < limits.unaccepted_channels
            and self.kept_bytes + size <= limits.waiting_bytes
        )

    def keep_open(self, size: int) -> None:
        """Count one more."""
        self.opens += 1
        self.kept_bytes += size

    def forget_open(self, size: int) -> None:
        """Count one that was kept no longer."""
        self.opens -= 1
        self.kept_bytes -= size

    # Requests

    def has_room_for(self, line: RequestLine, request: PendingRequest) -> bool:
        """Whether a request can be kept for the application."""
        limits = self._limits
        # Services answer by themselves, and peers ask them for much at once.
        is_for_service = request.channel is None and request.name in self._service_requests
        bound = limits.service_requests if is_for_service else limits.requests
        return (
            line.undecided < bound
            and self.kept_bytes + len(request.payload) <= limits.waiting_bytes
        )

    def append(self, line: RequestLine, request: PendingRequest, channel_count: int) -> None:
        """Add a request to its line.

        :param channel_count: how many channels there are, each with a line of its own
        :raises RemoteProtocolError: too many answers pile up behind those that are not decided
        """
        limits = self._limits
        most = limits.noise_messages + limits.requests * channel_count
        if len(line) >= limits.noise_messages or self.answers_waiting >= most:
            waiting = max(len(line), self.answers_waiting)
            raise RemoteProtocolError(f"{waiting} requests of the peer wait for answers")
        line.append(request)
        self.kept_bytes += len(request.payload)

    def decide(
        self, line: RequestLine, request: PendingRequest, is_success: bool, payload: bytes
    ) -> list[PendingRequest]:
        """Decide a request of a line; return the requests whose answers may leave now.

        :raises LocalProtocolError: it was decided before
        """
        size, waiting = line.size, line.answers_waiting
        ready = line.decide(request, is_success, payload)
        self.kept_bytes += line.size - size
        self.answers_waiting += line.answers_waiting - waiting
        return ready

    def clear(self, line: RequestLine) -> None:
        """Forget the requests of a line; their answers have nowhere to go."""
        self.kept_bytes -= line.size
        self.answers_waiting -= line.answers_waiting
        line.clear()
