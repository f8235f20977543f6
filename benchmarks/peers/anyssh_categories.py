"""anyssh in the categories of the Dev Tunnels SSH benchmark suite, both ends in this one process.

Prints a line of JSON for each scenario, as ``npm/categories.js`` does for the npm package: with the
same algorithms, sizes and steps. ``benchmarks/categories.py`` puts them side by side.
"""

from __future__ import annotations

import argparse
import hmac
import os
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Final

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream, TaskGroup

import anyssh
from anyssh.algorithms import (
    KeyExchangeAlgorithm,
    PacketOpener,
    PacketSealer,
    key_exchange,
    mac_key_size,
    packet_opener,
    packet_sealer,
)
from anyssh.algorithms.block_ciphers import Authenticator, decryptor, encryptor
from anyssh.algorithms.parameters import encryption_parameters, mac_parameters
from anyssh.messages import ChannelData, ChannelOpen, KexDhInit, KexDhReply, KexInit

from .common import ENCRYPTION, HOST, HOST_KEY_ALGORITHM, KEY_EXCHANGE, USERNAME, emit

_PASSWORD: Final = "benchmark"
_DELAY_SECONDS: Final = 0.05
_CHANNELS: Final = 10
_CHUNK: Final = 32 * 1024
_FORWARDED: Final = 8 * 1024 * 1024
_ALGORITHMS: Final[dict[str, Any]] = {
    "key_exchanges": [KEY_EXCHANGE],
    "host_key_algorithms": [HOST_KEY_ALGORITHM],
    "encryptions": [ENCRYPTION],
}
_KEX_ALGORITHMS: Final = (
    "ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521",
    "diffie-hellman-group14-sha256", "diffie-hellman-group16-sha512",
)  # fmt: skip
_KEY_ALGORITHMS: Final = (
    "rsa-sha2-256", "rsa-sha2-512",
    "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
)  # fmt: skip
_CIPHERS: Final = ("aes256-gcm@openssh.com", "aes256-ctr", "aes256-cbc")
_MACS: Final = (
    "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256", "hmac-sha2-512",
)  # fmt: skip


def _tell(category: str, scenario: str, unit: str, value: float) -> None:
    emit(category=category, scenario=scenario, unit=unit, value=value)


def _milliseconds(seconds: float, work: Callable[[], object]) -> float:
    """Return how long the work takes: once to warm up, then again and again."""
    work()
    begin = now = time.perf_counter()
    count = 0
    while now - begin < seconds:
        work()
        count += 1
        now = time.perf_counter()
    return (now - begin) / count * 1000


# Algorithms


def _seal_and_open(sealer: PacketSealer, opener: PacketOpener, payload: bytes) -> None:
    packet = bytearray(sealer.seal(0, payload))
    length = opener.packet_length(0, packet, 0)
    if len(opener.open(0, packet, 0, length)) != len(payload):
        raise RuntimeError("the packet differs")


def _encryption(seconds: float) -> None:
    for size in (1024, 32 * 1024, 64 * 1024):
        key, iv, payload = os.urandom(32), os.urandom(16), os.urandom(size)
        sealer = packet_sealer(ENCRYPTION, "", iv=iv, key=key, mac_key=b"", random=os.urandom)
        opener = packet_opener(ENCRYPTION, "", iv=iv, key=key, mac_key=b"")

        value = _milliseconds(seconds, partial(_seal_and_open, sealer, opener, payload))
        _tell("encryption", f"aes256-gcm, {size // 1024} KiB", "ms", value)
    parameters = encryption_parameters("aes256-ctr")
    key, iv, payload = os.urandom(32), os.urandom(16), os.urandom(32 * 1024)
    encrypt, decrypt = encryptor(parameters, key, iv), decryptor(parameters, key, iv)
    _tell(
        "encryption", "aes256-ctr, 32 KiB", "ms",
        _milliseconds(seconds, lambda: decrypt(encrypt(payload))),
    )  # fmt: skip


def _authenticate(signer: Authenticator, verifier: Authenticator, data: bytes) -> None:
    code = signer.code(b"", data)
    if not hmac.compare_digest(verifier.code(b"", data), code):
        raise RuntimeError("the code differs")


def _macs(seconds: float) -> None:
    data = os.urandom(256)
    for name in (
        "hmac-sha2-256", "hmac-sha2-512",
        "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com",
    ):  # fmt: skip
        key = os.urandom(mac_key_size(name))
        signer = Authenticator(mac_parameters(name), key)
        verifier = Authenticator(mac_parameters(name), key)

        value = _milliseconds(seconds, partial(_authenticate, signer, verifier, data))
        _tell("HMAC", name.partition("@")[0], "ms", value)


def _agree(method: KeyExchangeAlgorithm) -> None:
    share = method.client_share()
    public, secret = method.server_reply(share.public)
    if share.finish(public) != secret:
        raise RuntimeError("the secrets differ")


def _key_exchanges(seconds: float) -> None:
    for name in _KEX_ALGORITHMS:
        value = _milliseconds(seconds, partial(_agree, key_exchange(name)))
        _tell("key exchange", name, "ms", value)


def _key_generation(seconds: float) -> None:
    for bits in (2048, 4096):
        value = _milliseconds(seconds, partial(anyssh.generate_key, "ssh-rsa", bits=bits))
        _tell("key generation", f"RSA {bits}", "ms", value)
    for curve in (256, 384, 521):
        generate = partial(anyssh.generate_key, f"ecdsa-sha2-nistp{curve}")
        value = _milliseconds(seconds, generate)
        _tell("key generation", f"ECDSA P-{curve}", "ms", value)


def _sign_and_verify(key: anyssh.Key, data: bytes, algorithm: str) -> None:
    if not key.verify(data, key.sign(data, algorithm), algorithm):
        raise RuntimeError("the signature is wrong")


def _signatures(seconds: float) -> None:
    data = os.urandom(256)
    rsa = anyssh.generate_key("ssh-rsa", bits=2048)
    for name in _KEY_ALGORITHMS:
        key = rsa if name.startswith("rsa") else anyssh.generate_key(name)
        value = _milliseconds(seconds, partial(_sign_and_verify, key, data, name))
        _tell("signature", name, "ms", value)


# The protocol


def _kex_init() -> KexInit:
    return KexInit(
        cookie=os.urandom(16),
        kex_algorithms=_KEX_ALGORITHMS,
        server_host_key_algorithms=_KEY_ALGORITHMS,
        encryption_algorithms_client_to_server=_CIPHERS,
        encryption_algorithms_server_to_client=_CIPHERS,
        mac_algorithms_client_to_server=_MACS,
        mac_algorithms_server_to_client=_MACS,
        compression_algorithms_client_to_server=("none",),
        compression_algorithms_server_to_client=("none",),
    )


def _serialisation(seconds: float) -> None:
    data = os.urandom(_CHUNK)
    opening = ChannelOpen("session", 0, 1024 * 1024, _CHUNK)
    works: dict[str, Callable[[], object]] = {
        "channel data, 32 KiB": lambda: ChannelData.decode(ChannelData(1, data).encode()),
        "channel open": lambda: ChannelOpen.decode(opening.encode()),
        "key exchange init": lambda: KexInit.decode(_kex_init().encode()),
    }
    for scenario, work in works.items():
        _tell("serialisation", scenario, "ms", _milliseconds(seconds, work))


def _kex_cycle(seconds: float) -> None:
    method = key_exchange("ecdh-sha2-nistp384")
    algorithm = "ecdsa-sha2-nistp384"
    key = anyssh.generate_key(algorithm)
    blob, exchange_hash = key.public_blob, os.urandom(48)

    def cycle() -> None:
        _kex_init().encode()
        _kex_init().encode()
        share = method.client_share()
        init = KexDhInit.decode(KexDhInit(share.public).encode())
        public, _ = method.server_reply(init.client_public)
        signature = key.sign(exchange_hash, algorithm)
        reply = KexDhReply.decode(KexDhReply(blob, public, signature).encode())
        share.finish(reply.server_public)
        if not key.verify(exchange_hash, reply.signature, algorithm):
            raise RuntimeError("the signature is wrong")

    _tell("kex cycle", "ecdh-sha2-nistp384", "ms", _milliseconds(seconds, cycle))


# Sessions


class _DelayedStream(ByteStream):
    """Delivers what is sent a little later, without holding up the sender."""

    def __init__(self, inner: SocketStream, tasks: TaskGroup) -> None:
        self._inner = inner
        self._send, self._pending = anyio.create_memory_object_stream[tuple[float, bytes]](inf)
        tasks.start_soon(self._deliver)

    async def _deliver(self) -> None:
        async with self._pending:
            async for due, data in self._pending:
                await anyio.sleep_until(due)
                try:
                    await self._inner.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return

    async def send(self, item: bytes) -> None:
        await self._send.send((anyio.current_time() + _DELAY_SECONDS, bytes(item)))

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._inner.receive(max_bytes)

    async def send_eof(self) -> None:
        self._send.close()

    async def aclose(self) -> None:
        self._send.close()
        await self._inner.aclose()


@dataclass(slots=True)
class _Place:
    """A server in this process, and how to come to it."""

    port: int
    config: anyssh.SessionConfig
    host_key: anyssh.Key

    async def connect(self) -> SocketStream:
        return await anyio.connect_tcp(HOST, self.port)

    def session(self, stream: ByteStream) -> anyssh.ClientSession:
        secure = self.config.is_secure
        return anyssh.ClientSession.connect(
            stream,
            credentials=anyssh.ClientCredentials(USERNAME, password=_PASSWORD) if secure else None,
            verify_host=anyssh.pin(self.host_key.fingerprint) if secure else None,
            config=self.config,
        )


async def _accept_password(attempt: anyssh.AuthAttempt) -> str | None:
    match attempt:
        case anyssh.PasswordAttempt(username=name, password=password) if password == _PASSWORD:
            return name
    return None


async def _answer(channel: anyssh.Channel) -> None:
    """Echo, or count and tell the number at the end."""
    count = 0
    async for data in channel:
        count += len(data)
        if channel.channel_type == "echo":
            await channel.send(data)
    if channel.channel_type != "echo":
        await channel.send(b"%d\n" % count)


@asynccontextmanager
async def _serving(
    config: anyssh.SessionConfig,
    wrap: Callable[[SocketStream, TaskGroup], ByteStream] | None = None,
) -> AsyncIterator[tuple[_Place, TaskGroup]]:
    host_key = anyssh.generate_key(HOST_KEY_ALGORITHM)
    server = anyssh.Server(
        host_keys=[host_key] if config.is_secure else (),
        authenticate=_accept_password if config.is_secure else None,
        config=config,
        forwarding=anyssh.ForwardingPolicy(connect_to=["localhost:*"]),
    )

    async def serve_wrapped(stream: SocketStream) -> None:
        assert wrap is not None
        async with server.accept(wrap(stream, tasks)) as session:
            await session.serve(_answer)

    async def handle(session: anyssh.ServerSession) -> None:
        await session.serve(_answer)

    async with (
        await anyio.create_tcp_listener(local_host=HOST) as listener,
        anyio.create_task_group() as tasks,
    ):
        port = listener.extra(SocketAttribute.local_port)
        if wrap is None:
            tasks.start_soon(server.serve, listener, handle)
        else:
            tasks.start_soon(listener.serve, serve_wrapped)
        yield _Place(port, config, host_key), tasks
        tasks.cancel_scope.cancel()


async def _set_up(seconds: float) -> None:
    for scenario, wrap in (("no latency", None), ("100 ms of latency", _DelayedStream)):
        async with _serving(anyssh.SessionConfig(**_ALGORITHMS), wrap) as (place, tasks):
            times: list[float] = []
            begin = time.perf_counter()
            while len(times) < 3 or time.perf_counter() - begin < seconds:
                before = time.perf_counter()
                stream = await place.connect()
                async with place.session(wrap(stream, tasks) if wrap else stream) as session:
                    await session.open_channel("session")
                    times.append(time.perf_counter() - before)
            # The first one warms up.
            _tell("session set-up", scenario, "ms", statistics.median(times[1:]) * 1000)


async def _counted(channel: anyssh.Channel, sent: int) -> None:
    await channel.send_eof()
    reply = b"".join([data async for data in channel])
    if int(reply) != sent:
        raise RuntimeError(f"sent {sent} bytes, the server counted {reply!r}")


async def _send_for(channel: anyssh.Channel, message: bytes, seconds: float) -> int:
    """Send a message again and again, until the server has counted all; return the bytes."""
    count = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        await channel.send(message)
        count += 1
    await _counted(channel, count * len(message))
    return count * len(message)


async def _throughput(seconds: float) -> None:
    for config, how in (
        (anyssh.SessionConfig(**_ALGORITHMS), "encrypted"),
        (anyssh.InsecureSessionConfig(), "clear"),
    ):
        async with _serving(config) as (place, _), place.session(await place.connect()) as session:
            for size in (10, 200, 50_000, 1_000_000):
                message = os.urandom(size)
                await _send_for(await session.open_channel("sink"), message, seconds / 4)
                begin = time.perf_counter()
                sent = await _send_for(await session.open_channel("sink"), message, seconds)
                rate = sent / (time.perf_counter() - begin) / 1e6
                _tell("throughput", f"{size:,} bytes, {how}", "MB/s", rate)


async def _multi_channel(seconds: float) -> None:
    data = os.urandom(_CHUNK)
    sent: list[int] = []

    async def send(channel: anyssh.Channel, seconds: float) -> None:
        sent.append(await _send_for(channel, data, seconds))

    async def on_all(session: anyssh.ClientSession, seconds: float) -> float:
        channels = [await session.open_channel("sink") for _ in range(_CHANNELS)]
        sent.clear()
        begin = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for channel in channels:
                tasks.start_soon(send, channel, seconds)
        return sum(sent) / (time.perf_counter() - begin) / 1e6

    config = anyssh.SessionConfig(**_ALGORITHMS)
    async with _serving(config) as (place, _), place.session(await place.connect()) as session:
        await on_all(session, seconds / 4)
        _tell("multi-channel", "10 channels", "MB/s", await on_all(session, seconds))


async def _forward(seconds: float) -> None:
    async def count(stream: SocketStream) -> None:
        async with stream:
            await stream.send(b"+")
            total = 0
            with suppress(anyio.BrokenResourceError):  # who only connects may reset it
                async for data in stream:
                    total += len(data)
                    if total >= _FORWARDED:
                        await stream.send(b"%d\n" % total)

    config = anyssh.SessionConfig(**_ALGORITHMS)
    async with (
        await anyio.create_tcp_listener(local_host=HOST) as target,
        _serving(config) as (place, tasks),
        place.session(await place.connect()) as session,
    ):
        tasks.start_soon(target.serve, count)
        target_port = target.extra(SocketAttribute.local_port)
        async with session.forward_to_remote_port(HOST, 0, HOST, target_port) as forwarding:
            assert forwarding.local_port is not None
            times: list[float] = []
            begin = time.perf_counter()
            while len(times) < 3 or time.perf_counter() - begin < seconds:
                before = time.perf_counter()
                async with await anyio.connect_tcp(HOST, forwarding.local_port) as stream:
                    await stream.receive(1)
                    times.append(time.perf_counter() - before)
            _tell("port forward", "set-up", "ms", statistics.median(times[1:]) * 1000)
            async with await anyio.connect_tcp(HOST, forwarding.local_port) as stream:
                await stream.receive(1)
                piece = os.urandom(64 * 1024)
                before = time.perf_counter()
                for _ in range(_FORWARDED // len(piece)):
                    await stream.send(piece)
                reply = b""
                while not reply.endswith(b"\n"):
                    reply += await stream.receive()
                rate = _FORWARDED / (time.perf_counter() - before) / 1e6
            if int(reply) != _FORWARDED:
                raise RuntimeError(f"forwarded {_FORWARDED} bytes, {reply!r} arrived")
            _tell("port forward", "throughput", "MB/s", rate)


def _cut(stream: SocketStream) -> None:
    # The socket that uvloop shows cannot be shut down; another one of the same connection can.
    with socket.socket(fileno=os.dup(stream.extra(SocketAttribute.raw_socket).fileno())) as twin:
        twin.shutdown(socket.SHUT_RDWR)


async def _reconnect(seconds: float) -> None:
    config = anyssh.SessionConfig.with_reconnect(**_ALGORITHMS)
    times: list[float] = []
    async with _serving(config) as (place, _):
        stream = await place.connect()
        async with place.session(stream) as session:
            channel = await session.open_channel("echo")
            await _echo(channel)
            begin = time.perf_counter()
            while len(times) < 3 or time.perf_counter() - begin < seconds:
                _cut(stream)
                await session.wait_disconnected()
                stream = await place.connect()
                before = time.perf_counter()
                await session.reconnect(stream)
                times.append(time.perf_counter() - before)
                await _echo(channel)
    _tell("reconnect", "after a lost stream", "ms", statistics.median(times[1:]) * 1000)


async def _echo(channel: anyssh.Channel) -> None:
    message = os.urandom(64)
    await channel.send(message)
    reply = b""
    while len(reply) < len(message):
        reply += await channel.receive()
    if reply != message:
        raise RuntimeError("the echo differs")


async def _sessions(seconds: float) -> None:
    await _set_up(seconds)
    await _throughput(seconds)
    await _forward(seconds)
    await _multi_channel(seconds)
    await _reconnect(seconds)


def main() -> None:
    """Measure every category."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", default="asyncio", choices=["asyncio", "uvloop", "trio"])
    parser.add_argument("--seconds", type=float, default=0.1)
    options = parser.parse_args()
    for measure in (
        _encryption,
        _macs,
        _key_exchanges,
        _key_generation,
        _signatures,
        _serialisation,
        _kex_cycle,
    ):
        measure(options.seconds)
    backend = "trio" if options.loop == "trio" else "asyncio"
    backend_options = {"use_uvloop": True} if options.loop == "uvloop" else {}
    anyio.run(_sessions, options.seconds, backend=backend, backend_options=backend_options)
    emit(event="done")


if __name__ == "__main__":
    main()
