"""``authorized_keys`` files: the keys that may log in (sshd manual page).

A line is ``[options] key-type base64 [comment]``. Options are restrictions. Options for
restrictions that always apply here are accepted; a line with any other option is ignored, as its
key is meant to permit less than we would.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anyio import to_thread

import anyssh

from .failures import Failure, reason_of

__all__ = ["AuthorizedKeys", "parse_line"]

logger: Final = logging.getLogger("anyssh.cli")

MAX_FILE_BYTES: Final = 16 * 1024 * 1024

HOLDS_ANYWAY: Final = frozenset(
    {"no-agent-forwarding", "no-pty", "no-user-rc", "no-x11-forwarding"}
)
_OPTION: Final = re.compile(r'([A-Za-z0-9-]+)(?:="(?:[^"\\]|\\.)*")?(,|[ \t]+)')


@dataclass(frozen=True, slots=True)
class AuthorizedKeys:
    """The keys of a file, which is read again for each query.

    :ivar path: the file
    """

    path: Path

    async def holds(self, key: anyssh.Key) -> bool:
        """Tell whether a key may log in. A file that cannot be read permits none."""
        try:
            return key in await self.read()
        except Failure as error:
            logger.error("%s", error)
            return False

    async def read(self) -> list[anyssh.Key]:
        """Return all keys.

        :raises Failure: the file cannot be read, or others can write or replace it
        """
        return await to_thread.run_sync(self._read)

    def _read(self) -> list[anyssh.Key]:
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                folder = self.path.resolve().parent.stat()
                data = file.read(MAX_FILE_BYTES)
        except OSError as error:
            raise Failure(
                f"cannot read {self.path}: {reason_of(error)}; put the public keys of those who "
                "may log in there, one in each line, or name another file with --authorized-keys"
            ) from error
        self._require_ours(status, folder)
        found = []
        # No other character ends a line: what follows it may be the end of a restricted line.
        for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
            try:
                key = parse_line(line.strip())
            except (ValueError, anyssh.SSHError) as error:
                logger.warning("%s:%d is ignored: %s", self.path, number, error)
                continue
            if key is not None:
                found.append(key)
        return found

    def _require_ours(self, file: os.stat_result, folder: os.stat_result) -> None:
        if os.name != "posix":
            return
        if stat.S_IMODE(file.st_mode) & 0o022:
            raise Failure(f"others may write {self.path}; run: chmod go-w {self.path}")
        if file.st_uid not in (0, os.geteuid()):
            raise Failure(f"{self.path} belongs to another user, so its keys let nobody in")
        if folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX:
            where = self.path.resolve().parent
            raise Failure(f"others may replace {self.path}; run: chmod go-w {where}")


def parse_line(line: str) -> anyssh.Key | None:
    """Parse a line; return None for an empty line or a comment.

    :raises ValueError: it has an option that is not enforced here
    :raises SSHError: it contains no key of a known type
    """
    if not line or line.startswith("#"):
        return None
    try:
        return anyssh.import_public_key(line)
    except anyssh.SSHError as error:
        options, rest = _take_options(line)
        if not options:
            raise error from None
    unkept = [option for option in options if option.lower() not in HOLDS_ANYWAY]
    key = anyssh.import_public_key(rest)
    if unkept:
        raise ValueError(f"the option {unkept[0]!r} is not enforced here")
    return key


def _take_options(line: str) -> tuple[list[str], str]:
    """Return the names of the options, and the rest of the line."""
    options, position = [], 0
    while found := _OPTION.match(line, position):
        options.append(found[1])
        position = found.end()
        if found[2] != ",":
            return options, line[position:]
    return [], line
