'use strict';
// The npm package ssh2. Its native addon is built by `npm install` if there is a compiler.

const fs = require('fs');
const net = require('net');
const { Client, Server, utils } = require('ssh2');
const { answer, emit, run, ...names } = require('./common.js');

const algorithms = {
  kex: [names.KEY_EXCHANGE],
  cipher: [names.ENCRYPTION],
  serverHostKey: [names.HOST_KEY_ALGORITHM],
  compress: ['none'],
};

function hasAddon() {
  try {
    require('ssh2/lib/protocol/crypto/build/Release/sshcrypto.node');
    return true;
  } catch {
    return false;
  }
}

function wrap(stream) {
  return {
    send: (data) =>
      stream.write(data) ? undefined : new Promise((resolve) => stream.once('drain', resolve)),
    end: () => stream.end(),
    close: () => stream.close(),
    onData: (handler) => stream.on('data', handler),
    onEnd: (handler) => stream.on('end', handler),
  };
}

function serve(task) {
  const userKey = utils.parseKey(fs.readFileSync(task.userKey));
  const server = new Server({ hostKeys: [fs.readFileSync(task.hostKey)], algorithms }, (client) => {
    client.setNoDelay(true);
    client.on('authentication', (context) => {
      if (context.method !== 'publickey') return context.reject(['publickey']);
      const known = userKey.getPublicSSH().equals(context.key.data);
      const proven =
        !context.signature ||
        userKey.verify(context.blob, context.signature, context.hashAlgo) === true;
      return known && proven ? context.accept() : context.reject();
    });
    client.on('session', (accept) => {
      accept().on('exec', (acceptCommand, _reject, info) =>
        answer(info.command, wrap(acceptCommand())),
      );
    });
    client.on('tcpip', (accept, reject, info) => {
      if (info.destPort === names.NOWHERE) accept().resume();
      else reject();
    });
    client.on('error', () => {}); // the client has what it wanted
  });
  const note = hasAddon() ? 'native addon' : 'native addon not built';
  server.listen(0, names.HOST, 1024, () => emit({ port: server.address().port, note }));
}

const cached = {};

function connect(task) {
  cached.privateKey ??= utils.parseKey(fs.readFileSync(task.userKey));
  cached.hostKey ??= utils.parseKey(fs.readFileSync(task.hostKey)).getPublicSSH();
  const client = new Client();
  return new Promise((resolve, reject) => {
    client.on('error', reject);
    client.on('ready', () => {
      resolve({
        open: (command) =>
          new Promise((opened, failed) =>
            client.exec(command, (error, stream) =>
              error ? failed(error) : opened(wrap(stream)),
            ),
          ),
        openIdle: () =>
          new Promise((opened, failed) =>
            client.forwardOut(names.HOST, 0, names.HOST, names.NOWHERE, (error, stream) => {
              if (error) return failed(error);
              stream.resume();
              opened({
                close: () =>
                  new Promise((closed) => {
                    stream.on('close', closed);
                    stream.close();
                  }),
              });
            }),
          ),
        close: () =>
          new Promise((closed) => {
            client.on('close', closed);
            client.end();
          }),
      });
    });
    client.connect({
      // A socket of our own, because the client's setNoDelay comes too late for the handshake.
      sock: net.connect({ host: names.HOST, port: task.port, noDelay: true }),
      username: names.USERNAME,
      // Given here and not as `privateKey`, a key that is parsed already is accepted.
      authHandler: [{ type: 'publickey', username: names.USERNAME, key: cached.privateKey }],
      hostVerifier: (key) => cached.hostKey.equals(key),
      algorithms,
    });
  });
}

run(serve, connect);
