"""Counts what the simulation played, and says so at the end (``-v`` for the tables).

Where the tests are shared out to several processes (pytest-xdist) each counts for
itself, and the one that shared them out adds it all up.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.simulation.schedule import Plan, Report


@dataclasses.dataclass(slots=True)
class Played:
    """Runs, outcomes of calls, and longest waits, by plan; and mutants caught."""

    runs: Counter[str] = dataclasses.field(default_factory=Counter)
    outcomes: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    slowest: dict[str, float] = dataclasses.field(default_factory=dict)
    catches: list[str] = dataclasses.field(default_factory=list)
    happened: Counter[str] = dataclasses.field(default_factory=Counter)
    soaked: list[str] = dataclasses.field(default_factory=list)

    def add(self, plan: Plan, report: Report) -> None:
        """Count one run."""
        self.runs[plan.name] += 1
        self.outcomes.setdefault(plan.name, Counter()).update(report.outcomes)
        self.slowest[plan.name] = max(self.slowest.get(plan.name, 0), report.slowest)
        self.happened += report.happened

    def merge(self, other: dict[str, Any]) -> None:
        """Count what another process has played."""
        self.runs.update(other["runs"])
        for name, outcomes in other["outcomes"].items():
            self.outcomes.setdefault(name, Counter()).update(outcomes)
        for name, slowest in other["slowest"].items():
            self.slowest[name] = max(self.slowest.get(name, 0), slowest)
        self.catches += other["catches"]
        self.happened.update(other["happened"])
        self.soaked += other["soaked"]

    def summary(self) -> str:
        """Return one line about all of it."""
        total: Counter[str] = sum(self.outcomes.values(), Counter())
        counts = ", ".join(f"{count:,} {name}" for name, count in total.most_common())
        parts = []
        if self.runs:
            parts.append(
                f"{self.runs.total():,} runs, {total.total():,} calls: {counts}"
            )
        if self.happened:
            parts += [f"{n:,} {what}" for what, n in self.happened.most_common()]
        if self.catches:
            parts.append(f"{len(self.catches)} mutants caught")
        return "\n".join(["; ".join(parts), *self.soaked]).strip()

    def tables(self) -> list[str]:
        """Return a line for each plan, and one for each mutant."""
        lines = []
        for name, runs in self.runs.items():
            counts = self.outcomes[name].most_common()
            shown = ", ".join(f"{count:,} {outcome}" for outcome, count in counts)
            wait = self.slowest[name]
            lines.append(f"{name:<28}{runs:>6,} runs, at most {wait:6.2f} s: {shown}")
        return [*lines, *self.catches]


_played = pytest.StashKey[Played]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count."""
    config.stash[_played] = Played()


@pytest.fixture(scope="session")
def played(pytestconfig: pytest.Config) -> Played:
    """Return what was played so far."""
    return pytestconfig.stash.setdefault(_played, Played())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what was played, if another process asks for it."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        played = session.config.stash[_played]
        output["played"] = {
            "runs": dict(played.runs),
            "outcomes": {plan: dict(found) for plan, found in played.outcomes.items()},
            "slowest": played.slowest,
            "catches": played.catches,
            "happened": dict(played.happened),
            "soaked": played.soaked,
        }


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what another process has played."""
    output = getattr(node, "workeroutput", {})
    if "played" in output:
        node.config.stash[_played].merge(output["played"])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was played."""
    played = config.stash.get(_played, Played())
    if summary := played.summary():
        terminalreporter.section("simulation")
        # -q is in the settings: -v brings it back to 0.
        if config.get_verbosity() >= 0:
            for line in played.tables():
                terminalreporter.line(line)
        terminalreporter.line(summary)
