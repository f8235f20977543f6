"""Which test shows which requirement, determined from the tests themselves.

A test names what it shows by a label such as HR-52 or T-30 in its docstring; a label in the
docstring of its class or module applies to all of it. ``HR-65/66`` and ``T-50 to T-52`` name each
of them. The requirements are in ``hardening.toml``.

``python -m tests.security.index`` writes the table of ``docs/security-tests.md``, and the tables of
limits in ``docs/results``.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import anyssh

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
PAGE = DOCS / "security-tests.md"
LIMIT_TABLES: dict[type, Path] = {
    anyssh.Limits: DOCS / "results" / "limits.md",
    anyssh.ServerLimits: DOCS / "results" / "server-limits.md",
}

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

# Split, so that this file names nothing.
_LABEL = re.compile(r"\b(HR|T)-(\d\d)((?:/\d\d)*)(?:(?: to |\.\.|–)(?:HR|T)-(\d\d))?")

INTRODUCTION = """\
# What tests show

Each requirement for dealing with hostile peers and each planned test, with the tests that cover it.
`python -m tests.security.index` generates the table from the docstrings of the tests;
`tests/security/test_index.py` fails if it is out of date, or if a requirement has no test.
[Security](security.md) gives the overview.
"""


def wanted() -> dict[str, dict[str, str]]:
    """Return what is required and planned, by kind: each label with what it says."""
    return tomllib.loads(Path(__file__).with_name("hardening.toml").read_text(encoding="utf-8"))


def labels(text: str) -> set[str]:
    """Return all labels that a text names."""
    found = set()
    for kind, first, more, last in _LABEL.findall(text):
        numbers = range(int(first), int(last or first) + 1)
        found |= {f"{kind}-{number:02}" for number in numbers}
        found |= {f"{kind}-{number}" for number in more.split("/") if number}
    return found


def named(source: str) -> Iterator[tuple[str, str]]:
    """Yield each label of a module with the test, class or "" for the module that names it."""
    yield from _named_in(ast.parse(source), "")


def _named_in(node: ast.Module | _Definition, name: str) -> Iterator[tuple[str, str]]:
    yield from ((label, name) for label in labels(ast.get_docstring(node) or ""))
    for child in node.body:
        if isinstance(child, ast.ClassDef) or (
            isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            and child.name.startswith(("test_", "check_"))
        ):
            yield from _named_in(child, f"{name}::{child.name}" if name else child.name)


@cache
def index() -> dict[str, list[str]]:
    """Return the tests that name each label, as ``directory/file.py::test``."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        file = path.relative_to(TESTS).as_posix()
        for label, test in named(path.read_text(encoding="utf-8")):
            found.setdefault(label, []).append(f"{file}::{test}" if test else file)
    return found


def page() -> str:
    """Return the page that tells which test shows what."""
    found = index()
    lines = [INTRODUCTION]
    for title, kind in (("Requirements", "requirements"), ("Planned tests", "tests")):
        lines += [f"## {title}", "", "| | what | where |", "|---|---|---|"]
        for label, text in wanted()[kind].items():
            places = "<br>".join(f"`{place}`" for place in sorted(set(found.get(label, []))))
            lines.append(f"| {label} | {text} | {places} |")
        lines.append("")
    return "\n".join(lines)


def limit_table(limits: type) -> str:
    """Return the table of a class of limits: each field, its default, and what it bounds."""
    words = dict(re.findall(r":ivar (\w+): ((?:.|\n)*?)(?=\n *:ivar|\s*\Z)", limits.__doc__ or ""))
    lines = ["| field | default | what |", "|---|---|---|"]
    for field in dataclasses.fields(limits):
        text = re.sub(r"\s+", " ", words[field.name]).replace("``", "`")
        text = re.sub(r":meth:`([^`]+)`", r"`\1`", text)
        lines.append(f"| `{field.name}` | {_shown(field.name, field.default)} | {text} |")
    return "\n".join(lines) + "\n"


def _shown(name: str, value: object) -> str:
    match value:
        case tuple():
            return ", ".join(f"`{item}`" for item in value)
        case int() if name.endswith(("bytes", "size", "memory", "output", "answers")):
            for unit, size in (("MiB", 1024**2), ("KiB", 1024)):
                if value % size == 0:
                    return f"{value // size} {unit}"
            return f"{value:,} bytes"
        case float() if name.endswith(("time", "penalty", "interval")):
            return f"{value:g} s"
        case int():
            return f"{value:,}"
        case _:
            return f"{value:g}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    for limits, path in LIMIT_TABLES.items():
        path.write_text(limit_table(limits), encoding="utf-8")
