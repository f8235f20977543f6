"""The pytest plugin that runs the tests against one change after another.

First all tests run once, unchanged, in a process of their own that records which functions of the
package each of them calls, and how long it takes. For a change it then takes the tests that call
the changed function, first one of each kind, the fastest first. If what is changed is only set
there, such as a constant, tests that call functions that use it come before others. A process is
forked for each change; it ends with the first test that fails, with the last one, or after a time
limit.
"""

from __future__ import annotations

import ast
import cProfile
import hashlib
import json
import os
import random
import resource
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import pytest

import anyssh
from anyssh.protocol import Phase, Role, acceptance, core

from .equivalent import reason_for
from .mutants import Mutant, mutants_of, mutated
from .patching import Unpatchable, patch_module

__all__ = ["MODULES", "Options", "Plugin", "key_of", "load_results"]

PACKAGE: Final = Path(anyssh.__file__).parent
GROUPS: Final = {
    "packets": (
        "protocol.transport",
        "algorithms.packets",
        "algorithms.clear",
        "algorithms.aes_gcm",
        "algorithms.chacha20_poly1305",
        "algorithms.encrypt_and_mac",
        "algorithms.encrypt_then_mac",
        "algorithms.block_ciphers",
        "algorithms.protection",
    ),
    "acceptance": ("protocol.acceptance",),
    "authentication": (
        "protocol.authentication",
        "protocol.client_authentication",
        "protocol.server_authentication",
    ),
    "reconnect": ("protocol.reconnect", "protocol.journal", "protocol.offline"),
    "key exchange": (
        "protocol.key_exchange",
        "protocol.negotiation",
        "protocol.rekeying",
        "algorithms.agreement",
        "algorithms.finite_field",
        "algorithms.hybrid",
    ),
    "connection": (
        "protocol.core",
        "protocol.connection",
        "protocol.channel",
        "protocol.undecided",
        "protocol.budget",
        "protocol.keep_alive",
    ),
}
MODULES: Final = {
    f"anyssh.{module}": group for group, modules in GROUPS.items() for module in modules
}
LETTERS: Final = {
    Phase.KEY_EXCHANGE: "K",
    Phase.ENCRYPTED: "E",
    Phase.AUTHENTICATION: "A",
    Phase.RUNNING: "R",
    Phase.REKEYING: "X",
}
KILLED, SURVIVED, UNPATCHABLE, SAME = 10, 11, 12, 13
OUTCOMES: Final = {
    KILLED: "killed",
    SAME: "left out",
    UNPATCHABLE: "left out",
    -signal.SIGXCPU: "timeout",
    -signal.SIGKILL: "timeout",
}
ENDLESS: Final = 10.0
"""Seconds of processor time beyond twice what its tests take, after which a change is endless."""
MEMORY: Final = 2 * 1024**3


@dataclass
class Options:
    """What the command line asks for.

    :ivar budget: seconds after which no more changes are begun
    :ivar effort: seconds of tests that a change may take before it counts as a survivor
    """

    folder: Path
    groups: list[str]
    budget: float
    effort: float
    sample: int
    seed: int
    only: str = ""
    again: bool = False


@dataclass
class Profile:
    """What the tests do unchanged: seconds by test, and tests by function."""

    seconds: dict[str, float] = field(default_factory=dict)
    tests: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read what is known already."""
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def save(self, path: Path) -> None:
        """Write what is known."""
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(vars(self)))
        temporary.replace(path)


class Plugin:
    """Takes the place of pytest's own loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.failed = False
        self.why = ""
        self._table = {role: dict(table) for role, table in core._ACCEPTANCE.items()}
        self.items: dict[str, pytest.Item] = {}

    @pytest.hookimpl
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        profile = self._profile()
        results = self._load()
        started = time.monotonic()
        for mutant in self._chosen(results):
            if time.monotonic() - started > self.options.budget:
                break
            results[key_of(mutant)] = outcome = self._try(mutant, profile)
            if outcome == "survived":
                print(f"\nsurvived: {mutant.name}", flush=True)
            self._save(results)
        return True

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed
        if report.failed:
            self.why = report.longreprtext

    # Results of earlier runs

    @property
    def _results(self) -> Path:
        return self.options.folder / "results.json"

    def _load(self) -> dict[str, str]:
        return load_results(self.options.folder)

    def _save(self, results: dict[str, str]) -> None:
        temporary = self._results.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(self._load() | results, indent=1, sort_keys=True))
        temporary.replace(self._results)

    # Which changes

    def _chosen(self, results: dict[str, str]) -> Iterator[Mutant]:
        mutants = [m for m in all_mutants(self.options.groups) if self.options.only in m.name]
        random.Random(self.options.seed).shuffle(mutants)
        if self.options.sample:
            mutants = mutants[: self.options.sample]
        for mutant in mutants:
            known = results.get(key_of(mutant))
            if known == ("survived" if self.options.again else None):
                yield mutant

    # Trying one

    def _try(self, mutant: Mutant, profile: Profile) -> str:
        tests = self._tests(mutant, profile)
        expected = min(self.options.effort, sum(profile.seconds[test] for test in tests))
        process = os.fork()
        if process == 0:
            seconds = int(ENDLESS + 2 * expected)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            os._exit(self._child(mutant, tests, profile))
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return OUTCOMES.get(code, "survived" if code == SURVIVED else "killed")

    def _child(self, mutant: Mutant, tests: list[str], profile: Profile) -> int:
        """Put the change in and run the tests; return what came of it."""
        _be_quiet()
        try:
            patch_module(mutant, mutated(source_of(mutant.module), mutant))
        except Unpatchable:
            return UNPATCHABLE
        except Exception:  # the package could not even be loaded
            return KILLED
        if mutant.module == acceptance.__name__:
            try:
                different = self._differences()
            except TypeError:  # there is no table any more
                return KILLED
            if not different:
                return SAME
            tests = sorted(tests, key=lambda test: not any(place in test for place in different))
        return KILLED if self._run(self._affordable(tests, profile)) else SURVIVED

    def _differences(self) -> set[str]:
        """Return where the table is another one now, as the names of tests begin."""
        return {
            f"[{role.name.lower()}-{LETTERS[phase]}"
            for role in Role
            for phase in LETTERS
            if core._ACCEPTANCE[role][phase] != self._table[role][phase]
        }

    def _run(self, tests: Iterable[str]) -> bool:
        """Run tests until one fails; return whether one did."""
        self.failed = False
        for test in tests:
            item = self.items[test]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            if self.failed:
                return True
        return False

    def _tests(self, mutant: Mutant, profile: Profile) -> list[str]:
        """Return the tests that may notice a change, in the order of running."""
        prefix = mutant.module + ":"
        users: set[str] = set()
        for function in _users(mutant.module, mutant.line):
            users |= set(profile.tests.get(prefix + function, ()))
        if mutant.scope and profile.tests.get(prefix + mutant.scope):
            found = profile.tests[prefix + mutant.scope]
        elif mutant.module.endswith(".acceptance"):
            found = profile.tests["anyssh.protocol.core:Core._receive_by_rule"]
            users = {test for test in found if "/test_acceptance.py" in test}
        else:
            found = sorted(
                {t for key, names in profile.tests.items() if key.startswith(prefix) for t in names}
            )
        known = [test for test in found if test in self.items]
        first = _interleaved([test for test in known if test in users], profile, mutant.number)
        others = [test for test in known if test not in users]
        return first + _interleaved(others, profile, mutant.number)

    def _affordable(self, tests: Iterable[str], profile: Profile) -> Iterator[str]:
        spent = 0.0
        for test in tests:
            spent += profile.seconds[test]
            if spent > self.options.effort:
                return
            yield test

    # The tests, unchanged

    def _profile(self) -> Profile:
        """Return what each test does; run those of which it is not known."""
        path = self.options.folder / "profile.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        process = os.fork()
        if process == 0:
            os._exit(self._measure(path))
        if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != 0:
            raise pytest.UsageError("a test fails without any change")
        return Profile.load(path)

    def _measure(self, path: Path) -> int:
        _be_quiet()
        profile = Profile.load(path)
        modules = {str(path_of(module)): module for module in (*MODULES, "anyssh.protocol.core")}
        for number, test in enumerate(set(self.items) - profile.seconds.keys()):
            watch = cProfile.Profile(builtins=False)
            started = time.process_time()
            watch.enable()
            failed = self._run([test])
            watch.disable()
            if failed:
                path.with_name("failing.txt").write_text(f"{test}\n{self.why}")
                return 1
            profile.seconds[test] = time.process_time() - started
            codes = {entry.code for entry in watch.getstats()}
            for file, name in {(code.co_filename, code.co_qualname) for code in codes}:
                if file in modules:
                    function = f"{modules[file]}:{name.split('.<locals>')[0]}"
                    tests = profile.tests.setdefault(function, [])
                    if test not in tests:
                        tests.append(test)
            if number % 20 == 0:
                profile.save(path)
        profile.save(path)
        return 0


def load_results(folder: Path) -> dict[str, str]:
    """Return what came of which change, by :func:`key_of`."""
    path = folder / "results.json"
    results: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return results


def key_of(mutant: Mutant) -> str:
    """Return what a result is kept under, until the function or the line itself changes."""
    lines = source_of(mutant.module).splitlines()
    start, end = _extent(mutant.module, mutant.scope, mutant.line)
    text = "\n".join(lines[start - 1 : end])
    earlier = lines[: start - 1].count(text)  # lines of a table may say the same
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    place = f"{digest}+{mutant.line - start + earlier}"
    return f"{mutant.module}:{mutant.scope}:{place}: {mutant.what}"


def _extent(module: str, scope: str, line: int) -> tuple[int, int]:
    """Return the first and the last line of a function, or those of one line outside of any."""
    for name, function in _functions_of(module):
        if name == scope and function.lineno <= line <= (function.end_lineno or 0):
            return function.lineno, function.end_lineno or line
    return line, line


@cache
def _functions_of(module: str) -> tuple[tuple[str, ast.FunctionDef], ...]:
    return tuple(_functions(ast.parse(source_of(module)), ""))


def path_of(module: str) -> Path:
    """Return the file of a module of the package."""
    return PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")


def source_of(module: str) -> str:
    """Return the source of a module of the package."""
    return path_of(module).read_text()


def all_mutants(groups: Iterable[str]) -> list[Mutant]:
    """Return the changes to the modules of some groups that make a difference.

    Two that say the same in one line are one.
    """
    found: dict[str, Mutant] = {}
    for module, group in MODULES.items():
        if group in groups:
            for mutant in mutants_of(module, source_of(module)):
                if reason_for(mutant, source_of) is None:
                    found.setdefault(mutant.name, mutant)
    return list(found.values())


@cache
def _users(module: str, line: int) -> frozenset[str]:
    """Return the functions of a module that use what one line of it sets."""
    tree = ast.parse(source_of(module))
    names = {
        target.attr if isinstance(target, ast.Attribute) else target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.lineno <= line
        if node.end_lineno is not None and line <= node.end_lineno
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name | ast.Attribute)
    }
    return frozenset(
        name
        for name, function in _functions(tree, "")
        if not function.lineno <= line <= (function.end_lineno or 0)
        and names & {_named(node) for node in ast.walk(function)}
    )


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield the outermost functions, with the names that profiles know them by."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.FunctionDef):
            yield prefix + child.name, child


def _named(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name, ctx=ast.Load()):
            return name
    return None


def _interleaved(tests: list[str], profile: Profile, seed: int) -> list[str]:
    """Return one test of each kind, then another of each, and so on."""
    chance = random.Random(seed)
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for test in tests:
        kinds[test.partition("[")[0]].append(test)
    ranked = []
    for kind in kinds.values():
        chance.shuffle(kind)
        ranked += [(rank, profile.seconds[test], test) for rank, test in enumerate(kind)]
    return [test for _, _, test in sorted(ranked)]


def _be_quiet() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
