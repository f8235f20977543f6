"""Fuzzing (T-70): whatever bytes come, only our own errors, in bounded time and memory.

A *target* takes bytes and hands them to one part of anyssh that sees foreign bytes; the parts are
listed in :data:`TARGETS`. The same verdict is passed on every input, by :mod:`.oracle`.

=================  ================================================================================
:mod:`.parsers`    messages, keys, signatures, certificates, known hosts, and all other formats
:mod:`.packets`    the binary packet protocol: an encrypted stream that was tampered with
:mod:`.cores`      a client or server in each phase, fed a *script* (:mod:`.scripts`): messages that
                   are properly sealed, time that passes, things that its application does
:mod:`.resuming`   the same where a session goes on over another stream, and for receipts
:mod:`.exchanges`  a key exchange between two honest sides, with one message changed on its way
=================  ================================================================================

``python -m tests.security.fuzz`` runs the targets under atheris, which looks for inputs that reach
code that no other did. What it found is kept, as few inputs as reach the same code, in ``corpus/``,
one file for each target and one line of base64 for each input. ``tests/security/test_fuzz_corpus``
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
