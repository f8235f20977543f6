// The npm package ssh2 as a peer. Its command line and its JSON lines are those of
// ../scripts/peer_common.py: the server's commands "cat" and the one that reports, and the client's
// scenarios echo, bulk, exec and cells. It exchanges keys again when it is told to, so with
// --rekey-bytes it is told after so many bytes of a channel have come.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const net = require('net');
const readline = require('readline');
const { parseArgs } = require('util');
const { Client, Server, utils } = require('ssh2');
const constants = require('ssh2/lib/protocol/constants.js');

const ECHO = 'cat';
const REPORT = 'printf output; printf errors >&2; exit 42';
const GREETING = Buffer.from('hello, peer');

function emit(event, members = {}) {
	process.stdout.write(JSON.stringify({ event, ...members }) + '\n');
}

function pattern(size) {
	const blocks = [];
	for (let n = 0; n < 1024; n++) {
		blocks.push(crypto.createHash('sha256').update(`0 ${n}`).digest());
	}
	const block = Buffer.concat(blocks);
	return Buffer.concat(Array(Math.floor(size / block.length) + 1).fill(block)).subarray(0, size);
}

function sha256(data) {
	return crypto.createHash('sha256').update(data).digest('hex');
}

const text = { type: 'string' };
const texts = { type: 'string', multiple: true, default: [] };
const flag = { type: 'boolean', default: false };

const { values: options, positionals } = parseArgs({
	allowPositionals: true,
	options: {
		user: { type: 'string', default: 'alice' },
		password: text,
		kex: text,
		'host-key-algorithms': text,
		ciphers: text,
		macs: text,
		'rekey-bytes': text,
		everything: flag,
		'host-key': texts,
		authorized: text,
		port: text,
		key: texts,
		'host-public-key': texts,
		scenario: { type: 'string', default: 'echo' },
		bytes: { type: 'string', default: '1048576' },
		target: text,
	},
});

// The lists of names to offer: those asked for, or all that there are.
function algorithms() {
	const chosen = {};
	for (const [kind, option, all] of [
		['kex', 'kex', constants.SUPPORTED_KEX],
		['serverHostKey', 'host-key-algorithms', constants.SUPPORTED_SERVER_HOST_KEY],
		['cipher', 'ciphers', constants.SUPPORTED_CIPHER],
		['hmac', 'macs', constants.SUPPORTED_MAC],
	]) {
		if (options[option]) chosen[kind] = options[option].split(',');
		// A server's host keys tell theirs; group exchange needs primes that a server has not.
		else if (options.everything && kind !== 'serverHostKey') {
			chosen[kind] = all.filter((name) => !name.includes('group-exchange'));
		}
	}
	return chosen;
}

function debug(line) {
	process.stderr.write(`${line}\n`);
}

// Starts a key exchange whenever so many bytes have come.
function rekeying(connection) {
	const limit = Number(options['rekey-bytes']);
	let count = 0;
	return (data) => {
		count += data.length;
		if (!limit || count < limit) return;
		count = 0;
		// Not while a packet is being read, which this call comes from.
		setImmediate(() => connection._protocol.rekey());
	};
}

function publicBlobs(names) {
	const lines = names.flatMap((name) => fs.readFileSync(name, 'utf8').split('\n'));
	return lines.filter((line) => line).map((line) => Buffer.from(line.split(' ')[1], 'base64'));
}

// --- the server

function isKnown(ctx, authorized) {
	const key = authorized.find((blob) => blob.equals(ctx.key.data));
	if (!key) return false;
	if (!ctx.signature) return true;
	return utils.parseKey(lineOf(key)).verify(ctx.blob, ctx.signature, ctx.hashAlgo) === true;
}

function decide(ctx, authorized) {
	let isGood = false;
	if (ctx.username === options.user) {
		if (ctx.method === 'password') isGood = ctx.password === options.password;
		if (ctx.method === 'publickey') isGood = isKnown(ctx, authorized);
	}
	if (!isGood) {
		ctx.reject(['publickey', 'password']);
		return;
	}
	if (ctx.method === 'password' || ctx.signature) {
		emit('authenticated', { user: ctx.username, method: ctx.method });
	}
	ctx.accept();
}

function lineOf(blob) {
	const type = blob.subarray(4, 4 + blob.readUInt32BE(0)).toString();
	return `${type} ${blob.toString('base64')}`;
}

function runCommand(connection, channel, command) {
	if (command === ECHO) {
		channel.on('data', rekeying(connection));
		channel.on('end', () => {
			channel.exit(0);
			channel.end();
		});
		channel.pipe(channel, { end: false });
	} else if (command === REPORT) {
		channel.write('output');
		channel.stderr.write('errors');
		channel.exit(42);
		channel.end();
	} else {
		channel.exit(127);
		channel.end();
	}
}

function serve() {
	const authorized = options.authorized ? publicBlobs([options.authorized]) : [];
	const hostKeys = options['host-key'].map((name) => fs.readFileSync(name));
	const server = new Server({ hostKeys, algorithms: algorithms(), debug }, (client) => {
		client.setNoDelay(true);
		client.on('error', (error) => debug(error.stack));
		client.on('authentication', (ctx) => decide(ctx, authorized));
		client.on('session', (accept) => {
			accept().on('exec', (acceptCommand, reject, info) => {
				runCommand(client, acceptCommand(), info.command);
			});
		});
		client.on('tcpip', (accept, reject, info) => {
			const socket = net.connect(info.destPort, info.destIP);
			socket.once('error', reject);
			socket.once('connect', () => {
				const channel = accept();
				channel.pipe(socket).pipe(channel);
			});
		});
	});
	server.listen(0, '127.0.0.1', () => emit('listening', { port: server.address().port }));
	process.stdin.on('end', () => process.exit(0)).resume();
}

// --- the client

class Refused extends Error {}

function connect(wanted) {
	const trusted = publicBlobs(wanted['host-public-key']);
	const client = new Client();
	const configuration = {
		host: '127.0.0.1',
		port: Number(wanted.port),
		username: wanted.user,
		algorithms: algorithms(),
		hostVerifier: (key) => trusted.some((other) => other.equals(key)),
		readyTimeout: 30000,
		debug,
	};
	if (wanted.key.length) configuration.privateKey = fs.readFileSync(wanted.key[0]);
	else configuration.password = wanted.password;
	return new Promise((resolve, reject) => {
		client.once('ready', () => {
			client.on('error', (error) => debug(error.stack));
			client.setNoDelay(true);
			resolve(client);
		});
		client.once('error', (error) => {
			const isRefusal = error.level === 'client-authentication';
			reject(isRefusal ? new Refused(error.message) : error);
		});
		client.connect(configuration);
	});
}

function run(client, command, data) {
	return new Promise((resolve, reject) => {
		client.exec(command, (error, channel) => {
			if (error) {
				reject(error);
				return;
			}
			const count = rekeying(client);
			const output = [];
			const errors = [];
			let status = null;
			channel.on('data', (chunk) => {
				output.push(chunk);
				count(chunk);
			});
			channel.stderr.on('data', (chunk) => errors.push(chunk));
			channel.on('exit', (code) => {
				status = code;
			});
			channel.on('close', () => resolve({
				output: Buffer.concat(output),
				errors: Buffer.concat(errors),
				status,
			}));
			channel.end(data);
		});
	});
}

function through(client, port, words) {
	return new Promise((resolve, reject) => {
		client.forwardOut('127.0.0.1', 0, '127.0.0.1', Number(port), (error, channel) => {
			if (error) {
				reject(error);
				return;
			}
			let heard = '';
			channel.on('data', (chunk) => {
				heard += chunk;
				if (heard.length >= words.length) {
					channel.close();
					resolve(heard);
				}
			});
			channel.on('close', () => resolve(heard));
			channel.write(words);
		});
	});
}

const scenarios = {
	async echo(client) {
		const done = await run(client, ECHO, GREETING);
		emit('result', { received: done.output.toString(), status: done.status });
	},
	async bulk(client) {
		const { output, status } = await run(client, ECHO, pattern(Number(options.bytes)));
		emit('result', { received: output.length, sha256: sha256(output), status });
	},
	async exec(client) {
		const { output, errors, status } = await run(client, REPORT, '');
		emit('result', { stdout: output.toString(), stderr: errors.toString(), status });
	},
};

async function playCell(wanted) {
	const members = {};
	let client = await connect(wanted);
	const echoed = await run(client, ECHO, pattern(Number(wanted.bytes)));
	members.sha256 = sha256(echoed.output);
	members.echo_status = echoed.status;
	members.answer = wanted.target ? await through(client, wanted.target, GREETING) : '';
	client.end();
	client = await connect({ ...wanted, key: [] });
	const report = await run(client, REPORT, '');
	members.stdout = report.output.toString();
	members.stderr = report.errors.toString();
	members.exec_status = report.status;
	client.end();
	return members;
}

async function playCells() {
	for await (const line of readline.createInterface({ input: process.stdin })) {
		const wanted = { ...options };
		for (const [name, value] of Object.entries(JSON.parse(line.slice('cell '.length)))) {
			wanted[name.replaceAll('_', '-')] = value;
		}
		try {
			emit('cell', await playCell(wanted));
		} catch (error) {
			emit('cell', { error: `${error.name}: ${error.message}` });
		}
	}
}

async function play() {
	if (options.scenario === 'cells') {
		await playCells();
		return;
	}
	process.stdin.on('end', () => process.exit(0)).resume();
	try {
		const client = await connect(options);
		emit('authenticated', { method: options.key.length ? 'publickey' : 'password' });
		await scenarios[options.scenario](client);
		client.end();
	} catch (error) {
		if (error instanceof Refused) emit('refused', { error: error.message });
		else emit('failed', { error: `${error.name}: ${error.message}` });
	}
}

if (positionals[0] === 'server') serve();
else play().then(() => process.exit(0));
