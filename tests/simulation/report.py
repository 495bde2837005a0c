"""What was played, added up: a run, all runs of a plan, or hours of a soak.

``schedule`` makes a ``Report`` of each run. Those who play many (the tests, ``soak``)
add them up by plan, and ask what a plan has fallen short of: faults that never happened
prove nothing.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.simulation.schedule import Plan

# In fewer runs of a plan than these something may well not happen, or too often.
ENOUGH_RUNS = 40


@dataclasses.dataclass(slots=True)
class Report:
    """Runs, calls by outcome, writes that landed, the longest wait, what happened.

    ``happened`` counts faults, and what there is to see of them.
    """

    runs: int = 0
    outcomes: Counter[str] = dataclasses.field(default_factory=Counter)
    landed: int = 0
    slowest: float = 0.0
    happened: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, other: Report) -> None:
        """Count what was played elsewhere, or before."""
        self.runs += other.runs
        self.outcomes.update(other.outcomes)
        self.landed += other.landed
        self.slowest = max(self.slowest, other.slowest)
        self.happened.update(other.happened)


Played: TypeAlias = dict[str, Report]


def add(played: Played, other: Mapping[str, Report]) -> None:
    """Count what was played elsewhere, or before, plan by plan."""
    for name, report in other.items():
        played.setdefault(name, Report()).add(report)


def total(played: Played) -> Report:
    """Return all of it as one."""
    whole = Report()
    for report in played.values():
        whole.add(report)
    return whole


def shortcomings(plan: Plan, report: Report) -> list[str]:
    """Return in what the runs of a plan, taken together, are not as it says."""
    found = []
    unknown, calls = report.outcomes["unknown"], report.outcomes.total()
    if unknown > plan.unknown * calls:
        found.append(f"{unknown:,} of {calls:,} calls are of unknown outcome")
    if report.runs >= ENOUGH_RUNS:
        never = sorted(kind for kind in plan.kinds() if not report.happened[kind])
        found += [f"never happened: {kind}" for kind in never]
    return [f"plan {plan.name!r}: {what}" for what in found]


def table(played: Played) -> list[str]:
    """Return a line for each plan."""
    return [
        f"{name:<45}{report.runs:>7,} runs, at most {report.slowest:6.2f} s: "
        + listed(report.outcomes)
        for name, report in sorted(played.items())
    ]


def summary(played: Played) -> list[str]:
    """Return what to tell of all of it in a few lines."""
    whole = total(played)
    size = f"{whole.runs:,} runs, {whole.outcomes.total():,} calls"
    return [
        f"{size}, {whole.landed:,} writes landed",
        "calls: " + listed(whole.outcomes),
        "happened: " + listed(whole.happened),
    ]


def listed(counts: Counter[str]) -> str:
    """Return counts as text, the largest first."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
