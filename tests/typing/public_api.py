"""Uses of the public names as in applications, for the type checkers; never executed.

``nox -s typing`` has mypy and pyright check it. ``assert_type`` fails the check if a call returns
another type than stated.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, assert_type

import anyio
from anyio.abc import ByteStream, ByteStreamConnectable, Listener, SocketAttribute

import anyssh
from anyssh import testing, websocket


async def authenticate(attempt: anyssh.AuthAttempt) -> object | None:
    match attempt:
        case anyssh.PasswordAttempt(username=name, password=password):
            assert_type(name, str)
            assert_type(password, str)
            return name
        case anyssh.PublicKeyAttempt(public_key=key):
            assert_type(key, anyssh.Key)
            return key.fingerprint
        case anyssh.CertificateAttempt(certificate=certificate):
            assert_type(certificate, anyssh.Certificate)
            return certificate.key_id
        case anyssh.KeyboardInteractiveAttempt(responses=None):
            return anyssh.Challenge(prompts=[anyssh.Prompt("Code: ")])
        case anyssh.KeyboardInteractiveAttempt(responses=responses):
            assert_type(responses, tuple[str, ...] | None)
    return None


async def echo(channel: anyssh.Channel) -> None:
    async with channel as entered:
        assert_type(entered, anyssh.Channel)
        async for chunk in channel:
            assert_type(chunk, bytes)
            await channel.send(chunk)
        async for request in channel.requests():
            assert_type(request, anyssh.IncomingRequest)
            await request.accept()
        closed = await channel.wait_closed()
        assert_type(closed, anyssh.ChannelClosed)
        assert_type(closed.exit_status, int | None)
        assert_type(channel.stderr, anyssh.StderrStream)
        assert_type(channel.metrics, anyssh.ChannelMetrics)


async def handle(session: anyssh.ServerSession) -> None:
    assert_type(session.principal, object | None)
    assert_type(session.peer_version, anyssh.PeerVersion)
    assert_type(session.incoming_channels(), AsyncIterator[anyssh.ChannelOpening])
    await session.serve(echo)


async def serve() -> None:
    server = anyssh.Server(
        host_keys=[anyssh.generate_key("ssh-ed25519")],
        authenticate=authenticate,
        forwarding=anyssh.ForwardingPolicy(connect_to=["localhost:*"]),
        limits=anyssh.ServerLimits(connections=10),
    )
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        await server.serve(listener, handle)
    assert_type(server.statistics, anyssh.ServerStatistics)
    assert_type(server.reconnectable_sessions, anyssh.ReconnectableSessions)
    near, _ = testing.memory_stream_pair()
    assert_type(near, testing.MemoryStream)
    async with server.accept(near) as session:
        assert_type(session, anyssh.ServerSession)


async def connect(stream: ByteStream, way: ByteStreamConnectable) -> None:
    config = anyssh.SessionConfig.with_reconnect()
    assert_type(config, anyssh.SessionConfig)
    assert_type(config.replace(keep_alive_interval=10.0), anyssh.SessionConfig)
    async with anyssh.ClientSession.connect(
        way, verify_host=anyssh.pin("SHA256:…"), config=config, trace=print, on_progress=print
    ) as session:
        assert_type(session, anyssh.ClientSession)
        await session.authenticate(anyssh.ClientCredentials("alice", password="wonderland"))
        await session.reconnect(stream)
        assert_type(session.state, anyssh.SessionState)
        assert_type(session.algorithms, anyssh.Algorithms)
        assert_type(session.host_key, anyssh.Key)
        assert_type(session.metrics.latency.average, float)
        assert_type(session.contour.export(), str)
        assert_type(session.channels, tuple[anyssh.Channel, ...])
        assert_type(session.extra(SocketAttribute.remote_port), int)
        assert_type(session.extra(anyssh.SSHAttribute.host_key), anyssh.Key)
        async for event in session.events():
            match event:
                case anyssh.events.Disconnected(error):
                    assert_type(error, anyssh.SSHError)
                case anyssh.Reconnected(count):
                    assert_type(count, int)
        assert_type(await session.wait_closed(), anyssh.SessionClosed)
        assert_type(await session.wait_disconnected(), anyssh.SSHError)


async def use(session: anyssh.ClientSession) -> None:
    command = anyssh.ChannelRequest("exec", anyssh.wire.string("ls"))
    channel = await session.open_channel(request=command)
    assert_type(channel, anyssh.Channel)
    reply = await channel.request("env", want_reply=True)
    assert_type(reply, anyssh.Reply)
    assert_type(reply.payload, bytes)
    assert_type(await session.accept_channel(), anyssh.Channel)
    completed = await session.run_command("ls", input=b"", check=False, max_output=1000)
    assert_type(completed, anyssh.CompletedCommand)
    assert_type(completed.stdout, bytes)
    assert_type(completed.exit_status, int | None)


async def forward(session: anyssh.ClientSession) -> None:
    async with session.forward_to_remote_port("127.0.0.1", 0, "localhost", 80) as local:
        assert_type(local, anyssh.LocalForward)
        assert_type(local.local_port, int | None)
    async with session.forward_from_remote_port("127.0.0.1", 0, "127.0.0.1", 80) as remote:
        assert_type(remote, anyssh.RemoteForward)
        assert_type(remote.remote_port, int | None)
    async with session.stream_from_remote_port("127.0.0.1", 0) as listener:
        assert_type(listener, anyssh.RemoteListener)
        await listener.serve(echo)
    async with session.forward_socks("127.0.0.1", 0) as proxy:
        assert_type(proxy, anyssh.SocksForward)
    async with session.forward_socks_from_remote_port("127.0.0.1", 0) as far_proxy:
        assert_type(far_proxy, anyssh.RemoteSocksForward)
        assert_type(far_proxy.remote_port, int | None)
    assert_type(await anyssh.listen(anyssh.UnixEndpoint("/run/x")), Listener[ByteStream])
    assert_type(await session.stream_to_remote_port("localhost", 80), anyssh.Channel)
    assert_type(session.connectable("localhost", 22), ByteStreamConnectable)


class Counter(anyssh.SessionService):
    activations = (anyssh.ServiceActivation(session_request="count@example.com"),)

    async def on_session_request(self, request: anyssh.IncomingRequest) -> None:
        assert_type(self.session, anyssh.Session)
        await request.accept(anyssh.wire.uint32(1))


def count(session: anyssh.Session) -> None:
    assert_type(session.service(Counter), Counter)
    registered: Mapping[type[anyssh.SessionService], Any] = {Counter: None}
    anyssh.Server(services=registered)


async def streams(stream: ByteStream, server: anyssh.Server) -> None:
    async with anyssh.MultiChannelStream.connect(stream) as many:
        assert_type(many, anyssh.MultiChannelStream)
        assert_type(await many.open_stream("logs"), anyssh.Channel)
    async with anyssh.SecureStream.connect(
        stream,
        credentials=anyssh.ClientCredentials("alice"),
        verify_host=anyssh.InsecureAcceptAnyHostKey(),
    ) as one:
        assert_type(one, anyssh.SecureStream)
        assert_type(await one.receive(), bytes)
    async with anyssh.SecureStream.accept(stream, server) as other:
        assert_type(other, anyssh.SecureStream)


async def relay(
    first: anyssh.Session, second: anyssh.Session, one: anyssh.Channel, other: anyssh.Channel
) -> None:
    await anyssh.pipe(first, second)
    await anyssh.pipe(one, other)


async def keys(path: Path, context: ssl.SSLContext) -> None:
    key = anyssh.import_key_file(path, passphrase="…")
    assert_type(key, anyssh.Key)
    assert_type(anyssh.export_private_key(key, "openssh"), str)
    assert_type(anyssh.export_public_key_bytes(key), bytes)
    assert_type(await anyssh.to_thread.import_key_file(path), anyssh.Key)
    known = await anyssh.KnownHosts.load()
    assert_type(known, anyssh.KnownHosts)
    assert_type(known.for_host("host"), anyssh.KnownHostVerifier)
    verifier: anyssh.HostKeyVerifier = known.for_host("host")
    async with anyssh.Agent() as agent:
        identities = await agent.identities()
        anyssh.ClientCredentials("alice", keys=identities)
    stream = await websocket.connect_websocket("wss://host/", ssl_context=context)
    assert_type(stream, websocket.WebSocketStream)
    anyssh.ClientSession.connect(stream, verify_host=verifier)


async def try_out() -> None:
    async with testing.session_pair() as (client, server):
        assert_type(client, anyssh.ClientSession)
        assert_type(server, anyssh.ServerSession)
