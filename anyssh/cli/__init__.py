"""The command line: ``anyssh`` and ``python -m anyssh``, with the extra ``cli``.

:mod:`~anyssh.cli.application` declares the commands; one module each implements them, using only
public names like any application. Every command returns its exit status. Errors are a
:class:`~anyssh.cli.failures.Failure` or one of the library's, and are reported in one line.
"""

from __future__ import annotations

from .application import main

__all__ = ["main"]
