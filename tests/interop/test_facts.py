"""What the documentation says about other packages, compared with the installed packages."""

from __future__ import annotations

import importlib
import inspect
import re
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

import pytest

from tests.interop.facts import NPM, NPM_NAMES, tables
from tests.interop.peers import require_peer
from tests.unit.test_migration import their_names, without_row

COMPARISON = Path(__file__).parents[2] / "docs" / "explanation" / "comparison.md"
EXPORT = re.compile(r"^export \{([^}]*)\}", re.M)
FOLDERS = [NPM / name for name in NPM_NAMES]


def exported(package: ModuleType) -> list[str]:
    """Return what a package offers: its ``__all__``, or all that is no module."""
    if hasattr(package, "__all__"):
        return list(package.__all__)
    return [
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    ]


def test_the_comparison_says_what_the_packages_say() -> None:
    for name in ("asyncssh", "paramiko", "npm"):
        require_peer(name)
    assert tables() in COMPARISON.read_text()


@pytest.mark.parametrize("name", ["asyncssh", "paramiko"])
def test_every_name_of_a_python_package_has_its_row(name: str) -> None:
    require_peer(name)
    package = importlib.import_module(name)
    assert without_row(exported(package), name) == []
    offered = dir(package)
    for pattern in their_names(name):
        assert any(fnmatchcase(one, pattern) for one in offered), f"{name} has no {pattern}"


def test_every_name_of_the_npm_packages_has_its_row() -> None:
    require_peer("npm")
    names = [
        name.strip()
        for folder in FOLDERS
        for group in EXPORT.findall((folder / "index.d.ts").read_text())
        for name in group.split(",")
        if name.strip()
    ]
    assert len(names) > 100
    assert without_row(names, "dev-tunnels-typescript") == []


def test_the_members_of_the_npm_packages_exist() -> None:
    sources = [path for folder in FOLDERS for path in folder.rglob("*.d.ts")]
    texts = {path.name.removesuffix(".d.ts").lower(): path.read_text() for path in sources}
    for name in their_names("dev-tunnels-typescript"):
        owner, _, member = name.partition(".")
        if member:
            assert re.search(rf"\b{member}\b", texts[owner.lower()]), name
