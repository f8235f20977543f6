"""Integrations whose library is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "module,library,extra",
    [
        ("httpcore", "httpcore", "httpcore"),
        ("httpx", "httpx", "httpx"),
        ("httpx", "httpcore", "httpx"),
        ("opentelemetry", "opentelemetry", "otel"),
        ("prometheus", "prometheus_client", "prometheus"),
    ],
)
def test_what_is_missing_is_told(module: str, library: str, extra: str) -> None:
    program = (
        f"import sys; sys.modules[{library!r}] = None\n"
        f"try: import anyssh.integrations.{module}\n"
        f"except ImportError as error: sys.exit('anyssh[{extra}]' not in str(error))\n"
        "sys.exit(2)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
