"""Key exchange for both roles, the first and every later one (RFC 4253 section 7, RFC 5656).

A :class:`KeyExchanger` lives as long as its connection, and keeps what survives an exchange: the
session id, strictness, the host key. Each exchange is an :class:`_Exchange`, dropped when both
NEWKEYS have passed. New keys take effect per direction: ours after our NEWKEYS, the peer's after
its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Final

from .. import wire
from ..algorithms import (
    ClientShare,
    KeyExchangeAlgorithm,
    derive_key,
    encryption_parameters,
    is_available,
    key_exchange,
    mac_digest,
    mac_key_size,
    packet_opener,
    packet_sealer,
)
from ..config import SessionConfig
from ..constants import Extension, KeyExchange, Marker
from ..errors import (
    HostKeyError,
    KeyFormatError,
    LocalProtocolError,
    NegotiationError,
    RemoteProtocolError,
)
from ..identification import PeerVersion
from ..keys import (
    Certificate,
    Identity,
    Key,
    key_of,
    read_identity,
    signature_algorithm,
    with_certificates,
)
from ..messages import ExtInfo, KexDhInit, KexDhReply, KexInit, NewKeys
from .acceptance import Role
from .events import (
    Event,
    Guard,
    HostKeyPresented,
    KeyExchangeStarted,
    SignatureRequested,
    do_nothing,
)
from .negotiation import (
    Algorithms,
    guess_is_right,
    is_strict,
    negotiate,
    unsafe_protection,
    wants_ext_info,
)
from .transport import Transport

__all__ = ["ExchangeKeys", "KeyExchanger"]


_NEW_KEYS: Final = NewKeys().encode()
_OF_SERVERS: Final = (Extension.SERVER_SIG_ALGS,)
"""A server may close the connection of a client that sends these (RFC 8308 section 3.1)."""


@lru_cache(maxsize=16)
def _ext_info(extensions: tuple[str, ...], algorithms: tuple[str, ...]) -> bytes:
    values = {Extension.SERVER_SIG_ALGS: ",".join(algorithms).encode()}
    return ExtInfo({name: values.get(name, b"") for name in extensions}).encode()


class _Step(Enum):
    """What an exchange is waiting for."""

    KEXINIT = auto()
    WRONG_GUESS = auto()
    KEXDH_INIT = auto()
    SIGNATURE = auto()
    KEXDH_REPLY = auto()
    NEWKEYS = auto()


@dataclass(slots=True)
class _Exchange:
    """The state of one key exchange."""

    is_initial: bool
    our_kexinit: KexInit
    our_payload: bytes
    step: _Step = _Step.KEXINIT
    their_payload: bytes = b""
    algorithms: Algorithms | None = None
    refusal: NegotiationError | None = None
    share: ClientShare | None = None
    guessed: str = ""
    keys: ExchangeKeys | None = None

    @property
    def negotiated(self) -> Algorithms:
        """The negotiated algorithms; for use only once they are known."""
        if self.algorithms is None:
            raise LocalProtocolError("the algorithms are not negotiated yet")
        return self.algorithms

    @property
    def derived(self) -> ExchangeKeys:
        """The source of derived keys; for use only once there is a shared secret."""
        if self.keys is None:
            raise LocalProtocolError("the key exchange has no secret yet")
        return self.keys


class ExchangeKeys:
    """The result of one exchange: the secret that keys are derived from."""

    __slots__ = ("_exchange_hash", "_hash_name", "_secret", "_session_id")

    def __init__(
        self, hash_name: str, secret: bytes, exchange_hash: bytes, session_id: bytes
    ) -> None:
        self._hash_name = hash_name
        self._secret = secret
        self._exchange_hash = exchange_hash
        self._session_id = session_id

    def derive(self, letter: bytes, size: int) -> bytes:
        """Return the key that RFC 4253 section 7.2 derives with this letter."""
        return derive_key(
            self._hash_name, self._secret, self._exchange_hash, letter, self._session_id, size
        )


class KeyExchanger:
    """Exchanges keys over one transport, as often as needed.

    :ivar guess_is_right: whether the client's guess was, or would have been, right in the first
        exchange
    """

    __slots__ = (
        "_config",
        "_emit",
        "_exchange",
        "_first",
        "_guard",
        "_guesses",
        "_host_keys",
        "_identification",
        "_on_complete",
        "_random",
        "_role",
        "_takes_certificates",
        "_transport",
        "algorithms",
        "completed_count",
        "guess_is_right",
        "host_key",
        "host_key_is_accepted",
        "is_strict",
        "peer_wants_ext_info",
        "session_id",
    )

    def __init__(
        self,
        role: Role,
        config: SessionConfig,
        transport: Transport,
        random: Callable[[int], bytes],
        host_keys: Sequence[Identity],
        identification: str,
        emit: Callable[[Event], None],
        guard: Guard,
        on_complete: Callable[[Algorithms, bool], None],
        *,
        takes_certificates: bool,
        guesses: bool = False,
    ) -> None:
        self._role = role
        self._config = config
        self._transport = transport
        self._random = random
        self._host_keys = host_keys
        self._identification = identification
        self._emit = emit
        self._guard = guard
        self._on_complete = on_complete
        self._takes_certificates = takes_certificates
        self._guesses = role is Role.CLIENT and guesses and config.is_secure
        self._exchange: _Exchange | None = None
        self._first: _Exchange | None = None
        self.session_id: bytes = b""
        self.algorithms: Algorithms | None = None
        self.host_key: Key | None = None
        self.host_key_is_accepted: bool = False
        self.is_strict: bool = False
        self.guess_is_right: bool = False
        self.peer_wants_ext_info: bool = False
        self.completed_count: int = 0

    # State for the acceptance table

    @property
    def is_running(self) -> bool:
        """Whether an exchange is in progress."""
        return self._exchange is not None

    @property
    def expects_kexinit(self) -> bool:
        """Whether an exchange is in progress and the peer's KEXINIT is due."""
        return self._exchange is not None and self._exchange.step is _Step.KEXINIT

    @property
    def expects_init(self) -> bool:
        """Whether a client's message 30 is due."""
        return self._exchange is not None and self._exchange.step in (
            _Step.KEXDH_INIT,
            _Step.WRONG_GUESS,
        )

    @property
    def expects_reply(self) -> bool:
        """Whether the server's message 31 is due."""
        return self._exchange is not None and self._exchange.step is _Step.KEXDH_REPLY

    @property
    def expects_newkeys(self) -> bool:
        """Whether the peer's NEWKEYS is due."""
        return self._exchange is not None and self._exchange.step is _Step.NEWKEYS

    # Starting

    def start(self) -> None:
        """Send KEXINIT; other payloads wait from now on."""
        if self._exchange is not None:
            raise LocalProtocolError("a key exchange is in progress")
        is_initial = self.completed_count == 0
        kexinit = self._our_kexinit(is_initial)
        exchange = _Exchange(is_initial, kexinit, kexinit.encode())
        self._exchange = exchange
        self._transport.send(exchange.our_payload)
        self._emit(KeyExchangeStarted(is_initial))
        if kexinit.first_kex_packet_follows:
            exchange.guessed = kexinit.kex_algorithms[0]
            exchange.share = key_exchange(exchange.guessed).client_share()
            self._transport.send(KexDhInit(exchange.share.public).encode())

    def _our_kexinit(self, is_initial: bool) -> KexInit:
        config = self._config
        methods = [
            name for name in config.key_exchanges if is_available(name) or not config.is_secure
        ]
        if is_initial and config.is_secure:
            methods += (
                (Marker.EXT_INFO_CLIENT, Marker.STRICT_CLIENT)
                if self._role is Role.CLIENT
                else (Marker.EXT_INFO_SERVER, Marker.STRICT_SERVER)
            )
        return KexInit(
            cookie=self._random(16),
            kex_algorithms=tuple(methods),
            server_host_key_algorithms=self._host_key_algorithms(),
            encryption_algorithms_client_to_server=tuple(config.encryptions),
            encryption_algorithms_server_to_client=tuple(config.encryptions),
            mac_algorithms_client_to_server=tuple(config.macs),
            mac_algorithms_server_to_client=tuple(config.macs),
            compression_algorithms_client_to_server=tuple(config.compressions),
            compression_algorithms_server_to_client=tuple(config.compressions),
            first_kex_packet_follows=is_initial and self._guesses,
        )

    def _host_key_algorithms(self) -> tuple[str, ...]:
        """Return the algorithms to offer: those of certificates only if we hold or accept some."""
        names = tuple(self._config.host_key_algorithms)
        if not self._config.is_secure:
            return names
        if self._role is Role.CLIENT:
            return with_certificates(names) if self._takes_certificates else names
        held = {name for key in self._host_keys for name in key.signature_algorithms}
        return tuple(name for name in with_certificates(names) if name in held)

    # The peer's messages

    def receive_kexinit(self, payload: bytes, version: PeerVersion) -> None:
        """Negotiate; a client continues with its message 30."""
        kexinit = KexInit.decode(payload)
        if self._exchange is None:
            self.start()
        exchange = self._running()
        exchange.their_payload = payload
        client, server = (
            (exchange.our_kexinit, kexinit)
            if self._role is Role.CLIENT
            else (kexinit, exchange.our_kexinit)
        )
        if exchange.is_initial:
            self._learn_markers(client, server)
        algorithms = negotiate(self._role, client, server, strict=self.is_strict)
        exchange.algorithms = algorithms
        exchange.refusal = unsafe_protection(self._role, algorithms, client, server)
        if exchange.refusal is not None and self._role is Role.CLIENT:
            raise exchange.refusal
        if algorithms.key_exchange == KeyExchange.NONE:
            self._complete(exchange)
            return
        is_right = guess_is_right(
            client,
            server,
            by_method_only=version.is_dev_tunnels,
            method=algorithms.key_exchange,
        )
        if exchange.is_initial:
            self.guess_is_right = is_right
        if self._role is Role.CLIENT:
            self._send_init(exchange, is_right)
        elif kexinit.first_kex_packet_follows and not is_right:
            exchange.step = _Step.WRONG_GUESS
        else:
            exchange.step = _Step.KEXDH_INIT

    def _learn_markers(self, client: KexInit, server: KexInit) -> None:
        """Note what the first KEXINITs announce besides algorithms."""
        self.is_strict = self._config.is_secure and is_strict(client, server)
        if self.is_strict and self._transport.receive_sequence != 1:
            raise RemoteProtocolError("strict key exchange: KEXINIT must be the first packet")
        theirs = server if self._role is Role.CLIENT else client
        self.peer_wants_ext_info = wants_ext_info(self._role.other, theirs)

    def _send_init(self, exchange: _Exchange, guess_was_right: bool) -> None:
        method = exchange.negotiated.key_exchange
        if not (exchange.guessed == method and guess_was_right):
            exchange.share = key_exchange(method).client_share()
            self._transport.send(KexDhInit(exchange.share.public).encode())
        exchange.step = _Step.KEXDH_REPLY

    def receive_init(self, payload: bytes) -> None:
        """Answer a client: compute the shared secret, and have the exchange hash signed."""
        exchange = self._running()
        if exchange.step is _Step.WRONG_GUESS:
            exchange.step = _Step.KEXDH_INIT
            return
        init = KexDhInit.decode(payload)
        algorithms = exchange.negotiated
        host_key = self._host_key_for(algorithms.host_key)
        method = key_exchange(algorithms.key_exchange)
        public, secret = method.server_reply(init.client_public)
        digest = self._exchange_hash(
            exchange, method, host_key.public_blob, init.client_public, public, secret
        )
        exchange.keys = self._keys(method, secret, digest)
        exchange.step = _Step.SIGNATURE

        def answer(signature: bytes, error: Exception | None) -> None:
            if error is not None:
                raise error
            self._send_reply(exchange, host_key, public, signature)

        algorithm = signature_algorithm(algorithms.host_key)
        request = SignatureRequested(key_of(host_key), algorithm, digest, self._guard(answer))
        self._emit(request)

    def _send_reply(
        self, exchange: _Exchange, host_key: Identity, public: bytes, signature: bytes
    ) -> None:
        reply = KexDhReply(host_key.public_blob, public, signature)
        self._transport.send(reply.encode())
        if exchange.refusal is not None:
            # Not earlier, as scanners that only collect host keys stop here.
            raise exchange.refusal
        self._send_newkeys(exchange)

    def _host_key_for(self, algorithm: str) -> Identity:
        return next(key for key in self._host_keys if algorithm in key.signature_algorithms)

    def receive_reply(self, payload: bytes) -> None:
        """Verify the server's reply, derive the keys and send NEWKEYS."""
        exchange = self._running()
        reply = KexDhReply.decode(payload)
        method = key_exchange(exchange.negotiated.key_exchange)
        if exchange.share is None:
            raise LocalProtocolError("no key exchange share was sent")
        secret = exchange.share.finish(reply.server_public)
        digest = self._exchange_hash(
            exchange,
            method,
            reply.host_key,
            exchange.share.public,
            reply.server_public,
            secret,
        )
        identity = self._verified_host_key(exchange, reply, digest)
        exchange.keys = self._keys(method, secret, digest)
        self._send_newkeys(exchange)
        if self.host_key is None:
            self.host_key = key_of(identity)
            certificate = identity if isinstance(identity, Certificate) else None
            judged = self._guard(self._host_key_judged)
            self._emit(HostKeyPresented(self.host_key, certificate, judged))

    def _verified_host_key(self, exchange: _Exchange, reply: KexDhReply, digest: bytes) -> Identity:
        algorithm = exchange.negotiated.host_key
        try:
            identity = read_identity(reply.host_key, algorithm)
        except KeyFormatError as error:
            raise HostKeyError(f"the server's host key cannot be read: {error}") from error
        # Later exchanges must prove the same key; a renewed certificate may differ.
        key = key_of(identity)
        if self.host_key is not None and key != self.host_key:
            raise HostKeyError(
                f"the server changed its host key in the middle of the session, from "
                f"{self.host_key.fingerprint} to {key.fingerprint}",
                key.fingerprint,
                key.algorithm,
            )
        if not identity.verify(digest, reply.signature, algorithm):
            raise HostKeyError(
                f"the server did not prove that it holds its {key.algorithm} host key "
                f"{key.fingerprint} (expected a signature with {algorithm})",
                key.fingerprint,
                key.algorithm,
            )
        return identity

    def _host_key_judged(self, error: Exception | None) -> None:
        if isinstance(error, HostKeyError):
            raise error
        if error is not None:
            raise HostKeyError("the host key was not accepted") from error
        self.host_key_is_accepted = True

    # Secrets and keys

    def _exchange_hash(
        self,
        exchange: _Exchange,
        method: KeyExchangeAlgorithm,
        host_key: bytes,
        client_public: bytes,
        server_public: bytes,
        secret: bytes,
    ) -> bytes:
        peer = self._transport.peer_version
        ours = (self._identification, exchange.our_payload)
        theirs = (peer.text if peer is not None else "", exchange.their_payload)
        client, server = (ours, theirs) if self._role is Role.CLIENT else (theirs, ours)
        digest: bytes = getattr(hashlib, method.hash_name)(
            b"".join(
                (
                    wire.string(client[0]),
                    wire.string(server[0]),
                    wire.string(client[1]),
                    wire.string(server[1]),
                    wire.string(host_key),
                    wire.string(client_public),
                    wire.string(server_public),
                    secret,
                )
            )
        ).digest()
        return digest

    def _keys(self, method: KeyExchangeAlgorithm, secret: bytes, digest: bytes) -> ExchangeKeys:
        if not self.session_id:
            self.session_id = digest
        return ExchangeKeys(method.hash_name, secret, digest, self.session_id)

    def _send_newkeys(self, exchange: _Exchange) -> None:
        self._transport.send(_NEW_KEYS)
        sends_to_server = self._role is Role.CLIENT
        encryption, mac, iv, key, mac_key = self._direction(exchange, to_server=sends_to_server)
        sealer = packet_sealer(
            encryption, mac, iv=iv, key=key, mac_key=mac_key, random=self._random
        )
        self._transport.install_sealer(sealer, reset_sequence=self.is_strict)
        exchange.step = _Step.NEWKEYS
        if exchange.is_initial and self.peer_wants_ext_info:
            self._send_extensions()

    def mac_key(self, *, to_server: bool) -> tuple[str, bytes]:
        """Return the hash and key of the MAC in one direction, from the first exchange.

        They exist even if the cipher does not use the MAC.
        """
        if self._first is None:
            raise LocalProtocolError("the first key exchange is not complete")
        algorithms, keys = self._first.negotiated, self._first.derived
        mac = algorithms.mac_client_to_server if to_server else algorithms.mac_server_to_client
        key = keys.derive(b"E" if to_server else b"F", mac_key_size(mac)) if mac else b""
        return mac_digest(mac), key

    def forget_first_exchange(self) -> None:
        """Forget the keys that only serve to prove knowledge of a session."""
        self._first = None

    def receive_newkeys(self, payload: bytes) -> None:
        """Use the peer's new keys; the exchange is complete."""
        NewKeys.decode(payload)
        exchange = self._running()
        sends_to_server = self._role is Role.SERVER
        encryption, mac, iv, key, mac_key = self._direction(exchange, to_server=sends_to_server)
        opener = packet_opener(encryption, mac, iv=iv, key=key, mac_key=mac_key)
        self._transport.install_opener(opener, reset_sequence=self.is_strict)
        self._complete(exchange)

    def _direction(
        self, exchange: _Exchange, *, to_server: bool
    ) -> tuple[str, str, bytes, bytes, bytes]:
        algorithms, keys = exchange.negotiated, exchange.derived
        if to_server:
            encryption, mac = (
                algorithms.encryption_client_to_server,
                algorithms.mac_client_to_server,
            )
            letters = (b"A", b"C", b"E")
        else:
            encryption, mac = (
                algorithms.encryption_server_to_client,
                algorithms.mac_server_to_client,
            )
            letters = (b"B", b"D", b"F")
        sizes = encryption_parameters(encryption)
        takes_mac = mac and not sizes.is_aead
        return (
            encryption,
            mac,
            keys.derive(letters[0], sizes.iv_size),
            keys.derive(letters[1], sizes.key_size),
            keys.derive(letters[2], mac_key_size(mac)) if takes_mac else b"",
        )

    def _send_extensions(self) -> None:
        config = self._config
        extensions, algorithms = tuple(config.extensions), tuple(config.host_key_algorithms)
        if self._role is Role.CLIENT:
            extensions = tuple(name for name in extensions if name not in _OF_SERVERS)
        if self._role is Role.SERVER or extensions:
            self._transport.send(_ext_info(extensions, algorithms))

    def release(self) -> None:
        """Drop the callbacks; nothing more will arrive."""
        self._emit = self._guard = self._on_complete = do_nothing

    # Completion

    def _complete(self, exchange: _Exchange) -> None:
        self._exchange = None
        self.completed_count += 1
        self.algorithms = exchange.negotiated
        if exchange.is_initial and Extension.SESSION_RECONNECT in self._config.extensions:
            self._first = exchange
        self._on_complete(exchange.negotiated, exchange.is_initial)

    def _running(self) -> _Exchange:
        if self._exchange is None:
            raise LocalProtocolError("no key exchange is in progress")
        return self._exchange
