// The Dev Tunnels package in a page, as a client over WebSockets. Options come in the query; what
// happens goes to the test's web server as JSON, one event a request:
//
//   connected   the subprotocol, the algorithms
//   result      of the scenario: `sent` and `received`, hashes of what went through an echo
//   failed      error
//
//   scenario echo       --bytes bytes through an echo
//   scenario forward    the same through a port that the server connects to for us
//   scenario reconnect  the same, and the server cuts the WebSocket meanwhile: also `reconnections`
'use strict';

const options = Object.fromEntries(new URLSearchParams(location.search));

function emit(event, members = {}) {
	return fetch('/report', { method: 'POST', body: JSON.stringify({ event, ...members }) });
}

async function sha256(chunks) {
	const digest = await crypto.subtle.digest('SHA-256', await new Blob(chunks).arrayBuffer());
	return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function randomChunks(size) {
	const chunks = [];
	for (let rest = size; rest > 0; rest -= 65536) {
		chunks.push(crypto.getRandomValues(new Uint8Array(Math.min(rest, 65536))));
	}
	return chunks;
}

function openWebSocket() {
	return new Promise((resolve, reject) => {
		const socket = new WebSocket(options.url, ['ssh']);
		socket.binaryType = 'arraybuffer';
		socket.onopen = () => resolve(socket);
		socket.onerror = () => reject(new Error('no WebSocket'));
	});
}

function configure(ssh) {
	const config = new ssh.SshSessionConfiguration();
	if (options.scenario === 'reconnect') {
		config.protocolExtensions.push(ssh.SshProtocolExtensionNames.sessionReconnect);
		config.protocolExtensions.push(ssh.SshProtocolExtensionNames.sessionLatency);
	}
	return config;
}

async function connect(ssh) {
	const session = new ssh.SshClientSession(configure(ssh));
	session.trace = (level, id, message) => console.log(level, id, message);
	session.onAuthenticating((e) => {
		const trusted = options.hostKey;
		e.authenticationPromise = e.publicKey
			.getPublicKeyBytes()
			.then((blob) => (blob.toString('base64') === trusted ? {} : null));
	});
	const socket = await openWebSocket();
	await session.connect(new ssh.WebSocketStream(socket));
	const granted = await session.authenticate({
		username: options.user,
		password: options.password,
	});
	if (!granted) throw new Error('not let in');
	await emit('connected', {
		protocol: socket.protocol,
		encrypted: !!session.algorithms.cipher,
	});
	return session;
}

function opening() {
	if (options.scenario !== 'forward') return 'echo';
	const name = '@microsoft/dev-tunnels-ssh-tcp/messages/portForwardChannelOpenMessage';
	const message = new (require(name).PortForwardChannelOpenMessage)();
	message.channelType = 'direct-tcpip';
	message.host = '127.0.0.1';
	message.port = Number(options.port);
	message.originatorIPAddress = '127.0.0.1';
	message.originatorPort = 0;
	return message;
}

async function echo(session) {
	const sent = randomChunks(Number(options.bytes));
	const channel = await session.openChannel(opening());
	const received = [];
	const closed = new Promise((resolve) => channel.onClosed(resolve));
	channel.onDataReceived((data) => {
		received.push(Uint8Array.from(data));
		channel.adjustWindow(data.length);
	});
	for (const chunk of sent) await channel.send(Buffer.from(chunk));
	await channel.send(Buffer.alloc(0));
	await closed;
	return { sent: await sha256(sent), received: await sha256(received) };
}

async function comeBack(ssh, session) {
	await session.reconnect(new ssh.WebSocketStream(await openWebSocket()));
}

async function main() {
	const ssh = require('@microsoft/dev-tunnels-ssh');
	const session = await connect(ssh);
	let reconnections = 0;
	session.onDisconnected(async () => {
		try {
			await comeBack(ssh, session);
			reconnections++;
		} catch (error) {
			emit('failed', { error: `${error.name}: ${error.message}` });
		}
	});
	const result = await echo(session);
	await emit('result', { ...result, reconnections });
	await session.close(ssh.SshDisconnectReason.byApplication, 'done');
	await emit('done');
}

main().catch((error) => emit('failed', { error: `${error.name}: ${error.message}\n${error.stack}` }));
