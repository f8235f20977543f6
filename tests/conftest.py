"""What all tests share: the backends, and a time limit that works on each of them.

Every coroutine test runs on asyncio, uvloop and Trio, through AnyIO's plugin. A test that needs
Trio's own instruments is marked ``@pytest.mark.trio`` and runs under pytest-trio only, with
``autojump_clock`` and the like.

A hanging coroutine test is cancelled from inside its own event loop after two thirds of its
``timeout``, as uvloop and Trio do not notice a signal. If that does not help, pytest-timeout ends
the whole run and shows all stacks.

While a coroutine test runs on asyncio or uvloop, a blocking call made by anyssh raises
``BlockingError``; ``@pytest.mark.blocking_allowed`` permits it.

pytest rewrites every ``assert`` below ``tests``, including those of helpers, so tests can fail
under ``python -O`` as well; the package itself has none.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Awaitable, Callable, Iterator
from inspect import iscoroutinefunction
from typing import Any

import anyio
import pytest
from hypothesis import settings

import anyssh

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("trio", {}), id="trio"),
]
if sys.implementation.name == "cpython" and sys.platform != "win32":
    BACKENDS.insert(1, pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))

NIGHTLY_EXAMPLES = 5_000

for _name in anyssh.__all__:
    getattr(anyssh, _name)  # what is imported by its first use would block the event loop there

for _part in (
    "authority",
    "conformance",
    "examples",
    "interop",
    "protocol",
    "security",
    "session",
):
    # Below tests, which is no package itself, what is imported relatively has the shorter name.
    pytest.register_assert_rewrite(f"tests.{_part}", _part)

settings.register_profile("default", deadline=None)
settings.register_profile("nightly", deadline=None, max_examples=NIGHTLY_EXAMPLES)
settings.load_profile("default")


@pytest.fixture(scope="module", params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loop that a coroutine test runs on."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> None:
    """Give every coroutine test to AnyIO's plugin, but for those that are pytest-trio's."""
    if not collector.istestfunction(obj, name):
        return
    test = obj.hypothesis.inner_test if hasattr(obj, "hypothesis") else obj
    marks = [*collector.iter_markers(), *getattr(obj, "pytestmark", [])]
    if iscoroutinefunction(test) and not any(mark.name == "trio" for mark in marks):
        pytest.mark.usefixtures("anyio_backend")(obj)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through all collected tests again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Give a coroutine test a time limit inside its event loop."""
    backend = pyfuncitem.funcargs.get("anyio_backend")
    if backend is None or not iscoroutinefunction(pyfuncitem.obj):
        return
    if "clock" in backend[1]:  # virtual time would jump to the limit
        return
    marker = pyfuncitem.get_closest_marker("timeout")
    limit = float(marker.args[0] if marker else pyfuncitem.config.getini("timeout")) * 2 / 3
    pyfuncitem.obj = _limited(pyfuncitem.obj, limit)


def _limited(test: Callable[..., Awaitable[None]], limit: float) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        where: BaseException | None = None
        with anyio.move_on_after(limit) as scope:
            try:
                await test(*args, **kwargs)
            except BaseException as error:
                where = error
                raise
        if scope.cancelled_caught:
            raise TimeoutError(f"the test still ran after {limit:g} seconds") from where

    return run


@pytest.fixture(autouse=True)
def _no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make calls of anyssh that block the event loop raise, where there is one."""
    watched = (
        "anyio_backend" in request.fixturenames
        and sys.implementation.name == "cpython"
        and request.node.get_closest_marker("blocking_allowed") is None
    )
    if not watched:
        yield
        return
    from blockbuster import blockbuster_ctx

    with blockbuster_ctx("anyssh"):
        yield
