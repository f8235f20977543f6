"""Logging to standard error: lines for people, or JSON for programs."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["configure", "log_fields"]

FIELDS: Final = "anyssh_fields"
NOTHING: Final = logging.CRITICAL + 1


def log_fields(event: str, **fields: Any) -> dict[str, dict[str, Any]]:
    """Return the ``extra`` of a log call: fields for programs that read the log."""
    return {FIELDS: {"event": event} | fields}


class _Lines(logging.Formatter):
    """For people: one line, with a traceback if verbose."""

    def __init__(self, form: str, *, is_verbose: bool) -> None:
        super().__init__(form, "%H:%M:%S")
        self._is_verbose = is_verbose

    def format(self, record: logging.LogRecord) -> str:
        if self._is_verbose:
            return super().format(record)
        told = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None})
        if record.exc_info and record.exc_info[1] is not None:
            told.msg, told.args = f"{record.getMessage()}: {record.exc_info[1]}", None
        return super().format(told)


class _Json(logging.Formatter):
    """For programs: one object per line."""

    def format(self, record: logging.LogRecord) -> str:
        members: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        attributes = vars(record)
        members |= attributes.get(FIELDS, {})
        for name in ("ssh_event", "ssh_event_id"):
            if name in attributes:
                members[name] = attributes[name]
        if record.exc_info and record.exc_info[1] is not None:
            members["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(members, default=str)


def configure(
    level: int, *, is_verbose: bool, has_times: bool = False, is_json: bool = False
) -> None:
    """Configure logging for a command.

    :param level: the least level that is logged without ``is_verbose``
    :param has_times: for commands that run for long
    """
    handler = logging.StreamHandler(sys.stderr)
    form = "%(asctime)s %(message)s" if has_times else "anyssh: %(message)s"
    handler.setFormatter(_Json() if is_json else _Lines(form, is_verbose=is_verbose))
    logger = logging.getLogger("anyssh")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level)
    # The trace is for those who ask for it, and only without the bulk: failures are logged anyway.
    logging.getLogger("anyssh.trace").setLevel(logging.INFO if is_verbose else NOTHING)
    if is_verbose:
        logging.getLogger("anyssh.cli").setLevel(logging.DEBUG)
