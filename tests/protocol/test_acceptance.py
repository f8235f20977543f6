"""Which message is legal when: a core compared with the model in ``acceptance_model``.

The scripted peer sends anything at any time. An illegal message must have exactly one effect,
DISCONNECT: no event for an application, no other reply, whatever its body.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from anyssh.config import RECONNECT_EXTENSIONS, Limits
from anyssh.constants import DisconnectReason, MessageNumber, Service
from anyssh.messages import Disconnect, ServiceAccept
from anyssh.protocol import Phase, Role
from anyssh.protocol.authentication import Challenge, KeyboardInteractiveAttempt, Prompt
from anyssh.protocol.client_authentication import ClientAuthentication
from anyssh.protocol.events import AttemptMade, ConnectionTerminated, Event, ServiceAccepted
from anyssh.protocol.journal import Continuity, Journal

from .acceptance_model import ASSIGNED, Model, Verdict
from .core_pair import CLIENT, SERVER, Answers, assert_terminated, host_key, running_pair
from .scripted_peer import ScriptedPeer

NOBODY = Answers(
    host_key=None,
    signature=None,
    attempt=None,
    query=None,
    reconnect=None,
    accept_channels=None,
    grant_requests=None,
)
"""An application that never answers, so that every reply is the core's own."""

DEV_TUNNELS = "SSH-2.0-dev-tunnels-ssh_3.12.42"
GARBAGE = b"\xff\xff\xff"


def judge_attempt(event: AttemptMade, now: float) -> None:
    """Let in whoever has a password, ask whoever wants to be asked."""
    match event.attempt:
        case KeyboardInteractiveAttempt():
            event.challenge(Challenge(prompts=[Prompt("?")]), now)
        case _:
            event.accept("principal", now)


REQUESTS: dict[str | None, Callable[[ClientAuthentication], None] | None] = {
    None: None,
    "password": lambda client: client.request_password("alice", "wonderland"),
    "query": lambda client: client.query_key("alice", host_key(), "ssh-ed25519"),
    "interactive": lambda client: client.request_interactive("alice"),
}


def lost_session() -> Continuity:
    """Return what a client has left of a session whose stream was lost."""
    peer = ScriptedPeer(CLIENT)
    peer.greet()
    for name in ("KEXINIT", "KEXDH_REPLY", "NEWKEYS"):
        peer.send(name)
    algorithms = peer.core.exchanger.algorithms
    assert algorithms is not None
    journal = Journal(b"lost")
    journal.end(10, 10)
    return Continuity(b"s" * 32, host_key().public(), algorithms, journal)


@dataclass(frozen=True)
class State:
    """A point in a connection's life: how to get there, and what is special about it."""

    receiver: Role
    script: tuple[str, ...] = ()
    strict: bool = True
    dev_tunnels: bool = False
    signs: bool = True
    request: str | None = "password"
    starts_rekey: bool = False
    reconnect: bool = False
    lost: bool = False
    name: str = field(default="", compare=False)

    def build(self) -> tuple[ScriptedPeer, Model]:
        """Return a core and the model, both in this state."""
        peer = ScriptedPeer(
            self.receiver,
            strict=self.strict,
            identification=DEV_TUNNELS if self.dev_tunnels else "SSH-2.0-peer_1.0",
            answers=Answers(attempt=judge_attempt, reconnect=None),
            authenticate=REQUESTS[self.request],
            continuity=lost_session() if self.lost else None,
            extensions=RECONNECT_EXTENSIONS if self.reconnect else ("server-sig-algs",),
            limits=Limits(authentication_failures=100, authentication_requests=100),
        )
        if not self.signs:
            peer.answers.signature = None
        peer.greet()
        for name in self.script:
            peer.send(name)
        if self.starts_rekey:
            peer.core.start_rekey(peer.now)
            peer.deliver()
        assert not peer.is_over
        return peer, self.model()

    def model(self) -> Model:
        """Return the model in this state."""
        model = Model(
            is_server=self.receiver is SERVER,
            strict=self.strict,
            dev_tunnels=self.dev_tunnels,
            signs=self.signs,
            request=self.request,
            reconnect=self.reconnect,
            lost=self.lost,
        )
        for name in self.script:
            receive(model, name)
        return model


def receive(model: Model, name: str) -> Verdict:
    """Let the model receive a message of the script."""
    kind, _, detail = name.partition(" ")
    number = 192 if kind == "unassigned" else MessageNumber[kind]
    return model.receive(number, detail)


def states() -> Iterator[State]:
    """Yield every state that the matrix looks at."""
    for role in Role:
        share = "KEXDH_INIT" if role is SERVER else "KEXDH_REPLY"
        encrypted = ("KEXINIT", share, "NEWKEYS")
        asked = (*encrypted, "SERVICE_REQUEST" if role is SERVER else "SERVICE_ACCEPT")
        running = (*asked, "USERAUTH_REQUEST" if role is SERVER else "USERAUTH_SUCCESS")
        for strict in (True, False):
            yield State(role, (), strict, name="K before KEXINIT")
            yield State(role, ("KEXINIT",), strict, name="K after KEXINIT")
            yield State(role, ("KEXINIT", share), strict, name="K before NEWKEYS")
        yield State(role, encrypted, name="E")
        yield State(role, (*encrypted, "IGNORE"), name="E behind the first packet")
        yield State(role, encrypted, dev_tunnels=True, name="E with Dev Tunnels")
        yield State(role, asked, name="A")
        yield State(role, asked, dev_tunnels=True, name="A with Dev Tunnels")
        yield State(role, (*running, "CHANNEL_OPEN"), name="R")
        yield State(role, (*running, "CHANNEL_OPEN"), dev_tunnels=True, name="R with Dev Tunnels")
        yield State(role, running, name="R at its start")
        yield State(role, (*running, "CHANNEL_OPEN"), starts_rekey=True, name="R, KEXINIT sent")
        for dev_tunnels in (False, True):
            rekeying = (*running, "CHANNEL_OPEN", "KEXINIT")
            name = "X with Dev Tunnels" if dev_tunnels else "X"
            yield State(role, rekeying, dev_tunnels=dev_tunnels, name=name)
            yield State(role, (*rekeying, share), name="X before NEWKEYS")
    exchange = ("KEXINIT", "KEXDH_INIT")
    yield State(SERVER, exchange, signs=False, name="K before our signature")
    interactive = ("NEWKEYS", "SERVICE_REQUEST", "USERAUTH_REQUEST keyboard-interactive")
    yield State(SERVER, exchange + interactive, name="A, challenged")
    asked = ("KEXINIT", "KEXDH_REPLY", "NEWKEYS", "SERVICE_ACCEPT")
    yield State(CLIENT, asked[:3], request=None, name="E, nothing requested")
    yield State(CLIENT, (*asked, "USERAUTH_FAILURE"), name="A, nothing requested")
    yield State(CLIENT, (*asked, "EXT_INFO"), name="A behind EXT_INFO")
    for request in ("query", "interactive"):
        yield State(CLIENT, asked, request=request, name=f"A, {request}")
    yield from reconnecting_states()


def reconnecting_states() -> Iterator[State]:
    """Yield the states in which reconnecting makes a difference."""
    for role in Role:
        share = "KEXDH_INIT" if role is SERVER else "KEXDH_REPLY"
        encrypted = ("KEXINIT", share, "NEWKEYS")
        announced = (*encrypted, "EXT_INFO reconnect")
        enabled = (*announced, "GLOBAL_REQUEST enable")
        asked = (*enabled, "SERVICE_REQUEST" if role is SERVER else "SERVICE_ACCEPT")
        running = (*asked, "USERAUTH_REQUEST" if role is SERVER else "USERAUTH_SUCCESS")
        yield State(role, encrypted, reconnect=True, name="E, reconnect known to us")
        yield State(role, announced, reconnect=True, name="E, reconnect announced")
        yield State(role, announced, name="E, reconnect announced by the peer alone")
        yield State(role, enabled, reconnect=True, name="E, reconnect enabled")
        yield State(role, asked, reconnect=True, name="A, reconnect enabled")
        yield State(role, (*running, "CHANNEL_OPEN"), reconnect=True, name="R, reconnect enabled")
        rekeying = (*running, "CHANNEL_OPEN", "KEXINIT")
        yield State(role, rekeying, reconnect=True, name="X, reconnect enabled")
        name = "E with Dev Tunnels, reconnect enabled"
        yield State(role, enabled, dev_tunnels=True, reconnect=True, name=name)
    yield State(
        SERVER,
        ("KEXINIT", "KEXDH_INIT", "NEWKEYS", "EXT_INFO reconnect", "GLOBAL_REQUEST reconnect"),
        reconnect=True,
        name="E, asked to reconnect",
    )
    back = {"request": None, "reconnect": True, "lost": True}
    encrypted = ("KEXINIT", "KEXDH_REPLY", "NEWKEYS")
    announced = (*encrypted, "EXT_INFO reconnect")
    enabled = (*announced, "GLOBAL_REQUEST enable")
    yield State(CLIENT, (), name="K, back", **back)
    yield State(CLIENT, encrypted, name="E, back", **back)
    yield State(CLIENT, announced, name="E, back and asking", **back)
    yield State(CLIENT, enabled, name="E, back and asking, enabled", **back)


STATES = list(dict.fromkeys(states()))

WELL_FORMED = {
    "minimal": frozenset(range(256)),
    # An IGNORE is never read; NEWKEYS and USERAUTH_SUCCESS have no fields, 81 and 82 any.
    "empty": frozenset({2, 21, 52, 81, 82}),
    "garbage": frozenset({2, 81, 82}),
}


def is_well_formed(number: int, body: str, state: State) -> bool:
    """Tell whether a message with one of the three bodies can be read."""
    if state.lost and number == MessageNumber.REQUEST_FAILURE and body == "garbage":
        return False  # it has to be a reason
    return number in WELL_FORMED[body]


def script_name(number: int, state: State) -> str:
    """Return what the script calls the message with a number."""
    if number == MessageNumber.USERAUTH_INFO_REQUEST and state.request == "interactive":
        return "USERAUTH_INFO_REQUEST"
    return MessageNumber(number).name


def send(peer: ScriptedPeer, state: State, number: int, body: str) -> None:
    """Send the message with a number and one of the three bodies."""
    if body == "minimal" and number in ASSIGNED:
        peer.send(script_name(number, state))
    elif body == "minimal":
        peer.send_payload(bytes([number]) + b"\x00\x00\x00\x01x")
    else:
        peer.send_payload(bytes([number]) + (GARBAGE if body == "garbage" else b""))


def check(verdict: Verdict, peer: ScriptedPeer, events: list[Event], replies: list[bytes]) -> None:
    """Hold what a message brought about against the verdict of the model."""
    told = [event for event in events if not isinstance(event, ConnectionTerminated)]
    match verdict:
        case Verdict.REFUSED | Verdict.SERVICE_REFUSED:
            assert peer.is_over, "accepted"
            assert not told, f"an illegal message became {told}"
            (disconnect,) = map(Disconnect.decode, replies)
            expected = (
                DisconnectReason.PROTOCOL_ERROR
                if verdict is Verdict.REFUSED
                else DisconnectReason.SERVICE_NOT_AVAILABLE
            )
            assert disconnect.reason == expected, disconnect
            return
        case Verdict.ENDED:
            assert peer.is_over
            assert not told
            assert not replies
            return
    error = [event.error for event in events if isinstance(event, ConnectionTerminated)]
    assert not peer.is_over, f"refused: {error}"
    match verdict:
        case Verdict.UNREAD:
            assert not told
            assert not replies
        case Verdict.UNIMPLEMENTED:
            assert not told
            assert [reply[0] for reply in replies] == [MessageNumber.UNIMPLEMENTED]
        case Verdict.ANSWERED:
            assert not told
            assert len(replies) == (0 if peer.core.exchanger.is_running else 1)


def bodies(number: int, thorough: bool) -> tuple[str, ...]:
    """Return the bodies to try: one of three for numbers without a meaning, unless thorough."""
    kinds = ("minimal", "empty", "garbage")
    return kinds if thorough or number in ASSIGNED else (kinds[number % 3],)


def check_state(state: State, thorough: bool) -> list[str]:
    """Send every message with every body in one state; return what did not go as it must."""
    wrong = []
    built: tuple[ScriptedPeer, Model] | None = None
    for number in range(256):
        for body in bodies(number, thorough):
            peer, model = built or state.build()
            built = None
            peer.answers = NOBODY
            events, replies = len(peer.events), len(peer.heard)
            verdict = model.receive(number)
            needs_form = verdict not in (Verdict.UNREAD, Verdict.UNIMPLEMENTED)
            if needs_form and not is_well_formed(number, body, state):
                verdict = Verdict.REFUSED
            try:
                send(peer, state, number, body)
                check(verdict, peer, peer.events[events:], peer.heard[replies:])
            except AssertionError as error:
                wrong.append(f"message {number}, {body} body, {verdict.name}: {error}")
            else:
                # What had no effect leaves the state as it was, so the next may come on top.
                if model.phase in "RX" and verdict is Verdict.UNIMPLEMENTED:
                    built = peer, model
    return wrong


@pytest.mark.parametrize(
    "state",
    STATES,
    ids=[
        f"{state.receiver.name.lower()}-{state.name}{'' if state.strict else '-not strict'}"
        for state in STATES
    ],
)
def test_every_message_in_every_state(state: State) -> None:
    """HR-01, HR-02, T-01: 256 numbers, three bodies, every state: the effect is the model's."""
    assert not check_state(state, thorough=False)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_every_message_in_every_state_with_every_body() -> None:
    """T-01, with three bodies for the numbers without a meaning too."""
    assert not [wrong for state in STATES for wrong in check_state(state, thorough=True)]


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("body", ["minimal", "empty", "garbage"])
def test_no_message_counts_before_the_identification(role: Role, body: str) -> None:
    """T-01: packets in place of an identification line have no effect but the end."""
    for number in range(256):
        peer = ScriptedPeer(role)
        peer.transport.take_output()
        peer.deliver()
        peer.events.clear()
        heard = len(peer.heard)
        if body == "minimal" and number in ASSIGNED:
            peer.send(MessageNumber(number).name)
        else:
            peer.send_payload(bytes([number]) + (GARBAGE if body == "garbage" else b""))
        assert all(isinstance(event, ConnectionTerminated) for event in peer.events)
        assert len(peer.heard) == heard
        assert peer.core.phase in (Phase.VERSION, Phase.TERMINATED)


# Orders


ALPHABET = (
    "DISCONNECT",
    "IGNORE",
    "UNIMPLEMENTED",
    "DEBUG",
    "SERVICE_REQUEST",
    "SERVICE_REQUEST ssh-connection",
    "SERVICE_ACCEPT",
    "EXT_INFO",
    "EXT_INFO reconnect",
    "KEXINIT",
    "NEWKEYS",
    "KEXDH_INIT",
    "KEXDH_REPLY",
    "USERAUTH_REQUEST",
    "USERAUTH_REQUEST none",
    "USERAUTH_FAILURE",
    "USERAUTH_SUCCESS",
    "USERAUTH_BANNER",
    "USERAUTH_PK_OK",
    "USERAUTH_INFO_RESPONSE",
    "GLOBAL_REQUEST",
    "GLOBAL_REQUEST enable",
    "GLOBAL_REQUEST reconnect",
    "REQUEST_SUCCESS",
    "REQUEST_SUCCESS reconnect",
    "REQUEST_FAILURE",
    "CHANNEL_OPEN",
    "CHANNEL_DATA",
    "unassigned",
)
ENDS = (Verdict.REFUSED, Verdict.SERVICE_REFUSED, Verdict.ENDED)


def check_order(state: State, names: tuple[str, ...]) -> Verdict:
    """Send messages one after the other until the model or the core has enough."""
    peer, model = state.build()
    peer.answers = Answers(attempt=judge_attempt, reconnect=None)
    verdict = Verdict.HANDLED
    for name in names:
        events, replies = len(peer.events), len(peer.heard)
        verdict = receive(model, name)
        peer.send(name)
        try:
            if verdict in ENDS:
                check(verdict, peer, peer.events[events:], peer.heard[replies:])
            else:
                assert not peer.is_over, peer.events[-1]
        except AssertionError as error:
            error.add_note(f"{state}, then {names}, at {name}: expected {verdict.name}")
            raise
        if verdict in ENDS:
            told = len(peer.events)
            peer.send_payload(b"\x02")
            assert len(peer.events) == told
            assert peer.core.data_to_send(peer.now) == b""
            break
    return verdict


def check_all_orders(state: State, depth: int) -> int:
    """Check every order of so many messages; return how many there are.

    What follows a message that ends the connection is ignored, so all orders that begin with it
    are one.
    """
    prefixes: list[tuple[str, ...]] = [()]
    count = 0
    for _ in range(depth):
        legal = []
        for prefix in prefixes:
            for name in ALPHABET:
                count += 1
                if check_order(state, (*prefix, name)) not in ENDS:
                    legal.append((*prefix, name))
        prefixes = legal
    return count


@functools.cache
def order_states(role: Role) -> dict[str, tuple[str, ...]]:
    """Return a script that leads to the start of each phase."""
    share = "KEXDH_INIT" if role is SERVER else "KEXDH_REPLY"
    encrypted = ("KEXINIT", share, "NEWKEYS")
    asked = (*encrypted, "SERVICE_REQUEST" if role is SERVER else "SERVICE_ACCEPT")
    running = (*asked, "USERAUTH_REQUEST" if role is SERVER else "USERAUTH_SUCCESS")
    return {"E": encrypted, "A": asked, "R": running, "X": (*running, "KEXINIT")}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("role", Role)
def test_every_order_from_the_start(role: Role, strict: bool) -> None:
    """T-02: of all orders of three messages exactly those of the model are accepted."""
    assert check_all_orders(State(role, (), strict), 3) > 3 * len(ALPHABET)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("phase, depth", [("E", 3), ("A", 2), ("R", 2), ("X", 2)])
def test_every_order_from_each_phase(role: Role, phase: str, depth: int) -> None:
    """T-02: the same from the start of each later phase."""
    state = State(role, order_states(role)[phase])
    assert check_all_orders(state, depth) > len(ALPHABET)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("phase, depth", [("E", 3), ("A", 2), ("R", 2)])
def test_every_order_with_reconnect(role: Role, phase: str, depth: int) -> None:
    """T-02, HR-60: the same where both sides can reconnect."""
    script = order_states(role)[phase]
    if phase != "E":
        script = (*script[:3], "EXT_INFO reconnect", *script[3:])
    assert check_all_orders(State(role, script, reconnect=True), depth) > len(ALPHABET)


def test_every_order_for_a_client_that_comes_back() -> None:
    """T-02: for a session whose stream was lost."""
    script = ("KEXINIT", "KEXDH_REPLY", "NEWKEYS")
    state = State(CLIENT, script, request=None, reconnect=True, lost=True)
    assert check_all_orders(state, 3) > len(ALPHABET)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("phase", "EARX")
@pytest.mark.parametrize("strict", [True, False])
def test_every_long_order_from_each_phase(role: Role, phase: str, strict: bool) -> None:
    """T-02, deeper."""
    state = State(role, order_states(role)[phase], strict)
    assert check_all_orders(state, 3) > len(ALPHABET)


def random_order(source: random.Random, state: State, length: int) -> tuple[str, ...]:
    """Return messages that are mostly legal, so that long orders lead somewhere."""
    model = state.model()
    names: list[str] = []
    while len(names) < length:
        name = source.choice(ALPHABET)
        verdict = receive(model, name)
        if verdict in ENDS and len(names) < length - 1 and source.random() < 0.95:
            model = state.model()
            for earlier in names:
                receive(model, earlier)
            continue
        names.append(name)
        if verdict in ENDS:
            break
    return tuple(names)


def check_random_orders(count: int, seed: int) -> None:
    source = random.Random(seed)
    for _ in range(count):
        role = source.choice(list(Role))
        strict = source.random() < 0.5
        scripts = [(), *order_states(role).values()]
        reconnect = source.random() < 0.5
        state = State(role, source.choice(scripts), strict, reconnect=reconnect)
        check_order(state, random_order(source, state, 8))


def test_random_orders() -> None:
    """T-02: orders of up to eight messages, mostly legal ones, from any phase."""
    check_random_orders(300, seed=1)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_many_random_orders() -> None:
    """T-02, 50,000 of them."""
    check_random_orders(50_000, seed=2)


def test_a_service_is_granted_whenever_it_was_asked_for_and_only_then() -> None:
    """T-01: by a server, also in a session that runs."""
    grant = ServiceAccept(Service.CONNECTION).encode()
    pair = running_pair()
    pair.client.request_service(Service.CONNECTION)
    pair.pump()
    assert pair.of_type(CLIENT, ServiceAccepted)[-1].name == Service.CONNECTION
    pair.inject(SERVER, grant)
    assert_terminated(pair, CLIENT, DisconnectReason.PROTOCOL_ERROR)
    pair = running_pair()
    pair.inject(CLIENT, grant)
    assert_terminated(pair, SERVER, DisconnectReason.PROTOCOL_ERROR)
