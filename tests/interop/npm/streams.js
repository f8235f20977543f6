// The stream classes of the Dev Tunnels package as peers, telling what happens as JSON lines like
// peer.js:
//
//   streams.js mux server                 echoes on every stream
//   streams.js mux client --port N        result: intact, sha256 (of --bytes bytes)
//   streams.js secure server --host-key FILE --password WORD
//                                         echoes; closed: reason
//   streams.js secure client --port N --host-public-key FILE --password WORD
//                                         result: sent, received (hashes); or failed: error
//
// With --reconnect a secure stream survives its sockets: the client cuts its own after the first
// result and gives another one, and has a second result; the server's end waits for the client.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const net = require('net');
const { parseArgs } = require('util');
const ssh = require('@microsoft/dev-tunnels-ssh');
const { importKeyFile } = require('@microsoft/dev-tunnels-ssh-keys');

const text = { type: 'string' };
const { values: options, positionals } = parseArgs({
	allowPositionals: true,
	options: {
		port: text,
		'host-key': text,
		'host-public-key': text,
		password: text,
		bytes: { type: 'string', default: '1048576' },
		reconnect: { type: 'boolean', default: false },
	},
});

function emit(event, members = {}) {
	process.stdout.write(JSON.stringify({ event, ...members }) + '\n');
}


function listen(handle) {
	const listener = net.createServer((socket) => {
		socket.setNoDelay(true);
		handle(socket).catch((error) => emit('failed', { error: `${error.name}: ${error.message}` }));
	});
	listener.listen(0, '127.0.0.1', () => emit('listening', { port: listener.address().port }));
	process.stdin.on('end', () => process.exit(0)).resume();
}

async function dial() {
	const socket = net.connect(Number(options.port), '127.0.0.1');
	await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
	socket.setNoDelay(true);
	process.stdin.on('end', () => process.exit(0)).resume();
	return socket;
}

// Sends bytes and reads as many back.
function exchange(stream, data) {
	return new Promise((resolve, reject) => {
		const chunks = [];
		let size = 0;
		stream.on('data', (chunk) => {
			chunks.push(Buffer.from(chunk));
			size += chunk.length;
			if (size >= data.length) resolve(Buffer.concat(chunks));
		});
		stream.once('error', reject);
		stream.write(data);
	});
}

function hash(bytes) {
	return crypto.createHash('sha256').update(bytes).digest('hex');
}

async function exchangeBulk(stream) {
	const data = crypto.randomBytes(Number(options.bytes));
	const received = await exchange(stream, data);
	return { bytes: received.length, sent: hash(data), received: hash(received) };
}

// --- many streams over one

function serveMux() {
	listen(async (socket) => {
		const mux = new ssh.MultiChannelStream(new ssh.NodeStream(socket));
		mux.onClosed((e) => emit('closed', { reason: e.reason }));
		await mux.connect();
		emit('connected');
		while (!mux.isClosed) {
			const stream = await mux.acceptStream();
			stream.pipe(stream);
		}
	});
}

async function talk(mux, number) {
	const stream = await mux.openStream();
	for (let turn = 0; turn < 10; turn++) {
		const word = Buffer.from(`${number}:${turn}`);
		const back = await new Promise((resolve) => {
			stream.once('data', (chunk) => resolve(Buffer.from(chunk)));
			stream.write(word);
		});
		if (!back.equals(word)) return false;
	}
	stream.end();
	return true;
}

async function useMux() {
	const mux = new ssh.MultiChannelStream(new ssh.NodeStream(await dial()));
	await mux.connect();
	const intact = await Promise.all([...Array(10).keys()].map((number) => talk(mux, number)));
	emit('result', { intact, ...(await exchangeBulk(await mux.openStream())) });
	await mux.close();
}

// --- one secure stream

function serveSecure() {
	const sessions = options.reconnect ? [] : undefined;
	listen(async (socket) => {
		const hostKey = await importKeyFile(options['host-key']);
		const stream = new ssh.SecureStream(socket, { publicKeys: [hostKey] }, sessions);
		stream.onAuthenticating((e) => {
			const good =
				e.authenticationType === ssh.SshAuthenticationType.clientPassword &&
				e.username === 'alice' &&
				e.password === options.password;
			e.authenticationPromise = Promise.resolve(good ? {} : null);
		});
		stream.onClosed((e) => emit('closed', { reason: e.reason }));
		await stream.connect();
		if (stream.isClosed) return; // it gave its socket to the end that had lost its own
		emit('connected');
		stream.pipe(stream);
	});
}

async function useSecure() {
	const line = fs.readFileSync(options['host-public-key'], 'utf8');
	const trusted = Buffer.from(line.split(' ')[1], 'base64');
	const credentials = { username: 'alice', password: options.password };
	const socket = await dial();
	const stream = new ssh.SecureStream(socket, credentials, options.reconnect);
	stream.onAuthenticating((e) => {
		e.authenticationPromise = e.publicKey
			.getPublicKeyBytes()
			.then((blob) => (blob.equals(trusted) ? {} : null));
	});
	await stream.connect();
	emit('result', await exchangeBulk(stream));
	if (options.reconnect) {
		const lost = new Promise((resolve) => stream.onDisconnected(resolve));
		socket.destroy();
		await lost;
		await stream.reconnect(await dial());
		emit('result', await exchangeBulk(stream));
	}
	await stream.close();
}

const roles = {
	'mux server': serveMux,
	'mux client': useMux,
	'secure server': serveSecure,
	'secure client': useSecure,
};
const role = positionals.join(' ');
if (role.endsWith('server')) {
	roles[role]();
} else {
	roles[role]().then(
		() => process.exit(0),
		(error) => {
			emit('failed', { error: `${error.name}: ${error.message}` });
			process.exit(0);
		},
	);
}
