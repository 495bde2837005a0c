"""Play seeds that nobody has played before, on all processors, for some minutes.

The seeds go on from where they begin, in slices that whoever is free takes next. What
breaks a law is told at once, with the command that plays it again, and the others go
on: one failure hides no other.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import time
import traceback
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from tests.simulation import locks, report
from tests.simulation.plans import PLANS, plan_of
from tests.simulation.replay import command_of_seed
from tests.simulation.schedule import play

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.simulation.mutants import Mutant
    from tests.simulation.report import Played

LOCKS = "locks"
# So many seeds of the plans are a slice, with so many of locks, each of which takes as
# long as some ten; together a second or two.
_SLICE, _LOCKS = len(PLANS), 3
# So many failures tell enough.
_ENOUGH = 20


@dataclasses.dataclass(slots=True)
class Soaked:
    """What was played, by plan, and what failed: what it said, how to see it again."""

    played: Played = dataclasses.field(default_factory=dict)
    failures: list[str] = dataclasses.field(default_factory=list)

    def line(self) -> str:
        """Return in one line how it goes."""
        whole = report.total(self.played)
        return (
            f"{whole.outcomes.total():,} calls, {whole.runs:,} runs, "
            f"{whole.outcomes['unknown']:,} unknown, {len(self.failures):,} failures"
        )

    def judge(self) -> None:
        """Add in what a plan fell short of, in all its runs, if they are enough."""
        for plan in PLANS:
            played = self.played.get(plan.name)
            if played is not None and played.runs >= report.ENOUGH_RUNS:
                self.failures += report.shortcomings(plan, played)


def soak(
    minutes: float,
    begin: int,
    tell: Callable[[str], None],
    *,
    soaked: Soaked,
    processors: int | None = None,
    mutant: Mutant | None = None,
) -> None:
    """Play seeds from ``begin`` on, and add what came of them to ``soaked``.

    Each failure is told at once, and once a minute how it goes. A ``mutant`` is
    planted, if there is one.
    """
    began = time.monotonic()
    end, next_line = began + 60 * minutes, began + 60
    processors = processors or os.cpu_count() or 1
    # Fresh processes, with nothing of the tests' going on, and nothing logged: that a
    # lock was lost is news to an operator, and here on purpose.
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processors, fresh, logging.disable) as pool:
        under_way: set[Future[Soaked]] = set()
        slices = 0
        try:
            while len(soaked.failures) < _ENOUGH:
                while len(under_way) < processors and (
                    slices < processors or time.monotonic() < end
                ):
                    with _deaf():
                        future = pool.submit(play_slice, begin, slices, mutant)
                    under_way.add(future)
                    slices += 1
                if not under_way:
                    break
                done, under_way = concurrent.futures.wait(
                    under_way, 1, concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    _add(soaked, future.result(), tell)
                if time.monotonic() >= next_line:
                    tell(f"{(time.monotonic() - began) / 60:.0f} min: {soaked.line()}")
                    next_line += 60
        except KeyboardInterrupt:
            for future in under_way:  # soon done
                _add(soaked, future.result(), tell)
            raise
        except BrokenProcessPool:
            soaked.failures.append("a process that played was killed, or died")
            tell(soaked.failures[-1])


def play_slice(begin: int, number: int, mutant: Mutant | None = None) -> Soaked:
    """Play some of the seeds that begin somewhere."""
    soaked = Soaked()
    with contextlib.nullcontext() if mutant is None else mutant.planted():
        first = begin + number * _SLICE
        for seed in range(first, first + _SLICE):
            plan = plan_of(seed)
            with _kept(soaked, plan.name, seed):
                report.add(soaked.played, {plan.name: play(plan, seed)})
        # These are counted apart, so that all kinds of them come up: they take turns.
        first = begin + number * _LOCKS
        for seed in range(first, first + _LOCKS):
            with _kept(soaked, LOCKS, seed, "--locks"):
                report.add(soaked.played, {LOCKS: locks.play(seed)})
    return soaked


@contextlib.contextmanager
def _kept(soaked: Soaked, plan: str, seed: int, *options: str) -> Iterator[None]:
    """Keep what fails in here, with the command that plays it again."""
    try:
        yield
    except Exception as failure:  # noqa: BLE001 - whatever it is, it is told
        said = "".join(traceback.format_exception_only(failure)).strip()
        command = command_of_seed(seed, *options)
        soaked.failures.append(f"plan {plan!r}: {said}\nto see it happen: {command}")


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Let processes that are started in here leave Ctrl-C to us."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _add(soaked: Soaked, more: Soaked, tell: Callable[[str], None]) -> None:
    report.add(soaked.played, more.played)
    soaked.failures += more.failures
    for failure in more.failures:
        tell(failure)
