'use strict';
// What the peers for Node share; the same rules as peers/common.py, which explains them.
//
// A channel here is {send(buffer): Promise|undefined, end(), close(), onData(function),
// onEnd(function)}; data is pushed, as streams of Node do.

const fs = require('fs');
const path = require('path');
const { randomBytes } = require('crypto');
const { parseArgs } = require('util');

const MESSAGE = Buffer.from(Array.from({ length: 64 }, (_, index) => index));
const WARM_UP_BYTES = 16 * 1024 * 1024;
const WARM_UP_EXCHANGES = 200;
const WARM_UP_CONNECTIONS = 5;

function emit(fields) {
  fs.writeSync(1, JSON.stringify(fields) + '\n');
}

function* writes(total, size) {
  const piece = randomBytes(size);
  let left = total;
  for (; left >= size; left -= size) yield piece;
  if (left) yield piece.subarray(0, left);
}

async function sendAll(channel, total, size) {
  for (const piece of writes(total, size)) await channel.send(piece);
}

// Runs one command as the server.
function answer(command, channel) {
  const [name, ...numbers] = command.split(' ');
  switch (name) {
    case 'sink': {
      let count = 0;
      channel.onData((data) => (count += data.length));
      channel.onEnd(async () => {
        await channel.send(Buffer.from(`${count}\n`));
        channel.end();
      });
      break;
    }
    case 'source': {
      let asked = false;
      const [total, size] = numbers.map(Number);
      channel.onEnd(() => {});
      channel.onData(async () => {
        if (asked) return;
        asked = true;
        await sendAll(channel, total, size);
        channel.end();
      });
      break;
    }
    case 'echo':
      channel.onData((data) => channel.send(data));
      channel.onEnd(() => channel.end());
      break;
    default:
      throw new Error(`unknown command ${command}`);
  }
}

const elapsed = (begin) => Number(process.hrtime.bigint() - begin) / 1e9;

async function upload(connection, total, size, started) {
  const channel = await connection.open('sink');
  let reply = '';
  const counted = new Promise((resolve, reject) => {
    channel.onData((data) => {
      reply += data;
      if (reply.endsWith('\n')) resolve(Number(reply));
    });
    channel.onEnd(() => reject(new Error(`the server ended without a number, after ${reply}`)));
  });
  started();
  const begin = process.hrtime.bigint();
  await sendAll(channel, total, size);
  channel.end();
  const count = await counted;
  const seconds = elapsed(begin);
  if (count !== total) throw new Error(`sent ${total} bytes, the server counted ${count}`);
  channel.close();
  return seconds;
}

async function download(connection, total, size, started) {
  const channel = await connection.open(`source ${total} ${size}`);
  let count = 0;
  const received = new Promise((resolve, reject) => {
    const check = () => reject(new Error(`expected ${total} bytes, received ${count}`));
    channel.onData((data) => {
      count += data.length;
      if (count === total) resolve();
      if (count > total) check();
    });
    channel.onEnd(check);
  });
  started();
  const begin = process.hrtime.bigint();
  channel.send(Buffer.from('\n'));
  await received;
  const seconds = elapsed(begin);
  channel.close();
  return seconds;
}

function finish(fields) {
  emit({ event: 'done', ...fields });
  process.stdin.resume(); // the process ends with its input, see main
  return new Promise(() => {});
}

async function measureBulk(task, connect) {
  const transfer = task.workload === 'upload' ? upload : download;
  const connection = await connect(task);
  const warmUp = Math.max(Math.min(Math.floor(task.total / 8), WARM_UP_BYTES), 1);
  await transfer(connection, warmUp, task.writeSize, () => {});
  const seconds = await transfer(connection, task.total, task.writeSize, () =>
    emit({ event: 'start' }),
  );
  return finish({ bytes: task.total, seconds });
}

function summary(times) {
  const ordered = Float64Array.from(times).sort();
  const at = (hundredth) => ordered[Math.floor((ordered.length * hundredth) / 100)];
  return { count: ordered.length, p50: at(50), p99: at(99) };
}

async function measurePingPong(task, connect) {
  const connection = await connect(task);
  const channel = await connection.open('echo');
  let reply = Buffer.alloc(0);
  let arrived;
  channel.onEnd(() => {
    throw new Error('the echo ended');
  });
  channel.onData((data) => {
    reply = reply.length ? Buffer.concat([reply, data]) : data;
    if (reply.length >= MESSAGE.length) arrived(reply);
  });
  const exchange = async () => {
    const coming = new Promise((resolve) => (arrived = resolve));
    channel.send(MESSAGE);
    if (!MESSAGE.equals(await coming)) throw new Error('the echo differs');
    reply = Buffer.alloc(0);
  };
  for (let index = 0; index < WARM_UP_EXCHANGES; index++) await exchange();
  emit({ event: 'start' });
  const times = [];
  const begin = process.hrtime.bigint();
  let before = 0;
  while (before < task.seconds) {
    await exchange();
    const now = elapsed(begin);
    times.push(now - before);
    before = now;
  }
  return finish({ seconds: before, ...summary(times) });
}

async function measureSetUp(task, connect) {
  for (let index = 0; index < WARM_UP_CONNECTIONS; index++) await (await connect(task)).close();
  emit({ event: 'start' });
  const times = [];
  const begin = process.hrtime.bigint();
  let before = 0;
  while (before < task.seconds) {
    const connection = await connect(task);
    times.push(elapsed(begin) - before);
    await connection.close();
    before = elapsed(begin);
  }
  return finish({ seconds: before, ...summary(times) });
}

const MEASURES = {
  upload: measureBulk,
  download: measureBulk,
  'ping-pong': measurePingPong,
  'set-up': measureSetUp,
};

// Be the server or the client that the command line asks for.
async function main(serve, connect) {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: Object.fromEntries(
      ['loop', 'keys', 'port', 'workload', 'total', 'write-size', 'seconds'].map((name) => [
        name,
        { type: 'string' },
      ]),
    ),
  });
  const task = {
    port: Number(values.port),
    workload: values.workload,
    total: Number(values.total),
    writeSize: Number(values['write-size']),
    seconds: Number(values.seconds),
    hostKey: path.join(values.keys, 'host'),
    userKey: path.join(values.keys, 'user'),
  };
  process.stdin.on('end', () => process.exit(0)).resume();
  if (positionals[0] === 'server') await serve(task);
  else await MEASURES[task.workload](task, connect);
}

module.exports = {
  HOST: '127.0.0.1',
  USERNAME: 'bench',
  ENCRYPTION: 'aes256-gcm@openssh.com',
  KEY_EXCHANGE: 'ecdh-sha2-nistp256',
  HOST_KEY_ALGORITHM: 'ecdsa-sha2-nistp256',
  answer,
  emit,
  run: (serve, connect) =>
    main(serve, connect).catch((error) => {
      console.error(error);
      process.exit(1);
    }),
};
