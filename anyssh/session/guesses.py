"""Remembers with which servers a client's first guess at the key exchange is right.

A client may send its first message of the key exchange together with what it offers, before it
knows what the server offers (RFC 4253 section 7). That saves the way there and back, if the server
takes it: if both sides prefer the same method and the same host key algorithm. A wrong guess costs
a message, and not every server copes with one, or judges guesses as the standard says. So a client
guesses where it has seen that the guess would be right: with an anyssh server that it has talked to
before, over a socket of its own. Servers that are reached through something else, such as another
server, cannot be told by their address.

What is remembered is an address with the two names that were right there. A server that has
changed its mind is forgotten as soon as that shows.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

__all__ = ["Guess", "Guesses"]

MOST_REMEMBERED: Final = 1024


class Guess(NamedTuple):
    """What a client takes a server to prefer.

    :ivar address: of the server
    :ivar method: the key exchange method that the client prefers
    :ivar host_key: the host key algorithm that the client prefers
    """

    address: tuple[str, int]
    method: str
    host_key: str


class Guesses:
    """The right ones; of too many, that which was made longest ago is forgotten.

    The event loops of several threads share them: each step below is one that no other interrupts.
    """

    def __init__(self) -> None:
        self._right: OrderedDict[Guess, None] = OrderedDict()

    def __contains__(self, guess: Guess | None) -> bool:
        return guess in self._right

    def learn(self, guess: Guess, *, is_right: bool) -> None:
        """Note whether a guess was right, or would have been."""
        self._right.pop(guess, None)
        if is_right:
            self._right[guess] = None
            if len(self._right) > MOST_REMEMBERED:
                self._right.popitem(last=False)
