"""Targets of reconnecting: T-70 (e). What a side sends when it resumes, and receipts.

The session and its keys are real. ``resume-server`` and ``resume-client`` start where one side has
asked for a lost session, or is about to be asked; a script says what arrives and, where it says so,
the proof is right and only the numbers are arbitrary. ``receipts`` starts in a running session, and
lets the peer end its packets in anything.

A session must never be resumed for a peer that has not proved knowledge of it, nothing of it may be
disclosed before, and a side never believes that a message was received that it has not sent.
"""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable, Iterator
from typing import Any, Final

from anyssh.constants import Extension
from anyssh.errors import SSHError
from anyssh.messages import (
    ExtInfo,
    GlobalRequest,
    Ignore,
    LinkedSessionReconnectRequest,
    RequestFailure,
    RequestSuccess,
    SessionReconnectFailure,
    SessionReconnectRequest,
    SessionReconnectResponse,
)
from anyssh.protocol import Phase, Role
from anyssh.protocol.events import ReconnectRequested, SessionResumed
from tests.protocol.core_pair import (
    CLIENT,
    SERVER,
    Answers,
    CorePair,
    make_core,
    resume,
    running_pair,
)
from tests.protocol.reconnect_pair import reconnect_config

from .oracle import Finding, Target
from .scripts import Kind, Script, Step

__all__ = ["TARGETS"]

CONNECTION_MESSAGES: Final = range(90, 128)
UNLINKED: Final = tuple(
    name for name in reconnect_config().extensions if name != Extension.SESSION_LINK
)


class _Resuming:
    """A session that was lost, and a new stream for it, one end of which the script speaks for.

    :param receiver: the role of the core under test
    :param options: bits: whether the sides number their streams; which of them has lost messages
    """

    def __init__(self, receiver: Role, options: int) -> None:
        self.receiver = receiver
        self.sender = receiver.other
        extensions = UNLINKED if options & 1 else reconnect_config().extensions
        config = reconnect_config(extensions=extensions)
        self.pair = pair = running_pair(config, channels=1, answers=Answers())
        client, server = pair.channels[0]
        if options & 2:
            pair.connections[CLIENT].send_data(client, memoryview(b"from the client"))
        if options & 4:
            pair.connections[SERVER].send_data(server, memoryview(b"from the server"))
        if options & 8:
            pair.pump()
        continuity = pair.connections[SERVER].continuity
        if continuity is None:
            raise Finding("the session cannot be resumed")
        self.session_id = continuity.session_id
        pair.lose()
        self.has_proved = False
        self.stream = self._new_stream(config)
        self.token = self._right_token()

    def _right_token(self) -> bytes:
        """Return what proves on the new stream that one knows the session."""
        exchanger = self.stream.client.exchanger
        digest, key = exchanger.mac_key(to_server=self.sender is CLIENT)
        return hmac.digest(key, self.session_id + exchanger.session_id, digest)

    def _new_stream(self, config: Any) -> CorePair:
        """Return a new stream, of which the script's end is nobody's session."""
        lost = self.pair.connections

        def answer(event: ReconnectRequested, connection: object, now: float) -> None:
            if event.proves(self.session_id) and not self.has_proved:
                raise Finding("a session was proved by chance")
            resume(event, lost[SERVER], now)

        stream = CorePair(config, answers=Answers(reconnect=answer), now=self.pair.now)
        # The host key and, for a client, the session itself are those of the lost one.
        if self.receiver is CLIENT:
            stream.client = stream.cores[CLIENT] = make_core(
                CLIENT,
                config,
                identification="SSH-2.0-client_1.0",
                connection=lost[CLIENT],
                now=stream.now,
                random=stream._entropy,
            )
            stream.connections[CLIENT] = lost[CLIENT]
            # A server that does not answer by itself what the script shall.
            stream.answers.reconnect = None
        stream.pump()
        return stream

    @property
    def core(self) -> Any:
        """The core under test."""
        return self.stream.cores[self.receiver]

    def run(self, script: Script) -> None:
        """Do one step after the other, and pass the verdict."""
        for step in script.steps:
            self.do(step)
            self._check()

    def do(self, step: Step) -> None:
        """Do one step; here an action is one of the peer, which may make a right proof."""
        kind, body = step
        match kind:
            case Kind.PAYLOAD if body:
                self._send(body)
            case Kind.ACTION:
                self._send(self._proof(body))
            case Kind.NAMED:
                self._send(_NAMED[(body[0] if body else 0) % len(_NAMED)])
            case Kind.TIME:
                self.stream.now += int.from_bytes(body[:2], "big") / 8
                self.stream.handle(self.receiver, self.core.handle_timeout(self.stream.now))
            case Kind.RAW:
                self.stream.feed(self.receiver, body)

    def _send(self, payload: bytes) -> None:
        self.stream.cores[self.sender].transport.send(payload)
        transport = self.stream.cores[self.sender].transport
        self.stream.feed(self.receiver, transport.take_output())
        self.stream.handle(self.receiver, self.core.poll_events())
        self.core.data_to_send(self.stream.now)

    def _proof(self, body: bytes) -> bytes:
        """Return a request, or an answer, whose proof is right and whose numbers are foreign."""
        number = int.from_bytes(body[:8].rjust(8, b"\0"), "big")
        token = self.token
        self.has_proved = True
        if self.sender is SERVER:
            return RequestSuccess(SessionReconnectResponse(token, number).encode()).encode()
        link, attempt = body[8:40], int.from_bytes(body[40:44], "big")
        continuity = self.pair.connections[SERVER].continuity
        if not link and continuity is not None:
            link = continuity.journal.link_id
        names_links = Extension.SESSION_LINK in self.stream.client.config.extensions
        request = (
            LinkedSessionReconnectRequest(token, number, link, attempt or 1)
            if names_links
            else SessionReconnectRequest(token, number)
        )
        name = Extension.SESSION_RECONNECT_REQUEST
        return GlobalRequest(name, True, request.encode()).encode()

    def _check(self) -> None:
        if self.has_proved:
            return
        if self.stream.of_type(self.receiver, SessionResumed):
            raise Finding("a session went on without a proof")
        sent = self.stream.sent_numbers(self.receiver)
        if any(number in CONNECTION_MESSAGES for number in sent) and not self.core.is_running:
            raise Finding("something of a session left for somebody who has proved nothing")


def _named() -> Iterator[bytes]:
    yield GlobalRequest(Extension.ENABLE_SESSION_RECONNECT_REQUEST, False).encode()
    yield Ignore(b"").encode()
    yield RequestFailure(SessionReconnectFailure(2, "no such session").encode()).encode()
    yield RequestFailure(b"").encode()
    yield RequestSuccess(SessionReconnectResponse(bytes(32), 0).encode()).encode()
    for request in (
        SessionReconnectRequest(bytes(32), 5),
        LinkedSessionReconnectRequest(bytes(32), 5, b"link", 1),
    ):
        name = Extension.SESSION_RECONNECT_REQUEST
        yield GlobalRequest(name, True, request.encode()).encode()
    yield ExtInfo({Extension.SESSION_RECONNECT: b""}).encode()
    yield GlobalRequest(Extension.KEEP_ALIVE_REQUEST, True).encode()


_NAMED: Final = tuple(_named())


def _prepare(receiver: Role, data: bytes) -> Callable[[], None]:
    script = Script.decode(data)
    resuming = _Resuming(receiver, script.options)
    return lambda: resuming.run(script)


def _seeds(receiver: Role) -> Iterator[bytes]:
    named = [Step(Kind.NAMED, bytes([number])) for number in range(len(_NAMED))]
    numbers = (0, 1, 5, 8, 9, 10, 11, 12, 13, 14, 2**32, 2**63, 2**64 - 1)
    for options in range(16):
        yield Script(options, (named[0], named[1])).encode()
        for number in numbers:
            proof = Step(Kind.ACTION, number.to_bytes(8, "big"))
            yield Script(options, (named[0], proof, named[8], named[8])).encode()
    for step in named:
        yield Script(0, (step, step)).encode()
        yield Script(1, (named[0], step, Step(Kind.TIME, b"\0\xff"))).encode()
    for payload in _NAMED:
        yield Script(3, (Step(Kind.PAYLOAD, payload),)).encode()
    linked = Step(Kind.ACTION, (9).to_bytes(8, "big") + b"l" * 32 + (7).to_bytes(4, "big"))
    yield Script(0, (named[0], linked, linked)).encode()


# Receipts


class _Receipts:
    """A running session, and a peer that ends its packets in what the script says."""

    def __init__(self, receiver: Role) -> None:
        self.receiver = receiver
        self.pair = running_pair(reconnect_config(), channels=1)
        client, server = self.pair.channels[0]
        self.mine = client if receiver is CLIENT else server
        self.pair.connections[receiver].send_data(self.mine, memoryview(b"data"))
        self.pair.take(receiver)

    def run(self, script: Script) -> None:
        """Let the peer send one payload after the other, each with a receipt of its own."""
        core, transport = self.pair.cores[self.receiver], self.pair.transport(self.receiver)
        peer = self.pair.transport(self.receiver.other)
        for kind, body in script.steps:
            if kind is Kind.TIME:
                self.pair.now += int.from_bytes(body[:2], "big") / 8
                self.pair.handle(self.receiver, core.handle_timeout(self.pair.now))
            elif kind is Kind.ACTION:
                try:
                    self.pair.connections[self.receiver].send_data(self.mine, memoryview(body))
                except SSHError:
                    continue  # the session is over
            else:
                size = 0 if kind is Kind.RAW else 12
                receipt = body[:size]
                peer._make_receipt = lambda receipt=receipt: receipt
                peer.send(body[size:] or Ignore(b"").encode())
                self.pair.feed(self.receiver, peer.take_output())
            core.data_to_send(self.pair.now)
            if transport.last_receipt >= transport.messages_sent:
                raise Finding("a receipt for what was never sent was believed")
            continuity = self.pair.connections[self.receiver].continuity
            if core.phase is not Phase.TERMINATED and continuity is None:
                raise Finding("a running session cannot go on any more")


def _prepare_receipts(data: bytes) -> Callable[[], None]:
    script = Script.decode(data)
    receipts = _Receipts(SERVER if script.options & 1 else CLIENT)
    return lambda: receipts.run(script)


def _receipt_seeds() -> Iterator[bytes]:
    for options in (0, 1):
        for number in (0, 3, 5, 6, 7, 8, 9, 10, 2**63, 2**64 - 1):
            receipt = number.to_bytes(8, "big") + (1000).to_bytes(4, "big")
            said = (
                Step(Kind.PAYLOAD, receipt + Ignore(b"").encode()),
                Step(Kind.ACTION, b"more data"),
                Step(Kind.PAYLOAD, receipt + b"\x5e\0\0\0\0\0\0\0\4data"),
                Step(Kind.TIME, b"\0\xff"),
            )
            yield Script(options, said).encode()
        for body in (b"\x02", b"\x02" + bytes(8), b"\x02" + bytes(11), bytes(12)):
            yield Script(options, (Step(Kind.RAW, body),)).encode()


TARGETS: Final = (
    *(
        Target(
            f"resume-{role.name.lower()}",
            functools.partial(_prepare, role),
            functools.partial(_seeds, role),
            is_scripted=True,
        )
        for role in Role
    ),
    Target("receipts", _prepare_receipts, _receipt_seeds, is_scripted=True),
)
