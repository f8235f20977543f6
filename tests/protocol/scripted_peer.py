"""A peer that sends what a script says, in any order: the far end of one core under test.

It exchanges keys on its own, using ``anyssh.algorithms``, so it can send a right message at the
wrong time as well as a wrong one at the right time, always properly sealed. What it sends is named
in :data:`SCRIPT`; :meth:`ScriptedPeer.send` takes such a name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

from anyssh import wire
from anyssh.algorithms import (
    ClientShare,
    derive_key,
    encryption_parameters,
    key_exchange,
    packet_opener,
    packet_sealer,
)
from anyssh.config import Limits
from anyssh.constants import Encryption, Extension, HostKeyAlgorithm, KeyExchange, Mac, Marker
from anyssh.messages import (
    ChannelClose,
    ChannelData,
    ChannelEof,
    ChannelExtendedData,
    ChannelFailure,
    ChannelOpen,
    ChannelOpenConfirmation,
    ChannelOpenFailure,
    ChannelRequest,
    ChannelSuccess,
    ChannelWindowAdjust,
    Debug,
    Disconnect,
    ExtInfo,
    GlobalRequest,
    Ignore,
    KexDhInit,
    KexDhReply,
    KexInit,
    KeyboardInteractiveFields,
    NewKeys,
    PasswordFields,
    Prompt,
    RequestFailure,
    RequestSuccess,
    ServiceAccept,
    ServiceRequest,
    SessionReconnectRequest,
    SessionReconnectResponse,
    Unimplemented,
    UserauthBanner,
    UserauthFailure,
    UserauthInfoRequest,
    UserauthInfoResponse,
    UserauthPkOk,
    UserauthRequest,
    UserauthSuccess,
)
from anyssh.protocol import Phase, Role
from anyssh.protocol.client_authentication import ClientAuthentication
from anyssh.protocol.connection import Connection
from anyssh.protocol.events import Event, KeyExchangeCompleted
from anyssh.protocol.journal import Continuity
from anyssh.protocol.transport import Transport

from .core_pair import CLIENT, START, Answers, fast_config, host_key, make_core

__all__ = ["SCRIPT", "ScriptedPeer"]

METHOD = key_exchange(KeyExchange.CURVE25519_SHA256)
ENABLE = Extension.ENABLE_SESSION_RECONNECT_REQUEST
CIPHER = encryption_parameters(Encryption.AES128_GCM)


def _kexinit(methods: tuple[str, ...], guesses: bool) -> KexInit:
    ciphers, macs, compressions = (CIPHER.name,), (Mac.HMAC_SHA2_256,), ("none",)
    return KexInit(
        cookie=os.urandom(16),
        kex_algorithms=methods,
        server_host_key_algorithms=(HostKeyAlgorithm.ED25519,),
        encryption_algorithms_client_to_server=ciphers,
        encryption_algorithms_server_to_client=ciphers,
        mac_algorithms_client_to_server=macs,
        mac_algorithms_server_to_client=macs,
        compression_algorithms_client_to_server=compressions,
        compression_algorithms_server_to_client=compressions,
        first_kex_packet_follows=guesses,
    )


class ScriptedPeer:
    """One core under test, and the script's end of its stream.

    :param receiver: the role of the core under test
    :param strict: whether the peer announces strict key exchange
    :param answers: what the application above the core says
    :ivar guesses: whether its KEXINIT announces a guess
    :ivar host_key: a server's; may be changed on the way
    :ivar signature: sent once in place of a right one, if not empty
    :param authenticate: what a client's application does once keys are exchanged
    :param continuity: of the session that a client has lost, if it comes back for one
    """

    def __init__(
        self,
        receiver: Role,
        *,
        strict: bool = True,
        identification: str = "SSH-2.0-peer_1.0",
        answers: Answers | None = None,
        authenticate: Callable[[ClientAuthentication], None] | None = None,
        continuity: Continuity | None = None,
        **config: Any,
    ) -> None:
        self.receiver = receiver
        self.role = receiver.other
        self.is_strict = strict
        self.identification = identification
        self.answers = answers or Answers()
        self.authenticate = authenticate
        self.now = START
        self.connection = Connection(fast_config(**config))
        self.connection.continuity = continuity
        self.core = make_core(
            receiver,
            fast_config(**config),
            now=self.now,
            random=os.urandom,
            identification="SSH-2.0-anyssh_1.0",
            connection=self.connection,
            host_keys=[] if receiver is CLIENT else [host_key()],
            delay_secret=b"d" * 32,
        )
        self.transport = Transport(self.role, Limits(), identification, os.urandom)
        self.events: list[Event] = []
        self.sent: list[bytes] = []
        self.heard: list[bytes] = []
        self.session_id = b""
        self.host_key = host_key()
        self.signature = b""
        self.guesses = False
        self.keys: Callable[[bytes, int], bytes] | None = None
        self._ours = self._theirs = self._their_init = b""
        self._share: ClientShare | None = None
        self._next_channel = 100

    def greet(self) -> None:
        """Exchange identification lines."""
        self.deliver()

    # Sending

    def send(self, name: str) -> None:
        """Send one message of the script."""
        SCRIPT[name](self)

    def send_payload(self, payload: bytes) -> None:
        """Send any payload, sealed with the present keys."""
        self.sent.append(payload)
        self.transport.send(payload)
        self.deliver()

    def deliver(self) -> None:
        """Let the core have what was sent, its application answer, and hear the core."""
        events = self.core.receive_data(self.transport.take_output(), self.now)
        while events:
            for event in events:
                self.events.append(event)
                self.answers.answer(event, self.connection, self.now)
                if isinstance(event, KeyExchangeCompleted) and event.is_initial:
                    self._let_authenticate()
            events = self.core.poll_events()
        self._listen()

    def _let_authenticate(self) -> None:
        if self.receiver is CLIENT and self.authenticate is not None:
            self.authenticate(self.core.client_authentication)

    # Hearing

    def _listen(self) -> None:
        self.transport.feed(self.core.data_to_send(self.now))
        if self.transport.peer_version is None and self.transport.read_greeting() is None:
            return
        while (payload := self.transport.next_payload()) is not None:
            self._hear(bytes(payload))

    def _hear(self, payload: bytes) -> None:
        self.heard.append(payload)
        match payload[0]:
            case KexInit.number:
                self._theirs = payload
            case KexDhInit.number:
                self._their_init = KexDhInit.decode(payload).client_public
            case KexDhReply.number if self._share is not None:
                reply = KexDhReply.decode(payload)
                secret = self._share.finish(reply.server_public)
                self._derive(reply.host_key, self._share.public, reply.server_public, secret)
            case GlobalRequest.number:
                if GlobalRequest.decode(payload).request_name == ENABLE:
                    self.transport.expect_receipts(
                        with_delay=False, on_receipt=lambda number, delay: None
                    )
            case NewKeys.number:
                self.transport.install_opener(
                    packet_opener(
                        CIPHER.name,
                        Mac.HMAC_SHA2_256,
                        iv=self._key(b"A" if self.role is not CLIENT else b"B", CIPHER.iv_size),
                        key=self._key(b"C" if self.role is not CLIENT else b"D", CIPHER.key_size),
                        mac_key=b"",
                    ),
                    reset_sequence=self.is_strict,
                )

    # Key exchange

    def send_kexinit(self) -> None:
        """Send KEXINIT, beginning a new exchange."""
        markers = (
            (Marker.EXT_INFO_CLIENT, Marker.STRICT_CLIENT)
            if self.role is CLIENT
            else (Marker.EXT_INFO_SERVER, Marker.STRICT_SERVER)
        )
        names = (KeyExchange.CURVE25519_SHA256, *markers[: 2 if self.is_strict else 1])
        self._ours = _kexinit(names, self.guesses).encode()
        self._share = None
        self.send_payload(self._ours)

    def send_init(self) -> None:
        """Send a client's public value."""
        self._share = METHOD.client_share()
        self.send_payload(KexDhInit(self._share.public).encode())

    def send_reply(self) -> None:
        """Send a server's answer; a right one if the client's value has come."""
        blob = self.host_key.public_blob
        if not self._their_init:
            self.send_payload(KexDhReply(blob, bytes(32), wire.string("ssh-ed25519")).encode())
            return
        public, secret = METHOD.server_reply(self._their_init)
        digest = self._derive(blob, self._their_init, public, secret)
        self._their_init = b""
        self.signature = self.signature or self.host_key.sign(digest)
        self.send_payload(KexDhReply(blob, public, self.signature).encode())
        self.signature = b""

    def send_newkeys(self) -> None:
        """Send NEWKEYS, and use the new keys if there are any."""
        self.transport.send(NewKeys().encode())
        if self.keys is not None:
            is_client = self.role is CLIENT
            self.transport.install_sealer(
                packet_sealer(
                    CIPHER.name,
                    Mac.HMAC_SHA2_256,
                    iv=self._key(b"A" if is_client else b"B", CIPHER.iv_size),
                    key=self._key(b"C" if is_client else b"D", CIPHER.key_size),
                    mac_key=b"",
                    random=os.urandom,
                ),
                reset_sequence=self.is_strict,
            )
        self.deliver()

    def _derive(self, blob: bytes, init: bytes, reply: bytes, secret: bytes) -> bytes:
        ours = (self.identification.encode(), self._ours)
        theirs = (b"SSH-2.0-anyssh_1.0", self._theirs)
        client, server = (ours, theirs) if self.role is CLIENT else (theirs, ours)
        fields = (client[0], server[0], client[1], server[1], blob, init, reply)
        digest = hashlib.sha256(b"".join(map(wire.string, fields)) + secret).digest()
        self.session_id = self.session_id or digest
        session_id = self.session_id

        def derive(letter: bytes, size: int) -> bytes:
            return derive_key("sha256", secret, digest, letter, session_id, size)

        self.keys = derive
        return digest

    def _key(self, letter: bytes, size: int) -> bytes:
        assert self.keys is not None, "the core sent NEWKEYS before there are keys"
        return self.keys(letter, size)

    # Other messages that need a memory

    def send_open(self) -> None:
        """Ask for a channel; each time another one."""
        self._next_channel += 1
        self.send_payload(ChannelOpen("session", self._next_channel, 2**20, 2**15).encode())

    def send_enable(self) -> None:
        """Announce receipts, and give them from then on if the core knows them."""
        self.send_payload(GlobalRequest(ENABLE, False).encode())
        if self.transport.gets_receipts:
            self.transport.give_receipts(with_delay=False)

    @property
    def is_over(self) -> bool:
        """Whether the core under test has ended."""
        return self.core.phase is Phase.TERMINATED


def _payload(message: Any) -> Callable[[ScriptedPeer], None]:
    return lambda peer: peer.send_payload(message.encode())


def _request(method: str, fields: bytes = b"") -> Callable[[ScriptedPeer], None]:
    return _payload(UserauthRequest("alice", "ssh-connection", method, fields))


def _announcement(*names: str) -> Callable[[ScriptedPeer], None]:
    return _payload(ExtInfo({"server-sig-algs": b"ssh-ed25519", **dict.fromkeys(names, b"")}))


def _unassigned(peer: ScriptedPeer) -> None:
    peer.send_payload(b"\xc0" + wire.string("whatever"))


SCRIPT: dict[str, Callable[[ScriptedPeer], None]] = {
    "DISCONNECT": _payload(Disconnect(11, "bye")),
    "IGNORE": _payload(Ignore(b"chaff")),
    "UNIMPLEMENTED": _payload(Unimplemented(0)),
    "DEBUG": _payload(Debug(False, "hm")),
    "SERVICE_REQUEST": _payload(ServiceRequest("ssh-userauth")),
    "SERVICE_REQUEST ssh-connection": _payload(ServiceRequest("ssh-connection")),
    "SERVICE_ACCEPT": _payload(ServiceAccept("ssh-userauth")),
    "EXT_INFO": _announcement(),
    "EXT_INFO reconnect": _announcement(Extension.SESSION_RECONNECT),
    "KEXINIT": ScriptedPeer.send_kexinit,
    "NEWKEYS": ScriptedPeer.send_newkeys,
    "KEXDH_INIT": ScriptedPeer.send_init,
    "KEXDH_REPLY": ScriptedPeer.send_reply,
    "USERAUTH_REQUEST": _request("password", PasswordFields(False, "wonderland").encode()),
    "USERAUTH_REQUEST none": _request("none"),
    "USERAUTH_REQUEST keyboard-interactive": _request(
        "keyboard-interactive", KeyboardInteractiveFields().encode()
    ),
    "USERAUTH_FAILURE": _payload(UserauthFailure(("password",))),
    "USERAUTH_SUCCESS": _payload(UserauthSuccess()),
    "USERAUTH_BANNER": _payload(UserauthBanner("hello")),
    "USERAUTH_PK_OK": lambda peer: peer.send_payload(
        UserauthPkOk("ssh-ed25519", host_key().public_blob).encode()
    ),
    "USERAUTH_INFO_REQUEST": _payload(UserauthInfoRequest("", "", "", (Prompt("?", False),))),
    "USERAUTH_INFO_RESPONSE": _payload(UserauthInfoResponse(("!",))),
    "GLOBAL_REQUEST": _payload(GlobalRequest("ping@example.com", True)),
    "GLOBAL_REQUEST enable": ScriptedPeer.send_enable,
    "GLOBAL_REQUEST reconnect": _payload(
        GlobalRequest(
            Extension.SESSION_RECONNECT_REQUEST,
            True,
            SessionReconnectRequest(bytes(32), 0).encode(),
        )
    ),
    "REQUEST_SUCCESS": _payload(RequestSuccess()),
    "REQUEST_SUCCESS reconnect": _payload(
        RequestSuccess(SessionReconnectResponse(bytes(32), 0).encode())
    ),
    "REQUEST_FAILURE": _payload(RequestFailure()),
    "CHANNEL_OPEN": ScriptedPeer.send_open,
    "CHANNEL_OPEN_CONFIRMATION": _payload(ChannelOpenConfirmation(0, 7, 2**20, 2**15)),
    "CHANNEL_OPEN_FAILURE": _payload(ChannelOpenFailure(0, 1, "no")),
    "CHANNEL_WINDOW_ADJUST": _payload(ChannelWindowAdjust(0, 100)),
    "CHANNEL_DATA": _payload(ChannelData(0, b"data")),
    "CHANNEL_EXTENDED_DATA": _payload(ChannelExtendedData(0, 1, b"data")),
    "CHANNEL_EOF": _payload(ChannelEof(0)),
    "CHANNEL_CLOSE": _payload(ChannelClose(0)),
    "CHANNEL_REQUEST": _payload(ChannelRequest(0, "shell", True)),
    "CHANNEL_SUCCESS": _payload(ChannelSuccess(0)),
    "CHANNEL_FAILURE": _payload(ChannelFailure(0)),
    "unassigned": _unassigned,
}
"""Well-formed messages by name: that of the number, and what is special about it."""
