"""The examples of the documentation, extracted from its pages for tests that run them.

A test declares with :func:`executes` which examples it runs; another test reads these declarations
and reports examples that none runs.
"""

from __future__ import annotations

import ast
import inspect
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import chain
from pathlib import Path
from types import CodeType
from typing import Any

import anyio

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    chain(
        [ROOT / "README.md", ROOT / "CONTRIBUTING.md"],
        (ROOT / "docs").glob("*.md"),
        ROOT.glob("docs/[!_]*/**/*.md"),
    )
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
PORT = "2222"

_fetched: set[str] = set()


def blocks(page: str | Path) -> list[str]:
    """Return the examples of a page, in order."""
    found = BLOCK.findall((ROOT / page).read_text())
    _fetched.update(found)
    return found


def block_with(page: str, text: str) -> str:
    """Return the one example of a page that holds a text."""
    (found,) = [block for block in BLOCK.findall((ROOT / page).read_text()) if text in block]
    _fetched.add(found)
    return found


def executes(page: str, *texts: str) -> Callable[[Any], Any]:
    """Say that a test runs the examples of a page that hold these texts; all, if none is given.

    The test fails if it did not even look at one of them.
    """

    def decorate(test: Any) -> Any:
        if inspect.iscoroutinefunction(test):

            @wraps(test)
            async def run_later(*args: Any, **kwargs: Any) -> None:
                _fetched.clear()
                await test(*args, **kwargs)
                check()

            return run_later

        @wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            _fetched.clear()
            test(*args, **kwargs)
            check()

        return run

    def check() -> None:
        missed = [block for block in claimed(page, texts) if block not in _fetched]
        assert missed == [], "the test does not run what it says"

    return decorate


def claimed(page: str, texts: tuple[str, ...]) -> list[str]:
    """Return the examples that the arguments of :func:`executes` stand for."""
    found = BLOCK.findall((ROOT / page).read_text())
    for text in texts:
        assert sum(text in block for block in found) == 1, f"{page}: {text!r} is not in one example"
    return [block for block in found if not texts or any(text in block for text in texts)]


def claims() -> Iterator[tuple[str, str]]:
    """Read the tests; give each example that one of them says it runs, with its page."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "node_modules" in path.parts or "executes" not in (source := path.read_text()):
            continue
        tree = ast.parse(source)
        constants = {
            target.id: value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target, value in [(node.targets[0], node.value)]
            if isinstance(target, ast.Name) and isinstance(value, ast.Constant)
        }
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id="executes"), args=arguments):
                    page, *texts = (_literal(argument, constants) for argument in arguments)
                    yield from ((page, block) for block in claimed(page, tuple(texts)))


def _literal(argument: ast.expr, constants: dict[str, Any]) -> Any:
    if isinstance(argument, ast.Name):
        return constants[argument.id]
    return ast.literal_eval(argument)


def compiled(block: str) -> CodeType:
    """Compile an example; it may await outside of functions."""
    code: CodeType = compile(block, "example", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return code


async def run_block(block: str, names: dict[str, Any]) -> None:
    """Run an example in a namespace."""
    outcome = eval(compiled(block), names)  # noqa: S307
    if outcome is not None:
        await outcome


def free_port() -> str:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


@contextmanager
def running(
    program: str, folder: Path, *arguments: str, name: str = "server.py"
) -> Iterator[tuple[str, str]]:
    """Run a program that serves; give its port and the last word of its first line."""
    with running_process(program, folder, *arguments, name=name) as (port, word, _):
        yield port, word


@contextmanager
def running_process(
    program: str, folder: Path, *arguments: str, name: str = "server.py"
) -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    """Do as :func:`running`; give the process too."""
    port = free_port()
    assert PORT in program
    path = folder / name
    path.write_text(program.replace(PORT, port))
    with subprocess.Popen(
        [sys.executable, "-u", path, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True,
        env={"PYTHONPATH": str(ROOT)},
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            word = server.stdout.readline().split()[-1]
            while True:  # the first line comes just before the port is open
                with socket.socket() as trial:
                    if trial.connect_ex(("127.0.0.1", int(port))) == 0:
                        break
            yield port, word, server
        finally:
            server.kill()


def run_program(
    program: str, folder: Path, *arguments: str, port: str = PORT, home: Path | None = None
) -> tuple[int, str, str]:
    """Run a program to its end; return its status and what it wrote."""
    path = folder / "program.py"
    path.write_text(program.replace(PORT, port))
    done = subprocess.run(
        [sys.executable, path, *arguments], cwd=folder, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT)} | ({"HOME": str(home)} if home else {}),
        timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something that comes about in another process."""
    while not condition():  # noqa: ASYNC110
        await anyio.sleep(0.01)
