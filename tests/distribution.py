"""Check the archives of a release: ``python tests/distribution.py WHEEL SDIST``.

Inspects their contents, then installs each into an environment of its own, away from the source,
and uses it there.
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

TRY = """
import anyio, anyssh, importlib.metadata, pathlib, sys
from anyssh.testing import session_pair
assert "site-packages" in anyssh.__file__, anyssh.__file__
assert importlib.metadata.version("anyssh") == anyssh.__version__
assert (pathlib.Path(anyssh.__file__).parent / "py.typed").is_file()
assert "trio" not in sys.modules

async def main():
    async with session_pair() as (client, server), anyio.create_task_group() as tasks:
        async def shout(channel):
            async for chunk in channel:
                await channel.send(chunk.upper())
        tasks.start_soon(server.serve, shout)
        async with await client.open_channel() as channel:
            await channel.send(b"hello")
            assert await channel.receive() == b"HELLO"
        tasks.cancel_scope.cancel()

anyio.run(main)
print("anyssh", anyssh.__version__, "works")
"""


def fail(text: str) -> None:
    sys.exit(f"distribution: {text}")


def sources() -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / "anyssh").rglob("*.py")}


def check_wheel(path: Path) -> None:
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        headers = email.message_from_bytes(wheel.read(metadata))
    code = {name for name in names if name.startswith("anyssh/")}
    if code != sources() | {"anyssh/py.typed"}:
        fail(f"the wheel differs from the source: {sorted(code ^ sources())}")
    others = {name for name in names - code if ".dist-info/" not in name}
    if others:
        fail(f"the wheel has what is not the package: {sorted(others)}")
    if not any(name.endswith("/licenses/LICENSE") for name in names):
        fail("the wheel has no licence")
    check_metadata(headers)


def check_metadata(headers: email.message.Message) -> None:
    version: dict[str, str] = {}
    exec((ROOT / "anyssh" / "_version.py").read_text(), version)  # noqa: S102
    expected = {
        "Name": "anyssh",
        "Version": version["__version__"],
        "License-Expression": "MIT",
        "Requires-Python": ">=3.11",
        "Description-Content-Type": "text/markdown",
    }
    for name, value in expected.items():
        if headers[name] != value:
            fail(f"{name} is {headers[name]!r}, not {value!r}")
    if "Private :: Do Not Upload" in headers.get_all("Classifier", []):
        fail("it may not be uploaded")
    if "# anyssh" not in str(headers.get_payload()):
        fail("the description is not the README")


def check_source(path: Path) -> None:
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    needed = sources() | {
        "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "pyproject.toml",
        "noxfile.py", "run", "docs/conf.py", "docs/index.md", "docs/_static/anyssh.css",
        "tests/conftest.py", "tests/data/keys/NOTICE", "benchmarks/__main__.py",
    }  # fmt: skip
    if missing := needed - names:
        fail(f"the source archive lacks {sorted(missing)}")
    unwanted = ("node_modules", "_build", "__pycache__", ".venv", ".git/", ".hypothesis")
    if found := [name for name in names if any(part in name for part in unwanted)]:
        fail(f"the source archive has what was built: {sorted(found)[:5]}")


def try_out(path: Path) -> None:
    """Install an archive into an environment of its own, and use it there."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

        def run(*arguments: str) -> str:
            done = subprocess.run(
                [python, *arguments], cwd=folder, env=environment, check=True,
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            return done.stdout

        run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(path))
        print(path.name, "->", run("-W", "error", "-c", TRY).strip())
        if "--backend" not in run("-m", "anyssh", "demo", "--help"):
            fail("the demonstration does not explain itself")


def main(*paths: str) -> None:
    wheel, source = sorted(map(Path, paths), key=lambda path: path.suffix != ".whl")
    check_wheel(wheel)
    check_source(source)
    for path in (wheel, source):
        try_out(path.resolve())


if __name__ == "__main__":
    main(*sys.argv[1:])
