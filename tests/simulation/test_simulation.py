"""Thousands of seeded runs of the real engine; see ``plans`` for what they try.

A failure names its seed and the command that plays it again, event by event. Each plan
is played ``SIMULATION_RUNS`` (150) times; the long form (``make soak``) goes on for
``SIMULATION_MINUTES`` (5) with seeds of its own.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.simulation.plans import PLANS, plan_of, seeds_of
from tests.simulation.schedule import Plan, play

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.conftest import Played

ROOT = Path(__file__).parents[2]


def play_all(seeds: Iterator[int], played: Played) -> None:
    for seed in seeds:
        plan = plan_of(seed)
        try:
            report = play(plan, seed)
        except AssertionError as failure:
            failure.add_note(
                f"seed {seed}, plan {plan.name!r}; to see it happen: "
                f"python -m tests.simulation {seed}"
            )
            raise
        played.add(plan, report)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_every_answer_is_true(plan: Plan, played: Played) -> None:
    runs = int(os.environ.get("SIMULATION_RUNS", "150"))
    play_all(seeds_of(plan, runs), played)
    outcomes = played.outcomes[plan.name]
    assert outcomes["unknown"] <= plan.unknown * outcomes.total()


@pytest.mark.soak
def test_every_answer_is_true_for_minutes(played: Played) -> None:
    begin = random.SystemRandom().randrange(10**6, 10**9)
    end = time.monotonic() + 60 * float(os.environ.get("SIMULATION_MINUTES", "5"))

    def seeds() -> Iterator[int]:
        seed = begin
        while time.monotonic() < end:
            yield seed
            seed += 1

    play_all(seeds(), played)


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
