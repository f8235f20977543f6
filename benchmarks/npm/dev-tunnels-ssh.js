'use strict';
// The npm package @microsoft/dev-tunnels-ssh.

const net = require('net');
const ssh = require('@microsoft/dev-tunnels-ssh');
const { PortForwardingService } = require('@microsoft/dev-tunnels-ssh-tcp');
const { importKeyFile } = require('@microsoft/dev-tunnels-ssh-keys');
const { answer, emit, run, ...names } = require('./common.js');

function only(list, algorithm) {
  list.splice(0, list.length, algorithm);
}

function configuration() {
  const config = new ssh.SshSessionConfiguration();
  only(config.keyExchangeAlgorithms, ssh.SshAlgorithms.keyExchange.ecdhNistp256Sha256);
  only(config.publicKeyAlgorithms, ssh.SshAlgorithms.publicKey.ecdsaSha2Nistp256);
  only(config.encryptionAlgorithms, ssh.SshAlgorithms.encryption.aes256Gcm);
  only(config.authenticationMethods, 'publickey');
  config.addService(PortForwardingService);
  return config;
}

// Adapts a channel; data that comes before onData is set waits.
function wrap(channel) {
  let onData;
  let onEnd;
  let ended = false;
  const early = [];
  channel.onDataReceived((data) => {
    if (onData) onData(data);
    else early.push(Buffer.from(data));
    channel.adjustWindow(data.length);
  });
  channel.onEof(() => {
    ended = true;
    if (onEnd) onEnd();
  });
  return {
    send: (data) => channel.send(data),
    end: () => channel.send(Buffer.alloc(0)),
    close: () => channel.close(),
    onData: (handler) => {
      onData = handler;
      early.splice(0).forEach(handler);
    },
    onEnd: (handler) => {
      onEnd = handler;
      if (ended) handler();
    },
  };
}

async function serve(task) {
  const hostKey = await importKeyFile(task.hostKey);
  const userKey = await (await importKeyFile(task.userKey)).getPublicKeyBytes();
  const config = configuration();
  const authenticate = async (event) => {
    const { clientPublicKey, clientPublicKeyQuery } = ssh.SshAuthenticationType;
    if (![clientPublicKey, clientPublicKeyQuery].includes(event.authenticationType)) return null;
    return userKey.equals(await event.publicKey.getPublicKeyBytes()) ? {} : null;
  };
  const server = net.createServer((socket) => {
    socket.setNoDelay(true);
    const session = new ssh.SshServerSession(config);
    session.credentials = { publicKeys: [hostKey] };
    session.onAuthenticating((event) => (event.authenticationPromise = authenticate(event)));
    session.onRequest((event) => (event.isAuthorized = true));
    session.onChannelOpening(({ channel }) => {
      if (channel.channelType === 'direct-tcpip') return; // the service's own
      const wrapped = wrap(channel);
      channel.onRequest((event) => {
        event.isAuthorized = event.requestType === 'exec';
        if (!event.isAuthorized) return;
        const request = event.request.convertTo(new ssh.CommandRequestMessage());
        answer(request.command, wrapped);
      });
    });
    session.connect(new ssh.NodeStream(socket)).catch(() => session.dispose());
  });
  server.listen(0, names.HOST, 1024, () => emit({ port: server.address().port }));
}

const cached = {};

async function connect(task) {
  cached.config ??= configuration();
  cached.userKey ??= await importKeyFile(task.userKey);
  cached.hostKey ??= await (await importKeyFile(task.hostKey)).getPublicKeyBytes();
  const socket = net.connect({ host: names.HOST, port: task.port, noDelay: true });
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  const session = new ssh.SshClientSession(cached.config);
  const verify = async (key) => (cached.hostKey.equals(await key.getPublicKeyBytes()) ? {} : null);
  session.onAuthenticating((event) => (event.authenticationPromise = verify(event.publicKey)));
  await session.connect(new ssh.NodeStream(socket));
  const credentials = { username: names.USERNAME, publicKeys: [cached.userKey] };
  if (!(await session.authenticate(credentials))) throw new Error('authentication failed');
  return {
    open: async (command) => {
      const channel = await session.openChannel();
      const wrapped = wrap(channel);
      const request = new ssh.CommandRequestMessage();
      request.command = command;
      request.wantReply = true;
      if (!(await channel.request(request))) throw new Error('the command was refused');
      return wrapped;
    },
    forward: async (target) => {
      const service = session.activateService(PortForwardingService);
      return (await service.forwardToRemotePort(names.HOST, 0, names.HOST, target)).localPort;
    },
    openIdle: () => session.openChannel('idle'),
    close: async () => {
      await session.close(ssh.SshDisconnectReason.byApplication);
      session.dispose();
    },
  };
}

run(serve, connect);
