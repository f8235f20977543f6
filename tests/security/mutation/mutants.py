"""Changes to a module's source, one at a time, made on its syntax tree.

Excluded are texts for people (docstrings, error messages, ``repr``), annotations, decorators, and
lists of names.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

__all__ = ["Mutant", "mutants_of", "mutated"]

COMPARISONS: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
RECEIVERS: Final = {
    "_BOTH": ("_CLIENT", "_SERVER"),
    "_CLIENT": ("_SERVER", "_BOTH"),
    "_SERVER": ("_CLIENT", "_BOTH"),
}
"""Of the table of legal messages."""
SKIPPED_NAMES: Final = frozenset({"__all__", "__slots__"})
SKIPPED_FUNCTIONS: Final = frozenset({"__repr__", "__str__"})


class Mutant(NamedTuple):
    """One change.

    :ivar scope: the outermost function that it is in, or ``""``
    """

    module: str
    number: int
    line: int
    scope: str
    what: str

    @property
    def name(self) -> str:
        """What names the change, until the source changes."""
        return f"{self.module}:{self.line}: {self.what}"


def mutants_of(module: str, source: str) -> Iterator[Mutant]:
    """Yield every change to a module."""
    visitor = _Visitor(None)
    visitor.visit(ast.parse(source))
    for number, (line, scope, what) in enumerate(visitor.seen):
        yield Mutant(module, number, line, scope, what)


def mutated(source: str, mutant: Mutant) -> ast.Module:
    """Return the syntax tree of the changed module."""
    visitor = _Visitor(mutant.number)
    tree = visitor.visit(ast.parse(source))
    if len(visitor.seen) <= mutant.number:
        raise ValueError(f"the source has no change {mutant.number}")
    return ast.fix_missing_locations(tree)


class _Visitor(ast.NodeTransformer):
    """Counts changes in the order of the source, and makes the one that is wanted."""

    def __init__(self, wanted: int | None) -> None:
        self.wanted = wanted
        self.seen: list[tuple[int, str, str]] = []
        self._scopes: list[str] = []
        self._function = ""
        self._is_said = False

    def visit(self, node: ast.AST) -> Any:
        if _is_skipped(node):
            return node
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        before = self._function, self._is_said
        if is_function or isinstance(node, ast.ClassDef):
            self._scopes.append(node.name)  # type: ignore[union-attr]
            if is_function and not self._function:
                self._function = ".".join(self._scopes)
        if isinstance(node, ast.Raise | ast.JoinedStr):
            self._is_said = True
        replacement = self._change(node)
        result = self.generic_visit(node) if replacement is None else replacement
        self._function, self._is_said = before
        if is_function or isinstance(node, ast.ClassDef):
            self._scopes.pop()
        return result

    def generic_visit(self, node: ast.AST) -> ast.AST:
        kept = {}
        for field in ("annotation", "returns", "decorator_list", "bases", "keywords"):
            if field == "keywords" and not isinstance(node, ast.ClassDef):
                continue
            if getattr(node, field, None):
                kept[field] = getattr(node, field)
                setattr(node, field, [] if isinstance(kept[field], list) else None)
        super().generic_visit(node)
        for field, value in kept.items():
            setattr(node, field, value)
        return node

    def _change(self, node: ast.AST) -> ast.AST | None:
        """Return what stands in a node's place, None unless it is the wanted one."""
        chosen = None
        for what, replacement in _changes(node, self._is_said):
            if len(self.seen) == self.wanted:
                chosen = ast.copy_location(replacement, node)
            self.seen.append((getattr(node, "lineno", 0), self._function, what))
        return chosen


def _is_skipped(node: ast.AST) -> bool:
    match node:
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.FunctionDef(name=name):
            return name in SKIPPED_FUNCTIONS
        case ast.Assign(value=ast.Subscript(value=ast.Name(id="tuple" | "Callable"))):
            return True  # the name of a type
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name in SKIPPED_NAMES
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Import() | ast.ImportFrom():
            return True
    return False


def _changes(node: ast.AST, is_said: bool) -> Iterator[tuple[str, ast.AST]]:
    """Yield every change of one node alone, with words for it."""
    match node:
        case ast.Compare():
            yield from _comparisons(node)
        case ast.BinOp(op=operator) if type(operator) in OPERATORS and not is_said:
            yield _with(node, op=OPERATORS[type(operator)]())
        case ast.AugAssign(op=operator) if type(operator) in OPERATORS:
            yield _with(node, op=OPERATORS[type(operator)]())
            yield _deleted(node)
        case ast.BoolOp(op=ast.And()):
            yield _with(node, op=ast.Or())
        case ast.BoolOp(op=ast.Or()):
            yield _with(node, op=ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield _words(node, operand), operand
        case ast.If() | ast.While() | ast.IfExp():
            negated = ast.UnaryOp(ast.Not(), node.test)
            changed = copy.copy(node)
            changed.test = negated
            yield f"{ast.unparse(node.test)} -> {ast.unparse(negated)}", changed
        case ast.Constant():
            yield from _constants(node, is_said)
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield _with(node, value=ast.Constant(None))
        case ast.Raise() | ast.Delete():
            yield _deleted(node)
        case ast.Expr(value=ast.Call() | ast.Await()):
            yield _deleted(node)
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield _deleted(node)
        case ast.Attribute(value=ast.Name(id="Condition"), attr=name) if name != "ALWAYS":
            yield _with(node, attr="ALWAYS")
        case ast.Attribute(value=ast.Name(id="Disposition"), attr=name) if name != "HANDLE":
            yield _with(node, attr="HANDLE")
        case ast.Name(id=name, ctx=ast.Load()) if name in RECEIVERS:
            for other in RECEIVERS[name]:
                yield _with(node, id=other)
        case ast.Break():
            yield "break -> continue", ast.Continue()
        case ast.Continue():
            yield "continue -> break", ast.Break()
        case ast.Tuple(elts=elements, ctx=ast.Load()) if len(elements) > 1 and not is_said:
            for index in range(len(elements)):
                rest = [element for place, element in enumerate(elements) if place != index]
                gone = ast.unparse(elements[index])
                yield f"without {gone} in a tuple", ast.Tuple(rest, ast.Load())


def _comparisons(node: ast.Compare) -> Iterator[tuple[str, ast.AST]]:
    for index, operator in enumerate(node.ops):
        for other in COMPARISONS[type(operator)]:
            yield _with(node, ops=[*node.ops[:index], other(), *node.ops[index + 1 :]])


def _constants(node: ast.Constant, is_said: bool) -> Iterator[tuple[str, ast.AST]]:
    match node.value:
        case bool(value):
            yield _with(node, value=not value)
        case int(value) | float(value):
            yield _with(node, value=value + 1)
        case bytes(value):
            yield _with(node, value=value + b"X")
        case str(value) if not is_said:
            yield _with(node, value=value + "X")


def _with(node: Any, **fields: Any) -> tuple[str, ast.AST]:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return _words(node, changed), changed


def _deleted(node: ast.AST) -> tuple[str, ast.AST]:
    return f"without {ast.unparse(node)}", ast.Pass()


def _words(before: ast.AST, after: ast.AST) -> str:
    first, second = (ast.unparse(ast.fix_missing_locations(x)) for x in (before, after))
    return f"{first} -> {second}"


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None
