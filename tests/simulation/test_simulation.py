"""Thousands of seeded runs of the real engine; see ``plans`` for what they try.

A failure names its seed and the command that plays it again, event by event. Each plan
is played ``SIMULATION_RUNS`` (60) times; ``soak`` goes on for minutes or hours, with
seeds of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.simulation import report
from tests.simulation.plans import PLANS, seeds_of
from tests.simulation.replay import command_of_seed, reproducible
from tests.simulation.report import Report
from tests.simulation.schedule import Plan, play

if TYPE_CHECKING:
    from tests.simulation.conftest import Counts

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_every_answer_is_true(plan: Plan, counts: Counts) -> None:
    runs = int(os.environ.get("SIMULATION_RUNS", "60"))
    played = Report()
    for seed in seeds_of(plan, runs):
        with reproducible(command_of_seed, seed):
            played.add(play(plan, seed))
    report.add(counts.played, {plan.name: played})
    assert report.shortcomings(plan, played) == []


def transcript(*seeds: int, hash_seed: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *map(str, seeds)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,  # a broken run must be the same, too
    ).stdout


def test_a_seed_plays_the_same_run_in_every_process() -> None:
    seeds = range(len(PLANS))
    first = transcript(*seeds, hash_seed="1")
    assert first.count("\n") > 100 * len(PLANS)
    assert first == transcript(*seeds, hash_seed="2")


def test_two_seeds_play_different_runs() -> None:
    one, other = transcript(0, hash_seed="1"), transcript(len(PLANS), hash_seed="1")
    assert one != other
