"""What a session keeps about its streams, to resume over another one without losing a byte.

Every message of the connection protocol is entered into the :class:`Journal` of its stream under
the number of its packet, and dropped once the peer's receipts cover it. When the stream is lost,
what is left is retransmitted in order over the next one, and entered there anew. In between,
:class:`~anyssh.protocol.offline.Offline` takes the place of the stream.

A server that answers a reconnect request resumes over the new stream, but cannot know whether its
answer arrives. If that stream is lost as well, the client may come back from either stream. So the
new journal keeps the old one until a receipt shows that the answer has arrived, and
:meth:`Continuity.follow` returns to it if that is where the client is. Both number their packets
from zero, so the client should say which stream it means. One that does not has most likely come
from the new stream, if its number is possible there: Dev Tunnels implementations give up a session
whose answer is lost.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ..constants import ReconnectFailureReason
from ..errors import ReconnectError
from ..keys import Key
from ..wire import Buffer
from .negotiation import Algorithms
from .rate import Bucket

__all__ = ["Continuity", "Entry", "Journal"]

Entry = tuple[int, float, bytes, Buffer]
"""A message: the number of its packet, when it was sent, and its two pieces."""

ENTRY_OVERHEAD: Final = 256
"""The overhead of an entry in bytes, so that the number of entries is bounded too."""
SMALL_BYTES: Final = 1024
"""Bodies up to this size are copied: a view is itself an object of some size."""
LARGEST_WHOLE: Final = 8
"""A larger view is kept if the object it shows part of is at most so many times its size."""
FAULTS: Final = 5
FAULT_INTERVAL: Final = 12.0
"""One corrupted packet in so many seconds is survived: five a minute."""


class Journal:
    """The messages of one stream that the peer may not have, oldest first.

    :param link_id: names the stream, if both sides support that
    :ivar unanswered: the last packet sent over a later stream that was lost before the answer came;
        -1 if there was none
    """

    __slots__ = (
        "_confirmed_by",
        "_entries",
        "_repeated",
        "acknowledged",
        "last_received",
        "last_sent",
        "link_id",
        "previous",
        "size",
        "unanswered",
    )

    def __init__(self, link_id: bytes) -> None:
        self.link_id: bytes = link_id
        self.size: int = 0
        self.acknowledged: int = -1
        self.last_sent: int = -1
        self.last_received: int = -1
        self.previous: Journal | None = None
        self.unanswered: int = -1
        self._confirmed_by = 0
        self._repeated = 0
        self._entries: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def enter(self, number: int, now: float, head: bytes, body: Buffer = b"") -> None:
        """Keep a message until its packet is acknowledged."""
        self._entries.append((number, now, head, _kept(body)))
        self.size += len(head) + len(body) + ENTRY_OVERHEAD

    def enter_unsent(self, now: float, head: bytes, body: Buffer = b"") -> None:
        """Keep a message that has no packet, as the stream is lost."""
        last = self._entries[-1][0] if self._entries else self.last_sent
        self.enter(max(last, self.last_sent) + 1, now, head, body)

    def acknowledge(self, number: int) -> float | None:
        """Drop entries up to a packet that the peer has; return when it was sent, if known."""
        self.acknowledged = number
        if self.previous is not None and number >= self._confirmed_by:
            self.previous = None
        entries = self._entries
        sent_at = None
        while entries and entries[0][0] <= number:
            last, time, head, body = entries.popleft()
            self.size -= len(head) + len(body) + ENTRY_OVERHEAD
            if last == number:
                sent_at = time
        return sent_at

    # After the stream is lost

    def end(self, last_sent: int, last_received: int) -> None:
        """Record the last packet numbers of the stream."""
        self.last_sent = last_sent
        self.last_received = last_received

    def fits(self, number: int) -> bool:
        """Whether this can be the last packet that the peer received."""
        return self.acknowledged <= number <= self.last_sent

    def was_confirmed(self, number: int) -> bool:
        """Whether a peer that received this packet last has also received the confirmation."""
        return self._confirmed_by <= number <= self.last_sent

    def missing(self, number: int) -> list[Entry]:
        """Return what a peer lacks that received this packet last."""
        self.acknowledge(number)
        return list(self._entries)

    def continues(self, previous: Journal, *, repeated: int, confirmed_by: int) -> None:
        """Keep the previous journal until the peer shows that it has followed.

        :param repeated: how many of the first entries come from there
        :param confirmed_by: the packet whose receipt shows it
        """
        self.previous = previous
        previous.previous = None
        self._repeated = repeated
        self._confirmed_by = confirmed_by

    def take_back(self, successor: Journal) -> None:
        """Take over what was sent since, over a stream that the peer knows nothing of."""
        for _, time, head, body in list(successor._entries)[successor._repeated :]:
            self.enter_unsent(time, head, body)


class Continuity:
    """What identifies a session across all of its streams.

    :ivar session_id: the session id of the very first key exchange
    :ivar host_key: the key that every later stream must present; known to clients
    :ivar algorithms: the algorithms that later streams must not fall short of
    :ivar journal: the journal of the present or last stream
    :ivar attempts: on a client, how often it has asked to resume; on a server, the last such
        attempt that it granted
    """

    __slots__ = ("_faults", "algorithms", "attempts", "host_key", "journal", "session_id")

    def __init__(
        self, session_id: bytes, host_key: Key | None, algorithms: Algorithms, journal: Journal
    ) -> None:
        self.session_id: bytes = session_id
        self.host_key: Key | None = host_key
        self.algorithms: Algorithms = algorithms
        self.journal: Journal = journal
        self.attempts: int = 0
        self._faults = Bucket(FAULTS, 1 / FAULT_INTERVAL)

    def survives_fault(self, now: float) -> bool:
        """Tell whether a corrupted packet costs only the stream, and not the session."""
        return self._faults.take(1, now)

    def follow(self, link_id: bytes, number: int) -> Journal:
        """Return the journal of the stream that the peer comes from.

        :param link_id: the stream's name; empty if the peer sends none
        :param number: the last packet that the peer received there
        :raises ReconnectError: no stream of the session fits
        """
        journal, previous = self.journal, self.journal.previous
        if previous is not None and (
            link_id == previous.link_id if link_id else not journal.was_confirmed(number)
        ):
            journal = previous
        if (link_id and link_id != journal.link_id) or not journal.fits(number):
            raise ReconnectError(
                ReconnectFailureReason.SERVER_DROPPED_MESSAGES,
                f"packet {number} cannot be the last one received; "
                f"expected one from {journal.acknowledged} to {journal.last_sent}",
            )
        if journal is not self.journal:
            journal.take_back(self.journal)
            self.journal = journal
        return journal


def _kept(body: Buffer) -> Buffer:
    """Return an immutable body that does not retain much more memory than its own size.

    Most bodies are views of bytes that the sender passed in, which need no copy. But a peer that
    accepts one byte of each must not make us retain all of them.
    """
    if type(body) is memoryview and len(body) > SMALL_BYTES:
        whole = body.obj
        if type(whole) is bytes and len(whole) <= LARGEST_WHOLE * len(body):
            return body
    return bytes(body)
