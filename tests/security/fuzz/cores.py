"""Targets that play a script to a client or a server in one phase: T-70 (c) and (d).

The far end of the core is a :class:`~tests.protocol.scripted_peer.ScriptedPeer`, so payloads reach
the core as they would from a peer that has the keys. What the core must never do, whatever arrives:

* raise anything, except for our own misuse of it;
* report channels or requests before anyone is authenticated;
* report anything after its end, or end for any other reason than an error of ours;
* send much more than it received;
* wait for a time that is past.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from anyssh.config import RECONNECT_EXTENSIONS, Limits
from anyssh.errors import ReconnectError, SSHError
from anyssh.messages import ExitStatus
from anyssh.protocol import Phase, Role
from anyssh.protocol.authentication import Challenge, KeyboardInteractiveAttempt, Prompt
from anyssh.protocol.channel import ChannelState, PendingRequest
from anyssh.protocol.client_authentication import ClientAuthentication
from anyssh.protocol.events import (
    AttemptMade,
    Authenticated,
    ChallengeReceived,
    ChannelClosed,
    ChannelDataReceived,
    ChannelEofReceived,
    ChannelExtendedDataReceived,
    ChannelOpened,
    ChannelOpenFailed,
    ChannelOpenReceived,
    ChannelRequestReceived,
    ChannelWritable,
    ConnectionTerminated,
    Event,
    GlobalRequestReceived,
    ReconnectRequested,
    ReplyReceived,
    RoomMade,
    SessionResumed,
)
from anyssh.protocol.journal import Continuity
from tests.protocol.core_pair import CLIENT, SERVER, Answers, CorePair, host_key, running_pair
from tests.protocol.reconnect_pair import reconnect_config
from tests.protocol.scripted_peer import SCRIPT, ScriptedPeer

from .oracle import KIBIBYTE, Finding, Target
from .scripts import Kind, Script, Step

__all__ = ["TARGETS", "Player", "Start", "play", "recorded_payloads"]

NAMES: Final = tuple(SCRIPT)
ANSWER_BYTES: Final = 64 * KIBIBYTE
"""What a core may say besides what it was made to."""
ANSWER_PER_BYTE: Final = 64
DEV_TUNNELS: Final = "SSH-2.0-dev-tunnels-ssh_3.12.42"
LIMITS: Final = Limits(channels=16, requests=8, unaccepted_channels=4, authentication_failures=3)
AFTER_AUTHENTICATION: Final = (
    ChannelClosed,
    ChannelDataReceived,
    ChannelEofReceived,
    ChannelExtendedDataReceived,
    ChannelOpenFailed,
    ChannelOpenReceived,
    ChannelOpened,
    ChannelRequestReceived,
    GlobalRequestReceived,
    ReplyReceived,
)
WITHOUT_STREAM: Final = (ChannelWritable, ConnectionTerminated, RoomMade)
"""What a session can be told that has lost its stream and waits for another."""


class Start:
    """Where a script begins.

    :param phase: in which phase
    :param messages: what the peer has sent before that, by name
    """

    def __init__(self, receiver: Role, phase: str, messages: Iterable[str]) -> None:
        self.receiver = receiver
        self.phase = phase
        self.messages = tuple(messages)

    @property
    def name(self) -> str:
        """The target's name."""
        return f"{self.receiver.name.lower()}-{self.phase}"


class _Peer(ScriptedPeer):
    """A peer that goes on talking when it cannot understand the core any more."""

    def _listen(self) -> None:
        self.output = getattr(self, "output", 0)
        data = self.core.data_to_send(self.now)
        self.output += len(data)
        if getattr(self, "is_deaf", False):
            return
        transport = self.transport
        transport.feed(data)
        try:
            if transport.peer_version is None and transport.read_greeting() is None:
                return
            while (payload := transport.next_payload()) is not None:
                self._hear(bytes(payload))
        except (SSHError, AssertionError):
            # It was made to send something that it did not mean, and so has other keys.
            self.is_deaf = True

    def deliver(self) -> None:
        events = self.core.receive_data(self.transport.take_output(), self.now)
        while self.core.has_backlog:
            events += self.core.receive_data(b"", self.now)
        self.take(events)

    def take(self, events: list[Event]) -> None:
        """Let the application have events, and answer."""
        while events:
            for event in events:
                self.events.append(event)
                self.answers.answer(event, self.connection, self.now)
                if type(event).__name__ == "KeyExchangeCompleted" and event.is_initial:  # type: ignore[attr-defined]
                    self._let_authenticate()
            events = self.core.poll_events()
        self._listen()


def _attempt(event: AttemptMade, now: float) -> None:
    """Let passwords in, ask whoever wants to be asked, refuse the others."""
    match event.attempt:
        case KeyboardInteractiveAttempt(round=0 | 1):
            event.challenge(Challenge(prompts=[Prompt("?"), Prompt("!", True)]), now)
        case attempt if attempt.method == "password" or attempt.method == "publickey":
            event.accept("principal", now)
        case _:
            event.reject(now)


def _refuse(event: ReconnectRequested, connection: object, now: float) -> None:
    if event.proves(b"?" * 32):
        raise Finding("somebody knows a session that does not exist")
    event.reject(ReconnectError(2, "no such session"), now)


REQUESTS: Final[tuple[Callable[[ClientAuthentication], None], ...]] = (
    lambda client: client.request_password("alice", "wonderland"),
    lambda client: client.query_key("alice", host_key(), "ssh-ed25519"),
    lambda client: client.request_interactive("alice"),
    lambda client: client.request_none("alice"),
)


class Player:
    """A core, its peer, and the application that the script speaks for.

    The options of a script are bits: whether the peer announces strict key exchange, is of the Dev
    Tunnels family, guesses; whether reconnecting is known; whether the application answers what it
    is asked; and how a client begins to authenticate.
    """

    def __init__(self, receiver: Role, options: int, continuity: Continuity | None = None) -> None:
        self.receiver = receiver
        answers = Answers(attempt=_attempt, reconnect=_refuse)
        if options & 8:
            answers = replace(answers, accept_channels=None, grant_requests=None, consume=False)
        self.request = REQUESTS[options >> 5 & 3]
        self.peer = _Peer(
            receiver,
            strict=not options & 1,
            identification=DEV_TUNNELS if options & 2 else "SSH-2.0-peer_1.0",
            answers=answers,
            authenticate=None if continuity is not None else self.request,
            continuity=continuity,
            extensions=RECONNECT_EXTENSIONS if options & 4 else ("server-sig-algs",),
            limits=LIMITS,
            window_size=4096,
            max_packet_size=2048,
            keep_alive_interval=20.0,
        )
        self.peer.guesses = bool(options & 16)
        self.peer.greet()
        self.input = 0

    @property
    def core(self) -> Any:
        """The core under test."""
        return self.peer.core

    def send(self, *names: str) -> None:
        """Let the peer send messages by their names."""
        for name in names:
            self.peer.send(name)

    def do(self, step: Step) -> None:
        """Do one step."""
        kind, body = step
        self.input += len(body) + 64
        match kind:
            case Kind.PAYLOAD if body:
                self.peer.send_payload(body)
            case Kind.NAMED:
                self._send_named(body)
            case Kind.ACTION:
                self._act(body)
            case Kind.TIME:
                self._wait(int.from_bytes(body[:2], "big") / 8)
            case Kind.RAW:
                self.peer.take(self.core.receive_data(body, self.peer.now))

    def _send_named(self, body: bytes) -> None:
        name = NAMES[(body[0] if body else 0) % len(NAMES)]
        try:
            self.peer.send(name)
        except (AssertionError, ValueError):
            self.peer.is_deaf = True  # what it heard before was not what it thinks
        except SSHError:
            self.peer.is_deaf = True

    def _wait(self, seconds: float) -> None:
        self.peer.now += seconds
        deadline = self.core.next_deadline()
        for _ in range(64):
            if deadline is None or deadline > self.peer.now:
                return
            self.peer.take(self.core.handle_timeout(self.peer.now))
            deadline = self.core.next_deadline()
        raise Finding(f"it is {self.peer.now}, and the core waits for {deadline}")

    # The application

    def _act(self, body: bytes) -> None:
        """Do something to the connection, which it may refuse."""
        number, pick = body[:2].ljust(2, b"\0")
        action = ACTIONS[number % len(ACTIONS)]
        try:
            action(self, pick, body[2:])
        except SSHError:
            return  # so it was no time for that
        finally:
            self.peer.take(self.core.poll_events())

    def pick(self, number: int, kind: type[Event], attribute: str) -> Any:
        """Return what an event of one kind told of."""
        found = [getattr(event, attribute) for event in self.peer.events if isinstance(event, kind)]
        if not found:
            raise SSHError("there is none")
        return found[number % len(found)]

    def channel(self, number: int) -> ChannelState:
        """Return a channel that exists, or did."""
        known = [
            event.channel
            for event in self.peer.events
            if isinstance(event, ChannelOpenReceived | ChannelOpened)
        ]
        if not known:
            raise SSHError("there is no channel")
        return known[number % len(known)]

    def asked(self, number: int) -> PendingRequest:
        """Return a request of the peer."""
        kinds = ChannelRequestReceived | GlobalRequestReceived
        known = [event.request for event in self.peer.events if isinstance(event, kinds)]
        if not known:
            raise SSHError("nothing was asked")
        return known[number % len(known)]

    def respond(self, number: int) -> None:
        """Answer a challenge."""
        challenge = self.pick(number, ChallengeReceived, "challenge")
        self.core.client_authentication.respond(("answer",) * len(challenge.prompts))

    # The verdict

    def check(self) -> None:
        """Hold what happened against what may happen.

        :raises Finding: the core did something else
        """
        self._check_events()
        transport = self.core.transport
        allowed = ANSWER_BYTES + ANSWER_PER_BYTE * self.input
        if getattr(self.peer, "output", 0) > allowed:
            raise Finding(f"{self.input} bytes made the core send {self.peer.output}")
        if transport.unread > 2 * 262_144 + 65_536:
            raise Finding(f"{transport.unread} bytes are kept unread")
        deadline = self.core.next_deadline()
        if deadline is not None and self.core.phase is Phase.TERMINATED:
            raise Finding("what has ended waits for something")

    def _check_events(self) -> None:
        is_authenticated = has_ended = is_survived = False
        for event in self.peer.events:
            if has_ended and not (is_survived and isinstance(event, WITHOUT_STREAM)):
                raise Finding(f"{event!r} after the end")
            if isinstance(event, AFTER_AUTHENTICATION) and not is_authenticated:
                raise Finding(f"{event!r} before anybody is authenticated")
            if isinstance(event, Authenticated | SessionResumed):
                is_authenticated = True
            if isinstance(event, ConnectionTerminated):
                has_ended, is_survived = True, event.is_survivable
                if event.error is not None and not isinstance(event.error, SSHError):
                    raise Finding(f"{event.error!r} is no error of ours")
                str(event.error)
            repr(event)
        if has_ended != (self.core.phase is Phase.TERMINATED):
            raise Finding("the end was not told")


def _send(player: Player, pick: int, data: bytes) -> None:
    player.peer.connection.send_data(player.channel(pick), memoryview(data))


def _close(player: Player, pick: int, data: bytes) -> None:
    player.peer.connection.close(player.channel(pick), exit_status=len(data))


def _consume(player: Player, pick: int, data: bytes) -> None:
    channel = player.channel(pick)
    window = channel.receive_window
    unread = window.limit - window.remaining - window._consumed
    player.peer.connection.consume(channel, max(0, min(unread, len(data) * 64)))


ACTIONS: Final[tuple[Callable[[Player, int, bytes], object], ...]] = (
    lambda player, pick, data: player.peer.connection.open_channel("session", data),
    _send,
    lambda player, pick, data: player.peer.connection.send_eof(player.channel(pick)),
    _close,
    lambda player, pick, data: player.peer.connection.request_channel(
        player.channel(pick), "exec", data, want_reply=bool(pick & 1)
    ),
    lambda player, pick, data: player.peer.connection.request_global(
        "ask@example.com", data, want_reply=bool(pick & 1)
    ),
    _consume,
    lambda player, pick, data: player.peer.connection.accept_channel(player.channel(pick)),
    lambda player, pick, data: player.peer.connection.reject_channel(player.channel(pick), 1, "no"),
    lambda player, pick, data: player.peer.connection.answer(player.asked(pick), bool(data), data),
    lambda player, pick, data: player.core.start_rekey(player.peer.now),
    lambda player, pick, data: player.peer.connection.send_extended_data(
        player.channel(pick), 1, memoryview(data)
    ),
    lambda player, pick, data: player.peer.connection.abandon_open(player.channel(pick)),
    lambda player, pick, data: player.peer.connection.stop_sending(player.channel(pick)),
    lambda player, pick, data: player.core.request_service("ssh-connection"),
    lambda player, pick, data: REQUESTS[pick % len(REQUESTS)](player.core.client_authentication),
    lambda player, pick, data: player.respond(pick),
    lambda player, pick, data: player.peer.take(player.core.receive_eof(player.peer.now)),
    lambda player, pick, data: player.core.disconnect(pick, "bye"),
)


def play(player: Player, script: Script) -> Callable[[], None]:
    """Return what plays a script's steps and passes the verdict."""

    def run() -> None:
        for step in script.steps:
            player.do(step)
        player.check()

    return run


# The phases


def starts() -> Iterator[Start]:
    """Yield where scripts begin: each phase, for each role."""
    for role in Role:
        share = "KEXDH_INIT" if role is SERVER else "KEXDH_REPLY"
        exchange = ("KEXINIT", share, "NEWKEYS")
        asked = (*exchange, "SERVICE_REQUEST" if role is SERVER else "SERVICE_ACCEPT")
        running = (*asked, "USERAUTH_REQUEST" if role is SERVER else "USERAUTH_SUCCESS")
        yield Start(role, "key-exchange", ())
        yield Start(role, "encrypted", exchange)
        yield Start(role, "authentication", asked)
        yield Start(role, "running", (*running, "CHANNEL_OPEN"))
        yield Start(role, "rekeying", (*running, "CHANNEL_OPEN", "KEXINIT"))


def _prepare(start: Start, data: bytes) -> Callable[[], None]:
    script = Script.decode(data)
    # How a client begins, and a wrong guess, matter only before that is over.
    settled = {"running": 0x70, "rekeying": 0x70, "encrypted": 0x10, "authentication": 0x10}
    player = Player(start.receiver, script.options & ~settled.get(start.phase, 0))
    player.send(*start.messages)
    if player.core.phase is Phase.TERMINATED:
        raise Finding("the script could not begin")
    return play(player, script)


# What real sessions say


@functools.cache
def _recorded() -> dict[Role, tuple[bytes, ...]]:
    """Return what each side of a session says that does a bit of everything."""
    pair = running_pair(reconnect_config(), channels=2, seed=1)
    _use(pair)
    return {role: tuple(pair.sent(role)) for role in Role}


def _use(pair: CorePair) -> None:
    for sender, other in ((CLIENT, 0), (SERVER, 1)):
        connection = pair.connections[sender]
        mine = [channels[other] for channels in pair.channels]
        pair.send(sender, mine[0], b"some data")
        connection.send_extended_data(mine[0], 1, memoryview(b"an error"))
        for name, payload in (("exec", b"\0\0\0\2ls"), ("env", b"\0\0\0\1A\0\0\0\1B")):
            connection.request_channel(mine[0], name, payload, want_reply=True)
        connection.request_channel(mine[0], "exit-status", ExitStatus(3).encode(), want_reply=False)
        connection.request_global("tcpip-forward", b"\0\0\0\0\0\0\0\0", want_reply=True)
        pair.pump()
    pair.rekey(CLIENT)
    pair.send(CLIENT, pair.channels[1][0], bytes(40_000))
    pair.connections[CLIENT].send_eof(pair.channels[0][0])
    pair.connections[SERVER].close(pair.channels[0][1], exit_status=0)
    pair.connections[CLIENT].close(pair.channels[1][0], signal="TERM")
    pair.pump()
    pair.advance(2)


def recorded_payloads() -> Iterator[bytes]:
    """Yield what both sides of a session say, each message once, and no long data."""
    for role in Role:
        yield from dict.fromkeys(p for p in _recorded()[role] if len(p) < 2 * KIBIBYTE)


def _seeds(start: Start) -> Iterator[bytes]:
    named = [Step(Kind.NAMED, bytes([number])) for number in range(len(NAMES))]
    for options in (0, 2, 4, 6, 8, 1):
        for step in named:
            yield Script(options, (step,)).encode()
    for request in range(4):
        for name in ("USERAUTH_PK_OK", "USERAUTH_INFO_REQUEST", "USERAUTH_FAILURE"):
            step = named[NAMES.index(name)]
            answer = Step(Kind.ACTION, bytes([16, 0]))
            yield Script(request << 5, (step, answer, step)).encode()
    exchange = [named[NAMES.index(n)] for n in ("KEXINIT", "KEXDH_INIT", "KEXDH_REPLY", "NEWKEYS")]
    kinds = {SERVER: (0, 1, 3), CLIENT: (0, 2, 3)}[start.receiver]
    for options in (0, 1, 16):
        yield Script(options, tuple(exchange[kind] for kind in kinds)).encode()
    said = [p for p in _recorded()[start.receiver.other] if len(p) < KIBIBYTE]
    for size in (1, 4, 16):
        for first in range(0, len(said), size):
            steps = (Step(Kind.PAYLOAD, payload) for payload in said[first : first + size])
            yield Script(4, tuple(steps)).encode()
    for number in range(len(ACTIONS)):
        steps = (Step(Kind.ACTION, bytes([number, 0]) + b"data"), Step(Kind.TIME, b"\0\xff"))
        yield Script(8, steps).encode()
        yield Script(4, (named[-2], *steps, Step(Kind.RAW, b"\0\0\0\x0c\x06"))).encode()


TARGETS: Final = tuple(
    Target(
        start.name,
        functools.partial(_prepare, start),
        functools.partial(_seeds, start),
        is_scripted=True,
    )
    for start in starts()
)
