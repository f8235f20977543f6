"""The SSH protocol, sans-IO: no input or output, no clock, no randomness.

A :class:`Core` is fed bytes and the time, and returns events; see ``docs/design.md``.
"""

from __future__ import annotations

from .acceptance import Phase, Role
from .connection import Connection
from .core import Core

__all__ = ["Connection", "Core", "Phase", "Role"]
