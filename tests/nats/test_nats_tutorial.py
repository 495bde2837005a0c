"""docs/write-a-backend.md shows the example as it is, and its own backend is right."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

import botsessions
from examples import backend_nats
from tests.test_docs import ROOT, parse

PAGE = ROOT / "docs" / "write-a-backend.md"
PYTHON = [block.code for block in parse(PAGE).blocks if block.language == "python"]


def lines(code: str) -> list[str]:
    """Return the lines that are not blank: a formatter sets the others."""
    return [line for line in code.splitlines() if line.strip()]


def test_the_page_holds_the_whole_example_as_it_is() -> None:
    source = lines(inspect.getsource(backend_nats))
    begin = next(n for n, code in enumerate(PYTHON) if lines(code)[0] == source[0])
    shown: dict[int, int] = {}
    for code in PYTHON[begin:]:
        for block in (lines(code), lines(indent(code, "    "))):
            at = places(block, source)
            assert len(at) < 2, f"this may stand in two places: {block[0]}"
            if at:
                shown[at[0]] = at[0] + len(block)
                break
        else:
            raise AssertionError(f"this is not so in the example:\n{code}")
    # Each piece begins where another ends.
    assert [0, *(shown[at] for at in sorted(shown))] == [*sorted(shown), len(source)]


def places(block: list[str], source: list[str]) -> list[int]:
    """Return where a block stands in the source."""
    ends = range(len(block), len(source) + 1)
    return [end - len(block) for end in ends if source[end - len(block) : end] == block]


@pytest.mark.soak
def test_the_backend_that_the_reader_types_is_right(tmp_path: Path) -> None:
    """From a file, as the page says: other processes can make it as well."""
    first = next(n for n, code in enumerate(PYTHON) if "class MyBackend" in code)
    make = next(code for code in PYTHON[first:] if code.startswith("def make()"))
    (tmp_path / "my_backend.py").write_text(PYTHON[first] + "\n\n" + make)
    path = os.pathsep.join([str(Path(botsessions.__file__).parents[1]), str(tmp_path)])
    checked = subprocess.run(
        [sys.executable, "-m", "botsessions.cli", "conform", "my_backend:make"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "a_kill_loses_nothing_acknowledged" in checked.stdout.replace(" ", "_")
