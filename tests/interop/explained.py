"""What ``ssh-audit`` criticises about our defaults, and why it stays.

``test_scanners.py`` compares the scanner's report with this list; the page of the matrix shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

CURVES = "using elliptic curves that are suspected as being backdoored"
QUANTUM = "does not provide protection against post-quantum attacks"
NONCES = "using weak random number generator could reveal the key"
ORDER = "using encrypt-and-MAC mode"

NIST_EXCHANGES = {"ecdh-sha2-nistp256", "ecdh-sha2-nistp384", "ecdh-sha2-nistp521"}
NIST_KEYS = {"ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"}


@dataclass(frozen=True)
class Explained:
    """A fault that the scanner finds, and why it stays."""

    words: str
    algorithms: frozenset[str]
    why: str


EXPLAINED = [
    Explained(
        CURVES,
        frozenset(NIST_EXCHANGES | NIST_KEYS),
        "Dev Tunnels SSH knows no other curves, nor do peers bound to FIPS 140; no weakness of them"
        " is known, and they come after X25519 and Ed25519.",
    ),
    Explained(
        QUANTUM,
        frozenset(NIST_EXCHANGES | {"curve25519-sha256", "curve25519-sha256@libssh.org"}),
        "Most peers have nothing better yet; mlkem768x25519-sha256 comes first.",
    ),
    Explained(
        NONCES,
        frozenset(NIST_KEYS),
        "OpenSSL mixes the private key and the message into each nonce.",
    ),
    Explained(
        ORDER,
        frozenset({"hmac-sha2-256", "hmac-sha2-512"}),
        "Dropbear and Twisted Conch have no others; they come last, and ciphers that need none"
        " first.",
    ),
]
