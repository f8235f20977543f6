"""The documentation lists every bound with its default, and none can be disabled."""

from __future__ import annotations

import dataclasses

import pytest

from anyssh import Limits, ServerLimits

from .index import LIMIT_TABLES, limit_table

MAY_BE_ZERO = {
    "early_drop_chance",
    "no_login_penalty",
    "failed_login_penalty",
    "protocol_error_penalty",
    "failed_reconnect_penalty",
}
"""Chances and penalties, not bounds."""


@pytest.mark.parametrize("limits", LIMIT_TABLES, ids=lambda limits: limits.__name__)
def test_the_documentation_has_all_limits(limits: type) -> None:
    path = LIMIT_TABLES[limits]
    assert path.read_text(encoding="utf-8") == limit_table(limits), (
        "run python -m tests.security.index"
    )


@pytest.mark.parametrize("limits", LIMIT_TABLES, ids=lambda limits: limits.__name__)
def test_every_limit_is_described(limits: type) -> None:
    for field in dataclasses.fields(limits):
        assert f"| `{field.name}` | " in limit_table(limits)


@pytest.mark.parametrize(
    "limits, name",
    [
        (limits, field.name)
        for limits in (Limits, ServerLimits)
        for field in dataclasses.fields(limits)
        if field.name != "exempt"
    ],
)
def test_no_limit_can_be_turned_off(limits: type, name: str) -> None:
    impossible = [-1, float("nan")] if name in MAY_BE_ZERO else [0, -1, float("nan")]
    for value in impossible:
        with pytest.raises(ValueError, match=name):
            limits(**{name: value})
    with pytest.raises(TypeError):
        limits(**{name: None})
