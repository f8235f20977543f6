"""What can be asked of sessions and channels through AnyIO's ``extra()``."""

from __future__ import annotations

from anyio import TypedAttributeSet, typed_attribute

from ..identification import PeerVersion
from ..keys import Key
from ..protocol.negotiation import Algorithms

__all__ = ["SSHAttribute"]


class SSHAttribute(TypedAttributeSet):
    """Typed attributes of sessions and of the channels in them."""

    peer_version: PeerVersion = typed_attribute()
    """What the peer said it is."""
    algorithms: Algorithms = typed_attribute()
    """What the last key exchange agreed on."""
    host_key: Key = typed_attribute()
    """The server's host key; known to clients."""
    principal: object = typed_attribute()
    """Who the client is; known to servers."""
    channel_type: str = typed_attribute()
    """The type that a channel was opened with."""
