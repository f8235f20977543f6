"""Fuzzing (T-70): for any input, only our own errors, in bounded time and memory.

A *target* takes bytes and passes them to one part of anyssh that processes foreign bytes; the
targets are listed in :data:`TARGETS`. The same verdict is passed on every input, by :mod:`.oracle`.

=================  ================================================================================
:mod:`.parsers`    messages, keys, signatures, certificates, known hosts, and all other formats
:mod:`.packets`    the binary packet protocol: an encrypted stream that was tampered with
:mod:`.cores`      a client or server in each phase, fed a *script* (:mod:`.scripts`): messages that
                   are properly sealed, passing time, actions of its application
:mod:`.resuming`   the same where a session is resumed over another stream, and for receipts
:mod:`.exchanges`  a key exchange between two honest sides, with one message changed in transit
=================  ================================================================================

``python -m tests.security.fuzz`` runs the targets under atheris, which searches for inputs that
reach new code. The results are kept in ``corpus/``, as few inputs as reach the same code, with one
file for each target and one line of base64 for each input. ``tests/security/test_fuzz_corpus``
replays them in every run, without atheris.
"""

from __future__ import annotations

from . import cores, exchanges, packets, parsers, resuming
from .oracle import Target

__all__ = ["TARGETS"]

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (parsers, packets, cores, resuming, exchanges)
    for target in module.TARGETS
}
