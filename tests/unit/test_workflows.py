"""The workflows run existing sessions, and the templates are as they should be."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"


def sessions() -> set[str]:
    """Return the names of the sessions of ``noxfile.py``."""
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    return {
        node.name.replace("_", "-")
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and any("nox.session" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


def workflow(name: str) -> str:
    return (GITHUB / "workflows" / f"{name}.yml").read_text()


def named_sessions(text: str) -> set[str]:
    named = set(re.findall(r"nox --session ([a-z]+)", text))
    for group in re.findall(r"session: \[([^]]*)\]", text):
        named |= {name.strip() for name in group.split(",")}
    return named


@pytest.mark.parametrize("name", ["ci", "release"])
def test_a_workflow_runs_sessions_that_exist(name: str) -> None:
    named = named_sessions(workflow(name))
    assert named
    assert named <= sessions()


def test_every_session_runs_somewhere() -> None:
    assert sessions() - named_sessions(workflow("ci")) == {"bench", "interop-table"}


def test_the_workflow_has_every_supported_python() -> None:
    declared = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    (group,) = re.findall(r"python: \[([^]]*)\]", workflow("ci"))
    assert re.findall(r"3\.\d+", group) == declared


def test_workflows_may_only_read_the_repository() -> None:
    for path in (GITHUB / "workflows").glob("*.yml"):
        assert "\npermissions:\n  contents: read\n" in path.read_text(), path.name


def test_the_checks_of_the_guide_are_the_sessions() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"^\| `nox -s ([\w-]+)`", guide, re.M)) == sessions()
