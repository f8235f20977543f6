"""What a key exchange method does: what the client sends, what the server answers, the secret.

Public values are the contents of the wire string in the messages 30 and 31. The secret comes back
encoded with its length, ready for the exchange hash and for key derivation: as an mpint, or as a
string where the method says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

__all__ = ["ClientShare", "KeyExchangeAlgorithm"]


class ClientShare(ABC):
    """The client's half of one exchange.

    :ivar public: contents of the wire string in message 30
    """

    __slots__ = ("public",)

    def __init__(self, public: bytes) -> None:
        self.public: bytes = public

    @abstractmethod
    def finish(self, server_public: bytes) -> bytes:
        """Return the shared secret, encoded as it enters the exchange hash.

        :param server_public: contents of the wire string in message 31
        :raises RemoteProtocolError: the value is not acceptable; with ``KEY_EXCHANGE_FAILED``
        """


class KeyExchangeAlgorithm(ABC):
    """A method to agree on a secret; stateless.

    :ivar name: as it is negotiated
    :ivar hash_name: of the exchange hash and the key derivation, for :mod:`hashlib`
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

        :param client_public: contents of the wire string in message 30
        :returns: contents of the wire string for message 31, and the shared secret, encoded as it
            enters the exchange hash
        :raises RemoteProtocolError: the value is not acceptable; with ``KEY_EXCHANGE_FAILED``
        """
