"""The checks, one session each. ``nox`` runs those for every change; ``nox --list`` lists all.

With ``nox --no-venv --no-install`` they run in the environment of nox itself.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
NIGHTLY = {
    "ANYSSH_CUT_STRIDE": "1",
    "ANYSSH_EXAMPLES": "5000",
    "ANYSSH_KILLS": "30",
    "ANYSSH_LIVES": "20000",
    "ANYSSH_RECONNECTS": "10000",
    "ANYSSH_SESSION_LIVES": "500",
    "ANYSSH_SOCKET_LIVES": "1000",
    "ANYSSH_TINY_MESSAGES": "1000000",
}
"""How long the tests of reconnection and of faults run, unless the environment says otherwise."""
WITHOUT_PEERS = ["--ignore=tests/interop", "-m", "not nightly and not peers"]
LOWEST = [
    "anyio==4.16.*",
    "bcrypt==4.1.*",
    "cryptography==45.*",
    "cyclopts==5.4.*",
    "httpcore==1.0.9",
    "httpx==0.28.*",
    "opentelemetry-sdk==1.30.*",
    "prometheus-client==0.22.*",
    "rich==15.*",
    "trio==0.31.*",
    "wsproto==1.2.*",
]

nox.needs_version = ">=2026.10.20"
nox.options.sessions = ["lint", "typing", "docs", "build", "tests"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"


def install(session: nox.Session, *groups: str) -> None:
    """Install the package as users do, and what else the session needs."""
    needs = [need for group in groups for need in nox.project.dependency_groups(PROJECT, group)]
    session.install("-e", ".", *needs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, likely mistakes, formatting."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Types: strict in the package, complete in the public API, and as applications see them."""
    install(session, "typing")
    session.run("mypy")
    session.run("pyright", "--verifytypes", "anyssh", "--ignoreexternal")
    session.run("mypy", "tests/typing")
    session.run("pyright", "tests/typing")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation; warnings are errors."""
    install(session, "docs")
    session.run("sphinx-build", "-nW", "--keep-going", "-q", "docs", "docs/_build")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests without other programs, on every installed Python."""
    install(session, "test")
    session.run("pytest", *WITHOUT_PEERS, *session.posargs)


@nox.session
def interop(session: nox.Session) -> None:
    """The tests against other SSH programs; installs missing ones if permitted."""
    install(session, "test", "interop")
    session.run("tests/interop/install_peers.sh", "python", external=True)
    session.run("pytest", "tests/interop", "tests/cli", *session.posargs)


@nox.session(name="interop-table")
def interop_table(session: nox.Session) -> None:
    """Run the matrix of algorithms with all peers; write docs/interop.md from what passed."""
    install(session, "test", "interop")
    session.run("tests/interop/install_peers.sh", "python", external=True)
    results = os.path.join(session.create_tmp(), "results")
    if os.path.exists(results):
        os.remove(results)
    matrix = ["tests/interop/test_matrix.py", "-k", "test_cells", "--numprocesses", "auto"]
    environment = {"ANYSSH_INTEROP_RESULTS": results, "CI": "true"}
    session.run("pytest", *matrix, *session.posargs, env=environment)
    session.run("python", "-m", "tests.interop.table", results)


@nox.session
def lowest(session: nox.Session) -> None:
    """The tests with the oldest supported libraries."""
    install(session, "test")
    session.install(*LOWEST, "pytest<9.2")
    session.run("pytest", *WITHOUT_PEERS, *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """The wheel and the source archive: check their contents, and that they work on their own."""
    session.install(*nox.project.dependency_groups(PROJECT, "release"))
    target = Path(session.create_tmp()) / "dist"
    shutil.rmtree(target, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(target), silent=True)
    archives = sorted(map(str, target.iterdir()))
    session.run("twine", "check", "--strict", *archives)
    session.run("python", "tests/distribution.py", *archives)


@nox.session
def nightly(session: nox.Session) -> None:
    """The tests with many more generated examples, and those too slow for every change."""
    install(session, "test", "interop")
    session.run("tests/interop/install_peers.sh", "python", external=True)
    everything = ["-m", "nightly or not nightly", "--hypothesis-profile=nightly"]
    everything += ["--numprocesses", "auto", "--dist", "worksteal"]
    everything += ["-o", "timeout=3600", "-o", "faulthandler_timeout=3590"]
    session.run("pytest", *everything, *session.posargs, env=NIGHTLY | dict(os.environ))


@nox.session
def optimised(session: nox.Session) -> None:
    """The tests against hostile peers, under python -O."""
    install(session, "test")
    tests = ["tests/unit", "tests/protocol", "tests/session", "tests/security"]
    quiet = "ignore:assertions not in test modules:pytest.PytestConfigWarning"
    session.run("python", "-O", "-m", "pytest", "-W", quiet, *tests, *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzzing: each target for a minute, or for ``-- --seconds N``."""
    install(session, "fuzz")
    session.run("python", "-m", "tests.security.fuzz", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Mutation testing of the core; takes hours. ``-- --sample N`` tries only some mutants."""
    install(session, "test")
    session.run("python", "-m", "tests.security.mutation", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks, side by side with other SSH programs; installs them if permitted."""
    install(session, "bench")
    session.run("benchmarks/install_peers.sh", "python", external=True)
    session.run("python", "-m", "benchmarks", *session.posargs)
