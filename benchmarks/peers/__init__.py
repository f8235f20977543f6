"""One program per implementation: each can be the server or the client of a measurement."""
