"""Runs rivals in turn and compares them round by round.

A figure is the median of the rounds' ratios, with their range: two rivals of one round
met the same machine. Absolute figures are printed for orientation only.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What one rival did in one round."""

    operations: int
    seconds: float
    latencies: Sequence[float] = ()

    @property
    def speed(self) -> float:
        return self.operations / self.seconds

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: a figure, its range, and the target it is held to."""

    what: str
    value: float
    low: float
    high: float
    target: float
    at_least: bool
    unit: str = "x"
    note: str = ""

    def __str__(self) -> str:
        met = self.value >= self.target if self.at_least else self.value <= self.target
        sign = "≥" if self.at_least else "≤"
        return (
            f"{'  ' if met else '✗ '}{self.what:<58}{self.value:9.2f}{self.unit:<3}"
            f" ({self.low:.2f} to {self.high:.2f})  target {sign} {self.target:g}"
            f"{self.unit}  {self.note}"
        )


async def alternate(
    rivals: Mapping[str, Callable[[], Awaitable[Run]]], rounds: int
) -> dict[str, list[Run]]:
    """Run each rival once a round, the order turned each time; one round to warm up."""
    runs: dict[str, list[Run]] = {name: [] for name in rivals}
    names = list(rivals)
    for number in range(rounds + 1):
        for name in names:
            gc.collect()
            run = await rivals[name]()
            if number:
                runs[name].append(run)
        names.append(names.pop(0))
    return runs


def ratio(  # noqa: PLR0913
    what: str,
    ours: Sequence[Run],
    theirs: Sequence[Run],
    target: float,
    *,
    of: Callable[[Run], float] = lambda run: run.speed,
    at_least: bool = True,
) -> Row:
    """Compare two rivals round by round."""
    ratios = [of(a) / of(b) for a, b in zip(ours, theirs, strict=True)]
    note = f"[{rate(ours)} : {rate(theirs)}]"
    return Row(
        what,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        target,
        at_least,
        note=note,
    )


def figure(what: str, values: Sequence[float], target: float, unit: str) -> Row:
    """Report a figure of ours alone that must stay below a bound."""
    return Row(
        what,
        statistics.median(values),
        min(values),
        max(values),
        target,
        at_least=False,
        unit=unit,
    )


def rate(runs: Sequence[Run]) -> str:
    return f"{statistics.median(run.speed for run in runs):,.0f}/s"


async def timed(operations: int, work: Awaitable[object]) -> Run:
    started = time.perf_counter()
    await work
    return Run(operations, time.perf_counter() - started)


def say(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
