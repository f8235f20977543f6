"""Key exchange between cores: what is negotiated, when new keys are used, what waits for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyssh import wire
from anyssh.algorithms import is_available, needs_strict_key_exchange
from anyssh.config import (
    ENCRYPTIONS,
    HOST_KEY_ALGORITHMS,
    KEY_EXCHANGES,
    MACS,
    InsecureSessionConfig,
    Limits,
    SessionConfig,
)
from anyssh.constants import (
    DisconnectReason,
    Encryption,
    Extension,
    HostKeyAlgorithm,
    KeyExchange,
    Mac,
    Marker,
    MessageNumber,
)
from anyssh.errors import Disconnected, HostKeyError, LocalProtocolError, NegotiationError
from anyssh.identification import PeerVersion
from anyssh.messages import (
    ChannelData,
    ExtInfo,
    GlobalRequest,
    Ignore,
    KexDhInit,
    KexInit,
    Unimplemented,
)
from anyssh.protocol import Phase, Role, key_exchange
from anyssh.protocol.events import (
    ChannelClosed,
    ChannelDataReceived,
    ChannelOpenReceived,
    ConnectionTerminated,
    ExtensionsReceived,
    GlobalRequestReceived,
    KeyExchangeCompleted,
    ReplyReceived,
    SignatureRequested,
)
from anyssh.protocol.key_exchange import ExchangeKeys
from anyssh.protocol.negotiation import Algorithms, negotiate, unsafe_protection

from .core_pair import (
    CLIENT,
    FAST,
    SERVER,
    START,
    Answers,
    CorePair,
    Offer,
    assert_terminated,
    fast_config,
    host_key,
    not_strict,
    running_pair,
)
from .scripted_peer import ScriptedPeer

METHODS = [name for name in KEY_EXCHANGES if is_available(name)]
KEXINIT, NEWKEYS = MessageNumber.KEXINIT, MessageNumber.NEWKEYS
DEV_TUNNELS = "SSH-2.0-dev-tunnels-ssh_3.12.42"
DEV_TUNNELS_GO = "SSH-2.0-dev-tunnels-ssh-go_0.1"


def key_for(algorithm: str) -> Any:
    """Return a host key that signs with an algorithm."""
    return host_key("rsa-sha2-512" if algorithm.startswith("rsa") else algorithm)


def exchanges(pair: CorePair, role: Role = CLIENT) -> int:
    """Return how many exchanges of new keys a side has completed, the first not counted."""
    return len(pair.of_type(role, KeyExchangeCompleted)) - 1


# What is agreed on


def check_algorithms(method: str, host_key_algorithm: str, encryption: str, mac: str) -> None:
    config = SessionConfig(
        key_exchanges=[method],
        host_key_algorithms=[host_key_algorithm],
        encryptions=[encryption],
        macs=[mac],
    )
    pair = running_pair(config, host_keys=[key_for(host_key_algorithm)])
    expected = Algorithms(
        method, host_key_algorithm, encryption, encryption, mac, mac, is_strict=True
    )
    for core in pair.cores.values():
        assert core.exchanger.algorithms == expected
    assert pair.client.exchanger.session_id == pair.server.exchanger.session_id
    assert pair.client.exchanger.host_key == key_for(host_key_algorithm)
    pair.assert_usable()


def test_every_key_exchange_with_every_host_key() -> None:
    """KEX-01, 02, 03: each pair agrees and carries data, with ever changing ciphers and MACs."""
    protections = itertools.cycle(itertools.product(ENCRYPTIONS, MACS))
    for method, host_key_algorithm in itertools.product(METHODS, HOST_KEY_ALGORITHMS):
        check_algorithms(method, host_key_algorithm, *next(protections))


def test_every_cipher_with_every_mac() -> None:
    """KEX-03: each pair carries data, in both directions, and again under new keys."""
    for encryption, mac in itertools.product(ENCRYPTIONS, MACS):
        pair = running_pair(fast_config(encryptions=[encryption], macs=[mac]))
        pair.assert_usable()
        pair.rekey(CLIENT)
        pair.assert_usable()
        assert exchanges(pair) == 1


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_every_combination() -> None:
    """KEX-03: all combinations of key exchange, host key, cipher and MAC."""
    for names in itertools.product(METHODS, HOST_KEY_ALGORITHMS, ENCRYPTIONS, MACS):
        check_algorithms(*names)


def test_directions_are_independent() -> None:
    """RFC 4253 section 7.1: each direction has its own cipher and MAC."""

    def one_each(kexinit: KexInit, is_initial: bool) -> KexInit:
        return replace(
            kexinit,
            encryption_algorithms_client_to_server=(Encryption.AES256_CTR,),
            mac_algorithms_client_to_server=(Mac.HMAC_SHA2_256,),
            encryption_algorithms_server_to_client=(Encryption.CHACHA20_POLY1305,),
        )

    pair = running_pair(fast_config(encryptions=ENCRYPTIONS, macs=MACS), client_offer=one_each)
    algorithms = pair.server.exchanger.algorithms
    assert algorithms is not None
    assert algorithms.encryption_client_to_server == Encryption.AES256_CTR
    assert algorithms.encryption_server_to_client == Encryption.CHACHA20_POLY1305
    pair.assert_usable()


def test_the_client_prefers() -> None:
    """KEX-04, HR-16, HR-17: of what both have the first of the client's list is taken."""
    ours = [KeyExchange.ECDH_NISTP384, KeyExchange.CURVE25519_SHA256]
    client = fast_config(key_exchanges=ours, encryptions=ENCRYPTIONS[3:5])
    server = fast_config(key_exchanges=ours[::-1], encryptions=ENCRYPTIONS[4:2:-1])
    for pair in (CorePair(client, server), CorePair(server, client)):
        pair.pump()
        algorithms = pair.server.exchanger.algorithms
        assert algorithms is not None
        assert algorithms == pair.client.exchanger.algorithms
        assert algorithms.key_exchange == pair.client.config.key_exchanges[0]
        assert algorithms.encryption_client_to_server == pair.client.config.encryptions[0]


UNKNOWN = ("foo@example.com", "aes512-xyz", "none")
CHOICES: dict[str, Sequence[str]] = {
    "kex_algorithms": METHODS,
    "server_host_key_algorithms": HOST_KEY_ALGORITHMS,
    "encryption_algorithms_client_to_server": ENCRYPTIONS,
    "encryption_algorithms_server_to_client": ENCRYPTIONS,
    "mac_algorithms_client_to_server": MACS,
    "mac_algorithms_server_to_client": MACS,
    "compression_algorithms_client_to_server": ("none",),
    "compression_algorithms_server_to_client": ("none",),
}


@st.composite
def kexinits(draw: st.DrawFn, extra: Sequence[str] = ()) -> KexInit:
    """Draw a KEXINIT of known names in any order, and of others from a peer.

    Often a list has all of them: two that share nothing say little about the order.
    """
    lists: dict[str, Any] = {}
    for name, known in CHOICES.items():
        some = st.lists(st.sampled_from((*known, *extra)), max_size=len(known) + 2)
        every = st.permutations((*known, *extra))
        lists[name] = tuple(draw(st.one_of(every, every, every, some)))
    return KexInit(cookie=bytes(16), **lists)


def outcome(role: Role, client: KexInit, server: KexInit, strict: bool) -> object:
    """Return what one side makes of two KEXINITs."""
    try:
        algorithms = negotiate(role, client, server, strict=strict)
    except NegotiationError as error:
        return error.kind
    refusal = unsafe_protection(role, algorithms, client, server)
    return algorithms if refusal is None else refusal.kind


@settings(max_examples=100)
@given(
    theirs=kexinits(UNKNOWN), ours=kexinits(), we_are=st.sampled_from(Role), strict=st.booleans()
)
def test_negotiation(theirs: KexInit, ours: KexInit, we_are: Role, strict: bool) -> None:
    """HR-16: both sides come to one result: the client's first that the server has, for each kind.

    An authenticated cipher needs no MAC; what needs strict key exchange is refused without it.
    """
    client, server = (ours, theirs) if we_are is CLIENT else (theirs, ours)
    result = outcome(CLIENT, client, server, strict)
    assert result == outcome(SERVER, client, server, strict)
    common = {
        name: next((item for item in getattr(client, name) if item in getattr(server, name)), None)
        for name in CHOICES
    }
    macs = {}
    for direction in ("client_to_server", "server_to_client"):
        cipher = common[f"encryption_algorithms_{direction}"]
        is_aead = cipher is not None and ("gcm" in cipher or "poly1305" in cipher)
        macs[direction] = common[f"mac_algorithms_{direction}"]
        if macs[direction] is None and is_aead:
            macs[direction] = common[f"mac_algorithms_{direction}"] = ""
    unsafe = any(
        cipher == Encryption.CHACHA20_POLY1305
        or (cipher == Encryption.AES256_CBC and (mac or "").endswith("-etm@openssh.com"))
        for cipher, mac in (
            (common[f"encryption_algorithms_{direction}"], macs[direction]) for direction in macs
        )
    )
    if None in common.values() or (unsafe and not strict):
        assert isinstance(result, str)
    else:
        assert isinstance(result, Algorithms)
        assert (result.key_exchange, result.host_key) == tuple(common.values())[:2]
        assert result.encryption_client_to_server in ENCRYPTIONS
        assert [
            result.encryption_client_to_server,
            result.encryption_server_to_client,
            result.mac_client_to_server,
            result.mac_server_to_client,
            result.compression_client_to_server,
            result.compression_server_to_client,
        ] == list(common.values())[2:]
        assert result.is_strict is strict


@pytest.mark.parametrize(
    "client, server, kind",
    [
        (
            {"key_exchanges": METHODS[:1]},
            {"key_exchanges": METHODS[1:]},
            "key exchange method",
        ),
        (
            {"encryptions": ENCRYPTIONS[:2]},
            {"encryptions": ENCRYPTIONS[2:]},
            "encryption client to server",
        ),
        (
            {"encryptions": ENCRYPTIONS[3:4], "macs": MACS[:1]},
            {"encryptions": ENCRYPTIONS[3:4], "macs": MACS[1:]},
            "MAC client to server",
        ),
        (
            {"host_key_algorithms": [HostKeyAlgorithm.ECDSA_NISTP256]},
            {"host_key_algorithms": [HostKeyAlgorithm.ED25519]},
            "host key algorithm",
        ),
    ],
    ids=["key exchange", "encryption", "MAC", "host key"],
)
def test_nothing_in_common(client: dict[str, Any], server: dict[str, Any], kind: str) -> None:
    """KEX-05: both sides end, and say what each of them offered."""
    pair = CorePair(fast_config(**client), fast_config(**server))
    pair.pump()
    offered = {CLIENT: [*client.values()][-1], SERVER: [*server.values()][-1]}
    for role in Role:
        error = assert_terminated(pair, role, DisconnectReason.KEY_EXCHANGE_FAILED)
        assert isinstance(error, NegotiationError)
        assert error.kind == kind
        assert error.ours == tuple(offered[role])
        assert error.theirs == tuple(offered[role.other])


def test_no_common_mac_is_no_obstacle_to_an_authenticated_cipher() -> None:
    """HR-60: only reconnecting needs the MAC then."""
    pair = running_pair(fast_config(macs=MACS[:1]), fast_config(macs=MACS[1:]))
    algorithms = pair.client.exchanger.algorithms
    assert algorithms is not None
    assert algorithms.mac_client_to_server == ""
    pair.assert_usable()


TERRAPIN = [
    (Encryption.CHACHA20_POLY1305, Mac.HMAC_SHA2_256),
    (Encryption.AES256_CBC, Mac.HMAC_SHA2_256_ETM),
    (Encryption.AES256_CBC, Mac.HMAC_SHA2_512_ETM),
]


@pytest.mark.parametrize("encryption, mac", TERRAPIN)
def test_what_needs_strict_key_exchange(encryption: str, mac: str) -> None:
    """HR-14: a client leaves a server without it, even if the two have something else in common."""
    assert needs_strict_key_exchange(encryption, mac)
    config = fast_config(encryptions=[encryption, Encryption.AES256_CTR], macs=[mac])
    pair = CorePair(config, server_offer=not_strict)
    pair.pump()
    assert_terminated(pair, CLIENT, DisconnectReason.KEY_EXCHANGE_FAILED, "strict")
    running_pair(config).assert_usable()


@pytest.mark.parametrize("encryption, mac", TERRAPIN)
def test_a_server_shows_its_key_and_no_more(
    encryption: str, mac: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HR-14: ssh-keyscan prefers such a cipher, but goes no further than the host key."""

    def only_servers_care(role: Role, *negotiated: Any) -> NegotiationError | None:
        return unsafe_protection(role, *negotiated) if role is SERVER else None

    monkeypatch.setattr(key_exchange, "unsafe_protection", only_servers_care)
    config = fast_config(encryptions=[encryption, Encryption.AES256_CTR], macs=[mac])
    pair = CorePair(config, client_offer=not_strict)
    pair.pump()
    assert_terminated(pair, SERVER, DisconnectReason.KEY_EXCHANGE_FAILED, "strict")
    assert pair.client.exchanger.host_key is not None
    assert MessageNumber.NEWKEYS not in pair.sent_numbers(SERVER)
    assert pair.server.exchanger.completed_count == 0


# Without protection


def test_without_protection_on_both_sides() -> None:
    """KEX-06: there is no session id, no authentication; channels work at once."""
    pair = CorePair(InsecureSessionConfig())
    pair.pump()
    for role, core in pair.cores.items():
        assert core.phase is Phase.RUNNING
        assert core.exchanger.session_id == b""
        assert pair.sent_numbers(role) == [KEXINIT]
        assert not pair.of_type(role, ExtensionsReceived)
    pair.assert_usable()
    with pytest.raises(LocalProtocolError):
        pair.client.start_rekey(pair.now)


@pytest.mark.parametrize("lax", Role)
def test_a_peer_without_protection_that_announces_extensions(lax: Role) -> None:
    """KEX-06: the Go member does; without keys there is nothing to tell them under."""
    marker = Marker.EXT_INFO_CLIENT if lax is CLIENT else Marker.EXT_INFO_SERVER
    offers: dict[str, Any] = {
        f"{lax.name.lower()}_offer": kexinit_with(kex_algorithms=(KeyExchange.NONE, marker))
    }
    pair = CorePair(InsecureSessionConfig(), **offers)
    pair.pump()
    for role in Role:
        assert pair.sent_numbers(role) == [KEXINIT]
    pair.assert_usable()


@pytest.mark.parametrize("talker", Role)
def test_a_peer_without_protection_talks_right_behind_its_kexinit(talker: Role) -> None:
    """KEX-06: it waits for nobody, so its first request may come with the identification."""
    pair = CorePair(InsecureSessionConfig())
    for role in Role:
        pair.handle(role, pair.cores[role].poll_events())
    pair.cross(talker.other)
    pair.connections[talker].open_channel("early")
    first = len(pair.log)
    pair.cross(talker)
    told = [type(event) for role, event in pair.log[first:] if role is talker.other]
    assert told[-1] is ChannelOpenReceived
    pair.pump()
    pair.assert_usable()


@pytest.mark.parametrize("secure", Role)
def test_protection_is_never_negotiated_away(secure: Role) -> None:
    """T-04, HR-19: a side that protects and one that does not never come together."""
    configs = {secure: fast_config(), secure.other: InsecureSessionConfig()}
    pair = CorePair(configs[CLIENT], configs[SERVER])
    pair.pump()
    for role in Role:
        error = assert_terminated(pair, role, DisconnectReason.KEY_EXCHANGE_FAILED)
        assert isinstance(error, NegotiationError)


@pytest.mark.parametrize("field", CHOICES)
@pytest.mark.parametrize("lax", Role)
def test_a_peer_that_also_offers_none(lax: Role, field: str) -> None:
    """T-04: ``none``, even as the only name that a peer offers, is never taken by a secure side."""
    for names in (("none",), ("none", *CHOICES[field])):
        offers: dict[str, Any] = {f"{lax.name.lower()}_offer": kexinit_with(**{field: names})}
        pair = CorePair(SessionConfig(), **offers)
        pair.pump()
        honest = pair.cores[lax.other]
        algorithms = honest.exchanger.algorithms
        if algorithms is not None:
            assert KeyExchange.NONE not in (
                algorithms.key_exchange,
                algorithms.host_key,
                algorithms.encryption_client_to_server,
                algorithms.encryption_server_to_client,
                algorithms.mac_client_to_server,
                algorithms.mac_server_to_client,
            )
        elif "compression" not in field:
            assert honest.phase is Phase.TERMINATED


@pytest.mark.parametrize(
    "field", ["key_exchanges", "host_key_algorithms", "encryptions", "macs", "compressions"]
)
def test_configurations_name_only_what_protects(field: str) -> None:
    """T-04, HR-19: unknown names, and ``none``, are refused when a configuration is made."""
    for name in ("aes512-xyz", "none", "3des-cbc", "ssh-rsa", "zlib"):
        if (field, name) == ("compressions", "none"):
            continue
        changes: dict[str, Any] = {field: [name]}
        with pytest.raises(ValueError, match=field):
            SessionConfig(**changes)
        changes = {field: [Encryption.AES256_GCM]}
        with pytest.raises(ValueError, match=field):
            InsecureSessionConfig(**changes)


# KEXINIT as a peer may send it


def kexinit_with(**changes: Any) -> Offer:
    """Return an offer with some fields changed."""
    return lambda kexinit, is_initial: replace(kexinit, **changes)


METHOD = KeyExchange.CURVE25519_SHA256
TAKEN: dict[str, Offer] = {
    "a reserved field": kexinit_with(reserved=2**32 - 1),
    "languages": kexinit_with(languages_client_to_server=("de", "fr-FR")),
    "names twice": kexinit_with(kex_algorithms=(METHOD, METHOD, METHOD)),
    "256 names": kexinit_with(kex_algorithms=(*(f"x{n}" for n in range(255)), METHOD)),
    "a long name": kexinit_with(kex_algorithms=("x" * 64, METHOD)),
    "other markers": kexinit_with(kex_algorithms=(METHOD, "kex-strict-x", "ext-info-x")),
    "a server's markers": kexinit_with(
        kex_algorithms=(METHOD, Marker.STRICT_SERVER, Marker.EXT_INFO_SERVER)
    ),
}
REFUSED: dict[str, Offer] = {
    "257 names": kexinit_with(kex_algorithms=(*(f"x{n}" for n in range(256)), METHOD)),
    "a name too long": kexinit_with(kex_algorithms=("x" * 65, METHOD)),
    "an empty name": kexinit_with(kex_algorithms=("", METHOD)),
    "a blank in a name": kexinit_with(kex_algorithms=("a b", METHOD)),
    "17 KiB": kexinit_with(
        **{name: tuple(f"{n:064}" for n in range(60)) for name in list(CHOICES)[:5]}
    ),
}


@pytest.mark.parametrize("case", TAKEN)
def test_unusual_offers(case: str) -> None:
    """HR-16: what does not matter is passed over."""
    pair = CorePair(client_offer=TAKEN[case])
    pair.pump()
    pair.authenticate()
    pair.assert_usable()


@pytest.mark.parametrize("case", REFUSED)
def test_offers_beyond_the_limits(case: str) -> None:
    """HR-16: refused before anything is made of them."""
    pair = CorePair(client_offer=REFUSED[case])
    pair.pump()
    assert_terminated(pair, SERVER, DisconnectReason.PROTOCOL_ERROR)


@pytest.mark.parametrize("field", list(CHOICES))
@pytest.mark.parametrize("lax", Role)
def test_empty_lists(lax: Role, field: str) -> None:
    """HR-16: an empty list is nothing in common."""
    offers: dict[str, Any] = {f"{lax.name.lower()}_offer": kexinit_with(**{field: ()})}
    pair = CorePair(fast_config(encryptions=[Encryption.AES256_CTR]), **offers)
    pair.pump()
    for role in Role:
        assert_terminated(pair, role, DisconnectReason.KEY_EXCHANGE_FAILED)


BAD_POINTS = [b"", bytes(32), b"\x01" + bytes(31), b"\x05" * 31, b"\x05" * 33, b"\x04" + b"x" * 64]


@pytest.mark.parametrize("point", BAD_POINTS, ids=[f"{p[:1].hex()}-{len(p)}" for p in BAD_POINTS])
def test_public_values_that_are_none(point: bytes) -> None:
    """HR-43: refused as a failed key exchange, before anything is signed."""
    peer = ScriptedPeer(SERVER)
    peer.greet()
    peer.send("KEXINIT")
    peer.send_payload(KexDhInit(point).encode())
    assert peer.is_over
    assert not [event for event in peer.events if isinstance(event, SignatureRequested)]
    assert peer.heard[-1][:5] == b"\x01\0\0\0\x03"


# Host keys


def test_a_server_offers_only_what_its_keys_can_sign() -> None:
    """A server's list is narrowed to its keys, in the order of its configuration."""
    keys = [key_for("ecdsa-sha2-nistp384"), key_for("rsa-sha2-512")]
    pair = CorePair(SessionConfig(), host_keys=keys)
    pair.pump()
    offer = KexInit.decode(pair.sent(SERVER)[0])
    assert offer.server_host_key_algorithms == (
        HostKeyAlgorithm.RSA_SHA2_512,
        HostKeyAlgorithm.RSA_SHA2_256,
        HostKeyAlgorithm.ECDSA_NISTP384,
    )
    assert KexInit.decode(pair.sent(CLIENT)[0]).server_host_key_algorithms == tuple(
        SessionConfig().host_key_algorithms
    )
    assert pair.client.exchanger.host_key == keys[1]


@pytest.mark.parametrize("algorithm", HOST_KEY_ALGORITHMS)
def test_a_server_with_several_keys_uses_the_one_that_was_agreed_on(algorithm: str) -> None:
    """Every key of the server is found by the algorithm that the client prefers."""
    keys = [key_for(name) for name in dict.fromkeys(HOST_KEY_ALGORITHMS)]
    names = [algorithm, *(name for name in HOST_KEY_ALGORITHMS if name != algorithm)]
    pair = CorePair(
        fast_config(host_key_algorithms=names),
        fast_config(host_key_algorithms=HOST_KEY_ALGORITHMS),
        host_keys=keys,
    )
    pair.pump()
    assert pair.client.exchanger.host_key == key_for(algorithm)


def test_a_host_key_whose_private_half_lives_elsewhere() -> None:
    """KEX-09: the core knows the public half, and asks for the signature."""
    key = host_key("ecdsa-sha2-nistp256", 7)
    config = fast_config(host_key_algorithms=["ecdsa-sha2-nistp256"])
    asked: list[tuple[bool, str]] = []

    def sign(event: SignatureRequested, now: float) -> None:
        asked.append((event.key.has_private, event.algorithm))
        event.supply(key.sign(event.data, event.algorithm), now)

    pair = running_pair(config, host_keys=[key.public()], answers=Answers(signature=sign))
    pair.assert_usable()
    assert asked == [(False, "ecdsa-sha2-nistp256")]


def test_a_server_without_a_usable_key() -> None:
    """Nothing in common, told on both sides; no key of another kind is tried."""
    pair = CorePair(fast_config(), host_keys=[key_for("ecdsa-sha2-nistp256")])
    pair.pump()
    for role in Role:
        error = assert_terminated(pair, role, DisconnectReason.KEY_EXCHANGE_FAILED)
        assert isinstance(error, NegotiationError)


def client_of_script(**arguments: Any) -> ScriptedPeer:
    peer = ScriptedPeer(
        CLIENT, authenticate=lambda client: client.request_password("a", "secret"), **arguments
    )
    peer.greet()
    return peer


def refused_for_its_key(peer: ScriptedPeer) -> HostKeyError:
    """Return the client's error; it must have ended with DISCONNECT 9 and sent no credential."""
    assert peer.is_over
    (end,) = [event for event in peer.events if isinstance(event, ConnectionTerminated)]
    assert isinstance(end.error, HostKeyError)
    assert peer.heard[-1][:5] == b"\x01\0\0\0\x09"
    return end.error


SIGNATURES: dict[str, Callable[[], bytes]] = {
    "by another key": lambda: host_key("ssh-ed25519", 1).sign(b"x" * 32),
    "of something else": lambda: host_key().sign(b"x" * 32),
    "empty": lambda: wire.string(b""),
    "cut": lambda: host_key().sign(b"x" * 32)[:-1],
    "named otherwise": lambda: wire.string("rsa-sha2-512") + wire.string(bytes(64)),
}


@pytest.mark.parametrize("case", SIGNATURES)
def test_a_server_that_does_not_prove_its_key(case: str) -> None:
    """T-26: DISCONNECT 9, nobody is asked about the key, and no credential leaves."""
    peer = client_of_script()
    peer.send("KEXINIT")
    peer.signature = SIGNATURES[case]()
    peer.send("KEXDH_REPLY")
    refused_for_its_key(peer)
    assert [payload[0] for payload in peer.heard] == [20, 30, 1]


def test_a_signature_of_another_exchange() -> None:
    """T-26: what was signed once does not help a second time."""
    first = client_of_script()
    first.send("KEXINIT")
    first.send("KEXDH_REPLY")
    assert not first.is_over
    second = client_of_script()
    second.send("KEXINIT")
    second.send_payload(first.sent[-1])
    refused_for_its_key(second)


@pytest.mark.parametrize("number", [0, 1], ids=["the same", "another"])
def test_the_host_key_at_a_rekey(number: int) -> None:
    """T-26, HR-36: it must be the one of the first exchange, even if it is proved."""
    peer = client_of_script()
    for name in ("KEXINIT", "KEXDH_REPLY", "NEWKEYS", "SERVICE_ACCEPT", "USERAUTH_SUCCESS"):
        peer.send(name)
    peer.host_key = host_key("ssh-ed25519", number)
    peer.send("KEXINIT")
    peer.send("KEXDH_REPLY")
    if number == 0:
        peer.send("NEWKEYS")
        assert peer.core.phase is Phase.RUNNING
    else:
        error = refused_for_its_key(peer)
        assert "changed" in str(error)
        assert error.fingerprint == peer.host_key.fingerprint
        assert NEWKEYS not in [payload[0] for payload in peer.heard[-2:]]


# Strict key exchange and packet numbers


@pytest.mark.parametrize("lax", [None, CLIENT, SERVER])
def test_packet_numbers(lax: Role | None) -> None:
    """HR-12: strict key exchange restarts them at every NEWKEYS, each direction by itself."""
    offers: dict[str, Any] = {f"{lax.name.lower()}_offer": not_strict} if lax else {}
    pair = running_pair(channels=1, **offers)
    for rekeys in range(3):
        if rekeys:
            pair.rekey(CLIENT)
        for role, core in pair.cores.items():
            assert core.exchanger.is_strict is (lax is None)
            numbers = pair.sent_numbers(role)
            last = len(numbers) - 1 - numbers[::-1].index(NEWKEYS)
            expected = len(numbers) - 1 - last if lax is None else len(numbers)
            assert core.transport.send_sequence == expected
            assert pair.cores[role.other].transport.receive_sequence == expected
    pair.assert_usable()


@pytest.mark.parametrize("lax", [None, CLIENT])
def test_unimplemented_names_the_packet(lax: Role | None) -> None:
    """RFC 4253 section 11.4: the number of the refused packet, as the sender counts it."""
    pair = running_pair(client_offer=not_strict if lax else None)
    sequence = pair.client.transport.send_sequence
    pair.inject(CLIENT, b"\xc8whatever")
    assert Unimplemented.decode(pair.sent(SERVER)[-1]).sequence_number == sequence


def test_markers_are_in_the_first_kexinit_only() -> None:
    """HR-12: strict key exchange and EXT_INFO are announced once."""
    pair = running_pair()
    pair.rekey(SERVER)
    expected = {
        CLIENT: {Marker.STRICT_CLIENT, Marker.EXT_INFO_CLIENT},
        SERVER: {Marker.STRICT_SERVER, Marker.EXT_INFO_SERVER},
    }
    for role in Role:
        first, second = (
            set(KexInit.decode(payload).kex_algorithms)
            for payload in pair.sent(role)
            if payload[0] == KEXINIT
        )
        assert first - second == expected[role]
        assert second == {METHOD}


@pytest.mark.parametrize("mac", MACS)
def test_each_key_has_the_letter_of_the_standard(mac: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 4253 section 7.2: initial vector, key and MAC key, by direction; both sides agree."""
    derived: dict[bytes, set[bytes]] = {}
    derive = ExchangeKeys.derive

    def watched(self: ExchangeKeys, letter: bytes, size: int) -> bytes:
        key = derive(self, letter, size)
        derived.setdefault(letter, set()).add(key)
        return key

    monkeypatch.setattr(ExchangeKeys, "derive", watched)
    lists = {"encryptions": (Encryption.AES256_CTR,), "macs": (mac,)}
    pair = CorePair(SessionConfig.with_reconnect(**FAST | lists))
    pair.pump()
    assert sorted(derived) == [b"A", b"B", b"C", b"D", b"E", b"F"]
    assert all(len(keys) == 1 for keys in derived.values())
    for role in Role:
        exchanger = pair.cores[role].exchanger
        assert exchanger.mac_key(to_server=True)[1] in derived[b"E"]
        assert exchanger.mac_key(to_server=False)[1] in derived[b"F"]
    pair.authenticate()
    for role in Role:
        with pytest.raises(LocalProtocolError, match="not complete"):
            pair.cores[role].exchanger.mac_key(to_server=True)


@pytest.mark.parametrize("is_right", [True, False])
def test_whether_a_guess_would_have_been_right_is_known_of_the_first_exchange(
    is_right: bool,
) -> None:
    """A client guesses next time, if so; later exchanges are with a peer that is known."""
    pair = running_pair(
        fast_config(key_exchanges=METHODS[:2]),
        fast_config(key_exchanges=METHODS[:2] if is_right else METHODS[1:2]),
    )
    assert [core.exchanger.guess_is_right for core in pair.cores.values()] == [is_right] * 2
    pair.rekey(CLIENT)
    assert [core.exchanger.guess_is_right for core in pair.cores.values()] == [is_right] * 2


def test_every_cookie_is_random() -> None:
    """HR-08, RFC 4253 section 7.1, WIO-18: neither side alone decides what is signed."""
    pair = running_pair()
    pair.rekey(CLIENT)
    cookies = {
        KexInit.decode(payload).cookie
        for role in Role
        for payload in pair.sent(role)
        if payload[0] == KEXINIT
    }
    assert len(cookies) == 4
    assert all(len(cookie) == 16 and len(set(cookie)) > 4 for cookie in cookies)


# A guessed first message

NAMES = (KeyExchange.CURVE25519_SHA256, KeyExchange.ECDH_NISTP256)
KEYS = (HostKeyAlgorithm.ED25519, HostKeyAlgorithm.ECDSA_NISTP256)
ORDERS = [(0, 1), (1, 0), (0,)]


def in_order(names: Sequence[str], order: Sequence[int]) -> list[str]:
    return [names[index] for index in order]


@pytest.mark.parametrize("identification", ["SSH-2.0-peer_1.0", DEV_TUNNELS])
def test_guesses(identification: str) -> None:
    """T-06, HR-17, KEX-07: right and wrong guesses connect, whatever the two sides prefer.

    Elsewhere a guess is right if both sides have the same first method and the same first host
    key; in the Dev Tunnels family if the method that was agreed on is the client's first.
    """
    wrong = 0
    for orders in itertools.product(ORDERS, repeat=4):
        client_methods, server_methods = (in_order(NAMES, order) for order in orders[:2])
        client_keys, server_keys = (in_order(KEYS, order) for order in orders[2:])
        common = next((name for name in client_methods if name in server_methods), None)
        assert common
        pair = running_pair(
            fast_config(
                key_exchanges=client_methods,
                host_key_algorithms=client_keys,
                guess_key_exchange=True,
            ),
            fast_config(key_exchanges=server_methods, host_key_algorithms=server_keys),
            host_keys=[key_for(name) for name in KEYS],
            client_identification=identification,
            server_identification=identification,
        )
        is_right = (
            common == client_methods[0]
            if identification == DEV_TUNNELS
            else client_methods[0] == server_methods[0] and client_keys[0] == server_keys[0]
        )
        wrong += not is_right
        assert KexInit.decode(pair.sent(CLIENT)[0]).first_kex_packet_follows
        inits = pair.sent_numbers(CLIENT).count(MessageNumber.KEXDH_INIT)
        assert inits == (1 if is_right else 2), orders
        assert pair.server.exchanger.algorithms == pair.client.exchanger.algorithms
        pair.assert_usable()
    assert 0 < wrong < 81


GUESSES = (b"no point at all", bytes(32))


@pytest.mark.parametrize("guess", GUESSES)
@pytest.mark.parametrize("is_right", [True, False])
def test_exactly_one_wrong_guess_is_dropped(is_right: bool, guess: bytes) -> None:
    """HR-17: unread, whatever it holds; but one that was right is no guess any more."""
    peer = ScriptedPeer(SERVER, key_exchanges=NAMES if is_right else NAMES[::-1])
    peer.guesses = True
    peer.greet()
    peer.send("KEXINIT")
    peer.send_payload(KexDhInit(guess).encode())
    assert peer.is_over is is_right
    if not is_right:
        for name in ("KEXDH_INIT", "NEWKEYS", "SERVICE_REQUEST", "USERAUTH_REQUEST"):
            peer.send(name)
        assert peer.core.phase is Phase.RUNNING


@pytest.mark.parametrize("key_exchanges", [NAMES, NAMES[::-1]], ids=["right", "wrong"])
def test_a_second_guess_is_refused(key_exchanges: Sequence[str]) -> None:
    """HR-17: at most one message 30 besides the right one."""
    peer = ScriptedPeer(SERVER, key_exchanges=key_exchanges)
    peer.guesses = True
    peer.greet()
    peer.send("KEXINIT")
    for _ in range(3):
        assert not peer.is_over
        peer.send("KEXDH_INIT")
        if key_exchanges is NAMES:
            peer.send("KEXDH_INIT")
            break
    assert peer.is_over


def test_an_unannounced_guess_is_refused() -> None:
    """HR-17: without the flag there is one message 30, the right one."""
    peer = ScriptedPeer(SERVER)
    peer.greet()
    peer.send("KEXINIT")
    peer.send("KEXDH_INIT")
    peer.send("KEXDH_INIT")
    assert peer.is_over


def test_only_a_client_guesses_and_only_once() -> None:
    """The option is the client's, and for the first exchange."""
    pair = running_pair(fast_config(guess_key_exchange=True))
    pair.rekey(CLIENT)
    flags = {
        role: [
            KexInit.decode(payload).first_kex_packet_follows
            for payload in pair.sent(role)
            if payload[0] == KEXINIT
        ]
        for role in Role
    }
    assert flags == {CLIENT: [True, False], SERVER: [False, False]}
    assert pair.sent_numbers(CLIENT)[:2] == [KEXINIT, MessageNumber.KEXDH_INIT]


# EXT_INFO


def test_ext_info_is_the_first_message_under_new_keys() -> None:
    """KEX-12, RFC 8308: both send it at once, never again; only a server says what it takes."""
    names = (HostKeyAlgorithm.ED25519, HostKeyAlgorithm.RSA_SHA2_256)
    extensions = (Extension.SERVER_SIG_ALGS, Extension.OPEN_CHANNEL_REQUEST)
    pair = running_pair(fast_config(host_key_algorithms=names, extensions=extensions))
    pair.rekey(CLIENT)
    from_client = {Extension.OPEN_CHANNEL_REQUEST: b""}
    from_server = {Extension.SERVER_SIG_ALGS: b"ssh-ed25519,rsa-sha2-256", **from_client}
    for role in Role:
        expected = from_server if role is CLIENT else from_client
        numbers = pair.sent_numbers(role)
        assert numbers[numbers.index(NEWKEYS) + 1] == MessageNumber.EXT_INFO
        assert numbers.count(MessageNumber.EXT_INFO) == 1
        assert [event.extensions for event in pair.of_type(role, ExtensionsReceived)] == [expected]


@pytest.mark.parametrize("silent", Role)
def test_ext_info_is_for_those_who_ask(silent: Role) -> None:
    """RFC 8308 section 2.1: a side that did not ask for it gets none."""

    def offer(kexinit: KexInit, is_initial: bool) -> KexInit:
        names = kexinit.kex_algorithms
        kept = tuple(name for name in names if not name.startswith("ext-info"))
        return replace(kexinit, kex_algorithms=kept)

    config = fast_config(extensions=(Extension.SERVER_SIG_ALGS, Extension.OPEN_CHANNEL_REQUEST))
    offers: dict[str, Any] = {f"{silent.name.lower()}_offer": offer}
    pair = running_pair(config, config, **offers)
    assert MessageNumber.EXT_INFO not in pair.sent_numbers(silent.other)
    assert MessageNumber.EXT_INFO in pair.sent_numbers(silent)


def test_a_client_does_not_say_what_is_for_servers_to_say() -> None:
    """RFC 8308 section 3.1: a server may close the connection of a client that does."""
    pair = running_pair(fast_config(extensions=(Extension.SERVER_SIG_ALGS,)))
    assert MessageNumber.EXT_INFO not in pair.sent_numbers(CLIENT)
    assert MessageNumber.EXT_INFO in pair.sent_numbers(SERVER)


def test_ext_info_tells_a_client_which_signatures_the_server_takes() -> None:
    """HR-46: the list is there before the client signs anything."""
    pair = CorePair(fast_config(), fast_config(host_key_algorithms=KEYS))
    pair.pump()
    authentication = pair.client.client_authentication
    assert authentication.signature_algorithms == frozenset(KEYS)


def test_ext_info_right_before_success() -> None:
    """RFC 8308 section 2.4: a server may tell more once it knows the user."""
    peer = client_of_script()
    for name in ("KEXINIT", "KEXDH_REPLY", "NEWKEYS", "EXT_INFO", "SERVICE_ACCEPT"):
        peer.send(name)
    peer.send_payload(ExtInfo({"late": b"1"}).encode())
    peer.send("USERAUTH_SUCCESS")
    assert peer.core.phase is Phase.RUNNING
    told = [event.extensions for event in peer.events if isinstance(event, ExtensionsReceived)]
    assert told == [{"server-sig-algs": b"ssh-ed25519"}, {"late": b"1"}]


# New keys


@pytest.mark.parametrize("starters", [(CLIENT,), (SERVER,), (CLIENT, SERVER)], ids=str)
@pytest.mark.parametrize("offer", [None, not_strict], ids=["strict", "not strict"])
def test_rekey_started_by(starters: tuple[Role, ...], offer: Offer | None) -> None:
    """T-17, KEX-08, ROT-08: from either side or both at once; the session id stays."""
    pair = running_pair(channels=1, client_offer=offer)
    session_id = pair.client.exchanger.session_id
    for count in range(1, 4):
        for starter in starters:
            pair.cores[starter].start_rekey(pair.now)
        pair.pump()
        for role, core in pair.cores.items():
            assert exchanges(pair, role) == count
            assert pair.sent_numbers(role).count(KEXINIT) == count + 1
            assert core.phase is Phase.RUNNING
            assert core.exchanger.session_id == session_id
        pair.assert_usable()


def test_rekey_changes_the_keys() -> None:
    """Two exchanges never give the same packets for the same payload."""
    pair = running_pair()
    seen = set()
    for _ in range(3):
        pair.rekey(CLIENT)
        pair.client.transport.send(Ignore(b"the same").encode())
        (packet,) = pair.take(CLIENT)
        pair.feed(SERVER, packet)
        seen.add(packet)
    assert len(seen) == 3


def test_a_second_wish_during_an_exchange_changes_nothing() -> None:
    """One exchange at a time."""
    pair = running_pair()
    pair.client.start_rekey(pair.now)
    pair.client.start_rekey(pair.now)
    pair.pump()
    assert exchanges(pair) == 1


@pytest.mark.parametrize("sender", Role)
@pytest.mark.parametrize("starter", Role)
def test_rekey_by_bytes(starter: Role, sender: Role) -> None:
    """HR-25, ROT-02: after so many bytes in one direction, whichever it is."""
    configs = {starter: fast_config(rekey_bytes=100_000), starter.other: fast_config()}
    pair = running_pair(configs[CLIENT], configs[SERVER], channels=1)
    channel = pair.channels[0][0 if sender is CLIENT else 1]
    for count in range(1, 4):
        pair.send(sender, channel, bytes(90_000))
        assert exchanges(pair) == count - 1
        pair.send(sender, channel, bytes(20_000))
        assert exchanges(pair) == count
    assert len(b"".join(pair.received.values())) == 330_000


@pytest.mark.parametrize("starter", Role)
def test_rekey_by_packets(starter: Role) -> None:
    """HR-25: after so many packets in one direction."""
    configs = {starter: fast_config(rekey_packets=50), starter.other: fast_config()}
    pair = running_pair(configs[CLIENT], configs[SERVER])
    before = pair.client.transport.messages_sent
    for _ in range(60):
        pair.connections[CLIENT].request_global("x", b"", want_reply=False)
        pair.pump()
    assert exchanges(pair) == 1
    assert pair.client.transport.messages_sent < before + 60 + 5


@pytest.mark.parametrize("starter", Role)
def test_rekey_by_time(starter: Role) -> None:
    """HR-25: after so many seconds, on an idle connection too; the other side's clock restarts."""
    configs = {starter: fast_config(rekey_time=600.0), starter.other: fast_config(rekey_time=900.0)}
    pair = running_pair(configs[CLIENT], configs[SERVER])
    pair.advance(599)
    assert exchanges(pair) == 0
    for count in range(1, 10):
        pair.advance(600)
        assert exchanges(pair) == count
    for role in Role:
        assert pair.sent_numbers(role).count(KEXINIT) == 10
    pair.assert_usable()


def test_many_rekeys_in_a_stream() -> None:
    """ROT-04, ROT-05: 256 KiB through keys that last 4 KiB on both sides, every byte in order."""
    pair = running_pair(fast_config(rekey_bytes=4096), channels=1)
    data = bytes(range(256)) * 1024
    for start in range(0, len(data), 3000):
        for role in Role:
            index = 0 if role is CLIENT else 1
            pair.send(role, pair.channels[0][index], data[start : start + 3000])
    for role in Role:
        index = 0 if role is CLIENT else 1
        assert pair.received[role, pair.channels[0][index].local_id] == data
    assert exchanges(pair) >= 50
    assert exchanges(pair) == exchanges(pair, SERVER)


@pytest.mark.parametrize("offer", [None, not_strict], ids=["strict", "not strict"])
def test_both_sides_count_the_same(offer: Offer | None) -> None:
    """ROT-01: bytes and messages sent on one side are those received on the other."""
    pair = running_pair(channels=1, client_offer=offer)
    for sender in (CLIENT, SERVER, CLIENT):
        ours = pair.cores[sender].transport.traffic
        theirs = pair.cores[sender.other].transport.traffic
        assert (ours.bytes_sent, ours.messages_sent) == (
            theirs.bytes_received,
            theirs.messages_received,
        )
        assert ours.messages_sent == len(pair.sent(sender))
        assert ours.bytes_sent == sum(pair.transport(sender).sizes)
        pair.assert_usable()
        pair.rekey(sender)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(Role), st.integers(0, 2), st.integers(1, 5000)),
        st.tuples(st.just("rekey"), st.sampled_from(Role)),
        st.tuples(st.just("move"), st.sampled_from(Role), st.integers(1, 3000)),
        st.tuples(st.just("request"), st.sampled_from(Role)),
        st.tuples(st.just("close"), st.sampled_from(Role), st.integers(0, 2)),
    ),
    max_size=40,
)


@settings(max_examples=50)
@given(steps=STEPS, strict=st.booleans())
def test_rekeys_among_everything_else(steps: list[tuple[Any, ...]], strict: bool) -> None:
    """T-17, KEX-11: no byte is lost or moved by new keys, whoever wants them, at any byte."""
    pair = running_pair(channels=3, client_offer=None if strict else not_strict)
    wires = {role: bytearray() for role in Role}
    sent: dict[tuple[Role, int], bytearray] = {}
    replies = dict.fromkeys(Role, 0)
    closed: set[int] = set()
    for step in steps:
        role: Role = step[1]
        connection = pair.connections[role]
        index = 0 if role is CLIENT else 1
        match step:
            case ("send", _, number, size) if number not in closed:
                ours = pair.channels[number][index]
                so_far = sent.setdefault((role, number), bytearray())
                words = bytes((len(so_far) + offset) % 251 for offset in range(size))
                so_far += words[: connection.send_data(ours, memoryview(words))]
                connection.stop_sending(ours)
            case ("rekey", _):
                pair.cores[role].start_rekey(pair.now)
            case ("move", _, size):
                wires[role] += b"".join(pair.take(role))
                piece = bytes(wires[role][:size])
                del wires[role][:size]
                pair.feed(role.other, piece)
            case ("request", _):
                connection.request_global("x", b"", want_reply=True)
                replies[role] += 1
            case ("close", _, number):
                closed.add(number)
                connection.close(pair.channels[number][index])
    for role in Role:
        wires[role] += b"".join(pair.take(role))
        pair.feed(role.other, bytes(wires[role]))
    pair.pump()
    for role, core in pair.cores.items():
        assert core.phase is Phase.RUNNING, pair.events[role][-1]
        assert len(pair.of_type(role, ReplyReceived)) == replies[role]
        assert len(pair.of_type(role, ChannelClosed)) == len(closed)
    for (role, number), data in sent.items():
        theirs = pair.channels[number][1 if role is CLIENT else 0]
        received = pair.received[role.other, theirs.local_id]
        assert data.startswith(received)
        assert len(received) == len(data) or number in closed
    assert exchanges(pair) == exchanges(pair, SERVER)


def test_rekey_while_a_channel_closes() -> None:
    """T-17: the channel's last words and both CLOSEs cross the exchange."""
    pair = running_pair(channels=2)
    (client, server), _ = pair.channels
    pair.client.start_rekey(pair.now)
    pair.connections[SERVER].send_data(server, memoryview(b"last words"))
    pair.connections[SERVER].close(server, exit_status=3)
    pair.connections[CLIENT].close(client)
    pair.pump()
    assert pair.received[CLIENT, client.local_id] == b""
    assert [len(pair.of_type(role, ChannelClosed)) for role in Role] == [1, 1]
    assert [connection.channel_count for connection in pair.connections.values()] == [1, 1]
    pair.channels.pop(0)
    pair.assert_usable()


def test_goodbye_during_an_exchange() -> None:
    """DISCONNECT does not wait for new keys."""
    pair = running_pair()
    pair.client.start_rekey(pair.now)
    pair.client.disconnect(DisconnectReason.BY_APPLICATION, "enough")
    pair.pump()
    assert isinstance(pair.termination(SERVER), Disconnected)


# What waits for new keys


def test_what_waits_for_new_keys_keeps_its_order() -> None:
    """KEX-10: from KEXINIT to NEWKEYS nothing leaves but the exchange; then all of it, in order."""
    pair = running_pair(channels=2)
    connection = pair.connections[CLIENT]
    (first, _), (second, _) = pair.channels
    pair.client.start_rekey(pair.now)
    kexinit = b"".join(pair.take(CLIENT))
    sent = len(pair.sent(CLIENT))
    connection.request_global("one", b"", want_reply=True)
    connection.open_channel("session")
    connection.request_channel(first, "two", b"", want_reply=True)
    connection.send_eof(first)
    connection.close(second, exit_status=1)
    pair.client.request_service("ssh-connection")
    assert pair.take(CLIENT) == []
    pair.feed(SERVER, kexinit)
    pair.pump()
    held = [80, 90, 98, 96, 98, 97, 5]
    assert pair.sent_numbers(CLIENT)[sent : sent + 9] == [30, 21, *held]


def test_data_waits_for_new_keys_and_is_asked_for_again() -> None:
    """KEX-11: a sender that was put off is told when to go on."""
    pair = running_pair(channels=1)
    (client, server) = pair.channels[0]
    pair.client.start_rekey(pair.now)
    assert pair.connections[CLIENT].send_data(client, memoryview(b"later")) == 0
    log = pair.pump()
    told = [type(event).__name__ for role, event in log if role is CLIENT]
    assert told.index("ChannelWritable") > told.index("KeyExchangeCompleted")
    pair.send(CLIENT, client, b"now")
    assert pair.received[SERVER, server.local_id] == b"now"


@pytest.mark.parametrize("starter", Role)
def test_answers_wait_for_new_keys_too(starter: Role) -> None:
    """RFC 4253 section 7.1: replies, credit, CLOSE and SERVICE_ACCEPT too wait for new keys."""
    pair = running_pair(channels=2)
    role = starter.other
    index = 0 if starter is CLIENT else 1
    connection = pair.connections[role]
    for number in range(2):
        theirs = pair.channels[number][1 - index]
        if number == 0:
            connection.send_data(theirs, memoryview(bytes(600_000)))
            connection.request_channel(theirs, "shell", b"", want_reply=True)
            connection.request_global("x", b"", want_reply=True)
        else:
            connection.close(theirs)
    connection.open_channel("session")
    if starter is SERVER:
        pair.client.request_service("ssh-connection")
    on_the_way = pair.take(role)
    pair.cores[starter].start_rekey(pair.now)
    sent = len(pair.sent(starter))
    pair.feed(starter, b"".join(on_the_way))
    assert pair.of_type(starter, GlobalRequestReceived)
    assert pair.of_type(starter, ChannelDataReceived)
    assert pair.sent_numbers(starter)[sent:] == []
    pair.pump()
    numbers = pair.sent_numbers(starter)[sent:]
    expected = [93, 99, 81, 97, 91] + ([6] if starter is SERVER else [])
    assert sorted(number for number in numbers if number not in (30, 31, 21)) == sorted(expected)
    assert numbers.index(NEWKEYS) < numbers.index(93)
    pair.assert_usable()


def test_noise_need_not_wait() -> None:
    """KEX-10: messages 1 to 4 may cross an exchange."""
    pair = running_pair()
    pair.client.start_rekey(pair.now)
    pair.inject(SERVER, b"\xc8", pump=False)
    pair.feed(CLIENT, b"".join(pair.take(SERVER)))
    assert pair.sent_numbers(CLIENT)[-1] == MessageNumber.UNIMPLEMENTED
    pair.pump()
    assert exchanges(pair) == 1


def test_messages_of_a_peer_that_has_asked_for_new_keys() -> None:
    """RFC 4253 section 7.1: after its KEXINIT a peer sends nothing else; D(2) if it does."""
    pair = running_pair(channels=1)
    pair.client.start_rekey(pair.now)
    pair.inject(CLIENT, GlobalRequest("x", False).encode())
    assert_terminated(pair, SERVER, DisconnectReason.PROTOCOL_ERROR, "not allowed")
    assert not pair.of_type(SERVER, GlobalRequestReceived)


# The Dev Tunnels family


def family_pair(identification: str, **config: Any) -> CorePair:
    """Return a running pair of which both sides say that they belong to the family."""
    return running_pair(
        fast_config(**config),
        channels=1,
        client_identification=identification,
        server_identification=identification,
    )


@pytest.mark.parametrize("count, size", [(64, 1000), (64, 32_000), (65, 100), (3, 900_000)])
def test_dev_tunnels_peers_do_not_hold_back(count: int, size: int) -> None:
    """Decision 2: what they send behind KEXINIT is kept until their NEWKEYS, up to a limit."""
    pair = running_pair(
        fast_config(limits=Limits(packet_size=2**20)), client_identification=DEV_TUNNELS
    )
    payload = GlobalRequest("x", False, bytes(size)).encode()
    pair.answers.grant_requests = None
    pair.client.start_rekey(pair.now)
    for _ in range(count):
        pair.client.transport.send(payload)
    pair.feed(SERVER, b"".join(pair.take(CLIENT)))
    if count > 64 or count * size > 2 * 2**20:
        assert_terminated(pair, SERVER, DisconnectReason.PROTOCOL_ERROR)
        return
    assert not pair.of_type(SERVER, GlobalRequestReceived)
    pair.pump()
    # Nobody answers these requests here, and only so many may wait for an answer.
    assert len(pair.of_type(SERVER, GlobalRequestReceived)) == Limits().requests
    assert exchanges(pair, SERVER) == 1
    assert pair.server.phase is Phase.RUNNING


def test_dev_tunnels_data_behind_kexinit_keeps_its_order() -> None:
    """Decision 2: what was kept comes before what follows the new keys."""
    pair = running_pair(channels=1, client_identification=DEV_TUNNELS)
    client, server = pair.channels[0]
    pair.client.start_rekey(pair.now)
    for word in (b"one ", b"two "):
        pair.client.transport.send(ChannelData(client.remote_id, word).encode())
        client.send_window -= len(word)
    pair.pump()
    pair.send(CLIENT, client, b"three")
    assert pair.received[SERVER, server.local_id] == b"one two three"


def packet_length(size: int) -> int:
    """Return the packet_length of a whole sealed packet, here of AES-GCM: length field and tag."""
    return size - 4 - 16


@pytest.mark.parametrize("identification", [DEV_TUNNELS, "SSH-2.0-Microsoft.DevTunnels.Ssh_3.12"])
@pytest.mark.parametrize("starter", Role)
def test_dev_tunnels_keys_last_for_the_bytes_of_both_directions(
    starter: Role, identification: str
) -> None:
    """Toward the C# and TypeScript members: packet_length of all packets, both ways, more than."""
    threshold = 50_000
    configs = {starter: fast_config(rekey_bytes=threshold), starter.other: fast_config()}
    names: dict[str, Any] = {f"{starter.other.name.lower()}_identification": identification}
    pair = running_pair(configs[CLIENT], configs[SERVER], channels=1, **names)
    for _ in range(3):
        pair.rekey(starter.other)
        # Nothing followed the other side's NEWKEYS: what counts is what comes from here on.
        first = {role: len(pair.transport(role).sizes) for role in Role}

        def counted(first: dict[Role, int] = first) -> int:
            return sum(
                packet_length(size)
                for role in Role
                for size in pair.transport(role).sizes[first[role] :]
            )

        done = exchanges(pair)
        before = size = 0
        while exchanges(pair) == done:
            assert counted() <= threshold
            before = counted()
            size += 1500
            index = size // 1500 % 2
            pair.send((CLIENT, SERVER)[index], pair.channels[0][index], bytes(size))
        # The last packet made it too many, by its data and what it is wrapped in.
        assert before + size + 32 > threshold


@pytest.mark.parametrize("identification", [DEV_TUNNELS, DEV_TUNNELS_GO])
def test_dev_tunnels_peers_are_never_asked_for_another_reason(identification: str) -> None:
    """Time and packets are no reason toward the family."""
    pair = family_pair(identification, rekey_time=60.0, rekey_packets=20)
    for _ in range(50):
        pair.connections[CLIENT].request_global("x", b"", want_reply=True)
        pair.advance(60)
        pair.pump()
    assert exchanges(pair) == 0
    for role in Role:
        assert pair.sent_numbers(role).count(KEXINIT) == 1


def test_the_go_member_is_never_asked_and_always_answered() -> None:
    """It cannot answer; but may ask, again and again."""
    pair = running_pair(
        fast_config(rekey_bytes=10_000),
        fast_config(),
        channels=1,
        server_identification=DEV_TUNNELS_GO,
    )
    client, server = pair.channels[0]
    for count in range(1, 4):
        pair.send(CLIENT, client, bytes(200_000))
        pair.send(SERVER, server, bytes(200_000))
        assert exchanges(pair) == count - 1
        pair.rekey(SERVER)
        assert exchanges(pair) == count
        pair.assert_usable()


@pytest.mark.parametrize("identification", [DEV_TUNNELS, DEV_TUNNELS_GO])
def test_an_application_cannot_ask_the_family_either(identification: str) -> None:
    """They would end the session, or hang: better an error that changes nothing."""
    pair = running_pair(channels=1, server_identification=identification)
    with pytest.raises(LocalProtocolError):
        pair.client.start_rekey(pair.now)
    pair.pump()
    assert exchanges(pair) == 0
    pair.assert_usable()


# Limits


@pytest.mark.parametrize(
    "counter, enough",
    [
        ("bytes_sent", 512 * 1024 * 1024),
        ("bytes_received", 512 * 1024 * 1024),
        ("messages_sent", 2**28),
        ("messages_received", 2**28),
    ],
)
def test_keys_are_changed_in_time_by_default(counter: str, enough: int) -> None:
    """HR-25: after 512 MiB or 2**28 packets in either direction, or an hour."""
    for missing in (100_000, 0):
        pair = running_pair()
        transport: Any = pair.client.transport
        setattr(transport, counter, getattr(transport, counter) + enough - missing)
        pair.pump()
        assert exchanges(pair) == (0 if missing else 1)
    pair = running_pair()
    pair.advance(3599.9)
    assert exchanges(pair) == 0
    pair.advance(0.2)
    assert exchanges(pair) >= 1


@pytest.mark.parametrize("victim", Role)
def test_key_exchanges_of_the_peer_are_rationed(victim: Role) -> None:
    """HR-18: six in a burst, then one in ten seconds."""
    pair = running_pair()
    for count in range(1, 7):
        pair.rekey(victim.other)
        assert exchanges(pair) == count
    pair.advance(10.0)
    pair.rekey(victim.other)
    assert exchanges(pair) == 7
    pair.rekey(victim.other)
    assert_terminated(pair, victim, DisconnectReason.PROTOCOL_ERROR)


@pytest.mark.parametrize("victim", Role)
def test_one_key_exchange_at_a_time(victim: Role) -> None:
    """HR-18: whoever begins a second one in the middle of the first ends the connection."""
    pair = running_pair()
    pair.cores[victim.other].start_rekey(pair.now)
    pair.inject(victim.other, pair.sent(victim.other)[-1], pump=False)
    pair.cross(victim.other)
    assert_terminated(pair, victim, DisconnectReason.PROTOCOL_ERROR, "KEXINIT")
    assert exchanges(pair, victim) == 0


def test_our_own_key_exchanges_are_not_the_peers() -> None:
    """HR-18: what we start, or start at the same time, is not counted against the peer."""
    pair = running_pair(fast_config(), fast_config(limits=Limits(rekey_burst=1)))
    for count in range(1, 11):
        pair.server.start_rekey(pair.now)
        pair.client.start_rekey(pair.now)
        pair.pump()
        assert exchanges(pair) == count


def test_key_exchanges_after_much_traffic_are_welcome() -> None:
    """HR-18: a peer with smaller limits than ours is no attacker."""
    pair = running_pair(fast_config(rekey_bytes=2**20), fast_config(), channels=1)
    client, _ = pair.channels[0]
    for _ in range(12):
        pair.send(CLIENT, client, bytes(2**20))
    assert exchanges(pair) >= 10
    pair.assert_usable()


@pytest.mark.parametrize("identification", ["SSH-2.0-peer_1.0", DEV_TUNNELS_GO])
@pytest.mark.parametrize("counter", ["messages_sent", "messages_received"])
@pytest.mark.parametrize("role", Role)
def test_keys_have_an_end(role: Role, counter: str, identification: str) -> None:
    """HR-25: at 2**31 packets under one key the connection ends, whatever the peer's excuse."""
    names: dict[str, Any] = {f"{role.other.name.lower()}_identification": identification}
    pair = running_pair(channels=1, **names)
    transport = pair.cores[role].transport
    setattr(transport, counter, getattr(transport, counter) + 2**31)
    pair.inject(role.other, Ignore(b"").encode())
    assert_terminated(pair, role, DisconnectReason.PROTOCOL_ERROR, "keys")


@pytest.mark.parametrize("counter", ["bytes_sent", "bytes_received"])
def test_keys_have_an_end_in_bytes(counter: str) -> None:
    """HR-25, RFC 4344: 2**32 blocks of 16 bytes."""
    pair = running_pair(server_identification=DEV_TUNNELS_GO)
    transport = pair.client.transport
    setattr(transport, counter, getattr(transport, counter) + 2**36 - 2**20)
    pair.inject(SERVER, Ignore(b"").encode())
    assert pair.client.phase is Phase.RUNNING
    setattr(transport, counter, getattr(transport, counter) + 2**20)
    pair.inject(SERVER, Ignore(b"").encode())
    assert_terminated(pair, CLIENT, DisconnectReason.PROTOCOL_ERROR, "keys")


# Exchanges that never end


@pytest.mark.parametrize("starter", Role)
@pytest.mark.parametrize("trickle", [False, True], ids=["silence", "trickle"])
def test_a_rekey_that_is_not_answered(starter: Role, trickle: bool) -> None:
    """HR-25: ends in time, whatever else the peer sends; the core sleeps until then."""
    pair = running_pair(channels=1)
    core = pair.cores[starter]
    pair.now += 5
    end = pair.now + 20.0
    core.start_rekey(pair.now)
    core.data_to_send(pair.now)
    assert core.next_deadline() == end
    while pair.now < end - 1:
        pair.now += 1
        if trickle:
            payload = Ignore(b"still here").encode()
            pair.inject(starter.other, payload, pump=False)
            pair.feed(starter, b"".join(pair.take(starter.other)))
        pair.handle(starter, core.handle_timeout(pair.now))
        assert core.next_deadline() == end
    pair.handle(starter, core.handle_timeout(end))
    assert_terminated(pair, starter, DisconnectReason.PROTOCOL_ERROR, "new keys")


@pytest.mark.parametrize("victim", Role)
def test_a_rekey_that_the_peer_does_not_go_on_with(victim: Role) -> None:
    """HR-25: the same for one that the peer has started."""
    peer = ScriptedPeer(victim, authenticate=lambda client: client.request_password("a", "b"))
    peer.greet()
    is_server = victim is SERVER
    for name in (
        "KEXINIT",
        "KEXDH_INIT" if is_server else "KEXDH_REPLY",
        "NEWKEYS",
        "SERVICE_REQUEST" if is_server else "SERVICE_ACCEPT",
        "USERAUTH_REQUEST" if is_server else "USERAUTH_SUCCESS",
    ):
        peer.send(name)
    peer.send("KEXINIT")
    assert peer.core.phase is Phase.REKEYING
    for second in range(1, 20):
        peer.now = START + second
        peer.send("IGNORE")
        assert peer.core.next_deadline() == START + 20
        assert not peer.core.handle_timeout(peer.now)
    peer.core.handle_timeout(START + 20)
    assert peer.is_over


def test_a_late_answer_does_not_extend_a_rekey() -> None:
    """HR-25: twenty seconds from our KEXINIT, not from the peer's."""
    pair = running_pair()
    pair.server.start_rekey(pair.now)
    pair.server.data_to_send(pair.now)
    pair.now += 15
    pair.inject(CLIENT, pair.sent(CLIENT)[0], pump=False)
    pair.feed(SERVER, b"".join(pair.take(CLIENT)))
    assert pair.server.phase is Phase.REKEYING
    assert pair.server.next_deadline() == START + 20


def test_a_rekey_whose_signature_never_comes() -> None:
    """HR-25: a signer that hangs is no reason to hang with it."""
    pair = running_pair()
    pair.answers.signature = None
    pair.rekey(CLIENT)
    assert len(pair.of_type(SERVER, SignatureRequested)) == 2
    pair.advance(20.1)
    for role in Role:
        assert pair.cores[role].phase is Phase.TERMINATED


def test_a_rekey_by_time_that_is_not_answered() -> None:
    """The age of the keys is no deadline any more once new ones are being exchanged."""
    pair = running_pair(fast_config(rekey_time=100.0), fast_config())
    pair.now = START + 100
    pair.handle(CLIENT, pair.client.handle_timeout(pair.now))
    assert pair.client.next_deadline() == START + 120


def test_the_families_are_told_apart() -> None:
    """The identifications used above are what they are taken for."""
    assert PeerVersion.parse(DEV_TUNNELS).is_dev_tunnels
    assert not PeerVersion.parse(DEV_TUNNELS).is_dev_tunnels_go
    assert PeerVersion.parse(DEV_TUNNELS_GO).is_dev_tunnels_go
    assert not PeerVersion.parse("SSH-2.0-peer_1.0").is_dev_tunnels
