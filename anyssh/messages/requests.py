"""Payloads of the standard channel requests (RFC 4254 section 6).

Each class has its ``request_type``. ``shell`` has no payload, and therefore no class.
"""

from __future__ import annotations

from typing import ClassVar

from .declaration import (
    Structure,
    boolean,
    declared,
    lenient_text,
    string,
    system_text,
    text,
    uint32,
)

__all__ = [
    "EnvRequest",
    "ExecRequest",
    "ExitSignal",
    "ExitStatus",
    "PtyRequest",
    "Signal",
    "SubsystemRequest",
    "WindowChange",
]


@declared
class PtyRequest(Structure):
    """A terminal to allocate (RFC 4254 section 6.2).

    :ivar term: the terminal type, for example ``"xterm-256color"``
    :ivar encoded_modes: opcodes and arguments (section 8)
    """

    request_type: ClassVar[str] = "pty-req"

    term: str = text()
    width_characters: int = uint32()
    height_rows: int = uint32()
    width_pixels: int = uint32(default=0)
    height_pixels: int = uint32(default=0)
    encoded_modes: bytes = string(default=b"")


@declared
class EnvRequest(Structure):
    """An environment variable to set (RFC 4254 section 6.4)."""

    request_type: ClassVar[str] = "env"

    variable_name: str = system_text()
    variable_value: str = system_text()


@declared
class ExecRequest(Structure):
    """A command to run (RFC 4254 section 6.5).

    :ivar command: text; bytes that are not UTF-8 are kept as lone surrogates, as by
        :func:`os.fsdecode`, so that the command can be passed on unchanged
    """

    request_type: ClassVar[str] = "exec"

    command: str = system_text()


@declared
class SubsystemRequest(Structure):
    """A subsystem to start (RFC 4254 section 6.5)."""

    request_type: ClassVar[str] = "subsystem"

    subsystem_name: str = text()


@declared
class WindowChange(Structure):
    """The terminal's new size (RFC 4254 section 6.7)."""

    request_type: ClassVar[str] = "window-change"

    width_characters: int = uint32()
    height_rows: int = uint32()
    width_pixels: int = uint32(default=0)
    height_pixels: int = uint32(default=0)


@declared
class Signal(Structure):
    """A signal to deliver (RFC 4254 section 6.9).

    :ivar signal_name: the name without ``SIG``
    """

    request_type: ClassVar[str] = "signal"

    signal_name: str = text()


@declared
class ExitStatus(Structure):
    """The exit status of a command (RFC 4254 section 6.10)."""

    request_type: ClassVar[str] = "exit-status"

    exit_status: int = uint32()


@declared
class ExitSignal(Structure):
    """The signal that ended a command (RFC 4254 section 6.10)."""

    request_type: ClassVar[str] = "exit-signal"

    signal_name: str = text()
    core_dumped: bool = boolean(default=False)
    error_message: str = lenient_text(default="")
    language: str = lenient_text(default="", optional=True)
