"""Twisted Conch as a peer; the command line is that of :mod:`peer_common`.

The reactor runs in the main thread. Conch rekeys only when told to, so with ``--rekey-bytes`` it is
told after that many bytes of a channel.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import threading
from base64 import b64decode
from pathlib import Path
from typing import Any

from peer_common import (
    ECHO,
    REPORT,
    Done,
    RefusedError,
    emit,
    parse_arguments,
    play_client,
)
from twisted.conch.avatar import ConchUser
from twisted.conch.error import ValidPublicKey
from twisted.conch.ssh import common, forwarding
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.connection import EXTENDED_DATA_STDERR, SSHConnection
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import (
    DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE,
    SSHClientTransport,
    SSHTransportBase,
)
from twisted.conch.ssh.userauth import SSHUserAuthClient
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ISSHPrivateKey, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet import defer, reactor, threads
from twisted.internet.protocol import ClientFactory
from twisted.python.log import startLogging
from zope.interface import implementer

TIME = 30.0


def load_keys(names: list[str]) -> list[Key]:
    return [Key.fromFile(name) for name in names]


class Rekeying:
    """Starts a key exchange whenever so many bytes have come."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.count = 0

    def came(self, size: int, transport: SSHTransportBase) -> None:
        if self.limit is None:
            return
        self.count += size
        if self.count >= self.limit and transport._keyExchangeState == "_KEY_EXCHANGE_NONE":
            self.count = 0
            transport.sendKexInit()


# --- the server


class ServerChannel(SSHChannel):
    name = b"session"
    command = b""

    def channelOpen(self, ignored: bytes) -> None:
        self.rekeying = Rekeying(self.avatar.arguments.rekey_bytes)

    def request_exec(self, data: bytes) -> bool:
        self.command = common.getNS(data)[0]
        if self.command == REPORT.encode():
            # The reply to the request leaves first.
            reactor.callLater(0, self.report)
        return True

    def report(self) -> None:
        self.write(b"output")
        self.writeExtended(EXTENDED_DATA_STDERR, b"errors")
        self.leave(42)

    def dataReceived(self, data: bytes) -> None:
        if self.command == ECHO.encode():
            self.write(data)
            self.rekeying.came(len(data), self.conn.transport)

    def eofReceived(self) -> None:
        if self.command == ECHO.encode():
            self.leave(0)

    def leave(self, status: int) -> None:
        """Send EOF and the exit status behind all that waits for the window."""
        if self.buf or self.extBuf:
            reactor.callLater(0.005, self.leave, status)
            return
        self.conn.sendEOF(self)
        self.conn.sendRequest(self, b"exit-status", struct.pack(">L", status))
        self.loseConnection()


class User(ConchUser):
    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__()
        self.arguments = arguments
        self.channelLookup = {
            b"session": ServerChannel,
            b"direct-tcpip": forwarding.openConnectForwardingClient,
        }


@implementer(IRealm)
class Realm:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments

    def requestAvatar(self, name: bytes, mind: object, *interfaces: Any) -> Any:
        return interfaces[0], User(self.arguments), lambda: None


@implementer(ICredentialsChecker)
class KeyChecker:
    credentialInterfaces = (ISSHPrivateKey,)

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.user = arguments.user.encode()
        lines = Path(arguments.authorized).read_text().splitlines() if arguments.authorized else []
        self.blobs = [b64decode(line.split()[1]) for line in lines]

    def requestAvatarId(self, credentials: Any) -> Any:
        known = credentials.blob in self.blobs and credentials.username == self.user
        if not known:
            return defer.fail(UnauthorizedLogin("unknown key"))
        if credentials.signature is None:
            return defer.fail(ValidPublicKey())
        key = Key.fromString(credentials.blob)
        if not key.verify(credentials.signature, credentials.sigData):
            return defer.fail(UnauthorizedLogin("bad signature"))
        emit("authenticated", user=self.user.decode(), method="publickey")
        return self.user


@implementer(ICredentialsChecker)
class PasswordChecker:
    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.right = (arguments.user.encode(), (arguments.password or "").encode())

    def requestAvatarId(self, credentials: Any) -> Any:
        if (credentials.username, credentials.password) != self.right:
            return defer.fail(UnauthorizedLogin("wrong password"))
        emit("authenticated", user=self.right[0].decode(), method="password")
        return credentials.username


def serve(arguments: argparse.Namespace) -> None:
    keys = load_keys(arguments.host_key)
    factory = SSHFactory()
    factory.privateKeys = {key.sshType(): key for key in keys}
    factory.publicKeys = {name: key.public() for name, key in factory.privateKeys.items()}
    checkers: list[Any] = [KeyChecker(arguments)]
    if arguments.password is not None:
        checkers.append(PasswordChecker(arguments))
    factory.portal = Portal(Realm(arguments), checkers)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    emit("listening", port=port.getHost().port)
    threading.Thread(target=stop_with_input, daemon=True).start()
    reactor.run()


def stop_with_input() -> None:
    sys.stdin.read()
    reactor.callFromThread(reactor.stop)


# --- the client


class ClientTransport(SSHClientTransport):
    def verifyHostKey(self, host_key: bytes, fingerprint: str) -> Any:
        if host_key in self.factory.trusted:
            return defer.succeed(True)
        return defer.fail(ValueError("the host key is not the expected one"))

    def connectionSecure(self) -> None:
        """Log in; this is called after every key exchange."""
        if self.service is not None:
            return
        service = ClientService(self.factory.ready, self)
        self.requestService(UserAuthentication(self.factory.arguments, service))

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        self.factory.fail(ConnectionError("the connection was lost"))

    def sendDisconnect(self, reason: int, description: bytes) -> None:
        if reason == DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE:
            self.factory.fail(RefusedError(description.decode()))
        super().sendDisconnect(reason, description)


class UserAuthentication(SSHUserAuthClient):
    def __init__(self, arguments: argparse.Namespace, service: Any) -> None:
        super().__init__(arguments.user.encode(), service)
        self.keys = load_keys(arguments.key)
        self.offered = iter(self.keys)
        self.passwords = [] if arguments.key else [arguments.password.encode()]

    def getPublicKey(self) -> Any:
        key = next(self.offered, None)
        return key and key.public()

    def getPrivateKey(self) -> Any:
        return defer.succeed(self.keys[0])

    def getPassword(self, prompt: Any = None) -> Any:
        return defer.succeed(self.passwords.pop()) if self.passwords else None

    def auth_keyboard_interactive(self) -> bool:
        return False


class ClientService(SSHConnection):
    def __init__(self, ready: Any, transport: ClientTransport) -> None:
        super().__init__()
        self.ready = ready
        self.rekeying = Rekeying(transport.factory.arguments.rekey_bytes)

    def serviceStarted(self) -> None:
        super().serviceStarted()
        self.ready.callback(self)


class ClientFactoryOfOne(ClientFactory):
    protocol = ClientTransport

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.ready: defer.Deferred[ClientService] = defer.Deferred()
        lines = [Path(name).read_text() for name in arguments.host_public_key]
        self.trusted = [b64decode(line.split()[1]) for line in lines]

    def fail(self, error: Exception) -> None:
        if not self.ready.called:
            self.ready.errback(error)

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        self.fail(reason.value)


class CommandChannel(SSHChannel):
    name = b"session"
    status: int | None = None

    def __init__(self, command: str, data: bytes, done: defer.Deferred[Done]) -> None:
        super().__init__()
        self.command, self.data, self.done = command, data, done
        self.output, self.errors = bytearray(), bytearray()

    def openFailed(self, reason: Any) -> None:
        self.done.errback(reason)

    def channelOpen(self, ignored: bytes) -> None:
        request = common.NS(self.command.encode())
        answer = self.conn.sendRequest(self, b"exec", request, wantReply=True)
        answer.addCallbacks(self.send, self.done.errback)

    def send(self, ignored: object) -> None:
        self.write(self.data)
        self.end()

    def end(self) -> None:
        """Send EOF when all has been sent that waited for the window."""
        if self.buf:
            reactor.callLater(0.005, self.end)
        else:
            self.conn.sendEOF(self)

    def dataReceived(self, data: bytes) -> None:
        self.output += data
        self.conn.rekeying.came(len(data), self.conn.transport)

    def extReceived(self, kind: int, data: bytes) -> None:
        self.errors += data

    def request_exit_status(self, data: bytes) -> None:
        [self.status] = struct.unpack(">L", data)

    def closed(self) -> None:
        self.done.callback(Done(bytes(self.output), bytes(self.errors), self.status))


class ForwardedChannel(SSHChannel):
    name = b"direct-tcpip"

    def __init__(self, words: bytes, heard: defer.Deferred[bytes]) -> None:
        super().__init__()
        self.words, self.heard, self.output = words, heard, b""

    def openFailed(self, reason: Any) -> None:
        self.heard.errback(reason)

    def channelOpen(self, ignored: bytes) -> None:
        self.write(self.words)

    def dataReceived(self, data: bytes) -> None:
        self.output += data
        if len(self.output) >= len(self.words) and not self.heard.called:
            self.heard.callback(self.output)
            self.loseConnection()


class ConchConnection:
    """Calls from the thread of the scenarios into the reactor."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        factory = ClientFactoryOfOne(arguments)

        def connect() -> defer.Deferred[ClientService]:
            reactor.connectTCP("127.0.0.1", arguments.port, factory)
            return factory.ready.addTimeout(TIME, reactor)

        self.service = threads.blockingCallFromThread(reactor, connect)

    def run(self, command: str, data: bytes) -> Done:
        def start() -> defer.Deferred[Done]:
            done: defer.Deferred[Done] = defer.Deferred()
            self.service.openChannel(CommandChannel(command, data, done))
            return done.addTimeout(TIME, reactor)

        return threads.blockingCallFromThread(reactor, start)

    def through(self, port: int, words: bytes) -> bytes:
        there = forwarding.packOpen_direct_tcpip(("127.0.0.1", port), ("127.0.0.1", 0))

        def start() -> defer.Deferred[bytes]:
            heard: defer.Deferred[bytes] = defer.Deferred()
            self.service.openChannel(ForwardedChannel(words, heard), there)
            return heard.addTimeout(TIME, reactor)

        return threads.blockingCallFromThread(reactor, start)

    def close(self) -> None:
        reactor.callFromThread(self.service.transport.loseConnection)


def play_and_exit(arguments: argparse.Namespace) -> None:
    play_client(arguments, ConchConnection)
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    arguments = parse_arguments()
    startLogging(sys.stderr, setStdout=False)
    if arguments.role == "server":
        serve(arguments)
        return
    threading.Thread(target=play_and_exit, args=(arguments,), daemon=True).start()
    reactor.run(installSignalHandlers=False)


if __name__ == "__main__":
    main()
