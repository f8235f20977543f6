"""Key exchange, key derivation and packet protection: the cryptography of the transport protocol.

Nothing here knows any messages. The package offers three things, each by the name of an algorithm:

* :func:`key_exchange` returns a method for agreeing on a secret; :func:`derive_key` derives keys,
* :func:`encryption_parameters` and :func:`mac_key_size` tell which keys an algorithm needs,
* :func:`packet_sealer` and :func:`packet_opener` turn payloads into packets and back.
"""

from __future__ import annotations

from .derivation import derive_key
from .key_exchanges import is_available, key_exchange
from .methods import ClientShare, KeyExchangeAlgorithm
from .packets import PacketOpener, PacketSealer
from .parameters import (
    EncryptionParameters,
    encryption_parameters,
    mac_digest,
    mac_key_size,
    needs_strict_key_exchange,
)
from .protection import clear_opener, clear_sealer, packet_opener, packet_sealer

__all__ = [
    "ClientShare",
    "EncryptionParameters",
    "KeyExchangeAlgorithm",
    "PacketOpener",
    "PacketSealer",
    "clear_opener",
    "clear_sealer",
    "derive_key",
    "encryption_parameters",
    "is_available",
    "key_exchange",
    "mac_digest",
    "mac_key_size",
    "needs_strict_key_exchange",
    "packet_opener",
    "packet_sealer",
]
