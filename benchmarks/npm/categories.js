'use strict';
// The npm package @microsoft/dev-tunnels-ssh in the categories of the Dev Tunnels SSH benchmark suite,
// both ends in this one process. peers/anyssh_categories.py does the same steps with anyssh.

const net = require('net');
const { randomBytes } = require('crypto');
const { parseArgs } = require('util');
const ssh = require('@microsoft/dev-tunnels-ssh');
const { PortForwardingService } = require('@microsoft/dev-tunnels-ssh-tcp');
const { HOST, USERNAME, emit } = require('./common.js');

const PASSWORD = 'benchmark';
const DELAY_MILLISECONDS = 50;
const RECONNECT = ssh.SshProtocolExtensionNames.sessionReconnect;
const CHANNELS = 10;
const CHUNK = 32 * 1024;
const FORWARDED = 8 * 1024 * 1024;
const { keyExchange, publicKey, encryption, hmac } = ssh.SshAlgorithms;
const KEX_ALGORITHMS = [
  keyExchange.ecdhNistp256Sha256,
  keyExchange.ecdhNistp384Sha384,
  keyExchange.ecdhNistp521Sha512,
  keyExchange.dhGroup14Sha256,
  keyExchange.dhGroup16Sha512,
];
const KEY_ALGORITHMS = [
  publicKey.rsaWithSha256,
  publicKey.rsaWithSha512,
  publicKey.ecdsaSha2Nistp256,
  publicKey.ecdsaSha2Nistp384,
  publicKey.ecdsaSha2Nistp521,
];
const CIPHERS = ['aes256-gcm@openssh.com', 'aes256-ctr', 'aes256-cbc'];
const MACS = [
  'hmac-sha2-256-etm@openssh.com',
  'hmac-sha2-512-etm@openssh.com',
  'hmac-sha2-256',
  'hmac-sha2-512',
];

const names = (list) => list.map((algorithm) => algorithm.name);
const now = () => Number(process.hrtime.bigint()) / 1e6;
const tell = (category, scenario, unit, value) => emit({ category, scenario, unit, value });
const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function check(condition, message) {
  if (!condition) throw new Error(message);
}

// How long the work takes, in milliseconds: once to warm up, then again and again.
async function milliseconds(seconds, work) {
  await work();
  const begin = now();
  let end = begin;
  let count = 0;
  while (end - begin < seconds * 1000) {
    await work();
    count++;
    end = now();
  }
  return (end - begin) / count;
}

// Algorithms

async function encryptAndDecrypt(encrypt, decrypt, plain) {
  const cipher = await encrypt.transform(plain);
  if (encrypt.sign && decrypt.verify) {
    const tag = await encrypt.sign(Buffer.alloc(0));
    await decrypt.verify(Buffer.alloc(0), tag);
  }
  const opened = await decrypt.transform(cipher);
  check(opened.length === plain.length, 'the text differs');
}

async function measureEncryption(seconds) {
  for (const [algorithm, kib] of [
    [encryption.aes256Gcm, 1],
    [encryption.aes256Gcm, 32],
    [encryption.aes256Gcm, 64],
    [encryption.aes256Ctr, 32],
  ]) {
    const key = randomBytes(algorithm.keyLength);
    const iv = randomBytes(algorithm.blockLength);
    const encrypt = await algorithm.createCipher(true, key, Buffer.from(iv));
    const decrypt = await algorithm.createCipher(false, key, Buffer.from(iv));
    const plain = randomBytes(kib * 1024);
    const value = await milliseconds(seconds, () => encryptAndDecrypt(encrypt, decrypt, plain));
    tell('encryption', `${algorithm.name.split('@')[0]}, ${kib} KiB`, 'ms', value);
  }
}

async function measureMacs(seconds) {
  const data = randomBytes(256);
  for (const algorithm of [
    hmac.hmacSha256,
    hmac.hmacSha512,
    hmac.hmacSha256Etm,
    hmac.hmacSha512Etm,
  ]) {
    const key = randomBytes(algorithm.keyLength);
    const signer = await algorithm.createSigner(key);
    const verifier = await algorithm.createVerifier(key);
    const value = await milliseconds(seconds, async () =>
      check(await verifier.verify(data, await signer.sign(data)), 'the code differs'),
    );
    tell('HMAC', algorithm.name.split('@')[0], 'ms', value);
  }
}

async function agree(algorithm) {
  const client = algorithm.createKeyExchange();
  const server = algorithm.createKeyExchange();
  const clientPublic = await client.startKeyExchange();
  const serverPublic = await server.startKeyExchange();
  const secret = await server.decryptKeyExchange(clientPublic);
  check(secret.equals(await client.decryptKeyExchange(serverPublic)), 'the secrets differ');
}

async function measureKeyExchanges(seconds) {
  for (const algorithm of KEX_ALGORITHMS) {
    const value = await milliseconds(seconds, () => agree(algorithm));
    tell('key exchange', algorithm.name, 'ms', value);
  }
}

async function measureKeyGeneration(seconds) {
  for (const [algorithm, bits, name] of [
    [publicKey.rsaWithSha256, 2048, 'RSA 2048'],
    [publicKey.rsaWithSha256, 4096, 'RSA 4096'],
    [publicKey.ecdsaSha2Nistp256, 256, 'ECDSA P-256'],
    [publicKey.ecdsaSha2Nistp384, 384, 'ECDSA P-384'],
    [publicKey.ecdsaSha2Nistp521, 521, 'ECDSA P-521'],
  ]) {
    const value = await milliseconds(seconds, () => algorithm.generateKeyPair(bits));
    tell('key generation', name, 'ms', value);
  }
}

async function measureSignatures(seconds) {
  const data = randomBytes(256);
  for (const algorithm of KEY_ALGORITHMS) {
    const bits = algorithm.name.startsWith('rsa') ? 2048 : undefined;
    const pair = await algorithm.generateKeyPair(bits);
    const signer = algorithm.createSigner(pair);
    const verifier = algorithm.createVerifier(pair);
    const value = await milliseconds(seconds, async () =>
      check(await verifier.verify(data, await signer.sign(data)), 'the signature is wrong'),
    );
    tell('signature', algorithm.name, 'ms', value);
  }
}

// The protocol

function writeKexInit() {
  const writer = new ssh.SshDataWriter(Buffer.alloc(512));
  writer.writeByte(20);
  writer.write(randomBytes(16));
  for (const list of [names(KEX_ALGORITHMS), names(KEY_ALGORITHMS), CIPHERS, CIPHERS, MACS, MACS]) {
    writer.writeList(list, 'ascii');
  }
  for (const list of [['none'], ['none'], [], []]) writer.writeList(list, 'ascii');
  writer.writeBoolean(false);
  writer.writeUInt32(0);
  return writer.toBuffer();
}

function readKexInit(buffer) {
  const reader = new ssh.SshDataReader(buffer);
  reader.readByte();
  reader.read(16);
  for (let index = 0; index < 10; index++) reader.readList('ascii');
  reader.readBoolean();
  reader.readUInt32();
}

function writeBinaries(number, ...values) {
  const writer = new ssh.SshDataWriter(Buffer.alloc(1024));
  writer.writeByte(number);
  for (const value of values) writer.writeBinary(value);
  return writer.toBuffer();
}

function readBinaries(buffer, count) {
  const reader = new ssh.SshDataReader(buffer);
  reader.readByte();
  return Array.from({ length: count }, () => reader.readBinary());
}

async function measureSerialisation(seconds) {
  const data = randomBytes(CHUNK);
  const channelData = () => {
    const writer = new ssh.SshDataWriter(Buffer.alloc(CHUNK + 16));
    writer.writeByte(94);
    writer.writeUInt32(1);
    writer.writeBinary(data);
    const reader = new ssh.SshDataReader(writer.toBuffer());
    reader.readByte();
    reader.readUInt32();
    reader.readBinary();
  };
  const opening = new ssh.ChannelOpenMessage();
  opening.channelType = 'session';
  opening.senderChannel = 0;
  opening.maxWindowSize = 1024 * 1024;
  opening.maxPacketSize = CHUNK;
  const channelOpen = () =>
    new ssh.ChannelOpenMessage().read(new ssh.SshDataReader(opening.toBuffer()));
  for (const [scenario, work] of [
    ['channel data, 32 KiB', channelData],
    ['channel open', channelOpen],
    ['key exchange init', () => readKexInit(writeKexInit())],
  ]) {
    tell('serialisation', scenario, 'ms', await milliseconds(seconds, work));
  }
}

async function measureKexCycle(seconds) {
  const method = keyExchange.ecdhNistp384Sha384;
  const algorithm = publicKey.ecdsaSha2Nistp384;
  const pair = await algorithm.generateKeyPair(384);
  const blob = await pair.getPublicKeyBytes();
  const hash = randomBytes(48);
  const value = await milliseconds(seconds, async () => {
    writeKexInit();
    writeKexInit();
    const client = method.createKeyExchange();
    const [clientPublic] = readBinaries(writeBinaries(30, await client.startKeyExchange()), 1);
    const server = method.createKeyExchange();
    const serverPublic = await server.startKeyExchange();
    await server.decryptKeyExchange(clientPublic);
    const signature = await algorithm.createSigner(pair).sign(hash);
    const reply = readBinaries(writeBinaries(31, blob, serverPublic, signature), 3);
    await client.decryptKeyExchange(reply[1]);
    const verifier = algorithm.createVerifier(pair);
    check(await verifier.verify(hash, reply[2]), 'the signature is wrong');
  });
  tell('kex cycle', method.name, 'ms', value);
}

// Sessions

// Delivers what is sent a little later, without holding up the sender.
class DelayedStream extends ssh.NodeStream {
  async write(data, cancellation) {
    const copy = Buffer.from(data);
    setTimeout(() => super.write(copy, cancellation).catch(() => {}), DELAY_MILLISECONDS);
  }
}

function only(list, algorithm) {
  list.splice(0, list.length, algorithm);
}

function configuration({ isSecure = true, reconnects = false } = {}) {
  const config = new ssh.SshSessionConfiguration(isSecure);
  if (isSecure) {
    only(config.keyExchangeAlgorithms, keyExchange.ecdhNistp256Sha256);
    only(config.publicKeyAlgorithms, publicKey.ecdsaSha2Nistp256);
    only(config.encryptionAlgorithms, encryption.aes256Gcm);
  }
  if (reconnects) {
    config.protocolExtensions.push(RECONNECT, ssh.SshProtocolExtensionNames.sessionLatency);
  }
  config.addService(PortForwardingService);
  return config;
}

// Echoes, or counts and tells the number at the end.
function answer(channel) {
  let count = 0;
  channel.onDataReceived((data) => {
    count += data.length;
    channel.adjustWindow(data.length);
    if (channel.channelType === 'echo') channel.send(Buffer.from(data));
  });
  channel.onEof(async () => {
    if (channel.channelType === 'sink') await channel.send(Buffer.from(`${count}\n`));
  });
}

async function serve(config, Stream = ssh.NodeStream) {
  const hostKey = await publicKey.ecdsaSha2Nistp256.generateKeyPair(256);
  const reconnects = config.protocolExtensions.includes(RECONNECT);
  const reconnectable = reconnects ? [] : undefined;
  const server = net.createServer((socket) => {
    socket.setNoDelay(true);
    const session = new ssh.SshServerSession(config, reconnectable);
    session.credentials = { publicKeys: [hostKey] };
    session.onAuthenticating((event) => {
      const isRight = event.password === PASSWORD;
      event.authenticationPromise = Promise.resolve(isRight ? {} : null);
    });
    session.onRequest((event) => (event.isAuthorized = true));
    session.onChannelOpening(({ channel }) => {
      if (['echo', 'sink'].includes(channel.channelType)) answer(channel);
    });
    session.connect(new Stream(socket)).catch(() => session.dispose());
  });
  await new Promise((resolve) => server.listen(0, HOST, resolve));
  return { config, Stream, port: server.address().port, close: () => server.close() };
}

async function connectSocket(port) {
  const socket = net.connect({ host: HOST, port, noDelay: true });
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  return socket;
}

async function connectSession(place) {
  const session = new ssh.SshClientSession(place.config);
  session.onAuthenticating((event) => (event.authenticationPromise = Promise.resolve({})));
  const socket = await connectSocket(place.port);
  await session.connect(new place.Stream(socket));
  if (place.config.keyExchangeAlgorithms.every((algorithm) => algorithm)) {
    const credentials = { username: USERNAME, password: PASSWORD };
    check(await session.authenticate(credentials), 'authentication failed');
  }
  return { session, socket };
}

async function repeatTimed(seconds, work) {
  const times = [];
  const begin = now();
  while (times.length < 3 || now() - begin < seconds * 1000) times.push(await work());
  return median(times.slice(1)); // the first one warms up
}

async function measureSetUp(seconds) {
  for (const [scenario, Stream] of [
    ['no latency', ssh.NodeStream],
    ['100 ms of latency', DelayedStream],
  ]) {
    const place = await serve(configuration(), Stream);
    const value = await repeatTimed(seconds, async () => {
      const before = now();
      const { session } = await connectSession(place);
      await session.openChannel('session');
      const taken = now() - before;
      await session.close(ssh.SshDisconnectReason.byApplication);
      session.dispose();
      return taken;
    });
    tell('session set-up', scenario, 'ms', value);
    place.close();
  }
}

// Sends a message again and again, until the server has counted all; resolves with the bytes.
async function sendFor(session, message, seconds) {
  const channel = await session.openChannel('sink');
  let reply = '';
  const counted = new Promise((resolve) =>
    channel.onDataReceived((data) => {
      reply += data;
      channel.adjustWindow(data.length);
      if (reply.endsWith('\n')) resolve(Number(reply));
    }),
  );
  const begin = now();
  let count = 0;
  while (now() - begin < seconds * 1000) {
    await channel.send(message);
    count++;
  }
  await channel.send(Buffer.alloc(0));
  const received = await counted;
  check(received === count * message.length, `the server counted ${received} bytes`);
  channel.close();
  return received;
}

async function measureThroughput(seconds) {
  for (const [isSecure, how] of [
    [true, 'encrypted'],
    [false, 'clear'],
  ]) {
    const place = await serve(configuration({ isSecure }));
    const { session } = await connectSession(place);
    for (const size of [10, 200, 50_000, 1_000_000]) {
      const message = randomBytes(size);
      await sendFor(session, message, seconds / 4);
      const begin = now();
      const sent = await sendFor(session, message, seconds);
      const rate = sent / (now() - begin) / 1000;
      tell('throughput', `${size.toLocaleString('en')} bytes, ${how}`, 'MB/s', rate);
    }
    place.close();
  }
}

async function measureMultiChannel(seconds) {
  const place = await serve(configuration());
  const { session } = await connectSession(place);
  const message = randomBytes(CHUNK);
  const onAll = async (time) => {
    const begin = now();
    const all = Array.from({ length: CHANNELS }, () => sendFor(session, message, time));
    const sent = (await Promise.all(all)).reduce((sum, each) => sum + each, 0);
    return sent / (now() - begin) / 1000;
  };
  await onAll(seconds / 4);
  tell('multi-channel', '10 channels', 'MB/s', await onAll(seconds));
  place.close();
}

// Resolves with what comes until a length, or until the end.
function receive(socket, length = Infinity) {
  return new Promise((resolve, reject) => {
    let data = Buffer.alloc(0);
    socket.on('error', reject);
    socket.on('end', () => resolve(data));
    socket.on('data', (more) => {
      data = Buffer.concat([data, more]);
      if (data.length >= length) resolve(data);
    });
  });
}

async function sendPieces(socket, total) {
  const piece = randomBytes(64 * 1024);
  for (let sent = 0; sent < total; sent += piece.length) {
    if (!socket.write(piece)) await new Promise((resolve) => socket.once('drain', resolve));
  }
}

async function measureForward(seconds) {
  const target = net.createServer((socket) => {
    let count = 0;
    socket.write('+');
    socket.on('data', (data) => {
      count += data.length;
      if (count >= FORWARDED) socket.write(`${count}\n`);
    });
    socket.on('error', () => {});
  });
  await new Promise((resolve) => target.listen(0, HOST, resolve));
  const place = await serve(configuration());
  const { session } = await connectSession(place);
  const service = session.activateService(PortForwardingService);
  const forwarder = await service.forwardToRemotePort(HOST, 0, HOST, target.address().port);
  const value = await repeatTimed(seconds, async () => {
    const before = now();
    const socket = await connectSocket(forwarder.localPort);
    await receive(socket, 1);
    const taken = now() - before;
    socket.destroy();
    return taken;
  });
  tell('port forward', 'set-up', 'ms', value);
  const socket = await connectSocket(forwarder.localPort);
  const reply = receive(socket, `+${FORWARDED}\n`.length);
  const before = now();
  await sendPieces(socket, FORWARDED);
  const count = Number((await reply).toString().slice(1));
  const rate = FORWARDED / (now() - before) / 1000;
  check(count === FORWARDED, `forwarded ${FORWARDED} bytes, ${count} arrived`);
  tell('port forward', 'throughput', 'MB/s', rate);
  target.close();
  place.close();
}

async function echo(channel) {
  const message = randomBytes(64);
  const coming = new Promise((resolve) => {
    let reply = Buffer.alloc(0);
    const registration = channel.onDataReceived((data) => {
      reply = Buffer.concat([reply, data]);
      channel.adjustWindow(data.length);
      if (reply.length < message.length) return;
      registration.dispose();
      resolve(reply);
    });
  });
  await channel.send(message);
  check(message.equals(await coming), 'the echo differs');
}

async function measureReconnect(seconds) {
  const place = await serve(configuration({ reconnects: true }));
  const { session, socket } = await connectSession(place);
  const channel = await session.openChannel('echo');
  let current = socket;
  while (!session.protocolExtensions?.has(RECONNECT)) await pause(5);
  await echo(channel);
  const value = await repeatTimed(seconds, async () => {
    const lost = new Promise((resolve) => {
      const registration = session.onDisconnected(() => {
        registration.dispose();
        resolve();
      });
    });
    current.destroy();
    await lost;
    current = await connectSocket(place.port);
    const before = now();
    await session.reconnect(new ssh.NodeStream(current));
    const taken = now() - before;
    await echo(channel);
    return taken;
  });
  tell('reconnect', 'after a lost stream', 'ms', value);
  place.close();
}

async function main() {
  const { values } = parseArgs({
    options: { loop: { type: 'string' }, seconds: { type: 'string', default: '0.1' } },
  });
  const seconds = Number(values.seconds);
  for (const measure of [
    measureEncryption,
    measureMacs,
    measureKeyExchanges,
    measureKeyGeneration,
    measureSignatures,
    measureSerialisation,
    measureKexCycle,
    measureSetUp,
    measureThroughput,
    measureForward,
    measureMultiChannel,
    measureReconnect,
  ]) {
    await measure(seconds);
  }
  emit({ event: 'done' });
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
