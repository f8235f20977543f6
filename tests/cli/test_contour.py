"""``anyssh contour``: a contour written by another implementation, in every output format."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from anyssh import SessionContour
from anyssh.cli.contour import to_svg
from tests.unit.test_contour import TEXT

from .program import ROOT


def run(*arguments: object, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "anyssh", "contour", *map(str, arguments)], cwd=ROOT, input=given,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("source", ["text", "file", "input"])
def test_a_drawing_in_the_terminal(source: str, tmp_path: Path) -> None:
    path = tmp_path / "contour.txt"
    path.write_text(TEXT + "\n")
    argument = {"text": TEXT, "file": path, "input": "-"}[source]
    told = run(argument, "--width", "60", given=TEXT)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout == SessionContour.import_(TEXT).draw(60) + "\n"
    assert [line.split()[0] for line in told.stdout.splitlines()[:3]] == [
        "sent", "received", "latency",
    ]  # fmt: skip


def test_a_drawing_for_an_output_that_has_few_characters() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "anyssh", "contour", TEXT], cwd=ROOT, capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"}, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("cp1252").split()[:3] == ["sent", "500", "B/s"], done.stdout


def test_numbers() -> None:
    told = json.loads(run(TEXT, "--json").stdout)
    assert told["interval"] == 2
    assert told["intervals"] == [
        {"start": 0, "bytes_sent": 0, "bytes_received": 2000, "latency_minimum": 0,
         "latency_average": 0, "latency_maximum": 0},
        {"start": 2, "bytes_sent": 1000, "bytes_received": 3008, "latency_minimum": 16,
         "latency_average": 24, "latency_maximum": 32},
        {"start": 4, "bytes_sent": 0, "bytes_received": 0, "latency_minimum": 16,
         "latency_average": 24, "latency_maximum": 32},
    ]  # fmt: skip


def test_a_drawing_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "contour.svg"
    told = run(TEXT, "--svg", "-o", path)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
    root = ElementTree.fromstring(path.read_text())
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert texts == ["1.5 kB/s", "0", "sent", "received", "32 ms", "0", "latency", "0", "6 s"]
    paths = [element.get("d") or "" for element in root.iter() if element.tag.endswith("path")]
    # What was sent: nothing, a third of the highest rate, nothing; latency twice the same.
    assert paths[0].count("h266.67") == 3
    assert paths[0].startswith("M70 170V170.00h266.67V123.46h266.67V170.00")
    assert len(paths) == 4


def test_a_session_that_measured_nothing_can_be_drawn() -> None:
    contour = SessionContour()
    contour.record_sent(0, 5)
    root = ElementTree.fromstring(to_svg(contour))
    assert "not measured" in [element.text for element in root.iter()]


@pytest.mark.parametrize(
    "source,complaint",
    [
        (base64.b64encode(b"\x02\x01\x00\x00\x0b\x01").decode(), "version 2"),
        ("hello", "neither a file nor a contour"),
        ("x" * 5000, "neither a file nor a contour"),
    ],
)
def test_what_is_no_contour(source: str, complaint: str) -> None:
    told = run(source)
    assert (told.returncode, told.stdout) == (255, "")
    (line,) = told.stderr.splitlines()
    assert complaint in line


def test_options_that_exclude_each_other(tmp_path: Path) -> None:
    assert run(TEXT, "--svg", "--json").stderr == "anyssh: --svg and --json exclude each other\n"
    assert "width of at least 40" in run(TEXT, "--width", "3").stderr
    told = run(TEXT, "-o", tmp_path / "no" / "file").stderr
    assert told == f"anyssh: cannot write {tmp_path}/no/file: No such file or directory\n"
