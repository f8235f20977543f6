"""Targets that parse one thing: T-70 (a) and (b)."""

from __future__ import annotations

import asyncio
import base64
import functools
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import anyio
import bcrypt
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request

from anyssh import KnownHosts, SessionContour, messages
from anyssh.contour import ContourFormatError
from anyssh.errors import CertificateError, KeyFormatError, SSHError, WireError
from anyssh.forwarding import payloads
from anyssh.forwarding.socks import SocksReply, SocksServer
from anyssh.identification import PeerVersion
from anyssh.keys import (
    Key,
    KeyFormat,
    check_host_certificate,
    check_user_certificate,
    export_private_key,
    export_public_key,
    import_certificate,
    import_key,
    read_identity,
)
from anyssh.keys import encryption as key_encryption
from anyssh.messages import agent
from anyssh.messages.declaration import Message, Structure
from anyssh.protocol import Role
from anyssh.protocol.greeting import Greeting
from anyssh.websocket import WebSocketError, WebSocketStream, accept_websocket
from tests.authority import HOST, Draft
from tests.protocol.core_pair import host_key

from .oracle import Finding, Target

__all__ = ["TARGETS"]

DATA: Final = Path(__file__).parents[2] / "data" / "keys"
PASSPHRASE: Final = b"password"
NOW: Final = 1_800_000_000.0


def _target(
    name: str,
    parse: Callable[[bytes], object],
    seeds: Callable[[], Iterable[bytes]],
    kinds: int = 1,
) -> Target:
    def prepare(data: bytes) -> Callable[[], None]:
        def run() -> None:
            parse(data)

        return run

    return Target(name, prepare, seeds, kinds=kinds)


# Messages


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for subclass in kind.__subclasses__():
        if subclass.__module__.startswith("anyssh.messages"):
            yield subclass
        yield from _subclasses(subclass)


CLASSES: Final = sorted(
    {*_subclasses(Message), *_subclasses(Structure)} - {Message, Structure},
    key=lambda kind: kind.__qualname__,
)
"""Every message and every structure inside of one, that of agents included."""


def read_message(data: bytes) -> None:
    """Read a message; the first byte says of which class. Writing and reading it again is the same.

    A text that is no UTF-8 is read with replacements, so the bytes need not be the same.
    """
    kind = CLASSES[(data[0] if data else 0) % len(CLASSES)]
    try:
        message = kind.decode(data[1:])
    except WireError:
        return
    repr(message)
    try:
        encoded = message.encode()
    except WireError:
        return  # a surrogate in a name that we would never write
    if kind.decode(encoded) != message:
        raise Finding(f"{message!r} became something else when it was written and read")


def message_seeds() -> Iterator[bytes]:
    from .cores import recorded_payloads

    for index, kind in enumerate(CLASSES):
        yield bytes([index])
        if issubclass(kind, Message):
            yield bytes([index, kind.number])
    for payload in recorded_payloads():
        for kind in messages.MESSAGES_BY_NUMBER.get(payload[0], ()):
            yield bytes([CLASSES.index(kind)]) + payload


def read_frames(data: bytes) -> None:
    """Take an agent's messages out of what was received, and read them."""
    received = bytearray()
    for start in range(0, len(data), 7):
        received += data[start : start + 7]
        try:
            while (payload := agent.take_frame(received)) is not None:
                for kind in (agent.AgentIdentities, agent.AgentSignResponse, agent.AgentFailure):
                    try:
                        answer = kind.decode(payload)
                    except WireError:
                        continue
                    if isinstance(answer, agent.AgentIdentities):
                        for blob, _ in answer.identities:
                            _read_blob(blob)
        except WireError:
            return


def frame_seeds() -> Iterator[bytes]:
    yield agent.frame(agent.AgentIdentities(((host_key().public_blob, "comment"),)))
    yield agent.frame(agent.AgentSignResponse(host_key().sign(b"data")))
    yield agent.frame(agent.AgentFailure()) * 2


# Keys, signatures, certificates


def _read_blob(blob: bytes) -> Key | None:
    try:
        key = Key.from_public_blob(blob)
    except KeyFormatError:
        return None
    repr((key, key.fingerprint, key.bits))
    return key


def read_public_blob(data: bytes) -> None:
    """Read a public key; what is read is the one exact form of it."""
    key = _read_blob(data)
    if key is not None and Key.from_public_blob(key.public_blob) != key:
        raise Finding("a key became another")


@functools.cache
def keys() -> tuple[Key, ...]:
    """Return a key of each type."""
    names = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
    fixed = (DATA / "testkey-private-rsa2048-pkcs8.txt").read_bytes()
    return (*(host_key(name) for name in names), import_key(fixed))


SIGNED: Final = b"what was signed"


def verify_signature(data: bytes) -> None:
    """Verify a signature under a key of each type, for each of its algorithms.

    Only signatures that the keys made are good, and of these only the bytes that they made; an
    ECDSA signature may be made by anybody out of another one (r, n - s).
    """
    for key in keys():
        for algorithm in key.signature_algorithms:
            is_good = key.verify(SIGNED, data, algorithm)
            if is_good and not data.startswith(struct.pack(">I", len(algorithm))):
                raise Finding("a signature without the name of its algorithm is good")
            if is_good and key.verify(SIGNED + b"!", data, algorithm):
                raise Finding("a signature is good for two texts")


def signature_seeds() -> Iterator[bytes]:
    for key in keys():
        for algorithm in key.signature_algorithms:
            yield key.sign(SIGNED, algorithm)


def read_certificate(data: bytes) -> None:
    """Read a certificate from its blob, and judge it."""
    reader = data[4 : 4 + int.from_bytes(data[:4], "big")]
    algorithm = reader.decode("ascii", "replace")
    try:
        identity = read_identity(data, algorithm)
    except SSHError:
        return
    repr(identity)
    if not isinstance(identity, Key):
        _judge_certificate(identity)


def _judge_certificate(certificate: Any) -> None:
    authorities = [certificate.authority]
    for judge in (
        lambda: check_user_certificate(
            certificate, authorities, ["alice"], now=NOW, address="127.0.0.1"
        ),
        lambda: check_host_certificate(certificate, authorities, "example.com", now=NOW),
    ):
        try:
            judge()
        except CertificateError:
            continue


def certificate_seeds() -> Iterator[bytes]:
    authority = host_key(number=1)
    for key in keys():
        yield Draft(key.public()).signed(authority)
    draft = Draft(keys()[0].public())
    options = [("force-command", b"\0\0\0\2ls"), ("source-address", b"\0\0\0\x0b127.0.0.0/8")]
    yield draft.but(critical_options=options, extensions=[("permit-pty", b"")]).signed(authority)
    hosts = ["*.example.com", "example.com"]
    yield draft.but(type=HOST, principals=hosts).signed(authority)
    for signer in keys()[1:]:
        yield draft.signed(signer)


def read_certificate_line(data: bytes) -> None:
    """Read a certificate from the line of a file."""
    try:
        repr(import_certificate(data))
    except KeyFormatError:
        return


def certificate_line_seeds() -> Iterator[bytes]:
    for blob in certificate_seeds():
        size = int.from_bytes(blob[:4], "big")
        yield blob[4 : 4 + size] + b" " + base64.b64encode(blob) + b" comment\n"


# Files of keys


def read_key(data: bytes) -> None:
    """Read a key in any format, without a passphrase; what is read can be written and read."""
    _read_key(data, None, None)


def _read_key(data: bytes, passphrase: bytes | None, form: KeyFormat | None) -> None:
    try:
        key = import_key(data, passphrase, form)
    except KeyFormatError:
        return
    repr(key)
    text = export_private_key(key) if key.has_private else export_public_key(key)
    if import_key(text) != key:
        raise Finding(f"{key!r} became another when it was written and read")


def read_jwk(data: bytes) -> None:
    """Read a JSON Web Key."""
    _read_key(b"{" + data, None, KeyFormat.JWK)


def read_putty(data: bytes) -> None:
    """Read one of PuTTY's files, with a passphrase that may be the right one."""
    with cheap_derivations():
        _read_key(b"PuTTY-User-Key-File-" + data, PASSPHRASE, KeyFormat.PUTTY)


def read_encrypted_key(data: bytes) -> None:
    """Read a key in any format, with a passphrase that may be the right one."""
    with cheap_derivations():
        _read_key(data, PASSPHRASE, None)


class cheap_derivations:
    """Turns passphrases into keys in one round.

    A file says how many it wants, and the bounds of those have tests of their own. To compute them
    for each input would only take the time of other inputs.
    """

    def __init__(self) -> None:
        def kdf(password: bytes, salt: bytes, size: int, rounds: int, **options: Any) -> bytes:
            return real_kdf(password, salt, size, 1, **options)

        def pbkdf2(digest: str, password: bytes, salt: bytes, rounds: int, size: int) -> bytes:
            return real_pbkdf2(digest, password, salt, 1, size)

        real_kdf, real_pbkdf2 = bcrypt.kdf, key_encryption.hashlib.pbkdf2_hmac
        self._patches = (
            patch.object(bcrypt, "kdf", kdf),
            patch.object(key_encryption.hashlib, "pbkdf2_hmac", pbkdf2),
            patch.object(key_encryption, "MAX_ARGON2_WORK", 64),
        )

    def __enter__(self) -> None:
        for one in self._patches:
            one.__enter__()

    def __exit__(self, *error: Any) -> None:
        for one in self._patches:
            one.__exit__(*error)


def key_seeds() -> Iterator[bytes]:
    for path in sorted(DATA.glob("*.txt")):
        if "4096" not in path.name:
            yield path.read_bytes()
    for key in keys():
        for form in (KeyFormat.OPENSSH, KeyFormat.JWK, KeyFormat.PKCS8):
            yield export_private_key(key, form).encode()
        for form in (KeyFormat.SSH, KeyFormat.SSH2, KeyFormat.JWK, KeyFormat.PKCS8):
            yield export_public_key(key, form).encode()


def jwk_seeds() -> Iterator[bytes]:
    for key in keys():
        yield export_private_key(key, KeyFormat.JWK).encode()[1:]
        yield export_public_key(key, KeyFormat.JWK).encode()[1:]


def putty_seeds() -> Iterator[bytes]:
    """Yield files of puttygen, the passphrase of which is ``password``, without their beginning."""
    for path in sorted(Path(__file__).with_name("putty").glob("*.ppk")):
        yield path.read_bytes().removeprefix(b"PuTTY-User-Key-File-")


# Known hosts


def read_known_hosts(data: bytes) -> None:
    """Read a known_hosts file and look hosts up in it."""
    known = KnownHosts.parse(data.decode("utf-8", "surrogateescape"))
    repr((known.entries, known.problems))
    for host, port in (("example.com", 22), ("example.com", 2222), ("127.0.0.1", 22), ("::1", 9)):
        known.keys_for(host, port)
        known.authorities_for(host, port)
        known.status_of(host_key(), host, port)


def known_hosts_seeds() -> Iterator[bytes]:
    line = export_public_key(host_key()).encode()
    yield b"example.com,127.0.0.1 " + line
    yield b"*.example.com,!bad.example.com,[example.com]:2222 " + line
    yield b"@revoked * " + line + b"# comment\n\n@cert-authority *.com " + line
    yield b"|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= " + line
    yield b"host future-type AAAAC2Z1dHVyZS10eXBl\n"


# What comes before and around SSH


def read_greeting(data: bytes) -> None:
    """Read identification lines, byte for byte, as either role."""
    if not data:
        return
    greeting = Greeting(Role.SERVER if data[0] & 1 else Role.CLIENT)
    step = 1 + (data[0] >> 1) * 4
    buffer = bytearray()
    for start in range(1, len(data), step):
        buffer += data[start : start + step]
        try:
            version = greeting.read(buffer)
        except SSHError as error:
            str(error)
            return
        if len(buffer) > 16 * 1024:
            raise Finding("more is kept than any greeting may have")
        if version is not None:
            repr(version)
            PeerVersion.parse(version.text)
            return


def greeting_seeds() -> Iterator[bytes]:
    for head in (b"\x00", b"\x01", b"\x41"):
        yield head + b"SSH-2.0-OpenSSH_9.9 Debian\r\n"
        yield head + b"hello\r\nSSH-1.99-x\nrest"
        yield head + b"HTTP/1.1 400 Bad Request\r\n\r\n"
        yield head + b"\x16\x03\x01"
        yield head + b"SSH-2.0-dev-tunnels-ssh_3.12.42\r\n"
        yield head + b"line\n" * 52


def run_socks(data: bytes) -> None:
    """Be a SOCKS server for a client that says anything, in pieces."""
    server = SocksServer()
    size = 1 + (data[0] & 15) if data else 1
    for start in range(1, len(data), size):
        if server.is_finished:
            break
        server.receive_data(data[start : start + size])
        if not 0 < server.wanted <= 255:
            raise Finding("more is read than a handshake may have")
    for reply in SocksReply:
        server.reply(reply)
    if server.target is not None and not str(server.target).isprintable():
        raise Finding("a target that cannot be shown")


def socks_seeds() -> Iterator[bytes]:
    for head in (b"\x00", b"\x0f"):
        yield head + b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50rest"
        yield head + b"\x05\x02\x00\x02\x05\x01\x00\x03\x09localhost\x1f\x90"
        yield head + b"\x05\x01\x00\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x16"
        yield head + b"\x04\x01\x00\x50\x7f\x00\x00\x01user\x00"
        yield head + b"\x04\x01\x00\x50\x00\x00\x00\x01user\x00example.com\x00"


def read_contour(data: bytes) -> None:
    """Read a contour, draw it, write it and read it again."""
    try:
        contour = SessionContour.import_(data.decode("latin-1"))
    except ContourFormatError:
        return
    contour.draw()
    SessionContour.import_(contour.export())


def contour_seeds() -> Iterator[bytes]:
    columns = (1, 2, 3, 11, 12)
    for count, scale in ((1, 0), (3, 4), (40, 63)):
        content = bytes([1, 5, scale, 0, 1, 2, 30, 31, *columns]) + bytes(range(5 * count))
        yield base64.b64encode(content)
    yield base64.b64encode(bytes([1, 2, 0, 0, 0, 99, 11, 7, 8]))


KINDS: Final = (*payloads.CHANNEL_TYPES, *payloads.SESSION_REQUESTS)


def read_forwarding(data: bytes) -> None:
    """Read what the opens and requests of forwarding carry; the first byte says of which."""
    name = KINDS[(data[0] if data else 0) % len(KINDS)]
    try:
        if name in payloads.CHANNEL_TYPES:
            opening = payloads.read_opening(name, data[1:])
            repr(opening)
        else:
            repr(payloads.read_request(name, data[1:]))
    except WireError:
        return


def forwarding_seeds() -> Iterator[bytes]:
    tcp = messages.DirectTcpip("example.com", 80, "127.0.0.1", 4711).encode()
    path = messages.StreamLocalForward("/run/socket").encode()
    local = messages.DirectStreamLocal("/run/socket").encode()
    listen = messages.TcpipForward("localhost", 0).encode()
    for index in range(len(KINDS)):
        for payload in (tcp, path, local, listen):
            yield bytes([index]) + payload


# WebSockets


class _Script(anyio.abc.ByteStream):
    """A stream on which given pieces come, and whatever is sent is only counted."""

    def __init__(self, data: bytes, size: int) -> None:
        self._pieces = [data[start : start + size] for start in range(0, len(data), size)][::-1]
        self.sent = 0

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self._pieces:
            raise anyio.EndOfStream
        piece = self._pieces.pop()
        if len(piece) > max_bytes:
            self._pieces.append(piece[max_bytes:])
        return piece[:max_bytes]

    async def send(self, item: bytes) -> None:
        self.sent += len(item)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self._pieces.clear()


WEBSOCKET_MESSAGE: Final = 4096
HANDSHAKE: Final = (
    b"GET /path HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def run_websocket(data: bytes) -> None:
    """Be a WebSocket's end for a peer that says anything.

    The first byte says which end, whether it is past the handshake, and how big the pieces are.
    """
    _loop().run_until_complete(_run_websocket(data[0] if data else 0, data[1:]))


async def _run_websocket(options: int, data: bytes) -> None:
    script = _Script(data, 1 + (options >> 2) * 16)
    try:
        if options & 3 == 0:
            stream = await accept_websocket(
                script,
                subprotocols=["ssh"],
                max_message_size=WEBSOCKET_MESSAGE,
            )
        else:
            stream = _open_websocket(script, is_client=bool(options & 1))
    except WebSocketError as error:
        str(error)
        return
    received = 0
    try:
        while True:
            received += len(await stream.receive(1024))
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        pass
    await stream.aclose()
    if received > len(data):
        raise Finding(f"{received} bytes came out of {len(data)}")


def _open_websocket(script: _Script, *, is_client: bool) -> WebSocketStream:
    """Return an end that is past the handshake."""
    client, server = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
    server.receive_data(client.send(Request(host="example.com", target="/")))
    list(server.events())
    client.receive_data(server.send(AcceptConnection()))
    list(client.events())
    connection = client if is_client else server
    return WebSocketStream(script, connection, None, WEBSOCKET_MESSAGE)


def websocket_seeds() -> Iterator[bytes]:
    yield b"\xfc" + HANDSHAKE
    yield b"\x10" + HANDSHAKE.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: ssh\r\n\r\n")
    for options, kind in ((1, ConnectionType.SERVER), (2, ConnectionType.CLIENT)):
        peer = WSConnection(kind)
        other = WSConnection(
            ConnectionType.CLIENT if kind is ConnectionType.SERVER else ConnectionType.SERVER
        )
        client, server = (peer, other) if kind is ConnectionType.CLIENT else (other, peer)
        server.receive_data(client.send(Request(host="example.com", target="/")))
        list(server.events())
        client.receive_data(server.send(AcceptConnection()))
        list(client.events())
        frames = peer.send(BytesMessage(b"bytes", message_finished=False))
        frames += peer.send(Ping(b"ping")) + peer.send(BytesMessage(b"more"))
        frames += peer.send(CloseConnection(1000, "bye"))
        for size in (0, 4, 60):
            yield bytes([options | size << 2]) + frames
        yield bytes([options, 0x82, 0x7F]) + b"\xff" * 8
        yield bytes([options, 0x88, 0x02, 0x00, 0x00])


TARGETS: Final = (
    _target("messages", read_message, message_seeds, len(CLASSES)),
    _target("agent", read_frames, frame_seeds),
    _target("public-keys", read_public_blob, lambda: [key.public_blob for key in keys()]),
    _target("signatures", verify_signature, signature_seeds),
    _target("certificates", read_certificate, certificate_seeds),
    _target("certificate-lines", read_certificate_line, certificate_line_seeds),
    _target("key-files", read_key, key_seeds),
    _target("encrypted-key-files", read_encrypted_key, key_seeds),
    _target("jwk", read_jwk, jwk_seeds),
    _target("putty", read_putty, putty_seeds),
    _target("known-hosts", read_known_hosts, known_hosts_seeds),
    _target("greetings", read_greeting, greeting_seeds),
    _target("socks", run_socks, socks_seeds),
    _target("contours", read_contour, contour_seeds),
    _target("forwarding", read_forwarding, forwarding_seeds, len(KINDS)),
    _target("websockets", run_websocket, websocket_seeds, 4),
)
