"""Host keys from ``known_hosts`` files, in the format of OpenSSH.

:class:`KnownHosts` holds the entries of the files as loaded, and those added since; its
:meth:`~KnownHosts.for_host` returns the verifier for one host. The host name is always the one that
the application meant to reach: an address may belong to a proxy, and a stream may have none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from io import FileIO
from pathlib import Path
from typing import Final, Self

import anyio.lowlevel
from anyio import to_thread

from ..errors import CertificateError, HostKeyError, KeyFormatError, LocalProtocolError
from ..keys import Certificate, Key, check_host_certificate, key_type_for
from ..keys.known_hosts import (
    DEFAULT_PORT,
    SALT_BYTES,
    HostMarker,
    KnownHostsEntry,
    KnownHostsProblem,
    hashed_name,
    host_name,
    known_hosts_line,
    read_known_hosts,
    read_line,
)
from .host_keys import HostKeyVerifier, PresentedHostKey

__all__ = ["HostKeyStatus", "KnownHostVerifier", "KnownHosts"]

MAX_KNOWN_HOSTS_BYTES: Final = 16 * 1024 * 1024
OWN_PATH: Final = "~/.ssh/known_hosts"
SYSTEM_PATH: Final = "/etc/ssh/ssh_known_hosts"


def default_paths(system: str) -> tuple[str, ...]:
    """Return the files to read if the application names none.

    :param system: as :data:`os.name`
    """
    # Every user of Windows may create the folders of the second one.
    return (OWN_PATH,) if system == "nt" else (OWN_PATH, SYSTEM_PATH)


class HostKeyStatus(Enum):
    """What is known about a host and a key."""

    KNOWN = auto()
    """The key belongs to the host."""
    UNKNOWN = auto()
    """No key of the host is known."""
    CHANGED = auto()
    """Keys of the host are known, but not this one."""
    REVOKED = auto()
    """The key must not be accepted."""


class KnownHosts:
    """The entries of ``known_hosts`` files. Created by :meth:`load` and :meth:`parse`.

    Supported are plain and hashed names, the patterns ``*``, ``?`` and ``!``, ``[host]:port``, and
    the markers ``@revoked`` and ``@cert-authority``. Lines that cannot be read are ignored, and
    listed in :attr:`problems`. A host on a port other than 22 has entries of its own. A key known
    for its bare name is accepted on every port without a key of its own, as in OpenSSH, but never
    makes another key a changed one there.
    """

    def __init__(
        self,
        entries: Iterable[KnownHostsEntry],
        problems: Iterable[KnownHostsProblem],
        paths: Sequence[str],
        *,
        are_files: bool,
    ) -> None:
        self._entries = list(entries)
        self._problems = tuple(problems)
        self._paths = tuple(paths)
        self._are_files = are_files

    @classmethod
    def parse(cls, text: str, name: str = "known_hosts") -> Self:
        """Parse known hosts from text; keys cannot be added to them.

        :param text: the lines of a file
        :param name: the file name to show in errors
        """
        entries, problems = read_known_hosts(text, name)
        return cls(entries, problems, [name], are_files=False)

    @classmethod
    async def load(cls, *paths: str | os.PathLike[str]) -> Self:
        """Load known hosts from files, in a worker thread; a missing file counts as empty.

        :param paths: the files, in which ``~`` is expanded; keys are added to the first. By default
            ``~/.ssh/known_hosts`` and, except on Windows, ``/etc/ssh/ssh_known_hosts``
        :raises OSError: a file exists and cannot be read
        :raises KeyFormatError: a file is larger than 16 MiB
        """
        return await to_thread.run_sync(cls._read_files, paths or default_paths(os.name))

    @classmethod
    def _read_files(cls, files: Sequence[str | os.PathLike[str]]) -> Self:
        paths = [os.path.expanduser(file) for file in files]
        entries: list[KnownHostsEntry] = []
        problems: list[KnownHostsProblem] = []
        for path in paths:
            more_entries, more_problems = read_known_hosts(_read_file(path), path)
            entries += more_entries
            problems += more_problems
        return cls(entries, problems, paths, are_files=True)

    @property
    def paths(self) -> tuple[str, ...]:
        """The files; keys are added to the first."""
        return self._paths

    @property
    def entries(self) -> tuple[KnownHostsEntry, ...]:
        """All lines that could be read, including those of added keys."""
        return tuple(self._entries)

    @property
    def problems(self) -> tuple[KnownHostsProblem, ...]:
        """All lines that could not be read."""
        return self._problems

    # Lookup

    def keys_for(self, host: str, port: int = DEFAULT_PORT) -> tuple[Key, ...]:
        """Return the host's keys, except revoked ones.

        :param host: its name or address, without brackets
        :param port: the port that the host is reached on
        :raises ValueError: the name or port is not valid
        """
        return self._find(host, port).good_keys(HostMarker.HOST_KEY)

    def authorities_for(self, host: str, port: int = DEFAULT_PORT) -> tuple[Key, ...]:
        """Return the authorities that may certify the host, except revoked ones.

        :param host: its name or address, without brackets
        :param port: the port that the host is reached on
        :raises ValueError: the name or port is not valid
        """
        return self._find(host, port).good_keys(HostMarker.CERT_AUTHORITY)

    def revoked_for(self, host: str, port: int = DEFAULT_PORT) -> tuple[Key, ...]:
        """Return the host keys and authorities that are revoked for the host.

        :param host: its name or address, without brackets
        :param port: the port that the host is reached on
        :raises ValueError: the name or port is not valid
        """
        found = self._find(host, port).lines(HostMarker.REVOKED)
        return tuple(dict.fromkeys(entry.key for entry in found if entry.key is not None))

    def status_of(self, key: Key, host: str, port: int = DEFAULT_PORT) -> HostKeyStatus:
        """Return what is known about a key of a host.

        :param key: the key that the host presented
        :param host: its name or address, without brackets
        :param port: the port that the host is reached on
        :raises ValueError: the name or port is not valid
        """
        return self._find(host, port).status_of(key)

    def _find(self, host: str, port: int) -> _Findings:
        """Collect the lines about a host in one pass, as every hashed name has to be computed."""
        own = host_name(host, port)
        bare = host_name(host, DEFAULT_PORT)
        findings = _Findings(own)
        for entry in self._entries:
            if entry.matches(own):
                findings.own.append(entry)
            elif bare != own and entry.matches(bare):
                findings.shared.append(entry)
        return findings

    # Adding and verifying

    async def add(
        self, key: Key, host: str, port: int = DEFAULT_PORT, *, hash_name: bool = False
    ) -> None:
        """Add a host's key, here and at the end of the first file.

        The line is appended in a single write. A new file, and a new directory for it, are
        accessible to their owner only; existing ones keep their mode. Once started, the write is
        not cancelled.

        :param key: the host's key
        :param host: its name or address, without brackets
        :param port: the port that the host is reached on
        :param hash_name: whether to write a hash in place of the name
        :raises ValueError: the name or port is not valid
        :raises OSError: the file cannot be written; the key was not added
        :raises LocalProtocolError: these known hosts were not loaded from files
        """
        await anyio.lowlevel.checkpoint()
        if not self._are_files:
            raise LocalProtocolError("these known hosts were not loaded from a file to add to")
        await self._add(key, host_name(host, port), hash_name)

    async def _add(self, key: Key, name: str, hash_name: bool) -> None:
        names = hashed_name(name, os.urandom(SALT_BYTES)) if hash_name else name
        line = known_hosts_line(names, key)
        path = self._paths[0]
        entry = read_line(line, path, 0)
        # Added before anything is awaited, so that of two concurrent keys the second is refused.
        self._entries.append(entry)
        try:
            await to_thread.run_sync(_append_line, path, line)
        except BaseException:
            self._entries.remove(entry)
            raise

    def for_host(
        self,
        host: str,
        port: int = DEFAULT_PORT,
        *,
        accept_new: bool | HostKeyVerifier = False,
        hash_names: bool = False,
    ) -> KnownHostVerifier:
        """Return the verifier for one host, for use as ``verify_host``.

        :param host: the name or address that the application means to reach, without brackets; the
            name by which ``ssh`` would know the host
        :param port: the port that the host is reached on
        :param accept_new: whether to :meth:`add` and accept the key of a host about which nothing
            is known; may be an async callable that decides for each key. A different key of a known
            host, and a plain key of a host known by its certificates, are refused in any case
        :param hash_names: whether to write hashes in place of names
        :raises ValueError: the name or port is not valid
        :raises LocalProtocolError: ``accept_new`` is given, but these hosts were not loaded from
            files
        """
        if accept_new is not False and not self._are_files:
            raise LocalProtocolError("accept_new needs known hosts that were loaded from a file")
        return KnownHostVerifier(self, host, port, accept_new, hash_names)


@dataclass(frozen=True, slots=True)
class _Findings:
    """The lines about one host: under its own name, and, on another port, under its bare name."""

    name: str
    own: list[KnownHostsEntry] = field(default_factory=list)
    shared: list[KnownHostsEntry] = field(default_factory=list)

    def lines(self, marker: HostMarker, key: Key | None = None) -> list[KnownHostsEntry]:
        """Return the lines with a marker, about one key or about any."""
        entries = [*self.own, *self.shared]
        if marker is HostMarker.HOST_KEY and self.own_lines():
            entries = self.own
        return [
            entry
            for entry in entries
            if entry.marker is marker and (key is None or entry.key == key)
        ]

    def good_keys(self, marker: HostMarker) -> tuple[Key, ...]:
        revoked = {entry.key for entry in self.lines(HostMarker.REVOKED)}
        found = dict.fromkeys(entry.key for entry in self.lines(marker))
        return tuple(key for key in found if key is not None and key not in revoked)

    def own_lines(self) -> list[KnownHostsEntry]:
        """Return the lines that make any other key a changed one."""
        return [entry for entry in self.own if entry.marker is HostMarker.HOST_KEY]

    def may_be_added(self, key: Key) -> bool:
        """Tell whether a key may become the host's first.

        For a host known by its certificates, a plain key is no substitute.
        """
        is_new = self.status_of(key) is HostKeyStatus.UNKNOWN
        return is_new and not self.good_keys(HostMarker.CERT_AUTHORITY)

    def status_of(self, key: Key) -> HostKeyStatus:
        if self.lines(HostMarker.REVOKED, key):
            return HostKeyStatus.REVOKED
        if self.lines(HostMarker.HOST_KEY, key):
            return HostKeyStatus.KNOWN
        return HostKeyStatus.CHANGED if self.own_lines() else HostKeyStatus.UNKNOWN


class KnownHostVerifier:
    """Verifies a host by its entries in :class:`KnownHosts`: plain keys and certificates.

    A :class:`HostCertificateVerifier`. An invalid certificate is ignored: its key may be known
    anyway.
    """

    def __init__(
        self,
        known_hosts: KnownHosts,
        host: str,
        port: int,
        accept_new: bool | HostKeyVerifier,
        hash_names: bool,
    ) -> None:
        self._known_hosts = known_hosts
        self._name = host_name(host, port)
        self._host = host
        self._port = port
        self._accept_new = accept_new
        self._hash_names = hash_names

    async def __call__(self, presented: PresentedHostKey) -> bool:
        """Return True for a key of the host.

        :param presented: the key that the server proved to hold
        :raises HostKeyError: it is any other key; the message says what is known and what to do
        """
        findings = self._known_hosts._find(self._host, self._port)
        if presented.certificate is not None:
            try:
                self._check_certificate(presented.certificate, findings)
            except CertificateError as error:
                await self._verify_key(replace(presented, certificate=None), findings, error)
            return True
        await self._verify_key(presented, findings, None)
        return True

    @property
    def takes_certificates(self) -> bool:
        """Whether an authority is trusted to certify the host."""
        return bool(self._known_hosts.authorities_for(self._host, self._port))

    def _check_certificate(self, certificate: Certificate, findings: _Findings) -> None:
        check_host_certificate(
            certificate,
            findings.good_keys(HostMarker.CERT_AUTHORITY),
            self._host,
            now=time.time(),
            revoked={
                entry.key.fingerprint
                for entry in findings.lines(HostMarker.REVOKED)
                if entry.key is not None
            },
        )

    async def _verify_key(
        self,
        presented: PresentedHostKey,
        findings: _Findings,
        problem: CertificateError | None,
    ) -> None:
        """Return for a key that is known or may be added; raise for any other.

        :param problem: what was wrong with its certificate
        """
        key = presented.key
        if findings.may_be_added(key) and await self._is_welcome(presented):
            # Another session may have added a key while accept_new was being asked.
            findings = self._known_hosts._find(self._host, self._port)
            if findings.may_be_added(key):
                await self._add(key)
                return
        text = _unknown(key, findings, self._known_hosts)
        match findings.status_of(key):
            case HostKeyStatus.KNOWN:
                return
            case HostKeyStatus.REVOKED:
                text = _revoked(key, findings)
            case HostKeyStatus.CHANGED:
                text = _changed(key, findings)
        if problem is not None:
            text += f"; its certificate: {problem}"
        elif findings.good_keys(HostMarker.CERT_AUTHORITY):
            text += "; the host is known by its certificates, and showed none"
        raise _refusal(key, text) from problem

    async def _is_welcome(self, presented: PresentedHostKey) -> bool:
        if isinstance(self._accept_new, bool):
            return self._accept_new
        return await self._accept_new(presented) is True

    def preferred(self, algorithms: Sequence[str]) -> tuple[str, ...]:
        """Return host key algorithms with those first for which a key is known.

        A server with keys of several types should present one that is known.

        :param algorithms: the configured algorithms, in order of preference
        """
        known = {key.algorithm for key in self._known_hosts.keys_for(self._host, self._port)}
        return tuple(sorted(algorithms, key=lambda name: _key_type(name) not in known))

    async def _add(self, key: Key) -> None:
        try:
            await self._known_hosts._add(key, self._name, self._hash_names)
        except OSError as error:
            message = f"{self._name} is not known yet, and its key cannot be saved: {error}"
            raise _refusal(key, message) from error


def _key_type(algorithm: str) -> str:
    with suppress(ValueError):
        return key_type_for(algorithm)
    return algorithm


# Messages of refusals


def _refusal(key: Key, message: str) -> HostKeyError:
    return HostKeyError(message, key.fingerprint, key.algorithm)


def _shown(key: Key) -> str:
    return f"it showed the {key.algorithm} key {key.fingerprint}"


def _revoked(key: Key, findings: _Findings) -> str:
    lines = findings.lines(HostMarker.REVOKED, key)
    return f"{findings.name} must not be trusted: {_shown(key)}, revoked by {_listed(lines)}"


def _changed(key: Key, findings: _Findings) -> str:
    known = ", ".join(
        f"{entry.key.fingerprint if entry.key else f'a key of type {entry.key_type}'} ({entry})"
        for entry in findings.own_lines()
    )
    return (
        f"{findings.name} has a different host key than before, or someone impersonates it: "
        f"{_shown(key)}; known is {known}. Only if you are sure that its owner changed the key, "
        f"replace what is known by: {_line(key, findings)}"
    )


def _unknown(key: Key, findings: _Findings, known_hosts: KnownHosts) -> str:
    text = (
        f"the host {findings.name} is not known: {_shown(key)}. If its owner confirms this "
        f"fingerprint, add to {known_hosts.paths[0]}: {_line(key, findings)}"
    )
    if problems := known_hosts.problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        text += f"; a line could not be read: {problems[0]}{more}"
    return text


def _line(key: Key, findings: _Findings) -> str:
    return known_hosts_line(findings.name, key.with_comment(""))


def _listed(entries: Iterable[KnownHostsEntry]) -> str:
    return ", ".join(map(str, entries))


# Files


def _read_file(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_KNOWN_HOSTS_BYTES + 1)
    except FileNotFoundError:
        return ""
    if len(data) > MAX_KNOWN_HOSTS_BYTES:
        raise KeyFormatError(f"{path} has more than {MAX_KNOWN_HOSTS_BYTES} bytes")
    return data.decode(errors="replace")


def _append_line(path: str, line: str) -> None:
    """Append a line in a single write, which no concurrent writer can interleave."""
    Path(path).parent.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    with FileIO(os.open(path, flags, 0o600), "r+") as file:
        size = file.seek(0, os.SEEK_END)
        data = f"{line}\n".encode()
        if size and not _ends_in_line_feed(file):
            data = b"\n" + data
        written = file.write(data)
        if written != len(data):
            # A truncated line could be read as another key. Remove it unless another writer has
            # appended.
            if file.seek(0, os.SEEK_END) == size + written:
                file.truncate(size)
            raise OSError(f"{path}: only {written} of {len(data)} bytes could be written")


def _ends_in_line_feed(file: FileIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
