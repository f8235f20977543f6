"""One program per implementation, each of which can be the server or client of a measurement."""
