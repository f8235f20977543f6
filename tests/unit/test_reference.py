"""The reference is complete: each public name is on its pages, each parameter is explained."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

DOCS: Final = Path(__file__).parents[2] / "docs"

DIRECTIVE: Final = re.compile(r"^\.\. (auto\w+|py:data|currentmodule):: (\S+)$", re.M)
REFERENCE: Final = re.compile(r":(?:func|meth|class):`[^`]*?([\w.]+)>?`")
FIELD: Final = r":(?:param|ivar|cvar) {name}:|``{name}``"

# What only the library calls, and so is not on the pages.
HIDDEN: Final = {
    "anyssh.PortForwarding": {
        "carry", "carry_incoming", "connect", "connect_to_port", "expect", "forget", "granted",
        "note_channel", "on_channel_opening", "on_session_request", "open", "wait_for_port",
    },
    "anyssh.RemoteForward": {"take"},
    "anyssh.RemoteListener": {"take"},
}  # fmt: skip


def is_public(module: ModuleType) -> bool:
    return hasattr(module, "__all__") and module.__name__ != "anyssh.__main__"


def public_modules() -> dict[str, ModuleType]:
    """Give the package, its public modules, and those with pages of their own."""
    package = importlib.import_module("anyssh")
    modules = {"anyssh": package}
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.ismodule(value):
            modules[f"anyssh.{name}"] = value
    for page in sorted((DOCS / "api").glob("*.md")):
        for kind, name in DIRECTIVE.findall(page.read_text()):
            if kind in ("automodule", "currentmodule"):
                modules[name] = importlib.import_module(name)
    return {name: module for name, module in modules.items() if is_public(module)}


MODULES: Final = public_modules()


def names_on_the_pages() -> set[str]:
    found: set[str] = set()
    for page in (DOCS / "api").glob("*.md"):
        current = "anyssh"
        for kind, name in DIRECTIVE.findall(page.read_text()):
            full = name if name.startswith("anyssh.") or name == "anyssh" else f"{current}.{name}"
            if kind == "currentmodule":
                current = name
            elif kind == "automodule":
                members = MODULES[name].__all__ if name in MODULES else []
                found |= {f"{name}.{member}" for member in members} | {name}
            else:
                found.add(full)
    return found


def public_names() -> Iterator[str]:
    for module, value in MODULES.items():
        for name in value.__all__:
            if name != "__version__" and not inspect.ismodule(getattr(value, name)):
                yield f"{module}.{name}"


def look_up(name: str) -> Any:
    module = max((name_ for name_ in MODULES if name.startswith(f"{name_}.")), key=len)
    found: Any = MODULES[module]
    for step in name.removeprefix(f"{module}.").split("."):
        found = getattr(found, step)
    return found


def is_on_the_pages(name: str, pages: set[str]) -> bool:
    """Tell whether a name, or the same object under its other public name, is documented."""
    if name in pages:
        return True
    value = look_up(name)
    same = (f"{module}.{name.rpartition('.')[2]}" for module in MODULES)
    return any(other in pages and look_up(other) is value for other in same)


def test_every_public_name_is_on_the_pages() -> None:
    pages = names_on_the_pages()
    assert [name for name in public_names() if not is_on_the_pages(name, pages)] == []


def test_every_name_on_the_pages_is_public() -> None:
    for name in sorted(names_on_the_pages() - set(MODULES)):
        if not inspect.ismodule(sys.modules.get(name)):
            look_up(name)


def documentation(value: Any) -> str:
    """Return the docstring; of a class, with those of its bases, whose fields it has too."""
    if not inspect.isclass(value):
        return inspect.getdoc(value) or ""
    ours = [base for base in value.__mro__ if base.__module__.startswith("anyssh")]
    return "\n".join(base.__doc__ or "" for base in ours)


def documented(value: Any) -> str:
    """Return the docstring, with those of what it refers to for its parameters."""
    text, seen = documentation(value), {id(value)}
    names = [(name, value.__module__) for name in REFERENCE.findall(text)]
    while names:
        name, home = names.pop()
        other = resolved(name, home)
        if other is not None and id(other) not in seen:
            seen.add(id(other))
            more = documentation(other)
            text += "\n" + more
            names += [(name, other.__module__) for name in REFERENCE.findall(more)]
    return text


def resolved(name: str, home: str) -> Any:
    """Return what a name in a docstring means, seen from the package or from its own module."""
    for module in ("anyssh", home):
        found: Any = importlib.import_module(module)
        for step in name.removeprefix("anyssh.").split("."):
            found = getattr(found, step, None)
        if found is not None:
            return found
    return None


def unexplained(call: Callable[..., Any], text: str) -> list[str]:
    """Return the parameters that a docstring says nothing about."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(call).parameters.values()
    named = [p.name for p in parameters if p.kind not in kinds and p.name not in ("self", "cls")]
    return [name for name in named if not re.search(FIELD.format(name=name), text)]


def is_constructed(name: str, value: type) -> bool:
    """Tell whether applications make objects of a class, and need to know its parameters.

    The fields of a message are those of the RFC.
    """
    is_hidden = f'"{name}"' in (DOCS / "conf.py").read_text()
    is_made_by_us = is_hidden or value.__module__.startswith("anyssh.messages.")
    is_protocol = getattr(value, "_is_protocol", False)
    return not (is_made_by_us or is_protocol or issubclass(value, (enum.Enum, BaseException)))


def calls_of(name: str, value: Any) -> Iterator[tuple[str, Callable[..., Any], str]]:
    """Give what one can call of a public name, and the text that should explain it."""
    if inspect.isclass(value):
        has_own = "__init__" in vars(value) or dataclasses.is_dataclass(value)
        if has_own and is_constructed(name, value):
            yield f"{name}()", value.__init__, documented(value)
        for member, attribute in vars(value).items():
            function = getattr(attribute, "__func__", attribute)
            is_hidden = member.startswith("_") or member in HIDDEN.get(name, ())
            if inspect.isfunction(function) and not (is_hidden or is_of_others(value, member)):
                yield f"{name}.{member}", function, documented(getattr(value, member))
    elif inspect.isfunction(value):
        yield name, value, documented(value)


def is_of_others(value: type, member: str) -> bool:
    """Tell whether a method is there for another library, whose documentation explains it."""
    ours = ("anyssh", "anyio", "builtins", "abc")
    others = [base for base in value.__mro__ if base.__module__.split(".")[0] not in ours]
    return any(member in vars(base) for base in others)


def distinct_names() -> list[str]:
    """Give public names, one for each object."""
    seen: dict[int, str] = {}
    for name in public_names():
        value = look_up(name)
        if inspect.isclass(value) or inspect.isfunction(value):
            seen.setdefault(id(value), name)
    return list(seen.values())


@pytest.mark.parametrize("name", distinct_names())
def test_the_docstring_explains_every_parameter(name: str) -> None:
    missing = []
    for call, function, text in calls_of(name, look_up(name)):
        assert text, f"{call} has no docstring"
        missing += [f"{call}: {parameter}" for parameter in unexplained(function, text)]
    assert missing == []


@pytest.mark.parametrize("name", distinct_names())
def test_every_attribute_has_a_docstring(name: str) -> None:
    value = look_up(name)
    assert documentation(value).strip()
    if inspect.isclass(value):
        silent = [
            member
            for member, attribute in vars(value).items()
            if isinstance(attribute, property)
            and not member.startswith("_")
            and not inspect.getdoc(attribute)
        ]
        assert silent == []


def test_a_parameter_without_a_word_is_noticed() -> None:
    def call(one: int, two: int) -> None:
        """Do it.

        :param one: this
        """

    assert unexplained(call, documented(call)) == ["two"]
