"""Port forwarding: connections that a session carries from one side to the other.

``methods`` is the session's API, ``service`` handles the peer's requests, ``policy`` says what the
peer may do. ``local`` listens on this side, ``remote`` has the peer listen. ``relay`` joins a
channel and a stream; ``connecting`` and ``listening`` deal with sockets.
"""
