"""What a failure says of itself: the command is copied, run, and shows the failure."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation import locks, soak
from tests.simulation.hunt import hunt
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.replay import (
    STEP,
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
    """Run what was printed, with the interpreter of these tests."""
    words = shlex.split(command)
    settings = dict(word.split("=") for word in words if word.startswith(STEP))
    return subprocess.run(
        [sys.executable, *words[words.index("python") + 1 :]],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
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
    command = command_of_step(17)
    with pytest.raises(AssertionError) as noticed, reproducible(command):
        raise AssertionError("so it is")
    assert noticed.value.__notes__ == [f"to see it happen: {command}"]
    assert command == f"{STEP}=17 python -m pytest -n 0 '{test}'"


def test_the_command_of_a_step_plays_that_step_alone() -> None:
    test = "test_cancellation.py::test_a_caller_is_cancelled[one update-None]"
    command = f"{STEP}=9999 python -m pytest -rP -n 0 'tests/simulation/{test}'"
    shown = run(command).stdout
    assert "1 passed" in shown
    # Before it, for it, and after it, once each.
    assert shown.count("process     calls #") == 3


def test_a_soak_goes_on_after_a_failure_and_tells_how_to_see_it() -> None:
    with named("unknown taken for success", MUTANTS).planted():
        soaked = soak.play_for(0, 1, 30.0)
    assert len(soaked.failures) == 5
    assert soaked.runs > 5
    assert all("python -m tests.simulation " in told for told in soaked.failures)
    assert all(told in soaked.lines() for told in soaked.failures)


def test_a_soak_counts_what_it_plays_on_each_processor() -> None:
    soaked = soak.soak(0.01, processors=2)
    assert soaked.failures == []
    assert soaked.runs >= 2
    assert soaked.outcomes.total() > soaked.runs
    assert f"{soaked.runs:,} runs, " in soaked.lines()[0]
