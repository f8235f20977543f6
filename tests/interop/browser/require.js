// Lets CommonJS packages run in a page as they are: `require` fetches modules from the test's own
// web server, below /modules/, while the page waits. Only for tests.
'use strict';

self.global = self;
self.process = {
	env: {},
	platform: 'browser',
	version: 'v0',
	argv: [],
	nextTick: (callback, ...values) => Promise.resolve().then(() => callback(...values)),
	on: () => undefined,
};
self.setImmediate = (callback, ...values) => setTimeout(callback, 0, ...values);

// What of Node.js is named at the top of modules and never used in a page.
const builtins = {
	crypto: {},
	fs: {},
	net: { Socket: class {}, createServer: () => undefined },
	os: {},
	path: {},
	stream: { Duplex: class {}, Readable: class {}, Writable: class {} },
	util: { types: {} },
};

function fetchText(path) {
	const request = new XMLHttpRequest();
	request.open('GET', `/modules/${path}`, false);
	request.send();
	return request.status === 200 ? request.responseText : null;
}

const described = new Map();

function describe(name) {
	if (!described.has(name)) {
		described.set(name, JSON.parse(fetchText(`${name}/package.json`) ?? '{}'));
	}
	return described.get(name);
}

// The path of a package's main module, the one for browsers if it has one.
function mainOf(name) {
	const { browser, main = 'index.js' } = describe(name);
	const normal = (path) => path.replace(/^\.\//, '');
	if (typeof browser === 'string') return `${name}/${normal(browser)}`;
	const replaced = Object.entries(browser ?? {}).find(([path]) => normal(path) === normal(main));
	return `${name}/${normal(replaced ? replaced[1] : main)}`;
}

function joined(folder, path) {
	const parts = folder.split('/');
	for (const part of path.split('/')) {
		if (part === '..') parts.pop();
		else if (part !== '.') parts.push(part);
	}
	return parts.join('/');
}

function find(folder, name) {
	const path = name.startsWith('.') ? joined(folder, name) : null;
	const candidates = path
		? [path, `${path}.js`, `${path}/index.js`]
		: [`${name}.js`, mainOf(name), `${mainOf(name)}.js`];
	for (const candidate of candidates.filter((one) => /\.js(on)?$/.test(one))) {
		const text = fetchText(candidate);
		if (text !== null) return [candidate, text];
	}
	throw new Error(`no module ${name} for ${folder}`);
}

const modules = new Map();
const resolved = new Map();

function load(folder, name) {
	// The package "buffer" has the name of a part of Node.js, with a slash or without.
	name = name.replace(/\/$/, '');
	if (name in builtins) return builtins[name];
	const key = name.startsWith('.') ? joined(folder, name) : name;
	if (!resolved.has(key)) {
		const [path, text] = find(folder, name);
		resolved.set(key, path);
		if (!modules.has(path)) {
			const module = { exports: {} };
			modules.set(path, module);
			if (path.endsWith('.json')) {
				module.exports = JSON.parse(text);
			} else {
				const own = path.slice(0, path.lastIndexOf('/'));
				const wrapped = new Function('require', 'module', 'exports', `${text}\n//# sourceURL=${path}`);
				wrapped((wanted) => load(own, wanted), module, module.exports);
			}
		}
	}
	return modules.get(resolved.get(key)).exports;
}

self.require = (name) => load('', name);
self.Buffer = self.require('buffer').Buffer;
