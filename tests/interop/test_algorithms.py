"""Every algorithm of anyssh with a peer, in both roles, and the sets that others test with.

A side that is to use one algorithm of a kind offers no other, so a session that is established uses
it; what the two sides then report is compared all the same. The event loop is irrelevant here, so
one is enough.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any

import pytest

import anyssh
from anyssh import Encryption, HostKeyAlgorithm, KeyExchange, Mac

from .conftest import Keys, Sites
from .ours import Gate, exchange, our_client, our_key, our_server
from .peers import USER, find_program, require_peer
from .scripts.peer_common import GREETING


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


KEY_EXCHANGES = [
    KeyExchange.MLKEM768_X25519_SHA256,
    KeyExchange.CURVE25519_SHA256,
    KeyExchange.CURVE25519_SHA256_LIBSSH,
    KeyExchange.ECDH_NISTP256,
    KeyExchange.ECDH_NISTP384,
    KeyExchange.ECDH_NISTP521,
    KeyExchange.DH_GROUP14_SHA256,
    KeyExchange.DH_GROUP16_SHA512,
]
HOST_KEYS = {
    HostKeyAlgorithm.ED25519: "ed25519",
    HostKeyAlgorithm.ECDSA_NISTP256: "ecdsa256",
    HostKeyAlgorithm.ECDSA_NISTP384: "ecdsa384",
    HostKeyAlgorithm.ECDSA_NISTP521: "ecdsa521",
    HostKeyAlgorithm.RSA_SHA2_256: "rsa",
    HostKeyAlgorithm.RSA_SHA2_512: "rsa",
}
CIPHERS = [
    Encryption.AES256_GCM,
    Encryption.AES128_GCM,
    Encryption.CHACHA20_POLY1305,
    Encryption.AES256_CTR,
    Encryption.AES192_CTR,
    Encryption.AES128_CTR,
    Encryption.AES256_CBC,
]
MACS = [Mac.HMAC_SHA2_512_ETM, Mac.HMAC_SHA2_256_ETM, Mac.HMAC_SHA2_512, Mac.HMAC_SHA2_256]


@dataclass(frozen=True)
class Set:
    """Algorithms that a side insists on; None leaves the choice to the configurations."""

    kex: str | None = None
    host_key: str | None = None
    cipher: str | None = None
    mac: str | None = None

    def __str__(self) -> str:
        names = (self.kex, self.host_key, self.cipher, self.mac)
        return "+".join(name.partition("@")[0] for name in names if name)

    @property
    def config(self) -> anyssh.SessionConfig:
        """Insist in our configuration."""
        chosen = {
            "key_exchanges": self.kex,
            "host_key_algorithms": self.host_key,
            "encryptions": self.cipher,
            "macs": self.mac,
        }
        insisted = {name: [value] for name, value in chosen.items() if value}
        return anyssh.SessionConfig().replace(**insisted)

    @property
    def options(self) -> dict[str, Any]:
        """Insist on a peer's command line."""
        chosen = {
            "kex": self.kex,
            "host_key_algorithms": self.host_key,
            "ciphers": self.cipher,
            "macs": self.mac,
        }
        return {name: [value] for name, value in chosen.items() if value}

    def check(self, used: anyssh.Algorithms) -> None:
        for wanted, found in (
            (self.kex, {used.key_exchange}),
            (self.host_key, {used.host_key}),
            (self.cipher, {used.encryption_client_to_server, used.encryption_server_to_client}),
            (self.mac, {used.mac_client_to_server, used.mac_server_to_client}),
        ):
            assert wanted is None or found == {wanted}


SINGLES = [
    *(Set(kex=name) for name in KEY_EXCHANGES),
    *(Set(host_key=name) for name in HOST_KEYS),
    *(Set(cipher=name) for name in CIPHERS),
    *(Set(mac=name, cipher=Encryption.AES256_CTR) for name in MACS),
]
DEV_TUNNELS_SETS = [
    Set("ecdh-sha2-nistp384", "ecdsa-sha2-nistp384", "aes256-gcm@openssh.com", "hmac-sha2-256"),
    Set(
        "ecdh-sha2-nistp256",
        "ecdsa-sha2-nistp256",
        "aes256-ctr",
        "hmac-sha2-256-etm@openssh.com",
    ),
    Set("diffie-hellman-group14-sha256", "rsa-sha2-256", "aes256-cbc", "hmac-sha2-512"),
    Set(
        "ecdh-sha2-nistp521",
        "ecdsa-sha2-nistp521",
        "aes256-gcm@openssh.com",
        "hmac-sha2-512-etm@openssh.com",
    ),
    Set(
        "diffie-hellman-group16-sha512",
        "rsa-sha2-512",
        "aes256-ctr",
        "hmac-sha2-512-etm@openssh.com",
    ),
]
OPENSSH_SETS = [
    ("diffie-hellman-group14-sha256", "rsa-sha2-512", "hmac-sha2-512"),
    ("diffie-hellman-group16-sha512", "rsa-sha2-512", "hmac-sha2-512-etm@openssh.com"),
    ("diffie-hellman-group14-sha256", "ecdsa-sha2-nistp384", "hmac-sha2-512"),
    ("diffie-hellman-group14-sha256", "ecdsa-sha2-nistp521", "hmac-sha2-512"),
    ("ecdh-sha2-nistp384", "ecdsa-sha2-nistp384", "hmac-sha2-512"),
    ("ecdh-sha2-nistp521", "ecdsa-sha2-nistp521", "hmac-sha2-512-etm@openssh.com"),
]


def for_npm(algorithms: Set) -> Set:
    """Return the set as far as this peer goes: it has no CBC."""
    cipher = "aes256-ctr" if algorithms.cipher == "aes256-cbc" else algorithms.cipher
    return Set(algorithms.kex, algorithms.host_key, cipher, algorithms.mac)


def openssh_has(algorithms: Set) -> bool:
    """Ask the programs that are here: they learn new key exchanges over the years."""
    program = find_program("ssh") or "ssh"
    known = subprocess.run([program, "-Q", "kex"], capture_output=True, text=True, check=True)
    return algorithms.kex is None or algorithms.kex in known.stdout.split()


async def as_client(sites: Sites, keys: Keys, name: str, algorithms: Set) -> None:
    site = sites[name]
    mine = anyssh.ClientCredentials(site.user, keys=[our_key(keys.user["rsa"])])
    # An unusual host key algorithm also limits the algorithms of our own key.
    if algorithms.host_key:
        mine = anyssh.ClientCredentials(
            site.user, keys=[our_key(keys.user[HOST_KEYS[algorithms.host_key]])]
        )
    async with our_client(site.port, site.hosts, mine, config=algorithms.config) as session:
        algorithms.check(session.algorithms)
        assert await exchange(session, GREETING) == (GREETING, 0)


async def as_server(keys: Keys, name: str, algorithms: Set) -> None:
    peer = require_peer(name)
    key = keys.user[HOST_KEYS[algorithms.host_key] if algorithms.host_key else "rsa"]
    hosts = [keys.host["rsa"], keys.host["ecdsa384"]]
    if algorithms.host_key:
        hosts = [keys.host[HOST_KEYS[algorithms.host_key]]]
    async with our_server(Gate(USER, authorized=[key]), hosts, config=algorithms.config) as server:
        report = await peer.play(
            server.port, "echo", host_public_key=hosts, key=[key], **algorithms.options
        )
        assert report.one("result")["received"] == GREETING.decode()
        algorithms.check((await server.visit()).algorithms)


@pytest.mark.parametrize("algorithms", SINGLES, ids=str)
@pytest.mark.parametrize("name", ["openssh", "asyncssh"])
async def test_each_as_client(sites: Sites, keys: Keys, name: str, algorithms: Set) -> None:
    if name == "openssh" and not openssh_has(algorithms):
        with pytest.raises(anyssh.NegotiationError) as failure:
            await as_client(sites, keys, name, algorithms)
        assert algorithms.kex not in failure.value.theirs
    else:
        await as_client(sites, keys, name, algorithms)


@pytest.mark.parametrize("algorithms", SINGLES, ids=str)
@pytest.mark.parametrize("name", ["openssh", "asyncssh"])
async def test_each_as_server(keys: Keys, name: str, algorithms: Set) -> None:
    require_peer(name)
    if name == "openssh" and not openssh_has(algorithms):
        algorithms = Set(kex=KeyExchange.CURVE25519_SHA256)
    await as_server(keys, name, algorithms)


@pytest.mark.parametrize("algorithms", DEV_TUNNELS_SETS, ids=str)
@pytest.mark.parametrize("name", ["npm", "asyncssh"])
async def test_dev_tunnels_set_as_client(
    sites: Sites, keys: Keys, name: str, algorithms: Set
) -> None:
    await as_client(sites, keys, name, for_npm(algorithms) if name == "npm" else algorithms)


@pytest.mark.parametrize("algorithms", DEV_TUNNELS_SETS, ids=str)
@pytest.mark.parametrize("name", ["npm", "asyncssh"])
async def test_dev_tunnels_set_as_server(keys: Keys, name: str, algorithms: Set) -> None:
    await as_server(keys, name, for_npm(algorithms) if name == "npm" else algorithms)


@pytest.mark.parametrize("names", OPENSSH_SETS, ids="+".join)
async def test_openssh_set_as_client(sites: Sites, keys: Keys, names: tuple[str, str, str]) -> None:
    kex, host_key, mac = names
    await as_client(sites, keys, "openssh", Set(kex, host_key, Encryption.AES256_GCM, mac))


@pytest.mark.parametrize("names", OPENSSH_SETS, ids="+".join)
async def test_openssh_set_as_server(keys: Keys, names: tuple[str, str, str]) -> None:
    kex, host_key, mac = names
    await as_server(keys, "openssh", Set(kex, host_key, Encryption.AES256_CTR, mac))
