// The Dev Tunnels package as a peer. Its command line and its JSON lines are those of
// ../scripts/peer_common.py, with these additions:
//
//   --guess                 a client sends its first key exchange message early
//   --insecure              no algorithms at all
//   scenario plain          the server echoes on a channel without any exec request
//   scenario stderr         the same with extended data, both ways: received
//   scenario early          opens a channel before it authenticates: reason
//   scenario request        an unknown and a known session request: granted, a list
//   --forwarding            a server forwards whatever it is asked to; it connects to each port that
//                           it listens on once without a socket, and tells the answer: answered
//   --target                a client with a service to forward ports; the port behind the server
//   scenario forward        forwards to and from the --target port in each way: heard, a list of
//                           what came back; twice, whether a port could be had again; reason,
//                           of a connection to --closed
//   --reconnect             sessions outlive their streams, and latency is measured
//   --no-latency            the same, but latency is not measured
//   --again                 a client that has lost its stream reconnects to --port by itself
//   command numbers         counts in both directions, see below
//   scenario numbers        the same on a plain channel, until the other side has closed it
//
// Whoever counts sends 0, 1, 2 and so on as 32-bit numbers, and checks those that come. When the
// other side says that its numbers end, so do ours: a result tells how many were sent, how many
// have come, and whether they came in order. Lines of standard input steer it; each is answered
// by a line of output of the same name:
//
//   send COUNT              sends so many numbers at once, whatever has become of the stream
//   stream                  sends numbers from now on, but for times without a stream
//   reconnect PORT          tries another stream: reason is null, or why it failed
//   forget                  drops all but the last message kept for sending again
//   close REASON            ends the session, or only its stream if the reason is 10
//   forge COUNT             claims to have so many messages more than have come
//   expect COUNT            waits until so many numbers have come
//   status                  connected, closed, reconnections, latency and what came so far
//
// An event lost tells that a session is without a stream, resumed that it has another.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const net = require('net');
const readline = require('readline');
const { parseArgs } = require('util');
const ssh = require('@microsoft/dev-tunnels-ssh');
const { PortForwardingService, SshServer } = require('@microsoft/dev-tunnels-ssh-tcp');
const { importKeyFile } = require('@microsoft/dev-tunnels-ssh-keys');

const ECHO = 'cat';
const REPORT = 'printf output; printf errors >&2; exit 42';
const SIGNAL = 'kill -TERM $$';
const DISCONNECT = 'disconnect ';
const PROMPTS = [
	{ prompt: 'First colour: ', echo: true },
	{ prompt: 'Second colour: ', echo: false },
];
const GREETING = Buffer.from('hello, peer');

function emit(event, members = {}) {
	process.stdout.write(JSON.stringify({ event, ...members }) + '\n');
}

function pattern(size, seed = 0) {
	const blocks = [];
	for (let n = 0; n < 1024; n++) {
		blocks.push(crypto.createHash('sha256').update(`${seed} ${n}`).digest());
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
		'keep-alive': text,
		'host-key': texts,
		authorized: text,
		interactive: flag,
		port: text,
		key: texts,
		'host-public-key': texts,
		answers: { type: 'string', default: 'red,blue' },
		scenario: { type: 'string', default: 'echo' },
		bytes: { type: 'string', default: '1048576' },
		reason: { type: 'string', default: '11' },
		message: { type: 'string', default: 'good night' },
		guess: flag,
		insecure: flag,
		everything: flag,
		forwarding: flag,
		target: text,
		closed: text,
		reconnect: flag,
		'no-latency': flag,
		again: flag,
	},
});

const ANSWERS = options.answers.split(',');

function choose(list, known, names) {
	if (!names) return;
	const all = Object.values(known).filter((algorithm) => algorithm);
	const chosen = names.split(',').map((name) => {
		const found = all.find((algorithm) => algorithm.name === name);
		if (!found) throw new Error(`${name} is not known to this peer`);
		return found;
	});
	list.splice(0, list.length, ...chosen);
}

// Every algorithm of a kind that the package has, its own list first.
function all(known) {
	return Object.values(known).filter((algorithm) => algorithm).map((a) => a.name).join(',');
}

function configure() {
	const config = new ssh.SshSessionConfiguration(!options.insecure);
	const known = ssh.SshAlgorithms;
	if (options.everything) {
		options.kex ??= all(known.keyExchange);
		options['host-key-algorithms'] ??= all(known.publicKey);
		options.ciphers ??= all(known.encryption);
		options.macs ??= all(known.hmac);
	}
	choose(config.keyExchangeAlgorithms, known.keyExchange, options.kex);
	choose(config.publicKeyAlgorithms, known.publicKey, options['host-key-algorithms']);
	choose(config.encryptionAlgorithms, known.encryption, options.ciphers);
	choose(config.hmacAlgorithms, known.hmac, options.macs);
	if (options['rekey-bytes']) config.keyRotationThreshold = Number(options['rekey-bytes']);
	if (options['keep-alive']) config.keepAliveTimeoutInSeconds = Number(options['keep-alive']);
	config.enableKeyExchangeGuess = options.guess;
	if (options.forwarding || options.target || options.everything) config.addService(PortForwardingService);
	if (options.reconnect) {
		const { sessionReconnect, sessionLatency } = ssh.SshProtocolExtensionNames;
		config.protocolExtensions.push(sessionReconnect);
		if (!options['no-latency']) config.protocolExtensions.push(sessionLatency);
	}
	if (options.interactive) {
		const methods = config.authenticationMethods;
		methods.splice(0, methods.length, 'none', 'keyboard-interactive');
	}
	return config;
}

// Ends a session by our own will, which is not told as an event.
const leaving = new WeakSet();

function leave(session, reason, message) {
	leaving.add(session);
	return session.close(reason, message);
}

function observe(session) {
	session.trace = (level, id, message) => {
		process.stderr.write(`${level} ${id} ${message}\n`);
		// Each kind of algorithm has a line of its own.
		const negotiated = id === ssh.SshTraceEventIds.algorithmNegotiation;
		if (negotiated && message.startsWith('KeyExchange ')) emit('key_exchange');
		if (id === ssh.SshTraceEventIds.keepAliveRequestReceived) emit('asked_alive');
	};
	// The first success only says that something came since the connection was made.
	let count = 0;
	session.onKeepAliveSucceeded(() => {
		if (++count > 1) emit('keep_alive');
	});
	session.onKeepAliveFailed((count) => emit('keep_alive_failed', { count }));
	session.onDisconnected(() => emit('lost'));
	session.onClosed((e) => {
		if (!leaving.has(session)) emit('disconnected', { reason: e.reason, message: e.message });
	});
}

// --- counting

const NUMBERS = 'numbers';
const NUMBER_SIZE = 4;

// What the lines of standard input are about.
let counter = null;

class Counter {
	constructor(session, channel) {
		this.session = session;
		this.channel = channel;
		this.sent = 0;
		this.received = 0;
		this.intact = true;
		this.rest = Buffer.alloc(0);
		this.checked = [];
		this.isStreaming = false;
		this.isOver = false;
		this.mayGoOn = true;
		channel.onDataReceived((data) => {
			this.check(Buffer.concat([this.rest, data]));
			channel.adjustWindow(data.length);
		});
		channel.onEof(() => finish(channel, () => this.end()));
	}

	check(data) {
		const whole = data.length - (data.length % NUMBER_SIZE);
		for (let at = 0; at < whole; at += NUMBER_SIZE) {
			if (data.readUInt32BE(at) !== this.received++) this.intact = false;
		}
		this.rest = Buffer.from(data.subarray(whole));
		this.checked.splice(0).forEach((resolve) => resolve());
	}

	wait() {
		return new Promise((resolve) => this.checked.push(resolve));
	}

	async send(count) {
		const data = Buffer.alloc(count * NUMBER_SIZE);
		for (let n = 0; n < count; n++) data.writeUInt32BE(this.sent++, n * NUMBER_SIZE);
		await this.channel.send(data);
	}

	// What an application sends while its session goes on over another stream, this package loses
	// or sends out of order. So this one waits.
	async stream() {
		this.isStreaming = true;
		for (let n = 0; !this.isOver; n++) {
			if (this.session.isConnected && this.mayGoOn) await this.send(1 + ((n * 37) % 199));
			await new Promise((resolve) => setTimeout(resolve, 1));
		}
		await this.finish();
	}

	async end() {
		this.isOver = true;
		if (!this.isStreaming) await this.finish();
	}

	async finish() {
		await this.channel.send(Buffer.alloc(0));
		emit('result', { sent: this.sent, ...this.outcome });
		await this.channel.close(0);
	}

	get outcome() {
		return { received: this.received, intact: this.intact };
	}

	get status() {
		const { isConnected, isClosed, metrics } = this.session;
		const latency = {
			current: metrics.latencyCurrentMs,
			minimum: metrics.latencyMinMs,
			average: metrics.latencyAverageMs,
			maximum: metrics.latencyMaxMs,
		};
		const { reconnections } = metrics;
		return { connected: isConnected, closed: isClosed, reconnections, latency, ...this.outcome };
	}

	// A client goes on over another stream.
	async reconnect(port) {
		this.mayGoOn = false;
		let reason = null;
		try {
			await this.session.reconnect(await dial(port));
			emit('resumed', { count: this.session.metrics.reconnections });
		} catch (error) {
			process.stderr.write(`${error.stack}\n`);
			reason = error.reason ?? error.name;
		}
		this.mayGoOn = true;
		return { reason };
	}
}

const orders = {
	async send(count) {
		await counter.send(count);
	},
	async stream() {
		counter.stream();
	},
	async reconnect(port) {
		return counter.reconnect(port);
	},
	async expect(count) {
		while (counter.received < count) await counter.wait();
	},
	async forget() {
		const kept = counter.session.protocol.recentSentMessages;
		while (kept.size > 1) kept.dequeue();
	},
	async close(reason) {
		await counter.session.close(reason, 'as ordered');
	},
	async forge(count) {
		counter.session.protocol.inboundPacketSequence += count;
	},
	async status() {
		return counter.status;
	},
};

function takeOrders() {
	const lines = readline.createInterface({ input: process.stdin });
	lines.on('line', async (line) => {
		const [name, argument] = line.split(' ');
		emit(name, await orders[name](Number(argument)));
	});
	lines.on('close', () => process.exit(0));
}

async function dial(port) {
	const socket = net.connect(port, '127.0.0.1');
	await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
	socket.setNoDelay(true);
	return new ssh.NodeStream(socket);
}

function publicBlobs(names) {
	const lines = names.flatMap((name) => fs.readFileSync(name, 'utf8').split('\n'));
	return lines.filter((line) => line).map((line) => Buffer.from(line.split(' ')[1], 'base64'));
}

async function isAmong(key, blobs) {
	const blob = await key.getPublicKeyBytes();
	return blobs.some((other) => other.equals(blob));
}

// --- the server

function infoRequest() {
	const request = new ssh.AuthenticationInfoRequestMessage();
	request.name = 'Two questions';
	request.instruction = 'Answer both';
	request.prompts = PROMPTS;
	return request;
}

async function decide(args, authorized) {
	const kind = ssh.SshAuthenticationType;
	if (args.username !== options.user) return null;
	switch (args.authenticationType) {
		case kind.clientPassword:
			return args.password === options.password ? { method: 'password' } : null;
		case kind.clientPublicKeyQuery:
		case kind.clientPublicKey:
			return (await isAmong(args.publicKey, authorized)) ? { method: 'publickey' } : null;
		case kind.clientInteractive:
			if (!options.interactive) return null;
			if (!args.infoResponse) {
				args.infoRequest = infoRequest();
				return null;
			}
			return JSON.stringify(args.infoResponse.responses) === JSON.stringify(ANSWERS)
				? { method: 'keyboard-interactive' }
				: null;
		default:
			return null;
	}
}

async function finish(channel, action) {
	try {
		await action();
	} catch (error) {
		process.stderr.write(`channel ${channel.channelId}: ${error.message}\n`);
	}
}

function runCommand(session, channel, command) {
	if (command === REPORT) {
		finish(channel, async () => {
			await channel.send(Buffer.from('output'));
			await channel.sendExtendedData(1, Buffer.from('errors'));
			await channel.close(42);
		});
	} else if (command === SIGNAL) {
		finish(channel, () => channel.close('TERM', 'terminated'));
	} else if (command.startsWith(DISCONNECT)) {
		const [, reason, message] = /^disconnect (\d+) (.*)$/.exec(command);
		leave(session, Number(reason), message);
	}
}

function echo(session, channel) {
	// Sending is one chain, so that EOF comes behind all data.
	let sending = Promise.resolve();
	let echoing = true;
	let counting = false;
	const queue = (action) => {
		sending = sending.then(() => finish(channel, action));
	};
	channel.onDataReceived((data) => {
		if (counting) return;
		const copy = Buffer.from(data);
		queue(async () => {
			await channel.send(copy);
			channel.adjustWindow(copy.length);
		});
	});
	channel.onExtendedDataReceived((e) => {
		const copy = Buffer.from(e.data);
		queue(async () => {
			await channel.sendExtendedData(1, copy);
			channel.adjustWindow(copy.length);
		});
	});
	channel.onEof(() => queue(async () => {
		if (!echoing) return;
		await channel.send(Buffer.alloc(0));
		await channel.close(0);
	}));
	channel.onRequest((e) => {
		if (e.requestType !== 'exec') return;
		const command = e.request.convertTo(new ssh.CommandRequestMessage()).command;
		e.isAuthorized = true;
		echoing = command === ECHO;
		counting = command === NUMBERS;
		if (counting) counter = new Counter(session, channel);
		// The reply must leave first; it is sent when this handler has returned.
		setImmediate(() => runCommand(session, channel, command));
	});
}

function answerFromPorts(session) {
	const ports = session.activateService(PortForwardingService);
	ports.remoteForwardedPorts.onPortAdded((e) => {
		const number = e.port.remotePort;
		ports.connectToForwardedPort(number).then(
			async (stream) => emit('answered', { heard: await say(stream, `port ${number}`) }),
			(error) => emit('answered', { heard: error.message }),
		);
	});
}

// Says something and waits for an answer as long.
function say(stream, words) {
	return new Promise((resolve) => {
		let heard = '';
		stream.on('data', (data) => {
			heard += data;
			if (heard.length >= words.length) {
				stream.destroy();
				resolve(heard);
			}
		});
		stream.on('error', (error) => resolve(error.message));
		stream.on('close', () => resolve(heard));
		stream.write(words);
	});
}

async function serve() {
	// A stream that ends before the other side's identification is enough for one.
	process.on('unhandledRejection', (error) => process.stderr.write(`${error.stack}\n`));
	const server = new SshServer(configure());
	for (const name of options['host-key']) {
		if (!options.insecure) server.credentials.publicKeys.push(await importKeyFile(name));
	}
	const authorized = options.authorized ? publicBlobs([options.authorized]) : [];
	server.onSessionOpened((session) => {
		observe(session);
		session.onAuthenticating((e) => {
			e.authenticationPromise = decide(e, authorized);
		});
		session.onReconnected(() => emit('resumed', { count: session.metrics.reconnections }));
		session.onClientAuthenticated(() => {
			emit('authenticated', { user: options.user, method: session.principal.method });
			if (options.forwarding) answerFromPorts(session);
		});
		session.onRequest((e) => {
			const known = [
				'known@example.com',
				PortForwardingService.portForwardRequestType,
				PortForwardingService.cancelPortForwardRequestType,
			];
			e.isAuthorized = known.includes(e.requestType);
		});
		session.onChannelOpening((e) => {
			const forwarding = e.channel.channelType.endsWith('-tcpip');
			if (e.isRemoteRequest && !forwarding) echo(session, e.channel);
		});
	});
	const listener = net.createServer((socket) => server.acceptSession(socket));
	listener.listen(0, '127.0.0.1', () => emit('listening', { port: listener.address().port }));
	takeOrders();
}

// --- the client

async function open(session, command) {
	const channel = await session.openChannel('session');
	if (command !== null) {
		const request = new ssh.CommandRequestMessage();
		request.command = command;
		request.wantReply = true;
		if (!(await channel.request(request))) throw new Error(`${command} was refused`);
	}
	return channel;
}

function collect(channel) {
	const output = [];
	const errors = [];
	channel.onDataReceived((data) => {
		output.push(Buffer.from(data));
		channel.adjustWindow(data.length);
	});
	channel.onExtendedDataReceived((e) => {
		errors.push(Buffer.from(e.data));
		channel.adjustWindow(e.data.length);
	});
	return new Promise((resolve) => {
		channel.onClosed((e) => resolve({
			output: Buffer.concat(output),
			errors: Buffer.concat(errors),
			status: e.exitStatus ?? null,
			signal: e.exitSignal ?? null,
		}));
	});
}

// The handlers must be there before the command can answer, so exec is sent after them.
async function run(session, command, data) {
	const channel = await session.openChannel('session');
	const closed = collect(channel);
	if (command !== null) {
		const request = new ssh.CommandRequestMessage();
		request.command = command;
		request.wantReply = true;
		if (!(await channel.request(request))) throw new Error(`${command} was refused`);
	}
	if (data) {
		await channel.send(data);
		await channel.send(Buffer.alloc(0));
	}
	return closed;
}

async function request(session, name) {
	const message = new ssh.SessionRequestMessage();
	message.requestType = name;
	message.wantReply = true;
	return session.request(message);
}

const scenarios = {
	async authenticate() {
		emit('result');
	},
	async echo(session) {
		const done = await run(session, ECHO, GREETING);
		emit('result', { received: done.output.toString(), status: done.status });
	},
	async plain(session) {
		const done = await run(session, null, GREETING);
		emit('result', { received: done.output.toString(), status: done.status });
	},
	async bulk(session) {
		const done = await run(session, ECHO, pattern(Number(options.bytes)));
		const { output, status } = done;
		emit('result', { received: output.length, sha256: sha256(output), status });
	},
	async channels(session) {
		const sent = [0, 1, 2].map((seed) => pattern(65536, seed));
		const done = await Promise.all(sent.map((data) => run(session, ECHO, data)));
		emit('result', { intact: done.map((one, seed) => one.output.equals(sent[seed])) });
	},
	async exec(session) {
		const { output, errors, status } = await run(session, REPORT, null);
		emit('result', { stdout: output.toString(), stderr: errors.toString(), status });
	},
	async signal(session) {
		const done = await run(session, SIGNAL, null);
		emit('result', { signal: done.signal });
	},
	async stderr(session) {
		const channel = await session.openChannel('session');
		const closed = collect(channel);
		await channel.sendExtendedData(1, GREETING);
		await channel.send(Buffer.alloc(0));
		emit('result', { received: (await closed).errors.toString() });
	},
	async request(session) {
		const granted = [];
		for (const name of ['unknown@example.com', 'known@example.com']) {
			granted.push(await request(session, name));
		}
		emit('result', { granted });
	},
	async forward(session) {
		const ports = session.activateService(PortForwardingService);
		const target = Number(options.target);
		const host = '127.0.0.1';
		const dial = (port) => net.connect(port, host);
		const heard = [];
		heard.push(await say(await ports.streamToRemotePort('localhost', target), 'stream to'));
		const there = await ports.forwardToRemotePort(host, 0, 'localhost', target);
		heard.push(await say(dial(there.localPort), 'forward to'));
		const back = await ports.forwardFromRemotePort(host, 0, host, target);
		heard.push(await say(dial(back.remotePort), 'forward from'));
		const streamer = await ports.streamFromRemotePort(host, 0);
		streamer.onStreamOpened((stream) => {
			stream.on('data', (data) => stream.write(data.toString().toUpperCase()));
		});
		heard.push(await say(dial(streamer.remotePort), 'stream from'));
		const port = back.remotePort;
		back.dispose();
		const again = await ports.forwardFromRemotePort(host, port, host, target);
		heard.push(await say(dial(again.remotePort), 'again'));
		let reason = 0;
		try {
			await ports.streamToRemotePort(host, Number(options.closed));
		} catch (error) {
			reason = error.reason;
		}
		emit('result', { heard, twice: again.remotePort === port, reason });
	},
	async disconnect(session) {
		await run(session, ECHO, GREETING);
		await leave(session, Number(options.reason), options.message);
	},
	async wait(session) {
		const closed = new Promise((resolve) => session.onClosed(resolve));
		await open(session, ECHO);
		await closed;
	},
	async numbers(session) {
		const channel = await session.openChannel('session');
		const closed = new Promise((resolve) => channel.onClosed(resolve));
		counter = new Counter(session, channel);
		if (options.again) {
			session.onDisconnected(() => counter.reconnect(Number(options.port)));
		}
		emit('counting');
		await closed;
	},
	async alive(session) {
		let count = 0;
		const twice = new Promise((resolve) => {
			session.onKeepAliveSucceeded(() => (++count === 3 ? resolve() : undefined));
		});
		await twice;
	},
};

async function logIn(wanted) {
	const trusted = publicBlobs(wanted['host-public-key']);
	const session = new ssh.SshClientSession(configure());
	observe(session);
	session.onAuthenticating((e) => {
		if (e.authenticationType === ssh.SshAuthenticationType.serverPublicKey) {
			e.authenticationPromise = isAmong(e.publicKey, trusted).then((good) => (good ? {} : null));
		}
	});
	await session.connect(await dial(Number(wanted.port)));
	if (!(await authenticate(session, wanted))) throw new Error('refused');
	return session;
}

async function playCell(wanted) {
	const members = {};
	let session = await logIn({ ...wanted, password: undefined });
	const echoed = await run(session, ECHO, pattern(Number(wanted.bytes)));
	members.sha256 = sha256(echoed.output);
	members.echo_status = echoed.status;
	const ports = session.activateService(PortForwardingService);
	const stream = await ports.streamToRemotePort('127.0.0.1', Number(wanted.target));
	members.answer = await say(stream, GREETING.toString());
	await leave(session, ssh.SshDisconnectReason.byApplication, 'done');
	session = await logIn({ ...wanted, key: [] });
	const report = await run(session, REPORT, null);
	members.stdout = report.output.toString();
	members.stderr = report.errors.toString();
	members.exec_status = report.status;
	await leave(session, ssh.SshDisconnectReason.byApplication, 'done');
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
			process.stderr.write(`${error.stack}\n`);
			emit('cell', { error: `${error.name}: ${error.message}` });
		}
	}
}

async function early(session) {
	await session.authenticateServer();
	try {
		await session.openChannel('session');
		emit('result', { reason: 0 });
	} catch (error) {
		emit('result', { reason: error.reason ?? null });
	}
}

async function authenticate(session, wanted = options) {
	const credentials = { username: wanted.user };
	if (wanted.key.length) {
		credentials.publicKeys = await Promise.all(wanted.key.map((name) => importKeyFile(name)));
	}
	if (wanted.password !== undefined) credentials.password = wanted.password;
	const granted = await session.authenticate(credentials);
	emit(granted ? 'authenticated' : 'refused');
	return granted;
}

async function connect() {
	const trusted = publicBlobs(options['host-public-key']);
	const session = new ssh.SshClientSession(configure());
	observe(session);
	session.onAuthenticating((e) => {
		if (e.authenticationType === ssh.SshAuthenticationType.serverPublicKey) {
			e.authenticationPromise = isAmong(e.publicKey, trusted).then((good) => (good ? {} : null));
		} else if (e.infoRequest) {
			const { name, instruction, prompts } = e.infoRequest;
			emit('challenge', { name, instruction, prompts: prompts.map((p) => [p.prompt, p.echo]) });
			e.infoResponse = new ssh.AuthenticationInfoResponseMessage();
			e.infoResponse.responses = ANSWERS.slice(0, prompts.length);
			e.authenticationPromise = Promise.resolve(null);
		}
	});
	takeOrders();
	await session.connect(await dial(Number(options.port)));
	const { cipher, messageSigner } = session.algorithms ?? {};
	emit('connected', { encrypted: !!cipher, authenticated: !!messageSigner });
	if (options.scenario === 'early') {
		await early(session);
	} else if (options.insecure || (await authenticate(session))) {
		const play = scenarios[options.scenario];
		if (!play) throw new Error(`no scenario ${options.scenario}`);
		await play(session);
	}
	if (!session.isClosed) await leave(session, ssh.SshDisconnectReason.byApplication, 'done');
}

if (positionals[0] === 'server') {
	serve();
} else {
	(options.scenario === 'cells' ? playCells() : connect()).then(
		() => process.exit(0),
		(error) => {
			emit('failed', { error: `${error.name}: ${error.message}` });
			process.exit(0);
		},
	);
}
