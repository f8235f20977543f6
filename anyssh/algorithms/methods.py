"""The interface of a key exchange method: the client's message, the server's answer, the secret.

Public values are the contents of the wire strings in messages 30 and 31. The secret is returned
encoded with its length, ready for the exchange hash and for key derivation: as an mpint, or as a
string if the method says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

__all__ = ["ClientShare", "KeyExchangeAlgorithm"]


class ClientShare(ABC):
    """The client's half of one exchange.

    :ivar public: the contents of the wire string in message 30
    """

    __slots__ = ("public",)

    def __init__(self, public: bytes) -> None:
        self.public: bytes = public

    @abstractmethod
    def finish(self, server_public: bytes) -> bytes:
        """Return the shared secret, encoded as it enters the exchange hash.

        :param server_public: the contents of the wire string in message 31
        :raises RemoteProtocolError: the value is not acceptable; with ``KEY_EXCHANGE_FAILED``
        """


class KeyExchangeAlgorithm(ABC):
    """A method for agreeing on a secret; stateless.

    :ivar name: the negotiated name
    :ivar hash_name: the hash for the exchange hash and key derivation, as named by :mod:`hashlib`
    """

    __slots__ = ("hash_name", "name")

    def __init__(self, name: str, hash_name: str) -> None:
        self.name: str = name
        self.hash_name: str = hash_name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @abstractmethod
    def client_share(self) -> ClientShare:
        """Return the client's half, with fresh keys."""

    @abstractmethod
    def server_reply(self, client_public: bytes) -> tuple[bytes, bytes]:
        """Answer a client, with fresh keys.

        :param client_public: the contents of the wire string in message 30
        :returns: the contents of the wire string for message 31, and the shared secret, encoded as
            it enters the exchange hash
        :raises RemoteProtocolError: the value is not acceptable; with ``KEY_EXCHANGE_FAILED``
        """
