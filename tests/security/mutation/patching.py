"""Applies a changed module's code to the package that is already running.

A function gets the code of its changed version, so every reference to it sees the change. Where a
module has code outside of functions, its assignments are repeated in every module that has imported
the name, and so are values computed from them on import.
"""

from __future__ import annotations

import ast
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

from .mutants import Mutant

__all__ = ["Unpatchable", "patch_module", "patched_modules"]


class Unpatchable(Exception):
    """A change that cannot be put in; it is not counted."""


def patch_module(mutant: Mutant, tree: ast.Module) -> None:
    """Put a change in. What it raises may be the change's own fault.

    :raises Unpatchable: it is in a place that is not followed
    """
    module = sys.modules[mutant.module]
    if mutant.scope:
        _patch_function(module, mutant.scope, tree)
        name = mutant.scope.rpartition(".")[2]
        _compute_again({name} | _users(module, {name}))
        return
    changed = _patch_class(module, mutant, tree) or _assign(module, _assignments(tree, mutant.line))
    _compute_again(_users(module, changed))


# Functions


def _patch_function(module: types.ModuleType, scope: str, tree: ast.Module) -> None:
    function = _function(module, scope)
    code = _code(compile(tree, module.__file__ or "", "exec"), scope)
    if code.co_freevars != function.__code__.co_freevars:
        raise Unpatchable(f"{scope} needs other variables")
    function.__code__ = code
    definition = _definition(tree, scope)
    names = vars(module)
    defaults = [_value(default, names) for default in definition.args.defaults]
    function.__defaults__ = tuple(defaults) or None
    keywords = zip(definition.args.kwonlyargs, definition.args.kw_defaults, strict=True)
    function.__kwdefaults__ = {
        argument.arg: _value(default, names) for argument, default in keywords if default
    } or None


def _function(module: types.ModuleType, scope: str) -> types.FunctionType:
    owner: Any = module
    *outer, name = scope.split(".")
    for part in outer:
        owner = getattr(owner, part)
    found = vars(owner).get(name)
    if isinstance(found, property):
        found = found.fget
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    found = inspect.unwrap(found) if callable(found) else found
    if not isinstance(found, types.FunctionType):
        raise Unpatchable(f"{scope} is no function")
    return found


def _code(code: types.CodeType, scope: str) -> types.CodeType:
    for name in scope.split("."):
        inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        named = [constant for constant in inner if constant.co_name == name]
        if len(named) != 1:
            raise Unpatchable(f"{scope} is defined {len(named)} times")
        code = named[0]
    return code


def _definition(tree: ast.AST, scope: str) -> ast.FunctionDef:
    for name in scope.split("."):
        (tree,) = [node for node in ast.iter_child_nodes(tree) if getattr(node, "name", "") == name]
    if not isinstance(tree, ast.FunctionDef):
        raise Unpatchable(f"{scope} is no function")
    return tree


def _value(expression: ast.expr, names: dict[str, Any]) -> Any:
    return eval(compile(ast.Expression(expression), "", "eval"), names)  # noqa: S307


# Assignments


def _assignments(tree: ast.Module, line: int) -> Iterator[ast.stmt]:
    """Yield the assignments from the one with the change on."""
    for statement in tree.body:
        end = statement.end_lineno or statement.lineno
        if isinstance(statement, ast.Assign | ast.AnnAssign) and end >= line:
            yield statement
        elif statement.lineno <= line <= end:
            raise Unpatchable(f"a change in a {type(statement).__name__}")


def _patch_class(module: types.ModuleType, mutant: Mutant, tree: ast.Module) -> set[str]:
    """Make a class's assignment again, if the change is in one."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.lineno <= mutant.line <= (node.end_lineno or 0):
            for statement in node.body:
                if statement.lineno <= mutant.line <= (statement.end_lineno or 0):
                    name = _target(statement)
                    cls = getattr(module, node.name)
                    if node.decorator_list or not name or not isinstance(cls, type):
                        raise Unpatchable("a field of a dataclass")
                    if issubclass(type(cls), type(ast)) or hasattr(cls, "__members__"):
                        raise Unpatchable("a member of an enumeration")
                    value = statement.value  # type: ignore[attr-defined]
                    setattr(cls, name, _value(value, vars(module) | vars(cls)))
                    return {node.name}
            raise Unpatchable("a change in a class")
    return set()


def _target(statement: ast.stmt) -> str:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
            return name
    return ""


def _assign(module: types.ModuleType, statements: Iterator[ast.stmt]) -> set[str]:
    changed = set()
    for statement in statements:
        name = _target(statement)
        if name:
            value = _value(statement.value, vars(module))  # type: ignore[attr-defined]
            _set_everywhere(name, vars(module)[name], value)
            changed.add(name)
    return changed


def _set_everywhere(name: str, before: Any, value: Any) -> None:
    for module in patched_modules():
        if vars(module).get(name) is before:
            setattr(module, name, value)


def patched_modules() -> Iterator[types.ModuleType]:
    """Yield the modules in which names may be set."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("anyssh", "tests") and isinstance(module, types.ModuleType):
            yield module


def _users(module: types.ModuleType, names: set[str]) -> set[str]:
    """Return the functions of a module that use a name, or one another that does."""
    functions = {
        key: _names(value.__code__)
        for key, value in vars(module).items()
        if isinstance(value, types.FunctionType)
    }
    users: set[str] = set()
    while more := {key for key, used in functions.items() if used & (names | users)} - users:
        users |= more
    return users


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _compute_again(functions: set[str]) -> None:
    """Make those assignments of modules again that call one of the functions."""
    for module in patched_modules():
        if not module.__name__.startswith("anyssh") or not functions & vars(module).keys():
            continue
        with open(module.__file__ or "") as file:
            tree = ast.parse(file.read())
        for statement in tree.body:
            name = _target(statement)
            if name and _calls(statement) & functions:
                value = _value(statement.value, vars(module))  # type: ignore[attr-defined]
                _set_everywhere(name, vars(module)[name], value)


def _calls(statement: ast.stmt) -> set[str]:
    return {
        node.func.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
