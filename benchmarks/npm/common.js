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
const WARM_UP_OPENS = 50;
const BATCH = 100;
const ECHO_SIZE = 16 * 1024;
const SETTLE_MILLISECONDS = 300;

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

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const elapsed = (begin) => Number(process.hrtime.bigint() - begin) / 1e9;

async function upload(connection, total, size, started) {
  const channel = await connection.open('sink');
  const received = counted(channel);
  started();
  const begin = process.hrtime.bigint();
  await sendAll(channel, total, size);
  channel.end();
  const count = await received;
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

// Returns a function that sends a message on an echoing channel and waits for it to come back.
function exchanges(channel) {
  let expected = MESSAGE;
  let parts = [];
  let count = 0;
  let arrived;
  channel.onEnd(() => {
    throw new Error('the echo ended');
  });
  channel.onData((data) => {
    parts.push(parts.length ? Buffer.from(data) : data);
    count += data.length;
    if (count >= expected.length) arrived(parts.length > 1 ? Buffer.concat(parts) : data);
    else parts[parts.length - 1] = Buffer.from(data); // what it is part of may be used again
  });
  return async (message = MESSAGE) => {
    expected = message;
    const coming = new Promise((resolve) => (arrived = resolve));
    channel.send(message);
    if (!message.equals(await coming)) throw new Error('the echo differs');
    parts = [];
    count = 0;
  };
}

// Repeats until the time is over; returns the seconds that each took.
async function repeat(seconds, work) {
  const times = [];
  const begin = process.hrtime.bigint();
  let before = 0;
  while (before < seconds) {
    await work();
    const now = elapsed(begin);
    times.push(now - before);
    before = now;
  }
  return { times, seconds: before };
}

async function finishRepeating(task, work) {
  emit({ event: 'start' });
  const { times, seconds } = await repeat(task.seconds, work);
  return finish({ seconds, ...summary(times) });
}

async function measurePingPong(task, connect) {
  const connection = await connect(task);
  const exchange = exchanges(await connection.open('echo'));
  for (let index = 0; index < WARM_UP_EXCHANGES; index++) await exchange();
  return finishRepeating(task, exchange);
}

async function measureFairness(task, connect) {
  const connection = await connect(task);
  const exchange = exchanges(await connection.open('echo'));
  for (let index = 0; index < WARM_UP_EXCHANGES; index++) await exchange();
  const sink = await connection.open('sink');
  sendAll(sink, Infinity, task.writeSize);
  await pause(SETTLE_MILLISECONDS);
  return finishRepeating(task, exchange);
}

// Resolves with the number that the server has counted.
function counted(channel) {
  let reply = '';
  return new Promise((resolve, reject) => {
    channel.onData((data) => {
      reply += data;
      if (reply.endsWith('\n')) resolve(Number(reply));
    });
    channel.onEnd(() => reject(new Error(`the server ended without a number, after ${reply}`)));
  });
}

async function measureMessages(task, connect) {
  const connection = await connect(task);
  const channel = await connection.open('sink');
  const received = counted(channel);
  const batch = async () => {
    for (let index = 0; index < BATCH; index++) await channel.send(MESSAGE);
  };
  for (let index = 0; index < 10; index++) await batch();
  emit({ event: 'start' });
  const begin = process.hrtime.bigint();
  const { times } = await repeat(task.seconds, batch);
  channel.end();
  const total = (times.length + 10) * BATCH * MESSAGE.length;
  const count = await received;
  const seconds = elapsed(begin);
  if (count !== total) throw new Error(`sent ${total} bytes, the server counted ${count}`);
  return finish({ count: times.length * BATCH, seconds });
}

async function measureOpenClose(task, connect) {
  const connection = await connect(task);
  const openAndClose = async () => (await connection.openIdle()).close();
  for (let index = 0; index < WARM_UP_OPENS; index++) await openAndClose();
  emit({ event: 'start' });
  const begin = process.hrtime.bigint();
  const workers = Array.from({ length: task.width }, () => repeat(task.seconds, openAndClose));
  const times = (await Promise.all(workers)).flatMap((each) => each.times);
  return finish({ seconds: elapsed(begin), ...summary(times) });
}

async function measureSessions(task, connect) {
  const message = randomBytes(ECHO_SIZE);
  const all = [];
  for (let index = 0; index < task.width; index++) {
    all.push(exchanges(await (await connect(task)).open('echo')));
  }
  for (let round = 0; round < 2; round++) {
    await Promise.all(all.map((exchange) => exchange(message)));
  }
  emit({ event: 'start' });
  const begin = process.hrtime.bigint();
  const workers = all.map((exchange) => repeat(task.seconds, () => exchange(message)));
  const count = (await Promise.all(workers)).reduce((sum, each) => sum + each.times.length, 0);
  return finish({ bytes: count * ECHO_SIZE, seconds: elapsed(begin) });
}

async function measureIdle(task, hold) {
  const held = [];
  for (let index = 0; index < WARM_UP_OPENS; index++) held.push(await hold());
  emit({ event: 'start' });
  const begin = process.hrtime.bigint();
  for (let index = 0; index < task.width; index++) held.push(await hold());
  const seconds = elapsed(begin);
  await pause(SETTLE_MILLISECONDS);
  await finish({ count: task.width, seconds });
  return held;
}

async function measureIdleChannels(task, connect) {
  const connection = await connect(task);
  return measureIdle(task, () => connection.openIdle());
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

// Carries forwarded connections until our input ends.
async function carry(task, connect) {
  const connection = await connect(task);
  emit({ port: await connection.forward(task.target) });
}

const MEASURES = {
  upload: measureBulk,
  download: measureBulk,
  'ping-pong': measurePingPong,
  'set-up': measureSetUp,
  messages: measureMessages,
  'open-close': measureOpenClose,
  sessions: measureSessions,
  'idle-sessions': (task, connect) => measureIdle(task, () => connect(task)),
  'idle-channels': measureIdleChannels,
  fairness: measureFairness,
  forward: carry,
  'forward-connections': carry,
  'forward-connections-16': carry,
  'forward-connections-64': carry,
};

const OPTIONS = [
  ...['loop', 'keys', 'port', 'workload', 'total'],
  ...['write-size', 'seconds', 'width', 'target'],
];

// Be the server or the client that the command line asks for.
async function main(serve, connect) {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: Object.fromEntries(OPTIONS.map((name) => [name, { type: 'string' }])),
  });
  const task = {
    port: Number(values.port),
    workload: values.workload,
    total: Number(values.total),
    writeSize: Number(values['write-size']),
    seconds: Number(values.seconds),
    width: Number(values.width),
    target: Number(values.target),
    hostKey: path.join(values.keys, 'host'),
    userKey: path.join(values.keys, 'user'),
  };
  process.stdin.on('end', () => process.exit(0)).resume();
  if (positionals[0] === 'server') await serve(task);
  else await MEASURES[task.workload](task, connect);
}

module.exports = {
  HOST: '127.0.0.1',
  NOWHERE: 1, // a port to which nobody connects: the server holds such channels itself
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
