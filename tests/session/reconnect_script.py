"""A session that does a little of everything, on both sides, and knows the expected result.

Both applications run at the same time and check what they see: bytes of three channels in both
directions, standard error, requests with and without replies, EOF, closes and how they closed, new
keys. Whatever the network does meanwhile, each must see exactly what the other did, in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import anyio
from anyio.lowlevel import checkpoint

import anyssh

__all__ = ["client_script", "server_script"]

BULK = Random(1).randbytes(6000)
ANSWER = Random(2).randbytes(5000)
ERRORS = Random(3).randbytes(700)
WORDS = [Random(4 + number).randbytes(1 + number * 37 % 200) for number in range(12)]
REQUESTS = 6
DONE = "done"


def pieces(data: bytes, seed: int) -> list[bytes]:
    """Return the data in pieces of many sizes."""
    random, start, found = Random(seed), 0, []
    while start < len(data):
        size = random.choice([1, 7, 64, 500, 1500])
        found.append(data[start : start + size])
        start += size
    return found


async def send_all(channel: anyssh.Channel, data: bytes, seed: int) -> None:
    for piece in pieces(data, seed):
        await channel.send(piece)
        await checkpoint()


async def expect_all(stream: anyssh.Channel | anyssh.StderrStream, expected: bytes) -> None:
    """Receive to the end; at each moment what came is a prefix of what was sent."""
    got = bytearray()
    async for chunk in stream:
        got += chunk
        assert expected.startswith(got), f"wrong bytes before {len(got)} of {len(expected)}"
    assert len(got) == len(expected)


async def receive_exactly(channel: anyssh.Channel, count: int) -> bytes:
    got = b""
    while len(got) < count:
        got += await channel.receive(count - len(got))
    return got


async def client_script(session: anyssh.ClientSession) -> None:
    """Do the client's part; returns when all of both parts is done and checked."""
    requests = session.requests()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_client_bulk, session)
        tasks.start_soon(_client_asks, session)
        tasks.start_soon(_echo_the_reverse_channel, session)
        tasks.start_soon(_answer_requests, requests, "server")
        tasks.start_soon(_ask_session, session, "client")
    assert await session.request(DONE)
    assert session.channels == ()


async def server_script(session: anyssh.ServerSession) -> None:
    """Do the server's part; returns when the client has left."""
    requests = session.requests()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_answer_requests, requests, "client")
        tasks.start_soon(_reverse, session)
        tasks.start_soon(_ask_session, session, "server")
        tasks.start_soon(_server_bulk, await session.accept_channel("bulk"))
        tasks.start_soon(_server_is_asked, await session.accept_channel("asked"))
    last = await anext(requests)
    assert last.name == DONE
    assert session.channels == ()
    await last.accept()
    await session.wait_closed()


# Bytes both ways, standard error, EOF, an exit status


async def _client_bulk(session: anyssh.ClientSession) -> None:
    async with await session.open_channel("bulk") as channel:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(expect_all, channel, ANSWER)
            tasks.start_soon(expect_all, channel.stderr, ERRORS)
            await send_all(channel, BULK, 10)
            await channel.send_eof()
        closed = await channel.wait_closed()
        assert closed.exit_status == 7
        assert closed.error is None


async def _server_bulk(channel: anyssh.Channel) -> None:
    async with channel:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(expect_all, channel, BULK)
            await send_all(channel, ANSWER, 11)
            for piece in pieces(ERRORS, 12):
                await channel.send_stderr(piece)
            await channel.send_eof()
        await channel.aclose(exit_status=7)


# Requests of a channel, with bytes between them


async def _client_asks(session: anyssh.ClientSession) -> None:
    async with await session.open_channel("asked") as channel:
        for number in range(REQUESTS):
            await channel.send(WORDS[number])
            await channel.request(f"told {number}", want_reply=False)
            reply = await channel.request(f"asked {number}", bytes([number]))
            assert bool(reply) is (number % 2 == 0)
            if number == 2:
                await session.rekey()
        assert b"".join(WORDS[:REQUESTS]) == await receive_exactly(
            channel, sum(map(len, WORDS[:REQUESTS]))
        )
        closed = await channel.wait_closed()
        assert closed.exit_signal == "TERM"


async def _server_is_asked(channel: anyssh.Channel) -> None:
    expected = [
        name for number in range(REQUESTS) for name in (f"told {number}", f"asked {number}")
    ]
    seen = []
    async with channel:
        async for request in channel.requests():
            seen.append(request.name)
            assert seen == expected[: len(seen)]
            if not request.want_reply:
                await request.accept()
                continue
            number = request.payload[0]
            await channel.send(await receive_exactly(channel, len(WORDS[number])))
            await (request.accept() if number % 2 == 0 else request.reject())
            if number == REQUESTS - 1:
                await channel.aclose(signal="TERM")
    assert seen == expected


# Requests of the session


async def _ask_session(session: anyssh.Session, who: str) -> None:
    for number in range(REQUESTS):
        reply = await session.request(f"{who} {number}", bytes([number]))
        assert bool(reply) is (number % 3 != 0)
        if reply:
            assert reply.payload == f"reply to {who} {number}".encode()


async def _answer_requests(requests: AsyncIterator[anyssh.IncomingRequest], who: str) -> None:
    for number in range(REQUESTS):
        request = await anext(requests)
        assert request.name == f"{who} {number}"
        assert request.payload == bytes([number])
        if number % 3:
            await request.accept(f"reply to {request.name}".encode())
        else:
            await request.reject()


# A channel that the server opens, words there and back


async def _reverse(session: anyssh.ServerSession) -> None:
    async with await session.open_channel("reverse") as channel:
        for word in WORDS:
            await channel.send(word)
            assert await receive_exactly(channel, len(word)) == word


async def _echo_the_reverse_channel(session: anyssh.ClientSession) -> None:
    async with await session.accept_channel("reverse") as channel:
        async for chunk in channel:
            await channel.send(chunk)
