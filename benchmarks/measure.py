"""Runs rivals in turn and compares them round by round.

A figure is the median of the rounds' ratios, with their range: two rivals of one round
met the same machine. Absolute figures are printed for orientation only.
"""

from __future__ import annotations

import asyncio
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


async def drive(
    update: Callable[[int], Awaitable[object]], callers: int, each: int, spread: int
) -> Run:
    """Let callers update so many keys in turn, each in an order of its own."""
    latencies: list[float] = []

    async def caller(start: int) -> None:
        number = start * 7919
        for _ in range(each):
            number = (number + 4973) % spread
            called = time.perf_counter()
            await update(number)
            latencies.append(time.perf_counter() - called)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for start in range(callers):
            group.create_task(caller(start))
    return Run(callers * each, time.perf_counter() - started, latencies)


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """So many callers on so many keys, the calls of each rival, and the target."""

    what: str
    callers: int
    ours_each: int
    theirs_each: int
    keys: int
    target: float


async def compare(
    ours: Callable[[int], Awaitable[object]],
    theirs: Callable[[int], Awaitable[object]],
    loads: Sequence[Load],
    rounds: int,
) -> list[Row]:
    """Compare the throughput of two rivals under each load."""
    rows = []
    for load in loads:

        async def run_ours(load: Load = load) -> Run:
            return await drive(ours, load.callers, load.ours_each, load.keys)

        async def run_theirs(load: Load = load) -> Run:
            return await drive(theirs, load.callers, load.theirs_each, load.keys)

        runs = await alternate({"ours": run_ours, "theirs": run_theirs}, rounds)
        rows.append(ratio(load.what, runs["ours"], runs["theirs"], load.target))
    return rows


def ratio(  # noqa: PLR0913 - two rivals, and what is held against what
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
