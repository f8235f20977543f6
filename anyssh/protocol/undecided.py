"""The peer's undecided requests and opens, bounded over a whole session.

The requests of one channel are a :class:`~anyssh.protocol.channel.RequestLine`; this counts what
all of them hold, and the channels that the peer asks to open. The payload of an open is kept as
long as its channel is open, and counts to the end.
"""

from __future__ import annotations

from collections.abc import Collection

from ..config import Limits
from ..errors import RemoteProtocolError
from .channel import PendingRequest, RequestLine

__all__ = ["Undecided"]


class Undecided:
    """Opens and requests of the peer that are kept for the application.

    :param service_requests: names of global requests that services answer
    :ivar opens: the number of undecided opens
    :ivar kept_bytes: bytes of the payloads of opens and requests
    :ivar accepted_bytes: bytes of the payloads with which the peer has opened channels
    :ivar answers_waiting: answers that are waiting for an earlier one
    """

    __slots__ = (
        "_limits",
        "_service_requests",
        "accepted_bytes",
        "answers_waiting",
        "kept_bytes",
        "opens",
    )

    def __init__(self, limits: Limits, service_requests: Collection[str]) -> None:
        self._limits = limits
        self._service_requests = service_requests
        self.opens: int = 0
        self.kept_bytes: int = 0
        self.accepted_bytes: int = 0
        self.answers_waiting: int = 0

    # Opens

    def has_room_for_open(self, size: int) -> bool:
        """Whether one more open can be kept, with a payload of ``size`` bytes."""
        limits = self._limits
        return (
            self.opens < limits.unaccepted_channels
            and self.kept_bytes + size <= limits.waiting_bytes
            and self.accepted_bytes + self.kept_bytes + size <= limits.receive_memory
        )

    def keep_open(self, size: int) -> None:
        """Count one more open."""
        self.opens += 1
        self.kept_bytes += size

    def forget_open(self, size: int) -> None:
        """Stop counting an open."""
        self.opens -= 1
        self.kept_bytes -= size

    def accept_open(self, size: int) -> None:
        """Count an open as that of an open channel from now on."""
        self.forget_open(size)
        self.accepted_bytes += size

    def forget_accepted(self, size: int) -> None:
        """Stop counting the open of a channel that is open no more."""
        self.accepted_bytes -= size

    # Requests

    def has_room_for(self, line: RequestLine, request: PendingRequest) -> bool:
        """Whether a request can be kept for the application."""
        limits = self._limits
        # Services answer by themselves, and peers send them many requests at once.
        is_for_service = request.channel is None and request.name in self._service_requests
        bound = limits.service_requests if is_for_service else limits.requests
        return (
            line.undecided < bound
            and self.kept_bytes + len(request.payload) <= limits.waiting_bytes
        )

    def append(self, line: RequestLine, request: PendingRequest, channel_count: int) -> None:
        """Append a request to its line.

        :param channel_count: the number of channels, each of which has a line of its own
        :raises RemoteProtocolError: too many answers are waiting behind undecided requests
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
        """Decide a request of a line; return the requests whose answers may be sent now.

        :raises LocalProtocolError: it was already decided
        """
        size, waiting = line.size, line.answers_waiting
        ready = line.decide(request, is_success, payload)
        self.kept_bytes += line.size - size
        self.answers_waiting += line.answers_waiting - waiting
        return ready

    def clear(self, line: RequestLine) -> None:
        """Forget the requests of a line; they need no answers any more."""
        self.kept_bytes -= line.size
        self.answers_waiting -= line.answers_waiting
        line.clear()
