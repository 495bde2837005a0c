"""Counts what the simulation played, and says so at the end (``-v`` for the tables).

Where the tests are shared out to several processes (pytest-xdist) each counts for
itself, and the one that shared them out adds it all up (``report``).
"""

from __future__ import annotations

import dataclasses
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from tests.simulation import report

if TYPE_CHECKING:
    from tests.simulation.report import Played


@dataclasses.dataclass(slots=True)
class Counts:
    """What was played, by plan, and which mutants were caught."""

    played: Played = dataclasses.field(default_factory=dict)
    catches: list[str] = dataclasses.field(default_factory=list)


_counts = pytest.StashKey[Counts]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count."""
    config.stash[_counts] = Counts()


@pytest.fixture(scope="session")
def counts(pytestconfig: pytest.Config) -> Counts:
    """Return what was played so far."""
    return pytestconfig.stash.setdefault(_counts, Counts())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what was played, if another process asks for it."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["played"] = pickle.dumps(session.config.stash[_counts])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what another process has played."""
    output = getattr(node, "workeroutput", {})
    if "played" in output:
        theirs = pickle.loads(output["played"])  # noqa: S301 - our own
        ours = node.config.stash[_counts]
        report.add(ours.played, theirs.played)
        ours.catches += theirs.catches


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what was played."""
    counts = config.stash.get(_counts, Counts())
    if not counts.played and not counts.catches:
        return
    terminalreporter.section("simulation")
    # -q is in the settings: -v brings it back to 0.
    if config.get_verbosity() >= 0:
        for line in [*report.table(counts.played), *counts.catches]:
            terminalreporter.line(line)
    if counts.played:
        for line in report.summary(counts.played):
            terminalreporter.line(line)
    if counts.catches:
        terminalreporter.line(f"{len(counts.catches)} mutants caught")
