"""The command line: ``anyssh`` and ``python -m anyssh``, with the extra ``cli``.

:mod:`~anyssh.cli.application` has the commands, one module each does their work, on public names
as any application. Every command returns its exit status; what goes wrong is a
:class:`~anyssh.cli.failures.Failure` or one of the library's errors, and becomes one line.
"""

from __future__ import annotations

from .application import main

__all__ = ["main"]
