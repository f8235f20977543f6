"""Text from an authenticated peer that is meant for people, wherever it is shown (HR-06, T-14).

It appears in an event, an error or a trace. Each must be one short printable line, and nothing but
the effect of the message itself may result. Prompts that servers send to clients before
authentication are in ``test_client_authentication.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from anyssh.messages import Disconnect, ServiceAccept, ServiceRequest
from anyssh.protocol import Phase, Role
from anyssh.protocol.events import ChannelOpenFailed, ConnectionTerminated, DebugReceived
from anyssh.trace import TraceEvent
from anyssh.wire import string, uint32

from .core_pair import CLIENT, SERVER, Answers, CorePair, running_pair

EVIL = b"\x1b[2J\r\nroot logged in \xe2\x80\xae\xc2\x9b\xff\x07" + b"x" * 200_000
"""Moves the cursor, forges a line, turns direction, is not UTF-8, and is long."""
NAME = EVIL.replace(b"\xff", b"")[:200].decode()
"""The same as a name may be."""
SHOWN = "\\x1b[2J\\r\\nroot logged in \\u202e\\x9b"
"""How either must begin, once it is shown."""
LONGEST = 256
OWN_WORDS = 64
"""What an error of ours may say around it."""


class Talk:
    """A victim with an open channel and one that it asks for, and a peer that talks to it."""

    def __init__(self, victim: Role) -> None:
        self.victim = victim
        self.traces: list[TraceEvent] = []
        self.pair: CorePair = running_pair(channels=1, trace=self.traces.append)
        self.pair.answers = Answers(accept_channels=None)
        self.channel = self.pair.channels[0][0 if victim is CLIENT else 1]
        self.opening = self.pair.connections[victim].open_channel("wanted")
        self.pair.pump()

    def say(self, payload: bytes) -> None:
        """Have the peer send something."""
        self.pair.inject(self.victim.other, payload)

    @property
    def error(self) -> str:
        """What the error says that the victim's connection has ended with."""
        (end,) = self.pair.of_type(self.victim, ConnectionTerminated)
        return str(end.error)


def disconnect(talk: Talk) -> Sequence[str]:
    talk.say(b"\x01" + uint32(11) + string(EVIL) + string("en"))
    return [talk.error]


def debug(talk: Talk) -> Sequence[str]:
    talk.say(b"\x04\x01" + string(EVIL) + string("en"))
    (event,) = talk.pair.of_type(talk.victim, DebugReceived)
    return [event.message]


def refused_open(talk: Talk) -> Sequence[str]:
    talk.say(b"\x5c" + uint32(talk.opening.local_id) + uint32(1) + string(EVIL) + string("en"))
    (event,) = talk.pair.of_type(talk.victim, ChannelOpenFailed)
    return [event.description]


def signal(talk: Talk) -> Sequence[str]:
    told = string(NAME) + b"\0" + string(EVIL) + string("en")
    talk.say(b"\x62" + uint32(talk.channel.local_id) + string("exit-signal") + b"\0" + told)
    return [talk.channel.exit_signal or "", talk.channel.exit_message or ""]


def service(talk: Talk) -> Sequence[str]:
    if talk.victim is SERVER:
        talk.say(ServiceRequest(NAME).encode())
        return [talk.error, Disconnect.decode(talk.pair.sent(SERVER)[-1]).description]
    talk.pair.client.request_service("ssh-connection")
    talk.say(ServiceAccept(NAME).encode())
    return [talk.error, Disconnect.decode(talk.pair.sent(CLIENT)[-1]).description]


@pytest.mark.parametrize("victim", [CLIENT, SERVER], ids=["client", "server"])
@pytest.mark.parametrize("told_by", [disconnect, debug, refused_open, signal, service])
def test_what_a_peer_says_is_safe_to_show(
    victim: Role, told_by: Callable[[Talk], Sequence[str]]
) -> None:
    talk = Talk(victim)
    for text in told_by(talk):
        assert SHOWN in text.replace("\\\\", "\\")
        assert text.isprintable()
        assert len(text) <= LONGEST + OWN_WORDS
    for trace in talk.traces:
        assert trace.message.isprintable()
        assert len(trace.message) <= LONGEST + OWN_WORDS
    has_ended = talk.pair.cores[victim].phase is Phase.TERMINATED
    assert has_ended == (told_by in (disconnect, service))
