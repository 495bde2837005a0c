"""Play seeds that nobody has played before, on all processors, for some minutes.

Each processor plays seeds of its own, in turn. What breaks a law is kept, with the
command that plays it again, and the others go on: one failure hides no other.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import random
import time
import traceback
from collections import Counter

from tests.simulation import locks
from tests.simulation.plans import plan_of
from tests.simulation.replay import command_of_seed
from tests.simulation.schedule import play

# After so many seeds of the plans comes one of locks, which takes as long as some ten.
_LOCKS_AFTER = 40
# One processor that finds so many failures need not go on.
_ENOUGH = 5


@dataclasses.dataclass(slots=True)
class Soaked:
    """What was played, and what failed: what it said, and how to see it again."""

    runs: int = 0
    outcomes: Counter[str] = dataclasses.field(default_factory=Counter)
    happened: Counter[str] = dataclasses.field(default_factory=Counter)
    landed: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: Soaked) -> None:
        """Count what another processor has played."""
        self.runs += other.runs
        self.outcomes += other.outcomes
        self.happened += other.happened
        self.landed += other.landed
        self.failures += other.failures

    def lines(self) -> list[str]:
        """Return what to tell."""
        size = f"{self.runs:,} runs, {self.outcomes.total():,} calls"
        return [
            f"{size}, {self.landed:,} writes landed, {len(self.failures)} failures",
            "calls: " + _listed(self.outcomes),
            "faults: " + _listed(self.happened),
            *self.failures,
        ]


def soak(minutes: float, processors: int | None = None) -> Soaked:
    """Play new seeds; which they are is drawn, and told by each failure."""
    processors = processors or os.cpu_count() or 1
    begin = random.SystemRandom().randrange(10**6, 10**9)
    work = [(begin + number, processors, 60 * minutes) for number in range(processors)]
    total = Soaked()
    # Fresh processes, with nothing of the tests' going on, and nothing logged: that a
    # lock was lost is news to an operator, and here on purpose.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processors, initializer=logging.disable) as pool:
        for soaked in pool.starmap(play_for, work):
            total.add(soaked)
    return total


def play_for(seed: int, stride: int, seconds: float) -> Soaked:
    """Play a seed, and on in strides, until the time is over."""
    soaked, end = Soaked(), time.monotonic() + seconds
    while time.monotonic() < end and len(soaked.failures) < _ENOUGH:
        _play(soaked, seed)
        if not soaked.runs % _LOCKS_AFTER:
            _play_locks(soaked, seed)
        seed += stride
    return soaked


def _play(soaked: Soaked, seed: int) -> None:
    plan = plan_of(seed)
    soaked.runs += 1
    try:
        report = play(plan, seed)
    except Exception as failure:  # noqa: BLE001 - whatever it is, it is told
        soaked.failures.append(_told(plan.name, failure, command_of_seed(seed)))
    else:
        soaked.outcomes += report.outcomes
        soaked.happened += report.happened
        soaked.landed += report.landed


def _play_locks(soaked: Soaked, seed: int) -> None:
    soaked.runs += 1
    try:
        world = locks.play(seed)
    except Exception as failure:  # noqa: BLE001 - as above
        command = command_of_seed(seed, "--locks")
        soaked.failures.append(_told("locks", failure, command))
    else:
        soaked.outcomes["done"] += world.acknowledged
        soaked.landed += world.server.count


def _told(plan: str, failure: Exception, command: str) -> str:
    said = "".join(traceback.format_exception_only(failure)).strip()
    return f"plan {plan!r}: {said}\nto see it happen: {command}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
