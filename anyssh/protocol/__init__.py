"""The SSH protocol without input, output, clocks or randomness.

A :class:`Core` is fed bytes and the time and tells what they mean; see ``docs/design.md``.
"""

from __future__ import annotations

from .acceptance import Phase, Role
from .connection import Connection
from .core import Core

__all__ = ["Connection", "Core", "Phase", "Role"]
