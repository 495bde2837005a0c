"""Hunt a mutant: play seeds with it planted until a judge notices."""

from __future__ import annotations

import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.simulation import locks
from tests.simulation.plans import plan_named, seeds_of
from tests.simulation.schedule import play

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.simulation.mutants import Mutant


class Catch(NamedTuple):
    """Who noticed a mutant, on which seed, after how many, and with what words."""

    mutant: str
    plan: str
    judge: str
    seed: int
    seeds: int
    seconds: float
    words: str

    def __str__(self) -> str:
        words = self.words if len(self.words) <= 60 else self.words[:59] + "…"
        return (
            f"{self.mutant:<52}{self.plan:<27}{self.judge:<17}"
            f"{self.seeds:>3} seeds {self.seconds:6.2f} s  {words}"
        )


def hunt(mutant: Mutant, most: int) -> Catch | None:
    """Return how a mutant was caught within so many seeds of its plan, or None."""
    plan = plan_named(mutant.plan)
    return _hunt(mutant, partial(play, plan), seeds_of(plan, most))


def hunt_by_locks(mutant: Mutant, most: int) -> Catch | None:
    """Return how a mutant of locks was caught within so many seeds, or None."""
    return _hunt(mutant, locks.play, range(most))


def _hunt(
    mutant: Mutant, played: Callable[[int], object], seeds: Iterable[int]
) -> Catch | None:
    began = time.perf_counter()
    with mutant.planted():
        for count, seed in enumerate(seeds, 1):
            try:
                played(seed)
            except AssertionError as noticed:
                return Catch(
                    mutant.name,
                    mutant.plan,
                    _judge(noticed),
                    seed,
                    count,
                    time.perf_counter() - began,
                    str(noticed).splitlines()[0],
                )
    return None


def _judge(noticed: AssertionError) -> str:
    """Return the module that raised it."""
    frames = traceback.extract_tb(noticed.__traceback__)
    return Path(frames[-1].filename).stem
