"""A client guesses the key exchange with servers that it knows."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.abc import SocketAttribute

import anyssh
from anyssh.session.guesses import MOST_REMEMBERED, Guess, Guesses

from .life_support import LIMIT, client_of, echo, echoes, fast, host_key, server_of

NISTP256 = anyssh.KeyExchange.ECDH_NISTP256
CURVE25519 = anyssh.KeyExchange.CURVE25519_SHA256


class Flights:
    """Tells whether a client sent its first message of the key exchange before it got any."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def __call__(self, event: anyssh.TraceEvent) -> None:
        if event.id in (anyssh.TraceId.SENDING_MESSAGE, anyssh.TraceId.RECEIVING_MESSAGE):
            direction, _, name = event.message.split()
            self.messages.append(f"{direction} {name}")

    @property
    def was_guessed(self) -> bool:
        return self.messages[:2] == ["Sending KEXINIT", "Sending KEXDH_INIT"]


@asynccontextmanager
async def serving(
    config: anyssh.SessionConfig,
    port: int = 0,
    *,
    handler: Callable[[anyssh.Channel], Awaitable[object]] = echo,
) -> AsyncIterator[int]:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port) as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(
            server_of(config=config).serve, listener, lambda session: session.serve(handler)
        )
        yield listener.extra(SocketAttribute.local_port)
        group.cancel_scope.cancel()


async def flights(port: int, config: anyssh.SessionConfig, **arguments: Any) -> Flights:
    seen = Flights()
    stream = await anyio.connect_tcp("127.0.0.1", port)
    async with client_of(stream, config=config, trace=seen, **arguments) as client:
        await echoes(client)
    return seen


async def test_a_client_guesses_with_a_server_that_it_knows() -> None:
    config = fast(key_exchanges=[CURVE25519, NISTP256])
    with anyio.fail_after(LIMIT):
        async with serving(config) as port:
            assert not (await flights(port, config)).was_guessed
            assert (await flights(port, config)).was_guessed
            assert (await flights(port, config)).was_guessed
            # What another client prefers is another guess.
            other = fast(key_exchanges=[NISTP256, CURVE25519])
            assert not (await flights(port, other)).was_guessed
            assert not (await flights(port, other)).was_guessed
            never = config.replace(guess_key_exchange=False)
            assert not (await flights(port, never)).was_guessed


async def test_a_client_guesses_with_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """dropbear takes a guess for wrong that the standard takes for right, and waits."""
    config = fast(key_exchanges=[CURVE25519, NISTP256])
    name = "anyssh.session.life.local_identification"
    monkeypatch.setattr(name, lambda version: f"SSH-2.0-another_{version}")
    with anyio.fail_after(LIMIT):
        async with serving(config) as port:
            for _ in range(2):
                assert not (await flights(port, config)).was_guessed


async def test_a_server_that_has_changed_its_mind_costs_one_message() -> None:
    config = fast(key_exchanges=[CURVE25519, NISTP256])
    with anyio.fail_after(LIMIT):
        async with serving(config) as port:
            await flights(port, config)
        async with serving(fast(key_exchanges=[NISTP256, CURVE25519]), port):
            seen = await flights(port, config)
            assert seen.was_guessed
            assert seen.messages.count("Sending KEXDH_INIT") == 2
            assert not (await flights(port, config)).was_guessed


async def test_a_server_that_does_not_cope_with_guesses_is_left_alone() -> None:
    config = fast(key_exchanges=[CURVE25519, NISTP256])

    async def close_if_guessed(near: anyio.abc.ByteStream) -> None:
        async with near, await anyio.connect_tcp("127.0.0.1", real_port) as far:
            flight = await near.receive()
            kexinit = flight.index(b"\n") + 1
            end = kexinit + 4 + int.from_bytes(flight[kexinit : kexinit + 4])
            await far.send(flight[:end])
            if len(flight) > end:
                await near.send(await far.receive())
            else:
                async with anyio.create_task_group() as ways:
                    ways.start_soon(pass_on, near, far)
                    await pass_on(far, near)

    async def pass_on(source: anyio.abc.ByteStream, target: anyio.abc.ByteStream) -> None:
        async for data in source:
            await target.send(data)
        await target.send_eof()

    with anyio.fail_after(LIMIT):
        async with (
            serving(config) as real_port,
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as group,
        ):
            group.start_soon(listener.serve, close_if_guessed)
            port = listener.extra(SocketAttribute.local_port)
            assert not (await flights(port, config)).was_guessed
            with pytest.raises(anyssh.ConnectionLost):
                await flights(port, config)
            assert not (await flights(port, config)).was_guessed
            group.cancel_scope.cancel()


async def test_who_is_reached_through_another_server_is_not_taken_for_that_one() -> None:
    config = fast(key_exchanges=[CURVE25519, NISTP256])
    seen = Flights()

    async def inner(channel: anyssh.Channel) -> None:
        async with server_of(config=config).accept(channel) as session:
            await session.serve(echo)

    with anyio.fail_after(LIMIT):
        async with serving(config, handler=inner) as port:
            for _ in range(2):
                stream = await anyio.connect_tcp("127.0.0.1", port)
                async with client_of(stream, config=config) as outer:
                    channel = await outer.open_channel()
                    async with client_of(channel, config=config, trace=seen) as client:
                        await echoes(client)
                assert not seen.was_guessed


async def test_who_asks_for_certificates_makes_another_guess() -> None:
    config = fast(key_exchanges=[CURVE25519, NISTP256])
    authority = anyssh.generate_key("ssh-ed25519")
    asking = anyssh.HostAuthorities(
        [authority], "127.0.0.1", otherwise=anyssh.pin(host_key().fingerprint)
    )
    with anyio.fail_after(LIMIT):
        async with serving(config) as port:
            await flights(port, config)
            assert not (await flights(port, config, verify_host=asking)).was_guessed
            assert not (await flights(port, config, verify_host=asking)).was_guessed
            assert (await flights(port, config)).was_guessed


def test_the_guess_that_was_made_longest_ago_is_forgotten() -> None:
    guesses = Guesses()
    made = [Guess(("host", port), "method", "key") for port in range(MOST_REMEMBERED + 1)]
    for guess in made[:-1]:
        guesses.learn(guess, is_right=True)
    guesses.learn(made[0], is_right=True)
    guesses.learn(made[-1], is_right=True)
    assert made[1] not in guesses
    assert made[0] in guesses
    assert made[-1] in guesses
    guesses.learn(made[-1], is_right=False)
    assert made[-1] not in guesses
    assert None not in guesses


def test_threads_may_learn_at_the_same_time() -> None:
    guesses = Guesses()

    def learn(host: str) -> None:
        for port in range(10_000):
            guesses.learn(Guess((host, port), "method", "key"), is_right=True)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(learn, "abcd"))
    finally:
        sys.setswitchinterval(interval)
    assert len(guesses._right) <= MOST_REMEMBERED
