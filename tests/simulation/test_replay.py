"""What a failure says of itself: the command is copied, run, and shows the failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import locks
from tests.simulation.hunt import hunt
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.replay import (
    STEP,
    command,
    command_of_seed,
    command_of_step,
    reproducible,
)

ROOT = Path(__file__).parents[2]
SLOWEST = "told that it was too late, and applied all the same"


def named(name: str, mutants: list[Mutant]) -> Mutant:
    [mutant] = [mutant for mutant in mutants if mutant.name == name]
    return mutant


def run(command: str) -> subprocess.CompletedProcess[str]:
    """Run what was printed, as it is, where one has cloned to."""
    return subprocess.run(
        ["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_command_of_a_seed_shows_what_was_caught() -> None:
    mutant = named(SLOWEST, MUTANTS)
    catch = hunt(mutant, 150)
    assert catch is not None
    shown = run(command_of_seed(catch.seed, "--mutant", mutant.name))
    assert shown.returncode == 1
    assert shown.stdout.count("\n") > 20
    assert f"BROKEN: {catch.words}" in shown.stdout
    assert "fine" in run(command_of_seed(catch.seed)).stdout


def test_the_command_of_a_seed_of_locks_shows_what_was_caught() -> None:
    mutant = locks.MUTANTS[0]
    with mutant.planted():
        for seed in range(200):
            try:
                locks.play(seed)
            except AssertionError as noticed:
                words = str(noticed).splitlines()[0]
                break
    shown = run(command_of_seed(seed, "--locks", "--mutant", mutant.name))
    assert shown.returncode == 1
    assert f"BROKEN: {words}" in shown.stdout
    assert "fine" in run(command_of_seed(seed, "--locks")).stdout


def test_a_failure_carries_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    test = "tests/simulation/test_cancellation.py::test_it[a hot key-None]"
    monkeypatch.setenv("PYTEST_CURRENT_TEST", f"{test} (call)")
    with pytest.raises(AssertionError) as noticed, reproducible(command_of_step, 17):
        raise AssertionError("so it is")
    again = command_of_step(17)
    assert noticed.value.__notes__ == [f"to see it happen: {again}"]
    assert again.startswith(f"{STEP}=17 ")
    assert again.endswith(f"python -m pytest -n 0 '{test}'")


def test_a_command_is_of_the_python_that_prints_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert command("this") == f"{sys.executable} -m this".removeprefix(f"{ROOT}/")
    monkeypatch.setattr(sys, "executable", str(ROOT / ".venv/test/3.13/bin/python"))
    assert command("this", "a b") == ".venv/test/3.13/bin/python -m this 'a b'"


def test_the_command_of_a_step_plays_that_step_alone() -> None:
    test = "test_cancellation.py::test_a_caller_is_cancelled[one update-None]"
    words = command("pytest", "-rP", "-n", "0", f"tests/simulation/{test}")
    shown = run(f"{STEP}=9999 {words}").stdout
    assert "1 passed" in shown
    # Before it, for it, and after it, once each.
    assert shown.count("process     calls #") == 3
