"""Errors as Python handles them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

import anyssh


def pickled(error: anyssh.SSHError) -> anyssh.SSHError:
    found: anyssh.SSHError = pickle.loads(pickle.dumps(error))  # noqa: S301
    return found


@pytest.mark.parametrize("remade", [copy.copy, pickled])
@pytest.mark.parametrize(
    "error",
    [
        anyssh.AuthenticationError("not let in", ("publickey",)),
        anyssh.ChannelOpenError(2, "no"),
        anyssh.ConnectionLost("gone"),
        anyssh.Disconnected(11, "bye"),
        anyssh.HostKeyError("another key", "SHA256:x", "ssh-ed25519"),
        anyssh.NegotiationError("cipher", ["a"], ["b"]),
        anyssh.ReconnectError(2, "not found"),
        anyssh.RemoteProtocolError("got HTTP"),
    ],
)
def test_an_error_goes_to_another_process(
    error: anyssh.SSHError, remade: Callable[[anyssh.SSHError], anyssh.SSHError]
) -> None:
    error.add_note("during a test")
    found = remade(error)
    assert type(found) is type(error)
    assert (str(found), found.args, found.__dict__) == (str(error), error.args, error.__dict__)
