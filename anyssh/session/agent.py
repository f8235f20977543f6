"""Keys held by an SSH agent: listing them, and signing with them.

An agent answers requests in order and without numbers, so a stream must never be abandoned between
a request and its answer. If we can connect ourselves, each request has a connection of its own: a
cancelled one is closed, none waits behind a user who is asked to confirm, and a restarted agent
makes no difference. A single stream is shared under a lock instead, and the answers to cancelled
requests are read and dropped by the next one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import AnyByteStream, ByteStream, ByteStreamConnectable, ObjectStream

from ..constants import HostKeyAlgorithm
from ..errors import AgentError, KeyFormatError, LocalProtocolError, SigningRefused, WireError
from ..keys import Key
from ..messages import Message
from ..messages.agent import (
    MAX_AGENT_MESSAGE_BYTES,
    AgentFailure,
    AgentIdentities,
    AgentIdentitiesRequest,
    AgentSignRequest,
    AgentSignResponse,
    SignFlag,
    frame,
    take_frame,
)
from ..wire import Reader, displayable

__all__ = ["Agent", "AgentIdentity"]

SOCKET_VARIABLE: Final = "SSH_AUTH_SOCK"
SEND_TIME: Final = 10.0
"""Seconds for the agent to read a request; agents may delay answers, but not reading."""

_SIGN_FLAGS: Final[dict[str, SignFlag]] = {
    HostKeyAlgorithm.RSA_SHA2_256: SignFlag.RSA_SHA2_256,
    HostKeyAlgorithm.RSA_SHA2_512: SignFlag.RSA_SHA2_512,
}

Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """A key held by an agent: a :class:`Signer`. Created by :class:`Agent`.

    :ivar key: the public key, with the agent's comment
    :ivar agent: the agent; the identity can sign as long as it is connected
    """

    key: Key
    agent: Agent

    async def sign(self, data: bytes, algorithm: str) -> bytes:
        """Request a signature from the agent; see :meth:`Agent.sign`.

        :param data: the bytes to sign
        :param algorithm: one of the key's ``signature_algorithms``
        """
        return await self.agent.sign(self.key, data, algorithm)


class Agent:
    """A client of an SSH agent, for use with ``async with``.

    Entering checks that there is an agent. Several tasks may make requests concurrently; cancelling
    one leaves the agent usable.

    :param transport: the path of the agent's socket, a connectable, or a stream, which is closed on
        exit; None means the socket named by ``$SSH_AUTH_SOCK`` on entry
    :raises TypeError: it is none of these
    """

    def __init__(
        self,
        transport: AnyByteStream | ByteStreamConnectable | str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(
            transport, ByteStreamConnectable | ObjectStream | ByteStream | str | os.PathLike | None
        ):
            raise TypeError(
                "expected the path of a socket, a connectable or a byte stream, "
                f"got {type(transport).__name__}"
            )
        self._transport = transport
        self._conversations: _Connecting | _Sharing | None = None

    async def __aenter__(self) -> Self:
        """Connect to the agent.

        :raises AgentError: ``$SSH_AUTH_SOCK`` is not set, or nothing answers at the socket
        :raises LocalProtocolError: the agent was already entered
        """
        await anyio.lowlevel.checkpoint()
        if self._conversations is not None:
            raise LocalProtocolError("the agent is in use already")
        transport = self._transport if self._transport is not None else _socket_of_environment()
        if isinstance(transport, ObjectStream | ByteStream):
            self._conversations = _Sharing(transport)
            return self
        if not isinstance(transport, ByteStreamConnectable):
            if not hasattr(socket, "AF_UNIX"):
                raise AgentError(
                    "Python has no UNIX sockets on this system: give Agent a connectable or a "
                    "stream that leads to the agent"
                )
            transport = anyio.UNIXConnectable(transport)
        connecting = _Connecting(transport)
        async with connecting.conversation():
            self._conversations = connecting
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        conversations, self._conversations = self._conversations, None
        if isinstance(conversations, _Sharing):
            await conversations.aclose()

    async def identities(self) -> tuple[AgentIdentity, ...]:
        """List all keys of a type that we support; a locked agent lists none.

        Both the result and the method itself can be used as the ``keys`` of
        :class:`ClientCredentials`.

        :raises AgentError: the agent is gone, or violates the agent protocol
        :raises LocalProtocolError: the agent was not entered
        """
        answer = await self._ask(AgentIdentitiesRequest(), AgentIdentities)
        if answer is None:
            raise AgentError("the agent refused to list its keys")
        found = []
        for blob, comment in answer.identities:
            try:
                key = Key.from_public_blob(blob)
            except KeyFormatError:  # a certificate, a security key, or a future type
                continue
            found.append(AgentIdentity(key.with_comment(comment), self))
        return tuple(found)

    async def find(self, key: Key) -> AgentIdentity | None:
        """Return the identity of a public key, None if the agent does not hold it.

        Usable as the ``key_provider`` of :class:`ClientCredentials`: the agent is then only asked
        about keys that the server would accept.

        :param key: the public key whose private half is looked for
        :raises AgentError: the agent is gone, or violates the agent protocol
        :raises LocalProtocolError: the agent was not entered
        """
        for identity in await self.identities():
            if identity.key == key:
                return identity
        return None

    async def sign(self, key: Key, data: bytes, algorithm: str) -> bytes:
        """Request a signature, which the user may have to confirm.

        Cancelling withdraws the request, if the agent notices; the agent stays usable.

        :param key: the public key to sign for
        :param data: the bytes to sign
        :param algorithm: one of the key's ``signature_algorithms``
        :raises SigningRefused: the agent does not sign with this key or this algorithm
        :raises AgentError: the agent is gone, or violates the agent protocol
        :raises LocalProtocolError: the agent was not entered, the key does not support the
            algorithm, or ``data`` is too long for the agent
        """
        if algorithm not in key.signature_algorithms:
            raise LocalProtocolError(
                f"a key of type {key.algorithm} signs with "
                f"{' or '.join(key.signature_algorithms)}, not {displayable(algorithm)!r}"
            )
        flags = _SIGN_FLAGS.get(algorithm, SignFlag.NONE)
        request = AgentSignRequest(key.public_blob, data, flags)
        answer = await self._ask(request, AgentSignResponse)
        if answer is None:
            raise SigningRefused(
                f"the agent does not sign with {key.fingerprint}: it does not hold the key any "
                "more, is locked ('ssh-add -X' unlocks it), or its user did not confirm"
            )
        made = _algorithm_of(answer.signature)
        if made != algorithm:
            raise SigningRefused(
                f"the agent was asked to sign with {algorithm} and signed with "
                f"{displayable(made)!r}; it may be too old for the algorithm"
            )
        return answer.signature

    async def _ask(self, request: Message, expected: type[Answer]) -> Answer | None:
        """Return the answer to a request, None for a failure."""
        await anyio.lowlevel.checkpoint()
        if self._conversations is None:
            raise LocalProtocolError("use the agent inside of 'async with'")
        question = frame(request)
        if len(question) > MAX_AGENT_MESSAGE_BYTES:
            raise LocalProtocolError(
                f"{len(question)} bytes for the agent, which accepts {MAX_AGENT_MESSAGE_BYTES}"
            )
        async with self._conversations.conversation() as conversation:
            try:
                payload = await conversation.ask(question)
                if payload[0] == AgentFailure.number:
                    AgentFailure.decode(payload)
                    return None
                return expected.decode(payload)
            except WireError as error:
                raise AgentError(f"the agent violates the agent protocol: {error}") from error
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
                raise AgentError("the connection to the agent broke") from error
            except anyio.EndOfStream as error:
                raise AgentError("the agent closed the connection") from error


class _Connecting:
    """Uses a connection of its own for each conversation."""

    def __init__(self, connectable: ByteStreamConnectable) -> None:
        self._connectable = connectable

    @asynccontextmanager
    async def conversation(self) -> AsyncIterator[_Conversation]:
        try:
            stream = await self._connectable.connect()
        except OSError as error:
            where = getattr(self._connectable, "path", self._connectable)
            raise AgentError(
                f"no agent answers at {where}: {error}; start one with 'ssh-agent', or give the "
                "path of another one's socket"
            ) from error
        async with stream:
            yield _Conversation(stream)


class _Sharing:
    """Holds all conversations over one stream, one after another."""

    def __init__(self, stream: AnyByteStream) -> None:
        self._stream = stream
        self._lock = anyio.Lock()
        self._conversation = _Conversation(stream)

    @asynccontextmanager
    async def conversation(self) -> AsyncIterator[_Conversation]:
        async with self._lock:
            yield self._conversation

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Conversation:
    """Requests and answers over one stream."""

    def __init__(self, stream: AnyByteStream) -> None:
        self._stream = stream
        self._received = bytearray()
        self._owed_answers = 0

    async def ask(self, question: bytes) -> bytes:
        """Return the answer to a request, after dropping those to cancelled requests."""
        while self._owed_answers:
            await self._next_answer()
        if self._received:
            raise WireError("an unsolicited answer")
        # A truncated request would garble all that follow.
        with anyio.move_on_after(SEND_TIME, shield=True) as sending:
            await self._stream.send(question)
        if sending.cancelled_caught:
            await anyio.aclose_forcefully(self._stream)
            raise AgentError(f"the agent did not read the request within {SEND_TIME:g} seconds")
        self._owed_answers += 1
        return await self._next_answer()

    async def _next_answer(self) -> bytes:
        while (payload := take_frame(self._received)) is None:
            self._received += await self._stream.receive()
        self._owed_answers -= 1
        return payload


def _socket_of_environment() -> str:
    path = os.environ.get(SOCKET_VARIABLE)
    if not path:
        raise AgentError(
            f"the environment has no {SOCKET_VARIABLE}: start an agent with 'eval $(ssh-agent)', "
            "or give Agent the path of its socket or a stream"
        )
    return path


def _algorithm_of(signature: bytes) -> str:
    try:
        return Reader(signature).lenient_text()
    except WireError:
        return ""
