"""Port forwarding: connections that a session carries from one side to the other.

``methods`` is what a session offers; ``service`` sees to what the peer asks; ``policy`` says what
it may. ``local`` listens here for connections that leave there, ``remote`` has the peer listen.
``relay`` joins a channel and a stream; ``connecting`` and ``listening`` deal with sockets.
"""
