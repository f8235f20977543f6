"""Trace events of sessions as records of the standard library's ``logging``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from anyssh import TraceEvent, TraceLevel

__all__ = ["LEVELS", "LogTrace"]

LEVELS: Final[Mapping[TraceLevel, int]] = {
    TraceLevel.ERROR: logging.ERROR,
    TraceLevel.WARNING: logging.WARNING,
    TraceLevel.INFO: logging.INFO,
    TraceLevel.VERBOSE: logging.DEBUG,
}
"""The logging level for each trace level."""


class LogTrace:
    """Writes trace events to a logger; to be passed as ``trace`` to a client session or server.

    Each record has the attributes ``ssh_event``, the event's name such as
    ``"session_authenticated"``, ``ssh_event_id``, its number in Dev Tunnels SSH, and ``ssh_error``,
    the exception that caused it, or None.

    :param logger: a logger or the name of one
    :param context: further attributes for each record, for example about the peer; their names must
        not be those of a record's own attributes
    """

    def __init__(
        self,
        logger: logging.Logger | str = "anyssh.trace",
        *,
        context: Mapping[str, object] | None = None,
    ) -> None:
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self._context = dict(context or {})

    def __call__(self, event: TraceEvent) -> None:
        """Write an event, if the logger is enabled for its level.

        :param event: the event
        """
        level = LEVELS[event.level]
        if self._logger.isEnabledFor(level):
            facts = {
                "ssh_event": event.id.name.lower(),
                "ssh_event_id": int(event.id),
                "ssh_error": event.error,
            }
            self._logger.log(level, "%s", event.message, extra=self._context | facts)
