"""Checks of arguments, so that mistakes are reported where they were made."""

from __future__ import annotations

__all__ = ["check_type"]


def check_type(name: str, value: object, kind: type) -> None:
    """Check the type of an argument that may be None.

    :raises TypeError: it has another type
    """
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be of type {kind.__name__}, not {type(value).__name__}")
