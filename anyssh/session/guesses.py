"""Remembers with which servers a client's guess at the key exchange would be right.

A client may send its first key exchange message along with its KEXINIT, before it knows the
server's (RFC 4253 section 7). This saves a round trip if the server accepts the guess, that is, if
both sides prefer the same key exchange method and host key algorithm. A wrong guess costs a
message, and not every server copes with one, or judges guesses as the RFC says. So a client guesses
only where it has seen that the guess would be right: with an anyssh server that it has connected to
before, over a socket of its own. Servers reached through something else, such as another server,
cannot be identified by address.

What is kept is the address with the two names that were right there. When a guess proves wrong, it
is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

__all__ = ["Guess", "Guesses"]

MOST_REMEMBERED: Final = 1024


class Guess(NamedTuple):
    """The expected preferences of a server.

    :ivar address: the server's address
    :ivar method: the key exchange method that the client prefers
    :ivar host_key: the host key algorithm that the client prefers
    """

    address: tuple[str, int]
    method: str
    host_key: str


class Guesses:
    """The guesses known to be right; if there are too many, the oldest is dropped.

    Shared between the event loops of several threads: each of the steps below is atomic.
    """

    def __init__(self) -> None:
        self._right: OrderedDict[Guess, None] = OrderedDict()

    def __contains__(self, guess: Guess | None) -> bool:
        return guess in self._right

    def learn(self, guess: Guess, *, is_right: bool) -> None:
        """Record whether a guess was right, or would have been."""
        self._right.pop(guess, None)
        if is_right:
            self._right[guess] = None
            if len(self._right) > MOST_REMEMBERED:
                self._right.popitem(last=False)
