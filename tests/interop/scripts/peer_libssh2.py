"""libssh2 as a peer, through ``ssh2-python``; it is a client only.

The command line is that of :mod:`peer_common`.
"""

from __future__ import annotations

import argparse
import base64
import select
import socket
import sys
from pathlib import Path
from typing import Any

from peer_common import Done, RefusedError, emit, parse_arguments, play_client
from ssh2.error_codes import LIBSSH2_ERROR_EAGAIN
from ssh2.exceptions import AuthenticationError
from ssh2.session import Session

TIME = 30.0
CHUNK = 32768


class Libssh2Connection:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.socket = socket.create_connection(("127.0.0.1", arguments.port), TIME)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.session = Session()
        self.session.handshake(self.socket)
        key, _ = self.session.hostkey()
        lines = [Path(name).read_text() for name in arguments.host_public_key]
        if key not in [base64.b64decode(line.split()[1]) for line in lines]:
            raise ValueError("the host key is not the expected one")
        self.authenticate(arguments)
        # From here on, so that one thread can send and receive.
        self.session.set_blocking(False)

    def authenticate(self, arguments: argparse.Namespace) -> None:
        user = arguments.user
        try:
            if arguments.key:
                self.session.userauth_publickey_fromfile(user, arguments.key[0])
            else:
                self.session.userauth_password(user, arguments.password)
        except AuthenticationError as error:
            raise RefusedError(str(error)) from None

    def wait(self) -> None:
        """Wait until the socket can do what the library last wanted of it."""
        directions = self.session.block_directions()
        readers = [self.socket] if directions & 1 else []
        writers = [self.socket] if directions & 2 else []
        if not any(select.select(readers, writers, [], TIME)):
            raise TimeoutError("the other side says nothing")

    def insist(self, call: Any, *arguments: Any) -> Any:
        """Make a call until it need not be made again."""
        while True:
            result = call(*arguments)
            # What returns something else as well returns both; what makes an object, None.
            code = result[0] if isinstance(result, tuple) else result
            if code is None:
                code = self.session.last_errno()
            if code != LIBSSH2_ERROR_EAGAIN:
                return result
            self.wait()

    def run(self, command: str, data: bytes) -> Done:
        channel = self.insist(self.session.open_session)
        self.insist(channel.execute, command)
        output, errors, unsent = bytearray(), bytearray(), memoryview(data)
        ended = False
        while not channel.eof():
            is_idle = True
            for read, into in ((channel.read, output), (channel.read_stderr, errors)):
                count, chunk = read(CHUNK)
                if count > 0:
                    into += chunk
                    is_idle = False
            if unsent:
                _, sent = channel.write(bytes(unsent[:CHUNK]))
                unsent = unsent[sent:]
                is_idle = is_idle and sent == 0
            elif not ended:
                ended = self.insist(channel.send_eof) == 0
                is_idle = False
            if is_idle and not channel.eof():
                self.wait()
        self.insist(channel.close)
        self.insist(channel.wait_closed)
        return Done(bytes(output), bytes(errors), channel.get_exit_status())

    def through(self, port: int, words: bytes) -> bytes:
        channel = self.insist(self.session.direct_tcpip, "127.0.0.1", port)
        self.insist(channel.write, words)
        heard = b""
        while len(heard) < len(words) and not channel.eof():
            _, chunk = self.insist(channel.read, CHUNK)
            heard += chunk
        self.insist(channel.close)
        return heard

    def back(self, port: int, target: int) -> None:
        listener, _ = self.insist(self.session.forward_listen_ex, 1, "127.0.0.1", port)
        emit("waiting")
        channel = self.insist(listener.forward_accept)
        with socket.create_connection(("127.0.0.1", target)) as there:
            _, chunk = self.insist(channel.read, CHUNK)
            there.sendall(chunk)
            self.insist(channel.write, there.recv(CHUNK))
        sys.stdin.read()

    def close(self) -> None:
        self.session.set_blocking(True)
        self.session.disconnect()
        self.socket.close()


def main() -> None:
    arguments = parse_arguments()
    if arguments.role == "server":
        raise SystemExit("libssh2 has no server")
    play_client(arguments, Libssh2Connection)


if __name__ == "__main__":
    main()
