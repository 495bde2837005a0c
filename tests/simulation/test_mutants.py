"""A check that catches nothing is none: each planted fault must be caught."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.simulation.hunt import hunt
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.plans import plan_named
from tests.simulation.schedule import play

if TYPE_CHECKING:
    from tests.simulation.conftest import Counts

MOST_SEEDS = 150


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_caught(mutant: Mutant, counts: Counts) -> None:
    catch = hunt(mutant, MOST_SEEDS)
    assert catch is not None, f"survived {MOST_SEEDS} seeds of plan {mutant.plan!r}"
    counts.catches.append(str(catch))


def test_a_mutant_leaves_nothing_behind() -> None:
    mutant = MUTANTS[0]
    catch = hunt(mutant, MOST_SEEDS)
    assert catch is not None
    play(plan_named(mutant.plan), catch.seed)


def test_a_mutant_whose_snippet_is_gone_is_an_error() -> None:
    stale = Mutant("stale", PLAN, "botsessions.record", {"no such text": "pass"})
    with pytest.raises(AssertionError, match="needs care"):
        hunt(stale, 1)


def test_a_mutant_that_changes_nothing_is_not_caught() -> None:
    snippet = "return token + record.ring"
    same = Mutant("same", PLAN, "botsessions.record", {snippet: snippet})
    assert hunt(same, 3) is None


PLAN = "several processes"
